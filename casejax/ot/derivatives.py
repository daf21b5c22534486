"""Derivatives of what the Sinkhorn iteration reaches: through its iterations, or of the fixed point it approaches."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from casejax.array_types import Array, Float
from casejax.ot import iteration
from casejax.ot.acceleration import divide
from casejax.ot.iteration import Problem, Solution, first_scalings, scalings, wide
from casejax.ot.kernels import Wide, log_of, residues_and_exponents, scaled_entries
from casejax.ot.placement import AxisName, total_over, varying_as


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def solve_truncated(num_iters: int, axis_name: AxisName, problem: Problem) -> Solution:
    """`iteration.solve` without a tolerance, differentiable in both modes through its iterations; errors are not."""
    return iteration.solve(problem, num_iters, None, axis_name)


@solve_truncated.defjvp
def _(num_iters: int, axis_name: AxisName, primals: tuple, tangents: tuple) -> tuple[Solution, Solution]:
    return jax.jvp(lambda problem: _scalings(num_iters, axis_name, problem)[0], primals, tangents)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _scalings(num_iters: int, axis_name: AxisName, problem: Problem) -> tuple[Solution, Wide, Wide]:
    return scalings(problem, num_iters, axis_name)


@_scalings.defjvp
def _(num_iters: int, axis_name: AxisName, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """Each update in turn: with P the kernel scaled by what it starts from, as `solve_to_tolerance` has it.

    All that is kept of an iteration is its scalings, N + K numbers; a plan is made anew from them where it is needed.
    """
    (problem,), (change,) = primals, tangents
    solution, us, vs = _scalings(num_iters, axis_name, problem)
    first, of_first = jax.jvp(lambda p: first_scalings(wide(p, axis_name), p)[0], primals, tangents)
    before = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y[:-1]]), first, us)
    of_kernel, kernel = (
        _of_kernel(problem, change),
        residues_and_exponents(problem.scores, problem.log_prior, problem.epsilon),
    )

    @partial(jax.checkpoint, prevent_cse=False)
    def step(df: jax.Array, x: tuple[Wide, Wide, Wide]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        before, u, v = x
        f, g = (jnp.where(x.factor > 0, log_of(x), 0) for x in (u, v))
        rows, columns = _sides(problem, change, f, g)
        plan = scaled_entries(*kernel, before, v)
        moved, sums = total_over(axis_name, ((plan * (of_kernel + df[:, None])).sum(axis=0), plan.sum(axis=0)))
        dg = columns.power * (columns.of_mass - divide(moved, sums)) + columns.of_power / columns.power * g
        plan = scaled_entries(*kernel, u, v)
        moved, sums = (plan * (of_kernel + dg[None, :])).sum(axis=1), plan.sum(axis=1)
        df = rows.power * (rows.of_mass - divide(moved, sums)) + rows.of_power / rows.power * f
        return df, (df, dg)

    start = varying_as(divide(of_first.factor, first.factor), problem.rows)
    _, (df, dg) = jax.lax.scan(step, start, (before, us, vs))
    of_plan = solution.plan * (of_kernel + df[-1][:, None] + dg[-1][None, :])
    zero, no_change = jnp.zeros_like(solution.row_error), np.zeros((), jax.dtypes.float0)
    of_solution = Solution(of_plan, df[-1], dg[-1], no_change, zero, zero, zero)  # type: ignore[arg-type]
    of_scalings = [Wide(x.factor * d, jnp.zeros_like(d)) for x, d in ((us, df), (vs, dg))]
    return (solution, us, vs), (of_solution, *of_scalings)


def solve_to_tolerance(num_iters: int, axis_name: AxisName, problem: Problem, tolerance: Float[Array, ""]) -> Solution:
    """`iteration.solve` with a tolerance, differentiable in both modes as the fixed point that it approaches."""
    solution = _fixed_point(num_iters, axis_name, problem, tolerance)
    return solution._replace(iterations=solution.iterations.astype(jnp.int32))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _fixed_point(num_iters: int, axis_name: AxisName, problem: Problem, tolerance: Float[Array, ""]) -> Solution:
    """`solve_to_tolerance` with a float count: the zero tangent of an integer can't vary over the devices of a mesh."""
    solution = iteration.solve(problem, num_iters, tolerance, axis_name)
    return solution._replace(iterations=solution.iterations.astype(solution.mass.dtype))


@_fixed_point.defjvp
def _(num_iters: int, axis_name: AxisName, primals: tuple, tangents: tuple) -> tuple[Solution, Solution]:
    """Implicit differentiation of the optimality conditions.

    With f, g the potentials, r, c the sums of the plan P over columns and rows, L the logarithm of the kernel and p, q
    the powers of rows and columns, the conditions `f = p (log a - log r + f)` and `g = q (log b - log c + g)` give

        df = p (da / a - (P dL + P dg) / r) + dp f / p
        dg = q (db / b - (P^T dL + P^T df) / c) + dq g / q.

    Putting one into the other leaves K equations for dg, or N for df where those are fewer.
    """
    problem, tolerance = primals
    change, _ = tangents
    solution = _fixed_point(num_iters, axis_name, problem, tolerance)
    plan = solution.plan

    moved = plan * _of_kernel(problem, change)
    f, g = (jnp.where(x == -jnp.inf, 0, x) for x in (solution.row_potential, solution.column_potential))
    rows, columns = _sides(problem, change, f, g)
    exact = problem.row_power is None and problem.column_power is None
    num_rows, num_columns = plan.shape
    if axis_name is None and isinstance(num_rows, int) and isinstance(num_columns, int) and num_rows < num_columns:
        of_g, of_f = _change_of_potentials(plan.T, moved.T, columns, rows, exact)
        if exact:  # the constant between the two goes where it would be otherwise
            reached = plan.sum(axis=0)
            constant = divide((reached * of_g).sum(), reached.sum())
            of_f, of_g = of_f + constant, jnp.where(reached > 0, of_g - constant, 0)
    else:
        of_f, of_g = _change_of_potentials(plan, moved, rows, columns, exact, axis_name)
    of_plan = moved + plan * (of_f[:, None] + of_g[None, :])
    return solution, Solution(of_plan, of_f, of_g, *(jnp.zeros_like(x) for x in solution[3:]))


class _Side(NamedTuple):
    """Rows or columns: relative change of the masses, potential, power and its change."""

    of_mass: jax.Array
    potential: jax.Array
    power: Any
    of_power: Any


def _change_of_potentials(
    plan: Float[Array, "n k"],
    moved: Float[Array, "n k"],
    rows: _Side,
    columns: _Side,
    exact: bool,
    axis_name: AxisName = None,
) -> tuple[Float[Array, " n"], Float[Array, " k"]]:
    """Both changes, by K equations; scaled by the roots of the column sums they have eigenvalues from 0 to 1."""
    matmul = partial(jnp.matmul, precision="highest")
    all_rows = partial(total_over, axis_name)
    row_sums, column_sums = plan.sum(axis=1), all_rows(plan.sum(axis=0))
    p, q = rows.power, columns.power
    partial_f = p * (rows.of_mass - divide(moved.sum(axis=1), row_sums)) + rows.of_power / p * rows.potential
    right = column_sums * (columns.of_mass + columns.of_power / q**2 * columns.potential)
    right = right - all_rows(moved.sum(axis=0) + matmul(partial_f, plan))
    reached, total = column_sums > 0, column_sums.sum()
    root = jnp.where(reached, jnp.sqrt(jnp.where(reached, column_sums, 1)), 0)
    inverse_root = divide(jnp.ones_like(root), root)
    scaled = plan * inverse_root[None, :]
    gram = all_rows(matmul((scaled * divide(jnp.ones_like(row_sums), row_sums)[:, None]).T, scaled))
    # Exact marginals leave a constant between f and g open, which is fixed here; a plan that falls into blocks leaves
    # one for each, which the ridge at round-off fixes. The plan depends on neither. Columns without mass stand alone.
    matrix = jnp.diag(jnp.where(reached, 1 / q, 1) + 4 * float(jnp.finfo(plan.dtype).eps)) - p * gram
    if exact:
        matrix = matrix + root[:, None] * root[None, :] / jnp.where(total > 0, total, 1)
    of_g = inverse_root * jnp.linalg.solve(matrix, inverse_root * right)
    return partial_f - p * divide(matmul(plan, of_g), row_sums), of_g


def _of_kernel(problem: Problem, change: Problem) -> Float[Array, "n k"]:
    """Change of the logarithm of the kernel."""
    scores, log_prior, epsilon = problem.scores, problem.log_prior, problem.epsilon
    of_kernel = change.scores / epsilon - scores * (change.epsilon / epsilon**2)
    if log_prior is None:
        return of_kernel
    assert change.log_prior is not None
    return of_kernel + jnp.where(log_prior == -jnp.inf, 0, change.log_prior)


def _sides(problem: Problem, change: Problem, f: jax.Array, g: jax.Array) -> tuple[_Side, _Side]:
    rows = _Side(divide(change.rows, problem.rows), f, *_power(problem.row_power, change.row_power))
    columns = _Side(divide(change.columns, problem.columns), g, *_power(problem.column_power, change.column_power))
    return rows, columns


def _power(power: Float[Array, ""] | None, change: Float[Array, ""] | None) -> tuple:
    return (1, 0) if power is None else (power, change)
