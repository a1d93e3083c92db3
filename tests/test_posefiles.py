"""The reader of pose files against one made-up walk in every format, and against files that are broken or hostile."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpmt_ext.data import posearrays, posejson, posetexts
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.data.posefiles import read_pose_file
from bpmt_ext.data.posepeople import MAX_LOST, choose
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import get_skeleton, joint_mapping

NUMBERS = list(range(8, 20))  # the frames; as text they would start with 10
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def walk(joints: int = 17, start: float = 100.0, height: float = 150.0, t: int = len(NUMBERS)) -> np.ndarray:
    """(t, joints, 3): somebody crossing the picture at 3 pixels a frame, joints above each other, all seen."""
    pose = np.empty((t, joints, 3))
    pose[..., 0] = start + 3.0 * np.arange(t)[:, None] + np.arange(joints) % 5
    pose[..., 1] = 50 + np.linspace(0, height, joints)
    pose[..., 2] = 0.5 + np.arange(joints) / 64
    return pose


POSE = walk()


def flat(person: np.ndarray) -> list[float]:
    return person.ravel().tolist()


def texts(folder: Path, name: str) -> Path:
    folder.mkdir()
    for number, frame in zip(NUMBERS, POSE, strict=True):
        (folder / name.format(number)).write_text(",".join(map(str, [64, 128, *flat(frame)])))
    return folder


def json_folder(folder: Path, people: Callable[[np.ndarray], object], pose: np.ndarray = POSE) -> Path:
    folder.mkdir()
    for number, frame in zip(NUMBERS, pose, strict=True):
        (folder / f"clip_{number}_keypoints.json").write_text(json.dumps(people(frame)))
    return folder


def one_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def entries(key: str) -> list[dict]:
    both = [{key: f"{n}.jpg", "keypoints": flat(p), "score": 1.5} for n, p in zip(NUMBERS, POSE, strict=True)]
    return both[::-1]


def instances(frame: np.ndarray) -> list[dict]:
    return [{"keypoints": frame[:, :2].tolist(), "keypoint_scores": frame[:, 2].tolist(), "bbox": [[0, 0, 1, 1]]}]


def coco(path: Path) -> Path:
    flags = [np.column_stack([p[:, :2], np.full(17, 2)]) for p in POSE]
    annotations = [{"id": i, "image_id": 900 - n, "keypoints": flat(p)} for i, (n, p) in
                   enumerate(zip(NUMBERS, flags, strict=True))]  # fmt: skip
    images = [{"id": 900 - n, "file_name": f"{n}.jpg"} for n in [*NUMBERS, 20]]
    return one_json(path, {"images": images, "annotations": [*annotations, {"id": 99, "image_id": 880}]})


def csv(path: Path) -> Path:
    rows = [f"./frames/someone/{n}.jpg,{','.join(map(str, flat(p)))}" for n, p in zip(NUMBERS, POSE, strict=True)]
    path.write_text("image_name,x,y\n" + "\n".join(rows[::-1]) + "\n")
    return path


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def saved(path: Path, save: Callable[[Path], object]) -> Path:
    save(path)
    return path


FORMATS: dict[str, Callable[[Path], Path]] = {
    "gait3d": lambda p: texts(p / "seq", "human_crop_f{}.txt"),
    "grew": lambda p: texts(p / "seq", "{}_2d_pose.txt"),
    "openpose": lambda p: json_folder(p / "seq", lambda f: {"people": [{"pose_keypoints_2d": flat(f)}]}),
    "alphapose cmu": lambda p: json_folder(p / "seq", lambda f: {"bodies": [{"joints": flat(f)}]}),
    "alphapose separate": lambda p: json_folder(p / "seq", lambda f: [{"image_id": "a", "keypoints": flat(f)}]),
    "mmpose folder": lambda p: json_folder(p / "seq", instances),
    "alphapose": lambda p: one_json(p / "a.json", entries("image_id")),
    "alphapose open": lambda p: one_json(
        p / "a.json", {f"{n}.jpg": {"version": 0.1, "people": [{"pose_keypoints_2d": flat(f)}]}
                       for n, f in list(zip(NUMBERS, POSE, strict=True))[::-1]}),
    "coco": lambda p: coco(p / "a.json"),
    "mmpose": lambda p: one_json(
        p / "a.json", {"meta_info": {}, "instance_info": [{"frame_id": n, "instances": instances(f)}
                                                          for n, f in zip(NUMBERS, POSE, strict=True)][::-1]}),
    "rtmpose": lambda p: one_json(p / "a.json", [{"instances": instances(f)} for f in POSE]),
    "csv": lambda p: csv(p / "a.csv"),
    "npz": lambda p: npz(p / "a.npz", pose=POSE, joint_format=np.array("coco17")),
    "npz with confidence": lambda p: npz(p / "a.npz", pose=POSE[..., :2], confidence=POSE[..., 2]),
    "npz, one array": lambda p: npz(p / "a.npz", anything=np.asfortranarray(POSE)),
    "npy": lambda p: saved(p / "a.npy", lambda path: np.save(path, POSE)),
    "pkl": lambda p: saved(p / "a.pkl", lambda path: write_pickle(path, POSE)),
    "pkl, list": lambda p: saved(p / "a.pkl", lambda path: path.write_bytes(pickle.dumps(list(POSE)))),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_walk(name: str, tmp_path: Path) -> None:
    found = read_pose_file(FORMATS[name](tmp_path))
    expected = POSE.astype(np.float32)
    if name == "coco":
        expected[..., 2] = 1  # visible
    np.testing.assert_array_equal(found.pose, expected)
    assert found.pose.dtype == np.float32 and found.joint_format == "coco17"
    assert not found.faults and sum(found.dropped.values()) == (name == "coco")  # image 20 shows nobody


def test_the_count_of_joints_tells_the_format_of_an_estimator(tmp_path: Path) -> None:
    body25, names = walk(25), "nose neck".split()
    found = read_pose_file(json_folder(tmp_path / "a", lambda f: {"people": [{"pose_keypoints_2d": flat(f)}]}, body25))
    assert found.joint_format == "openpose18" and list(get_skeleton("openpose18").joints[:2]) == names
    hip, ankle = (get_skeleton("openpose18").joints.index(name) for name in ("right_hip", "left_ankle"))
    np.testing.assert_array_equal(found.pose[:, [hip, ankle]], body25[:, [9, 14]].astype(np.float32))
    whole = read_pose_file(one_json(tmp_path / "b.json", [{"instances": instances(f)} for f in walk(133)]))
    assert whole.joint_format == "coco17" and whole.pose.shape[1] == 17
    odd = one_json(tmp_path / "c.json", [{"instances": instances(f)} for f in walk(19)])
    with pytest.raises(UserError, match="19 joints"):
        read_pose_file(odd)
    with pytest.raises(UserError, match="ntu25 has 25"):
        read_pose_file(odd, joint_format="ntu25")
    three = npz(tmp_path / "k.npz", pose=walk(20), joint_format=np.array("kinectgait20"))
    assert read_pose_file(three).joint_format == "kinectgait20"
    with pytest.raises(UserError, match="kinect20 was asked for"):
        read_pose_file(three, joint_format="kinect20")


def test_a_file_without_confidence_gets_one_and_says_so(tmp_path: Path) -> None:
    found = read_pose_file(npz(tmp_path / "a.npz", pose=POSE[..., :2]))
    np.testing.assert_array_equal(found.pose[..., 2], 1)
    assert found.facts == {"no confidence in the file, set to 1": len(POSE)}


def test_one_sequence_of_several_is_named(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv")
    path.write_text(path.read_text() + "x/other/1.jpg" + ",1" * 51 + "\n" + path.read_text().split("\n", 1)[1])
    with pytest.raises(UserError, match=r"2 sequences \(someone, other"):
        read_pose_file(path)
    assert len(read_pose_file(path, sequence="other").pose) == 1
    again = read_pose_file(path, sequence="someone")  # its rows lie in two places, the second time repeated
    np.testing.assert_array_equal(again.pose, POSE.astype(np.float32))
    assert again.dropped == {"frame twice": len(POSE)} and again.faults[0].endswith("line 15: frame twice")
    both = npz(tmp_path / "b.npz", a=POSE, b=POSE[:3])
    with pytest.raises(UserError, match="no array 'pose'; it has a, b"):
        read_pose_file(both)
    assert len(read_pose_file(both, sequence="b").pose) == 3


def crowd() -> tuple[list[list[np.ndarray]], np.ndarray, np.ndarray]:
    """(people per frame, the one in most frames, a larger one): they cross, and each is missing for a while."""
    t = 40
    ours, other = walk(t=t), walk(start=200, height=190, t=t)
    other[..., 0] = 400 - other[..., 0]
    people = [[ours[f], other[f]] if f % 3 else [other[f], ours[f]] for f in range(t)]
    for f in (5, 6, 20):
        people[f] = [other[f]]
    for f in (10, 11, 12, 13, 30):
        people[f] = [ours[f]]
    people[25] = []
    return people, ours, other


def test_track_follows_the_person_who_is_there_most() -> None:
    people, ours, other = crowd()
    chosen = choose(people, "track")
    expected = [f for f in range(40) if f not in (5, 6, 20, 25)]
    assert chosen.frames.tolist() == expected and chosen.absent == 3 and chosen.several == 40 - 9
    np.testing.assert_array_equal(chosen.pose, ours[expected])
    first = choose(people, "first")
    assert len(first.pose) == 39 and len(np.unique(first.pose[:, -1, 1])) == 2  # it jumps between the two
    np.testing.assert_array_equal(choose(people, "largest").pose[0], other[0])
    with pytest.raises(UserError, match="tallest"):
        choose(people, "tallest")


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_the_order_within_a_frame_does_not_change_who_is_followed(data: st.DataObject) -> None:
    people, *_ = crowd()
    shuffled = [data.draw(st.permutations(listed)) for listed in people]
    np.testing.assert_array_equal(choose(shuffled, "track").pose, choose(people, "track").pose)


def test_a_jump_or_a_long_absence_is_somebody_else() -> None:
    ours = list(walk(t=12))
    far = [frame + [500, 0, 0] for frame in ours[:5]]
    assert choose([[f] for f in ours + far], "track").frames.tolist() == list(range(12))
    gone: list[list[np.ndarray]] = [[]] * MAX_LOST
    assert len(choose([*([f] for f in ours[:6]), *gone, *([f] for f in ours[6:])], "track").pose) == 6
    further = [frame + [90, 0, 0] for frame in ours[6:]]  # 0.6 body heights, in three frames
    assert len(choose([*([f] for f in ours[:6]), [], [], *([f] for f in further)], "track").pose) == 12
    assert len(choose([[f] for f in ours[:6] + further], "track").pose) == 6  # in one
    unseen = np.zeros((17, 3))  # an estimator's row for nobody
    assert choose([[unseen, f] for f in ours], "track").other == 12
    assert len(choose([[unseen]], "track").pose) == 0 and len(choose([], "track").pose) == 0


def bad_json(content: str) -> Callable[[Path], Path]:
    return lambda p: saved(p / "a.json", lambda path: path.write_text(content))


def bad_rows(content: str) -> Callable[[Path], Path]:
    return lambda p: saved(p / "a.csv", lambda path: path.write_text(content))


ONES = ",1" * 51
BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p / "none.json", "cannot be read"),
    "missing folder": (lambda p: p / "none", "does not exist"),
    "unknown": (lambda p: saved(p / "a.mp4", lambda path: path.write_bytes(b"x")), "expected a folder"),
    "empty": (bad_json(" "), "empty file"),
    "cut": (bad_json('{"people": ['), "not JSON (line 1, column 13"),
    "deep": (bad_json("[" * 100_000), "not JSON"),
    "digits": (bad_json("[" + "1" * 5000 + "]"), "not JSON"),
    "layout": (bad_json('{"a": 1}'), "no layout that is known"),
    "53": (bad_json(json.dumps({"people": [{"pose_keypoints_2d": [1] * 53}]})), "[0].pose_keypoints_2d: not three"),
    "text": (bad_json('{"people": [{"pose_keypoints_2d": ["1", 2, 3]}]}'), "not a number"),
    "no points": (bad_json('{"people": [{"face": []}]}'), "people[0]: no key points in it"),
    "huge": (bad_json('{"people": [{"keypoints": [1%s, 2, 3]}]}' % ("0" * 4000)), "not a number (too large)"),
    "scores": (bad_json('[{"instances": [{"keypoints": [[1, 2]], "keypoint_scores": []}]}]'), "instances[0].keypo"),
    "ragged": (bad_json('[{"instances": [{"keypoints": [[1, 2], [3]]}]}]'), "not two or three numbers per joint"),
    "frame id": (bad_json('[{"frame_id": 1, "instances": []}, {"frame_id": 1, "instances": []}]'), "frame twice"),
    "mixed": (bad_json('[{"image_id": 1, "keypoints": [1, 2, 3]}, {"people": []}]'), "[1]: entries of different"),
    "joints": (bad_json(json.dumps([{"image_id": i, "keypoints": [1] * n} for i, n in ((1, 51), (2, 51), (3, 54))])),
               "frame 3 has a person of 18 joints"),
    "image": (bad_json('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "keypoints": [1]}]}'),
              "annotations[0]: unknown image_id"),
    "nobody": (bad_json('[{"instances": []}]'), "no usable frame (1 nobody in the frame)"),
    "nan": (bad_json(json.dumps({"people": [{"keypoints": [float("nan")] * 51}]})), "no usable frame"),
    "crowded": (bad_json(json.dumps({"people": [{"keypoints": [1, 2, 3]}] * 501})), "too many people"),
    "mixed folder": (lambda p: saved(texts(p / "s", "human_crop_f{}.txt"), lambda f: (f / "1.json").touch()), "mixes"),
    "empty folder": (lambda p: saved(p / "s", Path.mkdir), "holds no frame files (nothing)"),
    "broken folder": (lambda p: json_folder(p / "s", lambda f: {}), "no people in it"),
    "csv outside": (bad_rows(f"a/s/1.jpg{ONES}\na/../../s/2.jpg{ONES}\n"), "line 2: the path 'a/../../s/2.jpg'"),
    "csv absolute": (bad_rows(f"/etc/s/1.jpg{ONES}\n"), "line 1"),
    "csv drive": (bad_rows(f"C:\\x\\1.jpg{ONES}\n"), "line 1"),
    "csv no path": (bad_rows(f"name{ONES}\nname{ONES}\n"), "line 2: begins with"),
    "csv cut": (bad_rows("a/s/1.jpg,1,2"), "line 1: not 51 numbers"),
    "csv long": (bad_rows("a/s/1.jpg" + ",1" * 40_000), "longer than"),
    "csv empty": (bad_rows("a,b\n"), "holds no row"),
    "npy text": (lambda p: saved(p / "a.npy", lambda path: path.write_text("hello")), "no whole .npy"),
    "npy objects": (lambda p: saved(p / "a.npy", lambda f: np.save(f, np.array([{}]))), "dtype object"),
    "npy shape": (lambda p: saved(p / "a.npy", lambda path: np.save(path, POSE[0])), "shape (17, 3)"),
    "npz text": (lambda p: saved(p / "a.npz", lambda path: path.write_text("hello")), "no whole .npz"),
    "npz confidence": (lambda p: npz(p / "a.npz", pose=POSE[..., :2], confidence=POSE[..., 1:]), "confidence has"),
    "npz format": (lambda p: npz(p / "a.npz", pose=POSE, joint_format=np.array("coco71")), "coco71"),
    "pkl scalar": (lambda p: saved(p / "a.pkl", lambda path: path.write_bytes(pickle.dumps(3))), "holds a int"),
    "pkl ragged": (lambda p: saved(p / "a.pkl", lambda path: path.write_bytes(pickle.dumps([POSE[0], POSE[0, 1:]]))),
                   "not all frames of one shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_sentence_that_names_it(name: str, tmp_path: Path) -> None:
    make, words = BROKEN[name]
    path = make(tmp_path)
    with pytest.raises(UserError) as caught:
        read_pose_file(path)
    message = str(caught.value)
    assert words in message and str(path) in message and "\n" not in message and len(message) < 400


def npy_bytes(shape: str, descr: str = "<f8", body: bytes = b"\0" * 64) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


@pytest.mark.parametrize("shape", ["(99999999, 17, 3)", "(-1, -8)", "(8,)" * 200, "(9,)", "((1,),)", "(2**70,)"])
def test_a_header_that_claims_too_much_allocates_nothing(shape: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy_bytes(shape))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("pose.npy", npy_bytes(shape))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(UserError, match=name):
            read_pose_file(tmp_path / name)


def test_bytes_after_the_array_are_damage(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy_bytes("(1, 17, 3)", body=bytes(8 * 51)))
    assert len(read_pose_file(tmp_path / "a.npy").pose) == 1
    (tmp_path / "a.npy").write_bytes(npy_bytes("(1, 17, 3)", body=bytes(8 * 51 + 1)))
    with pytest.raises(UserError, match="408 bytes, but 409 follow"):
        read_pose_file(tmp_path / "a.npy")


def test_a_small_file_cannot_unfold_into_a_large_one(tmp_path: Path, monkeypatch) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((3000, 17, 3)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pose.npy", stream.getvalue())
    monkeypatch.setattr(posearrays, "ARRAY_BYTES", 1 << 20)
    with pytest.raises(UserError, match="more than 1 MiB"):
        read_pose_file(tmp_path / "a.npz")
    monkeypatch.setattr(posejson, "FRAME_BYTES", 100)
    with pytest.raises(UserError, match="too large"):
        read_pose_file(FORMATS["openpose"](tmp_path))
    monkeypatch.setattr(posetexts, "MAX_FRAMES", 5)
    with pytest.raises(UserError, match="more than 5 frames"):
        read_pose_file(csv(tmp_path / "a.csv"))


@pytest.mark.parametrize("name", ["../pose.npy", "/etc/p.npy", "a/../../p.npy", "C:pose.npy", "pose.txt", "pose/"])
def test_members_that_point_outside_or_are_no_arrays_are_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(name, npy_bytes("(8,)"))
    with pytest.raises(UserError, match="points outside|is no array"):
        read_pose_file(tmp_path / "a.npz")


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "a.pkl").write_bytes(pickle.dumps([Evil()]))
    np.save(tmp_path / "a.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", pose=np.array([Evil()], dtype=object))
    for name in ("a.pkl", "a.npy", "a.npz"):
        with pytest.raises(UserError):
            read_pose_file(tmp_path / name)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["alphapose", "mmpose", "coco", "csv", "npz", "npy", "pkl"])
@given(data=st.data())
@FUZZ
def test_damage_anywhere_gives_poses_or_one_sentence(name: str, tmp_path: Path, data: st.DataObject) -> None:
    whole = tmp_path / "whole"
    if not whole.exists():
        whole.mkdir()
        FORMATS[name](whole)
    (path,) = whole.iterdir()
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    broken = tmp_path / path.name
    broken.write_bytes(bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]))
    try:
        found = read_pose_file(broken)
    except UserError as error:
        assert path.name in str(error) and "\n" not in str(error)
    else:
        assert found.pose.ndim == 3 and len(found.pose) and np.isfinite(found.pose).all()


def test_openpose_18_is_what_the_skeleton_table_says(tmp_path: Path) -> None:
    folder = json_folder(tmp_path / "a", lambda f: {"people": [{"pose_keypoints_2d": flat(f)}]}, walk(18))
    found = read_pose_file(folder)
    assert found.joint_format == "openpose18"
    order = [joints[0] for joints in joint_mapping(get_skeleton("openpose18"), get_skeleton("coco17"))]
    assert order == [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
