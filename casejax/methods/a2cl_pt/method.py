"""A2CL-PT as published for THUMOS14: its settings, its centers with an optimizer of their own, and its inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from casejax.array_types import Array, Bool, Float, Key
from casejax.errors import OptionError
from casejax.losses import initial_centers, top_k_mean
from casejax.methods.a2cl_pt.network import A2CLPTNet
from casejax.methods.a2cl_pt.objective import a2cl_pt_objective
from casejax.methods.a2cl_pt.optimizer import network_and_centers
from casejax.methods.a2cl_pt.settings import A2CLPTSettings
from casejax.methods.contract import WHOLE, Loss, Method, Number, Outputs, Schedule, Step, adam
from casejax.records import Dataset, SnippetScores


class CenteredNet(nnx.Module):
    """The network of A2CL-PT and its centers, (2, C, D) of each stream: of the classifier and of the adversary."""

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        *,
        settings: A2CLPTSettings = A2CLPTSettings(),
        rngs: nnx.Rngs,
    ) -> None:
        self.network = A2CLPTNet(dims, num_classes, settings=settings, rngs=rngs)
        keys = jax.random.split(rngs.params(), (len(dims), 2))
        self.centers = nnx.List(
            [nnx.Param(jnp.stack([initial_centers(num_classes, settings.hidden, key) for key in own])) for own in keys]
        )
        self.embedding_dims = (settings.hidden,) * len(dims)

    def __call__(
        self,
        features: Sequence[Float[Array, "b t _"]],
        key: Key[Array, ""] | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
    ) -> Outputs:
        """Predict on a batch; see `A2CLPTNet`."""
        return self.network(features, None if key is None else _keys(key)[0], mask=mask)


def _keys(key: Key[Array, ""]) -> Key[Array, "2"]:
    """The keys of a step's dropout and of its temperatures."""
    return jax.random.split(key)


def a2cl_pt_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step,
    *,
    settings: A2CLPTSettings = A2CLPTSettings(),
    mask: Bool[Array, "b t"] | None = None,
) -> Loss:
    """The loss of one batch; the step's network has the centers."""
    value, metrics = a2cl_pt_objective(
        outputs,
        labels,
        [centers[...] for centers in step.network.centers],
        _keys(step.key)[1],
        mask=mask,
        multi_label=step.done + 1 >= settings.multi_label_from * step.total,
        max_labels=settings.max_labels,
        divisor=settings.divisor,
        center_weight=settings.center_weight,
    )
    return Loss(value, metrics)


def a2cl_pt_scores(
    outputs: Outputs, *, settings: A2CLPTSettings = A2CLPTSettings(), mask: Bool[Array, "b t"] | None = None
) -> SnippetScores:
    """Inference. There is no attention."""
    tcam = outputs.own.tcam
    video = jax.nn.softmax(top_k_mean(tcam, divisor=settings.divisor, rounding="up", mask=mask))
    return SnippetScores(tcam, video)


def optimizer(
    params: Any, rate: Number, *, settings: A2CLPTSettings, schedule: Schedule
) -> optax.GradientTransformation:
    """Adam for the network, and for each stream's centers gradient descent with renormalisation."""
    others = len(params["centers"]) - 1
    rates = (settings.first_center_rate, *[settings.center_rate] * others)
    return network_and_centers(adam(params, rate, schedule=schedule), rates)


def check(settings: A2CLPTSettings, dataset: Dataset) -> None:
    """Refuse training videos with more labels than there are places.

    Raises:
      OptionError: naming the number to pass.
    """
    most = int(dataset.train.multi_hot(dataset.classes).sum(axis=1).max(initial=0))
    if most > settings.max_labels:
        raise OptionError(
            f"{dataset.source}: a training video has {most} labels, above max_labels {settings.max_labels}; pass "
            f"--max-labels {most}"
        )


METHOD = Method(
    "a2cl_pt",
    A2CLPTSettings(),
    Schedule(num_snippets=200, batch_size=32, epochs=1450, sampling="crop"),
    replace(WHOLE, proposals="positive", class_threshold=0.5, thresholds=(0.0,), nms="hard", min_snippets=2),
    CenteredNet,
    a2cl_pt_loss,
    a2cl_pt_scores,
    optimizer=optimizer,
    check=check,
    has_attention=False,
)
"""As published, 45,000 steps on 1,010 videos of 101 classes. `class_threshold` is a share of the confidence in the best
class."""
