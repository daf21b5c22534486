"""Feature files of one video each: their headers are all checked before the first is read.

FOLDER/features/SPLIT/STREAM/ID.npy       (snippets, dim), float16, float32 or float64
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from casejax.data import store
from casejax.data.layouts.annotations import check_id, first_three, raise_first
from casejax.errors import DataError
from casejax.records import Features

MEMORY_SHARE = 0.8  # of the machine's memory, that features read into it may take


def load_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one feature file as a (snippets, dim) float32 array.

    Raises:
      DataError: not a complete `.npy` of finite floats with two axes and at least one snippet.
    """
    path = Path(path)
    out = np.empty(_read_header(path), np.float32)
    _fill(path, out)
    return out


class Survey(NamedTuple):
    """What the headers of one split say: `paths[stream][video]`, `dims[stream]`, lengths of the videos."""

    paths: list[list[Path]]
    dims: list[int]
    lengths: list[int]


def survey_features(root: Path, splits: Mapping[str, Sequence[str]], streams: tuple[str, ...]) -> dict[str, Survey]:
    """Check all that headers can tell, over all splits: dims have to agree across them."""
    if not streams or len(set(streams)) < len(streams):
        raise DataError(f"streams must name each stream once, and at least one, got {streams}")
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
        _common_dim(stream, {path: shapes[path][1] for split in paths.values() for path in split[s]})
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
    again = "extract the features of this video again"
    try:
        with path.open("rb") as file:
            headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, _, dtype = headers[npy.read_magic(file)](file)
            present = os.fstat(file.fileno()).st_size - file.tell()
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error}); check that it exists") from error
    except Exception as error:  # a damaged header fails in NumPy in many ways
        raise DataError(f"{path}: not a .npy file ({error}); {again}") from error
    if dtype.hasobject:
        raise DataError(f"{path}: dtype {dtype} means a pickle, which is never loaded; save it as float32")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise DataError(f"{path}: dtype {dtype}, not float16, float32 or float64; save it as float32")
    if len(shape) != 2:
        raise DataError(f"{path}: shape {shape}, not (snippets, dim); reshape the array to two axes")
    if min(shape) < 1:
        raise DataError(f"{path}: shape {shape} holds no features; {again} or take it out of its split")
    promised = math.prod(shape) * dtype.itemsize
    if present != promised:
        raise DataError(f"{path}: {present} bytes of data where its header promises {promised}; {again}")
    return shape[0], shape[1]


def _common_dim(stream: str, dims: Mapping[Path, int]) -> int:
    (usual, votes), *_ = Counter(dims.values()).most_common(1)
    raise_first(
        f"{path}: dim {dim}, but {votes} of {len(dims)} {stream} files have dim {usual}; extract all with one model"
        for path, dim in dims.items()
        if dim != usual
    )
    return usual


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
            _fill(path, stream[features.rows(v)])
    return features


def pack_features(folder: Path, name: str, survey: Survey, dtype: str) -> Features:
    """Map surveyed features from their packed file, `store.packed`; one video at a time is in memory to write it."""
    if not survey.lengths:
        return load_features(survey)

    def videos() -> Iterator[np.ndarray]:
        bounds = np.cumsum([0, *survey.dims])
        for v, length in enumerate(survey.lengths):
            rows = np.empty((length, bounds[-1]), np.float32)
            for s, stream in enumerate(survey.paths):
                _fill(stream[v], rows[:, bounds[s] : bounds[s + 1]])
            yield rows

    files = [path for stream in survey.paths for path in stream]
    return store.packed(folder, name, store.Source(files, survey.dims, survey.lengths, dtype), videos())


def check_memory(root: Path, surveys: Iterable[Survey]) -> None:
    """Refuse to read more than the machine has memory for, before the first feature is read.

    Raises:
      DataError: naming both sizes and the remedy.
    """
    if not hasattr(os, "sysconf"):
        return
    needed = sum(sum(survey.lengths) * sum(survey.dims) * 4 for survey in surveys)
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > MEMORY_SHARE * present:
        raise DataError(
            f"{root}: its features take {needed / 1e9:.1f} GB as float32, this machine has {present / 1e9:.1f} GB of "
            "memory; name a folder with room in --packed, and they are packed there and streamed"
        )


def _fill(path: Path, out: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows float32 is counted as infinite
        out[...] = np.load(path, allow_pickle=False)
    if not np.isfinite(out).all():
        nans, infinities = int(np.isnan(out).sum()), int(np.isinf(out).sum())
        raise DataError(
            f"{path}: {nans} NaN and {infinities} infinite values as float32, of {out.size}; "
            "extract the features of this video again"
        )
