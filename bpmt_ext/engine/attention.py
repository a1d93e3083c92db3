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
from bpmt_ext.nets.grouped import BodyLayer, GroupedAttention, grouped_linear
from bpmt_ext.nets.layers import Windows, cut_windows


@dataclass(frozen=True)
class Attention:
    """Shares of the last fusion's attention, mean over its heads; rows that add up to 1.

    frames (b, t, t): how much a frame asks each other one, inside the windows that the network reads (0 outside).
    parts (b, t, p, p): how much a part asks each other one in a frame, about all frames; 0 on the diagonal, but with
    a T2 over the whole body, where a part also asks itself. None for a network that takes the body as one part.
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
    layers = _layers(network)
    if len(pose) != 1 or not mask.all():
        raise ValueError(f"one clip without padding is needed, got {tuple(pose.shape)}")
    network.eval()
    with recorded(*layers) as weights:
        network(pose, mask)
    windows, patch = _windows(network, pose, mask), getattr(network.t1, "patch", 1)
    if len(layers) == 2:
        between, over = weights  # (1, m w, p, p), (p, m, w, w)
        m, w = over.shape[1:3]
        over, between = over.mean(0), between[0].unflatten(0, (m, w))
    else:
        (weight,) = weights  # (p or 1, m, w, s)
        parts, m, w = weight.shape[:3]
        of_frame = weight.unflatten(-1, (-1, w))  # (p, m, w, asked, w)
        over = of_frame.sum(3).mean(0)
        others = torch.tensor([[q for q in range(parts) if q != p] for p in range(parts)])  # in the order of its pairs
        between = weight.new_zeros(m, w, parts, parts)
        if parts > 1:
            said = of_frame.sum(4).permute(1, 2, 0, 3)  # (m, w, p, asked)
            between = between.scatter(3, others.expand(m, w, -1, -1), said)
    bodies, parts = getattr(network, "bodies", 1), between.shape[-1]
    # a token's attention is that of each of its frames; what it asks of another token is shared by that one's frames
    over = over.repeat_interleave(patch, 1).repeat_interleave(patch, 2) / patch
    between = between.repeat_interleave(patch, 1)
    frames = over.new_zeros(bodies, mask.shape[1], mask.shape[1])
    shares = over.new_zeros(bodies, mask.shape[1], parts, parts)
    start = [0] * bodies
    for i, (owner, real) in enumerate(zip(windows.owner.tolist(), windows.mask.sum(1).tolist(), strict=True)):
        here = slice(start[owner], start[owner] + real)
        row = over[i, :real, :real]
        frames[owner, here, here] = row / row.sum(-1, keepdim=True)  # 1 already, but for a last token that is not full
        shares[owner, here] = between[i, :real]
        start[owner] += real
    return Attention(frames.float().cpu().numpy(), shares.float().cpu().numpy() if parts > 1 else None)


def _layers(network: nn.Module) -> list[GroupedAttention]:
    """The attention layers to look at: the last fusion's, or, of a T2 over the body, between parts and over time."""
    fuse = getattr(getattr(network, "fuse", None), "attention", None)
    if isinstance(fuse, GroupedAttention):
        return [fuse]
    last = getattr(getattr(getattr(network, "t2", None), "encoder", None), "layers", [None])[-1]
    if isinstance(last, BodyLayer):
        return [last.between, last.attention]
    raise UserError(f"{type(network).__name__} has no attention between parts or frames to show; "
                    "BPMT, BPMTAction and TLCA have")  # fmt: skip


def _windows(network: nn.Module, pose: Tensor, mask: Tensor) -> Windows:
    """The pieces in which the network reads the clip, a body after the other."""
    own = getattr(network.t1, "windows", None)
    if own is not None:  # TLCA's
        return own(pose, mask)
    return cut_windows(*fold_bodies(pose, mask, getattr(network, "bodies", 1)), network.max_frames)
