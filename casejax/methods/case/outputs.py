"""What every network of the family returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


class Outputs(NamedTuple):
    """Per-stream predictions for B videos of T snippets; each field holds one array a stream.

    Attributes:
      cas: (B, T, C) class activation sequence, logits.
      attention: (B, T) foreground probability P^A, in [0, 1].
      embedding: (B, T, D) snippet embedding E, not normalised; (R, D) where there are `rows`.
      cluster_logits: (B, T, K) logits of the cluster assignment P^S.
      rows: (B, T) the row of `embedding` that belongs to each place; None where it has every place itself.
    """

    cas: tuple[Float[Array, "b t c"], ...]
    attention: tuple[Float[Array, "b t"], ...]
    embedding: tuple[Float[Array, "*n d"], ...]
    cluster_logits: tuple[Float[Array, "b t k"], ...]
    rows: Int[Array, "b t"] | None = None
