"""Options in; small TLCA networks, and what torch's own layers with their weights make of one sequence, out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bpmt_ext.nets.grouped import GroupedAttention, GroupedEncoderLayer
from bpmt_ext.nets.tlca import TLCA
from bpmt_ext.registry import build_network
from bpmt_ext.skeletons import get_skeleton

COCO = get_skeleton("coco17")
SMALL = {"width": 34, "heads": 2, "layers": 2, "feedforward": 20, "max_frames": 12}  # 2 numbers of each COCO joint


def make(name: str, options: dict[str, Any], *, classes: int = 7, skeleton: str = "coco17") -> nn.Module:
    return build_network(name, {**SMALL, **options}, skeleton=get_skeleton(skeleton), classes=classes)


def lengths(*real: int, frames: int) -> Tensor:
    return torch.arange(frames) < torch.tensor(real)[:, None]


def stirred(module: nn.Module) -> nn.Module:
    """In float64 and eval mode, with biases and scales of all values."""
    for parameter in module.double().eval().parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return module


def plain_layer(mine: GroupedEncoderLayer) -> nn.TransformerEncoderLayer:
    """torch's own layer with the same weights."""
    d, f = mine.up.weight.shape[1:]
    layer = nn.TransformerEncoderLayer(d, mine.attention.heads, f, dropout=0.0, batch_first=True)
    norms = {f"{n}.{k}": getattr(getattr(mine, n), k)[0, 0, 0] for n in ("norm1", "norm2") for k in ("weight", "bias")}
    ours = plain_attention(mine.attention).state_dict()
    layer.load_state_dict({
        **{f"self_attn.{key}": value for key, value in ours.items()}, **norms,
        "linear1.weight": mine.up.weight[0].T, "linear1.bias": mine.up.bias[0, 0],
        "linear2.weight": mine.down.weight[0].T, "linear2.bias": mine.down.bias[0, 0],
    })  # fmt: skip
    return layer.eval()


def plain_attention(mine: GroupedAttention) -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(mine.in_weight.shape[1], mine.heads, batch_first=True)
    attention.load_state_dict({
        "in_proj_weight": mine.in_weight[0].T, "in_proj_bias": mine.in_bias[0, 0],
        "out_proj.weight": mine.out.weight[0].T, "out_proj.bias": mine.out.bias[0, 0],
    })  # fmt: skip
    return attention.eval()


def naive(net: TLCA, clip: Tensor) -> tuple[Tensor, Tensor]:
    """One sequence (t, v, 2) of real frames, frame by frame, with torch's own modules -> pooled (d,), logits (k,)."""
    embedding, rows = net.t1.embedding, []
    for frame in clip:
        if hasattr(embedding, "near"):
            frame = embedding.point(embedding.near(frame.T[None]).relu())[0].T
        if hasattr(embedding, "back"):
            frame = embedding.back(plain_layer(embedding.over_joints.layer)(embedding.token(frame)[None])[0])
        if hasattr(embedding, "over_parts"):
            table, order = embedding.token, [joint for part in COCO.parts for joint in part]
            tokens = torch.stack([
                sum(frame[joint] @ table.weight[order.index(joint)] for joint in part) + bias
                for part, bias in zip(COCO.parts, table.bias, strict=True)
            ])  # fmt: skip
            frame = plain_layer(embedding.over_parts.layer)(tokens[None])[0]
        if hasattr(embedding, "adjacency"):
            for layer in embedding.layers:
                new = [sum(net_row(COCO, v, u) * layer(frame[u]) for u in range(17)) for v in range(17)]
                bias = torch.stack([sum(net_row(COCO, v, u) for u in range(17)) * layer.bias for v in range(17)])
                kept = frame if frame.shape[1] == len(layer.weight) else 0
                frame = (torch.stack(new) - bias + layer.bias).relu() + kept
            rows.append(frame.flatten())
        elif not hasattr(embedding, "frame"):
            tokens = embedding.token(frame)
            attended = net.t1.over_joints is None  # else between the layers over time
            rows.append((plain_layer(embedding.over_joints.layer)(tokens[None])[0] if attended else tokens).flatten())
        else:
            rows.append(embedding.frame(frame.flatten()))
    x = torch.stack(rows)[None] + net.t1.positions[:, : len(clip)]
    for i, layer in enumerate(net.t1.encoder.layers):
        if net.t1.over_joints is not None:
            over = plain_layer(net.t1.over_joints[i].layer)
            x = torch.stack([over(row.view(1, 17, -1)).flatten() for row in x[0]])[None]
        x = plain_layer(layer)(x)
    y = x
    for layer in net.t2.layers:
        y = plain_layer(layer)(y)
    said = plain_attention(net.fuse.attention)(x, y, y)[0]
    f = net.fuse
    if hasattr(f, "norm"):
        fused = normed(x + said, f.norm)
    else:
        z = normed(x + said, f.norm1)
        fused = normed(z + (z @ f.up.weight[0] + f.up.bias[0]).relu() @ f.down.weight[0] + f.down.bias[0], f.norm2)
    pooled = sum(fused[0]) / len(clip)
    before = pooled
    if isinstance(net.head.before, nn.Sequential):
        norm0, _, linear, _, _ = net.head.before
        before = linear(norm0(pooled)).relu()
    return pooled, before @ net.head.classifier.weight.T + net.head.classifier.bias


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * norm.weight[0, 0] + norm.bias[0, 0]


def net_row(skeleton: Any, v: int, u: int) -> float:
    """The graph's weight from joint u to joint v: 1 / sqrt(degree v * degree u) for neighbours and for itself."""
    near = {(a, b) for a, b in skeleton.edges} | {(b, a) for a, b in skeleton.edges} | {(j, j) for j in range(17)}
    degree = [sum((j, k) in near for k in range(17)) for j in (v, u)]
    return (degree[0] * degree[1]) ** -0.5 if (v, u) in near else 0.0
