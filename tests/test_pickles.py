"""The pickle reader admits arrays and plain containers, refuses and never runs anything else."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpmt_ext.data.pickles import read_pickle, read_pose, read_silhouettes, write_pickle
from bpmt_ext.errors import UserError

POSE = np.arange(2 * 3 * 3, dtype=np.float32).reshape(2, 3, 3)


class Call:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, *parts: object) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple:
        return (self.parts[0], self.parts[1:])


class Own:
    def __init__(self) -> None:
        self.x = 1


class Persistent(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return "id" if isinstance(obj, Own) else None


def persistent(protocol: int) -> bytes:
    out = io.BytesIO()
    Persistent(out, protocol).dump(Own())
    return out.getvalue()


def hostile(target: Path) -> dict[str, bytes]:
    """Pickles that would create `target`, or do something else that data does not do."""
    touch = f"open({str(target)!r}, 'w')"
    shell = f"touch {target}"
    whole = pickle.dumps(POSE, 3)
    head = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    state = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85RI00\nC\x04abcdtb."
    return {
        "os.system by reduce": pickle.dumps(Call(os.system, shell)),
        "os.system, protocol 0": pickle.dumps(Call(os.system, shell), 0),
        "eval": pickle.dumps(Call(eval, touch)),
        "exec": pickle.dumps(Call(exec, touch)),
        "import": pickle.dumps(Call(__import__, "antigravity")),
        "open for writing": pickle.dumps(Call(open, str(target), "w")),
        "getattr": pickle.dumps(Call(getattr, "x", "upper")),
        "INST": b"(S'" + shell.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + shell.encode() + b"'\no.",
        "EXT": b"\x80\x02\x82\xf0.",
        "persistent id": persistent(4),
        "persistent id, protocol 0": persistent(0),
        "an object of one's own": pickle.dumps(Own()),
        "NEWOBJ_EX": b"\x80\x04cbuiltins\nobject\n)}\x92.",
        "a class": pickle.dumps(collections.OrderedDict),
        "an OrderedDict": pickle.dumps(collections.OrderedDict(a=1)),
        "a set": pickle.dumps({1, 2}),
        "object array": pickle.dumps(np.array([Call(os.system, shell)], dtype=object)),
        "object array of plain numbers": pickle.dumps(np.array([1, None], dtype=object)),
        "structured array": pickle.dumps(np.zeros(2, [("a", "f4")])),
        "text array": pickle.dumps(np.array(["a"])),
        "array with attributes": pickle.dumps(np.ma.masked_array([1.0])),
        "call hidden in an array's state": whole[:-2] + pickle.dumps(Call(os.system, shell), 2)[2:-1] + b"0b.",
        "numpy function other than the three": b"cnumpy.core.multiarray\nfromfile\n(S'/etc/passwd'\ntR.",
        "a submodule by dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0bos.system.x\x93.",
        "a bare admitted name": b"cnumpy\ndtype\n.",
        "half an array": head + b".",
        "state on a name": b"\x80\x02cnumpy\ndtype\n}U\x01ak\x01sb.",
        "a call of a list": b"](tR.",
        "a codec with side effects": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
        "an array that claims 4 TB": head + b"(K\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x85" + state,
        "an array with bytes left over": head + b"(K\x01K\x00\x85" + state,
        "an array of negative size": head + b"(K\x01J\xff\xff\xff\xff\x85" + state,
        "the same bytes unfolded 1000 times": b"\x80\x02](c_codecs\nencode\nq\x00X\x10\x27\x00\x00" + b"a" * 10_000
        + b"X\x06\x00\x00\x00latin1\x86q\x01R" + b"h\x00h\x01R" * 1000 + b"e.",
        "bytes that claim 2^62": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.",
        "a memo index of 2^31": b"\x80\x02Nr\xff\xff\xff\x7f" + b"h\x00.",
        "a frame longer than the file": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
        "truncated": whole[:-20],
        "empty": b"",
        "text": b"Person001;1;2;3\n",
        "a zip file": b"PK\x03\x04" + bytes(100),
    }


NAMES = sorted(hostile(Path("/nowhere")))


@pytest.mark.parametrize("name", NAMES)
def test_hostile_files_are_refused_in_one_sentence_and_run_nothing(name: str, tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "sequence.pkl"
    path.write_bytes(hostile(target)[name])
    with pytest.raises(UserError) as caught:
        read_pickle(path)
    assert not target.exists()
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".") and len(message) < 400


def test_the_message_says_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "sequence.pkl"
    for name, words in (("os.system by reduce", "it names '(posix|nt).system'"), ("EXT", "operation EXT1"),
                        ("INST", "operation INST"), ("object array", "dtype 'O8'"),
                        ("an array that claims 4 TB", "claims an array of shape")):  # fmt: skip
        path.write_bytes(hostile(tmp_path / "executed")[name])
        with pytest.raises(UserError, match=words):
            read_pickle(path)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [POSE, np.asfortranarray(POSE), POSE.transpose(2, 0, 1), POSE.astype(">f8"), POSE.astype("f2"), np.arange(4),
     np.zeros((0, 17, 3), "f4"), np.array(3.5), np.array([True, False]), np.array([1 + 2j])],
    ids=lambda a: f"{a.dtype.str}{a.shape}",
)  # fmt: skip
def test_arrays_of_every_protocol_come_back_native(array: np.ndarray, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    data = pickle.dumps(array, protocol)
    for names in (data, data.replace(b"numpy._core.", b"numpy.core.") if protocol <= 3 else data):  # numpy 2, numpy 1
        path.write_bytes(names)
        back = read_pickle(path)
        np.testing.assert_array_equal(back, array)
        assert back.dtype == array.dtype.newbyteorder("=") and back.dtype.isnative and back.flags.writeable


def test_containers_and_scalars(tmp_path: Path) -> None:
    shared = [1, 2]
    value = {"a": [POSE, (1, -2.5, None, True, "äx", b"\x00\xff")], 3: {"b": np.float32(1.5), "c": np.int64(-7)},
             "d": (), "e": [shared, shared], "big": 2**70, "same": [POSE, POSE]}  # fmt: skip
    for protocol in range(6):
        path = tmp_path / "c.pkl"
        path.write_bytes(pickle.dumps(value, protocol))
        back = read_pickle(path)
        np.testing.assert_array_equal(back["a"][0], POSE)
        assert back["a"][0] is back["same"][0] is back["same"][1]
        assert back["a"][1] == value["a"][1] and back[3] == {"b": 1.5, "c": -7} and back["e"][0] is back["e"][1]
        assert back["d"] == () and back["big"] == 2**70


def test_an_array_written_by_python_2(tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    raw = POSE.tobytes()
    path.write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K\x03K\x03\x87"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(raw)]) + raw + b"tb."
    )  # fmt: skip
    np.testing.assert_array_equal(read_pickle(path), POSE)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    protocol=st.integers(0, 5),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 400),
)
def test_a_damaged_file_gives_data_or_a_user_error(protocol: int, changes: list, cut: int, tmp_path: Path) -> None:
    data = bytearray(pickle.dumps({"pose": POSE, "more": [1.0, "x", np.float32(2)]}, protocol))
    for position, value in changes:
        data[position % len(data)] = value
    path = tmp_path / "damaged.pkl"
    path.write_bytes(bytes(data[: len(data) - cut % 20]))
    try:
        read_pickle(path)
    except UserError as error:
        assert str(path) in str(error)


def test_nesting_and_references_within_reason(tmp_path: Path) -> None:
    path = tmp_path / "deep.pkl"
    path.write_bytes(b"]" * 60 + b"a" * 59 + b".")
    read_pickle(path)
    laughs: list = ["x"]
    for times in range(1, 60):
        laughs = [laughs, laughs]
        path.write_bytes(pickle.dumps(laughs))
        if times < 5:
            read_pickle(path)
        elif times > 8:  # 2^times leaves in times + 1 lists
            with pytest.raises(UserError, match="unfold into more"):
                read_pickle(path)


def test_what_is_written_names_no_numpy_2_module_and_is_an_ordinary_pickle(tmp_path: Path) -> None:
    path = tmp_path / "out.pkl"
    write_pickle(path, POSE)
    data = path.read_bytes()
    assert b"numpy._core" not in data and data.startswith(b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n")
    np.testing.assert_array_equal(pickle.loads(data), POSE)
    np.testing.assert_array_equal(read_pickle(path), POSE)
    text = np.frombuffer(b"cnumpy._core.multiarray\n", dtype=np.uint8)  # contents are not touched
    write_pickle(path, text)
    np.testing.assert_array_equal(pickle.loads(path.read_bytes()), text)
    for wrong in ([1], np.array([None]), np.ma.masked_array([1.0])):
        with pytest.raises(TypeError):
            write_pickle(path, wrong)


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.pkl"
    write_pickle(path, POSE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_pickle(path, POSE + 1)
    assert [p.name for p in tmp_path.iterdir()] == ["out.pkl"]
    np.testing.assert_array_equal(read_pickle(path), POSE)


def test_read_pose_checks_what_networks_rely_on(tmp_path: Path) -> None:
    path = tmp_path / "p.pkl"
    write_pickle(path, POSE.astype(np.float64))
    pose = read_pose(path, joints=3)
    assert pose.dtype == np.float32 and pose.shape == (2, 3, 3) and pose.flags.c_contiguous and pose.flags.writeable
    with pytest.raises(UserError, match="has 3 joints, 17 expected"):
        read_pose(path, joints=17)
    bad = np.zeros((5, 3, 2))
    bad[3, 1, 0] = np.nan
    huge = np.full((1, 3, 2), 1e300)  # finite, but not as float32
    for array, words in (
        (bad, "frame 3"), (huge, "frame 0"), (POSE[0], r"float32 \(3, 3\)"), (POSE[:0], "empty"), (POSE > 1, "bool"),
    ):  # fmt: skip
        write_pickle(path, array)
        with pytest.raises(UserError, match=words):
            read_pose(path)
    path.write_bytes(pickle.dumps([POSE]))
    with pytest.raises(UserError, match="holds list"):
        read_pose(path)
    with pytest.raises(UserError, match="nothing.pkl"):
        read_pose(tmp_path / "nothing.pkl")


def test_read_silhouettes_takes_grey_levels_only(tmp_path: Path) -> None:
    path = tmp_path / "s.pkl"
    frames = np.zeros((3, 64, 44), np.uint8)
    frames[1, 20:40, 10:30] = 255
    write_pickle(path, frames)
    found = read_silhouettes(path)
    assert found.dtype == np.uint8 and found.flags.writeable
    np.testing.assert_array_equal(found, frames)
    for array, words in (
        (frames / 255, "float64"), (frames > 0, "bool"), (frames[0], r"uint8 \(64, 44\)"), (frames[:0], "empty"),
        (frames // 255, "no grey level is above 1"),
    ):  # fmt: skip
        write_pickle(path, array)
        with pytest.raises(UserError, match=words):
            read_silhouettes(path)
