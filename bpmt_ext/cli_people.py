"""The sub-parsers of enroll, identify, gallery, embed and predict: words in, a call of identify/ or engine/ out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bpmt_ext.errors import UserError

if TYPE_CHECKING:
    from bpmt_ext.engine.embed import Model
    from bpmt_ext.identify.people import Reading

Settings = Callable[[argparse.Namespace], object]  # what makes the settings of --cfgs and --opts


def _whole(text: str, least: int = 0) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is less than {least}")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 1e-9 <= value < 1:  # below, as many trials as it takes are no number
        raise argparse.ArgumentTypeError(f"{text} is no rate between 0 (1e-9 is the least) and 1, as 0.01")
    return value


def _quiet() -> None:
    """Warnings alone on standard error."""
    import logging

    from bpmt_ext.engine.logs import log, log_to

    log_to(None)
    log.setLevel(logging.WARNING)


def _reading(args: argparse.Namespace) -> Reading:
    from bpmt_ext.identify.people import Reading
    from bpmt_ext.identify.video import PeopleInVideo

    given = [option for option in (args.detector, args.estimator) if option is not None]
    if len(given) == 1:
        raise UserError("--detector and --estimator belong together: one finds people, the other their joints")
    video = PeopleInVideo(args.detector, args.estimator) if given else None
    return Reading(args.joint_format, video, args.min_frames)


def _model(args: argparse.Namespace, settings: Settings) -> Model:
    from bpmt_ext.engine.embed import load_model

    own = settings(args)
    return load_model(own, Path.cwd() / "output", args.iter, trust=args.trust_checkpoint)


def _enroll(args: argparse.Namespace, settings: Settings) -> int:
    from bpmt_ext.identify.people import enroll
    from bpmt_ext.plugins import load_plugins

    _quiet()
    if args.cfgs is None:
        load_plugins(args.plugin)
        if args.iter is not None or args.opts:
            raise UserError("--iter and --opts belong to --cfgs; a gallery's own network stays as it is")
    model = partial(_model, args, settings) if args.cfgs is not None else None
    return enroll(args.gallery, args.name, args.poses, model=model, reading=_reading(args), track=args.track)


def _identify(args: argparse.Namespace) -> int:
    from bpmt_ext.identify.people import identify
    from bpmt_ext.plugins import load_plugins

    _quiet()
    load_plugins(args.plugin)
    return identify(args.gallery, args.poses, reading=_reading(args), far=args.far, top=args.top, json_to=args.json,
                    use_faiss=args.faiss, calibrate=args.calibrate, opts=args.opts)  # fmt: skip


def _gallery(args: argparse.Namespace) -> int:
    from bpmt_ext.identify.people import manage
    from bpmt_ext.plugins import load_plugins

    _quiet()
    load_plugins(args.plugin)
    return manage(args.gallery, remove=args.remove, calibrate=args.calibrate, opts=args.opts)


def _embed(args: argparse.Namespace, settings: Settings) -> int:
    from bpmt_ext.engine.clips import embed_files

    _quiet()
    return embed_files(_model(args, settings), args.poses, args.output, reading=_reading(args))


def _predict(args: argparse.Namespace, settings: Settings) -> int:
    from bpmt_ext.engine.clips import predict_files

    _quiet()
    return predict_files(
        _model(args, settings), args.poses, reading=_reading(args), window=args.window, stride=args.stride,
        top=args.top, json_to=args.json, classes=args.classes,
    )  # fmt: skip


def _add_network(parser: argparse.ArgumentParser, required: bool) -> None:
    add = parser.add_argument
    add("--cfgs", required=required, metavar="FILE", help="the config of a trained network, a YAML file")
    add("--iter", type=_whole, metavar="N", help="its checkpoint of this iteration, in place of restore_hint")
    add("--trust-checkpoint", action="store_true",
        help="open checkpoints that hold more than tensors and plain data: this runs their maker's code")
    _add_plugin(parser)
    add("--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override single keys")


def _add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE",
                        help="a Python file of yours that registers networks or transforms; it is run")  # fmt: skip


def _add_poses(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("poses", nargs="+", type=Path, metavar="POSES",
        help="files, folders of frames, or folders of these (all in it): MMPose, RTMPose, OpenPose, AlphaPose and COCO "
        "JSON, Gait3D and GREW text, CSV, .npz, .npy, .pkl, .skeleton, .mat; or videos")
    add("--joint-format", metavar="NAME", help="the joint format of the files, where they do not tell it")
    add("--min-frames", type=partial(_whole, least=1), default=15, metavar="N",
        help="leave out tracks with fewer frames (default: %(default)s)")
    add("--detector", type=Path, metavar="FILE", help="for videos: a YOLOX model (.onnx) on this disk")
    add("--estimator", type=Path, metavar="FILE", help="for videos: an RTMPose model (.onnx) on this disk")


def _add_gallery(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gallery", required=True, type=Path, metavar="DIR", help="the gallery's folder")


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calibrate", action="store_true",
                        help="first take the config's validation people as strangers, where their data is at hand")
    parser.add_argument("--opts", nargs="+", action="extend", default=[], metavar="data_cfg.KEY=VALUE",
                        help="where that data lies now")  # fmt: skip
    _add_plugin(parser)


def add_people(commands: argparse._SubParsersAction, settings: Settings) -> None:
    """The commands about people in files of poses. settings: makes the settings of parsed --cfgs and --opts."""
    at_least_one = partial(_whole, least=1)
    enroll = commands.add_parser("enroll", help="put a person's walks into a gallery")
    _add_gallery(enroll)
    enroll.add_argument("--name", required=True, metavar="WHO", help="who it is")
    enroll.add_argument("--track", metavar="ID", help="which one, where a file shows several people")
    _add_network(enroll, required=False)
    _add_poses(enroll)
    enroll.set_defaults(handler=partial(_enroll, settings=settings))

    identify = commands.add_parser("identify", help="say who of a gallery walks in files of poses, or unknown")
    _add_gallery(identify)
    add = identify.add_argument
    add("--far", type=_rate, default=0.01, metavar="RATE",
        help="how often a stranger may be taken for somebody (default: %(default)s)")
    add("--top", type=at_least_one, default=5, metavar="N", help="names to tell (default: %(default)s)")
    add("--json", metavar="FILE", help="write the answers as JSON, too; - prints them in place of the table")
    add("--faiss", action="store_true", help="search through faiss (extra gallery; cosine only)")
    _add_calibrate(identify)
    _add_poses(identify)
    identify.set_defaults(handler=_identify)

    gallery = commands.add_parser("gallery", help="list the people of a gallery, or delete one")
    _add_gallery(gallery)
    gallery.add_argument("--remove", metavar="WHO", help="delete this person and every trace")
    _add_calibrate(gallery)
    gallery.set_defaults(handler=_gallery)

    embed = commands.add_parser("embed", help="write the embeddings of walks to a file")
    _add_network(embed, required=True)
    _add_poses(embed)
    embed.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="an .npz")
    embed.set_defaults(handler=partial(_embed, settings=settings))

    predict = commands.add_parser("predict", help="say which actions clips show")
    _add_network(predict, required=True)
    _add_poses(predict)
    add = predict.add_argument
    add("--window", type=_whole, default=64, metavar="N", help="frames of a window, 0 the whole clip (%(default)s)")
    add("--stride", type=at_least_one, default=32, metavar="N", help="frames between windows (%(default)s)")
    add("--top", type=at_least_one, default=5, metavar="N", help="classes to tell (default: %(default)s)")
    add("--classes", type=Path, metavar="FILE", help="names of the classes, a line each, where the data is not at hand")
    add("--json", metavar="FILE", help="write the answers as JSON, too; - prints them in place of the table")
    predict.set_defaults(handler=partial(_predict, settings=settings))
