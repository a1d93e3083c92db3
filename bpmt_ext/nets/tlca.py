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

from bpmt_ext.draws import Draws
from bpmt_ext.nets.bpmt import PartHead, encoder_sizes
from bpmt_ext.nets.embedders import BodyStreams, OverJoints, build_embedder, fold_bodies, joint_share, mean_of_bodies
from bpmt_ext.nets.grouped import (
    GroupedAttention,
    GroupedCrossAttention,
    GroupedEncoder,
    GroupedLayerNorm,
    GroupedLinear,
)
from bpmt_ext.nets.iip import connected_layers, t1_encoder
from bpmt_ext.nets.iip_tokens import body_embedding
from bpmt_ext.nets.layers import Windows, cut_windows, pool_windows, position_table, set_mode, set_trainable
from bpmt_ext.skeletons import Skeleton


def draw_joints(real: Tensor, draws: Draws, *, mode: str, ratio: float) -> Tensor:
    """real (n, t, v), True where a joint of a frame is real -> hidden (n, t, v), True where it is masked.

    Of a sequence's r real units exactly max(1, floor(ratio r)) are hidden, any with equal chance: single joints of
    frames (`joint`) or whole frames (`frame`); `none` hides nothing. A draw depends on the sequence alone.
    """
    n, t, _ = real.shape
    if mode == "none":
        return torch.zeros_like(real)
    unit = real if mode == "joint" else real.any(2, keepdim=True)  # (n, t, u)
    score = torch.where(unit, draws.uniform(t, unit.shape[2]), 2.0).flatten(1)  # what is not real ranks last
    order = score.argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=real.device).expand_as(order))
    count = unit.flatten(1).sum(1, keepdim=True).double()
    wanted = (ratio * count + 1e-6).floor().clamp(min=1)  # 0.29 of 100 is 29, whatever their product in binary
    return ((rank < wanted).view_as(unit) & unit).expand_as(real)


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

    def encode(self, streams: Tensor, mask: Tensor) -> Tensor:
        """Streams (n, t, v, c'), mask (n, t) -> (1, n, t, d)."""
        x = self.embedding(streams)[None] + self.positions[:, None, : mask.shape[1]]
        if self.over_joints is None:
            return self.fc(self.encoder(x, mask))
        for over_joints, over_time in zip(self.over_joints, self.encoder.layers, strict=True):
            joints = x[0].unflatten(2, (streams.shape[2], -1))  # (n, t, v, d/J)
            x = over_time(over_joints(joints).flatten(2)[None], mask)
        return self.fc(x)

    def forward(self, pose: Tensor, mask: Tensor) -> Tensor:
        return self.encode(self.streams(pose, mask), mask)


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
    t1_encoder: `plain` or IIP-Transformer's (iip.py); t1_fc: fully connected layers after T1.
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
        self.t2 = GroupedEncoder(groups=1, **encoder_sizes(width, heads, layers, feedforward, later, attention_dropout))
        if fusion not in ("cross", "ffn"):
            raise ValueError(f"fusion must be cross or ffn, not {fusion!r}")
        cross = fusion == "cross"
        self.fuse: nn.Module = (
            GroupedCrossAttention(groups=1, width=width, heads=heads, dropout=later)
            if cross else FusionBlock(width=width, heads=heads, dropout=later)
        )  # fmt: skip
        if pool not in ("mean", "max", "mean_max"):
            raise ValueError(f"pool must be mean, max or mean_max, not {pool!r}")
        if head not in ("linear", "mlp", "part"):
            raise ValueError(f"head must be linear, mlp or part, not {head!r}")
        self.pool, pooled = pool, 2 * width if pool == "mean_max" else width
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
        windows = self.t1.windows(pose, mask)
        first = self.t1(windows.pose, windows.mask)  # E1 (1, m, w, d)
        second = self.t2(first, windows.mask)  # E2 (1, m, w, d)
        fused = self.fuse(first, second, windows.mask)  # F (1, m, w, d)
        out = self.head(pool_windows(fused, windows, self.bodies * pose.shape[0], self.pool))
        return {name: mean_of_bodies(value, self.bodies) for name, value in out.items()}


class Decoder(nn.Module):
    """Encoded frames (1, n, t, d) -> streams (n, t, v, c): `linear`, `mlp` (d -> d, ReLU, out) or both, `residual`."""

    def __init__(self, *, width: int, joints: int, channels: int, kind: str) -> None:
        super().__init__()
        if kind not in ("linear", "mlp", "residual"):
            raise ValueError(f"decoder must be linear, mlp or residual, not {kind!r}")
        out, self.shape = joints * channels, (joints, channels)
        self.linear = nn.Linear(width, out) if kind != "mlp" else None
        hidden = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))
        self.mlp = hidden if kind != "linear" else None

    def forward(self, x: Tensor) -> Tensor:
        return sum(path(x[0]) for path in (self.linear, self.mlp) if path is not None).unflatten(2, self.shape)


class TLCA_T1(nn.Module):  # noqa: N801 - the name in the configs
    """Pose (n, t, b v, c), mask (n, t) -> {losses: {body: ()}}: stage 1, a masked autoencoder of the whole body.

    Hidden joints (mask `joint`), frames (`frame`) or nothing (`none`) are zeros in the standardised input, and so is
    every bone or velocity that would tell them; the loss is the mean squared error of the input streams at what is
    hidden, or everywhere for `none`. Only real frames are hidden and scored, and, unless skip_unseen is False, only
    joints whose confidence (the channel after the coordinates, where the pose has it) is not 0.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
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
        t1_encoder: str = "plain",
        t1_fc: int = 0,
        mask: str = "joint",
        mask_ratio: float = 0.3,
        decoder: str = "linear",
        skip_unseen: bool = True,
    ) -> None:
        super().__init__()
        if mask not in ("joint", "frame", "none"):
            raise ValueError(f"mask must be joint, frame or none, not {mask!r}")
        if not 0 < mask_ratio <= 0.95:
            raise ValueError(f"mask_ratio must be in (0, 0.95], not {mask_ratio}")
        sizes = encoder_sizes(width, heads, layers, feedforward, dropout, attention_dropout)
        self.t1 = BodyEncoder(
            skeleton=skeleton, streams=streams, standardise=standardise, embedder=embedder, max_frames=max_frames,
            position_start=position_start, pad_mask=pad_mask, bodies=bodies, kind=t1_encoder, fc=t1_fc, **sizes,
        )  # fmt: skip
        self.bodies, self.takes = bodies, self.t1.takes
        self.mode, self.ratio, self.skip_unseen = mask, mask_ratio, skip_unseen and pad_mask
        self.decoder = Decoder(width=width, joints=skeleton.num_joints, channels=self.t1.streams.inputs, kind=decoder)

    def fit(self, pose: Tensor, mask: Tensor) -> None:
        """Take the input statistics from training samples, once."""
        self.t1.fit(pose, mask)

    def embed(self, pose: Tensor, mask: Tensor) -> Tensor:
        """Mean encoding (n, d, 1), nothing hidden: what an evaluator may look at after pretraining."""
        windows = self.t1.windows(pose, mask)
        features = self.t1(windows.pose, windows.mask)
        pooled = pool_windows(features, windows, self.bodies * pose.shape[0], "mean")  # (1, n b, d)
        return mean_of_bodies(pooled[0, :, :, None], self.bodies)

    def real_joints(self, pose: Tensor, mask: Tensor) -> Tensor:
        """(n, t, v) True where there is a joint to hide and to score."""
        dims = self.t1.streams.dims
        real = mask[:, :, None].expand(pose.shape[:3])
        return real & (pose[..., dims] > 0) if self.skip_unseen and pose.shape[3] > dims else real

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, dict[str, Tensor]]:
        if key is None:  # a host hands over no keys: its own random state seeds them
            key = torch.randint(2**62, (len(pose),), device=pose.device)
        windows = self.t1.windows(pose, mask)
        key = Draws(key).split("body").bits(self.bodies).flatten()
        key = Draws(key).bits(int(windows.number.max()) + 1)[windows.owner, windows.number]
        target = self.t1.streams(windows.pose, windows.mask)  # (m, w, v, c')
        real = self.real_joints(windows.pose, windows.mask)
        hidden = draw_joints(real, Draws(key).split("masking"), mode=self.mode, ratio=self.ratio)
        scored = (real if self.mode == "none" else hidden & real).to(target.dtype)
        guess = self.decoder(self.t1.encode(target * self.t1.streams.visible(hidden), windows.mask))
        error = (guess - target).square().mean(-1)  # (m, w, v)
        return {"losses": {"body": (error * scored).sum() / scored.sum().clamp(min=1)}}
