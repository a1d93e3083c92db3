"""The sets of a data root in, what is in them and what is wrong with them out: `bpmt check-data`, run cards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bpmt_ext.data.pickles import read_pickle
from bpmt_ext.data.sequences import Splits
from bpmt_ext.errors import UserError


def fingerprint(splits: Splits) -> str:
    """sha256 over the sorted names and file sizes of every set: equal for equal data, wherever they lie."""
    lines = [f"{split} {record.name} {' '.join(str(p.stat().st_size) for p in record.paths)}\n"
             for split in ("train", "val", "test") for record in getattr(splits, split).records]
    text = "".join(sorted(lines))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()  # names of files may be no text


def _fault(array: np.ndarray | None, path: Path) -> str | None:
    """What is wrong with a sequence: 'unreadable', 'nan', 'constant' (nothing ever moves) or nothing."""
    if array is not None:
        return "constant" if len(array) > 1 and bool((array == array[:1]).all()) else None
    try:
        values = np.asarray(read_pickle(path), dtype=np.float64)
    except (UserError, ValueError, TypeError):
        return "unreadable"
    return "unreadable" if np.isfinite(values).all() else "nan"


def check_data(splits: Splits, *, short: int = 10,
               progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Opens every file once and reports: what each set holds, which sequences are doubtful, what was dropped.

    short: sequences with at most so many frames are listed. progress: called with (files done, files in all).
    Returns {"splits": {set: {labels, sequences, frames, shortest, median, longest, cameras}}, "problems": {"short",
    "constant", "nan", "unreadable", "duplicate": [{set, name, detail}]}, "dropped": {...}, "fingerprint": hex}.
    """
    sets = {key: getattr(splits, key) for key in ("train", "val", "test")}
    total, done, contents = sum(map(len, sets.values())), 0, {}
    problems: dict[str, list[dict[str, str]]] = {k: [] for k in ("short", "constant", "nan", "unreadable", "duplicate")}
    rows = {}
    for key, sequences in sets.items():
        frames = []
        for record in sequences.records:
            path, array, detail = record.paths[0], None, ""
            try:
                array = sequences.reader.fresh(path)
            except UserError as error:
                detail = str(error)
            fault = _fault(array, path)
            if fault:
                problems[fault].append({"set": key, "name": record.name, "detail": detail or "nothing ever moves"})
            if array is not None:
                frames.append(len(array))
                if len(array) <= short:
                    problems["short"].append({"set": key, "name": record.name, "detail": f"{len(array)} frames"})
                twin = contents.setdefault(hashlib.sha256(array.tobytes()).digest(), record.name)
                if twin != record.name:
                    problems["duplicate"].append({"set": key, "name": record.name, "detail": f"same content as {twin}"})
            done += 1
            if progress:
                progress(done, total)
        rows[key] = {
            "labels": len({r.label for r in sequences.records}), "sequences": len(sequences), "frames": sum(frames),
            "shortest": min(frames, default=0), "median": float(np.median(frames)) if frames else 0.0,
            "longest": max(frames, default=0), "cameras": len({r.camera(splits.camera) for r in sequences.records}),
        }
    return {"splits": rows, "problems": problems, "dropped": dict(splits.dropped), "fingerprint": fingerprint(splits)}
