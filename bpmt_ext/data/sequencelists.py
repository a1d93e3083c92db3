"""A partition file in, its checked lists out; and the partition files of action sets, which list sequences.

The first form lists labels: TRAIN_SET, TEST_SET, where wanted VAL_SET and PROBE_SET. In sets of actions the same class
stands on both sides, so that labels cannot tell them apart. The second form lists sequences, each "label/type/view":

    {"CLASSES": ["bowl", ...], "TRAIN": ["bowl/0004/back", ...], "VAL": [...], "TEST": [...]}

TRAIN and TEST are needed (they may be empty), VAL and CLASSES are not. CLASSES are all classes, sorted; without it the
classes are those of the lists. What is held out or put into folds goes by groups that stay together: the part of
`type` before its first underscore (the subject; where nobody knows the subject, the clip).
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bpmt_ext.data.partitions import PARTITION, Found
from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.errors import UserError
from bpmt_ext.regular import at_home, read_regular

SIDES = ("TRAIN", "VAL", "TEST")
KEYS = ("CLASSES", *SIDES)


@dataclass(frozen=True)
class Partition:
    """The lists of a benchmark, of labels or (`sequences`) of "label/type/view", and its probes where it names them."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    val: tuple[str, ...] = ()
    probe: tuple[str, ...] = ()
    sequences: bool = False
    classes: tuple[str, ...] = ()  # all labels of a partition of sequences; empty for one of labels

    @property
    def labels(self) -> set[str]:
        """Every label that is listed, or of which a sequence is."""
        listed = {*self.train, *self.test, *self.val}
        return {label_of(place) for place in listed} if self.sequences else listed


def some_of(names: Collection[str]) -> str:
    """'12 (a, b, c, ...)' for messages."""
    first = sorted(names)[:3]
    return f"{len(names)} ({', '.join(first)}{', ...' if len(names) > 3 else ''})"


def read_partition(path: Path | str | None) -> Partition:
    """The lists of a partition file; UserError if it is missing, is no JSON, lacks a list or puts a name in two."""
    if not path:
        raise UserError("data_cfg.dataset_partition is not set: give a JSON file with TRAIN_SET and TEST_SET")
    path = at_home(path)
    where = f"data_cfg.dataset_partition: {path}"
    try:
        content = json.loads(read_regular(path).decode("utf-8-sig"))
    except FileNotFoundError:
        folds = sorted(path.parent.glob("folds/fold*.json"))
        if folds:
            raise UserError(f"{where} does not exist; {path.parent / 'folds/fold*.json'} do ({len(folds)}): name one, "
                            "or let bpmt compare take them with --folds") from None  # fmt: skip
        raise UserError(
            f"{where} does not exist; the data set's converter (python datasets/<source>.py) puts it there; those "
            "of Gait3D and SUSTech1K are the benchmark's own files: give the converter, with --partition, the one in a "
            "FastPoseGait or OpenGait checkout (datasets/<name>/<name>.json) or in the data set's repository"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where} is not a readable JSON file ({error}); mend it or take a fresh copy") from None
    if not isinstance(content, dict):
        raise UserError(f"{where} holds a {type(content).__name__}; write {{'TRAIN_SET': [...], 'TEST_SET': [...]}}")
    if lists_sequences(content):
        listed = sequence_lists(content, where)
        classes = listed["CLASSES"] or {label_of(x) for side in ("TRAIN", "VAL", "TEST") for x in listed[side]}
        return Partition(listed["TRAIN"], listed["TEST"], listed["VAL"], (), True, tuple(sorted(classes)))
    lists = {}
    for key in ("TRAIN_SET", "TEST_SET", "VAL_SET", "PROBE_SET"):
        if key not in content and key in ("TRAIN_SET", "TEST_SET"):
            raise UserError(f"{where} has no list {key}; add it (it may be empty)")
        values = content.get(key) or []
        wrong = values if not isinstance(values, list) else [x for x in values if not isinstance(x, str)]
        if wrong:
            raise UserError(f"{where}: {key} must be a list of strings, got {str(wrong)[:40]}; write labels in quotes")
        lists[key] = tuple(dict.fromkeys(values))
    for key in ("TRAIN_SET", "VAL_SET"):
        both = set(lists[key]) & set(lists["TEST_SET"])
        if both:
            raise UserError(f"{where}: labels both in {key} and TEST_SET: {some_of(both)}; leave each in one list")
    return Partition(lists["TRAIN_SET"], lists["TEST_SET"], lists["VAL_SET"], lists["PROBE_SET"])


def lists_sequences(content: Mapping[str, Any]) -> bool:
    """Whether a partition file's content is of the second form."""
    return any(key in content for key in KEYS) and not any(key.endswith("_SET") for key in content)


def sequence_lists(content: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    """The four lists of a partition file of the second form, checked; UserError begins with `where`."""
    for key in content:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(KEYS)}"
            raise UserError(f"{where}: {str(key)[:40]!r} is no list of a partition of sequences; {hint}")
    lists: dict[str, tuple[str, ...]] = {}
    for key in KEYS:
        if key not in content and key in ("TRAIN", "TEST"):
            raise UserError(f"{where} has no list {key}; add it (it may be empty)")
        values = content.get(key) or []
        wrong = values if not isinstance(values, list) else [x for x in values if not isinstance(x, str)]
        if wrong:
            raise UserError(f"{where}: {key} must be a list of strings, got {str(wrong)[:40]}; write names in quotes")
        lists[key] = tuple(dict.fromkeys(values))
    for key in SIDES:
        odd = next((name for name in lists[key] if name.count("/") != 2 or not all(name.split("/"))), None)
        if odd is not None:
            raise UserError(f"{where}: {key} holds {odd[:80]!r}; a sequence is named label/type/view")
    for first, second in (("TRAIN", "TEST"), ("VAL", "TEST"), ("TRAIN", "VAL")):
        both = sorted(set(lists[first]) & set(lists[second]))
        if both:
            raise UserError(f"{where}: {len(both)} sequences ({both[0]}) both in {first} and {second}; "
                            "leave each in one list")  # fmt: skip
    strange = sorted({label_of(name) for key in SIDES for name in lists[key]} - set(lists["CLASSES"]))
    if lists["CLASSES"] and strange:
        raise UserError(f"{where}: {strange[0]!r} has sequences but is not among CLASSES; add it there")
    return lists


def label_of(place: str) -> str:
    """The label of "label/type/view"."""
    return place.split("/", 1)[0]


def group_of(place: str) -> str:
    """What stays together with the sequence "label/type/view": its type before the first underscore."""
    return place.split("/")[1].partition("_")[0]


def held_out(names: Collection[str], share: float, seed: int, setting: str = "data_cfg.validation",
             what: str = "label") -> set[str]:  # fmt: skip
    """The share of these names that validates: sorted, permuted by the seed, the first max(1, round(share n))."""
    if not 0 <= share < 1:
        raise UserError(f"{setting} is {share}; it is a share of the training {what}s: 0 (none) up to below 1")
    if seed < 0:
        raise UserError(f"the seed {seed} that draws {setting} is negative; give one from 0 on")
    order = sorted(names)
    if share == 0 or not order:
        return set()
    count = max(1, round(share * len(order)))
    if count >= len(order):
        raise UserError(f"{setting} {share} of {len(order)} training {what}(s) leaves no other; set it to 0")
    return {order[k] for k in np.random.default_rng(seed).permutation(len(order))[:count]}


def dealt(places: Iterable[str], folds: int, seed: int = 0, blocks: bool = False) -> list[list[str]]:
    """The sequences of each fold, sorted: the groups are shuffled by the seed and dealt out in turn.

    Where every group is of one class, the classes are dealt one after the other, so that each fold has its share of
    each. blocks: nothing is shuffled, each fold has one run of groups that follow each other (of every class, where
    every group is of one). UserError where there are fewer groups than folds.
    """
    ordered = sorted(set(places))
    classes: dict[str, set[str]] = {}
    for place in ordered:
        classes.setdefault(group_of(place), set()).add(label_of(place))
    if not 2 <= folds <= len(classes):
        raise UserError(f"--folds {folds} must be between 2 and the number of training subjects or clips, "
                        f"{len(classes)}.")  # fmt: skip
    strata: dict[str, list[str]] = {}
    single = all(len(labels) == 1 for labels in classes.values())
    for group, labels in sorted(classes.items()):
        strata.setdefault(next(iter(labels)) if single else "", []).append(group)
    if blocks:
        fold = {group: i * folds // len(groups) for groups in strata.values() for i, group in enumerate(groups)}
    else:
        generator = np.random.default_rng(seed)
        order = [group for _, groups in sorted(strata.items()) for group in generator.permutation(groups).tolist()]
        fold = {group: i % folds for i, group in enumerate(order)}
    return [[place for place in ordered if fold[group_of(place)] == i] for i in range(folds)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the converters of action sets, beside those of all converters."""
    parser.add_argument("--held-out", type=float, default=0.0, metavar="SHARE",
                        help="share of the training subjects (or clips) listed in VAL instead of TRAIN")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="chooses who is held out (%(default)s)")
    parser.add_argument("--fold-blocks", action="store_true",
                        help="with --folds: subjects (or clips) that follow each other share a fold")  # fmt: skip


@dataclass(frozen=True)
class SequenceSplits:
    """What writes the partition files of an action set: its official splits, and folds inside the first one's TRAIN.

    rules: for each split a function from "label/type/view" to TRAIN, TEST or None (in neither). The first becomes
    `partition.json`, each `partition_<name>.json`. whole: how many sequences TRAIN and TEST hold in the full set.
    """

    classes: tuple[str, ...]
    rules: Mapping[str, Callable[[str], str | None]]
    whole: Mapping[str, tuple[int, int]]
    folds: int | None = None
    inner: bool = False
    share: float = 0.0
    seed: int = 0
    blocks: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace, classes: Iterable[str], rules: Mapping[str, Callable[[str], str | None]],
           whole: Mapping[str, tuple[int, int]]) -> SequenceSplits:  # fmt: skip
        """With the options of a command line."""
        return cls(tuple(sorted(classes)), rules, whole, args.folds, args.inner, args.held_out, args.seed,
                   args.fold_blocks)  # fmt: skip

    def check(self, targets: Iterable[str]) -> None:
        """UserError if the folds or the share do not fit these pickles: such should not show after an hour."""
        if (self.inner or self.blocks) and self.folds is None:
            raise UserError(f"{'--inner' if self.inner else '--fold-blocks'} needs --folds K.")
        first = next(iter(self.rules.values()))
        train = [place for place in map(_place, targets) if first(place) == "TRAIN"]
        if self.folds is not None:
            for test in dealt(train, self.folds, blocks=self.blocks):
                if not test:
                    raise UserError(f"--fold-blocks: no class has {self.folds} training clips, so that a fold would be "
                                    "empty; take fewer --folds, or draw them (no --fold-blocks).")  # fmt: skip
                rest = {group_of(place) for place in set(train) - set(test)}
                if self.inner and len(rest) < 2:
                    raise UserError(f"--inner: outside of a fold there is only {min(rest)}; take more --folds or data.")
        self._held(train)

    def _held(self, train: Iterable[str]) -> set[str]:
        return held_out({group_of(place) for place in train}, self.share, self.seed, "--held-out", "subject or clip")

    def lists(self, places: Iterable[str], rule: Callable[[str], str | None]) -> dict[str, list[str]]:
        """CLASSES, TRAIN, VAL (where something is held out) and TEST of these sequences."""
        there = sorted(set(places))
        sides = {side: [place for place in there if rule(place) == side] for side in ("TRAIN", "TEST")}
        held = self._held(sides["TRAIN"])
        val = {"VAL": [place for place in sides["TRAIN"] if group_of(place) in held]} if held else {}
        train = [place for place in sides["TRAIN"] if group_of(place) not in held]
        return {"CLASSES": list(self.classes), "TRAIN": train, **val, "TEST": sides["TEST"]}

    def finish(self, output: Path, targets: Sequence[str]) -> Found:
        """Write the partition files of what was converted; `targets` are the pickles, label/type/view/name.pkl."""
        places = sorted(map(_place, targets))
        found: dict[str, Any] = {}
        lines = []
        for i, (name, rule) in enumerate(self.rules.items()):
            lists = self.lists(places, rule)
            for file in ([PARTITION] if i == 0 else []) + [f"partition_{name}.json"]:
                _write(output / file, lists)
            counts = {side: len(lists[side]) for side in SIDES if side in lists}
            whole = self.whole.get(name)
            found[name] = {**counts, "in the full set": whole, "in no list": len(places) - sum(counts.values())}
            words = ", ".join(f"{count} {side}" for side, count in counts.items())
            full = f" (the full set: {whole[0]} and {whole[1]})" if whole else ""
            lines.append(f"  partition_{name}.json{' = ' + PARTITION if i == 0 else ''}: {words}{full}; "
                         f"{found[name]['in no list']} in no list")  # fmt: skip
        if self.folds is not None:
            first = next(iter(self.rules.values()))
            self._write_folds(output, [place for place in places if first(place) == "TRAIN"])
            lines.append(f"  folds/fold<i>.json: {self.folds} folds of the TRAIN list"
                         + (", in blocks" if self.blocks else ""))  # fmt: skip
        return {"partitions": found}, lines

    def _write_folds(self, output: Path, train: Sequence[str]) -> None:
        """`<output>/folds/fold<i>.json`, and `fold<i>_inner.json` whose TEST is the fifth of TRAIN to choose by."""
        folder = output / "folds"
        folder.mkdir(exist_ok=True)
        for earlier in folder.glob("fold*.json"):  # of a run with more folds
            earlier.unlink()
        for i, test in enumerate(dealt(train, int(self.folds or 0), blocks=self.blocks)):
            rest = sorted(set(train) - set(test))
            _write(folder / f"fold{i}.json", {"CLASSES": list(self.classes), "TRAIN": rest, "TEST": test})
            if self.inner:
                groups = len({group_of(place) for place in rest})
                chosen = dealt(rest, min(5, groups), seed=1, blocks=self.blocks)[0]
                inner = {"TRAIN": sorted(set(rest) - set(chosen)), "TEST": chosen}
                _write(folder / f"fold{i}_inner.json", {"CLASSES": list(self.classes), **inner})


def _place(target: str) -> str:
    return target.rsplit("/", 1)[0]


def _write(path: Path, lists: Mapping[str, Sequence[str]]) -> None:
    write_bytes(path, (json.dumps(lists, indent=1) + "\n").encode())
