"""USF Gait Challenge 1.7's MATLAB files in, `<out>/<id>/<type>/000/000.pkl` silhouettes uint8 (10, 64, 64) out.

    python datasets/usf.py --input usf --output data/USF/silhouettes --folds 5 --inner

Raw layout: Gal.mat (fea3Dg, gndg) and PrbA.mat, PrbB.mat, ... (fea3D, gnd): uint8 (32, 22, 10, samples), half a gait
cycle each, walker 0 on ground 1, and the ids; a sample of id 0 belongs to nobody. Every sample is a sequence of its
own, type `gallery-<k>`, `probeA-<k>`, ..., the k-th of its id in the file from 01 on. Every pixel becomes 2 x 2, with
10 black columns on each side: without them, as networks of 64 x 44 read it, nothing is lost.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.matfiles import load_mat
from bpmt_ext.data.rawtree import nothing_found
from bpmt_ext.data.silhouettes import CUT, SIDE
from bpmt_ext.errors import UserError
from bpmt_ext.words import Parser

ROWS, COLUMNS, FRAMES = 32, 22, 10
_SAMPLES = 100_000
_FILE = re.compile(r"Gal\.mat|Prb([A-Z])\.mat")
_LAYOUT = "Gal.mat and Prb<letter>.mat, ids from 1 to 999"
_VIEW = "000"


@dataclass(frozen=True)
class Sample(Job):
    """One sequence, and which of its file's samples it is."""

    index: int


@functools.lru_cache(maxsize=2)
def _load(path: Path, changed: int) -> tuple[np.ndarray, np.ndarray]:
    """(walkers (32, 22, 10, n) uint8, ids (n,)) of a file; `changed` is its time, so that another one is read anew."""
    mark = "g" if path.name == "Gal.mat" else ""
    pixels = ROWS * COLUMNS * FRAMES * _SAMPLES
    found = load_mat(path, [f"fea3D{mark}", f"gnd{mark}"], pixels, "a file of the USF Gait Challenge")
    frames, ids = found[f"fea3D{mark}"], found[f"gnd{mark}"]
    if frames.dtype != np.uint8 or frames.shape != (ROWS, COLUMNS, FRAMES, ids.size) or not ids.size:
        raise UserError(f"{path}: fea3D{mark} is {frames.dtype} {frames.shape} for {ids.size} ids, expected uint8 "
                        f"({ROWS}, {COLUMNS}, {FRAMES}, one per id); unpack it again.")  # fmt: skip
    if frames.max() > 1:
        raise UserError(f"{path}: fea3D{mark} holds other levels than 0 (walker) and 1 (ground); unpack it again.")
    if ids.dtype.kind not in "iuf" or not np.isin(ids, np.arange(1000)).all():
        raise UserError(f"{path}: gnd{mark} holds something else than ids from 0 to 999; unpack it again.")
    return frames, ids.ravel().astype(int)


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(walkers (32, 22, 10, n) uint8, walker 0, ids (n,)) of a file; UserError if it is none."""
    return _load(path, path.stat().st_mtime_ns)


def find_samples(root: Path) -> tuple[list[Job], list[str]]:
    """(one job per sample, files that are none of the data set and samples without an id)."""
    if not root.is_dir():
        raise UserError(f"{root}: is no folder; give --input the folder with Gal.mat and PrbA.mat.")
    jobs: list[Job] = []
    ignored = []
    for path in sorted(root.iterdir()):
        match = _FILE.fullmatch(path.name)
        if match is None or not path.is_file():
            ignored.append(str(path))
            continue
        kind = f"probe{match[1]}" if match[1] else "gallery"
        seen: Counter[int] = Counter()
        for index, label in enumerate(load(path)[1].tolist()):
            seen[label] += 1
            if label:
                target = f"{label:03d}/{kind}-{seen[label]:02d}/{_VIEW}/{_VIEW}.pkl"
                jobs.append(Sample(str(path), target, index))
        if seen[0]:
            ignored.append(f"{path}: {seen[0]} samples of id 0")
    if not jobs:
        raise nothing_found(root, _LAYOUT, ignored)
    return jobs, ignored


def enlarged(frames: np.ndarray) -> np.ndarray:
    """Walkers 0 on 1 (32, 22, t) -> (t, 64, 64), 255 on 0, every pixel 2 x 2, in the middle."""
    grey = np.where(frames == 0, 255, 0).astype(np.uint8).transpose(2, 0, 1)
    grey = grey.repeat(SIDE // ROWS, axis=1).repeat(SIDE // ROWS, axis=2)
    return np.pad(grey, ((0, 0), (0, 0), (CUT, CUT)))


def read_sample(job: Job) -> Raw:
    """One sample as (10, 64, 64); frames without a walker are left out."""
    assert isinstance(job, Sample)
    grey = enlarged(load(Path(job.source))[0][..., job.index])
    some = grey.any((1, 2))
    return Raw(grey[some], Counter({"no walker": int((~some).sum())}))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="usf", description="USF Gait Challenge 1.7 MATLAB files to pickles.")
    add_arguments(parser)
    args = parser.parse_args(argv)

    def body() -> str:
        jobs, ignored = find_samples(args.input)
        return convert_and_report(read_sample, jobs, args, converter="usf", options={}, picture=(SIDE, SIDE),
                                  ignored=ignored, layout=_LAYOUT)  # fmt: skip

    return run_entry("usf", body)


if __name__ == "__main__":
    raise SystemExit(main())
