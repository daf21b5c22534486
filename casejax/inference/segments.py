"""From a trained state to detections and their mAP, by the options of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from casejax import localize
from casejax.localize import localize_tcam
from casejax.records import SegmentTable, SnippetScores
from casejax.run.config import InferenceConfig


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
            localize.decay_once_nms,
            threshold=config.nms_threshold,
            sigma=config.nms_decay,
            plus_one=config.nms_plus_one,
        ),
        "soft": partial(localize.soft_nms, sigma=config.nms_decay, plus_one=config.nms_plus_one),
        "hard": partial(localize.hard_nms, threshold=config.nms_threshold, plus_one=config.nms_plus_one),
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


def _fusion(config: InferenceConfig) -> Callable[..., localize.FusedTable] | None:
    """What replaces suppression, if anything does."""
    template = {
        "none": None,
        "gaussian": localize.gaussian,
        "uniform": localize.uniform,
        "exponential": localize.exponential,
        "student_t": localize.student_t,
    }[config.fusion]
    if template is None:
        return None
    return partial(
        localize.fuse_table,
        template=template,
        temperature=config.fusion_temperature,
        overlap={"candidate": localize.candidate_overlap, "iou": localize.temporal_iou}[config.fusion_overlap],
        threshold=config.fusion_threshold,
    )
