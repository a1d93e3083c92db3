"""A run in, what it costs out: parameters, multiply-adds, sequences tested per second, seconds, memory."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bpmt_ext.data.batches import inference_loader
from bpmt_ext.data.sequences import SequenceSet
from bpmt_ext.engine.loop import Trainer, build_loader
from bpmt_ext.engine.parts import Run

FRAMES = 60  # of the sequence whose multiply-adds are counted


class Stopwatch:
    """Seconds since it was made: of processor time on a CPU (loader processes that have ended included), else of the
    clock; a busy neighbour then costs a training nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start, self.wall_start = self._now(), perf_counter()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return perf_counter()
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return process_time() + ended.ru_utime + ended.ru_stime

    @property
    def seconds(self) -> float:
        return self._now() - self.start

    @property
    def wall(self) -> float:
        return perf_counter() - self.wall_start


def machine(device: torch.device) -> dict[str, str | int]:
    """What times are measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": device.type, "name": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def peak_memory(device: torch.device) -> float:
    """Most MiB so far: of the GPU's memory, else of this process with all its libraries."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def parameters(run: Run) -> dict[str, int]:
    """Numbers in the network: all of them, and those that train."""
    weights = list(run.network.parameters())
    return {"parameters": sum(p.numel() for p in weights),
            "trainable": sum(p.numel() for p in weights if p.requires_grad)}


class _Looped(SequenceSet):
    """The first sequence of a set, repeated or cut to a number of frames."""

    def __init__(self, sequences: SequenceSet, frames: int) -> None:
        super().__init__(sequences.records[:1], reader=sequences.reader)
        self.frames = frames

    def read(self, index: int) -> np.ndarray:
        pose = super().read(index)
        return pose[np.arange(self.frames) % len(pose)]


@torch.no_grad()
def multiply_adds(run: Run, frames: int = FRAMES) -> int:
    """Multiply-adds of one test sequence of so many frames, as the test reads it: products of matrices, convolutions
    and attention, all that torch's counter knows, halved; sums, activations and normalisation are not counted."""
    sampler = run.settings.evaluator_cfg.sampler.model_dump() | {"batch_size": 1}
    network, device = run.network.to(run.world.device).eval(), run.world.device
    (batch,) = inference_loader(_Looped(run.splits.test, frames), sampler, run.test_transform)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused kernels hide their products from the counter
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            network(batch.pose.to(device), batch.mask.to(device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


@torch.no_grad()
def sequences_per_second(run: Run, least: float = 1.0, most: int = 16) -> float:
    """Test sequences embedded in a second, reading from disk left out: the first ones, in the test's own batches,
    again and again for `least` seconds, after one batch to warm up. On one CPU thread seconds are the process's own."""
    device, settings = run.world.device, run.settings
    now = process_time if device.type == "cpu" and torch.get_num_threads() == 1 else perf_counter
    network, sampler = run.network.to(device).eval(), settings.evaluator_cfg.sampler.model_dump()
    reader = replace(run.splits.test.reader, cache=True, arrays={}, lengths={})
    first = SequenceSet(run.splits.test.records[:most], reader=reader)
    loader = inference_loader(first, sampler, run.test_transform)

    def once(batches: int | None = None) -> None:
        for batch in islice(loader, batches):
            batch = batch.to(device)
            network(batch.pose, batch.mask)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for index in range(len(first)):
        first.read(index)  # into the cache
    once(1)
    rounds, start = 0, now()
    while now() - start < least:
        once()
        rounds += 1
    return rounds * len(first) / (now() - start)


def seconds_per_iteration(run: Run, *, warm: int = 4, count: int = 10, least: float = 2.0) -> float:
    """Median seconds (see Stopwatch) of one iteration of this training: at least `count` of them and `least` seconds
    long, after `warm` others. The run's total_iter must leave room for them; its weights change."""
    trainer = Trainer(run)
    device, times = run.world.device, []
    watch = Stopwatch(device)
    for done, batch in enumerate(islice(build_loader(run, trainer.iteration), 500)):
        trainer.step(batch.to(device, non_blocking=True))
        times.append(watch.seconds)
        if done + 1 >= warm + count and times[-1] - times[warm - 1] >= least:
            break
    return median(_steps(times[warm - 1 :]))


def _steps(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in zip(times, times[1:], strict=False)]
