"""Marginals and the rank prior that CASE gives to its transport problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from casejax.array_types import Array, Bool, Float, Int, Num, Shaped
from casejax.ot.checks import Scalar, boolean, count, numbers, positive, refuse
from casejax.ot.placement import spec_of, with_automatic_axes


def equipartition(num_columns: SupportsIndex, mass: Scalar = 1.0) -> Float[Array, " k"]:
    """The column marginal that gives every column the same share (Eq. 9 of CASE): mass / K each.

    Example:
      >>> from casejax import ot
      >>> print(ot.equipartition(4))
      [0.25 0.25 0.25 0.25]
    """
    from jax.export import is_symbolic_dim  # here, since few need it and it takes long to load

    number: Any = num_columns
    if not is_symbolic_dim(number):
        number = count("num_columns", num_columns)
    mass = numbers("mass", mass, ())
    refuse("mass", mass, least=0)
    return equal_shares(number, mass)


def equal_shares(num_columns: int, mass: Float[Array, ""]) -> Float[Array, " k"]:
    """`equipartition` of what needs no check."""
    return jnp.full(num_columns, mass / num_columns)


def foreground_marginal(
    labels: Shaped[ArrayLike, "*n"] | Sequence,
    *,
    mask: Shaped[ArrayLike, "*n"] | Sequence | None = None,
    floor: float = 0.0,
) -> Float[Array, "2"]:
    """The shares of foreground and background among snippet labels (Eq. 13 of CASE).

    Args:
      labels: Q^A, any shape, 1 for foreground, 0 for background.
      mask: True for real snippets; default all. Without a real snippet both shares are 1/2.
      floor: lowest share of either, in [0, 1/2], for data where one of them can be absent.

    Returns:
      (2,) shares of foreground and background; they sum to 1.

    Example:
      >>> from casejax import ot
      >>> print(ot.foreground_marginal([1, 0, 0, 0, 1, 1], mask=[1, 1, 1, 1, 0, 0]))
      [0.25 0.75]
      >>> print(ot.foreground_marginal([0, 0, 0, 0], floor=0.1))
      [0.1 0.9]
    """
    labels = numbers("labels", labels)
    shown = None if mask is None else boolean("mask", mask, labels.shape)
    refuse("labels", labels, least=0, live=shown)
    if not isinstance(floor, jax.core.Tracer) and not 0 <= float(floor) <= 0.5:
        raise ValueError(f"floor must lie in [0, 0.5], got {floor}")
    if shown is None:
        foreground = labels.mean() if labels.size else jnp.full((), 0.5, labels.dtype)
    else:
        real = shown.sum().astype(labels.dtype)
        total = jnp.where(shown, labels, 0).sum()
        foreground = jnp.where(real > 0, total / jnp.maximum(real, 1), 0.5)
    foreground = jnp.clip(foreground, floor, 1 - floor)
    return jnp.stack([foreground, 1 - foreground])


def ascending_rank(
    attention: Num[ArrayLike, " n"] | Sequence, *, mask: Shaped[ArrayLike, " n"] | Sequence | None = None
) -> Float[Array, " n"]:
    """Rank of each snippet by foreground probability, as a share: the least gets 1/N, the greatest 1.

    Of equal values the earlier has the lower rank. Masked snippets are not counted; the numbers at their places have
    no meaning.

    Example:
      >>> from casejax import ot
      >>> print(ot.ascending_rank([0.1, 0.9, 0.5, 0.2]))
      [0.25 1.   0.75 0.5 ]
    """
    attention, shown = _attention(attention, mask)
    keys = attention if shown is None else jnp.where(shown, attention, jnp.inf)
    # Ranks are the places in the order of the order.
    rank = _order(_order(keys)) + 1
    return jnp.where(jnp.isnan(keys), jnp.nan, _share(rank, shown, attention.dtype))


def published_rank(
    attention: Num[ArrayLike, " n"] | Sequence, *, mask: Shaped[ArrayLike, " n"] | Sequence | None = None
) -> Float[Array, " n"]:
    """What the published program uses instead of a rank: the sorting permutation itself.

    Entry n is one less the index of the n-th most attended snippet, as a share of N. It says nothing
    about snippet n, and is here to reproduce published runs.

    Example:
      >>> from casejax import ot
      >>> print(ot.published_rank([0.1, 0.9, 0.5, 0.2]))  # the snippets in descending order are 1, 2, 3 and 0
      [0.5  0.25 0.   0.75]
    """
    attention, shown = _attention(attention, mask)
    keys = -attention if shown is None else jnp.where(shown, -attention, jnp.inf)
    share = 1 - _share(_order(keys) + 1, shown, attention.dtype)
    return jnp.where(jnp.isnan(keys).any(), jnp.nan, share)


def gaussian_rank_prior(
    attention: Num[ArrayLike, " n"] | Sequence,
    cluster_foreground: Num[ArrayLike, " k"] | Sequence,
    *,
    std: Scalar = 10.0,
    rank: Callable[..., jax.Array] = ascending_rank,
    mask: Shaped[ArrayLike, " n"] | Sequence | None = None,
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

    Example:
      >>> import numpy as np
      >>> from casejax import ot
      >>> attention, cluster_foreground = [0.9, 0.2], [1.0, 0.5]
      >>> log_prior = ot.gaussian_rank_prior(attention, cluster_foreground, std=0.25)
      >>> print(np.asarray(log_prior).round(2))  # rank 1 goes with foreground 1, rank 1/2 with 1/2
      [[ 0.47 -1.53]
       [-1.53  0.47]]
    """
    std = positive("std", std)
    attention, shown = _attention(attention, mask)
    if not jnp.issubdtype(attention.dtype, jnp.floating):
        attention = attention.astype(jnp.float32)
    foreground = numbers("cluster_foreground", cluster_foreground).astype(attention.dtype)
    if foreground.ndim != 1:
        raise ValueError(f"cluster_foreground must have shape (K,), got {foreground.shape}")
    refuse("cluster_foreground", foreground)
    std = jnp.asarray(std, attention.dtype)
    std = jnp.where(std > 0, std, jnp.nan)
    distance = rank(attention, mask=shown)[:, None] - foreground[None, :]
    # A square that overflows would leave a row without any cluster: minus infinity for all.
    far = 0.5 * math.sqrt(jnp.finfo(attention.dtype).max)
    return -0.5 * jnp.clip(distance / std, -far, far) ** 2 - jnp.log(std * math.sqrt(2 * math.pi))


def _attention(attention: Any, mask: Any) -> tuple[Float[Array, " n"], Bool[Array, " n"] | None]:
    attention = numbers("attention", attention)
    if attention.ndim != 1:
        raise ValueError(f"attention must have shape (N,), got {attention.shape}")
    shown = None if mask is None else boolean("mask", mask, attention.shape)
    refuse("attention", attention, live=shown)
    return attention, shown


def _order(keys: Num[Array, " n"]) -> Int[Array, " n"]:
    return with_automatic_axes(partial(jnp.argsort, stable=True), lambda: spec_of(keys, 0), keys)


def _share(rank: Int[Array, " n"], mask: Bool[Array, " n"] | None, dtype: jnp.dtype) -> Float[Array, " n"]:
    if mask is None:
        return rank.astype(dtype) / rank.shape[0]
    return rank.astype(dtype) / jnp.maximum(mask.sum(), 1).astype(dtype)
