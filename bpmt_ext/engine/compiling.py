"""A network in, the same network compiled by torch.compile out, and one sentence where it cannot be compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from bpmt_ext.errors import UserError


def compiled(network: nn.Module, mode: str) -> nn.Module:
    """What a training calls in place of the network, whose weights it shares; the network itself for `off`.

    It is compiled at the first batch, and again for batches of another length.
    """
    return network if mode == "off" else torch.compile(network, mode=mode)


@contextmanager
def compiling(mode: str) -> Iterator[None]:
    """Around a forward or backward pass: UserError where torch finds no compiler, or cannot compile the network."""
    try:
        yield
    except Exception as error:  # torch has a dozen kinds, each with a page of text
        if mode == "off" or not any(c.__module__.startswith(("torch._inductor", "torch._dynamo"))
                                    for c in type(error).__mro__):  # fmt: skip
            raise
        inner = getattr(error, "inner_exception", None) or error
        told = next((line.strip() for line in str(inner).splitlines() if line.strip()), type(inner).__name__)
        raise UserError(f"trainer_cfg.compile: torch.compile failed ({told[:200]}); install a C++ compiler (g++), on a "
                        "GPU also triton, or set trainer_cfg.compile: off") from error
