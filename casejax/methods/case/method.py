"""A base of `casejax.methods`, alone or with the clustering head of CASE."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.labels.pseudo_labels import LABEL_EPOCHS, LabelHistory, label_target, label_weight
from casejax.labels.self_labels import foreground_labels
from casejax.losses import select_top_k, stream_mean
from casejax.methods import BASES
from casejax.methods.case.head import ClusteredNet
from casejax.methods.case.network import project_prototypes
from casejax.methods.case.numbers import with_numbers
from casejax.methods.case.objective import clustering_objective, initial_cluster_labels
from casejax.methods.case.recipe import Kept, Now, Recipe, Scorer, Start
from casejax.methods.case.scores import fused_foreground, transformed_foreground
from casejax.methods.contract import Base, Moment, options_of
from casejax.methods.outputs import BaseOutputs
from casejax.records import Batch, SnippetScores
from casejax.run.config import Config, Number

SHARED = ("top_k_divisor", "gce_exponent", "cas_weight")
"""Settings of bases that are options of every method."""


def settings_of(config: Config) -> tuple[Base, Any]:
    """The base of a configuration and its settings, as the options change them.

    Raises:
      OptionError: as `with_numbers`.
    """
    base = BASES[config.network.base]
    return base, with_numbers(base.settings, config, SHARED)


def start(config: Config, dims: tuple[int, ...], num_classes: int) -> Start:
    """The network before its first step. The base's parameters are the same with and without the head."""
    base, settings = settings_of(config)
    rngs = nnx.Rngs(params=config.train.seed)
    options = options_of(base.network, settings) | {"hidden": config.network.hidden}
    network = base.network(dims, num_classes, **options, rngs=rngs)
    streams = len(network.embedding_dims)
    memory = base.first_memory(settings, network, num_classes)
    labels: Any = ()
    if config.network.case:
        labels = initial_cluster_labels(streams, config.network.num_clusters, config.method)
        network = ClusteredNet(
            network,
            config.network.num_clusters,
            temperature=config.method.head_temperature,
            projected=config.method.projected,
            detached=not config.method.cluster_gradient,
            rngs=rngs,
        )
    graphdef, params = nnx.split(network, nnx.Param)
    return Start(graphdef, params, labels, memory)


def loss(
    graphdef: nnx.GraphDef[Any], params: Any, state: Any, batch: Batch, now: Now, config: Config
) -> tuple[jax.Array, Kept]:
    """The loss of one batch: the base's own, and that of the clustering head."""
    base, settings = settings_of(config)
    network = nnx.merge(graphdef, params)
    outputs = network(batch.streams, now.key, mask=batch.mask)
    clusters = outputs.cluster_logits if config.network.case else ()
    own: BaseOutputs = outputs.base if config.network.case else outputs
    epoch = published_epoch(config, now)
    moment = Moment(
        settings=settings,
        network=network.base if config.network.case else network,
        progress=now.progress,
        epoch=epoch,
        pairs=config.method.similar_pairs,
        memory=state.memory,
        snippet_labels=_targets(state.labels, batch, now.progress * LABEL_EPOCHS),
    )
    value, terms = base.objective(own, batch.labels, batch.mask, moment)
    cluster_labels, metrics = state.cluster_labels, {}
    if config.network.case:
        selected = select_top_k(own.select_scores, divisor=config.method.top_k_divisor, mask=batch.mask)
        foreground = foreground_labels(selected, batch.labels)
        clustered, aux = clustering_objective(
            clusters,
            own.attention,
            own.embedding,
            [foreground] * len(clusters),
            cluster_labels,
            config.method,
            mask=batch.mask,
        )
        value, cluster_labels, metrics = value + clustered, aux.cluster_labels, aux.metrics
    memory = jax.lax.stop_gradient(base.remember(state.memory, own, batch.labels))
    return value, Kept(cluster_labels, memory, jax.lax.stop_gradient({"loss": value, **terms}) | metrics)


def published_epoch(config: Config, now: Now) -> jax.Array:
    """Epochs done, in a run of as many as the base was published with."""
    return now.progress * BASES[config.network.base].settings.schedule.epochs


def rate(config: Config, now: Now) -> Number:
    """Factor on the learning rate, for bases whose settings have `rates`."""
    steps = getattr(BASES[config.network.base].settings, "rates", ((0, 1.0),))
    if len(steps) == 1:
        return 1.0
    first, factors = (jnp.asarray(column) for column in zip(*steps, strict=True))
    return factors[(published_epoch(config, now) >= first).sum() - 1]


def _targets(labels: Any, batch: Batch, epoch: jax.Array) -> jax.Array | None:
    """The snippet labels of a batch, already weighted."""
    if not isinstance(labels, LabelHistory) or batch.videos is None or batch.snippets is None:
        return None
    places = batch.videos[:, None], batch.snippets
    own = LabelHistory(labels.newest[places], labels.previous[places], labels.made)
    # Published epochs are whole.
    epoch = jnp.floor(epoch).astype(jnp.int32)
    return label_weight(epoch) * label_target(own, epoch)


def scorer(graphdef: nnx.GraphDef[Any], config: Config) -> Scorer:
    """The base's inference, with P^M in the place of its attention where it has a clustering head."""
    return _scorer(graphdef, config.changed(seed=0, variant="official"))


@lru_cache(maxsize=32)  # the same network and options compile once, whoever asks
def _scorer(graphdef: nnx.GraphDef[Any], config: Config) -> Scorer:
    base, settings = settings_of(config.changed(cas_weight=config.inference.test_cas_weight))

    @jax.jit
    def score(
        params: Any, cluster_labels: Any, features: Any, rows: None = None, mask: jax.Array | None = None
    ) -> SnippetScores:
        outputs = nnx.merge(graphdef, params)(features, mask=mask)
        own: BaseOutputs = outputs.base if config.network.case else outputs
        options = options_of(base.scores, settings)
        if not config.network.case:
            found = base.scores(own, None, mask=mask, **options)
            attention = stream_mean(own.attention) if own.attention else found.thresholded.max(axis=2)
            return SnippetScores(found.thresholded, attention, None, attention, found.video, found.ranked)
        attention = stream_mean(own.attention)
        transformed = transformed_foreground(outputs.cluster_logits, cluster_labels)
        foreground = fused_foreground(attention, transformed, weight=config.inference.transformed_weight)
        found = base.scores(own, foreground, mask=mask, **options)
        return SnippetScores(found.thresholded, attention, transformed, foreground, found.video, found.ranked)

    return score


RECIPE = Recipe(
    start,
    loss,
    scorer,
    prepare=lambda params, config: project_prototypes(params) if config.method.projected else params,
    rate=rate,
)
