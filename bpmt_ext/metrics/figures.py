"""One condition of a protocol and its embeddings in; per-probe values and the figures averaged from them out.

Two kinds of figure (specs/protocols.md, section 4): `Ranking`, every probe against the whole gallery; `Matrix`, every
view of the probes against every view of the gallery. Both come in two conventions for missing sequences: over all
probes (one without a match counts as never found) and over the matched ones only. Letters: b probes, m gallery entries,
v views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from bpmt_ext.metrics.ranking import Embedded, blocks, compare, first_match, rank, rank_stream
from bpmt_ext.metrics.roster import Chosen, Pairs, Roster

PLACES = (1, 5, 10, 20)
CONVENTIONS = ("all", "matched")


@dataclass(frozen=True)
class Ranking:
    """Rank-k, mAP and mINP of every probe against its gallery.

    prefix: stands before the names of the metrics. same_camera: which gallery entries a probe does not see; None leaves
    it to the caller. every_probe: Rank-k counts probes without a match as missed; else, and for mAP and mINP always,
    they are left out. by_view: the mean over the probes' views of each view's figure. digits: decimals to which the
    figures (by_view: of every view) are rounded.
    """

    prefix: str = ""
    same_camera: str | None = "keep"
    every_probe: bool = False
    by_view: bool = False
    digits: int | None = None


@dataclass(frozen=True)
class Matrix:
    """Rank-k of the probes of each view against the gallery of each view, rounded to `digits` decimals; the mean over
    probe views of the mean over the other gallery views. Probes without a match count as missed."""

    prefix: str = ""
    digits: int = 2


_STREAMED = 1024  # probes that a gallery is read for at a time


def ranking_values(x: Embedded, roster: Roster, chosen: Chosen, same_camera: str) -> dict[str, np.ndarray]:
    """Embeddings of n sequences -> what `rank` gives of every probe: valid, first, ap, inp (b,)."""
    pairs, probes, entries = Pairs(roster, chosen, same_camera, x.device), len(chosen.probe), len(chosen.gallery)
    found = []
    if x.whole is None:
        for b in (slice(start, start + _STREAMED) for start in range(0, probes, _STREAMED)):
            found.append(rank_stream(
                x.rows(chosen.probe[b]), lambda part: x.rows(chosen.gallery[part]), entries, x.metric,
                lambda part, b=b: pairs.block(b, part),
            ))  # fmt: skip
    else:
        probe_x, gallery_x = x.rows(chosen.probe), x.rows(chosen.gallery)
        for b in blocks(probes, entries):
            found.append(rank(compare(probe_x[:, b], gallery_x, x.metric), *pairs.block(b)))
    return {key: torch.cat([one[key] for one in found]).cpu().numpy() for key in found[0]}


def ranking_table(values: Mapping[str, np.ndarray], group: np.ndarray, convention: str) -> dict[str, np.ndarray]:
    """Values of `ranking_values`, group (b,) of every probe in 0..k-1 -> {"Rank-1": (k,), ..., "mAP", "mINP"} percent.

    NaN for a group without a probe that counts.
    """
    valid, first = values["valid"], values["first"]
    counted = np.bincount(group, weights=None if convention == "all" else valid)
    found = {f"Rank-{k}": valid & (first <= k) for k in PLACES} | {"mAP": values["ap"], "mINP": values["inp"]}
    with np.errstate(invalid="ignore"):
        return {name: 100 * np.bincount(group, weights=np.where(valid, each, 0)) / counted
                for name, each in found.items()}  # fmt: skip


def ranking_figures(
    figure: Ranking, values: Mapping[str, np.ndarray], view: np.ndarray
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """view (b,) of every probe in 0..v-1 -> the figures {"rule": by the protocol's own rule, "all", "matched": {name:
    percent}}, and by the rule the same of every view {name: (v,)}."""
    columns = {convention: ranking_table(values, view, convention) for convention in CONVENTIONS}
    kept = {name: "all" if figure.every_probe and name.startswith("Rank") else "matched" for name in columns["all"]}
    whole = np.zeros_like(view)
    tables = columns if figure.by_view else {each: ranking_table(values, whole, each) for each in CONVENTIONS}
    if figure.digits is not None:
        tables = {key: {name: column.round(figure.digits) for name, column in table.items()}
                  for key, table in tables.items()}  # fmt: skip
    out = {key: {name: float(np.nanmean(column)) for name, column in table.items()} for key, table in tables.items()}
    out["rule"] = {name: out[convention][name] for name, convention in kept.items()}
    return out, {name: columns[convention][name] for name, convention in kept.items()}


def matrix_places(x: Embedded, roster: Roster, chosen: Chosen, views: np.ndarray) -> np.ndarray:
    """Embeddings of n sequences -> (b, v) int64: place of the first match in each view's gallery, 0 for none."""
    labels = torch.as_tensor(np.unique(roster.labels, return_inverse=True)[1], device=x.device)
    probe = torch.as_tensor(chosen.probe, device=x.device)
    probe_x, columns = x.rows(chosen.probe), []
    for view in views:
        index = chosen.gallery[roster.cameras[chosen.gallery] == view]
        gallery, gallery_x, column = torch.as_tensor(index, device=x.device), x.rows(index), []
        for b in blocks(len(probe), len(gallery)):
            match = labels[probe[b], None] == labels[gallery]
            column.append(first_match(compare(probe_x[:, b], gallery_x, x.metric), match))
        columns.append(torch.cat(column).cpu().numpy())
    return np.stack(columns, axis=1)


def matrix_cells(
    first: np.ndarray, view: np.ndarray, views: int, convention: str, digits: int
) -> dict[str, np.ndarray]:
    """Places (b, v) of `matrix_places`, view (b,) of every probe in 0..v-1 -> {"Rank-1": (v, v), ...} percent, rows
    the probes' views. NaN in a cell without a probe that counts."""
    who = np.arange(views)[:, None] == view  # (v, b)
    counted = who.sum(1)[:, None] if convention == "all" else who.astype(np.float64) @ (first > 0)
    with np.errstate(invalid="ignore"):
        cells = {f"Rank-{k}": who.astype(np.float64) @ ((first > 0) & (first <= k)) * 100 / counted for k in PLACES}
    return {name: cell.round(digits) for name, cell in cells.items()}


def off_diagonal(cells: np.ndarray) -> np.ndarray:
    """(v, v), v > 1 -> (v,): mean of every row without its diagonal; NaN cells are left out."""
    kept = ~np.eye(len(cells), dtype=bool) & np.isfinite(cells)
    with np.errstate(invalid="ignore"):
        return np.where(kept, cells, 0).sum(1) / kept.sum(1)


def matrix_figures(cells: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Matrices by name -> the mean over rows without the diagonal, and, `with own view`, over all cells."""
    out = {name: float(np.nanmean(off_diagonal(cell))) for name, cell in cells.items()}
    return out | {f"{name} with own view": float(np.nanmean(cell)) for name, cell in cells.items()}
