"""NW-UCLA JSON in, `<out>/<class>/<s.._e..>/<v..>/<v..>.pkl` float32 (t, 20, 3) in metres out.

    python datasets/nw_ucla.py --input all_sqe --output data/NW-UCLA/pickles

Raw layout (tlca.md section 5): `a<action>_s<subject>_e<repetition>_v<view>.json` with file_name, skeletons [t][20][3]
and label; Kinect v1, joint order kinect20. Type is subject and repetition, view the camera. Splits: `views` (views 1
and 2 train, view 3 is tested: the protocol) and `view1_view2`; `--folds 5` leaves two subjects out on both views.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bpmt_ext.data import sequencelists
from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.poseactions import UCLA_JOINTS, ucla_pose
from bpmt_ext.data.posejson import FILE_BYTES, load_json
from bpmt_ext.data.rawtree import entered, nothing_found
from bpmt_ext.data.sequencelists import SequenceSplits
from bpmt_ext.errors import UserError
from bpmt_ext.words import Parser

ACTIONS = {
    1: "pick_up_with_one_hand", 2: "pick_up_with_two_hands", 3: "drop_trash", 4: "walk_around", 5: "sit_down",
    6: "stand_up", 8: "donning", 9: "doffing", 11: "throw", 12: "carry",
}  # fmt: skip
SPLITS = {"views": {"v01": "TRAIN", "v02": "TRAIN", "v03": "TEST"}, "view1_view2": {"v01": "TRAIN", "v02": "TEST"}}
WHOLE = {"views": (1020, 464), "view1_view2": (516, 504)}
_NAME = re.compile(r"a(\d\d)_(s\d\d)_(e\d\d)_(v0[123])\.json")
_LAYOUT = "a<action>_s<subject>_e<repetition>_v<view>.json"


def find_sequences(root: Path) -> tuple[list[Job], list[str]]:
    """(one job per JSON file, what was passed over because its name does not fit); root may hold all_sqe."""
    root = entered(root, "all_sqe", first=_NAME)
    jobs, ignored = [], []
    for path in sorted(root.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None or int(match[1]) not in ACTIONS or not path.is_file():
            ignored.append(str(path))
        else:
            label, view = ACTIONS[int(match[1])], match[4]
            jobs.append(Job(str(path), f"{label}/{match[2]}_{match[3]}/{view}/{view}.pkl"))
    if not jobs:
        raise nothing_found(root, _LAYOUT, ignored)
    return jobs, ignored


def read_sequence(job: Job) -> Raw:
    """One JSON file as (t, 20, 3)."""
    path = Path(job.source)
    value = load_json(path, FILE_BYTES)
    pose = ucla_pose(value, str(path))
    if value.get("file_name", path.stem) != path.stem:
        raise UserError(f"{path}: says that it is {str(value['file_name'])[:40]!r}; download it again.")
    return Raw(pose)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="nw_ucla", description="NW-UCLA JSON to pickles.")
    add_arguments(parser)
    sequencelists.add_arguments(parser)
    args = parser.parse_args(argv)

    def body() -> str:
        splits = SequenceSplits.of(args, ACTIONS.values(), {
            name: (lambda place, sides=sides: sides.get(place.rsplit("/", 1)[1])) for name, sides in SPLITS.items()
        }, WHOLE)  # fmt: skip
        jobs, ignored = find_sequences(args.input)
        splits.check(job.target for job in jobs)
        return convert_and_report(read_sequence, jobs, args, converter="nw_ucla", options={}, joints=UCLA_JOINTS,
                                  ignored=ignored, layout=_LAYOUT, benchmark=splits, folds=False)  # fmt: skip

    return run_entry("nw_ucla", body)


if __name__ == "__main__":
    raise SystemExit(main())
