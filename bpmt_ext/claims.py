"""The path of a lock file in; the right to do a piece of work, for one process at a time, out.

The lock is the system's (flock) and goes with the process that holds it: one that crashes or is killed leaves nothing
stale behind. A child that is given the descriptor holds the claim too, so that nobody starts what an orphan still does.
The files stay; they are empty but for who took them last. Shared network folders without flock are refused. Whoever
deletes a lock file takes the claim from its holder: `holds` tells.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpmt_ext.errors import UserError


@contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[int | None]:
    """The descriptor of the claimed lock file, or None if another process has it; `wait` waits for it instead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path, wait)
    if descriptor is None:
        yield None
        return
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode())
        yield descriptor
    finally:
        os.close(descriptor)  # lets go, unless a child still has it


def _lock(path: Path, wait: bool) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise UserError(
                f"{path}: this folder takes no locks ({error.strerror}); let one process work in it, or give --out on "
                "a local disk"
            ) from error
        if holds(path, descriptor):
            return descriptor
        os.close(descriptor)  # deleted between opening and locking: another file counts now


def holds(path: Path, descriptor: int) -> bool:
    """Whether the lock file at `path` is still the one that this descriptor has locked."""
    try:
        there, own = os.stat(path), os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)


@contextmanager
def patient_claim(path: Path, patience: float) -> Iterator[tuple[int | None, str]]:
    """As `claim`, for whoever can wait some seconds; and who took the lock last, "host pid", if that is known."""
    start = time.monotonic()
    while True:
        try:
            owner = path.read_text("utf-8", "replace")[:200].strip()
        except OSError:
            owner = ""
        with claim(path) as descriptor:
            if descriptor is not None or time.monotonic() - start > patience:
                yield descriptor, owner
                return
        time.sleep(0.02)
