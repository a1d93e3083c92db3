"""A job in; done by a fresh process that ends with this one, its result, or the reason why there is none, out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bpmt_ext.engine.logs import write_json
from bpmt_ext.jsonfiles import read_json


def run_job(folder: Path, job: Mapping[str, Any], threads: int, descriptor: int | None = None) -> str:
    """`done`: `<folder>/result.json` is there; `input` or `crash`: `<folder>/failed.json` says why not.

    job: what `engine/cell.py` takes; its digest stands for what is to be done, and whatever another job has left in the
    folder is removed. threads: of the process, 0 as torch likes. descriptor: of the claim, which the process shares.
    """
    file, log, result, failed = (folder / name for name in ("job.json", "log.txt", "result.json", "failed.json"))
    if folder.exists() and (not file.is_file() or read_json(file, "digest")["digest"] != job["digest"]):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    write_json(file, {**job, "folder": str(folder), "result": str(result), "threads": threads})
    command = [sys.executable, "-m", "bpmt_ext.engine.cell", str(file), "--watch"]
    shared = () if descriptor is None else (descriptor,)
    with log.open("a", encoding="utf-8") as text:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=text, stderr=text, env=_environment(threads),
                                 pass_fds=shared)  # fmt: skip
        try:
            status = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            child.stdin.close()
    if status == -signal.SIGINT:
        raise KeyboardInterrupt
    if status == 0 and result.is_file():
        return "done"
    if status == 2 and failed.is_file():
        return "input"
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    write_json(failed, {"kind": "crash", "message": f"{how}: {lines[-1][:300] if lines else 'nothing was said'}"})
    return "crash"


def _environment(threads: int) -> dict[str, str]:
    """This process's, with the package where it is and the number of threads."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
    return {**os.environ, "PYTHONPATH": path, **own}
