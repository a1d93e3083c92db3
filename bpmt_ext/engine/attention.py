"""A trained network and one clip in, who attends to whom in it out: between the five parts and between frames.

The networks compute attention in one fused step that keeps no weights. Forward hooks, there only while the clip is
read, compute softmax(Q K^T / sqrt(e)) a second time from what the attention layers are given; the networks and their
normal path stay as they are. Shapes: b bodies, t frames, p = 5 parts, m windows of w frames, g groups, n sequences,
h heads, d width, e = d / h.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bpmt_ext.errors import UserError
from bpmt_ext.nets.embedders import fold_bodies
from bpmt_ext.nets.grouped import GroupedAttention, grouped_linear
from bpmt_ext.nets.layers import Windows, cut_windows


@dataclass(frozen=True)
class Attention:
    """Shares of the last fusion's attention, mean over its heads; rows that add up to 1.

    frames (b, t, t): how much a frame asks each other one, inside the windows that the network reads (0 outside).
    parts (b, t, p, p): how much a part asks each other one in a frame, about all frames; 0 on the diagonal. None for a
    network that takes the body as one part.
    """

    frames: np.ndarray
    parts: np.ndarray | None


def attention_weights(module: GroupedAttention, query: Tensor, context: Tensor | None = None,
                      mask: Tensor | None = None) -> Tensor:  # fmt: skip
    """What `module(query, context, mask)` weighs its values with, mean over heads: (g, n, t, s), rows add up to 1."""
    context = query if context is None else context
    d = query.shape[-1]
    q = grouped_linear(query, module.in_weight[..., :d], module.in_bias[..., :d])
    k = grouped_linear(context, module.in_weight[..., d : 2 * d], module.in_bias[..., d : 2 * d])
    q, k = (x.unflatten(-1, (module.heads, -1)).transpose(2, 3) for x in (q, k))  # (g, n, h, t, e)
    score = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        score = score.masked_fill(~mask[None, :, None, None], -torch.inf)
    return score.softmax(-1).mean(2)


@contextmanager
def recorded(*modules: GroupedAttention) -> Iterator[list[Tensor]]:
    """While it lasts, the attention weights of every call of these layers are put into the list."""
    weights: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], _: Tensor) -> None:
        assert isinstance(module, GroupedAttention)
        weights.append(attention_weights(module, *args, **named))

    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in modules]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def attention(network: nn.Module, pose: Tensor, mask: Tensor) -> Attention:
    """The attention of the network's last fusion for one clip: pose (1, t, b v, c) as it takes it, mask (1, t).

    UserError for a network that has no such fusion; BPMT, BPMTAction and TLCA have.
    """
    fuse = getattr(getattr(network, "fuse", None), "attention", None)
    if not isinstance(fuse, GroupedAttention):
        raise UserError(f"{type(network).__name__} has no attention between parts or frames to show; "
                        "BPMT, BPMTAction and TLCA have")  # fmt: skip
    if len(pose) != 1 or not mask.all():
        raise ValueError(f"one clip without padding is needed, got {tuple(pose.shape)}")
    network.eval()
    with recorded(fuse) as weights:
        network(pose, mask)
    (weight,) = weights  # (p or 1, m, w, s)
    windows = _windows(network, pose, mask)
    bodies, parts, w = getattr(network, "bodies", 1), weight.shape[0], windows.mask.shape[1]
    of_frame = weight.unflatten(-1, (-1, w))  # (p, m, w, asked, w)
    frames = weight.new_zeros(bodies, mask.shape[1], mask.shape[1])
    between = weight.new_zeros(bodies, mask.shape[1], parts, parts)
    others = [[q for q in range(parts) if q != p] for p in range(parts)]  # in the order of a part's pairs
    start = [0] * bodies
    for i, (owner, real) in enumerate(zip(windows.owner.tolist(), windows.mask.sum(1).tolist(), strict=True)):
        here = slice(start[owner], start[owner] + real)
        frames[owner, here, here] = of_frame[:, i, :real].sum(2).mean(0)[:, :real]
        for p in range(parts if parts > 1 else 0):
            between[owner, here, p, others[p]] = of_frame[p, i, :real].sum(2)
        start[owner] += real
    return Attention(frames.float().cpu().numpy(), between.float().cpu().numpy() if parts > 1 else None)


def _windows(network: nn.Module, pose: Tensor, mask: Tensor) -> Windows:
    """The pieces in which the network reads the clip, a body after the other."""
    own = getattr(network.t1, "windows", None)
    if own is not None:  # TLCA's
        return own(pose, mask)
    return cut_windows(*fold_bodies(pose, mask, getattr(network, "bodies", 1)), network.max_frames)
