"""Frames that may hold several people in, one person's sequence (t, v, c) out: the first, the largest, or one followed.

`first` is what published OUMVLP results took: the list's first entry, whoever that is, so that the skeleton jumps
between people. `track` links people from frame to frame and keeps the one who is there most of the time. Shapes: v
joints, c channels, the last of them the confidence; a joint with confidence 0 was not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bpmt_ext.errors import UserError

PERSON_RULES = ("first", "largest", "track")
MAX_JUMP = 0.35  # body heights a person's box may move in one frame: three times a fast run at 25 frames a second
MAX_LOST = 15  # frames a person may be missing and still be the same one
_WIDENING = 3  # the largest factor by which missing frames widen the jump
_LARGEST = 3e38  # as float32, which poses become, goes
_NEWS = 0.3  # share of the newest step in a person's speed


@dataclass(frozen=True)
class Chosen:
    """One person, and what the choice met."""

    pose: np.ndarray  # (t', v, c) float64
    frames: np.ndarray  # (t',) int64, positions in what was given
    several: int  # frames with more than one person
    absent: int  # frames with people, but not this one
    other: int  # frames in which somebody else is listed first


@dataclass
class _Track:
    """Somebody who has been seen in some frames."""

    box: np.ndarray  # (4,) low and high corner where last seen
    last: int
    seen: list[tuple[int, int]]  # (frame, place in its list)
    area: float = 0.0
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))  # of its centre, in pixels a frame


def box(person: np.ndarray) -> np.ndarray | None:
    """(4,) lowest x, y and highest x, y of the joints seen of a person (v, c); None where none is."""
    seen = person[person[:, -1] > 0, :2] if person.shape[1] > 2 else person[np.any(person != 0, axis=1), :2]
    seen = seen[(np.abs(seen) < _LARGEST).all(axis=1)]  # and no NaN
    return np.concatenate([seen.min(axis=0), seen.max(axis=0)]) if len(seen) else None


def _area(corners: np.ndarray) -> float:
    """Largest side squared: a standing person's box is narrow or wide by turns, its height stays."""
    return float(np.max(corners[2:] - corners[:2])) ** 2


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """How far one box is from another, in sizes of the larger: centres, and half the difference of the sizes."""
    sides = np.maximum(a[2:] - a[:2], 0).max(), np.maximum(b[2:] - b[:2], 0).max()
    size = max(*sides, 1e-9)
    centres = np.hypot(*((a[:2] + a[2:]) / 2 - (b[:2] + b[2:]) / 2))
    return float((centres + abs(sides[0] - sides[1]) / 2) / size)


def choose(people: Sequence[Sequence[np.ndarray]], rule: str) -> Chosen:
    """One person out of people[frame][place] (v, c). Frames without that person are left out.

    first: the first listed. largest: the one with the largest box (ties: the one listed first). track: see `_follow`.
    """
    if rule not in PERSON_RULES:
        raise UserError(f"person: {rule!r} is unknown; known: {', '.join(PERSON_RULES)}.")
    if rule == "track":
        picks = _follow(people)
    elif rule == "first":
        picks = [(frame, 0) for frame, listed in enumerate(people) if listed]
    else:
        picks = [(frame, _largest(listed)) for frame, listed in enumerate(people) if listed]
    shape = next((p.shape for listed in people for p in listed), (0, 0))
    pose = np.stack([people[f][k] for f, k in picks]) if picks else np.empty((0, *shape))
    return Chosen(
        pose=pose, frames=np.array([f for f, _ in picks], dtype=np.int64),
        several=sum(len(listed) > 1 for listed in people), absent=sum(map(bool, people)) - len(picks),
        other=sum(k > 0 for _, k in picks),
    )  # fmt: skip


def _largest(listed: Sequence[np.ndarray]) -> int:
    areas = [0.0 if corners is None else _area(corners) for corners in map(box, listed)]
    return max(range(len(listed)), key=lambda k: (areas[k], -k))


def follow(people: Sequence[Sequence[np.ndarray]], *, motion: bool = False) -> list[list[tuple[int, int]]]:
    """(frame, place) of everybody in people[frame][place] (v, c), in the order in which they are first seen.

    Greedy: in every frame the nearest pair of a known person and a box comes first, as long as the box moved no more
    than MAX_JUMP body heights a frame; a box that is near nobody is somebody new. Equal distances: lower places first.
    motion: a known person is looked for where the walk so far leads to, so that two who cross are not exchanged.
    """
    return [track.seen for track in _tracks(people, motion)]


def _tracks(people: Sequence[Sequence[np.ndarray]], motion: bool) -> list[_Track]:
    tracks: list[_Track] = []
    for frame, listed in enumerate(people):
        boxes = [(place, corners) for place, corners in enumerate(map(box, listed)) if corners is not None]
        live = [track for track in tracks if frame - track.last <= MAX_LOST]
        pairs = []
        for number, track in enumerate(live):
            gap = min(frame - track.last, _WIDENING)
            expected = track.box + np.tile(track.speed, 2) * gap if motion else track.box
            for place, corners in boxes:
                distance = _distance(expected, corners)
                if min(distance, _distance(track.box, corners) if motion else distance) <= MAX_JUMP * gap:
                    pairs.append((distance, number, place))
        found = dict(boxes)
        taken: set[int] = set()
        for _, number, place in sorted(pairs):
            if number not in taken and place in found:
                taken.add(number)
                _seen(live[number], frame, place, found.pop(place))
        for place, corners in found.items():
            tracks.append(_Track(corners, frame, []))
            _seen(tracks[-1], frame, place, corners)
    return tracks


def _follow(people: Sequence[Sequence[np.ndarray]]) -> list[tuple[int, int]]:
    """(frame, place) of the person who is in most frames; ties: the larger one, then the one seen first."""
    tracks = _tracks(people, False)
    if not tracks:
        return []
    best = max(range(len(tracks)), key=lambda k: (len(tracks[k].seen), tracks[k].area / len(tracks[k].seen), -k))
    return tracks[best].seen


def _seen(track: _Track, frame: int, place: int, corners: np.ndarray) -> None:
    if track.seen:
        moved = (corners[:2] + corners[2:] - track.box[:2] - track.box[2:]) / 2 / max(1, frame - track.last)
        share = 1 if len(track.seen) == 1 else _NEWS
        track.speed = (1 - share) * track.speed + share * moved
    track.box, track.last = corners, frame
    track.seen.append((frame, place))
    track.area += _area(corners)
