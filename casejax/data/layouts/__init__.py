"""The folder layouts in which data sets are published, a module each, and their list.

A new layout is a module with a reader and a writer, and a line in `LAYOUTS`. The readers share `annotations` (JSON
and lists of names), `feature_files` (one file a video) and `checks`.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol

from casejax.data.layouts.a2cl_pt import read_a2cl_pt, write_a2cl_pt
from casejax.data.layouts.ambiguous import read_ambiguous
from casejax.data.layouts.annotations import read_annotations, read_lines, read_split
from casejax.data.layouts.feature_files import load_npy
from casejax.data.layouts.published import DurationMismatchWarning, read_dataset, read_features, write_dataset
from casejax.records import Dataset


class Reader(Protocol):
    """Reads and checks the data set in a folder; a defect is a `DataError` that names file, value and remedy."""

    def __call__(self, root: str | os.PathLike[str], *, streams: tuple[str, ...] = ("rgb", "flow")) -> Dataset:
        """Read the given feature streams."""


class Writer(Protocol):
    """Writes a data set so that the reader gives it back; the folder must not exist yet, and is written whole."""

    def __call__(self, dataset: Dataset, root: str | os.PathLike[str]) -> None:
        """Write the folder."""


class Layout(NamedTuple):
    """How one layout is read and written.

    Attributes:
      read: a reader.
      write: a writer.
      packs: the reader can pack features, and read a part of them: it also takes `packed`, `packed_dtype`, `part`
        and `parts`.
      on_grid: its published program judges on the grid of snippets, without ambiguous intervals.
    """

    read: Reader
    write: Writer
    packs: bool = False
    on_grid: bool = False


LAYOUTS = {
    "published": Layout(read_dataset, write_dataset, packs=True),
    "a2cl_pt": Layout(read_a2cl_pt, write_a2cl_pt, on_grid=True),
}
"""Every layout, by the name of its module."""

__all__ = [
    "LAYOUTS",
    "Layout",
    "Reader",
    "Writer",
    "read_dataset",
    "write_dataset",
    "DurationMismatchWarning",
    "read_a2cl_pt",
    "write_a2cl_pt",
    "read_annotations",
    "read_ambiguous",
    "read_features",
    "load_npy",
    "read_split",
    "read_lines",
]
