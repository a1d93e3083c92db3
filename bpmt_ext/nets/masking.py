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

MASKS = ("none", "frame", "joint", "block", "tube")


def draw_hidden(mask: Tensor, unit_part: Tensor, draws: Draws, *, mode: str, ratio: float, block: int) -> Tensor:
    """mask (n, t), unit_part (u,) ascending -> hidden (n, t, u), True where a unit of a part is masked.

    Per sequence and part exactly max(1, round(ratio * real units)) of its real units are hidden: single frames
    (`frame`), joints of frames (`joint`), or runs of `block` frames (`block`; the last run is cut to fit). `tube` hides
    that share of a part's joints, each in all frames (Tong et al., "VideoMAE", NeurIPS 2022).
    Padded frames are never hidden, nothing is for `none`. In `frame` and `block` mode the parts are the units.
    """
    n, t = mask.shape
    if mode == "tube":  # drawn for one frame, true of all
        return draw_hidden(mask[:, :1], unit_part, draws, mode="joint", ratio=ratio, block=block) & mask[..., None]
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


class Masking(nn.Module):
    """What is hidden of a sample and what stands for it: an embedded input (p, n, t', d) with holes.

    mask: none, frame, joint, block or tube; mask_value: `token` (a learned vector put in after the embedding), `zero`
    (the standardised input set to zero, its mean) or `drop`: the encoder does not get the hidden frames at all, a
    learned vector stands for them behind it (He et al., CVPR 2022). With `drop` the same frames are hidden of all
    parts, so that a frame's parts stay together; mask is frame or block. Where `patch` frames make one token they are
    hidden together; a block is rounded up to whole tokens.
    """

    def __init__(
        self, *, slots: Slots, width: int, patch: int, mask: str, mask_ratio: float, mask_block: int, mask_value: str
    ) -> None:
        super().__init__()
        if mask not in MASKS:
            raise ValueError(f"mask must be one of {', '.join(MASKS)}, not {mask!r}")
        if mask_value not in ("token", "zero", "drop"):
            raise ValueError(f"mask_value must be token, zero or drop, not {mask_value!r}")
        if mask_value == "drop" and mask not in ("frame", "block"):
            raise ValueError(f"mask_value drop leaves out whole frames: mask must be frame or block, not {mask!r}")
        if not 0 < mask_ratio <= 0.95 or mask_block < 1:
            raise ValueError(f"mask_ratio must be in (0, 0.95] and mask_block at least 1: {mask_ratio}, {mask_block}")
        self.slots, self.mode, self.ratio, self.patch = slots, mask, mask_ratio, patch
        self.block = -(-mask_block // patch)
        self.drop, self.joints = mask_value == "drop", mask in ("joint", "tube")
        units = slots.count if self.joints else slots.parts
        with_token = mask != "none" and mask_value != "zero"
        self.token = nn.Parameter(0.02 * torch.randn(units, width)) if with_token else None

    def draw(self, mask: Tensor, key: Tensor) -> Tensor:
        """mask (n, t), key (n,) -> hidden (n, t, s)."""
        parts = torch.arange(1 if self.drop else self.slots.parts, device=mask.device)
        unit_part = self.slots.part if self.joints else parts
        draws = Draws(key).split("masking")
        tokens = mask[:, :: self.patch]
        hidden = draw_hidden(tokens, unit_part, draws, mode=self.mode, ratio=self.ratio, block=self.block)
        hidden = hidden.repeat_interleave(self.patch, 1)[:, : mask.shape[1]] & mask[..., None]
        if self.drop:
            return hidden.expand(-1, -1, self.slots.count)
        return hidden if self.joints else hidden[:, :, self.slots.part]

    def encode(self, t1: PartEncoder, streams: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """Streams (n, t, s, c), hidden (n, t, s), mask (n, t) -> what T1 makes of the rest (p, n, t', d)."""
        embedded, tokens = self.embed(t1, streams, hidden, mask), mask[:, :: self.patch]
        if self.drop:
            return self._encode_seen(t1, embedded, hidden[:, :: self.patch, 0], tokens)
        return t1.encode(embedded, tokens)

    def _encode_seen(self, t1: PartEncoder, embedded: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """T1 over the frames that are seen, hidden (n, t); at the others their token and their position."""
        n, t = mask.shape
        seen = mask & ~hidden
        most = max(1, int(seen.sum(1).max()))
        frame = (~seen).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]  # (n, m), those seen first and in order
        there = torch.arange(most, device=mask.device) < seen.sum(1, keepdim=True)
        rows = embedded.unflatten(1, (n, -1))  # (p, n, k, t, d): k = 1 token of a part in a frame, or its joints
        p, _, k, _, d = rows.shape
        rows = rows.gather(3, frame[None, :, None, :, None].expand(p, n, k, most, d)).flatten(1, 2)
        told = t1.encode(rows, there, frames=frame.repeat_interleave(k, 0))  # (p, n, m, d)
        empty = (self.token[:, None, None] + t1.positions[:, None, :t]).expand(-1, n, -1, -1)
        index = frame[None, ..., None].expand_as(told)
        return empty.scatter(2, index, torch.where(there[..., None], told, empty.gather(2, index)))

    def embed(self, t1: PartEncoder, streams: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """Streams (n, t, s, c), hidden (n, t, s), mask (n, t) -> embedded (p, n, t', d) that holds nothing hidden."""
        if self.mode != "none":
            streams = streams * t1.streams.visible(hidden)
        embedded = t1.embedding(cut_patches(streams, mask, self.patch)[0])
        hidden = hidden[:, :: self.patch]  # of tokens
        if self.token is None or self.drop:
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
