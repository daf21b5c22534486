"""Features of a video in one array, whose columns are those of its streams: what layouts with such files share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from casejax.data.layouts.arrays import Arrangement
from casejax.data.layouts.assemble import ReadOptions
from casejax.data.layouts.checks import AGAIN, check_memory, check_streams, common_dim, fill, raise_first
from casejax.errors import DataError, OptionError
from casejax.records import Features


def joint_streams(root: Path, layout: str, options: ReadOptions) -> tuple[str, ...]:
    """The streams among which columns are divided, rgb and flow unless the options say otherwise.

    Raises:
      DataError: no stream, or one that is named twice.
      OptionError: an option that such files do not know.
    """
    streams = options.get("streams")
    streams = ("rgb", "flow") if streams is None else streams
    check_streams(streams)
    if options.get("packed") or options.get("parts", 1) > 1:
        raise OptionError(f"{root}: layout {layout} is read whole, into memory; leave out --packed and --data-parts")
    if options.get("arrangement", Arrangement()) != Arrangement():
        raise OptionError(f"{root}: layout {layout} has (snippets, dim) arrays; leave out --order and --crops")
    return streams


def check_arrays(arrays: Iterable[tuple[Any, Any]], path: Path) -> None:
    """Refuse all but (snippets, dim) arrays of floats; `arrays` are pairs of id and array, `path` is their file."""
    raise_first(problem for video, array in arrays if (problem := _defect(video, array, path)))


def _defect(video: Any, array: Any, path: Path) -> str | None:
    where = f"{path}: video {video!r}"
    if not isinstance(video, str):
        return f"{where}: its id is no string; save it under its name"
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return f"{where}: {getattr(array, 'dtype', type(array).__name__)}, not an array of floats; {AGAIN}"
    if array.ndim != 2 or min(array.shape) < 1:
        return f"{where}: shape {array.shape}, not (snippets, dim) with at least one snippet; {AGAIN}"
    return None


def check_columns(root: Path, arrays: Iterable[tuple[str, np.ndarray]], streams: Sequence[str]) -> int:
    """The dim that all arrays have; `arrays` are pairs of file and video, in words, and array.

    Raises:
      DataError: dims that differ, that do not divide among the streams, or more values than there is memory for.
    """
    found = list(arrays)
    dim = common_dim({where: array.shape[1] for where, array in found}, "videos")
    if dim % len(streams):
        raise DataError(f"{root}: dim {dim} does not divide among the streams {streams}; name all streams it has")
    values = dim * sum(len(array) for _, array in found)
    check_memory(root, values, "use a machine with more, or write them in the published layout and pack them")
    return dim


def divide_columns(
    path: Path, arrays: Mapping[str, np.ndarray], ids: Sequence[str], dim: int, streams: int
) -> Features:
    """The features of some videos as float32, columns divided evenly among so many streams.

    Raises:
      DataError: values that are not finite.
    """
    lengths = [len(arrays[video]) for video in ids]
    width = dim // streams
    features = Features.end_to_end(tuple(np.empty((sum(lengths), width), np.float32) for _ in range(streams)), lengths)
    for v, video in enumerate(ids):
        for s, stream in enumerate(features.streams):
            columns = arrays[video][:, s * width : (s + 1) * width]
            fill(stream[features.rows(v)], columns, f"{path}: video {video!r}")
    return features
