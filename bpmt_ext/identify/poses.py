"""Anybody's pose files and videos in, a Walk for everybody in them out, in the joint format that a network takes.

On top of data/posefiles.py, which knows the formats. Where a frame may hold several people (JSON of pose estimators,
videos) everybody is followed and becomes a track of his own; all other files hold one person, a CSV and a .npz perhaps
several sequences. Shapes: t frames, v joints, c numbers per joint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bpmt_ext.data.bodies import Track, motion, stacked
from bpmt_ext.data.poseactions import read_skeleton_text
from bpmt_ext.data.posearrays import read_npz, with_confidence
from bpmt_ext.data.posefiles import GAIT3D_FRAME, GREW_FRAME, read_pose_file
from bpmt_ext.data.posejson import (
    FILE_BYTES,
    Frames,
    MalformedError,
    all_frames,
    in_order,
    known_format,
    load_json,
    one_frame,
    read_people,
)
from bpmt_ext.data.posepeople import follow
from bpmt_ext.data.posetexts import index_csv, list_files, natural_key
from bpmt_ext.errors import UserError
from bpmt_ext.regular import real_path
from bpmt_ext.skeletons import Skeleton, get_skeleton, joint_mapping

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv")
MIN_FRAMES = 15  # of a track; fewer show no step
_ARRAYS = (".npz", ".npy", ".pkl")
_KINDS = (".json", ".csv", ".skeleton", ".mat", *_ARRAYS, *VIDEOS)
VideoReader = Callable[[Path], Frames]


@dataclass(frozen=True)
class Walk:
    """One person in one file: finite float32 poses (t, v, c), at least one, and the frames (t,) they stand in."""

    source: Path
    track: str
    pose: np.ndarray
    frames: np.ndarray
    skeleton: Skeleton

    @property
    def name(self) -> str:
        return f"{self.source}, track {self.track}"


class ShortError(UserError):
    """Nobody in a file has as many frames as it takes."""


def walk_paths(path: Path) -> list[Path]:
    """The walks a path stands for: itself, a file or a folder of frames, or all in a folder of these, however deep.

    In the order of their names. Names that begin with a dot do not count. UserError for a folder without any walk.
    """
    if not path.is_dir():
        return [path]
    found: list[Path] = []
    some: list[str] = []
    visited: set[Path] = set()
    for root, folders, names in os.walk(path, onerror=_cannot_list, followlinks=True):
        folder, names = Path(root), [name for name in names if not name.startswith(".")]
        real = real_path(folder)
        if real in visited or _of_frames(folder, names):
            found += [folder] if real not in visited else []
            folders.clear()
        else:
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [folder / name for name in names if Path(name).suffix.lower() in _KINDS]
            some += sorted([*folders, *names])[:3]
        visited.add(real)  # a link may lead back
    if not found:
        raise UserError(f"{path}: holds no walks ({', '.join(some[:3]) or 'nothing'}); give files of poses, or folders "
                        "of *.json, human_crop_f<frame>.txt or <frame>_2d_pose.txt")  # fmt: skip
    return sorted(found, key=lambda walk: [natural_key(part) for part in walk.parts])


def _cannot_list(error: OSError) -> None:
    raise error


def _of_frames(folder: Path, names: Sequence[str]) -> bool:
    """Whether the files of a folder are the frames of one walk: by their names, else by the first .json with poses."""
    if any(GAIT3D_FRAME.fullmatch(name) or GREW_FRAME.fullmatch(name) for name in names):
        return True
    texts = (folder / name for name in sorted(names, key=natural_key) if name.lower().endswith(".json"))
    return next((known for known in map(_is_frame, texts) if known is not None), False)


def _is_frame(path: Path) -> bool | None:
    """Whether a .json is one frame, not a walk; None if it holds no poses."""
    try:
        value = load_json(path, FILE_BYTES)
        if isinstance(value, dict) and "skeletons" in value:
            return False
        try:
            one_frame(value, "")
        except MalformedError:
            all_frames(value, "")
            return False
    except MalformedError:
        return None
    return not isinstance(value, list) or len({str(entry.get("image_id")) for entry in value}) < 2


def read_walks(path: Path, own: Skeleton, *, given: Skeleton | None = None, whole: Skeleton | None = None,
               video: VideoReader | None = None) -> list[Walk]:  # fmt: skip
    """Everybody in a file or folder, in the order in which they appear.

    own: the network's joint format, which a .npy, .pkl or .npz that names none is taken to be in, as far as its shape
    allows; whole: the same of all bodies of its poses, where it takes several. given: the format of the file where the
    user says it. video: reads the people of a video's frames.
    UserError, naming the file, for what is no such file or holds nobody.
    """
    kind, likely = path.suffix.lower(), (own,) if whole is None else (own, whole)
    if kind in VIDEOS and not path.is_dir():
        if video is None:
            raise UserError(f"{path}: is a video; give --detector FILE and --estimator FILE, or a file of poses")
        return _everybody(video(path), path, own, given)
    if path.is_dir():
        files = list_files(path)
        if any(file.suffix.lower() == ".json" for file in files) and not any(f.suffix == ".txt" for f in files):
            found = read_people(sorted((f for f in files if f.suffix.lower() == ".json"),
                                       key=lambda file: natural_key(file.stem)))  # fmt: skip
            if not any(found.frames.values()) and found.faults:
                raise UserError(f"{path}: holds no usable frame ({found.faults[0]}).")
            return _everybody(found.frames, path, own, given)
    elif kind == ".json":
        value = load_json(path, FILE_BYTES)
        if not (isinstance(value, dict) and "skeletons" in value):
            return _everybody(all_frames(value, str(path)), path, own, given)
    elif kind == ".skeleton":
        clip = read_skeleton_text(path)
        ntu = get_skeleton("ntu25")
        return [Walk(path, track.name, track.joints.astype(np.float32), track.frames, ntu)
                for track in clip.tracks] or _nobody(path)  # fmt: skip
    elif kind == ".csv":
        names = list(index_csv(path))
        return [_single(path, name, (own,), given, name if len(names) > 1 else "1") for name in names]
    elif kind == ".npz":
        names = [name for name in read_npz(path) if name not in ("joint_format", "confidence")]
        if len(names) > 1 and "pose" not in names:
            return [_single(path, name, likely, given, name) for name in names]
    return [_single(path, None, likely, given, "1")]


def _nobody(path: Path) -> list[Walk]:
    raise UserError(f"{path}: shows nobody in any frame")


def _single(path: Path, sequence: str | None, likely: Sequence[Skeleton], given: Skeleton | None, track: str) -> Walk:
    for skeleton in likely if given is None and path.suffix.lower() in _ARRAYS and not path.is_dir() else ():
        try:
            found = read_pose_file(path, joint_format=skeleton, sequence=sequence)
        except UserError:  # of another format, which the file may tell; if not, what follows says so
            continue
        return Walk(path, track, found.pose, np.arange(len(found.pose)), skeleton)
    found = read_pose_file(path, joint_format=given, sequence=sequence)
    own = next((s for s in likely if s.name == found.joint_format), None)
    skeleton = given or own or get_skeleton(found.joint_format)
    return Walk(path, track, found.pose, np.arange(len(found.pose)), skeleton)


def _everybody(frames: Frames, path: Path, own: Skeleton, given: Skeleton | None) -> list[Walk]:
    """A walk for everybody who is followed through the frames, in the order of their names."""
    order = in_order(frames, str(path))
    people = [frames[name] for name in order]
    walks = []
    for number, seen in enumerate(follow(people, motion=True), 1):
        pose = np.stack([people[frame][place] for frame, place in seen])
        where = np.array([frame for frame, _ in seen])
        skeleton = given
        if given is None and pose.shape[1] == own.num_joints and own.name not in ("coco17", "openpose18"):
            skeleton = own
        elif given is None:
            pose, name = known_format(pose, str(path))
            skeleton = get_skeleton(name)
        elif pose.shape[1] != given.num_joints:
            raise UserError(f"{path}: has {pose.shape[1]} joints, {given.name} has {given.num_joints}; correct the "
                            "joint format.")  # fmt: skip
        with np.errstate(over="ignore"):
            pose = np.ascontiguousarray(pose, dtype=np.float32)
        fine = np.isfinite(pose).all(axis=(1, 2))
        if fine.any():
            walks.append(Walk(path, str(number), pose[fine], where[fine], skeleton))
    return walks or _nobody(path)


def mapped(walk: Walk, target: Skeleton, channels: int) -> Walk:
    """The walk in the target's joints, with so many numbers each.

    A joint that is the mean of several is seen (2D) only if all of them are, with the least of their confidences.
    UserError for a joint that the source has not, or for coordinates of other dimensions.
    """
    source, pose = walk.skeleton, walk.pose
    if source.dims != target.dims:
        raise UserError(f"{walk.source}: holds {source.dims}D poses ({source.name}), the network takes {target.dims}D "
                        f"ones ({target.name})")  # fmt: skip
    if source.dims == 2:
        pose = with_confidence(pose)[0]
    if pose.shape[2] < channels:
        raise UserError(f"{walk.source}: has {pose.shape[2]} numbers per joint, the network takes {channels}")
    pose = pose[..., :channels]
    if source != target:
        origins = joint_mapping(source, target)
        lacking = [target.joints[j] for j, origin in enumerate(origins) if origin is None]
        if lacking:
            some = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
            raise UserError(f"{walk.source}: poses in {source.name} have no {some}, which the network's {target.name} "
                            f"needs; give poses in {target.name}")  # fmt: skip
        pose = np.stack([_mean(pose[:, list(origin)], source.dims) for origin in origins if origin], axis=1)
    return replace(walk, pose=np.ascontiguousarray(pose, dtype=np.float32), skeleton=target)


def _mean(joints: np.ndarray, dims: int) -> np.ndarray:
    """(t, k, c) -> (t, c)."""
    mean = joints.mean(axis=1)
    if dims == 2 and joints.shape[1] > 1:
        confidence = joints[..., 2].min(axis=1)
        mean[:, 2] = confidence
        mean[confidence <= 0] = 0
    return mean


def long_enough(walks: Sequence[Walk], least: int) -> tuple[list[Walk], list[str]]:
    """(the walks with at least so many frames, a sentence for each that has fewer). ShortError where none is left."""
    kept = [walk for walk in walks if len(walk.pose) >= least]
    short = [walk for walk in walks if len(walk.pose) < least]
    if walks and not kept:
        longest = max(len(walk.pose) for walk in short)
        raise ShortError(f"{walks[0].source}: the longest track has {longest} frames, fewer than the {least} that an "
                         "answer needs; give a longer clip, or lower --min-frames")  # fmt: skip
    return kept, [f"{walk.name}: left out, {len(walk.pose)} frames" for walk in short]


def together(walks: Sequence[Walk], bodies: int) -> Walk:
    """The liveliest of one file's walks as one pose (t, bodies v, c), for networks of several bodies."""
    tracks = [Track(walk.track, walk.frames, walk.pose.astype(np.float64)) for walk in walks]
    tracks.sort(key=lambda track: -motion(track.joints, walks[0].skeleton.dims))
    tracks = tracks[:bodies]
    pose = stacked(tracks, bodies).astype(np.float32)
    frames = np.unique(np.concatenate([track.frames for track in tracks]))
    return replace(walks[0], track="+".join(track.name for track in tracks), pose=pose, frames=frames)
