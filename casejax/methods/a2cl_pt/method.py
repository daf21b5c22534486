"""A2CL-PT: its network, its centers with an optimizer of their own, and its inference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from casejax.losses import initial_centers, top_k_mean
from casejax.methods.a2cl_pt.center_update import network_and_centers
from casejax.methods.a2cl_pt.network import A2CLPTNet
from casejax.methods.a2cl_pt.objective import a2cl_pt_objective
from casejax.methods.case.numbers import with_numbers
from casejax.methods.case.recipe import Kept, Now, Recipe, Scorer, Start, adam
from casejax.methods.contract import options_of
from casejax.methods.outputs import Schedule
from casejax.records import Batch, Localization, SnippetScores
from casejax.run.config import Config, Number


@dataclass(frozen=True)
class A2CLPTSettings:
    """Settings of A2CL-PT; `THUMOS14` are the published ones.

    Attributes:
      schedule: how it is trained. In a run of more or fewer steps than that, `multi_label_from` is stretched.
      localization: how its scores become segments; `class_threshold` is a share of the best class's confidence.
      dropout: rate on the embedding.
      erase_divisor: of each class one in so many snippets is hidden from the adversary, s_a.
      adversary_weight: of the adversary in the T-CAM, omega.
      divisor: snippets a pooled one.
      center_weight: of the center losses, alpha.
      first_center_rate: learning rate of the first stream's centers.
      center_rate: of the other streams' centers.
      multi_label_from: share of the training after which videos of several classes take part in the center losses.
      max_labels: the most labels of any training video.
    """

    schedule: Schedule
    localization: Localization
    dropout: float = 0.7
    erase_divisor: int = 40
    adversary_weight: float = 0.6
    divisor: int = 8
    center_weight: float = 1.0
    first_center_rate: float = 0.1
    center_rate: float = 0.2
    multi_label_from: float = 5000 / 45000
    max_labels: int = 8


THUMOS14 = A2CLPTSettings(
    Schedule(num_snippets=200, batch_size=32, epochs=1450, learning_rate=1e-4, weight_decay=5e-4, sampling="crop"),
    Localization(class_threshold=0.5, thresholds=(0.0,), nms="hard", min_snippets=2),
)
"""As published, 45,000 steps on 1,010 videos of 101 classes. Suppression is never used."""

OPTIONS = {"proposals": "positive"}
"""Options of inference by their names in `casejax.run.config`."""


def settings_of(config: Config) -> A2CLPTSettings:
    """The settings as the options change them.

    Raises:
      OptionError: as `with_numbers`.
    """
    return with_numbers(THUMOS14, config)


def start(config: Config, dims: tuple[int, ...], num_classes: int) -> Start:
    """The network before its first step; parameters are (the network's, the centers (2, C, D) of each stream)."""
    settings, hidden = settings_of(config), config.network.hidden
    rngs = nnx.Rngs(params=config.train.seed)
    network = A2CLPTNet(dims, num_classes, **options_of(A2CLPTNet, settings) | {"hidden": hidden}, rngs=rngs)
    graphdef, params = nnx.split(network, nnx.Param)
    keys = jax.random.split(rngs.params(), (len(dims), 2))
    centers = tuple(jnp.stack([initial_centers(num_classes, hidden, key) for key in own]) for own in keys)
    return Start(graphdef, (params, centers), ())


def optimizer(config: Config, rate: Number, params: Any) -> optax.GradientTransformation:
    """Adam for the network, and for each stream's centers gradient descent with renormalisation."""
    settings, others = settings_of(config), len(params[1]) - 1
    rates = (settings.first_center_rate, *[settings.center_rate] * others)
    return network_and_centers(adam(config, rate, params), rates)


def loss(
    graphdef: nnx.GraphDef[Any], params: Any, state: Any, batch: Batch, now: Now, config: Config
) -> tuple[jax.Array, Kept]:
    """The loss of one batch."""
    settings, (network, centers) = settings_of(config), params
    dropout, temperature = jax.random.split(now.key)
    outputs = nnx.merge(graphdef, network)(batch.streams, dropout, mask=batch.mask)
    value, metrics = a2cl_pt_objective(
        outputs,
        batch.labels,
        centers,
        temperature,
        mask=batch.mask,
        multi_label=now.step + 1 >= settings.multi_label_from * now.total_steps,
        max_labels=settings.max_labels,
        divisor=settings.divisor,
        center_weight=settings.center_weight,
    )
    return value, Kept((), state.memory, jax.lax.stop_gradient(metrics))


def scorer(graphdef: nnx.GraphDef[Any], config: Config) -> Scorer:
    """Inference. There is no attention: in its place stands the probability that the best class is there."""
    return _scorer(graphdef, settings_of(config).divisor)


@lru_cache(maxsize=32)  # the same network and options compile once, whoever asks
def _scorer(graphdef: nnx.GraphDef[Any], divisor: int) -> Scorer:
    @jax.jit
    def score(
        params: Any, cluster_labels: Any, features: Any, rows: None = None, mask: jax.Array | None = None
    ) -> SnippetScores:
        outputs = nnx.merge(graphdef, params[0])(features, mask=mask)
        best = jax.nn.sigmoid(outputs.tcam.max(axis=2))
        video = jax.nn.softmax(top_k_mean(outputs.tcam, divisor=divisor, rounding="up", mask=mask))
        return SnippetScores(outputs.tcam, best, None, best, video)

    return score


RECIPE = Recipe(start, loss, scorer, optimizer=optimizer)
