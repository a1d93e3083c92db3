"""Galleries of made-up embeddings in: nothing lost, nothing left, nothing read that is damaged, exact answers out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpmt_ext.errors import UserError
from bpmt_ext.identify import calibrate, files, gallery
from bpmt_ext.identify.calibrate import Calibration, calibration
from bpmt_ext.identify.gallery import Entry, Gallery
from bpmt_ext.identify.search import load_faiss, search
from bpmt_ext.metrics.ranking import distances

SHAPE = (4, 3)
SETTINGS = settings(max_examples=25, deadline=None)


def made(folder: Path, metric: str = "euc") -> Gallery:
    facts = {"network": "made up", "metric": metric, "shape": list(SHAPE), "weights": "0", "config": "0"}
    return Gallery.create(folder, facts, {"config.yaml": b"a: 1\n", "weights.safetensors": b"none"})


def entries(name: str, count: int) -> list[Entry]:
    return [Entry(name, f"{name}-{i}.json", "1", 30 + i, "2026-01-02") for i in range(count)]


def filled(folder: Path, people: int, each: int, *, seed: int = 0, metric: str = "euc", spread: float = 0.1) -> Gallery:
    """People about a centre of their own, enrolled one after the other."""
    rng = np.random.default_rng(seed)
    whole = made(folder, metric)
    for k in range(people):
        centre = rng.standard_normal(SHAPE)
        walks = centre + spread * rng.standard_normal((each, *SHAPE))
        whole.add(entries(f"person{k:03d}", each), walks.astype(np.float32))
    return whole


def everything(whole: Gallery) -> tuple[list[Entry], np.ndarray]:
    blocks = list(whole.blocks())
    return [e for b in blocks for e in b.entries], np.concatenate([b.embeddings for b in blocks])


def inside(folder: Path) -> bytes:
    """Every byte of every file, and every name of a file."""
    return b"".join(str(p).encode() + (p.read_bytes() if p.is_file() else b"") for p in sorted(folder.rglob("*")))


@SETTINGS
@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(1, 9))
def test_what_is_enrolled_is_there_in_its_order(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int
                                               ) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("g")
    rng, told, values = np.random.default_rng(0), [], []
    before, gallery.SHARD_ENTRIES = gallery.SHARD_ENTRIES, most
    try:
        whole = made(folder)
        for k, size in enumerate(sizes):
            told += entries(f"p{k % 3}", size)
            values.append(rng.standard_normal((size, *SHAPE)).astype(np.float32))
            whole.add(told[-size:], values[-1])
    finally:
        gallery.SHARD_ENTRIES = before
    found, embeddings = everything(Gallery.open(folder))
    assert found == told and all(shard["entries"] <= most for shard in whole.shards)
    np.testing.assert_array_equal(embeddings, np.concatenate(values))
    assert len(list((folder / "shards").iterdir())) == 2 * len(whole.shards)  # no shard that was merged is left


def test_shards_stay_few(tmp_path: Path) -> None:
    whole = filled(tmp_path, 70, 1)
    assert len(whole) == 70 and len(whole.shards) <= 7
    assert (tmp_path.stat().st_mode & 0o777) in (0o700, 0o755)  # pytest made it; what the gallery makes is private
    assert {p.stat().st_mode & 0o77 for p in tmp_path.rglob("*.*") if p.is_file()} == {0}


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_search_is_that_of_all_pairs(tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = filled(tmp_path, 9, 3, metric=metric, spread=1.0)
    monkeypatch.setattr(gallery, "BLOCK_BYTES", 4 * 12 * 4)  # blocks of four entries
    probes = np.random.default_rng(1).standard_normal((5, *SHAPE)).astype(np.float32)
    told, embeddings = everything(whole)
    dist = distances(probes, embeddings, metric).numpy()
    out = ["person002"] * 5
    fake = SimpleNamespace(METRIC_INNER_PRODUCT=0, knn=inner_products)
    for leave_out in (None, out):
        for faiss in (None, fake) if metric == "cos" else (None,):
            found = search(whole, probes, top=4, leave_out=leave_out, faiss=faiss)
            for row, matches in zip(dist, found, strict=True):
                nearest: dict[str, int] = {}
                for i in np.argsort(row, kind="stable"):
                    if leave_out is None or told[i].name != out[0]:
                        nearest.setdefault(told[i].name, int(i))
                expected = list(nearest.items())[:4]
                assert [(m.entry.name, m.number) for m in matches] == expected
                np.testing.assert_allclose([m.distance for m in matches], row[list(nearest.values())[:4]], atol=1e-5)
                assert [m.entry for m in matches] == [told[m.number] for m in matches]


def inner_products(queries: np.ndarray, base: np.ndarray, k: int, metric: int) -> tuple[np.ndarray, np.ndarray]:
    """What faiss.knn gives: the k largest inner products, and whose they are."""
    products = queries @ base.T
    order = np.argsort(-products, axis=1)[:, :k]
    return np.take_along_axis(products, order, axis=1), order


def test_faiss_is_for_cosine_and_told_when_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="leave --faiss out"):
        load_faiss("euc")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"bpmt_ext\[gallery\]"):
        load_faiss("cos")
    monkeypatch.setitem(sys.modules, "faiss", ModuleType("faiss"))
    assert load_faiss("cos").__name__ == "faiss"


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    made(tmp_path / "g")
    code = (
        "import sys, numpy as np; from pathlib import Path; from bpmt_ext.identify.gallery import Entry, Gallery\n"
        "own, name = Gallery.open(Path(sys.argv[1])), sys.argv[2]\n"
        "for k in range(12):\n"
        "    own.add([Entry(name, 'a', '1', 30, '2026-01-02')], np.full((1, 4, 3), k, np.float32))\n"
        "assert 'torch' not in sys.modules"
    )
    names = ["anna", "bert", "cleo"]
    root = Path(__file__).resolve().parents[1]
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "g"), name], cwd=root) for name in names]
    reader = Gallery.open(tmp_path / "g")
    while any(process.poll() is None for process in running):  # whoever reads meanwhile sees a whole state
        found = search(reader, np.zeros((1, *SHAPE), np.float32), top=3)[0]
        assert {match.entry.name for match in found} <= set(names)
    assert [process.wait() for process in running] == [0, 0, 0]
    whole = Gallery.open(tmp_path / "g")
    assert whole.people() == dict.fromkeys(names, 12)
    told, embeddings = everything(whole)
    for name in names:
        own = embeddings[[e.name == name for e in told]]
        assert sorted(own[:, 0, 0].tolist()) == list(range(12))


def test_deletion_leaves_no_trace(tmp_path: Path) -> None:
    whole = filled(tmp_path, 6, 3)
    told, embeddings = everything(whole)
    mine = embeddings[[e.name == "person004" for e in told]]
    values = calibration(whole).distances
    assert b"person004" in inside(tmp_path) and mine[0, 0].tobytes() in inside(tmp_path)
    assert (tmp_path / "calibration.json").is_file()
    assert whole.remove("person004") == 3
    left = inside(tmp_path)
    assert b"person004" not in left
    assert all(row.tobytes() not in left for walk in mine for row in (walk, *walk))
    assert not (tmp_path / "calibration.json").exists()
    again = calibration(whole).distances
    assert len(again) == 15 and len(values) == 18
    kept, rest = everything(Gallery.open(tmp_path))
    assert kept == [e for e in told if e.name != "person004"]
    np.testing.assert_array_equal(rest, embeddings[[e.name != "person004" for e in told]])
    with pytest.raises(UserError, match="nobody is enrolled as 'person004'"):
        whole.remove("person004")
    for k in (0, 1, 2, 3, 5):
        whole.remove(f"person{k:03d}")
    assert len(whole) == 0 and list((tmp_path / "shards").iterdir()) == []


def test_what_a_crash_left_is_swept_and_the_owner_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.log, "propagate", True)
    whole = filled(tmp_path, 2, 2)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "lock").write_text(f"{os.uname().nodename} {gone.pid}\n")
    (tmp_path / "shards" / "0123abcd.safetensors").write_bytes(b"person of a change that was cut off")
    (tmp_path / ".gallery.json.77.tmp").write_text("{")
    before = len(whole)
    whole.add(entries("late", 1), np.ones((1, *SHAPE), np.float32))
    assert "was cut off" in caplog.text and str(gone.pid) in caplog.text
    assert len(Gallery.open(tmp_path)) == before + 1 and b"cut off" not in inside(tmp_path)
    assert not (tmp_path / ".gallery.json.77.tmp").exists() and (tmp_path / "lock").read_bytes() == b""


def test_a_crash_in_a_change_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = filled(tmp_path, 3, 2)
    state = everything(whole)

    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Gallery, "_commit", fails)
    for change in (lambda: whole.add(entries("new", 2), np.ones((2, *SHAPE), np.float32)),
                   lambda: whole.remove("person001")):  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            change()
        found = everything(Gallery.open(tmp_path))
        assert found[0] == state[0] and np.array_equal(found[1], state[1])


def test_a_lock_that_is_held_is_told_in_bounded_time(tmp_path: Path) -> None:
    made(tmp_path)
    with files.locked(tmp_path), pytest.raises(UserError, match=f"{os.getpid()} has been changing this gallery"):
        with files.locked(tmp_path, patience=0.1):
            pass
    with files.locked(tmp_path, patience=0.1):
        pass


def test_a_lock_that_is_taken_away_stops_the_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that both believe to hold it would sweep away each other's new shards."""
    whole = filled(tmp_path, 2, 1)
    state, store = everything(whole), Gallery._store

    def robbed(self: Gallery, *args: object) -> object:
        (tmp_path / "lock").unlink()
        with files.locked(tmp_path, patience=0.1):  # another process can have it now
            return store(self, *args)

    one = np.ones((1, *SHAPE), np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "_store", robbed)
        for change in (lambda: whole.add(entries("new", 1), one), lambda: whole.keep_strangers(one, 1)):
            with pytest.raises(UserError, match="lock: was taken away .* nothing was changed, try again"):
                change()
    found = everything(Gallery.open(tmp_path))
    assert found[0] == state[0] and np.array_equal(found[1], state[1])
    whole.add(entries("new", 1), one)
    assert len(everything(Gallery.open(tmp_path))[0]) == len(state[0]) + 1


def damage(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


FAULTS = {
    "no JSON": (lambda g: (g / "gallery.json").write_text("{"), "cannot be read as JSON"),
    "foreign": (lambda g: (g / "gallery.json").write_text('{"a": 1}'), "is not a gallery's"),
    "later": (lambda g: damage(g / "gallery.json", lambda v: v.update(format=9)), "format 9"),
    "shape": (lambda g: damage(g / "gallery.json", lambda v: v["model"].update(shape=[4, 0])), "is damaged"),
    "path": (lambda g: damage(g / "gallery.json", lambda v: v["shards"][0].update(id="../x")), "is damaged"),
    "count": (lambda g: damage(g / "gallery.json", lambda v: v["shards"][0].update(entries=99)), "is damaged"),
    "missing": (lambda g: next(g.glob("shards/*.safetensors")).unlink(), "is missing"),
    "missing names": (lambda g: next(g.glob("shards/*.json")).unlink(), "is missing"),
    "names": (lambda g: damage(next(g.glob("shards/*.json")), lambda v: v["entries"][0].pop()), "is damaged"),
    "cut off": (lambda g: os.truncate(next(g.glob("shards/*.safetensors")), 60), "is damaged"),
    "other bytes": (lambda g: flip(next(g.glob("shards/*.safetensors"))), "checksum"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_gallery_is_one_sentence(tmp_path: Path, name: str) -> None:
    filled(tmp_path, 1, 3)
    break_it, sentence = FAULTS[name]
    break_it(tmp_path)
    with pytest.raises(UserError, match=sentence) as caught:
        search(Gallery.open(tmp_path), np.zeros((1, *SHAPE), np.float32), top=1)
    assert "\n" not in str(caught.value)


def test_other_folders_and_changed_networks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    for act in (Gallery.open, made):
        with pytest.raises(UserError, match=r"is no gallery \(it holds holiday.jpg\)"):
            act(tmp_path)
    with pytest.raises(UserError, match="enroll somebody first"):
        Gallery.open(tmp_path / "none")
    whole = made(tmp_path / "g")
    assert whole.model_file("config.yaml").read_bytes() == b"a: 1\n"
    whole.model_file("config.yaml").write_bytes(b"a: 2\n")
    with pytest.raises(UserError, match="not the file this gallery was made with"):
        whole.model_file("config.yaml")
    with pytest.raises(ValueError, match="entries of"):
        whole.add(entries("a", 2), np.zeros((1, *SHAPE), np.float32))


@SETTINGS
@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=300), st.sampled_from([0.01, 0.05, 0.2, 0.5]),
       st.integers(2, 50))  # fmt: skip
def test_the_threshold_lets_through_no_more_trials_than_asked(found: list[float], far: float, names: int) -> None:
    scale = Calibration(np.sort(np.array(found)), names, len(found), names)
    threshold = scale.threshold(far)
    assert (scale.distances < threshold).mean() <= far
    if scale.enough(far):  # and no fewer than a trial's worth
        assert (scale.distances <= threshold).sum() + 1 > scale.level(far) * (len(found) + 1)
    else:
        assert threshold == scale.distances[0] and "too few" in scale.notes(far)[0]
    share = (1 + (scale.distances <= threshold).sum()) / (len(found) + 1)
    assert scale.level(scale.as_near(threshold)) == pytest.approx(share, abs=1e-12) and scale.as_near(11) == 1
    assert scale.as_near(-1) == scale.least() and scale.rate(far) >= far
    for distance in scale.distances[scale.distances < threshold]:  # never accepted, yet said to be likelier than asked
        assert scale.as_near(distance) <= far + 1e-9


@pytest.mark.parametrize(("names", "own", "trials", "least"), [
    (2, 6, 6, 1 - (1 - 1 / 7) ** 2), (2, 19, 19, 1 - 0.95**2), (10, 20, 20, 1 - (20 / 21) ** (10 / 9)), (1, 0, 9, 0.1),
])  # fmt: skip
def test_the_rate_told_is_that_of_strangers_not_of_trials(names: int, own: int, trials: int, least: float) -> None:
    """A stranger meets every name, a trial one fewer."""
    scale = Calibration(np.linspace(1, 2, trials), names, own, names)
    assert scale.rate(1e-3) == scale.as_near(0.5) == pytest.approx(least)
    assert f"good for about {least:.1%}" in scale.notes(1e-3)[0]
    assert scale.rate(least + 1e-6) == least + 1e-6 and not scale.enough(least - 1e-6)


@pytest.mark.parametrize(("names", "own", "needed"),
                         [(2, 1, 199), (5, 1, 124), (10, 1, 111), (100, 1, 101), (1, 0, 99)])
def test_as_many_trials_as_are_said_to_be_needed_are_enough(names: int, own: int, needed: int) -> None:
    """The numbers for 1 % of docs/people.md."""
    scales = [Calibration(np.arange(count, dtype=float), names, own * count, names) for count in (needed - 1, needed)]
    assert [scale.needed(0.01) for scale in scales] == [needed, needed]
    assert [scale.enough(0.01) for scale in scales] == [False, True]
    assert f"(it takes {needed})" in scales[0].notes(0.01)[0] and scales[1].threshold(0.01) == 0


@pytest.mark.parametrize("far", [0.02, 0.05, 0.2])
def test_strangers_are_accepted_as_often_as_asked(tmp_path: Path, far: float) -> None:
    """Over three galleries of 100 people and 500 trials, 1,000 strangers each, within what chance allows."""
    rates = []
    for seed in range(3):
        rng, whole = np.random.default_rng(seed), made(tmp_path / f"{seed}")
        centres = np.repeat(rng.standard_normal((100, *SHAPE)), 5, axis=0)
        walks = centres + 0.3 * rng.standard_normal(centres.shape)
        whole.add([e for k in range(100) for e in entries(f"{k}", 5)], walks.astype(np.float32))
        strangers = rng.standard_normal((1000, *SHAPE)) + 0.3 * rng.standard_normal((1000, *SHAPE))
        threshold = calibration(whole).threshold(far)
        found = search(whole, strangers.astype(np.float32), top=1)
        rates.append(np.mean([row[0].distance < threshold for row in found]))
    assert far / 2 < np.mean(rates) < 2 * far and max(rates) < 3 * far


def test_validation_people_are_trials_too_and_go_with_the_state(tmp_path: Path) -> None:
    whole = filled(tmp_path, 1, 4)
    assert calibration(whole).threshold(0.1) is None and "only one person" in calibration(whole).notes(0.1)[0]
    strangers = np.random.default_rng(5).standard_normal((30, *SHAPE)).astype(np.float32)
    whole.keep_strangers(strangers, 10)
    scale = calibration(whole)
    assert (len(scale.distances), scale.own, scale.people) == (30, 0, 10)
    expected = np.sort([row[0].distance for row in search(whole, strangers, top=1)])
    np.testing.assert_allclose(scale.distances, expected)
    assert scale.threshold(0.1) == scale.distances[2] and scale.enough(0.1)  # floor(0.1 * 31) = 3
    whole.add(entries("other", 2), np.zeros((2, *SHAPE), np.float32))
    assert len(calibration(Gallery.open(tmp_path)).distances) == 36
    (tmp_path / "calibration.json").write_text(json.dumps({"revision": whole.revision, "distances": "x"}))
    with pytest.raises(UserError, match="delete this file"):
        calibration(whole)


def test_a_walk_under_two_names_is_told(tmp_path: Path) -> None:
    whole = filled(tmp_path, 30, 2)
    told, embeddings = everything(whole)
    whole.add([Entry("double", "a", "1", 30, "2026-01-02")], embeddings[:1])
    assert any("copy under another name" in note for note in calibration(whole).notes(0.05))


def test_a_copy_under_the_same_name_is_left_out(tmp_path: Path) -> None:
    whole = filled(tmp_path, 2, 2)
    told, embeddings = everything(whole)
    (again,), near = told[:1], embeddings[0] * np.float32(1 + 1e-5)  # as another batch would give it
    longer, other = replace(again, frames=99), replace(again, name="other")
    walks = [again, longer, longer, again, other]
    values = np.stack([near, near, near, embeddings[1], embeddings[0]])
    assert whole.add(walks, values).tolist() == [False, True, False, True, True]
    found, rest = everything(Gallery.open(tmp_path))
    assert found == [*told, longer, again, other] and np.array_equal(rest[4:], values[[1, 3, 4]])
    state = inside(tmp_path)
    assert whole.add([again], embeddings[:1]).tolist() == [False] and inside(tmp_path) == state


def test_copies_of_before_stay_and_are_one_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Galleries may hold copies, and a calibration that counted them, from when they were not looked for."""
    whole = filled(tmp_path, 3, 2)
    once = calibration(whole)
    told, embeddings = everything(whole)
    with monkeypatch.context() as patch:
        patch.setattr(gallery.Seen, "again", lambda *_: False)
        assert whole.add(told, embeddings).all()
        assert len(calibration(whole).distances) == 12  # as it was measured then
    path = tmp_path / "calibration.json"
    damage(path, lambda values: values.pop("rule"))
    whole = Gallery.open(tmp_path)
    assert len(whole) == 12 and whole.people() == dict.fromkeys(["person000", "person001", "person002"], 4)
    scale = calibration(whole)
    assert (scale.own, scale.names, scale.people) == (6, 3, 3)
    np.testing.assert_allclose(scale.distances, once.distances, rtol=1e-6)
    assert len(json.loads(path.read_text())["distances"]) == 6  # and kept so


def test_large_galleries_are_measured_by_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = filled(tmp_path, 30, 2)
    monkeypatch.setattr(calibrate, "TRIALS", (10, 20))
    assert len(calibration(whole).distances) == 20
    monkeypatch.setattr(calibrate, "_PAIRS", 1)
    (tmp_path / "calibration.json").unlink()
    assert len(calibration(whole).distances) == 10
