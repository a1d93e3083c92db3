"""OUMVLP-Pose JSON in, `<out>/<id>/<session>/<view>/<view>.pkl` float32 (t, 17 or 18, 3) = x, y, confidence out.

    python datasets/oumvlp.py --input OUMVLP-Pose/alphapose --output data/OUMVLP17/pickles              # COCO's 17
    python datasets/oumvlp.py --input OUMVLP-Pose/alphapose --output data/OUMVLP/pickles --joints 18    # as recorded

Raw layout (protocols.md section 2): `<alphapose|openpose>/<id>/<view>_<session>/<frame>_keypoint.json`, people
with 18 x (x, y, confidence) each, OpenPose order. Published results took the first of the list, who is not always the
same person; `--person track`, the default, follows one. The configs look for 17 joints in data/OUMVLP17 and, where they
say `joint_format: openpose18`, for 18 in data/OUMVLP. Odd subjects up to 10305 train, the others are tested.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bpmt_ext.data.benchmarks import OUMVLP as BENCHMARK
from bpmt_ext.data.benchmarks import OUMVLP_SESSIONS, OUMVLP_VIEWS
from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.posejson import read_json_folder
from bpmt_ext.data.posetexts import list_files
from bpmt_ext.data.rawtree import descend, entered, nothing_found
from bpmt_ext.words import Parser

TO_COCO = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)  # OpenPose's index of each COCO joint
_RAW_JOINTS = 18
_ID = re.compile(r"\d{5}")
_SEQUENCE = re.compile(f"({'|'.join(OUMVLP_VIEWS)})_({'|'.join(OUMVLP_SESSIONS)})")
_FRAME = re.compile(r"([0-9]{1,15})_keypoints?\.json")
_LAYOUT = "<id, 5 digits>/<view>_<session>/<frame>_keypoint.json"


def find_sequences(root: Path) -> tuple[list[Job], list[str]]:
    """(one job per sequence folder, what was passed over because its name does not fit)."""
    root = entered(root, "alphapose", "openpose", first=_ID)
    known = set(BENCHMARK.train + BENCHMARK.test)
    folders, ignored = descend(root, (_ID, _SEQUENCE))
    jobs = []
    for path in folders:
        view, session = path.name.split("_")
        if path.parent.name in known:
            jobs.append(Job(str(path), f"{path.parent.name}/{session}/{view}/{view}.pkl"))
        else:
            ignored.append(str(path))
    if not jobs:
        raise nothing_found(root, f"[alphapose/ or openpose/] {_LAYOUT}", ignored)
    return jobs, ignored


def read_sequence(job: Job, person: str, joints: int) -> Raw:
    """One folder of frames as (t, joints, 3) of one person; bad frames are left out and named."""
    dropped: Counter[str] = Counter()
    faults, frames = [], {}
    for path in list_files(Path(job.source)):
        match = _FRAME.fullmatch(path.name)
        reason = "not named <frame>_keypoint.json" if match is None else "frame number twice"
        if match is None or int(match[1]) in frames:
            dropped[reason] += 1
            faults.append(f"{path}: {reason}")
        else:
            frames[int(match[1])] = path
    numbers = sorted(frames)
    raw = read_json_folder([frames[number] for number in numbers], person, numbers)
    pose = raw.pose
    if len(pose) and pose.shape[1:] != (_RAW_JOINTS, 3):
        faults.append(f"{job.source}: {pose.shape[1]} joints x {pose.shape[2]} numbers")
        return Raw(np.empty((0, joints, 3)), dropped, faults, refused=f"not {_RAW_JOINTS} x (x, y, confidence)")
    if joints == len(TO_COCO):
        pose = pose[:, TO_COCO] if len(pose) else np.empty((0, joints, 3))
    return Raw(pose, dropped + raw.dropped, faults + raw.faults, raw.facts)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="oumvlp", description="OUMVLP-Pose JSON to pickles.")
    add_arguments(parser)
    parser.add_argument("--person", choices=("first", "largest", "track"), default="track",
                        help="whom to take where a frame holds several people (%(default)s); first: as published")
    parser.add_argument("--joints", type=int, choices=(17, 18), default=17,
                        help="17: COCO order, 18: as recorded (%(default)s); set data_cfg.joint_format to match")
    args = parser.parse_args(argv)

    def body() -> str:
        jobs, ignored = find_sequences(args.input)
        return convert_and_report(
            functools.partial(read_sequence, person=args.person, joints=args.joints), jobs, args, converter="oumvlp",
            options={"person": args.person, "joints": args.joints}, joints=args.joints, ignored=ignored,
            layout=_LAYOUT, benchmark=BENCHMARK,
        )  # fmt: skip

    return run_entry("oumvlp", body)


if __name__ == "__main__":
    raise SystemExit(main())
