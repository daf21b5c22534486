"""Classification: how well the selected classes of a video fit its labels, and scores of snippets what they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from casejax.array_types import Bool, Float, Shaped
from casejax.localize.arguments import takes


class ClassificationMetrics(NamedTuple):
    """Video-level metrics in [0, 1]; NaN where nothing is there to measure."""

    accuracy: float
    mean_average_precision: float


@takes("scores", "labels", flags=("selected",), nan=True)
def classification_metrics(
    scores: Float[np.ndarray, "V C"], selected: Bool[np.ndarray, "V C"], labels: Shaped[np.ndarray, "V C"]
) -> ClassificationMetrics:
    """Accuracy of the selected classes, and mean average precision of the class scores.

    Accuracy is the share of videos whose selected classes are exactly their labels, as the CASE program
    counts it. Average precision of a class is the mean, over the videos that have it, of the precision
    among all videos that score at least as high, so equal scores share a precision whatever their order;
    the mean runs over the classes that some video has.

    Args:
      scores: video-level class scores.
      selected: classes chosen for each video, see `casejax.localize.select_classes`.
      labels: multi-hot video-level labels; whatever is positive counts.

    Raises:
      ValueError: shapes that disagree, NaN scores or labels, or a selection that isn't boolean.

    Example:
      >>> import numpy as np
      >>> from casejax import evaluate
      >>> scores, labels = np.array([[0.9, 0.2], [0.6, 0.7]]), np.array([[1, 0], [1, 1]])
      >>> evaluate.classification_metrics(scores, scores > 0.65, labels)
      ClassificationMetrics(accuracy=0.5, mean_average_precision=1.0)
    """
    if scores.ndim != 2 or not scores.shape == selected.shape == labels.shape:
        raise ValueError(
            "scores, selected and labels need one shape (V, C), got "
            f"{scores.shape}, {selected.shape} and {labels.shape}"
        )
    for name, values in (("scores", scores), ("labels", labels)):
        if np.isnan(values).any():
            raise ValueError(f"{name} of video {np.argwhere(np.isnan(values))[0, 0]} hold NaN")
    present = labels > 0
    exact = (selected == present).all(axis=1)
    precisions = [_average_precision(scores[:, c], present[:, c]) for c in np.flatnonzero(present.any(axis=0))]
    return ClassificationMetrics(
        float(exact.mean()) if len(exact) else float("nan"),
        float(np.mean(precisions)) if precisions else float("nan"),
    )


@takes("scores", flags=("positive",))
def area_under_roc(scores: Float[np.ndarray, "..."], positive: Bool[np.ndarray, "..."]) -> float:
    """Chance that a positive scores above a negative, equal scores counting half: the area under the ROC curve.

    Args:
      scores: of snippets or of anything else.
      positive: which are positive, such as the annotated snippets.

    Returns:
      In [0, 1]; 0.5 for scores that say nothing, NaN without a positive or without a negative.

    Raises:
      ValueError: shapes that disagree, or NaN scores.
    """
    if scores.shape != positive.shape:
        raise ValueError(f"scores and positive need one shape, got {scores.shape} and {positive.shape}")
    hits, others = scores[positive], np.sort(scores[~positive])
    if not len(hits) or not len(others):
        return float("nan")
    below, up_to = (np.searchsorted(others, hits, side=side).mean() for side in ("left", "right"))
    return float((below + up_to) / 2 / len(others))


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    at_least = len(scores) - np.searchsorted(np.sort(scores), scores[positive])
    positives = np.count_nonzero(positive) - np.searchsorted(np.sort(scores[positive]), scores[positive])
    return float((positives / at_least).mean())
