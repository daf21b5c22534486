"""Self-labels of CASE: everything that couples the snippets of a whole batch.

Foreground labels Q^A, snippet labels Q^S, cluster labels Q^C, and the prototypes between them. Over several
devices these functions must see the global batch: ranks, columns of a plan and prototypes are global.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from casejax import ot

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


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


def select_top_k(
    scores: Float[Array, "b t c"], *, divisor: int = 8, mask: Bool[Array, "b t"] | None = None
) -> Bool[Array, "b t c"]:
    """The top-k snippets of every video and class (Eq. 15 of CASE); k = length // divisor, at least 1.

    Args:
      scores: (B, T, C) calibrated T-CAS.
      divisor: snippets a selected one; 8 for THUMOS14, 2 for ActivityNet (appendix F.3).
      mask: True for real snippets; a video's length is the number of its real ones. Default all.

    Returns:
      (B, T, C), True at exactly k snippets of each column; of equal scores the earlier one is taken.

    Raises:
      ValueError: `divisor` below 1.
    """
    if divisor < 1:
        raise ValueError(f"divisor must be at least 1, got {divisor}")
    batch, length, _ = scores.shape
    scores = jax.lax.stop_gradient(scores)
    if mask is None:
        lengths = jnp.full(batch, length)
    else:
        lengths = mask.sum(axis=1)
        scores = jnp.where(mask[:, :, None], scores, -jnp.inf)
    k = jnp.minimum(jnp.maximum(lengths // divisor, 1), lengths)[:, None, None]
    return jnp.swapaxes(_greatest(jnp.swapaxes(scores, 1, 2), k), 1, 2)


def _greatest(x: Float[Array, "b c t"], k: Int[Array, "b 1 1"]) -> Bool[Array, "b c t"]:
    """The k greatest entries along the last axis, of equals the earlier ones.

    A radix selection, one bit after the other from the top: unlike a sort or `top_k` with its scatter, it is
    made of sums along the axis, so a batch that is split over devices is selected where it is. Nor is a score
    ever compared with the k-th: a compiler may compute it twice, rounded differently.
    """
    bits = jnp.finfo(x.dtype).bits
    signed = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0, x), f"int{bits}")  # -0 is 0
    sign = jnp.array(-1, signed.dtype) << (bits - 1)
    keys = jax.lax.bitcast_convert_type(jnp.where(signed < 0, ~signed, signed ^ sign), f"uint{bits}")  # in x's order
    Carry = tuple[jax.Array, jax.Array, jax.Array]

    def body(i: jax.Array, carry: Carry) -> Carry:
        undecided, taken, missing = carry
        ones = undecided & ((keys >> (bits - 1 - i).astype(keys.dtype)) & 1).astype(bool)
        count = ones.sum(axis=2, keepdims=True, dtype=jnp.int32)
        enough = count >= missing
        undecided = jnp.where(enough, ones, undecided & ~ones)
        return undecided, taken | (ones & ~enough), jnp.where(enough, missing, missing - count)

    missing = jnp.broadcast_to(k.astype(jnp.int32), (*x.shape[:2], 1))
    start = (jnp.ones(x.shape, bool), jnp.zeros(x.shape, bool), missing)
    undecided, taken, missing = jax.lax.fori_loop(0, bits, body, start)
    return taken | (undecided & (jnp.cumsum(undecided, axis=2) <= missing))


def foreground_labels(selected: Bool[Array, "b t c"], labels: Float[Array, "b c"]) -> Float[Array, "b t"]:
    """Q^A: a snippet is foreground where a class of its video selected it (section 3 of CASE).

    Args:
      selected: (B, T, C) from `select_top_k`.
      labels: (B, C) video-level labels, zeros and ones.

    Returns:
      (B, T) zeros and ones.
    """
    return (selected & (labels > 0)[:, None, :]).any(axis=2).astype(labels.dtype)


def stream_mean(streams: Sequence[Float[Array, "*n"]]) -> Float[Array, "*n"]:
    """Mean over streams of arrays of one shape; of their logits, it is co-labelling as published."""
    return sum(streams[1:], start=streams[0]) / len(streams)


def mean_probabilities(streams: Sequence[Float[Array, "n k"]]) -> Float[Array, "n k"]:
    """Co-labelling as printed, Eqs. 17-20 of CASE: log of the mean of the streams' probabilities."""
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
      tolerance: iterate until both marginal errors are below it, `num_iters` times at the most.

    Returns:
      Labels without a gradient.
    """
    result = ot.sinkhorn(
        jax.lax.stop_gradient(logits),
        log_prior=log_prior,
        column_marginal=column_marginal,
        mask=mask,
        epsilon=epsilon,
        num_iters=num_iters,
        tolerance=tolerance,
    )
    return jax.lax.stop_gradient(Labels(result.plan, result.row_error, result.column_error))


def model_labels(logits: Float[Array, "n k"], *, mask: Bool[Array, " n"] | None = None) -> Labels:
    """Labels without transport: the model's own probabilities ("w/o OT" in Table 5 of CASE).

    Args:
      logits: (N, K) the model's logits.
      mask: True for real rows; default all.

    Returns:
      Labels without a gradient; the column error is measured against equipartition.
    """
    labels = jax.nn.softmax(jax.lax.stop_gradient(logits))
    if mask is not None:
        labels = jnp.where(mask[:, None], labels, 0)
    mass = labels.sum()
    share = labels.sum(axis=0) / jnp.maximum(mass, 1)
    error = jnp.abs(share - ot.equipartition(labels.shape[1], 1.0)).sum()
    return Labels(labels, jnp.zeros_like(error), error)


def harden(labels: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """One-hot labels at each row's greatest entry ("Hard" in Table 5); rows of zeros stay zero."""
    one_hot = jax.nn.one_hot(jnp.argmax(labels, axis=1), labels.shape[1], dtype=labels.dtype)
    return jnp.where(labels.sum(axis=1, keepdims=True) > 0, one_hot, 0)


def prototypes(weights: Float[Array, "n k"], embeddings: Float[Array, "n d"]) -> Float[Array, "k d"]:
    """Weighted means of embeddings, Eq. 4 of CASE (whose denominator has a typographical `K` for `k`).

    With Q^S these are the cluster prototypes; with [Q^A, 1 - Q^A] those of foreground and background.
    Rows of weight 0 (masked snippets) must hold finite embeddings. A column without weight gives zeros.
    """
    total = weights.sum(axis=0)
    sums = jnp.einsum("nk,nd->kd", weights, embeddings, precision="highest")
    return sums / jnp.where(total > 0, total, 1)[:, None]


def foreground_background(labels: Float[Array, " n"], mask: Bool[Array, " n"] | None = None) -> Float[Array, "n 2"]:
    """Weights (Q^A, 1 - Q^A) for the prototypes of foreground and background; masked rows weigh 0."""
    weights = jnp.stack([labels, 1 - labels], axis=1)
    return weights if mask is None else jnp.where(mask[:, None], weights, 0)


def cluster_logits(
    cluster_prototypes: Float[Array, "k d"],
    fb_prototypes: Float[Array, "2 d"],
    *,
    temperature: float | Float[Array, ""] = 10.0,
) -> Float[Array, "k 2"]:
    """Logits of P^C, temperature times the cosine of clusters with foreground and background (Eq. 5)."""
    cosine = jnp.einsum("kd,id->ki", unit(cluster_prototypes), unit(fb_prototypes), precision="highest")
    return temperature * cosine


def unit(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Vectors of length 1 along the last axis; zero vectors stay zero, with a gradient of zero."""
    return x * inverse_norm(x)


def inverse_norm(x: Float[Array, "*n d"]) -> Float[Array, "*n 1"]:
    """One over the Euclidean norm along the last axis; 0 for vectors shorter than 1e-12."""
    squared = (x * x).sum(axis=-1, keepdims=True)
    long_enough = squared > 1e-24
    return jnp.where(long_enough, jax.lax.rsqrt(jnp.where(long_enough, squared, 1)), 0)


def entropy(labels: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Entropy over the last axis in nats; 0 log 0 is 0."""
    return -(labels * jnp.log(jnp.where(labels > 0, labels, 1))).sum(axis=-1)
