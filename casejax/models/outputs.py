"""What every network of the family returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Outputs(NamedTuple):
    """Per-stream predictions for B videos of T snippets; each field holds one array a stream.

    Attributes:
      cas: (B, T, C) class activation sequence, logits.
      attention: (B, T) foreground probability P^A, in [0, 1].
      embedding: (B, T, D) snippet embedding E, not normalised.
      cluster_logits: (B, T, K) logits of the cluster assignment P^S.
    """

    cas: tuple[Float[Array, "b t c"], ...]
    attention: tuple[Float[Array, "b t"], ...]
    embedding: tuple[Float[Array, "b t d"], ...]
    cluster_logits: tuple[Float[Array, "b t k"], ...]
