"""An exception in; the sentence for what stopped a run from outside, and how to go on, out."""

from __future__ import annotations

import re

import torch
import torch.distributed as dist

from bpmt_ext.errors import DISK_FULL

_AGAIN = "then start again: a training with trainer_cfg.restore_hint: auto goes on from its last checkpoint"
_PEER = re.compile(r"\bgloo\b|NCCL|pair closure|Connection (closed|reset|refused)|Broken pipe|Timed out|TCPStore")


def explanation(error: BaseException, rank: int = 0, size: int = 1) -> str | None:
    """What to tell of an error in process `rank` of `size`: memory, a worker, a peer or a disk; None for any other."""
    told = (str(error).splitlines() or [""])[0].strip()[:240]
    if _out_of_memory(error):
        where = "the GPU" if isinstance(error, torch.OutOfMemoryError) else "this machine"
        return (
            f"{where} ran out of memory ({told.rstrip('.') or type(error).__name__}); in training raise "
            "trainer_cfg.accumulate or lower trainer_cfg.sampler.batch_size, in validation and test lower "
            f"evaluator_cfg.sampler.batch_size, {_AGAIN}"
        )
    if isinstance(error, RuntimeError) and told.startswith("DataLoader worker (pid"):
        return (
            f"a loader worker died ({told}), mostly for lack of memory; lower data_cfg.num_workers, or set "
            f"data_cfg.cache: false, {_AGAIN}"
        )
    if size > 1 and (isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and _PEER.search(told))):
        return (
            f"process {rank} of {size} lost another one, which stopped or hangs ({told.rstrip('.')}); see what that "
            f"one says, {_AGAIN}"
        )
    if isinstance(error, OSError) and error.filename is None and error.errno in DISK_FULL:
        return f"a file cannot be written ({error.strerror}); make room, {_AGAIN}"
    return None


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
