"""Text, numbers and arrays in, pieces of HTML out: escaped words, tables, and charts as inline SVG.

Everything that is not an `Html` already is escaped, so that no name of a file, person or class becomes markup. Charts
are drawn for a phone's width (360 units) and take their colours from the classes c0..c9 of page.css.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_WIDE, _HIGH = 360, 230  # of a line chart, in units of its own
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 16, 10, 36
_POINTS = 240  # of one line; of more, some are left out
COLOURS = 10


class Html(str):
    """Text that is markup already."""


@dataclass(frozen=True)
class Cell:
    """A cell with a number in it: shown rounded, kept whole beside it; `share` (0..1) draws a bar behind it."""

    value: float
    digits: int = 1
    best: bool = False
    share: float | None = None


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name in the legend, which several may share, and its points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False
    dots: bool = False


def esc(value: object) -> Html:
    """As it may stand in a page, inside a tag's quotes too. Html stays as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value), quote=True))


def join(pieces: Iterable[object], between: str = "") -> Html:
    return Html(between.join(esc(piece) for piece in pieces))


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """<name attribute="...">inside</name>; `class_` and `data_x` stand for class and data-x, None leaves one out."""
    said = "".join(f' {key.rstrip("_").replace("_", "-")}="{esc(value)}"'
                   for key, value in attributes.items() if value is not None)  # fmt: skip
    return Html(f"<{name}{said}>{join(inside)}</{name}>")


def note(text: object, *, warn: bool = False) -> Html:
    return tag("p", text, class_="note warn" if warn else "note")


def table(header: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str) -> Html:
    """A table that scrolls sideways where it is wider than the screen. The first column says what a row is of."""
    head = join(tag("th", name, scope="col") for name in header)
    body = join(tag("tr", tag("th", row[0], scope="row"), *(_cell(value) for value in row[1:])) for row in rows)
    whole = tag("table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(value: object) -> Html:
    if not isinstance(value, Cell):
        return tag("td", value)
    if not math.isfinite(value.value):
        return tag("td", "–")
    shown = f"{value.value:.{value.digits}f}"
    bar = None if value.share is None else f"--v:{100 * min(max(value.share, 0), 1):.1f}%"
    marks = " ".join(word for word, said in (("bar", bar), ("best", value.best)) if said) or None
    inside = tag("strong", shown) if value.best else shown
    return tag("td", inside, class_=marks, style=bar, data_value=repr(value.value))


def _ticks(low: float, high: float, log: bool = False, least: float = 0) -> list[tuple[float, str]]:
    """Some round numbers between two, and how they are written. least: between one and the next."""
    if log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        found = [10.0**k for k in range(first, last + 1)]
        if len(found) >= 2:
            return [(value, f"{value:g}") for value in found[:: max(1, len(found) // 4)]]
        return [(value, f"{value:.3g}") for value in (low, math.sqrt(low * high), high)]
    step = 10 ** math.floor(math.log10(max(high - low, 1e-12) / 4))
    step = max(step * next(k for k in (1, 2, 2.5, 5, 10) if (high - low) / (k * step) <= 5), least)
    first = math.ceil(low / step - 1e-9)
    digits = next((d for d in range(12) if abs(step * 10**d - round(step * 10**d)) < 1e-6), 12)
    form = f".{digits}f" if digits <= 4 else ".1e"
    found = [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(value, format(value, form).replace("e-0", "e-")) for value in found]


def line_chart(
    lines: Sequence[Line], *, title: str, x: str, y: str = "", log: bool = False, low: float | None = None,
    high: float | None = None, shade: Sequence[tuple[float, float]] = (),
) -> Html:
    """A figure of lines, with its legend. log: logarithmic upwards; low, high: the ends upwards; shade: stretches
    along x that are shaded. What is counted along x (iterations, frames, places) is whole."""
    thin = [line.points[:: max(1, len(line.points) // _POINTS)] for line in lines]
    xs = [a for points in thin for a, _ in points]
    ys = [b for points in thin for _, b in points if b > 0 or not log]
    if not xs or not ys:
        return Html("")
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    bottom, top = (min(ys) if low is None else low), (max(ys) if high is None else high)
    if bottom == top:
        bottom, top = (bottom / 2, top * 2) if log else (bottom - 1, top) if high == top else (bottom - 0.5, top + 0.5)

    def along(value: float) -> float:
        return round(_LEFT + (value - left) / (right - left) * (_WIDE - _LEFT - _RIGHT), 1)

    def up(value: float) -> float:
        a, b, c = (math.log10(max(z, 1e-30)) for z in (value, bottom, top)) if log else (value, bottom, top)
        return round(_HIGH - _BOTTOM - (a - b) / (c - b) * (_HIGH - _TOP - _BOTTOM), 1)

    drawn = [f'<rect class="shade" x="{along(a)}" y="{_TOP}" width="{max(0.5, along(b) - along(a)):.1f}" '
             f'height="{_HIGH - _TOP - _BOTTOM}"/>' for a, b in shade]  # fmt: skip
    for value, said in _ticks(bottom, top, log):
        drawn.append(f'<path class="grid" d="M{_LEFT} {up(value)}H{_WIDE - _RIGHT}"/>'
                     f'<text class="end" x="{_LEFT - 5}" y="{up(value) + 3.5}">{said}</text>')  # fmt: skip
    for value, said in _ticks(left, right, least=1):
        drawn.append(f'<text class="mid" x="{along(value)}" y="{_HIGH - _BOTTOM + 14}">{said}</text>')
    drawn.append(f'<text class="mid" x="{(_LEFT + _WIDE - _RIGHT) / 2}" y="{_HIGH - 5}">{esc(x)}</text>')
    for line, points in zip(lines, thin, strict=True):
        places = [(along(a), up(b)) for a, b in points if b > 0 or not log]
        path = " ".join(f"{a},{b}" for a, b in places)
        kind = f'c{line.colour % COLOURS}{" dash" if line.dashed else ""}'
        drawn.append(f'<polyline class="{kind}" points="{path}"/>')
        if line.dots or len(places) == 1:
            drawn += [f'<circle class="{kind}" cx="{a}" cy="{b}" r="2.5"/>' for a, b in places]
    alt = f"{title}: {', '.join(_said(line) for line in lines[:8])}"
    return figure(title + (f" ({y})" if y else ""), _svg(_WIDE, _HIGH, drawn, alt), legend(lines))


def _said(line: Line) -> str:
    """A line in words: where it begins and ends."""
    return f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" if len(line.points) else line.name


def legend(lines: Sequence[Line]) -> Html:
    lines = list({line.name: line for line in reversed(lines)}.values())[::-1]  # the first of each name
    if len(lines) == 1 and not lines[0].name:
        return Html("")
    marks = (tag("i", class_=f"c{line.colour % COLOURS}{' dash' if line.dashed else ''}") for line in lines)
    return tag("ul", *(tag("li", mark, line.name) for mark, line in zip(marks, lines, strict=True)), class_="legend")


def figure(title: str, *inside: object, wide: bool = False) -> Html:
    return tag("figure", tag("figcaption", title), *inside, class_="wide" if wide else None)


def _svg(wide: float, high: float, drawn: Sequence[str], alt: str, fixed: bool = False) -> Html:
    size = f' style="width:{wide:.0f}px;max-width:none"' if fixed else ""
    head = f'<svg viewBox="0 0 {wide:.0f} {high:.0f}" role="img" aria-label="{esc(alt)}"{size}>'
    return Html(f"{head}{''.join(drawn)}</svg>")


def heat_map(
    cells: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str, alt: str, high: float,
    low: float = 0, digits: int | None = 0, side: float = 34, across: str = "", down: str = "",
) -> Html:
    """cells (r, c), NaN where there is none: squares as dark as their number lies between low and high.

    digits: of the numbers in them; None writes none. side: of a square. across, down: what columns and rows are.
    """
    said = [_short(name) for name in rows]
    first = 7 + 6.3 * max([*map(len, said), 2]) + (14 if down else 0)
    tall = (12 + 5.6 * max([*map(len, map(_short, columns)), 1])) if any(columns) else 12
    tall += 14 if across else 0
    r, c = cells.shape
    drawn = []
    for i, j in zip(*np.nonzero(np.isfinite(cells)), strict=True):
        share = min(max((cells[i, j] - low) / max(high - low, 1e-12), 0), 1)
        if share < 0.004 and digits is None:
            continue
        x, y = first + j * side, tall + i * side
        drawn.append(f'<rect class="heat" x="{x:.1f}" y="{y:.1f}" width="{side:g}" height="{side:g}" '
                     f'fill-opacity="{share:.2f}"/>')  # fmt: skip
        if digits is not None:
            tone = "mid dark" if share > 0.55 else "mid"
            drawn.append(f'<text class="{tone}" x="{x + side / 2:.1f}" y="{y + side / 2 + 4:.1f}">'
                         f"{cells[i, j]:.{digits}f}</text>")  # fmt: skip
    for i, name in enumerate(said if side >= 9 else ()):
        drawn.append(f'<text class="end" x="{first - 5:.1f}" y="{tall + (i + 0.5) * side + 4:.1f}">{esc(name)}</text>')
    for j, name in enumerate(map(_short, columns) if side >= 9 else ()):
        x = first + (j + 0.5) * side + 4
        drawn.append(f'<text transform="translate({x:.1f} {tall - 5:.1f}) rotate(-90)">{esc(name)}</text>')
    if across:
        drawn.append(f'<text class="mid" x="{first + c * side / 2:.1f}" y="11">{esc(across)}</text>')
    if down:
        at = f"translate(11 {tall + r * side / 2:.1f}) rotate(-90)"
        drawn.append(f'<text class="mid" transform="{at}">{esc(down)}</text>')
    wide, deep = first + c * side + 4, tall + r * side + 4
    drawn.append(f'<rect class="frame" x="{first:.1f}" y="{tall:.1f}" width="{c * side:.1f}" height="{r * side:.1f}"/>')
    scroll = tag("div", _svg(wide, deep, drawn, alt, fixed=True), class_="scroll", tabindex="0", role="region",
                 aria_label=title)  # fmt: skip
    return figure(title, scroll, wide=wide > _WIDE)


def _short(name: object) -> str:
    text = str(name).replace("_", " ")
    return text if len(text) <= 22 else text[:21] + "…"


def scatter(
    points: np.ndarray, group: np.ndarray, names: Sequence[str], *, title: str, alt: str, few: int = 16
) -> Html:
    """points (n, 2), group (n,) in 0..len(names)-1: dots, a colour a group; names beside them of up to `few` groups."""
    low, size = points.min(0), max(float(np.ptp(points, axis=0).max()), 1e-9)
    place = 14 + (points - low + (size - np.ptp(points, axis=0)) / 2) / size * (_WIDE - 28)
    drawn, words = [], []
    for k in np.unique(group):
        own = place[group == k]
        colour = f"hsl({(k * 137.508) % 360:.0f} 62% {(45, 58, 36)[k % 3]}%)"
        dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>' for a, b in own)
        drawn.append(f'<g fill="{colour}"><title>{esc(names[k])}</title>{dots}</g>')
        a, b = np.median(own, axis=0)
        words.append(f'<text class="mid halo" x="{a:.1f}" y="{b - 4:.1f}">{esc(_short(names[k]))}</text>')
    drawn += words if len(words) <= few else []
    return figure(title, _svg(_WIDE, _WIDE, drawn, alt), wide=False)
