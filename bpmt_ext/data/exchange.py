"""Training walks in 3D in; the same walks and each of them on other people's bodies, as people of their own, out.

Who walks on whose body is a person that nobody recorded: a network that is to tell it from both of its makers must hear
movement and proportions together, and cannot learn the recorded people by heart. Shapes: n sequences, t frames, v
joints, c channels.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from bpmt_ext.data.preprocessing import FillMissing
from bpmt_ext.data.sequences import SequenceSet
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import Skeleton

_FLAT = 1e-6  # metres: a bone that is shorter has no length to divide by


def bone_paths(skeleton: Skeleton) -> np.ndarray:
    """(v, v) float32, 1 where the bone of a column lies on the way from a root to the joint of a row.

    A root's bone is where it stands, so that the joints are `bone_paths @ bones`. UserError if bones run in a circle.
    """
    parents = np.array(skeleton.parents)
    step = np.eye(len(parents), dtype=np.float32)[parents]
    step[parents == np.arange(len(parents))] = 0
    if np.linalg.matrix_power(step, len(parents)).any():
        raise UserError(f"data_cfg.exchanged_bodies: bones of {skeleton.name} run in a circle; set it to 0")
    return np.round(np.linalg.inv(np.eye(len(parents)) - step)).astype(np.float32)


class ExchangedBodies(SequenceSet):
    """The sequences of `real` and, `bodies` times, each with the bones of another person there: label `a~b` moves like
    a and is built like b.

    Bones keep direction and jitter, and are scaled by b's length over a's: the medians over their walks of the median
    over the frames that show them. Every person lends and gets `bodies` bodies, none twice and not their own, drawn
    from `seed`; fewer are among more. UserError if the poses have no three coordinates, there are not that many others,
    or names clash.
    """

    def __init__(self, real: SequenceSet, skeleton: Skeleton, bodies: int, seed: int) -> None:
        if skeleton.dims != 3:
            raise UserError(f"data_cfg.exchanged_bodies: bones in a picture ({skeleton.name}) have no length of their "
                            "own; set it to 0 for poses in 2D")  # fmt: skip
        people = sorted({record.label for record in real.records})
        if bodies >= len(people):
            raise UserError(f"data_cfg.exchanged_bodies: {bodies}, but a person has {len(people) - 1} others to train "
                            "with; lower it")  # fmt: skip
        turns = np.random.default_rng([seed, len(people)]).permutation(np.arange(1, len(people)))[:bodies].tolist()
        after = [dict(zip(people, people[turn:] + people[:turn], strict=True)) for turn in turns]
        self.pairs = [(r.label, other[r.label]) for other in after for r in real.records]  # who moves, on whose bones
        records = [replace(r, label="~".join(pair)) for pair, r in zip(self.pairs, real.records * bodies, strict=True)]
        names = {*real.label_set, *(r.label for r in records)}
        if len(names) < len(real.label_set) + len(set(self.pairs)):
            raise UserError("data_cfg.exchanged_bodies: people are called a~b as those that it makes; rename them, or "
                            "set it to 0")  # fmt: skip
        super().__init__([*real.records, *records], names, real.reader)
        self.real, self.skeleton, self.paths = real, skeleton, bone_paths(skeleton)
        self.fill = FillMissing(skeleton)

    @cached_property
    def lengths_of(self) -> dict[str, np.ndarray]:
        """The v bone lengths of every recorded person, as the poses measure them (metres), NaN where none was ever
        seen whole; a root has none."""
        parents = list(self.skeleton.parents)
        walks: dict[str, list[np.ndarray]] = {}
        for i, record in enumerate(self.real.records):
            pose = self.real.read(i)
            lost = self._lost(pose)
            lengths = np.linalg.norm(pose[..., :3] - pose[:, parents, :3], axis=-1)
            walks.setdefault(record.label, []).append(_median(np.where(lost | lost[:, parents], np.nan, lengths)))
        return {label: _median(np.stack(found)) for label, found in walks.items()}

    @cached_property
    def changes(self) -> dict[tuple[str, str], np.ndarray]:
        """For all who move and whose bones they have the (v, v) float32 that takes the joints of a frame to those of
        the other body: joints to bones, which are scaled, and back to joints."""
        bones = np.linalg.inv(self.paths)
        found = {}
        for pair in set(self.pairs):
            own, other = (self.lengths_of[name] for name in pair)
            known = (own > _FLAT) & ~np.isnan(other)
            scale = np.divide(other, own, out=np.ones_like(own), where=known)
            found[pair] = (self.paths @ (scale[:, None] * bones)).astype(np.float32)
        return found

    def read(self, index: int) -> np.ndarray:
        """(t, v, c) float32; recorded, or computed from what was recorded. A lost joint stays lost: (0, 0, 0)."""
        pose = super().read(index)
        if index < len(self.real):
            return pose
        lost, place = self._lost(pose), pose[..., :3]
        if lost.any():  # what hangs from it must not
            filled = self.fill(torch.from_numpy(pose)[None], torch.ones(1, len(pose), dtype=torch.bool))
            place = np.where(lost[..., None], filled[0, ..., :3].numpy(), place)
        joints = place.transpose(1, 0, 2).reshape(pose.shape[1], -1)  # (v, 3 t): one product for all frames
        change = self.changes[self.pairs[index - len(self.real)]]
        moved = (change @ joints).reshape(pose.shape[1], -1, 3).transpose(1, 0, 2)
        if lost.any():
            moved = np.where(lost[..., None], np.float32(0), moved)
        return moved if pose.shape[-1] == 3 else np.concatenate([moved, pose[..., 3:]], axis=-1)

    def _lost(self, pose: np.ndarray) -> np.ndarray:
        """(t, v, c) -> (t, v) True where there is no joint, as FillMissing has it; a root that always is at (0, 0, 0)
        is where poses are centred."""
        lost = (pose[..., :3] == 0).all(-1)
        if pose.shape[-1] > 3:
            lost |= pose[..., 3] == 0
        root = self.skeleton.parents == np.arange(pose.shape[1])
        return lost & ~(root & (pose[..., :3] == 0).all((0, 2)))


def _median(lengths: np.ndarray) -> np.ndarray:
    """(n, v) -> (v,) medians of what is no NaN; NaN where nothing is."""
    known = ~np.isnan(lengths).all(0)
    found = np.full(lengths.shape[1], np.nan, lengths.dtype)
    found[known] = np.nanmedian(lengths[:, known], axis=0)
    return found
