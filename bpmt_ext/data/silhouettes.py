"""A folder of PNG frames in, silhouettes uint8 (t, 64, 64) out: read, aligned, and counted what had to be left out.

Alignment, frame by frame: the rows that hold the body are scaled to the height of the result, the columns by the same
factor; the median of the pixel mass comes to the middle; what is wider than the result is cut off. Grey levels are
averaged by area: soft edges stay soft, and a figure that is aligned already stays as it is.
Letters: t frames, h rows, w columns.
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from pathlib import Path

import numpy as np

from bpmt_ext.data.posetexts import MAX_FRAMES, Raw, frame_facts, list_files, natural_key
from bpmt_ext.errors import UserError

SIDE, CUT = 64, 10  # rows and columns of a silhouette; columns on each side that networks of 64 x 44 do without
SOLID = 128  # grey levels from here on are figure
FAINT, LOW = 40, 10  # a figure of fewer pixels or rows is none
PNG_BYTES, PNG_PIXELS = 64 << 20, 1 << 24  # of one frame
_CHUNK = 1 << 22  # pixels aligned at once
_LACKS = ("", "grey levels 0 and 1 only, not 0 and 255", "hardly any foreground", f"figure of fewer than {LOW} rows")
_EXCHANGED = "more than half of the picture is figure (too near, or black and white exchanged)"
_WIDE = "more than a tenth of the figure is wider than the result"


def lacks(frames: np.ndarray) -> np.ndarray:
    """Frames (t, h, w) uint8 -> (t,): 0 where there is a figure, else which of `_LACKS` is the reason why not."""
    solid = frames >= SOLID
    rows = solid.any(2)
    height = np.where(rows.any(1), frames.shape[1] - rows[:, ::-1].argmax(1) - rows.argmax(1), 0)
    return np.select([frames.max((1, 2), initial=0) == 1, solid.sum((1, 2)) < FAINT, height < LOW], [1, 2, 3], 0)


def align(frames: np.ndarray, cut: int = 0) -> np.ndarray:
    """Grey frames (t, h, w) uint8, 0 ground -> (t', 64, 64 - 2 cut) uint8; frames without a figure are left out."""
    if frames.ndim != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be (t, h, w) uint8, got {frames.shape} {frames.dtype}")
    return _placed(frames[lacks(frames) == 0])[0][:, :, cut:SIDE - cut]


def _placed(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames with a figure (t, h, w) -> (aligned (t, 64, 64) uint8, its mass (t,) if nothing were cut off)."""
    rows = (frames >= SOLID).any(2)
    top, bottom = rows.argmax(1), frames.shape[1] - rows[:, ::-1].argmax(1)
    cell = (bottom - top) / SIDE
    scaled = _shares(top, cell, frames.shape[1]) @ frames.astype(np.float64)  # (t, 64, w)
    mass = scaled.sum(1).cumsum(1)
    total = mass[:, -1]
    column = (mass < total[:, None] / 2).sum(1)  # which holds the median
    before, upto = (np.take_along_axis(np.pad(mass, ((0, 0), (1, 0))), column[:, None] + i, 1)[:, 0] for i in (0, 1))
    middle = column + (total / 2 - before) / (upto - before)
    shares = _shares(middle - SIDE / 2 * cell, cell, frames.shape[2])
    grey = scaled @ shares.transpose(0, 2, 1)
    # a half is rounded up whichever way the sum was added
    return np.floor(grey + (0.5 + 1e-6)).clip(0, 255).astype(np.uint8), total / cell


def _shares(start: np.ndarray, cell: np.ndarray, pixels: int) -> np.ndarray:
    """64 cells of that width (t,) from `start` (t,) on -> (t, 64, pixels): the share of each pixel in each cell."""
    edge = start[:, None] + cell[:, None] * np.arange(SIDE + 1)
    pixel = np.arange(pixels)
    overlap = np.minimum(edge[:, 1:, None], pixel + 1) - np.maximum(edge[:, :-1, None], pixel)
    return overlap.clip(min=0) / cell[:, None, None]


def read_png(path: Path) -> np.ndarray | str:
    """The grey levels (h, w) uint8 of a PNG, or why there are none; its size is looked at before it is unpacked."""
    from PIL import Image  # takes a while to load

    if not path.is_file():  # a pipe would wait for ever
        return "no file"
    try:
        with open(path, "rb") as file:
            head, size = file.read(24), os.fstat(file.fileno()).st_size
            if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
                return "no PNG picture"
            width, height = struct.unpack(">II", head[16:])
            if width * height > PNG_PIXELS or size > PNG_BYTES:
                return f"more than {PNG_PIXELS >> 20} million pixels or {PNG_BYTES >> 20} MiB"
            file.seek(0)
            with Image.open(file, formats=["PNG"]) as image:
                if image.size != (width, height):  # a second header
                    return "damaged PNG picture"
                if image.mode.startswith("I"):
                    return (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.array(image.convert("L"))
    except PermissionError:
        return "no permission to read it"
    except Exception:  # a damaged picture fails in any step of the decoding, with any type
        return "damaged PNG picture"


def read_folder(folder: Path, cut: int = 0) -> Raw:
    """One sequence folder of PNG frames as (t, 64, 64 - 2 cut) uint8, in the order of the numbers in their names.

    Frames that cannot be read or hold no figure are left out, counted and named. Frames may differ in size.
    """
    found = list_files(folder)
    paths = sorted((path for path in found if path.suffix.lower() == ".png"), key=lambda path: natural_key(path.name))
    if len(paths) > MAX_FRAMES:
        raise UserError(f"{folder}: holds more than {MAX_FRAMES} frames, which is no single sequence.")
    others = [path for path in found if path.suffix.lower() != ".png"]
    dropped, faults = Counter({"not named <frame>.png": len(others)}), [f"{p}: not named <frame>.png" for p in others]
    facts: Counter[str] = Counter(frame_facts([path.name for path in paths], _numbers(paths)))
    aligned, waiting = [np.empty((0, SIDE, SIDE - 2 * cut), np.uint8)], []
    shape = np.zeros(2, dtype=int)  # of the largest frame that waits
    for path in paths:
        frame = read_png(path)
        reason = frame if isinstance(frame, str) else _LACKS[lacks(frame[None])[0]]
        if reason:
            dropped[reason] += 1
            faults.append(f"{path}: {reason}")
            continue
        facts[_EXCHANGED] += int((frame >= SOLID).mean() > 0.5)
        frame = _body(frame)
        if waiting and np.maximum(shape, frame.shape).prod() * (len(waiting) + 1) > _CHUNK:
            aligned.append(_finished(waiting, shape, cut, facts))
            waiting, shape = [], np.zeros(2, dtype=int)
        waiting.append(frame)
        shape = np.maximum(shape, frame.shape)
    if waiting:
        aligned.append(_finished(waiting, shape, cut, facts))
    return Raw(np.concatenate(aligned), +dropped, faults, dict(facts))


def _body(frame: np.ndarray) -> np.ndarray:
    """The frame without the black rows and columns around what is in it."""
    rows, columns = (np.flatnonzero(frame.any(axis)) for axis in (1, 0))
    return frame[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def _finished(waiting: list[np.ndarray], shape: np.ndarray, cut: int, facts: Counter[str]) -> np.ndarray:
    """These frames, of `shape` at most, aligned; adds to `facts` how many lose something at the sides."""
    frames = np.zeros((len(waiting), *shape), dtype=np.uint8)
    for i, frame in enumerate(waiting):
        frames[i, :frame.shape[0], :frame.shape[1]] = frame
    whole, mass = _placed(frames)
    out = whole[:, :, cut:SIDE - cut]
    facts[_WIDE] += int((out.sum((1, 2), dtype=np.int64) < 0.9 * mass).sum())
    return out


def _numbers(paths: list[Path]) -> list[int]:
    """The last number in each name, or nothing unless they rise from frame to frame."""
    digits = [re.findall(r"[0-9]{1,15}", path.stem)[-1:] for path in paths]
    numbers = [int(word) for words in digits for word in words]
    rising = len(numbers) == len(paths) and all(a < b for a, b in zip(numbers, numbers[1:], strict=False))
    return numbers if rising else []
