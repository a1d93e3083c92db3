"""One pose sequence and a value per joint and frame in, a PNG of some frames out: where a network looks.

The values are those of `GaitGraph2.activation`: bright and large joints are the ones the embedding answers to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from bpmt_ext.report.pictures import save_png
from bpmt_ext.skeletons import Skeleton

_FAINT = 0.025  # joints of less confidence are left out
_DOT = 128.0  # area of the dot of a joint at value 1, in square points


def spread_frames(frames: int, shown: int) -> list[int]:
    """`shown` frame numbers, evenly over a sequence of `frames`; all of them where it is shorter."""
    return np.unique(np.linspace(0, frames - 1, min(frames, shown)).round().astype(int)).tolist()


def draw_activation(
    pose: np.ndarray,
    value: np.ndarray,
    path: Path,
    *,
    skeleton: Skeleton,
    frames: Sequence[int] | None = None,
    title: str = "",
) -> None:
    """Write one PNG with a panel per frame.

    pose (t, v, c): x and y, of which y points down in 2D and up in 3D (there seen along the third axis); the channel
    behind the coordinates, where there is one, is the confidence. value (t, v) in 0..1. frames: which are drawn; eight
    of them, evenly spread, where left out. Raises ValueError where the shapes or the frames do not fit.
    """
    t, v = value.shape if value.ndim == 2 else (0, 0)
    if pose.shape[:2] != (t, v) or v != skeleton.num_joints or pose.shape[-1] < skeleton.dims or not t:
        raise ValueError(
            f"pose (t, {skeleton.num_joints}, {skeleton.dims} or more) and value (t, {skeleton.num_joints}) are "
            f"needed for skeleton {skeleton.name}, got {pose.shape} and {value.shape}"
        )
    chosen = spread_frames(t, 8) if frames is None else list(frames)
    if not chosen or not all(0 <= frame < t for frame in chosen):
        raise ValueError(f"frames {chosen} are not all among the {t} of the sequence")
    place = pose[chosen][..., :2]
    seen = pose[chosen][..., skeleton.dims] >= _FAINT if pose.shape[-1] > skeleton.dims else np.ones((len(chosen), v))
    seen = seen.astype(bool)
    low, high = _frame_of(place, seen)
    figure = Figure(figsize=(1.5 * len(chosen) + 0.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for i, axes in enumerate(panels):
        joints = np.flatnonzero(seen[i])
        links = [(j, skeleton.parents[j]) for j in joints if skeleton.parents[j] != j and seen[i, skeleton.parents[j]]]
        axes.add_collection(LineCollection([place[i, list(link)] for link in links], colors="0.6", linewidths=1.0))
        strength = value[chosen[i], joints]
        dots = axes.scatter(*place[i, joints].T, s=_DOT * strength, c=strength, cmap="plasma", vmin=0, vmax=1, zorder=2)
        middle = (place[i, joints].min(0) + place[i, joints].max(0)) / 2 if len(joints) else np.zeros(2)
        half = (high - low) / 2
        axes.set(xlim=(middle[0] - half[0], middle[0] + half[0]), ylim=(middle[1] - half[1], middle[1] + half[1]))
        if skeleton.dims == 2:
            axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.axis("off")
        axes.set_title(f"{chosen[i]}", fontsize=8)
    figure.colorbar(dots, ax=panels.tolist(), shrink=0.7, aspect=30)
    figure.suptitle(title)
    save_png(figure, path)


def _frame_of(place: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of one box (2,) that every frame's own figure fits in, so that all panels have the same scale."""
    sizes = [np.ptp(points[real], axis=0) for points, real in zip(place, seen, strict=True) if real.any()]
    half = np.max(sizes, axis=0) / 2 if sizes else np.ones(2)
    half = np.maximum(half, half.max() * 0.2) + half.max() * 0.08 + 1e-6  # room for the dots
    return -half, half
