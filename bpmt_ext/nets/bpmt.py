"""Pose (n, t, v, c) and mask (n, t) in, part-wise embedding (n, d', p) and logits (n, k, p) out: BPMT.

Body Part as Modality Transformer. Five body parts are encoded one by one (T1), then pair by pair through
cross-attention (T2, ten pairs); each part finally attends to what its four pairs say about it:

    pose -> five parts -> T1 -> F_p -> ten pairs -> cross-attention -> T2 -> U_{p|q} -> CA_p(F_p, U_p) -> pool -> head

or, the configs' default (`t2_encoder: body`, pairs.py), with all pairs in one attention, whose output is pooled:

    pose -> five parts -> T1 -> F_p -> T2: between the parts of a token, then along time -> pool -> head

Source: Yusen-Peng/BPMT as specified in bpmt.md sections 1-5; sharing after OmniVec2 (Srivastava and Sharma, CVPR 2024).
Shapes: n sequences, t frames, v joints, c channels, s slots (a joint in its part), p = 5 parts, q = 10 pairs,
d width, d' embedding width, k classes. A mask is True where a frame is real.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.grouped import GroupedCrossAttention
from bpmt_ext.nets.heads import ConcatHead, PartHead
from bpmt_ext.nets.iip import class_pool, classes_of_parts, connected_layers, t1_encoder
from bpmt_ext.nets.iip_tokens import t1_embedding
from bpmt_ext.nets.layers import (
    Slots,
    Streams,
    cut_patches,
    cut_windows,
    pool_windows,
    position_table,
    set_mode,
    set_trainable,
)
from bpmt_ext.nets.pairs import PairEncoder, part_order, t2_stage
from bpmt_ext.skeletons import Skeleton


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
    """Pose (n, t, v, c), mask (n, t) -> F (p, n, t', d): T1, one encoder per part, or one for all if `shared`.

    kind: `plain`, or one of iip.py's. fc: fully connected layers behind the encoder. attention: see grouped.py.
    patch: frames that make one token, t' = ceil(t / patch); the mask of the tokens is mask[:, ::patch].
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
        patch: int,
        norm_first: bool,
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
        if not isinstance(patch, int) or not 1 <= patch <= max_frames:
            raise ValueError(f"patch must be a number of frames from 1 to max_frames ({max_frames}), not {patch!r}")
        self.patch = patch
        groups = 1 if shared or kind == "iip_full" else self.slots.parts
        given = {"slots": self.slots, "channels": patch * self.streams.channels, "width": width}
        self.embedding = PartEmbedding(**given) if kind == "plain" else t1_embedding(kind, **given)
        self.positions = nn.Parameter(position_table(groups, -(-max_frames // patch), width, position_start))
        self.encoder = t1_encoder(
            kind, groups=groups, slots=self.slots, width=width, heads=heads, layers=layers, feedforward=feedforward,
            dropout=dropout, attention_dropout=attention_dropout, attention=attention, norm_first=norm_first,
        )  # fmt: skip
        self.fc = connected_layers(fc, groups=groups, width=width)

    def encode(self, embedded: Tensor, mask: Tensor, *told: list[Tensor]) -> Tensor:
        """Embedded tokens (p, n, t', d), mask (n, t') -> (p, n, t', d). told: a list that gets the class tokens of an
        iip encoder."""
        return self.fc(self.encoder(embedded + self.positions[:, None, : mask.shape[1]], mask, *told))

    def read(self, streams: Tensor, mask: Tensor, *told: list[Tensor]) -> Tensor:
        """Streams (n, t, s, c) of frames, mask (n, t) -> (p, n, t', d)."""
        patches, real = cut_patches(streams, mask, self.patch)
        return self.encode(self.embedding(patches), real, *told)

    def forward(self, pose: Tensor, mask: Tensor, *told: list[Tensor]) -> Tensor:
        return self.read(self.streams(pose, mask), mask, *told)


class BPMT(nn.Module):
    """Pose (n, t, v, c), mask (n, t) -> {feature, embedding (n, d', p), logits (n, k, p)}: the finetuning network.

    `feature` is the part FC (what metric losses see), `embedding` its BatchNorm output (what is compared at test).
    Sequences longer than `max_frames` are read window by window and pooled over all their frames.
    num_class 0 leaves the classifier out. freeze_t1, freeze_t2: `yes` (frozen, in eval mode), `no`, or `last_layer`
    (only the last encoder layer trains). t1_encoder, t2_encoder: `plain` or IIP-Transformer's (iip.py); t1_fc: fully
    connected layers after T1; pool `..._cls`: their class tokens join the pooled features. t2_encoder `body`: all
    pairs in one attention, whose output is pooled; norm_first: LayerNorm before attention and feed-forward instead of
    after it. patch: frames in a token. whole_body: the mean of the parts gets an FC and a neck of its own, as a sixth
    column. tta: a test also reads the mirrored sequence, and the embedding is the sum of both unit embeddings; the
    transforms must leave x = 0 in the body's middle.
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
        patch: int = 1,
        norm_first: bool = False,
        pool: str = "mean",
        head: str = "part",
        whole_body: bool = False,
        tta: bool = False,
        embedding_width: int = 128,
        classifier: str = "cosine",
    ) -> None:
        super().__init__()
        sizes = encoder_sizes(width, heads, layers, feedforward, dropout, attention_dropout)
        self.t1 = PartEncoder(
            skeleton=skeleton, streams=streams, standardise=standardise, max_frames=max_frames,
            position_start=position_start, shared=share_t1, kind=t1_encoder, fc=t1_fc, patch=patch,
            norm_first=norm_first, attention=attention, **sizes,
        )  # fmt: skip
        self.parts = parts = len(skeleton.parts)
        self.t2 = t2_stage(
            t2_encoder, parts=parts, max_frames=len(self.t1.positions[0]), share_t2=share_t2, share_cross=share_cross,
            t2_positions=t2_positions, position_start=position_start, norm_first=norm_first, attention=attention,
            **sizes,
        )  # fmt: skip
        of_pairs = isinstance(self.t2, PairEncoder)
        self.fuse = GroupedCrossAttention(groups=parts, width=width, heads=heads, dropout=dropout) if of_pairs else None
        self.max_frames = max_frames
        self.pool, self.hear = class_pool(pool, (t1_encoder, t2_encoder if of_pairs else "plain"))
        self.pooled = pooled = ((2 if self.pool == "mean_max" else 1) + sum(self.hear)) * width
        self.whole_body, self.tta = whole_body, tta
        self.register_buffer("mirror", torch.tensor(skeleton.mirror), persistent=False)
        if head == "part":
            self.head: nn.Module = PartHead(
                parts=parts + whole_body, inputs=pooled, outputs=embedding_width, classes=num_class,
                classifier=classifier,
            )  # fmt: skip
        elif head == "concat":
            self.head = ConcatHead(parts=parts + whole_body, inputs=pooled, classes=num_class)
        else:
            raise ValueError(f"head must be part or concat, not {head!r}")
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

    def fused(self, parts: Tensor, mask: Tensor, *told: list[Tensor]) -> Tensor:
        """F (p, m, w, d), mask (m, w) -> C (p, m, w, d): what each part is, told by the others."""
        if self.fuse is None:
            return self.t2(parts, mask)
        pairs = self.t2(parts, mask, *told)  # U (q, 2, m, w, d)
        said = part_order(pairs, pairs=self.t2.pairs)  # (p, m, 4 w, d)
        return self.fuse(parts, said, mask.repeat(1, 4))

    def read(self, pose: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What `forward` returns, of one pass."""
        windows = cut_windows(pose, mask, self.max_frames)
        told: list[Tensor] = []  # class tokens of the stages that are heard
        parts = self.t1(windows.pose, windows.mask, *[told] * self.hear[0])  # F (p, m, w, d)
        windows = windows._replace(mask=windows.mask[:, :: self.t1.patch])  # of tokens from here on
        fused = self.fused(parts, windows.mask, *[told] * self.hear[1])
        pooled = pool_windows(fused, windows, pose.shape[0], self.pool)  # (p, n, d)
        if told:
            pairs = self.t2.pairs if self.fuse is not None else []
            pooled = torch.cat([pooled, *classes_of_parts(told, windows, pose.shape[0], self.parts, pairs)], 2)
        if self.whole_body:
            pooled = torch.cat([pooled, pooled.mean(0, keepdim=True)])  # a column of its own
        return self.head(pooled)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        if self.training or not self.tta:
            return self.read(pose, mask)
        turned = torch.cat([-pose[:, :, self.mirror, :1], pose[:, :, self.mirror, 1:]], -1)
        both = self.read(torch.cat([pose, turned]), mask.repeat(2, 1))
        out = {name: value.unflatten(0, (2, -1)) for name, value in both.items()}
        embedding = F.normalize(out.pop("embedding"), dim=2).sum(0)
        return {"embedding": embedding, **{name: value[0] for name, value in out.items()}}


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
