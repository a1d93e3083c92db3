"""Published result tables in; the same trainings on your data, published | ours | difference, out.

    python tools/reproduce_tables.py --list
    python tools/reproduce_tables.py --check [ID ...]
    python tools/reproduce_tables.py --run ID [--epochs-scale 0.1] [--out DIR] [--opts data_cfg.dataset_root=...]

The rows are those of bpmt_ext/report/published.yaml. --check loads every recipe and builds its network (with few
classes), losses, transforms and protocol, and says what is missing; status 1 if a recipe is broken. --run trains it as
printed and writes DIR/<id>.json; status 0 within the tolerance, 1 missed, 2 bad input or no data. Interrupted, the same
command goes on. Under torchrun it uses all processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bpmt_ext.cli import guarded
from bpmt_ext.config import load_settings, suggestion
from bpmt_ext.engine.distributed import world
from bpmt_ext.engine.logs import log_to, write_json
from bpmt_ext.engine.methods import own_options, stages_of
from bpmt_ext.engine.recipes import (
    APPLY,
    as_printed,
    beside,
    check,
    configs_of,
    find_config,
    measure,
    portable,
    tested_on,
)
from bpmt_ext.engine.stages import train_config
from bpmt_ext.errors import UserError
from bpmt_ext.report.published import FILE, Published, read_published
from bpmt_ext.report.tables import text_table


def run(row: Published, opts: Sequence[str], root: Path, out: Path, scale: float) -> int:
    """Train and test a row, print it beside what was published, write <out>/<id>.json; 0 within tolerance, else 1."""
    if row.config is None:
        raise UserError(f"{row.id}: has no recipe here ({row.note or 'only figures are known'}); --list shows those "
                        "that have a config")
    finding = check(row, opts, root)
    if finding.wants:
        where = ", ".join(APPLY.get(name, f"the owners of {name}") for name in finding.datasets)
        finding.wants.append(f"apply for it at {where}, convert it (datasets/README.md), or say where it lies: --opts "
                             "data_cfg.dataset_root=DIR data_cfg.dataset_partition=FILE")
    if finding.faults or finding.wants:
        raise UserError(f"{row.id}: " + "; ".join([*finding.faults, *finding.wants]))
    folder = out / row.id / ("full" if scale == 1 else f"x{scale:g}")
    with world() as here:
        opts = as_printed(row, opts, root, folder, scale)
        settings = stages_of(row.config, opts, root)[-1].settings
        train_config(settings, here, folder, opts, root)
        figures, details = measure(row, settings, here, folder, root)
        if not here.main:
            return 0
        rows = beside(row, figures)
        done = all(one["within"] for one in rows)
        write_json(out / f"{row.id}.json", {
            "id": row.id, "config": row.config, "opts": portable(opts), "epochs_scale": scale,
            "tolerance": row.tolerance, "rows": rows, "reproduced": done, "source": row.source, **details,
        })
    shown = [[one["metric"], f"{one['published']:.2f}", _text(one["ours"], ".2f"), _text(one["difference"], "+.2f"),
              "yes" if one["within"] else "no"] for one in rows]
    print(text_table(["", "published", "ours", "difference", f"within {row.tolerance:g}"], shown))
    length = "as long as printed" if scale == 1 else f"{scale:g} of the printed length"
    size = f"; {details['probes']['valid']} probes, gallery {details['gallery']}" if "gallery" in details else ""
    size = f"; {details['probes']['valid']} clips tested" if "probes" in details and not size else size
    print(f"trained {length}{size}; {_where(out)}/{row.id}.json")
    return 0 if done else 1


def _where(out: Path) -> Path:
    return out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def print_tables(rows: Sequence[Published], opts: Sequence[str], root: Path) -> None:
    """--list: every table with its figures, tolerances, configs, and whether the data is at hand."""
    for table in dict.fromkeys(row.table for row in rows):
        cells = []
        for row in (one for one in rows if one.table == table):
            figures = ", ".join(f"{name} {value:g}" for name, value in row.metrics.items())
            tolerance = "-" if row.tolerance is None else f"{row.tolerance:g}"
            cells.append([row.id, row.model, row.recipe, figures, tolerance, row.config or "-",
                          _at_hand(row, opts, root)])
        print(f"{table}\n" + text_table(["id", "method", "recipe", "published", "within", "config", "data"], cells, 7)
              + "\n")


def _at_hand(row: Published, opts: Sequence[str], root: Path) -> str:
    if row.config is None:
        return "-"
    if not all(map(find_config, configs_of(row))):
        return "config not there yet"
    try:
        settings = load_settings(row.config, own_options([*row.opts, *opts]), root)
    except UserError as error:
        raise UserError(f"{row.id}: {error}") from error
    here = [Path(one.data_cfg.dataset_root or " ").is_dir() for one in (settings, tested_on(row, settings, root))]
    return "yes" if all(here) else "no"


def print_checks(rows: Sequence[Published], opts: Sequence[str], root: Path) -> int:
    """--check: one line a row and one for whatever is wrong or missing; 1 if a recipe is broken."""
    states, wanted = dict.fromkeys(("ready", "waits", "broken", "figures only"), 0), set()
    for row in rows:
        found = check(row, opts, root)
        state = ("broken" if found.faults else "waits" if found.wants else "ready") if row.config else "figures only"
        states[state] += 1
        wanted.update(found.datasets)
        size = f"{found.parameters:,} parameters (built for 2 classes)" if found.parameters else ""
        print(f"{row.id:34}  {state:12}  {size if row.config else row.note or ''}".rstrip())
        for text in [*found.faults, *found.wants]:
            print(f"    {text}")
    print("\n" + ", ".join(f"{count} {state}" for state, count in states.items()))
    for name in sorted(wanted):
        print(f"{name}: apply at {APPLY.get(name, 'its owners')}")
    return 1 if states["broken"] else 0


def chosen(rows: Sequence[Published], names: Sequence[str]) -> list[Published]:
    """The rows of these ids, all where none is named. UserError for an unknown one."""
    known = {row.id: row for row in rows}
    for name in names:
        if name not in known:
            raise UserError(f"there is no row {name!r}{suggestion(name, known)}; --list shows all")
    return [known[name] for name in names] or list(rows)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="print the tables")
    what.add_argument("--check", nargs="*", metavar="ID", help="try the recipes, all or these, without training")
    what.add_argument("--run", metavar="ID", help="train and test one row")
    add = parser.add_argument
    add("--epochs-scale", type=float, default=1.0, metavar="S", help="length of the training, 1 as printed")
    add("--out", type=Path, default=Path("output/reproduced"), metavar="DIR", help="default: %(default)s")
    add("--table", type=Path, default=FILE, metavar="FILE", help="another list of published results")
    add("--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="config overrides")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    return guarded("reproduce_tables", _main, parse(arguments))


def _main(args: argparse.Namespace) -> int:
    root = Path.cwd()
    if not 0 < args.epochs_scale < 1000:
        raise UserError(f"--epochs-scale {args.epochs_scale:g}: give a factor above 0, 1 for the printed length")
    rows = read_published(args.table)
    if args.list:
        print_tables(rows, args.opts, root)
        return 0
    if args.check is not None:
        return print_checks(chosen(rows, args.check), args.opts, root)
    (row,) = chosen(rows, [args.run])
    log_to(None)
    return run(row, args.opts, root, args.out.expanduser().absolute(), args.epochs_scale)


if __name__ == "__main__":
    sys.exit(main())
