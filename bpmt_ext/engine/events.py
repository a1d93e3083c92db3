"""Figures in, a file of events that TensorBoard reads out, written at once.

TensorBoard's own writer has a thread, whose traceback would reach the screen when the disk is full.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from bpmt_ext.errors import UserError


class Events:
    """An open file of events below `folder`; what an earlier one says of iterations from `start` on no longer counts.

    UserError where the disk takes no more.
    """

    def __init__(self, folder: Path, start: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(self.path.open("ab"))
        self._write(step=start, file_version="brain.Event:2")
        self._write(step=start, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **fields: Any) -> None:
        try:
            self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
            self._records.flush()
        except OSError as error:
            with suppress(OSError):  # what is left of the event does not fit either
                self._records.close()
            raise UserError(f"{self.path}: cannot be written ({error.strerror or error}); make room, then start "
                            "again") from error  # fmt: skip

    def write(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Add figures by their names."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._write(step=iteration, summary=Summary(value=values))

    def close(self) -> None:
        self._records.close()
