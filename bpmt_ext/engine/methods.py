"""`--cfgs`, `--axes` and `--opts` of a comparison in, the methods it compares out: a config and options for each."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from bpmt_ext.config import Settings, load_settings, suggestion
from bpmt_ext.config_layers import read_yaml
from bpmt_ext.engine.stages import stage_options
from bpmt_ext.errors import UserError
from bpmt_ext.registry import get_method

VARIANTS = ("scratch", "untrained")
_STAGE = re.compile(r"(t\d+)\.")


@dataclass(frozen=True)
class Contender:
    """One method: its name in the tables, its config file as it was given, its options, and what is done with it.

    variant: "" trains it with the stages it names, "scratch" without them, "untrained" not at all (its input
    statistics are fitted). Yardsticks have no config and the variant "yardstick".
    """

    label: str
    config: str
    variant: str = ""
    opts: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The label as a file name."""
        return re.sub(r"[^\w.=+-]+", "_", self.label).strip("_.") or "method"

    @property
    def trains(self) -> bool:
        return self.variant in ("", "scratch")


@dataclass(frozen=True)
class Stage:
    """The settings of one stage, and what its options begin with ("t1.", "" for the last)."""

    name: str
    settings: Settings

    @property
    def prefix(self) -> str:
        return f"{self.name}." if self.name else ""


def own_options(opts: Sequence[str]) -> list[str]:
    """The options that are not an earlier stage's."""
    return [text for text in opts if not _STAGE.match(text)]


def stages_of(config: str, opts: Sequence[str], root: Path) -> list[Stage]:
    """The settings of every stage that has a config, in the order they are trained, the config itself last."""
    settings = load_settings(config, own_options(opts), root)
    found = []
    for name, path in sorted(settings.model_cfg.stages.items()):
        if Path(path).suffix in (".yaml", ".yml"):
            found.append(Stage(name, load_settings(path, own_options(stage_options(opts, name)), root)))
    return [*found, Stage("", settings)]


def check_arguments(stages: Sequence[Stage]) -> None:
    """UserError for model_cfg keys that a stage's network does not take; told before anything is trained."""
    for stage in stages:
        network = get_method(stage.settings.model_cfg.model).network()
        stage.settings.arguments(network, "model_cfg", supplied=("skeleton",))


def read_axes(path: Path | None) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """An axes file as [(name, [(value's name, options)])], one entry per axis. Three ways to write one:

    `section.key: [values]`; `name: {section.key: [values]}`; `name: {value: {section.key: value, ...}, ...}`, which
    changes several keys together. Keys may begin with a stage (`t1.model_cfg.width`).
    """
    axes = []
    for name, value in (read_yaml(path) if path else {}).items():
        where = f"{path}: axis {name}"
        if isinstance(value, list) and value:
            axes.append((str(name).rpartition(".")[2], [_single(str(name), one) for one in value]))
        elif isinstance(value, Mapping) and len(value) == 1 and isinstance(next(iter(value.values())), list):
            ((key, values),) = value.items()
            axes.append((str(name), [_single(str(key), one) for one in values]))
        elif isinstance(value, Mapping) and value and all(isinstance(one, Mapping) for one in value.values()):
            axes.append((str(name), [(str(each), [_option(k, v) for k, v in keys.items()])
                                     for each, keys in value.items()]))
        else:
            raise UserError(f"{where} is {value!r}; write section.key: [values], or name: {{value: {{section.key: "
                            "value}}")
        if not axes[-1][1]:
            raise UserError(f"{where} has no values; give at least one")
    if path and not axes:
        raise UserError(f"{path}: holds no axis; write section.key: [values]")
    return axes


def _single(key: str, value: Any) -> tuple[str, list[str]]:
    return (value if isinstance(value, str) else json.dumps(value), [_option(key, value)])


def _option(key: Any, value: Any) -> str:
    return f"{key}={json.dumps(value)}"


def _parse(text: str, root: Path, opts: Sequence[str]) -> Contender:
    """`[LABEL=]FILE[@scratch|@untrained]` as a contender without options of its own."""
    label, equals, rest = text.partition("=")
    if not equals or "/" in label or label.endswith((".yaml", ".yml")):
        label, rest = "", text
    config, at, variant = rest.rpartition("@")
    if not at:
        config, variant = rest, ""
    elif variant not in VARIANTS:
        raise UserError(f"--cfgs {text}: there is no variant {variant!r}{suggestion(variant, VARIANTS)}")
    stages = load_settings(config, own_options(opts), root).model_cfg.stages
    if variant == "scratch" and not stages:
        raise UserError(f"--cfgs {text}: {config} has no earlier stages to leave out; drop @scratch")
    name = label or Path(config).stem + (at + variant)
    leave_out = tuple(f"model_cfg.stages.{stage}=null" for stage in stages) if variant == "scratch" else ()
    return Contender(name, config, variant, leave_out)


def contenders(
    cfgs: Sequence[str], axes: Path | None, opts: Sequence[str], root: Path, untrained: bool = False
) -> list[Contender]:
    """Every config with every cell of the grid; `untrained` adds to each trained network the same one as it starts.

    opts go to all of them; an option for a stage goes to those that have it.
    """
    grid = read_axes(axes)
    found: list[Contender] = []
    for text in cfgs:
        base = _parse(text, root, opts)
        for cell in product(*(values for _, values in grid)):
            names = [f"{axis}={value}" for (axis, _), (value, _) in zip(grid, cell, strict=True)]
            given = [*opts, *base.opts, *(option for _, options in cell for option in options)]
            found.append(replace(base, label=" ".join([base.label, *names]), opts=tuple(given)))
    known: set[str] = set()
    for i, one in enumerate(found):
        stages = set(load_settings(one.config, own_options(one.opts), root).model_cfg.stages)
        known |= stages
        found[i] = replace(one, opts=tuple(t for t in one.opts if not _STAGE.match(t) or _STAGE.match(t)[1] in stages))
    strays = [text for text in opts if _STAGE.match(text) and _STAGE.match(text)[1] not in known]
    if strays:
        raise UserError(f"--opts {strays[0]}: no config has a stage {_STAGE.match(strays[0])[1]}"
                        f"{suggestion(_STAGE.match(strays[0])[1], known)}")
    if untrained:
        found += _untrained(found)
    for key in ("label", "slug"):
        names = [getattr(one, key) for one in found]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"--cfgs: two methods are called {twice[0]}; name them: LABEL={found[0].config}")
    return found


def _untrained(found: Sequence[Contender]) -> list[Contender]:
    """An untrained twin of each network that trains: one for those that differ in their earlier stages only."""

    def start(one: Contender) -> tuple[str, tuple[str, ...]]:
        return one.config, tuple(t for t in own_options(one.opts) if not t.startswith("model_cfg.stages."))

    twins: dict[tuple[str, tuple[str, ...]], Contender] = {}
    there = {start(one) for one in found if one.variant == "untrained"}
    for one in found:
        if one.trains and start(one) not in there:
            label = one.label.replace("@scratch", "") + "@untrained"
            twins.setdefault(start(one), Contender(label, one.config, "untrained", start(one)[1]))
    return list(twins.values())


# Keys that say where things lie, how often to log and from where to go on: they do not make another method.
_FREE = {
    "data_cfg": {"dataset_root", "dataset_partition", "num_workers", "cache", "test_dataset_name"},
    "model_cfg": {"stages"},
    "evaluator_cfg": {"restore_hint", "restore_ckpt_strict", "save_name"},
    "trainer_cfg": {"seed", "restore_hint", "restore_ckpt_strict", "optimizer_reset", "scheduler_reset", "log_iter",
                    "save_iter", "val_iter", "with_test", "save_name"},
}  # fmt: skip


def _contents(path: Path) -> str:
    """16 hexadecimal digits that stand for what a file holds; none where it is missing, which its training tells."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def identity(contender: Contender, stages: Sequence[Stage]) -> dict[str, Any]:
    """What makes a method the one it is, as {dotted key: value}: two runs may stand in one table only if it is equal.
    An untrained network is one whatever its training would be. What is as the schema has it is left out: a key that a
    later version adds makes no other method. A stage that is a checkpoint is what its file holds."""
    earlier = stages[-1].settings.model_cfg.stages
    found: dict[str, Any] = {"variant": contender.variant, "stages": sorted(earlier)}
    if contender.trains:
        found |= {f"{name}.sha256": _contents(Path(path)) for name, path in earlier.items()
                  if name not in {stage.name for stage in stages}}
    for stage in stages if contender.trains else stages[-1:]:
        values = stage.settings.resolved()
        sections = values if contender.trains else ("data_cfg", "model_cfg", "evaluator_cfg")
        for section in sections:
            if stage.name and section == "evaluator_cfg":
                continue
            if not isinstance(values[section], Mapping):
                found[f"{stage.prefix}{section}"] = values[section]
                continue
            fields = type(getattr(stage.settings, section)).model_fields
            found |= {f"{stage.prefix}{section}.{key}": value for key, value in values[section].items()
                      if key not in _FREE.get(section, set())
                      and not (key in fields and fields[key].default == value)}
    return json.loads(json.dumps(found, default=str))
