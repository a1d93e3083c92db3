"""Gait3D's 2D_Poses in, `<out>/<id>/<camid_videoid>/<seq>/<seq>.pkl` float32 (t, 17, 3) = x, y, confidence out.

    python datasets/gait3d.py --input 2D_Poses --output gait3d_pkl --partition Gait3D.json

Raw layout (protocols.md section 2): `<id>/camid<c>_videoid<v>/seq<k>/human_crop_f<frame>.txt`, one line each: the width
and height of the crop, then 17 x (x, y, confidence) in pixels of the crop, COCO order. Frames are put in the order of
their numbers; `--frame-sort lexical` sorts the names as text, as published runs did: f9 comes after f10.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry, written_labels
from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.errors import UserError

JOINTS = 17
_FIELDS = 2 + 3 * JOINTS
_LEVELS = (re.compile(r"\d+"), re.compile(r"camid\d+_videoid\d+"), re.compile(r"seq\d+"))
_FRAME = re.compile(r"human_crop_f(\d+)\.txt")
_LAYOUT = "<id>/camid<c>_videoid<v>/seq<k>/human_crop_f<frame>.txt"


def find_sequences(root: Path) -> tuple[list[Job], list[str]]:
    """(one job per sequence folder, what was passed over because its name does not fit); root may hold 2D_Poses."""
    if not root.is_dir():
        raise UserError(f"{root}: is no folder; give --input the unpacked 2D_Poses.")
    if (root / "2D_Poses").is_dir():
        root = root / "2D_Poses"
    level, ignored = [root], []
    for pattern in _LEVELS:
        entries = sorted(entry for folder in level for entry in folder.iterdir())
        level = [entry for entry in entries if pattern.fullmatch(entry.name) and entry.is_dir()]
        ignored += [str(entry) for entry in set(entries) - set(level)]
    if not level:
        raise UserError(f"{root}: no sequence found; expected {_LAYOUT} below it.")
    jobs = [Job(str(path), f"{path.relative_to(root).as_posix()}/{path.name}.pkl") for path in level]
    return jobs, sorted(ignored)


def parse_frame(text: str) -> list[float] | str:
    """The 51 numbers of one frame file, or why it has none."""
    words = text.strip().split(",")
    if words == [""]:
        return "empty file"
    if len(words) != _FIELDS:
        return f"not {_FIELDS} numbers"
    try:
        return [float(word) for word in words[2:]]
    except ValueError:
        return "not a number"


def read_sequence(job: Job, frame_sort: str) -> Raw:
    """One sequence folder as (t, 17, 3); bad frame files are left out and named."""
    dropped: Counter[str] = Counter()
    faults: list[str] = []
    frames: dict[int, tuple[str, list[float]]] = {}
    for path in sorted(Path(job.source).iterdir()):
        match = _FRAME.fullmatch(path.name)
        if match is None:
            parsed: list[float] | str = "not named human_crop_f<frame>.txt"
        elif int(match[1]) in frames:
            parsed = "frame number twice"
        else:
            try:
                parsed = parse_frame(path.read_text(encoding="ascii"))
            except (OSError, UnicodeDecodeError):
                parsed = "cannot be read as text"
        if isinstance(parsed, str):
            dropped[parsed] += 1
            faults.append(f"{path}: {parsed}")
        else:
            frames[int(match[1])] = (path.name, parsed)
    numeric = sorted(frames)
    lexical = sorted(frames, key=lambda number: frames[number][0])
    order = numeric if frame_sort == "numeric" else lexical
    pose = np.array([frames[number][1] for number in order], dtype=np.float64).reshape(-1, JOINTS, 3)
    facts = {
        "misordered if sorted as text": sum(a != b for a, b in zip(numeric, lexical, strict=True)),
        "gaps in the frame numbers": numeric[-1] - numeric[0] + 1 - len(numeric) if numeric else 0,
    }
    return Raw(pose, dropped, faults, facts)


def read_partition(path: Path) -> tuple[bytes, dict[str, list[str]]]:
    """The benchmark's own partition file, as bytes and checked: TRAIN_SET, TEST_SET, PROBE_SET."""
    try:
        data = path.read_bytes()
        lists = json.loads(data)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no partition file ({error}); take datasets/Gait3D/Gait3D.json of a FastPoseGait or "
                        "OpenGait checkout.") from error  # fmt: skip
    for key in ("TRAIN_SET", "TEST_SET", "PROBE_SET"):
        entries = lists.get(key) if isinstance(lists, dict) else None
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
            raise UserError(f"{path}: {key} is not a list of strings; the official file has it.")
        if len(set(entries)) != len(entries):
            raise UserError(f"{path}: {key} lists {Counter(entries).most_common(1)[0][0]} twice.")
    test = set(lists["TEST_SET"])
    both = sorted(test & set(lists["TRAIN_SET"]))
    strangers = [probe for probe in lists["PROBE_SET"] if probe.split("-")[0] not in test or probe.count("-") != 2]
    if both or strangers:
        what = f"{both[0]} is in TRAIN_SET and TEST_SET" if both else f"the probe {strangers[0]} is of no test subject"
        raise UserError(f"{path}: {what}; take the official file.")
    return data, lists


def _partition_lines(lists: Mapping[str, Sequence[str]], output: Path) -> str:
    """How much of the partition is on disk."""
    there = set(written_labels(output))
    probes = sum((output / probe.replace("-", "/")).is_dir() for probe in lists["PROBE_SET"])
    counts = [f"{len(there & set(lists[key]))} of {len(lists[key])} {key} labels" for key in ("TRAIN_SET", "TEST_SET")]
    loose = len(there - set(lists["TRAIN_SET"]) - set(lists["TEST_SET"]))
    return (f"\n  partition.json: {', '.join(counts)} and {probes} of {len(lists['PROBE_SET'])} probes are here; "
            f"{loose} labels are in no list")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="gait3d", description="Gait3D 2D_Poses to pickles.")
    add_arguments(parser)
    parser.add_argument("--frame-sort", choices=("numeric", "lexical"), default="numeric",
                        help="order of the frames (%(default)s); lexical matches published runs")  # fmt: skip
    parser.add_argument("--partition", type=Path, metavar="FILE", help="the benchmark's Gait3D.json, copied to OUT")
    args = parser.parse_args(argv)

    def body() -> str:
        partition = read_partition(args.partition) if args.partition else None
        jobs, ignored = find_sequences(args.input)
        lines = convert_and_report(
            functools.partial(read_sequence, frame_sort=args.frame_sort), jobs, args,
            converter="gait3d", options={"frame_sort": args.frame_sort}, joints=JOINTS,
        )  # fmt: skip
        if ignored:
            lines += f"\n  passed over, not named as in {_LAYOUT}: {len(ignored)} ({'; '.join(ignored[:5])})"
        if partition:
            write_bytes(args.output / "partition.json", partition[0])
            lines += _partition_lines(partition[1], args.output)
        return lines

    return run_entry("gait3d", body)


if __name__ == "__main__":
    raise SystemExit(main())
