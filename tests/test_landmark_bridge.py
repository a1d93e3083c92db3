"""Silhouettes and a landmark network in, verdicts on the poses of its landmarks, and on BPMT trained on them, out."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from bpmt_ext.cli import host_main, main
from bpmt_ext.config import configs_folder, load_settings
from bpmt_ext.data.pickles import read_pickle, read_pose
from bpmt_ext.engine.landmarks import canonical_order, to_pixels
from bpmt_ext.nets.landmarkgait import LandmarkNet
from bpmt_ext.skeletons import get_skeleton
from bpmt_ext.synthetic_silhouettes import write_silhouettes

TINY = [4, 4, 8]  # channels
CUT = [{"type": "BaseSilCuttingTransform"}]
LANDMARKS = {
    "data_cfg": {
        "dataset_name": "made-up", "dataset_root": "silhouettes", "dataset_partition": "silhouettes/partition.json",
        "modality": "silhouette", "num_workers": 0, "validation": 0.34,
    },
    "evaluator_cfg": {
        "eval_func": "evaluate_retrieval", "transform": CUT, "restore_hint": "last",
        # a test may be told to read parts of a sequence: the landmarks are of all of it
        "sampler": {"type": "InferenceSampler", "sample_type": "fixed_ordered", "frames_num_fixed": 3, "batch_size": 4},
    },
    "model_cfg": {"model": "LandmarkNet", "channels": TINY},
    "optimizer_cfg": {"solver": "Adam", "lr": 0.001},
    "scheduler_cfg": {"scheduler": "ConstantLR", "factor": 1.0},
    "trainer_cfg": {
        "save_name": "landmarks", "total_iter": 3, "save_iter": 2, "log_iter": 1, "transform": CUT,
        "sampler": {"type": "TripletSampler", "batch_size": [2, 2], "sample_type": "fixed_ordered",
                    "frames_num_fixed": 6},
    },
}  # fmt: skip
FORMAT = get_skeleton("landmark25")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with silhouettes of five people, a config, and a landmark network trained for three steps."""
    folder = tmp_path_factory.mktemp("bridge")
    write_silhouettes(folder / "silhouettes", train=3, test=2, cameras=2, sequences={"nm": 1, "cl": 1}, seed=0,
                      frames=(5, 9))  # fmt: skip
    (folder / "landmarks.yaml").write_text(yaml.safe_dump(LANDMARKS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert host_main(["--cfgs", "landmarks.yaml"]) == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working directory."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def network(folder: Path, which: str = "00003") -> LandmarkNet:
    net = LandmarkNet(channels=TINY).eval()
    path = folder / f"output/made-up/LandmarkNet/landmarks/checkpoints/landmarks-{which}.pt"
    net.load_state_dict(torch.load(path, weights_only=True)["model"])
    return net


def located(net: LandmarkNet, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Places (t, k, 2) from -1 to 1 and confidences (t, k) of one file, by itself."""
    frames = torch.from_numpy(read_pickle(path))[None, :, :, 10:-10].float() / 255
    places, sharp = net.located(frames, torch.ones(frames.shape[:2], dtype=torch.bool))
    return places[0].detach().numpy(), sharp[0].detach().numpy()


def test_every_sequence_becomes_a_pose_in_an_order_of_the_training_set(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["landmarks", "--cfgs", "landmarks.yaml", "--output", "poses"]) == 0
    assert "hardly left the middle" not in capsys.readouterr().err, "they start in different places"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bpmt_ext.engine.landmarks.mean_places", lambda made: ([0.0] * 25, [0.01] * 25))
        assert main(["landmarks", "--cfgs", "landmarks.yaml", "--output", "collapsed"]) == 0
    assert "hardly left the middle" in capsys.readouterr().err
    files = {path.relative_to("silhouettes") for path in Path("silhouettes").rglob("*.pkl")}
    assert {path.relative_to("poses") for path in Path("poses").rglob("*.pkl")} == files and len(files) == 5 * 2 * 2
    assert Path("poses/partition.json").read_text() == Path("silhouettes/partition.json").read_text()
    net, found = network(here), {}
    for file in files:
        found[file] = located(net, Path("silhouettes", file))
    # the means over the training people without those held out for validation, frame by frame
    held = load_settings("landmarks.yaml", root=here).data_cfg
    order = np.random.default_rng(held.validation_seed).permutation(3)
    training = {f"{k:04d}" for k in order[1:]}
    frames = np.concatenate([places for file, (places, _) in found.items() if file.parts[0] in training])
    expected = canonical_order(*frames.astype(np.float64).mean(0).T.tolist())
    assert json.loads(Path("poses/landmarks.json").read_text())["order"] == expected
    for file, (places, sharp) in found.items():
        pose = read_pose(Path("poses", file), 25)
        assert pose.dtype == np.float32 and pose.shape == (len(places), 25, 3)
        for name, column in (("x", 0), ("y", 1)):
            cells = {"x": 11, "y": 16}[name]
            middles = 4 * np.arange(cells) + 1.5  # of the pixels of each cell of the heatmap
            wanted = np.interp(places[:, expected, column], np.linspace(-1, 1, cells), middles)
            np.testing.assert_allclose(pose[..., column], wanted, atol=1e-3)
        np.testing.assert_allclose(pose[..., 2], sharp[:, expected], atol=1e-5)
        assert (pose[..., 2] > 0).all() and (pose[..., 2] <= 1).all()


def test_an_earlier_checkpoint_may_be_named(here: Path) -> None:
    assert main(["landmarks", "--cfgs", "landmarks.yaml", "--iter", "2", "--output", "poses"]) == 0
    order = json.loads(Path("poses/landmarks.json").read_text())["order"]
    file = next(Path("silhouettes").rglob("*.pkl"))
    places = torch.from_numpy(located(network(here, "00002"), file)[0])[:, order]
    pose = read_pose(Path("poses", file.relative_to("silhouettes")))
    np.testing.assert_allclose(pose[..., :2], to_pixels(places), atol=1e-4)


def test_bpmt_trains_on_them_by_its_config(here: Path) -> None:
    """All three stages and the test, on silhouettes alone; only the sizes are tiny."""
    assert main(["landmarks", "--cfgs", "landmarks.yaml", "--output", "data/PsyMo/landmarks"]) == 0
    tiny = ["model_cfg.width=8", "trainer_cfg.total_iter=2", "trainer_cfg.sampler.batch_size=[2,2]",
            "trainer_cfg.sampler.frames_num_fixed=5", "trainer_cfg.save_iter=2"]  # fmt: skip
    opts = [f"{stage}{text}" for stage in ("", "t1.", "t2.") for text in tiny]
    opts += ["evaluator_cfg.eval_func=evaluate_retrieval", "data_cfg.num_workers=0"]
    config = configs_folder() / "bpmt/bpmt_landmarks.yaml"
    assert host_main(["--cfgs", str(config), "--opts", *opts]) == 0
    results = json.loads((here / "output/PsyMo/BPMT/bpmt_landmarks/results.json").read_text())
    assert results["probes"]["valid"] == 8 and 0 <= results["metrics"]["Rank-1"] <= 100


@pytest.mark.parametrize(("opts", "out", "words"), [
    (["model_cfg.landmarks=20"], "poses", "another architecture"),
    ([], "silhouettes/poses", "lies within the silhouettes"),
    ([], ".", "lies within the silhouettes"),
    (["evaluator_cfg.save_name=other"], "poses", "no checkpoint of other here; train first"),
    (["data_cfg.modality=pose"], "poses", "not a pose sequence|silhouettes, the data are poses"),
])  # fmt: skip
def test_what_cannot_be_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture, opts: list[str], out: str, words: str
) -> None:
    line = ["landmarks", "--cfgs", "landmarks.yaml", "--output", out, *(["--opts", *opts] if opts else [])]
    assert main(line) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("bpmt: ")
    assert re.search(words, said), said
    assert not list(Path(".").glob("poses/**/*.pkl")) and not Path("silhouettes/poses").exists()


def test_another_number_of_landmarks_and_another_network_are_named(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    line = ["model_cfg.landmarks=20", "trainer_cfg.save_name=few", "evaluator_cfg.save_name=few"]
    assert host_main(["--cfgs", "landmarks.yaml", "--opts", *line]) == 0
    assert main(["landmarks", "--cfgs", "landmarks.yaml", "--output", "poses", "--opts", *line]) == 2
    assert "has 20 landmarks, there is a joint format for 25; train one with 25" in capsys.readouterr().err
    assert main(["landmarks", "--cfgs", "landmarks.yaml", "--output", "poses"]) == 0
    tiny = ["trainer_cfg.total_iter=1", "trainer_cfg.sampler.batch_size=[2,2]", "data_cfg.dataset_root=poses",
            "data_cfg.dataset_partition=poses/partition.json", "evaluator_cfg.eval_func=evaluate_retrieval",
            "trainer_cfg.sampler.frames_num_fixed=5"]  # fmt: skip
    config = ["--cfgs", str(configs_folder() / "bpmt/bpmt_landmarks_t1.yaml"), "--opts", *tiny]
    assert host_main(config) == 0
    assert main(["landmarks", *config, "--output", "again"]) == 2
    assert "BPMT_T1 finds no landmarks" in capsys.readouterr().err


def test_the_order_is_that_of_the_format() -> None:
    """Places with room between the groups, shuffled: every landmark gets the name of where it is."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.permutation(25) * 1.0, rng.permutation(25) * 1.0
        order = canonical_order(x.tolist(), y.tolist())
        assert sorted(order) == list(range(25))
        places = {name: (x[k], y[k]) for name, k in zip(FORMAT.joints, order, strict=True)}
        groups = {}
        for name in FORMAT.joints:
            groups.setdefault(name.rpartition("_")[0], []).append(places[name])
        assert [len(groups[name]) for name in ("head", "upper", "lower")] == [2, 4, 1]
        for group in groups.values():
            assert group == sorted(group, key=lambda place: place[1])

        def rows(*names: str, groups: dict = groups) -> list[float]:
            return [place[1] for name in names for place in groups[name]]

        upper, lower = ("left_upper", "upper", "right_upper"), ("left_lower", "lower", "right_lower")
        assert max(rows("head")) < min(rows(*upper)) and max(rows(*upper)) < min(rows(*lower))
        for names in (upper, lower):
            left, middle, right = ([place[0] for place in groups[name]] for name in names)
            assert max(left) < min(middle) and max(middle) < min(right)


def test_equal_places_keep_the_networks_order() -> None:
    assert canonical_order([0.0] * 25, [0.0] * 25)[:2] == [0, 1]
    assert canonical_order([0.0] * 25, [0.0] * 25) == canonical_order([1.0] * 25, [2.0] * 25)


def test_the_landmark_check_measures_the_trained_network(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = runpy.run_path(str(Path(__file__).parents[1] / "tools/landmark_check.py"))
    monkeypatch.chdir(trained)
    assert tool["main"](["--cfgs", "landmarks.yaml", "--json", "check.json"]) == 0
    found = json.loads(Path("check.json").read_text())
    assert found["trained"] != found["fresh"] and all(np.isfinite(list(row.values())).all() for row in found.values())

    class Middle(torch.nn.Module):  # one landmark: the figure's centre of mass, which moves as the figure does
        def landmarks(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            y, x = torch.meshgrid(torch.arange(64.0), torch.arange(44.0), indexing="ij")
            whole = frames.sum((2, 3))
            places = torch.stack([(frames * axis).sum((2, 3)) / whole for axis in (x, y)], -1)
            return ((places - 1.5) / 4 / (torch.tensor([11, 16]) - 1) * 2 - 1)[:, :, None]

    frames = torch.zeros(2, 6, 64, 44)
    for t in range(6):
        frames[:, t, 20:30, 10 + t : 20 + t] = 1
    slope, missed = tool["shift_answer"](Middle(), frames, torch.ones(2, 6, dtype=torch.bool))
    assert slope == pytest.approx(1, abs=1e-5) and missed < 1e-4
    series = torch.tensor([[0.0, 1, 3, 2, 9], [1, 1, 1, 1, 1]])
    real = torch.tensor([[True, True, True, True, False], [True] * 5])
    assert tool["correlation"](series, 2 * series + 5, real).tolist() == pytest.approx([1.0])
