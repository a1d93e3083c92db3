"""A yardstick's name and a split in; its results, as those of a method's cell, out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bpmt_ext.config import Settings
from bpmt_ext.engine.cell import save_probes
from bpmt_ext.engine.comparability import Case
from bpmt_ext.engine.logs import write_json
from bpmt_ext.engine.parts import classifies
from bpmt_ext.engine.stages import data_skeleton, load_data
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.protocols import evaluate
from bpmt_ext.metrics.yardsticks import embed


def yardstick_cell(folder: Path, label: str, name: str, case: Case, settings: Settings) -> dict[str, Any]:
    """Score a yardstick on every test set of a split, by the rule of the settings, and write `result.json`.

    It is standardised on the training sequences of each test set's own root; distances are Euclidean.
    """
    e, scores = settings.evaluator_cfg, {}
    if classifies(settings):
        raise UserError(f"--yardsticks: they rank and name no class, which {e.eval_func} asks for; leave them out")
    for test in case.tests:
        there = case.settings(settings, test)
        splits = load_data(there)
        known = [splits.train.read(i) for i in range(len(splits.train))]
        known += [splits.val.read(i) for i in range(len(splits.val))]
        poses = [splits.test.read(i) for i in range(len(splits.test))]
        found = evaluate(
            e.eval_func, embed(name, poses, known, data_skeleton(there)), [r.label for r in splits.test.records],
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
