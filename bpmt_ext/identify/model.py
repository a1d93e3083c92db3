"""A trained network in, the files and facts that a gallery keeps of it out; an opened gallery in, its network out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import safetensors.torch

from bpmt_ext.config import settings_from
from bpmt_ext.config_layers import read_yaml
from bpmt_ext.engine.checkpoint import load_checkpoint
from bpmt_ext.engine.embed import Model, make_model
from bpmt_ext.engine.parts import classifies, resolved_text
from bpmt_ext.errors import UserError
from bpmt_ext.identify.gallery import Gallery

CONFIG, WEIGHTS = "config.yaml", "weights.safetensors"


def kept_files(model: Model) -> dict[str, bytes]:
    """The network's resolved config and its weights."""
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in model.weights.items()}
    weights = safetensors.torch.save(tensors, {"iteration": str(model.iteration)})
    return {CONFIG: resolved_text(model.settings).encode(), WEIGHTS: weights}


def kept_facts(model: Model, shape: Sequence[int]) -> dict[str, Any]:
    """What tells a network: name, config, weights; how its embeddings (d, p) are compared; the joints it takes."""
    return {
        "network": model.settings.model_cfg.model, "config": model.settings.fingerprint, "weights": model.checksum,
        "iteration": model.iteration, "metric": model.settings.evaluator_cfg.metric, "shape": list(shape),
        "joint_format": model.skeleton.name,
    }  # fmt: skip


def check_enrolling(model: Model) -> None:
    """UserError for a network that does not tell people apart."""
    if classifies(model.settings):
        raise UserError(f"{model.settings.model_cfg.model} names actions, not people; take the config of a network of "
                        "gait, or predict")  # fmt: skip


def check_same(gallery: Gallery, model: Model) -> None:
    """UserError if the gallery was made with another network, whose embeddings cannot be compared with this one's."""
    facts = kept_facts(model, gallery.shape)
    for key, what in (("network", "network"), ("weights", "weights"), ("config", "settings")):
        if gallery.facts.get(key) != facts[key]:
            raise UserError(f"{gallery.folder}: was made with other {what} ({str(gallery.facts.get(key))[:16]}, not "
                            f"{facts[key][:16]}); leave --cfgs out to use its own, or name another gallery")


def open_model(gallery: Gallery, opts: Sequence[str] = ()) -> Model:
    """The gallery's own copy of its network. opts: `data_cfg.*` of the config, where the data has moved."""
    strange = next((text for text in opts if not text.startswith("data_cfg.")), None)
    if strange is not None:
        raise UserError(f"--opts {strange}: a gallery's network stays as it is; only data_cfg.* may change")
    path = gallery.model_file(CONFIG)
    values = read_yaml(path)
    if not isinstance(values, dict) or not values:
        raise UserError(f"{path}: holds no settings; restore the gallery from a copy")
    weights = gallery.model_file(WEIGHTS)
    state = load_checkpoint(weights)
    model = make_model(settings_from(values, opts, source=str(path)), state["model"], weights,
                       iteration=state["iteration"])  # fmt: skip
    if model.checksum != gallery.facts.get("weights"):
        raise UserError(f"{weights}: are not the weights that {gallery.folder} names; restore it from a copy")
    return model
