"""The blocks of docs/extending.md one after the other in an empty folder; what their commands leave behind out."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bpmt_ext import cli
from bpmt_ext.data.transforms import TRANSFORMS
from bpmt_ext.errors import UserError
from bpmt_ext.plugins import load_plugins
from bpmt_ext.registry import METHODS, Method
from bpmt_ext.skeletons import skeleton_from_mapping

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.S | re.M)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; afterwards nothing that was registered in it remains."""
    monkeypatch.chdir(tmp_path)
    tables = [(table, dict(table)) for table in (METHODS, TRANSFORMS)]
    modules = set(sys.modules)
    yield tmp_path
    for table, kept in tables:
        for name in set(table) - set(kept):
            del table[name]
    for name in {"mean_pose", "lose_joints", "walks"} - modules:
        sys.modules.pop(name, None)


def test_every_file_is_short() -> None:
    for kind, text in BLOCKS:
        assert not kind or len(text.splitlines()) <= 31, text[:40]  # the first line is the file's name


def test_the_page_runs_from_top_to_bottom(folder: Path) -> None:
    for kind, text in BLOCKS:
        if kind:
            Path(re.match(r"# (\S+\.(?:py|yaml))\n", text).group(1)).write_text(text)
            continue
        for words in map(shlex.split, text.splitlines()):
            if words[0] == "bpmt":
                assert cli.main(words[1:]) == 0, words
            else:
                assert words[0] == "python"
                done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
    results = json.loads((folder / "output/mine/MeanPose/mean_pose/results.json").read_text())
    assert 0 <= results["metrics"]["Rank-1"] <= 100
    config = yaml.safe_load((folder / "output/mine/MeanPose/lossy/config.yaml").read_text())
    assert config["trainer_cfg"]["transform"][1] == {"type": "LoseJoints", "probability": 0.2}


def test_the_skeleton_loads() -> None:
    text = next(text for _, text in BLOCKS if text.startswith("# skeleton.yaml\n"))
    mapping = yaml.safe_load(text)["data_cfg"]["skeleton"]
    assert skeleton_from_mapping(mapping).num_joints == 9


def test_a_plugin_that_fails_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "broken_one.py").write_text("x = 1\ny = 1 / 0\n")
    assert cli.main(["train", "--plugin", "broken_one.py", "--cfgs", "mean_pose.yaml"]) == 2
    assert "broken_one.py, line 2: ZeroDivisionError" in capsys.readouterr().err
    (folder / "slip_two.py").write_text("x = (\n")
    with pytest.raises(UserError, match="line 1: SyntaxError"):
        load_plugins(["slip_two.py"])
    with pytest.raises(UserError, match="no Python file"):
        load_plugins(["absent.py"])
    (folder / "json.py").write_text("")
    with pytest.raises(UserError, match="module 'json' already"):
        load_plugins(["json.py"])
    (folder / "again.py").write_text("from bpmt_ext.registry import *\nadd_method('BPMT', METHODS['BPMT'])\n")
    with pytest.raises(UserError, match="already"):
        load_plugins(["again.py"])
    assert "broken_one" not in sys.modules
    (folder / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(UserError, match="leaves.py, line 2: SystemExit: 3"):
        load_plugins(["leaves.py"])
    assert "leaves" not in sys.modules
    for target in ("no_module:Net", "math:Nothing", "math", ":"):
        with pytest.raises(UserError, match="model_cfg.model: "):
            Method(target).network()
