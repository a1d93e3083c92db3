"""Keys (n,) in, random numbers (n, ...) out: draws that depend on a sequence's key and an element's indices alone.

A network, a loader worker and a GPU must all draw the same numbers for the same sequence, whatever the batch
around it, its padding, the rank or the order of the calls. Generators with a state cannot do that; a hash can
(counter-based random numbers: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The mixing
function is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), in wrapping 64-bit integers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _word(name: str) -> int:
    """A stream's number."""
    return zlib.crc32(name.encode()) + (1 << 33)


# Those of the streams that networks draw from: torch.compile takes a number from here for a constant, but one that is
# worked out on the way for a variable, whose products it cannot wrap.
_WORDS = {name: _word(name) for name in (
    "angle", "body", "chosen", "clip", "fake", "frame", "grouping", "masking", "noise", "offset", "order", "part",
    "part_mask", "radius", "score",
)}  # fmt: skip


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: torch's `>>` keeps the sign of an int64."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64 finaliser, elementwise on int64."""
    x = _shift(x, 30).bitwise_xor_(x).mul_(_MIX_1)
    x = _shift(x, 27).bitwise_xor_(x).mul_(_MIX_2)
    return _shift(x, 31).bitwise_xor_(x)


def _wrap(value: int) -> int:
    """A Python integer as a signed 64-bit one."""
    return (value + 2**63) % 2**64 - 2**63


def _absorb(key: Tensor, value: Tensor | int) -> Tensor:
    """A new key from a key and one more integer; broadcasts."""
    if isinstance(value, int):  # multiplied here: a compiler would do it in integers without end, and fail
        return _mix(key + _wrap((value + 1) * _GOLDEN))
    return _mix(key + (value + 1) * _GOLDEN)


class Draws:
    """Random numbers for n sequences, one row each.

    keys: (n,) int64, one per sequence. Equal keys give equal rows, on every device.
    """

    def __init__(self, keys: Tensor) -> None:
        if keys.dtype != torch.int64 or keys.ndim != 1:
            raise ValueError(f"keys must be (n,) int64, got {tuple(keys.shape)} {keys.dtype}")
        self.keys = keys

    @classmethod
    def at(cls, seed: int, iteration: int, positions: Sequence[int] | Tensor) -> Draws:
        """Draws of the sequences at these positions of the global batch of one iteration."""
        positions = torch.as_tensor(positions, dtype=torch.int64)
        start = _absorb(_mix(torch.tensor(_wrap(seed), dtype=torch.int64)), iteration)
        return cls(_absorb(start.expand(positions.shape), positions))

    def split(self, name: str | int) -> Draws:
        """An independent stream for the same sequences."""
        word = _WORDS.get(name) if isinstance(name, str) else name
        return Draws(_absorb(self.keys, _word(str(name)) if word is None else word))

    def bits(self, *shape: int) -> Tensor:
        """(n, *shape) int64, all 64 bits random. An element depends on its indices, not on the extents of `shape`."""
        key = _absorb(self.keys, 0x5851F42D)
        for size in shape:
            index = torch.arange(size, dtype=torch.int64, device=key.device)
            key = _absorb(key[..., None], index)
        return key

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(n, *shape) float32 in [low, high)."""
        unit = _shift(self.bits(*shape), 40).to(torch.float32).mul_(2.0**-24)
        return unit if (low, high) == (0.0, 1.0) else low + (high - low) * unit

    def normal(self, *shape: int) -> Tensor:
        """(n, *shape) float32, standard normal (Box and Muller)."""
        radius = self.split("radius").uniform(*shape).neg_().log1p_().mul_(-2).sqrt_()
        return self.split("angle").uniform(*shape).mul_(2 * math.pi).cos_().mul_(radius)

    def integers(self, high: Tensor | int, *shape: int) -> Tensor:
        """(n, *shape) int64 in [0, high); `high` an integer or one per sequence (n,)."""
        if not isinstance(high, Tensor):
            high = torch.full(self.keys.shape, high, dtype=torch.int64, device=self.keys.device)
        high = high.to(self.keys.device).reshape(-1, *[1] * len(shape))
        return _shift(self.bits(*shape), 11) % high
