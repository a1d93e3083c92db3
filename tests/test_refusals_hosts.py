"""Every refusal of what stands between this project and its hosts in; for each what leads to it, and what is said, out.
As test_refusals.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
from branching import Act, check
from standin import Host, commit, running, sequences, write_checkout

from bpmt_ext.config import configs_folder, load_settings
from bpmt_ext.hosts import adapter, components
from bpmt_ext.hosts import link as linking
from bpmt_ext.hosts.checkouts import HOSTS, Checkout, find_host, missing_imports
from bpmt_ext.hosts.configs import host_config
from bpmt_ext.hosts.link import MANIFEST, link, unlink

FILES = ("hosts/adapter.py", "hosts/checkouts.py", "hosts/components.py", "hosts/configs.py", "hosts/link.py")
DATA, FAST, STAGE = "data_cfg.dataset_root=pickles", HOSTS["fastposegait"], "configs/bpmt/bpmt_g38_t1.yaml"


def nothing(*_: object) -> None:
    """What is done to a checkout that stays as it is."""


def hosted(*opts: str, package: str = "fastposegait", name: str = "bpmt/bpmt_demo", **keys: int) -> Act:
    """A config as that host would read it."""

    def act(_: Path) -> None:
        host_config(load_settings(f"configs/{name}.yaml", opts), HOSTS[package], **{"classes": 50, **keys}, opts=opts)

    return act


def model(used: Callable[[Any], object] = nothing, **changes: Any) -> Act:
    """A network in a running host, after changes to the config it reads."""

    def act(_: Path) -> None:
        with pytest.MonkeyPatch.context() as changed:
            host: Host = running("fastposegait", changed)
            used(host.model("BPMT", **changes))

    return act


def two_files(model: Any) -> None:
    (poses,), *rest = model.collate(sequences())
    model.inputs_pretreament(([poses, poses], *rest))


def taken(_: Path) -> None:
    module = ModuleType("modeling.models")
    module.BPMT = None  # type: ignore[attr-defined]
    components.register(module, {"BPMT": None})


def piped(folder: Path) -> Checkout:
    """A checkout among whose files is a pipe, which opening would wait for."""
    root = write_checkout(folder / "host", "fastposegait", repository=False)
    os.mkfifo(root / "fastposegait/pipe.py")
    return find_host(root)


def found(spoil: Callable[[Path], object], below: str = "") -> Act:
    """A checkout after something was done to it."""

    def act(folder: Path) -> None:
        root = write_checkout(folder / "host", "fastposegait", repository=False)
        spoil(root)
        find_host(root / below)

    return act


def made(folder: Path) -> Path:
    """A checkout, with lists of its own in p.json."""
    root = write_checkout(folder / "host", "fastposegait", repository=False)
    (root / "p.json").write_text((root / "datasets/Gait3D/Gait3D.json").read_text())
    return root


def bring(root: Path, *opts: str, cfgs: tuple[str, ...] = (STAGE,)) -> None:
    link(root, cfgs, opts=[DATA, "data_cfg.dataset_partition=p.json", *opts])


def linked(spoil: Callable[[Path], object], *opts: str, twice: bool = False, cfgs: tuple[str, ...] = (STAGE,)) -> Act:
    """A checkout linked after something was done to it; `twice`: which was linked before."""

    def act(folder: Path) -> None:
        root = made(folder)
        if twice:
            bring(root)
        spoil(root)
        bring(root, *opts, cfgs=tuple(name.format(folder) for name in cfgs))

    return act


def manifest(**changes: object) -> Callable[[Path], object]:
    def act(root: Path) -> None:
        values = json.loads((root / MANIFEST).read_text()) | changes
        (root / MANIFEST).write_text(json.dumps(values))

    return act


def namesakes(root: Path) -> None:
    """Two configs of one name."""
    for k, name in enumerate(("a", "b")):
        (root.parent / name).mkdir()
        base = configs_folder() / "bpmt/bpmt_g38_t1.yaml"
        (root.parent / name / "x.yaml").write_text(f"base: {base}\ntrainer_cfg: {{seed: {k}}}\n")


def other_probes(root: Path) -> None:
    lists = json.loads((root / "p.json").read_text())
    (root / "p.json").write_text(json.dumps({**lists, "PROBE_SET": ["0004-camid1_videoid1-seq0"]}))


def tracked(root: Path) -> None:
    """The checkout's repository has a file of our name, which is not there now."""
    (root / FAST.plugin).touch()
    commit(root)
    (root / FAST.plugin).unlink()


def full(folder: Path) -> None:
    with patch.object(linking, "write_bytes", side_effect=OSError(28, "No space left on device")):
        bring(made(folder))


def kept(folder: Path) -> None:
    root = made(folder)
    bring(root)
    (root / FAST.plugin).write_text("x")
    unlink(root)


PLUGIN = FAST.plugin
CASES: dict[str, tuple[Act, str]] = {
    # a running host
    "no such stage": (model(model_cfg={"stages": {"t9": "a.pt"}}), "model_cfg.stages.t9: BPMT has stages t1, t2"),
    "two files": (model(two_files), "a sequence has 2 files in use; choose that of the poses with"),
    "no output": (model(model_cfg={"num_class": 0}), "BPMT has no output for CrossEntropyLoss; take it out, or"),
    "two data sets": (lambda _: adapter._skeleton([{}]), "data_cfg: is a list of data sets"),
    "a name that is taken": (taken, "modeling.models already has a BPMT; unlink the other extension"),
    # a checkout
    "no folder": (found(nothing, "none"), "there is no such folder; give the folder of a"),
    "no host": (found(nothing, "fastposegait"), "no host stands here (did you mean "),
    "two hosts": (found(lambda root: (root / "opengait/modeling").mkdir(parents=True)), "both hosts stand here; a"),
    "no defaults": (found(lambda root: (root / "configs/default.yaml").unlink()), "there is no configs/default.yaml"),
    "another version": (found(lambda root: (root / "fastposegait/modeling/base_model.py").write_text("x = 1")),
                        "base_model.py has no BaseModel.build_network; this is no FastPoseGait that is known here"),
    "no Python": (found(lambda root: (root / "fastposegait/data/dataset.py").write_text("def (")), "is no Python file"),
    "a pipe": (lambda folder: missing_imports(piped(folder)), "pipe.py: is no Python file"),
    # configs for a host
    "never the last": (hosted("trainer_cfg.total_iter=11", "trainer_cfg.save_iter=7"), "saves every 7 iterations and"),
    "bodies": (hosted("data_cfg.exchanged_bodies=1"), "FastPoseGait trains on recorded people alone; set it to 0"),
    "cameras": (hosted("data_cfg.min_cameras=2"), "data_cfg.min_cameras: FastPoseGait takes all sequences of a"),
    "positions": (hosted("data_cfg.data_in_use=[0]"), "[0] are positions; FastPoseGait takes true or false"),
    "short ones": (hosted("data_cfg.frame_threshold=9", package="opengait"), "OpenGait keeps short sequences; set it"),
    "actions": (hosted(name="bpmt/bpmt_nwucla"), "FastPoseGait ranks and names no class"),
    "no protocol": (hosted("evaluator_cfg.eval_func=evaluate_Gait3d"), "no protocol 'evaluate_Gait3d'; did you mean"),
    "a network of its own": (hosted(name="gaittr/gaittr_g38"), "has a GaitTR of its own; train it with the host's own"),
    "few classes": (hosted("model_cfg.num_class=4"), "num_class: 4 classes for 50 training identities; leave the key"),
    "no loss": (hosted("loss_cfg.0.type=TripletLos"), "there is no loss 'TripletLos'; did you mean Triplet"),
    "a schedule of ours": (hosted("scheduler_cfg={scheduler: WarmupCosineLR}"), "takes the schedules of torch"),
    "half of float32": (hosted("trainer_cfg.precision=bf16"), "FastPoseGait knows float16 only; write fp16 or off"),
    "passes": (hosted("trainer_cfg.accumulate=2"), "takes a batch in one pass; leave it out, or make"),
    "uneven": (hosted(gpus=5), "64 sequences do not divide among 5 GPUs; change it or --gpus"),
    "frames": (hosted("trainer_cfg.sampler.sample_type=fixed_allordered"), "has _ordered and _unordered, not fixed_"),
    "repeated": (hosted("trainer_cfg.sampler.repeat={nm: 2}"), "lists every sequence once; leave it out"),
    "no sampler": (hosted("trainer_cfg.sampler.type=RandomTripletSampler", "trainer_cfg.sampler.batch_size=12",
                          package="opengait"), "OpenGait has no RandomTripletSampler; its samplers are"),
    "no transform": (hosted("trainer_cfg.transform=[{type: FillMising}]"), "trainer_cfg.transform: type 'FillMising'"),
    # what is linked
    "damaged": (linked(manifest(files=[]), twice=True), "bpmt_ext.json: is damaged ("),
    "elsewhere": (linked(manifest(files={"../x": "0"}), twice=True), "names ../x, where nothing of ours can be"),
    "by another version": (linked(manifest(bpmt_ext="0.0.9"), twice=True), "is linked by bpmt_ext 0.0.9, this is"),
    "options of no stage": (linked(nothing, "t9.trainer_cfg.seed=1"), "the config has no stage t9"),
    "no config": (linked(nothing, cfgs=("none.yaml",)), "neither here nor among the shipped configs"),
    "two of one name": (linked(namesakes, cfgs=("{}/a/x.yaml", "{}/b/x.yaml")), "is asked for twice, as configs/bpmt/"),
    "no data": (linked(nothing, "data_cfg.dataset_root=null"), "data_cfg.dataset_root: is not set"),
    "nobody": (linked(lambda root: (root / "pickles").mkdir()), "has no sequence of any identity in TRAIN_SET of"),
    "other probes": (linked(other_probes, "evaluator_cfg.eval_func=evaluate_Gait3D"), "its PROBE_SET is not that of "),
    "in the way": (linked(lambda root: (root / PLUGIN).touch()), "is there and not ours; move it away, then link"),
    "changed since": (linked(lambda root: (root / PLUGIN).write_text("x"), twice=True),
                      "was changed since it was linked; keep it"),
    "of the repository": (linked(tracked), "is tracked by the checkout's git repository"),
    "a full disk": (full, "cannot be written (No space left on device)"),
    "nothing linked": (lambda folder: unlink(folder), "nothing of bpmt_ext is linked here"),
    "changed and kept": (kept, "changed since linked; the rest is gone; --force takes it too"),
}  # fmt: skip


def test_every_refusal_is_reached_and_told(tmp_path: Path) -> None:
    check(CASES, FILES, tmp_path)
