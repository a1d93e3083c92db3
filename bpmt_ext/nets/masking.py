"""Masks (n, t) and drawn keys in, what is hidden of a sample and T1's encoding of the rest out: pretraining's masks.

Masking by ranking noise after MAE (He et al., CVPR 2022). Shapes as in `bpmt.py`; u units of masking (a part, or a
slot) per frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bpmt_ext.draws import Draws
from bpmt_ext.nets.bpmt import PartEncoder
from bpmt_ext.nets.layers import Slots, cut_patches

MASKS = ("none", "frame", "joint", "block")


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


def alone(x: Tensor) -> Tensor:
    """The mean over processes where there is one. A network in pretraining divides its sums by the mean over processes
    of their weights, so that several train as one: `network.average`, which the engine sets."""
    return x


class Masking(nn.Module):
    """What is hidden of a sample and what stands for it: an embedded input (p, n, t', d) with holes.

    mask: none, frame, joint or block; mask_value: `token` (a learned vector put in after the embedding) or `zero` (the
    standardised input set to zero, its mean). Where `patch` frames make one token they are hidden together; a block is
    rounded up to whole tokens.
    """

    def __init__(
        self, *, slots: Slots, width: int, patch: int, mask: str, mask_ratio: float, mask_block: int, mask_value: str
    ) -> None:
        super().__init__()
        if mask not in MASKS:
            raise ValueError(f"mask must be one of {', '.join(MASKS)}, not {mask!r}")
        if mask_value not in ("token", "zero"):
            raise ValueError(f"mask_value must be token or zero, not {mask_value!r}")
        if not 0 < mask_ratio <= 0.95 or mask_block < 1:
            raise ValueError(f"mask_ratio must be in (0, 0.95] and mask_block at least 1: {mask_ratio}, {mask_block}")
        self.slots, self.mode, self.ratio, self.patch = slots, mask, mask_ratio, patch
        self.block = -(-mask_block // patch)
        self.joints = mask == "joint"
        units = slots.count if self.joints else slots.parts
        with_token = mask != "none" and mask_value != "zero"
        self.token = nn.Parameter(0.02 * torch.randn(units, width)) if with_token else None

    def draw(self, mask: Tensor, key: Tensor) -> Tensor:
        """mask (n, t), key (n,) -> hidden (n, t, s)."""
        parts = torch.arange(self.slots.parts, device=mask.device)
        unit_part = self.slots.part if self.joints else parts
        draws = Draws(key).split("masking")
        tokens = mask[:, :: self.patch]
        hidden = draw_hidden(tokens, unit_part, draws, mode=self.mode, ratio=self.ratio, block=self.block)
        hidden = hidden.repeat_interleave(self.patch, 1)[:, : mask.shape[1]] & mask[..., None]
        return hidden if self.joints else hidden[:, :, self.slots.part]

    def encode(self, t1: PartEncoder, streams: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """Streams (n, t, s, c), hidden (n, t, s), mask (n, t) -> what T1 makes of the rest (p, n, t', d)."""
        return t1.encode(self.embed(t1, streams, hidden, mask), mask[:, :: self.patch])

    def embed(self, t1: PartEncoder, streams: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """Streams (n, t, s, c), hidden (n, t, s), mask (n, t) -> embedded (p, n, t', d) that holds nothing hidden."""
        if self.mode != "none":
            streams = streams * t1.streams.visible(hidden)
        embedded = t1.embedding(cut_patches(streams, mask, self.patch)[0])
        hidden = hidden[:, :: self.patch]  # of tokens
        if self.token is None:
            return embedded
        if getattr(t1.embedding, "joints", False):
            return t1.embedding.hide(embedded, hidden, self.token)
        if self.joints:  # each hidden joint adds its own token to its part
            token = self.token.new_zeros(self.slots.count, self.slots.parts, self.token.shape[1])
            token = token.index_put((torch.arange(len(token), device=hidden.device), self.slots.part), self.token)
            return embedded + torch.einsum("nts,spd->pntd", hidden.to(embedded.dtype), token)
        first = torch.searchsorted(self.slots.part, torch.arange(self.slots.parts, device=hidden.device))
        gone = hidden[:, :, first].permute(2, 0, 1)[..., None]  # (p, n, t, 1)
        return torch.where(gone, self.token[:, None, None], embedded)
