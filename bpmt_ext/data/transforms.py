"""The `transform` entry of a config in, one transform (n, t, v, c) -> (n, t, v, c) out: the table of all of them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bpmt_ext.data.augmentation import (
    FlipSequence,
    InversePosesPre,
    JointNoise,
    MirrorPoses,
    MirrorSkeleton,
    PointNoise,
    RandomMove,
    RandomScale,
    RandomYaw,
)
from bpmt_ext.data.preprocessing import (
    FillMissing,
    HipHeading,
    NormalizeEmpty,
    RescaleCenter,
    SkeletonInput,
    Transform,
)
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import Skeleton


class Compose(Transform):
    """One transform after the other; the i-th draws from `draws.split(i)`."""

    def __init__(self, trf_cfg: Sequence[Transform | Mapping[str, Any]] = ()) -> None:
        self.steps = tuple(t if isinstance(t, Transform) else build_transform(t) for t in trf_cfg)
        self.random = any(t.random for t in self.steps)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws | None) -> Tensor:
        for k, step in enumerate(self.steps):
            pose = step(pose, mask, draws.split(k) if step.random and draws is not None else None)
        return pose


TRANSFORMS: dict[str, type[Transform]] = {
    c.__name__: c for c in (
        Compose, SkeletonInput, RescaleCenter, NormalizeEmpty, FillMissing, HipHeading, InversePosesPre, MirrorPoses,
        MirrorSkeleton, FlipSequence, PointNoise, JointNoise, RandomMove, RandomScale, RandomYaw)
}


def _hint(name: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), known, 1)
    return f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known) or 'none'}"


def _build_one(cfg: Any, skeleton: Skeleton | None) -> Transform:
    """One {type: ..., parameter: ...} entry."""
    if not isinstance(cfg, Mapping) or not isinstance(cfg.get("type"), str):
        raise UserError(f"transform: {cfg!r} is no entry of the form {{type: RescaleCenter, ...}}; write it so")
    cls = TRANSFORMS.get(cfg["type"])
    if cls is None:
        raise UserError(f"transform: type {cfg['type']!r} is unknown; the table of transforms: "
                        f"{_hint(cfg['type'], list(TRANSFORMS))}")
    if cls is Compose:
        extra = set(cfg) - {"type", "trf_cfg"}
        if extra:
            raise UserError(f"transform Compose has no parameter {sorted(extra)[0]!r}; put the steps under trf_cfg")
        return Compose([_build_one(step, skeleton) for step in cfg.get("trf_cfg") or ()])
    known = [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "args", "kwargs")]
    given = {key: value for key, value in cfg.items() if key != "type"}
    for key in given:
        if key not in known:
            raise UserError(f"transform {cls.__name__} has no parameter {key!r}; {_hint(key, known)}")
    if skeleton is not None and "joint_format" in known:
        given.setdefault("joint_format", skeleton)
    return cls(**given)


def build_transform(cfg: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None,
                    skeleton: Skeleton | None = None) -> Compose:
    """The `transform` entry of a config as one Compose.

    cfg: a plain list of steps, one step, or the host's form [{type: Compose, trf_cfg: [...]}]. The host's list has one
    entry per modality: of several Composes the first, the pose's, is taken. skeleton: the data's, for every step that
    has a `joint_format` and does not name one. UserError on an unknown type or parameter, with the nearest known one.
    """
    if cfg is None:
        return Compose()
    steps = [cfg] if isinstance(cfg, Mapping) else cfg
    if isinstance(steps, str) or not isinstance(steps, Sequence):
        raise UserError(f"transform: {cfg!r} is no list; write [{{type: RescaleCenter, ...}}, ...]")
    if steps and all(isinstance(s, Mapping) and s.get("type") == "Compose" for s in steps):
        built = _build_one(steps[0], skeleton)
        assert isinstance(built, Compose)
        return built
    return Compose([_build_one(step, skeleton) for step in steps])
