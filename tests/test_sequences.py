"""Made-up data roots in, the rules of `load_splits` and the findings of `check_data` out."""

from __future__ import annotations

import json
import pickle
import random
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bpmt_ext.data.health import check_data, fingerprint
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.data.sequences import (
    Record,
    SequenceSet,
    find_records,
    load_splits,
    read_partition,
)
from bpmt_ext.errors import UserError


def put(root: Path, name: str, frames: int = 12, *, fill: float | None = None,
        files: tuple[str, ...] = ("a.pkl",)) -> None:
    """One made-up sequence at <root>/<label>/<type>/<view>."""
    folder = root / name
    folder.mkdir(parents=True)
    seed = zlib.crc32(name.encode(errors="surrogateescape"))
    for k, file in enumerate(files):
        pose = np.random.default_rng(seed + k).random((frames, 17, 3), dtype=np.float32)
        write_pickle(folder / file, pose if fill is None else np.full_like(pose, fill))


def settings(root: Path, partition: dict[str, list[str]] | None = None, **changes: object) -> SimpleNamespace:
    """The attributes of data_cfg, with a partition file beside the root."""
    path = root.parent / "partition.json"
    if partition is not None:
        path.write_text(json.dumps(partition))
    base = {"dataset_root": str(root), "dataset_partition": str(path), "cache": False, "modality": "pose",
            "packed": False, "frame_threshold": 0, "data_in_use": None, "validation": 0.0, "validation_seed": 0,
            "min_cameras": 1, "train_labels": 0, "train_sequences": 0, "camera": "type_prefix",
             "camera_split": False, "missing_labels": "error"}
    return SimpleNamespace(**{**base, **changes})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six labels: p0..p3 with 1, 2, 4 and 5 cameras, q0 and q1 for the test; one label in no list."""
    root = tmp_path / "data"
    for label, cameras in (("p0", 1), ("p1", 2), ("p2", 4), ("p3", 5), ("q0", 2), ("q1", 2), ("stranger", 1)):
        for camera in range(cameras):
            for video in range(2):
                put(root, f"{label}/cam{camera}_v{video}/seq0", 10 + 3 * camera + video)
    return root


LISTS = {"TRAIN_SET": ["p3", "p0", "p1", "p2"], "TEST_SET": ["q1", "q0"]}


def names(sequences: SequenceSet) -> set[str]:
    return set(sequences.names)


def test_splits_and_what_a_set_offers(root: Path) -> None:
    put(root, "q1/cam9_v0/seq1", files=("10.pkl", "2.pkl", "note.txt"))
    splits = load_splits(settings(root, {**LISTS, "PROBE_SET": ["q0-cam0_v1-seq0"]}), joints=17)
    train, test = splits.train, splits.test
    assert train.label_set == ("p0", "p1", "p2", "p3") and test.label_set == ("q0", "q1") and len(splits.val) == 0
    assert len(train) == 24 and splits.dropped["unlisted_labels"] == 1
    assert splits.probes == {"q0-cam0_v1-seq0"}
    keys = [(r.label, r.type, r.view) for r in train.records]
    assert keys == sorted(keys)
    for k, (label, indices) in enumerate(zip(train.label_set, train.indices_by_label, strict=True)):
        assert [train.records[i].label for i in indices] == [label] * len(indices)
        assert (train.labels[indices] == k).all()
    assert sum(map(len, train.indices_by_label)) == len(train)
    last = test.records[-1]
    assert [p.name for p in last.paths] == ["10.pkl", "2.pkl"] and last.name == "q1-cam9_v0-seq1"
    pose = test.read(0)
    assert pose.shape == (10, 17, 3) and pose.dtype == np.float32
    assert test.lengths().tolist() == [len(test.read(i)) for i in range(len(test))]


def test_data_in_use_chooses_the_modality(root: Path) -> None:
    put(root, "r/cam0/s", files=("1.pkl", "2.pkl"))
    lists = {"TRAIN_SET": ["r"], "TEST_SET": []}
    first, second = (load_splits(settings(root, lists, data_in_use=u)).train for u in ([True, False], [False, True]))
    assert first.records[0].paths[0].name == "1.pkl" and second.records[0].paths[0].name == "2.pkl"
    assert not np.array_equal(first.read(0), second.read(0))
    with pytest.raises(UserError, match=r"data_in_use .* holds 2 file"):
        load_splits(settings(root, lists, data_in_use=[False, False, True]))


def test_cache_reads_a_file_once(root: Path) -> None:
    for cache in (False, True):
        train = load_splits(settings(root, LISTS, cache=cache)).train
        train.records[0].paths[0].touch()
        assert (train.read(0) is train.read(0)) == cache
        copy = pickle.loads(pickle.dumps(train))  # what a spawned worker gets
        assert np.array_equal(copy.read(0), train.read(0))


def test_frame_threshold_drops_and_counts(root: Path) -> None:
    probes = ["q0-cam0_v0-seq0", "q0-cam1_v0-seq0"]  # 10 and 13 frames
    splits = load_splits(settings(root, {**LISTS, "PROBE_SET": probes}, frame_threshold=11))
    assert min(splits.train.lengths()) == min(splits.test.lengths()) == 13
    assert splits.dropped["short_sequences"] == 2 * 6 and splits.dropped["short_probes"] == 1
    assert splits.probes == {probes[1]}
    with pytest.raises(UserError, match=r"TRAIN_SET.*frame_threshold 99"):
        load_splits(settings(root, LISTS, frame_threshold=99))


@pytest.mark.parametrize(("rule", "kept"), [("type_prefix", {"p2", "p3"}), ("view", set()), ("view_prefix", set())])
def test_min_cameras(root: Path, rule: str, kept: set[str]) -> None:
    data = settings(root, LISTS, min_cameras=3, camera=rule)
    if not kept:
        with pytest.raises(UserError, match="min_cameras 3"):
            load_splits(data)
        return
    splits = load_splits(data)
    assert set(splits.train.label_set) == kept and splits.dropped["few_camera_sequences"] == 6
    assert set(splits.test.label_set) == {"q0", "q1"}  # two cameras each: the rule is the training's


def test_fewer_labels_and_sequences_are_among_more(root: Path) -> None:
    whole = load_splits(settings(root, LISTS))
    found: dict[tuple[int, int], set[str]] = {}
    for labels in (1, 2, 4):
        for most in (1, 2, 0):
            train = load_splits(settings(root, LISTS, train_labels=labels, train_sequences=most)).train
            counts = Counter(train.labels)
            assert len(counts) == len(train.label_set) == labels and max(counts.values()) <= (most or 99)
            found[labels, most] = names(train)
    assert found[1, 1] < found[1, 2] < found[1, 0] < found[4, 0] == names(whole.train)
    assert found[1, 2] < found[2, 2] < found[4, 2]
    with pytest.raises(UserError, match="train_labels: 5, but there are 4"):
        load_splits(settings(root, LISTS, train_labels=5))


def test_camera_rules() -> None:
    record = Record("l", "cam3_v1", "north_2", ())
    assert [record.camera(r) for r in ("type_prefix", "view", "view_prefix")] == ["cam3", "north_2", "north"]
    with pytest.raises(UserError, match="type_prefix"):
        record.camera("type_prefx")


def test_validation_share_of_the_labels(tmp_path: Path) -> None:
    root = tmp_path / "data"
    labels = [f"{k:02d}" for k in range(26)]
    for label in labels:
        put(root, f"{label}/a/b", 2)
    data = settings(root, {"TRAIN_SET": labels[::-1][:25], "TEST_SET": ["00"]}, validation=0.1, validation_seed=5)
    splits = load_splits(data)
    order = np.random.default_rng(5).permutation(25)
    assert splits.val.label_set == tuple(sorted(labels[1:][k] for k in order[:2]))  # round(2.5) = 2
    assert set(splits.train.label_set) | set(splits.val.label_set) == set(labels[1:])
    assert not set(splits.train.label_set) & set(splits.val.label_set)
    data.validation = 0.01
    assert len(load_splits(data).val.label_set) == 1
    data.validation = 0.99
    with pytest.raises(UserError, match=r"validation 0.99 of 25"):
        load_splits(data)


def test_val_set_of_the_partition_goes_before_the_share(root: Path) -> None:
    data = settings(root, {**LISTS, "VAL_SET": ["p1"]}, validation=0.5)
    splits = load_splits(data)
    assert splits.val.label_set == ("p1",) and splits.train.label_set == ("p0", "p2", "p3")
    data.camera_split = True
    with pytest.raises(UserError, match=r"camera_split .*VAL_SET"):
        load_splits(data)


def test_camera_split_as_the_thesis(root: Path) -> None:
    splits = load_splits(settings(root, LISTS, camera_split=True, validation=0.1))
    generator, training = random.Random(42), set()
    for label, count in (("p0", 1), ("p1", 2), ("p2", 4), ("p3", 5)):  # one generator for all subjects, in order
        cameras = [f"cam{k}" for k in range(count)]
        generator.shuffle(cameras)
        training |= {(label, c) for c in cameras[:{1: 1, 2: 1, 4: 3, 5: 3}[count]]}
    assert {(r.label, r.camera("type_prefix")) for r in splits.train.records} == training
    assert not names(splits.train) & names(splits.val) and len(splits.train) + len(splits.val) == 24
    assert splits.val.label_set == splits.train.label_set == ("p0", "p1", "p2", "p3")
    assert "p0" not in {r.label for r in splits.val.records} and len(splits.val.indices_by_label[0]) == 0


def test_missing_labels_and_probes(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    lists = {"TRAIN_SET": ["p0", "p1"], "TEST_SET": ["q0", "z1", "z2", "z3", "z4"]}
    with pytest.raises(UserError, match=r"^4 \(z1, z2, z3, \.\.\.\) labels.*missing_labels: warn"):
        load_splits(settings(root, lists))
    splits = load_splits(settings(root, lists, missing_labels="warn"))
    assert splits.dropped["missing_labels"] == 4 and splits.test.label_set == ("q0",) and "z1" in caplog.text
    probes = ["q0-cam0_v0-seq0", "p0-cam0_v0-seq0", "q0-cam0_v0-seq9"]  # a training sequence is no probe
    lists = {**LISTS, "PROBE_SET": probes}
    with pytest.raises(UserError, match=r"^2 \(p0-cam0_v0-seq0, q0-cam0_v0-seq9\) entries of PROBE_SET"):
        load_splits(settings(root, lists))
    splits = load_splits(settings(root, lists, missing_labels="warn"))
    assert splits.probes == {probes[0]} and splits.dropped["missing_probes"] == 2


@pytest.mark.parametrize(("content", "message"), [
    (None, r"does not exist; .*converter.*--partition.*FastPoseGait"),
    ("{", r"is not a readable JSON file"),
    ("[]", r"holds a list"),
    ('{"TRAIN_SET": []}', r"no list TEST_SET"),
    ('{"TRAIN_SET": "p0", "TEST_SET": []}', r"TRAIN_SET must be a list of strings"),
    ('{"TRAIN_SET": ["p0", 7], "TEST_SET": []}', r"TRAIN_SET must be a list of strings, got \[7\]"),
    ('{"TRAIN_SET": ["p0", "p1"], "TEST_SET": ["p1"]}', r"both in TRAIN_SET and TEST_SET: 1 \(p1\)"),
    ('{"TRAIN_SET": [], "TEST_SET": ["p1"], "VAL_SET": ["p1"]}', r"both in VAL_SET and TEST_SET"),
])
def test_partition_faults(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "lists.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_partition(path)
    assert str(path) in str(caught.value)


def test_root_faults(tmp_path: Path) -> None:
    for value in (None, ""):
        with pytest.raises(UserError, match=r"dataset_root is not set"):
            load_splits(settings(tmp_path, LISTS, dataset_root=value))
    with pytest.raises(UserError, match=r"no folder .*nowhere.*converter"):
        find_records(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    (empty / "a/b/c").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no <label>/<type>/<view>"):
        find_records(empty)
    put(empty, "p9/a/b")
    assert [r.paths == () for r in find_records(empty)] == [True, False]
    with pytest.raises(UserError, match=r"none of the 6 labels .* same data set"):
        load_splits(settings(empty, LISTS, missing_labels="warn"))


def test_check_data_finds_every_kind_of_fault(root: Path) -> None:
    put(root, "p0/cam5_v0/still", 20, fill=1.0)
    put(root, "p0/cam5_v0/nan", 20, fill=float("nan"))
    put(root, "p0/cam5_v0/cut", 20)
    (root / "p0/cam5_v0/cut/a.pkl").write_bytes((root / "p0/cam5_v0/cut/a.pkl").read_bytes()[:100])
    put(root, "q0/cam5_v0/twin", 10)
    (root / "q0/cam5_v0/twin/a.pkl").write_bytes((root / "p0/cam0_v0/seq0/a.pkl").read_bytes())
    (root / "p0/cam6_v0/nothing").mkdir(parents=True)
    put(root, "p1/cam1_v9/seq0", 1)  # short, but not constant
    data = settings(root, LISTS, frame_threshold=10)
    with pytest.raises(UserError, match=r"p0/cam5_v0/(cut|nan)/a.pkl"):
        load_splits(data)
    data.frame_threshold = 0
    splits = load_splits(data, joints=17, lenient=True)
    seen: list[tuple[int, int]] = []
    report = check_data(splits, short=10, progress=lambda done, total: seen.append((done, total)))
    found = {kind: {row["name"] for row in rows} for kind, rows in report["problems"].items()}
    tens = {f"{label}-cam0_v0-seq0" for label in ("p0", "p1", "p2", "p3", "q0", "q1")}
    tens |= {"q0-cam5_v0-twin", "p1-cam1_v9-seq0"}
    assert found == {"constant": {"p0-cam5_v0-still"}, "nan": {"p0-cam5_v0-nan"}, "unreadable": {"p0-cam5_v0-cut"},
                     "duplicate": {"q0-cam5_v0-twin"}, "short": tens}
    assert seen == [(k + 1, 37) for k in range(37)]  # 32 sound ones, the faulty ones too
    row = report["splits"]["train"]
    assert (row["labels"], row["sequences"], row["cameras"], row["shortest"]) == (4, 28, 6, 1)
    sound = [i for i, view in enumerate(splits.train.views) if view in ("seq0", "still")]
    assert row["frames"] == sum(len(splits.train.read(i)) for i in sound)
    assert report["dropped"]["empty_folders"] == 1 and report["fingerprint"] == fingerprint(splits)
    data.frame_threshold = 10
    assert load_splits(data, lenient=True).dropped["short_sequences"] == 8


def test_fingerprint_is_of_the_data_not_of_the_place(root: Path, tmp_path: Path) -> None:
    before = fingerprint(load_splits(settings(root, LISTS)))
    moved = root.rename(tmp_path / "elsewhere")
    assert fingerprint(load_splits(settings(moved, LISTS))) == before
    put(moved, "p0/cam8_v0/seq0\udcff")  # a folder's name may be no text
    assert fingerprint(load_splits(settings(moved, LISTS))) != before
