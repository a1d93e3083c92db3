"""The environment torchrun sets in, this process's place among its peers and what they exchange out.

One process needs no process group. Several, on one machine or more, use gloo on CPUs and nccl on GPUs; the device is
chosen by the local rank, everything else by the global one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bpmt_ext.engine.failures import explanation
from bpmt_ext.errors import UserError

PATIENCE = 10.0  # minutes that a process waits for its peers before it counts them as lost
_LAST = 0.25  # seconds that the threads of a group have, at its end, to let go of what they hold


@dataclass(frozen=True)
class World:
    """This process's rank among `size` processes, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def gather_rows(self, x: Tensor) -> Tensor:
        """(n, ...) of this process -> (size n, ...) of all, in order of rank; gradients flow into the own rows.

        Every process must hold equally many rows. DistributedDataParallel averages gradients over processes, so a loss
        over gathered rows is to be multiplied by the world size.
        """
        if self.size == 1:
            return x
        own = x.detach().contiguous()
        rows = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(rows, own)
        rows[self.rank] = x
        return torch.cat(rows)

    def gather_objects(self, value: Any) -> list[Any]:
        """One picklable value per process, in order of rank, on every process."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, value)
        return out

    def everywhere(self, x: Tensor) -> Tensor:
        """x bool -> True where it is True on every process."""
        if self.size == 1:
            return x
        x = x.to(torch.int32)
        dist.all_reduce(x, dist.ReduceOp.MIN)
        return x.bool()

    def from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite these tensors, in place, with those of the main process."""
        if self.size > 1:
            for x in tensors:
                dist.broadcast(x, 0)

    def mean(self, x: Tensor) -> Tensor:
        """Mean of a tensor over processes."""
        if self.size == 1:
            return x
        x = x.clone()
        dist.all_reduce(x)
        return x / self.size


@contextmanager
def world(patience: float = PATIENCE) -> Iterator[World]:
    """Join the process group if torchrun started several processes, leave it at the end.

    What stops a run from outside, a lost or hanging peer among it (one that answers nothing for `patience` minutes), is
    raised as the UserError that says so.
    """
    try:
        rank, size, local = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    except ValueError as error:
        named = "RANK, WORLD_SIZE and LOCAL_RANK"
        raise UserError(f"{named} must be whole numbers ({error}); start with torchrun") from error
    gpu = torch.cuda.is_available()
    if gpu and local >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local} has no GPU: this machine shows {torch.cuda.device_count()}; "
            "give torchrun --nproc-per-node at most that many"
        )
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    if size == 1:
        with _explained(0, 1):
            yield World(0, 1, device)
        return
    try:
        dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(minutes=patience))
    except (ValueError, RuntimeError) as error:  # RuntimeError: what torch raises for the network's own faults
        raise UserError(f"{size} processes cannot meet ({str(error).splitlines()[0]}); start with torchrun") from error
    try:
        with _explained(rank, size):
            yield World(rank, size, device)
    finally:
        # A thread of gloo lets go of the last tensor with the interpreter's lock, which the end of the group would wait
        # for with that lock held, for ever: the thread goes first.
        time.sleep(_LAST)
        dist.destroy_process_group()


@contextmanager
def _explained(rank: int, size: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, MemoryError) as error:
        told = explanation(error, rank, size)
        if told is None:
            raise
        raise UserError(told) from error
