"""Whatever a user can get wrong in; exit status 2 and one sentence that says where and what to do, out."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from tiny import folder_of, run

from bpmt_ext.data.pickles import read_pickle, write_pickle


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "data"
    tiny.write_data(root, train=4, test=2, cameras=2)
    return root


@pytest.fixture
def here(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data that may be spoilt, and the configs."""
    shutil.copytree(data, tmp_path / "data")
    shutil.copy(data.with_suffix(".json"), tmp_path)
    tiny.write_configs(tmp_path, val_iter=0, total_iter=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture, status: int, *words: str, lines: int = 1) -> str:
    """The sentences for the user; there are as many as faults, and they say these words."""
    err = capsys.readouterr().err
    assert status == 2, err
    sentences = [line for line in err.splitlines() if line.startswith("bpmt: ")]
    assert len(sentences) == lines and "Traceback" not in err, err
    for word in words:
        assert word in "\n".join(sentences), (word, sentences)
    return sentences[0]


def partition(**lists: list[str]) -> None:
    path = Path("data.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | lists))


FIRST = Path("data/0000/camid0_videoid0/seq0/seq0.pkl")


class Hostile:
    def __reduce__(self) -> tuple:
        return Path("hostile").touch, ()


def spoilt(change: Callable[[np.ndarray], None]) -> None:
    pose = read_pickle(FIRST)
    change(pose)
    write_pickle(FIRST, pose)


DATA_FAULTS = {
    "no root": (lambda: shutil.rmtree("data"), ("data_cfg.dataset_root", "no folder", "converter")),
    "empty root": (lambda: (shutil.rmtree("data"), Path("data").mkdir()), ("data_cfg.dataset_root", "holds no")),
    "raw data": (lambda: (shutil.rmtree("data"), Path("data/0000").mkdir(parents=True),
                          Path("data/0000/a.txt").touch()), ("0001", "have no sequence")),
    "no partition": (lambda: Path("data.json").unlink(), ("data.json does not exist", "--partition")),
    "broken partition": (lambda: Path("data.json").write_text('{"TRAIN_SET": ['), ("data.json", "not a readable JSON")),
    "absent labels": (lambda: partition(TRAIN_SET=["0000", "0001", "nobody", "noone"]),
                      ("2 (nobody, noone)", "missing_labels: warn")),
    "absent probe": (lambda: partition(PROBE_SET=["0004-camid7_videoid0-seq0"]), ("0004-camid7", "PROBE_SET")),
    "one identity": (lambda: partition(TRAIN_SET=["0000"]), ("data_cfg.validation", "leaves no other")),
    "unreadable": (lambda: FIRST.write_bytes(b"not a pickle"), (str(FIRST), "not a pickle", "convert")),
    "truncated": (lambda: FIRST.write_bytes(FIRST.read_bytes()[:-40]), (str(FIRST), "truncated")),
    "empty": (lambda: FIRST.write_bytes(b""), (str(FIRST), "is empty", "convert")),
    "hostile": (lambda: FIRST.write_bytes(pickle.dumps(Hostile())), (str(FIRST), "refused")),
    "joints": (lambda: write_pickle(FIRST, np.ones((5, 18, 3), np.float32)), (str(FIRST), "18 joints, 17 expected")),
    "not a pose": (lambda: write_pickle(FIRST, np.ones((5, 17), np.float32)), (str(FIRST), "not a pose sequence")),
    "nan": (lambda: spoilt(lambda pose: pose.__setitem__((3, 0, 0), np.nan)), (str(FIRST), "frame 3", "not finite")),
    "channels differ": (lambda: write_pickle(FIRST, np.ones((5, 17, 2), np.float32)), (str(FIRST), "(17, 2)")),
    "channels too few for the transforms": (lambda: spoil_all((slice(None), slice(None), slice(0, 1))), ("channel",)),
    "no confidence": (lambda: (spoil_all((slice(None), slice(None), slice(0, 2))),
                               configure(streams=["joint", "confidence"])), ("has 2 channels, 3 needed", "streams")),
}


def configure(**model: object) -> None:
    path = Path("t1.yaml")
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"model_cfg": values["model_cfg"] | model}))


def spoil_all(part: tuple) -> None:
    for path in Path("data").rglob("*.pkl"):
        write_pickle(path, read_pickle(path)[part].copy())


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_faults_of_the_data(here: Path, capsys: pytest.CaptureFixture, fault: str) -> None:
    spoil, words = DATA_FAULTS[fault]
    spoil()
    told(capsys, run("t1"), *words)  # reads every training sequence for its statistics
    assert not Path("hostile").exists()


def test_faults_of_the_test_data(here: Path, capsys: pytest.CaptureFixture) -> None:
    file = "data/0005/camid1_videoid0/seq0/seq0.pkl"
    assert run("net") == 0
    Path(file).write_bytes(b"x")
    capsys.readouterr()
    told(capsys, run("net", "data_cfg.num_workers=1", phase="test"), file, "not a pickle")


OPTION_FAULTS = {
    "trainer_cfg.sampler.batch_size=[9,2]": ("trainer_cfg.sampler.batch_size", "9 labels", "has 3", "lower"),
    "trainer_cfg.sampler.batch_size=[2,0]": ("trainer_cfg.sampler.batch_size",),
    "trainer_cfg.sampler={type: CommonSampler, batch_size: 99}": ("99 sequences", "has 6", "lower"),
    "trainer_cfg.sampler.type=TripletSampla": ("TripletSampla", "did you mean TripletSampler"),
    "trainer_cfg.sampler.frames_num_fix=9": ("frames_num_fix", "did you mean frames_num_fixed"),
    "trainer_cfg.sed=1": ("trainer_cfg.sed", "did you mean seed"),
    "trainer_cfg.transform=[{type: RescaleCentre}]": ("RescaleCentre", "did you mean 'RescaleCenter'"),
    "trainer_cfg.transform=[{type: RescaleCenter, centre: neck}]": ("centre", "did you mean 'center'"),
    "trainer_cfg.transform=[{type: RescaleCenter, center: nekc}]": ("nekc",),
    "evaluator_cfg.transform=[{type: RescaleCentre}]": ("RescaleCentre", "did you mean 'RescaleCenter'"),
    "loss_cfg=[{type: TripletLos, margin: 0.3}]": ("loss_cfg.0.type", "did you mean TripletLoss"),
    "loss_cfg=[{type: TripletLoss, margn: 0.3}]": ("margn", "did you mean margin"),
    "loss_cfg=[{type: TripletLoss, margin: wide}]": ("loss_cfg.0", "margin", "'wide'"),
    "loss_cfg=[{type: CrossEntropyLoss, scale: null}]": ("loss_cfg.0", "scale"),
    "loss_cfg=[{type: TripletLoss, margin: 0.3}, {type: TripletLoss, margin: 0.1}]": ("loss_cfg.1", "log_prefix"),
    "loss_cfg=[]": ("loss_cfg", "TripletLoss"),
    "model_cfg.num_class=0": ("no logits", "CrossEntropyLoss", "num_class"),
    "model_cfg.num_class=2": ("model_cfg.num_class", "2 classes for 3 training identities"),
    "model_cfg.num_class=null": ("model_cfg.num_class",),
    "model_cfg.model=BPTM": ("BPTM", "did you mean BPMT"),
    "model_cfg.widht=3": ("widht", "did you mean width"),
    "model_cfg.width=15": ("model_cfg", "15"),
    "model_cfg.width=0": ("model_cfg", "BPMT refuses"),
    "model_cfg.heads=0": ("model_cfg", "BPMT refuses"),
    "model_cfg.layers=0": ("model_cfg", "BPMT refuses"),
    "model_cfg.width=-4": ("model_cfg", "BPMT refuses"),
    "model_cfg.head=parts": ("model_cfg", "'parts'"),
    "model_cfg.streams=joint": ("model_cfg", "streams"),
    "model_cfg.streams=[bone]": ("model_cfg", "streams"),
    "model_cfg.freeze_t1=maybe": ("model_cfg", "'maybe'"),
    "model_cfg.max_frames=0": ("model_cfg", "max_frames"),
    "model_cfg.dropout=1.5": ("model_cfg", "dropout"),
    "model_cfg.stages={t0: t1.yaml}": ("no stage 't0'", "did you mean"),
    "model_cfg.stages={t1: gone.yaml}": ("gone.yaml", "config of stage t1 is missing"),
    "model_cfg.stages={t1: gone.pt}": ("gone.pt", "checkpoint of stage t1 is missing"),
    "optimizer_cfg.solver=AdmW": ("AdmW", "did you mean AdamW"),
    "optimizer_cfg.lr=-1.0": ("optimizer_cfg", "AdamW refuses"),
    "optimizer_cfg.solver=LBFGS": ("optimizer_cfg", "LBFGS", "closure"),
    "scheduler_cfg.scheduler=OneCycle": ("OneCycle", "did you mean OneCycleLR"),
    "scheduler_cfg.pct_start=3.0": ("scheduler_cfg", "OneCycleLR refuses"),
    "scheduler_cfg={scheduler: ReduceLROnPlateau, max_lr: null}": ("ReduceLROnPlateau", "metrics"),
    "evaluator_cfg.eval_func=evaluate_retreival": ("evaluate_retreival", "did you mean evaluate_retrieval"),
    "data_cfg.joint_format=coco71": ("coco71", "did you mean"),
    "data_cfg.joint_format=penn13": ("17 joints, 13 expected",),
    "data_cfg.validation=0.99": ("data_cfg.validation", "leaves no other"),
    "data_cfg.frame_threshold=500": ("no sequence of TRAIN_SET", "frame_threshold"),
    "data_cfg.min_cameras=9": ("min_cameras 9", "lower"),
    "trainer_cfg.restore_hint=4": ("net-00004.pt", "no such checkpoint"),
    "trainer_cfg.restore_hint=gone.pt": ("gone.pt", "no such checkpoint"),
    "trainer_cfg.precision=fp8": ("trainer_cfg.precision", "fp8"),
}


@pytest.mark.parametrize("option", OPTION_FAULTS)
def test_faults_of_the_config(here: Path, capsys: pytest.CaptureFixture, option: str) -> None:
    told(capsys, run("net", option), *OPTION_FAULTS[option])
    assert not list(Path().rglob("*.pt"))


def test_a_late_fault_costs_no_stage(here: Path, capsys: pytest.CaptureFixture) -> None:
    for option in ("trainer_cfg.sampler.batch_size=[9,2]", "optimizer_cfg.lr=-1.0", "model_cfg.stages={t2: gone.pt}",
                   "loss_cfg=[]", "evaluator_cfg.eval_func=evaluate_nothing"):
        told(capsys, run("both", option))
        assert not list(Path().rglob("*.pt"))


def test_one_training_identity(here: Path, capsys: pytest.CaptureFixture) -> None:
    partition(TRAIN_SET=["0000"])
    told(capsys, run("net", "data_cfg.validation=0.0"), "data.json", "1 training identity", "at least 2")


def test_no_valid_probe(here: Path, capsys: pytest.CaptureFixture) -> None:
    """Told before anything is trained."""
    options = ("trainer_cfg.with_test=true", "evaluator_cfg.same_camera=drop", "evaluator_cfg.camera=view")
    told(capsys, run("net", *options), "none of 2 probes has a match", "camera")
    assert not list(Path().rglob("*.pt"))
    told(capsys, run("net", "trainer_cfg.val_iter=1", "data_cfg.min_cameras=1", *single_sequences()),
         "validation split", "data_cfg.validation")


def single_sequences() -> tuple[str, ...]:
    for label in ("0000", "0001", "0002", "0003"):
        shutil.rmtree(f"data/{label}/camid1_videoid0")
    return ()


def test_two_faults_are_two_lines(here: Path, capsys: pytest.CaptureFixture) -> None:
    told(capsys, run("net", "trainer_cfg.sed=1", "data_cfg.cach=true"), "sed", "cach", lines=2)


@pytest.mark.parametrize("name", ["t1", "net"])
def test_sequences_of_one_frame_work(here: Path, name: str) -> None:
    spoil_all((slice(0, 1),))
    assert run(name) == 0
    if name == "net":
        assert run(name, phase="test") == 0


def test_checkpoints_of_others(here: Path, capsys: pytest.CaptureFixture) -> None:
    told(capsys, run("net", phase="test"), "no checkpoint of net here", "train first")
    assert run("net") == 0
    capsys.readouterr()
    told(capsys, run("net", "model_cfg.embedding_width=4", phase="test"), "net-00002.pt", "another architecture")
    told(capsys, run("net", "model_cfg.layers=2", phase="test"), "net-00002.pt", "another architecture", "missing")
    told(capsys, run("net", phase="test", more=("--iter", "7")), "net-00007.pt", "no such checkpoint")
    told(capsys, run("net", "model_cfg.width=8"), "net-00002.pt", "another architecture")
    told(capsys, run("net", "trainer_cfg.total_iter=4"), "net-00002.pt", "training of 2 iterations", "save_name")
    told(capsys, run("net", "trainer_cfg.total_iter=1"), "net-00002.pt", "training of 2 iterations", "save_name")
    solver = "optimizer_cfg={solver: SGD, momentum: 0.9}"
    told(capsys, run("net", solver), "net-00002.pt", "optimizer_reset")
    schedule = "scheduler_cfg={scheduler: MultiStepLR, milestones: [1], max_lr: null}"
    told(capsys, run("net", schedule), "net-00002.pt", "scheduler_reset")
    file = folder_of("net") / "checkpoints/net-00002.pt"
    state = torch.load(file, weights_only=True)
    for spoil, words in (
        (lambda: file.write_bytes(file.read_bytes()[:500]), ("not a readable checkpoint",)),
        (lambda: file.write_bytes(b""), ("not a readable checkpoint",)),
        (lambda: torch.save({"model": Hostile()}, file), ("not a readable checkpoint",)),
        (lambda: torch.save([1, 2], file), ("not a checkpoint",)),
        (lambda: torch.save({"model": {"t1.embedding.weight": 3}}, file), ("not a checkpoint",)),
    ):
        spoil()
        told(capsys, run("net", phase="test"), str(file), *words)
        told(capsys, run("net"), str(file), *words)
    assert not Path("hostile").exists()
    for wrong in ({"optimizer": None}, {"optimizer": {"state": {}, "param_groups": []}}, {"scheduler": {"last": 3}},
                  {"engine": 3}, {"engine": {"best": 3}}):
        torch.save(state | wrong, file)
        told(capsys, run("net", "trainer_cfg.total_iter=2"), str(file))


def test_a_stage_of_another_shape(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("t1") == 0
    capsys.readouterr()
    file = folder_of("t1") / "checkpoints/t1-00002.pt"
    options = (f"model_cfg.stages={{t1: {file}}}",)
    told(capsys, run("net", *options, "model_cfg.width=8"), str(file), "model_cfg must agree")
    told(capsys, run("net", *options, "model_cfg.layers=2"), str(file), "model_cfg must agree", "missing")
    told(capsys, run("net", *options, "model_cfg.streams=[joint,bone]"), str(file), "model_cfg must agree")


def test_an_output_folder_that_cannot_be_written(here: Path, capsys: pytest.CaptureFixture) -> None:
    Path("output").write_text("a file")
    told(capsys, run("net"), "output")


def test_a_world_that_is_none(here: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    told(capsys, run("net"), "WORLD_SIZE", "torchrun")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    told(capsys, run("net"), "2 processes", "torchrun")
