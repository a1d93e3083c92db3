"""Both converters on made-up raw folders, through their command lines, and the folds against naive formulas."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bpmt_ext.data import posetexts
from bpmt_ext.data.partitions import folds_of, inner_split
from bpmt_ext.data.pickles import read_pose, write_pickle
from bpmt_ext.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"converter_{name}", ROOT / "datasets" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GAIT3D, KINECT = load("gait3d"), load("kinectgait")


def frame_text(value: float) -> str:
    return ",".join(["64", "128", *(str(value + i) for i in range(51))])


def gait3d_raw(root: Path, numbers: tuple[int, ...] = (8, 9, 10, 11), labels: int = 6) -> Path:
    """Made-up sequences; the first number of a frame is its frame number."""
    for label in range(labels):
        for walk in ("camid1_videoid0/seq0", "camid2_videoid1/seq3"):
            folder = root / "2D_Poses" / f"{label:04d}" / walk
            folder.mkdir(parents=True)
            for number in numbers:
                (folder / f"human_crop_f{number}.txt").write_text(frame_text(number))
    return root / "2D_Poses"


def run(converter: ModuleType, raw: Path, out: Path, *options: str) -> int:
    return converter.main(["--input", str(raw), "--output", str(out), "--workers", "1", *options])


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_gait3d_frames_are_in_numeric_order_and_lexical_only_if_asked(tmp_path: Path, capsys) -> None:
    raw = gait3d_raw(tmp_path / "raw")
    for folder in sorted(raw.glob("0005/*/*")):  # these do not cross a power of ten
        (folder / "human_crop_f8.txt").unlink()
        (folder / "human_crop_f9.txt").unlink()
    assert run(GAIT3D, raw, tmp_path / "numeric") == 0
    assert "misordered if sorted as text: 10 of 12 sequences (83.3 %)" in capsys.readouterr().out
    assert run(GAIT3D, raw, tmp_path / "lexical", "--frame-sort", "lexical") == 0
    target = "0000/camid1_videoid0/seq0/seq0.pkl"
    pose = read_pose(tmp_path / "numeric" / target, 17)
    assert pose[:, 0, 0].tolist() == [8, 9, 10, 11] and pose.dtype == np.float32
    np.testing.assert_array_equal(pose[0].ravel(), 8 + np.arange(51))  # the two sizes are gone, x y confidence stay
    assert read_pose(tmp_path / "lexical" / target)[:, 0, 0].tolist() == [10, 11, 8, 9]


def test_gait3d_bad_files_are_dropped_counted_and_named(tmp_path: Path, capsys) -> None:
    raw = gait3d_raw(tmp_path / "raw", numbers=tuple(range(1, 13)))
    folder = raw / "0001" / "camid1_videoid0" / "seq0"
    bad = {1: "", 2: "1,2,3", 3: frame_text(1).replace("64", "x", 1), 4: "64,128" + ",y" * 51,
           5: frame_text(float("nan"))}  # fmt: skip
    for number, text in bad.items():
        (folder / f"human_crop_f{number}.txt").write_text(text)
    (folder / "human_crop_f6.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "human_crop_f07.txt").write_text(frame_text(1))
    (folder / "notes.md").write_text("hello")
    for path in (raw / "0002" / "camid2_videoid1" / "seq3").iterdir():
        path.write_text("broken")
    (raw / "0003" / "video").mkdir()
    assert run(GAIT3D, raw, tmp_path / "out") == 0
    found = report(tmp_path / "out")
    assert found["frames dropped, by reason"] == {
        "not 53 numbers": 13, "empty file": 1, "not a number": 1, "number that is not finite": 1,
        "cannot be read as text": 1, "not named human_crop_f<frame>.txt": 1, "frame number twice": 1,
    }  # fmt: skip
    assert found["sequences dropped, by reason"] == {"no usable frame": 1}
    assert found["sequences"] == {"found": 12, "written": 11, "of these already there": 0, "dropped": 1}
    assert found["frames"]["kept"] == 10 * 12 + 7 and found["sequences with NaN or infinity"] == 1
    assert not (tmp_path / "out" / "0002" / "camid2_videoid1" / "seq3" / "seq3.pkl").exists()
    # 3: only the size is no number, and it is not used
    assert read_pose(tmp_path / "out/0001/camid1_videoid0/seq0/seq0.pkl")[:, 0, 0].tolist() == [1, 1, 8, 9, 10, 11, 12]
    printed = capsys.readouterr().out
    assert "human_crop_f2.txt: not 53 numbers" in printed and "0003/video" in printed


def test_short_constant_and_repeated_sequences_are_reported(tmp_path: Path, capsys) -> None:
    raw = gait3d_raw(tmp_path / "raw", labels=2)
    for path in (raw / "0000" / "camid1_videoid0" / "seq0").iterdir():
        path.write_text(frame_text(5))
    (raw / "0001" / "camid1_videoid0" / "seq0" / "human_crop_f8.txt").unlink()
    assert run(GAIT3D, raw, tmp_path / "out", "--min-frames", "4") == 0
    found = report(tmp_path / "out")
    assert found["sequences dropped, by reason"] == {"fewer than 4 frames": 1}
    assert found["constant sequences"] == {"count": 1, "names": ["0000/camid1_videoid0/seq0/seq0.pkl"]}
    assert found["identical sequences"]["count"] == 1  # the other two


def test_an_interrupted_run_is_continued_to_the_same_result(tmp_path: Path, capsys, monkeypatch) -> None:
    raw = gait3d_raw(tmp_path / "raw")
    (raw / "0000" / "camid1_videoid0" / "seq0" / "human_crop_f9.txt").write_text("")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(GAIT3D, raw, whole, "--folds", "3", "--inner") == 0
    assert run(GAIT3D, raw, out) == 0
    folder = out / "0001" / "camid1_videoid0" / "seq0"
    (folder / "seq0.pkl").unlink()
    (folder / ".seq0.pkl.123.tmp").write_bytes(b"half")
    (out / ".report.json.123.tmp").write_bytes(b"half")
    (out / "0004" / "camid1_videoid0" / "seq0" / "seq0.pkl").write_bytes(b"torn by a power cut")
    (out / "report.json").unlink()
    lines = (out / "sequences.jsonl").read_text().splitlines()
    lines = [line for line in lines if "0001/camid1_videoid0" not in line]
    (out / "sequences.jsonl").write_text("\n".join(lines)[:-30])  # the last line is half written
    kept = out / "0002" / "camid1_videoid0" / "seq0" / "seq0.pkl"
    before = kept.stat().st_mtime_ns
    calls, read = [], posetexts.parse_frame

    def interrupted(text: str) -> list[float] | str:
        calls.append(text)
        if len(calls) == 6:  # in the second of the three sequences that are still to be done
            raise KeyboardInterrupt
        return read(text)

    monkeypatch.setattr(posetexts, "parse_frame", interrupted)
    assert run(GAIT3D, raw, out) == 130
    assert "continues where it stopped" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(GAIT3D, raw, out, "--folds", "3", "--inner") == 0
    assert kept.stat().st_mtime_ns == before  # not written again
    assert report(out)["sequences"] == {"found": 12, "written": 12, "of these already there": 10, "dropped": 0}
    assert report(out)["frames dropped, by reason"] == {"empty file": 1}  # known although not read again
    ours, theirs = contents(out), contents(whole)
    assert ours.pop("report.json") != theirs.pop("report.json")  # only the number already there differs
    assert ours == theirs
    # other settings would mix two kinds of pickles
    assert run(GAIT3D, raw, out, "--frame-sort", "lexical") == 2
    assert "use another --output" in capsys.readouterr().err


@pytest.mark.parametrize("converter", [GAIT3D, KINECT], ids=["gait3d", "kinectgait"])
def test_nothing_to_convert_is_status_2_and_one_sentence(converter: ModuleType, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    for raw in (tmp_path / "empty", tmp_path / "missing"):
        assert run(converter, raw, tmp_path / "out") == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and str(raw) in message and not (tmp_path / "out").exists()


def test_wrong_options_and_foreign_folders_are_status_2(tmp_path: Path, capsys) -> None:
    raw, out = gait3d_raw(tmp_path / "raw", labels=3), tmp_path / "out"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    write_pickle(foreign / "a.pkl", np.zeros(3))
    (tmp_path / "file").write_text("")
    for target, options, words in (
        (out, ("--folds", "4"), "--folds 4"), (out, ("--inner",), "--inner"), (out, ("--min-frames", "0"), "frames 0"),
        (out, ("--partition", str(tmp_path / "none.json")), "none.json"), (foreign, (), "new folder"),
        (tmp_path / "file", (), "file"), (tmp_path / "short", ("--min-frames", "9"), "none of 6"),
    ):  # fmt: skip
        assert run(GAIT3D, raw, target, *options) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1


def test_the_partition_is_checked_and_copied(tmp_path: Path, capsys) -> None:
    raw = gait3d_raw(tmp_path / "raw", labels=4)
    good = {"TRAIN_SET": ["0000", "0001", "0009"], "TEST_SET": ["0002"], "PROBE_SET": ["0002-camid1_videoid0-seq0"]}
    path = tmp_path / "Gait3D.json"
    path.write_text(json.dumps(good))
    assert run(GAIT3D, raw, tmp_path / "out", "--partition", str(path)) == 0
    assert (tmp_path / "out" / "partition.json").read_bytes() == path.read_bytes()
    counts = "2 of 3 TRAIN_SET labels, 1 of 1 TEST_SET labels and 1 of 1 probes are here; 1 labels are in no list"
    assert counts in capsys.readouterr().out
    for change, words in (
        ({"PROBE_SET": ["0000-camid1_videoid0-seq0"]}, "the probe"), ({"PROBE_SET": None}, "PROBE_SET"),
        ({"TEST_SET": ["0002", "0000"]}, "TRAIN_SET and TEST_SET"), ({"TRAIN_SET": []}, "TRAIN_SET"),
        ({"TRAIN_SET": ["0000", "0000"]}, "twice"),
    ):  # fmt: skip
        path.write_text(json.dumps({**good, **change}))
        assert run(GAIT3D, raw, tmp_path / "other", "--partition", str(path)) == 2
        assert words in capsys.readouterr().err


def kinect_raw(root: Path, walks: dict[tuple[int, int], int]) -> Path:
    """Made-up walks {(person, walk): frames}; x is the frame, y the joint, z the walk."""
    for (person, walk), frames in walks.items():
        path = root / "Data" / f"Person{person:03d}" / f"{walk}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{name};{t};{j};{walk}.5" for t in range(frames) for j, name in enumerate(KINECT.NAMES)]
        path.write_bytes(("\r\n".join(lines) + "\r\n").encode())
    return root / "Data"


def test_kinectgait_takes_every_second_frame_and_skips_the_duplicate(tmp_path: Path) -> None:
    raw = kinect_raw(tmp_path, {(1, 1): 9, (64, 4): 8, (64, 5): 8})
    assert run(KINECT, raw, tmp_path / "out") == 0
    pose = read_pose(tmp_path / "out" / "001" / "1" / "kinect" / "1.pkl", 20)
    assert pose.shape == (5, 20, 3) and pose[:, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert pose[3, 7].tolist() == [6, 7, 1.5]
    assert report(tmp_path / "out")["sequences dropped, by reason"] == {"named by --skip": 1}
    assert run(KINECT, raw, tmp_path / "all", "--skip", "--step", "1") == 0
    assert report(tmp_path / "all")["frames"]["kept"] == 25
    assert report(tmp_path / "all")["identical sequences"]["count"] == 0  # z differs
    assert run(KINECT, raw, tmp_path / "typo", "--skip", "Person64/5") == 2


def test_kinectgait_windows_are_those_of_the_protocol(tmp_path: Path) -> None:
    walks = {(1, 1): 200, (2, 3): 61, (3, 1): 59, (4, 1): 58, (12, 5): 60}
    raw = kinect_raw(tmp_path, walks)
    assert run(KINECT, raw, tmp_path / "out", "--clip", "30") == 0
    for (person, walk), frames in walks.items():
        path = tmp_path / "out" / f"{person:03d}" / str(walk) / "kinect" / f"{walk}.pkl"
        n = (frames + 1) // 2
        if n < 30:
            assert not path.exists()
            continue
        start = np.random.default_rng([7, person, walk]).integers(0, n - 30 + 1)
        assert read_pose(path, 20)[:, 0, 0].tolist() == [2 * (start + i) for i in range(30)]
    assert report(tmp_path / "out")["sequences dropped, by reason"] == {"fewer than the 30 frames of a window": 1}


def test_kinectgait_finds_frames_by_name_and_drops_broken_ones(tmp_path: Path) -> None:
    raw = kinect_raw(tmp_path, {(1, 1): 10, (1, 2): 3})
    path = raw / "Person001" / "1.txt"
    lines = path.read_bytes().decode().split("\r\n")[:-1]
    lines[1 * 20 + 4], lines[1 * 20 + 5] = lines[1 * 20 + 5], lines[1 * 20 + 4]  # frame 1: two joints swapped
    lines[3 * 20 + 2] = "Shoulder-Right;1,5;0;0"  # frame 3: decimal comma
    lines[4 * 20 + 2] = "Shoulder-Right;1;0"  # frame 4: a number missing
    lines[6 * 20 + 2] = "Shoulder-Right;inf;0;0"  # frame 6
    del lines[7 * 20 + 10]  # frame 7: no spine
    lines.insert(40, "")
    cut = ["Foot-Left;1;1;1", *lines[:-3]]  # something before the first Head; the last frame is truncated
    path.write_text("\n\n".join(cut))
    assert run(KINECT, raw, tmp_path / "out", "--step", "1") == 0
    assert read_pose(tmp_path / "out/001/1/kinect/1.pkl")[:, 0, 0].tolist() == [0, 2, 5, 8]
    assert report(tmp_path / "out")["frames dropped, by reason"] == {
        "not the 20 joints in their order": 3, "not a number": 1, "not three numbers per joint": 1,
        "truncated last frame": 1, "number that is not finite": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("count", "number"), [(38, 5), (100, 5), (7, 3)])
def test_folds_against_a_naive_formula(count: int, number: int) -> None:
    labels = [f"{i:04d}" for i in range(count)]
    folds = folds_of(reversed(labels), number)
    order = np.random.default_rng(0).permutation(count)
    for i, (train, test) in enumerate(folds):
        expected = sorted(labels[order[k]] for k in range(count) if k % number == i)
        assert test == expected and train == [label for label in labels if label not in expected]
        inner_train, held_out = inner_split(train)
        inner_order = np.random.default_rng(1).permutation(len(train))
        assert held_out == sorted(train[inner_order[k]] for k in range(len(train)) if k % 5 == 0)
        assert sorted(inner_train + held_out) == train
    assert sorted(label for _, test in folds for label in test) == labels
    for wrong in (1, count + 1):
        with pytest.raises(UserError, match=f"--folds {wrong}"):
            folds_of(labels, wrong)


def test_fold_files(tmp_path: Path) -> None:
    raw = gait3d_raw(tmp_path / "raw", labels=12)
    for path in raw.glob("0011/*/*/*"):
        path.write_text("")  # a label without a pickle is in no fold
    assert run(GAIT3D, raw, tmp_path / "out", "--folds", "6") == 0
    assert run(GAIT3D, raw, tmp_path / "out", "--folds", "5", "--inner") == 0
    folder = tmp_path / "out" / "folds"
    expected = {f"fold{i}{kind}.json" for i in range(5) for kind in ("", "_inner")}
    assert {path.name for path in folder.iterdir()} == expected
    labels = [f"{i:04d}" for i in range(11)]
    for i, (train, test) in enumerate(folds_of(labels, 5)):
        assert json.loads((folder / f"fold{i}.json").read_text()) == {"TRAIN_SET": train, "TEST_SET": test}
        inner = json.loads((folder / f"fold{i}_inner.json").read_text())
        assert (inner["TRAIN_SET"], inner["TEST_SET"]) == inner_split(train)


@pytest.mark.parametrize("name", ["gait3d", "kinectgait"])
def test_as_a_script_with_worker_processes(name: str, tmp_path: Path) -> None:
    raw = gait3d_raw(tmp_path) if name == "gait3d" else kinect_raw(tmp_path, {(i, 1): 4 for i in range(12)})
    command = [sys.executable, str(ROOT / "datasets" / f"{name}.py"), "--input", str(raw)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--output", "two", "--workers", "2"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "12 written" in done.stdout
    assert run(GAIT3D if name == "gait3d" else KINECT, raw, tmp_path / "one") == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
