"""Every shipped config in; networks, losses, transforms, solvers and samplers that can be built from it out."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from conftest import walking
from standin import silhouettes
from torch import Tensor

from bpmt_ext.cli import host_main
from bpmt_ext.config import Settings, configs_folder, datasets_folder, load_settings
from bpmt_ext.data.batches import SAMPLERS, FrameSelection
from bpmt_ext.data.transforms import build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.methods import contenders, stages_of
from bpmt_ext.engine.parts import Run
from bpmt_ext.engine.solvers import check_solver
from bpmt_ext.engine.stages import build_objective, build_run, data_skeleton, pose_skeleton
from bpmt_ext.metrics.classification import CLASSIFICATION
from bpmt_ext.metrics.protocols import PROTOCOLS
from bpmt_ext.registry import METHODS, get_method

FOLDER = configs_folder()
CONFIGS = sorted(
    path.relative_to(FOLDER) for path in FOLDER.rglob("*.yaml")
    if not path.name.startswith("_") and path.name != "default.yaml"
)  # fmt: skip
STAGED = [path for path in CONFIGS if load_settings(FOLDER / path).model_cfg.stages]
CLASSES, FRAMES = 6, 12  # of classes and of frames as many as show that it works


def loaded(path: Path, root: Path) -> Settings:
    """The settings; a classifier of thousands of people is made narrow, and a very deep encoder shallow."""
    settings = load_settings(FOLDER / path, root=root)
    free, classes = settings.model_cfg.free, get_method(settings.model_cfg.model).classes
    opts = [f"model_cfg.{classes}={CLASSES}"] if classes is not None and (free.get(classes) or 0) > CLASSES else []
    opts += ["model_cfg.layers=2"] if settings.model_cfg.model.startswith("TLCA") and free["layers"] > 8 else []
    return load_settings(FOLDER / path, opts, root) if opts else settings


def built(settings: Settings) -> Run:
    labels = tuple(map(str, range(CLASSES)))
    splits = SimpleNamespace(train=SimpleNamespace(label_set=labels), probes=None)
    return build_run(settings, splits, World(0, 1, torch.device("cpu")), Path("nowhere"))


def transformed(settings: Settings, section: str) -> tuple[Tensor, Tensor]:
    """What the network gets of four sequences, as long as the section's sampler and transforms want them."""
    skeleton, cfg = pose_skeleton(settings), getattr(settings, section)
    keys = ("sample_type", "frames_num_fixed", "frames_num_min", "frames_num_max", "frames_skip_num")
    chosen = {key: getattr(cfg.sampler, key) for key in keys if getattr(cfg.sampler, key) is not None}
    steps = [step for entry in cfg.transform for step in (entry.get("trf_cfg") or [entry])]
    length = max([FRAMES, *(step["sequence_length"] + 1 for step in steps if "sequence_length" in step)])
    frames, mask = FrameSelection(**chosen).select(torch.full((4,), length), Draws.at(0, 0, range(4)))
    pose = walking(4, length, skeleton.num_joints, skeleton.dims + 1)
    pose[..., : skeleton.dims] = 40 * pose[..., : skeleton.dims] + 100
    if settings.data_cfg.modality == "silhouette":
        clip = torch.from_numpy(np.stack([clip[:20] for clip, _ in silhouettes(4)]))  # (4, 20, 64, 64)
        pose = clip[:, torch.arange(length) % 20]
    pose = pose[torch.arange(4)[:, None], frames]
    return build_transform(cfg.transform, skeleton).reframe(pose, mask, Draws.at(0, 0, range(4)))


def test_there_are_configs_for_every_network() -> None:
    assert CONFIGS
    named = {load_settings(FOLDER / path).model_cfg.model for path in CONFIGS}
    assert named == set(METHODS)


def test_configs_that_read_one_folder_read_the_same_joints(tmp_path: Path) -> None:
    found: dict[str, set[int]] = {}
    for path in CONFIGS:
        settings = load_settings(FOLDER / path, root=tmp_path)
        folder = str(Path(settings.data_cfg.dataset_root).relative_to(tmp_path))
        found.setdefault(folder, set()).add(data_skeleton(settings).num_joints)
        assert Path(settings.data_cfg.dataset_partition).is_relative_to(settings.data_cfg.dataset_root), path
    assert {folder for folder, joints in found.items() if len(joints) > 1} == set()
    assert (found["data/OUMVLP17/pickles"], found["data/OUMVLP/pickles"]) == ({17}, {18})
    page = (datasets_folder() / "README.md").read_text("utf-8")
    assert [folder for folder in found if folder not in page and "data/" in folder] == []


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_config_builds(path: Path, tmp_path: Path) -> None:
    settings = loaded(path, tmp_path)
    run = built(settings)
    check_solver(run)
    assert settings.trainer_cfg.sampler.type in SAMPLERS
    assert settings.evaluator_cfg.eval_func in (*PROTOCOLS, *CLASSIFICATION)
    assert settings.trainer_cfg.save_name == settings.evaluator_cfg.save_name == path.stem
    for section in ("trainer_cfg", "evaluator_cfg"):
        pose, mask = transformed(settings, section)
        assert torch.isfinite(pose).all() and pose.shape[:2] == mask.shape
        takes = getattr(run.network, "takes", None)
        if takes is not None:
            assert pose.shape[2] == takes[0] and pose.ndim == 2 + len(takes) and pose.shape[3] >= takes[1]
    if not run.method.pretraining:
        assert len(build_objective(settings, run.method).losses) == len(settings.loss_cfg) > 0
    shapes = step_of(network_key(settings), path)
    if not run.method.pretraining:
        assert shapes["feature"][0] == shapes["embedding"][0] == 4
        assert ("CrossEntropyLoss" in {loss.type for loss in settings.loss_cfg}) <= ("logits" in shapes)
        classes = run.method.classes and settings.model_cfg.free.get(run.method.classes, CLASSES)
        assert shapes["logits"][1] == classes if classes else "logits" not in shapes


AXES = {
    "body_axes.yaml": "kinectgait@scratch", "ideas_axes.yaml": "kinectgait", "curve_axes.yaml": "kinectgait",
    "penn_axes.yaml": "penn@scratch", "nwucla_axes.yaml": "nwucla@scratch",
    "bodies_axes.yaml": "kinectgait@scratch",
    "g38_axes.yaml": "g38@scratch", "iip_axes.yaml": "kinectgait", "loss_axes.yaml": "kinectgait@scratch",
    "ideas_best_axes.yaml": "kinectgait", "pretraining_axes.yaml": "g38",
}  # fmt: skip


def test_every_cell_of_a_shipped_grid_builds() -> None:
    """Of a network whose LayerNorm and stages agree, and of all stages of it."""
    folder = Path(__file__).resolve().parents[1] / "tools"
    assert {path.name for path in folder.glob("*_axes.yaml")} == set(AXES)
    for name, config in AXES.items():
        config, at, variant = config.partition("@")
        text = str(FOLDER / "bpmt" / f"bpmt_{config}.yaml")
        cells = contenders([text + at + variant], folder / name, [], Path.cwd())
        assert len({one.opts for one in cells}) == len(cells)
        for one in cells:
            for stage in stages_of(one.config, one.opts, Path.cwd()):
                built(stage.settings)


def network_key(settings: Settings) -> str:
    """What decides whether one training step can be made: configs that agree in it need be tried once only."""
    values = settings.resolved()
    trainer = {key: values["trainer_cfg"][key] for key in ("transform", "sampler")}
    return json.dumps([values["model_cfg"] | {"stages": None}, values["loss_cfg"], values["data_cfg"]["joint_format"],
                       trainer["transform"]])  # fmt: skip


@cache
def step_of(key: str, path: Path) -> dict[str, Any]:
    """One forward and backward pass on a few frames: the shapes that come out."""
    settings = loaded(path, Path.cwd())
    run = built(settings)
    pose, mask = transformed(settings, "trainer_cfg")
    few = FRAMES if pose.ndim == 4 else 2  # maps are large
    out = run.network(pose[:, -few:], mask[:, -few:], torch.arange(4))
    loss, figures = run.objective(out, torch.tensor([0, 0, 1, 1]), run.world)
    assert torch.isfinite(loss) and "loss" in figures and loss.requires_grad
    loss.backward()
    return {name: tuple(value.shape) for name, value in out.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("path", STAGED, ids=str)
def test_a_config_agrees_with_its_stages(path: Path, tmp_path: Path) -> None:
    settings = loaded(path, tmp_path)
    own = built(settings).network.state_dict()
    method = get_method(settings.model_cfg.model)
    assert set(settings.model_cfg.stages) <= set(method.stages)
    for name, file in settings.model_cfg.stages.items():
        assert Path(file).is_file(), file
        stage = loaded(Path(file), tmp_path)
        assert stage.data_cfg == settings.data_cfg
        theirs = built(stage).network.state_dict()
        mine, other = (
            {k: v.shape for k, v in state.items() if k.startswith(method.stages[name])} for state in (own, theirs)
        )
        assert mine and mine == other


SMALLEST = [path for path in CONFIGS if path.stem.endswith("_g38") and path not in STAGED and path.parts[0] != "bpmt"]


@pytest.mark.parametrize("path", SMALLEST, ids=lambda path: path.stem)
def test_a_method_trains_and_tests_by_the_command_line(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    partition = tiny.write_layout(tmp_path / "data", "Gait3D", train=4, test=3, joints=17, frames=34)
    settings = load_settings(FOLDER / path)
    sampler = settings.trainer_cfg.sampler
    opts = [f"data_cfg.dataset_root={tmp_path}/data", f"data_cfg.dataset_partition={partition}",
            "data_cfg.validation=0.0", "data_cfg.frame_threshold=0", "data_cfg.num_workers=0",
            "trainer_cfg.total_iter=1", "trainer_cfg.log_iter=1", "trainer_cfg.with_test=true",
            f"trainer_cfg.sampler.batch_size={[2, 2] if sampler.type == 'TripletSampler' else 4}"]  # fmt: skip
    assert host_main(["--cfgs", str(FOLDER / path), "--phase", "train", "--opts", *opts]) == 0
    folder = Path("output", settings.data_cfg.dataset_name, settings.model_cfg.model, path.stem)
    results = json.loads((folder / "results.json").read_text())
    assert results["iteration"] == 1 and results["probes"]["valid"] == 3
    assert all(value is None or math.isfinite(value) for value in results["metrics"].values())
