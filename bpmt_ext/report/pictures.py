"""A figure in, a PNG file that appears whole or not at all out."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from bpmt_ext.data.pickles import write_bytes


def save_png(figure: Figure, path: Path, *, dpi: int = 110) -> None:
    """Draw a figure into a PNG; UserError if the file cannot be written."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    write_bytes(path, drawn.getvalue())
