"""The benchmarks in their smallest form in; that they run, agree with their references and write JSON, out."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
BENCHMARKS = {
    "bench_transforms": [], "bench_evaluator": ["--growth"], "bench_reading": ["{folder}"],
    "bench_search": ["{folder}"], "bench_step": ["--rows", "size,modules,shares"],
}  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                          capsys: pytest.CaptureFixture) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "path", [str(TOOLS), *sys.path])
    monkeypatch.delenv("FASTPOSEGAIT_HOME", raising=False)
    words = [word.format(folder=tmp_path) for word in BENCHMARKS[name]]
    target = tmp_path / "rows.json"
    assert runpy.run_path(str(TOOLS / f"{name}.py"))["main"]([*words, "--tiny", "--json", str(target)]) == 0
    rows = json.loads(target.read_text())["rows"]
    assert rows and all(seconds >= 0 for row in rows for seconds in row["median"].values())
    assert all(row["what"] in capsys.readouterr().out for row in rows[:1])
