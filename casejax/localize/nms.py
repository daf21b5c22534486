"""Non-maximum suppression of scored segments within groups, one group for each video and class: three kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from casejax.array_types import Array, Num
from casejax.localize.arguments import as_floats, as_whole, check_number
from casejax.localize.overlap import unchecked_iou
from casejax.records import Localization

Number = float | np.integer | np.floating | Array


_LISTED_PAIRS = 2**18  # pairs, or 16 a row, up to which all that may overlap are compared
_BLOCK_PAIRS = 2**13  # pairs compared at a time, which stay in cache


class Survivors(NamedTuple):
    """What suppression leaves: rows of its input, group after group, with their new scores."""

    row: np.ndarray  # (m,) int64, row of the input table
    score: np.ndarray  # (m,) float64


def hard_nms(
    segment: Num[ArrayLike, "n 2"] | Sequence[Any],
    score: Num[ArrayLike, "n"] | Sequence[Any],
    group: Num[ArrayLike, "n"] | Sequence[Any] | None = None,
    *,
    threshold: Number = 0.4,
    plus_one: bool = False,
) -> Survivors:
    """Greedy suppression within each group: the best segment removes those it overlaps, and so on.

    Args:
      segment: proposals in seconds.
      score: their scores; equal scores rank the later row first.
      group: proposals compete within a group only, one group a video and class; default one group.
      threshold: tIoU from which a segment is suppressed.
      plus_one: tIoU with one second added, see `temporal_iou`.

    Returns:
      The kept rows, group after group, by descending score.

    Raises:
      ValueError: a threshold that is not above 0, arrays that do not fit, a NaN score, or a segment that is not finite
        or ends before it starts; the message names the row.

    Example:
      >>> from casejax.localize import hard_nms
      >>> segments = [[0.0, 10.0], [1.0, 11.0], [20.0, 30.0]]
      >>> print(hard_nms(segments, [0.9, 0.8, 0.7]))
      Survivors(row=array([0, 2]), score=array([0.9, 0.7]))
    """
    segment, score, group = _table(segment, score, group)
    order, suppressor = _suppress(segment, score, group, threshold, plus_one)
    index = order[suppressor == np.arange(len(order))]
    return Survivors(index, score[index])


def decay_once_nms(
    segment: Num[ArrayLike, "n 2"] | Sequence[Any],
    score: Num[ArrayLike, "n"] | Sequence[Any],
    group: Num[ArrayLike, "n"] | Sequence[Any] | None = None,
    *,
    threshold: Number = 0.4,
    sigma: Number = 0.35,
    plus_one: bool = False,
) -> Survivors:
    """Greedy suppression that keeps what it suppresses, decayed once: the published CASE variant.

    A suppressed segment returns with score * exp(-tIoU^2 / sigma), where the tIoU is with its suppressor
    alone. No segment is lost. A negative score rises towards zero.

    Args:
      segment: proposals in seconds.
      score: their scores; equal scores rank the later row first.
      group: proposals compete within a group only, one group a video and class; default one group.
      threshold: tIoU from which a segment is suppressed.
      sigma: width of the decay, above 0.
      plus_one: tIoU with one second added, see `temporal_iou`.

    Returns:
      Group after group: first the kept rows by descending score, then the suppressed ones in the order
      of their suppressors and, under one suppressor, by descending undecayed score.

    Raises:
      ValueError: as `hard_nms`, or a sigma that is not above 0.

    Example:
      >>> from casejax.localize import decay_once_nms
      >>> segments = [[0.0, 10.0], [0.0, 5.0], [20.0, 30.0]]
      >>> row, score = decay_once_nms(segments, [0.9, 0.8, 0.7])  # the second has a tIoU of 1/2 with the first
      >>> print(row, score.round(3))  # 0.8 exp(-0.25 / 0.35)
      [0 2 1] [0.9   0.7   0.392]
    """
    _check_sigma(sigma)
    segment, score, group = _table(segment, score, group)
    order, suppressor = _suppress(segment, score, group, threshold, plus_one)
    gone = suppressor != np.arange(len(order))
    iou = unchecked_iou(segment[order], segment[order[suppressor]], extra=float(plus_one))
    decayed = score[order] * np.where(gone, np.exp(-(iou**2) / sigma), 1.0)
    output = np.lexsort((suppressor, gone, group[order]))
    return Survivors(order[output], decayed[output])


def soft_nms(
    segment: Num[ArrayLike, "n 2"] | Sequence[Any],
    score: Num[ArrayLike, "n"] | Sequence[Any],
    group: Num[ArrayLike, "n"] | Sequence[Any] | None = None,
    *,
    sigma: Number = 0.5,
    plus_one: bool = False,
) -> Survivors:
    """Gaussian Soft-NMS: every pick multiplies all that remains by exp(-tIoU^2 / sigma).

    Args:
      segment: proposals in seconds.
      score: their scores, best not negative; of equal scores the one that was higher at first, then the later row.
      group: proposals compete within a group only, one group a video and class; default one group.
      sigma: width of the decay, above 0.
      plus_one: tIoU with one second added, see `temporal_iou`.

    Returns:
      All rows, group after group, in the order of their picks.

    Raises:
      ValueError: as `hard_nms`, or a sigma that is not above 0.

    References:
      Bodla et al., "Soft-NMS", ICCV 2017, Eq. 3.

    Example:
      >>> from casejax.localize import soft_nms
      >>> segments = [[0.0, 10.0], [0.0, 5.0], [20.0, 30.0]]
      >>> row, score = soft_nms(segments, [0.9, 0.8, 0.7])  # the second has a tIoU of 1/2 with the first
      >>> print(row, score.round(3))  # 0.8 exp(-0.25 / 0.5)
      [0 2 1] [0.9   0.7   0.485]
    """
    _check_sigma(sigma)
    segment, score, group = _table(segment, score, group)
    order = _ranked(score, group)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    # A pick changes only segments that it overlaps, so all clusters of overlapping segments are treated at once.
    cluster = np.empty(len(order), np.int64)
    by_start, stop = _reach(segment, group, float(plus_one))
    cluster[by_start] = _clusters(stop)
    rest = order[np.argsort(cluster[order], kind="stable")]
    current = score.copy()
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
        iou = unchecked_iou(segment[rest], segment[pick][member], extra=float(plus_one))
        iou[best] = 0  # a pick does not decay itself
        current[rest] *= np.exp(-(iou**2) / sigma)
        rest = np.delete(rest, best)
    index, worst_value, worst_rank = (np.concatenate(column) for column in zip(*rounds, strict=True))
    index = index[np.lexsort((worst_rank, -worst_value, group[index]))]  # stable, so rounds stay in order
    return Survivors(index, current[index])


def _table(segment: object, score: object, group: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segments (n, 2), scores (n,) float64 and the ordinal of each row's group, whatever they came as."""
    segment, score = (as_floats(x, name, nan=True) for x, name in ((segment, "segment"), (score, "score")))
    score = score.astype(np.float64)
    if segment.size == 0 and score.size == 0:
        segment, score = segment.reshape(0, 2), score.reshape(0)
    count = len(score) if score.ndim == 1 else -1
    whole = np.zeros(max(count, 0), np.int64) if group is None else as_whole(group, "group")
    if segment.shape != (count, 2) or (whole.shape != (count,) and (whole.size or count)):
        raise ValueError(
            f"NMS needs segments (n, 2), scores (n,) and groups (n,), got {segment.shape}, {score.shape} and "
            f"{whole.shape}"
        )
    whole = whole.reshape(count)
    in_order = (whole[1:] >= whole[:-1]).all()
    ordinal = _groups(whole)[1] if in_order else np.unique(whole, return_inverse=True)[1]
    ordinal = ordinal.astype(np.uint16 if count <= 2**16 else np.int64)  # short integers are sorted in linear time
    broken = np.isnan(score)
    if broken.any():
        raise ValueError(f"score[{np.argmax(broken)}] is NaN, which has no rank; drop the proposal")
    broken = ~(np.isfinite(segment).all(axis=1) & (segment[:, 1] >= segment[:, 0]))
    if broken.any():
        row = int(np.argmax(broken))
        raise ValueError(
            f"segment[{row}] is {segment[row].tolist()}, expected finite times, the end not before the start; drop it"
        )
    return segment, score, ordinal


def _check_sigma(sigma: Number) -> None:
    check_number(sigma, "sigma, the width of the decay,", "be above 0", lambda x: x > 0)


def _suppress(
    segment: np.ndarray, score: np.ndarray, group: np.ndarray, threshold: Number, plus_one: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rows by (group, rank), and the position in that order of what suppresses each; its own if kept."""
    check_number(threshold, "the tIoU threshold of NMS", "be above 0", lambda x: x > 0)
    order = _ranked(score, group)
    column, part = segment.T[:, order], group[order]  # starts and ends; what competes, group or cluster
    suppressor, rest, extra = np.arange(len(order)), np.arange(len(order)), float(plus_one)
    # While proposals are dense, picking the best row of every part decides most of them, and their pairs are too many
    # to list; where they are not, listing the pairs decides them at once.
    rounds, next_count = 0, 1
    while before := len(rest):
        head, member = _groups(part)
        best = column[:, head] if len(head) == 1 else column[:, head][:, member]
        hit = unchecked_iou(best.T, column.T, extra=extra) >= threshold
        hit[head] = True
        suppressor[rest[hit]] = rest[head[member[hit]]]
        left = np.flatnonzero(~hit)
        rest, column, part = rest[left], column[:, left], part[left]
        rounds += 1
        if rounds < next_count or before - len(rest) > before // 8:
            continue
        by_start, stop = _reach(column.T, part, extra)
        count = stop - np.arange(1, len(rest) + 1)
        if count.sum() <= max(16 * len(rest), _LISTED_PAIRS):
            _suppress_by_pairs(column[:, by_start], rest[by_start], count, suppressor, threshold, extra)
            break
        part[by_start] = _clusters(stop)
        by_part = np.lexsort((rest, part))
        rest, column, part = rest[by_part], column[:, by_part], part[by_part]
        next_count = rounds + min(rounds, 32)
    return order, suppressor


def _suppress_by_pairs(
    column: np.ndarray, rank: np.ndarray, count: np.ndarray, suppressor: np.ndarray, threshold: Number, extra: float
) -> None:
    """Write into `suppressor` what becomes of some ranks; each may overlap the next `count` columns of (start, end).

    A row is kept once every better row that overlaps it is gone, and gone once one of them is kept. Neither changes
    again, so deciding all pairs in rounds gives the same as picking one row after the other.
    """
    total = np.cumsum(count)
    cuts = np.unique(np.searchsorted(total, np.arange(_BLOCK_PAIRS, total[-1], _BLOCK_PAIRS), side="right"))
    found, found_pairs = [], 0
    for rows in np.split(np.arange(len(rank)), cuts):
        first = np.repeat(rows, count[rows])
        before = total[rows] - count[rows] - found_pairs
        second = first + 1 + np.arange(len(first)) - np.repeat(before, count[rows])
        found_pairs += len(first)
        close = unchecked_iou(column[:, first].T, column[:, second].T, extra=extra) >= threshold
        found.append((first[close], second[close]))
    first, second = (rank[np.concatenate(places)] for places in zip(*found, strict=True))
    better, worse = np.minimum(first, second), np.maximum(first, second)
    gone = np.zeros(len(suppressor), bool)
    i, j = better, worse
    while len(i):
        contested = np.zeros(len(suppressor), bool)
        contested[j] = True
        gone[j[~contested[i]]] = True
        still_open = ~(gone[i] | gone[j])
        i, j = i[still_open], j[still_open]
    acted = ~gone[better] & gone[worse]
    suppressor[gone] = len(suppressor)
    np.minimum.at(suppressor, worse[acted], better[acted])


def _reach(segment: np.ndarray, group: np.ndarray, extra: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows by (group, start), and for each place in that order the one behind the last row that may overlap it.

    Groups are ordinals.
    """
    start, end = segment.astype(np.float64).T
    low, high = start.min(initial=np.inf), end.max(initial=-np.inf)
    # The groups are laid one behind the other in time, so that one search will do. What that rounds makes `stop` later.
    begin = start - low + group * (2 * (high - low + extra) + 1)
    reach = begin + (end - start + extra)
    order = np.argsort(begin)
    reach += 8 * np.spacing(reach.max(initial=0))
    stop = np.searchsorted(begin[order], reach[order])
    return order, np.maximum(stop, np.arange(1, len(order) + 1))


def _clusters(stop: np.ndarray) -> np.ndarray:
    """Ordinal of the cluster of every row in the order of `_reach`: rows of different clusters do not overlap."""
    head = np.ones(len(stop), bool)
    head[1:] = np.maximum.accumulate(stop)[:-1] <= np.arange(1, len(stop))
    return np.cumsum(head) - 1


def _ranked(score: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Rows by group, and by descending score within it; of equal scores the later row is first."""
    order = np.argsort(score)
    if (score[order[1:]] == score[order[:-1]]).any():
        order = np.argsort(score, kind="stable")  # takes five times as long
    order = order[::-1]
    return order[np.argsort(group[order], kind="stable")] if group.any() else order


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
