"""Files made to run code, to exhaust the machine or to be written elsewhere in; refusals in one sentence out."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attacks
import numpy as np
import pytest
import torch
import yaml
from test_converters import load

from bpmt_ext.config_layers import parse_yaml, read_yaml
from bpmt_ext.data.pickles import read_pickle, write_pickle
from bpmt_ext.data.posearrays import read_npy, read_npz
from bpmt_ext.data.posefiles import read_pose_file
from bpmt_ext.engine.checkpoint import load_checkpoint, save_checkpoint
from bpmt_ext.errors import UserError

POSE = attacks.POSE


def told(read: Callable[[Path], object], path: Path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.isprintable() and len(message) < 400 + len(str(path)), message
    return message


@contextmanager
def at_most(mebibytes: int) -> Iterator[None]:
    """A bomb that goes off inside fails the test, not the machine."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_AS, (now + (mebibytes << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < mebibytes << 10


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_program_runs(tmp_path: Path) -> None:
    target, path = tmp_path / "made", tmp_path / "a.pkl"
    names, proven = set(), 0
    for name, data, proves in attacks.calls(target):
        path.write_bytes(data)
        message = told(read_pickle, path)
        assert not target.exists(), (name, message)
        names.add(name)
        if proves:  # the attack is one: the ordinary reader falls for it
            try:
                pickle.loads(data)
            except Exception:  # most fail afterwards, which is too late
                pass
            assert target.exists(), name
            target.unlink()
            proven += 1
    assert len(names) >= 300 and proven >= 50


def test_no_bomb_goes_off(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    for name, data in attacks.bombs().items():
        path.write_bytes(data)
        with at_most(256):
            assert "MemoryError" not in told(read_pickle, path), name


def test_a_part_may_stand_in_two_places_but_not_in_a_thousand(tmp_path: Path) -> None:
    path, part = tmp_path / "a.pkl", np.zeros((100, 17, 3), np.float32)
    path.write_bytes(pickle.dumps([part, part, {"again": part}]))
    assert read_pickle(path)[2]["again"] is not None
    path.write_bytes(pickle.dumps([part] * 1000))
    assert "unfold into more" in told(read_pickle, path)
    assert "unfold into more" in told(read_pose_file, path)


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


HEADERS = {
    "objects": ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"cos\nsystem\n.", "dtype object"),
    "4 TB": ("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }", b"", "may have"),
    "2^64 by 2^64": ("{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551616, 9), }", b"", "may have"),
    "no bytes of many": ("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999999999999), }", b"", ""),
    "a negative size": ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", b"", ""),
    "a size that is a word": ("{'descr': '<f4', 'fortran_order': False, 'shape': ('x',), }", b"", ""),
    "a size that is True": ("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 1, 1), }", b"abcd", ""),
    "100 axes": (f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1,' * 100}), }}", b"abcd", ""),
    "texts of no length": ("{'descr': '<U0', 'fortran_order': False, 'shape': (7,), }", b"", ""),
    "a call": ("__import__('os').system('touch made')", b"", ""),
    "brackets": ("[" * 4000, b"", ""),
    "a record": ("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }", b"", ""),
}


@pytest.mark.parametrize("name", HEADERS)
def test_array_files_are_taken_by_their_bytes_not_their_word(name: str, tmp_path: Path) -> None:
    header, data, words = HEADERS[name]
    whole = npy(header, data)
    (tmp_path / "a.npy").write_bytes(whole)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("pose.npy", whole)
    with at_most(256):
        assert words in told(read_npy, tmp_path / "a.npy")
        assert words in told(read_npz, tmp_path / "a.npz")
    assert not (tmp_path / "made").exists()


def test_zip_bombs_in_array_archives(tmp_path: Path) -> None:
    path, gibibyte = tmp_path / "a.npz", (1 << 30) + (1 << 20)
    header = npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({gibibyte + 1},), }}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("pose.npy", "w") as member:
            member.write(header)
            for _ in range(3):
                member.write(bytes(1 << 20))
    data = bytearray(path.read_bytes())
    size = (len(header) + 3 * (1 << 20)).to_bytes(4, "little")
    for at in (data.find(size), data.rfind(size)):
        data[at : at + 4] = (len(header) + gibibyte + 1).to_bytes(4, "little")
    path.write_bytes(data)
    with at_most(256):
        assert "more than 1024 MiB" in told(read_npz, path)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(200):
            archive.writestr(f"{i}.npy", npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({8 << 20},), }}"))
    with at_most(256):
        assert "damaged" in told(read_npz, path)


class Touch:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return open, (str(self.target), "w")


def zipped(path: Path, pickled: bytes, storage: bytes = b"", *, kind: int = zipfile.ZIP_STORED) -> None:
    """A checkpoint as torch writes it, from its parts."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in (("data.pkl", pickled), ("byteorder", b"little"), ("data/0", storage), ("version", b"3\n")):
            archive.writestr(f"a/{name}", data)


def tensor(size: int, stride: int, stored: int, kind: str = "FloatStorage") -> bytes:
    """{"model": {"w": a tensor}} of that size and stride over so many stored numbers."""
    number = attacks.text  # readable below
    whole = b"(" + number("storage") + attacks.named("torch", kind) + number("0") + number("cpu")
    whole += b"\x8a\x08" + stored.to_bytes(8, "little") + b"tQ"
    shape = b"\x8a\x08" + size.to_bytes(8, "little") + b"\x85" + b"\x8a\x08" + stride.to_bytes(8, "little") + b"\x85"
    made = attacks.named("torch._utils", "_rebuild_tensor_v2") + b"(" + whole + b"K\x00" + shape + b"\x89"
    made += attacks.named("collections", "OrderedDict") + b")RtR"
    return b"\x80\x02}" + number("model") + b"}" + number("w") + made + b"ss."


def test_checkpoints_run_nothing_and_take_no_more_than_they_are(tmp_path: Path) -> None:
    path, target = tmp_path / "a.pt", tmp_path / "made"
    count = 0
    for number, (_, data, _) in enumerate([*attacks.calls(target)][::2]):
        if number % 3:  # in the archive of today, the bare pickle and the one of years ago
            zipped(path, data)
        else:
            path.write_bytes(data)
        told(load_checkpoint, path)
        assert not target.exists()
        count += 1
    for value in ({"model": Touch(target)}, {"model": {}, "more": [Touch(target)]}):
        for new in (True, False):
            torch.save(value, path, _use_new_zipfile_serialization=new)
            told(load_checkpoint, path)
            assert not target.exists()
    assert count >= 150
    zipped(path, tensor(4, 1, 4), bytes(16))
    assert load_checkpoint(path)["model"]["w"].tolist() == [0, 0, 0, 0]  # the parts are put together rightly
    for pickled, storage in (
        (tensor(4, 1, 1 << 40), bytes(16)), (tensor(1 << 40, 1, 4), bytes(16)), (tensor(1 << 40, 0, 4), bytes(16)),
        (tensor(4, 1 << 61, 4), bytes(16)), (tensor(0, 1, 0), bytes(16)), (b"\x80\x02}" + b"}" * 100_000, b""),
        (b"\x80\x02" + attacks.named("builtins", "bytearray") + b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85R.",
         b""),
    ):  # fmt: skip
        zipped(path, pickled, storage)
        with at_most(512):
            told(load_checkpoint, path)
    zipped(path, tensor(1 << 24, 1, 1 << 24), bytes(1 << 26), kind=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2 << 20
    with at_most(256):
        assert "unfold into" in told(load_checkpoint, path)


def test_tensors_that_no_network_has(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for odd in (torch.eye(3).to_sparse(), torch.empty(3, device="meta"), torch.zeros(1).expand(1 << 40),
                torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)):  # fmt: skip
        save_checkpoint(path, {"model": {"w": odd}})
        with at_most(256):
            assert "w is no plain tensor" in told(load_checkpoint, path)


def laughs(times: int, *, merge: bool = False) -> str:
    """Aliases that stand for two of the one before."""
    lines = ["a0: &a0 {x0: 1}" if merge else "a0: &a0 [lol]"]
    for i in range(times):
        two = f"{{<<: [*a{i}, *a{i}], x{i + 1}: 1}}" if merge else f"[*a{i}, *a{i}]"
        lines.append(f"a{i + 1}: &a{i + 1} {two}")
    return "\n".join(lines)


YAMLS = {
    "laughs": laughs(60), "merged laughs": laughs(60, merge=True), "itself": "a: &a [*a]",
    "itself, deeper": "&a {x: {y: *a}}",
    "brackets": "a: " + "[" * 100_000, "brackets, closed": "a: " + "[" * 500 + "]" * 500,
    "levels": "\n".join(" " * i + "a:" for i in range(200)), "two documents": "a: 1\n---\nb: 2",
    "an object": "!!python/object/apply:os.system ['touch made']", "a module": "!!python/module:antigravity",
    "new": "!!python/object/new:subprocess.Popen [['touch', 'made']]", "a name": "!!python/name:os.system",
    "a tuple": "!!python/tuple [1, 2]", "an unknown tag": "!thing {a: 1}", "a key twice": "{a: 1, a: 2}",
    "a digit too many": "a: " + "1" * 10_000, "a list as key": "? [a]\n: 1", "no end": "a: 'x", "a control": "a: \x07",
}  # fmt: skip


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_is_data_of_a_bounded_size(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.yaml"
    path.write_text(YAMLS[name])
    with at_most(256):
        told(read_yaml, path)
    assert not (tmp_path / "made").exists()


def test_aliases_that_do_no_harm_stay() -> None:
    assert parse_yaml(laughs(10), "x")["a1"] == [["lol"], ["lol"]]
    assert parse_yaml(laughs(6, merge=True), "x")["a6"].keys() == {f"x{i}" for i in range(7)}
    assert parse_yaml(yaml.safe_dump({"a": [1, {"b": 2}]}), "x") == {"a": [1, {"b": 2}]}


def test_a_yaml_file_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1 #" + "x" * (1 << 20))
    assert "more than 1024" in told(read_yaml, tmp_path / "a.yaml")


@pytest.mark.parametrize("suffix", ["json", "csv", "npz", "npy", "pkl", "skeleton", "mat"])
def test_pipes_and_devices_are_no_files(suffix: str, tmp_path: Path) -> None:
    """An archive of data may hold them: a pipe would be waited for, a device has no end."""
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    (tmp_path / f"device.{suffix}").symlink_to("/dev/zero")
    (tmp_path / f"folder.{suffix}").mkdir()
    (tmp_path / f"gone.{suffix}").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "device", "folder", "gone"):
        with at_most(256):
            told(read_pose_file, tmp_path / f"{name}.{suffix}")


MANIFEST_NAMES = ("../up", "/etc/x", "..", ".", "", "a/b", "a\\b", "c:", "a\0b", "a\nb", ".hidden", "~", "x" * 300)


def test_converters_write_nowhere_else(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    generic, casiab = load("generic"), load("casiab")
    raw, before = tmp_path / "raw", {"raw", "keep"}
    raw.mkdir()
    (tmp_path / "keep").write_text("mine")
    write_pickle(raw / "a.pkl", np.ones((2, 17, 3), np.float32))

    def outside() -> None:
        assert {p.name for p in tmp_path.iterdir()} - {"out"} == before and (tmp_path / "keep").read_text() == "mine"
        assert {p.name for p in raw.iterdir()} <= {"a.pkl", "m.json", "t.csv"}

    for name in MANIFEST_NAMES:
        for field in ("label", "type", "view"):
            entry = {"file": "a.pkl", "label": "anna", "type": "walk", "view": "front"} | {field: name}
            (raw / "m.json").write_text(json.dumps({"joint_format": "coco17", "sequences": [entry]}))
            status = generic.main(["--input", str(raw / "m.json"), "--output", str(tmp_path / "out"), "--workers", "1"])
            err = capsys.readouterr().err
            assert status == 2 and err.count("\n") == 1 and err.startswith("generic: "), (name, field, err)
            outside()
    for place in ("../../up/001-nm-01-000", "/abs/001-nm-01-000", "001-nm-01-000/..", "x/../001-nm-01-000"):
        (raw / "t.csv").write_text(f"{place}/1.jpg," + ",".join(["1"] * 51) + "\n")
        assert casiab.main(["--input", str(raw / "t.csv"), "--output", str(tmp_path / "out"), "--workers", "1"]) == 2
        assert "Traceback" not in capsys.readouterr().err
        outside()
    good = {"file": "a.pkl", "label": "anna", "type": "walk", "view": "front"}
    (raw / "m.json").write_text(json.dumps({"joint_format": "coco17", "sequences": [good]}))
    (tmp_path / "elsewhere").mkdir()
    before.add("elsewhere")
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/anna").symlink_to(tmp_path / "elsewhere")
    assert generic.main(["--input", str(raw / "m.json"), "--output", str(tmp_path / "out"), "--workers", "1"]) == 2
    assert "a link leads out" in capsys.readouterr().err and not any((tmp_path / "elsewhere").iterdir())
    outside()


def test_members_of_archives_are_names_not_places(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, POSE)
    for name in ("../a.npy", "/a.npy", "x/../../a.npy", "..\\a.npy", "c:a.npy", "a.npy/", "a.exe"):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr(name, buffer.getvalue())
        told(read_npz, tmp_path / "a.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
