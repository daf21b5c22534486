"""CASE in one program: its network, its objective (Eq. 14) and its inference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.methods.case.network import CaseNet, project_prototypes
from casejax.methods.case.objective import case_objective, initial_cluster_labels
from casejax.methods.case.recipe import Kept, Now, Recipe, Scorer, Start
from casejax.methods.case.scores import make_scorer
from casejax.records import Batch
from casejax.run.config import Config

ENCODER_DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


def make_network(config: Config, dims: tuple[int, ...], num_classes: int) -> CaseNet:
    """The network that `config` describes, with parameters drawn from its seed."""
    return CaseNet(
        dims,
        num_classes,
        config.network.num_clusters,
        hidden=config.network.hidden,
        temperature=config.method.head_temperature,
        projected=config.method.projected,
        detached=not config.method.cluster_gradient,
        encoder_dtype=ENCODER_DTYPES[config.network.encoder_dtype],
        rngs=nnx.Rngs(params=config.train.seed),
    )


def start(config: Config, dims: tuple[int, ...], num_classes: int) -> Start:
    """The network before its first step."""
    graphdef, params = nnx.split(make_network(config, dims, num_classes), nnx.Param)
    return Start(graphdef, params, initial_cluster_labels(len(dims), config.network.num_clusters, config.method))


def loss(
    graphdef: nnx.GraphDef[Any], params: Any, state: Any, batch: Batch, now: Now, config: Config
) -> tuple[jax.Array, Kept]:
    """The loss of one batch; omega falls to its value over the first epochs, if it is to."""
    method = config.method
    warmup_steps = method.warmup_epochs * now.steps_per_epoch
    rest = jnp.clip(1 - (now.step + 1) / jnp.maximum(warmup_steps, 1e-9), 0, 1)
    method = replace(method, cas_weight=method.cas_weight + (1 - method.cas_weight) * rest)
    outputs = nnx.merge(graphdef, params)(batch.streams, mask=batch.mask, rows=batch.rows)
    value, aux = case_objective(outputs, batch.labels, state.cluster_labels, method, mask=batch.mask)
    return value, Kept(aux.cluster_labels, state.memory, aux.metrics)


def scorer(graphdef: nnx.GraphDef[Any], config: Config) -> Scorer:
    """Clustering-assisted inference."""
    return make_scorer(
        graphdef,
        cas_weight=config.inference.test_cas_weight,
        transformed_weight=config.inference.transformed_weight,
        top_k_divisor=config.method.top_k_divisor,
        pool_probabilities=config.method.pooling == "probabilities",
    )


RECIPE = Recipe(
    start,
    loss,
    scorer,
    prepare=lambda params, config: project_prototypes(params) if config.method.projected else params,
    repeats_once=True,
)
