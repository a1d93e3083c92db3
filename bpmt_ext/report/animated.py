"""A pose sequence (t, v, c) and its skeleton in, a small moving figure for a page out: a canvas that page.js plays.

Coordinates are rounded to one byte each, so that a walk takes some kilobytes. What it looks like is drawings.py's: the
colours of the parts, the view of a 3D pose, the joints that are left out.
"""

from __future__ import annotations

import base64

import numpy as np

from bpmt_ext.report.drawings import PART_COLOURS, part_of_joint, project, seen_joints
from bpmt_ext.report.markup import Html, tag
from bpmt_ext.skeletons import Skeleton

FRAMES = 40
_ABSENT = 255  # in place of a joint that is not seen
_SHAPE = 4 / 3  # height to width of a canvas


def bones(skeleton: Skeleton) -> str:
    """Words "a.b.part" of every bone, for page.js; a bone between torso and limb is the limb's, part 5 is none."""
    part = part_of_joint(skeleton)
    rows = []
    for a, b in skeleton.edges:
        owner = max(part[a], part[b]) if min(part[a], part[b]) <= 0 else part[b]
        rows.append(f"{a}.{b}.{owner if owner >= 0 else len(PART_COLOURS)}")
    return " ".join(rows)


def packed(pose: np.ndarray, skeleton: Skeleton, *, hidden: np.ndarray | None = None, still: bool = False,
           unit: float | None = None) -> tuple[str, int, float]:  # fmt: skip
    """pose (t, v, c) -> (base64 of (t', v, 2) bytes, t', units that half the height is worth).

    Up to FRAMES frames, every second one of a long walk. hidden (t, v): joints that are not drawn. still: the figure
    stays where its coordinates are; else every frame's hips are in the middle. unit: of another clip, for its scale.
    """
    step = 2 if len(pose) >= 2 * FRAMES else 1
    pose = pose[: step * FRAMES : step]
    place, _ = project(pose, skeleton, "side")
    seen = seen_joints(pose, skeleton) > 0
    place = np.where(np.isfinite(place), place, 0.0)
    if not still:
        middle = list(skeleton.hip)
        centre = np.where(seen[:, middle].all(1)[:, None], place[:, middle].mean(1), _mean(place, seen))
        place = place - centre[:, None]
    there = seen.any(1)
    points = np.where(seen[..., None], place, np.nan)[there] if there.any() else np.zeros((1, 1, 2))
    # a frame or two in which a joint flies off are not to make the figure small
    low, high = np.percentile(np.nanmin(points, 1), 3, axis=0), np.percentile(np.nanmax(points, 1), 97, axis=0)
    place = place - (low + high) / 2
    if unit is None:
        unit = 1.12 * max(float((high - low)[1]) / 2, float((high - low)[0]) / 2 * _SHAPE, 1e-9)
    if hidden is not None:
        seen = seen & ~hidden[: step * FRAMES : step]
    numbers = np.clip(np.round(place / unit * 127 + 127), 0, 254).astype(np.uint8)
    numbers[~seen] = _ABSENT
    return base64.b64encode(numbers.tobytes()).decode("ascii"), len(numbers), unit


def _mean(place: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(t, v, 2), (t, v) -> (t, 2): the middle of the joints that are seen."""
    return (place * seen[..., None]).sum(1) / np.maximum(seen.sum(1), 1)[:, None]


def canvas(clip: tuple[str, int, float], skeleton: Skeleton, said: str) -> Html:
    """The clip of `packed` as a canvas. said: what it shows, in words."""
    return tag("canvas", class_="clip", width=180, height=240, role="img", aria_label=said, data_clip=clip[0],
               data_frames=clip[1], data_joints=skeleton.num_joints)  # fmt: skip


def clips(skeleton: Skeleton, *inside: object) -> Html:
    """A row of canvases of one skeleton."""
    return tag("div", *inside, class_="clips", data_bones=bones(skeleton))
