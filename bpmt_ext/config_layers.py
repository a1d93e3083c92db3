"""YAML files, `base` chains and `--opts` in, one merged mapping and who wrote each key out.

The merge is the hosts': mappings recursively, everything else (lists too) replaced. What is remembered besides
the values is the file each key came from, so that a fault can be told with its file, and so that a key the user
wrote can be told from one that only the defaults bring.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from bpmt_ext.errors import UserError
from bpmt_ext.regular import read_regular, real_path

OPTIONS = "--opts"
_FILE_BYTES = 1 << 20
_MOST_VALUES, _MOST_LEVELS = 100_000, 32  # in one text, each counted wherever an alias puts it


class _Loader(yaml.SafeLoader):
    """`safe_load` that reads 1e-4 as a number and refuses a key written twice, and aliases that unfold without end."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.weights: dict[int, tuple[int, int]] = {}  # of every node: the values in it, the levels in it

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias and id(node) not in self.weights:
            raise yaml.composer.ComposerError(None, None, "an alias stands for what it stands in", node.start_mark)
        if not alias:
            pairs = node.value if isinstance(node, yaml.CollectionNode) else []
            inner = [self.weights[id(x)] for pair in pairs for x in (pair if isinstance(pair, tuple) else (pair,))]
            values, levels = 1 + sum(n for n, _ in inner), 1 + max((n for _, n in inner), default=0)
            if values > _MOST_VALUES or levels > _MOST_LEVELS:
                raise yaml.composer.ComposerError(
                    None, None, f"more than {_MOST_VALUES} values or {_MOST_LEVELS} levels", node.start_mark
                )
            self.weights[id(node)] = values, levels
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key_node.value}' twice", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where a float needs a dot and a signed exponent: 1e-4 and 1.5e4 would stay strings.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$|[-+]?\.[0-9]+[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; UserError naming `where`, line and fault when it is none."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{where}: not readable as YAML{line}: {problem}") from None
    except RecursionError:
        raise UserError(f"{where}: not readable as YAML: too many brackets in each other") from None
    except ValueError as error:  # e.g. the date 2024-13-45, or a control character
        raise UserError(f"{where}: not readable as YAML: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML file as a mapping; an empty file is an empty mapping."""
    try:
        text = read_regular(path, _FILE_BYTES).decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a config file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    values = parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}, not sections such as data_cfg")
    return values


def read_chain(path: Path, defaults: Path) -> list[tuple[str, dict[str, Any]]]:
    """A config and the ones its `base` names, lowest first, each as (file, values without `base`).

    `base` is relative to the file that names it. Naming the defaults themselves adds nothing: they lie under
    every config, and their keys must not count as the user's.
    """
    chain: list[tuple[str, dict[str, Any]]] = []
    visited: list[Path] = []
    while True:
        real = real_path(path)
        if real in visited:
            names = " -> ".join(p.name for p in [*visited[visited.index(real) :], real])
            raise UserError(f"{chain[-1][0]}: base runs in a circle ({names}); take one of them out")
        visited.append(real)
        values = read_yaml(path)
        base = values.pop("base", None)
        chain.insert(0, (str(path), values))
        if base is None:
            return chain
        if not isinstance(base, str):
            raise UserError(f"{path}: base should be the name of one YAML file, got {base!r}")
        following = path.parent / base
        if not following.is_file():
            raise UserError(f"{path}: base names {following}, which does not exist; base is relative to the file")
        if real_path(following) == real_path(defaults):
            return chain
        path = following


def dotted_paths(value: Any, prefix: str) -> Iterator[str]:
    """`prefix` and the dotted path of every key and list index below it."""
    yield prefix
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from dotted_paths(below, f"{prefix}.{key}")


class Layers:
    """Merged values and, for every dotted path the user wrote, the file (or `--opts`) that wrote it last."""

    def __init__(self, defaults: Mapping[str, Any]) -> None:
        self.values: dict[str, Any] = deepcopy(dict(defaults))
        self.sources: dict[str, str] = {}

    def overlay(self, above: Mapping[str, Any], source: str) -> None:
        """Merge one file's values over what is there."""
        self._merge(self.values, above, source, "")

    def _merge(self, below: dict[str, Any], above: Mapping[str, Any], source: str, prefix: str) -> None:
        for key, value in above.items():
            path = f"{prefix}{key}"
            if isinstance(below.get(key), dict) and value is None:
                continue  # a section whose keys are all commented out says nothing
            if isinstance(below.get(key), dict) and isinstance(value, Mapping):
                self.sources[path] = source
                self._merge(below[key], value, source, f"{path}.")
            else:
                below[key] = deepcopy(value)
                self._forget(path)
                self.sources.update(dict.fromkeys(dotted_paths(value, path), source))

    def _forget(self, path: str) -> None:
        for stale in [p for p in self.sources if p.startswith(f"{path}.")]:
            del self.sources[stale]

    def option(self, text: str) -> None:
        """Apply one `section.key=value`; list entries are addressed by index."""
        dotted, equals, raw = text.partition("=")
        parts = dotted.strip().split(".")
        if not equals or not all(parts):
            raise UserError(f"{OPTIONS} {text}: write it as section.key=value")
        value = parse_yaml(raw, f"{OPTIONS} {text}")
        if parts[:2] == ["loss_cfg", "0"] and isinstance(self.values.get("loss_cfg"), dict):
            del parts[1]  # a single loss may be written without its list
        node: Any = self.values
        for depth, part in enumerate(parts[:-1]):
            path = ".".join(parts[: depth + 1])
            if isinstance(node, dict) and node.get(part) is None:
                node[part] = {}
            node = node[self._index(node, parts, depth, text)]
            self.sources[path] = OPTIONS
        key = self._index(node, parts, len(parts) - 1, text)
        prefix = "".join(f"{part}." for part in parts[:-1])
        if isinstance(node, dict):
            self._merge(node, {key: value}, OPTIONS, prefix)
            return
        entry = {key: node[key]}
        self._merge(entry, {key: value}, OPTIONS, prefix)
        node[key] = entry[key]

    @staticmethod
    def _index(node: Any, parts: Sequence[str], depth: int, text: str) -> str | int:
        """`parts[depth]` as a key of a mapping or an index of a list."""
        part, above = parts[depth], ".".join(parts[:depth])
        if isinstance(node, dict):
            return part
        if not isinstance(node, list):
            raise UserError(f"{OPTIONS} {text}: {above} is {node!r} and has no keys below it")
        if not part.isdecimal() or int(part) >= len(node):
            raise UserError(
                f"{OPTIONS} {text}: {above} is a list of {len(node)}, so '{part}' should be an index "
                f"from 0 to {len(node) - 1}"
            )
        return int(part)
