"""Pose (n, t, b v, c) and mask (n, t) in, class logits (n, k, 1 or p) out: BPMT for actions, b = 1 or 2 bodies.

The network of `bpmt.py` up to the pooled parts, T1 and T2 included, with a class head in place of the embedding's
(bpmt.md, section 8). Bodies share all weights; what they say is averaged.
Shapes: n sequences, t frames, v joints, c channels, b bodies, p = 5 parts, d width, k classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from bpmt_ext.nets.bpmt import BPMT
from bpmt_ext.nets.embedders import fold_bodies, mean_of_bodies
from bpmt_ext.nets.grouped import GroupedLinear
from bpmt_ext.nets.tlca import ClassHead
from bpmt_ext.skeletons import Skeleton


class JoinedHead(ClassHead):
    """Pooled parts (p, n, d) -> feature, embedding (n, p d, 1), side by side, and logits (n, k, 1): linear or mlp."""

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        return super().forward(pooled.transpose(0, 1).flatten(1)[None])


class PartClasses(nn.Module):
    """Pooled parts (p, n, d) -> feature, embedding (n, d, p) and logits (n, k, p): every part names the action."""

    def __init__(self, *, parts: int, inputs: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.parts = GroupedLinear(groups=parts, inputs=inputs, outputs=classes) if classes else None

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        out = {"feature": pooled.permute(1, 2, 0), "embedding": pooled.permute(1, 2, 0)}
        if self.parts is not None:
            out["logits"] = self.parts(self.dropout(pooled)).permute(1, 2, 0)
        return out


class BPMTAction(BPMT):
    """Pose (n, t, b v, c), mask (n, t) -> {feature, embedding (n, d', 1 or p), logits (n, k, 1 or p)}: actions.

    Options and defaults are BPMT's where the names are. head: `linear` (all parts side by side, one Linear), `mlp`
    (LayerNorm, Dropout, Linear, ReLU, Dropout, Linear) or `part` (Dropout, a Linear per part; the logits are averaged
    where one answer is wanted). num_class 0 leaves the classifier out. bodies: people in a pose, whose joints lie one
    after the other; their outputs are averaged.
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
        bodies: int = 1,
        head: str = "linear",
        head_dropout: float = 0.3,
    ) -> None:
        if head not in ("linear", "mlp", "part"):
            raise ValueError(f"head must be linear, mlp or part, not {head!r}")
        if not isinstance(bodies, int) or bodies < 1:
            raise ValueError(f"bodies must be a number of at least 1, not {bodies!r}")
        super().__init__(
            skeleton=skeleton, num_class=0, streams=streams, standardise=standardise, width=width, heads=heads,
            layers=layers, feedforward=feedforward, dropout=dropout, attention_dropout=attention_dropout,
            attention=attention, max_frames=max_frames, position_start=position_start, share_t1=share_t1,
            share_t2=share_t2, share_cross=share_cross, t2_positions=t2_positions, freeze_t1=freeze_t1,
            freeze_t2=freeze_t2, pool=pool, t1_encoder=t1_encoder, t2_encoder=t2_encoder, t1_fc=t1_fc, patch=patch,
            norm_first=norm_first, head="concat",
        )  # fmt: skip
        self.bodies, self.takes = bodies, (bodies * skeleton.num_joints, self.t1.streams.needed)
        self.head = (
            PartClasses(parts=self.parts, inputs=self.pooled, classes=num_class, dropout=head_dropout)
            if head == "part"
            else JoinedHead(inputs=self.parts * self.pooled, classes=num_class, kind=head, dropout=head_dropout)
        )

    def fit(self, pose: Tensor, mask: Tensor) -> None:
        """Take the input statistics from training samples (n, t, b v, c), once."""
        super().fit(*fold_bodies(pose, mask, self.bodies))

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        out = super().forward(*fold_bodies(pose, mask, self.bodies))
        return {name: mean_of_bodies(value, self.bodies) for name, value in out.items()}
