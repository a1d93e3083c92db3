"""A job file in, one cell of a comparison out: a method trained on one split with one seed and scored on every test.

    python -m bpmt_ext.engine.cell JOB.json

Each runs in a process of its own, so that memory and time are its own and a crash takes nothing else along. Exit
status 0 done, 2 bad input (one sentence in `failed.json`), anything else a defect (its traceback is in the log).
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bpmt_ext import __version__
from bpmt_ext.config import Settings
from bpmt_ext.data.sequences import Splits
from bpmt_ext.engine import costs
from bpmt_ext.engine.budget import schedule_options
from bpmt_ext.engine.distributed import World, world
from bpmt_ext.engine.logs import log, log_to, write_json
from bpmt_ext.engine.loop import fit_inputs
from bpmt_ext.engine.methods import stages_of
from bpmt_ext.engine.parts import Run
from bpmt_ext.engine.stages import build_run, load_data, train_config
from bpmt_ext.engine.testing import save_arrays, score
from bpmt_ext.errors import UserError
from bpmt_ext.plugins import load_plugins

Job = Mapping[str, Any]


def on_root(settings: Settings, root: str | None) -> Settings:
    """The same settings on another data root; on their own where there is none."""
    if root is None:
        return settings
    data = settings.data_cfg.model_copy(update={"dataset_root": root})
    return settings.model_copy(update={"data_cfg": data})


def train_cell(job: Job, here: World) -> dict[str, Any]:
    """Train (or only start) the network of a job, test it, and say what it cost.

    job: config, opts, variant, tests {name: data root or None}, folder. The probes' own values go to
    `<folder>/per_probe-<test>.npz`.
    """
    folder, cwd = Path(job["folder"]), Path.cwd()
    stages = stages_of(job["config"], job["opts"], cwd)
    settings, output = stages[-1].settings, folder / "output"
    resumed = any(output.rglob("*.pt"))
    watch = costs.Stopwatch(here.device)
    if job["variant"] == "untrained":
        run = build_run(settings, load_data(settings), here, output)
        run.network.to(here.device)
        fit_inputs(run)
    else:
        run = train_config(settings, here, output, job["opts"], cwd)
    spent = {"train_seconds": round(watch.seconds, 2), "train_wall_seconds": round(watch.wall, 2), "resumed": resumed,
             "train_memory_mib": round(costs.peak_memory(here.device), 1)}
    iteration = 0 if job["variant"] == "untrained" else settings.trainer_cfg.total_iter
    scores = {name: _score(run, name, root, folder, iteration) for name, root in job["tests"].items()}
    spent |= {"memory_mib": round(costs.peak_memory(here.device), 1), **costs.parameters(run),
              "multiply_adds": _counted(run), "frames": costs.FRAMES,
              "sequences_per_second": round(costs.sequences_per_second(run), 2)}
    lengths = {stage.name or "finetuning": stage.settings.trainer_cfg.total_iter for stage in stages}
    return {
        "model": settings.model_cfg.model,
        "dataset": settings.data_cfg.dataset_name,
        "iterations": {} if job["variant"] == "untrained" else lengths,
        "scores": scores,
        "costs": spent,
        "machine": costs.machine(here.device),
        "versions": {"bpmt_ext": __version__, "torch": torch.__version__, "numpy": np.__version__,
                     "python": platform.python_version()},
    }


def _counted(run: Run) -> int | None:
    """The multiply-adds; None, and a word in the log, for a network that torch's counter cannot follow."""
    try:
        return costs.multiply_adds(run)
    except (RuntimeError, NotImplementedError, AssertionError) as error:  # nothing to lose a training for
        log.warning("its multiply-adds cannot be counted: %s", error)
        return None


def _score(run: Run, name: str, root: str | None, folder: Path, iteration: int) -> dict[str, Any]:
    """Results on one test root; what each probe got goes to its own file."""
    settings = on_root(run.settings, root)
    same = settings.data_cfg.dataset_root == run.settings.data_cfg.dataset_root
    splits = run.splits if same else load_data(settings)
    tested = replace(run, settings=settings, splits=splits, folder=folder)
    results = score(tested, iteration=iteration, write=False)
    save_probes(folder, name, results.pop("per_probe"), splits)
    if "predictions" in results:
        save_arrays(folder / f"predictions-{name}.npz", results.pop("predictions"))
    return {key: value for key, value in results.items() if key not in ("versions", "config", "model")}


def save_probes(folder: Path, test: str, per_probe: Mapping[str, np.ndarray], splits: Splits) -> None:
    """Write what each probe of a test got, with its name, for a paired comparison."""
    names = np.array(splits.test.names)[per_probe["index"]]
    save_arrays(folder / f"per_probe-{test}.npz", {**per_probe, "name": names})


def measure(job: Job, here: World) -> dict[str, Any]:
    """Seconds of one iteration of every stage of a method, on the data the job names."""
    folder, rows, opts = Path(job["folder"]), [], job["opts"]
    own = stages_of(job["config"], opts, Path.cwd())
    # so long that no measurement comes to the end of its schedule
    longer = [text for stage in own for text in schedule_options(stage.settings, 10**6, stage.prefix)]
    for stage, long in zip(own, stages_of(job["config"], [*opts, *longer], Path.cwd()), strict=True):
        output = folder / "output" / (stage.name or "last")
        run = build_run(long.settings, load_data(long.settings), here, output)
        seconds = costs.seconds_per_iteration(run)
        rows.append({"name": stage.name, "iterations": stage.settings.trainer_cfg.total_iter, "seconds": seconds})
    return {"stages": rows, "machine": costs.machine(here.device)}


TASKS: Mapping[str, Callable[[Job, World], dict[str, Any]]] = {"train": train_cell, "measure": measure}


def _die_with_the_parent() -> None:
    """End this process when the other end of its standard input is gone: nobody would read its results."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
            pass
        os._exit(4)

    threading.Thread(target=watch, daemon=True).start()


def main(argv: Sequence[str]) -> int:
    job = json.loads(Path(argv[0]).read_text("utf-8"))
    if "--watch" in argv:
        _die_with_the_parent()
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    torch.set_float32_matmul_precision("highest")
    log_to(None)
    failed, message = Path(job["folder"]) / "failed.json", ""
    try:
        load_plugins(job["plugins"])
        with world() as here:
            result = TASKS[job["task"]](job, here)
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.filename is None:
            raise
        message = f"{error.filename}: {error.strerror}; correct the path or its permissions"
    if message:
        write_json(failed, {"kind": "input", "message": message})
        sys.stderr.write(message + "\n")
        return 2
    failed.unlink(missing_ok=True)
    write_json(Path(job["result"]), {**job["about"], **result})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
