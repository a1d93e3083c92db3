"""The tools that make no numbers: what they write is there and is what it should be."""

from __future__ import annotations

import runpy
import struct
from pathlib import Path

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
