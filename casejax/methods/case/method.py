"""CASE, its baseline, and any method with the clustering head of CASE on it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

from flax import nnx

from casejax.array_types import Array, Bool, Float
from casejax.errors import OptionError
from casejax.methods.case.clustering import clustering_loss, initial_cluster_labels
from casejax.methods.case.datasets import ACTIVITYNET, ACTIVITYNET_CLUSTERS
from casejax.methods.case.head import ClusteredNet, make_head, project_prototypes
from casejax.methods.case.inference import case_scores, clustered_foreground
from casejax.methods.case.network import SPLIT, CaseNet
from casejax.methods.case.objective import case_loss
from casejax.methods.case.settings import CaseSettings, Clustered
from casejax.methods.case.variants import OF_HEAD, VARIANTS
from casejax.methods.contract import Loss, Method, Outputs, Schedule, Step
from casejax.records import Localization, SnippetScores

BASELINE = Method(
    "baseline",
    CaseSettings(),
    Schedule(),
    Localization(),
    CaseNet,
    case_loss,
    case_scores,
    per_snippet=True,
    takes_head=True,
    epochs_fixed=False,
    with_head={"test_cas_weight": 1 / 5},
    variants=VARIANTS,
    datasets=ACTIVITYNET,
    split=SPLIT,
)
"""The two-branch network with an attention trained on its own most certain snippets (appendix F.1 of CASE)."""


@cache
def with_head(method: Method) -> Method:
    """A method with the clustering head of CASE: its labels, its losses and its inference; itself where it has one.

    Raises:
      OptionError: a method without attention, to which the head refers.

    Example:
      >>> from casejax import methods
      >>> print(methods.with_head(methods.find("aicl")).name)
      aicl+case
      >>> methods.with_head(methods.find("wtalc"))
      Traceback (most recent call last):
          ...
      casejax.errors.OptionError: method wtalc+case: the clustering head refers to attention, wtalc has none
    """
    if method.foreground is not None:
        return method
    if not method.has_attention:
        raise OptionError(f"method {method.name}+case: the clustering head refers to attention, {method.name} has none")

    def network(dims: Any, num_classes: int, *, settings: Clustered, rngs: nnx.Rngs) -> nnx.Module:
        head = make_head(settings.head)
        if method.takes_head:
            return method.network(dims, num_classes, settings=settings.base, head=head, rngs=rngs)
        return ClusteredNet(method.network(dims, num_classes, settings=settings.base, rngs=rngs), head, rngs=rngs)

    def loss(
        outputs: Outputs,
        labels: Float[Array, "b c"],
        step: Step,
        *,
        settings: Clustered,
        mask: Bool[Array, "b t"] | None = None,
    ) -> Loss:
        below = getattr(step.network, "base", step.network)
        own = method.loss(outputs, labels, step._replace(network=below), settings=settings.base, mask=mask)
        head = clustering_loss(outputs, own.foreground, step.cluster_labels, settings=settings.head, mask=mask)
        return Loss(own.value + head.value, own.terms | head.terms, own.foreground, head.cluster_labels)

    def scores(outputs: Outputs, *, settings: Clustered, mask: Bool[Array, "b t"] | None = None) -> SnippetScores:
        return method.scores(outputs, settings=settings.base, mask=mask)

    variants = {
        name: dict(method.variants.get(name, {})) | {key: changes[key] for key in OF_HEAD if key in changes}
        for name, changes in VARIANTS.items()
    }
    datasets = {name: {**own, **method.with_head, **ACTIVITYNET_CLUSTERS} for name, own in method.datasets.items()}
    return replace(
        method,
        name="case" if method is BASELINE else f"{method.name}+case",
        settings=Clustered(replace(method.settings, **method.with_head)),
        network=network,
        loss=loss,
        scores=scores,
        foreground=clustered_foreground,
        first_cluster_labels=lambda settings, network: initial_cluster_labels(
            len(network.embedding_dims), settings.head.num_clusters
        ),
        first_memory=lambda settings, network, num_classes: method.first_memory(
            settings.base, getattr(network, "base", network), num_classes
        ),
        prepare=lambda params, settings: project_prototypes(params) if settings.head.projected else params,
        optimizer=lambda params, rate, *, settings, schedule: method.optimizer(
            params, rate, settings=settings.base, schedule=schedule
        ),
        rate=lambda settings, step: method.rate(settings.base, step),
        check=lambda settings, dataset: method.check(settings.base, dataset),
        takes_head=False,
        variants=MappingProxyType(variants),
        datasets=MappingProxyType(datasets),
    )


CASE = with_head(BASELINE)
"""CASE: the two-branch network with its clustering head."""
