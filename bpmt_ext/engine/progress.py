"""Figures of every step and validation in; their running means, and the best validation so far, out.

Both have a state that goes into the checkpoints: a resumed training logs and keeps what an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bpmt_ext.engine.distributed import World
from bpmt_ext.errors import UserError


class Tracker:
    """Running means of figures between two log lines. Its state is in the checkpoint: a resumed run logs the same."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {"count": 0, "sums": {}}
        self.count: int = state["count"]
        self.sums: dict[str, Tensor] = {k: torch.tensor(v, dtype=torch.float64) for k, v in state["sums"].items()}
        self.losses: list[Tensor] = []

    def add(self, figures: Mapping[str, Tensor]) -> None:
        self.count += 1
        self.losses.append(figures["loss"])
        for name, value in figures.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name].to(value.device) + value if name in self.sums else value

    def check(self, iteration: int, world: World) -> None:
        """Stop at the first loss that is not finite, on all processes. Called where the numbers are read anyway: no
        extra wait on a GPU."""
        if not self.losses:
            return
        finite = world.everywhere(torch.isfinite(torch.stack(self.losses))).tolist()
        if not all(finite):
            raise UserError(
                f"the loss is not finite at iteration {iteration - len(finite) + 1 + finite.index(False)}; "
                "lower optimizer_cfg.lr, or set trainer_cfg.clip_grad or trainer_cfg.precision: off"
            )
        self.losses.clear()

    def state(self, world: World) -> dict[str, Any]:
        """What a checkpoint holds: the sums as their mean over processes."""
        total = world.mean(torch.stack([value.to(world.device) for value in self.sums.values()])) if self.sums else ()
        return {"count": self.count, "sums": {k: float(v) for k, v in zip(self.sums, total, strict=True)}}

    def means(self, world: World) -> dict[str, float]:
        """The means since the last call, over processes too."""
        out = {name: value / self.count for name, value in self.state(world)["sums"].items()}
        self.count, self.sums = 0, {}
        return out


class Best:
    """The best validation so far: lowest loss in pretraining, highest top1 in recognition, highest mAP in other
    finetuning. The earlier one wins a tie."""

    def __init__(self, key: str, state: Mapping[str, Any] | None = None) -> None:
        self.key, self.sign = key, 1 if key == "loss" else -1
        self.figures: dict[str, float] = dict(state["figures"]) if state else {}
        self.iteration: int = state["iteration"] if state else 0

    def improved(self, figures: Mapping[str, float], iteration: int) -> bool:
        """Take the new figures if they are better; one that is not finite never is."""
        if not math.isfinite(figures[self.key]):
            return False
        if self.figures and self.sign * figures[self.key] >= self.sign * self.figures[self.key]:
            return False
        self.figures, self.iteration = dict(figures), iteration
        return True

    def show(self) -> dict[str, str]:
        """What the progress bar says of it."""
        names = ("loss",) if self.key == "loss" else ("Rank-1", "mAP", "top1")
        return {f"best {name}": f"{self.figures[name]:.4g}" for name in names if name in self.figures}

    def state(self) -> dict[str, Any]:
        return {"figures": self.figures, "iteration": self.iteration}
