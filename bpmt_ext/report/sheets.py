"""Pose or silhouette files and how they are to be seen in; one picture or animated clip file out: `bpmt draw`.

A PNG shows some frames of every file, evenly spread, a GIF or MP4 all of them. Nothing here needs a network.
Shapes: t frames, v joints, c numbers per joint, h rows, w columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bpmt_ext.data.pickles import read_pickle, read_silhouettes
from bpmt_ext.data.posefiles import read_pose_file
from bpmt_ext.errors import UserError
from bpmt_ext.report.activation import spread_frames
from bpmt_ext.report.clips import (
    captioned,
    check_kind,
    fitting,
    joined,
    strip,
    told_apart,
    write_clip,
    write_png,
)
from bpmt_ext.report.drawings import legend, views_of
from bpmt_ext.report.silhouettes import silhouette_frames
from bpmt_ext.skeletons import Skeleton, get_skeleton, of_bodies

MOST = 1500  # frames of a clip
MOST_PIXELS = 20_000  # of a side of a picture: what shows pictures often fails beyond
MOST_IN_ALL = 1 << 29  # pixels of all frames of a clip: 1.5 GB
_NARROWEST = 220  # pixels: titles and names need room


@dataclass(frozen=True)
class Look:
    """How it is to be seen. frames: which of every file; count: of a PNG; follow: None lets the clip decide."""

    out: Path
    frames: slice = field(default_factory=lambda: slice(None))
    fps: float = 25.0
    count: int = 8
    height: int = 200
    view: str | None = None
    trail: int = 0
    follow: bool | None = None
    side_by_side: bool = False

    @property
    def moving(self) -> bool:
        return self.out.suffix.lower() != ".png"

    def numbers(self, frames: int, name: Path | str) -> np.ndarray:
        """Which of a file's frames are shown. UserError for none, or for too many of a clip."""
        chosen = np.arange(frames)[self.frames]
        if not len(chosen):
            raise UserError(f"{name}: --frames leaves none of its {frames} frames; give START:STOP:STEP within them")
        if self.moving and len(chosen) > MOST:
            raise UserError(f"{name}: {len(chosen)} frames are too many for a clip of at most {MOST}; choose some with "
                            "--frames START:STOP:STEP")  # fmt: skip
        return chosen

    def check_size(self, files: int, frames: int = 1) -> None:
        """UserError if so many files, drawn with so many frames, make a picture beyond any sensible size."""
        side = files * self.height  # a figure is about as wide as it is high, or half of it
        if side > MOST_PIXELS:
            raise UserError(f"-o {self.out}: {files} files with figures {self.height} pixels high make a picture of "
                            f"more than {MOST_PIXELS} pixels; name {MOST_PIXELS // self.height} at most, or give a "
                            "smaller --height")  # fmt: skip
        if self.moving and side * self.height * frames > MOST_IN_ALL:
            raise UserError(f"-o {self.out}: {files} files of up to {frames} frames, {self.height} pixels high, make a "
                            f"clip of more than {MOST_IN_ALL >> 20} million pixels; name fewer files, or give --frames "
                            "or a smaller --height")  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One file: its title, the numbers (t,) of its frames, and what draws them, or those chosen among them, as one
    clip for each view."""

    title: str
    numbers: np.ndarray
    draw: Callable[[Sequence[int] | None], list[np.ndarray]]


def pose_panel(title: str, pose: np.ndarray, skeleton: Skeleton, look: Look) -> Panel:
    """A pose sequence (t, v, c). In a PNG the figure stays in the middle unless the user wants it otherwise."""
    numbers = look.numbers(len(pose), title)
    follow = True if look.follow is None and not look.moving else look.follow

    def draw(chosen: Sequence[int] | None) -> list[np.ndarray]:
        return views_of(pose[numbers], skeleton, look.view, height=look.height, follow=follow, trail=look.trail,
                        chosen=chosen)  # fmt: skip

    return Panel(title, numbers, draw)


def picture_panel(title: str, numbers: np.ndarray, *clips: np.ndarray) -> Panel:
    """Frames (t, h, w, 3) that are drawn already."""
    return Panel(title, numbers, lambda chosen: [clip if chosen is None else clip[list(chosen)] for clip in clips])


def silhouette_panel(title: str, frames: np.ndarray, look: Look) -> Panel:
    """Silhouettes (t, h, w) uint8."""
    numbers = look.numbers(len(frames), title)
    scale = max(1, look.height // frames.shape[1])
    return picture_panel(title, numbers, silhouette_frames(frames[numbers], scale=scale, ink=(60, 60, 60)))


def draw_files(paths: Sequence[Path], look: Look, *, joint_format: str | None = None, bodies: int = 1,
               sequence: str | None = None) -> int:  # fmt: skip
    """Draw what stands in these files as it stands there; 0 when done. joint_format, sequence: see `read_pose_file`."""
    check_kind(look.out)
    if bodies > 1 and joint_format is None:
        raise UserError("--bodies needs --format, the joint format of one of them")
    skeleton = of_bodies(get_skeleton(joint_format), bodies) if joint_format else None
    look.check_size(len(paths))
    panels, figures = [], False
    for path in paths:
        frames = None if joint_format else _silhouettes(path)
        if frames is not None:
            panels.append(silhouette_panel(str(path), frames, look))
            continue
        try:
            found = read_pose_file(path, joint_format=skeleton, sequence=sequence)
        except UserError as error:
            raise UserError(_with_options(str(error))) from error
        panels.append(pose_panel(str(path), found.pose, skeleton or get_skeleton(found.joint_format), look))
        figures = True
    write_panels(look, panels, legend if figures else None)
    return 0


def _with_options(sentence: str) -> str:
    """A sentence that asks for a name, with the option that takes it."""
    asks = sentence.endswith(("name the one to read.", "name one of them."))
    return f"{sentence[:-1]} with --sequence" if asks else sentence


def _silhouettes(path: Path) -> np.ndarray | None:
    """The silhouettes of a pickle; None for a file that holds something else."""
    if path.suffix.lower() != ".pkl" or not path.is_file():
        return None
    value = read_pickle(path)
    pictures = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3
    return read_silhouettes(path) if pictures else None


def write_panels(look: Look, panels: Sequence[Panel], foot: Callable[[int], np.ndarray] | None = None) -> None:
    """Draw all panels into the file, each under its title. foot: width -> a picture (h, w, 3) below everything.

    side_by_side: beside each other at the same moments, else one below the other.
    """
    look.check_size(len(panels), max((len(panel.numbers) for panel in panels), default=1))
    if look.moving:
        axis = "beside" if look.side_by_side else "below"
        write_pictures(look, [(panel.title, joined(panel.draw(None))) for panel in panels], foot, axis)
        return
    if not look.side_by_side:
        rows = []
        for panel in panels:
            chosen = spread_frames(len(panel.numbers), look.count)
            strips = [strip(clip, len(chosen), numbers=panel.numbers[chosen]) for clip in panel.draw(chosen)]
            rows.append((panel.title, joined([each[None] for each in strips], axis="below")))
        write_pictures(look, rows, foot)
        return
    longest = max(panels, key=lambda panel: len(panel.numbers)).numbers
    chosen = spread_frames(len(longest), look.count)
    clips = [joined(panel.draw(np.minimum(chosen, len(panel.numbers) - 1).tolist())) for panel in panels]
    together = strip(joined(clips), len(chosen), numbers=longest[chosen], gap=24)[None]
    together = _widened(together, _NARROWEST)
    forms = [[" | ".join(form)] for form in told_apart([panel.title for panel in panels])]
    write_pictures(look, [(fitting(forms, [together.shape[2]])[0], together)], foot)


def write_pictures(look: Look, titled: Sequence[tuple[str, np.ndarray]],
                   foot: Callable[[int], np.ndarray] | None = None, axis: str = "below") -> None:  # fmt: skip
    """Write frames (t, h, w, 3) with their titles: the first frame as a PNG, all as a clip."""
    least = _NARROWEST if axis == "below" else _NARROWEST // 2
    clips = [_widened(frames, least) for _, frames in titled]
    titles = fitting(told_apart([title for title, _ in titled]), [clip.shape[2] for clip in clips])
    whole = joined([captioned(clip, title) for clip, title in zip(clips, titles, strict=True)], axis=axis, gap=10)
    if foot is not None:
        whole = joined([whole, foot(whole.shape[2])[None]], axis="below")
    if look.moving:
        write_clip(look.out, whole, look.fps)
    else:
        write_png(look.out, whole[0])


def _widened(frames: np.ndarray, least: int) -> np.ndarray:
    """The clip (t, h, w, 3) with white at both sides where it is narrower than that."""
    free = max(least - frames.shape[2], 0)
    return np.pad(frames, ((0, 0), (0, 0), (free // 2, free - free // 2), (0, 0)), constant_values=255)
