"""A gallery in, how near strangers come to it out: from that, a threshold for a false-accept rate.

An impostor trial is a walk of somebody who is not in the gallery, and the distance of the nearest entry to it: what
decides whether a stranger is taken for somebody. Enrolled people serve as strangers to the others: each entry is
compared with the entries of all other names, copies of a walk but once. Where `--calibrate` has put walks of validation
people beside the gallery, they are trials too.

With T trials the threshold is the k-th smallest of them, k = floor(a (T + 1)): a new stranger comes nearer with a
probability of at most a (exchangeable trials; Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World",
2005). An entry meets the N - 1 other names where a stranger meets N: a = 1 - (1 - far)^((N - 1) / N). The other way
round, a share s of the trials stands for strangers who come that near with a probability of 1 - (1 - s)^(N / (N - 1)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpmt_ext.errors import UserError
from bpmt_ext.identify.gallery import CALIBRATION, Gallery, Seen
from bpmt_ext.identify.search import search
from bpmt_ext.jsonfiles import read_json

TRIALS = (200, 2000)  # at least and at most, of a gallery that has more entries
_PAIRS = 1e8  # comparisons that a large gallery's trials may take
TRIES = 5
RULE = 2  # of what counts as a trial; what an earlier one measured is measured anew. 1 counted copies
FEW_PEOPLE = 20  # below, the trials say more of these people than of people


@dataclass(frozen=True)
class Calibration:
    """Impostor distances, ascending; the enrolled names; how many people and trials are behind the distances."""

    distances: np.ndarray  # (T,) float64
    names: int  # enrolled
    own: int  # trials of enrolled people
    people: int  # in all trials

    def level(self, far: float) -> float:
        """The share of trials that may lie below the threshold."""
        return 1 - (1 - far) ** ((self.names - 1) / self.names) if self.own else far

    def _of_strangers(self, share: float) -> float:
        """The false-accept rate that a share of the trials stands for: the inverse of `level`."""
        return 1 - (1 - share) ** (self.names / (self.names - 1)) if self.own else share

    def needed(self, far: float) -> int:
        """The fewest trials that are enough for that rate."""
        return math.ceil(1 / self.level(far) - 1e-6) - 1

    def threshold(self, far: float) -> float | None:
        """A distance below it is an acceptance; None without any trial. See `enough`."""
        if not len(self.distances):
            return None
        k = math.floor(self.level(far) * (len(self.distances) + 1) + 1e-9)
        return float(self.distances[max(0, k - 1)])

    def enough(self, far: float) -> bool:
        """Whether there are trials enough to speak of that rate."""
        return len(self.distances) >= self.needed(far)

    def as_near(self, distance: float) -> float | None:
        """How often a stranger comes this near, from (1 + trials that did) / (1 + trials)."""
        if not len(self.distances):
            return None
        near = int(np.searchsorted(self.distances, distance, "right"))
        return self._of_strangers((1 + near) / (1 + len(self.distances)))

    def least(self) -> float:
        """The least false-accept rate that there are trials enough for."""
        return self._of_strangers(1 / (1 + len(self.distances)))

    def rate(self, far: float) -> float:
        """The false-accept rate that the threshold stands for: what was asked, or the least that the trials allow."""
        return far if self.enough(far) else self.least()

    def notes(self, far: float) -> list[str]:
        """What has to be said about the threshold."""
        trials = len(self.distances)
        if not trials:
            return ["only one person is enrolled, so that nothing tells how near a stranger comes: nobody can be "
                    "called known or unknown; enroll others, or add validation people with --calibrate"]  # fmt: skip
        out = []
        if not self.enough(far):
            out.append(f"{trials} impostor trials are too few for a false-accept rate of {far:.2%} (it takes "
                       f"{self.needed(far)}): the threshold is the nearest that any of them came, good for about "
                       f"{self.rate(far):.1%}")  # fmt: skip
        if self.people < FEW_PEOPLE:
            out.append(f"the threshold rests on {self.people} people only: take it for a rough guess")
        if self.distances[0] <= 1e-3 * float(np.median(self.distances)):
            out.append("an entry has a copy under another name or among the strangers of --calibrate: the same walk "
                       "seems to be in twice; until one is removed the threshold is of no use")  # fmt: skip
        return out


def calibration(gallery: Gallery) -> Calibration:
    """The gallery's, from calibration.json if that belongs to its present state; else measured, and kept there."""
    path = gallery.folder / CALIBRATION
    if path.is_file():
        values = read_json(path)
        if values.get("revision") == gallery.revision:
            found = _read(values, path)
            if values.get("rule") == RULE:
                return found
    for _ in range(TRIES):
        revision = gallery.revision
        values = gallery.consistent(lambda: _measure(gallery))
        if revision == gallery.revision:  # else somebody has changed it meanwhile
            gallery.keep_calibration(values, revision)
            return _read(values, path)
    raise UserError(f"{gallery.folder}: is changed faster than it can be measured; try again later")


def _measure(gallery: Gallery) -> dict[str, Any]:
    names = gallery.people()
    count = len(gallery)
    trials = min(count, max(TRIALS[0], min(TRIALS[1], int(_PAIRS / max(1, count)))))
    if len(names) < 2:
        trials = 0
    wanted = np.unique(np.linspace(0, count - 1, trials).round().astype(np.int64)) if trials else np.empty(0, np.int64)
    own, whose, seen = [], [], Seen()
    for block in gallery.blocks() if trials else ():
        rows = wanted[(wanted >= block.start) & (wanted < block.start + len(block.entries))] - block.start
        for i in rows:
            if not seen.again(block.entries[i], block.embeddings[i]):
                own.append(block.embeddings[i].copy())
                whose.append(block.entries[i].name)
    found = [] if not trials else search(gallery, np.stack(own), top=1, leave_out=whose)
    distances = [row[0].distance for row in found if row]
    people = len(set(whose))
    if gallery.strangers is not None and names:
        strangers = np.concatenate([block.embeddings for block in gallery.blocks([gallery.strangers])])
        distances += [row[0].distance for row in search(gallery, strangers, top=1)]
        people += int(gallery.strangers.get("people", 1))
    return {"rule": RULE, "distances": sorted(distances), "names": len(names), "own": len(found), "people": people}


def _read(values: dict[str, Any], path: Any) -> Calibration:
    distances, counts = values.get("distances"), [values.get(key) for key in ("names", "own", "people")]
    sound = isinstance(distances, list) and all(type(x) is float and math.isfinite(x) for x in distances)
    sound = sound and all(type(x) is int and x >= 0 for x in counts)
    if not sound or (counts[1] and counts[0] < 2):  # a single name is no stranger to anybody
        raise UserError(f"{path}: is damaged; delete this file, it is measured anew")
    return Calibration(np.sort(np.array(distances, dtype=np.float64)), *counts)  # type: ignore[arg-type]
