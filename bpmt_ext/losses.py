"""Features (n, d, p), logits (n, k, p) and labels (n,) in, a scalar loss and what to log out.

Every loss is a module with ordinary constructor parameters (hosts read their names) and returns
`(loss, {name: number})`. `pairwise` losses compare sequences with each other: under several processes they must see
the features of all of them. Formulas: baselines.md section 6, bpmt.md section 5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def part_distances(x: Tensor) -> Tensor:
    """(n, d, p) -> (p, n, n) Euclidean distances between sequences, part by part; the diagonal is exactly 0.

    A square below the rounding of its terms counts as 0, and 0 has no gradient: identical features pull nowhere.
    """
    rows = x.float().permute(2, 0, 1)  # (p, n, d)
    square = rows.square().sum(-1)
    total = square[:, :, None] + square[:, None, :]
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
        if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < float("inf"):
            raise ValueError(f"margin must be a number of at least 0, not {margin!r}")
        if mean_over not in ("active", "all"):
            raise ValueError(f"mean_over must be active or all, not {mean_over!r}")
        self.margin, self.hard, self.mean_over = margin, is_hard_loss, mean_over
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
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
            raise ValueError(f"scale must be a number above 0, not {scale!r}")
        if not 0 <= eps < 1:
            raise ValueError(f"eps must be in [0, 1), not {eps}")
        self.scale, self.smoothing, self.log_accuracy = scale, eps if label_smooth else 0.0, log_accuracy
        self.loss_term_weight = loss_term_weight

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        target = labels[:, None].expand(-1, logits.shape[2])
        loss = F.cross_entropy(self.scale * logits.float(), target, label_smoothing=self.smoothing)
        info = {}
        if self.log_accuracy:
            info["accuracy"] = 100 * (logits.detach().mean(2).argmax(1) == labels).float().mean()
        return loss, info


LOSSES: dict[str, type[nn.Module]] = {"TripletLoss": TripletLoss, "CrossEntropyLoss": CrossEntropyLoss}
