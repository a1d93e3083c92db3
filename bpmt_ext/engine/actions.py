"""A run and labelled sequences in; class scores, their figures and files out: testing and validating recognition.

Settings whose evaluator_cfg.eval_func is in CLASSIFICATION are tested this way: the classes of the training are those
of the test. Shapes: n sequences, k classes, p parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from bpmt_ext.config import Settings
from bpmt_ext.data.sequences import SequenceSet, Splits
from bpmt_ext.engine.inference import collect
from bpmt_ext.engine.logs import log
from bpmt_ext.engine.parts import Run
from bpmt_ext.errors import UserError
from bpmt_ext.losses import CrossEntropyLoss
from bpmt_ext.metrics.classification import classify, softmax

KEYS = ("scores", "labels", "names", "classes")  # of predictions.npz


class Predictions(NamedTuple):
    """Of a set of sequences, in its order: scores (n, k) float32, each row's sum 1, labels (n,) int64 into the classes
    (k,), and names (n,) "label-type-view"."""

    scores: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    classes: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """As predictions.npz holds them."""
        return self._asdict()


def predict(run: Run, sequences: SequenceSet, *, progress: bool = True) -> Predictions:
    """The softmax of the parts' mean logits, times the scale of the loss they were trained with."""
    if run.method.pretraining:
        raise UserError(f"{run.settings.model_cfg.model} reconstructs and names no class; test the stage after it")
    scale = next((loss.scale for _, loss, _ in run.objective.losses if isinstance(loss, CrossEntropyLoss)), 1.0)

    def logits(out: Mapping[str, Tensor]) -> Tensor:
        if "logits" not in out:
            raise UserError(f"model_cfg.num_class is 0: {run.settings.model_cfg.model} names no class; leave it out")
        return out["logits"].mean(2)

    found = collect(run, sequences, logits, progress=progress)
    classes = np.array(sequences.label_set)
    if found.shape[1] != len(classes):
        raise UserError(
            f"the network tells {found.shape[1]} classes apart, the data has {len(classes)}; test it with the "
            "partition it was trained with, or one of the same CLASSES"
        )
    scores = softmax(scale * found.astype(np.float64)).astype(np.float32)
    return Predictions(scores, sequences.labels, np.array(sequences.names), classes)


def validation_figures(run: Run) -> dict[str, float]:
    """Cross-entropy of the right class (no smoothing) and the metrics on the validation split."""
    found = predict(run, run.splits.val, progress=False)
    own = found.scores[np.arange(len(found.labels)), found.labels].astype(np.float64)
    loss = float(-np.log(np.maximum(own, 1e-12)).mean())
    return {"validation/loss": loss, **classify(found.scores, found.labels, found.classes)["metrics"]}


def action_counts(settings: Settings, splits: Splits) -> dict[str, Any]:
    """{protocol, sequences, classes: {class: {train, val, test}}} of a test.

    UserError if nobody is to be tested, or the classes of the test are not those of the training.
    """
    file = settings.data_cfg.dataset_partition
    if not len(splits.test):
        raise UserError(
            f"{file}: its test list has no sequence here; convert the data set's test part, take another partition "
            "(a fold), or set trainer_cfg.with_test: false"
        )
    check_classes(settings, splits)
    counts = {name: [len(rows) for rows in getattr(splits, name).indices_by_label] for name in ("train", "val", "test")}
    by_class = {
        label: {name: of_classes[i] for name, of_classes in counts.items() if of_classes}
        for i, label in enumerate(splits.train.label_set)
    }
    return {"protocol": settings.evaluator_cfg.eval_func, "sequences": len(splits.test), "classes": by_class}


def check_classes(settings: Settings, splits: Splits) -> None:
    """UserError if the sides have other classes, if no class of a side has training sequences, or only one has any; a
    warning if some have none."""
    file, known = settings.data_cfg.dataset_partition, set(splits.train.labels.tolist())
    if len(known) < 2:
        raise UserError(f"{file}: {len(known)} class has training sequences; recognition needs at least 2")
    for name in ("val", "test"):
        side = getattr(splits, name)
        if not len(side):
            continue
        there = set(side.labels.tolist())
        if side.label_set != splits.train.label_set or not there & known:
            raise UserError(
                f"{file}: the classes of {name} are not those of the training; {settings.evaluator_cfg.eval_func} "
                "takes a partition that lists sequences: CLASSES, TRAIN, TEST and where wanted VAL"
            )
        strange = [side.label_set[i] for i in sorted(there - known)]
        if strange:
            log.warning("%s: %s of %s cannot be learned: no training sequence", file, ", ".join(strange), name)


def action_results(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of the test split for results.json, and what goes to files: predictions, confusion and per_probe."""
    return results_of(predict(run, run.splits.test), run.splits.test, run.settings.evaluator_cfg.eval_func)


def results_of(found: Predictions, test: SequenceSet, protocol: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `action_results`, of scores from wherever.

    per_probe, for paired comparisons: index (n,), condition, label (here the subject or clip, which is what a bootstrap
    draws), top1 and top5 (n,) 0 or 1.
    """
    result = classify(found.scores, found.labels, found.classes)
    places, confusion = result.pop("places"), result.pop("confusion")
    kept = {
        "index": np.arange(len(test)), "condition": np.full(len(test), ""),
        "label": np.array([kind.partition("_")[0] for kind in test.types]),
        "top1": (places < 1).astype(np.float64), "top5": (places < 5).astype(np.float64),
    }  # fmt: skip
    told = {"protocol": protocol, "probes": {"total": len(test), "valid": len(test)}}
    return {**told, **result}, {"predictions": found, "confusion": confusion, "per_probe": kept}
