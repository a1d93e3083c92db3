"""Every place in the readers of files that refuses one in; for each a file that is refused there out.

The places are found in the source, so that a new one without a case fails here by its name.
"""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import attacks
import numpy as np
import pytest
from branching import PACKAGE, reaching, sites, unreached
from fuzzing import Tree, file_bytes, write_tree
from test_attacks import npy

from bpmt_ext.config_layers import Layers, read_chain, read_yaml
from bpmt_ext.data.pickles import read_pickle, read_pose, read_silhouettes, write_bytes
from bpmt_ext.data.poseactions import read_annotations, read_penn_clip, read_vibe, ucla_pose
from bpmt_ext.data.posearrays import _read_npy
from bpmt_ext.data.posefiles import read_pose_file
from bpmt_ext.errors import UserError
from bpmt_ext.jsonfiles import read_json

FILES = ("data/pickles.py", "data/posefiles.py", "data/posejson.py", "data/posetexts.py", "data/posearrays.py",
         "data/poseactions.py", "data/matfiles.py", "data/posepeople.py", "config_layers.py",
         "jsonfiles.py")  # fmt: skip

POSE, FLAT = np.ones((2, 17, 3)), [1.0] * 51
PERSON = {"keypoints": FLAT, "image_id": 1}
VIBE = {"joints3d": np.ones((2, 49, 3)).tolist(), "frame_ids": [1, 2]}
CLIP = {"frame_dir": "a", "label": 0, "keypoint": np.ones((1, 2, 25, 3))}
PENN = {"x": POSE[:, :13, 0], "y": POSE[:, :13, 0], "visibility": np.ones((2, 13)), "action": "bowl", "pose": "back",
        "train": 1}  # fmt: skip
UCLA, NTU = np.ones((2, 20, 3)).tolist(), np.ones((2, 25, 3)).tolist()
Read = Callable[[Path], object]


def clips(*entries: object, **more: object) -> tuple[Tree, str, Read]:
    value = {"split": {"all": ["a"]}, "annotations": list(entries)} | more
    return {"a.pkl": value}, "a.pkl", lambda path: list(read_annotations(path)[1])


def whole(name: str, content: object, read: Read = read_pose_file) -> tuple[Tree, str, Read]:
    return {name: content}, name, read


def keyed(name: str, content: object, **keys: object) -> tuple[Tree, str, Read]:
    return {name: content}, name, lambda path: read_pose_file(path, **keys)  # type: ignore[arg-type]


def few(limits: dict[str, int], case: tuple[Tree, str, Read]) -> tuple[Tree, str, Read]:
    """The case, with limits (module.NAME) so low that a small file exceeds them."""
    tree, name, read = case

    def limited(path: Path) -> None:
        with contextlib.ExitStack() as stack:
            for dotted, value in limits.items():
                stack.enter_context(patch(f"bpmt_ext.data.{dotted}", value))
            read(path)

    return tree, name, limited


def options(*texts: str) -> Read:
    def read(path: Path) -> None:
        layers = Layers({"data_cfg": {"a": 1}, "loss_cfg": [{"b": 2}]})
        for text in texts:
            layers.option(text)

    return read


DEEP, TEXT = b"a: " + b"[" * 1100, "human_crop_f{}.txt".format
ROW = "x/walk/{},".format
CASES: dict[str, tuple[Tree, str, Read]] = {
    # pickles
    "a call of nobody": whole("a.pkl", b"\x80\x02](tR.", read_pickle),
    "state of a list": whole("a.pkl", b"\x80\x02]]b.", read_pickle),
    "half an array": whole("a.pkl", b"\x80\x02" + attacks.half_array() + b".", read_pickle),
    "too many operations": few({"pickles._MOST_STEPS": 3}, whole("a.pkl", [1, 2, 3, 4, 5], read_pickle)),
    "no pose": whole("a.pkl", [1], read_pose), "an empty pose": whole("a.pkl", POSE[:0], read_pose),
    "joints": whole("a.pkl", POSE, lambda path: read_pose(path, 13)),
    "not finite": whole("a.pkl", POSE * np.nan, read_pose), "no silhouettes": whole("a.pkl", POSE, read_silhouettes),
    "empty silhouettes": whole("a.pkl", np.zeros((0, 4, 4), np.uint8), read_silhouettes),
    "dark silhouettes": whole("a.pkl", np.ones((2, 4, 4), np.uint8), read_silhouettes),
    "written nowhere": whole("a", b"", lambda path: write_bytes(path / "below", b"x")),
    "an empty file": whole("a.pkl", b"", read_pickle), "no file": ({}, "a.pkl", read_pickle),
    # posefiles
    "no usable frame": whole("a.npy", POSE * np.nan), "nothing there": ({}, "a.xyz", read_pose_file),
    "several sequences": whole("a.csv", f"{ROW(1)}1\nx/run/1,1"), "a number for a name": whole("a.npz", {
        "pose": POSE, "joint_format": np.array(3)}), "no pose in it": whole("a.npz", {"a": POSE, "b": POSE}),
    "unknown suffix": whole("a.xyz", b"x"), "other joints": keyed("a.json", [PERSON], joint_format="penn13"),
    "too many numbers": whole("a.npy", np.ones((2, 17, 4))), "any joints": whole("a.npy", np.ones((2, 19, 3))),
    "a sequence of one": keyed("a.npy", POSE, sequence="b"), "no such sequence": keyed("a.csv", ROW(1), sequence="b"),
    "two kinds of frames": ({f"d/{TEXT(1)}": b"1", "d/1_2d_pose.txt": b"1"}, "d", read_pose_file),
    "no frames": ({"d/x.md": b"x"}, "d", read_pose_file),
    "no skeleton of that name": whole("a.npz", {"pose": POSE, "joint_format": np.array("coco71")}),
    "another skeleton": keyed("a.npz", {"pose": POSE, "joint_format": np.array("coco17")}, joint_format="penn13"),
    "confidences": whole("a.npz", {"pose": POSE, "confidence": np.ones(3)}),
    # posejson
    "large": few({"posefiles.FILE_BYTES": 9}, whole("a.json", [PERSON])),
    "joints without end": whole("a.json", [{"keypoints": [1.0] * 3003, "image_id": 1}]),
    "a crowd in a frame": few({"posejson.MAX_PEOPLE": 1}, whole("a.json", {"people": [PERSON, PERSON]})),
    "a crowd by image": few({"posejson.MAX_PEOPLE": 1}, whole("a.json", [PERSON, PERSON])),
    "no lists": whole("a.json", {"annotations": 1}), "a number too large": whole("a.json", [
        {"keypoints": [10**400] * 3, "image_id": 1}]),
    "a name twice": whole("a.json", {"annotations": [], "images": [{"id": k, "file_name": "a"} for k in (1, 2)]}),
    "frames without end": few({"posejson.MAX_FRAMES": 1}, whole("a.json", [PERSON, {**PERSON, "image_id": 2}])),
    "a count of nobody": whole("a.json", [{"keypoints": [1.0] * 57, "image_id": 1}]),
    "a frame twice": whole("a.json", {"instance_info": [{"frame_id": 1, "instances": []}] * 2}),
    "a folder too large": few({"posejson.FILE_BYTES": 9}, ({"d/1.json": {"people": [PERSON]}}, "d", read_pose_file)),
    "no people": whole("a.json", {"instance_info": [{}]}), "no layout": whole("a.json", {"x": 1}),
    "no JSON in it": whole("a.json", b""), "words": whole("a.json", [{"keypoints": ["x"] * 3, "image_id": 1}]),
    "no points": whole("a.json", [{"image_id": 1}]), "one point": whole("a.json", [{"keypoints": 1, "image_id": 1}]),
    "one person": whole("a.json", {"people": 1}), "two kinds": whole("a.json", [PERSON, {"people": []}]),
    "two counts": whole("a.json", [PERSON, {"keypoints": [1.0] * 54, "image_id": 2}]), "away": ({}, "a.json",
                                                                                                read_pose_file),
    "broken off": whole("a.json", b"[1"), "digits": whole("a.json", b"[" + b"1" * 9999 + b"]"),
    "not by threes": whole("a.json", [{"keypoints": [1.0] * 4, "image_id": 1}]),
    "not in threes": whole("a.json", [{"keypoints": [[1.0]], "image_id": 1}]),
    "no image": whole("a.json", [{**PERSON, "image_id": None}]), "a strange image": whole("a.json", {
        "annotations": [PERSON], "images": [{"id": 2, "file_name": "a"}]}),
    "scores": whole("a.json", [{"keypoints": [[1.0, 1.0]], "keypoint_scores": [], "image_id": 1}]),
    # posetexts
    "a header alone": whole("a.csv", "x\n"), "no table": ({}, "a.csv", read_pose_file), "upwards": whole(
        "a.csv", "../x/1,1"),
    "no path in the second row": whole("a.csv", f"{ROW(1)}1\nx"),
    "a line without end": whole("a.csv", b"x" * (1 << 17)),
    "files without end": few({"posetexts.MAX_FRAMES": 0}, ({"d/x.md": b"x"}, "d", read_pose_file)),
    "rows without end": few({"posetexts.MAX_FRAMES": 1}, whole("a.csv", "\n".join(
        ROW(k) + ",".join(["1"] * 51) for k in (1, 2)))),
    # posearrays
    "objects": whole("a.npy", np.array([None])), "claims": few({"posearrays.ARRAY_BYTES": 9}, whole("a.npy", POSE)),
    "half": whole("a.npy", file_bytes("a.npy", POSE)[:-9]), "texts": whole("a.npy", np.array(["a"])),
    "no header": whole("a.npy", b"x" * 200), "one axis": whole("a.npy", np.ones(3)),
    "no array": ({}, "a.npy", read_pose_file),
    "no archive": ({}, "a.npz", read_pose_file), "torn": whole("a.npz", b"PK"),
    "a member above": whole("a.npz", {"../a": POSE}),
    "cut off": whole("a.npy", b"", lambda path: _read_npy(_Short(file_bytes("a.npy", POSE)), 128 + POSE.nbytes, "x")),
    "axes": whole("a.npy", npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1,' * 100}), }}", b"abcd")),
    "arrays without end": few({"posearrays.MAX_FRAMES": 1}, whole("a.npy", POSE)),
    "frames of two shapes": whole("a.pkl", [POSE[0], POSE[0, :3]]),
    "members": few({"posearrays._MEMBERS": 0}, whole("a.npz", {"pose": POSE})),
    "another member": whole("a.npz", {"pose": POSE, "x.txt/": POSE}),
    "all together": few({"posearrays.ARRAY_BYTES": -70_000}, whole("a.npz", {"pose": POSE})),
    # poseactions and MATLAB
    "entries without end": few({"poseactions.MAX_FRAMES": 1}, whole("a.json", {"skeletons": UCLA})),
    "bodies in words": whole("a.json", {"skeletons": "x"}), "no text in it": whole("a.skeleton", b"\xff"),
    "begun": whole("a.skeleton", "1\n1\n"), "a short line": whole("a.skeleton", "1\n1\n1 2\n"),
    "a word for a count": whole("a.skeleton", "x\n"), "24 joints": whole("a.skeleton", f"1\n1\n{'1 ' * 10}\n24\n"),
    "a word for a number": whole("a.skeleton", f"1\n1\n{'1 ' * 10}\n25\n" + f"{'x ' * 12}\n" * 25),
    "text": whole("a.mat", b"x"), "another variable": whole("a.mat", {"z": POSE}), "no labels": ({}, "a.mat",
                                                                                              read_pose_file),
    "damaged": whole("a.mat", file_bytes("a.mat", PENN)[:-9]),
    "no skeletons": whole("a.json", [], lambda path: ucla_pose([], "x")),
    "people of two formats": whole("a.json", {"1": VIBE, "2": VIBE | {"joints3d": NTU}}, read_vibe),
    "no person": whole("a.json", {"1": 1}, read_vibe),
    "joints of VIBE": whole("a.json", {"1": VIBE | {"joints3d": np.ones((2, 3, 3)).tolist()}}, read_vibe),
    "frames that fall": whole("a.json", {"1": VIBE | {"frame_ids": [2, 1]}}, read_vibe),
    "neither side": whole("a.mat", PENN | {"train": 3}, read_penn_clip),
    "no text": whole("a.mat", PENN | {"pose": 3}, read_penn_clip),
    "lengths": whole("a.mat", PENN | {"y": PENN["y"][:1]}),
    "seen half": whole("a.mat", PENN | {"visibility": PENN["visibility"] / 2}),
    "no annotations": clips(annotations=[]), "no name": clips({}), "two coordinates": clips(CLIP | {
        "keypoint": np.ones((1, 2, 25, 2))}),
    "goes on": whole("a.skeleton", "1\n0\n0\n"), "complex": whole("a.mat", PENN | {"x": PENN["x"] * 1j}),
    "values without end": few({"poseactions.MAX_FRAMES": 1}, whole("a.mat", PENN)),
    "nobody's rule": whole("a.json", [PERSON], lambda path: read_pose_file(path, person="last")),
    # YAML and JSON of ours
    "a list": whole("a.yaml", b"[1]", read_yaml), "no YAML": whole("a.yaml", b"a: 'x", read_yaml),
    "brackets": whole("a.yaml", DEEP, read_yaml), "no date": whole("a.yaml", b"a: 2024-13-45", read_yaml),
    "gone": ({}, "a.yaml", read_yaml), "no UTF-8": whole("a.yaml", b"\xff\xfe", read_yaml),
    "a circle": whole("a.yaml", b"base: a.yaml", lambda path: read_chain(path, path.parent)),
    "two bases": whole("a.yaml", b"base: [1]", lambda path: read_chain(path, path)),
    "no base": whole("a.yaml", b"base: b.yaml", lambda path: read_chain(path, path)),
    "no value": ({}, "", options("data_cfg.a")), "below a number": ({}, "", options("data_cfg.a.b=1")),
    "no index": ({}, "", options("loss_cfg.x=1")),
    "no mapping": whole("a.json", [], read_json), "no key": whole("a.json", {}, lambda path: read_json(path, "a")),
    "no JSON": whole("a.json", b"{", read_json),
}  # fmt: skip


class _Short(io.BytesIO):
    """A member of an archive that ends before it says."""

    def read(self, size: int = -1) -> bytes:
        return super().read(size)[: -1 if size == POSE.nbytes else None]


def refused(read: Read, path: Path) -> bool:
    try:
        read(path)
    except UserError as error:
        return bool(str(error))
    return False


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_refused(name: str, tmp_path: Path) -> None:
    tree, file, read = CASES[name]
    write_tree(tmp_path, tree)
    assert refused(read, tmp_path / file)


def test_every_refusal_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    with reaching() as seen:
        for _, data, _ in [*attacks.calls(tmp_path / "made")][::5]:
            path.write_bytes(data)
            refused(read_pickle, path)
        for data in attacks.bombs().values():
            path.write_bytes(data)
            refused(read_pickle, path)
        for number, (tree, file, read) in enumerate(CASES.values()):
            write_tree(tmp_path / f"case{number}", tree)
            refused(read, tmp_path / f"case{number}" / file)
    left = unreached(FILES, seen)
    assert not left, left


def test_every_file_that_refuses_is_tried() -> None:
    """Here or in test_refusals*.py, whose FILES are read and not imported."""
    here = Path(__file__).parent
    tried: set[str] = set()
    for path in (Path(__file__), *here.glob("test_refusals*.py")):
        (files,) = (node.value for node in ast.parse(path.read_text("utf-8")).body
                    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FILES")  # fmt: skip
        tried |= set(ast.literal_eval(files))
    package = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    left = {name for name, _ in sites(package - tried)}
    assert not left and tried <= package, sorted(left | (tried - package))
