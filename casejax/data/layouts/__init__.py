"""The folder layouts in which data sets are published, a module each, and their list.

A new layout is a module with a reader, and a line in `LAYOUTS`. The readers share `annotations` (JSON and lists of
names), `folders` (where files are, which videos are for training), `feature_files` and `arrays` (one file a video),
`joint` and `rows` (all videos in one file), `timing`, `assemble` (videos and features to a data set), `consistency`
(what can be seen not to fit) and `checks`. `table` reads a data set of one's own,
`unlabelled` features of which nothing else is known.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol, Unpack

from casejax.data.layouts.a2cl_pt import read_a2cl_pt, write_a2cl_pt
from casejax.data.layouts.activitynet import read_activitynet
from casejax.data.layouts.ambiguous import read_ambiguous
from casejax.data.layouts.annotations import read_annotations, read_lines, read_split
from casejax.data.layouts.arrays import Arrangement
from casejax.data.layouts.assemble import ReadOptions
from casejax.data.layouts.bsn import read_bsn
from casejax.data.layouts.feature_files import load_features_file
from casejax.data.layouts.folders import annotation_folders, check_folder
from casejax.data.layouts.lists import read_charades, read_multithumos
from casejax.data.layouts.opentad import read_opentad
from casejax.data.layouts.published import read_dataset, read_features, write_dataset
from casejax.data.layouts.table import Splitting, read_table
from casejax.data.layouts.timing import read_provenance, read_timing, timing_of
from casejax.data.layouts.unlabelled import Found, find_videos, read_durations
from casejax.data.layouts.wtalc import read_wtalc
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
      marks: patterns of files by which it is known, all of them; `a|b` is one or the other.
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
    "wtalc": Layout(read_wtalc, ("classlist.npy", "videoname.npy", "subset.npy")),
    "bsn": Layout(read_bsn, ("anet_anno_action.json|anet_anno_train.json",)),
    "charades": Layout(read_charades, ("Charades*_train.csv", "Charades*_test.csv")),
    "multithumos": Layout(read_multithumos, ("class_list.txt|BaseballPitch*.txt",)),
    "opentad": Layout(read_opentad, ("*.json", "category_idx.txt|thumos*14*.json|multithumos*.json")),
    "activitynet": Layout(read_activitynet, ("activity_net*.json|ActivityNet*.json|*anet*.json",)),
}
"""Every layout, by name, those whose files tell them for certain first."""


def find_layout(root: str | os.PathLike[str]) -> str:
    """The layout of a folder, by the files that are in it or beside its annotations; "published" where it is like none.

    Raises:
      DataError: no such folder.
    """
    root = check_folder(root)
    places = annotation_folders(root)

    def has(mark: str) -> bool:
        return any(next(folder.glob(name), None) for name in mark.split("|") for folder in places)

    return next((name for name, layout in LAYOUTS.items() if all(map(has, layout.marks))), "published")


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
    "read_provenance",
    "read_table",
    "Splitting",
    "find_videos",
    "Found",
    "read_durations",
    "read_dataset",
    "write_dataset",
    "read_a2cl_pt",
    "write_a2cl_pt",
    "read_wtalc",
    "read_activitynet",
    "read_opentad",
    "read_bsn",
    "read_multithumos",
    "read_charades",
    "read_annotations",
    "read_ambiguous",
    "read_features",
    "load_features_file",
    "read_split",
    "read_lines",
]
