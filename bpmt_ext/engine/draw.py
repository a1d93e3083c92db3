"""Files, and a trained network that says something about them, in; a picture or animated clip out: `bpmt draw --cfgs`.

Of networks of poses the attention or the activation, drawn onto the body; of networks of silhouettes the landmarks,
the parts or the reconstruction. The network reads the whole clip as a test would, whatever frames are shown.
Shapes: b bodies, t frames, v joints, c numbers per joint, p = 5 parts, k landmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bpmt_ext.config import Settings
from bpmt_ext.data.pickles import read_silhouettes
from bpmt_ext.data.sequences import Reader, Record, SequenceSet, Splits
from bpmt_ext.data.transforms import Compose
from bpmt_ext.engine.attention import attention
from bpmt_ext.engine.checkpoint import load_checkpoint, load_weights
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.embed import Model, load_model, read_all, walk_set
from bpmt_ext.engine.landmarks import to_pixels
from bpmt_ext.engine.parts import Run
from bpmt_ext.engine.preparation import check_channels, check_input
from bpmt_ext.engine.stages import build_run, pose_skeleton, run_folder
from bpmt_ext.engine.testing import checkpoint_to_test, head_classes
from bpmt_ext.errors import UserError
from bpmt_ext.nets.landmarks import PARTS
from bpmt_ext.registry import get_method
from bpmt_ext.report.attention import frame_pictures, part_pictures, value_pictures
from bpmt_ext.report.clips import check_kind
from bpmt_ext.report.drawings import legend
from bpmt_ext.report.sheets import Look, Panel, picture_panel, write_panels, write_pictures
from bpmt_ext.report.silhouettes import (
    GROUP_COLOURS,
    GROUPS,
    height_groups,
    landmark_frames,
    part_frames,
    reconstruction_frames,
)

OF_POSES, OF_SILHOUETTES = ("attention", "activation"), ("landmarks", "parts", "reconstruction")
_NEEDS = {"activation": "activation", "landmarks": "landmarks", "parts": "parse", "reconstruction": "reconstruct"}


def run(
    settings: Settings, paths: Sequence[Path], look: Look, *, show: str, output: Path, iteration: int | None = None,
    trust: bool = False, joint_format: str | None = None,
) -> int:  # fmt: skip
    """Draw what the trained network makes of each file; 0 when done. iteration, trust: as for a test."""
    check_kind(look.out)
    look.check_size(len(paths))
    pictures = settings.data_cfg.modality == "silhouette"
    known = OF_SILHOUETTES if pictures else OF_POSES
    if show not in known:
        raise UserError(f"--show {show}: {settings.model_cfg.model} reads {settings.data_cfg.modality}s; to show there "
                        f"is {', '.join(known)}")  # fmt: skip
    if pictures:
        made = _silhouette_run(settings, output, iteration, trust)
        _check_able(made.network, show)
        panels = [_silhouettes(made, path, look, show) for path in paths]
        groups = partial(legend, names=GROUPS, colours=GROUP_COLOURS)
        write_panels(look, panels, None if show == "reconstruction" else groups)
        return 0
    model = load_model(settings, output, iteration, trust=trust)
    if show == "activation":
        _check_able(model.run.network, show)
    walks = [walk for path in paths for walk in read_all(model, [path], joint_format=joint_format, least=1)[0]]
    look.check_size(len(walks), max((len(np.arange(len(walk.pose))[look.frames]) for walk in walks), default=1))
    drawn = []
    for walk in walks:
        sequences = walk_set(model, [walk])
        check_channels(model.run, sequences)
        check_input(model.run, sequences, "evaluator_cfg")
        title = str(walk.source) if len({w.track for w in walks if w.source == walk.source}) == 1 else walk.name
        drawn.append((title, _looks(model, walk.pose, look, show, title)))
    write_pictures(look, drawn, axis="beside" if look.side_by_side else "below")
    return 0


def _check_able(network: nn.Module, show: str) -> None:
    if not hasattr(network, _NEEDS[show]):
        who = {"activation": "GaitGraph2 has", "parts": "ParsingNet and LandmarkGait have"}
        raise UserError(f"--show {show}: {type(network).__name__} has none; {who.get(show, 'LandmarkNet has')} it")


def read_clip(transform: Compose, pose: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, np.ndarray]:
    """A clip (t, ...) as a network takes it (1, t', ...), its mask, and which frames (t',) these are of the clip's."""
    x = torch.from_numpy(np.ascontiguousarray(pose))[None].to(device)
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=device)
    clock, real = torch.arange(len(pose), dtype=torch.float32, device=device)[None, :, None, None], mask
    for step in transform.steps:  # those that choose frames choose them of a clock, too
        if step.reframes:
            clock, real = step.reframe(clock, real, None)
    x, mask = transform.reframe(x, mask, None)
    number = clock[0, :, 0, 0].round().long().cpu().numpy()
    real = mask[0].cpu().numpy()
    return x[:, mask[0]], mask[:, mask[0]], number[: len(real)][real[: len(number)]]


@torch.no_grad()
def _looks(model: Model, pose: np.ndarray, look: Look, show: str, title: str) -> np.ndarray:
    """What the network looks at in one clip (t, b v, c), drawn: (t', h, w, 3), of a PNG t' = 1."""
    network, skeleton = model.run.network, pose_skeleton(model.settings)
    x, mask, number = read_clip(model.run.test_transform, pose, model.run.world.device)
    shown = look.numbers(len(number), title)
    pose, number = pose[number[shown]], number[shown]
    keys = {"numbers": number, "count": look.count, "height": look.height, "view": look.view, "moving": look.moving}
    if show == "activation":
        value = network.activation(x, mask)[0].float().cpu().numpy()[shown]
        return value_pictures(pose, value, skeleton, top=1.0, text="of the strongest answer", **keys)
    found = attention(network, x, mask)
    there = pose[..., : skeleton.dims].reshape(len(pose), len(found.frames), -1).any(axis=(0, 2))  # bodies
    bodies = np.flatnonzero(there) if there.any() else np.arange(len(there))
    if found.parts is not None:
        return part_pictures(pose, found.parts[bodies].mean(0)[shown], skeleton, **keys)
    frames = found.frames[bodies].mean(0)
    return frame_pictures(pose, frames.mean(0)[shown], skeleton, whole=frames, **keys)


def _silhouette_run(settings: Settings, output: Path, iteration: int | None, trust: bool) -> Run:
    """A network of silhouettes with the weights a test would take; it needs no data set."""
    path = checkpoint_to_test(settings, output, iteration)[1]
    weights = load_checkpoint(path, trust)["model"]
    nobody = Splits(*(SequenceSet([]) for _ in range(3)), probes=None, dropped={})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classes = head_classes(weights, get_method(settings.model_cfg.model))
    made = build_run(settings, nobody, World(0, 1, device), run_folder(settings, output, testing=True),
                     classes=classes or 2)  # fmt: skip
    load_weights(made.network, weights, path, strict=settings.evaluator_cfg.restore_ckpt_strict)
    made.network.to(device).eval()
    return made


@torch.no_grad()
def _silhouettes(made: Run, path: Path, look: Look, show: str) -> Panel:
    """One file's silhouettes with what the network found in them."""
    network, frames = made.network, read_silhouettes(path)
    place = Path(path.name)
    one = SequenceSet([Record("", "", "", (place,))], reader=Reader(arrays={place: frames}, cache=True))
    check_input(made, one, "evaluator_cfg")
    x, mask, number = read_clip(made.test_transform, frames, made.world.device)
    shown = look.numbers(len(number), path)
    title, cut = str(path), x[0].float().cpu().numpy()[shown]
    scale = max(1, look.height // cut.shape[1])
    if show == "reconstruction":
        rebuilt = network.reconstruct(x, mask)[0].float().cpu().numpy()[shown]
        drawn = reconstruction_frames(cut, rebuilt, scale=scale)
    elif show == "parts":
        drawn = part_frames(network.parse(x, mask)[0].float().cpu().numpy()[shown], scale=scale)
    else:
        points = to_pixels(network.landmarks(x, mask)[0].float().cpu()).numpy()
        drawn = landmark_frames(cut, points[shown], landmark_groups(network, points), scale=scale, trail=look.trail)
    return picture_panel(title, number[shown], drawn)


def landmark_groups(network: nn.Module, points: np.ndarray) -> np.ndarray:
    """(k,): 0 head, 1 upper, 2 lower body. As the network groups them, or by mean height in points (t, k, 2)."""
    grouping = getattr(network, "grouping", None)
    if grouping is not None and bool(grouping.fitted):
        group = np.empty(points.shape[1], int)
        for k, landmarks in enumerate(network.group_order):
            group[landmarks] = k
        return group
    return height_groups(points, PARTS[points.shape[1]])
