"""The table of skeletons against the lists of the specification and against itself."""

from __future__ import annotations

import copy

import pytest

from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import PART_NAMES, SKELETONS, fault, get_skeleton, joint_mapping, skeleton_from_mapping

MIRRORS = {
    "coco17": "0,2,1,4,3,6,5,8,7,10,9,12,11,14,13,16,15",
    "openpose18": "0,1,5,6,7,2,3,4,11,12,13,8,9,10,15,14,17,16",
    "ntu25": "0,1,2,3,8,9,10,11,4,5,6,7,16,17,18,19,12,13,14,15,20,23,24,21,22",
    "penn13": "0,2,1,4,3,6,5,8,7,10,9,12,11",
    "kinect20": "0,1,2,3,8,9,10,11,4,5,6,7,16,17,18,19,12,13,14,15",
    "kinectgait20": "0,1,3,2,5,4,7,6,9,8,10,11,13,12,15,14,17,16,19,18",
    "landmark25": "0,1,2,3,4,5,6,10,11,12,7,8,9,19,20,21,22,23,24,13,14,15,16,17,18",
}
PARENTS = {
    "coco17": "5,0,0,1,2,0,0,5,6,7,8,5,6,11,12,13,14",
    "openpose18": "1,1,1,2,3,1,5,6,2,8,9,5,11,12,0,0,14,15",
    "penn13": "0,0,0,1,2,3,4,1,2,7,8,9,10",
    "ntu25": "1,20,20,2,20,4,5,6,20,8,9,10,0,12,13,14,0,16,17,18,20,22,7,24,11",
    "kinect20": "1,2,2,2,2,4,5,6,2,8,9,10,0,12,13,14,0,16,17,18",
    "kinectgait20": "1,10,1,1,2,3,4,5,6,7,11,11,11,11,12,13,14,15,16,17",
    "landmark25": "1,2,2,2,3,4,5,2,7,8,2,10,11,6,13,14,15,16,17,6,19,20,21,22,23",
}
PARTS = {
    "coco17": "0,1,2,3,4,5,6,11,12 7,9 8,10 13,15 14,16",
    "openpose18": "0,1,2,5,8,11,14,15,16,17 6,7 3,4 12,13 9,10",
    "penn13": "0,1,2,7,8 3,5 4,6 9,11 10,12",
    "ntu25": "0,1,2,3,20,4,8,12,16 5,6,7,21,22 9,10,11,23,24 13,14,15 17,18,19",
    "kinect20": "0,1,2,3,4,8,12,16 5,6,7 9,10,11 13,14,15 17,18,19",
    "kinectgait20": "0,1,2,3,10,11,12,13 5,7,9 4,6,8 15,17,19 14,16,18",
    "landmark25": "0,1,2,3,4,5,6 7,8,9 10,11,12 13,14,15,16,17,18 19,20,21,22,23,24",
}
EDGES = {"coco17": 18, "openpose18": 17, "penn13": 13, "ntu25": 24, "kinect20": 19, "kinectgait20": 19,
         "landmark25": 24}  # fmt: skip


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


@pytest.mark.parametrize("name", SKELETONS)
def test_the_lists_of_the_specification_stand_verbatim(name: str) -> None:
    skeleton = SKELETONS[name]
    assert skeleton.mirror == numbers(MIRRORS[name])
    assert skeleton.parents == numbers(PARENTS[name])
    assert skeleton.parts == tuple(numbers(part) for part in PARTS[name].split())
    assert len(skeleton.edges) == EDGES[name]
    assert skeleton.dims == (2 if name in ("coco17", "openpose18", "penn13", "landmark25") else 3)


@pytest.mark.parametrize("name", SKELETONS)
def test_the_mirror_maps_names_edges_and_parts_onto_their_other_side(name: str) -> None:
    skeleton = SKELETONS[name]
    mirror = skeleton.mirror
    assert [mirror[mirror[j]] for j in range(skeleton.num_joints)] == list(range(skeleton.num_joints))
    other = {"left": "right", "right": "left"}
    for joint, image in zip(skeleton.joints, mirror, strict=True):
        side, _, rest = joint.partition("_")
        assert skeleton.joints[image] == (f"{other[side]}_{rest}" if side in other else joint)
    edges = {frozenset(edge) for edge in skeleton.edges}
    assert {frozenset((mirror[a], mirror[b])) for a, b in edges} == edges
    for part, twin in ((0, 0), (1, 2), (2, 1), (3, 4), (4, 3)):
        assert {mirror[j] for j in skeleton.parts[part]} == set(skeleton.parts[twin])
    assert all(f"{side}_arm" in PART_NAMES and f"{side}_leg" in PART_NAMES for side in other)


@pytest.mark.parametrize("name", SKELETONS)
def test_parts_cover_every_joint_once_and_limbs_are_named_by_their_side(name: str) -> None:
    skeleton = SKELETONS[name]
    assert sorted(j for part in skeleton.parts for j in part) == list(range(skeleton.num_joints))
    for part, joints in zip(PART_NAMES[1:], skeleton.parts[1:], strict=True):
        assert all(skeleton.joints[j].startswith(part.split("_")[0]) for j in joints)
    hip, shoulder = ("lower_1", "upper_1") if name == "landmark25" else ("hip", "shoulder")
    assert [skeleton.joints[j] for j in skeleton.hips] == [f"left_{hip}", f"right_{hip}"]
    assert [skeleton.joints[j] for j in skeleton.shoulders] == [f"left_{shoulder}", f"right_{shoulder}"]


@pytest.mark.parametrize("name", [name for name in SKELETONS if name != "coco17"])
def test_parents_lead_to_one_root(name: str) -> None:
    parents = SKELETONS[name].parents
    ends = set()
    for joint in range(len(parents)):
        for _ in parents:
            joint = parents[joint]
        ends.add(joint)
    assert len(ends) == 1 and parents[min(ends)] in ends


def test_landmarks_hang_from_the_one_above_them() -> None:
    """2 of the head, 10 of the upper and 13 of the lower body (landmarkgait.md, section 3), limbs from the torso on."""
    skeleton = SKELETONS["landmark25"]
    assert fault(skeleton) is None
    words = [joint.rpartition("_") for joint in skeleton.joints]
    groups = [sum(word in group for group, _, _ in words) for word in ("head", "upper", "lower")]
    assert groups == [2, 10, 13] and [len(part) for part in skeleton.parts] == [7, 3, 3, 6, 6]
    torso = skeleton.parts[0]
    for limb in skeleton.parts[1:]:
        assert skeleton.parents[limb[0]] in torso
        assert [skeleton.parents[joint] for joint in limb[1:]] == list(limb[:-1])
    for (group, _, rank), parent in zip(words, skeleton.parents, strict=True):
        above, _, before = words[parent]
        if above == group and "head" not in group:  # the head's hang from the torso's top
            assert int(rank) == int(before) + 1 or rank == before == "1"


def test_names_are_forgiving_and_a_typo_gets_a_suggestion() -> None:
    for name in ("coco", "COCO-17", "coco_17"):
        assert get_skeleton(name).name == "coco17"
    for name in ("alphapose18", "openpose-18", "OpenPose"):
        assert get_skeleton(name).name == "openpose18"
    with pytest.raises(UserError, match="did you mean openpose"):
        get_skeleton("opnpose18")


def test_mapping_between_formats() -> None:
    coco, body18 = get_skeleton("coco"), get_skeleton("openpose18")
    back = joint_mapping(body18, coco)
    # the index list of protocols.md section 2 for OUMVLP-Pose
    assert [source[0] for source in back] == [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
    there = joint_mapping(coco, body18)
    assert there[1] == (5, 6)  # the neck is the middle of the shoulders
    assert all(len(source) == 1 for number, source in enumerate(there) if number != 1)
    to_penn = joint_mapping(coco, get_skeleton("penn"))
    assert to_penn[0] == (0, 1, 2, 3, 4) and to_penn[1:] == tuple((j,) for j in range(5, 17))
    gait, kinect = get_skeleton("kinectgait"), get_skeleton("kinect20")
    order = [source[0] for source in joint_mapping(gait, kinect)]
    assert sorted(order) == list(range(20)) and order[:4] == [11, 10, 1, 0] and order[4] == 3
    ntu = joint_mapping(kinect, get_skeleton("ntu25"))
    assert ntu[0] == (0,) and ntu[1] == (1,) and ntu[20] == (2,) and ntu[2] is None and ntu[21] is None
    for skeleton in SKELETONS.values():
        assert joint_mapping(skeleton, skeleton) == tuple((j,) for j in range(skeleton.num_joints))


OWN = {
    "name": "stick",
    "joints": ["top", "ls", "rs", "lw", "rw", "lh", "rh", "lf", "rf"],
    "edges": [["top", "ls"], ["top", "rs"], ["ls", "lw"], ["rs", "rw"], ["ls", "lh"], ["rs", "rh"], ["lh", "rh"],
              ["lh", "lf"], [6, 8]],
    "mirror": [["ls", "rs"], ["lw", "rw"], ["lh", "rh"], ["lf", "rf"]],
    "parts": {"torso": ["top", "ls", "rs", "lh", "rh"], "left_arm": ["lw"], "right_arm": ["rw"], "left_leg": ["lf"],
              "right_leg": ["rf"]},
    "head": ["top"], "hips": ["lh", "rh"], "shoulders": [1, 2],
}  # fmt: skip


def test_a_format_of_ones_own() -> None:
    stick = skeleton_from_mapping(OWN)
    assert stick.mirror == (0, 2, 1, 4, 3, 6, 5, 8, 7) and stick.dims == 2
    assert stick.parents == (1, 5, 6, 1, 2, 5, 5, 5, 6)  # outward from the first hip
    assert stick.parts == ((0, 1, 2, 5, 6), (3,), (4,), (7,), (8,)) and stick.neck == (1, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mirorr": []}, "did you mean mirror"),
        ({"head": ["crown"]}, "head names the joint 'crown'"),
        ({"head": [9]}, "head names the joint 9"),
        ({"mirror": OWN["mirror"][:3]}, "edge"),
        ({"mirror": [*OWN["mirror"], ["ls", "rw"]]}, "joint twice"),
        ({"parts": {**OWN["parts"], "left_arm": ["lw", "top"]}}, "two parts"),
        ({"parts": {**OWN["parts"], "left_arm": ["rw"], "right_arm": ["lf"], "left_leg": ["lw"]}}, "left parts"),
        ({"parts": {"torso": ["top"]}}, "exactly the keys"),
        ({"edges": OWN["edges"][:-2]}, "connect every joint"),
        ({"hips": ["lh"]}, "must hold 2"),
        ({"hips": ["lh", "rs"]}, "mirror image"),
        ({"dims": 4}, "dims is 4"),
        ({"edges": "0-1"}, "must be a list"),
        ({"joints": ["top"] * 9}, "joint"),
    ],
)
def test_a_faulty_format_is_refused_in_words(change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        skeleton_from_mapping({**copy.deepcopy(OWN), **change})


def test_a_missing_key_is_named() -> None:
    for key in ("joints", "edges", "mirror", "parts", "head", "hips", "shoulders"):
        with pytest.raises(UserError, match=key):
            skeleton_from_mapping({k: v for k, v in OWN.items() if k != key})
