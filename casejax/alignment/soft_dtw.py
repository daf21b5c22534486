"""What is made of soft-DTW's costs: a divergence that is 0 between equals, and the barycentre of some sequences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from casejax.alignment.allowed import refuse_holes
from casejax.alignment.pairwise import real_pairs, squared_distance
from casejax.alignment.soft_min import check_gamma
from casejax.alignment.warping import dtw_of_batch
from casejax.array_types import Array, Bool, Float
from casejax.arrays.arguments import check_number, takes

Cost = Callable[..., jax.Array]


class Barycenter(NamedTuple):
    """A sequence between others.

    Attributes:
      frames: (L, D) the barycentre, in units of the sequences.
      losses: (steps + 1,) what is minimised, before every step and after the last; it never rises but by rounding.
    """

    frames: Float[Array, "l d"]
    losses: Float[Array, " s"]


@takes()
def soft_dtw_divergence(
    x: Float[Array, "*b n d"],
    y: Float[Array, "*b m d"],
    *,
    x_mask: Bool[Array, "*b n"] | None = None,
    y_mask: Bool[Array, "*b m"] | None = None,
    gamma: float | Float[Array, ""] = 0.1,
    band: int | None = None,
    cost: Cost = squared_distance,
) -> Float[Array, "*b"]:
    """Soft-DTW of x and y less half that of x with itself and half that of y with itself.

    Soft-DTW alone can be negative, and is least at some other sequence than y itself. The divergence is 0 for x = y;
    that it is positive elsewhere is proven for costs of a certain kind, which squared distances aren't, but holds for
    these as well in all that was tried.

    Args:
      x: (..., N, D) sequences.
      y: (..., M, D) sequences.
      x_mask: True for the real frames of x, which come first; default all.
      y_mask: the same of y.
      gamma: smoothing in units of the cost, 0 or more. At 0 it is hard DTW.
      band: see `dtw`.
      cost: a function (x, y, *, x_mask=None, y_mask=None) that gives (..., N, M).

    Returns:
      (...) divergences in units of the cost; 0 with a gradient of 0 where x or y has no real frame.

    Raises:
      ValueError: as `dtw`.

    References:
      Blondel, Mensch and Vert, "Differentiable Divergences Between Time Series", AISTATS 2021, Eq. 7.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> x, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.0], [3.0]])
      >>> float(alignment.soft_dtw_divergence(x, x)), round(float(alignment.soft_dtw_divergence(x, y, gamma=0.01)), 1)
      (0.0, 2.0)
    """

    def of(a: Array, b: Array, a_mask: Array | None, b_mask: Array | None) -> Array:
        costs = cost(a, b, x_mask=a_mask, y_mask=b_mask)
        return dtw_of_batch(costs, x_mask=a_mask, y_mask=b_mask, gamma=gamma, band=band)

    divergence = of(x, y, x_mask, y_mask) - (of(x, x, x_mask, x_mask) + of(y, y, y_mask, y_mask)) / 2
    return jnp.where(real_pairs(x_mask, y_mask), divergence, 0)


@takes()
def soft_dtw_barycenter(
    sequences: Float[Array, "k m d"],
    *,
    mask: Bool[Array, "k m"] | None = None,
    weights: Float[Array, " k"] | None = None,
    init: Float[Array, "l d"] | None = None,
    length: int | None = None,
    gamma: float | Float[Array, ""] = 1.0,
    num_steps: int = 30,
) -> Barycenter:
    """The sequence z that minimises the weighted mean over sequences y of dtw(|z_i - y_j|^2, gamma) / (frames of y).

    A step goes down the gradient, for each frame as far as is best while the expected alignment stays as it is: frames
    of z become weighted means of the frames that they match. Soft-DTW is concave in the cost, so no step can make the
    loss rise, and none needs a step size. At gamma = 0 this is DTW barycentre averaging. The problem isn't convex;
    where it ends depends on `init`. Differentiable in sequences, weights, init and gamma.

    Args:
      sequences: (K, M, D) sequences.
      mask: True for the real frames of each, which come first; default all.
      weights: (K,) non-negative, normalised to sum to 1; default equal.
      init: (L, D) where to start; default the weighted mean of all sequences, each stretched to `length` frames.
      length: L, frames of the barycentre; default M. Not with `init`, which has its own.
      gamma: smoothing in squared units of the sequences, 0 or more.
      num_steps: steps, a number known at the call.

    Returns:
      The barycentre and its losses in squared units of the sequences; sequences without real frames have no part in it.

    Raises:
      ValueError: shapes that don't fit, an option out of range; and, for values known at the call, NaN, a mask with
        holes or negative weights.

    References:
      Cuturi and Blondel, "Soft-DTW: a Differentiable Loss Function for Time-Series", ICML 2017, Sec. 3.1, for the loss,
      which is minimised there by L-BFGS; Petitjean, Ketterlin and Gancarski, "A global averaging method for dynamic
      time warping", Pattern Recognition 2011, for the step at gamma = 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> sequences = jnp.array([[[0.0], [2.0], [4.0]], [[1.0], [3.0], [5.0]]])
      >>> alignment.soft_dtw_barycenter(sequences, gamma=0.01)[0].round(2).T
      Array([[0.5, 2.5, 4.5]], dtype=float32)
    """
    check_gamma(gamma)
    if sequences.ndim != 3 or 0 in sequences.shape:
        raise ValueError(f"sequences must be (K, M, D) with a sequence and a frame or more, got {sequences.shape}")
    if init is not None and length is not None:
        raise ValueError(f"init has its own number of frames; leave out length={length}")
    for name, number, least in (("length", length, 1), ("num_steps", num_steps, 0)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
            raise ValueError(f"{name} must be a whole number from {least}, got {number}")
    count, size, width = sequences.shape
    weights = jnp.ones(count, sequences.dtype) if weights is None else weights
    if weights.shape != (count,):
        raise ValueError(f"weights must have shape ({count},), a number a sequence, got {weights.shape}")
    if not isinstance(weights, jax.core.Tracer):
        for k, weight in enumerate(weights.tolist()):
            check_number(weight, f"weights[{k}]", "be 0 or more and finite", lambda w: 0 <= w < float("inf"))
    if mask is not None and mask.shape != (count, size):
        raise ValueError(f"mask must have shape {(count, size)}, got {mask.shape}")
    if mask is not None:
        refuse_holes(mask, "mask")
    frames = jnp.full(count, size) if mask is None else mask.sum(axis=-1)
    if mask is not None:
        sequences = jnp.where(mask[..., None], sequences, 0)
    weights = jnp.where(frames > 0, weights.astype(sequences.dtype), 0)
    if not isinstance(weights, jax.core.Tracer) and not weights.sum() > 0:
        raise ValueError("no sequence has both a real frame and a weight above 0; there is nothing to be between")
    weights = weights / weights.sum()
    if init is None:
        init = jnp.einsum("k,kld->ld", weights, _stretched(sequences, frames, size if length is None else length))
    else:
        init = init.astype(sequences.dtype)
        if init.ndim != 2 or init.shape[1] != width or not len(init):
            raise ValueError(f"init must be (L, {width}) with a frame or more, got {init.shape}")
    weights = weights / jnp.maximum(frames, 1).astype(weights.dtype)
    return _descend(sequences, mask, weights, init, jnp.asarray(gamma, sequences.dtype), num_steps)


@partial(jax.jit, static_argnames="num_steps")
def _descend(
    sequences: jax.Array,
    mask: jax.Array | None,
    weights: jax.Array,
    init: jax.Array,
    gamma: jax.Array,
    num_steps: int,
) -> Barycenter:
    def loss(costs: jax.Array) -> jax.Array:
        return (weights * dtw_of_batch(costs, y_mask=mask, gamma=gamma)).sum()

    def costs(frames: jax.Array) -> jax.Array:
        return squared_distance(jnp.broadcast_to(frames, (len(sequences), *frames.shape)), sequences)

    def step(frames: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        before, matched = jax.value_and_grad(loss)(costs(frames))  # how likely frames are matched, times the weights
        means = jnp.einsum("klm,kmd->ld", matched, sequences, precision="highest")
        return means / matched.sum(axis=(0, 2))[:, None], before

    frames, losses = jax.lax.scan(step, init, length=num_steps)
    return Barycenter(frames, jnp.append(losses, loss(costs(frames))))


def _stretched(sequences: jax.Array, frames: jax.Array, length: int) -> jax.Array:
    """Each sequence at L places from its first to its last real frame, between frames linearly."""
    last = jnp.maximum(frames - 1, 0)[:, None]
    place = jnp.linspace(0, 1, length, dtype=sequences.dtype)[None] * last.astype(sequences.dtype)
    left = jnp.minimum(jnp.floor(place).astype(jnp.int32), jnp.maximum(last - 1, 0))
    share = (place - left.astype(place.dtype))[..., None]
    of_left, of_right = (jnp.take_along_axis(sequences, jnp.minimum(left + k, last)[..., None], axis=1) for k in (0, 1))
    return of_left + share * (of_right - of_left)
