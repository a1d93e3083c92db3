"""Embeddings (n, d, p) and who they are in; true-accept rates at chosen false-accept rates out.

Verification asks of a pair of walks whether one person walked both. A pair is accepted if its distance is at most the
threshold; the threshold is the largest at which no more than the chosen share of the impostor pairs is accepted
(ISO/IEC 19795-1). Pairs of several test sets, which have no people in common, are pooled under one threshold. Letters:
n sequences, d width, p parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bpmt_ext.errors import UserError
from bpmt_ext.metrics.ranking import distances


@dataclass(frozen=True)
class Pairs:
    """Distances of genuine pairs (g,) and impostor pairs (i,), each pair once, and the names behind the genuine ones
    (g,), which a bootstrap over people needs."""

    genuine: np.ndarray
    impostor: np.ndarray
    names: np.ndarray


def pairs_of(embeddings: np.ndarray, labels: Sequence[str], metric: str) -> Pairs:
    """All pairs of different sequences of one test set. UserError if nobody has two, or there is one person only."""
    names = np.asarray(labels)
    distance = distances(embeddings, embeddings, metric).numpy()
    a, b = np.triu_indices(len(names), 1)
    same, distance = names[a] == names[b], distance[a, b]
    if not same.any() or same.all():
        raise UserError(f"{len(names)} sequences of {len(set(labels))} people make no pairs to verify: it takes two "
                        "people, and two sequences of one")  # fmt: skip
    return Pairs(distance[same], distance[~same], names[a][same])


def pooled(sets: Sequence[Pairs]) -> Pairs:
    """The pairs of several test sets as one; people of different sets count as different."""
    names = [np.char.add(f"{k}/", pairs.names.astype(str)) for k, pairs in enumerate(sets)]
    return Pairs(np.concatenate([s.genuine for s in sets]), np.concatenate([s.impostor for s in sets]),
                 np.concatenate(names))  # fmt: skip


def threshold(impostor: np.ndarray, far: float) -> float:
    """The largest distance at which at most the share `far` of the impostor pairs (i,) is accepted; -inf if even the
    nearest is too many."""
    ordered = np.sort(impostor)
    most = int(np.floor(far * len(ordered) + 1e-9))  # pairs that may pass
    if most >= len(ordered):
        return float("inf")
    below = ordered[ordered < ordered[most]]  # of equal distances all pass or none
    return float(below[-1]) if len(below) else float("-inf")


def true_accepts(pairs: Pairs, fars: Sequence[float]) -> dict[str, float]:
    """Percent of genuine pairs accepted, by the false-accept rate in percent: {"TAR@1%": ..., "TAR@0.1%": ...}, and the
    equal error rate, where as many genuine pairs are refused as impostors pass, "EER"."""
    out = {f"TAR@{100 * far:g}%": 100 * float((pairs.genuine <= threshold(pairs.impostor, far)).mean()) for far in fars}
    cuts = np.unique(np.concatenate([pairs.genuine, pairs.impostor]))
    refused = 1 - np.searchsorted(np.sort(pairs.genuine), cuts, "right") / len(pairs.genuine)
    passed = np.searchsorted(np.sort(pairs.impostor), cuts, "right") / len(pairs.impostor)
    best = int(np.abs(refused - passed).argmin())
    return out | {"EER": 100 * float(refused[best] + passed[best]) / 2}


def interval(
    pairs: Pairs, fars: Sequence[float], *, draws: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % interval of each true-accept rate, people drawn with repetition, the thresholds as they are."""
    people, index = np.unique(pairs.names, return_inverse=True)
    count = np.bincount(index, minlength=len(people))
    chosen = np.random.default_rng(seed).integers(len(people), size=(draws, len(people)))
    out = {}
    for far in fars:
        hits = np.bincount(index, pairs.genuine <= threshold(pairs.impostor, far), minlength=len(people))
        rates = 100 * hits[chosen].sum(1) / count[chosen].sum(1)
        out[f"TAR@{100 * far:g}%"] = tuple(float(x) for x in np.percentile(rates, (2.5, 97.5)))
    return out
