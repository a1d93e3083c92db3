"""Checkouts of the hosts in (FASTPOSEGAIT_HOME, OPENGAIT_HOME): link, three stages, test, unlink, nothing left, out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from standin import SMALL, commit, status

from bpmt_ext.cli import main
from bpmt_ext.config import load_settings
from bpmt_ext.engine.checkpoint import load_checkpoint
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.testing import test_config as run_test
from bpmt_ext.hosts.checkouts import HOSTS, find_host
from bpmt_ext.hosts.configs import last_checkpoint
from bpmt_ext.synthetic import write_dataset
from bpmt_ext.synthetic_silhouettes import write_silhouettes

TOOL = Path(__file__).resolve().parents[1] / "tools" / "host_on_cpu.py"
STAGES = {"BPMT_T1": "bpmt_gait3d_t1", "BPMT_T2": "bpmt_gait3d_t2", "BPMT": "bpmt_gait3d"}


def as_gait3d(root: Path, partition: Path, official: Path) -> None:
    """Give the made-up test people names of the official probe list, which the hosts' own evaluator reads."""
    lists = json.loads(partition.read_text())
    taken = iter([name.split("-") for name in json.loads(official.read_text())["PROBE_SET"] if name > "0100"])
    probes = []
    for label in lists["TEST_SET"]:
        new, kind, view = next(taken)
        (root / label).rename(root / new)
        first = sorted((root / new).iterdir())[0]
        first.rename(first.with_name(kind)) if first.name != kind else None
        (root / new / kind / "seq0").rename(root / new / kind / view)
        probes.append((new, kind, view))
    new_lists = {"TEST_SET": [probe[0] for probe in probes], "PROBE_SET": ["-".join(probe) for probe in probes]}
    partition.write_text(json.dumps(lists | new_lists))


def run(checkout: Path, name: str, phase: str, folder: str = "bpmt") -> str:
    """One run of the unmodified host on a CPU; what it said."""
    command = [sys.executable, str(TOOL), str(checkout), "--cfgs", f"configs/{folder}/{name}.yaml", "--phase", phase]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    return said


@pytest.fixture(params=sorted(HOSTS))
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the host's files, committed to a repository of its own."""
    variable = f"{request.param.upper()}_HOME"
    home = os.environ.get(variable)
    if not home:
        pytest.skip(f"set {variable} to a checkout of {HOSTS[request.param].name} to train and test inside it")
    root = tmp_path / "host"
    shutil.copytree(home, root, ignore=shutil.ignore_patterns(".git", "output", "__pycache__"))
    commit(root)
    return root


def test_link_train_three_stages_test_unlink(checkout: Path, tmp_path: Path) -> None:
    root = tmp_path / "walkers"
    partition = write_dataset(root, train=5, test=4, cameras=2, sequences=2, seed=0)
    as_gait3d(root, partition, checkout / "datasets/Gait3D/Gait3D.json")
    every = [*SMALL, "trainer_cfg.with_test=true", "trainer_cfg.save_iter=5", f"data_cfg.dataset_root={root}",
             f"data_cfg.dataset_partition={partition}"]  # fmt: skip
    inner = [f"{stage}.{text}" for stage in ("t1", "t2") for text in every if not text.startswith("data_cfg")]
    assert main(["link", str(checkout), "--opts", *every, *inner]) == 0
    assert find_host(checkout).measured and len(status(checkout)) == 5

    weights, path = {}, Path()
    for name, config in STAGES.items():
        said = run(checkout, config, "train")
        assert "Iteration 00010" in said and "nan" not in said.lower().split("iteration 00010")[1]
        assert len(re.findall(r"Rank-1\b\D+[\d.]+", said)) == 2  # with_test, at both saved iterations
        settings = load_settings(f"configs/bpmt/{config}.yaml", every)
        path = checkout / last_checkpoint(settings)
        state = load_checkpoint(path)
        assert state["iteration"] == 10 and {"optimizer", "scheduler"} <= set(state)
        weights[name] = state["model"]
    t1, t2, last = weights.values()
    statistics = [key for key in t1 if key.startswith("t1.streams")]
    assert statistics and all(torch.equal(t1[key], last[key]) for key in statistics) and last["t1.streams.fitted"] == 1
    for before, after, stage in ((t1, t2, "t1.encoder"), (t2, last, "t2.encoder")):
        moved = [float((before[key] - after[key]).abs().max()) for key in before if key.startswith(stage)]
        assert 0 < max(moved) < 0.05  # ten small steps away from the stage before, not from anywhere

    said = run(checkout, STAGES["BPMT"], "test")
    found = re.findall(r"test_accuracy/([\w-]+)': (?:np\.\w+\()?([\d.]+)", said)
    theirs = {name: float(value) for name, value in found}
    ours = run_test(settings, World(0, 1, torch.device("cpu")), tmp_path / "engine", str(path))["metrics"]
    assert set(theirs) == {"Rank-1", "Rank-5", "Rank-10", "mAP", "mINP"}
    print(f"in {checkout}: {theirs}; in the engine: {ours}")
    assert theirs == pytest.approx({name: ours[name] for name in theirs}, abs=1e-3)

    assert main(["unlink", str(checkout)]) == 0
    assert not list(checkout.rglob("*bpmt_ext*"))
    shutil.rmtree(checkout / "output")  # the results; everything else is as it was
    assert status(checkout) == []


def test_silhouettes_in_three_steps(checkout: Path, tmp_path: Path) -> None:
    root = tmp_path / "silhouettes"
    partition = write_silhouettes(root, train=3, test=2, cameras=2, sequences={"nm": 6, "bg": 2, "cl": 2}, seed=0,
                                  frames=(12, 16))  # fmt: skip
    steps = [f"LandmarkGait_{name}_psymo" for name in ("Silh_to_Landmark", "Landmark_to_Parsing", "Recognition")]
    every = [
        f"data_cfg.dataset_root={root}", f"data_cfg.dataset_partition={partition}", "trainer_cfg.total_iter=4",
        "trainer_cfg.save_iter=4", "trainer_cfg.log_iter=2", "trainer_cfg.sampler.batch_size=[2, 2]",
        "data_cfg.test_dataset_name=CASIA-B", "trainer_cfg.with_test=false",
    ]  # fmt: skip
    inner = [f"{stage}.{text}" for stage in ("t1", "t2") for text in every if not text.startswith("data_cfg")]
    configs = [f"configs/landmarkgait/{step}.yaml" for step in steps]
    assert main(["link", str(checkout), "--cfgs", configs[-1], "--opts", *every, *inner]) == 0
    weights = []
    for step, config in zip(steps, configs, strict=True):
        said = run(checkout, step, "train", "landmarkgait")
        assert "Iteration 00004" in said and "nan" not in said.lower().split("iteration 00004")[1]
        settings = load_settings(config, every)
        path = checkout / last_checkpoint(settings)
        weights.append(load_checkpoint(path)["model"])
    first = [key for key in weights[0] if key.startswith("Backbone.extract")]
    assert first and all(torch.equal(weights[0][key], weights[2][key]) for key in first)  # frozen ever after
    assert bool(weights[1]["grouping.fitted"])
    assert torch.equal(weights[1]["grouping.mean_y"], weights[2]["grouping.mean_y"])
    ours = run_test(settings, World(0, 1, torch.device("cpu")), tmp_path / "engine", str(path))["metrics"]
    said = run(checkout, steps[-1], "test", "landmarkgait")
    theirs = {f"{name} Rank-1": float(value) for name, value in re.findall(r"(\w\w)@R1: ([\d.]+)%", said)}
    assert len(theirs) == 3 and theirs == pytest.approx({name: ours[name] for name in theirs}, abs=0.01)
    assert main(["unlink", str(checkout)]) == 0 and not list(checkout.rglob("*bpmt_ext*"))
