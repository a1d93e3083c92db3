"""A run's settings and its network in, the optimiser and the learning-rate schedule out: any of torch's, by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch

from bpmt_ext.config import component_arguments
from bpmt_ext.config_checks import no_rise, torch_class
from bpmt_ext.engine.parts import Run
from bpmt_ext.errors import UserError

Optimizer, Schedule = torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler


def build_solver(run: Run) -> tuple[Optimizer, Schedule]:
    """Optimiser and schedule of the config over the parameters that train. UserError for values they refuse."""
    solver, arguments = run.settings.solver()
    weights = [p for p in run.network.parameters() if p.requires_grad]
    if "fused" in signature(solver).parameters and not {"fused", "foreach"} & arguments.keys():
        arguments = {**arguments, "fused": _fusible(weights)}
    optimizer = _built(run.settings.where("optimizer_cfg"), solver, weights, arguments)
    schedule, arguments = run.settings.scheduler()
    where = run.settings.where("scheduler_cfg")
    return optimizer, _built(where, schedule, optimizer, _with_inner(where, optimizer, arguments))


def _fusible(weights: Sequence[torch.Tensor]) -> bool:
    """Whether torch updates them all in one kernel, three times as fast on a CPU; the numbers differ by rounding."""
    return all(w.device.type in ("cpu", "cuda") and w.is_floating_point() for w in weights)


def own_kernels(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimiser's state as this one loads it: a file may say that it was updated by other kernels."""
    own = [{key: group[key] for key in ("fused", "foreach") if key in group} for group in optimizer.param_groups]
    groups = state["param_groups"]
    if len(groups) != len(own):
        raise ValueError(f"it has {len(groups)} groups of weights, this one {len(own)}")
    return {**state, "param_groups": [{**group, **mine} for group, mine in zip(groups, own, strict=True)]}


def check_solver(run: Run) -> None:
    """Build both and let them go: some schedules meet a wrong value only when they are stepped."""
    _, schedule = build_solver(run)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimiser was not stepped first
            schedule.step()
    except Exception as error:
        where = run.settings.where("scheduler_cfg")
        raise UserError(f"{where}: {type(schedule).__name__} refuses its settings: {error}") from error


def _with_inner(where: str, optimizer: Optimizer, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a schedule; where it is made of others (`schedulers: [{scheduler: LinearLR, ...}, ...]`), those
    are built."""
    out, inner = dict(arguments), arguments.get("schedulers")
    if inner is None:
        return out
    if not isinstance(inner, list) or not all(isinstance(x, Mapping) and "scheduler" in x for x in inner):
        raise UserError(f"{where}.schedulers is {inner!r}; write a list of {{scheduler: LinearLR, ...}}")
    out["schedulers"] = []
    for k, entry in enumerate(inner):
        place, given = f"{where}.schedulers.{k}", {key: value for key, value in entry.items() if key != "scheduler"}
        cls = torch_class("scheduler_cfg", entry["scheduler"], f"{place}.scheduler")
        taken = component_arguments(cls, given, (), place, supplied=("optimizer",), also=("scheduler",))
        out["schedulers"].append(_built(place, cls, optimizer, _with_inner(place, optimizer, taken)))
    return out


def _built(place: str, cls: type, first: Any, arguments: Mapping[str, Any]) -> Any:
    where = f"{place}: {cls.__name__}"
    if no_rise({"scheduler": cls.__name__, **arguments}, arguments.get("total_steps")):
        raise UserError(f"{where} would rise within pct_start * total_steps = 1 step; make total_steps "
                        f"{arguments['total_steps'] + 1}")  # fmt: skip
    if cls is torch.optim.SparseAdam:
        raise UserError(f"{where} takes sparse gradients only, these networks have none; choose Adam")
    try:
        # a chain of schedules takes them first and finds the optimiser in them
        chain = next(iter(signature(cls).parameters)) == "schedulers"
        made = cls(**arguments) if chain else cls(first, **arguments)
    except Exception as error:  # values of any type meet code that expects numbers
        raise UserError(f"{where} refuses its settings: {error}") from error
    needs = [name for name, p in signature(made.step).parameters.items() if p.default is p.empty]
    if needs:
        raise UserError(f"{where} cannot be stepped once an iteration, it asks for {needs[0]}; choose another")
    return made
