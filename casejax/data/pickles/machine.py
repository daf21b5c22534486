"""The pickles inside files of `torch.save`, interpreted opcode by opcode without executing anything.

A pickle can make numbers, strings, lists, tuples, dictionaries and tensors here; every other class or function
that it names, and every other opcode, is refused.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from casejax.errors import DataError

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

NEWEST_PICKLE = 5


class TorchFileError(DataError):
    """A file that is not read; the message names the file, what is wrong with it and the remedy."""


def damaged(what: str) -> TorchFileError:
    """The error for a file that cannot be what torch wrote."""
    return TorchFileError(f"{what}; the file is damaged or incomplete, fetch it again")


def refused(what: str) -> TorchFileError:
    """The error for a file that holds more than a state dict."""
    return TorchFileError(f"{what}; save the state dict alone, torch.save(model.state_dict(), PATH), and use that file")


class Storage(NamedTuple):
    """Elements of one type, end to end, as read-only bytes in native order."""

    key: str
    dtype: np.dtype
    length: int
    data: memoryview = memoryview(b"")

    @property
    def nbytes(self) -> int:
        """Its length in bytes."""
        return self.length * self.dtype.itemsize

    def __str__(self) -> str:
        return f"storage {self.key[:40]!r} of {self.length} elements of {self.dtype}"


# What a pickle may name


def _ordered_dict(args: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    if args:
        raise refused("it makes an OrderedDict in a way that torch does not")
    return OrderedDict()


def _size(args: tuple[Any, ...]) -> tuple[int, ...]:
    if len(args) != 1 or not _are_counts(args[0]):
        raise damaged("it has a torch.Size that is no tuple of counts")
    return args[0]


def _parameter(args: tuple[Any, ...]) -> np.ndarray:
    if len(args) != 3 or not isinstance(args[0], np.ndarray):
        raise damaged("it has a parameter that is no tensor")
    return args[0]


def _tensor(args: tuple[Any, ...]) -> np.ndarray:
    """A view of a storage; the arguments after the first four say nothing of its values."""
    if not 4 <= len(args) <= 7 or not isinstance(args[0], Storage):
        raise damaged("it has a tensor without a storage")
    storage, offset, shape, strides = args[:4]
    if len(args) == 7 and (type(args[6]) is not dict or args[6]):
        raise refused("it has a tensor that is conjugated or negated only when it is read")
    if not (_are_counts((offset,)) and _are_counts(shape) and _are_counts(strides)) or len(shape) != len(strides):
        raise damaged("it has a tensor whose offset, size or strides are no counts")
    itemsize, elements = storage.dtype.itemsize, math.prod(shape[:64])
    if len(shape) > 64 or math.prod(max(n, 1) for n in shape) * itemsize >= 2**63:
        raise damaged("it has a tensor of more axes or elements than can be")
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
        return dtype_of(DTYPES[name])
    raise refused(f"refused: its pickle names {target[:80]!r}, which no state dict needs")


def dtype_of(name: str) -> np.dtype:
    """NumPy's type of that name, bfloat16 among them."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


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


class Machine:
    """Interpreter of pickles that follow each other in `data`; `load` gives the bytes of a storage.

    For other files than those of torch: `named` gives what stands for a class or function, or refuses it; `refused`
    makes the error for what is not read; `opcodes`, by name, are interpreted by the functions given for them.
    """

    def __init__(
        self,
        data: memoryview,
        load: Callable[[Storage], memoryview],
        *,
        named: Callable[[str, str], Any] = _named,
        refused: Callable[[str], DataError] = refused,
        opcodes: Mapping[str, Callable[[Machine], None]] | None = None,
    ) -> None:
        self.data, self.load, self.position = data, load, 0
        self.named, self.refused, self.opcodes = named, refused, opcodes or {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        """The value of the next pickle."""
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks beneath open marks
        self.memo: dict[int, Any] = {}
        while self.step():
            pass
        if len(self.stack) != 1 or self.below:
            raise self.error("ends with other than one value")
        check_values(self.stack[0], self.refused)
        return self.stack[0]

    def step(self) -> bool:
        """Interpret one opcode; false if it was the last."""
        op = OPCODES.get(self.take(1)[0], "unknown")
        if op in self.opcodes:
            self.opcodes[op](self)
            return True
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
                self.stack.append(self.named(self.line(), self.line()))
            case "STACK_GLOBAL":
                module, name = self.pop(2)
                if type(module) is not str or type(name) is not str:
                    raise self.error("names a class by something else than strings")
                self.stack.append(self.named(module, name))
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
                    raise self.refused(
                        "refused: its pickle sets attributes (BUILD) of something else than an OrderedDict"
                    )
            case "INST":
                target = f"{self.line()}.{self.line()}"
                raise self.refused(f"refused: its pickle makes (INST) {target[:80]!r}, which no such file needs")
            case _:
                raise self.refused(
                    f"refused: opcode {op} in its pickle (byte {self.position}), which no such file needs"
                )
        return True

    def storage(self, reference: Any) -> Storage:
        """The storage that a persistent id names."""
        match reference:
            case ("storage", np.dtype() as dtype, str(key), str(), int(length)) if length >= 0:
                pass
            case ("storage", np.dtype() as dtype, str(key), str(), int(length), None) if length >= 0:
                pass  # the older format could say here of which storage this is a part
            case _:
                raise self.error("refers to a storage in an unknown way")
        wanted = Storage(key, dtype, length)
        known = self.storages.get(key)
        if known is None:
            known = self.storages[key] = wanted._replace(data=self.load(wanted))
        if known[:3] != wanted[:3]:
            raise self.error(f"has {known} also with other elements")
        return known

    def set_items(self, target: dict[Any, Any], items: list[Any]) -> None:
        """Put alternating keys and values into a dictionary."""
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values) or not all(isinstance(key, (str, int, float, type(None))) for key in keys):
            raise self.error("has a dictionary with a missing value or an unusual key")
        target.update(zip(keys, values, strict=True))

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        if count > len(self.data) - self.position:
            raise self.error("is cut short")
        self.position += count
        return self.data[self.position - count : self.position]

    def uint(self, width: int) -> int:
        """The next unsigned integer, little-endian."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        """The next line of text."""
        start = self.position
        while self.take(1) != b"\n":
            pass
        return self.text(self.data[start : self.position - 1])

    def text(self, encoded: memoryview) -> str:
        """A string from its UTF-8 bytes."""
        try:
            return str(encoded, "utf-8")
        except UnicodeDecodeError:
            raise self.error("holds a string that is not UTF-8") from None

    def pop(self, count: int) -> list[Any]:
        """The topmost items, taken off the stack."""
        split = len(self.stack) - count
        if split < 0:
            raise self.error("takes from an empty stack")
        items = self.stack[split:]
        del self.stack[split:]
        return items

    def pop_mark(self) -> list[Any]:
        """All items above the last mark, taken off."""
        if not self.below:
            raise self.error("lacks a mark")
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type) -> Any:
        """The topmost item, which must be of a type."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise self.error(f"expects a {kind.__name__} where there is none")
        return self.stack[-1]

    def error(self, what: str) -> TorchFileError:
        """The error for a damaged pickle, with the place in it."""
        return damaged(f"its pickle {what} (byte {self.position})")


def check_values(value: Any, refused: Callable[[str], DataError] = refused) -> None:
    """Refuse a class, function or bare storage among the values."""
    waiting, seen = [value], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, (np.dtype, FunctionType, Storage)):
            raise refused("it holds a class or a bare storage")
        if isinstance(value, (list, tuple, dict)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
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
