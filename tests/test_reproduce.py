"""Published results as recipes: every row loads, runs as printed, and its figures are compared by its tolerance."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import walking
from tiny import write_configs, write_data

from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.data.sequences import read_partition
from bpmt_ext.engine import recipes
from bpmt_ext.engine.checkpoint import weights_hash
from bpmt_ext.engine.logs import Journal
from bpmt_ext.engine.methods import stages_of
from bpmt_ext.engine.recipes import as_printed, beside, build_all, check, figure_names, lengths
from bpmt_ext.errors import UserError
from bpmt_ext.report.published import Published, published_for, read_published

TOOL = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "reproduce_tables.py"))
ROWS = {row.id: row for row in read_published()}


def tool(*words: str) -> int:
    return TOOL["main"](list(words))


# ---------------------------------------------------------------- the tables


def test_the_tables_hold_what_the_sources_print() -> None:
    tables = Counter(row.table for row in ROWS.values())
    assert [tables[name] for name in ("CASIA-B", "Gait3D", "GREW", "OUMVLP")] == [12, 11, 11, 11]
    assert tables["Thesis, unseen people"] == 11 and tables["Thesis, people seen in training"] == 8
    figures = {
        "casiab-gaittr-simcc-plus": {"NM Rank-1": 95.02, "BG Rank-1": 90.7, "CL Rank-1": 89.67},
        "gait3d-skeletongait": {"Rank-1": 38.1, "Rank-5": 56.7, "mAP": 28.9, "mINP": 16.1},
        "grew-gaitgraph1-plus": {"Rank-1": 36.08}, "oumvlp17-gaitgraph2": {"Rank-1": 70.68},
        "cross-grew-gait3d": {"Rank-1": 18.5}, "thesis-a4": {"Rank-1": 12.54}, "thesis-b3": {"accuracy": 6.0},
    }  # fmt: skip
    assert {name: ROWS[name].metrics for name in figures} == figures
    thesis = [ROWS[f"thesis-a{k}"] for k in range(1, 12)]
    assert [row.metrics["Rank-1"] for row in thesis] == [15.75, 17.53, 14.71, 12.54, 6.24, 7.02, 2.08, 2.94, 2.24, 3.57,
                                                          3.03]
    assert [row.epochs["finetune"] for row in thesis] == [100, 100, 100, 500, 30, 30, 1000, 200, 500, 1000, 1500]
    assert {row.tolerance for row in ROWS.values() if row.config is None} == {None}
    assert {row.table for row in published_for("gait3d")} == {"Gait3D"}, "no silhouettes, no other task"


def test_the_tables_of_actions() -> None:
    """tlca.md, sections 1 to 4; every figure of TLCA's own tables but one has a recipe."""
    figures = {
        "penn-1.0": {"top1": 94.66, "macro_precision": 94.36, "macro_f1": 94.18}, "penn-1.2": {"top1": 94.1},
        "nwucla-1.0": {"top1": 89.66, "macro_precision": 90.72, "macro_f1": 89.59}, "nwucla-1.1": {"top1": 91.16},
        "ntu60-cs-1.0": {"top1": 81.01, "macro_precision": 80.86, "macro_f1": 80.82}, "ntu60-cs-1.1": {"top1": 79.62},
        "ntu60-cv-1.0": {"top1": 88.17, "macro_precision": 88.34, "macro_f1": 88.18}, "ntu60-cv-1.2": {"top1": 87.24},
        "ntu60-cs-epoch1": {"top1": 76.38}, "penn-d64-15-last": {"top1": 87.36}, "penn-d512-300": {"top1": 86.52},
    }  # fmt: skip
    assert {name: ROWS[f"tlca-{name}"].metrics for name in figures} == figures
    own = [row for row in ROWS.values() if row.model == "TLCA" and "top1" in row.metrics]
    assert len(own) == 40 and all(row.note for row in own if row.config is None)
    assert sum(row.config is None for row in own) == 6, "of a reader that is not built"
    assert ROWS["ntu120-xsub-skateformer"].metrics["4 streams top1"] == 89.8
    assert [row.model for row in published_for("nw-ucla")][-1] == "SkateFormer", "the best last"


ACTIONS = ["PennAction", "NW-UCLA", "NTU60"]


@pytest.mark.parametrize("dataset", ["CASIA-B", "Gait3D", "GREW", "OUMVLP", "SUSTech1K", "CCPG", *ACTIONS])
def test_every_recipe_loads_and_measures_what_is_printed(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "build_all", lambda settings: 1)  # the networks have tests of their own
    for row in (one for one in ROWS.values() if one.dataset == dataset):
        found = check(row, [], tmp_path)
        assert found.faults == [], row.id
        assert not row.config or found.wants, "there is no data here"


@pytest.mark.parametrize("name", ["thesis-b2", "casiab-gaitmixer", "grew-gaitgraph2-plus", "oumvlp-gaitgraph1"])
def test_the_network_of_a_recipe_is_built(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    (*_, last) = stages_of(row.config, row.opts, tmp_path)
    assert build_all(last.settings) > 10_000
    if name == "thesis-b2":
        assert (last.settings.model_cfg.free["freeze_t1"], last.settings.model_cfg.free["freeze_t2"]) == (True, False)
        assert build_all(last.settings) == 8_857_243 - 25 * 321  # 2 classes for 27


def test_a_broken_recipe_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    row = {"id": "x", "dataset": "Gait3D", "model": "GaitTR", "recipe": "r", "source": "s", "tolerance": 1.0,
           "config": "configs/gaittr/gaittr_Gait3D.yaml", "metrics": {"Rank-1": 3.0}}  # fmt: skip
    assert check(Published(**row), [], tmp_path).faults == []
    for change, sentence in (
        ({"metrics": {"NM Rank-1": 3.0}}, "reports no NM Rank-1"),
        ({"opts": ["trainer_cfg.total_iterr=3"]}, "total_iter"),
        ({"model": "gpgait"}, "trains GaitTR"), ({"dataset": "GREW"}, "tested on Gait3D"),
        ({"epochs": {"t1": 3}}, "epochs are of t1"), ({"opts": ["model_cfg.num_classs=3"]}, "num_class"),
        ({"opts": ["trainer_cfg.transform=[{type: SkeletonInputt}]"]}, "SkeletonInput"),
    ):  # fmt: skip
        faults = check(Published(**{**row, **change}), [], tmp_path).faults
        assert len(faults) == 1 and sentence in faults[0], faults
    (tmp_path / "p.yaml").write_text(yaml.safe_dump([{**row, "model": "gpgait"}]))
    assert tool("--check", "--table", str(tmp_path / "p.yaml")) == 1 and "1 broken" in capsys.readouterr().out
    (tmp_path / "p.yaml").write_text(yaml.safe_dump([{**row, "opts": ["trainer_cfg.zz=1"]}]))
    assert tool("--list", "--table", str(tmp_path / "p.yaml")) == 2
    assert "reproduce_tables: x: --opts: trainer_cfg.zz" in capsys.readouterr().err
    for wrong in ({"tolerance": None}, {"config": None}):
        with pytest.raises(ValueError, match="tolerance"):
            Published(**{**row, **wrong})


def test_what_is_missing_is_told(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tool("--run", "gait3d-gaittr") == 2
    told = capsys.readouterr().err
    assert "no Gait3D poses in data/Gait3D/pickles" in told and "https://github.com/Gait3D" in told
    root = tmp_path / "data" / "Gait3D" / "pickles"
    root.mkdir(parents=True)
    assert tool("--check", "gait3d-gaittr") == 0 and "no partition file" in capsys.readouterr().out
    (root / "partition.json").write_text(json.dumps({"TRAIN_SET": ["1"], "TEST_SET": ["2"]}))
    assert tool("--check", "gait3d-gaittr") == 0 and "no PROBE_SET" in capsys.readouterr().out
    for words, sentence in ((["--run", "gait3d-gaitt"], "did you mean gait3d-gaittr"),
                            (["--run", "gait3d-posegait"], "no recipe"),
                            (["--run", "gait3d-gaittr", "--epochs-scale", "0"], "--epochs-scale")):
        assert tool(*words) == 2
        assert sentence in capsys.readouterr().err


def test_the_list_names_every_row_once(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tool("--list") == 0
    printed = capsys.readouterr().out
    first = [line.split()[0] for line in printed.splitlines() if line.strip()]
    assert [word for word in first if word in ROWS] == list(ROWS), "in the order of the file"
    assert printed.splitlines()[0] == "CASIA-B" and "Rank-1 38.1, Rank-5 56.7, mAP 28.9, mINP 16.1" in printed


# ---------------------------------------------------------------- lengths


def test_epochs_become_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    partition = write_data(tmp_path / "data", train=9, test=3, cameras=4)
    data = [f"data_cfg.dataset_root={tmp_path / 'data'}", f"data_cfg.dataset_partition={partition}"]
    row = ROWS["thesis-b1"].model_copy(update={"scanned": 5, "kept": 5})
    opts = as_printed(row, data, tmp_path, tmp_path / "run", 1.0)
    stages = {stage.name: stage.settings for stage in stages_of(row.config, opts, tmp_path)}
    lists = read_partition(tmp_path / "run" / "partition.json")
    assert lists.train == tuple(f"{k:04d}" for k in range(5)) and len(lists.test) == len(lists.probe) == 3
    assert {s.data_cfg.dataset_partition for s in stages.values()} == {str(tmp_path / "run" / "partition.json")}
    n = 5 * 3  # of 5 people three of four cameras
    assert stages["t1"].trainer_cfg.total_iter == 1000 * ceil(n / 16) == 1000
    assert stages[""].trainer_cfg.total_iter == 130 * ceil(n / 4) == 520
    assert [stages[s].optimizer_cfg.free["lr"] for s in ("t1", "t2", "")] == [1e-4, 1e-4, 1e-5]
    half = [text for text in lengths(row, stages_of(row.config, opts, tmp_path), 0.5) if "total_iter" in text]
    assert half == ["t1.trainer_cfg.total_iter=500", "t2.trainer_cfg.total_iter=500", "trainer_cfg.total_iter=260"]
    with pytest.raises(UserError, match="9 training people"):
        as_printed(row.model_copy(update={"scanned": 10}), data, tmp_path, tmp_path / "run", 1.0)


def test_a_scaled_training_keeps_the_shape_of_its_schedule(tmp_path: Path) -> None:
    row = ROWS["gait3d-gaittr"]
    (whole,), opts = stages_of(row.config, [], tmp_path), as_printed(row, [], tmp_path, tmp_path, 0.1)
    (short,) = stages_of(row.config, opts, tmp_path)
    assert short.settings.trainer_cfg.total_iter == whole.settings.trainer_cfg.total_iter // 10
    assert short.settings.scheduler_cfg.free["total_steps"] * 10 == whole.settings.scheduler_cfg.free["total_steps"]
    assert short.settings.trainer_cfg.restore_hint == "auto", "interrupted, it goes on"
    assert not [text for text in as_printed(row, [], tmp_path, tmp_path, 1.0) if "total" in text], "as printed"


# ---------------------------------------------------------------- figures


def test_figures_are_held_against_the_tolerance() -> None:
    row = ROWS["gait3d-gaittr-plus"]  # 9.7, 21.8, 28.4 +- 1
    found = {one["metric"]: one for one in beside(row, {"Rank-1": 10.7, "Rank-5": 20.7})}
    assert [found[name]["within"] for name in ("Rank-1", "Rank-5", "Rank-10")] == [True, False, False]
    assert found["Rank-1"]["difference"] == 1.0 and found["Rank-10"]["ours"] is None


def test_the_names_of_the_figures_are_those_of_a_test(tmp_path: Path) -> None:
    names = figure_names(stages_of("configs/gaittr/gaittr.yaml", [], tmp_path)[-1].settings)
    assert {"NM Rank-1", "CL Rank-20", "NM pooled mAP", "mean Rank-1"} <= names and "Rank-1" not in names


@pytest.fixture
def walkers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Journal, "draw", lambda journal: None)
    write_data(tmp_path / "data")
    write_configs(tmp_path)
    return tmp_path


def table(**row: Any) -> list[str]:
    """A list of one published result on the made-up data; the options that name it."""
    own = {"id": "a", "dataset": "walkers", "model": "BPMT", "recipe": "tiny", "config": "both.yaml", "tolerance": 1.0,
           "metrics": {"Rank-1": 50.0}, "source": "here"}
    Path("p.yaml").write_text(yaml.safe_dump([own | row]))
    return ["--table", "p.yaml", "--out", "out"]


def test_a_row_is_trained_tested_and_held_against_the_source(walkers: Path, capsys: pytest.CaptureFixture) -> None:
    assert tool("--run", "a", "--epochs-scale", "0.5", *table(metrics={"Rank-1": 100.0, "mAP": 0.0})) == 1
    printed, found = capsys.readouterr().out, json.loads(Path("out/a.json").read_text())
    assert "published" in printed and len(printed.splitlines()) == 5
    assert printed.splitlines()[-1] == "trained 0.5 of the printed length; 4 probes, gallery 8; out/a.json"
    ours = {one["metric"]: one["ours"] for one in found["rows"]}
    assert found["iteration"] == 3 and found["metrics"]["mAP"] == ours["mAP"] and found["reproduced"] is False
    assert str(walkers) not in json.dumps(found) and found["epochs_scale"] == 0.5
    stamps = {file: file.stat().st_mtime_ns for file in Path("out").rglob("*.pt")}
    assert {file.parts[-3] for file in stamps} == {"t1", "t2", "both"}
    near = {name: min(100.0, max(0.0, value + 0.9)) for name, value in ours.items()}
    assert tool("--run", "a", "--epochs-scale", "0.5", *table(metrics=near)) == 0
    assert {file: file.stat().st_mtime_ns for file in Path("out").rglob("*.pt")} == stamps, "it is not trained again"


def test_accuracy_is_that_of_the_last_validation(walkers: Path) -> None:
    opts = ["data_cfg.validation=0.0", "data_cfg.camera_split=true", "trainer_cfg.with_test=false"]
    line = table(config="net.yaml", metrics={"accuracy": 50.0}, tolerance=100.0, opts=opts, epochs={"finetune": 2})
    write_data(walkers / "more", cameras=5)
    root = walkers / "more"
    more = ["--opts", f"data_cfg.dataset_root={root}", f"data_cfg.dataset_partition={root}.json"]
    assert tool("--run", "a", *line, *more) == 0
    found = json.loads(Path("out/a.json").read_text())
    (file,) = Path("out/a").rglob("metrics.jsonl")
    last = [one for one in map(json.loads, file.read_text().splitlines()) if "accuracy" in one][-1]
    assert found["rows"][0]["ours"] == last["accuracy"] and found["iteration"] == last["iteration"]
    assert last["iteration"] == 2 * ceil(6 * 3 / 4), "6 people, 3 of 5 cameras, batches of 2 x 2"


def test_a_network_is_tested_on_another_set(walkers: Path) -> None:
    write_data(walkers / "other", test=6, seed=3)
    other = yaml.safe_load(Path("net.yaml").read_text())
    other["data_cfg"] = {"dataset_name": "other", "dataset_root": "other", "dataset_partition": "other.json"}
    Path("other.yaml").write_text(yaml.safe_dump(other))
    line = table(config="net.yaml", test="other.yaml", dataset="other", tolerance=100.0)
    assert tool("--run", "a", *line) == 0
    found = json.loads(Path("out/a.json").read_text())
    assert found["probes"]["total"] == 6, "the people of the other set"
    (trained,) = Path("out/a").rglob("net-00006.pt")
    assert trained.parts[-5:-2] == ("walkers", "BPMT", "net")
    best = torch.load(trained.with_name("net-best.pt"), weights_only=True)
    assert (found["iteration"], found["weights"]) == (best["iteration"], weights_hash(best["model"]))


def write_clips(root: Path, joints: int, clips: int = 6) -> list[str]:
    """Two classes of clips that move differently, the first two of each tested; the options that name them."""
    sides: dict[str, list[str]] = {"TRAIN": [], "TEST": []}
    for k, label in enumerate(("bowl", "squat")):
        pose = walking(clips, 12, joints, 3, seed=k).numpy() * 40 + 100
        for i in range(clips):
            place = root / label / f"s{k}{i}_e00" / "v01"
            place.mkdir(parents=True)
            write_pickle(place / "v01.pkl", pose[i, : 8 + i % 4].copy())
            sides["TEST" if i < 2 else "TRAIN"].append(f"{label}/s{k}{i}_e00/v01")
    root.with_suffix(".json").write_text(json.dumps({"CLASSES": ["bowl", "squat"], **sides}))
    return [f"data_cfg.dataset_root={root}", f"data_cfg.dataset_partition={root}.json"]


def test_a_row_of_actions_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Journal, "draw", lambda journal: None)
    data = write_clips(tmp_path / "penn", joints=13)
    assert tool("--run", "tlca-penn-d64-15-last", "--epochs-scale", "0.001", "--opts", *data) in (0, 1)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["published", "ours", "difference"] and printed[2].split()[:2] == ["top1", "87.36"]
    assert printed[-1].startswith("trained 0.001 of the printed length; 4 clips tested")
    found = json.loads(Path("output/reproduced/tlca-penn-d64-15-last.json").read_text())
    assert found["rows"][0]["ours"] == found["metrics"]["top1"] and set(found["metrics"]) >= {"top5", "macro_f1"}
    assert {found["checkpoint"], *found["other_checkpoint"]} == {"best", "last"}, "held out, so both are told"
    assert found["iteration"] == 1, "500 epochs of 2 batches, of 8 clips 1 held out, a thousandth"
    assert len(list(Path("output").rglob("thesis_penn_d64_t1-00002.pt"))) == 1


def test_repeated_clips_count_in_an_epoch(tmp_path: Path) -> None:
    data = write_clips(tmp_path / "ucla", joints=20)
    row = ROWS["tlca-nwucla-1.0-thesis"]
    opts = as_printed(row, data, tmp_path, tmp_path / "run", 0.1)
    stages = {stage.name: stage.settings for stage in stages_of(row.config, opts, tmp_path)}
    epoch = ceil(8 * 10 / 64)
    assert stages["t1"].trainer_cfg.total_iter == 1000 * epoch // 10 and stages[""].trainer_cfg.total_iter == 60
    assert stages[""].scheduler_cfg.free["epoch_iterations"] == epoch == 2, "not the 160 of the whole set"
    assert stages["t1"].trainer_cfg.transform[3]["probability"] == stages[""].trainer_cfg.transform[3]["probability"]
