"""Every refusal of protocols, figures, drawings, tables, videos and made-up walkers in; for each what leads to it, and
what is said, out. As test_refusals.py."""

from __future__ import annotations

import errno
import fcntl
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import yaml
from branching import Act, check
from fuzz_commands import home
from test_identify import fake_modules

from bpmt_ext.claims import claim
from bpmt_ext.identify import video
from bpmt_ext.jsonfiles import read_json
from bpmt_ext.metrics import classification, protocols, verification, yardsticks
from bpmt_ext.report import clips, comparison, published, sheets
from bpmt_ext.skeletons import get_skeleton
from bpmt_ext.synthetic import make_walkers, write_dataset
from bpmt_ext.synthetic_silhouettes import make_silhouettes, write_silhouettes

FILES = ("claims.py", "metrics/classification.py", "metrics/protocols.py", "metrics/roster.py", "metrics/rules.py",
         "metrics/submission.py", "metrics/verification.py", "metrics/yardsticks.py", "report/clips.py",
         "report/comparison.py", "report/paired.py", "report/published.py", "report/sheets.py", "synthetic.py",
         "synthetic_silhouettes.py", "identify/video.py")  # fmt: skip
NAN, INDOOR = float("nan"), "evaluate_indoor_dataset"
ROW = {"id": "a", "dataset": "D", "model": "M", "recipe": "r", "metrics": {"Rank-1": 3.0}, "source": "s"}


def ranked(name: str, *sequences: str, first: float = 0.0, **keys: Any) -> Act:
    """A test of sequences `label/type/view`; `first` is the first number of the embeddings."""
    parts = [sequence.split("/") for sequence in sequences]
    x = np.zeros((len(parts), 2, 1), np.float32)
    x[:1, 0] = first
    return lambda _: protocols.evaluate(name, x, *([one[k] for one in parts] for k in range(3)), **keys)


def of_types(*types: str, views: tuple[str, ...] = ("000", "090")) -> list[str]:
    """Everybody of two people in all of these types and views."""
    return [f"{who}/{kind}/{view}" for who in "ab" for kind in types for view in views]


def sent(*probes: str, gallery: int = 20, name: str = "{}") -> Act:
    """A test of GREW, whose probes of type 03 a server ranks."""
    entries = [f"{name.format(k)}/01/v{k}" for k in range(gallery)]
    return ranked("GREW_submission", *entries, f"{name.format(0)}/02/w", *probes, dataset="GREW")


def compared(change: Callable[[Path], object], reference: str = "best") -> Act:
    """The tables of a comparison after a change."""

    def act(folder: Path) -> None:
        shutil.copytree(home() / "compared", folder / "out")
        change(folder / "out")
        comparison.gather(folder / "out", reference)

    return act


def robbed(folder: Path) -> None:
    for path in folder.rglob("per_probe-*.npz"):
        with np.load(path) as arrays:
            left = {key: value for key, value in arrays.items() if key != "ap"}
        np.savez(path, **left)


def of_format(folder: Path) -> None:
    file = folder / "comparison.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 99'))
    assert read_json(file)["format"] == 99


def rows(content: Any) -> Act:
    """A list of published results."""

    def act(folder: Path) -> None:
        (folder / "p.yaml").write_bytes(content if isinstance(content, bytes) else yaml.safe_dump(content).encode())
        published.read_published(folder / "p.yaml")

    return act


def drawn(name: str = "a.png", *, program: str | None = "false") -> Act:
    """A picture where ffmpeg is that program."""

    def act(folder: Path) -> None:
        with patch.object(clips.shutil, "which", lambda _: program):
            clips.check_kind(folder / name)
            clips.write_clip(folder / name, np.zeros((2, 3, 3, 3), np.uint8))

    return act


def strange_pose(folder: Path) -> None:
    np.save(folder / "a.npy", np.ones((2, 19, 3)))
    sheets.draw_files([folder / "a.npy"], sheets.Look(folder / "a.png"))


def filmed(film: bytes | None = b"film", *, models: str = "det.onnx pose.onnx", absent: str = "", most: int = 9,
           **broken: Callable[..., object]) -> Act:  # fmt: skip
    """A video of one frame; a module that is not there, and classes of rtmlib whose calls give something else."""

    def act(folder: Path) -> None:
        for name in ("det.onnx", "pose.onnx", "other.onnx"):
            (folder / name).touch()
        if film is not None:
            (folder / "a.mp4").write_bytes(film)
        with pytest.MonkeyPatch.context() as changed:
            fake_modules(changed, [[np.ones((17, 3))]], [])
            for name, call in broken.items():
                changed.setattr(f"rtmlib.{name}.__call__", call)
            if absent:
                changed.setitem(sys.modules, absent, None)
            changed.setattr(video, "MAX_FRAMES", most)
            detector, estimator = (folder / name for name in models.split())
            video.PeopleInVideo(detector, estimator)(folder / "a.mp4")

    return act


def failing(*_: object) -> None:
    raise RuntimeError("no such input")


def unlocked(folder: Path) -> None:
    """A disk without locks."""
    with patch.object(fcntl, "flock", side_effect=OSError(errno.ENOLCK, "No locks available")), claim(folder / "x"):
        pass


GALLERY, PROBES = ("nm-01", "nm-02"), ("nm-05", "bg-01", "cl-01")
pose = np.ones((2, 17, 3), np.float32)
CASES: dict[str, tuple[Act, str]] = {
    # protocols
    "no protocol": (ranked("evaluate_Gait3d", "a/b/c"), "did you mean evaluate_Gait3D?"),
    "no rule across views": (ranked("evaluate_Gait3D", "a/b/c", cross_view_gallery=True), "has no such rule; leave it"),
    "no rule across these views": (ranked(INDOOR, "a/b/c", dataset="SUSTech1K", cross_view_gallery=True),
                                   "there is a rule for CASIA-B, OUMVLP, not for SUSTech1K"),
    "another data set": (ranked("evaluate_CCPG", "a/b/c", dataset="x"), "has rules for CCPG, but"),
    "no camera rule": (ranked("evaluate_retrieval", "a/b/c", same_camera="x"), "use keep, drop, drop_all."),
    "a rule of its own": (ranked("thesis_rank1", "a/b/c", same_camera="drop"), "thesis_rank1 has its own rule"),
    "no camera": (ranked("evaluate_retrieval", "a/b/c", camera="x"), "evaluator_cfg.camera: 'x' is not known"),
    "nobody": (ranked("evaluate_retrieval"), "the test set is empty"),
    "no probes": (ranked("evaluate_Gait3D", "a/b/c"), "evaluate_Gait3D needs a PROBE_SET"),
    "a probe that is gone": (ranked("evaluate_retrieval", "a/b/c", probes=["z-b-c"]), "first z-b-c; convert them"),
    "no gallery": (ranked(INDOOR, *of_types("nm-05"), dataset="CASIA-B"), "none of 4 test sequences belongs to its g"),
    "one view": (ranked(INDOOR, *of_types(*GALLERY, *PROBES, views=("000",)), dataset="CASIA-B"), "found only 000"),
    "a view without probes": (ranked(INDOOR, *of_types(*GALLERY, *PROBES[:2]), "a/cl-01/000", dataset="CASIA-B"),
                              "CL: has no probe in view 090"),
    "no match": (ranked("evaluate_retrieval", "a/b/c", "b/b/c"), "none of 2 probes has a match"),
    "no distance": (ranked("evaluate_retrieval", "a/b/c", "a/b/d", metric="x"), "evaluator_cfg.metric: 'x' is not"),
    "not finite": (ranked("evaluate_retrieval", "a/b/c", "a/b/d", first=NAN), "1 of 2 embeddings are not finite"),
    "few to name": (sent("x/03/p", gallery=3), "the 20 nearest gallery sequences, found 4 in all"),
    "names in words": (sent("x/03/p", name="n{}"), "gallery labels that are numbers, found n0"),
    "a video twice": (sent("x/03/p", "y/03/p"), "found 2 probes named p"),
    # other figures
    "nobody to classify": (lambda _: classification.classify(np.zeros((0, 2)), np.zeros(0, int), "ab"), "no sequence"),
    "scores": (lambda _: classification.classify(np.full((1, 2), NAN), np.zeros(1, int), "ab"), "1 of 1 sequences"),
    "no pairs": (lambda _: verification.pairs_of(np.zeros((2, 1, 1), np.float32), ["a", "b"], "euc"), "make no pairs"),
    "no yardstick": (lambda _: yardsticks.embed("single_fram", [pose], [pose], get_skeleton("coco17")), "did you mean"),
    "another format": (lambda _: yardsticks.embed("single_frame", [pose], [pose], get_skeleton("ntu25")),
                       "skeleton ntu25 has 25 joints of 3 coordinates"),
    # drawings
    "no picture": (drawn("a.xyz"), "written as .png"), "no place": (drawn("x/a.png"), "does not exist; make"),
    "no ffmpeg": (drawn("a.mp4", program=None), "MP4 needs the program ffmpeg"),
    "ffmpeg that fails": (drawn("a.mp4"), "ffmpeg failed (status 1); write a .gif"),
    "no frame": (lambda _: sheets.Look(Path("a.png"), slice(9, 9)).numbers(3, "w"), "--frames leaves none of its 3"),
    "a long clip": (lambda _: sheets.Look(Path("a.gif")).numbers(sheets.MOST + 1, "w"), "1501 frames are too many for"),
    "a picture too high": (lambda _: sheets.Look(Path("a.png")).check_size(101), "101 files with figures 200 pix"),
    "a clip too large": (lambda _: sheets.Look(Path("a.gif")).check_size(30, 999), "a clip of more than 512 million"),
    "bodies of nothing": (lambda _: sheets.draw_files([], sheets.Look(Path("a.png")), bodies=2), "--bodies needs"),
    "an unknown pose": (strange_pose, "a.npy: "),
    # tables
    "no comparison": (lambda folder: comparison.gather(folder), "holds no comparison; name the folder of one"),
    "of another format": (compared(of_format), "is of format 99, this reads 1"),
    "no such method": (compared(lambda out: None, "x"), "--reference x: is no method of this comparison"),
    "answers that are gone": (compared(robbed), "has no array 'ap'; delete its folder"),
    "no list": (lambda folder: published.read_published(folder), "cannot be read (is a folder)"),
    "a list of noise": (rows(b"\xff\xfe"), "cannot be read (not text)"), "no rows": (rows({}), "should be a list of"),
    "a row of a number": (rows([3]), "row 1: Input should be a valid dictionary"),
    "a figure too high": (rows([{**ROW, "metrics": {"mAP": 101.0}}]), "row a: metrics.mAP: Input should be less"),
    "a recipe of nothing": (rows([{**ROW, "config": "c"}]), "row a: a recipe without a tolerance; correct this row"),
    "a row twice": (rows([ROW, ROW]), "row a: the id is given twice"),
    # what is made up
    "a number too high": (lambda _: make_walkers([10000], seed=0), "identity 10000..10000 asked for"),
    "nobody to make": (lambda path: write_dataset(path, train=0, test=1, cameras=1, sequences=1, seed=0), "train 0"),
    "no condition": (lambda _: make_silhouettes(make_walkers([0], seed=0), 0, 1, 0, seed=0, condition="x"), "use one"),
    "no walks": (lambda path: write_silhouettes(path, train=1, test=1, cameras=1, seed=0, sequences={}), "must have"),
    # videos
    "no rtmlib": (filmed(absent="rtmlib"), "install the extra: pip install 'bpmt_ext[video]'"),
    "no detector": (filmed(models="none.onnx pose.onnx"), "none.onnx: does not exist; name the model file"),
    "no model": (filmed(models="det.onnx other.onnx"), "cannot be opened ("),
    "no video": (filmed(None), "a.mp4: there is no such video"),
    "a long video": (filmed(most=0), "has more than 0 frames; cut it"),
    "no film": (filmed(b""), "no frame can be read from it"),
    "another model": (filmed(YOLOX=failing), "do not work on its frames (no such input)"),
    "no estimates": (filmed(RTMPose=lambda *_, **__: (np.zeros((2, 3)), np.zeros(2))), "not (people, joints, 2)"),
    "no locks": (unlocked, "takes no locks (No locks available)"),
}  # fmt: skip


def test_every_refusal_is_reached_and_told(tmp_path: Path) -> None:
    check(CASES, FILES, tmp_path)
