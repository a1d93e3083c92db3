"""FastPoseGait's batch (ipts, labs, typs, vies, seqL) in, its dict of training, summary and inference features out.

One file in the host's checkout, `fastposegait/modeling/models/bpmt_ext_plugin.py`, holds `PLUGIN`. The host then finds
our networks among its models, `Bpmt<Name>` among its transforms and our protocols among its evaluators; configs for it
come from `link.py`. Contract and traps: host_contract.md sections 2-8. Nothing below this file ever sees `seqL`, the
host's layout (n, c, t, v, 1) or its names. Letters: n sequences, t frames, v joints, c channels, d width, p parts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bpmt_ext.config import component_arguments
from bpmt_ext.engine.checkpoint import load_checkpoint, load_stage
from bpmt_ext.errors import UserError
from bpmt_ext.hosts.components import register, register_evaluators, register_transforms
from bpmt_ext.registry import METHODS, Method, build_network, get_method
from bpmt_ext.skeletons import get_skeleton, skeleton_from_mapping

PLUGIN = '''"""FastPoseGait's BaseModel in, the networks of bpmt_ext out. Delete this file to take them out again."""

from bpmt_ext.hosts.fastposegait import attach

from ..base_model import BaseModel

globals().update(attach(BaseModel))
'''


def unpack(x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """The host's pose (n, c, t, v, 1), or (1, c, sum t, v, 1) with lengths (1, n) -> pose (n, t, v, c), mask (n, t)."""
    pose = x.squeeze(-1).permute(0, 2, 3, 1)
    if lengths is None:
        return pose, torch.ones(pose.shape[:2], dtype=torch.bool, device=x.device)
    lengths = lengths.flatten().long()
    time = torch.arange(int(lengths.max()), device=x.device)
    start = lengths.cumsum(0) - lengths
    frame = start[:, None] + torch.minimum(time, lengths[:, None] - 1)  # a padded frame repeats the last
    return pose[0, frame], time < lengths[:, None]


class Adapter:
    """The methods of a model that differ from the host's BaseModel, which comes next in the order of inheritance."""

    method: Method

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        """The network of the config, with the weights of its earlier stages where it starts from nothing else."""
        name, data, method = type(self).__name__, self.cfgs["data_cfg"], self.method
        own = data.get("skeleton")
        skeleton = skeleton_from_mapping(own) if own else get_skeleton(data.get("joint_format", "coco17"))
        free = {key: value for key, value in model_cfg.items() if key not in ("model", "stages")}
        given = component_arguments(method.network(), free, (), "model_cfg", supplied=("skeleton",))
        self.net = build_network(name, given, skeleton=skeleton, classes=0)
        if self.engine_cfg["restore_hint"]:
            return  # a checkpoint of the whole network follows: a resumed training, a test
        for stage, path in sorted((model_cfg.get("stages") or {}).items()):
            if stage not in method.stages:
                raise UserError(f"model_cfg.stages.{stage}: {name} has stages {', '.join(method.stages) or 'none'}")
            weights, prefixes = load_checkpoint(Path(path))["model"], method.stages[stage]
            load_stage(self.net, weights, Path(path), prefixes=prefixes, optional=method.optional)

    def init_parameters(self) -> None:
        """Nothing: the host would wipe what build_network loaded or drew."""

    def get_optimizer(self, optimizer_cfg: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The host's, which also keeps to trainer_cfg.clip_grad; under float16 the hook sees unscaled gradients."""
        optimizer, limit = super().get_optimizer(optimizer_cfg), self.engine_cfg.get("clip_grad")

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(self.net.parameters(), limit)

        if limit:
            optimizer.register_step_pre_hook(clip)
        return optimizer

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Bare network keys, so that a checkpoint moves between engine and host."""
        return self.net.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return self.net.load_state_dict(state_dict, *args, **kwargs)

    def fit_inputs(self, most: int = 512) -> None:
        """A new network's input statistics, from training clips of at most `most` sequences, not augmented."""
        fitted = self.net.state_dict().get("t1.streams.fitted")
        if fitted is None or bool(fitted):
            return
        loader = self.train_loader
        rows = np.linspace(0, len(loader.dataset) - 1, min(most, len(loader.dataset))).round().astype(int)
        training, self.training = self.training, False  # of this flag alone: it chooses the test's transforms
        poses, *_, lengths = self.inputs_pretreament(loader.collate_fn([loader.dataset[row] for row in rows.tolist()]))
        self.net.fit(*unpack(poses[0], lengths))
        self.training = training

    def forward(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
        """In training what the losses are fed with; else embeddings (n, d, p), mean part features after pretraining."""
        poses, labels, _, _, lengths = inputs
        pose, mask = unpack(poses[0].detach(), lengths)  # the host asks for gradients of its inputs; nobody reads them
        if not self.training:
            found = self.net.embed(pose, mask) if self.method.pretraining else self.net(pose, mask)["embedding"]
            return {"training_feat": {}, "visual_summary": {}, "inference_feat": {"embeddings": found.float()}}
        found, summary = self.net(pose, mask), {}
        if self.method.pretraining:
            losses = found["losses"]
            feats = {"reconstruction": torch.stack(list(losses.values())).mean()}  # a plain tensor: added as it is
            summary = {f"scalar/part/{part}": value.detach() for part, value in losses.items()}
        else:
            cfgs = self.cfgs["loss_cfg"]
            cfgs = [cfgs] if isinstance(cfgs, Mapping) else cfgs
            feats = {cfg["log_prefix"]: self.loss_inputs(cfg["type"], found, labels) for cfg in cfgs}
        return {"training_feat": feats, "visual_summary": summary, "inference_feat": {}}

    def loss_inputs(self, loss: str, found: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """What a loss of that type is called with, as the registry says."""
        wanted = self.method.losses.get(loss)
        if wanted is None or not set(wanted.values()) <= found.keys():
            raise UserError(
                f"loss_cfg: {type(self).__name__} has no output for {loss}; take it out, or write model_cfg.num_class"
            )
        return {**{argument: found[output].float() for argument, output in wanted.items()}, "labels": labels}


def host_model(name: str, base: type[nn.Module]) -> type[nn.Module]:
    """The network of that name as a subclass of the host's BaseModel."""

    class HostModel(Adapter, base):  # type: ignore[misc, valid-type]
        method = get_method(name)

        @staticmethod
        def run_train(model: Any) -> None:
            model.fit_inputs()  # DistributedDataParallel then hands rank 0's buffers to the others
            base.run_train(model)

    HostModel.__name__ = HostModel.__qualname__ = name
    return HostModel


def attach(base: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """Register our transforms and protocols in the running host and return our models by name."""
    models = {name: host_model(name, base) for name in METHODS}
    register(sys.modules["modeling.models"], models)
    register_transforms(sys.modules["data.transform"])
    register_evaluators(sys.modules["evaluation.evaluator"], "fastposegait")
    return models
