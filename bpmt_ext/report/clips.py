"""Frames (t, h, w, 3) uint8 in; clips put together, strips of a few frames, PNG, GIF and MP4 files out.

A clip is an array of pictures on white ground. Files appear whole or not at all. Shapes: t frames, h rows, w columns.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.errors import UserError
from bpmt_ext.report.activation import spread_frames

KINDS = (".png", ".gif", ".mp4")
INK, FAINT = (40, 40, 40), (130, 130, 130)  # of text
FASTEST = 50  # frames per second that a GIF can hold: browsers slow down what is faster


def text_size(text: str, size: int) -> tuple[int, int]:
    """Width and height of a line of text in pixels, descenders included."""
    left, _, right, _ = _font(size).getbbox(text)
    return int(right - min(left, 0)) + 1, int(1.3 * size) + 1


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def write_text(picture: Image.Image, place: tuple[float, float], text: str, *, size: int = 12,
               ink: tuple[int, int, int] = INK, anchor: str = "la") -> None:  # fmt: skip
    """Put a line of text onto a picture; anchor as Pillow's, "mm" for the middle."""
    ImageDraw.Draw(picture).text(place, text, fill=ink, font=_font(size), anchor=anchor)


def shortened(text: str, width: int, size: int) -> str:
    """The text, or its end after "..." where it is wider than `width` pixels."""
    if text_size(text, size)[0] <= width:
        return text
    while text and text_size("..." + text, size)[0] > width:
        text = text[1:]
    return "..." + text if text else ""


def told_apart(titles: Sequence[str]) -> list[list[str]]:
    """Names of files in, the same ever shorter out: whole; the folders and files in which they differ; the words and
    numbers in which these differ. Of one name, or the same ones, there is nothing shorter."""
    if len(set(titles)) < 2:
        return [list(titles)]
    names = ["/".join(part) for part, _, _ in _differing([title.split("/") for title in titles])]
    words = _differing([re.findall(r"\d+|[^\W\d_]+|.", name) for name in names])
    return [list(titles), names, ["..." * before + "".join(part) + "..." * behind for part, before, behind in words]]


def _differing(lines: Sequence[Sequence[str]]) -> list[tuple[Sequence[str], bool, bool]]:
    """Of each line what stands between what all begin and all end with, one item at least; and what was cut off."""

    def shared(lines: Sequence[Sequence[str]], most: int) -> int:
        return next((k for k in range(most) if len({line[k] for line in lines}) > 1), most)

    least = min(map(len, lines)) - 1
    first = shared(lines, least)
    last = shared([line[::-1] for line in lines], least - first)
    return [(line[first:len(line) - last], first > 0, last > 0) for line in lines]


def fitting(forms: Sequence[Sequence[str]], widths: Sequence[int], *, size: int = 12) -> Sequence[str]:
    """The first of these forms of titles, see `told_apart`, in which all fit clips that are so wide; or the last."""
    room = [width - 4 for width in widths]
    fits = (form for form in forms if all(text_size(x, size)[0] <= w for x, w in zip(form, room, strict=True)))
    return next(fits, forms[-1])


def captioned(frames: np.ndarray, text: str, *, size: int = 12) -> np.ndarray:
    """The clip (t, h, w, 3) under a line of text, shortened at its beginning if it is too long; "" is an empty line."""
    t, _, w, _ = frames.shape
    line = Image.new("RGB", (w, text_size("X", size)[1] + 4), "white")
    write_text(line, (w / 2, 2), shortened(text, w - 4, size), size=size, anchor="ma")
    return np.concatenate([np.broadcast_to(np.asarray(line), (t, line.height, w, 3)), frames], axis=1)


def joined(clips: Sequence[np.ndarray], *, axis: str = "beside", gap: int = 6) -> np.ndarray:
    """Clips `beside` each other or one `below` the other, in time step; one that has ended keeps its last frame.

    White space fills what a smaller picture leaves free: beside, at the top; below, half of it at either side.
    """
    if not clips or axis not in ("beside", "below"):
        raise ValueError(f"one clip or more, beside or below, are needed; got {len(clips)} and {axis!r}")
    t, rows, columns = (max(clip.shape[k] for clip in clips) for k in range(3))
    placed = []
    for k, clip in enumerate(clips):
        clip = clip[np.minimum(np.arange(t), len(clip) - 1)]
        free = (rows - clip.shape[1], 0) if axis == "beside" else (0, columns - clip.shape[2])
        room = gap if k + 1 < len(clips) else 0
        pad = ((0, 0), (free[0], room if axis == "below" else 0), (free[1] // 2, free[1] - free[1] // 2), (0, 0))
        if axis == "beside":
            pad = ((0, 0), (free[0], 0), (0, room), (0, 0))
        placed.append(np.pad(clip, pad, constant_values=255))
    return np.concatenate(placed, axis=2 if axis == "beside" else 1)


def strip(frames: np.ndarray, count: int = 8, *, numbers: Sequence[int] | None = None, gap: int = 4) -> np.ndarray:
    """`count` frames of a clip, evenly spread, beside each other (h', w', 3), each over its number.

    numbers (t,): what is written below (default: 0, 1, ...).
    """
    if not len(frames) or count < 1:
        raise ValueError(f"a strip needs a frame and a count of at least 1, got {len(frames)} and {count}")
    chosen = spread_frames(len(frames), count)
    below = [str(k if numbers is None else numbers[k]) for k in chosen]
    panels = []
    for k, text in zip(chosen, below, strict=True):
        line = Image.new("RGB", (frames.shape[2], text_size("0", 10)[1]), "white")
        write_text(line, (line.width / 2, 0), text, size=10, ink=FAINT, anchor="ma")
        panels.append(np.concatenate([frames[k], np.asarray(line)])[None])
    return joined(panels, gap=gap)[0]


def png_bytes(picture: np.ndarray) -> bytes:
    """A picture (h, w, 3) as a PNG file."""
    made = BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(made, "PNG", optimize=True)
    return made.getvalue()


def write_png(path: Path, picture: np.ndarray) -> None:
    """UserError if the file cannot be written."""
    write_bytes(path, png_bytes(picture))


def gif_bytes(frames: np.ndarray, fps: float = 25.0) -> bytes:
    """An endless GIF of the clip (t, h, w, 3), with one palette for all its frames. fps: at most 50."""
    if not len(frames) or not fps > 0:
        raise ValueError(f"a GIF needs a frame and fps above 0, got {len(frames)} and {fps}")
    indices, palette = _indexed(frames)
    same = np.zeros(indices.shape, bool)
    same[1:] = indices[1:] == indices[:-1]
    # what stays the same may be left out: shorter where the clip is large and little of it moves
    left_out = np.where(same, 255, indices).astype(np.uint8)
    return min((_gif(each, palette, fps) for each in (indices, left_out)), key=len)


def _gif(indices: np.ndarray, palette: np.ndarray, fps: float) -> bytes:
    """Numbers of colours (t, h, w), of which 255 is no colour but leaves a pixel as it was."""
    pictures = []
    for index in indices:
        picture = Image.frombytes("P", (index.shape[1], index.shape[0]), index.tobytes())
        picture.putpalette(palette.ravel().tolist())
        pictures.append(picture)
    # a GIF counts in hundredths of a second: what rounding adds to one frame it takes from another
    clock = (100 / min(fps, FASTEST) * np.arange(len(indices) + 1)).round()
    made, clear = BytesIO(), {"transparency": 255} if (indices == 255).any() else {}
    pictures[0].save(made, "GIF", save_all=True, append_images=pictures[1:], loop=0, optimize=False, disposal=1,
                     duration=(10 * np.diff(clock)).astype(int).tolist(), **clear)  # fmt: skip
    return made.getvalue()


def _indexed(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number of each pixel's colour (t, h, w) uint8, colours (k, 3), k <= 255).

    Colours are told apart by 5 bits each. Of too many the 128 most frequent stay; the others are thinned out, each
    counting once however few pixels have it, so that a thin limb keeps its own.
    """
    code = frames.astype(np.uint16) >> 3
    code = (code[..., 0] << 10) | (code[..., 1] << 5) | code[..., 2]
    often = np.bincount(code.ravel(), minlength=1 << 15)
    there = np.argsort(-often, kind="stable")[: np.count_nonzero(often)]
    five = np.stack([there >> 10, (there >> 5) & 31, there & 31], 1)
    colours = ((five << 3) | (five >> 2)).astype(np.uint8)  # (k, 3)
    palette = colours
    if len(colours) > 255:  # the most frequent ones stay as they are
        rest = Image.fromarray(colours[None, 128:]).quantize(127, Image.Quantize.MEDIANCUT).getpalette() or []
        palette = np.concatenate([colours[:128], np.array(rest, np.uint8).reshape(-1, 3)])
    far = np.square(colours[:, None].astype(np.int32) - palette.astype(np.int32)).sum(2)  # (k, colours of the palette)
    table = np.zeros(1 << 15, np.uint8)
    table[there] = far.argmin(1)
    return table[code], palette


def write_gif(path: Path, frames: np.ndarray, fps: float = 25.0) -> None:
    """UserError if the file cannot be written."""
    write_bytes(path, gif_bytes(frames, fps))


def write_mp4(path: Path, frames: np.ndarray, fps: float = 25.0) -> None:
    """H.264, through the program ffmpeg. UserError if that is not there, or fails."""
    program = _ffmpeg(path)
    t, h, w, _ = frames.shape
    frames = np.pad(frames, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), constant_values=255)  # even sides
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "clip.mp4")
        line = [program, "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{w + w % 2}x{h + h % 2}",
                "-r", f"{fps:g}", "-i", "-", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(made)]  # fmt: skip
        done = subprocess.run(line, input=np.ascontiguousarray(frames).tobytes(), capture_output=True, check=False)
        if done.returncode or not made.is_file():
            told = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"status {done.returncode}"]
            raise UserError(f"{path}: ffmpeg failed ({told[0]}); write a .gif")
        write_bytes(path, made.read_bytes())


def check_kind(path: Path) -> str:
    """The suffix of a picture or clip that can be written here. UserError for any other, and for MP4 without ffmpeg."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise UserError(f"{path}: pictures are written as {', '.join(KINDS)}; give the file one of these endings")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: the folder {path.absolute().parent} does not exist; make it first")
    if kind == ".mp4":
        _ffmpeg(path)
    return kind


def _ffmpeg(path: Path) -> str:
    program = shutil.which("ffmpeg")
    if program is None:
        raise UserError(f"{path}: MP4 needs the program ffmpeg, which is not here; install it, or write a .gif")
    return program


def write_clip(path: Path, frames: np.ndarray, fps: float = 25.0) -> None:
    """A GIF or MP4, by the file's ending."""
    {".gif": write_gif, ".mp4": write_mp4}[check_kind(path)](path, frames, fps)
