"""A trained network and its test transforms in; one ONNX graph of both, and how far it is from the network, out.

Graph: poses (n, t, v, c), silhouettes (n, t, h, w) or maps (n, t, 2, h, w), and length (n,) int64, how many frames of
each are real, -> embedding (n, d, p) and, of actions, logits (n, k). n and t are free. What stands behind a sequence's
length is not read. torch.export takes the network apart; the networks have no branch that depends on numbers then
(exporting.py). Shapes: n sequences, t frames, v joints, c numbers per joint, d width, p parts, k classes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bpmt_ext.data.maps import SkeletonMaps
from bpmt_ext.data.transforms import Compose
from bpmt_ext.engine.parts import Run, classifies
from bpmt_ext.errors import UserError
from bpmt_ext.losses import CrossEntropyLoss
from bpmt_ext.skeletons import Skeleton, get_skeleton, joint_mapping
from bpmt_ext.synthetic import make_sequence, make_walkers, walk_3d

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

EXTRA = ("onnx", "onnxscript", "onnxruntime")
MOST = 1e-4  # by which a graph may differ from its network, as a share of the output's root mean square
Inputs = tuple[np.ndarray, np.ndarray]  # poses, silhouettes or maps; length


def steps_of(transform: Compose) -> tuple[Compose, tuple[str, ...]]:
    """The steps that go into the graph, and the names of those before them that do not.

    SkeletonMaps does not: it rounds to grey levels, which another program's last digit turns into the next one.
    """
    drawn = [k + 1 for k, step in enumerate(transform.steps) if isinstance(step, SkeletonMaps)]
    first = drawn[-1] if drawn else 0
    return Compose(transform.steps[first:]), tuple(type(step).__name__ for step in transform.steps[:first])


class Deployed(nn.Module):
    """Input and length as in the head of this file -> (embedding,) or (embedding, logits).

    Padded frames become repetitions of the last real one, as a loader makes them. actions: add the logits, the mean
    over the parts, times the scale of the loss, so that their softmax is the scores of `bpmt predict`.
    """

    def __init__(self, steps: Compose, network: nn.Module, scale: float | None) -> None:
        super().__init__()
        self.steps, self.network, self.scale = steps, network, scale

    def forward(self, pose: Tensor, length: Tensor) -> tuple[Tensor, ...]:
        n, t = pose.shape[:2]
        frame = torch.arange(t, device=pose.device)
        length = length.clamp(min=1, max=t)[:, None]
        pose = pose[torch.arange(n, device=pose.device)[:, None], torch.minimum(frame, length - 1)]
        return self.outputs(pose, frame < length)

    def outputs(self, pose: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """A batch as a loader makes it, and its mask (n, t)."""
        out = self.network(*self.steps.reframe(pose, mask))
        if self.scale is None:
            return (out["embedding"],)
        return out["embedding"], self.scale * out["logits"].mean(2)


def deployed(run: Run) -> Deployed:
    """What of a run becomes the graph. UserError for a network that has no embedding, or a test that draws numbers."""
    settings = run.settings
    if run.method.pretraining:
        raise UserError(f"{settings.model_cfg.model} reconstructs and has no embedding; export the stage after it, or "
                        "its weights: --format safetensors")  # fmt: skip
    if run.test_transform.random:
        raise UserError(f"{settings.where('evaluator_cfg.transform')}: draws random numbers; take these steps out")
    scale = None
    if classifies(settings):
        scale = next((loss.scale for _, loss, _ in run.objective.losses if isinstance(loss, CrossEntropyLoss)), 1.0)
    return Deployed(steps_of(run.test_transform)[0], run.network, scale).eval()


# ---------------------------------------------------------------- the graph


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """No fused layers, which no other program knows; and the exporter's notes are not for users."""
    fast, loggers = torch.backends.mha.get_fastpath_enabled(), ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    levels = [logging.getLogger(name).level for name in loggers]
    torch.backends.mha.set_fastpath_enabled(False)
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for name, level in zip(loggers, levels, strict=True):
            logging.getLogger(name).setLevel(level)


def to_onnx(network: Deployed, example: Inputs, name: str) -> Any:
    """The graph as an onnx.ModelProto with inputs `name` and `length`. UserError where it cannot be made."""
    given = tuple(torch.from_numpy(x) for x in example)
    free = torch.export.Dim.DYNAMIC
    outputs = ["embedding", "logits"][: 1 + (network.scale is not None)]
    try:
        with _quiet_exporter():
            program = torch.export.export(network, given, dynamic_shapes=({0: free, 1: free}, {0: free}), strict=False)
            made = torch.onnx.export(program, given, dynamo=True, input_names=[name, "length"], output_names=outputs,
                                     external_data=False, verbose=False)  # fmt: skip
    except Exception as error:  # whatever the exporter meets in a network of somebody's own
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{type(network.network).__name__} cannot be written as an ONNX graph ({told[0][:300]}); its "
                        "weights can: --format safetensors") from error  # fmt: skip
    return _tidy(made.model_proto)


def _tidy(model: Any) -> Any:
    """The free axes called n and t; without notes on where each node comes from, in this machine's paths."""
    graph = model.graph
    axes = [entry.dim_param for entry in graph.input[0].type.tensor_type.shape.dim[:2]]
    names = dict(zip(axes, "nt", strict=True))
    graph.ClearField("value_info")
    for entry in (*graph.input, *graph.output):
        for axis in entry.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]
    for owner in (graph, *model.functions):
        for part in (owner, *owner.node, *getattr(owner, "initializer", ())):
            for field in ("metadata_props", "doc_string"):
                part.ClearField(field)
    return model


# ---------------------------------------------------------------- the comparison


def session(model: bytes) -> InferenceSession:
    """onnxruntime on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def difference(network: Deployed, runtime: InferenceSession, given: Inputs) -> float:
    """The largest difference of any output, as a share of that output's root mean square.

    The network sees what a test would show it: the sequences as a loader pads them. The graph sees other padding.
    """
    pose, length = given
    frame = np.arange(pose.shape[1])
    batch = pose[np.arange(len(pose))[:, None], np.minimum(frame, length[:, None] - 1)]
    with torch.no_grad():
        wanted = network.outputs(torch.from_numpy(batch), torch.from_numpy(frame < length[:, None]))
    filled = pose.copy()
    filled[frame >= length[:, None]] = 7  # must not matter
    names = [entry.name for entry in runtime.get_inputs()]
    found = runtime.run(None, dict(zip(names, (filled, length), strict=True)))
    worst = 0.0
    for a, b in zip(wanted, found, strict=True):
        a = a.numpy()
        if a.shape != b.shape or not np.isfinite(b).all():
            return float("inf")
        scale = float(np.sqrt(np.square(a, dtype=np.float64).mean()))
        worst = max(worst, float(np.abs(a - b).max()) / max(scale, 1e-30))
    return worst


LENGTHS: Sequence[tuple[int, ...]] = ((1,), (30,), (47, 20, 1), (131, 61), (8, 8, 3, 8))
PICTURES: Sequence[tuple[int, ...]] = ((1,), (24,), (19, 7, 1, 2))  # of silhouettes and maps, which take longer


@dataclass(frozen=True)
class Source:
    """What makes input of no meaning for one network, with the numbers of real ones.

    kind: pose (of walkers, in pixels or metres), silhouette (uint8) or map (0 to 1). shape: of one frame. lost: some
    joints are lost in some frames, for transforms that fill them.
    """

    kind: str
    shape: tuple[int, ...]
    skeleton: Skeleton | None = None
    lost: bool = False

    def batch(self, lengths: Sequence[int], seed: int = 0) -> Inputs:
        """Sequences of so many frames, padded at their ends."""
        rng = np.random.default_rng(seed)
        n, t = len(lengths), max(lengths)
        if self.kind == "silhouette":
            rows, columns = (np.linspace(-1, 1, size)[:, None] for size in self.shape)
            wide = 0.3 + 0.2 * rng.random((n, t, 1, 1)) + 0.2 * np.sin(6 * rows + rng.random((n, t, 1, 1)))
            lit = (np.abs(columns.T - 0.2 * rng.standard_normal((n, t, 1, 1))) < wide) & (np.abs(rows) < 0.9)
            x = lit.astype(np.uint8) * np.uint8(255)
        elif self.kind == "map":
            x = rng.random((n, t, *self.shape)).astype(np.float32)
        else:
            x = np.stack([self._walk(t, 8 * seed + k, rng) for k in range(n)]).astype(np.float32)
        return x, np.array(lengths, np.int64)

    def _walk(self, t: int, number: int, rng: np.random.Generator) -> np.ndarray:
        """(t, v, c): bodies that walk; joints that COCO has not stay with them at some distance."""
        (v, c), skeleton = self.shape, self.skeleton
        assert skeleton is not None
        origins = joint_mapping(get_skeleton("coco17"), skeleton)
        bodies = []
        for body in range(v // skeleton.num_joints):
            who = make_walkers([number + 1000 * body], seed=0)
            flat = skeleton.dims == 2  # x, y, confidence in pixels; else x, height, y in metres
            made = make_sequence(who, 0, 1, 0, seed=0)[0] if flat else walk_3d(who, 0, 120, rng)[..., [0, 2, 1]]
            made = made[np.arange(t) % len(made)].astype(np.float64)  # (t, 17, 3)
            size = np.ptp(made[0, :, 1])
            joints = [
                made[:, list(origin)].mean(1) if origin else made.mean(1) + [*size * rng.normal(0, 0.2, 2), 0]
                for origin in origins
            ]  # fmt: skip
            bodies.append(np.stack(joints, 1))
        pose = np.concatenate(bodies, 1)
        pose = np.concatenate([pose, np.ones((*pose.shape[:2], 1))], 2)[..., :c]
        if self.lost and skeleton.dims == 2 and c > 2:
            pose[rng.random(pose.shape[:2]) < 0.05] = 0
        return pose


def check(network: Deployed, runtime: InferenceSession, inputs: Mapping[str, Inputs]) -> float:
    """The largest difference over all inputs. UserError if it is more than MOST, with the input it was found on."""
    found = {name: difference(network, runtime, given) for name, given in inputs.items()}
    name = max(found, key=lambda key: found[key])
    if not found[name] <= MOST:
        raise UserError(f"nothing is written: the graph is {found[name]:.1e} of the embedding's scale away from the "
                        f"network on {name}, more than {MOST:g}; take --format safetensors")  # fmt: skip
    return found[name]
