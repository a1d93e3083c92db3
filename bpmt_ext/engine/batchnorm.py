"""A network in, the same one with batch statistics over all processes out, under the same state-dict keys.

On GPUs this is torch's SyncBatchNorm, which refuses a CPU; there it is `GatheredBatchNorm`, over whatever process group
torch.distributed has. Letters: c channels, r processes; a channel is axis 1 of (n, c, ...).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


def _others(x: Tensor) -> list[int]:
    """All axes but the channels'."""
    return [axis for axis in range(x.ndim) if axis != 1]


def _column(values: Tensor, x: Tensor) -> Tensor:
    """(c,) as something to add to x (n, c, ...)."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def gathered_statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """x (n, c, ...) of every process, n may differ -> mean and biased variance (c,) of all rows, and their number.

    Each process hands over count, mean and squared deviations of its own rows, which are then combined without
    subtracting large numbers (Chan, Golub and LeVeque 1983, eq. 1.5b).
    """
    channels, own = x.shape[1], x.numel() // max(1, x.shape[1])
    variance, mean = torch.var_mean(x, _others(x), correction=0) if own else x.new_zeros(2, channels)
    mine = torch.cat([mean.new_tensor([own]), mean, variance * own]).double()
    rows = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, mine)
    counts, means, squares = torch.stack(rows).split([1, channels, channels], dim=1)  # (r, 1), (r, c), (r, c)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (squares + counts * (means - mean).square()).sum(0) / total
    return mean.to(x.dtype), variance.to(x.dtype), int(total)


class _Normalise(torch.autograd.Function):
    """x (n, c, ...), weight and bias (c,) or None, mean and variance of all processes' rows -> (n, c, ...).

    The gradient goes through the statistics, to which every process's rows contributed: their sums are exchanged.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor,
                total: int, eps: float) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.total = total
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rate = ctx.saved_tensors
        unit = (x - _column(mean, x)) * _column(rate, x)
        sums = torch.stack([gradient.sum(_others(x)), (gradient * unit).sum(_others(x))])
        of_bias, of_weight = sums.clone()
        dist.all_reduce(sums)
        shift, slope = sums / ctx.total
        scale = rate if weight is None else rate * weight
        of_x = _column(scale, x) * (gradient - _column(shift, x) - unit * _column(slope, x))
        return of_x, None if weight is None else of_weight, None if weight is None else of_bias, *[None] * 4


class GatheredBatchNorm(_BatchNorm):
    """BatchNorm of (n, c, ...) whose statistics, in training, are those of all processes' rows together.

    Processes may hold different numbers of rows, but each must come by, as often as the others. ValueError where all of
    them together have a single value per channel.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.ndim < 2:
            raise ValueError(f"expected (n, c, ...), got {tuple(input.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        whole = x if x.dtype == torch.float64 else x.float()  # under autocast
        mean, variance, total = gathered_statistics(whole.detach())
        if total < 2:
            raise ValueError("expected more than 1 value per channel over all processes when training")
        if self.track_running_stats:
            self._track(mean, variance * (total / (total - 1)))
        return _Normalise.apply(whole, self.weight, self.bias, mean, variance, total, self.eps).to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def gather_statistics(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with every BatchNorm replaced by one over all processes; the tensors are the same objects."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if isinstance(network, _BatchNorm):
        made = GatheredBatchNorm(network.num_features, network.eps, network.momentum, network.affine,
                                 network.track_running_stats)  # fmt: skip
        made._parameters, made._buffers = network._parameters, network._buffers
        return made.train(network.training)
    for name, child in network.named_children():
        network.add_module(name, gather_statistics(child, device))
    return network
