"""How much a detection mAP would change with other test videos: the bootstrap over videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from casejax.errors import DataError
from casejax.evaluate.detection import TIOUS, between, match_detections
from casejax.records import SegmentTable

_BLOCK_VALUES = 2**20  # values of one class, resamples times predictions, held at a time


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """mAP, or a difference of two, on test sets drawn anew from the videos of one.

    Attributes:
      tious: (K,) float64, tIoU thresholds.
      mean_ap: (R, K) float64, mAP of each resample; NaN for one without any ground truth, which the
        intervals leave out.
      level: share of the resamples that an interval holds, such as 0.95.
      num_videos: videos that were drawn, with replacement, from as many.
      seed: of the draws; the same seed and number of videos give the same resamples.
    """

    tious: np.ndarray
    mean_ap: np.ndarray
    level: float
    num_videos: int
    seed: int

    @property
    def num_resamples(self) -> int:
        """R, the number of resamples."""
        return len(self.mean_ap)

    @property
    def interval(self) -> np.ndarray:
        """(2, K) lower and upper end of the interval of the mAP at each tIoU threshold."""
        return self._ends(self.mean_ap)

    def average_interval(self, low: float, high: float) -> np.ndarray:
        """(2,) ends of the interval of the mean mAP over all tIoU thresholds from `low` to `high`."""
        return self._ends(self.mean_ap[:, between(self.tious, low, high)].mean(axis=1))

    def _ends(self, values: np.ndarray) -> np.ndarray:
        measured = values[~np.isnan(self.mean_ap).any(axis=1)]
        if not len(measured):
            return np.full((2, *values.shape[1:]), np.nan)
        return np.quantile(measured, [(1 - self.level) / 2, (1 + self.level) / 2], axis=0)


def bootstrap_detections(
    predictions: SegmentTable,
    ground_truth: SegmentTable,
    classes: Sequence[str],
    *,
    num_videos: int,
    tious: Sequence[float] = TIOUS,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Percentile bootstrap of the mAP over videos.

    Each resample draws `num_videos` videos with replacement and evaluates what `evaluate_detections`
    would give for the set in which a video drawn twice is two videos, each row followed at once by its
    copies. That order only matters where a video gives one score to several predictions of a class. As
    there, the mean runs over the classes that have ground truth in the resample.

    The interval covers the choice of test videos, not that of the training seed. mAP is a little higher on
    resamples than on the set itself, because copies of a video agree. On simulated sets of 40 and 200
    videos intervals of 0.95 held the mAP of a set of 20000 in 0.88 to 0.93 of the cases.

    Args:
      predictions: detections, in seconds.
      ground_truth: annotated instances, in seconds; their scores are not read.
      classes: names of the classes that labels index.
      num_videos: videos of the test set, those without any row included; the tables index them from 0.
      tious: thresholds in (0, 1].
      num_resamples: how many test sets are drawn.
      level: share of the resamples inside an interval, in (0, 1).
      seed: of the draws.

    Raises:
      DataError: as `evaluate_detections`, or a row of a video outside the `num_videos`.
      ValueError: an option outside its range.

    References:
      Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    if num_videos < 1 or num_resamples < 1:
        raise ValueError(f"num_videos and num_resamples must be positive, got {num_videos} and {num_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    _check_videos(predictions, "predictions", num_videos)
    _check_videos(ground_truth, "ground truth", num_videos)

    # Videos are matched one by one, so a resample changes how often a prediction counts, never its match.
    thresholds, ranked, hit = match_detections(predictions, ground_truth, classes, tious=tious)
    cell = ground_truth.video * len(classes) + ground_truth.label
    truth = np.bincount(cell, minlength=num_videos * len(classes)).reshape(num_videos, len(classes))
    curves = []
    for c in np.flatnonzero(truth.any(axis=0)):
        rows = np.flatnonzero(ranked.label == c)
        curves.append((truth[:, c], ranked.video[rows], [np.flatnonzero(found) for found in hit[:, rows]]))

    longest = max((len(videos) for _, videos, _ in curves), default=0)
    block = max(_BLOCK_VALUES // max(longest, num_videos), 1)
    rng = np.random.default_rng(seed)
    mean_ap = np.full((num_resamples, len(thresholds)), np.nan)
    for start in range(0, num_resamples, block):
        out = mean_ap[start : start + block]
        drawn = rng.multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=len(out))
        total, present = np.zeros_like(out), np.zeros((len(out), 1))
        for count, videos, hits in curves:
            instances = (drawn @ count)[:, None]
            total += _areas(drawn, videos, hits) / np.maximum(instances, 1)
            present += instances > 0
        np.divide(total, present, out=out, where=present > 0)
    return Bootstrap(thresholds, mean_ap, level, num_videos, seed)


def bootstrap_difference(first: Bootstrap, second: Bootstrap) -> Bootstrap:
    """Paired bootstrap of the mAP of `first` minus that of `second`, on the same resamples.

    Both must come from one ground truth. An interval that leaves out zero says that one of the two is
    better beyond the choice of test videos.

    Raises:
      ValueError: the two differ in videos, seed, number of resamples, tIoU thresholds or level.
    """
    made = [(b.num_videos, b.seed, b.num_resamples, b.tious.tolist(), b.level) for b in (first, second)]
    if made[0] != made[1]:
        raise ValueError(
            "a paired bootstrap needs the same videos, seed, number of resamples, tIoU thresholds and level, "
            f"got {made[0]} and {made[1]}"
        )
    return replace(first, mean_ap=first.mean_ap - second.mean_ap)


def _areas(drawn: np.ndarray, videos: np.ndarray, hits: Sequence[np.ndarray]) -> np.ndarray:
    """AP of one class times its ground truths: a row a resample, a column a tIoU threshold.

    Args:
      drawn: (B, V) how often each resample holds each video.
      videos: (n,) video of each prediction of the class, by rank.
      hits: for each threshold the places in `videos` that are true positives, ascending.
    """
    seen = np.cumsum(drawn[:, videos], axis=1)
    out = np.zeros((len(drawn), len(hits)))
    for k, at in enumerate(hits):
        # Of adjacent copies of a hit the last has the best precision, so each hit needs one value only.
        found = drawn[:, videos[at]]
        precision = np.cumsum(found, axis=1) / np.maximum(seen[:, at], 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        out[:, k] = (found * envelope).sum(axis=1)
    return out


def _check_videos(table: SegmentTable, what: str, num_videos: int) -> None:
    unknown = (table.video < 0) | (table.video >= num_videos)
    if unknown.any():
        row = np.argmax(unknown)
        raise DataError(
            f"{what}, row {row}: video {table.video[row]} is no index into the {num_videos} videos; "
            "number the videos from 0 and state how many there are"
        )
