"""Skeleton maps (n, t, 2, 64, 44) and mask (n, t) in, strip-wise embedding and logits out: SkeletonGait.

The maps are what `SkeletonMaps` draws from poses: limbs and joints as grey blobs. A residual net reads each frame,
short filters mix neighbouring frames, the maximum over time is cut into 16 horizontal strips. Sources: Fan et al.,
"SkeletonGait: gait recognition using skeleton maps", AAAI 2024 (arXiv 2311.13444); Fan et al., "Exploring deep models
for practical gait recognition" (DeepGaitV2), 2023; as specified in baselines_plus.md section 3.2.
Shapes: n sequences, t frames, d width, h rows, w columns, p = 16 strips, k classes. A mask is True at real frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.gaitpt import coco_joints
from bpmt_ext.nets.partwise import BNNeck, PartLinear, padded
from bpmt_ext.skeletons import Skeleton

MAP = (2, 64, 44)  # limbs and joints, rows, columns
STRIPS = 16


def _conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class Wrapped(nn.Module):
    """x (n t, d, h, w) -> (n t, d', h', w'): layers under the name `forward_block`, as the checkpoints have it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.forward_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_block(x)


class BasicBlock(nn.Module):
    """x (n t, d, h, w) -> same: two 3x3 convolutions and a residual (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3(width, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv3(width, width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + x)


class P3DBlock(nn.Module):
    """x (n t, d, h, w), real -> (n t, d', h', w'): 3x3 in each frame, 3 frames in each place, 3x3 in each frame.

    real: (n, t) 1 where a frame is real, or None where all are; padded frames are zero to the filter over time. The 3D
    weights of the checkpoints are used as 2D ones: no axis has to be moved in the layout channels-last.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Wrapped(_conv3(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
        self.shortcut3d = nn.Conv3d(outputs, outputs, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.sbn = nn.BatchNorm2d(outputs)
        self.conv2 = Wrapped(_conv3(outputs, outputs), nn.BatchNorm2d(outputs))
        self.stride, self.downsample = stride, None
        if inputs != outputs or stride != 1:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def over_time(self, u: Tensor, n: int) -> Tensor:
        """(n t, d, h, w) -> (n t, d, h, w)."""
        nt, d, h, w = u.shape
        rows = u.permute(0, 2, 3, 1).reshape(n, nt // n, h * w, d).permute(0, 3, 1, 2)  # (n, d, t, h w)
        rows = F.conv2d(rows, self.shortcut3d.weight[..., 0], padding=(1, 0))
        return rows.permute(0, 2, 3, 1).reshape(nt, h, w, d).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, n: int, real: Tensor | None) -> Tensor:
        u = self.conv1(x)
        if real is not None:
            u = u * real.reshape(-1, 1, 1, 1)
        u = F.relu(u + self.sbn(self.over_time(u, n)))
        if self.downsample is not None:
            conv, norm = self.downsample
            x = norm(F.conv2d(x[:, :, :: self.stride, :: self.stride], conv.weight[..., 0]))
        return F.relu(self.conv2(u) + x)


class SkeletonGait(nn.Module):
    """Maps (n, t, 2, 64, 44), mask (n, t) -> feature (n, d', 16), embedding (n, d', 16), logits (n, k, 16).

    feature is what the triplet loss sees. embedding, for the test, is the same, or with use_emb2 the unit vectors
    behind the BatchNorm, from which the logits come. num_class 0 leaves the classifier out.
    layers: blocks of the stages, (1, 4, 4, 1) on Gait3D and GREW, (1, 1, 1, 1) elsewhere. channels: their widths;
    (8, 16, 32, 64) suits a CPU. skeleton: of the poses the maps were drawn from; the 17 joints of COCO in 2D.
    One sequence's result does not depend on padding. The published test reads the first 720 frames
    (`evaluator_cfg.sampler.frames_all_limit: 720`).

    Initialisation: convolutions and linear maps Xavier uniform, BatchNorm scales normal around 1 with deviation 0.02.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        layers: Sequence[int] = (1, 4, 4, 1),
        channels: Sequence[int] = (64, 128, 256, 512),
        embedding_width: int = 256,
        num_class: int = 0,
        use_emb2: bool = False,
    ) -> None:
        super().__init__()
        coco_joints(skeleton)
        if len(layers) != 4 or len(channels) != 4 or min(layers) < 1:
            raise ValueError(
                f"layers and channels must hold four numbers each, of at least 1: got {list(layers)}, {list(channels)}"
            )
        self.takes = MAP
        self.use_emb2 = use_emb2
        self.layer0 = Wrapped(_conv3(MAP[0], channels[0]), nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True))
        self.layer1 = Wrapped(*(BasicBlock(channels[0]) for _ in range(layers[0])))
        self.layer2, self.layer3, self.layer4 = (
            nn.ModuleList(
                P3DBlock(channels[i] if first else channels[i + 1], channels[i + 1], stride if first else 1)
                for first in (True, *[False] * (layers[i + 1] - 1))
            )
            for i, stride in enumerate((2, 2, 1))
        )
        self.FCs = PartLinear(parts=STRIPS, inputs=channels[3], outputs=embedding_width)
        self.BNNecks = BNNeck(parts=STRIPS, width=embedding_width, classes=num_class)
        self.apply(_start)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        if pose.ndim != 5 or tuple(pose.shape[2:]) != MAP:
            raise ValueError(
                f"it reads maps (n, t, {', '.join(map(str, MAP))}), got {tuple(pose.shape)}; "
                "put SkeletonMaps into the transforms"
            )
        if mask.shape != pose.shape[:2]:
            raise ValueError(f"mask must be {tuple(pose.shape[:2])} like the maps, got {tuple(mask.shape)}")
        n, t = mask.shape
        there = padded(mask)
        real = None if there is None else there.to(pose.dtype)
        x = pose.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (n t, 2, 64, 44)
        x = self.layer1(self.layer0(x))  # (n t, d1, 64, 44)
        for stage in (self.layer2, self.layer3, self.layer4):  # down to (n t, d4, 16, 11)
            for block in stage:
                x = block(x, n, real)
        strips = self.pool(x.unflatten(0, (n, t)), there)  # (n, d4, 16)
        feature = self.FCs(strips)
        embedding, logits = self.BNNecks(feature)
        out = {"feature": feature, "embedding": embedding if self.use_emb2 else feature}
        return out if logits is None else out | {"logits": logits}

    @staticmethod
    def pool(x: Tensor, mask: Tensor | None) -> Tensor:
        """(n, t, d, h, w), mask (n, t) -> (n, d, h): maximum over the real frames, then mean + maximum of each row."""
        if mask is not None:
            x = x.masked_fill(~mask[:, :, None, None, None], -torch.inf)
        x = x.amax(1)  # (n, d, h, w)
        return x.mean(3) + x.amax(3)


def _start(module: nn.Module) -> None:
    """Initial weights; those of FCs and BNNecks are Xavier uniform already."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
