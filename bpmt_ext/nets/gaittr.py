"""Pose (n, t, v, 10) and mask (n, t) in, one embedding (n, d, 1) per sequence out: GaitTR.

Blocks of a convolution over nine frames and eight-head attention over the joints of each frame; no graph is used.
Source: Zhang et al., "Spatial transformer network on skeleton-based gait recognition" (Expert Systems 2023), sizes and
names as specified in baselines.md section 4.
Shapes: n sequences, t frames, v joints, c channels, h heads, d width. A mask is True where a frame is real. Inside,
features are (n, c, t, v).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.frames import hide_padding, masked_mean
from bpmt_ext.nets.layers import check_pose
from bpmt_ext.skeletons import Skeleton

_HEADS = 8
_FRAMES = 9  # that a temporal convolution sees


class TemporalConv(nn.Module):
    """x (n, c, t, v), mask (n, t) -> (n, c, t, v): dropout, convolution over frames, Mish, BatchNorm."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv = nn.Conv2d(channels, channels, (_FRAMES, 1), padding=(_FRAMES // 2, 0))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = F.dropout(hide_padding(x, mask), self.dropout, self.training)
        return self.bn(F.mish(self.conv(x)))


class Pointwise(nn.Module):
    """x (n, c, t, v) -> (n, d, t, v): the way around a block that changes the width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.mish(self.conv(x)))


class JointAttention(nn.Module):
    """x (n, c, t, v) -> (n, d, t, v): in every frame each joint attends to all joints; keys are d / 4 wide."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.sizes = (outputs // 4, outputs // 4, outputs)  # query, key, value
        self.qkv_conv = nn.Conv2d(inputs, sum(self.sizes), 1)
        self.attn_out = nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, t, v = x.shape
        # (n, c, t, v) -> (n t, h, v, c / h); the scale is one over the root of a head's key width
        q, k, value = (
            part.view(n, _HEADS, -1, t, v).permute(0, 3, 1, 4, 2).flatten(0, 1)
            for part in self.qkv_conv(x).split(self.sizes, dim=1)
        )
        out = F.scaled_dot_product_attention(q, k, value)
        out = out.view(n, t, _HEADS, v, -1).permute(0, 2, 4, 1, 3).reshape(n, -1, t, v)  # heads joined on channels
        return self.attn_out(out)


class SpatialTransformer(nn.Module):
    """x (n, c, t, v) -> (n, d, t, v): every channel of every joint standardised, attention, Mish, BatchNorm."""

    def __init__(self, inputs: int, outputs: int, joints: int) -> None:
        super().__init__()
        self.data_bn = nn.BatchNorm1d(inputs * joints)
        self.attention_conv = JointAttention(inputs, outputs)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        n, c, t, v = x.shape
        x = self.data_bn(x.transpose(2, 3).reshape(n, c * v, t)).view(n, c, v, t).transpose(2, 3)
        return self.bn(F.mish(self.attention_conv(x)))


class Block(nn.Module):
    """x (n, c, t, v), mask (n, t) -> (n, d, t, v): frames, then joints, each with a way around, and one around both."""

    def __init__(self, inputs: int, outputs: int, joints: int, dropout: float) -> None:
        super().__init__()
        same = inputs == outputs
        self.tcn = TemporalConv(inputs, dropout)
        self.st = SpatialTransformer(inputs, outputs, joints)
        self.residual_s: nn.Module = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        )
        self.down: nn.Module = nn.Identity() if same else Pointwise(inputs, outputs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        moved = self.tcn(x, mask) + x
        return self.st(moved) + self.residual_s(moved) + self.down(x)


class GaitTR(nn.Module):
    """Pose (n, t, v, 10), mask (n, t) -> {feature, embedding (n, d, 1)}, one and the same, not normalised.

    Channels as GaitTR_MultiInput makes them: position, centred position, two differences and bone, two each (three in
    3D, 15 together; the first number of `in_channels` may then be either). num_class is d. Convolutions start Xavier
    uniform with bias 0. 512,010 parameters at d = 128 on COCO.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        in_channels: tuple[int, ...] = (10, 64, 64, 128, 256),
        num_class: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        channels = 5 * skeleton.dims
        if len(in_channels) < 2 or in_channels[0] not in (10, channels):
            raise ValueError(
                f"in_channels must start with {channels} for a {skeleton.dims}D skeleton and name a width or more, "
                f"got {list(in_channels)}"
            )
        if num_class < 1 or any(width < 1 or width % (4 * _HEADS) for width in in_channels[1:]):
            raise ValueError(
                f"every width of in_channels {list(in_channels)} after the first must be a multiple of {4 * _HEADS}, "
                f"and num_class at least 1, got {num_class}"
            )
        widths = (channels, *in_channels[1:])
        self.skeleton, self.takes = skeleton, (skeleton.num_joints, channels)
        joints = skeleton.num_joints
        self.data_bn = nn.BatchNorm1d(channels * joints)
        self.backbone = nn.ModuleList(Block(a, b, joints, dropout) for a, b in zip(widths, widths[1:], strict=False))
        self.fcn = nn.Conv1d(widths[-1], num_class, 1)
        self._init()

    @torch.no_grad()
    def _init(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        check_pose(pose, mask, self.skeleton, self.takes[1])
        n, t, v, _ = pose.shape
        x = pose[..., : self.takes[1]].reshape(n, t, -1).transpose(1, 2)  # (n, v c, t)
        x = self.data_bn(x).view(n, v, -1, t).permute(0, 2, 3, 1)  # (n, c, t, v)
        for block in self.backbone:
            x = block(x, mask)
        feature = self.fcn(masked_mean(x, mask)[..., None])  # (n, d, 1)
        return {"feature": feature, "embedding": feature}
