"""The folder of a comparison in; everything its tables say out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bpmt_ext.errors import UserError
from bpmt_ext.jsonfiles import read_json
from bpmt_ext.metrics.bootstrap import FEW, LEAST_FOR_P
from bpmt_ext.report.paired import paired_differences
from bpmt_ext.report.published import published_for

KEPT = ("metrics", "probes", "gallery", "protocol", "metric", "same_camera", "camera", "note", "dropped", "weights",
        "data")  # fmt: skip

FORMAT = 1  # of comparison.json
_PLAN = ("format", "budget", "protocol", "data", "methods")
_RESULTS = ("budget", "tests", "methods", "cells", "failures", "comparisons", "notes", "published")
PUBLISHED = {"id", "dataset", "model", "recipe", "config", "metrics", "source"}


def read_plan(file: Path) -> dict[str, Any]:
    """What a comparison.json says. UserError for a file that is damaged or of another format."""
    plan = read_json(file, *_PLAN)
    if plan["format"] != FORMAT:
        raise UserError(f"{file}: is of format {plan['format']}, this reads {FORMAT}; give another --out")
    return plan


def gather(out: Path, reference: str = "best") -> dict[str, Any]:
    """Everything the tables say, from the cells of a comparison; from its `results.json` where only that is there.

    reference: the method the others are compared with: `best` (highest mean Rank-1 or top1 in the first test), `first`,
    or a label. UserError if the folder holds no comparison or no such method.
    """
    plan_file, file = out / "comparison.json", out / "results.json"
    if not plan_file.is_file():
        if not file.is_file():
            raise UserError(f"--out {out}: holds no comparison; name the folder of one, or leave out --report")
        return read_json(file, *_RESULTS)
    plan = read_plan(plan_file)
    cells, failures = [], []
    for label, method in plan["methods"].items():
        for folder in sorted((out / "cells" / method["slug"]).glob("*/")):
            if (folder / "result.json").is_file():
                cells.append(_cell(read_json(folder / "result.json", "label", "fold", "seed", "scores", "costs")))
            elif (folder / "failed.json").is_file():
                failed = read_json(folder / "failed.json", "message")
                failures.append({"label": label, "cell": folder.name, **failed})
    methods = [{"label": label, **{k: one[k] for k in ("config", "variant", "digest", "slug")}}
               for label, one in plan["methods"].items()]
    tests = list(next(iter(plan["data"].values()))["tests"]) if plan["data"] else []
    results = {"format": plan["format"], "budget": plan["budget"], "protocol": plan["protocol"], "tests": tests,
               "data": plan["data"], "methods": methods, "cells": cells, "failures": failures}
    results["comparisons"] = paired_differences(out, results, reference)
    results["notes"] = [*few_identities(results["comparisons"]), *_notes(results, plan)]
    names = dict.fromkeys(cell["dataset"] for cell in cells)
    results["published"] = [row.model_dump(include=PUBLISHED, exclude_none=True) for name in names
                            for row in published_for(name)]
    return results


def _cell(result: dict[str, Any]) -> dict[str, Any]:
    scores = {test: {k: one[k] for k in KEPT if k in one}
              for test, one in result["scores"].items()}
    return {**{k: v for k, v in result.items() if k != "scores"}, "scores": scores}


def few_identities(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each test whose differences rest on few identities."""
    notes = []
    for test in dict.fromkeys(row["test"] for row in comparisons):
        counts = sorted({row["identities"] for row in comparisons if row["test"] == test and row["identities"] < FEW})
        if counts:
            said = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
            notes.append(f"{test}: the differences rest on {said} identities only: over fewer than {FEW} the intervals "
                         + (f"come out too narrow, and fewer than {LEAST_FOR_P} allow no p" if counts[0] < LEAST_FOR_P
                            else "and p come out too small"))  # fmt: skip
    return notes


def _notes(results: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """A sentence for whatever differs between cells that should not, and for what is missing."""
    notes = []
    for key in ("bpmt_ext", "torch", "numpy", "python"):
        notes += _differing(results, f"version of {key}", lambda cell, k=key: cell.get("versions", {}).get(k))
    notes += _differing(results, "machine", lambda cell: cell.get("machine", {}).get("name"))
    notes += _differing(results, "threads", lambda cell: cell.get("machine", {}).get("threads"))
    for case, split in plan["data"].items():
        if len(set(split["train"].values())) > 1:
            notes.append(f"{case}: the methods were not trained on the same sequences: "
                         + ", ".join(f"{label} {mark[:8]}" for label, mark in split["train"].items()))
    distances = {cell["label"]: one["metric"] for cell in results["cells"] for one in cell["scores"].values()
                 if cell["model"] and "metric" in one}
    if len(set(distances.values())) > 1:
        notes.append("distances differ: " + ", ".join(f"{label} {metric}" for label, metric in distances.items()))
    done = {one["label"]: [(c["fold"], c["seed"]) for c in results["cells"] if c["label"] == one["label"]]
            for one in results["methods"]}
    folds = {fold for cells in done.values() for fold, _ in cells}
    seeds = {seed for cells in done.values() for _, seed in cells if seed is not None} or {None}
    for label, cells in done.items():
        wanted = len(folds) * (1 if cells and cells[0][1] is None else len(seeds))
        if len(cells) < wanted:
            notes.append(f"{label}: {len(cells)} of {wanted} cells are there"
                         + ("; its means are of those" if cells else ""))
    resumed = [f"{c['label']} {c['fold']} seed {c['seed']}" for c in results["cells"] if c["costs"].get("resumed")]
    if resumed:
        notes.append(f"interrupted and taken up again, so that their times do not count: {', '.join(resumed)}")
    notes += [f"{one['label']}, {one['cell']}: failed: {one['message']}" for one in results["failures"]]
    return notes


def _differing(results: Mapping[str, Any], name: str, value: Callable[[Mapping[str, Any]], Any]) -> list[str]:
    found: dict[str, int] = {}
    for cell in results["cells"]:
        if value(cell) is not None:
            found[str(value(cell))] = found.get(str(value(cell)), 0) + 1
    told = ", ".join(f"{one} in {count} cells" for one, count in found.items())
    return [f"{name} differs: {told}"] if len(found) > 1 else []
