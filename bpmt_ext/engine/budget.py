"""Settings and a budget in, the options that stretch a training to it out: iterations, and the schedule with them.

A budget is minutes or iterations of one training, all stages together. Minutes become iterations by a speed that is
measured once and stored, so that every fold, every seed and every rerun trains equally long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from bpmt_ext.config import Settings
from bpmt_ext.config_checks import no_rise
from bpmt_ext.errors import UserError

# Arguments of torch's schedulers that count iterations; those that multiply once an iteration are taken to a power.
_LENGTHS = ("total_steps", "step_size", "T_max", "T_0", "total_iters", "steps_per_epoch", "step_size_up",
            "step_size_down", "cycle")  # fmt: skip
_DECAYS = {"ExponentialLR": ("gamma",), "CyclicLR": ("gamma",)}


@dataclass(frozen=True)
class Stage:
    """One stage of a training: its name ("" for the last), its own total_iter, and the seconds of one iteration."""

    name: str
    iterations: int
    seconds: float = 1.0


def schedule_options(settings: Settings, iterations: int, prefix: str = "") -> list[str]:
    """The `--opts` that make this training `iterations` long: total_iter, and every length in its schedule by the
    same factor (milestones, total_steps, T_max, ...). prefix: `t1.` for a stage's options."""
    factor = iterations / settings.trainer_cfg.total_iter
    changed: dict[str, Any] = {"trainer_cfg.total_iter": iterations}
    schedule = settings.scheduler_cfg
    for key, value in schedule.free.items():
        where = f"scheduler_cfg.{key}"
        if key in _LENGTHS and isinstance(value, int) and not isinstance(value, bool) and value:
            changed[where] = max(1, ceil(value * factor - 1e-9))
        elif key == "milestones" and isinstance(value, list):
            changed[where] = [max(1, round(one * factor)) for one in value]
        elif key in _DECAYS.get(schedule.scheduler, ()):
            changed[where] = value ** (1 / factor)
    steps = "scheduler_cfg.total_steps"
    if no_rise({"scheduler": schedule.scheduler, **schedule.free}, changed.get(steps)):
        changed[steps] += 1
    return [f"{prefix}{key}={value!r}" for key, value in changed.items()]


def allot(total: float, stages: Sequence[Stage], shares: Mapping[str, float]) -> dict[str, int]:
    """Iterations of each stage, at least 1, that together cost `total` (seconds; iterations where a stage's seconds
    are 1). Stages named in `shares` get that share of it, the others divide the rest as their own lengths cost."""
    named = {stage.name: shares[stage.name] for stage in stages if shares.get(stage.name) is not None}
    rest = 1 - sum(named.values())
    if rest < 0 or (rest <= 0 and len(named) < len(stages)):
        raise UserError(f"--split: the shares {', '.join(f'{k}={v:g}' for k, v in named.items())} leave nothing for "
                        "the other stages; make their sum less than 1")
    costs = {stage.name: stage.iterations * stage.seconds for stage in stages if stage.name not in named}
    parts = named | {name: rest * cost / sum(costs.values()) for name, cost in costs.items()}
    return {stage.name: max(1, int(total * parts[stage.name] / stage.seconds + 0.5)) for stage in stages}
