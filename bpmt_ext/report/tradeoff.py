"""Accuracy and cost of methods in, tradeoff.png out: a panel a test set, each method a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bpmt_ext.report.pictures import save_png


def draw_tradeoff(points: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *, metric: str) -> None:
    """Write one PNG. points: {test: [{label, value (mean, deviation or None), cost, size}]}; cost is multiply-adds,
    size parameters, the area of the point. What costs nothing (a yardstick) is a dashed line."""
    tests = [test for test, rows in points.items() if rows]
    labels = list(dict.fromkeys(row["label"] for test in tests for row in points[test]))
    colour = {label: f"C{k % 10}" for k, label in enumerate(labels)}
    marker = {label: "osD^v"[k // 10 % 5] for k, label in enumerate(labels)}
    largest = max((row["size"] or 0 for test in tests for row in points[test]), default=0) or 1
    figure = Figure(figsize=(4.6 * len(tests) + 2.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    for test, axes in zip(tests, figure.subplots(1, len(tests), squeeze=False)[0], strict=True):
        for row in points[test]:
            if row["value"] is None:
                continue
            mean, deviation = row["value"]
            label, style = row["label"], {"color": colour[row["label"]]}
            if not row["cost"]:
                handles[label] = axes.axhline(mean, linestyle="--", linewidth=1, **style)
                continue
            axes.errorbar(row["cost"], mean, yerr=deviation, linewidth=1, capsize=2, alpha=0.6, **style)
            area = 25 + 175 * (row["size"] / largest) ** 0.5
            handles[label] = axes.scatter(row["cost"], mean, s=area, marker=marker[label], edgecolor="white",
                                          linewidth=0.6, zorder=3, **style)
        axes.set(title=test, xlabel="multiply-adds of a test sequence", ylabel=f"{metric} (percent)")
        if any(row["cost"] for row in points[test]):
            axes.set_xscale("log")
        axes.grid(alpha=0.3, which="both")
    legend = figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False)
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([45])
    save_png(figure, path, dpi=130)
