"""The code's tables in; docs/reference.md is what they say, and complete."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from bpmt_ext.config import Settings
from bpmt_ext.data.transforms import TRANSFORMS
from bpmt_ext.losses import LOSSES
from bpmt_ext.metrics.classification import CLASSIFICATION
from bpmt_ext.metrics.protocols import PROTOCOLS
from bpmt_ext.registry import METHODS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs/reference.md").read_text("utf-8")


def tool():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tools/make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_up_to_date(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = tool()
    assert module.main(["--check"]) == 0, "run python tools/make_reference.py"
    monkeypatch.setattr(module, "TARGET", tmp_path / "reference.md")
    (tmp_path / "reference.md").write_text(TEXT.replace("margin", "margn"))
    assert module.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().out


def test_every_name_and_key_is_there() -> None:
    headings = set(re.findall(r"^### (\S+)$", TEXT, re.M))
    assert {*METHODS, *LOSSES, *TRANSFORMS, *Settings.model_fields} - {"Compose"} <= headings
    assert all(f"| `{name}` |" in TEXT for name in (*PROTOCOLS, *CLASSIFICATION))
    rows = re.findall(r"^\| (.+) \|$", TEXT, re.M)
    for row in rows:
        cells = row.split(" | ")
        assert len(cells) >= 3 and (cells[-1].strip() or not cells[0].startswith("`")), row
