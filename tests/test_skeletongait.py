"""SkeletonGait against the vectors of the specification; padding, the mean over columns, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from rules import fill, wave
from torch import Tensor

from bpmt_ext.nets.skeletongait import P3DBlock, SkeletonGait
from bpmt_ext.skeletons import get_skeleton

COCO = get_skeleton("coco17")
NARROW = {"layers": (1, 1, 1, 1), "channels": (4, 8, 8, 16), "embedding_width": 8}


def narrow(**settings: object) -> SkeletonGait:
    return SkeletonGait(skeleton=COCO, **NARROW | settings)  # type: ignore[arg-type]


def ones(n: int, t: int) -> Tensor:
    return torch.ones(n, t, dtype=torch.bool)


@pytest.mark.parametrize(
    ("layers", "feature", "embedding"),
    [
        (
            (1, 4, 4, 1),
            (-3.1985000803, 141.0633242251, [-2.14709976, 2.05383354, -2.20454896, 1.74651089]),
            (-0.5694821636, 4.0, [-0.07537164, 0.06627812, -0.06013524, 0.05165849]),
        ),
        (
            (1, 1, 1, 1),
            (-2.6486971704, 127.2184485114, [-1.97072695, 1.85218558, -1.60920341, 1.30023178]),
            (-0.5326382517, 4.0, [-0.06861786, 0.06116013, -0.05174422, 0.04219669]),
        ),
    ],
)
def test_vectors(layers: tuple[int, ...], feature: tuple, embedding: tuple) -> None:
    """baselines_plus.md section 8; the classifier has no part in them."""
    net = fill(SkeletonGait(skeleton=COCO, layers=layers, num_class=2, use_emb2=True), "base")
    with torch.no_grad():
        out = net(wave((1, 6, 2, 64, 44), "base"), ones(1, 6))
    for name, (total, norm, first) in {"feature": feature, "embedding": embedding}.items():
        assert out[name].shape == (1, 256, 16)
        found = torch.stack([out[name].sum(), out[name].norm()])
        torch.testing.assert_close(found, torch.tensor([total, norm], dtype=torch.float64), atol=1e-8, rtol=0)
        torch.testing.assert_close(
            out[name].flatten()[:4], torch.tensor(first, dtype=torch.float64), atol=1e-8, rtol=0
        )


@pytest.mark.parametrize(
    ("layers", "classes", "parameters", "entries"),
    [
        ((1, 4, 4, 1), 3000, 25_492_736, 205), ((1, 4, 4, 1), 20000, 95_124_736, 205),
        ((1, 1, 1, 1), 5153, 29_143_552, 97), ((1, 1, 1, 1), 100, 8_446_464, 97), ((1, 1, 1, 1), 250, 9_060_864, 97),
    ],
)  # fmt: skip
def test_parameters_and_entries(layers: tuple[int, ...], classes: int, parameters: int, entries: int) -> None:
    with torch.device("meta"):
        net = SkeletonGait(skeleton=COCO, layers=layers, num_class=classes)
    assert sum(p.numel() for p in net.parameters()) == parameters and len(net.state_dict()) == entries


def test_names_and_shapes_of_the_published_files() -> None:
    with torch.device("meta"):
        net = SkeletonGait(skeleton=COCO, num_class=3000)
    shapes = {key: tuple(x.shape) for key, x in net.state_dict().items()}
    for key, shape in {
        "layer0.forward_block.0.weight": (64, 2, 3, 3), "layer0.forward_block.1.running_mean": (64,),
        "layer1.forward_block.0.conv1.weight": (64, 64, 3, 3), "layer1.forward_block.0.bn2.bias": (64,),
        "layer2.0.conv1.forward_block.0.weight": (128, 64, 3, 3), "layer3.3.shortcut3d.weight": (256, 256, 3, 1, 1),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1, 1), "layer4.0.downsample.1.running_var": (512,),
        "layer3.1.conv2.forward_block.1.weight": (256,), "layer2.3.sbn.weight": (128,),
        "FCs.fc_bin": (16, 512, 256), "BNNecks.fc_bin": (16, 256, 3000), "BNNecks.bn1d.weight": (4096,),
    }.items():
        assert shapes[key] == shape, key
    assert "layer2.1.downsample.0.weight" not in shapes


def test_a_block_is_what_its_3d_convolutions_say() -> None:
    block = fill(P3DBlock(4, 6, 2), "strong")
    x = torch.randn(2, 4, 5, 8, 6, dtype=torch.float64)  # (n, d, t, h, w)
    frames = x.transpose(1, 2).flatten(0, 1)
    u = block.conv1(frames).unflatten(0, (2, 5)).transpose(1, 2)
    v = block.shortcut3d(u)
    u = F.relu(u + block.sbn(v.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 5)).transpose(1, 2))
    conv, norm = block.downsample
    skip = norm(F.conv3d(x, conv.weight, stride=(1, 2, 2)).transpose(1, 2).flatten(0, 1))
    expected = F.relu(block.conv2(u.transpose(1, 2).flatten(0, 1)) + skip)
    torch.testing.assert_close(block(frames, 2, None), expected)
    last = frames.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(block(last, 2, None), expected)


@pytest.mark.parametrize("use_emb2", [False, True])
def test_padding_and_batch_mates_change_nothing(use_emb2: bool) -> None:
    net = fill(narrow(num_class=3, use_emb2=use_emb2), "strong")
    lengths = [1, 4, 7]
    maps = torch.rand(3, 7, 2, 64, 44, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    together = net(torch.where(mask[..., None, None, None], maps, 9.0), mask)
    for i, t in enumerate(lengths):
        alone = net(maps[i : i + 1, :t], ones(1, t))
        for name in ("feature", "embedding", "logits"):
            torch.testing.assert_close(together[name][i : i + 1], alone[name], atol=1e-10, rtol=1e-10)
    assert together["logits"].shape == (3, 3, 16) and together["feature"].shape == (3, 8, 16)
    single = net.float()(maps.float(), mask)["embedding"]
    scale = together["embedding"].abs().max().item()
    torch.testing.assert_close(single.double(), together["embedding"], atol=1e-5 * scale, rtol=0)


def test_pooling_is_the_mean_and_the_maximum_of_every_row() -> None:
    x = torch.randn(2, 3, 4, 16, 11)
    mask = ones(2, 3)
    mask[0, 2] = False
    out = SkeletonGait.pool(x, mask)
    for i, t in ((0, 2), (1, 3)):
        best = x[i, :t].amax(0)
        for row in range(16):
            torch.testing.assert_close(out[i, :, row], best[:, row].sum(1) / 11 + best[:, row].max(1).values)


def test_emb2_is_of_unit_length_and_what_the_logits_are_the_cosines_of() -> None:
    net = narrow(num_class=5, use_emb2=True).eval()
    out = net(torch.rand(2, 3, 2, 64, 44), ones(2, 3))
    torch.testing.assert_close(out["embedding"].norm(dim=1), torch.ones(2, 16))
    assert out["logits"].abs().max() <= 1 + 1e-6 and not torch.allclose(out["feature"], out["embedding"])
    plain = narrow(num_class=0).eval()
    out = plain(torch.rand(2, 3, 2, 64, 44), ones(2, 3))
    assert out["embedding"] is out["feature"] and "logits" not in out


def test_a_gradient_for_every_parameter_and_it_learns() -> None:
    net = narrow(num_class=4)
    maps, mask, label = torch.rand(8, 3, 2, 64, 44), ones(8, 3), torch.arange(8) % 4
    solver = torch.optim.Adam(net.parameters(), 0.005)
    losses = []
    for step in range(8):
        out = net(maps, mask)
        loss = F.cross_entropy(16 * out["logits"].mean(2), label)
        solver.zero_grad()
        loss.backward()
        if not step:
            for key, p in net.named_parameters():
                assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any(), key
        solver.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    net.eval()(maps, mask)["logits"].sum().backward()


def test_initial_weights() -> None:
    net = SkeletonGait(skeleton=COCO, layers=(1, 1, 1, 1), num_class=2)
    scales = torch.cat([m.weight.detach() for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)])
    assert abs(scales.mean() - 1) < 0.005 and abs(scales.std() - 0.02) < 0.003
    weight = net.layer4[0].conv2.forward_block[0].weight  # type: ignore[index, union-attr]
    bound = (6 / (512 * 9 + 512 * 9)) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound


def test_refusals() -> None:
    net = narrow()
    assert net.takes == (2, 64, 44)
    with pytest.raises(ValueError, match=r"2, 64, 44.*\(1, 3, 17, 3\).*SkeletonMaps"):
        net(torch.zeros(1, 3, 17, 3), ones(1, 3))
    with pytest.raises(ValueError, match="2, 64, 64"):
        net(torch.zeros(1, 3, 2, 64, 64), ones(1, 3))
    with pytest.raises(ValueError, match=r"mask must be \(1, 3\)"):
        net(torch.zeros(1, 3, 2, 64, 44), ones(1, 4))
    for wrong in ({"layers": (1, 1, 1)}, {"layers": (1, 0, 1, 1)}, {"channels": (4, 8)}):
        with pytest.raises(ValueError, match="four numbers"):
            narrow(**wrong)
    with pytest.raises(ValueError, match="kinect20"):
        SkeletonGait(skeleton=get_skeleton("kinect20"))
