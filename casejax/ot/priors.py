"""Marginals and the rank prior that CASE gives to its transport problems."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Bool, Float, Int


def equipartition(num_columns: int, mass: float | Float[Array, ""] = 1.0) -> Float[Array, " k"]:
    """The column marginal that gives every column the same share (Eq. 9 of CASE): mass / K each."""
    return jnp.full(num_columns, jnp.asarray(mass) / num_columns)


def foreground_marginal(
    labels: Float[ArrayLike, "*n"], *, mask: Bool[ArrayLike, "*n"] | None = None, floor: float = 0.0
) -> Float[Array, "2"]:
    """The shares of foreground and background among snippet labels (Eq. 13 of CASE).

    Args:
      labels: Q^A, any shape, 1 for foreground, 0 for background.
      mask: True for real snippets; default all. Without a real snippet both shares are 1/2.
      floor: lowest share of either, for data where one of them can be absent.

    Returns:
      (2,) shares of foreground and background; they sum to 1.
    """
    labels = jnp.asarray(labels)
    if mask is None:
        foreground = labels.mean()
    else:
        count = jnp.asarray(mask).sum()
        total = jnp.where(mask, labels, 0).sum()
        foreground = jnp.where(count > 0, total / jnp.maximum(count, 1), 0.5)
    foreground = jnp.clip(foreground, floor, 1 - floor)
    return jnp.stack([foreground, 1 - foreground])


def ascending_rank(
    attention: Float[ArrayLike, " n"], *, mask: Bool[ArrayLike, " n"] | None = None
) -> Float[Array, " n"]:
    """Rank of each snippet by foreground probability, as a share: the least gets 1/N, the greatest 1.

    Of equal values the earlier has the lower rank. Masked snippets are not counted; the numbers at their places have
    no meaning.
    """
    attention = jnp.asarray(attention)
    keys = attention if mask is None else jnp.where(mask, attention, jnp.inf)
    order = jnp.argsort(keys, stable=True)
    rank = jnp.zeros(order.shape, order.dtype).at[order].set(jnp.arange(1, len(order) + 1, dtype=order.dtype))
    return _share(rank, mask, attention.dtype)


def published_rank(
    attention: Float[ArrayLike, " n"], *, mask: Bool[ArrayLike, " n"] | None = None
) -> Float[Array, " n"]:
    """What the published program uses instead of a rank: the sorting permutation itself.

    Entry n is one less the index of the n-th most attended snippet, as a share of N. It says nothing
    about snippet n, and is here to reproduce published runs.
    """
    attention = jnp.asarray(attention)
    keys = -attention if mask is None else jnp.where(mask, -attention, jnp.inf)
    return 1 - _share(jnp.argsort(keys, stable=True) + 1, mask, attention.dtype)


def gaussian_rank_prior(
    attention: Float[ArrayLike, " n"],
    cluster_foreground: Float[ArrayLike, " k"],
    *,
    std: float | Float[Array, ""] = 10.0,
    rank: Callable[..., jax.Array] = ascending_rank,
    mask: Bool[ArrayLike, " n"] | None = None,
) -> Float[Array, "n k"]:
    """Log density that ties snippets of high rank to clusters of high foreground probability.

    Eq. 11 of CASE: `log N(rank_n / N; Q^C_k1, std)`. With the published std of 10 it is almost
    flat, since both numbers lie in [0, 1]; one of 0.1 to 0.5 has an effect.

    Args:
      attention: (N,) foreground probability of the snippets, P^A.
      cluster_foreground: (K,) foreground probability of the clusters, Q^C_{:,1}.
      std: standard deviation, in units of the normalised rank; positive.
      rank: `ascending_rank`, `published_rank`, or any function of (attention, *, mask) to [0, 1]; with
        `lambda p, mask: p` the attention is used instead of its rank (appendix C.3).
      mask: True for real snippets; default all.

    Returns:
      (N, K) log density.

    Raises:
      ValueError: `std` is a number and not positive.
    """
    if isinstance(std, int | float) and not std > 0:
        raise ValueError(f"std must be positive, got {std}")
    attention = jnp.asarray(attention)
    std = jnp.asarray(std, attention.dtype)
    distance = rank(attention, mask=mask)[:, None] - jnp.asarray(cluster_foreground, attention.dtype)[None, :]
    return -0.5 * (distance / std) ** 2 - jnp.log(std * math.sqrt(2 * math.pi))


def _share(rank: Int[Array, " n"], mask: Bool[ArrayLike, " n"] | None, dtype: jnp.dtype) -> Float[Array, " n"]:
    count = jnp.asarray(len(rank)) if mask is None else jnp.maximum(jnp.asarray(mask).sum(), 1)
    return rank.astype(dtype) / count.astype(dtype)
