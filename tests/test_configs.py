"""Every shipped config in; networks, losses, transforms, solvers and samplers that can be built from it out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bpmt_ext.config import Settings, configs_folder, load_settings
from bpmt_ext.data.batches import FrameSelection
from bpmt_ext.data.transforms import build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.loop import build_solver
from bpmt_ext.engine.parts import Run
from bpmt_ext.engine.stages import build_objective, build_run, data_skeleton
from bpmt_ext.metrics.protocols import PROTOCOLS
from bpmt_ext.registry import METHODS, get_method

FOLDER = configs_folder()
CONFIGS = sorted(
    path.relative_to(FOLDER) for path in FOLDER.rglob("*.yaml")
    if not path.name.startswith("_") and path.name != "default.yaml"
)  # fmt: skip
CLASSES = 6


def built(settings: Settings) -> Run:
    labels = tuple(map(str, range(CLASSES)))
    splits = SimpleNamespace(train=SimpleNamespace(label_set=labels), probes=None)
    return build_run(settings, splits, World(0, 1, torch.device("cpu")), Path("nowhere"))


def test_there_are_configs_for_every_network() -> None:
    assert CONFIGS
    named = {load_settings(FOLDER / path).model_cfg.model for path in CONFIGS}
    assert named == set(METHODS)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_config_builds(path: Path, tmp_path: Path) -> None:
    settings = load_settings(FOLDER / path, root=tmp_path)
    run = built(settings)
    method, skeleton = get_method(settings.model_cfg.model), data_skeleton(settings)
    build_solver(run)
    pose = torch.randn(4, 30, skeleton.num_joints, skeleton.dims + 1)
    mask = torch.ones(4, 30, dtype=torch.bool)
    for section in (settings.trainer_cfg, settings.evaluator_cfg):
        keys = ("sample_type", "frames_num_fixed", "frames_num_min", "frames_num_max")
        chosen = {k: getattr(section.sampler, k) for k in keys if getattr(section.sampler, k) is not None}
        FrameSelection(**chosen)
        ready = build_transform(section.transform, skeleton)(pose, mask, Draws.at(0, 0, range(4)))
        assert torch.isfinite(ready).all()
    assert settings.evaluator_cfg.eval_func in PROTOCOLS
    out = run.network(ready, mask, torch.arange(4))
    loss, figures = run.objective(out, torch.tensor([0, 0, 1, 1]), run.world)
    assert torch.isfinite(loss) and "loss" in figures and loss.requires_grad
    if not method.pretraining:
        assert len(build_objective(settings, method).losses) == len(settings.loss_cfg) > 0
        classes = settings.model_cfg.free.get("num_class", CLASSES)
        assert out["logits"].shape[1] == classes if classes else "logits" not in out


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_config_agrees_with_its_stages_and_itself(path: Path, tmp_path: Path) -> None:
    settings = load_settings(FOLDER / path, root=tmp_path)
    own = built(settings).network.state_dict()
    method = get_method(settings.model_cfg.model)
    if len(method.stages) > 0 and settings.model_cfg.stages:
        assert set(settings.model_cfg.stages) <= set(method.stages)
    for name, file in settings.model_cfg.stages.items():
        assert Path(file).is_file(), file
        stage = load_settings(file, root=tmp_path)
        assert stage.data_cfg == settings.data_cfg
        theirs = built(stage).network.state_dict()
        mine, other = (
            {k: v.shape for k, v in state.items() if k.startswith(method.stages[name])} for state in (own, theirs)
        )
        assert mine and mine == other
    assert settings.trainer_cfg.save_name == settings.evaluator_cfg.save_name == path.stem
