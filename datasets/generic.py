"""Anybody's pose files and a JSON manifest in, `<out>/<label>/<type>/<view>/<view>.pkl` float32 (t, v, c) out.

    python datasets/generic.py --input manifest.json --output OUT

The manifest, whose files lie in its own folder or below:

    {"joint_format": "coco17", "frame_rate": 25,
     "sequences": [{"file": "a.npz", "label": "anna", "type": "walk-01", "view": "cam1", "split": "train"}, ...]}

`skeleton` (a mapping as in data_cfg) may stand in place of joint_format. A file is whatever bpmt_ext.data.posefiles
reads: npz with an array `pose` (t, v, c), npy, csv, JSON of pose estimators, folders of frames. `key` names one array
or CSV sequence of several; `person` is first, largest or track. `split` is train, val, test, or probe (a test sequence
that searches); without any split no partition.json is written.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bpmt_ext.data.convert import Job, Raw, add_arguments, convert_and_report, run_entry
from bpmt_ext.data.partitions import PARTITION, Found
from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.data.posefiles import read_pose_file
from bpmt_ext.data.posejson import FILE_BYTES, load_json
from bpmt_ext.data.posepeople import PERSON_RULES
from bpmt_ext.errors import UserError
from bpmt_ext.regular import real_path
from bpmt_ext.skeletons import SKELETONS, Skeleton, get_skeleton, skeleton_from_mapping
from bpmt_ext.words import Parser

KEYS = {"joint_format", "skeleton", "frame_rate", "sequences"}
ENTRY_KEYS = {"file", "label", "type", "view", "split", "key", "person"}
SPLITS = ("train", "val", "test", "probe")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+\-]{0,99}")


@dataclass(frozen=True)
class FileJob(Job):
    """A sequence of the manifest."""

    key: str | None
    person: str


@dataclass(frozen=True)
class Manifest:
    """A checked manifest: what to read, in which joint format, and who is in which set."""

    jobs: tuple[FileJob, ...]
    skeleton: Skeleton
    frame_rate: float | None
    splits: Mapping[str, str]  # target -> split; empty where the manifest names none

    def finish(self, output: Path, targets: Sequence[str]) -> Found:
        """Write `partition.json` for what was converted."""
        names = {split: sorted(target for target in targets if self.splits.get(target) == split) for split in SPLITS}
        labels = {split: sorted({target.split("/")[0] for target in found}) for split, found in names.items()}
        lists = {"TRAIN_SET": labels["train"], "TEST_SET": sorted({*labels["test"], *labels["probe"]})}
        if labels["val"]:
            lists["VAL_SET"] = labels["val"]
        if names["probe"]:
            lists["PROBE_SET"] = ["-".join(target.split("/")[:3]) for target in names["probe"]]
        write_bytes(output / PARTITION, (json.dumps(lists, indent=1) + "\n").encode())
        counts = {key: len(entries) for key, entries in lists.items()}
        words = ", ".join(f"{count} in {key}" for key, count in counts.items())
        return {"partition": counts}, [f"  {PARTITION}: {words}"]


def _inside(folder: Path, file: Any, where: str) -> Path:
    """The file a manifest names, which must lie in the manifest's folder or below."""
    if not isinstance(file, str) or not file:
        raise UserError(f"{where}: file is {str(file)[:40]!r}; write a path relative to the manifest.")
    parts = PurePosixPath(file.replace("\\", "/"))
    outside = parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]
    path = folder / parts
    if outside or not real_path(path).is_relative_to(real_path(folder)):
        raise UserError(f"{where}: file {file[:80]!r} points outside the manifest's folder; move it there.")
    if not path.exists():
        raise UserError(f"{where}: there is no {path}; correct file.")
    return path


def _entry(entry: Any, folder: Path, where: str) -> tuple[FileJob, str | None]:
    """(the job of one entry of `sequences`, its split)."""
    if not isinstance(entry, dict):
        raise UserError(f"{where}: is a {type(entry).__name__}, not a mapping with file, label, type and view.")
    unknown = set(entry) - ENTRY_KEYS
    if unknown:
        raise UserError(f"{where}: unknown key {min(unknown)!r}; known: {', '.join(sorted(ENTRY_KEYS))}.")
    names = {key: entry.get(key) for key in ("label", "type", "view")}
    for key, name in names.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{where}: {key} is {str(name)[:40]!r}; it names a folder: letters, digits, _ . + - only.")
    split, person, key = entry.get("split"), entry.get("person", "track"), entry.get("key")
    if split is not None and split not in SPLITS:
        raise UserError(f"{where}: split is {str(split)[:40]!r}; known: {', '.join(SPLITS)}.")
    if person not in PERSON_RULES:
        raise UserError(f"{where}: person is {str(person)[:40]!r}; known: {', '.join(PERSON_RULES)}.")
    if key is not None and not isinstance(key, str):
        raise UserError(f"{where}: key is no text; it names an array of a .npz or a sequence of a .csv.")
    path = _inside(folder, entry.get("file"), where)
    return FileJob(str(path), "{label}/{type}/{view}/{view}.pkl".format(**names), key, person), split


def read_manifest(path: Path) -> Manifest:
    """The manifest, checked; UserError names the entry and key at fault."""
    if path.is_dir():
        path = path / "manifest.json"
    if not path.is_file():
        raise UserError(f"{path}: there is no such manifest; write one, see datasets/README.md.")
    content = load_json(path, FILE_BYTES)
    if not isinstance(content, dict) or not isinstance(content.get("sequences"), list) or not content["sequences"]:
        raise UserError(f"{path}: expected a mapping with joint_format (or skeleton) and a list of sequences.")
    unknown = set(content) - KEYS
    if unknown:
        raise UserError(f"{path}: unknown key {min(unknown)!r}; known: {', '.join(sorted(KEYS))}.")
    named, mapping, rate = (content.get(key) for key in ("joint_format", "skeleton", "frame_rate"))
    if (named is None) == (mapping is None):
        raise UserError(f"{path}: give joint_format (a name) or skeleton (a mapping), one of the two.")
    if named is not None and not isinstance(named, str):
        raise UserError(f"{path}: joint_format is {str(named)[:40]!r}; write the name of one format.")
    try:
        skeleton = get_skeleton(named) if mapping is None else skeleton_from_mapping(mapping)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: skeleton is malformed ({str(error)[:100]}); write it as data_cfg.skeleton.") from None
    if rate is not None and (type(rate) not in (int, float) or not 0 < rate < 10_000):
        raise UserError(f"{path}: frame_rate is {str(rate)[:40]!r}; write frames per second or leave it out.")
    read = [_entry(entry, path.parent, f"{path}: sequences[{i}]") for i, entry in enumerate(content["sequences"])]
    splits = {job.target: split for job, split in read if split is not None}
    if splits and len(splits) < len({job.target for job, _ in read}):
        i = next(i for i, (_, split) in enumerate(read) if split is None)
        raise UserError(f"{path}: sequences[{i}]: has no split while others have one; give all or none.")
    role: dict[str, str] = {}
    for target, split in splits.items():
        label, group = target.split("/")[0], "test" if split == "probe" else split
        if role.setdefault(label, group) != group:
            raise UserError(f"{path}: label {label!r} is in {role[label]} and in {group}; it belongs to one set.")
    return Manifest(tuple(job for job, _ in read), skeleton, rate, splits)


def read_sequence(job: FileJob, skeleton: Skeleton, channels: int | None) -> Raw:
    """One sequence as (t, v, c), c = `channels`."""
    found = read_pose_file(job.source, person=job.person, joint_format=skeleton, sequence=job.key)
    if channels not in (None, found.pose.shape[2]):
        raise UserError(f"{job.source}: has {found.pose.shape[2]} numbers per joint, the first file {channels}; one "
                        "set has one kind.")  # fmt: skip
    return Raw(found.pose, found.dropped, found.faults, found.facts)


def _channels(manifest: Manifest) -> int | None:
    """Numbers per joint of the first sequence that can be read; the others must have as many."""
    for job in manifest.jobs:
        try:
            return read_sequence(job, manifest.skeleton, None).pose.shape[2]
        except UserError:
            continue
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="generic", description="Pose files and a JSON manifest to pickles.")
    add_arguments(parser)
    args = parser.parse_args(argv)

    def body() -> str:
        manifest = read_manifest(args.input)
        lines = convert_and_report(
            functools.partial(read_sequence, skeleton=manifest.skeleton, channels=_channels(manifest)), manifest.jobs,
            args, converter="generic", joints=manifest.skeleton.num_joints,
            options={"joint_format": manifest.skeleton.name, "frame_rate": manifest.frame_rate},
            benchmark=manifest if manifest.splits else None,
        )  # fmt: skip
        known = manifest.skeleton.name in SKELETONS
        says = f"data_cfg.joint_format: {manifest.skeleton.name}" if known else "data_cfg.skeleton as in the manifest"
        return f"{lines}\n  in the config: {says}"

    return run_entry("generic", body)


if __name__ == "__main__":
    raise SystemExit(main())
