"""A file to create in; hundreds of pickles that would create it, or exhaust the machine, if they were trusted, out.

`calls` are programs: each names something and imports, builds, calls, extends or sets it, in one of the ways the
pickle machine has. Those under `proven` really create the file when `pickle.loads` runs them, so that a reader that
refuses them refuses something. `bombs` are data whose size or shape is a lie or a trap.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Call = Callable[[str, str, bytes], bytes]  # module, name, the pickled arguments as one tuple -> a pickle
POSE = np.arange(18, dtype=np.float32).reshape(2, 3, 3)


def text(word: str) -> bytes:
    """A string, by an operation that every protocol from 1 on knows."""
    data = word.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def short(word: str) -> bytes:
    return b"\x8c" + bytes([len(word.encode())]) + word.encode()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stacked(module: str, name: str) -> bytes:
    return short(module) + short(name) + b"\x93"


def body(args: bytes) -> bytes:
    """The arguments without the tuple around them: what INST and OBJ find after their mark."""
    return args[1:-1]


WAYS: dict[str, Call] = {
    "GLOBAL REDUCE": lambda m, n, a: named(m, n) + a + b"R.",
    "GLOBAL REDUCE, protocol 2": lambda m, n, a: b"\x80\x02" + named(m, n) + a + b"R.",
    "STACK_GLOBAL REDUCE": lambda m, n, a: b"\x80\x04" + stacked(m, n) + a + b"R.",
    "STACK_GLOBAL in a frame": lambda m, n, a: b"\x80\x04\x95"
    + struct.pack("<Q", len(stacked(m, n) + a) + 2) + stacked(m, n) + a + b"R.",
    "STACK_GLOBAL of memoised words": lambda m, n, a: b"\x80\x04" + short(m) + b"\x94" + short(n) + b"\x9400h\x00h\x01"
    + b"\x93" + a + b"R.",
    "name from the memo": lambda m, n, a: named(m, n) + b"q\x050" + b"h\x05" + a + b"R.",
    "name from the memo, PUT GET": lambda m, n, a: named(m, n) + b"p7\n0g7\n" + a + b"R.",
    "name from the memo, long": lambda m, n, a: named(m, n) + b"r\x00\x01\x00\x000j\x00\x01\x00\x00" + a + b"R.",
    "name by DUP": lambda m, n, a: named(m, n) + b"2" + a + b"R0.",
    "INST": lambda m, n, a: b"(" + body(a) + f"i{m}\n{n}\n.".encode(),
    "OBJ": lambda m, n, a: b"(" + named(m, n) + body(a) + b"o.",
    "NEWOBJ": lambda m, n, a: b"\x80\x02" + named(m, n) + a + b"\x81.",
    "NEWOBJ_EX": lambda m, n, a: b"\x80\x04" + named(m, n) + a + b"}\x92.",
    "bare name": lambda m, n, a: named(m, n) + b".",
    "bare name, STACK_GLOBAL": lambda m, n, a: b"\x80\x04" + stacked(m, n) + b".",
    "BUILD on the name": lambda m, n, a: named(m, n) + b"}" + text("x") + b"K\x01sb.",
    "BUILD with slots on the name": lambda m, n, a: named(m, n) + b"N}" + text("x") + b"K\x01s\x86b.",
    "APPEND to the name": lambda m, n, a: named(m, n) + b"K\x01a.",
    "APPENDS to the name": lambda m, n, a: named(m, n) + b"(K\x01e.",
    "SETITEM on the name": lambda m, n, a: named(m, n) + text("x") + b"K\x01s.",
    "SETITEMS on the name": lambda m, n, a: named(m, n) + b"(" + text("x") + b"K\x01u.",
    "ADDITEMS to the name": lambda m, n, a: b"\x80\x04" + named(m, n) + b"(K\x01\x90.",
    "in a list": lambda m, n, a: b"](" + named(m, n) + a + b"Re.",
    "in a tuple": lambda m, n, a: b"(" + named(m, n) + a + b"Rt.",
    "as a value": lambda m, n, a: b"}" + text("pose") + named(m, n) + a + b"Rs.",
    "as a key": lambda m, n, a: b"}" + named(m, n) + a + b"RK\x01s.",
    "in a frozenset": lambda m, n, a: b"\x80\x04(" + named(m, n) + a + b"R\x91.",
    "in a set": lambda m, n, a: b"\x80\x04\x8f(" + named(m, n) + a + b"R\x90.",
    "thrown away by POP": lambda m, n, a: named(m, n) + a + b"R0K\x01.",
    "thrown away by POP_MARK": lambda m, n, a: b"(" + named(m, n) + a + b"R1K\x01.",
    "as persistent id": lambda m, n, a: b"\x80\x02" + named(m, n) + a + b"RQ.",
    "two calls, one of the other": lambda m, n, a: named("builtins", "getattr") + named(m, n) + text("__call__")
    + b"\x86R" + a + b"R.",
    "by way of functools.partial": lambda m, n, a: named("functools", "partial") + named(m, n) + b"\x85R" + a + b"R.",
    "by way of map": lambda m, n, a: named("builtins", "list") + named("builtins", "map") + named(m, n)
    + b"](" + body(a) + b"e\x86R\x85R.",
    "as dtype of an array": lambda m, n, a: named("numpy", "dtype") + named(m, n) + a + b"R\x85R.",
    "as state of a dtype": lambda m, n, a: named("numpy", "dtype") + text("f4") + b"\x85R" + named(m, n) + a + b"Rb.",
    "as array's subtype": lambda m, n, a: named("numpy.core.multiarray", "_reconstruct") + named(m, n)
    + b"K\x00\x85" + text("b") + b"\x87R.",
    "as array's bytes": lambda m, n, a: half_array() + b"(K\x01K\x01\x85" + dtype() + b"I00\n" + named(m, n) + a
    + b"Rtb.",
    "as array's shape": lambda m, n, a: half_array() + b"(K\x01" + named(m, n) + a + b"R" + dtype() + b"I00\n"
    + text("abcd") + b"tb.",
    "as argument of a scalar": lambda m, n, a: named("numpy.core.multiarray", "scalar") + dtype() + named(m, n) + a
    + b"R\x86R.",
    "as buffer": lambda m, n, a: named("numpy.core.numeric", "_frombuffer") + b"(" + named(m, n) + a + b"R" + dtype()
    + b"K\x01\x85" + text("C") + b"tR.",
    "as text to encode": lambda m, n, a: named("_codecs", "encode") + named(m, n) + a + b"R" + text("latin1")
    + b"\x86R.",
}  # fmt: skip
# only names a class that is built, or never gets to call: nothing happens, or the machine stops before
HARMLESS = {
    "as array's subtype", "bare name", "bare name, STACK_GLOBAL", "NEWOBJ", "NEWOBJ_EX", "by way of map",
    "two calls, one of the other", *(way for way in WAYS if " the name" in way),
}  # fmt: skip


def half_array() -> bytes:
    """An array before its state."""
    words = named("numpy.core.multiarray", "_reconstruct") + named("numpy", "ndarray")
    return words + b"K\x00\x85" + text("b") + b"\x87R"


def dtype(code: str = "f4") -> bytes:
    return named("numpy", "dtype") + text(code) + b"\x85R"


NAMES = (
    "os.system", "posix.system", "nt.system", "os.popen", "os.execv", "os.unlink", "subprocess.Popen",
    "subprocess.check_output", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__",
    "builtins.open", "builtins.getattr", "builtins.setattr", "builtins.type", "builtins.object", "builtins.globals",
    "builtins.bytearray", "builtins.set", "builtins.range", "builtins.print", "__builtin__.eval", "io.open",
    "pathlib.Path", "shutil.rmtree", "runpy.run_path", "importlib.import_module", "ctypes.CDLL", "socket.socket",
    "webbrowser.open", "operator.attrgetter", "operator.methodcaller", "functools.partial", "functools.reduce",
    "types.FunctionType", "types.CodeType", "codecs.decode", "_codecs.decode", "_codecs.lookup", "marshal.loads",
    "pickle.loads", "_pickle.loads", "copyreg._reconstructor", "copyreg.__newobj__", "copyreg.add_extension",
    "code.interact", "timeit.timeit", "cProfile.run", "pdb.run", "zipimport.zipimporter", "tempfile.mktemp",
    "collections.OrderedDict", "collections.defaultdict", "datetime.datetime", "decimal.Decimal", "array.array",
    "numpy.load", "numpy.fromfile", "numpy.memmap", "numpy.core.multiarray.fromfile", "numpy.core.multiarray.array",
    "numpy._core.multiarray.frombuffer", "numpy.core.records.fromrecords", "numpy.ma.core._mareconstruct",
    "numpy.lib.npyio.load", "numpy.testing._private.utils.runstring", "numpy.core.numeric.array", "numpy.vectorize",
    "numpy.ndarray.tofile", "numpy.dtype.__class__", "numpy.core.multiarray._reconstruct.__globals__", "numpy.matrix",
    "numpy.random._pickle.__randomstate_ctor", "torch.load", "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
    "scipy.sparse._csr.csr_matrix", "bpmt_ext.data.pickles._Array", "bpmt_ext.plugins.load_plugins", ". ", "numpy. ",
)  # fmt: skip


def calls(target: Path) -> Iterator[tuple[str, bytes, bool]]:
    """(what it is, the pickle, whether the ordinary reader would create `target`)."""
    touch = b"(" + text(str(target)) + text("w") + b"t"
    for way, make in WAYS.items():
        # io.open is a function; pathlib's method works on a path, so eval is what else can be called with one text
        yield f"{way}: open", make("io", "open", touch), way not in HARMLESS
        code = b"(" + text(f"open({str(target)!r}, 'w')") + b"t"
        yield f"{way}: eval", make("builtins", "eval", code), way not in HARMLESS
    for name in NAMES:
        module, _, attribute = name.rpartition(".")
        yield f"REDUCE: {name}", b"\x80\x02" + named(module, attribute) + touch + b"R.", False
        yield f"STACK_GLOBAL: {name}", b"\x80\x04" + stacked(module, attribute) + touch + b"R.", False
    for code in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):
        for protocol in (2, 4):
            yield f"EXT{len(code) - 1}, protocol {protocol}", b"\x80" + bytes([protocol]) + code + b")R.", False
    yield "PERSID", b"Pos.system\n.", False
    yield "BINPERSID", b"\x80\x02" + text("os.system") + b"Q.", False
    yield "NEXT_BUFFER", b"\x80\x05\x97.", False
    yield "READONLY_BUFFER", b"\x80\x05" + b"C\x01a\x98.", False
    yield "STACK_GLOBAL of numbers", b"\x80\x04K\x01K\x02\x93.", False
    yield "STACK_GLOBAL of a list", b"\x80\x04]]\x93.", False
    for protocol in range(6):
        for what, array in (("an object", np.array([None, "x"], dtype=object)), ("a record", np.zeros(2, "f4,O")),
                            ("a masked", np.ma.masked_array([1.0], [True])), ("a date", np.array(["2020"], "M8[D]"))):
            yield f"{what} array, protocol {protocol}", pickle.dumps(array, protocol), False
    for code in ("O", "O8", "V8", "S5", "U5", "M8[ns]", "m8", "f4,f4", "(2,)f4", "void", "a9", "f999", "i3", "", "f4\n",
                 "float32", "f4" * 1000):  # fmt: skip
        state = b"(K\x01K\x01\x85" + dtype(code) + b"I00\n" + text("abcd")
        yield f"dtype {code[:12]!r}", half_array() + state + b"tb.", False


def doubled(times: int, kind: str) -> bytes:
    """Containers in a list, each of which holds the one before twice: 2^times leaves in a few bytes each."""
    out = [b"\x80\x02](K\x01r\x00\x00\x00\x00"]
    for i in range(times):
        get, put = b"j" + struct.pack("<I", i), b"r" + struct.pack("<I", i + 1)
        out += [{"tuple": get + get + b"\x86", "list": b"](" + get + get + b"e", "dict": b"}(K\x00" + get + b"K\x01"
                 + get + b"u"}[kind], put]  # fmt: skip
    return b"".join([*out, b"e."])


def _claiming(shape: bytes, raw: bytes = b"C\x04abcd") -> bytes:
    return b"\x80\x03" + half_array() + b"(K\x01" + shape + dtype() + b"\x89" + raw + b"tb."


def bombs() -> dict[str, bytes]:
    """Pickles of data that take or claim far more memory or time than their size."""
    giant = struct.pack("<Q", 2**62)
    encoded = named("_codecs", "encode") + b"q\x00" + text("a" * 10_000) + text("latin1") + b"\x86q\x01R"
    return {
        "array of 4 TB": _claiming(b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85"),
        "array of 2^64 by 2^64": _claiming((b"\x8a\x09" + (2**64).to_bytes(9, "little")) * 2 + b"\x86"),
        "array of 0 by 2^62": _claiming(b"K\x00\x8a\x08" + (2**62).to_bytes(8, "little") + b"\x86", b"C\x00"),
        "array of a negative size": _claiming(b"J\xff\xff\xff\xff\x85"),
        "array with 100 axes": _claiming(b"(" + b"K\x01" * 100 + b"t"),
        "array with a size that is True": _claiming(b"\x88\x85"),
        "array transposed by no axes": b"\x80\x03" + named("numpy.core.numeric", "_frombuffer") + b"(C\x04abcd"
        + dtype() + b"K\x01\x85" + text("K") + b"K\x07\x85tR.",
        "LONG4 of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
        "LONG4 of a negative length": b"\x80\x02\x8b\xff\xff\xff\xffabc.",
        "LONG of 100,000 digits": b"L" + b"9" * 100_000 + b"L\n.",
        "INT of 100,000 digits": b"I" + b"9" * 100_000 + b"\n.",
        "FLOAT of 100,000 digits": b"F" + b"9" * 100_000 + b"x\n.",
        "BINBYTES of 4 GB": b"\x80\x03B\xff\xff\xff\xffabc.",
        "BINBYTES8 of 2^62": b"\x80\x04\x8e" + giant + b"abc.",
        "BINUNICODE of 4 GB": b"\x80\x02X\xff\xff\xff\xffabc.",
        "BINUNICODE8 of 2^62": b"\x80\x04\x8d" + giant + b"abc.",
        "BYTEARRAY8 of 2^62": b"\x80\x05\x96" + giant + b"abc.",
        "BINSTRING of a negative length": b"T\xff\xff\xff\xffabc.",
        "FRAME of 2^62": b"\x80\x04\x95" + giant + b"N.",
        "an index of the memo that was never used": b"](Nr\xff\xff\xff\xffp1000000000000000000\nh\x00e.",
        "GET of what is not there": b"h\x07.",
        "bytes unfolded 1000 times": b"\x80\x02](" + encoded + b"h\x00h\x01R" * 1000 + b"e.",
        "tuples doubled 60 times": doubled(60, "tuple"),
        "lists doubled 60 times": doubled(60, "list"),
        "dicts doubled 60 times": doubled(60, "dict"),
        "lists doubled 2000 times": doubled(2000, "list"),
        "a list in itself": b"]q\x00h\x00a.",
        "a list twice in itself": b"]q\x00(h\x00h\x00e.",
        "a dict in itself": b"}q\x00K\x01h\x00s.",
        "a list in a tuple in itself": b"]q\x00(h\x00tq\x01a.",
        "20,000 lists in each other": b"]" * 20_000 + b"a" * 19_999 + b".",
        "20,000 tuples in each other": b"\x80\x02)" + b"\x85" * 20_000 + b".",
        "20,000 dicts in each other": b"}K\x01" * 20_000 + b"N" + b"s" * 20_000 + b".",
        "100,000 marks": b"(" * 100_000 + b".",
        "keys whose hashes are equal": b"}(" + b"".join(
            b"\x8a\x0c" + (k * (2**61 - 1)).to_bytes(12, "little") + b"N" for k in range(1, 40_000)) + b"u.",
        "no STOP": b"\x80\x02N" * 1000,
        "nothing on the stack": b".",
        "APPENDS to nothing": b"(e.",
        "SETITEMS with a key too many": b"}(K\x01K\x02K\x03u.",
        "a list as a key": b"}]K\x01s.",
        "bytes that are no text": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
        "an unknown operation": b"\x80\x02\xf0.",
    }  # fmt: skip
