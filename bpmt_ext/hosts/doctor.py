"""This machine, and a host's checkout, in; versions, devices, what is lacking and what is linked, as lines, out."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from bpmt_ext import __version__
from bpmt_ext.hosts.checkouts import find_host, install_hint, missing_imports
from bpmt_ext.hosts.link import read_manifest, sha256


def machine() -> tuple[list[str], list[str]]:
    """Lines about Python, packages and devices, and the faults among them as sentences."""
    import torch

    lines = [f"python       {platform.python_version()} on {platform.platform()}", f"bpmt_ext     {__version__}"]
    faults: list[str] = []
    try:
        needed = [text for text in requires("bpmt_ext") or [] if "extra ==" not in text]
    except PackageNotFoundError:
        needed = []
        faults.append("bpmt_ext is not installed in this Python, a host would not find it; pip install -e .")
    for text in needed:
        name = re.split(r"[^\w.-]", text)[0]
        try:
            lines.append(f"{name:12} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name:12} missing")
            faults.append(f"{name} is missing; pip install '{text}'")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines.append(f"devices      {os.cpu_count()} CPU cores; {', '.join(gpus) or 'no CUDA device'}")
    return lines, faults


def checkout(path: Path) -> tuple[list[str], list[str]]:
    """Lines about the host at `path`, and its faults. UserError if none stands there."""
    import torch

    found = find_host(path)
    lines, faults = [f"{found.host.name:12} {found.version}"], []
    lacking = missing_imports(found)
    lines.append(f"  needs      {'nothing more' if not lacking else ''}".rstrip())
    lines += [f"    {name} (imported by {file})" for name, file in lacking.items()]
    if lacking:
        hint = install_hint(list(lacking))
        faults.append(f"{path}: {found.host.name} cannot start in this Python, it lacks {', '.join(lacking)}; {hint}")
    if not torch.cuda.is_available():
        lines.append("    a CUDA device, without which it neither trains nor tests")
    manifest = read_manifest(found.root)
    if manifest is None:
        return [*lines, f"  linked     nothing; bpmt link {path}"], faults
    lines.append(f"  linked     by bpmt_ext {manifest.version}")
    for file, sha in sorted(manifest.files.items()):
        target = found.root / file
        state = "missing" if not target.is_file() else "" if sha256(target.read_bytes()) == sha else "changed since"
        lines.append(f"    {file.as_posix()} {state}".rstrip())
    if manifest.version != __version__:
        faults.append(f"{path}: is linked by bpmt_ext {manifest.version}, this is {__version__}; unlink and link again")
    return lines, faults
