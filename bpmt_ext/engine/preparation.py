"""A run and its data in; one sentence about what cannot go together, or a network made ready to train, out."""

from __future__ import annotations

import torch
from torch import nn

from bpmt_ext.config import Settings
from bpmt_ext.data.batches import inference_loader
from bpmt_ext.data.sequences import SequenceSet, Splits
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.inference import clip_sampler
from bpmt_ext.engine.logs import log
from bpmt_ext.engine.parts import Run, classifies
from bpmt_ext.errors import UserError
from bpmt_ext.metrics.protocols import protocol_counts
from bpmt_ext.registry import Method


def check_validation(settings: Settings, splits: Splits, method: Method) -> None:
    """UserError if the validation split cannot be scored; a warning if there is none though one is asked for."""
    t, val = settings.trainer_cfg, splits.val
    if t.val_iter and not len(val):
        log.warning("trainer_cfg.val_iter is %d, but there is no validation split; set data_cfg.validation", t.val_iter)
    if t.val_iter and len(val) and not method.pretraining and not classifies(settings):
        try:
            protocol_counts("evaluate_retrieval", [r.label for r in val.records], val.types, val.views)
        except UserError as error:
            raise UserError(
                f"the validation split has {len(val)} sequences of {len(set(val.labels))} identities and none to match "
                "with another; hold out more (data_cfg.validation), or set it and trainer_cfg.val_iter to 0"
            ) from error


def check_modality(settings: Settings, network: nn.Module) -> None:
    """UserError if the network reads silhouettes and the data are poses, or the other way round."""
    reads, holds = getattr(network, "modality", "pose"), settings.data_cfg.modality
    if reads != holds:
        raise UserError(
            f"{settings.where('data_cfg.modality')}: {settings.model_cfg.model} reads {reads}s, the data are {holds}s; "
            "take the other kind of data or another network"
        )


def check_channels(run: Run, sequences: SequenceSet) -> None:
    """UserError if the poses have fewer channels than the network's input streams take."""
    needed = getattr(getattr(getattr(run.network, "t1", None), "streams", None), "needed", 0)
    if len(sequences) and sequences.read(0).shape[2] < needed:
        raise UserError(
            f"{sequences.records[0].paths[0]}: has {sequences.read(0).shape[2]} channels, {needed} needed for "
            "model_cfg.streams; convert with confidence, or leave that stream out"
        )


def check_input(run: Run, sequences: SequenceSet, section: str) -> None:
    """UserError if what the section's transforms make of a sequence is not what the network takes.

    A network says `takes`: (joints, channels), of which poses may have more channels, or the exact shape of a frame.
    """
    takes = getattr(run.network, "takes", None)
    if takes is None or not len(sequences):
        return
    training = section == "trainer_cfg"
    sampler = clip_sampler(run.settings) if training else run.settings.evaluator_cfg.sampler.model_dump()
    transform = run.train_transform if training else run.test_transform
    one = SequenceSet(sequences.records[:1], reader=sequences.reader)
    batch = next(iter(inference_loader(one, {**sampler, "batch_size": 1}, transform)))
    shape, takes = tuple(batch.pose.shape[2:]), tuple(takes)
    pictures = run.settings.data_cfg.modality == "silhouette"
    poses = len(takes) == len(shape) == 2 and not pictures
    if shape == takes or (poses and shape[0] == takes[0] and shape[1] > takes[1]):
        return
    cfg = getattr(run.settings, section).transform
    names = ", ".join(step["type"] for entry in cfg for step in (entry.get("trf_cfg") or [entry])) or "no transform"
    what = "joints and channels" if poses else "a frame of shape"
    raise UserError(
        f"{run.settings.where(f'{section}.transform')}: {names} makes {shape} of each frame of "
        f"{sequences.records[0].paths[0]}, {run.settings.model_cfg.model} takes {what} {takes}; correct the transforms "
        f"or {'convert the silhouettes anew' if pictures else 'data_cfg.joint_format'}"
    )


def wants_fit(network: nn.Module) -> bool:
    """Whether the network takes statistics from training clips (it has a flag `fitted`) and has none yet."""
    flags = [value for name, value in network.state_dict().items() if name.rpartition(".")[2] == "fitted"]
    return bool(flags) and not all(map(bool, flags))


def fit_inputs(run: Run, most: int = 512) -> None:
    """Give a network that asks for it its input statistics, from fixed clips of at most `most` training sequences."""
    if not wants_fit(run.network):
        return
    t, poses, masks = run.settings.trainer_cfg, [], []
    for batch in inference_loader(run.splits.train, clip_sampler(run.settings), run.test_transform, seed=t.seed):
        poses.append(batch.pose)
        masks.append(batch.mask)
        if sum(map(len, poses)) >= most:
            break
    frames = max(pose.shape[1] for pose in poses)
    pad = [frames - pose.shape[1] for pose in poses]
    pose = torch.cat([nn.functional.pad(x, (0, 0, 0, 0, 0, k)) for x, k in zip(poses, pad, strict=True)])
    mask = torch.cat([nn.functional.pad(x, (0, k)) for x, k in zip(masks, pad, strict=True)])
    run.network.fit(pose.to(run.world.device), mask.to(run.world.device))


def release_idle(run: Run) -> None:
    """Freeze the parameters no loss reaches (a classifier without cross-entropy): DistributedDataParallel would wait
    for their gradients for ever. One forward pass in eval mode, of what a test would see, tells which."""
    tested = run.settings.evaluator_cfg.sampler
    sampler = {**tested.model_dump(), "batch_size": 2, "frames_all_limit": min(tested.frames_all_limit or 128, 128)}
    if run.method.pretraining:
        sampler = clip_sampler(run.settings, 2)
    clips = inference_loader(run.splits.train, sampler, run.test_transform, seed=run.settings.trainer_cfg.seed)
    batch = next(iter(clips)).to(run.world.device)
    out = run.network.eval()(batch.pose, batch.mask, batch.key)
    loss, _ = run.objective(out, batch.label, World(0, 1, run.world.device))
    weights = [p for p in run.network.parameters() if p.requires_grad]
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
        weight.requires_grad_(gradient is not None)
