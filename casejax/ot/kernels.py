"""Sums and products with the kernel exp(scores / epsilon + log_prior) of a transport problem, in two ways.

`centred_kernel` holds an entry as one float: fast, and safe as long as `is_narrow`, or as the scalings stay near those
that it was centred at. `wide_kernel` holds a float and a power of two beside it: safe at any range. Both give every
entry of a plan to the digits of its float type.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float, Int
from casejax.ot.placement import AxisName, greatest_over, total_over, varying_as

REACH = 24.0
"""|scores / epsilon + log_prior| up to which a plain kernel, its sums and its scalings stay within float32."""

REACHED = 40.0
"""Logarithm of a scaling that a plain kernel starts from or moves by at most; its sums stay within float32."""

DRIFT = 4096.0
"""Factor up to which scalings may leave those that a kernel was centred at: entries of a plan above 1e-30 are exact."""

MASSES = 1e6
"""Greatest ratio of two masses of one marginal that a plain kernel is trusted with."""


class Kernel(NamedTuple):
    """What an iteration needs of a kernel; a scaling (of rows or columns) and sums are pytrees of one kind."""

    ones: Callable[[Any], Any]  # which rows take part -> their scaling by 1
    column_sums: Callable[[Any], Any]  # scaling of rows -> sums over rows
    row_sums: Callable[[Any], Any]  # scaling of columns -> sums over columns
    scaling: Callable[[Any, Any, Any], Any]  # wanted masses, sums, power or None -> (wanted / sums)**power
    times: Callable[[Any, Any], Any]  # scaling times an array
    shift: Callable[[Any, Any], Any]  # sums times the exponential of a number
    count: Callable[[Any], Any]  # scaling -> how many of its numbers are positive and finite
    product: Callable[[Any, Any], Any]  # sums times scaling, as an array
    row_log: Callable[[Any], Any]  # logarithm of a scaling of the rows, -inf where the scaling is 0
    column_log: Callable[[Any], Any]  # the same of the columns
    exp: Callable[[Any], Any]  # the scaling of a logarithm, as near to it as the kernel can hold
    plan: Callable[[Any, Any, Any], Any]  # scalings of rows and columns, last column sums -> the scaled kernel


class Centred(NamedTuple):
    """The kernel times powers of two of its rows and columns; scalings by it are relative to these.

    Attributes:
      values: (N, K).
      row_exponents: (N,) whole numbers.
      column_exponents: (K,) whole numbers.
    """

    values: Float[Array, "n k"]
    row_exponents: Float[Array, " n"]
    column_exponents: Float[Array, " k"]


class Wide(NamedTuple):
    """The numbers `factor * 2**exponent`; exponents are whole, held in floats, and have no derivative."""

    factor: Float[Array, " m"]
    exponent: Float[Array, " m"]


def is_narrow(
    scores: Float[Array, "n k"],
    log_prior: Float[Array, "n k"] | None,
    rows: Float[Array, " n"],
    columns: Float[Array, " k"],
    epsilon: Float[Array, ""],
    axis_name: AxisName = None,
) -> Bool[Array, ""]:
    """Whether a plain kernel is safe. There is one answer for all shards, and under `vmap` for the whole batch."""
    scores, log_prior, rows, columns, epsilon = jax.lax.stop_gradient((scores, log_prior, rows, columns, epsilon))
    reach = jnp.abs(scores).max() / epsilon
    if log_prior is not None:
        reach = reach + jnp.abs(log_prior).max()
    narrow = greatest_over(axis_name, reach) <= REACH
    for masses, axes in ((rows, axis_name), (columns, None)):
        greatest = greatest_over(axes, masses.max())
        least = -greatest_over(axes, -jnp.where(masses > 0, masses, greatest).min())
        narrow = narrow & (greatest <= MASSES * least) & (greatest <= 1e8) & (greatest >= 1e-8)
    return in_whole_batch(narrow)


@jax.custom_batching.custom_vmap
def in_whole_batch(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether all problems of a batch say so."""
    # For a batch of flags `lax.cond` would compute both branches for every problem, and a loop select all it carries.
    return flag


@in_whole_batch.def_vmap
def _(axis_size: int, in_batched: list[bool], flag: Bool[Array, " b"]) -> tuple[Bool[Array, ""], bool]:
    del axis_size
    return in_whole_batch(flag.all(axis=0) if in_batched[0] else flag), False


@jax.custom_batching.custom_vmap
def where_in_batch(flag: Bool[Array, ""], new: Any, old: Any) -> Any:
    """The new arrays; those of a problem in a batch whose flag is False, the old ones."""
    del flag, old
    return new


@where_in_batch.def_vmap
def _(axis_size: int, in_batched: list, flag: Bool[Array, "*b"], new: Any, old: Any) -> tuple[Any, Any]:
    of_flag, of_new, of_old = in_batched
    if not of_flag:
        return where_in_batch(flag, new, old), of_new

    def spread(x: jax.Array, batched: bool) -> jax.Array:
        return x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))

    new, old = jax.tree.map(spread, new, of_new), jax.tree.map(spread, old, of_old)
    return jax.vmap(lambda *x: jax.tree.map(partial(jnp.where, x[0]), *x[1:]))(flag, new, old), jax.tree.map(
        lambda _: True, new
    )


def rows_a_part(num_rows: Any) -> int:
    """Rows whose sum is taken in one go; of 1000 equal float32 numbers added in a row, a sum is good to 1e-5 only."""
    if not isinstance(num_rows, int):  # symbolic, in a program for export
        return 64
    if num_rows <= 128:
        return num_rows
    divisors = [size for size in range(128, 31, -1) if num_rows % size == 0]
    for_shards = [size for size in divisors if num_rows // size % 8 == 0]  # parts that 8 devices share evenly
    return next(iter(for_shards + divisors), 64)


def filled_up(num_rows: Any) -> Any:
    """The next multiple of `rows_a_part(num_rows)`."""
    size = rows_a_part(num_rows)
    return (num_rows + size - 1) // size * size


def plain_kernel(
    scores: Float[Array, "n k"],
    log_prior: Float[Array, "n k"] | None,
    epsilon: Float[Array, ""],
    axis_name: AxisName = None,
) -> Kernel:
    """The kernel as it is, in one array."""
    rows, columns = (jnp.zeros(size, scores.dtype) for size in scores.shape)
    none = varying_as(rows, scores), varying_as(columns, epsilon)
    return centred_kernel(centred_at(scores, log_prior, epsilon, *none), axis_name)


def centred_at(
    scores: Float[Array, "n k"],
    log_prior: Float[Array, "n k"] | None,
    epsilon: Float[Array, ""],
    of_rows: Float[Array, " n"],
    of_columns: Float[Array, " k"],
) -> Centred:
    """The kernel times powers of two."""
    residues, exponents = residues_and_exponents(scores, log_prior, epsilon)
    shift = of_rows[:, None] + of_columns[None, :]
    return Centred(residues * _power_of_two(exponents + shift), of_rows, of_columns)


def centre(
    scores: Float[Array, "n k"],
    log_prior: Float[Array, "n k"] | None,
    epsilon: Float[Array, ""],
    before: Centred,
    v: Float[Array, " k"],
) -> tuple[Centred, Float[Array, " k"]]:
    """The kernel centred at a scaling of the columns: there the greatest entry of each row is about 1.

    Args:
      scores: (N, K).
      log_prior: (N, K) or None.
      epsilon: scalar.
      before: of this, the exponents of the columns count.
      v: (K,) relative to it. Columns without a scaling are left out.

    Returns:
      The kernel, and the powers of two (K,) that scalings relative to the one before are multiplied by.
    """
    shift = _exponent(v)
    of_columns = before.column_exponents + shift
    exponents = residues_and_exponents(scores, log_prior, epsilon)[1]
    live = jnp.where(v > 0, of_columns, -jnp.inf)
    top = (exponents + live[None, :]).max(axis=1)
    held = centred_at(scores, log_prior, epsilon, jnp.where(top == -jnp.inf, 0, -top), live)
    return held._replace(column_exponents=of_columns), _power_of_two(-shift)


def has_drifted(v: Float[Array, " k"]) -> Bool[Array, ""]:
    """Whether the scaling of a column has left what the kernel was centred at by more than `DRIFT`."""
    return ((v > 0) & ((v < 1 / DRIFT) | (v > DRIFT))).any()


def centred_kernel(held: Centred, axis_name: AxisName = None) -> Kernel:
    """The kernel in one array, which the plan is written over; N is a multiple of `rows_a_part(N)`.

    Powers and starts are right where the exponents are all 0.
    """
    values = held.values

    def scaling(wanted: jax.Array, sums: jax.Array, power: jax.Array | None) -> jax.Array:
        return _raised(_ratio(wanted, sums), power)

    return Kernel(
        ones=lambda active: active.astype(values.dtype),
        column_sums=lambda u: total_over(axis_name, _sum_rows(u, values)),
        row_sums=lambda v: jnp.dot(values, v, precision="highest"),
        scaling=scaling,
        times=lambda v, x: v * x,
        shift=lambda sums, x: sums * jnp.exp(jnp.clip(x, -REACHED, REACHED)),
        count=_count_positive,
        product=lambda sums, v: sums * v,
        row_log=lambda u: log_of(Wide(u, held.row_exponents)),
        column_log=lambda v: log_of(Wide(v, held.column_exponents)),
        exp=lambda x: jnp.where(x == -jnp.inf, 0, jnp.exp(jnp.clip(x, -REACHED, REACHED))),
        plan=lambda u, v, sums: _scaled(values, u, v, sums),
    )


def _scaled(
    values: Float[Array, "n k"], u: Float[Array, " n"], v: Float[Array, " k"], sums: Float[Array, " k"]
) -> Float[Array, "n k"]:
    """The product `u[:, None] * values * v[None, :]`, in the place of `values`.

    XLA gives a result a buffer of its own, except that of a loop: so this is a loop of one round. At 1e7 x 16 it saves
    a third of the memory, and most of the time of a fresh plan, which goes into mapping its pages. The last use of
    `values` must come before: hence the loop waits for the `sums`, which are not negative, though XLA cannot know.
    """

    def scale(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return carry[0] * (u[:, None] * v[None, :]), varying_as(jnp.bool_(False), carry[1])

    pending = jnp.logical_not((sums < 0).any())
    return jax.lax.while_loop(lambda carry: carry[1], scale, (values, pending))[0]


def wide_kernel(
    scores: Float[Array, "n k"],
    log_prior: Float[Array, "n k"] | None,
    epsilon: Float[Array, ""],
    active: Bool[Array, "n k"] | None,
    axis_name: AxisName = None,
) -> Kernel:
    """The kernel as residues * 2**exponents; N is a multiple of `rows_a_part(N)`, `active` entries take part.

    Exponents are whole numbers, which add and cancel without rounding, so every entry of the plan keeps the digits of
    its float type. A logarithm of the kernel would not keep them: in float32 one near 2000 is good to 1e-4 only.
    """
    residues, exponents = residues_and_exponents(scores, log_prior, epsilon)
    if active is not None:  # what takes no part is 0 in the kernel, and must not be the greatest term of a sum
        exponents = jnp.where(active, exponents, -jnp.inf)

    def sums(scaling: Wide, axis: int) -> Wide:
        shifted = exponents + jnp.expand_dims(scaling.exponent, 1 - axis)
        top = jnp.max(shifted, axis=axis)
        top = greatest_over(axis_name, top) if axis == 0 else top
        top = jnp.where(top == -jnp.inf, 0, top)
        terms = residues * _power_of_two(shifted - jnp.expand_dims(top, axis))
        if axis == 1:
            return Wide(jnp.dot(terms, scaling.factor, precision="highest"), top)
        return Wide(total_over(axis_name, _sum_rows(scaling.factor, terms)), top)

    def ones(active: jax.Array) -> Wide:
        factor = active.astype(residues.dtype)
        return Wide(factor, jnp.zeros_like(factor))

    return Kernel(
        ones=ones,
        column_sums=partial(sums, axis=0),
        row_sums=partial(sums, axis=1),
        scaling=_wide_scaling,
        times=lambda v, x: Wide(v.factor * x, v.exponent),
        shift=_wide_shift,
        count=lambda v: _count_positive(v.factor),
        product=lambda sums, v: sums.factor * v.factor * _power_of_two(sums.exponent + v.exponent),
        row_log=log_of,
        column_log=log_of,
        exp=wide_exp,
        plan=lambda u, v, _: scaled_entries(residues, exponents, u, v),
    )


def residues_and_exponents(
    scores: Float[Array, "n k"], log_prior: Float[Array, "n k"] | None, epsilon: Float[Array, ""]
) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
    """The kernel as residues * 2**exponents."""
    exponents, rest = _log_kernel(scores, log_prior, epsilon)
    return jnp.exp(rest), exponents


def scaled_entries(
    residues: Float[Array, "n k"], exponents: Float[Array, "n k"], u: Wide, v: Wide
) -> Float[Array, "n k"]:
    """The kernel, scaled."""
    powers = _power_of_two(exponents + (u.exponent[:, None] + v.exponent[None, :]))
    return residues * powers * (u.factor[:, None] * v.factor[None, :])


def log_of(x: Wide) -> Float[Array, "..."]:
    """Logarithm of non-negative numbers, with a gradient of 0 where they are 0."""
    return jnp.where(x.factor > 0, jnp.log(jnp.where(x.factor > 0, x.factor, 1)), -jnp.inf) + x.exponent * math.log(2)


def _wide_scaling(wanted: Float[Array, " m"], sums: Wide, power: Float[Array, ""] | None) -> Wide:
    """Wanted masses over sums, or a power of that; 0 where either is 0."""
    factor = _ratio(wanted, sums.factor)
    exponent = -sums.exponent
    if power is not None:
        leading = _nine_bits(power)
        whole = jax.lax.stop_gradient(jnp.round(exponent * leading))
        rest = (exponent * leading - whole) + exponent * (power - leading)
        factor, exponent = _raised(factor, power) * jnp.exp2(rest), whole
    shift = _exponent(factor)
    return Wide(factor * _power_of_two(-shift), exponent + shift)


def wide_exp(x: Float[Array, " m"]) -> Wide:
    """Exponentials, 0 of -inf."""
    present = x > -jnp.inf
    return _wide_shift(Wide(present.astype(x.dtype), jnp.zeros_like(x)), jnp.where(present, x, 0))


def _wide_shift(numbers: Wide, x: Float[Array, "*m"]) -> Wide:
    exponent = jax.lax.stop_gradient(jnp.round(x / math.log(2)))
    return Wide(numbers.factor * jnp.exp(x - exponent * math.log(2)), numbers.exponent + exponent)


def _log_kernel(
    scores: Float[Array, "n k"], log_prior: Float[Array, "n k"] | None, epsilon: Float[Array, ""]
) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
    """Whole exponents and the rest: the kernel is 2**exponents * exp(rest)."""
    exponents, rest = _exponent_and_rest(scores, epsilon)
    if log_prior is None:
        return exponents, rest
    prior_exponents, prior_rest = _exponent_and_rest(log_prior, jnp.ones((), log_prior.dtype))
    return exponents + prior_exponents, rest + prior_rest


def _exponent_and_rest(
    x: Float[Array, "n k"], unit: Float[Array, ""]
) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
    """Whole exponents and the rest, exp(x / unit) = 2**exponents * exp(rest); no digit of x is lost."""
    doubling = unit * math.log(2)
    exponents = jax.lax.stop_gradient(jnp.round(x * (1 / doubling)))
    # Nine leading bits times a whole number below 2**15 is exact in float32, and so is the first difference.
    leading = _nine_bits(doubling)
    rest = ((x - exponents * leading) - exponents * (doubling - leading)) / unit
    return exponents, jnp.where(exponents == -jnp.inf, 0, rest)


def _nine_bits(x: Float[Array, ""]) -> Float[Array, ""]:
    return jax.lax.stop_gradient(jax.lax.reduce_precision(x, jnp.finfo(x.dtype).nexp, 8))


def _exponent(x: Float[Array, " m"]) -> Float[Array, " m"]:
    """The whole logarithm to base two of positive numbers; 0 for others."""
    x = jax.lax.stop_gradient(x)
    return jnp.round(jnp.log2(jnp.where(x > 0, jnp.maximum(x, jnp.finfo(x.dtype).tiny), 1)))


def _power_of_two(exponent: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """2**exponent of whole exponents, written into the bits of a float; 0 where that is subnormal, never infinite."""
    bits = jnp.finfo(exponent.dtype)
    biased = jnp.clip(exponent + (1 - bits.minexp), 0, bits.maxexp - bits.minexp).astype(f"int{bits.bits}")
    return jax.lax.bitcast_convert_type(biased << bits.nmant, exponent.dtype)


def _sum_rows(weights: Float[Array, " n"], terms: Float[Array, "n k"], at_once: int = 1024) -> Float[Array, " k"]:
    """The product `weights @ terms`, in parts."""
    num_rows, num_columns = terms.shape
    size = rows_a_part(num_rows)
    parts = num_rows // size
    weights, terms = weights.reshape(parts, size), terms.reshape(parts, size, num_columns)
    sums = jnp.einsum("pn,pnk->pk", weights, terms, precision="highest")
    if not isinstance(parts, int) or parts > at_once:
        groups = (parts + at_once - 1) // at_once
        sums = jnp.pad(sums, ((0, groups * at_once - parts), (0, 0)))
        sums = sums.reshape(groups, at_once, num_columns).sum(axis=1)
    return sums.sum(axis=0)


def _ratio(wanted: Float[Array, " m"], sums: Float[Array, " m"]) -> Float[Array, " m"]:
    """Wanted masses over sums; 0, with a gradient of 0, where either is 0."""
    possible = (wanted > 0) & (sums > 0)
    return jnp.where(possible, wanted / jnp.where(possible, sums, 1), 0)


def _count_positive(x: Float[Array, " m"]) -> Int[Array, ""]:
    return ((x > 0) & (x < jnp.inf)).sum(dtype=jnp.int32)


def _raised(x: Float[Array, " m"], power: Float[Array, ""] | None) -> Float[Array, " m"]:
    """A power of non-negative numbers, with a gradient of 0 where they are 0."""
    return x if power is None else jnp.where(x > 0, jnp.where(x > 0, x, 1) ** power, 0)
