"""Results of tests in, plain-text tables out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first to the left, the others to the right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def results_table(results: Mapping[str, Any]) -> str:
    """One test: its metrics in percent and what they were counted on."""
    metrics = results["metrics"]
    head = (f"{results['dataset']}, {results['model']} at iteration {results['iteration']}: {results['protocol']}, "
            f"{results['probes']['valid']} of {results['probes']['total']} probes valid, gallery {results['gallery']}")
    return head + "\n" + text_table(list(metrics), [[f"{value:.1f}" for value in metrics.values()]])
