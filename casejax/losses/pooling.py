"""Scores over time: which snippets of a video are selected, and means and softmax over its snippets under a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float, Int
from casejax.arrays.arguments import takes
from casejax.arrays.placement import varying_as

ABSENT = -1e30
"""Logit of what takes no part in a softmax. It is finite, so that nothing becomes NaN where no entry takes part."""


# Selected snippets


@takes()
def select_top_k(
    scores: Float[Array, "b t c"],
    *,
    divisor: int = 8,
    rounding: Literal["down", "up"] = "down",
    mask: Bool[Array, "b t"] | None = None,
) -> Bool[Array, "b t c"]:
    """The k snippets of highest score of every video and class (Eq. 15 of CASE); k = length / divisor, at least 1.

    Args:
      scores: (B, T, C) calibrated T-CAS, or other scores; no gradient goes through them.
      divisor: one in so many snippets is selected; 8 for THUMOS14, 2 for ActivityNet (appendix F.3 of CASE).
      rounding: of k to a whole number; "down" in CASE, "up" in A2CL-PT.
      mask: True for real snippets; a video's length is the number of its real ones. Default all.

    Returns:
      (B, T, C), True at exactly k snippets of each column; of equal scores the earlier is taken. A video without a
      real snippet has none.

    Raises:
      ValueError: `divisor` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> scores = jnp.array([[[0.1], [0.9], [0.5], [0.8]]])  # one video, four snippets, one class
      >>> print(losses.select_top_k(scores, divisor=2)[0, :, 0])
      [False  True False  True]
      >>> mask = jnp.array([[True, True, True, False]])  # the last is padding, and half of three rounds to one
      >>> print(losses.select_top_k(scores, divisor=2, mask=mask)[0, :, 0])
      [False  True False False]
    """
    if divisor < 1:
        raise ValueError(f"divisor must be 1 or more, got {divisor}")
    batch, length, _ = scores.shape
    scores = jax.lax.stop_gradient(scores)
    if mask is None:
        counts = jnp.full(batch, length, jnp.int32)
    else:
        counts = mask.sum(axis=1, dtype=jnp.int32)
        scores = jnp.where(mask[:, :, None], scores, -jnp.inf)
    k = counts // divisor if rounding == "down" else -(-counts // divisor)
    k = jnp.minimum(jnp.maximum(k, 1), counts)[:, None, None]
    return jnp.swapaxes(_greatest(jnp.swapaxes(scores, 1, 2), k), 1, 2)


def _greatest(x: Float[Array, "b c t"], k: Int[Array, "b 1 1"]) -> Bool[Array, "b c t"]:
    """The k greatest entries along the last axis; of equal entries the earlier are taken.

    A radix selection: it decides by one bit after the other, from the highest. Unlike a sort, or `top_k` with a
    scatter, it is made of sums along the axis, so each device selects in its own part of a batch. And no score is
    compared with the k-th: a compiler may compute a score twice and round it differently.
    """
    bits = jnp.finfo(x.dtype).bits
    signed = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0, x), f"int{bits}")  # -0 is 0
    sign = jnp.array(-1, signed.dtype) << (bits - 1)
    keys = jax.lax.bitcast_convert_type(jnp.where(signed < 0, ~signed, signed ^ sign), f"uint{bits}")  # in x's order
    Carry = tuple[jax.Array, jax.Array, jax.Array]

    def body(i: jax.Array, carry: Carry) -> Carry:
        undecided, taken, missing = carry
        ones = undecided & ((keys >> (bits - 1 - i).astype(keys.dtype)) & 1).astype(bool)
        count = ones.sum(axis=2, keepdims=True, dtype=jnp.int32)
        enough = count >= missing
        undecided = jnp.where(enough, ones, undecided & ~ones)
        return undecided, taken | (ones & ~enough), jnp.where(enough, missing, missing - count)

    missing = jnp.broadcast_to(k.astype(jnp.int32), (*x.shape[:2], 1))
    start = varying_as((jnp.ones(x.shape, bool), jnp.zeros(x.shape, bool), missing), x)
    undecided, taken, missing = jax.lax.fori_loop(0, bits, body, start)
    return taken | (undecided & (jnp.cumsum(undecided, axis=2, dtype=jnp.int32) <= missing))


@takes(values="selected")
def selected_mean(values: Float[Array, "b t c"], selected: Bool[Array, "b t c"]) -> Float[Array, "b c"]:
    """Mean of the values at the selected snippets of every video and class (Eq. 16 of CASE, inner mean).

    Args:
      values: (B, T, C) snippet scores, logits or probabilities.
      selected: (B, T, C) the snippets to pool, from `select_top_k`.

    Returns:
      (B, C) means; 0 where nothing is selected.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> values = jnp.array([[[0.1], [0.9], [0.5], [0.8]]])
      >>> selected = losses.select_top_k(values, divisor=2)  # 0.9 and 0.8
      >>> print(np.asarray(losses.selected_mean(values, selected)).round(3))
      [[0.85]]
    """
    count = selected.sum(axis=1)
    return jnp.where(selected, values, 0).sum(axis=1) / jnp.maximum(count, 1).astype(values.dtype)


@takes()
def top_k_mean(
    values: Float[Array, "b t c"],
    *,
    divisor: int = 8,
    rounding: Literal["down", "up"] = "down",
    mask: Bool[Array, "b t"] | None = None,
) -> Float[Array, "b c"]:
    """Mean of the highest values of every video and class: its score, or the confidence that it is there.

    Args:
      values: (B, T, C) class scores of snippets.
      divisor: one in so many snippets is pooled; 1 pools all.
      rounding: of the number of pooled snippets, see `select_top_k`.
      mask: True for real snippets; default all.

    Returns:
      (B, C); 0 for a video without a real snippet.

    Raises:
      ValueError: `divisor` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> values = jnp.array([[[0.1], [0.9], [0.5], [0.8]]])
      >>> print(np.asarray(losses.top_k_mean(values, divisor=2)).round(3))  # of 0.9 and 0.8
      [[0.85]]
      >>> print(np.asarray(losses.top_k_mean(values, divisor=1)).round(3))
      [[0.575]]
    """
    return selected_mean(values, select_top_k(values, divisor=divisor, rounding=rounding, mask=mask))


@takes(cas="selected")
def pooled(
    cas: Float[Array, "b t c"], selected: Bool[Array, "b t c"], *, probabilities: bool = False
) -> Float[Array, "b c"]:
    """Video-level class scores of one stream before the softmax of Eq. 16 of CASE.

    Args:
      cas: (B, T, C) class logits.
      selected: (B, T, C) the snippets to pool, from `select_top_k`.
      probabilities: average the snippets' probabilities, as printed; default their logits, as published.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> cas = jnp.log(jnp.array([[[1.0, 3.0], [9.0, 1.0]]]))  # probabilities 1/4 and 3/4, 9/10 and 1/10
      >>> selected = jnp.array([[[True, True], [False, True]]])  # class 0 in the first snippet, class 1 in both
      >>> print(np.asarray(losses.pooled(cas, selected, probabilities=True)).round(3))
      [[0.25  0.425]]
      >>> print(np.asarray(losses.pooled(cas, selected)).round(3))  # 0 and half of log 3
      [[0.    0.549]]
    """
    return selected_mean(jax.nn.softmax(cas) if probabilities else cas, selected)


# Streams


@takes()
def stream_mean(streams: Sequence[Float[Array, "*n"]]) -> Float[Array, "*n"]:
    """Mean over streams of arrays of one shape; of their logits, it is co-labelling as published.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> rgb, flow = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 0.5]])
      >>> print(losses.stream_mean([rgb, flow]))
      [[0.5  0.25]]
    """
    return sum(streams[1:], start=streams[0]) / len(streams)


@takes()
def class_probabilities(cas: Sequence[Float[Array, "b t c"]]) -> Float[Array, "b t c"]:
    """P^V: softmax of the class activation sequence over classes (Table 9 of CASE), mean over streams.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> rgb, flow = jnp.zeros((1, 1, 2)), jnp.log(jnp.array([[[3.0, 1.0]]]))
      >>> print(np.asarray(losses.class_probabilities([rgb, flow])).round(3))  # of 1/2, 1/2 and 3/4, 1/4
      [[[0.625 0.375]]]
    """
    return stream_mean([jax.nn.softmax(logits) for logits in cas])


@takes()
def calibrate(
    cas: Sequence[Float[Array, "b t c"]], foreground: Float[Array, "b t"], *, cas_weight: float | Float[Array, ""]
) -> Float[Array, "b t c"]:
    """Calibrated T-CAS: `cas_weight * P^V + (1 - cas_weight) * foreground` (appendix F.1 and Eq. 21 of CASE).

    Args:
      cas: (B, T, C) class logits, one array a stream.
      foreground: (B, T) foreground probability: P^A in training, P^M in inference.
      cas_weight: omega; 0.25 in the paper, in effect 1/3 in training and 1/5 in inference as published.

    Returns:
      (B, T, C), in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> cas = jnp.zeros((1, 2, 2))  # nothing is known of the classes: 1/2 each
      >>> foreground = jnp.array([[1.0, 0.0]])
      >>> print(np.asarray(losses.calibrate([cas], foreground, cas_weight=0.25)).round(3))
      [[[0.875 0.875]
        [0.125 0.125]]]
    """
    weight = jnp.asarray(cas_weight, foreground.dtype)
    return weight * class_probabilities(cas) + (1 - weight) * foreground[:, :, None]


# Time under a mask


@takes(half=True)
def without_padding(x: Float[Array, "b t *d"], *, mask: Bool[Array, "b t"] | None) -> Float[Array, "b t *d"]:
    """`x` with zeros in padding, also where NaN stood there.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> x, mask = jnp.array([[1.0, 2.0, jnp.nan]]), jnp.array([[True, True, False]])
      >>> print(losses.without_padding(x, mask=mask))
      [[1. 2. 0.]]
    """
    if mask is None:
        return x
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)), x, 0)


@takes(nan=True)
def lengths(x: Float[Array, "b t *d"], *, mask: Bool[Array, "b t"] | None) -> Float[Array, " b"]:
    """The number of real snippets of each video, at least 1, in the dtype of `x`, but float32 for half precision.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> x, mask = jnp.ones((2, 3)), jnp.array([[True, True, False], [True, True, True]])
      >>> print(losses.lengths(x, mask=mask))
      [2. 3.]
    """
    if mask is None:
        return jnp.full(x.shape[0], x.shape[1], x.dtype)
    return jnp.maximum(mask.sum(axis=1), 1).astype(x.dtype)


@takes()
def masked_mean(values: Float[Array, "*n"], *, mask: Bool[Array, "*n"] | None = None) -> Float[Array, ""]:
    """Mean over all entries that are True in `mask`; 0 where there is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> values, mask = jnp.array([[1.0, 3.0, jnp.nan]]), jnp.array([[True, True, False]])
      >>> print(losses.masked_mean(values, mask=mask))
      2.0
    """
    if mask is None:
        return values.mean()
    return jnp.where(mask, values, 0).sum() / jnp.maximum(mask.sum(), 1).astype(values.dtype)


@takes()
def time_mean(x: Float[Array, "b t *d"], *, mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b *d"]:
    """Mean over the real snippets of each video; 0 for a video without one.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> x, mask = jnp.array([[1.0, 3.0, 9.0], [1.0, 3.0, 8.0]]), jnp.array([[True, True, False], [True, True, True]])
      >>> print(losses.time_mean(x, mask=mask))
      [2. 4.]
    """
    count = lengths(x, mask=mask)
    return without_padding(x, mask=mask).sum(axis=1) / count.reshape(-1, *(1,) * (x.ndim - 2))


@takes()
def time_softmax(logits: Float[Array, "b t c"], *, mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b t c"]:
    """Weights of a video's real snippets that sum to 1 over time, for each class apart.

    Padding has weight 0; in a video without a real snippet all weights are equal.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> logits = jnp.log(jnp.array([[[1.0], [3.0], [9.0]]]))
      >>> print(np.asarray(losses.time_softmax(logits, mask=jnp.array([[True, True, False]]))[0, :, 0]).round(3))
      [0.25 0.75 0.  ]
    """
    if mask is not None:
        logits = jnp.where(mask[..., None], logits, ABSENT)
    return jax.nn.softmax(logits, axis=1)


@takes()
def moving_average(x: Float[Array, "b t d"], window: int, *, mask: Bool[Array, "b t"] | None) -> Float[Array, "b t d"]:
    """Mean over `window` snippets around each one; those beyond either end and in padding count as zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> x = jnp.array([[[0.0], [3.0], [0.0], [3.0]]])
      >>> print(losses.moving_average(x, 3, mask=None)[0, :, 0])
      [1. 1. 2. 1.]
    """
    if window == 1:
        return x
    sums = jax.lax.reduce_window(without_padding(x, mask=mask), 0.0, jax.lax.add, (1, window, 1), (1, 1, 1), "SAME")
    return sums / window
