"""Our transforms, losses and protocols in; the same numbers, as a host calls them, out."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import walking
from hypothesis import given, settings
from hypothesis import strategies as st
from standin import Host, running, silhouettes

from bpmt_ext.data.transforms import TRANSFORMS
from bpmt_ext.draws import Draws
from bpmt_ext.hosts.checkouts import HOSTS
from bpmt_ext.hosts.components import cut, host_loss
from bpmt_ext.losses import LOSSES
from bpmt_ext.metrics.protocols import evaluate
from bpmt_ext.skeletons import get_skeleton


@pytest.fixture(params=sorted(HOSTS))
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Host:
    return running(request.param, monkeypatch)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 99))
def test_cutting_equals_a_loop(lengths: list[int], seed: int) -> None:
    parts = [torch.randn(t, 4, 3, generator=torch.Generator().manual_seed(seed + i)) for i, t in enumerate(lengths)]
    pose, mask = cut(torch.cat(parts), torch.tensor([lengths], dtype=torch.int32))
    assert pose.shape == (len(lengths), max(lengths), 4, 3) and mask.dtype == torch.bool
    for i, part in enumerate(parts):
        assert torch.equal(pose[i, mask[i]], part)
        assert mask[i].tolist() == [k < lengths[i] for k in range(max(lengths))]
        assert (pose[i, lengths[i] :] == part[-1]).all()  # padding repeats the last frame


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"Compose"}))
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_a_transform_in_the_host_gives_our_numbers(host: Host, name: str, kind: type) -> None:
    ours, theirs = TRANSFORMS[name], getattr(host.modules["data.transform"], f"Bpmt{name}")
    assert set(inspect.getfullargspec(theirs.__init__)[0]) == set(inspect.signature(ours).parameters) | {"self"}
    defaults = {key: p.default for key, p in inspect.signature(ours).parameters.items()}
    skeleton = get_skeleton(defaults.get("joint_format", "coco17"))
    pose = walking(1, 9, skeleton.num_joints, skeleton.dims + 1).numpy().astype(kind)[0]
    if ours.__module__ == "bpmt_ext.data.maps" and name != "SkeletonMaps":
        defaults |= {"probability": 1.0} if "probability" in defaults else {}
        pose = TRANSFORMS["SkeletonMaps"](cut=0)(
            torch.from_numpy(200 * pose)[None].float(), torch.ones(1, 9, dtype=torch.bool))[0].numpy().astype(kind)
    if ours.__module__ == "bpmt_ext.data.silhouette_transforms":
        defaults |= {"probability": 1.0} if "probability" in defaults else {}
        pose = silhouettes(1)[0][0][:9].astype(kind)
    pose[2, 3 % pose.shape[1]] = 0  # a lost joint
    before = pose.copy()
    np.random.seed(4)
    found = [theirs(**defaults)(pose) for _ in range(2)]
    assert np.array_equal(pose, before)
    np.random.seed(4)
    for one in found:
        key = Draws(torch.from_numpy(np.random.randint(0, 2**62, size=1)))
        x = torch.from_numpy(pose.astype(np.float32))[None]
        expected = ours(**defaults)(x, torch.ones(1, 9, dtype=torch.bool), key)[0].numpy()
        assert one.dtype == np.float32 and np.array_equal(one, expected)
    if (name.endswith("Noise") or name.startswith("Random")) and name != "RandomFlip":
        assert not np.array_equal(*found), "two sequences must not get the same noise"


def test_a_loss_in_the_host_gives_our_numbers(host: Host) -> None:
    x, labels = torch.randn(12, 8, 5), torch.arange(12) // 3
    ours, theirs = LOSSES["TripletLoss"](0.3, True), host.modules["modeling.losses"].BpmtTripletLoss
    assert inspect.getfullargspec(theirs.__init__)[0] == inspect.getfullargspec(type(ours).__init__)[0]
    value, info = theirs(margin=0.3, is_hard_loss=True, loss_term_weight=2.0)(embeddings=x, labels=labels)
    assert torch.equal(value, ours(x, labels)[0]) and torch.equal(info["loss"], value) and "active" in info


def test_a_pairwise_loss_sees_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = torch.randn(12, 8, 5), torch.arange(12) // 3
    half = {0: slice(0, 12, 2), 1: slice(1, 12, 2)}  # as the hosts' samplers deal the batch out
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    triplet, whole = host_loss(LOSSES["TripletLoss"])(margin=0.3), x.clone().requires_grad_()
    order = torch.cat([torch.arange(12)[half[0]], torch.arange(12)[half[1]]])
    LOSSES["TripletLoss"](0.3)(whole[order], labels[order])[0].backward()
    for rank in (0, 1):
        mine = x[half[rank]].clone().requires_grad_()

        def gather(rows: list, own: torch.Tensor) -> None:
            for row, taken in zip(rows, half.values(), strict=True):
                row.copy_(labels[taken] if own.ndim == 1 else x[taken])

        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("torch.distributed.all_gather", gather)
        triplet(embeddings=mine, labels=labels[half[rank]])[0].backward()
        assert torch.allclose(mine.grad / 2, whole.grad[half[rank]], atol=1e-6)  # DistributedDataParallel's mean
    calm = host_loss(LOSSES["CrossEntropyLoss"])()(logits=x.transpose(1, 2)[:, :4], labels=labels)[0]
    assert torch.allclose(calm, LOSSES["CrossEntropyLoss"]()(x.transpose(1, 2)[:, :4], labels)[0])


def test_a_protocol_in_the_host_gives_our_numbers(host: Host, tmp_path: Path) -> None:
    evaluator = host.modules["evaluation.evaluator"]
    labels, types = [f"{i // 4}" for i in range(16)], [f"camid{i % 4}_videoid1" for i in range(16)]
    data = {"embeddings": np.random.default_rng(0).standard_normal((16, 8, 5)).astype(np.float16), "labels": labels,
            "types": types, "views": ["seq0"] * 16}  # fmt: skip
    partition, probes = tmp_path / "p.json", [f"{i}-camid{i}_videoid1-seq0" for i in range(4)]
    partition.write_text(json.dumps({"TRAIN_SET": [], "TEST_SET": labels, "PROBE_SET": probes}))
    for path, listed in ((None, None), (str(partition), set(probes))):
        rule = {"metric": "cos", "same_camera": "drop"}
        found = evaluator.evaluate_retrieval(data, "walkers", dataset_partition=path, **rule)
        x = data["embeddings"].astype(np.float32)
        expected = evaluate("evaluate_retrieval", x, labels, types, data["views"], probes=listed, **rule)["metrics"]
        assert found == {f"scalar/test_accuracy/{name}": value for name, value in expected.items()}
    assert {"metric", "same_camera", "camera"} <= set(inspect.getfullargspec(evaluator.evaluate_retrieval)[0])
