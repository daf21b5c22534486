"""How much a detection mAP would change with other test videos: the bootstrap over videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from casejax.evaluate.detection import between, classes_in_mean, match_detections
from casejax.evaluate.protocols import CASE, Protocol, compared, counted
from casejax.localize.arguments import check_number, takes
from casejax.records import SNIPPET_SECONDS, SegmentTable

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


@takes()
def bootstrap_detections(
    predictions: SegmentTable,
    ground_truth: SegmentTable,
    classes: Sequence[str],
    *,
    videos: Sequence[str],
    protocol: Protocol = CASE,
    snippet_seconds: float = SNIPPET_SECONDS,
    ambiguous: SegmentTable | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Percentile bootstrap of the mAP over videos, under a protocol.

    Each resample draws, with replacement, as many videos as the protocol keeps, and evaluates what `judge`
    would give for the set in which a video drawn twice is two videos, each row followed at once by its
    copies. That order only matters where a video gives one score to several predictions of a class. As
    there, the mean runs over the classes that count in the resample.

    The interval covers the choice of test videos, not that of the training seed. mAP is a little higher on
    resamples than on the set itself, because copies of a video agree. On simulated sets of 40 and 200
    videos intervals of 0.95 held the mAP of a set of 20000 in 0.88 to 0.93 of the cases.

    Args:
      predictions: detections, in seconds.
      ground_truth: annotated instances, in seconds; their scores are not read.
      classes: names of the classes that labels index.
      videos: names of the videos of the test set, those without any row included, which the tables index.
      protocol: see `judge`, like `snippet_seconds` and `ambiguous`.
      snippet_seconds: what a snippet covers.
      ambiguous: intervals to filter by.
      num_resamples: how many test sets are drawn.
      level: share of the resamples inside an interval, in (0, 1).
      seed: of the draws.

    Raises:
      DataError: as `judge`.
      ValueError: an option outside its range, or no video.

    References:
      Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Example:
      >>> from casejax import evaluate
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0, 1, 2], [0, 0, 0], [[0, 4], [2, 5], [1, 2]])
      >>> interval = evaluate.bootstrap_detections(truth, truth, ["Dive"], videos=["a", "b", "c"], num_resamples=100)
      >>> float(interval.mean_ap.min())
      1.0
    """
    check_number(num_resamples, "num_resamples", "be a whole number from 1", lambda x: x >= 1 and x == x // 1)
    check_number(level, "level", "lie in (0, 1)", lambda x: 0 < x < 1)
    num_resamples = int(num_resamples)
    tables = compared(
        predictions,
        ground_truth,
        classes,
        protocol,
        videos=videos,
        snippet_seconds=snippet_seconds,
        ambiguous=ambiguous,
    )
    num_videos = len(tables.videos)
    if not num_videos:
        raise ValueError(f"a bootstrap needs at least one video, protocol {protocol.name} keeps 0 of {len(videos)}")

    # Videos are matched one by one, so a resample changes how often a prediction counts, never its match.
    thresholds, ranked, hit = match_detections(
        tables.predictions,
        tables.ground_truth,
        classes,
        tious=protocol.tious,
        matching=protocol.matching,
        ties=protocol.ties,
    )
    truth, listed = (_per_video(t, num_videos, len(classes)) for t in (tables.ground_truth, counted(tables, protocol)))
    curves = []
    for c in np.flatnonzero(truth.any(axis=0)):
        rows = np.flatnonzero(ranked.label == c)
        hits = [np.flatnonzero(found) for found in hit[:, rows]]
        curves.append((truth[:, c], listed[:, c], ranked.video[rows], hits))

    areas = _interpolated if protocol.interpolation == "interpolated at all points" else _plain
    longest = max((len(places) for *_, places, _ in curves), default=0)
    block = max(_BLOCK_VALUES // max(longest, num_videos), 1)
    rng = np.random.default_rng(seed)
    mean_ap = np.full((num_resamples, len(thresholds)), np.nan)
    for start in range(0, num_resamples, block):
        out = mean_ap[start : start + block]
        drawn = rng.multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=len(out))
        total, present = np.zeros_like(out), np.zeros((len(out), 1))
        void = np.zeros((len(out), 1), bool)
        for count, predicted, places, hits in curves:
            instances = (drawn @ count)[:, None]
            in_mean, voiding = classes_in_mean(instances, (drawn @ predicted)[:, None], class_mean=protocol.class_mean)
            total += np.where(in_mean, areas(drawn, places, hits) / np.maximum(instances, 1), 0)
            present += in_mean
            void |= voiding
        np.divide(total, present, out=out, where=present > 0)
        out[void[:, 0]] = 0
    return Bootstrap(thresholds, mean_ap, level, num_videos, seed)


def bootstrap_difference(first: Bootstrap, second: Bootstrap) -> Bootstrap:
    """Paired bootstrap of the mAP of `first` minus that of `second`, on the same resamples.

    Both must come from one ground truth. An interval that leaves out zero says that one of the two is
    better beyond the choice of test videos.

    Raises:
      ValueError: the two differ in videos, seed, number of resamples, tIoU thresholds or level.

    Example:
      >>> from casejax import evaluate
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0, 1], [0, 0], [[0, 4], [2, 5]])
      >>> everything, nothing = (
      ...     evaluate.bootstrap_detections(found, truth, ["Dive"], videos=["a", "b"], num_resamples=100)
      ...     for found in (truth, truth.take([]))
      ... )
      >>> float(evaluate.bootstrap_difference(everything, nothing).mean_ap.min())
      1.0
    """
    made = [(b.num_videos, b.seed, b.num_resamples, b.tious.tolist(), b.level) for b in (first, second)]
    if made[0] != made[1]:
        raise ValueError(
            "a paired bootstrap needs the same videos, seed, number of resamples, tIoU thresholds and level, "
            f"got {made[0]} and {made[1]}"
        )
    return replace(first, mean_ap=first.mean_ap - second.mean_ap)


def _interpolated(drawn: np.ndarray, videos: np.ndarray, hits: Sequence[np.ndarray]) -> np.ndarray:
    """Interpolated AP of one class times its ground truths: a row a resample, a column a tIoU threshold.

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


def _plain(drawn: np.ndarray, videos: np.ndarray, hits: Sequence[np.ndarray]) -> np.ndarray:
    """`_interpolated` with the precision of every hit as it is."""
    seen = np.cumsum(drawn[:, videos], axis=1)
    harmonic = np.append(0, np.cumsum(1 / np.arange(1, seen.max(initial=0) + 1)))
    out = np.zeros((len(drawn), len(hits)))
    for k, at in enumerate(hits):
        # Copy j of m, below S predictions of which H are hits, has precision (H + j) / (S + j) = 1 - (S - H) / (S + j).
        found = drawn[:, videos[at]]
        above = seen[:, at] - found
        misses = above - (np.cumsum(found, axis=1) - found)
        out[:, k] = (found - misses * (harmonic[seen[:, at]] - harmonic[above])).sum(axis=1)
    return out


def _per_video(table: SegmentTable, num_videos: int, num_classes: int) -> np.ndarray:
    """(V, C) how many rows each video has of each class."""
    cell = table.video * num_classes + table.label
    return np.bincount(cell, minlength=num_videos * num_classes).reshape(num_videos, num_classes)
