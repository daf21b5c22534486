"""The losses of weakly-supervised localisation; one value an example, for the caller to average."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


def top_k_mean(values: Float[Array, "b t c"], selected: Bool[Array, "b t c"]) -> Float[Array, "b c"]:
    """Video-level scores by temporal pooling over the selected snippets (Eq. 16 of CASE, inner mean).

    Args:
      values: (B, T, C) snippet scores, logits or probabilities.
      selected: (B, T, C) the snippets to pool, `self_labels.select_top_k`.

    Returns:
      (B, C) means; 0 where nothing is selected.
    """
    count = selected.sum(axis=1)
    return jnp.where(selected, values, 0).sum(axis=1) / jnp.maximum(count, 1).astype(values.dtype)


def video_cross_entropy(
    video_scores: Float[Array, "b c"], labels: Float[Array, "b c"], *, smoothing: float = 1e-10
) -> Float[Array, " b"]:
    """Video classification loss, Eq. 1 of CASE with the softmax of Eq. 16.

    Args:
      video_scores: (B, C) pooled scores, before the softmax.
      labels: (B, C) zeros and ones, one or more classes a video; shared out to sum to 1.
      smoothing: added to every target class after that, as the published program does.

    Returns:
      (B,) losses; a video without a label gives the (negligible) loss of `smoothing` alone.
    """
    total = labels.sum(axis=-1, keepdims=True)
    target = labels / jnp.where(total > 0, total, 1) + smoothing
    return -(target * jax.nn.log_softmax(video_scores)).sum(axis=-1)


def generalized_bce(
    probabilities: Float[Array, "*b t"],
    labels: Float[Array, "*b t"],
    *,
    exponent: float = 0.7,
    mask: Bool[Array, "*b t"] | None = None,
    guard: float = 1e-7,
) -> Float[Array, "*b"]:
    """Generalized binary cross-entropy, Eq. 2 of CASE: foreground and background are averaged apart.

    The exponent trades noise tolerance (1: mean absolute error) for speed of fit (towards 0: binary
    cross-entropy, which exponent 0 gives exactly).

    Args:
      probabilities: (..., T) foreground probabilities in [0, 1].
      labels: (..., T) foreground labels in [0, 1].
      exponent: gamma of Eq. 2 (q in the published program), in [0, 1]; static.
      mask: True for real snippets; default all.
      guard: added to both probabilities and both counts; bounds the gradient at 0 and 1.

    Returns:
      (...) losses, one a video. A side without a snippet contributes 0.

    Raises:
      ValueError: `exponent` outside [0, 1].

    References:
      Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
      Labels", NeurIPS 2018; Ma et al., "Weakly Supervised Action Selection Learning in Video", CVPR 2021.
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


def soft_cross_entropy(logits: Float[Array, "*n k"], targets: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Cross-entropy to soft labels over the last axis; Eqs. 3 and 6 of CASE are its means.

    Args:
      logits: (..., K), before the softmax.
      targets: (..., K) probabilities.

    Returns:
      (...) losses, one a row.
    """
    return -(targets * jax.nn.log_softmax(logits)).sum(axis=-1)


def masked_mean(values: Float[Array, "*n"], mask: Bool[Array, "*n"] | None = None) -> Float[Array, ""]:
    """Mean over the entries that `mask` admits; 0 where it admits none."""
    if mask is None:
        return values.mean()
    return jnp.where(mask, values, 0).sum() / jnp.maximum(mask.sum(), 1).astype(values.dtype)
