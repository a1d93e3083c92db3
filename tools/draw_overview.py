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
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from matplotlib.path import Path as Curve

from bpmt_ext.skeletons import PART_NAMES, get_skeleton
from bpmt_ext.synthetic import FRAME_RATE, make_walkers, walk_3d

WIDTH, HEIGHT, DPI = 1600, 800, 100  # pixels; the axes count in pixels too, from the lower left corner
COLOURS = ("#4D4D4D", "#56B4E9", "#F0A830", "#0072B2", "#C44E00")  # in the order of PART_NAMES
INK, GREY, PALE, BAND = "#1A1A1A", "#595959", "#D9D9D9", "#F4F4F4"
ROWS = tuple(660 - 86 * part for part in range(5))  # middle of each part's row
TOP, BOTTOM = ROWS[0] + 36, ROWS[-1] - 36
BIG, NORMAL, SMALL = 15, 12.5, 11.5  # points
MASKED = ({2, 5}, {0, 3}, {1, 6}, {4, 5}, {0, 3})  # frames hidden in the icon, drawn part by part
CELL, PITCH, MATRIX = 58, 64, 655  # the pairs: cells, their distance across, left edge


def text(ax: Axes, x: float, y: float, words: str, size: float = NORMAL, color: str = INK, **more: object) -> None:
    ax.text(x, y, words, **{"size": size, "color": color, "ha": "center", "va": "center"} | more)


def box(ax: Axes, x: float, y: float, w: float, h: float, color: str, words: str = "", **more: object) -> None:
    """A rounded box with its middle at (x, y); white words in it."""
    shape = FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle="round,pad=0,rounding_size=7", fc=color, ec="none")
    ax.add_patch(shape)
    text(ax, x, y - 1, words, **{"color": "white", "weight": "bold"} | more)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK, **more: object) -> None:
    style = {"arrowstyle": "-|>,head_length=5,head_width=2.6", "lw": 1.6, "shrinkA": 0, "shrinkB": 0} | more
    ax.add_patch(FancyArrowPatch(start, end, color=color, **style))


def tint(color: str, share: float) -> tuple[float, ...]:
    """The colour mixed with white; share 1 is the colour itself."""
    return tuple(1 - share * (1 - int(color[i : i + 2], 16) / 255) for i in (1, 3, 5))


def header(ax: Axes, x: float, title: str, shape: str) -> None:
    text(ax, x, 773, title, BIG, weight="bold")
    text(ax, x, 745, shape, NORMAL, GREY)


def walker(ax: Axes, left: float, step: float, height: float) -> None:
    """Four phases of one stride, seen from the right and a little from the front; the far side is drawn first."""
    skeleton, people = get_skeleton("coco17"), make_walkers([3], seed=1)
    part = {joint: p for p, joints in enumerate(skeleton.parts) for joint in joints}
    joints = walk_3d(people, 0, 60, np.random.default_rng(2))  # (t, v, 3) metres: forward, left, up
    stride = FRAME_RATE / people.cadence[0]
    apart = joints[:30, 15, 0] - joints[:30, 16, 0]
    frames = (apart.argmax() + stride * np.arange(4) / 8).round().astype(int)  # left heel strike to the right one
    joints = joints[frames] - joints[frames][:, [11, 12], :].mean(1, keepdims=True) * (1, 1, 0)
    turn = np.radians(35)
    across = joints[..., 0] * np.cos(turn) - joints[..., 1] * np.sin(turn)  # right in the image
    scale = height / joints[..., 2].max()
    middle = (ROWS[0] + ROWS[-1]) / 2 - height / 2
    for i in range(len(frames)):
        xy = np.stack((left + step * i + scale * across[i], middle + scale * joints[i, :, 2]), -1)
        far = {a: joints[i, a, 1] for a in range(skeleton.num_joints)}
        for a, b in sorted(skeleton.edges, key=lambda edge: -far[edge[0]] - far[edge[1]]):
            for end, other in ((a, b), (b, a)):  # each half of a bone in the colour of its own joint
                half = np.stack((xy[end], (xy[end] + xy[other]) / 2))
                width = 2.2 if {a, b} <= {0, 1, 2, 3, 4} else 4.2
                ax.plot(*half.T, color=COLOURS[part[end]], lw=width, solid_capstyle="round", zorder=3)
        size = [9 if joint < 5 else 30 for joint in range(skeleton.num_joints)]
        colours = [COLOURS[part[joint]] for joint in range(skeleton.num_joints)]
        ax.scatter(*xy.T, s=size, c=colours, edgecolors="white", linewidths=0.8, zorder=4)
    arrow(ax, (left - 30, middle - 25), (left + 3 * step + 30, middle - 25), GREY)
    text(ax, left + 1.5 * step, middle - 43, "$t$", BIG, GREY)


def frame_cell(ax: Axes, x: float, y: float, color: str, masked: bool) -> None:
    look = {"fc": "white", "hatch": "//////", "ec": GREY, "lw": 0} if masked else {"fc": tint(color, 0.55), "lw": 0}
    ax.add_patch(Rectangle((x, y - 13), 16, 26, **look))
    ax.add_patch(Rectangle((x, y - 13), 16, 26, fill=False, ec=color, lw=1.2))


def pair_cell(ax: Axes, x: float, y: float, first: str, second: str, share: float, side: float = CELL) -> None:
    """A square cut along its diagonal into the two parts' colours; (x, y) is its middle."""
    h = side / 2
    low, high = (x - h, y - h), (x + h, y + h)
    ax.add_patch(Polygon((low, (x - h, y + h), high), fc=tint(first, share), lw=0))
    ax.add_patch(Polygon((low, (x + h, y - h), high), fc=tint(second, share), lw=0))
    ax.add_patch(Rectangle(low, side, side, fill=False, ec=INK if share == 1 else PALE, lw=1.1))


def column(part: int) -> float:
    return MATRIX + CELL / 2 + PITCH * part


def encoders(ax: Axes) -> None:
    """Parts with some frames masked, and one T1 for each."""
    for part, (y, color) in enumerate(zip(ROWS, COLOURS, strict=True)):
        bend = Curve([(322, ROWS[2]), (352, ROWS[2]), (337, y), (367, y)], [1, 4, 4, 4])
        ax.add_patch(FancyArrowPatch(path=bend, arrowstyle="-|>,head_length=5,head_width=2.6", color=color, lw=2))
        text(ax, 374, y + 28, PART_NAMES[part].replace("_", " "), NORMAL, color, weight="bold", ha="left")
        for frame in range(7):
            frame_cell(ax, 374 + 18 * frame, y, color, frame in MASKED[part])
        arrow(ax, (504, y), (526, y), color)
        box(ax, 562, y, 68, 52, color, "T1", size=BIG)


def pairs(ax: Axes) -> None:
    """Ten cells, one T2 each; below the diagonal the same pairs again, so that a row holds what a part attends to."""
    for part, (y, color) in enumerate(zip(ROWS, COLOURS, strict=True)):
        arrow(ax, (598, y), (MATRIX - 6, y), color)
        over = [(610, y), (610, y + 36), (1072, y + 36), (1072, y + 27)]  # F_p, past the pairs
        ax.add_patch(FancyArrowPatch(path=Curve(over), arrowstyle="-|>,head_length=4,head_width=2", color=color, lw=1.2))
        for other, partner in enumerate(COLOURS):
            if other == part:
                text(ax, column(part), y, "$F_p$", BIG, color)
            else:
                pair_cell(ax, column(other), y, color, partner, 1 if other > part else 0.2)
        arrow(ax, (MATRIX + 4 * PITCH + CELL + 6, y), (1024, y), color)


def fusion(ax: Axes) -> None:
    """CA_p, pooling over time, FC and BNNeck of each part, and the embedding."""
    box(ax, 1166, (TOP + BOTTOM) / 2, 44, TOP - BOTTOM, BAND)
    text(ax, 1166, (TOP + BOTTOM) / 2, "mean over real frames", NORMAL, GREY, rotation=90)
    ax.add_patch(FancyBboxPatch((1390, BOTTOM), 92, TOP - BOTTOM, boxstyle="round,pad=0,rounding_size=7", fc=BAND, lw=0))
    for y, color in zip(ROWS, COLOURS, strict=True):
        box(ax, 1066, y, 78, 52, color, "$\\mathbf{CA}_p$", size=BIG)
        arrow(ax, (1107, y), (1140, y), color)
        arrow(ax, (1190, y), (1216, y), color)
        box(ax, 1243, y, 48, 40, color, "FC")
        arrow(ax, (1269, y), (1285, y), color)
        box(ax, 1325, y, 76, 40, color, "BNNeck")
        arrow(ax, (1365, y), (1394, y), color)
        for place in range(5):
            ax.add_patch(Rectangle((1400 + 15 * place, y - 12), 13, 24, fc=tint(color, (1, 0.6, 0.8, 0.4, 0.7)[place]), lw=0))
    for y, words, below in ((ROWS[1], "retrieval", "distances"), (ROWS[3], "classes", "$k$ logits")):
        arrow(ax, (1486, y), (1510, y))
        text(ax, 1514, y + 10, words, NORMAL, weight="bold", ha="left")
        text(ax, 1514, y - 11, below, SMALL, GREY, ha="left")


def legend(ax: Axes, y: float) -> None:
    """What a hatched frame, a cell and CA_p stand for."""
    frame_cell(ax, 374, y, GREY, True)
    text(ax, 400, y, "masked frame\n(pretraining only)", SMALL, ha="left")
    x = MATRIX - 40
    pair_cell(ax, x, y, COLOURS[1], COLOURS[4], 1, 34)
    text(ax, x + 32, y, "=", BIG)
    text(ax, x + 64, y, "$F_A$\n$F_B$", BIG, linespacing=1.5)
    arrow(ax, (x + 84, y + 15), (x + 106, y + 15))
    arrow(ax, (x + 84, y - 15), (x + 106, y - 15))
    box(ax, x + 136, y, 56, 56, GREY, "CA\n$\\rightleftarrows$")
    arrow(ax, (x + 167, y), (x + 187, y))
    text(ax, x + 222, y, "$[A'; B']$", BIG)
    arrow(ax, (x + 258, y), (x + 278, y))
    box(ax, x + 306, y, 52, 56, GREY, "T2", size=BIG)
    arrow(ax, (x + 335, y), (x + 355, y))
    text(ax, x + 385, y, "$U_{A|B}$\n$U_{B|A}$", BIG, linespacing=1.5)
    text(ax, 1066, y, "$\\mathrm{CA}_p$:  query $F_p$;  keys and values: the four $U_{p|q}$", NORMAL, ha="left")


def stage(ax: Axes, y: float, left: float, right: float, title: str, words: str) -> None:
    """A bracket over what a stage holds, its name under it."""
    ax.plot([left, left, right, right], [y + 9, y, y, y + 9], color=INK, lw=1.6)
    text(ax, left, y - 16, title, NORMAL, weight="bold", ha="left")
    text(ax, left + 275, y - 16, words, NORMAL, GREY, ha="left")


def draw() -> Figure:
    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.axis("off")
    header(ax, 170, "Pose", "$(t, 17, 2)$")
    header(ax, 437, "Five parts", "$X_p\\ (t, 2J_p)$")
    header(ax, 562, "T1", "$F_p\\ (t, d)$")
    header(ax, column(2), "Ten pairs: CA and T2", "$U_{p|q}\\ (t, d)$")
    header(ax, 1066, "Fusion", "$C_p\\ (t, d)$")
    header(ax, 1166, "Pooling", "$(d)$")
    header(ax, 1295, "Part-wise head", "$(d')$")
    header(ax, 1436, "Embedding", "$(d', 5)$")
    walker(ax, 58, 78, 250)
    encoders(ax)
    pairs(ax)
    fusion(ax)
    legend(ax, 214)
    stage(ax, 142, 367, 604, "Stage 1: pretraining T1", "rebuild the masked frames of each part")
    stage(ax, 92, 367, 980, "Stage 2: pretraining T2", "rebuild the masked frames of both parts of each pair, on top of T1")
    stage(ax, 42, 20, 1582, "Stage 3: finetuning", "the whole network without masks and decoders: triplet + cross-entropy")
    return figure


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="PNG to write")
    output = parser.parse_args(arguments).output
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.part")
    figure = draw()
    FigureCanvasAgg(figure).print_png(part, metadata={"Software": None})  # no version, no date: the same bytes again
    os.replace(part, output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
