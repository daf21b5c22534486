"""From snippet scores to detections: class selection, proposals, their scores, suppression.

Everything here is NumPy on arrays of many videos at once; nothing loops over proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from casejax.localize.nms import Survivors, decay_once_nms
from casejax.records import SegmentTable

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from casejax.localize.fusion import FusedTable

THRESHOLDS = tuple(np.arange(0.1, 1, 0.1).tolist())
"""Activation thresholds on the fused T-CAS, with the float64 rounding of the published list."""

_BLOCK_SAMPLES = 2**18  # samples of upsampled curves held at a time: two megabytes, which stay in cache


class Runs(NamedTuple):
    """Stretches of consecutive active samples, ordered by curve, then threshold, then start."""

    curve: np.ndarray  # (n,) int64, index of the curve
    threshold: np.ndarray  # (n,) int64, index of the threshold
    first: np.ndarray  # (n,) int64, first active sample
    last: np.ndarray  # (n,) int64, last active sample, included


def select_classes(video_scores: Float[np.ndarray, "V C"], *, threshold: float = 0.25) -> Bool[np.ndarray, "V C"]:
    """Classes to localize in each video: all that reach `threshold`, else the single best one.

    Args:
      video_scores: video-level class scores.
      threshold: smallest score that selects a class.
    """
    selected = video_scores >= threshold
    videos = np.flatnonzero(~selected.any(axis=1))
    if len(videos):
        selected[videos, np.argmax(video_scores[videos], axis=1)] = True
    return selected


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
      ValueError: no snippet, or a scale below one.
    """
    num_snippets = scores.shape[-1]
    if num_snippets < 1 or scale < 1:
        raise ValueError(f"upsample needs a snippet and a scale of at least 1, got {scores.shape=}, {scale=}")
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


def propose(
    curves: Float[np.ndarray, "G L"],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    drop_lone_first: bool = True,
) -> Runs:
    """Runs of consecutive samples that are positive and reach a threshold, for every threshold.

    Args:
      curves: upsampled T-CAS, one row a video and class.
      thresholds: activation thresholds, compared in float64.
      drop_lone_first: drop the run of a curve and threshold whose only active sample is the first, as
        the published program does (it asks whether any active index is non-zero).
    """
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

    References:
      Shou et al., "AutoLoc", ECCV 2018, Sec. 3.2. The widths follow the CASE program.
    """
    if outer_ratio < 0:
        raise ValueError(f"outer_ratio must not be negative, got {outer_ratio}")
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


def localize(
    scores: Float[np.ndarray, "V T C"],
    video_scores: Float[np.ndarray, "V C"],
    durations: Float[np.ndarray, "V"],
    *,
    ranked: Float[np.ndarray, "V T C"] | None = None,
    lengths: Int[np.ndarray, "V"] | None = None,
    class_threshold: float = 0.25,
    thresholds: Sequence[float] = THRESHOLDS,
    scale: int = 24,
    outer_ratio: float = 0.15,
    outer_power: float = 1.0,
    score_weight: float = 0.2,
    min_snippets: int = 1,
    nms_in_snippets: bool = False,
    nms: Callable[[np.ndarray, np.ndarray, np.ndarray], Survivors] = decay_once_nms,
    fuse: Callable[[np.ndarray, np.ndarray, np.ndarray], FusedTable] | None = None,
    extrapolate: bool = True,
    drop_lone_first: bool = True,
) -> SegmentTable:
    """Detections of many videos from their fused T-CAS.

    Classes are selected, their curves upsampled and thresholded, every run becomes a proposal scored
    OIC + score_weight * (video score of its class), and `nms` acts on each video and class.

    Args:
      scores: fused T-CAS, T snippets that cover the whole video evenly.
      video_scores: video-level class scores.
      durations: seconds the T snippets cover: snippets of the original video times 16 / 25, not T times.
      ranked: scores whose outer-inner contrast ranks a proposal; default `scores`, which are thresholded.
      lengths: snippets of each video; those behind are padding. Default: all have T.
      class_threshold: see `select_classes`.
      thresholds: see `propose`.
      scale: samples a snippet is upsampled to.
      outer_ratio: see `outer_inner_contrast`.
      outer_power: see `outer_inner_contrast`.
      score_weight: weight of the video score in a proposal's score.
      min_snippets: shorter proposals are dropped; 1 drops none, not even one shorter than a snippet.
      nms_in_snippets: hand segments to `nms` in snippets, not in seconds.
      nms: suppression; takes segments (n, 2), scores (n,) and groups (n,).
      fuse: `casejax.localize.fuse_table` or a similar function, used instead of `nms`; it replaces overlapping segments
        by one and takes the same arguments.
      extrapolate: see `upsample`.
      drop_lone_first: see `propose`.

    Returns:
      Detections in seconds, ordered by video, then class, then as `nms` or `fuse` leaves them.

    Raises:
      ValueError: shapes that disagree; NaN or infinite scores, a duration that is not positive, a length that is not
        from 1 to T, where the message names the first such video.
    """
    _check(scores, video_scores, durations, ranked, lengths)
    even = partial(
        _localize_even,
        class_threshold=class_threshold,
        thresholds=thresholds,
        scale=scale,
        margins={"outer_ratio": outer_ratio, "outer_power": outer_power, "scale": scale},
        score_weight=score_weight,
        min_snippets=min_snippets,
        nms_in_snippets=nms_in_snippets,
        nms=nms,
        fuse=fuse,
        extrapolate=extrapolate,
        drop_lone_first=drop_lone_first,
    )
    if lengths is None or not len(lengths):
        return even(scores, video_scores, durations, ranked)
    tables = []
    for v, length in enumerate(lengths.tolist()):
        one = slice(v, v + 1)
        own = None if ranked is None else ranked[one, :length]
        found = even(scores[one, :length], video_scores[one], durations[one], own)
        tables.append(found._replace(video=found.video + v))
    return SegmentTable(*map(np.concatenate, zip(*tables, strict=True)))


def _localize_even(
    scores: np.ndarray,
    video_scores: np.ndarray,
    durations: np.ndarray,
    ranked: np.ndarray | None,
    *,
    class_threshold: float,
    thresholds: Sequence[float],
    scale: int,
    margins: Mapping[str, Any],
    score_weight: float,
    min_snippets: int,
    nms_in_snippets: bool,
    nms: Callable[..., Survivors],
    fuse: Callable[..., FusedTable] | None,
    extrapolate: bool,
    drop_lone_first: bool,
) -> SegmentTable:
    """`localize` of videos that all have T snippets."""
    video, label = np.nonzero(select_classes(video_scores, threshold=class_threshold))
    num_samples = scores.shape[1] * scale
    block = max(1, _BLOCK_SAMPLES // max(num_samples, 1))
    owners, places, values = [np.empty(0, np.int64)], [np.empty((0, 2), np.int64)], [np.empty(0)]
    for begin in range(0, len(video), block):
        own = video[begin : begin + block], slice(None), label[begin : begin + block]
        curves = upsample(scores[own], scale=scale, extrapolate=extrapolate)
        runs = propose(curves, thresholds=thresholds, drop_lone_first=drop_lone_first)
        if min_snippets > 1:
            long_enough = runs.last + 1 - runs.first >= min_snippets * scale
            runs = Runs(*(column[long_enough] for column in runs))
        if ranked is not None:
            curves = upsample(ranked[own], scale=scale, extrapolate=extrapolate)
        contrast = outer_inner_contrast(curves, runs.curve, runs.first, runs.last, **margins)
        owner = runs.curve + begin
        owners.append(owner)
        places.append(np.stack([runs.first, runs.last + 1], axis=1))
        # The product stays in the dtype of the video scores, as in the published program.
        values.append(contrast + score_weight * video_scores[video[owner], label[owner]])

    group, place, value = np.concatenate(owners), np.concatenate(places), np.concatenate(values)
    segment = place * (durations[video[group]].astype(np.float64) / num_samples)[:, None]
    if fuse is not None:
        fused = fuse(segment, value, group)
        return SegmentTable(video[fused.group], label[fused.group], fused.segment, fused.score)
    row, score = nms(place / scale if nms_in_snippets else segment, value, group)
    return SegmentTable(video[group[row]], label[group[row]], segment[row], score)


def _check(
    scores: np.ndarray,
    video_scores: np.ndarray,
    durations: np.ndarray,
    ranked: np.ndarray | None,
    lengths: np.ndarray | None,
) -> None:
    if scores.ndim != 3 or video_scores.shape != scores.shape[::2] or durations.shape != scores.shape[:1]:
        raise ValueError(
            "localize needs scores (V, T, C), video_scores (V, C) and durations (V,), got "
            f"{scores.shape}, {video_scores.shape} and {durations.shape}"
        )
    if ranked is not None and ranked.shape != scores.shape:
        raise ValueError(f"ranked must have the shape of scores, {scores.shape}, got {ranked.shape}")
    if lengths is not None and lengths.shape != durations.shape:
        raise ValueError(f"lengths must have shape {durations.shape}, one number a video, got {lengths.shape}")
    if lengths is not None and (outside := (lengths < 1) | (lengths > scores.shape[1])).any():
        first = np.argmax(outside)
        raise ValueError(f"length of video {first} is {lengths[first]} snippets, expected 1 to {scores.shape[1]}")
    for name, array in (
        ("scores", scores),
        ("ranked", ranked),
        ("video_scores", video_scores),
        ("durations", durations),
    ):
        if array is not None and not np.isfinite(array).all():
            broken = ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
            raise ValueError(f"{name} of video {np.argmax(broken)} hold NaN or infinity")
    if (durations <= 0).any():
        first = np.argmax(durations <= 0)
        raise ValueError(f"duration of video {first} is {durations[first]} s, expected more than 0")
