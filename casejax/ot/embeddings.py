"""Sinkhorn between embeddings and prototypes, whose scores are computed in parts and never held at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from casejax.array_types import Array, Bool, Float, Int, Num, Shaped
from casejax.ot.checks import Scalar, boolean, count, numbers, positive, refuse
from casejax.ot.iteration import Problem, iterate
from casejax.ot.kernels import Kernel
from casejax.ot.placement import (
    AxisName,
    greatest_over,
    spec_of,
    total_over,
    varying_as,
    varying_together,
    with_automatic_axes,
)
from casejax.ot.solver import (
    JUDGED_AT,
    below_infinity,
    everywhere,
    marginals,
    potentials,
    power_of,
    refuse_broken,
    refuse_mass,
    usable,
)


class SinkhornPotentials(NamedTuple):
    """A transport plan that is not written out; fields as those of `SinkhornOutput`.

    With S the scores of some rows n, their part of the plan is
    `exp(row_potential[n, None] + column_potential + S / epsilon)`, 0 for rows that are masked or have no mass.
    """

    row_potential: Float[Array, " n"]
    column_potential: Float[Array, " k"]
    iterations: Int[Array, ""]
    row_error: Float[Array, ""]
    column_error: Float[Array, ""]
    converged: Bool[Array, ""]


def sinkhorn_embeddings(
    embeddings: Num[ArrayLike, "n *d"] | Sequence,
    prototypes: Num[ArrayLike, "k d"] | Sequence | Callable[..., Num[Array, "part k"]],
    *,
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
    rows_at_once: SupportsIndex = 8192,
    axis_name: AxisName = None,
) -> SinkhornPotentials:
    """`sinkhorn(embeddings @ prototypes.T, ...)` in memory for the embeddings, N numbers and one part of the scores.

    The iteration works on logarithms and computes each part of the scores twice, once for its rows and once for the
    columns: of use where N x K numbers are too many, slower where they are not. Potentials are good to the round-off
    of scores / epsilon. Meant for labels: no derivative is passed on.

    Args:
      embeddings: (N, D); of unit length if scores are to be cosines. Masked rows may hold anything.
      prototypes: (K, D); or, for scores that are not products, a function from some rows of `embeddings`, then of any
        shape (N, ...), to their scores (n, K), -inf where an entry is forbidden. It is compiled for each new function:
        arrays that it needs go in by `jax.tree_util.Partial(function, *arrays)`, before the rows.
      row_marginal: as in `sinkhorn`.
      column_marginal: as there.
      mask: as there.
      epsilon: as there.
      num_iters: as there.
      tolerance: as there.
      row_relaxation: as there.
      column_relaxation: as there.
      row_init: as there.
      column_init: as there.
      mass: as there.
      rows_at_once: rows whose scores are held at a time, at least 1.
      axis_name: as there.

    Returns:
      Both potentials, and how far the iteration got.

    Raises:
      ValueError: the arrays do not fit each other, or hold what no plan can have; as `sinkhorn`.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import ot
      >>> embeddings, prototypes = jnp.array([[0.6, 0.8], [0.8, 0.6]]), jnp.eye(2)
      >>> found = ot.sinkhorn_embeddings(embeddings, prototypes, epsilon=0.2)
      >>> logs = found.row_potential[:, None] + found.column_potential[None] + embeddings @ prototypes.T / 0.2
      >>> print(np.asarray(jnp.exp(logs)).round(2))  # the plan, written out
      [[0.27 0.73]
       [0.73 0.27]]
    """
    embeddings = numbers("embeddings", embeddings)
    if callable(prototypes):
        # a Partial within another would be taken for a constant, with the arrays that it holds
        score = prototypes if isinstance(prototypes, jax.tree_util.Partial) else jax.tree_util.Partial(prototypes)
        dtype = embeddings.dtype
    else:
        prototypes = numbers("prototypes", prototypes)
        _check_product(embeddings, prototypes)
        refuse("prototypes", prototypes)
        dtype = jnp.result_type(embeddings.dtype, prototypes.dtype)
        score = jax.tree_util.Partial(_products, prototypes.astype(dtype))
    embeddings = embeddings.astype(dtype)
    num_rows, num_columns = embeddings.shape[0], _columns_of(score, embeddings)
    rows = None if row_marginal is None else numbers("row_marginal", row_marginal, (num_rows,)).astype(dtype)
    columns = None
    if column_marginal is not None:
        columns = numbers("column_marginal", column_marginal, (num_columns,)).astype(dtype)
    shown = None if mask is None else boolean("mask", mask, (num_rows,))
    num_iters, rows_at_once = count("num_iters", num_iters), count("rows_at_once", rows_at_once)
    starts = potentials(row_init, column_init, num_rows, num_columns, dtype, shown)
    options = {
        "epsilon": epsilon,
        "tolerance": tolerance,
        "row_relaxation": row_relaxation,
        "column_relaxation": column_relaxation,
        "mass": mass,
    }
    refuse_mass(mass, row_relaxation, column_relaxation)
    checked = [None if value is None else positive(name, value) for name, value in options.items()]
    refuse_broken(embeddings, None, rows, None, shown, name="embeddings")
    if columns is not None:
        refuse("column_marginal", columns, least=0)
    solver = partial(_solve, num_iters, rows_at_once, axis_name)

    def specs() -> tuple[PartitionSpec, ...]:
        return spec_of(embeddings, 0), *[spec_of(embeddings)] * 5

    arrays = (embeddings, score, rows, columns, shown, *checked, *starts)
    return SinkhornPotentials(*with_automatic_axes(solver, specs, *jax.lax.stop_gradient(arrays)))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _solve(
    num_iters: int,
    rows_at_once: int,
    axis_name: AxisName,
    embeddings: jax.Array,
    score: Callable[[jax.Array], jax.Array],
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
    """The fields of `SinkhornPotentials`."""
    dtype, shape = embeddings.dtype, (embeddings.shape[0], _columns_of(score, embeddings))
    exact = row_relaxation is None and column_relaxation is None
    rows, columns = marginals(shape, dtype, row_marginal, column_marginal, mask, mass, exact, axis_name)
    live = rows > 0
    row_init = None if row_init is None else jnp.where(live, row_init, 0)
    strength = jnp.asarray(epsilon, dtype)
    given = (tolerance, row_relaxation, column_relaxation, mass)
    options = [strength, *(jnp.asarray(x, dtype) for x in given if x is not None)]
    fine = usable(rows) & usable(columns) & jnp.stack([(x > 0) & (x < jnp.inf) for x in options]).all()
    sizes = jnp.abs(embeddings).max(axis=range(1, embeddings.ndim))
    fine = fine & jnp.isfinite(jnp.where(live, sizes, 0)).all()
    for x in (row_init, column_init):
        fine = fine if x is None else fine & below_infinity(x)
    strength = jnp.where(everywhere(axis_name, fine), strength, jnp.nan)
    powers = power_of(row_relaxation, strength), power_of(column_relaxation, strength)
    (embeddings, rows, row_init), (score, columns, strength, powers, column_init) = varying_together(
        (embeddings, rows, row_init), (score, columns, strength, powers, column_init), axis_name
    )
    kernel = _kernel(embeddings, score, strength, rows > 0, columns > 0, rows_at_once, axis_name)
    problem = Problem(embeddings, None, rows, columns, strength, powers[0], powers[1], row_init, column_init)
    asked = None if tolerance is None else varying_as(jnp.asarray(tolerance, dtype), strength)
    found = iterate(kernel, problem, num_iters, asked, axis_name)
    judged_at = JUDGED_AT if tolerance is None else tolerance
    row_error, column_error = (
        jnp.where(jnp.isnan(strength), jnp.nan, x) for x in (found.row_error, found.column_error)
    )
    converged = (row_error <= judged_at) & (column_error <= judged_at) & (found.mass > 0)
    row_potential = jnp.where(found.row_potential == -jnp.inf, 0, found.row_potential)
    return row_potential, found.column_potential, found.iterations, row_error, column_error, converged


def _kernel(
    embeddings: jax.Array,
    score: Callable[[jax.Array], jax.Array],
    epsilon: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
    rows_at_once: int,
    axis_name: AxisName,
) -> Kernel:
    """The kernel exp(score(embeddings) / epsilon); scalings and sums are logarithms, -inf for 0."""
    num_rows = embeddings.shape[0]
    size: Any = jax.core.min_dim(num_rows, rows_at_once)

    def part(i: Any) -> tuple[Any, jax.Array, jax.Array]:
        """First row of a part, which of its rows no other part has, and their logarithms; the last one ends at N."""
        first = jnp.minimum(i * size, num_rows - size)
        fresh = first + jnp.arange(size) >= i * size
        own = jax.lax.dynamic_slice_in_dim(embeddings, first, size)
        live = jax.lax.dynamic_slice_in_dim(rows, first, size)
        # Computed from what is 0 where it takes no part, whatever stands there.
        own = jnp.where(live.reshape(-1, *(1,) * (own.ndim - 1)), own, 0)
        logs = score(own).astype(epsilon.dtype) / epsilon
        logs = jnp.where(logs == jnp.inf, jnp.nan, logs)  # what is broken must not look like a plan
        return first, fresh, jnp.where(live[:, None] & columns[None, :], logs, -jnp.inf)

    def row_sums(v: jax.Array) -> jax.Array:
        def add(i: Any, found: jax.Array) -> jax.Array:
            first, _, logs = part(i)
            return jax.lax.dynamic_update_slice_in_dim(found, _log_sum_exp(logs + v[None, :], 1), first, 0)

        return jax.lax.fori_loop(0, -(-num_rows // size), add, varying_as(jnp.zeros(num_rows, v.dtype), rows))

    def column_sums(u: jax.Array) -> jax.Array:
        def add(i: Any, found: tuple) -> tuple:
            first, fresh, logs = part(i)
            weight = jnp.where(fresh, jax.lax.dynamic_slice_in_dim(u, first, size), -jnp.inf)
            return _log_add(found, _log_sums(logs + weight[:, None], 0))

        none = jnp.full(columns.shape, -jnp.inf, u.dtype), jnp.zeros(columns.shape, u.dtype)
        top, total = jax.lax.fori_loop(0, -(-num_rows // size), add, varying_as(none, u))
        common = greatest_over(axis_name, top)
        return common + jnp.log(total_over(axis_name, total * jnp.exp(_less(top, common))))

    def scaling(wanted: jax.Array, sums: jax.Array, power: jax.Array | None) -> jax.Array:
        possible = (wanted > 0) & (sums != -jnp.inf)
        logs = jnp.log(jnp.where(possible, wanted, 1)) - sums
        return jnp.where(possible, logs if power is None else power * logs, -jnp.inf)

    return Kernel(
        ones=lambda active: jnp.where(active, 0, jnp.full(active.shape, -jnp.inf, embeddings.dtype)),
        column_sums=column_sums,
        row_sums=row_sums,
        scaling=scaling,
        times=lambda v, x: v + jnp.log(x),
        shift=lambda sums, x: sums + x,
        count=lambda v: jnp.isfinite(v).sum(dtype=jnp.int32),
        product=lambda sums, v: jnp.exp(_together(sums, v)),
        row_log=lambda x: x,
        column_log=lambda x: x,
        exp=lambda x: x,
        plan=lambda u, v, sums: None,
    )


def _products(prototypes: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.matmul(rows, prototypes.T, precision="highest")


def _check_product(embeddings: Array, prototypes: Array) -> None:
    if embeddings.ndim != 2 or prototypes.ndim != 2 or 0 in (*embeddings.shape, *prototypes.shape):
        shapes = f"{embeddings.shape} and {prototypes.shape}"
        raise ValueError(f"embeddings must be (N, D) and prototypes (K, D) with N, K, D >= 1, got {shapes}")
    width, own = embeddings.shape[1], prototypes.shape[1]
    if own != width:
        raise ValueError(f"prototypes must have the {width} numbers of an embedding each, got {own}")


def _columns_of(score: Callable[[jax.Array], jax.Array], embeddings: jax.Array) -> int:
    """K, from the scores of two rows."""
    if not embeddings.ndim or 0 in embeddings.shape:
        raise ValueError(f"embeddings must be (N, ...) with a row or more, got {embeddings.shape}")
    found = jax.eval_shape(score, jax.ShapeDtypeStruct((2, *embeddings.shape[1:]), embeddings.dtype))
    shape: tuple[Any, ...] = getattr(found, "shape", ())
    if len(shape) != 2 or shape[0] != 2 or not shape[1] or not jnp.issubdtype(found.dtype, jnp.number):
        raise ValueError(f"scores of 2 rows must be numbers (2, K), got {found}")
    return shape[1]


def _log_sums(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Greatest number along an axis, and the sum of the exponentials of what each is less than that."""
    top = x.max(axis=axis)
    return top, jnp.exp(_less(x, jnp.expand_dims(top, axis))).sum(axis=axis)


def _log_sum_exp(x: jax.Array, axis: int) -> jax.Array:
    top, total = _log_sums(x, axis)
    return top + jnp.log(total)


def _log_add(a: tuple, b: tuple) -> tuple:
    top = jnp.maximum(a[0], b[0])
    return top, a[1] * jnp.exp(_less(a[0], top)) + b[1] * jnp.exp(_less(b[0], top))


def _less(x: jax.Array, top: jax.Array) -> jax.Array:
    """How much x is above top; -inf where x is."""
    return jnp.where(x == -jnp.inf, -jnp.inf, x - jnp.where(top == -jnp.inf, 0, top))


def _together(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of two; -inf where either is."""
    return jnp.where((a == -jnp.inf) | (b == -jnp.inf), -jnp.inf, a + b)
