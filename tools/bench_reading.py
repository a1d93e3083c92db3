#!/usr/bin/env python3
"""A folder in, how long it takes to open a data set of made-up walks there and to read it, packed and as pickles, out.

    python tools/bench_reading.py FOLDER [--sequences 100000] [--json FILE]

Everything is warm: the system has the files in memory. `opening` finds the sequences and their lengths, `reading` gives
every frame of each once (their sum, so that mapped pages are touched too).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import process_time

import numpy as np
from benching import OURS, agree, finish, in_turns, own_memory, parser, start

from bpmt_ext.config_schema import DataConfig
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.data.sequences import SequenceSet, load_splits


def write(root: Path, sequences: int) -> Path:
    """That many walks (60, 17, 3), fifty of a label, and their partition."""
    partition, rng = root / "partition.json", np.random.default_rng(0)
    labels = [f"{k:05d}" for k in range(-(-sequences // 50))]
    pose = rng.random((60, 17, 3), dtype=np.float32)
    for k in range(sequences):
        folder = root / labels[k // 50] / "nm" / f"{k % 50:02d}"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            write_pickle(folder / "pose.pkl", pose + np.float32(k % 7))
    partition.write_text(json.dumps({"TRAIN_SET": labels, "TEST_SET": []}))
    return partition


def total(sequences: SequenceSet) -> float:
    """The sum of all numbers."""
    return float(sum(sequences.read(i).sum() for i in range(len(sequences))))


def main(words: list[str] | None = None) -> int:
    options = parser(__doc__, turns=3)
    options.add_argument("folder", type=Path, help="where the pickles are, or will be written")
    options.add_argument("--sequences", type=int, default=100_000)
    args = options.parse_args(words)
    if args.tiny:
        args.sequences, args.turns = 20, 1
    start()
    partition = write(args.folder, args.sequences)
    given = {"dataset_name": "made-up", "dataset_root": str(args.folder), "dataset_partition": str(partition),
             "cache": False}  # fmt: skip
    plain, packed = DataConfig(**given), DataConfig(**given, packed=True)
    begin = process_time()
    load_splits(packed, joints=17)
    building = process_time() - begin

    def opened(data: DataConfig) -> SequenceSet:
        train = load_splits(data, joints=17).train
        train.lengths()
        return train

    sets: dict[str, SequenceSet] = {}
    sums: dict[str, float] = {}
    opening = {name: lambda k=name, data=data: sets.update({k: opened(data)}) for name, data in
               ((OURS, packed), ("pickles", plain))}  # fmt: skip
    reading = {name: lambda k=name: sums.update({k: total(sets[k])}) for name in opening}
    what = f"{args.sequences} sequences"
    rows = [in_turns(f"opening {what}", opening, turns=args.turns)]
    rows.append(in_turns(f"reading {what}", reading, turns=args.turns))
    agree("reading", {"pickles": abs(sums[OURS] - sums["pickles"])}, 1e-6)
    rows[0].figures = {"seconds to build the pack": building}
    rows[1].figures = {"own memory, MiB": own_memory()}
    return finish(rows, args.json, args.turns)


if __name__ == "__main__":
    sys.exit(main())
