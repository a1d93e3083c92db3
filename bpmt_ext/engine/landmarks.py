"""A trained landmark network and its silhouettes in, poses of 25 landmarks as pickles out: `bpmt landmarks`.

What it writes is a data set like any other (joint format `landmark25` of skeletons.py), on which pose networks train.
Landmarks come without names. Sorted by mean height they are 2 of the head, 10 of the upper and 13 of the lower body
(specs/landmarkgait.md, sections 3 and 9); sorted by mean x within upper and lower, the outer ones are limbs and the
middle ones torso. The means are those of the training set, so that a landmark has one place in all sequences.
Letters: n sequences, t frames, k landmarks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bpmt_ext.config import Settings
from bpmt_ext.data.batches import inference_loader
from bpmt_ext.data.pickles import write_bytes, write_pickle
from bpmt_ext.data.sequences import SequenceSet, Splits
from bpmt_ext.engine.checkpoint import load_checkpoint, load_weights, weights_hash
from bpmt_ext.engine.distributed import World, world
from bpmt_ext.engine.logs import log, log_to, write_json
from bpmt_ext.engine.parts import Run, transform_device
from bpmt_ext.engine.preparation import check_input
from bpmt_ext.engine.stages import build_run, load_data, run_folder
from bpmt_ext.engine.testing import checkpoint_to_test, head_classes
from bpmt_ext.errors import UserError
from bpmt_ext.registry import get_method
from bpmt_ext.regular import at_home, read_regular, real_path

FORMAT = "landmark25"
HEAD, UPPER, LOWER = 2, 10, 13  # from the top of the picture downwards
ARM, LEG = 3, 6  # of these on either side; 4 in the middle of the upper body and 1 of the lower are torso
COUNT = HEAD + UPPER + LOWER
CELL, CELLS = 4, (11, 16)  # pixels to a cell of a heatmap along x and y; cells, the outermost of which are -1 and 1
_APART = 0.5  # of the 2 from top to bottom: a body's landmarks cover more
PARTITION = "partition.json"
Located = tuple[np.ndarray, Tensor, Tensor, Tensor]  # index (n,), x and y (n, t, k, 2), confidence (n, t, k), mask


def run(settings: Settings, *, output: Path, out: Path, iteration: int | None = None, trust: bool = False) -> int:
    """Write the landmarks of every sequence of the config's data, training, validation and test; 0 when done.

    output: where the trainings are. out: the folder of the new data set: <label>/<type>/<view>/<view>.pkl, float32
    (t, 25, 3), x and y in pixels of the 64 x 44 picture and the confidence; partition.json, a copy of the config's;
    landmarks.json, which network it was and in which order its landmarks stand. iteration, trust: as for a test.
    """
    with world() as here:
        log_to(None)
        made = trained(settings, here, output, iteration, trust)
        own = real_path(at_home(settings.data_cfg.dataset_root or ""))
        if real_path(out) == own or own.is_relative_to(real_path(out)) or real_path(out).is_relative_to(own):
            raise UserError(f"--output {out}: lies within the silhouettes, {own}, or they in it; name another folder")
        x, y = mean_places(made)
        if here.main and max(y) - min(y) < _APART:
            log.warning("the landmarks lie within %.1f of 64 rows: they have hardly left the middle of the picture; "
                        "train the network longer", (max(y) - min(y)) / 2 * (CELLS[1] - 1) * CELL)  # fmt: skip
        order = canonical_order(x, y)
        count = write_poses(made, order, out)
        here.barrier()
        if here.main:
            write_json(out / "landmarks.json", {
                "model": settings.model_cfg.model, "weights": weights_hash(made.network), "joint_format": FORMAT,
                "order": order, "config": settings.fingerprint,
            })  # fmt: skip
            partition = at_home(settings.data_cfg.dataset_partition)
            write_bytes(out / PARTITION, read_regular(partition))
            log.info("%d sequences written; train on them with data_cfg.dataset_root: %s, dataset_partition: %s, "
                     "joint_format: %s", count, out, out / PARTITION, FORMAT)  # fmt: skip
    return 0


def trained(settings: Settings, here: World, output: Path, iteration: int | None, trust: bool) -> Run:
    """The network with the weights a test would take, ready to locate. UserError if it has no 25 landmarks."""
    splits = load_data(settings)
    path = checkpoint_to_test(settings, output, iteration)[1]
    weights = load_checkpoint(path, trust)["model"]
    name = settings.model_cfg.model
    classes = head_classes(weights, get_method(name))
    made = build_run(settings, splits, here, run_folder(settings, output, testing=True), classes=classes)
    if not hasattr(made.network, "located"):
        raise UserError(f"{settings.where('model_cfg.model')}: {name} finds no landmarks; name the config of a network "
                        "that does, e.g. LandmarkNet")  # fmt: skip
    load_weights(made.network, weights, path, strict=settings.evaluator_cfg.restore_ckpt_strict)
    check_input(made, splits.train, "evaluator_cfg")
    made.network.to(here.device).eval()
    return made


@torch.no_grad()
def locate(made: Run, sequences: SequenceSet, word: str) -> Iterator[Located]:
    """This process's share of the sequences, whole, batch by batch; places as the network gives them."""
    e, here = made.settings.evaluator_cfg, made.world
    loader = inference_loader(
        sequences, {"type": "InferenceSampler", "sample_type": "all_ordered", "batch_size": e.sampler.batch_size},
        made.test_transform, rank=here.rank, world_size=here.size, num_workers=made.settings.data_cfg.num_workers,
        device=transform_device(made),
    )  # fmt: skip
    with tqdm(total=len(sequences), desc=f"{word:8}", unit="seq", disable=not here.main, mininterval=1) as bar:
        for batch in loader:
            batch = batch.to(here.device)
            places, sharp = made.network.located(batch.pose, batch.mask)
            if places.shape[2] != COUNT:
                raise UserError(
                    f"{made.settings.where('model_cfg.landmarks')}: the network has {places.shape[2]} landmarks, there "
                    f"is a joint format for {COUNT}; train one with {COUNT}"
                )
            if not bool(torch.isfinite(places[batch.mask]).all()):
                raise UserError("the network gives landmarks that are not finite; take another checkpoint")
            yield batch.index.cpu().numpy(), places.float().cpu(), sharp.float().cpu(), batch.mask.cpu()
            bar.update(min(len(batch) * here.size, bar.total - bar.n))


def mean_places(made: Run) -> tuple[list[float], list[float]]:
    """Mean x and y of every landmark over all frames of the training set, (k,) each."""
    total, count = torch.zeros(COUNT, 2, dtype=torch.float64), 0
    for _, places, _, mask in locate(made, made.splits.train, "order"):
        total += places[mask].double().sum(0)
        count += int(mask.sum())
    shares = made.world.gather_objects((total, count))
    mean = sum(part for part, _ in shares) / sum(part for _, part in shares)
    return mean[:, 0].tolist(), mean[:, 1].tolist()


def canonical_order(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Mean x (to the right) and y (downwards) of the network's 25 landmarks -> their numbers in the order of the format
    `landmark25`: head, middle of the upper body, of the lower, left and right arm, left and right leg, each from the
    top downwards. Equal numbers keep the network's order."""
    down = sorted(range(COUNT), key=lambda k: y[k])
    upper, lower = (sorted(down[a:b], key=lambda k: x[k]) for a, b in ((HEAD, HEAD + UPPER), (HEAD + UPPER, COUNT)))
    groups = (down[:HEAD], upper[ARM:-ARM], lower[LEG:-LEG], upper[:ARM], upper[-ARM:], lower[:LEG], lower[-LEG:])
    return [k for group in groups for k in sorted(group, key=lambda k: y[k])]


def to_pixels(places: Tensor) -> Tensor:
    """Landmarks (..., 2) from -1 to 1 -> x and y in pixels of the 64 x 44 picture, 0 the middle of its first one.

    -1 and 1 are the middles of the outermost cells of the heatmap, of 4 x 4 pixels each: pixels 1.5 and 41.5 along x,
    1.5 and 61.5 along y.
    """
    return CELL * (places + 1) / 2 * (torch.tensor(CELLS, dtype=places.dtype) - 1) + (CELL - 1) / 2


def write_poses(made: Run, order: Sequence[int], out: Path) -> int:
    """Write every sequence's landmarks, in this order; how many there were."""
    sequences = everything(made.splits)
    for index, places, sharp, mask in locate(made, sequences, "write"):
        pose = torch.cat([to_pixels(places), sharp[..., None]], -1)[:, :, list(order)].numpy()
        for row, one, real in zip(index.tolist(), pose, mask.numpy(), strict=True):
            record = sequences.records[row]
            folder = out / record.label / record.type / record.view
            folder.mkdir(parents=True, exist_ok=True)
            write_pickle(folder / f"{record.view}.pkl", np.ascontiguousarray(one[real], dtype=np.float32))
    return len(sequences)


def everything(splits: Splits) -> SequenceSet:
    """All sequences of the three sets, each once (in recognition a test set may repeat the others)."""
    records = {r.place: r for part in (splits.train, splits.val, splits.test) for r in part.records}
    return SequenceSet(list(records.values()), reader=splits.train.reader)
