"""Labels, types and views of a test set in; who is probe, who is gallery and which pairs exist, as indices, out.

Letters: n sequences, b probes, m gallery entries.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bpmt_ext.cameras import CAMERAS
from bpmt_ext.errors import UserError

SAME_CAMERA = ("keep", "drop", "drop_all")


@dataclass(frozen=True)
class Roster:
    """The test set as a protocol may look at it: all arrays (n,)."""

    labels: np.ndarray  # str
    types: np.ndarray  # str
    views: np.ndarray  # str
    cameras: np.ndarray  # str; of a view-by-view protocol, its views
    listed: np.ndarray | None  # bool, True for the PROBE_SET; None where the protocol goes without one


@dataclass(frozen=True)
class Selector:
    """Some of the sequences: what they are called in an error, and which they are."""

    says: str
    choose: Callable[[Roster], np.ndarray]  # -> (n,) bool


PROBE_SET = Selector(
    "a sequence of PROBE_SET",  # without one, everybody in turn (leave-one-out)
    lambda roster: np.ones(len(roster.labels), dtype=bool) if roster.listed is None else roster.listed,
)
THE_REST = Selector(
    "a sequence outside PROBE_SET",  # without one, everybody (a probe never sees itself)
    lambda roster: np.ones(len(roster.labels), dtype=bool) if roster.listed is None else ~roster.listed,
)


def of_type(*names: str) -> Selector:
    """Sequences whose type is one of these."""
    return Selector(f"type {' or '.join(names)}", lambda roster: np.isin(roster.types, names))


def with_type(*parts: str) -> Selector:
    """Sequences whose type contains one of these."""

    def choose(roster: Roster) -> np.ndarray:
        return np.logical_or.reduce([np.char.find(roster.types, part) >= 0 for part in parts])

    return Selector(f"a type that contains {' or '.join(parts)}", choose)


@dataclass(frozen=True)
class Condition:
    """One reported setting: its name goes before the names of its metrics ("NM" -> "NM Rank-1"); "" adds nothing."""

    name: str
    probe: Selector
    gallery: Selector


@dataclass(frozen=True)
class Chosen:
    """A condition of a given test set: indices (b,) of its probes and (m,) of its gallery."""

    name: str
    title: str  # protocol and condition, for errors
    probe: np.ndarray
    gallery: np.ndarray


def make_roster(
    name: str, labels: Sequence[str], types: Sequence[str], views: Sequence[str], *, camera: str,
    probes: Collection[str] | None, need: str,
) -> Roster:
    """The test set. probes: names of the PROBE_SET; need: whether the protocol reads it, "needed", "optional" or
    "unused". UserError for an unknown camera rule, an empty set, a PROBE_SET that is missing or not in the set."""
    if camera not in CAMERAS:
        raise UserError(f"evaluator_cfg.camera: {camera!r} is not known; use {', '.join(CAMERAS)}.")
    if not len(labels) == len(types) == len(views):
        raise ValueError(f"labels, types, views differ in length: {len(labels)}, {len(types)}, {len(views)}")
    if not len(labels):
        raise UserError(f"{name}: the test set is empty; check TEST_SET of the partition and data_cfg.dataset_root.")
    cameras = [CAMERAS[camera](type_, view) for type_, view in zip(types, views, strict=True)]
    listed = None
    if need == "needed" and probes is None:
        raise UserError(
            f"{name} needs a PROBE_SET in data_cfg.dataset_partition; take the benchmark's own partition file, or "
            "use eval_func: evaluate_retrieval for leave-one-out."
        )
    if need != "unused" and probes is not None:
        names = np.array([f"{a}-{b}-{c}" for a, b, c in zip(labels, types, views, strict=True)])
        listed = np.isin(names, list(probes))
        absent = sorted(set(probes) - set(names[listed]))
        if absent:
            raise UserError(
                f"{name}: {len(absent)} of {len(set(probes))} sequences of PROBE_SET are not in the test set, first "
                f"{', '.join(absent[:3])}; convert them, lower data_cfg.frame_threshold if it dropped them, or take "
                "them out of PROBE_SET."
            )
    arrays = (np.asarray(list(values), dtype=str) for values in (labels, types, views, cameras))
    return Roster(*arrays, listed)


def choose(name: str, condition: Condition, roster: Roster) -> Chosen:
    """Who takes part in a condition. UserError, with what was expected and found, where no probe or no gallery is."""
    title = f"{name} {condition.name}".strip()
    found = []
    for role, select in (("probe", condition.probe), ("gallery", condition.gallery)):
        found.append(np.flatnonzero(select.choose(roster)))
        if not len(found[-1]):
            raise UserError(
                f"{title}: none of {len(roster.labels)} test sequences belongs to its {role}: expected {select.says}, "
                f"found types {listing(roster.types)}; check what was converted and data_cfg.test_dataset_name."
            )
    return Chosen(condition.name, title, *found)


def check_views(chosen: Sequence[Chosen], roster: Roster) -> np.ndarray:
    """The views of a view-by-view protocol, sorted (v,). UserError unless every condition has probes and gallery in
    each of two views or more: the mean over views would be another figure."""
    used = np.unique(np.concatenate([np.concatenate([c.probe, c.gallery]) for c in chosen]))
    views = np.unique(roster.cameras[used])
    if len(views) < 2:
        raise UserError(
            f"{chosen[0].title}: expected two views or more, found only {views[0]}; check the view folders of "
            "data_cfg.dataset_root, or use eval_func: evaluate_retrieval."
        )
    for condition in chosen:
        for role, index in (("probe", condition.probe), ("gallery entry", condition.gallery)):
            there = np.unique(roster.cameras[index])
            if len(there) < len(views):
                raise UserError(
                    f"{condition.title}: has no {role} in view {listing(np.setdiff1d(views, there))}: expected all of "
                    f"{listing(views)}, found {listing(there)}; convert the missing sequences, or take those views out."
                )
    return views


def listing(names: np.ndarray, most: int = 14) -> str:
    """Different names, in order, the first few of many."""
    names = np.unique(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def no_match(chosen: Chosen, same_camera: str) -> str:
    """The sentence for a condition without a valid probe."""
    rule = {
        "keep": "a probe needs another sequence of its label in the gallery: check labels and PROBE_SET",
        "drop": "same_camera: drop leaves out its own label's entries of its camera: check the camera key, or use keep",
        "drop_all": "same_camera: drop_all leaves out every entry of its camera: check the camera key, or use keep",
    }[same_camera]
    probes, gallery = len(chosen.probe), len(chosen.gallery)
    return f"{chosen.title}: none of {probes} probes has a match among {gallery} sequences; {rule}."


class Pairs:
    """Which pairs of probe and gallery entry share the identity, and which exist, block by block of probes."""

    def __init__(self, roster: Roster, chosen: Chosen, same_camera: str, device: torch.device | None = None) -> None:
        def codes(names: np.ndarray) -> tuple[Tensor, Tensor]:
            all_codes = np.unique(names, return_inverse=True)[1]
            return tuple(torch.as_tensor(all_codes[index], device=device) for index in (chosen.probe, chosen.gallery))

        self.same_camera = same_camera
        self.identity = codes(roster.labels)
        self.camera = codes(roster.cameras)
        self.index = tuple(torch.as_tensor(index, device=device) for index in (chosen.probe, chosen.gallery))

    def block(self, b: slice, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Probes b, gallery entries `part` -> match, keep: (b, m) bool; keep is False for the probe itself and where
        the rule leaves the entry out."""
        match, camera, own = (
            probe[b, None] == gallery[part] for probe, gallery in (self.identity, self.camera, self.index)
        )
        left_out = {"keep": own, "drop": own | (match & camera), "drop_all": own | camera}[self.same_camera]
        return match, ~left_out


def count_pairs(roster: Roster, chosen: Chosen, same_camera: str) -> tuple[np.ndarray, int]:
    """-> valid (b,) bool: the probe has a match that exists; and the number of pairs that the camera rule leaves out,
    a probe's own copy in the gallery not counted. By counting, not by looking at every pair."""
    (who, identities), (where, cameras) = (
        (codes, len(names)) for names, codes in (
            np.unique(names, return_inverse=True) for names in (roster.labels, roster.cameras)
        )
    )
    both = who.astype(np.int64) * cameras + where
    p, g = chosen.probe, chosen.gallery
    of_label = np.bincount(who[g], minlength=identities)[who[p]]
    of_camera = np.bincount(where[g], minlength=cameras)[where[p]]
    of_both = np.bincount(both[g], minlength=identities * cameras)[both[p]]
    own = np.isin(p, g)
    if same_camera == "keep":
        return of_label - own > 0, 0
    return of_label - of_both > 0, int(((of_both if same_camera == "drop" else of_camera) - own).sum())
