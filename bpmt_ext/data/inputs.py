"""Poses (n, t, v, c) and their mask in, what a published network reads from a pose (n, t, v, c') out.

Letters: n sequences, t frames, v joints, c channels (the skeleton's two or three coordinates x, y (, z), then, where
present, the confidence), d coordinates. mask (n, t) is True where a frame is real. Rules as in `preprocessing.py`;
one value more per joint for every coordinate more: in 2D the channels are the originals', in 3D there is a z wherever
there is an x and a y. `joint_format` also tells the bones (the skeleton's parents) and the centre: the root of the
bones, and joint 0 in COCO's format, whose parents form no tree.
Sources: GaitGraph2, GaitTR and GPGait as FastPoseGait feeds them, in baselines.md section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from bpmt_ext.data.preprocessing import OnSkeleton, pick
from bpmt_ext.exporting import arccos, exporting
from bpmt_ext.skeletons import Skeleton

_SHORT = 1e-4  # added to a bone's length before it divides


def squares(x: Tensor) -> Tensor:
    """(d, n, t, v) -> (n, t, v): the sum of the squares."""
    return reduce(torch.add, x.square().unbind())


class _Input(OnSkeleton):
    """Base: what the three inputs are made of. They are written plane by plane, `out` (c', n, t, v): a coordinate of
    all joints lies in one piece, which is several times faster on a CPU than channels side by side. A difference
    between joints is a product with a matrix of 0, 1 and -1, which rounds once, as a subtraction does."""

    def __init__(self, joint_format: str | Skeleton = "coco17") -> None:
        super().__init__(joint_format)
        self.root = next((j for j, parent in enumerate(self.skeleton.parents) if parent == j), 0)
        self.to_root = self.differences([self.root] * self.skeleton.num_joints)
        self.to_parent = self.differences(self.skeleton.parents)

    @staticmethod
    def differences(others: Sequence[int]) -> Tensor:
        """For each joint another one (v,) -> the matrix (v, v) whose columns are the joint minus that one."""
        one = torch.eye(len(others))
        return one - one[:, list(others)]

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        place, rest = self.divide(pose)
        out = pose.new_empty(self.channels(), *pose.shape[:3])
        same = out[: place.shape[-1]].copy_(place.movedim(-1, 0))
        self.write(out, same, rest.movedim(-1, 0), mask)
        return out.movedim(0, -1)

    def channels(self) -> int:
        """c'."""
        raise NotImplementedError

    def write(self, out: Tensor, place: Tensor, rest: Tensor, mask: Tensor) -> None:
        """Coordinates (d, n, t, v), `out`'s first planes, and other channels (c - d, n, t, v) into the rest of `out`
        (c', n, t, v)."""
        raise NotImplementedError

    @staticmethod
    def minus(out: Tensor, place: Tensor, matrix: Tensor) -> None:
        """Joints (d, n, t, v) minus others into `out`, of the same shape."""
        torch.mm(place.flatten(0, 2), matrix.to(place), out=out.flatten(0, 2))

    @staticmethod
    def velocity(out: Tensor, place: Tensor, mask: Tensor, frames: int) -> None:
        """Steps (d, n, t, v) to one or two frames on; 0 in the last two real frames."""
        if exporting():  # by number: the exporter takes for granted that there are as many frames as a slice leaves out
            t = torch.arange(mask.shape[1], device=mask.device)
            last = mask.shape[1] - 1
            out.copy_(place[:, :, (t + frames).clamp(max=last)] - place)
            inside = mask & mask[:, (t + 2).clamp(max=last)] & (t + 2 <= last)
        else:
            torch.sub(place[:, :, frames:], place[:, :, :-frames], out=out[:, :, :-frames])
            out[:, :, -2:] = 0
            if mask.device.type == "cpu" and bool(mask.all()):
                return  # to look costs less than to multiply
            later = torch.cat([mask[:, 2:], mask.new_zeros(mask.shape[0], 2)], 1)[:, : mask.shape[1]]
            inside = mask & later  # a mask has no holes: the frame between is real too
        out.mul_(inside.to(out.dtype)[..., None])


class GaitTR_MultiInput(_Input):
    """GaitTR's input (n, t, v, 10), in 3D 15: place, place relative to the centre, velocity over one frame and over
    two, bone. The confidence is left out."""

    def channels(self) -> int:
        return 5 * self.skeleton.dims

    def write(self, out: Tensor, place: Tensor, rest: Tensor, mask: Tensor) -> None:
        _, centred, one, two, bone = out.chunk(5)
        self.minus(centred, place, self.to_root)
        self.velocity(one, place, mask, 1)
        self.velocity(two, place, mask, 2)
        self.minus(bone, place, self.to_parent)


class GaitGraphInput(_Input):
    """GaitGraph2's input as it is meant, (n, t, v, 15), in 3D 21: three blocks of d coordinates, the confidence and d
    coordinates more. Joint: place, and relative to the centre. Velocity: over one frame, and over two. Bone: the bone,
    and its angles with the axes, arccos(component / (length + 1e-4)). Without a confidence channel it is 1.

    The block sizes are those of `GaitGraph_MultiInput`, so that every network built for that one takes this one.
    """

    lost = 0  # second steps and angles of a 2D pose that are not told, from the first axis on

    def apply(self, pose: Tensor, mask: Tensor, draws: None) -> Tensor:
        if not exporting():
            return super().apply(pose, mask, draws)
        # side by side: a graph in which planes are written one by one fixes the number of sequences
        place, rest = self.divide(pose)
        lost = self.lost if place.shape[-1] == 2 else 0
        confidence = rest[..., :1] if rest.shape[-1] else torch.ones_like(place[..., :1])
        moving = mask & mask.roll(-1, 1) & mask.roll(-2, 1)
        moving[:, -2:] = False  # there the rolled masks begin anew
        one, two = (torch.where(moving[..., None, None], place.roll(-k, 1) - place, 0) for k in (1, 2))
        root, bone = place[:, :, self.root : self.root + 1], place - pick(place, self.skeleton.parents)
        double = bone.double()
        angles = arccos(double / (double.norm(dim=-1, keepdim=True) + _SHORT)).to(bone.dtype)
        nothing = torch.zeros_like(place[..., :lost])
        pairs = ((one, two), (bone, angles))
        velocity, bones = ((first, nothing, confidence, more[..., lost:]) for first, more in pairs)
        return torch.cat([place, confidence, place - root, *velocity, *bones], -1)

    def channels(self) -> int:
        return 3 * (2 * self.skeleton.dims + 1)

    def write(self, out: Tensor, place: Tensor, rest: Tensor, mask: Tensor) -> None:
        d, lost = len(place), self.lost if len(place) == 2 else 0
        joint, velocity, bone = out.chunk(3)
        confidence = joint[d].copy_(rest[0]) if len(rest) else joint[d].fill_(1)
        self.minus(joint[d + 1 :], place, self.to_root)
        for block in (velocity, bone):
            block[d : d + lost] = 0
            block[d + lost].copy_(confidence)
        self.velocity(velocity[:d], place, mask, 1)
        self.velocity(velocity[d + lost + 1 :], place[lost:], mask, 2)
        self.minus(bone[:d], place, self.to_parent)
        self.angles(bone[d + lost + 1 :], bone[:d])

    @staticmethod
    def angles(out: Tensor, bone: Tensor) -> None:
        """Bones (d, n, t, v) -> their angles with the last axes, as many as `out` holds."""
        square, right = list(bone.square()), torch.tensor(math.pi / 2, dtype=bone.dtype)
        short = reduce(torch.add, square).sqrt_().mul_(2 * _SHORT).add_(_SHORT * _SHORT)
        for axis, each in enumerate(out, len(bone) - len(out)):
            # the other axes and (length + 1e-4)^2 - length^2
            sine = reduce(torch.add, square[:axis] + square[axis + 1 :], short).sqrt_()
            torch.sub(right, torch.div(bone[axis], sine, out=each).atan_(), out=each)  # of a tangent: exact near 0, pi


class GaitGraph_MultiInput(GaitGraphInput):
    """GaitGraph2's input as FastPoseGait feeds it, (n, t, v, 15): joint, velocity and bone, five channels each.

    In 2D velocity and bone hold 0 where the confidence belongs, and the confidence where the first channel of the step
    over two frames, or the angle with the x axis, belongs: these two are lost. In 3D there is no original: (n, t, v,
    21), the same as `GaitGraphInput`.
    """

    lost = 1


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
        self.to_left, self.to_right = (self.differences([a[k] for a in arms]) for k in (0, -1))
        self.upright = torch.tensor([j for j, a in enumerate(arms) if len(a) == 1], dtype=torch.long)

    def channels(self) -> int:
        return 2 * self.skeleton.dims + 2

    def write(self, out: Tensor, place: Tensor, rest: Tensor, mask: Tensor) -> None:
        _, bone, angles, nothing = out.split((len(place), len(place), 1, 1))
        self.minus(bone, place, self.to_parent)
        angles[0].copy_(self.angles(place))
        nothing.zero_()
        out.nan_to_num_()

    def angles(self, place: Tensor) -> Tensor:
        """Joints (d, n, t, v) -> angles (n, t, v)."""
        left, right = torch.empty_like(place), torch.empty_like(place)
        self.minus(left, place, self.to_left)
        self.minus(right, place, self.to_right)
        for axis in (0, *range(2, len(right))):
            right[axis].index_fill_(-1, self.upright.to(right.device), 0)
        along = reduce(torch.add, (left * right).unbind())
        if len(left) == 2:
            across = (left[0] * right[1]).sub_(left[1] * right[0]).abs_()
        else:
            across = squares(torch.linalg.cross(left, right, dim=0)).sqrt_()
        # By the tangent: an arc cosine is off near 0 and pi, the law of cosines more. 0 / 0: an arm without length.
        return along.div_(across).atan_().add_(math.pi / 2).nan_to_num_(math.pi)
