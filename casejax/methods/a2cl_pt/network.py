"""The network of A2CL-PT: a class branch, and an adversary from which the class branch's best snippets are hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.array_types import Array, Bool, Float, Key
from casejax.losses import without_padding
from casejax.methods.a2cl_pt.settings import A2CLPTSettings
from casejax.methods.contract import Outputs
from casejax.methods.layers import check_counts, check_rates, dropout, pointwise, xavier

ERASED = -100.0
"""Logit of erased snippets."""


class A2CLPTOwn(NamedTuple):
    """What only A2CL-PT has.

    Attributes:
      erased: (B, T, C) class logits of the adversary, one array a stream, `ERASED` where the snippet was erased for a
        class; those of the class branch are `cas`.
      tcam: (B, T, C) both branches of all streams together, nothing erased; this is what is localised.
    """

    erased: tuple[Float[Array, "b t c"], ...]
    tcam: Float[Array, "b t c"]


def select_erased(
    cas: Float[Array, "b t c"], *, mask: Bool[Array, "b t"] | None = None, divisor: int = 40
) -> Bool[Array, "b t c"]:
    """The snippets to hide from the adversary: for each class the best of a video, one in `divisor`, rounded down.

    Scores equal to the highest one that is kept are kept too, so with ties fewer are erased.

    Args:
      cas: (B, T, C) class scores.
      mask: True for real snippets; a video's length is the number of its real ones. Default all. The published
        program counts padding as snippets.
      divisor: one in so many snippets is erased; a shorter video keeps all.

    Raises:
      ValueError: `divisor` below 2, which would erase everything.
    """
    if divisor < 2:
        raise ValueError(f"divisor must be 2 or more, or nothing is left, got {divisor}")
    if mask is None:
        mask = jnp.ones(cas.shape[:2], bool)
    # The barrier has scores computed once: recomputed, perhaps rounded differently, one might be above itself.
    scores = jax.lax.optimization_barrier(jnp.where(mask[..., None], jax.lax.stop_gradient(cas), jnp.inf))
    length = mask.sum(axis=1)
    best_kept = jnp.maximum(length - length // divisor, 1) - 1
    threshold = jnp.take_along_axis(jnp.sort(scores, axis=1), best_kept[:, None, None], axis=1)
    return mask[..., None] & (scores > threshold)


class A2CLPTStream(nnx.Module):
    """One stream: two fully connected layers, a classifier, an adversary, and what they weigh in the T-CAM."""

    def __init__(self, dim: int, num_classes: int, *, hidden: int, dropout: float, rngs: nnx.Rngs) -> None:
        self.first = pointwise(dim, hidden, rngs, init=xavier)
        self.second = pointwise(hidden, hidden, rngs, init=xavier)
        self.classifier = pointwise(hidden, num_classes, rngs, init=xavier)
        # Published as C layers with one output each, so each has the spread of such a layer.
        self.adversary = pointwise(hidden, num_classes, rngs, init=lambda fan_in, _: xavier(fan_in, 1))
        self.scale = nnx.Param(jnp.ones(num_classes))
        self.dropout = dropout

    def __call__(
        self, features: Float[Array, "b t d"], key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "b t e"], Float[Array, "b t c"], Float[Array, "b t c"]]:
        """Embedding, class logits and the adversary's, without erasing."""
        x = jax.nn.relu(self.second(jax.nn.relu(self.first(features))))
        x = dropout(x, self.dropout, key)
        return x, self.classifier(x), self.adversary(x)


class A2CLPTNet(nnx.Module):
    """The two-branch network of A2CL-PT.

    Two streams of 1024 dimensions and 20 classes make 4,280,440 parameters.

    Args:
      dims: feature dimension of each stream; as many streams as there are entries.
      num_classes: action classes C.
      settings: the width, `dropout`, `erase_divisor` and `adversary_weight`.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, no stream, or an option out of range.
    """

    def __init__(
        self, dims: Sequence[int], num_classes: int, *, settings: A2CLPTSettings = A2CLPTSettings(), rngs: nnx.Rngs
    ) -> None:
        hidden, dropout, erase_divisor = settings.hidden, settings.dropout, settings.erase_divisor
        check_counts(dims, num_classes=num_classes, hidden=hidden)
        check_rates(dropout=dropout)
        if erase_divisor < 2:
            raise ValueError(f"erase_divisor must be 2 or more, or nothing is left, got {erase_divisor}")
        self.streams = nnx.List(
            [A2CLPTStream(dim, num_classes, hidden=hidden, dropout=dropout, rngs=rngs) for dim in dims]
        )
        self.erase_divisor, self.adversary_weight = erase_divisor, settings.adversary_weight

    def __call__(
        self,
        features: Sequence[Float[Array, "b t _"]],
        key: Key[Array, ""] | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
    ) -> Outputs:
        """Predict on a batch.

        Args:
          features: (B, T, D_s), one array a stream.
          mask: True for real snippets; features elsewhere are read as zeros. Default all, and then padding with zeros
            takes part in erasing, as published.
          key: dropout of this call; None for none.

        Raises:
          ValueError: another number of streams than the network has.
        """
        if len(features) != len(self.streams):
            raise ValueError(f"the network has {len(self.streams)} streams, got {len(features)} feature arrays")
        features = [without_padding(x, mask=mask) for x in features]
        cas, erased, embeddings, parts = [], [], [], []
        for s, (stream, x) in enumerate(zip(self.streams, features, strict=True)):
            own_key = None if key is None else jax.random.fold_in(key, s)
            embedding, logits, adversary = stream(x.astype(jnp.promote_types(x.dtype, jnp.float32)), own_key)
            # The adversary sees each snippet alone, so marking a logit is the same as hiding the snippet's features.
            hidden = select_erased(logits, mask=mask, divisor=self.erase_divisor)
            cas.append(logits)
            erased.append(jnp.where(hidden, ERASED, adversary))
            embeddings.append(embedding)
            parts.append((logits + self.adversary_weight * adversary) * stream.scale[...][None, None, :])
        own = A2CLPTOwn(tuple(erased), sum(parts[1:], start=parts[0]))
        return Outputs(tuple(cas), tuple(embeddings), own=own)
