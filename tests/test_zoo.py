"""Cards of trained networks: the run's embeddings bit for bit, where they come from, and what is refused; the page."""

from __future__ import annotations

import json
import runpy
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SMALL, checkpoint, folder_of, run, write_configs, write_data

from bpmt_ext.config import load_settings
from bpmt_ext.data.batches import inference_loader
from bpmt_ext.data.transforms import build_transform
from bpmt_ext.engine.checkpoint import load_checkpoint, weights_hash
from bpmt_ext.engine.logs import Journal
from bpmt_ext.engine.stages import load_data
from bpmt_ext.engine.zoo import TrainedRun, export, find_runs, load_card, make_card, read_card, read_run
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import get_skeleton

TOOL = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "model_zoo.py"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a trained and tested `both`, after t1 and t2."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("zoo")
        patch.chdir(folder)
        patch.setattr(Journal, "draw", lambda journal: None)
        write_data(folder / "data")
        write_configs(folder, with_test=True)
        assert run("both") == 0
        yield folder


@pytest.fixture
def card(trained: Path, tmp_path: Path) -> Path:
    one = read_run(trained / folder_of("both"))
    export(one, make_card(one, "tiny"), tmp_path / "w")
    return tmp_path / "w" / "tiny.json"


def embedded(folder: Path, path: Path) -> np.ndarray:
    """Embeddings of the test set by a card, batched as the run's own test."""
    network, transform = load_card(path)
    assert not network.training
    settings = load_settings("both.yaml", [], folder)
    sampler = settings.evaluator_cfg.sampler.model_dump()
    batches = list(inference_loader(load_data(settings).test, sampler, transform, by_length=True))
    with torch.no_grad():
        found = np.concatenate([network(batch.pose, batch.mask)["embedding"].numpy() for batch in batches])
    return found[np.argsort(np.concatenate([batch.index for batch in batches]))]


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_card_gives_the_embeddings_of_its_run_bit_for_bit(trained: Path, card: Path, suffix: str) -> None:
    wanted = np.load(trained / folder_of("both") / "embeddings.npz")["embeddings"]
    assert np.array_equal(embedded(trained, card.with_suffix(suffix)), wanted)


def test_a_card_says_where_its_network_comes_from(trained: Path, card: Path) -> None:
    said, results = read_card(card), json.loads((trained / folder_of("both") / "results.json").read_text())
    assert (said["network"], said["skeleton"], said["dataset"]) == ("BPMT", "coco17", "walkers")
    assert said["arguments"]["num_class"] == 4 and said["arguments"]["width"] == SMALL["width"]  # 6, 2 of them held out
    assert said["scores"]["walkers"]["metrics"] == results["metrics"] and said["data"] == results["data"]
    assert (said["weights"]["crc32"], said["iteration"]) == (results["weights"], results["iteration"])
    assert (said["checkpoint"]["file"], said["config"]) == ("both-best.pt", results["config"])
    assert "made-up" in said["licence"] and str(trained) not in card.read_text()
    one = read_run(trained / folder_of("both"))
    for name in ("a", "b"):
        export(one, make_card(one, "tiny"), card.parent / name)
    files = [(card.parent / name / "tiny.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1], "equal weights, equal files"
    recorded = one.settings.model_copy(update={"data_cfg": one.settings.data_cfg.model_copy(
        update={"dataset_name": "Gait3D"})})
    assert "ask them" in make_card(replace(one, settings=recorded), "x")["licence"]


def test_the_weights_of_a_card_stand_in_for_a_checkpoint(trained: Path, card: Path) -> None:
    before = json.loads((trained / folder_of("both") / "results.json").read_text())
    weights = card.with_suffix(".safetensors")
    assert run("both", f"evaluator_cfg.restore_hint={weights}", phase="test") == 0
    after = json.loads((trained / folder_of("both") / "results.json").read_text())
    assert (after["metrics"], after["weights"], after["iteration"]) == (
        before["metrics"], before["weights"], before["iteration"])
    state = load_checkpoint(weights)
    own = checkpoint("both", "best")["model"]
    assert state["model"].keys() == own.keys() and weights_hash(state["model"]) == weights_hash(own)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="not a readable .safetensors"):
        load_checkpoint(weights)


def change(card: Path, **values: Any) -> None:
    card.write_text(json.dumps(json.loads(card.read_text()) | values))


def test_a_card_that_is_not_what_it_says_is_refused(trained: Path, card: Path, tmp_path: Path) -> None:
    good, weights = card.read_text(), card.with_suffix(".safetensors")
    with pytest.raises(UserError, match="no such card"):
        load_card(tmp_path / "none.json")
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1
    weights.write_bytes(whole)
    with pytest.raises(UserError, match="other sha256"):
        load_card(card)
    weights.unlink()
    with pytest.raises(UserError, match="missing"):
        load_card(card)
    (tmp_path / "elsewhere.safetensors").write_bytes(whole)
    change(card, weights={"file": "../elsewhere.safetensors", "sha256": "0"})
    with pytest.raises(UserError, match="missing"):  # never a file of another folder
        load_card(card)
    for values, sentence in (({"format": 2}, "format 2"), ({"arguments": []}, "has no arguments")):
        card.write_text(good)
        change(card, **values)
        with pytest.raises(UserError, match=sentence):
            load_card(card)
    card.write_text("{")
    with pytest.raises(UserError, match="JSON"):
        load_card(card)


def test_weights_are_never_written_into_a_repository(trained: Path, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    one = read_run(trained / folder_of("both"))
    with pytest.raises(UserError, match="repository"):
        export(one, make_card(one, "tiny"), tmp_path / "deep" / "er")
    assert not (tmp_path / "deep").exists()


def test_a_skeleton_of_ones_own_comes_back(trained: Path, tmp_path: Path) -> None:
    one, coco = read_run(trained / folder_of("both")), get_skeleton("coco17")
    names = list(coco.joints)
    parts = dict(zip(("torso", "left_arm", "right_arm", "left_leg", "right_leg"),
                     ([names[j] for j in part] for part in coco.parts), strict=True))
    mirror = [[names[a], names[b]] for a, b in enumerate(coco.mirror) if a < b]
    own = {"name": "mine", "joints": names, "edges": [[names[a], names[b]] for a, b in coco.edges], "parts": parts,
           "mirror": mirror, "head": ["nose"], "hips": [names[j] for j in coco.hips],
           "shoulders": [names[j] for j in coco.shoulders]}
    data = one.settings.data_cfg.model_copy(update={"skeleton": own})
    mine = replace(one, settings=one.settings.model_copy(update={"data_cfg": data}))
    written = make_card(mine, "mine")
    export(mine, written, tmp_path)
    assert read_card(tmp_path / "mine.json")["skeleton"] == own
    assert embedded(trained, tmp_path / "mine.json").shape[0] == 12


def test_results_of_other_weights_are_refused(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained / folder_of("both"), tmp_path / "both")
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"weights": "00000000"}))
    with pytest.raises(UserError, match="test it again"):
        read_run(folder)
    for empty in (tmp_path / "absent", tmp_path / "both" / "checkpoints"):
        with pytest.raises(UserError, match="--runs"):
            find_runs([empty])


def test_a_cell_of_a_comparison_is_a_run_too(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "output", tmp_path / "cell" / "output")
    folder = tmp_path / "cell" / folder_of("both")
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").unlink()
    scores = {"whole": results, "short": results}
    (tmp_path / "cell" / "result.json").write_text(json.dumps({"model": "BPMT", "scores": scores}))
    found = {one.settings.model_cfg.model: one for one in find_runs([tmp_path / "cell"])}
    assert set(found["BPMT"].scores) == {"whole", "short"} and not found["BPMT_T1"].scores
    assert found["BPMT_T1"].checkpoint.name == "t1-best.pt", "what a test would take"
    assert make_card(found["BPMT"], "x")["versions"] == results["versions"]


def test_the_page_is_the_same_for_the_same_runs(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    line = ["--runs", str(trained / "output"), "--out", str(tmp_path / "zoo.md")]
    assert TOOL["main"]([*line, "--weights", str(tmp_path / "w")]) == 0
    first = (tmp_path / "zoo.md").read_text()
    assert TOOL["main"](line) == 0
    bare = (tmp_path / "zoo.md").read_text()
    assert bare == "".join(text for text in first.splitlines(True) if not text.startswith("* weights `"))
    card = read_card(tmp_path / "w" / "walkers-both-s0.json")
    assert card["command"] in first and card["weights"]["sha256"] in first and card["checkpoint"]["sha256"] in first
    rows = [text for text in first.splitlines() if text.startswith("| walkers")]
    assert len(rows) == 1 and f"| Rank-1 {card['scores']['walkers']['metrics']['Rank-1']:.1f}, " in rows[0]
    assert str(trained) not in first and str(tmp_path) not in first
    assert TOOL["main"]([*line, "--untested"]) == 0
    untested = [text for text in (tmp_path / "zoo.md").read_text().splitlines() if text.startswith("| walkers")]
    assert len(untested) == 3 and sum("not tested" in text for text in untested) == 2
    assert TOOL["main"](["--runs", str(tmp_path / "none")]) == 2 and "--runs" in capsys.readouterr().err
    below = str(tmp_path / "zoo.md" / "page.md")
    assert TOOL["main"](["--runs", str(trained), "--out", below]) == 2 and "zoo.md" in capsys.readouterr().err


def made(folder: Path, config: str, *opts: str) -> TrainedRun:
    return TrainedRun(folder, load_settings(config, opts, folder), folder / "x.pt", 1, {}, {})


@pytest.mark.parametrize("config, opts", [
    ("configs/bpmt/bpmt_g38.yaml", ["trainer_cfg.seed=3", "model_cfg.stages.t1=null", "trainer_cfg.clip_grad=null"]),
    ("configs/gaittr/gaittr_Gait3D.yaml", ["trainer_cfg.total_iter=7", "trainer_cfg.sampler.batch_size=[2, 2]"]),
    ("configs/bpmt/bpmt_g38.yaml", ["trainer_cfg.total_iter=20", "loss_cfg=[{type: TripletLoss, margin: 0.3}]"]),
    ("configs/gaitgraph2/gaitgraph2.yaml", []),
])
def test_the_command_makes_the_same_settings_again(tmp_path: Path, config: str, opts: list[str]) -> None:
    one = made(tmp_path, config, *opts)
    named, line = TOOL["command"](one)
    words = shlex.split(line)
    assert named == config == words[3] and words[:3] == ["bpmt", "train", "--cfgs"]
    assert len(words[5:]) == len(opts)
    assert load_settings(config, words[5:], tmp_path).resolved() == one.settings.resolved()


def test_a_key_that_follows_another_is_left_out_only_where_both_follow() -> None:
    own = {"trainer_cfg.total_iter": 5, "scheduler_cfg.total_steps": 5}
    assert TOOL["differences"](own, {"trainer_cfg.total_iter": 9, "scheduler_cfg.total_steps": 9}) == {
        "trainer_cfg.total_iter": 5}
    assert TOOL["differences"](own, {"trainer_cfg.total_iter": 5, "scheduler_cfg.total_steps": 9}) == {
        "scheduler_cfg.total_steps": 5}


def test_the_command_leaves_out_folders_and_knows_the_demo(tmp_path: Path) -> None:
    root = ["data_cfg.dataset_root=/x/y/walkers-4", "data_cfg.dataset_partition=/x/y/walkers-4.json"]
    _, line = TOOL["command"](made(tmp_path, "configs/bpmt/bpmt_g38.yaml", *root))
    assert "data_cfg.dataset_root=DATA/walkers-4" in line and "/x/y" not in line
    demo = [*root, "data_cfg.dataset_name=walkers-4", "trainer_cfg.seed=4"]
    assert TOOL["command"](made(tmp_path, "configs/bpmt/bpmt_demo.yaml", *demo))[1] == "bpmt demo --seed 4"
    longer = TOOL["command"](made(tmp_path, "configs/bpmt/bpmt_demo.yaml", *demo, "trainer_cfg.total_iter=9"))[1]
    assert longer.startswith("bpmt train") and "trainer_cfg.total_iter=9" in longer


def test_the_transform_of_a_card_is_that_of_the_test(trained: Path, card: Path) -> None:
    cfg = load_settings("both.yaml", [], trained).evaluator_cfg.transform
    pose = torch.randn(2, 6, 17, 3) * 30 + 100
    wanted = build_transform(cfg, get_skeleton("coco17")).reframe(pose, torch.ones(2, 6, dtype=torch.bool))
    _, transform = load_card(card)
    assert torch.equal(transform.reframe(pose, torch.ones(2, 6, dtype=torch.bool))[0], wanted[0])
