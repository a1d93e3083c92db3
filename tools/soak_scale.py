"""Made-up galleries, data sets and sequences of great size in; how long they take and the memory they need out.

    python tools/soak_scale.py --minutes 10 --seed 0 --json scale.json

| part | size | must hold |
|---|---|---|
| gallery | a million entries of 100,000 people, 256 x 5 float32, 5.1 GB on disk | the nearest is the right one |
| data | 100,000 sequences of 10,000 people, packed; the head tells all 10,000 apart | every sequence read; a training |
| long | one sequence of 5,000 frames, through the whole network | the same embedding twice, finite |

Each runs in a process of its own, whose largest resident memory is measured and bounded by LIMITS. Below 5 minutes the
sizes are less in proportion, and the figures say so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bpmt_ext.cli import host_main
from bpmt_ext.config import load_settings
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.data.sequences import SequenceSet, Splits
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.embed import embed_walks, make_model
from bpmt_ext.engine.logs import write_json
from bpmt_ext.engine.stages import build_run, load_data
from bpmt_ext.identify.gallery import SHARD_ENTRIES, Entry, Gallery
from bpmt_ext.identify.poses import Walk
from bpmt_ext.identify.search import search
from bpmt_ext.report.tables import text_table
from bpmt_ext.skeletons import get_skeleton

SHAPE = (256, 5)
PER_PERSON, FRAMES = 10, 8
LIMITS = {"gallery": 1536, "data": 2048, "long": 2048}  # MiB of resident memory at most
FULL = 5.0  # minutes from which on the sizes are whole
Found = dict[str, Any]


def gallery(folder: Path, seed: int, share: float) -> Found:
    """Enroll people by the shard, look for some of them."""
    count = max(2000, int(1_000_000 * share))
    rng, begin = np.random.default_rng(seed), time.monotonic()
    facts = {"network": "made up", "metric": "euc", "shape": list(SHAPE), "weights": "0", "config": "0"}
    whole = Gallery.create(folder / "g", facts, {})
    probes, wanted = [], []
    for start in range(0, count, SHARD_ENTRIES):
        rows = range(start, min(start + SHARD_ENTRIES, count))
        embeddings = rng.standard_normal((len(rows), *SHAPE), dtype=np.float32)
        whole.add([Entry(f"p{k // PER_PERSON:06d}", f"{k}.json", "1", 60, "2026-01-01") for k in rows], embeddings)
        if start % (16 * SHARD_ENTRIES) == 0:
            probes.append(embeddings[7] + np.float32(0.01))
            wanted.append(start + 7)
    made = time.monotonic()
    opened = Gallery.open(folder / "g")
    found = search(opened, np.stack(probes), top=5)
    searched = time.monotonic()
    right = all(row[0].number == number and len(row) == 5 for row, number in zip(found, wanted, strict=True))
    gone = opened.remove("p000000")
    ending = opened.people()
    size = sum(path.stat().st_size for path in (folder / "g").rglob("*") if path.is_file())
    return {
        "entries": len(opened) + gone, "people": len(ending) + 1, "GiB on disk": round(size / 2**30, 2),
        "seconds to enroll": round(made - begin, 1), "probes": len(probes),
        "seconds to search": round(searched - made, 1), "right": right and gone == PER_PERSON,
    }  # fmt: skip


def _config(folder: Path, seed: int, frames: int) -> Path:
    """A small BPMT over the data of `folder`."""
    clip = {"type": "TripletSampler", "batch_size": [8, 2], "sample_type": "fixed_ordered", "frames_num_fixed": FRAMES}
    values = {
        "data_cfg": {"dataset_name": "scale", "dataset_root": str(folder / "data"), "num_workers": 0, "cache": False,
                     "packed": True, "dataset_partition": str(folder / "data.json"), "validation": 0.0},
        "evaluator_cfg": {"eval_func": "evaluate_retrieval", "transform": [{"type": "FillMissing"}],
                          "sampler": {"sample_type": "all_ordered", "batch_size": 1, "frames_all_limit": frames}},
        "loss_cfg": [{"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.2},
                     {"type": "CrossEntropyLoss", "log_prefix": "softmax", "scale": 16}],
        "optimizer_cfg": {"solver": "AdamW", "lr": 0.001},
        "model_cfg": {"model": "BPMT", "width": 32, "heads": 4, "layers": 1, "feedforward": 64, "max_frames": frames,
                      "embedding_width": 64},
        "trainer_cfg": {"total_iter": 5, "log_iter": 5, "save_iter": 5, "save_name": "scale", "seed": seed,
                        "sampler": clip, "transform": [{"type": "FillMissing"}]},
    }  # fmt: skip
    (folder / "scale.yaml").write_text(json.dumps(values))  # which is YAML
    return folder / "scale.yaml"


def data(folder: Path, seed: int, share: float) -> Found:
    """Write the sequences, pack them, read them all, train with a class for every person."""
    people = max(20, int(10_000 * share))
    rng, begin = np.random.default_rng(seed), time.monotonic()
    for person in range(people):
        poses = rng.uniform(0, 100, (PER_PERSON, FRAMES, 17, 3)).astype(np.float32)
        for k, pose in enumerate(poses):
            place = folder / f"data/p{person:05d}/c{k}_0/v"
            place.mkdir(parents=True)
            write_pickle(place / "v.pkl", pose)
    labels = [f"p{person:05d}" for person in range(people)]
    (folder / "data.json").write_text(json.dumps({"TRAIN_SET": labels, "TEST_SET": []}))
    made = time.monotonic()
    settings = load_settings(_config(folder, seed, FRAMES))
    load_data(settings)
    packed = time.monotonic()
    sequences = load_data(settings).train
    opened = time.monotonic()
    sums = sum(float(sequences.read(i)[0, 0, 0]) for i in range(len(sequences)))
    read = time.monotonic()
    os.chdir(folder)
    status = host_main(["--cfgs", "scale.yaml", "--phase", "train"])
    if status:
        return {"sequences": len(sequences), "right": False}
    (file,) = (folder / "output").rglob("scale-00005.pt")
    weights = torch.load(file, weights_only=True)["model"]
    told = any(people in x.shape for x in weights.values())
    return {
        "sequences": len(sequences), "identities in the head": people, "seconds to write": round(made - begin, 1),
        "seconds to pack": round(packed - made, 1), "seconds to open again": round(opened - packed, 1),
        "seconds to read all": round(read - opened, 1), "seconds for 5 iterations": round(time.monotonic() - read, 1),
        "checkpoint MiB": round(file.stat().st_size / 2**20, 1),
        "right": told and np.isfinite(sums) and len(sequences) == people * PER_PERSON,
    }  # fmt: skip


def long(folder: Path, seed: int, share: float) -> Found:
    """Embed one sequence as a whole, twice."""
    frames = max(100, int(5000 * share))
    (folder / "data.json").write_text("{}")
    settings = load_settings(_config(folder, seed, frames))
    nobody = Splits(*(SequenceSet([]) for _ in range(3)), probes=None, dropped={})
    torch.manual_seed(seed)
    run = build_run(settings, nobody, World(0, 1, torch.device("cpu")), folder, classes=2)
    model = make_model(settings, run.network.state_dict(), folder / "none.pt")
    pose = np.random.default_rng(seed).uniform(0, 100, (frames, 17, 3)).astype(np.float32)
    walk = Walk(folder / "walk", "1", pose, np.arange(frames), get_skeleton("coco17"))
    begin = time.monotonic()
    first = embed_walks(model, [walk])
    took = time.monotonic() - begin
    same = np.array_equal(first, embed_walks(model, [walk]))
    return {"frames": frames, "seconds to embed": round(took, 2), "right": bool(same and np.isfinite(first).all())}


PARTS: dict[str, Callable[[Path, int, float], Found]] = {"gallery": gallery, "data": data, "long": long}


def _peak() -> int:
    """MiB of the largest resident memory of this process so far."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


def _measured(name: str, seed: int, share: float) -> Found:
    with tempfile.TemporaryDirectory(prefix="soak-scale-") as folder:
        begin, before = time.monotonic(), _peak()
        found = PARTS[name](Path(folder), seed, share)
        peak = _peak()
        os.chdir("/")
        return {**found, "MiB at the start": before, "MiB at most": peak, "seconds": round(time.monotonic() - begin, 1),
                "held": bool(found.pop("right")) and peak <= LIMITS[name]}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    args = parser.parse_args(argv)
    share = min(1.0, args.minutes / FULL)
    found = {}
    for name in args.only:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(_measured, (name, args.seed, share))
    rows = [[name, key, str(figure)] for name, one in found.items() for key, figure in one.items()]
    sys.stdout.write(text_table(["part", "figure", "value"], rows, left=3) + "\n")
    if args.json:
        write_json(args.json, found)
    return 0 if all(one["held"] for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
