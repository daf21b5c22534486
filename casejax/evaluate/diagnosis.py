"""What detections get wrong, in the manner of DETAD: kinds of false positives, what each costs, and what is hard.

After Alwassel et al., "Diagnosing Error in Temporal Action Detectors", ECCV 2018. All of it is in the unit of the
tables, at one tIoU threshold, with the matching of the ActivityNet program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from casejax.array_types import Float, Int
from casejax.evaluate.detection import Matches, as_table, average_precision, matched
from casejax.localize.arguments import check_number, takes
from casejax.localize.overlap import unchecked_iou
from casejax.records import SegmentTable

KINDS = ("true positive", "double detection", "wrong label", "localization", "confusion", "background")
"""What a detection can be, from best to worst; all but the first are errors.

At the threshold or above, with an instance of its own class that another detection took: double detection; with one of
another class: wrong label. Below it, from `least_tiou` on: localization, or confusion where the class is another.
Otherwise: background. The first of these that holds counts.
"""


class Diagnosis(NamedTuple):
    """Detections by rank, and what each of them is.

    Attributes:
      tiou: the threshold.
      matches: as `match_detections` gives it at this threshold.
      truth: (n,) int64, the row of the ground truth that each of its rows finds; -1 of an error.
      kind: (n,) int64, index into `KINDS` of every row of `matches.ranked`.
    """

    tiou: float
    matches: Matches
    truth: np.ndarray
    kind: np.ndarray


def diagnose(
    predictions: SegmentTable,
    ground_truth: SegmentTable,
    classes: Sequence[str],
    *,
    tiou: float = 0.5,
    least_tiou: float = 0.1,
) -> Diagnosis:
    """Tell what every detection is.

    Args:
      predictions: detections, in seconds.
      ground_truth: annotated instances, in seconds; their scores are not read.
      classes: names of the classes that labels index.
      tiou: from which a detection can be right, in (0, 1].
      least_tiou: below which it shows background, in (0, tiou].

    Raises:
      DataError: as `evaluate_detections`.
      ValueError: a threshold outside its interval.

    Example:
      >>> from casejax import evaluate
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0], [0], [[0, 4]])
      >>> found = SegmentTable.from_rows([0] * 3, [0, 0, 1], [[0, 4], [6, 8], [0, 4]], [0.9, 0.8, 0.7])
      >>> kinds = evaluate.diagnose(found, truth, ["Dive", "Jump"]).kind
      >>> [evaluate.KINDS[kind] for kind in kinds]
      ['true positive', 'background', 'wrong label']
    """
    check_number(tiou, "tiou", "lie in (0, 1]", lambda x: 0 < x <= 1)
    check_number(least_tiou, "least_tiou", f"lie in (0, {tiou}]", lambda x: 0 < x <= tiou)
    matches, found = matched(predictions, ground_truth, classes, tious=[tiou])
    ranked, truth = matches.ranked, as_table(ground_truth, "ground truth")
    own, other = np.zeros((2, len(ranked.score)))
    for video in np.unique(ranked.video):
        rows, there = np.flatnonzero(ranked.video == video), truth.take(truth.video == video)
        overlap = np.asarray(unchecked_iou(ranked.segment[rows, None], there.segment[None]))
        same = ranked.label[rows, None] == there.label[None]
        own[rows] = np.where(same, overlap, 0).max(axis=1, initial=0)
        other[rows] = np.where(same, 0, overlap).max(axis=1, initial=0)
    held = [matches.hit[0], own >= tiou, other >= tiou, own >= least_tiou, other >= least_tiou]
    return Diagnosis(float(tiou), matches, found[0], np.select(held, range(len(held)), len(held)))


@takes(whole=("kind", "label", "num_ground_truth"))
def kinds_by_rank(
    kind: Int[np.ndarray, " n"],
    label: Int[np.ndarray, " n"],
    num_ground_truth: Int[np.ndarray, " c"],
    *,
    multiples: int = 10,
) -> Float[np.ndarray, "m k"]:
    """Shares of the kinds among the best detections: of every class the G, 2 G, 3 G ... best, G its instances.

    Args:
      kind: of the detections by descending score, as `Diagnosis` has it.
      label: their classes.
      num_ground_truth: G of every class.
      multiples: of G.

    Returns:
      A row a multiple, a column a kind, which sums to 1; NaN where no detection is of a class with instances.

    Raises:
      ValueError: shapes that do not agree, or a class without a number of instances.

    Example:
      >>> import numpy as np
      >>> from casejax import evaluate
      >>> kind, label = np.array([0, 1, 1, 0]), np.zeros(4, int)
      >>> evaluate.kinds_by_rank(kind, label, np.array([2]), multiples=2)[:, :2]
      array([[0.5, 0.5],
             [0.5, 0.5]])
    """
    if kind.ndim != 1 or label.shape != kind.shape or num_ground_truth.ndim != 1:
        raise ValueError(
            f"needs kinds (n,), labels (n,) and instances (c,), got shapes {kind.shape}, {label.shape} and "
            f"{num_ground_truth.shape}"
        )
    if label.size and not 0 <= label.min() <= label.max() < len(num_ground_truth):
        raise ValueError(f"a label of {label.min()} to {label.max()} is not in [0, {len(num_ground_truth)})")
    check_number(multiples, "multiples", "be positive", lambda x: x >= 1)
    order = np.argsort(label, kind="stable")
    first = np.searchsorted(label[order], label[order])
    place = np.empty(len(label), np.int64)
    place[order] = np.arange(len(label)) - first
    shares = []
    for multiple in range(1, multiples + 1):
        best = kind[place < multiple * num_ground_truth[label]]
        counts = np.bincount(best, minlength=len(KINDS))
        shares.append(counts / counts.sum() if counts.sum() else np.full(len(KINDS), np.nan))
    return np.stack(shares)


def gain_without(
    diagnosis: Diagnosis, ground_truth: SegmentTable, classes: Sequence[str], *, multiple: int = 10
) -> dict[str, float]:
    """How much higher mAP at the threshold would be without the errors of each kind.

    Args:
      diagnosis: of detections.
      ground_truth: that they were compared with.
      classes: names of the classes.
      multiple: only the best `multiple` G detections of each class count, G its instances, with and without.

    Returns:
      For each kind of error, mAP without it minus mAP, fractions.

    Example:
      >>> from casejax import evaluate
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0], [0], [[0, 4]])
      >>> found = SegmentTable.from_rows([0, 0], [0, 0], [[6, 8], [0, 4]], [0.9, 0.8])
      >>> diagnosis = evaluate.diagnose(found, truth, ["Dive"])
      >>> evaluate.gain_without(diagnosis, truth, ["Dive"])["background"]
      0.5
    """
    check_number(multiple, "multiple", "be positive", lambda x: x >= 1)
    tious, ranked, hit = diagnosis.matches
    counts = np.bincount(as_table(ground_truth, "ground truth").label, minlength=len(classes))
    order = np.argsort(ranked.label, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.searchsorted(ranked.label[order], ranked.label[order])
    best = place < multiple * counts[ranked.label]

    def mean_ap(kept: np.ndarray) -> float:
        matches = Matches(tious, ranked.take(kept), hit[:, kept])
        return float(average_precision(matches, ground_truth, classes).mean_ap[0])

    whole = mean_ap(best)
    return {name: mean_ap(best & (diagnosis.kind != k)) - whole for k, name in enumerate(KINDS) if k}


class GroupPrecision(NamedTuple):
    """How well the instances of each group are found.

    Attributes:
      average_precision: (G,) mean over the classes that have instances in the group, fractions; NaN without any.
      found: (G,) share of its instances that some detection finds; NaN without any.
      size: (G,) instances.
    """

    average_precision: np.ndarray
    found: np.ndarray
    size: np.ndarray


@takes(whole=("group",))
def average_precision_of_groups(
    diagnosis: Diagnosis,
    ground_truth: SegmentTable,
    group: Int[np.ndarray, " m"],
    *,
    num_groups: int,
) -> GroupPrecision:
    """AP_N of instances by group, such as short and long ones.

    Detections that find an instance of another group are left out. So that groups of unlike size compare, precision is
    R N / (R N + F) with R the recall within class and group, F the false positives so far and N the mean number of
    instances a class (section 4 of DETAD).

    Args:
      diagnosis: of detections.
      ground_truth: that they were compared with.
      group: of every instance, from 0.
      num_groups: G.

    Raises:
      ValueError: a group that is none of those.

    Example:
      >>> import numpy as np
      >>> from casejax import evaluate
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0, 0], [0, 0], [[0, 1], [2, 8]])
      >>> diagnosis = evaluate.diagnose(truth.take([1]), truth, ["Dive"])
      >>> evaluate.average_precision_of_groups(diagnosis, truth, np.array([0, 1]), num_groups=2).average_precision
      array([0., 1.])
    """
    ranked, hit, found = diagnosis.matches.ranked, diagnosis.matches.hit[0], diagnosis.truth
    truth = as_table(ground_truth, "ground truth")
    if group.shape != truth.label.shape or (len(group) and not (group.min() >= 0 and group.max() < num_groups)):
        raise ValueError(f"group must be {truth.label.shape} numbers from 0 to {num_groups - 1}, got {group}")
    present = np.unique(truth.label)
    usual = len(truth.label) / max(len(present), 1)
    precisions, shares, counts = [], [], []
    for g in range(num_groups):
        ours = (found >= 0) & (group[found] == g)
        counts.append(int((group == g).sum()))
        shares.append(ours.sum() / counts[-1] if counts[-1] else np.nan)
        values = []
        for c in present:
            total = int(((group == g) & (truth.label == c)).sum())
            if not total:
                continue
            kept = (ranked.label == c) & (ours | ~hit)
            recall = np.cumsum(ours[kept]) / total
            precision = recall * usual / np.maximum(recall * usual + np.cumsum(~ours[kept]), 1e-12)
            best = np.maximum.accumulate(precision[::-1])[::-1]
            values.append(best[ours[kept]].sum() / total)
        precisions.append(np.mean(values) if values else np.nan)
    return GroupPrecision(np.array(precisions), np.array(shares), np.array(counts))


@takes("values")
def quantile_groups(
    values: Float[np.ndarray, " m"], *, parts: int = 4
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " g"]]:
    """Groups of about equal size by value; equal values stay together, so there may be fewer.

    Args:
      values: finite numbers.
      parts: groups wanted.

    Returns:
      The group of each value from 0, the smallest values first, and the greatest value of each group.

    Example:
      >>> import numpy as np
      >>> from casejax import evaluate
      >>> group, upto = evaluate.quantile_groups(np.array([1.0, 8.0, 3.0, 9.0]), parts=2)
      >>> group, upto
      (array([0, 1, 0, 1]), array([3., 9.]))
    """
    check_number(parts, "parts", "be positive", lambda x: x >= 1)
    if not len(values):
        return np.empty(0, np.int64), np.empty(0)
    edges = np.unique(np.quantile(values, np.arange(1, parts + 1) / parts, method="inverted_cdf"))
    return np.searchsorted(edges, values), edges
