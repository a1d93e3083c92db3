"""Every refusal of a config, a partition, a data root, a gallery, a checkpoint, a plugin in; for each what leads to it,
and what is said, out.

The places are found in the source, as in test_branches.py: a new one without a case fails here by its name.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import safetensors.numpy
import test_gallery as g
import tiny
import torch
from branching import Act, check

from bpmt_ext import registry
from bpmt_ext.config import settings_from
from bpmt_ext.config_schema import DataConfig
from bpmt_ext.data import packed, partitions, sequencelists
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.data.sequences import Record, load_splits
from bpmt_ext.engine import checkpoint
from bpmt_ext.identify import calibrate, files, people, poses, search
from bpmt_ext.identify.gallery import Gallery
from bpmt_ext.plugins import load_plugins
from bpmt_ext.skeletons import PART_NAMES, get_skeleton, skeleton_from_mapping

FILES = ("config.py", "config_checks.py", "config_schema.py", "skeletons.py", "registry.py", "plugins.py", "regular.py",
         "data/sequencelists.py", "data/partitions.py", "data/sequences.py", "data/packed.py", "identify/gallery.py",
         "identify/files.py", "identify/search.py", "identify/calibrate.py", "identify/poses.py", "identify/people.py",
         "engine/checkpoint.py")  # fmt: skip
NONE = object()  # a key that is taken out


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(values)
    for dotted, value in changes.items():
        *above, key = dotted.split(".")
        node: Any = values
        for part in above:
            node = node.setdefault(part, {})
        if value is NONE:
            del node[key]
        else:
            node[key] = value
    return values


def config(changes: dict[str, Any] | None = None, *opts: str) -> Act:
    values = {**tiny.base(), "model_cfg": {**tiny.SMALL, "model": "BPMT"}}
    return lambda folder: settings_from(changed(values, changes or {}), opts, folder)


def skeleton(changes: dict[str, Any]) -> Act:
    coco = get_skeleton("coco17")
    pairs = [[coco.joints[j], coco.joints[m]] for j, m in enumerate(coco.mirror) if j < m]
    names = dict(zip(PART_NAMES, ([coco.joints[j] for j in part] for part in coco.parts), strict=True))
    values = {"joints": list(coco.joints), "edges": [[*edge] for edge in coco.edges], "mirror": pairs, "parts": names,
              "head": [0], "hips": [11, 12], "shoulders": [5, 6]}  # fmt: skip
    return lambda folder: skeleton_from_mapping(changed(values, changes))


def network(changes: dict[str, Any], *, model: str = "BPMT", classes: int = 3) -> Act:
    arguments = changed({**tiny.SMALL, "embedding_width": 8}, changes)
    return lambda _: registry.build_network(model, arguments, skeleton=get_skeleton("coco17"), classes=classes)


def lists(content: Any) -> Act:
    def act(folder: Path) -> None:
        (folder / "a.json").write_text(content if isinstance(content, str) else json.dumps(content))
        sequencelists.read_partition(folder / "a.json")

    return act


def no_lists_but_folds(folder: Path) -> None:
    (folder / "folds").mkdir()
    for k in range(2):
        (folder / f"folds/fold{k}.json").touch()
    sequencelists.read_partition(folder / "partition.json")


def two(**more: Any) -> dict[str, Any]:
    """Lists of sequences."""
    return {"TRAIN": ["a/1_x/v", "b/2_x/v"], "TEST": ["a/3_x/v"], **more}


def official(content: Any, probes: bool = True) -> Act:
    def act(folder: Path) -> None:
        (folder / "a.json").write_text(json.dumps(content))
        partitions.OfficialLists.read(folder / "a.json", "Gait3D", probes=probes).expect(["z"])

    return act


def splits(*options: str) -> Act:
    """The check of a converter's options against three clips of two groups."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folds", type=int)
    parser.add_argument("--inner", action="store_true")
    sequencelists.add_arguments(parser)
    rules = {"x": lambda place: "TRAIN"}
    made = sequencelists.SequenceSplits.of(parser.parse_args(options), ["a", "b"], rules, {})
    return lambda _: made.check(["a/1_x/v/v.pkl", "a/2_x/v/v.pkl", "b/3_x/v/v.pkl"])


def data(changes: dict[str, Any] | None = None, lists: Any = None, *, wipe: bool = False) -> Act:
    """The splits of two labels that train and one that is tested."""

    def act(folder: Path) -> None:
        for label in ("a", "b", "c") if not wipe else ():
            for camera in ("1_0", "2_0"):
                (folder / "root" / label / camera / "v").mkdir(parents=True)
                write_pickle(folder / "root" / label / camera / "v/v.pkl", np.ones((3, 17, 3), np.float32))
        (folder / "root").mkdir(exist_ok=True)
        content = {"TRAIN_SET": ["a", "b"], "TEST_SET": ["c"]} if lists is None else lists
        (folder / "a.json").write_text(json.dumps(content))
        values = {"dataset_name": "x", "dataset_root": str(folder / "root"),
                  "dataset_partition": str(folder / "a.json")} | (changes or {})  # fmt: skip
        values = {key: value.format(folder) if isinstance(value, str) else value for key, value in values.items()}
        load_splits(DataConfig(**values))

    return act


def packing(name: str = "a.pkl") -> Act:
    """A pack of a file that is written to meanwhile."""

    def act(folder: Path) -> None:
        (folder / "a.pkl").write_text("a")

        def read(path: Path) -> np.ndarray:
            path.write_text("changed")
            return np.ones((1, 1, 1), np.float32)

        packed.open_pack(folder, [folder / name], read)

    return act


def gallery(break_it: Callable[[Path], object], after: Callable[[Gallery], object] = lambda whole: None) -> Act:
    def act(folder: Path) -> None:
        g.filled(folder / "g", 2, 2)
        break_it(folder / "g")
        whole = Gallery.open(folder / "g")
        after(whole)
        search.search(whole, np.zeros((1, *g.SHAPE), np.float32), top=1)

    return act


def rewritten(embeddings: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: next(folder.glob("shards/*.safetensors")).write_bytes(
        safetensors.numpy.save({"embeddings": embeddings}))  # fmt: skip


def robbed(folder: Path) -> None:
    g.made(folder)
    with files.locked(folder) as lock:
        (folder / "lock").unlink()
        lock.check()


def held(folder: Path) -> None:
    with files.locked(folder), files.locked(folder, patience=0.01):
        pass


def restless(folder: Path) -> None:
    """Somebody changes the gallery whenever it is measured."""
    whole = g.filled(folder, 2, 2)
    with patch.object(calibrate, "_measure", lambda gallery: setattr(gallery, "revision", gallery.revision + "x")):
        calibrate.calibration(whole)


def walks(name: str, content: Any, own: str = "coco17", **keys: Any) -> Act:
    def act(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        poses.read_walks(path.parent if "/" in name else path, get_skeleton(own), **keys)

    return act


def walk(name: str, channels: int = 3) -> poses.Walk:
    joints = get_skeleton(name)
    return poses.Walk(Path("w"), "1", np.ones((3, joints.num_joints, channels), np.float32), np.arange(3), joints)


SHORT: Any = SimpleNamespace(bodies=1, skeleton=get_skeleton("coco17"), channels=3)  # what files are read for


def identified(folder: Path) -> None:
    g.made(folder / "g")
    with patch.object(people, "open_model", lambda *_: None):
        people.identify(folder / "g", [], reading=lambda *_: [], far=0.1, top=1, json_to=None)  # type: ignore[arg-type]


def strangers(_: Path) -> None:
    model = SimpleNamespace(settings=SimpleNamespace(where=lambda key: key))
    with patch.object(people, "load_data", lambda settings: SimpleNamespace(val=[])):
        people.add_strangers(None, model)  # type: ignore[arg-type]


def loaded(state: Any, *, name: str = "a-00001.pt", trust: bool = False) -> Act:
    def act(folder: Path) -> None:
        if isinstance(state, bytes):
            (folder / name).write_bytes(state)
        else:
            torch.save(state, folder / name)
        checkpoint.load_checkpoint(folder / name, trust)

    return act


class Code:
    """What no checkpoint may hold: unpickling it calls something, which fails."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.listdir, ("/nowhere/at/all",)


def zipped(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 16))
    checkpoint.load_checkpoint(folder / "a.pt")


def full(folder: Path) -> None:
    with patch.object(torch, "save", side_effect=RuntimeError("no room")):
        checkpoint.save_checkpoint(folder / "a.pt", {})


def plugin(text: str, name: str = "own_part.py") -> Act:
    def act(folder: Path) -> None:
        (folder / name).write_text(text)
        load_plugins([folder / name])

    return act


LINEAR, SMALL = torch.nn.Linear(2, 2), {"weight": torch.ones(1, 2), "bias": torch.ones(2)}
stage = partial(checkpoint.load_stage, LINEAR, source=Path("a"), prefixes=["w"], optional=[])
unfixed = {"trainer_cfg.sampler.sample_type": "unfixed_ordered"}
PERSON = {"keypoints": [1.0] * 51, "image_id": 1}
NAMES = {"train": ["a", "b"], "test": ["c"]}
CASES: dict[str, tuple[Act, str]] = {
    # what a config says
    "a path for a name": (config({"data_cfg.dataset_name": "a/b"}), "data_cfg.dataset_name: names a folder"),
    "a null for a path": (config({"data_cfg.dataset_root": "a\0"}), "is no path: it holds a null"),
    "two ways to validate": (config({"data_cfg.camera_split": True}), "both choose the validation set"),
    "fewer of cameras": (config({"data_cfg.camera_split": True, "data_cfg.validation": 0, "data_cfg.train_labels": 2}),
                         "do not go with camera_split"),
    "least and most": (config(unfixed | {"trainer_cfg.sampler.frames_num_min": 9, "trainer_cfg.sampler.frames_num_max":
                                         3}), "9 is larger than frames_num_max 3"),
    "no least and most": (config(unfixed | {"trainer_cfg.sampler.frames_num_min": None}),
                          "needs frames_num_min and frames_num_max"),
    "no length": (config({"trainer_cfg.sampler.frames_num_fixed": None}), "needs frames_num_fixed"),
    "a number for a pair": (config({"trainer_cfg.sampler.batch_size": 4}), "takes batch_size as [labels"),
    "a pair for a number": (config({"evaluator_cfg.sampler.batch_size": [2, 2]}), "takes batch_size as one number"),
    "two precisions": (config({"trainer_cfg.enable_float16": True, "trainer_cfg.precision": "off"}), "contradict each"),
    "a schedule too short": (config({"scheduler_cfg.total_steps": 3}), "total_steps 3 is less than"),
    "a format of nobody": (config({"model_cfg.joint_format": "coco71"}), "did you mean coco17?"),
    "two formats": (config({"model_cfg.joint_format": "coco", "data_cfg.joint_format": "penn13"}), "drop one of them"),
    "two skeletons": (config({"model_cfg.joint_format": "coco", "data_cfg.skeleton": {}}), "contradicts data_cfg.skel"),
    "no solver": (config({"optimizer_cfg.solver": "Adamm"}), "there is no solver 'Adamm'; did you mean Adam?"),
    "a list of solvers": (config({"optimizer_cfg.solver": ["SGD"]}), "optimizer_cfg.solver should be a valid string"),
    "no such argument": (config({"optimizer_cfg.lrr": 1}), "optimizer_cfg.lrr: AdamW takes no such key; did you mean"),
    "text for a number": (config({"optimizer_cfg.lr": "x"}), "optimizer_cfg.lr should be a number, got 'x'"),
    "an argument too few": (config({"scheduler_cfg.scheduler": "StepLR"}), "step_size is missing; StepLR needs it"),
    "an option of nothing": (config(None, "x"), "write it as section.key=value"),
    "a key of nothing": (config({"trainer_cfg.total_iters": 1}), "nothing takes this key; did you mean total_iter?"),
    "a key in another section": (config({"data_cfg.total_iter": 1}), "did you mean trainer_cfg.total_iter?"),
    "a section of nothing": (config({"trainr_cfg": {}}), "did you mean trainer_cfg?"),
    "a word of nothing": (config({"evaluator_cfg.metric": "eucl"}), "did you mean euc?"),
    "a section that is a number": (config({"data_cfg": 1}), "data_cfg should be a"),
    "a union": (config({"trainer_cfg.restore_hint": 1.5}), "trainer_cfg.restore_hint should be a valid integer or"),
    "a key that is needed": (config({"trainer_cfg.sampler.type": None}), "trainer_cfg.sampler.type should be"),
    # skeletons
    "an unknown format": (lambda _: get_skeleton("x"), "known: coco17"),
    "a key too many": (skeleton({"jionts": []}), "did you mean joints?"),
    "a key too few": (skeleton({"hips": NONE}), "the key hips is missing"),
    "a pair of three": (skeleton({"hips": [1, 2, 3]}), "hips [1, 2, 3] must hold 2"),
    "four parts": (skeleton({"parts.torso": NONE}), "exactly the keys torso"),
    "mirrored twice": (skeleton({"mirror": [[1, 2], [2, 3]]}), "names a joint twice"),
    "not connected": (skeleton({"edges": [[0, 1]]}), "do not connect every joint"),
    "a word for a list": (skeleton({"joints": "nose"}), "joints must be a list"),
    "a strange joint": (skeleton({"head": ["tail"]}), "names the joint 'tail'"),
    "no part": (skeleton({"parts.torso": []}), "must hold one or more joints"),
    "a joint in two parts": (skeleton({"parts.torso": [7]}), "joint 7 is in two parts"),
    "an edge without its twin": (skeleton({"edges": [[j, j + 1] for j in range(16)]}), "has no mirror image"),
    "parts that are no twins": (skeleton({"parts.left_arm": [7]}), "does not exchange the left parts"),
    "hips that are none": (skeleton({"hips": [11, 13]}), "hips 11 and 13 are not each other's"),
    "four dimensions": (skeleton({"dims": 4}), "dims is 4"),
    # networks
    "no network": (network({}, model="BPMTt"), "did you mean BPMT?"),
    "no module": (lambda _: registry.Method("no.such:Net").network(), "cannot be imported"),
    "no class": (lambda _: registry.Method("bpmt_ext.errors:Net").network(), "there is no class"),
    "a name that is taken": (lambda _: registry.add_method("BPMT", registry.METHODS["BPMT"]), "already"),
    "fewer classes": (network({"num_class": 2}), "2 classes for 3 training identities"),
    "no width": (network({"embedding_width": 0}), "embedding_width is 0"),
    "heads that do not divide": (network({"heads": 3}), "BPMT refuses its settings"),
    # plugins
    "no Python": (plugin("", "own.txt"), "is no Python file"), "a module of that name": (
        plugin("", "numpy.py"), "a module 'numpy' already"),
    "a plugin that says why": (plugin("from bpmt_ext.errors import UserError\nraise UserError('not so')"), "not so"),
    "a plugin that fails": (plugin("\n1 / 0"), "line 2: ZeroDivisionError"),
    # partitions
    "no partition": (lambda _: sequencelists.read_partition(None), "dataset_partition is not set"),
    "gone": (lambda folder: sequencelists.read_partition(folder / "a.json"), "does not exist"),
    "gone, but folds": (no_lists_but_folds, "folds/fold*.json do (2): name one, or let bpmt compare take them with"),
    "torn": (lists("{"), "is not a readable JSON file"), "a list": (lists([]), "holds a list"),
    "one list": (lists({"TRAIN_SET": []}), "has no list TEST_SET"),
    "numbers": (lists({"TRAIN_SET": [1], "TEST_SET": []}), "TRAIN_SET must be a list of strings"),
    "on both sides": (lists({"TRAIN_SET": ["a"], "TEST_SET": ["a"]}), "labels both in TRAIN_SET and TEST_SET: 1 (a)"),
    "a list of nothing": (lists(two(TRIAN=[])), "did you mean TRAIN?"), "no test": (
        lists({"TRAIN": []}), "has no list TEST"),
    "sequences in numbers": (lists(two(VAL=[1])), "VAL must be a list of strings"),
    "two steps": (lists(two(VAL=["a/b"])), "a sequence is named label/type/view"),
    "a sequence twice": (lists(two(VAL=["a/1_x/v"])), "1 sequences (a/1_x/v) both in TRAIN and VAL"),
    "a strange class": (lists(two(CLASSES=["a"])), "'b' has sequences but is not among CLASSES"),
    "a share of two": (splits("--held-out", "2"), "--held-out is 2"), "a seed below": (
        splits("--held-out", "0.5", "--seed", "-1"), "the seed -1"),
    "a share of all": (splits("--held-out", "0.99"), "leaves no other"), "one fold": (
        splits("--folds", "1"), "--folds 1 must be between 2 and"),
    "inner of nothing": (splits("--inner"), "--inner needs --folds"), "blocks": (
        splits("--fold-blocks", "--folds", "3"), "no class has 3 training clips"),
    "nothing inside": (lambda _: sequencelists.SequenceSplits(("a",), {"x": lambda place: "TRAIN"}, {}, 2, True).check(
        ["a/1_x/v/v.pkl", "a/2_x/v/v.pkl"]), "outside of a fold there is only"),
    "no official file": (lambda folder: partitions.OfficialLists.read(folder, "Gait3D", probes=True), "no partition"),
    "no probes": (official({"TRAIN_SET": ["a"], "TEST_SET": ["b"]}), "PROBE_SET is not a list of strings"),
    "a label twice": (official({"TRAIN_SET": ["a", "a"], "TEST_SET": ["b"]}, False), "TRAIN_SET lists a twice"),
    "a label of both": (official({"TRAIN_SET": ["a"], "TEST_SET": ["a"]}, False), "a is in TRAIN_SET and TEST_SET"),
    "a strange probe": (official({"TRAIN_SET": ["a"], "TEST_SET": ["b"], "PROBE_SET": ["c-1-1"]}), "no test subject"),
    "of another set": (official({"TRAIN_SET": ["a"], "TEST_SET": ["b"]}, False), "none of them among the labels"),
    "too many folds": (lambda _: partitions.folds_of("ab", 3), "--folds 3 must be between 2 and"),
    # the data
    "no rule": (lambda _: Record("a", "b", "c", ()).camera("x"), "known: type_prefix"), "no root": (
        data({"dataset_root": None}), "dataset_root is not set"),
    "a root that is gone": (data({"dataset_root": "{}/x"}), "no folder"), "an empty root": (
        data(wipe=True), "holds no <label>/<type>/<view>/*.pkl"),
    "a file too many in use": (data({"data_in_use": [False, True]}), "holds 1 file(s)"),
    "a label that is gone": (data(lists={"TRAIN_SET": ["a", "z"], "TEST_SET": ["c"]}), "1 (z) labels of the partition"),
    "a probe that is gone": (data(lists={"TRAIN_SET": ["a"], "TEST_SET": ["c"], "PROBE_SET": ["c-9-v"]}),
                             "entries of PROBE_SET"),
    "two ways to split": (data({"camera_split": True}, {"TRAIN_SET": ["a"], "VAL_SET": ["b"], "TEST_SET": ["c"]}),
                          "does not go with the VAL_SET"),
    "cameras of sequences": (data({"camera_split": True}, {"TRAIN": ["a/1_0/v"], "TEST": []}), "set it to false"),
    "more labels than there are": (data({"train_labels": 99}), "data_cfg.train_labels: 99, but there are"),
    "labels as classes": (data({"train_labels": 1}, {"TRAIN": ["a/1_0/v"], "TEST": []}), "would leave classes out"),
    "all too short": (data({"frame_threshold": 9}), "frame_threshold 9 and min_cameras 1 drop all"),
    "another set's labels": (data({"missing_labels": "warn"}, {"TRAIN_SET": ["x"], "TEST_SET": ["y"]}),
                             "none of the 2 labels"),
    "a pack in a file": (data({"packed": "{}/a.json"}), "data_cfg.packed: "), "a pack of nothing": (
        packing("gone"), "cannot be read"), "a pack of what changes": (packing(), "was changed while it was packed"),
    # galleries
    **{f"gallery: {name}": (gallery(break_it), said) for name, (break_it, said) in g.FAULTS.items()},
    "other things": (lambda folder: ((folder / "x").touch(), Gallery.open(folder)), "is no gallery (it holds x)"),
    "nobody yet": (lambda folder: Gallery.open(folder), "enroll somebody first"),
    "below a file": (lambda folder: ((folder / "x").touch(), g.made(folder / "x/g")), "cannot be made"),
    "no numbers": (gallery(rewritten(np.full((4, *g.SHAPE), np.nan, np.float32))), "not finite"),
    "another shape": (gallery(rewritten(np.zeros((1, 2), np.float32))), "holds F32 [1, 2], expected"),
    "no network's file": (gallery(lambda path: (path / "model/config.yaml").unlink(),
                                  lambda whole: whole.model_file("config.yaml")), "cannot be read"),
    "another network's file": (gallery(lambda path: (path / "model/config.yaml").write_text("x"),
                                       lambda whole: whole.model_file("config.yaml")), "is not the file this gallery"),
    "nobody of that name": (gallery(lambda path: None, lambda whole: whole.remove("zoe")), "is enrolled as 'zoe'"),
    "no place": (lambda folder: files.write_whole(folder / "x/y", b""), "cannot be written"),
    "a lock that is gone": (robbed, "was taken away"), "a lock that is held": (held, "has been changing this gallery"),
    "by cosine": (lambda _: search.load_faiss("euc"), "leave --faiss out"),
    "no faiss": (lambda _: patch.dict("sys.modules", faiss=None)(search.load_faiss)("cos"), "install the extra"),
    "always another": (restless, "is changed faster than it can be measured"),
    "distances in words": (gallery(lambda path: None, lambda whole: (whole.keep_calibration({"distances": "x"},
                                   whole.revision), calibrate.calibration(whole))), "delete this file"),
    # people in files
    "a video": (walks("a.mp4", ""), "is a video"), "nobody seen": (walks("a.json", {"people": []}), "shows nobody"),
    "no frame": (walks("d/1.json", "{"), "holds no usable frame"),
    "13 of 17": (walks("a.json", [{**PERSON, "keypoints": [1.0] * 39}], given=get_skeleton("coco17")), "has 13 joints"),
    "two of three dimensions": (lambda _: poses.mapped(walk("ntu25"), get_skeleton("coco17"), 3), "holds 3D poses"),
    "four numbers": (lambda _: poses.mapped(walk("coco17"), get_skeleton("coco17"), 4), "has 3 numbers per joint"),
    "no hands": (lambda _: poses.mapped(walk("kinect20"), get_skeleton("ntu25"), 3), "have no "),
    "too short": (lambda _: poses.long_enough([walk("coco17")], 15), "the longest track has 3 frames"),
    "no walks": (poses.walk_paths, "holds no walks (nothing); give"),
    "a folder of short walks": (lambda folder: (write_pickle(folder / "a.pkl", np.ones((3, 17, 3), np.float32)),
                                                list(people.Reading().each(SHORT, folder))), "none of its 1 walks has"),
    "no name": (lambda _: people.plain_name("unknown"), "give a name of 1 to 100"),
    "no config": (lambda folder: people.enroll(folder / "g", "a", [], model=None, reading=people.Reading()), "--cfgs"),
    "no track": (lambda _: people._one([walk("coco17")], Path("w"), "9"), "has no track '9'; its tracks: 1 (3"),
    "two people": (lambda _: people._one([walk("coco17")] * 2, Path("w"), None), "shows 2 people"),
    "nobody enrolled": (identified, "nobody is enrolled; enroll"), "nobody held out": (strangers, "holds nobody out"),
    # checkpoints
    "no room": (full, "make room"), "a folder in a file": (
        lambda folder: ((folder / "x").touch(), checkpoint.check_writable(folder / "x")), "cannot be written"),
    "no checkpoint": (lambda folder: checkpoint.load_checkpoint(folder / "a.pt"), "there is no such checkpoint"),
    "damaged": (loaded(b"x" * 99), "not a readable checkpoint"), "code": (loaded({"model": Code()}), "--trust-check"),
    "code that fails": (loaded({"model": Code()}, trust=True), "cannot be opened here even though it is trusted"),
    "a bomb": (zipped, "bytes unfold into 65536"), "no tensors": (loaded({"model": [1]}), "it has no `model` entry"),
    "a tensor that is not there": (loaded({"model": {"x": torch.ones(1).expand(1 << 20)}}), "x is no plain tensor"),
    "no safetensors": (loaded(b"x", name="a.safetensors"), "not a readable .safetensors file"),
    "no last one": (lambda folder: checkpoint.checkpoint_path(folder, "a", "last"), "no checkpoint of a here"),
    "other weights": (lambda _: checkpoint.load_weights(LINEAR, {"x": torch.ones(1)}, Path("a")), "weight missing, x"),
    "other shapes": (lambda _: checkpoint.load_weights(LINEAR, SMALL, Path("a")), "weight is (1, 2) there and (2, 2)"),
    "another stage": (lambda _: stage(weights={"wide": torch.ones(1)}), "the earlier stage was built otherwise"),
}  # fmt: skip


def test_every_refusal_is_reached_and_told(tmp_path: Path) -> None:
    check(CASES, FILES, tmp_path)
