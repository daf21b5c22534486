"""The sweep of dynamic time warping over anti-diagonals, forth and back.

A table of N x M cells is cut into bands of H rows, and a band is skewed: its entry (t, i) is row i at column t - i, so
that the cells of a step t don't depend on each other and each step is a few operations on vectors. Entries left and
right of the table get an endless cost. One band means the fewest steps and the longest vectors, more bands fewer such
entries and less memory.

The derivative of all cells is the solution of a linear system, (1 - W) dR = dC, where W holds the weights that each
cell's minimum gives to its predecessors. A sweep forth solves it, one back its transpose; JAX derives the rest.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from casejax.alignment.soft_min import Minimum, endless
from casejax.array_types import Array, Float
from casejax.arrays.placement import varying_as


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def last_cell(
    cost: Float[Array, "*b n m"], gamma: Float[Array, ""], minimum: Minimum, height: Any
) -> Float[Array, "*b"]:
    """Accumulated cost of the last cell; `height` must divide N. Keeps one band and a row, unless differentiated."""
    return _forward(cost, gamma, minimum, height, keep=False)[0]


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def all_cells(
    cost: Float[Array, "*b n m"], gamma: Float[Array, ""], minimum: Minimum, height: Any
) -> Float[Array, "*b n m"]:
    """Accumulated costs of all cells; `height` must divide N."""
    return _unfolded(_forward(cost, gamma, minimum, height, keep=True)[1])


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _skewed_cells(
    cost: Float[Array, "*b n m"], gamma: Float[Array, ""], minimum: Minimum, height: Any
) -> Float[Array, "k t *b h"]:
    """`all_cells` as the sweeps want them, in skewed bands."""
    return _forward(cost, gamma, minimum, height, keep=True)[1]


@partial(last_cell.defjvp, symbolic_zeros=True)
def _last_cell_jvp(minimum: Minimum, height: Any, primals: tuple, tangents: tuple) -> tuple:
    table = _skewed_cells(*primals, minimum, height)
    return table[-1, -1, ..., -1], _last_moved(table, primals[1], minimum, *tangents)


@partial(all_cells.defjvp, symbolic_zeros=True)
def _all_cells_jvp(minimum: Minimum, height: Any, primals: tuple, tangents: tuple) -> tuple:
    table = _skewed_cells(*primals, minimum, height)
    return _unfolded(table), _moved(table, primals[1], minimum, *tangents)


@partial(_skewed_cells.defjvp, symbolic_zeros=True)
def _skewed_cells_jvp(minimum: Minimum, height: Any, primals: tuple, tangents: tuple) -> tuple:
    table = _skewed_cells(*primals, minimum, height)
    moved = _moved(table, primals[1], minimum, *tangents)
    bands = jnp.moveaxis(moved.reshape(*moved.shape[:-2], -1, height, moved.shape[-1]), -3, 0)
    return table, jax.vmap(partial(_skewed, fill=0))(bands)


def _moved(
    table: Float[Array, "k t *b h"], gamma: Float[Array, ""], minimum: Minimum, of_cost: Any, of_gamma: Any
) -> Float[Array, "*b n m"]:
    """Tangents of all cells from those of the cost and of gamma."""
    far = endless(table.dtype)

    def least(cells: jax.Array, gamma: jax.Array) -> jax.Array:
        return jnp.where(cells < far, minimum(jnp.stack(_predecessors(cells)), gamma, axis=0), 0)

    given = _filled(_unfolded(table), 0) if _is_zero(of_cost) else of_cost
    if not _is_zero(of_gamma):
        given = given + jax.jvp(partial(least, _unfolded(table)), (gamma,), (of_gamma,))[1]

    def residual(moved: jax.Array) -> jax.Array:
        return moved - jax.jvp(lambda cells: least(cells, gamma), (_unfolded(table),), (moved,))[1]

    return jax.lax.custom_linear_solve(
        residual,
        given,
        lambda _, given: _sweep_forth(table, gamma, minimum, given),
        lambda _, asked: _sweep_back(table, gamma, minimum, None, asked),
    )


def _last_moved(
    table: Float[Array, "k t *b h"], gamma: Float[Array, ""], minimum: Minimum, of_cost: Any, of_gamma: Any
) -> Float[Array, "*b"]:
    """Tangent of the last cell from those of the cost and of gamma."""
    if not _is_zero(of_gamma):
        return _moved(table, gamma, minimum, of_cost, of_gamma)[..., -1, -1]

    def last(of_cost: jax.Array) -> jax.Array:
        return _moved(table, gamma, minimum, of_cost, of_gamma)[..., -1, -1]

    def residual(moved: jax.Array) -> jax.Array:
        rest = moved.at[..., -1, -1].set(0)
        return rest.at[..., -1, -1].set(moved[..., -1, -1] - last(rest))

    # The same again as a system whose solution is dC but for the last cell's tangent in its place: its transpose need
    # not ask something of every cell.
    return jax.lax.custom_linear_solve(
        residual,
        of_cost,
        lambda _, given: given.at[..., -1, -1].set(_sweep_forth(table, gamma, minimum, given)[..., -1, -1]),
        lambda _, asked: asked.at[..., -1, -1].set(0) + _sweep_back(table, gamma, minimum, asked[..., -1, -1], None),
    )[..., -1, -1]


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _filled(x: jax.Array, value: float) -> jax.Array:
    return varying_as(jnp.full(x.shape, value, x.dtype), x)


def _predecessors(cells: Float[Array, "*b n m"]) -> list[Float[Array, "*b n m"]]:
    """What is left of every cell, diagonally before it and above it."""
    batch = [(0, 0)] * (cells.ndim - 2)
    far = endless(cells.dtype)
    left, diagonal, up = (
        jnp.pad(cells[..., : -row or None, : -column or None], [*batch, (row, 0), (column, 0)], constant_values=far)
        for row, column in ((0, 1), (1, 1), (1, 0))
    )
    return [left, diagonal.at[..., 0, 0].set(0), up]


def _forward(
    cost: Float[Array, "*b n m"], gamma: Float[Array, ""], minimum: Minimum, height: Any, *, keep: bool
) -> tuple[Float[Array, "*b"], Any]:
    """Accumulated costs of the last cell and, to keep, of all cells in skewed bands, (K, T, ..., H)."""
    *batch, n, m = cost.shape
    far, steps = endless(cost.dtype), m + height - 1
    nothing = varying_as(jnp.full((*batch, height), far, cost.dtype), cost)

    def step(carry: tuple, inputs: tuple) -> tuple:
        left, diagonal = carry
        cost, above = inputs
        up = jnp.concatenate([above[..., None], left[..., :-1]], axis=-1)
        here = jnp.minimum(cost + minimum(jnp.stack([left, diagonal, up]), gamma, axis=0), far)
        return (here, up), here if keep else here[..., -1]

    def band(above: jax.Array, index: jax.Array) -> tuple:
        start = nothing, nothing.at[..., 0].set(_corner(index, far))
        cells: jax.Array
        _, cells = jax.lax.scan(step, start, (_skewed(_rows(cost, index, height), far), above))
        last_row = cells[..., -1] if keep else cells
        return _padded(last_row[height - 1 :], (0, height - 1), far), cells if keep else None

    border = varying_as(jnp.full((steps, *batch), far, cost.dtype), cost)
    table: jax.Array | None
    last_row, table = jax.lax.scan(band, border, jnp.arange(n // height))
    return jax.lax.index_in_dim(last_row, m - 1, keepdims=False), table  # also where m is a symbol


def _sweep_forth(
    table: Float[Array, "k t *b h"], gamma: Float[Array, ""], minimum: Minimum, given: Float[Array, "*b n m"]
) -> Float[Array, "*b n m"]:
    """Tangents of all cells, from what is given to each besides that of its predecessors."""
    count, _, *_, height = table.shape
    far, nothing = endless(table.dtype), _filled(table[0, 0], 0)

    def step(carry: tuple, inputs: tuple) -> tuple:
        left, diagonal = carry
        (of_left, of_diagonal, of_up), above, given, cell = inputs
        up = jnp.concatenate([above[..., None], left[..., :-1]], axis=-1)
        here = given + of_left * left + of_diagonal * diagonal + of_up * up
        here = jnp.where(cell < far, here, 0)  # beside the table tangents would grow
        return (here, up), here

    def band(moved_above: jax.Array, inputs: tuple) -> tuple:
        index, cells, above = inputs
        weights = _weights(cells, above, index, gamma, minimum)
        moved: jax.Array
        inputs = (weights, moved_above, _skewed(_rows(given, index, height), 0), cells)
        _, moved = jax.lax.scan(step, (nothing, nothing), inputs)
        return _padded(moved[height - 1 :, ..., -1], (0, height - 1), 0), _straight(moved)

    moved: jax.Array
    inputs = (jnp.arange(count), table, _rows_above(table))
    _, moved = jax.lax.scan(band, _filled(table[0, ..., -1], 0), inputs)
    return _joined(moved)


def _sweep_back(
    table: Float[Array, "k t *b h"],
    gamma: Float[Array, ""],
    minimum: Minimum,
    of_last: Float[Array, "*b"] | None,
    of_cells: Float[Array, "*b n m"] | None,
) -> Float[Array, "*b n m"]:
    """Gradients in what `_sweep_forth` is given, from those in the tangents of the last cell or of all."""
    count, steps, *_, height = table.shape
    m = steps - height + 1
    nothing = _filled(table[0, 0], 0)

    def step(carry: tuple, inputs: tuple) -> tuple:
        of_left, of_up, of_diagonal = carry  # what later steps ask of this one, and of its `up` as their `diagonal`
        (left, diagonal, up), below, asked = inputs
        here = of_left + jnp.concatenate([of_up, below[..., None]], axis=-1)
        here = here if asked is None else here + asked
        of_up = here * up + of_diagonal
        return (here * left, of_up[..., 1:], here * diagonal), (here, of_up[..., 0])

    def band(below: jax.Array, inputs: tuple) -> tuple:
        index, cells, above = inputs
        weights = _weights(cells, above, index, gamma, minimum)
        asked = None if of_cells is None else _skewed(_rows(of_cells, index, height), 0)
        of_band: jax.Array
        of_above: jax.Array
        _, (of_band, of_above) = jax.lax.scan(
            step, (nothing, nothing[..., 1:], nothing), (weights, below, asked), reverse=True
        )
        return _padded(of_above[:m], (height - 1, 0), 0), _straight(of_band)

    below = _filled(table[0, ..., -1], 0) if of_last is None else _padded(of_last[None], (steps - 1, 0), 0)
    of_given: jax.Array
    _, of_given = jax.lax.scan(band, below, (jnp.arange(count), table, _rows_above(table)), reverse=True)
    return _joined(of_given)


def _weights(
    cells: Float[Array, "t *b h"], above: Float[Array, "t *b"], index: jax.Array, gamma: jax.Array, minimum: Minimum
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What every cell of a band takes of its left, diagonal and upper predecessor."""
    far = endless(cells.dtype)
    left = jnp.concatenate([_filled(cells[:1], far), cells[:-1]])
    up = jnp.concatenate([above[..., None], left[..., :-1]], axis=-1)
    start = _filled(up[:1], far).at[..., 0].set(_corner(index, far))
    neighbours = jnp.stack([left, jnp.concatenate([start, up[:-1]]), up])
    least, pullback = jax.vjp(lambda values: minimum(values, gamma, axis=0), neighbours)
    of_left, of_diagonal, of_up = pullback(_filled(least, 1))[0]
    return of_left, of_diagonal, of_up


def _rows_above(table: Float[Array, "k t *b h"]) -> Float[Array, "k t *b"]:
    """For every band the last row of the one above, by column."""
    far, height = endless(table.dtype), table.shape[-1]
    above = _padded(table[:-1, height - 1 :, ..., -1].swapaxes(0, 1), (0, height - 1), far).swapaxes(0, 1)
    return jnp.concatenate([_filled(table[:1, ..., -1], far), above])


def _rows(cost: Float[Array, "*b n m"], index: jax.Array, height: Any) -> Float[Array, "*b h m"]:
    return jax.lax.dynamic_slice_in_dim(cost, index * height, height, axis=-2)


def _unfolded(table: Float[Array, "k t *b h"]) -> Float[Array, "*b n m"]:
    return _joined(jax.vmap(_straight)(table))


def _joined(bands: Float[Array, "k *b h m"]) -> Float[Array, "*b n m"]:
    bands = jnp.moveaxis(bands, 0, -3)
    return bands.reshape(*bands.shape[:-3], -1, bands.shape[-1])


def _skewed(rows: Float[Array, "*b h m"], fill: float) -> Float[Array, "t *b h"]:
    """Row i shifted to the right by i, steps first: rows of M + H entries are read as rows of one entry less."""
    *batch, height, m = rows.shape
    flat = jnp.pad(rows, [(0, 0)] * (len(batch) + 1) + [(0, height)], constant_values=fill)
    flat = flat.reshape(*batch, height * (m + height))[..., :-height]
    return jnp.moveaxis(flat.reshape(*batch, height, m + height - 1), -1, 0)


def _straight(cells: Float[Array, "t *b h"]) -> Float[Array, "*b h m"]:
    """Undo `_skewed`."""
    steps, *batch, height = cells.shape
    flat = jnp.moveaxis(cells, 0, -1).reshape(*batch, height * steps)
    flat = jnp.pad(flat, [(0, 0)] * len(batch) + [(0, height)])
    return flat.reshape(*batch, height, steps + 1)[..., : steps - height + 1]


def _padded(steps: Float[Array, "s *b"], widths: tuple[Any, Any], fill: float) -> Float[Array, "t *b"]:
    return jnp.pad(steps, [widths] + [(0, 0)] * (steps.ndim - 1), constant_values=fill)


def _corner(index: jax.Array, far: float) -> jax.Array:
    """What lies before the first cell of a band: the one way into the table, or nothing."""
    return jnp.where(index == 0, 0.0, far)
