"""Pose, bones and angles (n, t, v, c) and mask (n, t) in, part features and embedding out: GPGait++.

"GPGait++" (IEEE TPAMI 2025, 11029177); specs/baselines_plus.md section 2. The branches, parts and head of GPGait over
other layers: attention between joints in every frame, convolutions over nine frames, and concatenation where
GPGait adds. Shapes: n sequences, t frames, v joints, c channels, e squeezed channels, p parts, d width, k classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.partwise import ConvNorm, PartGraph, PartNet, Parts, norm_last, pointwise
from bpmt_ext.skeletons import Skeleton

SHARED = 3  # the original's configs name a share_num, but always three layers are shared


def draw_kept(x: Tensor, dropout: float) -> tuple[Tensor, float]:
    """Bool like x, False with probability `dropout`, and what the kept ones are to be divided by.

    Sixteen random bits an element: on a CPU three times as fast as torch's dropout, and the chance is right to 1e-5.
    """
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    bound = round(dropout * 2**16)
    return (bits.view(torch.int16)[: x.numel()] >= bound - 2**15).view(x.shape), 1 - bound / 2**16


class TemporalConv(nn.Module):
    """x (n, t, v, c), mask (n, t) or None -> (n, t, v, c'): dropout, convolution over nine frames, Mish, BatchNorm."""

    def __init__(self, *, inputs: int, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv = nn.Conv2d(inputs, outputs, (9, 1), padding=(4, 0))
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # Past its end a sequence is zero, as before its beginning.
        kept = None if mask is None else mask[:, :, None, None]
        weight = self.conv.weight
        if self.training and self.dropout:
            drawn, share = draw_kept(x, self.dropout)
            kept = drawn if kept is None else drawn & kept
            weight = weight / share
        x = x if kept is None else x * kept
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, self.conv.bias, padding=(4, 0))  # (n, c', t, v), channels last
        return self.bn(F.mish(y)).permute(0, 2, 3, 1)


class Shortcut(nn.Module):
    """x (n, t, v, c) -> (n, t, v, c'): 1 x 1 convolution, Mish, BatchNorm."""

    def __init__(self, *, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return norm_last(F.mish(pointwise(x, self.conv.weight, self.conv.bias)), self.bn)


def side_by_side(*parts: Tensor) -> Tensor:
    """Concatenation over the last axis. Each part's gradient is made compact: BatchNorm's backward pass takes ten
    times as long over a slice of a wider tensor."""
    for part in parts:
        if part.requires_grad:
            part.register_hook(Tensor.contiguous)
    return torch.cat(parts, dim=-1)


class PartLayerPlus(nn.Module):
    """x (n, t, v, a), mask (n, t) or None -> (n, t, v, c): space, then time, each beside a linear copy of its input.

    masked: whether attention stays inside the parts.
    """

    def __init__(self, *, graph: Tensor, parts: Parts, inputs: int, outputs: int, masked: bool = True) -> None:
        super().__init__()
        half, third = outputs // 2, outputs // 3
        kept = parts if masked else None
        self.asg = PartGraph(graph=graph, parts=kept, inputs=inputs, outputs=half, squeezed=half // 4)
        self.residual = ConvNorm(inputs, outputs - half)
        self.tcn = TemporalConv(inputs=outputs, outputs=third + 1)
        self.residual_s = ConvNorm(outputs, third)
        self.down = Shortcut(inputs=inputs, outputs=outputs - third - (third + 1))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        frames = x.flatten(0, 1)[:, :, None]  # (n t, v, 1, a): the graph sees every frame by itself
        graph = self.asg(frames).view(*x.shape[:3], -1)
        space = side_by_side(graph, self.residual(x))  # (n, t, v, c)
        return side_by_side(self.tcn(space, mask), self.residual_s(space), self.down(x))


class GPGaitPlus(PartNet):
    """pose (n, t, v, 2 * dims + 1 or more), mask (n, t) -> {feature, embedding (n, d, p), logits (n, k, p)}.

    pose: what HOD_MultiInput gives, frames in order. `feature` goes to the triplet loss, `embedding` (of length 1 in
    each of the 19 parts) is compared at test. in_channels: widths of the layers, the first is not used; share_num: kept
    because configs carry it, always three layers are shared; mask: whether attention stays inside the parts; num_class
    0 leaves the classifier out. Initialisation: convolutions Xavier uniform with bias 0, PA 1e-6.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        in_channels: Sequence[int] = (2, 64, 64, 128, 256),
        num_class: int = 74,
        share_num: int = SHARED,
        mask: bool = True,
    ) -> None:
        super().__init__(
            skeleton=skeleton,
            layer=partial(PartLayerPlus, masked=mask),
            in_channels=in_channels,
            num_class=num_class,
            shared=SHARED,
            time_axis=1,
        )
