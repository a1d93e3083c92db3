"""The hosts' adapters: against stand-ins of both hosts' BaseModel, written from their contract."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import walking
from standin import OTHERS, STAGES, TRIPLET_ONLY, Host, load, running, sequences, walks

from bpmt_ext.config import load_settings
from bpmt_ext.data.transforms import build_transform
from bpmt_ext.engine.checkpoint import load_checkpoint, load_weights, save_checkpoint
from bpmt_ext.errors import UserError
from bpmt_ext.hosts.adapter import Adapter
from bpmt_ext.hosts.checkouts import HOSTS
from bpmt_ext.hosts.components import own_chain, register
from bpmt_ext.hosts.configs import host_config
from bpmt_ext.losses import LOSSES
from bpmt_ext.metrics.protocols import PROTOCOLS
from bpmt_ext.registry import METHODS, build_network
from bpmt_ext.skeletons import get_skeleton


@pytest.fixture(params=sorted(HOSTS))
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Host:
    return running(request.param, monkeypatch)


@pytest.mark.parametrize("name", STAGES)
def test_the_whole_batch_at_once_gives_the_hosts_numbers(host: Host, name: str) -> None:
    """Ours instead of the host's loop over sequences: the same poses and the same random numbers."""
    model = host.model(name)
    assert len(model.chains[True]) >= 4 and len(model.chains[False]) == 2
    batch = model.collate(sequences())
    outs = []
    for chains in (model.chains, dict.fromkeys(model.chains)):  # None: the host's own code
        model.chains = chains
        np.random.seed(3)
        outs.append(model.inputs_pretreament(batch))
    (ours,), *rest, mask = outs[0]
    (theirs,), *others, whole = outs[1]
    assert ours.shape == theirs.shape == (12, 20, 17, 3) and not theirs.requires_grad
    assert torch.allclose(ours, theirs, atol=1e-6) and torch.equal(mask, whole) and mask.all()
    assert torch.equal(rest[0], others[0]) and rest[1:] == others[1:]


def test_only_a_chain_of_ours_is_taken_over(host: Host) -> None:
    def chain(*names: str) -> list[dict]:
        return [{"type": "Compose", "trf_cfg": [{"type": name} for name in names]}]

    assert [type(step).__name__ for step in own_chain(chain("BpmtFlipSequence", "SkeletonInput"))] == ["FlipSequence"]
    others = [chain("FlipSequence", "SkeletonInput"), chain("BpmtFlipSequence", "GaitTR_MultiInput"), chain(),
              chain("BpmtFlipSequence", "SkeletonInput") * 2, [{"type": "SkeletonInput"}]]  # fmt: skip
    assert [own_chain(cfgs) for cfgs in others] == [None] * len(others)
    mixed = [{"type": "Compose", "trf_cfg": [{"type": "Own"}, {"type": "BpmtFillMissing"}, {"type": "SkeletonInput"}]}]
    host.modules["data.transform"].Own = lambda pose: pose + 1
    model = host.model("BPMT", trainer_cfg={"transform": mixed})
    assert model.chains[True] is None
    (pose,), *_ = model.inputs_pretreament(model.collate(sequences()))
    assert torch.allclose(pose[2, 11], torch.from_numpy(sequences()[2][0][11]).float() + 1)
    model = host.model("BPMT", "trainer_cfg.sampler.sample_type=all_ordered", trainer_cfg={"transform": mixed})
    (pose,), *_, mask = model.inputs_pretreament(model.collate(sequences()))
    assert len(pose) == 12 and mask.sum(1).tolist() == [len(walk) for walk, _ in sequences()]


LOSSES_OF = [(name, ()) for name in STAGES]  # pretraining has no losses of its own choice
LOSSES_OF += [(name, (TRIPLET_ONLY,)) for name in STAGES if not METHODS[name].pretraining]


@pytest.mark.parametrize(("name", "opts"), LOSSES_OF)
@pytest.mark.parametrize("sample_type", ["fixed_ordered", "all_ordered"])
def test_training_feeds_every_loss_and_every_weight(
    host: Host, name: str, sample_type: str, opts: tuple[str, ...]
) -> None:
    model = host.model(name, f"trainer_cfg.sampler.sample_type={sample_type}", *opts)
    host.models[name].run_train(model)
    assert model.ran == ["base"] and bool(model.net.t1.streams.fitted) and model.training and model.net.training
    ipts, labels, *rest = model.inputs_pretreament(model.collate(sequences()))
    out = model((ipts, labels, *rest))
    assert all(key.startswith(("scalar/", "image/")) for key in out["visual_summary"])
    total = model.total(out["training_feat"])
    total.backward()
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == [], "the host's distributed training stops at a parameter without a gradient"
    idle = {key for key, p in model.net.named_parameters() if not p.requires_grad and not key.startswith("t1.")}
    assert idle == ({"head.bn.weight", "head.bn.bias"} if opts else set())
    engine = [p for p in load_network(name, *opts).parameters() if p.requires_grad]
    held = [p for group in model.optimizer.param_groups for p in group["params"]]
    assert len(held) == len(engine), "an optimiser's state would not move between host and engine"
    if METHODS[name].pretraining:
        parts = [value for key, value in out["visual_summary"].items() if key.startswith("scalar/part/")]
        assert torch.allclose(total, torch.stack(parts).mean()) and total.isfinite()
    else:
        shapes = {k: {a: tuple(x.shape) for a, x in v.items()} for k, v in out["training_feat"].items()}
        expected = {"triplet": {"embeddings": (12, 128, 6), "labels": (12,)},
                    "softmax": {"logits": (12, 5, 6), "labels": (12,)}}  # fmt: skip
        assert shapes == (expected if not opts else {"triplet": expected["triplet"]})


def load_network(name: str, *opts: str) -> torch.nn.Module:
    classes = 0 if opts else 5
    return build_network(name, load(name, *opts).model_cfg.free, skeleton=get_skeleton("coco17"), classes=classes)


@pytest.mark.parametrize("name", STAGES)
def test_a_test_batch_of_several_sequences_gives_the_engines_embeddings(host: Host, name: str) -> None:
    model = host.model(name, training=False)
    for parameter in model.net.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    with torch.no_grad():
        out = model(model.inputs_pretreament(model.collate(sequences(5))))
        together = out["inference_feat"]["embeddings"]
        model.chains = dict.fromkeys(model.chains)  # and alone, by the host's own code
        transform = build_transform(load(name).evaluator_cfg.transform, get_skeleton("coco17"))
        for row, (pose, _) in enumerate(sequences(5)):
            alone = model(model.inputs_pretreament(model.collate([(pose, 0)])))["inference_feat"]["embeddings"]
            assert torch.allclose(together[row], alone[0], atol=1e-5)
            x, mask = torch.from_numpy(pose).float()[None], torch.ones(1, len(pose), dtype=torch.bool)
            x = transform(x, mask)
            engine = model.net.embed(x, mask) if METHODS[name].pretraining else model.net(x, mask)["embedding"]
            assert torch.allclose(alone, engine, atol=1e-6)
    assert together.ndim == 3 and len(together) == 5 and not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("name", STAGES)
def test_checkpoints_move_between_host_and_engine(host: Host, name: str, tmp_path: Path) -> None:
    model = host.model(name)
    assert max(p.abs().max() for p in model.parameters()) > 0.05, "the host's initialisation must not reach the network"
    engine = load_network(name)
    assert list(model.state_dict()) == list(engine.state_dict())  # none of OpenGait's losses
    assert [p.shape for p in model.parameters()] == [p.shape for p in engine.parameters()]  # the optimiser's order
    save_checkpoint(tmp_path / "a.pt", {"model": model.state_dict()})
    load_weights(engine, load_checkpoint(tmp_path / "a.pt")["model"], tmp_path / "a.pt")
    other = host.model(name)
    other.load_state_dict(engine.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    other.load_state_dict({**engine.state_dict(), "loss_aggregator.losses.x": torch.zeros(1)}, strict=True)
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
    assert torch.allclose(model.net.t1.streams.mean[:, :2].double(), frames.mean(0), atol=1e-5)


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
    models, transform = host.modules["modeling.models"], host.modules["data.transform"]
    evaluator, losses = host.modules["evaluation.evaluator"], host.modules["modeling.losses"]
    brought = set(METHODS) - set(HOSTS[host.package].models)  # a network the host has stays its own
    assert set(host.models) == {name for name in vars(models) if not name.startswith("_")} == brought != set(METHODS)
    assert all(issubclass(model, Adapter) and model.__name__ == name for name, model in host.models.items())
    assert evaluator.evaluate_Gait3D(None, None) == "the host's" and not issubclass(losses.TripletLoss, Adapter)
    assert set(PROTOCOLS) <= set(vars(evaluator)) and "BpmtCompose" not in vars(transform)
    assert {f"Bpmt{name}" for name in LOSSES} <= set(vars(losses))
    with pytest.raises(UserError, match="modeling.models already has a BPMT_T1; unlink"):
        host.attach(host.base)
    with pytest.raises(UserError, match="already has a SkeletonInput"):
        register(transform, {"New": 1, "SkeletonInput": 2})
    assert not hasattr(transform, "New")


def test_every_network_is_one_of_a_hosts_or_tried_here() -> None:
    for package, host in HOSTS.items():
        assert set(METHODS) - {"BPMTAction", "IIPTransformer"} <= {*host.models, *STAGES, *OTHERS}, package
        with pytest.raises(UserError, match="ranks and names no class"):  # what BPMTAction is tested by
            host_config(load_settings("configs/bpmt/bpmt_penn.yaml"), host, classes=15)


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_networks_train_and_are_tested_there(host: Host, name: str) -> None:
    if name in HOSTS[host.package].models:
        with pytest.raises(UserError, match=f"has a {name} of its own"):
            host.model(name)
        return
    model = host.model(name)
    host.models[name].run_train(model)
    out = model(model.inputs_pretreament(model.collate(walks(name))))
    total = model.total(out["training_feat"])
    total.backward()
    assert total.isfinite()
    assert [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model = host.model(name, training=False)
    transform = build_transform(load(name).evaluator_cfg.transform, get_skeleton("coco17"))
    with torch.no_grad():
        together = model(model.inputs_pretreament(model.collate(walks(name, 3))))["inference_feat"]["embeddings"]
        for row, (pose, _) in enumerate(walks(name, 3)):
            x = torch.from_numpy(pose).float()[None]
            x, mask = transform.reframe(x, torch.ones(x.shape[:2], dtype=torch.bool))
            engine = model.net.embed(x, mask) if METHODS[name].pretraining else model.net(x, mask)["embedding"]
            assert torch.allclose(together[row], engine[0], atol=1e-5)


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


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model_cfg", {"widht": 8}, "widht"),
        ("data_cfg", [{"dataset_name": "a"}, {"dataset_name": "b"}], "data_cfg: is a list of data sets"),
        ("loss_cfg", [{"type": "SupConLoss", "log_prefix": "x"}], "BPMT has no output for SupConLoss"),
        ("trainer_cfg", {"transform": [{"type": "Compose", "trf_cfg": [
            {"type": "BpmtJointNoise", "sdt": 1}, {"type": "SkeletonInput"}]}]}, "JointNoise has no parameter 'sdt'"),
    ],
)  # fmt: skip
def test_a_config_edited_by_hand_is_refused_with_a_sentence(
    host: Host, section: str, values: dict | list, message: str
) -> None:
    cfgs = host.model("BPMT").cfgs
    cfgs[section] = cfgs[section] | values if isinstance(values, dict) else values
    host.modules["modeling.losses"].SupConLoss = lambda: None
    with pytest.raises(UserError, match=re.escape(message)):
        host.models["BPMT"](cfgs, True, sequences())


def test_one_file_of_a_sequence_is_used(host: Host) -> None:
    model = host.model("BPMT")
    (poses,), *rest = model.collate(sequences())
    with pytest.raises(UserError, match="2 files in use; choose that of the poses with data_cfg.data_in_use"):
        model.inputs_pretreament(([poses, poses], *rest))
