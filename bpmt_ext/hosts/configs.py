"""Our settings in, a config that an unmodified host runs out: complete, every key in it is read there.

The host merges a config over its own defaults, knows no `base`, and looks for a checkpoint by its iteration alone
(host_contract.md sections 2-6). What it cannot do is refused, with two exceptions that change no result it reports: it
holds no validation identities out (data_cfg.validation, trainer_cfg.val_iter: it trains on the whole TRAIN_SET), and
its seed is the process's rank (trainer_cfg.seed). Our transforms run on its device, whatever data_cfg.transform_on
says: the numbers are the same. A stage is handed over from its last iteration. A loss is the host's own where that can
do what is asked, else ours, `Bpmt<name>`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bpmt_ext.config import Settings, load_settings, suggestion
from bpmt_ext.config_schema import SamplerConfig
from bpmt_ext.data.transforms import TRANSFORMS
from bpmt_ext.engine.stages import stage_options
from bpmt_ext.errors import UserError
from bpmt_ext.hosts.checkouts import Host
from bpmt_ext.losses import LOSSES
from bpmt_ext.metrics.classification import CLASSIFICATION
from bpmt_ext.metrics.protocols import PROTOCOLS
from bpmt_ext.registry import get_method

# Values of ours under which a loss of the same name is the host's, where the host does not know the key.
LOSS_DEFAULTS = {"mean_over": "active", "is_hard_loss": False}
DATA_KEYS = (
    "dataset_name", "dataset_root", "dataset_partition", "num_workers", "cache", "frame_threshold",
    "test_dataset_name", "remove_no_gallery", "data_in_use", "joint_format", "skeleton",
)  # fmt: skip
TRAINER_KEYS = (
    "with_test", "fix_BN", "sync_BN", "log_iter", "save_name", "total_iter", "restore_ckpt_strict", "optimizer_reset",
    "scheduler_reset", "clip_grad",
)  # fmt: skip


def host_config(
    settings: Settings, host: Host, *, classes: int, gpus: int = 1, opts: Sequence[str] = (), root: Path | None = None
) -> dict[str, Any]:
    """The whole config as plain values for YAML.

    classes: identities of the training set, as the host counts them. gpus: how many it will run on; its test takes one
    sequence on each. opts, root: what the settings were loaded with, for earlier stages. Raises UserError for what the
    host cannot do.
    """
    resolved = settings.resolved()
    pretraining = get_method(settings.model_cfg.model).pretraining
    config = {
        "data_cfg": _data(settings, host),
        "evaluator_cfg": _evaluator(settings, host, gpus),
        "model_cfg": _model(settings, host, classes, opts, root),
        "optimizer_cfg": resolved["optimizer_cfg"],
        "scheduler_cfg": _schedule(settings, host),
        "trainer_cfg": _trainer(settings, host, gpus),
    }
    if not pretraining:  # else the losses are the network's own
        config["loss_cfg"] = [_loss(settings, host, i) for i in range(len(settings.loss_cfg))]
    return config


def last_checkpoint(settings: Settings) -> str:
    """Where the host writes the last checkpoint of a training, relative to its checkout."""
    t = settings.trainer_cfg
    folder = f"output/{settings.data_cfg.dataset_name}/{settings.model_cfg.model}/{t.save_name}/checkpoints"
    save_interval(settings)
    return f"{folder}/{t.save_name}-{t.total_iter:05d}.pt"


def save_interval(settings: Settings) -> int:
    """trainer_cfg.save_iter, or less, so that the host saves the last iteration too."""
    t = settings.trainer_cfg
    most = min(t.save_iter, t.total_iter)
    interval = next(k for k in range(most, 0, -1) if t.total_iter % k == 0)
    if 2 * interval < most:
        raise UserError(
            f"{settings.where('trainer_cfg.save_iter')}: the host saves every {most} iterations and so never the last "
            f"one, {t.total_iter}; make total_iter a multiple of save_iter"
        )
    return interval


def _data(settings: Settings, host: Host) -> dict[str, Any]:
    data = settings.data_cfg
    fewer = {"camera_split": data.camera_split, "min_cameras": data.min_cameras > 1,
             "train_labels": data.train_labels, "train_sequences": data.train_sequences}  # fmt: skip
    if any(fewer.values()):
        key = next(key for key, value in fewer.items() if value)
        raise UserError(
            f"{settings.where(f'data_cfg.{key}')}: {host.name} takes all sequences of a training identity; leave it "
            "out, or write a partition file without those that are to be left out"
        )
    if data.exchanged_bodies:
        raise UserError(f"{settings.where('data_cfg.exchanged_bodies')}: {host.name} trains on recorded people alone; "
                        "set it to 0 (--opts data_cfg.exchanged_bodies=0)")  # fmt: skip
    if data.data_in_use and not host.positions and not all(isinstance(used, bool) for used in data.data_in_use):
        raise UserError(
            f"{settings.where('data_cfg.data_in_use')}: {data.data_in_use} are positions; {host.name} takes true or "
            "false for each file"
        )
    if data.frame_threshold and not host.frame_threshold:
        raise UserError(
            f"{settings.where('data_cfg.frame_threshold')}: {host.name} keeps short sequences; set it to 0, or take "
            "those files out of the data set"
        )
    return _taken(settings.resolved()["data_cfg"], DATA_KEYS)


def _evaluator(settings: Settings, host: Host, gpus: int) -> dict[str, Any]:
    e = settings.evaluator_cfg
    keys = ["enable_float16", "restore_ckpt_strict", "save_name", "eval_func", "metric"]
    if e.cross_view_gallery:
        keys.append("cross_view_gallery")
    out = _taken(settings.resolved()["evaluator_cfg"], keys)
    if e.eval_func in CLASSIFICATION:
        raise UserError(
            f"{settings.where('evaluator_cfg.eval_func')}: {host.name} ranks and names no class; train and test "
            "actions with the engine of this project"
        )
    if e.eval_func not in (*host.protocols, *PROTOCOLS):
        known = suggestion(e.eval_func, (*host.protocols, *PROTOCOLS))
        raise UserError(f"{settings.where('evaluator_cfg.eval_func')}: there is no protocol {e.eval_func!r}{known}")
    if e.eval_func not in host.protocols:  # ours reads these itself
        out |= {"same_camera": e.same_camera, "dataset_partition": settings.data_cfg.dataset_partition}
        out["camera"] = e.camera or settings.data_cfg.camera
    last = e.restore_hint in ("last", "best")
    if last:
        save_interval(settings)
    return out | {
        "restore_hint": settings.trainer_cfg.total_iter if last else e.restore_hint,
        "sampler": _sampler(settings, host, "evaluator_cfg") | {"batch_size": gpus},
        "transform": _transforms(settings, "evaluator_cfg"),
    }


def _model(
    settings: Settings, host: Host, classes: int, opts: Sequence[str], root: Path | None
) -> dict[str, Any]:
    model = settings.model_cfg
    method = get_method(model.model)
    if model.model in host.models:
        where = settings.where("model_cfg.model")
        raise UserError(f"{where}: {host.name} has a {model.model} of its own; train it with the host's own config")
    settings.arguments(method.network(), "model_cfg", supplied=("skeleton",))
    config = {"model": model.model, **settings.resolved()["model_cfg"]}
    if model.stages:
        config["stages"] = {name: _stage(name, Path(path), opts, root) for name, path in model.stages.items()}
    outputs = {out for loss in settings.loss_cfg for out in (method.losses or {}).get(loss.type, {}).values()}
    # A classifier that no loss trains is left out.
    if "logits" in outputs and config.setdefault("num_class", classes) < classes:
        raise UserError(
            f"{settings.where('model_cfg.num_class')}: {config['num_class']} classes for {classes} training "
            "identities; leave the key out to count them"
        )
    return config


def _stage(name: str, path: Path, opts: Sequence[str], root: Path | None) -> str:
    """The checkpoint of an earlier stage: as given, or the one the host writes last with that config."""
    if path.suffix not in (".yaml", ".yml"):
        return str(path)
    return last_checkpoint(load_settings(path, own_options(stage_options(opts, name)), root))


def own_options(opts: Sequence[str]) -> list[str]:
    """Of the options those that do not address an earlier stage."""
    return [text for text in opts if not re.match(r"t\d+\.", text)]


def _loss(settings: Settings, host: Host, i: int) -> dict[str, Any]:
    loss, where = settings.loss_cfg[i], settings.where(f"loss_cfg.{i}")
    if loss.type not in LOSSES:
        raise UserError(f"{where}.type: there is no loss {loss.type!r}{suggestion(loss.type, LOSSES)}")
    settings.arguments(LOSSES[loss.type], f"loss_cfg.{i}", supplied=("loss_term_weight",))
    known = host.losses.get(loss.type)
    theirs = known is not None and all(
        key in known or value == LOSS_DEFAULTS.get(key) for key, value in loss.free.items()
    )
    return {
        "type": loss.type if theirs else f"Bpmt{loss.type}",
        "log_prefix": loss.log_prefix or loss.type,
        "loss_term_weight": loss.loss_term_weight,
        **{key: value for key, value in loss.free.items() if not theirs or key in known},
    }


def _schedule(settings: Settings, host: Host) -> dict[str, Any]:
    schedule, _ = settings.scheduler()
    if schedule.__module__.partition(".")[0] != "torch":
        raise UserError(
            f"{settings.where('scheduler_cfg.scheduler')}: {host.name} takes the schedules of torch, not "
            f"{schedule.__name__}; name one of torch.optim.lr_scheduler"
        )
    return settings.resolved()["scheduler_cfg"]


def _trainer(settings: Settings, host: Host, gpus: int) -> dict[str, Any]:
    t = settings.trainer_cfg
    if t.precision == "bf16":
        raise UserError(
            f"{settings.where('trainer_cfg.precision')}: {host.name} knows float16 only; write fp16 or off"
        )
    if t.accumulate > 1:
        raise UserError(
            f"{settings.where('trainer_cfg.accumulate')}: {host.name} takes a batch in one pass; leave it out, or make "
            "sampler.batch_size smaller"
        )
    size = t.sampler.batch_size
    size = math.prod(size) if isinstance(size, list) else size
    if size % gpus:
        raise UserError(
            f"{settings.where('trainer_cfg.sampler.batch_size')}: {size} sequences do not divide among {gpus} GPUs; "
            "change it or --gpus"
        )
    return _taken(settings.resolved()["trainer_cfg"], TRAINER_KEYS) | {
        "enable_float16": t.enable_float16 or t.precision == "fp16",
        "restore_hint": 0 if t.restore_hint == "auto" else t.restore_hint,
        "save_iter": save_interval(settings),
        "sampler": _sampler(settings, host, "trainer_cfg"),
        "transform": _transforms(settings, "trainer_cfg"),
        **host.trainer,
    }


def _sampler(settings: Settings, host: Host, section: str) -> dict[str, Any]:
    sampler: SamplerConfig = getattr(settings, section).sampler
    if sampler.sample_type.endswith("_allordered"):
        raise UserError(
            f"{settings.where(f'{section}.sampler.sample_type')}: {host.name} has _ordered and _unordered, not "
            f"{sampler.sample_type}"  # OpenGait reads the word and draws unordered frames
        )
    if sampler.repeat:
        raise UserError(
            f"{settings.where(f'{section}.sampler.repeat')}: {host.name} lists every sequence once; leave it out"
        )
    if sampler.type not in host.samplers:
        raise UserError(
            f"{settings.where(f'{section}.sampler.type')}: {host.name} has no {sampler.type}; its samplers are "
            f"{', '.join(host.samplers)}"
        )
    out = settings.resolved()[section]["sampler"]
    if sampler.type == "InferenceSampler":
        out.pop("batch_shuffle", None)
    if sampler.sample_type in ("fixed_ordered", "unfixed_ordered"):
        out.setdefault("frames_skip_num", 0)  # the host asks for it
    return out


def _transforms(settings: Settings, section: str) -> list[dict[str, Any]]:
    """Our transforms for the host's one modality: each by its name there, of poses the host's own layout last.

    Those that must know the joints are told them where the config leaves it to the data.
    """
    where = settings.where(f"{section}.transform")
    joint_format = settings.data_cfg.skeleton or settings.data_cfg.joint_format
    chain = [_host_transform(step, joint_format, where) for step in _flat(getattr(settings, section).transform)]
    layout = [{"type": "SkeletonInput"}] if settings.data_cfg.modality == "pose" else []
    return [{"type": "Compose", "trf_cfg": [*chain, *layout]}]


def _flat(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps in order, those inside Compose too, without SkeletonInput, which does nothing here."""
    out: list[Mapping[str, Any]] = []
    for step in steps:
        out.extend(_flat(step.get("trf_cfg") or ()) if step["type"] == "Compose" else [step])
    return [step for step in out if step["type"] != "SkeletonInput"]


def _host_transform(step: Mapping[str, Any], joint_format: Any, where: str) -> dict[str, Any]:
    name = step["type"]
    if name not in TRANSFORMS:
        raise UserError(f"{where}: type {name!r} is unknown{suggestion(name, TRANSFORMS)}")
    told = {"joint_format": joint_format} if "joint_format" in inspect.signature(TRANSFORMS[name]).parameters else {}
    return {"type": f"Bpmt{name}", **told, **{key: value for key, value in step.items() if key != "type"}}


def _taken(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}
