"""The cells of a comparison in, their means and deviations out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

REPORTED = ("Rank-1", "macro Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "top1", "top5", "macro_f1")
HEADLINES = ("Rank-1", "top1")  # what a protocol's first figure is called


def cells_of(results: Mapping[str, Any], label: str, test: str) -> list[dict[str, Any]]:
    """The finished cells of a method that have this test."""
    return [cell for cell in results["cells"] if cell["label"] == label and test in cell["scores"]]


def spread(values: Mapping[tuple[str, Any], float]) -> tuple[float, float | None]:
    """{(fold, seed): value} -> mean and population deviation: over folds of the means over seeds; over seeds where
    there is one fold; None for a single value."""
    folds: dict[str, list[float]] = {}
    for (fold, _), value in values.items():
        folds.setdefault(fold, []).append(value)
    means = [float(np.mean(one)) for one in folds.values()]
    spreading = means if len(means) > 1 else next(iter(folds.values()))
    return float(np.mean(means)), float(np.std(spreading)) if len(spreading) > 1 else None


def figures(results: Mapping[str, Any], label: str, test: str, metric: str) -> tuple[float, float | None] | None:
    """Mean and deviation of a method's metric; None without a value."""
    found = {(cell["fold"], cell["seed"]): cell["scores"][test]["metrics"].get(metric)
             for cell in cells_of(results, label, test)}
    found = {key: value for key, value in found.items() if value is not None}
    return spread(found) if found else None


def cost(results: Mapping[str, Any], label: str, key: str) -> float | None:
    """Mean of a cost over a method's cells; times of trainings that were interrupted do not count."""
    cells = [cell["costs"] for cell in results["cells"] if cell["label"] == label]
    cells = [one for one in cells if one.get(key) is not None]
    if key.startswith("train_"):
        cells = [one for one in cells if not one.get("resumed")]
    return float(np.mean([one[key] for one in cells])) if cells else None


def metric_names(results: Mapping[str, Any]) -> list[str]:
    """The metrics shown, in order: those reported, each condition's after the other; of more than eight, Rank-1 and
    mAP only."""
    there = dict.fromkeys(m for cell in results["cells"] for one in cell["scores"].values() for m in one["metrics"])

    def ending(name: str) -> str:
        return next((m for m in ("macro Rank-1", *REPORTED) if name == m or name.endswith(f" {m}")), "")

    found = [name for name in there if ending(name)]
    if len(found) > 8:
        found = [name for name in found if ending(name) in ("Rank-1", "mAP")]
    conditions = list(dict.fromkeys(name.removesuffix(ending(name)) for name in found))
    return sorted(found, key=lambda m: (conditions.index(m.removesuffix(ending(m))), REPORTED.index(ending(m))))
