"""Made-up walkers in; whether the same answer comes out however the work is shared, and what a failing peer leads to.

    python tools/soak_processes.py --minutes 5 --seed 0 --json processes.json

Same answer: embeddings and metrics of small networks tested in batches of other sizes, in another order, with more
padding, with loader workers, on 2 and 3 processes (gloo), from one packed file, transformed in the main process; and
trainings of 20 steps on 2 and 3 processes, and compiled, beside the same on one, batch statistics over all of them,
with the largest difference of a loss. Failing peers: a training on 2 processes of which one is killed at a random
time, is stopped (SIGSTOP), meets an error or runs out of memory, and a training whose loader worker is killed: what is
left must end with status 2 and one sentence in a bounded time, and started again end as the undisturbed training did,
bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from soak_resume import Child, differences, host_main, prepare, train, write_task

import bpmt_ext.engine.loop as loop
import bpmt_ext.engine.run as engine_run
from bpmt_ext.config import load_settings
from bpmt_ext.data.sequences import SequenceSet
from bpmt_ext.engine.checkpoint import checkpoint_path, load_checkpoint, load_weights
from bpmt_ext.engine.distributed import World, world
from bpmt_ext.engine.inference import embed
from bpmt_ext.engine.logs import read_metrics
from bpmt_ext.engine.stages import build_run, load_data, run_folder
from bpmt_ext.errors import UserError
from bpmt_ext.report.tables import text_table

BOUND = 1e-5
PATIENCE = 3.0  # seconds for a peer that hangs: in use it is minutes
STEPS = 20
COMPILED = ("t1", "net", "gaitgraph2")  # takes a minute each
GRAPH = {"input_num": 3, "input_branch": [5, 8, 8], "main_stream": [8, 16], "reduction": 4, "num_class": 8, "tta": True,
         "joint_format": "coco"}  # fmt: skip
UNFIXED = {"sample_type": "unfixed_ordered", "frames_num_min": 6, "frames_num_max": 14}
HARD = [{"type": "TripletLoss", "margin": 0.3, "is_hard_loss": True}]
# what each network has besides the shared settings; `stages` are trained with it
NETWORKS: dict[str, dict[str, Any]] = {
    "t1": {}, "t2": {"model_cfg": {"stages": {}}}, "net": {"model_cfg": {"stages": {}}},
    "gaitgraph2": {"model_cfg": {"model": "GaitGraph2", **GRAPH}, "transform": [{"type": "GaitGraph_MultiInput"}],
                   "loss_cfg": [{"type": "SupConLoss_Lp", "temperature": 0.1}]},
    "gaittr": {"model_cfg": {"model": "GaitTR", "in_channels": [10, 32, 32], "num_class": 8, "dropout": 0.0},
               "transform": [{"type": "GaitTR_MultiInput"}], "loss_cfg": HARD, "sampler": UNFIXED},
}  # fmt: skip


def write_networks(folder: Path, seed: int) -> None:
    """The walkers and stages of `soak_resume`, and even-<name>.yaml: plain steps, no dropout, every loss logged."""
    write_task(folder, seed)
    for name, own in NETWORKS.items():
        staged = yaml.safe_load((folder / f"{name}.yaml").read_text()) if (folder / f"{name}.yaml").is_file() else {}
        trainer = {
            "save_name": name, "total_iter": STEPS, "save_iter": STEPS, "log_iter": 1, "val_iter": 0,
            "with_test": False, "sync_BN": True, "clip_grad": None,
            "sampler": {"batch_size": [3, 4], **own.get("sampler", {})},
        }  # fmt: skip
        evaluator = {"restore_hint": "last"}
        if "transform" in own:
            for section in (trainer, evaluator):
                section["transform"] = own["transform"]
        shared = yaml.safe_load((folder / "base.yaml").read_text())
        model = {**staged.get("model_cfg", {}), **own.get("model_cfg", {})}
        if "transform" not in own:
            model |= {**shared["model_cfg"], "dropout": 0.0}
        values = {
            **shared, "loss_cfg": own.get("loss_cfg", shared["loss_cfg"]), "model_cfg": model,
            "optimizer_cfg": {"solver": "SGD", "lr": 0.01, "momentum": 0.9},
            "scheduler_cfg": {"scheduler": "ConstantLR", "factor": 1.0},
            "evaluator_cfg": shared["evaluator_cfg"] | evaluator, "trainer_cfg": shared["trainer_cfg"] | trainer,
        }  # fmt: skip
        values["trainer_cfg"]["sampler"] = shared["trainer_cfg"]["sampler"] | trainer["sampler"]
        (folder / f"even-{name}.yaml").write_text(yaml.safe_dump(values))


def ranks(folder: Path, size: int, work: Callable[[int], int]) -> list[Child]:
    """Processes that meet in one group and each run `work` of their rank in `folder`."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]

    def joined(rank: int) -> int:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": str(port)}  # fmt: skip
        return work(rank)

    return [Child(folder, functools.partial(joined, rank)) for rank in range(size)]


def finished(children: Sequence[Child], what: str) -> None:
    """Wait for processes that have nothing to stop them. SystemExit if one does not end well."""
    for child in children:
        status = child.ended(900)
        if status != 0:
            raise SystemExit(f"{what}: status {status}: {child.told[-3000:]}")


def test(task: Path, name: str, *opts: str) -> int:
    """The command line, in the working directory: test a config."""
    return host_main(["--cfgs", str(task / f"even-{name}.yaml"), "--phase", "test", "--opts", *opts])


def results(folder: Path, name: str) -> tuple[np.ndarray, dict[str, float]]:
    """What a test has left: embeddings (n, d, p) and metrics."""
    (found,) = folder.glob(f"output/soak/*/{name}/embeddings.npz")
    with np.load(found) as arrays:
        return arrays["embeddings"], json.loads((found.parent / "results.json").read_text())["metrics"]


def shuffled(task: Path, folder: Path, name: str, seed: int, extra: int) -> int:
    """Embed the test set in another order and with more padded frames; into other.npy in the set's order."""
    settings = load_settings(task / f"even-{name}.yaml", [], folder)
    splits = load_data(settings)
    made = build_run(settings, splits, World(0, 1, torch.device("cpu")), folder)
    path = checkpoint_path(run_folder(settings, folder / "output") / "checkpoints", name, STEPS)
    load_weights(made.network, load_checkpoint(path)["model"], path)
    whole, order = made.network.forward, np.random.default_rng(seed).permutation(len(splits.test))

    def padded(pose: torch.Tensor, mask: torch.Tensor) -> Any:
        more = pose[:, -1:].expand(-1, extra, *pose.shape[2:])
        return whole(torch.cat([pose, more], 1), torch.nn.functional.pad(mask, (0, extra)))

    made.network.forward = padded
    turned = SequenceSet([splits.test.records[i] for i in order], reader=splits.test.reader)
    found = embed(made, turned, progress=False).embeddings
    out = np.empty_like(found)
    out[order] = found
    np.save(folder / "other.npy", out)
    return 0


def one_answer(task: Path, root: Path, name: str, seed: int, sizes: Sequence[int]) -> dict[str, float]:
    """Largest difference of a trained network's embeddings (and of its metrics, percent, where they differ at all)."""
    folder = root / f"even-{name}-1"
    ways: dict[str, Callable[[Path], Sequence[Child]]] = {}

    def tested(*opts: str, size: int = 1) -> Callable[[Path], Sequence[Child]]:
        if size == 1:
            return lambda place: [Child(place, lambda: test(task, name, *opts))]
        return lambda place: ranks(place, size, lambda rank: test(task, name, *opts))

    base = "evaluator_cfg.sampler.batch_size=4"
    ways = {f"batch size {k}": tested(f"evaluator_cfg.sampler.batch_size={k}") for k in (1, 5, 9)}
    ways |= {f"{k} processes": tested("evaluator_cfg.sampler.batch_size=2", size=k) for k in sizes}
    ways |= {"2 loader workers": tested(base, "data_cfg.num_workers=2"),
             "one packed file": tested(base, f"data_cfg.packed={root / 'pack'}"),
             "transformed in the main process": tested(base, "data_cfg.transform_on=device")}  # fmt: skip
    finished(tested(base)(folder), name)
    first, metrics = results(folder, name)
    found = {}
    for way, begin in ways.items():
        finished(begin(folder), f"{name}, {way}")
        again, figures = results(folder, name)
        apart = max(abs(figures[key] - metrics[key]) for key in metrics)
        found[way] = max(float(np.abs(again - first).max()), apart / 100)
    finished([Child(folder, lambda: shuffled(task, folder, name, seed, extra=7))], f"{name}, other order")
    found["other order, more padding"] = float(np.abs(np.load(folder / "other.npy") - first).max())
    return {f"{name}: {way}": value for way, value in found.items()}


def trained_alike(task: Path, root: Path, name: str, sizes: Sequence[int], compiled: bool) -> dict[str, float]:
    """Largest relative difference of a loss over the steps, between one process and several, or the same compiled."""
    losses = {}
    ways = {"1": "1", **{str(size): f"on {size} processes" for size in sizes}}
    for way in [*ways, *(["compiled"] if compiled else [])]:
        folder = root / f"even-{name}-{way}"
        if way in ("1", "compiled"):
            opts = ["trainer_cfg.compile=default"] if way == "compiled" else []
            folder.mkdir()
            finished([Child(folder, lambda opts=opts: train(task, f"even-{name}", opts))], f"{name}, {way}")
        else:
            finished(ranks(folder, int(way), lambda rank: train(task, f"even-{name}")), f"{name} on {way} processes")
        (path,) = folder.glob(f"output/soak/*/{name}/metrics.jsonl")
        losses[way] = np.array([row["loss"] for row in read_metrics(path)])
    first = losses.pop("1")
    if len(first) != STEPS or not (first > 0).any() or len(set(first.tolist())) < STEPS // 2:
        raise SystemExit(f"{name}: these losses show nothing: {first}")
    apart = {way: np.abs(own - first) / np.maximum(1.0, np.abs(first)) for way, own in losses.items()}
    return {f"{name}: trained {ways.get(way, way)}": float(values.max()) for way, values in apart.items()}


def failing(step: int, raised: BaseException | None) -> None:
    """From now on this process raises at a step, or stops itself there (None)."""
    whole = loop.Trainer.step

    def doomed(self: loop.Trainer, batch: Any) -> Any:
        if self.iteration == step:
            if raised is None:
                os.kill(os.getpid(), signal.SIGSTOP)
            else:
                raise raised
        return whole(self, batch)

    loop.Trainer.step = doomed


CAUSES: dict[str, tuple[BaseException | None, str]] = {  # what happens to process 1, and what it says itself
    "is killed": (None, ""), "hangs": (None, ""), "meets an error": (UserError("it is damaged"), "it is damaged"),
    "has no memory": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "trainer_cfg.accumulate"),
}  # fmt: skip


def _one_sentence(child: Child, words: str) -> bool:
    """Whether it told its user this, and nothing else."""
    told = child.sentences()
    return len(told) == 1 and words in told[0] and "Traceback" not in child.told


def lost_peer(task: Path, root: Path, how: str, dice: random.Random, seconds: float) -> tuple[float, list[str]]:
    """(seconds from the fault to the end of the other process, what was wrong) of a training on two processes."""
    folder, (error, own) = root / "peer", CAUSES[how]
    engine_run.world = functools.partial(world, PATIENCE / 60)
    step = dice.randrange(1, STEPS)

    def work(rank: int) -> int:
        if rank == 1 and how != "is killed":
            failing(step, error)
        return train(task, "even-net", ["trainer_cfg.save_iter=3"])

    main, other = ranks(folder, 2, work)
    wrong = []
    if how == "is killed":
        while not list(folder.glob("output/soak/BPMT/net/metrics.jsonl")):  # not before they have met
            time.sleep(0.01)
        time.sleep(dice.uniform(0, seconds))
        os.kill(other.pid, signal.SIGKILL)
    begin = time.monotonic()
    status = main.ended(300)
    took = time.monotonic() - begin
    if how == "hangs":
        os.kill(other.pid, signal.SIGKILL)
    last = other.ended(300)
    if (how, status) != ("is killed", 0):  # else it was through
        if status != 2 or not _one_sentence(main, "process 0 of 2 lost another one"):
            wrong.append(f"{how}: status {status}: {main.told[-2000:]}")
        if own and (last != 2 or own not in "".join(other.sentences())):
            wrong.append(f"{how}: the other one: status {last}: {other.told[-2000:]}")
    finished(ranks(folder, 2, lambda rank: train(task, "even-net", ["trainer_cfg.save_iter=3"])), f"after {how}")
    wrong += [f"{how}: {fault}" for fault in differences(root / "two" / "output", folder / "output")]
    shutil.rmtree(folder)
    return took, wrong


def lost_worker(task: Path, root: Path, dice: random.Random, seconds: float) -> tuple[float, list[str]]:
    """As `lost_peer`: a training of one process, one of whose loader workers is killed."""
    folder, opts = root / "worker", ["data_cfg.num_workers=2", "trainer_cfg.save_iter=3"]
    folder.mkdir()
    child = Child(folder, lambda: train(task, "even-net", opts))
    workers: list[str] = []
    while len(workers) < 2:
        workers = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        time.sleep(0.005)
    time.sleep(dice.uniform(0, seconds))
    begin = time.monotonic()
    with contextlib.suppress(ProcessLookupError):  # it was through
        os.kill(int(dice.choice(workers)), signal.SIGKILL)
    status, wrong = child.ended(300), []
    took = time.monotonic() - begin
    if status != 0 and (status != 2 or not _one_sentence(child, "worker died")):
        wrong.append(f"worker: status {status}: {child.told[-2000:]}")
    finished([Child(folder, lambda: train(task, "even-net", opts))], "after a lost worker")
    wrong += [f"worker: {fault}" for fault in differences(root / "one" / "output", folder / "output")]
    shutil.rmtree(folder)
    return took, wrong


def soak(minutes: float, seed: int, short: bool) -> dict[str, Any]:
    """All cases once, then failing peers at other places until the minutes are over; the figures."""
    dice, begin = random.Random(seed), time.monotonic()
    alike: dict[str, float] = {}
    faults: dict[str, list[float]] = {}
    wrong: list[str] = []
    sizes = (2,) if short else (2, 3)
    with tempfile.TemporaryDirectory(prefix="soak-processes-") as place:
        root = Path(place).resolve()
        task = root / "task"
        task.mkdir()
        write_networks(task, seed)
        for name in ("net", "gaittr") if short else NETWORKS:
            alike |= trained_alike(task, root, name, sizes, not short and name in COMPILED)
            if name not in ("t1", "t2"):
                alike |= one_answer(task, root, name, seed, (3,) if short else sizes)
            sys.stderr.write("".join(f"{k}: {v:.1e}\n" for k, v in alike.items() if k.startswith(f"{name}:")))
        opts = ["trainer_cfg.save_iter=3"]
        (root / "one").mkdir()
        times = [time.monotonic()]
        finished(ranks(root / "two", 2, lambda rank: train(task, "even-net", opts)), "two")
        times.append(time.monotonic())
        finished([Child(root / "one", lambda: train(task, "even-net", [*opts, "data_cfg.num_workers=2"]))], "one")
        times.append(time.monotonic())
        two, one = (after - before for before, after in pairwise(times))
        while not faults or time.monotonic() - begin < 60 * minutes:
            for how in CAUSES:
                took, more = lost_peer(task, root, how, dice, two / 2)
                faults.setdefault(f"a process {how}", []).append(took)
                wrong += more
            took, more = lost_worker(task, root, dice, one / 2)
            faults.setdefault("a loader worker is killed", []).append(took)
            wrong += more
    wrong += [f"{name}: {value:.2g}" for name, value in alike.items() if not value <= BOUND]
    return {"differences": alike, "seconds to the end": faults, "wrong": wrong, "seed": seed,
            "seconds": round(time.monotonic() - begin, 1)}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, metavar="M", help="go on so long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--short", action="store_true", help="two networks, two processes")
    args = parser.parse_args(argv)
    found = soak(args.minutes, args.seed, args.short)
    rows = [[name, f"{value:.1e}", "yes" if value <= BOUND else "NO"] for name, value in found["differences"].items()]
    sys.stdout.write(text_table(["the same answer", "largest difference", "held"], rows) + "\n\n")
    rows = [[name, str(len(took)), f"{max(took):.1f}"] for name, took in found["seconds to the end"].items()]
    sys.stdout.write(text_table(["what failed", "times", "seconds until the rest had stopped, at most"], rows) + "\n")
    sys.stdout.write("".join(f"{text}\n" for text in found["wrong"]) + f"{found['seconds']:.0f} s\n")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    prepare()
    sys.exit(main())
