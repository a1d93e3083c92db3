"""A folder on disk in, the people enrolled in it out, and back: embeddings, names and the network they were made with.

    gallery.json              what this is, the network's facts, and which shards count; replaced as a whole
    model/                    config.yaml and weights.safetensors, a copy of the network
    shards/<id>.safetensors   embeddings (m, d, p) float32
    shards/<id>.json          the m entries' names and origins, and a checksum of the embeddings
    calibration.json          impostor distances, for one state of the gallery (see calibrate.py)
    lock                      who changes the gallery now; empty when nobody does

A change writes new shards first, then gallery.json, then takes away what no longer counts: whoever reads meanwhile
sees the state before or after, and what a crash leaves over is swept away by the next change. Shards grow by merging
the last ones, so that a million entries lie in some hundred files. Deleting a person rewrites the shards that hold
him. Folder and files are for the owner alone (mode 700 and 600). Shapes: m entries, d width, p parts.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from bpmt_ext.engine.logs import log
from bpmt_ext.errors import UserError
from bpmt_ext.identify.files import LOCK, Lock, locked, temporary, write_whole
from bpmt_ext.jsonfiles import read_json
from bpmt_ext.regular import open_regular, read_regular

KIND, FORMAT = "bpmt gallery", 1
INDEX, MODEL, SHARDS, CALIBRATION = "gallery.json", "model", "shards", "calibration.json"
SHARD_ENTRIES = 1 << 14
BLOCK_BYTES = 1 << 24  # of embeddings that are in memory at a time
COPY = 1e-3  # of an embedding's largest number: batches and devices change less, another walk far more
_TRIES = 5
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One enrolled walk: whose, the file's name, the track in it, its frames, and the day of enrolment."""

    name: str
    source: str
    track: str
    frames: int
    added: str


@dataclass(frozen=True)
class Block:
    """Neighbouring entries: the number of the first, embeddings (m, d, p) float32, and who they are."""

    start: int
    embeddings: np.ndarray
    entries: Sequence[Entry]


class Seen:
    """The walks met so far, to tell copies by: the same name, as many frames, the same embedding."""

    def __init__(self) -> None:
        self._walks: dict[tuple[str, int], list[np.ndarray]] = {}

    def again(self, entry: Entry, embedding: np.ndarray) -> bool:
        """Whether this walk, embedding (d, p), was met before; from now on it was."""
        known = self._walks.setdefault((entry.name, entry.frames), [])
        if any(np.abs(other - embedding).max() <= COPY * np.abs(embedding).max() for other in known):
            return True
        known.append(embedding.copy())  # a view would keep its whole block in memory
        return False


class _VanishedError(UserError):
    """A file of the state that is being read is no longer there: another process's change, or the user is told."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: is missing; restore the gallery from a copy")


class Gallery:
    """An open gallery; `facts` are those of its network, `shards` what counts in the state that was read last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stored: dict[str, frozenset[str]] = {}  # the names in shards that were written here
        self.reload()

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a gallery. UserError for a folder that holds other things."""
        if (folder / INDEX).is_file():
            return True
        known = {LOCK, MODEL, SHARDS, CALIBRATION}
        strange = sorted(p.name for p in folder.iterdir() if p.name not in known and not temporary(p)) \
            if folder.is_dir() else []  # fmt: skip
        if strange or (folder.exists() and not folder.is_dir()):
            raise UserError(f"{folder}: is no gallery (it holds {', '.join(strange[:3]) or 'a file'}); name a gallery "
                            "or a new folder")  # fmt: skip
        return False

    @classmethod
    def open(cls, folder: Path) -> Gallery:
        """UserError if there is none, or it is damaged."""
        if not cls.exists(folder):
            raise UserError(f"{folder}: is no gallery; enroll somebody first (bpmt enroll --gallery {folder} ...)")
        return cls(folder)

    @classmethod
    def create(cls, folder: Path, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> Gallery:
        """A new gallery for the network with these facts and files; one that another process has just made is opened.

        facts: metric, shape [d, p] and what else tells the network; `files` are kept in model/.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made ({error.strerror or error}); name another folder") from error
        with locked(folder) as lock:
            if not cls.exists(folder):
                for name in (MODEL, SHARDS):
                    (folder / name).mkdir(mode=0o700, exist_ok=True)
                for name, data in files.items():
                    write_whole(folder / MODEL / name, data)
                sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
                index = {"kind": KIND, "format": FORMAT, "model": {**facts, "files": sums}, "revision": _fresh(),
                         "shards": [], "strangers": None}  # fmt: skip
                lock.check()
                write_whole(folder / INDEX, _json(index))
            return cls(folder)

    def reload(self) -> None:
        """Read gallery.json again. UserError for one that is none, is damaged, or is of a later version."""
        path = self.folder / INDEX
        index = read_json(path)
        if index.get("kind") != KIND:
            raise UserError(f"{path}: is not a gallery's; name another folder")
        if index.get("format") != FORMAT:
            raise UserError(f"{path}: has format {index.get('format')!r}, this version reads {FORMAT}; update bpmt_ext")
        facts, shards, strangers = index.get("model"), index.get("shards"), index.get("strangers")
        listed = shards if isinstance(shards, list) else [None]
        shape = facts.get("shape") if isinstance(facts, dict) else None
        sound = (
            isinstance(index.get("revision"), str) and isinstance(facts, dict)
            and isinstance(facts.get("files"), dict) and facts.get("metric") in ("euc", "cos")
            and isinstance(shape, list) and len(shape) == 2 and all(type(x) is int and x > 0 for x in shape)
            and all(_is_shard(shard) for shard in [*listed, *([strangers] if strangers is not None else [])])
        )  # fmt: skip
        if not sound:
            raise UserError(f"{path}: is damaged; restore the gallery from a copy, or enroll again in a new folder")
        self.facts: dict[str, Any] = facts
        self.shape: tuple[int, int] = tuple(shape)
        self.shards, self.strangers, self.revision = shards, strangers, index["revision"]

    def __len__(self) -> int:
        """Entries."""
        return sum(shard["entries"] for shard in self.shards)

    def model_file(self, name: str) -> Path:
        """A file of the network's copy, checked. UserError if it is missing or was changed."""
        path, wanted = self.folder / MODEL / name, self.facts["files"].get(name)
        try:
            with open_regular(path) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}); restore the gallery") from error
        if found != wanted:
            raise UserError(f"{path}: is not the file this gallery was made with; restore the gallery from a copy")
        return path

    # reading

    def consistent(self, work: Callable[[], T]) -> T:
        """What `work` makes of one state of the gallery: begun again where another process changed it meanwhile."""
        for _ in range(_TRIES):
            try:
                return work()
            except _VanishedError:
                before = self.revision
                self.reload()
                if self.revision == before:
                    raise
        with locked(self.folder):
            self.reload()
            return work()

    def entries(self, shard: Mapping[str, Any]) -> tuple[list[Entry], int]:
        """(the entries of a shard, the checksum of their embeddings)."""
        path = self.folder / SHARDS / f"{shard['id']}.json"
        if not path.exists():
            raise _VanishedError(path)
        found = read_json(path, "entries", "crc32")
        rows = found["entries"]
        kinds = (str, str, str, int, str)
        sound = isinstance(rows, list) and len(rows) == shard["entries"] and all(
            isinstance(row, list) and len(row) == 5 and all(map(isinstance, row, kinds)) for row in rows
        )  # fmt: skip
        if not sound or type(found["crc32"]) is not int:
            raise UserError(f"{path}: is damaged; restore the gallery from a copy")
        return [Entry(*row) for row in rows], found["crc32"]

    def blocks(self, shards: Iterable[Mapping[str, Any]] | None = None) -> Iterator[Block]:
        """All entries in their order, BLOCK_BYTES of embeddings at a time; to be called within `consistent`.

        UserError for a file that is damaged, at the latest when its last block has been read.
        """
        start = 0
        rows = max(1, BLOCK_BYTES // (4 * self.shape[0] * self.shape[1]))
        for shard in self.shards if shards is None else shards:
            entries, wanted = self.entries(shard)
            path, crc = self.folder / SHARDS / f"{shard['id']}.safetensors", 0
            for first, embeddings in self._pieces(path, len(entries), rows):
                crc = zlib.crc32(embeddings.data, crc)
                if not np.isfinite(embeddings).all():
                    raise UserError(f"{path}: holds numbers that are not finite; restore the gallery from a copy")
                yield Block(start + first, embeddings, entries[first : first + len(embeddings)])
            if crc != wanted:
                raise UserError(f"{path}: is damaged (its checksum is another); restore the gallery from a copy")
            start += len(entries)

    def _pieces(self, path: Path, count: int, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        try:
            open_regular(path).close()  # safe_open would wait at a pipe
            with safe_open(path, framework="np") as file:  # mapped, not read as a whole
                part = file.get_slice("embeddings")
                if part.get_shape() != [count, *self.shape] or part.get_dtype() != "F32":
                    raise UserError(f"{path}: holds {part.get_dtype()} {part.get_shape()}, expected F32 "
                                    f"{[count, *self.shape]}; restore the gallery from a copy")  # fmt: skip
                for first in range(0, count, rows):
                    yield first, np.ascontiguousarray(part[first : min(count, first + rows)])
        except FileNotFoundError:
            raise _VanishedError(path) from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: is damaged ({str(error).splitlines()[0][:100]}); restore the gallery from a "
                            "copy") from error  # fmt: skip

    def people(self) -> Counter[str]:
        """Entries by name."""
        return self.consistent(lambda: Counter(e.name for shard in self.shards for e in self.entries(shard)[0]))

    # changing

    def _load(self, shard: Mapping[str, Any]) -> tuple[list[Entry], np.ndarray]:
        blocks = list(self.blocks([shard]))
        return [e for b in blocks for e in b.entries], np.concatenate([b.embeddings for b in blocks])

    def _store(self, entries: Sequence[Entry], embeddings: np.ndarray) -> dict[str, Any]:
        """Write a shard that does not count yet."""
        shard = {"id": _fresh(), "entries": len(entries)}
        stem = self.folder / SHARDS / shard["id"]
        embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
        rows = [[e.name, e.source, e.track, e.frames, e.added] for e in entries]
        write_whole(stem.with_suffix(".safetensors"), safetensors.numpy.save({"embeddings": embeddings}))
        write_whole(stem.with_suffix(".json"), _json({"crc32": zlib.crc32(embeddings.data), "entries": rows}))
        self._stored[shard["id"]] = frozenset(entry.name for entry in entries)
        return shard

    def _commit(self, shards: list[dict[str, Any]], strangers: dict[str, Any] | None, lock: Lock) -> None:
        lock.check()
        (self.folder / CALIBRATION).unlink(missing_ok=True)  # its values were those of the state before
        index = {"kind": KIND, "format": FORMAT, "model": self.facts, "revision": _fresh(), "shards": shards,
                 "strangers": strangers}  # fmt: skip
        write_whole(self.folder / INDEX, _json(index))
        self.reload()
        self._sweep()

    def _sweep(self) -> None:
        """Take away every file that does not count: what a change replaced, and what one that was cut off left."""
        counted = {f"{shard['id']}{end}" for shard in [*self.shards, *([self.strangers] if self.strangers else [])]
                   for end in (".json", ".safetensors")}  # fmt: skip
        for path in (self.folder / SHARDS).iterdir():
            if path.name not in counted:
                path.unlink(missing_ok=True)
        for folder in (self.folder, self.folder / MODEL):
            for path in filter(temporary, folder.iterdir()):
                path.unlink(missing_ok=True)

    def _may_hold(self, shard: Mapping[str, Any], names: set[str]) -> bool:
        """Whether some of these names may stand in a shard, which is not read as JSON for it: a million take long."""
        if shard["id"] in self._stored:
            return not self._stored[shard["id"]].isdisjoint(names)
        path = self.folder / SHARDS / f"{shard['id']}.json"
        if not path.exists():
            return True  # whoever reads it tells
        text = read_regular(path)
        return any(_json(name).strip() in text for name in names)

    def _copies(self, entries: Sequence[Entry], embeddings: np.ndarray) -> np.ndarray:
        """(m,) bool: which of these walks are enrolled already, or stand before in the list."""
        seen, wanted = Seen(), {(entry.name, entry.frames) for entry in entries}
        names = {name for name, _ in wanted}
        for block in self.blocks(shard for shard in self.shards if self._may_hold(shard, names)):
            for entry, embedding in zip(block.entries, block.embeddings, strict=True):
                if (entry.name, entry.frames) in wanted:
                    seen.again(entry, embedding)
        return np.array([seen.again(*walk) for walk in zip(entries, embeddings, strict=True)])

    def add(self, entries: Sequence[Entry], embeddings: np.ndarray) -> np.ndarray:
        """Enroll walks: embeddings (m, d, p) -> (m,) bool, which went in; a copy of one that its name has does not.

        What other processes enroll at the same time stays.
        """
        if embeddings.shape != (len(entries), *self.shape) or not len(entries):
            raise ValueError(f"{len(entries)} entries of {self.shape}, embeddings {embeddings.shape}")
        with locked(self.folder) as lock:
            self.reload()
            fresh = ~self._copies(entries, embeddings)
            if not fresh.any():
                return fresh
            new, values = [entry for entry, is_new in zip(entries, fresh, strict=True) if is_new], [embeddings[fresh]]
            shards = list(self.shards)
            # the last shards are merged while they are no larger: each entry moves a logarithmic number of times
            while shards and shards[-1]["entries"] <= len(new) and shards[-1]["entries"] + len(new) <= SHARD_ENTRIES:
                before, own = self._load(shards.pop())
                new, values = before + new, [own, *values]
            whole = np.concatenate(values)
            for at in range(0, len(new), SHARD_ENTRIES):
                shards.append(self._store(new[at : at + SHARD_ENTRIES], whole[at : at + SHARD_ENTRIES]))
            self._commit(shards, self.strangers, lock)
            return fresh

    def remove(self, name: str) -> int:
        """Delete a person; returns how many entries went. UserError if nobody has that name."""
        with locked(self.folder) as lock:
            self.reload()
            shards, gone = [], 0
            for shard in self.shards:
                entries, _ = self.entries(shard)
                keep = np.array([entry.name != name for entry in entries])
                gone += int((~keep).sum())
                if keep.all():
                    shards.append(shard)
                elif keep.any():
                    entries, embeddings = self._load(shard)
                    kept = [entry for entry, stays in zip(entries, keep, strict=True) if stays]
                    shards.append(self._store(kept, embeddings[keep]))
            if not gone:
                self._sweep()
                raise UserError(f"{self.folder}: nobody is enrolled as {name!r}; bpmt gallery --gallery {self.folder} "
                                "lists the names")  # fmt: skip
            self._commit(shards, self.strangers, lock)
            return gone

    def keep_strangers(self, embeddings: np.ndarray, people: int) -> None:
        """Keep walks of people who are not enrolled, without names, to measure false accepts with."""
        with locked(self.folder) as lock:
            self.reload()
            kept = self._store([Entry("", "", "", 0, "")] * len(embeddings), embeddings)
            self._commit(list(self.shards), {**kept, "people": people}, lock)

    def keep_calibration(self, values: Mapping[str, Any], revision: str) -> None:
        """Write calibration.json, unless the gallery has changed since that revision or cannot be written."""
        try:
            with locked(self.folder) as lock:
                if read_json(self.folder / INDEX).get("revision") == revision:
                    lock.check()
                    write_whole(self.folder / CALIBRATION, _json({**values, "revision": revision}))
        except (UserError, OSError) as error:  # a gallery that may only be read is measured anew each time
            log.warning("%s: the calibration is not kept (%s)", self.folder, error)


def _is_shard(value: Any) -> bool:
    return (isinstance(value, dict) and isinstance(value.get("id"), str) and value["id"].isalnum()
            and type(value.get("entries")) is int and value["entries"] > 0)  # fmt: skip


def _fresh() -> str:
    return secrets.token_hex(8)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
