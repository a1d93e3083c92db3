"""Pose (n, t, v, c) and mask (n, t) in, unit embedding (n, 256, 1) out: GaitPT, a pyramid of joints, limbs and halves.

Four stages; each merges neighbouring tokens (joints -> limbs -> head, arms, legs -> the body), then attends over the
tokens of a frame and over the frames of a token. Source: Catruna et al., "GaitPT: skeletons are all you need for gait
recognition", FG 2024 (arXiv 2308.10623), as specified in baselines_plus.md section 4.
Shapes: n sequences, m windows of all of them, t frames, v joints, c channels, j tokens, d width, g members of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bpmt_ext.nets.crops import FixedClips, crop
from bpmt_ext.skeletons import Skeleton, get_skeleton, joint_mapping

# COCO-17 by limbs of three: left and right side of the head (both with the nose), arms, legs.
ORDER = (0, 1, 3, 0, 2, 4, 5, 7, 9, 6, 8, 10, 11, 13, 15, 12, 14, 16)
GROUPS = (1, 3, 2, 3)  # tokens merged into one on entering a stage
WIDTHS = (32, 64, 128, 256)
HEADS, LAYERS = 8, 3


def coco_joints(skeleton: Skeleton) -> tuple[int, ...]:
    """For each COCO-17 joint its number in `skeleton`; ValueError where it is 3D or has not all of them."""
    found = joint_mapping(skeleton, get_skeleton("coco17"))
    if skeleton.dims != 2 or any(joints is None or len(joints) != 1 for joints in found):
        raise ValueError(
            f"it reads the 17 joints of COCO in two dimensions; {skeleton.name} has other joints or {skeleton.dims} "
            "dimensions: use a network that takes any skeleton, such as GaitMixer or BPMT"
        )
    return tuple(joints[0] for joints in found)  # type: ignore[index]


def _layer(width: int, dropout: float) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        width, HEADS, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )


class Encoder(nn.Module):
    """x (m, s, d) -> (m, s, d): three pre-norm transformer layers, no norm behind them."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layer(width, dropout) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Merge(nn.Module):
    """x (m, t, j, d) -> (m, t, j/g, d'): neighbouring tokens, ordered channel then member, through one linear map."""

    def __init__(self, group: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.group = group
        self.proj = nn.Linear(group * inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.unflatten(2, (-1, self.group)).transpose(3, 4).flatten(3))


class SpatialModule(nn.Module):
    """x (m, t, j, d) -> (m, t, j, d): attention over the tokens of each frame; its residual carries the positions."""

    def __init__(self, tokens: int, width: int, dropout: float) -> None:
        super().__init__()
        self.spatial_pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens, width), std=0.02))
        self.spatial_transformer = Encoder(width, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(0, 1) + self.spatial_pos_embed  # (m t, j, d)
        return (self.norm(self.spatial_transformer(z)) + z).view_as(x)


class TemporalModule(nn.Module):
    """x (m, t, j, d) -> the same and class vectors (m, j, d): attention over the frames of each token.

    Its residual is the input without positions, unlike the spatial module's.
    """

    def __init__(self, frames: int, width: int, dropout: float) -> None:
        super().__init__()
        self.temporal_cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.temporal_pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, frames + 1, width), std=0.02))
        self.transformer = Encoder(width, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m, t, j, d = x.shape
        frames = x.transpose(1, 2).reshape(m * j, t, d)
        y = torch.cat([self.temporal_cls_token.expand(m * j, -1, -1), frames], dim=1) + self.temporal_pos_embed
        y = self.norm(self.transformer(y))  # (m j, t + 1, d)
        out = (y[:, 1:] + frames).view(m, j, t, d).transpose(1, 2)
        return out, y[:, 0].view(m, j, d)


class Stage(nn.Module):
    """x (m, t, j, d) -> (m, t, j/g, d') and class vectors (m, j/g, d'). One token has no spatial module."""

    def __init__(self, *, group: int, tokens: int, inputs: int, outputs: int, frames: int, dropout: float) -> None:
        super().__init__()
        self.patch_embedding = Merge(group, inputs, outputs)
        self.spatial_module = SpatialModule(tokens, outputs, dropout) if tokens > 1 else None
        self.temporal_module = TemporalModule(frames, outputs, dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patch_embedding(x)
        if self.spatial_module is not None:
            x = self.spatial_module(x)
        return self.temporal_module(x)


class GaitPT(FixedClips):
    """Pose (n, t, v, c), mask (n, t) -> feature and embedding (n, 256, 1). COCO-17, or a format that holds its joints.

    frames: length of the clips it reads (60 on CASIA-B, 30 elsewhere), as it learns a vector per frame. Testing reads
    the middle of each half of the sequence (the original never reads the last frame, nor does this) and returns the
    mean of the two unit vectors; test_halves False reads the middle of the whole once. The published network drops
    sequences not longer than a window, in the test too; this one repeats shorter ones up to its length
    (`data_cfg.frame_threshold` drops them as published).

    Initialisation: torch's own; positions and class tokens normal with deviation 0.02.
    """

    def __init__(
        self, *, skeleton: Skeleton, frames: int = 60, embedding_width: int = 256, dropout: float = 0.05,
        test_halves: bool = True,
    ) -> None:  # fmt: skip
        joints = coco_joints(skeleton)
        super().__init__(skeleton=skeleton, frames=frames)
        self.test_halves = test_halves
        self.register_buffer("order", torch.tensor([joints[i] for i in ORDER]), persistent=False)
        tokens, inputs, stages = len(ORDER), skeleton.dims, []
        read = 0
        for group, width in zip(GROUPS, WIDTHS, strict=True):
            tokens //= group
            stages.append(
                Stage(group=group, tokens=tokens, inputs=inputs, outputs=width, frames=frames, dropout=dropout)
            )
            read, inputs = read + tokens * width, width
        self.layers = nn.ModuleList(stages)
        self.projection = nn.Linear(read, embedding_width)

    def windows(self, pose: Tensor, mask: Tensor) -> Tensor:
        """(n, t, v, 2), mask (n, t) -> (n, 2 or 1, frames, v, 2)."""
        if not self.test_halves:
            return crop(pose, mask, self.middle(mask), self.frames)
        length, width = mask.sum(1), self.frames
        first = (torch.clamp(length // 2, min=width) - width) // 2
        start = torch.minimum(length // 2, length - 1 - width)
        second = start + (length - 1 - start - width) // 2
        return crop(pose, mask, torch.stack([first, second], dim=1).clamp(min=0), width)

    def encode(self, clip: Tensor) -> Tensor:
        """(m, frames, v, 2) -> (m, 256), not yet of unit length."""
        return self.pyramid(clip.index_select(2, self.order))

    def pyramid(self, x: Tensor) -> Tensor:
        """Ordered joints (m, frames, 18, 2) -> (m, 256)."""
        read = []
        for stage in self.layers:
            x, said = stage(x)
            read.append(said.flatten(1))  # (m, j d), token after token
        return self.projection(torch.cat(read, dim=1))
