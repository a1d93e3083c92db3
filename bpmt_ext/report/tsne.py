"""Distances (n, n) between embeddings and a start (n, d) in, places on a plane (n, 2) out: exact t-SNE.

van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9, 2008. It starts from the first two principal
components, so that the same input gives the same picture; n squared numbers are held, so n should be 2000 at most.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def principal(x: np.ndarray) -> np.ndarray:
    """(n, d) -> (n, 2): the first two principal components; each is turned so that its largest loading is positive."""
    centred = torch.from_numpy(np.asarray(x, dtype=np.float64))
    centred = centred - centred.mean(0)
    gram = centred @ centred.T if len(x) < centred.shape[1] else None
    if gram is not None:  # fewer points than numbers: the small side is quicker, and has the same components
        values, vectors = torch.linalg.eigh(gram)
        found = vectors[:, -2:].flip(1) * values[-2:].flip(0).clamp(min=0).sqrt()
    else:
        found = centred @ torch.linalg.eigh(centred.T @ centred)[1][:, -2:].flip(1)
    if found.shape[1] < 2:
        found = torch.cat([found, torch.zeros(len(x), 2 - found.shape[1], dtype=found.dtype)], 1)
    sign = found.gather(0, found.abs().argmax(0, keepdim=True)).sign()
    return (found * torch.where(sign == 0, 1.0, sign)).numpy()


def affinities(distance: Tensor, perplexity: float) -> Tensor:
    """Distances (n, n) -> joint probabilities (n, n), symmetric, of sum 1; every row's bandwidth by bisection."""
    n = len(distance)
    square = distance.double().square()
    square = square / square.sum().div(n * n).clamp(min=1e-30)
    own = torch.eye(n, dtype=torch.bool)
    low, high, beta = torch.zeros(n, 1), torch.full((n, 1), torch.inf), torch.ones(n, 1)
    low, high, beta = low.double(), high.double(), beta.double()
    target = float(np.log(perplexity))
    for _ in range(60):
        logit = (-square * beta).masked_fill(own, -torch.inf)
        p = logit.softmax(1)
        entropy = -(p * p.clamp(min=1e-300).log()).sum(1, keepdim=True)
        wide = entropy > target
        low, high = torch.where(wide, beta, low), torch.where(wide, high, beta)
        beta = torch.where(high.isinf(), beta * 2, (low + high) / 2)
    return ((p + p.T) / (2 * n)).float()


def tsne(distance: np.ndarray | Tensor, start: np.ndarray, *, perplexity: float = 30.0, steps: int = 400) -> np.ndarray:
    """distance (n, n), start (n, d) -> (n, 2) float64. n < 4: the principal components themselves."""
    place = principal(start)
    n = len(place)
    if n < 4:
        return place
    p = affinities(torch.as_tensor(np.asarray(distance)), min(perplexity, max(2.0, (n - 1) / 3)))
    y = torch.from_numpy(place / max(place[:, 0].std(), 1e-12) * 1e-2).float()
    speed, gain = torch.zeros_like(y), torch.ones_like(y)
    rate = max(n / 48, 10.0)  # n / exaggeration / 4 (Belkina et al. 2019); at 50, a few points are flung far away
    for step in range(steps):
        exaggerated = p * 12 if step < steps // 4 else p
        square = y.square().sum(1)
        kernel = 1 / (1 + (square[:, None] + square - 2 * y @ y.T).clamp(min=0))
        kernel.fill_diagonal_(0)
        pull = (exaggerated - kernel / kernel.sum()) * kernel
        slope = 4 * (pull.sum(1, keepdim=True) * y - pull @ y)
        gain = torch.where(slope.sign() == speed.sign(), gain * 0.8, gain + 0.2).clamp(min=0.01)
        speed = (0.5 if step < steps // 4 else 0.8) * speed - rate * gain * slope
        y = y + speed
        y = y - y.mean(0)
    return y.double().numpy()
