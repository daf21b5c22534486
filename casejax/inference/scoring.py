"""A trained network over the videos of a split, a fixed batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from flax import nnx

from casejax.data.sampling import gather_on_host
from casejax.methods import Method
from casejax.methods.case.whole_split import make_whole_split_labels
from casejax.records import Dataset, Features, SnippetScores
from casejax.run.config import Config

T = TypeVar("T")

Scorer = Callable[..., SnippetScores]
"""(params, Q^C, features, rows=None, mask=None) to snippet scores, compiled."""


def score_videos(
    scorer: Callable[[tuple[Any, ...], Any], T],
    features: Features,
    *,
    num_snippets: int,
    batch_size: int = 16,
    compact: bool = True,
) -> T:
    """Score every video of a split, resampled evenly to T snippets.

    Args:
      scorer: features and rows to scores, a `Scorer` with its parameters bound, or to other arrays of videos.
      features: the split's packed features, V videos.
      num_snippets: T.
      batch_size: videos a call; the last call is filled up, so that one compilation serves all of a shape. There
        are two: snippets that short videos repeat are computed once wherever that halves the batch.
      compact: whether they may be: the network sees each snippet alone.

    Returns:
      What the scorer gives, as NumPy arrays with a leading axis of V.

    Example:
      >>> from casejax import data, inference
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> def scorer(streams, rows):  # in the place of a network: the mean of the features
      ...     return streams[0].mean(1)
      >>> inference.score_videos(scorer, world.test.features, num_snippets=16, compact=False).shape
      (6, 8)
    """
    lengths = features.lengths
    # as `uniform_snippets`, on the host, where another number of videos needs no compilation
    snippets = np.arange(num_snippets) * lengths[:, None] // num_snippets
    order = np.argsort(lengths, kind="stable")  # videos of like lengths together, so that most batches are compact
    parts = []
    for first in range(0, len(lengths), batch_size):
        videos = np.resize(order[first : first + batch_size], batch_size)
        parts.append(jax.device_get(scorer(*gather_on_host(features, videos, snippets[videos], compact=compact))))
    back = np.argsort(order)
    return jax.tree.map(lambda *columns: np.concatenate(columns)[back], *parts)


def score_whole_videos(
    scorer: Callable[..., SnippetScores],
    features: Features,
    *,
    batch_size: int = 8,
    shortest: int = 128,
    growth: int = 2,
) -> SnippetScores:
    """Score every video of a split with as many snippets as it has.

    Args:
      scorer: features, rows (None) and mask to scores, a `Scorer` with its parameters bound.
      features: the split's packed features, V videos.
      batch_size: videos a call.
      shortest: videos are padded to this many snippets or a power of `growth` times as many, so that a few
        compilations serve all.
      growth: from one size to the next.

    Returns:
      Scores as NumPy arrays with a leading axis of V, padded with zeros to the longest video.

    Example:
      >>> import numpy as np
      >>> from casejax import data, inference
      >>> from casejax.records import SnippetScores
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> def scorer(streams, rows, mask):  # in the place of a network: the first two features
      ...     return SnippetScores(fused=streams[0][..., :2], video=np.zeros((len(mask), 2)))
      >>> inference.score_whole_videos(scorer, world.test.features).fused.shape
      (6, 40, 2)
    """
    lengths = features.lengths
    order = np.argsort(lengths, kind="stable")
    longest = int(lengths.max())
    parts = []
    for first in range(0, len(lengths), batch_size):
        videos = np.resize(order[first : first + batch_size], batch_size)
        size = shortest
        while size < lengths[videos].max():
            size *= growth
        mask = np.arange(size)[None] < lengths[videos][:, None]
        streams = []
        for stream in features.streams:
            padded = np.zeros((batch_size, size, stream.shape[1]), stream.dtype)
            for row, v in zip(padded, videos, strict=True):
                row[: lengths[v]] = stream[features.rows(v)]
            streams.append(padded)
        found = jax.device_get(scorer(tuple(streams), None, mask))
        cut = jax.tree.map(partial(_fit_time, mask=mask, longest=longest), found._replace(video=None, proposals=None))
        parts.append(cut._replace(video=found.video, proposals=found.proposals))
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


def make_scorer(graphdef: nnx.GraphDef[Any], config: Config) -> Scorer:
    """The inference of a method, compiled; the same network and options compile once, whoever asks.

    Example:
      >>> import numpy as np
      >>> from casejax import inference, run
      >>> config = run.Config.of("case", hidden=8, num_snippets=32)
      >>> graphdef, state = run.initial_state(config, dims=(8, 8), num_classes=2)
      >>> scorer = inference.make_scorer(graphdef, config)
      >>> features = tuple(np.ones((1, 32, 8), np.float32) for stream in ("rgb", "flow"))
      >>> scorer(state.params, state.cluster_labels, features).fused.shape
      (1, 32, 2)
    """
    return _scorer(graphdef, config.method, config.settings)


@lru_cache(maxsize=32)
def _scorer(graphdef: nnx.GraphDef[Any], method: Method, settings: Any) -> Scorer:
    @jax.jit
    def score(
        params: Any,
        cluster_labels: Any,
        features: tuple[jax.Array, ...],
        rows: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> SnippetScores:
        places = {} if rows is None else {"rows": rows}
        outputs = nnx.merge(graphdef, params)(features, mask=mask, **places)
        return method.score(outputs, cluster_labels, settings=settings, mask=mask)

    return score


def make_test_scorer(graphdef: nnx.GraphDef[Any], dataset: Dataset, config: Config) -> Callable[[Any, Any], Scored]:
    """Inference on every test video, as a function of (params, Q^C).

    Example:
      >>> from casejax import data, inference, run
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> config = run.Config.of("case", hidden=8, num_snippets=32)
      >>> graphdef, state = run.initial_state(config, dims=(8, 8), num_classes=2)
      >>> score = inference.make_test_scorer(graphdef, world, config)
      >>> score(state.params, state.cluster_labels).scores.video.shape
      (6, 2)
    """
    options, num_snippets = config.localization, config.schedule.num_snippets
    scorer = make_scorer(graphdef, config)
    whole_split = None
    if config.flat().get("test_cluster_labels") == "train":
        whole_split = make_whole_split_labels(
            graphdef, dataset.train, dataset.classes, settings=config.settings, num_snippets=num_snippets
        )

    def score(params: Any, cluster_labels: Any) -> Scored:
        labels = cluster_labels if whole_split is None else whole_split(params, cluster_labels)
        bound = partial(scorer, params, labels)
        if options.test_sampling == "whole":
            found = score_whole_videos(bound, dataset.test.features)
        else:
            found = score_videos(
                bound,
                dataset.test.features,
                num_snippets=options.test_num_snippets or num_snippets,
                compact=config.may_be_compact,
            )
        return Scored(found, jax.device_get(labels) if isinstance(labels, jax.Array | np.ndarray) else None)

    return score
