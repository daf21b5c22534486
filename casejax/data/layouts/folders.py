"""What the readers of published folders share: where files are, which videos are for training, which have features."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from casejax.data.layouts.annotations import find_ids, parse_video, read_lines, read_split
from casejax.data.layouts.assemble import SPLITS, ReadOptions, assemble, check_labels, given_timing, settle_classes
from casejax.data.layouts.checks import Remarks, check_streams, first_three, raise_first
from casejax.data.layouts.feature_files import find_streams, list_videos
from casejax.data.layouts.timing import check_durations, read_provenance, settle_timing
from casejax.errors import DataError, DataWarning
from casejax.records import Dataset, Timing, Video

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Parts of a data set, by the words for them, in lower case."""
BESIDE = ("annotations", "annotation", "*-Annotations", "*_annotations")
"""Folders in which annotation files are, where they are not beside the features."""

# Where files are


def check_folder(root: str | os.PathLike[str]) -> Path:
    """The folder of a data set; DataError where there is none."""
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name the folder of a data set")
    return root


def annotation_folders(root: Path) -> list[Path]:
    """The folders in which annotation files may be: that of the data set, and those for annotations in it."""
    return [root, *sorted({p for pattern in BESIDE for p in root.glob(pattern) if p.is_dir()})]


def find_file(root: Path, *patterns: str) -> Path | None:
    """The file that the first of several patterns finds in a folder, or in its folder of annotations.

    Raises:
      DataError: a pattern finds several.
    """
    folders = annotation_folders(root)
    for pattern in patterns:
        found = sorted(p for folder in folders for p in folder.glob(pattern) if p.name != "features.json")
        if len(found) > 1:
            raise DataError(f"{first_three([str(p) for p in found])}: more than one {pattern}; keep the one to read")
        if found:
            return found[0]
    return None


def need_file(root: Path, *patterns: str) -> Path:
    """`find_file`, of a file that must be there.

    Raises:
      DataError: there is none, or there are several.
    """
    found = find_file(root, *patterns)
    if found is None:
        raise DataError(f"{root}: no {' or '.join(patterns)} in it, or in its folder annotations; put it there")
    return found


def find_features(root: Path) -> dict[str, Path]:
    """The folder or file with the features of each split: `features`, or the only one whose name has "feature".

    Raises:
      DataError: there is none, or there are several.
    """
    own = root / "features"
    if not own.is_dir():
        found = [p for p in sorted(root.iterdir()) if p.suffix in (".h5", ".hdf5") or (p.is_dir() and _of_features(p))]
        if len(found) != 1:
            there = f", which has {first_three([p.name for p in found])}" if found else ""
            raise DataError(f"{root}: no folder features{there}; put one file of features a video into {own}")
        own = found[0]
    if all((own / split).is_dir() for split in SPLITS):
        return {split: own / split for split in SPLITS}
    return dict.fromkeys(SPLITS, own)


def _of_features(folder: Path) -> bool:
    return "feature" in folder.name.lower() or folder.name.startswith("csv_mean")


def read_categories(path: Path | None) -> list[str] | None:
    """The classes of a file with one a line, which may have a number before each; None without a file."""
    if path is None:
        return None
    lines = read_lines(path)
    parts = [line.split(maxsplit=1) for line in lines]
    numbered = bool(parts) and all(len(part) == 2 and part[0].isdigit() for part in parts)
    return [part[1] for part in parts] if numbered else lines


# Which videos are for training


def record(
    video: str,
    where: str,
    instances: Iterable[tuple[str, Sequence[Any]]],
    remarks: Remarks,
    *,
    subset: str,
    duration: Any = None,
    stated: list[str] | None = None,
) -> Video:
    """A video of a layout without JSON, by the rules of `annotations.parse_video`.

    Args:
      video: its id.
      where: file and video, for errors.
      instances: label and [start, end], seconds, of each.
      remarks: gains what is odd and used all the same.
      subset: the word for its part of the data set.
      duration: seconds.
      stated: video-level labels, where they are stated apart from instances.

    Raises:
      DataError: an instance that cannot be used.
    """
    annotations = [{"label": label, "segment": list(segment)} for label, segment in instances]
    entry: dict[str, Any] = {"subset": subset, "duration": duration, "annotations": annotations}
    return parse_video(video, entry if stated is None else {**entry, "labels": stated}, where, remarks)


def read_lists(root: Path) -> dict[str, tuple[str, ...]] | None:
    """The ids in `split_train.txt` and `split_test.txt` of a folder; None where there is no such list.

    Raises:
      DataError: one of the lists alone, lists that cannot be used, or a video in both.
    """
    paths = {split: root / f"split_{split}.txt" for split in SPLITS}
    if not any(path.exists() for path in paths.values()):
        return None
    ids = {split: read_split(path) for split, path in paths.items()}
    shared = find_ids(ids["train"], ids["test"])
    raise_first(f"{paths['train']} and {paths['test']} both list {v!r}; remove it from one of them" for v in shared)
    return ids


def split_by_lists(
    root: Path, lists: Mapping[str, Sequence[str]], videos: Mapping[str, Video], source: Path
) -> dict[str, tuple[Video, ...]]:
    """The videos that lists name, in their order.

    Args:
      root: folder with the lists, for errors.
      lists: ids of each split.
      videos: what was read, by the ids of the lists.
      source: the file it was read from, for errors.

    Raises:
      DataError: a video without an entry, or a training video without a label.
    """
    for split, ids in lists.items():
        if absent := [video for video in ids if video not in videos]:
            path = root / f"split_{split}.txt"
            raise DataError(f"{source}: no entry for {first_three(absent)}; add it or take it out of {path}")
    found = {split: tuple(videos[video] for video in ids) for split, ids in lists.items()}
    check_labels(found["train"], source, f"take it out of {root / 'split_train.txt'}")
    return found


def split_by_subset(videos: Iterable[Video], source: Path) -> dict[str, tuple[Video, ...]]:
    """The videos of each split by the word that the annotations have for their part of the data set.

    Without training videos, those for validation are for training, as in THUMOS14. Otherwise the test split are the
    videos for testing where those have labels, as in most sets, or those for validation, as in ActivityNet, which keeps
    the labels of its test videos secret.

    Raises:
      DataError: a word that is unknown, or no video to train on.

    Warns:
      DataWarning: videos without a label, which are left out; videos with labels in neither split.
    """
    parts: dict[str, list[Video]] = {"train": [], "val": [], "test": []}
    problems = []
    for video in videos:
        part = WORDS.get(video.subset.strip().lower())
        if part is None:
            problems.append(
                f"{source}: video {video.id!r}: subset {video.subset!r} is unknown; write training, validation or test"
            )
        else:
            parts[part].append(video)
    raise_first(problems)
    secret = not any(map(_known, parts["test"]))
    if not parts["train"]:
        train, test = parts["val"], parts["test"]
    else:
        train, test = parts["train"], parts["val"] if secret and parts["val"] else parts["test"]
        if not secret:
            unused = [video.id for video in parts["val"] if _known(video)]
            warn_of(
                unused, f"{source}: {len(unused)} videos for validation are neither trained nor tested on", "no split"
            )
    blank = [v.id for v in train if not v.labels] + [v.id for v in test if not _known(v)]
    warn_of(blank, f"{source}: {len(blank)} videos have no label and are left out", "no label")
    kept = {"train": tuple(v for v in train if v.labels), "test": tuple(v for v in test if _known(v))}
    if not kept["train"]:
        raise DataError(f"{source}: no video to train on; give some with labels the subset training")
    return kept


def split_videos(root: Path, videos: Iterable[Video], source: Path) -> dict[str, tuple[Video, ...]]:
    """The videos of each split, by the lists in a folder where there are some (`split_by_lists`), or else by subset.

    Raises:
      DataError: lists, or words for subsets, that cannot be used.

    Warns:
      DataWarning: as `split_by_subset`.
    """
    lists = read_lists(root)
    if lists is None:
        return split_by_subset(videos, source)
    there = {video.id: video for video in videos}
    places = find_ids((video for ids in lists.values() for video in ids), there)
    return split_by_lists(root, lists, {video: there[place] for video, place in places.items()}, source)


def _known(video: Video) -> bool:
    return bool(video.labels) or len(video.segments) > 0


def warn_of(places: Sequence[str], message: str, kind: str) -> None:
    """Warn of videos, if there are any; the message is completed by the first three of them."""
    if places:
        warnings.warn(DataWarning(f"{message}: {first_three(places)}", kind=kind, places=places), stacklevel=5)


# Which have features


def finish(
    root: Path,
    source: Path,
    videos: Mapping[str, Sequence[Video]],
    options: ReadOptions,
    *,
    classes: Sequence[str] | None = None,
    listed: Path | None = None,
    default: Timing = Timing(),
) -> Dataset:
    """The data set of annotated videos; those without features are left out.

    Args:
      root: folder of the data set.
      source: the file with the annotations, for messages.
      videos: those of each split.
      options: how features are read.
      classes: names in their order; default the sorted labels of the training videos.
      listed: the file they come from, or could come from, for messages.
      default: the time of rows where nobody states it.

    Raises:
      DataError: no features of a split, a label that is not among the classes, or features that cannot be used.
      OptionError: `snippet_seconds` is not positive and finite.

    Warns:
      DataWarning: videos without features; rows, durations and annotations that do not fit each other.
    """
    given, folders = given_timing(options), find_features(root)
    streams = options.get("streams")
    if streams is None:
        streams = find_streams(folders["train"])
    check_streams(streams)
    kept = _with_features(videos, folders, streams, source)
    names = settle_classes(classes, kept, source=source, path=listed or root / "classes.txt")
    places = [place for place in (root, folders["train"]) if (place / "features.json").is_file()]
    timing = settle_timing(places[0] if places else root, given, default=default)
    check_durations(timing, [video for split in SPLITS for video in kept[split]], source)
    dataset = assemble(root, kept, names, folders, timing, {**options, "streams": streams})
    return replace(dataset, provenance=read_provenance(places[0])) if places else dataset


def _with_features(
    videos: Mapping[str, Sequence[Video]], folders: Mapping[str, Path], streams: Sequence[str], source: Path
) -> dict[str, list[Video]]:
    kept, missing = {}, []
    for split in SPLITS:
        there = list_videos(folders[split], streams)
        found = find_ids([video.id for video in videos[split]], there) if there else {}
        if videos[split] and there and not found:
            raise DataError(
                f"{folders[split]}: features of none of the {len(videos[split])} {split} videos of {source}, such as "
                f"{videos[split][0].id!r}; it has {first_three(there)}; name the files after the videos"
            )
        # without any file in the folder of a stream, what reads them says what is wrong
        kept[split] = [video for video in videos[split] if video.id in found or not there]
        missing += [video.id for video in videos[split] if video.id not in found and there]
    total = sum(len(videos[split]) for split in SPLITS)
    message = f"{source}: {len(missing)} of {total} videos have no features in {folders['train']} and are left out"
    warn_of(missing, message, "no features")
    return kept
