"""Trainings that are killed, robbed, starved and shared in; the same answer, or one sentence and a way to go on, out.

The long form is tools/soak_resume.py and tools/soak_processes.py.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import torch.distributed as dist
from tensorboard.summary.writer.record_writer import RecordWriter
from tiny import checkpoint, equal, folder_of, run
from torch import nn

from bpmt_ext.claims import claim, holds
from bpmt_ext.engine import batchnorm, events, failures, inference, logs, loop
from bpmt_ext.engine.checkpoint import check_writable, find_iterations
from bpmt_ext.engine.distributed import World, world
from bpmt_ext.engine.logs import read_metrics, sole, write_text
from bpmt_ext.errors import UserError

TOOLS = str(Path(__file__).parents[1] / "tools")


@pytest.fixture(scope="module")
def soak() -> Any:
    """The tools, which fork: their processes need no imports."""
    sys.path.insert(0, TOOLS)
    try:
        return SimpleNamespace(**{name: importlib.import_module(f"soak_{name}") for name in ("resume", "processes")})
    finally:
        sys.path.remove(TOOLS)


@pytest.fixture(autouse=True)
def _plain(soak: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpmt_ext.report.curves.draw_curves", soak.resume._numbers)  # drawing takes half of the time


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.write_data(tmp_path / "data")
    tiny.write_configs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sentence(capsys: pytest.CaptureFixture) -> str:
    err = capsys.readouterr().err.replace("\r", "\n")
    (told,) = [line for line in err.splitlines() if line.startswith("bpmt: ")]
    assert "Traceback" not in err
    return told


# ---------------------------------------------------------------- resumption


def test_three_stages_stopped_in_every_way_end_as_if_never_stopped(soak: Any) -> None:
    found = soak.resume.soak(0.0, seed=3, kills=3, say=print)
    assert not found["wrong"] and found["survived"] == found["stops"] >= 3, found


def test_what_a_killed_process_leaves_is_taken_away(tmp_path: Path) -> None:
    left, own = tmp_path / ".a.json.4194999.tmp", tmp_path / f".a.json.{os.getppid()}.tmp"
    for path in (left, own, tmp_path / ".b.json.4194999.tmp"):
        path.write_text("half")
    write_text(tmp_path / "a.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", own.name, ".b.json.4194999.tmp"}


def test_a_training_begun_anew_is_not_continued_from_an_older_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, it left the older one's last checkpoint as the newest, and its best as the best."""
    assert run("net") == 0
    old = checkpoint("net", "00006")["model"]
    step = loop.Trainer.step

    def stopped(self: loop.Trainer, batch: Any) -> Any:
        if self.iteration == 2:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "step", stopped)
        assert run("net", "trainer_cfg.seed=1", "trainer_cfg.restore_hint=0") == 130
    folder = folder_of("net") / "checkpoints"
    assert find_iterations(folder, "net") == [2] and not (folder / "net-best.pt").exists()
    assert equal(torch.load(folder / "old-net-00006.pt", weights_only=True)["model"], old)  # nothing is lost
    assert run("net", "trainer_cfg.seed=1") == 0
    resumed = checkpoint("net", "00006")
    assert run("net", "trainer_cfg.seed=1", "trainer_cfg.restore_hint=0") == 0
    assert equal(resumed["model"], checkpoint("net", "00006")["model"])
    # from the middle: what is beyond it goes, and a best one only if it is beyond it as well
    assert run("net", "trainer_cfg.seed=1", "trainer_cfg.val_iter=0", more=("--iter", "4")) == 0
    assert find_iterations(folder, "net") == [2, 4, 6]


def test_the_curves_stand_before_the_checkpoint_that_ends_a_stage(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that is done is not entered again: killed in between it would have none for ever."""
    saved, there = loop.Trainer.save, {}

    def save(self: loop.Trainer, which: int | str) -> None:
        there[which] = (self.run.folder / "curves.png").exists()
        saved(self, which)

    monkeypatch.setattr(loop.Trainer, "save", save)
    assert run("net", "trainer_cfg.val_iter=0") == 0
    assert there == {2: False, 4: False, 6: True}


def test_one_training_at_a_time(tmp_path: Path, here: Path, capsys: pytest.CaptureFixture,
                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(loop, "sole", lambda folder: sole(folder, patience=0.1))
    folder_of("net").mkdir(parents=True)
    with claim(folder_of("net") / "lock"):
        assert run("net") == 2
    assert f" {os.getpid()} (host, process) is training here" in sentence(capsys)
    assert run("net", "trainer_cfg.total_iter=1") == 0
    assert (folder_of("net") / "lock").read_bytes() == b""


def test_a_lock_file_that_is_deleted_is_no_claim(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with claim(path) as mine:
        assert holds(path, mine)
        path.unlink()
        assert not holds(path, mine)
        with claim(path) as other:
            assert holds(path, other) and not holds(path, mine)


# ---------------------------------------------------------------- what stops a run from outside


@pytest.mark.parametrize(("error", "size", "words"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), 1,
     ("the GPU ran out of memory (CUDA out of memory. Tried to allocate 2.00 GiB", "trainer_cfg.accumulate",
      "evaluator_cfg.sampler.batch_size", "restore_hint: auto")),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:130] err == 0. DefaultCPUAllocator: can't allocate memory: you"), 1,
     ("this machine ran out of memory", "trainer_cfg.sampler.batch_size")),
    (MemoryError(), 1, ("this machine ran out of memory (MemoryError)",)),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 1,
     ("a loader worker died", "data_cfg.num_workers")),
    (RuntimeError("[/x/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:2: Connection reset by peer."), 2,
     ("process 1 of 2 lost another one", "Connection reset by peer", "restore_hint: auto")),
    (RuntimeError("Application timeout caused pair closure"), 2, ("process 1 of 2 lost another one",)),
    (dist.DistBackendError("NCCL error in: ncclRemoteError"), 2, ("process 1 of 2 lost another one",)),
    (OSError(errno.ENOSPC, "No space left on device"), 1, ("No space left on device", "make room")),
])  # fmt: skip
def test_causes_are_told(error: BaseException, size: int, words: tuple[str, ...]) -> None:
    told = failures.explanation(error, size - 1, size)
    assert told is not None and "\n" not in told and all(word in told for word in words), told


@pytest.mark.parametrize("error", [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError("cannot restore the store"),
    KeyError("x"), OSError(errno.EIO, "Input/output error"),
])  # fmt: skip
def test_defects_keep_their_traceback(error: BaseException) -> None:
    assert failures.explanation(error, 1, 2) is None
    with pytest.raises(type(error)), world():
        raise error


@pytest.mark.parametrize("phase", ["train", "test"])
def test_out_of_memory_is_told_and_the_training_goes_on(
    here: Path, phase: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    if phase == "test":
        assert run("net", "trainer_cfg.total_iter=1") == 0
        capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_backward", full)
        patch.setattr("bpmt_ext.nets.bpmt.BPMT.forward", full)
        assert run("net", "trainer_cfg.total_iter=1", phase=phase) == 2
    assert "ran out of memory (CUDA out of memory. Tried to allocate 20.00 GiB)" in sentence(capsys)
    assert run("net", "trainer_cfg.total_iter=1", phase=phase) == 0


def test_a_worker_that_dies_during_a_step_is_told(
    here: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch then raises wherever the process happens to be."""
    step = loop.Trainer.step

    def murderous(self: loop.Trainer, batch: Any) -> Any:
        if self.iteration == 3:
            (worker,) = torch.multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(2)  # the system's word of it arrives here
        return step(self, batch)

    monkeypatch.setattr(loop.Trainer, "step", murderous)
    assert run("net", "data_cfg.num_workers=1") == 2
    told = sentence(capsys)
    assert "a loader worker died" in told and "data_cfg.num_workers" in told
    monkeypatch.setattr(loop.Trainer, "step", step)
    assert run("net") == 0


def test_a_full_disk_is_told(here: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the files that grow; those that appear whole are the soak test's."""
    kept = logs.Journal.__init__

    def begun(self: logs.Journal, *args: Any, **kwargs: Any) -> None:
        kept(self, *args, **kwargs)
        self.path.unlink()
        self.path.symlink_to("/dev/full")

    with monkeypatch.context() as patch, open("/dev/full", "ab") as full:
        patch.setattr(events, "RecordWriter", lambda file: (file.close(), RecordWriter(full))[1])
        assert run("net") == 2
        assert "cannot be written (No space left on device)" in sentence(capsys)  # and no traceback of a thread
        with suppress(OSError):
            full.close()
    monkeypatch.setattr(logs.Journal, "__init__", begun)
    assert run("net") == 2
    assert "metrics.jsonl: cannot be written (No space left on device)" in sentence(capsys)


def test_a_folder_that_takes_no_checkpoint_is_told_before_the_training(
    here: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of("both").mkdir(parents=True)
    (folder_of("both") / "checkpoints").write_text("a file")
    assert run("both") == 2
    assert "checkpoints: cannot be written" in sentence(capsys) and not folder_of("t1").exists()
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(Path("/proc/1/fdinfo/x"))


# ---------------------------------------------------------------- several processes


class Mixed(nn.Module):
    """A BatchNorm of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
        self.second = nn.BatchNorm2d(6, momentum=None)
        self.third = nn.BatchNorm1d(6, affine=False, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).tanh()[:, :, None, None].expand(-1, -1, 2, 3) * torch.arange(6).view(2, 3))
        return self.third(x.flatten(2).square())


def shared_out(made: World) -> None:
    """Three processes with 5, 1 and no rows against one with all six: outputs, gradients, running statistics."""
    torch.manual_seed(1)
    x, target = 3 + torch.randn(6, 4), torch.randn(6, 6, 6)
    rows = [slice(0, 5), slice(5, 6), slice(6, 6)][made.rank]
    found = []
    for part, several in ((slice(None), False), (rows, True)):
        torch.manual_seed(2)
        net = Mixed()
        keys = list(net.state_dict())
        if several:
            net = batchnorm.gather_statistics(net, torch.device("cpu"))
            assert list(net.state_dict()) == keys
        own = x[part].clone().requires_grad_()
        for _ in range(2):
            out = net(own)
        (out * target[part]).sum().backward()
        state = {key: value for key, value in net.state_dict().items()}
        found.append((out, own.grad, {name: p.grad for name, p in net.named_parameters()}, state))
        assert not several or net.eval()(own).shape == out.shape  # no company is needed
    (out, of_x, of_weights, state), (mine, of_mine, parts, other) = found
    assert torch.allclose(out[rows], mine, atol=1e-5) and torch.allclose(of_x[rows], of_mine, atol=1e-5)
    assert float(of_x.abs().max()) > 1e-2
    for name, gradient in parts.items():
        dist.all_reduce(gradient)
        assert torch.allclose(gradient, of_weights[name], atol=1e-5), name
    assert all(torch.allclose(state[key], other[key], atol=1e-6) for key in state)
    try:
        nn.Module.train(batchnorm.gather_statistics(nn.BatchNorm1d(4), torch.device("cpu")))(x[: 1 - min(made.rank, 1)])
    except ValueError as error:
        assert "more than 1 value per channel" in str(error)
    else:
        raise AssertionError("statistics of a single row")


def test_batch_statistics_of_all_processes(soak: Any, tmp_path: Path) -> None:
    def joined(rank: int) -> int:
        with world() as made:
            shared_out(made)
        return 0

    children = soak.processes.ranks(tmp_path, 3, joined)
    assert [child.ended(120) for child in children] == [0] * 3, [child.told for child in children]


def test_a_peer_that_hangs_is_lost_in_bounded_time(soak: Any, tmp_path: Path) -> None:
    def joined(rank: int) -> int:
        try:
            with world(1 / 60) as made:
                if rank == 1:
                    time.sleep(5)
                    os._exit(0)
                made.barrier()
        except UserError as error:
            print(f"bpmt: {error}", flush=True)
            return 2
        return 0

    main, other = soak.processes.ranks(tmp_path, 2, joined)
    begin = time.monotonic()
    assert main.ended(60) == 2 and time.monotonic() - begin < 30, main.told
    assert other.ended(60) == 0
    (told,) = main.sentences()
    assert "process 0 of 2 lost another one, which stopped or hangs (" in told


def test_a_training_whose_peer_is_killed_goes_on(soak: Any, here: Path) -> None:
    def work(rank: int, dies: bool) -> int:
        if dies and rank == 1:
            step = loop.Trainer.step

            def dying(self: loop.Trainer, batch: Any) -> Any:
                return os.kill(os.getpid(), signal.SIGKILL) if self.iteration == 4 else step(self, batch)

            loop.Trainer.step = dying
        return run("net")

    for dies, ends in ((True, [2, -signal.SIGKILL]), (False, [0, 0])):
        children = soak.processes.ranks(here, 2, lambda rank, dies=dies: work(rank, dies))
        assert [child.ended(120) for child in children] == ends, [child.told for child in children]
        if dies:
            (told,) = children[0].sentences()
            assert "process 0 of 2 lost another one" in told and "Traceback" not in children[0].told
    first = here / "first"
    (here / "output").rename(first)
    children = soak.processes.ranks(here, 2, lambda rank: work(rank, False))
    assert [child.ended(120) for child in children] == [0, 0]
    assert not soak.resume.differences(first, here / "output")
    assert len(read_metrics(folder_of("net") / "metrics.jsonl")) == 4


def test_processes_that_see_other_checkpoints_are_refused() -> None:
    trainer = object.__new__(loop.Trainer)
    trainer.iteration, trainer.config = 4, SimpleNamespace(restore_hint="auto", save_name="t1")
    other = SimpleNamespace(gather_objects=lambda own: [own, "t2 at iteration 0"])
    trainer.run = SimpleNamespace(world=other, checkpoints=Path("here"))
    with pytest.raises(UserError, match="^here: .* with t1 at iteration 4, t2 at iteration 0; .* one folder, on a"):
        trainer.begin()


def test_all_processes_agree_whether_there_is_a_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a batch cannot see it; it would wait for ever."""
    asked = []

    def gathered(value: Any) -> list[Any]:
        asked.append(value)
        return [value, (0, 0, True)]

    batch = SimpleNamespace(pose=None, mask=None, label=torch.zeros(1), to=lambda device: batch)
    monkeypatch.setattr(inference, "inference_loader", lambda *args, **kwargs: [batch])
    monkeypatch.setattr(inference, "transform_device", lambda made: None)
    sampler = SimpleNamespace(model_dump=dict)
    made = SimpleNamespace(
        world=SimpleNamespace(rank=0, size=2, device=torch.device("cpu"), gather_objects=gathered),
        settings=SimpleNamespace(evaluator_cfg=SimpleNamespace(sampler=sampler)), test_transform=None,
        network=lambda pose, mask: {},
    )  # fmt: skip
    assert inference._accuracy(made, None) == {} and len(asked) == 1
