"""A package name in, a stand-in of that host, written from its contract alone, out: running, and as a checkout."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import walking
from torch import nn

from bpmt_ext.config import Settings, load_settings
from bpmt_ext.hosts.checkouts import HOSTS, NEEDED
from bpmt_ext.hosts.configs import host_config
from bpmt_ext.losses import CrossEntropyLoss, TripletLoss
from bpmt_ext.registry import METHODS

SMALL = [
    "data_cfg.num_workers=0", "data_cfg.validation=0", "model_cfg.width=16", "model_cfg.layers=1", "model_cfg.heads=2",
    "model_cfg.max_frames=20", "trainer_cfg.sampler.batch_size=[4, 3]", "trainer_cfg.sampler.frames_num_fixed=20",
    "trainer_cfg.total_iter=10", "trainer_cfg.save_iter=10", "trainer_cfg.log_iter=5", "trainer_cfg.val_iter=0",
    "trainer_cfg.precision=off",
]  # fmt: skip
STAGES = {"BPMT_T1": "bpmt_demo_t1", "BPMT_T2": "bpmt_demo_t2", "BPMT": "bpmt_demo"}
OTHERS = {
    "TLCA_T1": "tlca/tlca_g38_t1", "TLCA": "tlca/tlca_g38", "gpgait": "gpgait/gpgait_g38",
    "GPGait_PlusPlus": "gpgait++/gpgait++_g38", "GaitMixer": "gaitmixer/gaitmixer_g38",
    "GaitFormer": "gaitmixer/gaitformer_g38", "GaitPT": "gaitpt/gaitpt_g38",
    "SkeletonGait": "skeletongait/skeletongait_g38", "LandmarkNet": "landmarkgait/LandmarkGait_Silh_to_Landmark_psymo",
    "ParsingNet": "landmarkgait/LandmarkGait_Landmark_to_Parsing_psymo",
    "LandmarkGait": "landmarkgait/LandmarkGait_Recognition_psymo",
}  # fmt: skip
TRIPLET_ONLY = "loss_cfg=[{type: TripletLoss, margin: 9.0, log_prefix: triplet}]"


def load(name: str, *opts: str) -> Settings:
    if name in OTHERS:
        return load_settings(f"configs/{OTHERS[name]}.yaml", [*small_of(name), *opts])
    return load_settings(f"configs/bpmt/{STAGES.get(name, name)}.yaml", [*SMALL, *opts])


def small_of(name: str) -> list[str]:
    """What makes a config's training short: SMALL, but for the sizes of another network than BPMT."""
    return [text for text in SMALL if name not in OTHERS or not text.startswith("model_cfg.")]


def for_host(package: str, name: str, *opts: str, classes: int = 5) -> dict[str, Any]:
    """The host's config of a stage, as it comes out of the file; the stages before it have the same options."""
    every = [*small_of(name), *opts]
    inner = [f"{stage}.{text}" for stage in ("t1", "t2") for text in every]
    cfg = host_config(load(name, *opts), HOSTS[package], classes=classes, opts=[*every, *inner])
    return yaml.safe_load(yaml.safe_dump(cfg))


def accepted(target: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the hosts pass on of a section: the keys an ordinary parameter stands for."""
    listed = inspect.getfullargspec(target.__init__ if inspect.isclass(target) else target)[0]
    return {key: value for key, value in given.items() if key in listed}


def component(cfg: Mapping[str, Any]) -> Any:
    """A transform as the host builds it: an attribute of data.transform, called with the arguments it lists first."""
    if cfg["type"] == "Compose":
        chain = [component(step) for step in cfg["trf_cfg"]]

        def run(pose: np.ndarray) -> np.ndarray:
            for step in chain:
                pose = step(pose)
            return pose

        return run
    made = getattr(sys.modules["data.transform"], cfg["type"])
    return made(**accepted(made, cfg)) if inspect.isclass(made) else made


class StandIn(nn.Module):
    """The hosts' BaseModel as their contract describes it: what happens in which order, and what it does to data."""

    time_axis = 2  # of a transformed input

    def __init__(self, cfgs: Mapping[str, Any], training: bool, sequences: list[tuple[np.ndarray, int]] = ()) -> None:
        super().__init__()
        self.cfgs = cfgs
        self.engine_cfg = cfgs["trainer_cfg" if training else "evaluator_cfg"]
        self.build_network(cfgs["model_cfg"])
        self.init_parameters()
        self.train_loader = SimpleNamespace(dataset=sequences, collate_fn=self.collate)
        self.ran: list[Any] = []
        if training:
            losses = {cfg["log_prefix"]: self.loss(cfg) for cfg in cfgs.get("loss_cfg", ())}
            self.loss_aggregator = self.keep_losses(losses)
            self.optimizer = self.get_optimizer(cfgs["optimizer_cfg"])
        self.train(training)

    @staticmethod
    def loss(cfg: Mapping[str, Any]) -> nn.Module:
        made = getattr(sys.modules["modeling.losses"], cfg["type"])
        return made(**accepted(made, cfg))

    @staticmethod
    def keep_losses(losses: dict[str, nn.Module]) -> Any:
        return losses

    def total(self, feats: Mapping[str, Any]) -> torch.Tensor:
        """The sum as the host's aggregator takes it: a tensor as it is, a mapping as arguments of that loss."""
        terms = []
        for key, value in feats.items():
            if isinstance(value, torch.Tensor):
                terms.append(value.mean())
            else:
                loss, info = self.loss_aggregator[key](**value)
                assert all(isinstance(x, torch.Tensor) for x in info.values())
                terms.append(loss.mean() * self.loss_aggregator[key].loss_term_weight)
        return torch.stack(terms).sum()

    def init_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.001)

    def get_optimizer(self, optimizer_cfg: Mapping[str, Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], optimizer_cfg["lr"])

    def collate(self, batch: list[tuple[np.ndarray, int]]) -> tuple[Any, ...]:
        poses, labels = zip(*batch, strict=True)
        names = ["x"] * len(batch)
        if self.engine_cfg["sampler"]["sample_type"].startswith("fixed"):
            frames = self.engine_cfg["sampler"]["frames_num_fixed"]
            return [[np.asarray(list(pose[:frames])) for pose in poses]], list(labels), names, names, None
        lengths = np.asarray([[len(pose) for pose in poses]])
        return [[np.concatenate(poses)]], list(labels), names, names, lengths

    def inputs_pretreament(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        poses, labels, types, views, lengths = inputs
        section = "trainer_cfg" if self.training else "evaluator_cfg"
        chains = [component(cfg) for cfg in self.cfgs[section]["transform"]]
        ipts = [
            torch.from_numpy(np.asarray([chain(pose) for pose in some])).requires_grad_(self.training).float()
            for chain, some in zip(chains, poses, strict=True)
        ]
        lengths = None if lengths is None else torch.from_numpy(lengths).int()
        if lengths is not None:
            ipts = [x.narrow(self.time_axis, 0, int(lengths.sum())) for x in ipts]
        return ipts, torch.tensor(labels), types, views, lengths

    @staticmethod
    def run_train(model: StandIn) -> None:
        model.ran.append("base")


class OpenStandIn(StandIn):
    """OpenGait: its losses are part of the model, and one of them here has a weight."""

    time_axis = 1

    @staticmethod
    def keep_losses(losses: dict[str, nn.Module]) -> nn.ModuleDict:
        kept = nn.ModuleDict(losses)
        kept.register_buffer("seen", torch.zeros(1))
        return kept


class OpenTriplet(TripletLoss):
    """OpenGait's takes no is_hard_loss."""

    def __init__(self, margin: float, loss_term_weight: float = 1.0) -> None:
        super().__init__(margin, False, loss_term_weight)


class Host(SimpleNamespace):
    """A running host with our plugin in it."""

    package: str
    models: dict[str, type]
    modules: dict[str, ModuleType]

    def model(self, name: str, *opts: str, training: bool = True, classes: int = 5, **changes: Any) -> Any:
        cfgs = for_host(self.package, name, *opts, classes=classes)
        for section, values in changes.items():
            cfgs[section] |= values
        if "stages" not in changes.get("model_cfg", {}):
            cfgs["model_cfg"]["stages"] = {}
        return self.models[name](cfgs, training, walks(name))


def running(package: str, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The modules a host's start has imported when it comes to our file, and what that file gets."""
    names = ("modeling.models", "modeling.losses", "data.transform", "evaluation.evaluator")
    modules = {name: ModuleType(name) for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def own(data: Any, conf: Any, metric: str = "euc") -> str:
        return "the host's"

    own.__module__ = "evaluation.evaluator"
    modules["evaluation.evaluator"].evaluate_Gait3D = own
    fast = package == "fastposegait"
    turned = (2, 0, 1) if fast else (0, 2, 1)
    modules["data.transform"].SkeletonInput = lambda data: np.transpose(data, turned)[..., None]
    modules["modeling.losses"].TripletLoss = TripletLoss if fast else OpenTriplet
    modules["modeling.losses"].CrossEntropyLoss = CrossEntropyLoss
    base = StandIn if fast else OpenStandIn
    attach = importlib.import_module(f"bpmt_ext.hosts.{package}").attach
    return Host(package=package, base=base, modules=modules, models=attach(base), attach=attach)


def sequences(n: int = 12) -> list[tuple[np.ndarray, int]]:
    """n made-up walks of 20 to 40 frames in float64, as the hosts' own pickles are, and who walks (n / 3 people)."""
    poses = walking(n, 40).double().numpy()
    for i, pose in enumerate(poses):
        pose[3 + i % 5, i % 17] = 0  # a lost joint
        pose[0, 4] = pose[18, 4] = 0  # and one at either end
    return [(pose[: 20 + 7 * i % 21], i // 3) for i, pose in enumerate(poses)]


def silhouettes(n: int) -> list[tuple[np.ndarray, int]]:
    """n made-up clips of 20 to 40 frames, a disc that moves, uint8 (t, 64, 64), and who it is (n / 3 people)."""
    t, row, column = np.ogrid[:40, :64, :64]
    made = []
    for i in range(n):
        place = 32 + 8 * np.sin(t * (1 + i % 3) / 5 + i)
        inside = (row - 20 - i) ** 2 + (column - place) ** 2 < (10 + i) ** 2
        made.append(((255 * inside).astype(np.uint8)[: 20 + 7 * i % 21], i // 3))
    return made


def walks(name: str, n: int = 12) -> list[tuple[np.ndarray, int]]:
    """What the network of that name reads."""
    pictures = getattr(METHODS[name].network(), "modality", "pose") == "silhouette"
    return silhouettes(n) if pictures else sequences(n)


def write_checkout(root: Path, package: str, *, repository: bool = True) -> Path:
    """A folder that looks like that host's checkout as far as the contract goes; its start imports `absent_package`."""
    for name, needed in NEEDED.items():
        file = root / package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        classes: dict[str, list[str]] = {}
        for wanted in needed:
            owner, _, method = wanted.partition(".")
            classes.setdefault(owner, []).extend([method] if method else [])
        lines = [f"class {owner}:\n    x = 0\n" + "".join(f"    def {m}(self): ...\n" for m in methods)
                 for owner, methods in classes.items()]  # fmt: skip
        file.write_text("import os\n" + "\n".join(lines))
    (root / package / "data/transform.py").open("a").write("import absent_package.part\nfrom data import dataset\n")
    (root / "configs").mkdir()
    (root / "configs/default.yaml").write_text("data_cfg: {}\n")
    (root / "datasets/Gait3D").mkdir(parents=True)
    lists = '{"TRAIN_SET": ["0001", "0002", "0003"], "TEST_SET": ["0004"], "PROBE_SET": ["0004-camid0_videoid1-seq0"]}'
    (root / "datasets/Gait3D/Gait3D.json").write_text(lists)
    if repository:
        (root / ".gitignore").write_text("__pycache__/\n*.pt\n")
        commit(root)
    return root


def commit(root: Path) -> None:
    """Make the folder a git repository with everything in it."""
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", str(root), *words], check=True)


def status(root: Path) -> list[str]:
    """What git says has changed, file by file."""
    command = ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=all"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
