"""Made-up sequences in; what every sampler, frame rule and loader must hand out, restated naively."""

from __future__ import annotations

import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bpmt_ext.data import batches
from bpmt_ext.data.batches import (
    Batch,
    CommonSampler,
    FrameSelection,
    InferenceSampler,
    Loader,
    RandomTripletSampler,
    TripletSampler,
    inference_loader,
    train_loader,
)
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.data.sequences import Reader, Record, SequenceSet
from bpmt_ext.data.transforms import Compose, FlipSequence, PointNoise, RescaleCenter, build_transform
from bpmt_ext.draws import Draws
from bpmt_ext.errors import UserError

CHAIN = [{"type": "RescaleCenter"}, {"type": "PointNoise"}, {"type": "FlipSequence"}, {"type": "InversePosesPre"}]
TRAIN = {"type": "TripletSampler", "batch_size": [3, 2], "sample_type": "unfixed_unordered", "frames_num_min": 4,
         "frames_num_max": 9, "batch_shuffle": True}
TEST = {"type": "InferenceSampler", "batch_size": 4, "sample_type": "all_ordered"}


@pytest.fixture
def sequences(tmp_path: Path) -> SequenceSet:
    """Labels a, b, c, d with 1, 2, 5 and 6 sequences; frame f of sequence i has x = 100 i + f in its first joint."""
    records = []
    for label, count in (("a", 1), ("b", 2), ("c", 5), ("d", 6)):
        for k in range(count):
            i, path = len(records), tmp_path / f"{label}{k}.pkl"
            pose = np.random.default_rng(i).random((3 + 2 * i, 17, 3), dtype=np.float32) + 1
            pose[:, 0, 0] = 100 * i + np.arange(len(pose))
            write_pickle(path, pose)
            records.append(Record(label, f"type{k % 2}", f"view{k}", (path,)))
    return SequenceSet(records)


def equal(one: Batch, other: Batch) -> bool:
    return one.names == other.names and one.views == other.views and all(
        torch.equal(getattr(one, k), getattr(other, k)) for k in ("pose", "mask", "label", "index", "key"))


def frames_of(batch: Batch, i: int) -> list[int]:
    """Frame numbers of row i, padding left out (no transform)."""
    return (batch.pose[i, batch.mask[i], 0, 0] - 100 * batch.index[i]).int().tolist()


def test_triplet_sampler(sequences: SequenceSet) -> None:
    sampler = TripletSampler(sequences, [3, 4], seed=7)
    met = set()
    for iteration in range(60):
        batch = sampler.at(iteration)
        assert np.array_equal(batch, TripletSampler(sequences, [3, 4], seed=7).at(iteration))
        labels = sequences.labels[batch].reshape(3, 4)
        assert (labels == labels[:, :1]).all() and len(set(labels[:, 0])) == 3
        for row, label in zip(batch.reshape(3, 4), labels[:, 0], strict=True):
            assert len(sequences.indices_by_label[label]) < 4 or len(set(row)) == 4
        met.update(batch.tolist())
    assert met == set(range(14))
    assert any(not np.array_equal(sampler.at(k), TripletSampler(sequences, [3, 4], seed=8).at(k)) for k in range(3))
    shuffled = TripletSampler(sequences, [3, 4], True, seed=7)
    assert sorted(shuffled.at(5)) == sorted(sampler.at(5)) and shuffled.at(5).tolist() != sampler.at(5).tolist()


def test_labels_without_sequences_are_not_drawn(sequences: SequenceSet) -> None:
    wider = SequenceSet(sequences.records, ("0", *sequences.label_set, "z"), sequences.reader)
    assert set(wider.labels[TripletSampler(wider, [4, 2]).at(0)]) == {1, 2, 3, 4}
    with pytest.raises(UserError, match="has 4"):
        TripletSampler(wider, [5, 2])


def test_common_and_inference_sampler(sequences: SequenceSet) -> None:
    common = CommonSampler(sequences, 10, seed=1)
    drawn = [common.at(k) for k in range(30)]
    assert all(len(set(d)) == 10 for d in drawn) and set(np.concatenate(drawn)) == set(range(14))
    assert np.array_equal(drawn[4], CommonSampler(sequences, 10, seed=1).at(4))
    inference = InferenceSampler(sequences, 4)
    assert [inference.at(k).tolist() for k in range(len(inference))] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13]]


def test_random_triplet_sampler(sequences: SequenceSet) -> None:
    """What the host's does: (P, K) evenly among those that fit, the rest other sequences of anybody."""
    many = SequenceSet([Record(f"p{k // 4}", "nm-01", f"{k % 4}", ()) for k in range(24)])
    sampler = RandomTripletSampler(many, 13, P_max=6, K_max=4, seed=3)
    assert sampler.pairs == [(3, 4), (4, 3), (5, 2), (6, 2)]  # 2 x 6 has too many of each
    met, own = dict.fromkeys(sampler.pairs, 0), 0
    for iteration in range(800):
        batch = sampler.at(iteration)
        assert len(set(batch)) == len(batch) == sampler.batch_size == 13
        assert np.array_equal(batch, RandomTripletSampler(many, 13, P_max=6, K_max=4, seed=3).at(iteration))
        labels = many.labels[batch].tolist()
        fits = [(p, k) for p, k in sampler.pairs
                if labels[:p * k] == [x for x in labels[:p * k:k] for _ in range(k)] and len(set(labels[:p * k])) == p]
        met[fits[-1]] += 1  # (6, 2) also looks like (5, 2) with two of one label behind
        if fits == [(4, 3)]:
            own += labels[12] in labels[:12]
    assert 160 < met[3, 4] < 240 and 160 < met[4, 3] < 240
    assert 0.2 < own / met[4, 3] < 0.47  # 4 of the 12 left over belong to the four labels
    shuffled = RandomTripletSampler(many, 13, 6, 4, True, seed=3)
    assert sorted(shuffled.at(2)) == sorted(sampler.at(2)) and shuffled.at(2).tolist() != sampler.at(2).tolist()
    assert RandomTripletSampler(many, 128, P_max=74, K_max=110).pairs[-1] == (6, 21)  # no more labels than there are
    short = RandomTripletSampler(sequences, 7, seed=0)  # labels of 1, 2, 5 and 6 sequences
    assert short.pairs == [(2, 3), (3, 2)] and all(len(short.at(k)) == 7 for k in range(50))
    with pytest.raises(UserError, match="cannot be made of 2 to 2 labels with 2 to 3 sequences of each"):
        RandomTripletSampler(sequences, 9, P_max=2, K_max=3)


def test_repeat_lists_a_type_several_times(sequences: SequenceSet) -> None:
    """Types 0 and 1 take turns; label d has three of each, label b one of each."""
    repeat = {"type1": 3}
    common = CommonSampler(sequences, 20, repeat=repeat)  # 8 + 3 * 6 are listed
    counted = np.bincount(np.concatenate([common.at(k) for k in range(300)]), minlength=14)
    odd = np.array([kind == "type1" for kind in sequences.types])
    assert counted[odd].mean() / counted[~odd].mean() == pytest.approx(3, rel=0.05) and len(common.listed) == 26
    assert max(np.bincount(common.at(0))) <= 3
    triplets = TripletSampler(sequences, [1, 4], repeat=repeat)
    drawn = [triplets.at(k) for k in range(600)]
    of_d = np.concatenate([batch for batch in drawn if sequences.labels[batch[0]] == 3])
    assert np.mean([sequences.types[i] == "type1" for i in of_d]) == pytest.approx(0.75, abs=0.04)
    assert RandomTripletSampler(sequences, 6, repeat=repeat).listed.tolist() == common.listed.tolist()
    (batch,) = train_loader(sequences, {**TRAIN, "repeat": {"type": 1, "type1": 2}}, None, seed=0, start=0, stop=1)
    assert len(batch) == 6
    with pytest.raises(UserError, match=r"sampler.repeat.bg: no training sequence has a type that begins so; .*type0"):
        CommonSampler(sequences, 3, repeat={"bg": 3})
    with pytest.raises(UserError, match=r"sampler.repeat.type1 is 0; give a whole number"):
        TripletSampler(sequences, [1, 1], repeat={"type1": 0})


@pytest.mark.parametrize("sampler", [{"type": "CommonSampler", "batch_size": [6]},
                                     {"type": "RandomTripletSampler", "batch_size": 6, "P_max": 3, "K_max": None}])
def test_samplers_by_their_settings(sequences: SequenceSet, sampler: dict) -> None:
    (batch,) = train_loader(sequences, {**TRAIN, **sampler}, None, seed=0, start=3, stop=4)
    assert len(batch) == 6 and set(batch.index.tolist()) <= set(range(14))
    (again,) = inference_loader(sequences, {**TEST, "batch_size": [14]}, None)
    assert again.index.tolist() == list(range(14))


@pytest.mark.parametrize("workers", [0, 2])
def test_transforming_on_the_device_changes_nothing(sequences: SequenceSet, workers: int) -> None:
    chain = build_transform([*CHAIN, {"type": "RandomSelectSequence", "sequence_length": 3}])
    cpu = torch.device("cpu")
    for make in (lambda **k: train_loader(sequences, TRAIN, chain, seed=5, start=0, stop=3, num_workers=workers, **k),
                 lambda **k: inference_loader(sequences, TEST, chain, num_workers=workers, **k)):
        there = make(device=cpu)
        assert there.batches.transform is None, "the workers hand over raw frames"
        assert all(equal(a, b) for a, b in zip(make(), there, strict=True))


def test_a_batch_in_shares(sequences: SequenceSet) -> None:
    (batch,) = train_loader(sequences, TRAIN, None, seed=2, start=4, stop=5)
    shares = batch.shares(3)
    assert [share.names for share in shares] == [batch.names[k:k + 2] for k in (0, 2, 4)]
    assert torch.equal(torch.cat([share.pose for share in shares]), batch.pose)
    assert [share.key.tolist() for share in shares] == batch.key.reshape(3, 2).tolist()


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(LENGTHS, st.integers(0, 999), st.booleans(), st.sampled_from(["ordered", "unordered", "allordered"]),
       st.sampled_from([0, 3]))
@hypothesis_settings(max_examples=60, deadline=None)
def test_frame_selection_by_its_rule(lengths: list[int], seed: int, fixed: bool, order: str, skip: int) -> None:
    kind = f"{'fixed' if fixed else 'unfixed'}_{order}"
    rule = FrameSelection(kind, frames_num_fixed=12, frames_num_min=5, frames_num_max=15, frames_skip_num=skip)
    draws = Draws.at(seed, 0, range(len(lengths)))
    index, mask = rule.select(torch.tensor(lengths), draws)
    for i, length in enumerate(lengths):
        row = index[i, mask[i]].tolist()
        count = len(row)
        assert count == 12 if fixed else 5 <= count <= 15
        assert mask[i].tolist() == [True] * count + [False] * (index.shape[1] - count)
        assert set(index[i, count:].tolist()) <= {row[-1]} and 0 <= min(row) and max(row) < length
        if order != "ordered":
            assert length < count or len(set(row)) == count
            assert order == "unordered" or row == sorted(row)
        else:
            # Some window of the sequence, repeated as a whole as often as it takes, has the row as a subsequence.
            tiled = list(range(length)) * -(-(count + skip) // length)
            starts = range(len(tiled) - count - skip + 1)
            assert any(is_subsequence(row, tiled[s:s + count + skip]) for s in starts)
        alone = rule.select(torch.tensor([length]), Draws(draws.keys[i:i + 1]))[0]
        assert alone[0].tolist() == row  # batch mates change nothing


def is_subsequence(row: list[int], whole: list[int]) -> bool:
    rest = iter(whole)
    return all(x in rest for x in row)


def test_frame_selection_is_uniform() -> None:
    many = torch.full((4000,), 10)
    draws = Draws.at(3, 0, range(4000))
    index, _ = FrameSelection("fixed_unordered", frames_num_fixed=4).select(many, draws)
    for column in range(4):  # every place of the row may hold any frame
        assert index[:, column].bincount(minlength=10).min() > 320
    index, _ = FrameSelection("fixed_ordered", frames_num_fixed=4, frames_skip_num=2).select(many, draws)
    assert (index.diff(dim=1) > 0).all()
    # Start 0..4, each 1/5, plus the smallest of 4 out of 6: 0, 1, 2 with 10, 4, 1 of the 15 subsets.
    expected = np.convolve(np.full(5, 800), np.array([10, 4, 1]) / 15)
    assert np.abs(index[:, 0].bincount(minlength=7).numpy() - expected).max() < 90
    assert (index[:, -1] - index[:, 0]).unique().tolist() == [3, 4, 5]
    counts = FrameSelection("unfixed_ordered", frames_num_min=3, frames_num_max=5).select(many, draws)[1].sum(1)
    assert counts.bincount(minlength=6)[3:].min() > 1200
    mixed, ranked = (FrameSelection(f"fixed_{order}", frames_num_fixed=4).select(many, draws)[0]
                     for order in ("unordered", "allordered"))
    assert torch.equal(mixed.sort(1).values, ranked) and not torch.equal(mixed, ranked)
    index, _ = FrameSelection("fixed_unordered", frames_num_fixed=20).select(many, draws)
    assert index.flatten().bincount(minlength=10).min() > 7000  # short: with repetition


def test_all_frames_and_their_limit(sequences: SequenceSet) -> None:
    for limit in (None, 7):
        batches = list(inference_loader(sequences, {**TEST, "frames_all_limit": limit}, None))
        for i, (batch, row) in enumerate((b, r) for b in batches for r in range(len(b))):
            count = min(3 + 2 * i, limit or 99)
            assert batch.index[row] == i and frames_of(batch, row) == list(range(count))
            pose = batch.pose[row]
            assert torch.equal(pose[count:], pose[count - 1].expand(len(pose) - count, -1, -1))


def test_batch_fields(sequences: SequenceSet) -> None:
    (batch,) = train_loader(sequences, TRAIN, None, seed=2, start=4, stop=5)
    whole = TripletSampler(sequences, [3, 2], True, seed=2).at(4)
    assert batch.index.tolist() == whole.tolist() and len(batch) == 6
    assert batch.names == tuple(sequences.names[i] for i in whole)
    assert (batch.types, batch.views) == tuple(tuple(x[i] for i in whole) for x in (sequences.types, sequences.views))
    assert batch.label.tolist() == sequences.labels[whole].tolist()
    assert torch.equal(batch.key, Draws.at(2, 4, range(6)).keys)
    assert (batch.pose.dtype, batch.mask.dtype, batch.label.dtype) == (torch.float32, torch.bool, torch.int64)
    assert equal(batch.to("cpu"), batch) and batch.to("meta").pose.device.type == "meta"


def test_transform_runs_on_the_batch_and_padding_is_repaired(sequences: SequenceSet) -> None:
    chain = Compose([RescaleCenter(), PointNoise(0.5), FlipSequence(0.5)])
    (raw,), (batch,) = (train_loader(sequences, TRAIN, t, seed=0, start=3, stop=4) for t in (None, chain))
    expected = chain(raw.pose, raw.mask, Draws(raw.key).split("transform"))
    assert torch.equal(batch.pose[batch.mask], expected[raw.mask]) and not batch.mask.all()
    for pose, mask in zip(batch.pose, batch.mask, strict=True):
        count = int(mask.sum())
        assert torch.equal(pose[count:], pose[count - 1].expand(len(pose) - count, -1, -1))


def test_workers_change_nothing(sequences: SequenceSet) -> None:
    transform = build_transform(CHAIN)
    plain = list(train_loader(sequences, TRAIN, transform, seed=5, start=0, stop=5))
    state = torch.get_rng_state()
    for workers in (1, 2):
        loader = train_loader(sequences, TRAIN, transform, seed=5, start=0, stop=5, num_workers=workers)
        assert len(loader) == 5 and all(equal(a, b) for a, b in zip(plain, loader, strict=True))
        again = list(loader)  # a second pass, with the same workers
        assert all(equal(a, b) for a, b in zip(plain, again, strict=True))
    assert torch.equal(state, torch.get_rng_state())  # a resumed run must not find torch's generator moved


def test_what_travels_to_a_spawned_worker_survives_pickling(sequences: SequenceSet) -> None:
    loader = train_loader(sequences, TRAIN, build_transform(CHAIN), seed=5, start=0, stop=2)
    assert equal(pickle.loads(pickle.dumps(loader.batches))[1], loader.batches[1])


def test_resuming_equals_the_tail(sequences: SequenceSet) -> None:
    chain = build_transform(CHAIN)
    whole, tail = (list(train_loader(sequences, TRAIN, chain, seed=5, start=s, stop=6)) for s in (0, 4))
    assert len(tail) == 2 and all(equal(a, b) for a, b in zip(whole[4:], tail, strict=True))
    (other, *_) = train_loader(sequences, TRAIN, chain, seed=6, start=4, stop=6)
    assert not equal(tail[0], other)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_batch_of_one_process(sequences: SequenceSet, world_size: int) -> None:
    for kind in ("fixed_unordered", "unfixed_ordered"):
        cfg = {**TRAIN, "sample_type": kind, "frames_num_fixed": 6, "frames_skip_num": 2}
        loaders = [train_loader(sequences, cfg, build_transform(CHAIN), seed=1, start=2, stop=4, rank=r,
                                world_size=w) for w, r in [(1, 0), *((world_size, r) for r in range(world_size))]]
        for whole, *shares in zip(*loaders, strict=True):
            for rank, share in enumerate(shares):
                for k in range(len(share)):
                    row = rank + k * world_size
                    assert share.key[k] == whole.key[row] and share.names[k] == whole.names[row]
                    assert torch.equal(share.pose[k, share.mask[k]], whole.pose[row, whole.mask[row]])
            assert sum(map(len, shares)) == len(whole)


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 4), (3, 4), (4, 6), (5, 2)])
def test_inference_visits_every_sequence_once(sequences: SequenceSet, world_size: int, batch_size: int) -> None:
    cfg = {**TEST, "batch_size": batch_size, "sample_type": "fixed_unordered", "frames_num_fixed": 5}
    loaders = [inference_loader(sequences, cfg, None, seed=3, rank=r, world_size=world_size) for r in range(world_size)]
    assert [len(loader) for loader in loaders] == [len(list(loader)) for loader in loaders]
    batches = [b for loader in loaders for b in loader]
    index = torch.cat([b.index for b in batches])
    assert sorted(index.tolist()) == list(range(14)) and max(map(len, batches)) <= batch_size
    pose = torch.cat([b.pose for b in batches])[index.argsort()]
    (one,) = inference_loader(sequences, {**cfg, "batch_size": 99}, None, seed=3)
    assert torch.equal(pose, one.pose)  # random frames, but a function of (seed, index) alone
    (other,) = inference_loader(sequences, {**cfg, "batch_size": 99}, None, seed=4)
    assert not torch.equal(pose, other.pose)


@pytest.mark.parametrize(("world_size", "limit"), [(1, None), (3, None), (2, 6)])
def test_sequences_of_like_length_share_a_batch(sequences: SequenceSet, world_size: int, limit: int | None) -> None:
    """Every one once, with the frames it has in any batch; no batch larger than the longest sequences make it."""
    cfg = {**TEST, "batch_size": 3} | ({"frames_all_limit": limit} if limit else {})
    (whole,) = inference_loader(sequences, {**cfg, "batch_size": 99}, None)
    given = {"world_size": world_size, "by_length": True}
    assert not SequenceSet(sequences.records).knows_lengths()  # nothing read, nothing kept: the order of the set
    plain = SequenceSet(sequences.records)
    assert [b.index.tolist() for b in inference_loader(plain, cfg, None, by_length=True)][0] == [0, 1, 2]
    sequences.reader.cache = True
    batches = [b for rank in range(world_size) for b in inference_loader(sequences, cfg, None, rank=rank, **given)]
    assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(14))
    most = 3 * int(whole.mask.sum(1).max())
    sizes = set()
    for batch in batches:
        sizes.add(len(batch))
        assert batch.mask.numel() * (1 if world_size == 1 else 0) <= most
        for k, row in enumerate(batch.index):
            assert torch.equal(batch.pose[k, batch.mask[k]], whole.pose[row, whole.mask[row]])
    assert max(sizes) > 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_file_arrives_as_the_user_error_it_is(sequences: SequenceSet, workers: int) -> None:
    bad = sequences.records[6].paths[0]
    bad.write_bytes(b"\x80\x04nonsense")
    with pytest.raises(UserError) as direct:
        sequences.read(6)
    met = []
    with pytest.raises(UserError) as caught:
        for batch in inference_loader(sequences, TEST, None, num_workers=workers):
            met.append(batch)
    assert str(caught.value) == str(direct.value) and str(bad) in str(caught.value)
    assert [b.index.tolist() for b in met] == [[0, 1, 2, 3]]


def test_mixed_joint_formats_are_named(sequences: SequenceSet) -> None:
    path = sequences.records[1].paths[0]
    write_pickle(path, np.ones((4, 20, 3), dtype=np.float32))
    with pytest.raises(UserError, match=r"a0\.pkl has .*\(17, 3\), .*b0\.pkl has \(20, 3\)"):
        list(inference_loader(sequences, TEST, None))


class _Faulty(Reader):
    def read(self, path: Path) -> np.ndarray:
        raise RuntimeError("a defect of ours")


def test_a_defect_in_a_worker_keeps_its_traceback(sequences: SequenceSet) -> None:
    faulty = SequenceSet(sequences.records, reader=_Faulty())
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*a defect of ours"):
        list(inference_loader(faulty, TEST, None, num_workers=1))


class _Deadly(Reader):
    def read(self, path: Path) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().read(path)


def test_a_dying_worker_is_reported_with_its_cause(sequences: SequenceSet) -> None:
    doomed = SequenceSet(sequences.records, reader=_Deadly())
    with pytest.raises(UserError, match=r"worker died while batch 0 .*killed by signal SIGKILL.*num_workers"):
        list(inference_loader(doomed, TEST, None, num_workers=1))


class _Hanging(Reader):
    def read(self, path: Path) -> np.ndarray:
        time.sleep(4)
        return super().read(path)


def test_a_hanging_worker_is_reported(sequences: SequenceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "PATIENCE", 1)
    hanging = SequenceSet(sequences.records, reader=_Hanging())
    with pytest.raises(UserError, match=r"no batch 0 within 1 seconds; .*data_cfg.dataset_root"):
        list(inference_loader(hanging, TEST, None, num_workers=1))


def test_a_batch_without_room_in_shared_memory_is_told(sequences: SequenceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was lost in a thread of the worker's, and waited for."""

    def full(self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(UserError, match=r"batch of \d+ KiB does not fit into shared memory .*--shm-size"):
        list(inference_loader(sequences, TEST, None, num_workers=1))
    assert len(list(inference_loader(sequences, TEST, None)))


def test_padding_does_not_depend_on_the_number_of_processes(sequences: SequenceSet) -> None:
    """In training the statistics of a network see it."""
    cfg = {**TRAIN, "sample_type": "unfixed_ordered", "frames_num_min": 3, "frames_num_max": 12}
    (one,) = train_loader(sequences, cfg, None, seed=1, start=4, stop=5)
    shares = [next(iter(train_loader(sequences, cfg, None, seed=1, start=4, stop=5, rank=r, world_size=3)))
              for r in range(3)]  # fmt: skip
    own = [share.mask.sum(1).max() for share in shares]
    assert min(own) < max(own) == one.mask.shape[1]  # one of them would have padded less
    for rank, share in enumerate(shares):
        assert torch.equal(share.mask, one.mask[rank::3]) and torch.equal(share.pose, one.pose[rank::3])


@pytest.mark.parametrize(("changes", "options", "message"), [
    ({"batch_size": [5, 2]}, {}, r"trainer_cfg.sampler.batch_size asks for 5 labels a batch, the training set has 4"),
    ({"batch_size": 8}, {}, r"trainer_cfg.sampler.batch_size is 8; TripletSampler takes \[labels"),
    ({"batch_size": [0, 2]}, {}, r"trainer_cfg.sampler.batch_size is 0; give a whole number of at least 1"),
    ({"batch_size": None}, {}, r"trainer_cfg.sampler.batch_size is None"),
    ({"type": "CommonSampler", "batch_size": 15}, {}, r"asks for 15 sequences, the training set has 14"),
    ({"type": "TripletSampeler"}, {}, r"'TripletSampeler' is no training sampler; did you mean TripletSampler"),
    ({"sample_type": "fixed_order"}, {}, r"sample_type 'fixed_order' is unknown; did you mean fixed_ordered"),
    ({"frames_num_min": 9, "frames_num_max": 4}, {}, r"frames_num_min 9 is above frames_num_max 4"),
    ({"sample_type": "fixed_ordered", "frames_num_fixed": 0}, {}, r"frames_num_fixed is 0"),
    ({}, {"world_size": 4}, r"batch_size \[3, 2\] makes 6 sequences, which 4 processes"),
])
def test_sampler_faults(sequences: SequenceSet, changes: dict[str, object], options: dict[str, int],
                        message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_loader(sequences, {**TRAIN, **changes}, None, seed=0, start=0, stop=1, **options)


def test_inference_faults(sequences: SequenceSet) -> None:
    with pytest.raises(UserError, match=r"evaluator_cfg.sampler.type 'TripletSampler'"):
        inference_loader(sequences, TRAIN, None)
    with pytest.raises(UserError, match=r"evaluator_cfg.sampler.batch_size is \[4, 4\]"):
        inference_loader(sequences, {**TEST, "batch_size": [4, 4]}, None)
    for make in (inference_loader, lambda s, c, t: train_loader(s, TRAIN, t, seed=0, start=0, stop=1)):
        with pytest.raises(UserError, match="empty"):
            make(SequenceSet([]), TEST, None)
    assert isinstance(inference_loader(sequences, {"batch_size": 4}, None), Loader)
