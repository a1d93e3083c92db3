"""Our networks, transforms, losses and protocols in, the same as a host finds and calls them out.

Both look a name up as an attribute of a module and pass it only the arguments that `inspect.getfullargspec` lists
(host_contract.md section 2). Letters: n sequences, t frames, v joints, c channels, d width, p parts.
"""

from __future__ import annotations

import inspect
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bpmt_ext.data.sequences import read_partition
from bpmt_ext.data.transforms import TRANSFORMS, Compose, Transform, build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.logs import write_text
from bpmt_ext.errors import UserError
from bpmt_ext.hosts.checkouts import Host
from bpmt_ext.losses import LOSSES
from bpmt_ext.metrics.protocols import PROTOCOLS, evaluate
from bpmt_ext.metrics.submission import submission_text
from bpmt_ext.registry import METHODS, get_method
from bpmt_ext.skeletons import skeleton_from_mapping


def draw_keys(n: int, k: int) -> Tensor:
    """Keys (n, k) int64 of k transforms of n sequences, from numpy's global generator, which the host seeds: the same
    numbers as n k times one key."""
    return torch.from_numpy(np.random.randint(0, 2**62, size=(n, k), dtype=np.int64))


def host_transform(transform: type[Transform]) -> type:
    """One of our transforms as the host calls it: one sequence (t, v, c), an array of any type, to float32 (t, v, c).

    `joint_format` may also be a mapping.
    """

    class HostTransform(transform):  # type: ignore[misc, valid-type]
        def __init__(self, **given: Any) -> None:
            if isinstance(given.get("joint_format"), Mapping):
                given["joint_format"] = skeleton_from_mapping(given["joint_format"])
            super().__init__(**given)

        __init__.__signature__ = inspect.signature(transform.__init__)  # type: ignore[attr-defined]

        def __call__(self, data: np.ndarray) -> np.ndarray:
            pose = torch.from_numpy(np.array(data, dtype=np.float32))[None]  # a copy: the host may keep `data`
            mask = torch.ones(pose.shape[:2], dtype=torch.bool)
            return super().__call__(pose, mask, Draws(draw_keys(1, 1)[0]))[0].numpy()

    HostTransform.__name__ = HostTransform.__qualname__ = f"Bpmt{transform.__name__}"
    return HostTransform


def own_chain(cfgs: Any) -> tuple[Transform, ...] | None:
    """The steps of a host's `transform` entry, one Compose, if they are all ours, but for the host's own SkeletonInput
    at the end of a chain for poses; else None: the host then calls them itself."""
    if not isinstance(cfgs, list) or len(cfgs) != 1 or cfgs[0]["type"] != "Compose":
        return None
    steps = cfgs[0].get("trf_cfg") or [{"type": None}]
    if steps[-1]["type"] == "SkeletonInput":
        steps = steps[:-1]
    ours = {f"Bpmt{name}": name for name in TRANSFORMS if name != "Compose"}
    if not all(step["type"] in ours for step in steps):
        return None
    own = [{**step, "type": ours[step["type"]]} for step in steps]
    for step in own:
        if isinstance(step.get("joint_format"), Mapping):
            step["joint_format"] = skeleton_from_mapping(step["joint_format"])
    return build_transform(own).steps


def transformed(
    chain: Sequence[Transform], pose: Tensor, mask: Tensor, keys: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """pose (n, t, v, c) and mask (n, t) after our transforms, with the numbers that the host's sequence after sequence
    would give. keys: (n, k) for the k transforms, from the host's generator where left out."""
    keys = (draw_keys(len(pose), len(chain)) if keys is None else keys).to(pose.device)
    for step, key in zip(chain, keys.unbind(1), strict=True):
        pose, mask = step.reframe(pose, mask, Draws(key))
    return pose, mask


def cut(frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences one after the other (sum t, v, c), lengths (n,) -> pose (n, t, v, c), mask (n, t).

    A padded frame repeats its sequence's last one.
    """
    lengths = lengths.to(frames.device).flatten().long()
    time = torch.arange(int(lengths.max()), device=frames.device)
    start = lengths.cumsum(0) - lengths
    frame = start[:, None] + torch.minimum(time, lengths[:, None] - 1)
    return frames[frame], time < lengths[:, None]


def host_loss(loss: type[nn.Module]) -> type[nn.Module]:
    """One of our losses as a host's aggregator calls it: a pairwise one sees the rows of all processes, times their
    number, since DistributedDataParallel averages the gradients."""

    class HostLoss(loss):  # type: ignore[misc, valid-type]
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)

        __init__.__signature__ = inspect.signature(loss.__init__)  # type: ignore[attr-defined]

        def forward(self, **given: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            size = dist.get_world_size() if self.pairwise and dist.is_initialized() else 1
            world = World(dist.get_rank() if size > 1 else 0, size, given["labels"].device)
            value, info = super().forward(**{name: world.gather_rows(x) for name, x in given.items()})
            return size * value, {"loss": value.detach(), **info}

    HostLoss.__name__ = HostLoss.__qualname__ = f"Bpmt{loss.__name__}"
    return HostLoss


def host_evaluator(protocol: str, logger: str) -> Callable[..., dict[str, float]]:
    """One of our protocols as the host calls it: its dict of embeddings (n, d, p) and lists to `scalar/...` numbers.

    logger: the name the host logs under. dataset_partition: where the PROBE_SET is; a host does not tell. A submission
    goes where the hosts put theirs, below the working directory, which is the host's root.
    """

    def evaluator(
        data: Mapping[str, Any],
        dataset: str,
        metric: str = "euc",
        same_camera: str = "keep",
        camera: str = "type_prefix",
        dataset_partition: str | None = None,
        cross_view_gallery: bool = False,
    ) -> dict[str, float]:
        probes = read_partition(dataset_partition).probe if dataset_partition else ()
        given = [data[key] for key in ("embeddings", "labels", "types", "views")]
        rule = {"metric": metric, "same_camera": same_camera, "camera": camera, "dataset": dataset,
                "cross_view_gallery": cross_view_gallery}  # fmt: skip
        found = evaluate(protocol, *given, probes=frozenset(probes) or None, **rule)
        text = ", ".join(f"{name} {value:.4f}" for name, value in found["metrics"].items())
        said = logging.getLogger(logger)
        said.info("%s of %s (%s): %s", found["protocol"], dataset, metric, text)
        if "submission" in found:
            path = Path("GREW_result", f"{dataset}-{time.strftime('%Y%m%d-%H%M%S')}.csv").absolute()
            write_text(path, submission_text(**found["submission"]))
            said.info("%s; %s", path, found["note"])
        return {f"scalar/test_accuracy/{name}": float(value) for name, value in found["metrics"].items()}

    evaluator.__name__ = evaluator.__qualname__ = protocol
    return evaluator


def register(module: ModuleType, components: Mapping[str, Any]) -> None:
    """Set each component as an attribute of a host's module; UserError for a name it has, before any is set."""
    for name in components:
        if hasattr(module, name):
            raise UserError(f"{module.__name__} already has a {name}; unlink the other extension that brought it")
    for name, component in components.items():
        setattr(module, name, component)


def register_all(modules: Mapping[str, ModuleType], logger: str) -> None:
    """Our transforms and losses as `Bpmt<Name>`: a host has some of their names, with the behaviour its own configs
    were made for. Our protocols under their own names, but for those that the host itself defines."""
    ours = [transform for transform in TRANSFORMS.values() if transform is not Compose]
    register(modules["data.transform"], {f"Bpmt{transform.__name__}": host_transform(transform) for transform in ours})
    register(modules["modeling.losses"], {f"Bpmt{name}": host_loss(loss) for name, loss in LOSSES.items()})
    module = modules["evaluation.evaluator"]
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    register(module, {name: host_evaluator(name, logger) for name in PROTOCOLS if name not in own})


def host_model(name: str, adapter: type, base: type[nn.Module]) -> type[nn.Module]:
    """The network of that name as a subclass of the host's BaseModel."""

    class HostModel(adapter, base):  # type: ignore[misc, valid-type]
        method = get_method(name)

        @staticmethod
        def run_train(model: Any) -> None:
            model.fit_inputs()  # DistributedDataParallel then hands rank 0's buffers to the others
            base.run_train(model)

    HostModel.__name__ = HostModel.__qualname__ = name
    return HostModel


def attach_to(host: Host, adapter: type, base: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """Register what is ours in the running host and return our models by name, but for networks the host has."""
    models = {name: host_model(name, adapter, base) for name in METHODS if name not in host.models}
    register(sys.modules["modeling.models"], models)
    register_all(sys.modules, host.package)
    return models
