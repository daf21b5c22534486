"""Contrast between mined snippets: which of a kind are taken, and how one mean embedding is drawn to another."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float
from casejax.arrays.arguments import takes
from casejax.losses.pooling import ABSENT, select_top_k, time_mean
from casejax.losses.vectors import unit


@takes(by="kinds")
def best_of_kinds(
    kinds: Bool[Array, "b t #n"],
    by: Float[Array, "b t #n"],
    *,
    divisor: int,
    fill: bool = False,
    mask: Bool[Array, "b t"] | None = None,
) -> Bool[Array, "n b t"]:
    """The best snippets of each of N kinds: one in `divisor` of a video's snippets, at least one.

    Args:
      kinds: (B, T, N) True where a snippet is of a kind.
      by: (B, T, N) by which the snippets of a kind are ranked; not negative.
      divisor: one in so many snippets is taken.
      fill: where there are too few of a kind, fill up with the first snippets of the video, as in effect the
        published programs do (with which, they leave to their sort); default: take fewer.
      mask: True for real snippets; default all.

    Returns:
      (N, B, T) True for the snippets that are taken.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> attention = jnp.array([[0.9, 0.6, 0.2, 0.1]])[:, :, None]
      >>> kinds = jnp.concatenate([attention > 0.5, attention < 0.5], axis=2)  # foreground and background
      >>> taken = losses.best_of_kinds(kinds, jnp.concatenate([attention, 1 - attention], axis=2), divisor=4)
      >>> print(taken[:, 0].astype(int))  # one in four: the surest of each kind
      [[1 0 0 0]
       [0 0 0 1]]
    """
    if mask is not None:
        kinds = kinds & mask[..., None]
    taken = select_top_k(jnp.where(kinds, by, 0 if fill else -1), divisor=divisor, mask=mask)
    return jnp.moveaxis(taken if fill else taken & kinds, 2, 0)


@takes(embedding="query positive negatives")
def mined_contrast(
    embedding: Float[Array, "b t d"],
    query: Bool[Array, "b t"],
    positive: Bool[Array, "b t"],
    negatives: Bool[Array, "b t"],
    *,
    temperature: float | Float[Array, ""],
) -> Float[Array, " b"]:
    """InfoNCE on cosines: the query's mean embedding is drawn to the positive's and away from every negative.

    Args:
      embedding: (B, T, D).
      query: (B, T) True for snippets whose mean is the query.
      positive: (B, T) True for snippets whose mean is the positive.
      negatives: (B, T) True for snippets each of which is a negative.
      temperature: divides the cosines.

    Returns:
      (B,) losses; 0 for a video without a query or without a positive.

    References:
      Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, Eq. 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> embedding = jnp.array([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]])
      >>> query, positive, negatives = jnp.eye(3, dtype=bool)[:, None]  # one snippet each
      >>> loss = losses.mined_contrast(embedding, query, positive, negatives, temperature=1.0)
      >>> print(np.asarray(loss).round(3))  # log(1 + 1/e)
      [0.313]
    """
    # What takes no part must not spoil the gradient either.
    embedding = jnp.where((query | positive | negatives)[:, :, None], embedding, 0)
    wanted = unit(time_mean(embedding, mask=query))
    near = (wanted * unit(time_mean(embedding, mask=positive))).sum(axis=1, keepdims=True) / temperature
    far = jnp.einsum("bd,btd->bt", wanted, unit(embedding), precision="highest") / temperature
    logits = jnp.concatenate([near, jnp.where(negatives, far, ABSENT)], axis=1)
    loss = -jax.nn.log_softmax(logits)[:, 0]
    return jnp.where(query.any(axis=1) & positive.any(axis=1), loss, 0)
