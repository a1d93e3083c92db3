"""CASIA-B poses in, `<out>/<id>/<type>/<view>/<view>.pkl` float32 (t, 17, 3) = x, y, confidence in pixels out.

    python datasets/casiab.py --input CASIA-B-Pose --output OUT               # the pickles made for the hosts
    python datasets/casiab.py --input casia-b_pose_coco.csv --output OUT      # GaitGraph's table

Raw layouts (protocols.md section 2): `<id>/<type>/<view>/<view>.pkl`, with or without other files beside it; or a CSV
with a frame per row, `<path>/<id>-<status>-<number>-<view>/<frame>` and 51 values. Both in COCO order. Subjects 001 to
074 train, 075 to 124 are tested.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bpmt_ext.data.benchmarks import CASIAB as BENCHMARK
from bpmt_ext.data.benchmarks import CASIAB_LEVELS as _LEVELS
from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.posearrays import doubts
from bpmt_ext.data.posetexts import COCO_JOINTS, Span, index_csv, read_csv_rows
from bpmt_ext.data.rawtree import entered, find_pickles, read_picked
from bpmt_ext.errors import UserError
from bpmt_ext.words import Parser

_SEQUENCE = re.compile(r"(\d{3})-([a-z]{2}-\d{2})-(\d{3})")
_LAYOUT = "<id 001-124>/<nm-01..06 | bg-01..02 | cl-01..02>/<view 000-180>/<view>.pkl"
_CSV, _ROW = "casia-b_pose_coco.csv", "<id>-<status>-<number>-<view>/<frame>"


@dataclass(frozen=True)
class CsvJob(Job):
    """A sequence of the table, and where its rows are."""

    spans: tuple[Span, ...]


def find_rows(path: Path) -> tuple[list[Job], list[str]]:
    """(one job per sequence of the table, sequences passed over because the data set has none of that name)."""
    jobs: list[Job] = []
    ignored = []
    for name, spans in sorted(index_csv(path).items()):
        match = _SEQUENCE.fullmatch(name)
        if match and all(pattern.fullmatch(word) for pattern, word in zip(_LEVELS, match.groups(), strict=True)):
            jobs.append(CsvJob(str(path), f"{'/'.join(match.groups())}/{match[3]}.pkl", spans))
        else:
            ignored.append(name)
    if not jobs:
        raise UserError(f"{path}: no row of CASIA-B; expected {_ROW}, found {', '.join(ignored[:3])}.")
    return jobs, ignored


def find_sequences(root: Path) -> tuple[list[Job], list[str], str]:
    """(jobs, what was passed over, `pickles` or `csv`) of a folder or of the table itself."""
    if root.is_file():
        return *find_rows(root), "csv"
    root = entered(root, "CASIA-B-Pose", first=_LEVELS[0])
    table = root / _CSV
    pickles = any(path.is_dir() and _LEVELS[0].fullmatch(path.name) for path in root.iterdir())
    if table.is_file() and pickles:
        raise UserError(f"{root}: holds both {_CSV} and folders of pickles; give --input the one that is meant.")
    return (*find_rows(table), "csv") if table.is_file() else (*find_pickles(root, _LEVELS, _LAYOUT), "pickles")


def read_sequence(job: Job, pose_file: str | None) -> Raw:
    """One sequence as (t, 17, 3)."""
    if not isinstance(job, CsvJob):
        return read_picked(job, pose_file)
    raw = read_csv_rows(Path(job.source), job.spans)
    return Raw(raw.pose, raw.dropped, raw.faults, raw.facts | doubts(raw.pose))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="casiab", description="CASIA-B pose pickles or GaitGraph's CSV to pickles.")
    add_arguments(parser)
    parser.add_argument("--pose-file", metavar="NAME", help="which pickle of a folder holds the poses, with * and ?")
    args = parser.parse_args(argv)

    def body() -> str:
        jobs, ignored, source = find_sequences(args.input)
        return convert_and_report(
            functools.partial(read_sequence, pose_file=args.pose_file), jobs, args, converter="casiab",
            options={"source": source, "pose_file": args.pose_file}, joints=COCO_JOINTS, ignored=ignored,
            layout=_LAYOUT if source == "pickles" else _ROW, benchmark=BENCHMARK,
        )  # fmt: skip

    return run_entry("casiab", body)


if __name__ == "__main__":
    raise SystemExit(main())
