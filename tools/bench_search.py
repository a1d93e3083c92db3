#!/usr/bin/env python3
"""A folder in, how long an exact evaluation against a gallery in a mapped file takes there, and its memory, out.

    python tools/bench_search.py FOLDER [--probes 1000] [--gallery 1000000] [--slices 250000,500000] [--json FILE]

Embeddings of 256 x 5 numbers; the file (5 GB at the default size) is made in FOLDER and removed again. Checked: the
figures of the first few probes are those of a plain loop over the whole gallery in double precision. `--slices` adds
smaller galleries, for the slope.
"""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Event, Thread

import numpy as np
from benching import OURS, Row, agree, finish, once, own_memory, parser, start

from bpmt_ext.metrics.protocols import evaluate

CHECKED = 3  # probes that are ranked plainly too


def write(path: Path, rows: int, people: int) -> np.ndarray:
    """(rows, 256, 5) float32 in a file: person k % people's place, and noise of twice its size."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((people, 256, 5), dtype=np.float32)
    x = np.lib.format.open_memmap(path, "w+", np.float32, (rows, 256, 5))
    for start_row in range(0, rows, 4096):
        who = np.arange(start_row, min(start_row + 4096, rows)) % people
        x[start_row : start_row + 4096] = centres[who] + 6 * rng.standard_normal((len(who), 256, 5), dtype=np.float32)
    x.flush()
    del x
    return np.load(path, mmap_mode="r")


class Watch:
    """The most memory of its own that the process has while this runs, in MiB."""

    def __enter__(self) -> Watch:
        self.most, self.done = own_memory(), Event()
        self.thread = Thread(target=self.look, daemon=True)
        self.thread.start()
        return self

    def look(self) -> None:
        while not self.done.wait(0.05):
            self.most = max(self.most, own_memory())

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()


def plainly(x: np.ndarray, probes: int, people: int) -> list[float]:
    """Average precision in percent of the first probes, every distance in double precision."""
    found = []
    for i in range(CHECKED):
        dist = np.concatenate([
            np.sqrt(((x[a : a + 4096].astype(np.float64) - x[i]) ** 2).sum(1)).mean(1)
            for a in range(probes, len(x), 4096)
        ])  # fmt: skip
        match = (np.arange(probes, len(x)) - i) % people == 0
        places = np.flatnonzero(match[np.argsort(dist, kind="stable")]) + 1
        found.append(float((np.arange(1, len(places) + 1) / places).mean()))
    return found


def main(words: list[str] | None = None) -> int:
    options = parser(__doc__, turns=1)
    options.add_argument("folder", type=Path)
    options.add_argument("--probes", type=int, default=1000)
    options.add_argument("--gallery", type=int, default=1_000_000)
    options.add_argument("--slices", default="", help="sizes of smaller galleries, with commas")
    args = options.parse_args(words)
    if args.tiny:
        args.probes, args.gallery, args.slices = 6, 40, "20"
    start()
    people, rows, path = max(10, args.probes * 2), [], args.folder / "bench_search.npy"
    try:
        x = write(path, args.probes + args.gallery, people)
        for entries in [*(int(k) for k in args.slices.split(",") if k), args.gallery]:
            some = x[: args.probes + entries]
            labels = [str(k % people) for k in range(len(some))]
            types = ["camid0_videoid0"] * args.probes + ["camid1_videoid0"] * entries
            views = [str(k) for k in range(len(some))]
            listed = {f"{labels[k]}-{types[k]}-{views[k]}" for k in range(args.probes)}
            kept: dict = {}
            before = own_memory()

            def way(some=some, names=(labels, types, views), listed=listed, kept=kept) -> None:
                kept.update(evaluate("evaluate_retrieval", some, *names, probes=listed))

            with Watch() as watch:
                seconds = [once(way, 0.0) for _ in range(args.turns)]
            rows.append(Row(f"{args.probes} probes x {entries} entries", {OURS: seconds}))
            rows[-1].figures = {"own memory at most, MiB": watch.most, "before, MiB": before,
                                "mAP": kept["metrics"]["mAP"]}  # fmt: skip
        wanted = plainly(x, args.probes, people)
        agree("search", {"plain": float(np.abs(kept["per_probe"]["ap"][:CHECKED] - wanted).max())}, 1e-6)
    finally:
        path.unlink(missing_ok=True)
    return finish(rows, args.json, args.turns)


if __name__ == "__main__":
    sys.exit(main())
