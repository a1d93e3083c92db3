"""Nothing in; the commands of `bpmt` and the hosts' launcher with small good files, words and options, out."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tiny
import torch
import yaml
from fuzz_entries import tree_of
from fuzzing import Entry, Tree
from people import FORMATS
from standin import write_checkout
from test_action_datasets import one_body

from bpmt_ext.cli import host_main, main
from bpmt_ext.config import load_settings
from bpmt_ext.data.sequences import SequenceSet, Splits
from bpmt_ext.engine import cell
from bpmt_ext.engine.checkpoint import save_checkpoint
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.stages import build_run

GAIT, ACTIONS = "output/walkers/BPMT/net", "output/walkers/BPMTAction/act"
CONFIG = {"--cfgs": ("net.yaml", "act.yaml", "gone.yaml", "configs/default.yaml"), "--iter": ("1", "0", "7"),
          "--plugin": ("gone.py", "net.yaml"), "--trust-checkpoint": (),
          "--opts": ("trainer_cfg.total_iter=1", "model_cfg.width=8", "data_cfg.validation=0", "x", "a.b.c=1",
                     "evaluator_cfg.restore_hint=last", "trainer_cfg.seed=-1", "t1.trainer_cfg.seed=0", "data_cfg=[1]",
                     "data_cfg.joint_format=penn13", "loss_cfg.0.margin=nan", "optimizer_cfg.lr=.inf",
                     "model_cfg.stages={t1: net.yaml}", "evaluator_cfg.metric=cos")}  # fmt: skip
POSES = {"--joint-format": ("coco17", "penn13", "x"), "--min-frames": ("1", "2", "30", "0")}


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[io.StringIO]:
    before, said = os.getcwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield said
    finally:
        os.chdir(before)


def _config(model: dict[str, Any], **data: Any) -> dict[str, Any]:
    values = tiny.base(total_iter=1, val_iter=0, save_iter=1)
    values["data_cfg"] |= {"validation": 0.0, **data}
    values["evaluator_cfg"]["restore_hint"] = "last"
    values["model_cfg"] = {**tiny.SMALL, "width": 8, "feedforward": 8, **model}
    values["trainer_cfg"]["sampler"]["batch_size"] = [2, 1]
    return values


def _untrained(name: str, folder: Path) -> None:
    """A checkpoint of the network of <name>.yaml as it starts."""
    settings = load_settings(f"{name}.yaml")
    nobody = Splits(*(SequenceSet([]) for _ in range(3)), probes=None, dropped={})
    torch.manual_seed(0)
    run = build_run(settings, nobody, World(0, 1, torch.device("cpu")), folder, classes=3)
    save_checkpoint(folder / f"checkpoints/{name}-00001.pt", {"model": run.network.state_dict(), "iteration": 1})


@functools.cache
def home() -> Path:
    """A folder with two small networks, their runs, a gallery and a comparison; it is there until this process ends."""
    keeper = tempfile.TemporaryDirectory()
    folder = Path(keeper.name)
    home.keeper = keeper  # type: ignore[attr-defined]
    with inside(folder):
        gait = _config({"model": "BPMT", "embedding_width": 8})
        gait["trainer_cfg"]["save_name"] = "net"
        Path("net.yaml").write_text(yaml.safe_dump(gait))
        act = _config({"model": "BPMTAction"}, joint_format="ntu25", dataset_partition="actions.json")
        act["evaluator_cfg"] |= {"eval_func": "evaluate_actions", "transform": [], "same_camera": "keep"}
        act["loss_cfg"] = act["loss_cfg"][1]
        act["trainer_cfg"] |= {"transform": [], "save_name": "act"}
        Path("act.yaml").write_text(yaml.safe_dump(act))
        lists = {"CLASSES": ["bow", "jump", "wave"], "TRAIN": [], "TEST": []}
        Path("actions.json").write_text(json.dumps(lists))
        tiny.write_data(Path("data"), train=2, test=2, cameras=2, frames=(2, 3))
        for name, place in (("net", GAIT), ("act", ACTIONS)):
            _untrained(name, folder / place)
        assert main(["test", "--cfgs", "net.yaml"]) == 0
        for person in ("anna", "bert"):
            pose = np.random.default_rng(len(person)).uniform(0, 90, (3, 17, 3)).astype(np.float32)
            np.savez(f"{person}.npz", pose=pose + (person == "bert"))
            words = ["enroll", "--gallery", "g", "--name", person, "--cfgs", "net.yaml", "--min-frames", "1"]
            assert main([*words, f"{person}.npz"]) == 0
        assert main(["identify", "--gallery", "g", "--min-frames", "1", "anna.npz"]) == 0  # measures the calibration
        scores = {"scores": np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32), "labels": np.array([0, 2]),
                  "names": np.array(["bow-a-b", "wave-a-b"]), "classes": np.array(["bow", "jump", "wave"])}  # fmt: skip
        for name in ("one", "two"):
            Path(name).mkdir()
            np.savez(f"{name}/predictions.npz", **scores)

        def here(place: Path, job: dict[str, Any], threads: int, descriptor: int | None) -> str:
            place.mkdir(parents=True, exist_ok=True)
            full = {**job, "folder": str(place), "result": str(place / "result.json"), "threads": threads}
            (place / "job.json").write_text(json.dumps(full))
            return "input" if cell.main([str(place / "job.json")]) else "done"

        with patch("bpmt_ext.engine.compare.run_job", here):
            assert main("compare --cfgs net.yaml@untrained --yardsticks single_frame --out compared".split()) == 0
    return folder


def pose_files() -> list[tuple[Tree, str]]:
    """Files of poses in every format, and the name of each."""
    pose = np.random.default_rng(3).uniform(1, 90, (3, 17, 3)).astype(np.float32).round(2)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for make in FORMATS.values():
            path = make(Path(folder), pose)
            name = path.relative_to(folder).as_posix()
            found.append((tree_of(Path(folder), lambda one, name=name: one.startswith(name)), name))
    rows = [",".join([f"x/walk/{t}.jpg", *map(str, frame.ravel().tolist())]) for t, frame in enumerate(pose)]
    ntu = np.random.default_rng(4).uniform(0, 1, (3, 25, 3)).round(3)
    penn = {"x": pose[:, :13, 0], "y": pose[:, :13, 1], "visibility": np.ones((3, 13))}
    coco = {"images": [{"id": t, "file_name": f"{t}.jpg"} for t in range(3)],
            "annotations": [{"image_id": t, "keypoints": f.ravel().tolist()} for t, f in enumerate(pose)]}  # fmt: skip
    ucla = {"file_name": "a", "skeletons": ntu[:, :20].tolist(), "label": 1}
    for name, content in (("w.csv", "\n".join(rows)), ("w.npy", pose), ("w.skeleton", one_body(ntu)), ("w.mat", penn),
                          ("k.json", coco), ("u.json", ucla), ("m.npz", {"a": pose, "b": pose[:2], "confidence":
                           pose[..., 2]})):  # fmt: skip
        found.append(({name: content}, name))
    return found


def _only(tree: Tree, *starts: str) -> Tree:
    return {name: content for name, content in tree.items() if name.startswith(starts)}


def _loaded(tree: Tree) -> Tree:
    """The same with YAML files as values."""
    return {name: yaml.safe_load(x) if name.endswith(".yaml") else x for name, x in tree.items()}


def command(name: str, *, without: str | None = None) -> Callable[[list[str]], int | None]:
    """The main of a command; `without`: what it calls that takes minutes is left out."""

    def run(words: list[str]) -> int | None:
        if without is None:
            return main([name, *words])
        with patch(without, lambda *args, **keys: 0):
            return main([name, *words])

    return run


@functools.cache
def commands() -> dict[str, Entry]:
    """The commands by their names, and the launcher."""
    at_home = home()
    whole = _loaded(tree_of(at_home, lambda name: not name.endswith((".png", "tfevents"))))
    config = _only(whole, "net.yaml", "data", "actions.json")
    run_files = _only(whole, GAIT)
    tested = config | _only(run_files, f"{GAIT}/checkpoints")
    gallery, poses = _only(whole, "g/"), pose_files()
    linked = at_home / "linked"  # what the cases that only read find there
    linked.mkdir(exist_ok=True)
    for name in ("output", "net.yaml", "act.yaml", "data", "data.json", "actions.json"):
        (linked / name).symlink_to(at_home / name)
    (linked / "g0").symlink_to(at_home / "g")
    mine = {"anna.npz": whole["anna.npz"]}
    checkouts = []
    for host in ("fastposegait", "opengait"):
        with tempfile.TemporaryDirectory() as folder, inside(Path(folder)):
            write_checkout(Path("host"), host, repository=False)
            checkouts.append(tree_of(Path(folder)))
            assert main(["link", "host", "--opts", "data_cfg.dataset_root=x"]) == 0
            checkouts.append(tree_of(Path(folder), lambda name: name.startswith("host") and ".pyc" not in name))
    act = {"act.yaml": whole["act.yaml"]}
    clip = [one for one in poses if one[1] in ("w.skeleton", "w.npy", "a.npz")]

    def posed(*words: str) -> tuple[tuple[Tree, list[str]], ...]:
        return tuple((tree, [*words, name]) for tree, name in poses)

    made: list[tuple[str, Any, Any, dict[str, tuple[str, ...]], int, Path | None]] = [
        ("demo", command("demo", without="bpmt_ext.engine.demo.run"), [({}, ["--seed", "1"])],
         {"--seed": ("1", "-1"), "--output": ("out",)}, 100, None),
        ("train", command("train", without="bpmt_ext.engine.run.train_config"), [(config, ["--cfgs", "net.yaml"])],
         CONFIG, 60, None),
        ("test", command("test"), [(tested, ["--cfgs", "net.yaml"])], CONFIG, 40, None),
        ("check-data", command("check-data"), [(config, ["--cfgs", "net.yaml"])], CONFIG, 50, None),
        ("main.py", host_main, [(config, ["--cfgs", "net.yaml", "--phase", "train", "--opts",
                                          "trainer_cfg.total_iter=1"])], CONFIG | {"--phase": ("train", "test", "x")},
         10, None),
        ("landmarks", command("landmarks"), [(config, ["--cfgs", "net.yaml", "--output", "out"])], CONFIG, 30, None),
        ("compare", command("compare", without="bpmt_ext.engine.compare.run_job"),
         [(_only(whole, "compared/"), ["--report", "--out", "compared"]),
          (config | {"axes.yaml": {"model_cfg.width": [8, 16]}}, ["--cfgs", "net.yaml", "--axes", "axes.yaml", "--out",
                                                                  "out", "--iterations", "1"])],
         {"--format": ("markdown", "text", "csv", "latex", "json", "x"), "--folds": ("2", "0"), "--seeds": ("0", "-1"),
          "--minutes": ("0.1", "nan", "0"), "--test": ("a=data", "=x", "a/b=c"), "--split": ("t1=0.4", "t1=nan"),
          "--reference": ("first", "x"), "--yardsticks": ("single_frame", "x"), "--report": ()}, 25, None),
        ("fuse", command("fuse"), [(_only(whole, "one", "two"), ["one", "two/predictions.npz"])],
         {"--weights": ("1", "0", "-1"), "--out": ("out", "one")}, 60, None),
        ("link", command("link"), [(tree, ["host"]) for tree in checkouts],
         {"--cfgs": ("configs/gaittr/gaittr.yaml", "gone.yaml"), "--gpus": ("1", "0", "9"), "--opts": CONFIG["--opts"]},
         25, None),
        ("unlink", command("unlink"), [(tree, ["host"]) for tree in checkouts], {"--force": ()}, 60, None),
        ("doctor", command("doctor"), [(tree, ["host"]) for tree in checkouts], {}, 40, None),
        ("enroll", command("enroll"), [(gallery | mine, ["--gallery", "g", "--name", "carl", "anna.npz", "--min-frames",
                                                         "1"]),
                                       *((tree, ["--gallery", "g1", "--name", "carl", "--cfgs", "net.yaml",
                                                 "--min-frames", "1", name]) for tree, name in poses[:3])],
         POSES | {"--name": ("carl", "unknown", ""), "--track": ("1", "x"), "--iter": ("1", "9")}, 30, linked),
        ("identify", command("identify"), [(gallery | mine, ["--gallery", "g", "--min-frames", "1", "anna.npz"]),
                                           *posed("--gallery", "g0", "--min-frames", "1")],
         POSES | {"--far": ("0.5", "0", "nan"), "--top": ("1", "0"), "--json": ("-", "out/a.json", "data"),
                  "--faiss": (), "--calibrate": (), "--opts": ("data_cfg.validation=0", "x=1")}, 60, linked),
        ("gallery", command("gallery"), [(gallery, ["--gallery", "g"])],
         {"--remove": ("anna", "nobody", ""), "--gallery": ("g", "gone"), "--opts": ("x=1",)}, 60, linked),
        ("embed", command("embed"), posed("--cfgs", "net.yaml", "-o", "out.npz", "--min-frames", "1"),
         POSES | {"-o": ("a.npz", "a.txt")}, 40, linked),
        ("predict", command("predict"), [(tree | act, ["--cfgs", "act.yaml", "--min-frames", "1", name])
                                         for tree, name in clip],
         POSES | {"--window": ("2", "0", "-1"), "--stride": ("1", "0"), "--top": ("1", "0"), "--json": ("-",),
                  "--classes": ("gone", "act.yaml")}, 30, linked),
        ("draw", command("draw"), posed("-o", "out.png", "--count", "1", "--height", "40"),
         POSES | {"--frames": ("0:2", "7", "::0", "1:0"), "--fps": ("nan", "5"), "--bodies": ("1", "2", "9"),
                  "--view": ("side", "turn"), "--camera": ("still", "follow"), "--trail": ("1", "-1"),
                  "--sequence": ("a", "walk", "x"), "--side-by-side": (), "--cfgs": ("net.yaml",),
                  "--show": ("attention", "x"), "-o": ("out.png", "out.xyz", "out.gif")}, 40, linked),
        ("export", command("export"), [({"net.yaml": whole["net.yaml"]}, ["--cfgs", "net.yaml", "-o",
                                                                          "out.safetensors"])],
         CONFIG | {"--format": ("safetensors", "x"), "--classes": ("gone",)}, 30, linked),
        ("report", command("report"), [(run_files, [GAIT])], {"-o": ("out.html", "data")}, 20, linked),
    ]  # fmt: skip
    return {name: Entry(name, run, "bpmt", tuple(trees), options, short, where)
            for name, run, trees, options, short, where in made}

