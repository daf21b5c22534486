"""Snippet labels of all training videos from the network's own fused proposals, made anew a few times in a run.

Zhou et al., CVPR 2023, after the published program, with two of its slips left out: only classes of the video are
labelled, never background or others, and the network that labels has no dropout.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from casejax import localize
from casejax.inference.scoring import make_scorer, score_whole_videos
from casejax.labels import pseudo_labels
from casejax.labels.pseudo_labels import LABEL_EPOCHS
from casejax.localize import fuse_instances
from casejax.records import Dataset, Localization, SnippetScores
from casejax.run.config import Config
from casejax.run.state import TrainState
from casejax.runtime import mesh as placement
from casejax.train.step import num_steps_per_epoch

MAX_PROPOSALS = 256  # of a class in a video, the best
MAX_INSTANCES = 64  # fused from them, the best


class PseudoLabels:
    """When labels are made, and how."""

    def __init__(self, dataset: Dataset, graphdef: nnx.GraphDef[Any], config: Config, mesh: Mesh) -> None:
        split = dataset.train
        total = config.schedule.epochs * num_steps_per_epoch(len(split.videos), config)
        temperatures = pseudo_labels.PUBLISHED_TEMPERATURES
        self.steps = [round(total * epoch / LABEL_EPOCHS) for epoch in temperatures]
        self._temperatures = list(temperatures.values())
        self._features, self._labels = split.features, split.multi_hot(dataset.classes)
        self._scorer = make_scorer(graphdef, config)
        self._config, self._mesh = config, mesh

    def until_next(self, step: int) -> int | None:
        """Steps from here to the next labelling; None if there is none."""
        later = [due - step for due in self.steps if due > step]
        return min(later, default=None)

    def refresh(self, state: TrainState, step: int) -> TrainState:
        """The state with the labels that are due by this step, if they are not made yet; memory starts anew then."""
        due, made = sum(first <= step for first in self.steps), int(state.labels.made)
        if made >= due:
            return state
        params, cluster_labels = placement.local((state.params, state.cluster_labels))
        scores = score_whole_videos(partial(self._scorer, params, cluster_labels), self._features)
        labels = label_videos(
            scores,
            self._features.lengths,
            self._labels,
            self._config.localization,
            temperature=self._temperatures[due - 1],
        )
        shardings = placement.state_shardings(state, self._mesh, self._config.method.split)
        history = jax.jit(lambda history, new: history.push(new), out_shardings=shardings.labels)(state.labels, labels)
        return state._replace(
            labels=history._replace(made=placement.place(np.int32(due), shardings.labels.made)),
            memory=jax.tree.map(jnp.zeros_like, state.memory),
        )


def label_videos(
    scores: SnippetScores,
    lengths: np.ndarray,
    labels: np.ndarray,
    options: Localization,
    *,
    temperature: float,
) -> np.ndarray:
    """Labels of the snippets of V videos from what is localised in them.

    Args:
      scores: of the videos, padded to the longest, T.
      lengths: (V,) their snippets.
      labels: (V, C) zeros and ones.
      options: smoothing, and thresholds and margins of the proposals.
      temperature: of the weights by which a group of proposals is fused, on their mean scores.

    Returns:
      (V, T, C + 1) float32, zeros for classes that a video does not have, and for background.
    """
    thresholded = np.asarray(scores.fused)
    ranked = thresholded if scores.ranked is None else np.asarray(scores.ranked)
    video, label = np.nonzero(labels)
    shape = len(video), MAX_PROPOSALS
    segments, contrasts = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32)
    means, real = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for row, (v, c) in enumerate(zip(video, label, strict=True)):
        curve, score = (x[v : v + 1, : lengths[v], c].astype(np.float64) for x in (thresholded, ranked))
        curve, score = (
            localize.smooth(x, width=options.smooth_width, degree=options.smooth_degree) for x in (curve, score)
        )
        runs = localize.propose(curve, thresholds=options.thresholds, drop_lone_first=options.drop_lone_first)
        kept = np.flatnonzero(runs.last + 1 - runs.first >= options.min_snippets)
        owner, first, last = np.zeros(len(kept), np.int64), runs.first[kept], runs.last[kept]
        contrast = localize.outer_inner_contrast(
            score, owner, first, last, outer_ratio=options.outer_ratio, outer_power=options.outer_power
        )
        sums = np.concatenate([[0], np.cumsum(score)])
        best = np.argsort(-contrast, kind="stable")[:MAX_PROPOSALS]
        place = row, slice(len(best))
        segments[place] = np.stack([first, last + 1], axis=1)[best]
        contrasts[place] = contrast[best]
        means[place] = ((sums[last + 1] - sums[first]) / (last + 1 - first))[best]
        real[place] = True
    found = _label(
        segments,
        contrasts,
        means,
        real,
        lengths[video],
        temperature,
        num_snippets=thresholded.shape[1],
    )
    out = np.zeros((len(labels), thresholded.shape[1], labels.shape[1] + 1), np.float32)
    out[video, :, label] = found
    return out


@partial(jax.jit, static_argnames="num_snippets")
def _label(
    segments: jax.Array,
    contrasts: jax.Array,
    means: jax.Array,
    real: jax.Array,
    lengths: jax.Array,
    temperature: Any,
    *,
    num_snippets: int,
) -> jax.Array:
    """(G, T) labels of G classes in their videos, from N proposals each."""

    def one(row: tuple[jax.Array, ...]) -> jax.Array:
        segment, contrast, mean, mask, length = row
        fused = fuse_instances(
            segment,
            contrast,
            logits=mean,
            mask=mask,
            temperature=temperature,
            max_groups=MAX_INSTANCES,
        )
        found = pseudo_labels.snippet_labels(
            fused.segments,
            fused.scores,
            num_snippets=num_snippets,
            mask=fused.mask,
            snippet_mask=jnp.arange(num_snippets) < length,
        )
        return found.labels

    return jax.lax.map(one, (segments, contrasts, means, real, lengths), batch_size=8)
