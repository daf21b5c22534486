"""The student: a localiser that regresses boundaries, on instances that a teacher found or that are annotated."""

from casejax.methods.student.decoding import decode
from casejax.methods.student.losses import diou_loss, focal_loss
from casejax.methods.student.method import METHOD
from casejax.methods.student.network import Regressed, StudentNet, boundary_distribution
from casejax.methods.student.settings import StudentSettings
from casejax.methods.student.targets import Locations, Targets, assign, locations

__all__ = [
    "METHOD",
    "StudentNet",
    "StudentSettings",
    "Regressed",
    "locations",
    "Locations",
    "assign",
    "Targets",
    "focal_loss",
    "diou_loss",
    "decode",
    "boundary_distribution",
]
