"""Self-labels of CASE: the labels that couple all snippets of a batch.

Foreground labels Q^A, snippet labels Q^S, cluster labels Q^C, and the prototypes between them. Over several
devices these functions must see the global batch: ranks, columns of a plan and prototypes are global.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from casejax import ot
from casejax.array_types import Array, Bool, Float, Num
from casejax.arrays import takes
from casejax.losses.vectors import unit
from casejax.ot.checks import boolean, numbers, refuse
from casejax.ot.placement import spec_of, with_automatic_axes


class Labels(NamedTuple):
    """Soft labels of rows over columns, and how well they keep the marginals.

    Attributes:
      labels: (N, K); real rows sum to 1, masked rows to 0.
      row_error: share of the mass by which row sums miss their marginal.
      column_error: the same of the columns.
    """

    labels: Float[Array, "n k"]
    row_error: Float[Array, ""]
    column_error: Float[Array, ""]


@takes()
def foreground_labels(selected: Bool[Array, "b t c"], labels: Float[Array, "b c"]) -> Float[Array, "b t"]:
    """Q^A: a snippet is foreground where a class of its video selected it (section 3 of CASE).

    Args:
      selected: (B, T, C) from `losses.select_top_k`.
      labels: (B, C) video-level labels, zeros and ones.

    Returns:
      (B, T) zeros and ones.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import labels, losses
      >>> scores = jnp.array([[[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.7]]])
      >>> selected = losses.select_top_k(scores, divisor=2)  # snippets 0 and 1 for class 0, 2 and 3 for class 1
      >>> print(labels.foreground_labels(selected, jnp.array([[1.0, 0.0]])))  # only class 0 is in the video
      [[1. 1. 0. 0.]]
    """
    found = (selected & (labels > 0)[:, None, :]).any(axis=2).astype(labels.dtype)
    return jnp.where(jnp.isnan(labels).any(axis=1)[:, None], jnp.nan, found)


@takes()
def mean_probabilities(streams: Sequence[Float[Array, "n k"]]) -> Float[Array, "n k"]:
    """Co-labelling as printed, Eqs. 17-20 of CASE: log of the mean of the streams' probabilities.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import labels
      >>> rgb, flow = jnp.zeros((1, 2)), jnp.log(jnp.array([[3.0, 1.0]]))
      >>> print(np.asarray(jnp.exp(labels.mean_probabilities([rgb, flow]))).round(3))  # of 1/2, 1/2 and 3/4, 1/4
      [[0.625 0.375]]
    """
    logs = jnp.stack([jax.nn.log_softmax(logits) for logits in streams])
    return jax.nn.logsumexp(logs, axis=0) - jnp.log(jnp.asarray(len(streams), logs.dtype))


def transport_labels(
    logits: Float[Array, "n k"],
    *,
    log_prior: Float[Array, "n k"] | None = None,
    column_marginal: Float[Array, " k"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    epsilon: float | Float[Array, ""] = 0.5,
    num_iters: int = 3,
    tolerance: float | None = None,
) -> Labels:
    """Labels by optimal transport (Eqs. 7-13 of CASE): close to the model, with the marginals kept.

    Args:
      logits: (N, K) the model's logits.
      log_prior: (N, K) as `ot.gaussian_rank_prior` gives it; default flat.
      column_marginal: (K,) proportions; default equipartition.
      mask: True for real rows; default all.
      epsilon: entropic strength in units of `logits`. The published 20 * cos is 0.5 on logits of 10 * cos.
      num_iters: Sinkhorn iterations.
      tolerance: iterate until both marginal errors are below it, but at most `num_iters` times.

    Returns:
      Labels without a gradient.

    Raises:
      ValueError: as `ot.sinkhorn`.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import labels
      >>> logits = jnp.array([[10.0, 5.0], [10.0, 5.0], [10.0, 9.0], [10.0, 9.0]])  # all are in cluster 0
      >>> found = labels.transport_labels(logits, num_iters=100, tolerance=1e-4)
      >>> print(np.asarray(found.labels).round(2))  # transport fills both clusters
      [[0.98 0.02]
       [0.98 0.02]
       [0.02 0.98]
       [0.02 0.98]]
    """
    result = ot.sinkhorn(
        jax.lax.stop_gradient(numbers("logits", logits)),
        log_prior=log_prior,
        column_marginal=column_marginal,
        mask=mask,
        epsilon=epsilon,
        num_iters=num_iters,
        tolerance=tolerance,
    )
    return jax.lax.stop_gradient(Labels(result.plan, result.row_error, result.column_error))


def model_labels(logits: Num[ArrayLike, "n k"], *, mask: Bool[ArrayLike, " n"] | None = None) -> Labels:
    """Labels without transport: the model's own probabilities ("w/o OT" in Table 5 of CASE).

    Args:
      logits: (N, K) the model's logits.
      mask: True for real rows; default all.

    Returns:
      Labels without a gradient; the column error is measured against equipartition.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import labels
      >>> logits = jnp.log(jnp.array([[3.0, 1.0], [9.0, 1.0]]))
      >>> print(np.asarray(labels.model_labels(logits).labels).round(3))
      [[0.75 0.25]
       [0.9  0.1 ]]
    """
    logits = numbers("logits", logits)
    if logits.ndim != 2:
        raise ValueError(f"logits must be (N, K), got {logits.shape}")
    shown = None if mask is None else boolean("mask", mask, logits.shape[:1])
    refuse("logits", logits, live=None if shown is None else shown[:, None])
    labels = jax.nn.softmax(jax.lax.stop_gradient(logits))
    if shown is not None:
        labels = jnp.where(shown[:, None], labels, 0)
    mass = labels.sum()
    share = labels.sum(axis=0) / jnp.maximum(mass, 1)
    error = jnp.abs(share - ot.equipartition(labels.shape[1], 1.0)).sum()
    return Labels(labels, jnp.zeros_like(error), error)


@takes()
def harden(labels: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """One-hot labels at each row's greatest entry ("Hard" in Table 5); rows of zeros stay zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import labels
      >>> print(labels.harden(jnp.array([[0.7, 0.3], [0.4, 0.6]])))
      [[1. 0.]
       [0. 1.]]
    """
    one_hot = jax.nn.one_hot(jnp.argmax(labels, axis=1), labels.shape[1], dtype=labels.dtype)
    total = labels.sum(axis=1, keepdims=True)
    return jnp.where(jnp.isnan(total), jnp.nan, jnp.where(total > 0, one_hot, 0))


def prototypes(weights: Num[ArrayLike, "n k"], embeddings: Num[ArrayLike, "n d"]) -> Float[Array, "k d"]:
    """Weighted means of embeddings, Eq. 4 of CASE (whose denominator has a typographical `K` for `k`).

    With Q^S these are the cluster prototypes; with [Q^A, 1 - Q^A] those of foreground and background.
    Rows of weight 0 (masked snippets) must hold finite embeddings. A column without weight gives zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import labels
      >>> weights = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> embeddings = jnp.array([[0.0, 0.0], [2.0, 4.0], [5.0, 5.0]])
      >>> print(labels.prototypes(weights, embeddings))  # the mean of the first two, and the third
      [[1. 2.]
       [5. 5.]]
    """
    weights, embeddings = numbers("weights", weights), numbers("embeddings", embeddings)
    if weights.ndim != 2 or embeddings.ndim != 2 or weights.shape[0] != embeddings.shape[0]:
        raise ValueError(f"weights must be (N, K) and embeddings (N, D), got {weights.shape} and {embeddings.shape}")
    refuse("weights", weights, least=0)
    refuse("embeddings", embeddings)

    def spec() -> PartitionSpec:
        return PartitionSpec(*spec_of(weights, 1), *spec_of(embeddings, 1))

    return with_automatic_axes(_weighted_means, spec, weights, embeddings)


def _weighted_means(weights: jax.Array, embeddings: jax.Array) -> jax.Array:
    total = jnp.where((weights >= 0).all(axis=0), weights.sum(axis=0), jnp.nan)
    dtype = jnp.result_type(weights.dtype, embeddings.dtype)
    sums = jnp.einsum("nk,nd->kd", weights.astype(dtype), embeddings.astype(dtype), precision="highest")
    return sums / jnp.where(total == 0, 1, total).astype(dtype)[:, None]


def foreground_background(labels: Float[Array, " n"], *, mask: Bool[Array, " n"] | None = None) -> Float[Array, "n 2"]:
    """Weights (Q^A, 1 - Q^A) for the prototypes of foreground and background; masked rows weigh 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import labels
      >>> weights = labels.foreground_background(jnp.array([1.0, 0.0, 1.0]), mask=jnp.array([True, True, False]))
      >>> print(weights)
      [[1. 0.]
       [0. 1.]
       [0. 0.]]
    """
    labels = numbers("labels", labels)
    if labels.ndim != 1:
        raise ValueError(f"labels must be (N,), got {labels.shape}")
    shown = None if mask is None else boolean("mask", mask, labels.shape)
    refuse("labels", labels, live=shown)
    weights = jnp.stack([labels, 1 - labels], axis=1)
    return weights if shown is None else jnp.where(shown[:, None], weights, 0)


@takes()
def cluster_logits(
    cluster_prototypes: Float[Array, "k d"],
    fb_prototypes: Float[Array, "2 d"],
    *,
    temperature: float | Float[Array, ""] = 10.0,
) -> Float[Array, "k 2"]:
    """Logits of P^C, temperature times the cosine of clusters with foreground and background (Eq. 5).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import labels
      >>> foreground, background = jnp.eye(2)
      >>> clusters = jnp.stack([3 * foreground, background, foreground + background])
      >>> logits = labels.cluster_logits(clusters, jnp.stack([foreground, background]))
      >>> print(np.asarray(jax.nn.softmax(logits)[:, 0]).round(3))  # how much each cluster is foreground
      [1.  0.  0.5]
    """
    cosine = jnp.einsum("kd,id->ki", unit(cluster_prototypes), unit(fb_prototypes), precision="highest")
    return temperature * cosine
