"""GPGait: the published vectors and counts, the body's partitions, one layer by hand, order, padding, learning."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from partnets import (
    COCO,
    DEEP,
    GAIT3D,
    SMALL,
    bare,
    check_gradients,
    check_learning,
    check_padding,
    check_skeletons,
    described,
    everywhere,
    meta_count,
)
from rules import fill, wave

from bpmt_ext.nets.gpgait import GPGait, PartLayer
from bpmt_ext.nets.graphs import adjacency
from bpmt_ext.nets.partwise import BNNeck, PartPool, limbs_and_head, stream_partitions
from bpmt_ext.skeletons import SKELETONS, Skeleton, get_skeleton


@pytest.mark.parametrize(
    ("widths", "rule", "total", "first"),
    [
        ((2, 64, 64, 128, 256), "base", -0.0122675792, [0.01569408, -0.0871451, -0.0680934, 0.05792553]),
        (GAIT3D, "base", -0.1752043899, [0.08338361, 0.048762, -0.08520236, 0.02646369]),
        ((2, 64, 64, 128, 256), "strong", -0.0903239593, [-0.06030059, -0.03394357, -0.00998535, 0.08919405]),
        (GAIT3D, "strong", -0.0710661272, [0.06733633, 0.06908951, -0.08033726, -0.06056793]),
    ],
)
def test_vectors(widths: tuple[int, ...], rule: str, total: float, first: list[float]) -> None:
    net = fill(GPGait(skeleton=COCO, in_channels=widths, num_class=3), rule)
    pose = wave((1, 6, 60, 17), rule).permute(0, 2, 3, 1)
    with torch.no_grad():
        unit = net(pose, everywhere(pose))["embedding"]
    assert unit.shape == (1, 256, 19)
    assert unit.sum().item() == pytest.approx(total, abs=2e-9)
    assert unit.norm().item() == pytest.approx(4.3588989435, abs=1e-9)
    assert unit.flatten()[:4].tolist() == pytest.approx(first, abs=6e-9)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (3_654_810, 590)),
        ({"num_class": 100}, (3_781_274, 590)),
        ({"num_class": 250}, (4_510_874, 590)),
        ({"in_channels": GAIT3D, "num_class": 3000}, (18_640_274, 830)),
        ({"in_channels": DEEP, "num_class": 5153, "share_num": 4}, (32_479_008, 1142)),
        ({"in_channels": DEEP, "num_class": 20000}, (105_222_370, 1310)),
    ],
)
def test_counts(options: dict, expected: tuple[int, int]) -> None:
    assert meta_count(GPGait, **options) == expected


def test_keys_are_the_originals() -> None:
    layer = {f"asg.{m}.{i}.{w}" for m in ("conv_a", "conv_b", "conv_d") for i in range(3) for w in ("weight", "bias")}
    bn = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    layer |= {"asg.PA"} | {f"asg.bn.{name}" for name in bn}
    wide = layer | {"residual_s.0.weight", "residual_s.0.bias"} | {f"residual_s.1.{name}" for name in bn}
    expected = {"head.fc_bin", "BNNecks.fc_bin"} | {f"BNNecks.bn1d.{name}" for name in bn}
    for branch, more in (("pose", ("part_2_2", "part_3_1")), ("bone", ("part_2_2", "part_3_1")), ("angle", ())):
        streams = [*(f"layer_share.{i}" for i in range(3)), *(f"{s}.0" for s in ("backbone", "part_2", *more))]
        expected |= {f"{branch}.data_bn.{name}" for name in bn}
        for stream in streams:
            keys = layer if stream == "layer_share.1" else wide  # 64 to 64 channels
            expected |= {f"{branch}.{stream}.{key}" for key in keys}
    net = GPGait(skeleton=COCO)
    assert set(net.state_dict()) == expected
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert shapes["pose.layer_share.0.asg.conv_a.0.weight"] == (16, 2, 1, 1)
    assert shapes["angle.layer_share.0.asg.PA"] == (3, 12, 12) and shapes["angle.data_bn.weight"] == (12,)
    assert shapes["head.fc_bin"] == (19, 256, 256) and shapes["BNNecks.fc_bin"] == (19, 256, 74)
    assert len({p.data_ptr() for n, p in net.named_parameters() if n.endswith("asg.PA")}) == 19  # each its own


def test_partitions_of_coco_are_the_originals() -> None:
    *limbs, head = limbs_and_head(COCO)
    arms, legs = {5, 6, 7, 8, 9, 10}, {11, 12, 13, 14, 15, 16}
    face = {0, 1, 2, 3, 4}
    sets = {name: [set(part) for part in parts] for name, parts in stream_partitions(limbs, head).items()}
    assert sets == {
        "layer_share": [{5, 7, 9}, {6, 8, 10}, {11, 13, 15}, {12, 14, 16}, face],
        "part_2": [arms | face, legs],
        "part_2_2": [arms, legs | face],
        "part_3_1": [arms, legs, face],
        "backbone": [arms | legs | face],
    }
    angle = GPGait(skeleton=COCO, **SMALL).angle
    assert angle.streams == ("part_2", "backbone") and angle.data_bn.num_features == 12


@pytest.mark.parametrize("name", sorted(SKELETONS))
def test_partitions_hold_every_joint_once_and_mirror(name: str) -> None:
    skeleton = get_skeleton(name)
    *limbs, head = limbs_and_head(skeleton)
    for stream, parts in stream_partitions(limbs, head).items():
        flat = sorted(joint for part in parts for joint in part)
        assert flat == list(range(skeleton.num_joints)), stream
    mirrored = [{skeleton.mirror[j] for j in part} for part in (*limbs, head)]
    assert [set(part) for part in (*limbs, head)] == [mirrored[i] for i in (1, 0, 3, 2, 4)]


def test_part_pool_against_loops() -> None:
    parts, x = ((0, 3), (1, 2, 4), (0, 1, 2, 3, 4)), torch.randn(2, 5, 3)
    expected = torch.stack([x[:, list(p)].mean(1) + x[:, list(p)].amax(1) for p in parts], -1)
    assert torch.allclose(PartPool(parts, 5)(x), expected, atol=1e-6)


@pytest.mark.parametrize("same", [True, False])
def test_a_layer_against_loops(same: bool) -> None:
    """Equation by equation as specified: softmax over rows, graph and PA added, masked, three subsets summed."""
    graph, parts = adjacency(COCO, 2), ((0, 1, 2, 3, 4), tuple(range(5, 17)))
    layer = PartLayer(graph=graph, parts=parts if same else (tuple(range(17)),), inputs=8, outputs=12).double().eval()
    torch.nn.init.normal_(layer.asg.PA)
    x = torch.randn(2, 8, 7, 17, dtype=torch.float64)  # (n, c, t, v)
    with torch.no_grad():
        y = 0
        for i in range(3):
            q, k = layer.asg.conv_a[i](x), layer.asg.conv_b[i](x)
            s = torch.einsum("nctu,nctv->nuv", q, k) / (3 * 7)
            w = s.softmax(-2) + graph[i].double() + layer.asg.PA[i]
            if same:
                w[:, :5, 5:] = w[:, 5:, :5] = 0
            y = y + layer.asg.conv_d[i](torch.einsum("nctu,nuv->nctv", x, w))
        expected = F.mish(layer.asg.bn(y)) + layer.residual_s[1](layer.residual_s[0](x))
        got = layer(x.permute(0, 3, 2, 1).contiguous(), None).permute(0, 3, 2, 1)
    assert torch.allclose(got, expected, atol=1e-12)


def test_neck_gives_unit_parts_and_cosines() -> None:
    neck = BNNeck(parts=3, width=4, classes=5).eval()
    torch.nn.init.normal_(neck.bn1d.bias)
    x = torch.randn(2, 4, 3)
    unit, logits = neck(x)
    for p in range(3):
        bias = neck.bn1d.bias.view(4, 3)[:, p]  # width first, then part
        row = F.normalize(x[:, :, p] / (1 + neck.bn1d.eps) ** 0.5 + bias, dim=1)
        assert torch.allclose(unit[:, :, p], row, atol=1e-6)
        assert torch.allclose(logits[:, :, p], row @ F.normalize(neck.fc_bin[p], dim=0), atol=1e-6)
    assert "logits" not in GPGait(skeleton=COCO, **SMALL | {"num_class": 0}).eval()(
        described(1, 3), torch.ones(1, 3, dtype=torch.bool)
    )


def test_padding_and_batch_mates_do_not_matter() -> None:
    check_padding(fill(GPGait(skeleton=COCO, **SMALL), "strong"))


def test_frames_are_a_set() -> None:
    net = fill(GPGait(skeleton=COCO, **SMALL), "strong")
    pose = described(2, 9).double()
    with torch.no_grad():
        here = net(pose, everywhere(pose))["embedding"]
        there = net(pose[:, torch.randperm(9)], everywhere(pose))["embedding"]
    assert torch.allclose(here, there, atol=1e-12)


def test_every_parameter_gets_a_gradient() -> None:
    check_gradients(GPGait(skeleton=COCO, **SMALL))


@pytest.mark.parametrize("skeleton", [*map(get_skeleton, sorted(SKELETONS)), bare()], ids=lambda s: s.name)
def test_any_skeleton(skeleton: Skeleton) -> None:
    check_skeletons(GPGait, skeleton)


def test_learns() -> None:
    check_learning(GPGait(skeleton=COCO, **SMALL))


def test_bad_input_is_refused() -> None:
    net = GPGait(skeleton=COCO, **SMALL)
    with pytest.raises(ValueError, match="17, 5 or more"):
        net(torch.zeros(1, 3, 17, 4), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="share_num 4"):
        GPGait(skeleton=COCO, share_num=4)
