"""A protocol's name and a data set's in; the row of the table that says how it is measured out.

A row says who is probe, who is gallery and which figures are made (specs/protocols.md, sections 3 and 9). A new data
set is a new row: one `Condition` per reported setting, made of two selectors over `Roster`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bpmt_ext.errors import UserError
from bpmt_ext.metrics.figures import Matrix, Ranking
from bpmt_ext.metrics.roster import PROBE_SET, SAME_CAMERA, THE_REST, Condition, of_type, with_type

ANY = "*"  # in place of a data set's name: the row holds for all
@dataclass(frozen=True)
class Protocol:
    """A row of the table. The first figure is the headline, named as the data set's papers name theirs."""

    conditions: tuple[Condition, ...] = (Condition("", PROBE_SET, THE_REST),)
    figures: tuple[Ranking | Matrix, ...] = (Ranking(),)
    probes: str = "unused"  # the list of probe names is "needed", "optional" or "unused"
    same_camera: tuple[str, ...] = ("keep",)  # what the caller may ask for; the first is the rule
    camera: str | None = None  # where the camera is read, of a view-by-view protocol the view; None: as the caller says
    views: bool = False  # view by view: every condition needs all of them
    macro: bool = False  # also Rank-1 as mean over identities
    submission: Condition | None = None  # whose ranking goes into a file for a server


_POOLED = Ranking("pooled", "drop_all")  # the gallery of all views but the probe's own
_VIEWS = {"camera": "view", "views": True}
_CASIA_B = of_type("nm-01", "nm-02", "nm-03", "nm-04")
_CASIA_B_MIXED = of_type("nm-02", "bg-02", "cl-02")
_OUMVLP = (Condition("", of_type("00"), of_type("01")),)
_GREW = (Condition("", of_type("02"), of_type("01")),)
_SUSTECH1K = {
    "Normal": ("01-nm",), "Bag": ("bg",), "Clothing": ("cl",), "Carrying": ("cr",), "Umbrella": ("ub",),
    "Uniform": ("uf",), "Occlusion": ("oc",), "Night": ("nt",), "Overall": ("01", "02", "03", "04"),
}  # fmt: skip
_CCPG = {
    "CL": (("U0_D0_BG", "U0_D0"), ("U1_D1", "U2_D2", "U3_D3")), "UP": (("U3_D3",), ("U0_D3",)),
    "DN": (("U1_D0",), ("U1_D1",)), "BG": (("U0_D0_BG",), ("U0_D0",)),
}  # fmt: skip
_PSYMO = ("NM", "BG", "CL", "PH", "TXT", "WSF", "WSS")  # each in one walk but the first, whose first is the gallery
_PSYMO_PROBES = {name: f"{name.lower()}-{'02' if name == 'NM' else '01'}" for name in _PSYMO}

PROTOCOLS: Mapping[str, Mapping[str, Protocol]] = MappingProxyType(
    {
        "evaluate_Gait3D": {ANY: Protocol(probes="needed")},
        "evaluate_retrieval": {
            ANY: Protocol(figures=(Ranking("", None),), probes="optional", same_camera=SAME_CAMERA, macro=True)
        },
        "thesis_rank1": {ANY: Protocol()},  # leave-one-out over everybody, same camera allowed
        "evaluate_indoor_dataset": {
            "CASIA-B": Protocol(
                (
                    Condition("NM", of_type("nm-05", "nm-06"), _CASIA_B),
                    Condition("BG", of_type("bg-01", "bg-02"), _CASIA_B),
                    Condition("CL", of_type("cl-01", "cl-02"), _CASIA_B),
                ),
                (Matrix(), _POOLED), **_VIEWS,
            ),
            "OUMVLP": Protocol(_OUMVLP, (Matrix(), _POOLED), **_VIEWS),
            "SUSTech1K": Protocol(
                tuple(Condition(name, with_type(*parts), with_type("00-nm")) for name, parts in _SUSTECH1K.items()),
                (Matrix(), _POOLED), **_VIEWS,
            ),
            "USF": Protocol(  # a recording is cut into pieces, gallery-<k>; everybody is in the gallery
                tuple(Condition(name, with_type(f"probe{name}-"), with_type("gallery-")) for name in "ABC"),
                (Ranking(every_probe=True),),
            ),
            "PsyMo": Protocol(  # a view is <angle>-<direction>
                tuple(
                    Condition(name, of_type(*kinds), of_type("nm-01")) for name, kinds in (
                        *((name, (kind,)) for name, kind in _PSYMO_PROBES.items()),
                        ("Overall", tuple(_PSYMO_PROBES.values())),
                    )
                ),
                (Matrix(), _POOLED), **_VIEWS,
            ),
        },
        "evaluate_real_scene": {"GREW": Protocol(_GREW, (Ranking(every_probe=True, digits=2),))},
        "GREW_submission": {
            "GREW": Protocol(
                _GREW, (Ranking("local", every_probe=True, digits=2),),
                submission=Condition("submission", of_type("03"), of_type("01", "02")),
            ),
        },
        "evaluate_CCPG": {
            "CCPG": Protocol(
                tuple(Condition(name, of_type(*p), of_type(*g)) for name, (p, g) in _CCPG.items()),
                (Ranking("", "drop"), Matrix("gait"), _POOLED), camera="view_prefix", views=True,
            ),
        },
    }
)  # fmt: skip

_CROSS = Ranking("", "drop", every_probe=True, by_view=True, digits=2)
CROSS_VIEW: Mapping[str, Mapping[str, Protocol]] = MappingProxyType(
    {  # evaluator_cfg.cross_view_gallery: true
        "evaluate_indoor_dataset": {
            "CASIA-B": Protocol(
                tuple(Condition(name, of_type(f"{name.lower()}-01"), _CASIA_B_MIXED) for name in ("NM", "BG", "CL")),
                (_CROSS,), **_VIEWS,
            ),
            "OUMVLP": Protocol(_OUMVLP, (_CROSS,), **_VIEWS),
        },
    }
)  # fmt: skip

# two configs of FastPoseGait name a protocol that has no rule for their data set, and stop there at the test
STAND_INS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("evaluate_indoor_dataset", "GREW"): "evaluate_real_scene",
        ("evaluate_CCPG", "SUSTech1K"): "evaluate_indoor_dataset",
    }
)


def find_row(name: str, dataset: str | None, cross_view_gallery: bool) -> tuple[str, Protocol]:
    """-> the protocol that is measured, which STAND_INS may have put in place of `name`, and its row. UserError for a
    name, or a data set of it, that has no row."""
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(PROTOCOLS)}."
        raise UserError(f"evaluator_cfg.eval_func: {name!r} is not known; {hint}")
    name = STAND_INS.get((name, dataset), name)
    rows = CROSS_VIEW.get(name, {}) if cross_view_gallery else PROTOCOLS[name]
    for key in (dataset, ANY):
        if key in rows:
            return name, rows[key]
    if not rows:
        raise UserError(f"evaluator_cfg.cross_view_gallery: {name} has no such rule; leave it false.")
    if cross_view_gallery and dataset in PROTOCOLS[name]:
        raise UserError(
            f"evaluator_cfg.cross_view_gallery: there is a rule for {', '.join(rows)}, not for {dataset}; leave it "
            "false: its `pooled` figures have a gallery of all views."
        )
    raise UserError(
        f"evaluator_cfg.eval_func: {name} has rules for {', '.join(rows)}, but data_cfg.test_dataset_name is "
        f"{dataset!r}; name one of them there if your types and views are as theirs, or use evaluate_retrieval."
    )
