"""A host and a folder for made-up data in; rows of host_agreement.py on records, batches, orders and evaluation out."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from host_agreement import Host, apart, unequal

from bpmt_ext.config_schema import DataConfig
from bpmt_ext.data.batches import (
    CommonSampler,
    InferenceSampler,
    RandomTripletSampler,
    TripletSampler,
    inference_loader,
)
from bpmt_ext.data.pickles import read_pickle, write_pickle
from bpmt_ext.data.sequences import SequenceSet, load_splits
from bpmt_ext.metrics.protocols import evaluate
from bpmt_ext.metrics.ranking import distances
from bpmt_ext.synthetic import write_dataset

SCORES = ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP")
LAYOUT = [{"type": "Compose", "trf_cfg": [{"type": "SkeletonInput"}]}]
LIST_ORDER = "the host keeps the order of the partition's lists, ours sorts; labels and their numbers are the same"
NO_THRESHOLD = "OpenGait ignores frame_threshold"
NOT_SORTED = "OpenGait's allordered never takes effect: the frames stay in random order"
TIES = "the host's sort leaves the order of equal distances to chance, ours is the gallery's"


def walkers(folder: Path, name: str, frames: int | None = None) -> tuple[Path, Path]:
    """A data root of two modalities and its partition; frames: the same number in all sequences."""
    root = folder / name
    partition = write_dataset(root, train=4, test=3, cameras=2, sequences=2, seed=5)
    for file in sorted(root.rglob("*.pkl")):
        pose = np.asarray(read_pickle(file))[:frames]
        write_pickle(file, pose)
        write_pickle(file.with_name("a_second.pkl"), pose + np.float32(1))
    (root / "unlisted" / "camid1_videoid1" / "seq0").mkdir(parents=True)
    write_pickle(root / "unlisted" / "camid1_videoid1" / "seq0" / "seq0.pkl", pose)
    return root, partition


def settings(root: Path, partition: Path, **changes: Any) -> dict[str, Any]:
    base = {"dataset_name": "walkers", "dataset_root": str(root), "dataset_partition": str(partition), "cache": False,
            "frame_threshold": 0, "data_in_use": [False, True]}  # fmt: skip
    return base | changes


def both_sets(host: Host, data: dict[str, Any], training: bool) -> tuple[Any, SequenceSet]:
    """The same sequences as the host's DataSet and as ours."""
    splits = load_splits(DataConfig(**data), joints=17)
    return host.module("data.dataset").DataSet(data, training), splits.train if training else splits.test


def told(host: Host, theirs: Any, training: bool) -> tuple[list[tuple[str, ...]], list[str]]:
    """The host's records (label, type, view, file) and label set, without OpenGait's prefix of training labels."""
    start = len("walkers-") if training and host.name == "opengait" else 0
    rows = [(label[start:], *rest, *paths) for label, *rest, paths in theirs.seqs_info]
    return rows, [label[start:] for label in theirs.label_set]


def records(host: Host, folder: Path) -> None:
    """Which sequences, in which order, with which labels and arrays."""
    root, partition = walkers(folder, "records")
    shuffled, lists = folder / "shuffled.json", json.loads(partition.read_text())
    shuffled.write_text(json.dumps(lists | {key: lists[key][::-1] for key in ("TRAIN_SET", "TEST_SET")}))
    lengths = sorted(len(read_pickle(file)) for file in root.rglob("seq0.pkl"))
    cases = {
        "": {}, ", first modality": {"data_in_use": [True, False]},
        ", lists in another order": {"dataset_partition": str(shuffled)},
        ", frame_threshold": {"frame_threshold": lengths[len(lengths) // 3]},
    }  # fmt: skip
    for training in (True, False):
        for what, changes in cases.items():
            theirs, ours = both_sets(host, settings(root, partition, **changes), training)
            rows, label_set = told(host, theirs, training)
            differs = {", lists in another order": LIST_ORDER}.get(what, "")
            if what == ", frame_threshold" and host.name == "opengait":
                differs = NO_THRESHOLD
            mine = [(r.label, r.type, r.view, *map(str, r.paths)) for r in ours.records]
            name = f"{'train' if training else 'test'}{what}"
            host.add("records", f"{name}: which, and their order", {"count": unequal(rows, mine)}, differs)
            place = {row[:3]: k for k, row in enumerate(rows)}
            found = [label_set.index(rows[place[row[:3]]][0]) for row in mine]
            wrong = unequal(found, ours.labels.tolist()) + unequal(label_set, ours.label_set)
            arrays = [apart(theirs[place[row[:3]]][0][0], ours.read(k)) for k, row in enumerate(mine)]
            host.add("records", f"{name}: label numbers, arrays", {"count": wrong, "single": max(arrays)})


def host_batch(host: Host, theirs: Any, sampler: dict[str, Any], index: range) -> tuple[list[np.ndarray], Any]:
    """A batch as the host hands it to forward, its poses unpacked to (t, v, c) each."""
    batch = host.module("data.collate_fn").CollateFn(theirs.label_set, sampler)([theirs[i] for i in index])
    model = SimpleNamespace(training=False, cfgs={"evaluator_cfg": {"transform": LAYOUT}}, engine_cfg={})
    model.evaluator_trfs = host.transform(LAYOUT)
    made = host.module("modeling.base_model").BaseModel.inputs_pretreament(model, batch)
    return host.unpack(made[0][0].numpy(), made[4]), made


def batches(host: Host, folder: Path) -> None:
    """What forward receives, for the sample types that leave nothing to chance."""
    frames = 40
    equal, mixed = walkers(folder, "equal", frames), walkers(folder, "mixed")
    fixed, unfixed = ({"frames_num_fixed": k, "frames_num_min": k, "frames_num_max": k, "frames_skip_num": 0}
                      for k in (frames, 2 * frames))  # fmt: skip
    cases: list[tuple[str, str, Any, dict[str, Any], bool]] = [
        ("all_ordered", "", mixed, {}, True), ("all_unordered", "", mixed, {}, True),
        ("all_ordered", ", frames_all_limit 30", mixed, {"frames_all_limit": 30}, True),
        ("fixed_ordered", ", as long as the sequences", equal, fixed, True),
        ("fixed_ordered", ", twice as long", equal, unfixed, True),
        ("unfixed_ordered", ", as long as the sequences", equal, fixed, True),
        ("unfixed_ordered", ", twice as long", equal, unfixed, True),
        ("fixed_unordered", ", as long as the sequences, as a set of frames", equal, fixed, False),
    ]  # fmt: skip
    if host.name == "opengait":
        cases.append(("fixed_allordered", ", as long as the sequences", equal, fixed, True))
    for sample_type, what, data, given, in_order in cases:
        for training in (True, False):
            theirs, ours = both_sets(host, settings(*data), training)
            sampler = {"sample_type": sample_type, "batch_size": 6, **given}
            np.random.seed(1)
            found, made = host_batch(host, theirs, sampler, range(6))
            batch = next(iter(inference_loader(ours, sampler, None)))
            mine = [pose[mask].numpy() for pose, mask in zip(batch.pose, batch.mask, strict=True)]
            if not in_order:
                found, mine = ([x[np.lexsort(x.reshape(len(x), -1).T)] for x in side] for side in (found, mine))
            differs = NOT_SORTED if sample_type.endswith("allordered") else ""
            name = f"{sample_type}{what}, {'train' if training else 'test'}"
            worst = max(map(apart, found, mine)) if len(found) == len(mine) else float("inf")
            names = [made[1].tolist(), made[2], made[3]]
            own = [batch.label.tolist(), batch.types, batch.views]
            wrong = sum(unequal(a, b) for a, b in zip(names, own, strict=True))
            if made[4] is not None:
                wrong += unequal(made[4].ravel().tolist(), batch.mask.sum(1).tolist())
            host.add("batch", name, {"single": worst, "count": wrong}, differs)


def samplers(host: Host, folder: Path) -> None:
    """In which order sequences come."""
    theirs, ours = both_sets(host, settings(*walkers(folder, "orders")), True)
    made = host.module("data.sampler")
    for size in (1, 3, 5):
        listed = [i for batch in made.InferenceSampler(theirs, size) for i in batch]
        own = InferenceSampler(ours, size)
        mine = [i for k in range(len(own)) for i in own.at(k).tolist()]
        what = f"InferenceSampler {size}: order" + (", its padding cut off" if size > 1 else "")
        host.add("sampler", what, {"count": unequal(listed[: len(ours)], mine)})
    people, each = len(ours.label_set), len(ours.indices_by_label[0])
    batch = next(iter(made.TripletSampler(theirs, [people, each])))
    mine = TripletSampler(ours, [people, each]).at(0).tolist()
    host.add("sampler", "TripletSampler, everybody: the sequences", {"count": unequal(sorted(batch), sorted(mine))})
    runs = [[ours.labels[i] for i in side] for side in (batch, mine)]
    breaks = [sum(a != b for a, b in zip(side, side[1:], strict=False)) for side in runs]
    host.add("sampler", "TripletSampler, everybody: changes of label", {"count": float(abs(breaks[0] - breaks[1]))})
    for size, most, each in ((13, 6, 4), (128, 74, 110), (7, None, None)):
        if hasattr(made, "RandomTripletSampler"):
            listed = made.RandomTripletSampler(theirs, size, most, each).comb_list
            mine = [(p, k, size - p * k) for p, k in RandomTripletSampler(ours, size, most, each).pairs]
            listed = [tuple(pair) for pair in listed if pair[0] <= len(ours.label_set)]  # more labels than there are
            what = f"RandomTripletSampler {size}, P_max {most}, K_max {each}: labels, of each, others"
            host.add("sampler", what, {"count": unequal(listed, mine)})
    batch = next(iter(made.CommonSampler(theirs, len(ours), False)))
    mine = CommonSampler(ours, len(ours)).at(0).tolist()
    host.add("sampler", "CommonSampler, everybody: the sequences", {"count": unequal(sorted(batch), sorted(mine))})


def test_set(host: Host, probes: int, others: int, each: int) -> dict[str, Any]:
    """Names as in the benchmark's own list of probes, which the host's evaluator reads, and clustered embeddings."""
    named = json.loads((host.home / "datasets/Gait3D/Gait3D.json").read_text())["PROBE_SET"][:probes]
    listed = [name.split("-") for name in named]
    matched = [who for who, *_ in listed[probes // 10 :]]  # a tenth of the probes has no match
    gallery = [[who, f"camid{k}_videoid9", "seq9"] for who in matched for k in range(each)]
    gallery += [[f"x{k}", "camid1_videoid1", "seq0"] for k in range(others)]
    rows = listed + gallery
    order = np.random.default_rng(7).permutation(len(rows))
    who, kind, view = (list(x) for x in zip(*(rows[k] for k in order), strict=True))
    return {"labels": who, "types": kind, "views": view, "probes": set(named)}


def evaluation(host: Host) -> None:
    """Distances and the Gait3D protocol, Euclidean and cosine."""
    evaluator, metric = host.module("evaluation.evaluator"), host.module("evaluation.metric")
    rng, data = np.random.default_rng(11), test_set(host, 80, 100, 4)
    probes = data.pop("probes")
    centre = {who: rng.standard_normal((32, 5)) for who in sorted(set(data["labels"]))}
    near = np.stack([centre[who] for who in data["labels"]]) + 2 * rng.standard_normal((len(data["labels"]), 32, 5))
    cases = {"clusters": near.astype(np.float32), "clusters far from the origin": (near + 3).astype(np.float32),
             "ties": rng.integers(0, 2, (len(near), 2, 1)).astype(np.float32)}  # fmt: skip
    for what, x in cases.items():
        for kind in ("euc", "cos"):
            if what == "ties" and kind == "cos":
                continue
            theirs = evaluator.evaluate_Gait3D({"embeddings": x, **data}, "Gait3D", metric=kind)
            given = (x, data["labels"], data["types"], data["views"])
            ours = evaluate("evaluate_Gait3D", *given, metric=kind, probes=probes)["metrics"]
            figures = np.array([[theirs[f"scalar/test_accuracy/{name}"], ours[name]] for name in SCORES]).T
            said = "; ours " + ", ".join(f"{name} {ours[name]:.4f}" for name in SCORES)
            tied = TIES if what == "ties" else ""
            host.add("evaluation", f"evaluate_Gait3D {kind}, {what}{said}", {"single": apart(*figures)}, tied)
            if what != "ties":
                far = apart(metric.cuda_dist(x[:50], x[50:], kind).numpy(), distances(x[:50], x[50:], kind).numpy())
                host.add("evaluation", f"distances {kind}, {what}", {"single": far})
    x = torch.zeros(2, 4, 3)
    x[1] = 1  # an embedding without length
    far = apart(metric.cuda_dist(x[:1].numpy(), x[1:].numpy(), "cos").numpy(), distances(x[:1], x[1:], "cos").numpy())
    host.add("evaluation", "distances cos, an embedding of zeros", {"single": far})
