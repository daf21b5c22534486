"""The two-branch network of CASE (Table 9), with or without its clustering head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.array_types import Array, Bool, Float, Int, Key
from casejax.losses import without_padding
from casejax.methods.case.head import MakeHead
from casejax.methods.case.settings import CaseSettings
from casejax.methods.contract import Outputs
from casejax.methods.layers import check_counts, pointwise

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}

SPLIT: dict[str, dict[str, tuple[str | None, ...]]] = {
    "class_encoder": {"kernel": (None, "model"), "bias": ("model",)},
    "embedding_encoder": {"kernel": (None, "model"), "bias": ("model",)},
    "classifier": {"kernel": ("model", None)},
    "attention": {"kernel": ("model", None)},
    "clusters": {"directions": (None, "model")},
}
"""Where each parameter of a layer has the hidden dimension, which several devices can share."""


class Stream(nnx.Module):
    """One stream: the class branch, the attention branch, and a head on its embedding if there is one."""

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        hidden: int,
        encoder_dtype: Any,
        head: MakeHead | None,
        rngs: nnx.Rngs,
    ) -> None:
        self.class_encoder = pointwise(dim, hidden, rngs, dtype=encoder_dtype)
        self.classifier = pointwise(hidden, num_classes, rngs)
        self.embedding_encoder = pointwise(dim, hidden, rngs, dtype=encoder_dtype)
        self.attention = pointwise(hidden, 1, rngs)
        if head is not None:
            self.clusters = head(hidden, rngs)

    def __call__(self, features: Float[Array, "n d"]) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, ...]]:
        """Class logits (N, C), foreground probability (N,), embedding (N, E) and cluster logits () or ((N, K),)."""
        cas = self.classifier(jax.nn.relu(self.class_encoder(features)).astype(features.dtype))
        embedding = jax.nn.relu(self.embedding_encoder(features)).astype(features.dtype)
        attention = jax.nn.sigmoid(self.attention(embedding)[..., 0])
        return cas, attention, embedding, (self.clusters(embedding),) if hasattr(self, "clusters") else ()


class CaseNet(nnx.Module):
    """CASE: for every stream a class branch, an attention branch and, with `head`, a cosine cluster head.

    Two streams of 1024 dimensions, 20 classes and 16 clusters make 2,137,130 parameters (Table 1), without clusters
    2,120,746.

    Args:
      dims: feature dimension of each stream; as many streams as there are entries.
      num_classes: action classes C.
      settings: `hidden` and `encoder_dtype`. Parameters, and all but the two encoders, stay float32.
      head: from the width of an embedding and `rngs` to the head on it; None for none.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, or no stream.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        *,
        settings: CaseSettings = CaseSettings(),
        head: MakeHead | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        hidden, dtype = settings.hidden, DTYPES[settings.encoder_dtype]
        check_counts(dims, num_classes=num_classes, hidden=hidden)
        self.streams = nnx.List(
            [Stream(dim, num_classes, hidden=hidden, encoder_dtype=dtype, head=head, rngs=rngs) for dim in dims]
        )
        self.embedding_dims = (hidden,) * len(dims)

    def __call__(
        self,
        features: Sequence[Float[Array, "*n _"]],
        key: Key[Array, ""] | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        rows: Int[Array, "b t"] | None = None,
    ) -> Outputs:
        """Predict on a batch.

        Args:
          features: (B, T, D_s), one array a stream; with `rows`, (R, D_s).
          key: not used; networks with dropout need it.
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
            features = [without_padding(x, mask=mask) for x in features]
        # Features may be stored narrower than the network computes.
        features = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in features]
        # As a matrix of snippets: with two leading axes, XLA for CPU computes activations once in each shape.
        outputs = [stream(x.reshape(-1, x.shape[-1])) for stream, x in zip(self.streams, features, strict=True)]
        cas, attention, embedding, clusters = zip(*outputs, strict=True)

        def places(values: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            if rows is not None:
                return tuple(x[rows] for x in values)
            return tuple(x.reshape(*features[0].shape[:2], *x.shape[1:]) for x in values)

        # Nobody needs the embedding, by far the largest, at every place: prototypes are means over rows.
        embedding = places(embedding) if rows is None else embedding
        cluster_logits = places(tuple(logits for own in clusters for logits in own))
        return Outputs(places(cas), embedding, places(attention), cluster_logits, rows)
