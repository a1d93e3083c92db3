"""Small networks of every kind in; graphs that give the same numbers, files that say what they are, out."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import people
import pytest
import torch
import yaml

from bpmt_ext.cli import main
from bpmt_ext.config import load_settings
from bpmt_ext.data.inputs import HOD_MultiInput
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.data.preprocessing import FillMissing, sightings
from bpmt_ext.data.sequences import SequenceSet, Splits
from bpmt_ext.data.transforms import add_transform
from bpmt_ext.engine import export, graph
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.embed import Model, embed_walks, load_model, read_all
from bpmt_ext.engine.stages import build_run
from bpmt_ext.errors import UserError
from bpmt_ext.exporting import arccos, exporting, stable_order
from bpmt_ext.metrics.ranking import distances
from bpmt_ext.registry import METHODS, build_network
from bpmt_ext.skeletons import get_skeleton

COCO = get_skeleton("coco17")
ROOT = Path(__file__).resolve().parents[1]
LACKING = [name for name in graph.EXTRA if find_spec(name) is None]
needs_extra = pytest.mark.skipif(bool(LACKING), reason=f"{', '.join(LACKING)} not installed: the extra `export`")

PARTS = ("width=16", "heads=2", "layers=1", "max_frames=12")
NETWORKS: dict[str, tuple[str, str, tuple[str, ...]]] = {  # test -> network, config, narrower model_cfg
    "BPMT": ("BPMT", "bpmt/bpmt_gait3d", PARTS),
    "BPMT with IIP": ("BPMT", "bpmt/bpmt_kinectgait_iip", PARTS),
    "BPMTAction": ("BPMTAction", "bpmt/bpmt_nwucla", PARTS),
    "BPMTAction, two bodies": ("BPMTAction", "bpmt/bpmt_ntu60", PARTS),
    "TLCA": ("TLCA", "tlca/tlca_kinectgait", PARTS),
    "TLCA, thesis": ("TLCA", "tlca/thesis_penn_d64", ("width=26", "heads=2", "layers=1", "max_frames=12")),
    "IIPTransformer": ("IIPTransformer", "iip/iip_penn", (*PARTS, "feature_width=8")),
    "GaitGraph1": ("GaitGraph1", "gaitgraph1/gaitgraph1_phase1_Gait3D", ("input_branch=[3, 8, 8]",
                                                                        "main_stream=[8, 16, 16]")),
    "GaitGraph2": ("GaitGraph2", "gaitgraph2/gaitgraph2_OUMVLP", ("input_branch=[5, 8]", "main_stream=[8, 16, 16]")),
    "GaitGraph2, 3D": ("GaitGraph2", "gaitgraph2/gaitgraph2_kinectgait", ("input_branch=[7, 8]",
                                                                          "main_stream=[8, 16]")),
    "GaitTR": ("GaitTR", "gaittr/gaittr_g38", ("in_channels=[10, 32, 32]",)),
    "gpgait": ("gpgait", "gpgait/gpgait_CCPG", ("in_channels=[2, 8, 8]", "share_num=1")),
    "GPGait_PlusPlus": ("GPGait_PlusPlus", "gpgait++/gpgait++_CCPG", ("in_channels=[2, 12, 12, 12, 12]",)),
    "GaitMixer": ("GaitMixer", "gaitmixer/gaitmixer", ()),
    "GaitFormer": ("GaitFormer", "gaitmixer/gaitformer_kinectgait", ()),
    "GaitPT": ("GaitPT", "gaitpt/gaitpt_Gait3D", ("frames=6",)),
    "LandmarkGait": ("LandmarkGait", "landmarkgait/LandmarkGait_Recognition", (
        "channels=[4, 4, 8]", "widths=[4, 4, 8, 8]", "embedding_width=8")),
    "SkeletonGait": ("SkeletonGait", "skeletongait/skeletongait_g38", ("layers=[1, 1, 1, 1]", "channels=[4, 4, 8, 8]")),
}  # fmt: skip


def small(test: str) -> Model:
    """The network of a config, narrower, with weights and statistics of all values: as none is when it starts."""
    name, config, narrower = NETWORKS[test]
    settings = load_settings(ROOT / f"configs/{config}.yaml", [f"model_cfg.{key}" for key in narrower])
    assert settings.model_cfg.model == name
    nobody = Splits(*(SequenceSet([]) for _ in range(3)), probes=None, dropped={})
    run = build_run(settings, nobody, World(0, 1, torch.device("cpu")), Path("nowhere/run"), classes=3)
    g = torch.Generator().manual_seed(5)
    for key, value in run.network.state_dict().items():
        if "running_var" in key or key.endswith(".std"):
            value.copy_(0.5 + torch.rand(value.shape, generator=g))
        elif value.is_floating_point() and "pos_" not in key and not key.endswith((".A", ".p")):
            value.add_(0.05 * torch.randn(value.shape, generator=g))
    run.network.eval()
    model = Model(run, settings, run.network.state_dict(), 7)
    settle(model)
    return model


def settle(model: Model) -> None:
    """Give every BatchNorm the statistics of what it reads, as training does; without, numbers grow from layer to
    layer until attention looks at one joint alone and a last digit decides which."""
    def take(module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        axes = [axis for axis in range(given[0].ndim) if axis != 1]
        module.running_mean.copy_(given[0].mean(axes))
        module.running_var.copy_(given[0].var(axes) + 1e-3)

    norms = [m for m in model.run.network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(take) for norm in norms]
    pose, length = (torch.from_numpy(x) for x in export.source_of(model).batch((40, 30, 20), 3))
    with torch.no_grad():
        graph.deployed(model.run)(pose, length)
    for hook in hooks:
        hook.remove()


def batches(model: Model) -> dict[str, graph.Inputs]:
    source = export.source_of(model)
    return {str(k): source.batch(lengths, 9) for k, lengths in enumerate(((31, 30, 1), (5,)))}


def test_every_recogniser_is_among_them() -> None:
    assert {name for name, _, _ in NETWORKS.values()} == {n for n, method in METHODS.items() if not method.pretraining}


@pytest.mark.parametrize("test", NETWORKS)
def test_the_way_without_branches_gives_the_same_numbers(test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(test)
    network = graph.deployed(model.run)
    for pose, length in batches(model).values():
        given = torch.from_numpy(pose), torch.from_numpy(length)
        with torch.no_grad():
            plain = network(*given)
            with monkeypatch.context() as patch:
                patch.setattr(torch.compiler, "is_exporting", lambda: True, raising=False)
                assert exporting()
                general = network(*given)
        for a, b in zip(plain, general, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=2e-5 * float(a.square().mean().sqrt())), test


@needs_extra
@pytest.mark.parametrize("test", NETWORKS)
def test_onnxruntime_gives_the_same_numbers(test: str, tmp_path: Path, record_property: Callable) -> None:
    import onnx

    model = small(test)
    names = tmp_path / "names"
    names.write_text("bow\njump\nwave\n")
    data, told = export.onnx_file(model, names)
    runtime, network = graph.session(data), graph.deployed(model.run)
    worst = max(graph.difference(network, runtime, given) for given in batches(model).values())
    print(f"{test:24} {worst:.1e} {len(data) / 1e6:6.2f} MB")
    record_property("difference", worst)
    assert worst < graph.MOST and "largest difference" in told
    assert [entry.shape[:2] for entry in runtime.get_inputs()] == [["n", "t"], ["n"]], "n and t stay free"
    assert str(ROOT).encode() not in data and b"site-packages" not in data, "it holds this machine's paths"
    onnx.checker.check_model(onnx.load_from_string(data))
    about = runtime.get_modelmeta().custom_metadata_map
    assert about["model"] == NETWORKS[test][0] and about["config"] == model.settings.fingerprint
    assert float(about["difference"]) < graph.MOST and about["distance"] in ("euc", "cos")
    if "Action" in test or "Transformer" in test or test == "TLCA, thesis":
        assert json.loads(about["classes"]) == ["bow", "jump", "wave"]
        pose, length = batches(model)["0"]
        assert runtime.run(["logits"], {"pose": pose, "length": length})[0].shape == (3, 3)
    if test == "SkeletonGait":
        assert runtime.get_inputs()[0].name == "map" and json.loads(about["transforms_before"]) == ["SkeletonMaps"]
    elif test != "LandmarkGait":
        assert len(json.loads(about["joints"])) == runtime.get_inputs()[0].shape[2]
        assert len(json.loads(about["coordinates"])) == runtime.get_inputs()[0].shape[3]


def test_what_stands_for_operators_that_onnx_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = torch.rand(40, 23) < torch.linspace(0, 1, 40)[:, None]
    before, after = sightings(seen)
    time = torch.arange(23)
    assert torch.equal(before, torch.where(seen, time, -1).cummax(1).values)
    assert torch.equal(after, torch.where(seen, time, 23).flip(1).cummin(1).values.flip(1))
    x = torch.cat([torch.linspace(-1, 1, 1001, dtype=torch.float64), torch.tensor([1 - 1e-12, 1e-12 - 1]).double()])
    ties = torch.randint(0, 4, (50, 30)).float()
    order = stable_order(ties)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True, raising=False)
    assert (arccos(x) - x.acos()).abs().max() < 1e-6 and torch.equal(ties.gather(1, order), ties.sort(1).values)
    pose = torch.from_numpy(graph.Source("pose", (17, 3), COCO, True).batch((9, 4))[0])
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    pose[0, :, 3], pose[1, 2] = 0, 0  # a joint that is never seen, a frame without any
    for step in (FillMissing(), HOD_MultiInput()):
        general = step(pose, mask)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_exporting", lambda: False, raising=False)
            assert torch.allclose(general[mask], step(pose, mask)[mask], rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained network and two walks."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        people.trained(folder)
    for k, frames in enumerate((50, 33, 40)):
        np.save(folder / f"{k}.npy", people.walk(10 + k // 2)[:frames])
    return folder


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def asked(*line: str) -> int:
    return main(["export", "--cfgs", "net.yaml", *line])


@needs_extra
def test_a_file_works_without_this_package(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert asked("-o", "net.onnx") == 0
    said = capsys.readouterr().out
    assert "BPMT, iteration" in said and "5 made-up and 2 real batches" in said
    walks = [f"{k}.npy" for k in range(3)]
    script = ROOT / "examples/use_onnx.py"
    code = f"import runpy, sys; sys.argv = {['', 'net.onnx', *walks]}; "
    code += f"sys.modules.update(torch=None, bpmt_ext=None); runpy.run_path({str(script)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, table = done.stdout.split("\n", 1)
    assert first == "BPMT coco17 ['x', 'y', 'confidence'] euc"
    model = load_model(load_settings(here / "net.yaml"), here / "output")
    wanted = embed_walks(model, read_all(model, [Path(w) for w in walks], joint_format="coco17")[0])
    found = [float(word.strip("[]")) for word in table.split() if word.strip("[]")]
    # a walk is as far from itself as float32 leaves of |a|2 + |b|2 - 2 ab
    np.testing.assert_allclose(np.reshape(found, (3, 3)), distances(wanted, wanted), atol=5e-4)
    assert len(script.read_text().split('"""')[2].strip().splitlines()) <= 30


@needs_extra
def test_the_example_takes_a_converted_sequence_once_it_is_a_npy_file(here: Path) -> None:
    if not Path("net.onnx").is_file():
        assert asked("-o", "net.onnx") == 0
    write_pickle("anna.pkl", np.load("0.npy"))

    def run(*line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *line], capture_output=True, text=True)

    example = [str(ROOT / "examples/use_onnx.py"), "net.onnx", "0.npy"]
    for name in ("anna.pkl", "none.npy", "net.onnx"):
        done = run(*example, name)
        assert done.returncode == 2 and done.stderr.startswith(f"{name}: is no .npy file; docs/export.md makes one")
        assert len(done.stderr.splitlines()) == 1
    line = next(line for line in (ROOT / "docs/export.md").read_text().splitlines() if line.startswith("python -c"))
    assert run(*shlex.split(line)[1:]).returncode == 0
    assert np.array_equal(np.load("anna.npy"), np.load("0.npy")) and run(*example, "anna.npy").returncode == 0


def test_safetensors_go_back_into_a_network(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert asked("-o", "net.safetensors") == 0
    network, settings, told = export.read_network(here / "net.safetensors")
    own = load_settings(here / "net.yaml")
    assert settings.resolved() == own.resolved() and told["config"] == own.fingerprint == settings.fingerprint
    model = load_model(own, here / "output")
    arguments = own.arguments(type(network), "model_cfg", supplied=("skeleton",))
    classes = model.run.network.head.classes.shape[1]
    built = build_network("BPMT", arguments, skeleton=model.skeleton, classes=classes)
    built.load_state_dict(network.state_dict())
    pose, length = (torch.from_numpy(x) for x in graph.Source("pose", (17, 3), COCO).batch((20, 9)))
    mask = torch.arange(20) < length[:, None]
    outputs = [net.eval()(pose, mask)["embedding"] for net in (network, built, model.run.network.cpu())]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    # as a checkpoint, too
    assert main(["test", "--cfgs", "net.yaml", "--opts", f"evaluator_cfg.restore_hint={here / 'net.safetensors'}"]) == 0
    (here / "other.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="no readable .safetensors file of bpmt export"):
        export.read_network(here / "other.safetensors")


@needs_extra
def test_what_differs_is_not_kept(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    network = graph.to_onnx

    def other(deployed: graph.Deployed, example: graph.Inputs, name: str) -> object:
        made = network(deployed, example, name)
        with torch.no_grad():
            deployed.network.head.bn.bias.add_(0.01)  # 0.01 of about 1
        return made

    monkeypatch.setattr(export, "to_onnx", other)
    (here / "bad.onnx").write_text("what was there before")
    assert asked("-o", "bad.onnx") == 2
    said = capsys.readouterr().err
    assert "nothing is written: the graph is" in said and "away from the network on" in said
    assert (here / "bad.onnx").read_text() == "what was there before"
    assert not list(here.glob("*.tmp")) and not list(here.glob(".bad*"))


class Unknown(graph.Compose):
    """A transform of one's own with a branch that depends on numbers, which no graph has."""

    def __init__(self) -> None:
        super().__init__()

    def apply_frames(self, pose: torch.Tensor, mask: torch.Tensor, draws: None) -> tuple[torch.Tensor, torch.Tensor]:
        return (pose + 1, mask) if pose.mean() > 0 else (pose, mask)


@needs_extra
def test_what_no_graph_can_hold_is_said(here: Path, capsys: pytest.CaptureFixture) -> None:
    add_transform(Unknown)
    values = yaml.safe_load(Path("net.yaml").read_text())
    values["evaluator_cfg"]["transform"].append({"type": "Unknown"})
    Path("own.yaml").write_text(yaml.safe_dump(values))
    assert main(["export", "--cfgs", "own.yaml", "-o", "own.onnx"]) == 2
    assert "cannot be written as an ONNX graph" in capsys.readouterr().err and not Path("own.onnx").exists()


def test_one_sentence_for_what_cannot_be(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
                                         ) -> None:  # fmt: skip
    def said(*line: str) -> str:
        assert asked(*line) == 2
        text = capsys.readouterr().err
        assert text.startswith("bpmt: ") and text.count("\n") == 1
        return text

    assert "say which with --format" in said("-o", "net.bin")
    assert "there is no folder" in said("-o", "nowhere/net.onnx")
    assert "99" in said("-o", "net.safetensors", "--iter", "99")
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert "onnxscript" in (text := said("-o", "none.onnx")) and "pip install 'bpmt_ext[export]'" in text
    assert not Path("none.onnx").exists()
    model = small("BPMT")
    model.run.test_transform.random = True
    with pytest.raises(UserError, match="draws random numbers"):
        graph.deployed(model.run)
    model.run.method = METHODS["BPMT_T1"]
    with pytest.raises(UserError, match="export the stage after it"):
        graph.deployed(model.run)
