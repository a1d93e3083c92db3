"""Nothing in; whether the code runs in order to become a graph for another program out, and what such a graph needs.

A graph has no branches that depend on its input and no loops over it. Where the networks and transforms save work by
one, they take the general way in a graph; the numbers are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor


def exporting() -> bool:
    """True inside torch.export, which `bpmt export` works with; False in training, tests and under torch.compile."""
    return bool(getattr(torch.compiler, "is_exporting", bool)())  # torch has it since 2.7


def arccos(x: Tensor) -> Tensor:
    """torch.acos of float64. In a graph by the half angle's tangent in float32: onnxruntime has no other, and this
    one keeps its seven digits near 0 and pi, where an arc cosine of float32 has four."""
    if not exporting():
        return torch.acos(x)
    return 2 * torch.atan(((1 - x) / (1 + x)).sqrt().float()).to(x.dtype)


def stable_order(x: Tensor) -> Tensor:
    """What sorts the last axis, the first of equal numbers first. In a graph by ONNX's TopK, which does so as well."""
    return x.topk(x.shape[-1], largest=False).indices if exporting() else x.argsort(dim=-1, stable=True)
