"""Embeddings, labels and views in; the table that a benchmark's server scores out (GREW).

What the probes' identities are only the server knows: nothing here can be an accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bpmt_ext.errors import UserError
from bpmt_ext.metrics.ranking import Embedded, blocks, compare
from bpmt_ext.metrics.roster import Chosen, Roster

COLUMNS = 20


def check_submission(roster: Roster, chosen: Chosen) -> None:
    """UserError unless the gallery fills every row with numbers and no two probes share a video id."""
    if len(chosen.gallery) < COLUMNS:
        raise UserError(
            f"{chosen.title}: a row names the {COLUMNS} nearest gallery sequences, found {len(chosen.gallery)} in all; "
            "convert the whole gallery."
        )
    wrong = [label for label in np.unique(roster.labels[chosen.gallery]) if not (label.isascii() and label.isdigit())]
    if wrong:
        raise UserError(
            f"{chosen.title}: the server expects gallery labels that are numbers, found {', '.join(wrong[:3])}; "
            "convert the data set with its own labels."
        )
    videos, times = np.unique(roster.views[chosen.probe], return_counts=True)
    if (times > 1).any():
        raise UserError(
            f"{chosen.title}: a row is named by the probe's video id, its view folder, found {times.max()} probes "
            f"named {videos[times.argmax()]}; give each its own."
        )


def nearest_labels(x: Embedded, roster: Roster, chosen: Chosen) -> dict[str, np.ndarray]:
    """Embeddings of n sequences -> video (b,), the probes' ids, and labels (b, 20) of the nearest gallery
    sequences, nearest first, equal distances in gallery order."""
    probe_x, gallery_x = (x.rows(index) for index in (chosen.probe, chosen.gallery))
    nearest = []
    for b in blocks(len(chosen.probe), len(chosen.gallery)):
        order = compare(probe_x[:, b], gallery_x, x.metric).sort(dim=1, stable=True).indices
        nearest.append(order[:, :COLUMNS].cpu().numpy())
    labels = roster.labels[chosen.gallery][np.concatenate(nearest)]
    return {"video": roster.views[chosen.probe], "labels": labels}


def submission_text(video: Sequence[str], labels: np.ndarray) -> str:
    """video (b,), labels (b, 20) of `nearest_labels` -> the lines of the file, labels as plain numbers."""
    header = ",".join(["videoId", *(f"rank{k}" for k in range(1, COLUMNS + 1))])
    rows = (",".join([name, *(str(int(label)) for label in row)]) for name, row in zip(video, labels, strict=True))
    return "\n".join([header, *rows]) + "\n"
