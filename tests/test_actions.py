"""A made-up set of actions in; checked, trained in stages, tested, compared and fused by the command line out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import walking

from bpmt_ext.cli import host_main, main
from bpmt_ext.config import load_settings
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.data.samplers import build_sampler
from bpmt_ext.data.sequences import Record, SequenceSet
from bpmt_ext.engine.actions import check_classes
from bpmt_ext.engine.fuse import fuse, read_predictions
from bpmt_ext.engine.progress import Best
from bpmt_ext.engine.stages import load_data
from bpmt_ext.engine.testing import save_arrays
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.classification import METRICS, classify
from bpmt_ext.nets.bpmt_action import BPMTAction
from bpmt_ext.nets.masked import BPMT_T1, BPMT_T2
from bpmt_ext.skeletons import get_skeleton

NTU = get_skeleton("ntu25")
SMALL = {"width": 16, "heads": 2, "layers": 1, "feedforward": 32, "max_frames": 8}
CLASSES = ("bow", "jump", "never_seen", "wave")


def write_actions(root: Path, *, joints: int = 25, subjects: int = 6, per_subject: int = 2) -> Path:
    """<root>/<class>/<s.._e..>/<v..>/p.pkl of three classes that differ in the joints that move and how fast."""
    places: dict[str, list[str]] = {"TRAIN": [], "VAL": [], "TEST": []}
    for k, label in enumerate(c for c in CLASSES if c != "never_seen"):
        for subject in range(subjects):
            pose = walking(per_subject, 18, joints, 3, seed=subject).numpy() * 0.1
            time = np.arange(18)[None, :, None, None]
            pose[:, :, 4 * k : 4 * k + 4] += np.sin(time * (0.4 + 0.3 * k) + subject)
            for e in range(per_subject):
                place = f"{label}/s{subject:02d}_e{e:02d}/v01"
                (root / place).mkdir(parents=True)
                write_pickle(root / place / "p.pkl", pose[e, : 9 + 3 * e].astype(np.float32))
                side = "TEST" if subject == 0 else "VAL" if subject == 1 else "TRAIN"
                places[side].append(place)
    (root / "partition.json").write_text(json.dumps({"CLASSES": list(CLASSES), **places}))
    return root


def write_configs(folder: Path, bodies: int = 1) -> None:
    centre = {"type": "CenterOn", "center": "spine_mid", "frames": "first"}
    shared: dict[str, Any] = {
        "data_cfg": {"dataset_name": "made-up", "dataset_root": "data", "dataset_partition": "data/partition.json",
                     "joint_format": "ntu25", "num_workers": 0},
        "evaluator_cfg": {"eval_func": "evaluate_actions", "restore_hint": "best",
                          "transform": [centre, {"type": "CenterCrop", "frames": 8, "ratio": 1.0}],
                          "sampler": {"type": "InferenceSampler", "sample_type": "all_ordered", "batch_size": 5}},
        "loss_cfg": [{"type": "CrossEntropyLoss", "log_prefix": "softmax", "scale": 4, "label_smooth": False,
                      "log_accuracy": True}],
        "optimizer_cfg": {"solver": "AdamW", "lr": 0.003, "weight_decay": 0.0},
        "scheduler_cfg": {"scheduler": "WarmupCosineLR"},
        "trainer_cfg": {"total_iter": 6, "log_iter": 2, "val_iter": 3, "save_iter": 6, "restore_hint": "auto",
                        "sampler": {"type": "CommonSampler", "sample_type": "all_ordered", "batch_size": 8},
                        "transform": [centre, {"type": "TemporalCrop", "frames": 8}, {"type": "Rotate3D"},
                                      {"type": "DropJoints", "unit": "part", "share": 0.2}]},
        "model_cfg": {**SMALL, "bodies": bodies},
    }  # fmt: skip
    (folder / "base.yaml").write_text(yaml.safe_dump(shared))
    models = {
        "b1": {"model": "BPMT_T1"}, "b2": {"model": "BPMT_T2", "stages": {"t1": "b1.yaml"}},
        "bpmt": {"model": "BPMTAction", "stages": {"t1": "b1.yaml", "t2": "b2.yaml"}},
        "l1": {"model": "TLCA_T1"}, "tlca": {"model": "TLCA", "stages": {"t1": "l1.yaml"}},
    }  # fmt: skip
    for name, model in models.items():
        test = {"with_test": True} if name in ("bpmt", "tlca") else {}
        own = {"base": "base.yaml", "model_cfg": model, "trainer_cfg": {"save_name": name, **test}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))


def train(name: str, *opts: str, phase: str = "train") -> int:
    return host_main(["--cfgs", f"{name}.yaml", "--phase", phase, *(["--opts", *opts] if opts else [])])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_actions(tmp_path / "data")
    write_configs(tmp_path)
    return tmp_path


def test_train_test_and_fuse(here: Path, capsys: pytest.CaptureFixture) -> None:
    more = ["trainer_cfg.total_iter=60", "trainer_cfg.val_iter=20"]
    assert train("bpmt", *more) == 0 and train("tlca", *more) == 0
    folders = [here / "output/made-up/BPMTAction/bpmt", here / "output/made-up/TLCA/tlca"]
    for folder in folders:
        results = json.loads((folder / "results.json").read_text())
        found = read_predictions(folder)
        assert tuple(results["metrics"]) == METRICS and results["probes"] == {"total": 6, "valid": 6}
        assert results["metrics"] == classify(found.scores, found.labels, list(CLASSES))["metrics"]
        assert results["metrics"]["top1"] > 60, "it learns nothing"
        assert set(results["per_class"]) == set(CLASSES) and results["per_class"]["bow"]["sequences"] == 2
        (other,) = results["other_checkpoint"].items()
        assert {results["checkpoint"], other[0]} == {"best", "last"} and tuple(other[1]["metrics"]) == METRICS
        assert np.allclose(found.scores.sum(1), 1) and found.names[0] == "bow-s00_e00-v01"
        assert (folder / "confusion.png").is_file() and "never_seen" in (folder / "confusion.csv").read_text()
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        validated = [row for row in rows if row["split"] == "validation"]
        assert [row["iteration"] for row in validated] == [20, 40, 60] and {*METRICS} <= validated[0].keys()
    assert "at iteration 60" in (said := capsys.readouterr().err) and "macro_f1" in said and "precision" in said
    assert main(["fuse", *map(str, folders), "--weights", "1", "3", "--out", "fused"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("fused") and json.loads(said[-1])["weights"] == [1, 3]
    first, second = map(read_predictions, folders)
    assert np.allclose(read_predictions(here / "fused").scores, (first.scores + 3 * second.scores) / 4, atol=1e-6)


def test_the_test_never_selects(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training reads no pose of a test sequence, and the best checkpoint follows from validation alone."""
    read: set[str] = set()
    whole = SequenceSet.read
    monkeypatch.setattr(SequenceSet, "read", lambda self, i: read.add(self.names[i]) or whole(self, i))
    assert train("tlca", "model_cfg.stages.t1=null", "trainer_cfg.with_test=false") == 0
    assert read and not any("-s00_" in name for name in read) and any("-s01_" in name for name in read)
    best = Best("top1")
    assert best.improved({"top1": 50.0, "top5": 100.0}, 1) and not best.improved({"top1": 50.0, "top5": 90.0}, 2)
    assert best.improved({"top1": 50.1}, 3) and best.state()["iteration"] == 3 and best.show()


def test_two_bodies(here: Path) -> None:
    """Three stages on poses of 50 joints; the order of the bodies does not matter to the classes."""
    write_actions(here / "both", joints=50)
    write_configs(here, bodies=2)
    both = ["data_cfg.dataset_root=both", "data_cfg.dataset_partition=both/partition.json"]
    assert train("bpmt", *both) == 0
    net = BPMTAction(skeleton=NTU, num_class=4, bodies=2, **SMALL).eval()
    pose, mask = walking(3, 8, 50, 3), torch.ones(3, 8, dtype=torch.bool)
    swapped = torch.cat([pose[:, :, 25:], pose[:, :, :25]], 2)
    assert torch.allclose(net(pose, mask)["logits"], net(swapped, mask)["logits"], atol=1e-6)
    one = BPMTAction(skeleton=NTU, num_class=4, **SMALL).eval()
    one.load_state_dict(net.state_dict())
    mean = (one(pose[:, :, :25], mask)["logits"] + one(pose[:, :, 25:], mask)["logits"]) / 2
    assert torch.allclose(net(pose, mask)["logits"], mean, atol=1e-6)


@pytest.mark.parametrize("head", ["linear", "mlp", "part"])
@pytest.mark.parametrize("bodies", [1, 2])
def test_network(head: str, bodies: int) -> None:
    """Shapes, a gradient everywhere, T1 and T2 of BPMT's own names, padding and batch mates without effect."""
    net = BPMTAction(skeleton=NTU, num_class=7, bodies=bodies, head=head, pool="mean_max", **SMALL)
    pose, mask = walking(3, 11, 25 * bodies, 3), torch.arange(11) < torch.tensor([11, 6, 1])[:, None]
    out = net(pose, mask)
    assert out["logits"].shape == (3, 7, 5 if head == "part" else 1)
    assert out["embedding"].shape == ((3, 32, 5) if head == "part" else (3, 160, 1))
    torch.nn.functional.cross_entropy(out["logits"].mean(2), torch.tensor([0, 3, 6])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    net.eval()
    whole = net(pose, mask)["logits"]
    for i, length in enumerate((11, 6, 1)):
        alone = net(pose[i : i + 1, :length], mask[i : i + 1, :length])["logits"]
        assert torch.allclose(alone[0], whole[i], atol=1e-5)
    stage = BPMT_T2(skeleton=NTU, bodies=bodies, **SMALL)
    shared = {key: value.shape for key, value in stage.state_dict().items() if key.startswith(("t1.", "t2."))}
    own = {key: value.shape for key, value in net.state_dict().items() if key.startswith(("t1.", "t2."))}
    assert shared == own
    with pytest.raises(ValueError, match="head must be linear"):
        BPMTAction(skeleton=NTU, head="concat")


def test_bodies_are_hidden_apart_and_scored_together() -> None:
    """Stage 1 of two bodies: its loss is the mean of both bodies' own where their holes are equal in number."""
    net = BPMT_T1(skeleton=NTU, bodies=2, mask="none", **SMALL).eval()
    one = BPMT_T1(skeleton=NTU, mask="none", **SMALL).eval()
    one.load_state_dict(net.state_dict())
    pose, mask, key = walking(2, 8, 50, 3), torch.ones(2, 8, dtype=torch.bool), torch.arange(2)
    both = net(pose, mask, key)["losses"]["torso"]
    apart = [one(part, mask, key)["losses"]["torso"] for part in (pose[:, :, :25], pose[:, :, 25:])]
    assert torch.allclose(both, sum(apart) / 2)
    assert net.embed(pose, mask).shape == (2, 16, 5)
    net.fit(pose, mask)
    assert bool(net.t1.streams.fitted)


def test_check_data_counts_classes(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check-data", "--cfgs", "tlca.yaml"]) == 0
    said = capsys.readouterr().out
    assert "evaluate_actions: 6 sequences to recognise" in said and "without training sequences: never_seen" in said
    assert [line.split() for line in said.splitlines() if line.startswith("bow ")] == [["bow", "8", "2", "2"]]


def test_compare(here: Path, capsys: pytest.CaptureFixture) -> None:
    """Two methods on one split: top1, top5 and macro_f1 in the table, paired by subject; predictions to be fused."""
    out = ["--out", "compared", "--iterations", "4"]
    assert main(["compare", "--cfgs", "tlca.yaml@scratch", "bpmt.yaml@scratch", *out, "--format", "text"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0].split()[:4] == ["method", "top1", "top5", "macro_f1"]
    results = json.loads((here / "compared/results.json").read_text())
    assert {cell["label"] for cell in results["cells"]} == {"tlca@scratch", "bpmt@scratch"}
    assert (here / "compared/tradeoff.png").is_file()
    files = sorted(here.glob("compared/cells/*/*/predictions-made-up.npz"))
    assert len(files) == 2 and main(["fuse", *map(str, files)]) == 0
    assert main(["compare", "--cfgs", "tlca.yaml@scratch", *out, "--yardsticks", "cadence"]) == 2
    assert "cadence: it measures poses and these data are actions" in capsys.readouterr().err


def test_a_yardstick_stands_beside_the_methods(here: Path, capsys: pytest.CaptureFixture) -> None:
    out = ["--out", "compared", "--iterations", "1", "--format", "text"]
    assert main(["compare", "--cfgs", "tlca.yaml@scratch", "--yardsticks", *out]) == 0
    assert "yardstick: nearest clip" in capsys.readouterr().out
    results = json.loads((here / "compared/results.json").read_text())
    (cell,) = (one for one in results["cells"] if one["model"] is None)
    assert set(cell["scores"]["made-up"]["metrics"]) == set(METRICS) and cell["seed"] is None
    assert cell["scores"]["made-up"]["metrics"]["top5"] == 100 and cell["scores"]["made-up"]["probes"]["valid"] == 6
    kept = [sorted(np.load(file)["name"]) for file in here.glob("compared/cells/*/*/per_probe-made-up.npz")]
    assert len(kept) == 2 and kept[0] == kept[1], "what a paired difference needs"


def refused(here: Path, capsys: pytest.CaptureFixture, lists: dict[str, Sequence[str]], *opts: str) -> str:
    (here / "data/partition.json").write_text(json.dumps(lists))
    assert train("tlca", "model_cfg.stages.t1=null", *opts) == 2
    return capsys.readouterr().err


def test_bad_partitions_are_refused(here: Path, capsys: pytest.CaptureFixture) -> None:
    lists = json.loads((here / "data/partition.json").read_text())
    assert "its test list has no sequence" in refused(here, capsys, {**lists, "TEST": []})
    bows = [place for place in lists["TRAIN"] if place.startswith("bow/")]
    assert "1 class has training sequences" in refused(here, capsys, {**lists, "TRAIN": bows})
    strange = refused(here, capsys, {"TRAIN_SET": ["bow", "jump"], "TEST_SET": ["wave"]})
    assert "the classes of test are not those of the training" in strange and "CLASSES, TRAIN, TEST" in strange
    waves = [place for place in lists["TRAIN"] if place.startswith("wave/")]
    alone = {**lists, "TEST": waves, "TRAIN": [place for place in lists["TRAIN"] if place not in waves]}
    assert "the classes of test are not" in refused(here, capsys, {**alone, "VAL": []})
    assert "did you mean evaluate_actions" in refused(here, capsys, lists, "evaluator_cfg.eval_func=evaluate_action")


def test_classes_of_a_checkpoint_must_be_those_of_the_data(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert train("tlca", "model_cfg.stages.t1=null") == 0
    lists = json.loads((here / "data/partition.json").read_text())
    lists["CLASSES"] += ["zigzag"]
    (here / "data/partition.json").write_text(json.dumps(lists))
    assert train("tlca", "model_cfg.stages.t1=null", phase="test") == 2
    assert "tells 4 classes apart, the data has 5" in capsys.readouterr().err


def test_validation_holds_out_subjects(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    lists = json.loads((here / "data/partition.json").read_text())
    lists["TRAIN"] += lists.pop("VAL")
    (here / "data/partition.json").write_text(json.dumps(lists))
    splits = load_data(load_settings("tlca.yaml", ["data_cfg.validation=0.3"], here))
    people = [{kind[:3] for kind in side.types} for side in (splits.train, splits.val)]
    assert len(people[1]) == 2 and not people[0] & people[1] and splits.val.label_set == CLASSES
    settings = load_settings("tlca.yaml", (), here)
    check_classes(settings, splits)
    some = SequenceSet([r for r in splits.train.records if r.label != "bow"], CLASSES, splits.train.reader)
    with caplog.at_level("WARNING"):
        check_classes(settings, replace(splits, train=some))
    assert "bow of test cannot be learned" in caplog.text


def test_samplers_pass_over_empty_classes() -> None:
    records = [Record(label, str(k), "v", ()) for label in ("a", "c") for k in range(3)]
    sequences = SequenceSet(records, ("a", "b", "c", "d"))
    for cfg in ({"type": "TripletSampler", "batch_size": [2, 2]}, {"type": "CommonSampler", "batch_size": 4},
                {"type": "RandomTripletSampler", "batch_size": 4}):  # fmt: skip
        drawn = np.concatenate([build_sampler(sequences, cfg, 0).at(i) for i in range(20)])
        assert set(sequences.labels[drawn]) == {0, 2}
    with pytest.raises(UserError, match="has 2"):
        build_sampler(sequences, {"type": "TripletSampler", "batch_size": [3, 2]}, 0)


def saved(path: Path, **changes: Any) -> Path:
    arrays = {"scores": np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]), "labels": np.array([0, 1, 0]),
              "names": np.array(["a-1-v", "b-1-v", "a-2-v"]), "classes": np.array(["a", "b"])}  # fmt: skip
    save_arrays(path, {**arrays, **changes})
    return path


def test_fusion_goes_by_the_names(tmp_path: Path) -> None:
    one = saved(tmp_path / "one.npz")
    order = [2, 0, 1]
    names, labels = np.array(["a-1-v", "b-1-v", "a-2-v"])[order], np.array([0, 1, 0])[order]
    other = np.array([[1.0, 0], [0, 1], [1, 0]])[order]
    two = saved(tmp_path / "two.npz", names=names, labels=labels, scores=other)
    found = fuse([one, two])
    assert np.allclose(found.scores, [[0.95, 0.05], [0.1, 0.9], [0.7, 0.3]])
    assert np.allclose(fuse([one, two], [1, 0]).scores, read_predictions(one).scores)


def test_what_cannot_be_fused_is_refused(tmp_path: Path) -> None:
    one = saved(tmp_path / "one.npz")
    for change, told in (
        ({"classes": np.array(["a", "c"])}, "other classes"), ({"labels": np.array([1, 1, 0])}, "calls some sequences"),
        ({"names": np.array(["a-1-v", "b-1-v", "a-3-v"])}, "2 sequences"), ({"labels": np.array([0, 1, 2])}, "not fit"),
        ({"scores": np.full((3, 2), np.nan)}, "do not fit"), ({"names": np.array(["a", "a", "b"])}, "do not fit"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=told):
            fuse([one, saved(tmp_path / "two.npz", **change)])
    for weights in ([1.0], [0.0, 0.0], [-1.0, 2.0]):
        with pytest.raises(UserError, match="--weights"):
            fuse([one, one], weights)
    with pytest.raises(UserError, match="there are no predictions"):
        fuse([tmp_path])
