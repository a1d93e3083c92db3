"""Accuracy and cost of methods in, tradeoff.png out: a panel a test set, each method a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bpmt_ext.report.pictures import save_png


def draw_tradeoff(points: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *, metric: str) -> None:
    """Write one PNG. points: {test: [{label, value (mean, deviation or None), cost, size}]}; cost is multiply-adds,
    size parameters, the area of the point. What costs nothing (a yardstick) is a dashed line; what would lie over
    another method is a ring around it."""
    tests = [test for test, rows in points.items() if rows]
    labels = list(dict.fromkeys(row["label"] for test in tests for row in points[test]))
    colour = {label: f"C{k % 10}" for k, label in enumerate(labels)}
    marker = {label: "osD^v"[k // 10 % 5] for k, label in enumerate(labels)}
    largest = max((row["size"] or 0 for test in tests for row in points[test]), default=0) or 1
    figure = Figure(figsize=(4.6 * len(tests) + 2.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    for test, axes in zip(tests, figure.subplots(1, len(tests), squeeze=False)[0], strict=True):
        there: list[tuple[float, float, float]] = []  # (cost, mean, diameter) of the methods before
        for row in points[test]:
            if row["value"] is None:
                continue
            mean, deviation = row["value"]
            cost, diameter = row["cost"] or 0, (25 + 175 * ((row["size"] or 0) / largest) ** 0.5) ** 0.5
            under = [width for *place, width in there if _hides(place, (cost, mean))]
            if under:
                diameter = max(under) + 7
            there.append((cost, mean, diameter))
            label, style = row["label"], {"color": colour[row["label"]]}
            if not cost:
                dashes = {"linestyle": (0, (1, 4 * len(under))), "linewidth": 3} if under else {"linestyle": "--"}
                handles[label] = axes.axhline(mean, **{"linewidth": 1, **dashes}, **style)
                continue
            axes.errorbar(cost, mean, yerr=deviation, linewidth=1, capsize=2, alpha=0.6, **style)
            look: dict[str, Any] = {"facecolor": colour[label], "edgecolor": "white", "linewidth": 0.6}
            if under:  # a ring around those that lie there already
                look = {"facecolor": "none", "edgecolor": colour[label], "linewidth": 1.5}
            handles[label] = axes.scatter(cost, mean, s=diameter**2, marker=marker[label], zorder=3, **look)
        axes.set(title=test, xlabel="multiply-adds of a test sequence", ylabel=f"{metric} (percent)")
        if any(row["cost"] for row in points[test]):
            axes.set_xscale("log")
        axes.grid(alpha=0.3, which="both")
    legend = figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False)
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([45])
    save_png(figure, path, dpi=130)


def _hides(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether one point (cost, percent) would lie over another; cost 0 is a line, which hides lines alone."""
    near = abs(log10(a[0] / b[0])) < 0.02 if a[0] and b[0] else a[0] == b[0]
    return near and abs(a[1] - b[1]) < 0.2
