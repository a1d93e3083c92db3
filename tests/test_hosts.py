"""The adapter of FastPoseGait: against a stand-in of its BaseModel, and in the real checkout where one is at hand."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import walking
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bpmt_ext.config import Settings, configs_folder, load_settings
from bpmt_ext.data.transforms import TRANSFORMS, build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.engine.checkpoint import load_checkpoint, load_weights, save_checkpoint
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.stages import test_config as run_test
from bpmt_ext.errors import UserError
from bpmt_ext.hosts.components import register
from bpmt_ext.hosts.fastposegait import PLUGIN, Adapter, attach, unpack
from bpmt_ext.hosts.link import host_config, last_checkpoint
from bpmt_ext.losses import LOSSES
from bpmt_ext.metrics.protocols import PROTOCOLS, evaluate
from bpmt_ext.registry import METHODS, build_network
from bpmt_ext.skeletons import get_skeleton
from bpmt_ext.synthetic import write_dataset

TOOL = Path(__file__).resolve().parents[1] / "tools" / "host_on_cpu.py"
SMALL = [
    "data_cfg.num_workers=0", "data_cfg.validation=0", "model_cfg.width=16", "model_cfg.layers=1", "model_cfg.heads=2",
    "model_cfg.max_frames=20", "trainer_cfg.sampler.batch_size=[4, 3]", "trainer_cfg.sampler.frames_num_fixed=20",
    "trainer_cfg.total_iter=10", "trainer_cfg.save_iter=10", "trainer_cfg.log_iter=5", "trainer_cfg.val_iter=0",
]  # fmt: skip
STAGES = {"BPMT_T1": "bpmt_demo_t1", "BPMT_T2": "bpmt_demo_t2", "BPMT": "bpmt_demo"}


def load(name: str, *opts: str) -> Settings:
    return load_settings(f"configs/bpmt/{STAGES.get(name, name)}.yaml", [*SMALL, *opts])


def for_host(name: str, *opts: str, classes: int = 5) -> dict[str, Any]:
    """The host's config of a stage, as it comes out of the file; the stages before it have the same options."""
    every = [*SMALL, *opts]
    inner = [f"{stage}.{text}" for stage in ("t1", "t2") for text in every]
    return yaml.safe_load(yaml.safe_dump(host_config(load(name, *opts), classes=classes, opts=[*every, *inner])))


class StandIn(nn.Module):
    """The host's BaseModel as its contract describes it: what happens in which order, and what it does to the data."""

    def __init__(self, cfgs: Mapping[str, Any], training: bool, sequences: list[tuple[np.ndarray, int]] = ()) -> None:
        super().__init__()
        self.cfgs = cfgs
        self.engine_cfg = cfgs["trainer_cfg" if training else "evaluator_cfg"]
        self.build_network(cfgs["model_cfg"])
        self.init_parameters()
        self.train_loader = SimpleNamespace(dataset=sequences, collate_fn=self.collate)
        self.ran: list[Any] = []
        if training:
            self.optimizer = self.get_optimizer(cfgs["optimizer_cfg"])
        self.train(training)

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
            return [[np.asarray(list(pose[:frames])) for pose in poses]], labels, names, names, None
        return [[np.concatenate(poses)]], labels, names, names, np.asarray([[len(pose) for pose in poses]])

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
            ipts = [x[:, :, : int(lengths.sum())] for x in ipts]
        return ipts, torch.tensor(labels), types, views, lengths

    @staticmethod
    def run_train(model: StandIn) -> None:
        model.ran.append("base")


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
    if not inspect.isclass(made):
        return made
    listed = inspect.getfullargspec(made.__init__)[0]
    return made(**{key: value for key, value in cfg.items() if key in listed})


class Host(SimpleNamespace):
    """A running host with our plugin in it."""

    models: dict[str, type]
    transform: ModuleType
    evaluator: ModuleType

    def model(self, name: str, *opts: str, training: bool = True, classes: int = 5, **changes: Any) -> Any:
        cfgs = for_host(name, *opts, classes=classes)
        for section, values in changes.items():
            cfgs[section] |= values
        if "stages" not in changes.get("model_cfg", {}):
            cfgs["model_cfg"]["stages"] = {}
        return self.models[name](cfgs, training, sequences())


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    names = {"models": "modeling.models", "transform": "data.transform", "evaluator": "evaluation.evaluator"}
    modules = {short: ModuleType(name) for short, name in names.items()}
    for module in modules.values():
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def own(data: Any, conf: Any, metric: str = "euc") -> str:
        return "the host's"

    own.__module__ = "evaluation.evaluator"
    modules["evaluator"].evaluate_Gait3D = own
    modules["transform"].SkeletonInput = lambda data: np.transpose(data, (2, 0, 1))[..., None]
    yield Host(**{**modules, "packages": modules["models"], "models": attach(StandIn)})


def sequences(n: int = 12) -> list[tuple[np.ndarray, int]]:
    """n made-up walks of 20 to 40 frames in float64, as the host's own pickles are, and who walks (n / 3 people)."""
    poses = walking(n, 40).double().numpy()
    return [(pose[: 20 + 7 * i % 21], i // 3) for i, pose in enumerate(poses)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 99))
def test_unpacking_equals_a_loop(lengths: list[int], seed: int) -> None:
    parts = [torch.randn(t, 4, 3, generator=torch.Generator().manual_seed(seed + i)) for i, t in enumerate(lengths)]
    x = torch.cat(parts).permute(2, 0, 1)[None, ..., None]  # (1, c, sum t, v, 1)
    pose, mask = unpack(x, torch.tensor([lengths], dtype=torch.int32))
    assert pose.shape == (len(lengths), max(lengths), 4, 3) and mask.dtype == torch.bool
    for i, part in enumerate(parts):
        assert torch.equal(pose[i, mask[i]], part)
        assert mask[i].tolist() == [k < lengths[i] for k in range(max(lengths))]
        assert (pose[i, lengths[i] :] == part[-1]).all()  # padding repeats the last frame
    fixed = torch.randn(3, 2, 5, 4, 1)
    pose, mask = unpack(fixed, None)
    assert torch.equal(pose[1, 2, 3], fixed[1, :, 2, 3, 0]) and mask.all() and mask.shape == (3, 5)


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"Compose"}))
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_a_transform_in_the_host_gives_our_numbers(host: Host, name: str, kind: type) -> None:
    ours, theirs = TRANSFORMS[name], getattr(host.transform, f"Bpmt{name}")
    assert set(inspect.getfullargspec(theirs.__init__)[0]) == set(inspect.signature(ours).parameters) | {"self"}
    defaults = {key: p.default for key, p in inspect.signature(ours).parameters.items()}
    skeleton = get_skeleton(defaults.get("joint_format", "coco17"))
    pose = walking(1, 9, skeleton.num_joints, skeleton.dims + 1).numpy().astype(kind)[0]
    pose[2, 3] = 0  # a lost joint
    before = pose.copy()
    np.random.seed(4)
    found = [theirs(**defaults)(pose) for _ in range(2)]
    assert np.array_equal(pose, before)
    np.random.seed(4)
    for one in found:
        key = Draws(torch.from_numpy(np.random.randint(0, 2**62, size=1)))
        x = torch.from_numpy(pose.astype(np.float32))[None]
        expected = ours(**defaults)(x, torch.ones(1, 9, dtype=torch.bool), key)[0].numpy()
        assert one.dtype == np.float32 and np.array_equal(one, expected)
    if name.endswith("Noise") or name.startswith("Random"):
        assert not np.array_equal(*found), "two sequences must not get the same noise"


@pytest.mark.parametrize("sample_type", ["fixed_ordered", "all_ordered"])
@pytest.mark.parametrize("name", METHODS)
def test_training_feeds_every_loss_and_every_weight(host: Host, name: str, sample_type: str) -> None:
    model = host.model(name, f"trainer_cfg.sampler.sample_type={sample_type}")
    host.models[name].run_train(model)
    assert model.ran == ["base"] and bool(model.net.t1.streams.fitted) and model.training
    ipts, labels, *rest = model.inputs_pretreament(model.collate(sequences()))
    out = model((ipts, labels, *rest))
    assert all(key.startswith(("scalar/", "image/")) for key in out["visual_summary"])
    losses = {"triplet": LOSSES["TripletLoss"](margin=9.0), "softmax": LOSSES["CrossEntropyLoss"]()}
    terms = []
    for key, value in out["training_feat"].items():  # as the host's aggregator treats them
        terms.append(value.mean() if isinstance(value, torch.Tensor) else losses[key](**value)[0])
    total = torch.stack(terms).sum()
    total.backward()
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == [], "the host's distributed training stops at a parameter without a gradient"
    if METHODS[name].pretraining:
        parts = [value for key, value in out["visual_summary"].items() if key.startswith("scalar/part/")]
        assert torch.allclose(total, torch.stack(parts).mean()) and total.isfinite()
    else:
        shapes = {k: {a: tuple(x.shape) for a, x in v.items()} for k, v in out["training_feat"].items()}
        assert shapes == {"triplet": {"embeddings": (12, 128, 5), "labels": (12,)},
                          "softmax": {"logits": (12, 5, 5), "labels": (12,)}}


@pytest.mark.parametrize("name", METHODS)
def test_a_test_batch_of_several_sequences_gives_the_engines_embeddings(host: Host, name: str) -> None:
    model = host.model(name, training=False)
    for parameter in model.net.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    with torch.no_grad():
        out = model(model.inputs_pretreament(model.collate(sequences(5))))
        together = out["inference_feat"]["embeddings"]
        transform = build_transform(load(name).evaluator_cfg.transform, get_skeleton("coco17"))
        for row, (pose, _) in enumerate(sequences(5)):
            alone = model(model.inputs_pretreament(model.collate([(pose, 0)])))["inference_feat"]["embeddings"]
            assert torch.allclose(together[row], alone[0], atol=1e-5)
            x, mask = torch.from_numpy(pose).float()[None], torch.ones(1, len(pose), dtype=torch.bool)
            x = transform(x, mask)
            engine = model.net.embed(x, mask) if METHODS[name].pretraining else model.net(x, mask)["embedding"]
            assert torch.allclose(alone, engine, atol=1e-6)
    assert together.ndim == 3 and len(together) == 5 and not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("name", METHODS)
def test_checkpoints_move_between_host_and_engine(host: Host, name: str, tmp_path: Path) -> None:
    model = host.model(name)
    assert max(p.abs().max() for p in model.parameters()) > 0.05, "the host's initialisation must not reach the network"
    engine = build_network(name, load(name).model_cfg.free, skeleton=get_skeleton("coco17"), classes=5)
    assert list(model.state_dict()) == list(engine.state_dict())
    assert [p.shape for p in model.parameters()] == [p.shape for p in engine.parameters()]  # the optimiser's order
    save_checkpoint(tmp_path / "a.pt", {"model": model.state_dict()})
    load_weights(engine, load_checkpoint(tmp_path / "a.pt")["model"], tmp_path / "a.pt")
    other = host.model(name)
    other.load_state_dict(engine.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    with pytest.raises(RuntimeError, match="more"):
        other.load_state_dict({**engine.state_dict(), "more": torch.zeros(1)}, strict=True)


def test_stages_hand_their_weights_over(host: Host, tmp_path: Path) -> None:
    paths: dict[str, str] = {}
    earlier: dict[str, torch.Tensor] = {}
    for name, stage in (("BPMT_T1", "t1"), ("BPMT_T2", "t2")):
        model = host.model(name, model_cfg={"stages": dict(paths)})
        if stage == "t2":
            assert all(torch.equal(v, earlier[k]) for k, v in model.state_dict().items() if k.startswith("t1."))
            assert torch.equal(model.net.masking.token, earlier["masking.token"])
        model.net.t1.streams.fit(walking(3, 20), torch.ones(3, 20, dtype=torch.bool))
        earlier, paths[stage] = model.state_dict(), str(tmp_path / f"{stage}.pt")
        save_checkpoint(Path(paths[stage]), {"model": earlier})
    last = host.model("BPMT", model_cfg={"stages": paths})
    assert all(torch.equal(v, earlier[k]) for k, v in last.state_dict().items() if k.startswith(("t1.", "t2.")))
    last.train_loader = None
    last.fit_inputs()  # statistics came along: no data is looked at
    missing = {"stages": {"t1": str(tmp_path / "none.pt")}}
    with pytest.raises(UserError, match="none.pt.*train first"):
        host.model("BPMT_T2", model_cfg=missing)
    host.model("BPMT_T2", model_cfg=missing, training=False)  # a test loads the whole network anyway
    with pytest.raises(UserError, match="stages.t2: BPMT_T2 has stages t1"):
        host.model("BPMT_T2", model_cfg={"stages": {"t2": paths["t2"]}})
    with pytest.raises(UserError, match="widht"):
        host.model("BPMT", model_cfg={"widht": 8})


@pytest.mark.parametrize("sample_type", ["fixed_ordered", "all_ordered"])
def test_input_statistics_are_those_of_the_clean_training_clips(host: Host, sample_type: str) -> None:
    model = host.model("BPMT_T1", f"trainer_cfg.sampler.sample_type={sample_type}")
    model.fit_inputs()
    assert model.training and model.net.training
    clean = build_transform(load("BPMT_T1").evaluator_cfg.transform, get_skeleton("coco17"))
    frames = []
    for pose, _ in sequences():
        x = torch.from_numpy(pose[: 20 if sample_type.startswith("fixed") else None]).float()[None]
        frames.append(clean(x, torch.ones(x.shape[:2], dtype=torch.bool))[0, :, model.net.t1.slots.joint, :2])
    frames = torch.cat(frames).double()
    assert torch.allclose(model.net.t1.streams.mean.double(), frames.mean(0), atol=1e-5)


def test_gradients_are_clipped_as_in_the_engine(host: Host) -> None:
    model = host.model("BPMT", "trainer_cfg.clip_grad=0.5")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.optimizer.step()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert norm == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_what_leaves_the_adapter_is_float32_under_autocast(host: Host, training: bool) -> None:
    model = host.model("BPMT", training=training)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the losses and numpy, outside, know no half precision
        out = model(model.inputs_pretreament(model.collate(sequences())))
    found = [value for feat in out["training_feat"].values() for value in feat.values() if value.is_floating_point()]
    found += out["inference_feat"].values()
    assert found and all(value.dtype == torch.float32 for value in found)


def test_names_of_the_host_and_of_others_stay_theirs(host: Host) -> None:
    assert set(host.models) == {name for name in vars(host.packages) if not name.startswith("_")} == set(METHODS)
    assert all(issubclass(model, Adapter) and model.__name__ == name for name, model in host.models.items())
    assert host.evaluator.evaluate_Gait3D(None, None) == "the host's"
    assert set(PROTOCOLS) <= set(vars(host.evaluator)) and "BpmtCompose" not in vars(host.transform)
    with pytest.raises(UserError, match="modeling.models already has a BPMT_T1; unlink"):
        attach(StandIn)
    with pytest.raises(UserError, match="already has a SkeletonInput"):
        register(host.transform, {"New": 1, "SkeletonInput": 2})
    assert not hasattr(host.transform, "New")


def test_a_protocol_in_the_host_gives_our_numbers(host: Host, tmp_path: Path) -> None:
    labels, types = [f"{i // 4}" for i in range(16)], [f"camid{i % 4}_videoid1" for i in range(16)]
    data = {"embeddings": np.random.default_rng(0).standard_normal((16, 8, 5)).astype(np.float16), "labels": labels,
            "types": types, "views": ["seq0"] * 16}  # fmt: skip
    partition, probes = tmp_path / "p.json", [f"{i}-camid{i}_videoid1-seq0" for i in range(4)]
    partition.write_text(json.dumps({"TRAIN_SET": [], "TEST_SET": labels, "PROBE_SET": probes}))
    for path, listed in ((None, None), (str(partition), set(probes))):
        rule = {"metric": "cos", "same_camera": "drop"}
        found = host.evaluator.evaluate_retrieval(data, "walkers", dataset_partition=path, **rule)
        x = data["embeddings"].astype(np.float32)
        expected = evaluate("evaluate_retrieval", x, labels, types, data["views"], probes=listed, **rule)["metrics"]
        assert found == {f"scalar/test_accuracy/{name}": value for name, value in expected.items()}
    assert {"metric", "same_camera", "camera"} <= set(inspect.getfullargspec(host.evaluator.evaluate_retrieval)[0])


OWN = {
    "joints": ["hip", "neck", "head", "l_arm", "r_arm", "l_leg", "r_leg"],
    "edges": [["hip", "neck"], ["neck", "head"], ["neck", "l_arm"], ["neck", "r_arm"], ["hip", "l_leg"],
              ["hip", "r_leg"]],
    "mirror": [["l_arm", "r_arm"], ["l_leg", "r_leg"]],
    "parts": {"torso": ["hip", "neck", "head"], "left_arm": ["l_arm"], "right_arm": ["r_arm"], "left_leg": ["l_leg"],
              "right_leg": ["r_leg"]},
    "head": ["head"], "hips": ["l_leg", "r_leg"], "shoulders": ["l_arm", "r_arm"],
}  # fmt: skip


def test_a_skeleton_of_ones_own_reaches_network_and_transforms(host: Host) -> None:
    model = host.model("BPMT_T1", f"data_cfg.skeleton={json.dumps(OWN)}")
    model.train_loader.dataset = [(walking(1, 20, joints=7).double().numpy()[0], 0)] * 4
    model.fit_inputs()
    out = model(model.inputs_pretreament(model.collate(model.train_loader.dataset)))
    assert out["training_feat"]["reconstruction"].isfinite()


@pytest.mark.parametrize("path", sorted(configs_folder().glob("bpmt/[!_]*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_become_complete_configs_of_the_host(path: Path) -> None:
    ours = load_settings(path)
    cfg = host_config(ours, classes=50, gpus=2)
    assert yaml.safe_load(yaml.safe_dump(cfg)) == cfg
    t, e = cfg["trainer_cfg"], cfg["evaluator_cfg"]
    assert t["restore_hint"] == 0 and e["restore_hint"] == t["total_iter"] == ours.trainer_cfg.total_iter
    assert t["total_iter"] % t["save_iter"] == 0 and cfg["scheduler_cfg"]["total_steps"] == t["total_iter"]
    assert e["sampler"] == {"type": "InferenceSampler", "sample_type": "all_ordered", "batch_size": 2}
    assert t["sampler"]["frames_skip_num"] == 0 and t["sync_BN"] is True and t["clip_grad"] == 5.0
    assert not {"seed", "val_iter", "precision", "validation", "base"} & {*t, *e, *cfg["data_cfg"], *cfg}
    for section in (t, e):
        (chain,) = section["transform"]
        names = [step["type"] for step in chain["trf_cfg"]]
        assert chain["type"] == "Compose" and names[-1] == "SkeletonInput"
        assert all(name.startswith("Bpmt") for name in names[:-1])
        for step in chain["trf_cfg"][:-1]:
            takes = inspect.signature(TRANSFORMS[step["type"].removeprefix("Bpmt")]).parameters
            assert step.get("joint_format") == (ours.data_cfg.joint_format if "joint_format" in takes else None)
    if METHODS[ours.model_cfg.model].pretraining:
        assert "num_class" not in cfg["model_cfg"] and "loss_cfg" not in cfg
    else:
        assert cfg["model_cfg"]["num_class"] == 50
        assert [loss["type"] for loss in cfg["loss_cfg"]] == ["TripletLoss", "CrossEntropyLoss"]
    for stage, checkpoint in cfg["model_cfg"]["stages"].items():
        other = load_settings(ours.model_cfg.stages[stage])
        name, steps = other.trainer_cfg.save_name, other.trainer_cfg.total_iter
        folder = f"output/{other.data_cfg.dataset_name}/{other.model_cfg.model}/{name}/checkpoints"
        assert checkpoint == f"{folder}/{name}-{steps:05d}.pt"


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["trainer_cfg.save_iter=7"], "save_iter: FastPoseGait saves every 7 iterations"),
        (["trainer_cfg.precision=bf16"], "precision: FastPoseGait knows float16 only"),
        (["data_cfg.min_cameras=2"], "min_cameras: FastPoseGait takes all sequences"),
        (["data_cfg.data_in_use=[0]"], "data_in_use"),
        (["trainer_cfg.sampler.sample_type=fixed_allordered"], "sample_type: fixed_allordered is OpenGait's"),
        (["loss_cfg.0.mean_over=all"], "mean_over 'all' is not known"),
        (["loss_cfg.0.type=Nonsense"], "not Nonsense"),
        (["model_cfg.num_class=4"], "num_class: 4 classes for 5"),
        (["trainer_cfg.transform=[{type: Nonsense}]"], "'Nonsense' is unknown"),
    ],
)
def test_what_the_host_cannot_do_is_refused(opts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        for_host("BPMT", *opts)


def test_values_the_host_spells_otherwise() -> None:
    cfg = for_host(
        "BPMT", "trainer_cfg.precision=fp16", "trainer_cfg.restore_hint=5", "evaluator_cfg.restore_hint=best",
        "evaluator_cfg.eval_func=evaluate_Gait3D", "evaluator_cfg.same_camera=keep", "trainer_cfg.save_iter=2000",
        "loss_cfg=[{type: TripletLoss, margin: 0.2, mean_over: active}]",
        "trainer_cfg.transform=[{type: Compose, trf_cfg: [{type: FlipSequence}, {type: SkeletonInput}]}]",
    )  # fmt: skip
    assert cfg["trainer_cfg"]["enable_float16"] is True and cfg["trainer_cfg"]["restore_hint"] == 5
    assert cfg["evaluator_cfg"]["restore_hint"] == cfg["trainer_cfg"]["save_iter"] == 10
    stages = {stage: f"output/walkers/{name}/{STAGES[name]}/checkpoints/{STAGES[name]}-00010.pt"
              for stage, name in (("t1", "BPMT_T1"), ("t2", "BPMT_T2"))}  # fmt: skip
    assert cfg["model_cfg"]["stages"] == stages  # the same options hold for them
    assert not {"same_camera", "camera", "dataset_partition"} & set(cfg["evaluator_cfg"])  # the host's own protocol
    loss = {"type": "TripletLoss", "log_prefix": "TripletLoss", "loss_term_weight": 1.0, "margin": 0.2}
    assert cfg["loss_cfg"] == [loss]
    assert "num_class" not in cfg["model_cfg"]  # nothing would train the classifier
    steps = [{"type": "BpmtFlipSequence"}, {"type": "SkeletonInput"}]
    assert cfg["trainer_cfg"]["transform"] == [{"type": "Compose", "trf_cfg": steps}]


# In the host itself -------------------------------------------------------------------------------------------------

CHECKOUT = os.environ.get("FASTPOSEGAIT_HOME", "")


def run(checkout: Path, name: str, phase: str) -> str:
    """One run of the unmodified host on a CPU; what it said."""
    command = [sys.executable, str(TOOL), str(checkout), "--cfgs", f"configs/bpmt/{name}.yaml", "--phase", phase]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    return said


def as_gait3d(root: Path, partition: Path, official: Path) -> None:
    """Give the made-up test people names of the official probe list, which the host's own evaluator reads."""
    lists = json.loads(partition.read_text())
    taken = iter([name.split("-") for name in json.loads(official.read_text())["PROBE_SET"] if name > "0100"])
    probes = []
    for label in lists["TEST_SET"]:
        new, kind, view = next(taken)
        (root / label).rename(root / new)
        first = sorted((root / new).iterdir())[0]
        first.rename(first.with_name(kind)) if first.name != kind else None
        (root / new / kind / "seq0").rename(root / new / kind / view)
        probes.append((new, kind, view))
    new_lists = {"TEST_SET": [probe[0] for probe in probes], "PROBE_SET": ["-".join(probe) for probe in probes]}
    partition.write_text(json.dumps(lists | new_lists))


@pytest.mark.skipif(not CHECKOUT, reason="set FASTPOSEGAIT_HOME to a FastPoseGait checkout to train and test inside it")
def test_three_stages_train_and_test_in_the_real_host(tmp_path: Path) -> None:
    checkout, root = tmp_path / "host", tmp_path / "walkers"
    subprocess.run(["git", "clone", "-q", CHECKOUT, str(checkout)], check=True)
    partition = write_dataset(root, train=5, test=4, cameras=2, sequences=2, seed=0)
    as_gait3d(root, partition, checkout / "datasets/Gait3D/Gait3D.json")
    plugin = checkout / "fastposegait/modeling/models/bpmt_ext_plugin.py"
    plugin.write_text(PLUGIN)
    (checkout / "configs/bpmt").mkdir()
    data = [f"data_cfg.dataset_root={root}", f"data_cfg.dataset_partition={partition}"]
    weights = {}
    for name, config in STAGES.items():
        opts = [*data, "trainer_cfg.with_test=true", "trainer_cfg.sync_BN=true"]
        if name == "BPMT":
            opts += ["evaluator_cfg.eval_func=evaluate_Gait3D", "evaluator_cfg.same_camera=keep"]
        cfg = for_host(name, *opts)
        (checkout / f"configs/bpmt/{config}.yaml").write_text(yaml.safe_dump(cfg, sort_keys=False))
        said = run(checkout, config, "train")
        assert "Iteration 00010" in said and "nan" not in said.lower().split("iteration 00010")[1]
        assert re.search(r"Rank-1\D+[\d.]+", said)
        settings_ = load(name, *opts)
        path = checkout / last_checkpoint(settings_)
        state = load_checkpoint(path)
        assert state["iteration"] == 10 and {"optimizer", "scheduler"} <= set(state)
        network = build_network(name, settings_.model_cfg.free, skeleton=get_skeleton("coco17"), classes=5)
        load_weights(network, state["model"], path)
        weights[name] = state["model"]
    t1, t2, last = weights.values()
    kept = [key for key in t1 if key.startswith("t1.")]
    assert kept and all(torch.equal(t1[key], t2[key]) for key in kept)  # frozen in stage 2
    statistics = [key for key in kept if "streams" in key]
    assert statistics and all(torch.equal(t1[key], last[key]) for key in statistics) and last["t1.streams.fitted"] == 1
    moved = [float((t2[key] - last[key]).abs().max()) for key in t2 if key.startswith("t2.encoder")]
    assert 0 < max(moved) < 0.05  # ten small steps away from stage 2, not from anywhere

    said = run(checkout, STAGES["BPMT"], "test")
    found = re.findall(r"test_accuracy/([\w-]+)': (?:np\.\w+\()?([\d.]+)", said)
    theirs = {name: float(value) for name, value in found}
    ours = run_test(settings_, World(0, 1, torch.device("cpu")), tmp_path / "engine", str(path))["metrics"]
    assert set(theirs) == {"Rank-1", "Rank-5", "Rank-10", "mAP", "mINP"}
    assert theirs == pytest.approx({name: ours[name] for name in theirs}, abs=1e-3)

    shutil.rmtree(checkout / "output")
    status = ["git", "-C", str(checkout), "status", "--porcelain", "--untracked-files=all"]
    changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout.split("\n")
    added = {f"?? configs/bpmt/{config}.yaml" for config in STAGES.values()}
    assert set(filter(None, changed)) == added | {f"?? {plugin.relative_to(checkout)}"}
