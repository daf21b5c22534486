"""What a report shows of a test split: scores of every video, what clusters hold, and a map of embeddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax.inference.scoring import score_videos
from casejax.methods.case.inference import cluster_assignments
from casejax.records import Dataset, SegmentTable, SnippetScores, Split
from casejax.report import pictures
from casejax.report.analysis import Analysis
from casejax.run.config import Config

TOP = 5  # classes of a video whose scores are kept
LOOKED_AT = 64  # videos whose embeddings are computed, spread evenly over the lengths
SEEN = 32  # snippets of each for the map
POINTS = 800  # of the map, as many in actions as outside where there are


class Look(NamedTuple):
    """What a network says of some test videos, resampled to T snippets.

    Attributes:
      videos: (W,) which.
      assignments: (W, T, K) P^S, one array for all streams or one each; () without clusters.
      embedding: (W, SEEN, D) unit embeddings of evenly spread snippets, one array a stream; () without any.
    """

    videos: np.ndarray
    assignments: tuple[np.ndarray, ...]
    embedding: tuple[np.ndarray, ...]


def look(graphdef: nnx.GraphDef[Any], params: Any, dataset: Dataset, config: Config) -> Look:
    """Embeddings and cluster assignments of test videos; args as for `make_test_scorer`."""
    test, num_snippets = dataset.test, config.schedule.num_snippets
    spread = np.linspace(0, len(test.videos) - 1, min(LOOKED_AT, len(test.videos))).round().astype(int)
    videos = np.sort(np.argsort(test.features.lengths, kind="stable")[spread])
    seen = jnp.arange(min(SEEN, num_snippets)) * num_snippets // min(SEEN, num_snippets)

    @jax.jit
    def see(features: tuple[jax.Array, ...], rows: Any) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        outputs = nnx.merge(graphdef, params)(features)
        embedding = [e[:, seen] for e in outputs.embedding]
        assigned = cluster_assignments(outputs, settings=config.settings) if outputs.cluster_logits else ()
        return assigned, tuple(e / jnp.maximum(jnp.linalg.norm(e, axis=2, keepdims=True), 1e-9) for e in embedding)

    taken = test.features.take(videos)
    assigned, embedding = score_videos(see, taken, num_snippets=num_snippets, batch_size=8, compact=False)
    return Look(videos, assigned, embedding)


def analyse(
    dataset: Dataset,
    scores: SnippetScores,
    detections: SegmentTable,
    cluster_labels: np.ndarray | None,
    *,
    whole: bool,
    looked: Look | None = None,
) -> Analysis:
    """Gather what a report shows of the test split.

    Args:
      dataset: its test split.
      scores: of it, NumPy arrays with a leading axis of videos.
      detections: in it, seconds.
      cluster_labels: (S, K, 2) Q^C; None without clusters.
      whole: whether videos were scored as they are, their scores padded to the longest; else they were resampled.
      looked: at its embeddings.
    """
    test, classes = dataset.test, np.array(dataset.classes)
    lengths = test.features.lengths
    end = dataset.timing.offset + lengths * dataset.row_seconds(test)
    snippets = lengths if whole else np.full(len(lengths), scores.fused.shape[1])
    drawn = [pictures.score_curves(scores, v, int(n), merge=False) for v, n in enumerate(snippets)]
    names = list(drawn[0][1])
    distinct = [
        name
        for i, name in enumerate(names)
        if not any(all(np.array_equal(own[name], own[other]) for _, own in drawn) for other in names[:i])
    ]
    order = np.argsort(-(np.asarray(scores.video, np.float64) + 1e6 * test.multi_hot(dataset.classes)), axis=1)
    top = order[:, :TOP]
    kept = np.concatenate(
        [np.asarray(scores.fused)[v, :n, own].T for v, (n, own) in enumerate(zip(snippets, top, strict=True))]
    )
    stated = [video.duration or 0.0 for video in test.videos]
    values: dict[str, Any] = {}
    if cluster_labels is not None:
        values["cluster_foreground"] = cluster_labels[:, :, 0]
    if looked is not None:
        values |= _clusters(looked, test, dataset, end) | _map(looked, test, dataset, end)
    return Analysis(
        classes=classes,
        streams=np.array(dataset.streams),
        videos=np.array([video.id for video in test.videos]),
        duration=np.maximum(end, stated),
        covered=np.stack([np.full(len(end), dataset.timing.offset), end], axis=1),
        timed=test.timed,
        truth=test.ground_truth(dataset.classes),
        found=detections,
        snippets=np.asarray(snippets, np.int64),
        heading=drawn[0][0],
        curve_names=np.array(distinct),
        curves=np.concatenate([np.stack([own[name] for name in distinct], axis=1) for _, own in drawn]).astype(
            np.float16
        ),
        top_classes=top.astype(np.int16),
        class_scores=kept.astype(np.float16),
        **values,
    )


def annotated(test: Split, dataset: Dataset, videos: np.ndarray, ends: np.ndarray, count: int) -> np.ndarray:
    """(W, count, C) bool, whether an instance of a class covers the middle of each of so many even parts of a video."""
    truth = test.ground_truth(dataset.classes)
    inside = np.zeros((len(videos), count, len(dataset.classes)), bool)
    for row, v in enumerate(videos):
        start = dataset.timing.offset
        middle = start + (np.arange(count) + 0.5) / count * (ends[v] - start)
        own = truth.take(truth.video == v)
        for label, (first, last) in zip(own.label, own.segment, strict=True):
            inside[row, (first <= middle) & (middle < last), label] = True
    return inside


def _clusters(looked: Look, test: Split, dataset: Dataset, ends: np.ndarray) -> dict[str, np.ndarray]:
    """What the clusters hold: shares of the snippets, and of those in annotated videos by class."""
    if not looked.assignments:
        return {}
    shares = np.stack([assigned.mean(axis=(0, 1)) for assigned in looked.assignments])
    timed = test.timed[looked.videos]
    if not timed.any():
        return {"cluster_size": shares}
    inside = annotated(test, dataset, looked.videos[timed], ends, looked.assignments[0].shape[1])
    with_none = np.concatenate([inside, ~inside.any(axis=2, keepdims=True)], axis=2).astype(np.float64)
    with_none /= with_none.sum(axis=2, keepdims=True)
    held = [np.einsum("wtk,wtc->kc", own[timed], with_none) / with_none.sum() for own in looked.assignments]
    return {"cluster_size": shares, "cluster_truth": np.stack(held)}


def _map(looked: Look, test: Split, dataset: Dataset, ends: np.ndarray) -> dict[str, np.ndarray]:
    """Embeddings and prototypes on two principal axes, a plane a stream."""
    if not looked.embedding:
        return {}
    count = looked.embedding[0].shape[1]
    inside = annotated(test, dataset, looked.videos, ends, count)
    labels = np.where(inside.any(axis=2), inside.argmax(axis=2), -1).reshape(-1)
    rng = np.random.default_rng(0)
    chosen: list[np.ndarray] = []
    for rows, share in ((np.flatnonzero(labels >= 0), 2), (np.flatnonzero(labels < 0), 1)):
        wanted = min(len(rows), (POINTS - sum(map(len, chosen))) // share)
        chosen.append(rng.choice(rows, wanted, replace=False))
    rows = np.sort(np.concatenate(chosen))
    points, prototypes, explained = [], [], []
    for s, embedding in enumerate(looked.embedding):
        flat = embedding.reshape(-1, embedding.shape[-1]).astype(np.float64)
        mean = flat[rows].mean(axis=0)
        _, spread, axes = np.linalg.svd(flat[rows] - mean, full_matrices=False)
        points.append(_plane(flat[rows] - mean, axes))
        explained.append((spread[:2] ** 2).sum() / max((spread**2).sum(), 1e-12))
        if looked.assignments:
            assigned = looked.assignments[min(s, len(looked.assignments) - 1)]
            places = np.arange(count) * assigned.shape[1] // count
            weights = assigned[:, places].reshape(-1, assigned.shape[2]).astype(np.float64)
            means = weights.T @ flat / np.maximum(weights.sum(axis=0), 1e-9)[:, None]
            prototypes.append(_plane(means - mean, axes))
    found = {"points": np.stack(points), "point_labels": labels[rows].astype(np.int16)}
    found["explained"] = np.array(explained)
    return found | ({"prototypes": np.stack(prototypes)} if prototypes else {})


def _plane(rows: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(n, 2) float32 on the first two axes; zeros where there is only one."""
    flat = rows @ axes[:2].T
    return np.pad(flat, [(0, 0), (0, 2 - flat.shape[1])]).astype(np.float32)


def make_look(graphdef: nnx.GraphDef[Any], params: Any, dataset: Dataset, config: Config) -> Callable[[], Look]:
    """`look`, to be done when something is there to be reported."""
    return partial(look, graphdef, params, dataset, config)
