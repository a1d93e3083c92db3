"""A trained network and people's walks in; their embeddings (n, d, p) or class scores (n, k) out, without a data set.

The walks need not belong to any set: each goes through the test's transforms and frame selection as if it did. Shapes:
n walks, t frames, v joints, c numbers per joint, d width, p parts, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bpmt_ext.config import Settings
from bpmt_ext.data.posearrays import read_npz
from bpmt_ext.data.sequencelists import read_partition
from bpmt_ext.data.sequences import Reader, Record, SequenceSet, Splits
from bpmt_ext.engine.actions import predict
from bpmt_ext.engine.checkpoint import load_checkpoint, load_weights, weights_hash
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.inference import embed
from bpmt_ext.engine.parts import Run, classifies
from bpmt_ext.engine.preparation import check_channels, check_input
from bpmt_ext.engine.stages import build_run, data_skeleton, pose_skeleton
from bpmt_ext.engine.testing import checkpoint_to_test, head_classes
from bpmt_ext.errors import UserError
from bpmt_ext.identify.poses import MIN_FRAMES, VideoReader, Walk, long_enough, mapped, read_walks, together
from bpmt_ext.registry import get_method
from bpmt_ext.regular import read_regular
from bpmt_ext.skeletons import Skeleton, get_skeleton


@dataclass(frozen=True)
class Model:
    """A trained network that takes walks, on the device it runs on."""

    run: Run
    settings: Settings  # as the user gave them
    weights: Mapping[str, Tensor]
    iteration: int

    @property
    def skeleton(self) -> Skeleton:
        """The joint format of one body."""
        return data_skeleton(self.settings)

    @property
    def bodies(self) -> int:
        """How many bodies a pose holds, one after the other."""
        return pose_skeleton(self.settings).num_joints // self.skeleton.num_joints

    @property
    def channels(self) -> int:
        """Numbers per joint that it takes: the coordinates, in 2D and where a stream asks for it the confidence."""
        streams = getattr(getattr(self.run.network, "t1", None), "streams", None)
        dims = self.skeleton.dims
        return max(dims + (dims == 2), getattr(streams, "needed", 0))

    @property
    def checksum(self) -> str:
        return weights_hash(self.weights)


def trained_run(
    settings: Settings, weights: Mapping[str, Tensor], source: Path, *, strict: bool = True, device: torch.device
) -> Run:
    """The network of these settings with these weights, ready to test on that device, and no data set."""
    # one process reads and embeds; walks lie in memory already
    data = settings.data_cfg.model_copy(update={"num_workers": 0, "cache": True, "transform_on": "worker"})
    own = settings.model_copy(update={"data_cfg": data})
    nobody = Splits(*(SequenceSet([]) for _ in range(3)), probes=None, dropped={})
    classes = head_classes(weights, get_method(settings.model_cfg.model))
    run = build_run(own, nobody, World(0, 1, device), source.parent, classes=classes or 2)
    load_weights(run.network, weights, source, strict=strict)
    run.network.to(device).eval()
    return run


def make_model(
    settings: Settings, weights: Mapping[str, Tensor], source: Path, *, iteration: int = 0, strict: bool = True
) -> Model:
    """The network of these settings with these weights. UserError if they do not fit each other."""
    if getattr(settings.data_cfg, "modality", "pose") != "pose":
        where = settings.where("data_cfg.modality")
        raise UserError(f"{where}: {settings.model_cfg.model} takes silhouettes; give the config of a network of poses")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = trained_run(settings, weights, source, strict=strict, device=device)
    return Model(run, settings, dict(weights), iteration)


def load_model(settings: Settings, output: Path, which: int | None = None, *, trust: bool = False) -> Model:
    """The network that `bpmt test` would test, or that of an iteration, from the run's folder below `output`."""
    path = checkpoint_to_test(settings, output, which)[1]
    state = load_checkpoint(path, trust)
    strict = settings.evaluator_cfg.restore_ckpt_strict
    return make_model(settings, state["model"], path, iteration=int(state.get("iteration", 0)), strict=strict)


def walk_set(model: Model, walks: Sequence[Walk], labels: Sequence[str] = ()) -> SequenceSet:
    """The walks, which fit the network (`fitting`), as a set that loaders read. labels: the classes of its map."""
    places = [Path(f"{walk.name} ({i})") for i, walk in enumerate(walks, 1)]  # windows of a walk share its name
    reader = Reader(arrays={place: walk.pose for place, walk in zip(places, walks, strict=True)}, cache=True)
    label = labels[0] if labels else ""
    return SequenceSet([Record(label, walk.track, "", (place,)) for place, walk in zip(places, walks, strict=True)],
                       labels or None, reader)  # fmt: skip


def fitting(model: Model, walks: Sequence[Walk]) -> list[Walk]:
    """One file's walks in the joints, numbers and bodies that the network takes."""
    whole = pose_skeleton(model.settings)
    if walks and walks[0].skeleton == whole:
        return [mapped(walk, whole, model.channels) for walk in walks]
    own = [mapped(walk, model.skeleton, model.channels) for walk in walks]
    return [together(own, model.bodies)] if own else []


def read_all(
    model: Model, paths: Sequence[Path], *, joint_format: str | None = None, video: VideoReader | None = None,
    least: int = MIN_FRAMES,
) -> tuple[list[Walk], list[str]]:
    """(everybody in these files as the network takes them, sentences about who was left out for too few frames)."""
    given = get_skeleton(joint_format) if joint_format else None
    whole = pose_skeleton(model.settings) if model.bodies > 1 else None
    walks, told = [], []
    for path in paths:
        kept, short = long_enough(read_walks(path, model.skeleton, given=given, whole=whole, video=video), least)
        walks += fitting(model, kept)
        told += short
    return walks, told


def embed_walks(model: Model, walks: Sequence[Walk], *, progress: bool = False) -> np.ndarray:
    """(n, d, p) float32, finite, in the order of the walks, each independent of the others."""
    sequences = _checked(model, walks)
    found = embed(model.run, sequences, progress=progress).embeddings
    bad = np.flatnonzero(~np.isfinite(found).all(axis=(1, 2)))
    if len(bad):
        raise UserError(f"{walks[bad[0]].name}: the network gives numbers that are not finite; take another checkpoint")
    return found


def _checked(model: Model, walks: Sequence[Walk], labels: Sequence[str] = ()) -> SequenceSet:
    sequences = walk_set(model, walks, labels)
    check_channels(model.run, sequences)
    check_input(model.run, sequences, "evaluator_cfg")
    return sequences


def class_names(model: Model, file: Path | None = None) -> list[str]:
    """The names of the classes that a recogniser's head tells apart, in its order.

    From `file` (a line each) where given, else from the config's partition, else from the predictions of its test.
    """
    settings = model.settings
    if not classifies(settings):
        raise UserError(f"{settings.where('evaluator_cfg.eval_func')}: {settings.model_cfg.model} tells people apart "
                        "and names no action; use enroll and identify")  # fmt: skip
    partition, tested = settings.data_cfg.dataset_partition, model.run.folder.parent / "predictions.npz"
    if file is not None:
        try:
            names, source = read_regular(file).decode("utf-8").split("\n"), str(file)
        except (OSError, UnicodeDecodeError) as error:
            told = getattr(error, "strerror", None) or "not text"
            raise UserError(f"--classes {file}: cannot be read ({told}); give a text file, a class a line") from error
        names = [name.strip() for name in names if name.strip()]
    elif Path(partition).is_file():
        lists = read_partition(partition)
        names, source = sorted(lists.classes or lists.labels), partition
    elif tested.is_file():
        names, source = [str(name) for name in read_npz(tested).get("classes", ())], str(tested)
    else:
        raise UserError(f"{partition}: is not there to name the classes; give --classes FILE, a class a line in the "
                        "order of the training")  # fmt: skip
    width = head_classes(model.weights, model.run.method)
    if len(names) != width or len(set(names)) < len(names):
        raise UserError(f"{source}: names {len(set(names))} classes, the network tells {width} apart; give the list it "
                        "was trained with (--classes FILE)")  # fmt: skip
    return names


def windows(frames: int, window: int, stride: int) -> list[tuple[int, int]]:
    """(first frame, one past the last) of windows over a clip, the last one ending with it; window 0: the whole."""
    if not window or frames <= window:
        return [(0, frames)]
    starts = [*range(0, frames - window, stride), frames - window]
    return [(start, start + window) for start in starts]


def predict_walks(
    model: Model, walks: Sequence[Walk], classes: Sequence[str], *, window: int = 64, stride: int = 32,
    progress: bool = False,
) -> list[tuple[list[tuple[int, int]], np.ndarray]]:
    """For every walk its windows and their class scores (w, k), rows that add up to 1."""
    spans = [windows(len(walk.pose), window, stride) for walk in walks]
    parts = [replace(walk, pose=walk.pose[a:b], frames=walk.frames[a:b])
             for walk, own in zip(walks, spans, strict=True) for a, b in own]  # fmt: skip
    # the order of the head is that of the sorted names; the set's own map must not change it
    keys = [f"{k:06d}" for k in range(len(classes))]
    scores = predict(model.run, _checked(model, parts, keys), progress=progress).scores
    if not np.isfinite(scores).all():
        raise UserError("the network gives scores that are not finite; take another checkpoint")
    ends = np.cumsum([len(own) for own in spans])[:-1]
    return list(zip(spans, np.split(scores, ends), strict=True))
