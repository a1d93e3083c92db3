"""Pairs of walks in; thresholds and true-accept rates, as a plain loop finds them, out."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpmt_ext.metrics.verification import Pairs, interval, pairs_of, pooled, threshold, true_accepts

TOOL = Path(__file__).parents[1] / "tools/verification.py"
_distance = st.integers(0, 6).map(lambda x: x / 2)  # many ties


@given(st.lists(_distance, min_size=1, max_size=12), st.lists(_distance, min_size=1, max_size=12),
       st.sampled_from([0.001, 0.1, 0.25, 0.5, 0.9]))  # fmt: skip
def test_a_threshold_lets_no_more_impostors_pass_and_no_fewer(genuine: list, impostor: list, far: float) -> None:
    pairs = Pairs(np.array(genuine), np.array(impostor), np.array(["a"] * len(genuine)))
    cut = threshold(pairs.impostor, far)
    passed = np.mean([x <= cut for x in impostor])
    assert passed <= far + 1e-9
    higher = [x for x in impostor if x > cut]
    assert not higher or np.mean([x <= min(higher) for x in impostor]) > far
    found = true_accepts(pairs, [far])
    assert found[f"TAR@{100 * far:g}%"] == pytest.approx(100 * sum(x <= cut for x in genuine) / len(genuine))
    gaps = [abs(np.mean([x > c for x in genuine]) - np.mean([x <= c for x in impostor])) for c in {*genuine, *impostor}]
    assert min(gaps) <= 1 and 0 <= found["EER"] <= 100


def test_pairs_are_taken_once_and_stay_within_a_file() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    pairs = pairs_of(x, ["a", "a", "b", "b", "b"], "euc")
    loop = {True: [], False: []}
    for i in range(5):
        for j in range(i + 1, 5):
            loop[(i < 2) == (j < 2)].append(np.mean([np.linalg.norm(x[i, :, p] - x[j, :, p]) for p in range(2)]))
    np.testing.assert_allclose(np.sort(pairs.genuine), np.sort(loop[True]), rtol=1e-5)
    np.testing.assert_allclose(np.sort(pairs.impostor), np.sort(loop[False]), rtol=1e-5)
    both = pooled([pairs, pairs])
    assert len(both.genuine) == 8 and len(both.impostor) == 12 and len(np.unique(both.names)) == 4
    low, high = interval(both, [0.3])["TAR@30%"]
    assert low <= true_accepts(both, [0.3])["TAR@30%"] <= high


def test_the_tool_reads_what_a_test_wrote(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main = runpy.run_path(str(TOOL))["main"]
    rng, files = np.random.default_rng(1), []
    for k in range(2):
        centre = rng.normal(size=(4, 1, 3, 2))
        x = (centre + 0.01 * rng.normal(size=(4, 3, 3, 2))).reshape(12, 3, 2).astype(np.float32)
        files.append(tmp_path / f"e{k}.npz")
        np.savez(files[-1], embeddings=x, labels=np.repeat(list("abcd"), 3))
    assert main([*map(str, files), "--metric", "euc", "--json", str(tmp_path / "v.json")]) == 0
    out = capsys.readouterr().out
    assert "2 files, 8 people, 24 genuine and 108 impostor pairs" in out and "100.0 to 100.0" in out
    for words, sentence in (([str(tmp_path / "none.npz")], "is not the embeddings.npz"),
                            ([str(files[0]), "--far", "2"], "--far 2")):  # fmt: skip
        assert main([*words, "--metric", "euc"]) == 2
        assert sentence in capsys.readouterr().err
