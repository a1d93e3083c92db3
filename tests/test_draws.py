"""Keys in; numbers that depend on a sequence's key and an element's indices alone, evenly spread, out."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bpmt_ext import draws
from bpmt_ext.draws import Draws

WORD = 2**64
KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5)


def signed(x: int) -> int:
    return (x + 2**63) % WORD - 2**63


def mixed(x: int) -> int:
    """SplitMix64's finaliser in Python's own integers (Steele, Lea and Flood 2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


def absorbed(key: int, value: int) -> int:
    return mixed((key + (value + 1) * 0x9E3779B97F4A7C15) % WORD)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**70), st.integers(0, 2**40), st.integers(0, 2**40))
def test_the_hash_is_that_of_plain_integers(seed: int, iteration: int, position: int) -> None:
    key = absorbed(absorbed(mixed(seed % WORD), iteration), position)
    draws = Draws.at(seed, iteration, [position])
    assert draws.keys.tolist() == [signed(key)]
    word = absorbed(absorbed(absorbed(key, 0x5851F42D), 1), 2)
    assert draws.bits(2, 3)[0, 1, 2].item() == signed(word)
    assert draws.uniform(2, 3)[0, 1, 2].item() == (word >> 40) / 2**24
    assert draws.integers(1000, 2, 3)[0, 1, 2].item() == (word >> 11) % 1000
    assert draws.split(7).keys.tolist() == [signed(absorbed(key, 7))]


def test_numbers_never_change() -> None:
    """Trained weights and published figures hang on them."""
    draws = Draws.at(7, 3, [0, 5])
    assert draws.keys.tolist() == [-3349638618623693864, -5837052871813288842]
    assert draws.split("a").keys.tolist() == [6550587617679995729, -7617334321339144799]
    assert draws.uniform(2).tolist() == [
        [0.5013584494590759, 0.49339258670806885], [0.661805272102356, 0.46138256788253784],
    ]  # fmt: skip
    expected = torch.tensor([[-0.6347776055, -1.3807317019], [-0.0791501105, 0.0091382321]])
    assert torch.allclose(draws.normal(2), expected, atol=1e-6)
    assert draws.integers(10, 3).tolist() == [[8, 9, 9], [3, 6, 5]]


@settings(max_examples=30, deadline=None)
@given(KEYS, st.integers(1, 4), st.integers(1, 4), st.randoms())
def test_an_element_knows_its_key_and_its_indices_only(keys: list[int], a: int, b: int, random: object) -> None:
    draws, order = Draws(torch.tensor(keys)), list(range(len(keys)))
    random.shuffle(order)
    for name in ("bits", "uniform", "normal"):
        large = getattr(draws, name)(a + 2, b + 3)
        assert torch.equal(getattr(draws, name)(a, b), large[:, :a, :b])  # padding behind
        assert torch.equal(getattr(draws, name)(a, b), getattr(draws, name)(a, b))  # the order of calls
        assert torch.equal(getattr(Draws(torch.tensor(keys)[order]), name)(a, b), large[order, :a, :b])  # batch mates
        alone = torch.cat([getattr(Draws(torch.tensor([key])), name)(a, b) for key in keys])
        assert torch.equal(alone, large[:, :a, :b])


def test_the_global_generator_is_neither_asked_nor_moved() -> None:
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), Draws.at(0, 0, [1]).normal(3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, Draws.at(0, 0, [1]).normal(3))


def test_seed_iteration_position_and_stream_all_matter() -> None:
    keys = {int(Draws.at(s, i, [p]).keys) for s in range(12) for i in range(12) for p in range(12)}
    assert len(keys) == 12**3
    draws = Draws.at(0, 0, range(2000))
    streams = [draws, draws.split("a"), draws.split("b"), draws.split(0), draws.split(1), draws.split("a").split("a")]
    numbers = torch.stack([s.uniform() for s in streams])
    assert (torch.corrcoef(numbers) - torch.eye(len(streams))).abs().max() < 0.1
    assert not torch.equal(draws.split(0).keys, draws.split("0").keys)


def test_uniform_numbers_are_uniform() -> None:
    draws = Draws.at(3, 1, range(400))
    x = draws.uniform(500)
    assert x.min() >= 0 and x.max() < 1 and x.dtype == torch.float32
    assert abs(x.mean() - 0.5) < 0.003 and abs(x.var() - 1 / 12) < 0.001
    counts = torch.histc(x, 50, 0, 1)
    expected = x.numel() / 50
    assert ((counts - expected).square() / expected).sum() < 94  # chi-square of 49 degrees of freedom, p = 0.0001
    for one, other in ((x[:, 1:], x[:, :-1]), (x[1:], x[:-1])):  # neighbours in a row, and in a column
        assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.01
    y = draws.uniform(500, low=-3, high=5)
    assert torch.allclose(y, 8 * x - 3)


def test_normal_numbers_are_normal() -> None:
    x = Draws.at(5, 2, range(400)).normal(500).double()
    assert abs(x.mean()) < 0.01 and abs(x.var() - 1) < 0.02
    assert abs(x.pow(3).mean()) < 0.03 and abs(x.pow(4).mean() - 3) < 0.1
    for bound, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert abs((x.abs() < bound).double().mean() - share) < 0.004


def test_integers_stay_below_their_own_bound_and_are_even() -> None:
    draws = Draws.at(1, 0, range(3))
    x = draws.integers(torch.tensor([1, 3, 10]), 30_000)
    assert x.dtype == torch.int64 and x.amin(1).tolist() == [0, 0, 0] and x.amax(1).tolist() == [0, 2, 9]
    for row, high in zip(x[1:], (3, 10), strict=True):
        assert torch.allclose(torch.bincount(row) / len(row), torch.full((high,), 1 / high), atol=0.01)
    assert torch.equal(draws.integers(10, 5)[2], draws.integers(torch.tensor([1, 3, 10]), 5)[2])
    assert draws.integers(4).shape == (3,) and draws.integers(torch.tensor([1, 1, 1])).tolist() == [0, 0, 0]


def test_keys_must_be_one_row_of_int64() -> None:
    for wrong in (torch.zeros(2), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, dtype=torch.int32)):
        with pytest.raises(ValueError, match="int64"):
            Draws(wrong)


def test_streams_of_networks_are_constants_to_a_compiler() -> None:
    """A stream's number that is worked out while a network is compiled cannot be wrapped to 64 bits."""
    nets = Path(draws.__file__).parent / "nets"
    texts = [path.read_text("utf-8") for path in nets.glob("*.py")]
    named = {name for text in texts for name in re.findall(r"\.split\(\"(\w+)\"\)", text)}
    assert len(named) > 9 and named <= set(draws._WORDS)
    assert all(draws._WORDS[name] == zlib.crc32(name.encode()) + (1 << 33) for name in named)
