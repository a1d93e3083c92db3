"""The sub-parser of draw: words in, a call of report/sheets.py or, with a network, of engine/draw.py out."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bpmt_ext.errors import UserError
from bpmt_ext.regular import at_home

Settings = Callable[[argparse.Namespace], object]  # what makes the settings of --cfgs and --opts
_SHOWN = ("attention", "activation", "landmarks", "parts", "reconstruction")


def _whole(text: str, least: int = 0, most: int = 10**9) -> int:
    value = int(text)
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text} does not lie between {least} and {most}")
    return value


def _fps(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 240:
        raise argparse.ArgumentTypeError(f"{text} frames per second do not lie between 0.1 and 240")
    return value


def _frames(text: str) -> slice:
    """START:STOP:STEP, any of which may be missing, or one frame."""
    if not re.fullmatch(r"\d+|\d*:\d*(:[1-9]\d*)?", text):
        raise argparse.ArgumentTypeError(f"{text}: write START:STOP:STEP, e.g. 0:60:2")
    if ":" not in text:
        return slice(int(text), int(text) + 1)
    return slice(*(int(part) if part else None for part in text.split(":")))


def _draw(args: argparse.Namespace, settings: Settings) -> int:
    from bpmt_ext.report.sheets import Look, draw_files

    look = Look(
        out=at_home(args.output), frames=args.frames, fps=args.fps, count=args.count, height=args.height,
        view=args.view, trail=args.trail, follow={"auto": None, "still": False, "follow": True}[args.camera],
        side_by_side=args.side_by_side,
    )  # fmt: skip
    if (args.cfgs is None) != (args.show is None):
        raise UserError("--cfgs and --show belong together: whose attention, activation, landmarks, parts or "
                        "reconstruction is drawn, and which of them")  # fmt: skip
    if args.cfgs is None:
        if args.iter is not None or args.opts or args.plugin or args.trust_checkpoint:
            raise UserError("--iter, --opts, --plugin and --trust-checkpoint belong to --cfgs; name the config")
        return draw_files(args.poses, look, joint_format=args.joint_format, bodies=args.bodies, sequence=args.sequence)
    if args.sequence is not None or args.bodies != 1:
        raise UserError("--sequence and --bodies do not go with --cfgs: everybody in a file is drawn, with as many "
                        "bodies as the network takes")  # fmt: skip
    own = settings(args)
    from bpmt_ext.engine.draw import run

    return run(own, args.poses, look, show=args.show, output=Path.cwd() / "output", iteration=args.iter,
               trust=args.trust_checkpoint, joint_format=args.joint_format)  # fmt: skip


def add_pictures(commands: argparse._SubParsersAction, settings: Settings) -> None:
    """Add `draw`. settings: what makes the settings of the arguments --cfgs, --opts and --plugin."""
    draw = commands.add_parser(
        "draw", help="draw poses or silhouettes, or what a network sees in them: PNG, GIF, MP4",
        description="Draw files of poses or silhouettes. A PNG shows some frames of each, a GIF or MP4 all of them.",
    )  # fmt: skip
    add = draw.add_argument
    add("poses", nargs="+", type=Path, metavar="POSES",
        help="files or folders of poses: OpenPose, AlphaPose, MMPose JSON, .npz, .npy, .pkl, CSV, .skeleton, .mat; or "
        "pickles of silhouettes")
    add("-o", "--output", type=Path, required=True, metavar="FILE",
        help="the picture: .png, .gif, or .mp4 (needs ffmpeg)")
    add("--format", "--joint-format", dest="joint_format", metavar="NAME",
        help="the joint format of the files, where they do not tell it")
    add("--bodies", type=partial(_whole, least=1, most=8), default=1, metavar="N", help="people in a pose (default: 1)")
    add("--sequence", metavar="NAME", help="which one of a file with several, .csv or .npz")
    add("--side-by-side", action="store_true", help="several files beside each other, in time step")
    add("--frames", type=_frames, default=slice(None), metavar="A:B:C", help="frames A to B - 1, every C-th")
    add("--fps", type=_fps, default=25.0, metavar="N",
        help="frames per second of a clip (default: 25; a GIF: at most 50)")
    add("--count", type=partial(_whole, least=1, most=100), default=8, metavar="N",
        help="frames in a PNG (default: %(default)s)")
    add("--height", type=partial(_whole, least=40, most=1000), default=200, metavar="PIXELS",
        help="of a figure (default: %(default)s)")
    add("--view", choices=("side", "front", "turn"), help="where a 3D pose is seen from (default: side and front)")
    add("--camera", choices=("auto", "still", "follow"), default="auto",
        help="follow: the figure stays in the middle (default: in a PNG, and where it goes far)")
    add("--trail", type=partial(_whole, most=1000), default=0, metavar="N",
        help="also the way of hips and feet, or of landmarks, in the N frames before")
    add("--cfgs", metavar="FILE", help="the config of a trained network")
    add("--show", choices=_SHOWN, help="what to draw of that network: attention (BPMT, BPMTAction, TLCA), activation "
        "(GaitGraph2), landmarks, parts, reconstruction (LandmarkGait's)")
    add("--iter", type=partial(_whole, least=1), metavar="N", help="its checkpoint of this iteration")
    add("--trust-checkpoint", action="store_true",
        help="open checkpoints that hold more than tensors and plain data: this runs their maker's code")
    add("--plugin", action="append", default=[], metavar="FILE",
        help="a Python file of yours that registers networks or transforms; it is run")
    add("--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="override single keys of the config")
    draw.set_defaults(handler=partial(_draw, settings=settings))
