"""Joint features in, part features, embedding and logits per part out: what GPGait, GPGait++ and SkeletonGait share.

Shapes: n sequences, t frames, v joints, c channels, p parts, d width, k classes. A mask is True where a frame is real.
Partitions, branches, pooling and neck: specs/baselines.md section 5, baselines_plus.md sections 2 and 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.nets.graphs import edges_between, graph_of_edges
from bpmt_ext.nets.layers import check_pose
from bpmt_ext.skeletons import Skeleton

Parts = tuple[tuple[int, ...], ...]
Layer = Callable[..., nn.Module]  # takes the keywords graph, parts, inputs and outputs
SUBSETS = 3  # hop distances 0, 1 and 2 of the graph


# ---------------------------------------------------------------- head and neck


class PartLinear(nn.Module):
    """x (n, d, p) -> (n, d', p): one matrix per part, no bias. `fc_bin` (p, d, d'), Xavier uniform."""

    def __init__(self, *, parts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc_bin = nn.Parameter(nn.init.xavier_uniform_(torch.empty(parts, inputs, outputs)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x.permute(2, 0, 1), self.fc_bin).permute(1, 2, 0)


class BNNeck(nn.Module):
    """feature (n, d, p) -> embedding (n, d, p), of length 1 in every part, and logits (n, k, p) or None.

    One BatchNorm over all d * p numbers (order width, then part); the logits are cosines between the embedding and the
    columns of `fc_bin` (p, d, k), to be scaled in the loss. classes 0 leaves the classifier out.
    (Luo et al., "Bag of tricks ... person re-identification", CVPRW 2019, with cosine logits.)
    """

    def __init__(self, *, parts: int, width: int, classes: int) -> None:
        super().__init__()
        weight = nn.init.xavier_uniform_(torch.empty(parts, width, classes)) if classes else None
        self.fc_bin = nn.Parameter(weight) if weight is not None else None
        self.bn1d = nn.BatchNorm1d(width * parts)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor | None]:
        embedding = F.normalize(self.bn1d(feature.flatten(1)).view_as(feature), dim=1)
        if self.fc_bin is None:
            return embedding, None
        logits = torch.bmm(embedding.permute(2, 0, 1), F.normalize(self.fc_bin, dim=1))  # (p, n, k)
        return embedding, logits.permute(1, 2, 0)


# ---------------------------------------------------------------- partitions of the body


def limbs_and_head(skeleton: Skeleton) -> Parts:
    """(left arm, right arm, left leg, right leg, head): every joint once.

    An arm is the skeleton's arm with its shoulder, a leg its leg with its hip; `head` is all that is left: the face,
    and in formats that have them the neck, the spine and the middle of the hips. It may be empty.
    """
    ends = (*skeleton.shoulders, *skeleton.hips)
    limbs = [tuple(sorted({*part, end})) for part, end in zip(skeleton.parts[1:], ends, strict=True)]
    taken = {joint for limb in limbs for joint in limb}
    return *limbs, tuple(joint for joint in range(skeleton.num_joints) if joint not in taken)


def stream_partitions(limbs: Sequence[tuple[int, ...]], head: tuple[int, ...]) -> dict[str, Parts]:
    """Name of a stream -> the sets of joints it keeps apart, in the order of the part features.

    The shared layers keep the limbs and the head apart. Without a head (the angle branch) the two streams that
    differ from `part_2` in the head alone are left out.
    """
    left_arm, right_arm, left_leg, right_leg = limbs
    arms, legs = left_arm + right_arm, left_leg + right_leg
    if not head:
        return {"layer_share": tuple(limbs), "part_2": (arms, legs), "backbone": (arms + legs,)}
    return {
        "layer_share": (*limbs, head),
        "part_2": (arms + head, legs),
        "part_2_2": (arms, legs + head),
        "part_3_1": (arms, legs, head),
        "backbone": (arms + legs + head,),
    }


def membership(parts: Parts, joints: int) -> Tensor:
    """(p, v) bool: whether a joint belongs to a part."""
    out = torch.zeros(len(parts), joints, dtype=torch.bool)
    for row, part in zip(out, parts, strict=True):
        row[list(part)] = True
    return out


class PartPool(nn.Module):
    """x (n, v, d) -> (n, d, p): mean plus maximum over the joints of each part."""

    member: Tensor
    count: Tensor

    def __init__(self, parts: Parts, joints: int) -> None:
        super().__init__()
        member = membership(parts, joints)
        self.register_buffer("member", member[..., None], persistent=False)  # (p, v, 1)
        self.register_buffer("count", member.sum(1, keepdim=True), persistent=False)  # (p, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = torch.where(self.member, x[:, None], -torch.inf).amax(2)  # (n, p, d)
        mean = self.member[..., 0].to(x.dtype) @ x / self.count
        return (mean + top).transpose(1, 2)


def masked_max(x: Tensor, mask: Tensor | None, dim: int) -> Tensor:
    """Maximum over the frames on axis `dim` (1 or 2) of x; mask (n, t), None where all frames are real."""
    if mask is not None:
        x = x.masked_fill(~mask[(slice(None), *(None,) * (dim - 1), slice(None), *(None,) * (3 - dim))], -torch.inf)
    return x.amax(dim)


def padded(mask: Tensor) -> Tensor | None:
    """None where every frame is real, so that the passes that only undo padding are left out; the mask otherwise."""
    return mask if torch.compiler.is_compiling() or not bool(mask.all()) else None


# ---------------------------------------------------------------- part-aware graphs and the branches over them


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1 x 1 convolution over the last axis: x (n, ., ., c), weight (c', c, 1, 1), bias (c',) -> (n, ., ., c').

    To torch x is a picture with its channels last; on a CPU this convolution beats the matrix product by a tenth.
    Few channels are no such picture (one could as well be channels first), and the product is right for them.
    """
    if x.shape[-1] < 8:
        return F.linear(x, weight.flatten(1), bias)
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)


def norm_last(x: Tensor, bn: nn.Module) -> Tensor:
    """BatchNorm2d over the last axis of x (n, ., ., c)."""
    return bn(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvNorm(nn.Sequential):
    """x (n, ., ., c) -> (n, ., ., c'): 1 x 1 convolution (entry 0) and BatchNorm (entry 1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        conv, bn = self
        return norm_last(pointwise(x, conv.weight, conv.bias), bn)


class PartGraph(nn.Module):
    """x (b, v, s, c), real (b, s) or None -> (b, v, s, c'): a part-aware graph convolution.

    How much of joint u goes to joint v is learned (PA), given (the graph) and found in the input: a softmax over u of
    the likeness of u's queries and v's keys, taken over all s frames of an item at once. GPGait has one item per
    sequence, GPGait++ one per frame with s = 1. Weights between two parts are 0. Three subsets i add up, each with a
    query, a key and an output convolution. (Fu et al., "GPGait", ICCV 2023.)
    """

    graph: Tensor
    same: Tensor | None

    def __init__(self, *, graph: Tensor, parts: Parts | None, inputs: int, outputs: int, squeezed: int) -> None:
        super().__init__()
        self.squeezed = squeezed
        self.PA = nn.Parameter(torch.full_like(graph, 1e-6))
        for name, width in (("conv_a", squeezed), ("conv_b", squeezed), ("conv_d", outputs)):
            setattr(self, name, nn.ModuleList(nn.Conv2d(inputs, width, 1) for _ in range(SUBSETS)))
        self.bn = nn.BatchNorm2d(outputs)
        member = None if parts is None else membership(parts, graph.shape[-1]).float()
        self.register_buffer("graph", graph, persistent=False)
        self.register_buffer("same", None if member is None else member.T @ member, persistent=False)

    def weights(self, x: Tensor, real: Tensor | None) -> Tensor:
        """(b, i, v, u): how much of joint u goes to joint v."""
        b, v, s, _ = x.shape
        convs = (*self.conv_b, *self.conv_a)  # keys, queries: one product for all six
        kq = pointwise(x, torch.cat([m.weight for m in convs]), torch.cat([m.bias for m in convs]))
        frames: int | Tensor = s
        if real is not None:
            kq = kq * real[:, None, :, None]
            frames = real.sum(1).clamp(min=1)[:, None, None, None]
        kq = kq.unflatten(-1, (2, SUBSETS, self.squeezed)).permute(3, 0, 4, 1, 2, 5)  # (2, b, i, v, s, e)
        keys, queries = kq.reshape(2, b * SUBSETS, v, s * self.squeezed).unbind(0)
        likeness = torch.bmm(keys, queries.transpose(1, 2)).view(b, SUBSETS, v, v) / (self.squeezed * frames)
        weights = likeness.softmax(-1) + (self.graph + self.PA).transpose(1, 2)
        return weights if self.same is None else weights * self.same

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        b, v, s, c = x.shape
        weights = self.weights(x, real).flatten(1, 2)  # (b, i v, u)
        gathered = torch.bmm(weights, x.flatten(2)).view(b, SUBSETS, v, s, c)
        gathered = gathered.permute(0, 2, 3, 1, 4).flatten(3)  # (b, v, s, i c)
        weight, bias = torch.cat([m.weight for m in self.conv_d], dim=1), sum(m.bias for m in self.conv_d)
        return F.mish(norm_last(pointwise(gathered, weight, bias), self.bn))


class PartBranch(nn.Module):
    """x (n, t, v, c), mask (n, t) or None -> (n, d, p): one kind of input through shared layers and part streams.

    layer: builds a layer from the graph, the sets of joints it keeps apart and its widths. widths: of all layers, the
    first is not used (the input decides). shared: how many layers all streams share. time_axis: where the layers want
    time, 1 for (n, t, v, c) or 2 for (n, v, t, c).
    """

    def __init__(
        self,
        *,
        layer: Layer,
        graph: Tensor,
        partitions: dict[str, Parts],
        channels: int,
        widths: Sequence[int],
        shared: int,
        time_axis: int,
    ) -> None:
        super().__init__()
        if not 0 < shared < len(widths) - 1:
            raise ValueError(
                f"share_num {shared} must be at least 1 and below the {len(widths) - 1} layers of in_channels"
            )
        joints, steps = graph.shape[-1], list(zip([channels, *widths[1:]], widths[1:], strict=False))
        self.time_axis = time_axis
        self.data_bn = nn.BatchNorm1d(joints * channels)
        self.streams = tuple(name for name in partitions if name != "layer_share")
        self.pools = nn.ModuleDict()
        for name, parts in partitions.items():
            own = steps[:shared] if name == "layer_share" else steps[shared:]
            layers = (layer(graph=graph, parts=parts, inputs=a, outputs=c) for a, c in own)
            setattr(self, name, nn.ModuleList(layers))
            if name != "layer_share":
                self.pools[name] = PartPool(parts, joints)
        self.parts = sum(len(partitions[name]) for name in self.streams)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n, t, v, c = x.shape
        x = self.data_bn(x.reshape(n * t, v * c)).view(n, t, v, c)
        x = x.transpose(1, self.time_axis).contiguous()
        for layer in self.layer_share:
            x = layer(x, mask)
        out = []
        for name in self.streams:
            y = x
            for layer in getattr(self, name):
                y = layer(y, mask)
            out.append(self.pools[name](masked_max(y, mask, self.time_axis)))  # (n, d, p of the stream)
        return torch.cat(out, dim=-1)


class PartNet(nn.Module):
    """pose (n, t, v, c), mask (n, t) -> {feature, embedding (n, d, p), logits (n, k, p)}: three branches and a head.

    pose holds the channels of HOD_MultiInput: coordinates, bones (2 or 3 each, as the skeleton has), the joint's angle.
    The angle branch reads the limbs alone. A subclass says what a layer is.
    """

    limbs: Tensor

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        layer: Layer,
        in_channels: Sequence[int],
        num_class: int,
        shared: int,
        time_axis: int,
    ) -> None:
        super().__init__()
        *limbs, head = limbs_and_head(skeleton)
        kept = sorted(joint for limb in limbs for joint in limb)
        renumbered = [tuple(kept.index(joint) for joint in limb) for limb in limbs]
        self.skeleton, self.takes = skeleton, (skeleton.num_joints, 2 * skeleton.dims + 1)
        self.register_buffer("limbs", torch.tensor(kept), persistent=False)
        for name, channels, joints, partitions in (
            ("pose", skeleton.dims, range(skeleton.num_joints), stream_partitions(limbs, head)),
            ("bone", skeleton.dims, range(skeleton.num_joints), stream_partitions(limbs, head)),
            ("angle", 1, kept, stream_partitions(renumbered, ())),
        ):
            graph = graph_of_edges(edges_between(skeleton, joints), len(joints), SUBSETS - 1)
            branch = PartBranch(
                layer=layer,
                graph=graph,
                partitions=partitions,
                channels=channels,
                widths=in_channels,
                shared=shared,
                time_axis=time_axis,
            )
            setattr(self, name, branch)
        parts = self.pose.parts + self.bone.parts + self.angle.parts
        self.head = PartLinear(parts=parts, inputs=in_channels[-1], outputs=in_channels[-1])
        self.BNNecks = BNNeck(parts=parts, width=in_channels[-1], classes=num_class)
        self.apply(_initialise)

    def forward(self, pose: Tensor, mask: Tensor, key: Tensor | None = None) -> dict[str, Tensor]:
        check_pose(pose, mask, self.skeleton, self.takes[1])
        d, real = self.skeleton.dims, padded(mask)
        parts = [
            self.pose(pose[..., :d], real),
            self.bone(pose[..., d : 2 * d], real),
            self.angle(pose[:, :, self.limbs, 2 * d : 2 * d + 1], real),
        ]
        feature = self.head(torch.cat(parts, dim=-1))
        embedding, logits = self.BNNecks(feature)
        out = {"feature": feature, "embedding": embedding}
        return out if logits is None else out | {"logits": logits}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
