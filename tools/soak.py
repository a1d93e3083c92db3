"""Every tools/soak_*.py in, run one after the other for its share of the minutes; one table of what they measured out.

    python tools/soak.py --minutes 60 --seed 0 --json soak.json

What belongs to the tests (tests/) is at hand there, so that this runs in a checkout. Status 0 only if everything held.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bpmt_ext.engine.logs import write_json
from bpmt_ext.report.tables import text_table

HERE = Path(__file__).resolve().parent
SHARES = {"scale": 0.2}  # of the minutes, in ones; a soak that is not named has one
SPARE = 2.0  # how many times its minutes a soak may take before it counts as hanging, and ten minutes on top


def figures(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, figure) of what a soak wrote; a list is told by its length."""
    for name, value in found.items():
        if isinstance(value, Mapping) and any(isinstance(one, Mapping) for one in value.values()):
            yield from figures({f"{name}, {key}": one for key, one in value.items()})
        elif isinstance(value, Mapping):
            yield name, ", ".join(f"{key} {figure}" for key, figure in value.items())
        else:
            yield name, str(len(value)) if isinstance(value, list) else str(value)


def run(tool: Path, minutes: float, seed: int) -> tuple[int, dict[str, Any]]:
    """(exit status, 124 if it hangs; what it wrote)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        words = [sys.executable, str(tool), "--minutes", f"{minutes:g}", "--seed", str(seed), "--json", str(file)]
        paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        try:
            limit = 60 * (SPARE * minutes + 10)
            status = subprocess.run(words, env=environment, timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:
            status = 124
        return status, json.loads(file.read_text("utf-8")) if file.is_file() else {}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    args = parser.parse_args(argv)
    tools = sorted(HERE.glob("soak_*.py"))
    shares = {tool: SHARES.get(tool.stem.removeprefix("soak_"), 1.0) for tool in tools}
    rows, everything, held = [], {}, True
    for tool, share in shares.items():
        name = tool.stem.removeprefix("soak_")
        status, found = run(tool, args.minutes * share / sum(shares.values()), args.seed)
        held &= status == 0
        everything[name] = {"held": status == 0, **found}
        rows.append([name, "held", {0: "yes", 124: "NO: hangs"}.get(status, f"NO: status {status}")])
        rows += [["", key, figure] for key, figure in figures(found)]
    sys.stdout.write(text_table(["soak", "figure", "value"], rows, left=3) + "\n")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, everything)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
