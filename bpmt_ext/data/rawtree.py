"""A raw data set's folder in, one job per sequence folder out; what does not fit is said with what was found.

What the converters share in looking through `<id>/<type>/<view>/` and its like: descending by name patterns, and
telling which of a sequence's files holds the poses.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bpmt_ext.data.convert import Job, Raw
from bpmt_ext.data.posearrays import read_pose_pickle
from bpmt_ext.data.posetexts import COCO_JOINTS
from bpmt_ext.errors import UserError

FROM_DOCUMENTATION = (
    "  this layout was taken from documentation, not from the data: look at the report and some sequences before use"
)


def entered(root: Path, *inner: str, first: re.Pattern[str]) -> Path:
    """The folder to look in: `root`, or the one of these names in it; capitals do not count.

    first: names of the folders on the first level of the layout. UserError if `root` is no folder, holds two of the
    inner folders, or one of them and the layout beside it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: is no folder; give --input the unpacked data.")
    names = {name.lower() for name in inner}
    there = sorted(path for path in root.iterdir() if path.name.lower() in names and path.is_dir())
    if len(there) > 1:
        both = " and ".join(path.name for path in there)
        raise UserError(f"{root}: holds {both}; give --input one of them, each becomes a set of its own.")
    beside = [path.name for path in sorted(root.iterdir()) if there and first.fullmatch(path.name) and path.is_dir()]
    if beside:
        raise UserError(f"{root}: holds {there[0].name} and, beside it, {beside[0]}; give --input the folder that is "
                        "meant, and nothing else in it.")  # fmt: skip
    return there[0] if there else root


def descend(root: Path, patterns: Sequence[re.Pattern[str]]) -> tuple[list[Path], list[str]]:
    """(folders whose names fit the patterns level by level, whatever else lies on those levels), both sorted."""
    level, ignored = [root], []
    for pattern in patterns:
        entries = sorted(entry for folder in level for entry in folder.iterdir())
        level = [entry for entry in entries if pattern.fullmatch(entry.name) and entry.is_dir()]
        ignored += [str(entry) for entry in sorted(set(entries) - set(level))]
    return level, ignored


def nothing_found(root: Path, layout: str, ignored: Sequence[str]) -> UserError:
    """The error for a folder without a sequence: what was expected and what is there."""
    there = [str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path for path in ignored]
    if not there:
        there = sorted(path.name for path in root.iterdir())
    found = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "") or "nothing"
    return UserError(f"{root}: no sequence found; expected {layout} below it, found {found}.")


def find_pickles(root: Path, patterns: Sequence[re.Pattern[str]], layout: str) -> tuple[list[Job], list[str]]:
    """(one job per folder <id>/<type>/<view>, what was passed over); the pickle becomes id/type/view/view.pkl."""
    folders, ignored = descend(root, patterns)
    if not folders:
        raise nothing_found(root, layout, ignored)
    return [Job(str(path), f"{path.relative_to(root).as_posix()}/{path.name}.pkl") for path in folders], ignored


def pick_file(folder: Path, rule: str | None) -> Path | str:
    """The file of a sequence folder that holds the poses, or why it cannot be told.

    rule: a file name with * and ?, which exactly one file must fit. Without: the only pickle, else the one named as the
    folder, else the only one with `pose` in its name.
    """
    pickles = sorted(path for path in folder.iterdir() if path.suffix == ".pkl" and path.name[0] != ".")
    if rule is not None:
        fitting = [path for path in pickles if fnmatch.fnmatchcase(path.name, rule)]
        return fitting[0] if len(fitting) == 1 else f"{len(fitting) or 'no'} files named {rule}"
    for fitting in (pickles, [path for path in pickles if path.stem == folder.name],
                    [path for path in pickles if "pose" in path.name.lower()]):  # fmt: skip
        if len(fitting) == 1:
            return fitting[0]
    return "several pickles, none told by its name" if pickles else "no pickle"


def read_picked(job: Job, rule: str | None) -> Raw:
    """The poses of a sequence folder whose pickles are modalities, as (t, 17, 3)."""
    picked = pick_file(Path(job.source), rule)
    if isinstance(picked, str):
        return Raw(np.empty((0, COCO_JOINTS, 3)), faults=[f"{job.source}: {picked}"], refused=picked)
    return read_pose_pickle(picked, COCO_JOINTS)


