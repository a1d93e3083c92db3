"""The frames of a converted sequence in, the array for its pickle out: poses of so many joints, or silhouettes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bpmt_ext.data.pickles import read_pose, read_silhouettes

NOT_FINITE = "number that is not finite"


@dataclass(frozen=True)
class Form:
    """What a data set's pickles hold: poses (t, joints, c) float32 or, where `picture` = (h, w) is given, silhouettes
    (t, h, w) uint8, 0 ground to 255 figure."""

    joints: int = 0
    picture: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if (self.joints > 0) == (self.picture is not None):
            raise ValueError(f"give joints or picture, got {self.joints} and {self.picture}")

    def empty(self) -> np.ndarray:
        """A sequence without frames."""
        return np.empty((0, *self.picture), np.uint8) if self.picture else np.empty((0, self.joints, 3))

    def fit(self, frames: np.ndarray, dropped: Counter[str], faults: list[str], source: str) -> np.ndarray:
        """The frames as they are written; those with NaN or infinity are added to `dropped` and `faults`."""
        if self.picture:
            if frames.dtype != np.uint8 or frames.ndim != 3 or frames.shape[1:] != self.picture:
                raise ValueError(f"{source}: read as {frames.dtype} {frames.shape}, expected uint8 of {self.picture}")
            return np.ascontiguousarray(frames)
        if frames.ndim != 3 or (len(frames) and frames.shape[1] != self.joints):
            raise ValueError(f"{source}: read as {frames.shape}, expected (t, {self.joints}, c)")
        with np.errstate(over="ignore"):
            pose = np.ascontiguousarray(frames, dtype=np.float32)
        return finite_frames(pose, dropped, faults, source)

    def count(self, path: Path) -> int:
        """How many frames a whole pickle has; UserError if it is none of this form. 0: silhouettes of another size."""
        if not self.picture:
            return len(read_pose(path, self.joints))
        frames = read_silhouettes(path)
        return len(frames) if frames.shape[1:] == self.picture else 0


def finite_frames(pose: np.ndarray, dropped: Counter[str], faults: list[str], source: str) -> np.ndarray:
    """The frames (t', v, c) without NaN or infinity; the others are added to `dropped` and `faults`."""
    finite = np.isfinite(pose).all(axis=(1, 2))
    if not finite.all():
        dropped[NOT_FINITE] += int((~finite).sum())
        faults.append(f"{source}: {int((~finite).sum())} frames with numbers that are not finite")
    return pose[finite]
