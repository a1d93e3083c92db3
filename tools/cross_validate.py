"""A config, converted poses and fold files in; a table of retrieval metrics, mean and spread over the folds, out.

    python tools/cross_validate.py --cfgs configs/bpmt/bpmt_kinectgait.yaml --root K15 --test K-full=K15 \
        --test K-2s=K2S --folds K15/folds --output output/cv

Methods: `untrained` (the network as it starts, its input statistics fitted), `scratch` (finetuning alone) and
`pretrained` (T1, T2, then finetuning). Every fold trains on its whole TRAIN_SET with nothing held out and is scored at
its last iteration, so that no test person chooses anything. What is done already is not repeated: several processes
may share the work by `--fold`, and `--report` only prints what stands in the output folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from time import process_time

import numpy as np

from bpmt_ext.config import Settings, load_settings
from bpmt_ext.engine.distributed import World, world
from bpmt_ext.engine.logs import log, log_to, write_json
from bpmt_ext.engine.loop import fit_inputs
from bpmt_ext.engine.stages import build_run, load_data, score, test_config, train_config
from bpmt_ext.errors import UserError
from bpmt_ext.report.tables import text_table

METHODS = ("untrained", "scratch", "pretrained")
METRICS = ("Rank-1", "macro Rank-1", "Rank-5", "mAP", "mINP")


def one_fold(args: argparse.Namespace, here: World, fold: int, method: str, seed: int) -> None:
    """Train one method on one fold and write its scores on every test set to `<output>/<method>-<fold>-<seed>.json`."""
    target = args.output / f"{method}-{fold}-{seed}.json"
    if target.is_file():
        return
    output = args.output / f"fold{fold}-seed{seed}"
    opts = [
        *args.opts,
        f"data_cfg.dataset_root={args.root}",
        f"data_cfg.dataset_partition={args.folds / f'fold{fold}{args.inner}.json'}",
        "data_cfg.validation=0",
        "trainer_cfg.val_iter=0",
        f"trainer_cfg.seed={seed}",
        "trainer_cfg.with_test=false",
        "evaluator_cfg.restore_hint=last",
        "t1.trainer_cfg.val_iter=0",
        "t2.trainer_cfg.val_iter=0",
    ]
    if method != "pretrained":
        opts += [f"trainer_cfg.save_name={method}", f"evaluator_cfg.save_name={method}"]
    settings = load_settings(args.cfgs, [text for text in opts if not text.startswith(("t1.", "t2."))])
    if method != "pretrained":
        network = settings.model_cfg.model_copy(update={"stages": {}})
        settings = settings.model_copy(update={"model_cfg": network})
    start = process_time()
    if method != "untrained":
        train_config(settings, here, output, opts, Path.cwd())
    cost = process_time() - start
    scores = {name: test(settings, here, output, method, path) for name, path in args.test.items()}
    write_json(target, {"cpu_seconds": round(cost, 1), "seed": seed, "fold": fold, "scores": scores})


def test(settings: Settings, here: World, output: Path, method: str, root: Path) -> dict[str, float]:
    """Metrics of one method on one test root."""
    data = settings.data_cfg.model_copy(update={"dataset_root": str(root)})
    on_root = settings.model_copy(update={"data_cfg": data})
    if method != "untrained":
        return test_config(on_root, here, output)["metrics"]
    run = build_run(on_root, load_data(on_root), here, output / "untrained")
    fit_inputs(run)
    return score(run, iteration=0, write=False)["metrics"]


def report(output: Path, tests: Sequence[str]) -> str:
    """The table of everything that stands in the output folder: mean +- standard deviation over folds (and seeds)."""
    rows = []
    for name in tests:
        for method in METHODS:
            found = [json.loads(path.read_text()) for path in sorted(output.glob(f"{method}-*-*.json"))]
            found = [one for one in found if name in one["scores"]]
            if not found:
                continue
            cells = []
            for metric in METRICS:
                values = np.array([one["scores"][name][metric] for one in found])
                cells.append(f"{values.mean():.1f} +- {values.std():.1f}")
            minutes = np.mean([one["cpu_seconds"] for one in found]) / 60
            rows.append([f"{name} {method}", *cells, f"{minutes:.1f}", str(len(found))])
    return text_table(["", *METRICS, "CPU min", "runs"], rows)


def _pair(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: write NAME=FOLDER")
    return name, Path(path).absolute()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Cross-validate a config over prepared folds.")
    parser.add_argument("--cfgs", required=True, type=Path)
    parser.add_argument("--root", required=True, type=lambda p: Path(p).absolute(), help="pickles to train on")
    parser.add_argument("--test", action="append", type=_pair, required=True, help="NAME=pickles to test on; repeat it")
    parser.add_argument("--folds", required=True, type=lambda p: Path(p).absolute(), help="folder of fold<i>.json")
    parser.add_argument("--fold", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--inner", action="store_const", const="_inner", default="", help="the folds' inner splits")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--output", required=True, type=lambda p: Path(p).absolute())
    parser.add_argument("--report", action="store_true", help="only print the table")
    parser.add_argument("--opts", nargs="+", action="extend", default=[])
    args = parser.parse_args(argv)
    args.test = dict(args.test)
    log_to(None)
    log.setLevel(logging.WARNING)
    try:
        if not args.report:
            with world() as here:
                for seed in args.seeds:
                    for fold in args.fold:
                        for method in args.methods:
                            one_fold(args, here, fold, method, seed)
        sys.stdout.write(report(args.output, list(args.test)) + "\n")
    except UserError as error:
        sys.stderr.write(f"cross_validate: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
