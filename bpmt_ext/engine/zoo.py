"""The folder of a trained run in, its weights as safetensors with a JSON card out; such a card in, its network out.

A card says all that is needed to use the weights without the run: the network's name and constructor arguments, the
skeleton, the test's transforms and distance, where the figures come from, and checksums.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from bpmt_ext import __version__
from bpmt_ext.config import Settings, settings_from
from bpmt_ext.config_layers import read_yaml
from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.data.transforms import Compose, build_transform
from bpmt_ext.engine.checkpoint import (
    checkpoint_path,
    find_iterations,
    load_checkpoint,
    load_weights,
    weights_hash,
)
from bpmt_ext.engine.logs import write_json
from bpmt_ext.errors import UserError
from bpmt_ext.jsonfiles import read_json
from bpmt_ext.registry import build_network, get_method
from bpmt_ext.regular import at_home
from bpmt_ext.skeletons import Skeleton, get_skeleton, skeleton_from_mapping

FORMAT = 1
_KEYS = {"format": int, "name": str, "network": str, "arguments": dict, "skeleton": (str, dict), "transform": list,
         "weights": dict}  # fmt: skip
_SCORES = {"metrics": dict, "weights": str, "data": str}
MADE_UP = "Trained on made-up walkers: nothing in it was recorded from anybody."
RECORDED = ("Trained on recordings of people ({dataset}), which their owners give out on application: ask them before "
            "passing these weights on, and use them for research only.")  # fmt: skip


@dataclass(frozen=True)
class TrainedRun:
    """One trained run on disk: its folder, its settings, the checkpoint that was tested (the one that would be, where
    no test was made), that file's weights, and the results of every test by its name."""

    folder: Path
    settings: Settings
    checkpoint: Path
    iteration: int
    weights: Mapping[str, Tensor]
    scores: Mapping[str, Mapping[str, Any]]


def find_runs(folders: Iterable[Path]) -> list[TrainedRun]:
    """Every run with a checkpoint in these folders and below. UserError for a folder without any."""
    found: dict[Path, TrainedRun] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--runs {folder}: there is no such folder; name one that holds runs")
        files = [file for file in sorted(folder.rglob("config.yaml")) if any(file.parent.glob("checkpoints/*.pt"))]
        if not files:
            raise UserError(f"--runs {folder}: holds no trained run (config.yaml beside checkpoints/); train first")
        found |= {file.parent.resolve(): read_run(file.parent) for file in files}
    return list(found.values())


def read_run(folder: Path) -> TrainedRun:
    """The run of a folder that holds config.yaml and checkpoints/.

    UserError if the results there were measured with weights that are in none of its checkpoints.
    """
    file = folder / "config.yaml"
    values = read_yaml(file)
    if not values:
        raise UserError(f"{file}: holds no settings; name the folder of a trained run")
    settings = settings_from(values, source=str(file))
    scores = _scores(folder, settings)
    hashes = {one["weights"] for one in scores.values()}
    path, state = _tested(folder, settings, hashes)
    return TrainedRun(folder, settings, path, int(state.get("iteration", 0)), state["model"], scores)


def _scores(folder: Path, settings: Settings) -> dict[str, Mapping[str, Any]]:
    """Results by the test's name: of the run itself, or of the cell of a comparison whose last stage it is."""
    own = folder / "results.json"
    if own.is_file():
        results = read_json(own)
        return {str(results.get("dataset")): _holding(results, own, **_SCORES)}
    cell = next((above.parent for above in folder.parents if above.name == "output"), None)
    if cell is None or not (cell / "result.json").is_file():
        return {}
    result = read_json(cell / "result.json")
    if result.get("model") != settings.model_cfg.model:
        return {}
    said = {"versions": result.get("versions", {})}
    scores = _holding(result, cell / "result.json", scores=dict)["scores"]
    return {name: said | _holding(one, cell / "result.json", **_SCORES) for name, one in scores.items()}


def _holding(results: Any, path: Path, **kinds: type) -> dict[str, Any]:
    """Results that have what a card takes from them, each of its kind."""
    found = results if isinstance(results, dict) else {}
    lacking = [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]
    if lacking:
        raise UserError(f"{path}: says nothing of {lacking[0]}; test the network again")
    return dict(found)


def _tested(folder: Path, settings: Settings, hashes: set[str]) -> tuple[Path, dict[str, Any]]:
    """The checkpoint whose weights have that checksum, and its content; without a test the one a test would take."""
    name, checkpoints = settings.trainer_cfg.save_name, folder / "checkpoints"
    paths = [checkpoint_path(checkpoints, name, i) for i in reversed(find_iterations(checkpoints, name))]
    best = checkpoint_path(checkpoints, name, "best")
    if best.is_file():
        paths.insert(0 if settings.evaluator_cfg.restore_hint == "best" else len(paths), best)
    for path in paths:
        state = load_checkpoint(path)
        if not hashes or {weights_hash(state["model"])} == hashes:
            return path, state
    if not paths:
        raise UserError(f"{checkpoints}: no checkpoint of {name} here, as config.yaml names it; train it again")
    raise UserError(f"{folder}: its results are of weights that are in none of its checkpoints; test it again")


def constructor_arguments(run: TrainedRun) -> dict[str, Any]:
    """Everything the run's network was made with but its skeleton; the number of classes as its weights have it."""
    method = get_method(run.settings.model_cfg.model)
    arguments = run.settings.arguments(method.network(), "model_cfg", supplied=("skeleton",))
    if method.classes and arguments.get(method.classes) is None:
        wide = [run.weights[key].shape[axis] for key, axis in method.classifier if key in run.weights]
        arguments[method.classes] = wide[0] if wide else 0
    return arguments


def file_hash(path: Path) -> str:
    """sha256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_card(run: TrainedRun, name: str) -> dict[str, Any]:
    """What a card says but for the checksum of its own weights file. It names no folder of this machine."""
    settings, e = run.settings, run.settings.evaluator_cfg
    data = settings.data_cfg
    first = next(iter(run.scores.values()), {})
    kept = ("protocol", "metrics", "probes", "gallery", "note", "data")
    made_up = data.dataset_name.startswith("walkers")
    card = {
        "format": FORMAT,
        "name": name,
        "network": settings.model_cfg.model,
        "arguments": constructor_arguments(run),
        "skeleton": data.skeleton if data.skeleton is not None else get_skeleton(data.joint_format).name,
    }
    network = _network(card, f"{run.folder}: arguments")
    load_weights(network, run.weights, run.checkpoint)  # a card that would not load is not written
    return card | {
        "transform": list(e.transform),
        "test": {"metric": e.metric, "eval_func": e.eval_func, "same_camera": e.same_camera, "camera": e.camera,
                 "cross_view_gallery": e.cross_view_gallery, "sampler": e.sampler.model_dump(exclude_none=True)},
        "dataset": data.dataset_name,
        "data": first.get("data"),
        "iteration": run.iteration,
        "seed": settings.trainer_cfg.seed,
        "scores": {test: {key: one[key] for key in kept if key in one} for test, one in run.scores.items()},
        "parameters": sum(p.numel() for p in network.parameters()),
        "checkpoint": {"file": run.checkpoint.name, "sha256": file_hash(run.checkpoint)},
        "config": first.get("config", settings.fingerprint),
        "versions": dict(first.get("versions", {})) or {"bpmt_ext": __version__, "torch": torch.__version__,
                                                       "python": platform.python_version()},
        "licence": MADE_UP if made_up else RECORDED.format(dataset=data.dataset_name),
    }  # fmt: skip


def export(run: TrainedRun, card: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write <out>/<name>.safetensors and <name>.json; returns the card with the file's checksum. Equal weights give
    equal files. UserError for a folder in a git work tree: weights made of recordings are never to be committed."""
    repository = next((p for p in (out, *out.parents) if (p / ".git").exists()), None)
    if repository is not None:
        raise UserError(f"{out}: lies in the repository {repository}; write weights to a folder outside of it")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{card['name']}.safetensors"
    # clone: safetensors takes neither views nor tensors that share memory
    weights = {key: value.detach().clone().contiguous() for key, value in run.weights.items()}
    said = {"iteration": str(card["iteration"])}  # one entry: several come in any order, and files would differ
    write_bytes(path, safetensors.torch.save(weights, metadata=said))
    full = {**card, "weights": {"file": path.name, "sha256": file_hash(path), "crc32": weights_hash(weights)}}
    write_json(path.with_suffix(".json"), full)
    return full


def read_card(path: Path) -> dict[str, Any]:
    """The card of a .json or .safetensors file, its weights' checksum compared. UserError for what is none."""
    card_file = path.with_suffix(".json")
    if not card_file.is_file():
        raise UserError(f"{card_file}: there is no such card; name the .json that lies beside the weights")
    card = read_json(card_file)
    wrong = [key for key, kind in _KEYS.items() if not isinstance(card.get(key), kind)]
    if wrong or card["format"] != FORMAT:
        what = f"has no {wrong[0]}" if wrong else f"is of format {card['format']}, this reads {FORMAT}"
        raise UserError(f"{card_file}: is no card of a trained network: it {what}; export the network again")
    weights = _weights_file(card_file, card)
    if not weights.is_file():
        raise UserError(f"{weights}: the weights of {card_file.name} are missing; put them beside it")
    if file_hash(weights) != card["weights"].get("sha256"):
        raise UserError(f"{weights}: is not the file that {card_file.name} was written for (other sha256); take both "
                        "from one export")
    return card


def _weights_file(card_file: Path, card: Mapping[str, Any]) -> Path:
    """The weights beside a card, whose name is the card's own word: never a path to elsewhere."""
    return card_file.with_name(os.path.basename(str(card["weights"].get("file"))) or "none")


def card_skeleton(card: Mapping[str, Any]) -> Skeleton:
    """The joint format a card's network reads."""
    named = card["skeleton"]
    return get_skeleton(named) if isinstance(named, str) else skeleton_from_mapping(named)


def load_card(path: Path | str) -> tuple[nn.Module, Compose]:
    """The network of a card, in eval mode, and the transform before it: the embeddings of the run, bit for bit.

        network, transform = load_card("zoo/name.json")
        embedding = network(*transform.reframe(pose, mask))["embedding"]      # pose (n, t, v, c), mask (n, t)

    A network of pretraining has `embed(pose, mask)` instead. UserError for a file that is no card, has other weights
    than it says, or names a network, arguments or transforms that are not known here.
    """
    path = at_home(path)
    card = read_card(path)
    network, skeleton = _network(card, f"{path}: arguments"), card_skeleton(card)
    weights = _weights_file(path.with_suffix(".json"), card)
    load_weights(network, load_checkpoint(weights)["model"], weights)
    return network.eval(), build_transform(card["transform"], skeleton)


def _network(card: Mapping[str, Any], where: str) -> nn.Module:
    """The network a card describes, with weights of its own."""
    wide = get_method(card["network"]).classes
    classes = card["arguments"].get(wide) or 0 if wide else 0
    return build_network(card["network"], card["arguments"], skeleton=card_skeleton(card), classes=classes, where=where)
