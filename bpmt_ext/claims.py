"""The path of a lock file in; the right to do a piece of work, for one process at a time, out.

The lock is the system's (flock) and goes with the process that holds it: one that crashes or is killed leaves nothing
stale behind. A child that is given the descriptor holds the claim too, so that nobody starts what an orphan still does.
The files stay; they are empty but for who took them last. Shared network folders without flock are refused.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpmt_ext.errors import UserError


@contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[int | None]:
    """The descriptor of the claimed lock file, or None if another process has it; `wait` waits for it instead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        except OSError as error:
            raise UserError(
                f"{path}: this folder takes no locks ({error.strerror}); let one process work in it, or give --out on "
                "a local disk"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode())
        yield descriptor
    finally:
        os.close(descriptor)  # lets go, unless a child still has it
