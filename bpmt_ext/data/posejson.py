"""JSON of pose estimators in, the people of every frame out: {frame: [(v, c), ...]}, c = x, y (z), confidence.

Known: OpenPose and AlphaPose frames (`people` or `bodies`), AlphaPose and COCO result lists (`image_id`, `keypoints`),
COCO annotations, MMPose and RTMPose predictions (`instances`). Files are data from others: sizes are bounded, and what
is malformed is one sentence with the file and the key.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bpmt_ext.data.posepeople import choose
from bpmt_ext.data.posetexts import MAX_FRAMES, Raw, frame_facts, misordered, natural_key
from bpmt_ext.errors import UserError
from bpmt_ext.regular import open_regular

FRAME_BYTES = 4 << 20  # of a file that holds one frame
FILE_BYTES = 64 << 20  # of a file that holds a sequence
MAX_PEOPLE = 500  # in one frame
_MAX_JOINTS = 1000
_POINTS = ("pose_keypoints_2d", "pose_keypoints", "keypoints", "joints")
_LAYOUTS = "people, bodies, annotations, instances, or a list of entries with image_id and keypoints"

# The whole-body formats of AlphaPose and COCO begin with COCO's 17; OpenPose's BODY_25 holds its own 18 in this order.
_REDUCTIONS: dict[int, tuple[str, Sequence[int]]] = {
    25: ("openpose18", (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)),
    **{count: ("coco17", range(17)) for count in (26, 133, 136)},
}
_FORMATS = {17: "coco17", 18: "openpose18"}


class MalformedError(UserError):
    """A file or entry that holds no key points; `reason` is the part that tells it from other kinds of faults."""

    def __init__(self, where: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{where}: {reason}{f' ({detail})' if detail else ''}.")
        self.reason = reason


Frames = dict[str, list[np.ndarray]]  # frame's name or number -> people, in the order of the file


def load_json(path: Path, limit: int) -> Any:
    """The value in a JSON file of at most `limit` bytes; MalformedError naming the file and where it breaks."""
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise MalformedError(str(path), "cannot be read", str(error.strerror or error)) from error
    if len(data) > limit:
        raise MalformedError(str(path), "too large", f"more than {limit >> 20} MiB; split it")
    if not data.strip():
        raise MalformedError(str(path), "empty file")
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise MalformedError(str(path), "not JSON", f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, a number of thousands of digits, nested without end
        raise MalformedError(str(path), "not JSON", str(error)[:100]) from None


def _numbers(values: list[Any], where: str) -> np.ndarray:
    """A flat list of numbers as float64."""
    if not set(map(type, values)) <= {int, float}:
        raise MalformedError(where, "not a number")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        raise MalformedError(where, "not a number", "too large") from None


def person(entry: Any, where: str) -> np.ndarray:
    """(v, c) of one entry: a flat list of x, y, confidence, or a list per joint and `keypoint_scores` beside it."""
    key = next((key for key in _POINTS if isinstance(entry, dict) and key in entry), None)
    if key is None:
        raise MalformedError(where, "no key points in it", f"expected one of {', '.join(_POINTS)}")
    points, where = entry[key], f"{where}.{key}"
    if not isinstance(points, list) or not points:
        raise MalformedError(where, "not a list of numbers")
    if not isinstance(points[0], list):
        flat = _numbers(points, where)
        if len(flat) % 3:
            raise MalformedError(where, "not three numbers per joint", f"{len(flat)} in all")
        array = flat.reshape(-1, 3)
    else:
        widths = {len(joint) if isinstance(joint, list) else 0 for joint in points}
        if widths not in ({2}, {3}):
            raise MalformedError(where, "not two or three numbers per joint")
        array = _numbers([x for joint in points for x in joint], where).reshape(len(points), -1)
        scores = entry.get("keypoint_scores")
        if scores is not None:
            if not isinstance(scores, list) or len(scores) != len(array):
                raise MalformedError(where, "not one of keypoint_scores per joint")
            array = np.column_stack([array, _numbers(scores, f"{where}, keypoint_scores")])
        elif array.shape[1] == 2:
            array = np.column_stack([array, np.ones(len(array))])
    if len(array) > _MAX_JOINTS:
        raise MalformedError(where, "too many joints", f"{len(array)}")
    return array


def _people(entries: Any, where: str) -> list[np.ndarray]:
    if not isinstance(entries, list):
        raise MalformedError(where, "not a list of people")
    if len(entries) > MAX_PEOPLE:
        raise MalformedError(where, "too many people", f"{len(entries)} in one frame, at most {MAX_PEOPLE}")
    return [person(entry, f"{where}[{i}]") for i, entry in enumerate(entries)]


def one_frame(value: Any, where: str) -> list[np.ndarray]:
    """The people of a value that holds one frame: OpenPose, AlphaPose cmu, MMPose, or a list of entries."""
    if isinstance(value, list):
        return _people(value, where)
    for key in ("people", "bodies", "instances"):
        if isinstance(value, dict) and key in value:
            return _people(value[key], f"{where}: {key}")
    raise MalformedError(where, "no people in it", "expected people, bodies, instances or a list of entries")


def _is_id(value: Any) -> bool:
    """Whether this may be an image_id; numbers of more than 64 bits can be chosen to have one hash."""
    return isinstance(value, str) or (type(value) is int and value.bit_length() <= 64)


def _by_image(entries: list[Any], where: str, names: dict[Any, str]) -> Frames:
    """Entries with an image_id each, put together by image."""
    frames: Frames = {}
    for i, entry in enumerate(entries):
        image = entry.get("image_id") if isinstance(entry, dict) else None
        if not _is_id(image):
            raise MalformedError(f"{where}[{i}]", "no image_id in it")
        if names and image not in names:
            raise MalformedError(f"{where}[{i}]", "unknown image_id", f"{str(image)[:40]} is not among the images")
        listed = frames.setdefault(names.get(image, str(image)), [])
        if len(listed) >= MAX_PEOPLE:
            raise MalformedError(f"{where}[{i}]", "too many people", f"more than {MAX_PEOPLE} in one frame")
        listed.append(person(entry, f"{where}[{i}]"))
    return frames


def _coco(value: dict[str, Any], where: str) -> Frames:
    """COCO annotations: frames in the order of their images' file names; visibility becomes confidence 0 or 1."""
    entries, images = value["annotations"], value.get("images", [])
    if not isinstance(entries, list) or not isinstance(images, list):
        raise MalformedError(where, "annotations and images are not lists")
    pairs = [(image.get("id"), image.get("file_name")) for image in images if isinstance(image, dict)]
    names = {number: name for number, name in pairs if _is_id(number) and isinstance(name, str)}
    if len(set(names.values())) < len(names):
        raise MalformedError(f"{where}: images", "one file_name twice")
    frames = _by_image([e for e in entries if not isinstance(e, dict) or "keypoints" in e], f"{where}: annotations",
                       names)  # fmt: skip
    flags = [p[:, 2] for listed in frames.values() for p in listed]
    if flags and np.isin(np.concatenate(flags), (0.0, 1.0, 2.0)).all():
        for listed in frames.values():
            for array in listed:
                np.minimum(array[:, 2], 1.0, out=array[:, 2])
    return {name: [] for name in names.values()} | frames


def _listed(entries: list[Any], where: str, people: Callable[[Any, str], list[np.ndarray]]) -> Frames:
    """A list with a frame per entry, named by its `frame_id` where there is one."""
    frames: Frames = {}
    for i, entry in enumerate(entries):
        name = str(entry.get("frame_id", i)) if isinstance(entry, dict) else str(i)
        if name in frames:
            raise MalformedError(f"{where}[{i}]", "frame twice", f"frame_id {name[:40]}")
        frames[name] = people(entry, f"{where}[{i}]")
    return frames


def all_frames(value: Any, where: str) -> Frames:
    """The frames of a value that holds a whole sequence, whichever of the known layouts it has; a frame may be empty.

    MalformedError, naming the key, for anything else.
    """
    if isinstance(value, dict) and "annotations" in value:
        return _coco(value, where)
    if isinstance(value, dict) and isinstance(value.get("instance_info"), list):
        return _listed(value["instance_info"], f"{where}: instance_info", one_frame)
    if isinstance(value, dict) and any(key in value for key in ("people", "bodies", "instances")):
        return {"0": one_frame(value, where)}
    if isinstance(value, dict) and value and all(isinstance(v, dict) and {"people", "bodies"} & set(v)
                                                 for v in value.values()):  # fmt: skip
        return {name: one_frame(v, f"{where}: {name}") for name, v in value.items()}
    if isinstance(value, list) and value:
        kinds = [set(entry) if isinstance(entry, dict) else set() for entry in value]
        if all("image_id" in kind for kind in kinds):
            return _by_image(value, where, {})
        if all({"instances", "people", "bodies"} & kind for kind in kinds):
            return _listed(value, where, one_frame)
        if any(set(_POINTS) & kind for kind in kinds) and not any("image_id" in kind for kind in kinds):
            return {"0": _people(value, where)}
        odd = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), 0)
        raise MalformedError(f"{where}[{odd}]", "entries of different or unknown kinds", f"known: {_LAYOUTS}")
    raise MalformedError(where, "no layout that is known", f"known: {_LAYOUTS}")


def in_order(frames: Frames, where: str) -> list[str]:
    """The frames in the order of their names. UserError: too many, or people with different numbers of joints."""
    if len(frames) > MAX_FRAMES:
        raise UserError(f"{where}: holds {len(frames)} frames, more than the {MAX_FRAMES} of one sequence; split it.")
    order = sorted(frames, key=natural_key)
    shapes = Counter(p.shape for listed in frames.values() for p in listed)
    if len(shapes) > 1:
        (most, _), *_, (other, _) = shapes.most_common()
        odd = next(name for name in order for p in frames[name] if p.shape == other)
        raise UserError(f"{where}: frame {odd[:60]} has a person of {other[0]} joints x {other[1]} numbers, others "
                        f"have {most[0]} x {most[1]}; one file holds one joint format.")  # fmt: skip
    return order


def single_person(frames: Frames, where: str, rule: str) -> Raw:
    """One person of the frames, which are put in the order of their names; what the choice met is in the facts.

    Raises UserError where people have different numbers of joints.
    """
    order = in_order(frames, where)
    chosen = choose([frames[name] for name in order], rule)
    dropped = Counter({"nobody in the frame": sum(not frames[name] for name in order),
                       "the person followed is not in the frame": chosen.absent})  # fmt: skip
    facts = {"several people in a frame": chosen.several, "another person is listed first": chosen.other}
    return Raw(chosen.pose, +dropped, [], facts | {"misordered if sorted as text": misordered(order)})


@dataclass
class JsonFolder:
    """The people of a folder with a file per frame: frames numbered from "0", their files, and what was left out."""

    frames: Frames = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)  # the frame numbers, where they were given
    dropped: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    where: str = ""


def read_people(paths: Iterable[Path], numbers: Sequence[int] = ()) -> JsonFolder:
    """Everybody in a file per frame, in this order; files that are malformed are left out, counted and named."""
    found, size = JsonFolder(), 0
    for i, path in enumerate(paths):
        found.where = str(path.parent)
        try:
            people = one_frame(load_json(path, FRAME_BYTES), str(path))
        except MalformedError as error:
            found.dropped[error.reason] += 1
            found.faults.append(str(error).removesuffix("."))
            continue
        found.frames[str(len(found.names))] = people
        found.names.append(path.name)
        found.kept += numbers[i : i + 1]
        size += sum(p.nbytes for p in people)
        if size > FILE_BYTES:
            raise UserError(f"{found.where}: holds more than {FILE_BYTES >> 20} MiB of key points, which is no one "
                            "sequence.")  # fmt: skip
    return found


def read_json_folder(paths: Iterable[Path], rule: str, numbers: Sequence[int] = ()) -> Raw:
    """One person of a file per frame, in this order; files that are malformed are left out, counted and named.

    numbers: the frame numbers where the names have them, for the report's facts.
    """
    found = read_people(paths, numbers)
    raw = single_person(found.frames, found.where, rule)
    facts = {**raw.facts, **frame_facts(found.names, found.kept)}
    return Raw(raw.pose, found.dropped + raw.dropped, found.faults, facts)


def known_format(pose: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """The sequence (t, v, c) in a joint format of the skeleton table, and that format's name, by the count of joints.

    17 is COCO's, 18 OpenPose's; OpenPose's 25 becomes its 18, and the whole-body formats of 26, 133 and 136 joints
    become the COCO 17 that they begin with.
    """
    count = pose.shape[1]
    if count in _FORMATS:
        return pose, _FORMATS[count]
    if count not in _REDUCTIONS:
        raise UserError(f"{where}: has {count} joints, a count of no known estimator; name the joint format.")
    name, joints = _REDUCTIONS[count]
    return pose[:, list(joints)], name
