"""Poses (n, t, v, c) in, input streams (n, t, v, c') and one vector per frame (n, t, d) out: how TLCA reads a body.

A frame embedder sees one frame at a time; its variants are the versions of TLCA (tlca.md, section 1):

| embedder | version | a frame becomes |
|---|---|---|
| linear | 1.0 | Linear J C -> d |
| conv | 1.1 | convolutions over the joint axis (C -> C, 3 joints; ReLU; C -> C), then Linear J C -> d |
| joints | 1.2, thesis | Linear C -> d per joint, an encoder layer over the joints, Linear d -> C, Linear J C -> d |
| joint_shares | 1.2, paper | Linear C -> d/J per joint, an encoder layer over the joints of width d/J, joined to d |
| graph | 1.3 | three graph layers C -> d/J -> d/J -> d/J, joined to d |
| parts | - | one token per body part, an encoder layer over the parts, Linear 5 d -> d |
| spacetime | 2.0 | as joint_shares, the layer over the joints before each layer over time instead of once |

Shapes: n sequences, t frames, v or J joints, c or C channels, d width, p parts, b bodies. A mask is True where a frame
is real.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.bpmt import PartEmbedding
from bpmt_ext.nets.grouped import GroupedEncoderLayer
from bpmt_ext.nets.layers import STREAMS, Slots, Streams
from bpmt_ext.skeletons import Skeleton

EMBEDDERS = ("linear", "conv", "joints", "joint_shares", "graph", "parts", "spacetime")


def fold_bodies(pose: Tensor, mask: Tensor, bodies: int) -> tuple[Tensor, Tensor]:
    """Poses of b bodies (n, t, b v, c), one after the other along the joints -> sequences of one (n b, t, v, c)."""
    if bodies == 1:
        return pose, mask
    if pose.ndim != 4 or pose.shape[2] % bodies:
        raise ValueError(f"pose must be (n, t, joints of {bodies} bodies, c), got {tuple(pose.shape)}")
    return pose.unflatten(2, (bodies, -1)).transpose(1, 2).flatten(0, 1), mask.repeat_interleave(bodies, 0)


def mean_of_bodies(x: Tensor, bodies: int) -> Tensor:
    """(n b, ...) as `fold_bodies` orders them -> (n, ...)."""
    return x if bodies == 1 else x.unflatten(0, (-1, bodies)).mean(1)


def line_of_bones(joint: Tensor, parent: Tensor) -> Tensor:
    """Ends of bones (..., 2) in the image plane -> slope and intercept of the line through both (..., 2).

    The slope is cut at 10, the intercept at 1000 either way. An upright bone would divide by zero: |dx| is at least
    1e-6 and keeps its sign. The original clamps dx itself from below at 1e-6, so that every bone that points to the
    left got the slope dy / 1e-6 instead of its own (tlca.md, section 5); that is not repeated here.
    """
    dx, dy = (joint - parent).unbind(-1)
    dx = torch.where(dx < 0, -1.0, 1.0) * dx.abs().clamp(min=1e-6)
    slope = dy / dx
    intercept = joint[..., 1] - slope * joint[..., 0]
    return torch.stack([slope.clamp(-10, 10), intercept.clamp(-1000, 1000)], dim=-1)


class BodyStreams(Streams):
    """Pose (n, t, v, c), mask (n, t) -> standardised input streams of every joint (n, t, v, c').

    streams: any of `joint`, `bone` (joint minus its parent), `line` (slope and intercept of the bone; 2D only, instead
    of bone), `velocity`, `confidence` and `bone_velocity`; unlike in BPMT `joint` may be left out. A root has no
    parent, its bone is 0 (the original's Penn tree gives that row to a second bone of the right shoulder).
    standardise: as in Streams; `part` is one deviation per channel of the whole body.
    """

    columns: Tensor

    def __init__(self, *, skeleton: Skeleton, streams: tuple[str, ...], standardise: str) -> None:
        chosen = set(streams)
        if not chosen or chosen - {*STREAMS, "line"} or {"bone", "line"} <= chosen:
            raise ValueError(f"streams may hold {', '.join(STREAMS)}, or line for bone; got {list(streams)}")
        line = "line" in chosen
        if line and skeleton.dims != 2:
            raise ValueError(f"streams: line is defined in the image plane; {skeleton.name} has {skeleton.dims} axes")
        known = tuple("bone" if name == "line" else name for name in streams)
        slots = Slots((tuple(range(skeleton.num_joints)),))
        super().__init__(skeleton=skeleton, slots=slots, streams=("joint", *known), standardise=standardise)
        self.line = line
        widths = [1 if name == "confidence" else self.dims for name in self.names]
        kept = [name in known for name, width in zip(self.names, widths, strict=True) for _ in range(width)]
        columns = [column for column, chosen in enumerate(kept) if chosen]
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.inputs = len(columns)

    def raw(self, pose: Tensor, mask: Tensor) -> Tensor:
        x = super().raw(pose, mask)
        if not self.line:
            return x
        joint, after = x[..., :2], x[..., 4:]  # the bone lies between
        return torch.cat([joint, line_of_bones(joint, joint[:, :, self.parent]), after], dim=-1)

    def forward(self, pose: Tensor, mask: Tensor) -> Tensor:
        return super().forward(pose, mask)[..., self.columns]

    def visible(self, hidden: Tensor) -> Tensor:
        return super().visible(hidden)[..., self.columns]


class OverJoints(nn.Module):
    """Tokens (n, t, v, w) -> same: one encoder layer in which the tokens of a frame attend to each other."""

    def __init__(
        self, *, width: int, heads: int, feedforward: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.layer = GroupedEncoderLayer(
            groups=1, width=width, heads=heads, feedforward=feedforward, dropout=dropout,
            attention_dropout=attention_dropout,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(0, 1)[None], None).view_as(x)  # padded frames too: they reach no other frame


class LinearEmbedder(nn.Module):
    """(n, t, v, c) -> (n, t, d): all numbers of a frame through one linear map."""

    def __init__(self, *, joints: int, channels: int, width: int) -> None:
        super().__init__()
        self.frame = nn.Linear(joints * channels, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.frame(x.flatten(2))


class ConvEmbedder(LinearEmbedder):
    """(n, t, v, c) -> (n, t, d): the joints, in the skeleton's order, convolved before the linear map."""

    def __init__(self, *, joints: int, channels: int, width: int) -> None:
        super().__init__(joints=joints, channels=channels, width=width)
        self.near = nn.Conv1d(channels, channels, kernel_size=3, padding=1)
        self.point = nn.Conv1d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        row = x.flatten(0, 1).transpose(1, 2)  # (n t, c, v)
        return super().forward(self.point(F.relu(self.near(row))).transpose(1, 2).reshape_as(x))


class JointEmbedder(LinearEmbedder):
    """(n, t, v, c) -> (n, t, d): joints as tokens of the full width attend to each other before the linear map."""

    def __init__(self, *, joints: int, channels: int, width: int, **sizes: float) -> None:
        super().__init__(joints=joints, channels=channels, width=width)
        self.token = nn.Linear(channels, width)
        self.over_joints = OverJoints(width=width, **sizes)
        self.back = nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.back(self.over_joints(self.token(x))))


class ShareEmbedder(nn.Module):
    """(n, t, v, c) -> (n, t, d): every joint a token of width d/J, the tokens attend to each other and are joined.

    `attend` False leaves the attention out: `spacetime` has it between the layers over time.
    """

    def __init__(self, *, channels: int, share: int, attend: bool, **sizes: float) -> None:
        super().__init__()
        self.token = nn.Linear(channels, share)
        self.over_joints = OverJoints(width=share, **sizes) if attend else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.over_joints(self.token(x)).flatten(2)


class GraphEmbedder(nn.Module):
    """(n, t, v, c) -> (n, t, d): three layers over the skeleton's graph, each joint's d/J numbers joined.

    Kipf and Welling, ICLR 2017: A = D^-1/2 (edges + I) D^-1/2; each layer Dropout(ReLU(A X W + b)), plus its input
    where the widths agree.
    """

    adjacency: Tensor

    def __init__(self, *, skeleton: Skeleton, channels: int, share: int, dropout: float) -> None:
        super().__init__()
        joined = torch.eye(skeleton.num_joints)
        for a, b in skeleton.edges:
            joined[a, b] = joined[b, a] = 1
        scale = joined.sum(0).rsqrt()
        self.register_buffer("adjacency", scale[:, None] * joined * scale, persistent=False)
        self.layers = nn.ModuleList(nn.Linear(inputs, share) for inputs in (channels, share, share))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            new = self.dropout(F.relu(layer(self.adjacency @ x)))
            x = x + new if new.shape == x.shape else new
        return x.flatten(2)


class PartTokens(nn.Module):
    """(n, t, v, c) -> (n, t, d): one token per body part, the five attend to each other, then Linear 5 d -> d."""

    def __init__(self, *, skeleton: Skeleton, channels: int, width: int, **sizes: float) -> None:
        super().__init__()
        self.slots = Slots(skeleton.parts)
        self.token = PartEmbedding(slots=self.slots, channels=channels, width=width)
        self.over_parts = OverJoints(width=width, **sizes)
        self.frame = nn.Linear(len(skeleton.parts) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.token(x[:, :, self.slots.joint]).permute(1, 2, 0, 3).contiguous()  # (n, t, p, d)
        return self.frame(self.over_parts(tokens).flatten(2))


def joint_share(width: int, joints: int, kind: str) -> int:
    """d/J. ValueError where the joints do not divide the width."""
    if width % joints:
        near = joints * max(1, round(width / joints))
        raise ValueError(f"embedder {kind}: {joints} joints share the width {width}; make it a multiple, as {near}")
    return width // joints


def build_embedder(
    kind: str,
    *,
    skeleton: Skeleton,
    channels: int,
    width: int,
    heads: int,
    feedforward: int,
    dropout: float,
    attention_dropout: float,
) -> nn.Module:
    """The frame embedder of that name (see the head of this file). ValueError for an unknown name or width."""
    joints = skeleton.num_joints
    sizes = {"heads": heads, "feedforward": feedforward, "dropout": dropout, "attention_dropout": attention_dropout}
    if kind == "linear":
        return LinearEmbedder(joints=joints, channels=channels, width=width)
    if kind == "conv":
        return ConvEmbedder(joints=joints, channels=channels, width=width)
    if kind == "joints":
        return JointEmbedder(joints=joints, channels=channels, width=width, **sizes)
    if kind == "parts":
        return PartTokens(skeleton=skeleton, channels=channels, width=width, **sizes)
    if kind not in EMBEDDERS:
        raise ValueError(f"embedder must be one of {', '.join(EMBEDDERS)}, not {kind!r}")
    share = joint_share(width, joints, kind)
    if kind == "graph":
        return GraphEmbedder(skeleton=skeleton, channels=channels, share=share, dropout=dropout)
    return ShareEmbedder(channels=channels, share=share, attend=kind == "joint_shares", **sizes)
