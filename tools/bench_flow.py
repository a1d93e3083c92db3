"""Lengths of a sequence in, what a training step of an encoder layer costs with Flow-Attention beside torch's own, out.

    python tools/bench_flow.py [--width 64 --heads 4 --groups 10 --sequences 2] [--turns 7]

Both ways run in one process and in turns, on one thread; time is the process's, so that a busy machine slows both. A
row says the median over the turns of sdpa / flow (above 1: flow is faster) with its quartiles.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from time import process_time

import numpy as np
import torch

from bpmt_ext.nets.grouped import GroupedEncoder

LENGTHS = (30, 60, 120, 240, 480)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare Flow-Attention with scaled dot-product attention.")
    for name, value in (("width", 64), ("heads", 4), ("groups", 10), ("sequences", 2), ("turns", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    sizes = {"groups": args.groups, "width": args.width, "heads": args.heads, "layers": 1, "dropout": 0.0,
             "feedforward": 2 * args.width, "attention_dropout": 0.0}  # fmt: skip
    nets = {kernel: GroupedEncoder(attention=kernel, **sizes) for kernel in ("sdpa", "flow")}
    rows = ["| frames | sdpa / flow | quartiles | sdpa, ms | flow, ms |", "|---|---|---|---|---|"]
    for frames in LENGTHS:
        x, mask = torch.randn(args.groups, args.sequences, frames, args.width), torch.ones(args.sequences, frames) > 0
        mask[0, frames // 2 :] = False
        spent: dict[str, list[float]] = {kernel: [] for kernel in nets}
        for turn in range(args.turns + 1):  # the first warms up
            for kernel, net in nets.items():
                start = process_time()
                net(x, mask).square().mean().backward()
                if turn:
                    spent[kernel].append(process_time() - start)
        low, ratio, high = np.percentile(np.array(spent["sdpa"]) / np.array(spent["flow"]), (25, 50, 75))
        times = (f"{1000 * np.median(spent[kernel]):.1f}" for kernel in nets)
        rows.append(f"| {frames} | {ratio:.2f} | {low:.2f}-{high:.2f} | {' | '.join(times)} |")
    sys.stdout.write("\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
