"""Rows of metrics.jsonl in, curves.png out: training and validation figures over the iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bpmt_ext.report.pictures import save_png

_COLOURS = {"train": "#1f77b4", "validation": "#d62728"}


def panels_of(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(title, figure names) of each panel: losses together, then accuracies, then the learning rate."""
    names = {name for row in rows for name in row} - {"iteration", "split"}
    per_part = {n for n in names if n.startswith("part/")}
    loss = [n for n in sorted(names - per_part) if n == "loss"]
    terms = sorted(n for n in names if n.endswith("/loss"))
    percent = sorted(n for n in names if n in ("Rank-1", "mAP", "top1", "macro_f1") or n.endswith("accuracy"))
    rate = [n for n in names if n == "lr"]
    panels = [("loss", loss), ("loss terms", terms), ("loss by part", sorted(per_part)), ("percent", percent)]
    return [(title, group) for title, group in [*panels, ("learning rate", rate)] if group]


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str = "") -> None:
    """Write one PNG with a panel per kind of figure. Training is a line, a dot if it is one point; validation has dots.

    rows: {"iteration", "split", figures...}; nothing is written without rows.
    """
    panels = panels_of(rows)
    if not panels:
        return
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (heading, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for order, name in enumerate(names):
            for split, colour in _COLOURS.items():
                points = [(row["iteration"], row[name]) for row in rows if row["split"] == split and name in row]
                if not points:
                    continue
                dots = "o" if split == "validation" or len(points) == 1 else None  # a line of one point is nothing
                single = len(names) == 1
                axes.plot(
                    *zip(*points, strict=True),
                    marker=dots,
                    markersize=3,
                    linewidth=1.2,
                    color=colour if single else f"C{order}",
                    linestyle="-" if single or split == "train" else "--",
                    label=split if single else f"{name.removeprefix('part/').removesuffix('/loss')} ({split})",
                )
        axes.set(title=heading, xlabel="iteration")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        there = {row["iteration"] for row in rows if not row.keys().isdisjoint(names)}
        if len(there) == 1:
            axes.set_xlim(min(there) - 1, max(there) + 1)
        if heading.startswith("loss") and any(row.get(name, 0) > 0 for row in rows for name in names):
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6 if len(names) > 4 else 8, ncols=2 if len(names) > 4 else 1)
    figure.suptitle(title)
    save_png(figure, path)
