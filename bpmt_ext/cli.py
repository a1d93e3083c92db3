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
from bpmt_ext.cli_export import add_export
from bpmt_ext.cli_people import add_people
from bpmt_ext.cli_pictures import add_pictures
from bpmt_ext.cli_report import add_report
from bpmt_ext.errors import DISK_FULL, UserError, printable, survive_names
from bpmt_ext.regular import at_home
from bpmt_ext.words import Parser

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
    _add_plugins(parser)
    _add_opts(parser)


def _add_plugins(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE",
        help="a Python file of yours that registers networks or transforms; it is run",
    )  # fmt: skip


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
    from bpmt_ext.plugins import load_plugins

    load_plugins(args.plugin)
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


def _landmarks(args: argparse.Namespace) -> int:
    settings = _settings(args)
    from bpmt_ext.engine.landmarks import run

    return run(
        settings, output=Path.cwd() / "output", out=at_home(args.output).absolute(), iteration=args.iter or None,
        trust=args.trust_checkpoint,
    )  # fmt: skip


def _demo(args: argparse.Namespace) -> int:
    from bpmt_ext.engine.demo import run

    return run(Path(args.output).absolute(), args.seed)


def _compare(args: argparse.Namespace) -> int:
    from bpmt_ext.engine.compare import Options, run

    def path(value: Path | None) -> Path | None:
        return None if value is None else at_home(value).absolute()

    if not args.report and not args.cfgs:
        raise UserError("compare: no config is given; name at least one with --cfgs, or print what is there: --report")
    named = ("all",) if args.yardsticks == [] else tuple(args.yardsticks or ())
    return run(Options(
        out=at_home(args.out).absolute(), cfgs=tuple(args.cfgs), axes=path(args.axes), opts=tuple(args.opts),
        seeds=tuple(dict.fromkeys(args.seeds)), folds=args.folds, fold=tuple(dict.fromkeys(args.fold)),
        fold_dir=path(args.fold_dir), inner=args.inner, root=path(args.root),
        tests={name: path(Path(value)) for name, value in args.test}, minutes=args.minutes or 0.0,
        iterations=args.iterations or 0, split={name: _share(name, value) for name, value in args.split},
        budget_from=path(args.budget_from), untrained=args.untrained, yardsticks=named,
        reference=args.reference, form=args.format, report=args.report, threads=args.threads,
        plugins=tuple(args.plugin),
    ))  # fmt: skip


def _fuse(args: argparse.Namespace) -> int:
    from bpmt_ext.engine.fuse import run

    return run(args.results, args.weights, args.out)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value or "/" in name:
        raise argparse.ArgumentTypeError(f"{text}: write NAME=VALUE")
    return name, value


def _share(name: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise UserError(f"--split {name}={value}: a share lies between 0 and 1, e.g. t1=0.4")
    return share


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no number of minutes above 0")
    return value


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
    parser = Parser(prog="bpmt", description="Body parts as modalities: gait and action recognition.")
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
    landmarks = commands.add_parser("landmarks", help="turn silhouettes into poses by a trained landmark network")
    _add_run(landmarks)
    landmarks.add_argument("--output", required=True, type=Path, metavar="DIR", help="the folder of the new data set")
    landmarks.set_defaults(handler=_landmarks)
    _add_compare(commands)
    fuse = commands.add_parser("fuse", help="average and score the saved predictions of several networks of actions")
    fuse.add_argument(
        "results", nargs="+", type=Path, metavar="RESULTS", help="predictions.npz, or a folder that holds one",
    )  # fmt: skip
    fuse.add_argument(
        "--weights", nargs="+", type=float, default=[], metavar="W", help="a weight for each (default: all equal)",
    )  # fmt: skip
    fuse.add_argument("--out", type=Path, metavar="DIR", help="also write results.json, predictions.npz, confusion.png")
    fuse.set_defaults(handler=_fuse)
    _add_hosts(commands)
    add_people(commands, _settings)
    add_report(commands)
    add_pictures(commands, _settings)
    add_export(commands, _settings)
    return parser


def _add_compare(commands: argparse._SubParsersAction) -> None:
    """The command that trains and tests several methods on the same splits."""
    compare = commands.add_parser(
        "compare", help="train and test several configs on the same splits; one table",
        description="Train and test methods on the same splits, each in a process of its own, and print one table. "
        "What stands in DIR is not done again; several processes may work in one DIR.",
    )  # fmt: skip
    add = compare.add_argument
    add("--cfgs", nargs="+", action="extend", default=[], metavar="[LABEL=]FILE[@scratch|@untrained]",
        help="configs; @scratch leaves out the earlier stages they name, @untrained trains nothing")
    add("--axes", type=Path, metavar="FILE", help="YAML grid over every config: section.key: [values], or name: "
        "{value: {section.key: value, ...}, ...} to change several keys together")
    add("--seeds", nargs="+", type=_count, default=[0], metavar="N", help="seeds of the trainings (default: 0)")
    add("--folds", type=_positive, default=0, metavar="K", help="folds 0 to K-1; without it the configs' own split")
    add("--fold", nargs="+", type=_count, default=[], metavar="I", help="only these folds, to share the work")
    add("--fold-dir", type=Path, metavar="DIR", help="where fold<i>.json lie (default: ROOT/folds; without --root, "
        "beside the configs' partition)")
    add("--inner", action="store_true", help="take fold<i>_inner.json, which leave the test people alone")
    add("--root", type=Path, metavar="PATH", help="training data of all configs, in place of data_cfg.dataset_root")
    add("--test", nargs="+", action="extend", type=_pair, default=[], metavar="NAME=ROOT",
        help="test sets by name and data root (default: the training root); {fold} in a root stands for fold0, fold1, "
        "... or, with --inner, fold0_inner, ...")
    length = compare.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=_minutes, metavar="M", help="length of one training, all stages: minutes of "
                        "processor time, on a GPU of the clock; becomes iterations by a speed measured once")
    length.add_argument("--iterations", type=_positive, metavar="N", help="length of one training, all stages")
    add("--split", nargs="+", action="extend", type=_pair, default=[], metavar="STAGE=SHARE",
        help="share of the length for a stage (default: as the configs' own total_iter cost)")
    add("--budget-from", type=Path, metavar="FILE", help="budget.json of another comparison: its measured speeds")
    add("--untrained", action="store_true", help="also every network as it starts")
    add("--yardsticks", nargs="*", metavar="NAME", help="also the yardsticks, all of them or these")
    add("--reference", default="best", metavar="LABEL", help="whom the others are compared with: best, first, a label")
    add("--format", choices=("markdown", "text", "csv", "latex", "json"), default="markdown",
        help="what is printed (default: markdown; csv: one table, the others after #; DIR/table.csv: a row a training)")
    add("--report", action="store_true", help="only print what stands in DIR")
    add("--threads", type=_positive, default=1, metavar="N", help="threads of a training on a CPU (default: 1)")
    add("--out", type=Path, required=True, metavar="DIR", help="the folder of this comparison")
    _add_plugins(compare)
    _add_opts(compare)
    compare.set_defaults(handler=_compare)


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


def guarded(name: str, handler: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """The handler's status; UserError, and a file the system refuses, as lines on standard error and 2, an
    interruption as 130."""
    survive_names(sys.stdout, sys.stderr)
    try:
        return handler(args)
    except UserError as error:
        for line in filter(str.strip, str(error).split("\n")):
            print(f"{name}: {printable(line)}", file=sys.stderr)
        return 2
    except OSError as error:
        full = error.errno in DISK_FULL
        if (error.filename is None and not full) or isinstance(error, BrokenPipeError):
            raise
        path = printable(str(error.filename or "a file"))
        if full:
            print(f"{name}: {path}: {error.strerror}; make room, then try again", file=sys.stderr)
            return 2
        print(f"{name}: {path}: {error.strerror}; correct the path or its permissions", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """`bpmt`. argv: the arguments, those of the process where left out."""
    args = _parser().parse_args(argv)
    return guarded("bpmt", args.handler, args)


def host_main(argv: Sequence[str] | None = None, prog: str = "main.py") -> int:
    """The hosts' command line: `--cfgs FILE --phase train|test [--iter N] [--log_to_file] [--opts ...]`."""
    parser = Parser(prog=prog, description="Train or test a network on the embedded engine.")
    _add_run(parser)
    parser.add_argument("--phase", choices=("train", "test"), default="train", help="default: %(default)s")
    return guarded("bpmt", _run, parser.parse_args(argv))
