"""Made-up clips in; the nearest training clip of every class, against a loop over all of them, out."""

from __future__ import annotations

import numpy as np
import pytest

from bpmt_ext.metrics import ranking
from bpmt_ext.metrics.action_yardsticks import clip_rows, nearest_clip
from bpmt_ext.skeletons import Skeleton, get_skeleton, of_bodies

PENN, BOTH = get_skeleton("penn13"), of_bodies(get_skeleton("ntu25"), 2)


def clips(count: int, skeleton: Skeleton, seed: int = 0) -> list[np.ndarray]:
    """Bodies that wander, of 1 to 40 frames."""
    rng = np.random.default_rng(seed)
    shape = (skeleton.num_joints, skeleton.dims)
    return [
        (rng.standard_normal(shape) + 0.2 * rng.standard_normal((frames, *shape)).cumsum(0)).astype(np.float32)
        for frames in rng.integers(1, 40, count)
    ]


@pytest.mark.parametrize("skeleton", [PENN, BOTH], ids=lambda s: s.name)
def test_scores_equal_a_naive_loop(skeleton: Skeleton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_PAIRS", 40)  # several blocks
    test, training = clips(7, skeleton, 1), clips(12, skeleton)
    labels = np.array([4, 0, 1, 1, 4, 0, 0, 1, 4, 4, 0, 1])  # none of 2 and 3
    scores = nearest_clip(test, training, labels, 5, skeleton)
    assert scores.shape == (7, 5) and np.isfinite(scores).all()

    def frames(pose: np.ndarray) -> np.ndarray:
        rows = []
        for k in range(16):
            frame = pose[round(k * (len(pose) - 1) / 15)].astype(np.float64)
            neck = np.mean([frame[j] for j in skeleton.neck], axis=0)
            rows.append((frame - neck) / (frame[:, 1].max() - frame[:, 1].min()))
        return np.stack(rows)

    for i, pose in enumerate(test):
        apart = [np.sqrt(((frames(pose) - frames(other)) ** 2).sum()) for other in training]
        for k in (0, 1, 4):
            nearest = min(d for d, label in zip(apart, labels, strict=True) if label == k)
            assert scores[i, k] == pytest.approx(-nearest, rel=1e-4)
        assert scores[i, [2, 3]].max() < scores[i, [0, 1, 4]].min(), "classes without a training clip come last"


def test_place_size_and_speed_do_not_matter() -> None:
    slow = np.repeat(clips(1, PENN, 3)[0][:1], 32, axis=0)
    slow[:, 5, 0] += np.linspace(0, 1, 32)
    confident = np.concatenate([slow, np.ones((32, 13, 1), np.float32)], 2)
    rows = clip_rows([slow, 3 * slow + 100, confident], PENN)
    assert rows.shape == (3, 16 * 13 * 2) and np.allclose(rows, rows[0], atol=1e-4)
    assert np.allclose(clip_rows([np.repeat(slow, 3, axis=0)], PENN), rows[0], atol=0.05), "as long as three times"
    assert np.abs(clip_rows([slow[::-1]], PENN) - rows[0]).max() > 0.1, "backwards is something else"


def test_where_two_bodies_stand_to_each_other_counts() -> None:
    (near,) = clips(1, BOTH, 5)
    far = near.copy()
    far[:, 25:, 0] += 3
    assert np.abs(clip_rows([near], BOTH) - clip_rows([far], BOTH)).max() > 0.5
