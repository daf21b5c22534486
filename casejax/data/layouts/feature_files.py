"""Feature files of the published layout, one a video and stream: all headers are checked before a file is read.

FOLDER/features/SPLIT/STREAM/ID.npy       (snippets, dim), float16, float32 or float64
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from casejax.data import store
from casejax.data.layouts.checks import AGAIN, check_id, check_streams, common_dim, fill, first_three, raise_first
from casejax.errors import DataError
from casejax.records import Features


def load_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one feature file as a (snippets, dim) float32 array.

    Raises:
      DataError: not a complete `.npy` of finite floats with two axes and at least one snippet.
    """
    path = Path(path)
    out = np.empty(_read_header(path), np.float32)
    fill(out, np.load(path, allow_pickle=False), str(path))
    return out


class Survey(NamedTuple):
    """What the headers of the feature files of one split say.

    Attributes:
      paths: the files, a list of videos for each stream.
      dims: feature dimension of each stream.
      lengths: snippets of each video.
    """

    paths: list[list[Path]]
    dims: list[int]
    lengths: list[int]

    @property
    def values(self) -> int:
        """Feature values in all."""
        return sum(self.lengths) * sum(self.dims)


def survey_features(root: Path, splits: Mapping[str, Sequence[str]], streams: tuple[str, ...]) -> dict[str, Survey]:
    """Read the headers of the feature files of several splits, and check all that they can tell.

    Args:
      root: folder of the data set.
      splits: ids of the videos of each split.
      streams: feature streams.

    Raises:
      DataError: a file that is missing or cannot be used, dims that differ within a stream, or streams of one video
        that differ in length.
    """
    check_streams(streams)
    paths = {split: _feature_paths(root, split, ids, streams) for split, ids in splits.items()}
    files = [path for split in paths.values() for stream in split for path in stream]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise DataError(f"{first_three(missing)}: no such feature file; extract it or take the video out of its split")
    shapes: dict[Path, tuple[int, int]] = {}
    problems = []
    for path in files:
        try:
            shapes[path] = _read_header(path)
        except DataError as error:
            problems.append(str(error))
    raise_first(problems)
    dims = [
        common_dim({str(path): shapes[path][1] for split in paths.values() for path in split[s]}, f"{stream} files")
        for s, stream in enumerate(streams)
    ]
    surveys = {}
    for split, by_stream in paths.items():
        lengths = [[shapes[path][0] for path in stream] for stream in by_stream]
        for other in range(1, len(streams)):
            raise_first(
                f"{by_stream[0][v]} has {n} snippets, but {by_stream[other][v]} has {m}; crop the longer one "
                "or extract both again at the same rate"
                for v, (n, m) in enumerate(zip(lengths[0], lengths[other], strict=True))
                if n != m
            )
        surveys[split] = Survey(by_stream, dims, lengths[0])
    return surveys


def _feature_paths(root: Path, split: str, ids: Sequence[str], streams: Sequence[str]) -> list[list[Path]]:
    folder = root / "features" / split
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder for split {split!r}; found: {_folders(folder.parent)}")
    for stream in streams:
        if not (folder / stream).is_dir():
            raise DataError(
                f"{folder / stream}: no such stream {stream!r}; ask for one that exists: {_folders(folder)}"
            )
    for video in ids:
        check_id(video, folder)
    return [[folder / stream / f"{video}.npy" for video in ids] for stream in streams]


def _folders(parent: Path) -> str:
    return ", ".join(sorted(p.name for p in parent.glob("*") if p.is_dir())) or "none"


def _read_header(path: Path) -> tuple[int, int]:
    """The (snippets, dim) a feature file promises, and has the bytes for."""
    try:
        with path.open("rb") as file:
            headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, _, dtype = headers[npy.read_magic(file)](file)
            present = os.fstat(file.fileno()).st_size - file.tell()
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error}); check that it exists") from error
    except Exception as error:  # a damaged header fails in NumPy in many ways
        raise DataError(f"{path}: not a .npy file ({error}); {AGAIN}") from error
    if dtype.hasobject:
        raise DataError(f"{path}: dtype {dtype} means a pickle, which is never loaded; save it as float32")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise DataError(f"{path}: dtype {dtype}, not float16, float32 or float64; save it as float32")
    if len(shape) != 2:
        raise DataError(f"{path}: shape {shape}, not (snippets, dim); reshape the array to two axes")
    if min(shape) < 1:
        raise DataError(f"{path}: shape {shape} holds no features; {AGAIN} or take it out of its split")
    promised = math.prod(shape) * dtype.itemsize
    if present != promised:
        raise DataError(f"{path}: {present} bytes of data where its header promises {promised}; {AGAIN}")
    return shape[0], shape[1]


def load_features(survey: Survey) -> Features:
    """Read surveyed features into float32 arrays.

    Raises:
      DataError: a value that is not finite.
    """
    features = Features.end_to_end(
        tuple(np.empty((sum(survey.lengths), dim), np.float32) for dim in survey.dims), survey.lengths
    )
    for stream, paths in zip(features.streams, survey.paths, strict=True):
        for v, path in enumerate(paths):
            fill(stream[features.rows(v)], np.load(path, allow_pickle=False), str(path))
    return features


def pack_features(folder: Path, name: str, survey: Survey, dtype: str) -> Features:
    """Map surveyed features from their packed file (`store.packed`), which is written first where there is none.

    Args:
      folder: where packed files are kept.
      name: what the file's name begins with.
      survey: the features.
      dtype: "float32" or "bfloat16".

    Raises:
      DataError: a value that is not finite, a damaged packed file, or a folder that cannot be written.
    """
    if not survey.lengths:
        return load_features(survey)

    def videos() -> Iterator[np.ndarray]:
        bounds = np.cumsum([0, *survey.dims])
        for v, length in enumerate(survey.lengths):
            rows = np.empty((length, bounds[-1]), np.float32)
            for s, stream in enumerate(survey.paths):
                fill(rows[:, bounds[s] : bounds[s + 1]], np.load(stream[v], allow_pickle=False), str(stream[v]))
            yield rows

    files = [path for stream in survey.paths for path in stream]
    return store.packed(folder, name, store.Source(files, survey.dims, survey.lengths, dtype), videos())
