"""A host in; rows of host_agreement.py on the transforms that it and the engine have under one name out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from host_agreement import Host, apart

from bpmt_ext.data.transforms import TRANSFORMS, build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.synthetic import make_sequence, make_walkers

EMPTY = "the host divides by the height of an empty frame; ours leaves zeros"
COARSE = "the host's law of cosines is coarse in single precision where an arm is short; ours is computed in double"
COCO_ORDER = "of 18 joints the host gives 17 angles, in the order of COCO's joints; ours are each joint's own"
INPUTS = [("coco", {"joint_format": "coco"}, "walk", ""), ("two frames", {}, "brief", ""),
          ("alphapose", {"joint_format": "alphapose"}, "walk18", "")]  # fmt: skip
FRAMES = 62
CASES: dict[str, list[tuple[str, dict[str, Any], str, str]]] = {  # name -> (what, parameters, which pose, differs)
    "SkeletonInput": [("layout", {}, "walk", "")],
    "RescaleCenter": [("neck, 225", {"center": "neck", "scale": 225}, "walk", ""),
                      ("hip, 1", {"center": "hip", "scale": 1}, "walk", ""),
                      ("head", {"center": "head", "scale": 225}, "walk", ""),
                      ("no centre", {"center": None}, "walk", ""),
                      ("an empty frame", {}, "empty", EMPTY)],
    "NormalizeEmpty": [("nothing lost", {}, "walk", ""), ("a lost joint", {}, "lost", ""),
                       ("three lost joints", {}, "lost3", ""), ("an empty frame", {}, "empty", "")],
    "Affine": [("as it walks", {}, "walk", ""), ("a level spine", {}, "level", "")],
    "GaitTR_MultiInput": INPUTS, "GaitGraph_MultiInput": INPUTS,
    "HOD_MultiInput": [("coco", {"joint_format": "coco"}, "anywhere", ""), INPUTS[1],
                       ("a bone without length", {}, "folded", ""), ("short arms", {}, "walk", COARSE),
                       (*INPUTS[2][:3], COCO_ORDER)],
    "RandomSelectSequence": [("one start", {"sequence_length": FRAMES - 1}, "walk", "")],
    "SelectSequenceCenter": [(f"{k} of {FRAMES} frames", {"sequence_length": k}, "walk", "") for k in (6, 7, FRAMES)],
    "TwoView": [("reversal, the middle, layout", {"trf_cfg": [
        {"type": "FlipSequence", "probability": 1}, {"type": "SelectSequenceCenter", "sequence_length": 7},
        {"type": "SkeletonInput"},
    ]}, "walk", "")],
    "InversePosesPre": [(f"probability {p}, {name}", {"probability": p, "joint_format": name}, pose, "")
                        for p in (0, 1) for name, pose in (("coco", "walk"), ("alphapose", "walk18"))],
    "MirrorPoses": [(f"probability {p}", {"probability": p}, "walk", "") for p in (0, 1)],
    "FlipSequence": [(f"probability {p}", {"probability": p}, "walk", "") for p in (0, 1)],
    "PointNoise": [("std 0", {"std": 0}, "walk", "")],
    "JointNoise": [("std 0", {"std": 0}, "walk", "")],
    "RandomMove": [("reach 0", {"random_r": [0, 0]}, "walk", "")],
    "BaseSilCuttingTransform": [("10 columns", {"divsor": 256}, "picture", ""),  # 1/256: exact in single precision
                                ("5 columns", {"divsor": 64, "cutting": 5}, "picture", "")],
    "RandomErasing": [("probability 0", {"probability": 0}, "picture", "")],
    "Compose": [("noise of 0, flip, layout", {"trf_cfg": [
        {"type": "PointNoise", "std": 0}, {"type": "FlipSequence", "probability": 1}, {"type": "SkeletonInput"},
    ]}, "walk", "")],
}  # fmt: skip
SPREADS: dict[str, dict[str, Any]] = {
    "PointNoise": {"std": 0.15}, "JointNoise": {"std": 0.3}, "RandomMove": {"random_r": [4, 1]},
    "FlipSequence": {"probability": 0.3}, "MirrorPoses": {"probability": 0.3}, "InversePosesPre": {"probability": 0.3},
    "RandomSelectSequence": {"sequence_length": 2},
}  # fmt: skip


def poses() -> dict[str, np.ndarray]:
    """Made-up walkers (t, v, c) float64 without a zero, and with what converters leave behind; a picture (t, h, w)."""
    walkers = make_walkers(np.arange(2), seed=3)
    walk = make_sequence(walkers, 0, 1, 0, seed=3)[0].astype(np.float64)
    walk[..., :2] += 1e-3 * np.random.default_rng(0).random(walk.shape[:2] + (2,)) + 1  # no lost joint, no float32
    found = {name: walk.copy() for name in ("walk", "lost", "lost3", "empty", "level", "anywhere")}
    found["lost"][3::4, 9] = found["lost3"][3::4, [2, 9, 15]] = 0
    found["empty"][5] = 0
    found["anywhere"] += 60 * np.random.default_rng(1).random(walk.shape)
    found["folded"] = found["anywhere"].copy()
    found["level"][::3, [5, 6, 11, 12], 1] = 3
    found["folded"][::3, 9] = found["folded"][::3, 7]
    found["picture"] = np.random.default_rng(2).integers(0, 256, (4, 64, 64)).astype(np.float64)
    return found | {"walk18": np.concatenate([walk, walk[:, 4:5] + 1], 1), "brief": walk[:2].copy()}


def host_parameters(host: Host, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Our parameters under the host's names; OpenGait's views are joined where another layout has its time axis."""
    if (host.name, name) == ("opengait", "TwoView"):
        return {"type": name, "trf_cfg": [*given["trf_cfg"][:-1], {"type": "GaitGraph1Input"}]}
    prob = (host.name, name) == ("opengait", "MirrorPoses") or name == "RandomErasing"
    renamed = {"probability": "prob"} if prob else {}
    return {"type": name, **{renamed.get(key, key): value for key, value in given.items()}}


def one_pose(host: Host, name: str, given: Mapping[str, Any], pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the host and what we make of one pose."""
    with np.errstate(all="ignore"):
        theirs = host.transform(host_parameters(host, name, given))(pose.copy())
    if theirs.shape[:2] == pose.shape[:2]:  # GaitGraph2's channels, three times five
        theirs = theirs.reshape(*pose.shape[:2], -1)
    if name == "TwoView":  # (c, t, v, 1) in both hosts
        theirs = theirs[..., 0].transpose(1, 2, 0)
    theirs = host.unpack(theirs[None])[0] if theirs.ndim == 4 else theirs
    ours = build_transform([{"type": name, **given}])
    x = torch.from_numpy(pose)[None]
    return theirs, ours(x, torch.ones(x.shape[:2], dtype=torch.bool), Draws.at(0, 0, [0]))[0].numpy()


def spread(out: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Statistics of random outputs (n, t, v, c): deviation by channel, over all and over time alone; the share of
    frames changed, and of sequences changed in some frames only; of windows (n, t' < t, v, c) how often each begins."""
    if out.shape[1] < len(pose):
        return np.stack([(out[:, 0] == frame).all((1, 2)).mean() for frame in pose])
    moved = out - pose
    changed = (moved != 0).any((2, 3))
    some = changed.any(1) & ~changed.all(1)
    return np.concatenate([moved.std((0, 1, 2)), moved.std(1).mean((0, 1)), [changed.mean(), some.mean()]])


def transforms(host: Host) -> None:
    """Every transform of poses that both sides have under one name."""
    ours = [name for name, made in TRANSFORMS.items() if made.__module__ != "bpmt_ext.data.maps"]
    named, both = poses(), sorted(name for name in ours if hasattr(host.module("data.transform"), name))
    for name in both:
        if name not in CASES:
            host.add("transform", name, {"count": 1}, note="on both sides, but not compared: add a case")
        for what, given, which, differs in CASES.get(name, []):
            kinds = {"single": np.float32, "double": np.float64}
            given_poses = {key: named[which].astype(kind) for key, kind in kinds.items()}
            figures = {key: apart(*one_pose(host, name, given, pose)) for key, pose in given_poses.items()}
            host.add("transform", f"{name}: {what}", figures, differs)
    ramp, n = named["walk"][:4].copy(), 4000
    for name in (name for name in both if name in SPREADS):
        given, x = SPREADS[name], torch.from_numpy(ramp)[None].expand(n, -1, -1, -1)
        np.random.seed(0)
        one = host.transform(host_parameters(host, name, given))
        theirs = np.stack([one(ramp.copy()) for _ in range(n)])
        mask = torch.ones(n, len(ramp), dtype=torch.bool)
        own = build_transform([{"type": name, **given}])(x, mask, Draws.at(0, 0, torch.arange(n))).numpy()
        what = ", ".join(f"{key} {value}" for key, value in given.items())
        host.add("transform", f"{name}: spread, {what}", {"spread": apart(spread(theirs, ramp), spread(own, ramp))})
