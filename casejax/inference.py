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
from casejax.data.sampling import gather_on_host, uniform_snippets
from casejax.scores import SnippetScores, clustering_assisted

Scorer = Callable[..., SnippetScores]


@lru_cache(maxsize=32)  # the same network and options compile once, whoever asks
def make_scorer(
    graphdef: nnx.GraphDef[Any],
    *,
    cas_weight: float,
    transformed_weight: float,
    top_k_divisor: int,
    pool_probabilities: bool,
) -> Scorer:
    """A compiled function of (params, Q^C, features, rows) to snippet scores; see `scores.clustering_assisted`."""

    @jax.jit
    def score(
        params: Any, cluster_labels: jax.Array, features: tuple[jax.Array, ...], rows: jax.Array | None = None
    ) -> SnippetScores:
        return clustering_assisted(
            nnx.merge(graphdef, params)(features, rows=rows),
            cluster_labels,
            cas_weight=cas_weight,
            transformed_weight=transformed_weight,
            top_k_divisor=top_k_divisor,
            pool_probabilities=pool_probabilities,
        )

    return score


def score_videos(
    scorer: Callable[[tuple[Any, ...], Any], SnippetScores],
    features: Features,
    *,
    num_snippets: int,
    batch_size: int = 16,
) -> SnippetScores:
    """Score every video of a split, resampled evenly to T snippets.

    Args:
      scorer: features and rows to scores, a `Scorer` with its parameters bound.
      features: the split's packed features, V videos.
      num_snippets: T.
      batch_size: videos a call; the last call is filled up, so that one compilation serves all of a shape. There
        are two: snippets that short videos repeat are computed once wherever that halves the batch.

    Returns:
      Scores as NumPy arrays with a leading axis of V.
    """
    lengths = features.lengths
    snippets = np.asarray(uniform_snippets(jnp.asarray(lengths), num_snippets))
    order = np.argsort(lengths, kind="stable")  # videos of like lengths together, so that most batches are compact
    parts = []
    for first in range(0, len(lengths), batch_size):
        videos = np.resize(order[first : first + batch_size], batch_size)
        parts.append(jax.device_get(scorer(*gather_on_host(features, videos, snippets[videos], compact=True))))
    back = np.argsort(order)
    columns = [np.concatenate(column)[back] for column in zip(*parts, strict=True)]
    return SnippetScores(*columns)  # type: ignore[arg-type]
