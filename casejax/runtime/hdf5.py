"""HDF5 files, opened and listed: what lies in the file itself and is no larger than it can be, nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from casejax.errors import DataError
from casejax.runtime.reading import check_plain

DEPTH = 32
"""Groups within one another that are looked into."""

MOST_INFLATED = 128
"""Bytes that a compressed byte may stand for: features of floats shrink to a third at best."""

SMALL = 1 << 26
"""Bytes of an array or a chunk that are granted whatever the file has."""


def open_hdf5(path: str | os.PathLike[str], *, remedy: str, kind: str = "features") -> Any:
    """An open `h5py.File`; `path` is a plain file.

    Raises:
      DataError: no such file, or no HDF5.
      ImportError: h5py is not installed.
    """
    import h5py

    check_plain(path, kind)
    try:
        return h5py.File(path, "r")
    except Exception as error:  # h5py raises many types for damaged files
        raise DataError(f"{path}: not an HDF5 file, or a damaged one ({error}); {remedy}") from error


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
        raise DataError(f"{where}: is a damaged HDF5 file ({error}); fetch or save it again") from error


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
