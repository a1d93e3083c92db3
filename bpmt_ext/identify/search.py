"""Embeddings (n, d, p) and a gallery in, for each the nearest names with their distances out.

Exact: every entry is compared, a block of the gallery at a time, so that memory does not grow with it. A name's
distance is that of its nearest entry. Distances are those of the test (metrics/ranking.py). Shapes: n probes, m entries
of a block, d width, p parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bpmt_ext.errors import UserError
from bpmt_ext.identify.gallery import Block, Entry, Gallery
from bpmt_ext.metrics.ranking import distances, prepare


@dataclass(frozen=True)
class Match:
    """A name and its nearest entry."""

    distance: float
    number: int  # of the entry
    entry: Entry


def search(gallery: Gallery, probes: np.ndarray, *, top: int, leave_out: Sequence[str] | None = None,
           faiss: Any = None) -> list[list[Match]]:  # fmt: skip
    """For each probe its nearest names, at most `top`, nearest first; of equal distances the earlier entry.

    leave_out: for each probe a name that does not count. faiss: that module, to search by cosine through it.
    """
    def whole() -> list[list[Match]]:
        best: list[dict[str, Match]] = [{} for _ in probes]
        for block in gallery.blocks():
            one = _by_faiss(block, probes, top, leave_out, faiss) if faiss is not None else \
                _by_distances(block, probes, top, leave_out, gallery.facts["metric"])  # fmt: skip
            for known, found in zip(best, one, strict=True):
                for match in found:
                    before = known.get(match.entry.name)
                    if before is None or match.distance < before.distance:
                        known[match.entry.name] = match
                for name in sorted(known, key=lambda name: _order(known[name]))[top:]:
                    del known[name]
        return [sorted(known.values(), key=_order) for known in best]

    return gallery.consistent(whole)


def _order(match: Match) -> tuple[float, int]:
    return match.distance, match.number


def _codes(block: Block) -> tuple[np.ndarray, dict[str, int]]:
    """(a number for each entry's name (m,), those numbers by name)."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(entry.name, len(numbers)) for entry in block.entries]), numbers


def _by_distances(block: Block, probes: np.ndarray, top: int, leave_out: Sequence[str] | None, metric: str
                  ) -> list[list[Match]]:  # fmt: skip
    codes, numbers = _codes(block)
    dist = distances(probes, block.embeddings, metric)  # (n, m)
    index = torch.from_numpy(codes).expand(len(dist), -1)
    if leave_out is not None:
        own = torch.tensor([numbers.get(name, -1) for name in leave_out])
        dist = dist.masked_fill(index == own[:, None], torch.inf)
    near = dist.new_full((len(dist), len(numbers)), torch.inf).scatter_reduce(1, index, dist, "amin")  # (n, names)
    place = torch.arange(len(codes)).expand_as(index).masked_fill(dist != near.gather(1, index), len(codes))
    first = torch.full(near.shape, len(codes)).scatter_reduce(1, index, place, "amin")
    found = near.topk(min(top, len(numbers)), dim=1, largest=False)
    return _matches(block, found.values, first.gather(1, found.indices))


def _matches(block: Block, dist: Tensor, place: Tensor) -> list[list[Match]]:
    return [[Match(d, block.start + i, block.entries[i]) for d, i in zip(row, places, strict=True) if d < np.inf]
            for row, places in zip(dist.tolist(), place.tolist(), strict=True)]  # fmt: skip


def _by_faiss(block: Block, probes: np.ndarray, top: int, leave_out: Sequence[str] | None, faiss: Any
              ) -> list[list[Match]]:  # fmt: skip
    """The same by inner products of unit vectors. As many entries are asked for as may stand before the last name."""
    codes, _ = _codes(block)
    sizes = sorted(Counter(codes.tolist()).values(), reverse=True)
    few = min(len(codes), 1 + sum(sizes[: top - (leave_out is None)]))
    both = prepare(np.concatenate([probes, block.embeddings]), "cos")[0].numpy()
    values, places = faiss.knn(np.ascontiguousarray(both[: len(probes)]), np.ascontiguousarray(both[len(probes) :]),
                               few, metric=faiss.METRIC_INNER_PRODUCT)  # fmt: skip
    out = []
    for i, (row, at) in enumerate(zip((1 - values).tolist(), places.tolist(), strict=True)):
        found: dict[str, Match] = {}
        for distance, place in sorted(zip(row, at, strict=True)):
            entry = block.entries[place]
            if entry.name not in found and (leave_out is None or entry.name != leave_out[i]):
                found[entry.name] = Match(distance, block.start + place, entry)
        out.append(list(found.values())[:top])
    return out


def load_faiss(metric: str) -> Any:
    """The module. UserError without it, and for a distance that it does not know."""
    if metric != "cos":
        raise UserError("--faiss searches by cosine, this gallery's network is compared by the mean of the parts' "
                        "Euclidean distances (evaluator_cfg.metric euc); leave --faiss out")  # fmt: skip
    try:
        return import_module("faiss")
    except ImportError as error:
        raise UserError(f"--faiss: faiss cannot be imported ({error}); install the extra: pip install "
                        "'bpmt_ext[gallery]', or leave --faiss out") from error  # fmt: skip
