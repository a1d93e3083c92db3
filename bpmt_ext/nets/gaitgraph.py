"""Pose (n, t, v, c) and mask (n, t) in, one embedding per sequence out: GaitGraph1 and GaitGraph2.

    input branches (1 in GaitGraph1; joint, velocity, bone in GaitGraph2) -> joined -> main stream -> mean -> linear

Sources: Teepe et al., "GaitGraph" (ICIP 2021) and "Towards a deeper understanding of skeleton-based gait recognition"
(CVPRW 2022); sizes and names as specified in baselines.md sections 3 and 8.
Shapes: n sequences, t frames, v joints, c channels, d width, w views. A mask is True where a frame is real; real
frames come first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.exporting import arccos
from bpmt_ext.nets.frames import reverse_time
from bpmt_ext.nets.graphs import adjacency
from bpmt_ext.nets.layers import check_pose
from bpmt_ext.nets.resgcn import HOPS, ResGCN
from bpmt_ext.skeletons import Skeleton


class _GaitGraph(nn.Module):
    """What both have in common: the ResGCN and the shape of the input, `takes` (joints, channels)."""

    def __init__(
        self, *, skeleton: Skeleton, channels: int, input_num: int, reduction: int, block: str,
        input_branch: tuple[int, ...], main_stream: tuple[int, ...], num_class: int, tta: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        if block != "Bottleneck":
            raise ValueError(f"block must be Bottleneck, not {block!r}")
        if len(input_branch) < 2 or len(main_stream) < 2 or input_num < 1 or num_class < 1:
            raise ValueError(
                f"input_branch {list(input_branch)} and main_stream {list(main_stream)} need two widths or more, "
                f"input_num {input_num} and num_class {num_class} at least 1"
            )
        widths = (*input_branch[1:], *main_stream[1:])
        if reduction < 1 or any(width < 1 or width % reduction for width in widths):
            raise ValueError(f"reduction {reduction} does not divide every width of {list(widths)}")
        self.skeleton, self.tta = skeleton, tta
        self.takes = (skeleton.num_joints, input_num * channels)
        self.ResGCN = ResGCN(
            graph=adjacency(skeleton, HOPS), branches=input_num, branch=(channels, *input_branch[1:]),
            main=tuple(main_stream), reduction=reduction, out=num_class,
        )  # fmt: skip
        self.ResGCN.init()

    def streams(self, pose: Tensor) -> list[Tensor]:
        """(n, t, v, b c) -> one (n, c, t, v) per branch."""
        channels = pose[..., : self.takes[1]].permute(0, 3, 1, 2)
        return list(channels.chunk(len(self.ResGCN.head), dim=1))


class GaitGraph1(_GaitGraph):
    """Pose (n, t, v, c), mask (n, t) -> {views (n, w, d), feature, embedding (n, d, 1)}, all from unit vectors.

    c is 3: x, y and confidence, or x, y, z; a fourth, the confidence in 3D, where `input_branch` starts with 4.
    Training: time holds two views of equal length one after the other (TwoView), w = 2, feature their mean.
    Testing: w = 1; with `tta` the mean of the unit vectors of the sequence and of its reversal in time.
    319,530 parameters at d = 128 (num_class) on COCO.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        input_num: int = 1,
        reduction: int = 8,
        block: str = "Bottleneck",
        input_branch: tuple[int, ...] = (3, 64, 64, 32),
        main_stream: tuple[int, ...] = (32, 128, 128, 256, 256),
        num_class: int = 128,
        tta: bool = True,
    ) -> None:
        if input_num != 1 or not input_branch or input_branch[0] not in (3, skeleton.dims + 1):
            raise ValueError(
                f"input_num must be 1 and input_branch start with 3 or {skeleton.dims + 1} channels for a "
                f"{skeleton.dims}D skeleton, got {input_num} and {list(input_branch)}"
            )
        super().__init__(
            skeleton=skeleton, channels=input_branch[0], input_num=input_num, reduction=reduction, block=block,
            input_branch=input_branch, main_stream=main_stream, num_class=num_class, tta=tta,
        )  # fmt: skip

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        check_pose(pose, mask, self.skeleton, self.takes[1])
        n, t = mask.shape
        if self.training:
            if t % 2:
                raise ValueError(f"training needs two views of equal length along time (TwoView), got {t} frames")
            passes, masks = pose.view(n, 2, t // 2, *pose.shape[2:]), mask.view(n, 2, t // 2)
        else:
            passes = torch.stack([pose, reverse_time(pose, mask)] if self.tta else [pose], dim=1)
            masks = mask[:, None].expand(passes.shape[:3])
        unit = F.normalize(self.ResGCN(self.streams(passes.flatten(0, 1)), masks.flatten(0, 1)), dim=1)
        views = unit.view(n, -1, unit.shape[1])  # (n, w, d)
        mean = views.mean(1)
        return {"views": views if self.training else mean[:, None], "feature": mean[..., None],
                "embedding": mean[..., None]}  # fmt: skip


class GaitGraph2(_GaitGraph):
    """Pose (n, t, v, 15), mask (n, t) -> {feature (n, d, 1), embedding (n, d or 3 d, 1)}, not normalised.

    Channels as GaitGraph_MultiInput makes them, or with `corrected` as GaitGraphInput does: joint, velocity and bone,
    five each (seven in 3D, 21 together; the first number of `input_branch` may then be either). Testing with `tta`:
    the embedding is that of the sequence, of its reversal in time and of its left/right exchange, both encoded anew,
    one after the other. 350,822 parameters at d = 128 on COCO.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        input_num: int = 3,
        reduction: int = 8,
        block: str = "Bottleneck",
        input_branch: tuple[int, ...] = (5, 64, 32),
        main_stream: tuple[int, ...] = (32, 128, 256),
        num_class: int = 128,
        tta: bool = True,
        corrected: bool = False,
    ) -> None:
        channels = 2 * skeleton.dims + 1
        if input_num != 3 or not input_branch or input_branch[0] not in (5, channels):
            raise ValueError(
                f"input_num must be 3 and input_branch start with {channels} channels for a {skeleton.dims}D "
                f"skeleton, got {input_num} and {list(input_branch)}"
            )
        super().__init__(
            skeleton=skeleton, channels=channels, input_num=input_num, reduction=reduction, block=block,
            input_branch=input_branch, main_stream=main_stream, num_class=num_class, tta=tta,
        )  # fmt: skip
        self.corrected = corrected
        self.centre = next((joint for joint, parent in enumerate(skeleton.parents) if joint == parent), 0)
        self.register_buffer("mirror", torch.tensor(skeleton.mirror), persistent=False)
        self.register_buffer("parent", torch.tensor(skeleton.parents), persistent=False)

    def encode(self, pose: Tensor, mask: Tensor) -> Tensor:
        """Coordinates and confidence (n, t, v, >= c), mask (n, t) -> the network's own input (n, t, v, 15).

        For test time alone, where a network's input is turned round; what the transforms of the same names do.
        """
        d = self.skeleton.dims
        place, confidence = pose[..., :d], pose[..., d : d + 1]
        inside = F.pad(mask, (0, 2))[:, 2:, None, None]  # the frame after the next is real too
        later = F.pad(place, (0, 0, 0, 0, 0, 2))
        one, two = (torch.where(inside, later[:, k : k - 2 or None] - place, 0.0) for k in (1, 2))
        bone = place - place[:, :, self.parent]
        double = bone.double()  # near 1 a float32's arc cosine is far off
        angle = arccos(double / (double.norm(dim=-1, keepdim=True) + 1e-4)).to(bone.dtype)
        if d == 2 and not self.corrected:  # the original's slip: the confidence stands where an x should
            zero = torch.zeros_like(confidence)
            blocks = [one, zero, confidence, two[..., 1:], bone, zero, confidence, angle[..., 1:]]
        else:
            blocks = [one, confidence, two, bone, confidence, angle]
        return torch.cat([place, confidence, place - place[:, :, self.centre : self.centre + 1], *blocks], dim=-1)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        check_pose(pose, mask, self.skeleton, self.takes[1])
        if self.training or not self.tta:
            feature = self.ResGCN(self.streams(pose), mask)[..., None]
            return {"feature": feature, "embedding": feature}
        plain = pose[..., : self.skeleton.dims + 1]
        passes = torch.cat([
            pose[..., : self.takes[1]], self.encode(reverse_time(plain, mask), mask),
            self.encode(plain[:, :, self.mirror], mask),
        ])  # fmt: skip
        codes = self.ResGCN(self.streams(passes), mask.repeat(3, 1)).unflatten(0, (3, -1)).unbind()
        return {"feature": codes[0][..., None], "embedding": torch.cat(codes, dim=1)[..., None]}

    @torch.no_grad()
    def activation(self, pose: Tensor, mask: Tensor) -> Tensor:
        """What the embedding answers to, for pictures: (n, t, v) in 0..1, 0 in padded frames.

        The last map under every row of the final linear layer, negative values cut, over the clip's largest; a joint's
        value is that of the row that answers most, a frame's that of the map's frame it went into.
        """
        check_pose(pose, mask, self.skeleton, self.takes[1])
        last = self.ResGCN.last_map(self.streams(pose), mask)
        response = torch.einsum("dc,nctv->ndtv", self.ResGCN.fcn.weight, last.x).amax(1).clamp(min=0)  # (n, t', v)
        response = response * last.mask[:, :, None]
        top = response.amax((1, 2), keepdim=True)
        shown = response / torch.where(top > 0, top, 1.0)
        frame = torch.arange(mask.shape[1], device=pose.device) // last.stride
        return shown[:, frame] * mask[:, :, None]
