"""A SequenceSet and a sampler's settings in, batches out: pose (n, t, v, c), mask (n, t), label (n,) and names.

Letters: n sequences, t frames, v joints, c channels. Batch i of a run is a pure function of (seed, i): there is no
state to save, and neither the worker that builds it nor the number of processes changes it. Sampler types, frame
selection and their keys are the host's (host_contract.md section 4); a batch draws all its frames at once.
"""

from __future__ import annotations

import difflib
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from bpmt_ext.data.samplers import (
    SAMPLERS,
    CommonSampler,
    InferenceSampler,
    LengthSampler,
    RandomTripletSampler,
    Sampler,
    TripletSampler,
    build_sampler,
    count,
)
from bpmt_ext.data.sequences import SequenceSet
from bpmt_ext.data.transforms import Compose
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError

__all__ = [
    "SAMPLERS", "Batch", "CommonSampler", "FrameSelection", "InferenceSampler", "Loader", "RandomTripletSampler",
    "TripletSampler", "inference_loader", "train_loader", "transformed",
]  # fmt: skip

PATIENCE = 600  # seconds that a batch may take its workers before they count as hanging
SAMPLE_TYPES = tuple(f"{kind}_{order}" for kind in ("fixed", "unfixed", "all")
                     for order in ("ordered", "unordered", "allordered"))


@dataclass
class Batch:
    """n sequences. Padded frames repeat the sequence's last real frame; mask is False there.

    pose (n, t, v, c) float32, or with the axes that a transform gives it behind n and t, mask (n, t) bool, label (n,)
    int64 into the set's label_set, types, views and names of the sequences, index (n,) int64 into the SequenceSet, key
    (n,) int64: `Draws(key)` for whoever needs randomness.
    """

    pose: Tensor
    mask: Tensor
    label: Tensor
    types: tuple[str, ...]
    views: tuple[str, ...]
    names: tuple[str, ...]
    index: Tensor
    key: Tensor

    def __len__(self) -> int:
        return len(self.pose)

    def _each(self, change: Any) -> Batch:
        return replace(self, **{k: change(x) for k, x in vars(self).items() if isinstance(x, Tensor)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        return self._each(lambda x: x.to(device, non_blocking=non_blocking))

    def shares(self, count: int) -> list[Batch]:
        """The batch in `count` equal parts, in its order."""
        size = len(self) // count
        rows = [slice(k * size, (k + 1) * size) for k in range(count)]
        return [type(self)(**{name: x[r] for name, x in vars(self).items()}) for r in rows]

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return self._each(lambda x: x.pin_memory())


class FrameSelection:
    """Which frames of each sequence enter a batch: sample_type and its numbers, with the host's names.

    fixed: frames_num_fixed of them; unfixed: a uniform number in [frames_num_min, frames_num_max] per sequence; all:
    all in their order, or the first frames_all_limit. ordered: out of a window of that many + frames_skip_num frames at
    a uniform start, a sorted subset; a sequence shorter than the window is first repeated as often as it takes.
    unordered: frames in random order, with repetition only if the sequence is shorter than their number; allordered:
    the same frames, sorted.
    """

    def __init__(self, sample_type: str = "fixed_unordered", frames_num_fixed: int = 30, frames_num_min: int = 25,
                 frames_num_max: int = 50, frames_skip_num: int = 0, frames_all_limit: int | None = None,
                 section: str = "trainer_cfg") -> None:
        where = f"{section}.sampler"
        if sample_type not in SAMPLE_TYPES:
            near = difflib.get_close_matches(str(sample_type), SAMPLE_TYPES, 1) or [", ".join(SAMPLE_TYPES)]
            raise UserError(f"{where}.sample_type {sample_type!r} is unknown; did you mean {near[0]}?")
        self.kind, self.order = sample_type.split("_")
        low, high = (frames_num_fixed,) * 2 if self.kind == "fixed" else (frames_num_min, frames_num_max)
        names = ("frames_num_fixed",) * 2 if self.kind == "fixed" else ("frames_num_min", "frames_num_max")
        self.low, self.high = count(low, f"{where}.{names[0]}"), count(high, f"{where}.{names[1]}")
        if self.low > self.high:
            raise UserError(f"{where}: frames_num_min {low} is above frames_num_max {high}; exchange them")
        self.skip = count(frames_skip_num, f"{where}.frames_skip_num", 0)
        self.limit = None if frames_all_limit is None else count(frames_all_limit, f"{where}.frames_all_limit")

    def _count(self, draws: Draws) -> Tensor:
        """(n,) how many frames of each sequence, where its length does not say it."""
        return self.low + draws.split("count").integers(self.high - self.low + 1)

    def select(self, lengths: Tensor, draws: Draws, company: Draws | None = None) -> tuple[Tensor, Tensor]:
        """lengths (n,) int64 -> frame numbers (n, t) int64 and mask (n, t); beyond its end a row repeats its last.

        company: draws of a larger batch that these sequences are a share of. t is then that batch's: padding, which the
        statistics of some networks see in training, is the same on however many processes. (`all`: the share's own.)
        """
        width = 0
        if self.kind == "all":
            count = lengths if self.limit is None else lengths.clamp(max=self.limit)
            index = torch.arange(int(count.max())).expand(len(lengths), -1)
        else:
            count = self._count(draws)
            index = (self._ordered if self.order == "ordered" else self._unordered)(lengths, count, draws)
            width = 0 if company is None else int(self._count(company).max())
        position = torch.arange(max(index.shape[1], width))
        last = (count - 1)[:, None]
        return index.gather(1, torch.minimum(position, last)), position <= last

    @staticmethod
    def _subset(total: Tensor, size: int, draws: Draws) -> Tensor:
        """(n, size): numbers below total (n,) in random order, none twice; beyond the total-th they mean nothing."""
        width = int(total.max())
        words = draws.split("subset").bits(width).masked_fill(torch.arange(width) >= total[:, None], -(2**63))
        chosen = words.topk(min(size, width)).indices
        return torch.nn.functional.pad(chosen, (0, size - chosen.shape[1]))

    @staticmethod
    def _sorted(index: Tensor, count: Tensor) -> Tensor:
        """(n, t) -> each row's first `count` numbers in ascending order."""
        beyond = torch.arange(index.shape[1]) >= count[:, None]
        return index.masked_fill(beyond, 2**62).sort(1).values

    def _unordered(self, lengths: Tensor, count: Tensor, draws: Draws) -> Tensor:
        size = int(count.max())
        repeated = draws.split("repeated").integers(lengths, size)
        index = torch.where((lengths < count)[:, None], repeated, self._subset(lengths, size, draws))
        return self._sorted(index, count) if self.order == "allordered" else index

    def _ordered(self, lengths: Tensor, count: Tensor, draws: Draws) -> Tensor:
        window, size = count + self.skip, int(count.max())
        tiled = lengths * -(-window // lengths)
        start = draws.split("start").integers(tiled - window + 1)
        offset = torch.arange(size).expand(len(lengths), -1)
        if self.skip:
            offset = self._sorted(self._subset(window, size, draws), count)
        return (start[:, None] + offset) % lengths[:, None]


def transformed(batch: Batch, transform: Compose | None) -> Batch:
    """The batch as the network gets it: transformed where it lies, its padded frames repeating the last one again.

    The draws follow from the batch's keys: what comes out does not depend on where, or in whose company, this is done.
    """
    if transform is None:
        return batch
    pose, mask = transform.reframe(batch.pose, batch.mask, Draws(batch.key).split("transform"))
    if not bool(mask.all()):  # noise and reversal treat padded frames as they like
        time = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask, time, 0).cummax(1).values  # the last real frame so far: of each view, if there are two
        pose = pose[torch.arange(len(pose), device=mask.device)[:, None], last]
    return replace(batch, pose=pose, mask=mask)


def _shared(batch: Batch) -> Batch:
    """The batch in shared memory, through which it leaves a worker: put there behind our back, by a thread of torch's,
    it would be lost without a word where it does not fit."""
    try:
        return batch._each(lambda x: x.share_memory_())
    except RuntimeError as error:
        size = sum(x.nbytes for x in vars(batch).values() if isinstance(x, Tensor))
        raise UserError(f"a batch of {size >> 10} KiB does not fit into shared memory ({str(error).splitlines()[0]}); "
                        "give /dev/shm more room (docker run --shm-size), lower the sampler's batch_size, or set "
                        "data_cfg.num_workers: 0") from error  # fmt: skip


class _Batches(Dataset):
    """Item k is this rank's share of batch k. A UserError is returned, not raised: workers garble exceptions."""

    def __init__(self, sequences: SequenceSet, sampler: Sampler, frames: FrameSelection, transform: Compose | None, *,
                 seed: int, rank: int, world_size: int, by_index: bool) -> None:
        self.sequences, self.sampler, self.frames, self.transform = sequences, sampler, frames, transform
        self.seed, self.rank, self.world_size, self.by_index = seed, rank, world_size, by_index

    def __getitem__(self, iteration: int) -> Batch | UserError:
        try:
            batch = self.build(iteration)
            return batch if get_worker_info() is None else _shared(batch)
        except UserError as error:
            return error

    def build(self, iteration: int) -> Batch:
        """Sample, read, select frames, transform."""
        whole = self.sampler.at(iteration)
        index = whole[self.rank::self.world_size]
        positions = torch.arange(self.rank, len(whole), self.world_size)
        # In a test a sequence's key depends on nothing but itself, so that the batch size changes no result.
        draws = Draws.at(self.seed, 0, index) if self.by_index else Draws.at(self.seed, iteration, positions)
        company = None
        if self.world_size > 1 and not self.by_index:
            company = Draws.at(self.seed, iteration, range(len(whole))).split("frames")
        picked = [int(i) for i in index]
        arrays = [self.sequences.read(i) for i in picked]
        pose, mask = self._gather(index, arrays, draws.split("frames"), company)
        told = self.sequences
        types, views, names = (tuple(column[i] for i in picked) for column in (told.types, told.views, told.names))
        label, index_ = torch.from_numpy(told.labels[index]), torch.tensor(picked)
        return transformed(Batch(pose, mask, label, types, views, names, index_, draws.keys), self.transform)

    def _gather(self, index: np.ndarray, arrays: list[np.ndarray], draws: Draws, company: Draws | None
                ) -> tuple[Tensor, Tensor]:
        """The selected frames (n, t, v, c), of silhouettes (n, t, h, w) uint8, and their mask (n, t)."""
        shape = arrays[0].shape[1:]
        for i, array in zip(index, arrays, strict=True):
            if array.shape[1:] != shape:
                first, other = (self.sequences.records[int(k)].paths[0] for k in (index[0], i))
                what = "(rows, columns)" if array.dtype == np.uint8 else "(joints, channels)"
                raise UserError(f"{first} has {what} {shape}, {other} has {array.shape[1:]}; "
                                "convert all sequences of a data set in one way")
        frames, mask = self.frames.select(torch.tensor([len(a) for a in arrays]), draws, company)
        pose = torch.from_numpy(np.empty((*frames.shape, *shape), arrays[0].dtype))
        for array, rows, out in zip(arrays, frames.numpy(), pose.numpy(), strict=True):
            np.take(array, rows, axis=0, out=out, mode="clip")  # clip writes straight into `out`
        return pose, mask


def _whole(batch: Any) -> Any:
    """Collate function: an item is a batch already."""
    return batch


def _cause(stream: Any, error: RuntimeError) -> str:
    """How the workers that died came to their end; torch's own words where their exit codes are out of reach."""
    codes = sorted({w.exitcode for w in getattr(stream, "_workers", ()) if w.exitcode})
    return ", ".join(f"killed by signal {signal.Signals(-k).name}" if k < 0 else f"exit status {k}" for k in codes) \
        or str(error).strip()


class Loader:
    """Iterates over batches; may be iterated again, with the same workers. len() is the number of batches.

    device, transform: where given, batches are brought there and transformed there, all sequences at once.
    """

    def __init__(self, batches: _Batches, iterations: Sequence[int], num_workers: int, pin_memory: bool,
                 device: torch.device | None = None, transform: Compose | None = None) -> None:
        self.batches, self.iterations, self.device, self.transform = batches, iterations, device, transform
        self.loader: DataLoader[Any] = DataLoader(
            batches, batch_size=None, sampler=iterations, num_workers=num_workers, collate_fn=_whole,
            pin_memory=pin_memory, persistent_workers=num_workers > 0, timeout=PATIENCE if num_workers else 0,
            generator=torch.Generator(),  # else every pass would draw from torch's global one
            # A forked worker starts at once and shares what is cached; where forking is unsafe, the platform's own way.
            multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None)

    def __len__(self) -> int:
        return len(self.iterations)

    def __iter__(self) -> Iterator[Batch]:
        try:
            stream = iter(self.loader)
        except OSError as error:  # as a semaphore for which /dev/shm has no room
            raise UserError(f"the loader workers cannot be started ({error.strerror or error}); give /dev/shm more "
                            "room (docker run --shm-size), or set data_cfg.num_workers: 0") from error  # fmt: skip
        for iteration in self.iterations:
            try:
                batch = next(stream)
            except RuntimeError as error:
                if str(error).startswith("DataLoader timed out"):
                    raise UserError(f"the loader workers gave no batch {iteration} within {PATIENCE} seconds; look "
                                    "after the disk of data_cfg.dataset_root, then start again") from error
                if not str(error).startswith("DataLoader worker (pid"):
                    raise  # a defect inside a worker, with the worker's traceback
                raise UserError(f"a loader worker died while batch {iteration} was due ({_cause(stream, error)}), "
                                "mostly for lack of memory; lower data_cfg.num_workers, or set data_cfg.cache: false"
                                ) from error
            if isinstance(batch, UserError):
                raise batch
            if self.device is not None:
                batch = transformed(batch.to(self.device, non_blocking=True), self.transform)
            yield batch


_FRAME_KEYS = ("sample_type", "frames_num_fixed", "frames_num_min", "frames_num_max", "frames_skip_num",
               "frames_all_limit")


def _frames(cfg: Mapping[str, Any], section: str) -> FrameSelection:
    """The frame rule of a sampler's settings; keys left out or None take the rule's defaults."""
    given = {key: cfg[key] for key in _FRAME_KEYS if cfg.get(key) is not None}
    return FrameSelection(**given, section=section)


def _check_ranks(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not among {world_size} processes")


def train_loader(sequences: SequenceSet, sampler_cfg: Mapping[str, Any], transform: Compose | None, *, seed: int,
                 start: int, stop: int, rank: int = 0, world_size: int = 1, num_workers: int = 0,
                 pin_memory: bool = False, device: torch.device | None = None) -> Loader:
    """Batches of iterations start .. stop - 1; this rank gets positions rank, rank + world_size, ... of each.

    device: transform there, in this process, instead of in the workers; the numbers are the same.
    UserError: unknown sampler, more labels or sequences asked than there are, a batch that the processes cannot share
    evenly, and while iterating whatever a file holds against it.
    """
    _check_ranks(rank, world_size)
    if not len(sequences):
        raise UserError("the training set is empty; check TRAIN_SET of data_cfg.dataset_partition")
    sampler = build_sampler(sequences, sampler_cfg, seed)
    if sampler.batch_size % world_size:
        raise UserError(f"trainer_cfg.sampler.batch_size {sampler_cfg['batch_size']} makes {sampler.batch_size} "
                        f"sequences, which {world_size} processes cannot share evenly; make it a multiple of "
                        f"{world_size}")
    here, there = (transform, None) if device is None else (None, transform)
    batches = _Batches(sequences, sampler, _frames(sampler_cfg, "trainer_cfg"), here,
                       seed=seed, rank=rank, world_size=world_size, by_index=False)
    return Loader(batches, range(start, stop), num_workers, pin_memory, device, there)


def inference_loader(sequences: SequenceSet, sampler_cfg: Mapping[str, Any], transform: Compose | None, *,
                     seed: int = 0, rank: int = 0, world_size: int = 1, num_workers: int = 0,
                     pin_memory: bool = False, device: torch.device | None = None, by_length: bool = False,
                     whole: bool = False) -> Loader:
    """Every sequence exactly once over all ranks, in the order of the set; the batch size need not fit the processes.

    A sequence's frames and augmentation, where the settings make them random, depend on (seed, its index) alone.
    whole: each rank gets whole batches, in turns, in place of its share of each. device: as in `train_loader`.
    by_length: sequences of like length share a batch, in another order (LengthSampler), where whole sequences are read
    and their lengths are known or stay remembered.
    """
    _check_ranks(rank, world_size)
    name = sampler_cfg.get("type", "InferenceSampler")
    if name != "InferenceSampler":
        raise UserError(f"evaluator_cfg.sampler.type {name!r} does not visit every sequence once; use InferenceSampler")
    if not len(sequences):
        raise UserError("the set to evaluate is empty; check TEST_SET (or validation) of data_cfg.dataset_partition")
    frames = _frames({"sample_type": "all_ordered", **sampler_cfg}, "evaluator_cfg")
    size = sampler_cfg.get("batch_size")
    if by_length and frames.kind == "all" and sequences.knows_lengths():
        lengths = sequences.lengths()
        sampler = LengthSampler(sequences, size, lengths if frames.limit is None else lengths.clip(max=frames.limit))
    else:
        sampler = InferenceSampler(sequences, size)
    shares = [k for k in range(len(sampler)) if (k % world_size == rank if whole else len(sampler.at(k)) > rank)]
    if whole:
        rank, world_size = 0, 1
    here, there = (transform, None) if device is None else (None, transform)
    batches = _Batches(sequences, sampler, frames, here,
                       seed=seed, rank=rank, world_size=world_size, by_index=True)
    return Loader(batches, shares, num_workers, pin_memory, device, there)
