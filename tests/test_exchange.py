"""People made of one person's movement and another's bones: bpmt_ext/data/exchange.py against its definition."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bpmt_ext.config import configs_folder, load_settings
from bpmt_ext.data.exchange import ExchangedBodies, bone_paths
from bpmt_ext.data.pickles import write_pickle
from bpmt_ext.data.sequences import Reader, Record, SequenceSet
from bpmt_ext.engine import stages
from bpmt_ext.engine.comparability import Case, _Loader
from bpmt_ext.engine.distributed import World
from bpmt_ext.engine.stages import build_run, load_data
from bpmt_ext.engine.yardstick import yardstick_cell
from bpmt_ext.errors import UserError
from bpmt_ext.skeletons import SKELETONS, Skeleton, get_skeleton

KINECT = get_skeleton("kinectgait20")


def bone_vectors(pose: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Every joint from its parent, a root as it is."""
    return np.stack([pose[:, j] - (pose[:, up] if up != j else 0) for j, up in enumerate(skeleton.parents)], axis=1)


def people(count: int, *, walks: int = 2, channels: int = 3, seed: int = 0) -> SequenceSet:
    """So many people with bones of their own, from whose lengths every frame differs a little."""
    rng = np.random.default_rng(seed)
    records, arrays = [], {}
    for person in range(count):
        length = rng.uniform(0.1, 0.6, KINECT.num_joints)
        for walk in range(walks):
            path = Path(f"{person}/{walk}.pkl")
            ways = rng.standard_normal((9, KINECT.num_joints, 3))
            ways *= (length * rng.uniform(0.95, 1.05, (9, 1)))[..., None] / np.linalg.norm(ways, axis=-1, keepdims=True)
            pose = np.concatenate([bone_paths(KINECT) @ ways, rng.uniform(size=(9, 20, channels - 3))], -1)
            arrays[path] = pose.astype(np.float32)
            records.append(Record(f"p{person}", str(walk), "kinect", (path,)))
    return SequenceSet(records, None, Reader(arrays=arrays, cache=True))


@pytest.mark.parametrize("name", sorted(name for name, skeleton in SKELETONS.items() if skeleton.dims == 3))
def test_joints_are_the_sum_of_the_bones_on_their_way(name: str) -> None:
    skeleton = get_skeleton(name)
    pose = np.random.default_rng(0).standard_normal((3, skeleton.num_joints, 3)).astype(np.float32)
    assert np.allclose(bone_paths(skeleton) @ bone_vectors(pose, skeleton), pose, atol=1e-6)
    joint = skeleton.num_joints - 1
    way = {joint}
    while skeleton.parents[joint] != joint:
        joint = skeleton.parents[joint]
        way.add(joint)
    assert set(np.flatnonzero(bone_paths(skeleton)[-1])) == way


@settings(max_examples=20, deadline=None)
@given(count=st.integers(2, 6), data=st.data())
def test_one_moves_and_another_lends_the_bones(count: int, data: st.DataObject) -> None:
    bodies, seed = data.draw(st.integers(1, count - 1)), data.draw(st.integers(0, 99))
    real = people(count, channels=4, seed=seed)
    made = ExchangedBodies(real, KINECT, bodies, seed)
    assert len(made) == (1 + bodies) * len(real) and len(made.label_set) == (1 + bodies) * count
    assert all(made.read(i) is real.read(i) for i in range(len(real)))
    pairs = {label.partition("~")[::2] for label in made.label_set if "~" in label}
    assert len(pairs) == bodies * count and all(a != b for a, b in pairs)
    for side in (0, 1):  # everybody lends as often as they get
        assert {sum(pair[side] == label for pair in pairs) for label in real.label_set} == {bodies}

    index = data.draw(st.integers(len(real), len(made) - 1))
    mover, body = made.records[index].label.split("~")
    of = {
        label: np.median(
            [np.median(np.linalg.norm(bone_vectors(real.read(i)[..., :3], KINECT), axis=-1), axis=0)
             for i in range(len(real)) if real.records[i].label == label], axis=0,
        )
        for label in real.label_set
    }  # fmt: skip
    source = next(i for i in range(len(real)) if real.records[i].paths == made.records[index].paths)
    before, after = bone_vectors(real.read(source)[..., :3], KINECT), bone_vectors(made.read(index)[..., :3], KINECT)
    scale = (of[body] / of[mover])[:, None]
    scale[KINECT.hip[0]] = 1
    assert made.records[index].label.startswith(real.records[source].label + "~")
    assert np.allclose(after, before * scale, atol=1e-5)
    assert np.array_equal(made.read(index)[..., 3:], real.read(source)[..., 3:])
    assert made.read(index).dtype == np.float32


def test_the_same_seed_draws_the_same_and_fewer_are_among_more() -> None:
    few, more, others = (ExchangedBodies(people(8), KINECT, n, seed) for n, seed in ((2, 5), (4, 5), (2, 6)))
    assert set(few.label_set) < set(more.label_set) and few.label_set != others.label_set
    assert few.label_set == ExchangedBodies(people(8), KINECT, 2, 5).label_set


def test_a_bone_without_length_keeps_it() -> None:
    real = people(2)
    for array in real.reader.arrays.values():
        array[:, KINECT.joints.index("head")] = array[:, KINECT.neck[0]]
    made = ExchangedBodies(real, KINECT, 1, 0).read(len(real))
    assert np.isfinite(made).all() and np.allclose(made[:, 0], made[:, KINECT.neck[0]])


@pytest.mark.parametrize("channels", [3, 4])
def test_a_lost_joint_stays_lost_and_moves_nothing_that_hangs_from_it(channels: int) -> None:
    still, gaps = people(3, channels=channels), people(3, channels=channels)
    elbow, hip = KINECT.joints.index("left_elbow"), KINECT.hip
    for here in (still, gaps):
        for pose in here.reader.arrays.values():
            pose[1:] = pose[:1]  # nobody moves: what a gap hides is known
    for pose in gaps.reader.arrays.values():
        pose[..., :3] -= pose[:, hip, :3]  # where poses are centred is no gap
    for pose in gaps.reader.arrays.values():
        pose[::4, elbow, 3 if channels == 4 else 0 :] = 0  # confidence alone, or the place
    want, found = (ExchangedBodies(each, KINECT, 1, 0) for each in (still, gaps))
    for i in range(len(still), len(want)):
        shown = np.ones((9, 20), bool)
        shown[::4, elbow] = False
        place = want.read(i)[..., :3] - want.read(i)[:, hip, :3]
        assert np.allclose(found.read(i)[shown][:, :3], place[shown], atol=1e-6)
        assert not found.read(i)[~shown][:, :3].any()


def test_a_bone_that_nobody_saw_keeps_its_length() -> None:
    real = people(2)
    elbow, wrist = (KINECT.joints.index(f"left_{joint}") for joint in ("elbow", "wrist"))
    for record in real.records:
        if record.label == "p1":
            real.reader.arrays[record.paths[0]][:, elbow] = 0
    made = ExchangedBodies(real, KINECT, 1, 0)
    own, lent = bone_vectors(made.read(0), KINECT), bone_vectors(made.read(len(real)), KINECT)
    assert made.records[len(real)].label == "p0~p1"
    assert np.allclose(own[:, [elbow, wrist]], lent[:, [elbow, wrist]], atol=1e-6)
    assert all(np.isfinite(made.read(i)).all() for i in range(len(made)))


def test_names_that_look_made_up_are_told_apart_or_refused() -> None:
    def called(*names: str) -> SequenceSet:
        real = people(len(names))
        records = [replace(r, label=names[int(r.label[1:])]) for r in real.records]
        return SequenceSet(records, None, real.reader)

    made = ExchangedBodies(called("a~b", "c", "d"), KINECT, 2, 0)
    assert len(made.label_set) == 9 and all(np.isfinite(made.read(i)).all() for i in range(len(made)))
    with pytest.raises(UserError, match="people are called a~b"):
        ExchangedBodies(called("a", "b", "a~b"), KINECT, 2, 0)


def test_the_shipped_config_trains_on_them_and_tests_on_the_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = people(5)
    for record in made.records:
        path = tmp_path / record.place / "walk.pkl"
        path.parent.mkdir(parents=True)
        write_pickle(path, made.reader.arrays[record.paths[0]])
    split = {"TRAIN_SET": ["p0", "p1", "p2"], "TEST_SET": ["p3", "p4"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    given = [f"data_cfg.dataset_root={tmp_path}", f"data_cfg.dataset_partition={tmp_path}/split.json",
             "data_cfg.validation=0", "data_cfg.exchanged_bodies=2"]  # fmt: skip
    config = load_settings(configs_folder() / "bpmt/bpmt_kinectgait.yaml", given)
    splits = load_data(config)
    assert len(splits.train) == 18 and len(splits.train.label_set) == 9 and len(splits.test) == 4
    run = build_run(config, splits, World(0, 1, torch.device("cpu")), tmp_path)
    assert run.network(*(torch.ones(2, 30, 20, 3), torch.ones(2, 30, dtype=torch.bool)))["logits"].shape[1] == 9
    load = _Loader()  # what a comparison calls the same training data: the recorded
    plain = load_settings(configs_folder() / "bpmt/bpmt_kinectgait.yaml", [*given, "data_cfg.exchanged_bodies=0"])
    assert load(config) is load(plain) and len(load(config).train) == 6
    with monkeypatch.context() as patched:  # as does a yardstick, whose method's config this only happens to be
        patched.setattr(stages, "ExchangedBodies", None)
        yardstick_cell(tmp_path / "yard", "bones", "bone_lengths", Case("split", None, None, {"K": None}), config)
    (tmp_path / "split.json").write_text(json.dumps({"TRAIN_SET": [], "TEST_SET": ["p3", "p4"]}))
    assert len(load_data(config).train) == 0 and len(load_data(config).test) == 4  # a list for tests alone
    (tmp_path / "split.json").write_text(json.dumps(split))
    actions = load_settings(configs_folder() / "bpmt/bpmt_nwucla.yaml", given)
    with pytest.raises(UserError, match="exchanged_bodies: the labels are classes, not people"):
        load_data(actions)


def test_refusals() -> None:
    with pytest.raises(UserError, match="bones of coco17 run in a circle"):
        bone_paths(get_skeleton("coco17"))
    with pytest.raises(UserError, match=r"exchanged_bodies: bones in a picture \(coco17\).*set it to 0"):
        ExchangedBodies(people(3), get_skeleton("coco17"), 1, 0)
    with pytest.raises(UserError, match="exchanged_bodies: 3, but a person has 2 others"):
        ExchangedBodies(people(3), KINECT, 3, 0)
