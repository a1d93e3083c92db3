"""A config's trained network in; one file that others can run without this package (ONNX) or load (safetensors) out.

An ONNX file holds the test's transforms and the network (graph.py), and is compared with them before it is kept. A
safetensors file holds the weights and the whole config; `read_network` loads it without running anybody's code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from bpmt_ext import __version__
from bpmt_ext.config import Settings, settings_from
from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.data.preprocessing import FillMissing, NormalizeEmpty
from bpmt_ext.engine.checkpoint import load_checkpoint
from bpmt_ext.engine.embed import Model, class_names, trained_run
from bpmt_ext.engine.graph import (
    EXTRA,
    LENGTHS,
    MOST,
    PICTURES,
    Deployed,
    Inputs,
    Source,
    check,
    deployed,
    session,
    steps_of,
    to_onnx,
)
from bpmt_ext.engine.parts import classifies
from bpmt_ext.engine.stages import load_data, pose_skeleton
from bpmt_ext.engine.testing import checkpoint_to_test
from bpmt_ext.errors import UserError
from bpmt_ext.regular import open_regular

FORMATS = {"onnx": ".onnx", "safetensors": ".safetensors"}
FRAMES = 150  # of a real sequence that is compared; of silhouettes a fifth


def run(
    settings: Settings, out: Path, *, form: str | None = None, output: Path, iteration: int | None = None,
    trust: bool = False, classes: Path | None = None,
) -> int:  # fmt: skip
    """Write the network that `bpmt test` would test, or that of an iteration, to `out`; 0 when done.

    form: onnx or safetensors; as the file's name ends where left out. classes: names of the classes, a line each.
    """
    form = form or next((name for name, suffix in FORMATS.items() if out.suffix.lower() == suffix), None)
    if form is None:
        raise UserError(f"-o {out}: ends neither in .onnx nor in .safetensors; say which with --format")
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"-o {out}: {'is a folder' if out.is_dir() else f'there is no folder {out.parent}'}; name a "
                        "file in a folder that is there")  # fmt: skip
    if form == "onnx":
        check_extra()
    path = checkpoint_to_test(settings, output, iteration)[1]
    state = load_checkpoint(path, trust)
    strict = settings.evaluator_cfg.restore_ckpt_strict
    made = trained_run(settings, state["model"], path, strict=strict, device=torch.device("cpu"))
    model = Model(made, settings, dict(state["model"]), int(state.get("iteration", 0)))
    data, told = (onnx_file if form == "onnx" else weights_file)(model, classes)
    write_bytes(out, data)
    print(f"{out}: {settings.model_cfg.model}, iteration {model.iteration}, {len(data) / 1e6:.1f} MB\n{told}")
    return 0


def check_extra() -> None:
    """UserError if what writes and runs ONNX files is not installed."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX files need {', '.join(missing)}; install the extra: pip install 'bpmt_ext[export]'")


def facts(model: Model, classes: Path | None = None) -> dict[str, str]:
    """What a file says about its network, all of it text; lists as JSON. classes: where their names stand."""
    settings, skeleton = model.settings, pose_skeleton(model.settings)
    sampler = settings.evaluator_cfg.sampler.model_dump()
    number = {"all": sampler.get("frames_all_limit"), "fixed": sampler.get("frames_num_fixed")}
    kind = str(sampler.get("sample_type", "all")).partition("_")[0]
    steps, before = steps_of(model.run.test_transform)
    found = {
        "made_by": f"bpmt_ext {__version__}", "model": settings.model_cfg.model, "iteration": str(model.iteration),
        "config": settings.fingerprint, "weights": model.checksum, "distance": settings.evaluator_cfg.metric,
        "frames": json.dumps({"kind": kind, "number": number.get(kind)}),
        "transforms": json.dumps([type(step).__name__ for step in steps.steps]),
    }  # fmt: skip
    if settings.data_cfg.modality == "pose":
        found["joint_format"], found["bodies"] = model.skeleton.name, str(model.bodies)
        found["joints"] = json.dumps(skeleton.joints)
        names = ["x", "y", "z"][: skeleton.dims] + ["confidence"] * (_numbers(model) > skeleton.dims)
        found["coordinates"] = json.dumps(names)
    if before:
        found["transforms_before"] = json.dumps(before)
    if classifies(settings):
        found["classes"] = json.dumps(class_names(model, classes), ensure_ascii=False)
    return found


# ---------------------------------------------------------------- ONNX


def onnx_file(model: Model, classes: Path | None = None) -> tuple[bytes, str]:
    """The file and what to tell. UserError where the graph is not the network, by how much."""
    network, told = deployed(model.run), facts(model, classes)
    before = steps_of(model.run.test_transform)[1]
    real, why = real_inputs(model, before)
    source = source_of(model, next(iter(real.values()), None))
    kind, shape = source.kind, source.shape
    inputs = {
        f"{len(lengths)} made-up sequences of {', '.join(map(str, lengths))} frames": source.batch(lengths, k)
        for k, lengths in enumerate(LENGTHS if kind == "pose" else PICTURES)
    }  # fmt: skip
    _probe(network, next(iter(inputs.values())), model.settings)
    graph = to_onnx(network, source.batch((9, 7, 4)), kind)
    runtime = session(graph.SerializeToString())
    worst = check(network, runtime, inputs | real)
    told |= {"difference": f"{worst:.1e}", "compared": f"{len(inputs)} made-up and {len(real)} real batches"}
    for key, value in told.items():
        graph.metadata_props.add(key=key, value=value)
    size = f"(n, t, {', '.join(map(str, shape))}) {'uint8' if kind == 'silhouette' else 'float32'}"
    out = ", ".join(f"{entry.name} ({', '.join(map(str, entry.shape))})" for entry in runtime.get_outputs())
    lines = [f"inputs {kind} {size}, length (n,) int64; outputs {out}"]
    if before:
        lines.append(f"{', '.join(before)} is not part of the graph: it takes the maps that it draws")
    lines.append(f"largest difference from the network {worst:.1e} of the output's scale (allowed {MOST:g}), over "
                 f"{told['compared']}{f' ({why})' if why else ''}")  # fmt: skip
    return graph.SerializeToString(), "\n".join(lines)


def source_of(model: Model, real: Inputs | None = None) -> Source:
    """What makes input for the graph. real: a batch of the config's own data, where it is at hand."""
    steps, before = steps_of(model.run.test_transform)
    if model.settings.data_cfg.modality == "silhouette":
        return Source("silhouette", (64, 64) if real is None else real[0].shape[2:])
    if before:
        return Source("map", tuple(model.run.network.takes))  # type: ignore[arg-type]
    filled = any(isinstance(step, (FillMissing, NormalizeEmpty)) for step in steps.steps)
    shape = pose_skeleton(model.settings).num_joints, _numbers(model)
    return Source("pose", shape, model.skeleton, filled)


def _numbers(model: Model) -> int:
    """Per joint of the graph's input: more than usual only where the network itself reads them as they come."""
    takes = getattr(model.run.network, "takes", (0, 0))
    plain = pose_skeleton(model.settings).dims + 1  # with the confidence
    return plain if takes[1] == plain else model.channels


@torch.no_grad()
def _probe(network: Deployed, given: Inputs, settings: Settings) -> None:
    """UserError if the transforms do not make what the network takes."""
    pose, length = (torch.from_numpy(x) for x in given)
    try:
        network(pose, length)
    except (ValueError, RuntimeError) as error:
        where = settings.where("evaluator_cfg.transform")
        raise UserError(f"{where}: {settings.model_cfg.model} cannot read what they make: {error}") from error


def real_inputs(model: Model, before: tuple[str, ...]) -> tuple[dict[str, Inputs], str]:
    """Batches of the config's own test data, where it is at hand; else why not."""
    try:
        test = load_data(model.settings).test
        rows = np.unique(np.linspace(0, len(test) - 1, 4).round().astype(int)) if len(test) else []
        limit = FRAMES if model.settings.data_cfg.modality == "pose" else FRAMES // 5
        found = [np.asarray(test.read(int(i)))[:limit] for i in rows]
    except (UserError, OSError):
        return {}, "the config's data is not at hand"
    if not found:
        return {}, "the config's test set is empty"
    if model.settings.data_cfg.modality == "pose":
        c = _numbers(model)
        found = [x if x.shape[2] >= c else np.concatenate([x, np.ones_like(x[..., :1])], 2) for x in found]
        found = [x[..., :c] for x in found]
    if before:  # the graph takes what the steps before it make
        transform = model.run.test_transform
        steps = type(transform)(transform.steps[: len(before)])
        found = [steps(torch.from_numpy(x)[None], torch.ones(1, len(x), dtype=torch.bool))[0].numpy() for x in found]
    lengths = np.array([len(x) for x in found])
    if len({x.shape[1:] for x in found}) > 1:
        return {"a real sequence": (found[0][None], lengths[:1])}, ""
    padded = np.stack([np.concatenate([x, np.repeat(x[-1:], max(lengths) - len(x), 0)]) for x in found])
    return {"a real sequence": (found[0][None], lengths[:1]), f"{len(found)} real sequences": (padded, lengths)}, ""


# ---------------------------------------------------------------- safetensors


def weights_file(model: Model, classes: Path | None = None) -> tuple[bytes, str]:
    """The file and what to tell: weights, what `facts` says, and `settings`, the whole config as JSON."""
    told = {**facts(model, classes), "settings": json.dumps(model.settings.resolved(), default=str)}
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in model.weights.items()}
    return save(tensors, told), f"{len(tensors)} tensors and the whole config (metadata `settings`)"


def read_network(path: Path) -> tuple[nn.Module, Settings, Mapping[str, Any]]:
    """A safetensors file of `bpmt export` -> the network, ready to test, its settings, and what the file says."""
    try:
        open_regular(path).close()  # safe_open would wait at a pipe
        with safe_open(path, framework="pt") as file:
            told, weights = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}
        values = json.loads(told["settings"])
        if not isinstance(values, dict):
            raise ValueError("its settings are no mapping")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: is no readable .safetensors file of bpmt export ({type(error).__name__}: {error}); "
                        "export the network again") from error  # fmt: skip
    settings = settings_from(values, source=str(path))
    return trained_run(settings, weights, path, device=torch.device("cpu")).network, settings, told
