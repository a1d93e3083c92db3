"""Pose (n, t, v, c) and mask (n, t) in, part-wise embedding (n, d', p) and logits (n, k, p) out: BPMT.

Body Part as Modality Transformer. Five body parts are encoded one by one (T1), then pair by pair through
cross-attention (T2, ten pairs); each part finally attends to what its four pairs say about it:

    pose -> five parts -> T1 -> F_p -> ten pairs -> cross-attention -> T2 -> U_{p|q} -> CA_p(F_p, U_p) -> pool -> head

Source: Yusen-Peng/BPMT as specified in bpmt.md sections 1-5; sharing after OmniVec2 (Srivastava and Sharma, CVPR 2024).
Shapes: n sequences, t frames, v joints, c channels, s slots (a joint in its part), p = 5 parts, q = 10 pairs,
d width, d' embedding width, k classes. A mask is True where a frame is real.
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.grouped import GroupedCrossAttention, GroupedLinear
from bpmt_ext.nets.iip import class_pool, classes_of_parts, connected_layers, t1_encoder, t2_encoder
from bpmt_ext.nets.iip_tokens import t1_embedding
from bpmt_ext.nets.layers import Slots, Streams, cut_windows, pool_windows, position_table, set_mode, set_trainable
from bpmt_ext.skeletons import Skeleton


def _part_order(x: Tensor, *, pairs: list[tuple[int, int]]) -> Tensor:
    """Pair encodings (q, 2, n, t, d) -> (p, n, 4 t, d): for each part what its four pairs say about it."""
    q, _, n, t, d = x.shape
    sides = [[2 * i + pair.index(p) for i, pair in enumerate(pairs) if p in pair] for p in range(max(max(pairs)) + 1)]
    order = torch.tensor(sides, device=x.device)  # (p, 4)
    said = x.reshape(2 * q, n, t, d).index_select(0, order.flatten()).view(*order.shape, n, t, d)  # (p, 4, n, t, d)
    return said.transpose(1, 2).reshape(len(sides), n, order.shape[1] * t, d)


class PartEmbedding(nn.Module):
    """Streams (n, t, s, c) -> (p, n, t, d): one linear map per part, held as one (s, c, d) table of joint rows."""

    def __init__(self, *, slots: Slots, channels: int, width: int) -> None:
        super().__init__()
        self.slots = slots
        inputs = channels * torch.bincount(slots.part)[slots.part]  # of each slot's own part
        bound = inputs.float().rsqrt()[:, None, None]
        self.weight = nn.Parameter((2 * torch.rand(slots.count, channels, width) - 1) * bound)
        self.bias = nn.Parameter(
            (2 * torch.rand(slots.parts, width) - 1)
            * torch.stack([bound[slots.part == part][0, 0] for part in range(slots.parts)])
        )

    def forward(self, x: Tensor) -> Tensor:
        n, t, s, c = x.shape
        p, d = self.bias.shape
        row = torch.arange(s, device=x.device)
        dense = self.weight.new_zeros(s, p, c, d).index_put((row, self.slots.part), self.weight)
        dense = dense.transpose(1, 2).reshape(s * c, p * d)  # zero where joint and part do not belong together
        out = torch.addmm(self.bias.reshape(-1), x.reshape(n * t, s * c), dense)
        return out.reshape(n, t, p, d).permute(2, 0, 1, 3).contiguous()


class PartEncoder(nn.Module):
    """Pose (n, t, v, c), mask (n, t) -> F (p, n, t, d): T1, one encoder per part, or one for all if `shared`.

    kind: `plain`, or one of iip.py's. fc: fully connected layers behind the encoder. attention: see grouped.py.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        streams: tuple[str, ...],
        standardise: str,
        width: int,
        max_frames: int,
        position_start: str,
        shared: bool,
        kind: str,
        fc: int,
        heads: int,
        layers: int,
        feedforward: int,
        dropout: float,
        attention_dropout: float,
        attention: str,
    ) -> None:
        super().__init__()
        self.slots = Slots(skeleton.parts)
        self.streams = Streams(skeleton=skeleton, slots=self.slots, streams=streams, standardise=standardise)
        groups = 1 if shared or kind == "iip_full" else self.slots.parts
        given = {"slots": self.slots, "channels": self.streams.channels, "width": width}
        self.embedding = PartEmbedding(**given) if kind == "plain" else t1_embedding(kind, **given)
        self.positions = nn.Parameter(position_table(groups, max_frames, width, position_start))
        self.encoder = t1_encoder(
            kind, groups=groups, slots=self.slots, width=width, heads=heads, layers=layers, feedforward=feedforward,
            dropout=dropout, attention_dropout=attention_dropout, attention=attention,
        )  # fmt: skip
        self.fc = connected_layers(fc, groups=groups, width=width)

    def encode(self, embedded: Tensor, mask: Tensor, *told: list[Tensor], frames: Tensor | None = None) -> Tensor:
        """Embedded frames (p, n, t, d) -> (p, n, t, d). told: a list that gets the class tokens of an iip encoder;
        frames: which of a sequence's frames they are (n, t), where some were left out."""
        positions = self.positions[:, None, : mask.shape[1]] if frames is None else self.positions[:, frames]
        return self.fc(self.encoder(embedded + positions, mask, *told))

    def forward(self, pose: Tensor, mask: Tensor, *told: list[Tensor]) -> Tensor:
        return self.encode(self.embedding(self.streams(pose, mask)), mask, *told)


class PairEncoder(nn.Module):
    """F (p, n, t, d), mask (n, t) -> U (q, 2, n, t, d): T2, each pair of parts fused and encoded together.

    A' = CA(F_A, F_B), B' = CA(F_B, F_A) with the pair's own weights both ways; T2 reads [A'; B'] along time and is
    cut in the middle again. positions: `none` (the thesis) or `temporal+segment` (learned frame and A/B vectors).
    Where T2 or the cross-attention is shared, a learned vector per part tells whose features they are. kind: `plain`
    or `iip_pair` (iip.py).
    """

    def __init__(
        self,
        *,
        parts: int,
        width: int,
        max_frames: int,
        share_t2: bool,
        share_cross: bool,
        positions: str,
        position_start: str,
        kind: str = "plain",
        heads: int,
        layers: int,
        feedforward: int,
        dropout: float,
        attention_dropout: float,
        attention: str = "sdpa",
    ) -> None:
        super().__init__()
        if positions not in ("none", "temporal+segment"):
            raise ValueError(f"t2_positions must be none or temporal+segment, not {positions!r}")
        self.pairs = list(combinations(range(parts), 2))
        self.register_buffer("first", torch.tensor([a for a, _ in self.pairs]), persistent=False)
        self.register_buffer("second", torch.tensor([b for _, b in self.pairs]), persistent=False)
        cross_groups, groups = (1 if shared else len(self.pairs) for shared in (share_cross, share_t2))
        self.cross = GroupedCrossAttention(groups=cross_groups, width=width, heads=heads, dropout=dropout)
        self.encoder = t2_encoder(
            kind, groups=groups, width=width, heads=heads, layers=layers, feedforward=feedforward, dropout=dropout,
            attention_dropout=attention_dropout, attention=attention,
        )  # fmt: skip
        with_part = share_t2 or share_cross
        self.part_vectors = nn.Parameter(0.02 * torch.randn(parts, 1, 1, width)) if with_part else None
        with_position = positions != "none"
        self.segments = nn.Parameter(0.02 * torch.randn(groups, 2, 1, 1, width)) if with_position else None
        table = position_table(groups, max_frames, width, position_start)[:, None, None]
        self.positions = nn.Parameter(table) if with_position else None  # (g, 1, 1, t, d)

    def forward(self, features: Tensor, mask: Tensor, *told: list[Tensor]) -> Tensor:
        _, n, t, d = features.shape
        if self.part_vectors is not None:
            features = features + self.part_vectors
        # index_select, not [...]: the gradient of the latter is summed in any order by several threads
        a, b = features.index_select(0, self.first), features.index_select(0, self.second)  # (q, n, t, d)
        fused = self.cross(torch.cat([a, b], 1), torch.cat([b, a], 1), mask.repeat(2, 1))  # (q, 2 n, t, d)
        z = fused.reshape(-1, 2, n, t, d)
        if self.segments is not None:
            z = z + self.segments + self.positions[:, :, :, :t]
        z = z.transpose(1, 2).reshape(-1, n, 2 * t, d)  # [A'; B'] along time
        u = self.encoder(z, mask.repeat(1, 2), *told)
        return u.reshape(-1, n, 2, t, d).transpose(1, 2)


class PartHead(nn.Module):
    """Pooled parts (p, n, d) -> feature, embedding (n, d', p) and logits (n, k, p): an FC and a BNNeck per part.

    classifier: `cosine` (unit embedding times unit class vectors, to be scaled in the loss) or `linear` (Luo et al.,
    "Bag of tricks ... person re-identification", CVPRW 2019, for the BNNeck).
    """

    def __init__(self, *, parts: int, inputs: int, outputs: int, classes: int, classifier: str) -> None:
        super().__init__()
        if classifier not in ("cosine", "linear"):
            raise ValueError(f"classifier must be cosine or linear, not {classifier!r}")
        self.fc = GroupedLinear(groups=parts, inputs=inputs, outputs=outputs)
        self.bn = nn.BatchNorm1d(outputs * parts)
        weight = nn.init.xavier_uniform_(torch.empty(parts * classes, outputs)) if classes else None
        self.classes = nn.Parameter(weight.reshape(parts, classes, outputs)) if classes else None
        self.cosine = classifier == "cosine"

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        feature = self.fc(pooled).permute(1, 2, 0)  # (n, d', p)
        embedding = self.bn(feature.flatten(1)).view_as(feature)
        out = {"feature": feature, "embedding": embedding}
        if self.classes is not None:
            x, w = embedding.permute(2, 0, 1), self.classes
            if self.cosine:
                x, w = F.normalize(x, dim=-1), F.normalize(w, dim=-1)
            out["logits"] = torch.bmm(x, w.transpose(1, 2)).permute(1, 2, 0)  # (n, k, p)
        return out


class ConcatHead(nn.Module):
    """Pooled parts (p, n, d) -> embedding (n, 5 d, 1) and logits (n, k, 1): the thesis's layout, no neck."""

    def __init__(self, *, parts: int, inputs: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(parts * inputs, classes) if classes else None

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        joined = pooled.transpose(0, 1).flatten(1)  # (n, 5 d), in part order
        out = {"feature": joined[..., None], "embedding": joined[..., None]}
        if self.classifier is not None:
            out["logits"] = self.classifier(joined)[..., None]
        return out


class BPMT(nn.Module):
    """Pose (n, t, v, c), mask (n, t) -> {feature, embedding (n, d', p), logits (n, k, p)}: the finetuning network.

    `feature` is the part FC (what metric losses see), `embedding` its BatchNorm output (what is compared at test).
    Sequences longer than `max_frames` are read window by window and pooled over all their frames.
    num_class 0 leaves the classifier out. freeze_t1, freeze_t2: `yes` (frozen, in eval mode), `no`, or `last_layer`
    (only the last encoder layer trains). t1_encoder, t2_encoder: `plain` or IIP-Transformer's (iip.py); t1_fc: fully
    connected layers after T1; pool `..._cls`: their class tokens join the pooled features. contrast_width: also out are
    `views` (n, p, contrast_width), what each part says in one common space, for a contrastive loss between the parts.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_class: int = 0,
        streams: tuple[str, ...] = ("joint",),
        standardise: str = "joint",
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        feedforward: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        attention: str = "sdpa",
        max_frames: int = 60,
        position_start: str = "sine",
        share_t1: bool = False,
        share_t2: bool = False,
        share_cross: bool = False,
        t2_positions: str = "temporal+segment",
        freeze_t1: str = "no",
        freeze_t2: str = "no",
        t1_encoder: str = "plain",
        t2_encoder: str = "plain",
        t1_fc: int = 0,
        pool: str = "mean",
        head: str = "part",
        embedding_width: int = 128,
        classifier: str = "cosine",
        contrast_width: int = 0,
    ) -> None:
        super().__init__()
        sizes = encoder_sizes(width, heads, layers, feedforward, dropout, attention_dropout)
        self.t1 = PartEncoder(
            skeleton=skeleton, streams=streams, standardise=standardise, max_frames=max_frames,
            position_start=position_start, shared=share_t1, kind=t1_encoder, fc=t1_fc, attention=attention, **sizes,
        )  # fmt: skip
        self.parts = parts = len(skeleton.parts)
        self.t2 = PairEncoder(
            parts=parts, max_frames=max_frames, share_t2=share_t2, share_cross=share_cross, positions=t2_positions,
            position_start=position_start, kind=t2_encoder, attention=attention, **sizes,
        )  # fmt: skip
        self.fuse = GroupedCrossAttention(groups=parts, width=width, heads=heads, dropout=dropout)
        self.max_frames = max_frames
        self.pool, self.hear = class_pool(pool, (t1_encoder, t2_encoder))
        self.pooled = pooled = ((2 if self.pool == "mean_max" else 1) + sum(self.hear)) * width
        if head == "part":
            self.head: nn.Module = PartHead(
                parts=parts, inputs=pooled, outputs=embedding_width, classes=num_class, classifier=classifier
            )
        elif head == "concat":
            self.head = ConcatHead(parts=parts, inputs=pooled, classes=num_class)
        else:
            raise ValueError(f"head must be part or concat, not {head!r}")
        self.contrast = GroupedLinear(groups=parts, inputs=pooled, outputs=contrast_width) if contrast_width else None
        self.freezing = {"t1": freeze_t1, "t2": freeze_t2}
        for name, how in self.freezing.items():
            stage = getattr(self, name)
            set_trainable(stage, how, stage.encoder.layers[-1])

    def train(self, mode: bool = True) -> BPMT:
        super().train(mode)
        for name, how in self.freezing.items():
            stage = getattr(self, name)
            set_mode(stage, how, stage.encoder.layers[-1], mode)
        return self

    def fit(self, pose: Tensor, mask: Tensor) -> None:
        """Take the input statistics from training samples, once (see Streams.fit)."""
        self.t1.streams.fit(pose, mask)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        windows = cut_windows(pose, mask, self.max_frames)
        told: list[Tensor] = []  # class tokens of the stages that are heard
        parts = self.t1(windows.pose, windows.mask, *[told] * self.hear[0])  # F (p, m, w, d)
        pairs = self.t2(parts, windows.mask, *[told] * self.hear[1])  # U (q, 2, m, w, d)
        said = _part_order(pairs, pairs=self.t2.pairs)  # (p, m, 4 w, d)
        fused = self.fuse(parts, said, windows.mask.repeat(1, 4))  # C (p, m, w, d)
        pooled = pool_windows(fused, windows, pose.shape[0], self.pool)
        classes = classes_of_parts(told, windows, pose.shape[0], self.parts, self.t2.pairs)
        pooled = torch.cat([pooled, *classes], 2) if classes else pooled
        views = {} if self.contrast is None else {"views": F.normalize(self.contrast(pooled), dim=2).transpose(0, 1)}
        return self.head(pooled) | views


def encoder_sizes(
    width: int, heads: int, layers: int, feedforward: int | None, dropout: float, attention_dropout: float | None
) -> dict[str, int | float]:
    """The sizes all encoders of one network have in common; feed-forward 4 d unless given."""
    return {
        "width": width,
        "heads": heads,
        "layers": layers,
        "feedforward": feedforward or 4 * width,
        "dropout": dropout,
        "attention_dropout": dropout if attention_dropout is None else attention_dropout,
    }
