"""Made-up walks in every format, crowds and videos in; enrolled people, answers and one-sentence refusals out."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from people import FORMATS, instances, saved, trained, walk

from bpmt_ext.cli import main
from bpmt_ext.config import load_settings
from bpmt_ext.data.posejson import all_frames
from bpmt_ext.data.posepeople import follow
from bpmt_ext.engine.embed import embed_walks, load_model, windows
from bpmt_ext.errors import UserError
from bpmt_ext.identify.gallery import Gallery
from bpmt_ext.identify.model import open_model
from bpmt_ext.identify.poses import Walk, mapped, read_walks, together, walk_paths
from bpmt_ext.skeletons import get_skeleton, joint_mapping

COCO, OPENPOSE = get_skeleton("coco17"), get_skeleton("openpose18")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained network, walks of six people (three each), and a gallery of four of them."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.manual_seed(0)
        trained(folder)
        for person in range(6):
            for sequence in range(3):
                saved(folder / f"w{person}_{sequence}.pkl", walk(20 + person, 1, sequence))
        assert main([*"enroll --gallery g --name p0 --cfgs net.yaml w0_0.pkl w0_1.pkl".split()]) == 0
        for person in (1, 2, 3):
            line = f"enroll --gallery g --name p{person} w{person}_0.pkl w{person}_1.pkl"
            assert main(line.split()) == 0  # the network is the gallery's own
    return folder


@pytest.fixture(autouse=True)
def _there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def asked(capsys: pytest.CaptureFixture, *line: str) -> dict:
    capsys.readouterr()
    assert main(["identify", "--gallery", "g", "--json", "-", *line]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture, line: str) -> str:
    """The one sentence of a command that ends with status 2."""
    capsys.readouterr()
    assert main(line.split()) == 2
    told = capsys.readouterr()
    sentences = [text for text in told.err.splitlines() if text.startswith("bpmt: ")]
    assert told.out == "" and len(sentences) == 1 and "Traceback" not in told.err, told
    return sentences[0]


def test_an_enrolled_walk_finds_its_name_first(capsys: pytest.CaptureFixture) -> None:
    found = asked(capsys, "w2_0.pkl", "w1_1.pkl", "--top", "3", "--far", "0.3")
    first, second = found["people"]
    assert [one["ranked"][0]["name"] for one in (first, second)] == ["p2", "p1"]
    assert first["answer"] == "p2" and first["ranked"][0]["accepted"] and first["ranked"][0]["distance"] < 1e-2
    for one in (first, second):
        ranked = one["ranked"]
        assert len(ranked) == 3 and [r["distance"] for r in ranked] == sorted(r["distance"] for r in ranked)
        assert all(r["accepted"] == (r["distance"] < found["threshold"]) for r in ranked)
        assert all(0 < r["strangers_as_near"] <= 1 and r["entries"] == 2 for r in ranked)
    assert first["frames"] == {"first": 0, "last": len(walk(22)) - 1, "usable": len(walk(22))}
    assert found["gallery"]["people"] == 4 and found["calibration"]["trials"] == 8
    assert any("4 people only" in note for note in found["calibration"]["notes"])


def test_the_table_never_names_without_distance_and_threshold(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    target = tmp_path / "answers.json"
    assert main(["identify", "--gallery", "g", "w2_0.pkl", "w5_2.pkl", "--json", str(target)]) == 0
    text = capsys.readouterr().out
    told = json.loads(target.read_text())
    limit = f"threshold {told['threshold']:.4g}"
    for one in told["people"]:
        (line,) = [line for line in text.splitlines() if line.startswith(one["source"])]
        assert limit in line and f"{one['ranked'][0]['distance']:.4g}" in line and one["answer"] in line
    assert "too few" in text and "good for 14.5% only" in text and "strangers as near" in text
    assert told["people"][0]["answer"] in ("p2", "unknown")


def test_every_format_gives_the_same_answer(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    pose = walk(21, 1, 2)
    paths = [make(tmp_path, pose) for make in FORMATS.values()]
    found = asked(capsys, *map(str, paths))["people"]
    assert len(found) == len(FORMATS)
    for one in found[1:]:
        assert [r["name"] for r in one["ranked"]] == [r["name"] for r in found[0]["ranked"]]
        assert {**one, "source": ""}["frames"] == found[0]["frames"] and one["track"] == "1"
        np.testing.assert_allclose([r["distance"] for r in one["ranked"]],
                                   [r["distance"] for r in found[0]["ranked"]], atol=1e-5)  # fmt: skip


def crowd(path: Path) -> Path:
    """Two enrolled people who cross the picture against each other, and a passer-by of five frames, as MMPose."""
    left, right = walk(20, 1, 0), walk(22, 1, 0)
    left, right = left.copy(), right.copy()
    count = min(len(left), len(right))
    for pose, start, step in ((left, 0.0, 6.0), (right, 6.0 * count, -6.0)):
        seen = pose[..., 2] > 0
        pose[..., 0] += np.where(seen, start + step * np.arange(len(pose))[:, None], 0)
    frames = []
    for i in range(count):
        people = [left[i], right[i]][:: 1 if i % 3 else -1]
        if i < 5:
            people.append(left[i] + np.float32([4000, 0, 0]))
        frames.append({"frame_id": i, "instances": instances(people)})
    path.write_text(json.dumps({"instance_info": frames}))
    return path


def test_everybody_in_a_file_is_followed_and_answered(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    path = crowd(tmp_path / "crowd.json")
    found = asked(capsys, str(path))
    assert len(found["people"]) == 2  # the passer-by is too short, and told
    assert {one["ranked"][0]["name"] for one in found["people"]} == {"p0", "p2"}
    assert {one["track"] for one in found["people"]} < {"1", "2", "3"}
    main(["identify", "--gallery", "g", str(path)])
    assert "left out, 5 frames" in capsys.readouterr().err
    told = refused(capsys, f"enroll --gallery g --name new {path}")
    assert "shows 2 people; name one with --track" in told
    assert "has no track '9'" in refused(capsys, f"enroll --gallery g --name new --track 9 {path}")
    ids = [one["track"] for one in found["people"]]
    assert main(["enroll", "--gallery", "g", "--name", "new", "--track", ids[0], str(path)]) == 0
    assert "1 of new" in capsys.readouterr().out
    assert main(["gallery", "--gallery", "g", "--remove", "new"]) == 0
    assert "removed new: 1 entries" in capsys.readouterr().out


def test_two_who_cross_are_not_exchanged() -> None:
    rng = np.random.default_rng(0)
    shape = np.column_stack([rng.uniform(0, 30, 17), np.linspace(0, 150, 17)])
    people = []
    for f in range(60):
        both = [np.column_stack([shape + [5 * f, 0] + rng.normal(0, 1, (17, 2)), np.ones(17)]),
                np.column_stack([shape + [300 - 5 * f, 0] + rng.normal(0, 1, (17, 2)), np.ones(17)])]  # fmt: skip
        people.append(both[:: 1 if f % 2 else -1])
    tracks = follow(people, motion=True)
    assert len(tracks) == 2
    for track in tracks:
        places = np.array([people[frame][place][:, 0].mean() for frame, place in track])
        assert len(places) == 60 and (np.sign(np.diff(places)) == np.sign(places[-1] - places[0])).all()


def test_other_joint_formats_are_mapped_and_what_is_missing_is_told(tmp_path: Path) -> None:
    pose = walk(20)
    origins = joint_mapping(COCO, OPENPOSE)
    openpose = np.stack([pose[:, list(o)].mean(1) for o in origins], axis=1)
    path = saved(tmp_path / "o.pkl", openpose)
    (found,) = read_walks(path, COCO)
    assert found.skeleton == OPENPOSE
    back = mapped(found, COCO, 3)
    np.testing.assert_array_equal(back.pose, pose)
    lost = pose.copy()
    lost[3, 5] = 0
    (neck,) = (mapped(Walk(path, "1", lost, np.arange(len(lost)), COCO), OPENPOSE, 3).pose[:, 1],)
    np.testing.assert_array_equal(neck[3], 0)  # a shoulder is not seen, so the neck is not
    np.testing.assert_allclose(neck[4, :2], pose[4, 5:7, :2].mean(0), rtol=1e-6)
    assert neck[4, 2] == pose[4, 5:7, 2].min()
    (penn,) = read_walks(saved(tmp_path / "p.pkl", pose[:, :13]), COCO)
    with pytest.raises(UserError, match="penn13 have no nose, left_eye, right_eye and 2 more"):
        mapped(penn, COCO, 3)
    kinect = Walk(path, "1", np.zeros((20, 20, 3), np.float32), np.arange(20), get_skeleton("kinect20"))
    with pytest.raises(UserError, match=r"holds 3D poses \(kinect20\)"):
        mapped(kinect, COCO, 3)


def test_several_bodies_become_one_pose() -> None:
    calm, lively = (Walk(Path("a"), name, walk(20)[:40], np.arange(40) + k, COCO) for k, name in enumerate("ab"))
    lively = Walk(lively.source, "b", lively.pose * np.float32([3, 3, 1]), lively.frames, COCO)
    both = together([calm, lively], 2)
    assert both.pose.shape == (41, 34, 3) and both.track == "b+a"
    np.testing.assert_allclose(both.pose[1:, :17], lively.pose, rtol=1e-6)


def test_the_gallerys_network_is_the_trained_one(home: Path) -> None:
    own = open_model(Gallery.open(home / "g"))
    other = load_model(load_settings("net.yaml"), home / "output")
    assert own.checksum == other.checksum and own.settings.fingerprint == other.settings.fingerprint
    walks = [w for path in ("w0_0.pkl", "w4_1.pkl") for w in read_walks(home / path, COCO)]
    together_, alone = embed_walks(own, walks), [embed_walks(other, [w])[0] for w in walks]
    np.testing.assert_allclose(together_, alone, atol=1e-5)


def test_embeddings_are_written(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "emb.npz"
    assert main(["embed", "--cfgs", "net.yaml", "w0_0.pkl", "w1_0.pkl", "-o", str(out)]) == 0
    with np.load(out) as found:
        assert found["embeddings"].shape == (2, 8, 5) and found["embeddings"].dtype == np.float32
        assert found["sources"].tolist() == ["w0_0.pkl", "w1_0.pkl"] and found["tracks"].tolist() == ["1", "1"]
        assert found["frames"][0].tolist() == [0, len(walk(20)) - 1, len(walk(20))]
        model = load_model(load_settings("net.yaml"), home / "output")
        again = embed_walks(model, read_walks(home / "w1_0.pkl", COCO))
        np.testing.assert_allclose(found["embeddings"][1], again[0], atol=1e-5)
    assert main(["embed", "--cfgs", "net.yaml", "--iter", "2", "w0_0.pkl", "-o", str(out)]) == 0
    with np.load(out) as other:
        assert str(other["weights"]) != model.checksum


def test_validation_people_calibrate(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(home / "g", tmp_path / "g")
    assert main(["gallery", "--gallery", str(tmp_path / "g"), "--calibrate"]) == 0
    scale = json.loads((tmp_path / "g" / "calibration.json").read_text())
    assert scale["own"] == 8 and len(scale["distances"]) == 16 and scale["people"] == 6  # 2 of 6 are held out
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "took 8 walks of 2 validation people as strangers"
    assert told[1] == ("the threshold rests on 16 impostor trials of 6 people: 8 enrolled and 8 strangers' walks, good "
                       "for a false-accept rate of 7.8% or more")  # fmt: skip
    assert told[2].startswith("note: the threshold rests on 6 people only") and "4 people, 8 entries" in told[3]
    for name in ("p0", "p1", "p2", "p3"):
        assert main(["gallery", "--gallery", str(tmp_path / "g"), "--remove", name]) == 0
    capsys.readouterr()
    assert main(["gallery", "--gallery", str(tmp_path / "g"), "--calibrate"]) == 0
    assert "nobody is enrolled yet, so that there is no threshold" in capsys.readouterr().out
    line = f"gallery --gallery {tmp_path / 'g'} --calibrate --opts"
    assert "data_cfg.dataset_root" in refused(capsys, f"{line} data_cfg.dataset_root=nowhere")
    assert "holds nobody out" in refused(capsys, f"{line} data_cfg.validation=0.0")
    assert "stays as it is" in refused(capsys, f"{line} model_cfg.width=8")


def test_the_list_and_the_deletion(home: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    shutil.copytree(home / "g", tmp_path / "g")
    assert main(["gallery", "--gallery", str(tmp_path / "g")]) == 0
    text = capsys.readouterr().out
    assert "4 people, 8 entries; BPMT" in text
    assert [line[:2] for line in text.splitlines()[3:]] == ["p0", "p1", "p2", "p3"]
    assert main(["gallery", "--gallery", str(tmp_path / "g"), "--remove", "p3"]) == 0
    assert "p3" not in capsys.readouterr().out.split("\n", 1)[1]
    assert all(b"p3" not in p.read_bytes() for p in (tmp_path / "g").rglob("*.json"))
    assert all(b"w3_" not in p.read_bytes() for p in (tmp_path / "g").rglob("*.json"))
    assert len(json.loads((tmp_path / "g" / "calibration.json").read_text())["distances"]) == 6  # measured anew


def test_a_walk_is_enrolled_once(home: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    shutil.copytree(home / "g", tmp_path / "g")
    saved(tmp_path / "renamed.pkl", walk(23, 1, 0))
    line = ["enroll", "--gallery", str(tmp_path / "g"), "--name", "p3"]
    assert main([*line, str(tmp_path / "renamed.pkl"), "w3_2.pkl", "w3_2.pkl"]) == 0
    told = capsys.readouterr()
    assert "4 people, 9 entries, 3 of p3" in told.out and told.out.count("enrolled p3: w3_2.pkl") == 1
    copies = [text for text in told.err.splitlines() if "a copy of a walk that is enrolled as p3 already" in text]
    assert len(copies) == 2 and "renamed.pkl" in copies[0] and "w3_2.pkl" in copies[1]
    assert main([*line, "w3_2.pkl"]) == 0  # nothing new, told, no fault
    told = capsys.readouterr()
    assert "left out, a copy" in told.err and "enrolled p3" not in told.out and "3 of p3" in told.out


def test_a_folder_stands_for_all_its_walks(tmp_path: Path) -> None:
    """Each format in a folder of its own, and files of each beside; frames of a walk are no walks."""
    pose = walk(20)[:20]
    made = [FORMATS[name](tmp_path, pose) for name in ("openpose", "alphapose", "gait3d text")]
    assert [walk_paths(path) for path in made] == [[path] for path in made]
    deep = tmp_path / "0_a" / "cam10"
    deep.mkdir(parents=True)
    for name in ("mmpose", "coco results", "npz"):
        made.append(FORMATS[name](tmp_path, pose))
        made.append(FORMATS[name](deep, pose))
    made += [saved(tmp_path / "0_a" / "cam9.pkl", pose), saved(tmp_path / "w10.pkl", pose)]
    (tmp_path / ".hidden").mkdir()
    for beside in (saved(tmp_path / ".hidden" / "a.pkl", pose), saved(tmp_path / "._a.pkl", pose)):
        assert beside not in made
    (tmp_path / "notes.txt").write_text("x")
    (deep / "back").symlink_to(tmp_path)  # no walk twice, and an end
    found = walk_paths(tmp_path)
    assert sorted(found) == sorted(made) and walk_paths(tmp_path / "w10.pkl") == [tmp_path / "w10.pkl"]
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names[:2] == ["0_a/cam9.pkl", "0_a/cam10/a.json"] and names[-1] == "w10.pkl"
    for path in found:
        assert len(read_walks(path, COCO)) == 1


@pytest.mark.parametrize(("value", "frames"), [
    ([], True), ({"people": []}, True), ([{"image_id": "a", "keypoints": [1.0] * 51}] * 2, True),
    ([{"image_id": k, "keypoints": [1.0] * 51} for k in range(2)], False), ({"skeletons": []}, False),
    ({"instance_info": [{"instances": []}]}, False), ({"about": "bert"}, False),
])  # fmt: skip
def test_frames_are_told_from_walks_by_what_is_in_them(tmp_path: Path, value: object, frames: bool) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.json").write_text(json.dumps(value))
    (tmp_path / "0.json").write_text("{")  # a frame that is damaged tells nothing
    files = [tmp_path / f"{number}.json" for number in range(3)]
    assert walk_paths(tmp_path) == ([tmp_path] if frames else files)


def test_a_folder_of_walks_is_enrolled_and_asked(home: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    shutil.copytree(home / "g", tmp_path / "g")
    bert = tmp_path / "bert"
    for kind, view in (("a", "v10"), ("a", "v9")):
        (bert / kind / view).mkdir(parents=True)
        saved(bert / kind / view / f"{view}.pkl", walk(25, 1, int(view == "v9")))
    saved(bert / "short.pkl", walk(25)[:9])
    FORMATS["gait3d text"](bert, walk(25, 1, 2))
    line = ["--gallery", str(tmp_path / "g")]
    assert main(["enroll", *line, "--name", "bert", str(bert)]) == 0
    told = capsys.readouterr()
    assert [text.split(",")[0] for text in told.out.splitlines()[:3]] == [
        f"enrolled bert: {bert / name}" for name in ("a/v9/v9.pkl", "a/v10/v10.pkl", "texts")]
    assert "3 of bert" in told.out and "left out: " in told.err and "short.pkl: the longest track has 9" in told.err
    whole = Gallery.open(tmp_path / "g")
    entries = [entry for shard in whole.shards for entry in whole.entries(shard)[0]]
    assert [entry.source for entry in entries if entry.name == "bert"] == ["a/v9/v9.pkl", "a/v10/v10.pkl", "bert/texts"]
    assert main(["identify", *line, "--json", "-", str(bert)]) == 0
    assert [one["ranked"][0]["name"] for one in json.loads(capsys.readouterr().out)["people"]] == ["bert"] * 3


WRONG = {
    "enroll --gallery new --name a w0_0.pkl": "give --cfgs CONFIG",
    "enroll --gallery g --name unknown w0_0.pkl": "--name 'unknown'",
    "enroll --gallery g --name a\x07 w0_0.pkl": "printable",
    "enroll --gallery g --name a nowhere.pkl": "nowhere.pkl",
    "enroll --gallery g --name a --iter 2 w0_0.pkl": "belong to --cfgs",
    "enroll --gallery g --name a --cfgs net.yaml --iter 2 w0_0.pkl": "was made with other weights",
    "enroll --gallery g --name a --cfgs nix.yaml w0_0.pkl": "nix.yaml",
    "enroll --gallery data --name a --cfgs net.yaml w0_0.pkl": "is no gallery",
    "enroll --gallery g --name a short.pkl": "the longest track has 9 frames",
    "enroll --gallery g --name a brief": "brief: none of its 2 walks has the 15 frames",
    "enroll --gallery g --name a bare": "bare: holds no walks (a.txt, in); give files of poses",
    "enroll --gallery g --name a nobody.json": "shows nobody",
    "enroll --gallery g --name a film.mp4": "is a video; give --detector",
    "enroll --gallery g --name a --detector a.onnx film.mp4": "belong together",
    "enroll --gallery g --name a --detector a.onnx --estimator b.onnx film.mp4": "nothing is downloaded",
    "enroll --gallery g --name a --joint-format elephant w0_0.pkl": "unknown joint format",
    "identify --gallery nowhere w0_0.pkl": "enroll somebody first",
    "identify --gallery g --faiss w0_0.pkl": "leave --faiss out",
    "identify --gallery g penn.pkl": "have no nose",
    "identify --gallery g film.txt": "no file of poses that is known",
    "gallery --gallery g --remove nobody": "nobody is enrolled as 'nobody'",
    "embed --cfgs net.yaml w0_0.pkl -o emb.txt": "ends in .npz",
    "embed --cfgs net.yaml --iter 77 w0_0.pkl -o emb.npz": "no such checkpoint",
    "predict --cfgs net.yaml w0_0.pkl": "names no action",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_is_one_sentence(home: Path, capsys: pytest.CaptureFixture, line: str) -> None:
    if not (home / "short.pkl").exists():
        saved(home / "short.pkl", walk(20)[:9])
        for name in ("brief", "bare/in"):
            (home / name).mkdir(parents=True)
        for name in "ab":
            saved(home / "brief" / f"{name}.pkl", walk(20)[:9])
        (home / "bare" / "a.txt").write_text("x")
        saved(home / "penn.pkl", walk(20)[:, :13].copy())
        (home / "nobody.json").write_text(json.dumps({"instance_info": [{"instances": []}] * 3}))
        (home / "film.txt").write_text("x")
        (home / "film.mp4").write_bytes(b"x")
    assert WRONG[line] in refused(capsys, line)
    assert not (home / "new").exists()


@pytest.mark.parametrize("line", ["identify --gallery g --far 0 a", "identify --gallery g --top 0 a", "gallery",
                                  "predict --cfgs a --stride 0 b", "embed --cfgs a b"])  # fmt: skip
def test_wrong_words_end_with_status_2(line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2


def test_an_empty_gallery_is_told(home: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    folder = tmp_path / "g"
    assert main(["enroll", "--gallery", str(folder), "--name", "Zoë", "--cfgs", "net.yaml", "w0_0.pkl"]) == 0
    told = capsys.readouterr()
    assert "biometric" in told.err and "enrolled Zoë" in told.out
    assert (folder.stat().st_mode & 0o777) == 0o700
    assert main(["identify", "--gallery", str(folder), "w0_0.pkl"]) == 0
    assert "uncalibrated (nearest" in capsys.readouterr().out  # a single person: nothing to compare with
    assert main(["gallery", "--gallery", str(folder), "--remove", "Zoë"]) == 0
    assert "nobody is enrolled" in refused(capsys, f"identify --gallery {folder} w0_0.pkl")


# videos


def fake_modules(monkeypatch: pytest.MonkeyPatch, frames: list[list[np.ndarray]], made: list) -> None:
    """onnxruntime, rtmlib and cv2: a model file is known by its name, a video shows the people of `frames`."""

    def session(path: str, providers: list[str]) -> SimpleNamespace:
        shape = {"det.onnx": [1, 3, 416, 416], "pose.onnx": ["batch", 3, "h", "w"]}[Path(path).name]
        return SimpleNamespace(get_inputs=lambda: [SimpleNamespace(shape=shape)])

    class Detector:
        def __init__(self, model: str, **keys: object) -> None:
            print("load", model)
            made.append(("det", Path(model).name, keys))

        def __call__(self, image: np.ndarray) -> np.ndarray:
            people = frames[int(image[0, 0, 0])]
            return np.array([[*p[:, :2].min(0), *p[:, :2].max(0)] for p in people]).reshape(-1, 4)

    class Estimator:
        def __init__(self, model: str, **keys: object) -> None:
            made.append(("pose", Path(model).name, keys))

        def __call__(self, image: np.ndarray, bboxes: list) -> tuple[np.ndarray, np.ndarray]:
            people = np.stack(frames[int(image[0, 0, 0])])
            assert len(bboxes) == len(people), "an empty list would mean the whole picture"
            return people[..., :2], people[..., 2]

    class Capture:
        def __init__(self, path: str) -> None:
            self.at = 0 if Path(path).read_bytes() == b"film" else len(frames)

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def read(self) -> tuple[bool, np.ndarray | None]:
            if self.at >= len(frames):
                return False, None
            self.at += 1
            return True, np.full((8, 8, 3), self.at - 1, np.uint8)

        def release(self) -> None:
            made.append("released")

    for name, parts in (("onnxruntime", {"InferenceSession": session}), ("cv2", {"VideoCapture": Capture}),
                        ("rtmlib", {"YOLOX": Detector, "RTMPose": Estimator})):  # fmt: skip
        module = ModuleType(name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module)


def test_a_video_is_answered_like_its_poses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture) -> None:
    frames = list(all_frames(json.loads(crowd(tmp_path / "crowd.json").read_text()), "crowd").values())
    frames.insert(30, [])  # a frame without anybody
    made: list = []
    fake_modules(monkeypatch, frames, made)
    for name in ("det.onnx", "pose.onnx"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.mp4").write_bytes(b"film")
    models = ["--detector", str(tmp_path / "det.onnx"), "--estimator", str(tmp_path / "pose.onnx")]
    found = asked(capsys, str(tmp_path / "a.mp4"), *models)["people"]
    sizes = {name: keys["model_input_size"] for _, name, keys in (m for m in made if m != "released")}
    assert sizes == {"det.onnx": (416, 416), "pose.onnx": (192, 256)} and made[-1] == "released"
    assert {one["ranked"][0]["name"] for one in found} == {"p0", "p2"}
    assert found[0]["frames"]["last"] == len(frames) - 1 and found[0]["frames"]["usable"] == len(frames) - 1
    (tmp_path / "b.mp4").write_bytes(b"none")
    assert "no frame can be read" in refused(capsys, f"identify --gallery g {tmp_path}/b.mp4 {' '.join(models)}")
    assert "no such video" in refused(capsys, f"identify --gallery g {tmp_path}/c.mp4 {' '.join(models)}")
    monkeypatch.setattr(sys.modules["rtmlib"].RTMPose, "__call__", lambda *_, **__: (np.zeros((2, 3)), np.zeros(2)))
    assert "not (people, joints, 2)" in refused(capsys, f"identify --gallery g {tmp_path}/a.mp4 {' '.join(models)}")
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    assert "bpmt_ext[video]" in refused(capsys, f"identify --gallery g {tmp_path}/a.mp4 {' '.join(models)}")


@pytest.mark.parametrize(("frames", "window", "stride", "expected"), [
    (10, 64, 32, [(0, 10)]), (64, 64, 32, [(0, 64)]), (100, 64, 32, [(0, 64), (32, 96), (36, 100)]),
    (128, 64, 64, [(0, 64), (64, 128)]), (500, 0, 32, [(0, 500)]), (5, 2, 1, [(0, 2), (1, 3), (2, 4), (3, 5)]),
])  # fmt: skip
def test_windows_cover_a_clip(frames: int, window: int, stride: int, expected: list) -> None:
    assert windows(frames, window, stride) == expected
