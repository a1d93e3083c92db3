"""A folder in; a small data set and configs of the three stages in it, and runs of the command line on them, out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from conftest import walking

from bpmt_ext.cli import host_main
from bpmt_ext.data.pickles import write_pickle

SMALL = {"width": 16, "heads": 2, "layers": 1, "feedforward": 32, "max_frames": 8, "dropout": 0.1}
MASK = {"mask": "block", "mask_ratio": 0.5, "mask_block": 3}


def write_data(
    root: Path, *, train: int = 6, test: int = 4, cameras: int = 3, frames: tuple[int, int] = (6, 20), joints: int = 17,
    channels: int = 3, seed: int = 0,
) -> Path:
    """<root>/<label>/camid<c>_videoid0/seq0/seq0.pkl for train + test labels, one probe each; returns the partition."""
    rng = np.random.default_rng(seed)
    labels = [f"{k:04d}" for k in range(train + test)]
    for k, label in enumerate(labels):
        pose = walking(cameras, frames[1], joints, channels, seed=100 * seed + k).numpy() * 40 + 100
        for camera in range(cameras):
            folder = root / label / f"camid{camera}_videoid0" / "seq0"
            folder.mkdir(parents=True)
            write_pickle(folder / "seq0.pkl", pose[camera, : rng.integers(*frames, endpoint=True)].copy())
    probes = [f"{label}-camid0_videoid0-seq0" for label in labels[train:]]
    lists = {"TRAIN_SET": labels[:train], "TEST_SET": labels[train:], "PROBE_SET": probes}
    partition = root.with_suffix(".json")
    partition.write_text(json.dumps(lists))
    return partition


CASIA_B = ("nm-01", "nm-05", "bg-01", "cl-01")
SUSTECH1K = ("00-nm", "01-nm", "01-bg", "01-cl", "01-cr", "01-ub", "01-uf", "01-oc", "01-nt")
CCPG = ("U0_D0_BG", "U0_D0", "U3_D3", "U1_D1", "U0_D3", "U1_D0")
LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # types and views of every person
    "CASIA-B": (CASIA_B, ("000", "090")), "OUMVLP": (("00", "01"), ("000", "090")),
    "GREW": (("01", "02"), ("{label}{type}",)), "Gait3D": (("camid0_videoid0", "camid1_videoid1"), ("seq0",)),
    "CCPG": (CCPG, ("00_a", "01_a")), "SUSTech1K": (SUSTECH1K, ("000", "090")),
}  # fmt: skip


def write_layout(root: Path, dataset: str, *, train: int, test: int, joints: int, frames: int) -> Path:
    """A data set with the types, the views and the partition of a public one; every sequence has so many frames."""
    types, views = LAYOUTS[dataset]
    labels = [f"{k:04d}" for k in range(train + test)]
    for k, label in enumerate(labels):
        pose = walking(len(types) * len(views), frames, joints, 3, seed=k).numpy() * 40 + 100
        places = [(kind, view.format(label=label, type=kind)) for kind in types for view in views]
        for (kind, view), own in zip(places, pose, strict=True):
            (root / label / kind / view).mkdir(parents=True)
            write_pickle(root / label / kind / view / "pose.pkl", own.copy())
    lists = {"TRAIN_SET": labels[:train], "TEST_SET": labels[train:]}
    if dataset == "Gait3D":
        lists["PROBE_SET"] = [f"{label}-camid0_videoid0-seq0" for label in labels[train:]]
    if dataset == "GREW":  # whose probes are known to its server only
        lists["TEST_SET"].append("probe")
        for k in range(3):
            (root / "probe" / "03" / f"video{k}").mkdir(parents=True)
            write_pickle(root / "probe" / "03" / f"video{k}" / "pose.pkl", own + np.float32(k))
    partition = root.with_suffix(".json")
    partition.write_text(json.dumps(lists))
    return partition


def base(**trainer: Any) -> dict[str, Any]:
    """What the three stages share."""
    scale = [{"type": "FillMissing"}, {"type": "RescaleCenter", "center": "neck", "scale": 1.0}]
    return {
        "data_cfg": {
            "dataset_name": "walkers", "dataset_root": "data", "dataset_partition": "data.json", "num_workers": 0,
            "validation": 0.34,
        },
        "evaluator_cfg": {
            "eval_func": "evaluate_retrieval", "same_camera": "drop", "restore_hint": "best", "transform": scale,
            "sampler": {"type": "InferenceSampler", "sample_type": "all_ordered", "batch_size": 3},
        },
        "loss_cfg": [
            {"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.3, "is_hard_loss": True},
            {"type": "CrossEntropyLoss", "log_prefix": "softmax", "scale": 16, "log_accuracy": True},
        ],
        "optimizer_cfg": {"solver": "AdamW", "lr": 0.002},
        "scheduler_cfg": {"scheduler": "OneCycleLR", "max_lr": 0.002},
        "trainer_cfg": {
            "total_iter": 6, "log_iter": 3, "val_iter": 3, "save_iter": 2, "restore_hint": "auto", "clip_grad": 5.0,
            "sampler": {
                "type": "TripletSampler", "batch_size": [2, 2], "sample_type": "fixed_ordered", "frames_num_fixed": 8
            },
            "transform": [*scale, {"type": "JointNoise", "std": 0.01}],
        } | trainer,
        "model_cfg": SMALL,
    }


def write_configs(folder: Path, **trainer: Any) -> None:
    """base.yaml and on top of it t1.yaml, t2.yaml, both.yaml (finetuning after t1 and t2) and net.yaml (without)."""
    models = {
        "t1": {"model": "BPMT_T1", **MASK},
        "t2": {"model": "BPMT_T2", "stages": {"t1": "t1.yaml"}, **MASK},
        "both": {"model": "BPMT", "stages": {"t1": "t1.yaml", "t2": "t2.yaml"}, "embedding_width": 8},
        "net": {"model": "BPMT", "embedding_width": 8},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base(**trainer)))
    for name, model in models.items():
        own = {"base": "base.yaml", "model_cfg": model, "trainer_cfg": {"save_name": name}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))


def listed(value: Any) -> list[Any]:
    """A list, or the only entry that stands for one."""
    return value if isinstance(value, list) else [value]


def run(name: str, *opts: str, phase: str = "train", more: tuple[str, ...] = ()) -> int:
    """The host's command line in the working directory; its exit status."""
    options = ["--opts", *opts] if opts else []
    return host_main(["--cfgs", f"{name}.yaml", "--phase", phase, *more, *options])


def folder_of(name: str) -> Path:
    """Where the working directory's run of that config stands."""
    model = {"t1": "BPMT_T1", "t2": "BPMT_T2"}.get(name, "BPMT")
    return Path("output/walkers", model, name)


def checkpoint(name: str, which: str) -> dict[str, Any]:
    return torch.load(folder_of(name) / "checkpoints" / f"{name}-{which}.pt", weights_only=True)


def equal(a: Any, b: Any) -> bool:
    """Whether two nests of containers, numbers and tensors are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b
