"""Matrices of numbers and texts in MATLAB 5 files, as `save -v6` and `-v7` write them.

The format is that of MathWorks' "MAT-File Format", level 5. Everything is looked at before it is used: SciPy's reader
can end the process over a single flipped bit. What has another name than those asked for is passed over unread.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from casejax.errors import DataError
from casejax.runtime.reading import read_bytes

NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
CHAR, FIRST_NUMERIC, LAST_NUMERIC = 4, 6, 15  # classes of matrices
COMPLEX = 0x0800
INFLATED, ROOM = 10, 1 << 26  # bytes that a file may inflate to: so many times its own, and so many more


class _DamagedError(Exception):
    """Not as the format has it."""


class _Element(NamedTuple):
    kind: int
    data: memoryview


def read_matlab(path: str | os.PathLike[str], names: Collection[str]) -> dict[str, np.ndarray]:
    """The matrices of a file that have one of the names, those it has.

    Args:
      path: the file.
      names: of the matrices.

    Returns:
      By name: numbers of the type they are stored in, with MATLAB's shape, or (rows,) strings.

    Raises:
      DataError: no such file, or a damaged one.
    """
    data = memoryview(read_bytes(path, "annotations in MATLAB's format"))
    try:
        return dict(_matrices(data, names))
    except (_DamagedError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path}: not a readable MATLAB 5 file ({error}); fetch the file again or remove it") from error


def _matrices(data: memoryview, names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]))
    if order is None:
        raise _DamagedError(f"it begins with {bytes(data[:20])!r}")
    room = INFLATED * len(data) + ROOM
    for outer in _elements(data[128:], order):
        element = outer
        if outer.kind == COMPRESSED:
            inflater = zlib.decompressobj()
            inflated = inflater.decompress(outer.data, room)
            # A stream without its end is no damage by itself: MATLAB leaves the end out of matrices of 16,384 bytes.
            if inflater.unconsumed_tail:
                raise _DamagedError("a matrix inflates to more than it can be")
            room -= len(inflated)
            element = next(_elements(memoryview(inflated), order), _Element(0, memoryview(b"")))
        if element.kind != MATRIX:
            raise _DamagedError(f"an element of kind {element.kind} where matrices are")
        name, value = _matrix(element.data, order, names)
        if value is not None:
            yield name, value


def _matrix(data: memoryview, order: str, names: Collection[str]) -> tuple[str, np.ndarray | None]:
    """The name of a matrix, and its values where it is one of `names` and of numbers or text."""
    parts = _elements(data, order)
    flags, shape, name = (next(parts, None) for _ in range(3))
    if flags is None or shape is None or name is None or len(flags.data) < 4 or shape.kind != 5:
        raise _DamagedError("a matrix without flags, shape or name")
    (bits,) = struct.unpack(order + "I", flags.data[:4])
    text, kind = bytes(name.data).decode("ascii", "replace"), bits & 0xFF
    if text not in names:
        return text, None
    if bits & COMPLEX or not (kind == CHAR or FIRST_NUMERIC <= kind <= LAST_NUMERIC):
        raise _DamagedError(f"{text} is not a matrix of numbers or text")
    sizes = struct.unpack(f"{order}{len(shape.data) // 4}i", shape.data[: len(shape.data) // 4 * 4])
    content = next(parts, None)
    if content is None or len(sizes) < 2 or min(sizes) < 0:
        raise _DamagedError(f"{text} has no values, or the shape {sizes}")
    count = math.prod(sizes)
    if kind == CHAR:
        if content.kind not in TEXTS or len(sizes) != 2:
            raise _DamagedError(f"{text} is text of kind {content.kind}")
        encoding = TEXTS[content.kind]
        if encoding in ("utf-16", "utf-32"):
            encoding += "-le" if order == "<" else "-be"
        letters = bytes(content.data).decode(encoding)
        if len(letters) != count:
            raise _DamagedError(f"{text} has {len(letters)} letters for the shape {sizes}")
        rows = ["".join(letters[row :: sizes[0]]).rstrip() for row in range(sizes[0])]
        return text, np.array(rows, dtype=np.str_)
    if content.kind not in NUMBERS:
        raise _DamagedError(f"{text} has numbers of kind {content.kind}")
    dtype = np.dtype(order + NUMBERS[content.kind])
    if count * dtype.itemsize != len(content.data):
        raise _DamagedError(f"{text} has {len(content.data)} bytes for the shape {sizes}")
    values = np.frombuffer(content.data, dtype).reshape(sizes, order="F")
    return text, values.astype(dtype.newbyteorder("="))


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """The elements that follow one another in `data`."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack(order + "II", data[at : at + 8])
        if kind >> 16:  # a small one: kind and size share four bytes, its content is in the next four
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            if size > 4:
                raise _DamagedError(f"a small element of {size} bytes")
            end = at + 8
        else:
            start = at + 8
            end = start + size + (0 if kind == COMPRESSED else -size % 8)
        if start + size > len(data):
            raise _DamagedError(f"an element of {size} bytes where {len(data) - start} are left")
        yield _Element(kind, data[start : start + size])
        at = end
    if any(data[at:]):
        raise _DamagedError("it is cut short")
