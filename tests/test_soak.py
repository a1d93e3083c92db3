"""Soaks of a moment in; one table with what each of them found, and whether it held, out."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
HELD = """
import argparse, json, pathlib, sys
parser = argparse.ArgumentParser()
for name in ("--minutes", "--seed", "--json"):
    parser.add_argument(name)
args = parser.parse_args()
found = {"seed": args.seed, "minutes": float(args.minutes), "each": {"a": 1, "b": 2}, "faults": []}
pathlib.Path(args.json).write_text(json.dumps(found))
"""


def test_every_soak_is_run_and_told(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    tool = runpy.run_path(str(TOOLS / "soak.py"))
    main = tool["main"]
    main.__globals__["HERE"] = tmp_path
    (tmp_path / "soak_one.py").write_text(HELD)
    (tmp_path / "soak_scale.py").write_text(HELD)
    assert main(["--minutes", "12", "--seed", "5", "--json", str(tmp_path / "out/soak.json")]) == 0
    told = json.loads((tmp_path / "out/soak.json").read_text())
    assert told["one"] == {"held": True, "seed": "5", "minutes": 10, "each": {"a": 1, "b": 2}, "faults": []}
    assert told["scale"]["minutes"] == 2
    lines = capfd.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:4]] == [["one", "held", "yes"], ["seed", "5"]]
    assert any(line.split() == ["each", "a", "1,", "b", "2"] for line in lines)
    (tmp_path / "soak_two.py").write_text(HELD + "sys.exit(3)")
    assert main(["--minutes", "0", "--json", str(tmp_path / "soak.json")]) == 1
    assert "NO: status 3" in capfd.readouterr().out


def test_scale_in_small(tmp_path: Path) -> None:
    """The parts of the soak as functions, a thousandth of their size."""
    tool = runpy.run_path(str(TOOLS / "soak_scale.py"))
    for part in ("gallery", "long"):
        (tmp_path / part).mkdir()
        assert tool["PARTS"][part](tmp_path / part, 0, 0.001)["right"]
    (tmp_path / "data").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        found = tool["PARTS"]["data"](tmp_path / "data", 0, 0.001)
    assert found["right"] and found["sequences"] == 200 and found["identities in the head"] == 20
