"""Every refusal of samplers, loaders, transforms, fused results and reported runs in; for each what leads to it, and
what is said, out. As test_refusals.py."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from branching import Act, check
from fuzz_commands import GAIT, commands, home
from fuzzing import write_tree
from PIL import Image

from bpmt_ext.data import batches, silhouettes, transforms
from bpmt_ext.data.batches import FrameSelection, inference_loader, train_loader
from bpmt_ext.data.sequences import Reader, Record, SequenceSet
from bpmt_ext.draws import Draws
from bpmt_ext.engine import events, logs
from bpmt_ext.engine.fuse import fuse
from bpmt_ext.report import page
from bpmt_ext.report.runfolder import read_folder, read_folders
from bpmt_ext.skeletons import get_skeleton

FILES = ("data/samplers.py", "data/batches.py", "data/transforms.py", "data/actions.py", "data/augmentation.py",
         "data/silhouette_transforms.py", "data/maps.py", "data/preprocessing.py", "data/coordinates.py",
         "data/silhouettes.py", "engine/fuse.py", "engine/logs.py", "engine/events.py",
         "report/runfolder.py", "report/page.py")  # fmt: skip
SCORES = {"scores": np.ones((2, 3), np.float32), "labels": np.array([0, 2]), "names": np.array(["a", "b"]),
          "classes": np.array(["x", "y", "z"])}  # fmt: skip


class Made(Reader):
    """Sequences that lie nowhere; a name that is a number has that many joints, `late` never comes, `dead` kills."""

    def read(self, path: Path) -> np.ndarray:
        if path.stem == "late":
            time.sleep(4)
        if path.stem == "dead":
            os.kill(os.getpid(), 9)
        return np.ones((3, int(path.stem) if path.stem.isdecimal() else 17, 3), np.float32)


def sequences(*names: str) -> SequenceSet:
    return SequenceSet([Record(f"p{i}", "nm-1", "v", (Path(name),)) for i, name in enumerate(names)], reader=Made())


def training(changes: dict[str, Any], *names: str, size: int = 1, workers: int = 0) -> Act:
    cfg = {"type": "TripletSampler", "batch_size": [2, 1], "sample_type": "fixed_ordered", "frames_num_fixed": 2}
    options = {"seed": 0, "start": 0, "stop": 1, "world_size": size, "num_workers": workers}
    return lambda _: list(train_loader(sequences(*names or ("a", "b")), cfg | changes, None, **options))


def visiting(changes: dict[str, Any], *names: str) -> Act:
    return lambda _: list(inference_loader(sequences(*names), {"batch_size": 2} | changes, None))


def starved(owner: object, name: str, value: object, sequence: str = "a") -> Act:
    """A loader worker, where something of torch's or ours is otherwise."""

    def act(_: Path) -> None:
        with patch.object(owner, name, value):
            list(inference_loader(sequences(sequence), {"batch_size": 1}, None, num_workers=1))

    return act


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def cramped(_: Path) -> None:
    """What happens in a worker, whose faults come from another process, in this one."""
    (batch,) = inference_loader(sequences("a"), {"batch_size": 1}, None)
    with patch.object(torch.Tensor, "share_memory_", failing(RuntimeError("no room"))):
        batches._shared(batch)


def step(kind: str, *, form: str = "coco17", pose: tuple[int, ...] | None = None, **given: Any) -> Act:
    """A transform made, and put to use on a batch of that shape."""

    def act(_: Path) -> None:
        made = transforms.build_transform([{"type": kind, **given}], get_skeleton(form))
        if pose is not None:
            made(torch.zeros(pose), torch.ones(pose[:2], dtype=torch.bool), Draws(torch.arange(pose[0])))

    return act


def made(cfg: Any) -> Act:
    return lambda _: transforms.build_transform(cfg, get_skeleton("coco17"))


def fused(second: dict[str, Any], *, weights: tuple[float, ...] = (), without: str = "") -> Act:
    def act(folder: Path) -> None:
        for name, more in (("a", {}), ("b", second)):
            np.savez(folder / f"{name}.npz", **{k: v for k, v in (SCORES | more).items() if k != without})
        fuse([folder / "a.npz", folder / "b.npz"], weights)

    return act


def reported(file: str, change: Callable[[Any], Any]) -> Act:
    """A run of which one file is another; what its report says of it, as the fault that it is."""

    def act(folder: Path) -> None:
        tree = dict(commands()["report"].trees[0][0])
        tree[f"{GAIT}/{file}"] = change(tree.get(f"{GAIT}/{file}"))
        write_tree(folder, tree)
        faults = read_folder(folder / GAIT, "x").faults
        if faults:
            raise page.UserError("; ".join(faults))

    return act


def pages(words: str, most: int = page.MOST_BYTES) -> Act:
    def act(folder: Path) -> None:
        with patch.object(page, "MOST_BYTES", most):
            page.run([home() / GAIT], folder / words if words else folder)

    return act


def pictures(folder: Path) -> None:
    Image.new("L", (64, 64)).save(folder / "1.png")
    with patch.object(silhouettes, "MAX_FRAMES", 0):
        silhouettes.read_folder(folder)


def trained_twice(folder: Path) -> None:
    with logs.sole(folder, 0.1), logs.sole(folder, 0.1):
        pass


def journal(folder: Path) -> None:
    with logs.Journal(folder, start=0, active=True) as made, patch.object(made, "path", Path("/dev/full")):
        made.write(1, "train", {"loss": 1.0})


def board(folder: Path) -> None:
    with open("/dev/full", "ab", buffering=0) as full, patch.object(events, "RecordWriter") as writer:
        writer.return_value.write.side_effect = full.write
        logs.Journal(folder, start=0, active=True)


P17, MAPS, RANDOM = (2, 3, 17, 3), (1, 2, 2, 64, 44), {"type": "RandomTripletSampler", "batch_size": 4}
CASES: dict[str, tuple[Act, str]] = {
    # samplers and loaders
    "no count": (training({"batch_size": [0, 1]}), "batch_size is 0; give a whole number"),
    "no such type": (training({"repeat": {"bg": 2}}), "repeat.bg: no training sequence has a type that begins so"),
    "a number": (training({"batch_size": 4}), "TripletSampler takes [labels, sequences of each]"),
    "more labels": (training({"batch_size": [3, 1]}), "asks for 3 labels a batch, the training set has 2"),
    "no pair": (training(RANDOM | {"K_max": 1}), "cannot be made of 2 to 2 labels"),
    "more sequences": (training({"type": "CommonSampler", "batch_size": 3}), "asks for 3 sequences"),
    "no sampler": (training({"type": "TripletSampeler"}), "did you mean TripletSampler?"),
    "nobody to train": (lambda _: train_loader(sequences(), {}, None, seed=0, start=0, stop=1), "training set is"),
    "uneven": (training({}, size=3), "which 3 processes cannot share evenly"),
    "another sampler": (visiting({"type": "CommonSampler"}, "a"), "does not visit every sequence once"),
    "nobody to test": (visiting({}), "the set to evaluate is empty"),
    "no frames": (lambda _: FrameSelection("fixed_order"), "did you mean fixed_ordered?"),
    "least and most": (lambda _: FrameSelection("unfixed_ordered", 1, 9, 3), "frames_num_min 9 is above"),
    "two shapes": (visiting({}, "17", "18"), "has (joints, channels) (17, 3), 18 has (18, 3)"),
    "no room to start": (starved(batches.DataLoader, "__iter__", failing(OSError(28, "No space left"))), "be started"),
    "no room for a batch": (cramped, "does not fit into shared memory (no room)"),
    "a worker that dies": (starved(batches, "PATIENCE", 60, "dead"), "a loader worker died"),
    "a worker that hangs": (starved(batches, "PATIENCE", 1, "late"), "gave no batch 0 within 1 seconds"),
    # transforms
    "a name that is taken": (lambda _: transforms.add_transform(transforms.Compose), "there is a transform 'Compose'"),
    "a word for a step": (made(["x"]), "is no entry of the form"), "no such step": (step("Rotate4D"), "is unknown"),
    "no steps": (made("x"), "is no list"), "four views": (step("TwoView", trf_cfg=[{"type": "TwoView"}]), "another"),
    "Compose of more": (step("Compose", trf_cfg=[], x=1), "Compose has no parameter 'x'"),
    "no such parameter": (step("RescaleCenter", centre=1), "has no parameter 'centre'"),
    "after two views": (made([{"type": "TwoView"}, {"type": "JointNoise"}]), "TwoView is followed by JointNoise"),
    "half a frame": (step("TemporalCrop", frames=1.5), "give a whole number"),
    "no unit": (step("DropJoints", unit="x"), "give joint or part"),
    "two angles": (step("Rotate3D", form="ntu25", angles=[1, 2]), "one for each axis"),
    "frames of nothing": (step("CenterOn", frames="x"), "give first or each"),
    "together in words": (step("UnitBox", together="x"), "give true or false"),
    "a move in words": (step("RandomMove", random_r="x"), "a number per coordinate"),
    "half a length": (step("RandomSelectSequence", sequence_length=1.5), "give a whole number of frames"),
    "half a column": (step("BaseSilCuttingTransform", cutting=1.5), "cutting is 1.5"),
    "a cut of poses": (step("BaseSilCuttingTransform", pose=P17), "cuts silhouettes"),
    "all cut": (step("BaseSilCuttingTransform", cutting=32, pose=(1, 2, 64, 64)), "leaves nothing of 64 columns"),
    "one shift": (step("RandomShiftScale", shift=[1]), "shift is [1]"),
    "half a column of maps": (step("SkeletonMaps", cut=1.5), "cut is 1.5"),
    "maps of 3D": (step("SkeletonMaps", form="ntu25"), "draws the 17 joints of COCO"),
    "maps of poses": (step("RandomShiftScale", pose=P17), "put SkeletonMaps before it"),
    "no number": (step("JointNoise", std="x"), "std is 'x'; give a number"),
    "another format": (step("RescaleCenter", form="penn13", pose=P17), "set joint_format to theirs"),
    "no centre": (step("CenterOn", center="knee"), "center is 'knee'; give one of"),
    "no third": (step("Rotate3D"), "needs three coordinates"), "a third": (step("Rotate2D", form="ntu25"), "Rotate3D"),
    "an even number": (step("HipHeading", form="kinect20", smooth=4), "give an odd number: 5"),
    "no divisor": (step("ScaleCoordinates", divisor="x"), "divisor is 'x'"),
    "too many pictures": (pictures, "holds more than 0 frames"),
    # fused results
    "no result": (lambda folder: fuse([folder]), "there are no predictions"), "half a result": (
        fused({}, without="names"), "has no array 'names'"),
    "results of words": (fused({"scores": np.array([["a"] * 3] * 2)}), "do not fit each other"),
    "no weight": (fused({}, weights=(0, 0)), "--weights"), "other classes": (
        fused({"classes": np.array(["x", "y", "w"])}), "has other classes than"),
    "other sequences": (fused({"names": np.array(["a", "c"])}), "2 sequences (b) are not in both"),
    "other labels": (fused({"labels": np.array([1, 2])}), "calls some sequences otherwise"),
    # logs
    "no place": (lambda folder: logs.written_whole(Path("/proc/1/fdinfo/x")).__enter__(), "cannot be written"),
    "two trainings": (trained_twice, "is training here"), "a full disk": (journal, "cannot be written"),
    "a full board": (board, "cannot be written (No space left on device)"),
    # reported runs
    "twice": (lambda folder: read_folders([folder, folder]), "is named twice"),
    "no folder": (lambda folder: read_folders([folder / "x"]), "there is no such folder"),
    "no run": (lambda folder: read_folders([folder]), "is no run: it has no"),
    "no settings": (reported("config.yaml", lambda x: b"{}"), "holds no settings"),
    "figures in words": (reported("results.json", lambda x: x | {"metrics": {"a": "b"}}), "are not all numbers"),
    "probes in words": (reported("results.json", lambda x: x | {"probes": "x"}), "its probes are damaged"),
    "no square": (reported("results.json", lambda x: x | {"matrices": {"a": 1}}), "is no square of numbers"),
    "two lengths": (reported("embeddings.npz", lambda x: x | {"labels": x["labels"][:1]}), "differ in length"),
    "not finite": (reported("embeddings.npz", lambda x: x | {"embeddings": x["embeddings"] * np.nan}), "finite"),
    "no predictions": (reported("predictions.npz", lambda x: SCORES | {"labels": np.array([0, 3])}), "do not fit each"),
    "answers in words": (reported("per_probe.npz", lambda x: x | {"ap": x["label"]}), "are no numbers"),
    "of another test": (reported("per_probe.npz", lambda x: x | {"index": x["index"] + 99}), "belongs to another"),
    "a page nowhere": (pages("x/a.html"), "make it first"), "a page for a folder": (pages(""), "is a folder; give the"),
    "a page too large": (pages("a.html", 9), "has more than 0 MB"),
}  # fmt: skip


def test_every_refusal_is_reached_and_told(tmp_path: Path) -> None:
    check(CASES, FILES, tmp_path)
