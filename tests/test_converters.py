"""Every benchmark's converter on a made-up raw folder in its layout: counts, orders, splits, report, and bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpmt_ext.data import convert
from bpmt_ext.data.benchmarks import CCPG_TYPES
from bpmt_ext.data.convert import Job, Raw
from bpmt_ext.data.partitions import Benchmark, missing
from bpmt_ext.data.pickles import read_pose, write_pickle
from bpmt_ext.data.posearrays import doubts
from bpmt_ext.data.sequences import find_records, read_partition
from bpmt_ext.skeletons import get_skeleton

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"converter_{name}", ROOT / "datasets" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


NAMES = ("casiab", "oumvlp", "grew", "ccpg", "sustech1k", "generic")
CASIAB, OUMVLP, GREW, CCPG, SUSTECH, GENERIC = (load(name) for name in NAMES)


def walk(seed: int, t: int = 5, joints: int = 17) -> np.ndarray:
    """(t, joints, 3) pixels and confidences of somebody standing upright; x of joint 0 is the frame plus 100."""
    pose = np.random.default_rng(seed).uniform(0, 20, (t, joints, 3))
    pose[..., 0] += 60
    pose[..., 1] += np.linspace(40, 200, joints)
    pose[..., 2] = 0.3 + pose[..., 2] / 30
    pose[:, 0, 0] = 100 + np.arange(t)
    return pose


def put(path: Path, pose: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pickle(path, pose)
    return path


def run(converter: ModuleType, raw: Path, out: Path, *options: str) -> int:
    return converter.main(["--input", str(raw), "--output", str(out), "--workers", "1", *options])


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def contents(out: Path, pattern: str = "*.pkl") -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob(pattern))}


CASIAB_NAMES = [(label, kind, view) for label in ("001", "074", "075") for kind in ("nm-01", "cl-02")
                for view in ("000", "018")]  # fmt: skip


def casiab_raw(root: Path) -> Path:
    for i, (label, kind, view) in enumerate(CASIAB_NAMES):
        folder = put(root / label / kind / view / f"{view}.pkl", walk(i)).parent
        (folder / "mapping.txt").write_text("0 0")
    return root


def casiab_csv(path: Path, header: bool = True) -> Path:
    rows = ["image_name," + ",".join(f"v{i}" for i in range(51))] if header else []
    for i, name in enumerate(CASIAB_NAMES):
        for t, frame in list(enumerate(walk(i), 8))[::-1]:
            rows.append(f"./frames/{'-'.join(name)}/{t}.jpg," + ",".join(map(repr, frame.ravel().tolist())))
    path.write_text("\n".join(rows) + "\n")
    return path


def people(*poses: np.ndarray) -> str:
    return json.dumps({"people": [{"pose_keypoints_2d": pose.ravel().tolist()} for pose in poses]})


OUMVLP_NAMES = [(label, session, view) for label in ("00001", "00002", "10307") for session in ("00", "01")
                for view in ("000", "195")]  # fmt: skip


def oumvlp_raw(root: Path) -> Path:
    """In 00001/00 at 195 degrees another one is listed first in three of the frames 8 to 12; frame 13 is empty."""
    for i, (label, session, view) in enumerate(OUMVLP_NAMES):
        folder = root / "alphapose" / label / f"{view}_{session}"
        folder.mkdir(parents=True)
        for t, frame in enumerate(walk(i, joints=18), 8):
            listed = [frame, frame + [300, 0, 0]]
            if (label, session, view) != OUMVLP_NAMES[1]:
                listed = listed[:1]
            elif t in (9, 11, 12):
                listed = [listed[1], listed[0]] if t != 11 else listed[::-1]
            (folder / f"{t:04d}_keypoint.json").write_text(people(*listed))
        (folder / "0013_keypoint.json").write_text(people())
    return root


GREW_PLACES = ["train/00001/4XPn5Z28", "train/20000/5TXe8svE", "test/gallery/00001/t16VLaQf", "test/probe/etaGVnWf",
               "test/gallery/00001/79XJefi8", "test/gallery/06000/aaaaaaaa", "test/probe/eT1EXpgZ"]  # fmt: skip


def grew_raw(root: Path) -> Path:
    for i, place in enumerate(GREW_PLACES):
        folder = root / place
        folder.mkdir(parents=True)
        (folder.parent / f"{folder.name}_gei.png").write_bytes(b"png")
        for t, frame in enumerate(walk(i), 8):
            numbers = ",".join(map(str, [64, 128, *frame.ravel()]))
            (folder / f"{t}_2d_pose.txt").write_text(numbers)
            (folder / f"{t}_3d_pose.txt").write_text("1,2,3")
            (folder / f"{t}.png").write_bytes(b"png")
    return root


def ccpg_raw(root: Path) -> Path:
    for i, (label, kind) in enumerate((label, kind) for label in ("000", "099", "100") for kind in CCPG_TYPES[:3]):
        put(root / label / kind / "03_0_0" / "00-pose.pkl", walk(i))
    return root


def sustech_raw(root: Path) -> Path:
    for i, (label, kind) in enumerate((label, kind) for label in ("0000", "0001") for kind in ("00-nm", "01-bg-nt")):
        for angle in ("000", "090"):
            folder = root / label / kind / angle
            put(folder / f"03-{angle}-Camera-Pose.pkl", walk(i + int(angle), t=9))
            put(folder / f"11-sync-{angle}-Camera-Pose.pkl", walk(i + int(angle), t=3))
            put(folder / f"04-{angle}-Camera-Ratios-HW.pkl", np.ones(9))
    return root


MANIFEST = {
    "joint_format": "coco17", "frame_rate": 25,
    "sequences": [{"file": f"files/{label}{kind}.npz", "label": label, "type": kind, "view": "cam-1", "split": split}
                  for label, split in (("anna", "train"), ("bert", "train"), ("carl", "test"), ("dora", "val"))
                  for kind in ("a", "b")],
}  # fmt: skip


def generic_raw(root: Path) -> Path:
    (root / "files").mkdir(parents=True)
    for i, entry in enumerate(MANIFEST["sequences"]):
        np.savez(root / entry["file"], pose=walk(i))
    (root / "manifest.json").write_text(json.dumps(MANIFEST))
    return root


RAW: dict[str, tuple[ModuleType, Callable[[Path], Path], int]] = {
    "casiab": (CASIAB, casiab_raw, 12), "casiab csv": (CASIAB, lambda p: casiab_csv(p.with_suffix(".csv")), 12),
    "oumvlp": (OUMVLP, oumvlp_raw, 12), "grew": (GREW, grew_raw, 7), "ccpg": (CCPG, ccpg_raw, 9),
    "sustech1k": (SUSTECH, sustech_raw, 8), "generic": (GENERIC, generic_raw, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_what_comes_out_is_what_training_reads(name: str, tmp_path: Path, capsys) -> None:
    converter, make, count = RAW[name]
    out = tmp_path / "out"
    assert run(converter, make(tmp_path / "raw"), out, "--folds", "2", "--inner") == 0
    assert f"{count} found, {count} written" in capsys.readouterr().out
    records = find_records(out)
    assert len(records) == count
    for record in records:
        assert record.paths[0].name == f"{record.view}.pkl"
        pose = read_pose(record.paths[0], 17)
        assert pose.shape[2] == 3 and pose[0, 0, 0] == 100 and (np.diff(pose[:, 0, 0]) == 1).all()  # in order
    if name != "sustech1k":
        lists = read_partition(out / "partition.json")
        assert set(lists.train + lists.test + lists.val) == {record.label for record in records}
    assert {path.name for path in (out / "folds").iterdir()} == {
        "fold0.json", "fold1.json", "fold0_inner.json", "fold1_inner.json"}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_an_interrupted_run_is_continued_to_the_same_result(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    converter, make, count = RAW[name]
    raw, whole, out = make(tmp_path / "raw"), tmp_path / "whole", tmp_path / "out"
    assert run(converter, raw, whole) == 0
    written, write = [], convert.write_pickle

    def interrupted(path: Path, pose: np.ndarray) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(path, pose)

    monkeypatch.setattr(convert, "write_pickle", interrupted)
    assert run(converter, raw, out) == 130
    monkeypatch.undo()
    before = {path: path.stat().st_mtime_ns for path in written}
    assert len(contents(out)) == 3
    assert run(converter, raw, out) == 0
    assert report(out)["sequences"]["of these already there"] == 3
    assert before == {path: path.stat().st_mtime_ns for path in written}  # not written again
    for pattern in ("*.pkl", "sequences.jsonl", "partition.json"):
        assert contents(out, pattern) == contents(whole, pattern)


@pytest.mark.parametrize("name", ["casiab csv", "generic"])  # their jobs carry more than names to the workers
def test_as_a_script_with_worker_processes(name: str, tmp_path: Path) -> None:
    converter, make, count = RAW[name]
    raw = make(tmp_path / "raw")
    command = [sys.executable, converter.__file__, "--input", str(raw), "--output", "two", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{count} written" in done.stdout
    assert run(converter, raw, tmp_path / "one") == 0
    assert contents(tmp_path / "two", "*.*") == contents(tmp_path / "one", "*.*")


@pytest.mark.parametrize("name", NAMES)
def test_no_sequence_is_status_2_and_says_what_was_expected_and_found(name: str, tmp_path: Path, capsys) -> None:
    converter = RAW[name][0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong" / "alice" / "walk7").mkdir(parents=True)
    for raw in (tmp_path / "empty", tmp_path / "missing", tmp_path / "wrong"):
        assert run(converter, raw, tmp_path / "out") == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and str(raw) in message and not (tmp_path / "out").exists()
        if raw.name == "wrong" and name != "generic":
            assert "expected" in message and "found alice" in message


def test_the_splits_are_those_of_the_benchmarks() -> None:
    for module, train, test in ((CASIAB, 74, 50), (OUMVLP, 5153, 5154), (GREW, 20000, 6001), (CCPG, 100, 100)):
        rule = module.BENCHMARK
        assert (len(rule.train), len(rule.test)) == (train, test) and not set(rule.train) & set(rule.test)
    assert (CASIAB.BENCHMARK.train[-1], CASIAB.BENCHMARK.test[0]) == ("074", "075")
    assert OUMVLP.BENCHMARK.train[-1] == "10305" and OUMVLP.BENCHMARK.test[-2:] == ("10306", "10307")
    assert CCPG.BENCHMARK.train[-1] == "099" and GREW.BENCHMARK.test[-1] == "probe"
    grids = [sum(len(list(b.grid(label))) for label in b.train + b.test) for b in (CASIAB.BENCHMARK, OUMVLP.BENCHMARK)]
    assert grids == [124 * 10 * 11, 10307 * 2 * 14]


@given(st.sets(st.tuples(*(st.sampled_from("abc"),) * 3)), st.sets(st.sampled_from("abcd")))
@settings(max_examples=40, deadline=None)
def test_missing_against_a_naive_count(there: set[tuple[str, str, str]], labels: set[str]) -> None:
    targets = [f"{label}/{kind}/{view}/{view}.pkl" for label, kind, view in there]
    found = missing(targets, sorted(labels), lambda label: [f"{kind}/{view}" for kind in "ab" for view in "bc"])
    absent = [(x, k, v) for x in sorted(labels) for k in "ab" for v in "bc" if (x, k, v) not in there]
    at_hand = [name for name in absent if any(name[0] == label for label, _, _ in there)]
    assert found == {"of": 4 * len(labels), "missing": len(absent), "at labels that are here": len(at_hand),
                     "names": ["/".join(name) for name in at_hand][:20]}  # fmt: skip


def test_casiab_table_and_pickles_give_the_same(tmp_path: Path, capsys) -> None:
    assert run(CASIAB, casiab_raw(tmp_path / "raw"), tmp_path / "a") == 0
    printed = capsys.readouterr().out
    assert "2 of 74 TRAIN_SET labels and 1 of 50 TEST_SET labels are here" in printed
    assert "missing from the full grid: 13628 of 13640, of these 318 at labels that are here (001/nm-01/036;" in printed
    assert "passed over" not in printed  # mapping.txt belongs there
    assert read_partition(tmp_path / "a" / "partition.json").train == ("001", "074")
    for header in (True, False):
        out = tmp_path / f"b{header}"
        assert run(CASIAB, casiab_csv(tmp_path / "t.csv", header), out) == 0
        assert contents(out) == contents(tmp_path / "a")
    assert report(out)["noticed"]["rows out of order in the file"] == {"sequences": 12, "frames": 48}


def test_casiab_bad_input(tmp_path: Path, capsys) -> None:
    raw = casiab_raw(tmp_path / "raw")
    put(raw / "125" / "nm-01" / "000" / "000.pkl", walk(0))  # no such subject
    put(raw / "001" / "nm-07" / "000" / "000.pkl", walk(0))
    place = raw / "001" / "nm-01"
    (place / "000" / "000.pkl").write_bytes(b"\x80\x04torn")
    put(place / "018" / "018.pkl", walk(1)[:, :16])
    put(place / "036" / "036.pkl", walk(2)[..., :2])
    put(place / "054" / "a.pkl", walk(3) * [0.004, 0.004, 9])  # another name, normalised, strange confidences
    put(place / "072" / "072.pkl", walk(4).reshape(5, 51))
    put(place / "090" / "a.pkl", walk(5)), put(place / "090" / "b.pkl", walk(5))
    (place / "108").mkdir()
    put(place / "126" / "126.pkl", walk(6)), put(place / "126" / "a-sils.pkl", np.zeros((5, 64, 64)))
    assert run(CASIAB, raw, tmp_path / "out") == 0
    found = report(tmp_path / "out")
    assert found["sequences dropped, by reason"] == {
        "not a pickle of poses": 2, "several pickles, none told by its name": 1, "no pickle": 1}  # fmt: skip
    assert found["passed over"]["count"] == 2 and "001/nm-07" in capsys.readouterr().out
    noticed = {key: count["frames"] for key, count in found["noticed"].items()}
    assert noticed["no confidence in the file, set to 1"] == 5 and noticed["confidence outside 0 to 1"] == 5
    assert noticed["coordinates are not in pixels (all within -2 to 2)"] == 5
    assert any("(5, 16, 3)" in fault for fault in found["left out"])
    assert (read_pose(tmp_path / "out/001/nm-01/036/036.pkl")[..., 2] == 1).all()
    assert (tmp_path / "out/001/nm-01/126/126.pkl").exists()
    assert run(CASIAB, raw, tmp_path / "named", "--pose-file", "b.pkl") == 0
    assert (tmp_path / "named/001/nm-01/090/090.pkl").exists()
    casiab_csv(raw / "casia-b_pose_coco.csv")
    assert run(CASIAB, raw, tmp_path / "mixed") == 2 and "holds both" in capsys.readouterr().err
    path = casiab_csv(tmp_path / "t.csv")
    assert run(CASIAB, path, tmp_path / "out") == 2 and "use another --output" in capsys.readouterr().err
    whole = path.read_text()
    one = ",1" * 51
    path.write_text(whole + f"x/125-nm-01-000/1.jpg{one}\nx/001-nm-01-000/99.jpg{one[:-9]}\nx/001-nm-01-000/100.jpg,1")
    assert run(CASIAB, path, tmp_path / "cut") == 0
    assert report(tmp_path / "cut")["frames dropped, by reason"] == {"not 51 numbers": 2}
    printed = capsys.readouterr().out
    assert "passed over" in printed and "125-nm-01-000" in printed and "t.csv, line 63: not 51 numbers" in printed
    for row, words in (("x/../001-nm-01-000/1.jpg", "line 62: the path"), ("/x/001-nm-01-000/1.jpg", "absolute"),
                       ("nothing", "line 62: begins with")):  # fmt: skip
        path.write_text(whole + row + one)
        assert run(CASIAB, path, tmp_path / "no") == 2 and words in capsys.readouterr().err
    path.write_text(f"x/alice/1.jpg{one}\n")
    assert run(CASIAB, path, tmp_path / "no") == 2
    assert "expected <id>-<status>-<number>-<view>/<frame>, found alice" in capsys.readouterr().err


def test_oumvlp_follows_one_person_or_takes_the_first_as_published(tmp_path: Path, capsys) -> None:
    raw = oumvlp_raw(tmp_path / "raw")
    assert run(OUMVLP, raw, tmp_path / "track") == 0
    printed = capsys.readouterr().out
    assert "several people in a frame: 1 of 12 sequences (8.3 %), 5 frames (6.9 per 100)" in printed
    assert "1 of 5153 TRAIN_SET labels and 2 of 5154 TEST_SET labels are here" in printed
    assert "missing from the full grid: 288584 of 288596, of these 72 at labels that are here" in printed
    assert report(tmp_path / "track")["frames dropped, by reason"] == {"nobody in the frame": 12}
    lists = read_partition(tmp_path / "track" / "partition.json")
    assert lists.train == ("00001",) and lists.test == ("00002", "10307")
    raw18 = walk(1, joints=18).astype(np.float32)
    names = get_skeleton("openpose18").joints
    order = [names.index(joint) for joint in get_skeleton("coco17").joints]
    target = "00001/00/195/195.pkl"
    np.testing.assert_array_equal(read_pose(tmp_path / "track" / target), raw18[:, order])
    assert run(OUMVLP, raw / "alphapose", tmp_path / "first", "--person", "first", "--joints", "18") == 0
    first = read_pose(tmp_path / "first" / target, 18)
    np.testing.assert_array_equal(first[:, 0, 0] - raw18[:, 0, 0], [0, 300, 0, 300, 300])
    assert run(OUMVLP, raw, tmp_path / "first") == 2  # the two must not be mixed in one folder


def test_oumvlp_bad_input(tmp_path: Path, capsys) -> None:
    raw = oumvlp_raw(tmp_path / "raw")
    folder = raw / "alphapose" / "00001" / "000_00"
    files = {8: "", 9: '{"people": [', 10: "[]", 11: '{"people": [{"pose_keypoints_2d": [1, 2]}]}', 12: '{"v": 1}'}
    for t, text in files.items():
        (folder / f"{t:04d}_keypoint.json").write_text(text)
    (folder / "14_keypoint.json").write_text(people(walk(0, joints=18)[0]))
    (folder / "0014_keypoint.json").write_text(people(walk(0, joints=18)[0]))
    (folder / "frame.json").write_text("{}")
    (raw / "alphapose" / "00001" / "010_00").mkdir()  # no such view
    (raw / "alphapose" / "99999" / "000_00").mkdir(parents=True)
    for path in (raw / "alphapose" / "00002" / "000_00").iterdir():
        path.write_text(people(walk(0, joints=25)[0]))
    mixed = raw / "alphapose" / "00002" / "000_01" / "0013_keypoint.json"
    mixed.write_text(people(walk(0, joints=17)[0]))
    assert run(OUMVLP, raw, tmp_path / "out") == 0
    found = report(tmp_path / "out")
    assert found["sequences dropped, by reason"] == {"not 18 x (x, y, confidence)": 1, "cannot be read": 1}
    assert found["passed over"]["count"] == 2
    dropped = found["frames dropped, by reason"]
    assert {key: dropped[key] for key in dropped if key != "nobody in the frame"} == {
        "empty file": 1, "not JSON": 1, "not three numbers per joint": 1, "no people in it": 1,
        "frame number twice": 1, "not named <frame>_keypoint.json": 1,
    }  # fmt: skip
    assert len(read_pose(tmp_path / "out" / "00001" / "00" / "000" / "000.pkl", 17)) == 1
    assert any("people[0].pose_keypoints_2d: not three" in fault for fault in found["left out"])
    assert any("17 joints" in fault and "0013" not in fault for fault in found["left out"])
    (raw / "openpose").mkdir()
    assert run(OUMVLP, raw, tmp_path / "both") == 2
    assert "holds alphapose and openpose" in capsys.readouterr().err


def test_grew_labels_types_and_orders(tmp_path: Path, capsys) -> None:
    raw = grew_raw(tmp_path / "make_pose")
    assert run(GREW, tmp_path, tmp_path / "out") == 0
    assert {r.name for r in find_records(tmp_path / "out")} == {
        "00001train-00-4XPn5Z28", "20000train-00-5TXe8svE", "00001-01-79XJefi8", "00001-02-t16VLaQf",
        "06000-01-aaaaaaaa", "probe-03-etaGVnWf", "probe-03-eT1EXpgZ",
    }  # fmt: skip
    lists = read_partition(tmp_path / "out" / "partition.json")
    assert lists.train == ("00001train", "20000train") and lists.test == ("00001", "06000", "probe")
    printed = capsys.readouterr().out
    assert "misordered if sorted as text: 7 of 7 sequences" in printed and "passed over" not in printed
    assert "of these 1 at labels that are here (06000/02)" in printed
    assert run(GREW, raw, tmp_path / "text", "--frame-sort", "lexical") == 0
    pose = read_pose(tmp_path / "text" / "probe" / "03" / "etaGVnWf" / "etaGVnWf.pkl")
    assert pose[:, 0, 0].tolist() == [102, 103, 104, 100, 101]


def test_grew_bad_input(tmp_path: Path, capsys) -> None:
    raw = grew_raw(tmp_path / "raw")
    (raw / "distractor").mkdir()
    (raw / "train" / "20001" / "aaaaaaaa").mkdir(parents=True)  # there are 20000
    clip = raw / GREW_PLACES[0]
    (clip / "8_2d_pose.txt").write_text("1,2")
    (clip / "notes.txt").write_text("")
    (clip / "9_2d_pose.txt").write_text("1," * 100_000)
    assert run(GREW, raw, tmp_path / "out") == 0
    found = report(tmp_path / "out")
    assert found["frames dropped, by reason"] == {
        "not 53 numbers": 1, "not named <frame>_2d_pose.txt": 1, "cannot be read as text": 1}  # fmt: skip
    assert found["passed over"]["count"] == 2
    assert run(GREW, raw / "train", tmp_path / "no") == 2
    assert "expected train/<id>/<clip>, test/gallery" in capsys.readouterr().err
    (raw / "test" / "gallery" / "00001" / "zzzzzzzz").mkdir()
    assert run(GREW, raw, tmp_path / "no") == 2
    assert "two gallery clips" in capsys.readouterr().err


def test_ccpg_and_sustech1k_choose_the_file_and_say_where_the_layout_is_from(tmp_path: Path, capsys) -> None:
    raw = ccpg_raw(tmp_path / "ccpg")
    view = raw / "000" / CCPG_TYPES[0] / "03_0_0"
    put(view / "01-sils.pkl", np.zeros((5, 64, 64)))  # the other is told by its name
    put(raw / "000" / CCPG_TYPES[1] / "03_0_0" / "00-pose.pkl", walk(0)[..., [1, 0, 2]])
    assert run(CCPG, raw, tmp_path / "a") == 0
    printed = capsys.readouterr().out
    assert "layout was taken from documentation" in printed and "2 of 100 TRAIN_SET labels and 1 of 100" in printed
    assert "wider than high (x and y may be exchanged): 1 of 9 sequences" in printed
    assert "of these 12 at labels that are here (000/U1_D0;" in printed
    assert run(CCPG, raw, tmp_path / "b", "--pose-file", "*sils*") == 2
    assert "none of 9 sequences could be converted" in capsys.readouterr().err
    raw = sustech_raw(tmp_path / "sustech")
    path = tmp_path / "SUSTech1K.json"
    path.write_text(json.dumps({"TRAIN_SET": ["0000", "0002"], "TEST_SET": ["0001"]}))
    assert run(SUSTECH, raw, tmp_path / "c", "--partition", str(path)) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 TRAIN_SET labels and 1 of 1 TEST_SET labels are here; 0 labels" in printed
    assert "layout was taken from documentation" in printed and report(tmp_path / "c")["frames"]["longest"] == 9
    assert (tmp_path / "c" / "partition.json").read_bytes() == path.read_bytes()
    assert run(SUSTECH, raw, tmp_path / "d", "--pose-file", "11-sync-*-Camera-Pose.pkl") == 0
    assert report(tmp_path / "d")["frames"]["longest"] == 3
    path.write_text(json.dumps({"TRAIN_SET": ["0000"], "TEST_SET": ["0000"]}))
    assert run(SUSTECH, raw, tmp_path / "e", "--partition", str(path)) == 2
    assert "0000 is in TRAIN_SET and TEST_SET" in capsys.readouterr().err
    path.write_text(json.dumps({"TRAIN_SET": ["9998"], "TEST_SET": ["9999"]}))
    assert run(SUSTECH, raw, tmp_path / "e", "--partition", str(path)) == 2 and not (tmp_path / "e").exists()
    assert "none of them among the labels that are there (0000, 0001)" in capsys.readouterr().err


def manifest(root: Path, entry: dict | None = None, **changes: object) -> Path:
    value = json.loads(json.dumps({**MANIFEST, **changes}))
    if entry is not None:
        value["sequences"][3] = {k: v for k, v in {**value["sequences"][3], **entry}.items() if v != "drop"}
    (root / "manifest.json").write_text(json.dumps({k: v for k, v in value.items() if v is not None}))
    return root / "manifest.json"


def test_generic_splits_probes_and_joint_formats(tmp_path: Path, capsys) -> None:
    raw = generic_raw(tmp_path / "raw")
    rows = json.loads(json.dumps(MANIFEST["sequences"]))
    rows[4]["split"] = "probe"
    np.savez(raw / "files" / "carla.npz", pose=walk(0)[..., :2], other=walk(9))
    (raw / "files" / "carlb.npz").write_bytes(b"torn")
    assert run(GENERIC, manifest(raw, sequences=rows), tmp_path / "out") == 0
    lists = read_partition(tmp_path / "out" / "partition.json")
    assert (lists.train, lists.val) == (("anna", "bert"), ("dora",))
    assert (lists.test, lists.probe) == (("carl",), ("carl-a-cam-1",))
    found = report(tmp_path / "out")
    assert found["sequences dropped, by reason"] == {"cannot be read": 1} and found["options"]["frame_rate"] == 25
    assert "carlb.npz" in found["left out"][0] and "joint_format: coco17" in capsys.readouterr().out
    rows = [{**row, "key": "other"} for row in rows if row["file"] == "files/carla.npz"]
    assert run(GENERIC, manifest(raw, sequences=rows), tmp_path / "key") == 0
    np.testing.assert_array_equal(read_pose(next((tmp_path / "key").rglob("*.pkl"))), walk(9).astype(np.float32))
    np.savez(raw / "files" / "annaa.npz", pose=walk(0, joints=20)[..., :3])
    np.savez(raw / "files" / "annab.npz", pose=np.zeros((4, 20, 4)))
    rows = [{k: v for k, v in row.items() if k != "split"} for row in MANIFEST["sequences"][:2]]
    assert run(GENERIC, manifest(raw, sequences=rows, joint_format="kinectgait20"), tmp_path / "k") == 0
    assert not (tmp_path / "k" / "partition.json").exists()  # no split named
    assert report(tmp_path / "k")["sequences dropped, by reason"] == {"cannot be read": 1}  # not 3 numbers
    own = {"joints": [f"j{i}" for i in range(17)]}
    assert run(GENERIC, manifest(raw, joint_format=None, skeleton=own), tmp_path / "s") == 2
    assert "manifest.json: " in capsys.readouterr().err


def test_generic_bad_manifests(tmp_path: Path, capsys) -> None:
    raw = generic_raw(tmp_path / "raw")
    np.savez(tmp_path / "secret.npz", pose=walk(0))
    (raw / "files" / "link.npz").symlink_to(tmp_path / "secret.npz")
    (raw / "up").symlink_to(tmp_path)
    cases: list[tuple[dict | None, dict, str]] = [
        ({"file": "../secret.npz"}, {}, "sequences[3]: file '../secret.npz' points outside"),
        ({"file": str(tmp_path / "secret.npz")}, {}, "points outside"), ({"file": "C:\\a.npz"}, {}, "points outside"),
        ({"file": "files\\..\\..\\secret.npz"}, {}, "points outside"),
        ({"file": "files/link.npz"}, {}, "points outside"), ({"file": 3}, {}, "file is"),
        ({"file": "up/secret.npz"}, {}, "points outside"), ({"file": "none.npz"}, {}, "there is no"),
        ({"label": "../x"}, {}, "label is '../x'"), ({"type": "a/b"}, {}, "type is"),
        ({"view": "."}, {}, "view is '.'"), ({"label": 7}, {}, "label is '7'"),
        ({"label": "folds"}, {}, "no plain"), ({"view": "drop"}, {}, "view is 'None'"),
        ({"splitt": "x"}, {}, "unknown key 'splitt'"), ({"split": "dev"}, {}, "split is 'dev'"),
        ({"split": "drop"}, {}, "sequences[3]: has no split"),
        ({"split": "test"}, {}, "'bert' is in train and in test"),
        ({"type": "a"}, {}, "would both become bert/a/cam-1/cam-1.pkl"), ({"person": "all"}, {}, "person is"),
        (None, {"joint_format": "coco71"}, "coco71"),
        (None, {"joint_format": ["coco17"]}, "the name of one format"),
        (None, {"joint_format": None}, "one of the two"),
        (None, {"skeleton": {}}, "one of the two"), (None, {"frame_rate": -1}, "frame_rate"),
        (None, {"joint_format": None, "skeleton": 3}, "skeleton is malformed"),
        (None, {"sequences": []}, "list of sequences"), (None, {"sequences": [3]}, "sequences[0]: is a int"),
        (None, {"fps": 25}, "unknown key 'fps'"),
    ]  # fmt: skip
    for entry, changes, words in cases:
        assert run(GENERIC, manifest(raw, entry, **changes), tmp_path / "out") == 2, words
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1 and not (tmp_path / "out").exists()
    (raw / "manifest.json").write_text('{"sequences": [')
    assert run(GENERIC, raw, tmp_path / "out") == 2 and "not JSON (line 1" in capsys.readouterr().err
    assert run(GENERIC, raw / "files", tmp_path / "out") == 2 and "datasets/README.md" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in RAW if name != "casiab csv"])
def test_folders_that_cannot_be_written_into(name: str, tmp_path: Path, capsys) -> None:
    converter, make, count = RAW[name]
    raw, out = make(tmp_path / "raw"), tmp_path / "out"
    before = sorted(raw.rglob("*"))
    assert run(converter, raw, raw) == 2 and "is the folder of the raw data" in capsys.readouterr().err
    assert sorted(raw.rglob("*")) == before
    (tmp_path / "file").touch()
    assert run(converter, raw, tmp_path / "file") == 2 and "is a file; name a folder" in capsys.readouterr().err
    assert run(converter, raw, out, "--min-frames", "999") == 2
    message = capsys.readouterr().err
    assert f"none of {count} sequences could be converted; {count}: fewer than 999 frames" in message
    assert message.count(f"{converter.__name__.removeprefix('converter_')}: ") == 1  # its name stands once
    (out / "sequences.jsonl").write_bytes(b"\xff\xfe\x00")
    assert run(converter, raw, out) == 2 and "was made with something else" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "inner", "level"), [
    ("casiab", "CASIA-B-Pose", "001"), ("grew", "make_pose", "test"), ("oumvlp", "openpose", "00001"),
    ("sustech1k", "SUSTech1K-Released-pkl", "0000"),
])  # fmt: skip
def test_a_layout_beside_the_folder_that_holds_it_is_not_passed_over(
    name: str, inner: str, level: str, tmp_path: Path, capsys
) -> None:
    converter, make, _ = RAW[name]
    raw = make(tmp_path / "raw") if name != "oumvlp" else make(tmp_path / "raw") / "alphapose"
    (raw / inner).mkdir()
    assert run(converter, raw, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert f"holds {inner} and, beside it, {level}" in message and not (tmp_path / "out").exists()


def never(job: Job) -> Raw:
    raise AssertionError(job)


def test_nothing_is_written_outside_the_output(tmp_path: Path, capsys) -> None:
    raw, out, other = casiab_raw(tmp_path / "raw"), tmp_path / "out", tmp_path / "other"
    other.mkdir(), out.mkdir()
    (out / "001").symlink_to(other)
    assert run(CASIAB, raw, out) == 2
    assert "a link leads out of" in capsys.readouterr().err and not list(other.iterdir())
    for target in ("../a/b/c.pkl", "a/b/c.pkl", "/a/b/c.pkl", "a/./b/c.pkl", "a/.b/c/d.pkl", "a/b/c/d.npz",
                   "a//b/c.pkl", "folds/a/b/c.pkl", "a\\b/c/d/e.pkl"):  # fmt: skip
        with pytest.raises(convert.UserError, match="no plain"):
            convert.convert(never, [Job("x", target)], tmp_path / "new", converter="t", options={}, joints=17)
    assert not (tmp_path / "new").exists()


def test_doubts_are_about_poses_not_about_pickles() -> None:
    assert doubts(np.empty((0, 17, 3))) == {} and not any(doubts(walk(0)).values())
    pose = walk(0)
    pose[0, :, 2] = 0
    pose[1, 3] = np.nan
    pose[2, 4, 2] = 1.5
    assert [count for count in doubts(pose).values()] == [1, 1, 0, 0]


def test_a_partition_lists_what_is_there_in_the_benchmarks_order(tmp_path: Path) -> None:
    rule = Benchmark(("b", "a"), ("d", "c"))
    _, (line,) = rule.finish(tmp_path, ["a/1/2/2.pkl", "b/1/2/2.pkl", "c/1/2/2.pkl", "x/1/2/2.pkl"])
    assert read_partition(tmp_path / "partition.json").train == ("b", "a") and "1 labels are in no list" in line
    assert json.loads((tmp_path / "partition.json").read_text())["TEST_SET"] == ["c"]


def test_a_hostile_pickle_among_the_raw_data_is_dropped(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return Path.mkdir, (tmp_path / "made",)

    raw = casiab_raw(tmp_path / "raw")
    (raw / "001" / "nm-01" / "000" / "000.pkl").write_bytes(pickle.dumps(Evil()))
    assert run(CASIAB, raw, tmp_path / "out") == 0
    assert report(tmp_path / "out")["sequences dropped, by reason"] == {"not a pickle of poses": 1}
    assert not (tmp_path / "made").exists()
