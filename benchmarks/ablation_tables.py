"""What the tables and figures of `ablations.py` compare: rows of options, and the paper's figures beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from casejax.methods import VARIANTS, find
from casejax.run.config import Config

BASELINE = {"snippet_weight": 0.0, "cluster_weight": 0.0, "transformed_weight": 0.0}
CLASSES_ONLY = BASELINE | {"attention_weight": 0.0, "cas_weight": 1.0, "test_cas_weight": 1.0}
COMPONENTS = [
    ("baseline", BASELINE),
    ("+ SCC", {"cluster_weight": 0.0, "transformed_weight": 0.0, "prior": False}),  # Q^C does not exist yet: Eq. 10
    ("+ SCC + CCC", {"transformed_weight": 0.0}),
    ("+ SCC + CCC (T)", {}),
]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      name: what it is called.
      options: its own options, which no flag overrides.
      paper: the paper's figures for it, in % (`mAP`) or nats.
      method: whose published settings it starts from, with flags overriding them.
      above: differences are to the row above, not to the first.
      variant: of its method, in the place of the one that all rows start from.
    """

    name: str
    options: dict[str, Any]
    paper: dict[str, float] = field(default_factory=dict)
    method: str = "case"
    above: bool = False
    variant: str | None = None

    def config(self, variant: str, options: Mapping[str, Any] = MappingProxyType({})) -> Config:
        """The row's configuration: a variant of its method, options as far as the method has them, and its own."""
        start = Config.of(self.method, (self.variant or variant) if find(self.method).variants else "official")
        has = start.flat()
        return start.changed(**{name: value for name, value in options.items() if name in has}).changed(**self.options)


def head_rows(name: str, method: str, paper: tuple[float, float] | None = None) -> list[Row]:
    """A method without and with the clustering head."""
    alone, both = ({}, {}) if paper is None else ({"mAP": figure} for figure in paper)
    return [Row(name, {}, alone, method), Row(f"{name} + CASE", {}, both, f"{method}+case", above=True)]


def rows_of(names: list[tuple[str, dict[str, Any]]], paper: list[dict[str, float]]) -> list[Row]:
    """Rows from their names and options, and the paper's figures beside them."""
    return [Row(name, options, figures) for (name, options), figures in zip(names, paper, strict=True)]


TABLES: dict[str, tuple[str, list[Row]]] = {
    "2": (
        "Table 2: CASE on other bases; differences are to the base alone",
        [
            *head_rows("baseline", "baseline", (42.1, 46.2)),
            *head_rows("CO2-Net", "co2net", (44.6, 46.6)),
            *head_rows("AICL", "aicl", (46.4, 48.0)),
            *head_rows("Zhou et al.", "zhou", (48.3, 49.2)),
            *head_rows("ASL", "asl"),
            *head_rows("DELU", "delu"),
            *head_rows("RSKP", "rskp"),
        ],
    ),
    "4": (
        "Table 4: core components",
        rows_of(
            COMPONENTS,
            [
                {"mAP": 42.1, "0.3": 53.8, "0.5": 31.9, "0.7": 11.9},
                {"mAP": 43.2, "0.3": 55.3, "0.5": 33.7, "0.7": 12.4},
                {"mAP": 43.9, "0.3": 56.1, "0.5": 34.9, "0.7": 12.8},
                {"mAP": 46.2, "0.3": 59.2, "0.5": 37.7, "0.7": 13.7},
            ],
        ),
    ),
    "5": (
        "Table 5: labels of SCC with and without optimal transport",
        [
            Row("soft, no transport", {"transport": False}, {"mAP": 41.2, "H(mean P^S)": 2.77}),
            Row("hard, no transport", {"transport": False, "hard_labels": True}, {"mAP": 40.8, "H(mean P^S)": 0.01}),
            Row("soft, transport", {}, {"mAP": 46.2, "H(mean P^S)": 2.76}),
            Row("hard, transport", {"hard_labels": True}, {"mAP": 44.7, "H(mean P^S)": 2.75}),
        ],
    ),
    "6": (
        "Table 6 and appendix C.3: prior of SCC, marginal of CCC",
        [
            Row("CASE", {}, {"mAP": 46.2}),
            Row("Eq. 10 in SCC: no prior", {"prior": False}, {"mAP": 45.4}),
            Row("Eq. 9 in CCC: equal clusters", {"cluster_marginal": "equal"}, {"mAP": 44.0}),
            Row("P^A for the rank (C.3)", {"rank": "attention"}, {"mAP": 45.1}),
            Row("true rank", {"rank": "true"}),
            Row("true rank, sigma 0.3", {"rank": "true", "prior_std": 0.3}),
            Row("P^A for the rank, sigma 0.3", {"rank": "attention", "prior_std": 0.3}),
        ],
    ),
    "7": (
        "Table 7: foreground probability in inference",
        [
            Row("P^A", {"transformed_weight": 0.0}, {"mAP": 43.9}),
            Row("P^T", {"transformed_weight": 1.0}, {"mAP": 44.1}),
            Row("P^M", {"transformed_weight": 0.5}, {"mAP": 46.2}),
        ],
    ),
    "10": (
        "Table 10: components; the paper's ActivityNet figures are for its own data",
        rows_of(
            COMPONENTS,
            [
                {"mAP": 42.1, "ActivityNet v1.2": 25.6, "ActivityNet v1.3": 24.7},
                {"mAP": 43.2, "ActivityNet v1.2": 26.5, "ActivityNet v1.3": 25.4},
                {"mAP": 43.9, "ActivityNet v1.2": 27.0, "ActivityNet v1.3": 25.7},
                {"mAP": 46.2, "ActivityNet v1.2": 27.9, "ActivityNet v1.3": 26.8},
            ],
        ),
    ),
    "11": (
        "Table 11: the baseline",
        [
            Row("class branch", CLASSES_ONLY, {"mAP": 32.0}),
            Row("+ attention, plain cross-entropy", BASELINE | {"gce_exponent": 0.0}, {"mAP": 41.7}),
            Row("+ generalized cross-entropy", BASELINE, {"mAP": 42.1}),
        ],
    ),
    "12": (
        "Table 12: two-stream co-labelling",
        [
            Row("baseline without", BASELINE | {"co_label_selection": False}, {"mAP": 38.3}),
            Row("baseline with", BASELINE, {"mAP": 42.1}),
            Row("baseline with, clusters without", {"co_label_clusters": False}, {"mAP": 45.6}),
            Row("both with", {}, {"mAP": 46.2}),
        ],
    ),
    "fig3": (
        "Figure 3: number of clusters K",
        [Row("baseline", BASELINE, {"mAP": 42.1})]
        + [Row(f"K = {k}", {"num_clusters": k}, {"mAP": 46.2} if k == 16 else {}) for k in (2, 4, 8, 16, 32, 64, 128)],
    ),
    "fig4": (
        "Figure 4: entropy of the labels during training",
        [Row("Eq. 12: prior", {}), Row("Eq. 10: no prior", {"prior": False})],
    ),
    "fig8": ("Figure 8: P^A and Q^C during training", [Row("CASE", {})]),
}
FACTORS: list[tuple[str, dict[str, Any]]] = [
    ("omega 1 in training", {}),
    ("omega 1/3: official", {"cas_weight": 1 / 3}),
    ("omega 0.6", {"cas_weight": 0.6}),
    ("omega from 1 to 1/3 over 10 epochs", {"cas_weight": 1 / 3, "warmup_epochs": 10.0}),
    ("no SCC, no CCC", BASELINE),
    ("P^A alone in inference", {"transformed_weight": 0.0}),
    ("P^T alone in inference", {"transformed_weight": 1.0}),
    ("omega 0.4 in inference", {"test_cas_weight": 0.4}),
    ("Q^A of T / 4 snippets", {"foreground_divisor": 4}),
    ("plain cross-entropy for P^A", {"gce_exponent": 0.0}),
    ("true rank, sigma 0.3", {"rank": "true", "prior_std": 0.3}),
    ("converged transport", {"sinkhorn_iters": 100, "sinkhorn_tolerance": 1e-3}),
    ("probabilities fused", {"fuse": "probabilities"}),
    ("Q^C as a running mean, 0.9", {"cluster_momentum": 0.9}),
    ("Q^C of the whole train split", {"test_cluster_labels": "train"}),
    ("differentiable directions", {"projected": False}),
    ("prototypes of unit embeddings", {"prototype_features": "unit"}),
    ("clusters do not train the encoder", {"cluster_gradient": False, "prototype_gradient": False}),
    ("true tIoU in NMS", {"nms_plus_one": False}),
    ("soft NMS", {"nms": "soft"}),
    ("hard NMS", {"nms": "hard"}),
    ("outer ratio 0.25, score weight 0.15", {"outer_ratio": 0.25, "score_weight": 0.15}),
]
CURVES = {
    "fig4": {"entropy_snippet_labels": "H(Q^S)", "entropy_cluster_labels": "H(Q^C)"},
    "fig8": {
        f"{key}_{which}": f"{name}, {which}"
        for key, name in (("attention", "P^A"), ("cluster_foreground", "Q^C"))
        for which in ("max", "mean", "min")
    },
}
COLUMNS = {
    "0.3": lambda run: 100 * run["mAP"]["0.30"],
    "0.5": lambda run: 100 * run["mAP"]["0.50"],
    "0.7": lambda run: 100 * run["mAP"]["0.70"],
    "mAP": lambda run: 100 * run["average_mAP"]["0.1:0.7"],
    "H(mean P^S)": lambda run: run["metrics"][-1]["entropy_mean_assignment"],
}


def rows_for(table: str) -> tuple[str, list[Row]]:
    """Heading and rows of a table by name."""
    if table == "variants":
        named = [Row(name, choices(name)) for name in VARIANTS]
        return "The variants, and the baseline of the published program", [
            Row("baseline", choices("official") | BASELINE),
            *named,
        ]
    if table == "factors":
        rows = [Row(name, choices("official") | {"cas_weight": 1.0} | options) for name, options in FACTORS]
        return "`official` with omega 1 in training, and one change at a time", rows
    return TABLES[table]


def choices(variant: str) -> dict[str, Any]:
    """The options by which a variant of CASE differs from any other."""
    mine, names = Config.of("case", variant).flat(), {name for changes in VARIANTS.values() for name in changes}
    return {name: mine[name] for name in mine if name in names}
