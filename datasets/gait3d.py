"""Gait3D's 2D_Poses in, `<out>/<id>/<camid_videoid>/<seq>/<seq>.pkl` float32 (t, 17, 3) = x, y, confidence out.

    python datasets/gait3d.py --input 2D_Poses --output gait3d_pkl --partition Gait3D.json

Raw layout (protocols.md section 2): `<id>/camid<c>_videoid<v>/seq<k>/human_crop_f<frame>.txt`, one line each: the width
and height of the crop, then 17 x (x, y, confidence) in pixels of the crop, COCO order. Frames are put in the order of
their numbers; `--frame-sort lexical` sorts the names as text, as published runs did: f9 comes after f10.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.partitions import OfficialLists
from bpmt_ext.data.posefiles import GAIT3D_FRAME
from bpmt_ext.data.posetexts import COCO_JOINTS, read_frame_texts
from bpmt_ext.data.rawtree import descend, entered, nothing_found
from bpmt_ext.words import Parser

_LEVELS = (re.compile(r"\d+"), re.compile(r"camid\d+_videoid\d+"), re.compile(r"seq\d+"))
_LAYOUT = "<id>/camid<c>_videoid<v>/seq<k>/human_crop_f<frame>.txt"


def find_sequences(root: Path) -> tuple[list[Job], list[str]]:
    """(one job per sequence folder, what was passed over because its name does not fit); root may hold 2D_Poses."""
    root = entered(root, "2D_Poses", first=_LEVELS[0])
    level, ignored = descend(root, _LEVELS)
    if not level:
        raise nothing_found(root, _LAYOUT, ignored)
    return [Job(str(path), f"{path.relative_to(root).as_posix()}/{path.name}.pkl") for path in level], ignored


def read_sequence(job: Job, frame_sort: str) -> Raw:
    """One sequence folder as (t, 17, 3); bad frame files are left out and named."""
    return read_frame_texts(Path(job.source), GAIT3D_FRAME, "human_crop_f<frame>.txt", frame_sort=frame_sort)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="gait3d", description="Gait3D 2D_Poses to pickles.")
    add_arguments(parser)
    parser.add_argument("--frame-sort", choices=("numeric", "lexical"), default="numeric",
                        help="order of the frames (%(default)s); lexical matches published runs")  # fmt: skip
    parser.add_argument("--partition", type=Path, metavar="FILE", help="the benchmark's Gait3D.json, copied to OUT")
    args = parser.parse_args(argv)

    def body() -> str:
        lists = OfficialLists.read(args.partition, "Gait3D", probes=True) if args.partition else None
        jobs, ignored = find_sequences(args.input)
        if lists is not None:
            lists.expect(job.target.split("/")[0] for job in jobs)
        return convert_and_report(
            functools.partial(read_sequence, frame_sort=args.frame_sort), jobs, args, converter="gait3d",
            options={"frame_sort": args.frame_sort}, joints=COCO_JOINTS, ignored=ignored, layout=_LAYOUT,
            benchmark=lists,
        )  # fmt: skip

    return run_entry("gait3d", body)


if __name__ == "__main__":
    raise SystemExit(main())
