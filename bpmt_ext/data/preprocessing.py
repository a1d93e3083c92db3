"""A batch of poses (n, t, v, c) and its mask in, cleaned and normalised poses out; and what all transforms share.

Letters: n sequences, t frames, v joints, c channels (the skeleton's two or three coordinates x, y (, z), then, where
present, the confidence), d coordinates. mask (n, t) is True where a frame is real.
Every transform is pure and keeps dtype and device. Its numbers for a sequence's real frames depend on that sequence
and its key alone, not on padding or batch mates; padded frames stay finite. Random ones draw from `draws` only.
Sources: RescaleCenter, NormalizeEmpty, Affine and SkeletonInput are FastPoseGait's, with its numbers and its quirks, as
baselines.md section 2 describes them; the others are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError
from bpmt_ext.exporting import exporting
from bpmt_ext.skeletons import Skeleton, get_skeleton

_FLAT = 1e-6  # a figure lower than this has no height to scale by


def number(owner: object, name: str, value: Any, low: float = float("-inf"), high: float = float("inf")) -> float:
    """`value` as a float within [low, high], or a UserError that names the transform and the parameter."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"transform {type(owner).__name__}: {name} is {value!r}; give a number in [{low:g}, {high:g}]")
    return float(value)


def where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where `chosen` (n,) or (n, t), else `old`, both (n, t, v, c)."""
    return torch.where(chosen.reshape(chosen.shape + (1,) * (old.ndim - chosen.ndim)), new, old)


def pick(pose: Tensor, joints: Sequence[int]) -> Tensor:
    """(n, t, v, c) -> (n, t, len(joints), c); several times faster than indexing with a list."""
    return pose.index_select(2, torch.tensor(joints, device=pose.device))


def sightings(seen: Tensor) -> tuple[Tensor, Tensor]:
    """seen (k, t) -> the last frame up to each one that saw it, -1 if none did, and the first from it on, else t.

    A table of the first, second, third ... sighting; ONNX has no running maximum.
    """
    k, t = seen.shape
    count = seen.long().cumsum(1)
    time = torch.arange(t, device=seen.device).expand(k, t)
    table = torch.full((k, t + 2), -1, device=seen.device)
    table = table.scatter(1, torch.where(seen, count, t + 1), time)  # in column 0 none, in the last one odds and ends
    after = torch.where(count - seen.long() < count[:, -1:], table.gather(1, count - seen.long() + 1), t)
    return table.gather(1, count), after


def turn(place: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(n, t, v, 3) turned about y so that the horizontal direction (x, z) = (cos, sin) becomes +x."""
    x, y, z = place.unbind(-1)
    return torch.stack([x * cos + z * sin, y, z * cos - x * sin], -1)


class Transform:
    """Base: names what is special about some, and turns a missing source of draws into a clear error.

    One that keeps the frames defines `apply`; one that changes their number says `reframes` and defines `apply_frames`.
    """

    random = False
    reframes = False  # it changes the number of frames, and so the mask
    views = 1  # sequences that lie one behind the other on its output's time axis

    def __call__(self, pose: Tensor, mask: Tensor, draws: Draws | None = None) -> Tensor:
        """The pose of `reframe`; for whoever knows that the mask stays, or has one sequence only."""
        return self.reframe(pose, mask, draws)[0]

    def reframe(self, pose: Tensor, mask: Tensor, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        """pose (n, t, v, c), mask (n, t) -> pose and mask, of another t where the transform `reframes`."""
        if self.random and draws is None:
            raise ValueError(f"{type(self).__name__} is random and needs draws")
        return self.apply_frames(pose, mask, draws)

    def apply_frames(self, pose: Tensor, mask: Tensor, draws: Any) -> tuple[Tensor, Tensor]:
        return self.apply(pose, mask, draws), mask

    def apply(self, pose: Tensor, mask: Tensor, draws: Any) -> Tensor:
        """(n, t, v, c) -> (n, t, v, c')."""
        raise NotImplementedError


class OnSkeleton(Transform):
    """Base of the transforms that must know the joints: `joint_format` is a format's name or a Skeleton."""

    def __init__(self, joint_format: str | Skeleton = "coco17") -> None:
        self.skeleton = skeleton = joint_format if isinstance(joint_format, Skeleton) else get_skeleton(joint_format)
        eyes = tuple(j for j, joint in enumerate(skeleton.joints) if joint in ("left_eye", "right_eye"))
        self.centres = {"neck": skeleton.neck, "hip": skeleton.hip, "head": eyes or skeleton.head}

    def divide(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (n, t, v, d) and the other channels (n, t, v, c - d)."""
        skeleton = self.skeleton
        if pose.shape[2] != skeleton.num_joints or pose.shape[3] < skeleton.dims:
            raise UserError(f"transform {type(self).__name__}: joint_format {skeleton.name} has {skeleton.num_joints} "
                            f"joints of {skeleton.dims} coordinates, the poses have {pose.shape[2]} joints of "
                            f"{pose.shape[3]} channels; set joint_format to theirs")
        return pose[..., :skeleton.dims], pose[..., skeleton.dims:]

    def centre(self, place: Tensor, name: str) -> Tensor:
        """(n, t, 1, d): neck, hip or head of every frame, or the mean of its joints.

        The head is the middle of the eyes, as in the host, or the skeleton's head where there are no eyes.
        """
        joints = place if name == "mean" else pick(place, self.centres[name])
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

    def flat(self, instead: str) -> None:
        """Refuses skeletons with a third coordinate."""
        if self.skeleton.dims != 2:
            raise UserError(f"transform {type(self).__name__} turns poses in the picture plane, joint_format "
                            f"{self.skeleton.name} has {self.skeleton.dims} coordinates; {instead}")


class SkeletonInput(Transform):
    """Nothing to do: the engine's layout is (n, t, v, c) throughout."""

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        return pose


class RescaleCenter(OnSkeleton):
    """Per frame: coordinates times scale / (max y - min y), then the centre (neck, hip or head) moved to the origin.

    center null or "None" leaves the poses as they are, as in the host. A frame without height (an empty one) becomes
    all zeros instead of the host's infinities.
    """

    def __init__(self, center: str | None = "neck", scale: float = 225.0,
                 joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.center = None if center in (None, "None") else self.check_centre(center, "neck", "hip", "head")
        self.scale = number(self, "scale", scale)

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        if self.center is None:
            return pose
        low, high = place[..., 1].aminmax(dim=2)
        height = high - low  # (n, t)
        factor = torch.where(height > _FLAT, self.scale / height.clamp(min=_FLAT), 0.0)
        place = place * factor[..., None, None]
        return torch.cat([place - self.centre(place, self.center), rest], -1)


class NormalizeEmpty(OnSkeleton):
    """Lost joints (x == 0) go to the mean of their frame's joints, their other channels to 0 (the host's).

    The mean counts the lost joints themselves, and the frame changes under it: they are replaced in their order, each
    by the mean of the frame with the replacements before it. `FillMissing` does neither.
    """

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        lost = place[..., :1] == 0  # (n, t, v, 1)
        if not exporting() and not lost.any():
            return pose
        before = lost.cumsum(2) - lost.long()  # lost joints of the frame that come first
        # A replacement turns the frame's sum s into r s - p, p the lost joint's old place: after k of them it is
        # r^k (s - sum over i < k of p_i / r^(i+1)).
        v, r = place.shape[2], 1 + 1 / place.shape[2]
        growth = (r ** torch.arange(v, dtype=place.dtype, device=place.device))[before]
        taken = torch.where(lost, place / (r * growth), 0)
        total = growth * (place.sum(2, keepdim=True) - (taken.cumsum(2) - taken))
        return torch.cat([torch.where(lost, total / v, place), rest.masked_fill(lost, 0)], -1)


class Affine(OnSkeleton):
    """2D, per frame: turned about the neck until the spine stands upright, distorted as in the host.

    theta = arctan((hip x - neck x) / (hip y - neck y)), 0 where the denominator is. The new y is computed from the
    new x, so that distances change: by a few pixels of 225 at ten degrees. `AffineExact` turns without that.
    """

    def __init__(self, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.flat("take it out of the list; HipHeading is what turns 3D poses")

    def angle(self, neck: Tensor, hip: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (n, t, 1) of theta from the centres (n, t, 1, 2)."""
        x, y = (hip - neck).unbind(-1)
        theta = torch.where(y == 0, 0, torch.atan(x / torch.where(y == 0, 1, y)))
        return theta.cos(), theta.sin()

    def rotate(self, x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, neck: Tensor) -> tuple[Tensor, Tensor]:
        """x and y (n, t, v) about the neck (n, t, 1, 2)."""
        u, w = neck.unbind(-1)
        x = cos * x - sin * y + (1 - cos) * u + sin * w
        return x, sin * x + cos * y + (1 - cos) * w - sin * u  # of the x that has been turned already

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        neck, hip = self.centre(place, "neck"), self.centre(place, "hip")
        turned = self.rotate(*place.unbind(-1), *self.angle(neck, hip), neck)
        return torch.cat([torch.stack(turned, -1), rest], -1)


class AffineExact(Affine):
    """2D, per frame: a rotation about the neck by the angle of `Affine`, which brings the spine upright."""

    def rotate(self, x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, neck: Tensor) -> tuple[Tensor, Tensor]:
        u, w = neck.unbind(-1)
        x, y = x - u, y - w
        return cos * x - sin * y + u, sin * x + cos * y + w


class FillMissing(OnSkeleton):
    """Lost joints (confidence 0, or all coordinates 0) are interpolated between the nearest frames that saw them.

    Before the first and after the last sighting the joint is held. A joint never seen in the sequence goes to the mean
    of its frame's other joints (after their own filling). A lost joint's other channels become 0: it stays marked.
    """

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        lost = (place == 0).all(-1)  # (n, t, v)
        if rest.shape[-1]:
            lost = lost | (rest[..., 0] == 0)
        if not exporting() and not lost.any():
            return pose
        tracks, gaps = place.transpose(1, 2).contiguous(), lost.transpose(1, 2).contiguous()  # (n, v, t, ...)
        if exporting():  # all of them; those without gaps stay as they are
            filled, ever = self.interpolate(tracks.flatten(0, 1), (~gaps & mask[:, None]).flatten(0, 1))
            place, known = filled.view_as(tracks).transpose(1, 2), ever.view(gaps.shape[:2])[:, None, :, None]
        else:
            row, joint = gaps.any(2).nonzero(as_tuple=True)  # the k tracks with something to fill
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
        if exporting():
            before, after = sightings(seen)
        else:
            before = torch.where(seen, time, -1).cummax(1).values
            after = torch.where(seen, time, t).flip(1).cummin(1).values.flip(1)
        low = torch.where(before >= 0, before, after).clamp(max=t - 1)
        high = torch.where(after < t, after, before).clamp(min=0)
        share = (time - low).clamp(min=0).to(track.dtype) / (high - low).clamp(min=1)
        start, end = (track.gather(1, i[..., None].expand_as(track)) for i in (low, high))
        return start + share[..., None] * (end - start), seen.any(1)


class HipHeading(OnSkeleton):
    """3D: the hip centre at the origin in every frame, and the walker turned about the vertical axis y to face +z.

    Heading = the horizontal normal of the line from the right to the left hip, after a moving average of that line
    over `smooth` frames (odd; fewer at the ends, padding left out). The left hip then lies on the side of +x; in
    left-handed axes the walker faces -z, in every sequence alike. A line without horizontal extent is not turned.
    """

    def __init__(self, joint_format: str | Skeleton = "kinect20", smooth: int = 15) -> None:
        super().__init__(joint_format)
        self.upright()
        self.smooth = int(number(self, "smooth", smooth, 1))
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
        return torch.cat([turn(place - self.centre(place, "hip"), cos, sin), rest], -1)
