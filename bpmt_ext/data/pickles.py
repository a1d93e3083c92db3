"""A pickle file in, numpy arrays and plain containers out, and back: the only place that reads pickles.

A pickle is a program, and `pickle.load` runs it: whoever wrote the file decides what is called. So it is not used
here. The operations are decoded by `pickletools` and followed by a small machine that knows containers, scalars and
numpy's way of rebuilding an array, and that neither imports nor calls anything the file names. The rest is refused.
"""

from __future__ import annotations

import math
import os
import pickle
import pickletools
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bpmt_ext.errors import UserError
from bpmt_ext.regular import read_regular

_MOST_STEPS = 1 << 25  # operations in one file
_MOST_LEVELS = 64  # of containers in each other
_SHARED = 4  # how many times its own size a file's parts may take together, each counted wherever it stands
_SCALARS = (str, bytes, bytearray, bool, int, float, complex, type(None))
_NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # how protocols 0 to 2 write bytes
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytes"): "bytes",
} | {
    (f"{package}.{module}", name): name
    for package in ("numpy.core", "numpy._core")  # numpy 1 and numpy 2
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}
_PLAIN_DTYPE = re.compile(r"[<>=|]?[biufc]\d{1,2}")


class _RefusedError(Exception):
    """The file holds something this reader does not admit; the message is the second half of a sentence."""


class _Name:
    """An admitted name: a token, never the object it stands for."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Dtype:
    """A dtype whose byte order may still come with BUILD."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype


class _Array:
    """An array whose contents come with BUILD."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """The object in a pickle file: an ndarray of numbers, a plain scalar, or lists, tuples and dicts of them.

    Arrays are fresh, writable and in native byte order. Raises UserError, one sentence that names the file, if it is
    missing, empty, truncated, or holds anything else; nothing in the file is ever executed.
    """
    path = Path(path)
    try:
        data = read_regular(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    if not data:
        raise UserError(f"{path}: the file is empty; convert this sequence again.")
    try:
        value = _Machine(len(data)).run(data)
        _check_plain(value, len(data))
    except _RefusedError as error:
        raise UserError(f"{path}: refused, {error}; only arrays of numbers and plain containers are read.") from None
    except Exception as error:  # a damaged file can fail in any step of the decoding, with any type
        kind = type(error).__name__
        raise UserError(f"{path}: truncated or not a pickle ({kind}); convert or download it again.") from error
    return value


class _Machine:
    """The pickle machine, reduced to data: a stack, the marks in it, and the memo."""

    def __init__(self, size: int) -> None:
        self.size = size  # of the file in bytes: no claim can exceed it
        self.copied = 0  # bytes that arrays and decoded texts took so far
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        push, pop = self.stack.append, self.stack.pop
        for step, (operation, arg, _) in enumerate(pickletools.genops(data)):
            name = operation.name
            if step > _MOST_STEPS:
                raise _RefusedError(f"it takes more than {_MOST_STEPS} operations")
            if name in _ARGUMENT:
                push(arg)
            elif name in _CONSTANT:
                push(_CONSTANT[name]())
            elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                self.memo[len(self.memo) if name == "MEMOIZE" else arg] = self.stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                kept = self.memo[arg]
                push(kept.value if isinstance(kept, _Array) and kept.value is not None else kept)
            elif name == "MARK":
                self.marks.append(len(self.stack))
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                push(tuple(self._take(len(self.stack) - int(name[-1]))))
            elif name in ("TUPLE", "LIST", "DICT"):
                push(_built(name, self._since_mark()))
            elif name in ("APPEND", "APPENDS"):
                items = [pop()] if name == "APPEND" else self._since_mark()
                self._top(list).extend(items)
            elif name in ("SETITEM", "SETITEMS"):
                items = self._take(len(self.stack) - 2) if name == "SETITEM" else self._since_mark()
                self._top(dict).update(_built("DICT", items))
            elif name in ("GLOBAL", "STACK_GLOBAL"):
                named = tuple(arg.split(" ", 1)) if name == "GLOBAL" else tuple(self._take(len(self.stack) - 2))
                push(_admitted(named))
            elif name == "REDUCE":
                args, called = pop(), pop()
                push(self._counted(_reduced(called, args)))
            elif name == "BUILD":
                state = pop()
                push(self._counted(_with_state(pop(), state)))
            elif name == "PROTO" or (name == "FRAME" and arg <= self.size):
                continue
            elif name == "STOP" and len(self.stack) == 1 and not self.marks:
                return pop()
            else:
                raise _RefusedError(f"it uses the pickle operation {name} where plain data does not")
        raise EOFError("no STOP")

    def _counted(self, made: Any) -> Any:
        """The same; refuses a small file that unfolds the same bytes again and again."""
        self.copied += made.nbytes if isinstance(made, np.ndarray) else len(made) if isinstance(made, bytes) else 0
        if self.copied > _SHARED * self.size:
            raise _RefusedError(f"its {self.size} bytes unfold into more than {self.copied}")
        return made

    def _take(self, start: int) -> list[Any]:
        """What lies on the stack from this height on, removed from it."""
        if start < 0:
            raise IndexError("stack underflow")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _since_mark(self) -> list[Any]:
        return self._take(self.marks.pop())

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"{kind.__name__} expected")
        return self.stack[-1]


_ARGUMENT = frozenset(  # the operation pushes its own argument
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONSTANT = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict,
}  # fmt: skip


def _built(name: str, items: list[Any]) -> Any:
    """The items as a tuple, a list, or a dict of alternating keys and values."""
    if name != "DICT":
        return tuple(items) if name == "TUPLE" else items
    if not all(map(_is_key, items[::2])):
        raise _RefusedError("a key of a dict is not a plain scalar of at most 64 bits")
    return dict(zip(items[::2], items[1::2], strict=True))


def _is_key(key: Any) -> bool:
    """Whether this may be a key: as large integers and complex numbers, keys can be chosen to have one hash."""
    return isinstance(key, (str, bytes, float, type(None))) or (isinstance(key, int) and key.bit_length() <= 64)


def _admitted(named: tuple[Any, ...]) -> _Name:
    if not all(isinstance(word, str) for word in named) or named not in _NAMES:
        raise _RefusedError(f"it names {'.'.join(str(word)[:60] for word in named)!r}")
    return _Name(_NAMES[named])  # type: ignore[index]


def _reduced(called: Any, args: Any) -> Any:
    """What numpy's and codecs' functions would return for these arguments, without calling them."""
    kind = called.kind if isinstance(called, _Name) else None
    match kind, args:
        case "_reconstruct", (_Name(kind="ndarray"), tuple(), b"b" | "b"):
            return _Array()
        case "dtype", (str(code), *_):
            if not _PLAIN_DTYPE.fullmatch(code):
                raise _RefusedError(f"it holds an array of dtype {code[:20]!r}")
            return _Dtype(np.dtype(code))
        case "scalar", (_Dtype(dtype=dtype), raw):
            return _array(raw, dtype, (), "C").item()
        case "_frombuffer", (raw, _Dtype(dtype=dtype), tuple(shape), "K", tuple(axes)):
            return _array(raw, dtype, shape, "C").transpose(axes)
        case "_frombuffer", (raw, _Dtype(dtype=dtype), tuple(shape), order, *_):
            return _array(raw, dtype, shape, order)
        case "encode", (str(text), "latin1" | "latin-1"):
            return text.encode("latin-1")
        case "bytes", ():
            return b""
    raise _RefusedError(f"it makes a call that is none of numpy's ({kind or type(called).__name__})")


def _with_state(made: Any, state: Any) -> Any:
    """An array or dtype completed by its BUILD state."""
    match made, state:
        case _Dtype(), (3 | 4, "<" | ">" | "|" | "=" as order, None, None, None, *_):
            made.dtype = made.dtype.newbyteorder(order)
            return made
        case _Array(value=None), (*_, tuple(shape), _Dtype(dtype=dtype), fortran, raw):
            made.value = _array(raw, dtype, shape, "F" if fortran else "C")
            return made.value
    raise _RefusedError("it sets the state of something that is not an array of numbers")


def _array(raw: Any, dtype: np.dtype, shape: tuple[Any, ...], order: str) -> np.ndarray:
    """A fresh array of this shape from raw bytes, whose number must be exactly what the shape claims."""
    if isinstance(raw, str):  # Python 2 had no bytes
        raw = raw.encode("latin-1")
    if not isinstance(raw, (bytes, bytearray)) or not all(type(size) is int and size >= 0 for size in shape):
        raise _RefusedError("it holds an array without plain bytes or without a plain shape")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise _RefusedError(f"it claims an array of shape {shape} but holds {len(raw)} bytes")
    view = np.ndarray(shape, dtype, buffer=raw, order="F" if order == "F" else "C")
    return view.astype(dtype.newbyteorder("="), copy=True)


def _check_plain(value: Any, size: int) -> None:
    """Refuse what is neither data nor a container of data, and containers that are a trap to whoever goes through them.

    Those are one that holds itself, many in each other, and parts that stand in many places: taken out one by one they
    would be far more than the file's `size`. Without recursion, each object once.
    """
    known: dict[int, tuple[int, int]] = {}  # of the containers that are done: what they hold in all, levels in them
    above: set[int] = set()
    waiting = [(value, False)]
    while waiting:
        item, done = waiting.pop()
        if isinstance(item, (*_SCALARS, np.ndarray)) or (not done and id(item) in known):
            continue
        if not isinstance(item, (list, tuple, dict)):
            raise _RefusedError("it holds a name or half an array where data should be")
        parts = item.values() if isinstance(item, dict) else item
        if not done:
            if id(item) in above:
                raise _RefusedError("it holds a container that holds itself")
            above.add(id(item))
            waiting.append((item, True))
            waiting.extend((part, False) for part in parts)
            continue
        above.discard(id(item))
        inner = [known[id(part)] for part in parts if isinstance(part, (list, tuple, dict))]
        whole = len(item) + sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
        whole, levels = whole + sum(n for n, _ in inner), 1 + max((n for _, n in inner), default=0)
        if whole > _SHARED * size or levels > _MOST_LEVELS:
            raise _RefusedError(f"it holds more than {_MOST_LEVELS} containers in each other" if levels > _MOST_LEVELS
                                else f"its {size} bytes unfold into more than {whole} values")  # fmt: skip
        known[id(item)] = whole, levels


def write_pickle(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write an array of numbers so that it appears whole or not at all; numpy 1.24 and 2.x can both read it.

    numpy 2 writes the module name `numpy._core`, which numpy 1.24 does not have; both know `numpy.core`. Protocol 3
    writes names as plain lines, without lengths or frames that the shorter name would put wrong.
    """
    if type(array) is not np.ndarray or array.dtype.kind not in "biufc":
        raise TypeError(f"a plain array of numbers is needed, got {type(array).__name__} {getattr(array, 'dtype', '')}")
    start = pickle.PROTO + b"\x03" + pickle.GLOBAL
    data = pickle.dumps(array, protocol=3)
    if data.startswith(start + b"numpy._core."):
        data = start + b"numpy.core." + data.removeprefix(start + b"numpy._core.")
    write_bytes(path, data)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that appears whole or not at all: a temporary name beside it, then a rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        with suppress(OSError):  # as where a file stands in the place of its folder: told already
            temporary.unlink(missing_ok=True)


def read_pose(path: str | os.PathLike[str], joints: int | None = None) -> np.ndarray:
    """A pose sequence (t, v, c) float32, t >= 1, every number finite; `joints` is the v it must have.

    Raises UserError that names the file and what is wrong: not such an array, another number of joints, the first
    frame with a number that is not finite.
    """
    pose = read_pickle(path)
    if not isinstance(pose, np.ndarray) or pose.dtype.kind not in "iuf" or pose.ndim != 3:
        found = f"{pose.dtype} {pose.shape}" if isinstance(pose, np.ndarray) else type(pose).__name__
        raise UserError(f"{path}: holds {found}, not a pose sequence (frames, joints, channels).")
    if 0 in pose.shape:
        raise UserError(f"{path}: the sequence {pose.shape} is empty; convert it again or remove it.")
    if joints is not None and pose.shape[1] != joints:
        raise UserError(
            f"{path}: has {pose.shape[1]} joints, {joints} expected; check data_cfg.joint_format or convert the file."
        )
    with np.errstate(over="ignore"):
        pose = np.ascontiguousarray(pose, dtype=np.float32)
    finite = np.isfinite(pose).all(axis=(1, 2))
    if not finite.all():
        raise UserError(f"{path}: frame {int(finite.argmin())} (from 0) holds a number that is not finite; drop it.")
    return pose


def read_silhouettes(path: str | os.PathLike[str]) -> np.ndarray:
    """A silhouette sequence (t, h, w) uint8, t >= 1, 0 ground to 255 figure.

    Raises UserError that names the file and what is wrong: not such an array, or nothing above 1 in it.
    """
    frames = read_pickle(path)
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 3:
        found = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise UserError(f"{path}: holds {found}, not silhouettes (frames, rows, columns) of grey levels 0 to 255.")
    if 0 in frames.shape:
        raise UserError(f"{path}: the sequence {frames.shape} is empty; convert it again or remove it.")
    if frames.max() <= 1:
        raise UserError(f"{path}: no grey level is above 1; convert it again, with 255 for the figure.")
    return np.ascontiguousarray(frames)
