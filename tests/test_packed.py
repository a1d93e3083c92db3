"""Pickles in; what a pack of them gives, when it is built anew, and how processes share it, out."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from bpmt_ext.config_schema import DataConfig
from bpmt_ext.data.packed import DATA, FOLDER, MANIFEST, open_pack
from bpmt_ext.data.pickles import read_pose, write_pickle
from bpmt_ext.data.sequences import load_splits
from bpmt_ext.errors import UserError
from bpmt_ext.synthetic import write_dataset


def poses(root: Path, count: int = 5) -> list[Path]:
    rng, paths = np.random.default_rng(0), []
    for k in range(count):
        path = root / f"a{k}" / "nm" / "v" / ("v.pkl" if k else "v\udcff.pkl")  # a file's name may be no text
        path.parent.mkdir(parents=True)
        write_pickle(path, rng.normal(size=(3 + k, 17, 3)).astype(np.float32))
        paths.append(path)
    return paths


def counted(path: Path, seen: list[Path]) -> np.ndarray:
    seen.append(path)
    return read_pose(path)


def test_a_pack_gives_what_the_pickles_hold_and_is_built_once(tmp_path: Path) -> None:
    paths, seen, left = poses(tmp_path), [], tmp_path / FOLDER / f".{DATA}.4194999.tmp"
    left.parent.mkdir()
    left.write_bytes(b"of a build that was killed")
    for _ in range(2):
        pack = open_pack(tmp_path, paths, lambda p: counted(p, seen))
        for path in paths:
            found = pack.read(path)
            np.testing.assert_array_equal(found, read_pose(path))
            assert found.dtype == np.float32 and pack.length(path) == len(found) and not found.flags.writeable
            assert found.ctypes.data % 64 == 0
        copy = pickle.loads(pickle.dumps(pack))  # what a spawned worker gets
        np.testing.assert_array_equal(copy.read(paths[2]), read_pose(paths[2]))
    assert len(seen) == len(paths) and not left.exists()
    assert len(open_pack(tmp_path, paths[:2], lambda p: counted(p, seen)).table) == 5 and len(seen) == 5
    open_pack(tmp_path, paths, lambda p: counted(p, seen), settings={"joints": 17})  # checked for something else
    assert len(seen) == 10


def test_a_stale_or_damaged_pack_is_noticed(tmp_path: Path) -> None:
    paths, seen = poses(tmp_path), []

    def opened() -> int:
        seen.clear()
        pack = open_pack(tmp_path, paths, lambda p: counted(p, seen))
        assert all((pack.read(p) == read_pose(p)).all() for p in paths)
        return len(seen)

    assert (opened(), opened()) == (5, 0)
    write_pickle(paths[1], np.ones((3, 17, 3), np.float32))
    assert (opened(), opened()) == (5, 0)
    os.utime(paths[3], ns=(1, 1))
    assert (opened(), opened()) == (5, 0)
    paths += poses(tmp_path / "b", 1)
    assert (opened(), opened()) == (6, 0)
    folder = tmp_path / FOLDER
    for name, data in ((MANIFEST, b""), (MANIFEST, b"PK\x03\x04nonsense"), (DATA, b"short")):
        (folder / name).write_bytes(data)
        assert (opened(), opened()) == (6, 0), name
    (folder / MANIFEST).unlink()
    assert opened() == 6 and sorted(p.name for p in folder.iterdir()) == ["lock", DATA, MANIFEST]


def test_a_pickle_that_cannot_be_read_leaves_no_pack(tmp_path: Path) -> None:
    paths = poses(tmp_path)
    paths[2].write_bytes(b"nothing")
    with pytest.raises(UserError, match="a2"):
        open_pack(tmp_path, paths, read_pose)
    assert [p.name for p in (tmp_path / FOLDER).iterdir()] == ["lock"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data_cfg.packed: .* cannot be written"):
        open_pack(tmp_path, paths[:2], read_pose, folder=tmp_path / "file" / "pack")


def _open(root: Path, paths: list[Path], log: str) -> None:
    def read(path: Path) -> np.ndarray:
        with open(log, "a") as file:
            file.write("x")
        return read_pose(path)

    pack = open_pack(root, paths, read)
    assert all((pack.read(p) == read_pose(p)).all() for p in paths)


def test_one_of_several_processes_builds_it(tmp_path: Path) -> None:
    paths, log = poses(tmp_path, 8), str(tmp_path / "log")
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_open, args=(tmp_path, paths, log)) for _ in range(3)]
    for one in others:
        one.start()
    for one in others:
        one.join(60)
    assert [one.exitcode for one in others] == [0, 0, 0] and Path(log).read_text() == "x" * 8


def test_splits_are_the_same_from_a_pack(tmp_path: Path) -> None:
    root = tmp_path / "walkers"
    partition = write_dataset(root, train=3, test=2, cameras=2, sequences=1, seed=0)
    cfg = {"dataset_name": "x", "dataset_root": str(root), "dataset_partition": str(partition), "frame_threshold": 45}
    plain, packed, elsewhere = (load_splits(DataConfig(**cfg, packed=choice), joints=17)
                                for choice in (False, True, str(tmp_path / "pack")))  # fmt: skip
    for other in (packed, elsewhere):
        assert other.train.records == plain.train.records and other.dropped == plain.dropped
        assert (other.train.lengths() == plain.train.lengths()).all()
        assert all((other.test.read(i) == plain.test.read(i)).all() for i in range(len(plain.test)))
    assert (root / FOLDER / DATA).is_file() and (tmp_path / "pack" / DATA).is_file()
