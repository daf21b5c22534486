"""Template distributions of `casejax.localize.fusion`, fitted to many groups of values at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Float, Int
from casejax.arrays import takes


class Fit(NamedTuple):
    """A template fitted to every group: the typical value of its members and their spread."""

    location: Float[Array, "g v"]
    spread: Float[Array, "g v"]


Template = Callable[..., Fit]
"""From values (N, V), weights (N,) that sum to 1 in every group, the group (N,) of each row (outside [0, G): none) and
the number of groups G, to the fit of each group to each column; 0 for groups without a member."""


@takes()
def gaussian(
    values: Float[Array, "n v"], weights: Float[Array, " n"], group: Int[Array, " n"], *, num_groups: int
) -> Fit:
    """The weighted mean (Eq. 4) and standard deviation.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax.localize import gaussian
      >>> values, weights = jnp.array([[1.0], [3.0], [5.0]]), jnp.array([0.5, 0.5, 1.0])
      >>> fit = gaussian(values, weights, jnp.array([0, 0, 1]), num_groups=2)
      >>> print(fit.location.tolist(), fit.spread.tolist())
      [[2.0], [5.0]] [[1.0], [0.0]]
    """
    total = partial(jax.ops.segment_sum, segment_ids=group, num_segments=num_groups)
    # Values count from a member of the group, so that times far from 0 lose no digits.
    origin = jax.lax.stop_gradient(extreme(jax.ops.segment_min, values, group, num_groups))
    values = values - of_members(origin, group)
    mean = total(weights[:, None] * values)
    variance = total(weights[:, None] * (values - of_members(mean, group)) ** 2)
    return Fit(origin + mean, _root(variance))


@takes()
def exponential(
    values: Float[Array, "n v"], weights: Float[Array, " n"], group: Int[Array, " n"], *, num_groups: int
) -> Fit:
    """The same as `gaussian`: the exponential distribution over the least value has the weighted mean as its mean.

    Its rate is 1 / sum_k g_k (x_k - min x) (Eq. 11), and min x + 1 / rate (Eq. 12) is sum_k g_k x_k.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax.localize import exponential
      >>> values, weights = jnp.array([[1.0], [3.0], [5.0]]), jnp.array([0.25, 0.75, 1.0])
      >>> print(exponential(values, weights, jnp.array([0, 0, 1]), num_groups=2).location)
      [[2.5]
       [5. ]]
    """
    return gaussian(values, weights, group, num_groups=num_groups)


@takes()
def uniform(
    values: Float[Array, "n v"], weights: Float[Array, " n"], group: Int[Array, " n"], *, num_groups: int
) -> Fit:
    """The middle between the least and the greatest value (Eq. 7), whatever their weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax.localize import uniform
      >>> values, weights = jnp.array([[1.0], [3.0], [5.0]]), jnp.array([0.25, 0.75, 1.0])
      >>> print(uniform(values, weights, jnp.array([0, 0, 1]), num_groups=2).location)
      [[2.]
       [5.]]
    """
    del weights
    low = extreme(jax.ops.segment_min, values, group, num_groups)
    high = extreme(jax.ops.segment_max, values, group, num_groups)
    return Fit(low + (high - low) / 2, (high - low) / math.sqrt(12))


@takes()
def student_t(
    values: Float[Array, "n v"],
    weights: Float[Array, " n"],
    group: Int[Array, " n"],
    *,
    num_groups: int,
    freedom: float = 3.0,
    num_steps: int = 32,
) -> Fit:
    """Location and scale of a t-distribution: a mean to which far members count less. Infinite freedom: Gaussian.

    Where a member has more than freedom / (1 + freedom) of the weight, it is the location and the scale is 0: there
    the likelihood has no bound.

    Args:
      values: (N, V).
      weights: (N,), summing to 1 in every group.
      group: (N,) the group of every row; outside [0, num_groups) for rows that belong to none.
      num_groups: G, static.
      freedom: degrees of freedom, at least 1; below, several locations can be optimal.
      num_steps: steps of the iteration, static.

    Raises:
      ValueError: `freedom` below 1 or no step.

    References:
      Kent, Tyler and Vardi, "A Curious Likelihood Identity for the Multivariate T-Distribution", Communications in
      Statistics 1994, for the scale update; it has the same fixed point as the usual one and reaches it sooner.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax.localize import gaussian, student_t
      >>> starts, weights, group = jnp.array([[1.0], [1.1], [0.9], [9.0]]), jnp.full(4, 0.25), jnp.zeros(4, int)
      >>> print(np.asarray(gaussian(starts, weights, group, num_groups=1).location).round(2))
      [[3.]]
      >>> print(np.asarray(student_t(starts, weights, group, num_groups=1).location).round(2))  # 9 counts little
      [[1.1]]
    """
    if not freedom >= 1 or num_steps < 1:
        raise ValueError(f"student_t needs freedom >= 1 and num_steps >= 1, got {freedom=}, {num_steps=}")
    total = partial(jax.ops.segment_sum, segment_ids=group, num_segments=num_groups)
    origin = jax.lax.stop_gradient(extreme(jax.ops.segment_min, values, group, num_groups))
    values = values - of_members(origin, group)
    height = extreme(jax.ops.segment_max, values, group, num_groups)
    # The least variance, which tends to 0 where members agree.
    least = jax.lax.stop_gradient(jnp.where(height > 0, 1e-8 * height**2, 1))

    def step(fit: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        location, variance = fit
        squares = (values - of_members(location, group)) ** 2
        pull = weights[:, None] * (freedom + 1) / (freedom + squares / of_members(variance, group))
        mass = total(pull)
        mass = jnp.where(mass > 0, mass, 1)
        location = total(pull * values) / mass
        squares = (values - of_members(location, group)) ** 2
        return (location, jnp.maximum(total(pull * squares) / mass, least)), None

    first = gaussian(values, weights, group, num_groups=num_groups)
    start = first.location, jnp.maximum(first.spread**2, least)
    (location, variance), _ = jax.lax.scan(step, start, None, length=num_steps)
    return Fit(origin + location, _root(jnp.where(variance > least, variance, 0)))


def extreme(
    segment_extreme: Callable[..., jax.Array], values: jax.Array, group: jax.Array, num_groups: int
) -> jax.Array:
    """Least or greatest value of every group, 0 of those without a member."""
    extreme = segment_extreme(values, group, num_groups)
    return jnp.where(jnp.isfinite(extreme), extreme, 0)


def of_members(values: jax.Array, group: jax.Array) -> jax.Array:
    """The value of its group for each member; any finite number where there is no group."""
    return values.at[group].get(mode="clip")


def _root(x: jax.Array) -> jax.Array:
    """Square root with a gradient of 0 at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)
