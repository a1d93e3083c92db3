"""The labels of a data set in, who trains and who is tested out: benchmark rules, official lists, folds.

A converter writes `partition.json` by the rule of its benchmark (protocols.md section 1) or copies the benchmark's own
file, and reports how much of the whole set is there. Folds follow protocols.md section 9.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.errors import UserError
from bpmt_ext.regular import read_regular

PARTITION = "partition.json"
_EXAMPLES = 20  # missing sequences named one by one; all of them are counted
Found = tuple[dict[str, Any], list[str]]  # for report.json, and the same as lines for a person


class Ending(Protocol):
    """What writes `partition.json` after a conversion."""

    def finish(self, output: Path, targets: Sequence[str]) -> Found:
        """`targets`: the pickles that were written, label/type/view/name.pkl."""


def _nothing(_: str) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Benchmark:
    """A data set whose split follows a rule: all its labels, and what each of them should have when it is whole."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    grid: Callable[[str], Iterable[str]] = _nothing  # label -> every `type` or `type/view`; none if nothing is fixed

    def lists(self, present: Iterable[str]) -> dict[str, list[str]]:
        """TRAIN_SET and TEST_SET of the labels that are there, in the benchmark's order."""
        there = set(present)
        pairs = (("TRAIN_SET", self.train), ("TEST_SET", self.test))
        return {key: [label for label in labels if label in there] for key, labels in pairs}

    def finish(self, output: Path, targets: Sequence[str]) -> Found:
        """Write `partition.json` for what was converted; `targets` are the pickles, label/type/view/name.pkl."""
        there = {target.split("/", 1)[0] for target in targets}
        lists = self.lists(there)
        write_bytes(output / PARTITION, (json.dumps(lists, indent=1) + "\n").encode())
        whole = {"TRAIN_SET": self.train, "TEST_SET": self.test}
        counts = {key: (len(lists[key]), len(labels)) for key, labels in whole.items()}
        loose = len(there - set(self.train) - set(self.test))
        found: dict[str, Any] = {"partition": {key: {"here": n, "of": of} for key, (n, of) in counts.items()}}
        words = " and ".join(f"{n} of {of} {key} labels" for key, (n, of) in counts.items())
        lines = [f"  {PARTITION}: {words} are here; {loose} labels are in no list"]
        grid = missing(targets, self.train + self.test, self.grid)
        if grid["of"]:
            found["missing from the full grid"] = grid
            lines.append(f"  missing from the full grid: {grid['missing']} of {grid['of']}, of these "
                         f"{grid['at labels that are here']} at labels that are here")  # fmt: skip
            if grid["names"]:
                more = "; ..." if grid["at labels that are here"] > 5 else ""
                lines[-1] += f" ({'; '.join(grid['names'][:5])}{more})"
        return found, lines


def missing(targets: Iterable[str], labels: Iterable[str], grid: Callable[[str], Iterable[str]]) -> dict[str, Any]:
    """What the grid of these labels holds and `targets` (label/type/view/name.pkl) do not, counted and partly named."""
    there: set[str] = set()
    for target in targets:
        label, kind, view, _ = target.split("/")
        there |= {label, f"{label}/{kind}", f"{label}/{kind}/{view}"}
    total, absent, names = 0, 0, []
    for label in labels:
        for entry in grid(label):
            total += 1
            if f"{label}/{entry}" not in there:
                absent += 1
                if label in there:
                    names.append(f"{label}/{entry}")
    return {"of": total, "missing": absent, "at labels that are here": len(names), "names": names[:_EXAMPLES]}


@dataclass(frozen=True)
class OfficialLists:
    """A benchmark's own partition file, checked: it is copied as it is."""

    data: bytes
    lists: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path, name: str, *, probes: bool) -> OfficialLists:
        """The file at `path`; UserError, saying where to get it, if it is none. probes: whether it has a PROBE_SET."""
        official = f"datasets/{name}/{name}.json of a FastPoseGait or OpenGait checkout"
        try:
            data = read_regular(path)
            lists = json.loads(data)
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: no partition file ({error}); take {official}.") from error
        for key in ("TRAIN_SET", "TEST_SET", "PROBE_SET")[: 3 if probes else 2]:
            entries = lists.get(key) if isinstance(lists, dict) else None
            if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
                raise UserError(f"{path}: {key} is not a list of strings; the official file has it: take {official}.")
            if len(set(entries)) != len(entries):
                raise UserError(f"{path}: {key} lists {Counter(entries).most_common(1)[0][0]} twice.")
        test = set(lists["TEST_SET"])
        both = sorted(test & set(lists["TRAIN_SET"]))
        strangers = [probe for probe in lists["PROBE_SET"] if probe.split("-")[0] not in test or probe.count("-") != 2
                     ] if probes else []  # fmt: skip
        if both or strangers:
            what = f"the probe {strangers[0]} is of no test subject" if strangers else ""
            raise UserError(f"{path}: {f'{both[0]} is in TRAIN_SET and TEST_SET' if both else what}; take {official}.")
        return cls(data, lists)

    def expect(self, labels: Iterable[str]) -> None:
        """UserError if none of the labels found among the raw data is in a list: the file is of another data set."""
        found = sorted(set(labels))
        if not set(found) & {*self.lists["TRAIN_SET"], *self.lists["TEST_SET"]}:
            listed = self.lists["TRAIN_SET"][0]
            raise UserError(f"--partition: lists {listed} and others, none of them among the labels that are there "
                            f"({', '.join(found[:3])}); take the file of this data set.")  # fmt: skip

    def finish(self, output: Path, targets: Sequence[str]) -> Found:
        """Copy the file and say how much of it is on disk."""
        write_bytes(output / PARTITION, self.data)
        there = {target.split("/", 1)[0] for target in targets}
        keys = ("TRAIN_SET", "TEST_SET")
        counts = {key: {"here": len(there & set(self.lists[key])), "of": len(self.lists[key])} for key in keys}
        words = [f"{counts[key]['here']} of {counts[key]['of']} {key} labels" for key in keys]
        if "PROBE_SET" in self.lists:
            probes = [probe.replace("-", "/") for probe in self.lists["PROBE_SET"]]
            folders = {target.rsplit("/", 1)[0] for target in targets}
            counts["PROBE_SET"] = {"here": sum(probe in folders for probe in probes), "of": len(probes)}
            words = [", ".join(words), f"{counts['PROBE_SET']['here']} of {len(probes)} probes"]
        loose = len(there - set(self.lists["TRAIN_SET"]) - set(self.lists["TEST_SET"]))
        return {"partition": counts}, [f"  {PARTITION}: {' and '.join(words)} are here; {loose} labels are in no list"]


def folds_of(labels: Iterable[str], folds: int) -> list[tuple[list[str], list[str]]]:
    """(training labels, test labels) of each fold, both sorted; fixed by protocols.md section 9.

    labels sorted as strings, permuted by default_rng(0); fold i tests on every `folds`-th from i on.
    """
    ordered = sorted(set(labels))
    if not 2 <= folds <= len(ordered):
        raise UserError(f"--folds {folds} must be between 2 and the number of labels, {len(ordered)}.")
    shuffled = np.random.default_rng(0).permutation(ordered).tolist()
    tests = [sorted(shuffled[i::folds]) for i in range(folds)]
    return [(sorted(set(ordered) - set(test)), test) for test in tests]


def inner_split(train: Iterable[str]) -> tuple[list[str], list[str]]:
    """The inner (training labels, validation labels) of a fold's training labels, both sorted; protocols.md section 9.

    labels sorted, permuted by default_rng(1); validation takes every fifth from the first on.
    """
    ordered = sorted(set(train))
    held_out = sorted(np.random.default_rng(1).permutation(ordered)[::5].tolist())
    return sorted(set(ordered) - set(held_out)), held_out


def write_folds(output: Path, labels: Iterable[str], folds: int, inner: bool) -> None:
    """`<output>/folds/fold<i>.json`, and `fold<i>_inner.json` whose TEST_SET is the inner validation part."""
    folder = output / "folds"
    folder.mkdir(exist_ok=True)
    for earlier in folder.glob("fold*.json"):  # of a run with more folds
        earlier.unlink()
    for i, (train, test) in enumerate(folds_of(labels, folds)):
        parts = {f"fold{i}.json": (train, test)}
        if inner:
            parts[f"fold{i}_inner.json"] = inner_split(train)
        for name, (train_part, test_part) in parts.items():
            text = json.dumps({"TRAIN_SET": train_part, "TEST_SET": test_part}, indent=1)
            write_bytes(folder / name, (text + "\n").encode())
