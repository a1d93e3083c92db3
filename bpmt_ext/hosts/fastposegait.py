"""FastPoseGait's batch (ipts, labs, typs, vies, seqL) in, its dict of training, summary and inference features out.

One file in the host's checkout, `fastposegait/modeling/models/bpmt_ext_plugin.py`, holds three lines:

    from bpmt_ext.hosts.fastposegait import attach
    from ..base_model import BaseModel
    globals().update(attach(BaseModel))

The host then finds BPMT_T1, BPMT_T2 and BPMT among its models and `Bpmt<Name>` among its transforms. Contract and
traps: host_contract.md sections 4-8. Nothing below this file ever sees `seqL` or the host's layout.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bpmt_ext.config import component_arguments
from bpmt_ext.data.transforms import TRANSFORMS, Compose, Transform
from bpmt_ext.draws import Draws
from bpmt_ext.engine.checkpoint import load_checkpoint, load_stage
from bpmt_ext.errors import UserError
from bpmt_ext.registry import METHODS, build_network, get_method
from bpmt_ext.skeletons import get_skeleton, skeleton_from_mapping

PREFIX = "net."


def unpack(x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """The host's pose (n, c, t, v, 1), or (1, c, sum t, v, 1) with lengths (1, n) -> pose (n, t, v, c), mask (n, t)."""
    pose = x.squeeze(-1).permute(0, 2, 3, 1)  # (n, t, v, c)
    if lengths is None:
        return pose, torch.ones(pose.shape[:2], dtype=torch.bool, device=x.device)
    lengths = lengths.flatten().long()
    time = torch.arange(int(lengths.max()), device=x.device)
    start = lengths.cumsum(0) - lengths
    frame = start[:, None] + torch.minimum(time, lengths[:, None] - 1)  # a padded frame repeats the last
    return pose[0, frame], time < lengths[:, None]


def host_transform(transform: type[Transform]) -> type:
    """One of our transforms as the host calls it: a sequence (t, v, c) as an array in, an array out.

    The host draws from numpy's global generator, which it seeds; so does this one's key.
    """

    class HostTransform(transform):  # type: ignore[misc, valid-type]
        def __call__(self, data: np.ndarray) -> np.ndarray:
            pose = torch.from_numpy(np.array(data))[None]
            mask = torch.ones(pose.shape[:2], dtype=torch.bool)
            draws = Draws(torch.from_numpy(np.random.randint(0, 2**62, size=1)))
            return super().__call__(pose, mask, draws)[0].numpy()

    HostTransform.__name__ = HostTransform.__qualname__ = f"Bpmt{transform.__name__}"
    return HostTransform


def host_model(name: str, base: type[nn.Module]) -> type[nn.Module]:
    """The network of that name as a subclass of the host's BaseModel."""
    method = get_method(name)

    class HostModel(base):  # type: ignore[misc, valid-type]
        def build_network(self, model_cfg: Mapping[str, Any]) -> None:
            data, free = self.cfgs["data_cfg"], {k: v for k, v in model_cfg.items() if k not in ("model", "stages")}
            own = data.get("skeleton")
            skeleton = skeleton_from_mapping(own) if own else get_skeleton(data.get("joint_format", "coco17"))
            given = component_arguments(method.network(), free, (), "model_cfg", supplied=("skeleton",))
            self.net = build_network(name, given, skeleton=skeleton, classes=0)
            for stage, path in sorted((model_cfg.get("stages") or {}).items()):
                if stage not in method.stages:
                    raise UserError(f"model_cfg.stages.{stage}: {name} has stages {', '.join(method.stages) or 'none'}")
                weights = load_checkpoint(Path(path))["model"]
                load_stage(
                    self.net, weights, Path(path), prefixes=method.stages[stage], optional=method.optional
                )

        def init_parameters(self) -> None:
            """Nothing: the host would wipe what build_network loaded or drew."""

        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            """Bare network keys, so that a checkpoint moves between engine and host."""
            state = super().state_dict(*args, **kwargs)
            return {key.removeprefix(PREFIX): value for key, value in state.items()}

        def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, **kwargs: Any) -> Any:
            return super().load_state_dict({PREFIX + k: v for k, v in state_dict.items()}, strict=strict, **kwargs)

        def forward(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
            poses, labels, _, _, lengths = inputs
            pose, mask = unpack(poses[0], lengths)
            pose = pose.detach()  # the host asks for gradients of its inputs; nobody reads them
            if not self.training:
                embedding = self.net.embed(pose, mask) if method.pretraining else self.net(pose, mask)["embedding"]
                return {"training_feat": {}, "visual_summary": {}, "inference_feat": {"embeddings": embedding}}
            if not bool(self.net.t1.streams.fitted):  # the first batch of an untrained network
                self.net.fit(pose, mask)
            out = self.net(pose, mask)
            if method.pretraining:
                losses = out["losses"]
                return {
                    "training_feat": {"reconstruction": torch.stack(list(losses.values())).mean()},
                    "visual_summary": {f"scalar/part/{part}": value.detach() for part, value in losses.items()},
                    "inference_feat": {},
                }
            return {
                "training_feat": self._training_feat(out, labels),
                "visual_summary": {},
                "inference_feat": {"embeddings": out["embedding"]},
            }

        def _training_feat(self, out: Mapping[str, Tensor], labels: Tensor) -> dict[str, dict[str, Tensor]]:
            """For each loss of the config what it is called with."""
            cfgs = self.cfgs["loss_cfg"]
            feats = {}
            for cfg in [cfgs] if isinstance(cfgs, Mapping) else cfgs:
                if cfg["type"] not in method.losses:
                    raise UserError(f"loss_cfg: {name} has no output for {cfg['type']}; take it out")
                inputs = {argument: out[key] for argument, key in method.losses[cfg["type"]].items()}
                feats[cfg["log_prefix"]] = {**inputs, "labels": labels}
            return feats

    HostModel.__name__ = HostModel.__qualname__ = name
    return HostModel


def register(module: ModuleType, components: Mapping[str, Any]) -> None:
    """Set each component as an attribute of a host's module. Refuses a name the host already has."""
    for name, component in components.items():
        if hasattr(module, name):
            raise UserError(f"{module.__name__} already has a {name}; unlink the other extension that brought it")
        setattr(module, name, component)


def attach(base: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """Register our transforms in the running host and return our models by name."""
    ours = [t for t in TRANSFORMS.values() if t is not Compose]
    register(sys.modules["data.transform"], {f"Bpmt{t.__name__}": host_transform(t) for t in ours})
    return {name: host_model(name, base) for name in METHODS}
