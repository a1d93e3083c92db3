"""Every refusal of what is done with trained networks - drawn, embedded, exported, located, kept - in; for each what
leads to it, and what is said, out. As test_refusals.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import tiny
import torch
import yaml
from branching import Act, check
from fuzz_commands import GAIT, home, inside
from safetensors.torch import save_file
from torch import Tensor, nn

from bpmt_ext.config import Settings, load_settings, settings_from
from bpmt_ext.data.sequences import SequenceSet, Splits
from bpmt_ext.engine import attention, clips, draw, embed, export, graph, landmarks, zoo
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.parts import Run
from bpmt_ext.engine.stages import build_run
from bpmt_ext.identify.poses import Walk
from bpmt_ext.report.sheets import Look
from bpmt_ext.skeletons import get_skeleton

FILES = ("engine/attention.py", "engine/clips.py", "engine/draw.py", "engine/embed.py", "engine/export.py",
         "engine/graph.py", "engine/landmarks.py", "engine/zoo.py")  # fmt: skip
OUTPUT, ALONE = Path("output"), World(0, 1, torch.device("cpu"))


def asked(call: Callable[[Settings], object], *opts: str, name: str = "net") -> Act:
    """What is asked of the settings of a trained network, in the folder where it is."""

    def act(folder: Path) -> None:
        for path in home().iterdir():
            (folder / path.name).symlink_to(path)
        with inside(folder):
            call(load_settings(f"{name}.yaml", opts))

    return act


def model(settings: Settings) -> embed.Model:
    return embed.load_model(settings, OUTPUT)


def walk(name: str) -> Walk:
    joints = get_skeleton(name)
    return Walk(Path("w"), "1", np.ones((3, joints.num_joints, 3), np.float32), np.arange(3), joints)


def diverged(settings: Settings) -> embed.Model:
    made = model(settings)
    for parameter in made.run.network.parameters():
        parameter.data.fill_(torch.nan)
    return made


def started(settings: Settings) -> Run:
    """The network of these settings as it starts."""
    nobody = SequenceSet([])
    return build_run(settings, Splits(nobody, nobody, nobody, None, {}), ALONE, Path("x"), classes=3)


def drawn(show: str) -> Act:
    return asked(lambda settings: draw.run(settings, [], Look(Path("a.png")), show=show, output=OUTPUT))


def written(out: str, **keys: Any) -> Act:
    return asked(lambda settings: export.run(settings, Path(out), output=OUTPUT, **keys))


def misread(_: Path) -> None:
    """A graph of a network whose transforms do not make what it reads."""
    settings = settings_from({**tiny.base(), "loss_cfg": {"type": "TripletLoss", "margin": 1.0},
                              "model_cfg": {"model": "GaitTR", "in_channels": [10, 32]}})  # fmt: skip
    run = started(settings)
    export.onnx_file(embed.Model(run, settings, run.network.state_dict(), 0))


def worded(folder: Path) -> None:
    save_file({"x": torch.ones(1)}, folder / "a.safetensors", {"settings": "3"})
    export.read_network(folder / "a.safetensors")


def untraceable(settings: Settings) -> None:
    with patch.object(torch.export, "export", side_effect=RuntimeError("no such operator\nmore")):
        graph.to_onnx(graph.deployed(started(settings)), (np.ones((1, 3, 17, 3), np.float32), np.array([3])), "pose")


def distant(_: Path) -> None:
    with patch.object(graph, "difference", return_value=1.0):
        graph.check(nn.Identity(), None, {"a batch": None})  # type: ignore[arg-type,dict-item]


def bare(_: Path) -> None:
    """What exports, without what graphs need."""
    with patch.object(export, "find_spec", return_value=None):
        export.check_extra()


class Locating(nn.Module):
    """So many landmarks, all of them in one place."""

    def __init__(self, count: int, place: float = 0.0) -> None:
        super().__init__()
        self.count, self.place = count, place

    def located(self, pose: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((*mask.shape, self.count, 2), self.place), torch.ones(*mask.shape, self.count)


def located(network: nn.Module) -> Act:
    def call(settings: Settings) -> None:
        run = replace(started(settings), network=network)
        walks = embed.walk_set(SimpleNamespace(), [walk("coco17")])  # type: ignore[arg-type]
        list(landmarks.locate(run, walks, "x"))

    return asked(call)


def into_itself(settings: Settings) -> None:
    with patch.object(landmarks, "trained"):
        landmarks.run(settings, output=OUTPUT, out=Path("data/x"))


def kept(change: Callable[[Path], object]) -> Act:
    """The run of a folder after a change to it."""

    def act(folder: Path) -> None:
        shutil.copytree(home() / GAIT, folder / "run")
        (folder / "run/config.yaml").write_text((home() / "net.yaml").read_text())
        change(folder / "run")
        zoo.find_runs([folder / "run"])

    return act


def results(**changes: Any) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        values = json.loads((run / "results.json").read_text()) | changes
        (run / "results.json").write_text(json.dumps({key: x for key, x in values.items() if x is not None}))

    return change


def renamed(run: Path) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["trainer_cfg"]["save_name"] = "other"
    (run / "config.yaml").write_text(yaml.safe_dump(values))


def card(change: Callable[[Path, dict[str, Any]], object]) -> Act:
    """A card of weights, after a change to what it says or to the folder."""

    def act(folder: Path) -> None:
        (folder / "a.safetensors").write_bytes(b"x")
        values = {"format": 1, "name": "a", "network": "BPMT", "arguments": {}, "skeleton": "coco17", "transform": [],
                  "weights": {"file": "a.safetensors", "sha256": "0"}}  # fmt: skip
        change(folder, values)
        (folder / "a.json").write_text(json.dumps(values))
        zoo.load_card(folder / "a.json")

    return act


def in_repository(folder: Path) -> None:
    (folder / ".git").mkdir()
    zoo.export(None, {"name": "a"}, folder / "weights")  # type: ignore[arg-type]


NAMES = "data_cfg.dataset_partition=gone.json"
CASES: dict[str, tuple[Act, str]] = {
    # drawings
    "no attention": (lambda _: attention.attention(nn.Identity(), torch.ones(1, 2, 3, 2), torch.ones(1, 2).bool()),
                     "Identity has no attention between parts or frames to show; BPMT, BPMTAction and TLCA have"),
    "parts of poses": (drawn("parts"), "--show parts: BPMT reads poses; to show there is attention, activation"),
    "no activation": (drawn("activation"), "--show activation: BPMT has none; GaitGraph2 has it"),
    # embeddings and classes
    "no arrays": (lambda _: clips.embed_files(None, [], Path("a.txt"), reading=None),  # type: ignore[arg-type]
                  "-o a.txt: give a file that ends in .npz"),
    "silhouettes": (asked(model, "data_cfg.modality=silhouette"), "BPMT takes silhouettes; give the config of"),
    "not finite": (asked(lambda settings: embed.embed_walks(diverged(settings), [walk("coco17")])),
                   "the network gives numbers that are not finite; take another checkpoint"),
    "scores": (asked(lambda settings: embed.predict_walks(diverged(settings), [walk("ntu25")], "abc"), name="act"),
               "the network gives scores that are not finite; take another checkpoint"),
    "no actions": (asked(lambda settings: embed.class_names(model(settings))), "BPMT tells people apart and names no"),
    "no names": (asked(lambda settings: embed.class_names(model(settings), Path("gone")), name="act"),
                 "--classes gone: cannot be read (No such file or directory); give a text file, a class a line"),
    "no lists": (asked(lambda settings: embed.class_names(model(settings)), NAMES, name="act"),
                 "is not there to name the classes; give --classes FILE"),
    "other names": (asked(lambda settings: embed.class_names(model(settings), Path("data.json")), name="act"),
                    "classes, the network tells 3 apart; give the list it was trained with"),
    # exported files
    "no format": (written("a.bin"), "-o a.bin: ends neither in .onnx nor in .safetensors; say which with --format"),
    "a folder": (written("data", form="onnx"), "-o data: is a folder; name a file in a folder that is there"),
    "no packages": (bare, "ONNX files need onnx, onnxscript, onnxruntime; install the extra: pip install"),
    "another input": (misread, "evaluator_cfg.transform: GaitTR cannot read what they make: "),
    "no file": (lambda folder: export.read_network(folder / "a.safetensors"), "is no readable .safetensors file"),
    "settings in words": (worded, "is no readable .safetensors file of bpmt export (ValueError: its settings are no"),
    "pretraining": (asked(lambda settings: graph.deployed(replace(started(settings), method=SimpleNamespace(
        pretraining=True)))), "BPMT reconstructs and has no embedding; export the stage after it"),
    "random": (asked(lambda settings: graph.deployed(started(settings)), "evaluator_cfg.transform=[{type: JointNoise, "
                     "std: 1}]"), "evaluator_cfg.transform: draws random numbers; take these steps out"),
    "no graph": (asked(untraceable), "BPMT cannot be written as an ONNX graph (no such operator); its weights can"),
    "another graph": (distant, "the graph is 1.0e+00 of the embedding's scale away from the network on a batch, more"),
    # landmarks
    "into the silhouettes": (asked(into_itself), "--output data/x: lies within the silhouettes, "),
    "no landmarks": (asked(lambda settings: landmarks.run(settings, output=OUTPUT, out=Path("x"))),
                     "model_cfg.model: BPMT finds no landmarks; name the config of a network that does"),
    "20 landmarks": (located(Locating(20)), "the network has 20 landmarks, there is a joint format for 25; train one"),
    "lost landmarks": (located(Locating(25, torch.nan)), "the network gives landmarks that are not finite"),
    # kept networks
    "no runs": (lambda folder: zoo.find_runs([folder / "x"]), "x: there is no such folder; name one that holds runs"),
    "no run": (lambda folder: zoo.find_runs([folder]), "holds no trained run (config.yaml beside checkpoints/); train"),
    "no settings": (kept(lambda run: (run / "config.yaml").write_text("")), "config.yaml: holds no settings; name the"),
    "half of results": (kept(results(metrics=None)), "results.json: says nothing of metrics; test the network again"),
    "weights in words": (kept(results(weights=[1])), "results.json: says nothing of weights; test the network again"),
    "other weights": (kept(results(weights="0")), "its results are of weights that are in none of its checkpoints"),
    "another name": (kept(renamed), "checkpoints: no checkpoint of other here, as config.yaml names it; train"),
    "in a repository": (in_repository, "write weights to a folder outside of it"),
    "no card": (lambda folder: zoo.load_card(folder / "a.json"), "a.json: there is no such card; name the .json that"),
    "another card": (card(lambda _, values: values.update(format=9)), "it is of format 9, this reads 1; export the"),
    "no weights": (card(lambda folder, _: (folder / "a.safetensors").unlink()), "the weights of a.json are missing"),
    "weights of another": (card(lambda *_: None), "is not the file that a.json was written for (other sha256); take"),
}  # fmt: skip


def test_every_refusal_is_reached_and_told(tmp_path: Path) -> None:
    check(CASES, FILES, tmp_path)
