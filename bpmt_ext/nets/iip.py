"""Tokens (g, n, p, t, d) of p parts in t frames in, tokens of the same shape out: IIP-Transformer, for T1, T2 and TLCA.

Intra-Inter-Part attention (Wang et al., arXiv 2110.13385) as iip_transformer.md sections 2-4 and 8 specify it. Each
layer lets the tokens of a frame attend to each other (S-IIPA) and those of a part over time (T-IIPA), both together
with one class token. Variants, for one encoder per part, per pair, or for the whole body:

| encoder | of | tokens | attention |
|---|---|---|---|
| iip_part | T1, TLCA | a part in a frame | over time |
| iip_joint | T1, TLCA | a joint in a frame | inside the part, over time; the mean of a part's joints goes on |
| iip_full | T1, TLCA | a part in a frame, of all five parts | between the parts, over time; one encoder for all |
| iip_pair | T2 | a part in a frame, of both parts | between the two, over time |

How poses become tokens: iip_tokens.py. The network of actions: iip_action.py.
Shapes: g groups, n sequences, t frames, p parts (or other tokens of a frame), d width, h heads, e = d / h, m windows
of w frames. A mask is True where a frame is real.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.exporting import exporting
from bpmt_ext.nets.grouped import GroupedEncoder, GroupedLayerNorm, GroupedLinear
from bpmt_ext.nets.iip_tokens import check_kind
from bpmt_ext.nets.layers import Slots, Windows, pool_windows

T2_ENCODERS = ("plain", "iip_pair")
MOST_ROWS = 65_535  # of one call: a GPU's kernels count them along an axis that ends there


def in_calls(x: Tensor) -> tuple[Tensor, ...]:
    """Rows (m, ...) in pieces of at most MOST_ROWS; a graph, which is run elsewhere, has one."""
    return (x,) if exporting() else x.split(MOST_ROWS)


class IIPA(nn.Module):
    """Class token and tokens z (g, n, 1 + p t, d) -> same: attention along one axis, plus each token's own linear map.

    between: `parts` (S-IIPA: in every frame the parts attend to each other and to the class token) or `frames`
    (T-IIPA: for every part the frames do). The class token attends to itself and to all tokens. Output = inter
    (softmax(Q K^T / sqrt(e)) V, no projection behind it) + intra (V W + b; not for the class token).
    only_class: the class token alone comes out, (g, n, 1, d), and there is no intra map.
    """

    def __init__(
        self, *, groups: int, width: int, heads: int, between: str, dropout: float, only_class: bool = False
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of the {heads} heads")
        self.heads, self.between, self.dropout = heads, between, dropout
        self.project = GroupedLinear(groups=groups, inputs=width, outputs=3 * width)
        bound = (6 / (4 * width)) ** 0.5  # Xavier, as the plain encoder starts
        nn.init.uniform_(self.project.weight, -bound, bound)
        nn.init.zeros_(self.project.bias)
        self.intra = None if only_class else GroupedLinear(groups=groups, inputs=width, outputs=width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
        """q (g, n, a, l, d), k, v (g, n, a, b, d), keep (g or 1, n or 1, a or 1, b) -> (g, n, a, l, d)."""
        shape = q.shape
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(-2, -3).flatten(0, 2) for x in (q, k, v))
        if keep is not None:  # (g n a, 1, 1, b)
            keep = keep.expand(*shape[:3], k.shape[2]).flatten(0, 2)[:, None, None]
        dropout = self.dropout if self.training else 0.0
        parts = [in_calls(x) for x in (q, k, v)]
        keeps = [None] * len(parts[0]) if keep is None else in_calls(keep)
        out = [
            F.scaled_dot_product_attention(*row, attn_mask=real, dropout_p=dropout)
            for *row, real in zip(*parts, keeps, strict=True)
        ]
        x = out[0] if len(out) == 1 else torch.cat(out)  # (g n a, h, l, e)
        return x.transpose(1, 2).reshape(shape)

    def forward(self, z: Tensor, mask: Tensor, there: Tensor | None) -> Tensor:
        """mask (n, t); there (g, p) True where a group has that token, None where all have all."""
        g, n, length, d = z.shape
        t = mask.shape[1]
        p = (length - 1) // t
        q, k, v = self.project(z).chunk(3, dim=-1)
        keep = mask[None, :, None].expand(1, n, p, t)
        keep = keep if there is None else keep & there[:, None, :, None]
        one = keep.new_ones(keep.shape[0], n, 1)
        first = self.attend(q[:, :, None, :1], k[:, :, None], v[:, :, None],
                            torch.cat([one, keep.flatten(2)], 2)[:, :, None])[:, :, 0]  # fmt: skip
        if self.intra is None:
            return first

        def rows(x: Tensor) -> Tensor:  # (g, n, a, b, d), the attended axis last but one
            x = x[:, :, 1:].unflatten(2, (p, t))
            return x.transpose(2, 3) if self.between == "parts" else x

        def context(x: Tensor) -> Tensor:  # the class token in every row
            x0 = x[:, :, None, :1]
            x = rows(x)
            return torch.cat([x0.expand(g, n, x.shape[2], 1, d), x], 3)

        if self.between == "parts":  # a padded frame may run: it reaches no other
            seen = None if there is None else F.pad(there, (1, 0), value=True)[:, None, None]
        else:
            seen = F.pad(mask, (1, 0), value=True)[None, :, None]
        x = self.attend(rows(q), context(k), context(v), seen)
        x = (x.transpose(2, 3) if self.between == "parts" else x).flatten(2, 3)
        return torch.cat([first, x + self.intra(v[:, :, 1:])], 2)


class IIPLayer(nn.Module):
    """z (g, n, 1 + p t, d) -> same: S-IIPA, T-IIPA, feed-forward, each with Add & Norm after it.

    space False leaves S-IIPA out, which with one token a frame would be attention to itself and the class token.
    only_class: what comes out is the class token (g, n, 1, d).
    """

    def __init__(
        self, *, groups: int, width: int, heads: int, feedforward: int, dropout: float, attention_dropout: float,
        space: bool, only_class: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        axes = ("parts", "frames") if space else ("frames",)
        self.attention = nn.ModuleList(
            IIPA(groups=groups, width=width, heads=heads, between=between, dropout=attention_dropout,
                 only_class=only_class and between == "frames") for between in axes
        )  # fmt: skip
        self.norms = nn.ModuleList(GroupedLayerNorm(groups=groups, width=width) for _ in (*axes, "feed-forward"))
        self.up = GroupedLinear(groups=groups, inputs=width, outputs=feedforward)
        self.down = GroupedLinear(groups=groups, inputs=feedforward, outputs=width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z: Tensor, mask: Tensor, there: Tensor | None) -> Tensor:
        for attention, norm in zip(self.attention, self.norms, strict=False):
            new = attention(z, mask, there)
            z = norm(z[:, :, : new.shape[2]] + self.dropout(new))
        hidden = self.down(self.dropout(F.relu(self.up(z))))
        return self.norms[-1](z + self.dropout(hidden))


class IIPEncoder(nn.Module):
    """x (g, n, t, d), mask (n, t) -> same: one token a frame, attention over time (iip_part); base of the others.

    tokens: how many of a frame each group has. named: learned vectors tell the tokens of a frame apart. Real frames
    depend on real frames alone; padded ones come out as zeros. groups=1 shares the weights between all groups of x.
    only_class: for a network that reads nothing but the class token; the last layer makes no other.
    """

    there: Tensor | None

    def __init__(
        self, *, groups: int, width: int, heads: int, layers: int, feedforward: int, dropout: float,
        attention_dropout: float, tokens: tuple[int, ...] = (1,), named: bool = False, only_class: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.most = most = max(tokens)
        self.token = nn.Parameter(0.02 * torch.randn(groups, 1, 1, width))
        self.names = nn.Parameter(0.02 * torch.randn(len(tokens), 1, most, 1, width)) if named else None
        there = torch.arange(most) < torch.tensor(tokens)[:, None]
        self.register_buffer("there", None if there.all() else there, persistent=False)
        self.layers = nn.ModuleList(
            IIPLayer(
                groups=groups, width=width, heads=heads, feedforward=feedforward, dropout=dropout,
                attention_dropout=attention_dropout, space=most > 1, only_class=only_class and layer == layers - 1,
            )
            for layer in range(layers)
        )  # fmt: skip

    def encode(self, x: Tensor, mask: Tensor, told: list[Tensor] | None = None) -> Tensor:
        """Tokens (g, n, p, t, d), mask (n, t) -> same, 0 where padded; none of them if only_class.

        told: gets the class tokens (g, n, d).
        """
        g, n, p, t, d = x.shape
        x = x if self.names is None else x + self.names
        z = torch.cat([self.token.expand(g, n, 1, d), x.flatten(2, 3)], 2)
        for layer in self.layers:
            z = layer(z, mask, self.there)
        if told is not None:
            told.append(z[:, :, 0])
        return z[:, :, 1:].unflatten(2, (-1, t)) * mask[:, None, :, None]

    def forward(self, x: Tensor, mask: Tensor, told: list[Tensor] | None = None) -> Tensor:
        x = x.reshape(-1, *x.shape[-3:])
        return self.encode(x[:, :, None], mask, told)[:, :, 0]


class JointEncoder(IIPEncoder):
    """x (g, n m, t, d), the m joints of a sequence's part one after the other -> (g, n, t, d), the mean of the joints.

    Parts with fewer joints than m have idle ones: nothing attends to them, no mean has them.
    """

    def forward(self, x: Tensor, mask: Tensor, told: list[Tensor] | None = None) -> Tensor:
        x = x.reshape(-1, mask.shape[0], self.most, *x.shape[-2:])
        x = self.encode(x, mask, told)
        if self.there is None:
            return x.mean(2)
        there = self.there[:, None, :, None, None].to(x.dtype)
        return (x * there).sum(2) / there.sum(2)


class FullEncoder(IIPEncoder):
    """x (p, n, t, d) -> (p, n, t, d): the body's parts attend to each other. join: (1, n, t, d) by Linear p d -> d."""

    def __init__(self, *, width: int, tokens: tuple[int, ...], join: bool, **sizes: float) -> None:
        super().__init__(width=width, tokens=tokens, named=True, **sizes)
        self.join = nn.Linear(tokens[0] * width, width) if join else None

    def forward(self, x: Tensor, mask: Tensor, told: list[Tensor] | None = None) -> Tensor:
        x = x.reshape(-1, *x.shape[-3:]).transpose(0, 1)[None]
        x = self.encode(x, mask, told)[0]  # (n, p, t, d)
        return x.transpose(0, 1) if self.join is None else self.join(x.transpose(1, 2).flatten(2))[None]


class PairwiseEncoder(IIPEncoder):
    """x (g, n, 2 t, d), two parts one after the other along time, mask (n, 2 t) -> same."""

    def forward(self, x: Tensor, mask: Tensor, told: list[Tensor] | None = None) -> Tensor:
        x = x.unflatten(2, (2, -1))
        return self.encode(x, mask[:, : mask.shape[1] // 2], told).flatten(2, 3)


def _plain_encoder(kind: str, attention: str, **sizes: float) -> nn.Module | None:
    """The plain encoder if it is that kind; ValueError where another attention is asked of another encoder."""
    if kind == "plain":
        return GroupedEncoder(attention=attention, **sizes)
    if attention != "sdpa":
        raise ValueError(f"attention {attention} is the plain encoder's; {kind} has its own: leave attention out")
    return None


def t1_encoder(
    kind: str, *, groups: int, slots: Slots | None, join: bool = False, attention: str = "sdpa",
    norm_first: bool = False, **sizes: float,
) -> nn.Module:  # fmt: skip
    """The encoder of a T1 of that kind. join: iip_full gives one feature a frame instead of one for each part."""
    if (plain := _plain_encoder(kind, attention, groups=groups, norm_first=norm_first, **sizes)) is not None:
        return plain
    if norm_first:
        raise ValueError(f"norm_first is of the plain t1_encoder, not of {kind}")
    assert slots is not None
    if kind == "iip_part":
        return IIPEncoder(groups=groups, **sizes)
    if kind == "iip_joint":
        tokens = tuple(torch.bincount(slots.part).tolist())
        return JointEncoder(groups=groups, tokens=tokens, named=True, **sizes)
    return FullEncoder(groups=1, tokens=(slots.parts,), join=join, **sizes)


def t2_encoder(kind: str, *, groups: int, attention: str = "sdpa", **sizes: float) -> nn.Module:
    """The encoder of a T2 of that kind."""
    check_kind("t2_encoder", kind, T2_ENCODERS)
    plain = _plain_encoder(kind, attention, groups=groups, **sizes)
    return PairwiseEncoder(groups=groups, tokens=(2,), **sizes) if plain is None else plain


def connected_layers(count: int, *, groups: int, width: int) -> nn.Module:
    """x (g, n, t, d) -> same: the thesis figure's fully connected layers after T1, ReLU between them; none for 0."""
    if not isinstance(count, int) or count < 0:
        raise ValueError(f"t1_fc must be a number of layers, 0 or more, not {count!r}")
    layers = [GroupedLinear(groups=groups, inputs=width, outputs=width) for _ in range(count)]
    return nn.Sequential(*(step for layer in layers for step in (layer, nn.ReLU())))[:-1]


def class_pool(pool: str, encoders: Sequence[str]) -> tuple[str, list[bool]]:
    """`mean_cls` -> `mean`, and for each stage's encoder whether its class tokens join the pooled features."""
    how = pool.removesuffix("_cls")
    heard = [how != pool and kind != "plain" for kind in encoders]
    if how not in ("mean", "max", "mean_max") or (how != pool and not any(heard)):
        raise ValueError(f"pool must be mean, max or mean_max, with an iip encoder also with _cls behind, not {pool!r}")
    return how, heard


def pool_classes(told: Tensor, windows: Windows, sequences: int) -> Tensor:
    """Class tokens (g, m, d) of windows -> (g, n, d): the mean over all frames of what their windows' tokens say."""
    told = told[:, :, None].expand(-1, -1, windows.mask.shape[1], -1)
    return pool_windows(told, windows, sequences, "mean")


def classes_of_parts(
    told: Sequence[Tensor], windows: Windows, sequences: int, parts: int, pairs: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """Class tokens (g, m, d) of stages -> (p, n, d) each: a part's own, the body's, or the mean of its pairs'."""
    member = torch.tensor([[part in pair for pair in pairs] for part in range(parts)])
    share = member / member.sum(1, keepdim=True)  # (p, q)
    out = []
    for x in (pool_classes(x, windows, sequences) for x in told):
        of_pairs = len(x) == len(pairs)
        out.append(torch.einsum("pq,qnd->pnd", share.to(x), x) if of_pairs else x.expand(parts, -1, -1))
    return out
