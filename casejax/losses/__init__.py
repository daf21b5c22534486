"""Losses of weakly supervised localisation, and what they are made of: pooling over time, directions and angles.

Pure functions of arrays; importing this package loads jax and numpy alone. Losses return one value an example, for the
caller to average.
"""

from casejax.losses.centers import Triplets, center_loss, initial_centers, nearest_negative, triplets
from casejax.losses.classification import (
    entropy,
    generalized_bce,
    mil_loss,
    shared_out,
    soft_cross_entropy,
    softmax_bce,
    video_cross_entropy,
    with_background,
)
from casejax.losses.contrast import best_of_kinds, mined_contrast
from casejax.losses.pooling import (
    ABSENT,
    calibrate,
    class_probabilities,
    lengths,
    masked_mean,
    moving_average,
    pooled,
    select_top_k,
    selected_mean,
    stream_mean,
    time_mean,
    time_softmax,
    top_k_mean,
    without_padding,
)
from casejax.losses.vectors import angular_distance, guarded_arccos, inverse_norm, norm, unit

__all__ = [
    "video_cross_entropy",
    "generalized_bce",
    "soft_cross_entropy",
    "softmax_bce",
    "mil_loss",
    "shared_out",
    "with_background",
    "entropy",
    "center_loss",
    "initial_centers",
    "triplets",
    "Triplets",
    "nearest_negative",
    "mined_contrast",
    "best_of_kinds",
    "select_top_k",
    "selected_mean",
    "top_k_mean",
    "pooled",
    "class_probabilities",
    "calibrate",
    "stream_mean",
    "masked_mean",
    "time_mean",
    "time_softmax",
    "moving_average",
    "without_padding",
    "lengths",
    "ABSENT",
    "unit",
    "norm",
    "inverse_norm",
    "angular_distance",
    "guarded_arccos",
]
