"""A run and a set of sequences in; embeddings and validation figures out, the same over any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bpmt_ext.config import Settings
from bpmt_ext.data.batches import Batch, inference_loader
from bpmt_ext.data.sequences import SequenceSet
from bpmt_ext.engine.parts import Run, autocast, training_precision, transform_device
from bpmt_ext.errors import UserError
from bpmt_ext.losses import TripletLoss
from bpmt_ext.metrics.protocols import evaluate


class Embeddings(NamedTuple):
    """Embeddings (n, d, p) float32 of a set of sequences, in its order, and who, how and where they were."""

    embeddings: np.ndarray
    labels: list[str]
    types: list[str]
    views: list[str]


def clip_sampler(settings: Settings, batch_size: int = 64) -> dict[str, Any]:
    """Clips as the training takes them, but of every sequence once: for validation losses and input statistics."""
    sampler = settings.trainer_cfg.sampler.model_dump()
    return {**sampler, "type": "InferenceSampler", "batch_size": batch_size, "batch_shuffle": False}


def validate(run: Run) -> dict[str, float]:
    """Figures on the validation split.

    Pretraining: the masked loss, over fixed clips and masks. Recognition has
    figures of its own (actions.py). Other finetuning: Rank-1, Rank-5, mAP and mINP, leave-one-out
    among the held-out sequences, and `embedding/loss`, the batch-hard triplet loss (margin 0.3) of all their embeddings
    at once: unseen people have no class, and so no cross-entropy. Where the same people stand on both sides
    (data_cfg.camera_split), also `accuracy`: the share named rightly by the classifier.
    """
    run.network.eval()
    if run.method.pretraining:
        return _pretraining_loss(run, run.splits.val)
    found = embed(run, run.splits.val, progress=False)
    e = run.settings.evaluator_cfg
    rule = {"metric": e.metric, "camera": e.camera}
    try:
        result = evaluate("evaluate_retrieval", *found, same_camera=e.same_camera, **rule)
    except UserError:  # a small validation split may hold too few cameras for the test's own rule
        result = evaluate("evaluate_retrieval", *found, same_camera="keep", **rule)
    identity = torch.from_numpy(np.unique(found.labels, return_inverse=True)[1])
    loss, _ = TripletLoss(margin=0.3, is_hard_loss=True, mean_over="all")(torch.from_numpy(found.embeddings), identity)
    figures = {"embedding/loss": float(loss), **{k: result["metrics"][k] for k in ("Rank-1", "Rank-5", "mAP", "mINP")}}
    closed_set = run.splits.val.label_set == run.splits.train.label_set
    return figures | (_accuracy(run, run.splits.val) if closed_set else {})


@torch.no_grad()
def _accuracy(run: Run, sequences: SequenceSet) -> dict[str, float]:
    """Percent of sequences whose identity is the largest mean of the parts' logits; nothing without a classifier."""
    world, right, count, classifies = run.world, 0, 0, True
    sampler = run.settings.evaluator_cfg.sampler.model_dump()
    loader = inference_loader(
        sequences, sampler, run.test_transform, rank=world.rank, world_size=world.size, device=transform_device(run)
    )
    for batch in loader:
        batch = batch.to(world.device)
        logits = run.network(batch.pose, batch.mask).get("logits")
        if logits is None:  # told to the others below: one of them may have no batch, and not know
            classifies = False
            break
        right += int((logits.mean(2).argmax(1) == batch.label).sum())
        count += len(batch)
    everyone = world.gather_objects((right, count, classifies))
    if not all(c for _, _, c in everyone):
        return {}
    return {"accuracy": 100 * sum(r for r, _, _ in everyone) / sum(c for _, c, _ in everyone)}


@torch.no_grad()
def _pretraining_loss(run: Run, sequences: SequenceSet) -> dict[str, float]:
    """Mean masked reconstruction loss over one clip and one mask of every sequence, the same at every call.

    A batch is one process's, as its loss is a weighted mean over all of its rows.
    """
    world, sums, count = run.world, {}, 0
    seed, sampler = run.settings.trainer_cfg.seed, clip_sampler(run.settings)
    loader = inference_loader(
        sequences, sampler, run.test_transform, seed=seed, rank=world.rank, world_size=world.size, whole=True,
        device=transform_device(run),
    )  # fmt: skip
    for batch in loader:
        batch = batch.to(world.device)
        with autocast(world.device, training_precision(run.settings)):
            out = run.network(batch.pose, batch.mask, batch.key)
        loss, figures = run.objective(out, batch.label, world)
        for name, value in {"loss": loss, **figures}.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(batch)
        count += len(batch)
    everyone = world.gather_objects((sums, count))
    total = sum(n for _, n in everyone)
    names = dict.fromkeys(name for s, _ in everyone for name in s)
    return {name: sum(s.get(name, 0.0) for s, _ in everyone) / total for name in names}


def embed(run: Run, sequences: SequenceSet, *, progress: bool = True) -> Embeddings:
    """Embed every sequence once, shared by all processes; each of them gets the whole, in the order of the set."""
    found = collect(run, sequences, lambda out: out["embedding"], progress=progress)
    return Embeddings(found, [r.label for r in sequences.records], list(sequences.types), list(sequences.views))


def collect(
    run: Run, sequences: SequenceSet, read: Callable[[Mapping[str, Tensor]], Tensor], *, progress: bool = True
) -> np.ndarray:
    """What `read` takes from the network's output (n, ...), of every sequence once, in the order of the set; shared by
    all processes, each gets the whole. In pretraining it is the mean encoding instead."""
    e, world = run.settings.evaluator_cfg, run.world
    run.network.to(world.device).eval()
    loader = inference_loader(
        sequences,
        e.sampler.model_dump(),
        run.test_transform,
        seed=run.settings.trainer_cfg.seed,
        rank=world.rank,
        world_size=world.size,
        num_workers=run.settings.data_cfg.num_workers,
        device=transform_device(run),
        by_length=True,
    )
    show = progress and world.main
    rows = []
    with tqdm(total=len(sequences), desc="embed   ", unit="seq", disable=not show, mininterval=1) as bar:
        for index, values in _read_batches(run, loader, read):
            rows.append((index, values))
            bar.update(min(len(index) * world.size, bar.total - bar.n))
    everyone = [row for part in world.gather_objects(rows) for row in part]
    found = np.concatenate([values for _, values in everyone])
    out = np.empty_like(found)
    out[np.concatenate([index for index, _ in everyone])] = found
    return out


@torch.no_grad()
def _read_batches(
    run: Run, loader: Iterable[Batch], read: Callable[[Mapping[str, Tensor]], Tensor]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(index (n,), what is read (n, ...) float32) of every batch."""
    precision = "fp16" if run.settings.evaluator_cfg.enable_float16 else "off"
    for batch in loader:
        batch = batch.to(run.world.device)
        with autocast(run.world.device, precision):
            if run.method.pretraining:
                out = run.network.embed(batch.pose, batch.mask)
            else:
                out = read(run.network(batch.pose, batch.mask))
        yield batch.index.cpu().numpy(), out.float().cpu().numpy()
