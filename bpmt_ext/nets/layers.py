"""Poses and masks in, windows, input streams and pooled features out: the pieces several networks share.

Shapes: n sequences, t frames, v joints, c channels, s slots (a joint in its part), p parts, d width, m windows.
A mask is True where a frame is real.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bpmt_ext.exporting import exporting
from bpmt_ext.skeletons import Skeleton


def position_table(groups: int, frames: int, width: int, start: str) -> Tensor:
    """(g, t, d) initial values of learned positions: all `zero` (the thesis) or `sine` (Vaswani et al. 2017, eq. 5).

    Sines let attention tell near frames from far ones from the first step on; they are learned from there. Amplitude
    0.2, a third of the embedded input's: at 1 reconstruction is learned faster, but recognition much slower.
    """
    if start not in ("zero", "sine"):
        raise ValueError(f"position_start must be zero or sine, not {start!r}")
    if start == "zero":
        return torch.zeros(groups, frames, width)
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))  # (d/2,)
    angle = torch.arange(frames)[:, None] * rate
    sines = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]
    return 0.2 * sines.repeat(groups, 1, 1)


def check_pose(pose: Tensor, mask: Tensor, skeleton: Skeleton, channels: int) -> None:
    """Refuse a pose that is not (n, t, v, >= channels) of this skeleton, or a mask that is not (n, t)."""
    if pose.ndim != 4 or pose.shape[2] != skeleton.num_joints or pose.shape[3] < channels:
        raise ValueError(
            f"pose must be (n, t, {skeleton.num_joints}, {channels} or more) for skeleton {skeleton.name}, "
            f"got {tuple(pose.shape)}"
        )
    if mask.shape != pose.shape[:2]:
        raise ValueError(f"mask must be {tuple(pose.shape[:2])} like the pose, got {tuple(mask.shape)}")


class Windows(NamedTuple):
    """Pieces of sequences: pose (m, w, v, c), mask (m, w), and for each piece its sequence (m,) and number (m,)."""

    pose: Tensor
    mask: Tensor
    owner: Tensor
    number: Tensor


def cut_windows(pose: Tensor, mask: Tensor, width: int) -> Windows:
    """Cut sequences longer than `width` frames into the fewest windows of nearly equal length, none longer.

    pose (n, t, v, c), mask (n, t) with the real frames first. Where the cuts fall depends on a sequence's own length
    alone, so that neither padding nor batch mates change its embedding. Position tables are only trained up to the
    length of the training clips; a longer walk is therefore read window by window (bpmt.md, open point 2).
    """
    n, t = mask.shape
    if t <= width and not exporting():
        index = torch.arange(n, device=pose.device)
        return Windows(pose, mask, index, torch.zeros_like(index))
    length = mask.sum(1)  # (n,)
    count = torch.div(length + width - 1, width, rounding_mode="floor").clamp(min=1)
    owner, number = _pieces(count, (t - 1) // width + 2)  # (m,) each
    start = torch.div(number * length[owner], count[owner], rounding_mode="floor")
    stop = torch.div((number + 1) * length[owner], count[owner], rounding_mode="floor")
    frame = start[:, None] + torch.arange(width, device=pose.device)  # (m, w)
    real = frame < stop[:, None]
    last = (stop - 1).clamp(min=0)[:, None]
    return Windows(pose[owner[:, None], torch.minimum(frame, last)], real, owner, number)


def _pieces(count: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """How many windows each sequence has (n,), fewer than `most` -> the sequence and the number of each window (m,)."""
    if exporting():  # one size that depends on the numbers, where repeat_interleave would make two
        owner, number = (torch.arange(most, device=count.device) < count[:, None]).nonzero(as_tuple=True)
        torch._check(owner.shape[0] > 0)
        return owner, number
    owner = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    return owner, torch.arange(len(owner), device=count.device) - (count.cumsum(0) - count)[owner]


def pool_windows(x: Tensor, windows: Windows, sequences: int, how: str) -> Tensor:
    """x (p, m, w, d) -> (p, n, d or 2 d): mean, maximum or both ("mean_max") over all real frames of a sequence."""
    p, _, _, d = x.shape
    real = windows.mask[None, :, :, None]
    out = []
    if how in ("mean", "mean_max"):
        total = x.new_zeros(p, sequences, d).index_add(1, windows.owner, (x * real).sum(2))
        frames = x.new_zeros(sequences).index_add(0, windows.owner, windows.mask.sum(1).to(x.dtype))
        out.append(total / frames.clamp(min=1)[None, :, None])
    if how in ("max", "mean_max"):
        top = x.masked_fill(~real, -torch.inf).amax(2)  # (p, m, d)
        index = windows.owner[None, :, None].expand_as(top)
        empty = torch.full((p, sequences, d), -torch.inf, dtype=x.dtype, device=x.device)
        out.append(empty.scatter_reduce(1, index, top, "amax"))
    if not out:
        raise ValueError(f"pool must be mean, max or mean_max, not {how!r}")
    return torch.cat(out, dim=-1)


def cut_patches(x: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Streams x (n, t, s, c), mask (n, t) -> patches of `size` frames (n, t', s, size c), mask (n, t').

    t' = ceil(t / size). A patch is real if its first frame is. Where a sequence ends inside one its last real frame is
    repeated; what stands in the padding is not read. (Patches as in Dosovitskiy et al., ICLR 2021, along time alone.)
    """
    if size == 1:
        return x, mask
    n, t, s, c = x.shape
    frame = torch.arange(-(-t // size) * size, device=x.device)  # (t' size,)
    frame = torch.minimum(frame, (mask.sum(1, keepdim=True) - 1).clamp(min=0))  # (n, t' size)
    x = x.gather(1, frame[:, :, None, None].expand(-1, -1, s, c))
    return x.unflatten(1, (-1, size)).transpose(2, 3).flatten(3), mask[:, ::size]


class Slots(nn.Module):
    """Where each joint of each part stands: slot i is joint `joint[i]` in part `part[i]`, place `place[i]` of it.

    Buffers (s,), not saved with the weights: they follow from the skeleton.
    """

    joint: Tensor
    part: Tensor
    place: Tensor

    def __init__(self, parts: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        rows = [(joint, part, place) for part, joints in enumerate(parts) for place, joint in enumerate(joints)]
        for name, column in zip(("joint", "part", "place"), zip(*rows, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(column), persistent=False)
        self.count, self.parts = len(rows), len(parts)


STREAMS = ("joint", "bone", "velocity", "confidence", "bone_velocity")  # in this order side by side


class Streams(nn.Module):
    """Pose (n, t, v, c) and mask (n, t) -> standardised input streams of every slot (n, t, s, c').

    streams: any of `joint` (coordinates), `bone` (joint minus its parent), `velocity` (next frame minus this one),
    `confidence` (the channel after the coordinates) and `bone_velocity` (the bone's velocity); c' counts their
    channels, `joint` always first.
    standardise: `joint` divides by a standard deviation per joint and channel, `part` by one per part and channel
    (proportions inside a part survive), `none` leaves the numbers as they come. Mean and deviation are buffers,
    taken once from training samples by `fit` and carried from stage to stage with the weights.
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, *, skeleton: Skeleton, slots: Slots, streams: tuple[str, ...], standardise: str) -> None:
        super().__init__()
        if set(streams) - set(STREAMS) or "joint" not in streams:
            raise ValueError(f"streams must hold joint and may hold {', '.join(STREAMS[1:])}; got {list(streams)}")
        if standardise not in ("joint", "part", "none"):
            raise ValueError(f"standardise must be joint, part or none, not {standardise!r}")
        self.skeleton, self.standardise, self.slots = skeleton, standardise, slots
        self.names = tuple(name for name in STREAMS if name in streams)
        self.dims = skeleton.dims
        self.channels = sum(1 if name == "confidence" else self.dims for name in self.names)
        self.needed = self.dims + ("confidence" in self.names)
        self.register_buffer("parent", torch.tensor(skeleton.parents), persistent=False)
        self.register_buffer("mean", torch.zeros(slots.count, self.channels))
        self.register_buffer("std", torch.ones(slots.count, self.channels))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.int64))

    def raw(self, pose: Tensor, mask: Tensor) -> Tensor:
        """(n, t, s, c') before standardisation."""
        check_pose(pose, mask, self.skeleton, self.needed)
        joint = pose[..., : self.dims]
        parts = [joint]
        if "bone" in self.names:
            parts.append(joint - joint[:, :, self.parent])
        if {"velocity", "bone_velocity"} & set(self.names):
            step = torch.diff(joint, dim=1, append=joint[:, -1:])  # 0 at the last frame
            follows = torch.cat([mask[:, 1:], mask.new_zeros(mask.shape[0], 1)], dim=1) & mask
            step = step * follows[:, :, None, None]
        if "velocity" in self.names:
            parts.append(step)
        if "confidence" in self.names:
            parts.append(pose[..., self.dims : self.dims + 1])
        if "bone_velocity" in self.names:
            parts.append(step - step[:, :, self.parent])
        return torch.cat(parts, dim=-1)[:, :, self.slots.joint]

    @torch.no_grad()
    def fit(self, pose: Tensor, mask: Tensor) -> None:
        """Take mean and deviation from the real frames of training samples (n, t, v, c); a constant channel keeps 1."""
        self.fitted.fill_(1)
        if self.standardise == "none":
            return
        x = self.raw(pose, mask)[mask].double()  # (frames, s, c')
        mean, var = x.mean(0), x.var(0, correction=0)
        if self.standardise == "part":
            part = self.slots.part
            total = torch.zeros(self.slots.parts, var.shape[1], dtype=var.dtype, device=var.device)
            var = (total.index_add(0, part, var) / torch.bincount(part)[:, None])[part]
        constant = var <= 1e-12 * (var.amax(0, keepdim=True) + 1e-30)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(constant, torch.ones_like(var), var.sqrt()))

    def forward(self, pose: Tensor, mask: Tensor) -> Tensor:
        return (self.raw(pose, mask) - self.mean) / self.std

    def visible(self, hidden: Tensor) -> Tensor:
        """hidden (n, t, s) True where a slot is masked -> (n, t, s, c') True where a channel gives nothing away.

        A bone is told only if both its ends are, a velocity only if this frame and the next are: otherwise the
        neighbours of a masked coordinate would hold it.
        """
        n, t, s = hidden.shape
        joint_hidden = hidden.new_zeros(n, t, self.skeleton.num_joints, dtype=torch.int64)
        joint_hidden = joint_hidden.index_add(2, self.slots.joint, hidden.long()) > 0
        told = {"joint": ~hidden, "confidence": ~hidden}
        told["bone"] = ~(hidden | joint_hidden[:, :, self.parent][:, :, self.slots.joint])
        for still, moving in (("joint", "velocity"), ("bone", "bone_velocity")):
            told[moving] = told[still] & torch.cat([told[still][:, 1:], told[still].new_ones(n, 1, s)], dim=1)
        width = {name: 1 if name == "confidence" else self.dims for name in self.names}
        return torch.cat([told[name][..., None].expand(n, t, s, width[name]) for name in self.names], dim=-1)


def set_trainable(module: nn.Module, how: str, last: nn.Module) -> None:
    """Freeze a stage: how is `no` (all of it trains), `yes` (none) or `last_layer` (only the submodule `last`)."""
    if how not in ("yes", "no", "last_layer"):
        raise ValueError(f"freezing must be yes, no or last_layer, not {how!r}")
    module.requires_grad_(how == "no")
    if how == "last_layer":
        last.requires_grad_(True)


def set_mode(module: nn.Module, how: str, last: nn.Module, training: bool) -> None:
    """Train or eval mode of a stage under the same rule: frozen weights also drop nothing out."""
    module.train(training and how == "no")
    if how == "last_layer":
        last.train(training)
