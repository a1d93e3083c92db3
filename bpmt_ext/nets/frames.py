"""Sequences of several lengths and their mask (n, t) in, what does not depend on the padding out.

Shapes: n sequences, t frames, v joints, c channels. A mask is True where a frame is real; real frames come first.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hide_padding(x: Tensor, mask: Tensor) -> Tensor:
    """x (n, c, t, v) with zeros where mask (n, t) is False: what a convolution sees beyond a sequence's end."""
    # where keeps the channels last in memory if they are; masked_fill does not, and a BatchNorm between two layouts
    # takes several times as long on a CPU
    return torch.where(mask[:, None, :, None], x, 0.0)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """x (n, c, t, v), mask (n, t) -> (n, c): the mean over joints and real frames."""
    frames = mask.sum(1).clamp(min=1)[:, None]
    return hide_padding(x, mask).mean(3).sum(2) / frames


def reverse_time(pose: Tensor, mask: Tensor) -> Tensor:
    """pose (n, t, v, c) with the real frames of every sequence in reverse; the padding stays where it is."""
    t = mask.shape[1]
    frame = torch.arange(t, device=pose.device).expand(pose.shape[0], t)
    turned = mask.sum(1, keepdim=True) - 1 - frame
    order = torch.where(turned >= 0, turned, frame)
    return pose.gather(1, order[:, :, None, None].expand_as(pose))
