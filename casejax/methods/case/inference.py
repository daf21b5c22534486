"""Clustering-assisted inference, section 4.3 and appendix F.4 of CASE."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float
from casejax.losses import stream_mean
from casejax.methods.case.neighbours import over_neighbours
from casejax.methods.case.settings import CaseSettings, Clustered
from casejax.methods.contract import Foreground, Outputs
from casejax.methods.layers import calibrated_scores
from casejax.records import SnippetScores


def transformed_foreground(
    cluster_logits: Sequence[Float[Array, "b t k"]], cluster_labels: Float[Array, "s k 2"], *, product: bool = False
) -> Float[Array, "b t"]:
    """P^T = P^S Q^C_{:,1}, the foreground probability through the clusters, mean over the streams.

    Section 4.3 of CASE, by the law of total probability.

    Args:
      cluster_logits: (B, T, K) logits of P^S, one array a stream.
      cluster_labels: (S, K, 2) Q^C of each stream; the first column is foreground.
      product: one P^S, in proportion to the product of the streams', for clusters that mean the same in all of them.

    Returns:
      (B, T), in [0, 1].
    """
    if product:
        cluster_logits, cluster_labels = [jnp.stack(cluster_logits).sum(axis=0)], cluster_labels[:1]
    return stream_mean(
        [
            jnp.einsum("btk,k->bt", jax.nn.softmax(logits), labels[:, 0], precision="highest")
            for logits, labels in zip(cluster_logits, cluster_labels, strict=True)
        ]
    )


def cluster_assignments(
    outputs: Outputs, *, settings: Clustered, mask: Bool[Array, "b t"] | None = None
) -> tuple[Float[Array, "b t k"], ...]:
    """P^S as inference has it: one for all streams where their product is taken, else one each."""
    head = settings.head
    logits = over_neighbours(outputs.cluster_logits, context=head.cluster_context, alike=True, mask=mask)
    if head.transformed_streams == "product" and head.co_label_clusters:
        logits = (jnp.stack(logits).sum(axis=0),)
    return tuple(jax.nn.softmax(each) for each in logits)


def fused_foreground(
    attention: Float[Array, "b t"], transformed: Float[Array, "b t"], *, weight: float = 0.5
) -> Float[Array, "b t"]:
    """P^M = (1 - weight) P^A + weight P^T, section 4.3 of CASE."""
    return (1 - weight) * attention + weight * transformed


def clustered_foreground(
    outputs: Outputs,
    cluster_labels: Float[Array, "s k 2"],
    *,
    settings: Clustered,
    mask: Bool[Array, "b t"] | None = None,
) -> Foreground:
    """P^T and P^M of a method with the clustering head."""
    head = settings.head
    product = head.transformed_streams == "product" and head.co_label_clusters
    logits = over_neighbours(outputs.cluster_logits, context=head.cluster_context, alike=True, mask=mask)
    transformed = transformed_foreground(logits, cluster_labels, product=product)
    attention = stream_mean(outputs.attention)
    return Foreground(transformed, fused_foreground(attention, transformed, weight=head.transformed_weight))


def case_scores(
    outputs: Outputs, *, settings: CaseSettings = CaseSettings(), mask: Bool[Array, "b t"] | None = None
) -> SnippetScores:
    """Inference of the two-branch network: the calibrated T-CAS is what is localised."""
    return calibrated_scores(
        outputs,
        cas_weight=settings.test_cas_weight,
        top_k_divisor=settings.top_k_divisor,
        probabilities=settings.pooling == "probabilities",
        mask=mask,
    )
