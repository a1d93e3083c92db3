"""Features (n, d, p), views (n, w, d), logits (n, k, p) and labels (n,) in, a scalar loss and what to log out.

Every loss is a module with ordinary constructor parameters (hosts read their names) and returns
`(loss, {name: number})`. `pairwise` losses compare sequences with each other: under several processes they must see
the features of all of them. Formulas: baselines.md section 6, baselines_plus.md sections 4 and 5, bpmt.md section 5.
Letters: n sequences, w views of each, d width, p parts, k classes.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast off on the device of x: a product in half precision would ruin distances and similarities."""
    return torch.autocast(x.device.type, enabled=False)


def _at_least_single(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _positive(name: str, value: Any, zero: bool = False) -> float:
    """`value` as a finite number above 0 (or at least 0), or a ValueError that names it."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= sys.float_info.max or (value == 0 and not zero):
        raise ValueError(f"{name} must be a number {'of at least' if zero else 'above'} 0, not {value!r}")
    return float(value)


def part_distances(x: Tensor) -> Tensor:
    """(n, d, p) -> (p, n, n) Euclidean distances between sequences, part by part; the diagonal is exactly 0.

    A square below the rounding of its terms counts as 0, and 0 has no gradient: identical features pull nowhere.
    """
    rows = x.float().permute(2, 0, 1)  # (p, n, d)
    square = rows.square().sum(-1)
    total = square[:, :, None] + square[:, None, :]
    with _full_precision(x):
        gap = total - 2 * rows @ rows.transpose(1, 2)
    apart = (gap > 1e-6 * total) & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    return torch.where(apart, gap, 1.0).sqrt() * apart


def _mean_of_active(terms: Tensor, kept: Tensor | bool = True) -> Tensor:
    """Mean over the last axis of those terms that are kept and not zero; 0, still differentiable, where none is."""
    active = (terms > 0) & kept
    return (terms * active).sum(-1) / active.sum(-1).clamp(min=1)


class TripletLoss(nn.Module):
    """embeddings (n, d, p), labels (n,) -> triplet loss per part, averaged over parts (Hermans et al. 2017).

    margin in units of the Euclidean distance. is_hard_loss: batch-hard (each anchor with its farthest positive and
    nearest negative) instead of batch-all (every triple; as in the hosts an anchor is among its own positives, at
    distance 0). mean_over: `active` averages the non-zero terms only, `all` every anchor or triple, zero terms
    included (the thesis). An anchor without another positive or a negative in the batch takes no part; a batch without
    any gives 0.
    """

    pairwise = True

    def __init__(
        self, margin: float, is_hard_loss: bool = False, loss_term_weight: float = 1.0, mean_over: str = "active"
    ) -> None:
        super().__init__()
        if mean_over not in ("active", "all"):
            raise ValueError(f"mean_over must be active or all, not {mean_over!r}")
        self.margin, self.hard, self.mean_over = _positive("margin", margin, zero=True), is_hard_loss, mean_over
        self.loss_term_weight = loss_term_weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        distance = part_distances(embeddings)  # (p, n, n)
        same = labels[:, None] == labels[None, :]
        other = ~same
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        anchor = positive.any(1) & other.any(1)  # (n,)
        if self.hard:
            kept = anchor
            far = distance.masked_fill(~positive, -torch.inf).amax(2)
            near = distance.masked_fill(~other, torch.inf).amin(2)
            terms = F.relu(torch.where(kept, far - near, -torch.inf) + self.margin)  # (p, n)
        else:
            kept = anchor[:, None, None] & same[:, :, None] & other[:, None, :]  # (n, n, n) anchor, positive, negative
            gap = distance[:, :, :, None] - distance[:, :, None, :]
            terms, kept = F.relu(gap + self.margin).flatten(1) * kept.flatten(), kept.flatten()
        if self.mean_over == "active":
            loss = _mean_of_active(terms, kept)
        else:
            loss = terms.sum(-1) / kept.sum().clamp(min=1)
        active = ((terms > 0) & kept).sum() / (kept.sum() * len(terms)).clamp(min=1)
        return loss.mean(), {"active": active.detach(), "distance": distance.detach().mean()}


class CrossEntropyLoss(nn.Module):
    """logits (n, k, p), labels (n,) -> cross-entropy of scaled logits, mean over sequences and parts.

    scale multiplies the logits (16 suits cosine logits); label_smooth spreads the share eps of the target evenly over
    all classes. The defaults are the host's.
    log_accuracy also reports the share of right answers (percent) of the mean of the parts' logits.
    """

    pairwise = False

    def __init__(
        self,
        scale: float = 16.0,
        label_smooth: bool = True,
        eps: float = 0.1,
        loss_term_weight: float = 1.0,
        log_accuracy: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= eps < 1:
            raise ValueError(f"eps must be in [0, 1), not {eps}")
        self.scale, self.log_accuracy = _positive("scale", scale), log_accuracy
        self.smoothing = eps if label_smooth else 0.0
        self.loss_term_weight = loss_term_weight

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        target = labels[:, None].expand(-1, logits.shape[2])
        loss = F.cross_entropy(self.scale * logits.float(), target, label_smoothing=self.smoothing)
        info = {}
        if self.log_accuracy:
            info["accuracy"] = 100 * (logits.detach().mean(2).argmax(1) == labels).float().mean()
        return loss, info


class SupConLoss_Re(nn.Module):
    """features (n, w, d) of n sequences in w views, labels (n,) -> supervised contrastive loss (Khosla et al. 2020).

    Every view of every sequence is an anchor, all other rows of its label (its own other views among them) are its
    positives: minus the mean over positives of the log of the softmax of (inner product / temperature) over all other
    rows, times temperature / base_temperature, mean over anchors. The rows should have unit length. An anchor without
    a positive (one view, nobody of its label) takes no part; a batch without any positive gives 0.
    """

    pairwise = True

    def __init__(
        self, temperature: float = 0.01, base_temperature: float = 0.07, loss_term_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.temperature = _positive("temperature", temperature)
        self.base_temperature = _positive("base_temperature", base_temperature)
        self.loss_term_weight = loss_term_weight

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if features.ndim != 3 or len(features) != len(labels):
            raise ValueError(f"features (n, w, d) of {len(labels)} labels are needed, not {tuple(features.shape)}")
        views = features.shape[1]
        with _full_precision(features):
            rows = _at_least_single(features).flatten(0, 1)  # (n w, d)
            owner = labels.repeat_interleave(views)
            itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
            positive = (owner[:, None] == owner[None, :]) & ~itself
            # a row alone in the batch has nothing to be compared with: a softmax over nothing would be no number
            own = -torch.inf if len(rows) > 1 else 0.0
            score = (rows @ rows.T / self.temperature).masked_fill(itself, own)
            log_share = score.log_softmax(1).masked_fill(~positive, 0.0)
            count = positive.sum(1)
            terms = -log_share.sum(1) / count.clamp(min=1)
            loss = terms.sum() / (count > 0).sum().clamp(min=1)
        return loss * (self.temperature / self.base_temperature), {}


class SupConLoss_Lp(nn.Module):
    """features (n, d) or (n, d, 1), labels (n,) -> supervised contrastive loss of pytorch-metric-learning.

    Similarity is minus the Euclidean distance of unit vectors, divided by temperature; no base factor; the mean is over
    anchors whose term is not zero. Anchors without a positive take no part; a batch without any positive, or without
    any negative, gives 0.
    """

    pairwise = True

    def __init__(self, temperature: float = 0.01, loss_term_weight: float = 1.0) -> None:
        from pytorch_metric_learning.distances import LpDistance
        from pytorch_metric_learning.losses import SupConLoss

        super().__init__()
        self.loss = SupConLoss(temperature=_positive("temperature", temperature), distance=LpDistance())
        self.loss_term_weight = loss_term_weight

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if features.ndim == 3 and features.shape[2] == 1:
            features = features[:, :, 0]
        if features.ndim != 2:
            raise ValueError(f"features (n, d) or (n, d, 1) are needed, not {tuple(features.shape)}")
        with _full_precision(features):
            return self.loss(_at_least_single(features), labels), {}


class MinedTripletLoss(nn.Module):
    """embeddings (n, d, p), labels (n,) -> triplet loss of GaitPT and GaitMixer, averaged over parts.

    Euclidean distances of unit vectors; all triplets of two different sequences of one label and one of another, or,
    with miner, those made of the pairs a multi-similarity miner keeps (cosine similarity, epsilon): a positive pair
    that is less similar than the anchor's hardest negative plus epsilon, a negative pair that is more similar than its
    hardest positive minus epsilon. Mean over the terms above 0; 0 where there is none. Both from
    pytorch-metric-learning.
    """

    pairwise = True

    def __init__(
        self, margin: float = 0.01, miner: bool = False, epsilon: float = 0.1, loss_term_weight: float = 1.0
    ) -> None:
        from pytorch_metric_learning.losses import TripletMarginLoss
        from pytorch_metric_learning.miners import MultiSimilarityMiner

        super().__init__()
        if not isinstance(miner, bool):
            raise ValueError(f"miner must be true or false, not {miner!r}")
        self.loss = TripletMarginLoss(margin=_positive("margin", margin, zero=True))
        self.miner = MultiSimilarityMiner(epsilon=_positive("epsilon", epsilon, zero=True)) if miner else None
        self.loss_term_weight = loss_term_weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if embeddings.ndim != 3:
            raise ValueError(f"embeddings (n, d, p) are needed, not {tuple(embeddings.shape)}")
        with _full_precision(embeddings):
            # the triplets of every part are its own; the networks that use this loss have one
            losses = []
            for rows in _at_least_single(embeddings).unbind(2):
                pairs = None if self.miner is None else self.miner(rows, labels)
                losses.append(self.loss(rows, labels, pairs))
            return torch.stack(losses).mean(), {}


LOSSES: dict[str, type[nn.Module]] = {
    "TripletLoss": TripletLoss,
    "CrossEntropyLoss": CrossEntropyLoss,
    "SupConLoss_Re": SupConLoss_Re,
    "SupConLoss_Lp": SupConLoss_Lp,
    "MinedTripletLoss": MinedTripletLoss,
}
