"""What the engine computes, said plainly: one sequence, one joint, one part, one probe at a time. References of the
benchmarks, written from the same specifications as the engine and kept for their numbers, not for their speed.

Letters: t frames, v joints, c channels, n probes, m gallery entries, d width, p parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpmt_ext.data.inputs import angle_arms
from bpmt_ext.nets.bpmt import BPMT
from bpmt_ext.nets.grouped import GroupedAttention, GroupedCrossAttention, GroupedEncoderLayer, GroupedLayerNorm
from bpmt_ext.nets.layers import cut_patches
from bpmt_ext.skeletons import Skeleton

# Inputs of the networks: pose (t, v, 3) float64 -> (t, v, c) ---------------------------------------------------------


def _moves(place: np.ndarray, now: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps from frame `now` to the next and to the one after; 0 in the last two frames."""
    if now + 2 >= len(place):
        return np.zeros_like(place[0]), np.zeros_like(place[0])
    return place[now + 1] - place[now], place[now + 2] - place[now]


def gaittr_input(pose: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """x, y | relative to the centre | step | step over two | bone."""
    place, out = pose[..., :2], np.zeros((*pose.shape[:2], 10))
    for j, parent in enumerate(skeleton.parents):
        out[:, j, :2] = place[:, j]
        out[:, j, 2:4] = place[:, j] - place[:, 0]
        out[:, j, 8:] = place[:, j] - place[:, parent]
    for now in range(len(pose)):
        out[now, :, 4:6], out[now, :, 6:8] = _moves(place, now)
    return out


def gaitgraph_input(pose: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """x, y, c, relative to the centre | step, 0, c, second step's y | bone, 0, c, angle with y."""
    place, seen, out = pose[..., :2], pose[..., 2], np.zeros((*pose.shape[:2], 15))
    for j, parent in enumerate(skeleton.parents):
        out[:, j, :2], out[:, j, 2] = place[:, j], seen[:, j]
        out[:, j, 3:5] = place[:, j] - place[:, 0]
        bone = place[:, j] - place[:, parent]
        length = np.sqrt(bone[:, 0] ** 2 + bone[:, 1] ** 2)
        out[:, j, 10:12] = bone
        out[:, j, 14] = np.arccos(bone[:, 1] / (length + 1e-4))
    for now in range(len(pose)):
        one, two = _moves(place, now)
        out[now, :, 5:7], out[now, :, 9] = one, two[:, 1]
    out[..., 8] = out[..., 13] = seen
    return out


def _length(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a - b) ** 2).sum(-1))


def hod_input(pose: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """x, y | bone | pi - angle between a joint's two arms, by the law of cosines | 0."""
    place, out = pose[..., :2], np.zeros((*pose.shape[:2], 6))
    for j, arms in enumerate(angle_arms(skeleton)):
        centre, left = place[:, j], place[:, arms[0]]
        upright = np.stack([centre[:, 0], left[:, 1]], -1)
        right = place[:, arms[1]] if len(arms) > 1 else upright
        a, b, c = _length(centre, left), _length(centre, right), _length(left, right)
        angle = np.full(len(pose), math.pi)
        there = a * b > 0
        cosine = (a[there] ** 2 + b[there] ** 2 - c[there] ** 2) / (2 * a[there] * b[there])
        angle[there] = math.pi - np.arccos(np.clip(cosine, -1, 1))
        out[:, j, :2], out[:, j, 2:4], out[:, j, 4] = centre, centre - place[:, skeleton.parents[j]], angle
    return np.nan_to_num(out)


INPUTS = {"GaitTR_MultiInput": gaittr_input, "GaitGraph_MultiInput": gaitgraph_input, "HOD_MultiInput": hod_input}


# Ranking ------------------------------------------------------------------------------------------------------------


def distances(probe: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(n, d, p), (m, d, p) -> (n, m): mean over parts of the Euclidean distance, one part after the other."""
    total = np.zeros((len(probe), len(gallery)), dtype=np.float32)
    for part in range(probe.shape[2]):
        a, b = (torch.from_numpy(np.ascontiguousarray(x[:, :, part])) for x in (probe, gallery))
        square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
        total += square.clamp(min=0).sqrt().numpy()
    return total / probe.shape[2]


def ranking(dist: np.ndarray, probe: Sequence[str], gallery: Sequence[str]) -> dict[str, np.ndarray]:
    """(n, m) and who they are -> first, ap, inp (n,) of one probe after the other; no probe without a match."""
    gallery_names, out = np.asarray(gallery), {"first": [], "ap": [], "inp": []}
    for row, who in zip(dist, probe, strict=True):
        order = np.argsort(row, kind="stable")
        places = np.flatnonzero(gallery_names[order] == who) + 1
        found = np.arange(1, len(places) + 1)
        out["first"].append(places[0])
        out["ap"].append((found / places).mean())
        out["inp"].append(len(places) / places[-1])
    return {name: np.array(values) for name, values in out.items()}


# BPMT of separate modules -------------------------------------------------------------------------------------------


def _attention(mine: GroupedAttention, group: int) -> nn.MultiheadAttention:
    made = nn.MultiheadAttention(mine.in_weight.shape[1], mine.heads, dropout=mine.dropout, batch_first=True)
    made.load_state_dict({
        "in_proj_weight": mine.in_weight[group].T, "in_proj_bias": mine.in_bias[group, 0],
        "out_proj.weight": mine.out.weight[group].T, "out_proj.bias": mine.out.bias[group, 0],
    })  # fmt: skip
    return made


def _norm(mine: GroupedLayerNorm, group: int) -> nn.LayerNorm:
    made = nn.LayerNorm(mine.weight.shape[-1])
    made.load_state_dict({"weight": mine.weight[group, 0, 0], "bias": mine.bias[group, 0, 0]})
    return made


def _layer(mine: GroupedEncoderLayer, group: int) -> nn.TransformerEncoderLayer:
    d, f = mine.up.weight.shape[1:]
    made = nn.TransformerEncoderLayer(d, mine.attention.heads, f, mine.dropout.p, batch_first=True,
                                      norm_first=mine.norm_first)  # fmt: skip
    made.self_attn = _attention(mine.attention, group)
    made.norm1, made.norm2 = _norm(mine.norm1, group), _norm(mine.norm2, group)
    with torch.no_grad():
        for name, other in (("linear1", mine.up), ("linear2", mine.down)):
            getattr(made, name).weight.copy_(other.weight[group].T)
            getattr(made, name).bias.copy_(other.bias[group, 0])
    return made


class Cross(nn.Module):
    """Queries (n, t, d), context (n, s, d), padding (n, s) True where there is none -> LayerNorm(query + attention)."""

    def __init__(self, mine: GroupedCrossAttention, group: int) -> None:
        super().__init__()
        self.attention, self.dropout = _attention(mine.attention, group), nn.Dropout(mine.dropout.p)
        self.norm = _norm(mine.norm, group)

    def forward(self, query: Tensor, context: Tensor, padding: Tensor) -> Tensor:
        said, _ = self.attention(query, context, context, key_padding_mask=padding, need_weights=False)
        return self.norm(query + self.dropout(said))


class _Separate(nn.Module):
    """A BPMT of plain encoders and a part head as torch's own modules, one for each part and each pair, with the same
    weights: pose (n, t, v, c) of at most max_frames frames, mask (n, t) -> {feature, embedding, logits}."""

    def __init__(self, net: BPMT) -> None:
        super().__init__()
        parts, t1 = range(net.parts), net.t1
        self.streams, self.slots, self.patch = t1.streams, t1.slots, t1.patch
        self.pool, self.whole = net.pool, net.whole_body
        self.embed = nn.ModuleList()
        for part in parts:
            rows = (t1.slots.part == part).nonzero()[:, 0]
            weight = t1.embedding.weight[rows].flatten(0, 1)
            linear = nn.Linear(*weight.shape)
            with torch.no_grad():
                linear.weight.copy_(weight.T)
                linear.bias.copy_(t1.embedding.bias[part])
            self.embed.append(linear)
        self.positions = nn.ParameterList(t1.positions[part].detach().clone() for part in parts)
        self.t1 = nn.ModuleList(nn.ModuleList(_layer(x, part) for x in t1.encoder.layers) for part in parts)
        self.fc, self.bn, self.classes = nn.ModuleList(), nn.ModuleList(), nn.ParameterList()
        width = net.head.fc.weight.shape[2]
        for part in range(len(net.head.fc.weight)):
            linear = nn.Linear(*net.head.fc.weight.shape[1:])
            with torch.no_grad():
                linear.weight.copy_(net.head.fc.weight[part].T)
                linear.bias.copy_(net.head.fc.bias[part, 0])
            self.fc.append(linear)
            self.bn.append(nn.BatchNorm1d(width))
            self.classes.append(net.head.classes[part].detach().clone())

    def told(self, coded: list[Tensor], padding: Tensor) -> list[Tensor]:
        """The second stage: every part (n, t, d), padding (n, t) -> every part, told by the others."""
        raise NotImplementedError

    def forward(self, pose: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x, mask = cut_patches(self.streams(pose, mask), mask, self.patch)
        padding, t, coded = ~mask, mask.shape[1], []
        for part, (linear, positions, layers) in enumerate(zip(self.embed, self.positions, self.t1, strict=True)):
            y = linear(x[:, :, self.slots.part == part].flatten(2)) + positions[:t]
            for layer in layers:
                y = layer(y, src_key_padding_mask=padding)
            coded.append(y)
        pools, real = [], mask[..., None]
        for fused in self.told(coded, padding):
            pooled = [(fused * real).sum(1) / real.sum(1)]
            if self.pool == "mean_max":
                pooled.append(fused.masked_fill(~real, -torch.inf).amax(1))
            pools.append(torch.cat(pooled, 1))
        if self.whole:
            pools.append(torch.stack(pools).mean(0))
        features, embeddings, logits = [], [], []
        for pooled, fc, bn, classes in zip(pools, self.fc, self.bn, self.classes, strict=True):
            feature = fc(pooled)
            embedding = bn(feature)
            features.append(feature)
            embeddings.append(embedding)
            logits.append(F.normalize(embedding, dim=1) @ F.normalize(classes, dim=1).T)
        return {"feature": torch.stack(features, 2), "embedding": torch.stack(embeddings, 2),
                "logits": torch.stack(logits, 2)}  # fmt: skip


class SeparatePairs(_Separate):
    """With an encoder for each of ten pairs."""

    def __init__(self, net: BPMT) -> None:
        super().__init__(net)
        t2 = net.t2
        self.pairs = t2.pairs
        self.cross = nn.ModuleList(Cross(t2.cross, pair) for pair in range(len(t2.pairs)))
        self.t2 = nn.ModuleList(nn.ModuleList(_layer(x, k) for x in t2.encoder.layers) for k in range(len(t2.pairs)))
        self.sides = nn.ParameterList(
            (t2.segments[k] + t2.positions[k])[:, 0].detach().clone() for k in range(len(t2.pairs))
        )  # (2, t, d) each: which part and which frame
        self.fuse = nn.ModuleList(Cross(net.fuse, part) for part in range(net.parts))

    def told(self, coded: list[Tensor], padding: Tensor) -> list[Tensor]:
        said: list[list[Tensor]] = [[] for _ in coded]
        t = padding.shape[1]
        for k, (a, b) in enumerate(self.pairs):
            both = [self.cross[k](coded[a], coded[b], padding), self.cross[k](coded[b], coded[a], padding)]
            z = torch.cat([both[0] + self.sides[k][0, :t], both[1] + self.sides[k][1, :t]], 1)
            for layer in self.t2[k]:
                z = layer(z, src_key_padding_mask=torch.cat([padding, padding], 1))
            said[a].append(z[:, :t])
            said[b].append(z[:, t:])
        return [self.fuse[part](own, torch.cat(said[part], 1), torch.cat([padding] * len(said[part]), 1))
                for part, own in enumerate(coded)]  # fmt: skip


class SeparateBody(_Separate):
    """With all pairs in one attention, as the configs have it: LayerNorm first."""

    def __init__(self, net: BPMT) -> None:
        super().__init__(net)
        parts, layers = range(net.parts), net.t2.encoder.layers
        self.between = nn.ModuleList(_attention(x.between, 0) for x in layers)
        self.dropout = nn.Dropout(layers[0].dropout.p)
        self.before = nn.ModuleList(nn.ModuleList(_norm(x.norm0, part) for part in parts) for x in layers)
        self.t2 = nn.ModuleList(nn.ModuleList(_layer(x, part) for part in parts) for x in layers)
        self.after = nn.ModuleList(_norm(net.t2.norm, part) for part in parts)

    def told(self, coded: list[Tensor], padding: Tensor) -> list[Tensor]:
        for between, norms, layers in zip(self.between, self.before, self.t2, strict=True):
            frames = torch.stack([norm(y) for norm, y in zip(norms, coded, strict=True)], 2)  # (n, t, p, d)
            rows = frames.flatten(0, 1)
            said = self.dropout(between(rows, rows, rows, need_weights=False)[0].view(frames.shape))
            coded = [layer(y + part, src_key_padding_mask=padding)
                     for layer, y, part in zip(layers, coded, said.unbind(2), strict=True)]  # fmt: skip
        return [norm(y) for norm, y in zip(self.after, coded, strict=True)]
