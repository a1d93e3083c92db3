"""Ways of doing one thing in, how long each takes beside the others out: what the bench_*.py tools share.

All ways of a row run in one process and in turns, so that a busy machine slows all of them alike; time is that of the
process on one thread, not of the clock. A row's ratio is the median over the turns of reference / ours, with its
quartiles. The references: a plain formulation of our own (plain.py), and FastPoseGait's code where FASTPOSEGAIT_HOME
names a checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

OURS = "ours"
Way = Callable[[], Any]


@dataclass
class Row:
    """What was done, the seconds of every turn by way (`ours` first), and what else is known of it."""

    what: str
    seconds: dict[str, list[float]]
    note: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def median(self, way: str) -> float:
        return float(np.median(self.seconds[way]))

    def ratio(self, way: str) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile over the turns of `way` / ours."""
        each = np.array(self.seconds[way]) / np.array(self.seconds[OURS])
        return tuple(float(x) for x in np.percentile(each, (25, 50, 75)))

    def told(self) -> dict[str, Any]:
        ratios = {way: self.ratio(way) for way in self.seconds if way != OURS}
        return asdict(self) | {"median": {way: self.median(way) for way in self.seconds}, "ratio": ratios}


def once(way: Way, least: float) -> float:
    """Process seconds of one call; of so many in a row that they last `least` seconds."""
    calls, start = 0, process_time()
    while True:
        way()
        calls += 1
        seconds = process_time() - start
        if seconds >= least:
            return seconds / calls


def in_turns(what: str, ways: Mapping[str, Way], *, turns: int, least: float = 0.05, note: str = "") -> Row:
    """Each way in turn, `turns` times over, after one turn to warm up. The order is reversed every other turn."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns + 1):
        for way in list(ways)[:: -1 if turn % 2 else 1]:
            spent = once(ways[way], least if turn else 0.0)
            if turn:
                seconds[way].append(spent)
    return Row(what, seconds, note)


def apart(one: Any, other: Any) -> float:
    """Largest difference of two arrays over max(1, largest number)."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (one, other))
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))


def agree(what: str, figures: Mapping[str, float], most: float) -> None:
    """A benchmark of two things that differ measures nothing: SystemExit."""
    for name, value in figures.items():
        if not value <= most:
            raise SystemExit(f"{what}: differs from {name} by {value:.1e}, at most {most:.0e} is allowed")


def own_memory() -> float:
    """Most MiB of memory of this process so far that no file backs (mapped files count as the system's)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) / 1024


def peak_memory() -> float:
    """Most MiB of this process so far, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parser(doc: str | None, turns: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--turns", type=int, default=turns, help=f"how often each way runs (default {turns})")
    made.add_argument("--tiny", action="store_true", help="sizes that only show that everything runs")
    made.add_argument("--json", type=Path, help="write the rows there too")
    return made


def host() -> Any:
    """The FastPoseGait checkout of FASTPOSEGAIT_HOME, its modules importable, as in host_agreement.py; None if unset.

    The working directory becomes the checkout's.
    """
    home = os.environ.get("FASTPOSEGAIT_HOME")
    if not home:
        return None
    from host_agreement import enter

    return enter(Path(home).absolute())


def start() -> None:
    """One thread, as every figure here is measured."""
    torch.set_num_threads(1)


def finish(rows: Sequence[Row], path: Path | None, turns: int) -> int:
    """Print the rows as a table in Markdown, write them where asked for; 0."""
    ways = list(dict.fromkeys(way for row in rows for way in row.seconds if way != OURS))
    heads = ["what", "ours, ms", *(f"{way}, ms" for way in ways), *(f"{way} / ours" for way in ways), ""]
    lines = [f"process time on one thread, median of {turns} turns (ratio: lower to upper quartile)", "",
             "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]  # fmt: skip
    for row in rows:
        times = [f"{1000 * row.median(way):.3g}" if way in row.seconds else "" for way in (OURS, *ways)]
        ratios = ["{1:.3g} ({0:.3g} to {2:.3g})".format(*row.ratio(way)) if way in row.seconds else "" for way in ways]
        told = [row.note] if row.note else []
        told += [f"{name} {value:.4g}" for name, value in row.figures.items()]
        lines.append("| " + " | ".join([row.what, *times, *ratios, "; ".join(told)]) + " |")
    print("\n".join(lines))
    if path:
        facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "command": sys.argv, "turns": turns}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"facts": facts, "rows": [row.told() for row in rows]}, indent=1) + "\n")
    return 0
