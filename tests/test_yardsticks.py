"""Yardsticks on made-up figures whose answer is known, and the command line over made-up folds."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.errors import UserError
from bpmt_ext.metrics import yardsticks
from bpmt_ext.skeletons import SKELETONS, get_skeleton

KINECT, COCO = get_skeleton("kinectgait20"), get_skeleton("coco17")
TOOL = Path(__file__).parents[1] / "tools" / "yardsticks.py"


def made_up(skeleton, frames=40, seed=0):
    """(t, v, dims) of a body that keeps its shape, plus small noise."""
    rng = np.random.default_rng(seed)
    body = rng.standard_normal((skeleton.num_joints, skeleton.dims))
    return (body + 0.01 * rng.standard_normal((frames, *body.shape))).astype(np.float32)


def test_bone_lengths_are_medians_of_fifteen_bones():
    pose = made_up(KINECT)
    pose[:3] = 100 * pose[:3]  # a few broken frames move a mean, not a median
    got = yardsticks.bone_lengths([pose, pose[5:]], KINECT)
    assert got.shape == (2, 15)
    names = KINECT.joints
    kept = [(a, b) for a, b in KINECT.edges if not {"hand", "foot"} & {names[i].split("_")[-1] for i in (a, b)}]
    assert len(kept) == 15
    for column, (a, b) in enumerate(kept):
        lengths = [float(np.linalg.norm(frame[a] - frame[b])) for frame in pose]
        assert got[0, column] == pytest.approx(np.median(lengths), rel=1e-5)


@pytest.mark.parametrize("skeleton", [KINECT, COCO], ids=lambda s: s.name)
@pytest.mark.parametrize("name", ["pose_statistics", "single_frame", "cadence"])
def test_place_and_size_on_the_sensor_do_not_matter(skeleton, name):
    """The centre moves and the scale varies from frame to frame, as in Gait3D's crops."""
    pose = made_up(skeleton)
    rng = np.random.default_rng(1)
    moved = pose * rng.uniform(0.5, 2, (len(pose), 1, 1)) + rng.standard_normal((len(pose), 1, skeleton.dims))
    measure = yardsticks.YARDSTICKS[name]
    np.testing.assert_allclose(measure([moved], skeleton), measure([pose], skeleton), atol=1e-5)
    other = made_up(skeleton, seed=2)
    assert np.abs(measure([other], skeleton) - measure([pose], skeleton)).max() > 1e-2


def test_pose_statistics_equal_a_naive_loop():
    pose = made_up(COCO, frames=7)
    confident = np.concatenate([pose, np.full((7, 17, 1), 0.9, dtype=np.float32)], axis=2)
    frames = []
    for frame in pose.astype(np.float64):
        height = max(frame[:, 1]) - min(frame[:, 1])
        frames.append(((frame - (frame[5] + frame[6]) / 2) / height).ravel())
    expected = np.concatenate([np.mean(frames, 0), np.std(frames, 0)])
    np.testing.assert_allclose(yardsticks.pose_statistics([confident], COCO)[0], expected, atol=1e-9)
    np.testing.assert_allclose(yardsticks.single_frame([confident], COCO)[0], frames[3], atol=1e-9)


@pytest.mark.parametrize("frames", [30, 75, 600])
@pytest.mark.parametrize("frequency", [0.07, 0.125, 0.21])
def test_cadence_finds_the_step_frequency(frames, frequency):
    body = made_up(KINECT, frames=1)[0]
    pose = np.repeat(body[None], frames, axis=0)
    left, right = (KINECT.joints.index(f"{side}_ankle") for side in ("left", "right"))
    pose[:, left] = pose[:, right]
    pose[:, left, 0] += 0.5 + 0.2 * np.sin(2 * np.pi * frequency * np.arange(frames))
    got = yardsticks.cadence([pose], KINECT)[0]
    assert got[0] == pytest.approx(frequency, abs=0.15 / frames)
    assert got[1] == 0  # the wrists rest
    height = np.ptp(pose[0, :, 1])
    assert got[2] == pytest.approx(0.2 / 2**0.5 / height, rel=0.1)


def test_a_drift_is_no_cadence():
    time = np.arange(300)
    signal = 0.2 * np.sin(2 * np.pi * 0.125 * time) + 0.4 * np.cos(np.pi * time / 300)
    assert yardsticks.dominant_frequency(signal[:, None])[0] == pytest.approx(0.125, abs=1e-3)


def test_frames_without_height_and_single_frames_stay_finite():
    still = np.zeros((1, 17, 3), dtype=np.float32)
    for measure in yardsticks.YARDSTICKS.values():
        assert np.isfinite(measure([still, made_up(COCO, frames=3)], COCO)).all()


@pytest.mark.parametrize("name", sorted(yardsticks.YARDSTICKS))
def test_embeddings_are_standardised_on_training_only(name):
    training = [made_up(KINECT, seed=i, frames=20 + i) for i in range(30)]
    got = yardsticks.embed(name, training, training, KINECT)
    assert got.dtype == np.float32 and got.shape[0] == 30 and got.shape[2] == 1
    np.testing.assert_allclose(got.mean(0), 0, atol=1e-5)
    deviations = got.std(0)
    assert ((abs(deviations - 1) < 1e-3) | (deviations == 0)).all() and (deviations > 0).any()
    alone = yardsticks.embed(name, training[:1], training, KINECT)
    np.testing.assert_array_equal(alone[0], got[0])


def test_a_column_constant_in_training_is_left_out():
    training = np.array([[0.1, 1.0], [0.1, 3.0], [0.1, 2.0]])
    got = yardsticks.standardise(np.array([[7.0, 2.0]]), training)
    assert got.tolist() == [[[0.0], [0.0]]]


def test_every_skeleton_has_every_yardstick():
    for skeleton in SKELETONS.values():
        for measure in yardsticks.YARDSTICKS.values():
            assert measure([made_up(skeleton)], skeleton).ndim == 2


def test_faults_are_named():
    with pytest.raises(UserError, match="did you mean bone_lengths"):
        yardsticks.embed("bone_length", [made_up(COCO)], [made_up(COCO)], COCO)
    with pytest.raises(UserError, match="coco17 has 17 joints of 2 coordinates"):
        yardsticks.pose_statistics([made_up(KINECT)], COCO)


@pytest.fixture
def folds(tmp_path):
    """Six people of three walks, each with bones of their own, and two folds."""
    for person in range(6):
        for walk in range(3):
            folder = tmp_path / "data" / f"{person:03d}" / f"camid{walk}_videoid0" / "seq0"
            folder.mkdir(parents=True)
            body = made_up(KINECT, frames=1, seed=person)
            noise = 1e-3 * np.random.default_rng(walk).standard_normal((25, *body.shape[1:]))
            write_pickle(folder / "seq0.pkl", (body + noise).astype(np.float32))
    labels = [f"{person:03d}" for person in range(6)]
    (tmp_path / "folds").mkdir()
    for i in range(2):
        sets = {"TRAIN_SET": [label for label in labels if label not in labels[i::2]], "TEST_SET": labels[i::2]}
        (tmp_path / "folds" / f"fold{i}.json").write_text(json.dumps(sets))
    return tmp_path


def test_command_line_over_folds(folds, capsys):
    main = runpy.run_path(str(TOOL))["main"]
    common = ["--root", str(folds / "data"), "--folds", str(folds / "folds"), "--yardstick", "bone_lengths"]
    assert main([*common, "--skeleton", "kinectgait20", "--same-camera", "drop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "2 folds" in lines[0] and lines[0].endswith("valid probes 9/9 9/9")
    assert lines[1].split()[:4] == ["Rank-1", "100.00", "+-", "0.00"]
    assert [line[2:14].strip() for line in lines[1:]] == ["Rank-1", "Rank-5", "mAP", "mINP", "macro Rank-1"]
    (folds / "folds" / "fold1.json").write_text(json.dumps({"TRAIN_SET": ["000"], "TEST_SET": ["077"]}))
    assert main([*common, "--skeleton", "kinectgait20"]) == 2
    assert "077" in capsys.readouterr().err
    assert main(["--root", str(folds / "data"), "--folds", str(folds), "--skeleton", "kinectgait20"]) == 2
    assert "no fold<i>.json" in capsys.readouterr().err
