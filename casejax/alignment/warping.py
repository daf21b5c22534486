"""Dynamic time warping between two sequences, smooth or hard.

With costs C of matching frame i with frame j, the accumulated cost of a cell is

    R[i, j] = C[i, j] + minimum(R[i, j-1], R[i-1, j-1], R[i-1, j])

where nothing but the first cell can be entered from outside, and the cost of the alignment is that of the last cell.
The minimum is a function: `soft_min.smooth_min` is smoothDTW (Hadji, Derpanis and Jepson, "Representation Learning via
Global Temporal Alignment and Cycle-Consistency", CVPR 2021), `min_gamma` soft-DTW (Cuturi and Blondel, "Soft-DTW: a
Differentiable Loss Function for Time-Series", ICML 2017), `hard_min` the classical one.

A band (Sakoe and Chiba, "Dynamic Programming Algorithm Optimization for Spoken Word Recognition", IEEE TASSP 1978)
keeps |i - j| <= band. With an open beginning or end frames of the second sequence may be left out there, without cost:
the table gets one more row, of zeros (Sakurai, Faloutsos and Yamamuro, "Stream Monitoring under the Time Warping
Distance", ICDE 2007). Every cell of it leads into the table twice, straight and diagonally; under `min_gamma`, which
sums over paths, gamma log 2 makes up for that, so that every path counts once.

The work goes by bands of H rows (`bands`): all N on accelerators, about sqrt(128 M / B) for a batch of B on CPUs.
Besides the cost a value takes memory for two copies of a band, 2 B H (M + H) numbers, and O(B (N + M)) more; a gradient
keeps the accumulated costs, B N (M + H) numbers, and while a band is at work ten times its size. Masks, and an N that
bands don't divide, cost a copy of the cost. A band takes B (N + M) (band + 1) numbers and steps as wide (`banded`).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from casejax.alignment.allowed import EVERY_PATH, Allowed, check_paths, lengths, opened, without_holes
from casejax.alignment.banded import all_of_band, cells_in_band, one_of_band
from casejax.alignment.bands import all_cells, last_cell
from casejax.alignment.soft_min import Minimum, endless, hard_min, min_gamma, smooth_min_by_shares
from casejax.array_types import Array, Bool, Float, Int
from casejax.arrays.arguments import takes
from casejax.arrays.placement import varying_as

ONE_BAND = 128
"""Rows up to which a table is never cut."""


class Path(NamedTuple):
    """A path through the cells of a table, from the first to the last.

    Attributes:
      cells: (..., N + M - 1, 2), row and column of each cell; where `mask` is False, the last cell again.
      mask: (..., N + M - 1), True for the path's own entries, which come first.
    """

    cells: Int[Array, "*b p 2"]
    mask: Bool[Array, "*b p"]


@takes(nan=True)
def dtw(
    cost: Float[Array, "*b n m"],
    *,
    x_mask: Bool[Array, "*b n"] | None = None,
    y_mask: Bool[Array, "*b m"] | None = None,
    minimum: Minimum = min_gamma,
    gamma: float | Float[Array, ""] = 0.1,
    band: int | None = None,
    open_begin: bool = False,
    open_end: bool = False,
) -> Float[Array, "*b"]:
    """Cost of aligning sequences of N and M frames in order and without gaps; as wholes, unless an end is open.

    Differentiable in the cost and in gamma, forward and in reverse, as often as the minimum is. Gradients are finite
    for finite costs, whatever their size.

    Args:
      cost: (..., N, M) cost of matching frames, N, M >= 1; +inf forbids a match. float32 or float64 is kept, other
        types, and lists, are computed in float32.
      x_mask: True for the real frames of the first sequence, which must come first; default all. Numbers will do where
        they are known at the call, and 0 or 1.
      y_mask: the same of the second sequence.
      minimum: of an entry's three predecessors, `soft_min.smooth_min`, `min_gamma`, `hard_min` or a function with
        their signature that takes static axis=0 and never gives weight to values as good as infinite, 1.7e38.
      gamma: smoothing in units of the cost, 0 or more.
      band: frames by which the two places of a match, counted from 0, may differ at most; default any. Work and memory
        of a value fall from N M to about (N + M) (band + 1) cells.
      open_begin: whether the alignment may begin at any frame of the second sequence, not the first alone.
      open_end: the same of its end. With both the whole first sequence is found within the second.

    Returns:
      (...) alignment costs; +inf where no path is allowed, with a gradient of 0. Where the values are known inside jit
      alone: NaN for a pair with NaN among its real costs or with a mask whose True entries don't come first, and 0
      for one without real frames. What is wrong with one pair changes no other.

    Raises:
      ValueError: shapes that don't fit, a gamma out of range, a band with an open end; and, for values known at the
        call, a real cost that is NaN, an empty sequence, a mask with holes, or lengths further apart than the band.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> cost = jnp.array([[0.0, 2.0, 4.0], [3.0, 1.0, 0.0]])
      >>> float(alignment.dtw(cost, minimum=alignment.hard_min))
      1.0
    """
    allowed = Allowed(band, open_begin, open_end)
    check_paths(cost, x_mask, y_mask, gamma, allowed)
    return _refuse_nan(_dtw(cost, x_mask, y_mask, gamma, minimum, allowed))


@takes(nan=True)
def dtw_table(
    cost: Float[Array, "*b n m"],
    *,
    x_mask: Bool[Array, "*b n"] | None = None,
    y_mask: Bool[Array, "*b m"] | None = None,
    minimum: Minimum = min_gamma,
    gamma: float | Float[Array, ""] = 0.1,
    band: int | None = None,
    open_begin: bool = False,
) -> Float[Array, "*b n m"]:
    """Accumulated costs R of all cells: entry (i, j) aligns the first i + 1 frames with the first j + 1.

    Args, errors and derivatives are those of `dtw`.

    Returns:
      (..., N, M); 0 in padded rows and columns, +inf outside the band. The last row has the costs of all ends.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> cost = jnp.array([[0.0, 2.0, 4.0], [3.0, 1.0, 0.0]])
      >>> alignment.dtw_table(cost, minimum=alignment.hard_min)
      Array([[0., 2., 6.],
             [3., 1., 1.]], dtype=float32)
    """
    allowed = Allowed(band, open_begin)
    check_paths(cost, x_mask, y_mask, gamma, allowed)
    return _refuse_nan(_dtw_table(cost, x_mask, y_mask, gamma, minimum, allowed))


def dtw_of_batch(
    cost: Float[Array, "*b n m"],
    *,
    x_mask: Bool[Array, "*b n"] | None = None,
    y_mask: Bool[Array, "*b m"] | None = None,
    minimum: Minimum = min_gamma,
    gamma: float | Float[Array, ""] = 0.1,
    band: int | None = None,
    table: bool = False,
) -> Float[Array, "*b *_"]:
    """`dtw`, or `dtw_table`, of a batch in which some sequences may be empty; the costs of their pairs are 0."""
    check_paths(cost, x_mask, y_mask, gamma, Allowed(band), empty=True)
    return _refuse_nan((_dtw_table if table else _dtw)(cost, x_mask, y_mask, gamma, minimum, Allowed(band)))


@takes(nan=True)
def alignment_matrix(
    cost: Float[Array, "*b n m"],
    *,
    x_mask: Bool[Array, "*b n"] | None = None,
    y_mask: Bool[Array, "*b m"] | None = None,
    minimum: Minimum = min_gamma,
    gamma: float | Float[Array, ""] = 0.1,
    band: int | None = None,
    open_begin: bool = False,
    open_end: bool = False,
) -> Float[Array, "*b n m"]:
    """Gradient of `dtw` in the cost.

    With `min_gamma` entry (i, j) is the probability that a path drawn with weight exp(-its cost / gamma) matches frame
    i with frame j: the expected alignment. With `smooth_min` entries may be negative or above 1; probabilities are
    those of `visitation_matrix`. With `hard_min` it is the best path, shared out at ties. Its first entry is 1
    unless the beginning is open.

    Args and errors are those of `dtw`.

    Returns:
      (..., N, M); 0 in padded rows and columns.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> cost = jnp.array([[0.0, 2.0, 4.0], [3.0, 1.0, 0.0]])
      >>> alignment.alignment_matrix(cost, minimum=alignment.hard_min)
      Array([[1., 0., 0.],
             [0., 1., 1.]], dtype=float32)
    """
    allowed = Allowed(band, open_begin, open_end)
    check_paths(cost, x_mask, y_mask, gamma, allowed)
    return _refuse_nan(_alignment_matrix(cost, x_mask, y_mask, gamma, minimum, allowed))


@takes(nan=True)
def visitation_matrix(
    cost: Float[Array, "*b n m"],
    *,
    x_mask: Bool[Array, "*b n"] | None = None,
    y_mask: Bool[Array, "*b m"] | None = None,
    gamma: float | Float[Array, ""] = 0.1,
    band: int | None = None,
    open_begin: bool = False,
    open_end: bool = False,
) -> Float[Array, "*b n m"]:
    """Probability that the path behind `smooth_min` visits a cell: the soft alignment to plot or to carry labels over.

    The path starts at the last cell and goes back to predecessors drawn with the probabilities that `smooth_min`
    averages with; its expected cost is `dtw` with `smooth_min`.

    Args and errors are those of `dtw`.

    Returns:
      (..., N, M) probabilities; 0 in padded rows and columns.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> cost = jnp.array([[0.0, 2.0, 4.0], [3.0, 1.0, 0.0]])
      >>> alignment.visitation_matrix(cost, gamma=0.01).round(2)
      Array([[1., 0., 0.],
             [0., 1., 1.]], dtype=float32)
    """
    allowed = Allowed(band, open_begin, open_end)
    check_paths(cost, x_mask, y_mask, gamma, allowed)
    return _refuse_nan(_alignment_matrix(cost, x_mask, y_mask, gamma, smooth_min_by_shares, allowed))


@takes(nan=True)
def dtw_path(
    cost: Float[Array, "*b n m"],
    *,
    x_mask: Bool[Array, "*b n"] | None = None,
    y_mask: Bool[Array, "*b m"] | None = None,
    band: int | None = None,
    open_begin: bool = False,
    open_end: bool = False,
) -> Path:
    """The cheapest path. Of predecessors that tie the diagonal one is taken, then the one in the same row.

    Args and errors are those of `dtw`. A pair that is masked altogether has a path of its first cell; the path of one
    with NaN, or without an allowed path, means nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> path = alignment.dtw_path(jnp.array([[0.0, 2.0, 4.0], [3.0, 1.0, 0.0]]))
      >>> path.cells[path.mask]
      Array([[0, 0],
             [1, 1],
             [1, 2]], dtype=int32)
    """
    allowed = Allowed(band, open_begin, open_end)
    check_paths(cost, x_mask, y_mask, 0.0, allowed)
    return _dtw_path(cost, x_mask, y_mask, allowed)


@partial(jax.jit, static_argnames=("minimum", "allowed"))
def _dtw(
    cost: jax.Array,
    x_mask: jax.Array | None,
    y_mask: jax.Array | None,
    gamma: jax.Array,
    minimum: Minimum,
    allowed: Allowed = EVERY_PATH,
) -> jax.Array:
    if allowed.band is not None:
        rows, columns = (x[..., 0, 0] for x in lengths(cost, x_mask, y_mask))
        last = one_of_band(_in_band(cost, x_mask, y_mask, gamma, minimum, allowed.band), rows - 1, columns - 1)
        last = jnp.where(rows > 0, last, 0)
    else:
        cost, x_mask, y_mask = opened(cost, x_mask, y_mask, gamma, minimum, allowed)
        cost, gamma, height = _framed(cost, x_mask, y_mask, gamma)
        last = last_cell(cost, gamma, minimum, height)
    return jnp.where(last >= endless(cost.dtype), jnp.inf, last)


@partial(jax.jit, static_argnames=("minimum", "allowed"))
def _alignment_matrix(
    cost: jax.Array,
    x_mask: jax.Array | None,
    y_mask: jax.Array | None,
    gamma: jax.Array,
    minimum: Minimum,
    allowed: Allowed,
) -> jax.Array:
    def total(cost: jax.Array) -> tuple[jax.Array, jax.Array]:
        each = _dtw(cost, x_mask, y_mask, gamma, minimum, allowed)
        return each.sum(), each

    matrix, each = jax.grad(total, has_aux=True)(cost)
    return jnp.where(jnp.isnan(each)[..., None, None], jnp.nan, matrix)


@partial(jax.jit, static_argnames=("minimum", "allowed"))
def _dtw_table(
    cost: jax.Array,
    x_mask: jax.Array | None,
    y_mask: jax.Array | None,
    gamma: jax.Array,
    minimum: Minimum,
    allowed: Allowed = EVERY_PATH,
) -> jax.Array:
    n, m = cost.shape[-2:]
    if allowed.band is not None:
        table = all_of_band(_in_band(cost, x_mask, y_mask, gamma, minimum, allowed.band), n, m)
    else:
        begin = int(allowed.open_begin)
        framed, gamma, height = _framed(*opened(cost, x_mask, y_mask, gamma, minimum, allowed), gamma)
        table = all_cells(framed, gamma, minimum, height)[..., begin : begin + n, begin : begin + m]
    table = jnp.where(table >= endless(table.dtype), jnp.inf, table)
    if x_mask is not None:
        table = jnp.where(x_mask[..., :, None], table, 0)
    return table if y_mask is None else jnp.where(y_mask[..., None, :], table, 0)


@partial(jax.jit, static_argnames="allowed")
def _dtw_path(
    cost: jax.Array, x_mask: jax.Array | None, y_mask: jax.Array | None, allowed: Allowed = EVERY_PATH
) -> Path:
    *batch, n, m = cost.shape
    if allowed.open_begin or allowed.open_end:
        begin = int(allowed.open_begin)
        cells, mask = _dtw_path(*opened(cost, x_mask, y_mask, 0.0, hard_min, allowed))
        row = cells[..., 0] - begin
        mask = mask & (row >= 0) & (row < lengths(cost, x_mask, y_mask)[0][..., 0])
        first, size = mask.argmax(-1, keepdims=True), jnp.maximum(mask.sum(-1, dtype=jnp.int32, keepdims=True), 1)
        place = jnp.broadcast_to(jnp.arange(n + m - 1, dtype=jnp.int32), (*batch, n + m - 1))
        cells = jnp.take_along_axis(cells, (first + jnp.minimum(place, size - 1))[..., None], axis=-2)
        return Path(jnp.maximum(cells - begin, 0), place < size)
    table = _dtw_table(cost, x_mask, y_mask, 0.0, hard_min, allowed)
    last = jnp.stack(jnp.broadcast_arrays(*lengths(cost, x_mask, y_mask)), -1).reshape(-1, 2) - 1
    moves = jnp.array([(1, 1), (0, 1), (1, 0)], jnp.int32)

    def path(table: jax.Array, last: jax.Array) -> Path:
        def back(cell: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            before = cell[None] - moves
            costs = jnp.where((before >= 0).all(-1), table[before[:, 0], before[:, 1]], jnp.inf)
            return jnp.where((cell == 0).all(), cell, before[costs.argmin()]), cell

        cells = jax.lax.scan(back, varying_as(last, table), length=n + m - 1)[1]
        size = (
            n + m - 1 - (cells[1:] == cells[:-1]).all(-1).sum(dtype=jnp.int32)
        )  # the first cell may have been repeated
        place = jnp.arange(n + m - 1, dtype=jnp.int32)
        mask = place < size
        return Path(cells[jnp.where(mask, size - 1 - place, 0)], mask)

    cells, mask = jax.vmap(path)(table.reshape(-1, n, m), jnp.maximum(last, 0))
    return Path(cells.reshape(*batch, n + m - 1, 2), mask.reshape(*batch, n + m - 1))


def _in_band(
    cost: jax.Array,
    x_mask: jax.Array | None,
    y_mask: jax.Array | None,
    gamma: float | jax.Array,
    minimum: Minimum,
    band: int,
) -> jax.Array:
    """Accumulated costs of the cells in the band, see `banded`."""
    n, m = cost.shape[-2:]
    if x_mask is not None:
        cost = jnp.where(x_mask[..., :, None], cost, jnp.inf)
    if y_mask is not None:
        cost = jnp.where(y_mask[..., None, :], cost, jnp.inf)
    cost = without_holes(cost, x_mask, y_mask)
    widest = max(n, m) - 1 if isinstance(n, int) and isinstance(m, int) else band  # sizes of exports may be symbols
    return cells_in_band(cost, jnp.asarray(gamma, cost.dtype), minimum, min(band, widest))


def _num_bands(*shape: Any) -> int:
    """Bands of a table, for speed alone: one, but that CPUs lose less to each step than to entries beside the table."""
    *batch, n, m = shape
    if not all(isinstance(size, int) for size in shape):  # symbolic, in an exported function
        return 1
    if n <= ONE_BAND or jax.default_backend() != "cpu":
        return 1
    # least of 2 N (M + H) (c + B H) / H, the time of steps that start at the cost of c = 128 entries
    return max(1, round(n / math.sqrt(128 * m / max(1, math.prod(batch)))))


def _framed(
    cost: jax.Array, x_mask: jax.Array | None, y_mask: jax.Array | None, gamma: float | jax.Array
) -> tuple[jax.Array, jax.Array, Any]:
    """Cost without padding whose last cell is that of every pair, gamma in its type, and the height of its bands.

    Where the real frames of a pair end before the rows and columns do, what lies beyond is forbidden but for one path,
    free of cost and without a tie: diagonally up to the border, then along it.
    """
    gamma = jnp.asarray(gamma, cost.dtype)
    *batch, n, m = cost.shape
    bands = _num_bands(*cost.shape)
    if x_mask is None and y_mask is None and (bands == 1 or n % bands == 0):
        return cost, gamma, n if bands == 1 else n // bands
    height = n + 1 if bands == 1 else -(-(n + 1) // bands)
    last_row, last_column = height * bands - 1, m
    cost = jnp.pad(cost, [(0, 0)] * len(batch) + [(0, last_row + 1 - n), (0, 1)])
    row, column = (jax.lax.broadcasted_iota(jnp.int32, cost.shape, len(batch) + k) for k in (0, 1))
    rows, columns = lengths(cost[..., :n, :m], x_mask, y_mask)
    free = (row >= rows) & (column == jnp.minimum(columns + row - rows, last_column))
    free |= (column >= columns) & (row == jnp.minimum(rows + column - columns, last_row))
    cost = jnp.where((row < rows) & (column < columns), cost, jnp.where(free, 0, jnp.inf))
    return without_holes(cost, x_mask, y_mask), gamma, height


def _refuse_nan(result: jax.Array) -> jax.Array:
    if not isinstance(result, jax.core.Tracer) and bool(jnp.isnan(result).any()):
        raise ValueError("the cost has NaN or -inf among its real entries; mask the frames that it belongs to")
    return result
