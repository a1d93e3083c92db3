"""Made-up embeddings, walks and names in; a page's answers, map, small figures and tables, checked one by one, out."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import walking

from bpmt_ext.metrics.protocols import evaluate
from bpmt_ext.report import ranked
from bpmt_ext.report.animated import packed
from bpmt_ext.report.markup import Cell, Line, line_chart, table
from bpmt_ext.report.runfolder import RunFolder
from bpmt_ext.report.tsne import affinities, tsne
from bpmt_ext.skeletons import get_skeleton


@pytest.mark.parametrize("rule", ["keep", "drop", "drop_all"])
def test_answers_follow_the_rule_of_the_cameras(rule: str) -> None:
    """Leave-one-out: neither the probe itself nor what the rule leaves out is an answer; the rest as sorted by hand."""
    rng = np.random.default_rng(1)
    labels, x = np.repeat([f"p{k}" for k in range(6)], 6), rng.normal(size=(36, 4, 2)).astype(np.float32)
    types, views = np.tile(["c0_a", "c1_a", "c0_b", "c1_b", "c2_a", "c2_b"], 6), np.full(36, "v")
    results = evaluate("evaluate_retrieval", x, labels, types, views, same_camera=rule)
    run = RunFolder(Path(), "r", results=results, per_probe=results.pop("per_probe"),
                    embeddings={"embeddings": x, "labels": labels, "types": types, "views": views})  # fmt: skip
    test = ranked.read_test(run)
    (curve,) = ranked.curves(test)
    for k in (1, 5, 20):
        assert curve.percent[k - 1] == pytest.approx(results["metrics"][f"Rank-{k}"])
    far = np.linalg.norm(x[:, None] - x, axis=2).mean(2)
    same, cameras = labels[:, None] == labels, np.array([kind[:2] for kind in types])
    gone = {"keep": np.eye(36, dtype=bool), "drop": same & (cameras[:, None] == cameras),
            "drop_all": cameras[:, None] == cameras}[rule]  # fmt: skip
    for one in ranked.hardest(test, 36):
        order = [j for j in np.argsort(far[one.index]) if not gone[one.index, j]]
        assert [answer.index for answer in one.answers] == order[:5] and one.gallery == len(order)
        assert one.first == 1 + [labels[j] == labels[one.index] for j in order].index(True)


def test_the_map_keeps_neighbours() -> None:
    """Three far groups stay three, twice the same, and each row of the affinities has the wanted entropy."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x = np.concatenate([rng.normal(size=(20, 6)) + 8 * k for k in range(3)])
        distance = np.linalg.norm(x[:, None] - x, axis=2)
        place = tsne(distance, x, perplexity=8)
        far = np.linalg.norm(place[:, None] - place, axis=2) + 1e9 * np.eye(60)
        assert (far.argmin(1) // 20 == np.arange(60) // 20).all()
        assert np.abs(place).max() < 30, "nobody is flung away"
    assert np.array_equal(place, tsne(distance, x, perplexity=8)) and place.shape == (60, 2)
    p = affinities(torch.from_numpy(distance), 8)
    assert float(p.sum()) == pytest.approx(1, abs=1e-5) and np.allclose(p, p.T) and float(p.diagonal().sum()) == 0
    assert tsne(np.zeros((2, 2)), np.zeros((2, 3))).shape == (2, 2) and np.isfinite(tsne(distance * 0, x * 0)).all()


def test_a_packed_walk_is_the_walk() -> None:
    skeleton = get_skeleton("coco17")
    pose = walking(1, 100, 17, 3).numpy()[0]
    pose[..., 2] = 1.0
    pose[3 * 2, 5, 2] = 0.0
    text, frames, unit = packed(pose, skeleton, still=True)
    bytes_ = np.frombuffer(base64.b64decode(text), np.uint8).reshape(frames, 17, 2)
    assert frames == 40 and (bytes_[3, 5] == 255).all() and (bytes_ == 255).sum() == 2
    back = (bytes_.astype(float) - 127) / 127 * unit
    seen = pose[: 2 * frames : 2, :, :2]
    inside = (bytes_ > 0).all(2) & (bytes_ < 254).all(2)
    shift = (seen - back)[inside]
    assert inside.mean() > 0.9 and np.ptp(shift, axis=0).max() < 2 * unit / 127


def test_cells_are_escaped_and_whole() -> None:
    text = table(["a", "<b>"], [["<i>", Cell(1 / 3, best=True), "&"]], caption='"')
    assert "<b>" not in text and "&lt;b&gt;" in text and repr(1 / 3) in text and ">0.3<" in text and "&quot;" in text
    assert ">–<" in table(["a", "b"], [["c", Cell(float("nan"))]], caption="none")


def test_a_share_has_no_tick_above_its_whole() -> None:
    """A CMC curve at 100 % throughout is drawn below its end, not around it."""
    chart = line_chart([Line("a", [(1, 100.0), (2, 100.0)], 0)], title="CMC", x="k", high=100)
    assert "100.0<" in chart and "100.2<" not in chart and "99.4<" in chart
