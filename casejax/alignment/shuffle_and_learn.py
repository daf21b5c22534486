"""Shuffle and Learn: tell three frames in the order of time from three that were shuffled.

Misra, Zitnick and Hebert, "Shuffle and Learn: Unsupervised Learning using Temporal Order Verification", ECCV 2016. The
triplets are drawn by `sampling.random_triplets`, the classifier is `casejax.alignment.networks.heads.OrderHead`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float, Int
from casejax.arrays.arguments import check_index, takes


def in_order(frames: Int[Array, "*r 3"]) -> Bool[Array, "*r"]:
    """Whether the second of three frames lies strictly between the first and the third."""
    first, middle, last = frames[..., 0], frames[..., 1], frames[..., 2]
    return ((first < middle) & (middle < last)) | ((first > middle) & (middle > last))


@takes()
def triplet_features(
    embeddings: Float[Array, "b t d"], videos: Int[Array, " r"], frames: Int[Array, "r 3"]
) -> Float[Array, "r e"]:
    """The embeddings of three frames end to end, the input of the classifier.

    Args:
      embeddings: (B, T, D).
      videos: (R,) the video of every row.
      frames: (R, 3) places among its T frames.

    Returns:
      (R, 3 D).

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> embeddings = jnp.arange(6.0).reshape(1, 3, 2)
      >>> alignment.triplet_features(embeddings, jnp.array([0]), jnp.array([[0, 2, 1]]))
      Array([[0., 1., 4., 5., 2., 3.]], dtype=float32)
    """
    check_index(videos, "videos", embeddings.shape[0])
    check_index(frames, "frames", embeddings.shape[1])
    return embeddings[videos[:, None], frames].reshape(len(videos), -1)


@takes()
def shuffle_and_learn_loss(logits: Float[Array, "*r 2"], labels: Int[Array, "*r"]) -> Float[Array, "*r"]:
    """Cross-entropy of the two classes.

    Args:
      logits: (..., 2) of frames in order and of shuffled ones.
      labels: (...) 0 for frames in order, 1 for shuffled ones.

    Returns:
      (...) losses, one a triplet.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> alignment.shuffle_and_learn_loss(jnp.zeros((1, 2)), jnp.array([1])).round(3)
      Array([0.693], dtype=float32)
    """
    check_index(labels, "labels", 2)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
