"""Sinkhorn between embeddings and prototypes, whose scores are computed in parts and never held at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp

from casejax.ot.checks import boolean, count, numbers, positive, refuse
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
from casejax.ot.solver import JUDGED_AT, below_infinity, everywhere, marginals, potentials, refuse_broken, usable

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Bool, Float, Int, Num, Shaped

    from casejax.ot.checks import Scalar


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
    embeddings: Num[ArrayLike, "n d"] | Sequence,
    prototypes: Num[ArrayLike, "k d"] | Sequence,
    *,
    row_marginal: Num[ArrayLike, " n"] | Sequence | None = None,
    column_marginal: Num[ArrayLike, " k"] | Sequence | None = None,
    mask: Shaped[ArrayLike, " n"] | Sequence | None = None,
    epsilon: Scalar = 0.05,
    num_iters: SupportsIndex = 3,
    tolerance: Scalar | None = None,
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
      prototypes: (K, D).
      row_marginal: as in `sinkhorn`.
      column_marginal: as there.
      mask: as there.
      epsilon: as there.
      num_iters: as there.
      tolerance: as there.
      row_init: as there.
      column_init: as there.
      mass: as there.
      rows_at_once: rows whose scores are held at a time, at least 1.
      axis_name: as there.

    Returns:
      Both potentials, and how far the iteration got.

    Raises:
      ValueError: the arrays do not fit each other, or hold what no plan can have; as `sinkhorn`.
    """
    embeddings, prototypes = numbers("embeddings", embeddings), numbers("prototypes", prototypes)
    if embeddings.ndim != 2 or prototypes.ndim != 2 or 0 in (*embeddings.shape, *prototypes.shape):
        shapes = f"{embeddings.shape} and {prototypes.shape}"
        raise ValueError(f"embeddings must be (N, D) and prototypes (K, D) with N, K, D >= 1, got {shapes}")
    (num_rows, width), num_columns = embeddings.shape, prototypes.shape[0]
    if prototypes.shape[1] != width:
        raise ValueError(f"prototypes must have the {width} numbers of an embedding each, got {prototypes.shape[1]}")
    dtype = jnp.result_type(embeddings.dtype, prototypes.dtype)
    embeddings, prototypes = embeddings.astype(dtype), prototypes.astype(dtype)
    rows = None if row_marginal is None else numbers("row_marginal", row_marginal, (num_rows,)).astype(dtype)
    columns = None
    if column_marginal is not None:
        columns = numbers("column_marginal", column_marginal, (num_columns,)).astype(dtype)
    shown = None if mask is None else boolean("mask", mask, (num_rows,))
    num_iters, rows_at_once = count("num_iters", num_iters), count("rows_at_once", rows_at_once)
    starts = potentials(row_init, column_init, num_rows, num_columns, dtype, shown)
    options = {"epsilon": epsilon, "tolerance": tolerance, "mass": mass}
    checked = [None if value is None else positive(name, value) for name, value in options.items()]
    refuse_broken(embeddings, None, rows, None, shown, name="embeddings")
    refuse("prototypes", prototypes)
    if columns is not None:
        refuse("column_marginal", columns, least=0)
    solver = partial(_solve, num_iters, rows_at_once, axis_name)
    specs = spec_of(embeddings, 0), spec_of(prototypes, 0), *[spec_of(embeddings)] * 4
    arrays = (embeddings, prototypes, rows, columns, shown, *checked, *starts)
    return SinkhornPotentials(*with_automatic_axes(solver, specs, *jax.lax.stop_gradient(arrays)))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _solve(
    num_iters: int,
    rows_at_once: int,
    axis_name: AxisName,
    embeddings: jax.Array,
    prototypes: jax.Array,
    row_marginal: jax.Array | None,
    column_marginal: jax.Array | None,
    mask: jax.Array | None,
    epsilon: ArrayLike,
    tolerance: ArrayLike | None,
    mass: ArrayLike | None,
    row_init: jax.Array | None,
    column_init: jax.Array | None,
) -> tuple[jax.Array, ...]:
    """The fields of `SinkhornPotentials`."""
    dtype, shape = embeddings.dtype, (embeddings.shape[0], prototypes.shape[0])
    rows, columns = marginals(shape, dtype, row_marginal, column_marginal, mask, mass, True, axis_name)
    live = rows > 0
    row_init = None if row_init is None else jnp.where(live, row_init, 0)
    strength = jnp.asarray(epsilon, dtype)
    options = [strength, *(jnp.asarray(x, dtype) for x in (tolerance, mass) if x is not None)]
    fine = usable(rows) & usable(columns) & jnp.stack([(x > 0) & (x < jnp.inf) for x in options]).all()
    fine = fine & jnp.isfinite(jnp.where(live, jnp.abs(embeddings).max(axis=1), 0)).all()
    fine = fine & jnp.isfinite(prototypes).all()
    for x in (row_init, column_init):
        fine = fine if x is None else fine & below_infinity(x)
    strength = jnp.where(everywhere(axis_name, fine), strength, jnp.nan)
    sharded, shared = varying_together(
        (embeddings, rows, row_init), (prototypes, columns, strength, column_init), axis_name
    )
    (embeddings, rows, row_init), (prototypes, columns, strength, column_init) = sharded, shared
    kernel = _kernel(embeddings, prototypes, strength, rows > 0, columns > 0, rows_at_once, axis_name)
    problem = Problem(embeddings, None, rows, columns, strength, None, None, row_init, column_init)
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
    prototypes: jax.Array,
    epsilon: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
    rows_at_once: int,
    axis_name: AxisName,
) -> Kernel:
    """The kernel exp(embeddings @ prototypes.T / epsilon); scalings and sums are logarithms, -inf for 0."""
    num_rows = embeddings.shape[0]
    size: Any = jax.core.min_dim(num_rows, rows_at_once)
    scaled = prototypes / epsilon

    def part(i: Any) -> tuple[Any, jax.Array, jax.Array]:
        """First row of a part, which of its rows no other part has, and their logarithms; the last one ends at N."""
        first = jnp.minimum(i * size, num_rows - size)
        fresh = first + jnp.arange(size) >= i * size
        own = jax.lax.dynamic_slice_in_dim(embeddings, first, size)
        live = jax.lax.dynamic_slice_in_dim(rows, first, size)
        # Computed from what is 0 where it takes no part, whatever stands there.
        logs = jnp.matmul(jnp.where(live[:, None], own, 0), scaled.T, precision="highest")
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

        none = jnp.full(prototypes.shape[0], -jnp.inf, u.dtype), jnp.zeros(prototypes.shape[0], u.dtype)
        top, total = jax.lax.fori_loop(0, -(-num_rows // size), add, varying_as(none, u))
        common = greatest_over(axis_name, top)
        return common + jnp.log(total_over(axis_name, total * jnp.exp(_less(top, common))))

    def scaling(wanted: jax.Array, sums: jax.Array, power: jax.Array | None) -> jax.Array:
        del power  # marginals are exact here
        possible = (wanted > 0) & (sums > -jnp.inf)
        return jnp.where(possible, jnp.log(jnp.where(possible, wanted, 1)) - sums, -jnp.inf)

    return Kernel(
        ones=lambda active: jnp.where(active, 0, jnp.full(active.shape, -jnp.inf, embeddings.dtype)),
        column_sums=column_sums,
        row_sums=row_sums,
        scaling=scaling,
        times=lambda v, x: v + jnp.log(x),
        shift=lambda sums, x: sums + x,
        count=lambda v: jnp.isfinite(v).sum(dtype=jnp.int32),
        product=lambda sums, v: jnp.exp(_together(sums, v)),
        log=lambda x: x,
        exp=lambda x: x,
        plan=lambda u, v, sums: None,
    )


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
