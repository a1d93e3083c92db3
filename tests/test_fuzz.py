"""Damaged files and words into every entry point; work, or sentences and status 2, out.

The long form is tools/soak_fuzz.py. What it has found stands below, case by case.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_commands import commands, home, inside
from fuzz_entries import converters
from fuzzing import Entry, Tally, Tree, fuzz, write_tree
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bpmt_ext.cli import main
from bpmt_ext.config import settings_from
from bpmt_ext.config_checks import torch_class
from bpmt_ext.data.posejson import all_frames, single_person
from bpmt_ext.data.sequencelists import read_partition
from bpmt_ext.engine.logs import read_metrics
from bpmt_ext.engine.parts import changed_keys
from bpmt_ext.errors import UserError
from bpmt_ext.jsonfiles import read_json

CONVERTERS = ("casiab", "ccpg", "sustech1k", "gait3d", "oumvlp", "grew", "kinectgait", "generic", "ntu_rgbd",
              "nw_ucla", "penn_action", "skeletics152", "silhouettes", "usf")  # fmt: skip
COMMANDS = ("demo", "train", "test", "check-data", "main.py", "landmarks", "compare", "fuse", "link", "unlink",
            "doctor", "enroll", "identify", "gallery", "embed", "predict", "draw", "export", "report")  # fmt: skip
REFUSED = {"landmarks", "doctor"}  # whose good files all end in a sentence, too


def entry(name: str) -> Entry:
    return (converters if name in CONVERTERS else commands)()[name]


def test_every_entry_point_is_there() -> None:
    from bpmt_ext.cli import _parser

    known = next(action.choices for action in _parser()._actions if action.choices)
    assert set(COMMANDS) == {*known, "main.py"}
    folder = Path(__file__).resolve().parents[1] / "datasets"
    assert set(CONVERTERS) == {path.stem for path in folder.glob("*.py")}


@pytest.mark.parametrize("name", [*CONVERTERS, *COMMANDS])
def test_a_case_works_or_says_why_not(name: str, tmp_path: Path) -> None:
    one, worked, told = entry(name), [], ""
    for number, (tree, words) in enumerate(one.trees):
        folder = tmp_path / f"good{number}"
        folder.mkdir()
        for path in one.home.iterdir() if one.home else ():
            (folder / path.name).symlink_to(path)
        write_tree(folder, tree)
        with inside(folder) as said:
            worked.append(one.main(words))
        told += said.getvalue()
    # not every network takes every format, and some say what their host lacks
    assert set(worked) <= {0, 2} and (0 in worked or name in REFUSED), told[-2000:]
    assert name in COMMANDS or set(worked) == {0}, told[-2000:]
    tally: Tally = fuzz(one, tmp_path, range(one.short))
    assert not tally.faults, "\n".join(tally.faults)
    assert tally.cases == one.short and tally.told > one.short / 20  # and not all of them work


def to_out(raw: str = "raw") -> list[str]:
    return ["--input", raw, "--output", "out", "--workers", "1"]


SCORES = {"scores": np.ones((2, 3), np.float32) / 3, "labels": np.array([0, 2]), "names": np.array(["a", "b"]),
          "classes": np.array(["x", "y", "z"])}  # fmt: skip
DEEP = b"[" * 2000 + b"]" * 2000
FOUND: dict[str, tuple[str, Tree, list[str], str]] = {  # what once crashed: entry point, files, words, what is said now
    "an empty text": ("kinectgait", {"raw/Person001/1.txt": b"\n"}, to_out(), "no usable frame"),
    "a negative seed": ("nw_ucla", {}, [*to_out(), "--held-out", "0.4", "--seed", "-1"], "seed -1"),
    "a weight without end": ("fuse", {"a.npz": SCORES}, ["a.npz", "a.npz", "--weights", "inf", "1"], "--weights"),
    "names in rows": ("fuse", {"a.npz": SCORES | {"names": np.array([["a"], ["b"]])}}, ["a.npz"], "do not fit"),
    "a result that is a list": ("compare", {"out/results.json": {key: ["x"] for key in (
        "format", "budget", "protocol", "tests", "data", "methods", "cells", "failures", "comparisons", "notes",
        "published")}}, ["--report", "--out", "out"], "damaged"),
    "a deep manifest": ("unlink", {"host/configs/bpmt/bpmt_ext.json": DEEP}, ["host"], "is damaged"),
    "a name that is no text": ("silhouettes", {"raw/a/b/c\udcff/1.png": b"x"}, [*to_out(), "--layout", "folders"],
                               "c\\udcff"),
    "a name that steers": ("gait3d", {}, ["--input", "\u202e\x1b[2J", "--output", "out"], "\\u202e\\x1b[2J"),
    "a label that steers": ("generic", {"m.json": {"joint_format": "coco17", "sequences": [
        {"file": "a.npy", "label": "a\x1b", "type": "b", "view": "c"}]}, "a.npy": np.ones((2, 17, 3))},
        to_out("m.json"), "a\\x1b"),
    "a label that is no text": ("generic", {"m.json": {"joint_format": "coco17", "sequences": [
        {"file": "a.npy", "label": "a\ud800", "type": "b", "view": "c"}]}, "a.npy": np.ones((2, 17, 3))},
        to_out("m.json"), "a\\ud800"),
}  # fmt: skip


@pytest.mark.parametrize("point", ["casiab", "draw"])
def test_no_word_steers_the_terminal(point: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        (converters()[point].main if point in CONVERTERS else main)([*([point] * (point in COMMANDS)), "\x1b]0;x\x07",
                                                                     "--frames-of", "a\u202e"])  # fmt: skip
    told = capsys.readouterr().err
    assert ended.value.code == 2 and all(line.isprintable() for line in told.splitlines())


@pytest.mark.parametrize("name", FOUND)
def test_crashes_of_earlier_days(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture) -> None:  # fmt: skip
    point, tree, words, said = FOUND[name]
    write_tree(tmp_path, tree or (converters()[point].trees[0][0] if point in CONVERTERS else {}))
    monkeypatch.chdir(tmp_path)
    assert (converters()[point].main if point in CONVERTERS else main)([*([point] * (point in COMMANDS)), *words]) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told and all(line.isprintable() for line in told.splitlines())


def test_a_damaged_run_is_reported_as_far_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree, words), *_ = entry("report").trees
    place, name = Path(words[0]), "a name \ud800"
    probes, results = (tree[f"{words[0]}/{file}"] for file in ("per_probe.npz", "results.json"))
    odd = {
        "axes": (tree | {f"{place}/per_probe.npz": probes | {"condition": probes["condition"][None]}}, "in length"),
        "words": (tree | {f"{place}/per_probe.npz": probes | {"ap": probes["condition"]}}, "are no numbers"),
        "matrix": (tree | {f"{place}/results.json": results | {"matrices": {"x": {"all": {"Rank-1": [[1, 2]]}}}}},
                   "is no square of numbers"),
        "name": (tree | {f"{place}/results.json": results | {"metrics": {name: 1.0}}}, "a name \\ud800"),
    }  # fmt: skip
    for case, (files, said) in odd.items():
        (tmp_path / case).mkdir()
        write_tree(tmp_path / case, files)
        monkeypatch.chdir(tmp_path / case)
        assert main(["report", str(place), "-o", "a.html"]) == 0
        assert said in (tmp_path / case / "a.html").read_text("utf-8"), case


def test_a_file_whose_name_is_no_text_is_answered_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = tmp_path / "a\udcff.npz"
    walk.symlink_to(home() / "anna.npz")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home() / "g", "g")
    assert main(["identify", "--gallery", "g", "--min-frames", "1", walk.name, "--json", "a.json"]) == 0
    assert json.loads(Path("a.json").read_text("utf-8"))["people"][0]["source"] == walk.name


def test_nobody_is_removed_from_a_gallery_that_lacks_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(home())
    for end in ("json", "safetensors"):
        shutil.copytree("g", tmp_path / end)
        for path in (tmp_path / end).glob(f"shards/*.{end}"):
            path.unlink()
        assert main(["gallery", "--gallery", str(tmp_path / end), "--remove", "anna"]) == 2
        assert "is missing; restore the gallery" in capsys.readouterr().err


def test_a_rate_of_nearly_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(home())
    with pytest.raises(SystemExit) as ended:
        main(["identify", "--gallery", "g", "anna.npz", "--far", "1e-320"])
    assert ended.value.code == 2 and "is no rate" in capsys.readouterr().err
    assert main(["identify", "--gallery", "g", "--min-frames", "1", "anna.npz", "--far", "1e-9"]) == 0


@pytest.mark.parametrize("kind", ["model/*", "shards/*", "*.json", "lock"])
def test_a_gallery_of_pipes_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture) -> None:  # fmt: skip
    """Each of its files once: opening a pipe would wait for somebody to write into it."""
    monkeypatch.chdir(home())
    for number, path in enumerate(sorted(Path("g").glob(kind))):
        folder = tmp_path / str(number)
        shutil.copytree("g", folder)
        pipe = folder / path.relative_to("g")
        pipe.unlink()
        os.mkfifo(pipe)
        status = main(["identify", "--gallery", str(folder), "--min-frames", "1", "anna.npz"])
        assert status == (0 if path.name in ("lock", "calibration.json") else 2), path
        assert "Traceback" not in capsys.readouterr().err


def test_unsigned_labels_are_fused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"a.npz": SCORES | {"labels": np.array([0, 2], np.uint64)}})
    monkeypatch.chdir(tmp_path)
    assert main(["fuse", "a.npz", "a.npz"]) == 0


def test_a_pipe_is_no_list_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
                                      ) -> None:  # fmt: skip
    monkeypatch.chdir(home())
    os.mkfifo(tmp_path / "a.txt")
    assert main(["export", "--cfgs", "act.yaml", "-o", str(tmp_path / "a.safetensors"), "--classes",
                 str(tmp_path / "a.txt")]) == 2  # fmt: skip
    assert "--classes" in capsys.readouterr().err


LOOPS = {"train": ["--cfgs", "{}"], "report": ["{}"], "link": ["{}"], "unlink": ["{}"], "doctor": ["{}"],
         "compare": ["--report", "--out", "{}"], "draw": ["{}", "-o", "{}"], "gallery": ["--gallery", "{}"],
         "check-data": ["--cfgs", "net.yaml", "--opts", "data_cfg.dataset_root={}"],
         "landmarks": ["--cfgs", "net.yaml", "--output", "{}"], "fuse": ["{}"], "casiab": to_out("{}"),
         "generic": to_out("m.json")}  # fmt: skip


@pytest.mark.parametrize("path", ["loop", "~nobody-of-that-name/x"])
def test_a_link_to_itself_and_a_home_of_nobody_are_no_files(path: str, tmp_path: Path, capsys: pytest.CaptureFixture,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.listdir(home()):
        (tmp_path / name).symlink_to(home() / name)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "m.json").write_text(json.dumps({"joint_format": "coco17", "sequences": [
        {"file": path, "label": "a", "type": "b", "view": "c"}]}))  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for point, words in LOOPS.items():
        words = [word.format(path) for word in words]
        status = converters()[point].main(words) if point in CONVERTERS else main([point, *words])
        assert status == 2 and capsys.readouterr().err.startswith(("bpmt: ", f"{point}: ")), point


def test_nests_without_end_in_files_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(DEEP)
    for read in (read_partition, read_json):
        with pytest.raises(UserError, match="a.json"):
            read(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'{"iteration": 1, "split": "train"}\n' + DEEP)
    assert len(read_metrics(tmp_path / "a.json")) == 1  # the rest is taken for a line that a crash cut off
    for odd in (["SGD"], {"a": 1}, None):
        with pytest.raises(UserError, match="solver"):
            torch_class("optimizer_cfg", odd, "optimizer_cfg.solver")
    for text in ("a: [", "a: " + "[" * 2000, "1", 3):
        assert changed_keys({"engine": {"config": text}}, None) == []


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.sampled_from("data_cfg model_cfg loss_cfg trainer_cfg evaluator_cfg optimizer_cfg scheduler_cfg type sampler "
                       "model stages seed lr transform skeleton".split())  # fmt: skip
words = st.sampled_from("people keypoints image_id instances annotations images pose_keypoints_2d instance_info id "
                        "frame_id keypoint_scores file_name bodies".split())  # fmt: skip


def nests(leaves: st.SearchStrategy, names: st.SearchStrategy) -> st.SearchStrategy:
    def deeper(inner: st.SearchStrategy) -> st.SearchStrategy:
        return st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)

    return st.recursive(leaves, deeper, max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(
    values=st.dictionaries(keys, nests(plain, keys | st.text(max_size=3)), max_size=3),
    options=st.lists(st.text(max_size=12), max_size=2),
)
def test_any_settings_are_settings_or_a_fault(values: dict[str, Any], options: list[str]) -> None:
    try:
        settings_from(values, options).resolved()
    except UserError as error:
        assert str(error)


@settings(max_examples=300, deadline=None)
@given(value=nests(plain | st.lists(st.floats(), min_size=51, max_size=51), words))
@example(value=[{"keypoints": [0.0, 1.0, 1.0, 0.0, 1e160, 1.0] + [0.0] * 45}])  # whose box has no area in float64
def test_any_json_is_frames_or_a_fault(value: Any) -> None:
    try:
        single_person(all_frames(value, "x.json"), "x.json", "track")
    except UserError as error:
        assert str(error).startswith("x.json")
