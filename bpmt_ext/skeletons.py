"""The name of a joint format in, its joints, bones, left/right pairs and five body parts out: THE table.

Whatever depends on the order of the joints is derived from here: graphs, bones, mirror images, parts, drawings.
Orders, mirrors, parents and parts are those of specs/protocols.md 6 and 7, bpmt.md 1 and 8, baselines.md 1 and
tlca.md 5; landmark25's of landmarkgait.md 3 and 9. A format that is not here comes from a mapping (YAML):
`skeleton_from_mapping`. Pure Python.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from bpmt_ext.errors import UserError

PART_NAMES = ("torso", "left_arm", "right_arm", "left_leg", "right_leg")
_MIRRORED_PARTS = (0, 2, 1, 4, 3)  # the part that each part becomes in a mirror


@dataclass(frozen=True)
class Skeleton:
    """One joint format; all numbers are 0-based joint indices."""

    name: str
    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]  # undirected
    parents: tuple[int, ...]  # bone = joint - joints[parent]; a root is its own parent (COCO: the hosts' list)
    mirror: tuple[int, ...]  # left and right exchanged: new[i] = old[mirror[i]]
    parts: tuple[tuple[int, ...], ...]  # five disjoint sets, in the order of PART_NAMES
    dims: int  # coordinates per joint: 2 or 3
    neck: tuple[int, ...]  # joints whose mean is the middle of the shoulders
    hip: tuple[int, ...]  # joints whose mean is the hip centre
    head: tuple[int, ...]  # joints whose mean is the head
    hips: tuple[int, int]  # (left, right)
    shoulders: tuple[int, int]  # (left, right)

    @property
    def num_joints(self) -> int:
        return len(self.joints)


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    """'0-1 1-2' -> ((0, 1), (1, 2))."""
    return tuple((int(a), int(b)) for a, b in (pair.split("-") for pair in text.split()))


def _swapped(pairs: Iterable[tuple[int, int]], joints: int) -> tuple[int, ...]:
    """The permutation of `joints` indices that exchanges the two of each pair."""
    mirror = list(range(joints))
    for left, right in pairs:
        mirror[left], mirror[right] = right, left
    return tuple(mirror)


def _outward(edges: Iterable[tuple[int, int]], joints: int, root: int) -> tuple[int, ...] | None:
    """Each joint's parent on the shortest way to the root; None if the edges do not reach every joint."""
    neighbours: dict[int, list[int]] = {joint: [] for joint in range(joints)}
    for a, b in edges:
        neighbours[a].append(b)
        neighbours[b].append(a)
    parents = {root: root}
    queue = [root]
    for joint in queue:  # grows while it is read: breadth first
        for other in neighbours[joint]:
            if other not in parents:
                parents[other] = joint
                queue.append(other)
    return tuple(parents[joint] for joint in range(joints)) if len(parents) == joints else None


def _tree(edges: str, joints: int, root: int) -> dict[str, Any]:
    """`edges` and the `parents` that follow from them, for formats whose bones all run away from one root."""
    pairs = _pairs(edges)
    return {"edges": pairs, "parents": _outward(pairs, joints, root)}


_KINECT_LIMBS = (
    "left_shoulder left_elbow left_wrist left_hand right_shoulder right_elbow right_wrist right_hand "
    "left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle right_foot"
)

_COCO17 = Skeleton(
    name="coco17",
    joints=tuple(
        "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
        "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle".split()
    ),
    edges=_pairs("0-1 0-2 1-3 2-4 3-5 4-6 5-6 5-7 7-9 6-8 8-10 5-11 6-12 11-12 11-13 13-15 12-14 14-16"),
    # Not a tree: the hosts let the nose hang from the left shoulder and that from the nose.
    parents=(5, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
    mirror=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
    parts=((0, 1, 2, 3, 4, 5, 6, 11, 12), (7, 9), (8, 10), (13, 15), (14, 16)),
    dims=2, neck=(5, 6), hip=(11, 12), head=(0, 1, 2, 3, 4), hips=(11, 12), shoulders=(5, 6),
)  # fmt: skip

_OPENPOSE18 = Skeleton(
    name="openpose18",
    joints=tuple(
        "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee "
        "right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear".split()
    ),
    edges=_pairs("0-1 0-14 0-15 14-16 15-17 1-2 2-3 3-4 1-5 5-6 6-7 1-8 8-9 9-10 1-11 11-12 12-13"),
    parents=(1, 1, 1, 2, 3, 1, 5, 6, 2, 8, 9, 5, 11, 12, 0, 0, 14, 15),
    mirror=(0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16),
    parts=((0, 1, 2, 5, 8, 11, 14, 15, 16, 17), (6, 7), (3, 4), (12, 13), (9, 10)),
    dims=2, neck=(1,), hip=(11, 8), head=(0, 14, 15, 16, 17), hips=(11, 8), shoulders=(5, 2),
)  # fmt: skip

_PENN13 = Skeleton(
    name="penn13",
    joints=tuple(
        "head left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_hip right_hip "
        "left_knee right_knee left_ankle right_ankle".split()
    ),
    **_tree("1-0 2-0 2-1 3-1 4-2 5-3 6-4 7-1 8-2 9-7 10-8 11-9 12-10", 13, 0),
    mirror=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11),
    parts=((0, 1, 2, 7, 8), (3, 5), (4, 6), (9, 11), (10, 12)),
    dims=2, neck=(1, 2), hip=(7, 8), head=(0,), hips=(7, 8), shoulders=(1, 2),
)  # fmt: skip

_NTU25 = Skeleton(
    name="ntu25",
    joints=tuple(
        f"spine_base spine_mid neck head {_KINECT_LIMBS} spine_shoulder "
        "left_hand_tip left_thumb right_hand_tip right_thumb".split()
    ),
    **_tree(
        "0-1 1-20 2-20 3-2 4-20 5-4 6-5 7-6 8-20 9-8 10-9 11-10 12-0 13-12 14-13 15-14 16-0 17-16 18-17 19-18 "
        "21-22 22-7 23-24 24-11", 25, 20,
    ),
    mirror=(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22),
    parts=((0, 1, 2, 3, 20, 4, 8, 12, 16), (5, 6, 7, 21, 22), (9, 10, 11, 23, 24), (13, 14, 15), (17, 18, 19)),
    # Joint 2, called neck, lies above the shoulder line; 20 is the point the other formats mean.
    dims=3, neck=(20,), hip=(0,), head=(3,), hips=(12, 16), shoulders=(4, 8),
)  # fmt: skip

_KINECT20 = Skeleton(
    name="kinect20",
    joints=tuple(f"hip_center spine shoulder_center head {_KINECT_LIMBS}".split()),
    **_tree(
        "0-1 1-2 3-2 4-2 5-4 6-5 7-6 8-2 9-8 10-9 11-10 12-0 13-12 14-13 15-14 16-0 17-16 18-17 19-18", 20, 2,
    ),
    mirror=(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15),
    parts=((0, 1, 2, 3, 4, 8, 12, 16), (5, 6, 7), (9, 10, 11), (13, 14, 15), (17, 18, 19)),
    dims=3, neck=(2,), hip=(0,), head=(3,), hips=(12, 16), shoulders=(4, 8),
)  # fmt: skip

_KINECTGAIT20 = Skeleton(
    name="kinectgait20",
    joints=tuple(
        "head shoulder_center right_shoulder left_shoulder right_elbow left_elbow right_wrist left_wrist right_hand "
        "left_hand spine hip_center right_hip left_hip right_knee left_knee right_ankle left_ankle right_foot "
        "left_foot".split()
    ),
    **_tree(
        "0-1 1-2 1-3 2-4 3-5 4-6 5-7 6-8 7-9 1-10 10-11 11-12 11-13 12-14 13-15 14-16 15-17 16-18 17-19", 20, 11,
    ),
    mirror=_swapped(_pairs("2-3 4-5 6-7 8-9 12-13 14-15 16-17 18-19"), 20),
    parts=((0, 1, 2, 3, 10, 11, 12, 13), (5, 7, 9), (4, 6, 8), (15, 17, 19), (14, 16, 18)),
    dims=3, neck=(1,), hip=(11,), head=(0,), hips=(13, 12), shoulders=(3, 2),
)  # fmt: skip

# A silhouette's landmarks in the order that engine/landmarks.py puts them into. They are no joints: `upper_1` is the
# topmost of those in the middle of the upper body, wherever a network has put it. Left and right are those of the
# PICTURE, in a side view back and front; each landmark of a limb hangs from the one above it.
_LANDMARK25 = Skeleton(
    name="landmark25",
    joints=tuple(
        "head_1 head_2 upper_1 upper_2 upper_3 upper_4 lower_1 left_upper_1 left_upper_2 left_upper_3 right_upper_1 "
        "right_upper_2 right_upper_3 left_lower_1 left_lower_2 left_lower_3 left_lower_4 left_lower_5 left_lower_6 "
        "right_lower_1 right_lower_2 right_lower_3 right_lower_4 right_lower_5 right_lower_6".split()
    ),
    **_tree(
        "1-0 2-1 2-3 3-4 4-5 5-6 2-7 7-8 8-9 2-10 10-11 11-12 6-13 13-14 14-15 15-16 16-17 17-18 6-19 19-20 20-21 "
        "21-22 22-23 23-24", 25, 2,
    ),
    mirror=_swapped(_pairs("7-10 8-11 9-12 13-19 14-20 15-21 16-22 17-23 18-24"), 25),
    parts=(tuple(range(7)), (7, 8, 9), (10, 11, 12), tuple(range(13, 19)), tuple(range(19, 25))),
    dims=2, neck=(2,), hip=(6,), head=(0, 1), hips=(13, 19), shoulders=(7, 10),
)  # fmt: skip

SKELETONS: Mapping[str, Skeleton] = MappingProxyType(
    {s.name: s for s in (_COCO17, _OPENPOSE18, _PENN13, _NTU25, _KINECT20, _KINECTGAIT20, _LANDMARK25)}
)
_ALIASES = {
    "coco": "coco17", "openpose": "openpose18", "alphapose": "openpose18", "alphapose18": "openpose18",
    "penn": "penn13", "pennaction": "penn13", "ntu": "ntu25", "nturgbd": "ntu25", "nwucla": "kinect20",
    "ucla": "kinect20", "kinectgait": "kinectgait20",
}  # fmt: skip


def of_bodies(skeleton: Skeleton, bodies: int) -> Skeleton:
    """The joints of so many bodies, one after the other, as one skeleton: what a transform of all of them needs.

    Bones, mirror images and parts (five a body) stay within a body; neck, hip, head and what else places and turns a
    figure are the first body's, so that where the bodies stand to each other survives.
    """
    if bodies == 1:
        return skeleton
    v = skeleton.num_joints

    def again(rows: tuple[tuple[int, ...], ...]) -> tuple[Any, ...]:
        return tuple(tuple(joint + b * v for joint in row) for b in range(bodies) for row in rows)

    return replace(
        skeleton, name=f"{skeleton.name} of {bodies} bodies",
        joints=tuple(f"{name}_{b + 1}" if b else name for b in range(bodies) for name in skeleton.joints),
        edges=again(skeleton.edges), parts=again(skeleton.parts),
        parents=tuple(joint + b * v for b in range(bodies) for joint in skeleton.parents),
        mirror=tuple(joint + b * v for b in range(bodies) for joint in skeleton.mirror),
    )  # fmt: skip


def get_skeleton(name: str) -> Skeleton:
    """The skeleton of this name; capitals, hyphens, underscores and blanks do not count.

    Raises UserError, with the nearest known name, where there is none.
    """
    plain = "".join(letter for letter in str(name).lower() if letter.isalnum())
    known = _ALIASES.get(plain, plain)
    if known not in SKELETONS:
        near = difflib.get_close_matches(plain, [*SKELETONS, *_ALIASES], n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(SKELETONS)}."
        raise UserError(f"unknown joint format {name!r}: {hint}")
    return SKELETONS[known]


def fault(skeleton: Skeleton) -> str | None:
    """What contradicts itself in a skeleton, in words; None if nothing does."""
    count = skeleton.num_joints
    used = [j for part in skeleton.parts for j in part]
    mirrored = {frozenset((skeleton.mirror[a], skeleton.mirror[b])) for a, b in skeleton.edges}
    unpaired = [edge for edge in skeleton.edges if frozenset(edge) not in mirrored]
    twins = [
        (skeleton.parts[i], tuple(sorted(skeleton.mirror[j] for j in skeleton.parts[m])))
        for i, m in enumerate(_MIRRORED_PARTS)
    ]
    if len(set(skeleton.joints)) != count:
        return "two joints share a name"
    if len(set(used)) != len(used):
        return f"joint {next(j for j in used if used.count(j) > 1)} is in two parts"
    if not all(skeleton.parts):
        return f"part {PART_NAMES[skeleton.parts.index(())]} has no joint"
    if any(skeleton.mirror[skeleton.mirror[j]] != j for j in range(count)):
        return "mirror applied twice does not give back every joint"
    if unpaired:
        return f"edge {unpaired[0][0]}-{unpaired[0][1]} has no mirror image among the edges"
    if any(tuple(sorted(part)) != twin for part, twin in twins):
        return "mirror does not exchange the left parts with the right ones"
    for name, (left, right) in (("hips", skeleton.hips), ("shoulders", skeleton.shoulders)):
        if left == right or skeleton.mirror[left] != right:
            return f"{name} {left} and {right} are not each other's mirror image"
    if skeleton.dims not in (2, 3):
        return f"dims is {skeleton.dims}, not 2 or 3"
    return None


_KEYS = ("name", "joints", "edges", "parents", "mirror", "parts", "dims", "neck", "hip", "head", "hips", "shoulders")


def skeleton_from_mapping(mapping: Mapping[str, Any]) -> Skeleton:
    """A user's own format, as written in YAML; a joint is given by its name or its number.

    Needed: joints (names), edges (pairs), mirror (pairs left, right), parts (the five of PART_NAMES), head, hips and
    shoulders (left, right). Optional: name ("custom"), dims (2), neck (the shoulders), hip (the hips), parents (one per
    joint; otherwise along the edges, outward from the first joint of `hip`). Joints in no part are left out of the
    part networks. Raises UserError that names the key at fault.
    """
    given = dict(mapping)
    for key in given:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            raise UserError(f"skeleton: unknown key {key!r}; {f'did you mean {near[0]}?' if near else _KEYS}")
    for key in ("joints", "edges", "mirror", "parts", "head", "hips", "shoulders"):
        if key not in given:
            raise UserError(f"skeleton: the key {key} is missing; see skeleton_from_mapping for what it holds.")
    joints = tuple(str(joint) for joint in _listed("joints", given["joints"]))
    number = _numbering(joints)

    def row(key: str, value: Any, length: int | None = None) -> tuple[int, ...]:
        found = tuple(number(key, joint) for joint in _listed(key, value))
        if not found or (length is not None and len(found) != length):
            raise UserError(f"skeleton: {key} {value!r} must hold {length or 'one or more'} joints.")
        return found

    def pairs(key: str) -> tuple[tuple[int, int], ...]:
        return tuple(row(key, pair, 2) for pair in _listed(key, given[key]))  # type: ignore[misc]

    parts = given["parts"]
    if not isinstance(parts, Mapping) or set(parts) != set(PART_NAMES):
        raise UserError(f"skeleton: parts must be a mapping with exactly the keys {', '.join(PART_NAMES)}.")
    flat = [joint for pair in pairs("mirror") for joint in pair]
    if len(set(flat)) != len(flat):
        raise UserError("skeleton: mirror names a joint twice; list each (left, right) pair once.")
    hips, shoulders = row("hips", given["hips"], 2), row("shoulders", given["shoulders"], 2)
    hip = row("hip", given.get("hip", hips))
    parents = (
        row("parents", given["parents"], len(joints))
        if "parents" in given
        else _outward(pairs("edges"), len(joints), hip[0])
    )
    if parents is None:
        raise UserError("skeleton: edges do not connect every joint; add edges, or give parents.")
    made = Skeleton(
        name=str(given.get("name", "custom")), joints=joints, edges=pairs("edges"), parents=parents,
        mirror=_swapped(pairs("mirror"), len(joints)), parts=tuple(row("parts", parts[name]) for name in PART_NAMES),
        dims=given.get("dims", 2), neck=row("neck", given.get("neck", shoulders)), hip=hip,
        head=row("head", given["head"]), hips=hips, shoulders=shoulders,  # type: ignore[arg-type]
    )  # fmt: skip
    wrong = fault(made)
    if wrong:
        raise UserError(f"skeleton {made.name}: {wrong}.")
    return made


def _listed(key: str, value: Any) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise UserError(f"skeleton: {key} must be a list, not {value!r}.")
    return list(value)


def _numbering(joints: tuple[str, ...]) -> Callable[[str, Any], int]:
    """A function (key, joint) -> number, for joints given by name or by number."""
    index = {joint: i for i, joint in enumerate(joints)}

    def number(key: str, joint: Any) -> int:
        if isinstance(joint, int) and not isinstance(joint, bool) and 0 <= joint < len(joints):
            return joint
        if isinstance(joint, str) and joint in index:
            return index[joint]
        raise UserError(f"skeleton: {key} names the joint {joint!r}, which is not among the {len(joints)} joints.")

    return number


_SAME_POINT = {"spine": "spine_mid", "spine_mid": "spine"}  # Kinect v1 and v2 call it differently


def joint_mapping(source: Skeleton, target: Skeleton) -> tuple[tuple[int, ...] | None, ...]:
    """For each joint of `target` the joints of `source` whose mean it is; None where there is no such point.

    The middle of the shoulders, the hip centre and the head are matched as points, everything else by name; nothing is
    invented: a format without hands gives None for hands.
    """
    index = {joint: i for i, joint in enumerate(source.joints)}
    points = {target.neck: source.neck, target.hip: source.hip, target.head: source.head}

    def origin(number: int, joint: str) -> tuple[int, ...] | None:
        if (number,) in points:  # the format has this point as a joint of its own
            return points[(number,)]
        found = index.get(joint, index.get(_SAME_POINT.get(joint, "")))
        return None if found is None else (found,)

    return tuple(origin(number, joint) for number, joint in enumerate(target.joints))
