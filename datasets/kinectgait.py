"""Kinect Gait Biometry text files in, `<out>/<person>/<walk>/kinect/<walk>.pkl` float32 (t, 20, 3) in metres out.

    python datasets/kinectgait.py --input Data --output K15 --folds 5             # K-full of protocols.md section 9
    python datasets/kinectgait.py --input Data --output K2S --clip 30             # K-2s: 2 seconds of every walk
    python datasets/kinectgait.py --input Data --output K2D --project --folds 5   # K-2D; with --clip 30 its windows
    python datasets/kinectgait.py --input Data --output KM/fold0 --clip 30 --equal-limbs K15/folds/fold0.json

`--project`: what four cameras see, `<out>/<person>/<walk>/<azimuth>/<walk>.pkl`, COCO-17 in pixels with confidence
(bpmt_ext/data/projection.py); a window shows what the whole walk shows at that time. The last line: K-motion, which has
a folder for every fold, as its limbs are those of the training persons.

Raw layout: `Person<nnn>/<walk>.txt`, some 30 frames per second, 20 lines `Joint;x;y;z` per frame; a frame starts at
Head. Joint order: kinectgait20.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.forms import finite_frames
from bpmt_ext.data.projection import VIEWS, bone_lengths, equal_limbs, project
from bpmt_ext.data.rawtree import entered, nothing_found
from bpmt_ext.data.sequences import read_partition
from bpmt_ext.errors import UserError
from bpmt_ext.words import Parser

NAMES = (
    "Head Shoulder-Center Shoulder-Right Shoulder-Left Elbow-Right Elbow-Left Wrist-Right Wrist-Left Hand-Right "
    "Hand-Left Spine Hip-centro Hip-Right Hip-Left Knee-Right Knee-Left Ankle-Right Ankle-Left Foot-Right Foot-Left"
).split()
_PERSON, _WALK = re.compile(r"Person\d+"), re.compile(r"Person(\d+)/(\d+)\.txt")


def find_walks(root: Path, views: Sequence[str] = ("kinect",)) -> tuple[list[Job], list[str]]:
    """(a job per text file and view, files passed over because their name does not fit); root may hold the folder
    Data."""
    root = entered(root, "Data", first=_PERSON)
    jobs, ignored = [], []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        match = _WALK.fullmatch(path.relative_to(root).as_posix())
        if match is None:
            ignored.append(str(path))
        else:
            person, walk = int(match[1]), int(match[2])
            jobs += [Job(str(path), f"{person:03d}/{walk}/{view}/{walk}.pkl") for view in views]
    if not jobs:
        raise nothing_found(root, "Person<nnn>/<walk>.txt", ignored)
    return jobs, ignored


def parse_frames(text: str) -> tuple[np.ndarray, Counter[str], list[str]]:
    """(pose (t, 20, 3) float64, frames left out by reason, the same with line numbers)."""
    frames: list[list[float]] = []
    dropped: Counter[str] = Counter()
    faults: list[str] = []
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        return np.empty((0, len(NAMES), 3)), Counter({"empty file": 1}), ["empty file"]
    starts = [i for i, (_, line) in enumerate(lines) if line.partition(";")[0].strip() == NAMES[0]]
    if not starts or starts[0] > 0:
        starts = [0, *starts]  # what stands before the first Head is a bad frame, too
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


def read_walk(
    job: Job, step: int, clip: int | None, skip: frozenset[str], lengths: Sequence[float] | None = None
) -> Raw:
    """One text file, every `step`-th frame, as (t, 20, 3) or, for a job of one of the `VIEWS`, (t, 17, 3); limbs set to
    `lengths`, cut to `clip` frames, each if asked."""
    path = Path(job.source)
    empty = np.empty((0, len(NAMES), 3))
    if f"{path.parent.name}/{path.stem}" in skip:
        return Raw(empty, refused="named by --skip")
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return Raw(empty, refused="cannot be read as text")
    person, walk = (int(number) for number in (path.parent.name.removeprefix("Person"), path.stem))
    pose, dropped, faults = parse_frames(text)
    faults = [f"{path}, {fault}" for fault in faults]
    # Before the step and the window, so that these count usable frames.
    pose = finite_frames(pose, dropped, faults, job.source)[::step]
    if lengths is not None:
        pose = equal_limbs(pose, np.array(lengths))
    view = job.target.split("/")[2]
    if view in VIEWS:
        pose = project(pose, person, walk, VIEWS.index(view))
    if clip is not None:
        if len(pose) < clip:
            return Raw(pose, dropped, faults, refused=f"fewer than the {clip} frames of a window")
        start = window_start(person, walk, len(pose), clip)
        pose = pose[start : start + clip]
    return Raw(pose, dropped, faults)


def limb_lengths(partition: Path, jobs: Sequence[Job], step: int, skip: frozenset[str]) -> list[float]:
    """The 20 bone lengths of K-motion, in metres: the median over the persons that the partition trains on of the
    median over their walks of the median over a walk's frames. UserError if one of them has no walk."""
    found: dict[str, list[np.ndarray]] = {label: [] for label in read_partition(partition).train}
    for job in jobs:
        label = job.target.split("/", 1)[0]
        if label in found:
            pose = read_walk(job, step, None, skip).pose
            found[label] += [bone_lengths(pose)] if len(pose) else []
    absent = [label for label, walks in found.items() if not walks]
    if absent:
        raise UserError(f"--equal-limbs {partition}: trains on {absent[0]}, who has no walk below --input; give the "
                        "partition of these data, e.g. a fold that --folds wrote.")  # fmt: skip
    return np.median([np.median(walks, axis=0) for walks in found.values()], axis=0).tolist()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="kinectgait", description="Kinect Gait Biometry text files to pickles.")
    add_arguments(parser)
    parser.add_argument("--step", type=int, default=2, help="keep frames 0, STEP, 2 STEP, ... (%(default)s)")
    parser.add_argument("--clip", type=int, help="cut every walk to so many frames (30: the 2 seconds of K-2s)")
    parser.add_argument("--skip", nargs="*", metavar="WALK", help="walks to leave out (Person064/5, a duplicate)")
    parser.add_argument("--project", action="store_true", help="write what four cameras see, COCO-17 (K-2D)")
    parser.add_argument("--equal-limbs", type=Path, metavar="FOLD.json",
                        help="give everybody the median limbs of its training persons (K-motion)")  # fmt: skip
    args = parser.parse_args(argv)

    def body() -> str:
        if args.step < 1 or (args.clip is not None and args.clip < 1):
            raise UserError(f"--step {args.step} and --clip {args.clip} must be at least 1.")
        skip = frozenset(["Person064/5"] if args.skip is None else args.skip)
        walks, ignored = find_walks(args.input)
        known = {"/".join(Path(job.source).with_suffix("").parts[-2:]) for job in walks}
        if args.skip and not skip <= known:
            raise UserError(f"--skip names {min(skip - known)}, which is not among the {len(walks)} walks.")
        options: dict[str, object] = {"step": args.step, "clip": args.clip, "skip": sorted(skip)}
        jobs, joints, lengths = walks, len(NAMES), None
        if args.equal_limbs:
            if not args.equal_limbs.is_file():
                raise UserError(f"--equal-limbs {args.equal_limbs}: there is no such file; let --folds K write it.")
            options["limbs"] = lengths = limb_lengths(args.equal_limbs, walks, args.step, skip)
        if args.project:
            options["project"] = VIEWS
            jobs, joints = find_walks(args.input, VIEWS)[0], 17
        return convert_and_report(
            functools.partial(read_walk, step=args.step, clip=args.clip, skip=skip, lengths=lengths), jobs, args,
            converter="kinectgait", options=options, joints=joints, ignored=ignored, layout="Person<nnn>/<walk>.txt",
        )  # fmt: skip

    return run_entry("kinectgait", body)


if __name__ == "__main__":
    raise SystemExit(main())
