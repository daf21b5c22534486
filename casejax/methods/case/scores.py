"""Snippet scores of a two-branch network: what selects snippets in training and is localised in inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.losses import select_top_k, stream_mean
from casejax.losses.pooling import calibrate, pooled
from casejax.records import SnippetScores

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from casejax.methods.case.outputs import Outputs


def transformed_foreground(
    cluster_logits: Sequence[Float[Array, "b t k"]], cluster_labels: Float[Array, "s k 2"]
) -> Float[Array, "b t"]:
    """P^T = P^S Q^C_{:,1}, the foreground probability through the clusters, mean over the streams.

    Section 4.3 of CASE, by the law of total probability.

    Args:
      cluster_logits: (B, T, K) logits of P^S, one array a stream.
      cluster_labels: (S, K, 2) Q^C of each stream; the first column is foreground.

    Returns:
      (B, T), in [0, 1].
    """
    return stream_mean(
        [
            jnp.einsum("btk,k->bt", jax.nn.softmax(logits), labels[:, 0], precision="highest")
            for logits, labels in zip(cluster_logits, cluster_labels, strict=True)
        ]
    )


def fused_foreground(
    attention: Float[Array, "b t"], transformed: Float[Array, "b t"], *, weight: float = 0.5
) -> Float[Array, "b t"]:
    """P^M = (1 - weight) P^A + weight P^T, section 4.3 of CASE."""
    return (1 - weight) * attention + weight * transformed


def clustering_assisted(
    outputs: Outputs,
    cluster_labels: Float[Array, "s k 2"],
    *,
    cas_weight: float | Float[Array, ""] = 1 / 5,
    transformed_weight: float = 0.5,
    top_k_divisor: int = 8,
    pool_probabilities: bool = False,
) -> SnippetScores:
    """Clustering-assisted inference, section 4.3 and appendix F.4 of CASE.

    Args:
      outputs: the network's predictions.
      cluster_labels: (S, K, 2) Q^C of each stream, from the last training step.
      cas_weight: omega of the calibrated T-CAS.
      transformed_weight: share of P^T in P^M.
      top_k_divisor: snippets a selected one in the video score.
      pool_probabilities: average probabilities, not logits, over the selected snippets.

    Returns:
      Snippet and video scores.
    """
    attention = stream_mean(outputs.attention)
    transformed = transformed_foreground(outputs.cluster_logits, cluster_labels)
    foreground = fused_foreground(attention, transformed, weight=transformed_weight)
    fused = calibrate(outputs.cas, foreground, cas_weight=cas_weight)
    selected = select_top_k(fused, divisor=top_k_divisor)
    video = stream_mean(
        [jax.nn.softmax(pooled(cas, selected, probabilities=pool_probabilities)) for cas in outputs.cas]
    )
    return SnippetScores(fused, attention, transformed, foreground, video)


@lru_cache(maxsize=32)  # the same network and options compile once, whoever asks
def make_scorer(
    graphdef: nnx.GraphDef[Any],
    *,
    cas_weight: float,
    transformed_weight: float,
    top_k_divisor: int,
    pool_probabilities: bool,
) -> Callable[..., SnippetScores]:
    """A compiled function of (params, Q^C, features, rows) to snippet scores; see `scores.clustering_assisted`."""

    @jax.jit
    def score(
        params: Any, cluster_labels: jax.Array, features: tuple[jax.Array, ...], rows: jax.Array | None = None
    ) -> SnippetScores:
        return clustering_assisted(
            nnx.merge(graphdef, params)(features, rows=rows),
            cluster_labels,
            cas_weight=cas_weight,
            transformed_weight=transformed_weight,
            top_k_divisor=top_k_divisor,
            pool_probabilities=pool_probabilities,
        )

    return score
