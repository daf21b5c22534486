"""One array of features in a file: `.npy`, `.npz`, `.h5` or `.csv`, its header first and its values later.

Pickles are never loaded. `.h5` needs h5py (`pip install casejax[hdf5]`).
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from casejax.data.layouts.checks import AGAIN
from casejax.errors import DataError, OptionError
from casejax.runtime import hdf5, npy
from casejax.runtime.reading import brief, open_plain

SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".csv")
LONGEST_LINE = 1 << 24  # letters of the lines of a CSV file that are looked at before all are read
ORDERS = ("snippets,dim", "dim,snippets", "crops,snippets,dim", "snippets,crops,dim")


@dataclass(frozen=True)
class Arrangement:
    """What the axes of feature arrays are.

    Attributes:
      order: the axes by name.
      crops: of arrays that have crops: "mean", or the number of the one to take, from 0.

    Raises:
      OptionError: crops that are not there.
    """

    order: Literal["snippets,dim", "dim,snippets", "crops,snippets,dim", "snippets,crops,dim"] = "snippets,dim"
    crops: Literal["mean"] | int = "mean"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise OptionError(f"order must be one of {', '.join(map(repr, ORDERS))}, got {self.order!r}")
        if self.crops != "mean" and (not isinstance(self.crops, int) or self.crops < 0):
            raise OptionError(f"crops must be mean or the number of one crop, from 0, got {self.crops!r}")

    def shape(self, shape: tuple[int, ...], where: str) -> tuple[int, int]:
        """The (snippets, dim) that an array of a shape is arranged to; `where` names it in errors.

        Raises:
          DataError: another number of axes, an axis without elements, or fewer crops than the one that is to be taken.
        """
        axes = self.order.split(",")
        if len(shape) != len(axes):
            raise DataError(f"{where}: shape {shape}, not ({', '.join(axes)}); {_remedy(shape)}")
        if min(shape) < 1:
            raise DataError(f"{where}: shape {shape} holds no features; {AGAIN} or take it out of its split")
        size = dict(zip(axes, shape, strict=True))
        if isinstance(self.crops, int) and self.crops >= size.get("crops", math.inf):
            raise DataError(f"{where}: shape {shape} has no crop {self.crops}, counted from 0; take one it has")
        return size["snippets"], size["dim"]

    def apply(self, values: np.ndarray) -> np.ndarray:
        """An array of that shape as (snippets, dim)."""
        axes = self.order.split(",")
        if "crops" in axes:
            place = axes.index("crops")
            if self.crops == "mean":
                return values.mean(axis=place, dtype=np.float64)
            return np.take(values, self.crops, axis=place)
        return values.T if axes[0] == "dim" else values


def _remedy(shape: tuple[int, ...]) -> str:
    long = tuple(size for size in shape if size != 1)
    if len(shape) == 3 and len(long) == 3:
        return (
            "if these are crops, average over the first axis, or keep one of it (order crops,snippets,dim does, or "
            "snippets,crops,dim where they are the second)"
        )
    if len(shape) > 2 and len(long) == 2:
        return f"drop the axes of length 1, so that the shape is {long}"
    return "reshape the array to two axes"


class Source(NamedTuple):
    """An array in a file.

    Attributes:
      path: the file.
      key: the array's name in it; "" for the only one.
    """

    path: Path
    key: str = ""

    def __str__(self) -> str:
        return f"{self.path}: array {self.key!r}" if self.key else str(self.path)


def keys(path: Path) -> list[str]:
    """The names of the arrays in a file; [""] where it is of a kind that holds a single one.

    Raises:
      DataError: a file that cannot be opened.
    """
    if path.suffix == ".npz":
        with npy.open_npz(path, remedy=AGAIN) as archive:
            return npy.names(archive)
    if path.suffix in (".h5", ".hdf5"):
        with _h5py_there(path):
            return hdf5.array_names(path, remedy=AGAIN)
    return [""]


def read_header(source: Source) -> tuple[int, ...]:
    """The shape of an array of floats that a file promises, and has the bytes for.

    Raises:
      DataError: no such file or array, a damaged one, or one of anything but floats.
    """
    path = source.path
    if path.suffix == ".csv":
        header, columns = _csv_form(path)
        with open_plain(path) as file:
            return sum(1 for line in file if line.strip()) - header, columns
    if path.suffix in (".h5", ".hdf5"):
        shape, dtype, _ = hdf5.describe_array(path, _key(source), remedy=AGAIN)
    elif path.suffix == ".npz":
        key = _key(source)
        with npy.open_npz(path, remedy=AGAIN) as archive:
            shape, _, dtype, _ = npy.member_header(archive, key, source, remedy=AGAIN)
    else:
        try:
            with open_plain(path) as file:
                shape, _, dtype, promised = npy.read_header(file, source, remedy=AGAIN)
                present = os.fstat(file.fileno()).st_size - file.tell()
        except OSError as error:
            raise DataError(f"{path}: cannot be opened ({error}); check that it exists") from error
        if present != promised:
            raise DataError(f"{source}: {present} bytes of data where its header promises {promised}; {AGAIN}")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise DataError(f"{source}: dtype {dtype}, not float16, float32 or float64; save it as float32")
    return shape


def load(source: Source) -> np.ndarray:
    """The values of an array whose header was read; DataError where they are damaged."""
    path = source.path
    try:
        if path.suffix == ".csv":
            header, columns = _csv_form(path)
            with open_plain(path) as bytes_, io.TextIOWrapper(bytes_, "utf-8-sig") as file:
                return np.loadtxt(file, delimiter=",", skiprows=header, ndmin=2, dtype=np.float64).reshape(-1, columns)
        if path.suffix in (".h5", ".hdf5"):
            return hdf5.read_array(path, _key(source), remedy=AGAIN)
        if path.suffix == ".npz":
            key = _key(source)
            with npy.open_npz(path, remedy=AGAIN) as archive:
                return npy.read_member(archive, key, source, remedy=AGAIN)
        return npy.map_npy(path, remedy=AGAIN)
    except DataError:
        raise
    except Exception as error:  # NumPy, zipfile and h5py raise many types for damaged files
        raise _damaged(source, error) from error


def _damaged(where: Source | Path, error: Exception) -> DataError:
    return DataError(f"{where}: cannot be read ({brief(error)}); {AGAIN}")


def _key(source: Source) -> str:
    """The name of an array in its file, found where it is the only one."""
    there = keys(source.path)
    if source.key in there:
        return source.key
    if not source.key and len(there) == 1:
        return there[0]
    what = f"no array {source.key!r}" if source.key else f"{len(there)} arrays"
    raise DataError(
        f"{source.path}: {what}, found: {', '.join(map(brief, there[:8])) or 'none'}; name one of them as the stream"
    )


@contextmanager
def _h5py_there(path: Path) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise DataError(f"{path}: reading HDF5 needs h5py; pip install 'casejax[hdf5]', or save it as .npy") from None


def _csv_form(path: Path) -> tuple[int, int]:
    """Lines of heading, 0 or 1, and the number of columns."""
    try:
        with open_plain(path) as bytes_, io.TextIOWrapper(bytes_, "utf-8-sig", newline="") as file:
            lines = iter(lambda: file.readline(LONGEST_LINE), "")
            first = [row for row in itertools.islice(csv.reader(lines), 2) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); {AGAIN}") from error
    if not first:
        raise DataError(f"{path}: is empty; {AGAIN}")

    def numeric(row: list[str]) -> bool:
        try:
            return bool([float(cell) for cell in row])
        except ValueError:
            return False

    # the numbers of its columns are a heading too, which pandas writes where they have no names
    header = int(not numeric(first[0]) or (len(first[0]) > 1 and first[0] == [str(c) for c in range(len(first[0]))]))
    if header and (len(first) < 2 or not numeric(first[1])):
        raise DataError(f"{path}: no line of numbers; write a row of features a line, separated by commas")
    return header, len(first[header])
