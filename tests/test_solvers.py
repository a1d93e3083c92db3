"""Names of torch's solvers and schedules, arguments as YAML gives them, in; trainings that resume exactly out."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bpmt_ext.config import settings_from
from bpmt_ext.engine.solvers import build_solver, check_solver, own_kernels
from bpmt_ext.errors import UserError

SOLVERS: dict[str, dict[str, Any]] = {
    "SGD": {"nesterov": True}, "Adam": {"betas": [0.9, 0.98], "amsgrad": True}, "AdamW": {"fused": False},
    "NAdam": {"momentum_decay": 0.004}, "RAdam": {"decoupled_weight_decay": True}, "Adamax": {}, "Adadelta": {},
    "Adagrad": {"lr_decay": 0.1}, "ASGD": {"lambd": 1e-4}, "RMSprop": {"centered": True}, "Rprop": {"etas": [0.4, 1.3]},
    "Adafactor": {"eps": [None, 1e-3]},
}  # fmt: skip
SCHEDULES: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 2}, "MultiStepLR": {"milestones": [2, 4], "gamma": 0.5}, "ConstantLR": {"total_iters": 3},
    "LinearLR": {"total_iters": 3}, "ExponentialLR": {"gamma": 0.9}, "PolynomialLR": {"total_iters": 6, "power": 2},
    "CosineAnnealingLR": {"T_max": 6, "eta_min": 1e-5}, "CosineAnnealingWarmRestarts": {"T_0": 2, "T_mult": 2},
    "CyclicLR": {"base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 2, "mode": "exp_range", "gamma": 0.9},
    "OneCycleLR": {"max_lr": 0.01, "total_steps": 6, "three_phase": True, "pct_start": 0.475, "div_factor": 100},
    "SequentialLR": {"milestones": [2], "schedulers": [
        {"scheduler": "LinearLR", "total_iters": 2}, {"scheduler": "CosineAnnealingLR", "T_max": 4},
    ]},
    "ChainedScheduler": {"schedulers": [
        {"scheduler": "ExponentialLR", "gamma": 0.9}, {"scheduler": "ConstantLR", "total_iters": 2},
    ]},
}  # fmt: skip
REFUSED = [
    ("solver", "LBFGS", {}, "asks for closure"), ("solver", "SparseAdam", {}, "sparse gradients only"),
    ("solver", "Muon", {}, "Muon refuses its settings: .*2D"), ("solver", "Adam", {"betas": 3}, "Adam refuses"),
    ("scheduler", "ReduceLROnPlateau", {}, "asks for metrics"), ("scheduler", "LambdaLR", {"lr_lambda": 1}, "refuses"),
    ("scheduler", "StepLR", {"step_size": "two"}, "refuses"),
    ("scheduler", "SequentialLR", {"schedulers": 3, "milestones": [1]}, "write a list of {scheduler: LinearLR"),
    ("scheduler", "ChainedScheduler", {"schedulers": [{"scheduler": "LinerLR"}]}, "did you mean LinearLR"),
    ("scheduler", "ChainedScheduler", {"schedulers": [{"scheduler": "StepLR", "step": 2}]},
     r"schedulers.0.step: StepLR takes no such key; did you mean step_size"),
]  # fmt: skip


def made(network: nn.Module, **sections: Any) -> tuple[Any, Any]:
    settings = settings_from({"model_cfg": {"model": "B"}} | sections)
    return build_solver(SimpleNamespace(settings=settings, network=network))


@pytest.mark.parametrize("first", [True, False])
def test_one_kernel_for_all_weights_goes_on_from_a_file_of_either(first: bool) -> None:
    """As the loop restores it; the same numbers but for rounding."""
    found = []
    for kinds in ((first, True), (False, False)):
        net, state = network(), None
        for fused in kinds:
            sections = {"optimizer_cfg": {"solver": "AdamW", "lr": 0.01} | ({} if fused else {"fused": False})}
            solver, _ = made(net, scheduler_cfg={"scheduler": "ConstantLR"}, **sections)
            if state is not None:
                solver.load_state_dict(own_kernels(solver, state))
            assert bool(solver.param_groups[0]["fused"]) == fused
            for k in range(3):
                solver.zero_grad()
                net(torch.ones(2, 3) * (k + 1)).square().sum().backward()
                solver.step()
            state = solver.state_dict()
        found.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def trained(sections: dict[str, Any], stop: int | None) -> tuple[torch.Tensor, list[float]]:
    """Six steps; after `stop` of them everything is built anew from what a checkpoint would hold."""
    net, rates = network(), []
    optimizer, schedule = made(net, **sections)
    for step in range(6):
        if step == stop:
            file = io.BytesIO()
            torch.save([net.state_dict(), optimizer.state_dict(), schedule.state_dict()], file)
            file.seek(0)
            weights, of_solver, of_schedule = torch.load(file, weights_only=True)
            net = network()
            net.load_state_dict(weights)
            optimizer, schedule = made(net, **sections)
            optimizer.load_state_dict(of_solver)
            schedule.load_state_dict(of_schedule)
        optimizer.zero_grad()
        net(torch.linspace(0, 1, 6).reshape(2, 3)).square().mean().backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return nn.utils.parameters_to_vector(net.parameters()).detach(), rates


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_trains_and_resumes(name: str) -> None:
    sections = {"optimizer_cfg": {"solver": name, "lr": 0.01, **SOLVERS[name]},
                "scheduler_cfg": {"scheduler": "StepLR", "step_size": 3}}
    (whole, rates), (resumed, _) = (trained(sections, stop) for stop in (None, 3))
    assert torch.equal(whole, resumed) and rates[0] == pytest.approx(0.01) and rates[-1] == pytest.approx(0.001)
    assert not torch.equal(whole, nn.utils.parameters_to_vector(network().parameters()))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_stepped_and_resumes(name: str) -> None:
    sections = {"optimizer_cfg": {"solver": "AdamW", "lr": 0.01}, "trainer_cfg": {"total_iter": 6},
                "scheduler_cfg": {"scheduler": name, **SCHEDULES[name]}}
    (whole, rates), (resumed, again) = (trained(sections, stop) for stop in (None, 3))
    assert torch.equal(whole, resumed) and rates == again and len(set(rates)) > 1


@pytest.mark.parametrize(("kind", "name", "arguments", "text"), REFUSED)
def test_what_cannot_be_used_is_told(kind: str, name: str, arguments: dict[str, Any], text: str) -> None:
    sections: dict[str, Any] = {"optimizer_cfg": {"solver": "Adam", "lr": 0.01},
                                "scheduler_cfg": {"scheduler": "StepLR", "step_size": 3}}
    section = "optimizer_cfg" if kind == "solver" else "scheduler_cfg"
    sections[section] = {kind: name, **arguments}
    with pytest.raises(UserError, match=text) as caught:
        settings = settings_from({"model_cfg": {"model": "B"}} | sections)
        check_solver(SimpleNamespace(settings=settings, network=network()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("share", "total", "three"), [(0.2, 5, False), (0.5, 2, True), (0.2, 6, True)])
def test_a_rise_of_one_step_gets_one_more_where_it_follows_the_training(share: float, total: int, three: bool) -> None:
    """Torch divides by the rise less one step; steps that the user wrote are left alone and told."""
    cycle = {"scheduler": "OneCycleLR", "max_lr": 0.1, "pct_start": share, "three_phase": three}
    sections = {"optimizer_cfg": {"solver": "SGD", "lr": 0.1, "momentum": 0.9}, "trainer_cfg": {"total_iter": total}}
    solver, schedule = made(network(), scheduler_cfg=cycle, **sections)
    assert schedule.total_steps == total + (share * total == 1)
    for _ in range(total):
        solver.step()
        schedule.step()
        assert 0 < solver.param_groups[0]["lr"] <= 0.1
    if share * total == 1:
        with pytest.raises(UserError, match=f"rise within .* = 1 step; make total_steps {total + 1}"):
            made(network(), scheduler_cfg={**cycle, "total_steps": total}, **sections)


def test_every_solver_and_schedule_of_this_torch_is_looked_at() -> None:
    looked = {*SOLVERS, *SCHEDULES, *(name for _, name, _, _ in REFUSED)} | {"MultiplicativeLR"}  # as LambdaLR
    for module, base in ((torch.optim, torch.optim.Optimizer),
                         (torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler)):
        found = {name for name, cls in vars(module).items() if isinstance(cls, type) and issubclass(cls, base)}
        left = {name for name in found - {base.__name__} - looked if not name.startswith("_")}
        assert not left
