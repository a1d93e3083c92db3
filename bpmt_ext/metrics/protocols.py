"""Embeddings, labels, types and views of a test set in; the numbers of a named protocol out.

The protocols are rows of `PROTOCOLS` (rules.py). Letters: n sequences, b probes, m gallery entries, d width, p parts,
v views.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from bpmt_ext.errors import UserError
from bpmt_ext.metrics.figures import (
    CONVENTIONS,
    Matrix,
    Ranking,
    matrix_cells,
    matrix_figures,
    matrix_places,
    off_diagonal,
    ranking_figures,
    ranking_values,
)
from bpmt_ext.metrics.ranking import METRICS, Embedded
from bpmt_ext.metrics.roster import (
    SAME_CAMERA,
    Chosen,
    Roster,
    check_views,
    choose,
    count_pairs,
    make_roster,
    no_match,
)
from bpmt_ext.metrics.rules import PROTOCOLS, find_row
from bpmt_ext.metrics.submission import check_submission, nearest_labels

__all__ = ["PROTOCOLS", "SAME_CAMERA", "evaluate", "macro_rank1", "protocol_counts"]

LOCAL = (
    "no accuracy can be known here: the identities of the probes are with the server that scores the submission file; "
    "`local` figures are of type 02 against type 01, another task"
)


def evaluate(
    name: str,
    embeddings: np.ndarray | Tensor,
    labels: Sequence[str],
    types: Sequence[str],
    views: Sequence[str],
    *,
    dataset: str | None = None,
    metric: str = "euc",
    probes: Collection[str] | None = None,
    same_camera: str = "keep",
    camera: str = "type_prefix",
    cross_view_gallery: bool = False,
) -> dict:
    """Score embeddings (n, d, p) of a test set by the protocol `name` of the data set `dataset`.

    labels, types, views (n,). probes: names "label-type-view" of the PROBE_SET. same_camera: "keep"; "drop" leaves out
    gallery entries with the probe's identity and camera, "drop_all" every entry of its camera.
    -> protocol (the one that was measured: see STAND_INS), metric, same_camera (the headline's), camera,
    cross_view_gallery, conditions; metrics (percent, "<condition> <prefix> Rank-1" and so on, the headline's without a
    prefix); conventions {"all", "matched"}: the same figures over all probes and over those with a match; where the
    protocol goes by views, views (v), by_view {<condition>: {<view>: {"Rank-1": percent, ...}}} and, of a Matrix,
    matrices {<condition>: {"all", "matched": {"Rank-1": (v, v), ...}}} (rows the probes' views; None: no probe counts);
    probes {total, valid}; gallery (number of sequences); note; per_probe: arrays index (into the n sequences),
    condition, label, camera, valid, rank1, ap, inp (0..1; NaN where the probe does not count; rank1 of a headline by
    views is the share of the other views in which the probe is found at once) for a bootstrap; and submission
    {video, labels} where the protocol makes one.
    UserError: unknown name, data set or option, missing probes, types or views, embeddings that are not finite, no
    valid probe.
    """
    test = _Test(name, labels, types, views, dataset, probes, same_camera, camera, cross_view_gallery)
    if metric not in METRICS:
        raise UserError(f"evaluator_cfg.metric: {metric!r} is not known; use {' or '.join(METRICS)}.")
    if embeddings.ndim != 3 or len(embeddings) != len(labels):
        raise ValueError(f"embeddings must be ({len(labels)}, d, p), got {tuple(embeddings.shape)}")
    x = Embedded(embeddings, metric)
    _check_finite(x, test.roster)
    metrics: dict[str, dict[str, float]] = {key: {} for key in ("rule", *CONVENTIONS)}
    rows, by_view, matrices = [], {}, {}
    for condition in test.chosen:
        figures, columns, cells, per_probe = _score(test, x, condition)
        for key, values in figures.items():
            metrics[key] |= {f"{condition.name} {name}".strip(): value for name, value in values.items()}
        rows.append(per_probe)
        by_view[condition.name], matrices[condition.name] = columns, cells
    joined = {key: np.concatenate([one[key] for one in rows]) for key in rows[0]}
    result = {
        **test.told(),
        "metric": metric,
        "cross_view_gallery": cross_view_gallery,
        "conditions": [condition.name for condition in test.chosen],
        "metrics": metrics.pop("rule"),
        "conventions": metrics,
        "probes": {"total": len(joined["valid"]), "valid": int(joined["valid"].sum())},
        "gallery": test.gallery_size(),
    }
    if test.row.views:
        result |= {"views": test.views.tolist(), "by_view": by_view}
        result |= {"matrices": matrices} if any(matrices.values()) else {}
    if test.sent is not None:
        result |= {"note": LOCAL, "submission": nearest_labels(x, test.roster, test.sent)}
    return {**result, "per_probe": joined}


def protocol_counts(
    name: str,
    labels: Sequence[str],
    types: Sequence[str],
    views: Sequence[str],
    *,
    dataset: str | None = None,
    probes: Collection[str] | None = None,
    same_camera: str = "keep",
    camera: str = "type_prefix",
    cross_view_gallery: bool = False,
) -> dict:
    """What `evaluate` would compare, known before any training.

    -> protocol, same_camera, camera, sequences, labels, cameras, probes {total, valid, without_match}, gallery,
    excluded_pairs (probe and gallery entry left out by the camera rule; a probe's own copy in the gallery does not
    count), every_probe (the headline's Rank-k counts probes without a match as missed), conditions {<name>: {probes,
    valid, gallery}}, views (where the protocol goes by them), submission {probes, gallery} (where it makes one).
    UserError as `evaluate`, also where no valid probe remains.
    """
    test = _Test(name, labels, types, views, dataset, probes, same_camera, camera, cross_view_gallery)
    conditions = {}
    for condition, (found, _) in zip(test.chosen, test.counts, strict=True):
        sizes = {"probes": len(condition.probe), "valid": int(found.sum()), "gallery": len(condition.gallery)}
        conditions[condition.name or "all"] = sizes
    total, valid = (sum(each[key] for each in conditions.values()) for key in ("probes", "valid"))
    counts = {
        **test.told(),
        "sequences": len(labels),
        "labels": len(np.unique(test.roster.labels)),
        "cameras": len(np.unique(test.roster.cameras)),
        "probes": {"total": total, "valid": valid, "without_match": total - valid},
        "gallery": test.gallery_size(),
        "excluded_pairs": sum(pairs for _, pairs in test.counts),
        "every_probe": not isinstance(test.row.figures[0], Ranking) or test.row.figures[0].every_probe,
        "conditions": conditions,
    }
    if test.row.views:
        counts["views"] = test.views.tolist()
    if test.sent is not None:
        counts["submission"] = {"probes": len(test.sent.probe), "gallery": len(test.sent.gallery)}
    return counts


def macro_rank1(rank1: np.ndarray, labels: np.ndarray) -> float:
    """Per-probe Rank-1 (b,) of 0, 1 or NaN and labels (b,) -> percent, mean over identities of their mean."""
    valid = np.isfinite(rank1)
    _, owner = np.unique(labels[valid], return_inverse=True)
    return 100 * float((np.bincount(owner, weights=rank1[valid]) / np.bincount(owner)).mean())


class _Test:
    """A protocol and a test set, checked: its row, who takes part in each condition, the views it goes by, and, by the
    row's first Ranking, which probes are valid and how many pairs are left out."""

    def __init__(
        self, name: str, labels: Sequence[str], types: Sequence[str], views: Sequence[str], dataset: str | None,
        probes: Collection[str] | None, same_camera: str, camera: str, cross_view_gallery: bool,
    ) -> None:
        self.name, self.row = find_row(name, dataset, cross_view_gallery)
        self.same_camera = same_camera
        if same_camera not in SAME_CAMERA:
            raise UserError(f"evaluator_cfg.same_camera: {same_camera!r} is not known; use {', '.join(SAME_CAMERA)}.")
        if same_camera not in self.row.same_camera:
            raise UserError(
                f"evaluator_cfg.same_camera: {name} has its own rule, {same_camera!r} would give numbers under a wrong "
                "name; use eval_func: evaluate_retrieval."
            )
        self.camera = self.row.camera or camera
        self.roster = make_roster(
            self.name, labels, types, views, camera=self.camera, probes=probes, need=self.row.probes
        )
        self.chosen = [choose(self.name, condition, self.roster) for condition in self.row.conditions]
        self.views = check_views(self.chosen, self.roster) if self.row.views else np.array([""])
        rule = self.rule(next(figure for figure in self.row.figures if isinstance(figure, Ranking)))
        self.counts = [count_pairs(self.roster, condition, rule) for condition in self.chosen]
        for condition, (valid, _) in zip(self.chosen, self.counts, strict=True):
            if not valid.any():
                raise UserError(no_match(condition, rule))
        self.sent = None
        if self.row.submission is not None:
            self.sent = choose(self.name, self.row.submission, self.roster)
            check_submission(self.roster, self.sent)

    def rule(self, figure: Ranking | Matrix) -> str:
        """What a figure does about gallery entries of the probe's camera."""
        if isinstance(figure, Matrix):
            return "view by view"
        return self.same_camera if figure.same_camera is None else figure.same_camera

    def told(self) -> dict[str, str]:
        return {"protocol": self.name, "same_camera": self.rule(self.row.figures[0]), "camera": self.camera}

    def gallery_size(self) -> int:
        return len(np.unique(np.concatenate([condition.gallery for condition in self.chosen])))

    def view_of(self, index: np.ndarray) -> np.ndarray:
        """Place (b,) in `views` of the view of some sequences; 0 where the protocol does not go by views."""
        return np.searchsorted(self.views, self.roster.cameras[index]) if self.row.views else np.zeros_like(index)


def _score(test: _Test, x: Embedded, chosen: Chosen) -> tuple[dict, dict, dict, dict]:
    """One condition -> figures {"rule", *CONVENTIONS: {name: percent}}, the same by view {view: {name: percent}},
    matrices {convention: {name: (v, v)}} and per-probe arrays (b,)."""
    view, figures, columns, cells = test.view_of(chosen.probe), {key: {} for key in ("rule", *CONVENTIONS)}, {}, {}
    rank1 = ranked = None
    for figure in test.row.figures:
        if isinstance(figure, Matrix):
            first = matrix_places(x, test.roster, chosen, test.views)
            found = {key: matrix_cells(first, view, len(test.views), key, figure.digits) for key in CONVENTIONS}
            cells |= {key: {name: _plain(cell) for name, cell in each.items()} for key, each in found.items()}
            one = {key: matrix_figures(each) for key, each in found.items()}
            one["rule"], column = one["all"], {name: off_diagonal(cell) for name, cell in found["all"].items()}
            others = np.arange(len(test.views)) != view[:, None]
            rank1 = ((first == 1) & others).sum(1) / (len(test.views) - 1) if rank1 is None else rank1
        else:
            values = ranking_values(x, test.roster, chosen, test.rule(figure))
            one, column = ranking_figures(figure, values, view)
            missed = 0.0 if figure.every_probe else np.nan
            rank1 = np.where(values["valid"], values["first"] == 1, missed) if rank1 is None else rank1
            ranked = values if ranked is None else ranked
        for key, each in one.items():
            figures[key] |= {f"{figure.prefix} {name}".strip(): value for name, value in each.items()}
        columns |= {f"{figure.prefix} {name}".strip(): _plain(each) for name, each in column.items()}
    per_probe = {
        "index": chosen.probe,
        "condition": np.full(len(chosen.probe), chosen.name),
        "label": test.roster.labels[chosen.probe],
        "camera": test.roster.cameras[chosen.probe],
        "valid": ranked["valid"],
        "rank1": rank1,
        "ap": ranked["ap"],
        "inp": ranked["inp"],
    }
    if test.row.macro:
        figures["rule"]["macro Rank-1"] = macro_rank1(rank1, per_probe["label"])
    by_view = {name: {key: each[k] for key, each in columns.items()} for k, name in enumerate(test.views.tolist())}
    return figures, by_view, cells, per_probe


def _plain(numbers: np.ndarray) -> list:
    """Lists of floats that JSON takes: None for NaN."""
    return np.where(np.isfinite(numbers), numbers.astype(object), None).tolist()


def _check_finite(x: Embedded, roster: Roster) -> None:
    # a bound rather than isfinite: the square of a larger number overflows float32 (a NaN is below no bound)
    bad, start = [], 0
    for block in x.blocks():
        if block.numel() and not all(abs(float(most)) < 1e15 for most in torch.aminmax(block)):
            bad += (start + np.flatnonzero(~(block.abs().flatten(1).amax(1) < 1e15).cpu().numpy())).tolist()
        start += len(block)
    if bad:
        first = "-".join(part[bad[0]] for part in (roster.labels, roster.types, roster.views))
        raise UserError(
            f"{len(bad)} of {len(x.raw)} embeddings are not finite, first {first}; the checkpoint has diverged or the "
            "precision overflows: test with enable_float16: false, or take an earlier checkpoint."
        )
