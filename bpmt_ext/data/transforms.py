"""A batch of poses (n, t, v, c) and its mask in, poses (n, t, v, c) out: preprocessing and augmentation.

Letters: n sequences, t frames, v joints, c channels (the skeleton's two or three coordinates x, y (, z), then, where
present, the confidence), d coordinates. mask (n, t) is True where a frame is real.
Every transform is pure and keeps dtype and device. Its numbers for a sequence's real frames depend on that sequence
and its key alone, not on padding or batch mates; padded frames stay finite. Random ones draw from `draws` only.
Sources: FastPoseGait's transforms as baselines.md section 2 describes them (those that say so), the others are ours.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import Skeleton, get_skeleton

_FLAT = 1e-6  # a figure lower than this has no height to scale by


def _number(owner: object, name: str, value: Any, low: float = float("-inf"), high: float = float("inf")) -> float:
    """`value` as a float within [low, high], or a UserError that names the transform and the parameter."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"transform {type(owner).__name__}: {name} is {value!r}; give a number in [{low:g}, {high:g}]")
    return float(value)


def _where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where `chosen` (n,) or (n, t), else `old`, both (n, t, v, c)."""
    return torch.where(chosen.reshape(chosen.shape + (1,) * (old.ndim - chosen.ndim)), new, old)


def _pick(pose: Tensor, joints: Sequence[int]) -> Tensor:
    """(n, t, v, c) -> (n, t, len(joints), c); several times faster than indexing with a list."""
    return pose.index_select(2, torch.tensor(joints, device=pose.device))


def _turn(place: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(n, t, v, 3) turned about y so that the horizontal direction (x, z) = (cos, sin) becomes +x."""
    x, y, z = place.unbind(-1)
    return torch.stack([x * cos + z * sin, y, z * cos - x * sin], -1)


def _normal_frames(draws: Draws, t: int, v: int, c: int) -> Tensor:
    """(n, t, v, c) float32, standard normal: two numbers from each 64-bit word, as this is a step's largest draw."""
    words = draws.bits(t, (v * c + 1) // 2)
    radius = torch.sqrt(-2 * torch.log1p(-((words >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24))
    angle = ((words >> 8) & 0xFFFFFF).to(torch.float32) * (2 * math.pi * 2.0**-24)
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    return pairs.flatten(2)[..., :v * c].unflatten(-1, (v, c))


class Transform:
    """Base: names the random ones, and turns a missing source of draws into a clear error."""

    random = False

    def __call__(self, pose: Tensor, mask: Tensor, draws: Draws | None = None) -> Tensor:
        if self.random and draws is None:
            raise ValueError(f"{type(self).__name__} is random and needs draws")
        return self.apply(pose, mask, draws)

    def apply(self, pose: Tensor, mask: Tensor, draws: Any) -> Tensor:
        """(n, t, v, c) -> (n, t, v, c)."""
        raise NotImplementedError


class _OnSkeleton(Transform):
    """Base of the transforms that must know the joints: `joint_format` is a format's name or a Skeleton."""

    def __init__(self, joint_format: str | Skeleton = "coco17") -> None:
        self.skeleton = joint_format if isinstance(joint_format, Skeleton) else get_skeleton(joint_format)

    def divide(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (n, t, v, d) and the other channels (n, t, v, c - d)."""
        skeleton = self.skeleton
        if pose.shape[2] != skeleton.num_joints or pose.shape[3] < skeleton.dims:
            raise UserError(f"transform {type(self).__name__}: joint_format {skeleton.name} has {skeleton.num_joints} "
                            f"joints of {skeleton.dims} coordinates, the poses have {pose.shape[2]} joints of "
                            f"{pose.shape[3]} channels; set joint_format to theirs")
        return pose[..., :skeleton.dims], pose[..., skeleton.dims:]

    def centre(self, place: Tensor, name: str) -> Tensor:
        """(n, t, 1, d): neck, hip or head of every frame, or the mean of its joints."""
        joints = place if name == "mean" else _pick(place, getattr(self.skeleton, name))
        return joints.mean(2, keepdim=True)

    def check_centre(self, name: str, *known: str) -> str:
        if name not in known:
            raise UserError(f"transform {type(self).__name__}: center is {name!r}; give one of {', '.join(known)}")
        return name

    def upright(self) -> None:
        """Refuses skeletons without a third coordinate."""
        if self.skeleton.dims != 3:
            raise UserError(f"transform {type(self).__name__} needs three coordinates, joint_format "
                            f"{self.skeleton.name} has {self.skeleton.dims}; take it out of the list")


class Compose(Transform):
    """One transform after the other; the i-th draws from `draws.split(i)`."""

    def __init__(self, trf_cfg: Sequence[Transform | Mapping[str, Any]] = ()) -> None:
        self.steps = tuple(t if isinstance(t, Transform) else build_transform(t) for t in trf_cfg)
        self.random = any(t.random for t in self.steps)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws | None) -> Tensor:
        for k, step in enumerate(self.steps):
            pose = step(pose, mask, draws.split(k) if step.random and draws is not None else None)
        return pose


class SkeletonInput(Transform):
    """Nothing to do: the engine's layout is (n, t, v, c) throughout."""

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        return pose


class RescaleCenter(_OnSkeleton):
    """Per frame: coordinates times scale / (max y - min y), then the centre (neck, hip or head) moved to the origin.

    A frame without height (an empty one) becomes all zeros instead of the host's infinities.
    """

    def __init__(self, center: str = "neck", scale: float = 225.0, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.center = self.check_centre(center, "neck", "hip", "head")
        self.scale = _number(self, "scale", scale)

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        low, high = place[..., 1].aminmax(dim=2)
        height = high - low  # (n, t)
        factor = torch.where(height > _FLAT, self.scale / height.clamp(min=_FLAT), 0.0)
        place = place * factor[..., None, None]
        return torch.cat([place - self.centre(place, self.center), rest], -1)


class NormalizeEmpty(_OnSkeleton):
    """Lost joints (x == 0) go to the mean of their frame's joints, their other channels to 0.

    All of a frame at once, from the frame as it came; the host replaces joint after joint, each mean including the
    replacements before it, so that numbers agree with one lost joint in a frame and differ slightly with several.
    """

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        lost = place[..., :1] == 0  # (n, t, v, 1)
        return torch.cat([torch.where(lost, self.centre(place, "mean"), place), rest.masked_fill(lost, 0)], -1)


class FillMissing(_OnSkeleton):
    """Lost joints (confidence 0, or all coordinates 0) are interpolated between the nearest frames that saw them.

    Before the first and after the last sighting the joint is held. A joint never seen in the sequence goes to the mean
    of its frame's other joints (after their own filling). A lost joint's other channels become 0: it stays marked.
    """

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        lost = (place == 0).all(-1)  # (n, t, v)
        if rest.shape[-1]:
            lost = lost | (rest[..., 0] == 0)
        row, joint = lost.any(1).nonzero(as_tuple=True)  # the k tracks with something to fill
        if not len(row):
            return pose
        tracks, gaps = place.transpose(1, 2).contiguous(), lost.transpose(1, 2).contiguous()  # (n, v, t, ...)
        filled, ever = self.interpolate(tracks[row, joint], ~gaps[row, joint] & mask[row])
        place = tracks.index_put((row, joint), filled).transpose(1, 2)
        known = torch.ones_like(gaps[..., 0]).index_put((row, joint), ever)[:, None, :, None]  # (n, 1, v, 1)
        mean = (place * known).sum(2, keepdim=True) / known.sum(2, keepdim=True).clamp(min=1)
        return torch.cat([torch.where(known, place, mean), rest.masked_fill(lost[..., None], 0)], -1)

    @staticmethod
    def interpolate(track: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Tracks (k, t, d), seen (k, t) -> the tracks without gaps and ever (k,): whether there was a sighting."""
        t = track.shape[1]
        time = torch.arange(t, device=track.device)
        before = torch.where(seen, time, -1).cummax(1).values
        after = torch.where(seen, time, t).flip(1).cummin(1).values.flip(1)
        low = torch.where(before >= 0, before, after).clamp(max=t - 1)
        high = torch.where(after < t, after, before).clamp(min=0)
        share = (time - low).clamp(min=0).to(track.dtype) / (high - low).clamp(min=1)
        start, end = (track.gather(1, i[..., None].expand_as(track)) for i in (low, high))
        return start + share[..., None] * (end - start), seen.any(1)


class HipHeading(_OnSkeleton):
    """3D: the hip centre at the origin in every frame, and the walker turned about the vertical axis y to face +z.

    Heading = the horizontal normal of the line from the right to the left hip, after a moving average of that line
    over `smooth` frames (odd; fewer at the ends, padding left out). The left hip then lies on the side of +x; in
    left-handed axes the walker faces -z, in every sequence alike. A line without horizontal extent is not turned.
    """

    def __init__(self, joint_format: str | Skeleton = "kinect20", smooth: int = 15) -> None:
        super().__init__(joint_format)
        self.upright()
        self.smooth = int(_number(self, "smooth", smooth, 1))
        if self.smooth % 2 == 0:
            raise UserError(f"transform HipHeading: smooth is {smooth}; give an odd number: {self.smooth + 1}")

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        left, right = self.skeleton.hips
        line = (place[:, :, left] - place[:, :, right])[..., ::2] * mask[..., None]  # (n, t, 2): x, z
        # Every window is divided by `smooth`, the cut ones at the ends too: only the direction counts.
        line = F.avg_pool1d(line.transpose(1, 2), self.smooth, 1, self.smooth // 2)  # (n, 2, t)
        length = line.norm(dim=1, keepdim=True)
        forward = line.new_tensor([1.0, 0.0])[:, None]
        line = torch.where(length > _FLAT, line / length.clamp(min=_FLAT), forward)  # (n, 2, t)
        cos, sin = line[..., None].unbind(1)  # (n, t, 1)
        return torch.cat([_turn(place - self.centre(place, "hip"), cos, sin), rest], -1)


class InversePosesPre(_OnSkeleton):
    """Per frame, with this probability: left and right joints exchange places, without mirroring (the host's)."""

    random = True

    def __init__(self, probability: float = 0.5, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.probability = _number(self, "probability", probability, 0, 1)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        self.divide(pose)  # refuses poses of another format
        chosen = draws.uniform(pose.shape[1]) < self.probability
        return _where(chosen, _pick(pose, self.skeleton.mirror), pose)


class MirrorPoses(Transform):
    """Per sequence, with this probability: x -> 2 * mean x - x in every frame, joints keep their names (the host's)."""

    random = True

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = _number(self, "probability", probability, 0, 1)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        x = pose[..., :1]
        mirrored = torch.cat([2 * x.mean(2, keepdim=True) - x, pose[..., 1:]], -1)
        return _where(draws.uniform() < self.probability, mirrored, pose)


class MirrorSkeleton(_OnSkeleton):
    """Per sequence, with this probability: the true mirror image, left becomes right and x turns about the centre.

    center: the mean of the frame's joints, or neck, hip or head: after a centring transform name the same centre, and
    it stays at the origin.
    """

    random = True

    def __init__(self, probability: float = 0.5, center: str = "mean", joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.probability = _number(self, "probability", probability, 0, 1)
        self.center = self.check_centre(center, "mean", "neck", "hip", "head")

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        place, _ = self.divide(pose)
        swapped = _pick(pose, self.skeleton.mirror)
        x = 2 * self.centre(place[..., :1], self.center) - swapped[..., :1]
        return _where(draws.uniform() < self.probability, torch.cat([x, swapped[..., 1:]], -1), pose)


class FlipSequence(Transform):
    """Per sequence, with this probability: the real frames backwards; padding stays behind them."""

    random = True

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = _number(self, "probability", probability, 0, 1)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        backwards = (mask.sum(1, keepdim=True) - 1 - torch.arange(pose.shape[1], device=pose.device)).clamp(min=0)
        rows = torch.arange(len(pose), device=pose.device)[:, None]
        return _where(draws.uniform() < self.probability, pose[rows, backwards], pose)


class PointNoise(Transform):
    """Adds normal noise to every entry, confidence included (as the host does)."""

    random = True

    def __init__(self, std: float = 0.15) -> None:
        self.std = _number(self, "std", std, 0)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        return pose + (self.std * _normal_frames(draws, *pose.shape[1:])).to(pose.dtype)


class JointNoise(_OnSkeleton):
    """Adds normal noise to every joint's coordinates, the same in all frames of a sequence."""

    random = True

    def __init__(self, std: float = 0.15, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.std = _number(self, "std", std, 0)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        place, rest = self.divide(pose)
        noise = (self.std * draws.normal(*place.shape[2:])).to(pose.dtype)  # (n, v, d)
        return torch.cat([place + noise[:, None], rest], -1)


class RandomMove(Transform):
    """Shifts a sequence as a whole: coordinate i by a uniform amount in [-random_r[i], random_r[i])."""

    random = True

    def __init__(self, random_r: Sequence[float] = (4, 1)) -> None:
        if isinstance(random_r, str) or not isinstance(random_r, Sequence) or not 1 <= len(random_r) <= 3:
            raise UserError(f"transform RandomMove: random_r is {random_r!r}; give a number per coordinate: [4, 1]")
        self.reach = [_number(self, "random_r", r, 0) for r in random_r]

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        d = len(self.reach)
        shift = draws.uniform(d, low=-1.0) * torch.tensor(self.reach, device=pose.device)
        return torch.cat([pose[..., :d] + shift[:, None, None].to(pose.dtype), pose[..., d:]], -1)


class RandomScale(_OnSkeleton):
    """Multiplies a sequence's coordinates by one factor, uniform in [low, high)."""

    random = True

    def __init__(self, low: float = 0.9, high: float = 1.1, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.low = _number(self, "low", low)
        self.high = _number(self, "high", high, self.low)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        place, rest = self.divide(pose)
        factor = draws.uniform(low=self.low, high=self.high).to(pose.dtype)
        return torch.cat([place * factor[:, None, None, None], rest], -1)


class RandomYaw(_OnSkeleton):
    """3D: turns a sequence as a whole about the vertical axis y, by an angle uniform in [-angle, angle) radians."""

    random = True

    def __init__(self, angle: float = 0.2, joint_format: str | Skeleton = "kinect20") -> None:
        super().__init__(joint_format)
        self.upright()
        self.angle = _number(self, "angle", angle, 0)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        place, rest = self.divide(pose)
        angle = draws.uniform(low=-self.angle, high=self.angle).to(pose.dtype)[:, None, None]
        return torch.cat([_turn(place, angle.cos(), angle.sin()), rest], -1)


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
