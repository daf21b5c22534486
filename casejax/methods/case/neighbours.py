"""The assignment of a snippet to clusters, shared with its neighbours in time."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float
from casejax.losses import stream_mean, without_padding


def over_neighbours(
    cluster_logits: Sequence[Float[Array, "b t k"]],
    *,
    context: int,
    alike: bool = False,
    mask: Bool[Array, "b t"] | None = None,
) -> tuple[Float[Array, "b t k"], ...]:
    """Cluster logits averaged over a window in time, which ends where the video does.

    Logits are cosines, so this is the logit of the mean of the window's unit embeddings.

    Args:
      cluster_logits: (B, T, K) logits of P^S, one array a stream.
      context: snippets in the window around each, odd; 1 leaves the logits as they are.
      alike: a neighbour weighs the square of the Bhattacharyya coefficient of its P^S and the snippet's own, mean over
        the streams, next to 0 across the border of an action; otherwise all weigh the same. No gradient passes
        through these weights.
      mask: True for real snippets; default all. Others weigh nothing.

    Returns:
      As `cluster_logits`. The numbers in padding have no meaning.
    """
    if context == 1:
        return tuple(cluster_logits)
    length, half = cluster_logits[0].shape[1], context // 2
    shown = jnp.ones(cluster_logits[0].shape[:2], bool) if mask is None else mask

    def shifted(x: Array, shift: int) -> Array:
        """What stands `shift - half` snippets later; zeros beyond the ends."""
        return jnp.pad(x, [(0, 0), (half, half), *[(0, 0)] * (x.ndim - 2)])[:, shift : shift + length]

    logits = [without_padding(x, mask=mask) for x in cluster_logits]
    roots = [jnp.exp(jax.nn.log_softmax(jax.lax.stop_gradient(x)) / 2) for x in logits]
    total, sums = jnp.zeros(shown.shape, logits[0].dtype), [jnp.zeros_like(x) for x in logits]
    for shift in range(context):
        weight = shifted(shown, shift).astype(logits[0].dtype)
        if alike:
            weight = weight * stream_mean([(x * shifted(x, shift)).sum(axis=2) for x in roots]) ** 2
        total = total + weight
        sums = [x + weight[..., None] * shifted(y, shift) for x, y in zip(sums, logits, strict=True)]
    return tuple(x / jnp.maximum(total, 1e-6)[..., None] for x in sums)
