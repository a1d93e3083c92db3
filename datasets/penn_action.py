"""Penn Action's .mat in, `<out>/<class>/<clip>/<side>/<side>.pkl` float32 (t, 13, 3) = x, y, visible (1 or 0) out.

    python datasets/penn_action.py --input Penn_Action --output data/PennAction/pickles --folds 5

Raw layout (tlca.md section 5): `labels/<nnnn>.mat` with x, y, visibility (frames x 13), action, pose (the side seen),
train (1, or -1 for the test split). Coordinates are pixels of the picture, joint order penn13. Type is the number of
the clip, view the side. Split: `official`; `--folds K` divides its training clips, each class by itself.

A joint that is not visible has confidence 0. Most of them have a place all the same; the others stand in the corner of
the picture and get one by `--invisible fill`. What the set calls left is the person's right: seen from the front, it
lies left in the picture.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bpmt_ext.data import sequencelists
from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.poseactions import PENN_JOINTS, read_penn_clip, read_penn_pose
from bpmt_ext.data.rawtree import entered, nothing_found
from bpmt_ext.data.sequencelists import SequenceSplits
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import get_skeleton
from bpmt_ext.words import Parser

ACTIONS = (
    "baseball_pitch", "baseball_swing", "bench_press", "bowl", "clean_and_jerk", "golf_swing", "jump_rope",
    "jumping_jacks", "pullup", "pushup", "situp", "squat", "strum_guitar", "tennis_forehand", "tennis_serve",
)  # fmt: skip
SIDES = ("back", "front", "left", "right")
WHOLE = {"official": (1258, 1068)}
CORNER = 2.0  # pixels; (1, 1) before the pictures were scaled, no visible joint is there
_NAME = re.compile(r"(\d{4})\.mat")
_LAYOUT = "labels/<nnnn>.mat"


def find_sequences(root: Path) -> tuple[list[Job], dict[str, str], list[str]]:
    """(one job per label file, its side by "label/type/view", what was passed over); root may hold labels."""
    root = entered(root, "labels", first=_NAME)
    jobs, sides, ignored = [], {}, []
    for path in tqdm(sorted(root.iterdir()), desc="looking", unit="file", disable=None):
        match = _NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            ignored.append(str(path))
            continue
        try:
            clip = read_penn_clip(path)
        except UserError as error:  # without its class a clip has no place
            ignored.append(str(error).removesuffix("."))
            continue
        if clip.action not in ACTIONS or clip.side not in SIDES:
            ignored.append(f"{path}: action {clip.action[:40]!r} seen from {clip.side[:40]!r}")
            continue
        place = f"{clip.action}/{match[1]}/{clip.side}"
        jobs.append(Job(str(path), f"{place}/{clip.side}.pkl"))
        sides[place] = "TRAIN" if clip.train else "TEST"
    if not jobs:
        raise nothing_found(root, _LAYOUT, ignored)
    return jobs, sides, ignored


def fill_places(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poses (t, 13, 3) -> (with a place for every joint, (t, 13) bool: which had none).

    Without a place is what is not visible and in the corner. In between two frames with a place it moves evenly,
    before the first and after the last it stays there. A joint that never has one takes the place of the other side's,
    and if that has none the mean of the frame's joints; a clip without any place stays as it is.
    """
    lost = (pose[..., 2] == 0) & (pose[..., :2] <= CORNER).all(axis=2)
    frames = len(pose)
    now = np.arange(frames)[:, None]
    before = np.maximum.accumulate(np.where(lost, -1, now))
    after = np.minimum.accumulate(np.where(lost, frames, now)[::-1])[::-1]
    first, last = np.where(before < 0, after, before), np.where(after == frames, before, after)
    share = ((now - first) / np.maximum(last - first, 1)).clip(0, 1)[..., None]
    joint, first, last = np.arange(pose.shape[1]), first.clip(max=frames - 1), last.clip(min=0)
    places = (1 - share) * pose[first, joint, :2] + share * pose[last, joint, :2]
    never = lost.all(axis=0)
    if not never.all():
        mirror = np.array(get_skeleton("penn13").mirror)
        twin = never & ~never[mirror]
        places[:, twin] = places[:, mirror[twin]]
        places[:, never & ~twin] = places[:, ~never].mean(axis=1, keepdims=True)
    return np.concatenate([np.where(lost[..., None], places, pose[..., :2]), pose[..., 2:]], axis=2), lost


def read_sequence(job: Job, invisible: str) -> Raw:
    """One label file as (t, 13, 3); invisible: what becomes of the places of joints that are not visible."""
    pose = read_penn_pose(Path(job.source))
    hidden = pose[..., 2] == 0
    filled, lost = fill_places(pose)
    if invisible == "fill":
        pose = filled
    elif invisible == "zero":
        pose[hidden] = 0
    facts = {"a joint is not visible": hidden.any(axis=1), "a joint has no place": lost.any(axis=1),
             "no joint is visible": hidden.all(axis=1)}  # fmt: skip
    return Raw(pose, facts={key: int(frames.sum()) for key, frames in facts.items()})


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="penn_action", description="Penn Action label files to pickles.")
    add_arguments(parser)
    sequencelists.add_arguments(parser)
    parser.add_argument("--invisible", choices=("fill", "keep", "zero"), default="fill",
                        help="joints that are not visible: give a place to those without one, keep what the file says, "
                             "or (0, 0) for all of them, as published (%(default)s)")  # fmt: skip
    args = parser.parse_args(argv)

    def body() -> str:
        jobs, sides, ignored = find_sequences(args.input)
        splits = SequenceSplits.of(args, ACTIONS, {"official": sides.get}, WHOLE)
        splits.check(job.target for job in jobs)
        return convert_and_report(
            functools.partial(read_sequence, invisible=args.invisible), jobs, args, converter="penn_action",
            options={"invisible": args.invisible}, joints=PENN_JOINTS, ignored=ignored,
            layout=f"{_LAYOUT} of a known class and side", benchmark=splits, folds=False,
        )  # fmt: skip

    return run_entry("penn_action", body)


if __name__ == "__main__":
    raise SystemExit(main())
