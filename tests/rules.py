"""Weights and inputs of the test vectors of baselines.md section 8 and baselines_plus.md section 8."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def fill(net: Net, rule: str) -> Net:
    """The net in float64 and eval mode with the weights of the rule `base` or `strong`."""
    state = net.double().eval().state_dict()
    normed = {key.removesuffix("running_mean") for key in state if key.endswith("running_mean")}
    for j, key in enumerate(sorted(state)):
        x = state[key]
        s = torch.sin(0.37 * torch.arange(x.numel(), dtype=torch.float64) + 0.11 * j).view(x.shape)
        near_one = key.endswith("weight") and (key.removesuffix("weight") in normed if rule == "base" else x.ndim == 1)
        if key.endswith(".A"):
            continue
        if key.endswith("num_batches_tracked"):
            x.zero_()
        elif key.endswith("running_var"):
            x.copy_(1 + 0.1 * s.abs())
        elif key.endswith("running_mean"):
            x.copy_(0.02 * s)
        elif near_one or key.endswith("edge"):
            x.copy_(1 + 0.05 * s)
        else:
            x.copy_((0.05 if rule == "base" else 0.5) * s)
    return net


def wave(shape: tuple[int, ...], rule: str) -> Tensor:
    """x_i = sin(0.01 i) for base, sin(1.3 i) for strong rows; float64."""
    step = 0.01 if rule == "base" else 1.3
    return torch.sin(step * torch.arange(math.prod(shape), dtype=torch.float64)).view(shape)
