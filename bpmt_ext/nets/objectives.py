"""Poses and features of a pretraining step in, targets and losses beside the reconstruction out. All off by default.

| key | stage | what is learned |
|---|---|---|
| dual | 1 | what a slow copy of T1 makes of the sequence, from a noisy view with holes (`Teacher`, `noisy`) |
| contrast | 2 | a sequence's pairs agree with each other, and not with other sequences (`Contrast`) |
| fake | 2 | whether a part's frames are in their order (`RealOrFake`) |

Shapes: n sequences (or windows of them), t frames, v joints, s slots, c channels, p parts, q pairs, d width. A mask is
True where a frame is real. What was tried beside them and taken out again: docs/ideas.md.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from bpmt_ext.draws import Draws
from bpmt_ext.nets.grouped import GroupedLinear
from bpmt_ext.skeletons import Skeleton


def _shares(mask: Tensor, like: Tensor) -> Tensor:
    """mask (n, t) -> weights (n, t) that make a sum over the frames the mean over the real ones."""
    real = mask.to(like.dtype)
    return real / real.sum(1, keepdim=True).clamp(min=1)


def noisy(streams: Tensor, key: Tensor, deviation: float) -> Tensor:
    """Streams (n, t, s, c), key (n,) -> the same with normal noise of that deviation on every number."""
    return streams + deviation * Draws(key).split("noise").normal(*streams.shape[1:]).to(streams.dtype)


class Teacher(nn.Module):
    """A part encoder T1 as it was on average over its last steps: exponential moving average of all its weights.

    Shown the whole clean sequence while T1 sees a part of it or a noisy one, it sets T1's target (Tarvainen and
    Valpola, "Mean teachers ...", NeurIPS 2017; as a target of masked frames: Baevski et al., "data2vec", ICML 2022).
    It learns nothing itself and drops nothing out; in a checkpoint it stands beside T1.
    """

    def __init__(self, student: nn.Module, momentum: float = 0.99) -> None:
        super().__init__()
        self.net, self.momentum = copy.deepcopy(student).requires_grad_(False), momentum
        self.net.streams = None  # the input statistics are T1's
        unlike = torch.full_like(parameters_to_vector(self.net.parameters()), torch.inf)
        self.register_buffer("seen", unlike, persistent=False)  # the student's weights at the last call
        self.train()

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """One step towards the student, if its weights have changed since the last one: once per optimiser step.

        The weights themselves are compared: an optimiser that is one kernel leaves their version counters as they were.
        """
        now = parameters_to_vector(student.parameters())
        share = (1 - self.momentum) * (now != self.seen).any().to(now.dtype)
        self.seen.copy_(now)
        for mine, theirs in zip(self.net.parameters(), student.parameters(), strict=True):
            mine.lerp_(theirs, share)

    @torch.no_grad()
    def forward(self, streams: Tensor, mask: Tensor) -> Tensor:
        """Clean streams (n, t, s, c), mask (n, t) -> targets (p, n, t', d), of mean 0 and deviation 1 over d."""
        features = self.net.read(streams, mask)
        return F.layer_norm(features, features.shape[-1:])


def pooled_columns(sides: Tensor, mask: Tensor, columns: int) -> Tensor:
    """U (2 q, n, t, d), or (p, n, t, d), mask (n, t) -> the means over the real frames of a column's sides, side by
    side: (q, n, 2 d) of pairs, (p, n, d) of parts."""
    pooled = torch.einsum("gntd,nt->gnd", sides, _shares(mask, sides))
    return pooled.unflatten(0, (columns, -1)).transpose(1, 2).flatten(2)


class Contrast(nn.Module):
    """Pooled columns (k, n, d'), owner (n,) -> scalar: a sequence's pairs, or parts, recognise each other among all.

    Each column's vector is mapped to one common space and to unit length; minus the mean over a vector's own sequence
    of the log of the softmax of (inner product / temperature) over all others (Chen et al., "SimCLR", ICML 2020, with
    the columns as views; Khosla et al. 2020 for several positives). owner: windows of one sequence belong together.
    0 where there is nobody. All are those of one process.
    """

    def __init__(self, *, columns: int, inputs: int, width: int, temperature: float = 0.1) -> None:
        super().__init__()
        self.project, self.temperature = GroupedLinear(groups=columns, inputs=inputs, outputs=width), temperature

    def forward(self, pooled: Tensor, owner: Tensor) -> Tensor:
        rows = F.normalize(self.project(pooled), dim=-1).flatten(0, 1)  # (k n, d)
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        owner = owner.repeat(len(pooled))
        positive = (owner[:, None] == owner) & ~itself
        share = (rows @ rows.T / self.temperature).masked_fill(itself, -torch.inf).log_softmax(1)
        alike = share.masked_fill(~positive, 0.0).sum(1) / positive.sum(1).clamp(min=1)
        return -alike.sum() / max(1, len(rows))


class RealOrFake(nn.Module):
    """Half of the sequences get a part whose frames are in random order; each pair says whether one of its two parts
    is out of order, or each part whether it is.

    A pair of which both parts or none are changed is real. columns: the parts of each pair, or each part alone.
    (Order of frames: Misra et al., "Shuffle and learn", ECCV 2016.)
    """

    members: Tensor
    inside: Tensor

    def __init__(self, *, skeleton: Skeleton, columns: Sequence[Sequence[int]], width: int) -> None:
        super().__init__()
        self.dims = skeleton.dims
        members = torch.zeros(len(skeleton.parts), skeleton.num_joints)
        for row, part in zip(members, skeleton.parts, strict=True):
            row[list(part)] = 1
        inside = torch.zeros(len(columns), len(skeleton.parts))
        for row, column in zip(inside, columns, strict=True):
            row[list(column)] = 1
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("inside", inside, persistent=False)
        self.judge = GroupedLinear(groups=len(columns), inputs=len(columns[0]) * width, outputs=1)

    def fake(self, pose: Tensor, mask: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Pose (n, t, v, c), mask (n, t), key (n,) -> pose, and which parts were changed (n, p)."""
        draws, x = Draws(key).split("fake"), pose[..., : self.dims]
        chosen = draws.split("chosen").uniform() < 0.5
        part = draws.split("part").integers(len(self.members))
        order = torch.where(mask, draws.split("order").uniform(mask.shape[1]), 2.0).argsort(dim=1, stable=True)
        other = x.gather(1, order[..., None, None].expand_as(x))
        changed = F.one_hot(part, len(self.members)).bool() & chosen[:, None]  # (n, p)
        gone = (changed.to(x.dtype) @ self.members.to(x.dtype) > 0)[:, None, :, None]  # (n, 1, v, 1)
        return torch.cat([torch.where(gone, other, x), pose[..., self.dims :]], 3), changed

    def forward(self, pooled: Tensor, changed: Tensor) -> Tensor:
        """Pooled columns (k, n, d'), changed (n, p) -> binary cross-entropy, mean over columns and sequences."""
        wrong = changed.to(pooled.dtype) @ self.inside.T.to(pooled.dtype) == 1  # (n, k)
        return F.binary_cross_entropy_with_logits(self.judge(pooled)[..., 0].T, wrong.to(pooled.dtype))


def with_extras(named: dict[str, Tensor], extras: dict[str, tuple[float, Tensor]]) -> dict[str, Any]:
    """{losses}, and with extras {name: (weight, loss)} also {loss}: the mean of the losses plus the weighted extras."""
    if not extras:
        return {"losses": named}
    loss = torch.stack(list(named.values())).mean() + sum(weight * value for weight, value in extras.values())
    return {"losses": named | {name: value for name, (_, value) in extras.items()}, "loss": loss}


def loss_weight(name: str, value: float) -> float:
    """The value, if it can be a weight in the loss; else ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} is a weight in the loss, 0 or more, not {value!r}")
    return float(value)
