"""Made-up raw releases of action sets in; counts, orders, splits, bodies and refusals of their converters out."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from bpmt_ext.data import bodies, convert
from bpmt_ext.data.bodies import Track, merged, pose_of, ranked, stacked
from bpmt_ext.data.partitions import folds_of
from bpmt_ext.data.pickles import read_pose, write_pickle
from bpmt_ext.data.poseactions import read_annotations, read_skeleton_text
from bpmt_ext.data.posefiles import read_pose_file
from bpmt_ext.data.sequencelists import dealt, group_of, label_of
from bpmt_ext.data.sequences import find_records, load_splits, read_partition
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import get_skeleton

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"converter_{name}", ROOT / "datasets" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


PENN, NTU, UCLA, SKELETICS = (load(name) for name in ("penn_action", "ntu_rgbd", "nw_ucla", "skeletics152"))


def figure(seed: int, t: int = 14, joints: int = 25, coordinates: int = 3) -> np.ndarray:
    """(t, joints, coordinates) of somebody twice as high as wide; x of joint 0 is the frame plus 100."""
    pose = np.random.default_rng(seed).uniform(0, 1, (t, joints, coordinates)).round(4)
    pose[..., 0] += 100
    pose[..., 1] += np.linspace(0, 40, joints)
    pose[:, 0, 0] = 100 + np.arange(t)
    return pose


def skeleton_text(frames: list[list[tuple[str, np.ndarray]]]) -> str:
    lines = [str(len(frames))]
    for people in frames:
        lines.append(str(len(people)))
        for name, pose in people:
            lines += [f"{name} 0 1 1 1 1 0 0.1 -0.2 2", str(len(pose))]
            lines += [" ".join(map(str, [*joint.tolist(), *[0] * 8, 2])) for joint in pose]
    return "\r\n".join(lines) + "\r\n"


def one_body(pose: np.ndarray, name: str = "720") -> str:
    return skeleton_text([[(name, frame)] for frame in pose])


NTU_NAMES = [f"S{s:03d}C{c:03d}P{p:03d}R001A{a:03d}" for c in (1, 2, 3) for a in (1, 60)
             for s, p in ((1, 1), (2, 4), (17, 38), (3, 35), (3, 7))]  # fmt: skip
MISSING = "Samples with missing or incomplete skeletons\n-----\nS001C001P001R001A001\nS009C001P001R001A001\n"


def ntu_raw(root: Path, names: list[str] = NTU_NAMES) -> Path:
    for i, name in enumerate(names):
        path = root / f"nturgb+d_skeletons{i % 2}" / f"{name}.skeleton"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(one_body(figure(i)))
    return root


def annotations(path: Path, names: list[str] = NTU_NAMES) -> Path:
    """The same clips as pyskl publishes them: padded to two bodies, names of the splits beside."""
    entries = []
    for i, name in enumerate(names):
        pose = np.stack([figure(i), np.zeros((14, 25, 3))]).astype(np.float32)
        entries.append({"frame_dir": name, "label": int(name[-3:]) - 1, "total_frames": 14, "keypoint": pose})
    path.write_bytes(pickle.dumps({"split": {"xsub_train": names[:2], "xsub_val": names[2:]}, "annotations": entries}))
    return path


UCLA_NAMES = [(a, s, v) for a in ("a01", "a12") for s in range(1, 11) for v in (1, 2, 3)]


def ucla_raw(root: Path) -> Path:
    (root / "all_sqe").mkdir(parents=True)
    for i, (a, s, v) in enumerate(UCLA_NAMES):
        name = f"{a}_s{s:02d}_e00_v{v:02d}"
        value = {"file_name": name, "skeletons": figure(i, joints=20).tolist(), "label": 1}
        (root / "all_sqe" / f"{name}.json").write_text(json.dumps(value))
    return root


def penn_mat(path: Path, seed: int, action: str | int, train: int, **changes: object) -> None:
    pose = figure(seed, joints=13, coordinates=2)
    seen = (np.random.default_rng(seed).random((14, 13)) < 0.7).astype(np.uint8)
    scipy.io.savemat(path, {"x": pose[..., 0], "y": pose[..., 1], "visibility": seen, "action": action, "pose": "back",
                            "train": train, "nframes": 14, "bbox": np.zeros((14, 4)), **changes})  # fmt: skip


def penn_raw(root: Path) -> Path:
    (root / "labels").mkdir(parents=True)
    for i in range(24):
        action = ("squat", "bowl", "situp")[i % 3]
        penn_mat(root / "labels" / f"{i + 1:04d}.mat", i, action, 1 if i < 18 else -1)
    return root


SKELETICS_NAMES = [("train", "tai chi", "abc_-1"), ("train", "backflip (human)", "-bcd_2"), ("val", "tai chi", "xyz"),
                   ("train", "tai chi", "q"), ("train", "zumba", "r")]


def skeletics_raw(root: Path) -> Path:
    for i, (part, action, video) in enumerate(SKELETICS_NAMES):
        path = root / f"vibe_results_{part}" / action / f"{video}_000005_000015.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        pose = np.zeros((14, 49, 3))
        pose[:, SKELETICS.TO_NTU[:24]] = figure(i)[:, :24]
        path.write_text(json.dumps({"7": {"joints3d": pose.tolist(), "frame_ids": list(range(3, 17))}}))
    return root


RAW: dict[str, tuple[ModuleType, Callable[[Path], Path], int, int]] = {
    "penn": (PENN, penn_raw, 24, 13), "ntu": (NTU, ntu_raw, 30, 25), "ucla": (UCLA, ucla_raw, 60, 20),
    "annotations": (NTU, lambda path: annotations(path.with_suffix(".pkl")), 30, 25),
    "skeletics": (SKELETICS, skeletics_raw, 5, 25),
}  # fmt: skip


def run(converter: ModuleType, raw: Path, out: Path, *options: str) -> int:
    return converter.main(["--input", str(raw), "--output", str(out), "--workers", "1", *options])


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def contents(out: Path, pattern: str = "*.*") -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob(pattern))}


def data_cfg(root: Path, partition: Path | None = None, **changes: object) -> SimpleNamespace:
    base = {"dataset_root": str(root), "dataset_partition": str(partition or root / "partition.json"), "cache": False,
            "frame_threshold": 0, "data_in_use": None, "validation": 0.0, "validation_seed": 0, "min_cameras": 1,
            "train_labels": 0, "train_sequences": 0,
            "camera": "type_prefix", "camera_split": False, "missing_labels": "error", "modality": "pose",
            "packed": False}  # fmt: skip
    return SimpleNamespace(**{**base, **changes})


@pytest.mark.parametrize("name", RAW)
def test_what_comes_out_is_what_training_reads(name: str, tmp_path: Path, capsys) -> None:
    converter, make, count, joints = RAW[name]
    out = tmp_path / "out"
    assert run(converter, make(tmp_path / "raw"), out, "--folds", "2", "--inner") == 0
    assert f"{count} found, {count} written" in capsys.readouterr().out
    records = find_records(out)
    assert len(records) == count
    for record in records:
        pose = read_pose(record.paths[0], joints)
        assert record.paths[0].name == f"{record.view}.pkl" and pose.shape[2] == 3
        np.testing.assert_array_equal(pose[:, 0, 0], 100 + np.arange(14))  # in order, nothing lost
    splits = load_splits(data_cfg(out), joints=joints)
    assert splits.train.label_set == splits.test.label_set == tuple(sorted(splits.train.label_set))
    assert set(converter.ACTIONS.values() if name == "ucla" else converter.ACTIONS) >= set(splits.train.label_set)
    train = {record.place for record in splits.train.records}
    tests = []
    for fold in range(2):
        lists = read_partition(out / "folds" / f"fold{fold}.json")
        assert {*lists.train, *lists.test} == train and not {group_of(x) for x in lists.train} & set(
            map(group_of, lists.test)
        )
        inner = read_partition(out / "folds" / f"fold{fold}_inner.json")
        assert {*inner.train, *inner.test} == set(lists.train)
        tests += lists.test
    assert sorted(tests) == sorted(train)


@pytest.mark.parametrize("name", RAW)
def test_an_interrupted_run_is_continued_to_the_same_result(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    converter, make, _, _ = RAW[name]
    raw, whole, out = make(tmp_path / "raw"), tmp_path / "whole", tmp_path / "out"
    assert run(converter, raw, whole) == 0
    written, write = [], convert.write_pickle

    def interrupted(path: Path, pose: np.ndarray) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, pose)

    monkeypatch.setattr(convert, "write_pickle", interrupted)
    assert run(converter, raw, out) == 130
    monkeypatch.undo()
    assert run(converter, raw, out) == 0 and report(out)["sequences"]["of these already there"] == 2
    for pattern in ("*.pkl", "sequences.jsonl", "partition*.json"):
        assert contents(out, pattern) == contents(whole, pattern)
    capsys.readouterr()
    options = {"ntu": ("--bodies", "2"), "annotations": ("--bodies", "2"), "penn": ("--invisible", "zero"),
               "skeletics": ("--centre",)}.get(name)  # fmt: skip
    if options:
        assert run(converter, raw, out, *options) == 2 and "use another --output" in capsys.readouterr().err


def test_as_a_script_with_worker_processes(tmp_path: Path) -> None:
    raw = annotations(tmp_path / "raw.pkl")  # its jobs carry arrays to the workers
    command = [sys.executable, NTU.__file__, "--input", str(raw), "--output", "two", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert run(NTU, raw, tmp_path / "one") == 0 and contents(tmp_path / "one") == contents(tmp_path / "two")
    assert run(NTU, ntu_raw(tmp_path / "texts"), tmp_path / "texts_out") == 0
    assert contents(tmp_path / "one", "*.pkl") == contents(tmp_path / "texts_out", "*.pkl")


# ---- splits ----


def sides(path: Path) -> tuple[set[str], set[str], set[str]]:
    lists = read_partition(path)
    assert lists.sequences and lists.classes == tuple(sorted(lists.classes))
    return set(lists.train), set(lists.val), set(lists.test)


def test_ntu_splits_follow_performers_cameras_and_setups(tmp_path: Path, capsys) -> None:
    listed = tmp_path / "missing.txt"
    listed.write_text(MISSING)
    raw, out = ntu_raw(tmp_path / "raw"), tmp_path / "out"
    (raw / "S018C001P001R001A001.skeleton").write_text("0")  # of the larger release
    assert run(NTU, raw, out, "--missing", str(listed)) == 0
    said = capsys.readouterr().out
    assert "2 named by --missing, 302 by the release" in said and "S018" in said
    assert report(out)["sequences dropped, by reason"] == {"named by --missing": 1}
    train, val, test = sides(out / "partition.json")
    assert sides(out / "partition_xsub.json") == (train, val, test) and not val
    assert {group_of(x) for x in train} == {"P001", "P004", "P035", "P038"} and {group_of(x) for x in test} == {"P007"}
    assert len(train) == 23 and len(test) == 6 and "drink_water/P001_S001_R001/C001" not in train
    train, _, test = sides(out / "partition_xview.json")
    assert {x[-4:] for x in train} == {"C002", "C003"} and {x[-4:] for x in test} == {"C001"}
    assert len(read_partition(out / "partition.json").classes) == 60
    names = [n.replace("A060", "A120") for n in NTU_NAMES] + ["S032C001P103R002A061", "S031C002P106R001A001"]
    assert run(NTU, ntu_raw(tmp_path / "raw120", names), tmp_path / "out120", "--benchmark", "ntu120") == 0
    train, _, test = sides(tmp_path / "out120" / "partition_xset.json")
    assert all(int(x.split("_S")[1][:3]) % 2 == 0 for x in train)
    assert all(int(x.split("_S")[1][:3]) % 2 for x in test)
    train, _, test = sides(tmp_path / "out120" / "partition_xsub.json")
    assert "put_on_headphone/P103_S032_R002/C001" in train and "drink_water/P106_S031_R001/C002" in test
    assert any(label_of(x) == "rock_paper_scissors" for x in train)


def test_the_published_lists_are_those_of_the_specification() -> None:
    train = NTU.BENCHMARKS["ntu120"].train["xsub"]
    assert sum(train(p, 1, 1) for p in range(1, 107)) == 53 and len(set(NTU.ACTIONS)) == 120
    assert sum(NTU.BENCHMARKS["ntu60"].train["xsub"](p, 1, 1) for p in range(1, 41)) == 20
    assert len(PENN.ACTIONS) == 15 and len(UCLA.ACTIONS) == 10 and len(set(SKELETICS.ACTIONS)) == 152
    for name, actions in (("penn", PENN.ACTIONS), ("skeletics", SKELETICS.ACTIONS)):
        assert list(actions) == sorted(actions), name
    assert NTU.ACTIONS[0] == "drink_water" and NTU.ACTIONS[49] == "punch_slap" and NTU.ACTIONS[59] == "walking_apart"
    assert sum(NTU.BENCHMARKS["ntu60"].whole["xsub"]) == sum(NTU.BENCHMARKS["ntu60"].whole["xview"]) == 56578
    assert sum(NTU.BENCHMARKS["ntu120"].whole["xsub"]) == sum(NTU.BENCHMARKS["ntu120"].whole["xset"]) == 113945


def test_ucla_and_penn_splits(tmp_path: Path) -> None:
    out = tmp_path / "ucla"
    assert run(UCLA, ucla_raw(tmp_path / "raw"), out, "--folds", "5", "--held-out", "0.1", "--seed", "3") == 0
    train, val, test = sides(out / "partition.json")
    assert {x[-3:] for x in train} == {"v01", "v02"} and {x[-3:] for x in test} == {"v03"}
    assert len({group_of(x) for x in val}) == 1 and len(val) == 4 and not {group_of(x) for x in train} & set(
        map(group_of, val)
    )
    train, _, test = sides(out / "partition_view1_view2.json")
    assert {x[-3:] for x in train} == {"v01"} and {x[-3:] for x in test} == {"v02"} and len(test) == 20
    train, _, test = sides(out / "folds" / "fold0.json")
    assert len({group_of(x) for x in test}) == 2 and {x[-3:] for x in test} == {"v01", "v02"} and len(test) == 8
    out = tmp_path / "penn"
    assert run(PENN, penn_raw(tmp_path / "raw_penn"), out, "--folds", "3") == 0
    train, _, test = sides(out / "partition_official.json")
    assert sorted(group_of(x) for x in train) == [f"{i:04d}" for i in range(1, 19)] and len(test) == 6
    for fold in range(3):  # each class is dealt out by itself
        assert Counter(map(label_of, sides(out / "folds" / f"fold{fold}.json")[2])) == dict(squat=2, bowl=2, situp=2)
    assert run(PENN, tmp_path / "raw_penn", out, "--folds", "3", "--fold-blocks", "--inner") == 0
    clips: dict[str, list[str]] = {}
    for place in train:  # neighbours stay together, and those of an inner test lie beside each other as well
        clips.setdefault(label_of(place), []).append(place)
    for fold in range(3):
        test = sides(out / "folds" / f"fold{fold}.json")[2]
        assert sorted(test) == sorted(sum((sorted(of)[2 * fold : 2 * fold + 2] for of in clips.values()), []))
    assert run(PENN, tmp_path / "raw_penn", out, "--folds", "7", "--fold-blocks") == 2  # six clips a class
    assert run(PENN, tmp_path / "raw_penn", out, "--fold-blocks") == 2


@given(st.dictionaries(st.integers(0, 40), st.integers(0, 2), min_size=4), st.integers(2, 4), st.booleans())
@settings(max_examples=40, deadline=None)
def test_folds_keep_groups_together_and_are_even(groups: dict[int, int], folds: int, mixed: bool) -> None:
    places = [f"a{label}/g{group}_{i}/v" for group, label in groups.items() for i in range(2)]
    if mixed:
        places += [f"b/g{group}_9/v" for group in groups]
        expected = [test for _, test in folds_of([f"g{group}" for group in groups], folds)]
        assert [sorted({group_of(place) for place in part}) for part in dealt(places, folds)] == expected
    parts = dealt(places, folds)
    assert sorted(sum(parts, [])) == sorted(places)
    members = [{group_of(place) for place in part} for part in parts]
    assert sum(map(len, members)) == len(groups)
    assert max(map(len, members)) - min(map(len, members)) <= 1
    if not mixed:
        for label in set(groups.values()):
            counts = [len({group_of(x) for x in part if label_of(x) == f"a{label}"}) for part in parts]
            assert max(counts) - min(counts) <= 1
    assert dealt(places[::-1], folds) == parts
    with pytest.raises(UserError, match="between 2 and"):
        dealt(places, len(groups) + 1)


LISTS = {"TRAIN": ["a/s1_e0/v1", "b/s1_e0/v1", "a/s2_e0/v1", "b/s3_e0/v1"], "TEST": ["a/s1_e0/v2", "b/s1_e0/v2"]}


def made_up(root: Path) -> Path:
    for place in [*LISTS["TRAIN"], *LISTS["TEST"], "a/s9_e0/v1", "c/s1_e0/v1"]:
        (root / place).mkdir(parents=True)
        write_pickle(root / place / "v.pkl", np.ones((2 if "s9" in place else 3, 5, 2), np.float32))
    return root


def test_load_splits_of_sequences(tmp_path: Path, caplog) -> None:
    root, path = made_up(tmp_path / "data"), tmp_path / "lists.json"

    def splits(lists: dict, **changes: object):
        path.write_text(json.dumps(lists))
        return load_splits(data_cfg(root, path, **changes), joints=5)

    found = splits(LISTS)
    assert [r.place for r in found.train.records] == sorted(LISTS["TRAIN"])
    assert [r.place for r in found.test.records] == sorted(LISTS["TEST"]) and len(found.val) == 0
    assert found.train.label_set == found.test.label_set == ("a", "b") and found.probes is None
    assert found.dropped["unlisted_sequences"] == 1 and found.dropped["unlisted_labels"] == 1
    assert splits(LISTS, frame_threshold=2).dropped["short_sequences"] == 0  # what is not listed does not count
    with pytest.raises(UserError, match="no sequence of TRAIN is left"):
        splits(LISTS, frame_threshold=3)
    wide = splits({**LISTS, "CLASSES": ["c", "b", "a"], "VAL": ["a/s9_e0/v1"]})
    assert wide.train.label_set == wide.val.label_set == ("a", "b", "c") and len(wide.val) == 1
    assert wide.train.indices_by_label[2].size == 0
    for seed in range(4):  # whole subjects are held out, never one of their clips
        held = splits(LISTS, validation=0.3, validation_seed=seed)
        groups = [{group_of(r.place) for r in half.records} for half in (held.train, held.val)]
        assert len(groups[1]) == 1 and not groups[0] & groups[1] and held.val.label_set == ("a", "b")
    lost = {**LISTS, "TEST": ["a/s1_e0/v2", "a/s7_e0/v2"]}
    with pytest.raises(UserError, match=r"^1 \(a/s7_e0/v2\) sequences of the partition are not in .*missing_labels"):
        splits(lost)
    assert splits(lost, missing_labels="warn").dropped["missing_sequences"] == 1 and "s7" in caplog.text
    with pytest.raises(UserError, match="camera_split"):
        splits(LISTS, camera_split=True)
    with pytest.raises(UserError, match=r"validation 0.9 of 3 training subject or clip\(s\)"):
        splits(LISTS, validation=0.9)


@pytest.mark.parametrize(("change", "words"), [
    ({"VALL": []}, "'VALL' is no list of a partition of sequences; did you mean VAL?"),
    ({"TRAIN": None}, "has no list TRAIN"), ({"TRAIN": "a/b/c"}, "TRAIN must be a list of strings"),
    ({"TEST": [3]}, "TEST must be a list of strings"), ({"TRAIN": ["a"]}, "label/type/view"),
    ({"VAL": ["a-b-c"]}, "VAL holds 'a-b-c'"), ({"TRAIN": ["a//c"]}, "'a//c'"),
    ({"VAL": ["a/s1_e0/v2"]}, "both in VAL and TEST"), ({"VAL": ["a/s1_e0/v1"]}, "both in TRAIN and VAL"),
    ({"CLASSES": ["a"]}, "'b' has sequences but is not among CLASSES"),
    ({"TRAIN_SET": ["a"]}, "has no list TEST_SET"),  # the two forms mixed
])  # fmt: skip
def test_faults_of_a_partition_of_sequences(change: dict, words: str, tmp_path: Path) -> None:
    path = tmp_path / "lists.json"
    path.write_text(json.dumps({k: v for k, v in {**LISTS, **change}.items() if v is not None}))
    with pytest.raises(UserError) as caught:
        read_partition(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


# ---- bodies ----


def naive_ranked(tracks: list[Track], denoise: str) -> list[str]:
    """tlca.md, section 5, a loop at a time."""

    def variance(frames: list[np.ndarray]) -> float:
        return sum(np.var([joint[axis] for frame in frames for joint in frame]) for axis in range(3))

    def is_wide(frame: np.ndarray) -> bool:
        xs, ys = [j[0] for j in frame], [j[1] for j in frame]
        return max(xs) - min(xs) > 0.8 * (max(ys) - min(ys))

    kept = list(tracks)
    if denoise != "off" and len(kept) > 1:
        kept = [t for t in kept if len(t.frames) > 11] or [max(tracks, key=lambda t: len(t.frames))]
    moved = {t.name: variance(list(t.joints)) for t in kept}
    if denoise != "off":
        for track in list(kept):
            wide = [is_wide(frame) for frame in track.joints]
            if len(kept) > 1 and any(wide):
                if sum(wide) / len(wide) >= 0.69754:
                    kept.remove(track)
                else:
                    narrow = [frame for frame, bad in zip(track.joints, wide, strict=True) if not bad]
                    moved[track.name] = min(moved[track.name], variance(narrow))
    kept = sorted(kept, key=lambda t: moved[t.name], reverse=True)
    if denoise == "motion":
        kept = kept[:1] + [t for t in kept[1:] if 0.089925 <= moved[t.name] <= 2]
    return [t.name for t in kept]


@given(st.lists(st.tuples(st.integers(2, 24), st.sampled_from([0.0, 0.3, 0.69, 0.7, 1.0]),
                          st.sampled_from([0.1, 0.5, 1.0, 3.0])), min_size=1, max_size=5),
       st.sampled_from(bodies.DENOISE), st.integers(0, 9))  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_denoising_is_the_specified_loop(kinds: list, denoise: str, seed: int) -> None:
    rng, tracks = np.random.default_rng(seed), []
    for i, (length, wide, size) in enumerate(kinds):
        joints = rng.normal(size=(length, 6, 3)) * size * [0.1, 1, 0.3]
        joints[: round(wide * length), :, 0] *= 40
        tracks.append(Track(str(i), np.arange(length) + 3 * i, joints))
    kept, out = ranked(tracks, denoise)
    assert [t.name for t in kept] == naive_ranked(tracks, denoise)
    assert sum(out.values()) == sum(len(t.frames) for t in tracks) - sum(len(t.frames) for t in kept)


def test_the_thresholds_of_the_denoising() -> None:
    upright = np.array([[0, 0, 0], [0.5, 1, 0.5]])

    def track(name: str, length: int, wide: int = 0, size: float = 1.0) -> Track:
        joints = np.tile(upright * size, (length, 1, 1))
        joints[:wide, 1, 0] = 0.81 * size
        return Track(name, np.arange(length), joints)

    def kept(*tracks: Track, rule: str = "published") -> set[str]:
        return {t.name for t in ranked(tracks, rule)[0]}

    main = track("main", 200, size=2.0)
    assert kept(main, track("11", 11), track("12", 12)) == {"main", "12"}
    assert kept(main, track("113 of 162", 162, 113), track("30 of 43", 43, 30)) == {"main", "113 of 162"}
    assert not bodies.wide_frames(np.array([[[0, 0], [0.8, 1]]])).any()  # 0.8 itself is no noise
    assert kept(track("a", 3), track("b", 5)) == {"b"} and kept(track("a", 3)) == {"a"}  # one always stays
    exact = bodies.motion(track("x", 12).joints)  # 0.375
    below, above = (np.sqrt(edge / exact) for edge in (0.089925, 2.0))
    tracks = [track("largest", 12, size=9), *(track(f"{size}", 12, size=size) for size in (
        below * 0.999, below * 1.001, above * 0.999, above * 1.001))]  # fmt: skip
    assert kept(*tracks, rule="motion") == {"largest", tracks[2].name, tracks[3].name}
    assert len(kept(*tracks)) == 5 and len(kept(*tracks, main, rule="off")) == 6


def test_bodies_are_followed_by_their_ids(tmp_path: Path) -> None:
    calm, lively = figure(1), figure(2)
    lively[..., 2] += np.linspace(0, 9, 14)[:, None]
    frames = [[("5", calm[t]), ("6", lively[t])][:: 1 if t % 2 else -1] for t in range(14)]
    frames[4] = [frames[4][0]] if frames[4][0][0] == "5" else [frames[4][1]]  # the lively one is away
    frames.insert(7, [])  # nobody is there
    path = tmp_path / "S001C001P001R001A050.skeleton"
    path.write_text(skeleton_text(frames))
    clip = read_skeleton_text(path)
    assert clip.frames == 15 and sorted(len(t.frames) for t in clip.tracks) == [13, 14]
    raw = pose_of(clip.tracks, clip.frames, bodies=2, joints=25)
    assert raw.pose.shape == (14, 50, 3) and raw.dropped == {"nobody in it": 1}
    np.testing.assert_allclose(raw.pose[:, 25:], calm)
    expected = lively.copy()
    expected[4] = lively[3]
    np.testing.assert_allclose(raw.pose[:, :25], expected)
    one = pose_of(clip.tracks, clip.frames, bodies=1, joints=25)
    np.testing.assert_allclose(one.pose, np.delete(lively, 4, axis=0))
    zero = pose_of(clip.tracks, clip.frames, bodies=2, joints=25, absent="zero", centre=1).pose
    np.testing.assert_allclose(zero[:, 25:], calm - lively[0, 1])  # the origin is the first body's
    assert not zero[4, :25].any() and zero[3, :25].any() and not zero[0, 1].any()
    found = read_pose_file(path)
    assert found.joint_format == "ntu25" and found.pose.shape == (13, 25, 3)
    assert run(NTU, tmp_path, tmp_path / "out", "--bodies", "2") == 0
    assert read_pose(next((tmp_path / "out").rglob("*.pkl")), 50).shape == (14, 50, 3)
    assert pose_of([], 5, bodies=2, joints=25).refused == "nobody in it"


def test_one_body_fills_both_places_and_ids_in_turn_are_one_body() -> None:
    poses = {n: figure(i, 12)[:, :4] for i, n in enumerate("abc")}
    first, second = Track("a", np.arange(12), poses["a"]), Track("b", np.arange(12, 24), poses["b"])
    meanwhile = Track("c", np.arange(6, 18), poses["c"])
    alone = pose_of([first], 12, bodies=2, joints=4)
    np.testing.assert_array_equal(alone.pose[:, 4:], alone.pose[:, :4])
    assert alone.facts["one body, the other filled in"] == 12
    assert not pose_of([first], 12, bodies=2, joints=4, absent="zero").pose[:, 4:].any()
    places, lost = merged([first, second, meanwhile], 2)
    assert [p.name for p in places] == ["a", "c"] and lost == 0 and len(places[0].frames) == 24
    np.testing.assert_array_equal(places[0].joints, np.concatenate([poses["a"], poses["b"]]))
    assert merged([first, meanwhile, second], 1)[1] == 12
    touching = Track("d", np.arange(11, 14), poses["b"][:3])
    (joined,), _ = merged([first, touching], 1)
    np.testing.assert_array_equal(joined.frames, np.arange(14))
    np.testing.assert_array_equal(joined.joints[11], poses["b"][0])  # the later one has the shared frame
    gap = Track("e", np.array([2, 3, 9]), poses["c"][:3])
    filled = stacked([first, gap], 2)[:, 4:]
    np.testing.assert_array_equal(filled, gap.joints[[0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]])


def test_skeletics_joints_are_brought_into_the_order_of_ntu(tmp_path: Path) -> None:
    names = get_skeleton("ntu25").joints
    vibe = {39: "spine_base", 34: "left_shoulder", 31: "right_wrist", 28: "left_hip", 25: "right_ankle", 40:
            "spine_shoulder"}  # fmt: skip
    assert all(SKELETICS.TO_NTU[names.index(joint)] == k for k, joint in vibe.items())
    mirror = np.array(get_skeleton("ntu25").mirror)
    sides = {25: 30, 26: 29, 27: 28, 31: 36, 32: 35, 33: 34, 19: 22} | {30: 25, 29: 26, 28: 27, 36: 31, 35: 32, 34: 33,
                                                                       22: 19}  # fmt: skip
    to = np.array(SKELETICS.TO_NTU)
    assert [sides.get(k, k) for k in to] == to[mirror].tolist()


# ---- Penn's joints without a place ----


@given(st.integers(1, 9), st.integers(0, 99), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_places_are_filled_as_a_loop_would(t: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    pose = np.concatenate([rng.uniform(50, 90, (t, 13, 2)), rng.integers(0, 2, (t, 13, 1))], axis=2)
    pose[(rng.random((t, 13)) < share) & (pose[..., 2] == 0), :2] = 0.75
    pose[:, rng.integers(0, 13, 2)] = [0.75, 0.75, 0]
    before = pose.copy()
    filled, lost = PENN.fill_places(pose)
    np.testing.assert_array_equal(pose, before)
    mirror, expected = get_skeleton("penn13").mirror, pose.copy()
    there = [[f for f in range(t) if not lost[f, j]] for j in range(13)]
    for j in range(13):
        for f in range(t):
            early, late = [x for x in there[j] if x <= f], [x for x in there[j] if x >= f]
            if early and late:
                a, b = early[-1], late[0]
                w = 0 if a == b else (f - a) / (b - a)
                expected[f, j, :2] = (1 - w) * pose[a, j, :2] + w * pose[b, j, :2]
            elif early or late:
                expected[f, j, :2] = pose[early[-1] if early else late[0], j, :2]
    placed = [j for j in range(13) if there[j]]
    for j in range(13):
        if placed and not there[j]:
            expected[:, j, :2] = expected[:, mirror[j], :2] if there[mirror[j]] else expected[:, placed, :2].mean(1)
    np.testing.assert_allclose(filled, expected)
    np.testing.assert_array_equal(filled[..., 2], pose[..., 2])


def test_penn_visibility_is_the_confidence(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    seen = np.ones((14, 13), np.uint8)
    seen[3, 4] = seen[5, 6] = 0
    x = figure(0, joints=13)[..., 0]
    x[5, 6] = 1
    y = figure(0, joints=13)[..., 1]
    y[5, 6] = 1
    penn_mat(tmp_path / "labels" / "0001.mat", 0, "bowl", 1, visibility=seen, x=x, y=y)
    for rule in ("fill", "keep", "zero"):
        assert run(PENN, tmp_path, tmp_path / rule, "--invisible", rule) == 0
        pose = read_pose(next((tmp_path / rule).rglob("*.pkl")), 13)
        np.testing.assert_array_equal(pose[..., 2], seen)
        np.testing.assert_allclose(pose[3, 4, :2], (0, 0) if rule == "zero" else (x[3, 4], y[3, 4]), rtol=1e-6)
        middle = ((x[4, 6] + x[6, 6]) / 2, (y[4, 6] + y[6, 6]) / 2)
        np.testing.assert_allclose(pose[5, 6, :2], {"fill": middle, "keep": (1, 1), "zero": (0, 0)}[rule], rtol=1e-6)
    found = read_pose_file(tmp_path / "labels" / "0001.mat")
    assert found.joint_format == "penn13" and found.pose.shape == (14, 13, 3)


# ---- bad input ----


@pytest.mark.parametrize("name", ["penn", "ntu", "ucla", "skeletics"])
def test_no_sequence_is_status_2_and_says_what_was_expected_and_found(name: str, tmp_path: Path, capsys) -> None:
    converter = RAW[name][0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong" / "labels").mkdir(parents=True)
    for place in ("wrong/alice.txt", "wrong/labels/alice.txt"):
        (tmp_path / place).write_text("x")
    for raw in (tmp_path / "empty", tmp_path / "missing", tmp_path / "wrong"):
        assert run(converter, raw, tmp_path / "out") == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and str(raw) in message and not (tmp_path / "out").exists()
        if raw.name == "wrong":
            assert "expected" in message and "alice" in message
    good = RAW[name][1](tmp_path / "good")
    for options, words in ((("--folds", "99"), "--folds 99 must be between 2"), (("--inner",), "--inner needs --folds"),
                           (("--workers", "0"), "--workers 0"),
                           (("--held-out", "1.5"), "--held-out is 1.5")):  # fmt: skip
        assert run(converter, good, tmp_path / "out", *options) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_truncated_skeleton_is_refused_with_its_line(tmp_path: Path, capsys) -> None:
    path = tmp_path / "S001C001P001R001A001.skeleton"
    lines = one_body(figure(0, t=2)).split("\r\n")[:-1]
    for cut in range(len(lines)):
        path.write_text("\r\n".join(lines[:cut]) + "\r\n")
        with pytest.raises(UserError, match=f"A001.skeleton: ends in line {cut} where .* should follow") as caught:
            read_skeleton_text(path)
        assert "\n" not in str(caught.value)
    broken = {
        "a joint": (9, "1 2 3"), "not a number": (9, "1 2 x " + "0 " * 9), "24 joints": (3, "24"), "bodies": (1, "-1"),
        "joints": (3, "99999999999"), "frames": (0, "1e9"), "a body": (2, "1 2"), "goes on": (0, "1"),
        "ends in": (0, "3"),
    }  # fmt: skip
    for words, (line, text) in broken.items():
        path.write_text("\n".join(lines[:line] + [text] + lines[line + 1 :]))
        with pytest.raises(UserError) as caught:
            read_skeleton_text(path)
        assert words in str(caught.value) and str(path) in str(caught.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read as text"):
        read_skeleton_text(path)
    raw = ntu_raw(tmp_path / "raw")
    (next(raw.rglob("*A060.skeleton"))).write_text("3\n1\n")
    assert run(NTU, raw, tmp_path / "out") == 0  # the others are converted
    assert report(tmp_path / "out")["sequences dropped, by reason"] == {"cannot be read": 1}
    assert "ends in line 2" in report(tmp_path / "out")["left out"][0]
    twice = skeleton_text([[("1", figure(0)[0]), ("1", figure(1)[0])]])
    path.write_text(twice.replace("100.0 ", "nan ", 1))
    clip = read_skeleton_text(path)
    assert not clip.tracks and clip.facts == {"body id twice in a frame": 1, "body with a number that is not finite": 1}


def test_json_of_another_kind_is_refused(tmp_path: Path) -> None:
    raw = ucla_raw(tmp_path / "raw")
    files = sorted((raw / "all_sqe").iterdir())
    good = json.loads(files[0].read_text())
    values = [{}, [], {**good, "skeletons": []}, {**good, "skeletons": [[[1, 2]]]}, {**good, "skeletons": "x"},
              {**good, "skeletons": [*good["skeletons"], [[1, 2, 3]]]}, {**good, "file_name": "a01_s09_e09_v01"},
              {**good, "skeletons": [[["a"] * 3] * 20]}]  # fmt: skip
    for path, value in zip(files, values, strict=False):
        path.write_text(json.dumps(value))
    files[len(values)].write_text('{"skeletons": [[')
    assert run(UCLA, raw, tmp_path / "out") == 0
    found = report(tmp_path / "out")
    assert found["sequences dropped, by reason"] == {"cannot be read": len(values) + 1}
    assert all(str(path) in " ".join(found["left out"]) for path in files[: len(values) + 1])
    last = read_pose_file(files[-1])
    assert last.joint_format == "kinect20" and last.pose.shape == (14, 20, 3)
    raw = skeletics_raw(tmp_path / "skeletics")
    first, second, *_ = sorted(raw.rglob("*.json"))
    first.write_text(json.dumps({"1": {"joints3d": np.zeros((2, 49, 3)).tolist(), "frame_ids": [4, 4]}}))
    second.write_text(json.dumps({"1": {"joints3d": np.zeros((2, 30, 3)).tolist(), "frame_ids": [4, 5]}}))
    assert run(SKELETICS, raw, tmp_path / "out_s") == 0
    left_out = " ".join(report(tmp_path / "out_s")["left out"])
    assert "not rising frame numbers" in left_out and "30 joints, 49 expected" in left_out


def test_mat_of_another_kind_is_refused(tmp_path: Path, capsys) -> None:
    raw = penn_raw(tmp_path / "raw")
    folder = raw / "labels"
    (folder / "0001.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: x" + b" " * 200)
    (folder / "0002.mat").write_bytes((folder / "0002.mat").read_bytes()[:700])
    scipy.io.savemat(folder / "0003.mat", {"fea": np.zeros(3)})
    penn_mat(folder / "0004.mat", 0, "juggling", 1)
    penn_mat(folder / "0005.mat", 0, "bowl", 0)
    penn_mat(folder / "0006.mat", 0, 3, 1)
    penn_mat(folder / "0007.mat", 0, "bowl", 1, x=np.zeros((13, 13)))
    penn_mat(folder / "0008.mat", 0, "bowl", 1, visibility=np.full((14, 13), 2))
    penn_mat(folder / "0009.mat", 0, "bowl", 1, y=np.zeros((14, 12)))
    penn_mat(folder / "0010.mat", 0, "../../up", 1)
    assert run(PENN, raw, tmp_path / "out") == 0
    found = report(tmp_path / "out")
    passed = " ".join(found["passed over"]["names"])
    for words in ("0001.mat", "0003.mat: has no action and no pose and no train", "'juggling'", "neither 1 nor -1",
                  "action is no text", "'../../up'"):  # fmt: skip
        assert words in passed, words
    left_out = " ".join(found["left out"]) + passed
    for words in ("have 13, 14, 14 frames", "other numbers than 0 and 1", "y is (14, 12)", "0002.mat"):
        assert words in left_out, words
    assert not (tmp_path / "up").exists() and not list(tmp_path.parent.glob("up"))


def test_annotation_pickles_of_another_kind_are_refused(tmp_path: Path, capsys) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return Path.mkdir, (tmp_path / "made",)

    good = pickle.loads(annotations(tmp_path / "good.pkl").read_bytes())
    entry = good["annotations"][0]
    path = tmp_path / "bad.pkl"
    cases: list[tuple[object, str]] = [
        (Evil(), "refused"), ([], "no annotation pickle"), ({"split": {}, "annotations": []}, "no annotation pickle"),
        ({**good, "split": {"x": [3]}}, "no annotation pickle"),
        ({**good, "annotations": [{**entry, "frame_dir": 3}]}, "annotations[0] has no frame_dir"),
        ({**good, "annotations": [{**entry, "label": -1}]}, "annotations[0] has no frame_dir"),
        ({**good, "annotations": [{**entry, "keypoint": np.zeros((2, 3))}]}, "keypoint is (2, 3)"),
        ({**good, "annotations": [{**entry, "keypoint": np.zeros((1, 3, 25, 2))}]}, "neither 3D nor 2D"),
        ({**good, "annotations": [{**entry, "keypoint": np.zeros((1, 3, 17, 2)),
                                   "keypoint_score": np.zeros((1, 3, 17))}]}, "17 joints in 2D"),
        ({**good, "annotations": [{**entry, "frame_dir": "../../S001C001P001R001A001"}]}, "none of its 1 clips"),
    ]  # fmt: skip
    for value, words in cases:
        path.write_bytes(pickle.dumps(value))
        assert run(NTU, path, tmp_path / "out") == 2
        message = capsys.readouterr().err
        assert words in message and str(path) in message and message.count("\n") == 1
    assert not (tmp_path / "made").exists() and not (tmp_path / "out").exists()
    flat = {**entry, "keypoint": np.ones((1, 3, 17, 2), np.float16), "keypoint_score": np.ones((1, 3, 17), np.float16)}
    path.write_bytes(pickle.dumps({**good, "annotations": [flat]}))
    splits, (read,) = read_annotations(path)
    assert read.scored and read.clip.tracks[0].joints.shape == (3, 17, 3) and list(splits) == ["xsub_train", "xsub_val"]


def test_a_missing_list_without_names_is_refused(tmp_path: Path, capsys) -> None:
    raw = ntu_raw(tmp_path / "raw")
    (tmp_path / "none.txt").write_text("nothing\n")
    for path in (tmp_path / "none.txt", tmp_path / "absent.txt"):
        assert run(NTU, raw, tmp_path / "out", "--missing", str(path)) == 2
        assert str(path) in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_nothing_is_written_outside_the_output(tmp_path: Path, capsys) -> None:
    raw, out, other = ucla_raw(tmp_path / "raw"), tmp_path / "out", tmp_path / "other"
    other.mkdir(), out.mkdir()
    (out / "carry").symlink_to(other)
    assert run(UCLA, raw, out) == 2
    assert "a link leads out of" in capsys.readouterr().err and not list(other.iterdir())
