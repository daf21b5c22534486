"""TCC: a frame, followed to its soft nearest neighbour in another video and back, must come out where it began.

Dwibedi et al., "Temporal Cycle-Consistency Learning", CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from casejax.alignment.pairwise import mean_of_real, squared_distance, without_padding
from casejax.array_types import Array, Bool, Float, Int
from casejax.arrays.arguments import check_index, check_number, takes

Similarity = Callable[[Float[Array, "*b n d"], Float[Array, "*b m d"]], Float[Array, "*b n m"]]
# (log_probabilities, start, times, *, mask) to one loss a cycle, as the four below
CycleLoss = Callable[..., Float[Array, "*b"]]

PADDED = -1e30
"""Logit of padded frames: finite, so that a video without a real frame has no NaN, and zero behind any softmax."""


@takes()
def negative_squared_distance(x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
    """The similarity of TCC's experiments, which call it l2; what they call cosine is `inner_product`.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> alignment.negative_squared_distance(jnp.array([[1.0, 0.0], [3.0, 4.0]]), jnp.zeros((1, 2)))
      Array([[ -1.],
             [-25.]], dtype=float32)
    """
    return -squared_distance(x, y)


@takes()
def classification(
    log_probabilities: Float[Array, "*b t"],
    start: Bool[Array, "*#b t"],
    times: Float[Array, "*#b t"],
    *,
    mask: Bool[Array, "*#b t"],
    label_smoothing: float | Float[Array, ""] = 0.1,
) -> Float[Array, "*b"]:
    """Cross-entropy of the frame where a cycle ends with the one where it began.

    Args:
      log_probabilities: (..., T) of ending at each frame.
      start: (..., T) True at the frame where the cycle began.
      times: not used.
      mask: (..., T) True for real frames.
      label_smoothing: share of the target spread evenly over all real frames.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> ends, start = jnp.log(jnp.array([0.5, 0.5])), jnp.array([True, False])
      >>> round(float(alignment.classification(ends, start, jnp.arange(2.0), mask=jnp.ones(2, bool))), 3)  # log 2
      0.693
    """
    log_probabilities = jnp.where(mask, log_probabilities, 0)
    hit = jnp.where(start, log_probabilities, 0).sum(axis=-1)
    mean = log_probabilities.sum(axis=-1) / jnp.maximum(mask.sum(axis=-1), 1).astype(log_probabilities.dtype)
    label_smoothing = jnp.asarray(label_smoothing, mean.dtype)
    return -(1 - label_smoothing) * hit - label_smoothing * mean


@takes()
def regression_mse(
    log_probabilities: Float[Array, "*b t"],
    start: Bool[Array, "*#b t"],
    times: Float[Array, "*#b t"],
    *,
    mask: Bool[Array, "*#b t"],
) -> Float[Array, "*b"]:
    """Squared difference between the time a cycle begins and the mean time at which it ends.

    Args:
      log_probabilities: (..., T) of ending at each frame.
      start: (..., T) True at the frame where the cycle began.
      times: (..., T) the frames' times.
      mask: (..., T) True for real frames.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> ends, start = jnp.log(jnp.array([0.5, 0.5])), jnp.array([True, False])
      >>> float(alignment.regression_mse(ends, start, jnp.arange(2.0), mask=jnp.ones(2, bool)))
      0.25
    """
    error, _ = _error_and_variance(log_probabilities, start, times, mask)
    return error**2


@takes()
def regression_mse_var(
    log_probabilities: Float[Array, "*b t"],
    start: Bool[Array, "*#b t"],
    times: Float[Array, "*#b t"],
    *,
    mask: Bool[Array, "*#b t"],
    variance_weight: float | Float[Array, ""] = 0.001,
    smallest_variance: float = 1e-12,
) -> Float[Array, "*b"]:
    """`regression_mse` relative to the variance of the time at which a cycle ends, and a penalty on that variance.

    Args:
      log_probabilities: (..., T) of ending at each frame.
      start: (..., T) True at the frame where the cycle began.
      times: (..., T) the frames' times.
      mask: (..., T) True for real frames.
      variance_weight: weight of the variance's logarithm.
      smallest_variance: below it the variance counts as this, without a gradient; the published program has no
        such bound and divides by zero where a cycle ends for certain.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> ends, start, mask = jnp.log(jnp.array([0.5, 0.5])), jnp.array([True, False]), jnp.ones(2, bool)
      >>> loss = alignment.regression_mse_var(ends, start, jnp.arange(2.0), mask=mask, variance_weight=0.0)
      >>> float(loss)  # squared difference 0.25, variance 0.25
      1.0
    """
    error, variance = _error_and_variance(log_probabilities, start, times, mask)
    variance = jnp.maximum(variance, jnp.asarray(smallest_variance, variance.dtype))
    return error**2 / variance + jnp.asarray(variance_weight, error.dtype) * jnp.log(variance)


@takes()
def regression_huber(
    log_probabilities: Float[Array, "*b t"],
    start: Bool[Array, "*#b t"],
    times: Float[Array, "*#b t"],
    *,
    mask: Bool[Array, "*#b t"],
    delta: float | Float[Array, ""] = 0.1,
) -> Float[Array, "*b"]:
    """Half the squared difference of `regression_mse`, but linear where the times differ by more than `delta`.

    Args:
      log_probabilities: (..., T) of ending at each frame.
      start: (..., T) True at the frame where the cycle began.
      times: (..., T) the frames' times.
      mask: (..., T) True for real frames.
      delta: in units of `times`.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> ends, start = jnp.log(jnp.array([0.5, 0.5])), jnp.array([True, False])
      >>> loss = alignment.regression_huber(ends, start, jnp.arange(2.0), mask=jnp.ones(2, bool), delta=0.1)
      >>> round(float(loss), 3)  # 0.1 (0.5 - 0.1 / 2)
      0.045
    """
    error, _ = _error_and_variance(log_probabilities, start, times, mask)
    error, delta = jnp.abs(error), jnp.asarray(delta, error.dtype)
    return jnp.where(error <= delta, error**2 / 2, delta * error - delta**2 / 2)


def cycle_back_logits(
    queries: Float[Array, "c q d"],
    embeddings: Float[Array, "b t d"],
    cycles: Int[Array | np.ndarray, "c l"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    similarity: Similarity = negative_squared_distance,
    temperature: float | Float[Array, ""] = 0.1,
) -> Float[Array, "c q t"]:
    """Walk from frames of a video through others, from one soft nearest neighbour to the next, and back.

    Args:
      queries: (C, Q, D) where each cycle starts.
      embeddings: (B, T, D), zero or whatever else is finite in padded frames.
      cycles: (C, L + 1) the videos of each cycle; the queries' first, and last again.
      mask: True for real frames; default all.
      similarity: `negative_squared_distance` or `inner_product`; divided by D times the temperature.
      temperature: of the softmax over frames, above 0.

    Returns:
      (C, Q, T) logits of ending at each frame of the first video.
    """

    def logits(queries: Array, videos: Array | np.ndarray) -> Array:
        scaled = similarity(queries, embeddings[videos]) / jnp.asarray(
            embeddings.shape[-1] * temperature, embeddings.dtype
        )
        return scaled if mask is None else jnp.where(mask[videos][:, None, :], scaled, PADDED)

    *stops, end = cycles[:, 1:].T
    for videos in stops:
        nearest = jax.nn.softmax(logits(queries, videos), axis=-1)
        queries = jnp.einsum("cqt,ctd->cqd", nearest, embeddings[videos], precision="highest")
    return logits(queries, end)


@takes()
def tcc_loss(
    embeddings: Float[Array, "b t d"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    times: Float[Array, "b t"] | None = None,
    loss: CycleLoss = regression_mse_var,
    similarity: Similarity = negative_squared_distance,
    temperature: float | Float[Array, ""] = 0.1,
) -> Float[Array, " p"]:
    """TCC's loss in its usual, deterministic form: cycles of two from every frame, for all pairs of videos.

    The defaults are those of the published experiments; the published function itself defaults to classification.

    Args:
      embeddings: (B, T, D) of B >= 2 videos of one action; not normalised in the published experiments.
      mask: True for real frames, one or more a video; default all.
      times: (B, T) when each frame was, in whatever unit the regression shall have. Published: its index in the
        video divided by the video's length. Default: its place among the T frames divided by the number of real ones.
      loss: of a cycle: `regression_mse_var`, `regression_mse`, `regression_huber` or `classification`; their options
        by `functools.partial`.
      similarity: of two frames, `negative_squared_distance` or `inner_product`.
      temperature: similarities are divided by D times this.

    Returns:
      (P,) losses of the B (B - 1) ordered pairs, each the mean over the real frames of its first video; to be averaged.

    Raises:
      ValueError: fewer than two videos, or a temperature that is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> video = 10 * jnp.arange(4.0)[:, None]
      >>> alignment.tcc_loss(jnp.stack([video, video]), loss=alignment.regression_mse).round(3)
      Array([0., 0.], dtype=float32)
    """
    num_videos, num_frames, _ = embeddings.shape
    if num_videos < 2:
        raise ValueError(f"a cycle takes two videos or more, got a batch of {num_videos}")
    first, second = np.nonzero(~np.eye(num_videos, dtype=bool))
    cycles = np.stack([first, second, first], axis=1).astype(np.int32)
    starts = jnp.eye(num_frames, dtype=bool)[None]
    clean = without_padding(embeddings, mask)
    losses = _cycle_losses(clean[first], starts, clean, cycles, mask, times, loss, similarity, temperature)
    return mean_of_real(losses, None if mask is None else mask[first])


@takes()
def stochastic_tcc_loss(
    embeddings: Float[Array, "b t d"],
    cycles: Int[Array | np.ndarray, "c l"],
    starts: Int[Array | np.ndarray, " c"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    times: Float[Array, "b t"] | None = None,
    loss: CycleLoss = regression_mse_var,
    similarity: Similarity = negative_squared_distance,
    temperature: float | Float[Array, ""] = 0.1,
) -> Float[Array, " c"]:
    """TCC's loss of some random cycles, which may pass through more than two videos.

    Args:
      embeddings: (B, T, D) of videos of one action.
      cycles: (C, L + 1) the videos of each cycle, the last is the first; `sampling.random_cycles`.
      starts: (C,) the frames from which they start.
      mask: True for real frames; default all.
      times: (B, T) when each frame was, as in `tcc_loss`.
      loss: of a cycle, as in `tcc_loss`.
      similarity: of two frames, `negative_squared_distance` or `inner_product`.
      temperature: similarities are divided by D times this.

    Returns:
      (C,) losses of the cycles, to be averaged.

    Raises:
      ValueError: cycles of fewer than two videos, or a temperature that is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> video = 10 * jnp.arange(4.0)[:, None]
      >>> videos, cycles, starts = jnp.stack([video] * 3), jnp.array([[0, 1, 2, 0]]), jnp.array([2])
      >>> alignment.stochastic_tcc_loss(videos, cycles, starts, loss=alignment.regression_mse).round(3)
      Array([0.], dtype=float32)
    """
    if cycles.shape[1] < 3:
        raise ValueError(f"a cycle needs two videos and the first again, got cycles of shape {cycles.shape}")
    check_index(cycles, "cycles", embeddings.shape[0])
    check_index(starts, "starts", embeddings.shape[1])
    clean = without_padding(embeddings, mask)
    queries = clean[cycles[:, 0], starts][:, None, :]
    at_start = jnp.arange(embeddings.shape[1])[None, None, :] == jnp.asarray(starts)[:, None, None]
    return _cycle_losses(queries, at_start, clean, cycles, mask, times, loss, similarity, temperature)[:, 0]


def _cycle_losses(
    queries: Array,
    starts: Array,
    embeddings: Array,
    cycles: Array | np.ndarray,
    mask: Array | None,
    times: Array | None,
    loss: CycleLoss,
    similarity: Similarity,
    temperature: float | Array,
) -> Array:
    """(C, Q) losses of the cycles from (C, Q, D) queries that stand at `starts`, (C or 1, Q, T)."""
    check_number(temperature, "temperature", "be above 0", lambda t: t > 0)
    logits = cycle_back_logits(queries, embeddings, cycles, mask=mask, similarity=similarity, temperature=temperature)
    shown = jnp.ones(embeddings.shape[:2], bool) if mask is None else mask
    if times is None:
        count = jnp.maximum(shown.sum(axis=1, keepdims=True), 1)
        times = jnp.arange(embeddings.shape[1], dtype=embeddings.dtype)[None] / count.astype(embeddings.dtype)
    times = jnp.where(shown, times, 0)
    home = cycles[:, 0]
    return loss(jax.nn.log_softmax(logits), starts, times[home][:, None, :], mask=shown[home][:, None, :])


def _error_and_variance(log_probabilities: Array, start: Array, times: Array, mask: Array) -> tuple[Array, Array]:
    """How far the mean time of a cycle's end is from its start, and the variance of that time."""
    probabilities, times = jnp.exp(jnp.where(mask, log_probabilities, -jnp.inf)), jnp.where(mask, times, 0)
    mean = (probabilities * times).sum(axis=-1, keepdims=True)
    variance = (probabilities * (times - mean) ** 2).sum(axis=-1)
    return jnp.where(start, times, 0).sum(axis=-1) - mean[..., 0], variance
