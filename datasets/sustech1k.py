"""SUSTech1K pose pickles in, `<out>/<id>/<nn-covariate>/<angle>/<angle>.pkl` float32 (t, 17, 3) = x, y, confidence out.

    python datasets/sustech1k.py --input SUSTech1K-Released-pkl --output OUT --partition SUSTech1K.json

Raw layout: `<id>/<nn>-<covariate>[-...]/<angle>/`, 16 modality files each, ViTPose key points among them: 03 at 30
frames a second, 11 those in step with the 10 scans a second (`--pose-file '11-sync-*-Camera-Pose.pkl'`). It was taken
from the data set's documentation (protocols.md section 2 and open point 1), not from the data: joints, confidence and
range are checked in every file. The lists of subjects are the benchmark's own file.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from bpmt_ext.data.convert import add_arguments, convert_and_report, run_entry
from bpmt_ext.data.partitions import OfficialLists
from bpmt_ext.data.posetexts import COCO_JOINTS
from bpmt_ext.data.rawtree import FROM_DOCUMENTATION, entered, find_pickles, read_picked
from bpmt_ext.words import Parser

_LEVELS = (re.compile(r"\d{4}"), re.compile(r"\d{2}-[a-z]{2}(-[a-z]{2})*"), re.compile(r"\d{3}(-[a-z]+)*"))
_LAYOUT = "<id, 4 digits>/<nn>-<covariate>[-<covariate>]/<angle>/<nn>-...-Camera-Pose.pkl"
POSE_FILE = "03-*Camera-Pose.pkl"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="sustech1k", description="SUSTech1K pose pickles to pickles.")
    add_arguments(parser)
    parser.add_argument("--pose-file", metavar="NAME", default=POSE_FILE,
                        help="which pickle of a folder holds the poses, with * and ? (%(default)s)")  # fmt: skip
    parser.add_argument("--partition", type=Path, metavar="FILE", help="the benchmark's SUSTech1K.json, copied to OUT")
    args = parser.parse_args(argv)

    def body() -> str:
        lists = OfficialLists.read(args.partition, "SUSTech1K", probes=False) if args.partition else None
        jobs, ignored = find_pickles(entered(args.input, "SUSTech1K-Released-pkl", first=_LEVELS[0]), _LEVELS, _LAYOUT)
        if lists is not None:
            lists.expect(job.target.split("/")[0] for job in jobs)
        lines = convert_and_report(
            functools.partial(read_picked, rule=args.pose_file), jobs, args, converter="sustech1k",
            options={"pose_file": args.pose_file}, joints=COCO_JOINTS, ignored=ignored, layout=_LAYOUT,
            benchmark=lists,
        )  # fmt: skip
        return f"{lines}\n{FROM_DOCUMENTATION}"

    return run_entry("sustech1k", body)


if __name__ == "__main__":
    raise SystemExit(main())
