"""Made-up walkers in, verdicts out: they walk like people, cameras distort as they should, files hold what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bpmt_ext.data.pickles import read_pose
from bpmt_ext.errors import UserError
from bpmt_ext.synthetic import (
    FRAMES,
    make_camera,
    make_sequence,
    make_walkers,
    observe,
    walk_3d,
    write_dataset,
    write_raw_gait3d,
)

SIZES = {"train": 2, "test": 3, "cameras": 2, "sequences": 2, "seed": 3}
BONES = [(5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16), (5, 6), (11, 12), (1, 2), (0, 3)]


@pytest.fixture(scope="module")
def walks() -> np.ndarray:
    """(40 people, 100 frames, 17, 3)"""
    walkers = make_walkers(range(40), seed=0)
    return np.stack([walk_3d(walkers, i, 100, np.random.default_rng(i)) for i in range(40)])


def _swing(walks: np.ndarray, far: int, near: int) -> np.ndarray:
    """How far one joint is ahead of another, standardised over the frames: (people, frames)."""
    ahead = walks[:, :, far, 0] - walks[:, :, near, 0]
    ahead = ahead - ahead.mean(1, keepdims=True)
    return ahead / ahead.std(1, keepdims=True)


def test_bones_keep_their_length(walks: np.ndarray) -> None:
    first, second = np.array(BONES).T
    length = np.linalg.norm(walks[:, :, first] - walks[:, :, second], axis=-1)
    assert np.ptp(length, axis=1).max() < 1e-9
    assert length.mean(1).std(0).min() > 0.001  # people differ


@pytest.mark.parametrize(("joints", "sign"), [((11, 13, 15), 1), ((12, 14, 16), 1), ((5, 7, 9), -1), ((6, 8, 10), -1)])
def test_knees_bend_backwards_and_elbows_forwards(walks: np.ndarray, joints: tuple[int, ...], sign: int) -> None:
    top, middle, end = (walks[:, :, j] for j in joints)
    upper, lower = middle - top, end - middle
    turn = np.cross(upper, lower)[..., 1]  # about the axis to the left: positive turns the lower part backwards
    assert (sign * turn > 0).all()
    cosine = (upper * lower).sum(-1) / np.linalg.norm(upper, axis=-1) / np.linalg.norm(lower, axis=-1)
    if sign > 0:
        bend = np.degrees(np.arccos(cosine))
        assert 50 < np.median(bend.max(1)) < 75 and np.median(bend.min(1)) < 15


def test_feet_are_on_the_ground_and_carry_the_walker(walks: np.ndarray) -> None:
    ankles = walks[:, :, [15, 16], 2]
    assert ankles.min() > 0.03  # nobody wades
    assert ankles.min(2).max() < 0.25 and np.median(ankles.min(2)) < 0.12  # nobody flies
    speed = np.ptp(walks[:, :, [11, 12], 0].mean(2), axis=1) / 99 * 25
    assert (speed > 0.7).all() and (speed < 2.1).all() and 1.1 < speed.mean() < 1.5  # metres per second
    # While an ankle is the lower one by far, it hardly moves forwards.
    step = np.diff(walks[:, :, 15, 0], axis=1) * 25
    stance = (ankles[:, 1:, 1] - ankles[:, 1:, 0]) > 0.1
    assert np.median(step[stance]) < 0.25


def test_left_against_right_and_arms_against_legs(walks: np.ndarray) -> None:
    leg, other = _swing(walks, 15, 11), _swing(walks, 16, 12)
    assert ((leg * other).mean(1) < -0.5).all()
    for wrist, shoulder, same in ((9, 5, leg), (10, 6, other)):
        agreement = (_swing(walks, wrist, shoulder) * same).mean(1)
        assert np.median(agreement) < -0.7 and (agreement < 0).mean() > 0.9


def test_a_walker_depends_on_seed_and_number_alone() -> None:
    alone, crowd = make_walkers([7], seed=5), make_walkers(range(10), seed=5)
    for name in ("limbs", "cadence", "curves"):
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(crowd, name)[7])
        assert not np.allclose(getattr(alone, name), getattr(make_walkers([7], seed=6), name))
    one, two = make_sequence(alone, 0, 2, 1, seed=5), make_sequence(crowd, 7, 2, 1, seed=5)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    others = [make_sequence(crowd, *place, seed=5)[0] for place in ((7, 2, 0), (7, 1, 1), (6, 2, 1))]
    assert all(len(one[0]) != len(other) or not np.allclose(one[0], other) for other in others)


def test_a_person_walks_alike_on_both_sides() -> None:
    curves = make_walkers(range(200), seed=0).curves
    left, right = curves[:, :7], curves[:, 7:14] * (-1.0) ** np.arange(6)  # half a stride later
    left, right = left - left.mean(0), right - right.mean(0)
    alike = (left * right.conj()).sum(0).real / np.sqrt((abs(left) ** 2).sum(0) * (abs(right) ** 2).sum(0))
    assert alike.min() > 0.8 and alike.max() < 0.99  # but not the same


def test_the_far_side_is_seen_worse() -> None:
    walkers, camera = make_walkers([0], seed=0), make_camera(1, seed=0)
    joints = walk_3d(walkers, 0, 1200, np.random.default_rng(0))
    joints[..., 0] -= joints[:, [11, 12], 0].mean(1, keepdims=True)  # on a treadmill
    pose, _ = observe(joints, type(camera)(90.0, 8.0, 10.0), np.random.default_rng(1))
    near, far = pose[:, [5, 7, 9, 11, 13, 15], 2], pose[:, [6, 8, 10, 12, 14, 16], 2]
    assert (far == 0).mean() > 1.5 * (near == 0).mean()
    assert far[far > 0].mean() < near[near > 0].mean() - 0.03


def test_a_camera_sees_its_side() -> None:
    walkers = make_walkers([0], seed=0)
    joints = walk_3d(walkers, 0, 60, np.random.default_rng(0))
    camera = make_camera(1, seed=0)
    right_of = []
    for azimuth in (0.0, 90.0, 180.0):
        seen = type(camera)(azimuth, 8.0, 10.0)
        pose, size = observe(joints, seen, np.random.default_rng(1))
        ok = pose[:, [5, 6, 0, 3], 2].min(1) > 0
        right_of.append((pose[ok, 5, 0] - pose[ok, 6, 0]).mean() / size[:, 1].mean())
        if azimuth == 0:  # comes nearer and grows
            assert size[-10:, 1].mean() > 1.2 * size[:10, 1].mean()
        if azimuth == 90:  # we see the left side: they walk to our left
            assert (pose[ok, 0, 0] < pose[ok, 3, 0]).mean() > 0.95
    assert right_of[0] > 0.1 and right_of[2] < -0.1 and abs(right_of[1]) < 0.06


def test_confidence_lost_joints_and_crops() -> None:
    walkers = make_walkers(range(20), seed=1)
    made = [make_sequence(walkers, i, c, 0, seed=1) for i in range(20) for c in (1, 2, 3)]
    lengths = [len(pose) for pose, _ in made]
    assert FRAMES[0] <= min(lengths) < 60 < 100 < max(lengths) <= FRAMES[1]
    assert all(pose.dtype == np.float32 and pose.shape[1:] == (17, 3) and np.isfinite(pose).all() for pose, _ in made)
    pose, size = np.concatenate([p for p, _ in made]), np.concatenate([s for _, s in made])
    lost = pose[..., 2] == 0
    assert (pose[lost] == 0).all() and 0.02 < lost.mean() < 0.06
    assert lost[:, [9, 10, 15, 16]].mean() > 1.3 * lost[:, [5, 6, 11, 12]].mean()
    confidence = pose[~lost][:, 2]
    assert abs(confidence.mean() - 0.85) < 0.03 and abs(confidence.std() - 0.1) < 0.02
    inside = (pose[..., :2] >= 0).all(-1) & (pose[..., :2] <= size[:, None]).all(-1)
    assert inside.mean() > 0.995
    found = np.where(lost, np.nan, pose[..., 1])
    share = (np.nanmax(found, 1) - np.nanmin(found, 1)) / size[:, 1]
    assert 0.7 < np.median(share) < 0.85


def _read_raw(folder: Path) -> tuple[np.ndarray, list[int]]:
    files = sorted(folder.glob("human_crop_f*.txt"), key=lambda path: int(path.stem[12:]))
    rows = np.array([path.read_text().split(",") for path in files], np.float32)
    assert (rows[:, :2] > 20).all() and (rows[:, :2] % 1 == 0).all()
    return rows[:, 2:].reshape(len(files), 17, 3), [int(path.stem[12:]) for path in files]


def test_files_of_both_layouts_hold_the_same(tmp_path: Path) -> None:
    partition = write_dataset(tmp_path / "made", **SIZES)
    raw = write_raw_gait3d(tmp_path / "raw", **SIZES)
    assert partition == tmp_path / "made.json" and raw.read_text() == partition.read_text()
    names = sorted(path.relative_to(tmp_path / "made") for path in (tmp_path / "made").rglob("*") if path.is_file())
    assert len(names) == 5 * 2 * 2
    assert str(names[0]) == "0000/camid1_videoid1/seq0/seq0.pkl" and names[-1].parts[:2] == ("0004", "camid2_videoid2")
    crossing = 0
    for name in names:
        pose, frames = _read_raw(tmp_path / "raw" / "2D_Poses" / name.parent)
        np.testing.assert_array_equal(pose, read_pose(tmp_path / "made" / name, joints=17))
        assert frames == list(range(frames[0], frames[0] + len(pose)))
        crossing += sorted(map(str, frames)) != list(map(str, frames))
    assert crossing  # a converter that sorts by name gets some wrong
    lists = json.loads(partition.read_text())
    assert lists["TRAIN_SET"] == ["0000", "0001"] and lists["TEST_SET"] == ["0002", "0003", "0004"]
    assert [probe[:4] for probe in lists["PROBE_SET"]] == lists["TEST_SET"]
    known = {"-".join(name.parts[:3]) for name in names}
    assert set(lists["PROBE_SET"]) <= known


@pytest.mark.parametrize("wrong", [{"train": 0}, {"cameras": 0}, {"test": 9_999}])
def test_sizes_that_give_no_data_set(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        write_dataset(tmp_path / "made", **SIZES | wrong)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="10000"):
        make_walkers([3, 10_000], seed=0)


def _rank1(feature: np.ndarray, label: np.ndarray, camera: np.ndarray) -> float:
    """Share of sequences whose nearest neighbour before another camera is the same person."""
    distance = ((feature[:, None] - feature[None]) ** 2).sum(-1)
    distance[camera[:, None] == camera] = np.inf
    return float((label[distance.argmin(1)] == label).mean())


def test_one_frame_tells_little_but_a_walk_tells_who_it_is() -> None:
    people, cameras, walks = 48, 4, 2
    walkers = make_walkers(range(people), seed=2)
    rng = np.random.default_rng(0)
    frames, labels, views = [], [], []
    for i, c, s in np.ndindex(people, cameras, walks):
        pose, _ = make_sequence(walkers, i, c + 1, s, seed=2)
        whole = np.flatnonzero((pose[..., 2] > 0).all(1))  # the zeros of lost joints would hide what the others show
        point = pose[rng.choice(whole), :, :2]
        frames.append(((point - point[[5, 6]].mean(0)) / np.ptp(point[:, 1])).ravel())
        labels.append(i)
        views.append(c)
    frame = np.array(frames)
    frame = (frame - frame.mean(0)) / frame.std(0)
    assert _rank1(frame, np.array(labels), np.array(views)) <= 3 / people
    # Without a camera: two walks of each person, spread of the joints about the hips.
    walk = np.stack([walk_3d(walkers, i % people, 100, np.random.default_rng([9, i])) for i in range(2 * people)])
    spread = (walk - walk[:, :, [11, 12]].mean(2, keepdims=True)).std(1).reshape(2 * people, -1)
    spread = (spread - spread.mean(0)) / spread.std(0)
    who = np.arange(2 * people) % people
    assert _rank1(spread, who, np.arange(2 * people) // people) > 0.5
