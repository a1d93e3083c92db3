"""Poses (n, t, v, c) and their mask in, what a published network reads from a pose (n, t, v, c') out.

Letters: n sequences, t frames, v joints, c channels (the skeleton's two or three coordinates x, y (, z), then, where
present, the confidence), d coordinates. mask (n, t) is True where a frame is real. Rules as in `preprocessing.py`;
one value more per joint for every coordinate more: in 2D the channels are the originals', in 3D there is a z wherever
there is an x and a y. `joint_format` also tells the bones (the skeleton's parents) and the centre: the root of the
bones, and joint 0 in COCO's format, whose parents form no tree. Angles are computed in float64: in float32 an arc
cosine is off by up to 5e-4 near 0 and pi, and the law of cosines by hundredths where one arm is far the shorter one.
Sources: GaitGraph2, GaitTR and GPGait as FastPoseGait feeds them, in baselines.md section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bpmt_ext.data.preprocessing import OnSkeleton, pick
from bpmt_ext.exporting import arccos
from bpmt_ext.skeletons import Skeleton

_SHORT = 1e-4  # added to a bone's length before it divides


class _Input(OnSkeleton):
    """Base: what the three inputs are made of."""

    def __init__(self, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.root = next((j for j, parent in enumerate(self.skeleton.parents) if parent == j), 0)

    def centred(self, place: Tensor) -> Tensor:
        """Joints (n, t, v, d) relative to the root."""
        return place - place[:, :, self.root:self.root + 1]

    def bones(self, place: Tensor) -> Tensor:
        """Joints (n, t, v, d) relative to their parents."""
        return place - pick(place, self.skeleton.parents)

    @staticmethod
    def velocities(place: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (n, t, v, d) to the next frame and to the one after that; both 0 in the last two real frames."""
        moving = mask & mask.roll(-1, 1) & mask.roll(-2, 1)
        moving[:, -2:] = False  # there the rolled masks begin anew
        moving = moving[..., None, None]
        one, two = (torch.where(moving, place.roll(-step, 1) - place, 0) for step in (1, 2))
        return one, two


class GaitTR_MultiInput(_Input):
    """GaitTR's input (n, t, v, 10), in 3D 15: place, place relative to the centre, velocity over one frame and over
    two, bone. The confidence is left out."""

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, _ = self.divide(pose)
        return torch.cat([place, self.centred(place), *self.velocities(place, mask), self.bones(place)], -1)


class GaitGraphInput(_Input):
    """GaitGraph2's input as it is meant, (n, t, v, 15), in 3D 21: three blocks of d coordinates, the confidence and d
    coordinates more. Joint: place, and relative to the centre. Velocity: over one frame, and over two. Bone: the bone,
    and its angles with the axes, arccos(component / (length + 1e-4)). Without a confidence channel it is 1.

    The block sizes are those of `GaitGraph_MultiInput`, so that every network built for that one takes this one.
    """

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        confidence = rest[..., :1] if rest.shape[-1] else torch.ones_like(place[..., :1])
        bone = self.bones(place)
        double = bone.double()
        angles = arccos(double / (double.norm(dim=-1, keepdim=True) + _SHORT)).to(bone.dtype)
        blocks = ((place, self.centred(place)), self.velocities(place, mask), (bone, angles))
        return torch.cat([self.block(*pair, confidence, k) for k, pair in enumerate(blocks)], -1)

    def block(self, first: Tensor, second: Tensor, confidence: Tensor, k: int) -> Tensor:
        """The k-th of the three blocks (n, t, v, 2 d + 1)."""
        return torch.cat([first, confidence, second], -1)


class GaitGraph_MultiInput(GaitGraphInput):
    """GaitGraph2's input as FastPoseGait feeds it, (n, t, v, 15): joint, velocity and bone, five channels each.

    In 2D velocity and bone hold 0 where the confidence belongs, and the confidence where the first channel of the step
    over two frames, or the angle with the x axis, belongs: these two are lost. In 3D there is no original: (n, t, v,
    21), the same as `GaitGraphInput`.
    """

    def block(self, first: Tensor, second: Tensor, confidence: Tensor, k: int) -> Tensor:
        if k == 0 or self.skeleton.dims == 3:
            return super().block(first, second, confidence, k)
        return torch.cat([first, torch.zeros_like(confidence), confidence, second[..., 1:]], -1)


def angle_arms(skeleton: Skeleton) -> tuple[tuple[int, ...], ...]:
    """For each joint the two joints between which its angle is taken; one where the other arm is vertical.

    They are its neighbours along the edges, without its own mirror image (the other shoulder, the other hip) and, where
    something is left then, without those on the other side of the border between head and body. Of more than two: on
    the midline the first pair of mirror images, elsewhere the two of the lowest numbers. In COCO's format this is the
    published table.
    """
    joints = range(skeleton.num_joints)
    near = [sorted({b for edge in skeleton.edges for a, b in (edge, edge[::-1]) if a == j} - {j}) for j in joints]
    return tuple(_arms(skeleton, j, near[j]) for j in joints)


def _arms(skeleton: Skeleton, joint: int, near: Sequence[int]) -> tuple[int, ...]:
    """The arms of one joint, given its neighbours."""
    mirror, head = skeleton.mirror, skeleton.head
    near = [k for k in near if k != mirror[joint]] or list(near)
    near = [k for k in near if (k in head) == (joint in head)] or near
    pairs = [(k, mirror[k]) for k in near if k < mirror[k] and mirror[k] in near]
    if len(near) > 2 and mirror[joint] == joint and pairs:
        return pairs[0]
    return tuple(near[:2]) or (joint,)  # a joint without edges has no angle: a side of length 0


class HOD_MultiInput(_Input):
    """GPGait's human-oriented descriptor (n, t, v, 6), in 3D 8: place, bone, angle, 0.

    angle = pi - the angle between a joint's two arms (`angle_arms`), by the law of cosines; pi where an arm has no
    length. A joint with one arm is measured against the vertical: its second arm ends at its own x (and z) and at the y
    of the first. What is not a number becomes 0. The confidence is left out.

    For 18 joints FastPoseGait lists 17 angles, in the order of COCO's joints, and no config of its own asks for them;
    here these joints have their own.
    """

    def __init__(self, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        arms = angle_arms(self.skeleton)
        self.left, self.right = tuple(a[0] for a in arms), tuple(a[-1] for a in arms)
        self.single = tuple(len(a) == 1 for a in arms)

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, _ = self.divide(pose)
        angle = self.angles(place.double()).to(place.dtype)[..., None]
        return torch.cat([place, self.bones(place), angle, torch.zeros_like(angle)], -1).nan_to_num()

    def angles(self, place: Tensor) -> Tensor:
        """Joints (n, t, v, d) -> angles (n, t, v)."""
        left, right = pick(place, self.left), pick(place, self.right)
        single = torch.tensor(self.single, device=place.device)[:, None]
        upright = torch.cat([place[..., :1], left[..., 1:2], place[..., 2:]], -1)
        right = torch.where(single, upright, right)
        a, b, c = ((p - q).square().sum(-1).sqrt() for p, q in ((place, left), (place, right), (left, right)))
        product = a * b
        cosine = (a * a + b * b - c * c) / (2 * torch.where(product == 0, 1, product))
        return torch.where(product == 0, math.pi, math.pi - arccos(cosine.clamp(-1, 1)))
