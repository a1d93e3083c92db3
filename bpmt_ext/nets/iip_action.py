"""Pose (n, t, b v, c) and mask (n, t) in, class logits (n, k, 1) out: IIP-Transformer for actions, b = 1 or 2 bodies.

A token is a body part in a frame; one class token gathers what the action is (Wang et al., arXiv 2110.13385, as
iip_transformer.md specifies it). The published result averages four networks, each trained on one stream: `joint`,
`bone`, `velocity` (joint motion) and `bone_velocity` (bone motion); `bpmt fuse` averages their predictions.
Shapes: n sequences, t frames, v joints, c channels, b bodies, p = 5 parts, d width, k classes, m windows of w frames. A
mask is True where a frame is real.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bpmt_ext.draws import Draws
from bpmt_ext.nets.embedders import BodyStreams, fold_bodies, mean_of_bodies
from bpmt_ext.nets.iip import FullEncoder, pool_classes
from bpmt_ext.nets.iip_tokens import PartitionEncoding
from bpmt_ext.nets.layers import Slots, cut_windows
from bpmt_ext.nets.tlca import ClassHead
from bpmt_ext.skeletons import Skeleton


class IIPTransformer(nn.Module):
    """Pose (n, t, b v, c), mask (n, t) -> {feature, embedding (n, d, 1), logits (n, k, 1)}: actions by parts.

    Two maps of every joint with BatchNorm and ReLU (feature_width), the parts' joints joined to tokens, learned part
    and frame positions, `layers` layers of S-IIPA, T-IIPA and feed-forward (as wide as the tokens unless given), and
    one Linear on the class token. 2.75 M parameters at the defaults, 2.82 M with the last layer's map of part tokens,
    which nothing would read (published: 2.9 M; its widths are not). The paper's parts are not listed either: they are
    those of the skeleton. part_mask: in training, with this probability, the features of one body part of a sequence
    are zero in all frames (Part-Mask). Sequences longer than max_frames are read window by window. bodies: people in a
    pose; they share all weights, and their class tokens are averaged.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_class: int = 0,
        streams: tuple[str, ...] = ("joint",),
        standardise: str = "none",
        feature_width: int = 64,
        width: int = 256,
        heads: int = 8,
        layers: int = 4,
        feedforward: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        max_frames: int = 32,
        part_mask: float = 0.5,
        bodies: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(bodies, int) or bodies < 1:
            raise ValueError(f"bodies must be a number of at least 1, not {bodies!r}")
        if not 0 <= part_mask <= 1:
            raise ValueError(f"part_mask must be in [0, 1], not {part_mask}")
        self.bodies, self.max_frames, self.part_mask = bodies, max_frames, part_mask
        self.streams = BodyStreams(skeleton=skeleton, streams=streams, standardise=standardise)
        self.takes = (bodies * skeleton.num_joints, self.streams.needed)
        self.slots = Slots(skeleton.parts)
        self.embedding = PartitionEncoding(
            slots=self.slots, channels=self.streams.inputs, width=width, features=feature_width, shared=True,
            batch_norm=True, whole=True,
        )  # fmt: skip
        self.positions = nn.Parameter(0.02 * torch.randn(max_frames, width))
        self.encoder = FullEncoder(
            groups=1, tokens=(self.slots.parts,), width=width, heads=heads, layers=layers,
            feedforward=feedforward or width, dropout=dropout,
            attention_dropout=dropout if attention_dropout is None else attention_dropout, join=False,
            only_class=True,
        )  # fmt: skip
        self.head = ClassHead(inputs=width, classes=num_class, kind="linear", dropout=0.0)

    def fit(self, pose: Tensor, mask: Tensor) -> None:
        """Take the input statistics from training samples (n, t, b v, c), once (see Streams.fit)."""
        self.streams.fit(*fold_bodies(pose, mask, self.bodies))

    def draw_kept(self, key: Tensor) -> Tensor:
        """key (n b,) -> (n b, p) False where Part-Mask takes a body's part away."""
        draws = Draws(key).split("part_mask")
        lost = draws.split("part").integers(self.slots.parts)[:, None]
        chosen = draws.split("chosen").uniform()[:, None] < self.part_mask
        return ~(chosen & (torch.arange(self.slots.parts, device=key.device) == lost))

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        keep = None
        if self.training and self.part_mask > 0:
            if key is None:  # a host hands over no keys: its own random state seeds them
                key = torch.randint(2**62, (len(pose),), device=pose.device)
            keep = self.draw_kept(Draws(key).split("body").bits(self.bodies).flatten())
        pose, mask = fold_bodies(pose, mask, self.bodies)
        windows = cut_windows(pose, mask, self.max_frames)
        keep = None if keep is None else keep[windows.owner]
        x = self.embedding(self.streams(windows.pose, windows.mask), windows.mask, keep)  # (p, m, w, d)
        x, told = (x + self.positions[: x.shape[2]]).transpose(0, 1)[None], []
        self.encoder.encode(x, windows.mask, told)
        pooled = pool_classes(told[0], windows, pose.shape[0])[0]  # (n b, d)
        return self.head(mean_of_bodies(pooled, self.bodies)[None])
