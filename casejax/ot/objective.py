"""The value that a transport plan has, from above and from below, with its terms and its derivative."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from casejax.array_types import Array, Float, Num, Shaped
from casejax.ot.acceleration import divide
from casejax.ot.checks import Scalar, boolean, numbers, positive
from casejax.ot.placement import AxisName, spec_of, total_over, varying_together, with_automatic_axes
from casejax.ot.solver import SinkhornOutput, marginals, refuse_broken


class SinkhornObjective(NamedTuple):
    """What `sinkhorn` maximises, at its result; all divergences are `KL(x, y) = sum x log(x / y) - x + y`.

    Attributes:
      primal: score - epsilon prior_divergence - row_relaxation row_divergence - column_relaxation column_divergence;
        with exact marginals, without the last two.
      dual: the value of the potentials; no plan with the given marginals has a greater one. It is `primal` at the
        exact solution.
      score: <Q, scores>.
      prior_divergence: KL(Q, prior), the prior being 1 at all live entries where there is none.
      row_divergence: KL of the row sums and their marginal; 0 for an exact marginal that is met.
      column_divergence: the same of the columns.
    """

    primal: Float[Array, ""]
    dual: Float[Array, ""]
    score: Float[Array, ""]
    prior_divergence: Float[Array, ""]
    row_divergence: Float[Array, ""]
    column_divergence: Float[Array, ""]


def sinkhorn_objective(
    result: SinkhornOutput,
    scores: Num[ArrayLike, "n k"] | Sequence,
    *,
    log_prior: Num[ArrayLike, "n k"] | Sequence | None = None,
    row_marginal: Num[ArrayLike, " n"] | Sequence | None = None,
    column_marginal: Num[ArrayLike, " k"] | Sequence | None = None,
    mask: Shaped[ArrayLike, " n"] | Sequence | None = None,
    epsilon: Scalar = 0.05,
    row_relaxation: Scalar | None = None,
    column_relaxation: Scalar | None = None,
    mass: Scalar | None = None,
    axis_name: AxisName = None,
) -> SinkhornObjective:
    """The value of a transport problem at a result of `sinkhorn`, which had the same arguments.

    `primal` and `dual` have the derivative of the exact value by the envelope theorem (the plan is that by the scores,
    minus epsilon times the row potential that by the row marginal): no iteration is differentiated, and the error is
    of the order of the result's own. So `sinkhorn(jax.lax.stop_gradient(scores), ...)` saves work and changes no
    first derivative; a second derivative needs the result's. A marginal of 0 has no
    derivative, and what stands there no meaning. The other fields are differentiated through the plan.

    The value is that of a score, which is maximised: minus this is the regularised cost of OTT and POT, up to
    constants, for masses of 1 (see `mass`).

    Args:
      result: of `sinkhorn`; of a truncated iteration the dual is still a bound, and the primal belongs to a plan that
        misses the column marginal.
      scores: (N, K), as they were given to `sinkhorn`.
      log_prior: as there.
      row_marginal: as there.
      column_marginal: as there.
      mask: as there.
      epsilon: as there.
      row_relaxation: as there.
      column_relaxation: as there.
      mass: as there.
      axis_name: as there; the values are those of all rows together.

    Raises:
      ValueError: an array does not fit the plan, an option is out of range, or a known number broken as in `sinkhorn`.

    Example:
      >>> from casejax import ot
      >>> scores = [[1.0, 0.0], [0.0, 1.0]]
      >>> result = ot.sinkhorn(scores, epsilon=0.1, num_iters=100, tolerance=1e-4)
      >>> value = ot.sinkhorn_objective(result, scores, epsilon=0.1)
      >>> print(f"{value.score:.2f} {value.primal:.2f} {value.dual:.2f}")  # at the solution, the last two agree
      2.00 1.80 1.80
    """
    scores = numbers("scores", scores)
    if scores.ndim != 2:
        raise ValueError(f"scores must be (N, K), got {scores.shape}")
    dtype, (num_rows, num_columns) = scores.dtype, scores.shape
    plan = numbers("result.plan", result.plan, scores.shape).astype(dtype)
    row_potential = numbers("result.row_potential", result.row_potential, (num_rows,)).astype(dtype)
    column_potential = numbers("result.column_potential", result.column_potential, (num_columns,)).astype(dtype)
    result = result._replace(plan=plan, row_potential=row_potential, column_potential=column_potential)
    prior = None if log_prior is None else numbers("log_prior", log_prior, scores.shape).astype(dtype)
    rows = None if row_marginal is None else numbers("row_marginal", row_marginal, (num_rows,)).astype(dtype)
    columns = None
    if column_marginal is not None:
        columns = numbers("column_marginal", column_marginal, (num_columns,)).astype(dtype)
    shown = None if mask is None else boolean("mask", mask, (num_rows,))
    options = {
        "epsilon": epsilon,
        "row_relaxation": row_relaxation,
        "column_relaxation": column_relaxation,
        "mass": mass,
    }
    checked = [None if value is None else positive(name, value) for name, value in options.items()]
    refuse_broken(scores, prior, rows, columns, shown)
    inputs = (scores, prior, rows, columns, shown, *checked)
    return SinkhornObjective(
        *with_automatic_axes(partial(_objective, axis_name), lambda: [spec_of(scores)] * 6, result, *inputs)
    )


class _Inputs(NamedTuple):
    """The arguments as one problem has them; what takes no part is 0, and so is a log prior of -inf."""

    scores: jax.Array
    log_prior: jax.Array
    prior: jax.Array
    rows: jax.Array
    columns: jax.Array
    epsilon: jax.Array
    row_relaxation: jax.Array | None
    column_relaxation: jax.Array | None


@partial(jax.jit, static_argnums=0)
def _objective(
    axis_name: AxisName,
    result: SinkhornOutput,
    scores: jax.Array,
    log_prior: jax.Array | None,
    row_marginal: jax.Array | None,
    column_marginal: jax.Array | None,
    mask: jax.Array | None,
    epsilon: ArrayLike,
    row_relaxation: ArrayLike | None,
    column_relaxation: ArrayLike | None,
    mass: ArrayLike | None,
) -> list[jax.Array]:
    """The fields of a `SinkhornObjective`."""
    dtype = scores.dtype
    exact = row_relaxation is None and column_relaxation is None
    rows, columns = marginals(scores.shape, dtype, row_marginal, column_marginal, mask, mass, exact, axis_name)
    live = (rows > 0)[:, None] & (columns > 0)[None, :]
    logs = jnp.where(live, jnp.zeros_like(scores) if log_prior is None else log_prior, 0)
    allowed = live & (logs != -jnp.inf)
    logs = jnp.where(allowed, logs, 0)
    scalars = [None if x is None else jnp.asarray(x, dtype) for x in (epsilon, row_relaxation, column_relaxation)]
    sharded: Any = jnp.where(live, scores, 0), logs, jnp.where(allowed, jnp.exp(logs), 0), rows
    sharded, shared = varying_together(
        (*sharded, result.plan, result.row_potential), (columns, *scalars, result.column_potential), axis_name
    )
    (*of_rows, plan, f), (*of_columns, g) = sharded, shared
    inputs = _Inputs(*of_rows, *of_columns)
    total = partial(total_over, axis_name)

    score = total((plan * inputs.scores).sum())
    prior_divergence = total((_entropy(plan, inputs.log_prior) - plan + inputs.prior).sum())
    divergences = [
        _divergence(plan.sum(axis=1), inputs.rows, total),
        _divergence(total(plan.sum(axis=0)), inputs.columns, lambda x: x),
    ]
    primal = score - inputs.epsilon * prior_divergence
    for relaxation, divergence in zip(inputs[-2:], divergences, strict=True):
        primal = primal if relaxation is None else primal - relaxation * divergence
    dual = _dual(axis_name, inputs, (plan, f, g))
    # The same value as it is, with the derivative of the exact one.
    primal = jax.lax.stop_gradient(primal) + (dual - jax.lax.stop_gradient(dual))
    return [primal, dual, score, prior_divergence, *divergences]


def _entropy(x: jax.Array, log_y: jax.Array) -> jax.Array:
    """Terms x log(x / y), 0 where x is."""
    return jnp.where(x > 0, x * (jnp.log(jnp.where(x > 0, x, 1)) - log_y), 0)


def _divergence(x: jax.Array, y: jax.Array, total: Any) -> jax.Array:
    logs = jnp.log(jnp.where(y > 0, y, 1))
    return total((_entropy(x, logs) - x + y).sum())


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _dual(axis_name: AxisName, inputs: _Inputs, solution: tuple[jax.Array, ...]) -> jax.Array:
    """The dual objective, which is least over the potentials f, g.

    It is

        epsilon (sum Q - sum prior) + rows + columns,

    the rows being `-epsilon <f, a>`, or relaxed `relaxation sum a (exp(-epsilon f / relaxation) - 1)`.
    """
    plan, f, g = solution
    _, _, prior, rows, columns, epsilon, row_relaxation, column_relaxation = inputs
    total = partial(total_over, axis_name)
    value = epsilon * total((plan - prior).sum())
    of_rows = _conjugate(rows, plan.sum(axis=1), f, epsilon, row_relaxation)
    of_columns = _conjugate(columns, total(plan.sum(axis=0)), g, epsilon, column_relaxation)
    return value + total(of_rows.sum()) + of_columns.sum()


@_dual.defjvp
def _(axis_name: AxisName, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """At the least value the potentials do not count: they are held, and Q = exp(f + g + log of the kernel) moves."""
    (inputs, solution), (change, _) = primals, tangents
    _, held = jax.jvp(lambda x: _dual.fun(axis_name, x, solution), (inputs,), (change,))
    _, of_kernel = jax.jvp(lambda x: x.scores / x.epsilon + x.log_prior, (inputs,), (change,))
    moved = inputs.epsilon * total_over(axis_name, (solution[0] * of_kernel).sum())
    return _dual(axis_name, inputs, solution), held + moved


def _conjugate(
    masses: jax.Array, reached: jax.Array, potential: jax.Array, epsilon: jax.Array, relaxation: jax.Array | None
) -> jax.Array:
    """What one side gives to the dual objective; rows and columns without an allowed entry are -inf of a potential."""
    known = (masses > 0) & (reached > 0)
    potential = jnp.where(known, potential, 0)
    if relaxation is None:
        return -epsilon * potential * masses
    return relaxation * masses * jnp.where(known, jnp.expm1(-divide(epsilon, relaxation) * potential), -1)
