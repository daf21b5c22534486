"""Representative snippets, called tokens: finding them in a video, mixing them into its snippets, remembering them.

Huang et al., "Weakly Supervised Temporal Action Localization via Representative Snippet Knowledge Propagation",
CVPR 2022, after the published program.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float
from casejax.losses import ABSENT, unit, without_padding

_SHARPNESS = 5.0  # factor on the cosines by which snippets belong to tokens


def _assign(
    tokens: Float[Array, "b k d"],
    x: Float[Array, "b t d"],
    mask: Bool[Array, "b t"] | None,
    token_mask: Bool[Array, "b k"] | None,
) -> tuple[Float[Array, "b k t"], Float[Array, "b k t"]]:
    """Shares by which each snippet belongs to each token: once summing to 1 over tokens, once over snippets."""
    logits = _SHARPNESS * jnp.einsum("bkd,btd->bkt", unit(tokens), unit(x), precision="highest")
    if token_mask is not None:
        logits = jnp.where(token_mask[:, :, None], logits, ABSENT)
    share = jax.nn.softmax(logits, axis=1)
    if token_mask is not None:  # where there is no token at all, a snippet belongs to none
        share = jnp.where(token_mask[:, :, None], share, 0)
    if mask is not None:
        share = jnp.where(mask[:, None, :], share, 0)
    return share, share / (share.sum(axis=2, keepdims=True) + 1e-9)


def refine_tokens(
    tokens: Float[Array, "b k d"],
    x: Float[Array, "b t d"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    num_iters: int = 2,
) -> Float[Array, "b k d"]:
    """Move tokens to the snippets that they represent, by steps of expectation maximisation.

    Args:
      tokens: (B, K, D).
      x: (B, T, D) snippet embedding.
      mask: True for real snippets; default all.
      num_iters: steps, static.
    """
    for _ in range(num_iters):
        _, weights = _assign(tokens, x, mask, None)
        tokens = jnp.einsum("bkt,btd->bkd", weights, without_padding(x, mask=mask), precision="highest")
    return tokens


def reallocate(
    x: Float[Array, "b t d"],
    tokens: Float[Array, "b k d"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    token_mask: Bool[Array, "b k"] | None = None,
    weight: float = 0.5,
) -> Float[Array, "b t d"]:
    """Mix tokens into snippets by a random walk between the two of infinite length.

    Solves x' = weight Z^T (weight N x' + tokens) + x and returns (1 - weight) x', where Z are the shares by which
    snippets belong to tokens and N the same, normalised over snippets. The published program inverts a matrix of
    T x T; since that is the identity minus a matrix of rank K, solving a system of K x K
    gives the same result.

    Args:
      x: (B, T, D) snippet embedding.
      tokens: (B, K, D).
      mask: True for real snippets; default all.
      token_mask: (B, K) True for real tokens; default all.
      weight: in [0, 1); static.

    Returns:
      (B, T, D); zeros in padding.

    Raises:
      ValueError: a weight out of range.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"weight must lie in [0, 1), or the walk never ends, got {weight}")
    share, weights = _assign(tokens, x, mask, token_mask)
    if token_mask is not None:
        tokens = jnp.where(token_mask[:, :, None], tokens, 0)
    start = without_padding(x, mask=mask) + weight * jnp.einsum("bkt,bkd->btd", share, tokens, precision="highest")
    there_and_back = jnp.einsum("bkt,blt->bkl", weights, share, precision="highest")
    seen = jnp.einsum("bkt,btd->bkd", weights, start, precision="highest")
    carried = jnp.linalg.solve(jnp.eye(tokens.shape[1], dtype=x.dtype)[None] - weight**2 * there_and_back, seen)
    return (1 - weight) * (start + weight**2 * jnp.einsum("bkt,bkd->btd", share, carried, precision="highest"))


class Memory(NamedTuple):
    """The tokens of all videos that look most like each class, best first.

    Attributes:
      tokens: (C, Q, D).
      scores: (C, Q) their class probability; 0 for an empty place.
    """

    tokens: Float[Array, "c q d"]
    scores: Float[Array, "c q"]

    @classmethod
    def empty(cls, num_classes: int, dim: int, *, places: int = 5) -> Memory:
        """The memory before the first video."""
        return cls(jnp.zeros((num_classes, places, dim)), jnp.zeros((num_classes, places)))


def remember(
    memory: Memory,
    tokens: Float[Array, "b k d"],
    token_logits: Float[Array, "b k n"],
    labels: Float[Array, "b c"],
) -> Memory:
    """The memory after the tokens of B videos, each of which is offered to all classes of its video.

    One video after the other, as published, or all at once: the best stay either way.

    Args:
      memory: before.
      tokens: (B, K, D) refined tokens of each video.
      token_logits: (B, K, C + 1) their class logits, background last.
      labels: (B, C) zeros and ones.
    """
    scores = jax.nn.softmax(token_logits)[..., :-1]
    offered = jnp.where(labels[:, None, :] > 0, scores, -1).reshape(-1, labels.shape[1]).T
    scores, best = jax.lax.top_k(jnp.concatenate([memory.scores, offered], axis=1), memory.scores.shape[1])
    flat, places = tokens.reshape(-1, tokens.shape[2]), memory.scores.shape[1]
    kept = jnp.take_along_axis(memory.tokens, jnp.minimum(best, places - 1)[:, :, None], axis=1)
    kept = jnp.where((best < places)[:, :, None], kept, flat[jnp.maximum(best - places, 0)])
    return jax.lax.stop_gradient(Memory(kept, scores))


def recall(memory: Memory, labels: Float[Array, "b c"]) -> tuple[Float[Array, "b n d"], Bool[Array, "b n"]]:
    """The remembered tokens of the classes of each video, for `reallocate`.

    Returns:
      (B, C Q, D) all of them, and (B, C Q) which of them are of a class of the video. Empty places are tokens of
      zeros, as published, so a memory is best filled from all videos before it is used.
    """
    classes, places, dim = memory.tokens.shape
    tokens = jnp.broadcast_to(memory.tokens.reshape(1, -1, dim), (len(labels), classes * places, dim))
    return tokens, jnp.repeat(labels > 0, places, axis=1)
