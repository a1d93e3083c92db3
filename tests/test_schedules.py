"""WarmupCosineLR: published schedules iteration by iteration, per batch and per epoch, against torch and resumed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts

from bpmt_ext.engine.schedules import WarmupCosineLR


def optimiser(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=1.0)


def rates(schedule: Any, steps: int) -> list[float]:
    """The last group's learning rate of each step."""
    out = []
    for _ in range(steps):
        out.append(schedule.optimizer.param_groups[-1]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return out


def test_warm_up_and_half_a_cosine_to_zero() -> None:
    found = rates(WarmupCosineLR(optimiser(5.0, 2.0), 20, warmup=0.2), 25)
    assert found[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert found[4:20] == pytest.approx([1 + math.cos(math.pi * k / 16) for k in range(16)])
    assert found[20:] == [found[19]] * 5


def test_a_step_an_epoch_holds_the_rate_within_it() -> None:
    per_epoch = rates(WarmupCosineLR(optimiser(1.0), 10, warmup=0.2), 10)
    held = rates(WarmupCosineLR(optimiser(1.0), 39, warmup=0.2, epoch_iterations=4), 39)  # the last epoch is short
    assert held == pytest.approx([per_epoch[k // 4] for k in range(39)])


@pytest.mark.parametrize("eta_min", [0.0, 0.1])
def test_without_warm_up_it_is_torchs(eta_min: float) -> None:
    ours = rates(WarmupCosineLR(optimiser(1.0), 12, warmup=0.0, eta_min=eta_min), 12)
    assert ours == pytest.approx(rates(CosineAnnealingLR(optimiser(1.0), 12, eta_min=eta_min), 12))
    again = rates(WarmupCosineLR(optimiser(1.0), 12, warmup=0.0, cycle=5, eta_min=eta_min), 12)
    assert again == pytest.approx(rates(CosineAnnealingWarmRestarts(optimiser(1.0), 5, eta_min=eta_min), 12))
    slow = rates(WarmupCosineLR(optimiser(1.0), 24, warmup=0.0, cycle=10, epoch_iterations=2, eta_min=eta_min), 24)
    assert slow == pytest.approx([again[k // 2] for k in range(24)])


def test_restarts_follow_the_warm_up() -> None:
    found = rates(WarmupCosineLR(optimiser(1.0), 12, warmup=0.25, cycle=3), 12)
    assert found == pytest.approx([0.25, 0.5, 0.75, *[1.0, 0.75, 0.25] * 3])


def test_a_training_shorter_than_an_epoch_keeps_its_rate() -> None:
    assert rates(WarmupCosineLR(optimiser(1.0), 5, warmup=0.05, epoch_iterations=30, cycle=2), 5) == [1.0] * 5


def test_it_resumes_from_its_state() -> None:
    whole = rates(WarmupCosineLR(optimiser(1.0), 20, warmup=0.2, epoch_iterations=3), 20)
    first = WarmupCosineLR(optimiser(1.0), 20, warmup=0.2, epoch_iterations=3)
    rates(first, 7)
    second = WarmupCosineLR(optimiser(1.0), 20, warmup=0.2, epoch_iterations=3)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert rates(second, 13) == pytest.approx(whole[7:])
    assert all(isinstance(value, (int, float, list)) for value in first.state_dict().values() if value is not None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"total_steps": 0}, "total_steps must be a whole number of at least 1, not 0"),
        ({"epoch_iterations": 2.5}, "epoch_iterations must be a whole number"),
        ({"cycle": -1}, "cycle must be a whole number of at least 0, not -1"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
        ({"eta_min": -1.0}, "eta_min at least 0"),
    ],
)
def test_wrong_numbers_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmupCosineLR(optimiser(1.0), **{"total_steps": 20, **wrong})
