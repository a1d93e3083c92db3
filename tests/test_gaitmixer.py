"""GaitMixer and GaitFormer against the vectors of the specification; windows, padding, skeletons, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import walking
from rules import fill, wave
from torch import Tensor

from bpmt_ext.nets.crops import FixedClips, crop
from bpmt_ext.nets.gaitmixer import GaitFormer, GaitMixer, JointAttention
from bpmt_ext.skeletons import SKELETONS, get_skeleton

COCO = get_skeleton("coco17")
NETS = (GaitMixer, GaitFormer)
BOTH = pytest.mark.parametrize("kind", NETS)


def ones(n: int, t: int) -> Tensor:
    return torch.ones(n, t, dtype=torch.bool)


def once(kind: type[JointAttention], **settings: object) -> JointAttention:
    """A net that reads one window forwards, as its training does."""
    return kind(skeleton=COCO, test_offsets=(0,), test_reversed=False, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "rule", "total", "first"),
    [
        (GaitMixer, "base", -0.1229411137, [0.12029463, 0.09555540, 0.05076991, -0.00383514]),
        (GaitMixer, "strong", -0.4324380787, [0.07456570, 0.02089557, -0.03729109, -0.08723058]),
        (GaitFormer, "strong", -0.0324303905, [0.11951094, 0.10837100, 0.09205252, 0.07130699]),
    ],
)
def test_vectors(kind: type[JointAttention], rule: str, total: float, first: list[float]) -> None:
    """baselines_plus.md section 8."""
    net = fill(once(kind), rule)
    out = net(wave((1, 60, 17, 2), rule), ones(1, 60))["embedding"]
    assert out.shape == (1, 128, 1)
    torch.testing.assert_close(out.sum(), torch.tensor(total, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(out[0, :4, 0], torch.tensor(first, dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(out.norm(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize(("kind", "parameters", "entries"), [(GaitMixer, 166_304, 114), (GaitFormer, 141_952, 109)])
def test_parameters_and_entries(kind: type[JointAttention], parameters: int, entries: int) -> None:
    net = kind(skeleton=COCO)
    assert sum(p.numel() for p in net.parameters()) == parameters and len(net.state_dict()) == entries


def test_names_and_shapes_of_the_published_files() -> None:
    mixer, former = ({k: tuple(v.shape) for k, v in kind(skeleton=COCO).state_dict().items()} for kind in NETS)
    for key, shape in {
        "spatial_joint_to_embedding.weight": (32, 2), "spatial_pos_embed": (1, 17, 32),
        "spatial_blocks.3.attn.qkv.weight": (96, 32), "spatial_blocks.0.mlp.fc1.weight": (64, 32),
        "conv4.conv.depthwise.weight": (128, 1, 31, 1), "conv4.conv.pointwise.weight": (256, 128, 1, 1),
        "conv2.linear.weight": (64, 32), "conv2.bn_skip.running_var": (64,), "conv1.bn.running_mean": (32,),
        "head.0.weight": (256,), "head.1.weight": (128, 256),
    }.items():
        assert mixer[key] == shape, key
    assert "conv1.linear.weight" not in mixer
    assert former["temporal_pos_embed"] == (1, 61, 32) and former["temporal_cls_token"] == (1, 1, 32)
    assert former["head.1.weight"] == (128, 544) and "temporal_blocks.3.norm2.weight" in former


def test_filters_see_the_past_only() -> None:
    """A change in frame 40 reaches no earlier frame; frame 0 sees the mirrored frames 1 to 30."""
    net = once(GaitMixer).eval()
    x = torch.randn(1, 32, 50, 17)
    after = x.clone()
    after[:, :, 40] += 1
    changed = (net.conv1(x) - net.conv1(after)).abs().amax((0, 1, 3)) > 0  # type: ignore[attr-defined]
    assert not changed[:40].any() and changed[40:].all()
    after = x.clone()
    after[:, :, 30] += 1
    changed = (net.conv1(x) - net.conv1(after)).abs().amax((0, 1, 3)) > 0  # type: ignore[attr-defined]
    assert changed[0] and not changed[1:30].any()


@pytest.mark.parametrize("length", [20, 60, 75, 90, 140])
@BOTH
def test_a_test_is_the_mean_of_six_windows(kind: type[JointAttention], length: int) -> None:
    net = fill(kind(skeleton=COCO), "strong")
    pose = walking(1, length, channels=2).double()
    six = []
    for offset in (0, -20, 20):
        start = min(max((length - 60) // 2 + offset, 0), max(length - 60, 0)) if length > 60 else 0
        frames = [(start + k) % length for k in range(60)]
        for clip in (pose[:, frames], pose[:, frames].flip(1)):
            six.append(F.normalize(net.encode(clip), dim=1))
    out = net(pose, ones(1, length))
    torch.testing.assert_close(out["embedding"][..., 0], torch.stack(six).mean(0), atol=1e-12, rtol=0)
    assert out["feature"] is out["embedding"]


@BOTH
def test_padding_and_batch_mates_change_nothing(kind: type[JointAttention]) -> None:
    net = fill(kind(skeleton=COCO, frames=40), "strong")
    lengths = [25, 60, 90]
    pose = walking(3, 90).double()
    mask = torch.arange(90) < torch.tensor(lengths)[:, None]
    together = net(torch.where(mask[..., None, None], pose, 1e3), mask)["embedding"]
    for i, t in enumerate(lengths):
        alone = net(pose[i : i + 1, :t], ones(1, t))["embedding"]
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-10, rtol=0)
    single = net.float()(pose.float(), mask)["embedding"]
    torch.testing.assert_close(single.double(), together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SKELETONS)
@BOTH
def test_every_skeleton_and_a_gradient_for_every_parameter(kind: type[JointAttention], name: str) -> None:
    skeleton = get_skeleton(name)
    net = kind(skeleton=skeleton, frames=31)
    assert net.takes == (skeleton.num_joints, skeleton.dims)
    pose = walking(3, 31, skeleton.num_joints, skeleton.dims + 1)
    for mode in (True, False):
        net.train(mode).zero_grad()
        out = net(pose, ones(3, 31))["feature"]
        assert out.shape == (3, 128, 1)
        (out * torch.randn_like(out)).sum().backward()
        for key, parameter in net.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), key


@BOTH
def test_training_reads_the_clip_as_it_is(kind: type[JointAttention]) -> None:
    settings = {"dropout": 0.0} if kind is GaitMixer else {}
    net = kind(skeleton=COCO, frames=40, **settings)  # type: ignore[arg-type]
    pose = walking(4, 40, channels=2)
    out = net(pose, ones(4, 40))["feature"][..., 0]
    torch.testing.assert_close(out, F.normalize(net.encode(pose), dim=1))
    torch.testing.assert_close(out.norm(dim=1), torch.ones(4))


@BOTH
def test_it_learns(kind: type[JointAttention]) -> None:
    net = kind(skeleton=COCO, frames=32)
    pose, mask = walking(6, 32), ones(6, 32)
    target = F.normalize(torch.randn(6, 128, 1), dim=1)
    solver = torch.optim.Adam(net.parameters(), 0.003)
    losses = []
    for _ in range(12):
        loss = (net(pose, mask)["feature"] - target).square().sum(1).mean()
        solver.zero_grad()
        loss.backward()
        solver.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="more than 30.*30"):
        GaitMixer(skeleton=COCO, frames=30)
    for frames in (0, 2.5, True):
        with pytest.raises(ValueError, match="frames must be a whole number"):
            GaitFormer(skeleton=COCO, frames=frames)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="test_offsets"):
        GaitFormer(skeleton=COCO, test_offsets=())
    net = GaitMixer(skeleton=COCO)
    with pytest.raises(ValueError, match=r"17, 2 or more.*\(1, 60, 20, 3\)"):
        net(torch.zeros(1, 60, 20, 3), ones(1, 60))
    with pytest.raises(ValueError, match=r"mask must be \(1, 60\)"):
        net(torch.zeros(1, 60, 17, 3), ones(1, 59))


def test_crop_repeats_short_sequences_and_never_reads_padding() -> None:
    pose = torch.arange(10.0).view(1, 10, 1, 1).repeat(2, 1, 1, 1)
    mask = ones(2, 10)
    mask[1, 3:] = False
    out = crop(pose, mask, torch.tensor([[0, 4], [0, 1]]), 5)[..., 0, 0]
    assert out.tolist() == [[[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]], [[0, 1, 2, 0, 1], [1, 2, 0, 1, 2]]]
    with pytest.raises(NotImplementedError):
        FixedClips(skeleton=COCO, frames=5).encode(pose)
