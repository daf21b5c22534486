"""The Sinkhorn iteration on a prepared problem, and the derivative of its fixed point."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from casejax.ot.kernels import Kernel, is_narrow, plain_kernel, wide_kernel

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


MEMORY = 6
"""Past iterations that Anderson acceleration uses."""


class Problem(NamedTuple):
    """A transport problem in one float type; rows and columns that take no part have a mass of 0 and finite scores.

    Attributes:
      scores: (N, K).
      log_prior: (N, K) or None.
      rows: (N,) masses.
      columns: (K,) masses.
      epsilon: entropic strength in units of `scores`.
      row_power: exponent of the row update, relaxation / (relaxation + epsilon); None is 1, an exact marginal.
      column_power: the same of the columns.
    """

    scores: Float[Array, "n k"]
    log_prior: Float[Array, "n k"] | None
    rows: Float[Array, " n"]
    columns: Float[Array, " k"]
    epsilon: Float[Array, ""]
    row_power: Float[Array, ""] | None
    column_power: Float[Array, ""] | None


class Memory(NamedTuple):
    """What Anderson acceleration remembers of the logarithms of the column scaling.

    Attributes:
      results: (M, K) differences of successive results of an iteration.
      residuals: (M, K) differences of successive residuals, result less argument.
      residual: (K,) the last residual.
      correction: (K,) what was added to the last result.
      best: the least error so far; infinite before the first.
    """

    results: Float[Array, "m k"]
    residuals: Float[Array, "m k"]
    residual: Float[Array, " k"]
    correction: Float[Array, " k"]
    best: Float[Array, ""]


class Solution(NamedTuple):
    """Plan, log-scalings (-inf for a scaling of 0), iterations done and both errors, as `SinkhornOutput` has them."""

    plan: Float[Array, "n k"]
    row_potential: Float[Array, " n"]
    column_potential: Float[Array, " k"]
    iterations: Int[Array, ""]
    row_error: Float[Array, ""]
    column_error: Float[Array, ""]


def solve(problem: Problem, num_iters: int, tolerance: Float[Array, ""] | None) -> Solution:
    """Iterate `num_iters` times, or until the errors are at most the tolerance (then `lax.while_loop`)."""
    scores, log_prior, rows, columns, epsilon, *_ = problem

    def plain() -> Solution:
        return _iterate(plain_kernel(scores, log_prior, epsilon), problem, num_iters, tolerance)

    def wide() -> Solution:
        active = (rows > 0)[:, None] & (columns > 0)[None, :]
        return _iterate(wide_kernel(scores, log_prior, epsilon, active), problem, num_iters, tolerance)

    return jax.lax.cond(is_narrow(scores, log_prior, rows, columns, epsilon), plain, wide)


def _iterate(kernel: Kernel, problem: Problem, num_iters: int, tolerance: Float[Array, ""] | None) -> Solution:
    rows, columns = problem.rows, problem.columns
    mass = rows.sum()

    def iterate(carry: tuple) -> tuple:
        sums, _, _, done = carry
        v = kernel.scaling(columns, sums, problem.column_power)
        u = kernel.scaling(rows, kernel.row_sums(v), problem.row_power)
        return kernel.column_sums(u), u, v, done + 1

    def column_error(carry: tuple) -> jax.Array:
        sums, _, v, _ = carry
        wanted = columns
        if problem.column_power is not None:
            wanted = kernel.product(sums, kernel.scaling(columns, sums, problem.column_power))
        return divide(jnp.abs(kernel.product(sums, v) - wanted).sum(), mass)

    u, v = kernel.ones(rows > 0), kernel.ones(columns > 0)
    carry = (kernel.column_sums(u), u, v, jnp.int32(0))
    if tolerance is None:
        carry = jax.lax.fori_loop(0, num_iters, lambda _, c: iterate(c), carry, unroll=num_iters <= 4)
    else:

        def unfinished(state: tuple) -> jax.Array:
            return (state[0][3] < num_iters) & (column_error(state[0]) > tolerance)

        def accelerate(state: tuple) -> tuple:
            (sums, _, v, done), memory = state
            reached = kernel.product(sums, v)
            known = (columns > 0) & (reached > 0)
            residual = jnp.where(known, jnp.log(jnp.where(known, columns / jnp.where(known, reached, 1), 1)), 0)
            memory = remember(memory, residual, column_error(state[0]))
            v = kernel.times(kernel.scaling(columns, sums, None), jnp.exp(memory.correction))
            u = kernel.scaling(rows, kernel.row_sums(v), problem.row_power)
            return (kernel.column_sums(u), u, v, done + 1), memory

        none = jnp.zeros((MEMORY, len(columns)), columns.dtype)
        memory = Memory(none, none, none[0], none[0], jnp.full_like(mass, jnp.inf))
        # Where the columns are relaxed, residuals would be small differences of large logarithms.
        step = accelerate if problem.column_power is None else lambda state: (iterate(state[0]), state[1])
        carry, _ = jax.lax.while_loop(unfinished, step, (iterate(carry), memory))
    sums, u, v, done = carry
    row_potential = kernel.log(u)
    # An exact row misses its mass only where it has no allowed entry, whatever the iteration does.
    missed = jnp.where(row_potential == -jnp.inf, rows, 0).sum() if problem.row_power is None else jnp.zeros_like(mass)
    plan = kernel.plan(u, v, sums)
    return Solution(plan, row_potential, kernel.log(v), done, divide(missed, mass), column_error(carry))


def remember(memory: Memory, residual: Float[Array, " k"], error: Float[Array, ""]) -> Memory:
    """Anderson acceleration: the memory with this residual added, and the correction that it gives.

    Only differences are kept, so that large potentials lose no digits. While the error is more than twice its lowest
    value so far, the memory is emptied: iterations without a correction always converge.
    """
    change = residual - memory.residual
    useful = jnp.isfinite(memory.best) & (error <= 2 * memory.best)

    def append(rows: jax.Array, row: jax.Array) -> jax.Array:
        return jnp.where(useful, jnp.concatenate([rows[1:], row[None]]), 0)

    residuals, results = append(memory.residuals, change), append(memory.results, residual + memory.correction)
    length = jnp.sqrt((residuals * residuals).sum(axis=1))
    unit = residuals * divide(jnp.ones_like(length), length)[:, None]
    gram = jnp.matmul(unit, unit.T, precision="highest")
    gram = gram + 10 * jnp.finfo(gram.dtype).eps * jnp.eye(MEMORY, dtype=gram.dtype) + jnp.diag(length == 0)
    weights = divide(jnp.linalg.solve(gram, jnp.matmul(unit, residual, precision="highest")), length)
    correction = jnp.clip(-jnp.matmul(weights, results, precision="highest"), -10, 10)
    return Memory(results, residuals, residual, correction, jnp.minimum(memory.best, error))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def solve_to_tolerance(num_iters: int, problem: Problem, tolerance: Float[Array, ""]) -> Solution:
    """`solve` with a tolerance, differentiable in both modes as the fixed point that it approaches."""
    return solve(problem, num_iters, tolerance)


@solve_to_tolerance.defjvp
def _(num_iters: int, primals: tuple, tangents: tuple) -> tuple[Solution, Solution]:
    """Implicit differentiation of the optimality conditions.

    With f, g the potentials, r, c the sums of the plan P over columns and rows, L the logarithm of the kernel and p, q
    the powers of rows and columns, the conditions `f = p (log a - log r + f)` and `g = q (log b - log c + g)` give

        df = p (da / a - (P dL + P dg) / r) + dp f / p
        dg = q (db / b - (P^T dL + P^T df) / c) + dq g / q.

    Putting the first into the second leaves K equations for dg; they are scaled by the square roots of c on both
    sides, which makes them symmetric with eigenvalues from 0 to 1.
    """
    problem, tolerance = primals
    change, _ = tangents
    solution = solve_to_tolerance(num_iters, problem, tolerance)
    plan = solution.plan
    matmul = partial(jnp.matmul, precision="highest")

    scores, epsilon = problem.scores, problem.epsilon
    of_kernel = change.scores / epsilon - scores * (change.epsilon / epsilon**2)
    if problem.log_prior is not None:
        of_kernel = of_kernel + jnp.where(problem.log_prior == -jnp.inf, 0, change.log_prior)
    moved = plan * of_kernel
    row_sums, column_sums = plan.sum(axis=1), plan.sum(axis=0)
    p, of_p = _power(problem.row_power, change.row_power)
    q, of_q = _power(problem.column_power, change.column_power)

    f, g = (jnp.where(x == -jnp.inf, 0, x) for x in (solution.row_potential, solution.column_potential))
    partial_f = p * (divide(change.rows, problem.rows) - divide(moved.sum(axis=1), row_sums)) + of_p / p * f
    right = column_sums * (divide(change.columns, problem.columns) + of_q / q**2 * g)
    right = right - moved.sum(axis=0) - matmul(partial_f, plan)
    reached, total = column_sums > 0, column_sums.sum()
    root = jnp.where(reached, jnp.sqrt(jnp.where(reached, column_sums, 1)), 0)
    inverse_root = divide(jnp.ones_like(root), root)
    scaled = plan * inverse_root[None, :]
    gram = matmul((scaled * divide(jnp.ones_like(row_sums), row_sums)[:, None]).T, scaled)
    # Exact marginals leave a constant between f and g open, which is fixed here; a plan that falls into blocks leaves
    # one for each, which the ridge at round-off fixes. The plan depends on neither. Columns without mass stand alone.
    matrix = jnp.diag(jnp.where(reached, 1 / q, 1) + 4 * jnp.finfo(plan.dtype).eps) - p * gram
    if problem.row_power is None and problem.column_power is None:
        matrix = matrix + root[:, None] * root[None, :] / jnp.where(total > 0, total, 1)
    of_g = inverse_root * jnp.linalg.solve(matrix, inverse_root * right)
    of_f = partial_f - p * divide(matmul(plan, of_g), row_sums)
    of_plan = moved + plan * (of_f[:, None] + of_g[None, :])
    zero, no_change = jnp.zeros_like(solution.row_error), np.zeros((), jax.dtypes.float0)
    return solution, Solution(of_plan, of_f, of_g, no_change, zero, zero)  # type: ignore[arg-type]


def _power(power: Float[Array, ""] | None, change: Float[Array, ""] | None) -> tuple:
    return (1, 0) if power is None else (power, change)


def divide(x: Float[Array, "*m"], y: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """Ratio that is 0 where the denominator is."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0)
