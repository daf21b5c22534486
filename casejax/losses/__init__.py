"""Losses of weakly-supervised localisation, and what they are made of: pooling over time, directions and angles.

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
)
from casejax.losses.pooling import (
    calibrate,
    class_probabilities,
    lengths,
    masked_mean,
    moving_average,
    pool_top,
    pooled,
    select_top_k,
    stream_mean,
    time_mean,
    top_k_mean,
    without_padding,
)
from casejax.losses.vectors import angular_distance, guarded_arccos, inverse_norm, unit

__all__ = [
    "video_cross_entropy",
    "generalized_bce",
    "soft_cross_entropy",
    "softmax_bce",
    "mil_loss",
    "shared_out",
    "entropy",
    "center_loss",
    "initial_centers",
    "triplets",
    "Triplets",
    "nearest_negative",
    "select_top_k",
    "top_k_mean",
    "pool_top",
    "pooled",
    "class_probabilities",
    "calibrate",
    "stream_mean",
    "masked_mean",
    "time_mean",
    "moving_average",
    "without_padding",
    "lengths",
    "unit",
    "inverse_norm",
    "angular_distance",
    "guarded_arccos",
]
