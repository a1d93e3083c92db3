"""TLCA and its pretraining: shapes, gradients, padding, counts, masks, freezing, hand-over, plain torch's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bodynets import COCO, SMALL, lengths, make, naive
from conftest import walking
from torch import Tensor, nn

from bpmt_ext.draws import Draws
from bpmt_ext.engine.checkpoint import load_stage
from bpmt_ext.errors import UserError
from bpmt_ext.nets.embedders import EMBEDDERS
from bpmt_ext.nets.tlca import TLCA
from bpmt_ext.nets.tlca_masked import TLCA_T1, draw_joints
from bpmt_ext.registry import get_method
from bpmt_ext.skeletons import SKELETONS, get_skeleton

PENN = get_skeleton("penn13")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *(("TLCA", {"embedder": kind}) for kind in EMBEDDERS),
    ("TLCA", {"fusion": "ffn", "head": "mlp", "t2_dropout": 0.2, "position_start": "normal"}),
    ("TLCA", {"head": "part", "pool": "mean_max", "streams": ["joint", "bone", "velocity", "confidence"]}),
    ("TLCA", {"streams": ["line"], "standardise": "none", "position_start": "zero", "pool": "max"}),
    *(("TLCA_T1", {"embedder": kind}) for kind in EMBEDDERS),
    ("TLCA_T1", {"mask": "frame", "decoder": "mlp", "streams": ["bone"], "standardise": "part"}),
    ("TLCA_T1", {"mask": "none", "decoder": "residual", "streams": ["joint", "line"], "skip_unseen": False}),
]


def total(out: dict[str, Any]) -> Tensor:
    values = out["losses"].values() if "losses" in out else (out[key] for key in ("feature", "embedding", "logits"))
    return sum((value * (i + 1)).square().sum() for i, value in enumerate(values))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_shapes_finite_and_a_gradient_to_every_parameter(name: str, options: dict[str, Any]) -> None:
    net = make(name, options).train()
    pose, mask = walking(4, 12), lengths(12, 5, 12, 1, frames=12)
    net.fit(pose, mask)
    out = net(pose, mask, torch.arange(4))
    if name == "TLCA_T1":
        assert [(key, value.shape) for key, value in out["losses"].items()] == [("body", ())]
        assert net.embed(pose, mask).shape == (4, 34, 1)
    else:
        assert out["embedding"].shape == out["feature"].shape == (4, 128 if options.get("head") == "part" else 34, 1)
        assert out["logits"].shape == (4, 7, 1)
    loss = total(out)
    assert torch.isfinite(loss)
    loss.backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("skeleton", sorted(SKELETONS))
def test_any_skeleton(skeleton: str) -> None:
    table = get_skeleton(skeleton)
    pose, mask = walking(2, 9, table.num_joints, table.dims + 1), lengths(9, 4, frames=9)
    for kind in EMBEDDERS:
        for name in ("TLCA_T1", "TLCA"):
            net = make(name, {"embedder": kind, "width": 2 * table.num_joints, "layers": 1}, skeleton=skeleton)
            net.fit(pose, mask)
            assert net.takes == (table.num_joints, table.dims)
            assert torch.isfinite(total(net(pose, mask, torch.arange(2))))


@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if v[0] == "TLCA"])
@pytest.mark.parametrize("frames", [7, 31])  # one window, and more than one
def test_an_embedding_depends_on_its_own_frames_alone(name: str, options: dict[str, Any], frames: int) -> None:
    net = make(name, options).eval()
    pose, mask = walking(3, 40), lengths(frames, 40, 3, frames=40)
    net.fit(pose, mask)
    alone, together = net(pose[:1, :frames], mask[:1, :frames]), net(pose, mask)
    more = net(torch.cat([pose, torch.full((3, 25, 17, 3), 1e3)], 1), nn.functional.pad(mask, (0, 25)))
    swapped = net(pose.flip(0), mask.flip(0))
    for key in ("embedding", "logits"):
        torch.testing.assert_close(together[key][:1], alone[key], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(more[key], together[key], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(swapped[key].flip(0), together[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if v[0] == "TLCA_T1"])
def test_a_pretraining_loss_ignores_padding(name: str, options: dict[str, Any]) -> None:
    net = make(name, options).eval()
    pose, key, mask = walking(3, 9), torch.arange(3), lengths(9, 7, 3, frames=9)
    net.fit(pose, mask)
    plain = net(pose, mask, key)["losses"]["body"]
    rubbish = torch.where(mask[..., None, None], pose, 50.0)
    wider = torch.cat([rubbish, torch.full((3, 3, 17, 3), 50.0)], 1)
    torch.testing.assert_close(net(wider, nn.functional.pad(mask, (0, 3)), key)["losses"]["body"], plain)


def test_parameter_counts_of_penn_action() -> None:
    """tlca.md section 1: d 256, 8 heads, 4 layers; T1 with its decoder, T2, fusion, head."""
    sizes = {"width": 256, "heads": 8, "layers": 4, "feedforward": 2048, "position_start": "zero"}
    found = {}
    for kind, rows in (("linear", 1000), ("conv", 2048), ("joints", 2048)):
        options = {**sizes, "embedder": kind, "max_frames": rows}
        with torch.device("meta"):
            t1, net = TLCA_T1(skeleton=PENN, **options), TLCA(skeleton=PENN, num_class=15, **options)
        found[kind] = (count(t1), count(net.t2), count(net.fuse), count(net.head))
        assert count(net) == sum(found[kind]) - count(t1.decoder)  # dropped after the pretraining
    assert found["linear"] == (5_529_882, 5_260_288, 263_680, 3_855) and sum(found["linear"]) == 11_057_705
    assert sum(found["conv"]) == 11_326_013 and sum(found["joints"]) == 12_642_347


@pytest.mark.parametrize(("embedder", "options"), [
    *((kind, {}) for kind in EMBEDDERS),
    ("linear", {"fusion": "ffn", "head": "mlp"}),
])  # fmt: skip
def test_a_padded_batch_equals_torchs_own_layers_on_each_sequence(embedder: str, options: dict[str, Any]) -> None:
    net = make("TLCA", {"embedder": embedder, "standardise": "none", **options}).eval()
    for parameter in net.parameters():  # biases and scales too
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    pose, real = walking(3, 8), (8, 5, 1)
    with torch.no_grad():
        out = net(pose, lengths(*real, frames=8))
        for i, frames in enumerate(real):
            pooled, logits = naive(net, pose[i, :frames, :, :2])
            torch.testing.assert_close(out["embedding"][i, :, 0], pooled, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(out["logits"][i, :, 0], logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["joint", "frame"])
@pytest.mark.parametrize("ratio", [0.15, 0.29, 0.3, 0.9])
def test_exactly_the_stated_share_is_masked_and_never_what_is_not_real(mode: str, ratio: float) -> None:
    length, seen = torch.tensor([30, 11, 1, 24, 2]), torch.rand(5, 30, 17) > 0.2
    seen[4] = False
    seen[4, 1, 3] = True  # one joint of one frame is all there is
    real = (torch.arange(30) < length[:, None])[..., None] & seen
    hidden = draw_joints(real, Draws(torch.arange(5)), mode=mode, ratio=ratio)
    share = [round(1000 * ratio) * int(r) // 1000 for r in
             (real.sum((1, 2)) if mode == "joint" else real.any(2).sum(1))]  # fmt: skip
    wanted = [max(1, units) for units in share]
    if mode == "joint":
        assert not (hidden & ~real).any() and hidden.sum((1, 2)).tolist() == wanted
    else:  # whole frames, each with something real in it
        assert torch.equal(hidden.any(2), hidden.all(2)) and not (hidden.any(2) & ~real.any(2)).any()
        assert hidden.any(2).sum(1).tolist() == wanted
    later = draw_joints(nn.functional.pad(real, (0, 0, 0, 9))[1:], Draws(torch.arange(1, 5)), mode=mode, ratio=ratio)
    assert torch.equal(later[:, :30], hidden[1:]), "other sequences and padding change nothing"
    assert not draw_joints(real, Draws(torch.arange(5)), mode="none", ratio=ratio).any()
    first = [draw_joints(real[:1], Draws(torch.tensor([k])), mode=mode, ratio=0.3)[0] for k in range(200)]
    often = torch.stack(first).float().mean(0)[real[0] if mode == "joint" else real[0].any(1)]
    assert 0.05 < often.min() and often.max() < 0.55, "every unit is as likely as any other"


@pytest.mark.parametrize("mask", ["joint", "frame"])
def test_what_is_masked_does_not_reach_the_prediction_and_only_it_is_scored(mask: str) -> None:
    streams = ["joint", "bone", "velocity"]
    net = make("TLCA_T1", {"mask": mask, "streams": streams, "mask_ratio": 0.5}).eval()
    pose, real, key = walking(3, 10), lengths(10, 6, 10, frames=10), torch.arange(3)
    pose[0, :4, 3, 2] = 0.0  # a joint that was not seen
    net.fit(pose, real)
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        calls.append((given[0], out))

    net.t1.embedding.register_forward_hook(keep)
    net.decoder.register_forward_hook(keep)
    loss = net(pose, real, key)["losses"]["body"]
    target, (shown, _), (_, guess) = net.t1.streams(pose, real), *calls
    place = Draws(Draws(key).split("body").bits(1)[:, 0]).bits(1)[:, 0]
    joints = real[..., None] & (pose[..., 2] > 0)
    hidden = draw_joints(joints, Draws(place).split("masking"), mode=mask, ratio=0.5)
    assert not shown[hidden].any() and torch.equal(shown[..., :2][~hidden], target[..., :2][~hidden])
    error = (guess - target).detach()
    terms = [float((error[i, t, v] ** 2).mean()) for i, t, v in (hidden & joints).nonzero().tolist()]
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    other = torch.where(hidden[..., None], pose + torch.randn_like(pose), pose)
    other[..., 2] = pose[..., 2]
    net(other, real, key)
    torch.testing.assert_close(calls[3][1], guess, atol=1e-5, rtol=1e-5)


def test_no_masking_reconstructs_every_real_joint() -> None:
    net = make("TLCA_T1", {"mask": "none", "standardise": "none"}).eval()
    pose, real = walking(2, 6), lengths(6, 3, frames=6)
    guess = net.decoder(net.t1(pose, real))
    want = (guess - pose[..., :2]).square()[real].mean()
    torch.testing.assert_close(net(pose, real, torch.arange(2))["losses"]["body"], want)


@pytest.mark.parametrize("kind", ["linear", "mlp", "residual"])
def test_decoders(kind: str) -> None:
    decoder, x = make("TLCA_T1", {"decoder": kind}).decoder, torch.randn(1, 2, 3, 34)
    parts = {"linear": ("linear",), "mlp": ("mlp",), "residual": ("linear", "mlp")}[kind]
    assert {name.split(".")[0] for name, _ in decoder.named_parameters()} == set(parts)
    torch.testing.assert_close(decoder(x), sum(getattr(decoder, part)(x[0]) for part in parts).view(2, 3, 17, 2))
    assert count(decoder) == ("linear" in parts) * (34 * 34 + 34) + ("mlp" in parts) * 2 * (34 * 34 + 34)


@pytest.mark.parametrize("how", ["yes", "last_layer", "no"])
def test_freezing(how: str) -> None:
    """`yes` leaves T1 bit-identical after ten steps and in eval mode, `last_layer` changes that layer only."""
    net = make("TLCA", {"freeze_t1": how, "embedder": "joints"}).train()
    pose, mask = walking(4, 8), lengths(8, 8, 5, 8, frames=8)
    net.fit(pose, mask)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        total(net(pose, mask)).backward()
        optimizer.step()
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    learned = {key for key, _ in net.named_parameters()}
    t1 = {key for key in learned if key.startswith("t1.")}
    last = {key for key in t1 if key.startswith("t1.encoder.layers.1.")}
    assert changed == (learned - t1) | {"yes": set(), "last_layer": last, "no": t1}[how]
    modes = [net.t1.embedding.training, net.t1.encoder.layers[0].training, net.t1.encoder.layers[1].training]
    assert modes == [how == "no", how == "no", how != "yes"] and net.t2.training
    assert not any(module.training for module in net.eval().modules())


def test_stage_one_hands_over_by_name() -> None:
    prefixes = get_method("TLCA").stages["t1"]
    t1, net = make("TLCA_T1", {"embedder": "joints"}), make("TLCA", {"embedder": "joints"})
    pose, mask = walking(2, 8), lengths(8, 5, frames=8)
    t1.fit(pose, mask)
    fresh = {key: value.clone() for key, value in net.state_dict().items()}
    load_stage(net, t1.state_dict(), Path("t1.pt"), prefixes=prefixes, optional=())
    torch.testing.assert_close(net.eval().t1(pose, mask), t1.eval().t1(pose, mask))
    assert bool(net.t1.streams.fitted)
    same = {key for key, value in net.state_dict().items() if torch.equal(value, fresh[key])}
    assert {key for key in fresh if not key.startswith("t1.")} <= same, "T2, fusion and head stay fresh"
    with pytest.raises(UserError, match=r"t1\.embedding\.back"):
        load_stage(make("TLCA", {}), t1.state_dict(), Path("t1.pt"), prefixes=prefixes, optional=())


def test_pad_mask_off_differs_with_padding_only_and_then_as_the_published_runs() -> None:
    on, off = (make("TLCA", {"standardise": "none", "pad_mask": how}).eval() for how in (True, False))
    off.load_state_dict(on.state_dict())
    pose, mask = walking(2, 10), lengths(10, 6, frames=10)
    whole = torch.ones_like(mask)
    torch.testing.assert_close(off(pose, whole)["logits"], on(pose, whole)["logits"])
    seen, zeros = off(pose, mask)["logits"], pose * mask[..., None, None]
    torch.testing.assert_close(seen, on(zeros, whole)["logits"])  # padding is zeros, attended to and averaged
    assert (seen[1] - on(pose, mask)["logits"][1]).abs().max() > 1e-3
    t1 = make("TLCA_T1", {"standardise": "none", "pad_mask": False}).eval()
    key = torch.arange(2)
    torch.testing.assert_close(t1(pose, mask, key)["losses"], t1(zeros, whole, key)["losses"])
    t1 = make("TLCA_T1", {"standardise": "none", "pad_mask": False, "mask": "none"}).eval()
    error = t1.decoder(t1.t1(zeros, whole)) - zeros[..., :2]  # padding is reconstructed and scored
    torch.testing.assert_close(t1(pose, mask)["losses"]["body"], error.square().mean())


def test_two_bodies_share_the_weights_and_their_outputs_are_averaged() -> None:
    one, two = make("TLCA", {"head": "mlp"}).eval(), make("TLCA", {"head": "mlp", "bodies": 2}).eval()
    assert count(one) == count(two) and two.takes == (34, 2)
    two.load_state_dict(one.state_dict())
    both, mask = walking(3, 20, joints=34), lengths(20, 5, 13, frames=20)  # windows too
    first, second = one(both[:, :, :17], mask), one(both[:, :, 17:], mask)
    for key, value in two(both, mask).items():
        torch.testing.assert_close(value, (first[key] + second[key]) / 2)
    t1 = make("TLCA_T1", {"bodies": 2})
    t1.fit(both, mask)
    assert torch.isfinite(t1(both, mask, torch.arange(3))["losses"]["body"])
    assert t1.embed(both, mask).shape == (3, 34, 1)
    with pytest.raises(ValueError, match=r"joints of 2 bodies, c\), got \(3, 20, 17, 3\)"):
        t1(both[:, :, :17], mask)


def test_where_the_positions_start() -> None:
    tables = {how: make("TLCA", {"position_start": how, "max_frames": 300}).t1.positions for how in ("zero", "normal")}
    assert {table.shape for table in tables.values()} == {(1, 300, 34)} and not tables["zero"].any()
    assert 0.019 < tables["normal"].std() < 0.021 and tables["normal"].mean().abs() < 0.001


def test_bad_input_is_named() -> None:
    net = make("TLCA", {})
    with pytest.raises(ValueError, match=r"17.*coco17.*\(1, 4, 18, 3\)"):
        net(torch.zeros(1, 4, 18, 3), torch.ones(1, 4, dtype=torch.bool))
    wrong = {"pool": "sum", "head": "x", "freeze_t1": "maybe", "fusion": "none", "embedder": "tree", "width": 35,
             "position_start": "one", "pad_mask": "off", "bodies": 0, "streams": ("bone", "line")}  # fmt: skip
    for key, value in wrong.items():
        with pytest.raises(ValueError, match=f"{key[:5]}.*{value if not isinstance(value, tuple) else 'line'}"):
            TLCA(skeleton=COCO, **{**SMALL, key: value})
    for key, value in {"mask": "half", "mask_ratio": 1.0, "decoder": "cnn"}.items():
        with pytest.raises(ValueError, match=f"{key}.*{value}"):
            TLCA_T1(skeleton=COCO, **{**SMALL, key: value})
    with pytest.raises(ValueError, match="17 joints share the width 64; make it a multiple, as 68"):
        TLCA(skeleton=COCO, **{**SMALL, "width": 64, "embedder": "graph"})
    with pytest.raises(ValueError, match="ntu25 has 3 axes"):
        TLCA(skeleton=get_skeleton("ntu25"), **{**SMALL, "streams": ("line",)})
