"""What the commands embed and predict are given in; emb.npz, or class names with scores, out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bpmt_ext.engine.embed import Model, class_names, embed_walks, predict_walks
from bpmt_ext.engine.testing import save_arrays
from bpmt_ext.errors import UserError
from bpmt_ext.identify.people import Reading, tell
from bpmt_ext.identify.poses import Walk
from bpmt_ext.report.tables import text_table


def embed_files(model: Model, paths: Sequence[Path], out: Path, *, reading: Reading) -> int:
    """Write the embeddings (n, d, p) of everybody in these files, with source, track, first, last and usable frames."""
    if out.suffix != ".npz":
        raise UserError(f"-o {out}: give a file that ends in .npz")
    walks = reading(model, paths)
    found = embed_walks(model, walks)
    arrays = {
        "embeddings": found, "sources": np.array([str(walk.source) for walk in walks]),
        "tracks": np.array([walk.track for walk in walks]),
        "frames": np.array([[walk.frames[0], walk.frames[-1], len(walk.pose)] for walk in walks]),
        "network": np.array(model.settings.model_cfg.model), "config": np.array(model.settings.fingerprint),
        "weights": np.array(model.checksum), "metric": np.array(model.settings.evaluator_cfg.metric),
    }  # fmt: skip
    save_arrays(out, arrays)
    sys.stdout.write(f"{out}: {len(walks)} embeddings of {found.shape[1]} x {found.shape[2]}\n")
    return 0


def predict_files(
    model: Model, paths: Sequence[Path], *, reading: Reading, window: int, stride: int, top: int, json_to: str | None,
    classes: Path | None = None,
) -> int:
    """Say which actions each clip shows: the mean of its windows' scores, and each window's; a table or JSON."""
    names = class_names(model, classes)
    walks = reading(model, paths)
    found = predict_walks(model, walks, names, window=window, stride=stride)
    clips = [_clip(walk, spans, scores, names, top) for walk, (spans, scores) in zip(walks, found, strict=True)]
    result = {"network": model.settings.model_cfg.model, "weights": model.checksum, "window": window, "stride": stride,
              "clips": clips}  # fmt: skip
    return tell(result, json_to, table)


def table(result: dict[str, Any]) -> str:
    """The scores for people to read."""
    lines = []
    for clip in result["clips"]:
        lines.append(f"{clip['source']}, track {clip['track']}, frames {clip['first']} to {clip['last']}")
        lines.append(text_table(["class", "score"], [[row["class"], f"{row['score']:.4f}"] for row in clip["top"]]))
        if len(clip["windows"]) > 1:
            rows = [[f"{w['first']}-{w['last']}", *(f"{t['class']} {t['score']:.3f}" for t in w["top"][:3])]
                    for w in clip["windows"]]  # fmt: skip
            head = ["window", "first", "second", "third"][: len(rows[0])]
            lines.append(text_table(head, rows, left=len(head)))
    return "\n".join(lines) + "\n"


def _clip(walk: Walk, spans: Sequence[tuple[int, int]], scores: np.ndarray, names: Sequence[str], top: int
          ) -> dict[str, Any]:  # fmt: skip
    def best(row: np.ndarray) -> list[dict[str, Any]]:
        order = np.argsort(-row, kind="stable")[:top]
        return [{"class": names[k], "score": float(row[k])} for k in order]

    parts = [{"first": int(walk.frames[a]), "last": int(walk.frames[b - 1]), "top": best(row)}
             for (a, b), row in zip(spans, scores, strict=True)]  # fmt: skip
    return {"source": str(walk.source), "track": walk.track, "first": int(walk.frames[0]),
            "last": int(walk.frames[-1]), "top": best(scores.mean(axis=0)), "windows": parts}  # fmt: skip
