"""Read, check and write the folder layout of A2CL-PT (Min and Corso, ECCV 2020).

    ROOT/feature_train.npy, feature_val.npy    a dictionary saved by `numpy.save`: {ID: (snippets, dim)}, the columns
                                               are those of rgb, then those of flow
    ROOT/annotation.json                       {"database": {ID: {"subset": "train" or "val", "annotations",
                                               "duration"?}}, "list_classes", "miscellany", "set_ambiguous"?}

The videos of "val" are those to evaluate on. Videos are read in the order of their ids. The pickles in the feature
files are interpreted, not executed (`casejax.data.pickles`). Every defect is a `DataError`; all but values that are not
finite are found before the features are copied into memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from casejax.data.layouts.annotations import parse_seconds, parse_segment, parse_video, read_json
from casejax.data.layouts.assemble import ReadOptions, given_timing
from casejax.data.layouts.checks import Remarks, check_unique_ids, first_three, raise_first, repeated
from casejax.data.layouts.consistency import warn_of_times
from casejax.data.layouts.joint import check_arrays, check_columns, divide_columns, joint_streams
from casejax.data.layouts.timing import check_durations, settle_timing
from casejax.data.pickles.numpy_files import read_object_array
from casejax.errors import DataError
from casejax.records import Dataset, Split, Timing, Video
from casejax.runtime.files import whole_folder

SUBSETS = {"train": "train", "test": "val"}
"""The subset in the annotation file of each split."""


def read_a2cl_pt(root: str | os.PathLike[str], **options: Unpack[ReadOptions]) -> Dataset:
    """Read and check a data set in this layout, as the published program understands it.

    A test video without annotations is left out, whether it has features or not. What is odd in annotations is
    treated as in every layout (`checks.REMARKS`).

    Args:
      root: folder in the layout described at the top of this module.
      **options: `assemble.ReadOptions`, of which this layout knows streams, among which the columns are divided evenly
        (default rgb and flow), and timing.

    Returns:
      Both splits, float32 features end to end, the classes in the order of the file.

    Raises:
      DataError: anything in the folder, or in `streams`, that cannot be used.
      OptionError: an option that this layout does not know.

    Warns:
      DataWarning: annotations that are odd and used all the same; rows, durations and annotations that do not fit.

    Example:
      >>> from casejax import data
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> data.write_a2cl_pt(world, "published")
      >>> data.read_a2cl_pt("published").classes
      ('CliffDive', 'Dive')
    """
    root, given = Path(root), given_timing(options)
    streams = joint_streams(root, "a2cl_pt", options)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; pass the one that holds annotation.json and the features")
    path = root / "annotation.json"
    document = _object(read_json(path), f"{path}: no object")
    classes = _classes(document, path)
    timing = settle_timing(root, given, layout=(path, _timing(document, path)))
    database = _object(document.get("database"), f'{path}: no "database"')
    subsets = _subsets(database, path)
    arrays = {split: _feature_arrays(root, split) for split in SUBSETS}
    for split in SUBSETS:
        _check_subsets(root, split, subsets, arrays[split])
    kept = {split: _kept(root, split, database, subsets, arrays[split]) for split in SUBSETS}
    named = ((f"{_path(root, split)}: video {v!r}", arrays[split][v]) for split, ids in kept.items() for v in ids)
    dim = check_columns(root, named, streams)
    intervals = _ambiguous(document.get("set_ambiguous", {}), database, path)
    videos: dict[str, list[Video]] = {split: [] for split in SUBSETS}
    problems, remarks = [], Remarks()
    for split, ids in kept.items():
        for video in ids:
            where = f"{path}: video {video!r}"
            try:
                parsed = parse_video(video, database[video], where, remarks)
            except DataError as error:
                problems.append(str(error))
                continue
            if split == "test" and video in intervals:
                parsed = replace(parsed, ambiguous=np.concatenate([parsed.ambiguous, intervals[video]]))
            videos[split].append(parsed)
            problems += [
                f'{where}: label {label!r} is not in "list_classes"; add it there or fix the annotation'
                for label in parsed.labels
                if label not in classes
            ]
    raise_first(problems)
    remarks.warn(path)
    check_durations(timing, [*videos["train"], *videos["test"]], path)
    train, test = (
        Split(split, tuple(videos[split]), divide_columns(_path(root, split), arrays[split], ids, dim, len(streams)))
        for split, ids in kept.items()
    )
    dataset = Dataset(str(root), classes, streams, train, test, timing)
    warn_of_times(dataset)
    return dataset


def write_a2cl_pt(dataset: Dataset, root: str | os.PathLike[str]) -> None:
    """Write a data set in the layout that `read_a2cl_pt` reads; `root` must not exist yet.

    Everything goes into a folder beside `root` that is renamed at the end, so `root` is either complete or absent.
    Features are stored as float32.

    Raises:
      DataError: `root` exists, ids are not unique, or a video has no features.

    Example:
      >>> from casejax import data
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> data.write_a2cl_pt(world, "published")
      >>> len(data.read_a2cl_pt("published").train.videos)
      6
    """
    root = Path(root)
    splits = {"train": dataset.train, "test": dataset.test}
    check_unique_ids(dataset, root)
    raise_first(
        f"{root}: {name} video {video.id!r} has no features here; read the data set whole"
        for name, split in splits.items()
        for video, length in zip(split.videos, split.features.lengths, strict=True)
        if not length
    )
    with whole_folder(root) as partial:
        (partial / "annotation.json").write_text(json.dumps(_document(dataset)), encoding="utf-8")
        for name, split in splits.items():
            rows = {video.id: split.features.rows(v) for v, video in enumerate(split.videos)}
            arrays = {
                video: np.concatenate([stream[where] for stream in split.features.streams], axis=1, dtype=np.float32)
                for video, where in rows.items()
            }
            np.save(_path(partial, name), np.array(arrays, object), allow_pickle=True)


def _path(root: Path, split: str) -> Path:
    return root / f"feature_{SUBSETS[split]}.npy"


# The annotation file


def _object(value: Any, problem: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{problem}; take the annotation file of A2CL-PT, or write one like it")
    return value


def _classes(document: dict[str, Any], path: Path) -> tuple[str, ...]:
    listed = document.get("list_classes")
    if not isinstance(listed, list) or not listed or not all(isinstance(n, str) and n.strip() for n in listed):
        raise DataError(f'{path}: "list_classes" is no list of class names; write all classes there')
    raise_first(f'{path}: "list_classes" has {name!r} more than once; keep one' for name in repeated(listed))
    return tuple(listed)


def _timing(document: dict[str, Any], path: Path) -> Timing:
    said = _object(document.get("miscellany"), f'{path}: no "miscellany"')
    frames, rate = (parse_seconds(said.get(key), f"{path}: {key}") for key in ("len_feature_chunk", "fps_extracted"))
    if not (frames > 0 and rate > 0):
        raise DataError(f"{path}: {frames:g} frames a snippet at {rate:g} a second; write those of the extraction")
    return Timing(frames, frames, rate)


def _subsets(database: Mapping[str, Any], path: Path) -> dict[str, str]:
    """The split of every video."""
    split_of = {subset: split for split, subset in SUBSETS.items()}
    found, problems = {}, []
    for video, entry in database.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("annotations"), list):
            problems.append(f'{path}: video {video!r}: no "annotations" list; add one, empty where nothing happens')
        elif not isinstance(subset := entry.get("subset"), str) or subset not in split_of:
            problems.append(f"{path}: video {video!r}: subset {subset!r} is unknown; write one of {list(split_of)}")
        else:
            found[video] = split_of[subset]
    raise_first(problems)
    return found


def _ambiguous(listed: Any, database: Mapping[str, Any], path: Path) -> dict[str, np.ndarray]:
    """The (m, 2) ambiguous intervals of each video that has some."""
    found = {}
    for video, intervals in _object(listed, f'{path}: "set_ambiguous" is no object').items():
        where = f'{path}: "set_ambiguous", video {video!r}'
        if video not in database:
            raise DataError(f'{where}: not in the "database"; add it there or remove its intervals')
        if not isinstance(intervals, list):
            raise DataError(f"{where}: no list of intervals; write [[start, end], ...] in seconds")
        found[video] = np.asarray([parse_segment(each, where) for each in intervals], np.float64).reshape(-1, 2)
    return found


def _document(dataset: Dataset) -> dict[str, Any]:
    """What `annotation.json` says of a data set."""
    frames, rate = dataset.timing.stride, dataset.timing.fps
    database = {}
    for subset, split in (("train", dataset.train), ("val", dataset.test)):
        for video in split.videos:
            annotations = [
                {"label": label, "segment": segment}
                for label, segment in zip(video.segment_labels, video.segments.tolist(), strict=True)
            ]
            stated = {} if video.duration is None else {"duration": float(video.duration)}
            database[video.id] = {"annotations": annotations, **stated, "subset": subset}
    ambiguous = {video.id: video.ambiguous.tolist() for video in dataset.test.videos if len(video.ambiguous)}
    return {
        "database": database,
        "list_classes": list(dataset.classes),
        "miscellany": {"fps_extracted": rate, "len_feature_chunk": frames},
        "set_ambiguous": ambiguous,
    }


# Features


def _feature_arrays(root: Path, split: str) -> dict[str, np.ndarray]:
    """The array of every video in a feature file, mapped and not yet read."""
    path = _path(root, split)
    found = read_object_array(path)
    arrays = found[()] if found.shape == () else None
    if not isinstance(arrays, dict) or not arrays:
        raise DataError(f"{path}: holds no dictionary of features; save {{ID: (snippets, dim) array}} with numpy.save")
    check_arrays(arrays.items(), path)
    return arrays


def _check_subsets(root: Path, split: str, subsets: Mapping[str, str], arrays: Mapping[str, Any]) -> None:
    """Refuse features of videos that are no part of their split."""
    path, annotation = _path(root, split), root / "annotation.json"
    unknown = sorted(set(arrays) - set(subsets))
    if unknown:
        raise DataError(f"{path}: features of {first_three(unknown)}, which {annotation} lacks; add or remove them")
    raise_first(
        f"{path}: features of {video!r}, whose subset in {annotation} is {SUBSETS[subsets[video]]!r}; "
        f"put them into {_path(root, subsets[video])} or fix the subset"
        for video in sorted(arrays)
        if subsets[video] != split
    )


def _kept(
    root: Path, split: str, database: Mapping[str, Any], subsets: Mapping[str, str], arrays: Mapping[str, Any]
) -> list[str]:
    """The annotated videos of a split, sorted; all of them must have features."""
    path, annotation = _path(root, split), root / "annotation.json"
    annotated = sorted(video for video, of in subsets.items() if of == split and database[video]["annotations"])
    if not annotated:
        raise DataError(f"{annotation}: annotates no video of subset {SUBSETS[split]!r}; annotate some")
    missing = [video for video in annotated if video not in arrays]
    if missing:
        raise DataError(
            f"{path}: no features of {first_three(missing)}, annotated in {annotation}; add them or remove the entry"
        )
    blank = sorted(set(arrays) - set(annotated))
    if split == "train" and blank:
        raise DataError(
            f"{annotation}: no annotation, hence no label to learn from, for {first_three(blank)}; "
            f"annotate it or take it out of {path}"
        )
    return annotated
