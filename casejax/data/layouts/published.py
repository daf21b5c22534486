"""Read, check and write the folder layout in which snippet features are published.

    ROOT/gt.json                            {"database": {ID: {"subset", "annotations", "duration"?}}}
    ROOT/split_train.txt, split_test.txt    one video id a line
    ROOT/classes.txt                        optional: one class name a line, in the order wanted
    ROOT/features/SPLIT/STREAM/ID.npy       (snippets, dim), float16, float32 or float64

Every defect is a `DataError` raised here, before anything is trained on it. The header of every feature
file is checked before the first one is read in full. Pickles are never loaded.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from casejax.data.layouts.annotations import read_annotations, read_lines, read_split
from casejax.data.layouts.checks import check_id, check_memory, check_unique_ids, first_three, raise_first, repeated
from casejax.data.layouts.feature_files import load_features, pack_features, survey_features
from casejax.errors import DataError
from casejax.records import SNIPPET_SECONDS, Dataset, Features, Split, Video, videos_of_part
from casejax.runtime.files import whole_folder

SPLITS = ("train", "test")
DURATION_MISMATCH = 0.2  # share of the stated duration by which the features may miss it unremarked


class DurationMismatchWarning(UserWarning):
    """Stated durations and feature lengths disagree, so predicted times may be wrong."""


def read_dataset(
    root: str | os.PathLike[str],
    *,
    streams: tuple[str, ...] = ("rgb", "flow"),
    snippet_seconds: float = SNIPPET_SECONDS,
    packed: Path | None = None,
    packed_dtype: str = "float32",
    part: int = 0,
    parts: int = 1,
) -> Dataset:
    """Read and check a whole data set.

    Args:
      root: folder in the layout described at the top of this module.
      streams: feature streams to read, in this order; one is enough.
      snippet_seconds: seconds one snippet covers.
      packed: folder where features are packed once into memory-mapped files (`casejax.data.store`), which
        later calls open instead of reading the features again; default: features are read into memory.
      packed_dtype: "float32" or "bfloat16", the type packed features are stored in.
      part: which part of the data this process reads the features of, of `parts` in all: a contiguous part of
        the training videos (`records.videos_of_part`), and, for part 0, the test videos. All annotations are
        read.
      parts: processes that read; default this one alone.

    Returns:
      Both splits, features end to end. The classes are those of `classes.txt`, otherwise the sorted labels of
      the training videos.

    Raises:
      DataError: anything in the folder, or in `streams`, that cannot be used.
      ValueError: `snippet_seconds` is not positive and finite.

    Warns:
      DurationMismatchWarning: features cover more than 20 % more or less than a stated duration.
    """
    root = Path(root)
    if not (math.isfinite(snippet_seconds) and snippet_seconds > 0):
        raise ValueError(f"snippet_seconds must be positive and finite, got {snippet_seconds}")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; pass the one that holds gt.json, split files and features")
    ids = {split: read_split(root / f"split_{split}.txt") for split in SPLITS}
    _check_disjoint(ids, root)
    annotations = read_annotations(root / "gt.json")
    videos = {split: _annotated(root, split, ids[split], annotations) for split in SPLITS}
    classes = _classes(root, videos)
    own = {
        "train": list(videos_of_part(len(ids["train"]), part, parts)),
        "test": list(range(len(ids["test"]))) if part == 0 else [],
    }
    if not own["train"]:
        raise DataError(f"{root}: {len(ids['train'])} training videos leave none to process {part} of {parts}")
    own_ids = {split: [ids[split][v] for v in own[split]] for split in SPLITS}
    surveys = survey_features(root, own_ids, streams)  # both splits, before either is read
    if packed is None:
        remedy = "name a folder with room in --packed, and they are packed there and streamed"
        check_memory(root, sum(survey.values for survey in surveys.values()), remedy)
    found = []
    for split in SPLITS:
        name = split if parts == 1 else f"{split}-{part + 1}of{parts}"
        features = (
            load_features(surveys[split])
            if packed is None
            else pack_features(packed, name, surveys[split], packed_dtype)
        )
        found.append(Split(split, videos[split], _among(features, own[split], len(videos[split]))))
    train, test = found
    _warn_of_durations((train, test), snippet_seconds)
    return Dataset(str(root), classes, streams, train, test, snippet_seconds)


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
    """
    if not videos:
        raise ValueError("videos is empty; name at least one")
    return load_features(survey_features(Path(root), {split: videos}, streams)[split])


def write_dataset(dataset: Dataset, root: str | os.PathLike[str]) -> None:
    """Write a data set in the layout that `read_dataset` reads; `root` must not exist yet.

    Everything goes into a folder beside `root` that is renamed at the end, so `root` is either complete
    or absent. Times are written as strings, as in the published file. `classes.txt` is written only if
    the training labels alone do not give the classes in their order.

    Raises:
      DataError: `root` exists, or the ids cannot be file names or are not unique.
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
        if list(dataset.classes) != _labels(dataset.train.videos):
            _write_lines(partial / "classes.txt", dataset.classes)
        for name, split in splits.items():
            _write_lines(partial / f"split_{name}.txt", ids[name])
            for stream, packed in zip(dataset.streams, split.features.streams, strict=True):
                folder = partial / "features" / name / stream
                folder.mkdir(parents=True)
                for v, video in enumerate(ids[name]):
                    np.save(folder / f"{video}.npy", packed[split.features.rows(v)], allow_pickle=False)


def _entry(video: Video) -> dict[str, Any]:
    annotations = [
        {"label": label, "segment": [repr(float(start)), repr(float(end))]}
        for label, (start, end) in zip(video.segment_labels, video.segments, strict=True)
    ]
    stated = {} if video.duration is None else {"duration": float(video.duration)}
    return {"subset": video.subset, **stated, "annotations": annotations}


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# What the files say of each other


def _check_disjoint(ids: Mapping[str, Sequence[str]], root: Path) -> None:
    train, test = (root / f"split_{split}.txt" for split in SPLITS)
    shared = sorted(set(ids["train"]) & set(ids["test"]))
    raise_first(f"{train} and {test} both list {video!r}; remove it from one of them" for video in shared)


def _annotated(root: Path, split: str, ids: Sequence[str], annotations: Mapping[str, Video]) -> tuple[Video, ...]:
    gt, listed = root / "gt.json", root / f"split_{split}.txt"
    absent = [video for video in ids if video not in annotations]
    if absent:
        raise DataError(f"{gt}: no entry for {first_three(absent)}; add it or take it out of {listed}")
    videos = tuple(annotations[video] for video in ids)
    if split == "train":
        blank = [video.id for video in videos if not video.labels]
        if blank:
            raise DataError(
                f"{gt}: no annotation, hence no label to learn from, for {first_three(blank)}; "
                f"annotate it or take it out of {listed}"
            )
    return videos


def _labels(videos: Iterable[Video]) -> list[str]:
    return sorted({label for video in videos for label in video.labels})


def _classes(root: Path, videos: Mapping[str, Sequence[Video]]) -> tuple[str, ...]:
    path = root / "classes.txt"
    listed = path.exists()
    classes = read_lines(path) if listed else _labels(videos["train"])
    if not classes:
        raise DataError(f"{path}: lists 0 classes; write one class name a line, or remove the file")
    raise_first(f"{path}: lists {name!r} more than once; keep one of the lines" for name in repeated(classes))
    reason = "which that file does not list" if listed else "which no training video has"
    raise_first(
        f"{root / 'gt.json'}: {split} video {video.id!r} has the label {label!r}, {reason}; "
        f"{'add it to' if listed else 'list all classes in'} {path} or fix the annotation"
        for split in SPLITS
        for video in videos[split]
        for label in video.labels
        if label not in classes
    )
    return tuple(classes)


def _warn_of_durations(splits: Iterable[Split], snippet_seconds: float) -> None:
    off = [
        video.id
        for split in splits
        for video, length in zip(split.videos, split.features.lengths, strict=True)
        if video.duration is not None
        and length
        and abs(length * snippet_seconds - video.duration) > DURATION_MISMATCH * video.duration
    ]
    if off:
        warnings.warn(
            f"features of {len(off)} videos miss the stated duration by more than {DURATION_MISMATCH:.0%} at "
            f"{snippet_seconds:g} s a snippet: {first_three(off)}; check snippet_seconds and the durations",
            DurationMismatchWarning,
            stacklevel=3,
        )


def _among(features: Features, own: Sequence[int], num_videos: int) -> Features:
    """Features of all videos of a split, of which the given ones are here."""
    starts, lengths = np.zeros((2, num_videos), np.int64)
    starts[own], lengths[own] = features.starts, features.lengths
    return Features(features.streams, starts, lengths)
