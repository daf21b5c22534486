"""What a base is to the trainer: its settings, its network, its losses and its inference, by one contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from flax import nnx

from casejax.labels.pseudo_labels import pseudo_label_loss
from casejax.methods.outputs import BaseOutputs, InferenceScores

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    Terms = tuple[Float[Array, ""], dict[str, Float[Array, ""]]]


class Moment(NamedTuple):
    """When and on what a base's losses are computed, besides its outputs.

    Attributes:
      settings: the base's.
      network: the network of this step, for losses that ask it more than once.
      progress: share of the training that is done, in [0, 1].
      epoch: epochs done, in a run of as many as are published; a run of half as many goes through them twice as fast.
      pairs: pairs of videos that share a class, at the head of the batch.
      memory: what the base keeps from step to step.
      snippet_labels: (B, T, C + 1) targets from fused proposals, already weighted; None for none.
    """

    settings: Any
    network: nnx.Module
    progress: float | Float[Array, ""]
    epoch: float | Float[Array, ""]
    pairs: int
    memory: Any
    snippet_labels: Float[Array, "b t c"] | None = None


def options_of(function: Callable[..., Any], settings: Any) -> dict[str, Any]:
    """The settings that a function takes as options, by their names.

    Args:
      function: a network, an objective or an inference of a base.
      settings: the base's.
    """
    return {name: getattr(settings, name) for name in parameters_of(function) if hasattr(settings, name)}


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function, or of a network's making."""
    # The metaclass of NNX hides those of the class.
    return inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters


@dataclass(frozen=True)
class Base:
    """A base model.

    Attributes:
      settings: the published ones for THUMOS14; `schedule` and `localization` among them.
      network: from dimensions of the streams, classes, options and `rngs` to the network.
      objective: from outputs, labels (B, C), mask and `Moment` to the loss and its terms.
      scores: from outputs, a foreground probability or None, mask and options to what is localised.
      first_memory: from settings, network and classes to what is kept before the first step.
      remember: from that, outputs and labels to what is kept after a step.
      has_attention: the network yields the attention that the clustering head refers to.
      has_background: the last class of its class activation sequence is background.
      case_cas_weight: omega in inference with P^M in the place of attention; None where inference has no omega.
      options: further options of a run by their names in `casejax.run.config`.
    """

    settings: Any
    network: Callable[..., nnx.Module]
    objective: Callable[[BaseOutputs, Float[Array, "b c"], Bool[Array, "b t"] | None, Moment], Terms]
    scores: Callable[..., InferenceScores]
    first_memory: Callable[[Any, nnx.Module, int], Any] = lambda settings, network, num_classes: ()
    remember: Callable[[Any, BaseOutputs, Float[Array, "b c"]], Any] = lambda memory, outputs, labels: memory
    has_attention: bool = True
    has_background: bool = False
    case_cas_weight: float | None = None
    options: tuple[tuple[str, Any], ...] = ()


def supervised(outputs: BaseOutputs, mask: Array | None, moment: Moment, loss: Array, terms: dict[str, Array]) -> Terms:
    """A loss and its terms with that of the snippet labels, where there are any, added to both."""
    if moment.snippet_labels is None:
        return loss, terms
    labels = pseudo_label_loss(outputs.cas[0], moment.snippet_labels, mask=mask).mean()
    return loss + labels, terms | {"loss_labels": labels}


def plain(objective: Callable[..., Terms]) -> Callable[[BaseOutputs, Any, Any, Moment], Terms]:
    """An objective that needs nothing of the `Moment` but settings."""

    def of(outputs: BaseOutputs, labels: Array, mask: Array | None, moment: Moment) -> Terms:
        return objective(outputs, labels, mask=mask, **options_of(objective, moment.settings))

    return of
