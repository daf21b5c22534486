"""Whatever a pickle says, nothing runs, and only plain values and arrays within their storage get through."""

import os
import pickle
import pickletools
import subprocess
import tracemalloc

import numpy as np
import pytest
from pickle_samples import call, group, named, number, short, storage, stream_bytes, tensor, text, zip_bytes

from casejax.data.pickles import torch_files
from casejax.errors import DataError


def read_bytes(contents, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(contents)
    return torch_files.read_torch(path)


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
    "a class as a value": (b"}" + text("a") + ORDERED + b"s", "a class, a function"),
    "a storage class as a value": (b"](" + named("torch", "FloatStorage") + b"e", "a class, a function"),
    "a storage as a value": (group(storage()), "a class, a function"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_else_is_called(read, tmp_path, monkeypatch, case):
    body, message = HOSTILE[case]
    witness = tmp_path / "ran"
    line = f"touch {witness}"
    body = body.replace(text("touch {}"), text(line))
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
    with pytest.raises(DataError) as refused:
        read(body)
    assert message in str(refused.value)
    assert str(tmp_path / "x.pkl") in str(refused.value)
    assert "; " in str(refused.value)  # a remedy follows
    assert not witness.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_objects_of_any_protocol_are_refused(tmp_path, protocol):
    contents = pickle.dumps({"a": subprocess.run, "b": 1}, protocol)
    for whole in (contents, stream_bytes(b"").replace(b"\x80\x02.", contents)):
        with pytest.raises(DataError):
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
    with pytest.raises(DataError):
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
    with pytest.raises(DataError, match=r"x\.pkl: its pickle .*; the file is damaged"):
        read(MALFORMED[case])


def test_deep_and_cyclic_values_do_not_recurse(read):
    assert read(b"]q\x01h\x01a")[0][0] is not None
    value = read(b"(" * 5_000 + b"t" * 5_000)
    for _ in range(4_999):
        (value,) = value
    assert value == ()


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
        with pytest.raises(DataError):
            torch_files._read(contents[:length])


def survives(contents):
    """Reading gives a value or the one error; a value can be walked and its arrays read."""
    try:
        value = torch_files._read(bytes(contents))
    except DataError as error:
        return len(str(error)) < 1000
    for array in value.values() if isinstance(value, dict) else ():
        if isinstance(array, np.ndarray):
            array.tobytes()
    return True


def damaged(contents, rng):
    """A copy with a few bytes changed, removed or repeated."""
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
