"""Folders of PNG frames in, `<out>/<label>/<type>/<view>/<view>.pkl` silhouettes uint8 (t, 64, 64) or (t, 64, 44) out.

    python datasets/silhouettes.py --layout casiab --input GaitDatasetB-silh --output data/CASIA-B/silhouettes

Raw layouts, white on black:
    casiab    <id>/<type>/<view>/*.png
    oumvlp    Silhouette_<view>-<session>/<id>/*.png; becomes <id>/<session>/<view>
    ccpg      <id>/U<a>_D<b>[_BG]/<camera>_<...>/*.png
    psymo     silhouettes/<n>/<id>_<view>_<direction>_<run>_<condition>/*.png; becomes
              <id>/<condition>-<run + 1>/<view>-<direction>
    folders   <label>/<type>/<view>/*.png
CASIA-B, OUMVLP and CCPG are divided as their poses are; for the others take `--folds`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpmt_ext.data.benchmarks import (
    CASIAB,
    CASIAB_LEVELS,
    CCPG,
    CCPG_LEVELS,
    OUMVLP,
    OUMVLP_SESSIONS,
    OUMVLP_VIEWS,
)
from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.partitions import Benchmark
from bpmt_ext.data.rawtree import FROM_DOCUMENTATION, descend, entered, nothing_found
from bpmt_ext.data.silhouettes import CUT, SIDE, read_folder
from bpmt_ext.words import Parser

CUTS = {f"{SIDE}x{SIDE - 2 * cut}": cut for cut in (0, CUT)}
_ANY = re.compile(r"[^.].*", re.DOTALL)


@dataclass(frozen=True)
class Layout:
    """How a data set's folders lie."""

    words: str  # for a person
    levels: tuple[re.Pattern[str], ...]  # names of the folders, level by level; the last holds the frames
    place: Callable[..., str] = "/".join  # the names of the levels, as a list -> label/type/view
    inner: tuple[str, ...] = ()  # names of a folder that may lie around it all
    benchmark: Benchmark | None = None
    seen: bool = True  # the data themselves, not only their documentation


def _oumvlp(names: Sequence[str]) -> str:
    view, session = names[0].removeprefix("Silhouette_").split("-")
    return f"{names[1]}/{session}/{view}"


def _psymo(names: Sequence[str]) -> str:
    label, view, direction, run, condition = names[1].split("_")
    return f"{label}/{condition}-{int(run) + 1:02d}/{view}-{direction}"


_SESSION = re.compile(f"Silhouette_({'|'.join(OUMVLP_VIEWS)})-({'|'.join(OUMVLP_SESSIONS)})")
_WALK = re.compile(r"[0-9]{3}_[0-9]{2,3}_[0-9]_[0-9]_[a-z]+")
LAYOUTS = {
    "casiab": Layout("<id 001-124>/<nm-01..06 | bg-01..02 | cl-01..02>/<view 000-180>/*.png", CASIAB_LEVELS,
                     inner=("GaitDatasetB-silh",), benchmark=CASIAB, seen=False),
    "oumvlp": Layout("Silhouette_<view>-<session>/<id, 5 digits>/*.png", (_SESSION, re.compile(r"[0-9]{5}")), _oumvlp,
                     benchmark=OUMVLP, seen=False),
    "ccpg": Layout("<id 000-199>/U<a>_D<b>[_BG]/<camera>_<...>/*.png", CCPG_LEVELS, benchmark=CCPG, seen=False),
    "psymo": Layout("<n>/<id>_<view>_<direction>_<run>_<condition>/*.png", (re.compile("[0-9]+"), _WALK), _psymo,
                    inner=("silhouettes",)),
    "folders": Layout("<label>/<type>/<view>/*.png", (_ANY,) * 3),
}  # fmt: skip


def find_sequences(root: Path, layout: Layout) -> tuple[list[Job], list[str]]:
    """(one job per folder of frames, what was passed over because its name does not fit)."""
    root = entered(root, *layout.inner, first=layout.levels[0])
    folders, ignored = descend(root, layout.levels)
    known = None if layout.benchmark is None else set(layout.benchmark.train + layout.benchmark.test)
    jobs = []
    for folder in folders:
        place = layout.place(folder.relative_to(root).parts)
        if known is None or place.split("/")[0] in known:
            jobs.append(Job(str(folder), f"{place}/{place.split('/')[2]}.pkl"))
        else:
            ignored.append(str(folder))
    if not jobs:
        raise nothing_found(root, layout.words, ignored)
    return jobs, ignored


def read_sequence(job: Job, cut: int) -> Raw:
    """One folder of frames as silhouettes."""
    return read_folder(Path(job.source), cut)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="silhouettes", description="Folders of PNG silhouettes to pickles.")
    add_arguments(parser)
    parser.add_argument("--layout", choices=tuple(LAYOUTS), required=True, help="how the raw folders lie")
    parser.add_argument("--size", choices=tuple(CUTS), default="64x64",
                        help="rows x columns (%(default)s); 64x44 leaves out 10 columns on each side")  # fmt: skip
    args = parser.parse_args(argv)

    def body() -> str:
        layout, cut = LAYOUTS[args.layout], CUTS[args.size]
        jobs, ignored = find_sequences(args.input, layout)
        lines = convert_and_report(
            functools.partial(read_sequence, cut=cut), jobs, args, converter="silhouettes",
            options={"layout": args.layout, "size": args.size}, picture=(SIDE, SIDE - 2 * cut), ignored=ignored,
            layout=layout.words, benchmark=layout.benchmark,
        )  # fmt: skip
        return lines if layout.seen else f"{lines}\n{FROM_DOCUMENTATION}"

    return run_entry("silhouettes", body)


if __name__ == "__main__":
    raise SystemExit(main())
