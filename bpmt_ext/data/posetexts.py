"""Text files of a frame each, or a CSV of a frame per row, in; a sequence (t, 17, 3) = x, y, confidence out.

Frame texts: Gait3D's `human_crop_f<frame>.txt` and GREW's `<frame>_2d_pose.txt`, one line each: two sizes, then 17 x
(x, y, confidence), COCO order (protocols.md section 2). CSV: GaitGraph's rows `<path>/<sequence>/<frame>`, 51 values.
What is wrong with one frame leaves that frame out, counted and named with its file and line.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from bpmt_ext.errors import UserError
from bpmt_ext.regular import open_regular

COCO_JOINTS = 17
_VALUES = 3 * COCO_JOINTS
_FIELDS = 2 + _VALUES
_LINE_BYTES = 1 << 16  # longer than any frame of 17 joints
MAX_FRAMES = 1_000_000  # of one sequence: eleven hours at 25 a second


@dataclass
class Raw:
    """One sequence as it was read, and what had to be left out."""

    pose: np.ndarray  # (t, v, c), t may be 0, frames that are not finite are dropped by `convert`; or (t, h, w) uint8
    dropped: Counter[str] = field(default_factory=Counter)  # frames left out, by reason
    faults: list[str] = field(default_factory=list)  # the same with file or line, for the report
    facts: dict[str, int] = field(default_factory=dict)  # frames concerned; the report adds up sequences and frames
    refused: str | None = None  # why the whole sequence is left out


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts names as people do: runs of digits by their number, so that f9 comes before f10."""
    words = re.split(r"([0-9]+)", name)
    return tuple((1, int(w[-4000:]), w) if w.isdecimal() else (0, 0, w) for w in words)


def misordered(names: Sequence[str]) -> int:
    """How many frames, given by their names in the right order, stand elsewhere if the names are sorted as text."""
    return sum(a != b for a, b in zip(names, sorted(names), strict=True))


def list_files(folder: Path) -> list[Path]:
    """The entries of a sequence folder, sorted by name; UserError if there are more than any sequence has frames."""
    with os.scandir(folder) as entries:
        names = []
        for entry in entries:
            names.append(entry.name)
            if len(names) > 4 * MAX_FRAMES:
                raise UserError(f"{folder}: holds more than {4 * MAX_FRAMES} files, which is no single sequence.")
    return [folder / name for name in sorted(names)]


def parse_frame(text: str) -> list[float] | str:
    """The 51 numbers of one frame file, or why it has none."""
    words = text.strip().split(",")
    if words == [""]:
        return "empty file"
    if len(words) != _FIELDS:
        return f"not {_FIELDS} numbers"
    try:
        return [float(word) for word in words[2:]]
    except ValueError:
        return "not a number"


def _read_line_file(path: Path) -> str | None:
    """The text of a file that should hold one line; None if it is no text or far too long."""
    try:
        with open_regular(path) as file:
            text = file.read(_LINE_BYTES + 1).decode("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return text if len(text) <= _LINE_BYTES else None


def read_frame_texts(folder: Path, pattern: re.Pattern[str], named: str, *, frame_sort: str = "numeric",
                     beside: re.Pattern[str] | None = None) -> Raw:
    """One sequence folder of frame texts as (t, 17, 3); bad frame files are left out and named.

    pattern: whole file name, its first group the frame number; `named` says it in words. beside: names of other files
    that belong there and are passed over. frame_sort: numeric, or lexical as published runs did.
    """
    dropped: Counter[str] = Counter()
    faults: list[str] = []
    frames: dict[int, tuple[str, list[float]]] = {}
    for path in list_files(folder):
        match = pattern.fullmatch(path.name)
        if match is None:
            if beside is not None and beside.fullmatch(path.name):
                continue
            parsed: list[float] | str = f"not named {named}"
        elif int(match[1]) in frames:
            parsed = "frame number twice"
        else:
            text = _read_line_file(path)
            parsed = "cannot be read as text" if text is None else parse_frame(text)
        if isinstance(parsed, str):
            dropped[parsed] += 1
            faults.append(f"{path}: {parsed}")
        else:
            frames[int(match[1])] = (path.name, parsed)  # type: ignore[index]
    numeric = sorted(frames)
    lexical = sorted(frames, key=lambda number: frames[number][0])
    order = numeric if frame_sort == "numeric" else lexical
    pose = np.array([frames[number][1] for number in order], dtype=np.float64).reshape(-1, COCO_JOINTS, 3)
    return Raw(pose, dropped, faults, frame_facts([frames[number][0] for number in numeric], numeric))


def frame_facts(names: Sequence[str], numbers: Sequence[int]) -> dict[str, int]:
    """What the report says of the frames, given in the order of their numbers."""
    return {
        "misordered if sorted as text": misordered(names),
        "gaps in the frame numbers": numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0,
    }


@dataclass(frozen=True)
class Span:
    """Neighbouring rows of one sequence in a CSV."""

    start: int  # bytes from the beginning of the file
    stop: int
    line: int  # of the first row, from 1


def _csv_lines(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(position in bytes, line) of a part of a file, never more than one line in memory."""
    try:
        with open_regular(path) as file:
            file.seek(start)
            position = start
            while stop is None or position < stop:
                line = file.readline(_LINE_BYTES + 1)
                if not line:
                    return
                yield position, line
                position += len(line)
                if len(line) > _LINE_BYTES:
                    raise UserError(f"{path}: the line at byte {start} and after is longer than {_LINE_BYTES} bytes; "
                                    "it is no CSV of poses.")  # fmt: skip
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error


def _row_name(line: bytes) -> tuple[str, str] | None:
    """(sequence, frame) of a row's first field, its last two path parts; None if it has no two.

    Raises ValueError for a path that points outside: absolute, or with a step upwards.
    """
    text = line.split(b",", 1)[0].decode("utf-8", "replace").strip().strip('"').replace("\\", "/")
    parts = PurePosixPath(text).parts
    if len(parts) > 1 and (text.startswith("/") or ".." in parts or parts[0].endswith(":")):
        raise ValueError(text[:80])
    return (parts[-2], PurePosixPath(parts[-1]).stem) if len(parts) >= 2 else None


def index_csv(path: Path) -> dict[str, tuple[Span, ...]]:
    """Where the rows of each sequence lie, in the order of the file. A first line without a path is a header.

    UserError, naming file and line: no such file, a row that does not begin with `<sequence>/<frame>`, a path that
    points outside, no row.
    """
    spans: dict[str, list[Span]] = {}
    last = None
    for number, (position, line) in enumerate(_csv_lines(path), 1):
        if not line.strip():
            last = None
            continue
        try:
            named = _row_name(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: the path {str(error)!r} is absolute or points outside the data; "
                            "rows begin with a relative <sequence>/<frame>.") from None  # fmt: skip
        if named is None:
            if number == 1:
                continue
            raise UserError(f"{path}, line {number}: begins with {line[:40]!r}, expected <sequence>/<frame> and "
                            f"{_VALUES} numbers; is it the key-point CSV?")  # fmt: skip
        stop = position + len(line)
        rows = spans.setdefault(named[0], [])
        if named[0] == last:
            rows[-1] = Span(rows[-1].start, stop, rows[-1].line)
        else:
            rows.append(Span(position, stop, number))
        last = named[0]
    if not spans:
        raise UserError(f"{path}: holds no row <sequence>/<frame> with {_VALUES} numbers.")
    return {name: tuple(rows) for name, rows in spans.items()}


def read_csv_rows(path: Path, spans: Sequence[Span]) -> Raw:
    """The rows of one sequence as (t, 17, 3), in the order of their frame numbers; bad rows are left out and named."""
    dropped: Counter[str] = Counter()
    faults: list[str] = []
    frames: dict[str, list[float]] = {}
    for span in spans:
        for number, (_, line) in enumerate(_csv_lines(path, span.start, span.stop), span.line):
            frame = (_row_name(line) or ("", ""))[1]
            words = line.decode("utf-8", "replace").strip().split(",")[1:]
            parsed = "frame twice" if frame in frames else _row_numbers(words)
            if isinstance(parsed, str):
                dropped[parsed] += 1
                faults.append(f"{path}, line {number}: {parsed}")
            elif len(frames) >= MAX_FRAMES:
                raise UserError(f"{path}, line {number}: one sequence holds more than {MAX_FRAMES} frames; split it.")
            else:
                frames[frame] = parsed
    order = sorted(frames, key=natural_key)
    pose = np.array([frames[frame] for frame in order], dtype=np.float64).reshape(-1, COCO_JOINTS, 3)
    return Raw(pose, dropped, faults, _csv_facts(order, frames))


def _row_numbers(words: Sequence[str]) -> list[float] | str:
    if len(words) != _VALUES:
        return f"not {_VALUES} numbers"
    try:
        return [float(word) for word in words]
    except ValueError:
        return "not a number"


def _csv_facts(order: Sequence[str], frames: Mapping[str, list[float]]) -> dict[str, int]:
    """The facts of frame texts, and how many rows stand elsewhere in the file than in the order of their numbers."""
    numbers = [int(frame) for frame in order if frame.isdecimal() and len(frame) < 10]
    facts = frame_facts(order, numbers if len(numbers) == len(order) else ())
    facts["rows out of order in the file"] = sum(a != b for a, b in zip(order, frames, strict=True))
    return facts
