"""The sub-parser of `bpmt report` in; the page about the runs it names out. Argument parsing only."""

from __future__ import annotations

import argparse
from pathlib import Path

from bpmt_ext.regular import at_home


def _report(args: argparse.Namespace) -> int:
    from bpmt_ext.plugins import load_plugins
    from bpmt_ext.report.page import run

    load_plugins(args.plugin)
    return run(args.runs, at_home(args.output).absolute())


def add_report(commands: argparse._SubParsersAction) -> None:
    """The command that writes a page about runs."""
    report = commands.add_parser(
        "report", help="write one HTML page about runs: figures, curves, hardest probes, attention, map, config",
        description="Write one self-contained HTML page about runs after training and test. It loads nothing from "
        "anywhere, opens on a phone and prints.",
    )  # fmt: skip
    add = report.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, output/<data set>/<model>/<name>")
    add("-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help="default: %(default)s")
    add("--plugin", action="append", default=[], metavar="FILE",
        help="a Python file of yours that registers networks or transforms; it is run")
    report.set_defaults(handler=_report)
