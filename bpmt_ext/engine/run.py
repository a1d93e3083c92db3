"""Checked settings and a phase in, an exit status out: what `fastposegait/main.py` and `bpmt train|test` do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from bpmt_ext.config import Settings
from bpmt_ext.engine.distributed import world
from bpmt_ext.engine.logs import log, log_to
from bpmt_ext.engine.stages import run_folder, train_config
from bpmt_ext.engine.testing import test_config


def main(
    settings: Settings,
    *,
    phase: str,
    iteration: int | None = None,
    log_to_file: bool = False,
    output: Path,
    opts: Sequence[str] = (),
    root: Path,
    trust: bool = False,
) -> int:
    """Train or test one config; 0 when done.

    iteration: start from (train) or test that checkpoint, as the host's --iter. output: the folder that receives
    `<dataset>/<model>/<save_name>/`. opts, root: what the settings were loaded with; earlier stages need them again.
    trust: read checkpoints that hold more than plain data, which runs their maker's code.
    """
    with world() as here:
        folder = run_folder(settings, output, testing=phase == "test")
        log_to(folder / "logs" if log_to_file and here.main else None)
        if not here.main:
            log.setLevel(logging.WARNING)
        torch.set_float32_matmul_precision("highest")
        if phase == "test":
            test_config(settings, here, output, iteration, trust=trust)
            return 0
        if iteration is not None:
            trainer = settings.trainer_cfg.model_copy(update={"restore_hint": iteration})
            settings = settings.model_copy(update={"trainer_cfg": trainer})
        train_config(settings, here, output, opts, root, trust)
        if settings.trainer_cfg.with_test:
            test_config(as_trained(settings), here, output)
    return 0


def as_trained(settings: Settings) -> Settings:
    """The settings for a test right after their training: of the network just trained, whatever restore_hint and
    save_name say of earlier ones; `best` and `last` hold."""
    e, t = settings.evaluator_cfg, settings.trainer_cfg
    hint = e.restore_hint if e.restore_hint in ("best", "last") else "last"
    evaluator = e.model_copy(update={"restore_hint": hint, "save_name": t.save_name})
    return settings.model_copy(update={"evaluator_cfg": evaluator})
