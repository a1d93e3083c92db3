"""A data root and a partition file in; sets of sequence records for training, validation and testing out.

On disk: <root>/<label>/<type>/<view>/*.pkl, a folder a sequence, its sorted files the modalities. The partition file
is JSON: TRAIN_SET and TEST_SET (labels), where wanted VAL_SET (labels) and PROBE_SET ("label-type-view"); or, for
actions, TRAIN, VAL and TEST, which list sequences (see sequencelists.py).
Shapes: n sequences, t frames, v joints, c channels. Every fault in the data is a `UserError`.
"""

from __future__ import annotations

import difflib
import logging
import os
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bpmt_ext.cameras import CAMERAS
from bpmt_ext.data.packed import Pack, open_pack
from bpmt_ext.data.pickles import read_pose, read_silhouettes
from bpmt_ext.data.sequencelists import Partition, group_of, held_out, read_partition, some_of
from bpmt_ext.errors import UserError
from bpmt_ext.regular import at_home

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One sequence: who, under which condition, seen from where, and its files (one per modality)."""

    label: str
    type: str
    view: str
    paths: tuple[Path, ...]

    @property
    def name(self) -> str:
        """label-type-view, as PROBE_SET writes it."""
        return f"{self.label}-{self.type}-{self.view}"

    @property
    def place(self) -> str:
        """label/type/view, as the lists of sequences write it."""
        return f"{self.label}/{self.type}/{self.view}"

    def camera(self, rule: str) -> str:
        """The camera by `rule`: the view, or the type's or view's part before its first underscore."""
        if rule not in CAMERAS:
            raise UserError(f"data_cfg.camera: {rule!r} is unknown{_hint(rule, CAMERAS)}")
        return CAMERAS[rule](self.type, self.view)


@dataclass
class Reader:
    """Reads the sequences for all sets of one data root; remembers every length, and the arrays too when `cache`.

    They are poses, of so many `joints` where given, or `silhouettes`; from a pack where there is one. Remembered arrays
    stay in the process that read them: a loader worker started by spawn begins without them.
    """

    joints: int | None = None
    silhouettes: bool = False
    cache: bool = False
    pack: Pack | None = None
    arrays: dict[Path, np.ndarray] = field(default_factory=dict, repr=False)
    lengths: dict[Path, int] = field(default_factory=dict, repr=False)

    def read(self, path: Path) -> np.ndarray:
        """A pose (t, v, c) float32 or silhouettes (t, h, w) uint8."""
        if self.pack is not None:
            return self.pack.read(path)
        if path in self.arrays:
            return self.arrays[path]
        array = self.fresh(path)
        self.lengths[path] = len(array)
        if self.cache:
            self.arrays[path] = array
        return array

    def fresh(self, path: Path) -> np.ndarray:
        """As `read`, from the file itself, and not remembered."""
        return read_silhouettes(path) if self.silhouettes else read_pose(path, self.joints)

    def length(self, path: Path) -> int:
        """t of the file; reads it the first time."""
        if self.pack is not None:
            return self.pack.length(path)
        return self.lengths[path] if path in self.lengths else len(self.read(path))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "arrays": {}}


class SequenceSet:
    """What samplers and loaders see: n records and the map from labels to class indices.

    label_set: sorted labels, those of the records unless given (two sets may share one map); labels (n,) int64,
    index into it; indices_by_label: for every label the positions of its sequences, maybe none.
    """

    def __init__(self, records: Sequence[Record], label_set: Collection[str] | None = None,
                 reader: Reader | None = None) -> None:
        self.records = tuple(records)
        self.label_set = tuple(sorted({r.label for r in self.records} if label_set is None else set(label_set)))
        position = {label: k for k, label in enumerate(self.label_set)}
        self.labels = np.array([position[r.label] for r in self.records], dtype=np.int64)
        self.types = tuple(r.type for r in self.records)
        self.views = tuple(r.view for r in self.records)
        self.names = tuple(r.name for r in self.records)
        order = np.argsort(self.labels, kind="stable")
        bounds = np.searchsorted(self.labels[order], np.arange(1, len(self.label_set)))
        self.indices_by_label = tuple(np.split(order, bounds)) if self.label_set else ()
        self.reader = reader or Reader()

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int) -> np.ndarray:
        """(t, v, c) float32, of silhouettes (t, h, w) uint8, of the first file in use. A cached array is shared: do not
        write to it."""
        return self.reader.read(self.records[index].paths[0])

    def knows_lengths(self) -> bool:
        """Whether `lengths` reads no file that would be read again: they are packed, or remembered once read."""
        reader = self.reader
        return reader.pack is not None or reader.cache or all(r.paths[0] in reader.lengths for r in self.records)

    def lengths(self) -> np.ndarray:
        """(n,) int64 frames of every sequence; the first call reads every file."""
        return np.array([self.reader.length(r.paths[0]) for r in self.records], dtype=np.int64)


@dataclass(frozen=True)
class Splits:
    """The sets of one data root. `probes` are names of test sequences, None where the benchmark names none.

    dropped counts what was left out: missing_labels, missing_probes, unlisted_labels, empty_folders, short_sequences
    (by frame_threshold), short_probes (those of them that were probes), few_camera_sequences (by min_cameras),
    thinned_sequences (by train_labels and train_sequences).
    """

    train: SequenceSet
    val: SequenceSet
    test: SequenceSet
    probes: frozenset[str] | None
    dropped: dict[str, int]
    camera: str = "type_prefix"


def _hint(name: object, known: Collection[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _folders(path: Path) -> list[Path]:
    with os.scandir(path) as entries:  # unlike iterdir() this needs no look-up per entry
        return [path / name for name in sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")]


def _root(value: object) -> Path:
    if not value:
        raise UserError("data_cfg.dataset_root is not set: give the folder that holds <label>/<type>/<view>/*.pkl")
    root = at_home(str(value))
    if not root.is_dir():
        raise UserError(f"data_cfg.dataset_root: no folder {root}; run the data set's converter "
                        f"(python datasets/<source>.py --input RAW --output {root}) or correct the path")
    return root


def find_records(root: Path | str, labels: Collection[str] | None = None) -> list[Record]:
    """All sequences below `root` (of these labels only, where given), sorted by label, type and view.

    A view folder without a .pkl gives a record without paths. UserError if the root is missing or holds no sequence.
    """
    root = _root(root)
    records = []
    for label in (p for p in _folders(root) if labels is None or p.name in labels):
        for kind in _folders(label):
            for view in _folders(kind):
                files = sorted(name for name in os.listdir(view) if name.endswith(".pkl") and name[0] != ".")
                records.append(Record(label.name, kind.name, view.name, tuple(view / name for name in files)))
    if not any(r.paths for r in records) and (labels is None or not _folders(root)):
        raise UserError(f"data_cfg.dataset_root: {root} holds no <label>/<type>/<view>/*.pkl; "
                        "point it at a converter's output, not at the raw data")
    return records


def _in_use(record: Record, data_in_use: Sequence[bool | int] | None) -> Record:
    """The record with only the modalities in use: a list of true/false per file, or of file positions."""
    if not data_in_use or not record.paths:
        return record
    if all(isinstance(x, bool) for x in data_in_use):
        positions = [k for k, used in enumerate(data_in_use) if used]
    else:
        positions = [int(x) for x in data_in_use]
    if not positions or min(positions) < 0 or max(positions) >= len(record.paths):
        raise UserError(f"data_cfg.data_in_use {list(data_in_use)} does not fit {record.paths[0].parent}, which holds "
                        f"{len(record.paths)} file(s); give one true or false per file, at least one true")
    return Record(record.label, record.type, record.view, tuple(record.paths[k] for k in positions))


def _check_presence(partition: Partition, records: Sequence[Record], data: Any, dropped: Counter[str]) -> None:
    """Every listed label or sequence and probe is there, or `missing_labels: warn` lets them pass, counted and logged.
    """
    kind = "sequences" if partition.sequences else "labels"
    present = {r.place if partition.sequences else r.label for r in records}
    missing = {*partition.train, *partition.test, *partition.val} - present
    test = {r.name for r in records if r.label in set(partition.test)}
    probes = set(partition.probe) - test
    dropped.update({f"missing_{kind}": len(missing), "missing_probes": len(probes)})
    lost = "labels of the partition have no sequence" if kind == "labels" else "sequences of the partition are not"
    for names, what in ((missing, lost),
                        (probes, "entries of PROBE_SET are not among the test sequences")):
        if names and data.missing_labels != "warn":
            raise UserError(f"{some_of(names)} {what} in {data.dataset_root}; complete the data, shorten "
                            f"{data.dataset_partition}, or set data_cfg.missing_labels: warn")
        if names:
            _LOG.warning("%s %s in %s; they are left out", some_of(names), what, data.dataset_root)


def _listed(records: Sequence[Record], partition: Partition, names: Collection[str]) -> list[Record]:
    """The records that a list of the partition names, by their labels or one by one."""
    wanted = set(names)
    return [r for r in records if (r.place if partition.sequences else r.label) in wanted]


def _drop_short(records: list[Record], reader: Reader, threshold: int, lenient: bool) -> list[Record]:
    """Records with more frames than the threshold; a file that cannot be read stays where `lenient`."""
    if threshold <= 0:
        return records  # every readable pose has at least one frame: nothing to look up
    kept = []
    for record in records:
        try:
            long_enough = reader.length(record.paths[0]) > threshold
        except UserError:
            if not lenient:
                raise
            long_enough = True
        if long_enough:
            kept.append(record)
    return kept


def _cameras(records: Sequence[Record], rule: str) -> dict[str, set[str]]:
    cameras: dict[str, set[str]] = defaultdict(set)
    for record in records:
        cameras[record.label].add(record.camera(rule))
    return cameras


def _camera_split(records: Sequence[Record], rule: str) -> tuple[list[Record], list[Record]]:
    """Three quarters of each subject's cameras train, the others validate (bpmt.md, section 6)."""
    generator = random.Random(42)
    training: dict[str, set[str]] = {}
    for label, cameras in sorted(_cameras(records, rule).items()):
        order = sorted(cameras)
        generator.shuffle(order)
        count = 1 if len(order) == 1 else min(max(1, int(0.75 * len(order))), len(order) - 1)
        training[label] = set(order[:count])
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        sides[record.camera(rule) not in training[record.label]].append(record)
    return sides


def _held_out(records: Sequence[Record], share: float, seed: int, sequences: bool) -> tuple[list[Record], list[Record]]:
    """(training, validation): a share of the labels, or of the subjects or clips of a partition of sequences."""
    keys = [group_of(r.place) if sequences else r.label for r in records]
    held = held_out(set(keys), share, seed, what="subject or clip" if sequences else "label")
    sides: tuple[list[Record], list[Record]] = ([], [])
    for key, record in zip(keys, records, strict=True):
        sides[key in held].append(record)
    return sides


def _thinned(records: Sequence[Record], labels: int, sequences: int, seed: int) -> list[Record]:
    """At most `labels` labels and `sequences` of each (0: all), in a drawn order: fewer are among more."""
    known, drawn = sorted({r.label for r in records}), np.random.default_rng([seed, len(records)])
    if labels > len(known):
        raise UserError(f"data_cfg.train_labels: {labels}, but there are {len(known)} to train on; lower it")
    chosen = set(drawn.permutation(known)[: labels or None].tolist())
    left = dict.fromkeys(chosen, sequences or len(records))
    kept = set()
    for i in drawn.permutation(len(records)).tolist():
        if left.get(records[i].label):
            left[records[i].label] -= 1
            kept.add(i)
    return [r for i, r in enumerate(records) if i in kept]


def load_splits(data: Any, joints: int | None = None, *, lenient: bool = False) -> Splits:
    """The sets of the data section of a config (any object with its attributes).

    joints: what every pose must have. lenient: files that cannot be read stay in, for `check_data` to list.
    UserError: a fault of the root, the partition or the settings, or nothing left of a list that was on disk.
    """
    partition = read_partition(data.dataset_partition)
    if data.camera_split and partition.val:
        raise UserError(f"data_cfg.camera_split does not go with the VAL_SET of {data.dataset_partition}; drop one")
    if data.camera_split and partition.sequences:
        raise UserError("data_cfg.camera_split divides the cameras of a subject; the lists of sequences in "
                        f"{data.dataset_partition} name their own sides: set it to false")
    listed = partition.labels
    root = _root(data.dataset_root)
    found = find_records(root, listed)
    reader = Reader(joints, data.modality == "silhouette", bool(data.cache))
    # a folder of the root that holds no <type>/<view> is something else, the converter's folds for one
    unlisted = [p for p in _folders(root) if p.name not in listed and any(map(_folders, _folders(p)))]
    dropped: Counter[str] = Counter(unlisted_labels=len(unlisted))
    if partition.sequences:
        count = len(found)
        found = _listed(found, partition, {*partition.train, *partition.test, *partition.val})
        dropped["unlisted_sequences"] = count - len(found)
    used = [_in_use(r, data.data_in_use) for r in found if r.paths]
    _check_presence(partition, used, data, dropped)
    if data.packed and used and not lenient:
        folder = None if data.packed is True else at_home(data.packed)
        reader.pack = open_pack(root, [r.paths[0] for r in used], reader.fresh, folder=folder,
                                settings={"joints": joints, "silhouettes": reader.silhouettes})
    kept = _drop_short(used, reader, data.frame_threshold, lenient)
    names = {r.name for r in kept}
    dropped.update(empty_folders=len(found) - len(used), short_sequences=len(used) - len(kept),
                   short_probes=len({r.name for r in used} & set(partition.probe) - names))

    test, val = _listed(kept, partition, partition.test), _listed(kept, partition, partition.val)
    trainers = set(partition.train) - set(partition.val)
    train = _listed(kept, partition, trainers)
    cameras = _cameras(train, data.camera)
    enough = [r for r in train if len(cameras[r.label]) >= data.min_cameras]
    dropped.update(few_camera_sequences=len(train) - len(enough))
    for key, left, wanted in (("train", enough, trainers), ("test", test, partition.test)):
        if not left and _listed(used, partition, wanted):
            name = key.upper() if partition.sequences else f"{key.upper()}_SET"
            raise UserError(f"no sequence of {name} is left: data_cfg.frame_threshold {data.frame_threshold} and "
                            f"min_cameras {data.min_cameras} drop all; lower them")
    if not kept:
        raise UserError(f"none of the {len(listed)} labels of {data.dataset_partition} has a sequence in {root}; "
                        "check that both belong to the same data set")
    train, label_set = enough, set(partition.classes) or None
    if data.camera_split:
        train, val = _camera_split(enough, data.camera)
        label_set = {r.label for r in train}
    elif not partition.val:
        train, val = _held_out(enough, data.validation, data.validation_seed, partition.sequences)
    if data.train_labels and partition.sequences:
        raise UserError("data_cfg.train_labels: would leave classes out; set it to 0, train_sequences takes fewer "
                        "clips of each")  # fmt: skip
    if data.train_labels or data.train_sequences:
        everything, train = train, _thinned(train, data.train_labels, data.train_sequences, data.validation_seed)
        dropped.update(thinned_sequences=len(everything) - len(train))
    probes = frozenset(partition.probe) & {r.name for r in test} if partition.probe else None
    return Splits(SequenceSet(train, label_set, reader), SequenceSet(val, label_set, reader),
                  SequenceSet(test, partition.classes or None, reader), probes, dict(dropped), data.camera)
