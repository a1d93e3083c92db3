"""A YAML config in, checked and complete settings out; every fault is told at once, with its file and dotted key.

Sections and keys are FastPoseGait's, merged over `configs/default.yaml`; keys of ours are added, none of theirs
changes its meaning. What a config may say is in `config_schema.py`, field by field; how files are merged in
`config_layers.py`; how names are checked in `config_checks.py`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, field_validator, model_validator

from bpmt_ext.config_checks import (
    STEPPED,
    TORCH,
    component_arguments,
    dig,
    drop_leftovers,
    located,
    no_rise,
    sentences,
    suggestion,
    torch_class,
)
from bpmt_ext.config_layers import Layers, read_chain, read_yaml
from bpmt_ext.config_schema import (
    DataConfig,
    EvaluatorConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SamplerConfig,
    SchedulerConfig,
    Section,
    TrainerConfig,
)
from bpmt_ext.errors import UserError
from bpmt_ext.regular import at_home, real_path
from bpmt_ext.skeletons import get_skeleton

__all__ = [
    "DataConfig", "EvaluatorConfig", "LossConfig", "ModelConfig", "OptimizerConfig", "SamplerConfig",
    "SchedulerConfig", "Settings", "TrainerConfig", "component_arguments", "configs_folder", "datasets_folder",
    "load_settings", "settings_from", "suggestion",
]  # fmt: skip

_log = logging.getLogger(__name__)


class Settings(Section):
    """Everything one run needs to know. Made by `load_settings` or `settings_from`."""

    data_cfg: DataConfig = Field(description="The data")
    evaluator_cfg: EvaluatorConfig = Field(description="The test")
    loss_cfg: list[LossConfig] = Field(description="The losses, one or a list")
    model_cfg: ModelConfig = Field(description="The network")
    optimizer_cfg: OptimizerConfig = Field(description="The solver")
    scheduler_cfg: SchedulerConfig = Field(description="The learning-rate schedule")
    trainer_cfg: TrainerConfig = Field(description="The training")

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("loss_cfg", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        schedule, steps = self.scheduler_cfg.scheduler, self.scheduler_cfg.free.get("total_steps")
        if schedule in STEPPED and isinstance(steps, int) and steps < self.trainer_cfg.total_iter:
            raise ValueError(
                f"scheduler_cfg.total_steps {steps} is less than trainer_cfg.total_iter {self.trainer_cfg.total_iter}; "
                f"{schedule} needs at least as many steps as iterations"
            )
        named = self.model_cfg.joint_format
        if named is not None:
            self._one_format(named)
        return self

    def _one_format(self, named: str) -> None:
        """ValueError if model_cfg.joint_format is no format, or another one than the data's."""
        try:
            same = get_skeleton(named).name == get_skeleton(self.data_cfg.joint_format).name
        except UserError as error:
            raise ValueError(f"model_cfg.joint_format is refused: {error}") from error
        if self.data_cfg.skeleton is not None or not same:
            own = "skeleton" if self.data_cfg.skeleton is not None else f"joint_format {self.data_cfg.joint_format}"
            raise ValueError(f"model_cfg.joint_format {named} contradicts data_cfg.{own}; drop one of them")

    @property
    def written(self) -> frozenset[str]:
        """Dotted paths of the sections and keys the user wrote: in the file, in its bases, as --opts."""
        return frozenset(self._sources)

    def inherited(self, section: str) -> set[str]:
        """The keys of a section that only the defaults brought."""
        return _inherited(section, dig(self.resolved(), section) or {}, self._sources)

    def where(self, dotted: str) -> str:
        """`file: dotted.key` for a message."""
        return located(dotted, self._sources)

    def arguments(self, target: Any, section: str, *, supplied: Collection[str] = ()) -> dict[str, Any]:
        """The free keys of `section` (loss_cfg.0, model_cfg, ...) as arguments of `target`; see component_arguments."""
        node: Any = self
        for part in section.split("."):
            node = node[int(part)] if isinstance(node, list) else getattr(node, part)
        return _arguments(target, section, node.free, self._sources, supplied, type(node).model_fields)

    def solver(self) -> tuple[type, dict[str, Any]]:
        """The class of torch.optim and its arguments but for `params`."""
        return _torch_component("optimizer_cfg", self.resolved()["optimizer_cfg"], self._sources)

    def scheduler(self) -> tuple[type, dict[str, Any]]:
        """The class of torch.optim.lr_scheduler and its arguments but for `optimizer`."""
        return _torch_component("scheduler_cfg", self.resolved()["scheduler_cfg"], self._sources)

    def resolved(self) -> dict[str, Any]:
        """All settings as plain values for YAML, without `base`; loading them again gives equal settings."""
        return _plain(self)

    @property
    def fingerprint(self) -> str:
        """sha256 of the resolved settings, 64 hexadecimal digits."""
        text = json.dumps(self.resolved(), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A section as a mapping. Fields at None are left out: a host reads a key that is there, whatever it holds."""
    if isinstance(value, BaseModel):
        own = {name: getattr(value, name) for name in type(value).model_fields}
        return {k: _plain(v) for k, v in own.items() if v is not None} | _plain(value.model_extra or {})
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items()}
    return [_plain(below) for below in value] if isinstance(value, (list, tuple)) else value


def _inherited(section: str, values: Mapping[str, Any], sources: Mapping[str, str]) -> set[str]:
    # a single loss may have been written without its list
    names = {section, "loss_cfg"} if section == "loss_cfg.0" and "loss_cfg.0" not in sources else {section}
    return {key for key in values if not any(f"{name}.{key}" in sources for name in names)}


def _arguments(
    target: Any,
    section: str,
    given: Mapping[str, Any],
    sources: Mapping[str, str],
    supplied: Collection[str] = (),
    also: Collection[str] = (),
) -> dict[str, Any]:
    """`component_arguments` with every key's own file in the sentences."""
    written_as = section if section in sources or section != "loss_cfg.0" else "loss_cfg"
    return component_arguments(
        target, given, _inherited(section, given, sources), located(written_as, sources),
        supplied=supplied, also=also, locate=lambda key: located(f"{written_as}.{key}", sources),
    )  # fmt: skip


def _torch_component(
    section: str, values: Mapping[str, Any], sources: Mapping[str, str]
) -> tuple[type, dict[str, Any]]:
    kind, _, _, supplied = TORCH[section]
    cls = torch_class(section, values[kind], located(f"{section}.{kind}", sources))
    given = {key: value for key, value in values.items() if key != kind}
    return cls, _arguments(cls, section, given, sources, (supplied,), (kind,))


def _shipped(name: str) -> Path:
    """A folder that ships with the package: inside it when installed, beside it in a source checkout."""
    inside = Path(str(files("bpmt_ext").joinpath(name)))
    return inside if inside.is_dir() else Path(__file__).resolve().parents[1] / name


def configs_folder() -> Path:
    """The folder of the shipped configs."""
    return _shipped("configs")


def datasets_folder() -> Path:
    """The folder of the converters and of the shipped partition files."""
    return _shipped("datasets")


def load_settings(path: Path | str, opts: Sequence[str] = (), root: Path | str | None = None) -> Settings:
    """The settings of a config file.

    path: the YAML file, relative to `root`, or the name of a shipped one (`configs/...`). opts: `section.key=value`,
    applied last. root: the folder relative paths in the config start from; the working directory where left out.
    Raises UserError with one line for every fault.
    """
    base = Path.cwd() if root is None else Path(root).absolute()
    file = base / at_home(path)
    if not file.exists() and (configs_folder().parent / path).is_file():
        file = configs_folder().parent / path
    return _build(read_chain(file, configs_folder() / "default.yaml"), opts, base)


def settings_from(
    values: Mapping[str, Any], opts: Sequence[str] = (), root: Path | str | None = None, source: str = "settings"
) -> Settings:
    """As `load_settings`, from a mapping; `source` stands for the file in messages."""
    base = Path.cwd() if root is None else Path(root).absolute()
    return _build([(source, {k: v for k, v in values.items() if k != "base"})], opts, base)


def _build(chain: Sequence[tuple[str, Mapping[str, Any]]], opts: Sequence[str], root: Path) -> Settings:
    layers = Layers(read_yaml(configs_folder() / "default.yaml"))
    default_loss = dict(layers.values["loss_cfg"])
    for source, values in chain:
        layers.overlay(values, source)
    faults: list[str] = []
    for text in opts:
        try:
            layers.option(text)
        except UserError as error:
            faults.append(str(error))
    derived = _complete(layers, default_loss)
    _absolute_paths(layers, root)
    leftovers = drop_leftovers(layers)
    for section, (kind, *_) in TORCH.items():
        if isinstance(dig(layers.values, f"{section}.{kind}"), str):
            try:
                _torch_component(section, layers.values[section], layers.sources)
            except UserError as error:
                faults.append(str(error))
    try:
        settings = Settings.model_validate(layers.values)
    except ValidationError as error:
        faults.extend(sentences(error, Settings, layers, derived))
    if faults:
        raise UserError("\n".join(faults))
    if leftovers:
        _log.warning("%s: keys that have no effect: %s", chain[-1][0], "; ".join(leftovers))
    settings._sources = layers.sources
    return settings


# Keys that follow from another one where they are left out.
FOLLOWS = {
    "data_cfg.test_dataset_name": "data_cfg.dataset_name",
    "evaluator_cfg.camera": "data_cfg.camera",
    "evaluator_cfg.save_name": "trainer_cfg.save_name",
}


def _complete(layers: Layers, default_loss: Any) -> set[str]:
    """Fill in what follows from other keys; returns the paths filled in."""
    values, derived = layers.values, set()
    follows = dict(FOLLOWS)
    schedule, loss = values.get("scheduler_cfg"), values.get("loss_cfg")
    if dig(schedule, "scheduler") in STEPPED and not {"epochs", "steps_per_epoch"} & set(schedule):
        follows["scheduler_cfg.total_steps"] = "trainer_cfg.total_iter"
    for path, origin in follows.items():
        section, key = path.split(".")
        if isinstance(values.get(section), dict) and values[section].get(key) is None:
            values[section][key] = dig(values, origin)
            derived.add(path)
            if key == "total_steps" and no_rise(values[section], values[section][key]):
                values[section][key] += 1
    named, data = dig(values, "model_cfg.joint_format"), values.get("data_cfg")
    if isinstance(named, str) and isinstance(data, dict) and "data_cfg.joint_format" not in layers.sources:
        data["joint_format"] = named  # the hosts' configs say it there
        derived.add("data_cfg.joint_format")
    if isinstance(loss, dict) and loss.get("type") != default_loss["type"]:
        # another loss does not take over the default one's arguments
        for key in set(default_loss) - set(LossConfig.model_fields):
            if f"loss_cfg.{key}" not in layers.sources:
                loss.pop(key, None)
    return derived


def _absolute_paths(layers: Layers, root: Path) -> None:
    """Make every path absolute: relative ones start from `root`, a stage's config also from the file that names it."""

    def settle(section: str, key: str, words: tuple[str, ...] = ()) -> None:
        holder = dig(layers.values, section)
        value = holder.get(key) if isinstance(holder, dict) else None
        if not isinstance(value, str) or not value or value in words:
            return
        path = root / at_home(value)
        source = layers.sources.get(f"{section}.{key}")
        if section == "model_cfg.stages" and path.suffix in (".yaml", ".yml") and source and not path.exists():
            beside = (root / source).parent / value
            path = real_path(beside) if beside.is_file() else path
        holder[key] = str(path)

    settle("data_cfg", "dataset_root")
    settle("data_cfg", "dataset_partition")
    settle("trainer_cfg", "restore_hint", ("auto",))
    settle("evaluator_cfg", "restore_hint", ("last", "best"))
    stages = dig(layers.values, "model_cfg.stages")
    for key in stages if isinstance(stages, dict) else ():
        settle("model_cfg.stages", key)
