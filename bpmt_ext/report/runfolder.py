"""The folder of a run in, whatever it holds out, read and checked: settings, results, curves, arrays, weights.

What is absent is None or empty; what is there and cannot be read leaves a sentence in `faults`. Shapes: n sequences,
b probes, d width, p parts, k classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bpmt_ext.config import Settings, load_settings, settings_from
from bpmt_ext.config_layers import read_yaml
from bpmt_ext.data.posearrays import read_npz
from bpmt_ext.data.sequences import SequenceSet, Splits, load_splits
from bpmt_ext.engine.checkpoint import load_weights
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.logs import read_metrics
from bpmt_ext.engine.parts import Run
from bpmt_ext.engine.stages import build_run, data_skeleton, pose_skeleton
from bpmt_ext.engine.testing import head_classes
from bpmt_ext.engine.zoo import TrainedRun, read_run
from bpmt_ext.errors import UserError
from bpmt_ext.jsonfiles import read_json
from bpmt_ext.registry import get_method
from bpmt_ext.regular import at_home, real_path
from bpmt_ext.skeletons import Skeleton

_SIGNS = ("config.yaml", "results.json", "metrics.jsonl")  # a folder with one of them is a run's
_PER_PROBE = ("index", "condition", "label", "camera", "valid", "rank1", "ap")


@dataclass
class RunFolder:
    """One run. rows: of metrics.jsonl. stages: (name, its run) of the stages before it, in order.

    embeddings: embeddings (n, d, p), labels, types, views (n,). predictions: scores (n, k), labels, names (n,),
    classes (k,). per_probe: arrays (b,). faults: a sentence for each file that cannot be read.
    """

    folder: Path
    name: str
    settings: Settings | None = None
    results: Mapping[str, Any] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    stages: list[tuple[str, RunFolder]] = field(default_factory=list)
    embeddings: dict[str, np.ndarray] | None = None
    predictions: dict[str, np.ndarray] | None = None
    per_probe: dict[str, np.ndarray] | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def skeleton(self) -> Skeleton | None:
        """Of one pose, all its bodies; None for silhouettes and where nothing says it."""
        if self.settings is None or self.silhouettes:
            return None
        return pose_skeleton(self.settings)

    @property
    def silhouettes(self) -> bool:
        return self.settings is not None and self.settings.data_cfg.modality == "silhouette"

    @cached_property
    def splits(self) -> Splits | str:
        """The sequences of the config's data root, or the sentence that says why they are not at hand."""
        if self.settings is None:
            return "config.yaml is not there to say where the sequences lie"
        # lengths would have to be read, and what is missing by now is no fault of the run
        changed = {"frame_threshold": 0, "missing_labels": "warn", "cache": False}
        data = self.settings.data_cfg.model_copy(update=changed)
        try:
            return load_splits(data, pose_skeleton(self.settings).num_joints)
        except UserError as error:
            return str(error)

    def pose(self, name: str) -> np.ndarray | None:
        """The sequence (t, v, c) of the test set with that name "label-type-view"; None where it is not at hand."""
        if isinstance(self.splits, str) or name not in (places := self._places):
            return None
        try:
            return self.splits.test.read(places[name])
        except UserError:
            return None

    @cached_property
    def _places(self) -> dict[str, int]:
        return {} if isinstance(self.splits, str) else {name: i for i, name in enumerate(self.splits.test.names)}

    def some(self, count: int) -> SequenceSet | None:
        """Up to `count` sequences, evenly spread over the test set, else the validation or the training set."""
        if isinstance(self.splits, str):
            return None
        whole = next((one for one in (self.splits.test, self.splits.val, self.splits.train) if len(one)), None)
        if whole is None:
            return None
        chosen = np.unique(np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(int))
        return SequenceSet([whole.records[i] for i in chosen], whole.label_set, whole.reader)

    @cached_property
    def trained(self) -> TrainedRun | str:
        """The checkpoint that was tested, or the sentence that says why it is not at hand."""
        if self.settings is None:
            return "config.yaml is not there to say which network it is"
        try:
            return read_run(self.folder)
        except UserError as error:
            return str(error)

    @cached_property
    def made(self) -> Run | str:
        """The tested network, on the CPU and without data, or the sentence that says why it is not at hand."""
        if isinstance(self.trained, str):
            return self.trained
        settings, weights = self.trained.settings, self.trained.weights
        nobody = Splits(*(SequenceSet([]) for _ in range(3)), probes=None, dropped={})
        try:
            classes = head_classes(weights, get_method(settings.model_cfg.model)) or 2
            made = build_run(settings, nobody, World(0, 1, torch.device("cpu")), self.folder, classes=classes)
            load_weights(made.network, weights, self.trained.checkpoint)
        except (UserError, ValueError) as error:
            return str(error)
        made.network.eval()
        return made


def read_folders(folders: Sequence[Path]) -> list[RunFolder]:
    """The runs of these folders, each with a name of its own. UserError for a folder that is no run, or named twice."""
    paths = [real_path(at_home(folder)) for folder in folders]
    twice = [path for i, path in enumerate(paths) if path in paths[:i]]
    if twice:
        raise UserError(f"{twice[0]}: is named twice; name every run once")
    for path in paths:
        _check_run(path)
    for depth in (1, 2, 3, len(Path("/").joinpath(*paths).parts)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return [read_folder(path, name) for path, name in zip(paths, names, strict=True)]


def _check_run(path: Path) -> None:
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; name the folder of a run, output/<data set>/<model>/<name>")
    if any((path / sign).is_file() for sign in _SIGNS):
        return
    inside = sorted(file.parent for depth in ("*", "*/*", "*/*/*") for file in path.glob(f"{depth}/{_SIGNS[0]}"))
    hint = f"; there is one in {inside[0]}" if inside else "; name one that bpmt train or bpmt test has written"
    raise UserError(f"{path}: is no run: it has no {', '.join(_SIGNS[:-1])} or {_SIGNS[-1]}{hint}")


def read_folder(folder: Path, name: str, *, with_stages: bool = True) -> RunFolder:
    """What stands in one folder."""
    run = RunFolder(folder, name)
    if (folder / "config.yaml").is_file():
        with _told(run):
            values = read_yaml(folder / "config.yaml")
            if not values:
                raise UserError(f"{folder / 'config.yaml'}: holds no settings")
            settings = settings_from(values, source=str(folder / "config.yaml"))
            data_skeleton(settings), pose_skeleton(settings)  # or their faults are told here
            run.settings = settings
    if (folder / "results.json").is_file():
        with _told(run):
            run.results = _checked_results(read_json(folder / "results.json", "metrics"), folder / "results.json")
    with _told(run):
        run.rows = [_numbers(row) for row in read_metrics(folder / "metrics.jsonl")]
    for key, check in (("embeddings", _check_embeddings), ("predictions", _check_predictions)):
        if (folder / f"{key}.npz").is_file():
            with _told(run):
                setattr(run, key, check(read_npz(folder / f"{key}.npz"), folder / f"{key}.npz"))
    if run.embeddings is not None and (folder / "per_probe.npz").is_file():
        with _told(run):
            size = len(run.embeddings["labels"])
            run.per_probe = _check_probes(read_npz(folder / "per_probe.npz"), size, folder / "per_probe.npz")
    if with_stages and run.settings is not None:
        run.stages = _stages(run)
    return run


class _told:
    """What cannot be read inside becomes a sentence of the run."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, (UserError, OSError, UnicodeDecodeError)):
            self.run.faults.append(str(error))
            return True
        return False


def _stages(run: RunFolder) -> list[tuple[str, RunFolder]]:
    """The runs of the stages that the config names, beside the run itself; those that are not there are left out."""
    found = []
    for name, value in sorted(run.settings.model_cfg.stages.items()):
        path = Path(str(value))
        if path.suffix not in (".yaml", ".yml"):
            folder = path.parent.parent  # of <run>/checkpoints/<file>
        else:
            names = {path.stem}
            try:
                names.add(load_settings(path).trainer_cfg.save_name)
            except UserError:
                pass  # it has moved: its runs carry its name
            beside = [file.parent for file in run.folder.parent.parent.glob("*/*/config.yaml")]
            folder = next((one for one in beside if one.name in names and one != run.folder), None)
        if folder is not None and (folder / "config.yaml").is_file():
            found.append((name, read_folder(folder, name, with_stages=False)))
    return found


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {str(key): value for key, value in row.items() if is_number(value)}
    return kept | {"split": str(row["split"]), "iteration": kept.get("iteration", 0)}


def _checked_results(results: dict[str, Any], path: Path) -> dict[str, Any]:
    figures = results["metrics"]
    if not isinstance(figures, dict) or not all(map(is_number, figures.values())):
        raise UserError(f"{path}: its metrics are not all numbers; test the network again")
    for key, kind in (("probes", dict), ("per_class", dict), ("matrices", dict), ("views", list)):
        if not isinstance(results.get(key, kind()), kind):
            raise UserError(f"{path}: its {key} are damaged; test the network again")
    for name, cells in results.get("matrices", {}).items():
        rows = cells.get("all", {}).get("Rank-1") if isinstance(cells, dict) and isinstance(cells.get("all"), dict) \
            else None  # fmt: skip
        if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(rows) for row in rows) \
                or not all(value is None or is_number(value) for row in rows for value in row):
            raise UserError(f"{path}: its matrix {str(name)[:40]!r} is no square of numbers; test the network again")
    return results


def _fits(arrays: Mapping[str, np.ndarray], keys: Sequence[str], path: Path) -> None:
    """UserError unless all these arrays are there with as many rows; all but the first have no other axis."""
    lacking = [key for key in keys if key not in arrays]
    flat = not lacking and all(arrays[key].ndim == 1 for key in keys[1:])
    if not flat or {arrays[key].shape[:1] for key in keys} != {arrays[keys[1]].shape}:
        what = f"has no {lacking[0]}" if lacking else "its arrays differ in length"
        raise UserError(f"{path}: {what}; test the network again")


def _check_embeddings(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    _fits(arrays, ("embeddings", "labels", "types", "views"), path)
    x = arrays["embeddings"]
    if x.ndim != 3 or x.dtype.kind != "f" or 0 in x.shape or not np.isfinite(x).all():
        raise UserError(f"{path}: its embeddings are not (n, d, p) finite numbers; test the network again")
    return {"embeddings": x.copy()} | {key: arrays[key].astype(str) for key in ("labels", "types", "views")}


def _check_predictions(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    _fits(arrays, ("scores", "labels", "names"), path)
    scores, labels = arrays["scores"], arrays["labels"]
    classes = arrays.get("classes", np.array([]))
    good = scores.ndim == 2 and scores.dtype.kind == "f" and 0 not in scores.shape \
        and classes.shape == scores.shape[1:] and np.isfinite(scores).all()
    if not good or labels.dtype.kind != "i" or labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(f"{path}: its scores, labels and classes do not fit each other; test the network again")
    return arrays | {"names": arrays["names"].astype(str), "classes": classes.astype(str)}


def _check_probes(arrays: dict[str, np.ndarray], size: int, path: Path) -> dict[str, np.ndarray]:
    _fits(arrays, _PER_PROBE, path)
    index = arrays["index"]
    if any(arrays[key].dtype.kind not in "fbiu" for key in ("valid", "rank1", "ap")):
        raise UserError(f"{path}: its answers are no numbers; test the network again")
    if index.ndim != 1 or index.dtype.kind != "i" or not len(index) or index.min() < 0 or index.max() >= size:
        raise UserError(f"{path}: belongs to another embeddings.npz; test the network again")
    return arrays | {key: arrays[key].astype(str) for key in ("condition", "label", "camera")}
