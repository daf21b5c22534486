"""What the readers of all layouts check alike, and how they word it: file, value, remedy."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from casejax.errors import DataError, DataWarning
from casejax.records import Dataset
from casejax.runtime.reading import is_text

T = TypeVar("T")

MEMORY_SHARE = 0.8  # of the machine's memory, that features read into it may take
AGAIN = "extract the features of this video again"


def raise_first(problems: Iterable[str]) -> None:
    """Raise the first of several problems, if there is one, as a `DataError` that counts the others."""
    problems = list(problems)
    if problems:
        raise DataError(problems[0] + _and_more(len(problems) - 1))


def first_three(names: Sequence[str]) -> str:
    """Names for a message: three at most, and how many more there are."""
    return ", ".join(names[:3]) + _and_more(len(names) - 3)


def _and_more(count: int) -> str:
    return f" (and {count} more)" if count > 0 else ""


REMARKS = {
    "past the end": "instances end after the duration of their video; they are kept, as published evaluations do",
    "before the start": "instances start before their video; they are kept, as published evaluations do",
    "empty": "instances end at or before their start; they are set aside, their labels stay those of the video",
    "duration": "stated durations are no positive number of seconds; they are left out",
    "repeated": "instances repeat another of the same class; they are removed, as programs of this layout do",
    "whole label": "labels without a time are among instances with times; no detection in these videos is judged",
}
"""What is odd in annotations and used all the same: a rule for every reader."""


class Remarks:
    """What readers find odd in a file and use all the same, by kind, with the places."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def add(self, kind: str, place: str) -> None:
        """Note one place of a kind, a key of `REMARKS`."""
        self._places.setdefault(kind, []).append(place)

    def warn(self, path: Path) -> None:
        """Say what was noted, in one `DataWarning` a kind, with counts."""
        for kind, places in self._places.items():
            message = f"{path}: {len(places)} {REMARKS[kind]}: {first_three(places)}"
            warnings.warn(DataWarning(message, kind=kind, places=places), stacklevel=4)


def repeated(names: Iterable[T]) -> list[T]:
    """The names or numbers that occur more than once, each of them once."""
    return [name for name, count in Counter(names).items() if count > 1]


def check_id(video: str, source: Path) -> None:
    """Refuse an id that would lead a path out of its folder; `source` is the file to blame."""
    if not video or ".." in video or "/" in video or "\\" in video or "\0" in video or not is_text(video):
        raise DataError(f"{source}: video id {video!r} is no plain file name; rename the video")


def check_unique_ids(dataset: Dataset, root: Path) -> None:
    """Refuse to write, to `root`, a data set in which two videos have the same id."""
    counts = Counter(video.id for split in (dataset.train, dataset.test) for video in split.videos)
    raise_first(
        f"{root}: the data set has {count} videos named {video!r}; rename all but one"
        for video, count in counts.items()
        if count > 1
    )


def check_streams(streams: Sequence[str]) -> None:
    """Refuse no stream, and a stream that is named twice."""
    if not streams or repeated(streams):
        raise DataError(f"streams must name each stream once, and at least one, got {streams}")


def common_dim(dims: Mapping[str, int], what: str) -> int:
    """The feature dimension that all have; `dims` is by file, or file and video, and `what` is the word for them.

    Raises:
      DataError: naming one that differs from most.
    """
    (usual, votes), *_ = Counter(dims.values()).most_common(1)
    raise_first(
        f"{where}: dim {dim}, but {votes} of {len(dims)} {what} have dim {usual}; extract all with one model"
        for where, dim in dims.items()
        if dim != usual
    )
    return usual


def check_memory(root: Path, values: int, remedy: str) -> None:
    """Refuse to read more feature values than the machine has memory for, before the first is read.

    Raises:
      DataError: naming both sizes and the remedy.
    """
    if not hasattr(os, "sysconf"):
        return
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * values > MEMORY_SHARE * present:
        raise DataError(
            f"{root}: its features take {4 * values / 1e9:.1f} GB as float32, this machine has {present / 1e9:.1f} GB "
            f"of memory; {remedy}"
        )


def fill(out: np.ndarray, values: np.ndarray, where: str) -> None:
    """Put features into a float32 array of their shape; `where` names them in errors.

    Raises:
      DataError: values that are not finite as float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large for float32 is counted as infinite
        out[...] = values
    if not np.isfinite(out).all():
        nans, infinities = int(np.isnan(out).sum()), int(np.isinf(out).sum())
        raise DataError(f"{where}: {nans} NaN and {infinities} infinite values as float32, of {out.size}; {AGAIN}")
