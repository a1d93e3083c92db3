"""Pose (n, t, b v, c) and mask (n, t) in, the masked reconstruction loss out: TLCA's pretraining stage.

It wraps the encoder T1 of `tlca.py` unchanged and adds what only pretraining needs: what is hidden, and the decoder.
Source: tlca.md sections 1 and 2. Shapes as in `tlca.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bpmt_ext.draws import Draws
from bpmt_ext.nets.bpmt import encoder_sizes
from bpmt_ext.nets.embedders import mean_of_bodies
from bpmt_ext.nets.layers import pool_windows
from bpmt_ext.nets.masking import alone
from bpmt_ext.nets.tlca import BodyEncoder
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
        self.average: Callable[[Tensor], Tensor] = alone
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
        number = self.average(scored.sum()) if self.training else scored.sum()
        return {"losses": {"body": (error * scored).sum() / number.clamp(min=1e-12)}}
