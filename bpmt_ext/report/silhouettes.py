"""Silhouettes, and what LandmarkGait found in them, in; pictures (t, h, w, 3) uint8 out.

The head, the upper and the lower body have three fixed colours that colour-blind people can tell apart.
Shapes: t frames, h and w rows and columns of a silhouette, k landmarks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from bpmt_ext.report.clips import joined

GROUPS = ("head", "upper body", "lower body")
GROUP_COLOURS = ((213, 94, 0), (0, 114, 178), (0, 158, 115))  # after Okabe and Ito, as in drawings.py
_FIGURE = (190, 190, 190)
_UNSURE = (110, 110, 110)  # pixels of more than one part
_FINE = 2


def _grey(frames: np.ndarray) -> np.ndarray:
    """uint8 0..255 or numbers 0..1 -> float 0..1. ValueError for another number of axes."""
    if frames.ndim != 3 or not len(frames):
        raise ValueError(f"silhouettes are (t, h, w), got {frames.shape}")
    return np.clip(frames.astype(np.float32) / (255 if frames.dtype == np.uint8 else 1), 0, 1)


def _enlarged(frames: np.ndarray, scale: int) -> np.ndarray:
    """(t, h, w, 3) 0..255 -> `scale` times as large, uint8."""
    return frames.round().astype(np.uint8).repeat(scale, axis=1).repeat(scale, axis=2)


def silhouette_frames(frames: np.ndarray, *, scale: int = 3, ink: tuple[int, int, int] = _FIGURE) -> np.ndarray:
    """frames (t, h, w), uint8 or 0..1 -> (t, scale h, scale w, 3), the figure in `ink` on white, thinly framed."""
    grey = _grey(frames)[..., None]
    return _framed(_enlarged(255 - grey * (255 - np.array(ink, np.float32)), scale))


def _framed(frames: np.ndarray) -> np.ndarray:
    frames[:, [0, -1]] = 225
    frames[:, :, [0, -1]] = 225
    return frames


def height_groups(points: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """points (t, k, 2) -> (k,) each landmark's group, by mean height, so many in each from the top."""
    if sum(counts) != points.shape[1]:
        raise ValueError(f"{list(counts)} landmarks in the groups, {points.shape[1]} in the frames")
    group = np.empty(points.shape[1], int)
    group[np.argsort(points[..., 1].mean(0), kind="stable")] = np.repeat(np.arange(len(counts)), counts)
    return group


def landmark_frames(frames: np.ndarray, points: np.ndarray, group: np.ndarray, *, scale: int = 4,
                    trail: int = 0) -> np.ndarray:  # fmt: skip
    """Dots of the groups' colours over silhouettes (t, h, w) -> (t, scale h, scale w, 3).

    points (t, k, 2): x and y in pixels of the silhouette, 0 the middle of the first one. group (k,): 0 head, 1 upper,
    2 lower body. trail: also where each was in so many frames before.
    """
    t, h, w = frames.shape
    if points.shape[0] != t or points.shape[2:] != (2,) or group.shape != points.shape[1:2]:
        raise ValueError(f"points (t, k, 2) and group (k,) must fit {t} frames, got {points.shape} and {group.shape}")
    pictures = silhouette_frames(frames, scale=scale)
    place = (np.asarray(points, float) + 0.5) * scale * _FINE
    radius = 0.8 * scale * _FINE
    drawn = []
    for i, picture in enumerate(pictures):
        canvas = Image.fromarray(picture).resize((w * scale * _FINE, h * scale * _FINE), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(canvas)
        for k, of in enumerate(group):
            way = place[max(0, i - trail) : i + 1, k]
            if len(way) > 1:
                draw.line(way.ravel().tolist(), fill=GROUP_COLOURS[of], width=_FINE)
        for (x, y), of in zip(place[i], group, strict=True):
            draw.ellipse([x - radius - 2, y - radius - 2, x + radius + 2, y + radius + 2], fill="white")
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=GROUP_COLOURS[of])
        drawn.append(np.asarray(canvas.reduce(_FINE)))
    return np.stack(drawn)


def part_frames(parts: np.ndarray, *, scale: int = 4) -> np.ndarray:
    """parts (t, 3, h, w), 0..1: head, upper and lower body -> (t, scale h, scale w, 3), each in its colour.

    What is in more than one of them is dark grey.
    """
    if parts.ndim != 4 or parts.shape[1] != len(GROUPS):
        raise ValueError(f"parts must be (t, 3, h, w), got {parts.shape}")
    share = np.clip(parts.astype(np.float32), 0, 1)
    alone = (share > 0.5).sum(1) < 2
    first, strength = share.argmax(1), share.max(1)
    colour = np.array(GROUP_COLOURS, np.float32)[first]
    colour[~alone] = _UNSURE
    return _framed(_enlarged(255 - strength[..., None] * (255 - colour), scale))


def reconstruction_frames(frames: np.ndarray, rebuilt: np.ndarray, *, scale: int = 3) -> np.ndarray:
    """Silhouettes (t, h, w) beside what the network rebuilt of them (t, h, w) -> (t, scale h, 2 scale w + gap, 3)."""
    if frames.shape != rebuilt.shape:
        raise ValueError(f"silhouettes and reconstruction must be of one shape, got {frames.shape} and {rebuilt.shape}")
    dark = (60, 60, 60)
    return joined([silhouette_frames(each, scale=scale, ink=dark) for each in (frames, rebuilt)], gap=4)
