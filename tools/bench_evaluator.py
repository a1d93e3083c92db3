#!/usr/bin/env python3
"""Made-up embeddings in, how long ranking and a whole evaluation take, beside probe-by-probe loops, out.

    FASTPOSEGAIT_HOME=PATH python tools/bench_evaluator.py [--json FILE]

1,000 probes, 5,369 gallery entries, 16 parts of width 256, by the Gait3D protocol: `ranking` from given distances,
`distances`, and `evaluation`, all of it. The figures of both sides agree to 1e-6. `--growth` adds rows of ours alone
for half, twice and four times the gallery.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from benching import OURS, Row, agree, finish, host, in_turns, parser, start
from plain import distances as plain_distances
from plain import ranking as plain_ranking

from bpmt_ext.metrics.protocols import evaluate
from bpmt_ext.metrics.ranking import distances, rank

SCORES = ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP")


def made_up(probes: int, gallery: int, width: int, parts: int, named: list[str] | None = None) -> dict[str, Any]:
    """Embeddings of unrelated numbers and who they are: as many people as probes, each in the gallery."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((probes + gallery, width, parts), dtype=np.float32)
    names = named or [f"{k:05d}-camid0_videoid0-seq0" for k in range(probes)]
    people = [name.split("-")[0] for name in names]
    rows = [name.split("-") for name in names]
    others = [*people, *(people[k] for k in rng.integers(0, probes, max(0, gallery - probes)))][:gallery]
    rows += [[who, f"camid1_videoid{k}", "seq9"] for k, who in enumerate(others)]
    who, kind, view = (list(column) for column in zip(*rows, strict=True))
    return {"embeddings": x, "labels": who, "types": kind, "views": view, "probes": set(names), "count": probes}


def figures(data: dict[str, Any]) -> dict[str, float]:
    """Our evaluation."""
    x, names = data["embeddings"], (data["labels"], data["types"], data["views"])
    return evaluate("evaluate_Gait3D", x, *names, probes=data["probes"])["metrics"]


def plain_figures(data: dict[str, Any]) -> dict[str, float]:
    """The same, probe by probe."""
    x, n, labels = data["embeddings"], data["count"], data["labels"]
    found = plain_ranking(plain_distances(x[:n], x[n:]), labels[:n], labels[n:])
    return {**{f"Rank-{k}": 100 * float((found["first"] <= k).mean()) for k in (1, 5, 10)},
            "mAP": 100 * float(found["ap"].mean()), "mINP": 100 * float(found["inp"].mean())}  # fmt: skip


def main(words: list[str] | None = None) -> int:
    options = parser(__doc__, turns=5)
    options.add_argument("--growth", action="store_true", help="also other sizes of the gallery")
    args = options.parse_args(words)
    sizes = (8, 24, 8, 2) if args.tiny else (1000, 5369, 256, 16)
    args.turns = 2 if args.tiny else args.turns
    start()
    theirs, named = host(), None
    if theirs is not None:  # its evaluator reads the benchmark's own list of probes
        named = json.loads((theirs.home / "datasets/Gait3D/Gait3D.json").read_text())["PROBE_SET"][: sizes[0]]
    data = made_up(*sizes, named)
    n, x, labels = sizes[0], data["embeddings"], data["labels"]
    ours, plainly = figures(data), plain_figures(data)
    far = {"plain": max(abs(ours[name] - plainly[name]) for name in SCORES) / 100}
    dist = distances(x[:n], x[n:])
    match = torch.from_numpy(np.array(labels[:n])[:, None] == np.array(labels[n:]))
    numbers = dist.numpy()
    rankings = {OURS: lambda: rank(dist, match), "plain": lambda: plain_ranking(numbers, labels[:n], labels[n:])}
    apart = {OURS: lambda: distances(x[:n], x[n:]), "plain": lambda: plain_distances(x[:n], x[n:])}
    whole = {OURS: lambda: figures(data), "plain": lambda: plain_figures(data)}
    if theirs is not None:
        evaluator, metric = theirs.module("evaluation.evaluator"), theirs.module("evaluation.metric")
        given = {key: data[key] for key in ("embeddings", "labels", "types", "views")}
        them = np.array(labels)
        rankings["host"] = lambda: metric.evaluate_rank(numbers, them[:n], them[n:])
        apart["host"] = lambda: metric.cuda_dist(x[:n], x[n:], "euc")
        whole["host"] = lambda: evaluator.evaluate_Gait3D(given, "Gait3D")
        found = whole["host"]()
        far["host"] = max(abs(ours[name] - found[f"scalar/test_accuracy/{name}"]) for name in SCORES) / 100
    agree("evaluation", far, 1e-6)
    what = f"{sizes[0]} x {sizes[1]}, {sizes[3]} parts"
    rows = [in_turns(f"{name}, {what}", ways, turns=args.turns)
            for name, ways in (("ranking", rankings), ("distances", apart), ("evaluation", whole))]  # fmt: skip
    if args.growth:
        rows += growth(sizes, args.turns)
    return finish(rows, args.json, args.turns)


def growth(sizes: tuple[int, int, int, int], turns: int) -> list[Row]:
    """Our evaluation of galleries of other sizes."""
    rows = []
    for factor in (0.5, 2, 4):
        entries = int(factor * sizes[1])
        data = made_up(sizes[0], entries, *sizes[2:])
        way = {OURS: lambda data=data: figures(data)}
        rows.append(in_turns(f"evaluation, {sizes[0]} x {entries}", way, turns=turns))
    return rows


if __name__ == "__main__":
    sys.exit(main())
