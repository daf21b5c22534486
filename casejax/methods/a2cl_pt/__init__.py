"""A2CL-PT (Min and Corso, ECCV 2020): two adversarial branches, and angular center losses of attended features."""

from casejax.methods.a2cl_pt.method import METHOD
from casejax.methods.a2cl_pt.network import A2CLPTNet
from casejax.methods.a2cl_pt.objective import a2cl_pt_objective
from casejax.methods.a2cl_pt.optimizer import center_update
from casejax.methods.a2cl_pt.settings import A2CLPTSettings

__all__ = ["METHOD", "A2CLPTNet", "A2CLPTSettings", "a2cl_pt_objective", "center_update"]
