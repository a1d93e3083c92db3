"""The options of `bpmt compare` in; every method trained and tested on the same splits, and their table, out.

A cell is one method on one fold with one seed. Each is trained and tested by a process of its own (`engine/cell.py`)
and leaves `cells/<method>/<fold>-seed<seed>/result.json`, written last and whole: what is there is not done again, and
several processes may work in one folder, each cell claimed by one of them.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpmt_ext.claims import claim
from bpmt_ext.config import Settings, suggestion
from bpmt_ext.engine.budget import Stage as Cost
from bpmt_ext.engine.budget import allot, schedule_options
from bpmt_ext.engine.comparability import Case, check_folder, check_methods, check_place, digest
from bpmt_ext.engine.jobs import run_job
from bpmt_ext.engine.logs import log, log_to, write_json
from bpmt_ext.engine.methods import Contender, Stage, check_arguments, contenders, identity, stages_of
from bpmt_ext.engine.yardstick import chosen_yardsticks, yardstick_cell
from bpmt_ext.errors import UserError
from bpmt_ext.jsonfiles import read_json
from bpmt_ext.plugins import load_plugins
from bpmt_ext.report.comparison import gather
from bpmt_ext.report.comparison_tables import write_report


@dataclass(frozen=True)
class Options:
    """What `bpmt compare` was asked for; every path absolute but for the configs, which keep the user's spelling."""

    out: Path
    cfgs: tuple[str, ...] = ()
    axes: Path | None = None
    opts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    folds: int = 0
    fold: tuple[int, ...] = ()
    fold_dir: Path | None = None
    inner: bool = False
    root: Path | None = None
    tests: Mapping[str, Path] = field(default_factory=dict)
    minutes: float = 0.0
    iterations: int = 0
    split: Mapping[str, float] = field(default_factory=dict)
    budget_from: Path | None = None
    untrained: bool = False
    yardsticks: tuple[str, ...] = ()  # names, or "all" that the data have
    reference: str = "best"
    form: str = "markdown"
    report: bool = False
    threads: int = 1
    plugins: tuple[str, ...] = ()


def run(options: Options) -> int:
    """Do what is missing, then print the table: 0 done, 1 if a cell crashed, 2 if one was refused for its input."""
    log_to(None)
    load_plugins(options.plugins)
    bad = crashed = 0
    if not options.report:
        bad, crashed = Comparison(options).work()
    try:
        results = gather(options.out, options.reference)
        text = write_report(results, options.out, options.form)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # of files that somebody has changed
        raise UserError(f"--out {options.out}: a result in it is damaged ({type(error).__name__}: {str(error)[:100]}); "
                        "delete its cell's folder, or all of it, and run the comparison again") from error  # fmt: skip
    sys.stdout.write(text + "\n")
    return 2 if bad else 1 if crashed else 0


class Comparison:
    """One call: what it compares, checked to be comparable, and the work on it."""

    def __init__(self, options: Options) -> None:
        import torch

        self.options, self.start, self.cwd = options, time.time(), Path.cwd()
        self.gpu = torch.cuda.is_available()
        if not self.gpu:
            torch.set_num_threads(options.threads)
        self._check_root()
        # one process, one clock: loader processes beside it would work for nothing
        base = () if self.gpu else ("data_cfg.num_workers=0",)
        self.methods = contenders(options.cfgs, options.axes, (*base, *options.opts), self.cwd, options.untrained)
        self.unmeasured: dict[str, dict[str, str]] = {}
        self.stages = {one.label: stages_of(one.config, one.opts, self.cwd) for one in self.methods}
        self.yardsticks = chosen_yardsticks(options.yardsticks, self.stages[self.methods[0].label][-1].settings)
        self._check_shares()
        for stages in self.stages.values():
            check_arguments(stages)
        self.cases = [self._case(fold) for fold in self._folds()]

    def _check_root(self) -> None:
        """UserError for a --root that is no folder, or holds no folds where some are asked for."""
        o, root = self.options, self.options.root
        if root is None:
            return
        where = f"--root {root.relative_to(self.cwd) if root.is_relative_to(self.cwd) else root}"
        if not root.is_dir():
            raise UserError(f"{where}: there is no such folder")
        # the folds beside a config's partition may be those of other data
        if (o.folds or o.fold) and o.fold_dir is None and not (root / "folds").is_dir():
            raise UserError(f"{where}: has no folder folds; let the converter write it (--folds K), or give --fold-dir")

    def _check_shares(self) -> None:
        """UserError for a --split that would have no effect."""
        o, known = self.options, {stage.name for stages in self.stages.values() for stage in stages if stage.name}
        for name in o.split:
            if name not in known:
                raise UserError(f"--split {name}: no config has a stage {name}{suggestion(name, known)}")
        if o.split and not (o.minutes or o.iterations):
            raise UserError("--split: shares out a length, and there is none; add --minutes or --iterations")

    # -- what is compared ----------------------------------------------------------------------------------------

    def _folds(self) -> Sequence[int | None]:
        o = self.options
        if not o.folds and not o.fold:
            return [None]
        wrong = [k for k in o.fold if o.folds and k >= o.folds]
        if wrong:
            raise UserError(f"--fold {wrong[0]}: there are folds 0 to {o.folds - 1}; correct it or --folds")
        return o.fold or range(o.folds)

    def _case(self, fold: int | None) -> Case:
        """The split of one fold; UserError if its file is missing."""
        o = self.options
        first = self.stages[self.methods[0].label][-1].settings
        tests = dict(o.tests) or {first.data_cfg.dataset_name: None}
        if fold is None:
            return Case("split", None, o.root, tests)
        folder = o.fold_dir or (o.root / "folds" if o.root else None)
        if folder is None:
            folders = {Path(s[-1].settings.data_cfg.dataset_partition).parent for s in self.stages.values()}
            if len(folders) > 1:
                raise UserError(f"--folds: the configs' partitions lie in different folders, {folders.pop()} and "
                                f"{folders.pop()}; give --fold-dir")
            (folder,) = folders
        partition = folder / f"fold{fold}{'_inner' if o.inner else ''}.json"
        if not partition.is_file():
            raise UserError(f"{partition}: there is no such fold; give --fold-dir, fewer --folds, or let the converter "
                            "write it (--folds K --inner)")
        # limbs of the training persons, say, make test sets of a fold's own
        tests = {name: root and Path(str(root).replace("{fold}", partition.stem)) for name, root in tests.items()}
        return Case(f"fold{fold}", partition, o.root, tests)

    def options_of(self, method: Contender, case: Case, seed: int) -> list[str]:
        """All options of one cell but for its length: its own, the split's, and that nothing is held out."""
        opts = list(method.opts)
        if case.root is not None:
            opts.append(f"data_cfg.dataset_root={json.dumps(str(case.root))}")
        if case.partition is not None:
            opts.append(f"data_cfg.dataset_partition={json.dumps(str(case.partition))}")
        opts += ["data_cfg.validation=0", "data_cfg.camera_split=false", f"trainer_cfg.seed={seed}",
                 "trainer_cfg.with_test=false", "evaluator_cfg.restore_hint=last"]
        for stage in self.stages[method.label]:
            opts += [f"{stage.prefix}trainer_cfg.val_iter=0", f"{stage.prefix}trainer_cfg.restore_hint=auto"]
        return opts

    # -- the work ------------------------------------------------------------------------------------------------

    def work(self) -> tuple[int, int]:
        """Every cell that is not there yet; how many were refused for their input, and how many crashed."""
        o = self.options
        check_place(o.out)
        stages = {one.label: stages_of(one.config, self.options_of(one, self.cases[0], o.seeds[0]), self.cwd)
                  for one in self.methods}
        data = check_methods(self.methods, stages, self.cases)
        lengths = {one.label: self._lengths(one, stages[one.label]) for one in self.methods if one.trains}
        rows = []
        for one in self.methods:
            opts = [*self.options_of(one, self.cases[0], o.seeds[0]), *lengths.get(one.label, ())]
            rows.append((one, identity(one, stages_of(one.config, opts, self.cwd))))
        budget = {"minutes": o.minutes, "iterations": o.iterations, "split": dict(o.split)}
        rows += [(yardstick(name), {"variant": "yardstick", "name": name}) for name in self.yardsticks]
        with claim(o.out / "claims" / "plan.lock", wait=True):
            check_folder(o.out, rows, data, budget)
        todo = [(case, seed, one) for seed in o.seeds for case in self.cases for one in self.methods]
        bad = crashed = busy = 0
        self._yardsticks(stages[self.methods[0].label][-1].settings)
        for case, seed, one in todo:
            opts = [*self.options_of(one, case, seed), *lengths.get(one.label, ())]
            state = self._cell(one, case, seed, opts)
            bad, crashed, busy = bad + (state == "input"), crashed + (state == "crash"), busy + (state == "busy")
        if busy:
            log.info("%d cells are being computed by another process; --report prints the table when it is done", busy)
        return bad, crashed

    def _lengths(self, method: Contender, stages: Sequence[Stage]) -> list[str]:
        """The options that give a training its budget; none where the configs' own lengths hold."""
        o = self.options
        if o.minutes:
            entry = self._speed(method, stages)
            if entry is None:
                return []
            rows = [Cost(row["name"], row["iterations"], row["seconds"]) for row in entry["stages"]]
            found = allot(o.minutes * 60, rows, o.split)
        elif o.iterations:
            if o.iterations < len(stages):
                raise UserError(f"--iterations {o.iterations}: {method.label} has {len(stages)} stages; give each at "
                                "least one")
            found = allot(o.iterations, [Cost(s.name, s.settings.trainer_cfg.total_iter) for s in stages], o.split)
        else:
            return []
        return [text for stage in stages for text in schedule_options(stage.settings, found[stage.name], stage.prefix)]

    def _speed(self, method: Contender, stages: Sequence[Stage]) -> dict[str, Any] | None:
        """Seconds of one iteration of every stage, measured once: what `--budget-from` or DIR/budget.json holds. None
        where measuring failed: the method's cells then fail with that reason."""
        o, own = self.options, digest(identity(method, stages))
        file = o.out / "budget.json"
        with claim(o.out / "claims" / "budget.lock", wait=True) as descriptor:
            known = _read_budget(file) if file.is_file() else {}
            if o.budget_from is not None:
                given = {k: v for k, v in _read_budget(o.budget_from).items() if k not in known}
                known |= {k: v for k, v in given.items() if k == method.label and v["config"] == own}
            if method.label not in known or known[method.label]["config"] != own:
                log.info("%s: measuring its speed", method.label)
                folder = o.out / "measure" / method.slug
                shutil.rmtree(folder, ignore_errors=True)
                opts = self.options_of(method, self.cases[0], o.seeds[0])
                job = {"task": "measure", "about": {"config": own, "fold": self.cases[0].name}}
                state = self._job(method, folder, opts, job, descriptor)
                if state != "done":
                    failed = read_json(folder / "failed.json")
                    told = f"its speed cannot be measured: {failed['message']}"
                    self.unmeasured[method.label] = {"kind": failed["kind"], "message": told}
                    return None
                known[method.label] = read_json(folder / "result.json")
                shutil.rmtree(folder, ignore_errors=True)
            write_json(file, known)
        return known[method.label]

    def _yardsticks(self, settings: Settings) -> None:
        """Score what is missing of the yardsticks, here and now: they take seconds."""
        for case in self.cases:
            for name in self.yardsticks:
                one = yardstick(name)
                folder = self.options.out / "cells" / one.slug / case.name
                with claim(self.options.out / "claims" / f"{one.slug}-{case.name}.lock", wait=True):
                    if not (folder / "result.json").is_file():
                        yardstick_cell(folder, one.label, name, case, settings)

    def _cell(self, method: Contender, case: Case, seed: int, opts: list[str]) -> str:
        """done, busy (another process has it), or how it failed: input or crash."""
        o = self.options
        folder = o.out / "cells" / method.slug / f"{case.name}-seed{seed}"
        name = f"{method.label}, {case.name}, seed {seed}"
        with claim(o.out / "claims" / f"{method.slug}-{case.name}-seed{seed}.lock") as descriptor:
            if (folder / "result.json").is_file():
                return "done"
            if descriptor is None:
                return "busy"
            failed = folder / "failed.json"
            if failed.is_file():
                if failed.stat().st_mtime > self.start:  # another process has just tried it
                    return read_json(failed)["kind"]
                failed.unlink()
            if method.label in self.unmeasured:
                write_json(failed, self.unmeasured[method.label])
                return self.unmeasured[method.label]["kind"]
            log.info("%s ...", name)
            about = {"label": method.label, "fold": case.name, "seed": seed}
            tests = {test: root and str(root) for test, root in case.tests.items()}
            job = {"task": "train", "about": about, "tests": tests, "variant": method.variant}
            state = self._job(method, folder, opts, job, descriptor)
        if state == "done":
            result = read_json(folder / "result.json")
            figures = "; ".join(f"{test} " + ", ".join(f"{k} {v:.1f}" for k, v in one["metrics"].items()
                                                      if k.endswith(("Rank-1", "mAP", "top1", "macro_f1")))
                                for test, one in result["scores"].items())
            log.info("%s: %s (%.0f s)", name, figures, result["costs"]["train_seconds"])
        else:
            log.warning("%s: failed: %s", name, read_json(folder / "failed.json")["message"])
        return state

    def _job(
        self, method: Contender, folder: Path, opts: Sequence[str], job: dict[str, Any], descriptor: int | None
    ) -> str:
        """Do one job of a method in a process of its own; see `run_job`."""
        known = identity(method, stages_of(method.config, opts, self.cwd))  # a file may change and keep its name
        job = {**job, "config": method.config, "opts": list(opts), "digest": digest([method.config, list(opts), known]),
               "plugins": list(self.options.plugins)}
        return run_job(folder, job, 0 if self.gpu else self.options.threads, descriptor)


def yardstick(name: str) -> Contender:
    """A yardstick as a row of the table."""
    return Contender(f"yardstick: {name.replace('_', ' ')}", "", "yardstick")


def _read_budget(path: Path) -> dict[str, Any]:
    """The measured speeds of a file; UserError if it is none."""
    try:
        found = read_json(path)
        for entry in found.values():
            digest([entry["config"], [[row["name"], int(row["iterations"]), float(row["seconds"])]
                                      for row in entry["stages"]]])
    except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is no budget file of bpmt compare ({error}); name another") from error
    return found

