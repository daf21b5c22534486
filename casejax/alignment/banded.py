"""The cells of a table that lie near its main diagonal, row and column at most a radius apart; no others are computed.

A step goes along an anti-diagonal, i + j = t, and holds the cells of rows lo(t) to lo(t) + radius, where lo(t) is the
first row in the band. So N + M - 1 steps of radius + 1 cells each take the place of N M cells.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from casejax.alignment.soft_min import Minimum, endless
from casejax.array_types import Array, Float, Int
from casejax.arrays.placement import varying_as


def cells_in_band(
    cost: Float[Array, "*b n m"], gamma: Float[Array, ""], minimum: Minimum, radius: int
) -> Float[Array, "*b t w"]:
    """Accumulated costs by anti-diagonal and row from the first in the band; as good as infinite outside the table."""
    *batch, n, m = cost.shape
    far, width = endless(cost.dtype), radius + 1
    first = _first_row(jnp.arange(n + m - 1), radius)
    row = first[:, None] + jnp.arange(width)[None]
    column = jnp.arange(n + m - 1)[:, None] - row
    inside = (row >= 0) & (row < n) & (column >= 0) & (column < m) & (abs(row - column) <= radius)
    near = cost[..., jnp.clip(row, 0, n - 1), jnp.clip(column, 0, m - 1)]
    near = jnp.moveaxis(jnp.where(jnp.broadcast_to(inside, near.shape), near, jnp.inf), -2, 0)

    def step(carry: tuple, inputs: tuple) -> tuple:
        before, diagonal = carry
        cost, moved = inputs
        wide = jnp.pad(before, [(0, 0)] * len(batch) + [(1, 1)], constant_values=far)
        left = jnp.where(moved, wide[..., 2:], before)
        up = jnp.where(moved, before, wide[..., :-2])
        here = jnp.minimum(cost + minimum(jnp.stack([left, diagonal, up]), gamma, axis=0), far)
        return (here, before), here

    nothing = varying_as(jnp.full((*batch, width), far, cost.dtype), cost)
    start = nothing, nothing.at[..., radius // 2].set(0)  # before the first cell
    moved = first > jnp.concatenate([first[:1], first[:-1]])
    cells: jax.Array
    _, cells = jax.lax.scan(step, start, (near, moved))
    return jnp.moveaxis(cells, 0, -2)


def one_of_band(cells: Float[Array, "*b t w"], row: Int[Array, "*b"], column: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """One cell of every table; as good as infinite outside the band."""
    place, inside = _place(row, column, cells.shape[-1])
    flat = cells.reshape(*cells.shape[:-2], -1)
    found = jnp.take_along_axis(flat, jnp.where(inside, place, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(inside, found, endless(cells.dtype))


def all_of_band(cells: Float[Array, "*b t w"], n: Any, m: Any) -> Float[Array, "*b n m"]:
    """The table (..., N, M); as good as infinite outside the band."""
    place, inside = _place(jnp.arange(n)[:, None], jnp.arange(m)[None], cells.shape[-1])
    found = cells.reshape(*cells.shape[:-2], -1)[..., jnp.where(inside, place, 0)]
    return jnp.where(jnp.broadcast_to(inside, found.shape), found, endless(cells.dtype))


def _first_row(step: jax.Array, radius: int) -> jax.Array:
    return (step - radius + 1) // 2


def _place(row: jax.Array, column: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """Where a cell stands among the steps, and whether it does."""
    step, radius = row + column, width - 1
    return step * width + row - _first_row(step, radius), (abs(row - column) <= radius) & (row >= 0) & (column >= 0)
