"""What is in a data set: counts of each split, what is odd in its labels, and how it compares with published counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from casejax.errors import DataWarning
from casejax.records import Dataset, Split

FEW_ROWS = 10  # rows below which a video is counted as short
NESTED_FROM = 5  # instances from which a class that always comes with another is called nested


@dataclass(frozen=True)
class Inventory:
    """Counts of one split; times in seconds where nothing else is said.

    Attributes:
      videos: how many.
      labelled: those with video-level labels.
      timed: those whose instances are all annotated.
      classes: classes that occur among the labels.
      instances: annotated instances.
      labels_per_video: mean over the labelled videos.
      rows: rows of features in all, of the shortest, median and longest video.
      hours: that the rows cover.
      foreground: mean share of a timed video that its instances cover; NaN without any.
      instance_seconds: mean and median length of an instance; NaN without any.
      by_class: instances of each class.
    """

    videos: int
    labelled: int
    timed: int
    classes: int
    instances: int
    labels_per_video: float
    rows: tuple[int, int, float, int]
    hours: float
    foreground: float
    instance_seconds: tuple[float, float]
    by_class: dict[str, int]


def take_inventory(dataset: Dataset, split: Split) -> Inventory:
    """Count what is in one split of a data set."""
    covered = split.features.lengths * dataset.row_seconds(split)
    lengths = split.features.lengths
    labelled = [video for video in split.videos if video.labels]
    segments = np.concatenate([np.empty((0, 2)), *(video.segments for video in split.videos)])
    seconds = segments[:, 1] - segments[:, 0]
    foreground = [
        _union(video.segments, float(end)) / float(end)
        for video, end in zip(split.videos, covered, strict=True)
        if video.timed and end > 0
    ]
    return Inventory(
        len(split.videos),
        len(labelled),
        int(split.timed.sum()),
        len({label for video in labelled for label in video.labels}),
        len(segments),
        float(np.mean([len(video.labels) for video in labelled])) if labelled else float("nan"),
        (int(lengths.sum()), int(lengths.min()), float(np.median(lengths)), int(lengths.max()))
        if len(lengths)
        else (0, 0, 0.0, 0),
        float(covered.sum() / 3600),
        float(np.mean(foreground)) if foreground else float("nan"),
        (float(seconds.mean()), float(np.median(seconds))) if len(seconds) else (float("nan"), float("nan")),
        dict(Counter(label for video in split.videos for label in video.segment_labels)),
    )


def _union(segments: np.ndarray, end: float) -> float:
    """Seconds of [0, end) that segments cover together."""
    total = reached = 0.0
    for start, stop in np.clip(segments[np.argsort(segments[:, 0], kind="stable")], 0.0, end).tolist():
        total += max(stop - max(start, reached), 0.0)
        reached = max(reached, stop)
    return total


def oddities(dataset: Dataset) -> Iterator[DataWarning]:
    """What is odd in the labels and instances of a data set, whatever its features."""
    videos = [video for split in (dataset.train, dataset.test) for video in split.videos]
    apart = [
        video.id
        for video in videos
        if video.timed and len(video.segments) and set(video.labels) != set(video.segment_labels)
    ]
    if apart:
        yield _found("label sources", f"{len(apart)} videos have other labels than their instances", apart)
    doubled = {video.id: _doubled(video.segments, video.segment_labels) for video in videos}
    doubled = {video: count for video, count in doubled.items() if count}
    if doubled:
        count = sum(doubled.values())
        yield _found("duplicates", f"{count} instances repeat another of their class in {len(doubled)} videos", doubled)
    ids = Counter(video.id.removeprefix("v_") for video in videos)
    if twice := [video for video, count in ids.items() if count > 1]:
        yield _found("videos twice", f"{len(twice)} videos are in both splits or twice in one", twice)
    if short := [
        video.id
        for split in (dataset.train, dataset.test)
        for video, length in zip(split.videos, split.features.lengths, strict=True)
        if 0 < length < FEW_ROWS
    ]:
        yield _found("short videos", f"{len(short)} videos have fewer than {FEW_ROWS} rows", short)
    counts = Counter(label for video in dataset.train.videos for label in video.labels)
    if rare := [name for name in dataset.classes if counts[name] < 2]:
        yield _found("rare classes", f"{len(rare)} classes have fewer than two training videos", rare)


def _found(kind: str, sentence: str, places: Mapping[str, int] | list[str]) -> DataWarning:
    names = list(places)
    more = f" (and {len(names) - 3} more)" if len(names) > 3 else ""
    return DataWarning(f"{sentence}: {', '.join(names[:3])}{more}", kind=kind, places=names)


def _doubled(segments: np.ndarray, labels: tuple[str, ...]) -> int:
    rows = [(label, *segment) for label, segment in zip(labels, segments.tolist(), strict=True)]
    return len(rows) - len(set(rows))


def nestings(dataset: Dataset) -> list[tuple[str, str, int]]:
    """Pairs of classes of which every instance of the first is one of the second too, with the number of instances."""
    total: Counter[str] = Counter()
    together: Counter[tuple[str, str]] = Counter()
    for split in (dataset.train, dataset.test):
        for video in split.videos:
            by_segment: dict[tuple[float, ...], set[str]] = {}
            for label, segment in zip(video.segment_labels, video.segments.tolist(), strict=True):
                by_segment.setdefault(tuple(segment), set()).add(label)
            for labels in by_segment.values():
                total.update(labels)
                together.update((one, other) for one in labels for other in labels if one != other)
    return sorted(
        (one, other, count)
        for (one, other), count in together.items()
        if count == total[one] >= NESTED_FROM and total[other] > count
    )


class Published(NamedTuple):
    """The counts of one list of videos of a published data set.

    Attributes:
      who: who uses it.
      videos: how many.
      instances: annotated in them; None where it is not known.
    """

    who: str
    videos: int
    instances: int | None


class Known(NamedTuple):
    """A published data set, known by its classes."""

    name: str
    classes: int
    some: frozenset[str]  # classes that it has
    train: tuple[Published, ...]
    test: tuple[Published, ...]


KNOWN = (
    Known(
        "THUMOS14",
        20,
        frozenset({"BaseballPitch", "CleanAndJerk", "CliffDiving", "Diving", "VolleyballSpiking"}),
        (Published("all programs", 200, 3007),),
        (
            Published("the challenge", 213, 3358),
            Published("W-TALC, CO2-Net, DELU, RSKP; ACM-Net", 212, 3358),
            Published("OpenTAD, ActionFormer", 211, 3329),
            Published("BaS-Net, CoLA, ASL, AICL, CASE", 210, 3311),
            Published("A2CL-PT", 210, 3234),
        ),
    ),
    Known(
        "ActivityNet 1.3",
        200,
        frozenset({"Archery", "Polishing forniture", "Volleyball", "Zumba"}),
        (
            Published("the official list", 10024, None),
            Published("BSN, OpenTAD", 9649, 14859),
            Published("ACM-Net", 9032, None),
        ),
        (
            Published("the official list", 4926, None),
            Published("BSN, OpenTAD", 4728, 7293),
            Published("ACM-Net", 4427, None),
        ),
    ),
    Known(
        "ActivityNet 1.2",
        100,
        frozenset({"Archery", "Playing volleyball", "Zumba"}),
        (Published("the official list", 4819, None),),
        (Published("the official list", 2383, None),),
    ),
)
"""Counts of annotation files in circulation, by data set."""


def compare_with_published(dataset: Dataset) -> list[str]:
    """A sentence a split on which published list it is, or how far from the nearest; none for other data sets."""
    known = [each for each in KNOWN if len(dataset.classes) == each.classes and each.some <= set(dataset.classes)]
    lines = []
    for name, train, test in ((each.name, each.train, each.test) for each in known):
        for split, lists in ((dataset.train, train), (dataset.test, test)):
            videos = len(split.videos)
            instances = sum(len(video.segments) for video in split.videos)
            best = min(lists, key=lambda one: (abs(one.videos - videos), abs((one.instances or instances) - instances)))
            same = best.videos == videos and best.instances in (None, instances)
            stated = "" if best.instances is None else f", {best.instances:,} instances"
            lines.append(
                f"{split.name}: {videos:,} videos, {instances:,} instances, "
                f"{'as in' if same else 'not as in'} {name} by {best.who} ({best.videos:,} videos{stated})"
            )
    return lines
