"""A trained network and its test split in; results.json, embeddings or predictions, and a printed table out."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bpmt_ext import __version__
from bpmt_ext.config import Settings
from bpmt_ext.data.health import fingerprint
from bpmt_ext.engine.actions import action_results
from bpmt_ext.engine.checkpoint import checkpoint_path, load_checkpoint, load_weights, weights_hash
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.inference import embed
from bpmt_ext.engine.logs import log, write_json, write_text, written_whole
from bpmt_ext.engine.parts import Run, classifies, warn_of_known
from bpmt_ext.engine.preparation import check_channels, check_input
from bpmt_ext.engine.stages import build_run, check_protocol, load_data, protocol_rule, run_folder
from bpmt_ext.metrics.protocols import evaluate
from bpmt_ext.metrics.submission import submission_text
from bpmt_ext.registry import Method, get_method
from bpmt_ext.report.confusion import write_confusion
from bpmt_ext.report.results import results_table

Arrays = dict[str, np.ndarray]


def test_config(
    settings: Settings, world: World, output: Path, which: int | str | None = None, *, trust: bool = False
) -> dict[str, Any]:
    """Score a trained network on the test set; writes results.json and what `score` says.

    Recognition reports the last checkpoint and the best on validation, whichever of the two is asked for.
    """
    splits = load_data(settings)
    check_protocol(settings, splits)
    e, folder = settings.evaluator_cfg, run_folder(settings, output, testing=True)
    hint, path = checkpoint_to_test(settings, output, which)

    def file(name: str) -> Path:
        return checkpoint_path(folder / "checkpoints", e.save_name, name)

    state = load_checkpoint(path, trust)
    # the head is as wide as it was in training, whatever data this test has
    classes = head_classes(state["model"], get_method(settings.model_cfg.model))
    run = build_run(settings, splits, world, folder, classes=classes)
    both: dict[str, dict[str, Any]] = {}
    if classifies(settings) and hint in ("last", "best") and file("best").is_file():
        other = {"last": "best", "best": "last"}[hint]
        beside = load_checkpoint(file(other), trust)
        load_weights(run.network, beside["model"], file(other), strict=e.restore_ckpt_strict)
        metrics = action_results(run)[0]["metrics"]
        both = {other: {"iteration": int(beside.get("iteration", 0)), "metrics": metrics}}
    load_weights(run.network, state["model"], path, strict=e.restore_ckpt_strict)
    check_channels(run, splits.test)
    check_input(run, splits.test, "evaluator_cfg")
    engine = state.get("engine")
    seed = engine.get("seed") if isinstance(engine, Mapping) else None  # of the training, whatever is asked for now
    more = {"seed": seed} if isinstance(seed, int) else {}
    more |= {"checkpoint": hint, "other_checkpoint": both} if both else {}
    if world.main and not classifies(settings):
        warn_of_known(path, state, settings, splits)
    return score(run, iteration=int(state.get("iteration", 0)), write=world.main, more=more)


def checkpoint_to_test(settings: Settings, output: Path, which: int | str | None = None) -> tuple[int | str, Path]:
    """What is tested, an iteration, `last`, `best` or a path, and its file. which: in place of restore_hint."""
    e = settings.evaluator_cfg
    folder = run_folder(settings, output, testing=True) / "checkpoints"
    hint = e.restore_hint if which is None else which
    if not isinstance(hint, int) and hint not in ("last", "best"):
        return hint, Path(hint)
    path = checkpoint_path(folder, e.save_name, hint)
    if hint == "best" and not path.is_file():  # trained without validation
        return "last", checkpoint_path(folder, e.save_name, "last")
    return hint, path


def head_classes(weights: Mapping[str, torch.Tensor], method: Method) -> int | None:
    """The number of classes a checkpoint's head tells apart; None if it has none."""
    for key, axis in method.classifier:
        if key in weights:
            return weights[key].shape[axis]
    return None


def score(run: Run, *, iteration: int, write: bool, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Results of the test protocol for the network as it stands; with the arrays per_probe and, of recognition,
    predictions. more: what else goes into results.json.

    write: results.json, per_probe.npz, and embeddings.npz or predictions.npz with confusion.png and confusion.csv.
    """
    splits = run.splits
    measured, arrays, texts = (_recognised if classifies(run.settings) else _ranked)(run, iteration)
    confusion = arrays.pop("confusion", None)
    results = {
        "dataset": run.settings.data_cfg.test_dataset_name,
        "model": run.settings.model_cfg.model,
        "iteration": iteration,
        "seed": run.settings.trainer_cfg.seed,
        **measured,
        **(more or {}),
        "dropped": {name: count for name, count in splits.dropped.items() if count},
        "weights": weights_hash(run.network),
        "data": fingerprint(splits),
        "config": run.settings.fingerprint,
        "versions": {"bpmt_ext": __version__, "torch": torch.__version__, "numpy": np.__version__,
                     "python": platform.python_version()},
    }
    if write:
        write_json(run.folder / "results.json", results)
        for name, each in arrays.items():
            save_arrays(run.folder / f"{name}.npz", each)
        for name, text in texts.items():
            write_text(run.folder / name, text)
        if confusion is not None:
            title = f"{results['model']} on {results['dataset']}: top-1 {results['metrics']['top1']:.1f} %"
            write_confusion(confusion["matrix"], confusion["classes"], run.folder / "confusion.png", title=title)
        log.info("%s", results_table(results))
    return {**results, **{name: each for name, each in arrays.items() if name != "embeddings"}}


Scored = tuple[dict[str, Any], dict[str, Arrays], dict[str, str]]  # figures, arrays and texts by file name


def _ranked(run: Run, iteration: int) -> Scored:
    """By the distances of the embeddings."""
    e, splits = run.settings.evaluator_cfg, run.splits
    found = embed(run, splits.test)
    embeddings = torch.from_numpy(found.embeddings).to(run.world.device)
    result = evaluate(
        e.eval_func, embeddings, found.labels, found.types, found.views, metric=e.metric,
        **protocol_rule(run.settings, splits),
    )
    per_probe, sent, texts = result.pop("per_probe"), result.pop("submission", None), {}
    if sent is not None:
        result["submission"] = f"submission_{run.settings.data_cfg.test_dataset_name}-{iteration:05d}.csv"
        texts[result["submission"]] = submission_text(**sent)
    embedded = {"embeddings": found.embeddings, "labels": np.array(found.labels), "types": np.array(found.types),
                "views": np.array(found.views)}
    return result, {"embeddings": embedded, "per_probe": per_probe}, texts


def _recognised(run: Run, iteration: int) -> Scored:
    """By the class each sequence is taken for."""
    result, found = action_results(run)
    predictions = found["predictions"]
    confusion = {"matrix": found["confusion"], "classes": predictions.classes}
    return result, {"predictions": predictions.arrays(), "per_probe": found["per_probe"], "confusion": confusion}, {}


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz whole or not at all."""
    with written_whole(path) as file:
        np.savez(file, **arrays)
