"""Labels without an annotator: self-labels by optimal transport, pseudo labels and instances from fused proposals.

Pure functions of arrays. Self-labels couple all snippets of a batch, so over several devices they must see the global
batch.
"""

from casejax.labels.instances import Instances
from casejax.labels.interior_point import LeastMass, least_mass
from casejax.labels.pseudo_labels import (
    LABEL_EPOCHS,
    PUBLISHED_PHASES,
    PUBLISHED_TEMPERATURES,
    LabelHistory,
    Phase,
    SnippetLabels,
    contrast_rows,
    label_target,
    label_weight,
    linear_margin,
    power_margin,
    pseudo_label_loss,
    snippet_labels,
)
from casejax.labels.self_labels import (
    Labels,
    cluster_logits,
    foreground_background,
    foreground_labels,
    harden,
    mean_probabilities,
    model_labels,
    prototypes,
    transport_labels,
)

__all__ = [
    "foreground_labels",
    "transport_labels",
    "model_labels",
    "harden",
    "Labels",
    "mean_probabilities",
    "prototypes",
    "foreground_background",
    "cluster_logits",
    "snippet_labels",
    "SnippetLabels",
    "pseudo_label_loss",
    "contrast_rows",
    "power_margin",
    "linear_margin",
    "LabelHistory",
    "label_target",
    "label_weight",
    "Phase",
    "PUBLISHED_PHASES",
    "PUBLISHED_TEMPERATURES",
    "LABEL_EPOCHS",
    "Instances",
    "least_mass",
    "LeastMass",
]
