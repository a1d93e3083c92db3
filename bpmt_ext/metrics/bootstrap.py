"""Per-probe values of two methods in; difference, interval and p value over resampled identities out.

Probes of one identity are not independent (one person, one gait, the same rivals), so identities are drawn, not probes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEW = 20  # identities: intervals over fewer come out too narrow
# n identities have comb(2 n - 1, n) different samples: from 9 on (24,310) more than are drawn by default; of fewer the
# same ones come again and again, and say nothing about a small p
LEAST_FOR_P = 9
_BLOCK = 2**22  # counts drawn at a time: 32 MB


def paired_bootstrap(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    identities: Sequence[str] | np.ndarray,
    draws: int = 10000,
    seed: int = 0,
) -> tuple[float, float, float, float]:
    """Mean of a - b over probes, with the spread from drawing identities with replacement.

    a, b (n,): the same metric of the same probes under two methods, NaN where the probe is not valid (left out; both
    must agree on which). identities (n,): whose probe it is. For a macro difference pass one value per identity.
    -> (difference, low, high, p): low and high bound the central 95 % of the draws, in the unit of a and b; p is
    two-sided, the share of draws on the other side of 0, at least 2 / (draws + 1) and at most 1; of fewer than
    LEAST_FOR_P identities it says nothing.
    ValueError for unequal lengths, unequal NaNs, no valid probe or fewer than two identities.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    identities = np.asarray(identities)
    if a.ndim != 1 or not a.shape == b.shape == identities.shape:
        raise ValueError(f"a, b and identities must be (n,), got {a.shape}, {b.shape}, {identities.shape}")
    valid = np.isfinite(a)
    if not np.array_equal(valid, np.isfinite(b)):
        raise ValueError("a and b leave out different probes: they were not measured by the same protocol")
    names, owner = np.unique(identities[valid], return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"resampling needs two identities or more with a valid probe, got {len(names)}")
    if draws < 1:
        raise ValueError(f"draws must be positive, got {draws}")
    sums = np.bincount(owner, weights=a[valid] - b[valid])  # (k,)
    sizes = np.bincount(owner)
    rng = np.random.default_rng(seed)
    means = []
    step = max(1, _BLOCK // len(names))
    for start in range(0, draws, step):
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=min(step, draws - start))
        means.append((counts @ sums) / (counts @ sizes))
    sample = np.concatenate(means)
    low, high = np.quantile(sample, [0.025, 0.975])
    tail = 1 + min(np.count_nonzero(sample <= 0), np.count_nonzero(sample >= 0))
    return float(sums.sum() / sizes.sum()), float(low), float(high), min(1.0, 2 * tail / (draws + 1))
