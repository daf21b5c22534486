"""Clusters of what lasts: the assignment of a snippet and of its neighbours in time, where they are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from casejax.losses import stream_mean, without_padding

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


def over_alike_neighbours(
    cluster_logits: Sequence[Float[Array, "b t k"]], *, context: int, mask: Bool[Array, "b t"] | None = None
) -> tuple[Float[Array, "b t k"], ...]:
    """Cluster logits averaged over the neighbours in time that are likely in the same cluster.

    A neighbour weighs the square of the Bhattacharyya coefficient of its P^S and the snippet's own, mean over the
    streams: 1 where the two agree, next to 0 across the border of an action. No gradient passes through the weights.

    Args:
      cluster_logits: (B, T, K) logits of P^S, one array a stream.
      context: snippets in the window around each, odd; 1 leaves the logits as they are.
      mask: True for real snippets; default all. Others weigh nothing.

    Returns:
      As `cluster_logits`. The numbers in padding have no meaning.
    """
    if context == 1:
        return tuple(cluster_logits)
    half, length = context // 2, cluster_logits[0].shape[1]
    shown = jnp.ones(cluster_logits[0].shape[:2], bool) if mask is None else mask

    def padded(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, 0), (half, half), *[(0, 0)] * (x.ndim - 2)])

    roots = [jnp.exp(jax.nn.log_softmax(jax.lax.stop_gradient(logits)) / 2) for logits in cluster_logits]
    there, around, near = (
        padded(shown),
        [padded(x) for x in roots],
        [padded(without_padding(x, mask=mask)) for x in cluster_logits],
    )
    total, sums = jnp.zeros(shown.shape, roots[0].dtype), [jnp.zeros_like(x) for x in cluster_logits]
    for shift in range(context):
        window = slice(shift, shift + length)
        alike = stream_mean([(own * other[:, window]).sum(axis=2) for own, other in zip(roots, around, strict=True)])
        weight = jnp.where(there[:, window], alike**2, 0)
        total = total + weight
        sums = [x + weight[..., None] * other[:, window] for x, other in zip(sums, near, strict=True)]
    return tuple(x / jnp.maximum(total, 1e-6)[..., None] for x in sums)
