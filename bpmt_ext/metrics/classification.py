"""Class scores (n, k) and labels (n,) in; top-1, top-5, macro precision, recall and F1, and a confusion matrix out.

Pure functions over numpy arrays; percent. Of equal scores the class with the lower number comes first. Macro figures
are means over the classes that occur among the labels or the answers, a ratio of nothing to nothing counts as 0: the
numbers of scikit-learn, which the published ones were made with (tlca.md, section 3; protocols.md, section 4).
Letters: n sequences, k classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bpmt_ext.errors import UserError

CLASSIFICATION = ("evaluate_actions",)  # values of evaluator_cfg.eval_func beside PROTOCOLS: closed-set recognition
METRICS = ("top1", "top5", "macro_precision", "macro_recall", "macro_f1")


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, k) -> (n, k) rows of probabilities."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def places(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) how many classes come before the right one: 0 where the answer is right."""
    _check(scores, labels)
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(axis=1)


def confusion_matrix(answers: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """answers, labels (n,) -> (k, k) int64: sequences of the row's class that were taken for the column's."""
    return np.bincount(labels * classes + answers, minlength=classes * classes).reshape(classes, classes)


def class_figures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """(k, k) -> precision, recall (the accuracy of each class) and f1 (k,) in 0..1, support (k,) sequences."""
    right, support, answered = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        "precision": right / np.maximum(answered, 1),
        "recall": right / np.maximum(support, 1),
        "f1": 2 * right / np.maximum(support + answered, 1),
        "support": support,
    }


def classify(scores: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Scores (n, k), labels (n,) int64 into `classes` -> {"metrics": {name: percent}, "per_class": {class: {accuracy,
    precision, f1 (percent), sequences}}, "confusion": (k, k) int64, "places": (n,)}.

    UserError where there is nothing to score or a score is not finite.
    """
    if not len(labels):
        raise UserError("there is no sequence to classify; check TEST of data_cfg.dataset_partition")
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise UserError(
            f"{len(bad)} of {len(scores)} sequences have scores that are not finite; the checkpoint has diverged or "
            "the precision overflows: test with enable_float16: false, or take an earlier checkpoint"
        )
    if scores.shape[1] != len(classes):
        raise ValueError(f"scores {scores.shape} of {len(classes)} classes")
    found = places(scores, labels)
    confusion = confusion_matrix(scores.argmax(axis=1), labels, len(classes))
    each = class_figures(confusion)
    occurs = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    macro = {name: 100 * float(each[name][occurs].mean()) for name in ("precision", "recall", "f1")}
    values = [100 * float((found < k).mean()) for k in (1, 5)]
    per_class = {
        name: {
            "accuracy": 100 * float(each["recall"][i]), "precision": 100 * float(each["precision"][i]),
            "f1": 100 * float(each["f1"][i]), "sequences": int(each["support"][i]),
        }
        for i, name in enumerate(classes)
    }  # fmt: skip
    metrics = dict(zip(METRICS, [*values, *macro.values()], strict=True))
    return {"metrics": metrics, "per_class": per_class, "confusion": confusion, "places": found}


def _check(scores: np.ndarray, labels: np.ndarray) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores (n, k) and labels (n,) are needed, not {scores.shape} and {labels.shape}")
    if len(labels) and not (0 <= labels.min() and labels.max() < scores.shape[1]):
        raise ValueError(f"labels must lie in 0..{scores.shape[1] - 1}")
