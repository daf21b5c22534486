"""The two-branch network of CASE with its clustering head (Table 9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.losses import inverse_norm, unit
from casejax.methods.case.outputs import Outputs
from casejax.methods.layers import pointwise

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

Params = Any  # a pytree of arrays, as nnx.split gives it


class CosineHead(nnx.Module):
    """Cosine classifier: `temperature` times the cosine of an embedding with each cluster's direction.

    With `projected` the gradient ignores the normalisation of the directions, as in the published program,
    where they are put back on the unit sphere before every step (`project_prototypes`).
    """

    def __init__(
        self, dim: int, num_clusters: int, *, temperature: float, projected: bool, detached: bool, rngs: nnx.Rngs
    ) -> None:
        limit = 1 / math.sqrt(dim)
        directions = jax.random.uniform(rngs.params(), (num_clusters, dim), jnp.float32, -limit, limit)
        self.directions = nnx.Param(directions)
        self.temperature, self.projected, self.detached = temperature, projected, detached

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


class Stream(nnx.Module):
    """One stream: the class branch, the attention branch, and the clustering head on its embedding."""

    def __init__(
        self,
        dim: int,
        num_classes: int,
        num_clusters: int,
        *,
        hidden: int,
        temperature: float,
        projected: bool,
        detached: bool,
        encoder_dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        self.class_encoder = pointwise(dim, hidden, rngs, dtype=encoder_dtype)
        self.classifier = pointwise(hidden, num_classes, rngs)
        self.embedding_encoder = pointwise(dim, hidden, rngs, dtype=encoder_dtype)
        self.attention = pointwise(hidden, 1, rngs)
        self.clusters = CosineHead(
            hidden, num_clusters, temperature=temperature, projected=projected, detached=detached, rngs=rngs
        )

    def __call__(
        self, features: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n c"], Float[Array, " n"], Float[Array, "n e"], Float[Array, "n k"]]:
        """Class logits, foreground probability, embedding and cluster logits of N snippets' features."""
        cas = self.classifier(jax.nn.relu(self.class_encoder(features)).astype(features.dtype))
        embedding = jax.nn.relu(self.embedding_encoder(features)).astype(features.dtype)
        attention = jax.nn.sigmoid(self.attention(embedding)[..., 0])
        return cas, attention, embedding, self.clusters(embedding)


class CaseNet(nnx.Module):
    """CASE: for every stream a class branch, an attention branch and a cosine cluster head.

    Two streams of 1024 dimensions, 20 classes and 16 clusters make 2,137,130 parameters (Table 1).

    Args:
      dims: feature dimension of each stream; as many streams as there are entries.
      num_classes: action classes C.
      num_clusters: latent clusters K.
      hidden: width of the encoders.
      temperature: factor on the cosines of the cluster head (appendix F.3: 10).
      projected: leave the normalisation of the cluster directions out of the gradient, as published.
      detached: keep the cluster head's gradient out of the encoder.
      encoder_dtype: type the two encoders compute in, such as `jnp.bfloat16` for speed; default that of
        features and parameters. Parameters and all else stay float32.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, or no stream.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        num_clusters: int,
        *,
        hidden: int = 512,
        temperature: float = 10.0,
        projected: bool = True,
        detached: bool = False,
        encoder_dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not dims or min(*dims, num_classes, num_clusters, hidden) < 1:
            raise ValueError(
                f"the network needs at least one stream and counts of at least 1, got dims={tuple(dims)}, "
                f"num_classes={num_classes}, num_clusters={num_clusters}, hidden={hidden}"
            )
        self.streams = nnx.List(
            [
                Stream(
                    dim,
                    num_classes,
                    num_clusters,
                    hidden=hidden,
                    temperature=temperature,
                    projected=projected,
                    detached=detached,
                    encoder_dtype=encoder_dtype,
                    rngs=rngs,
                )
                for dim in dims
            ]
        )

    def __call__(
        self,
        features: Sequence[Float[Array, "*n _"]],
        mask: Bool[Array, "b t"] | None = None,
        rows: Int[Array, "b t"] | None = None,
    ) -> Outputs:
        """Predict on a batch.

        Args:
          features: (B, T, D_s), one array a stream; with `rows`, (R, D_s).
          mask: True for real snippets; features elsewhere are read as zeros. Not together with `rows`.
          rows: for a batch that repeats snippets, which row of the features stands at each place. The network
            sees a snippet alone, so R rows are computed however often they are repeated.

        Raises:
          ValueError: another number of streams than the network has, features whose number of axes does not
            go with `rows`, or both `mask` and `rows`.
        """
        if len(features) != len(self.streams):
            raise ValueError(f"the network has {len(self.streams)} streams, got {len(features)} feature arrays")
        wanted = 3 if rows is None else 2
        if any(x.ndim != wanted for x in features):
            shapes = [x.shape for x in features]
            raise ValueError(f"features must be (B, T, D) without rows, (R, D) with them; got {shapes}")
        if mask is not None:
            if rows is not None:
                raise ValueError("mask and rows exclude each other: with rows, every row of the features is real")
            features = [jnp.where(mask[:, :, None], x, 0) for x in features]
        # Features may be stored narrower than the network computes.
        features = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in features]
        # As a matrix of snippets: with two leading axes, XLA for CPU computes activations once in each shape.
        outputs = [stream(x.reshape(-1, x.shape[-1])) for stream, x in zip(self.streams, features, strict=True)]
        cas, attention, embedding, cluster_logits = zip(*outputs, strict=True)

        def places(values: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            if rows is not None:
                return tuple(x[rows] for x in values)
            return tuple(x.reshape(*features[0].shape[:2], *x.shape[1:]) for x in values)

        # Nobody needs the embedding, by far the largest, at every place: prototypes are means over rows.
        embedding = places(embedding) if rows is None else embedding
        return Outputs(places(cas), places(attention), embedding, places(cluster_logits), rows)


def project_prototypes(params: Params) -> Params:
    """Put the cluster directions of every stream back on the unit sphere; other leaves stay as they are."""

    def project(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if any(getattr(entry, "key", None) == "directions" for entry in path):
            return leaf / jnp.maximum(jnp.linalg.norm(leaf, axis=1, keepdims=True), 1e-12)
        return leaf

    return jax.tree_util.tree_map_with_path(project, params)
