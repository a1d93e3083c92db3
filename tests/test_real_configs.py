"""A FastPoseGait checkout in (FASTPOSEGAIT_HOME): every YAML it ships trained and tested here, unchanged, out.

Data are made up in each set's layout. Only where they are, how long the training is and how large a batch is differs
from the file; GPGait and its successor get few frames, and narrow classifiers where theirs would take gigabytes.
"""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path

import pytest
import tiny
import yaml

from bpmt_ext.cli import host_main
from bpmt_ext.engine.checkpoint import load_checkpoint

HOME = os.environ.get("FASTPOSEGAIT_HOME")
NO_POSES = ("gaitheat",)  # reads heat maps
FILES = sorted(
    path for path in Path(HOME, "configs").glob("*/*.yaml") if path.parent.name not in NO_POSES
) if HOME else []  # fmt: skip
TRAIN, ITERATIONS = 4, 2
PEOPLE = {"GREW": 10}  # a row of its submission names 20 sequences of the gallery


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sets")


def data_for(values: dict, folder: Path) -> tuple[Path, Path]:
    """The data a config asks for: its layout, its joints, long enough for its frame_threshold."""
    name, frames = values["data_cfg"]["dataset_name"], values["data_cfg"].get("frame_threshold", 0) + 8
    joints = 18 if values["model_cfg"].get("joint_format") == "alphapose" else 17
    root = folder / f"{name}-{joints}-{frames}"
    if not root.exists():
        tiny.write_layout(root, name, train=TRAIN, test=PEOPLE.get(name, 2), joints=joints, frames=frames)
    return root, root.with_suffix(".json")


def options(values: dict, root: Path, partition: Path) -> list[str]:
    sampler = values["trainer_cfg"]["sampler"]
    out = [
        f"data_cfg.dataset_root={root}", f"data_cfg.dataset_partition={partition}", "data_cfg.num_workers=0",
        f"trainer_cfg.total_iter={ITERATIONS}", "trainer_cfg.log_iter=1", f"trainer_cfg.save_iter={ITERATIONS}",
        f"trainer_cfg.sampler.batch_size={[2, 2] if isinstance(sampler['batch_size'], list) else 4}",
        f"evaluator_cfg.restore_hint={ITERATIONS}",
    ]  # fmt: skip
    if "gpgait" in values["model_cfg"]["model"].lower():
        out += ["trainer_cfg.sampler.frames_num_fixed=8"]
        out += ["model_cfg.num_class=7"] if values["model_cfg"]["num_class"] > 300 else []
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_of_fastposegait_runs_unchanged(
    path: Path, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(path.read_text())
    trainer, name = values["trainer_cfg"], values["trainer_cfg"]["save_name"]
    chosen = options(values, *data_for(values, sets))
    with caplog.at_level(logging.WARNING):
        assert host_main(["--cfgs", str(path), "--phase", "train", "--opts", *chosen]) == 0
    told = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith(str(path)) and "frames_num_max" in told[0]
    folder = Path("output", values["data_cfg"]["dataset_name"], values["model_cfg"]["model"], name)
    state = load_checkpoint(folder / "checkpoints" / f"{name}-{ITERATIONS:05d}.pt")
    assert state["iteration"] == ITERATIONS and {"model", "optimizer", "scheduler"} <= state.keys()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2] and all(math.isfinite(row["loss"]) for row in rows)
    prefixes = {loss["log_prefix"] for loss in tiny.listed(values["loss_cfg"])}
    assert all(f"{prefix}/loss" in rows[0] for prefix in prefixes)
    if not trainer["with_test"]:  # three files train under one name and test under another
        again = [*chosen, f"evaluator_cfg.save_name={name}"]
        assert host_main(["--cfgs", str(path), "--phase", "test", "--opts", *again]) == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["iteration"] == ITERATIONS and results["probes"]["valid"] > 0
    assert results["metrics"] and all(0 <= value <= 100 for value in results["metrics"].values() if value is not None)


def test_every_config_is_there() -> None:
    if not HOME:
        pytest.skip("set FASTPOSEGAIT_HOME to a checkout of FastPoseGait to run its configs")
    assert len(FILES) == 39
