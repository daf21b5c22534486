"""The classifiers that two baselines of alignment train along with the embedder, and throw away after."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import jax
from flax import nnx

from casejax.array_types import Array, Float


class OrderHead(nnx.Module):
    """Shuffle and Learn's classifier of three embeddings end to end: in order or shuffled.

    Args:
      dim: D of one embedding.
      hidden: widths of the layers before the last.
      rngs: seeds of the initial parameters, uniform with Glorot's bound as in the published program.

    Raises:
      ValueError: a width below 1.
    """

    def __init__(self, dim: int, *, hidden: Sequence[int] = (128, 64), rngs: nnx.Rngs) -> None:
        if min(dim, *hidden) < 1:
            raise ValueError(f"widths must be 1 or more, got dim={dim} and hidden={tuple(hidden)}")
        widths = (3 * dim, *hidden, 2)
        self.layers = nnx.List(
            [
                nnx.Linear(d_in, d_out, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)
                for d_in, d_out in pairwise(widths)
            ]
        )

    def __call__(self, features: Float[Array, "*r e"]) -> Float[Array, "*r 2"]:
        """Logits of frames in order and of shuffled ones, from `shuffle_and_learn.triplet_features`."""
        *hidden, last = self.layers
        for layer in hidden:
            features = jax.nn.relu(layer(features))
        return last(features)


class SpeedHead(nnx.Module):
    """SpeedNet's classifier of a clip: a linear layer.

    Args:
      dim: D of one embedding.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a width below 1.
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        if dim < 1:
            raise ValueError(f"dim must be 1 or more, got {dim}")
        self.linear = nnx.Linear(2 * dim, 1, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)

    def __call__(self, features: Float[Array, "*b e"]) -> Float[Array, "*b"]:
        """Logits of being sped up, from `speednet.clip_features`."""
        return self.linear(features)[..., 0]
