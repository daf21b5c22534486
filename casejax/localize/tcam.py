"""Detections from a T-CAM of logits, as A2CL-PT makes them: stretches above zero, without thresholds or suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from casejax.array_types import Array, Float, Num
from casejax.localize.arguments import as_floats, check_number, takes
from casejax.localize.proposals import propose
from casejax.records import SNIPPET_SECONDS, SegmentTable


@takes("tcam")
def confidences(tcam: Float[np.ndarray, "T C"], *, divisor: int = 8) -> Float[np.ndarray, " C"]:
    """Confidence that each class is in a video: the mean of its highest scores, their number rounded up.

    For one whole video, in NumPy; `losses.top_k_mean` with `rounding="up"` is the same for a batch in JAX.

    Args:
      tcam: (T, C) class scores of all snippets.
      divisor: one in so many snippets is pooled.

    Raises:
      ValueError: no snippet, a divisor below 1, or a NaN score.

    Example:
      >>> from casejax.localize import confidences
      >>> print(confidences([[1.0, 0.0], [3.0, 0.0], [2.0, 0.5], [0.0, 0.0]], divisor=2))  # of the upper half
      [2.5  0.25]
    """
    check_number(divisor, "divisor", "be 1 or more", lambda x: x >= 1)
    if tcam.ndim != 2 or not len(tcam):
        raise ValueError(f"tcam must be (T, C) with a snippet or more, got {tcam.shape}")
    count = -(-len(tcam) // divisor)
    return np.sort(tcam, axis=0)[::-1][:count].mean(axis=0)


def localize_tcam(
    tcams: Sequence[Float[np.ndarray, "_ _"] | Sequence[Any]] | Num[Array | np.ndarray, "v t c"],
    *,
    divisor: int = 8,
    class_threshold: float = 0.5,
    min_snippets: int = 2,
    snippet_seconds: float = SNIPPET_SECONDS,
) -> SegmentTable:
    """Detections of videos of any lengths.

    Classes are kept whose confidence is above 0 and above `class_threshold` times the best one's. Every stretch of
    snippets with positive scores is a detection; its score is the highest in it plus the class's confidence.

    Args:
      tcams: (T, C) of each video, the network's `tcam` of all its snippets.
      divisor: see `confidences`.
      class_threshold: share of the best class's confidence.
      min_snippets: shorter stretches are dropped.
      snippet_seconds: what a snippet covers.

    Returns:
      Detections in seconds, ordered by video, class and time.

    Raises:
      ValueError: an option out of range, a video without a snippet, scores that are not finite, or videos of different
        numbers of classes; the message names the first such video.

    Example:
      >>> import numpy as np
      >>> from casejax.localize import localize_tcam
      >>> tcam = np.full((8, 2), -1.0)
      >>> tcam[2:5, 0] = [1.0, 3.0, 2.0]
      >>> found = localize_tcam([tcam], snippet_seconds=1.0)
      >>> print(found.label, found.segment, found.score)  # the greatest score and the confidence, both 3
      [0] [[2. 5.]] [6.]
    """
    if not (divisor >= 1 and min_snippets >= 1 and 0 <= class_threshold <= 1 and snippet_seconds > 0):
        raise ValueError(
            "divisor and min_snippets must be 1 or more, class_threshold lie in [0, 1] and snippet_seconds be above 0, "
            f"got {divisor}, {min_snippets}, {class_threshold} and {snippet_seconds}"
        )
    videos, labels, segments, scores = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty((0, 2))], []
    arrays = [as_floats(tcam, f"scores of video {v}", nan=True) for v, tcam in enumerate(tcams)]
    for v, tcam in enumerate(arrays):
        if tcam.ndim != 2 or not len(tcam) or tcam.shape[1] != arrays[0].shape[1]:
            raise ValueError(
                f"video {v}: scores must be (T, {arrays[0].shape[-1]}) as those of video 0, with a snippet or more; "
                f"got {tcam.shape}"
            )
        if not np.isfinite(tcam).all():
            raise ValueError(f"video {v}: scores hold NaN or infinity")
        confidence = confidences(tcam, divisor=divisor)
        kept = np.flatnonzero((confidence > confidence.max() * class_threshold) & (confidence > 0))
        curves = tcam[:, kept].T
        runs = propose(curves, thresholds=(0.0,), drop_lone_first=False)
        long_enough = runs.last + 1 - runs.first >= min_snippets
        row, first, stop = runs.curve[long_enough], runs.first[long_enough], runs.last[long_enough] + 1
        label = kept[row]
        videos.append(np.full(len(row), v))
        labels.append(label)
        segments.append(np.stack([first, stop], axis=1) * snippet_seconds)
        scores.append(_highest(curves, row, first, stop) + confidence[label])
    return SegmentTable.from_rows(
        np.concatenate(videos), np.concatenate(labels), np.concatenate(segments), np.concatenate([*scores, np.empty(0)])
    )


def _highest(curves: np.ndarray, row: np.ndarray, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Maximum of each run [first, stop) of a row; the runs are in order and do not touch."""
    width = curves.shape[1] + 1  # one more, so that a run may end with the curve
    flat = np.pad(curves, [(0, 0), (0, 1)]).ravel()
    edges = (row[:, None] * width + np.stack([first, stop], axis=1)).ravel()
    return np.maximum.reduceat(flat, edges)[::2] if len(edges) else np.empty(0, curves.dtype)
