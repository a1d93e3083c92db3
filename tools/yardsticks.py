"""Converted poses and five partition files in; mean and deviation over the folds of a yardstick's retrieval scores out.

    python tools/yardsticks.py --root ROOT --folds ROOT/folds --skeleton kinectgait20 --yardstick bone_lengths
    python tools/yardsticks.py --root ROOT --folds ROOT/folds --skeleton coco17 --yardstick pose_statistics \
        --same-camera drop
    python tools/yardsticks.py --root KM/{fold} --folds K15/folds --skeleton kinectgait20

Every fold: standardised on the sequences of TRAIN_SET (and VAL_SET), scored by `evaluate_retrieval` on those of
TEST_SET, leave-one-out, PROBE_SET ignored (specs/protocols.md, section 9).
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np

from bpmt_ext.cameras import CAMERAS
from bpmt_ext.data.pickles import read_pose
from bpmt_ext.data.sequences import Record, find_records, read_partition
from bpmt_ext.engine.testing import save_arrays
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.protocols import SAME_CAMERA, evaluate
from bpmt_ext.metrics.ranking import METRICS
from bpmt_ext.metrics.yardsticks import YARDSTICKS, fill_lost, standardise
from bpmt_ext.skeletons import get_skeleton

REPORTED = ("Rank-1", "Rank-5", "mAP", "mINP", "macro Rank-1")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="<root>/<label>/<type>/<view>/*.pkl; {fold} in "
                        "it stands for fold0, fold1, ...")
    parser.add_argument("--folds", type=Path, required=True, help="folder of fold0.json, fold1.json, ...")
    parser.add_argument("--skeleton", required=True, help="joint format, e.g. coco17 or kinectgait20")
    parser.add_argument("--yardstick", nargs="+", choices=sorted(YARDSTICKS), default=sorted(YARDSTICKS))
    parser.add_argument("--metric", choices=METRICS, default="euc")
    parser.add_argument("--same-camera", choices=SAME_CAMERA, default="keep")
    parser.add_argument("--camera", choices=sorted(CAMERAS), default="type_prefix")
    parser.add_argument("--save", type=Path, metavar="DIR", help="also write DIR/<yardstick>-fold<i>.npz, embeddings "
                        "and labels as a test does, for tools/verification.py")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    skeleton = get_skeleton(options.skeleton)
    files = sorted((f for f in options.folds.glob("fold*.json") if re.fullmatch(r"fold\d+", f.stem)),
                   key=lambda f: int(f.stem[4:]))
    if not files:
        raise UserError(f"--folds: {options.folds} holds no fold<i>.json; the converters write them beside the data.")
    scores: dict[str, list[list[float]]] = {name: [] for name in options.yardstick}
    valid, known, place, rows = [], None, {}, {}
    for file in files:
        root = Path(str(options.root).replace("{fold}", file.stem))
        if root != known:
            records, known = [record for record in find_records(root) if record.paths], root
            poses = fill_lost((read_pose(r.paths[0], joints=skeleton.num_joints) for r in records), skeleton)
            place = {record: i for i, record in enumerate(records)}
            rows = {name: YARDSTICKS[name](poses, skeleton) for name in options.yardstick}
        train, test = split(file, list(place))
        for name, row in rows.items():
            embeddings = standardise(*(row[[place[record] for record in part]] for part in (test, train)))
            result = evaluate(
                "evaluate_retrieval", embeddings, [r.label for r in test], [r.type for r in test],
                [r.view for r in test], metric=options.metric, same_camera=options.same_camera, camera=options.camera,
            )
            if options.save:
                labels = np.array([r.label for r in test])
                save_arrays(options.save / f"{name}-{file.stem}.npz", {"embeddings": embeddings, "labels": labels})
            scores[name].append([result["metrics"][metric] for metric in REPORTED])
        valid.append(f"{result['probes']['valid']}/{result['probes']['total']}")
    for name, values in scores.items():
        print(f"{name}: {len(files)} folds, mean +- population deviation; valid probes {' '.join(valid)}")
        for metric, row in zip(REPORTED, np.array(values).T, strict=True):
            each = " ".join(f"{value:.1f}" for value in row)
            print(f"  {metric:<12} {row.mean():6.2f} +- {row.std():5.2f}   ({each})")


def split(file: Path, records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Training and test records of a partition; UserError if it names labels that are not on disk."""
    partition = read_partition(file)
    training, testing = {*partition.train, *partition.val}, set(partition.test)
    absent = sorted((training | testing) - {record.label for record in records})
    if absent:
        raise UserError(f"{file}: {len(absent)} labels are not below --root, first {', '.join(absent[:3])}; "
                        "give the root these folds were made for.")
    return [r for r in records if r.label in training], [r for r in records if r.label in testing]


if __name__ == "__main__":
    sys.exit(main())
