"""The state of a run: all that a step changes and all that inference needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from casejax.models import CaseNet
from casejax.train.config import Config, Number
from casejax.train.objective import initial_cluster_labels

ENCODER_DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


class TrainState(NamedTuple):
    """One immutable state.

    Attributes:
      step: int32 scalar, steps done.
      params: the network's parameters, as `nnx.split` gives them.
      opt_state: the optimizer's.
      cluster_labels: (S, K, 2) Q^C of each stream at the last step; part of the trained model.
      key: the run's PRNG key, never changed: step n derives what it needs from (key, n).
    """

    step: jax.Array
    params: Any
    opt_state: Any
    cluster_labels: jax.Array
    key: jax.Array


def make_optimizer(
    learning_rate: Number, weight_decay: Number, *, decoupled: bool = False
) -> optax.GradientTransformation:
    """Adam with an L2 penalty in the gradient, or with the decay of AdamW if `decoupled`; on all parameters."""
    decay, adam = optax.add_decayed_weights(weight_decay), optax.scale_by_adam()
    return optax.chain(*((adam, decay) if decoupled else (decay, adam)), optax.scale_by_learning_rate(learning_rate))


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


def initial_state(config: Config, dims: tuple[int, ...], num_classes: int) -> tuple[nnx.GraphDef[Any], TrainState]:
    """The network's structure and the state before the first step."""
    graphdef, params = nnx.split(make_network(config, dims, num_classes), nnx.Param)
    optimizer = make_optimizer(
        config.train.learning_rate, config.train.weight_decay, decoupled=config.train.decoupled_decay
    )
    state = TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        cluster_labels=initial_cluster_labels(len(dims), config.network.num_clusters, config.method),
        key=jax.random.key(config.train.seed),
    )
    return graphdef, state
