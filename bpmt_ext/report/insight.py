"""A trained network and some sequences in; who attends to whom, and what it puts in place of what is hidden, out.

Shapes: n sequences, t frames, v joints, s slots (a joint in its part), c channels, p parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bpmt_ext.data.batches import inference_loader
from bpmt_ext.data.sequences import SequenceSet
from bpmt_ext.engine.attention import attention
from bpmt_ext.engine.inference import clip_sampler
from bpmt_ext.engine.parts import Run
from bpmt_ext.errors import UserError
from bpmt_ext.nets.embedders import fold_bodies
from bpmt_ext.nets.layers import cut_windows
from bpmt_ext.nets.masked import BPMT_T1, part_losses

_LAGS = 15  # frames to either side


@dataclass(frozen=True)
class Attended:
    """Mean over clips. between (p, p): share of its attention that a part (row) gives to each other one, or None.

    received (p, t): share of all attention that goes to each part, frame by frame, of the first clip, or None. lag
    (2 l + 1,): attention to the frame so many before or after, 1 where all frames of a window count alike, NaN where
    none is that far. moment (t,): the same for each frame of the first clip. clip: the first clip's name.
    """

    clips: int
    between: np.ndarray | None
    received: np.ndarray | None
    lag: np.ndarray
    moment: np.ndarray
    clip: str


def walks(run: Run, sequences: SequenceSet) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, pose (1, t, v, c) as the network takes it in a test, mask (1, t)) of each sequence."""
    sampler = run.settings.evaluator_cfg.sampler.model_dump() | {"batch_size": 1}
    for batch in inference_loader(sequences, sampler, run.test_transform):
        yield batch.names[0], batch.pose, batch.mask


def attended(run: Run, sequences: SequenceSet) -> Attended | str:
    """The attention of the network's last fusion, or the sentence that says why there is none to show."""
    between, near, even, first = [], np.zeros(2 * _LAGS + 1), np.zeros(2 * _LAGS + 1), None
    try:
        for name, pose, mask in walks(run, sequences):
            found = attention(run.network, pose, mask)
            frames = found.frames[0]  # (t, t) of the first body
            alike = (frames > 0) / np.maximum((frames > 0).sum(1, keepdims=True), 1)
            t = len(frames)
            for lag in range(-min(_LAGS, t - 1), min(_LAGS, t - 1) + 1):
                near[lag + _LAGS] += np.diagonal(frames, lag).sum()
                even[lag + _LAGS] += np.diagonal(alike, lag).sum()
            if found.parts is not None:
                between.append(found.parts[0].mean(0))
            if first is None:
                received = None if found.parts is None else found.parts[0].sum(1).T / found.parts.shape[-1]
                moment = frames.sum(0) / np.maximum(alike.sum(0), 1e-9)
                first = (name, received, moment)
    except UserError as error:
        return str(error)
    if first is None:
        return "there is no sequence to look at"
    with np.errstate(invalid="ignore", divide="ignore"):
        lag = np.where(even > 0, near / even, np.nan)
    mean = np.mean(between, axis=0) if between else None
    return Attended(len(sequences), mean, first[1], lag, first[2], first[0])


@dataclass(frozen=True)
class Rebuilt:
    """One clip before and after. pose, guess (t, v, dims): what it is, and what the network makes of what it sees;
    hidden (t, v). error (p,): mean squared error of what was hidden, in shares of what answering the mean would leave,
    over `clips` clips. share: of all coordinates that were hidden."""

    clips: int
    clip: str
    pose: np.ndarray
    guess: np.ndarray
    hidden: np.ndarray
    error: np.ndarray
    share: float


@torch.no_grad()
def rebuilt(run: Run, sequences: SequenceSet) -> Rebuilt | str:
    """What stage T1 reconstructs, or the sentence that says why there is nothing to show."""
    network = run.network
    if not isinstance(network, BPMT_T1):
        return f"{type(network).__name__} is no stage T1 of BPMT, whose reconstruction this shows"
    if network.masking.mode == "none":
        return "this stage T1 was trained with nothing hidden (model_cfg.mask: none)"
    t1, parts, first = network.t1, network.t1.slots.parts, None
    wrong, mean, hid, real = torch.zeros(parts), torch.zeros(parts), 0.0, 0.0
    sampler, dims, seed, count = clip_sampler(run.settings, 1), t1.streams.dims, run.settings.trainer_cfg.seed, 0
    for batch in inference_loader(sequences, sampler, run.test_transform, seed=seed):
        pose, mask = (x[:1] for x in fold_bodies(batch.pose, batch.mask, network.bodies))
        windows = cut_windows(pose, mask, network.max_frames)
        pose, mask = windows.pose[:1], windows.mask[:1]
        streams = t1.streams(pose, mask)  # (1, t, s, c)
        hidden = network.masking.draw(mask, batch.key[:1])
        guess = network.decoder(network.features(streams, hidden, mask), mask.shape[1])  # (1, t, s, dims)
        truth, weight = streams[..., :dims], hidden.float()
        wrong += part_losses((guess - truth).square().mean(-1), weight, t1.slots.part, parts)
        mean += part_losses(truth.square().mean(-1), weight, t1.slots.part, parts)
        hid, real, count = hid + float(hidden.sum()), real + float(mask.sum()) * t1.slots.count, count + 1
        if first is None:
            length = int(mask.sum())
            place = guess[0, :length] * t1.streams.std[:, :dims] + t1.streams.mean[:, :dims]
            place = torch.where(hidden[0, :length, :, None], place, pose[0, :length, t1.slots.joint, :dims])
            first = (batch.names[0], pose[0, :length, :, :dims].numpy(), _joints(place, pose[0, :length], network),
                     _joints(hidden[0, :length, :, None].float(), None, network)[..., 0] > 0)  # fmt: skip
    if first is None:
        return "there is no sequence to look at"
    error = (wrong / mean.clamp(min=1e-12)).numpy()
    return Rebuilt(count, *first, error, hid / max(real, 1.0))


def _joints(slots: Tensor, pose: Tensor | None, network: BPMT_T1) -> np.ndarray:
    """Values of the slots (t, s, k) -> of the joints (t, v, k), their mean where a joint has several; those of no part
    as in pose (t, v, c), or 0."""
    joint, v = network.t1.slots.joint, network.t1.streams.skeleton.num_joints
    total = slots.new_zeros(len(slots), v, slots.shape[-1]).index_add(1, joint, slots)
    count = torch.bincount(joint, minlength=v)
    mean = total / count.clamp(min=1)[:, None]
    if pose is not None:
        mean = torch.where((count > 0)[:, None], mean, pose[..., : slots.shape[-1]])
    return mean.numpy()
