"""Detection mAP: tIoU matching, average precision, and the mean over classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from casejax.errors import DataError
from casejax.localize.arguments import as_flags, as_floats, as_whole
from casejax.localize.overlap import unchecked_iou
from casejax.records import SegmentTable

TIOUS = tuple(np.linspace(0.1, 0.7, 7).tolist())
"""tIoU thresholds of the CASE tables, with the float64 rounding of the published list."""

Matching = Literal["best free ground truth", "first free ground truth"]
"""Which ground truth a prediction takes, of those with enough tIoU: that of highest tIoU, or that listed first."""
Ties = Literal["last listed first", "first listed first"]
"""Order of predictions with equal scores, and of ground truths with equal tIoU."""
Interpolation = Literal["interpolated at all points", "not interpolated"]
"""Whether the precision at a hit is the best at any lower rank (VOC 2011), or its own."""
ClassMean = Literal[
    "classes with ground truth",
    "classes with both ground truth and predictions",
    "classes with ground truth, 0 as soon as one has no prediction",
]
"""The classes whose AP is averaged."""

_BLOCK_PAIRS = 2**20  # pairs of prediction and ground truth compared at a time


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """Average precision per class and tIoU threshold.

    Attributes:
      tious: (K,) float64, tIoU thresholds.
      classes: C class names.
      ap: (C, K) float64 in [0, 1]; NaN for a class without ground truth, zero for one that has ground
        truth and no prediction.
      num_predictions: (C,) int64.
      num_ground_truth: (C,) int64.
      in_mean: (C,) bool, the classes that the mAP is the mean over.
      voiding: (C,) bool, the classes whose lack of predictions makes the mAP 0.
    """

    tious: np.ndarray
    classes: tuple[str, ...]
    ap: np.ndarray
    num_predictions: np.ndarray
    num_ground_truth: np.ndarray
    in_mean: np.ndarray
    voiding: np.ndarray

    @property
    def mean_ap(self) -> np.ndarray:
        """(K,) mAP: mean over the classes `in_mean`, NaN where there is none; 0 where one is `voiding`."""
        if self.voiding.any():
            return np.zeros(len(self.tious))
        return self.ap[self.in_mean].mean(axis=0) if self.in_mean.any() else np.full(len(self.tious), np.nan)

    def average(self, low: float, high: float) -> float:
        """Mean of the mAP over all tIoU thresholds from `low` to `high`, both included."""
        return float(self.mean_ap[between(self.tious, low, high)].mean())

    @property
    def without_predictions(self) -> tuple[str, ...]:
        """Classes in the mean that were never predicted, with an AP of zero."""
        return self._names(self.in_mean & (self.num_predictions == 0))

    @property
    def voided_by(self) -> tuple[str, ...]:
        """Classes whose lack of predictions makes the mAP 0."""
        return self._names(self.voiding)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Classes with ground truth that are not in the mean."""
        return self._names((self.num_ground_truth > 0) & ~self.in_mean)

    @property
    def without_ground_truth(self) -> tuple[str, ...]:
        """Classes without ground truth; they are not in the mean."""
        return self._names(self.num_ground_truth == 0)

    def _names(self, which: np.ndarray) -> tuple[str, ...]:
        return tuple(self.classes[c] for c in np.flatnonzero(which))


def between(tious: np.ndarray, low: float, high: float) -> np.ndarray:
    """(K,) bool, the tIoU thresholds from `low` to `high`, both included; ValueError where there is none.

    Example:
      >>> import numpy as np
      >>> from casejax import evaluate
      >>> evaluate.between(np.array([0.1, 0.3, 0.5, 0.7]), 0.3, 0.5)
      array([False,  True,  True, False])
    """
    tious = as_floats(tious, "tious")
    if tious.ndim != 1:
        raise ValueError(f"tious must be (K,), got {tious.shape}")
    inside = (tious > low - 1e-6) & (tious < high + 1e-6)  # wider than the rounding of float32
    if not inside.any():
        raise ValueError(f"no tIoU threshold in [{low}, {high}] among {tious.tolist()}")
    return inside


class Matches(NamedTuple):
    """The predictions by rank, and which of them find ground truth."""

    tious: np.ndarray  # (K,) float64, tIoU thresholds
    ranked: SegmentTable  # predictions by descending score
    hit: np.ndarray  # (K, n) bool, whether a row of `ranked` is a true positive at a threshold


def evaluate_detections(
    predictions: SegmentTable,
    ground_truth: SegmentTable,
    classes: Sequence[str],
    *,
    tious: Sequence[float] = TIOUS,
) -> DetectionResult:
    """Average precision of detections, as the ActivityNet program defines it.

    Which predictions are true positives, `match_detections` says. AP is the area under the interpolated
    precision over all recall points (VOC 2011). `casejax.evaluate.judge` measures by other protocols.

    Args:
      predictions: detections, in seconds.
      ground_truth: annotated instances, in seconds; their scores are not read.
      classes: names of the classes that labels index.
      tious: thresholds in (0, 1].

    Raises:
      DataError: a row with a time or score that is not finite, with its end before its start, or with a
        label that `classes` does not have; the message names the row.
      ValueError: a threshold outside (0, 1].

    Example:
      >>> from casejax import evaluate
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0], [0], [[0, 4]])
      >>> found = SegmentTable.from_rows([0], [0], [[0, 2]], [0.9])
      >>> evaluate.evaluate_detections(found, truth, ["Dive"], tious=[0.3, 0.5, 0.7]).ap[0].tolist()
      [1.0, 1.0, 0.0]
    """
    matches = match_detections(predictions, ground_truth, classes, tious=tious)
    return average_precision(matches, ground_truth, classes)


def average_precision(
    matches: Matches,
    ground_truth: SegmentTable,
    classes: Sequence[str],
    *,
    interpolation: Interpolation = "interpolated at all points",
    class_mean: ClassMean = "classes with ground truth",
    num_listed: np.ndarray | None = None,
) -> DetectionResult:
    """AP of every class and tIoU threshold from what `match_detections` found.

    Args:
      matches: the ranked predictions.
      ground_truth: that they were matched with.
      classes: names of the classes that labels index.
      interpolation: of the precision.
      class_mean: the classes that the mAP is the mean over.
      num_listed: (C,) predictions of each class that `class_mean` counts; default those of `matches`.

    Example:
      >>> from casejax import evaluate
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0], [0], [[0, 4]])
      >>> found = SegmentTable.from_rows([0, 0], [0, 0], [[6, 8], [0, 4]], [0.9, 0.5])
      >>> matches = evaluate.match_detections(found, truth, ["Dive"], tious=[0.5])
      >>> evaluate.average_precision(matches, truth, ["Dive"]).ap.tolist()
      [[0.5]]
    """
    ground_truth = as_table(ground_truth, "ground truth")
    thresholds, ranked = as_floats(matches.tious, "tious"), as_table(matches.ranked, "predictions")
    hit, num_classes = as_flags(matches.hit, "hit"), len(classes)
    if hit.shape != (*thresholds.shape, len(ranked.score)):
        raise ValueError(f"hit must be {(*thresholds.shape, len(ranked.score))}, thresholds x rows, got {hit.shape}")
    if num_listed is not None:
        num_listed = as_whole(num_listed, "num_listed")
        if num_listed.shape != (num_classes,):
            raise ValueError(f"num_listed must be {(num_classes,)}, one number a class, got {num_listed.shape}")
    num_predictions = np.bincount(ranked.label, minlength=num_classes)
    num_ground_truth = np.bincount(ground_truth.label, minlength=num_classes)
    position = _order_in_group(ranked.label, num_classes)

    threshold, rank = np.nonzero(hit)
    curve = threshold * num_classes + ranked.label[rank]
    num_curves = len(thresholds) * num_classes
    hits = _order_in_group(curve, num_curves)
    # Precision at the k-th hit of each curve. Only there does recall move, by 1 / (ground truths), and no
    # false positive lies above the hit before it.
    precision = np.zeros((num_curves, num_ground_truth.max(initial=0)))
    precision[curve, hits - 1] = hits / position[rank]
    if interpolation == "interpolated at all points":
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)
    area = precision.sum(axis=1).reshape(len(thresholds), num_classes).T
    ap = area / np.where(num_ground_truth > 0, num_ground_truth, np.nan)[:, None]
    in_mean, voiding = classes_in_mean(
        num_ground_truth, num_predictions if num_listed is None else num_listed, class_mean=class_mean
    )
    return DetectionResult(thresholds, tuple(classes), ap, num_predictions, num_ground_truth, in_mean, voiding)


def classes_in_mean(
    num_ground_truth: np.ndarray, num_predictions: np.ndarray, *, class_mean: ClassMean
) -> tuple[np.ndarray, np.ndarray]:
    """Which classes the mAP is the mean over, and which make it 0; booleans of the shape of the counts."""
    present, predicted = num_ground_truth > 0, num_predictions > 0
    if class_mean == "classes with both ground truth and predictions":
        return present & predicted, np.zeros_like(present)
    if class_mean == "classes with ground truth, 0 as soon as one has no prediction":
        return present, present & ~predicted
    return present, np.zeros_like(present)


def match_detections(
    predictions: SegmentTable,
    ground_truth: SegmentTable,
    classes: Sequence[str],
    *,
    tious: Sequence[float] = TIOUS,
    matching: Matching = "best free ground truth",
    ties: Ties = "last listed first",
) -> Matches:
    """Rank predictions and tell true from false positives; by default as the ActivityNet program does.

    The predictions of a class are taken over all videos by descending score. Each takes, among the ground truth of
    its video and class that is still free and whose tIoU reaches the threshold, the one with the highest tIoU, or the
    one listed first; where there is none it is a false positive.

    One difference: the tIoU of segments with an empty union is zero, and so is never a hit; the published
    program gets NaN there and counts it as one. A segment of zero length is allowed and never matches.

    Args:
      predictions: as for `evaluate_detections`, like `ground_truth`, `classes` and `tious`.
      ground_truth: annotated instances.
      classes: names of the classes that labels index.
      tious: thresholds in (0, 1].
      matching: which ground truth a prediction takes.
      ties: the order of equals.

    Raises:
      DataError: see `evaluate_detections`.
      ValueError: see `evaluate_detections`.

    Example:
      >>> from casejax import evaluate
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0], [0], [[0, 4]])
      >>> found = SegmentTable.from_rows([0, 0], [0, 0], [[0, 4], [0, 3]], [0.5, 0.9])
      >>> evaluate.match_detections(found, truth, ["Dive"], tious=[0.5, 0.9]).hit
      array([[ True, False],
             [False,  True]])
    """
    return matched(predictions, ground_truth, classes, tious=tious, matching=matching, ties=ties)[0]


def matched(
    predictions: SegmentTable,
    ground_truth: SegmentTable,
    classes: Sequence[str],
    *,
    tious: Sequence[float],
    matching: Matching = "best free ground truth",
    ties: Ties = "last listed first",
) -> tuple[Matches, np.ndarray]:
    """`match_detections`, and (K, n) int64 the row of the ground truth that each finds; -1 of a false positive."""
    for name, value, words in (("matching", matching, get_args(Matching)), ("ties", ties, get_args(Ties))):
        if value not in words:
            raise ValueError(f"{name} must be one of {words}, got {value!r}")
    thresholds = np.atleast_1d(as_floats(tious, "tious", nan=True).astype(np.float64))
    if thresholds.ndim != 1 or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise ValueError(f"tIoU thresholds must lie in (0, 1], got {thresholds.tolist()}")
    predictions = check_table(predictions, "predictions", len(classes))
    ground_truth = check_table(ground_truth, "ground truth", len(classes))

    # From here on a prediction is its rank by score. Within a class that is the order of the matching.
    last = ties == "last listed first"
    order = (
        np.argsort(predictions.score, kind="stable")[::-1] if last else np.argsort(-predictions.score, kind="stable")
    )
    ranked = predictions.take(order)
    rank, truth, tiou = _edges(ranked, ground_truth, len(classes), thresholds.min(initial=1))
    listed = -truth if last else truth
    order = np.lexsort((truth, rank) if matching == "first free ground truth" else (listed, -tiou, rank))
    found = np.full((len(thresholds), len(ranked.score)), -1)
    threshold, placed, slot = _match(
        rank[order], truth[order], tiou[order], thresholds, found.shape[1], len(ground_truth.score)
    )
    found[threshold, placed] = slot
    return Matches(thresholds, ranked, found >= 0), found


def _match(
    rank: np.ndarray, truth: np.ndarray, tiou: np.ndarray, thresholds: np.ndarray, count: int, num_slots: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of threshold, rank and ground truth of every prediction that finds one.

    Greedy matching by rank is deferred acceptance in which every ground truth prefers the better rank:
    in each round all unplaced predictions of all thresholds ask the ground truth they like best of those that
    have not yet refused them, and each ground truth stays with the best that ever asked.

    Args:
      rank: of the prediction of each pair that can match, ascending; the preferred ground truth of a rank first.
      truth: ground truth of each pair.
      tiou: of each pair.
      thresholds: (K,) least tIoU.
      count: predictions.
      num_slots: ground truths.
    """
    threshold, edge = np.nonzero(tiou >= thresholds[:, None])
    asker, slot = threshold * count + rank[edge], threshold * num_slots + truth[edge]

    # Number the askers without gaps; their edges lie between `at` and `stop`, best first.
    number, at = np.unique(asker, return_index=True)
    stop = np.append(at[1:], len(asker))
    nobody = len(number)
    holder = np.full(len(thresholds) * num_slots, nobody)
    unplaced = np.arange(nobody)
    while len(unplaced):
        asked = slot[at[unplaced]]
        before = holder[asked]
        np.minimum.at(holder, asked, unplaced)
        refused = unplaced[holder[asked] != unplaced]
        displaced = before[(holder[asked] != before) & (before != nobody)]
        unplaced = np.unique(np.concatenate([refused, displaced]))
        at[unplaced] += 1
        unplaced = unplaced[at[unplaced] < stop[unplaced]]
    held = np.flatnonzero(holder != nobody)
    return (*np.divmod(number[holder[held]], max(count, 1)), held % max(num_slots, 1))


def _edges(
    ranked: SegmentTable, ground_truth: SegmentTable, num_classes: int, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (rank, ground truth, tIoU) of one video and class with tIoU >= least."""
    key = ground_truth.video * num_classes + ground_truth.label
    by_key = np.argsort(key, kind="stable")
    wanted = ranked.video * num_classes + ranked.label
    begin = np.searchsorted(key[by_key], wanted, side="left")
    count = np.searchsorted(key[by_key], wanted, side="right") - begin
    total = np.cumsum(count)
    cuts = np.searchsorted(total, np.arange(_BLOCK_PAIRS, total[-1] if len(total) else 0, _BLOCK_PAIRS))
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for block in np.split(np.arange(len(wanted)), np.unique(cuts)):
        rank = np.repeat(block, count[block])
        within = np.arange(len(rank)) - np.repeat(np.cumsum(count[block]) - count[block], count[block])
        truth = by_key[begin[rank] + within]
        tiou = np.asarray(unchecked_iou(ranked.segment[rank], ground_truth.segment[truth]))
        close = tiou >= least
        found.append((rank[close], truth[close], tiou[close]))
    rank, truth, tiou = (np.concatenate(column) for column in zip(*found, strict=True))
    return rank, truth, tiou


def _order_in_group(group: np.ndarray, num_groups: int) -> np.ndarray:
    """For every element: 1 for the first of its group, 2 for the second, and so on."""
    order = np.argsort(group, kind="stable")
    size = np.bincount(group, minlength=num_groups)
    out = np.empty(len(group), np.int64)
    out[order] = np.arange(len(group)) - np.repeat(np.cumsum(size) - size, size) + 1
    return out


def as_table(table: SegmentTable, what: str) -> SegmentTable:
    """The table as arrays of its types, refused where columns don't fit or a time or score is not finite."""
    try:
        table = SegmentTable(
            as_whole(table.video, "video"),
            as_whole(table.label, "label"),
            as_floats(table.segment, "segment", nan=True).astype(np.float64),
            as_floats(table.score, "score", nan=True).astype(np.float64),
        )
    except ValueError as error:
        raise DataError(f"{what}: {error}") from error
    count = len(table.score) if table.score.ndim == 1 else -1
    if count == 0 and not any(column.size for column in table):
        return SegmentTable.from_rows([], [], [])
    if [column.shape for column in table] != [(count,), (count,), (count, 2), (count,)]:
        shapes = ", ".join(f"{name} {column.shape}" for name, column in zip(table._fields, table, strict=True))
        raise DataError(f"{what}: columns must be (n,), (n,), (n, 2) and (n,), got {shapes}; give each row one of each")
    finite = np.isfinite(table.segment).all(axis=1) & np.isfinite(table.score)
    if not finite.all():
        row = np.argmin(finite)
        raise DataError(
            f"{what}, row {row}: segment {table.segment[row].tolist()} with score {table.score[row]} "
            "must be finite; drop the row or fix what wrote it"
        )
    return table


def check_table(table: SegmentTable, what: str, num_classes: int) -> SegmentTable:
    """`as_table`, where rows that cannot be evaluated are refused."""
    table = as_table(table, what)
    reversed_ = table.segment[:, 1] < table.segment[:, 0]
    if reversed_.any():
        row = np.argmax(reversed_)
        raise DataError(
            f"{what}, row {row}: segment {table.segment[row].tolist()} ends before it starts; "
            "drop the row or swap its times"
        )
    unknown = (table.label < 0) | (table.label >= num_classes)
    if unknown.any():
        row = np.argmax(unknown)
        raise DataError(
            f"{what}, row {row}: label {table.label[row]} is no index into the {num_classes} classes; "
            "evaluate with the class list the table was made with"
        )
    return table


def check_videos(table: SegmentTable, what: str, num_videos: int) -> None:
    """Refuse rows of videos that are not there."""
    unknown = (table.video < 0) | (table.video >= num_videos)
    if unknown.any():
        row = np.argmax(unknown)
        raise DataError(
            f"{what}, row {row}: video {table.video[row]} is no index into the {num_videos} videos; "
            "number the videos from 0 and name them all"
        )
