"""A host's batch in, its dict of training, summary and inference features out: what both hosts' models share.

`fastposegait.py` and `opengait.py` hold what differs. Contract and traps: host_contract.md sections 2-8. Nothing below
this file ever sees a host's lengths, layout or names. Letters: n sequences, t frames, v joints, c channels, d width,
p parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bpmt_ext.config import component_arguments
from bpmt_ext.engine.checkpoint import load_checkpoint, load_stage
from bpmt_ext.engine.preparation import wants_fit
from bpmt_ext.errors import UserError
from bpmt_ext.hosts.components import cut, own_chain, transformed
from bpmt_ext.registry import Method, build_network
from bpmt_ext.skeletons import Skeleton, get_skeleton, skeleton_from_mapping


class Adapter:
    """The methods of a model that differ from the host's BaseModel, which comes next in the order of inheritance.

    method: the registry's row. order: where the host's pose (n, ?, ?, ?, 1) has sequence, frame, joint and channel.
    """

    method: Method
    order: tuple[int, int, int, int]

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        """The network of the config, with the weights of its earlier stages where it starts from nothing else."""
        name, method = type(self).__name__, self.method
        free = {key: value for key, value in model_cfg.items() if key not in ("model", "stages")}
        given = component_arguments(method.network(), free, (), "model_cfg", supplied=("skeleton",))
        self.skeleton = _skeleton(self.cfgs["data_cfg"])
        self.net = build_network(name, given, skeleton=self.skeleton, classes=0)
        sections = {True: "trainer_cfg", False: "evaluator_cfg"}
        self.chains = {training: own_chain(self.cfgs[section]["transform"]) for training, section in sections.items()}
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
        self.release_idle()  # now: the optimiser's list of parameters stays that of the engine's checkpoints
        return optimizer

    def release_idle(self) -> None:
        """Freeze what no loss reaches (a BatchNorm before the classifier, without cross-entropy): the host's
        DistributedDataParallel would stop at it. A made-up clip in eval mode tells which;
        the host sets the mode anew."""
        device, skeleton = next(self.net.parameters()).device, self.skeleton
        pictures = getattr(self.net, "modality", "pose") == "silhouette"
        frame = (64, 64) if pictures else (skeleton.num_joints, skeleton.dims + 1)
        pose = torch.linspace(0 if pictures else -1, 255 if pictures else 1, 2 * 8 * math.prod(frame), device=device)
        pose, mask = pose.view(2, 8, *frame), torch.ones(2, 8, dtype=torch.bool, device=device)
        if self.chains[True] is not None:
            keys = torch.zeros(2, len(self.chains[True]), dtype=torch.int64)
            pose, mask = transformed(self.chains[True], pose, mask, keys)
        out = self.net.eval()(pose, mask)
        feats = self.training_feats(out, torch.tensor([0, 1], device=device)).values()
        floats = [x for feat in feats for x in (feat.values() if isinstance(feat, Mapping) else [feat])]
        total = torch.stack([x.sum() for x in floats if x.requires_grad]).sum()
        weights = [p for p in self.net.parameters() if p.requires_grad]
        for weight, gradient in zip(weights, torch.autograd.grad(total, weights, allow_unused=True), strict=True):
            weight.requires_grad_(gradient is not None)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Bare network keys, so that a checkpoint moves between engine and hosts."""
        return self.net.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Bare network keys; OpenGait's losses are part of its models, ours have no weights."""
        own = {key: value for key, value in state_dict.items() if not key.startswith("loss_aggregator.")}
        return self.net.load_state_dict(own, *args, **kwargs)

    def inputs_pretreament(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The host's collated batch -> ([pose (n, t, v, c)], labels (n,), types, views, mask (n, t)), on the device.

        Where all transforms are ours they see the whole batch at once, and each sequence apart even where the host
        lays several in one row; else the host's own code applies them.
        """
        chain, files = self.chains[self.training], len(inputs[0])
        if files != 1:
            raise UserError(f"a sequence has {files} files in use; choose that of the poses with data_cfg.data_in_use")
        if chain is None:
            (x,), labels, types, views, lengths = super().inputs_pretreament(inputs)
            pose = x.detach()  # the host asks for its gradient; nobody reads that
            pose = pose if pose.ndim == 4 else pose.permute(*self.order, 4)[..., 0]  # silhouettes have four axes
            pose, mask = _masked(pose) if lengths is None else cut(pose[0], lengths)
            return [pose], labels, types, views, mask
        (arrays,), labels, types, views, lengths = inputs
        device = next(self.net.parameters()).device
        frames = torch.from_numpy(np.asarray(arrays, dtype=np.float32)).to(device)
        pose, mask = _masked(frames) if lengths is None else cut(frames[0], torch.from_numpy(np.asarray(lengths)))
        pose, mask = transformed(chain, pose, mask)
        return [pose], torch.tensor(labels, device=device), types, views, mask

    def fit_inputs(self, most: int = 512) -> None:
        """A new network's input statistics, from training clips of at most `most` sequences, not augmented."""
        if not wants_fit(self.net):
            return
        loader = self.train_loader
        rows = np.linspace(0, len(loader.dataset) - 1, min(most, len(loader.dataset))).round().astype(int)
        training, self.training = self.training, False  # of this flag alone: it chooses the test's transforms
        (pose,), *_, mask = self.inputs_pretreament(loader.collate_fn([loader.dataset[row] for row in rows.tolist()]))
        self.net.fit(pose, mask)
        self.training = training

    def forward(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
        """In training what the losses are fed with; else embeddings (n, d, p), mean part features after pretraining."""
        (pose,), labels, _, _, mask = inputs
        if not self.training:
            found = self.net.embed(pose, mask) if self.method.pretraining else self.net(pose, mask)["embedding"]
            return {"training_feat": {}, "visual_summary": {}, "inference_feat": {"embeddings": found.float()}}
        out = self.net(pose, mask)
        summary = {f"scalar/part/{part}": value.detach() for part, value in out.get("losses", {}).items()}
        return {"training_feat": self.training_feats(out, labels), "visual_summary": summary, "inference_feat": {}}

    def training_feats(self, out: Mapping[str, Any], labels: Tensor) -> dict[str, Any]:
        """What the host's aggregator gets: arguments by the losses' log_prefix, or in pretraining the loss itself."""
        if self.method.pretraining:
            loss = out["loss"] if "loss" in out else torch.stack(list(out["losses"].values())).mean()
            return {"reconstruction": loss}
        cfgs = self.cfgs["loss_cfg"]
        feats = {}
        for cfg in [cfgs] if isinstance(cfgs, Mapping) else cfgs:
            wanted = self.method.losses.get(cfg["type"].removeprefix("Bpmt"))
            if wanted is None or not set(wanted.values()) <= out.keys():
                missing = f"loss_cfg: {type(self).__name__} has no output for {cfg['type']}"
                raise UserError(f"{missing}; take it out, or write model_cfg.num_class")
            given = {argument: out[output].float() for argument, output in wanted.items()}
            feats[cfg["log_prefix"]] = {**given, "labels": labels}
        return feats


def _masked(pose: Tensor) -> tuple[Tensor, Tensor]:
    return pose, torch.ones(pose.shape[:2], dtype=torch.bool, device=pose.device)


def _skeleton(data_cfg: Any) -> Skeleton:
    if not isinstance(data_cfg, Mapping):
        raise UserError("data_cfg: is a list of data sets; the networks of bpmt_ext train on one, write one mapping")
    own = data_cfg.get("skeleton")
    return skeleton_from_mapping(own) if own else get_skeleton(data_cfg.get("joint_format", "coco17"))
