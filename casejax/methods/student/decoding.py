"""From what the student says at its locations to proposals, the best of a video."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float
from casejax.methods.student.network import Regressed
from casejax.methods.student.targets import length_of, locations
from casejax.records import Proposals


def decode(
    own: Regressed,
    *,
    levels: int,
    max_proposals: int = 2000,
    min_score: float = 0.0,
    factors: Float[Array, "b c"] | None = None,
    mask: Bool[Array, "b t"] | None = None,
) -> Proposals:
    """The best proposals of B videos, over all levels and classes.

    A location proposes, for every class, the segment from its place minus the distance to the start to its place plus
    the distance to the end, cut to the video, with the class's probability as score.

    Args:
      own: of the network.
      levels: of the pyramid.
      max_proposals: K at most.
      min_score: below it a score becomes 0.
      factors: (B, C) by which the scores of a video's classes are multiplied; default none.
      mask: (B, T) True for real snippets; default all.

    Returns:
      (B, K) proposals by descending score; those at no real location, or below `min_score`, have score 0.
    """
    batch, count, num_classes = own.logits.shape
    total = length_of(count, levels)
    places = locations(total, levels)
    real = own.mask & jnp.asarray(places.real)[None]
    scores = jax.nn.sigmoid(own.logits) if factors is None else jax.nn.sigmoid(own.logits) * factors[:, None]
    scores = jnp.where(real[:, :, None], scores, 0.0).reshape(batch, -1)
    best, index = jax.lax.top_k(scores, min(max_proposals, scores.shape[1]))
    place, label = index // num_classes, index % num_classes
    column = jnp.zeros_like(label) if own.offsets.shape[2] == 1 else label
    offsets = jax.vmap(lambda x, n, k: x[n, k])(own.offsets, place, column)
    position = jnp.asarray(places.position)[place]
    length = jnp.full(batch, total, jnp.float32) if mask is None else mask.sum(axis=1).astype(jnp.float32)
    ends = position[:, :, None] + jnp.stack([-offsets[..., 0], offsets[..., 1]], axis=2)
    segments = jnp.clip(ends, 0.0, length[:, None, None])
    return Proposals(segments, label.astype(jnp.int32), jnp.where(best >= min_score, best, 0.0))
