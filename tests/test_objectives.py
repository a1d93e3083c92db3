"""Flow-Attention, the teacher's targets, contrast, real or fake: formulas, masks, learning."""

from __future__ import annotations

import copy
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from bodynets import COCO, lengths, stirred
from conftest import walking
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bpmt_ext.draws import Draws
from bpmt_ext.engine.checkpoint import load_stage
from bpmt_ext.errors import UserError
from bpmt_ext.nets.grouped import GroupedEncoder, flow_attention
from bpmt_ext.nets.objectives import Contrast, RealOrFake, Teacher, noisy, pooled_columns
from bpmt_ext.registry import build_network, get_method

SMALL = {"width": 16, "heads": 2, "layers": 2, "feedforward": 20, "max_frames": 12, "dropout": 0.0}
PAIRS = list(combinations(range(5), 2))
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("BPMT_T1", {"attention": "flow"}),
    ("BPMT_T1", {"t1_encoder": "iip_joint", "mask": "frame", "dual": 0.5}),
    ("BPMT_T1", {"t1_encoder": "iip_full", "share_t1": True, "dual": 0.5, "streams": ["joint", "velocity"]}),
    ("BPMT_T1", {"dual": 1.0, "mask": "none"}),
    ("BPMT_T1", {"dual": 0.5, "mask": "joint", "t1_fc": 1}),
    ("BPMT_T2", {"attention": "flow", "freeze_t1": "no", "contrast": 0.3}),
    ("BPMT_T2", {"fake": 0.1, "freeze_t1": "no", "mask": "joint"}),
    ("BPMT_T2", {"fake": 0.1, "contrast": 0.1, "freeze_t1": "no", "t2_encoder": "iip_pair", "share_t2": True}),
    ("BPMT_T2", {"fake": 0.1, "contrast": 0.1, "freeze_t1": "no", "t2_encoder": "body", "norm_first": True}),
]


def make(name: str, options: dict[str, Any]) -> nn.Module:
    return build_network(name, {**SMALL, **options}, skeleton=COCO, classes=4)


def clips() -> tuple[Tensor, Tensor, Tensor]:
    return walking(8, 12), lengths(12, 5, 12, 7, 9, 12, 3, 12, frames=12), torch.arange(8)


# ---------------------------------------------------------------- Flow-Attention


def test_flow_attention_equals_its_formula() -> None:
    q, k, v = (torch.randn(2, 3, 6, 4).double() for _ in range(3))
    mask = lengths(6, 4, frames=6)
    out = flow_attention(q, k, v, mask)
    assert not out[1, :, 4:].any()
    for b, n in ((0, 6), (1, 4)):
        for h in range(3):
            fq, fk = q[b, h, :n].sigmoid(), k[b, h, :n].sigmoid()
            into = [sum(fq[i] @ fk[j] for j in range(n)) for i in range(n)]
            out_of = [sum(fk[j] @ fq[i] for i in range(n)) for j in range(n)]
            source = torch.stack([sum(fk[j] @ fq[i] / into[i] for i in range(n)) for j in range(n)]).softmax(0)
            for i in range(n):
                sink = sum(fq[i] @ fk[j] / out_of[j] for j in range(n))
                said = sum(fq[i] @ fk[j] / into[i] * n * source[j] * v[b, h, j] for j in range(n))
                assert (out[b, h, i] - sink.sigmoid() * said).abs().max() < 1e-12
    assert (flow_attention(q, k, v) - flow_attention(q, k, v, torch.ones_like(mask))).abs().max() < 1e-12
    wide = [F.pad(x, (0, 0, 0, 3), value=7.0) for x in (q, k, v)]
    assert (flow_attention(*wide, F.pad(mask, (0, 3)))[:, :, :6] - out).abs().max() < 1e-12


def test_flow_attention_is_linear_in_length() -> None:
    def products(kernel: str, t: int) -> int:
        sizes = {"layers": 1, "feedforward": 16, "dropout": 0.0, "attention_dropout": 0.0}
        net = GroupedEncoder(groups=2, width=16, heads=2, attention=kernel, **sizes)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # whose products are counted
            net(torch.randn(2, 3, t, 16), torch.ones(3, t, dtype=torch.bool))
        return counter.get_total_flops()

    assert products("flow", 240) == 4 * products("flow", 60)
    assert products("sdpa", 240) > 6 * products("sdpa", 60)


@pytest.mark.parametrize("name", ["BPMT", "BPMTAction"])
def test_an_embedding_of_a_flow_network_depends_on_its_own_frames_alone(name: str) -> None:
    net = make(name, {"attention": "flow"}).double().eval()
    pose, mask = walking(3, 40).double(), lengths(31, 40, 3, frames=40)
    net.fit(pose, mask)
    alone, together = net(pose[:1, :31], mask[:1, :31]), net(pose, mask)
    more = net(torch.cat([pose, torch.full((3, 9, 17, 3), 1e3)], 1), F.pad(mask, (0, 9)))
    for key in ("embedding", "logits"):
        assert (together[key][:1] - alone[key]).abs().max() < 1e-10
        assert (more[key] - together[key]).abs().max() < 1e-10


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize("fused", [False, True])  # one kernel leaves version counters as they were
def test_the_teacher_is_the_moving_average_of_its_student(fused: bool) -> None:
    student = make("BPMT_T1", {}).t1
    teacher, mean = Teacher(student, momentum=0.75).train(), [w.detach().clone() for w in student.parameters()]
    assert not teacher.net.training and not any(w.requires_grad for w in teacher.parameters())
    teacher.follow(student)
    assert all(torch.equal(a, b) for a, b in zip(teacher.net.parameters(), student.parameters(), strict=True))
    solver = torch.optim.AdamW(student.parameters(), 0.1, fused=fused)
    for _ in range(3):
        for weight in student.parameters():
            weight.grad = torch.randn_like(weight)
        solver.step()
        mean = [0.75 * old + 0.25 * new.detach() for old, new in zip(mean, student.parameters(), strict=True)]
        for _ in range(2):  # a step in two shares is one step
            teacher.follow(student)
    for found, want in zip(teacher.net.parameters(), mean, strict=True):
        torch.testing.assert_close(found, want)
    streams, mask = torch.randn(2, 6, 17, 2), lengths(6, 4, frames=6)
    want = student.encode(student.embedding(streams), mask)
    teacher.net.load_state_dict({k: v for k, v in student.state_dict().items() if not k.startswith("streams")})
    torch.testing.assert_close(teacher(streams, mask), (want - want.mean(-1, keepdim=True))
                               / (want.var(-1, correction=0, keepdim=True) + 1e-5).sqrt())  # fmt: skip


def test_the_dual_loss_compares_with_the_clean_whole_view() -> None:
    net = make("BPMT_T1", {"dual": 0.5, "mask": "joint"}).double().eval()
    pose, mask, key = clips()
    net.fit(pose.double(), mask)
    nn.init.normal_(net.teacher.net.positions)  # no longer its student
    out = net(pose.double(), mask, key)
    streams, inner = net.t1.streams(pose.double(), mask), Draws(key).bits(1)[:, 0].contiguous()
    hidden, want = net.masking.draw(mask, inner), net.teacher(streams, mask)
    told = noisy(streams, inner, 0.1)
    assert abs(float((told - streams).std()) - 0.1) < 0.01 and not net.teacher.net.training
    apart = (net.predictor(net.features(told, hidden, mask)) - want).square().mean(-1)  # (p, n, t)
    dual = torch.stack([apart[part][mask].mean() for part in range(5)]).mean()
    assert (out["losses"]["dual"] - dual).abs() < 1e-10
    assert (out["loss"] - torch.stack(list(out["losses"].values())[:5]).mean() - 0.5 * dual).abs() < 1e-10


def test_a_resumed_training_has_the_same_teacher() -> None:
    pose, mask, key = clips()
    whole = make("BPMT_T1", {"dual": 1.0}).train()
    whole.fit(pose, mask)

    def train(net: nn.Module, solver: torch.optim.Optimizer, steps: range) -> None:
        for i in steps:
            solver.zero_grad()
            net(pose, mask, key + i)["loss"].backward()
            solver.step()

    halves = copy.deepcopy(whole)
    def solver(net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1, fused=True)

    train(whole, solver(whole), range(4))
    train(halves, solver(halves), range(2))
    fresh = make("BPMT_T1", {"dual": 1.0}).train()
    fresh.load_state_dict(halves.state_dict())
    train(fresh, solver(fresh), range(2, 4))
    ours, theirs = whole.state_dict(), fresh.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(ours["teacher.net.positions"], ours["t1.positions"])


# ---------------------------------------------------------------- objectives of stage 2


def test_contrast_equals_loops() -> None:
    net = stirred(Contrast(columns=3, inputs=8, width=4, temperature=0.5))
    pooled, owner = torch.randn(3, 4, 8).double(), torch.tensor([0, 1, 1, 2])
    rows = [(i, F.normalize(pooled[q, i] @ net.project.weight[q] + net.project.bias[q, 0], dim=0))
            for q in range(3) for i in range(4)]  # fmt: skip
    terms = []
    for a, (i, x) in enumerate(rows):
        others = [(j, x @ y / 0.5) for b, (j, y) in enumerate(rows) if b != a]
        total = torch.stack([s for _, s in others]).logsumexp(0)
        same = [s - total for j, s in others if owner[i] == owner[j]]
        terms.append(-sum(same) / len(same))
    assert (net(pooled, owner) - sum(terms) / len(terms)).abs() < 1e-10
    assert torch.isfinite(net(pooled[:, :1], owner[:1])) and net(pooled[:, :0], owner[:0]) == 0


def test_pairs_are_pooled_over_real_frames() -> None:
    sides, mask = torch.randn(4, 3, 5, 2), lengths(5, 2, 1, frames=5)
    found = pooled_columns(sides, mask, 2)
    assert found.shape == (2, 3, 4)
    torch.testing.assert_close(pooled_columns(sides, mask, 4)[1, 1], sides[1, 1, :2].mean(0))
    torch.testing.assert_close(found[1, 1], torch.cat([sides[2, 1, :2].mean(0), sides[3, 1, :2].mean(0)]))


def test_a_fake_has_a_parts_frames_in_another_order() -> None:
    net = RealOrFake(skeleton=COCO, columns=PAIRS, width=4)
    pose, mask = walking(200, 9).double(), lengths(*[9, 6, 4, 9] * 50, frames=9)
    fake, changed = net.fake(pose, mask, torch.arange(200))
    assert abs(changed.any(1).float().mean() - 0.5) < 0.1 and set(changed.sum(1).tolist()) == {0, 1}
    for i in range(200):
        gone = [joint for part in range(5) if changed[i, part] for joint in COCO.parts[part]]
        kept = sorted(set(range(17)) - set(gone))
        assert torch.equal(fake[i, :, kept], pose[i, :, kept]) and torch.equal(fake[i, ..., 2], pose[i, ..., 2])
        if gone:
            n = int(mask[i].sum())
            now, before = fake[i, :n, gone, :2], pose[i, :n, gone, :2]
            assert (now - before).abs().max() > 1e-3 or n == 4, "of 24 orders one is the right one"
            order = [int((row - before).abs().sum((1, 2)).argmin()) for row in now]
            assert sorted(order) == list(range(n)) and torch.equal(now, before[order])


def test_a_pair_with_one_changed_part_is_the_fake_one() -> None:
    net = stirred(RealOrFake(skeleton=COCO, columns=PAIRS, width=3))
    pooled = torch.randn(10, 2, 6).double()
    changed = torch.tensor([[False, True, False, False, False], [False, True, True, False, False]])
    total = 0.0
    for q, (a, b) in enumerate(PAIRS):
        for i in range(2):
            p = (pooled[q, i] @ net.judge.weight[q, :, 0] + net.judge.bias[q, 0, 0]).sigmoid()
            total -= (p if changed[i, a] != changed[i, b] else 1 - p).log()
    assert (net(pooled, changed) - total / 20).abs() < 1e-10


def test_of_a_body_the_changed_part_is_the_fake_one() -> None:
    net = stirred(RealOrFake(skeleton=COCO, columns=[(part,) for part in range(5)], width=3))
    pooled, changed = torch.randn(5, 2, 3).double(), torch.eye(5, dtype=torch.bool)[[1, 3]]
    found = torch.stack([pooled[p] @ net.judge.weight[p, :, 0] + net.judge.bias[p, 0, 0] for p in range(5)], 1)
    wanted = -torch.where(changed, found.sigmoid(), 1 - found.sigmoid()).log().mean()
    assert (net(pooled, changed) - wanted).abs() < 1e-10


# ---------------------------------------------------------------- all of them in the stages


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_stage_with_ideas_learns_and_ignores_padding(name: str, options: dict[str, Any]) -> None:
    """Finite, a gradient to every parameter, falling losses; padding and what stands in it change nothing."""
    torch.manual_seed(2)
    net, (pose, mask, key) = make(name, options).train(), clips()
    net.fit(pose, mask)
    extras = sum(bool(options.get(key)) for key in ("dual", "contrast", "fake"))
    plain, padded = net(pose, mask, key), torch.where(mask[..., None, None], pose, 50.0)
    wide = net(F.pad(padded, (0, 0, 0, 0, 0, 5), value=-9.0), F.pad(mask, (0, 5)), key)
    assert len(plain["losses"]) == (5 if name == "BPMT_T1" or options.get("t2_encoder") == "body" else 10) + extras
    for part, value in plain["losses"].items():
        torch.testing.assert_close(wide["losses"][part], value, atol=1e-5, rtol=1e-5)
    weights = {n: p for n, p in net.named_parameters() if p.requires_grad}
    solver, seen = torch.optim.Adam(weights.values(), 0.005), []
    for _ in range(15):
        out = net(pose, mask, key)
        loss = out["loss"] if "loss" in out else torch.stack(list(out["losses"].values())).mean()
        solver.zero_grad()
        loss.backward()
        if not seen:
            assert not [n for n, p in weights.items() if p.grad is None or not p.grad.abs().sum() > 0]
        solver.step()
        seen.append(loss.item())
    assert seen[-1] < 0.97 * seen[0], seen


def test_stages_hand_over_by_name() -> None:
    """What only pretraining needs stays behind."""
    first = make("BPMT_T1", {"dual": 1.0})
    second = make("BPMT_T2", {"contrast": 1.0, "fake": 1.0})
    last = make("BPMT", {})
    for before, after, stage in ((first, second, "t1"), (second, last, "t2")):
        method = get_method(type(after).__name__)
        load_stage(after, before.state_dict(), Path("a.pt"), prefixes=method.stages[stage], optional=method.optional)
        assert torch.equal(after.t1.positions, before.t1.positions)
    assert torch.equal(second.masking.token, first.masking.token)


def test_bad_input_is_named() -> None:
    for name, options in [
        ("BPMT", {"attention": "fast"}), ("BPMT_T1", {"mask_value": "drop"}),
        ("BPMT_T2", {"fake": -0.5}), ("BPMT_T2", {"contrast": -1}), ("BPMT_T1", {"dual": -2}),
        ("BPMT", {"t2_encoder": "iip_pair", "attention": "flow"}),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=str(next(iter(options.values())))):
            make(name, options)
