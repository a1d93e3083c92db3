"""Part features F (p, n, t, d) and mask (n, t) in, what the parts are told by each other out: T2, BPMT's second stage.

Pair by pair (PairEncoder, ten encoders as in the thesis; bpmt.md section 3) or all pairs at once (BodyStage).
Shapes: n sequences, t tokens of a sequence, p = 5 parts, q = 10 pairs, d width.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from bpmt_ext.nets.grouped import BodyEncoder, GroupedCrossAttention, GroupedLayerNorm
from bpmt_ext.nets.iip import t2_encoder
from bpmt_ext.nets.layers import position_table


def part_order(x: Tensor, *, pairs: list[tuple[int, int]]) -> Tensor:
    """Pair encodings (q, 2, n, t, d) -> (p, n, 4 t, d): for each part what its four pairs say about it."""
    q, _, n, t, d = x.shape
    sides = [[2 * i + pair.index(p) for i, pair in enumerate(pairs) if p in pair] for p in range(max(max(pairs)) + 1)]
    order = torch.tensor(sides, device=x.device)  # (p, 4)
    said = x.reshape(2 * q, n, t, d).index_select(0, order.flatten()).view(*order.shape, n, t, d)  # (p, 4, n, t, d)
    return said.transpose(1, 2).reshape(len(sides), n, order.shape[1] * t, d)


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
        self.register_buffer("sides", torch.tensor(self.pairs).flatten(), persistent=False)  # (2 q,) parts of U
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


class BodyStage(nn.Module):
    """F (p, n, t, d), mask (n, t) -> U (p, n, t, d): T2 with all pairs in one attention, `t2_encoder: body`.

    In every frame the five parts attend to each other, which is the ten pairs at once, then each part along time:
    5 t tokens with rows of 5 and t instead of 20 t with rows of 2 t. shared: one encoder over time for all parts.
    """

    def __init__(self, *, parts: int, shared: bool, width: int, norm_first: bool, **sizes: Any) -> None:
        super().__init__()
        self.register_buffer("sides", torch.arange(parts), persistent=False)
        groups = 1 if shared else parts
        self.encoder = BodyEncoder(groups=groups, width=width, norm_first=norm_first, **sizes)
        self.norm = GroupedLayerNorm(groups=groups, width=width) if norm_first else nn.Identity()

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        return self.norm(self.encoder(features, mask))


def t2_stage(
    kind: str, *, share_t2: bool, share_cross: bool, t2_positions: str, norm_first: bool, parts: int, max_frames: int,
    position_start: str, **sizes: Any,
) -> PairEncoder | BodyStage:  # fmt: skip
    """T2 of that kind: `body`, or pair by pair `plain` and `iip_pair`."""
    if kind == "body" and not share_cross:  # the one attention between the parts is shared anyway
        return BodyStage(parts=parts, shared=share_t2, norm_first=norm_first, **sizes)
    if kind == "body" or norm_first:
        key = "share_cross does not go" if kind == "body" else "norm_first only goes"
        raise ValueError(f"{key} with t2_encoder body")
    return PairEncoder(
        parts=parts, max_frames=max_frames, share_t2=share_t2, share_cross=share_cross, positions=t2_positions,
        position_start=position_start, kind=kind, **sizes,
    )  # fmt: skip
