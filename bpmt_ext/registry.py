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
    classes: the constructor argument that says how many identities the head tells apart; None for networks without a
    classifier. classifier: the state-dict key of the classifier and its class axis, if it has one.
    """

    target: str
    stages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    losses: Mapping[str, Mapping[str, str]] | None = None
    classes: str | None = None
    classifier: tuple[tuple[str, int], ...] = ()

    @property
    def pretraining(self) -> bool:
        return self.losses is None

    def network(self) -> Callable[..., nn.Module]:
        """The class, imported. UserError where there is none."""
        module, _, name = self.target.partition(":")
        try:
            found = getattr(import_module(module), name, None)
        except (ImportError, ValueError) as error:  # also an empty name
            raise UserError(f"model_cfg.model: {self.target} cannot be imported: {error}") from error
        if not callable(found):
            raise UserError(f"model_cfg.model: there is no class {self.target}; write module:Class")
        return found


METRIC = {
    "TripletLoss": {"embeddings": "feature"}, "MinedTripletLoss": {"embeddings": "feature"},
    "SupConLoss_Lp": {"features": "feature"}, "SupConLoss_Re": {"features": "views"},
}  # fmt: skip
RETRIEVAL = METRIC | {"CrossEntropyLoss": {"logits": "logits"}}
BNNECK = {"losses": RETRIEVAL, "classes": "num_class", "classifier": (("BNNecks.fc_bin", 2),)}

METHODS: dict[str, Method] = {
    "BPMT_T1": Method("bpmt_ext.nets.masked:BPMT_T1"),
    "BPMT_T2": Method("bpmt_ext.nets.masked:BPMT_T2", stages={"t1": ("t1.",)}, optional=("masking.token",)),
    "BPMT": Method(
        "bpmt_ext.nets.bpmt:BPMT", stages={"t1": ("t1.",), "t2": ("t1.", "t2.")}, losses=RETRIEVAL,
        classes="num_class", classifier=(("head.classes", 1), ("head.classifier.weight", 0)),
    ),
    "BPMTAction": Method(  # its earlier stages are BPMT's
        "bpmt_ext.nets.bpmt_action:BPMTAction", stages={"t1": ("t1.",), "t2": ("t1.", "t2.")},
        losses={"CrossEntropyLoss": {"logits": "logits"}}, classes="num_class",
        classifier=(("head.classifier.weight", 0), ("head.parts.weight", 2)),
    ),
    "TLCA_T1": Method("bpmt_ext.nets.tlca_masked:TLCA_T1"),
    "TLCA": Method(
        "bpmt_ext.nets.tlca:TLCA", stages={"t1": ("t1.",)}, losses=RETRIEVAL, classes="num_class",
        classifier=(("head.classifier.weight", 0), ("head.classes", 1)),
    ),
    "IIPTransformer": Method(
        "bpmt_ext.nets.iip_action:IIPTransformer", losses={"CrossEntropyLoss": {"logits": "logits"}},
        classes="num_class", classifier=(("head.classifier.weight", 0),),
    ),
    # names and model_cfg keys of FastPoseGait; num_class of GaitGraph and GaitTR is the width of the embedding
    "GaitGraph1": Method("bpmt_ext.nets.gaitgraph:GaitGraph1", losses=METRIC),
    "GaitGraph2": Method("bpmt_ext.nets.gaitgraph:GaitGraph2", losses=METRIC),
    "GaitTR": Method("bpmt_ext.nets.gaittr:GaitTR", losses=METRIC),
    "gpgait": Method("bpmt_ext.nets.gpgait:GPGait", **BNNECK),
    "GPGait_PlusPlus": Method("bpmt_ext.nets.gpgait_plus:GPGaitPlus", **BNNECK),
    "GaitMixer": Method("bpmt_ext.nets.gaitmixer:GaitMixer", losses=METRIC),
    "GaitFormer": Method("bpmt_ext.nets.gaitmixer:GaitFormer", losses=METRIC),
    "GaitPT": Method("bpmt_ext.nets.gaitpt:GaitPT", losses=METRIC),
    "LandmarkNet": Method("bpmt_ext.nets.landmarkgait:LandmarkNet"),
    "ParsingNet": Method("bpmt_ext.nets.landmarkgait:ParsingNet", stages={"t1": ("Backbone.",)}),
    "LandmarkGait": Method(
        "bpmt_ext.nets.landmarkgait:LandmarkGait", stages={"t2": ("Backbone.", "refine.", "grouping.")},
        losses=RETRIEVAL, classes="num_class", classifier=(("Head1.fc_bin", 2), ("BNNecks.fc_bin", 2)),
    ),
    "SkeletonGait": Method("bpmt_ext.nets.skeletongait:SkeletonGait", **BNNECK),
}  # fmt: skip


def add_method(name: str, method: Method) -> None:
    """Bring a network of your own under a name of its own. UserError for a name that is taken."""
    if name in METHODS:
        raise UserError(f"there is a network {name!r} already ({METHODS[name].target}); give yours another name")
    METHODS[name] = method


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
    identities (used where the network classifies and the config does not count them) come from the data.

    Raises UserError where the network refuses a value.
    """
    method = get_method(name)
    network = method.network()
    filled = normalise_arguments(arguments)
    if method.classes:
        wanted = filled.setdefault(method.classes, classes)
        if not isinstance(wanted, int) or (wanted < classes and wanted != 0):
            raise UserError(
                f"{where}.{method.classes}: {wanted} classes for {classes} training identities; "
                "leave the key out to count them"
            )
    for key in ("max_frames", "embedding_width"):
        if key in filled and not (isinstance(filled[key], int) and filled[key] >= 1):
            raise UserError(f"{where}.{key} is {filled[key]!r}; give a whole number of at least 1")
    try:
        return network(skeleton=skeleton, **filled)
    except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:  # also sizes of 0 and below 0
        raise UserError(f"{where}: {name} refuses its settings: {error}") from error
