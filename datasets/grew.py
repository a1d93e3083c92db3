"""GREW's pose texts in, `<out>/<label>/<type>/<clip>/<clip>.pkl` float32 (t, 17, 3) = x, y, confidence out.

    python datasets/grew.py --input GREW --output OUT

Raw layout (protocols.md section 2): `train/<id>/<clip>/<frame>_2d_pose.txt`, `test/gallery/<id>/<clip>/...` and
`test/probe/<clip>/...`, one line each as in Gait3D, COCO order. Labels and types: training subjects `<id>train`, 00;
the two gallery clips of a test subject `<id>`, 01 and 02 in name order; probes, whose subjects are secret, `probe`, 03.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.partitions import Benchmark
from bpmt_ext.data.posefiles import GREW_BESIDE, GREW_FRAME
from bpmt_ext.data.posetexts import COCO_JOINTS, read_frame_texts
from bpmt_ext.data.rawtree import descend, entered, nothing_found
from bpmt_ext.errors import UserError
from bpmt_ext.words import Parser

PROBE = "probe"


def _expected(label: str) -> Iterable[str]:
    """What every label has, apart from the names of its clips."""
    return ("03",) if label == PROBE else ("00",) if label.endswith("train") else ("01", "02")


BENCHMARK = Benchmark(
    tuple(f"{i:05d}train" for i in range(1, 20001)), (*(f"{i:05d}" for i in range(1, 6001)), PROBE), _expected
)
_ID, _CLIP = re.compile(r"\d{5}"), re.compile(r"[A-Za-z0-9]{8}")
_GEI = re.compile(r"[A-Za-z0-9]{8}_gei\.png")  # lies beside every clip
_PARTS = {"train": (_ID, _CLIP), "test/gallery": (_ID, _CLIP), "test/probe": (_CLIP,)}
_LAYOUT = "train/<id>/<clip>, test/gallery/<id>/<clip> and test/probe/<clip>, each with <frame>_2d_pose.txt"


def find_sequences(root: Path) -> tuple[list[Job], list[str]]:
    """(one job per clip, what was passed over because its name does not fit); root may hold make_pose or GREW."""
    root = entered(root, "make_pose", "GREW", first=re.compile("train|test"))
    jobs, ignored = [], []
    known = set(BENCHMARK.train + BENCHMARK.test)
    for part, levels in _PARTS.items():
        if not (root / part).is_dir():
            continue
        folders, others = descend(root / part, levels)
        ignored += [path for path in others if not _GEI.fullmatch(Path(path).name)]
        gallery: dict[str, int] = {}
        for path in folders:
            label = PROBE if part == "test/probe" else path.parent.name + ("train" if part == "train" else "")
            if label not in known:
                ignored.append(str(path))
                continue
            kind = {"train": "00", "test/probe": "03"}.get(part)
            if kind is None:
                gallery[label] = gallery.get(label, 0) + 1
                kind = f"{gallery[label]:02d}"
                if gallery[label] > 2:
                    raise UserError(f"{path.parent}: holds more than GREW's two gallery clips; remove what was added.")
            jobs.append(Job(str(path), f"{label}/{kind}/{path.name}/{path.name}.pkl"))
    if not jobs:
        raise nothing_found(root, _LAYOUT, ignored)
    ignored += [str(path) for path in sorted(root.iterdir()) if path.name not in ("train", "test")]
    return jobs, ignored


def read_sequence(job: Job, frame_sort: str) -> Raw:
    """One clip as (t, 17, 3); bad frame files are left out and named."""
    return read_frame_texts(Path(job.source), GREW_FRAME, "<frame>_2d_pose.txt", frame_sort=frame_sort,
                            beside=GREW_BESIDE)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="grew", description="GREW 2D pose texts to pickles.")
    add_arguments(parser)
    parser.add_argument("--frame-sort", choices=("numeric", "lexical"), default="numeric",
                        help="order of the frames (%(default)s); lexical matches published runs")  # fmt: skip
    args = parser.parse_args(argv)

    def body() -> str:
        jobs, ignored = find_sequences(args.input)
        return convert_and_report(
            functools.partial(read_sequence, frame_sort=args.frame_sort), jobs, args, converter="grew",
            options={"frame_sort": args.frame_sort}, joints=COCO_JOINTS, ignored=ignored, layout=_LAYOUT,
            benchmark=BENCHMARK,
        )  # fmt: skip

    return run_entry("grew", body)


if __name__ == "__main__":
    raise SystemExit(main())
