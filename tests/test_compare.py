"""Tiny methods on made-up walkers in; one table, what is refused, what is not done twice, and what it costs, out."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import walking
from tiny import write_configs, write_data
from torch import nn

from bpmt_ext import registry
from bpmt_ext.claims import claim
from bpmt_ext.cli import main
from bpmt_ext.config import load_settings, settings_from
from bpmt_ext.data.sequences import Reader, Record, SequenceSet
from bpmt_ext.engine import cell, compare, costs
from bpmt_ext.engine.budget import Stage, allot, schedule_options
from bpmt_ext.engine.jobs import run_job
from bpmt_ext.engine.logs import Journal
from bpmt_ext.engine.methods import Contender, contenders, identity, read_axes, stages_of
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.bootstrap import paired_bootstrap
from bpmt_ext.report.comparison import few_identities
from bpmt_ext.report.comparison_tables import main_table, report_text
from bpmt_ext.report.means import cost, metric_names, spread
from bpmt_ext.report.paired import paired_differences
from bpmt_ext.report.published import published_for, read_published


@pytest.fixture
def walkers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data, its clips as a second root, two folds and the configs of three stages."""
    monkeypatch.chdir(tmp_path)
    lists = json.loads(write_data(tmp_path / "data").read_text())
    shutil.copytree("data", "clips")
    labels = lists["TRAIN_SET"] + lists["TEST_SET"]
    Path("data/folds").mkdir()
    for k in range(2):
        fold = {"TRAIN_SET": labels[:6] if k else labels[4:], "TEST_SET": labels[6:] if k else labels[:4]}
        Path(f"data/folds/fold{k}.json").write_text(json.dumps(fold))
    write_configs(tmp_path)
    return tmp_path


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Jobs are done in this process, quickly, and noted."""
    noted: list[dict[str, Any]] = []

    def here(folder: Path, job: dict[str, Any], threads: int, descriptor: int | None) -> str:
        noted.append(dict(job))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failed.json").unlink(missing_ok=True)
        full = {**job, "folder": str(folder), "result": str(folder / "result.json"), "threads": threads}
        (folder / "job.json").write_text(json.dumps(full))
        return "input" if cell.main([str(folder / "job.json")]) else "done"

    monkeypatch.setattr(compare, "run_job", here)
    monkeypatch.setattr(costs, "sequences_per_second", lambda run: 1.0)
    monkeypatch.setattr(Journal, "draw", lambda journal: None)
    return noted


def run(*words: str) -> int:
    return main(["compare", "--root", "data", "--out", "out", *words])


def results() -> dict[str, Any]:
    return json.loads(Path("out/results.json").read_text())


# -- the whole


def test_one_table_of_every_method_on_the_same_splits(walkers: Path, jobs: list, capsys: pytest.CaptureFixture) -> None:
    line = ["--cfgs", "Ours=both.yaml", "both.yaml@scratch", "--untrained", "--yardsticks", "bone_lengths", "--folds",
            "2", "--test", "whole=data", "short=clips", "--iterations", "6", "--seeds", "3"]
    assert run(*line) == 0
    printed = capsys.readouterr().out
    found = results()
    assert [one["label"] for one in found["methods"]] == ["Ours", "both@scratch", "Ours@untrained",
                                                          "yardstick: bone lengths"]
    assert len(jobs) == 3 * 2, "a cell is a method, a fold and a seed; a yardstick needs no process"
    ours, scratch = (next(c for c in found["cells"] if c["label"] == label) for label in ("Ours", "both@scratch"))
    assert ours["iterations"] == {"t1": 2, "t2": 2, "finetuning": 2} and scratch["iterations"] == {"finetuning": 6}
    for test in ("whole", "short"):
        values = [c["scores"][test]["metrics"]["Rank-1"] for c in found["cells"] if c["label"] == "Ours"]
        assert len(values) == 2
        (row,) = [row for row in printed.splitlines() if row.startswith(f"| {test} | Ours | ") and " ± " in row]
        assert f"| {np.mean(values):.1f} ± " in row and "| 2 |" in row
    clips = np.load("out/cells/Ours/fold1-seed3/per_probe-short.npz")
    assert set(clips["label"]) == {"0006", "0007", "0008", "0009"} and len(clips["name"]) == len(clips["rank1"])
    untrained = [c for c in found["cells"] if c["label"] == "Ours@untrained"]
    assert untrained[0]["iterations"] == {} and untrained[0]["costs"]["train_seconds"] < ours["costs"]["train_seconds"]
    assert {c["test"] for c in found["comparisons"]} == {"whole", "short"}
    assert str(walkers) not in Path("out/results.json").read_text(), "results may be published as they are"
    starts = {"table.md": "| test | method", "table.tex": "\\begin{tabular}{ll", "table.csv": "test,method",
              "tradeoff.png": ""}
    for name, start in starts.items():
        assert start.encode() == Path("out", name).read_bytes()[: len(start)]

    # nothing is done twice; what is lost is done again, with the same figures; a result is there or it is not
    scores = ours["scores"]
    shutil.rmtree("out/cells/Ours/fold0-seed3")
    del jobs[:]
    assert run(*line) == 0 and [job["about"] for job in jobs] == [{"label": "Ours", "fold": "fold0", "seed": 3}]
    again = next(c for c in results()["cells"] if (c["label"], c["fold"]) == ("Ours", "fold0"))
    assert again["scores"] == scores
    shutil.rmtree("out/cells")
    Path("out/comparison.json").unlink()
    capsys.readouterr()
    assert main(["compare", "--report", "--out", "out", "--format", "csv"]) == 0, "results.json alone makes the tables"
    assert "whole,Ours," in capsys.readouterr().out


def test_a_cell_of_its_own_process_and_one_that_crashes(
    walkers: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "METHODS", dict(registry.METHODS))  # the plugin's network goes with the test
    Path("boom.py").write_text(
        "import os\nfrom dataclasses import replace\n"
        "from bpmt_ext import registry\nfrom bpmt_ext.nets.bpmt import BPMT\n"
        "class Boom(BPMT):\n    def forward(self, *_, **__):\n        os._exit(9)\n"
        "registry.add_method('Boom', replace(registry.METHODS['BPMT'], target='boom:Boom'))\n"
    )
    Path("boom.yaml").write_text("base: net.yaml\nmodel_cfg: {model: Boom}\n")
    line = ["--plugin", "boom.py", "--cfgs", "boom.yaml", "net.yaml@untrained", "--fold", "1", "--format", "text"]
    assert run(*line) == 1
    out = capsys.readouterr().out
    assert "boom, fold1-seed0: failed: exit status 9" in out and "0, 1 failed" in out
    (good,) = results()["cells"]
    assert good["label"] == "net@untrained" and good["machine"]["threads"] == 1
    assert 50 < good["costs"]["memory_mib"] < 1e5
    assert good["costs"]["train_seconds"] > 0 and good["costs"]["sequences_per_second"] > 0


def test_a_method_that_is_refused_stops_no_other(walkers: Path, jobs: list, capsys: pytest.CaptureFixture) -> None:
    Path("bad.yaml").write_text("base: net.yaml\nloss_cfg: [{type: TripletLoss, margin: wide}]\n")
    line = ["--cfgs", "bad.yaml", "net.yaml", "--fold", "1"]
    assert run(*line, "--minutes", "0.001") == 2
    out = capsys.readouterr().out
    assert "bad, fold1-seed0: failed: its speed cannot be measured: " in out and "margin" in out
    assert [cell["label"] for cell in results()["cells"]] == ["net"]
    Path("bad.yaml").write_text("base: net.yaml\n")
    assert run(*line, "--minutes", "0.001") == 0, "mended, it is tried again"
    assert "failed" not in capsys.readouterr().out


def test_a_job_whose_parent_is_gone_ends(walkers: Path) -> None:
    code = ("import sys, time; from bpmt_ext.engine import cell\n"
            "cell._die_with_the_parent(); print('up', flush=True); time.sleep(60)")
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             env={**os.environ, "PYTHONPATH": str(Path(compare.__file__).parents[2])})
    assert child.stdout.readline() == b"up\n" and child.poll() is None
    child.stdin.close()
    assert child.wait(30) == 4


def test_minutes_become_the_same_iterations_for_every_fold(walkers: Path, jobs: list,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell, "train_config", lambda settings, here, output, opts, root: cell.build_run(
        settings, cell.load_data(settings), here, output))
    monkeypatch.setattr(costs, "seconds_per_iteration",
                        lambda run: 2.0 if run.settings.model_cfg.model == "BPMT" else 1.0)
    line = ["--cfgs", "both.yaml", "--folds", "2"]
    assert run(*line, "--minutes", "0.4") == 0  # 24 s over 6 * 1 s, 6 * 1 s, 6 * 2 s
    assert [job["task"] for job in jobs] == ["measure", "train", "train"]
    assert {json.dumps(c["iterations"]) for c in results()["cells"]} == {'{"t1": 6, "t2": 6, "finetuning": 6}'}
    budget = json.loads(Path("out/budget.json").read_text())
    assert budget["both"]["machine"]["device"] == "cpu" and budget["both"]["fold"] == "fold0"
    row = budget["both"]["stages"][2]
    row["seconds"] = 4.0
    Path("told.json").write_text(json.dumps(budget))
    more = ["--minutes", "0.4", "--split", "t1=0.5", "--budget-from", "told.json"]
    assert main(["compare", "--root", "data", "--out", "other", *line, *more]) == 0
    assert [job["task"] for job in jobs].count("measure") == 1, "a speed that is told is not measured"
    (one, _) = json.loads(Path("other/results.json").read_text())["cells"]
    assert one["iterations"] == {"t1": 12, "t2": 2, "finetuning": 2}


def test_what_cannot_be_mixed_is_refused(walkers: Path, jobs: list, capsys: pytest.CaptureFixture) -> None:
    first = ["--cfgs", "net.yaml@untrained", "--fold", "0"]
    assert run(*first) == 0
    Path("cos.yaml").write_text("base: net.yaml\nevaluator_cfg: {same_camera: drop_all}\n")
    Path("short.yaml").write_text("base: net.yaml\ndata_cfg: {frame_threshold: 9}\n")
    told = {
        "stands there with other settings (evaluator_cfg.metric": [*first, "--opts", "evaluator_cfg.metric=cos"],
        "another budget": [*first, "--iterations", "3"],
        "its test sets are walkers, those asked for clips": [*first, "--test", "clips=clips"],
        "evaluator_cfg.same_camera is 'drop' for net and 'drop_all' for cos": ["--cfgs", "net.yaml", "cos.yaml"],
        "would be tested on other sequences": ["--cfgs", "net.yaml", "short.yaml"],
        "there is no such fold": ["--cfgs", "net.yaml@untrained", "--folds", "7"],
        "there are folds 0 to 1": ["--cfgs", "net.yaml", "--folds", "2", "--fold", "2"],
        "model_cfg.widht": [*first, "--opts", "model_cfg.widht=3"],
        "did you mean scratch": ["--cfgs", "both.yaml@scrach"],
        "no earlier stages to leave out": ["--cfgs", "net.yaml@scratch"],
        "two methods are called net": ["--cfgs", "net.yaml", "net.yaml"],
        "nix.yaml": ["--cfgs", "nix.yaml"],
        "no config has a stage t1": ["--cfgs", "net.yaml", "--opts", "t1.trainer_cfg.total_iter=3"],
        "there is no such yardstick": [*first, "--yardsticks", "bone_length"],
        "is no method of this comparison": [*first, "--reference", "nobody"],
        "a share lies between 0 and 1": [*first, "--split", "t1=2"],
        "--split t9: no config has a stage t9; did you mean": ["--cfgs", "both.yaml", "--iterations", "6",
                                                               "--split", "t9=0.2"],
        "add --minutes or --iterations": ["--cfgs", "both.yaml", "--split", "t1=0.2"],
        "both has 3 stages": ["--cfgs", "both.yaml", "--iterations", "2", "--out", "x"],
        "is no budget file": ["--cfgs", "new=net.yaml", "--minutes", "1", "--budget-from", "net.yaml", "--out", "x"],
    }
    both = ["--cfgs", "both.yaml", "--fold", "0", "--iterations", "3", "--out", "b"]
    assert run(*both) == 0
    shutil.copy("data/folds/fold1.json", "own.json")
    assert run(*both, "--opts", "t1.data_cfg.dataset_partition=own.json") == 2
    assert "both was trained on other sequences than there are now" in capsys.readouterr().err
    done = len(jobs)
    for sentence, line in told.items():
        capsys.readouterr()
        split = [] if {"--fold", "--folds"} & set(line) else ["--fold", "0"]
        assert run(*line, *split) == 2, sentence
        assert sentence in capsys.readouterr().err
    assert len(jobs) == done, "all of it is told before anything is trained"
    Path("elsewhere").mkdir()
    Path("elsewhere/thesis.txt").touch()
    assert run(*first, "--out", "elsewhere") == 2 and "something else" in capsys.readouterr().err
    with Path("data/0000/camid0_videoid0/seq0/seq0.pkl").open("ab") as file:
        file.write(b"one byte more")
    assert run(*first) == 2 and "made with other sequences than there are now" in capsys.readouterr().err


def test_damaged_files_of_a_comparison_are_named(walkers: Path, jobs: list, capsys: pytest.CaptureFixture) -> None:
    line = ["--cfgs", "net.yaml@untrained", "again=net.yaml@untrained"]
    assert run(*line) == 0
    cell = "out/cells/net_untrained/split-seed0"
    for name, faults in {
        "out/comparison.json": ["", "[1]", '{"format": 1', '{"format": 1}', '{"format": 9, "budget": 0, "protocol": 0, '
                                '"data": {}, "methods": {}}'],
        f"{cell}/result.json": ["", "{}", "[]"], f"{cell}/per_probe-walkers.npz": ["", "x", None],
    }.items():  # fmt: skip
        whole = Path(name).read_bytes()
        for fault in faults:
            Path(name).unlink() if fault is None else Path(name).write_text(fault)
            for words in (["--report"], line):
                capsys.readouterr()
                assert run(*words) == 2, (name, fault)
                said = capsys.readouterr().err.strip()
                assert Path(name).name in said and said.count("\n") == 0
        Path(name).write_bytes(whole)
    assert run("--report") == 0
    Path("results").mkdir()
    Path("results/results.json").write_text('{"cells": []}')
    assert main(["compare", "--report", "--out", "results"]) == 2 and "says nothing of" in capsys.readouterr().err


def test_what_another_process_does_is_left_to_it(walkers: Path, jobs: list, capsys: pytest.CaptureFixture) -> None:
    with claim(Path("out/claims/net_untrained-fold0-seed0.lock")) as mine:
        assert mine is not None
        assert run("--cfgs", "net.yaml@untrained", "--folds", "2") == 0
    assert [job["about"]["fold"] for job in jobs] == ["fold1"]
    assert "1 cells are being computed by another process" in capsys.readouterr().err
    assert run("--cfgs", "net.yaml@untrained", "--folds", "2") == 0 and len(jobs) == 2


# -- its parts


def test_a_claim_goes_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "a.lock"
    code = ("import sys, time; from pathlib import Path; from bpmt_ext.claims import claim\n"
            "with claim(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)")
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE,
                             env={**os.environ, "PYTHONPATH": str(Path(compare.__file__).parents[2])})
    assert child.stdout.readline() == b"mine\n"
    with claim(path) as taken:
        assert taken is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    with claim(path) as taken, claim(path) as twice:
        assert taken is not None and twice is None


def test_a_job_that_is_not_the_one_before_starts_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    for digest, kept in (("a", False), ("a", True), ("b", False)):
        assert run_job(tmp_path / "x", {"digest": digest}, 1) == "crash"
        assert (tmp_path / "x" / "checkpoint").exists() == kept
        (tmp_path / "x" / "checkpoint").touch()
    assert "exit status 1" in json.loads((tmp_path / "x" / "failed.json").read_text())["message"]


@pytest.mark.parametrize(
    ("schedule", "total", "wanted"),
    [
        ({"scheduler": "MultiStepLR", "milestones": [20, 40, 80], "gamma": 0.1}, 25, {"milestones": [5, 10, 20]}),
        ({"scheduler": "OneCycleLR", "max_lr": 0.1}, 30, {"total_steps": 30}),
        ({"scheduler": "OneCycleLR", "max_lr": 0.1, "total_steps": 150}, 30, {"total_steps": 45}),
        ({"scheduler": "OneCycleLR", "max_lr": 0.1, "pct_start": 0.2}, 5, {"total_steps": 6}),  # torch divides by 0
        ({"scheduler": "StepLR", "step_size": 10}, 250, {"step_size": 25}),
        ({"scheduler": "CosineAnnealingLR", "T_max": 100, "eta_min": 0.0}, 1, {"T_max": 1}),
        ({"scheduler": "ExponentialLR", "gamma": 0.99}, 50, {"gamma": pytest.approx(0.99**2)}),
    ],
)
def test_a_schedule_follows_the_length_of_its_training(schedule: dict, total: int, wanted: dict) -> None:
    values = {"model_cfg": {"model": "BPMT"}, "trainer_cfg": {"total_iter": 100}, "scheduler_cfg": schedule}
    if schedule["scheduler"] != "OneCycleLR":
        values["scheduler_cfg"] = {"max_lr": None, **schedule}
    settings = settings_from(values)
    scaled = settings_from(values, schedule_options(settings, total))
    assert scaled.trainer_cfg.total_iter == total
    assert {key: scaled.scheduler_cfg.free[key] for key in wanted} == wanted
    untouched = {k: v for k, v in schedule.items() if k not in ("scheduler", *wanted)}
    assert {key: scaled.scheduler_cfg.free[key] for key in untouched} == untouched
    assert all(text.startswith("t1.") for text in schedule_options(settings, total, "t1."))


def test_a_budget_is_spent_in_proportion_or_by_shares() -> None:
    rows = [Stage("t1", 1000, 0.05), Stage("t2", 300, 0.2), Stage("", 500, 0.25)]
    found = allot(47, rows, {})  # 50 + 60 + 125 s: a fifth of it
    assert found == {"t1": 200, "t2": 60, "": 100}
    assert sum(found[row.name] * row.seconds for row in rows) == pytest.approx(47)
    assert allot(100, rows, {"t1": 0.5}) == {"t1": 1000, "t2": 81, "": 135}
    assert allot(4, [Stage("t1", 1000), Stage("", 1)], {}) == {"t1": 4, "": 1}, "no stage is left out"
    with pytest.raises(UserError, match="leave nothing"):
        allot(100, rows, {"t1": 0.5, "t2": 0.5})


def test_an_edited_config_does_not_go_on_from_what_another_left(walkers: Path, jobs: list) -> None:
    for lr in (0.002, 0.5):
        Path("own.yaml").write_text(f"base: net.yaml\noptimizer_cfg: {{lr: {lr}}}\n")
        shutil.rmtree("out/cells", ignore_errors=True)  # it was killed before it had a result
        assert run("--cfgs", "own.yaml", "--fold", "0", "--iterations", "2") == 0
    assert jobs[0]["opts"] == jobs[1]["opts"] and jobs[0]["digest"] != jobs[1]["digest"]


def test_a_grid_over_configs(walkers: Path) -> None:
    Path("axes.yaml").write_text(
        "trainer_cfg.seed: [1]\nwidth: {model_cfg.width: [16, 32]}\n"
        "size: {small: {}, large: {model_cfg.layers: 2, t1.model_cfg.layers: 2, optimizer_cfg.lr: 1e-5}}\n"
    )
    found = contenders(["net.yaml", "B=both.yaml"], Path("axes.yaml"), ["data_cfg.cache=false"], walkers, True)
    assert [one.label for one in found[:4]] == [f"net seed=1 width={w} size={s}" for w in (16, 32)
                                               for s in ("small", "large")]
    last = found[7]
    assert last.label == "B seed=1 width=32 size=large" and "t1.model_cfg.layers=2" in last.opts
    assert not any(text.startswith("t1.") for text in found[3].opts), "an option for a stage goes where it is"
    settings = load_settings(found[3].config, found[3].opts, walkers)
    assert (settings.model_cfg.free["width"], settings.model_cfg.free["layers"]) == (32, 2)
    assert settings.optimizer_cfg.free["lr"] == 1e-5 and settings.data_cfg.cache is False
    assert [one.variant for one in found[8:]] == ["untrained"] * 8 and len({one.slug for one in found}) == 16
    for text, sentence in (("a: 3", "axis a is 3"), ("a: []", r"axis a is \[\]"), ("", "holds no axis")):
        Path("bad.yaml").write_text(text)
        with pytest.raises(UserError, match=sentence):
            read_axes(Path("bad.yaml"))


def test_the_time_of_a_training_taken_up_again_does_not_count() -> None:
    cells = [{"label": "a", "costs": {"train_seconds": 60.0, "resumed": False, "memory_mib": 1}},
             {"label": "a", "costs": {"train_seconds": 9.0, "resumed": True, "memory_mib": 3}}]
    assert cost({"cells": cells}, "a", "train_seconds") == 60 and cost({"cells": cells}, "a", "memory_mib") == 2
    assert cost({"cells": cells}, "b", "memory_mib") is None


def test_what_makes_a_method_is_what_it_says(walkers: Path) -> None:
    def of(*opts: str, config: str = "both.yaml", variant: str = "") -> dict[str, Any]:
        return identity(Contender("x", config, variant), stages_of(config, opts, walkers))

    plain = of()
    for same in ("data_cfg.missing_labels=error", "trainer_cfg.seed=7", "data_cfg.dataset_root=clips",
                 "trainer_cfg.save_iter=9", "data_cfg.num_workers=3"):
        assert of(same) == plain, same
    for other in ("model_cfg.dropout=0.2", "trainer_cfg.total_iter=7", "t1.trainer_cfg.total_iter=7",
                  "data_cfg.missing_labels=warn", "evaluator_cfg.metric=cos", "model_cfg.stages.t1=null"):
        assert of(other) != plain, other
    assert of("trainer_cfg.total_iter=7", variant="untrained") == of(variant="untrained")
    known = set()
    for what in (b"one", b"two"):  # a stage that is a file is what it holds
        Path("t1.pt").write_bytes(what)
        known.add(of("model_cfg.stages.t1=t1.pt", "model_cfg.stages.t2=null")["t1.sha256"])
    assert len(known) == 2


def test_means_over_seeds_then_spread_over_folds() -> None:
    assert spread({("fold0", 0): 80.0, ("fold0", 1): 90.0, ("fold1", 0): 60.0}) == (72.5, 12.5)
    assert spread({("split", 0): 80.0, ("split", 1): 90.0}) == (85.0, 5.0)
    assert spread({("split", 0): 80.0}) == (80.0, None)
    metrics = ["NM mAP", "NM Rank-1", "BG Rank-1", "Rank-20", "BG mAP", "NM macro Rank-1"]
    found = metric_names({"cells": [{"scores": {"a": {"metrics": dict.fromkeys(metrics, 0.0)}}}]})
    assert found == ["NM Rank-1", "NM macro Rank-1", "NM mAP", "BG Rank-1", "BG mAP"]


def made_up(out: Path, scores: dict[str, dict[tuple[str, int | None], np.ndarray]]) -> dict[str, Any]:
    """Results of methods with these Rank-1 values by (fold, seed), three probes a person."""
    cells = []
    for label, each in scores.items():
        for (fold, seed), rank1 in each.items():
            folder = out / "cells" / label / (fold if seed is None else f"{fold}-seed{seed}")
            folder.mkdir(parents=True)
            people = np.array([f"p{i // 3}" for i in range(len(rank1))])
            names = np.array([f"{fold}-{i}" for i in range(len(rank1))])
            np.savez(folder / "per_probe-T.npz", rank1=rank1, ap=rank1 / 2, label=people, name=names,
                     condition=np.full(len(rank1), ""))
            found = {"Rank-1": 100 * float(np.nanmean(rank1)), "mAP": 0.0}
            cells.append({"label": label, "fold": fold, "seed": seed, "model": label, "dataset": "Gait3D", "costs": {},
                          "scores": {"T": {"metrics": found, "metric": "euc"}}})
    methods = [{"label": label, "slug": label, "config": f"{label}.yaml", "variant": ""} for label in scores]
    return {"tests": ["T"], "methods": methods, "cells": cells, "failures": [], "notes": [], "published": [],
            "budget": {"minutes": 3, "iterations": 0}}


def test_probes_of_all_folds_are_pooled_and_seeds_averaged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a = {fold: (rng.random(9) < 0.8).astype(float) for fold in ("fold0", "fold1")}
    b = {(fold, seed): (rng.random(9) < 0.4).astype(float) for fold in ("fold0", "fold1") for seed in (0, 1)}
    a["fold1"][4] = np.nan
    for seed in (0, 1):
        b["fold1", seed][4] = np.nan
    found = made_up(tmp_path, {"B": b, "A": {(fold, None): value for fold, value in a.items()}})
    rows = paired_differences(tmp_path, found, "best")
    told = [(row["reference"], row["label"], row["metric"]) for row in rows]
    assert told == [("A", "B", "Rank-1"), ("A", "B", "mAP")]
    keep = np.arange(18) != 13
    x = np.concatenate(list(a.values()))[keep]
    y = np.concatenate([(b[fold, 0] + b[fold, 1]) / 2 for fold in a])[keep]
    who = np.array([f"{fold} p{i // 3}" for fold in a for i in range(9)])[keep]
    wanted = paired_bootstrap(100 * x, 100 * y, who)
    assert rows[0]["difference"] == pytest.approx(wanted[0]) and rows[0]["p"] is None  # of six people
    assert (rows[0]["low"], rows[0]["high"]) == (pytest.approx(wanted[1], abs=4), pytest.approx(wanted[2], abs=4))
    assert (rows[0]["probes"], rows[0]["identities"], rows[0]["folds"]) == (17, 6, 2)
    (other, _) = paired_differences(tmp_path, found, "first")
    assert other["reference"] == "B" and other["difference"] == pytest.approx(-rows[0]["difference"])


@pytest.mark.parametrize(("people", "p", "note"), [
    (3, "-", "T: the differences rest on 3 identities only: over fewer than 20 the intervals come out too narrow, and "
             "fewer than 9 allow no p"),
    (9, "0.0002", "T: the differences rest on 9 identities only: over fewer than 20 the intervals and p come out too "
                  "small"),
    (20, "0.0002", ""),
])  # fmt: skip
def test_few_people_are_told(people: int, p: str, note: str, tmp_path: Path) -> None:
    scores = {label: {("fold0", None): np.full(3 * people, value)} for label, value in (("A", 1.0), ("B", 0.0))}
    found = made_up(tmp_path, scores)
    found["comparisons"] = paired_differences(tmp_path, found, "best")
    found["notes"] = few_identities(found["comparisons"])
    assert found["notes"] == ([note] if note else [])
    line = next(line for line in report_text(found, "markdown").splitlines() if line.startswith("| T | A | B | Rank-1"))
    assert line.endswith(f"| +100.0 | +100.0 to +100.0 | {p} | {people} | {3 * people} |")
    assert note in report_text(found, "text")
    lines = [line for line in report_text(found, "csv").splitlines() if line and not line.startswith("# ")]
    header, rows = main_table(found)
    assert [*csv.reader(lines)] == [header, *rows] and len(rows) == 2  # one table


def test_published_figures_stand_beside_ours(tmp_path: Path) -> None:
    assert len({row.id for row in read_published()}) == len(read_published()) >= 5
    assert [row.model for row in published_for("gait3d")][-1] == "SkeletonGait"
    found = made_up(tmp_path, {"gpgait": {("fold0", 0): np.ones(3)}, "Other": {("fold0", 0): np.zeros(3)}})
    found["published"] = [row.model_dump(exclude_none=True) for row in published_for("Gait3D")]
    found["comparisons"] = []
    text = report_text(found, "markdown")
    assert "| gpgait | 100.0 |" in text and "| 1 | 22.4 (vanilla) |" in text and "| 1 | - |" in text
    assert "| SkeletonGait (paper) | Gait3D | 38.1 |" in text and "3 minutes a training" in text
    row = "{id: a, dataset: D, model: M, recipe: r, metrics: {Rank-1: 3}, source: s}"
    for wrong, sentence in (
        (row.replace("3}", "300}"), "row a: metrics.Rank-1"), (row.replace("recipe", "recipee"), "row a: recipe"),
        (row.replace(", source: s", ""), "row a: source"), (f"{row}, {row}", "row a: the id is given twice"),
    ):  # fmt: skip
        (tmp_path / "p.yaml").write_text(f"[{wrong}]")
        with pytest.raises(UserError, match=sentence):
            read_published(tmp_path / "p.yaml")


class Counted(nn.Module):
    """A network of which every product is known: a linear map of joints, then attention with fused kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.layer = nn.Linear(51, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.outer = nn.Conv1d(8, 4, 3, padding=1, groups=2)

    def forward(self, pose: torch.Tensor, mask: torch.Tensor, key: Any = None) -> dict[str, torch.Tensor]:
        x = self.outer(self.layer(self.inner(pose.flatten(2))).mT)
        return {"embedding": x.mean(2, keepdim=True)}


def test_multiply_adds_are_those_of_sixty_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pose = walking(1, 23)[0].numpy()
    sequences = SequenceSet([Record("a", "b", "c", (tmp_path / "x.pkl",))])
    monkeypatch.setattr(Reader, "read", lambda *_: pose)
    values = {"model_cfg": {"model": "BPMT"}, "evaluator_cfg": {"transform": []}}
    made = SimpleNamespace(
        settings=settings_from(values), network=Counted(), test_transform=None,
        splits=SimpleNamespace(test=sequences), world=SimpleNamespace(device=torch.device("cpu")),
    )  # fmt: skip
    t = 60
    linear, attention = t * 51 * 8, t * 8 * 24 + 2 * t * t * 8 + t * 8 * 8
    assert costs.multiply_adds(made) == linear + attention + t * 8 * 16 * 2 + t * 4 * 3 * 4
    assert costs.multiply_adds(made, 30) < costs.multiply_adds(made) / 2
    assert torch.backends.mha.get_fastpath_enabled()
    assert costs.sequences_per_second(made, least=0.01) > 0
