"""A command, files it would take and a seed in; the files and words damaged, the command run, what must not happen out.

Whatever comes of a case, one of two things holds: the command works (status 0, no number in what it wrote that is not
finite), or it ends with status 2 and sentences on standard error. Each case depends on (seed, entry point, number)
alone, so that one that fails is run again by its number.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import attacks
import numpy as np
import scipy.io
import yaml

BUSY, WAITING = 20, 600  # seconds of the processor, and of the clock on a machine with other things to do
MEMORY = 2 << 30
_ATTACKS = [data for _, data, _ in attacks.calls(Path("made"))] + list(attacks.bombs().values())
_WORDS = ("nan", "inf", "-inf", "1e999", "-1", "0", "", " ", "1e-320", "99999999999999999999", "٣", "0x10", "1_000",
          "x", "None", "true", "1,5", "\x1b]0;x\x07", "é", "\u202e", "../../up", "/dev/zero", "-", "--", "=", "a" * 300,
          "\ud800", "a\nb")  # fmt: skip
Tree = dict[str, Any]  # name below the folder -> bytes, or a value that `file_bytes` writes by the name's suffix


class HangError(BaseException):
    """A case that takes too long; nothing but the harness may catch it."""


class Draw(random.Random):
    """Damage, by a seed."""

    def odd(self) -> Any:
        """A value that is out of place anywhere."""
        return self.choice([
            None, True, False, 0, -1, 1, 7, 1.5, 1e308, -1e-320, float("nan"), float("inf"), 2**31, 2**63, 2**64,
            10**400, "0", [], {}, [[]], [1, 2, 3], [None], {"a": 1}, [[1, 2], [3]], [["x"]], _nested(40), *_WORDS,
        ])  # fmt: skip

    def array(self, like: np.ndarray | None = None) -> np.ndarray:
        """An array that is not quite what is expected."""
        like = np.ones((2, 17, 3)) if like is None or like.dtype.kind not in "biuf" else like
        how = self.randrange(12)
        if how < 4 and like.size:
            out = np.array(like, dtype=np.float64 if like.dtype.kind != "f" else like.dtype)
            with np.errstate(over="ignore"):
                out.ravel()[self.randrange(out.size)] = self.choice([np.nan, np.inf, 1e300, -1e30, 0, 5])
            return out.astype(like.dtype) if how == 3 and like.dtype.kind == "f" else out
        if how == 4:
            return like.astype(self.choice(["i1", "u1", "f2", ">f4", "f8", "?", "c8", "u8"]), copy=True)
        if how == 5:
            return like[..., :-1] if like.ndim else like
        if how == 6:
            return like[:0] if like.ndim else like
        if how == 7:
            return np.asarray(self.choice([3.5, [], "text", [["a"]], [True], [1, 2]]))
        return [like[None], like.T, np.zeros_like(like), like.reshape(-1)][how - 8]

    def damaged_value(self, value: Any) -> Any:
        """A nest of lists, mappings and scalars, changed in one to three places."""
        value = copy.deepcopy(value)
        for _ in range(self.choice((1, 1, 1, 2, 3))):
            holders = list(_holders(value))
            if not holders or self.random() < 0.05:
                return self.odd()
            holder = self.choice(holders)
            key = self.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            how = self.randrange(10)
            if isinstance(holder[key], np.ndarray) and how < 7:
                holder[key] = self.array(holder[key])
            elif how < 5:
                holder[key] = self.odd()
            elif how == 5:
                del holder[key]
            elif how == 6:
                other = self.choice(holders)
                holder[key] = copy.deepcopy(self.choice(list(other.values()) if isinstance(other, dict) else other))
            elif how == 7:
                holder[key] = [holder[key]] * self.choice((1, 2, 3))
            elif isinstance(holder, dict):
                holder[self.choice((*_WORDS, str(key) + "x"))] = holder[key] if how == 8 else holder.pop(key)
            else:
                holder.append(copy.deepcopy(holder[key]) if how == 8 else self.odd())
        return value

    def damaged_text(self, text: str) -> str:
        """Lines and words taken away, doubled, exchanged, replaced."""
        lines = text.split("\n")
        for _ in range(self.choice((1, 1, 2, 3))):
            at, other = self.randrange(len(lines)), self.randrange(len(lines))
            how = self.randrange(6)
            if how == 0 and len(lines) > 1:
                del lines[at]
            elif how == 1:
                lines.insert(at, lines[other])
            elif how == 2:
                lines[at], lines[other] = lines[other], lines[at]
            else:
                words = re.split(r"([\s,;:=/]+)", lines[at])
                place = self.randrange(len(words))
                words[place] = self.choice(_WORDS) if how < 5 else ""
                lines[at] = "".join(words)
        return "\n".join(lines)

    def damaged_bytes(self, data: bytes) -> bytes:
        """Bits turned, blocks cut out, doubled or exchanged, ends cut off or added."""
        out = bytearray(data)
        for _ in range(self.choice((1, 1, 2, 4))):
            size = len(out)
            at, to = sorted((self.randint(0, size), self.randint(0, size)))
            to = min(to, at + 64)
            how = self.randrange(8)
            if how == 0 and size:
                out[self.randrange(size)] ^= 1 << self.randrange(8)
            elif how == 1 and size:
                out[self.randrange(size)] = self.choice((0, 1, 0x7F, 0x80, 0xFF))
            elif how == 2:
                del out[at:to]
            elif how == 3:
                out[at:at] = out[at:to]
            elif how == 4:
                out[at:to] = self.randbytes(to - at)
            elif how == 5:
                out[at:at + 4] = self.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f"))
            elif how == 6:
                del out[at:]
            else:
                out += self.choice((b"\0", b".", b"\n", self.randbytes(8)))
        return bytes(out)

    def damaged_file(self, name: str, content: Any) -> Any:
        """A file's content, or what stands in its place: None nothing, a callable that makes something else there."""
        how = self.random()
        if how < 0.03:
            return None
        if how < 0.06:
            return b""
        if how < 0.09:
            return self.choice((Path.mkdir, os.mkfifo, lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to(p),
                                lambda p: p.symlink_to("nowhere"), lambda p: p.symlink_to("/etc/hostname")))
        kind = Path(name).suffix.lower()
        if kind == ".pkl" and how < 0.2:
            return self.choice(_ATTACKS)
        if isinstance(content, (bytes, str)):
            if isinstance(content, str) and self.random() < 0.7:
                return self.damaged_text(content)
            return self.damaged_bytes(content.encode() if isinstance(content, str) else content)
        if self.random() < 0.65:
            return self.damaged_value(content) if isinstance(content, dict) else self.damaged_value([content])[0]
        written = file_bytes(name, content)
        if kind in (".json", ".yaml", ".jsonl") and self.random() < 0.5:
            return self.damaged_text(written.decode()).encode("utf-8", "surrogatepass")
        return self.damaged_bytes(written)

    def damaged_tree(self, tree: Tree) -> Tree:
        """The same files but for one to three that are damaged, renamed, doubled or gone."""
        tree = dict(tree)
        for _ in range(self.choice((1, 1, 1, 2, 3))):
            name = self.choice(sorted(tree)) if tree else "x"
            how = self.random()
            if how < 0.75 and name in tree:
                try:
                    tree[name] = self.damaged_file(name, tree[name])
                except (AttributeError, LookupError, TypeError, ValueError, pickle.PicklingError, yaml.YAMLError):
                    tree[name] = self.odd()
            elif how < 0.9 and name in tree:
                parts = name.split("/")
                at = self.randrange(len(parts))
                parts[at] = self.choice((parts[at] + "x", "x" + parts[at], parts[at].upper(), parts[at][1:], ".hidden",
                                         "a b", "é", "\udcff", parts[at] + "\n", "0", parts[at].replace("0", "9")))
                if parts[at]:
                    tree["/".join(parts)] = tree[name] if self.random() < 0.5 else tree.pop(name)
            elif how < 0.95:
                tree[f"{name}/{self.choice(('x', 'x.pkl', 'x.json'))}"] = b"x"
            else:
                for below in [other for other in tree if other.startswith(name.split("/")[0] + "/")]:
                    del tree[below]
        return tree

    def damaged_words(self, words: list[str], options: Mapping[str, tuple[str, ...]]) -> list[str]:
        """A command line with options of the command in good and bad values, and now and then something else."""
        words = list(words)
        for option in self.sample(sorted(options), min(len(options), self.choice((0, 0, 1, 1, 2)))):
            given = options[option]
            value = [self.choice(_WORDS if self.random() < 0.15 else given)] if given else []
            words += [option, *value] if self.random() < 0.97 else [option]
        if self.random() < 0.05:
            how, at = self.randrange(4), self.randrange(len(words) + 1)
            if how == 0 and at < len(words):
                del words[at]
            elif how == 1:
                words.insert(at, self.choice(_WORDS))
            elif how == 2 and at < len(words):
                words[at] = self.choice(_WORDS)
            else:
                words = words[:at]
        words = [word.replace("\0", "").replace("\ud800", "\udcff") for word in words]  # as a shell can give them
        return ["1" if before == "--workers" and word.lstrip("-").replace("_", "").isdecimal() and word != "0" else word
                for before, word in zip(["", *words], words, strict=False)]  # in this process


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _holders(value: Any, limit: int = 200) -> Iterator[Any]:
    """The lists and mappings of a nest that hold something."""
    waiting = [value]
    while waiting and limit:
        item = waiting.pop()
        limit -= 1
        if isinstance(item, (list, dict)) and item:
            yield item
            inner = list(item.values() if isinstance(item, dict) else item)
            waiting += inner[-3:] + inner[:3]


def file_bytes(name: str, value: Any) -> bytes:
    """A value as a file of its name's kind."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    kind, out = Path(name).suffix.lower(), io.BytesIO()
    if kind == ".pkl":
        return pickle.dumps(value, len(repr(value)) % 6)
    if kind == ".npz":
        arrays = value if isinstance(value, dict) else {"pose": value}
        with zipfile.ZipFile(out, "w") as archive:
            for key, array in arrays.items():
                archive.writestr(f"{key}.npy".replace("\0", ""), _npy(array))
    elif kind == ".npy":
        return _npy(value)
    elif kind == ".mat":
        packed = len(repr(value)) % 2 > 0
        scipy.io.savemat(out, value if isinstance(value, dict) else {"x": value}, do_compression=packed)
    elif kind == ".yaml":
        return yaml.safe_dump(value, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")
    else:
        return json.dumps(value, default=str).encode()
    return out.getvalue()


def _npy(value: Any) -> bytes:
    out = io.BytesIO()
    try:
        np.save(out, np.asarray(value), allow_pickle=False)
    except ValueError:  # ragged, or objects
        np.save(out, np.array([0, value], dtype=object), allow_pickle=True)
    return out.getvalue()


def write_tree(folder: Path, tree: Tree) -> None:
    """The files of a tree; names that the file system refuses, or that collide, are left out. What is a link into the
    home that all cases share becomes the case's own first: no file is written through it."""
    for name, content in tree.items():
        path = folder / name
        if content is None:
            continue
        try:
            top = folder / Path(name).parts[0]
            if top.is_symlink() and top.readlink().parent.name == "linked":
                shared = top.readlink()
                top.unlink()
                if shared.is_dir():
                    shutil.copytree(shared, top)
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(file_bytes(name, content))
        except Exception:  # writers refuse odd values with any type
            continue


@dataclass(frozen=True)
class Entry:
    """An entry point: its main, what it calls itself, its files, its words, and the options it knows."""

    name: str
    main: Callable[[list[str]], int | None]
    says: str  # what its sentences begin with
    trees: tuple[tuple[Tree, list[str]], ...]  # good files, and the words that work with them
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    short: int = 100  # cases in `make test`
    home: Path | None = None  # a folder whose entries are there, as links, in every case


@dataclass
class Tally:
    """What came of the cases of an entry point."""

    worked: int = 0
    told: int = 0
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)
    sentences: Counter[str] = field(default_factory=Counter)

    @property
    def cases(self) -> int:
        return self.worked + self.told + len(self.faults)


_TIMERS = (signal.SIGALRM, signal.SIGPROF)


def _limit(busy: float, waiting: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, busy)
    signal.setitimer(signal.ITIMER_REAL, waiting)


@contextmanager
def bounded() -> Iterator[None]:
    """In here a case that hangs ends in HangError, one that takes too much memory in MemoryError."""

    def late(*_: object) -> None:
        raise HangError

    cores, os.cpu_count = os.cpu_count, lambda: 1  # the default of --workers
    before, handlers = resource.getrlimit(resource.RLIMIT_AS), {k: signal.signal(k, late) for k in _TIMERS}
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    try:
        yield
    finally:
        os.cpu_count = cores
        _limit(0, 0)
        for number, earlier in handlers.items():
            signal.signal(number, earlier)
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(entry: Entry, folder: Path, numbers: range, seed: int = 0, tally: Tally | None = None) -> Tally:
    """Run these cases, each in a folder of its own, and count what came of them."""
    tally = tally or Tally()
    with bounded():
        for number in numbers:
            fault = _one(entry, folder / "case", number, seed, tally)
            if fault is not None:
                tally.faults.append(f"{entry.name} {seed}:{number}: {fault}")
    return tally


def _one(entry: Entry, folder: Path, number: int, seed: int, tally: Tally) -> str | None:
    """What is wrong with one case, if anything."""
    draw = Draw(f"{seed} {entry.name} {number}")
    tree, words = draw.choice(entry.trees)
    if draw.random() < 0.85:
        tree = draw.damaged_tree(tree)
    words = draw.damaged_words(words, entry.options)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in entry.home.iterdir() if entry.home else ():
        (folder / path.name).symlink_to(path)
    write_tree(folder, tree)
    out, err = io.BytesIO(), io.BytesIO()
    status, before, there = None, os.getcwd(), set(os.listdir(folder.parent))
    streams, own = (sys.stdout, sys.stderr), (_stream(out, "strict"), _stream(err, "backslashreplace"))
    os.chdir(folder)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    try:
        sys.stdout, sys.stderr = own
        _limit(BUSY, WAITING)
        status = entry.main(words)
    except SystemExit as error:
        status = error.code
    except HangError:
        return f"{words}: takes more than {BUSY} s of the processor, or waits for {WAITING} s"
    except BaseException as error:
        trace, lines = error.__traceback__, []
        while trace is not None:
            lines.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
            trace = trace.tb_next
        return f"{words}: {type(error).__name__}: {str(error)[:200]!r} at {' '.join(lines[-6:])}"
    finally:
        _limit(0, 0)
        sys.stdout, sys.stderr = streams
        os.chdir(before)
    tally.slowest = max(tally.slowest, resource.getrusage(resource.RUSAGE_SELF).ru_utime - start)
    printed, said = out.getvalue().decode(), err.getvalue().decode()
    if set(os.listdir(folder.parent)) != there:
        return f"{words}: writes beside its folder: {sorted(set(os.listdir(folder.parent)) - there)}"
    if status == 0:
        wrong = _wrong(entry, folder, printed)
        tally.worked += wrong is None
        return wrong
    if status != 2 or "Traceback" in said or "MemoryError" in said:
        return f"{words}: status {status}: {said[-300:]!r}"
    sentences = [line for line in said.splitlines() if line.startswith(f"{entry.says}: ")]
    usage = said.startswith("usage: ") and ": error: " in said
    # terminal escapes and line breaks from somebody's file must not reach the screen
    if not (sentences or usage) or not all(map(str.isprintable, sentences)) or len(said) > 20_000:
        return f"{words}: no sentence: {said[-500:]!r}"
    tally.told += 1
    for line in sentences:
        tally.sentences[re.sub(r"['\"].*?['\"]|[\w./-]*/[\w./-]*|\d+", "_", line)[:80]] += 1
    return None


def _stream(raw: io.BytesIO, errors: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(raw, "utf-8", errors, newline="", write_through=True)


def _wrong(entry: Entry, folder: Path, printed: str) -> str | None:
    """What is wrong with what a command wrote that says it worked."""
    if entry.says == "bpmt" and re.search(r"(?<![\w/.'])-?(nan|inf)(?![\w/.':])", printed):
        return f"prints a number that is not finite: {printed[-300:]!r}"
    for path in (folder / "out").rglob("*") if (folder / "out").is_dir() else ():
        if path.suffix == ".json" and path.is_file() and re.search(r"\b(NaN|Infinity)\b", path.read_text("utf-8")):
            if not re.search(r"\"[^\"]*(NaN|Infinity)", path.read_text("utf-8")):
                return f"{path.name} holds a number that is not finite"
        if path.suffix == ".pkl" and path.is_file() and not path.is_symlink():
            array = pickle.loads(path.read_bytes())  # written just now, by the command itself
            if not np.isfinite(array).all():
                return f"{path.name} holds a number that is not finite"
    return None
