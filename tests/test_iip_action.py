"""IIP-Transformer for actions, its tokens, input streams and Part-Mask: counts, masks, statistics, bodies, windows."""

from __future__ import annotations

import pytest
import torch
from bodynets import COCO, lengths, make, stirred
from conftest import walking
from torch import nn
from torch.nn import functional as F

from bpmt_ext.data.actions import PartMask
from bpmt_ext.draws import Draws
from bpmt_ext.nets.iip_action import IIPTransformer
from bpmt_ext.nets.iip_tokens import PartitionEncoding
from bpmt_ext.nets.layers import Slots, Streams
from bpmt_ext.skeletons import get_skeleton, of_bodies

NTU = get_skeleton("ntu25")


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_a_hidden_joint_is_its_token_and_no_other_is() -> None:
    slots = Slots(COCO.parts)
    net = PartitionEncoding(slots=slots, channels=2, width=8, shared=False, joints=True)
    x, hidden = torch.randn(3, 6, 17, 2), torch.rand(3, 6, 17) > 0.6
    before = net(x)
    for instead in (torch.randn(17, 8), torch.randn(5, 8)):  # of a joint; of a part, whose frame is hidden
        after = net.hide(before, hidden, instead).view(5, 3, 9, 6, 8)
        for s, (part, place) in enumerate(zip(slots.part.tolist(), slots.place.tolist(), strict=True)):
            want = torch.where(hidden[:, :, s, None], instead[s if len(instead) == 17 else part],
                               before.view(5, 3, 9, 6, 8)[part, :, place])  # fmt: skip
            assert torch.equal(after[part, :, place], want)


@pytest.mark.parametrize("shared", [True, False])
def test_a_part_is_one_token_of_its_own_joints(shared: bool) -> None:
    """Against the equations joint by joint; parts do not mix, missing joints are zeros."""
    slots = Slots(COCO.parts)
    net = stirred(PartitionEncoding(slots=slots, channels=3, width=8, features=4, shared=shared))
    x = torch.randn(2, 5, 17, 3).double()
    out = net(x)
    assert out.shape == (5, 2, 5, 8)
    for p in range(5):
        g, row = 0 if shared else p, net.bias[0 if shared else p, 0]
        for s in (slots.part == p).nonzero().flatten().tolist():
            y = x[:, :, s]
            for linear, norm in zip(net.maps, net.norms, strict=True):
                y = F.layer_norm(y @ linear.weight[g] + linear.bias[g, 0], (4,))
                y = (y * norm.weight[g, 0, 0] + norm.bias[g, 0, 0]).relu()
            row = row + y @ net.weight[slots.place[s] if shared else s]
        assert (out[p] - row.relu()).abs().max() < 1e-10


def test_the_published_number_of_parameters() -> None:
    """2.9 M; widths are not published: 64 features, width 256, 8 heads, 4 layers, feed-forward as wide."""
    found = count(IIPTransformer(skeleton=NTU, num_class=60, bodies=2))
    layer = 2 * (3 * (256 * 256 + 256) + 256 * 256 + 256) + 2 * (256 * 256 + 256) + 3 * 2 * 256
    tokens = 3 * 64 + 64 * 64 + 4 * 64 + 9 * 64 * 256 + 256  # torso and arms' roots: 9 joints
    unread = 256 * 256 + 256  # the last layer's own map of part tokens, which the class token does not see
    assert found == 4 * layer - unread + tokens + (5 + 32 + 1) * 256 + 60 * 256 + 60 == 2_815_228 - unread
    assert abs((found + unread) / 2.9e6 - 1) < 0.03


def test_part_mask_zeroes_one_part_of_some_bodies() -> None:
    net = make("IIPTransformer", {"part_mask": 0.4, "dropout": 0.0, "bodies": 2})
    key = torch.arange(3000)
    kept = net.draw_kept(key)
    lost = (~kept).sum(1)
    assert lost.max() == 1 and abs(lost.float().mean() - 0.4) < 0.03
    assert ((~kept).float().mean(0) - 0.08).abs().max() < 0.02, "any part"
    assert torch.equal(net.draw_kept(key[7:9]), kept[7:9])
    pose, mask = walking(2, 6), torch.ones(2, 6, dtype=torch.bool)
    embedding = net.eval().embedding
    x, keep = pose[..., :2], torch.tensor([[True] * 5, [True, True, False, True, True]])
    gone, whole = embedding(x, mask, keep), embedding(x, mask)
    bias = embedding.bias[0, 0].relu()
    assert torch.equal(gone[2, 1], bias.expand_as(gone[2, 1])) and torch.equal(gone[:, 0], whole[:, 0])
    assert torch.equal(gone[[0, 1, 3, 4]], whole[[0, 1, 3, 4]])


def test_batch_statistics_are_those_of_real_frames() -> None:
    """In training too: padding, and what stands in it, changes neither output nor running statistics."""
    net = make("IIPTransformer", {"part_mask": 0.0, "dropout": 0.0}).double()
    pose, mask, whole = walking(3, 9).double(), lengths(9, 4, 6, frames=9), lengths(9, 4, 6, frames=12)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    first = net.train()(pose, mask, torch.arange(3))["logits"]
    seen = {key: value for key, value in net.state_dict().items() if "running" in key}
    seen = {key: value.clone() for key, value in seen.items()}
    net.load_state_dict(state)
    wild = torch.cat([torch.where(mask[..., None, None], pose, 99.0), torch.full((3, 3, 17, 3), -7.0)], 1)
    assert (net(wild, whole, torch.arange(3))["logits"] - first).abs().max() < 1e-10
    assert len(seen) == 4 and all((net.state_dict()[key] - value).abs().max() < 1e-10 for key, value in seen.items())
    rows = net.embedding.maps[0](pose[..., :2][mask].flatten(0, 1)[None])[0]
    assert (seen["embedding.norms.0.running_mean"] - 0.1 * rows.mean(0)).abs().max() < 1e-10


def test_class_tokens_of_bodies_and_windows_are_averaged() -> None:
    one, two = make("IIPTransformer", {}).eval(), make("IIPTransformer", {"bodies": 2}).eval()
    assert count(one) == count(two) and two.takes == (34, 2)
    two.load_state_dict(one.state_dict())
    both, mask = walking(3, 20, joints=34), lengths(20, 5, 13, frames=20)  # windows too
    first, second = one(both[:, :, :17], mask), one(both[:, :, 17:], mask)
    for key, value in two(both, mask).items():
        torch.testing.assert_close(value, (first[key] + second[key]) / 2)
    halves = [one(both[:1, a:b, :17], mask[:1, a:b])["embedding"] for a, b in ((0, 10), (10, 20))]
    torch.testing.assert_close(first["embedding"][:1], sum(halves) / 2)


def test_bone_velocity_is_the_change_of_the_bone() -> None:
    names = ("joint", "bone", "velocity", "confidence", "bone_velocity")
    streams = Streams(skeleton=COCO, slots=Slots(COCO.parts), streams=names, standardise="none")
    pose, mask = walking(3, 8), lengths(8, 5, 1, frames=8)
    raw = streams.raw(pose, mask)
    assert raw.shape[-1] == streams.channels == 9
    bone, moved = raw[..., 2:4], raw[..., 7:]
    torch.testing.assert_close(moved[0, :7], bone[0, 1:] - bone[0, :-1])
    assert not moved[0, 7:].any() and not moved[1, 4:].any() and not moved[2].any()
    hidden = torch.zeros(1, 8, 17, dtype=torch.bool)
    slot = streams.slots.joint.tolist()
    elbow, wrist = slot.index(7), slot.index(9)
    hidden[0, 4, elbow] = True
    told = streams.visible(hidden)[0, :, :, 7]
    assert (~told).nonzero().tolist() == sorted([t, s] for t in (3, 4) for s in (elbow, wrist))


def test_the_part_mask_transform() -> None:
    both = of_bodies(NTU, 2)
    pose, mask = walking(2000, 3, 50, 3) + 9, torch.ones(2000, 3, dtype=torch.bool)
    out = PartMask(0.3, both)(pose, mask, Draws(torch.arange(2000)))
    gone = (out == 0).all(-1)
    assert torch.equal(gone, (out == 0).any(-1)) and torch.equal(gone, gone[:, :1].expand_as(gone))
    assert torch.equal(out[~gone], pose[~gone])
    parts = torch.stack([gone[:, 0, list(part)].all(1) for part in both.parts], 1).view(2000, 2, 5)
    assert gone[:, 0].sum(1).equal(sum(len(p) * parts.flatten(1)[:, i] for i, p in enumerate(both.parts)))
    assert parts.sum(2).max() == 1 and abs(parts.any(2).float().mean() - 0.3) < 0.03
    assert (parts.float().mean((0, 1)) - 0.06).abs().max() < 0.02
    assert abs((parts[:, 0].any(1) & parts[:, 1].any(1)).float().mean() - 0.09) < 0.03, "each body for itself"


def test_a_sequence_of_several_windows_loses_one_part() -> None:
    net, given = make("IIPTransformer", {"part_mask": 1.0}).train(), []
    net.embedding.register_forward_pre_hook(lambda _, args: given.append(args[2]))
    key, mask = torch.arange(4), lengths(30, 9, 25, 12, frames=30)
    net(walking(4, 30), mask, key)
    whole = net.draw_kept(Draws(key).split("body").bits(1).flatten())
    assert torch.equal(given[0], whole[[0, 0, 0, 1, 2, 2, 2, 3]]) and len(whole.unique(dim=0)) > 1
    net.eval()(walking(4, 30), mask, key)
    assert given[1] is None, "not in a test"
