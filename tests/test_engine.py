"""Tiny data and configs in; trainings that chain, resume, repeat and agree over processes, bit for bit, out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import tiny
import torch
from tiny import checkpoint, equal, folder_of, run

from bpmt_ext.config import load_settings
from bpmt_ext.data.sequences import SequenceSet
from bpmt_ext.engine import loop
from bpmt_ext.engine.checkpoint import save_checkpoint
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.inference import embed, validate
from bpmt_ext.engine.logs import read_metrics
from bpmt_ext.engine.parts import Objective
from bpmt_ext.engine.stages import build_run, load_data
from bpmt_ext.errors import UserError

ALONE = World(0, 1, torch.device("cpu"))
STILL = ("optimizer_cfg={solver: SGD, lr: 0.0, momentum: 0.0, weight_decay: 0.0}",
         "scheduler_cfg={scheduler: MultiStepLR, milestones: [9], max_lr: null}")  # a training that changes no weight
PLAIN = ("model_cfg.dropout=0.0", "model_cfg.head=concat")  # what does not depend on the number of processes
UNEVEN = ("model_cfg.dropout=0.0", "model_cfg.confidence_weight=true", "model_cfg.dual=0.5",
          "trainer_cfg.sampler.sample_type=all_ordered")  # no two sequences count the same


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "data"
    tiny.write_data(root)
    return root


@pytest.fixture
def here(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the data and the configs."""
    return enter(tmp_path, data, monkeypatch)


def enter(folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "data").symlink_to(data)
    (folder / "data.json").symlink_to(data.with_suffix(".json"))
    tiny.write_configs(folder)
    monkeypatch.chdir(folder)
    return folder


def rows(name: str, split: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder_of(name) / "metrics.jsonl") if row["split"] == split]


def stamps() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path("output").rglob("*.pt")}


def stop_at(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """From now on a training fails when it reaches this iteration."""
    whole = loop.Trainer.step

    def step(self: loop.Trainer, batch: Any) -> Any:
        if self.iteration + 1 == iteration:
            raise KeyboardInterrupt
        return whole(self, batch)

    monkeypatch.setattr(loop.Trainer, "step", step)


def same_run(name: str, one: Path, other: Path) -> None:
    """Two working directories hold the same training, bit for bit."""
    for which in ("00006", "best"):
        a, b = (
            torch.load(folder / folder_of(name) / f"checkpoints/{name}-{which}.pt", weights_only=True)
            for folder in (one, other)
        )
        for state in (a, b):
            del state["engine"]["config"]  # holds the absolute path of the data
        assert a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    a, b = ((folder / folder_of(name) / "metrics.jsonl").read_text() for folder in (one, other))
    assert a == b and len(a.splitlines()) == 4


def test_three_stages_by_one_config(here: Path) -> None:
    assert run("both", "model_cfg.freeze_t1=yes", "trainer_cfg.with_test=true") == 0
    first = stamps()
    assert {path.name for path in first} == {
        f"{name}-{which}.pt" for name in ("t1", "t2", "both") for which in ("00002", "00004", "00006", "best")
    }
    t1, t2, both = (checkpoint(name, "best")["model"] for name in ("t1", "t2", "both"))
    handed_on = [key for key in t1 if key.startswith("t1.")]
    assert handed_on and all(equal(t1[key], t2[key]) and equal(t1[key], both[key]) for key in handed_on)  # frozen
    assert t2["t1.streams.fitted"] == 1
    start = checkpoint("both", "00002")["model"]
    assert all(torch.allclose(t2[key], start[key], atol=0.02) for key in t2 if key.startswith("t2."))  # taken over

    anew = [f"{stage}.trainer_cfg.restore_hint=0" for stage in ("t1", "t2")]  # a stage that would not resume
    assert run("both", "model_cfg.freeze_t1=yes", *anew) == 0  # nothing to do
    assert stamps() == first

    last = folder_of("t1") / "checkpoints/t1-00006.pt"
    before = torch.load(last, weights_only=True)
    last.unlink()  # as if stage 1 had been interrupted
    assert run("both", "model_cfg.freeze_t1=yes") == 0
    now = stamps()
    assert {path.name for path in now if now[path] != first[path]} == {"t1-00006.pt", "t1-best.pt"}
    assert equal(before, torch.load(last, weights_only=True))


def test_options_reach_their_stage(here: Path) -> None:
    assert run("both", "t1.trainer_cfg.total_iter=2", "t2.trainer_cfg.total_iter=3", "trainer_cfg.total_iter=1",
               "trainer_cfg.seed=5") == 0
    for name, last in (("t1", 2), ("t2", 3), ("both", 1)):
        state = checkpoint(name, f"{last:05d}")
        assert state["iteration"] == last and state["engine"]["seed"] == 5


def test_a_stage_given_as_a_checkpoint(here: Path) -> None:
    assert run("t1", "trainer_cfg.total_iter=2") == 0
    moved = Path("elsewhere.pt")
    (folder_of("t1") / "checkpoints/t1-00002.pt").rename(moved)
    assert run("net", f"model_cfg.stages={{t1: {moved}}}", "trainer_cfg.total_iter=1", *STILL) == 0
    theirs, mine = torch.load(moved, weights_only=True)["model"], checkpoint("net", "00001")["model"]
    assert all(equal(mine[key], theirs[key]) for key in mine if key.startswith("t1."))
    assert not folder_of("t2").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """t1 and net, trained without interruption."""
    with pytest.MonkeyPatch.context() as patch:
        folder = enter(tmp_path_factory.mktemp("whole"), data, patch)
        torch.set_num_threads(1)
        assert run("t1") == 0 and run("net") == 0
    return folder


@pytest.mark.parametrize("name", ["t1", "net"])
@pytest.mark.parametrize("iteration", [4, 6])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    whole: Path, here: Path, name: str, iteration: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4: a log line, a validation and its best checkpoint are newer than the last checkpoint; 6: half of what the next
    log line will average is older than the last checkpoint."""
    with monkeypatch.context() as patch:
        stop_at(patch, iteration)
        assert run(name) == 130
    with (folder_of(name) / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 5, "split": "tra')  # the line that was being written
    torch.manual_seed(123)
    torch.rand(5)
    assert run(name) == 0
    same_run(name, here, whole)


def test_a_killed_run_goes_on_as_if_nothing_had_been(whole: Path, here: Path) -> None:
    code = (
        "import os, signal, sys, torch; sys.path.insert(0, sys.argv[1]); torch.set_num_threads(1)\n"
        "import tiny, bpmt_ext.engine.loop as loop\n"
        "step = loop.Trainer.step\n"
        "def dying(self, batch):\n"
        "    return os.kill(os.getpid(), signal.SIGKILL) if self.iteration == 4 else step(self, batch)\n"
        "loop.Trainer.step = dying\n"
        "tiny.run('net')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (folder_of("net") / "checkpoints/net-00006.pt").exists()
    assert run("net") == 0
    same_run("net", here, whole)


def test_the_seed_decides_everything(whole: Path, here: Path) -> None:
    assert run("net") == 0
    same_run("net", here, whole)
    assert run("net", "trainer_cfg.seed=1", "trainer_cfg.restore_hint=0") == 0
    state, other = checkpoint("net", "00006")["model"], torch.load(
        whole / folder_of("net") / "checkpoints/net-00006.pt", weights_only=True
    )["model"]
    assert not torch.equal(state["t1.embedding.weight"], other["t1.embedding.weight"])


def test_validation_does_not_touch_the_training(whole: Path, here: Path) -> None:
    """Neither its mode nor its random numbers stay behind."""
    assert run("net", "trainer_cfg.val_iter=1") == 0
    a = checkpoint("net", "00006")
    b = torch.load(whole / folder_of("net") / "checkpoints/net-00006.pt", weights_only=True)
    assert equal(a["model"], b["model"]) and equal(a["optimizer"], b["optimizer"])


def test_a_validation_can_be_repeated(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best checkpoint scores what the log says of it, whatever mode and random state it is met in."""
    monkeypatch.chdir(whole)
    for name in ("t1", "net"):
        settings = load_settings(f"{name}.yaml")
        made, state = build_run(settings, load_data(settings), ALONE, Path("unused")), checkpoint(name, "best")
        made.network.load_state_dict(state["model"])
        made.network.train()
        assert validate(made) == pytest.approx(state["engine"]["best"]["figures"], rel=1e-6)


def test_what_a_training_writes(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole)
    for name, key, better in (("t1", "loss", min), ("net", "mAP", max)):
        folder = folder_of(name)
        training, validation = rows(name, "train"), rows(name, "validation")
        assert [row["iteration"] for row in training] == [3, 6]
        assert [row["iteration"] for row in validation] == [3, 6]
        best = better(validation, key=lambda row: row[key])
        state = checkpoint(name, "best")
        assert state["iteration"] == best["iteration"] == state["engine"]["best"]["iteration"]
        assert state["engine"]["best"]["figures"][key] == best[key]
        assert checkpoint(name, "00006")["iteration"] == 6
        assert set(checkpoint(name, "00006")) == {"model", "optimizer", "scheduler", "iteration", "engine"}
        picture = matplotlib.image.imread(folder / "curves.png")
        assert picture.ndim == 3 and picture.std() > 0
        assert load_settings(folder / "config.yaml").trainer_cfg.total_iter == 6
        assert list((folder / "summary").iterdir())
        assert not [path for path in folder.rglob(".*")]
    assert {"triplet/loss", "softmax/loss", "softmax/accuracy", "lr"} <= rows("net", "train")[0].keys()
    assert {"part/torso", "part/left_leg"} <= rows("t1", "validation")[0].keys()
    one = rows("net", "train")[0]
    assert one["loss"] == pytest.approx(one["triplet/loss"] + one["softmax/loss"], rel=1e-6)


def test_what_a_test_writes(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole)
    assert run("net", "evaluator_cfg.restore_hint=last", phase="test") == 0
    assert run("net", phase="test", more=("--iter", "4", "--log_to_file")) == 0
    results = json.loads((folder_of("net") / "results.json").read_text())
    assert (results["dataset"], results["model"], results["iteration"], results["seed"]) == ("walkers", "BPMT", 4, 0)
    assert results["probes"] == {"total": 4, "valid": 4} and results["gallery"] == 8
    assert {"Rank-1", "Rank-5", "Rank-10", "mAP", "mINP"} <= results["metrics"].keys()
    with np.load(folder_of("net") / "embeddings.npz") as arrays:
        assert arrays["embeddings"].shape == (12, 8, 5) and arrays["embeddings"].dtype == np.float32
        assert {"labels", "types", "views"} < set(arrays.files)
        assert arrays["labels"].tolist() == [label for label in ("0006", "0007", "0008", "0009") for _ in range(3)]
        assert arrays["types"][1] == "camid1_videoid0" and arrays["views"][1] == "seq0"
    assert "Rank-1" in (folder_of("net") / "logs/log.txt").read_text()
    assert run("t1", phase="test") == 0  # a pretrained network embeds as well
    assert json.loads((folder_of("t1") / "results.json").read_text())["model"] == "BPMT_T1"


def embeddings() -> np.ndarray:
    with np.load(folder_of("net") / "embeddings.npz") as arrays:
        return arrays["embeddings"]


def test_an_embedding_depends_on_its_sequence_alone(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole)
    assert run("net", "evaluator_cfg.sampler.batch_size=1", phase="test") == 0
    first = embeddings()
    assert first.std(0).min() > 1e-3
    for opts in (["evaluator_cfg.sampler.batch_size=5"], ["evaluator_cfg.sampler.batch_size=12"],
                 ["data_cfg.num_workers=2", "trainer_cfg.seed=9"]):
        assert run("net", *opts, phase="test") == 0
        assert np.abs(embeddings() - first).max() < 1e-5
    settings = load_settings("net.yaml")
    splits = load_data(settings)
    made = build_run(settings, splits, ALONE, Path("unused"))
    made.network.load_state_dict(checkpoint("net", "best")["model"])
    turned = embed(made, SequenceSet(splits.test.records[::-1]), progress=False)
    assert np.abs(turned.embeddings[::-1] - first).max() < 1e-5 and turned.labels[0] == "0009"


SCRIPT = """
import os, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
import tiny, bpmt_ext.engine.loop as loop
from bpmt_ext.engine.parts import Objective
rank, plain = os.environ["RANK"], sys.argv[3].split()
ports, count = sys.argv[2].split(), 0
def go(*words, **more):
    global count
    os.environ["MASTER_PORT"] = ports[count]
    count += 1
    return tiny.run(*words, **more)
assert go("net", *plain, "trainer_cfg.save_name=plain", "evaluator_cfg.save_name=plain",
          "trainer_cfg.with_test=true") == 0
assert go("t1", *sys.argv[4].split()) == 0
assert go("net", "evaluator_cfg.sampler.batch_size=5", phase="test") == 0
validate = loop.validate
def noting(run):
    Path(f"buffers-{rank}.txt").write_text(str(run.network.state_dict()["head.bn.running_var"].tolist()))
    return validate(run)
loop.validate = noting
one_loss = "loss_cfg=[{type: TripletLoss, margin: 0.3}]"
assert go("net", one_loss, "trainer_cfg.save_name=neck", "trainer_cfg.total_iter=3", "trainer_cfg.sync_BN=false") == 0
whole = Objective.__call__
def broken(self, out, labels, world):
    loss, figures = whole(self, out, labels, world)
    if rank == "1":
        figures = figures | {"loss": figures["loss"] * float("nan")}
    return loss, figures
Objective.__call__ = broken
assert go("t1", "trainer_cfg.save_name=nan", "trainer_cfg.total_iter=3", "trainer_cfg.log_iter=3") == 2
"""


def test_two_processes_do_what_one_does(whole: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def free_port() -> str:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return str(s.getsockname()[1])

    target = here / folder_of("net")
    target.mkdir(parents=True)
    (target / "checkpoints").symlink_to(whole / folder_of("net") / "checkpoints")
    ports, children = " ".join(free_port() for _ in range(5)), []
    for rank in range(2):
        where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), ports, " ".join(PLAIN), " ".join(UNEVEN)]
        children.append(subprocess.Popen(
            command, env={**os.environ, **where, "CUDA_VISIBLE_DEVICES": ""}, stderr=subprocess.PIPE, text=True
        ))
    told = [child.communicate(timeout=240)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    assert all("the loss is not finite at iteration 1;" in text for text in told)  # found by rank 1, told to both
    assert Path("buffers-0.txt").read_text() == Path("buffers-1.txt").read_text()

    two = {"plain": read_metrics(Path("output/walkers/BPMT/plain/metrics.jsonl")),
           "t1": read_metrics(folder_of("t1") / "metrics.jsonl")}
    results = json.loads(Path("output/walkers/BPMT/plain/results.json").read_text())
    with np.load(folder_of("net") / "embeddings.npz") as arrays:
        found = arrays["embeddings"]
    (here / "alone").mkdir()
    enter(here / "alone", (here / "data").resolve(), monkeypatch)
    name = ("trainer_cfg.save_name=plain", "evaluator_cfg.save_name=plain", "trainer_cfg.with_test=true")
    assert run("net", *PLAIN, *name) == 0 and run("t1", *UNEVEN) == 0
    for path, key in ((Path("output/walkers/BPMT/plain"), "plain"), (folder_of("t1"), "t1")):
        one = read_metrics(path / "metrics.jsonl")
        assert len(one) == len(two[key]) == 4
        for a, b in zip(one, two[key], strict=True):
            assert a.pop("split") == b.pop("split") and a == pytest.approx(b, rel=1e-5, abs=1e-5)
    assert json.loads(Path("output/walkers/BPMT/plain/results.json").read_text())["metrics"] == pytest.approx(
        results["metrics"], abs=1e-3
    )
    monkeypatch.chdir(whole)
    assert run("net", phase="test") == 0
    assert np.abs(embeddings() - found).max() < 1e-5


@pytest.mark.parametrize("options", [(), ("trainer_cfg.log_iter=6", "trainer_cfg.save_iter=6")])
def test_a_loss_that_is_not_finite_stops_the_run(
    here: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole, calls = Objective.__call__, []

    def broken(self: Objective, *args: Any) -> Any:
        loss, figures = whole(self, *args)
        if torch.is_grad_enabled():
            calls.append(loss)
        if len(calls) == 4:
            loss = loss * float("nan")
        return loss, figures | {"loss": loss.detach()}

    monkeypatch.setattr(Objective, "__call__", broken)
    assert run("net", "trainer_cfg.val_iter=5", *options) == 2
    assert "bpmt: the loss is not finite at iteration 4; lower optimizer_cfg.lr" in capsys.readouterr().err
    saved = [path.name for path in (folder_of("net") / "checkpoints").glob("*.pt")]
    assert saved == ([] if options else ["net-00002.pt"])


def test_a_failing_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new/run-00001.pt"
    save_checkpoint(path, {"model": {}, "iteration": 1})

    def full(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    for fault in (full, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)):
        monkeypatch.setattr(torch, "save", fault)
        with pytest.raises((UserError, KeyboardInterrupt)):
            save_checkpoint(path, {"model": {}, "iteration": 2})
        assert torch.load(path, weights_only=True)["iteration"] == 1
        assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_other_splits_and_precisions_train(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    tiny.write_data(here / "more", train=3, test=2, cameras=6)
    more = ("data_cfg.dataset_root=more", "data_cfg.dataset_partition=more.json")
    assert run("net", *more, "data_cfg.camera_split=true", "data_cfg.validation=0.0", "trainer_cfg.total_iter=2",
               "trainer_cfg.val_iter=2", "trainer_cfg.precision=bf16", "trainer_cfg.sampler.batch_size=[3,2]") == 0
    state = checkpoint("net", "00002")
    assert state["model"]["head.classes"].shape == (5, 3, 8)  # all three: two of their six cameras validate
    assert {value.dtype for value in state["model"].values()} == {torch.float32, torch.int64}
    figures = rows("net", "validation")[0]
    assert figures["Rank-5"] >= 0 and 0 <= figures["accuracy"] <= 100  # the same people: also named by the classifier

    exact = run("net", "trainer_cfg.total_iter=2", "trainer_cfg.save_name=exact", "data_cfg.min_cameras=3")
    half = run("net", "trainer_cfg.total_iter=2", "trainer_cfg.save_name=half", "trainer_cfg.precision=bf16")
    assert exact == half == 0
    assert "bfloat16" not in capsys.readouterr().err
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)  # a CPU of AVX2
    assert run("net", "trainer_cfg.total_iter=2", "trainer_cfg.save_name=old", "trainer_cfg.precision=bf16") == 0
    assert capsys.readouterr().err.count("BPMT: this CPU does not know bfloat16") == 1
    exact, half, old = (
        read_metrics(Path(f"output/walkers/BPMT/{name}/metrics.jsonl"))[0]["loss"] for name in ("exact", "half", "old")
    )
    assert old == exact != half and exact == pytest.approx(half, rel=0.05)


def test_other_settings_than_those_a_training_began_with_are_told(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    short = [f"{stage}trainer_cfg.total_iter=2" for stage in ("", "t1.", "t2.")]
    assert run("both", *short) == 0
    capsys.readouterr()
    assert run("both", *short, "trainer_cfg.log_iter=1", "trainer_cfg.val_iter=1", "data_cfg.num_workers=1") == 0
    assert "other settings" not in capsys.readouterr().err
    written = {path: path.read_bytes() for path in folder_of("both").glob("*.*")}
    assert run("both", *short, "t1.optimizer_cfg.lr=0.1", "model_cfg.dropout=0.2") == 2, "it is at its end"
    told = [line for line in capsys.readouterr().err.splitlines() if "other settings" in line]
    assert len(told) == 2 and "t1-best.pt" in told[0] and "(optimizer_cfg.lr)" in told[0]
    assert "both-00002.pt" in told[1] and "(model_cfg.dropout), and to its end" in told[1]
    assert written == {path: path.read_bytes() for path in written}, "what says how it was trained still does"
    assert run("both", *short, "trainer_cfg.seed=9", phase="test") == 0
    assert json.loads((folder_of("both") / "results.json").read_text())["seed"] == 0, "of the training"
    assert run("net", "trainer_cfg.total_iter=4") == 0
    (folder_of("net") / "checkpoints/net-00004.pt").unlink()
    assert run("net", "trainer_cfg.total_iter=4", "model_cfg.dropout=0.2") == 0, "half way they may change"
    assert "(model_cfg.dropout); to train anew" in capsys.readouterr().err


def test_other_people_are_no_continuation(here: Path, capsys: pytest.CaptureFixture) -> None:
    lists = json.loads(Path("data.json").read_text())
    turned = {"TRAIN_SET": lists["TRAIN_SET"][4:] + lists["TEST_SET"], "TEST_SET": lists["TRAIN_SET"][:4]}
    Path("other.json").write_text(json.dumps(turned))
    short, other = ("trainer_cfg.total_iter=2", "t1.trainer_cfg.total_iter=2"), "data_cfg.dataset_partition=other.json"
    assert run("net", *short[:1]) == 0 == run("t1", *short[:1])
    written = {path: path.read_bytes() for path in Path("output").rglob("*") if path.is_file()}
    for name, opts in (("net", short[:1]), ("t2", short)):
        capsys.readouterr()
        assert run(name, *opts, other) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bpmt: ")]
        assert len(said) == 1 and "was trained or validated on other sequences" in said[0] and "other.json" in said[0]
        assert ("net-00002.pt" if name == "net" else "t1-best.pt") in said[0]
    assert written == {path: path.read_bytes() for path in written}
    assert run("t2", *short, "t1.data_cfg.dataset_root=gone") == 0, "what was trained may lose its data"
    assert "t1-best.pt: taken as it is, its data are not at hand (" in capsys.readouterr().err
    assert run("net", other, phase="test") == 0
    assert "was trained on 4 of the 4 people who are tested (0000, ...)" in capsys.readouterr().err
    assert run("net", phase="test") == 0 and "people who are tested" not in capsys.readouterr().err
    (here / "copy").symlink_to(here / "data")  # the same people elsewhere
    Path("copy.json").write_text(json.dumps(lists))
    moved = ("data_cfg.dataset_root=copy", "data_cfg.dataset_partition=copy.json")
    assert run("net", *short[:1], *moved) == 0


def test_what_a_killed_run_found_best_is_not_its_successors(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, 5)
        assert run("net", "trainer_cfg.save_iter=9") == 130
    kept = folder_of("net") / "checkpoints"
    assert [path.name for path in kept.iterdir()] == ["net-best.pt"]
    assert run("net", "data_cfg.validation=0", "trainer_cfg.val_iter=0", "trainer_cfg.save_iter=9") == 0
    assert sorted(path.name for path in kept.iterdir()) == ["net-00006.pt", "old-net-best.pt"]


def test_solvers_and_schedules_of_the_hosts_resume(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ("optimizer_cfg={solver: SGD, lr: 0.1, momentum: 0.9, weight_decay: 5.0e-4}",
              "scheduler_cfg={scheduler: MultiStepLR, milestones: [3, 5], gamma: 0.1, max_lr: null}")
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        assert run("net", *chosen) == 130
    assert run("net", *chosen) == 0
    assert [row["lr"] for row in rows("net", "train")] == pytest.approx([0.1, 0.007])


def test_starting_points(here: Path, whole: Path) -> None:
    file = whole / folder_of("net") / "checkpoints/net-00004.pt"
    weights = torch.load(file, weights_only=True)["model"]
    still = (*STILL, "trainer_cfg.optimizer_reset=true", "trainer_cfg.scheduler_reset=true")
    # a file: its weights, from iteration 0; fix_BN: statistics stay
    assert run("net", f"trainer_cfg.restore_hint={file}", "trainer_cfg.fix_BN=true", "trainer_cfg.total_iter=1",
               *still) == 0
    assert checkpoint("net", "00001")["iteration"] == 1 and equal(checkpoint("net", "00001")["model"], weights)
    assert run("net", f"trainer_cfg.restore_hint={file}", "trainer_cfg.total_iter=1", *still) == 0
    assert not torch.equal(checkpoint("net", "00001")["model"]["head.bn.running_mean"], weights["head.bn.running_mean"])
    # a number: that iteration of this run
    assert run("net", "trainer_cfg.total_iter=2", "trainer_cfg.val_iter=0", more=("--iter", "1")) == 2  # other schedule
    assert run("net", "trainer_cfg.total_iter=3", "trainer_cfg.val_iter=0", "trainer_cfg.save_iter=1", *still,
               more=("--iter", "1")) == 0
    assert sorted(p.name for p in (folder_of("net") / "checkpoints").glob("net-0*")) == [
        f"net-{k:05d}.pt" for k in (1, 2, 3)
    ]  # fmt: skip


def test_a_network_is_tested_on_other_people(here: Path) -> None:
    """The head is as wide as in training, however many identities the training list of the other data has."""
    assert run("net", "trainer_cfg.total_iter=1") == 0
    tiny.write_data(here / "more", train=9, test=3, seed=4)
    options = ("data_cfg.dataset_root=more", "data_cfg.dataset_partition=more.json", "data_cfg.test_dataset_name=more")
    assert run("net", *options, phase="test") == 0
    assert json.loads((folder_of("net") / "results.json").read_text())["dataset"] == "more"


def test_check_data(here: Path, capsys: pytest.CaptureFixture) -> None:
    from bpmt_ext.cli import main

    assert main(["check-data", "--cfgs", "net.yaml"]) == 0
    told = capsys.readouterr().out
    assert "protocol evaluate_retrieval: 4 of 4 probes have a match" in told and "unreadable: 0" in told
    bad = here / "other/0000/camid0_videoid0/seq0/seq0.pkl"
    tiny.write_data(here / "other")
    bad.write_bytes(b"no pickle")
    options = ["--opts", "data_cfg.dataset_root=other", "data_cfg.dataset_partition=other.json"]
    assert main(["check-data", "--cfgs", "net.yaml", *options]) == 2
    done = capsys.readouterr()
    assert "unreadable: 1: 0000-camid0_videoid0-seq0" in done.out and done.err.count("bpmt: ") == 1


def test_a_stage_that_will_not_fit_is_told_before_it_is_trained(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("both", "model_cfg.width=32") == 2
    assert "t1.yaml: made by another architecture" in capsys.readouterr().err
    assert not folder_of("t1").exists()


def test_a_new_schedule_sets_the_rates(here: Path) -> None:
    assert run("net", "trainer_cfg.total_iter=2") == 0
    start = folder_of("net") / "checkpoints" / "net-00002.pt"
    more = ("trainer_cfg.scheduler_reset=true", "trainer_cfg.total_iter=10", "trainer_cfg.log_iter=1")
    assert run("net", "trainer_cfg.save_name=next", f"trainer_cfg.restore_hint={start}", "scheduler_cfg.max_lr=0.5",
               "trainer_cfg.val_iter=0", *more) == 0
    assert read_metrics(Path("output/walkers/BPMT/next/metrics.jsonl"))[0]["lr"] == pytest.approx(0.5 / 25)
