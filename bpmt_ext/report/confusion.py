"""A confusion matrix (k, k) and the names of its classes in; its picture and its CSV table out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.errors import printable
from bpmt_ext.report.pictures import save_png
from bpmt_ext.report.tables import csv_table

_WRITTEN = 30  # of more classes the cells are too small for numbers


def write_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path, *, title: str = "") -> None:
    """Write `path` (.png) and beside it the same numbers as .csv: sequences of the row's class taken for the column's.
    """
    names = [printable(str(name)) for name in classes]  # a folder's name may be no text
    rows = [[name, *map(str, row)] for name, row in zip(names, confusion.tolist(), strict=True)]
    write_bytes(path.with_suffix(".csv"), (csv_table(["is \\ taken for", *names], rows) + "\n").encode())
    draw_confusion(confusion, names, path, title=title)


def draw_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path, *, title: str = "") -> None:
    """A square per pair of classes, its colour the percent of the row's sequences; classes without any stay white."""
    k = len(classes)
    share = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    size = min(3.2 + 0.33 * k, 24)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    small = 8 if k <= _WRITTEN else 5
    words = [name.replace("_", " ") for name in classes]
    axes.set_xticks(range(k), words, rotation=90, fontsize=small)
    axes.set_yticks(range(k), words, fontsize=small)
    axes.set(xlabel="taken for", ylabel="is", title=title)
    if k <= _WRITTEN:
        for i, j in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if share[i, j] > 55 else "black"
            axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(shown, ax=axes, label="percent of the row", shrink=0.7)
    save_png(figure, path)
