"""Scores and labels in; accuracy, macro figures and confusion as a naive loop counts them, and their pictures, out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpmt_ext.errors import UserError
from bpmt_ext.metrics.classification import METRICS, class_figures, classify, confusion_matrix, places, softmax
from bpmt_ext.report.confusion import write_confusion


def naive(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics, counted one sequence and one class after the other."""
    n, k = scores.shape
    orders = [sorted(range(k), key=lambda j, i=i: (-scores[i, j], j)) for i in range(n)]
    top = {m: 100 * sum(labels[i] in orders[i][:m] for i in range(n)) / n for m in (1, 5)}
    rows = []
    for j in range(k):
        right = sum(labels[i] == j and orders[i][0] == j for i in range(n))
        there, answered = sum(x == j for x in labels), sum(order[0] == j for order in orders)
        if there or answered:
            precision = right / answered if answered else 0.0
            recall = right / there if there else 0.0
            f1 = 2 * precision * recall / (precision + recall) if right else 0.0
            rows.append((precision, recall, f1))
    macro = [100 * float(np.mean(column)) for column in zip(*rows, strict=True)]
    return dict(zip(METRICS, [top[1], top[5], *macro], strict=True))


@given(st.integers(1, 30), st.integers(2, 9), st.integers(0, 10**6))
def test_metrics_are_those_of_a_loop(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (n, k)) / 4  # many ties
    labels = rng.integers(0, k, n)
    found = classify(scores, labels, [str(j) for j in range(k)])
    expected = naive(scores, labels)
    assert found["metrics"].keys() == expected.keys()
    assert all(abs(found["metrics"][name] - value) < 1e-9 for name, value in expected.items())
    assert sum(row["sequences"] for row in found["per_class"].values()) == n


def test_confusion_has_rows_of_the_class_and_columns_of_the_answer() -> None:
    found = confusion_matrix(np.array([1, 1, 0, 2]), np.array([1, 0, 0, 2]), 4)
    assert found.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    each = class_figures(found)
    assert each["precision"].tolist() == [1, 0.5, 1, 0] and each["recall"].tolist() == [0.5, 1, 1, 0]


def test_a_known_table() -> None:
    """Three classes, 2 of 4 right; class c neither occurs nor is answered, so that it counts nowhere."""
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.7, 0.3, 0.0]])
    found = classify(scores, np.array([0, 0, 1, 0]), ["a", "b", "c"])
    assert found["metrics"]["top1"] == 50 and found["metrics"]["top5"] == 100
    assert found["metrics"]["macro_recall"] == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert found["metrics"]["macro_precision"] == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert found["per_class"]["a"]["accuracy"] == pytest.approx(200 / 3)


def test_softmax_survives_large_logits() -> None:
    assert np.allclose(softmax(np.array([[1e4, 0.0], [0.0, np.log(3)]])), [[1, 0], [0.25, 0.75]])


def test_bad_scores_are_refused() -> None:
    with pytest.raises(UserError, match="1 of 2 sequences have scores that are not finite"):
        classify(np.array([[0.5, 0.5], [np.nan, 1]]), np.array([0, 1]), ["a", "b"])
    with pytest.raises(UserError, match="no sequence to classify"):
        classify(np.zeros((0, 2)), np.zeros(0, dtype=int), ["a", "b"])
    with pytest.raises(ValueError, match="labels must lie in 0..1"):
        places(np.zeros((1, 2)), np.array([2]))


@pytest.mark.parametrize("classes", [3, 40])
def test_picture_and_table(tmp_path: Path, classes: int) -> None:
    names = [f"class_{i}" for i in range(classes - 1)] + ["b\udcff"]  # a folder's name may be no text
    confusion = np.random.default_rng(0).integers(0, 5, (classes, classes))
    write_confusion(confusion, names, tmp_path / "confusion.png", title="t")
    assert (tmp_path / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    lines = (tmp_path / "confusion.csv").read_text().splitlines()
    assert lines[0].split(",")[1:] == [*names[:-1], "b\\udcff"]
    assert [int(x) for x in lines[2].split(",")[1:]] == confusion[1].tolist()
