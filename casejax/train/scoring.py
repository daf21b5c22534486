"""From a trained state to detections and their mAP, by the options of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from casejax import fusion, localize, nms
from casejax.data.records import Dataset, SegmentTable
from casejax.evaluate.classification import ClassificationMetrics, classification_metrics
from casejax.evaluate.detection import CASE, DetectionResult, evaluate_detections
from casejax.inference import score_videos, score_whole_videos
from casejax.localize_tcam import localize_tcam
from casejax.scores import SnippetScores
from casejax.train.base_options import check_whole_set
from casejax.train.config import Config, InferenceConfig
from casejax.train.recipes import recipe_of
from casejax.train.step import may_be_compact
from casejax.train.whole_set import make_whole_set_labels


class Scored(NamedTuple):
    """Scores of a split, and the Q^C (S, K, 2) they were made with, None without clusters."""

    scores: SnippetScores
    cluster_labels: np.ndarray | None


def localize_scores(
    scores: SnippetScores, durations: Any, config: InferenceConfig, *, lengths: np.ndarray | None = None
) -> SegmentTable:
    """Segments in seconds from snippet scores, by the options of inference.

    Args:
      scores: of V videos.
      durations: (V,) seconds.
      config: the options.
      lengths: (V,) snippets of each video, of which those beyond are padding; None where all have T.
    """
    if config.proposals == "positive":
        return _positive(scores, durations, config, lengths)
    suppress = {
        "decay_once": partial(
            nms.decay_once_nms,
            threshold=config.nms_threshold,
            sigma=config.nms_decay,
            plus_one=config.nms_plus_one,
        ),
        "soft": partial(nms.soft_nms, sigma=config.nms_decay, plus_one=config.nms_plus_one),
        "hard": partial(nms.hard_nms, threshold=config.nms_threshold, plus_one=config.nms_plus_one),
    }[config.nms]
    return localize.localize(
        np.asarray(scores.fused),
        np.asarray(scores.video),
        durations,
        ranked=None if scores.ranked is None else np.asarray(scores.ranked),
        lengths=lengths,
        class_threshold=config.class_threshold,
        thresholds=config.thresholds,
        scale=config.scale,
        outer_ratio=config.outer_ratio,
        outer_power=config.outer_power,
        score_weight=config.score_weight,
        min_snippets=config.min_snippets,
        nms_in_snippets=config.nms_unit == "snippets",
        nms=suppress,
        fuse=_fusion(config),
        extrapolate=config.extrapolate,
        drop_lone_first=config.drop_lone_first,
    )


def _positive(
    scores: SnippetScores, durations: np.ndarray, config: InferenceConfig, lengths: np.ndarray | None
) -> SegmentTable:
    """Stretches of positive scores; suppression and fusion have no part in it."""
    curves = np.asarray(scores.fused)
    counts = np.full(len(curves), curves.shape[1]) if lengths is None else lengths
    found = localize_tcam(
        [curve[:count] for curve, count in zip(curves, counts, strict=True)],
        class_threshold=config.class_threshold,
        min_snippets=config.min_snippets,
        snippet_seconds=1.0,
    )
    return found._replace(segment=found.segment * (durations / counts)[found.video][:, None])


def _fusion(config: InferenceConfig) -> Callable[..., fusion.FusedTable] | None:
    """What replaces suppression, if anything does."""
    template = {
        "none": None,
        "gaussian": fusion.gaussian,
        "uniform": fusion.uniform,
        "exponential": fusion.exponential,
        "student_t": fusion.student_t,
    }[config.fusion]
    if template is None:
        return None
    return partial(
        fusion.fuse_table,
        template=template,
        temperature=config.fusion_temperature,
        overlap={"candidate": fusion.candidate_overlap, "iou": fusion.iou}[config.fusion_overlap],
        threshold=config.fusion_threshold,
    )


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


def evaluate_scores(
    scores: SnippetScores, dataset: Dataset, config: InferenceConfig
) -> tuple[SegmentTable, DetectionResult, ClassificationMetrics]:
    """Localise and evaluate the test split."""
    lengths = dataset.test.features.lengths
    own = lengths if config.test_sampling == "whole" else None
    detections = localize_scores(scores, lengths * dataset.snippet_seconds, config, lengths=own)
    truth = dataset.test.ground_truth(dataset.classes)
    video_scores = np.asarray(scores.video)
    selected = localize.select_classes(video_scores, threshold=config.class_threshold)
    return (
        detections,
        evaluate_detections(detections, truth, dataset.classes, tious=CASE.tious),
        classification_metrics(video_scores, selected, dataset.test.multi_hot(dataset.classes)),
    )
