"""Smooth minima: the two of the supplement of GTA, and the minimum itself.

Hadji, Derpanis and Jepson, "Representation Learning via Global Temporal Alignment and Cycle-Consistency", CVPR 2021;
equations are those of its supplement. All three functions have one type, `Minimum`, so that whatever minimises along
the way takes any of them, or one of yours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float
from casejax.arrays.arguments import check_number, refuse_nan, takes

Minimum = Callable[..., jax.Array]
"""A function (values, gamma, *, axis=-1, where=None) that takes an axis away, as the three below."""


@takes(nan=True)
def smooth_min(
    values: Float[Array, "..."],
    gamma: float | Float[Array, ""],
    *,
    axis: int = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Mean of the values under probabilities proportional to exp(-value / gamma), smoothMin (Eq. 1).

    Never below the minimum, and above it by at most gamma (x - 1), where x - 1 = (n - 1) exp(-x) for n values (Eqs. 5
    and 6): 0.46 gamma for three. The bound is attained where one value is the minimum and the others tie x gamma above
    it; a tie of all costs nothing. The gradient sums to 1 and has negative entries for values more than gamma above
    the result: neither convex nor concave.

    Args:
      values: any shape, numbers up to half the largest float; +inf takes no part. float32 or float64 is kept, other
        types are computed in float32.
      gamma: smoothing in units of the values, 0 or more; 0 is the minimum itself, with a gradient shared among ties.
      axis: the axis to take away.
      where: True for values that take part, of a shape that broadcasts; default all. The others may be NaN.

    Returns:
      The values' shape without `axis`; +inf where no value takes part, with a gradient of 0. NaN if a value that takes
      part is NaN or -inf. Differentiable in values and gamma, any number of times where gamma is above 0, once at 0.

    Raises:
      ValueError: a gamma that is negative or not finite, or an empty axis. A traced gamma below 0 gives NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> round(float(alignment.smooth_min(jnp.array([1.0, 1.0, 5.0]), 0.1)), 3)
      1.0
    """
    return _minimise(_smooth_min, values, gamma, axis, where)


@takes(nan=True)
def min_gamma(
    values: Float[Array, "..."],
    gamma: float | Float[Array, ""],
    *,
    axis: int = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """-gamma log of the sum of exp(-value / gamma), min^gamma of soft-DTW (Eqs. 7 and 8).

    Never above the minimum, and below it by at most gamma log n for n values, which a tie of all attains (Eq. 10):
    ties are rewarded. Concave; the gradient is a probability distribution.

    Args, returns and errors are those of `smooth_min`.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> round(float(alignment.min_gamma(jnp.array([1.0, 1.0, 5.0]), 0.1)), 3)  # 1 - 0.1 log 2
      0.931
    """
    return _minimise(_min_gamma, values, gamma, axis, where)


@takes(nan=True)
def hard_min(
    values: Float[Array, "..."],
    gamma: float | Float[Array, ""] = 0.0,
    *,
    axis: int = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """The minimum; values that tie for it share the gradient equally.

    Args, returns and errors are those of `smooth_min`, except that gamma, once checked, changes nothing.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> jax.grad(alignment.hard_min)(jnp.array([1.0, 1.0, 5.0]))
      Array([0.5, 0.5, 0. ], dtype=float32)
    """
    return _minimise(_hard_min, values, gamma, axis, where)


@takes(nan=True)
def smooth_min_by_shares(
    values: Float[Array, "..."],
    gamma: float | Float[Array, ""],
    *,
    axis: int = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """`smooth_min` with the probabilities that it averages with for a gradient, as if they were constants.

    Args, returns and errors are those of `smooth_min`; there is no gradient in gamma.
    """
    return _minimise(_smooth_min_by_shares, values, gamma, axis, where)


def check_gamma(gamma: float | Float[Array, ""]) -> None:
    """Refuse a gamma that is known already and not in [0, inf)."""
    check_number(gamma, "gamma", "be 0 or more and finite", lambda g: 0 <= g < math.inf)


def endless(dtype: jnp.dtype) -> float:
    """A value as good as infinite, of which differences are numbers."""
    return float(jnp.finfo(dtype).max) / 2


def _minimise(
    minimum: Callable, values: jax.Array, gamma: float | jax.Array, axis: int, where: jax.Array | None
) -> jax.Array:
    check_gamma(gamma)
    if not -values.ndim <= axis < values.ndim or not values.shape[axis]:
        raise ValueError(f"nothing to take the minimum of: axis {axis} of shape {values.shape}")
    gamma, far = jnp.asarray(gamma, values.dtype), endless(values.dtype)
    if where is not None:
        if jnp.broadcast_shapes(where.shape, values.shape) != values.shape:
            raise ValueError(f"where must broadcast to the values' {values.shape}, got {where.shape}")
        values = jnp.where(jnp.broadcast_to(where, values.shape), values, far)
    refuse_nan(values, "values")
    count = values.shape[axis]
    # A short axis, such as the three predecessors of a cell, is taken apart: XLA fuses that into one loop over cells.
    inner = None if count <= 4 else axis
    parts = [values] if inner is not None else jnp.unstack(values, axis=axis)
    parts = [jnp.where(part > far, far, part) for part in parts]
    least = minimum(parts, jnp.where(gamma >= 0, gamma, jnp.nan), inner)
    return jnp.where(_min(parts, inner) >= far, jnp.inf, least)


def _min(parts: list[jax.Array], axis: int | None) -> jax.Array:
    return reduce(jnp.minimum, (part if axis is None else part.min(axis) for part in parts))


def _sum(values: jax.Array, axis: int | None) -> jax.Array:
    return values if axis is None else values.sum(axis)


def _spread(values: jax.Array, axis: int | None) -> jax.Array:
    return values if axis is None else jnp.expand_dims(values, axis)


def _dot(parts: list[jax.Array], others: list[jax.Array], axis: int | None) -> jax.Array:
    return reduce(jnp.add, (_sum(part * other, axis) for part, other in zip(parts, others, strict=True)))


def _hard_min(parts: list[jax.Array], gamma: jax.Array, axis: int | None) -> jax.Array:
    least = jax.lax.stop_gradient(_min(parts, axis))
    ties = [(part == _spread(least, axis)).astype(part.dtype) for part in parts]
    count = reduce(jnp.add, (_sum(tie, axis) for tie in ties))
    return least + _dot(ties, [part - _spread(least, axis) for part in parts], axis) / count


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _smooth_min(parts: list[jax.Array], gamma: jax.Array, axis: int | None) -> jax.Array:
    least, above, shares, _ = _distribution(parts, _inverse(gamma), axis)
    return least + _dot(shares, above, axis)


@_smooth_min.defjvp
def _smooth_min_jvp(axis: int | None, primals: tuple, tangents: tuple) -> tuple:
    inverse = _inverse(primals[1])
    least, above, shares, _ = _distribution(primals[0], inverse, axis)
    mean = _dot(shares, above, axis)
    moved = [share * (part - _spread(mean, axis)) for share, part in zip(shares, above, strict=True)]
    weights = [share - part * inverse for share, part in zip(shares, moved, strict=True)]
    variance = _dot(moved, above, axis)
    return least + mean, _dot(weights, tangents[0], axis) + variance * inverse * inverse * tangents[1]


def _smooth_min_by_shares(parts: list[jax.Array], gamma: jax.Array, axis: int | None) -> jax.Array:
    least, above, shares, _ = _distribution(parts, _inverse(gamma), axis)
    return least + _dot([jax.lax.stop_gradient(share) for share in shares], above, axis)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _min_gamma(parts: list[jax.Array], gamma: jax.Array, axis: int | None) -> jax.Array:
    least, _, _, total = _distribution(parts, _inverse(gamma), axis)
    return least - gamma * jnp.log(total)


@_min_gamma.defjvp
def _min_gamma_jvp(axis: int | None, primals: tuple, tangents: tuple) -> tuple:
    parts, gamma = primals
    inverse = _inverse(gamma)
    least, above, shares, total = _distribution(parts, inverse, axis)
    entropy = _dot(shares, above, axis) * inverse + jnp.log(total)
    return least - gamma * jnp.log(total), _dot(shares, tangents[0], axis) - entropy * tangents[1]


def _inverse(gamma: jax.Array) -> jax.Array:
    """1 / gamma, or the largest float: a value above the minimum then has a share of 0, and 0 times it is not NaN."""
    most = jnp.finfo(gamma.dtype).max
    return jnp.where(gamma == 0, most, jnp.minimum(1 / jnp.where(gamma == 0, 1, gamma), most))


def _distribution(
    parts: list[jax.Array], inverse: jax.Array, axis: int | None
) -> tuple[jax.Array, list[jax.Array], list[jax.Array], jax.Array]:
    """Minimum, what values with a share are above it, their shares and what these were divided by.

    In derivatives the minimum may count as a constant, as a shift of all values changes nothing here.
    """
    least = jax.lax.stop_gradient(_min(parts, axis))
    above = [part - _spread(least, axis) for part in parts]
    weights = [jnp.exp(-part * inverse) for part in above]
    total = reduce(jnp.add, (_sum(weight, axis) for weight in weights))
    # What has no share must not overflow later on, in derivatives of derivatives say.
    above = [jnp.where(weight > 0, part, 0) for weight, part in zip(weights, above, strict=True)]
    share = 1 / _spread(total, axis)
    return least, above, [weight * share for weight in weights], total
