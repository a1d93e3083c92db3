"""IIP-Transformer as T1, T2, TLCA's T1 and network of actions: loops, shapes, masks, cost, order, stages, learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bodynets import lengths, stirred
from conftest import walking
from torch import Tensor, nn
from torch.nn import functional as F

from bpmt_ext.draws import Draws
from bpmt_ext.engine.checkpoint import load_stage
from bpmt_ext.errors import UserError
from bpmt_ext.nets import iip
from bpmt_ext.nets.grouped import GroupedEncoder
from bpmt_ext.nets.iip import IIPA, FullEncoder, IIPEncoder, JointEncoder, t2_encoder
from bpmt_ext.registry import build_network, get_method
from bpmt_ext.skeletons import SKELETONS, get_skeleton

SMALL = {"width": 16, "heads": 2, "layers": 2, "feedforward": 20, "max_frames": 12}
KINDS = ("iip_part", "iip_joint", "iip_full")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *(("BPMT_T1", {"t1_encoder": kind, "mask": mask}) for kind in KINDS for mask in ("block", "joint")),
    ("BPMT_T1", {"t1_encoder": "iip_joint", "share_t1": True, "mask": "frame", "mask_value": "zero", "t1_fc": 2}),
    ("BPMT_T2", {"t1_encoder": "iip_joint", "t2_encoder": "iip_pair", "freeze_t1": "no"}),
    ("BPMT_T2", {"t2_encoder": "iip_pair", "share_t2": True, "t2_positions": "none", "freeze_t1": "no"}),
    *(("BPMT", {"t1_encoder": kind, "t2_encoder": "iip_pair"}) for kind in KINDS),
    ("BPMT", {"t1_encoder": "iip_part", "t1_fc": 1, "share_t1": True, "pool": "mean_max_cls"}),
    ("BPMT", {"t1_encoder": "iip_full", "t2_encoder": "iip_pair", "pool": "mean_cls", "share_t2": True}),
    ("BPMTAction", {"t1_encoder": "iip_joint", "t2_encoder": "iip_pair", "streams": ["joint", "bone_velocity"],
                    "pool": "max_cls"}),
    *(("TLCA_T1", {"t1_encoder": kind}) for kind in KINDS),
    *(("TLCA", {"t1_encoder": kind, "t1_fc": int(kind == "iip_full")}) for kind in KINDS),
    ("TLCA", {"t1_encoder": "iip_joint", "t2_encoder": "iip_part", "pool": "mean_cls"}),
    ("TLCA", {"t2_encoder": "iip_part", "pool": "mean_max_cls", "fusion": "ffn"}),
    ("IIPTransformer", {"part_mask": 0.7}),
    ("IIPTransformer", {"streams": ["bone", "bone_velocity"], "standardise": "part", "feature_width": 10}),
]


def make(name: str, options: dict[str, Any], *, skeleton: str = "coco17") -> nn.Module:
    return build_network(name, {**SMALL, **options}, skeleton=get_skeleton(skeleton), classes=7)


def total(out: dict[str, Any]) -> Tensor:
    values = out["losses"].values() if "losses" in out else (out[key] for key in ("feature", "embedding", "logits"))
    return sum((value * (i + 1)).square().sum() for i, value in enumerate(values))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def loops(net: IIPA, z: Tensor, mask: Tensor, there: Tensor) -> Tensor:
    """z (g, n, 1 + p t, d) token by token and head by head, as iip_transformer.md section 4 writes it."""
    g, n, _, d = z.shape
    p, t, h = there.shape[1], mask.shape[1], net.heads
    e, out = d // h, torch.zeros_like(z)
    for i in range(g):
        q, k, v = (z[i] @ net.project.weight[i] + net.project.bias[i]).split(d, -1)
        own = v @ net.intra.weight[i] + net.intra.bias[i]
        for b in range(n):
            everyone = [(a, s) for a in range(p) for s in range(t) if mask[b, s] and there[i, a]]
            for asked in [None, *((a, s) for a in range(p) for s in range(t))]:
                near = everyone
                if asked is not None and net.between == "parts":  # a padded frame may run
                    near = [(a, asked[1]) for a in range(p) if there[i, a]]
                elif asked is not None:  # an idle joint too
                    near = [(asked[0], s) for s in range(t) if mask[b, s]]
                rows = [0, *(1 + a * t + s for a, s in near)]
                row = 0 if asked is None else 1 + asked[0] * t + asked[1]
                for head in range(h):
                    at = slice(head * e, (head + 1) * e)
                    weight = torch.stack([q[b, row, at] @ k[b, r, at] for r in rows]) / e**0.5
                    said = sum(w * v[b, r, at] for w, r in zip(weight.softmax(0), rows, strict=True))
                    out[i, b, row, at] = said if asked is None else said + own[b, row, at]
    return out


@pytest.mark.parametrize("between", ["parts", "frames"])
@pytest.mark.parametrize("most", [65_535, 4])  # rows of one call of the attention kernel
def test_attention_equals_loops(between: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iip, "MOST_ROWS", most)
    net = stirred(IIPA(groups=2, width=6, heads=2, between=between, dropout=0.3))
    z, mask = torch.randn(2, 3, 1 + 3 * 4, 6).double(), lengths(4, 1, 3, frames=4)
    there = torch.tensor([[True, True, True], [True, True, False]])
    assert (net(z, mask, there) - loops(net, z, mask, there)).abs().max() < 1e-10
    whole = torch.ones_like(there)
    assert (net(z, mask, None) - loops(net, z, mask, whole)).abs().max() < 1e-10


def encoded(net: IIPEncoder, x: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Tokens and class tokens."""
    told: list[Tensor] = []
    return net.encode(x, mask, told), told


def test_a_class_token_alone_is_the_same_class_token() -> None:
    sizes = {"groups": 1, "tokens": (3,), "join": False, "width": 6, "heads": 2, "layers": 2, "feedforward": 8,
             "dropout": 0.0, "attention_dropout": 0.0}  # fmt: skip
    both, alone = stirred(FullEncoder(**sizes)), FullEncoder(only_class=True, **sizes).double()
    assert sorted(alone.load_state_dict(both.state_dict(), strict=False).unexpected_keys) == [
        "layers.1.attention.1.intra.bias", "layers.1.attention.1.intra.weight"]  # fmt: skip
    x, mask = torch.randn(1, 2, 3, 5, 6).double(), lengths(5, 2, frames=5)
    (whole,), (token,) = (encoded(net, x, mask)[1] for net in (both, alone))
    assert (whole - token).abs().max() < 1e-12


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], int]]:
    """The shapes (rows, heads, queries, keys) of every attention map from now on."""
    shapes: list[tuple[int, ...]] = []
    real = F.scaled_dot_product_attention

    def watch(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        shapes.append((*q.shape[:-1], k.shape[-2]))
        return real(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watch)
    return shapes


def test_shapes_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """iip_transformer.md section 4: 2 clips, 32 frames, 5 parts, width 256, 8 heads."""
    net = FullEncoder(groups=1, tokens=(5,), join=False, width=256, heads=8, layers=1, feedforward=256, dropout=0.0,
                      attention_dropout=0.0)  # fmt: skip
    shapes, given = watched(monkeypatch), []
    net.layers[0].register_forward_pre_hook(lambda _, args: given.append(args[0].shape))
    out, (told,) = encoded(net, torch.randn(1, 2, 5, 32, 256), torch.ones(2, 32, dtype=torch.bool))
    assert given == [(1, 2, 161, 256)] and out.shape == (1, 2, 5, 32, 256) and told.shape == (1, 2, 256)
    assert shapes == [(2, 8, 1, 161), (2 * 32, 8, 5, 6), (2, 8, 1, 161), (2 * 5, 8, 32, 33)]


def test_a_pair_costs_what_the_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of queries and keys: 2 T * 3 + 2 T (T + 1) and a class token's rows, in place of (2 T)^2."""
    shapes, t = watched(monkeypatch), 30
    for kind, wanted in (("plain", (2 * t) ** 2), ("iip_pair", t * 2 * 3 + 2 * t * (t + 1) + 2 * (1 + 2 * t))):
        shapes.clear()
        net = t2_encoder(kind, groups=10, width=16, heads=2, layers=1, feedforward=16, dropout=0.0,
                         attention_dropout=0.0)  # fmt: skip
        assert net(torch.randn(10, 3, 2 * t, 16), torch.ones(3, 2 * t, dtype=torch.bool)).shape == (10, 3, 2 * t, 16)
        assert sum(rows * queries * keys for rows, _, queries, keys in shapes) == 10 * 3 * wanted


def test_frames_and_parts_have_no_order_but_what_positions_say() -> None:
    net = stirred(JointEncoder(groups=2, tokens=(3, 3), width=6, heads=2, layers=2, feedforward=8, dropout=0.1,
                               attention_dropout=0.1))  # fmt: skip
    x, mask = torch.randn(2, 3, 3, 7, 6).double(), lengths(7, 4, 1, frames=7)
    out, (told,) = encoded(net, x, mask)
    frames, parts = torch.randperm(7), torch.tensor([2, 0, 1])
    other, (still,) = encoded(net, x[:, :, :, frames], mask[:, frames])
    assert (other - out[:, :, :, frames]).abs().max() < 1e-10 and (still - told).abs().max() < 1e-10
    other, (still,) = encoded(net, x[:, :, parts], mask)
    assert (other - out[:, :, parts]).abs().max() < 1e-10 and (still - told).abs().max() < 1e-10
    moved, _ = encoded(net, x.index_fill(3, torch.tensor([0]), 0.0), mask)
    assert (moved - out)[:, 0, :, 1:].abs().amax(-1).min() > 1e-6, "frames do reach each other"


def test_with_all_other_frames_masked_a_token_attends_to_itself_and_the_class_token() -> None:
    net = stirred(IIPA(groups=1, width=6, heads=1, between="frames", dropout=0.0))
    z = torch.randn(1, 1, 1 + 5, 6).double()
    q, k, v = net.project(z)[0, 0].split(6, -1)
    weight = torch.stack([q[3] @ k[0], q[3] @ k[3]]).div(6**0.5).softmax(0)
    want = weight[0] * v[0] + weight[1] * v[3] + v[3] @ net.intra.weight[0] + net.intra.bias[0, 0]
    mask = torch.tensor([[False, False, True, False, False]])
    assert (net(z, mask, None)[0, 0, 3] - want).abs().max() < 1e-10


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_shapes_finite_and_a_gradient_to_every_parameter(name: str, options: dict[str, Any]) -> None:
    net = make(name, options).train()
    pose, mask = walking(4, 12), lengths(12, 5, 12, 1, frames=12)
    net.fit(pose, mask)
    out = net(pose, mask, torch.arange(4))
    if "losses" in out:
        assert len(out["losses"]) == {"BPMT_T1": 5, "BPMT_T2": 10, "TLCA_T1": 1}[name]
    else:
        assert out["logits"].shape == (4, 7, 5 if name == "BPMT" else 1)
    loss = total(out)
    assert torch.isfinite(loss)
    loss.backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("skeleton", sorted(SKELETONS))
def test_any_skeleton(skeleton: str) -> None:
    table = get_skeleton(skeleton)
    pose, mask = walking(2, 9, table.num_joints, table.dims + 1), lengths(9, 4, frames=9)
    for name, options in [("BPMT_T1", {"t1_encoder": "iip_joint"}), ("IIPTransformer", {}),
                          ("BPMT", {"t1_encoder": "iip_part", "t2_encoder": "iip_pair"})]:  # fmt: skip
        net = make(name, options, skeleton=skeleton)
        net.fit(pose, mask)
        assert torch.isfinite(total(net(pose, mask, torch.arange(2))))


@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if not v[0].endswith(("_T1", "_T2"))])
@pytest.mark.parametrize("frames", [7, 31])  # one window, and more than one
def test_an_embedding_depends_on_its_own_frames_alone(name: str, options: dict[str, Any], frames: int) -> None:
    net = make(name, options).double().eval()
    pose, mask = walking(3, 40).double(), lengths(frames, 40, 3, frames=40)
    net.fit(pose, mask)
    with torch.no_grad():
        alone, together = net(pose[:1, :frames], mask[:1, :frames]), net(pose, mask)
        rubbish = torch.where(mask[..., None, None], pose, 1e3)
        more = net(torch.cat([rubbish, torch.full((3, 25, 17, 3), 1e3)], 1), F.pad(mask, (0, 25)))
    for key in ("embedding", "logits"):
        assert (together[key][:1] - alone[key]).abs().max() < 1e-10
        assert (more[key] - together[key]).abs().max() < 1e-10


@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if v[0].endswith(("_T1", "_T2"))])
def test_a_pretraining_loss_ignores_padding_and_what_is_hidden(name: str, options: dict[str, Any]) -> None:
    net = make(name, options).double().eval()
    pose, key, mask = walking(3, 12).double(), torch.arange(3), lengths(12, 7, 3, frames=12)
    net.fit(pose, mask)
    plain = net(pose, mask, key)["losses"]
    for part, value in net(torch.where(mask[..., None, None], pose, 50.0), mask, key)["losses"].items():
        assert (value - plain[part]).abs() < 1e-10
    if name == "TLCA_T1":
        return
    windows = Draws(Draws(key).bits(1)[:, 0].contiguous()).keys
    hidden = net.masking.draw(mask, windows)
    gone = hidden[:, :, net.t1.slots.joint.argsort()][..., None]  # COCO has one slot per joint

    def features(x: Tensor) -> Tensor:
        return net.t1.encode(net.masking.embed(net.t1, net.t1.streams(x, mask), hidden, mask), mask)

    changed = features(torch.where(gone, pose + torch.randn_like(pose), pose)) - features(pose)
    assert hidden.any() and changed.abs().max() < 1e-10
    assert not features(pose)[:, ~mask].any() or options.get("t1_fc") or "t1_encoder" not in options


@pytest.mark.parametrize("kind", KINDS)
def test_stages_hand_over_by_name(kind: str) -> None:
    pose, mask = walking(2, 8), lengths(8, 5, frames=8)
    same = {"t1_encoder": kind, "t1_fc": 1}
    for chain in (["BPMT_T1", "BPMT_T2", "BPMT"], ["TLCA_T1", "TLCA"]):
        nets = [make(name, {**same, **({"t2_encoder": "iip_pair"} if name in ("BPMT_T2", "BPMT") else {})})
                for name in chain]  # fmt: skip
        nets[0].fit(pose, mask)
        for name, stage, before, net in zip(chain[1:], ("t1", "t2"), nets[:-1], nets[1:], strict=False):
            method = get_method(name)
            load_stage(net, before.state_dict(), Path("a.pt"), prefixes=method.stages[stage], optional=method.optional)
            own, theirs = net.eval().state_dict(), before.eval().state_dict()
            keys = {key for key in own if key.startswith(method.stages[stage])}
            assert len(keys) > 10 and all(torch.equal(own[key], theirs[key]) for key in keys)
            torch.testing.assert_close(net.t1(pose, mask), before.t1(pose, mask))
    plain = make("BPMT_T2", {})
    with pytest.raises(UserError, match=r"t1\.e"):
        load_stage(plain, make("BPMT_T1", same).state_dict(), Path("a.pt"), prefixes=("t1.",), optional=())


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_losses_fall(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    net = make(name, {**options, "dropout": 0.0, "layers": 1}).train()
    pose, mask, label = walking(14, 8), lengths(*[8, 6] * 7, frames=8), torch.arange(14) % 7
    net.fit(pose, mask)
    solver, seen = torch.optim.Adam(net.parameters(), 0.005), []
    for _ in range(12):
        out = net(pose, mask, torch.arange(14))
        loss = (torch.stack(list(out["losses"].values())).mean() if "losses" in out
                else F.cross_entropy(4 * out["logits"].mean(2), label))  # fmt: skip
        solver.zero_grad()
        loss.backward()
        solver.step()
        seen.append(loss.item())
    assert max(seen) < 100 and seen[-1] < (0.97 if "losses" in out else 0.8) * seen[0], seen


def test_freezing_the_last_layer() -> None:
    options = {"t1_encoder": "iip_joint", "t2_encoder": "iip_pair", "freeze_t1": "last_layer", "freeze_t2": "yes"}
    net = make("BPMT", options).train()
    trains = {name for name, p in net.named_parameters() if p.requires_grad and name.startswith(("t1.", "t2."))}
    assert trains == {name for name, _ in net.named_parameters() if name.startswith("t1.encoder.layers.1.")} != set()
    assert [layer.training for layer in net.t1.encoder.layers] == [False, True] and not net.t2.training


def test_class_tokens_join_the_pooled_features() -> None:
    """T1's of the part itself, T2's the mean of the part's four pairs', after the mean over its frames."""
    options = {"t1_encoder": "iip_part", "t2_encoder": "iip_pair", "pool": "mean_cls", "head": "concat"}
    net = make("BPMT", options).eval()
    pose, mask = walking(2, 9), lengths(9, 4, frames=9)
    own, pairs = [], []
    features = net.t1(pose, mask, own)
    net.t2(features, mask, pairs)
    out = net(pose, mask)["embedding"].view(2, 5, 3, 16)
    want = torch.stack([
        sum(pairs[0][i] for i, pair in enumerate(net.t2.pairs) if part in pair) / 4 for part in range(5)
    ])  # fmt: skip
    torch.testing.assert_close(out[:, :, 1], own[0].transpose(0, 1))
    torch.testing.assert_close(out[:, :, 2], want.transpose(0, 1))
    body = make("TLCA", {"t1_encoder": "iip_full", "t2_encoder": "iip_part", "pool": "max_cls"}).eval()
    first, second = [], []
    body.t2(body.t1(pose, mask, first), mask, second)
    out = body(pose, mask)["embedding"].view(2, 3, 16)
    torch.testing.assert_close(out[:, 1:], torch.cat([*first, *second]).transpose(0, 1))
    for name in ("BPMT", "TLCA"):
        with pytest.raises(UserError, match="mean_cls"):
            make(name, {"pool": "mean_cls"})


def test_plain_stays_as_it_was() -> None:
    net = make("BPMT", {})
    assert type(net.t1.encoder) is type(net.t2.encoder) is type(make("TLCA", {}).t1.encoder) is GroupedEncoder
    assert not [key for key in net.state_dict() if ".fc." in key and key.startswith("t")]
    three = make("BPMT", {"t1_fc": 3})
    assert count(three) - count(net) == 3 * 5 * (16 * 16 + 16)
    pose, mask = walking(2, 6), torch.ones(2, 6, dtype=torch.bool)
    three.load_state_dict(net.state_dict(), strict=False)
    x = net.eval().t1(pose, mask)
    for i, layer in enumerate(three.t1.fc[::2]):
        x = torch.stack([(x[p].relu() if i else x[p]) @ layer.weight[p] + layer.bias[p] for p in range(5)])
    torch.testing.assert_close(three.eval().t1(pose, mask), x)


def test_bad_input_is_named() -> None:
    for name, options in [("BPMT", {"t1_encoder": "iip_pair"}), ("BPMT", {"t2_encoder": "iip_part"}),
                          ("TLCA", {"t2_encoder": "iip_pair"}),
                          ("TLCA", {"t1_encoder": "iip"}), ("BPMT_T1", {"t1_fc": -1}), ("BPMT_T2", {"t1_encoder": "x"}),
                          ("IIPTransformer", {"part_mask": 2}), ("IIPTransformer", {"bodies": 0}),
                          ("IIPTransformer", {"width": 15}), ("IIPTransformer", {"streams": ["speed"]})]:  # fmt: skip
        with pytest.raises(UserError, match=str(next(iter(options.values()))).strip("[]'")):
            make(name, options)
    with pytest.raises(UserError, match="leave embedder"):
        make("TLCA", {"t1_encoder": "iip_full", "embedder": "conv"})
    with pytest.raises(ValueError, match="not a multiple"):
        IIPEncoder(groups=1, width=7, heads=2, layers=1, feedforward=4, dropout=0.0, attention_dropout=0.0)
