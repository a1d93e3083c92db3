"""The schema, the tables and the shipped defaults in; docs/reference.md, every key and name with its meaning, out.

    python tools/make_reference.py            writes it
    python tools/make_reference.py --check    status 1 where the file is not what would be written
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bpmt_ext.config import Settings, configs_folder
from bpmt_ext.config_schema import SamplerConfig
from bpmt_ext.data.samplers import SAMPLERS
from bpmt_ext.data.transforms import TRANSFORMS, Compose
from bpmt_ext.losses import LOSSES
from bpmt_ext.metrics.classification import CLASSIFICATION
from bpmt_ext.metrics.protocols import PROTOCOLS
from bpmt_ext.registry import METHODS
from bpmt_ext.skeletons import SKELETONS

MEANINGS = Path(__file__).with_name("reference_keys.yaml")
TARGET = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
HEAD = """# Reference: every key and every name

Written by `python tools/make_reference.py` from the code; a test keeps it so. How to bring your own network, transform,
skeleton or data set: [extending.md](extending.md).

A config is a YAML file, merged over [configs/default.yaml](../configs/default.yaml): mappings key by key, everything
else replaced. `base: other.yaml` puts another file of yours in between. `--opts section.key=value` comes last. A key
that nothing takes is an error that names the nearest known one.
"""


def type_text(kind: Any, limits: Sequence[Any] = ()) -> str:
    """An annotation as a reader's words: `whole number >= 1`, `keep, drop or drop_all`."""
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        return type_text(inner, [*limits, *more])
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(type_text(k, limits) for k in get_args(kind) if k is not NoneType)
    if get_origin(kind) in (list, tuple, Sequence):
        inner = [k for k in get_args(kind) if k is not ...]
        return "list of " + " or ".join(dict.fromkeys(type_text(k) for k in inner)) if inner else "list"
    if get_origin(kind) in (dict, Mapping):
        return "mapping"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "section, below"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", dict: "mapping", Any: "any"}
    return names.get(kind, getattr(kind, "__name__", str(kind))) + "".join(_limit(limit) for limit in limits)


def _limit(limit: Any) -> str:
    if isinstance(limit, FieldInfo):
        return "".join(map(_limit, limit.metadata))
    signs = {annotated_types.Ge: ("ge", "≥"), annotated_types.Gt: ("gt", ">"), annotated_types.Le: ("le", "≤"),
             annotated_types.Lt: ("lt", "<")}
    name, sign = signs.get(type(limit), ("", ""))
    return f" {sign} {getattr(limit, name):g}" if name else ""


def shown(value: Any) -> str:
    """A default as YAML would write it."""
    if value is PydanticUndefined or value is inspect.Parameter.empty:
        return "*required*"
    if value is None:
        return ""
    if isinstance(value, (Mapping, list, tuple)) and value:
        return "*see default.yaml*" if isinstance(value, Mapping) else f"`{list(value)}`"
    return "`" + yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip() + "`"


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in row)} |" for row in lines)


def section(name: str, model: type[BaseModel], default: Any) -> Iterator[str]:
    """A section's heading, meaning and table of keys, then the sections inside it."""
    yield f"\n### {name}\n\n{inspect.getdoc(model)}\n"
    rows, inner = [], []
    for key, field in model.model_fields.items():
        value = field.get_default(call_default_factory=True)
        value = default.get(key, value) if isinstance(default, Mapping) else value
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner.append((f"{name}.{key}", kind, value))
            value = None
        rows.append([f"`{key}`", type_text(kind, field.metadata), shown(value), field.description or ""])
    yield table(rows, ["key", "type", "default", "meaning"])
    for path, kind, value in inner:
        if kind is SamplerConfig and name != "trainer_cfg":
            yield f"\n### {path}\n\nAs trainer_cfg.sampler; its defaults: {shown(list(value.items()) or None)}."
        else:
            yield from section(path, kind, value)


def meaning(group: str, name: str, key: str) -> str:
    """What an argument does; KeyError for one nobody has described."""
    text = yaml.safe_load(MEANINGS.read_text("utf-8"))[group][key]
    return text if isinstance(text, str) else text.get(name) or text["default"]


def arguments(group: str, called: str, target: Callable[..., Any], supplied: Sequence[str] = ()) -> str:
    """The arguments a config can give a class, as a table; nothing where there is none."""
    init = target.__init__ if isinstance(target, type) else target
    try:
        hints = get_type_hints(init)
    except NameError:  # names that only a type checker imports
        hints = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    rows = [
        [f"`{name}`", type_text(hints.get(name, Any)), shown(p.default), meaning(group, called, name)]
        for name, p in inspect.signature(target).parameters.items()
        if name not in supplied and p.kind in named
    ]
    return "\n\n" + table(rows, ["key", "type", "default", "meaning"]) if rows else ""


def component(group: str, name: str, target: type, supplied: Sequence[str] = ()) -> str:
    paragraphs = (" ".join(part.split()) for part in (inspect.getdoc(target) or "").split("\n\n"))
    text = "\n\n".join(paragraphs).replace("<", "\\<")
    return f"\n### {name}\n\n{text}{arguments(group, name, target, supplied)}"


def reference() -> str:
    """The whole page."""
    defaults = yaml.safe_load((configs_folder() / "default.yaml").read_text("utf-8"))
    parts = [HEAD, "\n## Sections"]
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        kind = get_args(kind)[0] if get_origin(kind) is list else kind
        parts += section(name, kind, defaults.get(name, {}))
    parts.append("\n## Networks (`model_cfg.model`)\n\nFurther keys of model_cfg are the network's own:")
    parts += [component("networks", name, method.network(), ("skeleton",)) for name, method in METHODS.items()]
    parts.append("\n## Losses (`loss_cfg.type`)")
    parts += [component("losses", name, loss, ("loss_term_weight",)) for name, loss in LOSSES.items()]
    parts.append("\n## Samplers (`sampler.type`)")
    parts += [f"\n### {s.__name__}\n\n{inspect.getdoc(s)}" for s in SAMPLERS.values()]
    parts.append("\n## Transforms (`transform`)\n\nA list of `{type: ..., parameters}`, or the hosts' Compose.")
    listed = {name: transform for name, transform in TRANSFORMS.items() if transform is not Compose}
    parts += [component("transforms", name, transform) for name, transform in listed.items()]
    names = [[f"`{name}`", s.joints and str(s.num_joints), str(s.dims), ", ".join(s.joints)]
             for name, s in SKELETONS.items()]
    head = ["name", "joints", "coordinates", "order"]
    parts.append("\n## Joint formats (`data_cfg.joint_format`)\n\n" + table(names, head))
    rules = [[f"`{name}`", "any" if data == "*" else data, ", ".join(c.name or "all" for c in row.conditions)]
             for name, rows in PROTOCOLS.items() for data, row in rows.items()]
    rules += [[f"`{name}`", "any", "recognition: the classes of the training are those of the test"]
              for name in CLASSIFICATION]
    head = ["name", "data set", "conditions"]
    parts.append("\n## Protocols (`evaluator_cfg.eval_func`)\n\n" + table(rules, head))
    return "\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write docs/reference.md from the code.")
    parser.add_argument("--check", action="store_true", help="only tell whether it is up to date")
    args = parser.parse_args(argv)
    text = reference()
    if args.check:
        same = TARGET.is_file() and TARGET.read_text("utf-8") == text
        sys.stdout.write("up to date\n" if same else f"{TARGET.name} is out of date: python tools/make_reference.py\n")
        return 0 if same else 1
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
