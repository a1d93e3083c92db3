"""The raw files of action sets in, the tracks or poses of their clips out: .skeleton, NW-UCLA's JSON, .mat, annotations.

| what | layout (tlca.md, section 5) |
|---|---|
| NTU RGB+D `.skeleton` | text: frames; per frame bodies; per body 10 values, 25, then 25 lines of 12 values: x, y, z in metres first |
| NW-UCLA `.json` | `file_name`, `skeletons` [t][20][3] in metres, `label` |
| Penn Action `.mat` | MATLAB 5: x, y, visibility (t, 13), action, pose (the side seen), train (1 or -1) |
| VIBE `.json` (Skeletics-152) | person -> `joints3d` [f][49][3], `frame_ids` [f] |
| annotations `.pkl` | pyskl's: `split` name -> clips; `annotations`: frame_dir, label, keypoint (m, t, v, c), keypoint_score (m, t, v) |

Every fault is a UserError that names the file and the line or key. Nothing is executed, and sizes are bounded.
Shapes: m bodies, t frames, f frames of one body, v joints, c numbers per joint.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bpmt_ext.data.bodies import Track, tracks_of
from bpmt_ext.data.matfiles import load_mat
from bpmt_ext.data.pickles import read_pickle
from bpmt_ext.data.posejson import FILE_BYTES, load_json
from bpmt_ext.data.posetexts import MAX_FRAMES
from bpmt_ext.errors import UserError
from bpmt_ext.regular import read_regular

NTU_JOINTS, UCLA_JOINTS, PENN_JOINTS, VIBE_JOINTS = 25, 20, 13, 49
_MAX_BODIES = 64  # in one frame; a Kinect sees six
_MAT = {"x": (None, PENN_JOINTS), "y": (None, PENN_JOINTS), "visibility": (None, PENN_JOINTS)}


@dataclass(frozen=True)
class Clip:
    """Everybody in a clip, tracked by id."""

    frames: int
    tracks: list[Track]
    facts: dict[str, int]  # bodies concerned


def read_skeleton_text(path: Path) -> Clip:
    """An NTU RGB+D .skeleton file; UserError, with the line, where it is not whole or not of that layout."""
    try:
        text = read_regular(path, FILE_BYTES).decode("ascii").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({getattr(error, 'strerror', None) or error}).") from None
    lines = _Lines(path, text)
    frames = lines.count("frames", MAX_FRAMES)
    sightings: dict[str, list[tuple[int, np.ndarray]]] = {}
    twice = 0
    for frame in range(frames):
        for _ in range(lines.count("bodies", _MAX_BODIES)):
            body = lines.words(10, "a body's 10 values")[0]
            joints = lines.count("joints", NTU_JOINTS)
            if joints != NTU_JOINTS:
                raise UserError(f"{path}, line {lines.at}: {joints} joints, {NTU_JOINTS} expected.")
            pose = lines.numbers(NTU_JOINTS, 12, "a joint's 12 values")[:, :3]
            seen = sightings.setdefault(body, [])
            if seen and seen[-1][0] == frame:
                twice += 1
            else:
                seen.append((frame, pose))
    lines.finish(f"{frames} frames")
    tracks, lost = tracks_of(sightings)
    facts = {"body id twice in a frame": twice, "body with a number that is not finite": lost}
    return Clip(frames, tracks, {key: count for key, count in facts.items() if count})


class _Lines:
    """The lines of a text file, taken one after the other; faults name the line."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.lines, self.at = path, text.rstrip().split("\n") if text.strip() else [], 0

    def words(self, count: int, what: str) -> list[str]:
        if self.at >= len(self.lines):
            raise UserError(f"{self.path}: ends in line {self.at} where {what} should follow; it is truncated.")
        words = self.lines[self.at].split()
        self.at += 1
        if len(words) != count:
            raise UserError(f"{self.path}, line {self.at}: {len(words)} values, expected {what}.")
        return words

    def count(self, what: str, most: int) -> int:
        (word,) = self.words(1, f"the number of {what}")
        if not word.isdecimal() or len(word) > 9 or int(word) > most:
            raise UserError(f"{self.path}, line {self.at}: {word[:20]!r} is no number of {what} (at most {most}).")
        return int(word)

    def numbers(self, rows: int, columns: int, what: str) -> np.ndarray:
        start = self.at
        words = [self.words(columns, what) for _ in range(rows)]
        try:
            return np.array(words, dtype=np.float64)
        except ValueError:
            raise UserError(f"{self.path}, lines {start + 1} to {self.at}: a value is not a number.") from None

    def finish(self, after: str) -> None:
        if self.at < len(self.lines):
            raise UserError(f"{self.path}, line {self.at + 1}: goes on after the {after} that it announces.")


def _array(value: Any, shape: tuple[int | None, ...], where: str, what: str) -> np.ndarray:
    """A list of lists or an array as float64 of this shape, None meaning any size of at least 1; UserError if not."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        array = np.empty(0, dtype=object)
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    fits = array.ndim == len(shape) and all(
        found == size or (size is None and found) for found, size in zip(array.shape, shape, strict=True)
    )
    if array.dtype.kind not in "iuf" or not fits:
        found = f"{array.shape} {array.dtype}" if array.dtype.kind != "O" else f"a {type(value).__name__}"
        raise UserError(f"{where}: {what} is {found}, expected numbers ({wanted}).")
    if len(array) > MAX_FRAMES:
        raise UserError(f"{where}: {what} has more than {MAX_FRAMES} entries; split it.")
    return array.astype(np.float64)


def ucla_pose(value: Any, where: str) -> np.ndarray:
    """(t, 20, 3) of NW-UCLA's JSON, read."""
    if not isinstance(value, dict) or "skeletons" not in value:
        raise UserError(f"{where}: has no skeletons; expected NW-UCLA's file_name, skeletons, label.")
    return _array(value["skeletons"], (None, UCLA_JOINTS, 3), where, "skeletons")


def read_vibe(path: Path) -> Clip:
    """Skeletics-152's JSON of one clip: the people whom VIBE found, 49 joints each."""
    value = load_json(path, FILE_BYTES)
    people = value.items() if isinstance(value, dict) else [("", None)]
    tracks: list[Track] = []
    lost = 0
    for name, person in people:
        where = f"{path}: person {str(name)[:20]!r}"
        if not isinstance(person, dict) or not {"joints3d", "frame_ids"} <= person.keys():
            raise UserError(f"{where} has no joints3d and frame_ids, as VIBE writes them.")
        joints = _array(person["joints3d"], (None, None, 3), where, "joints3d")
        frames = _array(person["frame_ids"], (len(joints),), where, "frame_ids")
        rising = len(frames) < 2 or bool((np.diff(frames) > 0).all())
        if joints.shape[1] not in (VIBE_JOINTS, NTU_JOINTS):
            raise UserError(f"{where} has {joints.shape[1]} joints, {VIBE_JOINTS} expected.")
        if not rising or not 0 <= frames[0] <= frames[-1] < MAX_FRAMES or (frames % 1).any():
            raise UserError(f"{where}: frame_ids are not rising frame numbers.")
        found, out = tracks_of({str(name): list(zip(frames.astype(np.int64).tolist(), joints, strict=True))})
        tracks += found
        lost += out
    if len({track.joints.shape[1] for track in tracks}) > 1:
        raise UserError(f"{path}: its people have different numbers of joints.")
    last = max((int(track.frames[-1]) for track in tracks), default=-1)
    return Clip(last + 1, tracks, {"body with a number that is not finite": lost} if lost else {})


@dataclass(frozen=True)
class PennClip:
    """What a label file of Penn Action says beside the joints."""

    action: str
    side: str  # from where the person is seen: front, back, left or right
    train: bool  # in the official training split


def read_penn_clip(path: Path) -> PennClip:
    """Class, side and split of a label file."""
    found = load_mat(path, ["action", "pose", "train"], PENN_JOINTS * MAX_FRAMES, "Penn Action's labels")
    texts = []
    for key in ("action", "pose"):
        if found[key].dtype.kind != "U" or found[key].size != 1:
            raise UserError(f"{path}: {key} is no text.")
        texts.append(str(found[key].item()))
    if found["train"].size != 1 or found["train"].dtype.kind not in "iuf" or found["train"].item() not in (1, -1):
        raise UserError(f"{path}: train is {str(found['train'].ravel()[:3])[:40]}, neither 1 nor -1.")
    return PennClip(texts[0], texts[1], int(found["train"].item()) == 1)


def read_penn_pose(path: Path) -> np.ndarray:
    """(t, 13, 3) = x, y in pixels and whether the joint is visible, 1 or 0."""
    found = load_mat(path, list(_MAT), PENN_JOINTS * MAX_FRAMES, "Penn Action's labels")
    parts = [_array(found[key], shape, str(path), key) for key, shape in _MAT.items()]
    if len({len(part) for part in parts}) > 1:
        raise UserError(f"{path}: x, y and visibility have {', '.join(str(len(part)) for part in parts)} frames.")
    pose = np.stack(parts, axis=2)
    if not np.isin(pose[..., 2], (0, 1)).all():
        raise UserError(f"{path}: visibility holds other numbers than 0 and 1.")
    return pose


@dataclass(frozen=True)
class Annotation:
    """One clip of an annotation pickle."""

    name: str
    label: int
    clip: Clip
    joints: int
    scored: bool  # 2D with a score as the third number


def read_annotations(path: Path) -> tuple[dict[str, tuple[str, ...]], Iterator[Annotation]]:
    """(split -> names of clips, the clips) of a pickle as pyskl and MMAction2 publish them.

    A body that is all zeros in a frame is absent there: the arrays are padded to the largest number of bodies.
    """
    value = read_pickle(path)
    splits = value.get("split") if isinstance(value, dict) else None
    entries = value.get("annotations") if isinstance(value, dict) else None
    named = isinstance(splits, dict) and all(
        isinstance(key, str) and isinstance(names, list) and all(isinstance(name, str) for name in names)
        for key, names in splits.items()
    )
    if not named or not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: is no annotation pickle; expected split (names of clips) and annotations (a list).")
    return {key: tuple(names) for key, names in splits.items()}, (
        _annotation(entry, f"{path}: annotations[{i}]") for i, entry in enumerate(entries)
    )


def _annotation(entry: Any, where: str) -> Annotation:
    name = entry.get("frame_dir") if isinstance(entry, dict) else None
    label = entry.get("label") if isinstance(entry, dict) else None
    if not isinstance(name, str) or type(label) is not int or label < 0:
        raise UserError(f"{where} has no frame_dir (a name) and label (a number from 0).")
    keypoint = _array(entry.get("keypoint"), (None, None, None, None), f"{where} ({name[:60]})", "keypoint")
    score = entry.get("keypoint_score")
    if score is not None:
        score = _array(score, keypoint.shape[:3], f"{where} ({name[:60]})", "keypoint_score")
    if keypoint.shape[3] != (2 if score is not None else 3) or len(keypoint) > _MAX_BODIES:
        raise UserError(f"{where} ({name[:60]}): keypoint {keypoint.shape} is neither 3D nor 2D with keypoint_score.")
    there = keypoint.any(axis=(2, 3))  # (m, t)
    if score is not None:
        keypoint = np.concatenate([keypoint, score[..., None]], axis=3)
    bodies = {
        str(m): [(t, keypoint[m, t]) for t in np.flatnonzero(there[m]).tolist()] for m in range(len(keypoint))
    }
    tracks, lost = tracks_of({key: seen for key, seen in bodies.items() if seen})
    facts = {"body with a number that is not finite": lost} if lost else {}
    return Annotation(name, label, Clip(keypoint.shape[1], tracks, facts), keypoint.shape[2], score is not None)
