"""Folders of feature files, one a video and stream: all headers are checked before a file is read.

FOLDER/STREAM/ID.npy    an array (snippets, dim), float16, float32 or float64; or .npz, .h5, .csv
FOLDER/ID.npz           all streams of a video, by name; or .h5. Of a single stream also ID.npy, ID.csv
FILE.h5                 all videos, by id; with several streams, ID/STREAM
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from casejax.data import store
from casejax.data.layouts.annotations import find_ids
from casejax.data.layouts.arrays import SUFFIXES, Arrangement, Source, keys, load, read_header
from casejax.data.layouts.checks import check_id, check_streams, common_dim, fill, first_three, raise_first
from casejax.errors import DataError
from casejax.records import Features

SINGLE = "features"
"""What the stream of features is called that have no streams."""


def load_features_file(
    path: str | os.PathLike[str], *, arrangement: Arrangement = Arrangement(), key: str = ""
) -> np.ndarray:
    """Read one file of one array as (snippets, dim) float32.

    Args:
      path: `.npy`, `.npz`, `.h5` or `.csv`.
      arrangement: what its axes are.
      key: the name of the array in a file of several.

    Raises:
      DataError: not a complete array of finite floats, with the right axes and at least one snippet.

    Example:
      >>> import numpy as np
      >>> from casejax import data
      >>> np.save("a.npy", np.arange(6.0).reshape(2, 3))
      >>> data.load_features_file("a.npy", arrangement=data.Arrangement(order="dim,snippets")).shape
      (3, 2)
    """
    source = Source(Path(path), key)
    out = np.empty(arrangement.shape(read_header(source), str(source)), np.float32)
    fill(out, arrangement.apply(load(source)), str(source))
    return out


class Survey(NamedTuple):
    """What the headers of the feature files of one split say.

    Attributes:
      sources: the arrays, a list of videos for each stream.
      dims: feature dimension of each stream.
      lengths: snippets of each video.
      arrangement: what the axes of the arrays are.
    """

    sources: list[list[Source]]
    dims: list[int]
    lengths: list[int]
    arrangement: Arrangement

    @property
    def values(self) -> int:
        """Feature values in all."""
        return sum(self.lengths) * sum(self.dims)

    def read(self, stream: int, video: int, out: np.ndarray) -> None:
        """Put the features of one video in one stream into a float32 array; DataError where they are not finite."""
        source = self.sources[stream][video]
        fill(out, self.arrangement.apply(load(source)), str(source))


def survey_features(
    folders: Mapping[str, Path],
    splits: Mapping[str, Sequence[str]],
    streams: tuple[str, ...],
    arrangement: Arrangement = Arrangement(),
) -> dict[str, Survey]:
    """Read the headers of the feature files of several splits, and check all that they can tell.

    Args:
      folders: the folder, or the file, of each split.
      splits: ids of the videos of each split.
      streams: feature streams.
      arrangement: what the axes of the arrays are.

    Raises:
      DataError: a file that is missing or cannot be used, dims that differ within a stream, or streams of one video
        that differ in length.
    """
    check_streams(streams)
    sources = {split: find_sources(folders[split], ids, streams) for split, ids in splits.items()}
    every = [source for split in sources.values() for stream in split for source in stream]
    missing = [str(source) for source in every if not source.path.is_file()]
    if missing:
        raise DataError(f"{first_three(missing)}: no such feature file; extract it or take the video out of its split")
    raw: dict[Source, tuple[int, ...]] = {}
    shapes: dict[Source, tuple[int, int]] = {}
    problems = []
    for source in every:
        try:
            raw[source] = read_header(source)
            shapes[source] = arrangement.shape(raw[source], str(source))
        except DataError as error:
            problems.append(str(error))
    raise_first(problems)
    _suspect_order(raw, arrangement)
    dims = [
        common_dim(
            {str(source): shapes[source][1] for split in sources.values() for source in split[s]}, f"{stream} files"
        )
        for s, stream in enumerate(streams)
    ]
    surveys = {}
    for split, by_stream in sources.items():
        lengths = [[shapes[source][0] for source in stream] for stream in by_stream]
        for other in range(1, len(streams)):
            raise_first(
                f"{by_stream[0][v]} has {n} snippets, but {by_stream[other][v]} has {m}; crop the longer one "
                "or extract both again at the same rate"
                for v, (n, m) in enumerate(zip(lengths[0], lengths[other], strict=True))
                if n != m
            )
        surveys[split] = Survey(by_stream, dims, lengths[0], arrangement)
    return surveys


def _suspect_order(shapes: Mapping[Source, tuple[int, ...]], arrangement: Arrangement) -> None:
    """Refuse (snippets, dim) that are (dim, snippets) by all appearances, and the other way round."""
    if any(len(shape) != 2 for shape in shapes.values()) or len(shapes) < 3:
        return
    dim = 1 if arrangement.order == "snippets,dim" else 0
    own, other = ({shape[axis] for shape in shapes.values()} for axis in (dim, 1 - dim))
    if len(other) == 1 and len(own) > 2:
        first = next(iter(shapes))
        swapped = "dim,snippets" if dim else "snippets,dim"
        raise DataError(
            f"{first}: shape {shapes[first]}; all {len(shapes)} files have {other.pop()} there and differ in the other "
            f"axis, so they seem to be ({swapped.replace(',', ', ')}); pass --order {swapped}, or order={swapped!r}"
        )


def find_sources(folder: Path, ids: Sequence[str], streams: Sequence[str]) -> list[list[Source]]:
    """Where the features of videos are, a list of videos for each stream; a file that is missing is named as .npy.

    Raises:
      DataError: no such folder, no such stream, an id that is no file name, or two files of one video.
    """
    for video in ids:
        check_id(video, folder)
    if folder.is_file():
        found = find_ids(ids, {key.split("/")[0] for key in keys(folder)})
        absent = [video for video in ids if video not in found]
        if absent:
            raise DataError(f"{folder}: no features of {first_three(absent)}; add them or take them out of the split")
        nested = any("/" in key for key in keys(folder))
        return [[Source(folder, f"{found[v]}/{stream}" if nested else found[v]) for v in ids] for stream in streams]
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of features; {folder.parent} has: {_folders(folder.parent)}")
    if any((folder / stream).is_dir() for stream in streams):
        absent = [stream for stream in streams if not (folder / stream).is_dir()]
        raise_first(
            f"{folder / stream}: no such stream {stream!r}; ask for one that exists: {_folders(folder)}"
            for stream in absent
        )
        return [_sources(folder / stream, ids) for stream in streams]
    sources = _sources(folder, ids)
    there = [source for source in sources if source.path.is_file()]
    if not there:
        raise_first(
            f"{folder / stream}: no such stream {stream!r}; ask for one that exists: {_folders(folder)}"
            for stream in streams
            if stream != SINGLE
        )
    if len(streams) == 1 and (not there or len(keys(there[0].path)) == 1):
        return [sources]
    return [[source._replace(key=stream) for source in sources] for stream in streams]


def _sources(folder: Path, ids: Sequence[str]) -> list[Source]:
    files = feature_files(folder)
    found = find_ids(ids, files)
    raise_first(
        f"{files[place][0]} and {files[place][1]}: two files of one video; keep one of them"
        for place in found.values()
        if len(files[place]) > 1
    )
    return [Source(files[found[v]][0] if v in found else folder / f"{v}.npy") for v in ids]


def feature_files(folder: Path) -> dict[str, list[Path]]:
    """The feature files of a folder, sorted, by the name without its suffix."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES and not path.name.startswith("."):
            files.setdefault(path.stem, []).append(path)
    return files


def find_streams(folder: Path) -> tuple[str, ...]:
    """The streams of a folder or file of features, rgb and flow before others; `SINGLE` where there is one alone.

    Raises:
      DataError: no feature file in it.
    """
    if folder.is_file():
        names = sorted({key.split("/", 1)[1] for key in keys(folder) if "/" in key})
    elif not folder.is_dir():
        raise DataError(f"{folder}: no such folder of features; name the one with a file a video")
    else:
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        files = feature_files(folder)
        names = [] if files else names
        if not names and not files:
            raise DataError(f"{folder}: no {', '.join(SUFFIXES)} file in it; name the folder with a file a video")
        if not names:
            there = keys(next(iter(files.values()))[0])
            names = sorted(there) if len(there) > 1 else []
    order = ("rgb", "flow")
    names.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    return tuple(names) or (SINGLE,)


def list_videos(folder: Path, streams: Sequence[str]) -> list[str]:
    """The ids of all videos that a folder or file has features of, sorted."""
    if folder.is_file():
        return sorted({key.split("/")[0] for key in keys(folder)})
    inner = folder / streams[0]
    videos = sorted(feature_files(inner if inner.is_dir() else folder))
    for video in videos:
        check_id(video, folder)
    return videos


def _folders(parent: Path) -> str:
    return ", ".join(sorted(p.name for p in parent.glob("*") if p.is_dir())) or "none"


def load_features(survey: Survey) -> Features:
    """Read surveyed features into float32 arrays.

    Raises:
      DataError: a value that is not finite.
    """
    features = Features.end_to_end(
        tuple(np.empty((sum(survey.lengths), dim), np.float32) for dim in survey.dims), survey.lengths
    )
    for s, stream in enumerate(features.streams):
        for v in range(len(survey.lengths)):
            survey.read(s, v, stream[features.rows(v)])
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

    files = [source.path for stream in survey.sources for source in stream]
    return store.packed(folder, name, store.Source(files, survey.dims, survey.lengths, dtype), _Videos(survey))


class _Videos:
    """The rows of surveyed videos, the streams side by side, read whenever they are gone through."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey

    def __iter__(self) -> Iterator[np.ndarray]:
        bounds = np.cumsum([0, *self.survey.dims])
        for v, length in enumerate(self.survey.lengths):
            rows = np.empty((length, bounds[-1]), np.float32)
            for s in range(len(self.survey.dims)):
                self.survey.read(s, v, rows[:, bounds[s] : bounds[s + 1]])
            yield rows
