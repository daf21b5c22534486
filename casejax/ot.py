"""Entropic optimal transport between snippets and clusters, and the priors it is given.

The self-labels of CASE (Liu et al., "Revisiting Foreground and Background Separation in Weakly-supervised
Temporal Action Localization", ICCV 2023) are transport plans. Everything here is a pure function of arrays;
this module needs jax alone and can be lifted into any other code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Bool, Float, Int, Num

JUDGED_AT = 1e-4
"""Marginal error up to which `converged` is true where no tolerance was asked for."""


class SinkhornOutput(NamedTuple):
    """A transport plan with the evidence of how far the iteration got.

    `plan[n, k] = exp(row_potential[n] + column_potential[k] + scores[n, k] / epsilon + log_prior[n, k])`.

    Attributes:
      plan: (N, K), the mass that goes from row n to column k.
      row_potential: (N,), log-scaling of the rows; 0 for rows without mass.
      column_potential: (K,), log-scaling of the columns; -inf for columns without mass.
      iterations: updates of both sides that were done.
      row_error: L1 distance of the plan's row sums to the row marginal, as a share of the whole mass.
      column_error: the same of the columns. Rows are scaled last, so after a truncated iteration it is
        this one that is left over.
      converged: both errors are at most `tolerance` (1e-4 where none was given).
    """

    plan: Float[Array, "n k"]
    row_potential: Float[Array, " n"]
    column_potential: Float[Array, " k"]
    iterations: Int[Array, ""]
    row_error: Float[Array, ""]
    column_error: Float[Array, ""]
    converged: Bool[Array, ""]


def sinkhorn(
    scores: Num[ArrayLike, "n k"],
    *,
    log_prior: Float[ArrayLike, "n k"] | None = None,
    row_marginal: Num[ArrayLike, " n"] | None = None,
    column_marginal: Num[ArrayLike, " k"] | None = None,
    mask: Bool[ArrayLike, " n"] | None = None,
    epsilon: float | Float[Array, ""] = 0.05,
    num_iters: int = 3,
    tolerance: float | None = None,
) -> SinkhornOutput:
    """Sinkhorn iteration towards the plan of maximal score with given marginals.

    Solves `max <Q, scores> - epsilon KL(Q, prior)` over plans Q with the given marginals (Eqs. 7-10, 12 and
    22-29 of CASE; with a flat prior the usual entropic problem). One iteration scales the columns, then the
    rows (Alg. 1), so the row marginal is exact and the column marginal is met only as far as the iteration
    got. The `num_iters=3` of the paper is a truncated iteration; it depends on constants added to single
    rows, which a converged plan does not.

    A row or column of zero mass takes no part: its plan entries are 0, and its scores, whatever they are
    (NaN too), change neither a value nor a gradient.

    Scores may lie anywhere within ±1e4 epsilon and log priors within ±1e4: nothing overflows, as in the log
    domain, and in float32 every entry of the plan above 1e-30 is within 1e-5 of its own exact value.

    Differentiable through the unrolled iteration where `tolerance` is None; wrap the result in
    `jax.lax.stop_gradient` where a plan serves as a label. Batches: `jax.vmap`.

    Args:
      scores: (N, K) similarity of rows to columns, higher is better. float32 or float64 is kept; other
        types are computed in float32.
      log_prior: (N, K) logarithm of the prior plan, up to a constant; -inf forbids an entry.
      row_marginal: (N,) non-negative mass of the rows; default 1 each.
      column_marginal: (K,) non-negative proportions of the columns, scaled here to the mass of the rows;
        default equipartition, N/K each (Eq. 9).
      mask: (N,) True for rows that take part; default all.
      epsilon: entropic strength in units of `scores`, as in OTT and POT. The printed epsilon of 20 of the
        CASE paper is `1 / 20` here.
      num_iters: iterations, or with a tolerance the most of them; static, at least 1.
      tolerance: stop once both marginal errors are at most this (a `lax.while_loop`: forward mode only).

    Returns:
      The plan, both log-potentials, iterations done, both marginal errors and whether they are small.

    Raises:
      ValueError: `scores` is not a matrix with K >= 1, another array does not fit it, or `epsilon`,
        `num_iters` or `tolerance` is out of range.

    References:
      Cuturi, "Sinkhorn Distances", NeurIPS 2013.
    """
    scores = jnp.asarray(scores)
    _check_problem(scores, log_prior, row_marginal, column_marginal, mask, epsilon, num_iters, tolerance)
    return _solve(scores, log_prior, row_marginal, column_marginal, mask, epsilon, num_iters, tolerance)


@partial(jax.jit, static_argnames="num_iters")
def _solve(
    scores: jax.Array,
    log_prior: ArrayLike | None,
    row_marginal: ArrayLike | None,
    column_marginal: ArrayLike | None,
    mask: ArrayLike | None,
    epsilon: ArrayLike,
    num_iters: int,
    tolerance: ArrayLike | None,
) -> SinkhornOutput:
    dtype = scores.dtype if scores.dtype in (jnp.float32, jnp.float64) else jnp.dtype(jnp.float32)
    num_rows, num_columns = scores.shape
    rows = jnp.ones(num_rows, dtype) if row_marginal is None else jnp.asarray(row_marginal, dtype)
    if mask is not None:
        rows = jnp.where(mask, rows, 0)
    mass = rows.sum()
    if column_marginal is None:
        columns = equipartition(num_columns, mass)
    else:
        columns = jnp.asarray(column_marginal, dtype)
        columns = columns * _divide(mass, columns.sum())

    scores, epsilon = scores.astype(dtype), jnp.asarray(epsilon, dtype)
    active = (rows > 0)[:, None]
    if column_marginal is not None:
        active = active & (columns > 0)[None, :]
    restricted = not (mask is None and row_marginal is None and column_marginal is None)
    # The kernel exp(scores / epsilon + log_prior) is held as residues * 2**exponents. Exponents are whole numbers,
    # which add and cancel without rounding, so every entry of the plan keeps the digits of its float type. A
    # logarithm of the kernel would not keep them: in float32 one near 2000 is good to 1e-4 only.
    exponents, rest = _exponent_and_rest(jnp.where(active, scores, 0) if restricted else scores, epsilon)
    if log_prior is not None:
        log_prior = jnp.asarray(log_prior, dtype)
        log_prior = jnp.where(active, log_prior, 0) if restricted else log_prior
        prior_exponents, prior_rest = _exponent_and_rest(log_prior, jnp.ones((), dtype))
        exponents, rest = exponents + prior_exponents, rest + prior_rest
    residues = jnp.exp(rest)
    if restricted:  # what takes no part is 0 in the kernel, and so in the plan
        exponents = jnp.where(active, exponents, -jnp.inf)

    def sums(scaling: _Wide, axis: int) -> _Wide:
        """Column sums (axis 0) of the kernel with scaled rows, or row sums (axis 1) with scaled columns."""
        shifted = exponents + jnp.expand_dims(scaling.exponent, 1 - axis)
        top = jnp.max(shifted, axis=axis)
        top = jnp.where(top == -jnp.inf, 0, top)
        terms = residues * _power_of_two(shifted - jnp.expand_dims(top, axis))
        if axis == 0:
            return _Wide(_sum_rows(scaling.factor, terms), top)
        return _Wide(jnp.dot(terms, scaling.factor, precision="highest"), top)

    Carry = tuple[_Wide, _Wide, _Wide, jax.Array]

    def iterate(carry: Carry) -> Carry:
        column_sums, _, _, done = carry
        v = _scaling(columns, column_sums)
        u = _scaling(rows, sums(v, axis=1))
        return sums(u, axis=0), u, v, done + 1

    def column_error(reached: jax.Array) -> jax.Array:
        return _divide(jnp.abs(reached - columns).sum(), mass)

    def carried_error(carry: Carry) -> jax.Array:
        column_sums, _, v, _ = carry
        return column_error(column_sums.factor * v.factor * _power_of_two(column_sums.exponent + v.exponent))

    u, v = (_Wide(jnp.ones_like(x), jnp.zeros_like(x)) for x in (rows, columns))
    carry = (sums(u, axis=0), u, v, jnp.int32(0))
    if tolerance is None:
        carry = jax.lax.fori_loop(0, num_iters, lambda _, c: iterate(c), carry, unroll=num_iters <= 4)
    else:

        def unfinished(carry: Carry) -> jax.Array:
            return (carry[3] < num_iters) & (carried_error(carry) > tolerance)

        carry = jax.lax.while_loop(unfinished, iterate, iterate(carry))
    _, u, v, done = carry

    powers = _power_of_two(exponents + (u.exponent[:, None] + v.exponent[None, :]))
    plan = residues * powers * (u.factor[:, None] * v.factor[None, :])
    # Without a tolerance nothing else asks for the last column sums, and those of the plan are cheaper.
    error = column_error(plan.sum(axis=0)) if tolerance is None else carried_error(carry)
    # Rows without an allowed entry cannot be met, whatever the iteration does; all others are exact.
    row_error = _divide(jnp.where(u.factor > 0, 0, rows).sum(), mass)
    judged_at = JUDGED_AT if tolerance is None else tolerance
    return SinkhornOutput(
        plan=plan,
        row_potential=_log_or_zero(u),
        column_potential=jnp.where(columns > 0, _log_or_zero(v), -jnp.inf),
        iterations=done,
        row_error=row_error,
        column_error=error,
        converged=(error <= judged_at) & (row_error <= judged_at) & (mass > 0),
    )


def equipartition(num_columns: int, mass: float | Float[Array, ""] = 1.0) -> Float[Array, " k"]:
    """The column marginal that gives every column the same share (Eq. 9 of CASE): mass / K each."""
    return jnp.full(num_columns, jnp.asarray(mass) / num_columns)


def foreground_marginal(
    labels: Float[ArrayLike, "*n"], *, mask: Bool[ArrayLike, "*n"] | None = None, floor: float = 0.0
) -> Float[Array, "2"]:
    """The shares of foreground and background among snippet labels (Eq. 13 of CASE).

    Args:
      labels: Q^A, any shape, 1 for foreground, 0 for background.
      mask: True for real snippets; default all. Without a real snippet both shares are 1/2.
      floor: least share of either, for data where one side can vanish.

    Returns:
      (2,) shares of foreground and background; they sum to 1.
    """
    labels = jnp.asarray(labels)
    if mask is None:
        foreground = labels.mean()
    else:
        count = jnp.asarray(mask).sum()
        total = jnp.where(mask, labels, 0).sum()
        foreground = jnp.where(count > 0, total / jnp.maximum(count, 1), 0.5)
    foreground = jnp.clip(foreground, floor, 1 - floor)
    return jnp.stack([foreground, 1 - foreground])


def ascending_rank(attention: Float[ArrayLike, " n"], mask: Bool[ArrayLike, " n"] | None = None) -> Float[Array, " n"]:
    """Rank of each snippet by foreground probability, as a share: the least gets 1/N, the greatest 1.

    Equal values rank in their order. Masked snippets are not counted; what stands at their place has no
    meaning.
    """
    attention = jnp.asarray(attention)
    keys = attention if mask is None else jnp.where(mask, attention, jnp.inf)
    order = jnp.argsort(keys, stable=True)
    rank = jnp.zeros(order.shape, order.dtype).at[order].set(jnp.arange(1, len(order) + 1, dtype=order.dtype))
    return _share(rank, mask, attention.dtype)


def published_rank(attention: Float[ArrayLike, " n"], mask: Bool[ArrayLike, " n"] | None = None) -> Float[Array, " n"]:
    """What the published program uses in the place of a rank: the sorting permutation itself.

    Entry n is one less the index of the n-th most attended snippet, as a share of N. It carries no
    information on snippet n, and is here to reproduce published runs.
    """
    attention = jnp.asarray(attention)
    keys = -attention if mask is None else jnp.where(mask, -attention, jnp.inf)
    return 1 - _share(jnp.argsort(keys, stable=True) + 1, mask, attention.dtype)


def gaussian_rank_prior(
    attention: Float[ArrayLike, " n"],
    cluster_foreground: Float[ArrayLike, " k"],
    *,
    std: float | Float[Array, ""] = 10.0,
    rank: Callable[..., jax.Array] = ascending_rank,
    mask: Bool[ArrayLike, " n"] | None = None,
) -> Float[Array, "n k"]:
    """Log density that ties snippets of high rank to clusters of high foreground probability.

    Eq. 11 of CASE: `log N(rank_n / N; Q^C_k1, std)`. With the published std of 10 it is all but flat,
    since both numbers lie in [0, 1]; 0.1 to 0.5 acts.

    Args:
      attention: (N,) foreground probability of the snippets, P^A.
      cluster_foreground: (K,) foreground probability of the clusters, Q^C_{:,1}.
      std: standard deviation, in units of the normalised rank; positive.
      rank: `ascending_rank`, `published_rank`, or any function of (attention, mask) to [0, 1]; with
        `lambda p, mask: p` the attention stands for the rank (appendix C.3).
      mask: True for real snippets; default all.

    Returns:
      (N, K) log density.

    Raises:
      ValueError: `std` is a number and not positive.
    """
    if isinstance(std, int | float) and not std > 0:
        raise ValueError(f"std must be positive, got {std}")
    attention = jnp.asarray(attention)
    std = jnp.asarray(std, attention.dtype)
    distance = rank(attention, mask)[:, None] - jnp.asarray(cluster_foreground, attention.dtype)[None, :]
    return -0.5 * (distance / std) ** 2 - jnp.log(std * math.sqrt(2 * math.pi))


def _share(rank: Int[Array, " n"], mask: Bool[ArrayLike, " n"] | None, dtype: jnp.dtype) -> Float[Array, " n"]:
    count = jnp.asarray(len(rank)) if mask is None else jnp.maximum(jnp.asarray(mask).sum(), 1)
    return rank.astype(dtype) / count.astype(dtype)


class _Wide(NamedTuple):
    """The numbers `factor * 2**exponent`; exponents are whole, held in floats, and have no derivative."""

    factor: Float[Array, " m"]
    exponent: Float[Array, " m"]


def _exponent_and_rest(
    x: Float[Array, "n k"], unit: Float[Array, ""]
) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
    """Whole exponents and what is left, exp(x / unit) = 2**exponents * exp(rest), without a digit of x lost."""
    doubling = unit * math.log(2)
    exponents = jax.lax.stop_gradient(jnp.round(x * (1 / doubling)))
    # Nine leading bits times a whole number below 2**15 is exact in float32, and so is the first difference.
    bits = jnp.finfo(x.dtype)
    leading = jax.lax.stop_gradient(jax.lax.reduce_precision(doubling, bits.nexp, 8))
    rest = ((x - exponents * leading) - exponents * (doubling - leading)) / unit
    return exponents, jnp.where(exponents == -jnp.inf, 0, rest)


def _power_of_two(exponent: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """2**exponent of whole exponents, written into the bits of a float; 0 where that would be subnormal."""
    bits = jnp.finfo(exponent.dtype)
    biased = jnp.maximum(exponent + (1 - bits.minexp), 0).astype(f"int{bits.bits}")
    return jax.lax.bitcast_convert_type(biased << bits.nmant, exponent.dtype)


def _sum_rows(weights: Float[Array, " n"], terms: Float[Array, "n k"], parts: int = 64) -> Float[Array, " k"]:
    """The product `weights @ terms`, in parts: of 1e5 float32 numbers added in a row, the sum is good to 1e-5 only."""
    missing = -len(weights) % parts
    weights = jnp.pad(weights, (0, missing)).reshape(parts, -1)
    terms = jnp.pad(terms, ((0, missing), (0, 0))).reshape(parts, -1, terms.shape[1])
    return jnp.einsum("pn,pnk->pk", weights, terms, precision="highest").sum(axis=0)


def _scaling(wanted: Float[Array, " m"], sums: _Wide) -> _Wide:
    """What takes sums to what is wanted; 0 where there is nothing to scale."""
    factor = wanted / jnp.where(sums.factor == 0, jnp.inf, sums.factor)
    exponent = jnp.round(jnp.log2(jnp.maximum(jax.lax.stop_gradient(factor), jnp.finfo(factor.dtype).tiny)))
    return _Wide(factor * _power_of_two(-exponent), exponent - sums.exponent)


def _log_or_zero(x: _Wide) -> Float[Array, " m"]:
    positive = x.factor > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, x.factor, 1)) + x.exponent * math.log(2), 0)


def _divide(x: Float[Array, ""], y: Float[Array, ""]) -> Float[Array, ""]:
    """Ratio that is 0 where the denominator is."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0)


def _check_problem(
    scores: Array,
    log_prior: ArrayLike | None,
    row_marginal: ArrayLike | None,
    column_marginal: ArrayLike | None,
    mask: ArrayLike | None,
    epsilon: object,
    num_iters: int,
    tolerance: object,
) -> None:
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"scores must be (N, K) with N, K >= 1, got shape {scores.shape}; vmap over batches")
    num_rows, num_columns = scores.shape
    wanted = {
        "log_prior": (log_prior, (num_rows, num_columns)),
        "row_marginal": (row_marginal, (num_rows,)),
        "column_marginal": (column_marginal, (num_columns,)),
        "mask": (mask, (num_rows,)),
    }
    for name, (value, shape) in wanted.items():
        if value is not None and jnp.shape(value) != shape:
            raise ValueError(f"{name} must have shape {shape} for scores of {scores.shape}, got {jnp.shape(value)}")
    if isinstance(epsilon, int | float) and not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
    if not isinstance(num_iters, int) or num_iters < 1:
        raise ValueError(f"num_iters must be an integer of at least 1, got {num_iters!r}")
    if isinstance(tolerance, int | float) and not tolerance > 0:
        raise ValueError(f"tolerance must be positive or None, got {tolerance}")
