"""GaitTR: the published vectors and counts, attention by hand, what must move the embedding and what must not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import walking
from rules import fill, wave
from torch import Tensor, nn

from bpmt_ext.losses import TripletLoss
from bpmt_ext.nets.gaittr import GaitTR, JointAttention
from bpmt_ext.skeletons import SKELETONS, get_skeleton

COCO, ALPHA = get_skeleton("coco17"), get_skeleton("openpose18")
DEEP = (10, 64, 64, 128, 128, 128, 128, 128, 256)
SMALL = {"in_channels": (10, 32, 32, 64), "num_class": 12}


def everywhere(pose: Tensor) -> Tensor:
    return torch.ones(pose.shape[:2], dtype=torch.bool)


def embed(net: nn.Module, pose: Tensor) -> Tensor:
    with torch.no_grad():
        return net(pose, everywhere(pose))["embedding"]


@pytest.mark.parametrize(
    ("skeleton", "options", "parameters", "entries"),
    [
        (COCO, {}, 512_010, 133), (COCO, {"num_class": 256}, 544_906, 133), (ALPHA, {"num_class": 256}, 545_458, 133),
        (COCO, {"num_class": 256, "in_channels": DEEP}, 1_319_818, 217),
        (ALPHA, {"num_class": 256, "in_channels": DEEP[:-2] + DEEP[-1:]}, 1_127_410, 196),
    ],
)  # fmt: skip
def test_counts(skeleton: object, options: dict, parameters: int, entries: int) -> None:
    net = GaitTR(skeleton=skeleton, **options)
    assert sum(p.numel() for p in net.parameters()) == parameters and len(net.state_dict()) == entries


def test_names_and_shapes_of_the_weights() -> None:
    state = {key: tuple(value.shape) for key, value in GaitTR(skeleton=COCO).state_dict().items()}
    for key, shape in {
        "data_bn.weight": (170,), "backbone.0.tcn.conv.weight": (10, 10, 9, 1), "backbone.0.tcn.bn.bias": (10,),
        "backbone.0.st.data_bn.running_var": (170,), "backbone.1.st.data_bn.weight": (64 * 17,),
        "backbone.2.st.attention_conv.qkv_conv.weight": (192, 64, 1, 1), "backbone.2.st.bn.weight": (128,),
        "backbone.2.st.attention_conv.attn_out.weight": (128, 128, 1, 1), "backbone.0.residual_s.0.bias": (64,),
        "backbone.3.residual_s.1.weight": (256,), "backbone.3.down.conv.weight": (256, 128, 1, 1),
        "backbone.3.down.bn.weight": (256,), "fcn.weight": (128, 256, 1), "fcn.bias": (128,),
    }.items():  # fmt: skip
        assert state[key] == shape
    assert not [key for key in state if key.startswith(("backbone.1.down", "backbone.1.residual_s"))]


# The rows named strong were measured on the public model.
@pytest.mark.parametrize(
    ("rule", "t", "options", "total", "norm", "first"),
    [
        ("base", 60, {}, 2.5901829714, 9.1384578869, (-0.96309222, -0.62001877, -0.13789321, 0.37662567)),
        ("strong", 60, {}, 2180.078959, 5232.781164, (-432.01684, -160.61745, 145.97116, 420.63186)),
        ("strong", 37, {}, 2111.348165, 5133.722121, (-432.85795, -169.36491, 131.23198, 403.12706)),
        ("strong", 60, {"in_channels": DEEP, "num_class": 256}, 184.0603066, 666777.7916,
         (-29244.729, -2636.6437, 24548.51, 46360.483)),
    ],
)  # fmt: skip
def test_vectors(rule: str, t: int, options: dict, total: float, norm: float, first: tuple) -> None:
    net = fill(GaitTR(skeleton=COCO, **options), rule)
    out = embed(net, wave((1, 10, t, 17), rule).permute(0, 2, 3, 1))
    assert out.shape == (1, len(net.fcn.bias), 1)
    assert out.sum().item() == pytest.approx(total, rel=1e-8) and out.norm().item() == pytest.approx(norm, rel=1e-9)
    assert out.flatten()[:4].tolist() == pytest.approx(first, rel=1e-6, abs=1e-8)


def test_attention_by_hand() -> None:
    """Eight heads, keys an eighth of a quarter of the width, softmax over the joints that are looked at."""
    layer = JointAttention(5, 64).double()
    x = torch.randn(2, 5, 3, 6, dtype=torch.float64)
    qkv, said = layer.qkv_conv(x), torch.zeros(2, 64, 3, 6, dtype=torch.float64)
    for i in range(2):
        for t in range(3):
            for h in range(8):
                q, k, v = (qkv[i, start + h * w : start + (h + 1) * w, t] for start, w in ((0, 2), (16, 2), (32, 8)))
                weight = ((q.T @ k) / 2**0.5).softmax(1)  # (asking joint, joint that is looked at)
                said[i, 8 * h : 8 * (h + 1), t] = (weight @ v.T).T
    torch.testing.assert_close(layer(x), layer.attn_out(said))


def test_attention_and_the_order_of_frames_and_joints_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base row hardly sees attention: here each change moves the embedding by a percent or more."""
    net = fill(GaitTR(skeleton=COCO), "strong")
    pose = wave((1, 10, 24, 17), "strong").permute(0, 2, 3, 1)
    plain = embed(net, pose)

    def shift(other: Tensor) -> float:
        return ((other - plain).norm() / plain.norm()).item()

    assert shift(embed(net, pose.flip(1))) > 0.01 and shift(embed(net, pose.flip(2))) > 0.01
    assert shift(embed(net, pose[:, torch.randperm(24)])) > 0.01

    def wrong_axis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-2) @ v

    def mean(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return v.mean(-2, keepdim=True).expand(*q.shape[:-1], v.shape[-1])

    for other in (wrong_axis, mean):
        monkeypatch.setattr(F, "scaled_dot_product_attention", other)
        assert shift(embed(net, pose)) > 0.005


@pytest.mark.parametrize("name", ["coco17", "kinectgait20"])
def test_an_embedding_depends_on_its_own_frames_alone(name: str) -> None:
    skeleton = get_skeleton(name)
    net = fill(GaitTR(skeleton=skeleton, **SMALL), "strong")
    pose, length = walking(4, 21, skeleton.num_joints, net.takes[1]).double(), [21, 2, 8, 13]
    mask = torch.arange(21) < torch.tensor(length)[:, None]
    padded = torch.where(mask[..., None, None], pose, 1e3)
    together = net(padded, mask)["embedding"]
    wider = net(F.pad(padded, (0, 0, 0, 0, 0, 6), value=-7.0), F.pad(mask, (0, 6)))["embedding"]
    torch.testing.assert_close(wider, together, atol=1e-10, rtol=1e-10)
    for i, t in enumerate(length):
        torch.testing.assert_close(embed(net, pose[i : i + 1, :t])[0], together[i], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", sorted(SKELETONS))
def test_a_gradient_to_every_parameter(name: str) -> None:
    skeleton = get_skeleton(name)
    net = GaitTR(skeleton=skeleton, **SMALL).train()
    assert net.takes == (skeleton.num_joints, 5 * skeleton.dims)
    pose = walking(4, 16, skeleton.num_joints, net.takes[1])
    out = net(pose, everywhere(pose))
    assert out["feature"].shape == out["embedding"].shape == (4, 12, 1)
    (out["feature"] * torch.randn(4, 12, 1)).sum().backward()
    assert not [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_it_starts_as_specified_and_learns() -> None:
    net = GaitTR(skeleton=COCO, **SMALL).train()
    assert all(not m.bias.any() for m in net.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d)))
    weight = net.backbone[1].tcn.conv.weight
    assert weight.abs().max() <= (6 / (2 * 32 * 9)) ** 0.5 + 1e-6
    people, labels = walking(4, 12, channels=10), torch.arange(4).repeat_interleave(2)
    loss_of, solver, values = TripletLoss(margin=9.0, is_hard_loss=True), torch.optim.Adam(net.parameters(), 0.003), []
    for step in range(15):
        torch.manual_seed(step)
        pose = people.repeat_interleave(2, 0) + torch.randn(8, 12, 17, 10)
        loss, _ = loss_of(net(pose, everywhere(pose))["feature"], labels)
        solver.zero_grad()
        loss.backward()
        solver.step()
        values.append(loss.item())
    assert sum(values[-3:]) < 0.6 * sum(values[:3])


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="start with 10"):
        GaitTR(skeleton=COCO, in_channels=(3, 64))
    with pytest.raises(ValueError, match="multiple of 32"):
        GaitTR(skeleton=COCO, in_channels=(10, 40))
    net = GaitTR(skeleton=COCO, **SMALL)
    with pytest.raises(ValueError, match=r"\(n, t, 17, 10 or more\).*\(1, 4, 17, 3\)"):
        net(walking(1, 4), torch.ones(1, 4, dtype=torch.bool))
