"""A file name in, the picture of BPMT out: the path from pose to embedding and the three training stages, as a PNG.

    python tools/draw_overview.py docs/overview.png

Left to right as in bpmt.md, sections 1 to 4. The walker is made up (`bpmt_ext.synthetic`). Colours told apart by
colour-blind readers, after Okabe and Ito, "Color universal design" (2008): left cold, right warm, arms light.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from matplotlib.path import Path as Curve

from bpmt_ext.skeletons import PART_NAMES, get_skeleton
from bpmt_ext.synthetic import FRAME_RATE, make_walkers, walk_3d

WIDTH, HEIGHT, DPI = 1600, 800, 100  # pixels; the axes count in pixels too, from the lower left corner
COLOURS = ("#4D4D4D", "#56B4E9", "#F0A830", "#0072B2", "#C44E00")  # in the order of PART_NAMES
LIGHT = COLOURS[1:3]  # these carry dark words
INK, GREY, PALE, BAND = "#1A1A1A", "#595959", "#D0D0D0", "#F1F1F1"
ROWS = tuple(660 - 86 * part for part in range(5))  # middle of each part's row
MIDDLE, TALL = ROWS[2], ROWS[0] - ROWS[4] + 72
BIG, NORMAL, SMALL = 15, 12.5, 11.5  # points
MASKED = ({2, 5}, {0, 3}, {1, 6}, {4, 5}, {0, 3})  # frames hidden in the icon, drawn part by part
CELL, PITCH, MATRIX = 58, 64, 655  # the pairs: cells, their distance across, left edge
HEADERS = (
    (165, "Pose", "$(t, 17, 2)$"), (437, "Five parts", "$X_p\\ (t, 2J_p)$"), (562, "T1", "$F_p\\ (t, d)$"),
    (812, "Ten pairs: cross-attention and T2", "$U_{p|q}\\ (t, d)$"), (1056, "Fusion", "$C_p\\ (t, d)$"),
    (1150, "Pooling", "$(d)$"), (1271, "Head", "part-wise $(d')$"), (1421, "Embedding", "$(d', 5)$"),
)  # fmt: skip
STAGES = (  # height, left and right end of the bracket
    (142, 367, 604, "Stage 1: pretraining T1", "rebuild the masked frames of each part"),
    (92, 367, 980, "Stage 2: pretraining T2", "rebuild the masked frames of both parts of each pair; T1 frozen"),
    (42, 20, 1582, "Stage 3: finetuning", "all of it, T1 and T2 pretrained, nothing masked: triplet + cross-entropy"),
)


def text(ax: Axes, x: float, y: float, words: str, size: float = NORMAL, color: str = INK, **more: object) -> None:
    ax.text(x, y, words, **{"size": size, "color": color, "ha": "center", "va": "center"} | more)


def box(ax: Axes, x: float, y: float, w: float, h: float, color: str, words: str = "", size: float = NORMAL) -> None:
    """A rounded box with its middle at (x, y) and bold words in it."""
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, "round,pad=0,rounding_size=7", fc=color, lw=0))
    text(ax, x, y - 1, words, size, INK if color in LIGHT else "white", weight="bold")


def arrow(ax: Axes, *points: tuple[float, float], color: str = INK, lw: float = 1.6, curved: bool = False) -> None:
    """A line through the points with a head at its end; `curved`: a Bezier curve with the inner two as its handles."""
    path = Curve(points, [Curve.MOVETO, *[Curve.CURVE4 if curved else Curve.LINETO] * (len(points) - 1)])
    ax.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>,head_length=5,head_width=2.6", color=color, lw=lw))


def tint(color: str, share: float) -> tuple[float, ...]:
    """The colour mixed with white; share 1 is the colour itself."""
    return tuple(1 - share * (1 - int(color[i : i + 2], 16) / 255) for i in (1, 3, 5))


def walker(ax: Axes, left: float, step: float, height: float) -> None:
    """From heel strike to heel strike in four phases, seen from the walker's right, a little from the front."""
    skeleton, people = get_skeleton("coco17"), make_walkers([3], seed=1)
    part = {joint: p for p, joints in enumerate(skeleton.parts) for joint in joints}
    own = [COLOURS[part[joint]] for joint in range(skeleton.num_joints)]
    joints = walk_3d(people, 0, 60, np.random.default_rng(2))  # (t, v, 3) metres: forward, left, up
    ahead = joints[:30, 15, 0] - joints[:30, 16, 0]  # of the left ankle
    frames = (ahead.argmax() + FRAME_RATE / people.cadence[0] * np.arange(4) / 6).round().astype(int)
    joints = joints[frames] - joints[frames][:, skeleton.hip].mean(1, keepdims=True) * (1, 1, 0)
    across = joints[..., :2] @ (np.cos(np.radians(48)), -np.sin(np.radians(48)))
    scale, floor = height / joints[..., 2].max(), MIDDLE - height / 2
    for i, pose in enumerate(joints):
        xy = np.stack((left + step * i + scale * across[i], floor + scale * pose[:, 2]), -1)
        ax.add_patch(Circle(xy[list(skeleton.head)].mean(0), 0.12 * scale, fc=tint(COLOURS[0], 0.3), lw=0))
        for a, b in sorted(skeleton.edges, key=lambda edge: -pose[list(edge), 1].sum()):  # the far side first
            for end, other in ((a, b), (b, a)):  # each half of a bone in the colour of its own joint
                half = np.stack((xy[end], (xy[end] + xy[other]) / 2))
                ax.plot(*half.T, color=own[end], lw=4.2 if max(a, b) > 4 else 2.2, solid_capstyle="round")
        ax.scatter(*xy[5:].T, s=30, c=own[5:], edgecolors="white", linewidths=0.8, zorder=4)
    arrow(ax, (left - 30, floor - 28), (left + 3 * step + 30, floor - 28), color=GREY)
    text(ax, left + 1.5 * step, floor - 46, "$t$", BIG, GREY)


def frame_cell(ax: Axes, x: float, y: float, color: str, masked: bool) -> None:
    look = {"fc": "white", "hatch": "//////", "ec": GREY} if masked else {"fc": tint(color, 0.55)}
    ax.add_patch(Rectangle((x, y - 13), 16, 26, lw=0, **look))
    ax.add_patch(Rectangle((x, y - 13), 16, 26, fill=False, ec=color, lw=1.2))


def pair_cell(ax: Axes, x: float, y: float, first: str, second: str, share: float, side: float = CELL) -> None:
    """A square with its middle at (x, y), cut along its diagonal into the two parts' colours."""
    h = side / 2
    low, high = (x - h, y - h), (x + h, y + h)
    ax.add_patch(Polygon((low, (x - h, y + h), high), fc=tint(first, share), lw=0))
    ax.add_patch(Polygon((low, (x + h, y - h), high), fc=tint(second, share), lw=0))
    ax.add_patch(Rectangle(low, side, side, fill=False, ec=INK if share == 1 else PALE, lw=1.1))


def encoders(ax: Axes, part: int, y: float, color: str) -> None:
    """A part with some of its frames masked, and its T1."""
    arrow(ax, (331, MIDDLE), (356, MIDDLE), (340, y), (369, y), color=color, lw=2, curved=True)
    text(ax, 374, y + 28, PART_NAMES[part].replace("_", " "), weight="bold", ha="left")
    for frame in range(7):
        frame_cell(ax, 374 + 18 * frame, y, color, frame in MASKED[part])
    arrow(ax, (502, y), (528, y), color=color)
    box(ax, 562, y, 68, 52, color, "T1", BIG)


def pairs(ax: Axes, part: int, y: float, color: str) -> None:
    """A row of pairs; below the diagonal the ten again, so that a row holds all that a part attends to."""
    arrow(ax, (598, y), (MATRIX - 6, y), color=color)
    arrow(ax, (612, y), (612, y + 36), (1056, y + 36), (1056, y + 25), color=color, lw=1.3)  # F_p passes by
    for other, partner in enumerate(COLOURS):
        x = MATRIX + CELL / 2 + PITCH * other
        if other == part:
            text(ax, x, y, "$F_p$", BIG, GREY)
        else:
            pair_cell(ax, x, y, color, partner, 1 if other > part else 0.22)
    arrow(ax, (MATRIX + 4 * PITCH + CELL + 6, y), (1016, y), color=color)


def fusion(ax: Axes, part: int, y: float, color: str) -> None:
    """CA_p, FC, BNNeck and embedding of a part."""
    box(ax, 1056, y, 78, 52, color, "$\\mathbf{CA}_p$", BIG)
    box(ax, 1221, y, 44, 40, color, "FC")
    box(ax, 1307, y, 84, 40, color, "BNNeck")
    for start, end in ((1097, 1127), (1173, 1198), (1244, 1264), (1350, 1382)):
        arrow(ax, (start, y), (end, y), color=color)
    for place, share in enumerate((1, 0.6, 0.8, 0.4, 0.7)):
        ax.add_patch(Rectangle((1385 + 15 * place, y - 12), 13, 24, fc=tint(color, share), lw=0))


def legend(ax: Axes, y: float) -> None:
    """What a hatched frame, a cell and CA_p stand for."""
    frame_cell(ax, 374, y, GREY, True)
    text(ax, 400, y, "masked frame\n(pretraining only)", SMALL, ha="left")
    x = MATRIX - 53
    pair_cell(ax, x, y, COLOURS[1], COLOURS[4], 1, 34)
    text(ax, x + 33, y, "=", BIG)
    text(ax, x + 64, y, "$F_A$\n$F_B$", BIG, linespacing=1.5)
    box(ax, x + 138, y, 56, 56, GREY, "CA\n$\\rightleftarrows$")
    text(ax, x + 228, y, "$[A'; B']$", BIG)
    box(ax, x + 318, y, 52, 56, GREY, "T2", BIG)
    text(ax, x + 400, y, "$U_{A|B}$\n$U_{B|A}$", BIG, linespacing=1.5)
    for start, end, up in ((84, 108, 15), (84, 108, -15), (168, 190, 0), (266, 290, 0), (346, 370, 0)):
        arrow(ax, (x + start, y + up), (x + end, y + up))
    words = "$\\mathrm{CA}_p$: query $F_p$; keys and values are the four $U_{p|q}$ of its row\n"
    words += "Pale cells: the same ten pairs, seen from their second part"
    text(ax, 1072, y, words, ha="left", linespacing=1.6)


def draw() -> Figure:
    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.axis("off")
    for x, title, shape in HEADERS:
        text(ax, x, 773, title, 13.5, weight="bold")
        text(ax, x, 746, shape, NORMAL, GREY)
    walker(ax, 52, 76, 196)
    box(ax, 1150, MIDDLE, 42, TALL, BAND)
    text(ax, 1150, MIDDLE, "over the real frames", NORMAL, GREY, rotation=90)
    box(ax, 1421, MIDDLE, 90, TALL, BAND)
    for part, (y, color) in enumerate(zip(ROWS, COLOURS, strict=True)):
        for column in (encoders, pairs, fusion):
            column(ax, part, y, color)
    for y, use, of in ((MIDDLE + 43, "retrieval", "distances"), (MIDDLE - 43, "classes", "logits $(k, 5)$")):
        arrow(ax, (1467, y), (1491, y))
        text(ax, 1496, y + 10, use, weight="bold", ha="left")
        text(ax, 1496, y - 12, of, SMALL, GREY, ha="left")
    legend(ax, 214)
    for y, left, right, title, words in STAGES:
        ax.plot((left, left, right, right), (y + 9, y, y, y + 9), color=INK, lw=1.6)
        text(ax, left + 4, y - 17, title, weight="bold", ha="left")
        text(ax, max(left + 245, 222), y - 17, words, NORMAL, GREY, ha="left")
    return figure


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="PNG to write")
    output = parser.parse_args(arguments).output
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.part")
    FigureCanvasAgg(draw()).print_png(unfinished, metadata={"Software": None})  # no version: the same bytes again
    os.replace(unfinished, output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
