"""Features, logits and labels in; losses equal to naive loops and to the vectors of the hosts out."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bpmt_ext.losses import (
    CrossEntropyLoss,
    MinedTripletLoss,
    SupConLoss_Lp,
    SupConLoss_Re,
    TripletLoss,
    part_distances,
)

# baselines.md section 8: batch-hard per part, then batch-all over the parts; baselines_plus.md: cross-entropy
FEATURES = torch.sin(0.3 * 1.7 * torch.arange(96, dtype=torch.float64)).reshape(8, 4, 3)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
HARD, ALL = (0.24170613, 0.24248752, 0.24353326), 0.12737559
LOGITS = torch.sin(0.51 * torch.arange(60, dtype=torch.float64)).reshape(4, 5, 3)


def test_the_hosts_triplet_vectors() -> None:
    hard = TripletLoss(margin=0.3, is_hard_loss=True)
    for p, value in enumerate(HARD):
        assert math.isclose(hard(FEATURES[:, :, p : p + 1], LABELS)[0].item(), value, abs_tol=1e-6)
    assert math.isclose(hard(FEATURES, LABELS)[0].item(), sum(HARD) / 3, abs_tol=1e-6)
    assert math.isclose(TripletLoss(margin=0.3)(FEATURES, LABELS)[0].item(), ALL, abs_tol=2e-7)


def test_the_hosts_cross_entropy_vectors() -> None:
    labels = torch.tensor([0, 1, 2, 4])
    assert math.isclose(CrossEntropyLoss()(LOGITS, labels)[0].item(), 17.06485975, abs_tol=1e-5)
    assert math.isclose(CrossEntropyLoss(label_smooth=False)(LOGITS, labels)[0].item(), 17.35371390, abs_tol=1e-5)


def naive_triplet(x: Tensor, labels: list[int], margin: float, hard: bool, over: str) -> float:
    """The definition of baselines.md section 6, one distance at a time."""
    n, _, parts = x.shape
    losses = []
    for p in range(parts):
        def far(a: int, b: int, p: int = p) -> float:
            return float(torch.linalg.vector_norm(x[a, :, p] - x[b, :, p]))

        terms = []
        for a in range(n):
            mates = [b for b in range(n) if b != a and labels[b] == labels[a]]
            others = [b for b in range(n) if labels[b] != labels[a]]
            if not mates or not others:
                continue
            if hard:
                terms.append(max(far(a, b) for b in mates) - min(far(a, b) for b in others) + margin)
            else:  # the anchor is among its own positives
                terms += [far(a, b) - far(a, c) + margin for b in [a, *mates] for c in others]
        terms = [max(term, 0.0) for term in terms]
        counted = [term for term in terms if term > 0] if over == "active" else terms
        losses.append(sum(counted) / max(len(counted), 1))
    return sum(losses) / parts


batches = st.integers(1, 7).flatmap(lambda n: st.tuples(
    st.lists(st.integers(0, 2), min_size=n, max_size=n), st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3)
))


@settings(max_examples=80, deadline=None)
@given(batches, st.booleans(), st.sampled_from(["active", "all"]), st.sampled_from([0.0, 0.3, 2.0]))
def test_triplet_is_the_naive_loop(batch: tuple, hard: bool, over: str, margin: float) -> None:
    labels, seed, width, parts = batch
    x = torch.randn(len(labels), width, parts, generator=torch.Generator().manual_seed(seed))
    x.requires_grad_()
    loss, info = TripletLoss(margin, is_hard_loss=hard, mean_over=over)(x, torch.tensor(labels))
    # a term at the very edge of being active may fall either way: then the number of terms differs
    expected = naive_triplet(x.detach().double(), labels, margin, hard, over)
    assert loss.item() == pytest.approx(expected, abs=1e-4, rel=1e-4)
    loss.backward()
    assert torch.isfinite(x.grad).all() and 0 <= info["active"] <= 1


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0], [0]])
def test_without_positives_or_negatives_the_loss_is_zero_and_can_be_differentiated(labels: list, hard: bool) -> None:
    x = torch.randn(len(labels), 4, 2, requires_grad=True)
    for over in ("active", "all"):
        loss, info = TripletLoss(0.3, is_hard_loss=hard, mean_over=over)(x, torch.tensor(labels))
        loss.backward()
        assert loss.item() == 0 and info["active"] == 0 and torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("hard", [True, False])
def test_identical_features_have_distance_zero_and_a_finite_gradient(hard: bool) -> None:
    x = (100 * torch.randn(1, 128, 3)).expand(6, -1, -1).clone().requires_grad_()
    distance = part_distances(x)
    assert torch.equal(distance, torch.zeros(3, 6, 6))
    loss, _ = TripletLoss(0.3, is_hard_loss=hard)(x, torch.tensor([0, 0, 1, 1, 2, 2]))
    loss.backward()
    assert loss.item() == pytest.approx(0.3) and torch.equal(x.grad, torch.zeros_like(x))


def test_distances() -> None:
    x = 30 * torch.randn(9, 128, 4)
    distance = part_distances(x)
    expected = torch.cdist(x.permute(2, 0, 1).double(), x.permute(2, 0, 1).double())
    assert torch.allclose(distance.double(), expected, rtol=1e-4)
    assert torch.equal(distance.diagonal(dim1=1, dim2=2), torch.zeros(4, 9))
    assert torch.equal(part_distances(x.bfloat16()), part_distances(x.bfloat16().float()))  # never in half precision


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 999))
def test_cross_entropy_is_the_naive_loop(n: int, k: int, p: int, eps: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, k, p)), rng.integers(0, k, n)
    total = 0.0
    for i in range(n):
        for part in range(p):
            scores = 3 * logits[i, :, part]
            log_softmax = scores - np.log(np.exp(scores).sum())
            target = np.full(k, eps / k)
            target[labels[i]] += 1 - eps
            total -= (target * log_softmax).sum() / (n * p)
    loss_fn = CrossEntropyLoss(scale=3, eps=eps, log_accuracy=True)
    loss, info = loss_fn(torch.from_numpy(logits), torch.from_numpy(labels))
    assert loss.item() == pytest.approx(total, rel=1e-4, abs=1e-5)
    right = (logits.mean(2).argmax(1) == labels).mean()
    assert info["accuracy"].item() == pytest.approx(100 * right, abs=1e-3)


def test_parameters_are_the_hosts_and_are_checked() -> None:
    from inspect import getfullargspec

    assert getfullargspec(TripletLoss.__init__).args[1:4] == ["margin", "is_hard_loss", "loss_term_weight"]
    assert getfullargspec(CrossEntropyLoss.__init__).args[1:5] == ["scale", "label_smooth", "eps", "loss_term_weight"]
    for loss in (SupConLoss_Re, SupConLoss_Lp, MinedTripletLoss):
        assert getfullargspec(loss.__init__).args[-1] == "loss_term_weight"
    assert (TripletLoss(0.2).hard, TripletLoss.pairwise, CrossEntropyLoss.pairwise) == (False, True, False)
    wrong = [
        lambda: TripletLoss("0.3"), lambda: TripletLoss(-1.0), lambda: TripletLoss(math.nan), lambda: TripletLoss(True),
        lambda: TripletLoss(0.3, mean_over="some"), lambda: CrossEntropyLoss(scale=None),
        lambda: CrossEntropyLoss(scale=0), lambda: CrossEntropyLoss(eps=1.0), lambda: SupConLoss_Re(temperature=0),
        lambda: SupConLoss_Re(base_temperature="1"), lambda: SupConLoss_Lp(temperature=-1.0),
        lambda: MinedTripletLoss(margin=None), lambda: MinedTripletLoss(miner="ms"),
        lambda: SupConLoss_Re()(VIEWS[0], LABELS),
        lambda: SupConLoss_Lp()(MINED.expand(-1, -1, 2), LABELS), lambda: MinedTripletLoss()(MINED[:, :, 0], LABELS),
    ]  # fmt: skip
    for build in wrong:
        with pytest.raises(ValueError):
            build()

# supervised contrastive and mined triplet: baselines.md section 8, baselines_plus.md section 8

VIEWS = torch.sin(0.3 * 2.3 * torch.arange(40, dtype=torch.float64)).reshape(4, 2, 5)
VIEWS = VIEWS / VIEWS.norm(dim=2, keepdim=True)
MINED = torch.sin(0.01 * torch.arange(96, dtype=torch.float64) ** 2).reshape(8, 12, 1)


def test_the_hosts_contrastive_and_mined_vectors() -> None:
    assert math.isclose(SupConLoss_Re()(VIEWS, torch.tensor([0, 1, 0, 2]))[0].item(), 20.83823170, abs_tol=1e-8)
    mined = MinedTripletLoss(miner=True)
    for loss in (MinedTripletLoss(), mined):
        assert math.isclose(loss(MINED, LABELS)[0].item(), 0.32422200, abs_tol=1e-8)
    kept = mined.miner(MINED[:, :, 0], LABELS)
    assert [len(side) for side in kept] == [6, 6, 32, 32]


def naive_contrastive(rows: Tensor, labels: list[int], score: Tensor, skip_zero: bool) -> list[float]:
    """One anchor after the other: minus the mean log share of its positives among all other rows. skip_zero: zeros do
    not count in the mean; of terms that are zero but for rounding any number may."""
    terms = []
    for a in range(len(rows)):
        others = [b for b in range(len(rows)) if b != a]
        mates = [b for b in others if labels[b] == labels[a]]
        if mates:
            total = math.log(sum(math.exp(float(score[a, b] - score[a, others].max())) for b in others))
            shares = [float(score[a, b] - score[a, others].max()) - total for b in mates]
            terms.append(-sum(shares) / len(mates))
    zeros = sum(abs(term) < 1e-12 for term in terms) if skip_zero else 0
    return [sum(terms) / max(len(terms) - skipped, 1) for skipped in range(zeros + 1)]


@settings(max_examples=60, deadline=None)
@example(batch=([0, 1, 0], 5197, 3, 2), temperature=0.01)  # a term that is zero but for rounding
@given(batches, st.sampled_from([0.01, 0.1, 1.0]))
def test_contrastive_is_the_naive_loop(batch: tuple, temperature: float) -> None:
    labels, seed, width, views = batch
    x = torch.randn(len(labels), views, width + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = (x / x.norm(dim=2, keepdim=True)).requires_grad_()
    loss, _ = SupConLoss_Re(temperature=temperature)(x, torch.tensor(labels))
    rows, owner = x.detach().flatten(0, 1), [label for label in labels for _ in range(views)]
    (expected,) = naive_contrastive(rows, owner, rows @ rows.T / temperature, False)
    expected *= temperature / 0.07
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    loss.backward()
    assert torch.isfinite(x.grad).all()
    loss, _ = SupConLoss_Lp(temperature=temperature)(x[:, 0], torch.tensor(labels))
    rows = rows[::views]
    strangers = len(set(labels)) > 1  # without any the library has no loss
    expected = naive_contrastive(rows, labels, -torch.cdist(rows, rows) / temperature, True) if strangers else [0.0]
    assert any(loss.item() == pytest.approx(value, rel=1e-6, abs=1e-6) for value in expected)


@settings(max_examples=40, deadline=None)
@given(batches, st.booleans())
def test_mined_triplet_is_the_naive_loop(batch: tuple, miner: bool) -> None:
    labels, seed, width, parts = batch
    x = torch.randn(len(labels), width + 1, parts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    losses = []
    for rows in (x / x.norm(dim=1, keepdim=True)).unbind(2):
        near, terms, everyone = rows @ rows.T, [], range(len(rows))
        for a in everyone:
            mates = [b for b in everyone if b != a and labels[b] == labels[a]]
            others = [b for b in everyone if labels[b] != labels[a]]
            if miner and mates and others:
                kept = [b for b in mates if near[a, b] - 0.1 < near[a, others].max()]
                others = [b for b in others if near[a, b] + 0.1 > near[a, mates].min()]
                mates = kept
            gap = [(rows[a] - rows[b]).norm() - (rows[a] - rows[c]).norm() + 0.05 for b in mates for c in others]
            terms += [float(term) for term in gap if term > 0]
        losses.append(sum(terms) / max(len(terms), 1))
    found = MinedTripletLoss(margin=0.05, miner=miner)(x, torch.tensor(labels))[0]
    assert found.item() == pytest.approx(sum(losses) / parts, rel=1e-6, abs=1e-6)


PAIRED = [(SupConLoss_Re(), (5, 1, 4)), (SupConLoss_Lp(), (5, 4)), (SupConLoss_Lp(), (5, 4, 1)),
          (MinedTripletLoss(), (5, 4, 2)), (MinedTripletLoss(miner=True), (5, 4, 2))]  # fmt: skip


@pytest.mark.parametrize(("loss_fn", "shape"), PAIRED, ids=lambda x: type(x).__name__ if callable(x) else str(x))
def test_pair_losses_without_positives_and_in_half_precision(loss_fn: torch.nn.Module, shape: tuple[int, ...]) -> None:
    for n, labels in ((5, [0, 1, 2, 3, 4]), (1, [0])):
        x = torch.randn(n, *shape[1:], requires_grad=True)
        loss, _ = loss_fn(x, torch.tensor(labels))
        loss.backward()
        assert loss.item() == 0 and torch.equal(x.grad, torch.zeros_like(x))
    same = torch.ones(shape, requires_grad=True)  # distance 0, where a root has no slope
    loss_fn(same, torch.tensor([0, 0, 1, 1, 1]))[0].backward()
    assert torch.isfinite(same.grad).all() and loss_fn.pairwise
    half, labels = torch.randn(shape).bfloat16(), torch.tensor([0, 0, 1, 1, 1])
    whole = loss_fn(half.float(), labels)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss_fn(half, labels)[0], whole) and whole.dtype == torch.float32 and whole > 0


def test_the_library_is_imported_by_those_who_use_it() -> None:
    code = ("import sys, bpmt_ext.losses as l; l.SupConLoss_Re(); l.TripletLoss(0.3)\n"
            "assert 'pytorch_metric_learning' not in sys.modules\n"
            "l.SupConLoss_Lp(); assert 'pytorch_metric_learning' in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
