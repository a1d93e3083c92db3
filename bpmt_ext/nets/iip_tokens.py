"""Streams (n, t, s, c) of joints in, tokens (p, n, t, d) out, one of a body part in a frame: IIP's partition encoding.

Wang et al., arXiv 2110.13385, as iip_transformer.md section 2 specifies it. Where the paper normalises a joint's
features by batch, T1 normalises by joint (LayerNorm): a batch's statistics would hold hidden frames and padding, and
tie the parts and the samples of a batch to each other.
Shapes: n sequences, t frames, p parts, m joints of the largest, s slots (a joint in its part), c channels, o features
of a joint, d width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.grouped import GroupedLayerNorm, GroupedLinear, grouped_linear
from bpmt_ext.nets.layers import Slots
from bpmt_ext.skeletons import Skeleton

T1_ENCODERS = ("plain", "iip_part", "iip_joint", "iip_full")


class PartitionEncoding(nn.Module):
    """Streams (n, t, s, c) -> tokens (p, n, t, d): features of every joint, those of a part joined to its token.

    Features: two linear maps c -> o -> o with normalisation and ReLU, for each joint and frame; token: Linear over
    the features of the part's joints (missing ones zero), ReLU. shared: one set of weights for all parts, else one for
    each. batch_norm: as in the paper, over the real frames; `keep` (n, p) False zeroes a part's features.
    joints: the token is a joint instead, and the output (p, n m, t, d) as JointEncoder reads it. whole: the streams
    are those of all joints (n, t, v, c), of which the slots are taken first.
    """

    def __init__(
        self, *, slots: Slots, channels: int, width: int, shared: bool, features: int | None = None,
        batch_norm: bool = False, joints: bool = False, whole: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.slots, self.joints, self.whole = slots, joints, whole
        groups, o = 1 if shared else slots.parts, features or max(16, width // 4)
        self.maps = nn.ModuleList(
            GroupedLinear(groups=groups, inputs=inputs, outputs=o, bias=not batch_norm) for inputs in (channels, o)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(o) if batch_norm else GroupedLayerNorm(groups=groups, width=o) for _ in range(2)
        )
        size = torch.bincount(slots.part)
        self.most = most = int(size.max())
        inputs = o * (torch.ones_like(size) if joints else size.clamp(min=most) if shared else size)
        bound = inputs[:groups].float().rsqrt()[:, None, None]  # of each group's weights, as torch.nn.Linear starts
        of_row = bound if joints else bound.expand(most, 1, 1) if shared else bound[slots.part]
        self.weight = nn.Parameter((2 * torch.rand(len(of_row), o, width) - 1) * of_row)
        self.bias = nn.Parameter((2 * torch.rand(groups, 1, width) - 1) * bound)

    def _of_slot(self, table: Tensor) -> Tensor:
        """(1 or p, ...) -> (1 or s, ...); index_select, whose gradient several threads sum in one order."""
        return table if len(table) == 1 else table.index_select(0, self.slots.part)

    def _dense(self, x: Tensor) -> Tensor:
        """Of slots (s, ...) -> of the places of parts (p, m, ...), zero where a part has fewer joints than m."""
        slots = self.slots
        return x.new_zeros(slots.parts, self.most, *x.shape[1:]).index_put((slots.part, slots.place), x)

    def features(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(n, t, s, c) -> (s, n, t, o)."""
        x = x.permute(2, 0, 1, 3)
        for linear, norm in zip(self.maps, self.norms, strict=True):
            bias = None if linear.bias is None else self._of_slot(linear.bias)
            x = grouped_linear(x, self._of_slot(linear.weight), bias)
            if isinstance(norm, GroupedLayerNorm):
                x = torch.addcmul(self._of_slot(norm.bias), F.layer_norm(x, x.shape[-1:]), self._of_slot(norm.weight))
            elif self.training and mask is not None:  # padding is no part of the statistics
                real = norm(x[:, mask].flatten(0, 1)).unflatten(0, (len(x), -1))
                frame = torch.arange(mask.numel(), device=x.device).view_as(mask)[mask]
                x = real.new_zeros(len(x), mask.numel(), x.shape[-1]).index_copy(1, frame, real).view_as(x)
            else:
                x = norm(x.flatten(0, 2)).view_as(x)
            x = F.relu(x)
        return x

    def forward(self, x: Tensor, mask: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        x = self.features(x.index_select(2, self.slots.joint) if self.whole else x, mask)
        if keep is not None:
            x = x * keep.T.index_select(0, self.slots.part)[:, :, None, None]
        s, n, t, o = x.shape
        if self.joints:
            x = F.relu(grouped_linear(x, self._of_slot(self.weight), self._of_slot(self.bias)))
            return self._dense(x).transpose(1, 2).flatten(1, 2)
        weight = self.weight if len(self.weight) == s else self.weight.index_select(0, self.slots.place)
        x, weight = self._dense(x), self._dense(weight)  # (p, m, n, t, o), (p, m, o, d)
        x = x.permute(0, 2, 3, 1, 4).flatten(3)
        return F.relu(grouped_linear(x, weight.flatten(1, 2), self.bias.expand(len(x), -1, -1)))

    def hide(self, tokens: Tensor, hidden: Tensor, instead: Tensor) -> Tensor:
        """Joint tokens (p, n m, t, d), hidden (n, t, s) -> those hidden replaced: instead (s or p, d)."""
        instead = instead if len(instead) == self.slots.count else instead.index_select(0, self.slots.part)
        gone = self._dense(hidden.permute(2, 0, 1)).transpose(1, 2)[..., None]  # (p, n, m, t, 1)
        instead = self._dense(instead)[:, None, :, None]  # (p, 1, m, 1, d)
        return torch.where(gone, instead, tokens.reshape(*gone.shape[:-1], -1)).reshape(tokens.shape)


def check_kind(name: str, kind: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {kind!r}")


def t1_embedding(kind: str, *, slots: Slots, channels: int, width: int, whole: bool = False) -> PartitionEncoding:
    """What reads the input of a T1 of that kind, other than plain."""
    check_kind("t1_encoder", kind, T1_ENCODERS)
    return PartitionEncoding(
        slots=slots, channels=channels, width=width, shared=kind == "iip_full", joints=kind == "iip_joint", whole=whole
    )


def body_embedding(kind: str, embedder: str, *, skeleton: Skeleton, channels: int, width: int) -> PartitionEncoding:
    """The same for the whole body: one part of all joints, or for iip_full the skeleton's parts."""
    if embedder != "linear":
        raise ValueError(f"t1_encoder {kind} reads the pose itself; leave embedder ({embedder}) out")
    parts = skeleton.parts if kind == "iip_full" else (tuple(range(skeleton.num_joints)),)
    return t1_embedding(kind, slots=Slots(parts), channels=channels, width=width, whole=True)
