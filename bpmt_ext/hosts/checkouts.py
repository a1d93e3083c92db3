"""A folder in, which host stands there, in which version and what its imports lack, out. Nothing of it is run.

What we know of the two hosts beyond their contract (host_contract.md) is one row each in `HOSTS`.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from bpmt_ext.errors import UserError
from bpmt_ext.regular import at_home, read_regular, real_path


@dataclass(frozen=True)
class Host:
    """One host. protocols, models, samplers: names that are its own. losses: what its own take besides type,
    log_prefix and loss_term_weight. frame_threshold: whether it reads that key. positions: whether data_in_use may be
    positions. trainer: keys that only it reads. measured, fingerprint: the commit the adapter was tried with, and its
    files."""

    name: str
    package: str
    url: str
    measured: str
    fingerprint: str
    protocols: tuple[str, ...]
    losses: Mapping[str, tuple[str, ...]]
    models: tuple[str, ...]
    samplers: tuple[str, ...]
    frame_threshold: bool
    positions: bool
    trainer: Mapping[str, object] = field(default_factory=dict)

    @property
    def plugin(self) -> Path:
        """Our one file in a checkout."""
        return Path(self.package, "modeling", "models", "bpmt_ext_plugin.py")

    @property
    def plugin_text(self) -> str:
        return (
            f'"""{self.name}\'s BaseModel in, the networks of bpmt_ext out. `bpmt unlink` takes this file away."""\n\n'
            f"from bpmt_ext.hosts.{self.package} import attach\n\n"
            "from ..base_model import BaseModel\n\n"
            "globals().update(attach(BaseModel))\n"
        )


HOSTS: Mapping[str, Host] = {
    "fastposegait": Host(
        name="FastPoseGait",
        package="fastposegait",
        url="https://github.com/BNU-IVC/FastPoseGait",
        measured="94da9c8",
        fingerprint="9dc56da3c5a88df6",
        protocols=(
            "evaluate_indoor_dataset", "evaluate_real_scene", "GREW_submission", "evaluate_Gait3D", "evaluate_CCPG",
        ),
        losses={
            "TripletLoss": ("margin", "is_hard_loss"),
            "CrossEntropyLoss": ("scale", "label_smooth", "eps", "log_accuracy"),
        },
        models=("GaitTR", "GaitGraph1", "GaitGraph2", "gpgait", "GPGait_PlusPlus"),
        samplers=("TripletSampler", "CommonSampler", "RandomTripletSampler", "InferenceSampler"),
        frame_threshold=True,
        positions=False,
    ),
    "opengait": Host(
        name="OpenGait",
        package="opengait",
        url="https://github.com/ShiqiYu/OpenGait",
        measured="0efafd4",
        fingerprint="6965c667b95febd1",
        protocols=(
            "evaluate_indoor_dataset", "evaluate_real_scene", "GREW_submission", "HID_submission", "evaluate_Gait3D",
            "evaluate_CCPG", "evaluate_FreeGait", "evaluate_CCGR_MINI", "evaluate_scoliosis",
        ),
        losses={
            "TripletLoss": ("margin",),
            "CrossEntropyLoss": ("scale", "label_smooth", "eps", "log_accuracy"),
        },
        models=("GaitTR", "GaitGraph1", "GaitGraph2", "DeepGaitV2"),
        samplers=("TripletSampler", "CommonSampler", "BilateralSampler", "InferenceSampler"),
        frame_threshold=False,
        positions=True,
        trainer={"find_unused_parameters": False},
    ),
}  # fmt: skip

# What the adapter relies on, and the files whose content makes a version.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "main.py": (),
    "modeling/base_model.py": tuple(
        f"BaseModel.{name}"
        for name in ("build_network", "init_parameters", "get_optimizer", "inputs_pretreament", "run_train")
    ),
    "modeling/loss_aggregator.py": ("LossAggregator",),
    "modeling/models/__init__.py": (),
    "modeling/losses/__init__.py": (),
    "data/collate_fn.py": ("CollateFn",),
    "data/dataset.py": ("DataSet",),
    "data/transform.py": ("Compose", "SkeletonInput"),
    "evaluation/evaluator.py": (),
}
DISTRIBUTIONS = {"cv2": "opencv-python", "sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}


@dataclass(frozen=True)
class Checkout:
    """A host at its place. commit: of its git repository, where it has one. measured: whether the files the adapter
    relies on are those it was measured against."""

    root: Path
    host: Host
    commit: str | None
    measured: bool

    @property
    def version(self) -> str:
        at = f"commit {self.commit[:7]}" if self.commit else "no git repository"
        known = self.host.measured
        return f"{at}, files as at {known}" if self.measured else f"{at}, files differ from {known}, the version tried"


def find_host(path: Path) -> Checkout:
    """The host whose checkout stands at `path`. UserError if none or an unknown one does."""
    root = real_path(at_home(path))
    if not root.is_dir():
        raise UserError(f"{path}: there is no such folder; give the folder of a FastPoseGait or OpenGait checkout")
    found = [host for host in HOSTS.values() if (root / host.package / "modeling").is_dir()]
    if len(found) != 1:
        what = "both hosts stand" if found else "no host stands"
        above = f" (did you mean {root.parent}?)" if root.name in HOSTS else ""
        raise UserError(
            f"{path}: {what} here{above}; a checkout of one has a folder {' or '.join(f'{h}/modeling' for h in HOSTS)}"
        )
    (host,) = found
    _check_contract(path, host)
    return Checkout(root, host, _commit(root), fingerprint(root, host) == host.fingerprint)


def _check_contract(path: Path, host: Host) -> None:
    """UserError for a file or name that the adapter relies on and this version does not have."""
    needed = {f"{host.package}/{name}": names for name, names in NEEDED.items()} | {"configs/default.yaml": ()}
    for name, names in needed.items():
        file = at_home(path) / name
        remedy = f"this is no {host.name} that is known here, get one from {host.url} (tried: {host.measured})"
        if not file.is_file():
            raise UserError(f"{path}: there is no {name}; {remedy}")
        absent = [wanted for wanted in names if wanted not in _defined(file)]
        if absent:
            raise UserError(f"{path}: {name} has no {absent[0]}; {remedy}")


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(read_regular(file))
    except (SyntaxError, ValueError, OSError) as error:
        raise UserError(f"{file}: is no Python file ({error}); restore it") from error


def _defined(file: Path) -> set[str]:
    """Names of the functions and classes at the top of a file, and `Class.method`."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    top = [node for node in _parse(file).body if isinstance(node, kinds)]
    inner = {f"{a.name}.{b.name}" for a in top if isinstance(a, ast.ClassDef) for b in a.body if isinstance(b, kinds)}
    return {node.name for node in top} | inner


def fingerprint(root: Path, host: Host) -> str:
    """16 hexadecimal digits that stand for the content of the files the adapter relies on; line ends do not count."""
    files = [root / host.package / name for name in sorted(NEEDED)] + [root / "configs" / "default.yaml"]
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(b"\n".join(file.read_bytes().splitlines())).digest())
    return digest.hexdigest()[:16]


def git(root: Path, *arguments: str) -> str | None:
    """What git says in this folder; None where it has nothing to say or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit(root: Path) -> str | None:
    top = git(root, "rev-parse", "--show-toplevel")
    return git(root, "rev-parse", "HEAD") if top and real_path(top) == real_path(root) else None


def tracked(root: Path, paths: Sequence[Path]) -> list[str]:
    """Those of these paths, relative to the checkout, that its repository tracks."""
    return (git(root, "ls-files", "--", *map(str, paths)) or "").splitlines()


def missing_imports(checkout: Checkout) -> dict[str, str]:
    """Packages the host imports on start that this Python cannot find -> one file that does.

    A host imports every model it has. Only imports at the top level of a file count: others are optional.
    """
    package = checkout.root / checkout.host.package
    files = sorted(package.rglob("*.py"))
    own = {part for file in files for part in file.relative_to(package).with_suffix("").parts}
    wanted: dict[str, str] = {}
    for file in files:
        for name in _top_imports(_parse(file)):
            if name not in own and name not in sys.stdlib_module_names:
                wanted.setdefault(name, str(file.relative_to(checkout.root)))
    return {name: file for name, file in sorted(wanted.items()) if find_spec(name) is None}


def _top_imports(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def install_hint(missing: Sequence[str]) -> str:
    """The command that brings these packages."""
    return f"pip install {' '.join(DISTRIBUTIONS.get(name, name) for name in missing)}"
