"""Our settings in, a config that an unmodified FastPoseGait runs out: complete, every key in it is read there.

The host merges a config over its own defaults, knows no `base`, and looks for a checkpoint by its iteration alone
(host_contract.md sections 2-6). What it cannot do is refused, with two exceptions that change no result it reports: it
holds no validation identities out (data_cfg.validation, trainer_cfg.val_iter: it trains on the whole TRAIN_SET), and
its seed is the process's rank (trainer_cfg.seed). A stage is handed over from its last iteration.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bpmt_ext.config import Settings, load_settings
from bpmt_ext.config_schema import SamplerConfig
from bpmt_ext.data.transforms import TRANSFORMS
from bpmt_ext.engine.stages import stage_options
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.protocols import PROTOCOLS
from bpmt_ext.registry import get_method

# The host's own: protocols, and what its losses take besides type, log_prefix and loss_term_weight.
HOST_PROTOCOLS = (
    "evaluate_indoor_dataset", "evaluate_real_scene", "GREW_submission", "evaluate_Gait3D", "evaluate_CCPG",
)  # fmt: skip
HOST_LOSSES = {
    "TripletLoss": ("margin", "is_hard_loss"),
    "CrossEntropyLoss": ("scale", "label_smooth", "eps", "log_accuracy"),
}
LOSS_DEFAULTS = {"mean_over": "active"}  # ours alone, with the only value that is the host's behaviour
DATA_KEYS = (
    "dataset_name", "dataset_root", "dataset_partition", "num_workers", "cache", "frame_threshold",
    "test_dataset_name", "remove_no_gallery", "data_in_use", "joint_format", "skeleton",
)  # fmt: skip
TRAINER_KEYS = (
    "with_test", "fix_BN", "sync_BN", "log_iter", "save_name", "total_iter", "restore_ckpt_strict", "optimizer_reset",
    "scheduler_reset", "clip_grad",
)  # fmt: skip


def host_config(settings: Settings, *, classes: int, gpus: int = 1, opts: Sequence[str] = ()) -> dict[str, Any]:
    """The whole config as plain values for YAML.

    classes: identities of the training set, as the host counts them. gpus: how many it will run on; its test takes one
    sequence on each. opts: the options the settings were loaded with, for what they say about earlier stages.
    Raises UserError for what the host cannot do.
    """
    resolved = settings.resolved()
    pretraining = get_method(settings.model_cfg.model).pretraining
    config = {
        "data_cfg": _data(settings),
        "evaluator_cfg": _evaluator(settings, gpus),
        "model_cfg": _model(settings, classes, opts),
        "optimizer_cfg": resolved["optimizer_cfg"],
        "scheduler_cfg": resolved["scheduler_cfg"],
        "trainer_cfg": _trainer(settings),
    }
    if not pretraining:  # else the losses are the network's own
        config["loss_cfg"] = [_loss(settings, i) for i in range(len(settings.loss_cfg))]
    return config


def last_checkpoint(settings: Settings) -> str:
    """Where the host writes the last checkpoint of a training, relative to its checkout."""
    t = settings.trainer_cfg
    folder = f"output/{settings.data_cfg.dataset_name}/{settings.model_cfg.model}/{t.save_name}/checkpoints"
    save_interval(settings)
    return f"{folder}/{t.save_name}-{t.total_iter:05d}.pt"


def save_interval(settings: Settings) -> int:
    """trainer_cfg.save_iter, refused where the host would not save the last iteration with it."""
    t = settings.trainer_cfg
    interval = min(t.save_iter, t.total_iter)
    if t.total_iter % interval:
        raise UserError(
            f"{settings.where('trainer_cfg.save_iter')}: FastPoseGait saves every {interval} iterations and so never "
            f"the last one, {t.total_iter}; make total_iter a multiple of save_iter"
        )
    return interval


def _data(settings: Settings) -> dict[str, Any]:
    data = settings.data_cfg
    if data.min_cameras > 1 or data.camera_split:
        key = "camera_split" if data.camera_split else "min_cameras"
        raise UserError(
            f"{settings.where(f'data_cfg.{key}')}: FastPoseGait takes all sequences of a training identity; leave it "
            "out, or write a partition file without those that are to be left out"
        )
    if data.data_in_use and not all(isinstance(used, bool) for used in data.data_in_use):
        raise UserError(
            f"{settings.where('data_cfg.data_in_use')}: {data.data_in_use} are positions; FastPoseGait takes true or "
            "false for each file"
        )
    return _taken(settings.resolved()["data_cfg"], DATA_KEYS)


def _evaluator(settings: Settings, gpus: int) -> dict[str, Any]:
    e = settings.evaluator_cfg
    keys = ["enable_float16", "restore_ckpt_strict", "save_name", "eval_func", "metric"]
    if e.cross_view_gallery:
        keys.append("cross_view_gallery")
    out = _taken(settings.resolved()["evaluator_cfg"], keys)
    if e.eval_func in PROTOCOLS and e.eval_func not in HOST_PROTOCOLS:  # ours reads these itself
        out |= {"same_camera": e.same_camera, "dataset_partition": settings.data_cfg.dataset_partition}
        out["camera"] = e.camera or settings.data_cfg.camera
    last = e.restore_hint in ("last", "best")
    if last:
        save_interval(settings)
    return out | {
        "restore_hint": settings.trainer_cfg.total_iter if last else e.restore_hint,
        "sampler": _sampler(settings, "evaluator_cfg") | {"batch_size": gpus},
        "transform": host_transforms(e.transform, _joint_format(settings)),
    }


def _model(settings: Settings, classes: int, opts: Sequence[str]) -> dict[str, Any]:
    model = settings.model_cfg
    method = get_method(model.model)
    config = {"model": model.model, **settings.resolved()["model_cfg"]}
    if model.stages:
        config["stages"] = {name: _stage(name, Path(path), opts) for name, path in model.stages.items()}
    outputs = {out for loss in settings.loss_cfg for out in (method.losses or {}).get(loss.type, {}).values()}
    if "logits" in outputs:  # a classifier that no loss trains would stop the host's distributed training
        if config.setdefault("num_class", classes) < classes:
            raise UserError(
                f"{settings.where('model_cfg.num_class')}: {config['num_class']} classes for {classes} training "
                "identities; leave the key out to count them"
            )
    return config


def _stage(name: str, path: Path, opts: Sequence[str]) -> str:
    """The checkpoint of an earlier stage: as given, or the one the host writes last with that config."""
    if path.suffix not in (".yaml", ".yml"):
        return str(path)
    options = [text for text in stage_options(opts, name) if not text.startswith(("t1.", "t2."))]
    return last_checkpoint(load_settings(path, options))


def _loss(settings: Settings, i: int) -> dict[str, Any]:
    loss = settings.loss_cfg[i]
    where = settings.where(f"loss_cfg.{i}")
    if loss.type not in HOST_LOSSES:
        raise UserError(f"{where}: FastPoseGait with bpmt_ext has {', '.join(HOST_LOSSES)}, not {loss.type}")
    for key, value in loss.free.items():
        if key not in HOST_LOSSES[loss.type] and value != LOSS_DEFAULTS.get(key):
            raise UserError(f"{where}: {key} {value!r} is not known to FastPoseGait's {loss.type}; leave it out")
    own = {"type": loss.type, "log_prefix": loss.log_prefix or loss.type, "loss_term_weight": loss.loss_term_weight}
    return own | _taken(loss.free, HOST_LOSSES[loss.type])


def _trainer(settings: Settings) -> dict[str, Any]:
    t = settings.trainer_cfg
    if t.precision == "bf16":
        raise UserError(
            f"{settings.where('trainer_cfg.precision')}: FastPoseGait knows float16 only; write fp16 or off"
        )
    return _taken(settings.resolved()["trainer_cfg"], TRAINER_KEYS) | {
        "enable_float16": t.enable_float16 or t.precision == "fp16",
        "restore_hint": 0 if t.restore_hint == "auto" else t.restore_hint,
        "save_iter": save_interval(settings),
        "sampler": _sampler(settings, "trainer_cfg"),
        "transform": host_transforms(t.transform, _joint_format(settings)),
    }


def _sampler(settings: Settings, section: str) -> dict[str, Any]:
    sampler: SamplerConfig = getattr(settings, section).sampler
    if sampler.sample_type.endswith("_allordered"):
        raise UserError(
            f"{settings.where(f'{section}.sampler.sample_type')}: {sampler.sample_type} is OpenGait's; FastPoseGait "
            "has _ordered and _unordered"
        )
    out = settings.resolved()[section]["sampler"]
    if sampler.type == "InferenceSampler":
        out.pop("batch_shuffle", None)
    if sampler.sample_type in ("fixed_ordered", "unfixed_ordered"):
        out.setdefault("frames_skip_num", 0)  # the host asks for it
    return out


def host_transforms(steps: Sequence[Mapping[str, Any]], joint_format: Any) -> list[dict[str, Any]]:
    """Our transforms for the host's one modality: each by its name there, the host's own layout last.

    joint_format: what those that must know the joints are told where the config leaves it to the data.
    """
    chain = [_host_transform(step, joint_format) for step in _flat(steps)]
    return [{"type": "Compose", "trf_cfg": [*chain, {"type": "SkeletonInput"}]}]


def _flat(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps in order, those inside Compose too, without SkeletonInput, which does nothing here."""
    out: list[Mapping[str, Any]] = []
    for step in steps:
        out.extend(_flat(step.get("trf_cfg") or ()) if step["type"] == "Compose" else [step])
    return [step for step in out if step["type"] != "SkeletonInput"]


def _host_transform(step: Mapping[str, Any], joint_format: Any) -> dict[str, Any]:
    name = step["type"]
    if name not in TRANSFORMS:
        raise UserError(f"transform: type {name!r} is unknown; known are {', '.join(TRANSFORMS)}")
    told = {"joint_format": joint_format} if "joint_format" in inspect.signature(TRANSFORMS[name]).parameters else {}
    return {"type": f"Bpmt{name}", **told, **{key: value for key, value in step.items() if key != "type"}}


def _joint_format(settings: Settings) -> Any:
    return settings.data_cfg.skeleton or settings.data_cfg.joint_format


def _taken(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}
