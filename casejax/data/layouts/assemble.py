"""From the videos of two splits and folders of features to a data set: what all layouts with feature files share."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from casejax.data.layouts.arrays import Arrangement, read_header
from casejax.data.layouts.checks import check_memory, first_three, raise_first, repeated
from casejax.data.layouts.consistency import warn_of_times
from casejax.data.layouts.feature_files import (
    feature_files,
    find_sources,
    find_streams,
    load_features,
    load_features_file,
    pack_features,
    survey_features,
)
from casejax.data.layouts.timing import timing_of
from casejax.errors import DataError, DataWarning, OptionError
from casejax.records import Dataset, Features, Split, Timing, Video, videos_of_part

SPLITS = ("train", "test")


class ReadOptions(TypedDict, total=False):
    """How the features of a data set are read, whatever its layout.

    Attributes:
      streams: feature streams, in this order; one is enough. Default: all that there are.
      snippet_seconds: seconds that a row stands for, from the start of the video on.
      timing: the same, with all that can be known of it. Default: what the data set says (`layouts.timing`).
      arrangement: what the axes of the arrays are; default (snippets, dim).
      packed: folder where features are packed once into memory-mapped files (`casejax.data.store`), which later calls
        open instead of reading the features again; default: features are read into memory.
      packed_dtype: "float32" or "bfloat16", the type packed features are stored in.
      part: which part of the data this process reads the features of, of `parts` in all: a contiguous part of the
        training videos (`records.videos_of_part`), and, for part 0, the test videos. All annotations are read.
      parts: processes that read; default this one alone.
      lenient: videos whose features are missing or cannot be used are left out, and features that no split names are
        counted, each in one `DataWarning`; default: the first that is missing is a `DataError`.
      headers_only: values are not read; features are zeros that take no memory.
    """

    streams: tuple[str, ...] | None
    snippet_seconds: float | None
    timing: Timing | None
    arrangement: Arrangement
    packed: Path | None
    packed_dtype: str
    part: int
    parts: int
    lenient: bool
    headers_only: bool


def given_timing(options: ReadOptions) -> Timing | None:
    """The timing that the options state, None where they don't.

    Raises:
      OptionError: seconds that are not positive and finite, or stated beside a timing.
    """
    timing, seconds = options.get("timing"), options.get("snippet_seconds")
    if timing is not None and seconds is not None:
        raise OptionError(f"state snippet_seconds or timing, not both; got {seconds} and {timing}")
    return timing or timing_of(snippet_seconds=seconds)


def assemble(
    root: Path,
    videos: Mapping[str, Sequence[Video]],
    classes: tuple[str, ...],
    folders: Mapping[str, Path],
    timing: Timing,
    options: ReadOptions,
) -> Dataset:
    """Read the features of both splits; headers are checked before the first file is read in full.

    Args:
      root: where the data set is, for messages.
      videos: those of each split; "test" may have none.
      classes: class names.
      folders: where the features of each split are.
      timing: as settled.
      options: how they are read.

    Raises:
      DataError: features that cannot be used, or more than there is memory for.

    Warns:
      DataWarning: rows, durations and annotations that do not fit each other.
    """
    part, parts, packed = options.get("part", 0), options.get("parts", 1), options.get("packed")
    streams = options.get("streams")
    if streams is None:
        streams = find_streams(folders["train" if videos["train"] else "test"])
    arrangement, headers_only = options.get("arrangement", Arrangement()), options.get("headers_only", False)
    if options.get("lenient"):
        videos = _usable(videos, folders, streams, arrangement, values=not headers_only)
    own = {
        "train": list(videos_of_part(len(videos["train"]), part, parts)),
        "test": list(range(len(videos["test"]))) if part == 0 else [],
    }
    if videos["train"] and not own["train"]:
        raise DataError(f"{root}: {len(videos['train'])} training videos leave none to process {part} of {parts}")
    ids = {split: [videos[split][v].id for v in own[split]] for split in SPLITS}
    surveys = survey_features(folders, {split: ids[split] for split in SPLITS if videos[split]}, streams, arrangement)
    if packed is None and not headers_only:
        remedy = "name a folder with room in --packed, and they are packed there and streamed"
        check_memory(root, sum(survey.values for survey in surveys.values()), remedy)
    found = {}
    for split in SPLITS:
        if split not in surveys:
            dims = next(iter(surveys.values())).dims
            features = Features.end_to_end(tuple(np.empty((0, dim), np.float32) for dim in dims), [])
        elif headers_only:
            lengths, dims = surveys[split].lengths, surveys[split].dims
            features = Features.end_to_end(
                tuple(np.broadcast_to(np.float32(0), (sum(lengths), dim)) for dim in dims), lengths
            )
        elif packed is None:
            features = load_features(surveys[split])
        else:
            name = split if parts == 1 else f"{split}-{part + 1}of{parts}"
            features = pack_features(packed, name, surveys[split], options.get("packed_dtype", "float32"))
        found[split] = Split(split, tuple(videos[split]), _among(features, own[split], len(videos[split])))
    dataset = Dataset(str(root), classes, streams, found["train"], found["test"], timing)
    warn_of_times(dataset)
    return dataset


def _usable(
    videos: Mapping[str, Sequence[Video]],
    folders: Mapping[str, Path],
    streams: tuple[str, ...],
    arrangement: Arrangement,
    *,
    values: bool,
) -> dict[str, list[Video]]:
    """The videos whose features can be used; the others are counted, and features that no split names.

    Raises:
      DataError: no training video is left.
    """
    kept: dict[str, list[Video]] = {}
    missing, broken, used = [], {}, set()
    for split, listed in videos.items():
        kept[split] = []
        sources = find_sources(folders[split], [video.id for video in listed], streams) if listed else []
        for video, own in zip(listed, zip(*sources, strict=True), strict=False):
            used |= {source.path for source in own}
            if not all(source.path.is_file() for source in own):
                missing.append(video)
                continue
            try:
                shapes = [arrangement.shape(read_header(source), str(source)) for source in own]
                if len({rows for rows, _ in shapes}) > 1:
                    raise DataError(f"{own[0]}: streams differ in length, {[rows for rows, _ in shapes]}")
                if values:
                    for source in own:
                        load_features_file(source.path, arrangement=arrangement, key=source.key)
            except DataError as error:
                broken[video.id] = str(error)
                continue
            kept[split].append(video)
    instances = sum(len(video.segments) for video in missing)
    if missing:
        message = f"{len(missing)} videos with {instances} instances have no features and are left out: "
        _warn("missing features", message, [video.id for video in missing])
    if broken:
        message = (
            f"features of {len(broken)} videos cannot be used and are left out, first {next(iter(broken.values()))}: "
        )
        _warn("unreadable features", message, list(broken))
    extra = _extra(folders, streams, used)
    if extra:
        _warn("extra features", f"{len(extra)} feature files are of no video of a split: ", extra)
    if not kept["train"]:
        raise DataError(f"{folders['train']}: no training video has features that can be used; extract them")
    return kept


def _extra(folders: Mapping[str, Path], streams: tuple[str, ...], used: set[Path]) -> list[str]:
    places = {folder / stream for folder in folders.values() for stream in streams} | set(folders.values())
    there = [path for place in places if place.is_dir() for paths in feature_files(place).values() for path in paths]
    return sorted(str(path) for path in there if path not in used)


def _warn(kind: str, message: str, places: Iterable[str]) -> None:
    names = list(places)
    warnings.warn(DataWarning(message + first_three(names), kind=kind, places=names), stacklevel=5)


def _among(features: Features, own: Sequence[int], num_videos: int) -> Features:
    """Features of all videos of a split, of which the given ones are here."""
    starts, lengths = np.zeros((2, num_videos), np.int64)
    starts[own], lengths[own] = features.starts, features.lengths
    return Features(features.streams, starts, lengths)


def settle_classes(
    listed: Sequence[str] | None, videos: Mapping[str, Sequence[Video]], *, source: Path, path: Path | str
) -> tuple[str, ...]:
    """The classes of a data set: those of a list, otherwise the sorted labels of the training videos.

    Args:
      listed: the list; None where there is none.
      videos: of each split.
      source: file with the labels, for errors.
      path: the list's file, there or not, or the option that names it.

    Raises:
      DataError: no class, one listed twice, or a label outside of them.
    """
    classes = label_names(videos["train"]) if listed is None else list(listed)
    if not classes:
        raise DataError(f"{path}: lists 0 classes; write one class name a line, or remove the file")
    raise_first(f"{path}: lists {name!r} more than once; keep one of the lines" for name in repeated(classes))
    reason = "which no training video has" if listed is None else "which that file does not list"
    raise_first(
        f"{source}: {split} video {video.id!r} has the label {label!r}, {reason}; "
        f"{'list all classes in' if listed is None else 'add it to'} {path} or fix the annotation"
        for split in SPLITS
        for video in videos[split]
        for label in video.labels
        if label not in classes
    )
    return tuple(classes)


def label_names(videos: Iterable[Video]) -> list[str]:
    """All labels of videos, sorted."""
    return sorted({label for video in videos for label in video.labels})


def check_labels(videos: Iterable[Video], source: Path, remedy: str) -> None:
    """Refuse training videos without a label; `remedy` says how to take one out."""
    blank = [video.id for video in videos if not video.labels]
    if blank:
        raise DataError(
            f"{source}: no annotation, hence no label to learn from, for {first_three(blank)}; annotate it or {remedy}"
        )
