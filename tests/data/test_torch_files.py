"""Files of torch.save: what torch writes is read bit by bit, and nothing else ever runs or gets through."""

import copy
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from casejax.data.pickles import machine as torch_pickle
from casejax.data.pickles import torch_files
from casejax.data.pickles.machine import DTYPES, TorchFileError
from casejax.data.pickles.torch_files import MAGIC, PROTOCOL, read_torch, write_torch

# A pickle assembler, protocol 2


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"\x8a" + bytes([40]) + value.to_bytes(40, "little", signed=True)


def group(*items):
    return b"(" + b"".join(items) + b"t"


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def call(function, *args):
    return function + group(*args) + b"R"


def storage(key="0", length=4, name="FloatStorage"):
    return group(text("storage"), named("torch", name), text(key), text("cpu"), number(length)) + b"Q"


def tensor(stored=None, offset=0, shape=(2, 2), strides=(2, 1)):
    size, steps = (group(*map(number, values)) for values in (shape, strides))
    hooks = call(named("collections", "OrderedDict"))
    return call(
        named("torch._utils", "_rebuild_tensor_v2"), stored or storage(), number(offset), size, steps, b"\x89", hooks
    )


FOUR = np.arange(4, dtype="<f4").tobytes()


def zip_bytes(body, storages=None, *, byteorder=b"little", compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("archive/byteorder", byteorder)
        for key, contents in (storages or {"0": FOUR}).items():
            archive.writestr(f"archive/data/{key}", contents)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def stream_bytes(body, storages=None, *, magic=MAGIC, protocol=PROTOCOL, item=4):
    """The older format; storages only if the pickle refers to some."""
    body = body.replace(number(4) + b"tQ", number(4) + b"NtQ")
    if storages is None:
        storages = {"0": FOUR} if b"FloatStorage" in body else {}
    system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(value, 2) for value in (magic, protocol, system)]
    parts += [b"\x80\x02" + body + b".", pickle.dumps(list(storages), 2)]
    parts += [struct.pack("<q", len(contents) // item) + contents for contents in storages.values()]
    return b"".join(parts)


@pytest.fixture(params=[zip_bytes, stream_bytes], ids=["zip", "stream"])
def read(request, tmp_path):
    """Read a pickle's body in a file of either format."""

    def read(body, storages=None):
        path = tmp_path / "x.pkl"
        path.write_bytes(request.param(body, storages))
        return read_torch(path)

    return read


def read_bytes(contents, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(contents)
    return read_torch(path)


# What is read


def test_values_and_a_tensor(read):
    body = b"}(" + text("n") + number(-3) + text("f") + b"G" + struct.pack(">d", 0.5) + text("é") + b"N"
    body += text("l") + b"](\x88\x89K\x07M\x07\x01J\xff\xff\xff\xffe" + text("t") + b")" + text("w") + tensor() + b"u"
    value = read(body)
    weight = value.pop("w")
    assert value == {"n": -3, "f": 0.5, "é": None, "l": [True, False, 7, 263, -1], "t": ()}
    np.testing.assert_array_equal(weight, np.float32([[0, 1], [2, 3]]), strict=True)
    assert not weight.flags.writeable


def test_tensors_are_views_of_their_storage(read):
    whole = tensor() + b"q\x01"
    transposed = tensor(strides=(1, 2))
    scalar = tensor(offset=3, shape=(), strides=())
    empty = tensor(offset=9, shape=(0, 5), strides=(5, 1))
    odd = tensor(shape=(1, 2), strides=(10**6, 2))  # the stride of a single row says nothing
    parameter = call(
        named("torch._utils", "_rebuild_parameter"), b"h\x01", b"\x88", call(named("collections", "OrderedDict"))
    )
    whole, transposed, scalar, empty, odd, parameter, size = read(
        group(whole, transposed, scalar, empty, odd, parameter, call(named("torch", "Size"), group(number(2))))
    )
    np.testing.assert_array_equal(transposed, whole.T)
    assert np.shares_memory(whole, transposed)
    assert scalar.shape == ()
    assert scalar == 3
    assert empty.shape == (0, 5)
    np.testing.assert_array_equal(odd, [[0, 2]])
    assert parameter is whole
    assert size == (2,)


@pytest.mark.parametrize("name", sorted(set(DTYPES.values()) - {"bool"}))
def test_big_endian_storages(tmp_path, name):
    cls = next(cls for cls, dtype in DTYPES.items() if dtype == name)
    want = np.asarray([1, 2, 100, 3], torch_pickle.dtype_of(name))
    width = want.itemsize // (2 if want.dtype.kind == "c" else 1)
    swapped = want.view(f"u{width}").byteswap().tobytes()
    body = tensor(storage(name=cls))
    np.testing.assert_array_equal(read_bytes(zip_bytes(body, {"0": swapped}, byteorder=b"big"), tmp_path).ravel(), want)
    np.testing.assert_array_equal(read_bytes(zip_bytes(body, {"0": want.tobytes()}), tmp_path).ravel(), want)
    older = stream_bytes(body, {"0": want.tobytes()}, item=want.itemsize)  # always little-endian
    np.testing.assert_array_equal(read_bytes(older, tmp_path).ravel(), want)


def test_any_true_byte_is_true(tmp_path):
    body, stored = tensor(storage(name="BoolStorage")), {"0": b"\x00\x01\x02\xff"}
    for contents in (zip_bytes(body, stored), stream_bytes(body, stored, item=1)):
        flags = read_bytes(contents, tmp_path)
        assert flags.dtype == bool
        assert flags.sum() == 3


def test_protocol_4_with_frames_and_memo(tmp_path):
    value = {"epoch": 3, "names": ["a", "a"], "pair": (1.5, None)}
    framed = pickle.dumps(value, 4)
    contents = stream_bytes(b"").replace(b"\x80\x02.", framed)
    assert read_bytes(contents, tmp_path) == value


# What is refused


def short(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


ORDERED = named("collections", "OrderedDict")
HOSTILE = {
    "GLOBAL os.system": (call(named("os", "system"), text("touch {}")), "'os.system'"),
    "GLOBAL posix.system": (call(named("posix", "system"), text("touch {}")), "'posix.system'"),
    "STACK_GLOBAL": (call(short("os") + short("system") + b"\x93", text("touch {}")), "'os.system'"),
    "eval": (call(named("builtins", "eval"), text("1")), "'builtins.eval'"),
    "python 2 eval": (call(named("__builtin__", "eval"), text("1")), "'__builtin__.eval'"),
    "nested": (b"}" + text("a") + group(b"]" + call(named("os", "system"), text("touch {}")) + b"as"), "'os.system'"),
    "only named": (b"}(" + text("a") + named("subprocess", "Popen") + b"u", "'subprocess.Popen'"),
    "attribute of an allowed class": (named("collections", "OrderedDict.fromkeys"), "OrderedDict.fromkeys'"),
    "partial": (call(named("functools", "partial"), ORDERED), "'functools.partial'"),
    "import": (named("importlib", "import_module"), "'importlib.import_module'"),
    "our own module": (named("casejax.ot.solver", "sinkhorn"), "'casejax.ot.solver.sinkhorn'"),
    "storage from bytes": (named("torch.storage", "_load_from_bytes"), "'torch.storage._load_from_bytes'"),
    "untyped storage": (named("torch.storage", "UntypedStorage"), "'torch.storage.UntypedStorage'"),
    "a whole model": (named("models.case_model", "WTALModel"), "'models.case_model.WTALModel'"),
    "NumPy scalar": (named("numpy.core.multiarray", "scalar"), "'numpy.core.multiarray.scalar'"),
    "unknown torch class": (named("torch", "QInt8Storage"), "'torch.QInt8Storage'"),
    "INST": (b"(" + text("touch {}") + b"ios\nsystem\n", "'os.system'"),
    "INST of an allowed class": (b"(icollections\nOrderedDict\n", "INST"),
    "OBJ": (b"(" + ORDERED + text("x") + b"o", "opcode OBJ"),
    "NEWOBJ": (ORDERED + b")\x81", "opcode NEWOBJ"),
    "NEWOBJ_EX": (ORDERED + b")}\x92", "opcode NEWOBJ_EX"),
    "EXT1": (b"\x82\x01", "opcode EXT1"),
    "PERSID": (b"P0\n", "opcode PERSID"),
    "STRING": (b"S'a'\n", "opcode STRING"),
    "LONG4": (b"\x8b\x01\x00\x00\x00\x07", "opcode LONG4"),
    "NEXT_BUFFER": (b"\x97", "opcode NEXT_BUFFER"),
    "no opcode": (b"\xff", "opcode unknown"),
    "BUILD on a tensor": (tensor() + b"}b", "sets attributes"),
    "BUILD on a dictionary": (b"}}b", "sets attributes"),
    "BUILD with a callable": (call(ORDERED) + ORDERED + b"b", "sets attributes"),
    "REDUCE of a string": (call(text("os.system"), text("touch {}")), "calls what cannot be called"),
    "REDUCE of a storage class": (call(named("torch", "FloatStorage"), number(4)), "calls what cannot be called"),
    "REDUCE without a tuple": (ORDERED + b"]R", "calls what cannot be called"),
    "OrderedDict of values": (call(ORDERED, b"]"), "in a way that torch does not"),
    "a class as a value": (b"}" + text("a") + ORDERED + b"s", "a class or a bare storage"),
    "a storage class as a value": (b"](" + named("torch", "FloatStorage") + b"e", "a class or a bare storage"),
    "a storage as a value": (group(storage()), "a class or a bare storage"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_else_is_called(read, tmp_path, monkeypatch, case):
    body, message = HOSTILE[case]
    witness = tmp_path / "ran"
    line = f"touch {witness}"
    body = body.replace(text("touch {}"), text(line))
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
    with pytest.raises(TorchFileError) as refused:
        read(body)
    assert message in str(refused.value)
    assert str(tmp_path / "x.pkl") in str(refused.value)
    assert "; " in str(refused.value)  # a remedy follows
    assert not witness.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_objects_of_any_protocol_are_refused(tmp_path, protocol):
    contents = pickle.dumps({"a": subprocess.run, "b": 1}, protocol)
    for whole in (contents, stream_bytes(b"").replace(b"\x80\x02.", contents)):
        with pytest.raises(TorchFileError):
            read_bytes(whole, tmp_path)


LIES = {
    "longer than its storage": tensor(shape=(5,), strides=(1,)),
    "offset past the end": tensor(offset=1),
    "stride past the end": tensor(strides=(3, 1)),
    "far stride": tensor(strides=(2**300, 1)),
    "negative size": tensor(shape=(-2, -2)),
    "negative stride": tensor(strides=(-2, 1)),
    "negative offset": tensor(offset=-1),
    "negative offset of nothing": tensor(offset=-1, shape=(0,), strides=(1,)),
    "huge": tensor(shape=(2**62, 2**62)),
    "huge and empty": tensor(shape=(0, 2**62, 2**62), strides=(1, 1, 1)),
    "huge numbers": tensor(shape=(2**300, 0), strides=(1, 1)),
    "expanded": tensor(shape=(1000, 4), strides=(0, 1)),
    "fewer strides": tensor(strides=(1,)),
    "65 axes": tensor(shape=(1,) * 65, strides=(1,) * 65),
    "storage too long": tensor(storage(length=5)),
    "storage too short": tensor(storage(length=3), shape=(3,), strides=(1,)),
    "storage of another type": tensor(storage(name="DoubleStorage")),
    "huge storage": tensor(storage(length=2**60)),
    "negative storage": tensor(storage(length=-1), shape=(0,), strides=(1,)),
    "missing storage": tensor(storage(key="7")),
    "storage of two types": group(tensor(), tensor(storage(name="IntStorage"))),
    "storage of two lengths": group(tensor(), tensor(storage(length=2), shape=(2,), strides=(1,))),
    "no reference": group(text("0")) + b"Q",
    "reference to a number": number(0) + b"Q",
    "reference to a module": storage().replace(text("storage"), text("module")),
    "reference with a view": storage()[:-2] + group(text("1"), number(0), number(1)) + b"tQ",
    "tensor of a number": tensor(number(4)),
    "size of lists": call(named("torch._utils", "_rebuild_tensor"), storage(), b"K\x00", b"]", b"]"),
    "too few arguments": call(named("torch._utils", "_rebuild_tensor"), storage()),
    "negated": call(
        named("torch._utils", "_rebuild_tensor_v2"), storage(), b"K\x00", b"K\x04\x85", b"K\x01\x85", b"\x89", b"N",
        b"}" + text("neg") + b"\x88s",
    ),
    "array as metadata": call(
        named("torch._utils", "_rebuild_tensor_v2"), storage(), b"K\x00", b"K\x04\x85", b"K\x01\x85", b"\x89", b"N",
        tensor(),
    ),
    "parameter of a number": call(named("torch._utils", "_rebuild_parameter"), b"K\x01", b"\x88", b"N"),
    "size of floats": call(named("torch", "Size"), group(b"G" + bytes(8))),
    "size of nothing": call(named("torch", "Size")),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_tensors_stay_within_their_storage(read, case):
    tracemalloc.start()
    with pytest.raises(TorchFileError):
        read(LIES[case])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


MALFORMED = {
    "nothing left": b"",
    "two values": b"NN",
    "open mark": b"(N",
    "empty stack": b"\x85",
    "attributes of nothing": b"}b",
    "no mark": b"t",
    "append to a tuple": b")Na",
    "append to a tensor": tensor() + b"Na",
    "item of a list": b"]" + text("a") + b"Ns",
    "key without a value": b"}(" + text("a") + b"u",
    "key that is a list": b"}]Ns",
    "key that is a tensor": b"}" + tensor() + b"Ns",
    "memo of nothing": b"q\x01",
    "memo that is missing": b"h\x07",
    "memo with nothing to remember": b"\x94",
    "not UTF-8": b"X\x01\x00\x00\x00\xff",
    "a name that is not UTF-8": b"cos\n\xff\n",
    "a name without an end": b"cos",
    "names that are numbers": b"K\x01K\x02\x93",
    "text longer than the file": b"X\xff\xff\xff\xff",
    "text longer than any memory": b"\x8d" + b"\xff" * 8,
    "unknown protocol": b"\x80\x63N",
    "integer cut short": b"\x8a\xff\x01",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_pickles(read, case):
    with pytest.raises(TorchFileError, match=r"x\.pkl: its pickle .*; the file is damaged"):
        read(MALFORMED[case])


def test_deep_and_cyclic_values_do_not_recurse(read):
    assert read(b"]q\x01h\x01a")[0][0] is not None
    value = read(b"(" * 5_000 + b"t" * 5_000)
    for _ in range(4_999):
        (value,) = value
    assert value == ()


def tar_bytes():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


def npy_bytes():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def npz_bytes():
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


OTHER_FILES = {
    "empty": (b"", "empty"),
    "text": (b"epoch: 3\n", "begins with b'epoch: 3'"),
    "NumPy": (npy_bytes(), "NumPy file"),
    "NumPy archive": (npz_bytes(), "0 records data.pkl"),
    "tar": (tar_bytes(), "tar format"),
    "pickle": (pickle.dumps({"a": 1}, 2), "not with the magic number"),
    "other magic": (stream_bytes(b"N", magic=7), "not with the magic number"),
    "other protocol": (stream_bytes(b"N", protocol=1000), "not with the protocol"),
    "compressed": (zip_bytes(tensor(), compression=zipfile.ZIP_DEFLATED), "compressed"),
    "middle-endian": (zip_bytes(tensor(), byteorder=b"middle"), "byte order is 'middle'"),
    "zip without a directory": (b"PK\x03\x04" + bytes(100), "zip directory"),
    "storage of another length": (stream_bytes(tensor(), item=2), "another length"),
    "storages that nothing uses": (stream_bytes(b"N", {"0": FOUR}), "other storages"),
    "storages without a list": (stream_bytes(tensor(), {}), "other storages"),
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_other_files(tmp_path, case):
    contents, message = OTHER_FILES[case]
    with pytest.raises(TorchFileError, match=message):
        read_bytes(contents, tmp_path)


def test_paths_that_are_no_files(tmp_path):
    for path in (tmp_path, tmp_path / "none.pkl"):
        with pytest.raises(TorchFileError, match="no such file"):
            read_torch(path)


def test_zip_records_must_be_distinct(tmp_path):
    """Names that point at the same bytes would let a small file stand for a large one."""
    path = tmp_path / "x.pkl"
    path.write_bytes(zip_bytes(tensor(), {"0": FOUR * 1000}))
    with zipfile.ZipFile(path, "a") as archive:
        for n in range(1, 4):
            other = copy.copy(archive.getinfo("archive/data/0"))
            other.filename = f"archive/data/{n}"
            archive.filelist.append(other)
        archive.comment = b"written anew"
    with pytest.raises(TorchFileError, match="overlap"):
        read_torch(path)


# Damage

SMALL = (
    b"}(" + text("w") + tensor() + text("b") + tensor(strides=(1, 2)) + text("n") + b"K\x03" + text("l") + b"]NaK\x01au"
)
SAMPLES = {"zip": zip_bytes(SMALL), "stream": stream_bytes(SMALL)}


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_truncated_file_is_refused(tmp_path, sample):
    contents = SAMPLES[sample]
    assert set(read_bytes(contents, tmp_path)) == {"w", "b", "n", "l"}
    for length in range(0, len(contents), 1 if sample == "zip" else 3):
        with pytest.raises(TorchFileError):
            torch_files._read(contents[:length])


def survives(contents):
    """Reading gives a value or the one error; a value can be walked and its arrays read."""
    try:
        value = torch_files._read(bytes(contents))
    except TorchFileError as error:
        return len(str(error)) < 1000
    for array in value.values() if isinstance(value, dict) else ():
        if isinstance(array, np.ndarray):
            array.tobytes()
    return True


def damaged(contents, rng):
    contents = bytearray(contents)
    where, other = rng.integers(len(contents), size=2)
    match rng.integers(5):
        case 0:
            contents[where] ^= 1 << rng.integers(8)
        case 1:
            contents[where] = rng.integers(256)
        case 2:
            del contents[where : where + rng.integers(1, 9)]
        case 3:
            contents[where:where] = contents[other : other + rng.integers(1, 33)]
        case 4:
            contents[where : where + 4] = b"\xff\xff\xff\xff"
    return bytes(contents)


@pytest.mark.parametrize("sample", [*SAMPLES, "pickle in zip"])
def test_damaged_files_are_read_or_refused(rng, sample):
    for _ in range(250):
        if sample == "pickle in zip":  # with checksums that fit, so that the damage is not found by them
            assert survives(zip_bytes(damaged(SMALL, rng)))
        else:
            assert survives(damaged(SAMPLES[sample], rng))


def test_random_programs_are_read_or_refused(rng):
    """Opcodes in any order, mostly of those that are known, with arguments that mostly make sense."""
    codes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    parts = [
        *codes,
        text("w"),
        text("storage"),
        number(2),
        ORDERED,
        named("torch", "FloatStorage"),
        storage(),
        tensor(),
    ]
    parts += [b"}", b")", b"]", b"(", b"t", b"R", b"Q", b"q\x01", b"h\x01", b"\x85", b"\x86", b"s", b"b"] * 3
    parts += [named("torch._utils", "_rebuild_tensor_v2"), named("torch", "Size"), storage(name="BoolStorage")]
    reached = 0
    for _ in range(400):
        program = b"".join(parts[n] for n in rng.integers(len(parts), size=rng.integers(1, 12)))
        contents = stream_bytes(program + b".")
        assert survives(contents)
        reached += b"tensor" in program
    assert reached > 10


# Writing


def arrays():
    rng = np.random.default_rng(0)
    plain = {name: rng.normal(size=(3, 4)).astype(torch_pickle.dtype_of(name)) for name in DTYPES.values()}
    return plain | {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(10)[::3],
        "big-endian": np.arange(3, dtype=">i4"),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "": np.zeros(1, np.float32),
        "layer.é": np.float64([np.nan, np.inf, -0.0]),
        "large": np.zeros(70_000, np.uint8),
    }


def assert_same_arrays(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].dtype.name == array.dtype.name, name
        assert got[name].shape == array.shape, name
        native = array.astype(torch_pickle.dtype_of(array.dtype.name))
        assert got[name].tobytes() == native.tobytes(), name


def test_written_files_are_read_bit_by_bit(tmp_path):
    write_torch(tmp_path / "x.pkl", arrays())
    assert_same_arrays(read_torch(tmp_path / "x.pkl"), arrays())
    write_torch(tmp_path / "y.pkl", arrays())
    assert (tmp_path / "x.pkl").read_bytes() == (tmp_path / "y.pkl").read_bytes()
    write_torch(tmp_path / "none.pkl", {})
    assert read_torch(tmp_path / "none.pkl") == {}
    with zipfile.ZipFile(tmp_path / "x.pkl") as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            archive.fp.seek(entry.header_offset + 26)
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", archive.fp.read(4)))
            assert start % 64 == 0, entry.filename


def test_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "x.pkl"
    write_torch(path, {"a": np.ones(3)})
    before = path.read_bytes()
    for bad in (np.array(["text"]), np.zeros(2, np.uint16), np.array([None])):
        with pytest.raises(TorchFileError, match="cannot hold 'b' of type"):
            write_torch(path, {"a": np.zeros(3), "b": bad})

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(torch_files, "pickled", full)
    with pytest.raises(OSError, match="no space"):
        write_torch(path, {"a": np.zeros(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_importing_loads_numpy_only():
    code = (
        "import sys, casejax.data.pickles.torch_files;"
        "own = {m.split('.')[0] for m in sys.modules if not m.startswith('_')} - sys.stdlib_module_names;"
        "print(sorted(m for m in own if 'editable' not in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = eval(done.stdout)
    assert "casejax" in loaded
    assert not {"jax", "flax", "ml_dtypes", "torch", "scipy", "rich"} & set(loaded)


# Against torch itself


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")


@pytest.fixture(params=[True, False], ids=["zip", "stream"])
def save(request, torch, tmp_path):
    def save(value, **options):
        torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=request.param, **options)
        return tmp_path / "x.pt"

    return save


def bits(torch, tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_type_of_torch(torch, save):
    generator = torch.Generator().manual_seed(0)
    state = {
        name: (100 * torch.randn(3, 5, generator=generator)).abs().to(getattr(torch, name)) for name in DTYPES.values()
    }
    got = read_torch(save(state))
    assert list(got) == list(state)
    for name, want in state.items():
        assert got[name].dtype.name == name
        assert got[name].shape == want.shape
        assert got[name].tobytes() == bits(torch, want)


def test_every_shape_of_torch(torch, save):
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "whole": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "scalar": torch.tensor(3),
        "flag": torch.tensor(True),
        "empty": torch.empty(0, 3),
        "single": base[2:3, 4:5],
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    got = read_torch(save(state))
    for name, want in state.items():
        assert got[name].shape == tuple(want.shape), name
        assert got[name].tobytes() == bits(torch, want.detach()), name
    assert np.shares_memory(got["whole"], got["transposed"])
    assert np.shares_memory(got["whole"], got["part"])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_training_checkpoint(torch, save, protocol):
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 1), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 2, 4)).sum().backward()
    optimizer.step()
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "best": (0.5, None, [True, "name", 2**70]),
        "size": torch.Size([2, 3]),
    }
    got = read_torch(save(saved, pickle_protocol=protocol))
    assert {name: got[name] for name in ("epoch", "best", "size")} == {
        "epoch": 3,
        "best": saved["best"],
        "size": (2, 3),
    }
    assert list(got["model"]) == list(saved["model"])
    for name, want in saved["model"].items():
        assert got["model"][name].tobytes() == bits(torch, want)
    assert got["optimizer"]["param_groups"] == saved["optimizer"]["param_groups"]
    assert got["optimizer"]["state"][0]["exp_avg"].shape == (3, 2, 1)


def test_a_whole_module_is_refused(torch, save):
    with pytest.raises(TorchFileError, match=r"torch\.nn\.modules\.linear\.Linear.*torch\.save\(model\.state_dict"):
        read_torch(save(torch.nn.Linear(2, 3)))
    with pytest.raises(TorchFileError, match=r"12 elements.*clone"):
        read_torch(save(torch.ones(1, 3).expand(4, 3)))


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_what_is_written(torch, tmp_path, mmap):
    write_torch(tmp_path / "x.pkl", arrays())
    got = torch.load(tmp_path / "x.pkl", weights_only=True, mmap=mmap)
    assert list(got) == list(arrays())
    for name, want in arrays().items():
        assert str(got[name].dtype) == f"torch.{want.dtype.name}"
        assert tuple(got[name].shape) == want.shape
        assert bits(torch, got[name]) == want.astype(torch_pickle.dtype_of(want.dtype.name)).tobytes()
