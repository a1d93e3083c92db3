"""An optimiser in, its learning rate at every iteration out: the schedules torch lacks, under a name for the configs.

Constant, cosine, one-cycle and restarting schedules are torch's own. Published recipes also warm up over a share of
the training and step once an epoch, while the engine steps every schedule once an iteration (tlca.md, section 4).
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupCosineLR(LRScheduler):
    """Linear warm-up, then half a cosine down to eta_min: the learning rate of each of `total_steps` iterations.

    warmup: share of the training over which the rate rises, in equal steps, to the optimiser's own; 0 leaves it out.
    epoch_iterations: iterations in an epoch; the rate then changes at the start of each epoch only. 1 changes it every
    iteration. cycle: iterations, an epoch at the least, after which the cosine starts anew from the full rate (not the
    warm-up); 0 never. eta_min: where the cosine ends. After total_steps the last rate stays.

    In epochs e = 0 ... E-1, the first W = round(warmup E) of them warm-up: (e + 1) / (W + 1) of the rate while e < W,
    afterwards (1 + cos(pi (e - W) / (E - W))) / 2 of its distance to eta_min. Raises ValueError for other numbers.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: float = 0.05,
        epoch_iterations: int = 1,
        cycle: int = 0,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        for name, value, least in (("total_steps", total_steps, 1), ("epoch_iterations", epoch_iterations, 1),
                                   ("cycle", cycle, 0)):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if not 0 <= warmup < 1 or not 0 <= eta_min < math.inf:
            raise ValueError(f"warmup must be in [0, 1) and eta_min at least 0, not {warmup!r} and {eta_min!r}")
        self.total_steps, self.epoch_iterations = total_steps, epoch_iterations
        self.warmup, self.cycle, self.eta_min = warmup, cycle, eta_min
        super().__init__(optimizer, last_epoch)

    def place(self, iteration: int) -> tuple[bool, float]:
        """(whether it warms up, how far along the ramp or the cosine it is, in [0, 1]) at an iteration."""
        epochs = math.ceil(self.total_steps / self.epoch_iterations)
        epoch = min(iteration // self.epoch_iterations, epochs - 1)
        rising = round(self.warmup * epochs)
        if epoch < rising:
            return True, (epoch + 1) / (rising + 1)
        length = max(1, round(self.cycle / self.epoch_iterations)) if self.cycle else max(1, epochs - rising)
        return False, ((epoch - rising) % length) / length

    def get_lr(self) -> list[float]:
        warms, share = self.place(self.last_epoch)
        if warms:
            return [base * share for base in self.base_lrs]
        fall = (1 + math.cos(math.pi * share)) / 2
        return [self.eta_min + (base - self.eta_min) * fall for base in self.base_lrs]
