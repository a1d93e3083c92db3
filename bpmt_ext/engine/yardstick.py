"""A yardstick's name and a split in; its results, as those of a method's cell, out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bpmt_ext.config import Settings, suggestion
from bpmt_ext.data.sequences import Splits
from bpmt_ext.data.transforms import build_transform
from bpmt_ext.engine.actions import Predictions, results_of
from bpmt_ext.engine.cell import save_probes
from bpmt_ext.engine.comparability import Case
from bpmt_ext.engine.logs import write_json
from bpmt_ext.engine.parts import classifies
from bpmt_ext.engine.stages import data_skeleton, load_recorded, pose_skeleton
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.action_yardsticks import ACTION_YARDSTICKS
from bpmt_ext.metrics.protocols import evaluate
from bpmt_ext.metrics.yardsticks import SILHOUETTE_YARDSTICKS, YARDSTICKS, embed, fill_lost

KINDS = {"pose": YARDSTICKS, "silhouette": SILHOUETTE_YARDSTICKS, "action": ACTION_YARDSTICKS}


def chosen_yardsticks(names: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """The yardsticks asked for; `all` stands for all that this kind of data has. UserError for one it has not."""
    kind = "action" if classifies(settings) else settings.data_cfg.modality
    known = KINDS[kind]
    for name in names:
        if name not in known and name != "all":
            what = [each for each in KINDS if name in KINDS[each]]
            told = f"it measures {what[0]}s and these data are {kind}s" if what else "there is no such yardstick"
            raise UserError(f"--yardsticks {name}: {told}{suggestion(name, known)}")
    return tuple(known) if "all" in names else tuple(dict.fromkeys(names))


def measure(name: str, settings: Settings, splits: Splits) -> np.ndarray:
    """The yardstick's embeddings (n, d, 1) float32 of the test set.

    Poses: lost joints filled in, standardised on the training and validation sequences. Silhouettes: as the test's
    transforms make them, raw.
    """
    test = splits.test
    if settings.data_cfg.modality == "silhouette":
        transform = build_transform(settings.evaluator_cfg.transform, data_skeleton(settings))
        clips = (torch.from_numpy(test.read(i))[None] for i in range(len(test)))
        made = (transform(clip, torch.ones(clip.shape[:2], dtype=torch.bool))[0].numpy() for clip in clips)
        return SILHOUETTE_YARDSTICKS[name](made)
    skeleton = data_skeleton(settings)
    known, tested = (
        fill_lost((part.read(i) for part in parts for i in range(len(part))), skeleton)
        for parts in ((splits.train, splits.val), (test,))
    )
    return embed(name, tested, known, skeleton)


def recognised(name: str, settings: Settings, splits: Splits) -> dict[str, Any]:
    """The figures of an action yardstick and per_probe: it knows the training and the validation clips."""
    test, parts = splits.test, (splits.train, splits.val)
    poses = [test.read(i) for i in range(len(test))]
    known = [part.read(i) for part in parts for i in range(len(part))]
    classes, labels = np.array(test.label_set), np.concatenate([part.labels for part in parts])
    scores = ACTION_YARDSTICKS[name](poses, known, labels, len(classes), pose_skeleton(settings))
    found = Predictions(scores, test.labels, np.array(test.names), classes)
    figures, arrays = results_of(found, test, settings.evaluator_cfg.eval_func)
    return {**figures, "per_probe": arrays["per_probe"]}


def yardstick_cell(folder: Path, label: str, name: str, case: Case, settings: Settings) -> dict[str, Any]:
    """Score a yardstick on every test set of a split, by the rule of the settings, and write `result.json`.

    What it learns from training sequences it takes from each test set's own root; distances are Euclidean.
    """
    e, scores = settings.evaluator_cfg, {}
    for test in case.tests:
        there = case.settings(settings, test)
        splits = load_recorded(there)
        found = recognised(name, there, splits) if classifies(there) else evaluate(
            e.eval_func, measure(name, there, splits), [r.label for r in splits.test.records],
            splits.test.types, splits.test.views, dataset=there.data_cfg.test_dataset_name, probes=splits.probes,
            same_camera=e.same_camera, camera=e.camera, cross_view_gallery=e.cross_view_gallery,
        )  # fmt: skip
        found.pop("submission", None)
        save_probes(folder, test, found.pop("per_probe"), splits)
        scores[test] = {"dataset": settings.data_cfg.dataset_name, **found}
    result = {"label": label, "fold": case.name, "seed": None, "model": None, "scores": scores, "iterations": {},
              "dataset": settings.data_cfg.dataset_name, "costs": {}}
    write_json(folder / "result.json", result)
    return result
