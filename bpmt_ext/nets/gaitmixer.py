"""Pose (n, t, v, c) and mask (n, t) in, unit embedding (n, 128, 1) out: GaitMixer and GaitFormer.

Attention over the joints of each frame; then, over time, GaitMixer mixes with large causal filters and GaitFormer with
attention per joint. Source: Pinyoanuntapong et al., "GaitMixer: skeleton-based gait representation learning via
wide-spectrum multi-axial mixer", ICASSP 2023 (arXiv 2210.15491), as specified in baselines_plus.md section 5.
Shapes: n sequences, m windows of all of them, t frames, v joints, c channels, d width, h heads, s tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.crops import FixedClips, crop
from bpmt_ext.skeletons import Skeleton

WIDTH, HEADS, BLOCKS = 32, 8, 4
CHANNELS = (32, 32, 64, 128, 256)
TAPS = 31  # frames a filter sees: this one and the 30 before


class Attention(nn.Module):
    """x (m, s, d) -> (m, s, d): multi-head self-attention, queries, keys and values from one linear map."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        m, s, d = x.shape
        q, k, v = self.qkv(x).view(m, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # (m, h, s, d/h) each
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(m, s, d))


class MLP(nn.Module):
    """x (..., d) -> (..., d) by way of 2 d."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x (m, s, d) -> (m, s, d): pre-norm attention and MLP, each with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CausalFilter(nn.Module):
    """x (m, d, t, v) -> (m, d', t, v): a filter over 31 frames per channel, then a linear map of the channels.

    Before the first frame its mirror image is put, frames 30 to 1, so that a frame sees itself and earlier ones only.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, (TAPS, 1), groups=inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        before = x[:, :, 1:TAPS].flip(2)
        return self.pointwise(self.depthwise(torch.cat([before, x], dim=2)))


class MixerLayer(nn.Module):
    """x (m, d, t, v) -> (m, d', t, v): dropout, filter, GELU, BatchNorm, plus x, mapped linearly where d' differs."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.conv = CausalFilter(inputs, outputs)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        if inputs != outputs:
            self.linear = nn.Linear(inputs, outputs)
            self.bn_skip = nn.BatchNorm2d(outputs, eps=1e-3)
        self.widens = inputs != outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(F.gelu(self.conv(self.dropout(x))))
        if self.widens:
            # the linear map as a 1x1 convolution: the channels stay where they are
            x = F.conv2d(x, self.linear.weight[:, :, None, None], self.linear.bias)
            x = self.bn_skip(F.gelu(x))
        return y + x


class JointAttention(FixedClips):
    """What both networks share: per frame, attention over the joints. (m, t, v, dims) -> (m, t, v, 32).

    frames: length of the clips it reads (60; GaitMixer needs more than 30, as the filters mirror 30 frames).
    test_offsets: where the windows of a test stand, in frames from the middle of
    the sequence, kept inside it; test_reversed: read each backwards too. (0,) and False read the middle once.
    The published networks drop sequences shorter than a window, in the test too; these repeat them up to its length
    (`data_cfg.frame_threshold: 60` drops them as published).

    Initialisation: torch's own for linear maps, convolutions and norms; positions and class token start at zero.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        frames: int = 60,
        test_offsets: Sequence[int] = (0, -20, 20),
        test_reversed: bool = True,
    ) -> None:
        super().__init__(skeleton=skeleton, frames=frames)
        if not test_offsets:
            raise ValueError("test_offsets must hold at least one number; (0,) reads the middle of a sequence")
        self.register_buffer("offsets", torch.tensor(test_offsets), persistent=False)
        self.test_reversed = test_reversed
        self.spatial_joint_to_embedding = nn.Linear(skeleton.dims, WIDTH)
        self.spatial_pos_embed = nn.Parameter(torch.zeros(1, skeleton.num_joints, WIDTH))
        self.spatial_blocks = nn.Sequential(*(Block(WIDTH, HEADS) for _ in range(BLOCKS)))
        self.spatial_norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def windows(self, pose: Tensor, mask: Tensor) -> Tensor:
        """(n, t, v, dims), mask (n, t) -> (n, w, frames, v, dims); the reversed ones after the others."""
        last = (mask.sum(1, keepdim=True) - self.frames).clamp(min=0)  # (n, 1)
        start = (self.middle(mask) + self.offsets).clamp(min=0).minimum(last)  # (n, w)
        clips = crop(pose, mask, start, self.frames)
        return torch.cat([clips, clips.flip(2)], dim=1) if self.test_reversed else clips

    def spatial(self, clip: Tensor) -> Tensor:
        """(m, t, v, dims) -> (m, t, v, 32)."""
        m, t, v, _ = clip.shape
        x = self.spatial_joint_to_embedding(clip.flatten(0, 1)) + self.spatial_pos_embed  # (m t, v, 32)
        return self.spatial_norm(self.spatial_blocks(x)).view(m, t, v, WIDTH)


class GaitMixer(JointAttention):
    """Pose (n, t, v, c), mask (n, t) -> feature and embedding (n, 128, 1): four mixer layers over time."""

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        frames: int = 60,
        embedding_width: int = 128,
        dropout: float = 0.01,
        test_offsets: Sequence[int] = (0, -20, 20),
        test_reversed: bool = True,
    ) -> None:
        super().__init__(skeleton=skeleton, frames=frames, test_offsets=test_offsets, test_reversed=test_reversed)
        if frames < TAPS:
            raise ValueError(f"frames must be more than {TAPS - 1} for filters over {TAPS} frames, not {frames}")
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            MixerLayer(a, b, dropout) for a, b in zip(CHANNELS[:-1], CHANNELS[1:], strict=True)
        )
        self.head = nn.Sequential(nn.LayerNorm(CHANNELS[-1]), nn.Linear(CHANNELS[-1], embedding_width))

    def encode(self, clip: Tensor) -> Tensor:
        """(m, frames, v, dims) -> (m, 128), not yet of unit length."""
        x = self.spatial(clip).permute(0, 3, 1, 2).contiguous()  # (m, 32, t, v)
        x = self.conv4(self.conv3(self.conv2(self.conv1(x))))  # (m, 256, t, v)
        return self.head(x.mean((2, 3)))


class GaitFormer(JointAttention):
    """Pose (n, t, v, c), mask (n, t) -> feature and embedding (n, 128, 1): per joint, attention over its frames."""

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        frames: int = 60,
        embedding_width: int = 128,
        test_offsets: Sequence[int] = (0, -20, 20),
        test_reversed: bool = True,
    ) -> None:
        super().__init__(skeleton=skeleton, frames=frames, test_offsets=test_offsets, test_reversed=test_reversed)
        self.temporal_cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.temporal_pos_embed = nn.Parameter(torch.zeros(1, frames + 1, WIDTH))
        self.temporal_blocks = nn.Sequential(*(Block(WIDTH, HEADS) for _ in range(BLOCKS)))
        self.temporal_norm = nn.LayerNorm(WIDTH, eps=1e-6)
        wide = WIDTH * skeleton.num_joints
        self.head = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, embedding_width))

    def encode(self, clip: Tensor) -> Tensor:
        """(m, frames, v, dims) -> (m, 128), not yet of unit length."""
        m, _, v, _ = clip.shape
        x = self.spatial(clip).transpose(1, 2).flatten(0, 1)  # (m v, t, 32)
        x = torch.cat([self.temporal_cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.temporal_pos_embed
        x = self.temporal_norm(self.temporal_blocks(x)[:, 0])  # (m v, 32): the class token alone is read
        return self.head(x.view(m, v * WIDTH))
