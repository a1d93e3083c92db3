"""Attention between parts or frames and the pose it belongs to in; pictures of who attends to whom (h, w, 3) uint8 out.

Shapes: t frames, v joints, p = 5 parts, r rows of a band, h rows and w columns of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from bpmt_ext.report.activation import spread_frames
from bpmt_ext.report.clips import FAINT, INK, joined, strip, text_size, write_text
from bpmt_ext.report.drawings import PART_COLOURS, part_of_joint, ramp, views_of
from bpmt_ext.skeletons import PART_NAMES, Skeleton

_SMALL = 11  # of letters
_LABELS = tuple(name.replace("_", " ") for name in PART_NAMES)


def received(weights: np.ndarray) -> np.ndarray:
    """weights (t, p, p), rows that add up to 1 -> (t, p): the share of all attention that goes to each part."""
    return weights.sum(1) / weights.shape[1]


def of_joints(share: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """A value for each part (t, p) -> for each joint (t, v); 0 for joints of no part."""
    part = part_of_joint(skeleton)
    return np.where(part >= 0, share[:, part], 0.0)


def matrix_picture(weights: np.ndarray, *, cell: int = 30, top: float | None = None) -> np.ndarray:
    """weights (p, p), who (row) asks whom (column) -> (h, w, 3) with percents. top: the darkest value (the largest)."""
    p = len(weights)
    top = float(weights.max()) if top is None else top
    left, above = max(text_size(label, _SMALL)[0] for label in _LABELS) + 22, 34
    picture = Image.new("RGB", (left + p * cell + 2, above + p * cell + 2), "white")
    draw = ImageDraw.Draw(picture)
    write_text(picture, (left + p * cell / 2, 1), "attends to", size=_SMALL, ink=FAINT, anchor="ma")
    for i, (label, colour) in enumerate(zip(_LABELS, PART_COLOURS, strict=True)):
        middle = above + (i + 0.5) * cell
        write_text(picture, (left - 18, middle), label, size=_SMALL, anchor="rm")
        _mark(draw, left - 9, middle, i, colour)
        _mark(draw, left + (i + 0.5) * cell, above - 8, i, colour)
        for j in range(p):
            x, y = left + j * cell, above + i * cell
            if i == j:
                draw.rectangle([x, y, x + cell - 2, y + cell - 2], fill=(245, 245, 245))
                continue
            share = round(weights[i, j], 2) / top if top > 0 else 0.0  # as written: a clip changes no more than that
            draw.rectangle([x, y, x + cell - 2, y + cell - 2], fill=tuple(ramp(share).tolist()))
            ink = (255, 255, 255) if share > 0.6 else INK
            text = f"{100 * weights[i, j]:.0f}"
            write_text(picture, (x + cell / 2 - 1, y + cell / 2 - 1), text, size=_SMALL, ink=ink, anchor="mm")
    return np.asarray(picture)


def _mark(draw: ImageDraw.ImageDraw, x: float, y: float, part: int, colour: tuple[int, ...]) -> None:
    """The dot of a part, hollow for the right side."""
    draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=colour)
    if PART_NAMES[part].startswith("right"):
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill="white")


def heat_picture(weights: np.ndarray, *, size: int = 160) -> np.ndarray:
    """weights (t, t), which frame (row) asks which (column), as a square of `size` pixels with its title."""
    top = float(weights.max())
    heat = ramp(weights / top if top > 0 else weights)
    heat[weights == 0] = 255  # what lies outside a window cannot be asked
    heat = Image.fromarray(heat)
    picture = Image.new("RGB", (size + 18, size + 34), "white")
    picture.paste(heat.resize((size, size), Image.Resampling.NEAREST if len(weights) < size else Image.Resampling.BOX),
                  (16, 17))  # fmt: skip
    write_text(picture, (16 + size / 2, 1), "frame attends to frame", size=_SMALL, ink=FAINT, anchor="ma")
    write_text(picture, (14, 17), "0", size=10, ink=FAINT, anchor="ra")
    write_text(picture, (16, size + 19), "0", size=10, ink=FAINT, anchor="la")
    write_text(picture, (16 + size, size + 19), str(len(weights) - 1), size=10, ink=FAINT, anchor="ra")
    return np.asarray(picture)


def band_picture(values: np.ndarray, names: Sequence[str], *, width: int, top: float, row: int = 14,
                 numbers: Sequence[int] | None = None) -> np.ndarray:  # fmt: skip
    """values (r, t) over time, a row each with name and mean in percent -> (h, width, 3). top: the darkest value."""
    values = np.asarray(values, float)
    r, t = values.shape
    left = max(text_size(name, _SMALL)[0] for name in names) + 8
    right = text_size("100.0 %", _SMALL)[0] + 4
    across = max(width - left - right, 8)
    picture = Image.new("RGB", (width, r * (row + 2) + 16), "white")
    heat = ramp(values / top if top > 0 else values)
    for k, name in enumerate(names):
        y = k * (row + 2)
        write_text(picture, (left - 6, y + row / 2), name, size=_SMALL, anchor="rm")
        line = Image.fromarray(heat[k : k + 1])
        how = Image.Resampling.NEAREST if t <= across else Image.Resampling.BOX
        picture.paste(line.resize((across, row), how), (left, y))
        mean = f"{100 * values[k].mean():.1f} %"
        write_text(picture, (width - 2, y + row / 2), mean, size=_SMALL, ink=FAINT, anchor="rm")
    first, last = (0, t - 1) if numbers is None else (numbers[0], numbers[-1])
    write_text(picture, (left, r * (row + 2)), str(first), size=10, ink=FAINT)
    write_text(picture, (left + across, r * (row + 2)), str(last), size=10, ink=FAINT, anchor="ra")
    return np.asarray(picture)


def scale_picture(top: float, text: str, *, width: int = 90) -> np.ndarray:
    """(h, w, 3): what the colours mean, from 0 to `top` (a share) of what `text` says."""
    words = f"{100 * top:.{0 if top >= 0.1 else 1}f} % {text}"
    picture = Image.new("RGB", (width + 40 + text_size(words, _SMALL)[0], 18), "white")
    picture.paste(Image.fromarray(np.repeat(ramp(np.linspace(0, 1, width))[None], 10, 0)), (20, 4))
    write_text(picture, (16, 9), "0", size=_SMALL, ink=FAINT, anchor="rm")
    write_text(picture, (width + 26, 9), words, size=_SMALL, ink=FAINT, anchor="lm")
    return np.asarray(picture)


def value_pictures(
    pose: np.ndarray,
    value: np.ndarray,
    skeleton: Skeleton,
    *,
    top: float,
    text: str,
    beside: Sequence[np.ndarray] = (),
    rows: np.ndarray | None = None,
    names: Sequence[str] = (),
    numbers: Sequence[int] | None = None,
    count: int = 8,
    height: int = 180,
    view: str | None = None,
    moving: bool = False,
) -> np.ndarray:
    """The figure coloured by value (t, v), 0 to `top`: a clip (t, h, w, 3) if `moving`, else a strip (1, h, w, 3).

    beside: pictures at its right: one for all frames, or one each. rows (r, t) and names: a band below, over time.
    numbers (t,): those of the frames. text: what the values are a share of.
    """
    shades = np.clip(value / top if top > 0 else value, 0, 1)
    shades = np.clip(value / top if top > 0 else value, 0, 1)
    chosen = None if moving else spread_frames(len(pose), count)
    views = views_of(
        pose, skeleton, view, height=height, value=(24 * shades).round() / 24,  # more shades only make the file larger
        follow=None if moving else True, chosen=chosen,
    )  # fmt: skip
    if chosen is None:
        figures = joined(views)
    else:
        below = [int(k) if numbers is None else numbers[k] for k in chosen]
        figures = joined([strip(each, len(chosen), numbers=below)[None] for each in views], axis="below")
    extra = np.stack(beside)[: len(figures)] if len(beside) else None
    width = figures.shape[2]
    below = [np.asarray(scale_picture(top, text))[None]]
    if rows is not None:
        width = max(width, 300)
        band = band_picture(rows, names, width=width, top=top, numbers=numbers)
        bands = np.repeat(band[None], len(figures), 0)
        if moving:
            _cursors(bands, names, width)
        below.insert(0, bands)
    whole = joined([figures, *below], axis="below")
    if extra is None:
        return whole
    free = whole.shape[1] - extra.shape[1]  # in the middle of the height
    extra = np.pad(extra, ((0, 0), (0, max(free - free // 2, 0)), (0, 0), (0, 0)), constant_values=255)
    return joined([whole, extra], gap=14)


def _cursors(bands: np.ndarray, names: Sequence[str], width: int) -> None:
    """A dark line at each frame's own place in the bands (t, h, w, 3), in place."""
    left = max(text_size(name, _SMALL)[0] for name in names) + 8
    across = max(width - left - text_size("100.0 %", _SMALL)[0] - 4, 8)
    column = left + ((np.arange(len(bands)) + 0.5) * across / len(bands)).astype(int)
    bands[np.arange(len(bands)), : bands.shape[1] - 16, column] = INK


def part_pictures(pose: np.ndarray, weights: np.ndarray, skeleton: Skeleton, *, moving: bool = False,
                  **keys: object) -> np.ndarray:  # fmt: skip
    """weights (t, p, p) -> the body coloured by the attention its parts receive, the same over time, and who asks whom.

    moving: the matrix is each frame's own; else their mean. Other arguments: `value_pictures`.
    """
    share = received(weights)
    highest = float(weights.max())
    matrices = weights if moving else weights.mean(0)[None]
    return value_pictures(
        pose, of_joints(share, skeleton), skeleton, top=float(share.max()), text="of all attention", moving=moving,
        beside=[matrix_picture(each, top=highest) for each in matrices], rows=share.T, names=_LABELS, **keys,
    )  # fmt: skip


def frame_pictures(pose: np.ndarray, weights: np.ndarray, skeleton: Skeleton, *, moving: bool = False,
                   whole: np.ndarray | None = None, **keys: object) -> np.ndarray:  # fmt: skip
    """The share of attention each frame receives (t,) as the colour of its body, and over time.

    weights: that share. whole (t', t'): which frame asks which, drawn beside it.
    """
    value = np.repeat(weights[:, None], skeleton.num_joints, 1)
    beside = [] if whole is None else [heat_picture(whole)]
    return value_pictures(pose, value, skeleton, top=float(weights.max()), text="of all attention", moving=moving,
                          beside=beside, rows=weights[None], names=("frame",), **keys)  # fmt: skip
