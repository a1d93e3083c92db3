"""Figures of a run in, lines in files and on screen out: metrics.jsonl, TensorBoard, text log, curves.

`metrics.jsonl` is always written, one object per line: {"iteration", "split": "train" or "validation", figures...}.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from bpmt_ext.data.pickles import write_bytes

log = logging.getLogger("bpmt_ext")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())


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
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "summary"), purge_step=start + 1)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.active and kind is None:
            self.draw()

    def write(self, iteration: int, split: str, figures: Mapping[str, float]) -> None:
        """Add one line; every figure also goes to TensorBoard as `split/name`."""
        if not self.active:
            return
        row = {"iteration": iteration, "split": split, **{name: float(value) for name, value in figures.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in figures.items():
            self.writer.add_scalar(f"{split}/{name}", value, iteration)

    def draw(self) -> None:
        """Write curves.png from what stands in metrics.jsonl."""
        if self.active:
            from bpmt_ext.report.curves import draw_curves

            draw_curves(read_metrics(self.path), self.folder / "curves.png", title=self.folder.name)
