"""The sub-parser of `bpmt export` in; the file that engine/export.py writes out. Argument parsing only."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bpmt_ext.regular import at_home

Settings = Callable[[argparse.Namespace], object]  # what makes the settings of --cfgs and --opts


def _iteration(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _export(args: argparse.Namespace, settings: Settings) -> int:
    own = settings(args)
    import logging

    from bpmt_ext.engine.export import run
    from bpmt_ext.engine.logs import log, log_to

    log_to(None)
    log.setLevel(logging.WARNING)  # what a test tells on its way is of no use here
    return run(
        own, at_home(args.output).absolute(), form=args.format, output=Path.cwd() / "output", iteration=args.iter,
        trust=args.trust_checkpoint, classes=args.classes,
    )  # fmt: skip


def add_export(commands: argparse._SubParsersAction, settings: Settings) -> None:
    """Add `export`. settings: what makes the settings of the arguments --cfgs, --opts and --plugin."""
    export = commands.add_parser(
        "export", help="write a trained network to one file that runs without this package",
        description="Write a trained network to one file. onnx: the test's transforms and the network, for onnxruntime "
        "and others, compared with the network before it is kept (extra export). safetensors: weights and config.",
    )  # fmt: skip
    add = export.add_argument
    add("--cfgs", required=True, metavar="FILE", help="the config of a trained network, a YAML file")
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="the file to write")
    add("--format", choices=("onnx", "safetensors"), help="default: as the file's name ends")
    add("--iter", type=_iteration, metavar="N", help="its checkpoint of this iteration, in place of restore_hint")
    add("--classes", type=Path, metavar="FILE",
        help="of actions: names of the classes, a line each, where the data is not at hand")
    add("--trust-checkpoint", action="store_true",
        help="open checkpoints that hold more than tensors and plain data: this runs their maker's code")
    add("--plugin", action="append", default=[], metavar="FILE",
        help="a Python file of yours that registers networks or transforms; it is run")
    add("--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="override single keys of the config")
    export.set_defaults(handler=partial(_export, settings=settings))
