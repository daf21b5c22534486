"""CASE (Liu et al., ICCV 2023): the two-branch network, its clustering head, and the head on any other method."""

from casejax.methods.case.method import BASELINE, CASE, with_head
from casejax.methods.case.network import CaseNet
from casejax.methods.case.settings import CaseSettings, Clustered, HeadSettings
from casejax.methods.case.variants import VARIANTS

__all__ = ["CASE", "BASELINE", "with_head", "CaseNet", "CaseSettings", "HeadSettings", "Clustered", "VARIANTS"]
