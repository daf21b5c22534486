"""The objective of CASE (Eq. 14): labels and losses put together as the options say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from casejax import losses, ot
from casejax.labels import self_labels
from casejax.methods.case.outputs import Outputs
from casejax.run.config import MethodConfig

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

RANKS = {"true": ot.ascending_rank, "argsort": ot.published_rank, "attention": lambda p, *, mask=None: p}
FUSES = {"logits": losses.stream_mean, "probabilities": self_labels.mean_probabilities}


class CaseAux(NamedTuple):
    """What a step keeps besides the loss.

    Attributes:
      cluster_labels: (S, K, 2) Q^C of each stream, foreground first.
      metrics: scalars to log.
    """

    cluster_labels: Float[Array, "s k 2"]
    metrics: dict[str, Float[Array, ""]]


def initial_cluster_labels(num_streams: int, num_clusters: int, method: MethodConfig) -> Float[Array, "s k 2"]:
    """Q^C before the first step, the same for all clusters, so that the first prior is flat."""
    value = method.initial_foreground
    foreground = 1 / num_clusters if value is None else value
    background = 1 / num_clusters if value is None else 1 - value
    return jnp.tile(jnp.asarray([foreground, background], jnp.float32), (num_streams, num_clusters, 1))


def case_objective(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    cluster_labels: Float[Array, "s k 2"],
    method: MethodConfig,
    *,
    mask: Bool[Array, "b t"] | None = None,
) -> tuple[Float[Array, ""], CaseAux]:
    """The loss of one batch, with new cluster labels and metrics.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      cluster_labels: (S, K, 2) Q^C of the step before, which the prior of Eq. 11 refers to.
      method: the options of the method.
      mask: True for real snippets; default all.

    Returns:
      The loss of Eq. 14 and what the step keeps.
    """
    streams = range(len(outputs.cas))

    loss_video, loss_attention, foreground = {}, {}, {}
    for group in stream_groups(len(streams), together=method.co_label_selection):
        selected, group_foreground = group_selection(outputs, group, labels, method, mask)
        for s in group:
            foreground[s] = group_foreground
            video = losses.pooled(outputs.cas[s], selected, probabilities=method.pooling == "probabilities")
            loss_video[s] = losses.video_cross_entropy(video, labels)
            loss_attention[s] = losses.generalized_bce(
                outputs.attention[s], foreground[s], exponent=method.gce_exponent, mask=mask
            )

    clustered, aux = clustering_objective(
        outputs.cluster_logits,
        outputs.attention,
        outputs.embedding,
        [foreground[s] for s in streams],
        cluster_labels,
        method,
        mask=mask,
        rows=outputs.rows,
    )
    terms = {
        "loss_video": _mean(loss_video),
        "loss_attention": (len(streams) if method.sum_streams else 1) * _mean(loss_attention),
    }
    loss = terms["loss_video"] + method.attention_weight * terms["loss_attention"] + clustered
    return loss, CaseAux(aux.cluster_labels, jax.lax.stop_gradient({"loss": loss, **terms}) | aux.metrics)


def clustering_objective(
    cluster_logits: Sequence[Float[Array, "b t k"]],
    attention: Sequence[Float[Array, "b t"]],
    embedding: Sequence[Float[Array, "*_ _"]],
    foreground: Sequence[Float[Array, "b t"]],
    cluster_labels: Float[Array, "s k 2"],
    method: MethodConfig,
    *,
    mask: Bool[Array, "b t"] | None = None,
    rows: Int[Array, "b t"] | None = None,
) -> tuple[Float[Array, ""], CaseAux]:
    """What the clustering head adds to the loss of any base: snippet clustering and cluster classification.

    Args:
      cluster_logits: (B, T, K) logits of P^S, one array a stream.
      attention: (B, T) foreground probability P^A, one array a stream.
      embedding: (B, T, D) snippet embeddings, one array a stream; (R, D) where there are `rows`.
      foreground: (B, T) foreground labels Q^A, one array a stream.
      cluster_labels: (S, K, 2) Q^C of the step before.
      method: the options of the method.
      mask: True for real snippets; default all.
      rows: (B, T) the row of the embedding that belongs to each place.

    Returns:
      lambda_S L_S + lambda_C L_C, and what the step keeps.
    """
    streams = range(len(cluster_logits))
    flat_mask = None if mask is None else mask.reshape(-1)
    loss_snippet, loss_cluster, new_cluster_labels = {}, {}, {}
    snippet_labels, cluster_assignment, kept = {}, {}, {}
    for group in stream_groups(len(streams), together=method.co_label_clusters):
        flat = [_flatten(cluster_logits[s]) for s in group]
        group_attention = losses.stream_mean([attention[s] for s in group]).reshape(-1)
        q_foreground = losses.stream_mean([foreground[s] for s in group]).reshape(-1)
        # One group shares Q^C, so any of its streams' will do.
        q_snippet = group_snippet_labels(flat, group_attention, cluster_labels[group[0], :, 0], method, flat_mask)
        logits = [
            _prototype_logits(embedding[s], rows, q_snippet.labels, q_foreground, method, flat_mask) for s in group
        ]
        q_cluster = group_cluster_labels(logits, q_foreground, group_attention, method, flat_mask)
        for s, own_flat, own_logits in zip(group, flat, logits, strict=True):
            snippet_labels[s], cluster_assignment[s] = q_snippet, jax.nn.softmax(own_flat)
            loss_snippet[s] = losses.masked_mean(losses.soft_cross_entropy(own_flat, q_snippet.labels), mask=flat_mask)
            loss_cluster[s] = losses.soft_cross_entropy(own_logits, q_cluster.labels).mean()
            new_cluster_labels[s] = q_cluster
            kept[s] = method.cluster_momentum * cluster_labels[s] + (1 - method.cluster_momentum) * q_cluster.labels

    count = len(streams) if method.sum_streams else 1
    terms = {"loss_snippet": count * _mean(loss_snippet), "loss_cluster": count * _mean(loss_cluster)}
    loss = method.snippet_weight * terms["loss_snippet"] + method.cluster_weight * terms["loss_cluster"]
    stacked = jnp.stack([kept[s] for s in streams])
    mean_attention = losses.stream_mean(attention)
    metrics = {
        **terms,
        "entropy_snippet_labels": _mean(
            {s: losses.masked_mean(losses.entropy(q.labels), mask=flat_mask) for s, q in snippet_labels.items()}
        ),
        "entropy_cluster_labels": losses.entropy(stacked).mean(),
        "entropy_mean_assignment": _mean(
            {s: losses.entropy(_column_mean(p, flat_mask)) for s, p in cluster_assignment.items()}
        ),
        "snippet_row_error": _mean({s: q.row_error for s, q in snippet_labels.items()}),
        "snippet_column_error": _mean({s: q.column_error for s, q in snippet_labels.items()}),
        "cluster_row_error": _mean({s: q.row_error for s, q in new_cluster_labels.items()}),
        "cluster_column_error": _mean({s: q.column_error for s, q in new_cluster_labels.items()}),
        "foreground_share": losses.masked_mean(losses.stream_mean(foreground), mask=mask),
        "attention_mean": losses.masked_mean(mean_attention, mask=mask),
        "attention_min": jnp.min(mean_attention, where=mask, initial=1.0),
        "attention_max": jnp.max(mean_attention, where=mask, initial=0.0),
        "cluster_foreground_mean": stacked[:, :, 0].mean(),
        "cluster_foreground_min": stacked[:, :, 0].min(),
        "cluster_foreground_max": stacked[:, :, 0].max(),
    }
    return loss, CaseAux(stacked, jax.lax.stop_gradient(metrics))


def stream_groups(num_streams: int, *, together: bool) -> list[tuple[int, ...]]:
    """Streams that are labelled together: all in one group, or each in its own."""
    streams = range(num_streams)
    return [tuple(streams)] if together else [(s,) for s in streams]


def group_selection(
    outputs: Outputs,
    group: tuple[int, ...],
    labels: Float[Array, "b c"],
    method: MethodConfig,
    mask: Bool[Array, "b t"] | None = None,
) -> tuple[Bool[Array, "b t c"], Float[Array, "b t"]]:
    """Snippets that pool into a video's scores, and Q^A, of one co-labelling group."""
    attention = losses.stream_mean([outputs.attention[s] for s in group])
    calibrated = losses.calibrate([outputs.cas[s] for s in group], attention, cas_weight=method.cas_weight)
    selected = active = losses.select_top_k(calibrated, divisor=method.top_k_divisor, mask=mask)
    if method.foreground_divisor is not None:
        active = losses.select_top_k(calibrated, divisor=method.foreground_divisor, mask=mask)
    return selected, self_labels.foreground_labels(active, labels)


def group_snippet_labels(
    logits: list[Float[Array, "n k"]],
    attention: Float[Array, " n"],
    cluster_foreground: Float[Array, " k"],
    method: MethodConfig,
    mask: Bool[Array, " n"] | None = None,
) -> self_labels.Labels:
    """Q^S of one co-labelling group."""
    fused = FUSES[method.fuse](logits)
    if not method.transport:
        result = self_labels.model_labels(fused, mask=mask)
    else:
        prior = None
        if method.prior:
            prior = ot.gaussian_rank_prior(
                jax.lax.stop_gradient(attention),
                cluster_foreground,
                std=method.prior_std,
                rank=RANKS[method.rank],
                mask=mask,
            )
        result = self_labels.transport_labels(
            fused,
            log_prior=prior,
            mask=mask,
            epsilon=method.epsilon * method.head_temperature,
            num_iters=method.sinkhorn_iters,
            tolerance=method.sinkhorn_tolerance,
        )
    if method.hard_labels:
        return result._replace(labels=self_labels.harden(result.labels))
    return result


def group_cluster_labels(
    logits: list[Float[Array, "k 2"]],
    q_foreground: Float[Array, " n"],
    attention: Float[Array, " n"],
    method: MethodConfig,
    mask: Bool[Array, " n"] | None = None,
) -> self_labels.Labels:
    """Q^C of one co-labelling group, from the logits of P^C of its streams."""
    marginal = None
    if method.cluster_marginal != "equal":
        share = q_foreground if method.cluster_marginal == "foreground" else jax.lax.stop_gradient(attention)
        marginal = ot.foreground_marginal(share, mask=mask)
    return self_labels.transport_labels(
        FUSES[method.fuse](logits),
        column_marginal=marginal,
        epsilon=method.epsilon * method.cluster_temperature,
        num_iters=method.sinkhorn_iters,
        tolerance=method.sinkhorn_tolerance,
    )


def _prototype_logits(
    embedding: Float[Array, "*r d"],
    rows: Int[Array, "b t"] | None,
    q_snippet: Float[Array, "n k"],
    q_foreground: Float[Array, " n"],
    method: MethodConfig,
    mask: Bool[Array, " n"] | None,
) -> Float[Array, "k 2"]:
    """Logits of P^C of one stream; their gradient reaches the embedding through both kinds of prototypes."""
    flat = _flatten(embedding if method.prototype_gradient else jax.lax.stop_gradient(embedding))
    if method.prototype_features == "unit":
        flat = losses.unit(flat)
    # One product for both kinds: it reads the embedding once, and once more for the gradient.
    weights = jnp.concatenate([q_snippet, self_labels.foreground_background(q_foreground, mask=mask)], axis=1)
    if rows is not None:
        weights = jax.ops.segment_sum(weights, rows.reshape(-1), len(flat))
    clusters, sides = jnp.split(self_labels.prototypes(weights, flat), [q_snippet.shape[1]])
    return self_labels.cluster_logits(clusters, sides, temperature=method.cluster_temperature)


def _flatten(x: Float[Array, "*b k"]) -> Float[Array, "n k"]:
    return x.reshape(-1, x.shape[-1])


def _column_mean(p: Float[Array, "n k"], mask: Bool[Array, " n"] | None) -> Float[Array, " k"]:
    if mask is None:
        return p.mean(axis=0)
    return jnp.where(mask[:, None], p, 0).sum(axis=0) / jnp.maximum(mask.sum(), 1)


def _mean(values: dict[int, Float[Array, "*b"]]) -> Float[Array, ""]:
    """Mean over streams, and over videos where there is a value for each."""
    return jnp.stack(list(values.values())).mean()
