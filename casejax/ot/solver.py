"""Entropic optimal transport by Sinkhorn's algorithm.

The self-labels of CASE (Liu et al., "Revisiting Foreground and Background Separation in Weakly-supervised
Temporal Action Localization", ICCV 2023) are transport plans. Everything in `casejax.ot` is a pure function of arrays
that needs jax and numpy alone, so the folder can be copied into other code, with `array_types.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from casejax.array_types import Array, Bool, Float, Int, Num, Shaped
from casejax.ot.acceleration import divide
from casejax.ot.checks import Scalar, boolean, count, numbers, on_host, positive, refuse
from casejax.ot.derivatives import solve_to_tolerance, solve_truncated
from casejax.ot.iteration import Problem
from casejax.ot.kernels import filled_up
from casejax.ot.placement import (
    AxisName,
    greatest_over,
    spec_of,
    total_over,
    varying_as,
    varying_together,
    with_automatic_axes,
)
from casejax.ot.priors import equal_shares

JUDGED_AT = 1e-4
"""Error up to which `converged` is true where no tolerance was asked for."""


class SinkhornOutput(NamedTuple):
    """A transport plan with the evidence of how far the iteration got.

    `plan[n, k] = exp(row_potential[n] + column_potential[k] + scores[n, k] / epsilon + log_prior[n, k])`.

    Attributes:
      plan: (N, K), the mass that goes from row n to column k.
      row_potential: (N,), log-scaling of the rows; 0 for rows without mass.
      column_potential: (K,), log-scaling of the columns; -inf for columns without mass or an allowed entry.
      iterations: updates of both sides that were done.
      row_error: L1 distance of the plan's row sums to the row marginal, as a share of the whole row mass. 0 for
        a relaxed row marginal, since rows are updated last.
      column_error: the same of the columns; since rows are updated last, the error of a
        truncated iteration shows here. For a relaxed column marginal the distance is that to the column sums after one
        more update of the columns, which is 0 at the optimum and nowhere else.
      converged: both errors are at most `tolerance` (1e-4 where none was given), and there is mass.
    """

    plan: Float[Array, "n k"]
    row_potential: Float[Array, " n"]
    column_potential: Float[Array, " k"]
    iterations: Int[Array, ""]
    row_error: Float[Array, ""]
    column_error: Float[Array, ""]
    converged: Bool[Array, ""]


def sinkhorn(
    scores: Num[ArrayLike, "n k"] | Sequence,
    *,
    log_prior: Num[ArrayLike, "n k"] | Sequence | None = None,
    row_marginal: Num[ArrayLike, " n"] | Sequence | None = None,
    column_marginal: Num[ArrayLike, " k"] | Sequence | None = None,
    mask: Shaped[ArrayLike, " n"] | Sequence | None = None,
    epsilon: Scalar = 0.05,
    num_iters: SupportsIndex = 3,
    tolerance: Scalar | None = None,
    row_relaxation: Scalar | None = None,
    column_relaxation: Scalar | None = None,
    row_init: Num[ArrayLike, " n"] | Sequence | None = None,
    column_init: Num[ArrayLike, " k"] | Sequence | None = None,
    mass: Scalar | None = None,
    axis_name: AxisName = None,
) -> SinkhornOutput:
    """Sinkhorn iteration towards the plan of maximal score with given marginals.

    Solves `max <Q, scores> - epsilon KL(Q, prior)` over plans Q with the given marginals (Eqs. 7-10, 12 and
    22-29 of CASE; with a flat prior the usual entropic problem). One iteration scales the columns, then the
    rows (Alg. 1), so the row marginal is exact and the column marginal is met only as far as the iteration
    got. The `num_iters=3` of the paper is a truncated iteration; it depends on constants added to single
    rows, which a converged plan does not.

    A relaxed marginal is a penalty instead of a constraint: `row_relaxation * KL(Q 1, row_marginal)` is
    subtracted from what is maximised, and the same for the columns, with `KL(x, y) = sum x log(x / y) - x + y`
    for measures of any mass. Row and column masses need not agree then. The update of a relaxed side is raised
    to the power `relaxation / (relaxation + epsilon)`; far above epsilon the total mass settles slowly.

    A row or column of zero mass takes no part: its plan entries are 0, and its scores, NaN or not, change
    neither a value nor a gradient.

    Scores may lie anywhere within ±1e4 epsilon and log priors within ±1e4: nothing overflows, as in the log
    domain, and in float32 every entry of the plan above 1e-30 is within 1e-5 of its own exact value. (With a
    relaxed marginal this holds up to ±30 epsilon; beyond, float32 rounds the power of the update.) While
    scores / epsilon + log_prior stays within ±24, the usual case, an iteration costs two matrix-vector products
    and hardly more memory than `scores` and the plan; beyond ±24 the kernel is made anew until the scalings settle.

    Differentiable in forward and reverse mode, but for the errors: through all iterations where `tolerance` is None,
    else implicitly, as the exact solution that the result approaches; the potentials then move such that the mean
    of the column potential, weighted with the columns, stays. Wrap the result in `jax.lax.stop_gradient`
    where a plan serves as a label. Batches: `jax.vmap`, ragged ones with a mask.

    Args:
      scores: (N, K) similarity of rows to columns, higher is better. float32 or float64 is kept; from other
        types, such as bfloat16 and whole numbers, plan and all else come in float32.
      log_prior: (N, K) logarithm of the prior plan, up to a constant unless a marginal is relaxed; -inf
        forbids an entry.
      row_marginal: (N,) non-negative mass of the rows; default 1 each.
      column_marginal: (K,) non-negative proportions of the columns, scaled here to the mass of the rows;
        default equipartition, N/K each (Eq. 9). Where a marginal is relaxed, masses that are not scaled.
      mask: (N,) True for rows that take part; default all. Known zeros and ones will do.
      epsilon: entropic strength in units of `scores`, as in OTT and POT. The printed epsilon of 20 of the
        CASE paper is `1 / 20` here.
      num_iters: iterations, or with a tolerance the greatest number of them; static, at least 1.
      tolerance: stop once both errors are at most this. On the way the column potential is accelerated by
        Anderson's method (unless the columns are relaxed), which costs no pass over the scores; the more
        iterations are needed, the more of them it saves. With relaxed columns the constant between the two potentials,
        which settles slowly, is given its best value in each iteration.
      row_relaxation: strength of the penalty on the row marginal in units of `scores`; None: exact.
      column_relaxation: the same of the columns.
      row_init: (N,) row potential to start from, such as that of a similar problem; default 0.
      column_init: (K,) column potential to start from instead. A converged plan does not depend on the start.
      mass: total mass that exact marginals are scaled to, as 1 in OTT and POT; default that of `row_marginal`, which
        is N where there is neither mask nor row marginal. Relaxed marginals have masses of their own.
      axis_name: axis, or axes, of the `jax.shard_map` or `jax.vmap` around the call over which rows are sharded: each
        shard hands in its rows and gets its part of the plan that all rows together have. What belongs to
        columns is the same everywhere. An iteration costs one all-reduce of K numbers.

    Returns:
      The plan, both log-potentials, iterations done, both marginal errors and whether they are small.

    Raises:
      ValueError: `scores` is not a matrix with N, K >= 1, another array does not fit it, or `epsilon`,
        `num_iters`, `tolerance` or a relaxation is out of range; a marginal is negative or not finite, or a live
        score or log prior is NaN or +inf. Where such numbers are not known, under a transformation or in the memory
        of an accelerator, the plan is NaN and `converged` False. Also where both potentials are given to start from,
        or a mass together with a relaxation.

    References:
      Cuturi, "Sinkhorn Distances", NeurIPS 2013. Chizat et al., "Scaling Algorithms for Unbalanced Optimal
      Transport Problems", Mathematics of Computation 2018. Luise et al., "Differential Properties of Sinkhorn
      Approximation", NeurIPS 2018. Walker and Ni, "Anderson Acceleration for Fixed-Point Iterations", SIAM
      Journal on Numerical Analysis 2011. Sejourne et al., "Faster Unbalanced Optimal Transport: Translation Invariant
      Sinkhorn and 1-D Frank-Wolfe", AISTATS 2022.

    Example:
      >>> import numpy as np
      >>> from casejax import ot
      >>> scores = [[1.0, 0.5], [1.0, 0.5], [1.0, 0.9], [1.0, 0.9]]  # column 0 is best for all
      >>> result = ot.sinkhorn(scores, num_iters=100, tolerance=1e-4)
      >>> print(np.asarray(result.plan).round(2))  # half go to column 1: those that lose least
      [[0.98 0.02]
       [0.98 0.02]
       [0.02 0.98]
       [0.02 0.98]]
      >>> print(result.converged)
      True
    """
    scores = numbers("scores", scores)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"scores must be (N, K) with N, K >= 1, got shape {scores.shape}; vmap over batches")
    num_rows, num_columns = scores.shape
    dtype = scores.dtype
    prior = None if log_prior is None else numbers("log_prior", log_prior, scores.shape).astype(dtype)
    rows = None if row_marginal is None else numbers("row_marginal", row_marginal, (num_rows,)).astype(dtype)
    columns = None
    if column_marginal is not None:
        columns = numbers("column_marginal", column_marginal, (num_columns,)).astype(dtype)
    shown = None if mask is None else boolean("mask", mask, (num_rows,))
    num_iters = count("num_iters", num_iters)
    starts = potentials(row_init, column_init, num_rows, num_columns, dtype, shown)
    refuse_mass(mass, row_relaxation, column_relaxation)
    options = {
        "epsilon": epsilon,
        "tolerance": tolerance,
        "row_relaxation": row_relaxation,
        "column_relaxation": column_relaxation,
        "mass": mass,
    }
    checked = [None if value is None else positive(name, value) for name, value in options.items()]
    refuse_broken(scores, prior, rows, columns, shown)

    def specs() -> tuple[PartitionSpec, ...]:
        return spec_of(scores, 0, 1), spec_of(scores, 0), spec_of(scores, 1), *[spec_of(scores)] * 4

    solver = partial(_solve, num_iters, axis_name)
    return SinkhornOutput(*with_automatic_axes(solver, specs, scores, prior, rows, columns, shown, *checked, *starts))


def potentials(
    row_init: Any, column_init: Any, num_rows: Any, num_columns: int, dtype: Any, mask: Array | None
) -> list[Array | None]:
    """Potentials to start from; not both."""
    if row_init is not None and column_init is not None:
        raise ValueError("give row_init or column_init, not both: the one follows from the other")
    found: list[Array | None] = []
    for name, value, size, live in (
        ("row_init", row_init, num_rows, mask),
        ("column_init", column_init, num_columns, None),
    ):
        value = None if value is None else numbers(name, value, (size,)).astype(dtype)
        if value is not None:
            refuse(name, value, live=live)
        found.append(value)
    return found


def refuse_mass(mass: Any, row_relaxation: Any, column_relaxation: Any) -> None:
    """Refuse a mass where a marginal is relaxed."""
    if mass is not None and not (row_relaxation is None and column_relaxation is None):
        raise ValueError("mass scales exact marginals; with a relaxation, scale row_marginal and column_marginal")


def marginals(
    shape: tuple[Any, ...],
    dtype: Any,
    row_marginal: Array | None,
    column_marginal: Array | None,
    mask: Array | None,
    mass: ArrayLike | None,
    exact: bool,
    axis_name: AxisName = None,
) -> tuple[Array, Array]:
    """Masses of rows and columns: those that are masked 0, and exact ones in agreement."""
    rows = jnp.ones(shape[0], dtype) if row_marginal is None else row_marginal
    if mask is not None:
        rows = jnp.where(mask, rows, 0)
    total = total_over(axis_name, rows.sum())
    if mass is not None:
        rows, total = rows * divide(jnp.asarray(mass, dtype), total), jnp.asarray(mass, dtype)
    if column_marginal is None:
        return rows, equal_shares(shape[1], total)
    return rows, column_marginal * divide(total, column_marginal.sum()) if exact else column_marginal


@partial(jax.jit, static_argnums=(0, 1))
def _solve(
    num_iters: int,
    axis_name: AxisName,
    scores: jax.Array,
    log_prior: jax.Array | None,
    row_marginal: jax.Array | None,
    column_marginal: jax.Array | None,
    mask: jax.Array | None,
    epsilon: ArrayLike,
    tolerance: ArrayLike | None,
    row_relaxation: ArrayLike | None,
    column_relaxation: ArrayLike | None,
    mass: ArrayLike | None,
    row_init: jax.Array | None,
    column_init: jax.Array | None,
) -> tuple[jax.Array, ...]:
    """The fields of a `SinkhornOutput`."""
    dtype = scores.dtype
    num_rows = scores.shape[0]
    exact = row_relaxation is None and column_relaxation is None
    rows, columns = marginals(scores.shape, dtype, row_marginal, column_marginal, mask, mass, exact, axis_name)
    # What is broken must not look like a plan: an epsilon that is NaN makes everything NaN.
    strength, prior = jnp.asarray(epsilon, dtype), log_prior
    options = [
        strength,
        *(jnp.asarray(x, dtype) for x in (tolerance, row_relaxation, column_relaxation, mass) if x is not None),
    ]
    row_init = None if row_init is None else jnp.where(rows > 0, row_init, 0)
    fine = usable(rows) & usable(columns if column_marginal is None else column_marginal)
    fine = fine & jnp.stack([(x > 0) & (x < jnp.inf) for x in options]).all()
    if not (mask is None and row_marginal is None and column_marginal is None):
        active = (rows > 0)[:, None] & (columns > 0)[None, :]
        scores = jnp.where(active, scores, 0)
        prior = None if prior is None else jnp.where(active, prior, 0)
    for x in (scores, prior, row_init, column_init):
        fine = fine if x is None else fine & below_infinity(x)
    fine = everywhere(axis_name, fine)
    strength = jnp.where(fine, strength, jnp.nan)
    missing = filled_up(num_rows) - num_rows
    if not isinstance(missing, int) or missing:
        padded = (scores, prior, rows, row_init)
        scores, prior, rows, row_init = jax.tree.map(partial(_append_zeros, missing), padded)
    row_power, column_power = power_of(row_relaxation, strength), power_of(column_relaxation, strength)
    (scores, prior, rows, row_init), (columns, strength, row_power, column_power, column_init) = varying_together(
        (scores, prior, rows, row_init), (columns, strength, row_power, column_power, column_init), axis_name
    )
    problem = Problem(scores, prior, rows, columns, strength, row_power, column_power, row_init, column_init)
    if tolerance is None:
        solution = solve_truncated(num_iters, axis_name, problem)
    else:
        asked = varying_as(jnp.asarray(tolerance, dtype), problem.epsilon)
        solution = solve_to_tolerance(num_iters, axis_name, problem, asked)
    judged_at = JUDGED_AT if tolerance is None else tolerance
    row_error, column_error = (jnp.where(fine, x, jnp.nan) for x in (solution.row_error, solution.column_error))
    small = (column_error <= judged_at) & (row_error <= judged_at)
    row_potential = jnp.where(solution.row_potential == -jnp.inf, 0, solution.row_potential)
    return (
        solution.plan[:num_rows],
        row_potential[:num_rows],
        solution.column_potential,
        solution.iterations,
        row_error,
        column_error,
        small & (solution.mass > 0),
    )


def everywhere(axis_name: AxisName, flag: jax.Array) -> jax.Array:
    """Whether the flag holds on all shards."""
    if axis_name is None:
        return flag
    return greatest_over(axis_name, jnp.logical_not(flag).astype(jnp.int32)) == 0


def usable(masses: jax.Array) -> jax.Array:
    """Whether all masses are finite and not negative."""
    return ((masses >= 0) & (masses < jnp.inf)).all()


def below_infinity(x: jax.Array) -> jax.Array:
    """Whether no entry is NaN or +inf; one pass, which the choice of the kernel shares, where all are finite."""
    x = jax.lax.stop_gradient(x)
    finite = jnp.abs(x).max() < jnp.inf
    return jax.lax.cond(finite, lambda: finite, lambda: x.max() < jnp.inf)


def power_of(relaxation: ArrayLike | None, epsilon: jax.Array) -> jax.Array | None:
    """Exponent of the update of one side; None where its marginal is exact."""
    if relaxation is None:
        return None
    relaxation = jnp.asarray(relaxation, epsilon.dtype)
    return relaxation / (relaxation + epsilon)


def _append_zeros(number: Any, x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, number), *((0, 0) for _ in x.shape[1:])))


def refuse_broken(
    scores: Array,
    prior: Array | None,
    rows: Array | None,
    columns: Array | None,
    mask: Array | None,
    name: str = "scores",
) -> None:
    """Refuse known numbers of live entries that no plan can have."""
    if rows is not None:
        refuse("row_marginal", rows, least=0, live=mask)
    if columns is not None:
        refuse("column_marginal", columns, least=0)
    known = [x for x in (rows, columns, mask) if x is not None]
    live = None
    if known and all(on_host(x) for x in known):
        live = np.ones((scores.shape[0], 1), bool) if mask is None else np.asarray(mask)[:, None]
        live = live if rows is None else live & (np.asarray(rows) > 0)[:, None]
        live = live if columns is None else live & (np.asarray(columns) > 0)[None, :]
    elif known:
        return
    refuse(name, scores, live=live)
    if prior is not None:
        refuse("log_prior", prior, live=live)
