"""From a trained network to what a run reports: detections, mAP with its protocol and interval, files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from casejax import localize
from casejax.errors import CheckpointError
from casejax.evaluate.bootstrap import Bootstrap, bootstrap_detections
from casejax.evaluate.classification import ClassificationMetrics, classification_metrics
from casejax.evaluate.detection import DetectionResult
from casejax.evaluate.protocols import A2CL_PT, CASE, Protocol, judge
from casejax.inference.scoring import Scored, make_test_scorer
from casejax.records import Dataset, Localization, SegmentTable, SnippetScores
from casejax.report import tables as report
from casejax.run.config import Config
from casejax.run.folder import Restored
from casejax.runtime import distributed, files

WARNINGS = {
    "test-oracle": "warning: this model was selected on the test set, as published results are; the figures are "
    "optimistic and no estimate for other videos"
}


def evaluate_run(
    restored: Restored,
    dataset: Dataset,
    out: Path,
    *,
    protocol: Protocol | None = None,
    console: Console | None = None,
) -> DetectionResult:
    """Evaluate a trained or converted network on a test split and write predictions and figures to `out`.

    Args:
      restored: as `restore_run` gives it.
      dataset: with the classes and feature dimensions the network was trained with.
      out: where `predictions.json`, `average_precision.csv` and `results.json` go.
      protocol: how detections are judged; default that of CASE on every video of the split.
      console: where results are printed; default standard output.

    Raises:
      CheckpointError: the network was trained with other classes or dimensions.
    """
    folder, graphdef, state, config, meta = restored
    for name, ours in (("classes", list(dataset.classes)), ("dims", list(dataset.dims))):
        if meta["data"][name] != ours:
            raise CheckpointError(
                f"{folder} was trained with {name} {meta['data'][name]}, {dataset.source} has {ours}; use data of "
                "the same classes and features (classes.txt fixes the classes' order; convert takes --classes)"
            )
    scored = make_test_scorer(graphdef, dataset, config)(state.params, state.cluster_labels)
    selection = f"{config.training.select}, step {int(state.step)} of {folder}"
    _, detection, *_ = report_scores(
        console or default_console(),
        dataset,
        config,
        scored,
        out,
        step=int(state.step),
        selection=selection,
        protocol=protocol,
    )
    return detection


def report_scores(
    console: Console,
    dataset: Dataset,
    config: Config,
    scored: Scored,
    out: Path,
    *,
    step: int,
    selection: str,
    untrained: tuple[DetectionResult, ClassificationMetrics] | None = None,
    protocol: Protocol | None = None,
) -> tuple[SegmentTable, DetectionResult, ClassificationMetrics, Bootstrap]:
    """Evaluate scores of the test split, print the table and write what a run leaves beside its checkpoints."""
    protocol = protocol or _whole_split(dataset)
    detections, detection, classification = evaluate_scores(
        scored.scores, dataset, config.localization, protocol=protocol
    )
    interval = bootstrap_detections(
        detections,
        dataset.test.ground_truth(dataset.classes),
        dataset.classes,
        videos=_ids(dataset),
        protocol=protocol,
        snippet_seconds=dataset.snippet_seconds,
        ambiguous=dataset.test.ambiguous,
    )
    counts = {"num_videos": interval.num_videos, "num_instances": int(detection.num_ground_truth.sum())}
    described = config.describe()
    warning = WARNINGS.get(config.training.select)

    console.print(f"method {described}", soft_wrap=True, highlight=False, markup=False)
    rows = {} if untrained is None else {"untrained": untrained}
    report.print_results(
        console,
        rows | {"trained": (detection, classification)},
        protocol=protocol,
        selection=selection,
        intervals={"trained": interval},
        **counts,
    )
    caveats = protocol.caveats(num_videos=interval.num_videos, num_ambiguous=len(dataset.test.ambiguous.score))
    for line in [*caveats, *([warning] if warning else [])]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    report.write_predictions(out / "predictions.json", detections, dataset)
    report.write_average_precision(out / "average_precision.csv", detection)
    results = {
        "method": described,
        "protocol": protocol.describe(**counts, selection=selection),
        **({"caveats": caveats} if caveats else {}),
        "step": step,
        "trained": report.summary(detection, classification, protocol, interval),
    }
    if untrained is not None:
        results["untrained"] = report.summary(*untrained, protocol)
    files.write_json(out / "results.json", results | ({"warning": warning} if warning else {}))
    return detections, detection, classification, interval


def report_on_grid(
    dataset: Dataset,
    results: Mapping[int, tuple[SegmentTable, ClassificationMetrics]],
    *,
    console: Console | None = None,
) -> None:
    """Print detections of every seed by the published protocol of A2CL-PT, on the grid of snippets."""
    rows = {
        f"seed {seed}": (_judge(detections, dataset, A2CL_PT), classification)
        for seed, (detections, classification) in results.items()
    }
    report.print_results(
        console or default_console(),
        rows,
        protocol=A2CL_PT,
        selection="last step",
        num_videos=sum(map(A2CL_PT.keeps, _ids(dataset))),
        num_instances=int(next(iter(rows.values()))[0].num_ground_truth.sum()),
    )


def default_console() -> Console:
    """Standard output, 100 columns wide where it is no terminal; silent in all but the first of several processes."""
    return Console(width=None if sys.stdout.isatty() else 100, quiet=not distributed.is_first())


def evaluate_scores(
    scores: SnippetScores, dataset: Dataset, options: Localization, *, protocol: Protocol | None = None
) -> tuple[SegmentTable, DetectionResult, ClassificationMetrics]:
    """Localise and evaluate the test split; default protocol: that of CASE on every video of the split."""
    lengths = dataset.test.features.lengths
    own = lengths if options.test_sampling == "whole" else None
    video_scores = np.asarray(scores.video)
    detections = localize.localize(
        np.asarray(scores.fused),
        video_scores,
        lengths * dataset.snippet_seconds,
        options=options,
        ranked=None if scores.ranked is None else np.asarray(scores.ranked),
        lengths=own,
    )
    selected = localize.select_classes(video_scores, threshold=options.class_threshold)
    return (
        detections,
        _judge(detections, dataset, protocol or _whole_split(dataset)),
        classification_metrics(video_scores, selected, dataset.test.multi_hot(dataset.classes)),
    )


def _judge(detections: SegmentTable, dataset: Dataset, protocol: Protocol) -> DetectionResult:
    return judge(
        detections,
        dataset.test.ground_truth(dataset.classes),
        dataset.classes,
        protocol,
        videos=_ids(dataset),
        snippet_seconds=dataset.snippet_seconds,
        ambiguous=dataset.test.ambiguous,
    )


def _whole_split(dataset: Dataset) -> Protocol:
    return replace(CASE, ground_truth=f"test split of {dataset.source}", num_videos=None, without=())


def _ids(dataset: Dataset) -> list[str]:
    return [video.id for video in dataset.test.videos]
