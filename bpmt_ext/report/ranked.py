"""A tested run's embeddings and results in; its CMC curves, and the probes it got most wrong with their answers, out.

The protocol is repeated from what results.json says of it. Shapes: n sequences, b probes, m gallery entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from bpmt_ext.errors import UserError
from bpmt_ext.metrics.figures import Ranking, ranking_values
from bpmt_ext.metrics.protocols import PROTOCOLS
from bpmt_ext.metrics.ranking import METRICS, Embedded, compare, rank
from bpmt_ext.metrics.roster import Chosen, Pairs, Roster, choose, make_roster
from bpmt_ext.metrics.rules import find_row
from bpmt_ext.report.runfolder import RunFolder

PLACES = 20
_MOST_PAIRS = 2 * 10**8  # of probe and gallery entry; of more, some probes are left out


@dataclass(frozen=True)
class Curve:
    """Percent of probes (PLACES,) whose identity is among the first k. probes: how many were counted, of `total`."""

    name: str
    percent: np.ndarray
    probes: int
    total: int


@dataclass(frozen=True)
class Answer:
    """One gallery entry that a probe was answered with."""

    index: int
    distance: float
    right: bool


@dataclass(frozen=True)
class Hard:
    """A probe, its average precision, the place of the first right entry among the `gallery` ones, and its answers."""

    index: int
    ap: float
    first: int
    gallery: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Test:
    """The test of a run, ready to be ranked again. x: its embeddings."""

    run: RunFolder
    x: Embedded
    metric: str
    roster: Roster
    figure: Ranking
    rule: str
    chosen: list[Chosen]


def read_test(run: RunFolder) -> Test | str:
    """The test that results.json and the arrays beside it tell of, or the sentence that says why there is none."""
    results, found = run.results, run.embeddings
    if results is None or found is None or run.per_probe is None:
        lacking = next(name for name, one in (("results.json", results), ("embeddings.npz", found),
                                              ("per_probe.npz", run.per_probe)) if one is None)  # fmt: skip
        return f"{lacking} is not there, or cannot be read: run bpmt test, which writes it"
    name, metric = str(results.get("protocol")), str(results.get("metric"))
    if name not in PROTOCOLS or metric not in METRICS:
        return f"results.json tells of a protocol ({name}, {metric}) that is not known here"
    labels, types, views = (found[key].tolist() for key in ("labels", "types", "views"))
    try:
        _, row = find_row(name, str(results.get("dataset")), bool(results.get("cross_view_gallery", False)))
        camera = row.camera or str(results.get("camera"))
        used = np.unique(run.per_probe["index"])
        listed = [f"{labels[i]}-{types[i]}-{views[i]}" for i in used] if len(used) < len(labels) else None
        roster = make_roster(name, labels, types, views, camera=camera, probes=listed, need=row.probes)
        chosen = [choose(name, condition, roster) for condition in row.conditions]
    except UserError as error:
        return str(error)
    figure = next(one for one in row.figures if isinstance(one, Ranking))
    rule = figure.same_camera or str(results.get("same_camera"))
    if rule not in ("keep", "drop", "drop_all"):
        return f"results.json tells of a camera rule ({rule}) that is not known here"
    return Test(run, Embedded(found["embeddings"], metric), metric, roster, figure, rule, chosen)


def curves(test: Test) -> list[Curve]:
    """One CMC curve for each condition of the protocol, over all its probes together."""
    found = []
    for chosen in test.chosen:
        probe = chosen.probe
        most = max(1, _MOST_PAIRS // max(1, len(chosen.gallery)))
        if len(probe) > most:
            probe = probe[np.linspace(0, len(probe) - 1, most).round().astype(int)]
        values = ranking_values(test.x, test.roster, replace(chosen, probe=probe), test.rule)
        counted = len(probe) if test.figure.every_probe else int(values["valid"].sum())
        if not counted:
            continue
        first = values["first"][values["valid"]]
        percent = 100 * np.bincount(np.minimum(first, PLACES + 1), minlength=PLACES + 2)[1:-1].cumsum() / counted
        found.append(Curve(chosen.name, percent, counted, len(chosen.probe)))
    return found


def hardest(test: Test, count: int, answers: int = 5) -> list[Hard]:
    """The `count` probes of the first condition with the lowest average precision, one a person as far as that goes."""
    chosen, rows = test.chosen[0], test.run.per_probe
    own = np.flatnonzero((rows["condition"] == chosen.name) & rows["valid"].astype(bool) & np.isfinite(rows["ap"]))
    order = own[np.lexsort((rows["index"][own], rows["ap"][own]))]
    picked = spread(order, rows["label"][order], count)
    index = rows["index"][picked]
    if not len(index):
        return []
    few = replace(chosen, probe=index)
    match, keep = Pairs(test.roster, few, test.rule).block(slice(None))
    distance = compare(test.x.rows(np.asarray(index)), test.x.rows(chosen.gallery), test.metric)
    first = rank(distance, match, keep)["first"]
    distance = distance.masked_fill(~keep, torch.inf)
    found = []
    for i, row in enumerate(picked):
        nearest = distance[i].sort(stable=True).indices[: min(answers, int(keep[i].sum()))]
        told = tuple(Answer(int(chosen.gallery[j]), float(distance[i, j]), bool(match[i, j])) for j in nearest.tolist())
        found.append(Hard(int(index[i]), float(rows["ap"][row]), int(first[i]), int(keep[i].sum()), told))
    return found


def spread(order: np.ndarray, labels: Sequence[str], count: int) -> np.ndarray:
    """The first of each label in turn, then the others; `count` of them."""
    first = np.zeros(len(order), dtype=bool)
    first[np.unique(labels, return_index=True)[1]] = True
    return np.concatenate([order[first], order[~first]])[:count]
