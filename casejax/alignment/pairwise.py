"""What the methods share: every frame of one video compared with every frame of another, and means over real frames."""

from __future__ import annotations

import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float
from casejax.arrays.arguments import takes


@takes()
def inner_product(x: Float[Array, "*b n d"], y: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
    """Inner product of every frame of x with every frame of y; the cosine for embeddings of unit norm.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> alignment.inner_product(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.ones((1, 2)))
      Array([[3.],
             [7.]], dtype=float32)
    """
    return jnp.einsum("...nd,...md->...nm", x, y, precision="highest")


@takes()
def squared_distance(
    x: Float[Array, "*b n d"],
    y: Float[Array, "*b m d"],
    *,
    x_mask: Bool[Array, "*b n"] | None = None,
    y_mask: Bool[Array, "*b m"] | None = None,
) -> Float[Array, "*b n m"]:
    """Squared Euclidean distance of every frame of x to every frame of y, never below 0.

    Args:
      x: (..., N, D) embeddings.
      y: (..., M, D) embeddings.
      x_mask: True for real frames of x; default all. The others are read as zeros.
      y_mask: the same of y.

    Returns:
      (..., N, M) in squared units of the embeddings.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> alignment.squared_distance(jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.zeros((1, 2)))
      Array([[ 0.],
             [25.]], dtype=float32)
    """
    x, y = without_padding(x, x_mask), without_padding(y, y_mask)
    squares_x, squares_y = (x * x).sum(axis=-1)[..., :, None], (y * y).sum(axis=-1)[..., None, :]
    return jnp.maximum(squares_x + squares_y - 2 * inner_product(x, y), 0)


def without_padding(embeddings: Float[Array, "*b t d"], mask: Bool[Array, "*b t"] | None) -> Float[Array, "*b t d"]:
    """Embeddings with zeros where the mask is False."""
    return embeddings if mask is None else jnp.where(mask[..., None], embeddings, 0)


def real_pairs(x_mask: Bool[Array, "*b n"] | None, y_mask: Bool[Array, "*b m"] | None) -> Bool[Array, "*#b"]:
    """Whether both sequences of a pair have a real frame."""
    found = [jnp.ones((), bool) if mask is None else mask.any(axis=-1) for mask in (x_mask, y_mask)]
    return found[0] & found[1] if x_mask is not None and y_mask is not None else found[x_mask is None]


def mean_of_real(values: Float[Array, "*b t"], mask: Bool[Array, "*b t"] | None) -> Float[Array, "*b"]:
    """Mean over the last axis of what the mask shows; 0 where it shows nothing."""
    if mask is None:
        return values.mean(axis=-1)
    return jnp.where(mask, values, 0).sum(axis=-1) / jnp.maximum(mask.sum(axis=-1), 1).astype(values.dtype)
