"""Made-up silhouettes in, verdicts out: aligned bodies that walk as their skeletons do, laid out as public sets."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bpmt_ext.data.pickles import read_silhouettes
from bpmt_ext.data.sequences import load_splits
from bpmt_ext.data.silhouettes import align
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.protocols import evaluate, protocol_counts
from bpmt_ext.metrics.yardsticks import gait_energy_image
from bpmt_ext.synthetic import make_camera, make_walkers, project, stream, walk_3d
from bpmt_ext.synthetic_silhouettes import CONDITIONS, make_silhouettes, view_name, write_silhouettes

SHORT = (20, 24)
CAMERAS = range(1, 7)  # all round


@pytest.fixture(scope="module")
def clips() -> dict[tuple[int, int, str], np.ndarray]:
    """(person, camera, condition) -> (t, 64, 64)"""
    walkers = make_walkers(range(4), seed=0)
    return {
        (i, camera, condition): make_silhouettes(walkers, i, camera, 0, seed=0, condition=condition, frames=SHORT)
        for i in range(4) for camera in CAMERAS for condition in CONDITIONS
    }  # fmt: skip


def test_bodies_are_aligned_as_the_converters_align(clips: dict) -> None:
    for clip in clips.values():
        assert clip.dtype == np.uint8 and clip.shape[1:] == (64, 64) and SHORT[0] <= len(clip) <= SHORT[1]
        assert clip.max() == 255 and 0.08 < (clip > 127).mean() < 0.35
        solid = clip[:, 1:-1] > 127
        assert solid.any(2).all(), "a row without body between head and feet"
        assert (clip[:, [0, -1]].max(2) > 60).all(), "the body does not fill the rows"
        share = clip.sum(1).cumsum(1) / clip.sum((1, 2))[:, None]  # of the mass up to the end of each column
        assert (share[:, 30] < 0.5).all() and (share[:, 32] > 0.5).all(), "the median is not in the middle"
        assert np.abs(align(clip).astype(float) - clip).mean() < 6  # of 255: at most half a pixel off


def test_a_body_is_one_piece(clips: dict) -> None:
    """From row to row the body goes on: some column is filled in both."""
    for clip in clips.values():
        solid = clip > 60
        assert (solid[:, 1:] & solid[:, :-1]).any(2).all()


def test_a_clip_depends_on_its_own_numbers_alone(clips: dict) -> None:
    alone = make_walkers([2], seed=0)
    for camera, condition in ((1, "nm"), (4, "bg"), (3, "cl")):
        again = make_silhouettes(alone, 0, camera, 0, seed=0, condition=condition, frames=SHORT)
        assert np.array_equal(again, clips[2, camera, condition])
    other = make_silhouettes(alone, 0, 1, 1, seed=0, frames=SHORT)
    assert other.shape != clips[2, 1, "nm"].shape or (other != clips[2, 1, "nm"]).any()
    means = [clip.mean(0) for clip in clips.values()]
    assert all(np.abs(a - b).max() > 5 for i, a in enumerate(means) for b in means[:i])


@pytest.mark.parametrize("person", range(3))
def test_the_legs_part_as_those_of_the_skeleton_do(person: int) -> None:
    """The same draws give the walk whose key points `make_sequence` gives: how wide the feet stand follows it."""
    walkers = make_walkers(range(3), seed=0)
    camera = min(CAMERAS, key=lambda c: abs(np.cos(np.radians(make_camera(c, seed=0).azimuth))))  # the most sideways
    clip = make_silhouettes(walkers, person, camera, 2, seed=0, frames=(60, 60))
    rng = stream(0, person, camera, 2)
    walk = walk_3d(walkers, person, int(rng.integers(60, 61)), rng)
    image = project(walk, make_camera(camera, seed=0), rng)[0]
    apart = np.abs(image[:, 15, 0] - image[:, 16, 0]) / np.ptp(image[..., 1], axis=1)
    feet = (clip[:, 54:] > 127).any(1)  # (t, 64)
    width = 64 - feet[:, ::-1].argmax(1) - feet.argmax(1)
    assert np.corrcoef(apart, width)[0, 1] > 0.9
    # and the head leads where the walker goes: a side view is no mirror image of itself
    head, body = ((clip[:, rows].sum((0, 1)) * np.arange(64)).sum() / clip[:, rows].sum() for rows in
                  (slice(0, 8), slice(0, 64)))  # fmt: skip
    forward = np.sign((image[-1, 11] - image[0, 11])[0] * 1.0)
    assert (head - body) * forward > 0


def test_a_front_view_is_wider_at_the_shoulders_than_a_side_view(clips: dict) -> None:
    sides = {c: abs(np.sin(np.radians(make_camera(c, seed=0).azimuth))) for c in CAMERAS}
    front, side = min(sides, key=sides.get), max(sides, key=sides.get)
    for person in range(4):
        wide, narrow = ((clips[person, c, "nm"][:, 13:18] > 127).sum(2).mean() for c in (front, side))
        assert wide > 1.4 * narrow


def test_a_coat_covers_the_thighs_and_a_bag_is_seen_from_somewhere(clips: dict) -> None:
    def area(person: int, camera: int, condition: str, rows: slice) -> float:
        return (clips[person, camera, condition][:, rows] > 127).sum((1, 2)).mean()

    for person in range(4):
        thighs = slice(34, 42)
        ratio = [area(person, c, "cl", thighs) / area(person, c, "nm", thighs) for c in CAMERAS]
        assert np.mean(ratio) > 1.15
        whole = slice(0, 64)
        assert max(area(person, c, "bg", whole) / area(person, c, "nm", whole) for c in CAMERAS) > 1.04


def test_people_can_be_told_apart_by_their_mean_silhouette() -> None:
    """Otherwise nothing could be learned; but not by everybody's every walk, else nothing need be."""
    walkers = make_walkers(range(12), seed=1)
    made = {(i, k): make_silhouettes(walkers, i, 1, k, seed=1, frames=(30, 30)) for i in range(12) for k in range(3)}
    names = [str(i) for i, _ in made], ["walk"] * len(made), [str(k) for _, k in made]
    score = evaluate("evaluate_retrieval", gait_energy_image(made.values()), *names)["metrics"]["Rank-1"]
    assert 40 < score < 100
    area = np.array([[(made[i, k] > 127).sum((1, 2)).mean() for k in range(3)] for i in range(12)])
    assert area.mean(1).std() > 0.06 * area.mean()  # some are stout, in every walk
    assert area.std(1).mean() < 0.5 * area.mean(1).std()


def test_the_written_set_is_read_as_silhouettes_and_fits_casia_bs_rule(tmp_path: Path) -> None:
    sizes = {"train": 1, "test": 2, "cameras": 2, "seed": 3, "frames": (3, 4)}
    partition = write_silhouettes(tmp_path / "set", **sizes)
    assert json.loads(partition.read_text()) == {"TRAIN_SET": ["0000"], "TEST_SET": ["0001", "0002"]}
    views = [view_name(camera, seed=3) for camera in (1, 2)]
    files = sorted(str(path.relative_to(tmp_path / "set")) for path in (tmp_path / "set").rglob("*.pkl"))
    assert len(files) == 3 * 2 * 10 and f"0002/cl-02/{views[1]}/{views[1]}.pkl" in files
    walkers = make_walkers(range(3), seed=3)
    for name, camera, condition, walk in (("nm-06", 1, "nm", 5), ("bg-01", 2, "bg", 0)):
        view = views[camera - 1]
        clip = make_silhouettes(walkers, 2, camera, walk, seed=3, condition=condition, frames=(3, 4))
        assert np.array_equal(read_silhouettes(tmp_path / "set" / "0002" / name / view / f"{view}.pkl"), clip)
    data = SimpleNamespace(
        dataset_root=tmp_path / "set", dataset_partition=partition, modality="silhouette", cache=False, packed=False,
        data_in_use=None, missing_labels="error", frame_threshold=0, min_cameras=1, camera="view", camera_split=False,
        validation=0.0, validation_seed=0, train_labels=0, train_sequences=0,
    )  # fmt: skip
    test = load_splits(data).test
    counts = protocol_counts(
        "evaluate_indoor_dataset", [r.label for r in test.records], test.types, test.views, dataset="CASIA-B"
    )
    assert counts["probes"] == {"total": 24, "valid": 24, "without_match": 0} and counts["views"] == sorted(views)
    assert test.read(0).dtype == np.uint8


@pytest.mark.parametrize("change", [
    {"train": 0}, {"cameras": 100}, {"sequences": {"nm": 0}}, {"sequences": {"walk": 2}}, {"sequences": {"nm": 100}},
    {"frames": (5, 4)}, {"frames": (0, 4)}, {"train": 9999, "test": 2},
])  # fmt: skip
def test_sizes_that_give_no_data_set_are_refused(tmp_path: Path, change: dict) -> None:
    sizes = {"train": 1, "test": 1, "cameras": 1, "seed": 0, **change}
    with pytest.raises(UserError, match="asked for"):
        write_silhouettes(tmp_path / "set", **sizes)
    assert not (tmp_path / "set").exists()


def test_an_unknown_condition_is_named() -> None:
    with pytest.raises(UserError, match="condition 'ub' asked for: use one of nm, bg, cl"):
        make_silhouettes(make_walkers([0], seed=0), 0, 1, 0, seed=0, condition="ub")
