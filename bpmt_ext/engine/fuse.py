"""Saved predictions of several networks on the same sequences in; their mean, scored, out: `bpmt fuse`.

Late fusion: the weighted mean of the softmax scores, sequence by sequence. Files are predictions.npz as a test writes
them (n sequences, k classes), or folders that hold one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bpmt_ext.data.posearrays import read_npz
from bpmt_ext.engine.actions import KEYS, Predictions
from bpmt_ext.engine.logs import write_json
from bpmt_ext.engine.testing import save_arrays
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.classification import classify
from bpmt_ext.report.confusion import write_confusion
from bpmt_ext.report.tables import text_table


def read_predictions(path: Path) -> Predictions:
    """What a test saved. UserError for a file that is missing, damaged or holds something else."""
    file = path / "predictions.npz" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: there are no predictions; test a network of actions, which writes them")
    found = read_npz(file)
    lacking = [key for key in KEYS if key not in found]
    if lacking:
        raise UserError(f"{file}: has no array {lacking[0]!r}; give a predictions.npz")
    one = Predictions(*(found[key] for key in KEYS))
    n, k = (array.shape[0] if array.ndim else 0 for array in (one.names, one.classes))
    labels = one.labels if np.issubdtype(one.labels.dtype, np.integer) else np.array([-1])
    flat = one.names.ndim == one.classes.ndim == 1 and one.scores.shape == (n, k) and labels.shape == (n,)
    fits = n and k and flat and 0 <= labels.min() and labels.max() < k
    numbers = one.scores.dtype.kind == "f" and bool(np.isfinite(one.scores).all())
    if not fits or not numbers or len(set(one.names.tolist())) < n:
        raise UserError(f"{file}: scores, labels, names and classes do not fit each other; test the network again")
    return one._replace(labels=labels.astype(np.int64))  # unsigned ones do not count with others


def fuse(paths: Sequence[Path], weights: Sequence[float] = ()) -> Predictions:
    """The mean of the scores, in the order of the first file. UserError for other classes, sequences or weights."""
    if weights and (len(weights) != len(paths) or not all(0 <= x < 1e30 for x in weights)
                    or not sum(weights)):
        raise UserError(f"--weights: give one number of at least 0 for each of {len(paths)} results, not all of them 0")
    first = read_predictions(paths[0])
    total = np.zeros(first.scores.shape)
    for path, weight in zip(paths, weights or [1.0] * len(paths), strict=True):
        one = read_predictions(path)
        if one.classes.tolist() != first.classes.tolist():
            raise UserError(f"{path}: has other classes than {paths[0]}; fuse tests of one data set")
        apart = set(one.names.tolist()) ^ set(first.names.tolist())
        if apart:
            raise UserError(
                f"{path}: {len(apart)} sequences ({min(apart)}) are not in both it and {paths[0]}; fuse tests of one "
                "partition"
            )
        order = np.argsort(one.names)[np.argsort(np.argsort(first.names))]
        if (one.labels[order] != first.labels).any():
            raise UserError(f"{path}: calls some sequences otherwise than {paths[0]}; fuse tests of one data set")
        total += weight * one.scores[order]
    return first._replace(scores=(total / total.sum(axis=1, keepdims=True)).astype(np.float32))


def run(paths: Sequence[Path], weights: Sequence[float] = (), out: Path | None = None) -> int:
    """Print the metrics of each result and of their fusion, then the fusion's as a line of JSON; 0 when done.

    out: a folder for results.json, predictions.npz and the confusion matrix of the fusion.
    """
    fused = fuse(paths, weights)
    result = classify(fused.scores, fused.labels, fused.classes.tolist())
    rows = [(str(path), classify(one.scores, one.labels, one.classes.tolist())["metrics"])
            for path, one in ((path, read_predictions(path)) for path in paths)]
    rows.append(("fused", result["metrics"]))
    header = list(result["metrics"])
    sys.stdout.write(text_table(["", *header], [[name, *(f"{m[key]:.2f}" for key in header)] for name, m in rows]))
    told = {
        "metrics": result["metrics"], "probes": {"total": len(fused.labels), "valid": len(fused.labels)},
        "fused": [str(path) for path in paths], "weights": list(weights) or [1.0] * len(paths),
        "per_class": result["per_class"],
    }  # fmt: skip
    sys.stdout.write("\n" + json.dumps({key: told[key] for key in ("metrics", "fused", "weights")}) + "\n")
    if out is not None:
        write_json(out / "results.json", told)
        save_arrays(out / "predictions.npz", fused.arrays())
        title = f"fusion of {len(paths)}: top-1 {result['metrics']['top1']:.1f} %"
        write_confusion(result["confusion"], fused.classes.tolist(), out / "confusion.png", title=title)
    return 0
