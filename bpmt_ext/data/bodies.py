"""The tracks of the bodies in a clip in, the one or two who act as poses (t, b v, c) out: choice, denoising, merging.

Depth cameras and detectors give every body an id and lose it: one person can have several ids in turn, and furniture
has been taken for people. The denoising and merging follow the preparation of NTU RGB+D that CTR-GCN and its
successors share (tlca.md, section 5). The joints of the bodies stand one after the other, the liveliest body first:
with b = 2 of v joints, joints 0..v-1 are the first body's and v..2v-1 the second's.
Shapes: f frames of a track, t of the clip, v joints, c numbers per joint, b bodies.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bpmt_ext.data.posetexts import Raw

DENOISE = ("off", "published", "motion")
ABSENT = ("copy", "zero")
SHORT = 11  # frames: tracks of at most so many are noise
WIDE = 0.8  # a frame whose x-extent exceeds so much of its y-extent is noise: no standing body
WIDE_SHARE = 0.69754  # from this share of such frames on the track is noise
STILL, RESTLESS = 0.089925, 2.0  # below and above, a second body's motion is that of no person


@dataclass(frozen=True)
class Track:
    """One body under one id; in some frames of the clip it may be absent."""

    name: str
    frames: np.ndarray  # (f,) int64, rising: positions in the clip
    joints: np.ndarray  # (f, v, c) float64, finite


def tracks_of(sightings: Mapping[str, Sequence[tuple[int, np.ndarray]]]) -> tuple[list[Track], int]:
    """(tracks in the order of the ids, sightings left out because a number is not finite).

    sightings: id -> (frame, joints (v, c)), frames rising.
    """
    tracks, lost = [], 0
    for name, seen in sightings.items():
        joints = np.stack([body for _, body in seen]).astype(np.float64)
        fine = np.isfinite(joints).all(axis=(1, 2))
        lost += int((~fine).sum())
        if fine.any():
            tracks.append(Track(name, np.array([frame for frame, _ in seen])[fine], joints[fine]))
    return tracks, lost


def motion(joints: np.ndarray, axes: int = 3) -> float:
    """Poses (f, v, c) -> the variance of x, y (and z) over all frames and joints, summed."""
    return float(joints[..., :axes].reshape(-1, min(axes, joints.shape[2])).var(axis=0).sum())


def wide_frames(joints: np.ndarray) -> np.ndarray:
    """Poses (f, v, c) -> (f,) bool: wider than a standing body can be."""
    extent = np.ptp(joints[..., :2], axis=1)
    return extent[:, 0] > WIDE * extent[:, 1]


def ranked(tracks: Sequence[Track], denoise: str = "off", axes: int = 3) -> tuple[list[Track], Counter[str]]:
    """(the tracks, liveliest first; frames of those that were left out, by reason).

    denoise: `off`; `published`: where there are several tracks, short ones are out, then wide ones until one is left,
    and the wide frames of a track do not add to its motion; `motion`: also those beside the first that hardly move or
    move too much, a check that the published preparation describes but leaves out. At least one track stays.
    """
    out: Counter[str] = Counter()
    kept = list(tracks)
    if denoise != "off" and len(kept) > 1:
        kept = [track for track in tracks if len(track.frames) > SHORT]
        kept = kept or [max(tracks, key=lambda track: len(track.frames))]  # the published code stops with an error here
        out["body tracked too briefly"] = sum(len(t.frames) for t in tracks) - sum(len(t.frames) for t in kept)
    moved = {id(track): motion(track.joints, axes) for track in kept}
    if denoise != "off":
        for track in list(kept):
            wide = wide_frames(track.joints)
            if len(kept) == 1 or not wide.any():
                continue
            if wide.mean() >= WIDE_SHARE:
                kept = [other for other in kept if other is not track]
                out["body too wide"] += len(track.frames)
            else:
                moved[id(track)] = min(moved[id(track)], motion(track.joints[~wide], axes))
    kept.sort(key=lambda track: -moved[id(track)])
    if denoise == "motion":
        odd = [track for track in kept[1:] if not STILL <= moved[id(track)] <= RESTLESS]
        out["body too still or too restless"] = sum(len(track.frames) for track in odd)
        kept = [track for track in kept if not any(track is other for other in odd)]
    return kept, +out


def merged(tracks: Sequence[Track], bodies: int) -> tuple[list[Track], int]:
    """(at most `bodies` tracks, frames of those without a place); an id that begins after another ended joins it.

    In the given order each track joins the first body whose time it does not overlap, or becomes a body of its own.
    Tracks that share one frame, the end of one and the start of the other, count as apart; the later one has it.
    """
    places: list[list[Track]] = []
    lost = 0
    for track in tracks:
        for place in places:
            first, last = min(t.frames[0] for t in place), max(t.frames[-1] for t in place)
            if min(last, track.frames[-1]) - max(first, track.frames[0]) <= 0:
                place.append(track)
                break
        else:
            if len(places) < bodies:
                places.append([track])
            else:
                lost += len(track.frames)
    return [_joined(place) for place in places], lost


def _joined(place: Sequence[Track]) -> Track:
    """The tracks of one body as one; of two poses in a frame the later track's stays."""
    if len(place) == 1:
        return place[0]
    frames = np.concatenate([track.frames for track in place])[::-1]
    joints = np.concatenate([track.joints for track in place])[::-1]
    frames, first = np.unique(frames, return_index=True)
    return Track(place[0].name, frames, joints[first])


def stacked(tracks: Sequence[Track], bodies: int, absent: str = "copy", centre: int | None = None) -> np.ndarray:
    """Tracks, at least one -> (t, b v, c), the frames in which somebody is there.

    centre: the joint whose first place in the first body becomes the origin of all x, y, z. absent: where a body is not
    there, `copy` gives its pose in the nearest frame (of two the earlier), or the first body's where it never is;
    `zero` gives zeros, as the published preparation did.
    """
    frames = np.unique(np.concatenate([track.frames for track in tracks]))
    origin = np.zeros(tracks[0].joints.shape[2])
    if centre is not None:
        origin[:3] = tracks[0].joints[0, centre, :3]
    poses = []
    for body in range(bodies):
        if body >= len(tracks):
            poses.append(poses[0].copy() if absent == "copy" else np.zeros_like(poses[0]))
            continue
        track = tracks[body]
        after = np.searchsorted(track.frames, frames).clip(max=len(track.frames) - 1)
        before = (after - 1).clip(min=0)
        nearer = np.abs(track.frames[after] - frames) < np.abs(track.frames[before] - frames)
        pose = track.joints[np.where(nearer, after, before)] - origin
        if absent == "zero":
            pose[~np.isin(frames, track.frames)] = 0
        poses.append(pose)
    return np.concatenate(poses, axis=1)


def pose_of(tracks: Sequence[Track], frames: int, *, bodies: int, joints: int, denoise: str = "off",
            absent: str = "copy", centre: int | None = None, axes: int = 3) -> Raw:  # fmt: skip
    """The bodies of a clip of `frames` frames as (t, b v, c), with what was left out; refused where nobody is in it."""
    if denoise not in DENOISE or absent not in ABSENT or bodies < 1:
        raise ValueError(f"denoise is one of {DENOISE}, absent of {ABSENT}, bodies at least 1")
    if not tracks:
        return Raw(np.empty((0, bodies * joints, 3)), refused="nobody in it")
    seen = np.bincount(np.concatenate([track.frames for track in tracks]), minlength=frames)
    kept, out = ranked(tracks, denoise, axes)
    chosen, lost = merged(kept, bodies)
    pose = stacked(chosen, bodies, absent, centre)
    facts = {"several bodies": int((seen > 1).sum()), **out, "body without a place": lost}
    if bodies > 1:
        facts["one body, the other filled in"] = sum(len(pose) - len(track.frames) for track in chosen)
        facts["one body, the other filled in"] += len(pose) * (bodies - len(chosen))
    return Raw(pose, Counter({"nobody in it": frames - len(pose)}) if frames > len(pose) else Counter(), [], facts)


def add_body_arguments(parser: argparse.ArgumentParser, denoise: str) -> None:
    """The options of converters of clips with several bodies; `denoise` is the default of --denoise."""
    parser.add_argument("--bodies", type=int, choices=(1, 2), default=1,
                        help="of each clip: the liveliest, or the two liveliest (%(default)s)")  # fmt: skip
    parser.add_argument("--denoise", choices=DENOISE, default=denoise,
                        help="leave out tracks that are no person: as the published preparation does, or also by "
                             "their motion (%(default)s)")  # fmt: skip
    parser.add_argument("--absent", choices=ABSENT, default="copy",
                        help="where the second body is not there: its pose of the nearest frame, or the first body's "
                             "if it never is; zero: zeros, as published (%(default)s)")  # fmt: skip
    parser.add_argument("--centre", action="store_true",
                        help="subtract the first body's first spine from everything, as published")  # fmt: skip
