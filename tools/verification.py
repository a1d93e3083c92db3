"""Embeddings of test people (`embeddings.npz` of finished tests) in; true-accept rates, pooled over the files, out.

    python tools/verification.py output/KinectGait/BPMT/fold*/embeddings.npz --metric cos

Every pair of different sequences within a file is one trial; files are folds, whose people were never trained on and
are all different. One threshold for all pairs together.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bpmt_ext.cli import guarded
from bpmt_ext.engine.logs import write_json
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.ranking import METRICS
from bpmt_ext.metrics.verification import Pairs, interval, pairs_of, pooled, true_accepts
from bpmt_ext.report.tables import text_table


def read(path: Path, metric: str) -> Pairs:
    """The pairs of one test. UserError for a file that is none of a test's."""
    try:
        with np.load(path, allow_pickle=False) as file:
            embeddings, labels = file["embeddings"], file["labels"].tolist()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is not the embeddings.npz of a test ({str(error)[:80]}); run bpmt test") from error
    if embeddings.ndim != 3 or len(labels) != len(embeddings) or not np.isfinite(embeddings).all():
        raise UserError(f"{path}: holds no finite embeddings (n, d, p) with a label each; run bpmt test again")
    return pairs_of(embeddings, labels, metric)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="EMBEDDINGS")
    parser.add_argument("--metric", choices=METRICS, required=True, help="as evaluator_cfg.metric of the tests")
    parser.add_argument("--far", nargs="+", type=float, default=[0.01, 0.001], help="false-accept rates (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return guarded("verification", _main, parser.parse_args(argv))


def _main(args: argparse.Namespace) -> int:
    wrong = [far for far in args.far if not 0 < far < 1]
    if wrong:
        raise UserError(f"--far {wrong[0]:g}: give rates between 0 and 1")
    sets = [read(path, args.metric) for path in args.files]
    whole = pooled(sets)
    found, spread = true_accepts(whole, args.far), interval(whole, args.far)
    single = [true_accepts(pairs, args.far) for pairs in sets]
    rows = []
    for name, value in found.items():
        low, high = spread.get(name, (float("nan"),) * 2)
        each = np.array([one[name] for one in single])
        between = f"{low:.1f} to {high:.1f}" if name in spread else "-"
        rows.append([name, f"{value:.1f}", between, f"{each.mean():.1f} ± {each.std():.1f}"])
    print(f"{len(sets)} files, {len(np.unique(whole.names))} people, {len(whole.genuine)} genuine and "
          f"{len(whole.impostor)} impostor pairs")
    print(text_table(["percent", "pooled", "95 % over people", "file by file"], rows))
    if args.json:
        write_json(args.json, {"pooled": found, "interval": spread, "files": single, "genuine": len(whole.genuine),
                               "impostor": len(whole.impostor)})  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
