"""Kinect Gait Biometry text files in, `<out>/<person>/<walk>/kinect/<walk>.pkl` float32 (t, 20, 3) in metres out.

    python datasets/kinectgait.py --input Data --output kinect15                  # K-full of protocols.md section 9
    python datasets/kinectgait.py --input Data --output kinect2s --clip 30        # K-2s: 2 seconds of every walk

Raw layout: `Person<nnn>/<walk>.txt`, some 30 frames per second, 20 lines `Joint;x;y;z` per frame; a frame starts at
Head. Joint order: kinectgait20.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.forms import finite_frames
from bpmt_ext.data.rawtree import entered, nothing_found
from bpmt_ext.errors import UserError

NAMES = (
    "Head Shoulder-Center Shoulder-Right Shoulder-Left Elbow-Right Elbow-Left Wrist-Right Wrist-Left Hand-Right "
    "Hand-Left Spine Hip-centro Hip-Right Hip-Left Knee-Right Knee-Left Ankle-Right Ankle-Left Foot-Right Foot-Left"
).split()
_PERSON, _WALK = re.compile(r"Person\d+"), re.compile(r"Person(\d+)/(\d+)\.txt")


def find_walks(root: Path) -> tuple[list[Job], list[str]]:
    """(one job per text file, files passed over because their name does not fit); root may hold the folder Data."""
    root = entered(root, "Data", first=_PERSON)
    jobs, ignored = [], []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        match = _WALK.fullmatch(path.relative_to(root).as_posix())
        if match is None:
            ignored.append(str(path))
        else:
            person, walk = int(match[1]), int(match[2])
            jobs.append(Job(str(path), f"{person:03d}/{walk}/kinect/{walk}.pkl"))
    if not jobs:
        raise nothing_found(root, "Person<nnn>/<walk>.txt", ignored)
    return jobs, ignored


def parse_frames(text: str) -> tuple[np.ndarray, Counter[str], list[str]]:
    """(pose (t, 20, 3) float64, frames left out by reason, the same with line numbers)."""
    frames: list[list[float]] = []
    dropped: Counter[str] = Counter()
    faults: list[str] = []
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    starts = [i for i, (_, line) in enumerate(lines) if line.partition(";")[0].strip() == NAMES[0]]
    if not starts or starts[0] > 0:
        starts = [0, *starts] if lines else starts  # what stands before the first Head is a bad frame, too
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
        rows = [line.split(";") for _, line in lines[start:stop]]
        numbers = _numbers(rows)
        if isinstance(numbers, str):
            reason = "truncated last frame" if stop == len(lines) and numbers == "joints missing" else numbers
            dropped[reason] += 1
            faults.append(f"line {lines[start][0]}: {reason}")
        else:
            frames.append(numbers)
    return np.array(frames, dtype=np.float64).reshape(-1, len(NAMES), 3), dropped, faults


def _numbers(rows: list[list[str]]) -> list[float] | str:
    """The 60 numbers of one frame's lines, or why they are none."""
    names = [row[0].strip() for row in rows]
    if names != NAMES:
        return "joints missing" if names == NAMES[: len(names)] else "not the 20 joints in their order"
    if any(len(row) != 4 for row in rows):
        # A line cut in its last number cannot be told from a whole one; a missing number can.
        return "joints missing" if all(len(row) == 4 for row in rows[:-1]) else "not three numbers per joint"
    try:
        return [float(value) for row in rows for value in row[1:]]
    except ValueError:
        return "not a number"


def window_start(person: int, walk: int, frames: int, clip: int) -> int:
    """Where the window of K-2s starts among `frames` frames; protocols.md section 9."""
    return int(np.random.default_rng([7, person, walk]).integers(0, frames - clip + 1))


def read_walk(job: Job, step: int, clip: int | None, skip: frozenset[str]) -> Raw:
    """One text file as (t, 20, 3), every `step`-th frame, cut to `clip` frames if asked."""
    path = Path(job.source)
    empty = np.empty((0, len(NAMES), 3))
    if f"{path.parent.name}/{path.stem}" in skip:
        return Raw(empty, refused="named by --skip")
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return Raw(empty, refused="cannot be read as text")
    pose, dropped, faults = parse_frames(text)
    faults = [f"{path}, {fault}" for fault in faults]
    # Before the step and the window, so that these count usable frames.
    pose = finite_frames(pose, dropped, faults, job.source)[::step]
    if clip is not None:
        if len(pose) < clip:
            return Raw(pose, dropped, faults, refused=f"fewer than the {clip} frames of a window")
        person, walk = (int(number) for number in (path.parent.name.removeprefix("Person"), path.stem))
        start = window_start(person, walk, len(pose), clip)
        pose = pose[start : start + clip]
    return Raw(pose, dropped, faults)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="kinectgait", description="Kinect Gait Biometry text files to pickles.")
    add_arguments(parser)
    parser.add_argument("--step", type=int, default=2, help="keep frames 0, STEP, 2 STEP, ... (%(default)s)")
    parser.add_argument("--clip", type=int, help="cut every walk to so many frames (30: the 2 seconds of K-2s)")
    parser.add_argument("--skip", nargs="*", metavar="WALK", help="walks to leave out (Person064/5, a duplicate)")
    args = parser.parse_args(argv)

    def body() -> str:
        if args.step < 1 or (args.clip is not None and args.clip < 1):
            raise UserError(f"--step {args.step} and --clip {args.clip} must be at least 1.")
        skip = frozenset(["Person064/5"] if args.skip is None else args.skip)
        jobs, ignored = find_walks(args.input)
        known = {"/".join(Path(job.source).with_suffix("").parts[-2:]) for job in jobs}
        if args.skip and not skip <= known:
            raise UserError(f"--skip names {min(skip - known)}, which is not among the {len(jobs)} walks.")
        return convert_and_report(
            functools.partial(read_walk, step=args.step, clip=args.clip, skip=skip), jobs, args, converter="kinectgait",
            options={"step": args.step, "clip": args.clip, "skip": sorted(skip)}, joints=len(NAMES), ignored=ignored,
            layout="Person<nnn>/<walk>.txt",
        )  # fmt: skip

    return run_entry("kinectgait", body)


if __name__ == "__main__":
    raise SystemExit(main())
