"""Every protocol of the table against loops written from its definition, on made-up test sets with gaps and ties."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import walking
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import run, write_configs

from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.engine.check import protocol_text
from bpmt_ext.errors import UserError
from bpmt_ext.hosts.components import host_evaluator
from bpmt_ext.metrics import ranking
from bpmt_ext.metrics.figures import matrix_figures, off_diagonal
from bpmt_ext.metrics.protocols import evaluate, protocol_counts
from bpmt_ext.metrics.submission import submission_text
from bpmt_ext.report.results import results_table

PLACES = (1, 5, 10, 20)
CASIA_GALLERY = ("nm-01", "nm-02", "nm-03", "nm-04")
SUSTECH = {"Normal": ["01-nm"], "Bag": ["bg"], "Clothing": ["cl"], "Carrying": ["cr"], "Umbrella": ["ub"],
           "Uniform": ["uf"], "Occlusion": ["oc"], "Night": ["nt"], "Overall": ["01", "02", "03", "04"]}  # fmt: skip
CCPG = {"CL": (["U0_D0_BG", "U0_D0"], ["U1_D1", "U2_D2", "U3_D3"]), "UP": (["U3_D3"], ["U0_D3"]),
        "DN": (["U1_D0"], ["U1_D1"]), "BG": (["U0_D0_BG"], ["U0_D0"])}  # fmt: skip
PSYMO = {"NM": ["nm-02"], **{name.upper(): [f"{name}-01"] for name in ("bg", "cl", "ph", "txt", "wsf", "wss")}}
PSYMO["Overall"] = [kind for kinds in PSYMO.values() for kind in kinds]

# data set -> (protocol, all types, {condition: (is probe, is gallery)}, views); of CCPG the camera is the view
RULES = {
    "CASIA-B": ("evaluate_indoor_dataset",
                [*CASIA_GALLERY, "nm-05", "nm-06", "bg-01", "bg-02", "cl-01", "cl-02"],
                {name: (lambda t, a=a: t in a, lambda t: t in CASIA_GALLERY) for name, a in
                 {"NM": ("nm-05", "nm-06"), "BG": ("bg-01", "bg-02"), "CL": ("cl-01", "cl-02")}.items()},
                ["000", "018", "036"]),
    "OUMVLP": ("evaluate_indoor_dataset", ["00", "01"], {"": (lambda t: t == "00", lambda t: t == "01")},
               ["000", "015", "180"]),
    "SUSTech1K": ("evaluate_indoor_dataset",
                  ["00-nm", "01-nm", "01-bg", "01-cl-nt", "02-cr", "01-ub", "03-uf-oc", "05-xx"],
                  {name: (lambda t, a=a: any(x in t for x in a), lambda t: "00-nm" in t)
                   for name, a in SUSTECH.items()},
                  ["000", "045"]),
    "CCPG": ("evaluate_CCPG", ["U0_D0_BG", "U0_D0", "U1_D1", "U2_D2", "U3_D3", "U0_D3", "U1_D0"],
             {name: (lambda t, a=a: t in a, lambda t, b=b: t in b) for name, (a, b) in CCPG.items()}, ["1", "2", "3"]),
    "USF": ("evaluate_indoor_dataset", ["gallery-01", "gallery-02", "probeA-01", "probeA-02", "probeB-01", "probeC-01"],
            {name: (lambda t, name=name: t.startswith(f"probe{name}"), lambda t: t.startswith("gallery"))
             for name in "ABC"}, ["000"]),
    "PsyMo": ("evaluate_indoor_dataset",
              ["nm-01", "nm-02", "bg-01", "cl-01", "ph-01", "txt-01", "wsf-01", "wss-01"],
              {name: (lambda t, a=a: t in a, lambda t: t == "nm-01") for name, a in PSYMO.items()},
              ["00-0", "00-1", "90-1"]),
    "GREW": ("evaluate_real_scene", ["01", "02", "03"], {"": (lambda t: t == "02", lambda t: t == "01")}, ["a"]),
}  # fmt: skip
CROSS = {
    "CASIA-B": {name.upper(): (lambda t, name=name: t == f"{name}-01", lambda t: t in ("nm-02", "bg-02", "cl-02"))
                for name in ("nm", "bg", "cl")},
    "OUMVLP": RULES["OUMVLP"][2],
}  # fmt: skip


def made_up(dataset, seed, people=4, gaps=0.25, levels=3):
    """Embeddings (n, 2, 1) on a grid so coarse that distances tie, and names of the sequences of a data set; a share
    `gaps` of the sequences is missing, but everybody's place in the table of types and views is kept by the others."""
    rng = np.random.default_rng(seed)
    _, types, _, views = RULES[dataset]
    rows = [row for k, row in enumerate(product(range(people), types, views)) if k % people == 0 or rng.random() > gaps]
    # one person has everything, so that no view is without probe or gallery
    rows = sorted({*rows, *product([int(rng.integers(people))], types, views)}, key=lambda row: rng.random())
    labels = [f"{who:03d}" for who, _, _ in rows]
    names = [view if dataset != "CCPG" else f"{view}_{k}" for k, (_, _, view) in enumerate(rows)]
    if dataset == "GREW":
        names = [f"clip{k}" for k in range(len(rows))]
    return balanced(rng.integers(0, levels, (len(rows), 2, 1)), labels, [t for _, t, _ in rows], names)


def balanced(x, labels, types, views):
    """With one more sequence, of a type that takes no part, that makes the mean 0: then small whole numbers stay whole
    when the mean is taken off, and equal distances are exactly equal."""
    x = np.concatenate([x, -x.sum(0, keepdims=True)]).astype(np.float32)
    return x, [*labels, "0"], [*types, "zz"], [*views, "000"]


def places(x, labels, probe, gallery):
    """Place of every match of one probe, nearest first, ties in gallery order."""
    order = sorted(gallery, key=lambda j: np.float32(np.sum((x[probe] - x[j]).astype(np.float64) ** 2) ** 0.5))
    return [k for k, j in enumerate(order, 1) if labels[j] == labels[probe]]


def averages(found, convention):
    """Lists of places of some probes -> figures in percent; NaN without a probe that counts."""
    kept = [p for p in found if p or convention == "all"]
    if not kept:
        return dict.fromkeys([*(f"Rank-{k}" for k in PLACES), "mAP", "mINP"], np.nan)
    out = {f"Rank-{k}": 100 * sum(bool(p) and p[0] <= k for p in kept) / len(kept) for k in PLACES}
    aps = [sum(k / place for k, place in enumerate(p, 1)) / len(p) if p else 0 for p in kept]
    inps = [len(p) / p[-1] if p else 0 for p in kept]
    return out | {"mAP": 100 * sum(aps) / len(kept), "mINP": 100 * sum(inps) / len(kept)}


def naive_matrix(x, labels, view, probe, gallery, views, k, convention):
    cells = np.zeros((len(views), len(views)))
    for (i, a), (j, b) in product(enumerate(views), enumerate(views)):
        found = [places(x, labels, p, [g for g in gallery if view[g] == b]) for p in probe if view[p] == a]
        cells[i, j] = np.round(averages(found, convention)[f"Rank-{k}"], 2)
    return cells


def naive(dataset, x, labels, types, names, convention=None, cross=False):
    """All figures of a protocol by the definitions; convention None is the protocol's own."""
    name, _, conditions, views = RULES[dataset]
    view, figures, everybody = [v.split("_")[0] for v in names], {}, range(len(x))
    for condition, (is_probe, is_gallery) in (CROSS[dataset] if cross else conditions).items():
        probe, gallery = ([i for i in everybody if has(types[i])] for has in (is_probe, is_gallery))

        def add(prefix, values, condition=condition):
            figures.update({" ".join(f"{condition} {prefix} {key}".split()): value for key, value in values.items()})

        def ranked(drop, group=None, gallery=gallery, probe=probe):
            return [places(x, labels, p, [g for g in gallery if not drop(p, g)])
                    for p in probe if group in (None, view[p])]  # fmt: skip

        def same_both(p, g):
            return view[p] == view[g] and labels[p] == labels[g]

        if cross:
            tables = {c: [averages(ranked(same_both, v), c) for v in views] for c in ("all", "matched")}
            means = {c: {key: np.nanmean([np.round(t[key], 2) for t in tables[c]]) for key in tables[c][0]}
                     for c in tables}  # fmt: skip
            add("", means[convention] if convention else
                {key: means["all" if "Rank" in key else "matched"][key] for key in means["all"]})  # fmt: skip
            continue
        if dataset in ("GREW", "USF"):
            means = {c: averages(ranked(lambda p, g: False), c) for c in ("all", "matched")}
            means = means[convention] if convention else {
                key: means["all" if "Rank" in key else "matched"][key] for key in means["all"]}  # fmt: skip
            add("", {key: np.round(value, 2) if dataset == "GREW" else value for key, value in means.items()})
            continue
        prefix = "gait" if dataset == "CCPG" else ""
        if dataset == "CCPG":
            add("", averages(ranked(same_both), convention or "matched"))
        for k in PLACES:
            cells = naive_matrix(x, labels, view, probe, gallery, views, k, convention or "all")
            rows = [np.nanmean([c for j, c in enumerate(row) if j != i]) for i, row in enumerate(cells)]
            add(prefix, {f"Rank-{k}": np.nanmean(rows), f"Rank-{k} with own view": np.nanmean(cells)})
        add("pooled", averages(ranked(lambda p, g: view[p] == view[g]), convention or "matched"))
    return figures


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("dataset", sorted(RULES))
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_protocol_equals_its_definition(dataset, seed):
    """Missing sequences, probes without a match and ties: the headline, both conventions and all further figures."""
    x, *names = made_up(dataset, seed, people=3)
    got = evaluate(RULES[dataset][0], x, *names, dataset=dataset)
    assert got["metrics"] == pytest.approx(naive(dataset, x, *names))
    for convention, figures in got["conventions"].items():
        assert figures == pytest.approx(naive(dataset, x, *names, convention))
    json.dumps({key: value for key, value in got.items() if key != "per_probe"}, allow_nan=False)
    counts = protocol_counts(RULES[dataset][0], *names, dataset=dataset)
    assert {key: counts["probes"][key] for key in ("total", "valid")} == got["probes"]
    assert counts["gallery"] == got["gallery"] and counts["every_probe"] == (dataset != "CCPG")


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("dataset", sorted(CROSS))
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_cross_view_gallery_equals_its_definition(dataset, seed):
    x, *names = made_up(dataset, seed, people=3)
    got = evaluate("evaluate_indoor_dataset", x, *names, dataset=dataset, cross_view_gallery=True)
    assert got["metrics"] == pytest.approx(naive(dataset, x, *names, cross=True))
    for convention, figures in got["conventions"].items():
        assert figures == pytest.approx(naive(dataset, x, *names, convention, cross=True))
    assert "matrices" not in got and got["same_camera"] == "drop" and got["cross_view_gallery"]


def test_reference_mean_without_the_diagonal():
    """specs/protocols.md, section 4."""
    cells = np.array([[90.0, 60.0], [40.0, 80.0]])
    assert off_diagonal(cells).tolist() == [60, 40]
    assert matrix_figures({"Rank-1": cells}) == {"Rank-1": 50, "Rank-1 with own view": 67.5}


def test_cells_are_rounded_before_they_are_averaged():
    """Three of seven and two of seven are 42.86 and 28.57, whose mean is 35.715; unrounded it is 35.7142857."""
    labels = [str(k) for k in range(7)]
    x, names = [], []
    for kind, view in product(("00", "01"), ("000", "090")):
        for k in range(7):
            right = kind == "01" or k < {"000": 3, "090": 2}[view]
            x.append(10 * k if right else 10 * ((k + 1) % 7))
            names.append((labels[k], kind, view))
    got = evaluate("evaluate_indoor_dataset", np.array(x, dtype=np.float32)[:, None, None], *zip(*names, strict=True),
                   dataset="OUMVLP")  # fmt: skip
    assert got["metrics"]["Rank-1"] == pytest.approx(35.715, abs=1e-9)
    assert got["matrices"][""]["all"]["Rank-1"] == [[42.86, 42.86], [28.57, 28.57]]
    assert got["by_view"][""]["090"]["Rank-1"] == 28.57
    assert got["per_probe"]["rank1"].mean() == pytest.approx(0.357142857)


def test_matrices_views_and_probes_of_a_gap():
    """A probe whose only partner stands in one view: in the denominator of all cells, a match in one."""
    names = [("a", "01", "000"), ("a", "01", "090"), ("b", "01", "090"), ("c", "01", "000"),
             ("a", "00", "000"), ("b", "00", "000"), ("a", "00", "090"), ("d", "00", "090")]  # fmt: skip
    x = np.array([0, 0, 5, 9, 0, 5, 0, 7], dtype=np.float32)[:, None, None]
    got = evaluate("evaluate_indoor_dataset", x, *zip(*names, strict=True), dataset="OUMVLP")
    assert got["views"] == ["000", "090"]
    matrices = got["matrices"][""]
    assert matrices["all"]["Rank-1"] == [[50, 100], [50, 50]]
    assert matrices["matched"]["Rank-1"] == [[100, 100], [100, 100]]
    assert got["metrics"]["Rank-1"] == 75 and got["metrics"]["Rank-1 with own view"] == 62.5
    assert got["metrics"]["pooled Rank-1"] == 100 and got["conventions"]["all"]["pooled Rank-1"] == 75
    assert got["probes"] == {"total": 4, "valid": 3}
    per_probe = got["per_probe"]
    assert per_probe["index"].tolist() == [4, 5, 6, 7] and per_probe["camera"].tolist() == ["000", "000", "090", "090"]
    assert per_probe["rank1"].tolist() == [1, 1, 1, 0] and per_probe["valid"].tolist() == [True, True, True, False]
    assert np.isnan(per_probe["ap"][3]) and got["by_view"][""]["090"]["pooled mAP"] == 100
    # a cell without any probe that counts is None, and left out
    less = [k for k, name in enumerate(names) if name not in (("a", "00", "090"), ("b", "00", "000"))]
    got = evaluate("evaluate_indoor_dataset", x[less], *zip(*(names[k] for k in less), strict=True), dataset="OUMVLP")
    assert got["matrices"][""]["matched"]["Rank-1"] == [[100, 100], [None, None]]
    assert got["conventions"]["matched"]["Rank-1"] == 100 and got["metrics"]["Rank-1"] == 50


def test_small_blocks_change_nothing(monkeypatch):
    for dataset in ("CASIA-B", "CCPG"):
        x, *names = made_up(dataset, 5)
        whole = evaluate(RULES[dataset][0], x, *names, dataset=dataset)
        with monkeypatch.context() as patch:
            patch.setattr(ranking, "_BLOCK_PAIRS", 20)
            blocked = evaluate(RULES[dataset][0], x, *names, dataset=dataset)
        assert blocked["metrics"] == whole["metrics"] and blocked["matrices"] == whole["matrices"]


def grew(seed=0, people=9, probes=5):
    """The local sequences and the server's probes, label `probe`, of a made-up GREW."""
    rng = np.random.default_rng(seed)
    rows = [(f"{who:05d}", kind) for who in range(1, people + 1) for kind in ("01", "01", "02", "02")]
    rows += [("probe", "03")] * probes
    order = rng.permutation(len(rows))
    labels, types = zip(*(rows[k] for k in order), strict=True)
    x = rng.integers(0, 4, (len(rows), 2, 1))
    return balanced(x, labels, types, [f"clip{k:03d}" for k in range(len(rows))])


def test_a_submission_ranks_the_whole_gallery_and_claims_no_accuracy():
    x, labels, types, views = grew()
    got = evaluate("GREW_submission", x, labels, types, views, dataset="GREW")
    local = evaluate("evaluate_real_scene", x, labels, types, views, dataset="GREW")
    assert got["metrics"] == {f"local {name}": value for name, value in local["metrics"].items()}
    assert "no accuracy can be known" in got["note"] and got["gallery"] == 18
    gallery = [i for i, kind in enumerate(types) if kind in ("01", "02")]
    expected = ["videoId," + ",".join(f"rank{k}" for k in range(1, 21))]
    for i in (i for i, kind in enumerate(types) if kind == "03"):
        order = sorted(gallery, key=lambda j: np.sum((x[i] - x[j]).astype(np.float64) ** 2))[:20]
        expected.append(",".join([views[i], *(str(int(labels[j])) for j in order)]))
    assert submission_text(**got["submission"]).splitlines() == expected
    counts = protocol_counts("GREW_submission", labels, types, views, dataset="GREW")
    assert counts["submission"] == {"probes": 5, "gallery": 36}


def test_a_config_that_names_another_sets_protocol_is_measured_by_its_own():
    """gaittr_GREW.yaml and gpgait++_SUSTech1K.yaml; in FastPoseGait both stop at the test."""
    x, *names = grew()
    got = evaluate("evaluate_indoor_dataset", x, *names, dataset="GREW")
    assert got["protocol"] == "evaluate_real_scene"
    assert got["metrics"] == evaluate("evaluate_real_scene", x, *names, dataset="GREW")["metrics"]
    x, *names = made_up("SUSTech1K", 1)
    got = evaluate("evaluate_CCPG", x, *names, dataset="SUSTech1K")
    assert got["protocol"] == "evaluate_indoor_dataset"
    assert got["metrics"] == evaluate("evaluate_indoor_dataset", x, *names, dataset="SUSTech1K")["metrics"]


def without(rows, **given):
    """rows (label, type, view) without those that agree with all that is given."""
    return [row for row in rows if not all(dict(zip(("label", "type", "view"), row, strict=True))[key] == value
                                           for key, value in given.items())]  # fmt: skip


@pytest.mark.parametrize(("dataset", "change", "words"), [
    ("CASIA-B", lambda rows: [(a, "nm-01", v) for a, _, v in rows],
     "NM: none of .* belongs to its probe: expected type nm-05 or nm-06, found types nm-01; "),
    ("CASIA-B", lambda rows: [row for row in rows if row[1] not in CASIA_GALLERY],
     "its gallery: expected type nm-01 or nm-02 or nm-03 or nm-04, found types bg-01, bg-02, cl-01"),
    ("CASIA-B", lambda rows: without(without(rows, type="cl-01", view="018"), type="cl-02", view="018"),
     "CL: has no probe in view 018: expected all of 000, 018, 036, found 000, 036"),
    ("CASIA-B", lambda rows: [row for row in rows if row[1] not in CASIA_GALLERY or row[2] == "000"],
     "NM: has no gallery entry in view 018, 036: expected"),
    ("CASIA-B", lambda rows: [(a, t, "000") for a, t, _ in rows], "expected two views or more, found only 000"),
    ("CASIA-B", lambda rows: [(f"{a}{t[:2] + t[-1]}", t, v) for a, t, v in rows], "NM: none of .* has a match"),
    ("OUMVLP", lambda rows: [(a, {"00": "nm"}.get(t, t), v) for a, t, v in rows],
     "expected type 00, found types 01, nm"),
    ("SUSTech1K", lambda rows: without(rows, type="00-nm"),
     "Normal: .*expected a type that contains 00-nm, found types"),
    ("SUSTech1K", lambda rows: without(rows, type="01-ub"), "Umbrella: .*expected a type that contains ub"),
    ("USF", lambda rows: without(rows, type="probeB-01"), "B: .*probe: expected a type that contains probeB-, found"),
    ("PsyMo", lambda rows: without(rows, type="txt-01"), "TXT: .*probe: expected type txt-01, found types bg-01"),
    ("PsyMo", lambda rows: without(rows, type="nm-02", view="00-1"), "NM: has no probe in view 00-1"),
    ("CCPG", lambda rows: without(rows, type="U0_D3"), "UP: .*gallery: expected type U0_D3"),
    ("CCPG", lambda rows: without(rows, type="U1_D0", view="2"), "DN: has no probe in view 2"),
    ("GREW", lambda rows: without(rows, type="02"), "probe: expected type 02, found types 01, 03"),
    ("GREW", lambda rows: [(f"{a}{t}", t, v) for a, t, v in rows], "none of 4 probes has a match among 4 sequences"),
    ("GREW", lambda rows: [], "the test set is empty"),
])  # fmt: skip
def test_a_set_that_does_not_fit_says_what_was_expected_and_found(dataset, change, words):
    name, types, _, views = RULES[dataset]
    rows = change(list(product("abcd", types, views)))
    names = [list(part) for part in zip(*rows, strict=True)] or [[], [], []]
    for measure in (lambda: protocol_counts(name, *names, dataset=dataset),
                    lambda: evaluate(name, np.zeros((len(rows), 2, 1)), *names, dataset=dataset)):  # fmt: skip
        with pytest.raises(UserError, match=words):
            measure()


@pytest.mark.parametrize(("change", "words"), [
    ({"types": lambda k, t: "02" if t == "03" else t}, "submission: .*probe: expected type 03, found types 01, 02, zz"),
    ({"labels": lambda k, a: f"x{a}"}, "labels that are numbers, found x00001, x00002, x00003"),
    ({"views": lambda k, v: "clip"}, "probes named clip"),
    ({"types": lambda k, t: "03" if t in ("01", "02") and k % 2 else t}, "20 nearest gallery sequences, found 1"),
])  # fmt: skip
def test_a_submission_that_a_server_would_refuse_is_not_made(change, words):
    x, labels, types, views = grew()
    given_ = {"labels": labels, "types": types, "views": views}
    for key, made in change.items():
        given_[key] = [made(k, value) for k, value in enumerate(given_[key])]
    with pytest.raises(UserError, match=words):
        protocol_counts("GREW_submission", **given_, dataset="GREW")
    with pytest.raises(UserError, match=words):
        evaluate("GREW_submission", x, **given_, dataset="GREW")


@pytest.mark.parametrize(("name", "dataset", "more", "words"), [
    ("evaluate_indoor_dataset", "Gait3D", {}, "rules for CASIA-B, OUMVLP, SUSTech1K, USF, PsyMo, but .*'Gait3D'"),
    ("evaluate_indoor_dataset", None, {}, "test_dataset_name is None"),
    ("evaluate_CCPG", "CASIA-B", {}, "rules for CCPG"),
    ("GREW_submission", "walkers", {}, "rules for GREW"),
    ("evaluate_indor_dataset", "CASIA-B", {}, "did you mean evaluate_indoor_dataset"),
    ("evaluate_indoor_dataset", "SUSTech1K", {"cross_view_gallery": True}, "for CASIA-B, OUMVLP, not for SUSTech1K"),
    ("evaluate_Gait3D", "Gait3D", {"cross_view_gallery": True}, "evaluate_Gait3D has no such rule"),
    ("evaluate_indoor_dataset", "CASIA-B", {"same_camera": "drop"}, "has its own rule"),
])  # fmt: skip
def test_a_protocol_that_is_not_there_is_named(name, dataset, more, words):
    x, *names = made_up("CASIA-B", 0)
    with pytest.raises(UserError, match=words):
        protocol_counts(name, *names, dataset=dataset, **more)
    with pytest.raises(UserError, match=words):
        evaluate(name, x, *names, dataset=dataset, **more)


def test_the_tables_show_every_figure_and_the_views():
    x, *names = made_up("CASIA-B", 3)
    got = evaluate("evaluate_indoor_dataset", x, *names, dataset="CASIA-B")
    text = results_table({"dataset": "CASIA-B", "model": "GaitTR", "iteration": 5, **got})
    lines = text.splitlines()
    assert lines[1].split() == ["Rank-1", "Rank-5", "Rank-10", "Rank-20", "mAP", "mINP"]
    assert lines[3].split()[:2] == ["NM", f"{got['metrics']['NM Rank-1']:.1f}"]
    assert [line.split()[:2] for line in lines if line.startswith("BG pooled")] == [["BG", "pooled"]] * (
        1 + text.count("over every probe") + text.count("over probes with"))  # fmt: skip
    at = lines.index("CL Rank-1, probe view down, gallery view across:")
    assert lines[at + 1].split() == ["000", "018", "036"]
    cells = got["matrices"]["CL"]["all"]["Rank-1"]
    assert lines[at + 4].split() == ["018", *(f"{cell:.1f}" for cell in cells[1])]
    x, *names = grew()
    got = evaluate("GREW_submission", x, *names, dataset="GREW") | {"submission": "a.csv"}
    text = results_table({"dataset": "GREW", "model": "GaitTR", "iteration": 5, **got})
    assert "no accuracy can be known" in text and "for the server: a.csv" in text and "local" in text


def test_check_data_says_who_is_compared(monkeypatch):
    _, *names = made_up("CASIA-B", 2)
    counts = protocol_counts("evaluate_indoor_dataset", *names, dataset="CASIA-B")
    assert set(counts["conditions"]) == {"NM", "BG", "CL"}
    counts["probes"] |= {"valid": 1, "without_match": 2}
    monkeypatch.setattr("bpmt_ext.engine.check.check_protocol", lambda *_: counts)
    text = protocol_text(None, None)
    assert "2 probes have no match in their gallery: counted as missed in Rank-k" in text
    assert "views: 000, 018, 036" in text and all(name in text for name in ("NM", "BG", "CL"))


def test_the_engine_writes_the_submission_and_says_which_protocol_it_took(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clips = [(f"{who:05d}", kind) for who in range(1, 7) for kind in ("01", "01", "02", "02")] + [("probe", "03")] * 3
    clips += [(f"{who:05d}train", "00") for who in range(1, 4) for _ in range(2)]
    poses = walking(len(clips), 8, seed=1).numpy() * 40 + 100
    for k, (label, kind) in enumerate(clips):
        folder = Path("data", label, kind, f"clip{k:03d}")
        folder.mkdir(parents=True)
        write_pickle(folder / f"clip{k:03d}.pkl", poses[k])
    labels = sorted({label for label, _ in clips})
    sets = {"TRAIN_SET": [x for x in labels if "train" in x], "TEST_SET": [x for x in labels if "train" not in x]}
    Path("data.json").write_text(json.dumps(sets))
    write_configs(tmp_path, total_iter=2, save_iter=2, val_iter=0)
    opts = ("data_cfg.dataset_name=GREW", "data_cfg.validation=0", "evaluator_cfg.same_camera=keep",
            "evaluator_cfg.restore_hint=last")  # fmt: skip
    assert run("net", *opts, "evaluator_cfg.eval_func=GREW_submission") == 0
    assert run("net", *opts, "evaluator_cfg.eval_func=GREW_submission", phase="test") == 0
    folder = Path("output/GREW/BPMT/net")
    results, file = json.loads((folder / "results.json").read_text()), folder / "submission_GREW-00002.csv"
    assert results["submission"] == file.name and "no accuracy can be known" in results["note"]
    assert all(name.startswith("local ") for name in results["metrics"])
    lines = [line.split(",") for line in file.read_text().splitlines()]
    assert [line[0] for line in lines] == ["videoId", "clip024", "clip025", "clip026"]
    assert {len(line) for line in lines} == {21} and {x for line in lines[1:] for x in line[1:]} <= set("123456")
    assert run("net", *opts, "evaluator_cfg.eval_func=evaluate_indoor_dataset", phase="test") == 0
    said = capsys.readouterr().err
    assert "evaluator_cfg.eval_func: evaluate_indoor_dataset has no rule for GREW; measured by evaluate_real" in said
    results = json.loads((folder / "results.json").read_text())
    assert results["protocol"] == "evaluate_real_scene" and "submission" not in results
    assert np.load(folder / "per_probe.npz")["rank1"].shape == (12,)


def test_a_submission_made_in_a_host_lies_where_the_hosts_put_theirs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, labels, types, views = grew()
    data = {"embeddings": x, "labels": labels, "types": types, "views": views}
    found = host_evaluator("GREW_submission", "host")(data, "GREW")
    expected = evaluate("GREW_submission", x, labels, types, views, dataset="GREW")
    assert found == {f"scalar/test_accuracy/{name}": value for name, value in expected["metrics"].items()}
    (file,) = tmp_path.glob("GREW_result/GREW-*.csv")
    assert file.read_text() == submission_text(**expected["submission"])
    x, *names = made_up("CASIA-B", 0)
    data = dict(zip(("embeddings", "labels", "types", "views"), (x, *names), strict=True))
    found = host_evaluator("evaluate_indoor_dataset", "host")(data, "CASIA-B", cross_view_gallery=True)
    assert set(found) == {f"scalar/test_accuracy/{c} {m}" for c in ("NM", "BG", "CL")
                          for m in (*(f"Rank-{k}" for k in PLACES), "mAP", "mINP")}  # fmt: skip
