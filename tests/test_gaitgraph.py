"""GaitGraph1 and GaitGraph2: the published vectors and counts, what must move them and what must not, the pictures."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import walking
from rules import fill, wave
from torch import Tensor, nn

from bpmt_ext.data.inputs import GaitGraph_MultiInput, GaitGraphInput
from bpmt_ext.losses import SupConLoss_Lp, SupConLoss_Re
from bpmt_ext.nets.frames import reverse_time
from bpmt_ext.nets.gaitgraph import GaitGraph1, GaitGraph2
from bpmt_ext.nets.graphs import COCO12_EDGES, adjacency, edges_between, graph_of_edges, hop_distance
from bpmt_ext.nets.resgcn import SpatialGraphConv
from bpmt_ext.report.activation import draw_activation, spread_frames
from bpmt_ext.skeletons import SKELETONS, get_skeleton

COCO, ALPHA, KINECT = (get_skeleton(name) for name in ("coco17", "openpose18", "kinectgait20"))
DEEP = {"reduction": 4, "input_branch": (5, 64, 64, 32), "main_stream": (32, 128, 128, 128, 256, 256, 256)}
SMALL1 = {"input_branch": (3, 16, 8), "main_stream": (8, 16, 24), "num_class": 12}
SMALL2 = {"input_branch": (5, 16, 8), "main_stream": (8, 16, 24), "num_class": 12}


def everywhere(pose: Tensor) -> Tensor:
    return torch.ones(pose.shape[:2], dtype=torch.bool)


def embed(net: nn.Module, pose: Tensor) -> Tensor:
    with torch.no_grad():
        return net(pose, everywhere(pose))["embedding"]


def lively(net: nn.Module) -> nn.Module:
    """The net with weights under which nothing is 0 that starts at 0."""
    return fill(net, "strong").float()


def moved(net: nn.Module, pose: Tensor, other: Tensor) -> float:
    one, two = embed(net, pose), embed(net, other)
    return ((one - two).norm() / one.norm()).item()


# ---------------------------------------------------------------- the graph


def test_the_graph_of_coco() -> None:
    graph = adjacency(COCO, 3)
    assert graph.dtype == torch.float32 and (graph > 0).sum((1, 2)).tolist() == [17, 36, 50, 70]
    assert graph[0, 0, 0] == torch.tensor(1 / 7) and graph[1, 0, 1] == torch.tensor(1 / 9)
    assert adjacency(COCO, 2).shape == (3, 17, 17)
    text = "0-1 0-2 2-4 1-3 3-5 0-6 1-7 6-7 6-8 8-10 7-9 9-11"
    assert sorted(COCO12_EDGES) == sorted(tuple(map(int, pair.split("-"))) for pair in text.split())


@pytest.mark.parametrize("name", sorted(SKELETONS))
@pytest.mark.parametrize("hops", [0, 1, 2, 3])
def test_a_graph_is_what_a_search_finds(name: str, hops: int) -> None:
    skeleton = get_skeleton(name)
    v, graph = skeleton.num_joints, adjacency(skeleton, hops)
    distance = hop_distance(skeleton.edges, v, hops)
    for start in range(v):
        found, queue = {start: 0}, deque([start])
        while queue:
            here = queue.popleft()
            for a, b in [*skeleton.edges, *((b, a) for a, b in skeleton.edges)]:
                if a == here and b not in found:
                    found[b] = found[here] + 1
                    queue.append(b)
        assert distance[start].tolist() == [min(found.get(j, 99), hops + 1) for j in range(v)]
    for hop in range(hops + 1):
        assert torch.equal(graph[hop] > 0, distance == hop)
    torch.testing.assert_close(graph.sum(0).sum(0), torch.ones(v))
    assert all((column[column > 0] == column.max()).all() for column in graph.sum(0).T)


def test_a_graph_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="twice"):
        edges_between(COCO, [5, 5])
    with pytest.raises(ValueError, match="17 of coco17"):
        edges_between(COCO, [17])
    with pytest.raises(ValueError, match="max_hop"):
        graph_of_edges([(0, 1)], 2, -1)


# ---------------------------------------------------------------- published numbers


@pytest.mark.parametrize(
    ("kind", "skeleton", "options", "parameters", "entries"),
    [
        (GaitGraph1, COCO, {}, 319_530, 316), (GaitGraph1, COCO, {"num_class": 256}, 352_426, 316),
        (GaitGraph1, ALPHA, {"num_class": 256}, 353_406, 316), (GaitGraph2, COCO, {}, 350_822, 329),
        (GaitGraph2, COCO, DEEP, 763_178, 630), (GaitGraph2, ALPHA, DEEP, 765_278, 630),
    ],
)  # fmt: skip
def test_counts(kind: type, skeleton: object, options: dict, parameters: int, entries: int) -> None:
    net = kind(skeleton=skeleton, **options)
    assert sum(p.numel() for p in net.parameters()) == parameters and len(net.state_dict()) == entries


def test_names_and_shapes_of_the_weights() -> None:
    state = {key: tuple(value.shape) for key, value in GaitGraph2(skeleton=COCO).state_dict().items()}
    for key, shape in {
        "ResGCN.head.0.A": (4, 17, 17), "ResGCN.head.2.bn.weight": (5,), "ResGCN.head.0.layers.0.edge": (4, 17, 17),
        "ResGCN.head.0.layers.0.scn.conv.gcn.weight": (192, 5, 1, 1), "ResGCN.head.0.layers.0.scn.bn.bias": (64,),
        "ResGCN.head.0.layers.0.tcn.conv.weight": (64, 64, 9, 1), "ResGCN.head.0.layers.1.scn.conv_down.bias": (4,),
        "ResGCN.head.0.layers.1.scn.residual.0.weight": (32, 64, 1, 1), "ResGCN.backbone.0.tcn.bn_up.weight": (128,),
        "ResGCN.backbone.0.tcn.residual.1.running_var": (128,), "ResGCN.backbone.1.tcn.conv.weight": (32, 32, 9, 1),
        "ResGCN.backbone.1.tcn.conv_up.weight": (256, 32, 1, 1), "ResGCN.fcn.weight": (128, 256),
    }.items():  # fmt: skip
        assert state[key] == shape
    assert "ResGCN.head.0.layers.1.tcn.residual.0.weight" not in state


# The rows named strong were measured on the public models, 37 frames as well: an odd number before every stride.
VECTORS = [
    ("base", GaitGraph1, {}, (2, 60), 128, -0.3655352931, 1.4142135624, (0.12273157, 0.10058422, 0.05589033)),
    ("strong", GaitGraph1, {}, (2, 60), 128, -0.9173392000, 1.4093330101, (-0.03168534, -0.08333154, -0.11673822)),
    ("strong", GaitGraph1, {}, (2, 37), 128, -0.9483658498, 1.4092614361, (-0.02129031, -0.07514927, -0.11255963)),
    ("base", GaitGraph2, {"tta": False}, (2, 60), 128, -3.2431492645, 5.7390034693, (0.24374934, 0.03240951)),
    ("base", GaitGraph2, {}, (2, 60), 384, -9.7294476888, 9.9402456501, (0.24374934, 0.03240951, -0.18461693)),
    ("base", GaitGraph2, {"tta": False} | DEEP, (2, 60), 128, 0.8754020890, 0.7549803878, (-0.01228176, 0.02568347)),
    ("strong", GaitGraph2, {}, (2, 60), 384, -406893.1819, 334880.2105, (1545.1672, -5530.1527, -11395.024)),
    ("strong", GaitGraph2, {}, (2, 37), 384, -387768.5594, 318207.8267, (1465.0288, -5527.857, -11310.797)),
]


@pytest.mark.parametrize(("rule", "kind", "options", "size", "width", "total", "norm", "first"), VECTORS)
def test_vectors(
    rule: str, kind: type, options: dict, size: tuple, width: int, total: float, norm: float, first: tuple
) -> None:
    net = fill(kind(skeleton=COCO, **options), rule)
    n, t = size
    if kind is GaitGraph1:
        pose = wave((n, 3, t, 17), rule).permute(0, 2, 3, 1)
    else:
        pose = wave((n, t, 17, 15), rule)
    out = embed(net, pose)
    # the original's own encoding of the turned sequences is in single precision: 1e-8 of the largest value
    tolerance = {"rel": 2e-7 if kind is GaitGraph2 and rule == "strong" else 1e-9, "abs": 2e-8}
    assert out.shape == (n, width, 1)
    assert out.sum().item() == pytest.approx(total, **tolerance)
    assert out.norm().item() == pytest.approx(norm, **tolerance)
    assert out.flatten()[: len(first)].tolist() == pytest.approx(first, rel=1e-6, abs=2e-8)


@pytest.mark.parametrize(("kind", "options"), [(GaitGraph1, {"tta": False}), (GaitGraph2, {"tta": False})])
def test_frame_order_joint_order_and_edges_matter(kind: type, options: dict) -> None:
    """The base rows hardly see these: under the strong weights each moves the embedding by a percent and more."""
    net = lively(kind(skeleton=COCO, **options).float())
    pose = walking(2, 24, channels=net.takes[1])
    assert moved(net, pose, pose.flip(1)) > 0.01
    assert moved(net, pose, pose[:, torch.randperm(24)]) > 0.01
    assert moved(net, pose, pose[:, :, torch.randperm(17)]) > 0.01
    before = embed(net, pose)
    for block in net.ResGCN.backbone:
        block.edge.data[3] = 50  # the outermost hop stands in the table alone
    torch.testing.assert_close(embed(net, pose), before)
    for block in net.ResGCN.backbone:
        block.edge.data[1:3] = 0
    assert ((embed(net, pose) - before).norm() / before.norm()).item() > 0.01


def test_a_graph_convolution_sums_over_hops_and_joints() -> None:
    conv, graph = SpatialGraphConv(3, 5), torch.rand(4, 17, 17)
    x = torch.randn(2, 3, 4, 17)
    expected = torch.einsum("nkctv,kvw->nctw", conv.gcn(x).view(2, 3, 5, 4, 17), graph[:3])
    torch.testing.assert_close(conv(x, graph), expected)


# ---------------------------------------------------------------- test time


def test_reversal_turns_the_real_frames_round() -> None:
    pose, length = walking(3, 7), [7, 1, 4]
    turned = reverse_time(pose, torch.arange(7) < torch.tensor(length)[:, None])
    for i, t in enumerate(length):
        assert torch.equal(turned[i, :t], pose[i, :t].flip(0)) and torch.equal(turned[i, t:], pose[i, t:])


@pytest.mark.parametrize(("kind", "small"), [(GaitGraph1, SMALL1), (GaitGraph2, SMALL2)])
@pytest.mark.parametrize("tta", [True, False])
@pytest.mark.parametrize("skeleton", [COCO, KINECT], ids=lambda s: s.name)
def test_an_embedding_depends_on_its_own_frames_alone(kind: type, small: dict, tta: bool, skeleton: object) -> None:
    net = lively(kind(skeleton=skeleton, tta=tta, reduction=4, **small)).double()
    pose, length = walking(4, 21, skeleton.num_joints, net.takes[1]).double(), [21, 2, 8, 13]
    mask = torch.arange(21) < torch.tensor(length)[:, None]
    padded = torch.where(mask[..., None, None], pose, 1e3)
    together = net(padded, mask)["embedding"]
    wider = net(F.pad(padded, (0, 0, 0, 0, 0, 6), value=-7.0), F.pad(mask, (0, 6)))["embedding"]
    torch.testing.assert_close(wider, together, atol=1e-10, rtol=1e-10)
    for i, t in enumerate(length):
        torch.testing.assert_close(embed(net, pose[i : i + 1, :t])[0], together[i], atol=1e-10, rtol=1e-10)


def test_gaitgraph1_at_test_time() -> None:
    pose = walking(2, 11)
    one = lively(GaitGraph1(skeleton=COCO, tta=False, reduction=4, **SMALL1))
    both = lively(GaitGraph1(skeleton=COCO, tta=True, reduction=4, **SMALL1))
    plain, turned = embed(one, pose), embed(one, pose.flip(1))
    torch.testing.assert_close(plain.norm(dim=1), torch.ones(2, 1))
    torch.testing.assert_close(embed(both, pose), (plain + turned) / 2)
    assert both(pose, everywhere(pose))["views"].shape == (2, 1, 12)


@pytest.mark.parametrize("name", sorted(SKELETONS))
@pytest.mark.parametrize("corrected", [False, True])
def test_gaitgraph2_turns_round_what_the_transform_reads(name: str, corrected: bool) -> None:
    """Encoding the reversed and the swapped sequence anew gives what the transform gives for them."""
    skeleton = get_skeleton(name)
    transform = (GaitGraphInput if corrected else GaitGraph_MultiInput)(skeleton)
    net = lively(GaitGraph2(skeleton=skeleton, corrected=corrected, reduction=4, **SMALL2))
    plain = lively(GaitGraph2(skeleton=skeleton, tta=False, reduction=4, **SMALL2))
    pose, mask = walking(3, 9, skeleton.num_joints, skeleton.dims + 1), torch.arange(9) < torch.tensor([[9], [2], [6]])
    read = transform(pose, mask)
    real = mask[..., None, None]
    torch.testing.assert_close(net.encode(read, mask) * real, read * real)
    turned = transform(reverse_time(pose, mask), mask)
    swapped = transform(pose[:, :, skeleton.mirror], mask)
    expected = torch.cat([plain(x, mask)["embedding"] for x in (read, turned, swapped)], 1)
    torch.testing.assert_close(net(read, mask)["embedding"], expected, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("name", sorted(SKELETONS))
@pytest.mark.parametrize(("kind", "small"), [(GaitGraph1, SMALL1), (GaitGraph2, SMALL2)])
def test_a_gradient_to_every_parameter(name: str, kind: type, small: dict) -> None:
    skeleton = get_skeleton(name)
    net = lively(kind(skeleton=skeleton, reduction=4, **small)).train()
    pose = walking(4, 16, skeleton.num_joints, net.takes[1])
    out = net(pose, everywhere(pose))
    assert out["feature"].shape == out["embedding"].shape == (4, 12, 1)
    if kind is GaitGraph1:
        assert out["views"].shape == (4, 2, 12)
        torch.testing.assert_close(out["views"].norm(dim=2), torch.ones(4, 2))
    (out["feature"] * torch.randn(4, 12, 1)).sum().backward()
    dead = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [key for key in dead if not key.endswith(("conv.bias", "conv_down.bias", "conv_up.bias", "gcn.bias"))]
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_the_two_views_are_the_halves_of_time() -> None:
    net = lively(GaitGraph1(skeleton=COCO, tta=False, reduction=4, **SMALL1))
    pose = walking(3, 14)
    halves = net(torch.cat([pose[:, :7], pose[:, 7:]]), everywhere(torch.cat([pose[:, :7], pose[:, 7:]])))["views"]
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.testing.assert_close(net(pose, everywhere(pose))["views"], torch.cat([halves[:3], halves[3:]], 1))
    with pytest.raises(ValueError, match="two views.*13"):
        net(pose[:, :13], everywhere(pose[:, :13]))


@pytest.mark.parametrize("kind", [GaitGraph1, GaitGraph2])
def test_it_starts_as_specified_and_learns(kind: type) -> None:
    net = kind(skeleton=COCO, reduction=4, **(SMALL1 if kind is GaitGraph1 else SMALL2)).train()
    assert all((p == 0).all() for key, p in net.named_parameters() if key.endswith("bn_up.weight"))
    assert net.ResGCN.fcn.weight.std() < 0.002
    people, labels = walking(4, 32, channels=net.takes[1]), torch.arange(4).repeat_interleave(2)
    solver = torch.optim.Adam(net.parameters(), lr=0.01)
    values = []
    for step in range(12):
        torch.manual_seed(step)
        pose = people.repeat_interleave(2, 0) + 0.1 * torch.randn(8, 32, 17, net.takes[1])
        out = net(pose, everywhere(pose))
        loss = (
            SupConLoss_Re()(out["views"], labels)[0]
            if kind is GaitGraph1
            else SupConLoss_Lp(temperature=0.1)(out["feature"], labels)[0]
        )
        solver.zero_grad()
        loss.backward()
        solver.step()
        values.append(loss.item())
    assert sum(values[-3:]) < 0.6 * sum(values[:3])


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (GaitGraph1, {"block": "Basic"}, "block must be Bottleneck"), (GaitGraph1, {"reduction": 7}, "reduction 7"),
        (GaitGraph1, {"input_num": 3}, "input_num must be 1"), (GaitGraph2, {"input_num": 1}, "input_num must be 3"),
        (GaitGraph1, {"input_branch": (5, 64, 32)}, "start with 3"), (GaitGraph2, {"main_stream": (96,)}, "two widths"),
    ],
)  # fmt: skip
def test_settings_it_refuses(kind: type, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(skeleton=COCO, **options)


def test_inputs_it_refuses() -> None:
    net = GaitGraph2(skeleton=COCO, reduction=4, **SMALL2)
    assert net.takes == (17, 15) and GaitGraph2(skeleton=KINECT, reduction=4, **SMALL2).takes == (20, 21)
    with pytest.raises(ValueError, match=r"\(n, t, 17, 15 or more\).*\(1, 4, 17, 3\)"):
        net(walking(1, 4), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(n, t, 17.*18"):
        net(walking(1, 4, 18, 15), torch.ones(1, 4, dtype=torch.bool))


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("skeleton", [COCO, KINECT], ids=lambda s: s.name)
def test_the_activation_is_the_strongest_answer_of_each_joint(skeleton: object) -> None:
    net = lively(GaitGraph2(skeleton=skeleton, reduction=4, **SMALL2))
    pose, mask = walking(2, 11, skeleton.num_joints, net.takes[1]), torch.arange(11) < torch.tensor([[11], [6]])
    value = net.activation(pose, mask)
    assert value.shape == (2, 11, skeleton.num_joints) and not value[1, 6:].any()
    torch.testing.assert_close(value.amax((1, 2)), torch.ones(2))
    torch.testing.assert_close(net.activation(pose[1:, :6], mask[1:, :6])[0], value[1, :6])
    with torch.no_grad():
        last = net.ResGCN.last_map(net.streams(pose[1:, :6]), mask[1:, :6]).x[0]  # (24, 2, v): 6 frames by 4
    answer = torch.stack([(row[:, None, None] * last).sum(0).clamp(min=0) for row in net.ResGCN.fcn.weight])
    answer = (answer / answer.max()).amax(0)  # (2, v)
    torch.testing.assert_close(value[1, :6], torch.stack([answer[t // 4] for t in range(6)]).detach())


def test_the_picture(tmp_path: Path) -> None:
    for skeleton in (COCO, KINECT):
        pose = walking(1, 30, skeleton.num_joints, skeleton.dims + 1)[0].numpy()
        pose[4, 3, -1] = 0.01  # a lost joint
        value = torch.rand(30, skeleton.num_joints).numpy()
        draw_activation(pose, value, tmp_path / "a.png", skeleton=skeleton, frames=[4, 9], title=skeleton.name)
        assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert spread_frames(30, 4) == [0, 10, 19, 29] and spread_frames(2, 8) == [0, 1]
    with pytest.raises(ValueError, match=r"frames \[30\]"):
        draw_activation(pose, value, tmp_path / "b.png", skeleton=KINECT, frames=[30])
    with pytest.raises(ValueError, match="kinectgait20"):
        draw_activation(pose, value[:, :17], tmp_path / "b.png", skeleton=KINECT)
