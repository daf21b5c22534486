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
from casejax.inference import make_scorer, score_videos
from casejax.scores import SnippetScores
from casejax.train.config import Config, InferenceConfig
from casejax.train.whole_set import make_whole_set_labels


class Scored(NamedTuple):
    """Scores of a split, and the Q^C (S, K, 2) they were made with."""

    scores: SnippetScores
    cluster_labels: np.ndarray


def localize_scores(scores: SnippetScores, durations: Any, config: InferenceConfig) -> SegmentTable:
    """Segments in seconds from snippet scores, by the options of inference."""
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
        class_threshold=config.class_threshold,
        scale=config.scale,
        outer_ratio=config.outer_ratio,
        score_weight=config.score_weight,
        nms=suppress,
        fuse=_fusion(config),
        extrapolate=config.extrapolate,
        drop_lone_first=config.drop_lone_first,
    )


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
    scorer = make_scorer(
        graphdef,
        cas_weight=inference.test_cas_weight,
        transformed_weight=inference.transformed_weight,
        top_k_divisor=method.top_k_divisor,
        pool_probabilities=method.pooling == "probabilities",
    )
    whole_set = None
    if inference.test_cluster_labels == "train":
        whole_set = make_whole_set_labels(graphdef, dataset.train, dataset.classes, method)

    def score(params: Any, cluster_labels: jax.Array | np.ndarray) -> Scored:
        labels = cluster_labels if whole_set is None else whole_set(params, cluster_labels)
        bound = partial(scorer, params, labels)
        num_snippets = inference.test_num_snippets or method.num_snippets
        found = score_videos(bound, dataset.test.features, num_snippets=num_snippets)
        return Scored(found, jax.device_get(labels))

    return score


def evaluate_scores(
    scores: SnippetScores, dataset: Dataset, config: InferenceConfig
) -> tuple[SegmentTable, DetectionResult, ClassificationMetrics]:
    """Localise and evaluate the test split."""
    durations = dataset.test.features.lengths * dataset.snippet_seconds
    detections = localize_scores(scores, durations, config)
    truth = dataset.test.ground_truth(dataset.classes)
    video_scores = np.asarray(scores.video)
    selected = localize.select_classes(video_scores, threshold=config.class_threshold)
    return (
        detections,
        evaluate_detections(detections, truth, dataset.classes, tious=CASE.tious),
        classification_metrics(video_scores, selected, dataset.test.multi_hot(dataset.classes)),
    )
