"""Methods and an output folder in; a refusal of what cannot stand in one table, or what all of them share, out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bpmt_ext.config import Settings
from bpmt_ext.data.health import fingerprint
from bpmt_ext.data.sequences import SequenceSet, Splits
from bpmt_ext.engine.logs import write_json
from bpmt_ext.engine.methods import Contender, Stage
from bpmt_ext.engine.stages import check_protocol, load_recorded
from bpmt_ext.errors import UserError
from bpmt_ext.report.comparison import FORMAT, read_plan

PROTOCOL = ("eval_func", "same_camera", "camera", "cross_view_gallery")
_EMPTY = SequenceSet(())


@dataclass(frozen=True)
class Case:
    """One split: its name (fold0, or split for the configs' own), its partition file and training root where they
    differ from the configs', and the test sets {name: root or None for the training root}."""

    name: str
    partition: Path | None
    root: Path | None
    tests: Mapping[str, Path | None]

    def settings(self, settings: Settings, test: str | None = None) -> Settings:
        """Settings on this split, with the root of a test set."""
        root = self.tests.get(test) if test is not None else None
        changes = {"dataset_root": root or self.root, "dataset_partition": self.partition}
        data = settings.data_cfg.model_copy(update={k: str(v) for k, v in changes.items() if v is not None})
        return settings.model_copy(update={"data_cfg": data})


def digest(value: Any) -> str:
    """16 hexadecimal digits that stand for a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


class _Loader:
    """Splits by their data section, as recorded: configs that share it share them, without the poses.

    People that data_cfg.exchanged_bodies makes of them are a method's own doing, as augmentation is.
    """

    def __init__(self) -> None:
        self.known: dict[str, Splits] = {}

    def __call__(self, settings: Settings) -> Splits:
        values = settings.resolved()["data_cfg"]
        key = json.dumps({k: v for k, v in values.items() if k not in ("num_workers", "cache", "dataset_name",
                                                                      "test_dataset_name", "exchanged_bodies")},
                         default=str)  # fmt: skip
        if key not in self.known:
            self.known[key] = load_recorded(settings)
        return self.known[key]


def _trained_on(stages: Sequence[Stage], case: Case, load: _Loader) -> str:
    """16 hexadecimal digits that stand for the sequences that a method's stages train on. An earlier stage that is
    given data of its own has them in every split."""

    def place(settings: Settings) -> tuple[str, str]:
        return settings.data_cfg.dataset_root, settings.data_cfg.dataset_partition

    last = stages[-1].settings
    given = [s.settings if place(s.settings) != place(last) else case.settings(s.settings) for s in stages]
    marks = [fingerprint(replace(load(settings), test=_EMPTY))[:16] for settings in given]
    return marks[-1] if len(set(marks)) == 1 else digest(marks)


def check_methods(
    methods: Sequence[Contender], stages: Mapping[str, Sequence[Stage]], cases: Sequence[Case]
) -> dict[str, Any]:
    """{"protocol": {key: value}, "data": {split: {"tests": {name: fingerprint}, "train": {method: fingerprint}}}}.

    UserError where two methods would be tested on other sequences or by another rule, or a test has no valid probe.
    """
    load, data = _Loader(), {}
    first = stages[methods[0].label][-1].settings
    rule = {key: getattr(first.evaluator_cfg, key) for key in PROTOCOL}
    for one in methods[1:]:
        theirs = stages[one.label][-1].settings.evaluator_cfg
        for key, value in rule.items():
            if getattr(theirs, key) != value:
                raise UserError(
                    f"evaluator_cfg.{key} is {value!r} for {methods[0].label} and {getattr(theirs, key)!r} for "
                    f"{one.label}: one table needs one protocol; set it for all (--opts evaluator_cfg.{key}=...)"
                )
    for case in cases:
        tests: dict[str, str] = {}
        train: dict[str, str] = {}
        for one in methods:
            settings = stages[one.label][-1].settings
            train[one.label] = _trained_on(stages[one.label], case, load)
            for name in case.tests:
                there = case.settings(settings, name)
                splits = load(there)
                probes = ",".join(sorted(splits.probes or ()))
                mark = digest([fingerprint(replace(splits, train=_EMPTY, val=_EMPTY)), probes])
                if name not in tests:
                    check_protocol(there, splits)
                if tests.setdefault(name, mark) != mark:
                    raise UserError(
                        f"{case.name}, test {name}: {one.label} would be tested on other sequences than "
                        f"{methods[0].label} ({len(splits.test)} sequences); make data_cfg equal, e.g. with --root, "
                        "--fold-dir or --opts data_cfg.frame_threshold=0"
                    )
        data[case.name] = {"tests": tests, "train": train}
    return {"protocol": rule, "data": data}


def check_place(out: Path) -> None:
    """UserError if a folder holds something, but no comparison."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    inside = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if inside - {"claims", "budget.json", "measure"} and not (out / "comparison.json").is_file():
        raise UserError(f"--out {out}: holds something else than a comparison; name another folder")


def check_folder(
    out: Path, methods: Sequence[tuple[Contender, dict[str, Any]]], shared: Mapping[str, Any], budget: Mapping[str, Any]
) -> None:
    """Enter methods and splits into `comparison.json`. UserError if what is there cannot be mixed with them.

    Methods, folds and seeds may be added; the rule, the budget, the test sets and a method's settings may not change.
    """
    file = out / "comparison.json"
    try:
        _enter(file, out, methods, shared, budget)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if not file.is_file():
            raise
        # of a file that somebody has changed
        raise UserError(f"{file}: is damaged ({type(error).__name__}: {error}); restore it, or give another --out"
                        ) from error  # fmt: skip


def _enter(
    file: Path, out: Path, methods: Sequence[tuple[Contender, dict[str, Any]]], shared: Mapping[str, Any],
    budget: Mapping[str, Any],
) -> None:  # fmt: skip
    """As `check_folder`, of a file that says what it should."""
    now = {"format": FORMAT, "budget": dict(budget), "protocol": shared["protocol"], "data": {}, "methods": {}}
    there = read_plan(file) if file.is_file() else now
    remedy = "give another --out"
    for key in ("format", "budget", "protocol"):
        if there[key] != json.loads(json.dumps(now[key])):
            raise UserError(f"--out {out}: holds a comparison with another {key} ({there[key]}, now {now[key]}); "
                            f"{remedy}, or ask for the same")
    own, asked = ([", ".join(split["tests"]) for split in each["data"].values()] for each in (there, shared))
    other = next((names for names in own if names != asked[0]), None)
    if other is not None:
        raise UserError(f"--out {out}: its test sets are {other}, those asked for {asked[0]}; {remedy}")
    for case, split in shared["data"].items():
        before = there["data"].setdefault(case, split)
        for name, mark in split["tests"].items():
            if before["tests"][name] != mark:
                raise UserError(f"--out {out}: {case}, test {name} was made with other sequences than there are now; "
                                f"restore the data, or {remedy}")
        for label, mark in split["train"].items():
            if before["train"].setdefault(label, mark) != mark:
                raise UserError(f"--out {out}: {case}: {label} was trained on other sequences than there are now; "
                                f"restore the data, or {remedy}")
    for one, identity in methods:
        before = there["methods"].get(one.label)
        if before and before["identity"] != identity and any((out / "cells" / one.slug).glob("*/result.json")):
            keys = [k for k in {**before["identity"], **identity} if before["identity"].get(k) != identity.get(k)]
            told = ", ".join(f"{k}: {before['identity'].get(k)!r} there, {identity.get(k)!r} now" for k in keys[:3])
            raise UserError(f"--out {out}: {one.label} stands there with other settings ({told}); name the new one "
                            f"otherwise (LABEL={one.config}), or {remedy}")
        there["methods"][one.label] = {"config": one.config, "variant": one.variant, "slug": one.slug,
                                       "digest": digest(identity), "identity": identity}
    write_json(file, there)
