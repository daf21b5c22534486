"""GTA: pairs of videos aligned as wholes by a contrastive smooth DTW, and a cycle that must come back to its start.

The statement of the method is that of Hadji, Derpanis and Allan D. Jepson, "Representation Learning via Global
Temporal Alignment and Cycle-Consistency", CVPR 2021; where text and published program differ, both are options and
the defaults are the program's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from casejax.alignment.pairwise import inner_product, mean_of_real, real_pairs, without_padding
from casejax.alignment.soft_min import Minimum, smooth_min
from casejax.alignment.warping import dtw_of_batch
from casejax.array_types import Array, Bool, Float, Int
from casejax.arrays.arguments import check_number, takes

Number = float | Float[Array, ""]
# (log_cycle, targets, *, mask) to one loss a pair of videos, as `cycle_cross_entropy`
Consistency = Callable[..., Float[Array, "*b"]]


class PairLosses(NamedTuple):
    """The three parts of the loss, a value for every pair of sequences.

    Attributes:
      alignment: the accumulated cost of aligning the first sequence with the second.
      reverse: that of aligning the second with the first; another number, as the cost is not symmetric.
      consistency: how far the cycle first -> second -> first ends from where it began.
    """

    alignment: Float[Array, "*b"]
    reverse: Float[Array, "*b"]
    consistency: Float[Array, "*b"]


@takes()
def contrastive_cost(
    x: Float[Array, "*b n d"],
    y: Float[Array, "*b m d"],
    *,
    temperature: Number = 0.1,
    x_mask: Bool[Array, "*b n"] | None = None,
    y_mask: Bool[Array, "*b m"] | None = None,
) -> Float[Array, "*b n m"]:
    """Cost of matching frame i of x with frame j of y: -log softmax over i of the similarity x_i . y_j / temperature.

    Every frame of y chooses among the frames of x, so the costs of a column are negative log-probabilities that sum to
    one. Exchanging x and y is not the same as transposing. Where a similarity is beyond 3.4e38, the range of float32,
    costs and gradients are infinite or NaN.

    Args:
      x: (..., N, D) embeddings, of unit norm where the product is to be a cosine.
      y: (..., M, D) embeddings of the other sequence.
      temperature: gamma_f of the published program, above 0.
      x_mask: True for real frames of x; default all. Others take no part in the softmax.
      y_mask: True for real frames of y; default all.

    Returns:
      (..., N, M) costs, 0 or more; 0 in padded rows and columns.

    Raises:
      ValueError: a temperature that is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> cost = alignment.contrastive_cost(jnp.eye(2), jnp.eye(2), temperature=0.5)
      >>> jnp.exp(-cost).round(2)  # how each frame of y (a column) chooses among those of x
      Array([[0.88, 0.12],
             [0.12, 0.88]], dtype=float32)
    """
    check_number(temperature, "temperature", "be above 0", lambda t: t > 0)
    rows, columns = _rows(x_mask, x.ndim), _columns(y_mask, x.ndim)
    similarity = inner_product(without_padding(x, x_mask), without_padding(y, y_mask))
    similarity = similarity / jnp.asarray(temperature, similarity.dtype)
    similarity = jnp.where(_some(rows, -2), similarity, -jnp.inf)
    total = jax.nn.logsumexp(similarity, axis=-2, keepdims=True)
    real = rows & columns
    return jnp.where(real, total - jnp.where(real, similarity, 0), 0)


def alignment_log_probabilities(
    table: Float[Array, "*b n m"],
    *,
    temperature: Number = 1.0,
    x_mask: Bool[Array, "*b n"] | None = None,
    y_mask: Bool[Array, "*b m"] | None = None,
) -> Float[Array, "*b n m"]:
    """Log-probability that y up to frame j corresponds to x up to frame i.

    Args:
      table: (..., N, M) accumulated costs, `warping.dtw_table`.
      temperature: of the softmax over i; 1 in the published program, whatever the smoothing of the minimum.
      x_mask: True for real frames of x; default all.
      y_mask: True for real frames of y; default all.

    Returns:
      (..., N, M) log-probabilities; the exponentials of a real column sum to 1. -inf wherever a frame is padded.
    """
    rows, columns = _rows(x_mask, table.ndim), _columns(y_mask, table.ndim)
    logits = jnp.where(columns, -table / jnp.asarray(temperature, table.dtype), 0)
    log_probabilities = jax.nn.log_softmax(jnp.where(_some(rows, -2), logits, -jnp.inf), -2)
    return jnp.where(rows & columns, log_probabilities, -jnp.inf)


def cycle_log_probabilities(forth: Float[Array, "*b n m"], back: Float[Array, "*b m n"]) -> Float[Array, "*b n n"]:
    """Log-probability that frame l of x, followed to y and back, arrives at frame i.

    The transposed logarithm of the matrix product A_xy A_yx, safe where both have tiny entries.

    Args:
      forth: (..., N, M) `alignment_log_probabilities` of the table of (x, y).
      back: (..., M, N) those of the table of (y, x).

    Returns:
      (..., N, N) entries (l, i), all finite; the exponentials of a real row sum to 1. A pair of frames that shares no
      partner within the range of floats has the smallest log-probability there is, without a gradient.
    """
    tiny = jnp.finfo(forth.dtype).tiny
    # Only the product's terms relative to the largest of their row and column have to be representable.
    scale_in, scale_out = (
        jax.lax.stop_gradient(jnp.maximum(a.max(axis, keepdims=True), jnp.log(tiny)))
        for a, axis in ((forth, -1), (back, -2))
    )
    product = jnp.einsum(
        "...im,...ml->...li", jnp.exp(forth - scale_in), jnp.exp(back - scale_out), precision="highest"
    )
    log_product = jnp.log(jnp.maximum(product, tiny))
    return log_product + jnp.swapaxes(scale_in, -1, -2) + jnp.swapaxes(scale_out, -1, -2)


@takes()
def cycle_cross_entropy(
    log_cycle: Float[Array, "*b n n"], targets: Float[Array, "*b n n"], *, mask: Bool[Array, "*b n"] | None = None
) -> Float[Array, "*b"]:
    """Cross-entropy of where a cycle ends with where it should, as the paper has it.

    Args:
      log_cycle: (..., N, N) `cycle_log_probabilities`.
      targets: (..., N, N) where each frame should arrive, a distribution in each row.
      mask: True for real frames; default all.

    Returns:
      (...) mean over the real frames.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> undecided = jnp.log(jnp.full((2, 2), 0.5))
      >>> round(float(alignment.cycle_cross_entropy(undecided, jnp.eye(2))), 3)  # log 2
      0.693
    """
    if mask is not None:
        targets = jnp.where(mask[..., None, :], targets, 0)
    return mean_of_real(-(targets * jnp.where(targets > 0, log_cycle, 0)).sum(axis=-1), mask)


@takes()
def cycle_cross_entropy_published(
    log_cycle: Float[Array, "*b n n"], targets: Float[Array, "*b n n"], *, mask: Bool[Array, "*b n"] | None = None
) -> Float[Array, "*b"]:
    """The published program's form: the cycle's probabilities are taken for logits and go through a second softmax.

    With N frames and label smoothing s the value can't fall below log(e + N - 1) - (1 - s + s / N), however good the
    alignment, and its gradient is a few hundredths of that of `cycle_cross_entropy`.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> arrives = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 0.0]])
      >>> round(float(alignment.cycle_cross_entropy_published(arrives, jnp.eye(2))), 3)  # log(e + 1) - 1
      0.313
    """
    if mask is not None:
        log_cycle = jnp.where(mask[..., None] & mask[..., None, :], log_cycle, -jnp.inf)
    logits = jnp.exp(log_cycle)
    if mask is not None:
        logits = jnp.where(_some(mask[..., None, :], -1), logits, -jnp.inf)
    return cycle_cross_entropy(jax.nn.log_softmax(logits, axis=-1), targets, mask=mask)


def _smoothed_identity(mask: Array, smoothing: Number, dtype: jnp.dtype) -> Array:
    """Targets of the cycles: 1 - smoothing on the frame itself, the rest shared out over all real frames."""
    real = mask[..., None, :] & mask[..., :, None]
    count = mask.sum(axis=-1)[..., None, None].astype(dtype)
    smoothing = jnp.asarray(smoothing, dtype)
    identity = jnp.broadcast_to(jnp.eye(mask.shape[-1], dtype=dtype), real.shape)
    return jnp.where(real, (1 - smoothing) * identity + smoothing / jnp.maximum(count, 1), 0)


@takes()
def pair_losses(
    x: Float[Array, "*b n d"],
    y: Float[Array, "*b m d"],
    *,
    x_mask: Bool[Array, "*b n"] | None = None,
    y_mask: Bool[Array, "*b m"] | None = None,
    minimum: Minimum = smooth_min,
    gamma: Number = 0.1,
    temperature: Number = 0.1,
    cycle_temperature: Number = 1.0,
    label_smoothing: Number = 0.1,
    consistency: Consistency = cycle_cross_entropy_published,
    both_ways: bool = False,
) -> PairLosses:
    """Align sequences both ways and ask of every frame to come back to itself.

    Args:
      x: (..., N, D) embeddings of unit norm.
      y: (..., M, D) embeddings of the same action, of unit norm.
      x_mask: True for real frames of x, which come first; default all.
      y_mask: True for real frames of y, which come first; default all.
      minimum: relaxation of the minimum inside DTW; the published choice is `smooth_min`.
      gamma: its smoothing, in units of the cost.
      temperature: of the cosines, `contrastive_cost`.
      cycle_temperature: of the softmax over accumulated costs, `alignment_log_probabilities`.
      label_smoothing: share of the target spread over all frames, in [0, 1].
      consistency: `cycle_cross_entropy_published` or, as the paper has it, `cycle_cross_entropy`.
      both_ways: also take y through x and back, and average the two; the published program starts at x alone.

    Returns:
      The parts of the loss, of shape (...); 0 with zero gradient for a pair of which one has no real frame.

    Raises:
      ValueError: `label_smoothing` outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> losses = alignment.pair_losses(jnp.eye(4), jnp.eye(4), consistency=alignment.cycle_cross_entropy)
      >>> losses._fields, bool(losses.alignment < 0.1)
      (('alignment', 'reverse', 'consistency'), True)
    """
    check_number(label_smoothing, "label_smoothing", "lie in [0, 1]", lambda s: 0 <= s <= 1)
    check_number(cycle_temperature, "cycle_temperature", "be above 0", lambda t: t > 0)
    cost_xy = contrastive_cost(x, y, temperature=temperature, x_mask=x_mask, y_mask=y_mask)
    cost_yx = contrastive_cost(y, x, temperature=temperature, x_mask=y_mask, y_mask=x_mask)
    table_xy = dtw_of_batch(cost_xy, x_mask=x_mask, y_mask=y_mask, minimum=minimum, gamma=gamma, table=True)
    table_yx = dtw_of_batch(cost_yx, x_mask=y_mask, y_mask=x_mask, minimum=minimum, gamma=gamma, table=True)
    forth = alignment_log_probabilities(table_xy, temperature=cycle_temperature, x_mask=x_mask, y_mask=y_mask)
    back = alignment_log_probabilities(table_yx, temperature=cycle_temperature, x_mask=y_mask, y_mask=x_mask)

    def cycle(forth: Array, back: Array, mask: Array | None) -> Array:
        shown = jnp.ones(forth.shape[:-1], bool) if mask is None else mask
        targets = _smoothed_identity(shown, label_smoothing, forth.dtype)
        return consistency(cycle_log_probabilities(forth, back), targets, mask=mask)

    closing = cycle(forth, back, x_mask)
    if both_ways:
        closing = (closing + cycle(back, forth, y_mask)) / 2
    some = real_pairs(x_mask, y_mask)
    parts = _last(table_xy, x_mask, y_mask), _last(table_yx, y_mask, x_mask), closing
    return PairLosses(*(jnp.where(some, part, 0) for part in parts))


def anchor_pairs(num_sequences: int) -> Int[np.ndarray, "p 2"]:
    """The first sequence with every other: the pairs of the published program, which depend on the batch's order.

    Example:
      >>> from casejax import alignment
      >>> alignment.anchor_pairs(3)
      array([[0, 1],
             [0, 2]], dtype=int32)
    """
    return np.array([(0, j) for j in range(1, num_sequences)], np.int32).reshape(-1, 2)


def all_pairs(num_sequences: int) -> Int[np.ndarray, "p 2"]:
    """Every sequence with every later one.

    Example:
      >>> from casejax import alignment
      >>> alignment.all_pairs(3)
      array([[0, 1],
             [0, 2],
             [1, 2]], dtype=int32)
    """
    return np.stack(np.triu_indices(num_sequences, 1), axis=-1).astype(np.int32)


@takes()
def gta_loss(
    embeddings: Float[Array, "b t d"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    pairs: Callable[[int], Int[np.ndarray, "p 2"]] = anchor_pairs,
    skip: int = 1,
    alignment_weight: Number = 0.1,
    reverse_weight: Number = 0.1,
    consistency_weight: Number = 1.0,
    minimum: Minimum = smooth_min,
    gamma: Number = 0.1,
    temperature: Number = 0.1,
    cycle_temperature: Number = 1.0,
    label_smoothing: Number = 0.1,
    consistency: Consistency = cycle_cross_entropy_published,
    both_ways: bool = False,
) -> Float[Array, " p"]:
    """GTA's loss of the pairs of a batch: alignment in both directions and global cycle consistency.

    Args:
      embeddings: (B, T, D) of B >= 2 videos of one action, of unit norm.
      mask: True for real frames, which come first; default all.
      pairs: which videos are aligned, `anchor_pairs` or `all_pairs`.
      skip: of the first video of a pair only every skip-th frame is used.
      alignment_weight: weight of `PairLosses.alignment`.
      reverse_weight: weight of `PairLosses.reverse`.
      consistency_weight: weight of `PairLosses.consistency`.
      minimum: relaxation of the minimum inside DTW.
      gamma: its smoothing.
      temperature: of the cosines.
      cycle_temperature: of the softmax over accumulated costs.
      label_smoothing: share of a cycle's target spread over all frames.
      consistency: the loss of where a cycle ends; as for the five before, see `pair_losses`.
      both_ways: let cycles start at both videos of a pair.

    Returns:
      (P,) losses of the pairs, to be averaged; 0 with zero gradient for a pair with an empty video.

    Raises:
      ValueError: fewer than two videos, a skip below 1, or an option out of its range.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> video = jnp.eye(4)
      >>> same, mixed = jnp.stack([video, video]), jnp.stack([video, video[::-1]])
      >>> bool((alignment.gta_loss(same) < alignment.gta_loss(mixed)).all())
      True
    """
    if len(embeddings) < 2:
        raise ValueError(f"aligning takes two videos or more, got a batch of {len(embeddings)}")
    check_number(skip, "skip", "be 1 or more", lambda s: s >= 1)
    first, second = pairs(len(embeddings)).T
    parts = pair_losses(
        embeddings[first, ::skip],
        embeddings[second],
        x_mask=None if mask is None else mask[first, ::skip],
        y_mask=None if mask is None else mask[second],
        minimum=minimum,
        gamma=gamma,
        temperature=temperature,
        cycle_temperature=cycle_temperature,
        label_smoothing=label_smoothing,
        consistency=consistency,
        both_ways=both_ways,
    )
    weights = alignment_weight, reverse_weight, consistency_weight
    terms = [jnp.asarray(weight, part.dtype) * part for weight, part in zip(weights, parts, strict=True)]
    return terms[0] + terms[1] + terms[2]


def _some(shown: Array, axis: int) -> Array:
    """The mask, but all True where it shows nothing: a softmax over nothing has no gradient."""
    return shown | ~shown.any(axis=axis, keepdims=True)


def _rows(mask: Array | None, ndim: int) -> Array:
    """Mask (..., N, 1) of the rows of a table."""
    return jnp.ones((1,) * ndim, bool) if mask is None else mask[..., :, None]


def _columns(mask: Array | None, ndim: int) -> Array:
    """Mask (..., 1, M) of the columns of a table."""
    return jnp.ones((1,) * ndim, bool) if mask is None else mask[..., None, :]


def _last(table: Array, x_mask: Array | None, y_mask: Array | None) -> Array:
    """The accumulated cost at the last real cell of every table."""
    if x_mask is not None:
        table = jnp.take_along_axis(table, (x_mask.sum(-1) - 1)[..., None, None], axis=-2)
    if y_mask is not None:
        table = jnp.take_along_axis(table, (y_mask.sum(-1) - 1)[..., None, None], axis=-1)
    return table[..., -1, -1]
