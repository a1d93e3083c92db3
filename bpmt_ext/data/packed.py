"""The pickles of a data root in, one memory-mapped file of all their arrays out: `data_cfg.packed`.

    pack.bin      every array one after the other, each at a multiple of 64 bytes
    pack.npz      the manifest: names, sizes and times of the pickles, offsets, shapes, what kind of array
    lock          who builds the pack now

It is built on first use, by one process while the others wait, and shared by all workers through the system's page
cache. The pickles stay the source of truth: a pack of which one has changed, or that lacks one, is built anew. Reading
100,000 sequences is then a stat each and no decoding. Letters: n files; shapes (t, v, c) float32 or (t, h, w) uint8.
"""

from __future__ import annotations

import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bpmt_ext.claims import claim
from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.errors import UserError
from bpmt_ext.regular import real_path

_LOG = logging.getLogger(__name__)
FOLDER = ".packed"  # below the data root: names with a dot are no labels
DATA, MANIFEST, LOCK = "pack.bin", "pack.npz", "lock"
VERSION, ALIGN = 1, 64
_KINDS = {"float32": np.float32, "uint8": np.uint8}
Read = Callable[[Path], np.ndarray]


@dataclass
class Pack:
    """An open pack. table: where each file's array lies, (offset, t, rows, columns), by its name below the root."""

    folder: Path
    root: Path
    kind: str
    table: Mapping[str, tuple[int, int, int, int]]
    _data: np.ndarray | None = field(default=None, repr=False)

    def read(self, path: Path) -> np.ndarray:
        """A file's array, mapped and read-only."""
        offset, *shape = self.table[_name(path, self.root)]
        if self._data is None:  # each process maps it for itself
            self._data = np.memmap(self.folder / DATA, dtype=np.uint8, mode="r")
        kind = np.dtype(_KINDS[self.kind])
        whole = np.asarray(self._data[offset : offset + int(np.prod(shape)) * kind.itemsize])
        return whole.view(kind).reshape(shape)

    def length(self, path: Path) -> int:
        """t of a file."""
        return self.table[_name(path, self.root)][1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": None}


def _name(path: Path, root: Path) -> str:
    return os.path.relpath(path, root)


def open_pack(root: Path, paths: Sequence[Path], read: Read, *, folder: Path | None = None,
              settings: Mapping[str, Any] | None = None) -> Pack:  # fmt: skip
    """The pack of these files, built now if there is none that holds them all as they are.

    read: gives a file's array, checked. folder: where the pack lies, by default <root>/.packed. settings: what else the
    arrays depend on, as the joints they were checked for. UserError for a file that cannot be read, or a folder that
    cannot be written.
    """
    folder = root / FOLDER if folder is None else folder
    stamp = json.dumps({"version": VERSION, "root": str(real_path(root)), **(settings or {})}, sort_keys=True)
    state = {_name(path, root): _state(path) for path in paths}
    pack = _usable(folder, root, stamp, state)
    if pack is not None:
        return pack
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with claim(folder / LOCK, wait=True):
            pack = _usable(folder, root, stamp, state)  # another process may have been building it
            return pack if pack is not None else _build(folder, root, stamp, paths, state, read)
    except OSError as error:
        raise UserError(f"data_cfg.packed: {error.filename or folder} cannot be written ({error.strerror or error}); "
                        "name a folder that can, as data_cfg.packed: FOLDER, or set it to false") from error


def _state(path: Path) -> tuple[int, int]:
    """(bytes, time of the last change in nanoseconds) of a file."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    return found.st_size, found.st_mtime_ns


def _usable(folder: Path, root: Path, stamp: str, state: Mapping[str, tuple[int, int]]) -> Pack | None:
    """The pack that lies there, if it holds these files as they are now."""
    try:
        with np.load(folder / MANIFEST, allow_pickle=False) as file:
            names = os.fsdecode(file["names"].tobytes()).split("\n")
            told, rows = str(file["stamp"]), file["rows"].tolist()
            kind, size = str(file["kind"]), int(file["size"])
        whole = os.stat(folder / DATA).st_size
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if told != stamp or kind not in _KINDS or size != whole or len(names) != len(rows) or not _within(rows, kind, size):
        return None
    known = {name: row for name, row in zip(names, rows, strict=True)}
    if any(name not in known or tuple(known[name][:2]) != now for name, now in state.items()):
        _LOG.info("%s: the pickles have changed since, or there are more of them: it is built anew", folder)
        return None
    return Pack(folder, root, kind, {name: tuple(row[2:]) for name, row in known.items()})


def _within(rows: list[list[int]], kind: str, size: int) -> bool:
    """Whether every array lies inside the data."""
    where = np.array(rows, dtype=np.int64).reshape(len(rows), -1)
    if where.shape[1] != 6 or (where < 0).any():
        return False
    ends = where[:, 2] + where[:, 3:].prod(1) * np.dtype(_KINDS[kind]).itemsize
    return bool((ends <= size).all() and (where[:, 2] % ALIGN == 0).all())


def _build(folder: Path, root: Path, stamp: str, paths: Sequence[Path], state: Mapping[str, tuple[int, int]],
           read: Read) -> Pack:  # fmt: skip
    """Write the pack: its data under a name of its own first, the manifest last."""
    _LOG.info("packing %d sequences into %s", len(paths), folder)
    unfinished, rows, kind, offset = folder / f".{DATA}.{os.getpid()}.tmp", [], None, 0
    (folder / MANIFEST).unlink(missing_ok=True)  # from here on there is no pack until the new one is whole
    for left in folder.glob(f".{DATA}.*.tmp"):  # of builds that were killed: each is as large as the data
        left.unlink(missing_ok=True)
    try:
        with open(unfinished, "wb") as file:
            for path in paths:
                array = np.ascontiguousarray(read(path))
                kind = kind or str(array.dtype)
                if str(array.dtype) != kind or kind not in _KINDS or array.ndim != 3:
                    raise ValueError(f"{path}: {array.dtype} {array.shape} among {kind}")
                rows.append([*state[_name(path, root)], offset, *array.shape])
                file.write(array.data)
                padding = -array.nbytes % ALIGN
                file.write(bytes(padding))
                offset += array.nbytes + padding
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, folder / DATA)
    finally:
        unfinished.unlink(missing_ok=True)
    names = [_name(path, root) for path in paths]
    changed = [name for path, name in zip(paths, names, strict=True) if _state(path) != state[name]]
    if changed:
        raise UserError(f"{root / changed[0]}: was changed while it was packed; let the converter finish, then try "
                        "again")
    buffer = io.BytesIO()
    np.savez(buffer, names=np.frombuffer(os.fsencode("\n".join(names)), np.uint8), rows=np.array(rows, np.int64),
             stamp=np.array(stamp), kind=np.array(kind), size=np.array(offset))  # fmt: skip
    write_bytes(folder / MANIFEST, buffer.getvalue())
    return Pack(folder, root, kind or "float32", {n: tuple(r[2:]) for n, r in zip(names, rows, strict=True)})
