"""A place, a height and a phase in, a made-up walker's silhouette with soft edges out: for the tests of silhouettes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

# ends and radius of the limbs of somebody 1 high and walking to the right, y from the top; legs and arm swing
HEAD, TRUNK, NOSE = ((0.0, 0.08, 0.0, 0.08), 0.08), ((0.0, 0.22, 0.0, 0.5), 0.09), ((0.06, 0.09, 0.11, 0.09), 0.02)


def figure(x: float = 64, y: float = 14, height: float = 100, phase: float = 0.0, size: tuple[int, int] = (128, 128),
           ) -> np.ndarray:  # fmt: skip
    """(h, w) uint8: a walker whose head is at column x, whose top is at row y; pixels at its edge are grey."""
    swing = np.sin(phase)
    legs = [((0.0, 0.5, side * 0.22 * swing, 0.95), 0.05) for side in (1, -1)]
    foot = ((0.22 * swing, 0.96, 0.22 * swing + 0.09, 0.96), 0.04)
    arm = ((0.0, 0.24, 0.16 * swing + 0.1, 0.5), 0.04)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    level = np.zeros(size)
    for (x0, y0, x1, y1), radius in (HEAD, TRUNK, NOSE, foot, arm, *legs):
        ax, ay, bx, by = x + height * x0, y + height * y0, height * (x1 - x0), height * (y1 - y0)
        along = ((columns - ax) * bx + (rows - ay) * by) / max(bx * bx + by * by, 1e-9)
        along = along.clip(0, 1)
        distance = np.hypot(columns - ax - along * bx, rows - ay - along * by)
        level = np.maximum(level, (height * radius - distance + 0.5).clip(0, 1))
    return np.rint(255 * level).astype(np.uint8)


def walk(t: int = 5, seed: int = 0, size: tuple[int, int] = (128, 128)) -> np.ndarray:
    """(t, h, w) uint8: a walker of its own size and pace, drifting to the right."""
    draw = np.random.default_rng(seed).uniform
    height, pace, x = size[0] * draw(0.6, 0.75), draw(0.4, 0.8), size[1] * draw(0.4, 0.45)
    return np.stack([figure(x + i, size[0] * 0.1, height, 0.3 + pace * i, size) for i in range(t)])


def write_pngs(folder: Path, frames: Iterable[np.ndarray], name: str = "{}.png", first: int = 8) -> Path:
    """The frames as PNG files numbered from `first` on, so that names sorted as text are out of order."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames, first):
        Image.fromarray(frame).save(folder / name.format(i))
    return folder
