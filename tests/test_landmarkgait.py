"""LandmarkGait's three networks against the vectors of the specification and a loop-written reading of it; kornia's
operations; padding, frozen weights, options, and losses that fall on made-up walkers."""

from __future__ import annotations

import math
from typing import Any

import kornia
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bpmt_ext.nets import landmarks as base
from bpmt_ext.nets.landmarkgait import GeM, LandmarkGait, LandmarkNet, ParsingNet
from bpmt_ext.nets.landmarks import PARTS, Clips, Grouping, fine_parts

SMALL = {"landmarks": 20, "channels": (4, 6, 8)}
NARROW = SMALL | {"widths": (2, 3, 3, 4), "embedding_width": 7}
WIDTHS = {"LandmarkNet": SMALL, "ParsingNet": SMALL, "LandmarkGait": NARROW}
NETS = {"LandmarkNet": LandmarkNet, "ParsingNet": ParsingNet, "LandmarkGait": LandmarkGait}


def strong(name: str, **options: Any) -> Any:
    """A narrow network in float64 whose landmarks lie far apart and whose parts differ."""
    torch.manual_seed(3)
    net = NETS[name](**WIDTHS[name] | options).double().eval()
    with torch.no_grad():
        last = net.Backbone.extract_landmark_2.model_landmark
        spread = last(net.Backbone.extract_landmark_1(walkers(1, 3)[0, :, None].double())).std()
        last.forward_block[0].conv.weight.mul_(4 / spread)
        for p in [p for key, p in net.named_parameters() if key.startswith("refine.")]:
            p.mul_(1.6)
    return net


def ones(n: int, t: int) -> Tensor:
    return torch.ones(n, t, dtype=torch.bool)


def walkers(n: int, t: int, seed: int = 0) -> Tensor:
    """(n, t, 64, 44) of 0 and 1: a head, a body and two legs that swing, with a pace and a place of their own."""
    g = torch.Generator().manual_seed(seed)
    shift, pace, wide = torch.rand(3, n, 1, 1, 1, generator=g)
    time = torch.arange(t).view(1, t, 1, 1)
    y, x = torch.arange(64.0).view(64, 1), torch.arange(44.0).view(1, 44)
    middle = 22 + 8 * (shift - 0.5) + 3 * torch.sin(0.5 * time)
    swing = (5 + 4 * wide) * torch.sin((0.6 + 0.6 * pace) * time)
    head = (y < 12) & ((x - middle).abs() < 4)
    body = (y >= 12) & (y < 36) & ((x - middle).abs() < 5 + 4 * wide)
    legs = (y >= 36) & (((x - middle - swing).abs() < 3) | ((x - middle + swing).abs() < 3))
    return (head | body | legs).float()


def vector_weights(net: LandmarkGait) -> LandmarkGait:
    """baselines.md section 8, without what is no weight of the original."""
    state = {key: x for key, x in net.double().eval().state_dict().items() if not key.startswith("grouping.")}
    for j, key in enumerate(sorted(state)):
        x = state[key]
        s = torch.sin(0.37 * torch.arange(x.numel(), dtype=torch.float64) + 0.11 * j).view(x.shape)
        if key.endswith(("pos_x", "pos_y", "HPP.p")):
            continue
        if key.endswith("num_batches_tracked"):
            x.zero_()
        elif key.endswith("running_var"):
            x.copy_(1 + 0.1 * s.abs())
        elif key.endswith("running_mean"):
            x.copy_(0.02 * s)
        else:
            x.copy_(1 + 0.05 * s if key == "Bn.weight" else 0.05 * s)
    return net


def test_vectors() -> None:
    net = vector_weights(LandmarkGait(num_class=74, offset_rule="fixed"))
    wave = torch.sin(0.01 * torch.arange(12 * 64 * 44, dtype=torch.float64))
    x = (wave > 0).double().view(1, 12, 64, 44)
    with torch.no_grad():
        frames, clips = net.packed(x, ones(1, 12))
        scene = net.scene(frames, clips)
        layers = []
        net.PMBConvC.register_forward_hook(lambda _, __, out: layers.append(out))
        rebuilt, map3d = net.rebuilt(scene), net.extract(x, torch.tensor([12]))
        strips = net.strips(map3d, map3d, map3d)
        embedding, logits = net.head(strips)
    for found, total, norm in [
        (rebuilt, 12.7000590416, 0.1689238981), (1 - scene.behind, 410.2019103505, None),
        (scene.features, 80.7022460148, None), (scene.points, -6.29893e-06, None), (strips, 34.1450832076, None),
        (embedding, -12.5749367565, 2.4813016724), (logits, -0.0031256817, None),
    ]:  # fmt: skip
        assert found.sum().item() == pytest.approx(total, abs=2e-10)
        assert norm is None or found.norm().item() == pytest.approx(norm, abs=2e-10)
    assert strips.shape == (1, 128, 96) and logits.shape == (1, 74, 96)
    assert torch.equal(net.reconstruct(x, ones(1, 12))[0], rebuilt)
    assert layers[0].shape == (1, 128, 4, 32, 22)
    assert layers[0].sum().item() == pytest.approx(475.0329976202, abs=1e-9)
    assert layers[0].norm().item() == pytest.approx(1.0548459705, abs=1e-9)


def test_parameters_and_names() -> None:
    with torch.device("meta"):
        nets = LandmarkNet(), ParsingNet(), LandmarkGait(num_class=74)
    count = [sum(p.numel() for p in net.parameters()) for net in nets]
    assert count == [913_312, 913_312 + 454_368, 5_861_089]
    parts = {"Backbone.extract_feature": 227_872, "Backbone.extract_landmark_1": 227_872, "refine": 454_368,
             "Backbone.extract_landmark_2": 3_200, "Backbone.refine": 454_368, "conv3d": 864, "LTA": 3_072,
             "PMBConvA": 188_416, "PMBConvB": 753_664, "PMBConvC": 1_064_960, "HPP": 1, "Head0": 1_572_864, "Bn": 256,
             "Head1": 909_312}  # fmt: skip
    for name, numbers in parts.items():
        assert sum(p.numel() for p in nets[2].get_submodule(name).parameters()) == numbers, name
    encoder = [f"{part}.model.forward_block.{i}.conv.weight"
               for part in ("Backbone.extract_feature", "Backbone.extract_landmark_1") for i in (0, 2, 4, 6, 8)]
    points = ["Backbone.extract_landmark_2.model_landmark.forward_block.0.conv.weight",
              *(f"Backbone.extract_landmark_2.integrater.pos_{axis}" for axis in "xy")]
    refiner = ["model.forward_block.0.weight", "model.forward_block.0.bias", "model.forward_block.4.weight",
               "model.forward_block.4.bias", *(f"model.forward_block.{i}.conv.weight" for i in (2, 6, 8))]
    first = {*encoder, *points, *(f"Backbone.refine.{name}" for name in refiner)}
    second = first | {f"refine.{name}" for name in refiner} | {f"grouping.{x}" for x in ("mean_x", "mean_y", "fitted")}
    paths = ("3x3x3", "1x3x3", "1x1x1_A", "1x1x1_B", "3x3x3_B")
    third = second | {f"PMBConv{x}.PMBConv_{path}.0.conv3d.weight" for x in "ABC" for path in paths} | {
        "conv3d.0.conv3d.weight", "LTA.0.conv3d.weight", "HPP.p", "Head0.fc_bin", "Head1.fc_bin", "Bn.weight",
        "Bn.bias", "Bn.running_mean", "Bn.running_var", "Bn.num_batches_tracked"}
    for net, names in zip(nets, (first, second, third), strict=True):
        assert set(net.state_dict()) == names
    shapes = {key: tuple(x.shape) for key, x in nets[2].state_dict().items()}
    for key, shape in {
        encoder[0]: (32, 1, 7, 7), encoder[4]: (128, 64, 4, 4), points[0]: (25, 128, 1, 1), points[1]: (176,),
        "refine.model.forward_block.4.weight": (64, 64, 4, 4), "Bn.weight": (128,),
        "LTA.0.conv3d.weight": (32, 32, 3, 1, 1), "PMBConvA.PMBConv_3x3x3_B.0.conv3d.weight": (64, 64, 3, 3, 3),
        "Head1.fc_bin": (96, 128, 74), "HPP.p": (1,), "grouping.mean_y": (25,), "grouping.fitted": (),
    }.items():  # fmt: skip
        assert shapes[key] == shape, key


# ---------------------------------------------------------------- the specification, once more, in loops


def naive_encode(layers: nn.Module, frame: Tensor) -> Tensor:
    """(64, 44) -> (c, 16, 11)."""
    x = frame[None, None]
    for i, (padding, stride) in zip((0, 2, 4, 6, 8), ((3, 1), (2, 1), (1, 2), (1, 1), (1, 2)), strict=True):
        x = F.conv2d(x, layers.model.forward_block[i].conv.weight, padding=padding, stride=stride)
        x = torch.where(x > 0, x, 0.01 * x)
    return x[0]


def naive_refine(layers: nn.Module, x: Tensor) -> Tensor:
    """(c, 16, 11) -> (64, 44)."""
    block, x = layers.model.forward_block, x[None]
    for i, padding in ((0, None), (2, 1), (4, None), (6, 2), (8, 3)):
        if padding is None:
            x = F.conv_transpose2d(x, block[i].weight, block[i].bias, stride=2, padding=1)
        else:
            x = F.conv2d(x, block[i].conv.weight, padding=padding)
        x = torch.where(x > 0, x, 0.01 * x) if i < 8 else x
    return x[0, 0]


def naive_point(heat: Tensor) -> tuple[float, float]:
    share = heat.exp() / heat.exp().sum()
    cells = [(row, column) for row in range(16) for column in range(11)]
    x = sum(share[cell].item() * (-1 + 2 * cell[1] / 10) for cell in cells)
    return x, sum(share[cell].item() * (-1 + 2 * cell[0] / 15) for cell in cells)


def naive_heat(points: list[tuple[float, float]], chosen: Any, clip: bool) -> Tensor:
    heat = torch.zeros(16, 11, dtype=torch.float64)
    for i in chosen:
        for row in range(16):
            for column in range(11):
                away = (-1 + 2 * column / 10 - points[i][0]) ** 2 + (-1 + 2 * row / 15 - points[i][1]) ** 2
                heat[row, column] += math.exp(-100 * away)
    return heat.clamp(max=1) if clip else heat


def naive(net: Any, clip: Tensor, offset: int, groups: Any = None) -> dict[str, Tensor]:
    """One sequence (t, 64, 44) -> landmarks (t, k, 2), pictures of R (t, 64, 44), coarse parts (t, 3, 64, 44)."""
    one, t = net.Backbone, len(clip)
    last = one.extract_landmark_2.model_landmark.forward_block[0].conv.weight
    features = [naive_encode(one.extract_feature, frame) for frame in clip]
    points = []
    for frame in clip:
        heat = F.conv2d(naive_encode(one.extract_landmark_1, frame)[None], last)[0]
        points.append([naive_point(each) for each in heat])
    every = range(len(points[0]))
    rebuilt, coarse = [], []
    for i in range(t):
        j = (i - offset) % t
        source, target = (naive_heat(points[x], every, one.clip) for x in (j, i))
        kept = features[j] * (1 - source) * (1 - target)
        rebuilt.append(naive_refine(one.refine, kept + target * features[i]))
        for part in groups or ():
            mix = kept + naive_heat(points[i], part, one.clip) * features[i]
            coarse.append(naive_refine(net.refine, mix).sigmoid())
    out = {"landmarks": torch.tensor(points, dtype=torch.float64), "reconstruction": torch.stack(rebuilt)}
    return out | ({"coarse": torch.stack(coarse).view(t, 3, 64, 44)} if groups else {})


def naive_parts(clip: Tensor, coarse: Tensor, top: Tensor) -> Tensor:
    """top (t, 3): the maximum each part is compared with."""
    out = []
    for frame, parts, most in zip(clip, coarse, top, strict=True):
        hot = [p > 0.9 * m for p, m in zip(parts, most, strict=True)]
        fine = [parts[0] * (hot[0] & ~hot[1]), parts[1] * hot[1], parts[2] * (hot[2] & ~hot[1])]
        wide = []
        for p in fine:
            around = F.pad(p, (1, 1, 1, 1))
            shifted = [around[y : y + 64, x : x + 44] for y in range(3) for x in range(3)]
            wide.append(torch.stack(shifted).amax(0) > 0.5)
        head, upper, lower = wide
        out.append(torch.stack([frame * ~upper * ~lower, frame * ~head * ~lower, frame * ~head * ~upper]))
    return torch.stack(out)


@pytest.mark.parametrize("options", [{}, {"offset_rule": "fixed", "clip_heatmaps": True}])
def test_landmarks_are_what_the_specification_says(options: dict[str, Any]) -> None:
    net, clip = strong("LandmarkNet", **options), walkers(1, 5).double()
    expected = naive(net, clip[0], 8 if options else 2)
    out = net(clip, ones(1, 5))
    for name in ("landmarks", "reconstruction"):
        torch.testing.assert_close(out[name][0], expected[name], atol=1e-6, rtol=1e-6)
    loss = 10 * sum((a - b) ** 2 for a, b in zip(expected["reconstruction"].flatten().tolist(), clip.flatten().tolist(),
                                                 strict=True)) / clip.numel()  # fmt: skip
    assert out["losses"]["reconstruction"].item() == pytest.approx(loss, rel=1e-6)
    assert torch.equal(net.landmarks(clip, ones(1, 5)), out["landmarks"]) and out["landmarks"].std(dim=2).min() > 0.05
    assert set(net.train()(clip, ones(1, 5))) == {"losses"}
    points, sharp = net.located(clip, ones(1, 5))
    assert sharp.shape == (1, 5, 20) and 1 / 176 < sharp.min() and sharp.max() <= 1 and torch.equal(
        points, out["landmarks"]
    )


@pytest.mark.parametrize("options", [{}, {"grouping": "frame", "threshold_scope": "batch", "offset_rule": "fixed"}])
def test_parts_are_what_the_specification_says(options: dict[str, Any]) -> None:
    net, clip = strong("ParsingNet", **options), walkers(1, 4).double()
    net.fit(walkers(3, 4, seed=1).double(), ones(3, 4))
    places = net.landmarks(walkers(3, 4, seed=1).double(), ones(3, 4))[..., 1].mean((0, 1))
    heights = net.landmarks(clip, ones(1, 4))[0, 2, :, 1] if options else places
    order = sorted(range(20), key=lambda i: heights[i].item())
    groups = order[:1], order[1:9], order[9:]
    if not options:
        assert net.group_order == groups
    expected = naive(net, clip[0], 8 if options else 2, groups)
    out = net(clip, ones(1, 4))
    for name in ("landmarks", "reconstruction", "coarse"):
        torch.testing.assert_close(out[name][0], expected[name], atol=1e-6, rtol=1e-6)
    top = expected["coarse"].amax((2, 3))
    parts = naive_parts(clip[0], expected["coarse"], top.amax(0).expand(4, 3) if options else top)
    assert torch.equal(out["parts"][0], parts) and torch.equal(net.parse(clip, ones(1, 4))[0], parts)
    assert 0 < parts[:, 0].sum() < clip.sum() and not torch.equal(parts[:, 0], parts[:, 1])
    claimed = 10 * (expected["coarse"].amax(1) - clip[0]).square().mean()
    torch.testing.assert_close(out["losses"]["parsing"], claimed, atol=1e-6, rtol=0)
    missed = 10 * (expected["reconstruction"] - clip[0]).square().mean()
    torch.testing.assert_close(out["losses"]["landmark"], missed, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(out["loss"], sum(out["losses"].values()))


def test_the_pixels_of_no_part_are_in_all_three_and_the_upper_body_goes_first() -> None:
    frames, coarse = torch.ones(2, 64, 44), torch.full((2, 3, 64, 44), 0.1)
    coarse[0, 0, 5, 5] = coarse[0, 1, 5, 5] = coarse[0, 1, 20, 20] = coarse[0, 2, 40, 0] = 0.9
    coarse[1, :, 3, 3] = 0.4  # the largest of its frame, yet below one half
    head, upper, lower = fine_parts(frames, coarse, "frame")[0]
    assert head[4:7, 4:7].sum() == 0 and upper[4:7, 4:7].sum() == 9  # both are hot there
    assert upper[39:42, :2].sum() == 0 and lower[39:42, :2].sum() == 6 and head[60, 30] == upper[60, 30] == 1
    assert torch.equal(fine_parts(frames, coarse, "frame")[1], torch.ones(3, 64, 44))
    alone = fine_parts(frames[1:], coarse[1:] * 2, "batch")
    assert alone[0, 0, 2:5, 2:5].sum() == 0  # claimed by the upper body
    both = torch.cat([coarse[:1], coarse[1:] * 2])  # 0.8 is no longer above 0.9 * 0.9 in the batch
    assert fine_parts(frames, both, "batch")[1, 0, 2:5, 2:5].sum() == 9


@pytest.mark.parametrize("mix_axis", ["time", "batch"])
def test_the_five_clips_and_what_becomes_of_them(mix_axis: str) -> None:
    net = strong("LandmarkGait", num_class=5, mix_axis=mix_axis)
    x, mask = walkers(4, 5).double(), ones(4, 5)
    parts = net.parse(x, mask)
    maps, length = net.maps(x, mask, None)
    axis = 1 if mix_axis == "time" else 0
    mixed = torch.maximum(parts[:, :, 0], torch.maximum(parts[:, :, 1].roll(3, axis), parts[:, :, 2].roll(6, axis)))
    for found, expected in zip(maps, [x, *parts.unbind(2), mixed], strict=True):
        assert torch.equal(found, expected)
    assert length.tolist() == [5] * 4 and not torch.equal(mixed, x)
    each = [net.extract(clip, length) for clip in maps]
    rows = torch.cat([each[0], torch.stack(each[1:4]).amax(0), each[4]], dim=2)  # (4, d, 96, 22)
    strips = (rows.clamp(min=1e-6) ** 6.5).mean(3) ** (1 / 6.5)
    feature = net.Bn(torch.stack([strips[:, :, i] @ net.Head0.fc_bin[i] for i in range(96)], dim=2))
    out = net(x, mask)
    torch.testing.assert_close(out["feature"], feature)
    logits = torch.stack([feature[:, :, i] @ net.Head1.fc_bin[i] for i in range(96)], dim=2)
    torch.testing.assert_close(out["logits"], logits)
    assert out["embedding"] is out["feature"] and out["logits"].shape == (4, 5, 96)


def test_the_extractor_is_what_its_layers_say() -> None:
    net, x = strong("LandmarkGait"), walkers(2, 7).double()
    conv = {key.replace(".0.conv3d.weight", ""): p for key, p in net.named_parameters() if "conv3d" in key}

    def layer(x: Tensor, name: str, padding: Any, stride: Any = 1) -> Tensor:
        return F.leaky_relu(F.conv3d(x, conv[name], padding=padding, stride=stride), 0.01)

    def paths(x: Tensor, name: str) -> Tensor:
        at = f"{name}.PMBConv_"
        inner = layer(layer(x, f"{at}1x1x1_B", 0), f"{at}3x3x3_B", 1)
        near = F.avg_pool3d(layer(x, f"{at}1x1x1_A", 0), (1, 3, 3), 1, (0, 1, 1))
        return layer(x, f"{at}3x3x3", 1) + layer(x, f"{at}1x3x3", (0, 1, 1)) + near + inner

    y = layer(layer(x[:, None], "conv3d", 1), "LTA", 0, (3, 1, 1))
    y = paths(paths(F.max_pool3d(paths(y, "PMBConvA"), (1, 2, 2)), "PMBConvB"), "PMBConvC")
    torch.testing.assert_close(net.extract(x, torch.tensor([7, 7])), y.amax(2))


# ---------------------------------------------------------------- kornia's operations


def test_the_dilation_is_kornias() -> None:
    x = torch.rand(3, 2, 64, 44) * (torch.rand(3, 2, 64, 44) > 0.7)
    dilated = kornia.morphology.dilation(x, torch.ones(3, 3))
    torch.testing.assert_close(F.max_pool2d(x, 3, 1, 1), dilated)
    free = fine_parts(torch.ones(3, 64, 44), torch.cat([x, x[:, :1]], 1), "frame")
    hot = x[:, 1] * (x[:, 1] > 0.9 * x[:, 1].amax((1, 2), keepdim=True))
    grown = kornia.morphology.dilation(hot[:, None], torch.ones(3, 3))[:, 0] > 0.5
    assert (free[:, 0][grown] == 0).all()


def test_the_expectation_and_the_gaussians_are_kornias() -> None:
    net = strong("LandmarkNet").Backbone
    cells = torch.randn(4, 20, 16, 11, dtype=torch.float64).flatten(2).mul(3).softmax(-1)
    points = net.extract_landmark_2.integrater(cells)
    expected = kornia.geometry.subpix.spatial_expectation2d(cells.view(4, 20, 16, 11), True)
    torch.testing.assert_close(points, expected, atol=1e-6, rtol=0)
    each = net.heat(points, torch.eye(20).expand(4, 20, 20))  # every landmark a part of its own
    std = torch.full((4, 20, 2), 1 / (10 * 2**0.5), dtype=torch.float64)
    rendered = kornia.geometry.subpix.render_gaussian2d(points.view(80, 2), std.view(80, 2), (16, 11), True)
    mine = each / each.sum((2, 3), keepdim=True)
    torch.testing.assert_close(mine, rendered.view_as(mine), atol=1e-6, rtol=0)
    torch.testing.assert_close(net.heat(points), each.sum(1, keepdim=True))


# ---------------------------------------------------------------- padding


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 7), min_size=2, max_size=3), st.integers(0, 2), st.booleans())
def test_padding_and_batch_mates_change_nothing(lengths: list[int], more: int, published: bool) -> None:
    options = {"offset_rule": "fixed", "grouping": "frame"} if published else {}
    n, t = len(lengths), max(lengths) + more
    x, mask = walkers(n, t).double(), torch.arange(t) < torch.tensor(lengths)[:, None]
    filled = torch.where(mask[..., None, None], x, 9.0)
    net = strong("LandmarkGait", num_class=3, **options)
    together, parts, places = net(filled, mask), net.parse(filled, mask), net.landmarks(filled, mask)
    rebuilt, pooled = net.reconstruct(filled, mask), net.embed(filled, mask)
    for i, real in enumerate(lengths):
        clip, whole = x[i : i + 1, :real], ones(1, real)
        alone = net(clip, whole)
        for name in ("feature", "embedding", "logits"):
            torch.testing.assert_close(together[name][i : i + 1], alone[name], atol=1e-10, rtol=1e-10)
        for found, single in ((parts, net.parse), (places, net.landmarks), (rebuilt, net.reconstruct)):
            torch.testing.assert_close(found[i : i + 1, :real], single(clip, whole), atol=1e-10, rtol=1e-10)
            assert not found[i, real:].any()
        torch.testing.assert_close(pooled[i : i + 1], net.embed(clip, whole), atol=1e-10, rtol=1e-10)


def test_padding_changes_nothing_in_single_precision() -> None:
    net, x, mask = strong("LandmarkGait").float(), walkers(2, 5), torch.arange(5) < torch.tensor([[4], [5]])
    together = net(torch.where(mask[..., None, None], x, 9.0), mask)["embedding"]
    alone = torch.cat([net(x[:1, :4], ones(1, 4))["embedding"], net(x[1:], ones(1, 5))["embedding"]])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_the_losses_are_over_real_pixels() -> None:
    x, mask = walkers(3, 6).double(), torch.arange(6) < torch.tensor([2, 6, 4])[:, None]
    for name in ("LandmarkNet", "ParsingNet"):
        net = strong(name)
        together = net(torch.where(mask[..., None, None], x, 5.0), mask)["losses"]
        alone = [net(x[i : i + 1, :real], ones(1, real))["losses"] for i, real in enumerate((2, 6, 4))]
        for key, loss in together.items():
            mean = sum(real * one[key] for real, one in zip((2, 6, 4), alone, strict=True)) / 12
            torch.testing.assert_close(loss, mean)


@pytest.mark.parametrize(("short", "long"), [(1, 3), (2, 4)])
def test_one_or_two_frames_are_repeated(short: int, long: int) -> None:
    net, x = strong("LandmarkGait", num_class=2), walkers(2, short).double()
    maps, length = net.maps(x, ones(2, short), None)
    assert length.tolist() == [long, long] and maps.shape == (5, 2, long, 64, 44)
    assert torch.equal(maps, maps[:, :, torch.arange(long) % short])
    parts = net.parse(x, ones(2, short))
    assert torch.equal(maps[4, :, 0], parts[:, 0, 0].maximum(parts[:, -3 % short, 1]).maximum(parts[:, -6 % short, 2]))
    assert net(x, ones(2, short))["embedding"].isfinite().all()


def test_leftover_frames_join_no_triple() -> None:
    net, x = strong("LandmarkGait"), walkers(1, 8).double()
    changed = x.clone()
    changed[:, 7] = 1 - changed[:, 7]
    seven, length = net.extract(x[:, :7], torch.tensor([7])), torch.tensor([8])
    assert torch.equal(net.extract(changed, length), net.extract(x, length))  # two triples; frame 7 touches neither
    assert not torch.equal(net.extract(x[:, :6], torch.tensor([6])), seven)  # frame 6 is next to the second triple


def test_sequences_longer_than_a_piece_are_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = strong("LandmarkGait"), walkers(2, 5).double()
    whole = net(x, ones(2, 5))["embedding"], net.reconstruct(x, ones(2, 5)), net.embed(x, ones(2, 5))
    monkeypatch.setattr(base, "PIECE", 3)
    pieces = net(x, ones(2, 5))["embedding"], net.reconstruct(x, ones(2, 5)), net.embed(x, ones(2, 5))
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


# ---------------------------------------------------------------- groups


def test_groups_of_every_number_of_landmarks() -> None:
    for landmarks, sizes in PARTS.items():
        grouping, clips = Grouping(landmarks, "mean"), Clips(ones(2, 3))
        points = torch.rand(6, landmarks, 2)
        grouping.fit(points)
        member = grouping(points, clips, None)
        assert member.shape == (6, 3, landmarks) and (member.sum(1) == 1).all() and sum(sizes) == landmarks
        head, upper, lower = grouping.order()
        assert [len(head), len(upper), len(lower)] == list(sizes)
        for q, part in enumerate((head, upper, lower)):
            assert member[0, q].nonzero().flatten().tolist() == sorted(part)
        y = points[..., 1].mean(0)
        assert y[head].max() < y[upper].min() and y[upper].max() < y[lower].min()


def test_groups_do_not_depend_on_chance_or_on_others() -> None:
    net, x = strong("ParsingNet"), walkers(4, 5).double()
    assert not net.grouping.fitted and torch.equal(net.parse(x, ones(4, 5)), net.parse(x, ones(4, 5)))
    net.fit(x, ones(4, 5))
    points = net.landmarks(x, ones(4, 5)).mean((0, 1))
    found = torch.stack([net.grouping.mean_x, net.grouping.mean_y], dim=1)
    torch.testing.assert_close(found, points)
    assert bool(net.grouping.fitted)
    again = strong("ParsingNet")
    again.load_state_dict(net.state_dict())
    assert again.group_order == net.group_order and bool(again.grouping.fitted)
    net.train()
    for other in (x, 1 - x):
        member = net.grouping(net.landmarks(other, ones(4, 5)).flatten(0, 1), Clips(ones(4, 5)), torch.arange(4))
        assert torch.equal(member[0], member[-1])
        assert member[0, 0].nonzero().flatten().tolist() == sorted(net.group_order[0])


def test_published_grouping_draws_one_frame_for_the_batch() -> None:
    grouping, mask = Grouping(20, "frame"), torch.arange(5) < torch.tensor([2, 5, 3])[:, None]
    clips, y = Clips(mask), torch.rand(10, 20)
    points = torch.stack([torch.zeros_like(y), y], dim=2)
    rows = {tuple(row) for row in y.tolist()}
    drawn = set()
    for seed in range(60):
        key = torch.tensor([seed, seed + 1000, seed + 2000])
        height = grouping.heights(y, clips, key)
        assert height.shape == (1, 20) and tuple(height[0].tolist()) in rows
        drawn.add(tuple(height[0].tolist()))
        assert torch.equal(grouping.heights(y, clips, key), height)
    assert len(drawn) == 10  # every frame of every clip can be it
    assert grouping.heights(y, clips, None).shape == (1, 20)
    grouping.eval()
    for key in (None, torch.arange(3)):
        assert torch.equal(grouping.heights(y, clips, key), y[[1, 2 + 2, 7 + 1]])
    assert grouping(points, clips, None).shape == (10, 3, 20)


# ---------------------------------------------------------------- training


def steps(net: Any, trained: Any, x: Tensor, count: int, lr: float) -> list[float]:
    """Losses over a few steps; checks at the first that `trained` alone gets a gradient, all of it."""
    mask, key, label = ones(*x.shape[:2]), torch.arange(len(x)), torch.arange(len(x)) % 2
    frozen = {name: p.clone() for name, p in net.named_parameters() if not trained(name)}
    solver, losses = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr), []
    for step in range(count):
        out = net(x, mask, key)
        loss = F.cross_entropy(out["logits"].mean(2), label) if "logits" in out else sum(out["losses"].values())
        solver.zero_grad()
        loss.backward()
        for name, p in net.named_parameters() if not step else ():
            assert (p.grad is not None and p.grad.isfinite().all() and bool(p.grad.any())) == trained(name), name
            assert p.requires_grad == trained(name), name
        solver.step()
        losses.append(loss.item())
    assert all(torch.equal(p, frozen[name]) for name, p in net.named_parameters() if name in frozen)
    return losses


def test_landmarknet_learns() -> None:
    losses = steps(LandmarkNet(**SMALL), lambda name: True, walkers(4, 6), 16, 0.001)
    assert losses[-1] < 0.8 * losses[0]


def test_parsingnet_learns_with_frozen_landmarks() -> None:
    trained = ("refine.", "Backbone.refine.")
    losses = steps(ParsingNet(**SMALL), lambda name: name.startswith(trained), walkers(4, 5), 10, 0.002)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("bnneck", [False, True])
def test_landmarkgait_learns_and_trains_the_recogniser_alone(bnneck: bool) -> None:
    net = LandmarkGait(**NARROW, num_class=2, bnneck=bnneck)
    frozen, x = ("refine.", "Backbone."), walkers(4, 5)
    x[1::2] = x[1::2].flip(2)  # every other one walks on its head
    losses = steps(net, lambda name: not name.startswith(frozen), x, 8, 0.02)
    assert losses[-1] < 0.7 * losses[0]
    out = net.eval()(walkers(2, 3), ones(2, 3))
    out["logits"].sum().backward()
    if bnneck:
        torch.testing.assert_close(out["feature"].norm(dim=1), torch.ones(2, 96))
        assert out["logits"].abs().max() <= 1 + 1e-5
    assert "logits" not in LandmarkGait(**NARROW, bnneck=bnneck)(walkers(2, 3), ones(2, 3))


def test_parsingnet_gives_pictures_in_a_test_only() -> None:
    net, x = ParsingNet(**SMALL), walkers(2, 3)
    out = net(x, ones(2, 3))
    assert set(out) == {"losses", "loss"} and list(out["losses"]) == ["landmark", "parsing"]
    out = net.eval()(x, ones(2, 3))
    shapes = {name: tuple(out[name].shape) for name in ("landmarks", "reconstruction", "coarse", "parts")}
    assert shapes == {"landmarks": (2, 3, 20, 2), "reconstruction": (2, 3, 64, 44), "coarse": (2, 3, 3, 64, 44),
                      "parts": (2, 3, 3, 64, 44)}  # fmt: skip
    assert net.embed(x, ones(2, 3)).shape == (2, 8, 16)


def test_the_generalised_mean_of_small_numbers() -> None:
    pool = GeM()
    x = torch.full((1, 1, 2, 22), -1.0)
    x[0, 0, 1, 3] = 1e-5
    x.requires_grad_()
    out = pool(x)
    expected = (x[0, 0].detach().double().clamp(min=1e-6) ** 6.5).mean(1) ** (1 / 6.5)
    torch.testing.assert_close(out[0, 0].double(), expected, rtol=1e-4, atol=0)
    out.sum().backward()
    assert pool.p.grad.isfinite().all() and x.grad.isfinite().all() and x.grad[0, 0, 1, 3] > 0


def test_refusals() -> None:
    net = LandmarkNet(**SMALL)
    assert net.takes == (64, 44) and net.modality == "silhouette"
    for wrong in (torch.zeros(1, 2, 64, 64), torch.zeros(1, 2, 17, 3), torch.zeros(1, 2, 64, 44, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"64, 44\).*BaseSilCuttingTransform"):
            net(wrong, ones(1, 2))
    with pytest.raises(ValueError, match=r"mask must be \(1, 2\)"):
        net(torch.zeros(1, 2, 64, 44), ones(1, 3))
    for settings_, words in [
        ({"landmarks": 24}, "20, 25, 30, 35"), ({"channels": (4, 8)}, "three numbers"), ({"offset_rule": "x"}, "half"),
        ({"grouping": "x"}, "mean or frame"), ({"threshold_scope": "x"}, "frame or batch"),
        ({"mix_axis": "x"}, "time or batch"), ({"widths": (1, 2)}, "four numbers"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            LandmarkGait(**NARROW | settings_)
