"""Nothing in; whether the code runs in order to become a graph for another program out.

A graph has no branches that depend on its input and no loops over it. Where the networks and transforms save work by
one, they take the general way in a graph; the numbers are the same.
"""

from __future__ import annotations

import torch


def exporting() -> bool:
    """True inside torch.export, which `bpmt export` works with; False in training, tests and under torch.compile."""
    return bool(getattr(torch.compiler, "is_exporting", bool)())  # torch has it since 2.7
