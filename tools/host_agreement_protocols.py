"""A host and a folder for what it writes in; rows of host_agreement.py on the protocols of every data set out."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from host_agreement import Host, apart, unequal

from bpmt_ext.metrics.protocols import evaluate
from bpmt_ext.metrics.submission import submission_text

CASIA_B = ("nm-01", "nm-02", "nm-03", "nm-04", "nm-05", "nm-06", "bg-01", "bg-02", "cl-01", "cl-02")
SETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # types, views
    "CASIA-B": (CASIA_B, ("000", "018", "036", "054")),
    "OUMVLP": (("00", "01"), ("000", "015", "180")),
    "SUSTech1K": (
        ("00-nm", "01-nm", "01-bg", "01-cl-nt", "02-cr", "01-ub", "03-uf-oc"), ("000", "045", "090")),
    "CCPG": (("U0_D0_BG", "U0_D0", "U1_D1", "U2_D2", "U3_D3", "U0_D3", "U1_D0"), ("1_0", "2_0", "3_0", "4_0")),
    "GREW": (("01", "02"), ("a", "b")),
}  # fmt: skip
SEEN = "test_accuracy/"
NAMED = {"Umberalla": "Umbrella"}  # as the host spells it
NO_RULE = {("evaluate_indoor_dataset", "GREW"): "gaittr_GREW.yaml",
           ("evaluate_CCPG", "SUSTech1K"): "gpgait++_SUSTech1K.yaml"}  # fmt: skip


def made_up(dataset: str, people: int = 12, missing: float = 0.2) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Clustered embeddings (n, 16, 3) and names; a share of the sequences of the later people is missing."""
    types, views = SETS[dataset]
    rng = np.random.default_rng(len(dataset))
    rows = [row for row in product(range(people), types, views) if row[0] < people // 2 or rng.random() > missing]
    rows = [rows[k] for k in rng.permutation(len(rows))]
    centre = rng.standard_normal((people, 16, 3))
    x = centre[[who for who, _, _ in rows]] + 2 * rng.standard_normal((len(rows), 16, 3))
    clip = dataset == "GREW"
    names = {"labels": [f"{who + 1:05d}" for who, _, _ in rows], "types": [kind for _, kind, _ in rows],
             "views": [f"clip{k:04d}" if clip else view for k, (_, _, view) in enumerate(rows)]}  # fmt: skip
    return x.astype(np.float32), names


def run(host: Host, name: str, x: np.ndarray, names: dict[str, list[str]], *given: Any, **more: Any) -> tuple[Any, str]:
    """What the host's evaluator returns, and what it logs."""
    said: list[str] = []
    manager = host.module("utils").get_msg_mgr()
    before, manager.logger = manager.logger, SimpleNamespace(info=lambda text, *a: said.append(str(text)))
    level = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            copies = {key: list(values) for key, values in names.items()}
            found = getattr(host.module("evaluation.evaluator"), name)({"embeddings": x, **copies}, *given, **more)
    finally:
        manager.logger = before
        logging.disable(level)
    return found, "\n".join(said)


def percents(text: str, title: str) -> dict[str, float]:
    """The figures of the line after `title`: "CL: 12.345,	UP: ..."."""
    line = text.split(title, 1)[1].strip().split("\n")[0]
    return {name: float(value) for name, value in re.findall(r"(\w+): ([\d.]+)", line)}


def add(host: Host, what: str, theirs: dict[str, float], ours: dict[str, float], decimals: int | None = None) -> None:
    """Figures of both sides by our names; those that the host only logs have as many decimals as it writes."""
    if decimals is not None:
        ours = {name: round(value, decimals) for name, value in ours.items()}
    if not theirs:
        host.add("evaluation", what, {"count": 1}, note="the host's figures were not found")
        return
    pairs = np.array([[value, ours[name]] for name, value in theirs.items()])
    said = ", ".join(f"{name} {ours[name]:.2f}" for name in list(theirs)[:3])
    host.add("evaluation", f"{what}; ours {said}", {"single": apart(*pairs.T)})


def indoor(host: Host) -> None:
    """View by view, and with the gallery of all views."""
    for dataset, kind in product(("CASIA-B", "OUMVLP", "SUSTech1K"), ("euc", "cos")):
        x, names = made_up(dataset)
        ours = evaluate("evaluate_indoor_dataset", x, **names, dataset=dataset, metric=kind)["metrics"]
        found, said = run(host, "evaluate_indoor_dataset", x, names, dataset, metric=kind)
        add(host, f"evaluate_indoor_dataset {dataset} {kind}", renamed(found, dataset), ours)
        logged = {f"scalar/{SEEN}{name}@R{k}": float(value)
                  for name, k, value in re.findall(r"(\w+)@R(\d): ([\d.]+)%", said) if k in "15"}  # fmt: skip
        what = f"evaluate_indoor_dataset {dataset} {kind}, as logged"
        add(host, what, renamed(logged, dataset), ours, 2)
        if dataset == "SUSTech1K":
            continue
        ours = evaluate("evaluate_indoor_dataset", x, **names, dataset=dataset, metric=kind, cross_view_gallery=True)
        found, _ = run(host, "evaluate_indoor_dataset", x, names, dataset, metric=kind, cross_view_gallery=True)
        add(host, f"cross_view_gallery {dataset} {kind}", renamed(found, dataset), ours["metrics"])


def renamed(found: dict[str, float], dataset: str) -> dict[str, float]:
    """The host's `scalar/test_accuracy/NM@R1` and `NM-mAP` as `NM Rank-1` and `NM mAP`; OUMVLP has one condition."""
    out = {}
    for name, value in found.items():
        condition, metric = re.fullmatch(rf"scalar/{SEEN}(\w+)[@-](.+)", name).groups()
        metric = re.sub(r"^R(?:ank@)?(\d+)$", r"Rank-\1", metric)
        condition = "" if dataset == "OUMVLP" else NAMED.get(condition, condition)
        out[f"{condition} {metric}".strip()] = float(value)
    return out


def grew(host: Host, folder: Path) -> None:
    """The local figures and the file for the server."""
    x, names = made_up("GREW")
    for kind in ("euc", "cos"):
        found, said = run(host, "evaluate_real_scene", x, names, "GREW", metric=kind)
        ours = evaluate("evaluate_real_scene", x, **names, dataset="GREW", metric=kind)["metrics"]
        returned = {name.rpartition("/")[2]: float(value) for name, value in (found or {}).items()}
        logged = {f"Rank-{k}": float(value) for k, value in re.findall(r"==Rank-(\d+)==\n([\d.]+)", said)}
        add(host, f"evaluate_real_scene GREW {kind}", returned | logged, ours)
    sent = np.random.default_rng(0).choice(len(x), 9, replace=False)
    for i in sent:
        names["labels"][i], names["types"][i] = "probe", "03"
    for kind in ("euc", "cos"):
        place = folder / kind
        place.mkdir()
        with contextlib.chdir(place):  # where the host writes
            run(host, "GREW_submission", x, names, "GREW", metric=kind)
        (file,) = place.rglob("*.csv")
        found = evaluate("GREW_submission", x, **names, dataset="GREW", metric=kind)
        ours = submission_text(**found["submission"])
        host.add("evaluation", f"GREW_submission {kind}: the file's lines",
                 {"count": unequal(file.read_text().splitlines(), ours.splitlines())})  # fmt: skip


def ccpg(host: Host) -> None:
    """Person re-identification and gait protocols."""
    x, names = made_up("CCPG", 50)  # the host needs 50 gallery entries that are not of the probe's person and camera
    for kind in ("euc", "cos"):
        found, said = run(host, "evaluate_CCPG", x, names, "CCPG", metric=kind)
        ours = evaluate("evaluate_CCPG", x, **names, dataset="CCPG", metric=kind)
        metrics = ours["metrics"]
        for metric in ("Rank-1", "mAP", "mINP"):
            title = f"==={metric} (Exclude identical-view cases for Person Re-Identification)==="
            theirs = {f"{name} {metric}": value for name, value in percents(said, title).items()}
            add(host, f"evaluate_CCPG {kind}, {metric} of re-identification, as logged", theirs, metrics, 3)
        for title, name in (("Include", "gait Rank-1 with own view"), ("Exclude", "gait Rank-1")):
            logged = percents(said, f"===Rank-1 ({title} identical-view cases)===")
            theirs = {f"{condition} {name}": value for condition, value in logged.items()}
            add(host, f"evaluate_CCPG {kind}, {name}, as logged", theirs, metrics, 3)
        cells = {name.rpartition("/")[2]: np.asarray(value) for name, value in (found or {}).items()}
        far = [apart(cell, ours["matrices"][name]["all"]["Rank-1"]) for name, cell in cells.items() if cell.ndim == 2]
        if far:
            host.add("evaluation", f"evaluate_CCPG {kind}: {len(far)} matrices", {"single": max(far)})


def protocols(host: Host, folder: Path) -> None:
    """Every evaluator that both sides have, and what the host makes of configs that name another set's."""
    indoor(host)
    grew(host, folder)
    ccpg(host)
    for (name, dataset), config in NO_RULE.items() if host.name == "fastposegait" else ():
        x, names = made_up(dataset)
        try:
            run(host, name, x, names, dataset)
            stopped = False
        except KeyError:
            stopped = True
        measured = evaluate(name, x, **names, dataset=dataset)["protocol"]
        host.add("evaluation", f"{name} on {dataset} ({config})", {"count": float(stopped)},
                 f"the host stops with a KeyError, ours measures by {measured}")  # fmt: skip
