"""The tools that make no numbers: what they write is there and is what it should be."""

from __future__ import annotations

import runpy
import struct
from pathlib import Path

import pytest
from tiny import write_configs

TOOLS = Path(__file__).parents[1] / "tools"


def test_overview_is_drawn(tmp_path):
    tool = runpy.run_path(str(TOOLS / "draw_overview.py"))
    target = tmp_path / "docs" / "overview.png"
    assert tool["main"]([str(target)]) == 0
    data = target.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    assert struct.unpack(">II", data[16:24]) == (1600, 800)
    assert 50_000 < len(data) < 200 * 1024  # drawn on, and light enough for a README
    assert [path.name for path in target.parent.iterdir()] == ["overview.png"]  # no unfinished file left


def test_pretraining_check_refuses_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main = runpy.run_path(str(TOOLS / "pretraining_check.py"))["main"]
    write_configs(tmp_path)
    for words, sentence in ((["net.yaml"], "trains BPMT; name a config of BPMT_T1"),
                            (["t1.yaml", "--frame-rate", "-1"], "--frame-rate -1")):  # fmt: skip
        assert main(["--cfgs", str(tmp_path / words[0]), *words[1:]]) == 2
        assert sentence in capsys.readouterr().err
