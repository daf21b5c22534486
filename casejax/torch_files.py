"""Files of `torch.save`, read and written without PyTorch and without executing a pickle.

Both formats are read: the zip archive and the stream that came before it. The pickle inside is interpreted
here, opcode by opcode. It can make numbers, strings, lists, tuples, dictionaries and tensors; every other
class or function that it names, and every other opcode, is refused. Whatever sizes a file declares, the
memory taken is in proportion to its length.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from casejax.data.records import DataError

DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
"""The storage classes of `torch` and the types of their elements."""

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # with which the older format begins
NEWEST_PICKLE = 5
ALIGNMENT = 64  # of storages in a zip file, as torch aligns them


class TorchFileError(DataError):
    """A file that is not read; the message names the file, what is wrong with it and the remedy."""


def read_torch(path: str | os.PathLike[str]) -> Any:
    """Read what `torch.save` wrote.

    Args:
      path: a file of either format. It is read into memory whole.

    Returns:
      The saved object, made of dictionaries (an `OrderedDict` where there was one), lists, tuples, numbers,
      strings, booleans, None, and read-only NumPy arrays in place of tensors and parameters. Arrays whose
      tensors shared a storage share its memory. bfloat16 is that of `ml_dtypes`.

    Raises:
      TorchFileError: for every other file. Nothing that a file names is ever imported or called.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise FileNotFoundError("no such file")
        data = path.read_bytes()
    except OSError as error:
        raise TorchFileError(f"{path}: cannot be opened ({error}); check the path") from error
    try:
        return _read(data)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from error.__cause__


def write_torch(path: str | os.PathLike[str], state: Mapping[str, np.ndarray]) -> None:
    """Write arrays as the zip file that `torch.save` makes of a state dict of tensors.

    `torch.load(path, weights_only=True)` reads it as an `OrderedDict`. The file takes its name only when it
    is complete, in place of one that had it before. The same arrays give the same bytes.

    Args:
      path: file to write.
      state: arrays of any shape, of the types in `DTYPES`; each becomes a contiguous tensor.

    Raises:
      TorchFileError: an array of a type torch does not have, or a name that is no string.
    """
    path, arrays = Path(path), {}
    for name, value in state.items():
        dtype = np.asarray(value).dtype.name
        if not isinstance(name, str) or dtype not in DTYPES.values():
            raise TorchFileError(f"{path}: cannot hold {name!r} of type {dtype}; cast it, to float32 for instance")
        arrays[name] = np.asarray(value, _dtype(dtype), order="C")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
            _add(archive, file.tell(), "data.pkl", _pickled(arrays))
            _add(archive, file.tell(), "byteorder", b"little")
            for key, array in enumerate(arrays.values()):
                _add(archive, file.tell(), f"data/{key}", _reordered(array.tobytes(), array.dtype, "little"))
            _add(archive, file.tell(), "version", b"3\n")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _damaged(what: str) -> TorchFileError:
    return TorchFileError(f"{what}; the file is damaged or incomplete, fetch it again")


def _refused(what: str) -> TorchFileError:
    return TorchFileError(f"{what}; save the state dict alone, torch.save(model.state_dict(), PATH), and use that file")


# The two formats


class _Storage(NamedTuple):
    """Elements of one type, end to end, as read-only bytes in native order."""

    key: str
    dtype: np.dtype
    length: int
    data: memoryview = memoryview(b"")

    @property
    def nbytes(self) -> int:
        return self.length * self.dtype.itemsize

    def __str__(self) -> str:
        return f"storage {self.key[:40]!r} of {self.length} elements of {self.dtype}"


def _read(data: bytes) -> Any:
    if not data:
        raise _damaged("it is empty")
    if data.startswith(b"PK\x03\x04"):
        return _read_zip(data)
    if data[257:262] == b"ustar":
        raise TorchFileError("it is in the tar format of PyTorch 0.1; load it with PyTorch and save it again")
    if not data.startswith(b"\x80"):
        kind = "it is a NumPy file" if data.startswith(b"\x93NUMPY") else f"it begins with {data[:8]!r}"
        raise _refused(f"{kind}, not as a file of torch.save does")
    return _read_stream(data)


def _read_zip(data: bytes) -> Any:
    records = _records(data)
    roots = [name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise _refused(f"it is a zip file with {len(roots)} records data.pkl, where torch.save writes one")
    (root,) = roots
    byteorder = "little"
    if f"{root}byteorder" in records:
        byteorder = str(_contents(data, records[f"{root}byteorder"]), "latin-1")
    if byteorder not in ("little", "big"):
        raise _damaged(f"its byte order is {byteorder[:20]!r}, neither little nor big")

    def load(storage: _Storage) -> memoryview:
        record = records.get(f"{root}data/{storage.key}")
        if record is None or record.file_size != storage.nbytes:
            found = "no record" if record is None else f"{record.file_size} bytes"
            raise _damaged(f"it has {found} for {storage}")
        return _reordered(_contents(data, record), storage.dtype, byteorder)

    return _Machine(_contents(data, records[f"{root}data.pkl"]), load).run()


def _records(data: bytes) -> dict[str, zipfile.ZipInfo]:
    """Directory of a zip file; all records together are no longer than the file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises many types for damaged files
        raise _damaged(f"its zip directory cannot be read ({type(error).__name__})") from error
    records = {entry.filename: entry for entry in entries}
    if len(records) < len(entries) or sum(entry.file_size for entry in entries) > len(data):
        raise _damaged("its zip records overlap")
    return records


def _contents(data: bytes, record: zipfile.ZipInfo) -> memoryview:
    """The bytes of one zip record, where they lie in the file."""
    name = f"its zip record {record.filename[:80]!r}"
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
        raise _refused(f"{name} is compressed or encrypted, which torch.save never does")
    begin = max(record.header_offset, 0)
    header = data[begin : begin + 30]
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise _damaged(f"{name} is not where the directory says")
    start = begin + 30 + sum(struct.unpack("<HH", header[26:]))
    contents = memoryview(data)[start : start + record.file_size]
    if len(contents) != record.file_size or zlib.crc32(contents) != record.CRC:
        raise _damaged(f"{name} fails its checksum, or torch was told to write none")
    return contents


def _read_stream(data: bytes) -> Any:
    """The older format: pickles of a magic number, a protocol, the writer's system, the object, the keys of its
    storages; then the storages, each after its length.
    """
    # Storages come after the object that refers to them: it is built on memory that is filled at the end.
    memory: dict[str, bytearray] = {}
    room = len(data)

    def load(storage: _Storage) -> memoryview:
        nonlocal room
        room -= storage.nbytes
        if room < 0:
            raise _damaged(f"it is too short for {storage}")
        memory[storage.key] = bytearray(storage.nbytes)
        return memoryview(memory[storage.key]).toreadonly()

    machine = _Machine(memoryview(data), load)
    for name, wanted in (("magic number", MAGIC), ("protocol", PROTOCOL)):
        if type(found := machine.run()) is not int or found != wanted:
            raise _refused(f"it is a pickle, but not with the {name} of torch.save")
    machine.run()  # sizes and byte order of the writer: the format is little-endian everywhere
    value, keys = machine.run(), machine.run()
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(memory):
        raise _damaged("it lists other storages than its tensors use")
    for storage in map(machine.storages.__getitem__, keys):
        if int.from_bytes(machine.take(8), "little") != storage.length:
            raise _damaged(f"it has another length for {storage}")
        memory[storage.key][:] = _reordered(machine.take(storage.nbytes), storage.dtype, "little")
    return value


def _reordered(contents: memoryview | bytes, dtype: np.dtype, byteorder: str) -> memoryview:
    """Bytes of `byteorder` in that of this machine, or the other way round."""
    if dtype.kind == "b":  # anything but 0 and 1 misleads NumPy
        return memoryview((np.frombuffer(contents, np.uint8) != 0).tobytes())
    if byteorder == sys.byteorder:
        return memoryview(contents)
    width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    return memoryview(np.frombuffer(contents, f"u{width}").byteswap().tobytes())


# What a pickle may name


def _ordered_dict(args: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    if args:
        raise _refused("it makes an OrderedDict in a way that torch does not")
    return OrderedDict()


def _size(args: tuple[Any, ...]) -> tuple[int, ...]:
    if len(args) != 1 or not _are_counts(args[0]):
        raise _damaged("it has a torch.Size that is no tuple of counts")
    return args[0]


def _parameter(args: tuple[Any, ...]) -> np.ndarray:
    if len(args) != 3 or not isinstance(args[0], np.ndarray):
        raise _damaged("it has a parameter that is no tensor")
    return args[0]


def _tensor(args: tuple[Any, ...]) -> np.ndarray:
    """A view of a storage; the arguments after the first four say nothing of its values."""
    if not 4 <= len(args) <= 7 or not isinstance(args[0], _Storage):
        raise _damaged("it has a tensor without a storage")
    storage, offset, shape, strides = args[:4]
    if len(args) == 7 and (type(args[6]) is not dict or args[6]):
        raise _refused("it has a tensor that is conjugated or negated only when it is read")
    if not (_are_counts((offset,)) and _are_counts(shape) and _are_counts(strides)) or len(shape) != len(strides):
        raise _damaged("it has a tensor whose offset, size or strides are no counts")
    itemsize, elements = storage.dtype.itemsize, math.prod(shape[:64])
    if len(shape) > 64 or math.prod(max(n, 1) for n in shape) * itemsize >= 2**63:
        raise _damaged("it has a tensor of more axes or elements than can be")
    if elements == 0:
        return np.empty(shape, storage.dtype)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    # A tensor that repeats its storage could be larger than any memory.
    if last >= storage.length or elements > storage.length:
        raise TorchFileError(
            f"it has a tensor of {elements} elements, the last of them number {last} of {storage}; save a copy "
            "of the tensor, tensor.clone(), or fetch the file again if it is damaged"
        )
    steps = [itemsize * (stride if n > 1 else 1) for n, stride in zip(shape, strides, strict=True)]
    return np.ndarray(shape, storage.dtype, storage.data, offset * itemsize, steps)


def _are_counts(values: Any) -> bool:
    return type(values) is tuple and all(type(n) is int and n >= 0 for n in values)


BUILDERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
"""All that a pickle may call, and what is called in its place."""


def _named(module: str, name: str) -> Any:
    target = f"{module}.{name}"
    if target in BUILDERS:
        return BUILDERS[target]
    if module == "torch" and name in DTYPES:
        return _dtype(DTYPES[name])
    raise _refused(f"refused: its pickle names {target[:80]!r}, which no state dict needs")


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes  # jax brings it; nothing else here needs it

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


# The pickle machine

OPCODES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
WIDTHS = {"BININT1": 1, "BININT2": 2, "BINGET": 1, "LONG_BINGET": 4, "BINPUT": 1, "LONG_BINPUT": 4} | {
    "SHORT_BINUNICODE": 1,
    "BINUNICODE": 4,
    "BINUNICODE8": 8,
}
"""Bytes of the count, index or length that follows an opcode."""
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """Interpreter of pickles that follow each other in `data`; `load` gives the bytes of a storage."""

    def __init__(self, data: memoryview, load: Callable[[_Storage], memoryview]) -> None:
        self.data, self.load, self.position = data, load, 0
        self.storages: dict[str, _Storage] = {}

    def run(self) -> Any:
        """The value of the next pickle."""
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks beneath open marks
        self.memo: dict[int, Any] = {}
        while self.step():
            pass
        if len(self.stack) != 1 or self.below:
            raise self.error("ends with other than one value")
        _check_values(self.stack[0])
        return self.stack[0]

    def step(self) -> bool:
        """Interpret one opcode; false if it was the last."""
        op = OPCODES.get(self.take(1)[0], "unknown")
        match op:
            case "STOP":
                return False
            case "PROTO":
                if (protocol := self.uint(1)) > NEWEST_PICKLE:
                    raise self.error(f"is of unknown protocol {protocol}")
            case "FRAME":
                self.uint(8)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append(CONSTANTS[op])
            case "BININT1" | "BININT2":
                self.stack.append(self.uint(WIDTHS[op]))
            case "BININT":
                self.stack.append(int.from_bytes(self.take(4), "little", signed=True))
            case "LONG1":
                self.stack.append(int.from_bytes(self.take(self.uint(1)), "little", signed=True))
            case "BINFLOAT":
                self.stack.append(struct.unpack(">d", self.take(8))[0])
            case "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                self.stack.append(self.text(self.take(self.uint(WIDTHS[op]))))
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_LIST":
                self.stack.append([])
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self.pop(TUPLES[op])))
            case "TUPLE":
                items = self.pop_mark()
                self.stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                items = self.pop(1) if op == "APPEND" else self.pop_mark()
                self.top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self.pop(2) if op == "SETITEM" else self.pop_mark()
                self.set_items(self.top(dict), items)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[self.uint(WIDTHS[op])] = self.top(object)
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top(object)
            case "BINGET" | "LONG_BINGET":
                if (index := self.uint(WIDTHS[op])) not in self.memo:
                    raise self.error("refers to a value that it does not have")
                self.stack.append(self.memo[index])
            case "GLOBAL":
                self.stack.append(_named(self.line(), self.line()))
            case "STACK_GLOBAL":
                module, name = self.pop(2)
                if type(module) is not str or type(name) is not str:
                    raise self.error("names a class by something else than strings")
                self.stack.append(_named(module, name))
            case "BINPERSID":
                self.stack.append(self.storage(*self.pop(1)))
            case "REDUCE":
                builder, args = self.pop(2)
                if not isinstance(builder, FunctionType) or type(args) is not tuple:
                    raise self.error("calls what cannot be called")
                self.stack.append(builder(args))
            case "BUILD":
                # A state dict carries attributes, the versions of its layers; nothing here needs them.
                if not isinstance(self.pop(1)[0], dict) or not isinstance(self.top(object), OrderedDict):
                    raise _refused("refused: its pickle sets attributes (BUILD) of something else than an OrderedDict")
            case "INST":
                target = f"{self.line()}.{self.line()}"
                raise _refused(f"refused: its pickle makes (INST) {target[:80]!r}, which no state dict needs")
            case _:
                raise _refused(
                    f"refused: opcode {op} in its pickle (byte {self.position}), which torch.save never needs"
                )
        return True

    def storage(self, reference: Any) -> _Storage:
        match reference:
            case ("storage", np.dtype() as dtype, str(key), str(), int(length)) if length >= 0:
                pass
            case ("storage", np.dtype() as dtype, str(key), str(), int(length), None) if length >= 0:
                pass  # the older format could say here of which storage this is a part
            case _:
                raise self.error("refers to a storage in an unknown way")
        wanted = _Storage(key, dtype, length)
        known = self.storages.get(key)
        if known is None:
            known = self.storages[key] = wanted._replace(data=self.load(wanted))
        if known[:3] != wanted[:3]:
            raise self.error(f"has {known} also with other elements")
        return known

    def set_items(self, target: dict[Any, Any], items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values) or not all(isinstance(key, (str, int, float, type(None))) for key in keys):
            raise self.error("has a dictionary with a missing value or an unusual key")
        target.update(zip(keys, values, strict=True))

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.position:
            raise self.error("is cut short")
        self.position += count
        return self.data[self.position - count : self.position]

    def uint(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        start = self.position
        while self.take(1) != b"\n":
            pass
        return self.text(self.data[start : self.position - 1])

    def text(self, encoded: memoryview) -> str:
        try:
            return str(encoded, "utf-8")
        except UnicodeDecodeError:
            raise self.error("holds a string that is not UTF-8") from None

    def pop(self, count: int) -> list[Any]:
        split = len(self.stack) - count
        if split < 0:
            raise self.error("takes from an empty stack")
        items = self.stack[split:]
        del self.stack[split:]
        return items

    def pop_mark(self) -> list[Any]:
        if not self.below:
            raise self.error("lacks a mark")
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise self.error(f"expects a {kind.__name__} where there is none")
        return self.stack[-1]

    def error(self, what: str) -> TorchFileError:
        return _damaged(f"its pickle {what} (byte {self.position})")


def _check_values(value: Any) -> None:
    """Refuse a class, function or bare storage among the values."""
    waiting, seen = [value], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, (np.dtype, FunctionType, _Storage)):
            raise _refused("it holds a class or a bare storage")
        if isinstance(value, (list, tuple, dict)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


# Writing


def _add(archive: zipfile.ZipFile, position: int, name: str, contents: bytes | memoryview) -> None:
    """Store a record whose header is at `position`; an extra field of zeros aligns its contents."""
    record = zipfile.ZipInfo(f"archive/{name}")
    padding = -(position + 30 + len(record.filename) + 4) % ALIGNMENT
    record.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    archive.writestr(record, contents)


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Pickle (protocol 2, as torch writes) of an OrderedDict of tensors, the n-th of them on storage n."""
    parts = [b"\x80\x02", _dump_global("collections", "OrderedDict"), b")R("]
    for key, (name, array) in enumerate(arrays.items()):
        storage_class = next(cls for cls, dtype in DTYPES.items() if dtype == array.dtype.name)
        storage = (_dump_global("torch", storage_class), _dump(str(key)), _dump("cpu"), _dump(array.size))
        strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        parts += [_dump(name), _dump_global("torch._utils", "_rebuild_tensor_v2"), b"("]
        parts += [b"(", _dump("storage"), *storage, b"tQ", _dump(0), _dump(array.shape), _dump(strides)]
        parts += [b"\x89", _dump_global("collections", "OrderedDict"), b")RtR"]  # no gradient, no hooks
    return b"".join([*parts, b"u."])


def _dump_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _dump(value: str | int | tuple[int, ...]) -> bytes:
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_dump, value)) + b"t"
    if isinstance(value, str):
        encoded = value.encode()
        return b"X" + struct.pack("<I", len(encoded)) + encoded
    width = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([width]) + value.to_bytes(width, "little", signed=True)
