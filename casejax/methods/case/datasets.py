"""CASE on ActivityNet: the options that change from THUMOS14 to versions 1.2 and 1.3.

The paper has T, K and k (appendix F.3 of CASE), and for all data sets the same batch, learning rate and weights of the
losses; no program was published. `docs/activitynet.md` has every number with its source.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

_SHARED: dict[str, Any] = {"num_snippets": 50, "top_k_divisor": 2, "class_threshold": 0.1, "nms_threshold": 0.7}

ACTIVITYNET = MappingProxyType({"activitynet12": _SHARED | {"epochs": 73}, "activitynet13": _SHARED | {"epochs": 35}})
"""Of the two-branch network, and of AICL, whose supplement has the same T and k. Thresholds are those of SAL, from the
same laboratory. Epochs make the 22,000 steps of CO2-Net and DELU, of 16 videos each out of 4,819 and 10,024."""

ACTIVITYNET_CLUSTERS = MappingProxyType({"num_clusters": 64})
"""Of the clustering head, on whatever method it is."""
