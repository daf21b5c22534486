"""Objects in files of `numpy.save`, and pickles of arrays alone, read without executing their pickle.

Arrays stay in the mapped file. Whatever sizes a file declares, the memory taken is in proportion to its length.
"""

from __future__ import annotations

import math
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy

from casejax.data.pickles.machine import Machine, Unfinished, damaged
from casejax.errors import DataError
from casejax.runtime.reading import brief, open_plain

NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8"}
"""Types of the arrays that are read, in NumPy's spelling."""

_TYPES = re.compile(rf"{'|'.join(sorted(NUMBERS))}|O[48]?|[SU][0-9]{{1,4}}")


def read_object_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an array of objects as `numpy.save` writes it; an object that is no array is the only item of its array.

    Pickles of protocols 2 to 5 are read, those of Python 2 among them: their strings are text in Latin-1 up to 255
    bytes, and longer ones can only be the contents of arrays.

    Args:
      path: a `.npy` file. It is mapped, so it must not change as long as arrays from it are in use.

    Returns:
      An array of type object. Its items are numbers, strings, booleans, None, lists, tuples, dictionaries, and
      read-only arrays in the byte order and memory order of the file.

    Raises:
      DataError: for every other file. Nothing that a file names is ever imported or called.

    Example:
      >>> import numpy as np
      >>> from casejax import data
      >>> np.save("labels.npy", np.array([["Dive"], ["Dive", "Jump"]], object))
      >>> data.read_object_array("labels.npy").tolist()
      [['Dive'], ['Dive', 'Jump']]
    """
    path = Path(path)
    try:
        with open_plain(path, missing="check the path") as file:
            shape, start = _header(file)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error}); check the path") from error
    except DataError as error:
        raise _at(path, error) from error.__cause__
    try:
        value = _interpret(memoryview(mapped)[start:])
        if not (isinstance(value, np.ndarray) and value.dtype.hasobject) or value.shape != shape:
            raise damaged(f"its pickle is not the array of shape {shape} that its header promises")
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__
    return value


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of containers of arrays, such as the parameters of a network.

    Pickles of protocols 2 to 5 are read, as by `read_object_array`.

    Args:
      path: the file. It is mapped, so it must not change as long as arrays from it are in use.

    Returns:
      The pickled object, made of dictionaries, lists, tuples, numbers, strings, booleans, None, and read-only arrays
      in the byte order and memory order of the file.

    Raises:
      DataError: for every other file. Nothing that a file names is ever imported or called.

    Example:
      >>> import pickle
      >>> from pathlib import Path
      >>> from casejax import data
      >>> _ = Path("weights.pkl").write_bytes(pickle.dumps({"width": 4}))
      >>> data.read_pickle("weights.pkl")
      {'width': 4}
    """
    path = Path(path)
    try:
        with open_plain(path, "weights", missing="check the path") as file:
            if not (start := file.read(2)).startswith(b"\x80"):
                raise damaged(f"not a pickle of protocol 2 or later (it begins with {start!r})")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _interpret(memoryview(mapped))
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error}); check the path") from error
    except DataError as error:
        raise _at(path, error) from error.__cause__


def _at(path: Path, error: DataError) -> DataError:
    """The error with the name of its file, once."""
    return error if str(error).startswith(f"{path}: ") else DataError(f"{path}: {error}")


def _refused(what: str) -> DataError:
    """The error for a file that holds more than arrays."""
    return DataError(f"{what}; save a dictionary of plain arrays, and use that file")


def _header(file: Any) -> tuple[tuple[int, ...], int]:
    """The shape that a file promises, and where its pickle begins."""
    try:
        headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, _, dtype = headers[npy.read_magic(file)](file)
    except OSError:
        raise
    except Exception as error:  # a damaged header fails in NumPy in many ways
        raise damaged(f"not a .npy file ({brief(error)})") from error
    if not dtype.hasobject:
        raise _refused(f"it is a single array of type {dtype}, not an object")
    return shape, file.tell()


# What a pickle may name


class _Type:
    """A type of elements; its byte order comes after it."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.dtype: np.dtype | None = None

    def build(self, state: Any) -> None:
        match state:
            case (int(), str(order), None, None, None, *_) if order in ("<", ">", "|") and self.dtype is None:
                self.dtype = np.dtype(object if self.code[0] == "O" else order + self.code)
            case _:
                raise _refused("it has an array of a type that is not plain")


class _Unfilled(Unfinished):
    """An array before its contents."""


_NDARRAY = object()  # stands for the class


def _type(args: tuple[Any, ...]) -> _Type:
    if len(args) != 3 or type(args[0]) is not str:
        raise damaged("it has a type of elements without a name")
    if not _TYPES.fullmatch(args[0]):
        raise _refused(f"it has an array of type {args[0][:80]!r}, not of real numbers")
    return _Type(args[0])


def _unfilled(args: tuple[Any, ...]) -> _Unfilled:
    if len(args) != 3 or args[0] is not _NDARRAY:
        raise _refused("it has an array of a class of its own")
    return _Unfilled()


def _ready(kind: Any) -> np.dtype:
    if not isinstance(kind, _Type) or kind.dtype is None:
        raise damaged("it has an array without a type")
    return kind.dtype


def _shaped(shape: Any, dtype: np.dtype, order: Any, contents: memoryview) -> np.ndarray:
    """A view of the contents of an array."""
    if dtype.str[1:] not in NUMBERS:
        raise _refused(f"it has an array of type {dtype}, not of real numbers")
    if _size(shape) * dtype.itemsize != len(contents):
        raise damaged(f"it has {len(contents)} bytes for an array of shape {shape} and type {dtype}")
    if not len(contents):
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, contents, order=_order(order))


def _order(value: Any) -> Literal["C", "F"]:
    """The order of axes in memory, which older protocols give as whether it is that of Fortran."""
    if type(value) in (bool, int):
        return "F" if value else "C"
    if type(value) is not str or value not in ("C", "F"):
        raise damaged("it has an array of unknown order")
    return "F" if value == "F" else "C"


def _size(shape: Any) -> int:
    """How many elements an array of a shape has."""
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise damaged("it has an array whose shape is no counts")
    if len(shape) > 32 or math.prod(max(n, 1) for n in shape) >= 2**58:
        raise damaged("it has an array of more axes or elements than can be")
    return math.prod(shape)


def _item(dtype: np.dtype, contents: memoryview) -> str | int | float:
    """A scalar; strings of NumPy are strings."""
    if dtype.hasobject or len(contents) != dtype.itemsize:
        raise damaged(f"it has {len(contents)} bytes for a scalar of type {dtype}")
    try:
        if dtype.kind in "SU":  # NumPy itself does not check its text
            encoding = "latin-1" if dtype.kind == "S" else f"utf-32-{'be' if dtype.str[0] == '>' else 'le'}"
            return str(contents, encoding).rstrip("\0")
        return np.frombuffer(contents, dtype)[0].item()
    except UnicodeDecodeError:
        raise damaged("it has a string that is no text") from None


# The pickle machine


class _NumpyMachine(Machine):
    """Interpreter of a pickle of NumPy; `room`, in bytes or objects, is the memory left for what it copies."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data, self._named, _refused, _OPCODES | {"BUILD": _NumpyMachine._build})
        self.room = len(data)
        self.builders = {
            "numpy.ndarray": _NDARRAY,
            "numpy.dtype": _type,
            "numpy.core.multiarray._reconstruct": _unfilled,
            "numpy.core.multiarray.scalar": lambda args: self.scalar(args),
            "numpy.core.numeric._frombuffer": lambda args: self.from_buffer(args),
            "_codecs.encode": lambda args: self.encode(args),
        }

    def _named(self, module: str, name: str) -> Any:
        """What stands for a class or function."""
        core = "numpy.core" + module.removeprefix("numpy._core") if module.startswith("numpy._core.") else module
        target = f"{core}.{name}"
        if target not in self.builders:
            raise _refused(
                f"refused: its pickle names {f'{module}.{name}'[:80]!r}, which no dictionary of arrays needs"
            )
        return self.builders[target]

    def _build(self) -> None:
        """The opcode that gives contents to the value before it."""
        (state,) = self.pop(1)
        target: Any = self.top(object)
        if isinstance(target, _Type):
            target.build(state)
        elif isinstance(target, _Unfilled):
            array = self.stack[-1] = self.filled(state)
            index = target.index
            if index is not None and self.memo.get(index) is target:
                self.memo[index] = array
        else:
            raise _refused("refused: its pickle sets attributes (BUILD) of something else than an array")

    def filled(self, state: Any) -> np.ndarray:
        """An array from its state."""
        if type(state) is not tuple or len(state) != 5 or type(state[0]) is not int or state[0] != 1:
            raise damaged("it has an array in an unknown way")
        _, shape, kind, by_column, values = state
        dtype = _ready(kind)
        if not dtype.hasobject:
            return _shaped(shape, dtype, by_column, self.contents(values))
        if type(values) is not list or len(values) != _size(shape):
            raise damaged(f"it has another number of objects than an array of shape {shape} has")
        self.spend(len(values))
        items = np.empty(len(values), object)
        for i, value in enumerate(values):
            items[i] = value
        return items.reshape(shape)  # objects are listed row by row whatever their order in memory

    def from_buffer(self, args: tuple[Any, ...]) -> np.ndarray:
        """An array as of protocol 5."""
        if len(args) != 4:
            raise damaged("it has an array without a shape")
        return _shaped(args[2], _ready(args[1]), args[3], self.contents(args[0]))

    def scalar(self, args: tuple[Any, ...]) -> str | int | float:
        """A number or string of NumPy."""
        if len(args) != 2:
            raise damaged("it has a scalar without contents")
        contents = self.contents(args[1])
        self.spend(len(contents))
        return _item(_ready(args[0]), contents)

    def encode(self, args: tuple[Any, ...]) -> memoryview:
        """Bytes, which protocol 2 keeps as text in Latin-1."""
        if len(args) != 2 or type(args[1]) is not str or args[1] not in ("latin1", "latin-1"):
            raise _refused("it encodes text in a way that NumPy does not")
        return self.contents(args[0])

    def contents(self, value: Any) -> memoryview:
        """Bytes, or those that a string of Python 2 was."""
        if isinstance(value, memoryview):
            return value
        if not isinstance(value, str):
            raise damaged("it has an array without contents")
        self.spend(len(value))
        try:
            return memoryview(value.encode("latin-1"))
        except UnicodeEncodeError:
            raise damaged("it has an array whose contents are no bytes") from None

    def spend(self, count: int) -> None:
        """Account for what is copied: repeating a part again and again could fill any memory."""
        self.room -= count
        if self.room < 0:
            raise damaged("it repeats its contents to more than its own length")


def _interpret(data: memoryview) -> Any:
    """The value of the pickle that fills `data`."""
    machine = _NumpyMachine(data)
    value = machine.run()
    if machine.position != len(data):
        raise damaged(f"it has {len(data) - machine.position} bytes after its pickle")
    return value


def _bytes(width: int) -> Callable[[Machine], None]:
    """The opcode for bytes after a length of `width` bytes."""
    return lambda machine: machine.stack.append(machine.take(machine.uint(width)))


def _short_string(machine: Machine) -> None:
    machine.stack.append(str(machine.take(machine.uint(1)), "latin-1"))


_OPCODES = {
    "SHORT_BINBYTES": _bytes(1),
    "BINBYTES": _bytes(4),
    "BINBYTES8": _bytes(8),
    "BYTEARRAY8": _bytes(8),
    "SHORT_BINSTRING": _short_string,
    "BINSTRING": _bytes(4),
}
