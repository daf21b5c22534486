"""A trained network over the videos of a split, a fixed batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax.data.records import Features
from casejax.data.sampling import uniform_snippets
from casejax.scores import SnippetScores, clustering_assisted

Scorer = Callable[[Any, Any, tuple[Any, ...]], SnippetScores]


@lru_cache(maxsize=32)  # the same network and options compile once, whoever asks
def make_scorer(
    graphdef: nnx.GraphDef[Any],
    *,
    cas_weight: float,
    transformed_weight: float,
    top_k_divisor: int,
    pool_probabilities: bool,
) -> Scorer:
    """A compiled function of (params, Q^C, features) to snippet scores; see `scores.clustering_assisted`."""

    @jax.jit
    def score(params: Any, cluster_labels: jax.Array, features: tuple[jax.Array, ...]) -> SnippetScores:
        return clustering_assisted(
            nnx.merge(graphdef, params)(features),
            cluster_labels,
            cas_weight=cas_weight,
            transformed_weight=transformed_weight,
            top_k_divisor=top_k_divisor,
            pool_probabilities=pool_probabilities,
        )

    return score


def score_videos(
    scorer: Callable[[tuple[Any, ...]], SnippetScores],
    features: Features,
    *,
    num_snippets: int,
    batch_size: int = 16,
) -> SnippetScores:
    """Score every video of a split, resampled evenly to T snippets.

    Args:
      scorer: features to scores, a `Scorer` with its parameters bound.
      features: the split's packed features, V videos.
      num_snippets: T.
      batch_size: videos a call; the last call is filled up, so that one compilation serves all.

    Returns:
      Scores as NumPy arrays with a leading axis of V.
    """
    lengths = features.lengths
    rows = features.starts[:, None] + np.asarray(uniform_snippets(jnp.asarray(lengths), num_snippets))
    parts = []
    for first in range(0, len(lengths), batch_size):
        batch = np.resize(rows[first : first + batch_size], (batch_size, num_snippets))
        parts.append(jax.device_get(scorer(tuple(stream[batch] for stream in features.streams))))
    columns = [np.concatenate(column)[: len(lengths)] for column in zip(*parts, strict=True)]
    return SnippetScores(*columns)  # type: ignore[arg-type]
