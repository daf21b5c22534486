"""Tensors in the pickles of `torch.save`: what such a pickle may name, and the pickle of a state dict."""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from casejax.data.pickles.machine import Machine, damaged
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


def refused(what: str) -> DataError:
    """The error for a file that holds more than a state dict."""
    return DataError(f"{what}; save the state dict alone, torch.save(model.state_dict(), PATH), and use that file")


def dtype_of(name: str) -> np.dtype:
    """NumPy's type of that name, bfloat16 among them."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


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


class TorchMachine(Machine):
    """Interpreter of pickles of torch; `load` gives the bytes of a storage."""

    def __init__(self, data: memoryview, load: Callable[[Storage], memoryview]) -> None:
        super().__init__(data, _named, refused, {"BINPERSID": TorchMachine._refer, "BUILD": TorchMachine._build})
        self.load = load
        self.storages: dict[str, Storage] = {}

    def _refer(self) -> None:
        """The opcode that stands for a storage."""
        (reference,) = self.pop(1)
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
        self.stack.append(known)

    def _build(self) -> None:
        """The opcode that sets attributes: of a state dict, the versions of its layers, which nothing here needs."""
        if not isinstance(self.pop(1)[0], dict) or not isinstance(self.top(object), OrderedDict):
            raise refused("refused: its pickle sets attributes (BUILD) of something else than an OrderedDict")


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
        raise DataError(
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


# Writing


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
