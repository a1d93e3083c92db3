"""Embeddings (n, d, p) in; distances (n, m) and, per probe, first match, AP and INP out.

Definitions: specs/protocols.md, section 4. Letters: n probes, m gallery entries, d width, p parts. Distances are
float32, summed over blocks of probes so that memory stays bounded whatever n and m are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

METRICS = ("euc", "cos")

_BLOCK_PRODUCTS = 2**24  # floats of a block of embeddings, or of distances: 64 MB
_BLOCK_PAIRS = 2**22  # pairs ranked at a time: some 40 bytes each
_WHOLE = 2**27  # floats of a set that is prepared at once: 512 MB
_TILE = 512  # rows and columns of distances that a CPU makes at a time: 1 MB stays in its cache


def prepare(embeddings: np.ndarray | Tensor, metric: str) -> Tensor:
    """(n, d, p) -> (g, n, e) float32, ready for `compare`: g = p, e = d for "euc"; g = 1, e = d*p for "cos".

    Euclidean: the common mean is taken off, which changes no distance but keeps |a|^2 + |b|^2 - 2ab from cancelling
    when all embeddings lie close together, far from the origin. Cosine: unit parts; a part of zeros has cosine 0.
    ValueError for another shape or metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    x = torch.as_tensor(embeddings).detach()
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"embeddings must be (n, d, p) and not empty, got {tuple(x.shape)}")
    x = x.to(torch.float32)
    if metric == "cos":
        x = x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return x.flatten(1)[None] / x.shape[2] ** 0.5  # (1, n, d*p): one product is the mean over parts
    return by_part(x, middle(x.split(64)))  # (p, n, d)


def middle(blocks: Iterable[Tensor]) -> Tensor:
    """Embeddings (m, d, p), a few at a time -> their mean (d, p)."""
    total, count = 0.0, 0
    for block in blocks:
        total, count = total + block.sum(0, dtype=torch.float32).double(), count + len(block)
    return (total / count).float()


def by_part(x: Tensor, mean: Tensor) -> Tensor:
    """(n, d, p) minus their mean (d, p) -> (p, n, d), in a new piece; twice as fast as permuting."""
    n, d, p = x.shape
    out = x.flatten(0, 1).t().clone(memory_format=torch.contiguous_format).view(p, n, d)
    return out.sub_(mean.t()[:, None])


class Embedded:
    """A set's embeddings (n, d, p), in memory or a file mapped into it, to be prepared whole or a block at a time."""

    def __init__(self, embeddings: np.ndarray | Tensor, metric: str) -> None:
        """ValueError for another shape or metric."""
        self.raw, self.metric = embeddings, metric
        self.whole: Tensor | None = None
        if embeddings.ndim == 3 and np.prod(embeddings.shape) > _WHOLE and metric in METRICS:
            self.mean = middle(part for block in self.blocks() for part in block.split(64))
        else:
            self.whole = prepare(self._raw(slice(None)), metric)
        self.device = embeddings.device if isinstance(embeddings, Tensor) else torch.device("cpu")

    def blocks(self) -> Iterator[Tensor]:
        """The embeddings as they are, (m, d, p) at a time."""
        rows = max(1, _BLOCK_PRODUCTS // max(1, int(np.prod(self.raw.shape[1:]))))
        for start in range(0, len(self.raw), rows):
            yield self._raw(slice(start, start + rows))

    def _raw(self, index: slice | np.ndarray) -> Tensor:
        rows = self.raw[index]
        return rows.detach() if isinstance(rows, Tensor) else torch.from_numpy(np.require(rows, None, "WE"))

    def rows(self, index: np.ndarray | slice) -> Tensor:
        """The embeddings of some sequences, prepared: (g, m, e)."""
        if isinstance(index, np.ndarray) and len(index) and (np.diff(index) == 1).all():
            index = slice(int(index[0]), int(index[-1]) + 1)  # a run of rows need not be copied
        if self.whole is not None:
            return self.whole[:, torch.as_tensor(index) if isinstance(index, np.ndarray) else index]
        x = self._raw(index).to(torch.float32)
        return prepare(x, "cos") if self.metric == "cos" else by_part(x, self.mean)


def compare(probe: Tensor, gallery: Tensor, metric: str, out: Tensor | None = None) -> Tensor:
    """Prepared (g, n, e) and (g, m, e), of one call to `prepare` -> distances (n, m) float32, at once; into `out`."""
    n, m = probe.shape[1], gallery.shape[1]
    out = probe.new_empty(n, m) if out is None else out
    if metric == "cos":
        return torch.mm(probe[0], gallery[0].mT, out=out).neg_().add_(1)
    out.zero_()
    own, twice = probe.square().sum(2)[:, :, None], -2 * probe
    # Tile by tile, part by part: equal tiles rather than full ones and a narrow rest, which rounds in another way.
    tiles = [max(1, -(-size // _TILE)) if probe.device.type == "cpu" else 1 for size in (n, m)]
    room = probe.new_empty(-(-n // tiles[0]) * -(-m // tiles[1]))
    for columns, theirs in zip(out.chunk(tiles[1], 1), gallery.chunk(tiles[1], 1), strict=True):
        size = theirs.square().sum(2)[:, None]
        for total, a, x in zip(columns.chunk(tiles[0]), twice.chunk(tiles[0], 1), own.chunk(tiles[0], 1), strict=True):
            square = room[: total.numel()].view(total.shape)
            for part, other in enumerate(theirs):
                torch.addmm(size[part], a[part], other.mT, out=square)
                total.add_(square.add_(x[part]).clamp_(min=0).sqrt_())
    return out.div_(len(probe))


def distances(probe: np.ndarray | Tensor, gallery: np.ndarray | Tensor, metric: str = "euc") -> Tensor:
    """(n, d, p), (m, d, p) -> (n, m) float32.

    "euc": mean over parts of the Euclidean distance; "cos": 1 - mean over parts of the cosine.
    ValueError for unequal widths or parts, empty input or another metric.
    """
    probe, gallery = torch.as_tensor(probe), torch.as_tensor(gallery)
    if probe.shape[1:] != gallery.shape[1:]:
        raise ValueError(f"probe (n, d, p) {tuple(probe.shape)} and gallery {tuple(gallery.shape)} differ in d or p")
    n = len(probe)
    both = prepare(torch.cat([probe, gallery]), metric)
    return torch.cat([compare(both[:, rows], both[:, n:], metric) for rows in blocks(n, len(gallery))])


def blocks(n: int, m: int) -> Iterator[slice]:
    """Slices of n probes, each small enough to be compared with m gallery entries and ranked at once."""
    step = max(1, _BLOCK_PAIRS // max(1, m))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def rank(
    dist: np.ndarray | Tensor, match: np.ndarray | Tensor, keep: np.ndarray | Tensor | None = None
) -> dict[str, Tensor]:
    """Ranking of the gallery by every probe.

    dist (n, m), finite; match (n, m) bool, True where identity is shared; keep (n, m) bool, False where the gallery
    entry does not exist for this probe (default: all exist). Equal distances rank in gallery order.
    -> valid (n,) bool, False where no kept entry matches; first (n,) int64, place of the first match, from 1;
    ap, inp (n,) float64 in 0..1. At probes that are not valid: first 0, ap and inp NaN.
    ValueError for unequal shapes or distances that are not finite.
    """
    dist, match = torch.as_tensor(dist), torch.as_tensor(match)
    keep = torch.ones_like(match) if keep is None else torch.as_tensor(keep)
    if dist.ndim != 2 or match.shape != dist.shape or keep.shape != dist.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (dist, match, keep))
        raise ValueError(f"dist, match and keep must share one shape (n, m), got {shapes}")
    if not torch.isfinite(dist).all():
        raise ValueError("distances must be finite")
    rows = [_rank_block(dist[b], match[b], keep[b]) for b in blocks(*dist.shape)] if dist.numel() else []
    if not rows:
        n = dist.shape[0]
        nan = torch.full((n,), torch.nan, dtype=torch.float64)
        return {"valid": torch.zeros(n, dtype=torch.bool), "first": torch.zeros(n, dtype=torch.int64),
                "ap": nan, "inp": nan.clone()}
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def rank_stream(
    probe: Tensor, gallery: Callable[[slice], Tensor], entries: int, metric: str,
    pairs: Callable[[slice], tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:  # fmt: skip
    """What `rank` gives, of a gallery that need not lie in memory: it is read twice, a block at a time.

    probe (g, n, e) and `gallery` of a slice (g, m, e), prepared; entries: how many the gallery has; pairs: match and
    keep (n, m) of a slice. First the distances of all matches are found, then it is counted how many others stand
    before each: counts add up over blocks, and would over machines that hold a share of the gallery each.
    """
    g, n, e = probe.shape
    width = max(1, min(_BLOCK_PAIRS // n, _BLOCK_PRODUCTS // (g * e), entries))
    parts = [slice(start, min(start + width, entries)) for start in range(0, entries, width)]
    # What is large is written into one place over and over: freed block by block, it leaves holes that add up.
    room = [torch.empty(n * width, dtype=kind, device=probe.device) for kind in (probe.dtype, probe.dtype, torch.int64)]
    total = torch.zeros(n, dtype=torch.int64, device=probe.device)
    for part in parts:
        total += torch.logical_and(*pairs(part)).sum(1)
    k = max(1, int(total.max()))
    near, which = probe.new_full((n, k + 1), torch.inf), torch.full((n, k + 1), entries, device=probe.device)
    found = torch.zeros_like(total)
    for part in parts:
        hit = torch.logical_and(*pairs(part))
        row, column = hit.nonzero().unbind(1)  # in gallery order within a probe
        if len(row):
            here = hit.sum(1)
            at = torch.arange(len(row), device=row.device) + (found + here - here.cumsum(0))[row]
            dist = compare(probe, gallery(part), metric, room[0][: hit.numel()].view(hit.shape))
            near[row, at], which[row, at] = dist[row, column], column + part.start
            found += here
    near, order = near.sort(dim=1, stable=True)
    which = which.gather(1, order)
    counts = torch.zeros(n * (k + 1), dtype=torch.int64, device=probe.device)
    first = (k + 1) * torch.arange(n, device=probe.device)[:, None]
    for part in parts:
        match, keep = pairs(part)
        far, level, behind = (each[: match.numel()].view(match.shape) for each in room)
        compare(probe, gallery(part), metric, far).masked_fill_(match.logical_or_(~keep), torch.finfo(far.dtype).max)
        torch.searchsorted(near, far, out=behind)  # matches nearer than each of the others; the last column is infinite
        tied = (torch.gather(near, 1, behind, out=level) == far).nonzero()
        for row, column in (some.unbind(1) for some in tied.split(max(1, _BLOCK_PAIRS // k))):
            equal = near[row] == far[row, column][:, None]
            behind[row, column] += (equal & (which[row] < (column + part.start)[:, None])).sum(1)
        counts += torch.bincount(behind.add_(first).flatten(), minlength=len(counts))
    number = torch.arange(1, k + 1, device=probe.device)
    place = counts.view(n, k + 1)[:, :k].cumsum(1) + number
    return _figures(place, number.expand_as(place), number <= total[:, None], total)


def _rank_block(dist: Tensor, match: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """`rank` of one block, m > 0. By counting what stands before each match, several times faster than by sorting; the
    probes that have a match and another entry at one distance, where the order matters, are sorted."""
    hit, other = match & keep, keep & ~match
    total = hit.sum(1)
    row, column = hit.nonzero().unbind(1)
    start = total.cumsum(0) - total
    k = max(1, int(total.max()))
    near = dist.new_full((len(dist), k + 1), torch.inf)  # (n, k) distances of the matches, rising, then nobody's
    near[row, torch.arange(len(row), device=dist.device) - start[row]] = dist[row, column]
    near = near.sort(1).values
    far = dist.masked_fill(~other, torch.finfo(dist.dtype).max)  # what does not exist: behind all matches
    behind = torch.searchsorted(near, far)  # (n, m) matches nearer than each of the others
    tied = (near.gather(1, behind) == far).any(1)
    cells = behind.add_((k + 1) * torch.arange(len(dist), device=dist.device)[:, None])
    others = torch.bincount(cells.flatten(), minlength=len(dist) * (k + 1)).view(-1, k + 1)[:, :k].cumsum(1)
    found = torch.arange(1, k + 1, device=dist.device)
    place = others + found  # (n, k) of the i-th match, where there is one
    exists = found <= total[:, None]
    out = _figures(place, found.expand_as(place), exists, total)
    if tied.any():
        order = dist[tied].masked_fill(~keep[tied], torch.inf).sort(dim=1, stable=True).indices
        ordered = hit[tied].gather(1, order)  # what is not kept stands behind all that is
        place = torch.arange(1, order.shape[1] + 1, device=dist.device).expand_as(order)
        for name, values in _figures(place, ordered.cumsum(1), ordered, total[tied]).items():
            out[name][tied] = values
    return out


def _figures(place: Tensor, found: Tensor, exists: Tensor, total: Tensor) -> dict[str, Tensor]:
    """Places (n, k) of matches, the number found up to each, which of them exist, and their number (n,)."""
    valid = total > 0
    number = total.where(valid, torch.nan).to(torch.float64)
    precision = torch.where(exists, found / place.to(torch.float64), 0).sum(1)
    first = place.masked_fill(~exists, torch.iinfo(place.dtype).max).amin(1)
    return {"valid": valid, "first": first.where(valid, 0), "ap": precision / number,
            "inp": number / (place * exists).amax(1)}


def first_match(dist: Tensor, match: Tensor) -> Tensor:
    """dist (n, m), match (n, m) bool, m > 0 -> place of the first match (n,) int64, from 1; 0 where there is none.

    The same place that `rank` finds, equal distances in gallery order, by counting who stands before it.
    """
    near = dist.masked_fill(~match, torch.inf)
    at = near.argmin(1, keepdim=True)  # of several nearest the first
    nearest = near.gather(1, at)
    before = (dist < nearest).sum(1)
    tied = ((dist == nearest).sum(1) > 1).nonzero()[:, 0]
    earlier = torch.arange(dist.shape[1], device=dist.device) < at[tied]
    before[tied] += ((dist[tied] == nearest[tied]) & earlier).sum(1)
    return torch.where(nearest[:, 0].isfinite(), before + 1, 0)
