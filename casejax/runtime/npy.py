"""NumPy's files, `.npy` and `.npz`: arrays without pickles, of no more bytes than their file has."""

from __future__ import annotations

import math
import mmap
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from casejax.errors import DataError
from casejax.runtime.reading import brief, open_plain

MOST_INFLATED, SMALL = 128, 1 << 28
"""An archive may stand for so many times its own bytes, or for so many bytes whatever it has."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Header(NamedTuple):
    """What an array says of itself, and the bytes that its values take."""

    shape: tuple[int, ...]
    order: Any  # "C" or "F"
    dtype: np.dtype[Any]
    size: int


def read_header(file: Any, where: Any, *, remedy: str) -> Header:
    """The header at the place of an open file, which stands at the values afterwards.

    Raises:
      DataError: no header, or an array of objects; `where` names it.
      OSError: the file cannot be read.
    """
    try:
        shape, fortran, dtype = _HEADERS[npy.read_magic(file)](file)
    except OSError:
        raise
    except Exception as error:  # a damaged header fails in NumPy in many ways
        raise DataError(f"{where}: not a .npy file ({brief(error)}); {remedy}") from error
    if dtype.hasobject:
        raise DataError(f"{where}: dtype {dtype} means a pickle, which is never loaded; save it as float32")
    if dtype.kind not in "biufcSU":
        raise DataError(
            f"{where}: dtype {brief(str(dtype))} holds neither numbers nor text; save it as float32 or as strings, or "
            f"{remedy}"
        )
    if any(length < 0 for length in shape) or len(shape) > 32:
        raise DataError(f"{where}: its header promises the shape {shape[:8]}; {remedy}")
    return Header(shape, "F" if fortran else "C", dtype, math.prod(shape) * dtype.itemsize)


def map_npy(path: str | os.PathLike[str], *, remedy: str, kind: str = "features", missing: str = "") -> np.ndarray:
    """The array of a `.npy` file, mapped and read-only: only what is used of it is read.

    Raises:
      DataError: no such file, no array, or one that is cut short; arguments as of `reading.check_plain`.
    """
    try:
        with open_plain(path, kind, missing=missing) as file:
            about = read_header(file, path, remedy=remedy)
            start = file.tell()
            present = os.fstat(file.fileno()).st_size - start
            if present < about.size:
                raise DataError(f"{path}: {present} bytes of data where its header promises {about.size}; {remedy}")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if about.size else b""
        return _array(memoryview(data)[start if about.size else 0 :][: about.size], about)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read ({brief(error)}); {remedy}") from error


@contextmanager
def open_npz(
    path: str | os.PathLike[str], *, remedy: str, kind: str = "features", missing: str = ""
) -> Iterator[zipfile.ZipFile]:
    """An open `.npz` file that is compressed as NumPy does it, and no further.

    Raises:
      DataError: as `map_npy`, also of what goes wrong while it is open.
    """
    try:
        with open_plain(path, kind, missing=missing) as file, zipfile.ZipFile(file) as archive:
            size, members = os.fstat(file.fileno()).st_size, archive.infolist()
            promised = sum(member.file_size for member in members)
            if promised > MOST_INFLATED * size + SMALL:
                raise DataError(f"{path}: promises {promised:,} bytes, which no such file holds; {remedy}")
            for member in members:
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise DataError(f"{path}: {member.filename[:80]!r} is compressed otherwise than by NumPy; {remedy}")
            yield archive
    except DataError:
        raise
    except Exception as error:  # zipfile raises many types for damaged files
        raise DataError(f"{path}: not a .npz file, or a damaged one ({brief(error)}); {remedy}") from error


def member_header(archive: zipfile.ZipFile, name: str, where: Any, *, remedy: str) -> Header:
    """The header of an array in an archive, which has as many bytes as it promises."""
    with archive.open(f"{name}.npy") as member:
        about = read_header(member, where, remedy=remedy)
        present = archive.getinfo(f"{name}.npy").file_size - member.tell()
    if present != about.size:
        raise DataError(f"{where}: {present} bytes of data where its header promises {about.size}; {remedy}")
    return about


def read_member(archive: zipfile.ZipFile, name: str, where: Any, *, remedy: str) -> np.ndarray:
    """The values of an array in an archive."""
    about = member_header(archive, name, where, remedy=remedy)
    with archive.open(f"{name}.npy") as member:
        read_header(member, where, remedy=remedy)
        return _array(memoryview(bytearray(member.read())), about)


def names(archive: zipfile.ZipFile) -> list[str]:
    """Of the arrays in an archive."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_npz(path: str | os.PathLike[str], *, remedy: str, missing: str = "") -> dict[str, np.ndarray]:
    """All arrays of a `.npz` file, by name; errors as of `open_npz`."""
    with open_npz(path, remedy=remedy, missing=missing) as archive:
        return {
            name: read_member(archive, name, f"{path}: array {name[:80]!r}", remedy=remedy) for name in names(archive)
        }


def _array(data: memoryview, about: Header) -> np.ndarray:
    if not about.size:
        return np.empty(about.shape, about.dtype)
    return np.ndarray(about.shape, about.dtype, data, order=about.order)
