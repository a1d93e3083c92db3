"""Tiny data and the configs of several networks in; what keys of the training change, and what they must not, out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from tiny import checkpoint, equal, run

from bpmt_ext.engine.checkpoint import load_checkpoint
from bpmt_ext.engine.logs import read_metrics

GRAPH = {"reduction": 4, "main_stream": [8, 16], "num_class": 8, "tta": True, "joint_format": "coco"}
# at the default temperature, 0.01, a rounding of a similarity counts a hundredfold, more than what is compared here
SUPCON = {"type": "SupConLoss_Re", "temperature": 0.1, "log_prefix": "supcon"}
NETWORKS: dict[str, dict[str, Any]] = {  # no dropout; their batch statistics are those of all processes
    "graph1": {
        "model_cfg": {"model": "GaitGraph1", "input_num": 1, "input_branch": [3, 8, 8], **GRAPH}, "loss_cfg": [SUPCON],
        "train": [{"type": "TwoView", "trf_cfg": [{"type": "RandomSelectSequence", "sequence_length": 6},
                                                  {"type": "PointNoise", "std": 0.1}]}], "test": [],
    },
    "graph2": {
        "model_cfg": {"model": "GaitGraph2", "input_num": 3, "input_branch": [5, 8, 8], **GRAPH},
        "loss_cfg": [{"type": "SupConLoss_Lp", "log_prefix": "supcon"}],
        "train": [{"type": "GaitGraph_MultiInput"}], "test": [{"type": "GaitGraph_MultiInput"}],
    },
    "triplet": {
        "model_cfg": {"model": "GaitGraph2", "input_num": 3, "input_branch": [5, 8, 8], **GRAPH},
        "loss_cfg": {"type": "TripletLoss", "margin": 0.3, "is_hard_loss": True},
        "train": [{"type": "GaitGraph_MultiInput"}], "test": [{"type": "GaitGraph_MultiInput"}],
    },
}  # fmt: skip
SGD = {"solver": "SGD", "lr": 0.01, "momentum": 0.9}


def write_networks(folder: Path) -> None:
    for name, own in NETWORKS.items():
        values = tiny.base(save_name=name, clip_grad=None, save_iter=3, restore_hint=0)
        values |= {"model_cfg": own["model_cfg"], "loss_cfg": own["loss_cfg"], "optimizer_cfg": SGD}
        values["scheduler_cfg"] = {"scheduler": "OneCycleLR", "max_lr": 0.1}
        values["evaluator_cfg"] |= {"restore_hint": 4000, "transform": own["test"]}
        values["trainer_cfg"] |= {"transform": own["train"], "sync_BN": True, "with_test": True}
        values["trainer_cfg"]["sampler"] = {"type": "TripletSampler", "batch_size": [4, 2],
                                            "sample_type": "fixed_ordered", "frames_num_fixed": 8}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.write_data(tmp_path / "data")
    tiny.write_configs(tmp_path)
    write_networks(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder(name: str) -> Path:
    return Path("output/walkers", NETWORKS[name]["model_cfg"]["model"], name)


CROSS_ENTROPY = ("model_cfg.dropout=0.0", "model_cfg.head=concat", "trainer_cfg.val_iter=0", "trainer_cfg.log_iter=1",
                 "trainer_cfg.clip_grad=null",
                 "loss_cfg=[{type: CrossEntropyLoss, log_prefix: softmax}]", "trainer_cfg.restore_hint=0",
                 "optimizer_cfg={solver: SGD, lr: 0.1, momentum: 0.9}")  # fmt: skip


def test_a_batch_in_shares_has_the_gradient_of_the_whole(here: Path, capsys: pytest.CaptureFixture) -> None:
    found = {}
    for shares in (1, 2, 4):
        name = f"a{shares}"
        assert run("net", *CROSS_ENTROPY, f"trainer_cfg.accumulate={shares}", f"trainer_cfg.save_name={name}") == 0
        path = Path(f"output/walkers/BPMT/{name}")
        found[shares] = load_checkpoint(path / f"checkpoints/{name}-00006.pt")["model"], read_metrics(
            path / "metrics.jsonl"
        )
    start, rows = found[1]
    for weights, again in (found[2], found[4]):
        assert all(torch.allclose(weights[key], start[key], atol=1e-6) for key in start)
        assert not all(torch.equal(weights[key], start[key]) for key in start), "the shares were not made"
        for a, b in zip(rows, again, strict=True):
            assert a.pop("split") == b.pop("split") == "train"
            assert b == pytest.approx(a, rel=1e-4, abs=1e-5)
            a["split"] = "train"
    capsys.readouterr()
    assert run("net", "trainer_cfg.accumulate=3") == 2
    assert "accumulate 3 does not divide the 4 sequences" in capsys.readouterr().err
    # a loss that compares sequences sees its share alone: four of one sequence each have no pair at all
    assert run("net", *CROSS_ENTROPY, "loss_cfg=[{type: TripletLoss, margin: 0.3}]", "trainer_cfg.accumulate=4") == 0
    assert all(row["loss"] == 0 for row in read_metrics(Path("output/walkers/BPMT/net/metrics.jsonl")))


def test_transforming_on_the_device_is_the_same_training(here: Path) -> None:
    assert run("net") == 0
    worker = checkpoint("net", "00006")
    assert run("net", "data_cfg.transform_on=device", "trainer_cfg.restore_hint=0", "trainer_cfg.with_test=true") == 0
    device = checkpoint("net", "00006")
    assert equal(worker["model"], device["model"]) and equal(worker["engine"]["best"], device["engine"]["best"])
    whole = np.load("output/walkers/BPMT/net/embeddings.npz")["embeddings"]
    assert run("net", phase="test") == 0
    assert np.array_equal(whole, np.load("output/walkers/BPMT/net/embeddings.npz")["embeddings"])


@pytest.mark.parametrize(("section", "chain", "made"), [
    ("trainer_cfg", "[]", r"no transform makes \(17, 3\)"), ("trainer_cfg", "[{type: GaitTR_MultiInput}]", "(17, 10)"),
    ("evaluator_cfg", "[{type: Compose, trf_cfg: [{type: RescaleCenter}, {type: SkeletonInput}]}]",
     "RescaleCenter, SkeletonInput makes (17, 3)"),
])  # fmt: skip
def test_poses_a_network_does_not_take_are_told_before_the_training(
    here: Path, section: str, chain: str, made: str, capsys: pytest.CaptureFixture
) -> None:
    assert run("graph2", f"{section}.transform={chain}") == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bpmt: ")]
    assert f"{section}.transform: " in told and made.replace("\\", "") in told
    assert "GaitGraph2 takes joints and channels (17, 15)" in told and not (folder("graph2") / "checkpoints").exists()


SCRIPT = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
import tiny
for port, words in zip(sys.argv[2].split(), sys.argv[3].split(";")):
    os.environ["MASTER_PORT"] = port
    assert tiny.run(*words.split()) == 0
"""
RUNS = ("graph1", "graph2 trainer_cfg.accumulate=2", "triplet")


def test_two_processes_train_pair_losses_as_one_does(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def free_port() -> str:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return str(s.getsockname()[1])

    (here / "two").mkdir()
    for item in ("data", "data.json", *(f"{name}.yaml" for name in NETWORKS)):
        (here / "two" / item).symlink_to(here / item)
    ports, children = " ".join(free_port() for _ in RUNS), []
    for rank in range(2):
        where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), ports, ";".join(RUNS)]
        children.append(subprocess.Popen(command, env={**os.environ, **where, "CUDA_VISIBLE_DEVICES": ""},
                                         stderr=subprocess.PIPE, text=True, cwd=here / "two"))  # fmt: skip
    try:
        told = [child.communicate(timeout=240)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], told
    for words in RUNS:
        name, *opts = words.split()
        assert run(name, *opts) == 0
        one, two = (read_metrics(root / folder(name) / "metrics.jsonl") for root in (here, here / "two"))
        assert len(one) == len(two) == 4 and all(row["loss"] > 0 for row in one if "loss" in row)
        for a, b in zip(one, two, strict=True):
            assert a.pop("split") == b.pop("split") and b == pytest.approx(a, rel=1e-4, abs=1e-4)
        mine, theirs = (load_checkpoint(root / folder(name) / f"checkpoints/{name}-00006.pt")["model"]
                        for root in (here, here / "two"))  # fmt: skip
        before = load_checkpoint(here / folder(name) / f"checkpoints/{name}-00003.pt")["model"]
        keys = [key for key in mine if mine[key].is_floating_point()]
        moved, apart = (max(float((mine[key] - other[key]).abs().max()) for key in keys) for other in (before, theirs))
        assert moved > 1e-3 and apart < 1e-3 * moved, (name, moved, apart)
        results = json.loads((here / folder(name) / "results.json").read_text())  # with_test: of what was trained
        assert results["iteration"] == 6
