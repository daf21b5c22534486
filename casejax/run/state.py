"""The state of a run: all that a step changes and all that inference needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.methods.contract import first_labels
from casejax.run.config import Config


class TrainState(NamedTuple):
    """One immutable state.

    Attributes:
      step: int32 scalar, steps done.
      params: all that the optimizer changes, as `nnx.split` gives it.
      opt_state: the optimizer's.
      cluster_labels: (S, K, 2) Q^C of each stream at the last step; part of the trained model. () without clusters.
      key: the run's PRNG key, never changed: step n derives what it needs from (key, n).
      memory: what a method keeps from step to step.
      labels: of all training videos: `LabelHistory` of (V, longest, C + 1), or `Instances`; () where there are none.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    cluster_labels: Any
    key: jax.Array
    memory: Any = ()
    labels: Any = ()


def initial_state(
    config: Config, dims: tuple[int, ...], num_classes: int, *, videos: tuple[int, int] = (0, 0)
) -> tuple[nnx.GraphDef[Any], TrainState]:
    """The network's structure and the state before the first step.

    Args:
      config: all options.
      dims: feature dimensions of the streams.
      num_classes: action classes C.
      videos: training videos, and the snippets of the longest; needed where labels are made while it trains.

    Example:
      >>> from casejax import run
      >>> graphdef, state = run.initial_state(run.Config.of("case", hidden=8), dims=(6, 4), num_classes=3)
      >>> int(state.step), state.cluster_labels.shape[-1]
      (0, 2)
    """
    method, settings, schedule = config.method, config.settings, config.schedule
    rngs = nnx.Rngs(params=config.training.seed)
    network = method.network(dims, num_classes, settings=settings, rngs=rngs)
    graphdef, params = nnx.split(network, nnx.Param)
    optimizer = method.optimizer(params, schedule.learning_rate, settings=settings, schedule=schedule)
    state = TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        cluster_labels=method.first_cluster_labels(settings, network),
        key=jax.random.key(config.training.seed),
        memory=method.first_memory(settings, network, num_classes),
        labels=first_labels(method, settings, (*videos, num_classes + 1)),
    )
    return graphdef, state
