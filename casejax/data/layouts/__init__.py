"""The folder layouts in which data sets are published, a module each, and their list.

A new layout is a module with a reader and a writer, and a line in `LAYOUTS`. The readers share `annotations` (JSON
and lists of names), `feature_files` and `arrays` (one file a video), `timing`, `assemble` (videos and features to a
data set), `consistency` (what can be seen not to fit) and `checks`. `table` reads a data set of one's own,
`unlabelled` features of which nothing else is known.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, Protocol, Unpack

from casejax.data.layouts.a2cl_pt import read_a2cl_pt, write_a2cl_pt
from casejax.data.layouts.ambiguous import read_ambiguous
from casejax.data.layouts.annotations import read_annotations, read_lines, read_split
from casejax.data.layouts.arrays import Arrangement
from casejax.data.layouts.assemble import ReadOptions
from casejax.data.layouts.feature_files import load_features_file
from casejax.data.layouts.published import read_dataset, read_features, write_dataset
from casejax.data.layouts.table import Splitting, read_table
from casejax.data.layouts.timing import read_timing, timing_of
from casejax.data.layouts.unlabelled import Found, find_videos, read_durations
from casejax.errors import DataError
from casejax.records import Dataset


class Reader(Protocol):
    """Reads and checks the data set in a folder; a defect is a `DataError` that names file, value and remedy."""

    def __call__(self, root: str | os.PathLike[str], **options: Unpack[ReadOptions]) -> Dataset:
        """Read it, features as the options say."""


class Writer(Protocol):
    """Writes a data set so that the reader gives it back; the folder must not exist yet, and is written whole."""

    def __call__(self, dataset: Dataset, root: str | os.PathLike[str]) -> None:
        """Write the folder."""


class Layout(NamedTuple):
    """How one layout is read and written.

    Attributes:
      read: a reader.
      marks: files and folders by which it is known.
      write: a writer; None where there is none.
      on_grid: its published program judges on the grid of snippets, without ambiguous intervals.
    """

    read: Reader
    marks: tuple[str, ...]
    write: Writer | None = None
    on_grid: bool = False


LAYOUTS = {
    "published": Layout(read_dataset, ("gt.json", "split_train.txt"), write_dataset),
    "a2cl_pt": Layout(read_a2cl_pt, ("annotation.json", "feature_train.npy"), write_a2cl_pt, on_grid=True),
}
"""Every layout, by the name of its module."""


def find_layout(root: str | os.PathLike[str]) -> str:
    """The layout of a folder, by the files that are in it; "published" where it is like none.

    Raises:
      DataError: no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name the folder of a data set")
    found = [name for name, layout in LAYOUTS.items() if all((root / mark).exists() for mark in layout.marks)]
    return found[0] if found else "published"


__all__ = [
    "LAYOUTS",
    "find_layout",
    "Layout",
    "Reader",
    "Writer",
    "ReadOptions",
    "Arrangement",
    "timing_of",
    "read_timing",
    "read_table",
    "Splitting",
    "find_videos",
    "Found",
    "read_durations",
    "read_dataset",
    "write_dataset",
    "read_a2cl_pt",
    "write_a2cl_pt",
    "read_annotations",
    "read_ambiguous",
    "read_features",
    "load_features_file",
    "read_split",
    "read_lines",
]
