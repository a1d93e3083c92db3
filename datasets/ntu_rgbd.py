"""NTU RGB+D skeletons in, `<out>/<class>/<P.._S.._R..>/<C..>/<C..>.pkl` float32 (t, b 25, 3) in metres out.

    python datasets/ntu_rgbd.py --input nturgb+d_skeletons --output data/NTU60/pickles --missing FILE
    python datasets/ntu_rgbd.py --input RAW --output data/NTU120/pickles --benchmark ntu120 --bodies 2 --missing FILE
    python datasets/ntu_rgbd.py --input ntu60_3danno.pkl --output OUT           # a published annotation pickle

Raw layout (tlca.md section 5): `S<setup>C<camera>P<performer>R<replication>A<action>.skeleton`, text, all bodies of
each frame with their ids; joint order ntu25. Type is performer, setup and replication, view the camera. Two bodies
stand one after the other, (t, 50, 3), the livelier first. Splits: `xsub`, and `xview` (ntu60) or `xset` (ntu120).
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bpmt_ext.data import sequencelists
from bpmt_ext.data.bodies import add_body_arguments, pose_of
from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.poseactions import NTU_JOINTS, Clip, read_annotations, read_skeleton_text
from bpmt_ext.data.rawtree import nothing_found
from bpmt_ext.data.sequencelists import SequenceSplits
from bpmt_ext.errors import UserError
from bpmt_ext.regular import read_regular
from bpmt_ext.words import Parser

# In the order of the action numbers, A001 first. 1 to 60 are ntu60; two people act in 50 to 60 and 106 to 120.
ACTIONS = tuple(
    "drink_water eat_meal brush_teeth brush_hair drop pick_up throw sit_down stand_up clapping reading writing "
    "tear_up_paper put_on_jacket take_off_jacket put_on_a_shoe take_off_a_shoe put_on_glasses take_off_glasses "
    "put_on_a_hat_cap take_off_a_hat_cap cheer_up hand_waving kicking_something reach_into_pocket hopping jump_up "
    "phone_call play_with_phone_tablet type_on_a_keyboard point_to_something taking_a_selfie check_time rub_two_hands "
    "nod_head_bow shake_head wipe_face salute put_palms_together cross_hands_in_front sneeze_cough staggering "
    "falling_down headache chest_pain back_pain neck_pain nausea_vomiting fan_self punch_slap kicking pushing "
    "pat_on_back point_finger hugging giving_object touch_pocket shaking_hands walking_towards walking_apart "
    "put_on_headphone take_off_headphone shoot_at_basket bounce_ball tennis_bat_swing juggle_table_tennis_ball hush "
    "flick_hair thumb_up thumb_down make_ok_sign make_victory_sign staple_book counting_money cutting_nails "
    "cutting_paper snap_fingers open_bottle sniff_smell squat_down toss_a_coin fold_paper ball_up_paper "
    "play_magic_cube apply_cream_on_face apply_cream_on_hand put_on_bag take_off_bag put_object_into_bag "
    "take_object_out_of_bag open_a_box move_heavy_objects shake_fist throw_up_cap_hat capitulate cross_arms "
    "arm_circles arm_swings run_on_the_spot butt_kicks cross_toe_touch side_kick yawn stretch_oneself blow_nose "
    "hit_with_object wield_knife knock_over grab_stuff shoot_with_gun step_on_foot high_five cheers_and_drink "
    "carry_object take_a_photo follow whisper exchange_things support_somebody rock_paper_scissors".split()
)
_XSUB60 = (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
_XSUB120 = _XSUB60 + (
    45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95,
    97, 98, 100, 103,
)  # fmt: skip
_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
_PLACE = re.compile(r"[^/]+/P(\d{3})_S(\d{3})_R\d{3}/C(\d{3})")
_LAYOUT = "S<setup>C<camera>P<performer>R<replication>A<action>.skeleton"
SPINE_MID = 1


@dataclass(frozen=True)
class Benchmark:
    """One of the two releases: its classes and setups, its splits, and how many clips it lists as incomplete."""

    actions: int
    setups: int
    incomplete: int
    train: dict[str, Callable[[int, int, int], bool]]  # split -> whether performer, setup, camera train
    whole: dict[str, tuple[int, int]]


BENCHMARKS = {
    "ntu60": Benchmark(
        60, 17, 302, {"xsub": lambda p, s, c: p in _XSUB60, "xview": lambda p, s, c: c in (2, 3)},
        {"xsub": (40091, 16487), "xview": (37646, 18932)},
    ),
    "ntu120": Benchmark(
        120, 32, 535, {"xsub": lambda p, s, c: p in _XSUB120, "xset": lambda p, s, c: s % 2 == 0},
        {"xsub": (63026, 50919), "xset": (54468, 59477)},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ClipJob(Job):
    """A clip of an annotation pickle, already read."""

    clip: Clip


def split_rule(train: Callable[[int, int, int], bool]) -> Callable[[str], str | None]:
    """From "label/type/view" to TRAIN or TEST."""

    def side(place: str) -> str:
        performer, setup, camera = (int(number) for number in _PLACE.fullmatch(place).groups())  # type: ignore[union-attr]
        return "TRAIN" if train(performer, setup, camera) else "TEST"

    return side


def target_of(name: str, benchmark: Benchmark) -> str | None:
    """The pickle of the clip of this name; None if the release has none of that name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    setup, camera, performer, replication, action = match.groups()
    if not (1 <= int(action) <= benchmark.actions and 1 <= int(setup) <= benchmark.setups):
        return None
    return f"{ACTIONS[int(action) - 1]}/P{performer}_S{setup}_R{replication}/C{camera}/C{camera}.pkl"


def find_sequences(root: Path, benchmark: Benchmark) -> tuple[list[Job], list[str]]:
    """(one job per .skeleton file below root, what was passed over because its name does not fit)."""
    if not root.is_dir():
        raise UserError(f"{root}: is no folder and no .pkl; give --input the unpacked nturgb+d_skeletons.")
    jobs, ignored = [], []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        target = target_of(path.stem, benchmark) if path.suffix == ".skeleton" else None
        if target is None:
            ignored.append(str(path))
        else:
            jobs.append(Job(str(path), target))
    if not jobs:
        raise nothing_found(root, _LAYOUT, ignored)
    return jobs, ignored


def find_annotations(path: Path, benchmark: Benchmark) -> tuple[list[Job], list[str]]:
    """(one job per clip of an annotation pickle, the names that do not fit)."""
    jobs: list[Job] = []
    ignored = []
    for entry in read_annotations(path)[1]:
        target = target_of(entry.name, benchmark)
        if entry.joints != NTU_JOINTS or entry.scored:
            raise UserError(f"{path}: {entry.name[:60]} has {entry.joints} joints in {2 if entry.scored else 3}D; the "
                            f"file with {NTU_JOINTS} joints in 3D is read.")  # fmt: skip
        if target is None:
            ignored.append(f"{path}: {entry.name[:60]}")
        else:
            jobs.append(ClipJob(f"{path}: {entry.name}", target, entry.clip))
    if not jobs:
        raise UserError(f"{path}: none of its {len(ignored)} clips is named {_LAYOUT.removesuffix('.skeleton')}.")
    return jobs, ignored


def read_missing(path: Path) -> frozenset[str]:
    """The names of incomplete clips in a benchmark's list; other lines, its heading for one, are passed over."""
    try:
        text = read_regular(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--missing {path}: cannot be read as text ({error}).") from None
    names = frozenset(match[0] for match in _NAME.finditer(text))
    if not names:
        raise UserError(f"--missing {path}: names no clip; expected S001C001P001R001A001 and so on, one per line.")
    return names


def read_sequence(job: Job, missing: Collection[str], bodies: int, denoise: str, absent: str, centre: bool) -> Raw:
    """One clip as (t, b 25, 3)."""
    name = _NAME.search(Path(job.source).name)
    if name is not None and name[0] in missing:
        return Raw(np.empty((0, bodies * NTU_JOINTS, 3)), refused="named by --missing")
    clip = job.clip if isinstance(job, ClipJob) else read_skeleton_text(Path(job.source))
    raw = pose_of(clip.tracks, clip.frames, bodies=bodies, joints=NTU_JOINTS, denoise=denoise, absent=absent,
                  centre=SPINE_MID if centre else None)  # fmt: skip
    return Raw(raw.pose, raw.dropped, raw.faults, clip.facts | raw.facts, raw.refused)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="ntu_rgbd", description="NTU RGB+D skeletons to pickles.")
    add_arguments(parser)
    sequencelists.add_arguments(parser)
    add_body_arguments(parser, denoise="published")
    parser.add_argument("--benchmark", choices=tuple(BENCHMARKS), default="ntu60", help="release (%(default)s)")
    parser.add_argument("--missing", type=Path, metavar="FILE", help="the release's list of incomplete clips")
    args = parser.parse_args(argv)

    def body() -> str:
        release = BENCHMARKS[args.benchmark]
        missing = read_missing(args.missing) if args.missing else frozenset()
        pickled = args.input.suffix == ".pkl" and args.input.is_file()
        jobs, ignored = (find_annotations if pickled else find_sequences)(args.input, release)
        rules = {name: split_rule(train) for name, train in release.train.items()}
        splits = SequenceSplits.of(args, ACTIONS[: release.actions], rules, release.whole)
        splits.check(job.target for job in jobs)
        digest = hashlib.sha256(" ".join(sorted(missing)).encode()).hexdigest()[:16] if missing else None
        options = {"bodies": args.bodies, "denoise": args.denoise, "absent": args.absent, "centre": args.centre}
        report = convert_and_report(
            functools.partial(read_sequence, missing=missing, **options), jobs, args, converter="ntu_rgbd",
            options={"benchmark": args.benchmark, "missing": digest, **options}, ignored=ignored, layout=_LAYOUT,
            joints=args.bodies * NTU_JOINTS, benchmark=splits, folds=False,
        )  # fmt: skip
        return f"{report}\n  incomplete clips: {len(missing)} named by --missing, {release.incomplete} by the release"

    return run_entry("ntu_rgbd", body)


if __name__ == "__main__":
    raise SystemExit(main())
