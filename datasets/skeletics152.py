"""Skeletics-152's VIBE JSON in, `<out>/<class>/<video>/<start_end>/<start_end>.pkl` float32 (t, b 25, 3) out.

    python datasets/skeletics152.py --input skeletics-152 --output data/Skeletics152/pickles

THE LAYOUT WAS TAKEN FROM DOCUMENTATION; no file of the set was seen. Its page (https://github.com/skelemoa/quovadis)
and readers of it say: `vibe_results_train/<class>/<video>_<start>_<end>.json` and `vibe_results_val/...` (training and
validation in another copy), each person -> joints3d (frames x 49 x 3) and frame_ids. The joints are brought into the
order ntu25, as near as they come: hand, hand tip and thumb are the wrist, the foot is the big toe. Files with 25 joints
are taken to be in that order. Type is the video, view the seconds. Split: `official` (train, validation as TEST).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bpmt_ext.data import sequencelists
from bpmt_ext.data.bodies import add_body_arguments, pose_of
from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.poseactions import NTU_JOINTS, VIBE_JOINTS, read_vibe
from bpmt_ext.data.rawtree import FROM_DOCUMENTATION, nothing_found
from bpmt_ext.data.sequencelists import SequenceSplits
from bpmt_ext.errors import UserError
from bpmt_ext.words import Parser

ACTIONS = tuple(
    "abseiling air_drumming archery backflip_human battle_rope_training belly_dancing bench_pressing "
    "biking_through_snow bouncing_ball_not_juggling bouncing_on_bouncy_castle bowling breaking_boards "
    "casting_fishing_line catching_or_throwing_baseball catching_or_throwing_frisbee catching_or_throwing_softball "
    "checking_watch chiseling_stone chopping_wood clam_digging clapping clean_and_jerk climbing_a_rope climbing_tree "
    "combing_hair contact_juggling country_line_dancing cumbia cutting_cake dancing_gangnam_style deadlifting digging "
    "directing_traffic disc_golfing dribbling_basketball dunking_basketball eating_watermelon exercising_arm "
    "exercising_with_an_exercise_ball falling_off_bike falling_off_chair fencing_sport front_raises golf_chipping "
    "golf_driving golf_putting hammer_throw head_stand high_fiving hitting_baseball hopscotch hugging_not_baby "
    "hula_hooping ice_skating javelin_throw jogging juggling_soccer_ball jumping_into_pool jumping_jacks "
    "jumpstyle_dancing krumping long_jump longboarding lunge moon_walking mountain_climber_exercise opening_door "
    "paragliding passing_american_football_not_in_game passing_soccer_ball playing_accordion playing_badminton "
    "playing_cello playing_drums playing_field_hockey playing_guitar playing_hand_clapping_games playing_harmonica "
    "playing_harp playing_oboe playing_organ playing_piccolo playing_ping_pong playing_saxophone "
    "playing_squash_or_racquetball playing_tennis playing_trombone playing_ukulele playing_violin pull_ups "
    "pulling_rope_game pumping_fist punching_bag punching_person_boxing push_up pushing_car pushing_cart "
    "pushing_wheelbarrow reading_book riding_a_bike riding_camel riding_mechanical_bull riding_mule riding_unicycle "
    "robot_dancing rock_climbing roller_skating rope_pushdown running_on_treadmill salsa_dancing saluting "
    "shearing_sheep shoot_dance shooting_goal_soccer shot_put side_kick singing situp ski_ballet skiing_crosscountry "
    "skiing_slalom skipping_stone slacklining snatch_weight_lifting snorkeling snowboarding squat standing_on_hands "
    "stretching_arm stretching_leg sweeping_floor swinging_baseball_bat swinging_on_something sword_fighting "
    "sword_swallowing tackling tai_chi taking_photo tango_dancing tap_dancing tapping_guitar tightrope_walking "
    "tiptoeing tobogganing training_dog trimming_shrubs using_a_sledge_hammer walking_on_stilts walking_with_crutches "
    "wrestling yoga zumba".split()
)
PARTS = {"vibe_results_train": "TRAIN", "training": "TRAIN", "train": "TRAIN",
         "vibe_results_val": "TEST", "validation": "TEST", "val": "TEST"}  # fmt: skip
# Of VIBE's 49 joints those that stand for the 25 of ntu25, in its order.
TO_NTU = (39, 41, 37, 43, 34, 35, 36, 36, 33, 32, 31, 31, 28, 29, 30, 19, 27, 26, 25, 22, 40, 36, 36, 31, 31)
_NAME = re.compile(r"(.+)_(\d{6})_(\d{6})\.json")
_LAYOUT = "vibe_results_train/<class>/<video>_<start>_<end>.json and vibe_results_val/..."


def class_name(folder: str) -> str:
    """`backflip (human)` -> `backflip_human`."""
    return "_".join(re.findall(r"[a-z0-9]+", folder.lower()))


def find_sequences(root: Path) -> tuple[list[Job], dict[str, str], list[str]]:
    """(one job per JSON file, its side by "label/type/view", what was passed over)."""
    if not root.is_dir():
        raise UserError(f"{root}: is no folder; give --input the folder that holds vibe_results_train.")
    jobs, sides, ignored = [], {}, []
    for part in sorted(root.iterdir()):
        if part.name not in PARTS or not part.is_dir():
            ignored.append(str(part))
            continue
        for path in sorted(path for path in part.rglob("*") if path.is_file()):
            match, label = _NAME.fullmatch(path.name), class_name(path.parent.name)
            if match is None or label not in ACTIONS or path.parent.parent != part:
                ignored.append(str(path))
                continue
            video = match[1] if match[1][0] != "." else f"v{match[1]}"
            place = f"{label}/{video}/{match[2]}_{match[3]}"
            jobs.append(Job(str(path), f"{place}/{match[2]}_{match[3]}.pkl"))
            sides[place] = PARTS[part.name]
    if not jobs:
        raise nothing_found(root, _LAYOUT, ignored)
    return jobs, sides, ignored


def read_sequence(job: Job, bodies: int, denoise: str, absent: str, centre: bool) -> Raw:
    """One clip as (t, b 25, 3)."""
    clip = read_vibe(Path(job.source))
    tracks = [
        replace(track, joints=track.joints[:, TO_NTU]) if track.joints.shape[1] == VIBE_JOINTS else track
        for track in clip.tracks
    ]
    raw = pose_of(tracks, clip.frames, bodies=bodies, joints=NTU_JOINTS, denoise=denoise, absent=absent,
                  centre=1 if centre else None)  # fmt: skip
    as_given = any(track.joints.shape[1] == NTU_JOINTS for track in clip.tracks)
    facts = {"25 joints, taken to be in the order ntu25": clip.frames} if as_given else {}
    return Raw(raw.pose, raw.dropped, raw.faults, clip.facts | raw.facts | facts, raw.refused)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="skeletics152", description="Skeletics-152 JSON to pickles.")
    add_arguments(parser)
    sequencelists.add_arguments(parser)
    add_body_arguments(parser, denoise="off")
    args = parser.parse_args(argv)

    def body() -> str:
        jobs, sides, ignored = find_sequences(args.input)
        splits = SequenceSplits.of(args, ACTIONS, {"official": sides.get}, {})
        splits.check(job.target for job in jobs)
        options = {"bodies": args.bodies, "denoise": args.denoise, "absent": args.absent, "centre": args.centre}
        report = convert_and_report(
            functools.partial(read_sequence, **options), jobs, args, converter="skeletics152", options=options,
            joints=args.bodies * NTU_JOINTS, ignored=ignored, layout=_LAYOUT, benchmark=splits, folds=False,
        )  # fmt: skip
        return f"{report}\n{FROM_DOCUMENTATION}"

    return run_entry("skeletics152", body)


if __name__ == "__main__":
    raise SystemExit(main())
