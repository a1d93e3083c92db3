"""Every entry point in, with damaged files and words, up to 20,000 cases each; how many worked, were told, or failed, out.

    python tools/soak_fuzz.py --minutes 25 --seed 1 --json fuzz.json
    python tools/soak_fuzz.py --only casiab identify --cases 2000
    python tools/soak_fuzz.py --only casiab --first 1234 --cases 1       # one case again, by its number
    python tools/soak_fuzz.py --minutes 0 --cases 2000 --state fuzzed    # goes on where it was ended

The cases are those of tests/fuzz_entries.py and tests/fuzz_commands.py, dealt out to as many processes as there are
cores. Every entry point gets the same time; with `--minutes 0` all get all their cases, however long that takes.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bpmt_ext.engine.logs import write_json  # noqa: E402
from bpmt_ext.report.tables import text_table  # noqa: E402

STEP = 20  # cases between two looks at the clock


def _begun(state: Path | None, name: str, key: list[int]) -> dict[str, Any]:
    """The figures of an entry point in the folder `state`, if they are of the same cases; else those of none."""
    path = state / f"{name}.json" if state else None
    kept = json.loads(path.read_text("utf-8")) if path and path.is_file() else {}
    return kept if kept.get("of") == key else {"of": key, "cases": 0, "worked": 0, "told": 0, "sentences": {},
                                               "slowest": 0.0, "seconds": 0.0, "faults": []}  # fmt: skip


def _busy() -> float:
    """Seconds of the processor that this process and its ended children have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def work(names: Sequence[str], seconds: float, seed: int, first: int, cases: int, state: Path | None
         ) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The figures of these entry points, one after the other, each for so many seconds (0: until all its cases are
    done). state: a folder that they are kept in, from which the next run goes on."""
    warnings.simplefilter("ignore")
    from fuzz_commands import commands
    from fuzz_entries import converters
    from fuzzing import Tally, fuzz

    found = {}
    for name in names:
        one = found[name] = _begun(state, name, [seed, first])
        entry = converters().get(name) or commands()[name]
        tally = Tally(one["worked"], one["told"], one["slowest"], list(one["faults"]), Counter(one["sentences"]))
        begin, number = time.monotonic(), first + one["cases"]
        with tempfile.TemporaryDirectory(prefix="soak-fuzz-") as folder:
            while number < first + cases and (not seconds or time.monotonic() - begin < seconds):
                stop, before, known = min(number + STEP, first + cases), _busy(), len(tally.faults)
                fuzz(entry, Path(folder), range(number, stop), seed, tally)
                number = stop
                sys.stderr.write("".join(f"{fault}\n" for fault in tally.faults[known:]))
                one |= {"cases": tally.cases, "worked": tally.worked, "told": tally.told, "faults": tally.faults,
                        "sentences": dict(tally.sentences), "slowest": round(tally.slowest, 2),
                        "seconds": one["seconds"] + _busy() - before}  # fmt: skip
                if state:
                    write_json(state / f"{name}.json", one)
    return found


def _names() -> list[str]:
    from test_fuzz import COMMANDS, CONVERTERS

    return [*CONVERTERS, *COMMANDS]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, metavar="M", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="0: the tests' (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these entry points alone")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first case (default: %(default)s)")
    parser.add_argument("--cases", type=int, default=20_000, metavar="N", help="at most, each (default: %(default)s)")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="keep the figures there and go on from them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="default: %(default)s")
    args = parser.parse_args(argv)
    if args.state:
        args.state.mkdir(parents=True, exist_ok=True)
    names = _names()
    strange = sorted(set(args.only or ()) - set(names))
    if strange:
        parser.error(f"{strange[0]} is no entry point; known: {', '.join(names)}")
    names = args.only or names
    processes = max(1, min(len(names), args.processes))
    # slow and quick ones alternate, so that the processes end at about the same time
    parts = [names[i::processes] for i in range(processes)]
    jobs = [(part, 60 * args.minutes / len(part), args.seed, args.first, args.cases, args.state) for part in parts]
    if processes == 1:
        results = [work(*jobs[0])]
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            results = pool.starmap(work, jobs)
    found = {name: one for result in results for name, one in result.items()}
    for one in found.values():
        one |= {"sentences": len(one["sentences"]), "ms each": round(1000 * one["seconds"] / max(1, one["cases"]))}
    keys = ("cases", "worked", "told", "sentences", "slowest", "ms each")
    rows = [[name, *(str(found[name][key]) for key in keys), str(len(found[name]["faults"]))] for name in names]
    total = {key: sum(found[name][key] for name in names) for key in keys[:3]}
    faults = [fault for name in names for fault in found[name]["faults"]]
    rows.append(["all", *(str(total[key]) for key in keys[:3]), "", "", "", str(len(faults))])
    sys.stdout.write(text_table(["entry point", *keys, "faults"], rows) + "\n")
    if args.json:
        each = {name: found[name]["cases"] for name in names}
        cost = {name: found[name]["ms each"] for name in names}
        told = {"entry points": len(names), "cases": total["cases"], "cases each": each, "ms each": cost,
                "worked": total["worked"], "told in a sentence": total["told"], "faults": faults,
                "seed": args.seed}  # fmt: skip
        write_json(args.json, told)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
