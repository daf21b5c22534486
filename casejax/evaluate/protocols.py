"""The protocols by which published detection mAP is measured, as frozen records, and the way to judge under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args, get_type_hints

import numpy as np

from casejax.errors import OptionError
from casejax.evaluate.detection import (
    TIOUS,
    ClassMean,
    DetectionResult,
    Interpolation,
    Matching,
    Ties,
    as_table,
    average_precision,
    check_table,
    check_videos,
    match_detections,
)
from casejax.localize.arguments import check_number, takes
from casejax.records import SNIPPET_SECONDS, SegmentTable, bare_name

Units = Literal["seconds", "whole snippets", "snippets, whole ones for the ground truth"]
"""What times are compared in; halves are rounded to the even snippet."""

DUPLICATE_SECONDS = 1e-3
"""Of two instances of a class whose starts and ends both differ by no more, `unique_ground_truth` keeps the first."""


@dataclass(frozen=True)
class Protocol:
    """What a detection mAP is measured with; a number means nothing without it.

    `name`, `ground_truth`, `num_videos` and `label_source` describe the annotation to use, `averages` what to print;
    all other fields decide what `judge` computes.

    Attributes:
      name: name of the preset.
      ground_truth: the set of annotated videos.
      num_videos: how many these are, where that is fixed.
      label_source: where a video's classes come from.
      without: ids of videos that are left out of ground truth and predictions where they occur.
      unique_ground_truth: whether an instance that is annotated twice counts once.
      ambiguous_filter: whether predictions that touch ambiguous intervals are dropped.
      units: unit in which segments are compared.
      tious: tIoU thresholds.
      averages: (low, high) ranges of tIoU whose mean mAP is reported.
      matching: which ground truth a prediction takes.
      ties: order of equal scores, and of equal tIoU.
      interpolation: how precision is interpolated.
      class_mean: classes that the mean runs over. Where it leaves out classes without prediction, a class counts as
        predicted if it was before the ambiguous filter; where one such class makes the mean 0, after it.

    Raises:
      ValueError: a word that is none of those allowed.
    """

    name: str
    ground_truth: str
    label_source: str = "segment labels"
    without: tuple[str, ...] = ()
    unique_ground_truth: bool = False
    ambiguous_filter: bool = False
    units: Units = "seconds"
    tious: tuple[float, ...] = TIOUS
    averages: tuple[tuple[float, float], ...] = ((0.1, 0.5), (0.3, 0.7), (0.1, 0.7))
    matching: Matching = "best free ground truth"
    ties: Ties = "last listed first"
    interpolation: Interpolation = "interpolated at all points"
    class_mean: ClassMean = "classes with ground truth"
    num_videos: int | None = None

    def __post_init__(self) -> None:
        for field, hint in get_type_hints(Protocol).items():
            allowed = get_args(hint)
            if allowed and isinstance(allowed[0], str) and getattr(self, field) not in allowed:
                raise ValueError(f"{field} of a protocol must be one of {allowed}, got {getattr(self, field)!r}")

    def at(self, tious: tuple[float, ...]) -> Protocol:
        """The same at other tIoU thresholds, with the mean over all of them as the only average.

        Raises:
          OptionError: no threshold, or one outside (0, 1].
        """
        if not tious or not all(0 < tiou <= 1 for tiou in tious):
            raise OptionError(f"tIoU thresholds must lie in (0, 1], got {', '.join(map(str, tious)) or 'none'}")
        chosen = tuple(sorted(set(tious)))
        return replace(self, tious=chosen, averages=((chosen[0], chosen[-1]),))

    def keeps(self, video: str) -> bool:
        """Whether a video, named with or without "v_" and extension, is in the ground-truth set."""
        return bare_name(video) not in self.without

    def caveats(self, *, num_videos: int, num_ambiguous: int) -> list[str]:
        """Why a number on these data is not the published one's like, a sentence each.

        Args:
          num_videos: annotated videos that were evaluated.
          num_ambiguous: ambiguous intervals that are known.
        """
        sentences = []
        if self.num_videos not in (None, num_videos):
            sentences.append(
                f"the ground-truth set of protocol {self.name} has {self.num_videos} videos, this one {num_videos}: "
                "do not compare with published figures"
            )
        if self.ambiguous_filter and not num_ambiguous:
            sentences.append(
                f"protocol {self.name} drops predictions that touch ambiguous intervals, but none are given"
            )
        return sentences

    def describe(self, num_videos: int, num_instances: int, *, selection: str = "not stated") -> str:
        """The protocol in one line, to be printed next to every number.

        Args:
          num_videos: annotated videos that were evaluated.
          num_instances: their ground-truth segments.
          selection: how the evaluated model was chosen, such as "last step".
        """
        tious = ", ".join(f"{tiou:g}" for tiou in self.tious)
        return (
            f"protocol {self.name}: {self.ground_truth}, {num_videos} videos, {num_instances} instances, "
            f"labels from {self.label_source}, ambiguous filter {'on' if self.ambiguous_filter else 'off'}, "
            f"{'each instance once, ' if self.unique_ground_truth else ''}"
            f"{self.units}, tIoU {tious}, {self.matching}, of equals the {self.ties}, AP {self.interpolation}, "
            f"mean over {self.class_mean}, model selection: {selection}"
        )


_TENTHS = tuple(i / 10 for i in range(1, 10))
_MISLABELLED = ("video_test_0000270", "video_test_0001292", "video_test_0001496")

CASE = Protocol("case", "THUMOS14 test in the 210-video list", without=_MISLABELLED, num_videos=210)
"""CASE (ICCV 2023), Table 1: mAP at 0.1 to 0.7 and its averages over 0.1:0.5, 0.3:0.7, 0.1:0.7.

The same as BaS-Net, UM, CoLA, ASL and AICL, whose program is that of ActivityNet. Video 270 carries instances of
HammerThrow after its end, 1292 has ambiguous intervals alone, 1496 carries CricketShot and shows another sport.
"""

A2CL_PT = Protocol(
    "a2clpt",
    "THUMOS14 test in A2CL-PT's list of 210 videos",
    label_source="official video labels, and segments of these classes alone",
    without=_MISLABELLED,
    ambiguous_filter=True,
    units="whole snippets",
    tious=_TENTHS,
    averages=((0.1, 0.9), (0.1, 0.7)),
    ties="first listed first",
    class_mean="classes with both ground truth and predictions",
    num_videos=210,
)
"""A2CL-PT (ECCV 2020) on THUMOS14. A class without a prediction counts as if it were not in the data set."""

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        CASE,
        Protocol(
            "wtalc",
            "THUMOS14 test in the 212-video list",
            label_source="official video labels",
            without=("video_test_0001292",),
            ambiguous_filter=True,
            units="whole snippets",
            tious=_TENTHS[:5],
            averages=((0.1, 0.5),),
            matching="first free ground truth",
            ties="first listed first",
            interpolation="not interpolated",
            class_mean="classes with ground truth, 0 as soon as one has no prediction",
            num_videos=212,
        ),
        Protocol(
            "co2",
            "THUMOS14 test in the 212-video list",
            label_source="official video labels",
            without=("video_test_0001292",),
            ambiguous_filter=True,
            units="snippets, whole ones for the ground truth",
            tious=_TENTHS,
            averages=((0.1, 0.5), (0.3, 0.7), (0.1, 0.7), (0.1, 0.9)),
            num_videos=212,
        ),
        A2CL_PT,
        Protocol(
            "opentad",
            "THUMOS14 test in the 211-video list",
            without=_MISLABELLED[:2],
            unique_ground_truth=True,
            tious=_TENTHS[2:7],
            averages=((0.3, 0.7),),
            num_videos=211,
        ),
        Protocol(
            "activitynet",
            "the annotated videos of ActivityNet's validation subset",
            tious=tuple(np.linspace(0.5, 0.95, 10).tolist()),
            averages=((0.5, 0.95),),
        ),
    )
}
"""The protocols in use, by name: of CASE, W-TALC, CO2-Net (and DELU), A2CL-PT, OpenTAD, and the ActivityNet program."""


class Compared(NamedTuple):
    """The tables that a protocol matches with each other."""

    predictions: SegmentTable  # those that are judged, in the protocol's units
    ground_truth: SegmentTable  # likewise; videos are those of `videos`
    videos: np.ndarray  # (V,) places, in the list of videos that was given, of those that the protocol keeps
    listed: SegmentTable  # the predictions before the ambiguous filter


def compared(
    predictions: SegmentTable,
    ground_truth: SegmentTable,
    classes: Sequence[str],
    protocol: Protocol,
    *,
    videos: Sequence[str],
    snippet_seconds: float = SNIPPET_SECONDS,
    ambiguous: SegmentTable | None = None,
) -> Compared:
    """What `judge` matches; args and errors are its own.

    The videos that the protocol leaves out are gone from all tables; the others are numbered anew.
    """
    check_number(snippet_seconds, "snippet_seconds", "be positive and finite", lambda x: 0 < x < float("inf"))
    ambiguous = SegmentTable.from_rows([], [], []) if ambiguous is None else ambiguous
    predictions = check_table(predictions, "predictions", len(classes))
    ground_truth = check_table(ground_truth, "ground truth", len(classes))
    ambiguous = as_table(ambiguous, "ambiguous")
    for table, what in ((predictions, "predictions"), (ground_truth, "ground truth"), (ambiguous, "ambiguous")):
        check_videos(table, what, len(videos))
    kept = np.array([protocol.keeps(name) for name in videos], bool)
    number = np.cumsum(kept) - 1
    found, truth, intervals = (
        table.take(kept[table.video])._replace(video=number[table.video[kept[table.video]]])
        for table in (predictions, ground_truth, ambiguous)
    )
    if protocol.unique_ground_truth:
        truth = truth.take(_first_of_each(truth))
    if protocol.units != "seconds":
        found = _in_snippets(found, snippet_seconds, whole=protocol.units == "whole snippets")
        truth, intervals = (_in_snippets(table, snippet_seconds, whole=True) for table in (truth, intervals))
    judged = found.take(~touches(found, intervals)) if protocol.ambiguous_filter else found
    return Compared(judged, truth, np.flatnonzero(kept), found)


@takes()
def judge(
    predictions: SegmentTable,
    ground_truth: SegmentTable,
    classes: Sequence[str],
    protocol: Protocol,
    *,
    videos: Sequence[str],
    snippet_seconds: float = SNIPPET_SECONDS,
    ambiguous: SegmentTable | None = None,
) -> DetectionResult:
    """Average precision of detections under a protocol.

    Args:
      predictions: detections, in seconds.
      ground_truth: annotated instances, in seconds; their scores are not read.
      classes: names of the classes that labels index.
      protocol: how they are compared.
      videos: names of the videos that all tables index; a protocol leaves some out by name.
      snippet_seconds: what a snippet covers, for protocols whose unit it is.
      ambiguous: intervals of the annotation in seconds, for protocols that filter by them; their labels are not
        read. Default none.

    Raises:
      DataError: as `evaluate_detections`, or a row of a video that `videos` does not have.
      ValueError: a tIoU threshold outside (0, 1], or a `snippet_seconds` that is not positive.

    Example:
      >>> from casejax import evaluate
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0, 0], [0, 0], [[1, 3], [6, 9]])
      >>> found = SegmentTable.from_rows([0], [0], [[1, 3]], [0.9])
      >>> result = evaluate.judge(found, truth, ["Dive"], evaluate.PROTOCOLS["case"], videos=["a"])
      >>> result.ap[0].round(2).tolist()
      [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """
    tables = compared(
        predictions,
        ground_truth,
        classes,
        protocol,
        videos=videos,
        snippet_seconds=snippet_seconds,
        ambiguous=ambiguous,
    )
    matches = match_detections(
        tables.predictions,
        tables.ground_truth,
        classes,
        tious=protocol.tious,
        matching=protocol.matching,
        ties=protocol.ties,
    )
    return average_precision(
        matches,
        tables.ground_truth,
        classes,
        interpolation=protocol.interpolation,
        class_mean=protocol.class_mean,
        num_listed=np.bincount(counted(tables, protocol).label, minlength=len(classes)),
    )


def counted(tables: Compared, protocol: Protocol) -> SegmentTable:
    """The predictions by which a class counts as predicted in the class mean of a protocol."""
    both = protocol.class_mean == "classes with both ground truth and predictions"
    return tables.listed if both else tables.predictions


def touches(segments: SegmentTable, others: SegmentTable) -> np.ndarray:
    """(n,) bool, whether a segment overlaps one of `others` in its video, whatever their classes.

    Example:
      >>> from casejax import evaluate
      >>> from casejax.records import SegmentTable
      >>> found = SegmentTable.from_rows([0, 0], [0, 0], [[0, 2], [5, 8]])
      >>> evaluate.touches(found, SegmentTable.from_rows([0], [1], [[7, 9]]))
      array([False,  True])
    """
    segments, others = as_table(segments, "segments"), as_table(others, "others")
    touched = np.zeros(len(segments.score), bool)
    for video in np.unique(others.video):
        begin, end = others.segment[others.video == video].T
        begin, end = begin[end > begin], end[end > begin]
        rows = np.flatnonzero(segments.video == video)
        start, stop = segments.segment[rows].T
        overlap = np.minimum(stop[:, None], end[None]) > np.maximum(start[:, None], begin[None])
        touched[rows] = overlap.any(axis=1)
    return touched


def _in_snippets(table: SegmentTable, snippet_seconds: float, *, whole: bool) -> SegmentTable:
    snippets = table.segment * (1 / snippet_seconds)
    return table._replace(segment=np.rint(snippets) if whole else snippets)


def _first_of_each(truth: SegmentTable) -> np.ndarray:
    """Rows that repeat none that was kept before them, in their order."""
    kept: dict[tuple[int, int], list[int]] = {}
    for row, (video, label) in enumerate(zip(truth.video.tolist(), truth.label.tolist(), strict=True)):
        rows = kept.setdefault((video, label), [])
        near = np.abs(truth.segment[rows] - truth.segment[row]) <= DUPLICATE_SECONDS
        if not near.all(axis=1).any():
            rows.append(row)
    return np.sort(np.array([row for rows in kept.values() for row in rows], np.int64))
