"""Values in [0, 1] of least sum that meet linear equations: the centre of all solutions, not just one of them."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from casejax.array_types import Array, Bool, Float, Int
from casejax.ot.checks import boolean, count, numbers, positive, refuse

# where the iteration stands, steps done, converged, failed
State = tuple["_Point", jax.Array, jax.Array, jax.Array]


class LeastMass(NamedTuple):
    """A solution with the evidence of how good it is.

    Attributes:
      values: (T,) in [0, 1]; exactly 0 where all equations have a coefficient of 0.
      residual: (M,) targets - rows @ values; 0 for masked equations.
      feasible: all equations are met: no residual is above 10 / penalty.
      iterations: steps done.
      converged: the last step changed no value by more than a thousandth of it (or by 1e-6).
    """

    values: Float[Array, " t"]
    residual: Float[Array, " m"]
    feasible: Bool[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


class _Point(NamedTuple):
    """Primal and dual variables; all are positive except the prices.

    Equations that contradict each other have prices of thousands that almost cancel in the cost of a value. Whole and
    rest are stored separately, so that float32 loses no digit: for rows of integers the whole part is exact.
    """

    low: jax.Array  # (T,) distance from 0: the values
    high: jax.Array  # (T,) distance from 1
    low_dual: jax.Array  # (T,)
    high_dual: jax.Array  # (T,)
    price: jax.Array  # (M,) penalty * residual at the optimum, less a whole number
    whole: jax.Array  # (M,) that number


def least_mass(
    rows: Float[ArrayLike, "m t"],
    targets: Float[ArrayLike, " m"],
    *,
    mask: Bool[ArrayLike, " m"] | None = None,
    value_mask: Bool[ArrayLike, " t"] | None = None,
    barrier: float | Float[Array, ""] = 1e-5,
    penalty: float | Float[Array, ""] = 1e4,
    num_steps: int = 60,
) -> LeastMass:
    """Minimise sum(x) under rows @ x = targets and 0 <= x <= 1, on the central path of this linear programme.

    The result is the minimiser of

        sum(x) + penalty / 2 |targets - rows @ x|^2 - barrier sum(log(x) + log(1 - x)).

    Such programmes can have many solutions of equal sum, and different solvers return different ones. This minimiser
    is unique, does not depend on the order of rows and columns, and tends to the middle of the solutions (their
    analytic centre) as `barrier` tends to 0; its sum lies within 2 T barrier of the least one. Equations that
    contradict each other are met in the sense of least squares; others to within price / penalty, where the price is
    how much the sum grows with a target (about 1 for snippet labels).

    Mehrotra's method, in float32 or float64, usually in 7 to 20 steps. Differentiable in the targets, implicitly.
    Batches: `jax.vmap`.

    Args:
      rows: (M, T) coefficients, in the order of 1.
      targets: (M,) right-hand sides.
      mask: (M,) True for real equations; default all.
      value_mask: (T,) True for real values, the others are 0; default all.
      barrier: weight of the barrier, in the unit of the values.
      penalty: weight of the squared residuals.
      num_steps: steps at most; static.

    Raises:
      ValueError: shapes that don't fit, an option out of range, or a real number that is NaN or +inf. Where such a
        thing is not known, under a transformation, the values are NaN.

    References:
      Mehrotra, "On the Implementation of a Primal-Dual Interior Point Method", SIAM Journal on Optimization 1992.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import labels
      >>> rows, targets = jnp.array([[1.0, 1.0, -1.0]]), jnp.array([0.5])  # x0 + x1 - x2 = 0.5
      >>> found = labels.least_mass(rows, targets)
      >>> print(np.asarray(found.values).round(2), found.feasible)  # of least sum: the middle of all x0 + x1 = 0.5
      [0.25 0.25 0.  ] True
    """
    rows, targets = numbers("rows", rows), numbers("targets", targets)
    if rows.ndim != 2 or 0 in rows.shape or targets.shape != rows.shape[:1]:
        raise ValueError(
            f"least_mass needs rows (M, T) with M, T >= 1 and targets (M,), got {rows.shape} and {targets.shape}"
        )
    barrier, penalty = positive("barrier", barrier), positive("penalty", penalty)
    num_steps = count("num_steps", num_steps)
    real = boolean("mask", jnp.ones(rows.shape[0], bool) if mask is None else mask, rows.shape[:1])
    shown = boolean("value_mask", jnp.ones(rows.shape[1], bool) if value_mask is None else value_mask, rows.shape[1:])
    refuse("rows", rows, live=real[:, None] & shown[None, :])
    refuse("targets", targets, live=real)
    return _solve(rows, targets, real, shown, barrier, penalty, num_steps)


@partial(jax.jit, static_argnames="num_steps")
def _solve(
    rows: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    value_mask: jax.Array,
    barrier: ArrayLike,
    penalty: ArrayLike,
    num_steps: int,
) -> LeastMass:
    dtype = targets.dtype
    rows = jnp.where(mask[:, None] & value_mask[None, :], rows, 0).astype(dtype)
    targets = jnp.where(mask, targets, 0)
    barrier, penalty = jnp.asarray(barrier, dtype), jnp.asarray(penalty, dtype)
    fine = jnp.isfinite(rows).all() & jnp.isfinite(targets).all()
    fine = fine & (barrier > 0) & (barrier < jnp.inf) & (penalty > 0) & (penalty < jnp.inf)
    problem = jax.lax.stop_gradient((rows, targets, value_mask, barrier, penalty))

    def unfinished(state: State) -> jax.Array:
        _, count, converged, failed = state
        return (count < num_steps) & ~converged & ~failed

    def advance(state: State) -> State:
        point, count, *_ = state
        new, converged = _step(point, *problem)
        failed = ~jnp.stack([jnp.isfinite(x).all() for x in new]).all()
        return jax.tree.map(partial(jnp.where, failed), point, new), count + 1, converged & ~failed, failed

    one, no = jnp.ones(rows.shape[1], dtype), jnp.zeros((), bool)
    first = _Point(one / 2, one / 2, one, one, *jnp.zeros((2, rows.shape[0]), dtype))
    state = first, jnp.zeros((), jnp.int32), no, no
    point, count, converged, _ = jax.lax.while_loop(unfinished, advance, state)

    # This changes no value; it gives the result the derivative of the minimiser.
    change = targets - jax.lax.stop_gradient(targets)
    curvature, solve = _normal_equations(point, problem[0], penalty)
    values = point.low + _matmul(solve(change), problem[0]) / curvature
    asked = (rows != 0).any(axis=0)
    values = jnp.where(fine, jnp.where(asked, values, 0), jnp.nan)
    residual = targets - _matmul(rows, values)
    return LeastMass(values, residual, jnp.abs(residual).max() <= 10 / penalty, count, converged)


def _step(
    point: _Point, rows: jax.Array, targets: jax.Array, value_mask: jax.Array, barrier: jax.Array, penalty: jax.Array
) -> tuple[_Point, jax.Array]:
    """A step towards the central path and down along it, and whether the iteration has come to rest."""
    low, high, low_dual, high_dual, price, whole = point
    curvature, solve = _normal_equations(point, rows, penalty)
    cost = 1 - _matmul(whole, rows) - _matmul(price, rows)
    missing = targets - _matmul(rows, low) - (whole + price) / penalty
    count = 2 * jnp.maximum(value_mask.sum(), 1).astype(low.dtype)

    def direction(low_product: jax.Array, high_product: jax.Array) -> _Point:
        """The Newton step to given products of the distances and their duals."""
        pull = low_product / low - high_product / high - cost
        price_step = solve(missing - _matmul(rows, pull / curvature))
        move = jnp.where(value_mask, (pull + _matmul(price_step, rows)) / curvature, 0)
        low_step = jnp.where(value_mask, (low_product - low_dual * move) / low - low_dual, 0)
        high_step = jnp.where(value_mask, (high_product + high_dual * move) / high - high_dual, 0)
        return _Point(move, -move, low_step, high_step, price_step, jnp.zeros_like(price))

    def mean_product(point: _Point) -> jax.Array:
        products = point.low * point.low_dual + point.high * point.high_dual
        return jnp.where(value_mask, products, 0).sum() / count

    # A trial step without a barrier shows how much barrier is needed, and the second-order correction.
    now = mean_product(point)
    guess = direction(jnp.zeros_like(low), jnp.zeros_like(low))
    least = mean_product(_move(point, guess, _longest(point, guess)))
    aim = jnp.maximum((least / now) ** 3 * now, barrier)
    near = now < 2 * barrier
    bend = jnp.where(near, 0, guess.low)
    step = direction(aim - bend * guess.low_dual, aim + bend * guess.high_dual)
    length = _longest(point, step)
    at_rest = (jnp.abs(step.low) <= 1e-3 * jnp.maximum(low, 1e-3)).all()
    return _move(point, step, length), near & (length == 1) & at_rest


def _normal_equations(point: _Point, rows: jax.Array, penalty: jax.Array) -> tuple[jax.Array, partial[jax.Array]]:
    """The curvature (T,) of the barriers, and what solves for prices: (1 / penalty + rows / curvature rows^T)^-1."""
    curvature = point.low_dual / point.low + point.high_dual / point.high
    matrix = _matmul(rows / curvature[None, :], rows.T) + jnp.eye(len(rows), dtype=rows.dtype) / penalty
    # Scaled to a diagonal of 1, with what rounding may take from the least eigenvalue added.
    scale = 1 / jnp.sqrt(jnp.diag(matrix))
    ridge = len(rows) * float(jnp.finfo(rows.dtype).eps)
    matrix = scale[:, None] * matrix * scale[None, :] + ridge * jnp.eye(len(rows), dtype=rows.dtype)
    return curvature, partial(_solve_scaled, jnp.linalg.cholesky(matrix), scale)


def _solve_scaled(factor: jax.Array, scale: jax.Array, right: jax.Array) -> jax.Array:
    return scale * jax.scipy.linalg.cho_solve((factor, True), scale * right)


def _longest(point: _Point, step: _Point) -> jax.Array:
    """The share of a step, at most 1, that leaves all distances and duals positive."""
    shares = [
        jnp.min(jnp.where(change < 0, -value / jnp.where(change < 0, change, -1), jnp.inf))
        for value, change in zip(point[:4], step[:4], strict=True)
    ]
    return jnp.minimum(0.99 * jnp.stack(shares).min(), 1)


def _move(point: _Point, step: _Point, length: jax.Array) -> _Point:
    moved = jax.tree.map(lambda value, change: value + length * change, point, step)
    carry = jnp.round(moved.price)
    return moved._replace(price=moved.price - carry, whole=moved.whole + carry)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")
