"""The settings of A2CL-PT."""

from __future__ import annotations

from dataclasses import dataclass

from casejax.methods.contract import Number
from casejax.records import option


@dataclass(frozen=True)
class A2CLPTSettings:
    """The settings of A2CL-PT; in a run of more or fewer steps than published, `multi_label_from` is stretched."""

    hidden: int = option(1024, "width of both layers and of the embedding", within="[1, inf)")
    dropout: float = option(0.7, "rate on the embedding", within="[0, 1)")
    erase_divisor: int = option(
        40, "of each class one in so many snippets is hidden from the adversary, s_a", within="[2, inf)"
    )
    adversary_weight: float = option(0.6, "of the adversary in the T-CAM, omega")
    divisor: int = option(8, "snippets a pooled one", within="[1, inf)")
    center_weight: Number = option(1.0, "of the center losses, alpha", within="[0, inf)")
    first_center_rate: Number = option(0.1, "learning rate of the first stream's centers", within="(0, inf)")
    center_rate: Number = option(0.2, "of the other streams' centers", within="(0, inf)")
    multi_label_from: Number = option(
        5000 / 45000,
        "share of the training after which videos of several classes take part in the center losses",
        within="[0, 1]",
    )
    max_labels: int = option(8, "the most labels of any training video", within="[1, inf)")
