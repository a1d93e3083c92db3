"""A MATLAB 5 file in, the wanted variables out, numbers or text: nothing else in it is decoded.

Written after the published description of the format ("MAT-File Format", The MathWorks), because general readers trust
the sizes that a file claims and can be brought down by a damaged one. Cells, structs, objects, sparse and complex
arrays are refused.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np

from bpmt_ext.errors import UserError
from bpmt_ext.regular import read_regular

FILE_BYTES = 64 << 20
_HEAD_BYTES = 1 << 12  # more than flags, extents and name of a variable take
_MATRIX, _COMPRESSED, _COMPLEX = 14, 15, 0x800
_CLASSES = dict(enumerate("cell struct object char sparse double single int8 uint8 int16 uint16 int32 uint32 int64 "
                          "uint64 function opaque object".split(), 1))  # fmt: skip
_REFUSED = {"cell", "struct", "object", "sparse", "function", "opaque"}
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


def load_mat(path: Path, names: list[str], largest: int, expected: str) -> dict[str, np.ndarray]:
    """These variables: arrays in the dtype they are stored in, text as (1,).

    largest: the most values one of them may have. expected: what the file should be, for the message. Raises UserError.
    """
    try:
        data = read_regular(path, FILE_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected {expected}.") from error
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or data[124:126] != (b"\0\1" if order == "<" else b"\1\0"):
        raise UserError(f"{path}: is no MATLAB 5 file; unpack it again.")
    found: dict[str, np.ndarray] = {}
    there = []
    try:
        at = 128
        while at < len(data):
            kind, content, at = _element(data, at, order)
            name, whole = _named(kind, content, order)
            there.append(name)
            if name in names:
                found[name] = _value(whole, order, largest, f"{path}: {name}")
    except (ValueError, LookupError, OverflowError, MemoryError, struct.error, zlib.error) as error:
        raise UserError(f"{path}: is damaged ({type(error).__name__}); unpack it again.") from None
    lost = [name for name in names if name not in found]
    if lost:
        words = ", ".join(sorted(there)[:5]) or "nothing"
        raise UserError(f"{path}: has no {' and no '.join(lost)} (it holds {words}); expected {expected}.")
    return found


def _element(data: bytes, at: int, order: str) -> tuple[int, bytes, int]:
    """(kind, content, where the next one begins) of the element at `at`; ValueError if it reaches beyond the data."""
    kind, size = struct.unpack_from(order + "II", data, at)
    start, end = at + 8, at + 8 + size + (-size % 8 if kind != _COMPRESSED else 0)
    if kind >> 16:  # so small that it lies in the second half of its own tag
        kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
    if start + size > len(data) or (start == at + 4 and size > 4):
        raise ValueError("reaches beyond its end")
    return kind, data[start:start + size], end


def _named(kind: int, content: bytes, order: str) -> tuple[str, tuple[bytes, bool]]:
    """(name of a variable, (its content, whether that is compressed)); only the head is unpacked."""
    head = content
    if kind == _COMPRESSED:
        head = zlib.decompressobj().decompress(content, _HEAD_BYTES)
        kind, head = struct.unpack_from(order + "I", head)[0], head[8:]
    if kind != _MATRIX:
        raise ValueError("no variable")
    return _header(head, order)[2], (content, head is not content)


def _header(head: bytes, order: str) -> tuple[int, tuple[int, ...], str, int]:
    """(flags and class, extents, name, where the values begin) of a variable."""
    _, flags, at = _element(head, 0, order)
    _, extents, at = _element(head, at, order)
    _, name, at = _element(head, at, order)
    shape = struct.unpack(f"{order}{len(extents) // 4}i", extents)
    if not 2 <= len(shape) <= 32 or min(shape) < 0:
        raise ValueError("no extents")
    words = name.decode("ascii")
    if words and not words.isidentifier():  # the one without a name holds functions
        raise ValueError("no name")
    return struct.unpack_from(order + "I", flags)[0], shape, words, at


def _value(whole: tuple[bytes, bool], order: str, largest: int, where: str) -> np.ndarray:
    """The array or text of a variable."""
    content, packed = whole
    unpacking = zlib.decompressobj()
    head = unpacking.decompress(content, _HEAD_BYTES)[8:] if packed else content
    flags, shape, _, at = _header(head, order)
    kind = _CLASSES[flags & 0xFF]
    if kind in _REFUSED or flags & _COMPLEX:
        raise UserError(f"{where} is a MATLAB {kind}{' of complex numbers' if flags & _COMPLEX else ''}; only plain "
                        "arrays are read.")  # fmt: skip
    count = math.prod(shape)
    if count > largest:
        raise UserError(f"{where} claims {shape} values, more than there can be; the file is damaged.")
    if packed:
        head += unpacking.decompress(unpacking.unconsumed_tail, 8 * count + _HEAD_BYTES)
        if unpacking.unconsumed_tail:  # (whether the stream ends is no sign: MATLAB itself leaves it open)
            raise ValueError("more compressed data than values")
    stored, values, _ = _element(head, at, order)
    if kind == "char":
        return _text(values, stored, shape, order)
    dtype = np.dtype(order + _DTYPES[stored])
    if len(values) != count * dtype.itemsize:
        raise ValueError("not as many values as it claims")
    return np.frombuffer(values, dtype).reshape(shape, order="F").astype(dtype.newbyteorder("="))


def _text(values: bytes, stored: int, shape: tuple[int, ...], order: str) -> np.ndarray:
    """A row of text, (1,)."""
    if len(shape) != 2 or shape[0] > 1:
        raise ValueError("several rows of text")
    encoding = _TEXTS[stored]
    wide = {"<": "-le", ">": "-be"}[order] if encoding in ("utf-16", "utf-32") else ""
    return np.array([values.decode(encoding + wide)])
