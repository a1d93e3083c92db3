#!/usr/bin/env python3
"""Batches of made-up walks in, how long it takes to make the networks' inputs of them, beside plain loops, out.

    FASTPOSEGAIT_HOME=PATH python tools/bench_transforms.py [--batch 128] [--json FILE]

Rows `double`: both sides compute in float64, and their numbers agree to 1e-6. Rows `as used`: ours in float32, as a
training takes them. `chain` is all that GaitTR's and GPGait's shipped configs do to a training batch.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from benching import OURS, Row, agree, apart, finish, host, in_turns, parser, start
from plain import INPUTS

from bpmt_ext.data.transforms import build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.skeletons import get_skeleton
from bpmt_ext.synthetic import make_sequence, make_walkers

CHAINS = {
    "GaitTR": [{"type": "PointNoise", "std": 0.3}, {"type": "InversePosesPre", "probability": 0.1},
               {"type": "JointNoise", "std": 0.3}, {"type": "GaitTR_MultiInput"}, {"type": "SkeletonInput"}],
    "GaitGraph2": [{"type": "FlipSequence", "probability": 0.5}, {"type": "InversePosesPre", "probability": 0.1},
                   {"type": "JointNoise", "std": 0.25}, {"type": "PointNoise", "std": 0.05},
                   {"type": "RandomMove", "random_r": [4, 1]}, {"type": "GaitGraph_MultiInput"}],
    "GPGait": [{"type": "NormalizeEmpty"}, {"type": "Affine"},
               {"type": "RescaleCenter", "center": "neck", "scale": 225},
               {"type": "HOD_MultiInput"}, {"type": "SkeletonInput"}],
}  # fmt: skip


def walks(batch: int, frames: int) -> np.ndarray:
    """(n, t, v, 3) float64: made-up walkers, no joint at exactly 0."""
    walkers = make_walkers(np.arange(batch), seed=1)
    made = [make_sequence(walkers, k, 0, 0, seed=1)[0] for k in range(batch)]
    pose = np.stack([one[np.arange(frames) % len(one)] for one in made]).astype(np.float64)
    return pose + np.random.default_rng(0).random(pose.shape)


def named(cfg: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps as a host's config writes them: the joints' format is said where it is asked for."""
    formatted = ("InversePosesPre", "NormalizeEmpty", "Affine", "RescaleCenter")
    return [step | ({"joint_format": "coco"} if "Multi" in step["type"] or step["type"] in formatted else {})
            for step in cfg]  # fmt: skip


def main(words: list[str] | None = None) -> int:
    options = parser(__doc__, turns=9)
    options.add_argument("--batch", type=int, default=128, help="sequences (default 128)")
    options.add_argument("--frames", type=int, default=60, help="frames of each (default 60)")
    args = options.parse_args(words)
    if args.tiny:
        args.batch, args.frames, args.turns = 4, 12, 2
    start()
    theirs, skeleton = host(), get_skeleton("coco17")
    poses = walks(args.batch, args.frames)
    double, mask = torch.from_numpy(poses), torch.ones(poses.shape[:2], dtype=torch.bool)
    single, rows = double.float(), []
    least = 0.0 if args.tiny else 0.05
    for name, plainly in INPUTS.items():
        ours = build_transform([{"type": name}], skeleton)
        ways = {"plain": lambda plainly=plainly: [plainly(pose, skeleton) for pose in poses]}
        if theirs is not None:
            made = theirs.transform(named([{"type": name}])[0])
            ways["host"] = lambda made=made: [made(pose) for pose in poses]
        found = ours(double, mask).numpy()
        agree(name, {way: apart(found, np.stack(each()).reshape(found.shape)) for way, each in ways.items()}, 1e-6)
        for what, pose in (("double", double), ("as used", single)):
            own = {OURS: lambda ours=ours, pose=pose: ours(pose, mask)}
            rows.append(in_turns(f"{name}, {what}", own | ways, turns=args.turns, least=least))
    for name, cfg in CHAINS.items():
        rows.append(chain(name, cfg, theirs, single, poses, mask, args.turns, least))
    for row in rows:
        row.figures = {"microseconds a sequence": 1e6 * row.median(OURS) / args.batch}
    return finish(rows, args.json, args.turns)


def chain(name: str, cfg: list[dict[str, Any]], theirs: Any, pose: torch.Tensor, poses: np.ndarray, mask: torch.Tensor,
          turns: int, least: float) -> Row:  # fmt: skip
    """A training's whole chain; the host rebuilds it for every batch, as its training does."""
    ours, draws = build_transform(cfg, get_skeleton("coco17")), Draws.at(0, 0, range(len(pose)))
    ways = {OURS: lambda: ours(pose, mask, draws)}
    if theirs is not None:
        given = [{"type": "Compose", "trf_cfg": named(cfg)}]
        ways["host"] = lambda: np.asarray([theirs.transform(given)[0](one) for one in poses.astype(np.float32)])
    return in_turns(f"chain of {name}, as used", ways, turns=turns, least=least)


if __name__ == "__main__":
    sys.exit(main())
