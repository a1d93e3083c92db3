"""A host's checkout in; our plugin file, configs and a manifest of them in it, and taken away again, out.

Nothing the host tracks is touched. The manifest, written first and removed last, names every file of ours with its
checksum and the folders made for them: what it does not name is not ours. Files appear all together or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bpmt_ext import __version__
from bpmt_ext.config import Settings, configs_folder, load_settings, suggestion
from bpmt_ext.data.pickles import read_pickle, write_bytes
from bpmt_ext.data.sequences import read_partition
from bpmt_ext.engine.stages import stage_options
from bpmt_ext.errors import UserError
from bpmt_ext.hosts.checkouts import HOSTS, Checkout, Host, find_host, install_hint, missing_imports, tracked
from bpmt_ext.hosts.configs import host_config, own_options
from bpmt_ext.regular import at_home, read_regular, real_path

DEFAULT_CONFIG = "configs/bpmt/bpmt_gait3d.yaml"  # with its stages
MANIFEST = Path("configs", "bpmt", "bpmt_ext.json")
PLACES = tuple(host.plugin for host in HOSTS.values())  # and below configs/: nothing of ours lies elsewhere


@dataclass(frozen=True)
class Manifest:
    """What we put into a checkout: checksums by path, and folders made, all relative to it."""

    version: str
    files: Mapping[Path, str]
    folders: tuple[Path, ...]

    def to_bytes(self) -> bytes:
        files = {path.as_posix(): sha for path, sha in sorted(self.files.items())}
        folders = [path.as_posix() for path in self.folders]
        return (json.dumps({"bpmt_ext": self.version, "files": files, "folders": folders}, indent=2) + "\n").encode()


def read_manifest(root: Path) -> Manifest | None:
    """The manifest of a checkout; None if nothing is linked there. UserError for a damaged one."""
    file = root / MANIFEST
    if not file.exists():
        return None
    try:
        values = json.loads(read_regular(file).decode("utf-8"))
        manifest = Manifest(
            str(values["bpmt_ext"]),
            {Path(name): str(sha) for name, sha in values["files"].items()},
            tuple(map(Path, values["folders"])),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: is damaged ({error}); restore it, or remove what was linked by hand") from error
    for path in (*manifest.files, *manifest.folders):
        ours = path in PLACES or path.parts[:1] == ("configs",)
        if path.is_absolute() or ".." in path.parts or not ours:
            raise UserError(f"{file}: names {path}, where nothing of ours can be; restore it or remove it")
    return manifest


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def link(path: Path, cfgs: Sequence[str] = (), *, gpus: int = 1, opts: Sequence[str] = ()) -> list[str]:
    """Bring the plugin and the resolved configs, with the stages they name, into the checkout; what to tell the user.

    opts: as for training, `t1.` and `t2.` for the stages. Relative paths in configs and opts start at the checkout,
    where the host runs. Linking again adds or renews. Raises UserError, and leaves everything as it was, for what
    the host cannot do and for a file in the way.
    """
    checkout = find_host(path)
    root, host = checkout.root, checkout.host
    old = read_manifest(root)
    if old is not None and old.version != __version__:
        raise UserError(
            f"{path}: is linked by bpmt_ext {old.version}, this is {__version__}; first `bpmt unlink {path}`"
        )
    old = old or Manifest(__version__, {}, ())
    notes: list[str] = []
    texts = {host.plugin: host.plugin_text.encode(), **_configs(checkout, cfgs or [DEFAULT_CONFIG], gpus, opts, notes)}
    _refuse_clashes(checkout, old, texts)
    parents = {folder for file in (*texts, MANIFEST) for folder in file.parents if not (root / folder).exists()}
    new = Manifest(
        __version__,
        {**old.files, **{file: sha256(text) for file, text in texts.items()}},
        (*old.folders, *sorted(parents - set(old.folders))),
    )
    _write(root, {MANIFEST: new.to_bytes(), **texts}, sorted(parents))
    lines = [f"{host.name} at {path} ({checkout.version}): linked {len(new.files)} files"]
    lines += [f"  {file.as_posix()}" for file in sorted(texts)] + notes
    lacking = missing_imports(checkout)
    if lacking:
        lines.append(f"note: in this Python {host.name} cannot start, it lacks {', '.join(lacking)}: "
                     f"{install_hint(list(lacking))}")
    return lines


def _configs(
    checkout: Checkout, cfgs: Sequence[str], gpus: int, opts: Sequence[str], notes: list[str]
) -> dict[Path, bytes]:
    """The resolved configs by their place in the checkout; what was chosen for the user goes to `notes`."""
    root, host, found = checkout.root, checkout.host, {}
    files = [_config_file(name, root) for name in cfgs]
    first = {file: load_settings(file, own_options(opts), root) for file in files}
    stages = {real_path(value) for settings in first.values() for value in settings.model_cfg.stages.values()}
    known: set[str] = set()
    for file, settings in first.items():
        if file not in stages:
            own = _own_partition(settings, opts, root)
            notes += [f"note: {settings.data_cfg.dataset_partition} is not there; took {text}" for text in own]
            _gather(file, [*opts, *own], root, found, known)
    for text in opts:
        name = text.partition(".")[0]
        if text not in own_options(opts) and name not in known:
            raise UserError(f"--opts {text}: the config has no stage {name}{suggestion(name, known)}")
    out = {}
    for place, (settings, given) in found.items():
        classes = count_identities(settings, host)
        _check_probes(settings, root)
        config = host_config(settings, host, classes=classes, gpus=gpus, opts=given, root=root)
        text = yaml.safe_dump(_from_checkout(config, root), sort_keys=False, allow_unicode=True)
        head = f"# Made by `bpmt link` (bpmt_ext {__version__}) for {host.name}; `bpmt unlink` takes it away.\n"
        out[place] = (head + text).encode()
    return out


def _config_file(name: str, root: Path) -> Path:
    """The file of --cfgs: the user's own, else a shipped one. What was linked before is not taken for a config."""
    file, shipped = real_path(at_home(name)), configs_folder().parent / name
    if file.is_file() and root not in file.parents:
        return file
    if not shipped.is_file():
        raise UserError(f"--cfgs {name}: there is no such file, neither here nor among the shipped configs")
    return real_path(shipped)


def _own_partition(settings: Settings, opts: Sequence[str], root: Path) -> list[str]:
    """The option that takes the host's own lists of this data set, where the config's are not there."""
    data = settings.data_cfg
    own = Path("datasets", data.dataset_name, f"{data.dataset_name}.json")
    chosen = any(text.startswith("data_cfg.dataset_partition=") for text in opts)
    if chosen or Path(data.dataset_partition).is_file() or not (root / own).is_file():
        return []
    return [f"data_cfg.dataset_partition={own.as_posix()}"]


def _gather(
    file: Path, opts: Sequence[str], root: Path, found: dict[Path, tuple[Settings, Sequence[str]]], known: set[str]
) -> None:
    """Put a config and the stages before it into `found`, by their place in the checkout, with their options."""
    settings = load_settings(file, own_options(opts), root)
    shipped = real_path(configs_folder())
    place = Path("configs", file.relative_to(shipped) if shipped in file.parents else Path("bpmt", file.name))
    if place in found and found[place][0].fingerprint != settings.fingerprint:
        raise UserError(f"{file}: is asked for twice, as {place.as_posix()}, with different settings; link one of them")
    found[place] = (settings, opts)
    for name, value in sorted(settings.model_cfg.stages.items()):
        known.add(name)
        if Path(value).suffix in (".yaml", ".yml"):
            _gather(real_path(value), stage_options(opts, name), root, found, known)


def count_identities(settings: Settings, host: Host) -> int:
    """Training identities as the host counts them: listed, and with a sequence on disk; all listed ones where the data
    are not there yet."""
    data = settings.data_cfg
    listed, root = read_partition(data.dataset_partition).train, Path(data.dataset_root or "")
    if not data.dataset_root:
        raise UserError(f"{settings.where('data_cfg.dataset_root')}: is not set; say where the pickles are")
    if not root.is_dir():
        return len(listed)

    def used(files: list[Path]) -> bool:
        threshold = data.frame_threshold if host.frame_threshold else 0
        return bool(files) and (not threshold or len(read_pickle(files[0])) > threshold)

    count = sum(any(used(sorted(view.iterdir())) for view in (root / label).glob("*/*")) for label in listed)
    if not count:
        raise UserError(f"{root}: has no sequence of any identity in TRAIN_SET of {data.dataset_partition}")
    return count


def _check_probes(settings: Settings, root: Path) -> None:
    """UserError where the host's Gait3D protocol would take other probes than this partition's: it reads its own."""
    own = root / "datasets" / "Gait3D" / "Gait3D.json"
    if settings.evaluator_cfg.eval_func != "evaluate_Gait3D" or not own.is_file():
        return
    partition = read_partition(settings.data_cfg.dataset_partition)
    ours, theirs = (
        {name for name in probes if name.partition("-")[0] in partition.test}
        for probes in (partition.probe, read_partition(own).probe)
    )
    if ours != theirs:
        raise UserError(
            f"{settings.data_cfg.dataset_partition}: its PROBE_SET is not that of {own}, which evaluate_Gait3D reads "
            "in the host; use --opts evaluator_cfg.eval_func=evaluate_retrieval"
        )


def _from_checkout(value: Any, root: Path) -> Any:
    """Paths inside the checkout relative to it: the host runs there, and it may be moved."""
    if isinstance(value, Mapping):
        return {key: _from_checkout(below, root) for key, below in value.items()}
    if isinstance(value, list):
        return [_from_checkout(below, root) for below in value]
    return value.removeprefix(f"{root}/") if isinstance(value, str) else value


def _refuse_clashes(checkout: Checkout, old: Manifest, texts: Mapping[Path, bytes]) -> None:
    """UserError for a file that we would overwrite and that is not ours, or not as we left it."""
    root = checkout.root
    for file, text in texts.items():
        target = root / file
        if not (target.exists() or target.is_symlink()):
            continue
        if file not in old.files:
            raise UserError(f"{target}: is there and not ours; move it away, then link again")
        if not target.is_file() or sha256(target.read_bytes()) not in (old.files[file], sha256(text)):
            raise UserError(f"{target}: was changed since it was linked; keep it under another name, then link again")
    written = [file for file, text in texts.items() if old.files.get(file) != sha256(text)]
    theirs = tracked(root, [MANIFEST, *written]) if written else []
    if theirs:
        raise UserError(f"{root / theirs[0]}: is tracked by the checkout's git repository; it would have to change")


def _write(root: Path, texts: Mapping[Path, bytes], folders: Sequence[Path]) -> None:
    """Write all files, or leave everything as it was and raise UserError."""
    before: dict[Path, bytes | None] = {}
    made: list[Path] = []
    try:
        for folder in folders:
            (root / folder).mkdir()
            made.append(root / folder)
        for file, text in texts.items():
            target = root / file
            now = target.read_bytes() if target.is_file() else None
            if now != text:
                before[target] = now
                write_bytes(target, text)
    except BaseException as error:
        for target, data in before.items():
            target.unlink(missing_ok=True) if data is None else target.write_bytes(data)
        for folder in reversed(made):
            folder.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"{error.filename or root}: cannot be written ({error.strerror or error})") from error
        raise


def unlink(path: Path, *, force: bool = False) -> list[str]:
    """Take away what `link` put into the checkout, whatever version did; what to tell the user.

    A file changed since stays, with the manifest, unless `force`; UserError then names it.
    """
    root = real_path(at_home(path))
    manifest = read_manifest(root) if root.is_dir() else None
    if manifest is None:
        raise UserError(f"{path}: nothing of bpmt_ext is linked here ({MANIFEST.as_posix()} is not there)")
    kept = {}
    for file, sha in manifest.files.items():
        target = root / file
        if not target.is_file():
            continue
        if not force and sha256(target.read_bytes()) != sha:
            kept[file] = sha
            continue
        target.unlink()
        for compiled in target.parent.glob(f"__pycache__/{target.stem}.*.pyc"):
            compiled.unlink()
    if kept:
        _write(root, {MANIFEST: Manifest(manifest.version, kept, manifest.folders).to_bytes()}, ())
        names = ", ".join(file.as_posix() for file in kept)
        raise UserError(f"{path}: kept {names}, changed since linked; the rest is gone; --force takes it too")
    (root / MANIFEST).unlink()
    for folder in reversed(manifest.folders):
        if (root / folder).is_dir() and not any((root / folder).iterdir()):
            (root / folder).rmdir()
    return [f"{path}: took {len(manifest.files)} files away; results under output/ stay"]
