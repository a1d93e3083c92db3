"""Input streams (n, c, t, v) and mask (n, t) in, one code (n, d) per sequence out: the ResGCN of the GaitGraphs.

Blocks of a graph convolution over joints up to two edges apart and a convolution over nine frames. The layout is
(n, c, t, v) throughout, best with the channels last in memory.
Source: Song et al., "Stronger, faster and more explainable" (ACM MM 2020), as in baselines.md section 3.
Shapes: n sequences, t frames, v joints, c channels, k hops, d width. A mask is True where a frame is real.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.frames import hide_padding, masked_mean

HOPS = 3  # the graph is normalised over this many; its last level takes part in that alone
_FRAMES = 9  # that a temporal convolution sees


class SpatialGraphConv(nn.Module):
    """x (n, c, t, v), graph (k, v, v) -> (n, d, t, v): one linear map of the channels per hop, summed over hops."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gcn = nn.Conv2d(inputs, HOPS * outputs, 1)

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        n, i, t, v = x.shape
        graph, weight = graph[:HOPS], self.gcn.weight.view(HOPS, -1, i)
        # Neighbours first, then the channels: with the channels last in memory both are plain products without a copy.
        near = graph.permute(2, 0, 1).reshape(v * HOPS, v) @ x.permute(0, 2, 3, 1).reshape(n * t, v, i)
        out = near.view(n * t * v, HOPS * i) @ weight.permute(0, 2, 1).reshape(HOPS * i, -1)  # (n t v, d)
        bias = torch.einsum("kvw,kd->wd", graph, self.gcn.bias.view(HOPS, -1))
        return (out.view(n, t, v, -1) + bias).permute(0, 3, 1, 2)


def temporal_conv(channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, (_FRAMES, 1), (stride, 1), (_FRAMES // 2, 0))


class PlainHalf(nn.Module):
    """Convolution, BatchNorm, ReLU: the `initial` half, over joints (`graph` given) or over frames."""

    def __init__(self, conv: nn.Module, outputs: int) -> None:
        super().__init__()
        self.conv, self.bn = conv, nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, *graph: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x, *graph)))


class BottleneckHalf(nn.Module):
    """Narrow by `reduction`, convolve over joints or over frames, widen again, add the residual (n, d, t', v)."""

    def __init__(self, conv: nn.Module, inputs: int, middle: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv_down, self.bn_down = nn.Conv2d(inputs, middle, 1), nn.BatchNorm2d(middle)
        self.conv, self.bn = conv, nn.BatchNorm2d(middle)
        self.conv_up, self.bn_up = nn.Conv2d(middle, outputs, 1), nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.residual: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, (stride, 1)), nn.BatchNorm2d(outputs))
        )
        self.spatial = isinstance(conv, SpatialGraphConv)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """context: the graph (k, v, v) over joints, the mask (n, t) over frames."""
        y = F.relu(self.bn_down(self.conv_down(x)))
        y = self.conv(y, context) if self.spatial else self.conv(hide_padding(y, context))
        y = self.bn_up(self.conv_up(F.relu(self.bn(y))))
        return F.relu(y + self.residual(x))


class GraphBlock(nn.Module):
    """x (n, c, t, v), mask (n, t), graph (k + 1, v, v) -> (n, d, t', v): joints, then frames; t' = ceil(t / stride).

    The first block of a branch has plain halves, the others bottlenecks. `edge` weighs every pair of joints.
    """

    def __init__(
        self, *, inputs: int, outputs: int, joints: int, reduction: int, stride: int = 1, plain: bool = False
    ) -> None:
        super().__init__()
        self.edge = nn.Parameter(torch.ones(HOPS + 1, joints, joints))
        self.plain = plain
        if plain:
            self.scn: nn.Module = PlainHalf(SpatialGraphConv(inputs, outputs), outputs)
            self.tcn: nn.Module = PlainHalf(temporal_conv(outputs), outputs)
            return
        middle = outputs // reduction
        self.scn = BottleneckHalf(SpatialGraphConv(middle, middle), inputs, middle, outputs)
        self.tcn = BottleneckHalf(temporal_conv(middle, stride), outputs, middle, outputs, stride)

    def forward(self, x: Tensor, mask: Tensor, graph: Tensor) -> Tensor:
        x = self.scn(x, graph * self.edge)
        return self.tcn(hide_padding(x, mask)) if self.plain else self.tcn(x, mask)


class Branch(nn.Module):
    """One input stream (n, c, t, v) -> (n, d, t, v): BatchNorm, then blocks of these widths, all at full length."""

    A: Tensor

    def __init__(self, *, graph: Tensor, widths: tuple[int, ...], reduction: int) -> None:
        super().__init__()
        self.register_buffer("A", graph.clone())  # saved, as the original does
        self.bn = nn.BatchNorm2d(widths[0])
        self.layers = nn.ModuleList(
            GraphBlock(inputs=a, outputs=b, joints=graph.shape[1], reduction=reduction, plain=i == 0)
            for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.bn(x)
        for layer in self.layers:
            x = layer(x, mask, self.A)
        return x


class LastMap(NamedTuple):
    """What the main stream ends in: x (n, 256, t', v), mask (n, t'), and how many frames each t' stands for."""

    x: Tensor
    mask: Tensor
    stride: int


class ResGCN(nn.Module):
    """Streams, one (n, c, t, v) per branch, and mask (n, t) -> (n, d). Time is halved where the width grows."""

    def __init__(
        self, *, graph: Tensor, branches: int, branch: tuple[int, ...], main: tuple[int, ...], reduction: int, out: int
    ) -> None:
        super().__init__()
        self.head = nn.ModuleList(Branch(graph=graph, widths=branch, reduction=reduction) for _ in range(branches))
        widths = (branches * branch[-1], *main[1:])
        self.strides = tuple(
            2 if i == 0 or a != b else 1 for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        )
        self.backbone = nn.ModuleList(
            GraphBlock(inputs=a, outputs=b, joints=graph.shape[1], reduction=reduction, stride=stride)
            for a, b, stride in zip(widths, widths[1:], self.strides, strict=False)
        )
        self.fcn = nn.Linear(widths[-1], out)

    def last_map(self, streams: list[Tensor], mask: Tensor) -> LastMap:
        x = torch.cat([branch(stream, mask) for branch, stream in zip(self.head, streams, strict=True)], dim=1)
        total = 1
        for layer, stride in zip(self.backbone, self.strides, strict=True):
            x = layer(x, mask, self.head[0].A)
            mask, total = mask[:, ::stride], total * stride
        return LastMap(x, mask, total)

    def forward(self, streams: list[Tensor], mask: Tensor) -> Tensor:
        last = self.last_map(streams, mask)
        return self.fcn(masked_mean(last.x, last.mask))

    @torch.no_grad()
    def init(self) -> None:
        """Convolutions Xavier uniform, linear normal 0.001, biases 0; every block starts as its residual (bn_up 0)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.001)
                nn.init.zeros_(module.bias)
            elif isinstance(module, BottleneckHalf):
                nn.init.zeros_(module.bn_up.weight)
