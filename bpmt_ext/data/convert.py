"""Raw sequences in, `<out>/<label>/<type>/<view>/<name>.pkl` and a health report out: what all converters share.

A converter brings a list of `Job` and a function that reads one; this file runs them in worker processes, writes
pickles (poses float32 (t, v, c) or silhouettes uint8 (t, h, w)), folds and the report. Beside the pickles lie
`sequences.jsonl` (one line per sequence, which is also what a rerun continues from) and `report.json` (the summary).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from bpmt_ext.data.forms import NOT_FINITE, Form
from bpmt_ext.data.partitions import Ending, folds_of, write_folds
from bpmt_ext.data.pickles import write_bytes, write_pickle
from bpmt_ext.data.posetexts import Raw
from bpmt_ext.errors import UserError, printable, survive_names
from bpmt_ext.regular import real_path

JOURNAL, REPORT = "sequences.jsonl", "report.json"
_EXAMPLES = 20  # faults named one by one in the report; all of them are counted


@dataclass(frozen=True)
class Job:
    """One sequence: where it is read and the pickle it becomes, `label/type/view/name.pkl`."""

    source: str
    target: str


@dataclass
class Outcome:
    """One line of the journal."""

    target: str
    written: bool
    frames: int  # in the pickle
    dropped: dict[str, int]
    faults: list[str]
    facts: dict[str, int]
    reason: str | None  # why there is no pickle
    constant: bool  # more than one frame, all equal
    digest: str  # of the numbers: tells recordings that occur twice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options every converter has."""
    parser.add_argument("--input", type=Path, required=True, metavar="RAW", help="folder or file of the raw data")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT", help="folder for the pickles")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8), help="processes (%(default)s)")
    parser.add_argument("--min-frames", type=int, default=1, help="drop shorter sequences (%(default)s)")
    parser.add_argument("--folds", type=int, metavar="K", help="also write OUT/folds/fold<i>.json for K-fold testing")
    parser.add_argument("--inner", action="store_true", help="with --folds: also fold<i>_inner.json, for choosing")


def run_entry(name: str, body: Callable[[], str]) -> int:
    """Run a converter's body and print the report it returns; exit status 0, 2 for bad input, 130 if interrupted."""
    survive_names(sys.stdout, sys.stderr)
    try:
        sys.stdout.write("".join(f"{printable(line)}\n" for line in body().split("\n")))
    except UserError as error:
        sys.stderr.write(f"{name}: {printable(str(error))}\n")
        return 2
    except OSError as error:  # no permission, no space, a file where a folder should be
        sys.stderr.write(f"{name}: {printable(str(error.filename or 'file system'))}: {error.strerror or error}.\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted; the same command continues where it stopped.\n")
        return 130
    return 0


def convert_and_report(read: Callable[[Job], Raw], jobs: Sequence[Job], args: argparse.Namespace, *, converter: str,
                       options: Mapping[str, Any], joints: int = 0, picture: tuple[int, int] | None = None,
                       ignored: Sequence[str] = (), layout: str = "", benchmark: Ending | None = None,
                       folds: bool = True) -> str:  # fmt: skip
    """`convert` with the options of `add_arguments`, then the folds and `partition.json`; the report for a person.

    ignored: what lies among the raw data under names that do not fit `layout`; the report says so. benchmark: who
    trains and who is tested. folds: whether --folds divides the labels; else it is the benchmark's own to see to.
    """
    if real_path(args.output) == real_path(args.input):
        raise UserError(f"--output {args.output}: is the folder of the raw data; name another folder.")
    if args.output.exists() and not args.output.is_dir():
        raise UserError(f"--output {args.output}: is a file; name a folder.")
    if args.inner and args.folds is None:
        raise UserError("--inner needs --folds K.")
    if folds and args.folds is not None and jobs:
        folds_of(_labels(jobs), args.folds)  # a wrong number should not show after an hour
    report = convert(read, jobs, args.output, converter=converter, options=options, joints=joints,
                     picture=picture, min_frames=args.min_frames, workers=args.workers)  # fmt: skip
    if folds and args.folds is not None:
        write_folds(args.output, written_labels(args.output), args.folds, args.inner)
    lines = [format_report(report)]
    if ignored:
        report["passed over"] = {"count": len(ignored), "names": list(ignored[:_EXAMPLES])}
        lines.append(f"  passed over, not named as in {layout}: {len(ignored)} ({'; '.join(ignored[:5])})")
    if benchmark is not None:
        found, words = benchmark.finish(args.output, written_targets(args.output))
        report |= found
        lines += words
    _write_report(args.output, report)
    return "\n".join(lines)


def _write_report(output: Path, report: Mapping[str, Any]) -> None:
    write_bytes(output / REPORT, (json.dumps(report, indent=1) + "\n").encode())


def convert(read: Callable[[Job], Raw], jobs: Sequence[Job], output: Path, *, converter: str,
            options: Mapping[str, Any], joints: int = 0, picture: tuple[int, int] | None = None, min_frames: int = 1,
            workers: int = 1) -> dict[str, Any]:  # fmt: skip
    """Convert every job that has no complete pickle yet; returns the report, which also becomes `report.json`.

    `read` must be a function of a module (it is sent to other processes). `options` are the settings the pickles depend
    on: an output folder made with others is refused. `joints` is the v of every pickle, or `picture` the (h, w) of
    silhouettes. A sequence that cannot be read is dropped and counted. Raises UserError where there is nothing to
    convert or nothing came out.
    """
    if not jobs:
        raise UserError("no sequence to convert; check --input.")
    odd = next((job for job in jobs if not _is_plain(job.target)), None)
    if odd is not None:
        raise UserError(f"{odd.source}: would become {odd.target!r}, no plain <label>/<type>/<view>/<name>.pkl inside "
                        "--output; rename it.")  # fmt: skip
    twice = [target for target, count in Counter(job.target for job in jobs).items() if count > 1]
    if twice:
        raise UserError(f"two raw sequences would both become {twice[0]}; rename or remove one.")
    if workers < 1 or min_frames < 1:
        raise UserError(f"--workers {workers} and --min-frames {min_frames} must be at least 1.")
    form = Form(joints, picture)
    header = {"converter": converter, "options": {**options, "min_frames": min_frames}}
    output.mkdir(parents=True, exist_ok=True)
    outcomes = _read_journal(output, header)
    for stale in output.glob(".*.tmp"):
        stale.unlink(missing_ok=True)
    todo = [job for job in jobs if not _complete(output, outcomes.get(job.target), form)]
    made = functools.partial(_convert_one, read=read, output=output, form=form, min_frames=min_frames)
    with open(output / JOURNAL, "a", encoding="utf-8") as journal:
        results = tqdm(_mapped(made, todo, workers), desc=converter, total=len(jobs), initial=len(jobs) - len(todo),
                       unit="seq", disable=None)  # fmt: skip
        for outcome in results:
            outcomes[outcome.target] = outcome
            journal.write(json.dumps(asdict(outcome)) + "\n")
            journal.flush()
    lines = [json.dumps(header), *(json.dumps(asdict(outcomes[target])) for target in sorted(outcomes))]
    write_bytes(output / JOURNAL, ("\n".join(lines) + "\n").encode())
    report = {**header, **_summary(list(outcomes.values()), already=len(jobs) - len(todo))}
    _write_report(output, report)
    if not report["sequences"]["written"]:
        reason, count = next(iter(report["sequences dropped, by reason"].items()))
        example = next(iter(report["left out"]), "no example").removesuffix(".")
        raise UserError(f"none of {len(jobs)} sequences could be converted; {count}: {reason} (the first: {example}); "
                        f"mend them or --input, see {output / REPORT}.")  # fmt: skip
    return report


def _is_plain(target: str) -> bool:
    """Whether this is label/type/view/name.pkl with no part that means another folder, hides, or is one of ours."""
    parts = target.split("/")
    plain = all(part and part[0] != "." and not set(part) & set("\\:") and part.isprintable() for part in parts)
    return plain and len(parts) == 4 and PurePosixPath(target).suffix == ".pkl" and parts[0] != "folds"


def _mapped(made: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    """The outcomes, in the order of the jobs; in this process if one worker or one job is enough."""
    if workers == 1 or len(jobs) < 2:
        yield from map(made, jobs)
        return
    context = multiprocessing.get_context("spawn")  # the same on every platform, and safe with threads
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=signal.signal,
                               initargs=(signal.SIGINT, signal.SIG_IGN))  # an interrupt is the parent's to handle
    try:
        yield from pool.map(made, jobs, chunksize=max(1, min(16, len(jobs) // (4 * workers))))
    except BrokenProcessPool as error:
        raise UserError("a worker process died, perhaps for lack of memory; run again with fewer --workers.") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _convert_one(job: Job, *, read: Callable[[Job], Raw], output: Path, form: Form, min_frames: int) -> Outcome:
    """Read one sequence, check it, write its pickle."""
    path = output / job.target
    if not real_path(path.parent).is_relative_to(real_path(output)):
        raise UserError(f"{path.parent}: a link leads out of {output}; remove the link.")
    try:
        raw = read(job)
    except UserError as error:  # of this sequence alone
        raw = Raw(form.empty(), faults=[str(error).removesuffix(".")], refused="cannot be read")
    dropped, reason = Counter(raw.dropped), raw.refused
    pose = form.fit(raw.pose, dropped, raw.faults, job.source)
    if reason is None and not len(pose):
        reason = "no usable frame"
    if reason is None and len(pose) < min_frames:
        reason = f"fewer than {min_frames} frames"
    if reason is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_pickle(path, pose)
    else:
        path.unlink(missing_ok=True)  # of an earlier run, when the raw sequence still was readable
    for stale in path.parent.glob(f".{path.name}.*.tmp"):  # left by a run that was killed while writing
        stale.unlink(missing_ok=True)
    return Outcome(
        target=job.target, written=reason is None, frames=len(pose) if reason is None else 0, dropped=dict(dropped),
        faults=raw.faults[:_EXAMPLES], facts={k: int(count) for k, count in raw.facts.items() if count}, reason=reason,
        constant=len(pose) > 1 and bool((pose == pose[0]).all()),
        digest=hashlib.sha256(repr(pose.shape).encode() + pose.tobytes()).hexdigest()[:16],
    )  # fmt: skip


def _read_journal(output: Path, header: Mapping[str, Any]) -> dict[str, Outcome]:
    """What earlier runs into this folder did, by target; starts the journal if there is none."""
    path = output / JOURNAL
    if not path.exists():
        if next(output.rglob("*.pkl"), None):
            raise UserError(f"{output}: holds pickles but no {JOURNAL} telling how they were made; use a new folder.")
        write_bytes(path, (json.dumps(header) + "\n").encode())
        return {}
    first, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if first != json.dumps(header):
        made = first[:500] if first.startswith('{"converter"') else f"something else ({first[:40]!r})"
        raise UserError(f"{path}: was made with {made}, not {json.dumps(header)}; use another --output.")
    outcomes = {}
    for line in lines:
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError, RecursionError):
            continue  # half a line, left by a run that was killed: that sequence is done again
        outcomes[outcome.target] = outcome
    if lines and lines[-1]:  # end the half line, so that what is appended starts a new one
        with open(path, "a", encoding="utf-8") as journal:
            journal.write("\n")
    return outcomes


def _complete(output: Path, outcome: Outcome | None, form: Form) -> bool:
    """Whether an earlier run wrote this pickle and it still is whole."""
    if outcome is None or not outcome.written:
        return False
    try:
        return form.count(output / outcome.target) == outcome.frames
    except UserError:
        return False


def _summary(outcomes: Sequence[Outcome], already: int) -> dict[str, Any]:
    """The health report: counts, reasons, and the first few names behind each."""
    written = [o for o in outcomes if o.written]
    lost = Counter(o.reason for o in outcomes if o.reason)
    dropped = sum((Counter(o.dropped) for o in outcomes), Counter())
    facts = sum((Counter(o.facts) for o in outcomes), Counter())
    alike: dict[str, list[str]] = {}
    for outcome in written:
        alike.setdefault(outcome.digest, []).append(outcome.target)
    twins = sorted(" = ".join(sorted(names)) for names in alike.values() if len(names) > 1)
    frames = sorted(o.frames for o in written) or [0]
    constant = sorted(o.target for o in written if o.constant)
    faults = [fault for o in outcomes for fault in o.faults]
    faults += [f"{o.target}: {o.reason}" for o in outcomes if o.reason]
    return {
        "sequences": {"found": len(outcomes), "written": len(written), "of these already there": already,
                      "dropped": len(outcomes) - len(written)},
        "labels": len(_labels(written)),
        "frames": {"kept": sum(frames), "dropped": sum(dropped.values()), "shortest": frames[0],
                   "median": frames[len(frames) // 2], "longest": frames[-1]},
        "sequences dropped, by reason": dict(lost.most_common()),
        "frames dropped, by reason": dict(dropped.most_common()),
        "sequences with NaN or infinity": sum(NOT_FINITE in o.dropped for o in outcomes),
        "constant sequences": {"count": len(constant), "names": constant[:_EXAMPLES]},
        "identical sequences": {"count": len(twins), "names": twins[:_EXAMPLES]},
        "noticed": {key: {"sequences": sum(key in o.facts for o in outcomes), "frames": facts[key]} for key in facts},
        "left out": faults[:_EXAMPLES],
        "left out, not listed": max(0, len(faults) - _EXAMPLES),
    }  # fmt: skip


def format_report(report: Mapping[str, Any]) -> str:
    """The report as lines for a person; what is empty or zero is left out where that loses nothing."""
    lines = [f"{report['converter']}: {report['labels']} labels"]
    for key in ("sequences", "frames"):
        lines.append(f"  {key}: " + ", ".join(f"{value} {name}" for name, value in report[key].items()))
    for key in ("sequences dropped, by reason", "frames dropped, by reason"):
        lines += [f"  {key}: {count} {name}" for name, count in report[key].items()]
    found, frames = report["sequences"]["found"], report["frames"]["kept"] + report["frames"]["dropped"]
    for name, count in report["noticed"].items():
        share, part = 100 * count["sequences"] / found, 100 * count["frames"] / max(1, frames)
        lines.append(f"  {name}: {count['sequences']} of {found} sequences ({share:.1f} %), {count['frames']} frames "
                     f"({part:.1f} per 100)")  # fmt: skip
    lines.append(f"  sequences with NaN or infinity: {report['sequences with NaN or infinity']}")
    for key in ("constant sequences", "identical sequences"):
        lines.append("; ".join([f"  {key}: {report[key]['count']}", *report[key]["names"]]))
    lines += [f"  left out: {fault}" for fault in report["left out"]]
    if report["left out, not listed"]:
        lines.append(f"  left out: {report['left out, not listed']} more, see {JOURNAL}")
    return "\n".join(lines)


def _labels(items: Iterable[Job | Outcome]) -> list[str]:
    """The labels of these sequences, sorted."""
    return sorted({item.target.split("/", 1)[0] for item in items})


def written_targets(output: Path) -> list[str]:
    """The pickles of a converted folder, `label/type/view/name.pkl`, sorted; from its journal."""
    lines = (output / JOURNAL).read_text(encoding="utf-8").splitlines()[1:]
    outcomes = (Outcome(**json.loads(line)) for line in lines)
    return sorted(outcome.target for outcome in outcomes if outcome.written)


def written_labels(output: Path) -> list[str]:
    """The labels that have a pickle in a converted folder, sorted."""
    return sorted({target.split("/", 1)[0] for target in written_targets(output)})
