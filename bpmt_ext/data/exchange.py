"""Training walks in 3D in; the same walks and each of them on other people's bodies, as people of their own, out.

Who walks on whose body is a person that nobody recorded: a network that is to tell it from both of its makers must hear
movement and proportions together, and cannot learn the recorded people by heart. Shapes: n sequences, t frames, v
joints, c channels.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

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
    over the frames. Every person lends and gets `bodies` bodies, none twice and not their own, drawn from `seed`; fewer
    are among more. UserError if the poses have no three coordinates, or there are not that many others.
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
        records = [replace(r, label=f"{r.label}~{other[r.label]}") for other in after for r in real.records]
        super().__init__([*real.records, *records], {*real.label_set, *(r.label for r in records)}, real.reader)
        self.real, self.skeleton, self.paths = real, skeleton, bone_paths(skeleton)

    @cached_property
    def lengths_of(self) -> dict[str, np.ndarray]:
        """The v bone lengths of every recorded person, as the poses measure them (metres); a root has none."""
        parents = list(self.skeleton.parents)
        walks: dict[str, list[np.ndarray]] = {}
        for i, record in enumerate(self.real.records):
            place = self.real.read(i)[..., :3]
            lengths = np.linalg.norm(place - place[:, parents], axis=-1)
            walks.setdefault(record.label, []).append(np.median(lengths, axis=0))
        return {label: np.median(found, axis=0) for label, found in walks.items()}

    @cached_property
    def changes(self) -> dict[str, np.ndarray]:
        """For every label of two people the (v, v) float32 that takes the joints of a frame to those of the other body:
        joints to bones, which are scaled, and back to joints."""
        bones = np.linalg.inv(self.paths)
        found = {}
        for label in {record.label for record in self.records[len(self.real) :]}:
            own, other = (self.lengths_of[name] for name in label.rsplit("~", 1))
            scale = np.where(own > _FLAT, other / np.maximum(own, _FLAT), 1.0)
            found[label] = (self.paths @ (scale[:, None] * bones)).astype(np.float32)
        return found

    def read(self, index: int) -> np.ndarray:
        """(t, v, c) float32; recorded, or computed from what was recorded."""
        pose = super().read(index)
        if index < len(self.real):
            return pose
        joints = pose[..., :3].transpose(1, 0, 2).reshape(pose.shape[1], -1)  # (v, 3 t): one product for all frames
        moved = (self.changes[self.records[index].label] @ joints).reshape(pose.shape[1], -1, 3).transpose(1, 0, 2)
        return moved if pose.shape[-1] == 3 else np.concatenate([moved, pose[..., 3:]], axis=-1)
