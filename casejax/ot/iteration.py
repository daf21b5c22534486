"""The Sinkhorn iteration on a prepared problem, and the derivative of its fixed point."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from casejax.ot.acceleration import MEMORY, Memory, divide, remember
from casejax.ot.kernels import REACH, Kernel, everywhere_narrow, is_narrow, plain_kernel, wide_kernel
from casejax.ot.placement import AxisName, greatest_over, total_over, varying_as

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


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
      row_start: (N,) logarithm of the scaling of the rows to start from, or None.
      column_start: (K,) the same of the columns; the rows then follow from it.
    """

    scores: Float[Array, "n k"]
    log_prior: Float[Array, "n k"] | None
    rows: Float[Array, " n"]
    columns: Float[Array, " k"]
    epsilon: Float[Array, ""]
    row_power: Float[Array, ""] | None
    column_power: Float[Array, ""] | None
    row_start: Float[Array, " n"] | None = None
    column_start: Float[Array, " k"] | None = None


class Safe(NamedTuple):
    """The last point that an accelerated iteration kept, and what it asks of the next one.

    Attributes:
      sums: column sums there.
      v: scaling of the columns there.
      error: what the error of the next point may be at most; infinite for a plain step, which is always kept.
      radius: greatest correction of a logarithm of the scaling.
      refused: points that were not kept.
      memory: of the acceleration.
    """

    sums: Any
    v: Any
    error: Float[Array, ""]
    radius: Float[Array, ""]
    refused: Int[Array, ""]
    memory: Memory


class Solution(NamedTuple):
    """Plan, log-scalings (-inf for a scaling of 0), iterations, both errors, the mass they are shares of."""

    plan: Float[Array, "n k"]
    row_potential: Float[Array, " n"]
    column_potential: Float[Array, " k"]
    iterations: Int[Array, ""]
    row_error: Float[Array, ""]
    column_error: Float[Array, ""]
    mass: Float[Array, ""]


def solve(problem: Problem, num_iters: int, tolerance: Float[Array, ""] | None, axis_name: AxisName = None) -> Solution:
    """Iterate `num_iters` times, or until the errors are at most the tolerance (then `lax.while_loop`)."""
    scores, log_prior, rows, columns, epsilon, *_ = problem

    def plain() -> Solution:
        kernel = plain_kernel(scores, log_prior, epsilon, axis_name)
        return iterate(kernel, problem, num_iters, tolerance, axis_name)

    def wide() -> Solution:
        active = (rows > 0)[:, None] & (columns > 0)[None, :]
        kernel = wide_kernel(scores, log_prior, epsilon, active, axis_name)
        return iterate(kernel, problem, num_iters, tolerance, axis_name)

    narrow = is_narrow(scores, log_prior, rows, columns, epsilon, axis_name)
    if problem.row_power is not None or problem.column_power is not None:
        # Masses that do not agree move the constant between the potentials, by so much in the end.
        missing = jnp.abs(jnp.log(divide(total_over(axis_name, rows.sum()), columns.sum())))
        slopes = sum(1 / power - 1 for power in (problem.row_power, problem.column_power) if power is not None)
        narrow = narrow & everywhere_narrow(missing * jnp.minimum(num_iters, 1 / slopes) <= REACH)
    return jax.lax.cond(narrow, plain, wide)


def iterate(
    kernel: Kernel,
    problem: Problem,
    num_iters: int,
    tolerance: Float[Array, ""] | None,
    axis_name: AxisName = None,
) -> Solution:
    """`solve` with a kernel; of the problem, what belongs to the kernel is not looked at."""
    rows, columns = problem.rows, problem.columns
    if axis_name is not None:
        count = kernel.count
        kernel = kernel._replace(count=lambda u: total_over(axis_name, count(u)))
    row_mass = total_over(axis_name, rows.sum())

    def step(carry: tuple) -> tuple:
        sums, _, _, done = carry
        v = kernel.scaling(columns, sums, problem.column_power)
        u = kernel.scaling(rows, kernel.row_sums(v), problem.row_power)
        return kernel.column_sums(u), u, v, done + 1

    def moving_mass(sums: Any, v: Any) -> jax.Array:
        """What errors are shares of: the mass of the rows, or where that is only a wish, the mass of the plan."""
        return row_mass if problem.row_power is None else kernel.product(sums, v).sum()

    def column_error(sums: Any, v: Any) -> jax.Array:
        """L1 distance of the column sums to their marginal, or if relaxed to those after one more column update."""
        wanted = columns
        if problem.column_power is not None:
            wanted = kernel.product(sums, kernel.scaling(wanted, sums, problem.column_power))
        return divide(jnp.abs(kernel.product(sums, v) - wanted).sum(), moving_mass(sums, v))

    u, v = _start(kernel, problem)
    carry = (kernel.column_sums(u), u, v, jnp.zeros((), jnp.int32))
    if tolerance is None:
        carry = jax.lax.fori_loop(0, num_iters, lambda _, c: step(c), carry, unroll=num_iters <= 4)
    elif problem.column_power is None:
        carry = _accelerated(kernel, problem, num_iters, tolerance, step(carry), column_error)
    else:  # the residuals that acceleration needs would be small differences of large logarithms

        def unfinished(carry: tuple) -> jax.Array:
            return (carry[3] < num_iters) & (column_error(*carry[::2]) > tolerance)

        def translated(carry: tuple) -> tuple:
            sums, u, v, done = carry
            return step((kernel.shift(sums, _translation(kernel, problem, u, v, axis_name)), u, v, done))

        carry = jax.lax.while_loop(unfinished, translated, step(carry))
    sums, u, v, done = carry
    row_potential = kernel.log(u)
    mass = moving_mass(sums, v)
    missed = jnp.zeros_like(mass)
    if problem.row_power is None:
        # An exact row misses its mass only where it has no allowed entry, whatever the iteration does.
        missed = total_over(axis_name, jnp.where(row_potential == -jnp.inf, rows, 0).sum())
    plan, error = kernel.plan(u, v, sums), column_error(sums, v)
    return Solution(plan, row_potential, kernel.log(v), done, divide(missed, mass), error, mass)


def _start(kernel: Kernel, problem: Problem) -> tuple[Any, Any]:
    """Scalings of rows and columns before the first update, which is that of the columns by the rows."""
    rows, columns = problem.rows > 0, problem.columns > 0
    u, v = kernel.ones(rows), kernel.ones(columns)
    if problem.row_start is not None:
        u = kernel.exp(jnp.where(rows, problem.row_start, -jnp.inf))
    elif problem.column_start is not None:
        shown = columns & (problem.column_start > -jnp.inf)
        start = jnp.where(shown, problem.column_start, 0)
        if problem.row_power is None:  # a constant is free
            start = start - divide(start.sum(), shown.sum().astype(start.dtype))
        v = kernel.exp(jnp.where(columns, start, -jnp.inf))
        u = kernel.scaling(problem.rows, kernel.row_sums(v), problem.row_power)
    return u, v


def _translation(kernel: Kernel, problem: Problem, u: Any, v: Any, axis_name: AxisName) -> Float[Array, ""]:
    """What to add to the row potential, and take from the column's, for the least dual objective; relaxed columns.

    With a strong penalty the updates move this constant by epsilon / relaxation of what is missing only. The dual
    depends on it through `A exp(-p' t) / p' + B exp(q' t) / q'`, with p' = epsilon / relaxation of the rows and A the
    sum of their masses times exp(-p' f), and q' and B the same of the columns (Sejourne et al., 2022).
    """

    def mass_and_slope(masses: jax.Array, potential: jax.Array, power: Any, axes: AxisName) -> tuple:
        slope = jnp.zeros_like(problem.epsilon) if power is None else 1 / power - 1
        present = (masses > 0) & (potential > -jnp.inf)
        logs = jnp.where(present, jnp.log(jnp.where(present, masses, 1)) - slope * potential, -jnp.inf)
        top = greatest_over(axes, logs.max())
        top = jnp.where(top == -jnp.inf, 0, top)
        return top + jnp.log(total_over(axes, jnp.exp(logs - top).sum())), slope

    of_rows, row_slope = mass_and_slope(problem.rows, kernel.log(u), problem.row_power, axis_name)
    of_columns, column_slope = mass_and_slope(problem.columns, kernel.log(v), problem.column_power, None)
    missing = of_rows - of_columns
    # Round-off in it is multiplied by relaxation / epsilon; but the plan, which moves by less, does not depend on it.
    return jnp.where(jnp.isfinite(missing), missing, 0) / (row_slope + column_slope)


def _accelerated(
    kernel: Kernel,
    problem: Problem,
    num_iters: int,
    tolerance: Float[Array, ""],
    carry: tuple,
    column_error: Callable[[Any, Any], jax.Array],
) -> tuple:
    """Iterate to the tolerance; exact columns.

    An accelerated point is kept if it has no greater error than the one before, if no row has lost its mass to
    rounding, and if the dual objective (a concave function of the column potential, with the rows at their best) still
    rises along the step where it ends: then it has risen all the way. Its slope is marginal less column sums, so this
    costs K products, and no digits. Plain steps do all that by themselves.

    After a point that is not kept comes a plain step from the one before, and corrections are bounded more tightly.
    No more than 3 points, and one of ten thereafter, are lost in this way.

    This is no bound on the iterations, since a point with a smaller error can be farther away: on random problems of
    16 x 5 and 8 x 8 with epsilon down to 1/2000 and masses down to 1e-4, 44% of the plain iterations are needed in
    sum, but one problem in 6,000 takes more than 1.2 times as many and 5, at worst 1.7 times. To carry the plain
    iteration along would bound them, and make each of them 1.5 to 2 times as slow.
    """
    rows, columns = problem.rows, problem.columns
    held = kernel.count(carry[1])

    def unfinished(state: tuple) -> jax.Array:
        (sums, u, v, done), _ = state
        error = column_error(sums, v)
        return (done < num_iters) & ((error > tolerance) | (kernel.count(u) < held))

    def advance(state: tuple) -> tuple:
        (sums, u, v, done), safe = state
        plain, went = safe.error == jnp.inf, safe.memory.correction
        error = column_error(sums, v)
        slope = ((columns - kernel.product(sums, v)) * (safe.memory.residual + went)).sum()
        good = plain | ((error <= safe.error) & (slope >= 0) & (kernel.count(u) >= held))
        sums, v = jax.tree.map(partial(jnp.where, good), (sums, v), (safe.sums, safe.v))
        refused = safe.refused + (~good).astype(jnp.int32)

        reached = kernel.product(sums, v)
        known = (columns > 0) & (reached > 0)
        residual = jnp.where(known, jnp.log(jnp.where(known, columns / jnp.where(known, reached, 1), 1)), 0)
        memory = remember(safe.memory, residual, good & (done > 1))
        # The last step is plain, since no other is left to judge it.
        trusted = good & (10 * refused <= done + 20) & (done + 1 < num_iters)
        correction = jnp.where(trusted, memory.correction, 0)
        if problem.row_power is None:  # a constant is free
            correction = correction - divide((correction * columns).sum(), columns.sum())
        length = jnp.abs(went).max()
        radius = jnp.where(good, jnp.clip(10 * length, safe.radius, 8), length / 4)
        correction = correction * jnp.minimum(1, radius / jnp.maximum(jnp.abs(correction).max(), radius))
        least = jnp.where((correction == 0).all(), jnp.inf, error)
        safe = Safe(sums, v, least, radius, refused, memory._replace(correction=correction))
        v = kernel.times(kernel.scaling(columns, sums, None), jnp.exp(correction))
        u = kernel.scaling(rows, kernel.row_sums(v), problem.row_power)
        return (kernel.column_sums(u), u, v, done + 1), safe

    none = jnp.zeros((MEMORY, len(columns)), columns.dtype)
    memory = Memory(none, none, none[0], none[0])
    far = jnp.full((), jnp.inf, columns.dtype)
    safe = Safe(carry[0], carry[2], far, jnp.full_like(far, 3), jnp.zeros((), jnp.int32), memory)
    safe = varying_as(safe, problem.epsilon)
    carry, _ = jax.lax.while_loop(unfinished, advance, (carry, safe))
    return carry


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def solve_to_tolerance(num_iters: int, axis_name: AxisName, problem: Problem, tolerance: Float[Array, ""]) -> Solution:
    """`solve` with a tolerance, differentiable in both modes as the fixed point that it approaches."""
    return solve(problem, num_iters, tolerance, axis_name)


@solve_to_tolerance.defjvp
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
    solution = solve_to_tolerance(num_iters, axis_name, problem, tolerance)
    plan = solution.plan

    scores, epsilon = problem.scores, problem.epsilon
    of_kernel = change.scores / epsilon - scores * (change.epsilon / epsilon**2)
    if problem.log_prior is not None:
        of_kernel = of_kernel + jnp.where(problem.log_prior == -jnp.inf, 0, change.log_prior)
    moved = plan * of_kernel
    f, g = (jnp.where(x == -jnp.inf, 0, x) for x in (solution.row_potential, solution.column_potential))
    rows = _Side(divide(change.rows, problem.rows), f, *_power(problem.row_power, change.row_power))
    columns = _Side(divide(change.columns, problem.columns), g, *_power(problem.column_power, change.column_power))
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
    zero, no_change = jnp.zeros_like(solution.row_error), np.zeros((), jax.dtypes.float0)
    return solution, Solution(of_plan, of_f, of_g, no_change, zero, zero, zero)  # type: ignore[arg-type]


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


def _power(power: Float[Array, ""] | None, change: Float[Array, ""] | None) -> tuple:
    return (1, 0) if power is None else (power, change)
