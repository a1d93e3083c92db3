"""The `transform` entry of a config in, one transform (n, t, v, c) -> (n, t, v, c) out: the table of all of them."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bpmt_ext.data.actions import ACTIONS
from bpmt_ext.data.augmentation import (
    FlipSequence,
    InversePosesPre,
    JointNoise,
    MirrorPoses,
    MirrorSkeleton,
    PointNoise,
    RandomMove,
    RandomScale,
    RandomSelectSequence,
    RandomYaw,
    SelectSequenceCenter,
)
from bpmt_ext.data.coordinates import ScaleCoordinates
from bpmt_ext.data.inputs import GaitGraph_MultiInput, GaitGraphInput, GaitTR_MultiInput, HOD_MultiInput
from bpmt_ext.data.maps import CutMaps, RandomFlip, RandomPerspective, RandomRotate, SkeletonMaps
from bpmt_ext.data.preprocessing import (
    Affine,
    AffineExact,
    FillMissing,
    HipHeading,
    NormalizeEmpty,
    RescaleCenter,
    SkeletonInput,
    Transform,
)
from bpmt_ext.data.silhouette_transforms import SILHOUETTES
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import Skeleton, get_skeleton

_log = logging.getLogger(__name__)


class Compose(Transform):
    """One transform after the other; the i-th draws from `draws.split(i)`."""

    def __init__(self, trf_cfg: Sequence[Transform | Mapping[str, Any]] = ()) -> None:
        self.steps = tuple(t if isinstance(t, Transform) else build_transform(t) for t in trf_cfg)
        self.random = any(t.random for t in self.steps)
        self.reframes = any(t.reframes for t in self.steps)
        self.views = max((t.views for t in self.steps), default=1)
        acting = [t for t in self.steps if not isinstance(t, SkeletonInput)]
        for step, after in zip(acting, acting[1:], strict=False):
            if step.views > 1:  # the step after it would take the two views for one sequence
                raise UserError(f"transform TwoView is followed by {type(after).__name__}; put that under its trf_cfg")

    def apply_frames(self, pose: Tensor, mask: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor]:
        for k, step in enumerate(self.steps):
            pose, mask = step.reframe(pose, mask, draws.split(k) if step.random and draws is not None else None)
        return pose, mask


class TwoView(Transform):
    """The chain `trf_cfg` twice, with different draws: pose (n, 2 t, v, c), the first view, then the second.

    Both views have their own padding: mask (n, 2 t) is that of the first, then that of the second, and a network cuts
    in the middle of the time axis whatever the lengths are. joint_format: what the steps are told that name none.
    """

    reframes = True
    views = 2

    def __init__(self, trf_cfg: Sequence[Transform | Mapping[str, Any]] | Mapping[str, Any] = (),
                 joint_format: str | Skeleton = "coco17") -> None:
        skeleton = joint_format if isinstance(joint_format, Skeleton) else get_skeleton(joint_format)
        self.chain = build_transform(trf_cfg, skeleton)
        self.random = self.chain.random
        if self.chain.views > 1:
            raise UserError("transform TwoView holds another TwoView; two views are what the networks take")

    def apply_frames(self, pose: Tensor, mask: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor]:
        seen = [self.chain.reframe(pose, mask, None if draws is None else draws.split(view)) for view in (0, 1)]
        poses, masks = zip(*seen, strict=True)
        return torch.cat(poses, 1), torch.cat(masks, 1)


TRANSFORMS: dict[str, type[Transform]] = {
    c.__name__: c for c in (
        Compose, TwoView, SkeletonInput, RescaleCenter, NormalizeEmpty, FillMissing, HipHeading, Affine, AffineExact,
        InversePosesPre, MirrorPoses, MirrorSkeleton, FlipSequence, PointNoise, JointNoise, RandomMove, RandomScale,
        RandomYaw, RandomSelectSequence, SelectSequenceCenter, GaitGraph_MultiInput, GaitGraphInput, GaitTR_MultiInput,
        HOD_MultiInput, ScaleCoordinates, SkeletonMaps, CutMaps, RandomPerspective, RandomFlip, RandomRotate, *ACTIONS,
        *SILHOUETTES)
}
# What people write for the hosts, which drop it without a word: joint_format for a transform that treats all joints
# alike, and an angle that Affine does not read.
_LEFTOVERS: Mapping[str, tuple[str, ...]] = {
    **{c.__name__: ("joint_format",) for c in (SkeletonInput, MirrorPoses, FlipSequence, PointNoise, RandomMove,
                                               RandomSelectSequence, SelectSequenceCenter)},
    "Affine": ("fi",),
}


def add_transform(transform: type[Transform]) -> None:
    """Bring a transform of your own under its class's name. UserError for a name that is taken."""
    name = transform.__name__
    if name in TRANSFORMS:
        raise UserError(f"there is a transform {name!r} already; give yours another name")
    TRANSFORMS[name] = transform


def _hint(name: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), known, 1)
    return f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known) or 'none'}"


def _build_one(cfg: Any, skeleton: Skeleton | None) -> Transform:
    """One {type: ..., parameter: ...} entry, or a transform as it is."""
    if isinstance(cfg, Transform):
        return cfg
    if not isinstance(cfg, Mapping) or not isinstance(cfg.get("type"), str):
        raise UserError(f"transform: {cfg!r} is no entry of the form {{type: RescaleCenter, ...}}; write it so")
    cls = TRANSFORMS.get(cfg["type"])
    if cls is None:
        raise UserError(f"transform: type {cfg['type']!r} is unknown; the table of transforms: "
                        f"{_hint(cfg['type'], list(TRANSFORMS))}")
    given = {key: value for key, value in cfg.items() if key != "type"}
    for key in set(given).intersection(_LEFTOVERS.get(cls.__name__, ())):
        _log.warning("transform %s: %s: %r has no effect, in the hosts neither", cls.__name__, key, given.pop(key))
    if cls is Compose:
        extra = set(given) - {"trf_cfg"}
        if extra:
            raise UserError(f"transform Compose has no parameter {sorted(extra)[0]!r}; put the steps under trf_cfg")
        return Compose([_build_one(step, skeleton) for step in given.get("trf_cfg") or ()])
    known = [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "args", "kwargs")]
    for key in given:
        if key not in known:
            raise UserError(f"transform {cls.__name__} has no parameter {key!r}; {_hint(key, known)}")
    if skeleton is not None and "joint_format" in known:
        given.setdefault("joint_format", skeleton)
    return cls(**given)


def build_transform(cfg: Sequence[Transform | Mapping[str, Any]] | Mapping[str, Any] | None,
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
