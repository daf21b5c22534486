"""Base models that the clustering head of CASE attaches to, each in one file: network, losses, scores, settings."""

from casejax.methods import acmnet, aicl, asl, baseline, basnet, co2net, cola, delu, rskp, wtalc
from casejax.methods.contract import Base as Base

BASES: dict[str, Base] = {
    "baseline": baseline.BASE,
    "asl": asl.BASE,
    "aicl": aicl.BASE,
    "co2net": co2net.BASE,
    "delu": delu.BASE,
    "rskp": rskp.BASE,
    "zhou": rskp.ZHOU_BASE,
    "wtalc": wtalc.BASE,
    "basnet": basnet.BASE,
    "cola": cola.BASE,
    "acmnet": acmnet.BASE,
}
"""By the names of `--base`."""
