"""CCPG pose pickles in, `<out>/<id>/<U.._D..>/<view>/<view>.pkl` float32 (t, 17, 3) = x, y, confidence out.

    python datasets/ccpg.py --input CCPG-pose --output OUT [--pose-file '*pose*.pkl']

Raw layout: `<id>/U<a>_D<b>[_BG]/<camera>_<...>/*.pkl`, HRNet key points in COCO order. It was taken from the hosts'
documentation and evaluators (protocols.md sections 1, 3 and open point 1), not from the data: which file holds the
poses is told by its name, and joints, confidence and range are checked in every file. Subjects 000 to 099 train.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from bpmt_ext.data.benchmarks import CCPG as BENCHMARK
from bpmt_ext.data.benchmarks import CCPG_LEVELS as _LEVELS
from bpmt_ext.data.convert import add_arguments, convert_and_report, run_entry
from bpmt_ext.data.posetexts import COCO_JOINTS
from bpmt_ext.data.rawtree import FROM_DOCUMENTATION, entered, find_pickles, read_picked
from bpmt_ext.words import Parser

_LAYOUT = "<id 000-199>/U<a>_D<b>[_BG]/<camera>_<...>/*.pkl"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="ccpg", description="CCPG pose pickles to pickles.")
    add_arguments(parser)
    parser.add_argument("--pose-file", metavar="NAME", help="which pickle of a folder holds the poses, with * and ?")
    args = parser.parse_args(argv)

    def body() -> str:
        jobs, ignored = find_pickles(entered(args.input, first=_LEVELS[0]), _LEVELS, _LAYOUT)
        lines = convert_and_report(
            functools.partial(read_picked, rule=args.pose_file), jobs, args, converter="ccpg",
            options={"pose_file": args.pose_file}, joints=COCO_JOINTS, ignored=ignored, layout=_LAYOUT,
            benchmark=BENCHMARK,
        )  # fmt: skip
        return f"{lines}\n{FROM_DOCUMENTATION}"

    return run_entry("ccpg", body)


if __name__ == "__main__":
    raise SystemExit(main())
