"""Checkpoints and numbers of the engine and of the real hosts in; that they go on in, and agree with, each other out.

The host of FASTPOSEGAIT_HOME or OPENGAIT_HOME is copied and run on a CPU; without these variables only what needs no
host is tested: files with a host's four keys, and files that ask for more than plain data.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import walking
from tiny import base, checkpoint, equal, folder_of, run, write_data

from bpmt_ext.config import load_settings
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.engine.checkpoint import load_checkpoint
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.run import main as run_main
from bpmt_ext.engine.stages import train_config
from bpmt_ext.engine.testing import test_config as run_test
from bpmt_ext.errors import UserError
from bpmt_ext.hosts.checkouts import HOSTS
from bpmt_ext.hosts.configs import host_config

ROOT = Path(__file__).resolve().parents[1]
HOMES = {"fastposegait": "FASTPOSEGAIT_HOME", "opengait": "OPENGAIT_HOME"}
ALONE = World(0, 1, torch.device("cpu"))
STEPS, HALF = 6, 4
real = pytest.mark.parametrize(
    "package",
    [pytest.param(package, marks=pytest.mark.skipif(not os.environ.get(home), reason=f"set {home} to a checkout"))
     for package, home in HOMES.items()],
)  # fmt: skip


def repeatable(folder: Path) -> None:
    """A data set and `net.yaml` whose training leaves nothing to chance but the order within a batch: every batch holds
    all sequences, whole; no noise, no dropout. Momentum and a schedule carry over from step to step."""
    partition = write_data(folder / "data", frames=(8, 8))
    for k, label in enumerate(json.loads(partition.read_text())["TEST_SET"]):
        for i, file in enumerate(sorted((folder / "data" / label).rglob("*.pkl"))):
            write_pickle(file, 40 * walking(1, 9 + 4 * i + k, seed=50 + 10 * k + i)[0].numpy() + 100)
    trainer = {"total_iter": STEPS, "save_iter": 2, "log_iter": 2, "val_iter": 0, "restore_hint": 0, "save_name": "net"}
    config = base(**trainer)
    sampler = {"type": "TripletSampler", "batch_size": [6, 3], "sample_type": "fixed_ordered", "frames_num_fixed": 8}
    config["trainer_cfg"] |= {"sampler": sampler, "transform": config["evaluator_cfg"]["transform"]}
    config["model_cfg"] = config["model_cfg"] | {"model": "BPMT", "embedding_width": 8, "dropout": 0.0}
    config["data_cfg"] |= {"validation": 0, "dataset_root": str(folder / "data"), "dataset_partition": str(partition)}
    config["evaluator_cfg"] |= {"restore_hint": "last", "save_name": "net"}
    config["optimizer_cfg"] = {"solver": "SGD", "lr": 0.01, "momentum": 0.9}
    config["scheduler_cfg"] = {"scheduler": "OneCycleLR", "max_lr": 0.02}
    (folder / "net.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That folder after a training of STEPS iterations, with checkpoints on the way."""
    folder = tmp_path_factory.mktemp("trained")
    repeatable(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("net") == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working directory; the data stay where they are."""
    shutil.copytree(trained / "output", tmp_path / "output")
    shutil.copy(trained / "net.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(folder: Path, state: dict[str, Any], iteration: int, name: str = "net") -> Path:
    """Write a state as the checkpoint of that iteration of a run folder, as a host would."""
    path = folder / f"checkpoints/{name}-{iteration:05d}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def four(state: dict[str, Any]) -> dict[str, Any]:
    """What a host keeps of a checkpoint."""
    return {key: state[key] for key in ("model", "optimizer", "scheduler", "iteration")}


def assert_same_training(theirs: dict[str, Any], ours: dict[str, Any], start: dict[str, Any]) -> float:
    """Weights, momentum and schedule after the same steps: apart by rounding only, against how far they moved."""
    weights = [key for key, value in ours["model"].items() if value.is_floating_point()]
    assert theirs["model"].keys() == ours["model"].keys()
    moved = max(float((ours["model"][key] - start["model"][key]).abs().max()) for key in weights)
    apart = max(float((ours["model"][key] - theirs["model"][key]).abs().max()) for key in weights)
    assert moved > 1e-3 and apart < 1e-3 * moved
    a, b = (state["optimizer"]["state"] for state in (theirs, ours))
    assert a.keys() == b.keys()
    for k in b:
        x, y = (side[k]["momentum_buffer"] for side in (a, b))
        assert float((x - y).abs().max()) < 1e-3 * max(float(y.abs().max()), 1e-2)
    assert theirs["scheduler"]["last_epoch"] == ours["scheduler"]["last_epoch"]
    assert [g["lr"] for g in theirs["optimizer"]["param_groups"]] == pytest.approx(
        [g["lr"] for g in ours["optimizer"]["param_groups"]])  # fmt: skip
    return apart / moved


# Without a host -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_with_a_hosts_four_keys_continues(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, start = checkpoint("net", f"{STEPS:05d}"), checkpoint("net", f"{HALF:05d}")
    other = here / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    shutil.copy(here / "net.yaml", "net.yaml")
    path = put(folder_of("net"), four(start), HALF)
    assert run("net", more=("--iter", str(HALF))) == 0  # by iteration
    assert equal(four(checkpoint("net", f"{STEPS:05d}")), four(whole))
    left = STEPS - HALF
    assert run("net", f"trainer_cfg.restore_hint={path.absolute()}", "trainer_cfg.save_name=by_path",
               f"trainer_cfg.total_iter={left}") == 0  # fmt: skip
    assert_same_training(checkpoint("by_path", f"{left:05d}"), whole, start)
    anew = ("trainer_cfg.optimizer_reset=true", "trainer_cfg.save_name=anew")
    assert run("net", f"trainer_cfg.restore_hint={path.absolute()}", f"trainer_cfg.total_iter={left}", *anew) == 0
    with pytest.raises(AssertionError):  # the comparison sees a lost momentum
        assert_same_training(checkpoint("anew", f"{left:05d}"), whole, start)


def test_a_schedule_that_is_too_short_is_told_before_training(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / folder_of("net") / f"checkpoints/net-{HALF:05d}.pt"
    opts = (f"trainer_cfg.restore_hint={path}", "trainer_cfg.save_name=other")
    assert run("net", *opts) == 2
    assert f"its schedule has {STEPS - HALF} of {STEPS} iterations left" in capsys.readouterr().err
    assert run("net", *opts, "trainer_cfg.scheduler_reset=true") == 0


def test_weights_of_a_hosts_losses_are_left_out(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(1), "loss_aggregator.losses.a.w": torch.ones(2)}}, tmp_path / "a.pt")
    assert equal(load_checkpoint(tmp_path / "a.pt"), {"model": {"w": torch.ones(1)}})


class Foreign:
    """An object that no reader of plain data knows."""

    def __init__(self) -> None:
        self.kept = 1


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_asks_for_more_than_plain_data_needs_trust(tmp_path: Path, zipped: bool) -> None:
    path, weights = tmp_path / "a.pt", {"w": torch.ones(2)}
    kept = {"best": np.float64(1.5), "args": Namespace(lr=0.1), "steps": [1, None, (2.5, True, "x")], "none": None}
    state = {"model": weights, "scheduler": kept}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    needed = ["argparse.Namespace", "multiarray.scalar"]  # of a file of the old kind only the first can be told
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    said = str(caught.value)
    assert str(path) in said and "--trust-checkpoint" in said
    assert (all if zipped else any)(name in said for name in needed)
    found = load_checkpoint(path, trust=True)
    assert equal(found["model"], weights)  # and of the rest what is plain, so that it can be saved again
    assert equal(found["scheduler"], {"best": 1.5, "steps": [1, None, (2.5, True, "x")], "none": None})


def test_what_trust_does_not_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"no checkpoint at all")
    with pytest.raises(UserError, match="not a readable checkpoint") as caught:
        load_checkpoint(path, trust=True)
    assert "--trust-checkpoint" not in str(caught.value)
    torch.save({"model": Foreign()}, path)
    with pytest.raises(UserError, match="no `model` entry"):
        load_checkpoint(path, trust=True)
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(UserError, match="no `model` entry"):
        load_checkpoint(path, trust=True)
    gone = ModuleType("gone")
    gone.Lost = type("Lost", (), {"__module__": "gone"})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gone", gone)
        torch.save({"model": {}, "x": gone.Lost()}, path)
    with pytest.raises(UserError, match="needs gone.Lost"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="cannot be opened here even though it is trusted.*gone"):
        load_checkpoint(path, trust=True)


def test_trust_reaches_every_checkpoint_from_elsewhere(here: Path) -> None:
    """A schedule as some years ago: its function stands in the file."""
    start = four(checkpoint("net", f"{HALF:05d}"))
    start["scheduler"] = {**start["scheduler"], "anneal_func": torch.optim.lr_scheduler.OneCycleLR._annealing_cos}
    path = put(here / "old", start, HALF)
    root, left = here, STEPS - HALF
    opts = [f"trainer_cfg.restore_hint={path}", f"trainer_cfg.total_iter={left}", "trainer_cfg.save_name=trusting"]
    settings = load_settings(here / "net.yaml", opts, here)
    with pytest.raises(UserError, match="getattr.*--trust-checkpoint"):
        train_config(settings, ALONE, here / "output", opts, root)
    assert run_main(settings, phase="train", output=here / "output", opts=opts, root=root, trust=True) == 0
    assert_same_training(checkpoint("trusting", f"{left:05d}"), checkpoint("net", f"{STEPS:05d}"), start)
    tested = load_settings(here / "net.yaml", [f"evaluator_cfg.restore_hint={path}"], here)
    with pytest.raises(UserError, match="--trust-checkpoint"):
        run_test(tested, ALONE, here / "output")
    assert run_main(tested, phase="test", output=here / "output", root=root, trust=True) == 0


def test_trust_reaches_an_earlier_stage(here: Path) -> None:
    path = here / "stage.pt"
    torch.save({"model": checkpoint("net", f"{STEPS:05d}")["model"], "args": Namespace()}, path)
    opts = ["trainer_cfg.save_name=after", f"model_cfg.stages={{t1: {path}, t2: {path}}}", "trainer_cfg.total_iter=1"]
    settings = load_settings(here / "net.yaml", opts, here)
    with pytest.raises(UserError, match="argparse.Namespace.*--trust-checkpoint"):
        train_config(settings, ALONE, here / "output", opts, here)
    train_config(settings, ALONE, here / "output", opts, here, trust=True)


# In the hosts themselves --------------------------------------------------------------------------------------------


@real
def test_the_table_of_figures_has_no_disagreement(package: str, tmp_path: Path) -> None:
    home, out = HOMES[package], tmp_path / "rows.json"
    environment = {k: v for k, v in os.environ.items() if k not in HOMES.values()} | {home: os.environ[home]}
    command = [sys.executable, str(ROOT / "tools/host_agreement.py"), "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (found,) = json.loads(out.read_text())
    assert found["host"] == package and {row["part"] for row in found["rows"]} == {
        "transform", "loss", "evaluation", "records", "batch", "sampler"}  # fmt: skip
    assert sum(row["verdict"] == "agrees" for row in found["rows"]) > 50
    exact = {row["what"].split(":")[0] for row in found["rows"] if row["part"] == "transform" and not row["differs"]}
    inputs = {"Affine", "GaitGraph_MultiInput", "GaitTR_MultiInput", "HOD_MultiInput", "RescaleCenter",
              "RandomSelectSequence", "SelectSequenceCenter"}  # fmt: skip
    assert exact >= {"NormalizeEmpty", "TwoView"} | (inputs if package == "fastposegait" else set())
    agreed = " ".join(row["what"] for row in found["rows"] if (row["part"], row["verdict"]) == ("evaluation", "agrees"))
    for name in ("evaluate_Gait3D", "evaluate_indoor_dataset SUSTech1K", "cross_view_gallery", "evaluate_real_scene",
                 "GREW_submission", "evaluate_CCPG"):  # fmt: skip
        assert name in agreed


def said_by(command: list[str], where: Path) -> str:
    """What a run of the host said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=where,
                          timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def copied(package: str, target: Path) -> Path:
    """A copy of the checkout with our one file in it."""
    skipped = shutil.ignore_patterns(".git", "__pycache__", "output", "assets", "resources", "docs")
    shutil.copytree(os.environ[HOMES[package]], target, ignore=skipped)
    host = HOSTS[package]
    (target / host.plugin).write_text(host.plugin_text)
    (target / "configs/bpmt").mkdir()
    return target


@real
def test_a_training_goes_on_in_the_other_and_gives_the_same_embeddings(package: str, here: Path) -> None:
    checkout = copied(package, here / "host")
    tool = str(ROOT / "tools/host_on_cpu.py")

    def train(name: str, *opts: str, more: tuple[str, ...] = ()) -> None:
        cfg = host_config(load_settings(here / "net.yaml", opts, here), HOSTS[package], classes=6)
        (checkout / f"configs/bpmt/{name}.yaml").write_text(yaml.safe_dump(cfg, sort_keys=False))
        said_by([tool, str(checkout), "--cfgs", f"configs/bpmt/{name}.yaml", "--phase", "train", *more], checkout)

    # the engine's checkpoint continues in the host, by iteration
    start, ours = checkpoint("net", "00002"), checkpoint("net", f"{STEPS:05d}")
    theirs = checkout / "output/walkers/BPMT/net"
    put(theirs, start, 2)
    train("net", more=("--iter", "2"))
    middle, last = (load_checkpoint(theirs / f"checkpoints/net-{k:05d}.pt") for k in (HALF, STEPS))
    assert last["iteration"] == STEPS and "engine" not in last
    figures = {"engine to host, by iteration": assert_same_training(last, ours, start)}

    # by path
    path, left = here / folder_of("net") / f"checkpoints/net-{HALF:05d}.pt", STEPS - HALF
    train("by_path", f"trainer_cfg.restore_hint={path}", f"trainer_cfg.total_iter={left}",
          "trainer_cfg.save_name=by_path")  # fmt: skip
    found = load_checkpoint(checkout / f"output/walkers/BPMT/by_path/checkpoints/by_path-{left:05d}.pt")
    figures["engine to host, by path"] = assert_same_training(found, ours, load_checkpoint(path))

    # the host's checkpoint continues in the engine, by iteration and by path
    put(folder_of("from_host"), middle, HALF, "from_host")
    assert run("net", "trainer_cfg.save_name=from_host", more=("--iter", str(HALF))) == 0
    found = checkpoint("from_host", f"{STEPS:05d}")
    figures["host to engine, by iteration"] = assert_same_training(last, found, middle)
    assert run("net", f"trainer_cfg.restore_hint={theirs}/checkpoints/net-{HALF:05d}.pt",
               f"trainer_cfg.total_iter={left}", "trainer_cfg.save_name=path_of_host") == 0  # fmt: skip
    figures["host to engine, by path"] = assert_same_training(last, checkpoint("path_of_host", f"{left:05d}"), middle)

    # the same checkpoint gives the same embeddings and scores
    driver = str(ROOT / "tests/host_embeddings.py")
    said_by([driver, str(checkout), "configs/bpmt/net.yaml", str(here / "out.npz")], here)
    settings = load_settings(here / "net.yaml", [], here)
    metrics = run_test(settings, ALONE, here / "engine", str(theirs / f"checkpoints/net-{STEPS:05d}.pt"))["metrics"]
    theirs_out = np.load(here / "out.npz")
    ours_out = np.load(here / "engine/walkers/BPMT/net/embeddings.npz")
    names = ["-".join(row) for row in zip(ours_out["labels"], ours_out["types"], ours_out["views"], strict=True)]
    assert theirs_out["names"].tolist() == names
    worst = float(np.abs(theirs_out["embeddings"] - ours_out["embeddings"]).max())
    figures["embeddings"] = worst / max(1.0, float(np.abs(ours_out["embeddings"]).max()))
    assert figures["embeddings"] < 1e-5 and np.ptp(ours_out["embeddings"]) > 0.1
    scores = {name.removeprefix("score "): float(theirs_out[name]) for name in theirs_out if name.startswith("score ")}
    assert {"Rank-1", "mAP", "mINP"} <= scores.keys()
    figures["scores"] = max(abs(scores[name] - metrics[name]) for name in scores)
    assert figures["scores"] < 1e-4
    print(package, {name: f"{value:.1e}" for name, value in (figures | scores).items()})  # pytest -s shows them
