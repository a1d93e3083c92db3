"""A SequenceSet and a sampler's settings in, for every iteration the indices (n,) of the sequences of its batch out.

Batch i is a pure function of (seed, i): there is no state to save. Names and keys are the host's (host_contract.md
section 4); `repeat` is ours.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from bpmt_ext.data.sequences import SequenceSet
from bpmt_ext.errors import UserError


class Sampler(Protocol):
    """What a loader asks: which sequences make up the global batch of an iteration."""

    def at(self, iteration: int) -> np.ndarray: ...


class TrainingSampler(Sampler, Protocol):
    """One whose batches all have the same size."""

    batch_size: int


def count(value: Any, key: str, low: int = 1) -> int:
    """`value` as an integer of at least `low`, or a UserError that names the key."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{key} is {value!r}; give a whole number of at least {low}")
    return value


def _single(value: Any, key: str) -> int:
    """A batch size given as a number, or as a list of that one number."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    return count(value, key)


def _generator(seed: int, iteration: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed % 2**63, iteration]))


def times_listed(
    sequences: SequenceSet, repeat: Mapping[str, int] | None, section: str = "trainer_cfg"
) -> np.ndarray:
    """(n,) how often each sequence is listed: `repeat` says it for the types that begin with its keys, 1 otherwise.

    Of several prefixes that fit the longest holds. UserError for a prefix no type begins with.
    """
    times = np.ones(len(sequences), dtype=np.int64)
    for prefix in sorted(repeat or {}, key=len):
        key = f"{section}.sampler.repeat.{prefix}"
        fits = np.array([kind.startswith(prefix) for kind in sequences.types], dtype=bool)
        if not fits.any():
            kinds = sorted(set(sequences.types))
            raise UserError(f"{key}: no training sequence has a type that begins so; types are {', '.join(kinds[:5])}"
                            f"{', ...' if len(kinds) > 5 else ''}")
        times[fits] = count((repeat or {})[prefix], key)
    return times


def _groups(sequences: SequenceSet, times: np.ndarray) -> list[np.ndarray]:
    """The sequences of every label that has any, each as often as it is listed."""
    return [np.repeat(indices, times[indices]) for indices in sequences.indices_by_label if len(indices)]


def _labels_and_each(generator: np.random.Generator, groups: Sequence[np.ndarray], labels: int, each: int
                     ) -> np.ndarray:
    """(labels * each,): that many labels without repetition, of each that many sequences, repeated only if short."""
    chosen = generator.choice(len(groups), labels, replace=False)
    drawn = [generator.choice(group, each, replace=len(group) < each) for group in (groups[k] for k in chosen)]
    return np.concatenate(drawn)


class TripletSampler:
    """P labels without repetition and K sequences of each: batch_size = [P, K].

    A label with fewer than K sequences gives them with repetition. batch_shuffle permutes the batch, which is otherwise
    ordered by label. repeat: {prefix of a type: how often its sequences are listed}.
    """

    def __init__(self, sequences: SequenceSet, batch_size: Sequence[int], batch_shuffle: bool = False, seed: int = 0,
                 repeat: Mapping[str, int] | None = None, section: str = "trainer_cfg") -> None:
        key = f"{section}.sampler.batch_size"
        if isinstance(batch_size, (str, int)) or not isinstance(batch_size, Sequence) or len(batch_size) != 2:
            raise UserError(f"{key} is {batch_size!r}; TripletSampler takes [labels, sequences of each]: [8, 16]")
        self.labels, self.each = (count(x, key) for x in batch_size)
        self.groups = _groups(sequences, times_listed(sequences, repeat, section))
        if self.labels > len(self.groups):
            raise UserError(f"{key} asks for {self.labels} labels a batch, the training set has {len(self.groups)}; "
                            f"lower its first number to at most {len(self.groups)}")
        self.batch_size = self.labels * self.each
        self.batch_shuffle, self.seed = batch_shuffle, seed

    def at(self, iteration: int) -> np.ndarray:
        """(P * K,) int64 indices into the SequenceSet."""
        generator = _generator(self.seed, iteration)
        batch = _labels_and_each(generator, self.groups, self.labels, self.each)
        return generator.permutation(batch) if self.batch_shuffle else batch


class RandomTripletSampler:
    """batch_size sequences as P labels with K sequences of each, P and K drawn anew for every batch.

    The pairs are P = 2, 3, ... and K the whole part of batch_size / P, with K at least 2, P at most P_max and K at most
    K_max, each pair as likely as any other. What P * K lacks of batch_size is filled up with other sequences of
    whichever label. P is never more than there are labels. repeat: as in TripletSampler.
    """

    def __init__(self, sequences: SequenceSet, batch_size: int, P_max: int | None = None, K_max: int | None = None,
                 batch_shuffle: bool = False, seed: int = 0, repeat: Mapping[str, int] | None = None,
                 section: str = "trainer_cfg") -> None:
        where = f"{section}.sampler"
        self.batch_size = _single(batch_size, f"{where}.batch_size")
        times = times_listed(sequences, repeat, section)
        self.listed, self.groups = np.repeat(np.arange(len(sequences)), times), _groups(sequences, times)
        most = min(self.batch_size // 2, len(self.groups))
        if P_max is not None:
            most = min(most, count(P_max, f"{where}.P_max"))
        highest = self.batch_size if K_max is None else count(K_max, f"{where}.K_max")
        pairs = [(labels, self.batch_size // labels) for labels in range(2, most + 1)]
        self.pairs = [(labels, each) for labels, each in pairs if each <= highest]
        if not self.pairs:
            raise UserError(f"{where}.batch_size {batch_size} cannot be made of 2 to {most} labels with 2 to {highest} "
                            "sequences of each; change it, P_max or K_max")
        self.batch_shuffle, self.seed = batch_shuffle, seed

    def at(self, iteration: int) -> np.ndarray:
        """(batch_size,) int64 indices into the SequenceSet."""
        generator = _generator(self.seed, iteration)
        labels, each = self.pairs[generator.integers(len(self.pairs))]
        batch = _labels_and_each(generator, self.groups, labels, each)
        lacking = self.batch_size - len(batch)
        if lacking:
            others = np.setdiff1d(self.listed, batch)
            others = others if len(others) >= lacking else self.listed
            batch = np.concatenate([batch, generator.choice(others, lacking, replace=len(others) < lacking)])
        return generator.permutation(batch) if self.batch_shuffle else batch


class CommonSampler:
    """batch_size sequences of the whole set, without repetition beyond what `repeat` lists several times."""

    def __init__(self, sequences: SequenceSet, batch_size: int, batch_shuffle: bool = False, seed: int = 0,
                 repeat: Mapping[str, int] | None = None, section: str = "trainer_cfg") -> None:
        key = f"{section}.sampler.batch_size"
        self.batch_size, self.seed = _single(batch_size, key), seed
        self.listed = np.repeat(np.arange(len(sequences)), times_listed(sequences, repeat, section))
        if self.batch_size > len(self.listed):
            raise UserError(f"{key} asks for {self.batch_size} sequences, the training set has {len(self.listed)}; "
                            f"lower it to at most {len(self.listed)}")
        self.batch_shuffle = batch_shuffle  # its order is random either way

    def at(self, iteration: int) -> np.ndarray:
        """(batch_size,) int64 indices into the SequenceSet."""
        return self.listed[_generator(self.seed, iteration).choice(len(self.listed), self.batch_size, replace=False)]


class InferenceSampler:
    """Every sequence once, in the order of the set; the last batch may be smaller. len() is the number of batches."""

    def __init__(self, sequences: SequenceSet, batch_size: int, section: str = "evaluator_cfg") -> None:
        self.batch_size, self.total = _single(batch_size, f"{section}.sampler.batch_size"), len(sequences)

    def __len__(self) -> int:
        return math.ceil(self.total / self.batch_size)

    def at(self, iteration: int) -> np.ndarray:
        """(batch_size or fewer,) int64 indices into the SequenceSet."""
        start = iteration * self.batch_size
        return np.arange(start, min(start + self.batch_size, self.total))


class LengthSampler(InferenceSampler):
    """Every sequence once, those of like length together, the longest first; `lengths` (n,) frames of each.

    A batch holds as many as have no more frames together, padding included, than `batch_size` of the longest: short
    walks come in large batches, and no batch takes more memory than the settings allow for the longest ones.
    """

    def __init__(self, sequences: SequenceSet, batch_size: int, lengths: np.ndarray,
                 section: str = "evaluator_cfg") -> None:
        super().__init__(sequences, batch_size, section)
        self.order = np.argsort(-lengths, kind="stable")
        most, starts = int(lengths.max(initial=1)) * self.batch_size, [0]
        while starts[-1] < self.total:
            starts.append(min(self.total, starts[-1] + max(1, most // max(1, int(lengths[self.order[starts[-1]]])))))
        self.starts = starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def at(self, iteration: int) -> np.ndarray:
        return self.order[self.starts[iteration]:self.starts[iteration + 1]]


SAMPLERS = {"TripletSampler": TripletSampler, "RandomTripletSampler": RandomTripletSampler,
            "CommonSampler": CommonSampler}


def build_sampler(sequences: SequenceSet, cfg: Mapping[str, Any], seed: int, section: str = "trainer_cfg"
                  ) -> TrainingSampler:
    """The training sampler of a config section. UserError for an unknown one, or more asked than the set holds."""
    name = cfg.get("type", "TripletSampler")
    if name not in SAMPLERS:
        near = difflib.get_close_matches(str(name), SAMPLERS, 1) or [" or ".join(SAMPLERS)]
        raise UserError(f"{section}.sampler.type {name!r} is no training sampler; did you mean {near[0]}?")
    extra = {key: cfg.get(key) for key in ("P_max", "K_max")} if name == "RandomTripletSampler" else {}
    return SAMPLERS[name](sequences, cfg.get("batch_size"), batch_shuffle=bool(cfg.get("batch_shuffle", False)),
                          seed=seed, repeat=cfg.get("repeat"), section=section, **extra)
