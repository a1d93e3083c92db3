"""Folders of trained runs in; a page that lists them, and their weights as safetensors with a card each, out.

    python tools/model_zoo.py --runs output/demo output/compare --out docs/zoo.md [--weights /somewhere/zoo]

The page holds no time, no folder of this machine, and is the same for the same runs. Without --weights it lists what
is there and writes no weights. These go to a folder outside any repository: weights made of recordings are not to be
committed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bpmt_ext.cli import guarded
from bpmt_ext.config import FOLLOWS, configs_folder, load_settings
from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.engine.checkpoint import weights_hash
from bpmt_ext.engine.zoo import TrainedRun, export, find_runs, make_card, read_run
from bpmt_ext.errors import UserError
from bpmt_ext.report.tables import markdown_table

NOWHERE = Path("/-")  # what relative paths of shipped configs start from here
HEADLINES = ("Rank-1", "Rank-5", "mAP", "mINP")
SCHEDULE = {"scheduler_cfg.total_steps": "trainer_cfg.total_iter"}
MAY_BE_NULL = ("data_cfg.", "evaluator_cfg.", "trainer_cfg.", "model_cfg.stages.")  # what a run took out again
DATA = ("data_cfg.dataset_root", "data_cfg.dataset_partition")
HEAD = """# Trained networks

Made by `python tools/model_zoo.py` from runs on disk; edit nothing here. Figures are percent, of the test each run was
given. The weights are not part of the repository: those made of recordings of people must not be passed on without
their owners' leave. The commands train the same networks again; `DATA` stands for the folder your data lies in.

Weights come as `<name>.safetensors` with a card `<name>.json` (`--weights DIR`):

```python
from bpmt_ext.engine.zoo import load_card
network, transform = load_card("zoo/NAME.json")                       # eval mode
embedding = network(*transform.reframe(pose, mask))["embedding"]      # pose (n, t, v, c), mask (n, t) -> (n, d, p)
```

`evaluator_cfg.restore_hint` and `trainer_cfg.restore_hint` take the `.safetensors` file in place of a checkpoint.
"""


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {dotted key: value}; lists are values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


@cache
def shipped() -> dict[str, tuple[str, dict[str, Any]]]:
    """The shipped configs that name a network: {configs/...: (network, flat settings)}."""
    found = {}
    for file in sorted(configs_folder().rglob("*.yaml")):
        if file.name.startswith("_") or file.name == "default.yaml":
            continue
        values = load_settings(file, [], NOWHERE).resolved()
        found[f"configs/{file.relative_to(configs_folder()).as_posix()}"] = (values["model_cfg"]["model"], flat(values))
    return found


def differences(own: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The keys a run has that its config has not, or has otherwise: what --opts must say."""
    found = {}
    for key in dict.fromkeys([*own, *(key for key in base if key.startswith(MAY_BE_NULL))]):
        value, there = own.get(key), base.get(key)
        if isinstance(value, str) and value.startswith("/"):
            relative = str(Path(there).relative_to(NOWHERE)) if str(there).startswith(str(NOWHERE)) else None
            if relative and value.endswith(f"/{relative}") or key.startswith("model_cfg.stages.") and there and (
                Path(value).name == Path(there).name
            ):
                continue
            value = f"DATA/{Path(value).name}" if key in DATA else Path(value).name
        if key not in base and value is None or value == there:
            continue
        found[key] = value
    for key, origin in {**FOLLOWS, **SCHEDULE}.items():
        if key in found and own.get(key) == own.get(origin) and base.get(key, base.get(origin)) == base.get(origin):
            del found[key]
    return found


def nearest(model: str, own: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The shipped config of that network from which a run differs least, and in what."""
    rows = [(name, differences(own, base)) for name, (network, base) in shipped().items() if network == model]
    return min(rows, key=lambda row: (len(row[1]), row[0]), default=None)


def stage_runs(run: TrainedRun) -> dict[str, TrainedRun]:
    """The runs of the earlier stages, where they lie beside it."""
    found = {}
    for name, value in run.settings.model_cfg.stages.items():
        base = next((base for file, (_, base) in shipped().items() if Path(file).name == Path(value).name), None)
        if base is not None:
            folder = run.folder.parents[1] / base["model_cfg.model"] / base["trainer_cfg.save_name"]
            if (folder / "config.yaml").is_file() and any(folder.glob("checkpoints/*.pt")):
                found[name] = read_run(folder)
    return found


def command(run: TrainedRun) -> tuple[str, str]:
    """The config a run was made with, as far as it ships, and the line that makes it again."""
    own = flat(run.settings.resolved())
    near = nearest(run.settings.model_cfg.model, own)
    if near is None:
        return "-", "(its config is not one of the shipped ones)"
    config, changed = near
    for name, stage in sorted(stage_runs(run).items()):
        theirs = nearest(stage.settings.model_cfg.model, flat(stage.settings.resolved()))
        for key, value in (theirs[1] if theirs else {}).items():
            if not key.startswith("data_cfg.") and (key, value) != ("trainer_cfg.seed", own["trainer_cfg.seed"]):
                changed[f"{name}.{key}"] = value
    seed = own["trainer_cfg.seed"]
    demo = {"data_cfg.dataset_name", *DATA, "trainer_cfg.seed"}
    if Path(config).stem == "bpmt_demo" and own["data_cfg.dataset_name"] == f"walkers-{seed}" and set(changed) <= demo:
        return config, f"bpmt demo --seed {seed}"
    opts = [shlex.quote(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
            for key, value in sorted(changed.items())]
    return config, " ".join(["bpmt train --cfgs", config, *(["--opts", *opts] if opts else [])])


def named(runs: Sequence[TrainedRun]) -> list[tuple[str, TrainedRun]]:
    """The runs in order, each with a name of its own: data set, save name, fold, seed; of equal ones their weights."""
    def first(run: TrainedRun) -> str:
        s, lists = run.settings, Path(run.settings.data_cfg.dataset_partition).stem
        fold = [lists] if lists.startswith("fold") else []
        words = dict.fromkeys([s.data_cfg.dataset_name, s.trainer_cfg.save_name, *fold, f"s{s.trainer_cfg.seed}"])
        return "-".join("".join(c if c.isalnum() or c in "._+" else "_" for c in word) for word in words)

    names = [first(run) for run in runs]
    whole = [(name if names.count(name) == 1 else f"{name}-{weights_hash(run.weights)}", run)
             for name, run in zip(names, runs, strict=True)]
    # the same training found twice is one entry
    return sorted(dict(whole).items(), key=lambda row: (row[1].settings.data_cfg.dataset_name, row[0]))


def figures(card: Mapping[str, Any]) -> str:
    """The headline figures of a card's first test."""
    metrics = next(iter(card["scores"].values()), {}).get("metrics", {})
    words = [f"{name} {value:.1f}" for name, value in metrics.items()
             if name in HEADLINES or name.endswith(" Rank-1") and name.count(" ") == 1 and "macro" not in name]
    return ", ".join(words) or "not tested"


def entry(card: Mapping[str, Any], config: str, line: str) -> str:
    """One run's section of the page."""
    lines = [f"### {card['name']}", "", f"`{line}`", "",
             f"* config `{config}`, settings {card['config']}",
             f"* checkpoint `{card['checkpoint']['file']}`, sha256 {card['checkpoint']['sha256']}"]
    if "weights" in card:
        lines.append(f"* weights `{card['weights']['file']}`, sha256 {card['weights']['sha256']}")
    lines.append(f"* data {card['data'] or 'not known: it was not tested'}; seed {card['seed']}, iteration "
                 f"{card['iteration']}")
    for test, score in card["scores"].items():
        probes = score.get("probes", {})
        told = ", ".join(f"{name} {value:.2f}" for name, value in score["metrics"].items())
        counted = f"{probes.get('valid')} of {probes.get('total')} probes"
        lines.append(f"* {test} by {score.get('protocol')}, {counted}: {told}")
    lines.append("* made with " + ", ".join(f"{name} {version}" for name, version in card["versions"].items()))
    lines.append(f"* {card['licence']}")
    return "\n".join(lines)


def page(rows: Sequence[tuple[Mapping[str, Any], str, str]]) -> str:
    """Cards with their configs and commands as the Markdown page."""
    header = ["name", "network", "config", "data set", "figures", "parameters", "iteration", "seed", "data",
              "checkpoint"]
    cells = [[card["name"], card["network"], config, card["dataset"], figures(card), f"{card['parameters']:,}",
              str(card["iteration"]), str(card["seed"]), (card["data"] or "-")[:8], card["checkpoint"]["sha256"][:12]]
             for card, config, _ in rows]
    return "\n".join([HEAD, markdown_table(header, cells, 5), "", *(entry(*row) + "\n" for row in rows)])


def run(args: argparse.Namespace) -> int:
    rows = []
    for name, one in named(find_runs(args.runs)):
        if not one.scores and not args.untested:
            continue
        config, line = command(one)
        card = {**make_card(one, name), "command": line}
        rows.append((export(one, card, args.weights.expanduser().absolute()) if args.weights else card, config, line))
    if not rows:
        raise UserError("--runs: none of the runs there was tested; test one, or add --untested")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(args.out, page(rows).encode())
    where = f"; weights in {args.weights}" if args.weights else ""
    print(f"{args.out}: {len(rows)} trained network{'s' if len(rows) > 1 else ''}{where}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, required=True, metavar="DIR", help="folders with runs in them")
    parser.add_argument("--out", type=Path, default=Path("docs/zoo.md"), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--weights", type=Path, metavar="DIR",
                        help="also write weights and cards; outside any repository")
    parser.add_argument("--untested", action="store_true", help="list stages and runs without results too")
    return guarded("model_zoo", run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
