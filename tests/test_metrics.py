"""Ranking, protocols and bootstrap against naive loops, reference figures and another library."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bpmt_ext.errors import UserError
from bpmt_ext.metrics import ranking
from bpmt_ext.metrics.bootstrap import paired_bootstrap
from bpmt_ext.metrics.protocols import PROTOCOLS, evaluate, macro_rank1, protocol_counts
from bpmt_ext.metrics.ranking import compare, distances, first_match, rank, rank_stream

NAMES = ("Rank-1", "Rank-5", "Rank-10", "Rank-20", "mAP", "mINP")


def naive_rank(dist, match, keep):
    """Place of the first match (0: none), AP and INP of one probe, counted one entry at a time."""
    entries = sorted((j for j in range(len(dist)) if keep[j]), key=lambda j: dist[j])  # sorted() is stable
    places = [place for place, j in enumerate(entries, start=1) if match[j]]
    if not places:
        return 0, np.nan, np.nan
    precisions = [found / place for found, place in enumerate(places, start=1)]
    return places[0], sum(precisions) / len(places), len(places) / places[-1]


def naive_distance(a, b, metric):
    """(d, p), (d, p) -> float."""
    values = []
    for x, y in zip(a.T.astype(np.float64), b.T.astype(np.float64), strict=True):
        norms = np.linalg.norm(x) * np.linalg.norm(y)
        values.append(np.linalg.norm(x - y) if metric == "euc" else 1 - (x @ y / norms if norms else 0))
    return sum(values) / len(values)


def made_up_set(seed, n=40, labels=6, cameras=3):
    """Embeddings (n, 5, 3) and the three names of n sequences."""
    rng = np.random.default_rng(seed)
    who, camera = rng.integers(labels, size=n), rng.integers(cameras, size=n)
    embeddings = rng.standard_normal((labels, 5, 3))[who] * 0.7 + rng.standard_normal((n, 5, 3))
    types = [f"camid{c}_videoid{rng.integers(2)}" for c in camera]
    return embeddings.astype(np.float32), [f"{i:04d}" for i in who], types, [f"seq{i}" for i in range(n)]


def test_reference_ranking():
    """specs/protocols.md, section 4: r = 1,0,1,0,0,1."""
    match = torch.tensor([[1, 0, 1, 0, 0, 1]], dtype=torch.bool)
    found = rank(torch.arange(6.0)[None], match)
    assert found["first"].item() == 1
    assert found["ap"].item() == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert found["inp"].item() == pytest.approx(0.5)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_rank_equals_a_naive_loop(data):
    """All exclusions and all ties: few distinct distances, so that most probes meet equal ones."""
    n, m = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))

    def table(values):
        return data.draw(st.lists(st.lists(values, min_size=m, max_size=m), min_size=n, max_size=n))

    dist, match, keep = table(st.integers(0, 3)), table(st.booleans()), table(st.booleans())
    found = rank(torch.tensor(dist, dtype=torch.float32), torch.tensor(match), torch.tensor(keep))
    for i in range(n):
        first, ap, inp = naive_rank(dist[i], match[i], keep[i])
        assert found["valid"][i].item() == (first > 0)
        assert found["first"][i].item() == first
        np.testing.assert_allclose([found["ap"][i], found["inp"][i]], [ap, inp], rtol=1e-12)
    whole = rank(torch.tensor(dist, dtype=torch.float32), torch.tensor(match))["first"]
    assert torch.equal(first_match(torch.tensor(dist, dtype=torch.float32), torch.tensor(match)), whole)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_distances_equal_a_naive_loop(n, m, d, p, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, d, p), dtype=np.float32), rng.standard_normal((m, d, p), dtype=np.float32)
    a[0] = 0  # a part of zeros has cosine 0
    for metric in ("euc", "cos"):
        expected = [[naive_distance(x, y, metric) for y in b] for x in a]
        of_part = np.array([[[naive_distance(x[:, [k]], y[:, [k]], metric) for k in range(p)] for y in b] for x in a])
        apart = np.abs(np.asarray(distances(a, b, metric)) - expected)
        # float32 knows a part's |a|^2 + |b|^2 - 2ab to 2e-6, and so its root only to that over the distance itself
        assert (apart <= (2e-6 / np.clip(of_part, 1e-3, 1.0)).mean(2)).all()


def test_distances_far_from_the_origin_do_not_cancel():
    """|a|^2 + |b|^2 - 2ab alone would give noise of 0.1 and more here; equal vectors must give 0, never NaN."""
    rng = np.random.default_rng(0)
    x = (1000 + rng.standard_normal((20, 8, 2))).astype(np.float32)
    expected = [[naive_distance(a, b, "euc") for b in x] for a in x]
    np.testing.assert_allclose(distances(x, x), expected, atol=3e-3)


def test_small_blocks_change_nothing(monkeypatch):
    x, *names = made_up_set(3)
    whole = evaluate("evaluate_retrieval", x, *names, same_camera="drop")
    counts = protocol_counts("evaluate_retrieval", *names, same_camera="drop")
    monkeypatch.setattr(ranking, "_BLOCK_PAIRS", 3 * len(x))
    assert len(list(ranking.blocks(len(x), len(x)))) == 14
    blocked = evaluate("evaluate_retrieval", x, *names, same_camera="drop")
    assert blocked["metrics"] == pytest.approx(whole["metrics"])
    assert protocol_counts("evaluate_retrieval", *names, same_camera="drop") == counts


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_gallery_that_is_read_in_blocks_ranks_as_a_whole(data):
    """Ties included: distances of whole numbers, few of them different, in blocks of one or more."""
    n, m, p = (data.draw(st.integers(1, most)) for most in (4, 12, 2))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    probe, gallery = (torch.from_numpy(rng.integers(0, 2, (p, k, 2)).astype(np.float32)) for k in (n, m))
    match, keep = (torch.from_numpy(rng.random((n, m)) < share) for share in (0.4, 0.8))
    whole = rank(compare(probe, gallery, "euc"), match, keep)
    products, pairs = ranking._BLOCK_PRODUCTS, ranking._BLOCK_PAIRS
    try:
        ranking._BLOCK_PRODUCTS, ranking._BLOCK_PAIRS = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
        found = rank_stream(probe, lambda part: gallery[:, part], m, "euc",
                            lambda part: (match[:, part], keep[:, part]))
    finally:
        ranking._BLOCK_PRODUCTS, ranking._BLOCK_PAIRS = products, pairs
    for name in whole:
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-12)


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_embeddings_in_a_mapped_file_give_the_same_figures(metric, tmp_path, monkeypatch):
    x, *names = made_up_set(5)
    np.save(tmp_path / "x.npy", x + 3)
    kept = evaluate("evaluate_retrieval", x + 3, *names, metric=metric, same_camera="drop")
    for name, value in (("_WHOLE", 0), ("_BLOCK_PRODUCTS", 7 * x[0].size)):
        monkeypatch.setattr(ranking, name, value)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert ranking.Embedded(mapped, metric).whole is None
    found = evaluate("evaluate_retrieval", mapped, *names, metric=metric, same_camera="drop")
    assert found["metrics"] == pytest.approx(kept["metrics"]) and found["probes"] == kept["probes"]
    np.testing.assert_allclose(found["per_probe"]["ap"], kept["per_probe"]["ap"])
    bad = np.array(x)
    bad[11, 2, 1] = np.nan
    with pytest.raises(UserError, match="1 of 40 embeddings are not finite"):
        evaluate("evaluate_retrieval", bad, *names, metric=metric)


@pytest.mark.parametrize("same_camera", ["keep", "drop", "drop_all"])
@pytest.mark.parametrize("camera", ["type_prefix", "view", "view_prefix"])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_retrieval_equals_a_naive_loop(same_camera, camera, listed, metric):
    x, labels, types, views = made_up_set(7)
    views = [f"{i % 4}_{i % 2}" for i in range(len(x))]
    types = [f"{type_}{i}" for i, type_ in enumerate(types)]  # so that names differ
    cameras = {"type_prefix": [t.split("_")[0] for t in types], "view": views, "view_prefix": [v[0] for v in views]}
    names = ["-".join(name) for name in zip(labels, types, views, strict=True)]
    probes = set(names[::3]) if listed else None
    got = evaluate("evaluate_retrieval", x, labels, types, views, metric=metric, probes=probes,
                   same_camera=same_camera, camera=camera)
    counts = protocol_counts("evaluate_retrieval", labels, types, views, probes=probes,
                             same_camera=same_camera, camera=camera)

    rows, owners, excluded, gallery = [], [], 0, set()
    probe_indices = [i for i, name in enumerate(names) if not listed or name in probes]
    for i in probe_indices:
        match, keep = [], []
        for j, name in enumerate(names):
            in_gallery = not listed or name not in probes
            gallery |= {j} if in_gallery else set()
            same = cameras[camera][i] == cameras[camera][j]
            match.append(labels[i] == labels[j])
            drop = {"keep": False, "drop": same and match[-1], "drop_all": same}[same_camera]
            keep.append(in_gallery and not drop and i != j)
            excluded += in_gallery and drop and i != j
        rows.append(naive_rank([naive_distance(x[i], y, metric) for y in x], match, keep))
        owners.append(labels[i])
    first, ap, inp = np.array(rows).T
    valid = first > 0
    expected = {f"Rank-{k}": 100 * np.mean(first[valid] <= k) for k in (1, 5, 10, 20)}
    expected |= {"mAP": 100 * np.nanmean(ap), "mINP": 100 * np.nanmean(inp)}
    people = sorted({owner for owner, ok in zip(owners, valid, strict=True) if ok})
    expected["macro Rank-1"] = 100 * np.mean(
        [np.mean([f == 1 for f, owner in zip(first, owners, strict=True) if f and owner == who]) for who in people]
    )
    assert got["metrics"] == pytest.approx(expected)
    assert got["probes"] == {"total": len(rows), "valid": valid.sum()}
    assert got["gallery"] == counts["gallery"] == len(gallery)
    assert counts["probes"] == {"total": len(rows), "valid": valid.sum(), "without_match": (~valid).sum()}
    assert counts["excluded_pairs"] == excluded
    assert (counts["sequences"], counts["labels"]) == (len(x), len(set(labels)))
    per_probe = got["per_probe"]
    assert per_probe["index"].tolist() == probe_indices
    assert per_probe["label"].tolist() == owners
    np.testing.assert_array_equal(per_probe["rank1"], np.where(valid, first == 1, np.nan))
    np.testing.assert_allclose(per_probe["ap"], ap)
    np.testing.assert_allclose(per_probe["inp"], inp)


def test_shuffling_changes_nothing():
    x, *names = made_up_set(1)
    probes = {"-".join(name) for name in list(zip(*names, strict=True))[:15]}
    before = evaluate("evaluate_Gait3D", x, *names, probes=probes)
    order = np.random.default_rng(0).permutation(len(x))
    after = evaluate("evaluate_Gait3D", x[order], *([part[i] for i in order] for part in names), probes=probes)
    assert after["metrics"] == pytest.approx(before["metrics"])
    assert after["probes"] == before["probes"]


def test_gait3d_keeps_the_same_camera_and_leaves_out_probes_without_a_match():
    """One probe's only partner has its camera: it counts. One probe is alone with its label: it does not."""
    x = np.array([0.0, 0.1, 5.0, 5.1, 9.0], dtype=np.float32)[:, None, None]
    labels, types = ["a", "a", "b", "b", "c"], ["camid1_videoid1"] * 5
    views = ["seq0", "seq1", "seq0", "seq1", "seq0"]
    probes = {f"{label}-camid1_videoid1-seq0" for label in "abc"}
    got = evaluate("evaluate_Gait3D", x, labels, types, views, probes=probes)
    assert got["probes"] == {"total": 3, "valid": 2}
    assert got["gallery"] == 2
    assert set(got["metrics"]) == set(NAMES)
    assert got["metrics"]["Rank-1"] == 100
    assert protocol_counts("evaluate_Gait3D", labels, types, views, probes=probes)["probes"]["without_match"] == 1
    thesis = evaluate("thesis_rank1", x, labels, types, views, probes=probes)
    assert thesis["probes"] == {"total": 5, "valid": 4}


def test_mean_average_precision_agrees_with_pytorch_metric_learning():
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    x, labels, types, views = made_up_set(5, n=80)
    calculator = AccuracyCalculator(
        include=("mean_average_precision", "precision_at_1"), k=len(x) - 1,
        knn_func=CustomKNN(LpDistance(normalize_embeddings=False)),
    )
    flat, codes = torch.as_tensor(x[:, :, 0]), torch.tensor([int(label) for label in labels])
    other = calculator.get_accuracy(flat, codes, flat, codes, ref_includes_query=True)
    ours = evaluate("thesis_rank1", x[:, :, :1], labels, types, views)["metrics"]
    assert ours["mAP"] == pytest.approx(100 * other["mean_average_precision"], abs=1e-4)
    assert ours["Rank-1"] == pytest.approx(100 * other["precision_at_1"])


def test_figures_of_the_host_evaluator():
    """reference/HOST_MEASURED.md: 1,000 probes of 1,000 ids, 5,369 gallery entries; some 6 s on one core."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6369, 256, 16), dtype=np.float32)
    who = np.concatenate([np.arange(1000), np.arange(1000), rng.integers(0, 1000, 4369)])
    labels, types, views = [f"{i:04d}" for i in who], ["camid0_videoid0"] * 6369, [f"seq{i}" for i in range(6369)]
    probes = {f"{i:04d}-camid0_videoid0-seq{i}" for i in range(1000)}
    expected = {"euc": (0.2, 0.6, 1.1, 0.258361, 0.123565), "cos": (0.2, 0.3, 0.9, 0.243881, 0.124881)}
    for metric, figures in expected.items():
        got = evaluate("evaluate_Gait3D", x, labels, types, views, metric=metric, probes=probes)
        assert got["probes"] == {"total": 1000, "valid": 1000} and got["gallery"] == 5369
        values = [got["metrics"][name] for name in ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP")]
        assert values == pytest.approx(figures, abs=1e-6)


def test_macro_rank1_weighs_identities_equally():
    assert macro_rank1(np.array([1, 1, 1, 0, np.nan]), np.array(list("aaabc"))) == 50


@pytest.mark.parametrize(("change", "words"), [
    ({"name": "evaluate_Gait3d"}, "did you mean evaluate_Gait3D"),
    ({"probes": None}, "needs a PROBE_SET"),
    ({"probes": {"0009-x-y"}}, "1 of 1 sequences of PROBE_SET .* 0009-x-y"),
    ({"same_camera": "drop"}, "evaluate_retrieval"),
    ({"name": "evaluate_retrieval", "same_camera": "no"}, "same_camera"),
    ({"camera": "camid"}, "type_prefix"),
    ({"name": "evaluate_retrieval", "labels": list("abc"), "probes": None}, "none of 3 probes"),
    ({"name": "evaluate_retrieval", "same_camera": "drop", "probes": None}, "same_camera: drop"),
    ({"labels": [], "types": [], "views": []}, "empty"),
])
def test_faults_are_named_before_and_at_scoring(change, words):
    given_ = {"name": "evaluate_Gait3D", "labels": list("aab"), "types": ["camid1_videoid1"] * 3,
              "views": ["s0", "s1", "s2"], "probes": {"a-camid1_videoid1-s0"}} | change
    name, labels, types, views = (given_.pop(key) for key in ("name", "labels", "types", "views"))
    with pytest.raises(UserError, match=words):
        protocol_counts(name, labels, types, views, **given_)
    with pytest.raises(UserError, match=words):
        evaluate(name, np.zeros((len(labels), 2, 1)), labels, types, views, **given_)


def test_bad_embeddings_are_refused():
    names = ["a", "a"], ["t", "t"], ["s0", "s1"]
    with pytest.raises(UserError, match="1 of 2 embeddings are not finite, first a-t-s1"):
        evaluate("thesis_rank1", np.array([0, np.nan])[:, None, None], *names)
    with pytest.raises(UserError, match="2 of 2 embeddings are not finite"):
        evaluate("thesis_rank1", np.array([-np.inf, 1e30])[:, None, None], *names)
    with pytest.raises(UserError, match="metric"):
        evaluate("thesis_rank1", np.zeros((2, 1, 1)), *names, metric="l1")
    with pytest.raises(ValueError, match="embeddings must be"):
        evaluate("thesis_rank1", np.zeros((3, 1, 1)), *names)
    with pytest.raises(ValueError, match="one shape"):
        rank(torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="differ in d or p"):
        distances(torch.zeros(2, 3, 1), torch.zeros(2, 4, 1))


def test_no_gallery_leaves_no_valid_probe():
    found = rank(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool))
    assert not found["valid"].any() and found["ap"].isnan().all()


def test_bootstrap_over_identities():
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(40), 5)
    b = rng.random(200)
    same = paired_bootstrap(b, b, identities)
    assert same == (0, 0, 0, 1)
    # every probe of an identity moves alike: 40 independent values, not 200
    shift = rng.standard_normal(40)
    a = b + shift[identities]
    difference, low, high, p = paired_bootstrap(a, b, identities)
    assert difference == pytest.approx(shift.mean())
    assert (high - low) / (2 * 1.96) == pytest.approx(shift.std() / 40**0.5, rel=0.05)
    assert paired_bootstrap(a, b, identities) == (difference, low, high, p)
    assert paired_bootstrap(b, a, identities)[3] == pytest.approx(p, abs=0.02)
    assert paired_bootstrap(b + 1, b, identities, draws=999)[3] == pytest.approx(2 / 1000)
    # a probe that is not valid is left out; one left out on one side only is another protocol
    a[0] = b[0] = np.nan
    assert paired_bootstrap(a, b, identities)[0] == pytest.approx((a - b)[1:].mean())
    a[1] = np.nan
    with pytest.raises(ValueError, match="different probes"):
        paired_bootstrap(a, b, identities)
    with pytest.raises(ValueError, match="two identities"):
        paired_bootstrap(b[1:5], b[1:5], identities[1:5])


def test_bootstrap_weighs_probes_by_identity_size():
    """Two identities of 1 and 9 probes: every draw is one of three pooled means."""
    identities, a = np.array([0] + [1] * 9), np.array([1.0] + [0.0] * 9)
    difference, low, high, _ = paired_bootstrap(a, np.zeros(10), identities)
    assert (difference, low, high) == (0.1, 0, 1)


def test_protocol_rows_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROTOCOLS["evaluate_Gait3D"]["*"].macro = True
    with pytest.raises(TypeError):
        PROTOCOLS["own"] = {}
