"""The Sinkhorn iteration on a prepared problem."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float, Int
from casejax.ot.acceleration import MEMORY, Memory, divide, remember
from casejax.ot.kernels import (
    REACH,
    REACHED,
    Centred,
    Kernel,
    Wide,
    centre,
    centred_at,
    centred_kernel,
    has_drifted,
    in_whole_batch,
    is_narrow,
    plain_kernel,
    residues_and_exponents,
    where_in_batch,
    wide_exp,
    wide_kernel,
)
from casejax.ot.placement import AxisName, greatest_over, total_over, varying_as

ACCOMPANIED = 64 * 64
"""Entries up to which the plain iteration is carried along with the accelerated one, at little cost."""

NEVER_ACCELERATED = 2**24
"""Refused points after which no iteration is trusted to be accelerated."""


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
      length: that of the correction that was added.
      refused: points that were not kept.
      held: rows that had a scaling after the first iteration.
      memory: of the acceleration.
    """

    sums: Any
    v: Any
    error: Float[Array, ""]
    radius: Float[Array, ""]
    length: Float[Array, ""]
    refused: Int[Array, ""]
    held: Int[Array, ""]
    memory: Memory


class Point(NamedTuple):
    """Where an iteration is.

    Attributes:
      sums: column sums with the scaling of the rows.
      u: scaling of the rows.
      v: scaling of the columns that it came from.
      following: scaling of the columns that the next iteration starts with.
      done: iterations done.
      unfinished: whether there is a next one.
      safe: of an accelerated iteration, else None.
      centred: the kernel that all these are relative to, where it is centred anew on the way, else None.
      drifted: whether that comes before the next iteration, else None.
    """

    sums: Any
    u: Any
    v: Any
    following: Any
    done: Int[Array, ""]
    unfinished: Bool[Array, ""]
    safe: Safe | None = None
    centred: Centred | None = None
    drifted: Bool[Array, ""] | None = None


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
    """Iterate `num_iters` times, or until the errors are at most the tolerance; without a derivative."""
    scores, log_prior, rows, columns, epsilon, row_power, column_power, *_ = problem
    narrow = is_narrow(scores, log_prior, rows, columns, epsilon, axis_name)
    if row_power is None and column_power is None:
        iteration = Iteration(problem, num_iters, tolerance, axis_name, narrow=narrow)
        return iteration.end(iteration.run(iteration.start()))
    # Masses that do not agree move the constant between the potentials, by so much in the end.
    missing = jnp.abs(jnp.log(divide(total_over(axis_name, rows.sum()), columns.sum())))
    slopes = sum(1 / power - 1 for power in (row_power, column_power) if power is not None)
    narrow = narrow & in_whole_batch(missing * jnp.minimum(num_iters, 1 / slopes) <= REACH)
    return jax.lax.cond(
        narrow,
        lambda: iterate(plain_kernel(scores, log_prior, epsilon, axis_name), problem, num_iters, tolerance, axis_name),
        lambda: iterate(wide(problem, axis_name), problem, num_iters, tolerance, axis_name),
    )


def iterate(
    kernel: Kernel, problem: Problem, num_iters: int, tolerance: Float[Array, ""] | None, axis_name: AxisName = None
) -> Solution:
    """`solve` with one kernel; of the problem, what belongs to the kernel is not looked at."""
    iteration = Iteration(problem, num_iters, tolerance, axis_name, kernel)
    return iteration.end(iteration.run(iteration.start()))


def scalings(problem: Problem, num_iters: int, axis_name: AxisName = None) -> tuple[Solution, Wide, Wide]:
    """What `num_iters` iterations reach; scalings of rows (T, N) and of columns (T, K) after each."""
    if problem.row_power is None and problem.column_power is None:
        iteration = Iteration(problem, num_iters, None, axis_name, narrow=is_narrow(*problem[:5], axis_name))
    else:
        iteration = Iteration(problem, num_iters, None, axis_name, wide(problem, axis_name))

    def step(point: Point, _: None) -> tuple[Point, tuple[Wide, Wide]]:
        point = iteration.advance(point)
        held = point.centred
        if held is None:
            return point, (point.u, point.v)
        return point, (Wide(point.u, held.row_exponents), Wide(point.v, held.column_exponents))

    point, steps = jax.lax.scan(step, iteration.start(), length=num_iters)
    return iteration.end(point), *steps


def wide(problem: Problem, axis_name: AxisName) -> Kernel:
    """The kernel of a problem that is safe at any range."""
    active = (problem.rows > 0)[:, None] & (problem.columns > 0)[None, :]
    return wide_kernel(problem.scores, problem.log_prior, problem.epsilon, active, axis_name)


class Iteration:
    """The updates of a problem, with one kernel; or, if marginals are exact, with one that is centred on the way.

    The latter is not centred where the problem is `narrow`; others are wherever the scalings leave its range. Once they
    settle, an iteration costs what it does with a plain kernel.
    """

    def __init__(
        self,
        problem: Problem,
        num_iters: int,
        tolerance: Float[Array, ""] | None,
        axis_name: AxisName = None,
        kernel: Kernel | None = None,
        narrow: Bool[Array, ""] | None = None,
    ) -> None:
        self.problem, self.num_iters, self.tolerance, self.axis_name = problem, num_iters, tolerance, axis_name
        self.kernel, self.narrow, self.row_mass = kernel, narrow, total_over(axis_name, problem.rows.sum())

    def start(self) -> Point:
        """Before the first iteration."""
        problem, centred, drifted = self.problem, None, None
        if self.kernel is None:
            assert self.narrow is not None
            centred, following = self._centred_start()
            drifted = jnp.logical_not(self.narrow)
        else:
            sums = self.kernel.column_sums(first_scalings(self.kernel, problem)[0])
            following = self.kernel.scaling(problem.columns, sums, problem.column_power)
        sums, u, v = (jnp.zeros_like(x) for x in (problem.columns, problem.rows, problem.columns))
        if isinstance(following, Wide):
            sums, u, v = (Wide(x, x) for x in (sums, u, v))
        safe, zero = None, jnp.zeros((), jnp.int32)
        if self.tolerance is not None and problem.column_power is None:
            none = jnp.zeros_like(problem.columns)
            memory = Memory(jnp.zeros((MEMORY, 2, len(none)), none.dtype), none, none)
            far = jnp.full((), jnp.inf, none.dtype)
            safe = Safe(sums, v, far, jnp.full_like(far, 3), jnp.zeros_like(far), zero, zero, memory)
        point = Point(sums, u, v, following, zero, jnp.ones((), bool), safe, centred, drifted)
        varying = varying_as(point, problem.epsilon)
        return (
            varying._replace(done=zero)
            if self.tolerance is not None
            else varying._replace(done=zero, unfinished=point.unfinished)
        )

    def _centred_start(self) -> tuple[Centred, jax.Array]:
        """A kernel that is centred at the start of the rows, and the first scaling of the columns."""
        scores, log_prior, rows, columns, epsilon, *_ = self.problem
        u = Wide((rows > 0).astype(rows.dtype), jnp.zeros_like(rows))
        if self.problem.row_start is not None:
            u = self._wide_start(jnp.where(rows > 0, self.problem.row_start, -jnp.inf))
        elif self.problem.column_start is not None:
            v = self._wide_start(_column_start(self.problem))
            of_rows = -self._tops(jnp.where(v.factor > 0, v.exponent, -jnp.inf)[None, :], 1)
            kernel = centred_kernel(centred_at(scores, log_prior, epsilon, of_rows, v.exponent))
            u = Wide(kernel.scaling(rows, kernel.row_sums(v.factor), None), of_rows)
        of_columns = -self._tops(jnp.where(u.factor > 0, u.exponent, -jnp.inf)[:, None], 0)
        held = centred_at(scores, log_prior, epsilon, u.exponent, of_columns)
        kernel = centred_kernel(held, self.axis_name)
        return held, kernel.scaling(columns, kernel.column_sums(u.factor), None)

    def _wide_start(self, logs: Float[Array, " m"]) -> Wide:
        """The scaling of a logarithm; for a kernel that is never centred anew, as near to it as that can hold."""
        assert self.narrow is not None
        far, near = wide_exp(logs), jnp.where(logs == -jnp.inf, 0, jnp.exp(jnp.clip(logs, -REACHED, REACHED)))
        return Wide(jnp.where(self.narrow, near, far.factor), jnp.where(self.narrow, 0, far.exponent))

    def _tops(self, shift: Float[Array, "..."], axis: int) -> Float[Array, " m"]:
        """Greatest exponents of the kernel times 2**shift along an axis; 0 if it is narrow, or where there are none."""
        scores, log_prior, _, _, epsilon, *_ = self.problem

        def tops() -> jax.Array:
            top = (residues_and_exponents(scores, log_prior, epsilon)[1] + shift).max(axis=axis)
            top = greatest_over(self.axis_name, top) if axis == 0 else top
            return jnp.where(top == -jnp.inf, 0, top)

        none = self.problem.columns if axis == 0 else self.problem.rows
        return jax.lax.cond(self.narrow, lambda: jnp.zeros_like(none), tops)

    def run(self, point: Point) -> Point:
        """Iterate to the end; in a batch, to the end of all problems."""
        num_rows, num_columns = *self.problem.rows.shape, *self.problem.columns.shape
        is_known = isinstance(num_rows, int) and isinstance(num_columns, int)  # symbolic in a program for export
        if point.safe is not None and is_known and num_rows * num_columns <= ACCOMPANIED:
            return self._run_accompanied(point)
        return jax.lax.while_loop(lambda p: jnp.logical_not(in_whole_batch(~p.unfinished)), self.advance, point)

    def _run_accompanied(self, point: Point) -> Point:
        """`run` of the accelerated and of the plain iteration side by side, to the end of the first of them."""
        assert point.safe is not None
        refused = jnp.asarray([0, NEVER_ACCELERATED], jnp.int32)
        pair = jax.tree.map(lambda x: jnp.stack([x, x]), point)
        pair = pair._replace(safe=pair.safe._replace(refused=pair.safe.refused + refused))
        pair = varying_as(pair, self.problem.epsilon)
        pair = jax.lax.while_loop(lambda p: p.unfinished.all(), jax.vmap(self.advance), pair)
        return jax.tree.map(lambda x: x[jnp.argmin(pair.unfinished)], pair)

    def advance(self, before: Point) -> Point:
        """One iteration, up to the update of the columns that the next one starts with."""
        problem, point = self.problem, before if before.centred is None else self._centre_anew(before)
        kernel = self._kernel(point)
        v, done, safe = point.following, point.done + 1, point.safe
        u = kernel.scaling(problem.rows, kernel.row_sums(v), problem.row_power)
        sums = kernel.column_sums(u)
        unfinished, moved = done < self.num_iters, sums
        if self.tolerance is not None:
            error = self._column_error(kernel, sums, v)
            if safe is None:  # the residuals that acceleration needs would be small differences of large logarithms
                unfinished = unfinished & (error > self.tolerance)
                moved = kernel.shift(sums, self._translation(kernel, u, v))
            else:
                count = total_over(self.axis_name, kernel.count(u))
                safe = safe._replace(held=jnp.where(done == 1, count, safe.held))
                unfinished = unfinished & ((error > self.tolerance) | (count < safe.held))
                safe = self._judged(kernel, safe, sums, v, done, error, count >= safe.held)
                moved = safe.sums
        following = kernel.scaling(problem.columns, moved, problem.column_power)
        if safe is not None:
            following = kernel.times(following, jnp.exp(safe.memory.correction))
        drifted = None if self.narrow is None else unfinished & ~self.narrow & has_drifted(following)
        after = Point(sums, u, v, following, done, unfinished, safe, None, drifted)
        after = where_in_batch(before.unfinished, after, before._replace(centred=None))
        return after._replace(centred=point.centred)

    def _kernel(self, point: Point) -> Kernel:
        """The kernel that the scalings of a point belong to."""
        if point.centred is not None:
            return centred_kernel(point.centred, self.axis_name)
        assert self.kernel is not None
        return self.kernel

    def _centre_anew(self, point: Point) -> Point:
        """The point relative to the scaling of the columns that comes next, where that has drifted."""
        scores, log_prior, _, _, epsilon, *_ = self.problem

        def centred(state: tuple) -> tuple:
            point, pending = state
            held, powers = centre(scores, log_prior, epsilon, point.centred, point.following)
            safe = point.safe
            if safe is not None:
                safe = safe._replace(sums=safe.sums / powers, v=safe.v * powers)
            new = point._replace(centred=held, following=point.following * powers, safe=safe)
            return where_in_batch(point.drifted, new, point), jnp.zeros_like(pending)

        # A loop of one round or none: its result takes the place of what was held.
        assert point.drifted is not None
        pending = jnp.logical_not(in_whole_batch(~point.drifted))
        return jax.lax.while_loop(lambda state: state[1], centred, (point, pending))[0]

    def _judged(
        self,
        kernel: Kernel,
        safe: Safe,
        sums: Any,
        v: Any,
        done: jax.Array,
        error: jax.Array,
        whole: jax.Array,
    ) -> Safe:
        """The point to go on from, and what it asks of the next one.

        An accelerated point is kept if it has no greater error than the one before, if no row has lost its mass to
        rounding, and if the dual objective (a concave function of the column potential, with the rows at their best)
        still rises along the step where it ends: then it has risen all the way. Its slope is marginal less column
        sums, so this costs K products, and no digits. Plain steps do all that by themselves.

        After a point that is not kept comes a plain step from the one before, and corrections are bounded more
        tightly. No more than 3 points, and one of ten thereafter, are lost in this way.

        A point with a smaller error can still be farther away: on random problems of 1 x 1 to 30 x 12 half of the plain
        iterations are needed in sum, but one problem in 1,000 takes more than 1.2 times as many and 5, most of them of
        2 x 2 to 5 x 3. There the plain iteration is carried along, and the first to end is the result; with more
        entries that would make each iteration 1.5 to 2 times as slow.
        """
        columns, went = self.problem.columns, safe.memory.correction
        slope = ((columns - kernel.product(sums, v)) * (safe.memory.residual + went)).sum()
        good = (safe.error == jnp.inf) | ((error <= safe.error) & (slope >= 0) & whole)
        sums, v = jax.tree.map(partial(jnp.where, good), (sums, v), (safe.sums, safe.v))
        refused = safe.refused + (~good).astype(jnp.int32)

        reached = kernel.product(sums, v)
        known = (columns > 0) & (reached > 0)
        residual = jnp.where(known, jnp.log(jnp.where(known, columns / jnp.where(known, reached, 1), 1)), 0)
        memory = remember(safe.memory, residual, good & (done > 1))
        # The last step is plain, since no other is left to judge it.
        trusted = good & (10 * refused <= done + 20) & (done + 1 < self.num_iters)
        correction = jnp.where(trusted, memory.correction, 0)
        if self.problem.row_power is None:  # a constant is free
            correction = correction - divide((correction * columns).sum(), columns.sum())
        radius = jnp.where(good, jnp.clip(10 * safe.length, safe.radius, 8), safe.length / 4)
        length = jnp.abs(correction).max()
        memory = memory._replace(correction=correction * jnp.minimum(1, radius / jnp.maximum(length, radius)))
        least = jnp.where(length == 0, jnp.inf, error)
        return Safe(sums, v, least, radius, jnp.minimum(length, radius), refused, safe.held, memory)

    def _moving_mass(self, kernel: Kernel, sums: Any, v: Any) -> jax.Array:
        """What errors are shares of: the mass of the rows, or where that is only a wish, the mass of the plan."""
        return self.row_mass if self.problem.row_power is None else kernel.product(sums, v).sum()

    def _column_error(self, kernel: Kernel, sums: Any, v: Any) -> jax.Array:
        """L1 distance of the column sums to their marginal, or if relaxed to those after one more column update."""
        wanted, power = self.problem.columns, self.problem.column_power
        if power is not None:
            wanted = kernel.product(sums, kernel.scaling(wanted, sums, power))
        return divide(jnp.abs(kernel.product(sums, v) - wanted).sum(), self._moving_mass(kernel, sums, v))

    def _translation(self, kernel: Kernel, u: Any, v: Any) -> Float[Array, ""]:
        """What to add to the row potential, and take from the column's, for the least dual objective.

        With a strong penalty the updates move this constant by epsilon / relaxation of what is missing only. The dual
        depends on it through `A exp(-p' t) / p' + B exp(q' t) / q'`, with p' = epsilon / relaxation of the rows and A
        the sum of their masses times exp(-p' f), and q' and B the same of the columns (Sejourne et al., 2022).
        """

        def mass_and_slope(masses: jax.Array, potential: jax.Array, power: Any, axes: AxisName) -> tuple:
            slope = jnp.zeros_like(self.row_mass) if power is None else 1 / power - 1
            present = (masses > 0) & (potential > -jnp.inf)
            logs = jnp.where(present, jnp.log(jnp.where(present, masses, 1)) - slope * potential, -jnp.inf)
            top = greatest_over(axes, logs.max())
            top = jnp.where(top == -jnp.inf, 0, top)
            return top + jnp.log(total_over(axes, jnp.exp(logs - top).sum())), slope

        problem = self.problem
        of_rows, row_slope = mass_and_slope(problem.rows, kernel.row_log(u), problem.row_power, self.axis_name)
        of_columns, column_slope = mass_and_slope(problem.columns, kernel.column_log(v), problem.column_power, None)
        missing = of_rows - of_columns
        # Round-off in it is multiplied by relaxation / epsilon; but the plan, which moves by less, does not depend on
        # it.
        return jnp.where(jnp.isfinite(missing), missing, 0) / (row_slope + column_slope)

    def end(self, point: Point) -> Solution:
        """What is reached."""
        kernel, (sums, u, v, *_) = self._kernel(point), point
        row_potential, mass = kernel.row_log(u), self._moving_mass(kernel, sums, v)
        missed = jnp.zeros_like(mass)
        if self.problem.row_power is None:
            # An exact row misses its mass only where it has no allowed entry, whatever the iteration does.
            missed = total_over(self.axis_name, jnp.where(row_potential == -jnp.inf, self.problem.rows, 0).sum())
        plan, error = kernel.plan(u, v, sums), self._column_error(kernel, sums, v)
        return Solution(plan, row_potential, kernel.column_log(v), point.done, divide(missed, mass), error, mass)


def first_scalings(kernel: Kernel, problem: Problem) -> tuple[Any, Any]:
    """Scalings of rows and columns before the first update, which is that of the columns by the rows."""
    rows, columns = problem.rows > 0, problem.columns > 0
    u, v = kernel.ones(rows), kernel.ones(columns)
    if problem.row_start is not None:
        u = kernel.exp(jnp.where(rows, problem.row_start, -jnp.inf))
    elif problem.column_start is not None:
        v = kernel.exp(_column_start(problem))
        u = kernel.scaling(problem.rows, kernel.row_sums(v), problem.row_power)
    return u, v


def _column_start(problem: Problem) -> Float[Array, " k"]:
    """The start of the columns, -inf where they take no part; with exact rows about 0, since a constant is free."""
    assert problem.column_start is not None
    live = problem.columns > 0
    shown = live & (problem.column_start > -jnp.inf)
    start = jnp.where(shown, problem.column_start, 0)
    if problem.row_power is None:
        start = start - divide(start.sum(), shown.sum().astype(start.dtype))
    return jnp.where(live, start, -jnp.inf)
