"""An output folder and a seed in; made-up walkers, three trained stages and a table of results out: `bpmt demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic

import numpy as np

from bpmt_ext.config import Settings, configs_folder, load_settings
from bpmt_ext.data.sequences import Splits
from bpmt_ext.engine.distributed import world
from bpmt_ext.engine.logs import log, log_to, write_json
from bpmt_ext.engine.loop import fit_inputs
from bpmt_ext.engine.stages import build_run, data_skeleton, load_data, run_folder, train_config
from bpmt_ext.engine.testing import score, test_config
from bpmt_ext.metrics.protocols import evaluate
from bpmt_ext.metrics.yardsticks import embed as measure
from bpmt_ext.metrics.yardsticks import fill_lost
from bpmt_ext.report.tables import text_table
from bpmt_ext.synthetic import write_dataset

WALKERS = {"train": 250, "test": 48, "cameras": 4, "sequences": 2}
YARDSTICKS = ("single_frame", "pose_statistics", "cadence")
COLUMNS = ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP")


def run(output: Path, seed: int) -> int:
    """Make the data set, train T1, T2 and BPMT on it, test, print the table and write the curves; 0 when done.

    Interrupted, it goes on where it stopped. Test: 48 people never seen in training, leave-one-out over their
    sequences, the gallery never from the probe's own camera.
    """
    start = monotonic()
    log_to(None)
    data = output / f"walkers-{seed}"
    if not data.with_suffix(".json").is_file():  # written last: without it the folder is not complete
        log.info("making %d walkers, %d cameras", WALKERS["train"] + WALKERS["test"], WALKERS["cameras"])
        write_dataset(data, **WALKERS, seed=seed, with_probes=False)
    opts = [
        f"data_cfg.dataset_name={data.name}",  # another seed is another run
        f"data_cfg.dataset_root={data}",
        f"data_cfg.dataset_partition={data.with_suffix('.json')}",
        f"trainer_cfg.seed={seed}",
    ]
    settings = load_settings(configs_folder() / "bpmt" / "bpmt_demo.yaml", opts, output)
    with world() as here:
        train_config(settings, here, output, opts, output)
        trained = test_config(settings, here, output)
        splits = load_data(settings)
        untrained = build_run(settings, splits, here, output / "untrained")
        fit_inputs(untrained)
        first = score(untrained, iteration=0, write=False)
    rows = {"chance": {"Rank-1": 100 / WALKERS["test"]}, **yardsticks(settings, splits)}
    rows["BPMT, untrained"], rows["BPMT, trained"] = first["metrics"], trained["metrics"]
    folder = run_folder(settings, output)
    write_json(folder / "demo.json", {"seconds": round(monotonic() - start, 1), "rows": rows})
    counts = trained["probes"]
    sys.stdout.write(
        f"\n{WALKERS['test']} unseen walkers, {counts['valid']} probes, {WALKERS['cameras']} cameras, "
        "gallery never from the probe's camera (percent)\n\n" + table(rows) + "\n\n"
        f"curves     {folder / 'curves.png'}\nresults    {folder / 'results.json'}\n"
        f"took       {monotonic() - start:.0f} s\n"
    )
    return 0


def table(rows: dict[str, dict[str, float]]) -> str:
    """Method by metric."""
    cells = [[name, *(f"{row[c]:.1f}" if c in row else "-" for c in COLUMNS)] for name, row in rows.items()]
    return text_table(["method", *COLUMNS], cells)


def yardsticks(settings: Settings, splits: Splits) -> dict[str, dict[str, float]]:
    """What needs no learning: metrics by name, under the protocol of the settings."""
    skeleton, e, test = data_skeleton(settings), settings.evaluator_cfg, splits.test
    poses, training = (fill_lost(map(part.read, range(len(part))), skeleton) for part in (test, splits.train))
    labels = [record.label for record in test.records]
    found = {name: measure(name, poses, training, skeleton) for name in YARDSTICKS}
    # a mixture of both: one number needs a weight against dozens
    found["statistics and cadence"] = np.concatenate([found["pose_statistics"], 3 * found["cadence"]], axis=1)
    rule = {"same_camera": e.same_camera, "camera": e.camera}
    scores = {name: evaluate(e.eval_func, x, labels, test.types, test.views, **rule) for name, x in found.items()}
    return {f"yardstick: {name.replace('_', ' ')}": score["metrics"] for name, score in scores.items()}
