"""A tiny network of actions and clips in; class names with scores, window by window, out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_actions import CLASSES, train, write_actions, write_configs

from bpmt_ext.cli import main
from bpmt_ext.data.pickles import read_pickle, write_pickle
from bpmt_ext.engine.fuse import read_predictions


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of actions, trained and tested."""
    folder = tmp_path_factory.mktemp("actions")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_actions(folder / "data")
        write_configs(folder)
        assert train("tlca", "model_cfg.stages.t1=null") == 0
    return folder


def asked(capsys: pytest.CaptureFixture, *line: str) -> list[dict]:
    capsys.readouterr()
    assert main(["predict", "--cfgs", "tlca.yaml", "--json", "-", *line]) == 0
    return json.loads(capsys.readouterr().out)["clips"]


def test_a_clip_gets_the_scores_of_the_test(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
                                            ) -> None:  # fmt: skip
    monkeypatch.chdir(home)
    tested = read_predictions(home / "output/made-up/TLCA/tlca")
    paths = [home / "data" / name.replace("-", "/") / "p.pkl" for name in tested.names]
    clips = asked(capsys, "--window", "0", "--min-frames", "5", *map(str, paths))
    assert len(clips) == len(paths)
    for clip, scores in zip(clips, tested.scores, strict=True):
        found = {row["class"]: row["score"] for row in clip["top"]}
        np.testing.assert_allclose([found[name] for name in CLASSES], scores, atol=1e-5)
        assert [row["score"] for row in clip["top"]] == sorted(found.values(), reverse=True)
    alone = asked(capsys, "--min-frames", "5", "--top", "2", str(paths[0]))[0]["top"]  # a batch of its own
    assert [row["class"] for row in alone] == [row["class"] for row in clips[0]["top"][:2]]
    np.testing.assert_allclose(*([row["score"] for row in rows] for rows in (alone, clips[0]["top"][:2])), atol=1e-5)


def test_windows_slide_over_a_long_clip(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
                                        ) -> None:  # fmt: skip
    monkeypatch.chdir(home)
    one = [read_pickle(home / f"data/{name}/s00_e01/v01/p.pkl") for name in ("bow", "wave")]
    write_pickle(home / "long.pkl", np.concatenate([np.concatenate([clip] * 3) for clip in one]))
    write_pickle(home / "first.pkl", np.concatenate([one[0]] * 3)[:20])
    (clip,) = asked(capsys, "--window", "20", "--stride", "10", "long.pkl")
    assert [(w["first"], w["last"]) for w in clip["windows"]] == [(0, 19), (10, 29), (20, 39), (30, 49), (40, 59),
                                                                  (50, 69), (52, 71)]  # fmt: skip
    (alone,) = asked(capsys, "--window", "20", "first.pkl")
    for mine, theirs in zip(clip["windows"][0]["top"], alone["top"], strict=True):
        assert mine["class"] == theirs["class"] and mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
    for name in CLASSES:
        each = [row["score"] for w in clip["windows"] for row in w["top"] if row["class"] == name]
        (whole,) = (row["score"] for row in clip["top"] if row["class"] == name)
        assert np.mean(each) == pytest.approx(whole, abs=1e-6)
    assert main(["predict", "--cfgs", "tlca.yaml", "--window", "20", "long.pkl"]) == 0
    text = capsys.readouterr().out
    assert "long.pkl, track 1, frames 0 to 71" in text and "52-71" in text


def test_class_names_without_the_data(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
                                      tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.chdir(home)
    (home / "names.txt").write_text("a\nb\nc\nd\n")
    (home / "few.txt").write_text("a\nb\n")
    clip = "data/bow/s00_e01/v01/p.pkl"
    line = ["--min-frames", "5", clip]
    before = asked(capsys, *line)
    moved = ["--opts", "data_cfg.dataset_partition=nowhere.json"]
    assert asked(capsys, *line, *moved) == before  # what its test saved knows them too
    renamed = asked(capsys, *line, "--classes", "names.txt")[0]["top"]
    assert [CLASSES["abcd".index(row["class"])] for row in renamed] == [row["class"] for row in before[0]["top"]]

    def refused(*more: str) -> str:
        capsys.readouterr()
        assert main(["predict", "--cfgs", "tlca.yaml", *line, *more]) == 2
        return capsys.readouterr().err

    assert "names 2 classes, the network tells 4 apart" in refused("--classes", "few.txt")
    assert "cannot be read" in refused("--classes", "nowhere.txt")
    saved = home / "output/made-up/TLCA/tlca/predictions.npz"
    saved.rename(tmp_path / "away.npz")
    try:
        assert "give --classes FILE" in refused(*moved)
    finally:
        (tmp_path / "away.npz").rename(saved)
    assert main(["enroll", "--gallery", "g", "--name", "a", "--cfgs", "tlca.yaml", *line]) == 2
    assert "names actions, not people" in capsys.readouterr().err and not (home / "g").exists()


def test_two_bodies_are_read_from_the_tracks_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    write_actions(tmp_path / "data", joints=50)
    write_configs(tmp_path, bodies=2)
    assert train("tlca", "model_cfg.stages.t1=null", "trainer_cfg.with_test=false", "trainer_cfg.total_iter=2") == 0
    file = tmp_path / "data/wave/s00_e01/v01/p.pkl"
    pose = read_pickle(file)
    lines = [str(len(pose))]
    for frame in pose:
        lines.append("2")
        for body, joints in (("71", frame[:25]), ("72", frame[25:])):
            lines += [" ".join([body, *["0"] * 9]), "25", *(" ".join([*map(repr, map(float, j)), *["0"] * 9])
                                                            for j in joints)]  # fmt: skip
    (tmp_path / "a.skeleton").write_text("\n".join(lines) + "\n")
    capsys.readouterr()
    line = ["predict", "--cfgs", "tlca.yaml", "--min-frames", "5", "--json", "-", "a.skeleton"]
    assert main(line) == 0
    (clip,) = json.loads(capsys.readouterr().out)["clips"]
    assert set(clip["track"].split("+")) == {"71", "72"} and clip["last"] == len(pose) - 1
    assert sum(row["score"] for row in clip["top"]) == pytest.approx(1, abs=1e-5)
    assert main([*line[:-1], str(file)]) == 0  # a converter's pickle holds both already
    (again,) = json.loads(capsys.readouterr().out)["clips"]
    assert again["track"] == "1" and again["last"] == clip["last"]
    if clip["track"] == "71+72":  # else the second body is the livelier one
        assert [row["class"] for row in again["top"]] == [row["class"] for row in clip["top"]]
