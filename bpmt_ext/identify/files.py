"""Bytes in, a private file that appears whole or not at all out; a folder in, the right to change it out."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bpmt_ext.claims import holds, patient_claim
from bpmt_ext.engine.logs import log
from bpmt_ext.errors import UserError

LOCK = "lock"
PATIENCE = 60.0  # seconds that a change waits for another process's


def write_whole(path: Path, data: bytes) -> None:
    """Whole or not at all, on the disk before it counts, readable by its owner only."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); make room or correct the permissions, "
                        "then try again") from error  # fmt: skip
    finally:
        with suppress(OSError):  # as where a file stands in the place of its folder: told already
            unfinished.unlink(missing_ok=True)


def _dead(owner: str) -> bool:
    """Whether the process "host pid" of this machine is gone."""
    host, _, pid = owner.strip().rpartition(" ")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


@dataclass(frozen=True)
class Lock:
    """The right to change a gallery: its lock file and the descriptor that has it locked."""

    path: Path
    descriptor: int

    def check(self) -> None:
        """UserError if somebody took the lock file away: another process may be changing the gallery as well."""
        if not holds(self.path, self.descriptor):
            raise UserError(f"{self.path}: was taken away while the gallery was being changed; nothing was changed, "
                            "try again")  # fmt: skip


@contextmanager
def locked(folder: Path, patience: float = PATIENCE) -> Iterator[Lock]:
    """The right to change the gallery, for one process at a time. UserError if another one keeps it too long.

    The lock is the system's and ends with its process; one that was cut off is noticed by the name it left.
    """
    path = folder / LOCK
    with patient_claim(path, patience) as (descriptor, owner):
        if descriptor is None:
            raise UserError(f"{path}: {owner or 'another process'} has been changing this gallery for more than "
                            f"{patience:.0f} seconds; let it finish or end it, then try again")  # fmt: skip
        if owner and _dead(owner):
            log.warning("%s: the last change, by %s, was cut off; what it left over is taken away", path, owner)
        try:
            yield Lock(path, descriptor)
        finally:
            os.ftruncate(descriptor, 0)


def temporary(path: Path) -> bool:
    """Whether this is an unfinished file of `write_whole`."""
    return path.name.startswith(".") and path.name.endswith(".tmp")
