"""Nothing in; every entry point with small good files, the words that work on them and the options it knows, out."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import Entry, Tree
from test_action_datasets import (
    MISSING,
    NTU,
    NTU_NAMES,
    PENN,
    SKELETICS,
    UCLA,
    annotations,
    ntu_raw,
    skeletics_raw,
    ucla_raw,
)
from test_converters import (
    CASIAB,
    CCPG,
    GENERIC,
    GREW,
    OUMVLP,
    SUSTECH,
    casiab_csv,
    casiab_raw,
    ccpg_raw,
    generic_raw,
    grew_raw,
    oumvlp_raw,
    sustech_raw,
)
from test_datasets import GAIT3D, KINECT, gait3d_raw, kinect_raw
from test_silhouette_converters import SILHOUETTES, USF, png_raw, usf_samples

from bpmt_ext.data.pickles import read_pickle

TEXTS = {".txt", ".csv", ".skeleton", ".py"}


def tree_of(folder: Path, keep: Callable[[str], bool] = lambda name: True) -> Tree:
    """The files below a folder as values: what is damaged is their content, not only their bytes."""
    tree: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or not keep(name):
            continue
        kind = path.suffix.lower()
        if kind == ".json":
            tree[name] = json.loads(path.read_text())
        elif kind == ".pkl":
            tree[name] = read_pickle(path)
        elif kind == ".npz":
            with np.load(path) as file:
                tree[name] = dict(file)
        else:
            tree[name] = path.read_text() if kind in TEXTS else path.read_bytes()
    return tree


def built(make: Callable[[Path], Any], *starts: str, under: str = "raw") -> Tree:
    """The files that a maker of raw data writes whose names begin so, below `raw`."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / under)
        return tree_of(Path(folder), lambda name: not starts or name.removeprefix(f"{under}/").startswith(starts))


def words(*more: str, raw: str = "raw") -> list[str]:
    return ["--input", raw, "--output", "out", "--workers", "1", *more]


COMMON: dict[str, tuple[str, ...]] = {
    "--min-frames": ("1", "2", "0", "99"), "--folds": ("2", "3", "0", "1", "9"), "--inner": (), "--workers": ("1", "0"),
    "--input": ("raw", "out", "raw/none", "."), "--output": ("out", "raw", "out/deeper"),
}  # fmt: skip
ACTIONS = COMMON | {"--held-out": ("0", "0.4", "1", "-0.1", "0.999"), "--seed": ("0", "-1", "9")}
BODIES = ACTIONS | {
    "--bodies": ("1", "2", "3"), "--denoise": ("off", "published", "motion", "on"), "--absent": ("copy", "zero"),
    "--centre": (),
}  # fmt: skip


def _penn() -> Tree:
    pose = np.random.default_rng(0).uniform(1, 90, (2, 13, 2)).round(2)
    seen = np.ones((2, 13), np.uint8)
    return {f"raw/labels/{i:04d}.mat": {"x": pose[..., 0], "y": pose[..., 1], "visibility": seen, "action": action,
                                        "pose": "back", "train": 1 if i < 3 else -1, "bbox": np.zeros((2, 4))}
            for i, action in enumerate(("squat", "bowl", "situp", "bowl"), 1)}  # fmt: skip


def _usf() -> Tree:
    mark = {"Gal": "g", "PrbA": ""}
    return {f"raw/{name}.mat": {f"fea3D{mark[name]}": usf_samples(2, 1), f"gnd{mark[name]}": np.array([[1.0], [2.0]])}
            for name in mark}  # fmt: skip


def _lists(probe: str | None = None) -> Any:
    lists: dict[str, Any] = {"TRAIN_SET": ["0000"], "TEST_SET": ["0001"]}
    return lists | ({"PROBE_SET": [probe]} if probe else {})


SHORT = {"casiab": 60, "ccpg": 60, "sustech1k": 40, "oumvlp": 30, "grew": 40, "kinectgait": 150, "generic": 80,
         "silhouettes": 50}  # cases in `make test`; the others 100


@functools.cache
def converters() -> dict[str, Entry]:
    """The converters by their names."""
    grew = ("train/00001", "test/gallery/00001/t16VLaQf", "test/probe/eta")
    layouts = {"casiab": "GaitDatasetB-silh/001", "oumvlp": "Silhouette_000-00", "ccpg": "000",
               "psymo": "silhouettes/0/", "folders": "anna"}  # fmt: skip
    lists = {"lists.json": _lists("0001-camid1_videoid0-seq0")}
    mini = [name for name in NTU_NAMES if "C001" in name][:4]
    made: list[tuple[str, Any, list[tuple[Tree, list[str]]], dict[str, tuple[str, ...]]]] = [
        ("casiab", CASIAB, [(built(casiab_raw, "001/nm-01", "074/cl-02/000"), words()),
                            (built(lambda p: casiab_csv(p.with_suffix(".csv"))), words(raw="raw.csv"))],
         COMMON | {"--pose-file": ("*.pkl", "0*", "x")}),
        ("ccpg", CCPG, [(built(ccpg_raw, "000", "100/U0_D0_BG"), words())], COMMON | {"--pose-file": ("*.pkl", "x")}),
        ("sustech1k", SUSTECH, [(built(sustech_raw, "0000/00-nm", "0001") | {"lists.json": _lists()},
                                 words("--partition", "lists.json"))],
         COMMON | {"--partition": ("lists.json", "raw", "gone"), "--pose-file": ("*Pose.pkl", "11*")}),
        ("gait3d", GAIT3D, [(built(lambda p: gait3d_raw(p, (9, 10), 2)) | lists, words("--partition", "lists.json"))],
         COMMON | {"--partition": ("lists.json", "gone"), "--frame-sort": ("numeric", "lexical")}),
        ("oumvlp", OUMVLP, [(built(oumvlp_raw, "alphapose/00001/195_00", "alphapose/10307/000_01"), words())],
         COMMON | {"--person": ("first", "largest", "track"), "--joints": ("17", "18", "1")}),
        ("grew", GREW, [(built(grew_raw, *grew), words())], COMMON | {"--frame-sort": ("numeric", "lexical")}),
        ("kinectgait", KINECT, [(built(lambda p: kinect_raw(p, {(1, 1): 3, (2, 1): 2})), words("--skip"))],
         COMMON | {"--step": ("1", "2", "0"), "--clip": ("1", "2", "0"), "--skip": ("Person001/1", "x")}),
        ("generic", GENERIC, [(built(generic_raw), words(raw="raw/manifest.json"))], COMMON),
        ("ntu_rgbd", NTU, [(built(lambda p: ntu_raw(p, mini[:2])) | {"missing.txt": MISSING}, words()),
                           (built(lambda p: annotations(p.with_suffix(".pkl"), mini)), words(raw="raw.pkl"))],
         BODIES | {"--benchmark": ("ntu60", "ntu120"), "--missing": ("missing.txt", "gone")}),
        ("nw_ucla", UCLA, [(built(ucla_raw, "all_sqe/a01_s01", "all_sqe/a12_s02_e00_v01"), words())], ACTIONS),
        ("penn_action", PENN, [(_penn(), words())], ACTIONS | {"--invisible": ("fill", "keep", "zero")}),
        ("skeletics152", SKELETICS,
         [(built(skeletics_raw, "vibe_results_train/tai chi/q", "vibe_results_val"), words())], BODIES),
        ("silhouettes", SILHOUETTES, [(built(lambda p, k=layout: png_raw(p, k), start), words("--layout", layout))
                                      for layout, start in layouts.items()],
         COMMON | {"--layout": (*layouts, "x"), "--size": ("64x64", "64x44")}),
        ("usf", USF, [(_usf(), words())], COMMON),
    ]  # fmt: skip
    return {name: Entry(name, module.main, name, tuple(trees), options, short=SHORT.get(name, 100))
            for name, module, trees, options in made}
