"""Made-up walks of a Kinect in; the key points of K-2D and the limbs of K-motion, against loops over frames, out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_datasets import KINECT, contents, run

from bpmt_ext.config import configs_folder
from bpmt_ext.data.pickles import read_pose
from bpmt_ext.data.projection import VIEWS, bone_lengths, coco_joints, equal_limbs, project
from bpmt_ext.data.sequences import find_records, read_partition
from bpmt_ext.engine.compare import Comparison, Options
from bpmt_ext.metrics.protocols import protocol_counts
from bpmt_ext.skeletons import get_skeleton

FORMAT, COCO = get_skeleton("kinectgait20"), get_skeleton("coco17")
# Somebody who faces the sensor: left at -x. Head to hip centre, then feet; right and left in turn.
BODY = np.array([
    (0, 0.6, 0), (0, 0.4, 0), (0.18, 0.35, 0), (-0.18, 0.35, 0), (0.22, 0.1, 0), (-0.22, 0.1, 0), (0.2, -0.1, -0.1),
    (-0.2, -0.1, -0.1), (0.2, -0.18, -0.1), (-0.2, -0.18, -0.1), (0, 0.1, 0.02), (0, 0, 0), (0.08, -0.05, 0),
    (-0.08, -0.05, 0), (0.1, -0.45, -0.05), (-0.1, -0.45, -0.05), (0.1, -0.85, 0.02), (-0.1, -0.85, 0.02),
    (0.1, -0.9, -0.08), (-0.1, -0.9, -0.08),
])  # fmt: skip


def made_up(seed: int, frames: int = 12, spread: float = 0.06) -> np.ndarray:
    """(t, 20, 3): the body of this seed, moving, turning and going about some metres from the sensor."""
    rng = np.random.default_rng(seed)
    pose = BODY * rng.uniform(0.8, 1.2, (20, 1)) + spread * rng.standard_normal((frames, 20, 3))
    angle = rng.uniform(0, 2 * np.pi) + 0.1 * np.arange(frames)
    turn = np.array([[np.cos(angle), 0 * angle, np.sin(angle)], [0 * angle, 1 + 0 * angle, 0 * angle],
                     [-np.sin(angle), 0 * angle, np.cos(angle)]]).transpose(2, 0, 1)  # fmt: skip
    return pose @ turn + rng.uniform(-0.5, 0.5, (frames, 1, 3)) + (0, 0, 2.5)


def joint(name: str) -> int:
    return FORMAT.joints.index(name)


# -- K-2D


def naive(pose: np.ndarray, person: int, walk: int, view: int) -> np.ndarray:
    """The sentences of the protocol, frame by frame and joint by joint."""
    rng = np.random.default_rng([11, person, walk, view])
    azimuth = math.radians((0, 45, 90, 135)[view] + rng.uniform(-10, 10))
    elevation = math.radians(rng.uniform(5, 15))
    noise = rng.standard_normal((len(pose), 17, 2))
    lost = rng.uniform(size=(len(pose), 17)) < 0.05
    confidence = 0.85 + 0.1 * rng.standard_normal((len(pose), 17))
    flat, heights = [], []
    for frame in pose:
        left = frame[joint("left_shoulder")] - frame[joint("right_shoulder")]
        left = left + frame[joint("left_hip")] - frame[joint("right_hip")]
        size = math.hypot(left[0], left[2])
        lx, lz = left[0] / size, left[2] / size
        fx, fz = -lz, lx  # a quarter to the right of what lies left, seen from above
        hx, hy, hz = frame[joint("head")]
        points = [(hx + f * fx + s * lx, hy + u, hz + f * fz + s * lz) for f, s, u in (
            (0.1, 0, -0.01), (0.085, 0.032, 0.03), (0.085, -0.032, 0.03), (0, 0.075, 0), (0, -0.075, 0))]
        points += [tuple(frame[joint(name)]) for name in COCO.joints[5:]]
        ox, oy, oz = frame[joint("hip_center")]
        # the camera's place, from which the depth is the distance along its line to the hip centre
        cx, cy, cz = (ox - 4 * math.sin(azimuth) * math.cos(elevation), oy + 4 * math.sin(elevation),
                      oz - 4 * math.cos(azimuth) * math.cos(elevation))
        rows = []
        for x, y, z in [*points, (hx, hy, hz)]:
            depth = ((x - cx) * (ox - cx) + (y - cy) * (oy - cy) + (z - cz) * (oz - cz)) / 4
            right = -(x - ox) * math.cos(azimuth) + (z - oz) * math.sin(azimuth)
            above = (y - oy) * math.cos(elevation) + math.sin(elevation) * (
                math.sin(azimuth) * (x - ox) + math.cos(azimuth) * (z - oz))
            rows.append((right / depth, -above / depth, depth))
        flat.append(rows)
        heights.append(max(row[1] for row in rows[:17]) - min(row[1] for row in rows[:17]))
    scale = 200 / sorted(heights)[len(heights) // 2]  # of an odd number of frames
    seen = np.zeros((len(pose), 17, 3))
    for t, rows in enumerate(flat):
        for j, name in enumerate(COCO.joints):
            hidden = name.endswith("ear") and rows[j][2] > rows[17][2] + 0.0375
            if not lost[t, j] and not hidden:
                pixels = 4 if name.split("_")[-1] in ("wrist", "ankle") else 2
                seen[t, j] = (160 + scale * rows[j][0] + pixels * noise[t, j, 0],
                              160 + scale * rows[j][1] + pixels * noise[t, j, 1],
                              min(1.0, max(0.05, confidence[t, j])))
    return seen


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 100), st.integers(1, 6), st.integers(0, 3))
def test_a_projection_equals_a_loop_over_frames_and_joints(seed: int, person: int, walk: int, view: int) -> None:
    pose = made_up(seed, frames=11)
    got = project(pose, person, walk, view)
    np.testing.assert_allclose(got, naive(pose, person, walk, view), rtol=0, atol=1e-8)
    assert project(pose[:0], person, walk, view).shape == (0, 17, 3)


def test_a_walker_who_faces_the_sensor_is_seen_from_the_front_and_then_from_the_left() -> None:
    pose = np.repeat(BODY[None], 401, axis=0)  # so many that noise and losses average out
    seen = [project(pose, 1, 1, view) for view in range(4)]
    place = [np.ma.median(np.ma.masked_array(p, p == 0), axis=0).filled(np.nan) for p in seen]  # (17, 3)
    at = {name: i for i, name in enumerate(COCO.joints)}
    front, side = place[0], place[2]
    assert front[at["left_hip"], 0] > 160 > front[at["right_hip"], 0], "no mirror image"
    assert side[at["nose"], 0] < side[at["left_ear"], 0] - 5, "who is seen from the left looks to the left"
    assert (front[at["nose"], 1] < front[at["left_hip"], 1]) and (front[at["left_ankle"], 1] > 230), "y goes down"
    for view, hidden in enumerate(((), ("right_ear",), ("right_ear",), ("right_ear",))):
        assert {name for name, i in at.items() if np.isnan(place[view][i, 0])} == set(hidden)
    for p in seen:
        given = p[..., 2] > 0
        assert ((p == 0).all(-1) == ~given).all(), "a lost joint is (0, 0, 0)"
        assert 0.03 < (~given[:, 5:]).mean() < 0.07
        assert p[given][:, 2].mean() == pytest.approx(0.85, abs=0.01) and p[..., 2].max() <= 1
        assert p[given[:, 16], 16, :2].std(0) == pytest.approx([4, 4], rel=0.2)
        assert p[given[:, 14], 14, :2].std(0) == pytest.approx([2, 2], rel=0.2)
        height = np.median([np.ptp(frame[frame[:, 2] > 0, 1]) for frame in p])
        assert 195 < height < 215


def test_who_has_no_direction_and_what_is_behind_the_camera() -> None:
    pose = made_up(0)
    pose[:, [joint("left_hip"), joint("left_shoulder")]] = pose[:, [joint("right_hip"), joint("right_shoulder")]]
    face = coco_joints(pose)[:, 0] - pose[:, joint("head")]
    np.testing.assert_allclose(face, np.tile((0, -0.01, -0.1), (len(pose), 1)), atol=1e-12)
    behind = made_up(1)
    behind[:, joint("left_knee")] += (0, 0, -5)  # beyond the camera of azimuth 0
    assert not project(behind, 1, 1, 0)[:, COCO.joints.index("left_knee")].any()
    assert np.isfinite(project(np.zeros((3, 20, 3)), 1, 1, 0)).all()


# -- K-motion


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 0.4))
def test_limbs_of_given_lengths_equal_a_walk_along_the_edges(seed: int, spread: float) -> None:
    pose, lengths = made_up(seed, 5, spread), np.random.default_rng(seed).uniform(0.05, 0.5, 20)
    got = equal_limbs(pose, lengths)
    for t, frame in enumerate(pose):
        placed = {11: frame[11]}
        while len(placed) < 20:
            for a, b in (*FORMAT.edges, *((b, a) for a, b in FORMAT.edges)):
                if a in placed and b not in placed:
                    way = frame[b] - frame[a]
                    placed[b] = placed[a] + way / math.dist(frame[a], frame[b]) * lengths[b]
        np.testing.assert_allclose(got[t], [placed[j] for j in range(20)], atol=1e-12)
    np.testing.assert_allclose(np.delete(bone_lengths(got), 11), np.delete(lengths, 11), atol=1e-12)
    np.testing.assert_allclose(equal_limbs(got, lengths), got, atol=1e-12)
    still = pose.copy()
    still[:, 0] = still[:, 1]  # a head without a neck stays without
    np.testing.assert_allclose(equal_limbs(still, lengths)[:, 0], equal_limbs(still, lengths)[:, 1], atol=1e-12)


# -- the command line


def raw(root: Path, walks: dict[tuple[int, int], np.ndarray]) -> Path:
    for (person, walk), pose in walks.items():
        path = root / "Data" / f"Person{person:03d}" / f"{walk}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [";".join((name, *map(repr, place))) for frame in pose.tolist()
                for name, place in zip(KINECT.NAMES, frame, strict=True)]  # fmt: skip
        path.write_text("\n".join(rows) + "\n")
    return root / "Data"


WALKS = {(person, walk): made_up(10 * person + walk, 66 + 3 * walk) for person in (1, 2, 12) for walk in (1, 2)}


def test_four_views_whole_and_their_windows(tmp_path: Path) -> None:
    data = raw(tmp_path, WALKS)
    assert run(KINECT, data, tmp_path / "whole", "--project", "--folds", "2", "--inner") == 0
    assert run(KINECT, data, tmp_path / "short", "--project", "--clip", "30") == 0
    for (person, walk), pose in WALKS.items():
        steps = pose[::2]
        start = np.random.default_rng([7, person, walk]).integers(0, len(steps) - 30 + 1)
        for view, name in enumerate(VIEWS):
            path = f"{person:03d}/{walk}/{name}/{walk}.pkl"
            whole = read_pose(tmp_path / "whole" / path, 17)
            np.testing.assert_allclose(whole, project(steps, person, walk, view), atol=1e-4)
            np.testing.assert_array_equal(read_pose(tmp_path / "short" / path, 17), whole[start : start + 30])
    files = [name for name in contents(tmp_path / "whole") if name.endswith(".pkl")]
    assert len(files) == 4 * len(WALKS)
    again = contents(tmp_path / "whole")
    assert run(KINECT, data, tmp_path / "again", "--project", "--folds", "2", "--inner") == 0
    assert contents(tmp_path / "again") == again
    assert run(KINECT, data, tmp_path / "whole") == 2, "a folder holds one protocol"

    plain = tmp_path / "plain"
    assert run(KINECT, data, plain, "--folds", "2", "--inner") == 0
    for i in range(2):
        for kind in ("", "_inner"):  # the same people, whatever is made of their walks
            name = f"folds/fold{i}{kind}.json"
            assert (plain / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    test = read_partition(tmp_path / "whole/folds/fold0.json").test
    records = [record for record in find_records(tmp_path / "whole") if record.label in test]
    fields = ([getattr(record, key) for record in records] for key in ("label", "type", "view"))
    counts = protocol_counts("evaluate_retrieval", *fields, same_camera="drop_all", camera="view")
    n = len(records)
    assert counts["probes"] == {"total": n, "valid": n, "without_match": 0} and counts["cameras"] == 4
    assert counts["excluded_pairs"] == 4 * (n // 4) * (n // 4 - 1), "all of the probe's view, and nothing else"


def test_limbs_are_those_of_the_training_persons(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = raw(tmp_path, WALKS)
    fold = tmp_path / "fold0.json"
    fold.write_text(json.dumps({"TRAIN_SET": ["001", "012"], "TEST_SET": ["002"]}))
    options = ("--clip", "30", "--equal-limbs", str(fold))
    assert run(KINECT, data, tmp_path / "motion", *options) == 0
    assert run(KINECT, data, tmp_path / "short", "--clip", "30") == 0
    expected = np.zeros(20)
    for a, b in FORMAT.edges:
        persons = []
        for person in (1, 12):
            walks = [np.median([math.dist(frame[a], frame[b]) for frame in WALKS[person, w][::2]]) for w in (1, 2)]
            persons.append(np.median(walks))
        expected[b if FORMAT.parents[b] == a else a] = np.median(persons)
    for person, walk in WALKS:
        path = f"{person:03d}/{walk}/kinect/{walk}.pkl"
        got, before = (read_pose(tmp_path / name / path, 20) for name in ("motion", "short"))
        for t in range(30):
            for a, b in FORMAT.edges:
                child, parent = (b, a) if FORMAT.parents[b] == a else (a, b)
                bone, old = got[t, child] - got[t, parent], before[t, child] - before[t, parent]
                assert np.linalg.norm(bone) == pytest.approx(expected[child], abs=1e-5)
                assert bone @ old == pytest.approx(np.linalg.norm(bone) * np.linalg.norm(old), rel=1e-5)
        np.testing.assert_array_equal(got[:, 11], before[:, 11])
    strangers = raw(tmp_path / "other", {**WALKS, (2, 1): 2 * WALKS[2, 1]})
    assert run(KINECT, strangers, tmp_path / "motion2", *options) == 0
    assert contents(tmp_path / "motion2")["001/1/kinect/1.pkl"] == contents(tmp_path / "motion")["001/1/kinect/1.pkl"]
    fold.write_text(json.dumps({"TRAIN_SET": ["001", "077"], "TEST_SET": []}))
    assert run(KINECT, data, tmp_path / "none", *options) == 2
    assert "077, who has no walk" in capsys.readouterr().err
    assert run(KINECT, data, tmp_path / "none", "--equal-limbs", str(tmp_path / "no.json")) == 2


def test_a_comparison_finds_the_test_set_of_a_fold(tmp_path: Path) -> None:
    for i in range(2):
        for kind in ("", "_inner"):
            (tmp_path / "folds").mkdir(exist_ok=True)
            (tmp_path / f"folds/fold{i}{kind}.json").write_text("{}")
    config = str(configs_folder() / "bpmt/bpmt_k2d_t1.yaml")
    for inner in (False, True):
        options = Options(out=tmp_path / "out", cfgs=(config,), folds=2, inner=inner, root=tmp_path,
                          tests={"whole": tmp_path, "motion": tmp_path / "KM" / "{fold}"})  # fmt: skip
        cases = Comparison(options).cases
        end = "_inner" if inner else ""
        assert [case.tests["motion"].name for case in cases] == [f"fold0{end}", f"fold1{end}"]
        assert {case.tests["whole"] for case in cases} == {tmp_path}
