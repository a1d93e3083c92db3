"""A batch of poses (n, t, v, c), its mask and draws in, poses normalised and augmented as actions need it out.

Letters: n sequences, t frames, v joints (of two bodies one after the other: a skeleton of 2 v), c channels (two or
three coordinates, then, where present, the confidence), d coordinates. mask (n, t) is True where a frame is real.
Rules as in `preprocessing.py`. Sources: the loaders of CTR-GCN (crop, resize, rotation) and SkateFormer (box, lost
joints) as tlca.md section 5 describes them; shear after AimCLR (Guo et al., AAAI 2022); Part-Mask and the order of the
rotations about the axes after IIP-Transformer (Wang et al., arXiv 2110.13385).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bpmt_ext.data.preprocessing import OnSkeleton, Transform, number
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import PART_NAMES, Skeleton

_FLAT = 1e-6  # an axis along which a clip is no longer than this has no extent to scale by


def whole(owner: object, name: str, value: Any, low: int) -> int:
    """`value` as a whole number of at least `low`, or a UserError that names the transform and the parameter."""
    found = int(number(owner, name, value, low))
    if found != value:
        raise UserError(f"transform {type(owner).__name__}: {name} is {value!r}; give a whole number")
    return found


class _Resized(Transform):
    """Base of those that cut a run of frames out and stretch or shrink it to `frames` by linear interpolation.

    Frame i of the result lies at (i + 1/2) length / frames - 1/2 of the run, held at its ends (as images are resized);
    nothing of the result is padding.
    """

    reframes = True
    frames: int

    def run(self, length: Tensor, draws: Any) -> tuple[Tensor, Tensor]:
        """length (n,) of sequences -> first frame (n,) and number of frames (n,) of the run."""
        raise NotImplementedError

    def apply_frames(self, pose: Tensor, mask: Tensor, draws: Any) -> tuple[Tensor, Tensor]:
        first, count = (x[:, None] for x in self.run(mask.sum(1), draws))
        step = torch.arange(self.frames, device=pose.device, dtype=torch.float64) + 0.5
        place = (step * count / self.frames - 0.5).clamp(min=0).minimum(count - 1.0)  # (n, frames)
        low = place.floor().long()
        high = torch.minimum(low + 1, count - 1)
        rows = torch.arange(pose.shape[0], device=pose.device)[:, None]
        start, end = pose[rows, first + low], pose[rows, first + high]
        share = (place - low).to(pose.dtype)[..., None, None]
        return start + share * (end - start), torch.ones_like(low, dtype=torch.bool)


class TemporalCrop(_Resized):
    """A run of frames, its share of the sequence uniform in [low, high), its place uniform, resized to `frames`.

    least: the run has at least so many frames, or all where there are fewer. `CenterCrop` is for the test.
    """

    random = True

    def __init__(self, frames: int = 64, low: float = 0.5, high: float = 1.0, least: int = 8) -> None:
        self.frames, self.least = whole(self, "frames", frames, 1), whole(self, "least", least, 1)
        self.low = number(self, "low", low, 0, 1)
        self.high = number(self, "high", high, self.low, 1)

    def run(self, length: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        share = draws.split("share").uniform(low=self.low, high=self.high).double()
        count = torch.minimum((share * length).round().long().clamp(min=self.least), length)
        return draws.split("place").integers(length - count + 1), count


class CenterCrop(_Resized):
    """The middle `ratio` of every sequence (at least one frame), resized to `frames`; 1 only resizes."""

    def __init__(self, frames: int = 64, ratio: float = 0.95) -> None:
        self.frames, self.ratio = whole(self, "frames", frames, 1), number(self, "ratio", ratio, 0, 1)

    def run(self, length: Tensor, draws: None) -> tuple[Tensor, Tensor]:
        count = (self.ratio * length.double()).round().long().clamp(min=1)
        return torch.div(length - count, 2, rounding_mode="floor"), count


class DropJoints(OnSkeleton):
    """Per sequence, with this probability: some joints or body parts are lost for a while.

    unit: joint or part. Exactly max(1, round(share * units)) units, any with equal chance, become 0 in all channels, in
    one run of max(1, round(span * real frames)) frames at a uniform place. Put it after the transforms that centre.
    """

    random = True

    def __init__(self, probability: float = 0.5, unit: str = "joint", share: float = 0.3, span: float = 1.0,
                 joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.probability = number(self, "probability", probability, 0, 1)
        self.share, self.span = number(self, "share", share, 0, 1), number(self, "span", span, 0, 1)
        if unit not in ("joint", "part"):
            raise UserError(f"transform DropJoints: unit is {unit!r}; give joint or part")
        joints = range(self.skeleton.num_joints)
        self.units = self.skeleton.parts if unit == "part" else tuple((j,) for j in joints)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        self.divide(pose)  # refuses poses of another format
        t, units, length = pose.shape[1], len(self.units), mask.sum(1)
        order = draws.split("units").uniform(units).argsort(dim=1).argsort(dim=1)  # (n, units): ranks of the noise
        member = torch.zeros(units, pose.shape[2], dtype=torch.bool, device=pose.device)
        for i, joints in enumerate(self.units):
            member[i, list(joints)] = True
        lost = ((order < max(1, round(self.share * units)))[:, :, None] & member).any(1)  # (n, v)
        count = (self.span * length.double()).round().long().clamp(min=1)
        first = draws.split("first").integers(length - count + 1)[:, None]
        time = torch.arange(t, device=pose.device)
        during = (time >= first) & (time < first + count[:, None])  # (n, t)
        chosen = draws.split("chosen").uniform() < self.probability
        gone = during[:, :, None] & lost[:, None] & chosen[:, None, None]
        return pose.masked_fill(gone[..., None], 0)


class PartMask(OnSkeleton):
    """Per sequence, with this probability: one body part, any with equal chance, is 0 in all frames and channels.

    Each body of a pose is masked for itself. IIP-Transformer's Part-Mask on the input, for any network; its own network
    masks the part's features (part_mask). Put it after the transforms that centre.
    """

    random = True

    def __init__(self, probability: float = 0.5, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.probability = number(self, "probability", probability, 0, 1)

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        self.divide(pose)  # refuses poses of another format
        parts = self.skeleton.parts
        bodies = len(parts) // len(PART_NAMES)
        part = draws.split("part").integers(len(PART_NAMES), bodies)  # (n, b)
        part = torch.where(draws.split("chosen").uniform(bodies) < self.probability, part, -1)
        gone = torch.zeros(len(pose), pose.shape[2], dtype=torch.bool, device=pose.device)
        for i, joints in enumerate(parts):
            body, number_of_part = divmod(i, len(PART_NAMES))
            gone[:, list(joints)] |= (part[:, body] == number_of_part)[:, None]
        return pose.masked_fill(gone[:, None, :, None], 0)


class _Linear(OnSkeleton):
    """Base of those that apply one matrix, drawn per sequence, to all its coordinates: about the origin."""

    random = True

    def matrix(self, draws: Draws) -> Tensor:
        """(n, d, d) by which a coordinate vector is multiplied from the left."""
        raise NotImplementedError

    def apply(self, pose: Tensor, mask: Tensor, draws: Draws) -> Tensor:
        place, rest = self.divide(pose)
        matrix = self.matrix(draws).to(pose.dtype)  # (n, d, d)
        return torch.cat([(place.flatten(1, 2) @ matrix.transpose(1, 2)).view_as(place), rest], -1)


class Rotate3D(_Linear):
    """3D: turns a sequence about x, then y, then z, each by an angle uniform in [-angles[i], angles[i]) radians."""

    def __init__(self, angles: Sequence[float] = (0.3, 0.3, 0.3), joint_format: str | Skeleton = "ntu25") -> None:
        super().__init__(joint_format)
        self.upright()
        if isinstance(angles, str) or not isinstance(angles, Sequence) or len(angles) != 3:
            raise UserError(f"transform Rotate3D: angles is {angles!r}; give one for each axis: [0.3, 0.3, 0.3]")
        self.angles = [number(self, "angles", angle, 0) for angle in angles]

    def matrix(self, draws: Draws) -> Tensor:
        angle = draws.uniform(3, low=-1.0) * torch.tensor(self.angles, device=draws.keys.device)  # (n, 3)
        turned = torch.eye(3, device=angle.device).expand(len(angle), 3, 3)
        for axis in range(3):
            cos, sin = angle[:, axis].cos(), angle[:, axis].sin()
            a, b = (axis + 1) % 3, (axis + 2) % 3
            one = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
            one[:, a, a], one[:, a, b], one[:, b, a], one[:, b, b] = cos, -sin, sin, cos
            turned = one @ turned
        return turned


class Rotate2D(_Linear):
    """2D: turns a sequence in the picture plane by an angle uniform in [-angle, angle) radians."""

    def __init__(self, angle: float = 0.2, joint_format: str | Skeleton = "penn13") -> None:
        super().__init__(joint_format)
        self.flat("Rotate3D is what turns 3D poses")
        self.angle = number(self, "angle", angle, 0)

    def matrix(self, draws: Draws) -> Tensor:
        angle = draws.uniform(low=-self.angle, high=self.angle)
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))


class ScaleAxes(_Linear):
    """Multiplies every coordinate axis of a sequence by a factor of its own, uniform in [low, high)."""

    def __init__(self, low: float = 0.8, high: float = 1.2, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.low = number(self, "low", low)
        self.high = number(self, "high", high, self.low)

    def matrix(self, draws: Draws) -> Tensor:
        return torch.diag_embed(draws.uniform(self.skeleton.dims, low=self.low, high=self.high))


class Shear(_Linear):
    """Adds to every coordinate of a sequence each other one, times an amount uniform in [-amount, amount)."""

    def __init__(self, amount: float = 0.3, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.amount = number(self, "amount", amount, 0)

    def matrix(self, draws: Draws) -> Tensor:
        d = self.skeleton.dims
        one = torch.eye(d, device=draws.keys.device)
        return one + (1 - one) * draws.uniform(d, d, low=-self.amount, high=self.amount)


class CenterOn(OnSkeleton):
    """Moves a point to the origin: of the first frame, the same shift for the whole sequence, or of each frame.

    center: neck, hip, head or mean, or the name of a joint; of several bodies the first one's (mean: of all). frames:
    first or each.
    """

    def __init__(self, center: str = "hip", frames: str = "first", joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.centres |= {name: (j,) for j, name in enumerate(self.skeleton.joints) if name not in self.centres}
        self.center = self.check_centre(center, "mean", *self.centres)
        if frames not in ("first", "each"):
            raise UserError(f"transform CenterOn: frames is {frames!r}; give first or each")
        self.frames = frames

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        centre = self.centre(place, self.center)  # (n, t, 1, d)
        return torch.cat([place - (centre[:, :1] if self.frames == "first" else centre), rest], -1)


class UnitBox(OnSkeleton):
    """Scales a clip so that over its real frames and joints every axis runs from -1 to 1; a flat axis becomes 0.

    together: one factor for all axes, that of the longest, so that proportions survive; the box is centred all the
    same.
    """

    def __init__(self, together: bool = False, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        if not isinstance(together, bool):
            raise UserError(f"transform UnitBox: together is {together!r}; give true or false")
        self.together = together

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        padding = ~mask[:, :, None, None]
        low = place.masked_fill(padding, torch.inf).amin((1, 2), keepdim=True)  # (n, 1, 1, d)
        high = place.masked_fill(padding, -torch.inf).amax((1, 2), keepdim=True)
        half = (high - low) / 2
        half = half.amax(-1, keepdim=True) if self.together else half
        place = torch.where(half > _FLAT, (place - (low + high) / 2) / half.clamp(min=_FLAT), 0.0)
        # padded frames may hold anything finite; they must not leave the range of numbers
        return torch.cat([place.masked_fill(padding, 0), rest], -1)


ACTIONS: tuple[type[Transform], ...] = (
    TemporalCrop, CenterCrop, DropJoints, PartMask, Rotate3D, Rotate2D, ScaleAxes, Shear, CenterOn, UnitBox,
)  # fmt: skip
