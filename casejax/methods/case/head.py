"""A base network with the clustering head of CASE on its embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from flax import nnx

from casejax.methods.case.network import CosineHead

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Key


class ClusteredOutputs(NamedTuple):
    """Predictions for B videos of T snippets.

    Attributes:
      base: the base's, a `casejax.methods.outputs.BaseOutputs`.
      cluster_logits: (B, T, K) logits of the cluster assignment P^S, one array an embedding.
    """

    base: Any
    cluster_logits: tuple[Float[Array, "b t k"], ...]


class ClusteredNet(nnx.Module):
    """A base, and on each of its embeddings a cosine classifier of K clusters: D K parameters more for each.

    Args:
      base: a network of `casejax.methods`, whose `embedding_dims` are the widths of its embeddings.
      num_clusters: latent clusters K.
      temperature: factor on the cosines (appendix F.3 of CASE: 10).
      projected: leave the normalisation of the cluster directions out of the gradient, as published.
      detached: keep the head's gradient out of the base.
      rngs: seeds of the directions.

    Raises:
      ValueError: fewer than one cluster.
    """

    def __init__(
        self,
        base: nnx.Module,
        num_clusters: int,
        *,
        temperature: float = 10.0,
        projected: bool = True,
        detached: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        if num_clusters < 1:
            raise ValueError(f"num_clusters must be at least 1, got {num_clusters}")
        self.base = base
        head = partial(CosineHead, temperature=temperature, projected=projected, detached=detached, rngs=rngs)
        self.clusters = nnx.List([head(dim, num_clusters) for dim in base.embedding_dims])

    def __call__(
        self,
        features: Sequence[Float[Array, "b t _"]],
        key: Key[Array, ""] | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
    ) -> ClusteredOutputs:
        """Predict on a batch; arguments and errors are the base's."""
        outputs = self.base(features, key, mask=mask)
        logits = [head(e) for head, e in zip(self.clusters, outputs.embedding, strict=True)]
        return ClusteredOutputs(outputs, tuple(logits))
