"""A SequenceSet and a sampler's settings in, batches out: pose (n, t, v, c), mask (n, t), label (n,) and names.

Letters: n sequences, t frames, v joints, c channels. Batch i of a run is a pure function of (seed, i): there is no
state to save, and neither the worker that builds it nor the number of processes changes it. Sampler types, frame
selection and their keys are the host's (host_contract.md section 4); a batch draws all its frames at once.
"""

from __future__ import annotations

import difflib
import math
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bpmt_ext.data.sequences import SequenceSet
from bpmt_ext.data.transforms import Compose
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError

SAMPLE_TYPES = tuple(f"{kind}_{order}" for kind in ("fixed", "unfixed", "all")
                     for order in ("ordered", "unordered", "allordered"))


@dataclass
class Batch:
    """n sequences. Padded frames repeat the sequence's last real frame; mask is False there.

    pose (n, t, v, c) float32, mask (n, t) bool, label (n,) int64 into the set's label_set, types, views and names of
    the sequences, index (n,) int64 into the SequenceSet, key (n,) int64: `Draws(key)` for whoever needs randomness.
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

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return self._each(lambda x: x.pin_memory())


class Sampler(Protocol):
    """What a loader asks: which sequences make up the global batch of an iteration."""

    def at(self, iteration: int) -> np.ndarray: ...


def _count(value: Any, key: str, low: int = 1) -> int:
    """`value` as an integer of at least `low`, or a UserError that names the key."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{key} is {value!r}; give a whole number of at least {low}")
    return value


def _generator(seed: int, iteration: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed % 2**63, iteration]))


class TripletSampler:
    """P labels without repetition and K sequences of each: batch_size = [P, K].

    A label with fewer than K sequences gives them with repetition. batch_shuffle permutes the batch, which is otherwise
    ordered by label.
    """

    def __init__(self, sequences: SequenceSet, batch_size: Sequence[int], batch_shuffle: bool = False, seed: int = 0,
                 section: str = "trainer_cfg") -> None:
        key = f"{section}.sampler.batch_size"
        if isinstance(batch_size, (str, int)) or not isinstance(batch_size, Sequence) or len(batch_size) != 2:
            raise UserError(f"{key} is {batch_size!r}; TripletSampler takes [labels, sequences of each]: [8, 16]")
        self.labels, self.each = (_count(x, key) for x in batch_size)
        self.groups = [indices for indices in sequences.indices_by_label if len(indices)]
        if self.labels > len(self.groups):
            raise UserError(f"{key} asks for {self.labels} labels a batch, the training set has {len(self.groups)}; "
                            f"lower its first number to at most {len(self.groups)}")
        self.batch_size = self.labels * self.each
        self.batch_shuffle, self.seed = batch_shuffle, seed

    def at(self, iteration: int) -> np.ndarray:
        """(P * K,) int64 indices into the SequenceSet."""
        generator = _generator(self.seed, iteration)
        chosen = generator.choice(len(self.groups), self.labels, replace=False)
        drawn = [generator.choice(group, self.each, replace=len(group) < self.each)
                 for group in (self.groups[k] for k in chosen)]
        batch = np.concatenate(drawn)
        return generator.permutation(batch) if self.batch_shuffle else batch


class CommonSampler:
    """batch_size sequences of the whole set, without repetition."""

    def __init__(self, sequences: SequenceSet, batch_size: int, seed: int = 0, section: str = "trainer_cfg") -> None:
        key = f"{section}.sampler.batch_size"
        self.batch_size, self.seed, self.total = _count(batch_size, key), seed, len(sequences)
        if self.batch_size > self.total:
            raise UserError(f"{key} asks for {batch_size} sequences, the training set has {self.total}; "
                            f"lower it to at most {self.total}")

    def at(self, iteration: int) -> np.ndarray:
        """(batch_size,) int64 indices into the SequenceSet."""
        return _generator(self.seed, iteration).choice(self.total, self.batch_size, replace=False)


class InferenceSampler:
    """Every sequence once, in the order of the set; the last batch may be smaller. len() is the number of batches."""

    def __init__(self, sequences: SequenceSet, batch_size: int, section: str = "evaluator_cfg") -> None:
        self.batch_size, self.total = _count(batch_size, f"{section}.sampler.batch_size"), len(sequences)

    def __len__(self) -> int:
        return math.ceil(self.total / self.batch_size)

    def at(self, iteration: int) -> np.ndarray:
        """(batch_size or fewer,) int64 indices into the SequenceSet."""
        start = iteration * self.batch_size
        return np.arange(start, min(start + self.batch_size, self.total))


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
        self.low, self.high = _count(low, f"{where}.{names[0]}"), _count(high, f"{where}.{names[1]}")
        if self.low > self.high:
            raise UserError(f"{where}: frames_num_min {low} is above frames_num_max {high}; exchange them")
        self.skip = _count(frames_skip_num, f"{where}.frames_skip_num", 0)
        self.limit = None if frames_all_limit is None else _count(frames_all_limit, f"{where}.frames_all_limit")

    def select(self, lengths: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """lengths (n,) int64 -> frame numbers (n, t) int64 and mask (n, t); beyond its end a row repeats its last."""
        if self.kind == "all":
            count = lengths if self.limit is None else lengths.clamp(max=self.limit)
            index = torch.arange(int(count.max())).expand(len(lengths), -1)
        else:
            count = self.low + draws.split("count").integers(self.high - self.low + 1)
            index = (self._ordered if self.order == "ordered" else self._unordered)(lengths, count, draws)
        position = torch.arange(index.shape[1])
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


class _Batches(Dataset):
    """Item k is this rank's share of batch k. A UserError is returned, not raised: workers garble exceptions."""

    def __init__(self, sequences: SequenceSet, sampler: Sampler, frames: FrameSelection, transform: Compose | None, *,
                 seed: int, rank: int, world_size: int, by_index: bool) -> None:
        self.sequences, self.sampler, self.frames, self.transform = sequences, sampler, frames, transform
        self.seed, self.rank, self.world_size, self.by_index = seed, rank, world_size, by_index

    def __getitem__(self, iteration: int) -> Batch | UserError:
        try:
            return self.build(iteration)
        except UserError as error:
            return error

    def build(self, iteration: int) -> Batch:
        """Sample, read, select frames, transform."""
        whole = self.sampler.at(iteration)
        index = whole[self.rank::self.world_size]
        positions = torch.arange(self.rank, len(whole), self.world_size)
        # In a test a sequence's key depends on nothing but itself, so that the batch size changes no result.
        draws = Draws.at(self.seed, 0, index) if self.by_index else Draws.at(self.seed, iteration, positions)
        picked = [int(i) for i in index]
        arrays = [self.sequences.read(i) for i in picked]
        pose, mask = self._gather(index, arrays, draws.split("frames"))
        if self.transform is not None:
            pose = self.transform(pose, mask, draws.split("transform"))
            if not bool(mask.all()):  # noise and reversal treat padded frames as they like: repeat the last again
                last = torch.minimum(torch.arange(mask.shape[1]), mask.sum(1, keepdim=True) - 1)
                pose = pose[torch.arange(len(pose))[:, None], last]
        told = self.sequences
        types, views, names = (tuple(column[i] for i in picked) for column in (told.types, told.views, told.names))
        label, index_ = torch.from_numpy(told.labels[index]), torch.tensor(picked)
        return Batch(pose, mask, label, types, views, names, index_, draws.keys)

    def _gather(self, index: np.ndarray, arrays: list[np.ndarray], draws: Draws) -> tuple[Tensor, Tensor]:
        """The selected frames (n, t, v, c) and their mask (n, t)."""
        shape = arrays[0].shape[1:]
        for i, array in zip(index, arrays, strict=True):
            if array.shape[1:] != shape:
                first, other = (self.sequences.records[int(k)].paths[0] for k in (index[0], i))
                raise UserError(f"{first} has (joints, channels) {shape}, {other} has {array.shape[1:]}; "
                                "convert all sequences of a data set to one joint format")
        frames, mask = self.frames.select(torch.tensor([len(a) for a in arrays]), draws)
        pose = torch.empty(*frames.shape, *shape, dtype=torch.float32)
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
    """Iterates over batches; may be iterated again, with the same workers. len() is the number of batches."""

    def __init__(self, batches: _Batches, iterations: range, num_workers: int, pin_memory: bool) -> None:
        self.batches, self.iterations = batches, iterations
        self.loader: DataLoader[Any] = DataLoader(
            batches, batch_size=None, sampler=iterations, num_workers=num_workers, collate_fn=_whole,
            pin_memory=pin_memory, persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # else every pass would draw from torch's global one
            # A forked worker starts at once and shares what is cached; where forking is unsafe, the platform's own way.
            multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None)

    def __len__(self) -> int:
        return len(self.iterations)

    def __iter__(self) -> Iterator[Batch]:
        stream = iter(self.loader)
        for iteration in self.iterations:
            try:
                batch = next(stream)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader worker (pid"):
                    raise  # a defect inside a worker, with the worker's traceback
                raise UserError(f"a loader worker died while batch {iteration} was due ({_cause(stream, error)}), "
                                "mostly for lack of memory; lower data_cfg.num_workers, or set data_cfg.cache: false"
                                ) from error
            if isinstance(batch, UserError):
                raise batch
            yield batch


_SAMPLERS = {"TripletSampler": TripletSampler, "CommonSampler": CommonSampler}
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
                 pin_memory: bool = False) -> Loader:
    """Batches of iterations start .. stop - 1; this rank gets positions rank, rank + world_size, ... of each.

    UserError: unknown sampler, more labels or sequences asked than there are, a batch that the processes cannot share
    evenly, and while iterating whatever a file holds against it.
    """
    _check_ranks(rank, world_size)
    name, key = sampler_cfg.get("type", "TripletSampler"), "trainer_cfg.sampler"
    if name not in _SAMPLERS:
        near = difflib.get_close_matches(str(name), _SAMPLERS, 1) or [" or ".join(_SAMPLERS)]
        raise UserError(f"{key}.type {name!r} is no training sampler; did you mean {near[0]}?")
    if not len(sequences):
        raise UserError("the training set is empty; check TRAIN_SET of data_cfg.dataset_partition")
    extra = {"batch_shuffle": bool(sampler_cfg.get("batch_shuffle", False))} if name == "TripletSampler" else {}
    sampler = _SAMPLERS[name](sequences, sampler_cfg.get("batch_size"), seed=seed, **extra)
    if sampler.batch_size % world_size:
        raise UserError(f"{key}.batch_size {sampler_cfg['batch_size']} makes {sampler.batch_size} sequences, which "
                        f"{world_size} processes cannot share evenly; make it a multiple of {world_size}")
    batches = _Batches(sequences, sampler, _frames(sampler_cfg, "trainer_cfg"), transform,
                       seed=seed, rank=rank, world_size=world_size, by_index=False)
    return Loader(batches, range(start, stop), num_workers, pin_memory)


def inference_loader(sequences: SequenceSet, sampler_cfg: Mapping[str, Any], transform: Compose | None, *,
                     seed: int = 0, rank: int = 0, world_size: int = 1, num_workers: int = 0,
                     pin_memory: bool = False) -> Loader:
    """Every sequence exactly once over all ranks, in the order of the set; the batch size need not fit the processes.

    A sequence's frames and augmentation, where the settings make them random, depend on (seed, its index) alone.
    """
    _check_ranks(rank, world_size)
    name = sampler_cfg.get("type", "InferenceSampler")
    if name != "InferenceSampler":
        raise UserError(f"evaluator_cfg.sampler.type {name!r} does not visit every sequence once; use InferenceSampler")
    if not len(sequences):
        raise UserError("the set to evaluate is empty; check TEST_SET (or validation) of data_cfg.dataset_partition")
    sampler = InferenceSampler(sequences, sampler_cfg.get("batch_size"))
    last = sampler.total - (len(sampler) - 1) * sampler.batch_size
    shares = (sampler.batch_size > rank) * (len(sampler) - 1) + (last > rank)
    frames = _frames({"sample_type": "all_ordered", **sampler_cfg}, "evaluator_cfg")
    batches = _Batches(sequences, sampler, frames, transform,
                       seed=seed, rank=rank, world_size=world_size, by_index=True)
    return Loader(batches, range(shares), num_workers, pin_memory)
