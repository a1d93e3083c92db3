"""Settings in; the pieces every training and test is made of (a Run, its objective, its precision) out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from bpmt_ext.config import Settings
from bpmt_ext.config_layers import parse_yaml
from bpmt_ext.data.sequences import Splits
from bpmt_ext.data.transforms import Compose
from bpmt_ext.draws import Draws
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.logs import log
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.classification import CLASSIFICATION
from bpmt_ext.registry import Method


def classifies(settings: Settings) -> bool:
    """Whether the config is tested by how many sequences it names rightly, in place of a ranking."""
    return settings.evaluator_cfg.eval_func in CLASSIFICATION


class Objective:
    """Network output and labels in, what to call backward on and the figures to log (`loss` first) out.

    losses: (name in the logs, loss, {argument: output} that feed it) for networks that classify or embed; empty for
    pretraining, whose loss is the network's own: its `loss`, or the mean of its `losses`.
    """

    def __init__(self, losses: Sequence[tuple[str, nn.Module, Mapping[str, str]]]) -> None:
        self.losses = losses

    def __call__(self, out: Mapping[str, Any], labels: Tensor, world: World) -> tuple[Tensor, dict[str, Tensor]]:
        if "losses" in out:
            named = out["losses"]
            loss = out["loss"] if "loss" in out else torch.stack(list(named.values())).mean()
            return loss, {"loss": loss.detach(), **{f"part/{name}": value.detach() for name, value in named.items()}}
        zero = torch.zeros((), device=labels.device)
        total, figures = zero, {"loss": zero}
        for prefix, loss_fn, inputs in self.losses:
            absent = [name for name in inputs.values() if name not in out]
            if absent:
                raise UserError(
                    f"loss_cfg: the network has no {absent[0]} for {type(loss_fn).__name__}; leave this loss out, or "
                    "let the network have it (logits: model_cfg.num_class is not 0)"
                )
            given = {argument: out[name] for argument, name in inputs.items()} | {"labels": labels}
            scale = 1
            if loss_fn.pairwise:  # every process sees all rows, and DistributedDataParallel averages the gradients
                given = {argument: world.gather_rows(value) for argument, value in given.items()}
                scale = world.size
            loss, info = loss_fn(**given)
            total = total + loss_fn.loss_term_weight * scale * loss
            figures["loss"] = figures["loss"] + loss_fn.loss_term_weight * loss.detach()
            figures[f"{prefix}/loss"] = loss.detach()
            figures |= {f"{prefix}/{name}": value for name, value in info.items()}
        return total, figures


@dataclass
class Run:
    """Everything one training or test needs; `engine/stages.py` builds it from the settings."""

    settings: Settings
    method: Method
    network: nn.Module
    objective: Objective
    splits: Splits
    train_transform: Compose
    test_transform: Compose
    world: World
    folder: Path
    trust: bool = False  # whether checkpoints from elsewhere may hold more than plain data

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def transform_device(run: Run) -> torch.device | None:
    """Where a loader is to transform its batches; None: in its workers."""
    return run.world.device if run.settings.data_cfg.transform_on == "device" else None


def knows_half(device: torch.device) -> bool:
    """Whether half precision saves time here: not on a CPU whose convolutions do not know bfloat16 (AVX2 and less), on
    which a step of GPGait takes six times as long as in float32."""
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Mixed precision on this device: off, bf16 or fp16 (a CPU has no use for fp16 and takes bf16, or float32 where it
    does not know that either)."""
    if precision == "off" or not knows_half(device):
        return nullcontext()
    half = torch.float16 if precision == "fp16" and device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype=half)


def training_precision(settings: Settings) -> str:
    """off, bf16 or fp16."""
    t = settings.trainer_cfg
    return t.precision or ("fp16" if t.enable_float16 else "off")


def resolved_text(settings: Settings) -> str:
    """The complete settings as YAML."""
    return yaml.safe_dump(settings.resolved(), sort_keys=False, allow_unicode=True)


# Keys that may change between two calls of one training: they say how far, how often and from where, not what.
_FREE = ("evaluator_cfg", "data_cfg.dataset_root", "data_cfg.dataset_partition", "data_cfg.num_workers",
         "data_cfg.cache", "data_cfg.packed", "data_cfg.transform_on", "data_cfg.test_dataset_name", "model_cfg.stages",
         "trainer_cfg.restore_hint", "trainer_cfg.log_iter", "trainer_cfg.save_iter", "trainer_cfg.val_iter",
         "trainer_cfg.with_test", "trainer_cfg.optimizer_reset", "trainer_cfg.scheduler_reset",
         "trainer_cfg.restore_ckpt_strict", "trainer_cfg.compile")  # fmt: skip


def changed_keys(state: Mapping[str, Any], settings: Settings) -> list[str]:
    """Keys in which these settings differ from those a checkpoint was trained with; none where it does not say."""
    engine = state.get("engine")
    told = engine.get("config") if isinstance(engine, Mapping) else None
    try:
        before = parse_yaml(told, "config") if isinstance(told, str) else None
    except UserError:  # somebody else's file
        before = None
    if not isinstance(before, Mapping):
        return []
    now, absent, found = settings.resolved(), object(), []
    for section in now:
        old, new = before.get(section), now[section]
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            found += [section] if old != new else []
            continue
        keys = dict.fromkeys([*old, *new])
        found += [f"{section}.{key}" for key in keys if old.get(key, absent) != new.get(key, absent)]
    return [key for key in found if key not in _FREE and key.partition(".")[0] not in _FREE]


def warn_of_changes(path: Path, changed: Sequence[str]) -> None:
    """Tell that a training goes on, or counts as done, though these settings are no longer those it began with."""
    if changed:
        log.warning(
            "%s was trained with other settings (%s); to train anew give another save_name or delete it",
            path, ", ".join(changed),
        )


def trained_on(settings: Settings, splits: Splits) -> dict[str, Any]:
    """What a checkpoint keeps of its data: their name, a digest of what is trained and validated on, and the people."""
    train = getattr(splits.train, "real", splits.train)  # people made of two are not recorded
    lines = sorted(f"{which} {name}" for which, each in (("train", train), ("val", splits.val)) for name in each.names)
    text = "\n".join(lines).encode("utf-8", "surrogatepass")  # names of files may be no text
    people = sorted({*(r.label for r in train.records), *(r.label for r in splits.val.records)})
    return {"name": settings.data_cfg.dataset_name, "digest": hashlib.sha256(text).hexdigest(), "labels": people}


def refuse_other_data(path: Path, state: Mapping[str, Any], settings: Settings, splits: Splits) -> None:
    """UserError if a checkpoint that a training is to go on from, or to take for done, was trained on other sequences:
    its people may be those of this test."""
    told = _told_data(state).get("digest")
    if told is not None and told != trained_on(settings, splits)["digest"]:
        raise UserError(f"{path}: was trained or validated on other sequences than data_cfg and its "
                        f"{settings.data_cfg.dataset_partition} name now; to train anew give another save_name or "
                        "delete it")  # fmt: skip


def warn_of_known(path: Path, state: Mapping[str, Any], settings: Settings, splits: Splits) -> None:
    """Tell that a test is of people whom the network has been trained on."""
    told, tested = _told_data(state), {record.label for record in splits.test.records}
    known = tested & set(told.get("labels", ()))
    if known and told.get("name") == settings.data_cfg.dataset_name:
        log.warning("%s: was trained on %d of the %d people who are tested (%s, ...); what follows says nothing of "
                    "strangers", path, len(known), len(tested), min(known))  # fmt: skip


def _told_data(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `trained_on` said; empty in somebody else's file."""
    engine = state.get("engine")
    told = engine.get("data") if isinstance(engine, Mapping) else None
    return told if isinstance(told, Mapping) else {}


def seed_everything(seed: int, iteration: int, rank: int) -> None:
    """Seed torch's generators for one step of one process: initial weights at iteration 0, dropout afterwards."""
    torch.manual_seed(int(Draws.at(seed, iteration, [rank]).split("step").integers(2**62)))
