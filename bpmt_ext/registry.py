"""A config's model name in, how to build that network, feed its losses and hand over its stages out: ONE table."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import Skeleton

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Method:
    """One network as the configs know it.

    target: `module:Class`, imported when it is built. stages: for each earlier stage the prefixes of the state-dict
    keys taken from its checkpoint. optional: keys taken over as well if both sides have them. losses: for each loss
    type which output of the network goes to which of its arguments; None for networks that return their own losses.
    """

    target: str
    stages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    losses: Mapping[str, Mapping[str, str]] | None = None

    @property
    def pretraining(self) -> bool:
        return self.losses is None

    def network(self) -> Callable[..., nn.Module]:
        module, name = self.target.split(":")
        return getattr(import_module(module), name)


RETRIEVAL = {"TripletLoss": {"embeddings": "feature"}, "CrossEntropyLoss": {"logits": "logits"}}

METHODS: Mapping[str, Method] = {
    "BPMT_T1": Method("bpmt_ext.nets.masked:BPMT_T1"),
    "BPMT_T2": Method("bpmt_ext.nets.masked:BPMT_T2", stages={"t1": ("t1.",)}, optional=("masking.token",)),
    "BPMT": Method("bpmt_ext.nets.bpmt:BPMT", stages={"t1": ("t1.",), "t2": ("t1.", "t2.")}, losses=RETRIEVAL),
}


def get_method(name: str) -> Method:
    """The table's row for a model name. UserError for an unknown one, with the nearest and all known names."""
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"model_cfg.model: there is no network {name!r}; {hint}known are {', '.join(sorted(METHODS))}")
    return METHODS[name]


def normalise_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Config values as constructor arguments: YAML reads yes/no as booleans and lists are not tuples."""
    out: dict[str, Any] = {}
    for key, value in given.items():
        if key.startswith("freeze_") and isinstance(value, bool):
            value = "yes" if value else "no"
        out[key] = tuple(value) if isinstance(value, list) else value
    return out


def build_network(
    name: str, arguments: Mapping[str, Any], *, skeleton: Skeleton, classes: int, where: str = "model_cfg"
) -> nn.Module:
    """The network of that name. arguments: checked names from the config; the skeleton and the number of training
    identities (used where the network classifies and the config gives no `num_class`) come from the data.

    Raises UserError where the network refuses a value.
    """
    from inspect import signature

    network = get_method(name).network()
    takes = signature(network).parameters
    filled = normalise_arguments(arguments)
    if "num_class" in takes:
        wanted = filled.setdefault("num_class", classes)
        if not isinstance(wanted, int) or (wanted < classes and wanted != 0):
            raise UserError(
                f"{where}.num_class: {wanted} classes for {classes} training identities; "
                "leave the key out to count them"
            )
    for key in ("max_frames", "embedding_width"):
        if key in filled and not (isinstance(filled[key], int) and filled[key] >= 1):
            raise UserError(f"{where}.{key} is {filled[key]!r}; give a whole number of at least 1")
    try:
        return network(skeleton=skeleton, **filled)
    except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:  # also sizes of 0 and below 0
        raise UserError(f"{where}: {name} refuses its settings: {error}") from error
