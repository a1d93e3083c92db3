"""Our transforms and protocols in, the same as a host calls them out: what FastPoseGait and OpenGait share.

Both look a name up as an attribute of a module and pass it only the arguments that `inspect.getfullargspec` lists
(host_contract.md section 2). Letters: n sequences, t frames, v joints, c channels, d width, p parts.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from bpmt_ext.data.sequences import read_partition
from bpmt_ext.data.transforms import TRANSFORMS, Compose, Transform
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.protocols import PROTOCOLS, evaluate
from bpmt_ext.skeletons import skeleton_from_mapping


def host_transform(transform: type[Transform]) -> type:
    """One of our transforms as the host calls it: one sequence (t, v, c), an array of any type, to float32 (t, v, c).

    Its key comes from numpy's global generator, which the host seeds. `joint_format` may also be a mapping.
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
            key = torch.from_numpy(np.random.randint(0, 2**62, size=1, dtype=np.int64))
            return super().__call__(pose, mask, Draws(key))[0].numpy()

    HostTransform.__name__ = HostTransform.__qualname__ = f"Bpmt{transform.__name__}"
    return HostTransform


def host_evaluator(protocol: str, logger: str) -> Callable[..., dict[str, float]]:
    """One of our protocols as the host calls it: its dict of embeddings (n, d, p) and lists to `scalar/...` numbers.

    logger: the name the host logs under. dataset_partition: where the PROBE_SET is; a host does not tell.
    """

    def evaluator(
        data: Mapping[str, Any],
        dataset: str,
        metric: str = "euc",
        same_camera: str = "keep",
        camera: str = "type_prefix",
        dataset_partition: str | None = None,
    ) -> dict[str, float]:
        probes = read_partition(dataset_partition).probe if dataset_partition else ()
        given = [data[key] for key in ("embeddings", "labels", "types", "views")]
        rule = {"metric": metric, "same_camera": same_camera, "camera": camera}
        metrics = evaluate(protocol, *given, probes=frozenset(probes) or None, **rule)["metrics"]
        text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        logging.getLogger(logger).info("%s of %s (%s): %s", protocol, dataset, metric, text)
        return {f"scalar/test_accuracy/{name}": float(value) for name, value in metrics.items()}

    evaluator.__name__ = evaluator.__qualname__ = protocol
    return evaluator


def register(module: ModuleType, components: Mapping[str, Any]) -> None:
    """Set each component as an attribute of a host's module; UserError for a name it has, before any is set."""
    for name in components:
        if hasattr(module, name):
            raise UserError(f"{module.__name__} already has a {name}; unlink the other extension that brought it")
    for name, component in components.items():
        setattr(module, name, component)


def register_transforms(module: ModuleType) -> None:
    """Ours as `Bpmt<Name>`: a host has some of their names, with the behaviour its own configs were made for."""
    ours = [transform for transform in TRANSFORMS.values() if transform is not Compose]
    register(module, {f"Bpmt{transform.__name__}": host_transform(transform) for transform in ours})


def register_evaluators(module: ModuleType, logger: str) -> None:
    """Ours under their own names, but for those that the host itself defines."""
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    register(module, {name: host_evaluator(name, logger) for name in PROTOCOLS if name not in own})
