"""The clustering head of CASE: a cosine classifier of latent clusters on every embedding of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.array_types import Array, Bool, Float, Key
from casejax.losses import inverse_norm, unit
from casejax.methods.case.settings import HeadSettings
from casejax.methods.contract import Outputs


class CosineHead(nnx.Module):
    """Cosine classifier: a temperature times the cosine of an embedding with each cluster's direction.

    With `projected` the gradient ignores the normalisation of the directions, as in the published program,
    where they are put back on the unit sphere before every step (`project_prototypes`).

    Args:
      dim: width D of the embedding; D K parameters.
      rngs: seeds of the directions.
      settings: `num_clusters`, `head_temperature`, `projected`, and `cluster_gradient`, without which no gradient
        leaves the head.

    Raises:
      ValueError: fewer than one cluster.
    """

    def __init__(self, dim: int, rngs: nnx.Rngs, *, settings: HeadSettings = HeadSettings()) -> None:
        if settings.num_clusters < 1:
            raise ValueError(f"num_clusters must be at least 1, got {settings.num_clusters}")
        limit = 1 / math.sqrt(dim)
        shape = (settings.num_clusters, dim)
        self.directions = nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -limit, limit))
        self.temperature, self.projected = settings.head_temperature, settings.projected
        self.detached = not settings.cluster_gradient

    def __call__(self, embedding: Float[Array, "*n d"]) -> Float[Array, "*n k"]:
        """Cluster logits of embeddings of any norm."""
        directions = self.directions[...]
        if self.detached:
            embedding = jax.lax.stop_gradient(embedding)
        if self.projected:
            norm = jnp.linalg.norm(directions, axis=1, keepdims=True)
            directions = directions / jax.lax.stop_gradient(jnp.maximum(norm, 1e-12))
        else:
            directions = unit(directions)
        # Scaling the K products is cheaper than scaling the embedding, and the same.
        product = jnp.einsum("...d,kd->...k", embedding, directions, precision="highest")
        return self.temperature * product * inverse_norm(embedding)


MakeHead = Callable[[int, nnx.Rngs], CosineHead]
"""From the width of an embedding and the seeds of the parameters to the head on it."""


def make_head(settings: HeadSettings) -> MakeHead:
    """The maker of heads with these settings."""
    return partial(CosineHead, settings=settings)


class ClusteredNet(nnx.Module):
    """A network, and the clustering head on each of its embeddings.

    Args:
      base: the network of a method, whose `embedding_dims` are the widths of its embeddings.
      head: makes the head on one of them.
      rngs: seeds of the heads' parameters.
    """

    def __init__(self, base: nnx.Module, head: MakeHead, *, rngs: nnx.Rngs) -> None:
        self.base = base
        self.embedding_dims = tuple(base.embedding_dims)
        self.clusters = nnx.List([head(dim, rngs) for dim in self.embedding_dims])

    def __call__(
        self,
        features: Sequence[Float[Array, "b t _"]],
        key: Key[Array, ""] | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
    ) -> Outputs:
        """Predict on a batch; arguments and errors are those of the network below."""
        outputs = self.base(features, key, mask=mask)
        logits = [head(e) for head, e in zip(self.clusters, outputs.embedding, strict=True)]
        return outputs._replace(cluster_logits=tuple(logits))


def project_prototypes(params: Any) -> Any:
    """Put the cluster directions of every head back on the unit sphere; other leaves stay as they are."""

    def project(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if any(getattr(entry, "key", None) == "directions" for entry in path):
            return leaf / jnp.maximum(jnp.linalg.norm(leaf, axis=1, keepdims=True), 1e-12)
        return leaf

    return jax.tree_util.tree_map_with_path(project, params)
