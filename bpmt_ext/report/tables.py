"""Rows of text in, tables out: plain text, Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def text_table(header: Sequence[str], rows: Rows, left: int = 1) -> str:
    """Columns padded to their widest cell; the first `left` of them to the left, the others to the right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(header: Sequence[str], rows: Rows, left: int = 1) -> str:
    """A Markdown table; the first `left` columns to the left, the others to the right."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    lines = [[*map(_markdown, header)], rule, *[[*map(_markdown, row)] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def csv_table(header: Sequence[str], rows: Rows, left: int = 1) -> str:
    """Comma-separated values, quoted where they must be; `left` means nothing here."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue().rstrip("\n")


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "→": r"$\to$", "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", **{c: f"\\{c}" for c in "&%$#_{}"}}  # fmt: skip


def latex_table(header: Sequence[str], rows: Rows, left: int = 1) -> str:
    """A LaTeX tabular with rules of the package booktabs; the first `left` columns to the left."""
    lines = [" & ".join("".join(_LATEX.get(c, c) for c in cell) for cell in row) + r" \\" for row in [header, *rows]]
    columns = "l" * left + "r" * (len(header) - left)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule",
                      *lines[1:], r"\bottomrule", r"\end{tabular}"])


WRITERS = {"text": text_table, "markdown": markdown_table, "csv": csv_table, "latex": latex_table}
