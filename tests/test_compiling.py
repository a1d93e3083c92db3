"""A network and torch.compile in; the same numbers, or one sentence, out."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import torch

from bpmt_ext.engine.compiling import compiled, compiling
from bpmt_ext.registry import build_network
from bpmt_ext.skeletons import get_skeleton

SMALL = {"width": 8, "heads": 1, "layers": 1, "feedforward": 8, "max_frames": 6, "dropout": 0.0}
BROKEN = """
import torch
from bpmt_ext.engine.compiling import compiled, compiling
from bpmt_ext.errors import UserError
try:
    with compiling("default"):
        compiled(torch.nn.Linear(2, 2), "default")(torch.ones(3, 2)).sin().sum().backward()
except UserError as error:
    print(error)
"""


def test_a_compiled_network_gives_the_same_numbers() -> None:
    torch.manual_seed(0)
    net = build_network("BPMT", SMALL, skeleton=get_skeleton("coco17"), classes=3).train()
    other = copy.deepcopy(net)
    pose, mask = torch.randn(4, 6, 17, 3), torch.ones(4, 6, dtype=torch.bool)
    mask[1, 4:] = False
    found = []
    for network in (net, compiled(other, "default")):
        with compiling("default"):
            out = network(pose, mask)
            (out["feature"].square().mean() + out["logits"].square().mean()).backward()
        found.append(out)
    assert list(other.state_dict()) == list(net.state_dict())  # a checkpoint's keys stay bare
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-5, atol=1e-5)
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-5)


def test_a_machine_without_a_compiler_is_told_in_one_sentence() -> None:
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, check=False,
                          env={**os.environ, "CXX": "/nowhere/g++", "PATH": "/nowhere"})
    assert done.returncode == 0, done.stderr[-500:]
    told = done.stdout.strip()
    assert told.startswith("trainer_cfg.compile: torch.compile failed (") and "or set trainer_cfg.compile: off" in told
    assert "\n" not in told
