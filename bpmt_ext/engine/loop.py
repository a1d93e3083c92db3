"""A run's parts in, trained weights and the best validation figures out: the one loop all stages share.

Stages differ in what they build, not in how they are trained. Dropout and the like draw from torch's generator, which
is seeded anew from (seed, iteration, rank) before every step: a resumed run then needs no saved random state.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from bpmt_ext.data.batches import Batch, Loader, train_loader
from bpmt_ext.engine.actions import validation_figures
from bpmt_ext.engine.checkpoint import (
    checkpoint_path,
    find_iterations,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    set_aside,
)
from bpmt_ext.engine.compiling import compiled, compiling
from bpmt_ext.engine.inference import validate
from bpmt_ext.engine.logs import Journal, log, sole, write_text
from bpmt_ext.engine.parts import (
    Run,
    autocast,
    changed_keys,
    classifies,
    knows_half,
    refuse_other_data,
    resolved_text,
    seed_everything,
    trained_on,
    training_precision,
    transform_device,
    warn_of_changes,
)
from bpmt_ext.engine.preparation import fit_inputs, release_idle
from bpmt_ext.engine.progress import Best, Tracker
from bpmt_ext.engine.solvers import build_solver, check_solver, own_kernels
from bpmt_ext.errors import UserError


def build_loader(run: Run, start: int) -> Loader:
    """This process's batches of the iterations from `start`. UserError for a sampler the training set cannot feed."""
    t, world = run.settings.trainer_cfg, run.world
    loader = train_loader(
        run.splits.train,
        t.sampler.model_dump(),
        run.train_transform,
        seed=t.seed,
        start=start,
        stop=t.total_iter,
        rank=world.rank,
        world_size=world.size,
        num_workers=run.settings.data_cfg.num_workers,
        pin_memory=world.device.type == "cuda",
        device=transform_device(run),
    )
    share = loader.batches.sampler.batch_size // world.size
    if share % t.accumulate:
        raise UserError(
            f"trainer_cfg.accumulate {t.accumulate} does not divide the {share} sequences that trainer_cfg.sampler."
            f"batch_size gives each of {world.size} process(es); change one of them"
        )
    return loader


def check_training(run: Run) -> None:
    """Build what a training needs and let it go: what the config got wrong is told before any stage is trained."""
    check_solver(run)
    build_loader(run, 0)


class Trainer:
    """One training: what changes from step to step and what a checkpoint holds."""

    def __init__(self, run: Run) -> None:
        self.run, self.config, world = run, run.settings.trainer_cfg, run.world
        run.network.to(world.device)
        self.optimizer, self.scheduler = build_solver(run)
        self.precision = training_precision(run.settings)
        if self.precision != "off" and not knows_half(world.device):
            log.warning("%s: this CPU does not know bfloat16, which would take it longer; trained in float32 in place "
                        "of %s", run.settings.model_cfg.model, self.precision)  # fmt: skip
        fp16 = self.precision == "fp16" and world.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=fp16)
        key = "loss" if run.method.pretraining else "top1" if classifies(run.settings) else "mAP"
        self.tracker, self.best, self.iteration = Tracker(), Best(key), 0
        self._restore()
        fit_inputs(run)
        if run.method.pretraining:
            run.network.average = world.mean  # what it divides its sums by; see nets/masking.py
        self.model = compiled(run.network, self.config.compile)
        if world.size > 1:
            release_idle(run)
            devices = [world.device] if world.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.model, devices)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One update; returns the detached figures."""
        self.iteration += 1
        seed_everything(self.config.seed, self.iteration, self.run.world.rank)
        self.model.train()
        if self.config.fix_BN:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        self.optimizer.zero_grad(set_to_none=True)
        shares = batch.shares(self.config.accumulate)
        found = [self._backward(share, len(shares), last=share is shares[-1]) for share in shares]
        figures = {name: torch.stack([f[name] for f in found]).mean(0) for name in found[0]}
        if self.config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        figures |= {"lr": torch.tensor(self.optimizer.param_groups[0]["lr"])}
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        return figures

    def _backward(self, share: Batch, shares: int, last: bool) -> dict[str, Tensor]:
        """Add one share's part of the mean loss to the gradients, which processes exchange at the last one."""
        apart = isinstance(self.model, DistributedDataParallel) and not last
        with self.model.no_sync() if apart else nullcontext():
            with autocast(self.run.world.device, self.precision), compiling(self.config.compile):
                out = self.model(share.pose, share.mask, share.key)
            loss, figures = self.run.objective(out, share.label, self.run.world)
            self.scaler.scale(loss / shares).backward()
        return figures

    def save(self, which: int | str) -> None:
        """Write a checkpoint in the main process; the others wait, so that nobody runs ahead of a failed write."""
        self.tracker.check(self.iteration, self.run.world)
        tracker = self.tracker.state(self.run.world)
        self.tracker = Tracker(tracker)  # as a resumed run would have it: sums over processes round as they are added
        if self.run.world.main:
            engine = {
                "best": self.best.state(),
                "tracker": tracker,
                "scaler": self.scaler.state_dict(),
                "seed": self.config.seed,
                "config": resolved_text(self.run.settings),
                "data": trained_on(self.run.settings, self.run.splits),
            }
            state = {
                "model": self.run.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "iteration": self.iteration,
                "engine": engine,
            }
            save_checkpoint(checkpoint_path(self.run.checkpoints, self.config.save_name, which), state)
        self.run.world.barrier()

    def _restore(self) -> None:
        """Continue from `restore_hint`: 0 starts anew, `auto` takes the newest checkpoint if there is one, a number
        that iteration's; a path takes that file's weights and optimiser at iteration 0 (the host's rule)."""
        t, folder = self.config, self.run.checkpoints
        hint = t.restore_hint
        if hint == "auto":
            hint = max(find_iterations(folder, t.save_name), default=0)
        if hint == 0:
            return
        path = checkpoint_path(folder, t.save_name, hint) if isinstance(hint, int) else Path(hint)
        state = load_checkpoint(path, self.run.trust)
        load_weights(self.run.network, state["model"], path, strict=t.restore_ckpt_strict)
        rates = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            if not t.optimizer_reset and "optimizer" in state:
                self.optimizer.load_state_dict(own_kernels(self.optimizer, state["optimizer"]))
                for group, own in zip(self.optimizer.param_groups, rates, strict=True):
                    _same_kind(self.optimizer, self.optimizer.defaults, group)
                    if t.scheduler_reset:  # the file's groups also hold its schedule's rates
                        group.update(own)
            if not t.scheduler_reset and "scheduler" in state:
                _same_kind(self.scheduler, self.scheduler.state_dict(), state["scheduler"])
                self.scheduler.load_state_dict(state["scheduler"])
        except Exception as error:  # whatever torch makes of a state that is not its own
            remedy = "set trainer_cfg.optimizer_reset and scheduler_reset to true"
            raise UserError(f"{path}: its optimiser state does not fit this config ({error}); {remedy}") from error
        steps = getattr(self.scheduler, "total_steps", t.total_iter)
        if not isinstance(hint, int):
            if hasattr(self.scheduler, "total_steps") and steps - self.scheduler.last_epoch < t.total_iter:
                raise UserError(
                    f"{path}: its schedule has {steps - self.scheduler.last_epoch} of {steps} iterations left, "
                    f"trainer_cfg.total_iter is {t.total_iter}; set trainer_cfg.scheduler_reset to true"
                )
            return
        engine = state.get("engine", {})  # a host's checkpoint has none
        self.iteration = hint
        if hint > t.total_iter or steps < t.total_iter:
            raise UserError(
                f"{path}: belongs to a training of {max(hint, steps)} iterations, trainer_cfg.total_iter is "
                f"{t.total_iter}; give this one another save_name, or set trainer_cfg.restore_hint"
                + (" or scheduler_reset: true" if steps < t.total_iter else "")
            )
        try:
            self.tracker, self.best = Tracker(engine.get("tracker")), Best(self.best.key, engine.get("best"))
            if engine.get("scaler"):
                self.scaler.load_state_dict(engine["scaler"])
        except Exception as error:
            remedy = "start from an earlier one (trainer_cfg.restore_hint) or anew"
            raise UserError(f"{path}: what it says of its training is damaged ({error}); {remedy}") from error
        refuse_other_data(path, state, self.run.settings, self.run.splits)
        changed = changed_keys(state, self.run.settings)
        if changed and hint == t.total_iter:  # what is written of it would not be what it is
            raise UserError(f"{path}: was trained with other settings ({', '.join(changed)}), and to its end; to train "
                            "anew give another save_name or delete it")  # fmt: skip
        if self.run.world.main:
            warn_of_changes(path, changed)
            log.info("%s: continuing from %s", self.run.settings.model_cfg.model, path.name)


    def begin(self) -> None:
        """Make sure that all processes begin at one place, and that no checkpoint of an earlier training that is begun
        anew can be taken for one of this."""
        t = self.config
        found = self.run.world.gather_objects(f"{t.save_name} at iteration {self.iteration}")
        if len(set(found)) > 1:
            raise UserError(
                f"{self.run.checkpoints}: the processes see different checkpoints and would begin with "
                f"{', '.join(found)}; let all of them use one folder, on a disk that they share"
            )
        if self.run.world.main and (t.restore_hint != "auto" or self.iteration == 0):
            set_aside(self.run.checkpoints, t.save_name, self.iteration, but=Path(str(t.restore_hint)))


def _same_kind(target: object, own: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """ValueError if a loaded state lacks what this class keeps; torch would only miss it at the next step. Names with
    an underscore come and go with torch's version."""
    lacking = sorted(key for key in own.keys() - loaded.keys() if not key.startswith("_"))
    if lacking:
        raise ValueError(f"it has no {lacking[0]}, as {type(target).__name__} needs it")


def train(run: Run) -> dict[str, float]:
    """Train to total_iter from wherever `restore_hint` says; returns the best validation figures, empty without any."""
    with sole(run.folder) if run.world.main else nullcontext():
        return _train(run)


def _train(run: Run) -> dict[str, float]:
    t, world, trainer = run.settings.trainer_cfg, run.world, Trainer(run)
    trainer.begin()
    if world.main:
        write_text(run.folder / "config.yaml", resolved_text(run.settings))
    loader = build_loader(run, trainer.iteration)
    name = f"{run.settings.model_cfg.model:8}"
    span = {"initial": trainer.iteration, "total": t.total_iter}
    with (
        Journal(run.folder, start=trainer.iteration, active=world.main) as journal,
        tqdm(**span, desc=name, unit="it", disable=not world.main, mininterval=1) as bar,
    ):
        for batch in loader:
            trainer.tracker.add(trainer.step(batch.to(world.device, non_blocking=True)))
            iteration = trainer.iteration
            last = iteration == t.total_iter
            bar.update()
            if last or iteration % t.log_iter == 0:
                trainer.tracker.check(iteration, world)
                means = trainer.tracker.means(world)
                journal.write(iteration, "train", means)
                bar.set_postfix(loss=f"{means['loss']:.4f}", **trainer.best.show())
            if t.val_iter and len(run.splits.val) and (last or iteration % t.val_iter == 0):
                trainer.tracker.check(iteration, world)
                world.from_main(run.network.buffers())  # BatchNorm's statistics are each process's own
                figures = validation_figures(run) if trainer.best.key == "top1" else validate(run)
                figures = world.gather_objects(figures)[0]  # machines may round differently, and must agree on `best`
                journal.write(iteration, "validation", figures)
                if trainer.best.improved(figures, iteration):
                    trainer.save("best")
                bar.set_postfix(**trainer.best.show())
            if last:  # before the checkpoint that says that this stage is done and is not to be entered again
                journal.draw()
            if last or iteration % t.save_iter == 0:
                trainer.save(iteration)
    return trainer.best.figures
