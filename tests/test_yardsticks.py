"""Yardsticks on made-up figures whose answer is known, and the command line over made-up folds."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml

from bpmt_ext.cli import main
from bpmt_ext.data.pickles import read_pickle, write_pickle
from bpmt_ext.engine.compare import Comparison
from bpmt_ext.errors import UserError
from bpmt_ext.metrics import yardsticks
from bpmt_ext.skeletons import SKELETONS, get_skeleton
from bpmt_ext.synthetic_silhouettes import write_silhouettes

KINECT, COCO = get_skeleton("kinectgait20"), get_skeleton("coco17")
TOOL = Path(__file__).parents[1] / "tools" / "yardsticks.py"


def made_up(skeleton, frames=40, seed=0):
    """(t, v, dims) of a body that keeps its shape, plus small noise."""
    rng = np.random.default_rng(seed)
    body = rng.standard_normal((skeleton.num_joints, skeleton.dims))
    return (body + 0.01 * rng.standard_normal((frames, *body.shape))).astype(np.float32)


def test_lost_joints_are_filled_in_before_measuring():
    pose = np.concatenate([100 * made_up(COCO) + 500, np.full((40, 17, 1), 0.9, np.float32)], axis=2)
    holes = pose.copy()
    holes[np.random.default_rng(0).random((40, 17)) < 0.05] = 0
    (filled,) = yardsticks.fill_lost([holes], COCO)
    measure, limit = yardsticks.pose_statistics, 0.02
    assert np.abs(measure([filled], COCO) - measure([pose], COCO)).max() < limit
    assert np.abs(measure([holes], COCO) - measure([pose], COCO)).max() > 5 * limit, "(0, 0) is no place"
    (same,) = yardsticks.fill_lost([made_up(KINECT)], KINECT)
    np.testing.assert_array_equal(same, made_up(KINECT))


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


def test_cadence_of_landmarks_is_of_the_ends_of_legs_and_arms():
    """They have no names: the last ones of their limbs stand in for ankles and wrists."""
    skeleton = get_skeleton("landmark25")
    pose = np.repeat(made_up(skeleton, frames=1), 100, axis=0)
    pose[:, skeleton.joints.index("left_lower_6"), 0] += 0.1 * np.sin(2 * np.pi * 0.1 * np.arange(100))
    found = yardsticks.cadence([pose], skeleton)[0]
    assert found[0] == pytest.approx(0.1, abs=2e-3) and found[1] == 0 and found[2] > 0 and found[3] == 0


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
    saved = folds / "saved"
    assert main([*common, "--skeleton", "kinectgait20", "--same-camera", "drop", "--save", str(saved)]) == 0
    with np.load(saved / "bone_lengths-fold1.npz") as file:
        assert file["embeddings"].shape[::2] == (9, 1)
        assert file["labels"].tolist() == np.repeat(["001", "003", "005"], 3).tolist()
    lines = capsys.readouterr().out.splitlines()
    assert "2 folds" in lines[0] and lines[0].endswith("valid probes 9/9 9/9")
    assert lines[1].split()[:4] == ["Rank-1", "100.00", "+-", "0.00"]
    assert [line[2:14].strip() for line in lines[1:]] == ["Rank-1", "Rank-5", "mAP", "mINP", "macro Rank-1"]
    (folds / "folds" / "fold1.json").write_text(json.dumps({"TRAIN_SET": ["000"], "TEST_SET": ["077"]}))
    assert main([*common, "--skeleton", "kinectgait20"]) == 2
    assert "077" in capsys.readouterr().err
    assert main(["--root", str(folds / "data"), "--folds", str(folds), "--skeleton", "kinectgait20"]) == 2
    assert "no fold<i>.json" in capsys.readouterr().err


def test_the_energy_image_is_the_raw_mean_over_time():
    rng = np.random.default_rng(0)
    clips = [rng.random((frames, 4, 3), dtype=np.float32) for frames in (1, 5, 9)]
    got = yardsticks.gait_energy_image(iter(clips))
    assert got.shape == (3, 12, 1) and got.dtype == np.float32
    for row, clip in zip(got[..., 0], clips, strict=True):
        for pixel, value in enumerate(row):
            assert value == pytest.approx(np.mean([frame[pixel // 3, pixel % 3] for frame in clip]))


SILHOUETTES = {
    "data_cfg": {
        "dataset_name": "made-up", "dataset_root": "sil", "dataset_partition": "sil/partition.json",
        "modality": "silhouette", "num_workers": 0,
    },
    "evaluator_cfg": {
        "eval_func": "evaluate_retrieval", "camera": "view", "transform": [{"type": "BaseSilCuttingTransform"}],
        "restore_hint": "last", "sampler": {"type": "InferenceSampler", "sample_type": "all_ordered", "batch_size": 4},
    },
    "model_cfg": {"model": "LandmarkNet", "channels": [2, 2, 2]},
    "optimizer_cfg": {"solver": "Adam", "lr": 0.001},
    "scheduler_cfg": {"scheduler": "ConstantLR", "factor": 1.0},
    "trainer_cfg": {
        "save_name": "sil", "total_iter": 1, "transform": [{"type": "BaseSilCuttingTransform"}],
        "sampler": {"type": "CommonSampler", "batch_size": 2, "sample_type": "fixed_ordered", "frames_num_fixed": 3},
    },
}  # fmt: skip


@pytest.fixture
def silhouettes(tmp_path, monkeypatch):
    """Made-up silhouettes of four test people and a config for them, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_silhouettes(tmp_path / "sil", train=1, test=4, cameras=2, sequences={"nm": 2}, seed=0, frames=(4, 7))
    (tmp_path / "sil.yaml").write_text(yaml.safe_dump(SILHOUETTES))
    return tmp_path


def test_the_energy_image_stands_in_a_comparison(silhouettes, monkeypatch):
    """`--yardsticks` alone: of silhouettes there is one, nearest neighbour by the distance of what the test reads."""
    monkeypatch.setattr(Comparison, "_cell", lambda *_: "done")  # no need of the network's own figures
    line = ["compare", "--cfgs", "sil.yaml@untrained", "--yardsticks", "--out", "out", "--format", "json"]
    assert main(line) == 0
    cells = json.loads((silhouettes / "out/results.json").read_text())["cells"]
    (found,) = [cell for cell in cells if cell["label"].startswith("yardstick")]
    assert found["label"] == "yardstick: gait energy image"
    files = [path for path in sorted((silhouettes / "sil").rglob("*.pkl")) if path.relative_to("/").parts[-4] != "0000"]
    images = [np.mean([frame[:, 10:-10] / 255 for frame in read_pickle(path)], axis=0) for path in files]
    hits = []
    for i, image in enumerate(images):
        apart = [np.inf if k == i else np.sqrt(((image - other) ** 2).sum()) for k, other in enumerate(images)]
        hits.append(files[int(np.argmin(apart))].parts[-4] == files[i].parts[-4])
    assert found["scores"]["made-up"]["metrics"]["Rank-1"] == pytest.approx(100 * np.mean(hits))
    assert 0 < np.mean(hits) < 1, "the data decide nothing"


def test_a_yardstick_of_other_data_is_named(silhouettes, capsys):
    out = ["compare", "--cfgs", "sil.yaml@untrained", "--out", "out", "--yardsticks"]
    for name, words in (("cadence", "it measures poses and these data are silhouettes; known are gait_energy_image"),
                        ("gait_energy", "there is no such yardstick; did you mean gait_energy_image")):
        assert main([*out, name]) == 2
        assert f"--yardsticks {name}: {words}" in capsys.readouterr().err
    assert main([*out, "gait_energy_image", "--opts", "data_cfg.modality=pose"]) == 2
    assert "it measures silhouettes and these data are poses; known are" in capsys.readouterr().err
