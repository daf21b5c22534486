"""What can be seen to be inconsistent between the rows of features, durations and annotated times; said with counts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from casejax.data.layouts.checks import first_three
from casejax.errors import DataWarning, DurationMismatchWarning
from casejax.records import Dataset, Video

DURATION_MISMATCH = 0.05  # share of the stated duration by which the rows may miss it unremarked
ROWS_SLACK = 2  # rows that the extraction of features may lose, or round up, at the end of a video
LAST_INSTANCE = 0.7  # share of the covered time within which no data set has the last instances of nine videos of ten
FEW = 8  # videos below which what most of them have in common says nothing
REMEDY = "state what a row stands for: --snippet-seconds, --stride with --fps, or features.json beside the features"


class _Row(NamedTuple):
    """A video with its rows, and the time at which they end."""

    video: Video
    length: int
    seconds: float
    covered: float


def warn_of_times(dataset: Dataset) -> None:
    """Warn of every finding, once a kind."""
    for warning in findings(dataset):
        warnings.warn(warning, stacklevel=4)


def findings(dataset: Dataset) -> Iterator[DataWarning]:
    """Every inconsistency of a data set that can be seen, as a warning that counts the videos and names three."""
    rows = [
        _Row(video, int(length), float(seconds), float(length * seconds + dataset.timing.offset))
        for split in (dataset.train, dataset.test)
        for video, length, seconds in zip(split.videos, split.features.lengths, dataset.row_seconds(split), strict=True)
        if length
    ]
    timed = not dataset.timing.rescaled
    described = dataset.timing.describe()
    off = [r for r in rows if timed and r.video.duration is not None and _misses(r)]
    if off:
        ratio = np.median([r.covered / (r.video.duration or np.nan) for r in off])
        yield DurationMismatchWarning(
            f"rows of {len(off)} of {len(rows)} videos miss the stated duration by more than {DURATION_MISMATCH:.0%} "
            f"at {described}, the median at {ratio:.2f} times the duration: {_names(off)}; {REMEDY}, or check the "
            "durations",
            kind="durations",
            places=[r.video.id for r in off],
        )
    late = [
        r
        for r in rows
        if timed and len(r.video.segments) and r.video.segments[:, 1].max() > r.covered + ROWS_SLACK * r.seconds
    ]
    if late:
        count = sum(int((r.video.segments[:, 1] > r.covered + ROWS_SLACK * r.seconds).sum()) for r in late)
        yield DataWarning(
            f"{count} instances in {len(late)} of {len(rows)} videos end after the last row of features at "
            f"{described}, so no prediction can match them: {_names(late)}; {REMEDY}",
            kind="beyond the rows",
            places=[r.video.id for r in late],
        )
    last = np.asarray([r.video.segments[:, 1].max() / r.covered for r in rows if timed and len(r.video.segments)])
    if len(last) >= FEW and not off and (high := np.quantile(last, 0.9)) < LAST_INSTANCE:
        yield DataWarning(
            f"in {len(last)} videos with instances the last one ends early, in nine of ten before {high:.0%} of the "
            f"time that rows cover at {described}; if that is wrong, all times will be: {REMEDY}",
            kind="early ends",
        )
    lengths = {r.length for r in rows}
    if timed and len(rows) >= FEW and len(lengths) == 1 and max(lengths) > 1:
        yield DataWarning(
            f"all {len(rows)} videos have {lengths.pop()} rows; if they were rescaled to that, say so with --rescaled "
            '(or {"rescaled": true} in features.json) and state the durations, or all times will be wrong',
            kind="equal lengths",
        )
    many = [r for r in rows if r.video.frames is not None and r.length > r.video.frames]
    if many:
        yield DataWarning(
            f"{len(many)} of {len(rows)} videos have more rows than frames: {_names(many)}; check that features and "
            "annotations are of the same videos, and that the axes are (snippets, dim)",
            kind="rows and frames",
            places=[r.video.id for r in many],
        )


def _misses(row: _Row) -> bool:
    duration = row.video.duration or 0.0
    return bool(abs(row.covered - duration) > max(DURATION_MISMATCH * duration, ROWS_SLACK * row.seconds))


def _names(rows: list[_Row]) -> str:
    return first_three([row.video.id for row in rows])
