"""What each probe got under two methods in, their paired differences out: bootstrap over identities, folds pooled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bpmt_ext.data.posearrays import read_npz
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.bootstrap import LEAST_FOR_P, paired_bootstrap
from bpmt_ext.report.means import HEADLINES, cells_of, figures, metric_names

# what is compared, and its values by probe: of a ranking, of a recognition
RANKED = {"Rank-1": "rank1", "macro Rank-1": "rank1", "mAP": "ap"}
RECOGNISED = {"top1": "top1", "top5": "top5"}

Probe = tuple[str, str, str]  # fold, condition, name
Values = dict[str, dict[Probe, tuple[str, float]]]  # {value: {probe: (identity, mean over seeds)}}


def paired_differences(out: Path, results: Mapping[str, Any], reference: str) -> list[dict[str, Any]]:
    """Of each test, the reference less each other method: {test, metric, reference, label, difference, low, high, p,
    probes, identities, folds} for Rank-1, macro Rank-1 where the protocol has it, and mAP, or for top1 and top5, in
    percent; p is None where too few identities say nothing about it. Of a recognition the identities are the subjects
    (or clips) that were recorded.

    reference: `best` (highest mean Rank-1 or top1 of the test), `first`, or a label; UserError for a label without
    results.
    """
    tests, found = results["tests"], []
    labels = [one["label"] for one in results["methods"] if any(cells_of(results, one["label"], t) for t in tests)]
    if reference not in ("best", "first", *labels) and labels:
        raise UserError(f"--reference {reference}: is no method of this comparison with results; known are "
                        f"{', '.join(labels)}")
    for test in tests:
        here = [label for label in labels if cells_of(results, label, test)]
        if len(here) < 2 or (reference not in ("best", "first", *here)):
            continue
        name = next((m for m in metric_names(results) if m.endswith(HEADLINES)), "")
        best = max(here, key=lambda label: (figures(results, label, test, name) or (-1.0, None))[0])
        first = {"best": best, "first": here[0]}.get(reference, reference)
        probes = {label: _probes(out, results, label, test) for label in here}
        known = set(cells_of(results, first, test)[0]["scores"][test]["metrics"])
        for label in here:
            if label != first:
                rows = _paired(probes[first], probes[label], known)
                found += [{"test": test, "reference": first, "label": label, **row} for row in rows]
    return found


def _probes(out: Path, results: Mapping[str, Any], label: str, test: str) -> Values:
    """What each probe of every fold got, its mean over the seeds."""
    slug = next(one["slug"] for one in results["methods"] if one["label"] == label)
    sums: dict[str, dict[Probe, tuple[str, list[float]]]] = {}
    for cell in cells_of(results, label, test):
        name = cell["fold"] if cell["seed"] is None else f"{cell['fold']}-seed{cell['seed']}"
        file = _arrays(out / "cells" / slug / name / f"per_probe-{test}.npz")
        conditions, names, owners = (file[key].tolist() for key in ("condition", "name", "label"))
        for value in dict.fromkeys(_values(file).values()):
            kept = sums.setdefault(value, {})
            for condition, probe, who, got in zip(conditions, names, owners, file[value].tolist(), strict=True):
                kept.setdefault((cell["fold"], condition, probe), (who, []))[1].append(got)
    return {value: {key: (who, float(np.mean(many))) for key, (who, many) in kept.items()}
            for value, kept in sums.items()}


def _values(arrays: Mapping[str, Any]) -> Mapping[str, str]:
    """What can be compared of such arrays."""
    return RECOGNISED if "top1" in arrays else RANKED


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a cell's per_probe file. UserError if it is gone or damaged."""
    found = read_npz(path)
    lacking = {"condition", "name", "label", *_values(found).values()} - set(found)
    if lacking:
        raise UserError(f"{path}: has no array {min(lacking)!r}; delete its folder and run the cell again")
    return found


def _paired(a: Values, b: Values, known: set[str]) -> list[dict[str, Any]]:
    """One row a condition and metric, over the probes that both methods have and that count."""
    rows = []
    if a.keys() != b.keys():
        return rows
    for condition in sorted({key[1] for one in a.values() for key in one}):
        for metric, value in _values(a).items():
            mine, theirs = a[value], b[value]
            keys = [key for key in sorted(mine.keys() & theirs.keys())
                    if key[1] == condition and np.isfinite([mine[key][1], theirs[key][1]]).all()]
            who = [f"{key[0]} {mine[key][0]}" for key in keys]
            name = f"{condition} {metric}".strip()
            if len(set(who)) < 2 or name not in known:
                continue
            x, y = (100 * np.array([one[key][1] for key in keys]) for one in (mine, theirs))
            if metric.startswith("macro"):
                names, owner = np.unique(who, return_inverse=True)
                x, y = (np.bincount(owner, weights=one) / np.bincount(owner) for one in (x, y))
                drawn = paired_bootstrap(x, y, names)
            else:
                drawn = paired_bootstrap(x, y, who)
            difference, low, high, p = drawn
            count = len(set(who))
            rows.append({"metric": name, "difference": difference, "low": low, "high": high,
                         "p": p if count >= LEAST_FOR_P else None, "probes": len(keys), "identities": count,
                         "folds": len({key[0] for key in keys})})
    return rows
