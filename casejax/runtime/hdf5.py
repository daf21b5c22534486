"""Arrays in HDF5 files: what lies in the file itself and is no larger than it can be, nothing else.

The library loops without end, or ends the process, over some damaged files, so it runs in a process apart.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from casejax.errors import DataError
from casejax.runtime import apart
from casejax.runtime.reading import brief, check_plain

DEPTH = 32
"""Groups within one another that are looked into."""

MOST_INFLATED = 128
"""Bytes that a compressed byte may stand for: features of floats shrink to a third at best."""

SMALL = 1 << 26
"""Bytes of an array or a chunk that are granted whatever the file has."""


class Stored(NamedTuple):
    """An array in a file; `stored` are the bytes that the file has of it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stored: int


def array_names(
    path: str | os.PathLike[str], *, remedy: str, kind: str = "features", top: str | None = None
) -> list[str]:
    """The paths of the arrays in a file, or of those below the group `top` if there is one; each once.

    Raises:
      DataError: no such file, no HDF5, or a damaged one.
      ImportError: h5py is not installed.
    """
    check_plain(path, kind)
    about = os.stat(path)
    return _names(os.fspath(path), remedy, top, about.st_mtime_ns, about.st_size)


def describe_array(path: str | os.PathLike[str], name: str, *, remedy: str) -> Stored:
    """What a file says of an array and can hold; errors as of `array_names`."""
    return _stored(_ask("find_array", path, remedy=remedy, name=name, values=False)[0])


def read_array(path: str | os.PathLike[str], name: str, *, remedy: str) -> np.ndarray:
    """The values of an array of numbers; errors as of `array_names`."""
    about, content = _ask("find_array", path, remedy=remedy, name=name, values=True)
    found = _stored(about)
    return np.frombuffer(content, found.dtype).reshape(found.shape)


@lru_cache(maxsize=32)
def _names(path: str, remedy: str, top: str | None, *version: int) -> list[str]:
    """Kept, since every array of a file is looked for in it."""
    names: list[str] = _ask("list_names", path, remedy=remedy, top=top)[0]
    return names


def _ask(job: str, path: str | os.PathLike[str], **arguments: Any) -> tuple[Any, bytearray]:
    if importlib.util.find_spec("h5py") is None:
        raise ImportError("HDF5 files are read by h5py: pip install 'casejax[hdf5]'")
    return apart.shared.ask(job, path, **arguments)


def _stored(about: dict[str, Any]) -> Stored:
    return Stored(tuple(about["shape"]), np.dtype(about["dtype"]), about["stored"])


# In the process apart


def list_names(path: str, *, remedy: str, top: str | None) -> tuple[list[str], bytes]:
    """The job behind `array_names`."""
    with _opened(path, remedy) as (file, _):
        import h5py

        inside = top is not None and isinstance(file.get(top, getlink=True), h5py.HardLink)
        root = file[top] if inside and isinstance(file[top], h5py.Group) else file
        prefix = f"{top}/" if root is not file else ""
        return [prefix + name for name in datasets(root, path)], b""


def find_array(path: str, *, remedy: str, name: str, values: bool) -> tuple[dict[str, Any], Any]:
    """The job behind `describe_array` and `read_array`, with the values as bytes."""
    import h5py

    with _opened(path, remedy) as (file, size):
        dataset = file
        for part in name.split("/"):
            dataset = dataset[part] if isinstance(dataset.get(part, getlink=True), h5py.HardLink) else None
        if not isinstance(dataset, h5py.Dataset):
            raise DataError(f"{path}: array {name!r} does not lie in this file; {remedy}")
        check_stored(dataset, f"{path}: array {name!r}")
        about = {"shape": dataset.shape, "dtype": dataset.dtype.str, "stored": dataset.id.get_storage_size()}
        if not values:
            return about, b""
        if dataset.dtype.kind not in "biuf":
            raise DataError(f"{path}: array {name!r} is of type {dataset.dtype}, not of numbers; {remedy}")
        apart.limit(size + dataset.nbytes)
        return about, np.ascontiguousarray(dataset[()]).reshape(-1).view(np.uint8)


@contextmanager
def _opened(path: str, remedy: str) -> Iterator[tuple[Any, int]]:
    """The open file, and its bytes."""
    import h5py

    size = check_plain(path)
    apart.limit(size)
    try:
        file = h5py.File(path, "r")
    except Exception as error:  # h5py raises many types for damaged files
        raise DataError(f"{path}: not an HDF5 file, or a damaged one ({brief(error)}); {remedy}") from error
    with file:
        yield file, size


def datasets(root: Any, where: str) -> dict[str, Any]:
    """The arrays below a group, by their paths; each once, along hard links alone.

    Raises:
      DataError: groups lie too deep in one another, or the file is damaged.
    """
    try:
        return dict(sorted(_datasets(root, where), key=lambda found: found[0].split("/")))
    except DataError:
        raise
    except Exception as error:  # h5py raises many types for damaged files
        raise DataError(f"{where}: is a damaged HDF5 file ({brief(error)}); fetch or save it again") from error


def _datasets(root: Any, where: str) -> Iterator[tuple[str, Any]]:
    import h5py

    waiting, seen = [("", root, 0)], set()
    while waiting:
        prefix, group, depth = waiting.pop()
        if depth > DEPTH:
            raise DataError(f"{where}: more than {DEPTH} groups lie in one another; save the arrays anew")
        for name in sorted(group):
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Dataset):
                yield prefix + name, item
            elif isinstance(item, h5py.Group):
                waiting.append((f"{prefix}{name}/", item, depth + 1))


def check_stored(dataset: Any, where: str) -> None:
    """Refuse an array that does not lie in its file, or would take far more memory than the file has bytes.

    Raises:
      DataError: naming it.
    """
    if dataset.shape is None or dataset.is_virtual or dataset.external:
        raise DataError(f"{where}: is no array in this file; save it into the file itself")
    size, stored = Path(dataset.file.filename).stat().st_size, dataset.id.get_storage_size()
    if dataset.nbytes > SMALL and dataset.nbytes > (MOST_INFLATED * stored if _compressed(dataset) else stored):
        raise DataError(
            f"{where}: promises {dataset.nbytes:,} bytes, of which the file has {stored:,}; save the array anew"
        )
    chunk = dataset.dtype.itemsize
    for length in dataset.chunks or ():
        chunk *= length
    if dataset.chunks and chunk > SMALL + MOST_INFLATED * size:
        raise DataError(f"{where}: is stored in chunks of {chunk:,} bytes; save it in smaller ones")


def _compressed(dataset: Any) -> bool:
    return bool(dataset.id.get_create_plist().get_nfilters())
