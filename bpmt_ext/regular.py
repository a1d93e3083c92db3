"""The path of a file from anybody in; the file, open, or its bytes out, never a pipe or a device.

An unpacked archive may hold a named pipe, on which reading waits for ever, a link to a device that never ends, or a
link to itself, at which pathlib ends in a RuntimeError.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from bpmt_ext.errors import UserError


def at_home(path: Path | str) -> Path:
    """The path with the ~ it may begin with replaced by that home; one of nobody's stays as it is. UserError for what
    names no file on any disk."""
    if "\0" in os.fspath(path):
        raise UserError(f"{os.fspath(path)[:80]!r} is no path: it holds a null; correct it")
    return Path(os.path.expanduser(path))


def real_path(path: Path | str) -> Path:
    """The absolute path without links; what is no path, or a link to itself, stays as it is."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a null in it
        return Path(path).absolute()


def open_regular(path: Path | str) -> BinaryIO:
    """The file, open for reading. OSError if there is none, or it is a folder, a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else opening a pipe would wait for a writer
    except ValueError as error:
        raise OSError(errno.EINVAL, "is no name of a file", str(path)) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            code, what = (errno.EISDIR, "is a folder") if stat.S_ISDIR(mode) else (errno.EINVAL, "is no regular file")
            raise OSError(code, what, str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path | str, most: int | None = None) -> bytes:
    """The bytes of a file. OSError as `open_regular`, and for one of more than `most` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"has {size >> 10} KiB, more than {most >> 10}", str(path))
        return file.read() if most is None else file.read(most)
