"""Silhouettes (n, t, 64, 44) in [0, 1] and mask (n, t) in, identity embeddings and logits out: LandmarkGait.

Three networks, trained one after the other: LandmarkNet and ParsingNet (`parsing.py`) find landmarks and body parts
without labels, LandmarkGait recognises people from the whole silhouette and the parts. Source: LandmarkGait, ACM
Multimedia 2023 (doi 10.1145/3581783.3611840), as specified in landmarkgait.md section 4; where that text recommends a
correction it is the default here and the published behaviour an option.
Shapes: n sequences, t frames, b clips, d width, h rows, w columns, p = 96 strips, k classes. A mask is True where a
frame is real; what stands in padded frames changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.exporting import exporting
from bpmt_ext.nets.landmarks import Under
from bpmt_ext.nets.parsing import LandmarkNet, Parsing, ParsingNet, start_weights
from bpmt_ext.nets.partwise import BNNeck, PartLinear
from bpmt_ext.skeletons import Skeleton

__all__ = ["LandmarkGait", "LandmarkNet", "ParsingNet"]

STRIPS = 96  # rows of three maps: the whole silhouette, its parts, parts of different moments


def _conv3d(inputs: int, outputs: int, size: int | tuple[int, int, int], stride: int = 1) -> nn.Sequential:
    """3D convolution without bias that keeps the size (with a stride: time / stride), and LeakyReLU."""
    size = (size,) * 3 if isinstance(size, int) else size
    padding = (0 if stride > 1 else size[0] // 2, size[1] // 2, size[2] // 2)
    conv = nn.Conv3d(inputs, outputs, size, (stride, 1, 1), padding, bias=False)
    return nn.Sequential(Under(conv3d=conv), nn.LeakyReLU(0.01, inplace=True))


class PMBConv(nn.Module):
    """x (n, d, t, h, w) -> (n, d', t, h, w): the sum of four paths over neighbourhoods of different extent."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.PMBConv_3x3x3 = _conv3d(inputs, outputs, 3)
        self.PMBConv_1x3x3 = _conv3d(inputs, outputs, (1, 3, 3))
        self.PMBConv_1x1x1_A = _conv3d(inputs, outputs, 1)
        self.PMBConv_1x1x1_B = _conv3d(inputs, outputs, 1)
        self.PMBConv_3x3x3_B = _conv3d(outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        near = self.PMBConv_1x1x1_A(x).transpose(1, 2)  # frame by frame: in 3D it takes a CPU four times as long
        near = F.avg_pool2d(near.flatten(0, 1), 3, stride=1, padding=1).view_as(near).transpose(1, 2)
        return self.PMBConv_3x3x3(x) + self.PMBConv_1x3x3(x) + near + self.PMBConv_3x3x3_B(self.PMBConv_1x1x1_B(x))


class GeM(nn.Module):
    """x (n, d, h, w) -> (n, d, h): generalised mean over the columns; the exponent is learned.

    The largest value is taken out before the power and put back after the root: the same number, and no x^6.5 of small
    x that a float cannot hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 6.5))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.p.dtype).clamp(min=1e-6)
        top = x.detach().amax(-1, keepdim=True)
        return top[..., 0] * (x / top).pow(self.p).mean(-1).pow(1 / self.p)


class LandmarkGait(Parsing):
    """(n, t, 64, 44), mask (n, t) -> feature, embedding (n, d, 96) and logits (n, k, 96).

    One extractor reads five clips: the silhouettes, head, upper and lower body, and a mixed clip, each frame of it the
    head of one moment, the upper body 3 and the lower body 6 frames before. mix_axis `batch`, as published, takes them
    from the sequences 3 and 6 before in the batch, other people's, instead.
    Everything of the first two steps is frozen: both losses of step 2, which the published step 3 goes on adding, can
    only train the refiner R, whose picture nothing here reads. They are left out; nothing but the recogniser trains.
    feature and embedding are both the output of the BatchNorm; bnneck: one BatchNorm for each strip, vectors of length
    1 and cosines as logits. num_class 0 leaves the classifier out. widths: of the extractor's four layers, (8, 16, 32,
    32) suits a CPU. A sequence of 1 or 2 frames is repeated to 3 or 4. The other arguments: ParsingNet.

    Initialisation: convolutions and linear maps Xavier uniform, BatchNorm scales normal around 1 with deviation 0.02.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton | None = None,
        landmarks: int = 25,
        channels: Sequence[int] = (32, 64, 128),
        inv_std: float = 10.0,
        offset: int = 8,
        offset_rule: str = "half",
        clip_heatmaps: bool = False,
        grouping: str = "mean",
        threshold_scope: str = "frame",
        mix_axis: str = "time",
        widths: Sequence[int] = (32, 64, 128, 128),
        embedding_width: int = 128,
        num_class: int = 0,
        bnneck: bool = False,
    ) -> None:
        super().__init__(
            landmarks=landmarks, channels=channels, inv_std=inv_std, offset=offset, offset_rule=offset_rule,
            clip_heatmaps=clip_heatmaps, grouping=grouping, threshold_scope=threshold_scope,
        )  # fmt: skip
        if mix_axis not in ("time", "batch"):
            raise ValueError(f"mix_axis must be time or batch, not {mix_axis!r}")
        if len(widths) != 4 or min(widths) < 1:
            raise ValueError(f"widths must hold four numbers of at least 1, got {list(widths)}")
        self.mix_axis, self.bnneck = mix_axis, bnneck
        self.conv3d, self.LTA = _conv3d(1, widths[0], 3), _conv3d(widths[0], widths[0], (3, 1, 1), stride=3)
        self.PMBConvA, self.PMBConvB, self.PMBConvC = map(PMBConv, widths[:3], widths[1:])
        self.HPP = GeM()
        self.Head0 = PartLinear(parts=STRIPS, inputs=widths[3], outputs=embedding_width)
        if bnneck:
            self.BNNecks = BNNeck(parts=STRIPS, width=embedding_width, classes=num_class)
        else:
            self.Bn = nn.BatchNorm1d(embedding_width)
            self.Head1 = PartLinear(parts=STRIPS, inputs=embedding_width, outputs=num_class) if num_class else None
        self.apply(start_weights)
        self.Backbone.requires_grad_(False)
        self.refine.requires_grad_(False)

    @torch.no_grad()
    def maps(self, pose: Tensor, mask: Tensor, key: Tensor | None) -> tuple[Tensor, Tensor]:
        """-> clips (5, n, t', 64, 44): whole, head, upper, lower, mixed, zero where padded; their lengths (n,)."""
        frames, clips = self.packed(pose, mask)
        head, upper, lower = self.parts(frames, clips, key).unbind(1)
        other = clips.rolled if self.mix_axis == "time" else clips.swapped
        mixed = head.maximum(upper[other(3)]).maximum(lower[other(6)])
        length = clips.length * (3 / clips.length.clamp(1, 3)).ceil().long()  # 1 -> 3, 2 -> 4
        most = mask.shape[1] + 3 if exporting() else max(int(length.max()), mask.shape[1])
        number = torch.arange(most, device=mask.device)
        index = clips.first[:, None] + number % clips.length.clamp(min=1)[:, None]  # (n, t')
        real = number < length[:, None]
        maps = torch.stack([frames, head, upper, lower, mixed])[:, index.clamp(max=frames.shape[0] - 1)]
        return maps * real[..., None, None], length

    def extract(self, x: Tensor, length: Tensor) -> Tensor:
        """Clips (b, t, 64, 44), zero after `length` (b,) frames -> (b, d, 32, 22), the maximum over real triples."""
        x = x[..., None].permute(0, 4, 1, 2, 3)  # (b, 1, t, 64, 44), channels-last: see `pictures`
        x = self.LTA(self.conv3d(x))  # (b, d, t/3, 64, 44)
        real = torch.arange(x.shape[2], device=x.device) < (length // 3)[:, None]
        real = real[:, None, :, None, None]
        x = F.max_pool3d(self.PMBConvA(x * real), (1, 2, 2))
        x = self.PMBConvC(self.PMBConvB(x * real) * real)
        return x.masked_fill(~real, -torch.inf).amax(2)

    def strips(self, whole: Tensor, parts: Tensor, mixed: Tensor) -> Tensor:
        """Three maps (n, d, 32, 22) -> (n, d, 96): every row of each."""
        return self.HPP(torch.cat([whole, parts, mixed], dim=2))

    def head(self, strips: Tensor) -> tuple[Tensor, Tensor | None]:
        """(n, d, 96) -> embedding (n, d', 96), logits (n, k, 96) or None."""
        x = self.Head0(strips)
        if self.bnneck:
            return self.BNNecks(x)
        x = self.Bn(x)
        return x, None if self.Head1 is None else self.Head1(x)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        maps, length = self.maps(pose, mask, key)
        x = self.extract(maps.flatten(0, 1), length.repeat(5)).unflatten(0, (5, -1))
        whole, head, upper, lower, mixed = x.unbind()
        embedding, logits = self.head(self.strips(whole, head.maximum(upper).maximum(lower), mixed))
        out = {"feature": embedding, "embedding": embedding}
        return out if logits is None else out | {"logits": logits}
