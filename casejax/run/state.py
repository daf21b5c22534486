"""The state of a run: all that a step changes and all that inference needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.labels.pseudo_labels import LabelHistory
from casejax.methods.case.recipe import make_optimizer as make_optimizer
from casejax.methods.recipes import recipe_of
from casejax.run.config import Config


class TrainState(NamedTuple):
    """One immutable state.

    Attributes:
      step: int32 scalar, steps done.
      params: the network's parameters, as `nnx.split` gives them, and what else the optimizer changes.
      opt_state: the optimizer's.
      cluster_labels: (S, K, 2) Q^C of each stream at the last step; part of the trained model. () without clusters.
      key: the run's PRNG key, never changed: step n derives what it needs from (key, n).
      memory: what a base keeps from step to step.
      labels: `LabelHistory` of (V, longest, C + 1), snippet labels of all training videos; () where there are none.
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
      videos: training videos, and the snippets of the longest; needed for `pseudo_labels` alone.
    """
    recipe = recipe_of(config)
    begun = recipe.start(config, dims, num_classes)
    state = TrainState(
        step=jnp.int32(0),
        params=begun.params,
        opt_state=recipe.optimizer(config, config.train.learning_rate, begun.params).init(begun.params),
        cluster_labels=begun.cluster_labels,
        key=jax.random.key(config.train.seed),
        memory=begun.memory,
        labels=LabelHistory.empty((*videos, num_classes + 1)) if config.method.pseudo_labels else (),
    )
    return begun.graphdef, state


def may_be_compact(config: Config) -> bool:
    """Whether snippets that short videos repeat can be computed once."""
    return recipe_of(config).repeats_once and config.method.sampling != "crop"
