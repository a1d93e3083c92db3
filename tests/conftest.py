"""Made-up poses and small networks for all tests."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from torch import Tensor

torch.set_num_threads(1)  # before any fixture: sums over two threads differ in their last digit


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def walking(n: int, t: int, joints: int = 17, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth periodic motion (n, t, v, c), different in every sequence, confidence-like last channel in (0, 1)."""
    g = torch.Generator().manual_seed(seed)
    place = torch.randn(n, 1, joints, channels, generator=g)
    swing = 0.3 * torch.randn(n, 1, joints, channels, generator=g)
    phase = 6.28 * torch.rand(n, 1, joints, channels, generator=g)
    rate = 0.2 + 0.1 * torch.rand(n, 1, 1, 1, generator=g)
    time = torch.arange(t).view(1, t, 1, 1)
    pose = place + swing * torch.sin(rate * time + phase)
    pose[..., -1] = pose[..., -1].sigmoid()
    return pose
