"""Every network of the registry: shapes, finite numbers, gradients, padding and batch invariance, exact counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import walking
from torch import Tensor, nn

from bpmt_ext.draws import Draws
from bpmt_ext.nets.bpmt import BPMT
from bpmt_ext.nets.grouped import BodyLayer, Dropout, GroupedCrossAttention, GroupedEncoder
from bpmt_ext.nets.layers import Slots, Streams, cut_patches, cut_windows, pool_windows
from bpmt_ext.nets.masked import BPMT_T1
from bpmt_ext.nets.masking import draw_hidden
from bpmt_ext.nets.pairs import PairEncoder, part_order
from bpmt_ext.registry import METHODS, build_network
from bpmt_ext.skeletons import SKELETONS, get_skeleton

COCO = get_skeleton("coco17")
SMALL = {"width": 16, "heads": 2, "layers": 2, "max_frames": 12}
VARIANTS = [
    ("BPMT_T1", {}),
    ("BPMT_T1", {"mask": "joint", "mask_ratio": 0.9, "decoder": "mlp", "share_t1": True}),
    ("BPMT_T1", {"mask": "frame", "mask_value": "zero", "streams": ["joint", "bone", "velocity", "confidence"]}),
    ("BPMT_T1", {"mask": "none", "confidence_weight": True, "standardise": "part"}),
    ("BPMT_T1", {"patch": 3, "mask_block": 4}),
    ("BPMT_T1", {"patch": 5, "mask": "joint", "streams": ["joint", "velocity"], "confidence_weight": True}),
    ("BPMT_T1", {"patch": 3, "dual": 0.5, "norm_first": True}),
    ("BPMT_T2", {"freeze_t1": "no"}),
    ("BPMT_T2", {"freeze_t1": "no", "t2_encoder": "body", "patch": 3, "mask": "frame", "norm_first": True}),
    ("BPMT_T2", {"freeze_t1": "no", "patch": 2, "share_t2": True}),
    ("BPMT_T2", {"freeze_t1": "no", "share_t2": True, "share_cross": True, "t2_positions": "none", "mask": "joint"}),
    ("BPMT", {}),
    ("BPMT", {"t2_encoder": "body", "patch": 3, "norm_first": True, "whole_body": True, "streams": ["joint", "bone"]}),
    ("BPMT", {"t2_encoder": "body", "share_t2": True, "pool": "max", "head": "concat", "tta": True}),
    ("BPMT", {"patch": 5, "pool": "mean_max"}),
    ("BPMT", {"pool": "max", "head": "concat", "t2_positions": "none", "standardise": "none"}),
    ("BPMT", {"pool": "mean_max", "share_t1": True, "share_t2": True, "share_cross": True, "classifier": "linear"}),
    ("BPMT", {"streams": ["joint", "bone", "velocity", "confidence"], "attention_dropout": 0.0}),
]


def make(name: str, options: dict, *, classes: int = 7, skeleton: str = "coco17") -> nn.Module:
    return build_network(name, {**SMALL, **options}, skeleton=get_skeleton(skeleton), classes=classes)


def total(out: dict) -> Tensor:
    values = out["losses"].values() if "losses" in out else (out[k] for k in ("feature", "embedding", "logits"))
    return sum((value * (i + 1)).square().sum() for i, value in enumerate(values))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_every_network_is_tried() -> None:
    files = set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__)}
    tests = "".join(path.read_text("utf-8") for path in files)
    for name in set(METHODS) - {name for name, _ in VARIANTS}:
        module, network = METHODS[name].target.split(":")
        assert re.search(rf"from {re.escape(module)} import [^\n]*\b{network}\b", tests), f"no test imports {network}"


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_shapes_finite_and_a_gradient_to_every_parameter(name: str, options: dict) -> None:
    net = make(name, options).train()
    pose, mask = walking(4, 12), torch.ones(4, 12, dtype=torch.bool)
    mask[1, 5:] = False
    net.fit(pose, mask)
    out = net(pose, mask, torch.arange(4))
    if "losses" in out:
        extra = options.get("dual", 0) > 0
        assert len(out["losses"]) == extra + (5 if name == "BPMT_T1" or options.get("t2_encoder") == "body" else 10)
        assert all(value.shape == () for value in out["losses"].values())
    else:
        columns = 5 + options.get("whole_body", False)
        shape = (4, 5 * SMALL["width"], 1) if options.get("head") == "concat" else (4, 128, columns)
        assert out["embedding"].shape == out["feature"].shape == shape
        assert out["logits"].shape == (4, 7, shape[2])
    loss = total(out)
    assert torch.isfinite(loss)
    loss.backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all(n.startswith("teacher.") for n in dead)  # an average of the others


@pytest.mark.parametrize("skeleton", sorted(SKELETONS))
def test_any_skeleton(skeleton: str) -> None:
    table = get_skeleton(skeleton)
    pose = walking(2, 9, table.num_joints, table.dims + 1)
    mask = torch.ones(2, 9, dtype=torch.bool)
    for name in dict(VARIANTS):
        net = make(name, {}, skeleton=skeleton)
        net.fit(pose, mask)
        assert torch.isfinite(total(net(pose, mask, torch.arange(2))))


@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if v[0] == "BPMT"])
@pytest.mark.parametrize("frames", [7, 31])  # one window, and more than one
def test_an_embedding_depends_on_its_own_frames_alone(name: str, options: dict, frames: int) -> None:
    """Padding, what stands in it, and batch mates change nothing (1e-5)."""
    net = make(name, options).eval()
    pose = walking(3, 40)
    mask = torch.arange(40) < torch.tensor([[frames], [40], [3]])
    net.fit(pose, mask)
    alone = net(pose[:1, :frames], mask[:1, :frames])
    together = net(pose, mask)
    more = net(torch.cat([pose, torch.full((3, 25, 17, 3), 1e3)], 1), nn.functional.pad(mask, (0, 25)))
    swapped = net(pose.flip(0), mask.flip(0))
    for key in ("embedding", "logits"):
        torch.testing.assert_close(together[key][:1], alone[key], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(more[key], together[key], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(swapped[key].flip(0), together[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if v[0] != "BPMT"])
def test_a_pretraining_loss_ignores_padding(name: str, options: dict) -> None:
    net = make(name, options).eval()
    pose, key = walking(3, 12), torch.arange(3)
    mask = torch.arange(12) < torch.tensor([[12], [7], [3]])
    net.fit(pose, mask)
    plain = net(pose, mask, key)["losses"]
    other = torch.where(mask[..., None, None], pose, torch.tensor(50.0))
    for name_, value in net(other, mask, key)["losses"].items():
        torch.testing.assert_close(value, plain[name_], atol=1e-5, rtol=1e-5)
    drawn = draw_hidden(mask, torch.arange(5), Draws(key), mode="block", ratio=0.5, block=3)
    wider = draw_hidden(nn.functional.pad(mask, (0, 9)), torch.arange(5), Draws(key), mode="block", ratio=0.5, block=3)
    assert torch.equal(wider[:, :12], drawn)


def test_parameter_counts_of_the_thesis() -> None:
    """bpmt.md sections 2-4, d 64, 4 heads, 2 layers, feed-forward 2048, 500 positions."""
    sizes = {"width": 64, "heads": 4, "layers": 2, "feedforward": 2048, "max_frames": 500}
    t1 = build_network("BPMT_T1", {**sizes, "mask_value": "zero"}, skeleton=COCO, classes=0)
    assert count(t1.t1.encoder) == 5 * 562_304
    assert count(t1) == 2_976_226 == 596_690 + 4 * 594_884
    stage2 = {**sizes, "mask_value": "zero", "t2_positions": "none"}
    t2 = build_network("BPMT_T2", stage2, skeleton=COCO, classes=0)
    assert count(t2.t2.encoder) + count(t2.decoder) == 5_631_880 == 4 * 563_734 + 6 * 562_824
    assert count(t2.t2.cross) == 10 * 16_768
    full = build_network("BPMT", {**sizes, "t2_positions": "none", "head": "concat"}, skeleton=COCO, classes=27)
    assert count(full.head) == 8_667
    assert count(full) == 8_857_243
    pose, mask = walking(2, 6), torch.ones(2, 6, dtype=torch.bool)
    features = full.t1(pose, mask)
    pairs = full.t2(features, mask)
    assert features.shape == (5, 2, 6, 64) and pairs.shape == (10, 2, 2, 6, 64)
    assert full(pose, mask)["embedding"].shape == (2, 320, 1)


def test_grouped_encoder_equals_separate_torch_encoders() -> None:
    """One encoder with a group axis = one torch.nn.TransformerEncoder per group, weights copied over."""
    net = GroupedEncoder(groups=3, width=16, heads=4, layers=2, feedforward=24, dropout=0.0, attention_dropout=0.0)
    x = torch.randn(3, 5, 9, 16)
    mask = torch.arange(9) < torch.tensor([9, 4, 7, 1, 9])[:, None]
    out = net(x, mask)
    for g in range(3):
        plain = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
        reference = nn.TransformerEncoder(plain, 2, enable_nested_tensor=False)
        for layer, mine in zip(reference.layers, net.layers, strict=True):
            state = {
                "self_attn.in_proj_weight": mine.attention.in_weight[g].T,
                "self_attn.in_proj_bias": mine.attention.in_bias[g, 0],
                "self_attn.out_proj.weight": mine.attention.out.weight[g].T,
                "self_attn.out_proj.bias": mine.attention.out.bias[g, 0],
                "linear1.weight": mine.up.weight[g].T,
                "linear1.bias": mine.up.bias[g, 0],
                "linear2.weight": mine.down.weight[g].T,
                "linear2.bias": mine.down.bias[g, 0],
                **{
                    f"{n}.{k}": getattr(getattr(mine, n), k)[g, 0, 0]
                    for n in ("norm1", "norm2")
                    for k in ("weight", "bias")
                },
            }
            layer.load_state_dict(state)
        want = reference(x[g], src_key_padding_mask=~mask)
        torch.testing.assert_close(out[g][mask], want[mask], atol=1e-5, rtol=1e-5)


def test_cross_attention_equals_torch() -> None:
    net = GroupedCrossAttention(groups=1, width=16, heads=4, dropout=0.0)
    query, context = torch.randn(1, 2, 3, 16), torch.randn(1, 2, 5, 16)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    plain = nn.MultiheadAttention(16, 4, batch_first=True)
    plain.load_state_dict({
        "in_proj_weight": net.attention.in_weight[0].T, "in_proj_bias": net.attention.in_bias[0, 0],
        "out_proj.weight": net.attention.out.weight[0].T, "out_proj.bias": net.attention.out.bias[0, 0],
    })  # fmt: skip
    said = plain(query[0], context[0], context[0], key_padding_mask=~mask)[0]
    torch.testing.assert_close(net(query, context, mask)[0], nn.functional.layer_norm(query[0] + said, (16,)))


def test_pairs_are_the_ten_of_the_thesis_in_order_and_reach_their_parts() -> None:
    net = PairEncoder(parts=5, width=8, max_frames=4, share_t2=False, share_cross=False, positions="none",
                      position_start="zero", heads=2,
                      layers=1, feedforward=8, dropout=0.0, attention_dropout=0.0)  # fmt: skip
    assert net.pairs == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    told = torch.tensor([[a, b] for a, b in net.pairs], dtype=torch.float32)  # U_{p|q} says p
    said = part_order(told.view(10, 2, 1, 1, 1).expand(10, 2, 1, 3, 1), pairs=net.pairs)
    assert said.shape == (5, 1, 12, 1)
    assert torch.equal(said[:, 0, :, 0], torch.arange(5.0)[:, None].expand(5, 12))


@pytest.mark.parametrize("mode", ["frame", "joint", "block"])
@pytest.mark.parametrize("ratio", [0.15, 0.5, 0.9])
def test_exactly_the_stated_share_is_masked(mode: str, ratio: float) -> None:
    slots = Slots(COCO.parts)
    unit = slots.part if mode == "joint" else torch.arange(5)
    length = torch.tensor([30, 11, 1, 24])
    mask = torch.arange(30) < length[:, None]
    hidden = draw_hidden(mask, unit, Draws(torch.arange(4)), mode=mode, ratio=ratio, block=4)
    assert not hidden[~mask].any()
    for part in range(5):
        mine = hidden[:, :, unit == part]
        want = (ratio * length * mine.shape[2]).round().clamp(min=1)
        assert torch.equal(mine.sum((1, 2)), want.long())
    if mode == "block":  # runs of four, but for the cut one and the ends
        runs = torch.diff(hidden[0].int(), dim=0).abs().sum(0)
        assert (runs <= 2 * (30 * ratio // 4 + 2)).all()


@pytest.mark.parametrize(("mask", "value"), [(mask, value) for mask in ("frame", "joint", "block")
                                             for value in ("token", "zero")])  # fmt: skip
def test_what_is_masked_does_not_reach_the_prediction(mask: str, value: str) -> None:
    """Changing the masked coordinates changes the target only, with every stream in use."""
    streams = ["joint", "bone", "velocity", "confidence"]
    net = make("BPMT_T1", {"mask": mask, "mask_value": value, "streams": streams, "mask_ratio": 0.5}).eval()
    pose, real, key = walking(2, 12), torch.ones(2, 12, dtype=torch.bool), torch.arange(2)
    net.fit(pose, real)
    slots = net.t1.slots
    hidden = net.masking.draw(real, Draws(key).bits(1)[:, 0])  # (n, t, s)
    gone = hidden[:, :, slots.joint.argsort()]  # (n, t, v): COCO has one slot per joint
    other = torch.where(gone[..., None], pose + torch.randn_like(pose), pose)

    def predict(x: Tensor) -> Tensor:
        return net.decoder(net.features(net.t1.streams(x, real), hidden, real), real.shape[1])

    torch.testing.assert_close(predict(other), predict(pose), atol=1e-5, rtol=1e-5)


def test_stage_one_loss_is_the_masked_mean_square() -> None:
    net = make("BPMT_T1", {}).eval()
    pose, real, key = walking(3, 10), torch.ones(3, 10, dtype=torch.bool), torch.arange(3)
    real[2, 6:] = False
    net.fit(pose, real)
    losses = list(net(pose, real, key)["losses"].values())
    streams = net.t1.streams(pose, real)
    hidden = net.masking.draw(real, Draws(key).bits(1)[:, 0])
    guess = net.decoder(net.features(streams, hidden, real), real.shape[1])
    for part in range(5):
        terms = [
            float((guess[n, t, s, c].detach() - streams[n, t, s, c]) ** 2)
            for n in range(3) for t in range(10) for s in range(17) for c in range(2)
            if net.t1.slots.part[s] == part and hidden[n, t, s]
        ]  # fmt: skip
        assert losses[part].item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)


@pytest.mark.parametrize("how", ["yes", "last_layer", "no"])
def test_freezing(how: str) -> None:
    """`yes` leaves T1 and T2 bit-identical after ten steps and in eval mode, `last_layer` changes that layer only."""
    net = make("BPMT", {"freeze_t1": how, "freeze_t2": how, "dropout": 0.1}).train()
    pose, mask = walking(4, 8), torch.ones(4, 8, dtype=torch.bool)
    net.fit(pose, mask)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        total(net(pose, mask)).backward()
        optimizer.step()
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    stages = {k for k in changed if k.startswith(("t1.", "t2."))}
    last = {k for k in before if k.startswith(("t1.encoder.layers.1.", "t2.encoder.layers.1."))}
    learned = {k for k, p in net.named_parameters() if k.startswith(("t1.", "t2."))}
    assert stages == {"yes": set(), "last_layer": last, "no": learned}[how]
    assert any(k.startswith("fuse.") for k in changed) and any(k.startswith("head.") for k in changed)
    assert net.t1.encoder.layers[0].training is (how == "no")
    assert net.t1.encoder.layers[1].training is (how != "yes")


def test_windows_share_a_sequence_evenly_and_lose_nothing() -> None:
    pose = torch.arange(3 * 50.0).view(3, 50, 1, 1)
    mask = torch.arange(50) < torch.tensor([50, 21, 20])[:, None]
    windows = cut_windows(pose, mask, 20)
    assert windows.owner.tolist() == [0, 0, 0, 1, 1, 2] and windows.mask.sum(1).tolist() == [16, 17, 17, 10, 11, 20]
    seen = [windows.pose[windows.owner == i][windows.mask[windows.owner == i]].flatten() for i in range(3)]
    assert all(torch.equal(s, pose[i][mask[i]].flatten()) for i, s in enumerate(seen))
    x = windows.pose[..., 0][None]
    mean = pool_windows(x, windows, 3, "mean")[0, :, 0]
    torch.testing.assert_close(mean, torch.tensor([49 / 2, 50 + 10.0, 100 + 19 / 2]))
    assert pool_windows(x, windows, 3, "mean_max")[0, :, 1].tolist() == [49, 70, 119]


def test_streams() -> None:
    slots = Slots(COCO.parts)
    streams = Streams(skeleton=COCO, slots=slots, streams=("velocity", "joint", "bone"), standardise="joint")
    pose, mask = walking(6, 20), torch.ones(6, 20, dtype=torch.bool)
    mask[0, 9:] = False
    raw = streams.raw(pose, mask)
    at = slots.joint.tolist().index(9)  # left wrist, its parent is the left elbow
    torch.testing.assert_close(raw[:, :, at, 2:4], pose[:, :, 9, :2] - pose[:, :, 7, :2])
    torch.testing.assert_close(raw[1, 3, at, 4:6], pose[1, 4, 9, :2] - pose[1, 3, 9, :2])
    assert not raw[0, 8:, :, 4:].any() and not raw[:, 19, :, 4:].any()
    streams.fit(pose, mask)
    x = streams(pose, mask)[mask]
    torch.testing.assert_close(x.mean(0), torch.zeros(17, 6), atol=1e-4, rtol=0)
    moving = x.std(0) > 0.5  # a root's bone is constant
    torch.testing.assert_close(x.std(0)[moving], torch.ones(int(moving.sum())), atol=2e-2, rtol=0)


def test_bad_input_is_named() -> None:
    net = make("BPMT", {})
    with pytest.raises(ValueError, match=r"17.*coco17.*\(1, 4, 18, 3\)"):
        net(torch.zeros(1, 4, 18, 3), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must be"):
        net(torch.zeros(1, 4, 17, 3), torch.ones(1, 5, dtype=torch.bool))
    for key, value in {"pool": "sum", "head": "x", "freeze_t1": "maybe", "width": 17, "streams": ("bone",)}.items():
        with pytest.raises(ValueError, match=str(value if key != "streams" else "joint")):
            BPMT(skeleton=COCO, **{**SMALL, key: value})
    for key, value in {"mask": "half", "mask_value": "one", "mask_ratio": 1.0, "decoder": "cnn"}.items():
        with pytest.raises(ValueError, match=str(value)):
            BPMT_T1(skeleton=COCO, **{**SMALL, key: value})


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x, drop = torch.ones(401, 1003), Dropout(0.1)
    found = drop(x)
    kept = found != 0
    assert abs(float((~kept).float().mean()) - 0.1) < 0.002 and abs(float(found.mean()) - 1) < 0.002
    assert found[kept].unique().numel() == 1
    shares = (~kept)[:400, :1000].reshape(400, 250, 4).float().mean((0, 1))  # the four to a draw are alike
    assert (shares - 0.1).abs().max() < 0.005
    x.requires_grad_()
    torch.manual_seed(0)
    drop(x).sum().backward()
    assert torch.equal(x.grad, found)  # the same seed, the same holes, in both directions
    assert torch.equal(drop.eval()(x), x) and torch.equal(Dropout(0.0)(x), x)


def test_two_threads_give_the_same_gradients_every_time() -> None:
    """The same seed gives the same run: no sum over duplicated indices in the order that threads arrive."""
    torch.set_num_threads(2)
    net = make("BPMT", {"dropout": 0.0, "width": 32, "layers": 1, "max_frames": 30}).train()
    pose, mask = walking(64, 30), torch.ones(64, 30, dtype=torch.bool)
    net.fit(pose, mask)
    found = []
    for _ in range(4):
        net.zero_grad()
        total(net(pose, mask)).backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_patches_hold_the_frames_in_order_and_repeat_the_last_real_one() -> None:
    x = torch.arange(2 * 7 * 2 * 1.0).view(2, 7, 2, 1)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    patches, real = cut_patches(x, mask, 3)
    assert patches.shape == (2, 3, 2, 3) and real.tolist() == [[True, True, True], [True, True, False]]
    for n, last in ((0, 6), (1, 3)):
        for token, frames in enumerate(range(0, 9, 3)):
            for k in range(3):
                torch.testing.assert_close(patches[n, token, :, k], x[n, min(frames + k, last), :, 0])
    same, whole = cut_patches(x, mask, 1)
    assert same is x and whole is mask


def test_parts_of_a_frame_ask_each_other_as_torch_does() -> None:
    layer = BodyLayer(groups=5, width=8, heads=2, feedforward=12, dropout=0.0, attention_dropout=0.0, norm_first=True)
    x, mask = torch.randn(5, 2, 4, 8), torch.ones(2, 4, dtype=torch.bool)
    plain = nn.MultiheadAttention(8, 2, batch_first=True)
    plain.load_state_dict({
        "in_proj_weight": layer.between.in_weight[0].T, "in_proj_bias": layer.between.in_bias[0, 0],
        "out_proj.weight": layer.between.out.weight[0].T, "out_proj.bias": layer.between.out.bias[0, 0],
    })  # fmt: skip
    frame = nn.functional.layer_norm(x[:, 1, 2], (8,))[None]  # the parts of one frame
    torch.testing.assert_close(layer.ask_parts(layer.norm0(x))[:, 1, 2], plain(frame, frame, frame)[0][0])
    y = x + layer.ask_parts(layer.norm0(x))
    y = y + layer.attention(layer.norm1(y), mask=mask)
    torch.testing.assert_close(layer(x, mask), y + layer.feed(layer.norm2(y)))


def test_a_test_of_both_sides_does_not_tell_left_from_right() -> None:
    net = make("BPMT", {"t2_encoder": "body", "patch": 2, "tta": True}).eval()
    pose, mask = walking(2, 9), torch.ones(2, 9, dtype=torch.bool)
    net.fit(pose, mask)
    turned = torch.cat([-pose[:, :, list(COCO.mirror), :1], pose[:, :, list(COCO.mirror), 1:]], -1)
    torch.testing.assert_close(net(turned, mask)["embedding"], net(pose, mask)["embedding"], atol=1e-5, rtol=1e-5)
    one = nn.functional.normalize(net.read(pose, mask)["embedding"], dim=1)
    assert (one + nn.functional.normalize(net.read(turned, mask)["embedding"], dim=1) - net(pose, mask)["embedding"]
            ).abs().max() < 1e-5  # fmt: skip
    assert not torch.equal(net.train()(pose, mask)["embedding"], one)
