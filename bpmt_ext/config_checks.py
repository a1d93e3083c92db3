"""Merged config values in, sentences about what is wrong or left over out.

Three things live here: the check of names against what a class takes, the translation of pydantic's faults, and
the short table of keys that the hosts' own configs carry without effect.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ValidationError

from bpmt_ext.config_layers import Layers
from bpmt_ext.errors import UserError


def _one_slip(a: str, b: str) -> bool:
    """Whether one letter too many, too few or wrong, or two neighbours swapped, is all that parts a from b."""
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return max(len(a), len(b)) <= 1 or (len(a) == 2 and a == b[::-1])


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like `word`, None where none is; one slip apart counts as nearer than any other."""
    word, spelling = str(word).lower(), {name.lower(): name for name in known}
    slips = [name for name in spelling if _one_slip(word, name)]
    close = difflib.get_close_matches(word, slips or spelling, n=1, cutoff=0.0 if slips else 0.5)
    return spelling[close[0]] if close else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them."""
    known = list(known)
    close = nearest(word, known)
    return f"; did you mean {close}?" if close else f"; known are {', '.join(sorted(known)) or 'none'}"


def parameters_of(target: Callable[..., Any], supplied: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """The parameters of a callable that a config key can fill: those with a name, but for the `supplied` ones."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(target).parameters
    return {name: p for name, p in found.items() if p.kind in named and name not in supplied}


def component_arguments(
    target: Callable[..., Any],
    given: Mapping[str, Any],
    inherited: Collection[str],
    where: str,
    *,
    supplied: Collection[str] = (),
    also: Collection[str] = (),
    locate: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """What of `given` to call `target` with.

    given: config keys and values of one component, without the key that chose it. inherited: those of them that
    only the defaults brought; they are dropped silently where `target` does not take them. where: the section, with
    its file, for the sentences. supplied: arguments the caller brings itself. also: names that mean something
    beside the arguments, for suggestions. locate: key -> its place, where the keys of a section come from several
    files. Raises UserError: one line for each unknown key, for each required one missing and for text where the
    callable's own default is a number.
    """
    takes = parameters_of(target, supplied)
    place = locate or (lambda name: f"{where}.{name}")
    arguments: dict[str, Any] = {}
    faults: list[str] = []
    misspelt: set[str | None] = set()
    for name, value in given.items():
        if name in takes:
            arguments[name] = value
            if isinstance(value, str) and _wants_number(takes[name]):
                faults.append(f"{place(name)} should be a number, got {value!r}")
        elif name not in inherited:
            faults.append(f"{place(name)}: {target.__name__} takes no such key{suggestion(name, [*takes, *also])}")
            misspelt.add(nearest(name, [*takes, *also]))
    for name, parameter in takes.items():
        if parameter.default is parameter.empty and name not in given and name not in misspelt:
            faults.append(f"{place(name)} is missing; {target.__name__} needs it")
    if faults:
        raise UserError("\n".join(faults))
    return arguments


def _wants_number(parameter: inspect.Parameter) -> bool:
    number = isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool)
    return number and "str" not in str(parameter.annotation)


TORCH = {  # section: the key that chooses, where the classes are, their base, what the engine supplies
    "optimizer_cfg": ("solver", "torch.optim", "Optimizer", "params"),
    "scheduler_cfg": ("scheduler", "torch.optim.lr_scheduler", "LRScheduler", "optimizer"),
}
_OURS = {"scheduler_cfg": "bpmt_ext.engine.schedules"}  # more of them, after torch's
STEPPED = ("OneCycleLR", "WarmupCosineLR")  # schedules whose total_steps follow trainer_cfg.total_iter


def no_rise(schedule: Any, total_steps: Any) -> bool:
    """Whether this scheduler_cfg is a OneCycleLR that would rise within one step: torch divides by one less."""
    if dig(schedule, "scheduler") != "OneCycleLR":
        return False
    try:
        return float(schedule.get("pct_start", 0.3)) * total_steps == 1
    except (TypeError, ValueError):  # no numbers: told where the schedule is built
        return False


def torch_class(section: str, name: str, where: str) -> type:
    """The solver or scheduler class of that name; UserError with a suggestion where there is none."""
    kind, module, base_name, _ = TORCH[section]
    base = getattr(import_module(module), base_name)
    names = vars(import_module(module)) | (vars(import_module(_OURS[section])) if section in _OURS else {})
    known = {
        key: value
        for key, value in names.items()
        if isinstance(value, type) and issubclass(value, base) and not key.startswith("_") and value is not base
    }
    if not isinstance(name, str) or name not in known:
        hint = suggestion(name, known) if isinstance(name, str) else "; give its name"
        raise UserError(f"{where}: there is no {kind} {str(name)[:60]!r}{hint}")
    return known[name]


def dig(values: Any, dotted: str) -> Any:
    """The value at a dotted path of mappings and lists, None where there is none."""
    for part in dotted.split("."):
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list) and part.isdecimal() and int(part) < len(values):
            values = values[int(part)]
        else:
            return None
    return values


_ONE_CYCLE = ("max_lr", "total_steps", "pct_start", "div_factor", "final_div_factor", "three_phase")
_MULTI_STEP = ("milestones", "gamma")


def _leftovers(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The hosts' leftovers as (dotted path, why it has no effect here). Everything else unknown is an error."""
    for section, keys in (("optimizer_cfg", ("momentum",)), ("scheduler_cfg", (*_ONE_CYCLE, *_MULTI_STEP))):
        name = dig(values, f"{section}.{TORCH[section][0]}")
        try:
            takes = parameters_of(torch_class(section, name, section))
        except UserError:
            continue  # an unknown name is told elsewhere
        yield from ((f"{section}.{key}", f"{name} has none") for key in keys if key not in takes)
    yield "data_cfg.remove_no_gallery", "not used by the hosts either"
    yield "data_cfg.self_supervised", "OpenGait's own"
    yield "trainer_cfg.find_unused_parameters", "OpenGait's own"
    yield "evaluator_cfg.sampler.batch_shuffle", "tests run in order"
    for section in ("trainer_cfg", "evaluator_cfg"):
        sampler = f"{section}.sampler"
        frames, _, order = str(dig(values, f"{sampler}.sample_type")).partition("_")
        reason = f"not used by sample_type {frames}_{order}"
        if frames != "unfixed":
            yield from ((f"{sampler}.frames_num_{end}", reason) for end in ("min", "max"))
        if frames == "all":
            yield f"{sampler}.frames_num_fixed", reason
        else:
            yield f"{sampler}.frames_all_limit", reason
        if order != "ordered" or frames == "all":
            yield f"{sampler}.frames_skip_num", reason
        if dig(values, f"{sampler}.type") != "RandomTripletSampler":
            yield from ((f"{sampler}.{key}", "only RandomTripletSampler has it") for key in ("P_max", "K_max"))
    losses = dig(values, "loss_cfg")
    for i, loss in enumerate(losses if isinstance(losses, list) else [losses]):
        kind = str(dig(loss, "type"))
        if kind.startswith("SupConLoss") and dig(loss, "loss_term_weight") != 1:
            path = f"loss_cfg.{i}" if isinstance(losses, list) else "loss_cfg"
            yield f"{path}.loss_term_weight", f"{kind} has weight 1 in the hosts"


def drop_leftovers(layers: Layers) -> list[str]:
    """Take the hosts' leftovers out of the values; returns those the user wrote with a meaning, by reason."""
    told: dict[str, list[str]] = {}
    for path, reason in list(_leftovers(layers.values)):
        above, _, key = path.rpartition(".")
        section = dig(layers.values, above)
        if isinstance(section, dict) and key in section:
            value = section.pop(key)
            if path in layers.sources and value:  # false, 0 and null ask for nothing
                told.setdefault(reason, []).append(path)
    return [f"{', '.join(paths)} ({reason})" for reason, paths in told.items()]


def sentences(
    error: ValidationError, schema: type[BaseModel], layers: Layers, derived: Collection[str] = ()
) -> list[str]:
    """One sentence for each key pydantic finds fault with, with its file and what would do.

    derived: paths whose value was taken from another key, which is the one to tell.
    """
    found: dict[str, list[str]] = {}
    misspelt = {path: _fault_of_name(path, schema) for path in _extra_paths(error)}
    repaired = {fault[1] for fault in misspelt.values()}
    for fault in error.errors(include_url=False):
        path = _existing(fault["loc"], layers.values, fault["type"])
        if path in derived:
            continue
        if path in misspelt:
            found[path] = [f": nothing takes this key{misspelt[path][0]}"]
        elif fault["type"] == "missing":
            section, _, name = path.rpartition(".")
            keys = [key for key in dig(layers.values, section) or () if isinstance(key, str)]
            close = nearest(name, [key for key in keys if f"{section}.{key}" in layers.sources])
            if close is not None:
                found[f"{section}.{close}"] = [f": nothing takes this key; did you mean {name}?"]
            elif path not in repaired:
                found[path] = [": missing; write it"]
        elif fault["type"] == "value_error":
            found.setdefault(path, []).extend(f": {line}" for line in str(fault["ctx"]["error"]).split("\n"))
        else:
            found.setdefault(path, []).append(_text_of(fault))
    out = []
    for path, texts in found.items():
        place = located(path, layers.sources)
        if not path:  # sections that contradict each other: the sentence begins with the key
            out.extend(located(text[2:].split(" ")[0], layers.sources) + text[text.index(" ", 2) :] for text in texts)
        elif all(text.startswith(": ") for text in texts):
            out.extend(place + text for text in texts)
        else:  # the branches of a union: one fault, several ways to mend it
            text = " or".join(dict.fromkeys(texts)).replace(" or should be", " or")
            out.append(f"{place}{text}, got {_short(dig(layers.values, path))}")
    return out


def located(path: str, sources: Mapping[str, str]) -> str:
    """`file: dotted.path`, the file being the one that wrote the key or the nearest section above it."""
    above = path
    while above and above not in sources:
        above = above.rpartition(".")[0]
    return f"{sources[above]}: {path}" if above else path


def _extra_paths(error: ValidationError) -> list[str]:
    return [".".join(map(str, fault["loc"])) for fault in error.errors() if fault["type"] == "extra_forbidden"]


def _fault_of_name(path: str, schema: type[BaseModel]) -> tuple[str, str | None]:
    """The hint for an unknown key, and the dotted path of the key it suggests."""
    above, _, name = path.rpartition(".")
    fields = known_fields(schema)
    here = fields.get(above, ())
    close = nearest(name, here)
    if close is None or close.lower() != name.lower():  # the right word in the wrong section comes first
        for section, names in fields.items():
            if name in names and section != above:
                moved = f"{section}.{name}".lstrip(".")
                return f"; did you mean {moved}?", moved
    return suggestion(name, here), f"{above}.{close}".lstrip(".") if close else None


def known_fields(schema: type[BaseModel], prefix: str = "") -> dict[str, tuple[str, ...]]:
    """The keys of every section of a schema, by the section's dotted path."""
    fields = {prefix: tuple(schema.model_fields)}
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            fields |= known_fields(field.annotation, f"{prefix}.{name}".lstrip("."))
    return fields


def _existing(loc: tuple[int | str, ...], values: Any, kind: str) -> str:
    """The dotted path of a fault as the user knows it: without the names of union branches."""
    path: list[str] = []
    for step, part in enumerate(loc):
        if isinstance(values, dict) and (part in values or (kind == "missing" and step == len(loc) - 1)):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        elif isinstance(values, dict) and part == 0:
            continue  # the only loss, written without its list
        else:
            break
        path.append(str(part))
    return ".".join(path)


def _text_of(fault: Mapping[str, Any]) -> str:
    text = fault["msg"].replace("Input should be", "should be").replace("String should", "should")
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        close = nearest(fault["input"], re.findall(r"'([^']*)'", fault["ctx"]["expected"]))
        text += f" (did you mean {close}?)" if close else ""
    return f" {text[:1].lower()}{text[1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
