"""The results of one test in, plain-text tables of its figures, of its classes or its view-by-view matrices out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bpmt_ext.report.tables import text_table

_METRIC = re.compile(r"Rank-\d+|mAP|mINP|top\d+")


def results_table(results: Mapping[str, Any]) -> str:
    """One test: its metrics in percent and what they were counted on.

    One row per condition and kind of figure; where some probes have no match, also the convention that the protocol
    does not use; the Rank-1 of every view of the probes against every view of the gallery, where it has them.
    """
    probes = results["probes"]
    if "per_class" in results:
        return _recognition(results)
    parts = [
        f"{results['dataset']}, {results['model']} at iteration {results['iteration']}: {results['protocol']}, "
        f"{probes['valid']} of {probes['total']} probes valid, gallery {results['gallery']}\n"
        + _figures(results["metrics"])
    ]
    parts += [results["note"]] if "note" in results else []
    if probes["valid"] < probes["total"]:
        for name, figures in results.get("conventions", {}).items():
            if any(abs(figures[key] - results["metrics"].get(key, figures[key])) > 0.005 for key in figures):
                title = {"all": "every probe, one without a match counted as missed", "matched": "probes with a match"}
                parts.append(f"over {title[name]}:\n" + _figures(figures))
    for name, cells in results.get("matrices", {}).items():
        title = "Rank-1, probe view down, gallery view across"
        parts.append(f"{f'{name} {title}'.strip()}:\n" + _matrix(cells["all"]["Rank-1"], results["views"]))
    if results.get("submission"):
        parts.append(f"for the server: {results['submission']}")
    return "\n\n".join(parts)


def _recognition(results: Mapping[str, Any]) -> str:
    """One test of recognition: its metrics, those of the other checkpoint where there are two, and every class."""
    told = f" ({results['checkpoint']})" if "checkpoint" in results else ""
    parts = [
        f"{results['dataset']}, {results['model']} at iteration {results['iteration']}{told}: {results['protocol']}, "
        f"{results['probes']['total']} sequences\n" + _figures(results["metrics"])
    ]
    for name, other in results.get("other_checkpoint", {}).items():
        parts.append(f"at iteration {other['iteration']} ({name}):\n" + _figures(other["metrics"]))
    header = ["class", "sequences", "accuracy", "precision", "f1"]
    rows = [[name, str(one["sequences"]), *(f"{one[key]:.1f}" for key in header[2:])]
            for name, one in results["per_class"].items() if one["sequences"]]
    return "\n\n".join([*parts, text_table(header, rows)])


def _figures(metrics: Mapping[str, float]) -> str:
    """A line of values; with several conditions or kinds of figure a line of each, its name before it."""
    rows: dict[str, dict[str, str]] = {}
    for name, value in metrics.items():
        metric = (_METRIC.search(name) or [name])[0]
        kind = " ".join(name.replace(metric, "", 1).split())
        rows.setdefault(kind, {})[metric] = f"{value:.1f}"
    columns = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    if list(rows) == [""]:
        return text_table(columns, [[rows[""][metric] for metric in columns]])
    lines = [[kind or "all", *(row.get(metric, "") for metric in columns)] for kind, row in rows.items()]
    return text_table(["", *columns], lines)


def _matrix(cells: Sequence[Sequence[float | None]], views: Sequence[str]) -> str:
    rows = zip(views, cells, strict=True)
    return text_table(["", *views], [[view, *("-" if x is None else f"{x:.1f}" for x in row)] for view, row in rows])
