"""State in, a checkpoint file out, and back: `<save_name>-<iteration, 5 digits>.pt` with bare network keys.

A file holds the host's four keys (model, optimizer, scheduler, iteration) and under `engine` what exact resumption
needs besides. It is read with `weights_only=True`, so that opening somebody's file runs none of their code unless the
user says that they trust it, and written under another name first, so that a crash never leaves a broken one in place.
Weights alone (`.safetensors`, as engine/zoo.py writes them) are read too.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from bpmt_ext.engine.logs import log, written_whole
from bpmt_ext.errors import UserError


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    try:
        with written_whole(path) as file:
            torch.save(dict(state), file)
    except RuntimeError as error:  # a full disk, as torch tells it
        raise UserError(f"{path}: cannot be written ({_first(error)}); make room, then run again") from error


def check_writable(folder: Path) -> None:
    """UserError if no checkpoint could be written into this folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "correct its permissions, or make room"
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); {remedy}") from error


def set_aside(folder: Path, save_name: str, iteration: int, but: Path) -> None:
    """Rename the checkpoints beyond an iteration at which a training begins anew, and a best one that is of those: in
    a killed run's folder they would be taken for its own. The file `but` keeps its name."""
    later = [checkpoint_path(folder, save_name, k) for k in find_iterations(folder, save_name) if k > iteration]
    best = checkpoint_path(folder, save_name, "best")
    if best.is_file() and (not iteration or (later and load_checkpoint(best).get("iteration", 0) > iteration)):
        later.append(best)
    renamed = [path.replace(path.with_name(f"old-{path.name}")) for path in later if path != but]
    if renamed:
        log.info("%s: %d checkpoints of an earlier training are now named old-*", folder, len(renamed))


def load_checkpoint(path: Path, trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. UserError if it is missing or broken.

    One that holds more than tensors and plain data (a host of some years ago kept functions of its schedule there) is
    refused, unless `trust`: building what it asks for runs whatever its maker chose. Only the plain part is returned,
    so that what is saved later needs no trust again. Weights of OpenGait's losses (`loss_aggregator.*`) are left out.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint; train first, or name another one")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    _check_archive(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds: zip, pickle, runtime, ...
        needed = _globals(path, error)
        if not needed:
            # torch's own words advise to open such a file with its maker's code
            told = "damaged, or another kind of file" if isinstance(error, UnpicklingError) else _first(error)
            raise UserError(f"{path}: not a readable checkpoint of tensors and plain data ({told}); take a fresh "
                            "copy, or train again") from error  # fmt: skip
        if not trust:
            raise UserError(
                f"{path}: not a readable checkpoint of tensors and plain data: it needs {_few(needed)}; building these "
                "runs its maker's code: if you trust it, add --trust-checkpoint"
            ) from error
        log.warning("%s: trusted with %s", path, ", ".join(needed))
        state = _plain(_load_trusted(path))
    weights = state.get("model") if isinstance(state, dict) else None
    if not isinstance(weights, Mapping) or not all(isinstance(x, Tensor) for x in weights.values()):
        raise UserError(f"{path}: not a checkpoint: it has no `model` entry of named tensors; name another file")
    _check_tensors(weights, path)
    return state | {"model": {key: x for key, x in weights.items() if not key.startswith("loss_aggregator.")}}


def _check_archive(path: Path) -> None:
    """Refuse an archive that unfolds into more than it is: torch compresses nothing, and would make room for it all."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        return  # of the older kind, or damaged: torch says it
    if claimed > size:
        raise UserError(f"{path}: not a readable checkpoint: its {size} bytes unfold into {claimed}; take a fresh copy")


def _check_tensors(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that no network of ours has and that can only be a trap or a mistake."""
    size = path.stat().st_size
    for key, x in weights.items():
        plain = x.layout is torch.strided and x.device.type == "cpu" and not x.is_quantized
        if not plain or x.numel() * x.element_size() > size:
            raise UserError(f"{path}: {key} is no plain tensor of numbers that are in the file; take a fresh copy")


def _load_safetensors(path: Path) -> dict[str, Any]:
    """The weights of a .safetensors file, and the iteration if it says one."""
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get("iteration", "0")
            weights = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({_first(error)}); take a fresh copy") from error
    return {"model": weights, "iteration": int(said) if said.isdecimal() else 0}


def _load_trusted(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # the file's own code runs: anything may come out of it
        raise UserError(
            f"{path}: cannot be opened here even though it is trusted ({_first(error)}); open it with the versions it "
            "was written with and save its `model` alone"
        ) from error


def _plain(value: Any) -> Any:
    """The containers, numbers, texts and tensors of a nest; None for what is none of them, left out of mappings."""
    if isinstance(value, Mapping):
        pairs = ((key, item, _plain(item)) for key, item in value.items())
        return {key: plain for key, item, plain in pairs if plain is not None or item is None}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (Tensor, str, int, float)) else None


def _globals(path: Path, error: Exception) -> list[str]:
    """The functions and classes a file asks for beyond those that are safe; none where that is not what is wrong."""
    refused = re.findall(r"GLOBAL ([\w.]+)", str(error))  # torch names the first only, and not those of every format
    try:
        return sorted(get_unsafe_globals_in_checkpoint(path)) or refused
    except Exception:  # no zip archive, or a damaged one
        return refused


def _first(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def find_iterations(folder: Path, save_name: str) -> list[int]:
    """Iterations with a checkpoint in a folder, ascending."""
    pattern = re.compile(re.escape(save_name) + r"-(\d{5,})\.pt")
    found = (pattern.fullmatch(path.name) for path in folder.glob("*.pt")) if folder.is_dir() else ()
    return sorted(int(match[1]) for match in found if match)


def checkpoint_path(folder: Path, save_name: str, which: int | str) -> Path:
    """The file of one iteration, of `best`, or `last` = the highest iteration there."""
    if which == "last":
        iterations = find_iterations(folder, save_name)
        if not iterations:
            raise UserError(f"{folder}: no checkpoint of {save_name} here; train first")
        which = iterations[-1]
    return folder / (f"{save_name}-{which:05d}.pt" if isinstance(which, int) else f"{save_name}-{which}.pt")


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: Path, *, strict: bool = True) -> list[str]:
    """Copy weights by name; returns what was left out when not strict. A shape that differs is always an error."""
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if strict and (missing or unexpected):
        raise UserError(
            f"{source}: made by another architecture: {_few(missing)} missing, {_few(unexpected)} unexpected; "
            "use the config it was trained with"
        )
    _check_shapes(own, weights, sorted(own.keys() & weights.keys()), source)
    network.load_state_dict(weights, strict=False)
    if missing or unexpected:
        log.warning("%s: %s missing, %s unexpected", source, _few(missing), _few(unexpected))
    return missing + unexpected


def load_stage(
    network: nn.Module, weights: Mapping[str, Tensor], source: Path, *, prefixes: Sequence[str], optional: Sequence[str]
) -> None:
    """Take an earlier stage's weights: exactly the keys under these prefixes, each of which must be on both sides."""
    own = network.state_dict()
    mine, theirs = ({k for k in keys if k.startswith(tuple(prefixes))} for keys in (own, weights))
    if mine != theirs:
        raise UserError(
            f"{source}: the earlier stage was built otherwise: {_few(sorted(mine - theirs))} missing, "
            f"{_few(sorted(theirs - mine))} unexpected; both stages' model_cfg must agree"
        )
    taken = sorted(mine | {k for k in optional if k in own and k in weights})
    _check_shapes(own, weights, taken, source)
    network.load_state_dict({key: weights[key] for key in taken}, strict=False)


def _check_shapes(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], keys: Sequence[str], source: Path) -> None:
    wrong = [key for key in keys if own[key].shape != weights[key].shape]
    if wrong:
        key = wrong[0]
        raise UserError(
            f"{source}: made by another architecture: {key} is {tuple(weights[key].shape)} there and "
            f"{tuple(own[key].shape)} here ({len(wrong)} such); model_cfg must agree"
        )


def _few(keys: Sequence[str]) -> str:
    if not keys:
        return "nothing"
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def weights_hash(network: nn.Module | Mapping[str, Tensor]) -> str:
    """A short checksum of all weights, of a network or as a checkpoint names them, for results files."""
    total = 0
    for name, value in sorted((network.state_dict() if isinstance(network, nn.Module) else network).items()):
        total = zlib.crc32(value.detach().cpu().contiguous().numpy().tobytes(), zlib.crc32(name.encode(), total))
    return f"{total:08x}"
