"""Objects in files of numpy.save: read as NumPy reads them, without running their pickles."""

import io
import os
import pickle
import struct
import subprocess
import tracemalloc

import numpy as np
import pytest
from pickle_samples import group, named, number, short

from casejax.data.pickles.numpy_files import _interpret, read_object_array, read_pickle
from casejax.errors import DataError


def npy(body, header="{'descr': '|O', 'fortran_order': False, 'shape': (), }"):
    """A file of `numpy.save` around a pickle."""
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body


def of_protocol(value, protocol):
    return npy(pickle.dumps(np.array(value, object), protocol))


@pytest.fixture
def read(tmp_path):
    def read(contents):
        path = tmp_path / "x.npy"
        path.write_bytes(contents)
        return read_object_array(path)[()]

    return read


def assert_same(got, want):
    assert list(got) == list(want)
    for key, value in want.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(got[key], value)  # NumPy may or may not turn bytes round
            assert got[key].dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
        else:
            assert got[key] == value


def varied():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(3, 4)).astype(np.float32)
    return {
        "single": shared,
        "again": shared,
        "big-endian": rng.normal(size=(2, 5)).astype(">f8"),
        "by column": np.asfortranarray(rng.normal(size=(4, 70))),
        "both": np.asfortranarray(rng.normal(size=(3, 2)).astype(">f4")),
        "half": rng.normal(size=(1, 3)).astype(np.float16),
        "whole": np.arange(6, dtype=">i2").reshape(2, 3),
        "large": rng.normal(size=(90, 100)).astype(np.float32),  # outside of a frame of protocol 4
        "é": 0.5,
        "list": [1, None, "a", (True, -(2**40))],
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_numpy_pickles(read, protocol):
    contents = of_protocol(varied(), protocol)
    oracle = np.load(io.BytesIO(contents), allow_pickle=True)[()]
    got = read(contents)
    assert_same(got, oracle)
    assert got["again"] is got["single"]
    assert got["both"].flags.f_contiguous
    assert not got["large"].flags.writeable
    older = contents.replace(b"numpy._core.", b"numpy.core.")  # its length is written down from protocol 4 on
    if protocol < 4:
        assert older != contents
        assert_same(read(older), oracle)


def test_the_older_spelling_in_protocol_4(read):
    contents = of_protocol(varied(), 4)
    older = contents.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert older != contents
    assert_same(read(older), varied())


def test_ids_that_are_strings_of_numpy(read):
    ids = np.array(["video_1", "vidéo_2"])
    contents = of_protocol({ids[0]: 1.5, ids[1]: np.float32(2), np.bytes_(b"b"): np.int64(3)}, 3)
    got = read(contents)
    assert got == {"video_1": 1.5, "vidéo_2": 2.0, "b": 3}
    assert all(type(key) is str for key in got)


def test_arrays_of_objects(tmp_path):
    objects = np.empty((2, 3), object, order="F")
    objects[...] = [[1, "a", None], [2.5, [3], np.arange(2)]]
    np.save(tmp_path / "x.npy", objects)
    got = read_object_array(tmp_path / "x.npy")
    assert got.shape == (2, 3)
    for mine, its in zip(got.ravel(), objects.ravel(), strict=True):
        np.testing.assert_array_equal(mine, its)


# A pickle assembler as of Python 2: strings of bytes

CORE = "numpy.core.multiarray"


def string(value):
    return short(value) if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def kind(code=b"f4", order=b"<"):
    made = named("numpy", "dtype") + group(short(code), b"K\x00K\x01") + b"R"
    flags = b"K\x3f" if code[:1] == b"O" else b"K\x00"
    return made + group(b"K\x03", short(order), b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff", flags) + b"b"


def unfilled(name="ndarray"):
    return named(CORE, "_reconstruct") + group(named("numpy", name), b"K\x00\x85", short(b"b")) + b"R"


def array(shape, contents, dtype=None, *, version=number(1), by_column=b"\x89"):
    shape = shape if isinstance(shape, bytes) else group(*(number(n) for n in shape))
    return unfilled() + group(version, shape, dtype or kind(), by_column, contents) + b"b"


def objects(*items):
    return array((len(items),) if len(items) != 1 else (), b"](" + b"".join(items) + b"e", kind(b"O8", b"|"))


def python_2(*items):
    return npy(b"\x80\x02" + objects(b"}(" + b"".join(items) + b"u") + b".")


def test_python_2_strings(read):
    values = {key: np.random.default_rng(7).normal(size=(n, 9)).astype(np.float32) for key, n in (("a", 2), ("é", 8))}
    items = [short(key.encode("latin-1")) + array(v.shape, string(v.tobytes())) for key, v in values.items()]
    contents = python_2(*items)
    assert_same(np.load(io.BytesIO(contents), allow_pickle=True, encoding="latin1")[()], values)
    assert_same(read(contents), values)


# What is refused

EIGHT = string(np.arange(2, dtype="<f4").tobytes())
HOSTILE = {
    "a function": (named("os", "system") + group(short(b"touch {}")) + b"R", "'os.system'"),
    "eval": (named("__builtin__", "eval") + group(short(b"1")) + b"R", "'__builtin__.eval'"),
    "by stack": (short(b"posix") + short(b"system") + b"\x93" + group(short(b"touch {}")) + b"R", "'posix.system'"),
    "instance": (b"(" + short(b"touch {}") + b"ios\nsystem\n", "'os.system'"),
    "only named": (named("subprocess", "Popen"), "'subprocess.Popen'"),
    "fromfile": (named("numpy", "fromfile"), "'numpy.fromfile'"),
    "attribute": (named(CORE, "_reconstruct.__globals__"), "_reconstruct.__globals__'"),
    "our own": (named("casejax.data.pickles.numpy_files", "read_object_array"), "read_object_array'"),
    "the class": (named("numpy", "ndarray"), "a class, a function"),
    "called class": (named("numpy", "ndarray") + group(number(3)) + b"R", "calls what cannot be called"),
    "a type": (kind(), "a class, a function"),
    "a builder": (named("numpy", "dtype"), "a class, a function"),
    "bytes": (b"C\x01x", "contents without an array"),
    "memory map": (unfilled("memmap"), "'numpy.memmap'"),
    "unfilled": (unfilled(), "contents without an array"),
    "other codec": (named("_codecs", "encode") + group(short(b"x"), short(b"rot13")) + b"R", "that NumPy does"),
    "record": (array((1,), EIGHT, kind(b"V8")), "'V8', not of real numbers"),
    "text array": (array((2,), EIGHT, kind(b"S4")), "not of real numbers"),
    "newobj": (named("numpy", "dtype") + b")\x81", "opcode NEWOBJ"),
    "protocol 0": (b"S'a'\n", "opcode STRING"),
    "extension": (b"\x82\x01", "opcode EXT1"),
    "reference": (short(b"x") + b"Q", "opcode BINPERSID"),
    "buffer": (b"\x97", "opcode NEXT_BUFFER"),
    "attributes": (b"}}b", "sets attributes"),
    "fields": (
        named("numpy", "dtype") + group(short(b"f4"), b"K\x00K\x01") + b"R"
        + group(b"K\x03", short(b"<"), b"N", group(short(b"a")), b"}K\x00K\x00K\x00") + b"b",
        "not plain",
    ),
}  # fmt: skip


def test_nothing_else_is_called(read, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
    witness = tmp_path / "w"
    for case, (body, message) in HOSTILE.items():
        body = body.replace(short(b"touch {}"), short(f"touch {witness}".encode()))
        for contents in (python_2(short(b"a") + body), python_2(short(b"a") + b"](" + body + b"e")):
            with pytest.raises(DataError) as refused:
                read(contents)
            said = str(refused.value)
            assert message in said, (case, said)
            assert str(tmp_path / "x.npy") in said
            assert "; " in said  # a remedy follows
        with pytest.raises(DataError):
            read(npy(b"\x80\x02" + body + b"."))
    assert not witness.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_functions_of_any_protocol(read, protocol):
    with pytest.raises(DataError):
        read(of_protocol({"a": np.ones((2, 3)), "b": subprocess.run}, protocol))


LIES = {
    "too short": array((3,), EIGHT),
    "too long": array((1,), EIGHT),
    "negative": array((-1, -2), EIGHT),
    "huge": array((2**62, 2**62), EIGHT),
    "huge and empty": array((0, 2**62), string(b"")),
    "33 axes": array((1,) * 33, string(bytes(4))),
    "shape of a list": array(b"](K\x02e", EIGHT),
    "shape of floats": array(b"G" + struct.pack(">d", 2) + b"\x85", EIGHT),
    "other version": array((2,), EIGHT, version=number(2)),
    "version of an array": array((2,), EIGHT, version=array((2,), EIGHT)),
    "order of a list": array((2,), EIGHT, by_column=b"]"),
    "no contents": array((2,), b"N"),
    "not Latin-1": array((2,), b"X\x03\x00\x00\x00" + "€".encode()),
    "no type": array((2,), EIGHT, b"N"),
    "type without an order": array((2,), EIGHT, named("numpy", "dtype") + group(short(b"f4"), b"\x89\x88") + b"R"),
    "type with two orders": array((2,), EIGHT, kind() + kind()[kind().index(b"R") + 1 :]),
    "type of a number": array((2,), EIGHT, named("numpy", "dtype") + group(b"K\x04", b"\x89\x88") + b"R"),
    "fewer objects": array((3,), b"](NNe", kind(b"O8", b"|")),
    "objects in bytes": array((1,), EIGHT, kind(b"O8", b"|")),
    "scalar of nothing": named(CORE, "scalar") + group(kind(), short(b"")) + b"R",
    "scalar of an object": named(CORE, "scalar") + group(kind(b"O8", b"|"), short(bytes(8))) + b"R",
    "scalar that is no text": named(CORE, "scalar") + group(kind(b"U1"), short(b"\xff" * 4)) + b"R",
    "contains itself": array((1,), b"](h\x07e", kind(b"O8", b"|")).replace(b"tR", b"tRq\x07", 1),
}  # fmt: skip


def test_arrays_stay_within_their_contents(tmp_path):
    assert np.shape(read_one(array((2,), EIGHT), tmp_path)) == (2,)
    for case, body in LIES.items():
        tracemalloc.start()
        with pytest.raises(DataError):
            pytest.fail(f"{case}: {read_one(body, tmp_path)}")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**20, case


def read_one(body, tmp_path):
    path = tmp_path / "one.npy"
    path.write_bytes(python_2(short(b"a") + body))
    return read_object_array(path)[()]["a"]


def test_repetition_takes_no_memory(tmp_path):
    """Text that is remembered and encoded again and again would be larger than the file without end."""
    text = b"X" + struct.pack("<I", 2**16) + bytes(2**16) + b"q\x01"
    encoded = named("_codecs", "encode") + b"q\x02"
    again = b"h\x02h\x01" + short(b"latin1") + b"\x86R"
    path = tmp_path / "x.npy"
    path.write_bytes(npy(b"\x80\x02(" + text + encoded + again * 4000 + b"t."))
    tracemalloc.start()
    with pytest.raises(DataError, match="repeats"):
        read_object_array(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21


# Damage


def small():
    return of_protocol({"a": np.ones((2, 3), np.float32), "b": np.asfortranarray(np.ones((2, 2), ">f8"))}, 4)


def test_a_truncated_file_is_refused(read):
    contents = small()
    for length in range(0, len(contents), 9):
        with pytest.raises(DataError):
            read(contents[:length])
    with pytest.raises(DataError, match="1 bytes after its pickle"):
        read(contents + b"x")


def test_a_changed_byte_never_does_worse_than_an_error():
    rng = np.random.default_rng(11)
    refused = 0
    for protocol in (2, 3, 4, 5):
        body = of_protocol({"a": np.ones((2, 3), np.float32), "b": [np.ones(2, ">f8"), "c"]}, protocol)[128:]
        for place in rng.integers(0, len(body), 30):
            changed = bytearray(body)
            changed[place] ^= rng.integers(1, 256)
            try:
                _interpret(memoryview(bytes(changed)))
            except DataError:
                refused += 1
    assert refused > 60


OTHER_FILES = {
    "empty": (b"", "not a .npy file"),
    "text": (b"epoch: 3\n", "not a .npy file"),
    "a plain pickle": (pickle.dumps({"a": 1}), "not a .npy file"),
    "a plain array": (npy(bytes(24), "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"), "single array of"),
    "another shape": (npy(small()[128:], "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }"), "promises"),
    "no array in it": (npy(pickle.dumps({"a": 1}, 4)), "header promises"),
}  # fmt: skip


def test_other_files(read, tmp_path):
    for contents, message in OTHER_FILES.values():
        with pytest.raises(DataError, match=message):
            read(contents)
    with pytest.raises(DataError, match="no such file"):
        read_object_array(tmp_path / "none.npy")


# Pickles alone


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_alone(tmp_path, protocol):
    path = tmp_path / "x.ckpt"
    path.write_bytes(pickle.dumps({"params": varied(), "step": 3}, protocol))
    got = read_pickle(path)
    assert got["step"] == 3
    assert_same(got["params"], varied())
    assert not got["params"]["large"].flags.writeable
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"x\.ckpt: it has 1 bytes after its pickle"):
        read_pickle(path)
    for length in (0, 1, 2, 40, len(path.read_bytes()) // 2):
        (tmp_path / "cut").write_bytes(path.read_bytes()[:length])
        with pytest.raises(DataError, match=r"cut: .*fetch it again"):
            read_pickle(tmp_path / "cut")


def test_a_pickle_alone_calls_nothing_either(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
    path, witness = tmp_path / "x.ckpt", tmp_path / "w"
    for case, (body, message) in HOSTILE.items():
        body = body.replace(short(b"touch {}"), short(f"touch {witness}".encode()))
        for around in (body, b"}(" + short(b"a") + body + b"u", b"](" + body + b"e"):
            path.write_bytes(b"\x80\x02" + around + b".")
            with pytest.raises(DataError) as refused:
                read_pickle(path)
            assert str(refused.value).startswith(str(path)), case
            assert message in str(refused.value), (case, str(refused.value))
    for protocol in range(6):
        path.write_bytes(pickle.dumps({"a": np.ones(2), "b": subprocess.run}, protocol))
        with pytest.raises(DataError):
            read_pickle(path)
    assert not witness.exists()


def test_other_files_are_no_pickles(tmp_path):
    path = tmp_path / "x.ckpt"
    for contents in (b"", b"epoch: 3\n", npy(bytes(8)), b"PK\x03\x04"):
        path.write_bytes(contents)
        with pytest.raises(DataError, match="not a pickle of protocol 2 or later"):
            read_pickle(path)
    with pytest.raises(DataError, match="no such file"):
        read_pickle(tmp_path / "none")
