"""Packed features: those of one split in one memory-mapped file, written once and read ever after.

    FOLDER/NAME-KEY.features   the rows of all videos end to end; a row holds the streams one after the other
    FOLDER/NAME-KEY.json       what the rows are; it is written last, so its presence says that they are complete

The key stands for everything the rows come from: paths, sizes and times of the source files, streams and type.
A source that changes gives another key, hence another file, and the one before is deleted. Files of other sources, or
of the same ones in another order or type, stay: several data sets may share a folder, and several processes may read
it while one packs.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from casejax.errors import DataError
from casejax.records import Features
from casejax.runtime import files, reading

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
TRIES = 100  # of a file that others delete
BLOCK = 1 << 22  # bytes read at a time where a whole file is checked


class Source(NamedTuple):
    """What a packed file is made from.

    Attributes:
      files: every source file, in the order their rows are packed in.
      dims: dimension of each stream.
      lengths: rows of each video.
      dtype: type to store, a key of `DTYPES`.
    """

    files: Sequence[Path]
    dims: Sequence[int]
    lengths: Sequence[int]
    dtype: str


def packed(folder: Path, name: str, source: Source, videos: Iterable[np.ndarray]) -> Features:
    """The features of a split, mapped from its packed file; the file is written first where there is none.

    Args:
      folder: where packed files are kept; created where missing.
      name: what the file's name begins with, such as "train".
      source: what the rows come from.
      videos: the (rows, sum of dims) float32 arrays of the videos, in order; gone through only to write the file,
        and again where another process has deleted it meanwhile.

    Returns:
      Features whose streams are views into the mapped file.

    Raises:
      DataError: a packed file that is damaged, or a folder that cannot be written.
      ValueError: an unknown type.

    Example:
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from casejax import data
      >>> from casejax.data.store import Source
      >>> np.save("a.npy", np.ones((3, 2), np.float32))
      >>> source = Source(files=[Path("a.npy")], dims=[2], lengths=[3], dtype="float32")
      >>> data.packed(Path("packed"), "train", source, iter([np.load("a.npy")])).streams[0].shape
      (3, 2)
    """
    if source.dtype not in DTYPES:
        raise ValueError(f"packed features are stored as one of {', '.join(DTYPES)}, not {source.dtype}")
    described = _describe(source)
    stem = f"{name}-{described['key'][:16]}"
    about = folder / f"{stem}.json"
    try:
        for _ in range(TRIES):
            if not about.exists():
                _write(folder, stem, described, source, videos)
            _delete_stale(folder, name, stem, described["origin"])  # after a kill, also where nothing was written
            try:
                return _open(folder, stem, described, source)
            except DataError:
                with files.held(folder):  # nobody writes or deletes it while it is looked at again
                    if about.exists():
                        return _open(folder, stem, described, source)
    except OSError as error:
        raise DataError(
            f"{folder}: packed features cannot be kept there ({error}); make room, or name another folder in --packed"
        ) from error
    raise DataError(f"{about}: was deleted by other processes {TRIES} times; wait until their sources no longer change")


def release(features: Features) -> None:
    """Give back the memory of what was read from a mapped file; it stays in the system's page cache.

    Example:
      >>> from casejax import data
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> data.release(world.train.features)  # nothing to give back of arrays in memory
    """
    for array in features.streams:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)


def _describe(source: Source) -> dict[str, Any]:
    """What decides the content of a packed file, and its digest."""
    stats = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    content = {"dims": list(source.dims), "lengths": list(source.lengths), "dtype": source.dtype}
    digest = hashlib.sha256(json.dumps([content, stats]).encode()).hexdigest()
    origin = hashlib.sha256(json.dumps([source.dtype, [path for path, _, _ in stats]]).encode()).hexdigest()
    return content | {"key": digest, "origin": origin}


def _write(folder: Path, stem: str, described: dict[str, Any], source: Source, videos: Iterable[np.ndarray]) -> None:
    files.make_folder(folder)
    files.sweep(folder)
    checksum = 0
    size = sum(source.lengths) * sum(source.dims) * DTYPES[source.dtype].itemsize
    with ExitStack() as stack:
        file = stack.enter_context(files.whole_file(folder / f"{stem}.features", "wb", size=size))
        for rows in videos:
            data = rows.astype(DTYPES[source.dtype]).tobytes()
            checksum = zlib.crc32(data, checksum)
            file.write(data)
        with files.held(folder):  # the file and its description belong together
            stack.close()
            files.write_text(folder / f"{stem}.json", json.dumps(described | {"crc32": checksum}))


def _delete_stale(folder: Path, name: str, stem: str, origin: str) -> None:
    """Delete what was packed of the same files before they changed, descriptions first."""
    for about in folder.glob(f"{name}-{'?' * 16}.json"):
        try:
            stale = about.stem != stem and reading.read_json(about, dict).get("origin", origin) == origin
        except DataError:  # another process deletes it too, or it is damaged and says so when it is asked for
            continue
        if stale:
            with files.held(folder):
                about.unlink(missing_ok=True)
                about.with_suffix(".features").unlink(missing_ok=True)


def _open(folder: Path, stem: str, described: dict[str, Any], source: Source) -> Features:
    path, about = folder / f"{stem}.features", folder / f"{stem}.json"
    remedy = f"delete {about}, and the features are packed again"
    try:
        stored = reading.read_json(about, {"crc32": int, "key": str}, remedy=remedy)
    except DataError as error:
        raise DataError(f"{about}: is damaged: {str(error).removeprefix(f'{about}: ')}") from error
    crc32 = stored.pop("crc32")
    if {"origin": described["origin"]} | stored != described:
        raise DataError(f"{about}: describes other features than {path.name} was asked for; {remedy}")
    dtype, width, total = DTYPES[source.dtype], sum(source.dims), sum(source.lengths)
    expected = total * width * dtype.itemsize
    try:
        present = path.stat().st_size
    except FileNotFoundError:  # looked at once: another process may delete it at any moment
        raise DataError(f"{path}: no such file where {about.name} promises {expected} bytes; {remedy}") from None
    if present != expected:
        raise DataError(f"{path}: {present} bytes where {about.name} promises {expected} bytes; {remedy}")
    with reading.open_plain(path) as file:
        checksum = 0
        while block := file.read(BLOCK):
            checksum = zlib.crc32(block, checksum)
        if checksum != crc32:
            raise DataError(f"{path}: checksum {checksum:08x}, not the {crc32:08x} it was written with; {remedy}")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    rows: np.ndarray = np.ndarray((total, width), dtype, mapped)
    bounds = np.cumsum([0, *source.dims])
    streams = tuple(rows[:, a:b] for a, b in pairwise(bounds))
    return Features.end_to_end(streams, source.lengths)
