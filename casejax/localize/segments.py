"""From snippet scores to detections, by the options of localisation.

Everything here is NumPy on arrays of many videos at once; nothing loops over proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from casejax.array_types import Float, Int
from casejax.localize.arguments import check_number, takes
from casejax.localize.fusion import fuse_table
from casejax.localize.nms import NMS, Survivors
from casejax.localize.proposals import Runs, outer_inner_contrast, propose, select_classes, upsample
from casejax.localize.smoothing import smooth
from casejax.localize.tcam import localize_tcam
from casejax.localize.templates import Template, exponential, gaussian, student_t, uniform
from casejax.records import Localization, SegmentTable

TEMPLATES: dict[str, Template] = {
    "gaussian": gaussian,
    "uniform": uniform,
    "exponential": exponential,
    "student_t": student_t,
}

_BLOCK_SAMPLES = 2**18  # samples of upsampled curves held at a time: two megabytes, which stay in cache


@takes("scores", "video_scores", "durations", "ranked", whole=("lengths",), nan=True)
def localize(
    scores: Float[np.ndarray, "V T C"],
    video_scores: Float[np.ndarray, "V C"],
    durations: Float[np.ndarray, "V"],
    *,
    options: Localization = Localization(),
    ranked: Float[np.ndarray, "V T C"] | None = None,
    lengths: Int[np.ndarray, "V"] | None = None,
    suppress: Callable[[np.ndarray, np.ndarray, np.ndarray], Survivors] | None = None,
) -> SegmentTable:
    """Detections of many videos from their snippet scores.

    Proposals "thresholds": classes are selected, their curves smoothed, upsampled and thresholded, every run becomes a
    proposal scored OIC + score_weight * (video score of its class), and suppression or fusion acts on each video and
    class. Proposals "positive": `localize_tcam` on the smoothed scores of every video.

    Args:
      scores: fused T-CAS, T snippets that cover the whole video evenly.
      video_scores: video-level class scores.
      durations: seconds the T snippets cover: snippets of the original video times 16 / 25, not T times.
      options: how; those of sampling have no part in it.
      ranked: scores whose outer-inner contrast ranks a proposal; default `scores`, which are thresholded.
      lengths: snippets of each video; those behind are padding. Default: all have T.
      suppress: in the place of the suppression that the options name; takes the segments (n, 2) of all videos in
        `options.nms_unit`, scores (n,) and groups (n,), one group a video and class.

    Returns:
      Detections in seconds, ordered by video, then class, then as suppression or fusion leaves them.

    Raises:
      ValueError: shapes that disagree; NaN or infinite scores of real snippets, a duration that is not positive, a
        length that is not from 1 to T, where the message names the first such video; `suppress` where nothing is
        suppressed.

    Example:
      >>> import numpy as np
      >>> from casejax.localize import localize
      >>> from casejax.records import Localization
      >>> scores = np.zeros((1, 20, 2))  # one video, 20 snippets of 2 seconds
      >>> scores[0, 5:10, 1] = 0.9  # from 10 s to 20 s
      >>> found = localize(scores, [[0.1, 0.8]], [40.0], options=Localization(nms="hard"))
      >>> print(found.label, found.segment.round(1), found.score.round(2))
      [1] [[ 8.5 19.6]] [0.93]
    """
    _check(scores, video_scores, durations, ranked, lengths)
    if suppress is not None and (options.proposals != "thresholds" or options.fusion != "none"):
        raise ValueError(
            'suppress takes the place of suppression, which needs proposals="thresholds" and fusion="none"; got '
            f'"{options.proposals}" and "{options.fusion}"'
        )
    check_number(options.score_weight, "score_weight", "be finite")
    lengths = np.full(len(scores), scores.shape[1]) if lengths is None else lengths
    if options.proposals == "regressed":
        raise ValueError('scores are thresholded, got proposals="regressed"; localize_proposals takes such segments')
    if options.proposals == "positive":
        return _positive(scores, durations, lengths, options)
    video, label = np.nonzero(select_classes(video_scores, threshold=options.class_threshold))
    own = video, slice(None), label
    group, place, contrast = _proposals(scores[own], None if ranked is None else ranked[own], lengths[video], options)
    # The product stays in the dtype of the video scores, as in the published program.
    score = contrast + options.score_weight * video_scores[video[group], label[group]]
    num_samples = lengths[video[group]] * options.scale
    segment = place * (durations[video[group]].astype(np.float64) / num_samples)[:, None]
    found = SegmentTable(video, label, segment, score)
    return _suppressed(found, group, place / options.scale, options, suppress)


@takes("segments", "scores", "video_scores", "snippet_seconds", whole=("labels",))
def localize_proposals(
    segments: Float[np.ndarray, "V K 2"],
    labels: Int[np.ndarray, "V K"],
    scores: Float[np.ndarray, "V K"],
    video_scores: Float[np.ndarray, "V C"],
    snippet_seconds: Float[np.ndarray, "V"],
    *,
    options: Localization = Localization(proposals="regressed"),
    suppress: Callable[[np.ndarray, np.ndarray, np.ndarray], Survivors] | None = None,
) -> SegmentTable:
    """Detections of many videos from proposals that a method regresses itself.

    Classes are selected by the video's scores; suppression or fusion acts on each video and class.

    Args:
      segments: start and end, snippets; one that does not end after it starts is left out.
      labels: classes.
      scores: by which proposals rank; one that is not above 0 is left out.
      video_scores: video-level class scores.
      snippet_seconds: seconds that a snippet stands for.
      options: how.
      suppress: as for `localize`.

    Returns:
      Detections in seconds, ordered by video, then class, then as suppression or fusion leaves them.

    Raises:
      ValueError: shapes that disagree, a label that is no class, or `suppress` where nothing is suppressed.

    Example:
      >>> from casejax.localize import localize_proposals
      >>> segments = [[[5.0, 10.0], [5.5, 10.5], [14.0, 16.0]]]  # snippets of one video
      >>> found = localize_proposals(segments, [[1, 1, 1]], [[0.9, 0.6, 0.5]], [[0.1, 0.8]], [2.0])
      >>> print(found.segment, found.score.round(2))  # the suppressed one is last, decayed
      [[10. 20.]
       [28. 32.]
       [11. 21.]] [0.9  0.5  0.08]
    """
    shape = scores.shape
    wrong = segments.shape != (*shape, 2) or labels.shape != shape or scores.ndim != 2 or video_scores.ndim != 2
    if wrong or len(video_scores) != shape[0] or snippet_seconds.shape != shape[:1]:
        raise ValueError(
            "localize_proposals needs segments (V, K, 2), labels and scores (V, K), video_scores (V, C) and "
            f"snippet_seconds (V,), got {segments.shape}, {labels.shape}, {shape}, {video_scores.shape} and "
            f"{snippet_seconds.shape}"
        )
    if suppress is not None and options.fusion != "none":
        raise ValueError(f'suppress takes the place of suppression, which needs fusion="none", got "{options.fusion}"')
    if labels.size and not 0 <= labels.min() <= labels.max() < video_scores.shape[1]:
        raise ValueError(f"labels must lie from 0 to {video_scores.shape[1] - 1}, got {labels.min()} to {labels.max()}")
    selected = select_classes(video_scores, threshold=options.class_threshold)
    lengths = segments[..., 1] - segments[..., 0]
    real = (scores > 0) & (lengths > 0) & (lengths >= options.min_snippets)
    video, place = np.nonzero(real & np.take_along_axis(selected, labels, axis=1))
    order = np.lexsort((labels[video, place], video))
    video, place = video[order], place[order]
    own = video, place
    names, group = np.unique(video * video_scores.shape[1] + labels[own], return_inverse=True)
    snippets = segments[own].astype(np.float64)
    found = SegmentTable(
        names // video_scores.shape[1],
        names % video_scores.shape[1],
        snippets * snippet_seconds[video][:, None],
        scores[own].astype(np.float64),
    )
    return _suppressed(found, group, snippets, options, suppress)


def _suppressed(
    found: SegmentTable,
    group: np.ndarray,
    snippets: np.ndarray,
    options: Localization,
    suppress: Callable[[np.ndarray, np.ndarray, np.ndarray], Survivors] | None,
) -> SegmentTable:
    """What suppression or fusion leaves of proposals in seconds and in snippets, with video and label by group."""
    video, label, segment, score = found
    if options.fusion != "none":
        fused = fuse_table(segment, score, group, template=TEMPLATES[options.fusion])
        return SegmentTable(video[fused.group], label[fused.group], fused.segment, fused.score)
    suppress = suppress or partial(NMS[options.nms](options), plus_one=options.nms_plus_one)
    row, score = suppress(snippets if options.nms_unit == "snippets" else segment, score, group)
    return SegmentTable(video[group[row]], label[group[row]], segment[row], score)


def _proposals(
    curves: np.ndarray, ranked: np.ndarray | None, lengths: np.ndarray, options: Localization
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curve, samples [first, stop) and contrast of every proposal in curves (G, T), cut to their lengths."""
    groups, places, contrasts = [np.empty(0, np.int64)], [np.empty((0, 2), np.int64)], [np.empty(0)]
    for block, length in _blocks(lengths, options.scale):
        samples = _samples(curves[block, :length], options)
        runs = propose(samples, thresholds=options.thresholds, drop_lone_first=options.drop_lone_first)
        if options.min_snippets > 1:
            long_enough = runs.last + 1 - runs.first >= options.min_snippets * options.scale
            runs = Runs(*(column[long_enough] for column in runs))
        if ranked is not None:
            samples = _samples(ranked[block, :length], options)
        contrast = outer_inner_contrast(
            samples,
            runs.curve,
            runs.first,
            runs.last,
            outer_ratio=options.outer_ratio,
            outer_power=options.outer_power,
            scale=options.scale,
        )
        groups.append(runs.curve + block.start)
        places.append(np.stack([runs.first, runs.last + 1], axis=1))
        contrasts.append(contrast)
    return np.concatenate(groups), np.concatenate(places), np.concatenate(contrasts)


def _samples(curves: np.ndarray, options: Localization) -> np.ndarray:
    """Curves (G, T) of real snippets, smoothed and upsampled."""
    smoothed = smooth(curves, width=options.smooth_width, degree=options.smooth_degree)
    return upsample(smoothed, scale=options.scale, extrapolate=options.extrapolate)


def _blocks(lengths: np.ndarray, scale: int) -> Iterator[tuple[slice, int]]:
    """Curves that are upsampled together, and their length: neighbours of one length, few enough to stay in cache."""
    begin = 0
    while begin < len(lengths):
        length = int(lengths[begin])
        ahead = lengths[begin : begin + max(1, _BLOCK_SAMPLES // max(length * scale, 1))]
        block = slice(begin, begin + int(np.argmax(np.append(ahead, -1) != length)))
        yield block, length
        begin = block.stop


def _positive(scores: np.ndarray, durations: np.ndarray, lengths: np.ndarray, options: Localization) -> SegmentTable:
    """Stretches of positive scores; suppression and fusion have no part in it."""
    found = localize_tcam(
        [
            smooth(curve[:length].T, width=options.smooth_width, degree=options.smooth_degree).T
            for curve, length in zip(scores, lengths, strict=True)
        ],
        class_threshold=options.class_threshold,
        min_snippets=options.min_snippets,
        snippet_seconds=1.0,
    )
    return found._replace(segment=found.segment * (durations / lengths)[found.video][:, None])


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
        if array is None or np.isfinite(array).all():
            continue
        broken = ~np.isfinite(array)
        if array.ndim == 3 and lengths is not None:  # what lies behind a video is not read
            broken &= (np.arange(array.shape[1]) < lengths[:, None])[..., None]
        broken = broken.any(axis=tuple(range(1, array.ndim)))
        if broken.any():
            raise ValueError(f"{name} of video {np.argmax(broken)} hold NaN or infinity")
    if (durations <= 0).any():
        first = np.argmax(durations <= 0)
        raise ValueError(f"duration of video {first} is {durations[first]} s, expected more than 0")
