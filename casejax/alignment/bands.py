"""The sweep of dynamic time warping over anti-diagonals, forth and back.

A table of N x M cells is cut into bands of H rows, and a band is skewed: its entry (t, i) is row i at column t - i, so
that the cells of a step t don't depend on each other and each step is a few operations on vectors. Entries left and
right of the table get an endless cost. One band means the fewest steps and the longest vectors, more bands fewer such
entries and less memory.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from casejax.alignment.soft_min import Minimum, endless

if TYPE_CHECKING:
    from jaxtyping import Array, Float


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def last_cell(
    cost: Float[Array, "*b n m"], gamma: Float[Array, ""], minimum: Minimum, height: int
) -> Float[Array, "*b"]:
    """Accumulated cost of the last cell; `height` must divide N. Keeps one band and a row, unless differentiated."""
    return _forward(cost, gamma, minimum, height, keep=False)[0]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def all_cells(
    cost: Float[Array, "*b n m"], gamma: Float[Array, ""], minimum: Minimum, height: int
) -> Float[Array, "*b n m"]:
    """Accumulated costs of all cells; `height` must divide N."""
    return _joined(jax.vmap(_straight)(_forward(cost, gamma, minimum, height, keep=True)[1]))


def _last_cell_forward(cost: jax.Array, gamma: jax.Array, minimum: Minimum, height: int) -> tuple:
    last, table = _forward(cost, gamma, minimum, height, keep=True)
    return last, (table, gamma)


def _last_cell_backward(minimum: Minimum, height: int, residuals: tuple, of_last: jax.Array) -> tuple:
    table, gamma = residuals
    return _backward(table, gamma, minimum, of_last, None)


def _all_cells_forward(cost: jax.Array, gamma: jax.Array, minimum: Minimum, height: int) -> tuple:
    _, table = _forward(cost, gamma, minimum, height, keep=True)
    return _joined(jax.vmap(_straight)(table)), (table, gamma)


def _all_cells_backward(minimum: Minimum, height: int, residuals: tuple, of_table: jax.Array) -> tuple:
    table, gamma = residuals
    return _backward(table, gamma, minimum, jnp.zeros_like(of_table[..., 0, 0]), of_table)


last_cell.defvjp(_last_cell_forward, _last_cell_backward)
all_cells.defvjp(_all_cells_forward, _all_cells_backward)


def _forward(
    cost: Float[Array, "*b n m"], gamma: Float[Array, ""], minimum: Minimum, height: int, *, keep: bool
) -> tuple[Float[Array, "*b"], Any]:
    """Accumulated costs of the last cell and, to keep, of all cells in skewed bands, (K, T, ..., H)."""
    *batch, n, m = cost.shape
    far, steps = endless(cost.dtype), m + height - 1
    nothing = jnp.full((*batch, height), far, cost.dtype)

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

    border = jnp.full((steps, *batch), far, cost.dtype)
    table: jax.Array | None
    last_row, table = jax.lax.scan(band, border, jnp.arange(n // height))
    return last_row[m - 1], table


def _backward(
    table: Float[Array, "k t *b h"],
    gamma: Float[Array, ""],
    minimum: Minimum,
    of_last: Float[Array, "*b"],
    of_table: Float[Array, "*b n m"] | None,
) -> tuple[Float[Array, "*b n m"], Float[Array, ""]]:
    """Gradients in the cost and in gamma from those in the last cell and in all cells."""
    count, steps, *batch, height = table.shape
    m, far = steps - height + 1, endless(table.dtype)

    def step(carry: tuple, inputs: tuple) -> tuple:
        of_left, of_up, of_diagonal = carry  # what later steps ask of this one, and of its `up` as their `diagonal`
        (left, diagonal, up), below, given = inputs
        here = of_left + jnp.concatenate([of_up, below[..., None]], axis=-1)
        here = here if given is None else here + given
        of_up = here * up + of_diagonal
        return (here * left, of_up[..., 1:], here * diagonal), (here, of_up[..., 0])

    def band(carry: tuple, inputs: tuple) -> tuple:
        below, of_gamma = carry
        index, cells, above = inputs
        left = jnp.concatenate([jnp.full_like(cells[:1], far), cells[:-1]])
        up = jnp.concatenate([above[..., None], left[..., :-1]], axis=-1)
        start = jnp.full_like(up[:1], far).at[..., 0].set(_corner(index, far))
        diagonal = jnp.concatenate([start, up[:-1]])
        neighbours = jnp.stack([left, diagonal, up])
        least, pullback = jax.vjp(lambda values, gamma: minimum(values, gamma, axis=0), neighbours, gamma)
        weights = pullback(jnp.ones_like(least))[0]
        given = None if of_table is None else _skewed(_rows(of_table, index, height), 0)
        nothing = jnp.zeros((*batch, height), table.dtype)
        of_cells: jax.Array
        of_above: jax.Array
        _, (of_cells, of_above) = jax.lax.scan(
            step, (nothing, nothing[..., 1:], nothing), (tuple(weights), below, given), reverse=True
        )
        of_gamma = of_gamma + pullback(of_cells)[1]
        return (_padded(of_above[:m], (height - 1, 0), 0), of_gamma), _straight(of_cells)

    above = _padded(table[:-1, height - 1 :, ..., -1].swapaxes(0, 1), (0, height - 1), far).swapaxes(0, 1)
    above = jnp.concatenate([jnp.full((1, steps, *batch), far, table.dtype), above])
    below = _padded(of_last[None], (steps - 1, 0), 0)
    inputs = (jnp.arange(count), table, above)
    of_cost: jax.Array
    (_, of_gamma), of_cost = jax.lax.scan(band, (below, jnp.zeros_like(gamma)), inputs, reverse=True)
    return _joined(of_cost), of_gamma


def _rows(cost: Float[Array, "*b n m"], index: jax.Array, height: int) -> Float[Array, "*b h m"]:
    return jax.lax.dynamic_slice_in_dim(cost, index * height, height, axis=-2)


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


def _padded(steps: Float[Array, "s *b"], widths: tuple[int, int], fill: float) -> Float[Array, "t *b"]:
    return jnp.pad(steps, [widths] + [(0, 0)] * (steps.ndim - 1), constant_values=fill)


def _corner(index: jax.Array, far: float) -> jax.Array:
    """What lies before the first cell of a band: the one way into the table, or nothing."""
    return jnp.where(index == 0, 0.0, far)
