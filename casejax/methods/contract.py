"""What a method is to the trainer and to inference: one `Method`, one `Outputs`, one `Step`, one `Loss`.

A method is a network, a loss and an inference, with the settings that they have. Its functions take these settings,
never the configuration of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from casejax.array_types import Array, Bool, Float, Int
from casejax.labels import Instances, LabelHistory, pseudo_label_loss
from casejax.losses import stream_mean
from casejax.records import Dataset, Localization, SnippetScores, option

THUMOS14 = "thumos14"
"""The data set that a method's own settings are for."""

Number = float | jax.Array
"""A float; inside the compiled step of several runs side by side, a traced value."""

WHOLE = Localization(test_sampling="whole", scale=1, outer_ratio=0.25, nms_unit="snippets", drop_lone_first=False)
"""What programs that localise whole videos, snippet by snippet, have in common."""


class Outputs(NamedTuple):
    """Predictions of a network for B videos of T snippets.

    Attributes:
      cas: (B, T, C) class logits, one array a stream, or a single one for all streams together; (B, T, C + 1) of a
        method that models background, which is then the last class.
      embedding: (B, T, D) snippet embedding E, not normalised, one array a stream; (R, D) where there are `rows`.
      attention: (B, T) foreground probability P^A, in [0, 1], one array an embedding; () without attention.
      cluster_logits: (B, T, K) logits of the cluster assignment P^S, one array an embedding; () without clusters.
      rows: (B, T) the row of `embedding` that belongs to each place; None where it has every place itself.
      own: what only this method has; its type is the method's.
    """

    cas: tuple[Float[Array, "b t _"], ...]
    embedding: tuple[Float[Array, "*n d"], ...]
    attention: tuple[Float[Array, "b t"], ...] = ()
    cluster_logits: tuple[Float[Array, "b t k"], ...] = ()
    rows: Int[Array, "b t"] | None = None
    own: Any = ()


class Step(NamedTuple):
    """What a loss is told about when it is computed; the defaults are those of a first step on its own.

    Attributes:
      network: the network of this step, for losses that ask it more than once.
      done: steps done.
      steps_per_epoch: steps of one pass over the training videos.
      total: steps of the run.
      key: of what is random in this step, sampling apart; the network had the same.
      pairs: pairs of videos that share a class, at the head of the batch.
      cluster_labels: (S, K, 2) Q^C of the step before; () without clusters.
      memory: what the method keeps from step to step.
      snippet_labels: (B, T, C + 1) targets from fused proposals, already weighted; None for none.
      instances: of the B videos, in the snippets of the batch; None for a method that does not learn from instances.
    """

    network: Any = None
    done: int | Int[Array, ""] = 0
    steps_per_epoch: int = 1
    total: int = 1
    key: Any = None
    pairs: int = 0
    cluster_labels: Any = ()
    memory: Any = ()
    snippet_labels: Float[Array, "b t c"] | None = None
    instances: Instances | None = None

    @property
    def progress(self) -> float | Float[Array, ""]:
        """Share of the run that is done, in [0, 1)."""
        return self.done / self.total


class Loss(NamedTuple):
    """The loss of a batch, and what else comes of it.

    Attributes:
      value: what is minimised.
      terms: scalars to log; those named `loss_...` are its parts.
      foreground: (B, T) foreground labels Q^A, one array an embedding, for the clustering head.
      cluster_labels: (S, K, 2) Q^C of this step; () without clusters.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import methods
      >>> loss = methods.Loss.of({"loss_class": jnp.asarray(0.5), "loss_norm": jnp.asarray(0.25)})
      >>> print(loss.value)
      0.75
    """

    value: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]
    foreground: tuple[Float[Array, "b t"], ...] = ()
    cluster_labels: Any = ()

    @classmethod
    def of(cls, terms: dict[str, Float[Array, ""]], foreground: tuple[Float[Array, "b t"], ...] = ()) -> Loss:
        """The sum of its terms."""
        return cls(jnp.stack(list(terms.values())).sum(), terms, foreground)


class Foreground(NamedTuple):
    """Foreground probabilities of snippets through clusters.

    Attributes:
      transformed: (B, T) P^T.
      fused: (B, T) P^M, of P^A and P^T.
    """

    transformed: Float[Array, "b t"]
    fused: Float[Array, "b t"]


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and on what a method trains.

    Example:
      >>> from dataclasses import replace
      >>> from casejax import methods
      >>> short = replace(methods.find("wtalc").schedule, epochs=30)
      >>> print(short.epochs, short.batch_size, short.learning_rate)
      30 10 0.0001
    """

    num_snippets: int = option(750, "snippets T sampled from every video", within="[1, inf)")
    batch_size: int = option(16, "videos a step, over all devices", within="[1, inf)")
    epochs: int = option(300, "passes over the training videos", within="[1, inf)")
    learning_rate: Number = option(1e-4, "step size of Adam", within="(0, inf)")
    weight_decay: Number = option(
        5e-4, "L2 penalty added to the gradient before Adam, on all parameters", within="[0, inf)"
    )
    second_moment: float = option(0.999, "beta_2 of Adam", within="[0, 1)")
    sampling: Literal["random", "stratified", "uniform", "crop"] = option(
        "random",
        "how training picks the T snippets: one from each cell with its end, without it, or its first; or a stretch, "
        "padded where a video is shorter",
    )
    similar_pairs: int = option(0, "pairs of videos that share a class, at the head of every batch", within="[0, inf)")


def adam(params: Any, rate: Number, *, settings: Any = None, schedule: Schedule) -> optax.GradientTransformation:
    """Adam of all parameters, with an L2 penalty in the gradient.

    Args:
      params: not used; other optimizers ask for their structure.
      rate: the learning rate.
      settings: not used.
      schedule: the decay and beta_2.
    """
    return optax.chain(
        optax.add_decayed_weights(schedule.weight_decay),
        optax.scale_by_adam(b2=schedule.second_moment),
        optax.scale_by_learning_rate(rate),
    )


def _check_nothing(settings: Any, dataset: Dataset) -> None: ...


@dataclass(frozen=True, eq=False)
class Method:
    """A method, with what it was published with for THUMOS14.

    Attributes:
      name: what users call it.
      settings: a frozen dataclass of all that only this method has.
      schedule: how it is trained.
      localization: how its scores become segments.
      network: (dims, num_classes, *, settings, rngs) to a network of (features, key, *, mask) to `Outputs`; a network
        that sees every snippet alone also takes `rows`.
      loss: (outputs, labels (B, C), `Step`, *, settings, mask) to `Loss`.
      scores: (outputs, *, settings, mask) to `SnippetScores`.
      foreground: (outputs, Q^C, *, settings, mask) to `Foreground`; None without clusters.
      first_cluster_labels: (settings, network) to Q^C before the first step.
      first_memory: (settings, network, num_classes) to what is kept before the first step.
      remember: (memory, outputs, labels) to what is kept after a step.
      prepare: (params, settings) to the parameters with which a step is computed.
      optimizer: (params, rate, *, settings, schedule) to an optax transformation.
      rate: (settings, `Step`) to a factor on the learning rate.
      check: (settings, dataset); raises `OptionError` for data that the settings cannot be used with.
      per_snippet: the network sees every snippet alone, so that repeated snippets can be computed once.
      takes_head: the network holds the clustering head itself, given as `head`.
      has_attention: `Outputs.attention` is there, to which the clustering head refers.
      learns_instances: it trains on instances with start and end, from a teacher or annotated, and proposes segments.
      epochs_fixed: what it does depends on the share of the run that is done, so a run cannot be prolonged.
      with_head: settings that change under the clustering head, by name.
      variants: options that a variant changes, by its name; those that the method does not have are left out.
      datasets: options that change for another data set than THUMOS14, by its name, such as "activitynet13".
      split: axis names of the parameters that have the hidden dimension, by layer and parameter; {}: not split.
    """

    name: str
    settings: Any
    schedule: Schedule
    localization: Localization
    network: Callable[..., nnx.Module]
    loss: Callable[..., Loss]
    scores: Callable[..., SnippetScores]
    foreground: Callable[..., Foreground] | None = None
    first_cluster_labels: Callable[[Any, Any], Any] = lambda settings, network: ()
    first_memory: Callable[[Any, Any, int], Any] = lambda settings, network, num_classes: ()
    remember: Callable[[Any, Outputs, Any], Any] = lambda memory, outputs, labels: memory
    prepare: Callable[[Any, Any], Any] = lambda params, settings: params
    optimizer: Callable[..., optax.GradientTransformation] = adam
    rate: Callable[[Any, Step], Number] = lambda settings, step: 1.0
    check: Callable[[Any, Dataset], None] = _check_nothing
    per_snippet: bool = False
    takes_head: bool = False
    has_attention: bool = True
    learns_instances: bool = False
    epochs_fixed: bool = True
    with_head: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    split: Mapping[str, Mapping[str, tuple[str | None, ...]]] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def can_be_clustered(self) -> bool:
        """Whether the clustering head can be put on it: it has attention, and no head yet."""
        return self.has_attention and self.foreground is None

    def score(
        self, outputs: Outputs, cluster_labels: Any, *, settings: Any, mask: Bool[Array, "b t"] | None = None
    ) -> SnippetScores:
        """Inference: with clusters, P^M stands in the place of attention, section 4.3 of CASE."""
        if self.foreground is None:
            found = self.scores(outputs, settings=settings, mask=mask)
            attention = stream_mean(outputs.attention) if outputs.attention else None
            return found._replace(attention=attention, foreground=attention)
        attention = stream_mean(outputs.attention)
        transformed, fused = self.foreground(outputs, cluster_labels, settings=settings, mask=mask)
        found = self.scores(outputs._replace(attention=(fused,)), settings=settings, mask=mask)
        return found._replace(attention=attention, transformed=transformed, foreground=fused)


@dataclass(frozen=True)
class BackgroundSettings:
    """What every method has whose last class is background."""

    pseudo_labels: bool = option(
        False, "train on labels from fused proposals as well, from the epochs of Zhou et al. on"
    )


def first_labels(method: Method, settings: Any, shape: tuple[int, ...]) -> Any:
    """The labels of all training videos before the first are made; () for a method that does not train on any.

    Args:
      method: any.
      settings: its own.
      shape: training videos V, snippets of the longest, classes and background.
    """
    if method.learns_instances:
        return Instances.empty(shape[0], settings.max_instances)
    own = getattr(settings, "base", settings)
    return LabelHistory.empty(shape) if getattr(own, "pseudo_labels", False) else ()


def supervised(
    terms: dict[str, Float[Array, ""]], outputs: Outputs, step: Step, *, mask: Bool[Array, "b t"] | None
) -> dict[str, Float[Array, ""]]:
    """Terms of a loss with that of the snippet labels, where there are any."""
    if step.snippet_labels is None:
        return terms
    return terms | {"loss_labels": pseudo_label_loss(outputs.cas[0], step.snippet_labels, mask=mask).mean()}
