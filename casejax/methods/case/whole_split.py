"""Q^C of a whole split: the labels of section 4.2 of CASE from every video at once, not from one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax import losses
from casejax.data.sampling import uniform_snippets
from casejax.labels import self_labels
from casejax.methods.case.clustering import foreground_odds, group_cluster_labels, group_snippet_labels
from casejax.methods.case.neighbours import over_neighbours
from casejax.methods.case.objective import group_selection, stream_groups
from casejax.methods.case.settings import Clustered
from casejax.methods.contract import Outputs
from casejax.records import Split


def make_whole_split_labels(
    graphdef: nnx.GraphDef[Any],
    split: Split,
    classes: tuple[str, ...],
    *,
    settings: Clustered,
    num_snippets: int,
    batch_size: int = 16,
) -> Callable[[Any, jax.Array | np.ndarray], jax.Array]:
    """A function of (params, Q^C) to the Q^C (S, K, 2) that the whole split gives.

    The network runs over the split twice, first for all that labels depend on, then for the sums behind the
    prototypes; embeddings of the whole split are never held. Snippets are spread evenly, T a video.
    """
    lengths, base, head = split.features.lengths, settings.base, settings.head
    rows = split.features.starts[:, None] + np.asarray(uniform_snippets(jnp.asarray(lengths), num_snippets))
    labels = split.multi_hot(classes)
    streams = range(len(split.features.streams))

    @jax.jit
    def predict(params: Any, features: tuple[jax.Array, ...], labels: jax.Array) -> tuple[Any, Any, Any]:
        outputs: Outputs = nnx.merge(graphdef, params)(features)
        foreground: dict[int, jax.Array] = {}
        for group in stream_groups(len(streams), together=base.co_label_selection):
            _, q_foreground = group_selection(outputs, group, labels, cas_weight=base.cas_weight, settings=base)
            foreground |= dict.fromkeys(group, q_foreground)
        logits = over_neighbours(outputs.cluster_logits, context=head.cluster_context)
        return logits, outputs.attention, tuple(foreground[s] for s in streams)

    @jax.jit
    def weights_of(logits: Any, attention: Any, foreground: Any, cluster_labels: jax.Array) -> tuple[jax.Array, ...]:
        """What every snippet weighs in the prototypes of the K clusters, of foreground and of background."""
        weights: dict[int, jax.Array] = {}
        for group in stream_groups(len(streams), together=head.co_label_clusters):
            q_snippet = group_snippet_labels(
                [logits[s].reshape(-1, logits[s].shape[-1]) for s in group],
                losses.stream_mean([attention[s] for s in group]).reshape(-1),
                cluster_labels[group[0], :, 0],
                settings=head,
            )
            q_foreground = losses.stream_mean([foreground[s] for s in group]).reshape(-1)
            both = jnp.concatenate([q_snippet.labels, self_labels.foreground_background(q_foreground)], axis=1)
            weights |= {s: both.reshape(len(lengths), num_snippets, -1) for s in group}
        return tuple(weights[s] for s in streams)

    @jax.jit
    def weighted_sums(
        params: Any, features: tuple[jax.Array, ...], weights: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, ...]:
        embeddings = nnx.merge(graphdef, params)(features).embedding
        if head.prototype_features == "unit":
            embeddings = tuple(losses.unit(e) for e in embeddings)
        return tuple(
            jnp.einsum("btw,btd->wd", w, e, precision="highest") for w, e in zip(weights, embeddings, strict=True)
        )

    @jax.jit
    def finish(
        sums: tuple[jax.Array, ...], weights: tuple[jax.Array, ...], foreground: Any, attention: Any
    ) -> jax.Array:
        kept: dict[int, jax.Array] = {}
        for group in stream_groups(len(streams), together=head.co_label_clusters):
            logits = [
                self_labels.cluster_logits(sums[s][:-2], sums[s][-2:], temperature=head.cluster_temperature)
                for s in group
            ]
            q_foreground, p_attention = (
                losses.stream_mean([x[s] for s in group]).reshape(-1) for x in (foreground, attention)
            )
            if head.cluster_judge == "members":
                flat = weights[group[0]].reshape(-1, weights[group[0]].shape[-1])
                logits = [foreground_odds(flat[:, :-2], q_foreground)]
            found = group_cluster_labels(logits, q_foreground, p_attention, settings=head)
            kept |= {s: found.labels for s in group}
        return jnp.stack([kept[s] for s in streams])

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, len(lengths), batch_size):
            # The last batch is filled up, so that one compilation serves all.
            index = np.arange(first, first + batch_size)
            yield index % len(lengths), index < len(lengths)

    def of(params: Any, cluster_labels: jax.Array | np.ndarray) -> jax.Array:
        parts = []
        for index, real in batches():
            features = tuple(stream[rows[index]] for stream in split.features.streams)
            part = jax.device_get(predict(params, features, labels[index]))
            parts.append(jax.tree.map(lambda x, real=real: x[real], part))
        logits, attention, foreground = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

        weights = jax.device_get(weights_of(logits, attention, foreground, jnp.asarray(cluster_labels)))
        sums = None
        for index, real in batches():
            features = tuple(stream[rows[index]] for stream in split.features.streams)
            own = tuple(weights[s][index] * real[:, None, None] for s in streams)
            part = weighted_sums(params, features, own)
            sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
        return finish(sums, weights, foreground, attention)

    return of
