"""Embeddings, labels, types and views of a test set in; the numbers of a named protocol out.

A protocol is a row of `PROTOCOLS`: who is probe, who is gallery, which gallery entries a probe does not see
(specs/protocols.md, sections 3 and 9). A new data set is a new row: one `Condition` per reported setting, made of two
selectors over `Roster`. Letters: n sequences, b probes, m gallery entries, d width, p parts.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from bpmt_ext.cameras import CAMERAS
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.ranking import METRICS, blocks, compare, prepare, rank, summarise

SAME_CAMERA = ("keep", "drop", "drop_all")


@dataclass(frozen=True)
class Roster:
    """The test set as a protocol may look at it: all arrays (n,)."""

    labels: np.ndarray  # str
    types: np.ndarray  # str
    views: np.ndarray  # str
    cameras: np.ndarray  # str
    listed: np.ndarray | None  # bool, True for the PROBE_SET; None where the protocol goes without one


Selector = Callable[[Roster], np.ndarray]  # -> (n,) bool


def probe_set(roster: Roster) -> np.ndarray:
    """The PROBE_SET; without one, everybody in turn (leave-one-out)."""
    return np.ones(len(roster.labels), dtype=bool) if roster.listed is None else roster.listed


def the_rest(roster: Roster) -> np.ndarray:
    """Everybody outside the PROBE_SET; without one, everybody (a probe never sees itself)."""
    return np.ones(len(roster.labels), dtype=bool) if roster.listed is None else ~roster.listed


@dataclass(frozen=True)
class Condition:
    """One reported setting: its name goes before the names of its metrics ("NM" -> "NM Rank-1"); "" adds nothing."""

    name: str
    probe: Selector
    gallery: Selector


@dataclass(frozen=True)
class Protocol:
    """A row of the table."""

    conditions: tuple[Condition, ...] = (Condition("", probe_set, the_rest),)
    probes: str = "unused"  # the list of probe names is "needed", "optional" or "unused"
    same_camera: tuple[str, ...] = ("keep",)  # what the caller may ask for; the first is the rule
    macro: bool = False  # also Rank-1 as mean over identities


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "evaluate_Gait3D": Protocol(probes="needed"),
        "evaluate_retrieval": Protocol(probes="optional", same_camera=SAME_CAMERA, macro=True),
        "thesis_rank1": Protocol(),  # leave-one-out over everybody, same camera allowed
    }
)


def evaluate(
    name: str,
    embeddings: np.ndarray | Tensor,
    labels: Sequence[str],
    types: Sequence[str],
    views: Sequence[str],
    *,
    metric: str = "euc",
    probes: Collection[str] | None = None,
    same_camera: str = "keep",
    camera: str = "type_prefix",
) -> dict:
    """Score embeddings (n, d, p) of a test set by the protocol `name`.

    labels, types, views (n,). probes: names "label-type-view" of the PROBE_SET. same_camera: "keep"; "drop" leaves out
    gallery entries with the probe's identity and camera, "drop_all" every entry of its camera.
    -> metrics (percent; Rank-1, Rank-5, Rank-10, Rank-20, mAP, mINP, and "macro Rank-1" where the row asks for it),
    probes {total, valid}, gallery (number of sequences), protocol, metric, same_camera, camera, and per_probe: arrays
    index (into the n sequences), condition, label, valid, rank1, ap, inp (0..1, NaN where not valid) for a bootstrap.
    UserError: unknown name or option, missing probes, embeddings that are not finite, no valid probe.
    """
    row = _row(name, same_camera)
    if metric not in METRICS:
        raise UserError(f"evaluator_cfg.metric: {metric!r} is not known; use {' or '.join(METRICS)}.")
    roster = _roster(name, row, labels, types, views, probes, camera)
    x = torch.as_tensor(embeddings).detach()
    if x.ndim != 3 or len(x) != len(roster.labels):
        raise ValueError(f"embeddings must be ({len(roster.labels)}, d, p), got {tuple(x.shape)}")
    _check_finite(x, roster)
    prepared = prepare(x, metric)
    metrics: dict[str, float] = {}
    rows = []
    for condition, probe, gallery in _conditions(name, row, roster):
        ranking = _rank(prepared, metric, roster, probe, gallery, same_camera)
        if not ranking["valid"].any():
            raise UserError(_no_valid_probe(name, condition, len(probe), len(gallery), same_camera))
        scores = summarise(ranking)
        one = _per_probe(condition, probe, roster, ranking)
        if row.macro:
            scores["macro Rank-1"] = macro_rank1(one["rank1"], one["label"])
        metrics |= {f"{condition} {key}".strip(): value for key, value in scores.items()}
        rows.append(one)
    joined = {key: np.concatenate([one[key] for one in rows]) for key in rows[0]}
    return {
        "protocol": name,
        "metric": metric,
        "same_camera": same_camera,
        "camera": camera,
        "metrics": metrics,
        "probes": {"total": len(joined["valid"]), "valid": int(joined["valid"].sum())},
        "gallery": _gallery_size(row, roster),
        "per_probe": joined,
    }


def protocol_counts(
    name: str,
    labels: Sequence[str],
    types: Sequence[str],
    views: Sequence[str],
    *,
    probes: Collection[str] | None = None,
    same_camera: str = "keep",
    camera: str = "type_prefix",
) -> dict:
    """What `evaluate` would compare, known before any training.

    -> protocol, same_camera, camera, sequences, labels, cameras, probes {total, valid, without_match}, gallery,
    excluded_pairs (probe and gallery entry left out by the camera rule; a probe's own copy in the gallery does not
    count). UserError as `evaluate`, also where no valid probe remains.
    """
    row = _row(name, same_camera)
    roster = _roster(name, row, labels, types, views, probes, camera)
    total = valid = excluded = 0
    for condition, probe, gallery in _conditions(name, row, roster):
        found = 0
        pairs = _Pairs(roster, probe, gallery, same_camera)
        for b in blocks(len(probe), len(gallery)):
            match, keep, own = pairs.block(b)
            found += int((match & keep).any(1).sum())
            excluded += int((~keep & ~own).sum())
        if not found:
            raise UserError(_no_valid_probe(name, condition, len(probe), len(gallery), same_camera))
        total, valid = total + len(probe), valid + found
    return {
        "protocol": name,
        "same_camera": same_camera,
        "camera": camera,
        "sequences": len(roster.labels),
        "labels": len(np.unique(roster.labels)),
        "cameras": len(np.unique(roster.cameras)),
        "probes": {"total": total, "valid": valid, "without_match": total - valid},
        "gallery": _gallery_size(row, roster),
        "excluded_pairs": excluded,
    }


def macro_rank1(rank1: np.ndarray, labels: np.ndarray) -> float:
    """Per-probe Rank-1 (b,) of 0, 1 or NaN and labels (b,) -> percent, mean over identities of their mean."""
    valid = np.isfinite(rank1)
    _, owner = np.unique(labels[valid], return_inverse=True)
    return 100 * float((np.bincount(owner, weights=rank1[valid]) / np.bincount(owner)).mean())


class _Pairs:
    """Which pairs of probe and gallery entry share the identity, and which exist, block by block of probes."""

    def __init__(self, roster: Roster, probe: np.ndarray, gallery: np.ndarray, same_camera: str,
                 device: torch.device | None = None) -> None:
        def codes(names: np.ndarray) -> tuple[Tensor, Tensor]:
            all_codes = np.unique(names, return_inverse=True)[1]
            return tuple(torch.as_tensor(all_codes[chosen], device=device) for chosen in (probe, gallery))

        self.same_camera = same_camera
        self.identity = codes(roster.labels)
        self.camera = codes(roster.cameras)
        self.index = tuple(torch.as_tensor(chosen, device=device) for chosen in (probe, gallery))

    def block(self, b: slice) -> tuple[Tensor, Tensor, Tensor]:
        """-> match, keep, own: (b, m) bool; own is True where the gallery entry is the probe itself."""
        match, camera, own = (
            probe[b, None] == gallery for probe, gallery in (self.identity, self.camera, self.index)
        )
        left_out = {"keep": own, "drop": own | (match & camera), "drop_all": own | camera}[self.same_camera]
        return match, ~left_out, own


def _per_probe(condition: str, probe: np.ndarray, roster: Roster, ranking: Mapping[str, Tensor]) -> dict:
    values = {key: value.numpy() for key, value in ranking.items()}
    return {
        "index": probe,
        "condition": np.full(len(probe), condition),
        "label": roster.labels[probe],
        "valid": values["valid"],
        "rank1": np.where(values["valid"], values["first"] == 1, np.nan),
        "ap": values["ap"],
        "inp": values["inp"],
    }


def _rank(
    prepared: Tensor, metric: str, roster: Roster, probe: np.ndarray, gallery: np.ndarray, same_camera: str
) -> dict[str, Tensor]:
    """Ranking of the chosen gallery by the chosen probes, on the CPU."""
    pairs = _Pairs(roster, probe, gallery, same_camera, prepared.device)
    probe_x, gallery_x = (prepared[:, torch.as_tensor(chosen)] for chosen in (probe, gallery))
    found = []
    for b in blocks(len(probe), len(gallery), prepared.shape[0]):
        match, keep, _ = pairs.block(b)
        found.append(rank(compare(probe_x[:, b], gallery_x, metric), match, keep))
    return {key: torch.cat([one[key] for one in found]).cpu() for key in found[0]}


def _row(name: str, same_camera: str) -> Protocol:
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(PROTOCOLS)}."
        raise UserError(f"evaluator_cfg.eval_func: {name!r} is not known; {hint}")
    row = PROTOCOLS[name]
    if same_camera not in SAME_CAMERA:
        raise UserError(f"evaluator_cfg.same_camera: {same_camera!r} is not known; use {', '.join(SAME_CAMERA)}.")
    if same_camera not in row.same_camera:
        raise UserError(
            f"evaluator_cfg.same_camera: {name} has its own rule ({row.same_camera[0]}), {same_camera!r} would give "
            "numbers under a wrong name; use eval_func: evaluate_retrieval."
        )
    return row


def _roster(
    name: str, row: Protocol, labels: Sequence[str], types: Sequence[str], views: Sequence[str],
    probes: Collection[str] | None, camera: str,
) -> Roster:
    if camera not in CAMERAS:
        raise UserError(f"evaluator_cfg.camera: {camera!r} is not known; use {', '.join(CAMERAS)}.")
    if not len(labels) == len(types) == len(views):
        raise ValueError(f"labels, types, views differ in length: {len(labels)}, {len(types)}, {len(views)}")
    if not len(labels):
        raise UserError(f"{name}: the test set is empty; check TEST_SET of the partition and data_cfg.dataset_root.")
    cameras = [CAMERAS[camera](type_, view) for type_, view in zip(types, views, strict=True)]
    listed = None
    if row.probes == "needed" and probes is None:
        raise UserError(
            f"{name} needs a PROBE_SET in data_cfg.dataset_partition; take the benchmark's own partition file, or "
            "use eval_func: evaluate_retrieval for leave-one-out."
        )
    if row.probes != "unused" and probes is not None:
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


def _conditions(name: str, row: Protocol, roster: Roster) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, probe indices and gallery indices of every condition; none of them empty."""
    chosen = []
    for condition in row.conditions:
        probe, gallery = (np.flatnonzero(select(roster)) for select in (condition.probe, condition.gallery))
        if not len(probe) or not len(gallery):
            raise UserError(_no_valid_probe(name, condition.name, len(probe), len(gallery), "keep"))
        chosen.append((condition.name, probe, gallery))
    return chosen


def _gallery_size(row: Protocol, roster: Roster) -> int:
    return int(np.logical_or.reduce([condition.gallery(roster) for condition in row.conditions]).sum())


def _no_valid_probe(name: str, condition: str, probes: int, gallery: int, same_camera: str) -> str:
    rule = {
        "keep": "a probe needs another sequence of its label in the gallery: check labels and PROBE_SET",
        "drop": "same_camera: drop leaves out its own label's entries of its camera: check the camera key, or use keep",
        "drop_all": "same_camera: drop_all leaves out every entry of its camera: check the camera key, or use keep",
    }[same_camera]
    return f"{f'{name} {condition}'.strip()}: none of {probes} probes has a match among {gallery} sequences; {rule}."


def _check_finite(x: Tensor, roster: Roster) -> None:
    # a bound rather than isfinite: the square of a larger number overflows float32 (a NaN is below no bound)
    bad = np.flatnonzero(~(x.abs().flatten(1).amax(1) < 1e15).cpu().numpy())
    if len(bad):
        first = "-".join(part[bad[0]] for part in (roster.labels, roster.types, roster.views))
        raise UserError(
            f"{len(bad)} of {len(x)} embeddings are not finite, first {first}; the checkpoint has diverged or the "
            "precision overflows: test with enable_float16: false, or take an earlier checkpoint."
        )
