"""What a method hands to the trainer; the rest of a run is the same for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import optax
from flax import nnx

from casejax.records import Batch, SnippetScores
from casejax.run.config import Config, Number

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Start(NamedTuple):
    """A network before its first step.

    Attributes:
      graphdef: its structure.
      params: a tree of arrays, all that the optimizer changes.
      cluster_labels: (S, K, 2) Q^C; () without a clustering head.
      memory: what else is kept from step to step.
    """

    graphdef: nnx.GraphDef[Any]
    params: Any
    cluster_labels: Any
    memory: Any = ()


class Now(NamedTuple):
    """Where in a run a step is.

    Attributes:
      step: steps done.
      steps_per_epoch: steps of one pass over the training videos.
      total_steps: steps of the run.
      key: of what is random in this step, the sampling apart.
    """

    step: jax.Array
    steps_per_epoch: int
    total_steps: int
    key: jax.Array

    @property
    def epoch(self) -> jax.Array:
        """Epochs done, with a fraction."""
        return self.step / self.steps_per_epoch

    @property
    def progress(self) -> jax.Array:
        """Share of all steps that is done."""
        return self.step / self.total_steps


class Kept(NamedTuple):
    """What a step leaves besides its gradient: Q^C, memory, and scalars to log, with the key `loss` among them."""

    cluster_labels: Any
    memory: Any
    metrics: dict[str, Float[Array, ""]]


Scorer = Callable[..., SnippetScores]
"""(params, Q^C, features, rows=None, mask=None) to snippet scores, compiled."""


def make_optimizer(
    learning_rate: Number, weight_decay: Number, *, decoupled: bool = False, second_moment: float = 0.999
) -> optax.GradientTransformation:
    """Adam with an L2 penalty in the gradient, or with the decay of AdamW if `decoupled`; on all parameters."""
    decay, adam = optax.add_decayed_weights(weight_decay), optax.scale_by_adam(b2=second_moment)
    return optax.chain(*((adam, decay) if decoupled else (decay, adam)), optax.scale_by_learning_rate(learning_rate))


def adam(config: Config, rate: Number, params: Any) -> optax.GradientTransformation:
    """The optimizer of all parameters by the options of training."""
    train = config.train
    return make_optimizer(rate, train.weight_decay, decoupled=train.decoupled_decay, second_moment=train.second_moment)


@dataclass(frozen=True)
class Recipe:
    """One method.

    Attributes:
      start: from configuration, stream dimensions and classes to the network before its first step.
      prepare: what is done to parameters before each step.
      loss: from structure, parameters, state, batch, `Now` and configuration to the loss and what is kept.
      optimizer: from configuration, learning rate and parameters to an optax transformation.
      rate: from configuration and `Now` to a factor on the learning rate.
      scorer: from structure and configuration to inference.
      repeats_once: snippets that short videos repeat may be computed once: the network sees each snippet alone.
    """

    start: Callable[[Config, tuple[int, ...], int], Start]
    loss: Callable[[nnx.GraphDef[Any], Any, Any, Batch, Now, Config], tuple[jax.Array, Kept]]
    scorer: Callable[[nnx.GraphDef[Any], Config], Scorer]
    prepare: Callable[[Any, Config], Any] = lambda params, config: params
    optimizer: Callable[[Config, Number, Any], optax.GradientTransformation] = adam
    rate: Callable[[Config, Now], Number] = lambda config, now: 1.0
    repeats_once: bool = False
