"""Silhouettes (n, t, 64, 44) in [0, 1] and mask (n, t) in, losses and pictures out: LandmarkGait's first two steps.

LandmarkNet finds landmarks without labels, ParsingNet cuts silhouettes into head, upper and lower body with them.
Source: LandmarkGait, ACM Multimedia 2023 (doi 10.1145/3581783.3611840), as specified in landmarkgait.md sections 2 and
3; where that text recommends a correction it is the default here and the published behaviour an option.
Shapes: n sequences, t frames, m real frames of all sequences together, k landmarks, d width. A mask is True where a
frame is real; what stands in padded frames changes nothing, and pictures are zero there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.landmarks import (
    PARTS,
    SIZE,
    Backbone,
    Clips,
    Grouping,
    Scene,
    fine_parts,
    in_pieces,
    pictures,
    refiner,
)
from bpmt_ext.skeletons import Skeleton

PICTURE_WEIGHT = 10.0  # of the mean squared errors


class Silhouettes(nn.Module):
    """What all three networks share: the landmarks. The arguments are LandmarkNet's."""

    modality = "silhouette"
    takes = SIZE

    def __init__(
        self,
        *,
        landmarks: int,
        channels: Sequence[int],
        inv_std: float,
        offset: int,
        offset_rule: str,
        clip_heatmaps: bool,
    ) -> None:
        super().__init__()
        if landmarks not in PARTS:
            raise ValueError(f"landmarks must be one of {', '.join(map(str, PARTS))}, not {landmarks!r}")
        if len(channels) != 3 or min(channels) < 1:
            raise ValueError(f"channels must hold three numbers of at least 1, got {list(channels)}")
        if offset_rule not in ("half", "fixed"):
            raise ValueError(f"offset_rule must be half or fixed, not {offset_rule!r}")
        self.offset, self.offset_rule = offset, offset_rule
        self.Backbone = Backbone(
            landmarks=landmarks, channels=channels, inv_std=inv_std, clip_heatmaps=clip_heatmaps
        )

    def packed(self, pose: Tensor, mask: Tensor) -> tuple[Tensor, Clips]:
        """(n, t, 64, 44) -> the real frames (m, 64, 44) and where they stand. ValueError for other shapes."""
        if pose.ndim != 4 or tuple(pose.shape[2:]) != SIZE or not pose.is_floating_point():
            raise ValueError(
                f"it reads silhouettes (n, t, {SIZE[0]}, {SIZE[1]}) from 0 to 1, got {tuple(pose.shape)} {pose.dtype}; "
                "put BaseSilCuttingTransform into the transforms"
            )
        if mask.shape != pose.shape[:2]:
            raise ValueError(f"mask must be {tuple(pose.shape[:2])} like the silhouettes, got {tuple(mask.shape)}")
        clips = Clips(mask)
        return pose[clips.owner, clips.number], clips

    def scene(self, frames: Tensor, clips: Clips) -> Scene:
        """Features and landmarks of every frame, each encoded once: a frame's source is another row of the same."""
        half = (clips.length // 2).clamp(max=self.offset)
        return self.Backbone.scene(frames, clips.rolled(half if self.offset_rule == "half" else self.offset))

    def located(self, pose: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """-> landmarks (n, t, k, 2), x and y from -1 to 1 as array columns and rows grow, and how sharp (n, t, k).

        Sharp is the peak of a landmark's softmax heatmap, from 1/176 (nowhere) to 1. Zero in padded frames.
        """
        frames, clips = self.packed(pose, mask)
        points, peaks = in_pieces(lambda at: self.Backbone.locate(frames[at]), frames)
        return clips.unpack(points), clips.unpack(peaks)

    @torch.no_grad()
    def landmarks(self, pose: Tensor, mask: Tensor) -> Tensor:
        """-> (n, t, k, 2): see `located`."""
        return self.located(pose, mask)[0]

    @torch.no_grad()
    def reconstruct(self, pose: Tensor, mask: Tensor) -> Tensor:
        """-> (n, t, 64, 44): every frame as rebuilt from another one of its sequence and its own landmarks."""
        frames, clips = self.packed(pose, mask)
        scene = self.scene(frames, clips)
        return clips.unpack(self.rebuilt(scene))

    def rebuilt(self, scene: Scene) -> Tensor:
        """-> (m, 64, 44)."""
        one = self.Backbone
        return in_pieces(lambda at: (one.refine(one.mix(scene, at))[:, 0],), scene.points)[0]

    @torch.no_grad()
    def embed(self, pose: Tensor, mask: Tensor) -> Tensor:
        """Mean feature of each row of the body (n, d, 16): what an evaluator may look at after pretraining."""
        frames, clips = self.packed(pose, mask)
        encode = self.Backbone.extract_feature
        rows = in_pieces(lambda at: (encode(pictures(frames[at])).mean(3),), frames)[0]  # (m, d, 16)
        total = rows.new_zeros(len(clips.length), *rows.shape[1:]).index_add(0, clips.owner, rows)
        return total / clips.length.clamp(min=1)[:, None, None]


class LandmarkNet(Silhouettes):
    """(n, t, 64, 44), mask (n, t) -> {losses: {reconstruction: ()}}; in eval mode also `landmarks`, `reconstruction`.

    The loss is 10 x the mean squared error of the rebuilt silhouettes over all real pixels, and nothing else.
    landmarks: 20, 25, 30 or 35. channels: widths of the encoders and, backwards, of the refiner; (8, 16, 32) suits a
    CPU. inv_std: 1 / width of the Gaussians. offset: frames between a silhouette and its source, circular; offset_rule
    `half`: at most half the sequence, `fixed`, as published: whatever its length, so that 8 frames rebuild themselves.
    clip_heatmaps: cut sums of Gaussians at 1; as published they are not. skeleton is accepted and not used.

    Initialisation: Xavier uniform, biases as torch has them; the landmarks as `Backbone.spread` says.
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
    ) -> None:
        super().__init__(
            landmarks=landmarks, channels=channels, inv_std=inv_std, offset=offset, offset_rule=offset_rule,
            clip_heatmaps=clip_heatmaps,
        )  # fmt: skip
        self.apply(start_weights)
        self.Backbone.spread()

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, dict[str, Tensor] | Tensor]:
        frames, clips = self.packed(pose, mask)
        scene = self.scene(frames, clips)
        rebuilt = self.rebuilt(scene)
        out = {"losses": {"reconstruction": PICTURE_WEIGHT * F.mse_loss(rebuilt, frames)}}
        if self.training:
            return out
        return out | {"landmarks": clips.unpack(scene.points), "reconstruction": clips.unpack(rebuilt)}


class Parsing(Silhouettes):
    """What ParsingNet and LandmarkGait share: landmarks in groups, and the parts they cut a silhouette into."""

    def __init__(
        self,
        *,
        landmarks: int,
        channels: Sequence[int],
        grouping: str,
        threshold_scope: str,
        **settings: float | str | bool,
    ) -> None:
        super().__init__(landmarks=landmarks, channels=channels, **settings)  # type: ignore[arg-type]
        if threshold_scope not in ("frame", "batch"):
            raise ValueError(f"threshold_scope must be frame or batch, not {threshold_scope!r}")
        self.threshold_scope = threshold_scope
        self.grouping = Grouping(landmarks, grouping)
        self.refine = refiner(channels, nn.Sigmoid())

    @torch.no_grad()
    def fit(self, pose: Tensor, mask: Tensor) -> None:
        """Take the mean place of every landmark from training clips, once the landmarks' weights are in."""
        self.grouping.fit(self.landmarks(pose, mask)[mask])

    @property
    def group_order(self) -> tuple[list[int], list[int], list[int]]:
        """Landmarks of the head, the upper and the lower body, each from the top down, by their mean height."""
        return self.grouping.order()

    def coarse(self, scene: Scene, clips: Clips, key: Tensor | None) -> Tensor:
        """-> (m, 3, 64, 44): what each part's landmarks make of the source, from 0 to 1."""
        member = self.grouping(scene.points, clips, key)

        def make(at: Tensor | slice) -> tuple[Tensor]:
            mixes = self.Backbone.mix_parts(scene, member, at)
            return (self.refine(mixes.flatten(0, 1)).view(-1, 3, *SIZE),)

        return in_pieces(make, scene.points)[0]

    @torch.no_grad()
    def parse(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> Tensor:
        """-> (n, t, 3, 64, 44): head, upper and lower body."""
        frames, clips = self.packed(pose, mask)
        return clips.unpack(self.parts(frames, clips, key))

    def parts(self, frames: Tensor, clips: Clips, key: Tensor | None) -> Tensor:
        """-> (m, 3, 64, 44)."""
        coarse = self.coarse(self.scene(frames, clips), clips, key)
        return fine_parts(frames, coarse.to(frames.dtype), self.threshold_scope)


class ParsingNet(Parsing):
    """(n, t, 64, 44), mask (n, t) -> {losses: {landmark: (), parsing: ()}, loss: their sum}.

    LandmarkNet's encoders and landmarks come from its training and stay as they are; its refiner R trains on, and a new
    one makes each part. Losses: 10 x the mean squared error of R's picture, and of the pixelwise maximum of the three
    parts. In eval mode also `landmarks`, `reconstruction`, `coarse` and `parts` (n, t, 3, 64, 44).
    grouping: `mean` or `frame`, see Grouping; threshold_scope: `frame` or `batch`, see fine_parts; the second of each
    is as published. The other arguments: LandmarkNet.
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
    ) -> None:
        super().__init__(
            landmarks=landmarks, channels=channels, inv_std=inv_std, offset=offset, offset_rule=offset_rule,
            clip_heatmaps=clip_heatmaps, grouping=grouping, threshold_scope=threshold_scope,
        )  # fmt: skip
        self.apply(start_weights)
        self.Backbone.requires_grad_(False)
        self.Backbone.refine.requires_grad_(True)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, dict[str, Tensor] | Tensor]:
        frames, clips = self.packed(pose, mask)
        with torch.no_grad():
            scene = self.scene(frames, clips)
        rebuilt, coarse = self.rebuilt(scene), self.coarse(scene, clips, key)
        losses = {
            "landmark": PICTURE_WEIGHT * F.mse_loss(rebuilt, frames),
            "parsing": PICTURE_WEIGHT * F.mse_loss(coarse.amax(1), frames),
        }
        out = {"losses": losses, "loss": losses["landmark"] + losses["parsing"]}
        if self.training:
            return out
        pictures = {
            "landmarks": scene.points, "reconstruction": rebuilt, "coarse": coarse,
            "parts": fine_parts(frames, coarse.detach().to(frames.dtype), self.threshold_scope),
        }  # fmt: skip
        return out | {name: clips.unpack(picture) for name, picture in pictures.items()}


def start_weights(module: nn.Module) -> None:
    """Initial weights; those of the heads are Xavier uniform already."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.BatchNorm1d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
