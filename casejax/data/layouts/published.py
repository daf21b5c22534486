"""Read, check and write the folder layout in which snippet features are published.

    ROOT/gt.json                            {"database": {ID: {"subset", "annotations", "duration"?}}}
    ROOT/split_train.txt, split_test.txt    one video id a line
    ROOT/classes.txt                        optional: one class name a line, in the order wanted
    ROOT/features/SPLIT/STREAM/ID.npy       (snippets, dim), float16, float32 or float64; or .npz, .h5, .csv
    ROOT/features.json                      optional: what a row of features stands for (`layouts.timing`)

Every defect is a `DataError` raised here, before anything is trained on it. Entries of videos that no split lists are
not looked at. Pickles are never loaded.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from casejax.data.layouts.annotations import find_ids, read_annotations, read_lines, read_split
from casejax.data.layouts.assemble import (
    SPLITS,
    ReadOptions,
    assemble,
    given_timing,
    label_names,
    settle_classes,
)
from casejax.data.layouts.checks import check_id, check_unique_ids, first_three
from casejax.data.layouts.feature_files import load_features, survey_features
from casejax.data.layouts.folders import read_lists, split_by_lists
from casejax.data.layouts.timing import check_durations, settle_timing
from casejax.errors import DataError, DataWarning
from casejax.records import Dataset, Features, Timing, Video
from casejax.runtime.files import whole_folder


def read_dataset(root: str | os.PathLike[str], **options: Unpack[ReadOptions]) -> Dataset:
    """Read and check a whole data set.

    Args:
      root: folder in the layout described at the top of this module.
      **options: `assemble.ReadOptions`.

    Returns:
      Both splits, features end to end. The classes are those of `classes.txt`, otherwise the sorted labels of
      the training videos.

    Raises:
      DataError: anything in the folder, or in `streams`, that cannot be used.
      OptionError: `snippet_seconds` is not positive and finite.

    Warns:
      DataWarning: annotations that are odd and used all the same; rows, durations and annotations that do not fit.

    Example:
      >>> from casejax import data
      >>> data.write_world("world", num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> data.read_dataset("world").classes
      ('CliffDive', 'Dive')
    """
    root, given = Path(root), given_timing(options)
    videos, classes = read_videos(root, lenient=options.get("lenient", False))
    timing = settle_timing(root, given)
    check_durations(timing, [video for split in SPLITS for video in videos[split]], root / "gt.json")
    return assemble(root, videos, classes, {split: root / "features" / split for split in SPLITS}, timing, options)


def read_videos(root: Path, *, lenient: bool = False) -> tuple[Mapping[str, Sequence[Video]], tuple[str, ...]]:
    """Read all but the features: the videos of each split, and the classes, as `read_dataset` has them.

    Args:
      root: folder in the layout described at the top of this module; its features may be missing.
      lenient: whether annotated videos that no split lists are counted in a warning.

    Raises:
      DataError: anything that cannot be used.

    Warns:
      DataWarning: annotations that are odd and used all the same.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; pass the one that holds gt.json, split files and features")
    ids = read_lists(root) or {split: read_split(root / f"split_{split}.txt") for split in SPLITS}
    gt = root / "gt.json"
    listed = [video for split in SPLITS for video in ids[split]]
    annotations = read_annotations(gt, only=listed)
    if lenient:
        _warn_of_unlisted(gt, listed)
    videos = split_by_lists(root, ids, annotations, gt)
    path = root / "classes.txt"
    return videos, settle_classes(read_lines(path) if path.exists() else None, videos, source=gt, path=path)


def read_features(
    root: str | os.PathLike[str], split: str, videos: Sequence[str], streams: tuple[str, ...]
) -> Features:
    """Read the features of some videos of one split into packed float32 arrays.

    Args:
      root: folder in the layout described at the top of this module.
      split: folder below `features`, "train" or "test".
      videos: ids, in the order wanted.
      streams: feature streams, in the order wanted.

    Returns:
      One (snippets of all videos, dim) array a stream, and which rows each video has.

    Raises:
      DataError: no such split or stream, a file that cannot be used, or files that contradict each other.
      ValueError: `videos` is empty.

    Example:
      >>> from casejax import data
      >>> data.write_world("world", num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> videos = [video.id for video in data.read_dataset("world").train.videos[:2]]
      >>> features = data.read_features("world", "train", videos, ("rgb",))
      >>> features.streams[0].shape == (features.lengths.sum(), 8)
      True
    """
    if not videos:
        raise ValueError("videos is empty; name at least one")
    return load_features(survey_features({split: Path(root) / "features" / split}, {split: videos}, streams)[split])


def write_dataset(dataset: Dataset, root: str | os.PathLike[str]) -> None:
    """Write a data set in the layout that `read_dataset` reads; `root` must not exist yet.

    Everything goes into a folder beside `root` that is renamed at the end, so `root` is either complete
    or absent. Times are written as strings, as in the published file. `classes.txt` is written only if
    the training labels alone do not give the classes in their order.

    Raises:
      DataError: `root` exists, or the ids cannot be file names or are not unique.

    Example:
      >>> from casejax import data
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> data.write_dataset(world, "world")
      >>> data.read_dataset("world").streams
      ('rgb', 'flow')
    """
    root = Path(root)
    splits = {"train": dataset.train, "test": dataset.test}
    ids = {name: [video.id for video in split.videos] for name, split in splits.items()}
    for split_ids in ids.values():
        for video in split_ids:
            check_id(video, root)
    check_unique_ids(dataset, root)
    with whole_folder(root) as partial:
        videos = [video for split in splits.values() for video in split.videos]
        document = {"database": {video.id: _entry(video) for video in videos}}
        (partial / "gt.json").write_text(json.dumps(document), encoding="utf-8")
        if list(dataset.classes) != label_names(dataset.train.videos):
            _write_lines(partial / "classes.txt", dataset.classes)
        if dataset.timing != Timing():
            (partial / "features.json").write_text(json.dumps(_stated(dataset.timing)), encoding="utf-8")
        for name, split in splits.items():
            _write_lines(partial / f"split_{name}.txt", ids[name])
            for stream, packed in zip(dataset.streams, split.features.streams, strict=True):
                folder = partial / "features" / name / stream
                folder.mkdir(parents=True)
                for v, video in enumerate(ids[name]):
                    np.save(folder / f"{video}.npy", packed[split.features.rows(v)], allow_pickle=False)


def _entry(video: Video) -> dict[str, Any]:
    labels = [*video.segment_labels, *["Ambiguous"] * len(video.ambiguous)]
    annotations: list[dict[str, Any]] = [
        {"label": label, "segment": [repr(float(start)), repr(float(end))]}
        for label, (start, end) in zip(labels, [*video.segments, *video.ambiguous], strict=True)
    ]
    stated: dict[str, Any] = {} if video.duration is None else {"duration": float(video.duration)}
    if not video.timed:
        annotations += [{"label": label} for label in sorted(set(video.labels) - set(video.segment_labels))]
    elif video.stated_labels is not None:
        stated["labels"] = list(video.labels)
    return {"subset": video.subset, **stated, "annotations": annotations}


def _stated(timing: Timing) -> dict[str, Any]:
    """What `features.json` says of a timing."""
    if timing.rescaled:
        return {"rescaled": True}
    values = asdict(timing)
    return {key: values[key] for key in ("frames", "stride", "fps", "first_frame")}


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# What the files say of each other


def _warn_of_unlisted(gt: Path, listed: Sequence[str]) -> None:
    """Count annotated videos that no split lists; where an evaluation takes all of the file, none of them is found."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            videos = read_annotations(gt)
        except DataError:
            return  # an entry that nobody asks for cannot be read
    found = find_ids(listed, videos)
    rest = {video: len(entry.segments) for video, entry in videos.items() if video not in set(found.values())}
    if rest:
        message = (
            f"{gt}: {len(rest)} videos with {sum(rest.values())} instances are in no split: {first_three(list(rest))}"
        )
        warnings.warn(DataWarning(message, kind="no split", places=list(rest)), stacklevel=3)
