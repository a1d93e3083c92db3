"""Figures of a run in, lines in files and on screen out: metrics.jsonl, TensorBoard, text log, curves.

`metrics.jsonl` is always written, one object per line: {"iteration", "split": "train" or "validation", figures...}.
"""

from __future__ import annotations

import glob
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from bpmt_ext.claims import patient_claim
from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.errors import UserError

log = logging.getLogger("bpmt_ext")
PATIENCE = 15.0  # seconds: the loader workers of a training that was killed notice within five, and let go


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; a name of a file in it that is no text by its number, as JSON does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode("utf-8", "backslashreplace"))
    clear_unfinished(path)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that takes its place, and its name, when all is on the disk; UserError if it cannot."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); make room or correct the permissions, "
                        "then run again") from error  # fmt: skip
    finally:
        with suppress(OSError):  # as where a file stands in the place of its folder: told already
            temporary.unlink(missing_ok=True)
    clear_unfinished(path)


def clear_unfinished(path: Path) -> None:
    """Take away what processes that were killed while writing this file have left beside it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = left.suffixes[-2][1:]
        if not (pid.isdecimal() and _alive(int(pid))):
            left.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut off by a crash is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or not {"iteration", "split"} <= row.keys():
            break
        rows.append(row)
    return rows


def log_to(folder: Path | None) -> None:
    """Progress messages on standard error, and into `folder`/log.txt if given. For entry points only."""
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    log.setLevel(logging.INFO)
    log.propagate = False
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(folder / "log.txt", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)


@contextmanager
def sole(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """The right to train in a run's folder, for one process at a time. UserError if another one has it: two would both
    write their lines and checkpoints. Where the disk knows no locks, a warning."""
    with ExitStack() as stack:
        try:
            descriptor, owner = stack.enter_context(patient_claim(folder / "lock", patience))
        except UserError as error:
            log.warning("%s", error)
            yield
            return
        if descriptor is None:
            raise UserError(
                f"{folder}: {owner or 'another process'} (host, process) is training here; let it finish or end it, or "
                "give this training another trainer_cfg.save_name"
            )
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)


class Journal:
    """Where the figures of one training go. Only the main process writes; the others get one that does nothing."""

    def __init__(self, folder: Path, *, start: int, active: bool) -> None:
        self.folder, self.active = folder, active
        self.path = folder / "metrics.jsonl"
        self.writer: Any = None
        if not active:
            return
        # what an interrupted run wrote after its last checkpoint will be computed, and written, again
        kept = [row for row in read_metrics(self.path) if row["iteration"] <= start]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        from bpmt_ext.engine.events import Events

        self.writer = Events(folder / "summary", start + 1)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()

    def write(self, iteration: int, split: str, figures: Mapping[str, float]) -> None:
        """Add one line; every figure also goes to TensorBoard as `split/name`."""
        if not self.active:
            return
        row = {"iteration": iteration, "split": split, **{name: float(value) for name, value in figures.items()}}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror or error}); make room, then start "
                            "again") from error  # fmt: skip
        # what stands in metrics.jsonl when the process is killed stands here too
        self.writer.write(iteration, {f"{split}/{name}": float(value) for name, value in figures.items()})

    def draw(self) -> None:
        """Write curves.png from what stands in metrics.jsonl."""
        if self.active:
            from bpmt_ext.report.curves import draw_curves

            draw_curves(read_metrics(self.path), self.folder / "curves.png", title=self.folder.name)
            clear_unfinished(self.folder / "curves.png")
