"""From a trained network to what a run reports: detections, mAP with its protocol and interval, files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from casejax import localize
from casejax.errors import CheckpointError, DataError
from casejax.evaluate.bootstrap import Bootstrap, bootstrap_detections
from casejax.evaluate.classification import ClassificationMetrics, classification_metrics
from casejax.evaluate.detection import DetectionResult
from casejax.evaluate.protocols import A2CL_PT, CASE, PROTOCOLS, Protocol, judge
from casejax.inference.analysis import Look, analyse, make_look
from casejax.inference.scoring import Scored, make_test_scorer
from casejax.records import Dataset, Localization, SegmentTable, SnippetScores
from casejax.report import tables as report
from casejax.report.analysis import NAME, write_analysis
from casejax.run.config import Config
from casejax.run.folder import Restored
from casejax.runtime import distributed, files

WARNINGS = {
    "test-oracle": "warning: this model was selected on the test set, as published results are; the figures are "
    "optimistic and no estimate for other videos"
}


class Judged(NamedTuple):
    """What was found in the test split, and how good it is.

    Attributes:
      detections: segments, seconds.
      detection: mAP; None where no test video has annotated times.
      classification: video-level metrics; None where no test video has labels.
    """

    detections: SegmentTable
    detection: DetectionResult | None
    classification: ClassificationMetrics | None


def evaluate_run(
    restored: Restored,
    dataset: Dataset,
    out: Path,
    *,
    protocol: Protocol | None = None,
    console: Console | None = None,
) -> DetectionResult | None:
    """Evaluate a trained or converted network on a test split and write predictions and figures to `out`.

    Args:
      restored: as `restore_run` gives it.
      dataset: with the classes, feature dimensions and timing the network was trained with.
      out: where `predictions.json`, `average_precision.csv`, `results.json` and `analysis.npz` go.
      protocol: how detections are judged; default `usual_protocol`.
      console: where results are printed; default standard output.

    Returns:
      mAP; None where no test video has annotated times.

    Raises:
      CheckpointError: the network was trained with other classes, dimensions or timing.
      DataError: no test video.

    Example:
      >>> from pathlib import Path
      >>> from rich.console import Console
      >>> from casejax import data, inference, run
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> restored = run.restore_run(Path("run"))
      >>> result = inference.evaluate_run(restored, world, Path("out"), console=Console(quiet=True))
      >>> result.classes
      ('CliffDive', 'Dive')
    """
    folder, graphdef, state, config, meta = restored
    for name, ours in (("classes", list(dataset.classes)), ("dims", list(dataset.dims))):
        if meta["data"][name] != ours:
            raise CheckpointError(
                f"{folder} was trained with {name} {meta['data'][name]}, {dataset.source} has {ours}; use data of "
                "the same classes and features (classes.txt fixes the classes' order; convert takes --classes)"
            )
    restored.check_timing(dataset.timing, dataset.source)
    if not dataset.test.videos:
        raise DataError(f"{dataset.source}: no test video to evaluate on; name some, or use casejax predict")
    scored = make_test_scorer(graphdef, dataset, config)(state.params, state.cluster_labels)
    selection = f"{config.training.select}, step {int(state.step)} of {folder}"
    judged, _ = report_scores(
        console or default_console(),
        dataset,
        config,
        scored,
        out,
        step=int(state.step),
        selection=selection,
        protocol=protocol,
        look=make_look(graphdef, state.params, dataset, config),
    )
    return judged.detection


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
    remarks: Callable[[Judged], list[str]] = lambda judged: [],
    look: Callable[[], Look] | None = None,
) -> tuple[Judged, Bootstrap | None]:
    """Evaluate scores of the test split, print the table and write what a run leaves beside its checkpoints.

    `remarks` says what has most likely gone wrong; it is printed, and stands in results.json. With `look`, what the
    network says of embeddings and clusters is in `analysis.npz` too, which a report is made of.

    Example:
      >>> from pathlib import Path
      >>> from rich.console import Console
      >>> from casejax import data, inference, run
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> config, console = run.restore_run(Path("run")).config, Console(quiet=True)
      >>> graphdef, state = run.initial_state(config, dims=(8, 8), num_classes=2)
      >>> scored = inference.make_test_scorer(graphdef, world, config)(state.params, state.cluster_labels)
      >>> judged = inference.report_scores(console, world, config, scored, Path("."), step=0, selection="last step")
      >>> Path("results.json").is_file()
      True
    """
    protocol = protocol or usual_protocol(config, dataset)
    judged, truth = _evaluate(scored.scores, dataset, config.localization, protocol)
    whole = config.localization.test_sampling == "whole"
    looked = None if look is None else look()
    analysis = analyse(dataset, scored.scores, judged.detections, scored.cluster_labels, whole=whole, looked=looked)
    write_analysis(out / NAME, analysis)
    described = config.describe()
    report.write_predictions(out / "predictions.json", judged.detections, dataset)
    console.print(f"method {described}", soft_wrap=True, highlight=False, markup=False)
    results: dict[str, Any] = {"method": described, "seed": config.training.seed, "step": step}
    results |= {"selection": selection, "timing": asdict(dataset.timing)}
    if said := remarks(judged):
        results["remarks"] = said
        for text in said:
            console.print(f"warning: {text}", highlight=False, markup=False, soft_wrap=True)
    detection, classification = judged.detection, judged.classification
    if detection is None or classification is None:
        count = f"{len(dataset.test.videos)} test videos have no annotated times, so there is no mAP"
        console.print(f"{count}; predictions are in {out / 'predictions.json'}", highlight=False, soft_wrap=True)
        if classification is not None:
            accuracy, mean_ap = (f"{100 * value:.1f} %" for value in classification)
            console.print(f"video labels: accuracy {accuracy}, mAP {mean_ap}", highlight=False)
            results["trained"] = classification._asdict()
        files.write_json(out / "results.json", results)
        return judged, None

    interval = bootstrap_detections(
        truth.predictions,
        truth.instances,
        dataset.classes,
        videos=truth.videos,
        protocol=protocol,
        snippet_seconds=dataset.snippet_seconds,
        ambiguous=truth.ambiguous,
    )
    counts = {"num_videos": interval.num_videos, "num_instances": int(detection.num_ground_truth.sum())}
    rows = {} if untrained is None else {"untrained": untrained}
    report.print_results(
        console,
        rows | {"trained": (detection, classification)},
        protocol=protocol,
        selection=selection,
        intervals={"trained": interval},
        **counts,
    )
    notes = protocol.caveats(num_videos=interval.num_videos, num_ambiguous=len(truth.ambiguous.score))
    if notes:
        results["caveats"] = list(notes)
    if untimed := len(dataset.test.videos) - len(truth.videos):
        notes = [*notes, f"{untimed} of {len(dataset.test.videos)} test videos have no annotated times; not judged"]
    if warning := WARNINGS.get(config.training.select):
        notes = [*notes, warning]
        results["warning"] = warning
    for line in notes:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    report.write_average_precision(out / "average_precision.csv", detection)
    results["protocol"] = protocol.describe(**counts, selection=selection)
    results["judged"] = {name: each for name, each in asdict(protocol).items() if name != "ground_truth"} | counts
    results["trained"] = report.summary(detection, classification, protocol, interval)
    if untrained is not None:
        results["untrained"] = report.summary(*untrained, protocol)
    files.write_json(out / "results.json", results)
    return judged, interval


def report_on_grid(
    dataset: Dataset,
    results: Mapping[int, tuple[SegmentTable, ClassificationMetrics]],
    *,
    console: Console | None = None,
) -> None:
    """Print detections of every seed by the published protocol of A2CL-PT, on the grid of snippets.

    Example:
      >>> from rich.console import Console
      >>> from casejax import data, evaluate, inference
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> found, console = world.test.ground_truth(world.classes), Console(width=160)
      >>> with console.capture() as said:
      ...     inference.report_on_grid(world, {0: (found, evaluate.ClassificationMetrics(1.0, 1.0))}, console=console)
      >>> "100.0" in said.get()
      True
    """
    rows, truth = {}, None
    for seed, (detections, classification) in results.items():
        truth = _Truth.of(detections, dataset)
        rows[f"seed {seed}"] = _judge(truth, dataset, A2CL_PT), classification
    if truth is None:
        return
    report.print_results(
        console or default_console(),
        rows,
        protocol=A2CL_PT,
        selection="last step",
        num_videos=len(truth.videos),
        num_instances=len(truth.instances.score),
    )


def default_console() -> Console:
    """Standard output, 100 columns wide where it is no terminal; silent in all but the first of several processes."""
    return Console(width=None if sys.stdout.isatty() else 100, quiet=not distributed.is_first())


def evaluate_scores(
    scores: SnippetScores, dataset: Dataset, options: Localization, *, protocol: Protocol | None = None
) -> Judged:
    """Localise in the test split, and judge what is known of it; default protocol: that of CASE on every video.

    Example:
      >>> import numpy as np
      >>> from casejax import data, inference
      >>> from casejax.records import Localization, SnippetScores
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> labels = world.test.multi_hot(world.classes)
      >>> scores = SnippetScores(fused=np.ones((6, 8, 2)) * labels[:, None], video=labels)
      >>> judged = inference.evaluate_scores(scores, world, Localization())
      >>> judged.classification.accuracy
      1.0
    """
    return _evaluate(scores, dataset, options, protocol)[0]


def _evaluate(
    scores: SnippetScores, dataset: Dataset, options: Localization, protocol: Protocol | None
) -> tuple[Judged, _Truth]:
    """`evaluate_scores`, and what they were judged by."""
    test = dataset.test
    detections = localize_split(scores, dataset, options)
    detection = classification = None
    truth = _Truth.of(detections, dataset)
    if len(truth.instances.score):
        detection = _judge(truth, dataset, protocol or _whole_split(CASE, dataset))
    labelled = np.flatnonzero([video.timed or bool(video.labels) for video in test.videos])
    if any(test.videos[v].labels for v in labelled):
        video_scores = np.asarray(scores.video)
        selected = localize.select_classes(video_scores, threshold=options.class_threshold)
        labels = test.multi_hot(dataset.classes)
        classification = classification_metrics(video_scores[labelled], selected[labelled], labels[labelled])
    return Judged(detections, detection, classification), truth


def localize_split(scores: SnippetScores, dataset: Dataset, options: Localization) -> SegmentTable:
    """Detections in the test split from its scores, in seconds."""
    found = localize_snippets(scores, dataset.test.features.lengths, dataset.row_seconds(dataset.test), options)
    return found._replace(segment=found.segment + dataset.timing.offset) if dataset.timing.offset else found


def localize_snippets(
    scores: SnippetScores,
    lengths: np.ndarray,
    seconds: np.ndarray,
    options: Localization,
    suppress: Callable[[np.ndarray, np.ndarray, np.ndarray], localize.Survivors] | None = None,
) -> SegmentTable:
    """Detections in V videos from their scores, or from their proposals where the method makes them.

    Args:
      scores: of the videos.
      lengths: (V,) their snippets.
      seconds: (V,) that a snippet stands for.
      options: how.
      suppress: in the place of the suppression that the options name.
    """
    own = lengths if options.test_sampling == "whole" else None
    durations = lengths * seconds
    if options.proposals == "regressed" and scores.proposals is not None:
        return localize.localize_proposals(
            np.asarray(scores.proposals.segments),
            np.asarray(scores.proposals.labels),
            np.asarray(scores.proposals.scores),
            np.asarray(scores.video),
            seconds if own is not None else durations / scores.fused.shape[1],
            options=options,
            suppress=suppress,
        )
    return localize.localize(
        np.asarray(scores.fused),
        np.asarray(scores.video),
        durations,
        options=options,
        ranked=None if scores.ranked is None else np.asarray(scores.ranked),
        lengths=own,
        suppress=suppress,
    )


class _Truth(NamedTuple):
    """What detections are judged by: the test videos with annotated times, which the tables index."""

    videos: list[str]
    predictions: SegmentTable
    instances: SegmentTable
    ambiguous: SegmentTable

    @classmethod
    def of(cls, detections: SegmentTable, dataset: Dataset) -> _Truth:
        test = dataset.test
        number = np.cumsum(test.timed) - 1
        tables = (
            table.take(test.timed[table.video])
            for table in (detections, test.ground_truth(dataset.classes), test.ambiguous)
        )
        own = [table._replace(video=number[table.video]) for table in tables]
        return cls([video.id for video in test.videos if video.timed], *own)


def _judge(truth: _Truth, dataset: Dataset, protocol: Protocol) -> DetectionResult:
    return judge(
        truth.predictions,
        truth.instances,
        dataset.classes,
        protocol,
        videos=truth.videos,
        snippet_seconds=dataset.snippet_seconds,
        ambiguous=truth.ambiguous,
    )


def usual_protocol(config: Config, dataset: Dataset) -> Protocol:
    """How detections of a run are judged unless somebody says otherwise: on every video of the test split.

    As CASE does on THUMOS14, with the tIoU of ActivityNet for runs with settings for it.
    """
    return _whole_split(PROTOCOLS["activitynet"] if config.dataset.startswith("activitynet") else CASE, dataset)


def _whole_split(protocol: Protocol, dataset: Dataset) -> Protocol:
    return replace(protocol, ground_truth=f"test split of {dataset.source}", num_videos=None, without=())
