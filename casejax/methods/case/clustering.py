"""What the clustering head adds to a loss: snippet clustering and cluster classification (Eqs. 3 to 13 of CASE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from casejax import losses, ot
from casejax.array_types import Array, Bool, Float, Int
from casejax.labels import self_labels
from casejax.methods.case.neighbours import over_neighbours
from casejax.methods.case.objective import mean_over_streams, stream_groups
from casejax.methods.case.settings import HeadSettings
from casejax.methods.contract import Loss, Outputs

RANKS: dict[str, Callable[..., Array]] = {
    "true": ot.ascending_rank,
    "argsort": ot.published_rank,
    "attention": lambda p, mask=None: p,
}
FUSES = {"logits": losses.stream_mean, "probabilities": self_labels.mean_probabilities}


def initial_cluster_labels(num_streams: int, num_clusters: int) -> Float[Array, "s k 2"]:
    """Q^C before the first step: 1/K in both columns of every cluster, so that the first prior is flat."""
    return jnp.full((num_streams, num_clusters, 2), 1 / num_clusters, jnp.float32)


def clustering_loss(
    outputs: Outputs,
    foreground: Sequence[Float[Array, "b t"]],
    cluster_labels: Float[Array, "s k 2"],
    *,
    settings: HeadSettings = HeadSettings(),
    mask: Bool[Array, "b t"] | None = None,
) -> Loss:
    """What the clustering head adds to the loss of any method: snippet clustering and cluster classification.

    Args:
      outputs: predictions for B videos, with cluster logits.
      foreground: (B, T) foreground labels Q^A, one array an embedding.
      cluster_labels: (S, K, 2) Q^C of the step before, which the prior of Eq. 11 refers to.
      settings: the head's.
      mask: True for real snippets; default all.

    Returns:
      lambda_S L_S + lambda_C L_C of Eq. 14 of CASE, with metrics among the terms, and the new Q^C.
    """
    attention, rows = outputs.attention, outputs.rows
    cluster_logits = over_neighbours(outputs.cluster_logits, context=settings.cluster_context, mask=mask)
    streams = range(len(cluster_logits))
    flat_mask = None if mask is None else mask.reshape(-1)
    loss_snippet, loss_cluster, new_cluster_labels = {}, {}, {}
    snippet_labels, cluster_assignment, kept = {}, {}, {}
    for group in stream_groups(len(streams), together=settings.co_label_clusters):
        flat = [_flatten(cluster_logits[s]) for s in group]
        group_attention = losses.stream_mean([attention[s] for s in group]).reshape(-1)
        q_foreground = losses.stream_mean([foreground[s] for s in group]).reshape(-1)
        # One group shares Q^C, so any of its streams' will do.
        q_snippet = group_snippet_labels(
            flat, group_attention, cluster_labels[group[0], :, 0], settings=settings, mask=flat_mask
        )
        logits = [
            _prototype_logits(outputs.embedding[s], rows, q_snippet.labels, q_foreground, settings, flat_mask)
            for s in group
        ]
        judged = logits
        if settings.cluster_judge == "members":
            judged = [foreground_odds(q_snippet.labels, q_foreground)]
        q_cluster = group_cluster_labels(judged, q_foreground, group_attention, settings=settings, mask=flat_mask)
        for s, own_flat, own_logits in zip(group, flat, logits, strict=True):
            snippet_labels[s], cluster_assignment[s] = q_snippet, jax.nn.softmax(own_flat)
            loss_snippet[s] = losses.masked_mean(losses.soft_cross_entropy(own_flat, q_snippet.labels), mask=flat_mask)
            loss_cluster[s] = losses.soft_cross_entropy(own_logits, q_cluster.labels).mean()
            new_cluster_labels[s] = q_cluster
            kept[s] = settings.cluster_momentum * cluster_labels[s] + (1 - settings.cluster_momentum) * q_cluster.labels

    count = len(streams)
    terms = {
        "loss_snippet": count * mean_over_streams(loss_snippet),
        "loss_cluster": count * mean_over_streams(loss_cluster),
    }
    value = settings.snippet_weight * terms["loss_snippet"] + settings.cluster_weight * terms["loss_cluster"]
    stacked = jnp.stack([kept[s] for s in streams])
    mean_attention = losses.stream_mean(attention)
    metrics = {
        **terms,
        "entropy_snippet_labels": mean_over_streams(
            {s: losses.masked_mean(losses.entropy(q.labels), mask=flat_mask) for s, q in snippet_labels.items()}
        ),
        "entropy_cluster_labels": losses.entropy(stacked).mean(),
        "entropy_mean_assignment": mean_over_streams(
            {s: losses.entropy(_column_mean(p, flat_mask)) for s, p in cluster_assignment.items()}
        ),
        "snippet_row_error": mean_over_streams({s: q.row_error for s, q in snippet_labels.items()}),
        "snippet_column_error": mean_over_streams({s: q.column_error for s, q in snippet_labels.items()}),
        "cluster_row_error": mean_over_streams({s: q.row_error for s, q in new_cluster_labels.items()}),
        "cluster_column_error": mean_over_streams({s: q.column_error for s, q in new_cluster_labels.items()}),
        "foreground_share": losses.masked_mean(losses.stream_mean(foreground), mask=mask),
        "attention_mean": losses.masked_mean(mean_attention, mask=mask),
        "attention_min": jnp.min(mean_attention, where=mask, initial=1.0),
        "attention_max": jnp.max(mean_attention, where=mask, initial=0.0),
        "cluster_foreground_mean": stacked[:, :, 0].mean(),
        "cluster_foreground_min": stacked[:, :, 0].min(),
        "cluster_foreground_max": stacked[:, :, 0].max(),
    }
    return Loss(value, metrics, cluster_labels=stacked)


def group_snippet_labels(
    logits: list[Float[Array, "n k"]],
    attention: Float[Array, " n"],
    cluster_foreground: Float[Array, " k"],
    *,
    settings: HeadSettings,
    mask: Bool[Array, " n"] | None = None,
) -> self_labels.Labels:
    """Q^S of one co-labelling group."""
    fused = FUSES[settings.fuse](logits)
    if not settings.transport:
        result = self_labels.model_labels(fused, mask=mask)
    else:
        prior = None
        if settings.prior:
            prior = ot.gaussian_rank_prior(
                jax.lax.stop_gradient(attention),
                cluster_foreground,
                std=settings.prior_std,
                rank=RANKS[settings.rank],
                mask=mask,
            )
        result = self_labels.transport_labels(
            fused,
            log_prior=prior,
            mask=mask,
            epsilon=settings.epsilon * settings.head_temperature,
            num_iters=settings.sinkhorn_iters,
            tolerance=settings.sinkhorn_tolerance,
        )
    if settings.hard_labels:
        return result._replace(labels=self_labels.harden(result.labels))
    return result


def group_cluster_labels(
    logits: list[Float[Array, "k 2"]],
    q_foreground: Float[Array, " n"],
    attention: Float[Array, " n"],
    *,
    settings: HeadSettings,
    mask: Bool[Array, " n"] | None = None,
) -> self_labels.Labels:
    """Q^C of one co-labelling group, from the logits of P^C of its streams."""
    marginal = None
    if settings.cluster_marginal != "equal":
        share = q_foreground if settings.cluster_marginal == "foreground" else jax.lax.stop_gradient(attention)
        marginal = ot.foreground_marginal(share, mask=mask)
    if settings.cluster_judge == "members":  # K rows of 2, so iterating to the end costs next to nothing
        return self_labels.transport_labels(
            logits[0], column_marginal=marginal, epsilon=settings.judge_epsilon, num_iters=100, tolerance=1e-3
        )
    return self_labels.transport_labels(
        FUSES[settings.fuse](logits),
        column_marginal=marginal,
        epsilon=settings.epsilon * settings.cluster_temperature,
        num_iters=settings.sinkhorn_iters,
        tolerance=settings.sinkhorn_tolerance,
    )


def foreground_odds(q_snippet: Float[Array, "n k"], q_foreground: Float[Array, " n"]) -> Float[Array, "k 2"]:
    """Logarithms of the shares of foreground and background among the members of each cluster."""
    both = jnp.stack([q_foreground, 1 - q_foreground], axis=1)
    share = (q_snippet.T @ both) / jnp.maximum(q_snippet.sum(axis=0), 1e-9)[:, None]
    return jnp.log(jnp.maximum(share, 1e-4))


def _prototype_logits(
    embedding: Float[Array, "*r d"],
    rows: Int[Array, "b t"] | None,
    q_snippet: Float[Array, "n k"],
    q_foreground: Float[Array, " n"],
    settings: HeadSettings,
    mask: Bool[Array, " n"] | None,
) -> Float[Array, "k 2"]:
    """Logits of P^C of one stream; their gradient reaches the embedding through both kinds of prototypes."""
    flat = _flatten(embedding if settings.prototype_gradient else jax.lax.stop_gradient(embedding))
    if settings.prototype_features == "unit":
        flat = losses.unit(flat)
    # One product for both kinds: it reads the embedding once, and once more for the gradient.
    weights = jnp.concatenate([q_snippet, self_labels.foreground_background(q_foreground, mask=mask)], axis=1)
    if rows is not None:
        weights = jax.ops.segment_sum(weights, rows.reshape(-1), len(flat))
    clusters, sides = jnp.split(self_labels.prototypes(weights, flat), [q_snippet.shape[1]])
    return self_labels.cluster_logits(clusters, sides, temperature=settings.cluster_temperature)


def _flatten(x: Float[Array, "*b k"]) -> Float[Array, "n k"]:
    return x.reshape(-1, x.shape[-1])


def _column_mean(p: Float[Array, "n k"], mask: Bool[Array, " n"] | None) -> Float[Array, " k"]:
    if mask is None:
        return p.mean(axis=0)
    return jnp.where(mask[:, None], p, 0).sum(axis=0) / jnp.maximum(mask.sum(), 1)
