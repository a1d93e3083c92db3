"""Features (g, n, t, d) of g groups in, features of the same shape out: one transformer per group, run as one.

Five part encoders of equal shape are one encoder whose weights carry a leading group axis, so that a layer is one
batched matrix product instead of five small ones. Every block also takes `groups=1` on an input of several groups:
the weights are then shared by all of them. Shapes: g groups, n sequences, t frames, d width, h heads, f feed-forward.
The layer equations are those of torch.nn.TransformerEncoderLayer (post-norm, ReLU; Vaswani et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupedLinear(nn.Module):
    """x (g, ..., i) -> (g, ..., o): y = x W_g + b_g. `groups=1` shares W and b between all groups."""

    def __init__(self, *, groups: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)  # torch.nn.Linear's own initialisation
        self.weight = nn.Parameter(torch.empty(groups, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return grouped_linear(x, self.weight, self.bias)


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (g, ..., i), weight (g or 1, i, o), bias (g or 1, 1, o) -> (g, ..., o)."""
    rows = x.reshape(weight.shape[0], -1, x.shape[-1])
    out = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias, rows, weight)
    return out.reshape(*x.shape[:-1], weight.shape[-1])


class Dropout(nn.Dropout):
    """x -> x with a share p of its numbers at 0, the others divided by 1 - p; as it is outside training.

    On a CPU a number's fate is 16 random bits, four to a draw, which takes a quarter of the time of torch's own; p is
    then a multiple of 2^-16, and the others are scaled by exactly that.
    """

    def forward(self, x: Tensor) -> Tensor:
        below = round(self.p * 2**16)
        if not self.training or x.device.type != "cpu" or not 0 < below < 2**16 or torch.compiler.is_compiling():
            return super().forward(x)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= below - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - below))


class GroupedLayerNorm(nn.Module):
    """x (g, n, t, d) -> same: layer normalisation over d with a scale and a shift per group."""

    def __init__(self, *, groups: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(groups, 1, 1, width))
        self.bias = nn.Parameter(torch.zeros(groups, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:]), self.weight)


def flow_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """q, k, v (b, h, t, e), mask (b, t) True where real or None -> (b, h, t, e): self-attention linear in t.

    Flow-Attention, not causal (Wu et al., "Flowformer: linearizing transformers with conservation flows", ICML 2022,
    section 3.2). Queries are sinks, keys sources of a flow; with f = sigmoid, n real frames and sums over them
        I_i = f(q_i) . sum_j f(k_j)            what flows into a sink,
        O_j = f(k_j) . sum_i f(q_i)            what flows out of a source,
        I^_i = f(q_i) . sum_j f(k_j) / O_j     into a sink when every source gives 1,
        O^_j = f(k_j) . sum_i f(q_i) / I_i     out of a source when every sink takes 1,
        out_i = sigmoid(I^_i) f(q_i) / I_i . sum_j f(k_j)^T (n softmax_j(O^) v_j).
    The sums are made once: O(t e^2) where softmax attention takes O(t^2 e). Padded frames neither give nor take; their
    rows are 0. There are no weights that dropout could drop.
    """
    q, k = q.sigmoid(), k.sigmoid()
    count: Tensor | int = q.shape[2]
    if mask is not None:
        real = mask[:, None, :, None]  # (b, 1, t, 1)
        q, k, count = q * real, k * real, real.sum(2, keepdim=True)
    into = (q @ k.sum(2).unsqueeze(3)).clamp(min=1e-4)  # (b, h, t, 1); 0 where padded, and half precision divides too
    out_of = (k @ q.sum(2).unsqueeze(3)).clamp(min=1e-4)
    sink = q @ (k.transpose(2, 3) @ out_of.reciprocal())
    source = k @ (q.transpose(2, 3) @ into.reciprocal())
    if mask is not None:
        source = source.masked_fill(~real, torch.finfo(source.dtype).min)
    told = k.transpose(2, 3) @ (count * source.softmax(2) * v)  # (b, h, e, e)
    return sink.sigmoid() / into * (q @ told)


class GroupedAttention(nn.Module):
    """query (g, n, t, d), context (g, n, s, d), mask (n, s) -> (g, n, t, d): multi-head attention in each group.

    mask is True where a context frame is real; None means that all are. kernel: `sdpa` (torch's own, which chooses its
    backend) or `flow` (`flow_attention`; self-attention only). 4 d (d + 1) parameters per group.
    """

    def __init__(self, *, groups: int, width: int, heads: int, dropout: float = 0.0, kernel: str = "sdpa") -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of the {heads} heads")
        if kernel not in ("sdpa", "flow"):
            raise ValueError(f"attention must be sdpa or flow, not {kernel!r}")
        self.heads, self.dropout, self.kernel = heads, dropout, kernel
        bound = math.sqrt(6 / (4 * width))  # Xavier over (d, 3d), as torch.nn.MultiheadAttention starts
        self.in_weight = nn.Parameter(torch.empty(groups, width, 3 * width).uniform_(-bound, bound))
        self.in_bias = nn.Parameter(torch.zeros(groups, 1, 3 * width))
        self.out = GroupedLinear(groups=groups, inputs=width, outputs=width)
        nn.init.zeros_(self.out.bias)

    def _split(self, x: Tensor) -> Tensor:
        """(g, n, t, d) -> (g n, h, t, d/h)."""
        g, n, t, d = x.shape
        return x.reshape(g * n, t, self.heads, d // self.heads).transpose(1, 2)

    def forward(self, query: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        g, n, t, d = query.shape
        if context is None:
            q, k, v = grouped_linear(query, self.in_weight, self.in_bias).chunk(3, dim=-1)
        else:
            q = grouped_linear(query, self.in_weight[..., :d], self.in_bias[..., :d])
            k, v = grouped_linear(context, self.in_weight[..., d:], self.in_bias[..., d:]).chunk(2, dim=-1)
        q, k, v = map(self._split, (q, k, v))
        if mask is not None:
            mask = mask.expand(g, *mask.shape).reshape(g * n, -1)  # (g n, s)
        if self.kernel == "flow":
            x = flow_attention(q, k, v, mask)
        else:
            mask = mask if mask is None else mask[:, None, None]
            dropout = self.dropout if self.training else 0.0
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(x.transpose(1, 2).reshape(g, n, t, d))


class GroupedCrossAttention(nn.Module):
    """query (g, n, t, d), context (g, n, s, d), mask (n, s) -> (g, n, t, d): LayerNorm(Q + Dropout(MHA(Q, K, V))).

    BPMT's fusion block: no feed-forward, no dropout on the attention weights. 16,768 parameters per group at d = 64.
    """

    def __init__(self, *, groups: int, width: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = GroupedAttention(groups=groups, width=width, heads=heads)
        self.norm = GroupedLayerNorm(groups=groups, width=width)
        self.dropout = Dropout(dropout)

    def forward(self, query: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        return self.norm(query + self.dropout(self.attention(query, context, mask)))


class GroupedEncoderLayer(nn.Module):
    """x (g, n, t, d), mask (n, t) -> (g, n, t, d): self-attention, feed-forward, each with Add & Norm after it.

    norm_first: x + f(Norm(x)) in place of Norm(x + f(x)) (Xiong et al., ICML 2020); the sum itself is never normalised.
    """

    def __init__(
        self, *, groups: int, width: int, heads: int, feedforward: int, dropout: float, attention_dropout: float,
        attention: str = "sdpa", norm_first: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention = GroupedAttention(
            groups=groups, width=width, heads=heads, dropout=attention_dropout, kernel=attention
        )
        self.norm1 = GroupedLayerNorm(groups=groups, width=width)
        self.up = GroupedLinear(groups=groups, inputs=width, outputs=feedforward)
        self.down = GroupedLinear(groups=groups, inputs=feedforward, outputs=width)
        self.norm2 = GroupedLayerNorm(groups=groups, width=width)
        self.dropout, self.norm_first = Dropout(dropout), norm_first

    def add(self, x: Tensor, norm: GroupedLayerNorm, block: Callable[[Tensor], Tensor]) -> Tensor:
        """x with what `block` makes of it, normalised before or after."""
        return x + self.dropout(block(norm(x))) if self.norm_first else norm(x + self.dropout(block(x)))

    def feed(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.relu(self.up(x))))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.add(x, self.norm1, lambda x: self.attention(x, mask=mask))
        return self.add(x, self.norm2, self.feed)


class GroupedEncoder(nn.Module):
    """x (g, n, t, d), mask (n, t) True where real or None -> (g, n, t, d). No final norm (bpmt.md, section 2)."""

    layer: type[GroupedEncoderLayer] = GroupedEncoderLayer

    def __init__(self, *, layers: int, **sizes: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.layer(**sizes) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class BodyLayer(GroupedEncoderLayer):
    """x (p, n, t, d), mask (n, t) -> same: in every frame the parts attend to each other, then every part along time.

    The attention between the parts, one for all frames, is all pairs of parts at once. The rest is an encoder layer
    per part.
    """

    def __init__(self, *, groups: int, width: int, heads: int, **sizes: Any) -> None:
        super().__init__(groups=groups, width=width, heads=heads, **sizes)
        self.between = GroupedAttention(groups=1, width=width, heads=heads)
        self.norm0 = GroupedLayerNorm(groups=groups, width=width)

    def ask_parts(self, x: Tensor) -> Tensor:
        """(p, n, t, d) -> same: each part's question, answered by all parts of its frame, itself among them."""
        p, n, t, d = x.shape
        frames = x.permute(1, 2, 0, 3).reshape(1, n * t, p, d)  # padded ones run along and reach no other
        return self.between(frames).view(n, t, p, d).permute(2, 0, 1, 3)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return super().forward(self.add(x, self.norm0, self.ask_parts), mask)


class BodyEncoder(GroupedEncoder):
    """x (p, n, t, d), mask (n, t) -> same: a stack of BodyLayers, one group a part."""

    layer = BodyLayer
