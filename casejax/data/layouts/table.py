"""A data set of one's own: a folder of features and a table of what the videos contain.

    LABELS.csv      video,label         a row a video and label; several labels also as `a;b`; a label may be missing
                                        where the video is for testing
    more columns    split               train or test
                    start,end           seconds, of an instance, where they are known
                    duration            seconds, of the video
    FEATURES        as `feature_files` says; `features.json` in it says what a row stands for

A comma separates columns, or a tab. Nothing needs times: a training video has labels, a test video need not have any.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Unpack

import numpy as np

from casejax.data.layouts.annotations import find_ids, parse_oddity, parse_seconds, read_split
from casejax.data.layouts.arrays import SUFFIXES
from casejax.data.layouts.assemble import (
    SPLITS,
    ReadOptions,
    assemble,
    check_labels,
    given_timing,
    settle_classes,
)
from casejax.data.layouts.checks import Remarks, check_id, first_three, raise_first
from casejax.data.layouts.feature_files import find_streams, list_videos
from casejax.data.layouts.folders import WORDS
from casejax.data.layouts.timing import check_durations, read_provenance, settle_timing
from casejax.errors import DataError, DataWarning, OptionError
from casejax.records import Dataset, Video
from casejax.runtime import reading


@dataclass(frozen=True)
class Splitting:
    """Which videos are for testing: by the column `split` of the table, by lists, or a share drawn by chance.

    Attributes:
      train: a file with the ids of the training videos; default those that are not for testing.
      test: a file with the ids of the test videos.
      share: of the videos with labels that are set aside for testing, in [0, 1); every class keeps one for training.
      seed: of the draw.
      only_test: all videos are for testing where neither the table nor the others say anything.
    """

    train: Path | None = None
    test: Path | None = None
    share: float = 0.0
    seed: int = 0
    only_test: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise OptionError(f"test share must lie in [0, 1), got {self.share}")
        if self.share and (self.train or self.test):
            raise OptionError("a test share and lists of videos exclude each other; give one of them")


def read_table(
    features: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    *,
    splitting: Splitting = Splitting(),
    classes: Sequence[str] | None = None,
    accept_labels: bool = False,
    **options: Unpack[ReadOptions],
) -> Dataset:
    r"""Read and check a data set of one's own.

    Args:
      features: folder with a file a video, with a folder a stream, or a file of HDF5.
      labels: the table.
      splitting: which videos are for testing; the column `split` goes without.
      classes: names, which fix the classes and their order; default the sorted labels of the training videos.
      accept_labels: take labels as they are that occur once and are nearly another.
      **options: `assemble.ReadOptions`.

    Raises:
      DataError: a file that cannot be used; a label that occurs once and is nearly another; features that are missing.
      OptionError: options that exclude each other.

    Warns:
      DataWarning: features that no row names, videos of no split, times that are odd or do not fit the features.

    Example:
      >>> import numpy as np
      >>> from pathlib import Path
      >>> from casejax import data
      >>> Path("features").mkdir()
      >>> for name in ("a", "b"):
      ...     np.save(f"features/{name}.npy", np.ones((5, 2), np.float32))
      >>> _ = Path("labels.csv").write_text("video,label,split\na,Dive,train\nb,Dive,test\n")
      >>> dataset = data.read_table("features", "labels.csv")
      >>> dataset.classes, len(dataset.train.videos), len(dataset.test.videos)
      (('Dive',), 1, 1)
    """
    features, labels, given = Path(features), Path(labels), given_timing(options)
    streams = options.get("streams")
    if streams is None:
        streams = find_streams(features)
    there = list_videos(features, streams)
    table = _read_rows(labels, accept_labels)
    ids = _split(table, splitting, labels)
    remarks = Remarks()
    index = _feature_ids([*table, *(video for split in SPLITS for video in ids[split])], there)
    videos: dict[str, list[Video]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for video in ids[split]:
            videos[split].append(table.get(video, _Entry()).record(index.get(video, video), split, remarks))
    remarks.warn(labels)
    if not videos["train"] and not splitting.only_test:
        raise DataError(f"{labels}: names no training video; give some the split train, or leave the column out")
    check_labels(videos["train"], labels, "give it the split test")
    names = settle_classes(classes, videos, source=labels, path="--classes")
    _warn_of_extra(there, set(index.values()), labels)
    root = features if features.is_dir() else features.parent
    timing = settle_timing(root, given)
    check_durations(timing, [video for split in SPLITS for video in videos[split]], labels)
    folders = {split: features for split in SPLITS}
    dataset = assemble(features, videos, names, folders, timing, {**options, "streams": streams})
    return replace(dataset, provenance=read_provenance(root))


@dataclass
class _Entry:
    """What the rows of one video say."""

    labels: list[str] = field(default_factory=list)
    instances: list[tuple[str, tuple[float, float]]] = field(default_factory=list)
    timeless: bool = True
    splits: set[str] = field(default_factory=set)
    durations: set[float] = field(default_factory=set)

    def record(self, video: str, split: str, remarks: Remarks) -> Video:
        """The record of the video."""
        duration = next(iter(self.durations), None)
        kept = []
        for label, segment in self.instances:
            kind = parse_oddity(segment, duration)
            if kind:
                remarks.add(kind, f"{video} {list(segment)}")
            if kind != "empty":
                kept.append((label, segment))
        if self.timeless and kept:
            remarks.add("whole label", video)
        return Video(
            video,
            split,
            np.asarray([segment for _, segment in kept], np.float64).reshape(-1, 2),
            tuple(label for label, _ in kept),
            duration,
            stated_labels=tuple(sorted(set(self.labels))),
            timed=not self.timeless,
        )


def _read_rows(path: Path, accept_labels: bool) -> dict[str, _Entry]:
    """The rows of the table, gathered by video."""
    lines = reading.read_table(path)
    header = [cell.strip().lower() for cell in (lines[0][1] if lines else [])]
    header = ["label" if cell == "labels" else cell for cell in header]
    if not {"video", "label"} <= set(header) or len(set(header)) < len(header):
        first = ",".join(lines[0][1]) if lines else ""
        raise DataError(f"{path}: first line {first!r} does not name the columns; write video,label there")
    if ("start" in header) != ("end" in header):
        raise DataError(f"{path}: has one of the columns start and end; write both, or neither")
    entries: dict[str, _Entry] = {}
    spelt: dict[str, set[str]] = {}
    for number, cells in lines[1:]:
        where = f"{path}: line {number}"
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(header):
            raise DataError(f"{where}: {len(cells)} cells for {len(header)} columns; put cells with commas into quotes")
        row = dict(zip(header, [*cells, *[""] * (len(header) - len(cells))], strict=True))
        video = row["video"].strip()
        check_id(video, path)
        entry = entries.setdefault(video, _Entry(timeless=False))
        for label in row["label"].split(";"):
            if label.strip():
                spelt.setdefault(label.lstrip(), set()).add(video)  # a space after a separator is usual
        _add_row(entry, row, where)
    if not entries:
        raise DataError(f"{path}: lists no video; write a line a video, such as clip_001,Dive")
    raise_first(
        f"{path}: video {video!r} is in the splits {' and '.join(sorted(entry.splits))}; keep one"
        for video, entry in entries.items()
        if len(entry.splits) > 1
    )
    raise_first(
        f"{path}: video {video!r} has the durations {sorted(entry.durations)}; keep one"
        for video, entry in entries.items()
        if len(entry.durations) > 1
    )
    if not accept_labels:
        raise_first(_doubts({label: len(videos) for label, videos in spelt.items()}, path))
    return entries


def _add_row(entry: _Entry, row: Mapping[str, str], where: str) -> None:
    labels = [label.strip() for label in row["label"].split(";") if label.strip()]
    times = [row.get(column, "").strip() for column in ("start", "end")]
    if any(times) and not labels:
        raise DataError(f"{where}: times {times} without a label; write the label, or remove the times")
    if any(times):
        start, end = (parse_seconds(time, where) for time in times)
        entry.instances += [(label, (start, end)) for label in labels]
    else:
        entry.timeless = True
    entry.labels += labels
    if split := row.get("split", "").strip().lower():
        if split not in WORDS:
            raise DataError(f"{where}: split {split!r} is unknown; write train or test")
        entry.splits.add(WORDS[split])
    if duration := row.get("duration", "").strip():
        seconds = parse_seconds(duration, f"{where}, duration")
        if seconds <= 0:
            raise DataError(f"{where}: duration {duration} is not positive; write seconds, or leave it empty")
        entry.durations.add(seconds)


# Splits


def _split(table: Mapping[str, _Entry], splitting: Splitting, path: Path) -> dict[str, list[str]]:
    """The ids of the videos of each split."""
    stated = any(entry.splits for entry in table.values())
    if stated and (splitting.train or splitting.test or splitting.share):
        raise OptionError(f"{path} has the column split; leave out lists of videos and the test share, or the column")
    if splitting.train or splitting.test:
        return _split_by_lists(table, splitting)
    if splitting.share:
        return _draw(table, splitting)
    if not stated:
        return {"train": [], "test": list(table)} if splitting.only_test else {"train": list(table), "test": []}
    words = {word for entry in table.values() for word in entry.splits}
    if "val" in words and "test" in words:
        left = [video for video, entry in table.items() if "val" in entry.splits]
        message = f"{path}: {len(left)} videos of the split val are neither trained nor tested on: {first_three(left)}"
        warnings.warn(DataWarning(message, kind="no split", places=left), stacklevel=4)
    test = "test" if "test" in words else "val"
    blank = [video for video, entry in table.items() if not entry.splits]
    if blank:
        raise DataError(f"{path}: no split for {first_three(blank)}; write train or test in every row of the column")
    return {
        "train": [video for video, entry in table.items() if "train" in entry.splits],
        "test": [video for video, entry in table.items() if test in entry.splits],
    }


def _split_by_lists(table: Mapping[str, _Entry], splitting: Splitting) -> dict[str, list[str]]:
    listed = {
        split: [Path(video).stem if Path(video).suffix in SUFFIXES else video for video in read_split(path)]
        for split, path in (("train", splitting.train), ("test", splitting.test))
        if path
    }
    if "train" not in listed:
        listed["train"] = [video for video in table if video not in set(listed["test"])]
    if "test" not in listed:
        listed["test"] = [video for video in table if video not in set(listed["train"])]
    shared = sorted(set(listed["train"]) & set(listed["test"]))
    raise_first(f"{splitting.test}: lists {video!r}, which {splitting.train} lists too; keep one" for video in shared)
    return listed


def _draw(table: Mapping[str, _Entry], splitting: Splitting) -> dict[str, list[str]]:
    """A share of the videos by chance; every class keeps a training video."""
    names = list(table)
    remaining = Counter(label for entry in table.values() for label in set(entry.labels))
    test: set[str] = {video for video, entry in table.items() if not entry.labels}
    goal = len(test) + round(splitting.share * (len(names) - len(test)))
    for v in np.random.default_rng(splitting.seed).permutation(len(names)):
        own = set(table[names[v]].labels)
        if len(test) < goal and own and all(remaining[label] > 1 for label in own):
            test.add(names[v])
            remaining.subtract(own)
    return {"train": [v for v in names if v not in test], "test": [v for v in names if v in test]}


# What the files say of each other


def _feature_ids(wanted: Iterable[str], there: Sequence[str]) -> dict[str, str]:
    """The feature file's name of each video of the table, which may have `v_` before it, or a suffix behind."""
    wanted = list(dict.fromkeys(wanted))
    found = find_ids(wanted, there)
    rest = {Path(video).stem: video for video in wanted if video not in found and Path(video).suffix}
    return found | {rest[stem]: place for stem, place in find_ids(rest, there).items()}


def _warn_of_extra(there: Sequence[str], used: set[str], path: Path) -> None:
    extra = [video for video in there if video not in used]
    if extra:
        message = f"{len(extra)} feature files are of videos that {path} does not list, and are not used: "
        warnings.warn(DataWarning(message + first_three(extra), kind="extra features", places=extra), stacklevel=4)


def _doubts(counts: Mapping[str, int], path: Path) -> Iterator[str]:
    """A question for every label that one video has and that is nearly another."""
    for label, count in counts.items():
        near = [other for other in counts if other != label and counts[other] >= count and nearly(label, other)]
        if count == 1 and near:
            other = max(near, key=lambda name: counts[name])
            yield (
                f"{path}: the label {label!r} occurs once and is nearly {other!r} ({counts[other]} videos); correct "
                "it, or pass --accept-labels if both are meant"
            )


def nearly(first: str, second: str) -> bool:
    """Whether two names may be one, misspelt: they differ in case, spaces and signs alone, or in a letter or two.

    Names that differ in digits are different.
    """
    one, two = (re.sub(r"[\W_]+", "", name.casefold()) for name in (first, second))
    if one == two:
        return True
    if re.sub(r"\d", "", one) == re.sub(r"\d", "", two):
        return False
    short = min(len(one), len(two))
    return short >= 4 and _edits(one, two) <= (2 if short >= 9 else 1)


def _edits(one: str, two: str) -> int:
    """Letters to insert, delete, replace or swap with their neighbour, to get from one name to the other.

    References:
      Damerau, "A technique for computer detection and correction of spelling errors", 1964.
    """
    before: list[int] = []
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        new = [i]
        for j, b in enumerate(two, 1):
            cost = min(row[j] + 1, new[-1] + 1, row[j - 1] + (a != b))
            if i > 1 and j > 1 and a == two[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            new.append(cost)
        before, row = row, new
    return row[-1]
