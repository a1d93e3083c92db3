"""Our settings in; complete configs of the hosts, or a sentence about what a host cannot do, out."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import yaml
from standin import STAGES, for_host, load

from bpmt_ext.config import configs_folder, load_settings
from bpmt_ext.data.transforms import TRANSFORMS
from bpmt_ext.errors import UserError
from bpmt_ext.hosts.checkouts import HOSTS
from bpmt_ext.hosts.components import own_chain
from bpmt_ext.hosts.configs import host_config
from bpmt_ext.losses import LOSSES
from bpmt_ext.registry import METHODS


@pytest.mark.parametrize("package", HOSTS)
@pytest.mark.parametrize("path", sorted(configs_folder().glob("bpmt/[!_]*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_become_complete_configs_of_the_host(path: Path, package: str) -> None:
    ours = load_settings(path)
    if path.stem.startswith("thesis"):  # splits by cameras, which no host can
        with pytest.raises(UserError, match="camera_split"):
            host_config(ours, HOSTS[package], classes=50)
        return
    if ours.evaluator_cfg.eval_func == "evaluate_actions":
        with pytest.raises(UserError, match="names no class"):
            host_config(ours, HOSTS[package], classes=50)
        return
    if ours.data_cfg.exchanged_bodies:
        with pytest.raises(UserError, match="exchanged_bodies: .* trains on recorded people alone; set it to 0"):
            host_config(ours, HOSTS[package], classes=50)
        ours = load_settings(path, ["data_cfg.exchanged_bodies=0"])
    cfg = host_config(ours, HOSTS[package], classes=50, gpus=2)
    assert yaml.safe_load(yaml.safe_dump(cfg)) == cfg
    t, e, most = cfg["trainer_cfg"], cfg["evaluator_cfg"], ours.trainer_cfg.save_iter
    assert t["restore_hint"] == 0 and e["restore_hint"] == t["total_iter"] == ours.trainer_cfg.total_iter
    assert t["total_iter"] % t["save_iter"] == 0 and 2 * t["save_iter"] >= min(most, t["total_iter"])
    assert cfg["scheduler_cfg"]["total_steps"] == t["total_iter"]
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
        triplet = "TripletLoss" if package == "fastposegait" else "BpmtTripletLoss"  # batch-hard
        assert [loss["type"] for loss in cfg["loss_cfg"]] == [triplet, "CrossEntropyLoss"]
        assert cfg["loss_cfg"][0]["is_hard_loss"] is True
    for stage, checkpoint in cfg["model_cfg"]["stages"].items():
        other = load_settings(ours.model_cfg.stages[stage])
        name, steps = other.trainer_cfg.save_name, other.trainer_cfg.total_iter
        folder = f"output/{other.data_cfg.dataset_name}/{other.model_cfg.model}/{name}/checkpoints"
        assert checkpoint == f"{folder}/{name}-{steps:05d}.pt"


BOTH = ("fastposegait", "opengait")


@pytest.mark.parametrize(
    ("packages", "opts", "message"),
    [
        (BOTH, ["trainer_cfg.total_iter=11", "trainer_cfg.save_iter=7"], "save_iter: the host saves every 7 iter"),
        (BOTH, ["trainer_cfg.precision=bf16"], "knows float16 only"),
        (BOTH, ["data_cfg.min_cameras=2"], "takes all sequences of a training identity"),
        (BOTH, ["data_cfg.train_sequences=2"], "takes all sequences of a training identity"),
        (BOTH[:1], ["data_cfg.data_in_use=[0]"], "data_in_use: [0] are positions"),
        (BOTH[1:], ["data_cfg.frame_threshold=9"], "frame_threshold: OpenGait keeps short sequences"),
        (BOTH, ["trainer_cfg.sampler.sample_type=fixed_allordered"], "not fixed_allordered"),
        (BOTH, ["loss_cfg.0.margn=3"], "margn"),
        (BOTH, ["loss_cfg.0.type=Nonsense"], "no loss 'Nonsense'"),
        (BOTH, ["model_cfg.num_class=4"], "num_class: 4 classes for 5"),
        (BOTH, ["model_cfg.widht=4"], "widht"),
        (BOTH, ["model_cfg.model=GaitTR"], "has a GaitTR of its own"),
        (BOTH, ["trainer_cfg.transform=[{type: Nonsense}]"], "'Nonsense' is unknown"),
        (BOTH, ["evaluator_cfg.eval_func=evaluate_Gait3d"], "no protocol 'evaluate_Gait3d'; did you mean"),
        (BOTH[:1], ["evaluator_cfg.eval_func=evaluate_FreeGait"], "no protocol 'evaluate_FreeGait'"),
        (BOTH, ["trainer_cfg.accumulate=2"], "accumulate: "), (BOTH, ["trainer_cfg.accumulate=2"], "in one pass"),
        (BOTH, ["trainer_cfg.sampler.repeat={camid0: 2}"], "sampler.repeat: "),
        (BOTH[1:], ["trainer_cfg.sampler.type=RandomTripletSampler", "trainer_cfg.sampler.batch_size=12"],
         "OpenGait has no RandomTripletSampler; its samplers are"),
        (BOTH, ["scheduler_cfg={scheduler: WarmupCosineLR}"], "takes the schedules of torch, not WarmupCosineLR"),
    ],
)
def test_what_a_host_cannot_do_is_refused(
    packages: tuple[str, ...], opts: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpmt_ext.registry.METHODS", METHODS | {"GaitTR": METHODS["BPMT"]})
    for package in packages:
        with pytest.raises(UserError, match=re.escape(message)):
            for_host(package, "BPMT", *opts)
    with pytest.raises(UserError, match="12 sequences do not divide among 5 GPUs"):
        host_config(load("BPMT"), HOSTS["opengait"], classes=5, gpus=5)


@pytest.mark.parametrize("package", HOSTS)
@pytest.mark.parametrize("name", ["gaitmixer/gaitformer_g38", "gaitpt/gaitpt_g38", "skeletongait/skeletongait_g38"])
def test_networks_that_no_host_has_are_linked(name: str, package: str) -> None:
    ours = load_settings(configs_folder() / f"{name}.yaml")
    cfg = host_config(ours, HOSTS[package], classes=30)
    assert yaml.safe_load(yaml.safe_dump(cfg)) == cfg
    for section in ("trainer_cfg", "evaluator_cfg"):
        (chain,) = cfg[section]["transform"]
        steps = own_chain([chain])
        assert steps is not None and len(steps) == len(chain["trf_cfg"]) - 1  # the host can build every one of them
    assert {loss["type"].removeprefix("Bpmt") for loss in cfg["loss_cfg"]} <= set(LOSSES)


@pytest.mark.parametrize("package", HOSTS)
def test_values_the_host_spells_otherwise(package: str) -> None:
    cfg = for_host(
        package, "BPMT", "trainer_cfg.precision=fp16", "trainer_cfg.restore_hint=5", "evaluator_cfg.restore_hint=best",
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
    assert cfg["trainer_cfg"].get("find_unused_parameters") == (False if package == "opengait" else None)


@pytest.mark.parametrize(
    ("package", "given", "kind"),
    [
        ("fastposegait", "margin: 0.2, is_hard_loss: true", "TripletLoss"),
        ("fastposegait", "margin: 0.2, mean_over: all", "BpmtTripletLoss"),
        ("opengait", "margin: 0.2, is_hard_loss: true", "BpmtTripletLoss"),
        ("opengait", "margin: 0.2, is_hard_loss: false, mean_over: active", "TripletLoss"),
    ],
)
def test_a_loss_is_the_hosts_where_it_can_do_that(package: str, given: str, kind: str) -> None:
    (loss,) = for_host(package, "BPMT", f"loss_cfg=[{{type: TripletLoss, {given}}}]")["loss_cfg"]
    assert loss["type"] == kind
    assert ("mean_over" in loss) == ("mean_over" in given and kind == "BpmtTripletLoss")
    assert ("is_hard_loss" in loss) == (kind == "BpmtTripletLoss" or package == "fastposegait") * ("hard" in given)
