"""Checkouts of the hosts in (FASTPOSEGAIT_HOME, OPENGAIT_HOME), a table of how far their numbers are from ours out.

    FASTPOSEGAIT_HOME=PATH OPENGAIT_HOME=PATH python tools/host_agreement.py [--json FILE]

The host's own modules and our engine are given the same made-up walkers and random numbers, on a CPU, one process a
host. A row's figure is the largest |theirs - ours| over max(1, largest |theirs|), once computed in float32 and, where
both sides can, once in float64; for records, labels and orders it is the number of entries that differ. A row `differs`
where the host has a defect that we do not share, named in the row. Exit status 1 if any other row is over its target.
Parts: losses here, transforms in host_agreement_transforms.py, data and evaluation in host_agreement_data.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from host_on_cpu import _AbsentFinder, find_package, patch_torch

from bpmt_ext.losses import LOSSES

HOMES = {"fastposegait": "FASTPOSEGAIT_HOME", "opengait": "OPENGAIT_HOME"}
TARGETS = {"single": 1e-5, "double": 1e-12, "count": 0.0, "spread": 0.05}


def apart(theirs: Any, ours: Any) -> float:
    """Largest difference over max(1, largest number); infinite where shapes or the places of NaN and inf differ."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (theirs, ours))
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    a, b = (np.where(np.isfinite(x), x, 0) for x in (a, b))
    return float(np.abs(a - b).max(initial=0) / max(1.0, np.abs(a).max(initial=0)))


def unequal(theirs: Any, ours: Any) -> float:
    """The number of places at which two sequences hold different things."""
    theirs, ours = list(theirs), list(ours)
    return float(sum(x != y for x, y in zip(theirs, ours, strict=False)) + abs(len(theirs) - len(ours)))


@dataclass
class Row:
    """One comparison. figures: by precision or kind, see TARGETS; differs: the defect of the host that explains it."""

    part: str
    what: str
    figures: dict[str, float]
    differs: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        within = all(value <= TARGETS[kind] for kind, value in self.figures.items())
        if self.differs:
            return "no longer differs" if within else "differs"
        return "agrees" if within else "DISAGREES"


@dataclass
class Host:
    """A host whose modules are imported in this process."""

    name: str
    home: Path
    rows: list[Row] = field(default_factory=list)

    def module(self, name: str) -> Any:
        return importlib.import_module(name)

    def add(self, part: str, what: str, figures: Mapping[str, float], differs: str = "", note: str = "") -> None:
        self.rows.append(Row(part, what, dict(figures), differs, note))

    def transform(self, cfg: Any) -> Any:
        """A transform, or a list of them, as the host builds it from a config."""
        return self.module("data.transform").get_transform(cfg)

    def unpack(self, x: np.ndarray, lengths: Any = None) -> list[np.ndarray]:
        """The host's poses, (n, c, t, v, 1), in OpenGait (n, t, c, v, 1), or n = 1 and lengths -> n times (t, v, c)."""
        pose = np.asarray(x)[..., 0]
        pose = pose.transpose(0, 2, 3, 1) if self.name == "fastposegait" else pose.transpose(0, 1, 3, 2)
        return list(pose) if lengths is None else np.split(pose[0], np.cumsum(np.asarray(lengths).ravel())[:-1])


def enter(home: Path) -> Host:
    """Make the host's modules importable, as its main.py would, and start its process group of one."""
    package = find_package(str(home))
    sys.dont_write_bytecode = True  # nothing is left in the checkout
    patch_torch()
    sys.meta_path.append(_AbsentFinder)
    os.chdir(home)
    sys.path.insert(0, str(home / package))
    torch.distributed.init_process_group("gloo")
    host = Host(package, home)
    host.module("utils").get_msg_mgr().logger = logging.getLogger("host")
    return host


# Losses -------------------------------------------------------------------------------------------------------------

SELF = "in the host a sequence's distance to itself is the root of a rounding error, not 0; seen at wide margins"
SHARED = "of several nearest or farthest the host pulls at one, ours at all: the value is the same"
NO_GRADIENT = "the host's gradient is not a number: the root of a distance of 0, and exponents out of range"
ACCURACY = "the host counts every part's answer, ours the mean of the parts' logits"


def labels(people: int, each: int) -> torch.Tensor:
    return torch.arange(people).repeat_interleave(each)


def features(people: int, each: int, width: int, parts: int, kind: str = "short") -> torch.Tensor:
    """Clustered embeddings (n, d, p) float32: short, long, or on a grid so coarse that sums of squares are exact."""
    g = torch.Generator().manual_seed(people + each + width + parts)
    x = torch.randn(people, 1, width, parts, generator=g) + torch.randn(people, each, width, parts, generator=g)
    x = x.flatten(0, 1) * (3 if kind == "long" else 0.3)
    return (8 * x).round() / 8 if kind == "grid" else x


def graded(loss: Callable[..., Any], x: torch.Tensor, **given: Any) -> tuple[float, np.ndarray, dict[str, Any]]:
    """Value, gradient and what is logged. The host's losses are vectors (p,) of which its aggregator takes the mean."""
    x = x.clone().requires_grad_()
    key = given.pop("argument")
    value, info = loss(**{key: x}, **given)
    value.mean().backward()
    return float(value.mean().detach()), x.grad.numpy(), info


def compare(host: Host, what: str, found: list[tuple[Any, ...]], value: str = "", gradient: str = "") -> None:
    """Rows of a loss's value and gradient, and why they differ. Gradients of a mean are small: on their own scale."""
    (theirs, their_gradient, _), (ours, our_gradient, _) = found
    scale = np.abs(their_gradient).max()
    host.add("loss", f"{what}: value", {"single": apart(theirs, ours)}, value)
    host.add("loss", f"{what}: gradient", {"single": apart(their_gradient / scale, our_gradient / scale)}, gradient)


def losses(host: Host) -> None:
    """Triplet and cross-entropy: value and gradient."""
    theirs = host.module("modeling.losses")
    kinds: list[dict[str, Any]] = [{"margin": 0.2}, {"margin": 5.0}]
    if host.name == "fastposegait":
        kinds += [{"margin": 0.3, "is_hard_loss": True}, {"margin": 3.0, "is_hard_loss": True}]
    for given in kinds:
        hard = given.get("is_hard_loss", False)
        for kind in ("short", "long", "grid"):
            x, y = features(8, 4, 64, 16, kind), labels(8, 4)
            found = [graded(side(**given), x, argument="embeddings", labels=y)
                     for side in (theirs.TripletLoss, LOSSES["TripletLoss"])]  # fmt: skip
            what = f"TripletLoss batch-{'hard' if hard else 'all'}, margin {given['margin']}, {kind} embeddings"
            counted = given["margin"] > 1  # then pairs this near, or this tied, are among those that count
            own = SELF if counted and kind == "short" and not hard else ""
            compare(host, what, found, own, SHARED if counted and kind == "grid" and hard else own)
    for given in ({}, {"label_smooth": False}, {"scale": 1, "eps": 0.3}):
        x, y = features(6, 4, 20, 5), labels(6, 4)
        found = [graded(side(**given, log_accuracy=True), x, argument="logits", labels=y)
                 for side in (theirs.CrossEntropyLoss, LOSSES["CrossEntropyLoss"])]  # fmt: skip
        what = f"CrossEntropyLoss {', '.join(f'{k} {v}' for k, v in given.items()) or 'defaults'}"
        compare(host, what, found)
    accuracy = (100 * float(found[0][2]["accuracy"]), float(found[1][2]["accuracy"]))
    host.add("loss", "CrossEntropyLoss: logged accuracy", {"single": apart(*accuracy)}, ACCURACY)


def contrastive(host: Host) -> None:
    """Supervised contrastive losses: value and gradient, rows of unit length."""
    theirs = host.module("modeling.losses")
    for name, views in (("SupConLoss_Re", 2), ("SupConLoss_Lp", 1)):
        for temperature in (0.01, 0.1):
            if not hasattr(theirs, name):
                continue
            x = torch.nn.functional.normalize(features(8, 4, 64, views), dim=1).transpose(1, 2).contiguous()
            x, y = x if views > 1 else x[:, 0], labels(8, 4)
            found = [graded(side(temperature=temperature), x, argument="features", labels=y)
                     for side in (getattr(theirs, name), LOSSES[name])]  # fmt: skip
            what = f"{name}, temperature {temperature}"
            if np.isfinite(found[0][1]).all():
                compare(host, what, found)
            else:  # nothing to compare a gradient with
                host.add("loss", f"{what}: value", {"single": apart(found[0][0], found[1][0])}, NO_GRADIENT)


# The table ----------------------------------------------------------------------------------------------------------


def measure(home: Path, out: Path) -> None:
    """All rows of one host, as JSON. Runs in a process of its own: two hosts' modules have the same names."""
    from host_agreement_data import batches, evaluation, records, samplers
    from host_agreement_protocols import protocols
    from host_agreement_transforms import transforms

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    host = enter(home)
    with tempfile.TemporaryDirectory() as folder:
        for part in (transforms, losses, contrastive, evaluation):
            part(host)
        for part in (records, batches, samplers, protocols):
            part(host, Path(folder))
    found = {"host": host.name, "rows": [asdict(row) | {"verdict": row.verdict} for row in host.rows]}
    out.write_text(json.dumps(found, indent=1))


def table(found: Mapping[str, Any]) -> str:
    """One host's rows as Markdown."""
    lines = [f"### {found['host']}", "", "| part | what | figure | verdict |", "|---|---|---|---|"]
    for row in found["rows"]:
        figures = ", ".join(f"{kind} {value:.1e}" if value else f"{kind} 0" for kind, value in row["figures"].items())
        verdict = ": ".join(filter(None, (row["verdict"], row["differs"] or row["note"])))
        lines.append(f"| {row['part']} | {row['what']} | {figures} | {verdict} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options.child, options.json)
        return 0
    homes = [Path(os.environ[name]).absolute() for name in HOMES.values() if os.environ.get(name)]
    if not homes:
        print(f"error: set {' or '.join(HOMES.values())} to a checkout", file=sys.stderr)
        return 2
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for k, home in enumerate(homes):
            out = Path(folder) / f"{k}.json"
            command = [sys.executable, __file__, "--child", str(home), "--json", str(out)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"error: {home}: {(done.stderr or done.stdout)[-2000:]}", file=sys.stderr)
                return 2
            found.append(json.loads(out.read_text()))
    print("\n\n".join(table(one) for one in found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(row["verdict"] == "DISAGREES" for one in found for row in one["rows"]))


if __name__ == "__main__":
    sys.exit(main())
