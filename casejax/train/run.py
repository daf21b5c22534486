"""One whole run: train, score the test split, localise, evaluate, report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from casejax import localize, report
from casejax.data.records import Dataset, SegmentTable, Split
from casejax.evaluate.classification import ClassificationMetrics, classification_metrics
from casejax.evaluate.detection import CASE, DetectionResult, evaluate_detections
from casejax.inference import make_scorer, score_videos
from casejax.scores import SnippetScores
from casejax.train.config import Config, InferenceConfig
from casejax.train.loop import train

SELECTION = "last step"


@dataclass(frozen=True)
class RunResult:
    """What a run ends with; mAP and accuracies are fractions."""

    detection: DetectionResult
    classification: ClassificationMetrics
    untrained: DetectionResult
    detections: SegmentTable
    scores: SnippetScores
    train_seconds: float


def localize_scores(scores: SnippetScores, durations: Any, config: InferenceConfig) -> SegmentTable:
    """Segments in seconds from snippet scores, by the options of inference."""
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
        class_threshold=config.class_threshold,
        scale=config.scale,
        outer_ratio=config.outer_ratio,
        score_weight=config.score_weight,
        nms=suppress,
        drop_lone_first=config.drop_lone_first,
    )


def make_split_scorer(
    graphdef: nnx.GraphDef[Any], split: Split, config: Config
) -> Callable[[Any, jax.Array | np.ndarray], SnippetScores]:
    """Clustering-assisted inference on every video of a split, as a function of (params, Q^C)."""
    scorer = make_scorer(
        graphdef,
        cas_weight=config.inference.test_cas_weight,
        transformed_weight=config.inference.transformed_weight,
        top_k_divisor=config.method.top_k_divisor,
        pool_probabilities=config.method.pooling == "probabilities",
    )

    def score(params: Any, cluster_labels: jax.Array | np.ndarray) -> SnippetScores:
        bound = partial(scorer, params, cluster_labels)
        return score_videos(bound, split.features, num_snippets=config.method.num_snippets)

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


def run(
    dataset: Dataset,
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    devices: int | None = None,
    console: Console | None = None,
) -> RunResult:
    """Train on the train split, evaluate the last step on the test split, and write everything to `out`.

    `out` then holds `checkpoints/`, `config.json`, `metrics.jsonl`, `predictions.json`,
    `average_precision.csv`, `results.json` and `pictures/`.

    Args:
      dataset: as a reader of `casejax.data` returns it.
      config: all options.
      out: folder of the run.
      resume: go on from the newest checkpoint in `out`.
      devices: shard the batch over this many devices; default all.
      console: where results are printed; default standard output.

    Raises:
      As `casejax.train.loop.train`.
    """
    console = console or Console(width=None if sys.stdout.isatty() else 100)
    trained = train(dataset, config, out, resume=resume, devices=devices)
    report.write_json(out / "config.json", config.as_dict())

    state, initial = trained.state, trained.initial
    score = make_split_scorer(trained.graphdef, dataset.test, config)
    untrained_scores = score(initial.params, initial.cluster_labels)
    _, untrained, untrained_classes = evaluate_scores(untrained_scores, dataset, config.inference)
    scores = score(state.params, state.cluster_labels)
    detections, result, classes = evaluate_scores(scores, dataset, config.inference)

    protocol = replace(CASE, ground_truth=f"test split of {dataset.source}")
    counts = {
        "num_videos": len(dataset.test.videos),
        "num_instances": int(result.num_ground_truth.sum()),
    }
    report.print_results(
        console,
        {"untrained": (untrained, untrained_classes), "trained": (result, classes)},
        protocol=protocol,
        selection=SELECTION,
        **counts,
    )
    report.write_predictions(out / "predictions.json", detections, dataset)
    report.write_average_precision(out / "average_precision.csv", result)
    report.write_json(
        out / "results.json",
        {
            "protocol": protocol.describe(**counts, selection=SELECTION),
            "step": int(state.step),
            "trained": report.summary(result, classes, protocol),
            "untrained": report.summary(untrained, untrained_classes, protocol),
            "train_seconds": round(trained.seconds, 2),
        },
    )
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    labels = jax.device_get(state.cluster_labels)
    try:
        report.draw_pictures(out / "pictures", dataset, scores, detections, labels, metrics)
    except ImportError as error:
        console.print(f"no pictures: {error}", markup=False)
    console.print(f"trained in {trained.seconds:.1f} s; everything is in {out}", highlight=False, markup=False)
    return RunResult(result, classes, untrained, detections, scores, trained.seconds)
