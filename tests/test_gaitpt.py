"""GaitPT against the vectors of the specification; its two windows, padding, joints, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import walking
from rules import fill, wave
from torch import Tensor

from bpmt_ext.nets.gaitpt import ORDER, GaitPT, Merge, SpatialModule, TemporalModule
from bpmt_ext.skeletons import get_skeleton, joint_mapping

COCO = get_skeleton("coco17")


def ones(n: int, t: int) -> Tensor:
    return torch.ones(n, t, dtype=torch.bool)


@pytest.mark.parametrize(
    ("frames", "rule", "total", "first"),
    [
        (60, "base", 0.0732437102, [0.05971846, 0.07698571, -0.02625446, -0.07783983]),
        (60, "strong", 0.0759674190, [0.06277595, 0.07314304, -0.03470400, -0.08540379]),
        (30, "strong", 0.0760882144, [0.06289694, 0.07304488, -0.03486143, -0.08536373]),
    ],
)
def test_vectors(frames: int, rule: str, total: float, first: list[float]) -> None:
    """baselines_plus.md section 8; the input is in the order of the limbs."""
    net = fill(GaitPT(skeleton=COCO, frames=frames), rule)
    out = F.normalize(net.pyramid(wave((1, frames, 18, 2), rule)), dim=1)[0]
    assert out.shape == (256,)
    torch.testing.assert_close(out.sum(), torch.tensor(total, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(out[:4], torch.tensor(first, dtype=torch.float64), atol=1e-8, rtol=0)


@pytest.mark.parametrize(("frames", "parameters"), [(60, 4_498_784), (30, 4_484_384)])
def test_parameters_entries_and_names(frames: int, parameters: int) -> None:
    with torch.device("meta"):
        net = GaitPT(skeleton=COCO, frames=frames)
    assert sum(p.numel() for p in net.parameters()) == parameters and len(net.state_dict()) == 287
    shapes = {key: tuple(x.shape) for key, x in net.state_dict().items()}
    for key, shape in {
        "layers.0.patch_embedding.proj.weight": (32, 2), "layers.1.patch_embedding.proj.weight": (64, 96),
        "layers.2.patch_embedding.proj.weight": (128, 128), "layers.3.patch_embedding.proj.weight": (256, 384),
        "layers.1.spatial_module.spatial_pos_embed": (1, 6, 64),
        "layers.0.spatial_module.spatial_transformer.layers.2.self_attn.in_proj_weight": (96, 32),
        "layers.3.temporal_module.temporal_pos_embed": (1, frames + 1, 256),
        "layers.2.temporal_module.transformer.layers.0.linear1.weight": (512, 128), "projection.weight": (256, 1600),
        "layers.2.temporal_module.temporal_cls_token": (1, 1, 128), "layers.0.temporal_module.norm.bias": (32,),
    }.items():
        assert shapes[key] == shape, key
    assert not any(key.startswith("layers.3.spatial_module") for key in shapes)


def test_merging_orders_features_by_channel_then_member() -> None:
    merge = Merge(3, 2, 6)
    with torch.no_grad():
        merge.proj.weight.copy_(torch.eye(6))
        merge.proj.bias.zero_()
    x = torch.arange(12.0).view(1, 1, 6, 2)  # token k holds (2 k, 2 k + 1)
    assert merge(x)[0, 0].tolist() == [[0, 2, 4, 1, 3, 5], [6, 8, 10, 7, 9, 11]]


def test_residuals_are_as_uneven_as_the_original() -> None:
    """The spatial one carries the positions, the temporal one does not."""
    spatial, temporal = SpatialModule(6, 32, 0.0).eval(), TemporalModule(5, 32, 0.0).eval()
    for module in (spatial, temporal):
        torch.nn.init.zeros_(module.norm.weight)
        torch.nn.init.zeros_(module.norm.bias)
    x = torch.randn(2, 5, 6, 32)
    torch.testing.assert_close(spatial(x), x + spatial.spatial_pos_embed)
    torch.testing.assert_close(temporal(x)[0], x)


@pytest.mark.parametrize("length", [12, 30, 31, 33, 59, 60, 61, 100, 145])
def test_a_test_is_the_mean_of_the_middles_of_both_halves(length: int) -> None:
    net = fill(GaitPT(skeleton=COCO, frames=30), "strong")
    pose = walking(1, length, channels=2).double()
    windows = [(0, max(length // 2, 30)), (min(length // 2, length - 1 - 30), length - 1)]
    halves = []
    for start, stop in windows:
        first = max(start + (stop - start - 30) // 2, 0) if length > 30 else 0
        halves.append(pose[:, [(first + k) % length for k in range(30)]])
        if length > 30:
            assert start <= first and first + 30 <= stop < length + (start == 0)
    torch.testing.assert_close(net.windows(pose, ones(1, length))[0], torch.cat(halves))
    expected = torch.stack([F.normalize(net.pyramid(half[:, :, list(ORDER)]), dim=1) for half in halves]).mean(0)
    out = net(pose, ones(1, length))
    torch.testing.assert_close(out["embedding"][..., 0], expected, atol=1e-12, rtol=0)
    assert out["feature"] is out["embedding"] and out["embedding"].shape == (1, 256, 1)


def test_one_window_in_training_or_on_demand() -> None:
    net = GaitPT(skeleton=COCO, frames=20, dropout=0.0, test_halves=False)
    pose = walking(2, 51, channels=2)
    trained = net(pose, ones(2, 51))["feature"][..., 0]
    torch.testing.assert_close(trained, F.normalize(net.encode(pose[:, 15:35]), dim=1))
    torch.testing.assert_close(net.eval()(pose, ones(2, 51))["feature"][..., 0], trained, atol=1e-5, rtol=1e-4)


def test_padding_and_batch_mates_change_nothing() -> None:
    net = fill(GaitPT(skeleton=COCO, frames=20), "strong")
    lengths = [9, 30, 47]
    pose = walking(3, 47).double()
    mask = torch.arange(47) < torch.tensor(lengths)[:, None]
    together = net(torch.where(mask[..., None, None], pose, 1e3), mask)["embedding"]
    for i, t in enumerate(lengths):
        alone = net(pose[i : i + 1, :t], ones(1, t))["embedding"]
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-10, rtol=0)
    single = net.float()(pose.float(), mask)["embedding"]
    torch.testing.assert_close(single.double(), together, atol=1e-5, rtol=0)


def test_openpose_gives_the_embedding_of_the_coco_joints_it_holds() -> None:
    coco, openpose = fill(GaitPT(skeleton=COCO, frames=8), "strong"), GaitPT(
        skeleton=get_skeleton("openpose18"), frames=8
    )
    fill(openpose, "strong")
    assert openpose.takes == (18, 2)
    pose = walking(2, 8).double()
    source = joint_mapping(COCO, get_skeleton("openpose18"))
    other = torch.stack([pose[:, :, list(joints)].mean(2) for joints in source], dim=2)  # type: ignore[arg-type]
    a, b = coco(pose, ones(2, 8))["embedding"], openpose(other, ones(2, 8))["embedding"]
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["kinect20", "kinectgait20", "ntu25", "penn13"])
def test_other_skeletons_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*GaitMixer"):
        GaitPT(skeleton=get_skeleton(name))


def test_a_gradient_for_every_parameter_and_it_learns() -> None:
    net = GaitPT(skeleton=COCO, frames=8, dropout=0.0)
    pose, mask = walking(4, 8), ones(4, 8)
    target = F.normalize(torch.randn(4, 256, 1), dim=1)
    solver = torch.optim.AdamW(net.parameters(), 0.001)
    losses = []
    for step in range(6):
        loss = (net(pose, mask)["feature"] - target).square().sum(1).mean()
        solver.zero_grad()
        loss.backward()
        if not step:
            for key, p in net.named_parameters():
                assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any(), key
        solver.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    net.eval()(pose, mask)["feature"].sum().backward()
