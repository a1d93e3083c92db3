"""A pose sequence (t, v, c) and its skeleton in, pictures of the figure (t, h, w, 3) uint8 out.

The five parts have five fixed colours that colour-blind people can tell apart: torso grey, left arm and leg warm, right
arm and leg blue; joints of the right side are hollow. How sure a joint is (confidence) is how dark it is. In place of
the parts, a value for every joint can be the colour. 2D poses are seen as they are, y downwards; 3D ones without
perspective from the side, from the front, or from a slowly turning place, whatever axis of theirs points upwards.
Shapes: t frames, v joints, c numbers per joint (coordinates, and perhaps the confidence), h rows, w columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from bpmt_ext.report.clips import FAINT, write_text
from bpmt_ext.skeletons import PART_NAMES, Skeleton

# After Okabe and Ito, "Color Universal Design" (2008), in the order of PART_NAMES.
PART_COLOURS = ((77, 77, 77), (230, 159, 0), (86, 180, 233), (213, 94, 0), (0, 114, 178))
OTHER = (150, 150, 150)  # joints of no part
VIEWS = ("side", "front", "turn")  # of 3D poses
_RIGHT = tuple(k for k, name in enumerate(PART_NAMES) if name.startswith("right"))
# Light to dark, which also tells in grey; after ColorBrewer's OrRd (Brewer and Harrower, colorbrewer2.org).
_RAMP = np.array([(214, 206, 192), (253, 204, 138), (252, 141, 89), (215, 48, 31), (110, 0, 0)], float)
_LEAST = 0.025  # joints of less confidence are left out
_SURE = 0.8  # confidence from which a joint is drawn in full
_TURN = 150  # frames of one turn
_FINE = 2  # drawn so many times as large, and made smaller: smooth edges
_WIDEST = 2.0  # width to height of a picture, from which on it follows the figure


def ramp(value: np.ndarray) -> np.ndarray:
    """Values (...) in 0..1 -> colours (..., 3) uint8, from light (0) to dark red (1)."""
    place = np.clip(np.nan_to_num(np.asarray(value, float)), 0, 1) * (len(_RAMP) - 1)
    low = np.minimum(place.astype(int), len(_RAMP) - 2)
    share = (place - low)[..., None]
    return (_RAMP[low] * (1 - share) + _RAMP[low + 1] * share).round().astype(np.uint8)


def seen_joints(pose: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """(t, v) in 0..1: how opaque each joint is. Without confidence 1; 0 for bodies of which every number is zero."""
    t, v, c = pose.shape
    if c > skeleton.dims:
        sure = pose[..., skeleton.dims]
        return np.where(sure < _LEAST, 0.0, np.clip(sure / _SURE, 0.15, 1.0))
    bodies = max(1, len(skeleton.parts) // len(PART_NAMES))
    there = pose.reshape(t, bodies, -1).any(axis=2)
    return np.repeat(there, v // bodies, axis=1).astype(float)


def project(pose: np.ndarray, skeleton: Skeleton, view: str = "side") -> tuple[np.ndarray, np.ndarray]:
    """pose (t, v, c) -> places (t, v, 2), x to the right and y downwards, and depth (t, v), larger is nearer.

    2D: as it stands. 3D: from the person's right `side`, walking to the right; from the `front`; or `turn`ing about the
    figure, which then stays in its place. Upwards is the coordinate axis along which the trunk stands, or close to it
    where a camera that was tilted makes everything lean.
    """
    place = np.asarray(pose[..., : skeleton.dims], float)
    if skeleton.dims == 2:
        return place, np.zeros(place.shape[:2])
    if view not in VIEWS:
        raise ValueError(f"view must be one of {', '.join(VIEWS)}, not {view!r}")
    there = seen_joints(pose, skeleton).any(axis=1)
    used = place[there] if there.any() else place
    hip = used[:, list(skeleton.hip)].mean(1)
    up, trunk = _upwards(used, hip, skeleton)
    left = (used[:, skeleton.hips[0]] - used[:, skeleton.hips[1]]).mean(0)
    left = left - (left @ up) * up
    if np.linalg.norm(left) < 1e-6:
        left = np.cross(up, np.eye(3)[np.abs(up).argmin()])
    left = left / np.linalg.norm(left)
    forward = np.cross(left, up)
    gone = float((hip[-1] - hip[0]) @ forward)
    if gone < -trunk / 2:  # the axes are those of a mirror
        forward = -forward
    along, across, height = place @ forward, place @ left, place @ up
    if view == "turn":
        middle = list(skeleton.hip)
        along, across = (line - line[:, middle].mean(1, keepdims=True) for line in (along, across))
        angle = 2 * np.pi * np.arange(len(place))[:, None] / _TURN
        along, across = np.cos(angle) * along + np.sin(angle) * across, np.cos(angle) * across - np.sin(angle) * along
    if view == "front":
        return np.stack([across, -height], 2), along
    return np.stack([along, -height], 2), -across


def _upwards(place: np.ndarray, hip: np.ndarray, skeleton: Skeleton) -> tuple[np.ndarray, float]:
    """place (t, v, 3), hip (t, 3) -> the unit vector that points upwards, and how long the trunk is.

    A person who leans bends the trunk more than the line from the feet to the neck; where both lean alike it was the
    camera.
    """
    neck = place[:, list(skeleton.neck)].mean(1)
    feet = [j for j, name in enumerate(skeleton.joints) if "ankle" in name] or [leg[-1] for leg in skeleton.parts[3:5]]
    lines = np.stack([np.median(neck - low, axis=0) for low in (hip, place[:, feet].mean(1))])  # (2, 3)
    trunk = lines[0]
    axis = int(np.abs(trunk).argmax()) if np.abs(trunk).max() > 0 else 1
    up = np.eye(3)[axis] * (-1 if trunk[axis] < 0 else 1)
    units = lines / np.maximum(np.linalg.norm(lines, axis=1, keepdims=True), 1e-9)
    middle = units.sum(0) / max(float(np.linalg.norm(units.sum(0))), 1e-9)
    lean = np.degrees(np.arccos(np.clip(middle @ up, -1, 1)))
    apart = np.degrees(np.arccos(np.clip(units[0] @ units[1], -1, 1)))
    return (middle if 8 < lean < 35 and apart < 10 else up), float(np.linalg.norm(trunk))


@dataclass(frozen=True)
class _Window:
    """What part of the plane a picture shows: its middle in every frame (t, 2), pixels per unit, and its size."""

    middle: np.ndarray
    scale: float
    width: int
    height: int


def _window(place: np.ndarray, seen: np.ndarray, height: int, follow: bool | None) -> _Window:
    """The same scale for all frames, so that every figure fits in. follow: the middle goes with the figure."""
    sure = seen >= min(0.3, seen.max(initial=0))  # a joint that is hardly seen may be anywhere
    points = np.where((sure & (seen > 0))[..., None], place, np.nan)
    empty = np.isnan(points).all(axis=(1, 2))
    points[empty] = 0.0 if empty.all() else np.nanmean(points, axis=(0, 1))
    low, high = np.nanmin(points, axis=1), np.nanmax(points, axis=1)  # (t, 2)
    size, margin = high - low, 0.07 * height
    room = max(height - 2 * margin, 1.0)

    def fitting(extent: np.ndarray) -> tuple[float, int]:
        scale = room / max(extent[1], extent[0] / _WIDEST, 1e-6)
        return scale, int(np.clip(extent[0] * scale + 2 * margin, 0.45 * height, _WIDEST * height + 2 * margin))

    whole = high.max(0) - low.min(0)
    if follow is None:
        follow = bool(whole[0] > _WIDEST * max(whole[1], 1e-6) or whole[1] > 2 * size[:, 1].max())
    if not follow:
        scale, width = fitting(whole)
        return _Window(np.broadcast_to((high.max(0) + low.min(0)) / 2, low.shape), scale, width, height)
    middle = _smooth((low + high) / 2)
    reach = 2 * np.maximum(np.abs(high - middle), np.abs(low - middle)).max(0)
    scale, width = fitting(reach)
    return _Window(middle, scale, width, height)


def _smooth(line: np.ndarray, width: int = 9) -> np.ndarray:
    """Running mean of (t, k) over `width` frames; beyond the ends the line goes on as it came."""
    half = min(width // 2, len(line) - 1)
    padded = np.pad(line, ((half, half), (0, 0)), mode="reflect", reflect_type="odd") if half else line
    share = np.full(2 * half + 1, 1 / (2 * half + 1))
    return np.stack([np.convolve(column, share, "valid") for column in padded.T], axis=1)


def part_of_joint(skeleton: Skeleton) -> np.ndarray:
    """(v,): the number in PART_NAMES of the part each joint belongs to, of any body; -1 for none."""
    part = np.full(skeleton.num_joints, -1)
    for k, joints in enumerate(skeleton.parts):
        part[list(joints)] = k % len(PART_NAMES)
    return part


def clip_frames(
    pose: np.ndarray,
    skeleton: Skeleton,
    *,
    height: int = 200,
    view: str = "side",
    follow: bool | None = None,
    trail: int = 0,
    value: np.ndarray | None = None,
    chosen: Sequence[int] | None = None,
) -> np.ndarray:
    """The clip (t, h, w, 3), one scale for all frames. chosen: only these frames are drawn, all of them count.

    view: of a 3D pose, see `project`. follow: keep the figure in the middle; None: only where it goes so far that it
    would become small. trail: the way of the hips and feet over so many frames before. value (t, v) in 0..1: shown as
    colour (`ramp`), in place of the parts. Raises ValueError where shapes do not fit.
    """
    if pose.ndim != 3 or not len(pose) or pose.shape[1] != skeleton.num_joints or pose.shape[2] < skeleton.dims:
        raise ValueError(f"pose must be (t, {skeleton.num_joints}, {skeleton.dims} or more) for skeleton "
                         f"{skeleton.name}, got {pose.shape}")  # fmt: skip
    if value is not None and value.shape != pose.shape[:2]:
        raise ValueError(f"value must be {pose.shape[:2]} like the pose, got {value.shape}")
    place, depth = project(pose, skeleton, view)
    seen = seen_joints(pose, skeleton)
    window = _window(place, seen, height, follow)
    corner = np.array([window.width, window.height]) / 2
    pixels = (place - window.middle[:, None]) * window.scale + corner
    part = part_of_joint(skeleton)
    colour = np.array([*PART_COLOURS, OTHER])[part]
    colours = np.broadcast_to(colour, (*seen.shape, 3)) if value is None else ramp(value)
    seen = seen if value is None else np.ceil(seen)  # a paler colour would be another value
    pen = _Pen(skeleton, part, window, hollow=value is None)
    frames = []
    for k in range(len(pose)) if chosen is None else chosen:
        shift = (window.middle[: k + 1] - window.middle[k]) * window.scale  # of a trail, where the picture moves
        ways = pixels[max(0, k - trail) : k + 1] + shift[max(0, k - trail) :, None] if trail else pixels[k : k + 1]
        frames.append(pen.draw(pixels[k], depth[k], seen[k], colours[k], ways))
    return np.stack(frames)


def views_of(pose: np.ndarray, skeleton: Skeleton, view: str | None = None, **keys: object) -> list[np.ndarray]:
    """The clip from where it is best seen: a 3D pose from the side and the front, unless `view` names one place.

    keys: other arguments of `clip_frames`.
    """
    views = (view or "side",) if view or skeleton.dims == 2 else ("side", "front")
    return [clip_frames(pose, skeleton, view=each, **keys) for each in views]  # type: ignore[arg-type]


class _Pen:
    """Draws one frame of a figure."""

    def __init__(self, skeleton: Skeleton, part: np.ndarray, window: _Window, *, hollow: bool) -> None:
        self.edges = np.array(skeleton.edges)
        ends = part[self.edges]  # a bone between torso and limb is the limb's
        self.owner = np.where(ends[:, 0] <= 0, self.edges[:, 1], self.edges[:, 0])
        self.hollow = np.isin(part, _RIGHT) & hollow
        self.size = (window.width * _FINE, window.height * _FINE)
        self.bone = max(1.5, window.height / 55) * _FINE
        self.dot = max(1.5, window.height / 62) * _FINE
        per_body = max(1, skeleton.num_joints // max(1, len(skeleton.parts) // len(PART_NAMES)))
        bodies = range(0, skeleton.num_joints, per_body)
        feet = [leg[-1] for leg in skeleton.parts[3:5]]
        self.head = {joint + b for b in bodies for joint in skeleton.head} if len(skeleton.head) == 1 else set()
        self.ways = [([joint + b], joint + b) for b in bodies for joint in feet]
        self.ways += [([joint + b for joint in skeleton.hip], skeleton.hip[0] + b) for b in bodies]

    def draw(self, place: np.ndarray, depth: np.ndarray, seen: np.ndarray, colour: np.ndarray, ways: np.ndarray
             ) -> np.ndarray:  # fmt: skip
        """place (v, 2) pixels, depth (v,), seen (v,), colour (v, 3), ways (k, v, 2) -> (h, w, 3)."""
        picture = Image.new("RGB", self.size, "white")
        draw = ImageDraw.Draw(picture)
        place = place * _FINE
        for joints, of in self.ways if len(ways) > 1 else ():
            line = ways[:, joints].mean(1) * _FINE
            for k, (a, b) in enumerate(zip(line, line[1:], strict=False)):
                if seen[joints].all():
                    draw.line([*a, *b], fill=_faded(colour[of], 0.15 + 0.35 * (k + 1) / len(line)), width=_FINE + 1)
        shown = seen[self.edges].min(1)
        far = depth[self.edges].mean(1)
        for k in np.lexsort((shown, far)):  # what is far and what is unsure first
            if shown[k] > 0:
                a, b = self.edges[k]
                ink = _faded(colour[self.owner[k]], shown[k])
                draw.line([*place[a], *place[b]], fill=ink, width=round(self.bone))
                for end in (place[a], place[b]):
                    _dot(draw, end, self.bone / 2, ink)
        for joint in np.lexsort((seen, depth)):
            if seen[joint] > 0:
                radius = self.dot * (2.2 if joint in self.head else 1.0)
                ink = _faded(colour[joint], seen[joint])
                _dot(draw, place[joint], radius, ink)
                if self.hollow[joint]:
                    _dot(draw, place[joint], radius * 0.5, (255, 255, 255))
        return np.asarray(picture.reduce(_FINE))


def _dot(draw: ImageDraw.ImageDraw, place: np.ndarray, radius: float, ink: tuple[int, ...]) -> None:
    draw.ellipse([place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius], fill=ink)


def _faded(colour: np.ndarray, share: float) -> tuple[int, ...]:
    """So much of the colour, the rest white: on white ground the same as opacity, with far fewer colours."""
    share = round(float(share) * 8) / 8 if share < 1 else 1.0
    return tuple(int(255 - share * (255 - level)) for level in colour)


def legend(width: int, *, names: tuple[str, ...] = PART_NAMES,
           colours: tuple[tuple[int, int, int], ...] = PART_COLOURS) -> np.ndarray:  # fmt: skip
    """(h, w, 3): a dot and a name for every part, in as many rows as the width needs."""
    texts = [name.replace("_", " ") for name in names]
    picture = Image.new("RGB", (width, 18 * len(texts)), "white")
    x, y = 2, 0
    for text, colour, name in zip(texts, colours, names, strict=True):
        from_dot = 14
        room = from_dot + int(ImageDraw.Draw(picture).textlength(text, font_size=11)) + 10
        if x > 2 and x + room > width:
            x, y = 2, y + 17
        draw = ImageDraw.Draw(picture)
        draw.ellipse([x, y + 4, x + 9, y + 13], fill=colour)
        if name.startswith("right"):
            draw.ellipse([x + 3, y + 7, x + 6, y + 10], fill="white")
        write_text(picture, (x + from_dot, y + 2), text, size=11, ink=FAINT)
        x += room
    return np.asarray(picture)[: y + 18]
