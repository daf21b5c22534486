"""A trained network over the videos of a split, a fixed batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax.data.sampling import gather_on_host, uniform_snippets
from casejax.methods.case.whole_split import make_whole_set_labels
from casejax.methods.recipes import recipe_of
from casejax.records import Dataset, Features, SnippetScores
from casejax.run.base_options import check_whole_set
from casejax.run.config import Config
from casejax.run.state import may_be_compact

Scorer = Callable[..., SnippetScores]


def score_videos(
    scorer: Callable[[tuple[Any, ...], Any], SnippetScores],
    features: Features,
    *,
    num_snippets: int,
    batch_size: int = 16,
    compact: bool = True,
) -> SnippetScores:
    """Score every video of a split, resampled evenly to T snippets.

    Args:
      scorer: features and rows to scores, a `Scorer` with its parameters bound.
      features: the split's packed features, V videos.
      num_snippets: T.
      batch_size: videos a call; the last call is filled up, so that one compilation serves all of a shape. There
        are two: snippets that short videos repeat are computed once wherever that halves the batch.
      compact: whether they may be: the network sees each snippet alone.

    Returns:
      Scores as NumPy arrays with a leading axis of V.
    """
    lengths = features.lengths
    snippets = np.asarray(uniform_snippets(jnp.asarray(lengths), num_snippets))
    order = np.argsort(lengths, kind="stable")  # videos of like lengths together, so that most batches are compact
    parts = []
    for first in range(0, len(lengths), batch_size):
        videos = np.resize(order[first : first + batch_size], batch_size)
        parts.append(jax.device_get(scorer(*gather_on_host(features, videos, snippets[videos], compact=compact))))
    back = np.argsort(order)
    return jax.tree.map(lambda *columns: np.concatenate(columns)[back], *parts)


def score_whole_videos(
    scorer: Callable[..., SnippetScores], features: Features, *, batch_size: int = 8, shortest: int = 128
) -> SnippetScores:
    """Score every video of a split with as many snippets as it has.

    Args:
      scorer: features, rows (None) and mask to scores, a `Scorer` with its parameters bound.
      features: the split's packed features, V videos.
      batch_size: videos a call.
      shortest: videos are padded to this many snippets or a power of two times as many, so that a few compilations
        serve all.

    Returns:
      Scores as NumPy arrays with a leading axis of V, padded with zeros to the longest video.
    """
    lengths = features.lengths
    order = np.argsort(lengths, kind="stable")
    longest = int(lengths.max())
    parts = []
    for first in range(0, len(lengths), batch_size):
        videos = np.resize(order[first : first + batch_size], batch_size)
        size = shortest
        while size < lengths[videos].max():
            size *= 2
        mask = np.arange(size)[None] < lengths[videos][:, None]
        streams = []
        for stream in features.streams:
            padded = np.zeros((batch_size, size, stream.shape[1]), stream.dtype)
            for row, v in zip(padded, videos, strict=True):
                row[: lengths[v]] = stream[features.rows(v)]
            streams.append(padded)
        found = jax.device_get(scorer(tuple(streams), None, mask))
        cut = jax.tree.map(partial(_fit_time, mask=mask, longest=longest), found._replace(video=None))
        parts.append(cut._replace(video=found.video))
    back = np.argsort(order)
    return jax.tree.map(lambda *columns: np.concatenate(columns)[: len(lengths)][back], *parts)


def _fit_time(x: np.ndarray, mask: np.ndarray, longest: int) -> np.ndarray:
    """(B, T, ...) with zeros in padding, and with time cut or padded to the longest video."""
    x = np.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)), x, 0)[:, :longest]
    return np.pad(x, [(0, 0), (0, longest - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])


class Scored(NamedTuple):
    """Scores of a split, and the Q^C (S, K, 2) they were made with, None without clusters."""

    scores: SnippetScores
    cluster_labels: np.ndarray | None


def make_test_scorer(graphdef: nnx.GraphDef[Any], dataset: Dataset, config: Config) -> Callable[[Any, Any], Scored]:
    """Clustering-assisted inference on every test video, as a function of (params, Q^C)."""
    method, inference = config.method, config.inference
    scorer = recipe_of(config).scorer(graphdef, config)
    whole_set = None
    if inference.test_cluster_labels == "train":
        check_whole_set(config)
        whole_set = make_whole_set_labels(graphdef, dataset.train, dataset.classes, method)

    def score(params: Any, cluster_labels: Any) -> Scored:
        labels = cluster_labels if whole_set is None else whole_set(params, cluster_labels)
        bound = partial(scorer, params, labels)
        if inference.test_sampling == "whole":
            found = score_whole_videos(bound, dataset.test.features)
        else:
            num_snippets = inference.test_num_snippets or method.num_snippets
            compact = may_be_compact(config)
            found = score_videos(bound, dataset.test.features, num_snippets=num_snippets, compact=compact)
        return Scored(found, jax.device_get(labels) if isinstance(labels, jax.Array | np.ndarray) else None)

    return score
