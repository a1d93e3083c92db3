"""A run in, the sections of a page about its network out: attention, reconstruction, silhouettes, config and card."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bpmt_ext.engine.landmarks import COUNT, HEAD, LOWER, UPPER, to_pixels
from bpmt_ext.engine.parts import resolved_text
from bpmt_ext.engine.stages import data_skeleton
from bpmt_ext.engine.zoo import make_card
from bpmt_ext.errors import UserError
from bpmt_ext.nets.masked import BPMT_T1
from bpmt_ext.report import silhouettes as drawn
from bpmt_ext.report.animated import canvas, clips, packed
from bpmt_ext.report.clips import png_bytes, strip
from bpmt_ext.report.insight import Rebuilt, attended, rebuilt, walks
from bpmt_ext.report.markup import Cell, Html, Line, esc, figure, heat_map, join, line_chart, note, table, tag
from bpmt_ext.report.runfolder import RunFolder
from bpmt_ext.skeletons import PART_NAMES, Skeleton

_CLIPS = 8  # that the network is asked about
_PICTURES, _FRAMES = 3, 6  # sequences of silhouettes, and frames of each
_WORDS = [name.replace("_", " ") for name in PART_NAMES]


def attention(run: RunFolder) -> Html:
    """Who attends to whom: between parts, over time."""
    if isinstance(run.made, str):
        return note(f"The network is not at hand: {run.made}.")
    sequences = run.some(_CLIPS)
    if sequences is None:
        return note(f"The sequences are not at hand: {run.splits}.")
    found = attended(run.made, sequences)
    if isinstance(found, str):
        return note(f"{found}.")
    pieces = []
    if found.between is not None:
        grid = 100 * found.between
        np.fill_diagonal(grid, np.nan)
        top = float(np.nanmax(grid))
        most = np.nanargmax(grid, axis=1).tolist()
        alt = "; ".join(f"{_WORDS[p]} asks {_WORDS[q]} most, {grid[p, q]:.0f} percent" for p, q in enumerate(most))
        pieces.append(heat_map(grid, _WORDS, _WORDS, title="Between parts: percent of a part's attention", alt=alt,
                               high=top, across="asks", down="part"))  # fmt: skip
    lags = range(-(len(found.lag) // 2), len(found.lag) // 2 + 1)
    line = [(k, float(v)) for k, v in zip(lags, found.lag, strict=True) if np.isfinite(v)]
    pieces.append(line_chart([Line("", line, 0)], title="Over time: attention to frames before and after",
                             x="frames later", y="1: all frames alike", low=0, high=max(2.0, *(v for _, v in line))))
    if found.received is not None:
        rows = 100 * found.received[:, :120]
        title = f"Over time: percent of attention each part receives in {found.clip}"
        pieces.append(heat_map(rows, _WORDS, [str(k) if k % 5 == 0 else "" for k in range(rows.shape[1])], title=title,
                               alt=title, high=float(rows.max()), digits=None, side=12, across="frame"))  # fmt: skip
    moment = [(k, float(v)) for k, v in enumerate(found.moment)]
    pieces.append(line_chart([Line("", moment, 1)], title=f"Over time: attention each frame of {found.clip} receives",
                             x="frame", y="1: all frames alike", low=0, high=max(2.0, *(v for _, v in moment))))
    said = note(f"The last fusion of the network, mean over its heads, over {found.clips} sequences; the clip is the "
                "first of them.")  # fmt: skip
    return join([tag("div", *pieces, class_="grid"), said])


def reconstruction(run: RunFolder) -> Html:
    """What stage T1 makes of what is hidden from it: before, with holes, after."""
    own = [stage for _, stage in (*run.stages, ("", run))
           if stage.settings is not None and stage.settings.model_cfg.model == BPMT_T1.__name__]  # fmt: skip
    if not own:
        return note("Reconstruction is shown of BPMT's stage T1; there is none beside this run.")
    stage = own[0]
    sequences = stage.some(_CLIPS)
    if sequences is None:
        return note(f"The sequences are not at hand: {stage.splits}.")
    if isinstance(stage.made, str):
        return note(f"The network of stage T1 is not at hand: {stage.made}.")
    found = rebuilt(stage.made, sequences)
    if isinstance(found, str):
        return note(f"{found}.")
    skeleton = data_skeleton(stage.settings)
    whole = packed(found.pose, skeleton, still=True)
    holes = packed(found.pose, skeleton, still=True, hidden=found.hidden)
    after = packed(found.guess, skeleton, still=True, unit=whole[2])
    cards = []
    for clip, said in ((whole, "before"), (holes, "what the network sees"), (after, "what it makes of it")):
        picture = canvas(clip, skeleton, f"figure of {found.clip}, {said}")
        cards.append(tag("figure", picture, tag("figcaption", tag("b", said)), class_="card"))
    shares = [Cell(100 * value, share=value) for value in found.error.astype(float).tolist()]
    errors = table(["part", "error, percent"], list(zip(_WORDS, shares, strict=True)), caption="What was hidden")
    return join([
        tag("div", clips(skeleton, *cards), class_="hard"), tag("div", *_limbs(found, skeleton), class_="grid"), errors,
        note(f"{100 * found.share:.0f} % of the coordinates are hidden. The errors are mean squares "
             f"over {found.clips} sequences; 100 is no better than answering the mean."),
    ])  # fmt: skip


def _limbs(found: Rebuilt, skeleton: Skeleton) -> list[Html]:
    """The end of an arm and of a leg over time, before and after, hidden frames shaded."""
    charts = []
    for part, axis in ((1, 0), (3, 0), (3, 1)):
        joint = skeleton.parts[part][-1]
        gone = np.flatnonzero(found.hidden[:, joint])
        runs = np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1) if len(gone) else []
        lines = [Line("before", list(enumerate(found.pose[:, joint, axis].tolist())), 0),
                 Line("after", list(enumerate(found.guess[:, joint, axis].tolist())), 3, dashed=True)]  # fmt: skip
        name = f"{skeleton.joints[joint].replace('_', ' ')}, {'xyz'[axis]}"
        charts.append(line_chart(lines, title=f"{name}; shaded: hidden", x="frame",
                                 shade=[(float(r[0]), float(r[-1])) for r in runs]))  # fmt: skip
    return charts


def silhouettes(run: RunFolder) -> Html:
    """Some frames of a few sequences, and what the network found in them."""
    if isinstance(run.made, str):
        return note(f"The network is not at hand: {run.made}.")
    sequences = run.some(_PICTURES)
    if sequences is None:
        return note(f"The sequences are not at hand: {run.splits}.")
    pieces = []
    for name, frames, mask in walks(run.made, sequences):
        pieces.append(tag("h4", name))
        pieces += [image(strip(clip, _FRAMES), said) for said, clip in _found(run.made.network, frames, mask)]
    return join(pieces)


@torch.no_grad()
def _found(network: nn.Module, frames: Tensor, mask: Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """Title and clip (t, h, w, 3) of whatever a network of silhouettes (1, t, 64, 44) can show."""
    whole = frames[0].numpy()
    yield "silhouettes", drawn.silhouette_frames(whole)
    if hasattr(network, "located"):
        points = to_pixels(network.located(frames, mask)[0][0]).numpy()
        counts = (HEAD, UPPER, LOWER) if points.shape[1] == COUNT else (points.shape[1], 0, 0)
        yield "landmarks", drawn.landmark_frames(whole, points, drawn.height_groups(points, counts), scale=3)
    if hasattr(network, "parse"):
        yield ", ".join(drawn.GROUPS), drawn.part_frames(network.parse(frames, mask)[0].numpy(), scale=3)
    if hasattr(network, "reconstruct"):
        rebuilt_frames = network.reconstruct(frames, mask)[0].numpy()
        yield "before and after", drawn.reconstruction_frames(whole, rebuilt_frames, scale=2)


def image(picture: np.ndarray, said: str) -> Html:
    """A picture (h, w, 3), inside the page."""
    source = "data:image/png;base64," + base64.b64encode(png_bytes(picture)).decode("ascii")
    return figure(said, Html(f'<img src="{source}" alt="{esc(said)}">'))


def about(run: RunFolder) -> Html:
    """The run card, the config, and what could not be read."""
    pieces = [tag("ul", *(tag("li", fault) for fault in run.faults), class_="note warn")] if run.faults else []
    card = None
    if isinstance(run.trained, str):
        pieces.append(note(f"No card: {run.trained}."))
    else:
        try:
            card = make_card(run.trained, run.folder.name)
        except (UserError, ValueError) as error:
            pieces.append(note(f"No card: {error}."))
    if card is not None:
        rows = [["network", card["network"]], ["parameters", f"{card['parameters']:,}"], ["data set", card["dataset"]],
                ["iteration", card["iteration"]], ["seed", card["seed"]], ["checkpoint", card["checkpoint"]["file"]],
                ["its sha256", card["checkpoint"]["sha256"]],
                ["versions", ", ".join(f"{k} {v}" for k, v in card["versions"].items())],
                ["licence", card["licence"]]]  # fmt: skip
        pieces.append(table(["", "this run"], rows, caption="Run card"))
        pieces.append(_folded("The whole card, as JSON", json.dumps(card, indent=1, ensure_ascii=False, default=str)))
    if run.settings is not None:
        text = resolved_text(run.settings)
        # whom a page is sent to need not know who made it
        pieces.append(_folded("The whole config, as YAML", text.replace(str(Path.home()), "~")))
    elif not run.faults:
        pieces.append(note("No config.yaml: bpmt train writes it."))
    return join(pieces)


def _folded(title: str, text: str) -> Html:
    return tag("details", tag("summary", title), tag("pre", text, tabindex="0"))
