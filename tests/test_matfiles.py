"""MATLAB files: what scipy writes is read back, and no damage brings more than one sentence."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpmt_ext.data.matfiles import load_mat
from bpmt_ext.errors import UserError

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


@pytest.mark.parametrize("packed", [True, False])
def test_what_was_written_is_read(packed: bool, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    shapes = [(1, 1), (3, 2), (2, 3, 4), (1, 0), (2, 2, 2, 3)] * 2
    values = {f"a_{d}": draw.integers(0, 100, shape).astype(d) for d, shape in zip(DTYPES, shapes, strict=True)}
    values |= {"text": "Grüße"} | {f"one{i}": np.full((1, i), 7, np.uint8) for i in range(1, 10)}  # small elements, too
    scipy.io.savemat(tmp_path / "a.mat", {**values, "other": {"a": [1, "b"]}}, do_compression=packed)
    found = load_mat(tmp_path / "a.mat", [*values], 1000, "numbers")
    assert sorted(found) == sorted(values) and found.pop("text").tolist() == ["Grüße"]
    for name, array in found.items():
        assert array.dtype == values[name].dtype and np.array_equal(array, values[name]), name
        assert array.flags.writeable
    with pytest.raises(UserError, match="has no b and no c .it holds a_"):
        load_mat(tmp_path / "a.mat", ["b", "a_u1", "c"], 1000, "numbers")
    with pytest.raises(UserError, match="more than there can be"):
        load_mat(tmp_path / "a.mat", ["a_u2"], 20, "numbers")


def test_the_other_byte_order(tmp_path: Path) -> None:
    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    matrix = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 2, 3)) + element(1, b"abc")
    matrix += element(9, np.arange(6, dtype=">f8").tobytes())
    (tmp_path / "a.mat").write_bytes(bytes(124) + b"\1\0MI" + element(14, matrix))
    found = load_mat(tmp_path / "a.mat", ["abc"], 6, "numbers")["abc"]
    assert found.tolist() == [[0, 2, 4], [1, 3, 5]] and found.dtype == np.float64


@pytest.mark.parametrize("words, value", [
    ("MATLAB cell", np.array([[np.zeros(2), "a"]], object)), ("MATLAB struct", {"a": 1}),
    ("complex numbers", np.array([1j])), ("damaged", ["one", "row", "each"]),
])  # fmt: skip
def test_what_is_no_plain_array_is_refused(words: str, value: object, tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"a": value, "b": 1.0})
    with pytest.raises(UserError, match=words):
        load_mat(tmp_path / "a.mat", ["a"], 1000, "numbers")
    assert load_mat(tmp_path / "a.mat", ["b"], 1000, "numbers")["b"] == 1  # it is not even looked at


def written(path: Path, packed: bool) -> bytes:
    scipy.io.savemat(path, {"fea": np.arange(600, dtype=np.uint8).reshape(5, 6, 20), "gnd": np.ones(5)},
                     do_compression=packed)  # fmt: skip
    return path.read_bytes()


@pytest.mark.parametrize("packed", [True, False])
def test_cut_off_anywhere_is_one_sentence(packed: bool, tmp_path: Path) -> None:
    whole = written(tmp_path / "a.mat", packed)
    for size in [*range(0, 200), *range(200, len(whole) - 20, 7)]:
        (tmp_path / "a.mat").write_bytes(whole[:size])
        with pytest.raises(UserError, match="a.mat: (is|has) "):
            load_mat(tmp_path / "a.mat", ["fea", "gnd"], 1000, "numbers")


@pytest.mark.parametrize("packed", [True, False])
@given(changes=st.lists(st.tuples(st.integers(120, 700), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_gives_an_array_or_one_sentence(packed: bool, changes: list[tuple[int, int]], tmp_path: Path) -> None:
    content = bytearray(written(tmp_path / "a.mat", packed))
    for place, value in changes:
        content[place % len(content)] = value
    (tmp_path / "a.mat").write_bytes(bytes(content))
    try:
        found = load_mat(tmp_path / "a.mat", ["fea", "gnd"], 1000, "numbers")
    except UserError as error:
        assert str(error).count("\n") == 0 and str(error).isprintable()
    else:
        assert all(array.size <= 1000 for array in found.values())
