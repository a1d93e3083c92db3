"""A batch of poses (n, t, v, c), its mask and draws in, randomly changed poses out: augmentation for training.

Letters: n sequences, t frames, v joints, c channels (the skeleton's two or three coordinates x, y (, z), then, where
present, the confidence), d coordinates. mask (n, t) is True where a frame is real.
Rules and sources as in `preprocessing.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bpmt_ext.data.preprocessing import OnSkeleton, Transform, number, pick, turn, where
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import Skeleton


def _normal_frames(draws: Draws, t: int, v: int, c: int) -> Tensor:
    """(n, t, v, c) float32, standard normal: two numbers from each 64-bit word, as this is a step's largest draw."""
    words = draws.bits(t, (v * c + 1) // 2)
    radius = torch.sqrt(-2 * torch.log1p(-((words >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24))
    angle = ((words >> 8) & 0xFFFFFF).to(torch.float32) * (2 * math.pi * 2.0**-24)
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    return pairs.flatten(2)[..., :v * c].unflatten(-1, (v, c))


class InversePosesPre(OnSkeleton):
    """Per frame, with this probability: left and right joints exchange places, without mirroring (the host's)."""

    random = True

    def __init__(self, probability: float = 0.5, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.probability = number(self, "probability", probability, 0, 1)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        self.divide(pose)  # refuses poses of another format
        chosen = draws.uniform(pose.shape[1]) < self.probability
        return where(chosen, pick(pose, self.skeleton.mirror), pose)


class MirrorPoses(Transform):
    """Per sequence, with this probability: x -> 2 * mean x - x in every frame, joints keep their names (the host's)."""

    random = True

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = number(self, "probability", probability, 0, 1)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        x = pose[..., :1]
        mirrored = torch.cat([2 * x.mean(2, keepdim=True) - x, pose[..., 1:]], -1)
        return where(draws.uniform() < self.probability, mirrored, pose)


class MirrorSkeleton(OnSkeleton):
    """Per sequence, with this probability: the true mirror image, left becomes right and x turns about the centre.

    center: the mean of the frame's joints, or neck, hip or head: after a centring transform name the same centre, and
    it stays at the origin.
    """

    random = True

    def __init__(self, probability: float = 0.5, center: str = "mean", joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.probability = number(self, "probability", probability, 0, 1)
        self.center = self.check_centre(center, "mean", "neck", "hip", "head")

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        place, _ = self.divide(pose)
        swapped = pick(pose, self.skeleton.mirror)
        x = 2 * self.centre(place[..., :1], self.center) - swapped[..., :1]
        return where(draws.uniform() < self.probability, torch.cat([x, swapped[..., 1:]], -1), pose)


class FlipSequence(Transform):
    """Per sequence, with this probability: the real frames backwards (the host's); padding stays behind them."""

    random = True

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = number(self, "probability", probability, 0, 1)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        backwards = (mask.sum(1, keepdim=True) - 1 - torch.arange(pose.shape[1], device=pose.device)).clamp(min=0)
        rows = torch.arange(pose.shape[0], device=pose.device)[:, None]
        return where(draws.uniform() < self.probability, pose[rows, backwards], pose)


class PointNoise(Transform):
    """Adds normal noise to every entry, confidence included (the host's)."""

    random = True

    def __init__(self, std: float = 0.01) -> None:
        self.std = number(self, "std", std, 0)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        return pose + (self.std * _normal_frames(draws, *pose.shape[1:])).to(pose.dtype)


class JointNoise(OnSkeleton):
    """Adds normal noise to every joint's coordinates, the same in all frames of a sequence (the host's)."""

    random = True

    def __init__(self, std: float = 0.25, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.std = number(self, "std", std, 0)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        place, rest = self.divide(pose)
        noise = (self.std * draws.normal(*place.shape[2:])).to(pose.dtype)  # (n, v, d)
        return torch.cat([place + noise[:, None], rest], -1)


class RandomMove(Transform):
    """Shifts a sequence as a whole: coordinate i by a uniform amount in [-random_r[i], random_r[i]) (the host's)."""

    random = True

    def __init__(self, random_r: Sequence[float] = (4, 1)) -> None:
        if isinstance(random_r, str) or not isinstance(random_r, Sequence) or not 1 <= len(random_r) <= 3:
            raise UserError(f"transform RandomMove: random_r is {random_r!r}; give a number per coordinate: [4, 1]")
        self.reach = [number(self, "random_r", r, 0) for r in random_r]

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        d = len(self.reach)
        shift = draws.uniform(d, low=-1.0) * torch.tensor(self.reach, device=pose.device)
        return torch.cat([pose[..., :d] + shift[:, None, None].to(pose.dtype), pose[..., d:]], -1)


class RandomScale(OnSkeleton):
    """Multiplies a sequence's coordinates by one factor, uniform in [low, high)."""

    random = True

    def __init__(self, low: float = 0.9, high: float = 1.1, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.low = number(self, "low", low)
        self.high = number(self, "high", high, self.low)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        place, rest = self.divide(pose)
        factor = draws.uniform(low=self.low, high=self.high).to(pose.dtype)
        return torch.cat([place * factor[:, None, None, None], rest], -1)


class RandomYaw(OnSkeleton):
    """3D: turns a sequence as a whole about the vertical axis y, by an angle uniform in [-angle, angle) radians."""

    random = True

    def __init__(self, angle: float = 0.2, joint_format: str | Skeleton = "kinect20") -> None:
        super().__init__(joint_format)
        self.upright()
        self.angle = number(self, "angle", angle, 0)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        place, rest = self.divide(pose)
        angle = draws.uniform(low=-self.angle, high=self.angle).to(pose.dtype)[:, None, None]
        return torch.cat([turn(place, angle.cos(), angle.sin()), rest], -1)


class _Window(Transform):
    """Base of those that keep `sequence_length` frames in a row of every sequence: nothing of the result is padding.

    A shorter sequence, for which the hosts' transforms fail or keep next to nothing, is repeated as often as it takes,
    as sample_type fixed_ordered does; one of that length is kept as a whole.
    """

    reframes = True

    def __init__(self, sequence_length: int = 10) -> None:
        self.size = int(number(self, "sequence_length", sequence_length, 1))
        if self.size != sequence_length:
            raise UserError(f"transform {type(self).__name__}: sequence_length is {sequence_length}; "
                            "give a whole number of frames")

    def start(self, length: Tensor, tiled: Tensor, draws: Draws) -> Tensor:
        """The first frame (n,) of sequences of that length (n,), repeated to `tiled` frames (n,)."""
        raise NotImplementedError

    def apply_frames(self, pose: Tensor, mask: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        length = mask.sum(1)
        start = self.start(length, length * torch.div(length + self.size - 1, length, rounding_mode="floor"), draws)
        frame = (start[:, None] + torch.arange(self.size, device=pose.device)) % length[:, None]
        rows = torch.arange(pose.shape[0], device=pose.device)[:, None]
        return pose[rows, frame], torch.ones_like(frame, dtype=torch.bool)


class RandomSelectSequence(_Window):
    """`sequence_length` frames in a row from a uniform start in [0, t - sequence_length) (the host's: the last window
    is never taken); of a shorter sequence from any start that its repetition allows."""

    random = True

    def start(self, length: Tensor, tiled: Tensor, draws: Draws) -> Tensor:
        return draws.integers(tiled - self.size + (length <= self.size))


class SelectSequenceCenter(_Window):
    """The `sequence_length` frames in the middle, the earlier ones where there are two middles (the host's)."""

    def start(self, length: Tensor, tiled: Tensor, draws: None) -> Tensor:
        return (tiled - self.size) // 2
