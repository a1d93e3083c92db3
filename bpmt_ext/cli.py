"""A command line in, an exit status out: 0 done, 2 bad input (one sentence on standard error), 130 interrupted.

Argument parsing only. What a command needs is imported when it runs, so that `--help` needs neither torch nor
pydantic.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpmt_ext import __version__
from bpmt_ext.errors import UserError

if TYPE_CHECKING:
    from bpmt_ext.config import Settings


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _positive(text: str) -> int:
    if _count(text) == 0:
        raise argparse.ArgumentTypeError("0 is too few")
    return int(text)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfgs", required=True, metavar="FILE", help="the config, a YAML file")
    _add_opts(parser)


def _add_opts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="override single keys, e.g. trainer_cfg.seed=1 loss_cfg.0.margin=0.3; t1.KEY=VALUE is for stage t1",
    )  # fmt: skip


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--iter", type=_count, default=0, metavar="N",
        help="train on from, or test, the checkpoint of this iteration, in place of restore_hint",
    )  # fmt: skip
    parser.add_argument(
        "--trust-checkpoint", action="store_true",
        help="open checkpoints that hold more than tensors and plain data: this runs their maker's code",
    )  # fmt: skip
    parser.add_argument("--log_to_file", action="store_true", help="write the log into the output folder too")
    # Launchers pass it in one spelling or the other; the environment says the same, so it is not used.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def _settings(args: argparse.Namespace) -> Settings:
    """The settings of --cfgs and --opts; options of an earlier stage (`t1.trainer_cfg.seed=2`) are the engine's."""
    from bpmt_ext.config import load_settings, suggestion

    of_stages = [text for text in args.opts if re.match(r"t\d+\.", text)]
    settings = load_settings(args.cfgs, [text for text in args.opts if text not in of_stages], root=Path.cwd())
    stages = settings.model_cfg.stages
    strays = {text: text.partition(".")[0] for text in of_stages if text.partition(".")[0] not in stages}
    if strays:
        hint = "--opts {}: the config has no stage {}{}"
        raise UserError("\n".join(hint.format(text, name, suggestion(name, stages)) for text, name in strays.items()))
    return settings


def _run(args: argparse.Namespace) -> int:
    settings = _settings(args)
    from bpmt_ext.engine.run import main as run

    root = Path.cwd()
    return run(
        settings, phase=args.phase, iteration=args.iter or None, log_to_file=args.log_to_file,
        output=root / "output", opts=args.opts, root=root, trust=args.trust_checkpoint,
    )  # fmt: skip


def _check_data(args: argparse.Namespace) -> int:
    settings = _settings(args)
    from bpmt_ext.engine.check import run

    return run(settings)


def _demo(args: argparse.Namespace) -> int:
    from bpmt_ext.engine.demo import run

    return run(Path(args.output).absolute(), args.seed)


def _link(args: argparse.Namespace) -> int:
    from bpmt_ext.hosts.link import link

    return _say(link(args.path, args.cfgs, gpus=args.gpus, opts=args.opts))


def _unlink(args: argparse.Namespace) -> int:
    from bpmt_ext.hosts.link import unlink

    return _say(unlink(args.path, force=args.force))


def _doctor(args: argparse.Namespace) -> int:
    """Lines on standard output, faults as sentences on standard error and status 2."""
    from bpmt_ext.hosts import doctor

    lines, faults = doctor.machine()
    _say(lines)
    if args.path is not None:
        lines, more = doctor.checkout(args.path)
        _say(lines)
        faults += more
    if faults:
        raise UserError("\n".join(faults))
    return 0


def _say(lines: Sequence[str]) -> int:
    print("\n".join(lines))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bpmt", description="Body parts as modalities: gait and action recognition.")
    parser.add_argument("--version", action="version", version=f"bpmt {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train and test on made-up walkers")
    demo.add_argument("--output", default="output/demo", metavar="DIR", help="where to write (default: %(default)s)")
    demo.add_argument("--seed", type=_count, default=0, metavar="N", help="seed of data and training")
    demo.set_defaults(handler=_demo)

    for phase, text in (("train", "train the network of a config"), ("test", "test a trained network")):
        command = commands.add_parser(phase, help=text)
        _add_run(command)
        command.set_defaults(handler=_run, phase=phase)

    check = commands.add_parser("check-data", help="open every file of a config's data once and report")
    _add_config(check)
    check.set_defaults(handler=_check_data)
    _add_hosts(commands)
    return parser


def _add_hosts(commands: argparse._SubParsersAction) -> None:
    """The commands about a FastPoseGait or OpenGait checkout."""
    link = commands.add_parser("link", help="bring the networks and configs into a FastPoseGait or OpenGait checkout")
    link.add_argument("path", type=Path, metavar="PATH", help="the checkout; relative paths in configs start there")
    link.add_argument(
        "--cfgs", nargs="+", action="extend", default=[], metavar="FILE",
        help="configs to bring, with the stages they name (default: configs/bpmt/bpmt_gait3d.yaml)",
    )  # fmt: skip
    link.add_argument("--gpus", type=_positive, default=1, metavar="N", help="GPUs the host will use (default: 1)")
    _add_opts(link)
    link.set_defaults(handler=_link)
    unlink = commands.add_parser("unlink", help="take away what link brought")
    unlink.add_argument("path", type=Path, metavar="PATH", help="the checkout")
    unlink.add_argument("--force", action="store_true", help="also what was changed since")
    unlink.set_defaults(handler=_unlink)
    doctor = commands.add_parser("doctor", help="print versions, devices, and what a host lacks and has linked")
    doctor.add_argument("path", type=Path, nargs="?", metavar="PATH", help="a FastPoseGait or OpenGait checkout")
    doctor.set_defaults(handler=_doctor)


def _guarded(name: str, handler: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """The handler's status; UserError, and a file the system refuses, as lines on standard error and 2, an
    interruption as 130."""
    try:
        return handler(args)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"{name}: {line}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None or isinstance(error, BrokenPipeError):
            raise
        print(f"{name}: {error.filename}: {error.strerror}; correct the path or its permissions", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """`bpmt`. argv: the arguments, those of the process where left out."""
    args = _parser().parse_args(argv)
    return _guarded("bpmt", args.handler, args)


def host_main(argv: Sequence[str] | None = None, prog: str = "main.py") -> int:
    """The hosts' command line: `--cfgs FILE --phase train|test [--iter N] [--log_to_file] [--opts ...]`."""
    parser = argparse.ArgumentParser(prog=prog, description="Train or test a network on the embedded engine.")
    _add_run(parser)
    parser.add_argument("--phase", choices=("train", "test"), default="train", help="default: %(default)s")
    return _guarded("bpmt", _run, parser.parse_args(argv))
