"""Pose (n, t, v, c) and mask (n, t) in, masked reconstruction losses out: the two pretraining stages of BPMT.

Each wraps the encoders of `bpmt.py` unchanged and adds what only pretraining needs: what is hidden (masking.py), the
decoders, and objectives beside the reconstruction (objectives.py). BPMT_T1 trains the five part encoders, BPMT_T2 the
ten pair encoders on top of them. Poses may hold several bodies, one after the other along the joints (b v): all share
the weights. Sources: bpmt.md sections 2 and 3; OmniVec2 (Srivastava and Sharma, CVPR 2024). Shapes as in `bpmt.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.draws import Draws
from bpmt_ext.nets.bpmt import PartEncoder, encoder_sizes
from bpmt_ext.nets.embedders import fold_bodies, mean_of_bodies
from bpmt_ext.nets.grouped import GroupedLinear
from bpmt_ext.nets.layers import cut_windows, pool_windows, set_mode, set_trainable
from bpmt_ext.nets.masking import Masking, alone
from bpmt_ext.nets.objectives import (
    Contrast,
    RealOrFake,
    Teacher,
    loss_weight,
    noisy,
    pooled_columns,
    with_extras,
)
from bpmt_ext.nets.pairs import PairEncoder, t2_stage
from bpmt_ext.skeletons import PART_NAMES, Skeleton

_NOISE = 0.1  # of the dual encoder's noisy view


class SlotDecoder(nn.Module):
    """Encoded tokens (g, n, t', d) -> coordinates (n, frames, r, dims) of r rows: the mirror of the part embedding.

    Row i belongs to group `group[i]`, place `place[i]`. kind: `linear` (d -> 2 J_p), `mlp` (d -> d, ReLU, d -> 2 J_p),
    for each of the `patch` frames of a token.
    """

    group: Tensor
    place: Tensor

    def __init__(self, *, group: Tensor, place: Tensor, width: int, dims: int, patch: int, kind: str) -> None:
        super().__init__()
        if kind not in ("linear", "mlp"):
            raise ValueError(f"decoder must be linear or mlp, not {kind!r}")
        self.register_buffer("group", group, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.patch = patch
        self.groups, self.most = int(group.max()) + 1, int(place.max()) + 1
        hidden = GroupedLinear(groups=self.groups, inputs=width, outputs=width)
        self.hidden = hidden if kind == "mlp" else None
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(len(group), width, patch * dims).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(len(group), patch * dims).uniform_(-bound, bound))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """frames: of the sequences, which may end before the last token does."""
        g, n, t, d = x.shape
        if self.hidden is not None:
            x = F.relu(self.hidden(x))
        at = (self.group, self.place)
        weight = self.weight.new_zeros(g, self.most, d, self.weight.shape[-1]).index_put(at, self.weight)
        weight = weight.transpose(1, 2).reshape(g, d, -1)  # parts with fewer joints padded by zeros
        out = torch.bmm(x.reshape(g, n * t, d), weight).view(g, n, t, self.most, -1)
        out = out.movedim(3, 1)[at].permute(1, 2, 0, 3) + self.bias  # (n, t', r, patch dims)
        return out.unflatten(3, (self.patch, -1)).transpose(2, 3).flatten(1, 2)[:, :frames]


def part_losses(
    error: Tensor, weight: Tensor, group: Tensor, groups: int, average: Callable[[Tensor], Tensor] = alone
) -> Tensor:
    """Squared error (n, t, r) of each row, weight (n, t, r), group (r,) -> weighted mean per group (g,).

    average: over processes; the mean over them of what each gets is then the weighted mean over all rows.
    """
    zero = error.new_zeros(groups)
    total = zero.index_add(0, group, (error * weight).sum((0, 1)))
    return total / average(zero.index_add(0, group, weight.sum((0, 1)))).clamp(min=1e-12)


class Sample(NamedTuple):
    """A step's windows: F (p, m, w', d) of what is not hidden, whole streams (m, w, s, c), target (m, w, s, dims), loss
    weight (m, w, s), mask (m, w), whose they are (m,), and which parts are fakes (m, p)."""

    features: Tensor
    streams: Tensor
    target: Tensor
    weight: Tensor
    mask: Tensor
    owner: Tensor
    changed: Tensor


class _Pretraining(nn.Module):
    """What both stages share: T1, the masking, the windows and the weights of the loss."""

    noise = 0.0  # deviation of the noise on what T1 sees, in units of the standardised input

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
        self.average: Callable[[Tensor], Tensor] = alone
        self.masking = Masking(
            slots=t1.slots, width=t1.positions.shape[-1], patch=t1.patch, mask=mask, mask_ratio=mask_ratio,
            mask_block=mask_block, mask_value=mask_value,
        )  # fmt: skip

    def fit(self, pose: Tensor, mask: Tensor) -> None:
        """Take the input statistics from training samples, once (see Streams.fit)."""
        self.t1.streams.fit(*fold_bodies(pose, mask, self.bodies))

    def embed(self, pose: Tensor, mask: Tensor) -> Tensor:
        """Mean encoding of each part (n, d, p), nothing hidden: what an evaluator may look at after pretraining."""
        pose, mask = fold_bodies(pose, mask, self.bodies)
        windows = cut_windows(pose, mask, self.max_frames)
        parts = self.t1(windows.pose, windows.mask)
        pooled = pool_windows(parts, windows._replace(mask=self.tokens(windows.mask)), len(pose), "mean")
        return mean_of_bodies(pooled.permute(1, 2, 0), self.bodies)

    def mean_weight(self, weight: Tensor) -> Tensor:
        """Mean over the processes that train together; alone outside of training."""
        return self.average(weight) if self.training else weight

    def tokens(self, mask: Tensor) -> Tensor:
        """mask (m, w) of frames -> (m, w') of T1's tokens."""
        return mask[:, :: self.t1.patch]

    def features(self, streams: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """Streams (m, w, s, c), hidden (m, w, s), mask (m, w) -> features F (p, m, w', d) of what is not hidden."""
        return self.masking.encode(self.t1, streams, hidden, mask)

    def _hide(self, pose: Tensor, mask: Tensor, key: Tensor | None, fakes: RealOrFake | None = None) -> Sample:
        if key is None:  # a host hands over no keys: its own random state seeds them
            key = torch.randint(2**62, (len(pose),), device=pose.device)
        if self.bodies > 1:  # each body has holes of its own
            key = Draws(key).split("body").bits(self.bodies).flatten()
        windows = cut_windows(*fold_bodies(pose, mask, self.bodies), self.max_frames)
        key = Draws(key).bits(int(windows.number.max()) + 1)[windows.owner, windows.number]
        pose, mask, owner, _ = windows
        changed = mask.new_zeros(len(mask), self.t1.slots.parts)
        if fakes is not None:
            pose, changed = fakes.fake(pose, mask, key)
        streams = self.t1.streams(pose, mask)
        hidden = self.masking.draw(mask, key)
        dims, slots = self.t1.streams.dims, self.t1.slots
        scored = hidden if self.masking.mode != "none" else mask[..., None].expand_as(hidden)
        weight = (scored & ~changed.any(1)[:, None, None]).to(streams.dtype)  # nobody has to complete a fake
        if self.confidence_weight:
            weight = weight * pose[:, :, slots.joint, dims]
        target = streams[..., :dims].detach()
        features = self.features(noisy(streams, key, self.noise) if self.noise else streams, hidden, mask)
        return Sample(features, streams, target, weight, mask, owner, changed)


class BPMT_T1(_Pretraining):  # noqa: N801 - the name in the configs
    """Pose (n, t, v, c), mask (n, t) -> {losses: {part: ()}}: stage 1, one masked autoencoder per body part.

    L_p = sum over hidden (t, j, coordinate) of squared error / their number, on standardised coordinates. dual:
    weight of a second loss, over all frames, between T1 with a noisy view and its own slow average with the clean one
    (objectives.py).
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
        attention: str = "sdpa",
        max_frames: int = 60,
        position_start: str = "sine",
        share_t1: bool = False,
        t1_encoder: str = "plain",
        t1_fc: int = 0,
        patch: int = 1,
        norm_first: bool = False,
        mask: str = "block",
        mask_ratio: float = 0.5,
        mask_block: int = 8,
        mask_value: str = "token",
        decoder: str = "linear",
        dual: float = 0.0,
        confidence_weight: bool = False,
        bodies: int = 1,
    ) -> None:
        sizes = encoder_sizes(width, heads, layers, feedforward, dropout, attention_dropout)
        t1 = PartEncoder(
            skeleton=skeleton, streams=streams, standardise=standardise, max_frames=max_frames,
            position_start=position_start, shared=share_t1, kind=t1_encoder, fc=t1_fc, patch=patch,
            norm_first=norm_first, attention=attention, **sizes,
        )  # fmt: skip
        super().__init__(
            t1=t1, max_frames=max_frames, mask=mask, mask_ratio=mask_ratio, mask_block=mask_block,
            mask_value=mask_value, confidence_weight=confidence_weight, bodies=bodies,
        )  # fmt: skip
        slots = t1.slots
        self.dual = loss_weight("dual", dual)
        self.noise = _NOISE if dual else 0.0
        self.teacher = Teacher(t1) if dual else None
        self.predictor = GroupedLinear(groups=slots.parts, inputs=width, outputs=width) if dual else None
        given = {"group": slots.part, "place": slots.place, "width": width, "dims": skeleton.dims}
        self.decoder = SlotDecoder(patch=patch, kind=decoder, **given)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, dict[str, Tensor] | Tensor]:
        seen, slots = self._hide(pose, mask, key), self.t1.slots
        error = (self.decoder(seen.features, seen.mask.shape[1]) - seen.target).square().mean(-1)  # (m, w, s)
        losses = part_losses(error, seen.weight, slots.part, slots.parts, self.mean_weight)
        extras = {}
        if self.teacher is not None:
            if self.training:
                self.teacher.follow(self.t1)
            guess = self.predictor(seen.features)
            apart = (guess - self.teacher(seen.streams, seen.mask)).square().mean(-1).permute(1, 2, 0)  # (m, w', p)
            real = self.tokens(seen.mask)[..., None].expand_as(apart).to(apart.dtype)
            part = torch.arange(slots.parts, device=pose.device)
            extras["dual"] = (self.dual, part_losses(apart, real, part, slots.parts, self.mean_weight).mean())
        return with_extras(dict(zip(PART_NAMES, losses.unbind(), strict=True)), extras)


class BPMT_T2(_Pretraining):  # noqa: N801 - the name in the configs
    """Pose (n, t, v, c), mask (n, t) -> {losses: {pair: ()}}: stage 2, a masked autoencoder for each pair of parts.

    Both parts are masked independently, encoded by T1, joined by cross-attention and T2, and decoded in parallel:
    L = (L_A + L_B) / 2. t2_encoder `body`: all parts at once, {losses: {part: ()}}. freeze_t1: `yes` (the thesis),
    `no`, `last_layer`. contrast: weight of a contrastive loss between a sequence's pairs (body: its parts); fake: of
    the question whether a part's frames are in their order. See objectives.py.
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
        attention: str = "sdpa",
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
        patch: int = 1,
        norm_first: bool = False,
        mask: str = "block",
        mask_ratio: float = 0.5,
        mask_block: int = 8,
        mask_value: str = "token",
        decoder: str = "linear",
        contrast: float = 0.0,
        fake: float = 0.0,
        confidence_weight: bool = False,
        bodies: int = 1,
    ) -> None:
        sizes = encoder_sizes(width, heads, layers, feedforward, dropout, attention_dropout)
        t1 = PartEncoder(
            skeleton=skeleton, streams=streams, standardise=standardise, max_frames=max_frames,
            position_start=position_start, shared=share_t1, kind=t1_encoder, fc=t1_fc, patch=patch,
            norm_first=norm_first, attention=attention, **sizes,
        )  # fmt: skip
        super().__init__(
            t1=t1, max_frames=max_frames, mask=mask, mask_ratio=mask_ratio, mask_block=mask_block,
            mask_value=mask_value, confidence_weight=confidence_weight, bodies=bodies,
        )  # fmt: skip
        slots = t1.slots
        self.t2 = t2_stage(
            t2_encoder, parts=slots.parts, max_frames=len(t1.positions[0]), share_t2=share_t2, share_cross=share_cross,
            t2_positions=t2_positions, position_start=position_start, norm_first=norm_first, attention=attention,
            **sizes,
        )  # fmt: skip
        # (r,) rows: the slots of every side, whose parts are (2 q,), or (p,) where all pairs are one encoder's
        group, slot = (self.t2.sides[:, None] == slots.part).nonzero(as_tuple=True)
        self.register_buffer("slot", slot, persistent=False)
        given = {"group": group, "place": slots.place[slot], "width": width, "dims": skeleton.dims}
        self.decoder = SlotDecoder(patch=patch, kind=decoder, **given)
        self.contrast_weight, self.fake_weight = loss_weight("contrast", contrast), loss_weight("fake", fake)
        of_pairs = isinstance(self.t2, PairEncoder)
        columns = self.t2.pairs if of_pairs else [(part,) for part in range(slots.parts)]
        self.names = ["+".join(PART_NAMES[part] for part in column) for column in columns]
        inputs = len(columns[0]) * width
        self.contrast = Contrast(columns=len(columns), inputs=inputs, width=width) if self.contrast_weight else None
        self.fakes = RealOrFake(skeleton=skeleton, columns=columns, width=width) if self.fake_weight else None
        self.freeze_t1 = freeze_t1
        set_trainable(self.t1, freeze_t1, self.t1.encoder.layers[-1])

    def train(self, mode: bool = True) -> BPMT_T2:
        super().train(mode)
        set_mode(self.t1, self.freeze_t1, self.t1.encoder.layers[-1], mode)
        return self

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, dict[str, Tensor] | Tensor]:
        seen = self._hide(pose, mask, key, self.fakes)
        tokens = self.tokens(seen.mask)
        sides = self.t2(seen.features, tokens)  # U (q, 2, m, w', d), or (p, m, w', d)
        sides = sides.reshape(-1, *sides.shape[-3:])
        guess = self.decoder(sides, seen.mask.shape[1])
        error = (guess - seen.target[:, :, self.slot]).square().mean(-1)  # (m, w, r)
        weight = seen.weight[:, :, self.slot]
        losses = part_losses(error, weight, self.decoder.group, self.decoder.groups, self.mean_weight)
        losses = losses.view(len(self.names), -1).mean(1)  # (q,) or (p,)
        extras = {}
        pooled = pooled_columns(sides, tokens, len(self.names)) if self.contrast or self.fakes else None
        if self.contrast is not None:
            whole = ~seen.changed.any(1)
            extras["contrast"] = (self.contrast_weight, self.contrast(pooled[:, whole], seen.owner[whole]))
        if self.fakes is not None:
            extras["fake"] = (self.fake_weight, self.fakes(pooled, seen.changed))
        return with_extras(dict(zip(self.names, losses.unbind(), strict=True)), extras)
