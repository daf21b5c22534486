"""One whole run: train, score the test split, localise, evaluate, report; and the same over several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from casejax.errors import DataError
from casejax.evaluate.bootstrap import Bootstrap
from casejax.evaluate.classification import ClassificationMetrics
from casejax.evaluate.detection import DetectionResult
from casejax.evaluate.protocols import Protocol
from casejax.inference.analysis import make_look
from casejax.inference.evaluate import Judged, default_console, evaluate_scores, report_scores, usual_protocol
from casejax.inference.scoring import Scored, make_test_scorer
from casejax.records import Dataset, SegmentTable, SnippetScores
from casejax.report import pictures
from casejax.report import tables as report
from casejax.run.config import Config
from casejax.run.folder import read_metrics
from casejax.run.state import TrainState, initial_state
from casejax.runtime import distributed, files
from casejax.runtime import mesh as placement
from casejax.runtime.lock import own_folder
from casejax.train import health
from casejax.train.loop import Trained, train
from casejax.train.selection import Selection, hold_out


@dataclass(frozen=True)
class RunResult:
    """What a run ends with; mAP and accuracies are fractions.

    Attributes:
      train_seconds: how long training took.
      detections: segments found in the test split, seconds; None without test videos, as all the others.
      scores: of the test split.
      detection: mAP; None where no test video has annotated times.
      interval: of it.
      untrained: the same before the first step.
      classification: video-level metrics; None where no test video has labels.
    """

    train_seconds: float
    detections: SegmentTable | None = None
    scores: SnippetScores | None = None
    detection: DetectionResult | None = None
    interval: Bootstrap | None = None
    untrained: DetectionResult | None = None
    classification: ClassificationMetrics | None = None


def run(
    dataset: Dataset,
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    devices: int | None = None,
    protocol: Protocol | None = None,
    console: Console | None = None,
) -> RunResult | None:
    """Train on the train split, evaluate the selected step on the test split, and write everything to `out`.

    `out` then holds `checkpoints/`, `config.json`, `run.json`, `metrics.jsonl`, `predictions.json`,
    `average_precision.csv`, `results.json`, `analysis.npz` and `pictures/`, and `selected/` where a step was selected.

    Args:
      dataset: as a reader of `casejax.data` returns it.
      config: all options.
      out: folder of the run.
      resume: go on from the newest checkpoint in `out`.
      devices: shard the batch over this many devices; default all.
      protocol: how detections are judged; default `inference.evaluate.usual_protocol`.
      console: where results are printed; default standard output.

    Returns:
      The results; None in all but the first of several processes, which alone evaluates and writes.

    Raises:
      OptionError: an option that needs all features of a process that has read only a part of them.
      As `casejax.train.loop.train`.

    Example:
      >>> from pathlib import Path
      >>> from rich.console import Console
      >>> from casejax import data, run, train
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> config = run.Config.of("asl", hidden=8, num_snippets=32, batch_size=6, epochs=1)
      >>> _ = train.run(world, config, Path("out"), devices=1, console=Console(quiet=True))
      >>> print(*sorted(file.name for file in Path("out").iterdir()))
      analysis.npz average_precision.csv checkpoints config.json metrics.jsonl pictures
      predictions.json results.json run.json
    """
    console = console or default_console()
    protocol = protocol or usual_protocol(config, dataset)
    with own_folder(out):
        return _run(dataset, config, out, resume=resume, devices=devices, protocol=protocol, console=console)


def _run(
    dataset: Dataset,
    config: Config,
    out: Path,
    *,
    resume: bool,
    devices: int | None,
    protocol: Protocol,
    console: Console,
) -> RunResult | None:
    """`run` in a folder that is this run's alone."""
    trained, selection = _train_selected(dataset, config, out, protocol, resume=resume, devices=devices)
    params, labels = placement.local((trained.state.params, trained.state.cluster_labels))
    if not distributed.is_first():
        return None
    seconds = f"trained in {trained.seconds:.1f} s; everything is in {out}"
    if not dataset.test.videos:
        console.print(f"no test videos, so nothing is evaluated; {seconds}", highlight=False, markup=False)
        return RunResult(trained.seconds)
    score = make_test_scorer(trained.graphdef, dataset, config)
    untrained = None
    if any(len(video.segments) for video in dataset.test.videos):
        first = score(trained.initial.params, trained.initial.cluster_labels)
        found = evaluate_scores(first.scores, dataset, config.localization, protocol=protocol)
        if found.detection is not None and found.classification is not None:
            untrained = found.detection, found.classification
    scored = score(params, labels)
    judged, interval = report_scores(
        console,
        dataset,
        config,
        scored,
        out,
        step=int(trained.state.step),
        selection=selection,
        untrained=untrained,
        protocol=protocol,
        remarks=partial(_remarks, trained, scored, dataset),
        look=make_look(trained.graphdef, params, dataset, config),
    )
    metrics = read_metrics(out / "metrics.jsonl")
    try:
        pictures.draw_pictures(
            out / "pictures",
            dataset,
            scored.scores,
            judged.detections,
            scored.cluster_labels,
            metrics,
            whole=config.localization.test_sampling == "whole",
        )
    except ImportError as error:
        console.print(f"no pictures: {error}", markup=False)
    console.print(seconds, highlight=False, markup=False)
    return RunResult(
        trained.seconds,
        judged.detections,
        scored.scores,
        judged.detection,
        interval,
        None if untrained is None else untrained[0],
        judged.classification,
    )


def _remarks(trained: Trained, scored: Scored, dataset: Dataset, judged: Judged) -> list[str]:
    """What has most likely gone wrong in a run, a sentence each."""
    found = {dataset.classes[c] for c in np.unique(judged.detections.label)}
    own = [name for name in dataset.classes if any(name in video.labels for video in dataset.test.videos)]
    return [*trained.remarks, *health.collapses(scored.scores, scored.cluster_labels, sorted(found), own)]


def run_seeds(
    dataset: Dataset,
    config: Config,
    out: Path,
    seeds: Sequence[int],
    *,
    resume: bool = False,
    devices: int | None = None,
    protocol: Protocol | None = None,
    console: Console | None = None,
) -> dict[int, RunResult]:
    """`run` once for every seed, in `out/seed-N`; then mean and standard deviation over them.

    Args:
      dataset: as for `run`.
      config: all options; its seed is not used.
      out: folder of the runs and of `seeds.json`.
      seeds: at least one, each once.
      resume: go on; seeds that are finished are evaluated again, not trained.
      devices: as for `run`.
      protocol: as for `run`.
      console: as for `run`.

    Raises:
      ValueError: no seed, or one twice.
      As `run`.

    Example:
      >>> from pathlib import Path
      >>> from rich.console import Console
      >>> from casejax import data, run, train
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> config = run.Config.of("asl", hidden=8, num_snippets=32, batch_size=6, epochs=1)
      >>> results = train.run_seeds(world, config, Path("out"), seeds=[0, 1], devices=1, console=Console(quiet=True))
      >>> sorted(results), sorted(file.name for file in Path("out").iterdir())
      ([0, 1], ['seed-0', 'seed-1', 'seeds.json'])
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must name at least one seed, each once, got {list(seeds)}")
    console = console or default_console()
    results = {}
    for seed in seeds:
        console.print(f"seed {seed}", highlight=False)
        folder = out / f"seed-{seed}"
        result = run(
            dataset,
            config.changed(seed=seed),
            folder,
            resume=resume,
            devices=devices,
            protocol=protocol,
            console=console,
        )
        if result is not None:
            results[seed] = result
    detections = {seed: r.detection for seed, r in results.items() if r.detection is not None}
    if not detections:
        return results
    summary = report.print_seeds(console, detections, protocol=protocol or usual_protocol(config, dataset))
    files.write_json(out / "seeds.json", {"method": config.describe(), **summary})
    return results


def _train_selected(
    dataset: Dataset, config: Config, out: Path, protocol: Protocol, *, resume: bool, devices: int | None
) -> tuple[Trained, str]:
    """Train with the selection that the options name; also say how the step was selected."""
    kind, every = config.training.select, config.training.select_every
    if kind == "last":
        return train(dataset, config, out, resume=resume, devices=devices), "last step"
    config.check()
    judged = dataset
    if kind == "train-holdout":
        dataset, judged = hold_out(dataset, config.training.holdout, config.training.seed)
    elif not any(len(video.segments) for video in dataset.test.videos):
        raise DataError(f"{dataset.source}: no test video has annotated times to select by; use --select last")
    graphdef, _ = initial_state(config, dataset.dims, len(dataset.classes))
    score = make_test_scorer(graphdef, replace(judged, train=dataset.train), config)

    span = protocol.averages[-1]

    def judge(state: TrainState) -> float:
        scored = score(state.params, jax.device_get(state.cluster_labels))
        found = evaluate_scores(scored.scores, judged, config.localization, protocol=protocol).detection
        return 0.0 if found is None else found.average(*span)

    trained = train(dataset, config, out, resume=resume, devices=devices, selection=Selection(judge, every))
    judges = "the TEST videos" if kind == "test-oracle" else f"{len(judged.test.videos)} held-out training videos"
    return (
        trained,
        f"{kind}, step {int(trained.state.step)}, best of every {every} by mAP {span[0]:g}:{span[1]:g} on {judges}",
    )
