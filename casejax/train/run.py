"""One whole run: train, score the test split, localise, evaluate, report; and the same over several seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from flax import nnx
from rich.console import Console

from casejax import report
from casejax.data.records import Dataset, SegmentTable
from casejax.evaluate.bootstrap import Bootstrap, bootstrap_detections
from casejax.evaluate.classification import ClassificationMetrics
from casejax.evaluate.detection import CASE, DetectionResult
from casejax.scores import SnippetScores
from casejax.train import distributed
from casejax.train import mesh as placement
from casejax.train.checkpoint import CheckpointError, Checkpoints
from casejax.train.config import Config, OptionError
from casejax.train.loop import Trained, train
from casejax.train.scoring import Scored, evaluate_scores, make_test_scorer
from casejax.train.selection import WARNINGS, Selection, hold_out
from casejax.train.state import TrainState, initial_state
from casejax.train.variants import describe_variant


@dataclass(frozen=True)
class RunResult:
    """What a run ends with; mAP and accuracies are fractions."""

    detection: DetectionResult
    classification: ClassificationMetrics
    interval: Bootstrap
    untrained: DetectionResult
    detections: SegmentTable
    scores: SnippetScores
    train_seconds: float


def run(
    dataset: Dataset,
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    devices: int | None = None,
    console: Console | None = None,
) -> RunResult | None:
    """Train on the train split, evaluate the selected step on the test split, and write everything to `out`.

    `out` then holds `checkpoints/`, `config.json`, `metrics.jsonl`, `predictions.json`,
    `average_precision.csv`, `results.json` and `pictures/`, and `selected/` where a step was selected.

    Args:
      dataset: as a reader of `casejax.data` returns it.
      config: all options.
      out: folder of the run.
      resume: go on from the newest checkpoint in `out`.
      devices: shard the batch over this many devices; default all.
      console: where results are printed; default standard output.

    Returns:
      The results; None in all but the first of several processes, which alone evaluates and writes.

    Raises:
      OptionError: an option that needs all features of a process that has read only a part of them.
      As `casejax.train.loop.train`.
    """
    console = console or default_console()
    _check_features(dataset, config)
    trained, selection = _train_selected(dataset, config, out, resume=resume, devices=devices)
    params, labels = placement.local((trained.state.params, trained.state.cluster_labels))
    if not distributed.is_first():
        return None
    report.write_json(out / "config.json", config.as_dict())

    score = make_test_scorer(trained.graphdef, dataset, config)
    untrained = evaluate_scores(
        score(trained.initial.params, trained.initial.cluster_labels).scores, dataset, config.inference
    )
    scored = score(params, labels)
    result = _report(
        console,
        dataset,
        config,
        scored,
        out,
        step=int(trained.state.step),
        selection=selection,
        untrained=untrained[1:],
    )
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    try:
        report.draw_pictures(out / "pictures", dataset, scored.scores, result[0], scored.cluster_labels, metrics)
    except ImportError as error:
        console.print(f"no pictures: {error}", markup=False)
    console.print(f"trained in {trained.seconds:.1f} s; everything is in {out}", highlight=False, markup=False)
    detections, detection, classification, interval = result
    return RunResult(detection, classification, interval, untrained[1], detections, scored.scores, trained.seconds)


def run_seeds(
    dataset: Dataset,
    config: Config,
    out: Path,
    seeds: Sequence[int],
    *,
    resume: bool = False,
    devices: int | None = None,
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
      console: as for `run`.

    Raises:
      ValueError: no seed, or one twice.
      As `run`.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must name at least one seed, each once, got {list(seeds)}")
    console = console or default_console()
    results = {}
    for seed in seeds:
        console.print(f"seed {seed}", highlight=False)
        folder = out / f"seed-{seed}"
        result = run(dataset, config.changed(seed=seed), folder, resume=resume, devices=devices, console=console)
        if result is not None:
            results[seed] = result
    if not results:
        return results
    summary = report.print_seeds(console, {seed: r.detection for seed, r in results.items()}, protocol=CASE)
    report.write_json(out / "seeds.json", {"variant": describe_variant(config), **summary})
    return results


class Restored(NamedTuple):
    """A network from the folder of a run, with its configuration and what it was saved with."""

    folder: Path
    graphdef: nnx.GraphDef[Any]
    state: TrainState
    config: Config
    meta: dict[str, Any]


def restore_run(folder: Path) -> Restored:
    """The selected network of a run where a step was selected, else that of the last step.

    Raises:
      CheckpointError: no checkpoint in the folder, or one that cannot be read.
    """
    selected = folder / "selected"
    place = selected if selected.is_dir() else folder / "checkpoints"
    if not place.is_dir():
        raise CheckpointError(f"{folder} holds no checkpoints/; name the folder of a run or of a converted network")
    with Checkpoints(place) as checkpoints:
        meta = checkpoints.meta()
        try:
            config = Config.from_dict(meta["config"])
        except ValueError as error:
            raise CheckpointError(f"{place}: {error}") from error
        data = meta["data"]
        videos = data["train_videos"], data.get("longest_train_video", 0)
        graphdef, template = initial_state(config, tuple(data["dims"]), len(data["classes"]), videos=videos)
        return Restored(folder, graphdef, checkpoints.restore(template), config, meta)


def evaluate_run(
    restored: Restored,
    dataset: Dataset,
    out: Path,
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
    console: Console | None = None,
) -> DetectionResult:
    """Evaluate a trained or converted network on a test split and write predictions and figures to `out`.

    Args:
      restored: as `restore_run` gives it.
      dataset: with the classes and feature dimensions the network was trained with.
      out: where `predictions.json`, `average_precision.csv` and `results.json` go.
      options: options of inference to change.
      console: where results are printed; default standard output.

    Raises:
      CheckpointError: the network was trained with other classes or dimensions.
    """
    folder, graphdef, state, config, meta = restored
    config = config.changed(**options)
    config.check()
    for name, ours in (("classes", list(dataset.classes)), ("dims", list(dataset.dims))):
        if meta["data"][name] != ours:
            raise CheckpointError(
                f"{folder} was trained with {name} {meta['data'][name]}, {dataset.source} has {ours}; use data of "
                "the same classes and features (classes.txt fixes the classes' order; convert takes --classes)"
            )
    scored = make_test_scorer(graphdef, dataset, config)(state.params, state.cluster_labels)
    selection = f"{config.train.select}, step {int(state.step)} of {folder}"
    _, detection, *_ = _report(
        console or default_console(), dataset, config, scored, out, step=int(state.step), selection=selection
    )
    return detection


def default_console() -> Console:
    """Standard output, 100 columns wide where it is no terminal; silent in all but the first of several processes."""
    return Console(width=None if sys.stdout.isatty() else 100, quiet=not distributed.is_first())


def _check_features(dataset: Dataset, config: Config) -> None:
    """Refuse options that need the whole train split in a process that has read a part of it."""
    if (dataset.train.features.lengths > 0).all():
        return
    for name, value, needs in (
        ("select", config.train.select, "train-holdout"),
        ("test_cluster_labels", config.inference.test_cluster_labels, "train"),
        ("pseudo_labels", config.method.pseudo_labels, True),
    ):
        if value == needs:
            raise OptionError(
                f"--{name.replace('_', '-')} {value} needs all training features in one process; leave out "
                "--data-parts, so that each process reads them all"
            )


def _train_selected(
    dataset: Dataset, config: Config, out: Path, *, resume: bool, devices: int | None
) -> tuple[Trained, str]:
    """Train with the selection that the options name; also say how the step was selected."""
    kind, every = config.train.select, config.train.select_every
    if kind == "last":
        return train(dataset, config, out, resume=resume, devices=devices), "last step"
    config.check()
    judged = dataset
    if kind == "train-holdout":
        dataset, judged = hold_out(dataset, config.train.holdout, config.train.seed)
    graphdef, _ = initial_state(config, dataset.dims, len(dataset.classes))
    score = make_test_scorer(graphdef, replace(judged, train=dataset.train), config)

    def judge(state: TrainState) -> float:
        scored = score(state.params, jax.device_get(state.cluster_labels))
        return evaluate_scores(scored.scores, judged, config.inference)[1].average(0.1, 0.7)

    trained = train(dataset, config, out, resume=resume, devices=devices, selection=Selection(judge, every))
    judges = "the TEST videos" if kind == "test-oracle" else f"{len(judged.test.videos)} held-out training videos"
    return trained, f"{kind}, step {int(trained.state.step)}, best of every {every} by mAP 0.1:0.7 on {judges}"


def _report(
    console: Console,
    dataset: Dataset,
    config: Config,
    scored: Scored,
    out: Path,
    *,
    step: int,
    selection: str,
    untrained: tuple[DetectionResult, ClassificationMetrics] | None = None,
) -> tuple[SegmentTable, DetectionResult, ClassificationMetrics, Bootstrap]:
    """Evaluate scores of the test split, print the table and write what a run leaves beside its checkpoints."""
    detections, detection, classification = evaluate_scores(scored.scores, dataset, config.inference)
    interval = bootstrap_detections(
        detections, dataset.test.ground_truth(dataset.classes), dataset.classes, num_videos=len(dataset.test.videos)
    )
    protocol = replace(CASE, ground_truth=f"test split of {dataset.source}")
    counts = {"num_videos": len(dataset.test.videos), "num_instances": int(detection.num_ground_truth.sum())}
    variant = describe_variant(config)
    warning = WARNINGS.get(config.train.select)

    console.print(f"variant {variant}", soft_wrap=True, highlight=False, markup=False)
    rows = {} if untrained is None else {"untrained": untrained}
    report.print_results(
        console,
        rows | {"trained": (detection, classification)},
        protocol=protocol,
        selection=selection,
        intervals={"trained": interval},
        **counts,
    )
    if warning:
        console.print(warning, highlight=False, markup=False, soft_wrap=True)

    report.write_predictions(out / "predictions.json", detections, dataset)
    report.write_average_precision(out / "average_precision.csv", detection)
    results = {
        "variant": variant,
        "protocol": protocol.describe(**counts, selection=selection),
        "step": step,
        "trained": report.summary(detection, classification, protocol, interval),
    }
    if untrained is not None:
        results["untrained"] = report.summary(*untrained, protocol)
    report.write_json(out / "results.json", results | ({"warning": warning} if warning else {}))
    return detections, detection, classification, interval
