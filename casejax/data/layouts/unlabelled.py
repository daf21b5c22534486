"""Features of any videos, of which nothing else is known: files, folders and globs, whose headers are checked first.

FILE.npy                an array (snippets, dim) with the columns of all streams, in their order; or .csv
FILE.npz                the same, or an array a stream, by name; or .h5, which may also hold many videos by id
FOLDER                  such files, or a folder a stream with a file a video
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from casejax.data.layouts.annotations import parse_seconds
from casejax.data.layouts.arrays import SUFFIXES, Arrangement, Source, keys, load, read_header
from casejax.data.layouts.checks import check_id, fill, raise_first
from casejax.data.layouts.feature_files import feature_files, find_sources
from casejax.errors import DataError
from casejax.runtime.reading import is_text, read_table


class Found(NamedTuple):
    """The features of one video in files whose headers have been read.

    Attributes:
      id: name of the video: of its file without the suffix, or of its arrays in a file of many videos.
      sources: an array a stream; or a single one, which has the columns of all streams in their order.
      root: the folder in which `features.json` would be.
      length: snippets.
      arrangement: what the axes of the arrays are.
    """

    id: str
    sources: tuple[Source, ...]
    root: Path
    length: int = 0
    arrangement: Arrangement = Arrangement()

    def read(self) -> tuple[np.ndarray, ...]:
        """The arrays as (snippets, dim) float32, one a source.

        Raises:
          DataError: values that are damaged or not finite.
        """
        return tuple(self._read(source) for source in self.sources)

    def _read(self, source: Source) -> np.ndarray:
        values = self.arrangement.apply(load(source))
        out = np.empty(values.shape, np.float32)
        fill(out, values, str(source))
        return out


def find_videos(
    places: Iterable[str | os.PathLike[str]],
    streams: Sequence[str],
    dims: Sequence[int],
    *,
    arrangement: Arrangement = Arrangement(),
) -> list[Found]:
    """The videos that files, folders and globs have features of; a file that is named twice counts once.

    Args:
      places: what the user names; `features.json` among them is no features.
      streams: of the network.
      dims: feature dimension of each.
      arrangement: what the axes of the arrays are.

    Raises:
      DataError: nothing there, a file that cannot be used, other dimensions, streams of one video that differ in
        length, or two videos of one name. The message names the first file and counts the others.

    Example:
      >>> import numpy as np
      >>> from casejax import data
      >>> np.save("a.npy", np.ones((5, 2), np.float32))
      >>> [found.id for found in data.find_videos(["a.npy"], streams=["features"], dims=[2])]
      ['a']
    """
    found: dict[tuple[Source, ...], Found] = {}
    for place in _expand(places):
        if not is_text(str(place)):
            raise DataError(f"{str(place)!r}: its name is no UTF-8, which results are written in; rename it")
        for video in _in_folder(place, streams) if place.is_dir() else _in_file(place, streams):
            found.setdefault(tuple(source._replace(path=source.path.resolve()) for source in video.sources), video)
    checked, problems = [], []
    for video in found.values():
        try:
            length = _check_headers(video, streams, dims, arrangement)
            checked.append(video._replace(length=length, arrangement=arrangement))
        except DataError as error:
            problems.append(str(error))
    raise_first(problems)
    first: dict[str, Found] = {}
    raise_first(
        f"{video.sources[0]} and {first[video.id].sources[0]} are both of a video {video.id!r}; rename one of them, or "
        "predict them one after the other"
        for video in checked
        if first.setdefault(video.id, video) is not video
    )
    return checked


def read_durations(path: Path) -> dict[str, float]:
    """The durations that a table states in its columns `video` and `duration`, seconds; other columns are ignored.

    Raises:
      DataError: no such columns, a duration that is not positive, or two of one video.
    """
    lines = read_table(path)
    names = {name.strip().lower(): n for n, name in enumerate(lines[0][1] if lines else [])}
    if not {"video", "duration"} <= names.keys():
        raise DataError(f"{path}: first line does not name the columns video and duration; write video,duration there")
    durations: dict[str, float] = {}
    for number, row in lines[1:]:
        video, stated = ((row[n] if n < len(row) else "").strip() for n in (names["video"], names["duration"]))
        if not stated:
            continue
        seconds = parse_seconds(stated, f"{path}: line {number}, duration")
        if seconds <= 0:
            raise DataError(f"{path}: line {number}: duration {stated} is not positive; write seconds")
        if durations.setdefault(video, seconds) != seconds:
            raise DataError(f"{path}: video {video!r} has the durations {durations[video]} and {seconds}; keep one")
    return durations


def _expand(places: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """The files and folders that are named, globs as what they match."""
    for given in places:
        place = os.fspath(given)
        matches = [place] if os.path.exists(place) else sorted(glob.glob(place, recursive=True))
        if not matches:
            what = "matches no file" if glob.has_magic(place) else "no such file or folder"
            raise DataError(f"{place}: {what}; name files of features, or folders with them")
        yield from (Path(match) for match in matches if Path(match).name != "features.json")


def _in_folder(folder: Path, streams: Sequence[str]) -> Iterator[Found]:
    if any((folder / stream).is_dir() for stream in streams):
        inner = [folder / stream for stream in streams if (folder / stream).is_dir()]
        ids = sorted({video for each in inner for video in feature_files(each)})
        if not ids:
            raise DataError(f"{inner[0]}: no {', '.join(SUFFIXES)} file in it; put a file a video there")
        for video, *sources in zip(ids, *find_sources(folder, ids, streams), strict=True):
            yield Found(video, tuple(sources), folder)
        return
    files = [path for paths in feature_files(folder).values() for path in paths]
    if not files:
        raise DataError(
            f"{folder}: no {', '.join(SUFFIXES)} file in it, and no folder {' or '.join(streams)}; name the folder "
            "with a file a video"
        )
    for path in files:
        yield from _in_file(path, streams)


def _in_file(path: Path, streams: Sequence[str]) -> Iterator[Found]:
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: features are read from {', '.join(SUFFIXES)} files; name one of these, or a folder")
    there = keys(path)
    if len(there) == 1:
        yield Found(path.stem, (Source(path, there[0]),), path.parent)
    elif set(streams) <= set(there):
        yield Found(path.stem, tuple(Source(path, stream) for stream in streams), path.parent)
    elif path.suffix == ".npz" or not there:
        raise DataError(
            f"{path}: has the arrays {', '.join(there[:8]) or 'none'}, the network reads {', '.join(streams)}; name "
            "the arrays after the streams"
        )
    else:
        for video in sorted({key.split("/")[0] for key in there}):
            check_id(video, path)
            whole = (Source(path, video),)
            own = whole if video in there else tuple(Source(path, f"{video}/{stream}") for stream in streams)
            yield Found(video, own, path.parent)


def _check_headers(video: Found, streams: Sequence[str], dims: Sequence[int], arrangement: Arrangement) -> int:
    """The snippets of a video, whose arrays have the dimensions of the network."""
    lengths = []
    wanted = [sum(dims)] if len(video.sources) == 1 else list(dims)
    for source, want in zip(video.sources, wanted, strict=True):
        shape = read_header(source)
        length, dim = arrangement.shape(shape, str(source))
        if dim != want:
            columns = " and ".join(f"{each} of {stream}" for stream, each in zip(streams, dims, strict=True))
            swapped = len(shape) == 2 and length == want
            remedy = (
                f"pass --order {'dim,snippets' if arrangement.order == 'snippets,dim' else 'snippets,dim'}"
                if swapped
                else "use features of the model that training had"
                if len(video.sources) == len(streams)
                else f"put these columns side by side, or name a folder that holds {', '.join(streams)}"
            )
            raise DataError(f"{source}: shape {shape} has dim {dim}, the network reads {columns}; {remedy}")
        lengths.append(length)
    if len(set(lengths)) > 1:
        raise DataError(
            f"{video.sources[0]} has {lengths[0]} snippets, but {video.sources[1]} has {lengths[1]}; crop the longer "
            "one, or extract both again at the same rate"
        )
    return lengths[0]
