"""Entropic optimal transport between rows and columns: Sinkhorn's algorithm, its priors and its marginals.

Pure functions of arrays; importing this package loads jax and numpy alone.
"""

from casejax.ot.embeddings import SinkhornPotentials, sinkhorn_embeddings
from casejax.ot.objective import SinkhornObjective, sinkhorn_objective
from casejax.ot.priors import (
    ascending_rank,
    equipartition,
    foreground_marginal,
    gaussian_rank_prior,
    published_rank,
)
from casejax.ot.solver import SinkhornOutput, sinkhorn

__all__ = [
    "sinkhorn",
    "SinkhornOutput",
    "sinkhorn_objective",
    "SinkhornObjective",
    "sinkhorn_embeddings",
    "SinkhornPotentials",
    "gaussian_rank_prior",
    "ascending_rank",
    "published_rank",
    "equipartition",
    "foreground_marginal",
]
