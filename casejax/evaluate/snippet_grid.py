"""Detection mAP as A2CL-PT's program measures it: on the grid of snippets, with its mean over classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from casejax.evaluate.detection import DetectionResult, Protocol, evaluate_detections
from casejax.records import SNIPPET_SECONDS, SegmentTable

TIOUS = tuple(i / 10 for i in range(1, 10))
"""tIoU thresholds of A2CL-PT on THUMOS14."""

A2CL_PT = Protocol(
    "a2clpt",
    "the annotated videos of THUMOS14 test in A2CL-PT's list",
    units="whole snippets",
    tious=TIOUS,
    averages=((0.1, 0.9), (0.1, 0.7)),
    class_mean="classes with both ground truth and predictions",
    ambiguous_filter=True,
)
"""A2CL-PT (ECCV 2020) on THUMOS14. A class without a prediction counts as if it were not in the data set."""


def on_grid(table: SegmentTable, *, snippet_seconds: float = SNIPPET_SECONDS) -> SegmentTable:
    """The same segments with times in whole snippets; halves are rounded to the even one."""
    return table._replace(segment=np.rint(table.segment * (1 / snippet_seconds)))


def touches(segments: SegmentTable, others: SegmentTable) -> np.ndarray:
    """(n,) bool, whether a segment overlaps one of `others` in its video, whatever their classes."""
    touched = np.zeros(len(segments.score), bool)
    for video in np.unique(others.video):
        begin, end = others.segment[others.video == video].T
        begin, end = begin[end > begin], end[end > begin]
        rows = np.flatnonzero(segments.video == video)
        start, stop = segments.segment[rows].T
        overlap = np.minimum(stop[:, None], end[None]) > np.maximum(start[:, None], begin[None])
        touched[rows] = overlap.any(axis=1)
    return touched


def evaluate_on_grid(
    predictions: SegmentTable,
    ground_truth: SegmentTable,
    classes: Sequence[str],
    *,
    ambiguous: SegmentTable | None = None,
    tious: Sequence[float] = TIOUS,
    snippet_seconds: float = SNIPPET_SECONDS,
) -> DetectionResult:
    """Average precision by the published program of A2CL-PT.

    All times are rounded to whole snippets, predictions that touch an ambiguous interval are dropped, and classes are
    left out that have no prediction (before that) or no ground truth. Of equal scores, and of ground truths with equal
    tIoU, the first listed is taken. Average precision is that of `evaluate_detections`.

    Args:
      predictions: detections, in seconds.
      ground_truth: annotated instances, in seconds.
      classes: names of the classes that labels index.
      ambiguous: intervals of the annotation in seconds; their labels are not read. Default none.
      tious: thresholds in (0, 1].
      snippet_seconds: what a snippet covers.

    Returns:
      The result on the classes that count, so that `mean_ap` is the published mean.

    Raises:
      DataError: see `evaluate_detections`.
      ValueError: a threshold outside (0, 1].
    """
    predicted = np.isin(np.arange(len(classes)), predictions.label)
    found, truth = (on_grid(table, snippet_seconds=snippet_seconds) for table in (predictions, ground_truth))
    if ambiguous is not None:
        found = found.take(~touches(found, on_grid(ambiguous, snippet_seconds=snippet_seconds)))
    # `evaluate_detections` takes the last listed of equals first, so the tables are reversed.
    found, truth = (table.take(np.arange(len(table.score))[::-1]) for table in (found, truth))
    result = evaluate_detections(found, truth, classes, tious=tious)
    counts = np.flatnonzero(predicted & (result.num_ground_truth > 0)).tolist()
    return DetectionResult(
        result.tious,
        tuple(classes[c] for c in counts),
        result.ap[counts],
        result.num_predictions[counts],
        result.num_ground_truth[counts],
    )
