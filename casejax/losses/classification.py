"""Losses of classes, of videos and of snippets; one value an example, for the caller to average."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float
from casejax.arrays.arguments import takes
from casejax.losses.pooling import ABSENT, top_k_mean


@takes()
def video_cross_entropy(
    video_scores: Float[Array, "b c"], labels: Float[Array, "b c"], *, smoothing: float = 1e-10
) -> Float[Array, " b"]:
    """Video classification loss, Eq. 1 of CASE with the softmax of Eq. 16.

    Args:
      video_scores: (B, C) pooled scores, before the softmax.
      labels: (B, C) zeros and ones, one or more classes a video; divided by their number, so that they sum to 1.
      smoothing: then added to the target of every class, as in the published program.

    Returns:
      (B,) losses; a video without a label gives the (negligible) loss of `smoothing` alone.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> scores = jnp.array([[2.0, 2.0, -30.0], [0.0, 0.0, 0.0]])
      >>> labels = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
      >>> print(np.asarray(losses.video_cross_entropy(scores, labels)).round(3))  # log 2 and log 3
      [0.693 1.099]
    """
    return soft_cross_entropy(video_scores, shared_out(labels) + smoothing)


@takes()
def generalized_bce(
    probabilities: Float[Array, "*b t"],
    labels: Float[Array, "*b t"],
    *,
    exponent: float = 0.7,
    mask: Bool[Array, "*b t"] | None = None,
    guard: float = 1e-7,
) -> Float[Array, "*b"]:
    """Generalized binary cross-entropy, Eq. 2 of CASE: foreground and background are averaged separately.

    The exponent trades noise tolerance (1: mean absolute error) for speed of fit (towards 0: binary
    cross-entropy, which exponent 0 gives exactly).

    Args:
      probabilities: (..., T) foreground probabilities in [0, 1].
      labels: (..., T) foreground labels in [0, 1].
      exponent: gamma of Eq. 2 (q in the published program), in [0, 1]; static.
      mask: True for real snippets; default all.
      guard: added to both probabilities and both counts; bounds the gradient at 0 and 1.

    Returns:
      (...) losses, one a video. A side without a snippet contributes 0. Values outside [0, 1] may give NaN.

    Raises:
      ValueError: `exponent` outside [0, 1].

    References:
      Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
      Labels", NeurIPS 2018; Ma et al., "Weakly Supervised Action Selection Learning in Video", CVPR 2021.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> probabilities, labels = jnp.array([[0.9, 0.8, 0.2, 0.1]]), jnp.array([[1.0, 1.0, 0.0, 0.0]])
      >>> print(np.asarray(losses.generalized_bce(probabilities, labels, exponent=1.0)).round(3))  # 0.15 either side
      [0.3]
      >>> print(np.asarray(losses.generalized_bce(probabilities, labels, exponent=0.0)).round(3))  # cross-entropy
      [0.329]
    """
    if not 0 <= exponent <= 1:
        raise ValueError(f"exponent must lie in [0, 1], got {exponent}")
    if mask is not None:
        probabilities = jnp.where(mask, probabilities, 0.5)

    def penalty(p: Float[Array, "*b t"]) -> Float[Array, "*b t"]:
        return -jnp.log(p + guard) if exponent == 0 else (1 - (p + guard) ** exponent) / exponent

    def side(weights: Float[Array, "*b t"], p: Float[Array, "*b t"]) -> Float[Array, "*b"]:
        if mask is not None:
            weights = jnp.where(mask, weights, 0)
        return (weights * penalty(p)).sum(axis=-1) / (weights.sum(axis=-1) + guard)

    return side(labels, probabilities) + side(1 - labels, 1 - probabilities)


@takes()
def soft_cross_entropy(logits: Float[Array, "*n k"], targets: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Cross-entropy to soft labels over the last axis; Eqs. 3 and 6 of CASE are its means.

    Args:
      logits: (..., K), before the softmax.
      targets: (..., K) probabilities.

    Returns:
      (...) losses, one a row.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]))
      >>> targets = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
      >>> print(np.asarray(losses.soft_cross_entropy(logits, targets)).round(3))  # log 2 and log 4
      [0.693 1.386]
    """
    return -(targets * jax.nn.log_softmax(logits)).sum(axis=-1)


@takes()
def entropy(labels: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Entropy over the last axis in nats; 0 log 0 is 0.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> labels = jnp.array([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]])
      >>> print(np.asarray(losses.entropy(labels)).round(3))  # log 4 and log 2
      [1.386 0.693]
    """
    return -(labels * jnp.log(jnp.where(labels > 0, labels, 1))).sum(axis=-1)


@takes()
def mil_loss(
    cas: Float[Array, "b t c"],
    labels: Float[Array, "b c"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    divisor: int = 8,
) -> Float[Array, " b"]:
    """Multiple-instance learning: cross-entropy of each class's top-k mean with the video's labels.

    The labels are divided by their number. The number of pooled snippets is rounded up, as A2CL-PT and W-TALC have it.

    Args:
      cas: (B, T, C) class logits.
      labels: (B, C) zeros and ones.
      mask: True for real snippets; default all.
      divisor: one in so many snippets is pooled.

    Returns:
      (B,) losses; 0 for a video without a label, for which the published program has NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> cas = jnp.array([[[4.0, 0.0], [2.0, 0.0], [-9.0, 0.0], [-9.0, 0.0]]])  # upper halves: 3 and 0 on average
      >>> labels = jnp.array([[1.0, 0.0]])
      >>> print(np.asarray(losses.mil_loss(cas, labels, divisor=2)).round(3))  # log(1 + exp(-3))
      [0.049]
    """
    pooled = top_k_mean(cas, divisor=divisor, rounding="up", mask=mask)
    return video_cross_entropy(pooled, labels, smoothing=0.0)


@takes()
def softmax_bce(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, " b"]:
    """Binary cross-entropy of every class's softmax probability, mean over classes.

    Args:
      logits: (B, K), before the softmax.
      targets: (B, K) in [0, 1].

    Returns:
      (B,) losses. Both logarithms come from the logits, so they need no lower limit as in the published program.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))  # the mean of log 2, log 4/3 and log 4/3
      >>> print(np.asarray(losses.softmax_bce(logits, jnp.array([[1.0, 0.0, 0.0]]))).round(3))
      [0.423]
    """
    total = jax.nn.logsumexp(logits, axis=1, keepdims=True)
    own = jnp.eye(logits.shape[1], dtype=bool)[None]
    others = jax.nn.logsumexp(jnp.where(own, ABSENT, logits[:, None, :]), axis=2)
    return -(targets * (logits - total) + (1 - targets) * (others - total)).mean(axis=1)


@takes()
def shared_out(labels: Float[Array, "b k"]) -> Float[Array, "b k"]:
    """Labels of each video divided by their sum, where that is 1 or more, so that they sum to 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> print(losses.shared_out(jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])))
      [[0.5 0.5 0. ]
       [0.  0.  0. ]]
    """
    return labels / jnp.maximum(labels.sum(axis=1, keepdims=True), 1)


@takes()
def with_background(labels: Float[Array, "b c"], background: float) -> Float[Array, "b k"]:
    """Labels (B, C + 1) of the classes and, last, of background: the same number in every video, such as 1 or 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> print(losses.with_background(jnp.array([[1.0, 0.0], [0.0, 1.0]]), 1))
      [[1. 0. 1.]
       [0. 1. 1.]]
    """
    return jnp.concatenate([labels, jnp.full_like(labels[:, :1], background)], axis=1)
