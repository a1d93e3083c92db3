"""GPGait++: the published vectors and counts, one layer by hand, dropout, padding, learning."""

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

from bpmt_ext.nets.gpgait_plus import GPGaitPlus, PartLayerPlus, draw_kept
from bpmt_ext.nets.graphs import adjacency
from bpmt_ext.skeletons import SKELETONS, Skeleton, get_skeleton

CASIA = (2, 64, 64, 128, 256)


@pytest.mark.parametrize(
    ("widths", "mask", "rule", "name", "total", "norm", "first"),
    [
        (CASIA, True, "base", "embedding", -0.0061428048, 4.3588989435, [0.07222465, 0.0600433, -0.06464075]),
        (CASIA, True, "base", "feature", 1.9935395985, 57.1200537992, [0.95374067, 0.76708363, -0.84175685]),
        (CASIA, False, "base", "embedding", -0.0050004337, 4.3588989435, [0.072433, 0.05984686, -0.06550653]),
        (GAIT3D, False, "base", "embedding", -0.3403795490, 4.3588989435, [-0.05865275, -0.07270124, 0.05145343]),
        (DEEP, False, "base", "embedding", -0.3512422351, 4.3588989435, [-0.02349439, -0.08615481, 0.01636727]),
        (CASIA, True, "strong", "embedding", 0.0656466816, 4.3588989435, [0.03344826, 0.081621, -0.05545331]),
        (GAIT3D, False, "strong", "embedding", -0.3890119582, 4.3588989435, [0.07089638, -0.05204093, -0.03656969]),
    ],
)
def test_vectors(
    widths: tuple[int, ...], mask: bool, rule: str, name: str, total: float, norm: float, first: list[float]
) -> None:
    net = fill(GPGaitPlus(skeleton=COCO, in_channels=widths, num_class=3, mask=mask), rule)
    pose = wave((1, 6, 60, 17), rule).permute(0, 2, 3, 1)
    with torch.no_grad():
        out = net(pose, everywhere(pose))[name]
    assert out.shape == (1, 256, 19)
    assert out.sum().item() == pytest.approx(total, abs=2e-9)
    assert out.norm().item() == pytest.approx(norm, abs=1e-9)
    assert out.flatten()[:3].tolist() == pytest.approx(first, abs=6e-9)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (5_227_539, 1010)),
        ({"num_class": 100, "mask": False}, (5_354_003, 1010)),
        ({"num_class": 250, "mask": False}, (6_083_603, 1010)),
        ({"in_channels": GAIT3D, "num_class": 3000}, (20_532_043, 1530)),
        ({"in_channels": DEEP, "num_class": 20000}, (108_777_035, 2570)),
        ({"in_channels": DEEP, "num_class": 5153, "share_num": 4}, (36_561_227, 2570)),  # shares three all the same
    ],
)
def test_counts(options: dict, expected: tuple[int, int]) -> None:
    assert meta_count(GPGaitPlus, **options) == expected


def test_keys_of_a_layer_are_the_originals() -> None:
    layer = PartLayerPlus(graph=adjacency(COCO, 2), parts=(tuple(range(17)),), inputs=64, outputs=128)
    shapes = {key: tuple(value.shape) for key, value in layer.state_dict().items()}
    bn = ("weight", "bias", "running_mean", "running_var")
    expected = {"asg.PA": (3, 17, 17)}
    for name, width, kernel, inputs in (
        *((f"asg.conv_{m}.{i}", w, 1, 64) for m, w in (("a", 16), ("b", 16), ("d", 64)) for i in range(3)),
        ("residual.0", 64, 1, 64), ("residual_s.0", 42, 1, 128), ("tcn.conv", 43, 9, 128), ("down.conv", 43, 1, 64),
    ):  # fmt: skip
        expected |= {f"{name}.weight": (width, inputs, kernel, 1), f"{name}.bias": (width,)}
    for name, width in (("asg.bn", 64), ("residual.1", 64), ("residual_s.1", 42), ("tcn.bn", 43), ("down.bn", 43)):
        expected |= {f"{name}.{key}": (width,) for key in bn} | {f"{name}.num_batches_tracked": ()}
    assert shapes == expected and len(shapes) == 52


def test_a_layer_against_loops() -> None:
    """Equation by equation as specified, on (n, c, t, v), frame by frame."""
    graph, parts = adjacency(COCO, 2), ((0, 1, 2, 3, 4), tuple(range(5, 17)))
    layer = PartLayerPlus(graph=graph, parts=parts, inputs=12, outputs=26).double().eval()
    torch.nn.init.normal_(layer.asg.PA)
    x = torch.randn(2, 12, 7, 17, dtype=torch.float64)
    with torch.no_grad():
        y = 0
        for i in range(3):
            q, k = layer.asg.conv_a[i](x), layer.asg.conv_b[i](x)
            w = (torch.einsum("netu,netv->ntuv", q, k) / 3).softmax(-2) + graph[i].double() + layer.asg.PA[i]
            w[:, :, :5, 5:] = w[:, :, 5:, :5] = 0
            y = y + layer.asg.conv_d[i](torch.einsum("nctu,ntuv->nctv", x, w))
        space = torch.cat([F.mish(layer.asg.bn(y)), layer.residual[1](layer.residual[0](x))], 1)
        tcn, down = layer.tcn, layer.down
        time = tcn.bn(F.mish(F.conv2d(space, tcn.conv.weight, tcn.conv.bias, padding=(4, 0))))
        short = down.bn(F.mish(down.conv(x)))
        expected = torch.cat([time, layer.residual_s[1](layer.residual_s[0](space)), short], 1)
        got = layer(x.permute(0, 2, 3, 1).contiguous(), None).permute(0, 3, 1, 2)
    assert torch.allclose(got, expected, atol=1e-12)


def test_dropout_keeps_its_share_and_the_mean() -> None:
    kept, share = draw_kept(torch.empty(301, 1001), 0.1)
    assert share == pytest.approx(0.9, abs=1e-5)
    assert kept.float().mean().item() == pytest.approx(0.9, abs=0.003)
    assert kept.float().mean(0).std().item() == pytest.approx((0.09 / 301) ** 0.5, rel=0.2)  # no column is special
    layer = PartLayerPlus(graph=adjacency(COCO, 2), parts=(tuple(range(17)),), inputs=4, outputs=16).train().tcn
    x = torch.rand(1, 400, 17, 16)
    torch.nn.init.zeros_(layer.conv.bias)
    layer.bn = torch.nn.Identity()
    layer.conv.weight.data.abs_().mul_(10)  # so that Mish is close to a straight line
    with_it = layer(x, None)
    without = layer.eval()(x, None)
    assert not torch.allclose(with_it, without)
    assert with_it.mean().item() == pytest.approx(without.mean().item(), rel=0.01)


def test_padding_and_batch_mates_do_not_matter() -> None:
    check_padding(fill(GPGaitPlus(skeleton=COCO, **SMALL), "strong"))


def test_frames_have_an_order() -> None:
    net = fill(GPGaitPlus(skeleton=COCO, **SMALL), "strong")
    pose = described(2, 15).double()
    with torch.no_grad():
        here, there = (net(x, everywhere(x))["embedding"] for x in (pose, pose[:, torch.randperm(15)]))
    assert (here - there).abs().max() > 1e-3


def test_every_parameter_gets_a_gradient() -> None:
    check_gradients(GPGaitPlus(skeleton=COCO, **SMALL))


@pytest.mark.parametrize("skeleton", [*map(get_skeleton, sorted(SKELETONS)), bare()], ids=lambda s: s.name)
def test_any_skeleton(skeleton: Skeleton) -> None:
    check_skeletons(GPGaitPlus, skeleton)


def test_learns() -> None:
    check_learning(GPGaitPlus(skeleton=COCO, **SMALL))


def test_bad_input_is_refused() -> None:
    net = GPGaitPlus(skeleton=COCO, **SMALL)
    with pytest.raises(ValueError, match=r"mask must be \(1, 3\)"):
        net(torch.zeros(1, 3, 17, 6), torch.ones(1, 4, dtype=torch.bool))
