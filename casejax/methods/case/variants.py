"""The three variants of CASE by name, as the options in which they differ from the published program.

`docs/variants.md` lists every place where the published program leaves the text, with the option that decides.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

_PAPER: dict[str, Any] = {
    "rank": "true",
    "fuse": "probabilities",
    "cas_weight": 0.25,
    "test_cas_weight": 0.25,
    "projected": False,
    "nms": "hard",
    "nms_plus_one": False,
    "drop_lone_first": False,
}

_CORRECTED: dict[str, Any] = _PAPER | {
    "cas_weight": 1.0,
    "nms": "soft",
    "num_clusters": 64,
    "cluster_context": 9,
    "head_temperature": 40.0,
    "epsilon": 1 / 80,
    "cluster_judge": "members",
    "judge_epsilon": 0.25,
    "cluster_marginal": "attention",
    "cluster_momentum": 0.9,
    "cluster_gradient": False,
    "cluster_weight": 0.0,
    "transformed_streams": "product",
}

VARIANTS = MappingProxyType({"official": {}, "paper": _PAPER, "corrected": _CORRECTED})
"""`official` is the published program, quirks included.

`paper` follows the text where the program departs from it. It keeps what is published where the text is silent, and in
two places where its letter cannot be meant: the kernel of the transport (Alg. 1 read literally gives uniform labels)
and logits pooled over the top k (Eq. 16 read literally bounds every class score by e / (e + C - 1), below the threshold
that localises a class).

`corrected` is what the measurements of `docs/what-matters.md` recommend: attention does not take part in selecting the
snippets that it is trained on, since it would confirm itself and on some seeds settles on background. Sigma stays 10,
since a prior that acts did not help.
"""

OF_HEAD = ("rank", "fuse", "projected")
"""What the variants change of the clustering head, on whatever method it is."""

SELECTION = MappingProxyType(
    {name: {key: value for key, value in changes.items() if key == "cas_weight"} for name, changes in VARIANTS.items()}
)
"""What they change of other methods that select snippets by the calibrated T-CAS: omega in training."""
