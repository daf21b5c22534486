"""Networks; every one returns the same named outputs."""

from casejax.models.case import CaseNet, project_prototypes
from casejax.models.outputs import Outputs

__all__ = ["CaseNet", "Outputs", "project_prototypes"]
