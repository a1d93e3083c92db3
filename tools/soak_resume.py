"""Made-up walkers in; a training of three stages, killed again and again, and whether it ended as if never killed, out.

    python tools/soak_resume.py --minutes 10 --seed 0 --json resume.json

Every trial trains T1, T2 and the finetuning by one command in a folder of its own, is killed at random, started again,
killed again, ... and at last left alone. What then lies there (checkpoints with optimiser, schedule and best figures,
metrics.jsonl, curves, results, embeddings) must be what an undisturbed training leaves, bit for bit, and nothing else.
Ways to be stopped, each at a random place: `time`: SIGKILL after a random time; `file`: SIGKILL just before a file is
opened, renamed or removed; `write`: the kernel ends the process inside the writing of a file, at a random byte; `full`:
from a random byte of a file on the disk is full; `denied`: a file cannot be opened. The last two are faults that the
program sees: it must say one sentence and end with status 2. Which stage was met is read from the finished checkpoints
that are left. Processes are forked from one that has imported all.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bpmt_ext.cli import host_main
from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.report.tables import text_table
from bpmt_ext.synthetic import write_dataset

KINDS = ("time", "file", "write", "full", "denied")
FAULTS = ("full", "denied", "worker")  # what the program lives to tell of; worker: a `write` that a loader worker met
STAGES = {"t1": "BPMT_T1", "t2": "BPMT_T2", "net": "BPMT"}
PLACES = ("start", *STAGES, "test")  # where a stop can land: before the first stage, in one, after the last
ITERATIONS = 9  # of each stage
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir")


def write_task(folder: Path, seed: int) -> None:
    """Walkers and the configs t1.yaml, t2.yaml and net.yaml, which names the two; all paths in them are absolute."""
    write_dataset(folder / "data", train=5, test=3, cameras=3, sequences=1, seed=seed)
    masked = {"mask": "block", "mask_ratio": 0.5, "mask_block": 3}
    scale = [{"type": "FillMissing"}, {"type": "RescaleCenter", "center": "neck", "scale": 1.0}]
    clips = {"type": "TripletSampler", "batch_size": [2, 2], "sample_type": "fixed_ordered", "frames_num_fixed": 8}
    shared = {
        "data_cfg": {"dataset_name": "soak", "dataset_root": str(folder / "data"), "num_workers": 0,
                     "dataset_partition": str(folder / "data.json"), "validation": 0.4},
        "evaluator_cfg": {"eval_func": "evaluate_retrieval", "restore_hint": "best", "transform": scale,
                          "sampler": {"sample_type": "all_ordered", "frames_all_limit": 16, "batch_size": 3}},
        "loss_cfg": [{"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.3, "is_hard_loss": True},
                     {"type": "CrossEntropyLoss", "log_prefix": "softmax", "scale": 16, "log_accuracy": True}],
        "optimizer_cfg": {"solver": "AdamW", "lr": 0.002},
        "scheduler_cfg": {"scheduler": "OneCycleLR", "max_lr": 0.002},
        "trainer_cfg": {"total_iter": ITERATIONS, "log_iter": 2, "val_iter": 4, "save_iter": 3, "restore_hint": "auto",
                        "clip_grad": 5.0, "transform": [*scale, {"type": "JointNoise", "std": 0.01}], "sampler": clips},
        "model_cfg": {"width": 8, "heads": 2, "layers": 1, "feedforward": 16, "max_frames": 8, "dropout": 0.1},
    }  # fmt: skip
    (folder / "base.yaml").write_text(yaml.safe_dump(shared))
    own: dict[str, dict[str, Any]] = {"t1": masked, "t2": {**masked, "stages": {"t1": str(folder / "t1.yaml")}}}
    own["net"] = {"embedding_width": 8, "stages": {name: str(folder / f"{name}.yaml") for name in ("t1", "t2")}}
    for name, model in STAGES.items():
        config = {"base": "base.yaml", "model_cfg": {"model": model, **own[name]},
                  "trainer_cfg": {"save_name": name, "with_test": name == "net"}}  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))


@dataclass(frozen=True)
class Stop:
    """How a process is to be stopped: after `seconds`, or at its `at`-th file operation, inside a file at `size`."""

    kind: str
    seconds: float = 0.0
    at: int = 0
    size: int = 0


def _arm(stop: Stop, folder: Path) -> list[int]:
    """Set the trap, in the process that is to fall into it; a list of one number, its file operations so far."""
    met = [0]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in OPERATIONS or not str(args[0]).startswith(str(folder)):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        met[0] += 1
        if met[0] != stop.at:
            return
        if stop.kind == "file":
            os.kill(os.getpid(), signal.SIGKILL)
        if stop.kind == "denied":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(args[0]))
        if stop.kind == "write":  # the default is to end the process; Python ignores the signal, and gets an error
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (stop.size, resource.RLIM_INFINITY))

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(hook)
    return met


class Child:
    """A forked process that runs `work` in `folder` and ends with its status; `told` is what it and its workers say."""

    def __init__(self, folder: Path, work: Callable[[], int]) -> None:
        read, write = os.pipe()  # no file: what limits the files of the process would limit its words
        self.pid, self.told, self.read = os.fork(), "", read
        if self.pid:
            os.close(write)
            os.set_blocking(read, False)
            return
        status = 70
        try:
            os.chdir(folder)
            os.dup2(write, 1)
            os.dup2(write, 2)
            sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)  # not a test runner's
            torch.set_num_threads(1)
            status = work()
            sys.stderr.flush()
        except BaseException:  # whatever it is: this process must not go on as its parent
            traceback.print_exc()
        finally:
            os._exit(status)

    def listen(self) -> None:
        try:
            while words := os.read(self.read, 65536):
                self.told += words.decode(errors="replace")
        except BlockingIOError:
            pass

    def ended(self, limit: float) -> int | None:
        """Exit status, or minus the signal, if it ends within so many seconds; None, and it is killed, if not."""
        end, done, status = time.monotonic() + limit, 0, 0
        while not done and time.monotonic() < end:
            self.listen()
            done, status = os.waitpid(self.pid, os.WNOHANG)
            time.sleep(0 if done else 0.005)
        if not done:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.listen()
        os.close(self.read)
        return os.waitstatus_to_exitcode(status) if done else None

    def sentences(self) -> list[str]:
        """What it said to its user of a fault."""
        return [line for line in self.told.replace("\r", "\n").splitlines() if line.startswith("bpmt: ")]


def train(task: Path, name: str, opts: Sequence[str] = ()) -> int:
    """The command line, in the working directory: train a config of the task."""
    options = ["--opts", *opts] if opts else []
    return host_main(["--cfgs", str(task / f"{name}.yaml"), "--phase", "train", *options])


def same(a: Any, b: Any) -> bool:
    """Whether two nests of containers, numbers, arrays and tensors are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def _content(path: Path) -> Any:
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return dict(arrays)
    return path.read_bytes()


def differences(one: Path, other: Path) -> list[str]:
    """What two trainings' output folders do not share: files that only one has, or whose content differs.

    TensorBoard's files are left out, their names and times are of the process that wrote them, and so are the locks.
    """
    here, there = ({path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in (one, other))
    here, there = ({path for path in paths if path.name != "lock" and "summary" not in path.parts}
                   for paths in (here, there))  # fmt: skip
    found = [f"{path}: in one only" for path in sorted(here ^ there)]
    both = sorted(here & there)
    return found + [f"{path}: differs" for path in both if not same(_content(one / path), _content(other / path))]


def undisturbed(task: Path, folder: Path, opts: Sequence[str]) -> tuple[float, int]:
    """Seconds and file operations of an undisturbed training, which is left in `folder`."""
    folder.mkdir()
    begin, count = time.monotonic(), Stop("count")

    def work() -> int:
        met = _arm(count, folder / "output")
        status = train(task, "net", opts)
        print(f"operations {met[0]}", flush=True)
        return status

    child = Child(folder, work)
    if child.ended(600) != 0:
        raise SystemExit(f"the undisturbed training failed: {child.told}")
    return time.monotonic() - begin, int(child.told.rpartition("operations ")[2])


def draw_stop(dice: random.Random, kind: str, seconds: float, operations: int) -> Stop:
    """A random place to be stopped at, out of an undisturbed training's seconds and file operations."""
    early = dice.choice((0.2, 1.0))  # a training that was stopped before has less left to do
    at, size = dice.randint(1, max(1, int(early * operations))), dice.randint(1, dice.choice((2_000, 100_000)))
    return Stop(kind, seconds=dice.uniform(0, early * seconds), at=at, size=size)


def place_of(folder: Path) -> str:
    """Which of PLACES a training that was stopped had come to, by the finished checkpoints it has left."""
    if not (folder / "output").exists():
        return "start"
    for name, model in STAGES.items():
        if not (folder / f"output/soak/{model}/{name}/checkpoints/{name}-{ITERATIONS:05d}.pt").exists():
            return name
    return "test"


Hits = Counter[tuple[str, str]]  # stops by (kind, place)


def trial(task: Path, folder: Path, stops: Sequence[Stop], opts: Sequence[str] = ()) -> tuple[Hits, list[str]]:
    """One training, stopped in these ways one after the other, then left alone: (stops that hit, what was wrong)."""
    folder.mkdir()
    hits: Hits = Counter()
    wrong: list[str] = []

    def armed(stop: Stop) -> int:
        if stop.kind != "time":
            _arm(stop, folder / "output")
        return train(task, "net", opts)

    for stop in stops:
        child = Child(folder, lambda stop=stop: armed(stop))
        status = child.ended(stop.seconds if stop.kind == "time" else 600)
        if status == 0:
            continue  # it was through before the trap
        worker = stop.kind == "write" and opts and status == 2 and "worker died" in child.told
        kind = "worker" if worker else stop.kind
        hits[kind, place_of(folder)] += 1
        if kind == "time":
            right = status is None
        elif kind in FAULTS:
            right = status == 2 and len(child.sentences()) == 1 and "Traceback" not in child.told
        else:
            right = status in (-signal.SIGKILL, -signal.SIGXFSZ)
        if not right:
            wrong.append(f"{stop}: status {status}: {child.told[-3000:]}")
    child = Child(folder, lambda: train(task, "net", opts))
    status = child.ended(600)
    if status != 0:
        wrong.append(f"the training after {stops[-1]}: status {status}: {child.told[-3000:]}")
    return hits, wrong


def _kills(hits: Hits) -> int:
    """How many of the stops ended the process within a stage, whatever it had to say."""
    return sum(times for (kind, place), times in hits.items() if kind not in FAULTS and place in STAGES)


def soak(minutes: float, seed: int, kills: int, say: Callable[[str], object]) -> dict[str, Any]:
    """Trials until both are reached, the kills within the stages; the figures."""
    dice, begin = random.Random(seed), time.monotonic()
    hits: Hits = Counter()
    wrong: list[str] = []
    trials = survived = 0
    ways = [[], ["data_cfg.num_workers=1"]]  # every fourth trial with a loader worker
    with tempfile.TemporaryDirectory(prefix="soak-resume-") as place:
        root = Path(place).resolve()
        task = root / "task"
        task.mkdir()
        write_task(task, seed)
        whole = {0: undisturbed(task, root / "whole0", ways[0])}
        while len(wrong) < 50 and (_kills(hits) < kills or time.monotonic() - begin < 60 * minutes):
            way, folder = int(trials % 4 == 3), root / f"trial{trials}"
            if way not in whole:
                whole[way] = undisturbed(task, root / f"whole{way}", ways[way])
            stops = [draw_stop(dice, kind, *whole[way]) for kind in dice.sample(KINDS, len(KINDS))]
            met, faults = trial(task, folder, stops, ways[way])
            faults += differences(root / f"whole{way}" / "output", folder / "output")
            for fault in faults:
                say(f"trial {trials}: {fault}")
            wrong += [f"trial {trials}: {fault}" for fault in faults]
            hits, trials = hits + met, trials + 1
            survived += 0 if faults else sum(met.values())
            shutil.rmtree(folder)
    table = {kind: {place: hits[kind, place] for place in PLACES} for kind in (*KINDS, "worker")}
    return {
        "trials": trials, "kills within the stages": _kills(hits),
        "stopped": {kind: sum(row.values()) for kind, row in table.items()},
        "kills by stage": {name: sum(table[kind][name] for kind in KINDS if kind not in FAULTS) for name in PLACES},
        "stops": sum(hits.values()), "survived": survived, "wrong": wrong, "table": table,
        "file operations of a training": whole[0][1], "seconds": round(time.monotonic() - begin, 1), "seed": seed,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, metavar="M", help="go on so long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--kills", type=int, default=50, metavar="N",
                        help="at least so many within the stages (default: %(default)s)")
    args = parser.parse_args(argv)
    found = soak(args.minutes, args.seed, args.kills, lambda text: sys.stderr.write(text + "\n"))
    rows = [[kind, *(str(n) for n in row.values()), str(sum(row.values()))] for kind, row in found["table"].items()]
    sys.stdout.write(text_table(["stopped by", *PLACES, "all"], rows) + f"\n{found['trials']} trials of three stages, "
                     f"{found['kills within the stages']} kills within them, {found['stops']} stops in all, "
                     f"{found['survived']} of them survived bit for bit, {len(found['wrong'])} faults, "
                     f"{found['seconds']:.0f} s\n")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["wrong"] else 0


def _numbers(rows: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    write_bytes(path, json.dumps([title, rows]).encode())


def prepare() -> None:
    """Import, once for all that is forked from here, what a training imports; of the curves only the numbers are
    written, since drawing them would take half of the time."""
    for name in ("bpmt_ext.engine.run", "bpmt_ext.engine.events", "torch._dynamo"):
        importlib.import_module(name)
    importlib.import_module("bpmt_ext.report.curves").draw_curves = _numbers
    torch.set_num_threads(1)


if __name__ == "__main__":
    prepare()
    sys.exit(main())
