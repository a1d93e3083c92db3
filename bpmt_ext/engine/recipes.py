"""A row of published results in; what is missing for it, the options that train it as printed, its figures here, out.

The rows are `report/published.py`'s; `tools/reproduce_tables.py` is their command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path
from statistics import mean
from typing import Any

from bpmt_ext.config import Settings, configs_folder, load_settings
from bpmt_ext.data.samplers import times_listed
from bpmt_ext.data.sequences import SequenceSet, read_partition
from bpmt_ext.data.transforms import build_transform
from bpmt_ext.engine.budget import schedule_options
from bpmt_ext.engine.checkpoint import checkpoint_path
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.logs import log, read_metrics, write_json
from bpmt_ext.engine.methods import Stage, stages_of
from bpmt_ext.engine.parts import classifies
from bpmt_ext.engine.run import as_trained
from bpmt_ext.engine.stages import (
    build_objective,
    data_skeleton,
    load_data,
    run_folder,
)
from bpmt_ext.engine.testing import test_config
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.classification import METRICS
from bpmt_ext.metrics.figures import PLACES, Matrix
from bpmt_ext.metrics.rules import Protocol, find_row
from bpmt_ext.registry import build_network, get_method
from bpmt_ext.report.published import FINETUNING, Published

APPLY = {
    "CASIA-B": "http://www.cbsr.ia.ac.cn/english/Gait%20Databases.asp",
    "OUMVLP": "http://www.am.sanken.osaka-u.ac.jp/BiometricDB/GaitLPPose.html",
    "Gait3D": "https://github.com/Gait3D/Gait3D-Benchmark",
    "GREW": "https://www.grew-benchmark.org/download.html",
    "CCPG": "https://github.com/BNU-IVC/CCPG",
    "SUSTech1K": "https://lidargait.github.io",
    "PennAction": "http://dreamdragon.github.io/PennAction",
    "NTU60": "https://rose1.ntu.edu.sg/dataset/actionRecognition",
    "NW-UCLA": "https://github.com/Uason-Chen/CTR-GCN",
}
LISTS = ("Gait3D", "SUSTech1K")  # their partition files are the benchmarks' own


@dataclass
class Finding:
    """What --check has to say of a row: faults break its recipe, wants are what it waits for."""

    faults: list[str] = field(default_factory=list)
    wants: list[str] = field(default_factory=list)
    parameters: int = 0
    datasets: list[str] = field(default_factory=list)  # those wanted


def find_config(name: str) -> bool:
    """Whether load_settings would find the config, here or among the shipped ones."""
    return Path(name).is_file() or (configs_folder().parent / name).is_file()


def configs_of(row: Published) -> list[str]:
    """The configs a row names: of its training, then of its test."""
    return [name for name in (row.config, row.test) if name]


def data_wanted(settings: Settings) -> list[str]:
    """Some words for whatever of the data is not at hand; empty if all of it is."""
    data, wants = settings.data_cfg, []
    root, lists = Path(data.dataset_root or ""), Path(data.dataset_partition)
    if not data.dataset_root or not root.is_dir():
        wants.append(f"no {data.dataset_name} poses in {_short(root)}")
    if not lists.is_file():
        own = f"; take the benchmark's own {data.dataset_name}.json" if data.dataset_name in LISTS else ""
        wants.append(f"no partition file {_short(lists)}{own}")
    elif _protocol(settings).probes == "needed" and not read_partition(lists).probe:
        wants.append(f"no PROBE_SET in {_short(lists)}, which {settings.evaluator_cfg.eval_func} needs; take the "
                     f"benchmark's own {data.dataset_name}.json")
    return wants


def _protocol(settings: Settings) -> Protocol:
    """The row that says how a test ranks; of recognition, which ranks nothing, one without conditions."""
    e = settings.evaluator_cfg
    if classifies(settings):
        return Protocol(conditions=())
    return find_row(e.eval_func, settings.data_cfg.test_dataset_name, e.cross_view_gallery)[1]


def _short(path: Path) -> str:
    """A path from the working directory on, where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def figure_names(settings: Settings) -> set[str]:
    """The metrics that a test by this config's protocol reports, as results.json names them; `mean Rank-1` over its
    conditions, and the `accuracy` of a validation on the people trained on."""
    protocol = _protocol(settings)
    names = {"macro Rank-1"} if protocol.macro else set(METRICS) if classifies(settings) else set()
    for condition in protocol.conditions:
        for figure in protocol.figures:
            own = [f"Rank-{k}" for k in PLACES] + ([] if isinstance(figure, Matrix) else ["mAP", "mINP"])
            names |= {" ".join(f"{condition.name} {figure.prefix} {name}".split()) for name in own}
    names |= {"mean Rank-1"} if len(protocol.conditions) > 1 else set()
    return names | ({"accuracy"} if settings.data_cfg.camera_split and settings.trainer_cfg.val_iter else set())


def tested_on(row: Published, settings: Settings, root: Path) -> Settings:
    """The settings of a row's test: its own, or the data and evaluator of the config it is tested with."""
    if row.test is None:
        return settings
    other = load_settings(row.test, [], root)
    return settings.model_copy(update={"data_cfg": other.data_cfg, "evaluator_cfg": other.evaluator_cfg})


def build_all(settings: Settings, few: int = 2) -> int:
    """Build network, losses and transforms of a config, with few classes; the network's number of parameters."""
    method, skeleton = get_method(settings.model_cfg.model), data_skeleton(settings)
    arguments = settings.arguments(method.network(), "model_cfg", supplied=("skeleton",))
    if method.classes and arguments.get(method.classes):
        arguments[method.classes] = min(few, arguments[method.classes])
    network = build_network(settings.model_cfg.model, arguments, skeleton=skeleton, classes=few)
    build_objective(settings, method)
    for section in (settings.trainer_cfg, settings.evaluator_cfg):
        build_transform(section.transform, skeleton)
    return sum(p.numel() for p in network.parameters())


def check(row: Published, opts: Sequence[str], root: Path) -> Finding:
    """Everything about a row's recipe that can be known without its data."""
    found = Finding()
    if row.config is None:
        return found
    absent = [name for name in configs_of(row) if not find_config(name)]
    if absent:
        found.wants += [f"{name} is not there yet" for name in absent]
        return found
    try:
        stages = stages_of(row.config, [*row.opts, *opts], root)
        names = {stage.name or FINETUNING for stage in stages}
        if row.epochs and set(row.epochs) != names:
            found.faults.append(f"epochs are of {', '.join(row.epochs)}, the stages are {', '.join(sorted(names))}")
        for stage in stages:
            found.parameters = build_all(stage.settings)
        if stages[-1].settings.model_cfg.model != row.model:
            found.faults.append(f"{row.config} trains {stages[-1].settings.model_cfg.model}, the row is of {row.model}")
        tested = tested_on(row, stages[-1].settings, root)
        if tested.data_cfg.dataset_name != row.dataset:
            found.faults.append(f"tested on {tested.data_cfg.dataset_name}, the row is of {row.dataset}")
        strange = [name for name in row.metrics if name not in figure_names(tested)]
        if strange:
            found.faults.append(f"{tested.evaluator_cfg.eval_func} reports no {', '.join(strange)}")
        for settings in (stages[-1].settings, tested) if row.test else (tested,):
            wants = data_wanted(settings)
            found.wants += wants
            found.datasets += [settings.data_cfg.dataset_name] if wants else []
    except UserError as error:
        found.faults += str(error).splitlines()
    return found


def as_printed(row: Published, opts: Sequence[str], root: Path, folder: Path, scale: float) -> list[str]:
    """The options of a row's training: its own, yours, the first people, the lengths, and going on where it stopped."""
    opts = [*row.opts, *opts]
    data = stages_of(row.config, opts, root)[-1].settings.data_cfg
    if row.scanned is not None:
        lists = read_partition(data.dataset_partition)
        train = sorted(lists.train)
        if len(train) < row.scanned:
            raise UserError(f"{data.dataset_partition}: {len(train)} training people, {row.id} takes {row.scanned}; "
                            "give the benchmark's whole list")
        write_json(folder / "partition.json", {"TRAIN_SET": train[: row.scanned], "TEST_SET": list(lists.test),
                                               **({"PROBE_SET": list(lists.probe)} if lists.probe else {})})
        opts += [f"data_cfg.dataset_partition={folder / 'partition.json'}"]
    stages = stages_of(row.config, opts, root)
    opts += lengths(row, stages, scale)
    return opts + [f"{s.prefix}trainer_cfg.restore_hint=auto" for s in stages
                   if s.settings.trainer_cfg.restore_hint == 0]


def lengths(row: Published, stages: Sequence[Stage], scale: float) -> list[str]:
    """The options that make every stage as long as the row says, times `scale`; a schedule that steps once an epoch
    learns how long one is."""
    found: list[str] = []
    train = _training_set(row, stages[-1].settings) if row.epochs else None
    for stage in stages:
        t = stage.settings.trainer_cfg
        iterations = t.total_iter
        if train is not None:
            size = t.sampler.batch_size
            batch = prod(size) if isinstance(size, list) else size
            epoch = ceil(times_listed(train, t.sampler.repeat).sum() / batch)
            iterations = row.epochs[stage.name or FINETUNING] * epoch
            if stage.settings.scheduler_cfg.free.get("epoch_iterations", epoch) != epoch:
                found.append(f"{stage.prefix}scheduler_cfg.epoch_iterations={epoch}")
        iterations = max(1, round(iterations * scale))
        if iterations != t.total_iter:
            found += schedule_options(stage.settings, iterations, stage.prefix)
    return found


def _training_set(row: Published, settings: Settings) -> SequenceSet:
    train = load_data(settings).train
    if row.kept is not None and len(train.label_set) != row.kept:
        log.warning("%s: the source kept %d people, here there are %d", row.id, row.kept, len(train.label_set))
    return train


def measure(
    row: Published, settings: Settings, here: World, folder: Path, root: Path
) -> tuple[Mapping[str, float], dict[str, Any]]:
    """Our figures of a trained row, and what results.json says of where they come from.

    A test of recognition knows no conditions and no gallery; it measures two checkpoints, the last one and the best on
    validation, where something was held out.
    """
    if "accuracy" in row.metrics:  # of people seen in training: the last validation
        lines = read_metrics(run_folder(settings, folder) / "metrics.jsonl")
        last = next((line for line in reversed(lines) if "accuracy" in line), {})
        return last, {"iteration": last.get("iteration", 0)}
    own = as_trained(settings)
    tested, which = tested_on(row, own, root), None
    if row.test:  # the other config's evaluator knows nothing of this training's checkpoints
        checkpoints, name = run_folder(own, folder) / "checkpoints", own.trainer_cfg.save_name
        path = checkpoint_path(checkpoints, name, own.evaluator_cfg.restore_hint)
        which = str(path if path.is_file() else checkpoint_path(checkpoints, name, "last"))
    results = test_config(tested, here, folder, which)
    firsts = [results["metrics"].get(f"{name} Rank-1".strip()) for name in results.get("conditions", ())]
    averaged = {"mean Rank-1": mean(firsts)} if len(firsts) > 1 and None not in firsts else {}
    kept = ("iteration", "seed", "metrics", "protocol", "probes", "gallery", "checkpoint", "other_checkpoint",
            "weights", "data", "versions")
    return {**results["metrics"], **averaged}, {key: results[key] for key in kept if key in results}


def beside(row: Published, figures: Mapping[str, float]) -> list[dict[str, Any]]:
    """One line a metric: published, ours, their difference, and whether it is within the tolerance."""
    lines = []
    for name, value in row.metrics.items():
        ours = figures.get(name)
        # rounded: 23.4 - 22.4 is more than 1 in binary
        difference = None if ours is None else round(ours - value, 6)
        within = difference is not None and abs(difference) <= row.tolerance
        lines.append({"metric": name, "published": value, "ours": ours, "difference": difference, "within": within})
    return lines


def portable(opts: Sequence[str]) -> list[str]:
    """The options without the folders of this machine."""
    pairs = [text.partition("=") for text in opts]
    return [f"{key}={Path(value).name if value.startswith('/') else value}" for key, _, value in pairs]
