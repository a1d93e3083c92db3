"""Pose (n, t, v, c) and mask (n, t) in, masked reconstruction losses out: the two pretraining stages of BPMT.

Each wraps the encoders of `bpmt.py` unchanged and adds what only pretraining needs: what is hidden, the vector that
stands for it, and the decoders. BPMT_T1 trains the five part encoders, BPMT_T2 the ten pair encoders on top of them.
Poses may hold several bodies, one after the other along the joints (b v): all share the weights.
Sources: bpmt.md sections 2 and 3; OmniVec2 (Srivastava and Sharma, CVPR 2024); masking by ranking noise after MAE
(He et al., CVPR 2022). Shapes as in `bpmt.py`; u units of masking (a part, or a slot) per frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.draws import Draws
from bpmt_ext.nets.bpmt import PairEncoder, PartEncoder, encoder_sizes
from bpmt_ext.nets.embedders import fold_bodies, mean_of_bodies
from bpmt_ext.nets.grouped import GroupedLinear
from bpmt_ext.nets.layers import Slots, cut_windows, pool_windows, set_mode, set_trainable
from bpmt_ext.skeletons import PART_NAMES, Skeleton


def draw_hidden(mask: Tensor, unit_part: Tensor, draws: Draws, *, mode: str, ratio: float, block: int) -> Tensor:
    """mask (n, t), unit_part (u,) ascending -> hidden (n, t, u), True where a unit of a part is masked.

    Per sequence and part exactly max(1, round(ratio * real units)) of its real units are hidden: single frames
    (`frame`), joints of frames (`joint`), or runs of `block` frames (`block`; the last run is cut to fit).
    Padded frames are never hidden, nothing is for `none`. In `frame` and `block` mode the parts are the units.
    """
    n, t = mask.shape
    u = len(unit_part)
    if mode == "none":
        return mask.new_zeros(n, t, u)
    if mode == "block":
        offset = draws.split("offset").integers(block, u)  # (n, u)
        chunk = torch.div(torch.arange(t, device=mask.device)[:, None] + offset[:, None], block, rounding_mode="floor")
        score = draws.split("score").uniform(t // block + 2, u).gather(1, chunk)
    else:
        score = draws.split("score").uniform(t, u)
    score = torch.where(mask[..., None], score, 1.5)  # padding ranks behind every real unit
    size = torch.bincount(unit_part)  # (p,) units of a part in a frame
    order = (score + 2 * unit_part).flatten(1).argsort(dim=1, stable=True)  # part by part, then by score
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(t * u, device=mask.device).expand_as(order))
    first = t * (size.cumsum(0) - size)[unit_part]  # (u,) where each part's ranks begin
    wanted = (ratio * mask.sum(1, keepdim=True) * size).round().clamp(min=1)[:, unit_part]  # (n, u)
    return (rank.view(n, t, u) - first < wanted[:, None]) & mask[..., None]


class SlotDecoder(nn.Module):
    """Encoded frames (g, n, t, d) -> coordinates (n, t, r, dims) of r rows: the mirror of the part embedding.

    Row i belongs to group `group[i]`, place `place[i]`. kind: `linear` (d -> 2 J_p), `mlp` (d -> d, ReLU, d -> 2 J_p).
    """

    group: Tensor
    place: Tensor

    def __init__(self, *, group: Tensor, place: Tensor, width: int, dims: int, kind: str) -> None:
        super().__init__()
        if kind not in ("linear", "mlp"):
            raise ValueError(f"decoder must be linear or mlp, not {kind!r}")
        self.register_buffer("group", group, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.groups, self.most = int(group.max()) + 1, int(place.max()) + 1
        hidden = GroupedLinear(groups=self.groups, inputs=width, outputs=width)
        self.hidden = hidden if kind == "mlp" else None
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(len(group), width, dims).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(len(group), dims).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        g, n, t, d = x.shape
        if self.hidden is not None:
            x = F.relu(self.hidden(x))
        at = (self.group, self.place)
        weight = self.weight.new_zeros(g, self.most, d, self.weight.shape[-1]).index_put(at, self.weight)
        weight = weight.transpose(1, 2).reshape(g, d, -1)  # parts with fewer joints padded by zeros
        out = torch.bmm(x.reshape(g, n * t, d), weight).view(g, n, t, self.most, -1)
        return out.movedim(3, 1)[at].permute(1, 2, 0, 3) + self.bias


class Masking(nn.Module):
    """What is hidden of a sample and what stands for it: an embedded input (p, n, t, d) with holes.

    mask: none, frame, joint or block; mask_value: `token` (a learned vector put in after the embedding) or `zero`
    (the standardised input set to zero, its mean).
    """

    def __init__(
        self, *, slots: Slots, width: int, mask: str, mask_ratio: float, mask_block: int, mask_value: str
    ) -> None:
        super().__init__()
        if mask not in ("none", "frame", "joint", "block"):
            raise ValueError(f"mask must be none, frame, joint or block, not {mask!r}")
        if mask_value not in ("token", "zero"):
            raise ValueError(f"mask_value must be token or zero, not {mask_value!r}")
        if not 0 < mask_ratio <= 0.95 or mask_block < 1:
            raise ValueError(f"mask_ratio must be in (0, 0.95] and mask_block at least 1: {mask_ratio}, {mask_block}")
        self.slots, self.mode, self.ratio, self.block = slots, mask, mask_ratio, mask_block
        units = slots.count if mask == "joint" else slots.parts
        with_token = mask != "none" and mask_value == "token"
        self.token = nn.Parameter(0.02 * torch.randn(units, width)) if with_token else None

    def draw(self, mask: Tensor, key: Tensor) -> Tensor:
        """mask (n, t), key (n,) -> hidden (n, t, s)."""
        joints = self.mode == "joint"
        unit_part = self.slots.part if joints else torch.arange(self.slots.parts, device=mask.device)
        draws = Draws(key).split("masking")
        hidden = draw_hidden(mask, unit_part, draws, mode=self.mode, ratio=self.ratio, block=self.block)
        return hidden if joints else hidden[:, :, self.slots.part]

    def embed(self, t1: PartEncoder, streams: Tensor, hidden: Tensor) -> Tensor:
        """Streams (n, t, s, c), hidden (n, t, s) -> embedded (p, n, t, d) that holds nothing of what is hidden."""
        if self.mode == "none":
            return t1.embedding(streams)
        embedded = t1.embedding(streams * t1.streams.visible(hidden))
        if self.token is None:
            return embedded
        if getattr(t1.embedding, "joints", False):
            return t1.embedding.hide(embedded, hidden, self.token)
        if self.mode == "joint":  # each hidden joint adds its own token to its part
            token = self.token.new_zeros(self.slots.count, self.slots.parts, self.token.shape[1])
            token = token.index_put((torch.arange(len(token), device=hidden.device), self.slots.part), self.token)
            return embedded + torch.einsum("nts,spd->pntd", hidden.to(embedded.dtype), token)
        first = torch.searchsorted(self.slots.part, torch.arange(self.slots.parts, device=hidden.device))
        gone = hidden[:, :, first].permute(2, 0, 1)[..., None]  # (p, n, t, 1)
        return torch.where(gone, self.token[:, None, None], embedded)


def part_losses(error: Tensor, weight: Tensor, group: Tensor, groups: int) -> Tensor:
    """Squared error (n, t, r) of each row, weight (n, t, r), group (r,) -> weighted mean per group (g,)."""
    zero = error.new_zeros(groups)
    total = zero.index_add(0, group, (error * weight).sum((0, 1)))
    return total / zero.index_add(0, group, weight.sum((0, 1))).clamp(min=1e-12)


class _Pretraining(nn.Module):
    """What both stages share: T1, the masking, the windows and the weights of the loss."""

    def __init__(
        self,
        *,
        t1: PartEncoder,
        max_frames: int,
        mask: str,
        mask_ratio: float,
        mask_block: int,
        mask_value: str,
        confidence_weight: bool,
        bodies: int,
    ) -> None:
        super().__init__()
        if not isinstance(bodies, int) or bodies < 1:
            raise ValueError(f"bodies must be a number of at least 1, not {bodies!r}")
        self.t1, self.max_frames, self.confidence_weight, self.bodies = t1, max_frames, confidence_weight, bodies
        self.masking = Masking(
            slots=t1.slots,
            width=t1.positions.shape[-1],
            mask=mask,
            mask_ratio=mask_ratio,
            mask_block=mask_block,
            mask_value=mask_value,
        )

    def fit(self, pose: Tensor, mask: Tensor) -> None:
        """Take the input statistics from training samples, once (see Streams.fit)."""
        self.t1.streams.fit(*fold_bodies(pose, mask, self.bodies))

    def embed(self, pose: Tensor, mask: Tensor) -> Tensor:
        """Mean encoding of each part (n, d, p), nothing hidden: what an evaluator may look at after pretraining."""
        pose, mask = fold_bodies(pose, mask, self.bodies)
        windows = cut_windows(pose, mask, self.max_frames)
        pooled = pool_windows(self.t1(windows.pose, windows.mask), windows, len(pose), "mean")
        return mean_of_bodies(pooled.permute(1, 2, 0), self.bodies)

    def _hide(self, pose: Tensor, mask: Tensor, key: Tensor | None) -> tuple[Tensor, ...]:
        """-> part features F (p, m, w, d), target (m, w, s, dims), loss weight (m, w, s), mask (m, w)."""
        if key is None:  # a host hands over no keys: its own random state seeds them
            key = torch.randint(2**62, (len(pose),), device=pose.device)
        if self.bodies > 1:  # each body has holes of its own
            key = Draws(key).split("body").bits(self.bodies).flatten()
        windows = cut_windows(*fold_bodies(pose, mask, self.bodies), self.max_frames)
        key = Draws(key).bits(int(windows.number.max()) + 1)[windows.owner, windows.number]
        streams = self.t1.streams(windows.pose, windows.mask)
        hidden = self.masking.draw(windows.mask, key)
        dims, slots = self.t1.streams.dims, self.t1.slots
        scored = hidden if self.masking.mode != "none" else windows.mask[..., None].expand_as(hidden)
        weight = scored.to(streams.dtype)
        if self.confidence_weight:
            weight = weight * windows.pose[:, :, slots.joint, dims]
        features = self.t1.encode(self.masking.embed(self.t1, streams, hidden), windows.mask)
        return features, streams[..., :dims].detach(), weight, windows.mask


class BPMT_T1(_Pretraining):  # noqa: N801 - the name in the configs
    """Pose (n, t, v, c), mask (n, t) -> {losses: {part: ()}}: stage 1, one masked autoencoder per body part.

    L_p = sum over hidden (t, j, coordinate) of squared error / their number, on standardised coordinates.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        streams: tuple[str, ...] = ("joint",),
        standardise: str = "joint",
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        feedforward: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        max_frames: int = 60,
        position_start: str = "sine",
        share_t1: bool = False,
        t1_encoder: str = "plain",
        t1_fc: int = 0,
        mask: str = "block",
        mask_ratio: float = 0.5,
        mask_block: int = 8,
        mask_value: str = "token",
        decoder: str = "linear",
        confidence_weight: bool = False,
        bodies: int = 1,
    ) -> None:
        sizes = encoder_sizes(width, heads, layers, feedforward, dropout, attention_dropout)
        t1 = PartEncoder(
            skeleton=skeleton, streams=streams, standardise=standardise, max_frames=max_frames,
            position_start=position_start, shared=share_t1, kind=t1_encoder, fc=t1_fc, **sizes,
        )  # fmt: skip
        super().__init__(
            t1=t1,
            max_frames=max_frames,
            mask=mask,
            mask_ratio=mask_ratio,
            mask_block=mask_block,
            mask_value=mask_value,
            confidence_weight=confidence_weight,
            bodies=bodies,
        )
        slots = t1.slots
        self.decoder = SlotDecoder(group=slots.part, place=slots.place, width=width, dims=skeleton.dims, kind=decoder)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, dict[str, Tensor] | Tensor]:
        features, target, weight, _ = self._hide(pose, mask, key)
        error = (self.decoder(features) - target).square().mean(-1)  # (m, w, s)
        losses = part_losses(error, weight, self.t1.slots.part, self.t1.slots.parts)
        return {"losses": dict(zip(PART_NAMES, losses.unbind(), strict=True))}


class BPMT_T2(_Pretraining):  # noqa: N801 - the name in the configs
    """Pose (n, t, v, c), mask (n, t) -> {losses: {pair: ()}}: stage 2, a masked autoencoder for each pair of parts.

    Both parts are masked independently, encoded by T1, joined by cross-attention and T2, and decoded in parallel:
    L = (L_A + L_B) / 2. freeze_t1: `yes` (the thesis), `no`, `last_layer`.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        streams: tuple[str, ...] = ("joint",),
        standardise: str = "joint",
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        feedforward: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        max_frames: int = 60,
        position_start: str = "sine",
        share_t1: bool = False,
        share_t2: bool = False,
        share_cross: bool = False,
        t2_positions: str = "temporal+segment",
        freeze_t1: str = "yes",
        t1_encoder: str = "plain",
        t2_encoder: str = "plain",
        t1_fc: int = 0,
        mask: str = "block",
        mask_ratio: float = 0.5,
        mask_block: int = 8,
        mask_value: str = "token",
        decoder: str = "linear",
        confidence_weight: bool = False,
        bodies: int = 1,
    ) -> None:
        sizes = encoder_sizes(width, heads, layers, feedforward, dropout, attention_dropout)
        t1 = PartEncoder(
            skeleton=skeleton, streams=streams, standardise=standardise, max_frames=max_frames,
            position_start=position_start, shared=share_t1, kind=t1_encoder, fc=t1_fc, **sizes,
        )  # fmt: skip
        super().__init__(
            t1=t1,
            max_frames=max_frames,
            mask=mask,
            mask_ratio=mask_ratio,
            mask_block=mask_block,
            mask_value=mask_value,
            confidence_weight=confidence_weight,
            bodies=bodies,
        )
        slots = t1.slots
        self.t2 = PairEncoder(
            parts=slots.parts,
            max_frames=max_frames,
            share_t2=share_t2,
            share_cross=share_cross,
            positions=t2_positions,
            position_start=position_start,
            kind=t2_encoder,
            **sizes,
        )
        sides = torch.stack([self.t2.first, self.t2.second], dim=1).flatten()  # (2 q,) the part of each side
        group, slot = (sides[:, None] == slots.part).nonzero(as_tuple=True)  # (r,) rows: the slots of every side
        self.register_buffer("slot", slot, persistent=False)
        self.decoder = SlotDecoder(group=group, place=slots.place[slot], width=width, dims=skeleton.dims, kind=decoder)
        self.names = [f"{PART_NAMES[a]}+{PART_NAMES[b]}" for a, b in self.t2.pairs]
        self.freeze_t1 = freeze_t1
        set_trainable(self.t1, freeze_t1, self.t1.encoder.layers[-1])

    def train(self, mode: bool = True) -> BPMT_T2:
        super().train(mode)
        set_mode(self.t1, self.freeze_t1, self.t1.encoder.layers[-1], mode)
        return self

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, dict[str, Tensor] | Tensor]:
        features, target, weight, real = self._hide(pose, mask, key)
        sides = self.t2(features, real).flatten(0, 1)  # U (2 q, m, w, d)
        error = (self.decoder(sides) - target[:, :, self.slot]).square().mean(-1)  # (m, w, r)
        losses = part_losses(error, weight[:, :, self.slot], self.decoder.group, self.decoder.groups)
        losses = losses.view(-1, 2).mean(1)  # (q,)
        return {"losses": dict(zip(self.names, losses.unbind(), strict=True))}
