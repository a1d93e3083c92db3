"""Clips [(t, v, c)] and classes of the training clips in, class scores (n, k) out: recognition that learned nothing.

The nearest training clip names the class. A network that does not beat it clearly has learned nothing about actions.
Letters: n clips, m training clips, k classes, t frames, v joints, c channels, of which the first `skeleton.dims` are
coordinates (y vertical).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from bpmt_ext.metrics.ranking import blocks, compare, prepare
from bpmt_ext.metrics.yardsticks import Poses, _coordinates, _rescale_centre
from bpmt_ext.skeletons import Skeleton

FRAMES = 16


def clip_rows(sequences: Poses, skeleton: Skeleton, frames: int = FRAMES) -> np.ndarray:
    """Evenly spaced frames, each of height 1 with the neck at the origin -> (n, frames * v * dims) float32.

    Of two bodies (the skeleton of both) both are taken, as one figure: height is the extent of the two, the origin is
    the first one's neck, so that where they stand to each other counts.
    """
    rows = []
    for pose in _coordinates(sequences, skeleton):
        chosen = pose[np.linspace(0, len(pose) - 1, frames).round().astype(np.int64)]
        rows.append(_rescale_centre(chosen, skeleton).astype(np.float32).ravel())
    return np.stack(rows)


def nearest_clip(
    sequences: Poses, training: Poses, labels: np.ndarray, classes: int, skeleton: Skeleton
) -> np.ndarray:
    """n clips, m training clips and their classes (m,) int64 -> (n, k) float32: minus the Euclidean distance to the
    nearest training clip of each class; for a class without any, less than every other score of the row."""
    n = len(sequences)
    both = prepare(np.concatenate([clip_rows(sequences, skeleton), clip_rows(training, skeleton)])[:, :, None], "euc")
    order = np.argsort(labels, kind="stable")
    known, start = np.unique(labels[order], return_index=True)
    scores = np.empty((n, classes), dtype=np.float32)
    for rows in blocks(n, len(labels)):
        apart = compare(both[:, rows], both[:, n:], "euc").cpu().numpy()[:, order]
        scores[rows] = -2 * apart.max(1, keepdims=True) - 1
        scores[rows, known] = -np.minimum.reduceat(apart, start, axis=1)
    return scores


ACTION_YARDSTICKS: Mapping[str, Callable[[Poses, Poses, np.ndarray, int, Skeleton], np.ndarray]] = MappingProxyType(
    {"nearest_clip": nearest_clip}
)
