"""Snippet scores of a two-branch network: what selects snippets in training and is localised in inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from casejax.losses import top_k_mean
from casejax.self_labels import select_top_k, stream_mean

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    from casejax.models.outputs import Outputs


def pooled(
    cas: Float[Array, "b t c"], selected: Bool[Array, "b t c"], *, probabilities: bool = False
) -> Float[Array, "b c"]:
    """Video-level class scores of one stream before the softmax of Eq. 16 of CASE.

    Args:
      cas: (B, T, C) class logits.
      selected: (B, T, C) snippets to pool, from `self_labels.select_top_k`.
      probabilities: average the snippets' probabilities, as printed; default their logits, as published.
    """
    return top_k_mean(jax.nn.softmax(cas) if probabilities else cas, selected)


def class_probabilities(cas: Sequence[Float[Array, "b t c"]]) -> Float[Array, "b t c"]:
    """P^V: softmax of the class activation sequence over classes (Table 9 of CASE), mean over streams."""
    return stream_mean([jax.nn.softmax(logits) for logits in cas])


def calibrate(
    cas: Sequence[Float[Array, "b t c"]], foreground: Float[Array, "b t"], *, cas_weight: float | Float[Array, ""]
) -> Float[Array, "b t c"]:
    """Calibrated T-CAS: `cas_weight * P^V + (1 - cas_weight) * foreground` (appendix F.1 and Eq. 21 of CASE).

    Args:
      cas: (B, T, C) class logits, one array a stream.
      foreground: (B, T) foreground probability: P^A in training, P^M in inference.
      cas_weight: omega; 0.25 in the paper, in effect 1/3 in training and 1/5 in inference as published.

    Returns:
      (B, T, C), in [0, 1].
    """
    return cas_weight * class_probabilities(cas) + (1 - cas_weight) * foreground[:, :, None]


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


class SnippetScores(NamedTuple):
    """What clustering-assisted inference says of B videos of T snippets.

    Attributes:
      fused: (B, T, C) calibrated T-CAS with P^M in the place of P^A; this is what is localised.
      attention: (B, T) P^A.
      transformed: (B, T) P^T; None of a network without clusters.
      foreground: (B, T) P^M; P^A of a network without clusters.
      video: (B, C) class probabilities of the video.
      ranked: (B, T, C) what ranks proposals, where it is not `fused`.
    """

    fused: Float[Array, "b t c"]
    attention: Float[Array, "b t"]
    transformed: Float[Array, "b t"] | None
    foreground: Float[Array, "b t"]
    video: Float[Array, "b c"]
    ranked: Float[Array, "b t c"] | None = None


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
