"""The parts of localisation: classes are selected, their curves upsampled, runs proposed and ranked by their contrast.

Everything here is NumPy on arrays of many videos at once; nothing loops over proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from casejax.array_types import Bool, Float, Int
from casejax.localize.arguments import check_number, takes
from casejax.records import THRESHOLDS


class Runs(NamedTuple):
    """Stretches of consecutive active samples, ordered by curve, then threshold, then start."""

    curve: np.ndarray  # (n,) int64, index of the curve
    threshold: np.ndarray  # (n,) int64, index of the threshold
    first: np.ndarray  # (n,) int64, first active sample
    last: np.ndarray  # (n,) int64, last active sample, included


@takes("video_scores")
def select_classes(video_scores: Float[np.ndarray, "V C"], *, threshold: float = 0.25) -> Bool[np.ndarray, "V C"]:
    """Classes to localize in each video: all that reach `threshold`, else the single best one.

    Args:
      video_scores: video-level class scores.
      threshold: smallest score that selects a class.

    Raises:
      ValueError: a score or threshold that is NaN, or no class.

    Example:
      >>> from casejax.localize import select_classes
      >>> print(select_classes([[0.7, 0.3, 0.0], [0.1, 0.2, 0.1]], threshold=0.25))
      [[ True  True False]
       [False  True False]]
    """
    check_number(threshold, "threshold", "be a number", lambda x: x == x)
    if video_scores.ndim != 2 or not video_scores.shape[1]:
        raise ValueError(f"video_scores must be (V, C) with a class or more, got {video_scores.shape}")
    selected = video_scores >= threshold
    videos = np.flatnonzero(~selected.any(axis=1))
    if len(videos):
        selected[videos, np.argmax(video_scores[videos], axis=1)] = True
    return selected


@takes("scores")
def upsample(
    scores: Float[np.ndarray, "*batch T"], *, scale: int = 24, extrapolate: bool = True
) -> Float[np.ndarray, "*batch L"]:
    """Linear interpolation onto `scale` samples a snippet, L = T * scale, in float64.

    Sample i stands at snippet i / scale, so the last scale - 1 samples lie beyond the last snippet; as
    published, the last slope is continued there. One snippet gives a constant. Differences of neighbours are taken in
    the dtype of `scores`, as in the published program.

    Args:
      scores: snippet scores, snippets on the last axis.
      scale: samples per snippet.
      extrapolate: whether the last slope is continued; without, the last score is held.

    Raises:
      ValueError: no snippet, a scale below one, or a NaN score.

    Example:
      >>> from casejax.localize import upsample
      >>> print(upsample([0.0, 1.0], scale=4))
      [0.   0.25 0.5  0.75 1.   1.25 1.5  1.75]
      >>> print(upsample([0.0, 1.0], scale=4, extrapolate=False))
      [0.   0.25 0.5  0.75 1.   1.   1.   1.  ]
    """
    num_snippets = scores.shape[-1] if scores.ndim else 0
    if num_snippets < 1 or not (scale >= 1 and scale % 1 == 0):
        raise ValueError(f"upsample needs a snippet and a whole scale of at least 1, got {scores.shape=}, {scale=}")
    scale = int(scale)
    if num_snippets == 1:
        return np.repeat(scores.astype(np.float64), scale, axis=-1)
    position = np.arange(num_snippets * scale) * (1 / scale)
    # A sample on a snippet belongs to the interval that ends there. It matters: in float32 the value
    # plus the difference is not the next value.
    left = np.clip(np.ceil(position).astype(np.int64) - 1, 0, num_snippets - 2)
    samples = np.bincount(left)
    out = np.repeat(np.diff(scores, axis=-1).astype(np.float64), samples, axis=-1)
    out *= position - left
    out += np.repeat(scores[..., :-1], samples, axis=-1)
    if not extrapolate:
        out[..., (num_snippets - 1) * scale :] = scores[..., -1:]
    return out


@takes("curves", "thresholds")
def propose(
    curves: Float[np.ndarray, "G L"],
    *,
    thresholds: Sequence[float] | Float[np.ndarray, " k"] = THRESHOLDS,
    drop_lone_first: bool = True,
) -> Runs:
    """Runs of consecutive samples that are positive and reach a threshold, for every threshold.

    Args:
      curves: upsampled T-CAS, one row a video and class.
      thresholds: activation thresholds, compared in float64.
      drop_lone_first: drop the run of a curve and threshold whose only active sample is the first, as
        the published program does (it asks whether any active index is non-zero).

    Raises:
      ValueError: a curve or threshold with NaN, or shapes that don't fit.

    Example:
      >>> from casejax.localize import propose
      >>> runs = propose([[0.0, 0.6, 0.9, 0.6, 0.0, 0.6]], thresholds=(0.5, 0.8))
      >>> print(runs.threshold, runs.first, runs.last)  # two above 0.5, one above 0.8
      [0 0 1] [1 5 2] [3 5 2]
    """
    if curves.ndim != 2 or np.ndim(thresholds) != 1:
        raise ValueError(f"curves must be (G, L) and thresholds a list, got {curves.shape} and {thresholds}")
    num_curves, num_samples = curves.shape
    active = np.zeros((num_curves, num_samples + 2), bool)  # inactive at both ends, so that runs close
    found = []
    for k, threshold in enumerate(thresholds):
        np.greater_equal(curves, max(float(threshold), np.nextafter(0, 1)), out=active[:, 1:-1])
        # Edges alternate, start and end; an end is the sample after the last active one.
        curve, sample = np.divmod(np.flatnonzero(active[:, 1:] != active[:, :-1]), num_samples + 1)
        found.append((curve[::2], np.full(len(curve) // 2, k), sample[::2], sample[1::2] - 1))
    if not found:
        return Runs(*(np.empty(0, np.int64) for _ in Runs._fields))
    runs = Runs(*(np.concatenate(column) for column in zip(*found, strict=True)))
    list_id = runs.curve * len(thresholds) + runs.threshold
    order = np.argsort(list_id, kind="stable")  # within a list the runs are in order already
    if drop_lone_first:
        alone = np.bincount(list_id)[list_id] == 1
        order = order[~(alone & (runs.last == 0))[order]]
    return Runs(*(column[order] for column in runs))


@takes("curves", whole=("curve", "first", "last"))
def outer_inner_contrast(
    curves: Float[np.ndarray, "G L"],
    curve: Int[np.ndarray, "n"],
    first: Int[np.ndarray, "n"],
    last: Int[np.ndarray, "n"],
    *,
    outer_ratio: float = 0.15,
    outer_power: float = 1.0,
    scale: int = 1,
) -> Float[np.ndarray, "n"]:
    """Outer-inner contrast (OIC): mean inside a run minus mean over the margins on its two sides.

    With w = outer_ratio * (run length) ** outer_power the margins begin at sample trunc(first - w) and end at sample
    trunc(last + w), both clipped to the curve. No margin counts as mean zero.

    Args:
      curves: upsampled T-CAS.
      curve: row of `curves` of every run.
      first: first sample of every run.
      last: last sample of every run, included.
      outer_ratio: margin width as a part of the run's length.
      outer_power: power of the length, in snippets, in that width.
      scale: samples of a snippet.

    Raises:
      ValueError: a run outside the curves, an option out of range, NaN, or shapes that don't fit.

    References:
      Shou et al., "AutoLoc", ECCV 2018, Sec. 3.2. The widths follow the CASE program.

    Example:
      >>> from casejax.localize import outer_inner_contrast
      >>> curve = [[0.0, 0.2, 1.0, 1.0, 0.0, 0.0]]
      >>> print(outer_inner_contrast(curve, [0], [2], [3], outer_ratio=0.5))  # 1 inside, 0.1 around it
      [0.9]
    """
    check_number(outer_ratio, "outer_ratio", "be 0 or more and finite", lambda x: 0 <= x < np.inf)
    check_number(outer_power, "outer_power", "be 0 or more and finite", lambda x: 0 <= x < np.inf)
    check_number(scale, "scale", "be 1 or more", lambda x: 1 <= x < np.inf)
    if curves.ndim != 2 or curve.ndim != 1 or not curve.shape == first.shape == last.shape:
        raise ValueError(
            "outer_inner_contrast needs curves (G, L) and a row, first and last sample (n,) of every run, got "
            f"{curves.shape}, {curve.shape}, {first.shape} and {last.shape}"
        )
    outside = (curve < 0) | (curve >= len(curves)) | (first < 0) | (first > last) | (last >= curves.shape[1])
    if outside.any():
        n = int(np.argmax(outside))
        raise ValueError(f"run {n}, samples {first[n]} to {last[n]} of row {curve[n]}, is not in curves {curves.shape}")
    total = np.zeros((curves.shape[0], curves.shape[1] + 1))
    np.cumsum(curves, axis=1, out=total[:, 1:])
    length = last + 1 - first
    width = outer_ratio * (length if outer_power == 1 else scale * (length / scale) ** outer_power)
    outer_first = np.maximum((first - width).astype(np.int64), 0)
    outer_stop = np.minimum((last + width).astype(np.int64) + 1, curves.shape[1])
    inner = total[curve, last + 1] - total[curve, first]
    outer = total[curve, outer_stop] - total[curve, outer_first] - inner
    num_outer = outer_stop - outer_first - length
    return inner / length - outer / np.maximum(num_outer, 1)
