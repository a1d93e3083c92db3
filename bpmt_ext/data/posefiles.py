"""Anybody's pose file or folder in, one person's sequence (t, v, c) and its joint format out: the one reader of poses.

| what | how it is told |
|---|---|
| folder of frame texts | `human_crop_f<frame>.txt` (Gait3D), `<frame>_2d_pose.txt` (GREW) |
| folder of JSON | a file per frame: OpenPose, AlphaPose (open, cmu), MMPose |
| `.json` | AlphaPose and COCO result lists, COCO annotations, MMPose and RTMPose predictions, one OpenPose frame |
| `.csv` | GaitGraph's rows `<sequence>/<frame>`, 51 values |
| `.npz`, `.npy` | array (t, v, c); a .npz may name its `joint_format` and keep a `confidence` (t, v) beside `pose` |
| `.pkl` | the hosts' pickles, through the restricted reader |
| `.skeleton`, `.mat` | NTU RGB+D (of several bodies the liveliest), Penn Action; NW-UCLA's `.json` is known too |

Every fault is one sentence with the file and the line or key. Nothing is executed, and sizes are bounded.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bpmt_ext.data.bodies import pose_of
from bpmt_ext.data.pickles import read_pickle
from bpmt_ext.data.poseactions import NTU_JOINTS, read_penn_pose, read_skeleton_text, ucla_pose
from bpmt_ext.data.posearrays import as_pose, read_npy, read_npz, with_confidence
from bpmt_ext.data.posejson import (
    FILE_BYTES,
    all_frames,
    known_format,
    load_json,
    read_json_folder,
    single_person,
)
from bpmt_ext.data.posetexts import Raw, index_csv, list_files, natural_key, read_csv_rows, read_frame_texts
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import SKELETONS, Skeleton, get_skeleton

GAIT3D_FRAME = re.compile(r"human_crop_f([0-9]{1,15})\.txt")
GREW_FRAME = re.compile(r"([0-9]{1,15})_2d_pose\.txt")
GREW_BESIDE = re.compile(r"[0-9]+\.(png|jpg)|[0-9]+_3d_pose\.txt")
_TEXTS = ((GAIT3D_FRAME, "human_crop_f<frame>.txt", None), (GREW_FRAME, "<frame>_2d_pose.txt", GREW_BESIDE))
_ARRAY_FORMATS = {13: "penn13", 17: "coco17", 18: "openpose18", 25: "ntu25"}
_KNOWN = "a folder of frame files, .json, .csv, .npz, .npy, .pkl, .skeleton or .mat"


@dataclass(frozen=True)
class PoseSequence:
    """One person walking: finite float32 poses, at least one, and what the reader met on the way."""

    pose: np.ndarray  # (t, v, c)
    joint_format: str  # a name of the skeleton table, or of the skeleton that was given
    dropped: Counter[str] = field(default_factory=Counter)  # frames left out, by reason
    faults: list[str] = field(default_factory=list)  # the same with file, line or key
    facts: dict[str, int] = field(default_factory=dict)  # frames concerned


def read_pose_file(path: Path | str, *, person: str = "track", joint_format: str | Skeleton | None = None,
                   sequence: str | None = None, frame_sort: str = "numeric") -> PoseSequence:
    """The poses of one person in a file or folder.

    person: where a frame holds several, `first` | `largest` | `track` (JSON only). joint_format: what the file is in;
    where left out, a name in the file or the count of joints decides. sequence: which one of a CSV with several, which
    array of a .npz. UserError, naming the file and the line or key, for anything that is not such a file.
    """
    path = Path(path)
    skeleton = get_skeleton(joint_format) if isinstance(joint_format, str) else joint_format
    raw, name = _read(path, person, skeleton, sequence, frame_sort)
    pose = raw.pose
    dropped, faults = Counter(raw.dropped), list(raw.faults)
    with np.errstate(over="ignore"):
        pose = np.ascontiguousarray(pose, dtype=np.float32)
    finite = np.isfinite(pose).all(axis=(1, 2))
    if not finite.all():
        dropped["number that is not finite"] += int((~finite).sum())
        faults.append(f"{path}: {int((~finite).sum())} frames with numbers that are not finite")
    pose = pose[finite]
    if not len(pose):
        why = "; ".join(faults[:1]) or ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise UserError(f"{path}: holds no usable frame{f' ({why})' if why else ''}.")
    if skeleton is None:
        if name is None:
            name = _ARRAY_FORMATS.get(pose.shape[1])
        if name is None:
            raise UserError(f"{path}: has {pose.shape[1]} joints, which tells no joint format; name it "
                            f"with --joint-format: {', '.join(SKELETONS)}.")
        skeleton = get_skeleton(name)
    if pose.shape[1] != skeleton.num_joints:
        raise UserError(f"{path}: has {pose.shape[1]} joints, {skeleton.name} has {skeleton.num_joints}; "
                        "correct the joint format.")  # fmt: skip
    if pose.shape[2] not in (skeleton.dims, skeleton.dims + 1):
        raise UserError(f"{path}: has {pose.shape[2]} numbers per joint, {skeleton.name} has {skeleton.dims} "
                        "coordinates and perhaps a confidence.")  # fmt: skip
    facts = {key: count for key, count in raw.facts.items() if count}
    if skeleton.dims == 2:  # 3D recordings come without, and nothing asks for it
        pose, added = with_confidence(pose)
        facts |= added
    return PoseSequence(pose, skeleton.name, dropped, faults, facts)


def _read(path: Path, person: str, skeleton: Skeleton | None, sequence: str | None, frame_sort: str
          ) -> tuple[Raw, str | None]:  # fmt: skip
    """(the sequence as it stands in the file, the joint format where the file or its kind tells it)."""
    kind = path.suffix.lower()
    if sequence is not None and (path.is_dir() or kind not in (".csv", ".npz")):
        raise UserError(f"{path}: holds one sequence, {sequence!r} cannot be chosen in it.")
    if path.is_dir():
        return _read_folder(path, person, skeleton, frame_sort)
    if kind == ".json":
        value = load_json(path, FILE_BYTES)
        if isinstance(value, dict) and "skeletons" in value:
            return Raw(ucla_pose(value, str(path))), "kinect20"
        raw = single_person(all_frames(value, str(path)), str(path), person)
        return _named(raw, path, skeleton)
    if kind == ".csv":
        return _read_csv(path, sequence), "coco17"
    if kind == ".npz":
        return _read_npz(path, skeleton, sequence)
    if kind == ".npy":
        return Raw(as_pose(read_npy(path), str(path), skeleton.num_joints if skeleton else None)), None
    if kind == ".pkl":
        return Raw(as_pose(read_pickle(path), str(path), skeleton.num_joints if skeleton else None)), None
    if kind == ".skeleton":
        clip = read_skeleton_text(path)
        return pose_of(clip.tracks, clip.frames, bodies=1, joints=NTU_JOINTS, denoise="published"), "ntu25"
    if kind == ".mat":
        return Raw(read_penn_pose(path)), "penn13"
    if not path.exists():
        raise UserError(f"{path}: does not exist; check the path.")
    raise UserError(f"{path}: is no file of poses that is known; expected {_KNOWN}.")


def _named(raw: Raw, path: Path, skeleton: Skeleton | None) -> tuple[Raw, str | None]:
    """An estimator's JSON in the given format, or in the one its count of joints tells."""
    if skeleton is not None or not len(raw.pose):
        return raw, None
    pose, name = known_format(raw.pose, str(path))
    return Raw(pose, raw.dropped, raw.faults, raw.facts), name


def _read_folder(path: Path, person: str, skeleton: Skeleton | None, frame_sort: str) -> tuple[Raw, str | None]:
    files = list_files(path)
    texts = [kind for kind in _TEXTS if any(kind[0].fullmatch(file.name) for file in files)]
    jsons = [file for file in files if file.suffix.lower() == ".json"]
    if len(texts) + bool(jsons) > 1:
        kinds = [named for _, named, _ in texts] + (["*.json"] if jsons else [])
        raise UserError(f"{path}: mixes {' and '.join(kinds)}; give a folder with one kind of frame files.")
    if texts:
        ((pattern, named, beside),) = texts
        return read_frame_texts(path, pattern, named, frame_sort=frame_sort, beside=beside), "coco17"
    if not jsons:
        found = ", ".join(file.name for file in files[:3]) or "nothing"
        raise UserError(f"{path}: holds no frame files ({found}); expected *.json, {_TEXTS[0][1]} or {_TEXTS[1][1]}.")
    if frame_sort == "numeric":
        jsons.sort(key=lambda file: natural_key(file.stem))
    return _named(read_json_folder(jsons, person), path, skeleton)


def _read_csv(path: Path, sequence: str | None) -> Raw:
    spans = index_csv(path)
    if sequence is None and len(spans) > 1:
        some = ", ".join(list(spans)[:3])
        raise UserError(f"{path}: holds {len(spans)} sequences ({some}, ...); name one of them.")
    if sequence is not None and sequence not in spans:
        raise UserError(f"{path}: holds no sequence {sequence!r}; it begins with {', '.join(list(spans)[:3])}.")
    return read_csv_rows(path, spans[sequence] if sequence is not None else next(iter(spans.values())))


def _read_npz(path: Path, skeleton: Skeleton | None, sequence: str | None) -> tuple[Raw, str | None]:
    """The array `sequence`, else `pose`, else the only one; `confidence` and `joint_format` belong to it."""
    arrays = read_npz(path)
    name = arrays.pop("joint_format", None)
    if name is not None and (name.dtype.kind != "U" or name.size != 1):
        raise UserError(f"{path}: joint_format is no text but {name.dtype} {name.shape}.")
    confidence = arrays.pop("confidence", None)
    key = sequence or ("pose" if "pose" in arrays else next(iter(arrays), "pose") if len(arrays) == 1 else None)
    if key not in arrays:
        known = ", ".join(list(arrays)[:5]) or "none"
        raise UserError(f"{path}: has no array {key or 'pose'!r}; it has {known}; name the one to read.")
    joint_format = str(name.item()) if name is not None else None
    try:
        told = get_skeleton(joint_format) if joint_format else skeleton
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if skeleton and joint_format and told != skeleton:
        raise UserError(f"{path}: says joint_format {joint_format!r}, {skeleton.name} was asked for; correct one.")
    pose = as_pose(arrays[key], f"{path}, array {key!r}", told.num_joints if told else None)
    if confidence is not None:
        if confidence.shape != pose.shape[:2] or confidence.dtype.kind not in "biuf":
            raise UserError(f"{path}: confidence has the shape {confidence.shape}, pose has {pose.shape[:2]}.")
        pose = np.concatenate([pose, confidence[..., None]], axis=2)
    return Raw(pose), joint_format

