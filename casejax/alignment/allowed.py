"""Which paths through a table of dynamic time warping there are: by real frames, by a band, by open ends."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from casejax.alignment.soft_min import Minimum, check_gamma
from casejax.arrays.arguments import refuse_nan


class Allowed(NamedTuple):
    """Which paths through a table there are, see `dtw`."""

    band: int | None = None
    open_begin: bool = False
    open_end: bool = False


EVERY_PATH = Allowed()


def check_paths(
    cost: jax.Array,
    x_mask: jax.Array | None,
    y_mask: jax.Array | None,
    gamma: float | jax.Array,
    allowed: Allowed,
    *,
    empty: bool = False,
) -> None:
    """Refuse what is known at the call and wrong, see `warping.dtw`; an `empty` sequence may be allowed."""
    check_gamma(gamma)
    if cost.ndim < 2 or 0 in cost.shape[-2:]:
        raise ValueError(f"cost must be (..., N, M) with N, M >= 1, got shape {cost.shape}")
    for name, mask, axis in (("x_mask", x_mask, -2), ("y_mask", y_mask, -1)):
        if mask is None:
            continue
        wanted = (*cost.shape[:-2], cost.shape[axis])
        if mask.shape != wanted:
            raise ValueError(f"{name} must have shape {wanted} for a cost of {cost.shape}, got {mask.shape}")
        if not isinstance(mask, jax.core.Tracer) and not empty and not np.asarray(mask).any(-1).all():
            broken = np.argwhere(~np.asarray(mask).any(-1)).tolist()
            raise ValueError(f"{name} has sequences without a real frame: {broken}")
        refuse_holes(mask, name)
    live = None if x_mask is None else x_mask[..., :, None]
    if y_mask is not None:
        live = y_mask[..., None, :] if live is None else live & y_mask[..., None, :]
    refuse_nan(cost, "cost", live)
    if allowed.band is not None:
        _check_band(cost, x_mask, y_mask, allowed)


def refuse_holes(mask: jax.Array, name: str) -> None:
    """Refuse a mask that is known at the call and whose real frames don't come first."""
    if not isinstance(mask, jax.core.Tracer) and (np.asarray(mask)[..., 1:] & ~np.asarray(mask)[..., :-1]).any():
        raise ValueError(f"{name} has a True after a False; move the real frames to the front")


def _check_band(cost: jax.Array, x_mask: jax.Array | None, y_mask: jax.Array | None, allowed: Allowed) -> None:
    band = allowed.band
    if isinstance(band, bool) or not isinstance(band, int) or band < 0:
        raise ValueError(f"band must be a number of frames, 0 or more, got {band}")
    if allowed.open_begin or allowed.open_end:
        raise ValueError(f"band={band} is measured from both ends and goes with neither open_begin nor open_end")
    n, m = cost.shape[-2:]
    if isinstance(x_mask, jax.core.Tracer) or isinstance(y_mask, jax.core.Tracer):
        return
    if not isinstance(n, int) or not isinstance(m, int):  # symbols, in an exported function
        return
    counts = (size if mask is None else np.asarray(mask).sum(-1) for size, mask in ((n, x_mask), (m, y_mask)))
    rows, columns = np.broadcast_arrays(*counts)
    apart = np.where((rows > 0) & (columns > 0), abs(rows - columns), 0)
    if (apart > band).any():
        worst = np.unravel_index(apart.argmax(), apart.shape)
        raise ValueError(
            f"band={band} leaves no path through {rows[worst]} x {columns[worst]} frames"
            f"{f' of pair {[int(k) for k in worst]}' if worst else ''}; it must be {apart.max()} or more"
        )


def opened(
    cost: jax.Array,
    x_mask: jax.Array | None,
    y_mask: jax.Array | None,
    gamma: float | jax.Array,
    minimum: Minimum,
    allowed: Allowed,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """Cost and masks with a row of zeros before the first frame or behind the last one, where that end is open.

    There is a column more as well, so that the row leads into the table, or out of it, twice at every frame.
    """
    begin, end = int(allowed.open_begin), int(allowed.open_end)
    if not begin + end:
        return cost, x_mask, y_mask
    batch = cost.ndim - 2
    rows, columns = (x + begin for x in lengths(cost, x_mask, y_mask))  # behind the last real ones
    cost = jnp.pad(cost, [(0, 0)] * batch + [(begin, end)] * 2)
    row, column = (jax.lax.broadcasted_iota(jnp.int32, cost.shape, batch + k) for k in (0, 1))
    real = (row >= begin) & (row < rows) & (column >= begin) & (column < columns)
    cost = jnp.where(real, cost, jnp.inf)
    twice = -minimum(jnp.zeros(2, cost.dtype), jnp.asarray(gamma, cost.dtype), axis=0)
    if begin:
        cost = jnp.where(row == 0, jnp.where(column == 0, twice, 0), cost)
    if end:
        cost = jnp.where(row == rows, jnp.where(column == columns, twice, 0), cost)
    some = (rows > begin)[..., 0]

    def longer(mask: jax.Array | None) -> jax.Array | None:
        if mask is None:
            return None
        ends = jnp.broadcast_to(some, (*mask.shape[:-1], begin + end))
        return jnp.concatenate([ends, mask], axis=-1)

    return cost, longer(x_mask), longer(y_mask)


def lengths(cost: jax.Array, x_mask: jax.Array | None, y_mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Numbers of real frames, of shape (..., 1, 1); both 0 if one is."""
    *batch, n, m = cost.shape
    rows = jnp.full(batch, n, jnp.int32) if x_mask is None else x_mask.sum(-1, dtype=jnp.int32)
    columns = jnp.full(batch, m, jnp.int32) if y_mask is None else y_mask.sum(-1, dtype=jnp.int32)
    some = (rows > 0) & (columns > 0)
    return jnp.where(some, rows, 0)[..., None, None], jnp.where(some, columns, 0)[..., None, None]


def without_holes(cost: jax.Array, *masks: jax.Array | None) -> jax.Array:
    """The cost, NaN for pairs whose real frames don't come first."""
    for mask in masks:
        if mask is not None:
            holed = (mask[..., 1:] & ~mask[..., :-1]).any(-1)[..., None, None]
            cost = jnp.where(holed, jnp.nan, cost)
    return cost
