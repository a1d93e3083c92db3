"""Rows of figures and results in; a picture that opens and tables that line up, out."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from pytest import approx
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bpmt_ext.engine.logs import Journal, read_metrics
from bpmt_ext.errors import UserError
from bpmt_ext.report.curves import draw_curves
from bpmt_ext.report.results import results_table
from bpmt_ext.report.tables import text_table
from bpmt_ext.report.tradeoff import draw_tradeoff

ROWS = [
    {"iteration": 2, "split": "train", "loss": 3.0, "triplet/loss": 1.0, "softmax/loss": 2.0, "softmax/accuracy": 25.0,
     "lr": 0.1},
    {"iteration": 3, "split": "validation", "loss": 2.0, "Rank-1": 40.0, "mAP": 30.0},
    {"iteration": 4, "split": "train", "loss": 1.0, "triplet/loss": 0.0, "softmax/loss": 1.0, "softmax/accuracy": 75.0,
     "lr": 0.05},
]  # fmt: skip


def panels(rows: list, path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, list]]:
    """{panel: {line: points}} of what is drawn."""
    drawn, whole = {}, Figure.savefig

    def savefig(self: Figure, *args: object, **keys: object) -> None:
        for axes in self.axes:
            lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
            drawn[axes.get_title()] = lines
        whole(self, *args, **keys)

    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.setattr(Figure, "savefig", savefig)
        warnings.simplefilter("error")
        draw_curves(rows, path, title="a run")
    return drawn


def test_curves_of_a_finetuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curves.png"
    drawn = panels(ROWS, path, monkeypatch)
    assert drawn == {
        "loss": {"train": [[2, 3], [4, 1]], "validation": [[3, 2]]},
        "loss terms": {"softmax (train)": [[2, 2], [4, 1]], "triplet (train)": [[2, 1], [4, 0]]},
        "percent": {
            "Rank-1 (validation)": [[3, 40]], "mAP (validation)": [[3, 30]],
            "softmax/accuracy (train)": [[2, 25], [4, 75]],
        },
        "learning rate": {"train": [[2, 0.1], [4, 0.05]]},
    }
    picture = matplotlib.image.imread(path)
    assert picture.shape[1] > 2000 and picture[..., :3].std() > 0.02
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


def test_curves_of_a_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {f"part/pair{k}": 0.5 for k in range(10)}
    rows = [{"iteration": k, "split": split, "loss": 0.5, **parts} for k in (1, 2) for split in ("train", "validation")]
    drawn = panels(rows, tmp_path / "curves.png", monkeypatch)
    assert set(drawn) == {"loss", "loss by part"} and len(drawn["loss by part"]) == 20
    assert drawn["loss"] == {split: [[1, 0.5], [2, 0.5]] for split in ("train", "validation")}


def test_curves_of_losses_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"iteration": k, "split": "train", "loss": 0.0, "lr": 0.0} for k in (1, 2)]
    assert "loss" in panels(rows, tmp_path / "curves.png", monkeypatch)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_points_are_seen_over_whole_iterations(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Figure] = []
    monkeypatch.setattr("bpmt_ext.report.curves.save_png", lambda figure, path: shown.append(figure))
    rows = [{"iteration": k + 3, "split": "train", "loss": 2.0, "lr": 0.1} for k in range(count)]
    draw_curves(rows, tmp_path / "curves.png")
    for axes in shown[0].axes:
        assert [line.get_marker() for line in axes.lines] == ["o" if count == 1 else "None"]
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert {row["iteration"] for row in rows} <= {*ticks} and all(tick == int(tick) for tick in ticks)


def test_methods_at_one_place_are_all_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Figure] = []
    monkeypatch.setattr("bpmt_ext.report.tradeoff.save_png", lambda figure, path, dpi: shown.append(figure))
    rows = [("a", 60.0, 1e8, 4e6), ("b", 60.0, 1e8, 1e3), ("c", 60.1, 1e8, 4e6), ("d", 50.0, 1e8, 1e3),
            ("e", 60.0, 1e9, 1e3), ("f", 60.0, 0, 0), ("g", 60.0, 0, 0)]  # fmt: skip
    points = [{"label": label, "value": (mean, 1.0), "cost": cost, "size": size} for label, mean, cost, size in rows]
    draw_tradeoff({"test": points}, tmp_path / "tradeoff.png", metric="Rank-1")
    (axes,) = shown[0].axes
    filled = [len(one.get_facecolor()) > 0 for one in axes.collections if isinstance(one, PathCollection)]
    areas = [one.get_sizes()[0] for one in axes.collections if isinstance(one, PathCollection)]
    assert filled == [True, False, False, True, True] and areas[0] < areas[1] < areas[2] and areas[3] == areas[4]
    assert len({line.get_linewidth() for line in axes.lines if len(line.get_xdata()) == 2}) == 2


def test_no_rows_no_picture(tmp_path: Path) -> None:
    draw_curves([], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def test_a_failing_picture_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", failing)
    (tmp_path / "curves.png").write_bytes(b"old")
    with pytest.raises(UserError, match="curves.png: cannot be written"):
        draw_curves(ROWS, tmp_path / "curves.png")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_the_journal_forgets_what_will_be_done_again(tmp_path: Path) -> None:
    with Journal(tmp_path, start=0, active=True) as journal:
        for k in range(1, 6):
            journal.write(k, "train", {"loss": 1 / k})
        journal.draw()
    assert (tmp_path / "curves.png").is_file() and list((tmp_path / "summary").iterdir())
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '3\n{"iteration": 6, "split": "tr')
    assert len(read_metrics(path)) == 5
    with Journal(tmp_path, start=3, active=True) as journal:
        journal.write(4, "train", {"loss": 9.0})
    assert [(row["iteration"], row["loss"]) for row in read_metrics(path)] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 9.0)]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    board = EventAccumulator(str(tmp_path / "summary")).Reload()
    losses = [(x.step, x.value) for x in board.Scalars("train/loss")]
    assert losses == [(1, 1.0), (2, 0.5), (3, approx(1 / 3)), (4, 9.0)]
    with Journal(tmp_path, start=0, active=False) as silent:  # every process but the first
        silent.write(9, "train", {"loss": 1.0})
        silent.draw()
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}


def test_tables_line_up() -> None:
    assert text_table(["name", "x"], [["a", "1.5"], ["longer", "10"]]).splitlines() == [
        "name      x", "-----------", "a       1.5", "longer   10",
    ]  # fmt: skip
    results = {
        "dataset": "walkers", "model": "BPMT", "iteration": 40, "protocol": "evaluate_retrieval", "gallery": 8,
        "probes": {"total": 4, "valid": 3}, "metrics": {"Rank-1": 100 / 3, "mAP": 66.666},
    }  # fmt: skip
    head, names, _, values = results_table(results).splitlines()
    assert all(word in head for word in ("walkers", "BPMT at iteration 40", "3 of 4 probes", "gallery 8"))
    assert names.split() == ["Rank-1", "mAP"] and values.split() == ["33.3", "66.7"]
