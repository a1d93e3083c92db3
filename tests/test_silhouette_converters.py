"""Converters of silhouettes on made-up PNG folders and MATLAB files: places, splits, reruns, sizes, and bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from figures import walk, write_pngs
from test_converters import contents, load, report, run

from bpmt_ext.data import convert
from bpmt_ext.data.convert import Job, Raw
from bpmt_ext.data.forms import Form
from bpmt_ext.data.pickles import read_silhouettes, write_pickle
from bpmt_ext.data.silhouettes import align
from bpmt_ext.errors import UserError

SILHOUETTES, USF = load("silhouettes"), load("usf")
LAYOUTS: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    # (inner folder, frames' names, raw folder -> label/type/view)
    "casiab": ("GaitDatasetB-silh", ("{}.png",), {
        f"{p}/{k}/{v}": f"{p}/{k}/{v}" for p in ("001", "075") for k in ("nm-01", "cl-02") for v in ("000", "180")}),
    "oumvlp": ("", ("{:04d}.png",), {
        f"Silhouette_{v}-{s}/{p}": f"{p}/{s}/{v}" for p in ("00001", "00002") for s in ("00", "01") for v in ("000",)}),
    "ccpg": ("", ("{}.png",), {
        f"{p}/{k}/{v}": f"{p}/{k}/{v}" for p in ("000", "199") for k in ("U0_D0", "U0_D0_BG") for v in ("03_0_0",)}),
    "psymo": ("silhouettes", ("{}.png",), {
        f"{int(p)}/{p}_{v}_{d}_{r}_{c}": f"{p}/{c}-0{int(r) + 1}/{v}-{d}" for p in ("000", "012") for v in ("00", "45")
        for d in "01" for r, c in (("0", "nm"), ("1", "nm"), ("0", "wss"))}),
    "folders": ("", ("frame{}.PNG",), {f"{p}/{k}/{v}": f"{p}/{k}/{v}" for p in ("anna", "bert") for k in ("walk", "a b")
                                       for v in ("cam 1",)}),
}  # fmt: skip


def png_raw(root: Path, layout: str) -> Path:
    inner, (name,), places = LAYOUTS[layout]
    for seed, place in enumerate(places):
        write_pngs(root / inner / place, walk(4, seed, (96, 80)), name)
    return root


def usf_samples(n: int, seed: int) -> np.ndarray:
    """(32, 22, 10, n) uint8, walker 0."""
    frames = [align(walk(10, 50 * seed + i))[:, ::2, 10:54:2] for i in range(n)]
    return (np.stack(frames, axis=-1).transpose(1, 2, 0, 3) < 128).astype(np.uint8)


IDS = {"Gal": [1, 1, 2, 0, 3], "PrbA": [2, 1, 0, 1], "PrbB": [3]}


def usf_mat(root: Path, name: str, **changes: object) -> Path:
    root.mkdir(exist_ok=True)
    mark = "g" if name == "Gal" else ""
    ids = np.array(IDS[name], float)[:, None]
    values = {f"fea3D{mark}": usf_samples(len(ids), len(name) + ord(name[-1])), f"gnd{mark}": ids, **changes}
    scipy.io.savemat(root / f"{name}.mat", values, do_compression=True)
    return root


def usf_raw(root: Path) -> Path:
    for name in IDS:
        usf_mat(root, name)
    return root


RUNS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], int]] = {
    name: (lambda root, name=name: png_raw(root, name), ("--layout", name), len(LAYOUTS[name][2])) for name in LAYOUTS}
RUNS["usf"] = usf_raw, (), 8


def made(name: str, raw: Path, out: Path, *options: str) -> int:
    return run(USF if name == "usf" else SILHOUETTES, raw, out, *RUNS[name][1], *options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_of_frames_become_aligned_pickles(layout: str, tmp_path: Path, capsys) -> None:
    raw, out = png_raw(tmp_path / "raw", layout), tmp_path / "out"
    assert made(layout, raw, out, "--folds", "2", "--inner") == 0
    places = list(LAYOUTS[layout][2].values())
    assert sorted(contents(out)) == sorted(f"{place}/{place.split('/')[2]}.pkl" for place in places)
    for seed, place in enumerate(places):
        frames = read_silhouettes(out / place / f"{place.split('/')[2]}.pkl")
        assert np.array_equal(frames, align(walk(4, seed, (96, 80))))
    assert len(contents(out / "folds", "*.json")) == 4
    printed = capsys.readouterr().out
    assert f"{len(places)} found, {len(places)} written" in printed and "identical sequences: 0" in printed
    if layout in ("casiab", "oumvlp", "ccpg"):
        lists = json.loads((out / "partition.json").read_text())
        labels = sorted({place.split("/")[0] for place in places})
        assert (lists["TRAIN_SET"], lists["TEST_SET"]) == (labels[:1], labels[1:])
        assert "missing from the full grid" in printed and "taken from documentation" in printed
    else:
        assert not (out / "partition.json").exists()


@pytest.mark.parametrize("name", ["psymo", "usf"])
def test_an_interrupted_run_is_continued_and_damaged_pickles_are_made_again(name: str, tmp_path: Path, monkeypatch,
                                                                           capsys) -> None:  # fmt: skip
    make, _, count = RUNS[name]
    raw, whole, out = make(tmp_path / "raw"), tmp_path / "whole", tmp_path / "out"
    assert made(name, raw, whole) == 0
    written, write = [], convert.write_pickle

    def interrupted(path: Path, frames: np.ndarray) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        write(path, frames)

    monkeypatch.setattr(convert, "write_pickle", interrupted)
    assert made(name, raw, out) == 130
    monkeypatch.undo()
    written[0].write_bytes(written[0].read_bytes()[:-9])
    write_pickle(written[1], np.zeros((3, 64, 64), np.uint8))  # nothing in it
    write_pickle(written[2], read_silhouettes(written[2])[:, :, 10:54])  # of another size
    write_pickle(written[3], np.zeros((4, 17, 3), np.float32))  # poses
    assert made(name, raw, out) == 0
    assert report(out)["sequences"] == {"found": count, "written": count, "of these already there": 1, "dropped": 0}
    for pattern in ("*.pkl", "sequences.jsonl"):
        assert contents(out, pattern) == contents(whole, pattern)
    assert made(name, raw, out) == 0 and report(out)["sequences"]["of these already there"] == count


def test_64x44_and_another_size_into_the_same_folder(tmp_path: Path, capsys) -> None:
    raw = png_raw(tmp_path / "raw", "folders")
    assert made("folders", raw, tmp_path / "wide") == 0
    assert made("folders", raw, tmp_path / "narrow", "--size", "64x44") == 0
    wide = read_silhouettes(tmp_path / "wide/anna/walk/cam 1/cam 1.pkl")
    assert np.array_equal(read_silhouettes(tmp_path / "narrow/anna/walk/cam 1/cam 1.pkl"), wide[:, :, 10:54])
    assert made("folders", raw, tmp_path / "wide", "--size", "64x44") == 2
    assert "use another --output" in capsys.readouterr().err


def test_bad_frames_are_counted_and_bad_folders_named(tmp_path: Path, capsys) -> None:
    raw = png_raw(tmp_path / "raw", "psymo")
    person = raw / "silhouettes" / "0"
    torn = next((person / "000_00_0_0_nm").iterdir())
    torn.write_bytes(torn.read_bytes()[:100])
    for path in (person / "000_00_1_0_nm").iterdir():
        path.write_bytes(b"no picture")
    (person / "000_99_side_0_nm").mkdir()
    (person / "000_90_0_0_nm").mkdir()  # empty
    (raw / "silhouettes" / "people.csv").write_text("a")
    assert made("psymo", raw, tmp_path / "out", "--min-frames", "3") == 0
    found = report(tmp_path / "out")
    assert found["frames dropped, by reason"] == {"no PNG picture": 4, "damaged PNG picture": 1}
    assert found["sequences dropped, by reason"] == {"no usable frame": 2}
    assert found["passed over"]["count"] == 2 and len(read_silhouettes(tmp_path / "out/000/nm-01/00-0/00-0.pkl")) == 3
    for path in raw.rglob("*.png"):
        path.write_bytes(b"")
    assert made("psymo", raw, tmp_path / "none") == 2
    message = capsys.readouterr().err
    assert "none of 25 sequences" in message and "no PNG picture" in message and "Traceback" not in message


@pytest.mark.parametrize("name", RUNS)
def test_nothing_to_convert_is_status_2(name: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "alice").write_text("a")
    for raw in (tmp_path / "empty", tmp_path / "missing", tmp_path / "wrong"):
        assert made(name, raw, tmp_path / "out") == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and str(raw) in message and not (tmp_path / "out").exists()
        assert raw.name != "wrong" or ("expected" in message and "alice" in message)


def test_usf_samples_become_upright_walkers_of_their_ids(tmp_path: Path, capsys) -> None:
    raw, out = usf_raw(tmp_path / "raw"), tmp_path / "out"
    (raw / "read.me").write_text("x")
    assert made("usf", raw, out, "--folds", "3") == 0
    assert "PrbA.mat: 1 samples of id 0" in capsys.readouterr().out and report(out)["passed over"]["count"] == 3
    assert sorted(path.rsplit("/000/", 1)[0] for path in contents(out)) == [
        "001/gallery-01", "001/gallery-02", "001/probeA-01", "001/probeA-02", "002/gallery-01", "002/probeA-01",
        "003/gallery-01", "003/probeB-01"]  # fmt: skip
    samples = usf_samples(4, len("PrbA") + ord("A"))
    frames = read_silhouettes(out / "001/probeA-02/000/000.pkl")
    assert frames.shape == (10, 64, 64) and set(np.unique(frames)) == {0, 255}
    for t in range(10):
        for y, x in ((0, 0), (5, 11), (31, 21), (17, 9)):
            cell = frames[t, 2 * y:2 * y + 2, 10 + 2 * x:12 + 2 * x]
            assert (cell == 255 * (samples[y, x, t, 3] == 0)).all()
    assert not frames[:, :, :10].any() and not frames[:, :, 54:].any()
    blank = usf_samples(5, 1)
    blank[:, :, :4, 0] = 1  # nobody there in four frames
    blank[:, :, :, 2] = 1
    assert made("usf", usf_mat(raw, "Gal", fea3Dg=blank), tmp_path / "blank") == 0
    found = report(tmp_path / "blank")
    assert found["frames dropped, by reason"] == {"no walker": 14}
    assert found["sequences dropped, by reason"] == {"no usable frame": 1}


def objects() -> np.ndarray:
    held = np.empty((1, 2), object)
    held[:] = [[np.zeros(3), "os.system"]]
    return held


@pytest.mark.parametrize("words, changes", [
    ("for 5 ids, expected", {"fea3Dg": np.zeros((22, 32, 10, 5), np.uint8)}),
    ("for 6 ids", {"gndg": np.ones(6)}), ("something else", {"gndg": [1, 2, 3, 4, 1.5]}),
    ("something else", {"gndg": [1, 2, 3, 4, np.nan]}), ("something else", {"gndg": [1, 2, 3, 4, -1]}),
    ("other levels", {"fea3Dg": np.full((32, 22, 10, 5), 255, np.uint8)}),
    ("float64", {"fea3Dg": np.zeros((32, 22, 10, 5))}),
    ("MATLAB cell", {"fea3Dg": objects()}), ("MATLAB struct", {"gndg": {"a": 1}}),
])  # fmt: skip
def test_usf_files_of_another_kind_are_one_sentence(words: str, changes: dict, tmp_path: Path, capsys) -> None:
    raw = usf_mat(usf_raw(tmp_path / "raw"), "Gal", **changes)
    assert made("usf", raw, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert words in message and "Gal.mat" in message and message.count("\n") == 1 and not (tmp_path / "out").exists()


def test_damaged_usf_files_are_one_sentence(tmp_path: Path, capsys) -> None:
    raw = usf_raw(tmp_path / "raw")
    path = raw / "Gal.mat"
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    bad = [b"", b"MATLAB 7.3 MAT-file" + bytes(300), whole[:90], whole[:200], whole[: len(whole) // 2]]
    for _ in range(20):
        noisy = bytearray(whole)
        for place in draw.integers(128, len(whole), 30):
            noisy[place] = draw.integers(256)
        bad.append(bytes(noisy))
    for content in bad:
        path.write_bytes(content)
        assert made("usf", raw, tmp_path / "out") == 2
        message = capsys.readouterr().err
        assert "Gal.mat" in message and message.count("\n") == 1 and "Traceback" not in message, message


@pytest.mark.parametrize("name", ["psymo", "usf"])
def test_as_a_script_with_worker_processes(name: str, tmp_path: Path) -> None:
    make, options, count = RUNS[name]
    script = (USF if name == "usf" else SILHOUETTES).__file__
    command = [sys.executable, script, "--input", str(make(tmp_path / "raw")), "--output", "two", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(script).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{count} written" in done.stdout
    assert made(name, tmp_path / "raw", tmp_path / "one") == 0
    assert contents(tmp_path / "two", "*.*") == contents(tmp_path / "one", "*.*")


def test_a_form_is_of_poses_or_of_silhouettes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="joints or picture"):
        Form()
    with pytest.raises(ValueError, match="joints or picture"):
        Form(17, (64, 64))
    form = Form(picture=(64, 44))
    assert form.empty().shape == (0, 64, 44) and form.empty().dtype == np.uint8 and Form(17).empty().shape == (0, 17, 3)
    jobs, options = [Job("x", "a/b/c/c.pkl")], {"converter": "t", "options": {}, "picture": (64, 44)}
    for wrong in (np.zeros((2, 64, 64), np.uint8), np.zeros((2, 64, 44)), np.zeros((64, 44), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            convert.convert(lambda job, wrong=wrong: Raw(wrong), jobs, tmp_path / "o", **options)

    def refused(job: Job) -> Raw:
        raise UserError("x: cannot be read.")

    with pytest.raises(UserError, match="none of 1 sequences"):
        convert.convert(refused, jobs, tmp_path / "o", **options)
