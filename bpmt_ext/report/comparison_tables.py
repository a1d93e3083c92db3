"""The results of a comparison in; its tables, its files and its picture out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.report.means import HEADLINES, cells_of, cost, figures, metric_names
from bpmt_ext.report.tables import WRITERS, csv_table
from bpmt_ext.report.tradeoff import draw_tradeoff

COSTS = ("parameters", "multiply_adds", "train_seconds", "sequences_per_second", "memory_mib")


def main_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one row a method and test, percent as mean ± deviation, then what it costs."""
    metrics, published = metric_names(results), _published_beside(results)
    header = ["test", "method", *metrics, "parameters", "multiply-adds", "training min", "test seq/s", "peak MiB",
              "runs", *([_published_name(results)] if published else [])]
    rows = []
    for test in results["tests"]:
        for one in results["methods"]:
            label, failed = one["label"], [f for f in results["failures"] if f["label"] == one["label"]]
            cells = cells_of(results, label, test)
            if not cells and not failed:
                continue
            values = [_percent(figures(results, label, test, metric)) for metric in metrics]
            runs = str(len(cells)) + (f", {len(failed)} failed" if failed else "")
            rows.append([test, label, *values, *_costs(results, label), runs,
                         *([published.get(label, "-")] if published else [])])
    if len(results["tests"]) == 1:
        header, rows = header[1:], [row[1:] for row in rows]
    return header, rows


def _percent(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return "-"
    return f"{found[0]:.1f}" + (f" ± {found[1]:.1f}" if found[1] is not None else "")


def _costs(results: Mapping[str, Any], label: str) -> list[str]:
    """The five costs as text."""
    size, adds, seconds, speed, memory = (cost(results, label, key) for key in COSTS)
    return [_short(size), _short(adds), "-" if seconds is None else f"{seconds / 60:.1f}",
            "-" if speed is None else f"{speed:.3g}" if speed < 1000 else f"{speed:.0f}",
            "-" if memory is None else f"{memory:.0f}"]


def _short(value: float | None) -> str:
    """1234567 -> 1.23 M."""
    if value is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _published_beside(results: Mapping[str, Any]) -> dict[str, str]:
    """{label: every headline published of the same config, else of the same network} where the data set has any."""
    found = {}
    for one in results["methods"]:
        models = {cell["model"] for cell in results["cells"] if cell["label"] == one["label"]}
        rows = [row for row in results["published"] if _headline(row) and row["model"] in models]
        exact = [row for row in rows if row.get("config") and one["config"].endswith(row["config"])]
        if rows and one["variant"] in ("", "scratch"):
            found[one["label"]] = ", ".join(f"{_headline(r)} ({r['recipe']})" for r in exact or rows)
    return found


def _headline(row: Mapping[str, Any]) -> str:
    """Every published Rank-1 (or top1) of a row, one a condition."""
    return "/".join(f"{value:g}" for name, value in row["metrics"].items() if name.endswith(HEADLINES))


def _published_name(results: Mapping[str, Any]) -> str:
    names = [name for row in results["published"] for name in row["metrics"]]
    return "published " + next(head for head in HEADLINES if any(name.endswith(head) for name in names))


def difference_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the paired differences."""
    header = ["test", "method", "against", "metric", "difference", "95 % interval", "p", "identities", "probes"]
    rows = [[one["test"], one["reference"], one["label"], one["metric"], f"{one['difference']:+.1f}",
             f"{one['low']:+.1f} to {one['high']:+.1f}", _p(one["p"]), str(one["identities"]), str(one["probes"])]
            for one in results["comparisons"]]
    return header, rows


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def published_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what others have published on these data sets."""
    metrics = list(dict.fromkeys(m for row in results["published"] for m in row["metrics"]))
    rows = [[f"{row['model']} ({row['recipe']})", row["dataset"],
             *(f"{row['metrics'][m]:g}" if m in row["metrics"] else "-" for m in metrics), row["source"]]
            for row in results["published"]]
    return ["published", "data set", *metrics, "source"], rows


def report_text(results: Mapping[str, Any], form: str) -> str:
    """All tables and notes in one form: text, markdown, csv or latex; or json, the results themselves. In a csv all but
    the first table are comments, so that it can be read as one."""
    if form == "json":
        return json.dumps(results, indent=2)
    tables = [(*main_table(results), 2 if len(results["tests"]) > 1 else 1), (*difference_table(results), 4),
              (*published_table(results), 2)]
    blocks = [WRITERS[form](*table) for table in tables if table[1]]
    budget = results["budget"]
    length = (f"{budget['minutes']:g} minutes a training" if budget["minutes"] else
              f"{budget['iterations']} iterations a training" if budget["iterations"] else "the configs' own lengths")
    notes = [f"Percent, mean ± standard deviation over the folds (over the seeds where there is one fold); {length}.",
             *results["notes"]]
    mark = {"latex": "% ", "csv": "# ", "markdown": "* ", "text": ""}[form]
    notes = [mark + " ".join(note.split()) for note in notes]
    if form == "csv":
        blocks[1:] = ["\n".join(mark + line for line in block.splitlines()) for block in blocks[1:]]
    return "\n\n".join([*blocks, "\n".join(notes)])


def write_report(results: Mapping[str, Any], out: Path, form: str) -> str:
    """Write results.json, table.md, table.csv, table.tex and tradeoff.png; returns the report in `form`."""
    def put(name: str, text: str) -> None:
        write_bytes(out / name, (text + "\n").encode())

    put("results.json", json.dumps(results, indent=2))
    for name, kind in (("table.md", "markdown"), ("table.tex", "latex")):
        put(name, report_text(results, kind))
    put("table.csv", csv_table(*long_table(results)))
    points = {test: [{"label": one["label"], "value": figures(results, one["label"], test, metric_names(results)[0]),
                      "cost": cost(results, one["label"], "multiply_adds"),
                      "size": cost(results, one["label"], "parameters")}
                     for one in results["methods"] if cells_of(results, one["label"], test)]
              for test in results["tests"]}
    if any(points.values()):
        draw_tradeoff(points, out / "tradeoff.png", metric=metric_names(results)[0])
    return report_text(results, form)


def long_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and one row a cell and test, in full precision: what a spreadsheet or a plot starts from."""
    metrics = list(dict.fromkeys(m for c in results["cells"] for one in c["scores"].values() for m in one["metrics"]))
    header = ["test", "method", "fold", "seed", *metrics, *COSTS]
    rows = []
    for cell in results["cells"]:
        for test, one in cell["scores"].items():
            values = [one["metrics"].get(m) for m in metrics] + [cell["costs"].get(key) for key in COSTS]
            rows.append([test, cell["label"], cell["fold"], "" if cell["seed"] is None else str(cell["seed"]),
                         *("" if v is None else repr(v) for v in values)])
    return header, rows
