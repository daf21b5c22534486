"""Non-maximum suppression of scored segments within groups, one group for each video and class: three kinds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from casejax.localize.overlap import temporal_iou
from casejax.records import Localization

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Survivors(NamedTuple):
    """What suppression leaves: rows of its input, group after group, with their new scores."""

    row: np.ndarray  # (m,) int64, row of the input table
    score: np.ndarray  # (m,) float64


def hard_nms(
    segment: Float[np.ndarray, "n 2"],
    score: Float[np.ndarray, "n"],
    group: Int[np.ndarray, "n"],
    *,
    threshold: float = 0.4,
    plus_one: bool = False,
) -> Survivors:
    """Greedy suppression within each group: the best segment removes those it overlaps, and so on.

    Args:
      segment: proposals in seconds.
      score: their scores; equal scores rank the later row first.
      group: proposals compete within a group only, one group a video and class.
      threshold: tIoU from which a segment is suppressed.
      plus_one: tIoU with one second added, see `temporal_iou`.

    Returns:
      The kept rows, group after group, by descending score.
    """
    order, suppressor = _suppress(segment, score, group, threshold, plus_one)
    index = order[suppressor == np.arange(len(order))]
    return Survivors(index, score[index].astype(np.float64))


def decay_once_nms(
    segment: Float[np.ndarray, "n 2"],
    score: Float[np.ndarray, "n"],
    group: Int[np.ndarray, "n"],
    *,
    threshold: float = 0.4,
    sigma: float = 0.35,
    plus_one: bool = False,
) -> Survivors:
    """Greedy suppression that keeps what it suppresses, decayed once: the published CASE variant.

    A suppressed segment returns with score * exp(-tIoU^2 / sigma), where the tIoU is with its suppressor
    alone. No segment is lost. A negative score rises towards zero.

    Args:
      segment: proposals in seconds.
      score: their scores; equal scores rank the later row first.
      group: proposals compete within a group only, one group a video and class.
      threshold: tIoU from which a segment is suppressed.
      sigma: width of the decay.
      plus_one: tIoU with one second added, see `temporal_iou`.

    Returns:
      Group after group: first the kept rows by descending score, then the suppressed ones in the order
      of their suppressors and, under one suppressor, by descending undecayed score.
    """
    order, suppressor = _suppress(segment, score, group, threshold, plus_one)
    gone = suppressor != np.arange(len(order))
    iou = temporal_iou(segment[order], segment[order[suppressor]], extra=float(plus_one))
    decayed = score[order] * np.where(gone, np.exp(-(iou**2) / sigma), 1.0)
    output = np.lexsort((suppressor, gone, group[order]))
    return Survivors(order[output], decayed[output])


def soft_nms(
    segment: Float[np.ndarray, "n 2"],
    score: Float[np.ndarray, "n"],
    group: Int[np.ndarray, "n"],
    *,
    sigma: float = 0.5,
    plus_one: bool = False,
) -> Survivors:
    """Gaussian Soft-NMS: every pick multiplies all that remains by exp(-tIoU^2 / sigma).

    Args:
      segment: proposals in seconds.
      score: their scores, best not negative; of equal scores the one that was higher at first, then the later row.
      group: proposals compete within a group only, one group a video and class.
      sigma: width of the decay.
      plus_one: tIoU with one second added, see `temporal_iou`.

    Returns:
      All rows, group after group, in the order of their picks.

    References:
      Bodla et al., "Soft-NMS", ICCV 2017, Eq. 3.
    """
    order = _ranked(score, group)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    # A pick changes only segments that it overlaps, so all clusters of overlapping segments are treated at once.
    cluster = _clusters(segment, group, plus_one)
    rest = order[np.argsort(cluster[order], kind="stable")]
    current = score.astype(np.float64)
    # Picking the best of all clusters merges their picks. One that is better than its cluster's worst so far was
    # decayed upwards, from below zero, and follows that one at once.
    worst = np.full(len(order), np.inf), np.zeros(len(order), np.int64)  # value and rank, by cluster
    rounds = [(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))]
    while len(rest):
        start, member = _groups(cluster[rest])
        peak = np.maximum.reduceat(current[rest], start)[member]
        best = np.flatnonzero(current[rest] == peak)
        best = best[_groups(member[best])[0]]  # of equal scores the first
        pick = rest[best]
        own, value = cluster[pick], current[pick]
        worse = (value < worst[0][own]) | ((value == worst[0][own]) & (rank[pick] > worst[1][own]))
        worst[0][own[worse]], worst[1][own[worse]] = value[worse], rank[pick[worse]]
        rounds.append((pick, worst[0][own], worst[1][own]))
        iou = temporal_iou(segment[rest], segment[pick][member], extra=float(plus_one))
        iou[best] = 0  # a pick does not decay itself
        current[rest] *= np.exp(-(iou**2) / sigma)
        rest = np.delete(rest, best)
    index, worst_value, worst_rank = (np.concatenate(column) for column in zip(*rounds, strict=True))
    index = index[np.lexsort((worst_rank, -worst_value, group[index]))]  # stable, so rounds stay in order
    return Survivors(index, current[index])


def _suppress(
    segment: np.ndarray, score: np.ndarray, group: np.ndarray, threshold: float, plus_one: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rows by (group, rank), and the position in that order of what suppresses each; its own if kept.

    A row is kept once every better row that overlaps it is gone, and gone once one of them is kept. Neither changes
    again, so deciding all pairs in rounds gives the same as picking one row after the other.
    """
    order = _ranked(score, group)
    better, worse = _overlapping(segment[order], group[order], threshold, plus_one)
    gone = np.zeros(len(order), bool)
    i, j = better, worse
    while len(i):
        contested = np.zeros(len(order), bool)
        contested[j] = True
        gone[j[~contested[i]]] = True
        still_open = ~(gone[i] | gone[j])
        i, j = i[still_open], j[still_open]
    suppressor = np.where(gone, len(order), np.arange(len(order)))
    acted = ~gone[better] & gone[worse]
    np.minimum.at(suppressor, worse[acted], better[acted])
    return order, suppressor


def _overlapping(
    segment: np.ndarray, group: np.ndarray, threshold: float, plus_one: bool
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of rows (i, j), i < j, of one group whose tIoU reaches `threshold`."""
    if not threshold > 0:
        raise ValueError(f"the tIoU threshold of NMS must be above 0, got {threshold}")
    order = np.lexsort((segment[:, 0], group))
    start, group, reach = segment[order, 0], group[order], segment[order, 1] + (1 if plus_one else 0)
    pairs = [np.empty((2, 0), np.int64)]
    # Compare every row with the one `lag` places behind it by start, for as long as it begins in time.
    row, lag = np.arange(len(order) - 1), 1
    while len(row):
        row = row[(group[row + lag] == group[row]) & (start[row + lag] < reach[row])]
        pair = order[np.stack([row, row + lag])]
        iou = temporal_iou(segment[pair[0]], segment[pair[1]], extra=float(plus_one))
        pairs.append(pair[:, iou >= threshold])
        lag += 1
        row = row[row + lag < len(order)]
    first, second = np.concatenate(pairs, axis=1)
    return np.minimum(first, second), np.maximum(first, second)


def _clusters(segment: np.ndarray, group: np.ndarray, plus_one: bool) -> np.ndarray:
    """Ordinal of the cluster of every row: within a group, segments of different clusters do not overlap."""
    start, reach = segment[:, 0], segment[:, 1] + (1 if plus_one else 0)
    order = np.lexsort((start, group))
    # Times as integers, those of each group above all of the groups before, so that one running maximum will do.
    code = np.unique(np.concatenate([start, reach]), return_inverse=True)[1].reshape(2, -1)[:, order]
    code += _groups(group[order])[1] * (2 * len(order))
    head = np.ones(len(order), bool)
    head[1:] = code[0, 1:] >= np.maximum.accumulate(code[1])[:-1]
    out = np.empty(len(order), np.int64)
    out[order] = np.cumsum(head) - 1
    return out


def _ranked(score: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Rows by group, and by descending score within it; of equal scores the later row is first."""
    return np.lexsort((score, -group))[::-1]


def _groups(sorted_group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each group of a sorted array starts, and the ordinal of every element's group."""
    head = np.ones(len(sorted_group), bool)
    head[1:] = sorted_group[1:] != sorted_group[:-1]
    return np.flatnonzero(head), np.cumsum(head) - 1


NMS: dict[str, Callable[[Localization], Callable[..., Survivors]]] = {
    "decay_once": lambda o: partial(decay_once_nms, threshold=o.nms_threshold, sigma=o.nms_decay),
    "soft": lambda o: partial(soft_nms, sigma=o.nms_decay),
    "hard": lambda o: partial(hard_nms, threshold=o.nms_threshold),
}
"""Non-maximum suppression of each kind, by its options; all of them take `plus_one`."""
