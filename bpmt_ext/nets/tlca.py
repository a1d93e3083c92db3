"""Pose (n, t, v, c) and mask (n, t) in, embedding (n, d, 1) and logits (n, k, 1) out: TLCA, the whole body as one part.

Also known as CascadeFormer. A transformer over the frames of the whole body (T1) is pretrained by reconstructing what
is hidden from it; a second one (T2) reads what the first made, and the first attends to the second:

    pose -> frame embedder -> + positions -> T1 -> E1 -> T2 -> E2 -> cross-attention (E1 asks E2) -> mean -> head

Source: the two published repositories as specified in tlca.md sections 1 and 2. Nothing an embedding holds comes from
padding or batch mates; `pad_mask: off` gives the published runs, in which zero-padded frames count as real.
Shapes: n sequences, t frames, v joints, c channels, d width, k classes, m windows of w frames, b bodies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.bpmt import PartHead, encoder_sizes
from bpmt_ext.nets.embedders import BodyStreams, OverJoints, build_embedder, fold_bodies, joint_share, mean_of_bodies
from bpmt_ext.nets.grouped import (
    GroupedAttention,
    GroupedCrossAttention,
    GroupedEncoder,
    GroupedLayerNorm,
    GroupedLinear,
)
from bpmt_ext.nets.iip import IIPEncoder, class_pool, connected_layers, pool_classes, t1_encoder
from bpmt_ext.nets.iip_tokens import body_embedding, check_kind
from bpmt_ext.nets.layers import Windows, cut_windows, pool_windows, position_table, set_mode, set_trainable
from bpmt_ext.skeletons import Skeleton


class BodyEncoder(nn.Module):
    """Pose (n, t, v, c), mask (n, t) -> E1 (1, n, t, d): T1, a transformer over the frames of the whole body.

    embedder: see embedders.py. position_start: `zero`, `normal` (truncated, deviation 0.02) or `sine` values of the
    learned positions, max_frames rows of them. kind: `plain`, or an encoder of iip.py, which reads the pose itself; fc:
    fully connected layers behind it. `windows` makes sequences of one body each, none longer than max_frames, of poses
    of `bodies` people; with pad_mask False padded frames become real ones that hold zeros.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        streams: tuple[str, ...],
        standardise: str,
        embedder: str,
        max_frames: int,
        position_start: str,
        pad_mask: bool,
        bodies: int,
        kind: str,
        fc: int,
        width: int,
        heads: int,
        layers: int,
        feedforward: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        sizes = {"heads": heads, "feedforward": feedforward, "dropout": dropout, "attention_dropout": attention_dropout}
        if not isinstance(pad_mask, bool) or not isinstance(bodies, int) or bodies < 1:
            raise ValueError(f"pad_mask is on or off, bodies a number of at least 1; got {pad_mask!r} and {bodies!r}")
        self.pad_mask, self.bodies, self.max_frames = pad_mask, bodies, max_frames
        self.streams = BodyStreams(skeleton=skeleton, streams=streams, standardise=standardise)
        self.takes = (bodies * skeleton.num_joints, self.streams.needed)
        given = {"skeleton": skeleton, "channels": self.streams.inputs, "width": width}
        self.embedding = (
            build_embedder(embedder, **given, **sizes) if kind == "plain" else body_embedding(kind, embedder, **given)
        )
        if position_start == "normal":
            table = nn.init.trunc_normal_(torch.empty(1, max_frames, width), std=0.02)
        elif position_start in ("zero", "sine"):
            table = position_table(1, max_frames, width, position_start)
        else:
            raise ValueError(f"position_start must be zero, normal or sine, not {position_start!r}")
        self.positions = nn.Parameter(table)
        slots = getattr(self.embedding, "slots", None)
        self.encoder = t1_encoder(kind, groups=1, slots=slots, join=True, width=width, layers=layers, **sizes)
        self.fc = connected_layers(fc, groups=1, width=width)
        self.over_joints = None
        if embedder == "spacetime":
            share = joint_share(width, skeleton.num_joints, embedder)
            self.over_joints = nn.ModuleList(OverJoints(width=share, **sizes) for _ in range(layers))

    def fit(self, pose: Tensor, mask: Tensor) -> None:
        """Take the input statistics from training samples (n, t, b v, c), once (see Streams.fit)."""
        self.streams.fit(*fold_bodies(pose, mask, self.bodies))

    def windows(self, pose: Tensor, mask: Tensor) -> Windows:
        """Pose (n, t, b v, c), mask (n, t) -> pieces (m, w, v, c) of n b sequences, with the frames that count."""
        pose, mask = fold_bodies(pose, mask, self.bodies)
        if not self.pad_mask:
            pose, mask = pose * mask[:, :, None, None], torch.ones_like(mask)
        return cut_windows(pose, mask, self.max_frames)

    def encode(self, streams: Tensor, mask: Tensor, *told: list[Tensor]) -> Tensor:
        """Streams (n, t, v, c'), mask (n, t) -> (1, n, t, d). told: a list that gets an iip encoder's class tokens."""
        x = self.embedding(streams)[None] + self.positions[:, None, : mask.shape[1]]
        if self.over_joints is None:
            return self.fc(self.encoder(x, mask, *told))
        for over_joints, over_time in zip(self.over_joints, self.encoder.layers, strict=True):
            joints = x[0].unflatten(2, (streams.shape[2], -1))  # (n, t, v, d/J)
            x = over_time(over_joints(joints).flatten(2)[None], mask)
        return self.fc(x)

    def forward(self, pose: Tensor, mask: Tensor, *told: list[Tensor]) -> Tensor:
        return self.encode(self.streams(pose, mask), mask, *told)


class FusionBlock(nn.Module):
    """query, context (1, n, t, d), mask (n, t) -> (1, n, t, d): cross-attention, feed-forward, Add & Norm after each.

    The larger fusion of the NTU runs: dropout on the attention weights, feed-forward d -> d -> d.
    """

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = GroupedAttention(groups=1, width=width, heads=heads, dropout=dropout)
        self.norm1, self.norm2 = (GroupedLayerNorm(groups=1, width=width) for _ in range(2))
        self.up, self.down = (GroupedLinear(groups=1, inputs=width, outputs=width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norm1(query + self.attention(query, context, mask))
        return self.norm2(x + self.down(self.dropout(F.relu(self.up(x)))))


class ClassHead(nn.Module):
    """Pooled features (1, n, d) -> feature, embedding (n, d, 1), the pooled ones, and logits (n, k, 1).

    kind: `linear` (Linear d -> k) or `mlp` (LayerNorm, Dropout, Linear d -> d, ReLU, Dropout, Linear d -> k).
    classes 0: no logits.
    """

    def __init__(self, *, inputs: int, classes: int, kind: str, dropout: float) -> None:
        super().__init__()
        before = [nn.LayerNorm(inputs), nn.Dropout(dropout), nn.Linear(inputs, inputs), nn.ReLU(), nn.Dropout(dropout)]
        self.before = nn.Sequential(*before) if kind == "mlp" and classes else nn.Identity()
        self.classifier = nn.Linear(inputs, classes) if classes else None

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        out = {"feature": pooled[0, :, :, None], "embedding": pooled[0, :, :, None]}
        if self.classifier is not None:
            out["logits"] = self.classifier(self.before(pooled[0]))[..., None]
        return out


class TLCA(nn.Module):
    """Pose (n, t, b v, c), mask (n, t) -> {feature, embedding (n, d, 1), logits (n, k, 1)}: the finetuning network.

    Options and defaults are BPMT's where the names are. fusion: `cross` (the thesis: LayerNorm(E1 + Dropout(MHA))) or
    `ffn` (FusionBlock). t2_dropout: dropout of T2 and of the fusion, that of T1 unless given. head: `linear`, `mlp`,
    or `part`: BPMT's own (FC to embedding_width, BNNeck, classifier), for comparisons with it. num_class 0 leaves the
    classifier out. bodies: people in a pose; they share all weights, and their outputs are averaged.
    freeze_t1: `yes` (frozen, in eval mode), `no`, or `last_layer` (only the last encoder layer of T1 trains).
    t1_encoder: `plain` or IIP-Transformer's (iip.py); t1_fc: fully connected layers after T1; t2_encoder: `plain` or
    iip_part; pool `..._cls`: the class tokens of both join the pooled features.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_class: int = 0,
        streams: tuple[str, ...] = ("joint",),
        standardise: str = "joint",
        embedder: str = "linear",
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        feedforward: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        max_frames: int = 60,
        position_start: str = "sine",
        pad_mask: bool = True,
        bodies: int = 1,
        freeze_t1: str = "no",
        t1_encoder: str = "plain",
        t1_fc: int = 0,
        t2_encoder: str = "plain",
        t2_dropout: float | None = None,
        fusion: str = "cross",
        pool: str = "mean",
        head: str = "linear",
        head_dropout: float = 0.3,
        embedding_width: int = 128,
        classifier: str = "cosine",
    ) -> None:
        super().__init__()
        sizes = encoder_sizes(width, heads, layers, feedforward, dropout, attention_dropout)
        self.t1 = BodyEncoder(
            skeleton=skeleton, streams=streams, standardise=standardise, embedder=embedder, max_frames=max_frames,
            position_start=position_start, pad_mask=pad_mask, bodies=bodies, kind=t1_encoder, fc=t1_fc, **sizes,
        )  # fmt: skip
        self.bodies, self.takes = bodies, self.t1.takes
        later = dropout if t2_dropout is None else t2_dropout
        check_kind("t2_encoder", t2_encoder, ("plain", "iip_part"))
        sizes = encoder_sizes(width, heads, layers, feedforward, later, attention_dropout)
        self.t2 = (GroupedEncoder if t2_encoder == "plain" else IIPEncoder)(groups=1, **sizes)
        if fusion not in ("cross", "ffn"):
            raise ValueError(f"fusion must be cross or ffn, not {fusion!r}")
        cross = fusion == "cross"
        self.fuse: nn.Module = (
            GroupedCrossAttention(groups=1, width=width, heads=heads, dropout=later)
            if cross else FusionBlock(width=width, heads=heads, dropout=later)
        )  # fmt: skip
        if head not in ("linear", "mlp", "part"):
            raise ValueError(f"head must be linear, mlp or part, not {head!r}")
        self.pool, self.hear = class_pool(pool, (t1_encoder, t2_encoder))
        pooled = ((2 if self.pool == "mean_max" else 1) + sum(self.hear)) * width
        self.head: nn.Module = (
            PartHead(parts=1, inputs=pooled, outputs=embedding_width, classes=num_class, classifier=classifier)
            if head == "part" else ClassHead(inputs=pooled, classes=num_class, kind=head, dropout=head_dropout)
        )  # fmt: skip
        self.freeze_t1 = freeze_t1
        set_trainable(self.t1, freeze_t1, self.t1.encoder.layers[-1])

    def train(self, mode: bool = True) -> TLCA:
        super().train(mode)
        set_mode(self.t1, self.freeze_t1, self.t1.encoder.layers[-1], mode)
        return self

    def fit(self, pose: Tensor, mask: Tensor) -> None:
        """Take the input statistics from training samples, once."""
        self.t1.fit(pose, mask)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        windows, sequences = self.t1.windows(pose, mask), self.bodies * pose.shape[0]
        told: list[Tensor] = []  # class tokens (1, m, d) of the stages that are heard
        first = self.t1(windows.pose, windows.mask, *[told] * self.hear[0])  # E1 (1, m, w, d)
        second = self.t2(first, windows.mask, *[told] * self.hear[1])  # E2 (1, m, w, d)
        fused = self.fuse(first, second, windows.mask)  # F (1, m, w, d)
        pooled = pool_windows(fused, windows, sequences, self.pool)
        out = self.head(torch.cat([pooled, *(pool_classes(x, windows, sequences) for x in told)], 2))
        return {name: mean_of_bodies(value, self.bodies) for name, value in out.items()}
