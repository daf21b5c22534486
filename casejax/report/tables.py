"""Results as printed tables, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from casejax.evaluate.bootstrap import Bootstrap
from casejax.evaluate.classification import ClassificationMetrics
from casejax.evaluate.detection import DetectionResult
from casejax.evaluate.protocols import Protocol
from casejax.evaluate.results import results_dict
from casejax.records import Dataset, SegmentTable
from casejax.runtime.files import write_json, write_text


def write_predictions(path: Path, detections: SegmentTable, dataset: Dataset) -> None:
    """Detections on the test split in the ActivityNet results format.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> from casejax import data, report
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> report.write_predictions(Path("predictions.json"), world.test.ground_truth(world.classes), world)
      >>> len(json.loads(Path("predictions.json").read_text())["results"])
      6
    """
    videos = [video.id for video in dataset.test.videos]
    write_json(path, results_dict(detections, videos, dataset.classes))


def write_average_precision(path: Path, result: DetectionResult) -> None:
    """Per-class AP as CSV: a row a class, a column a tIoU, fractions; empty without ground truth.

    Example:
      >>> from pathlib import Path
      >>> from casejax import evaluate, report
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0], [0], [[1, 3]])
      >>> result = evaluate.evaluate_detections(truth, truth, ["Dive"], tious=[0.5])
      >>> report.write_average_precision(Path("ap.csv"), result)
      >>> print(Path("ap.csv").read_text())
      class,ground_truth,predictions,AP@0.5,mean
      Dive,1,1,1.000000,1.000000
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    tious = [f"AP@{tiou:g}" for tiou in result.tious]
    writer.writerow(["class", "ground_truth", "predictions", *tious, "mean"])
    for c, name in enumerate(result.classes):
        known = result.num_ground_truth[c] > 0
        values = [f"{x:.6f}" for x in [*result.ap[c], result.ap[c].mean()]] if known else [""] * (len(tious) + 1)
        writer.writerow([name, result.num_ground_truth[c], result.num_predictions[c], *values])
    write_text(path, text.getvalue())


def print_results(
    console: Console,
    rows: Mapping[str, tuple[DetectionResult, ClassificationMetrics | None]],
    *,
    protocol: Protocol,
    num_videos: int,
    num_instances: int,
    selection: str,
    intervals: Mapping[str, Bootstrap] | None = None,
) -> None:
    """Print the protocol line and one table row a model: mAP at each tIoU, averages, classification; %.

    Args:
      console: where to print.
      rows: by the name of the model, its detection and classification results, the latter None in all rows where
        there are none.
      protocol: how they were evaluated.
      num_videos: test videos.
      num_instances: annotated instances in them.
      selection: how the model was selected, such as "last step".
      intervals: bootstrap intervals at the protocol's tIoU, by the name of the model, which then gets two more rows.

    Example:
      >>> from rich.console import Console
      >>> from casejax import evaluate, report
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0], [0], [[1, 3]])
      >>> result = evaluate.judge(truth, truth, ["Dive"], evaluate.CASE, videos=["a"])
      >>> counts = {"num_videos": 1, "num_instances": 1}
      >>> console, rows = Console(width=160), {"mine": (result, None)}
      >>> with console.capture() as said:
      ...     report.print_results(console, rows, protocol=evaluate.CASE, selection="last step", **counts)
      >>> "100.0" in said.get()
      True
    """
    intervals = intervals or {}
    description = protocol.describe(num_videos, num_instances, selection=selection)
    console.print(description, soft_wrap=True, highlight=False, markup=False)
    table = Table("mAP, %", box=None, pad_edge=False, padding=(0, 0, 0, 1))
    for tiou in protocol.tious:
        table.add_column(f"{tiou:g}", justify="right")
    for low, high in protocol.averages:
        table.add_column(f"{low:g}:{high:g}", justify="right", style="bold")
    for name in ("cls acc", "cls mAP") if any(row[1] for row in rows.values()) else ():
        table.add_column(name, justify="right")
    for name, (detection, classification) in rows.items():
        values = [*detection.mean_ap, *(detection.average(low, high) for low, high in protocol.averages)]
        table.add_row(name, *(f"{100 * value:.1f}" for value in [*values, *(classification or ())]))
        if name in intervals:
            for which, end in zip(("low", "high"), _interval_rows(intervals[name], protocol), strict=True):
                label = f" {100 * intervals[name].level:g}% {which}"
                table.add_row(label, *(f"{100 * value:.1f}" for value in end), style="dim")
    console.print(table)
    for text in dict.fromkeys(
        f"{100 * b.level:g}% low and high: percentile interval from {b.num_resamples} resamples of the videos"
        for b in intervals.values()
    ):
        console.print(text, highlight=False, markup=False)
    result = list(rows.values())[-1][0]
    for text, names in (
        ("never predicted (AP 0)", result.without_predictions),
        ("without ground truth (not in the mean)", result.without_ground_truth),
        ("without prediction (not in the mean, as the protocol has it)", result.left_out),
        ("without prediction (which makes the mAP 0, as the protocol has it)", result.voided_by),
    ):
        if names:
            console.print(f"classes {text}: {', '.join(names)}", highlight=False, markup=False)


def print_classes(console: Console, detection: DetectionResult) -> None:
    """Print the AP of every class with ground truth at each tIoU, %, and their mean, whatever the mAP is over."""
    table = Table("AP, %", box=None, pad_edge=False, padding=(0, 0, 0, 1))
    for name in ("truth", "found", *(f"{tiou:g}" for tiou in detection.tious), "mean"):
        table.add_column(name, justify="right")
    counts = zip(detection.num_ground_truth.tolist(), detection.num_predictions.tolist(), strict=True)
    for name, (truth, found), ap in zip(detection.classes, counts, detection.ap, strict=True):
        if truth:
            table.add_row(Text(name), f"{truth}", f"{found}", *(f"{100 * x:.1f}" for x in [*ap, ap.mean()]))
    console.print(table)


def class_summary(detection: DetectionResult) -> dict[str, Any]:
    """For every class its AP at each tIoU, fractions, NaN without ground truth; and how much there is of it."""
    return {
        name: {
            "AP": {f"{tiou:.2f}": float(x) for tiou, x in zip(detection.tious, detection.ap[c], strict=True)},
            "ground_truth": int(detection.num_ground_truth[c]),
            "predictions": int(detection.num_predictions[c]),
            "in_mean": bool(detection.in_mean[c]),
        }
        for c, name in enumerate(detection.classes)
    }


def print_seeds(console: Console, results: Mapping[int, DetectionResult], *, protocol: Protocol) -> dict[str, Any]:
    """Print the mAP of every seed with mean and standard deviation (n - 1; 0 for one seed); %.

    Returns:
      The averages of the protocol as plain values: for each its `seeds`, `mean` and `sd`, fractions.

    Example:
      >>> from rich.console import Console
      >>> from casejax import evaluate, report
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0], [0], [[1, 3]])
      >>> result = evaluate.judge(truth, truth, ["Dive"], evaluate.CASE, videos=["a"])
      >>> averages = report.print_seeds(Console(quiet=True), {0: result, 1: result}, protocol=evaluate.CASE)
      >>> averages["0.1:0.7"]
      {'seeds': {'0': 1.0, '1': 1.0}, 'mean': 1.0, 'sd': 0.0}
    """
    table = Table("mAP, %", box=None, pad_edge=False, padding=(0, 0, 0, 1))
    names = [f"{tiou:g}" for tiou in protocol.tious] + [f"{low:g}:{high:g}" for low, high in protocol.averages]
    for name in names:
        table.add_column(name, justify="right")
    values = np.stack(
        [[*r.mean_ap, *(r.average(low, high) for low, high in protocol.averages)] for r in results.values()]
    )
    mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    rows = {f"seed {seed}": row for seed, row in zip(results, values, strict=True)} | {"mean": mean, "sd": sd}
    for label, row in rows.items():
        table.add_row(label, *(f"{100 * value:.1f}" for value in row))
    console.print(table)
    return {
        name: {"seeds": dict(zip(map(str, results), column, strict=True)), "mean": m, "sd": s}
        for name, column, m, s in zip(names, values.T.tolist(), mean.tolist(), sd.tolist(), strict=True)
    }


def summary(
    detection: DetectionResult,
    classification: ClassificationMetrics | None,
    protocol: Protocol,
    interval: Bootstrap | None = None,
) -> dict[str, Any]:
    """The printed numbers as plain values, fractions; with `interval` also the ends of the mAP intervals.

    Example:
      >>> from casejax import evaluate, report
      >>> from casejax.records import SegmentTable
      >>> truth = SegmentTable.from_rows([0], [0], [[1, 3]])
      >>> result = evaluate.judge(truth, truth, ["Dive"], evaluate.CASE, videos=["a"])
      >>> sorted(report.summary(result, None, evaluate.CASE))
      ['average_mAP', 'mAP']
    """
    values: dict[str, Any] = {
        "mAP": {f"{tiou:.2f}": float(value) for tiou, value in zip(detection.tious, detection.mean_ap, strict=True)},
        "average_mAP": {f"{low}:{high}": detection.average(low, high) for low, high in protocol.averages},
    }
    if classification is not None:
        values["classification_accuracy"] = classification.accuracy
        values["classification_mAP"] = classification.mean_average_precision
    if interval is not None:
        ends = interval.interval.T.tolist()
        values["interval"] = {
            "level": interval.level,
            "resamples": interval.num_resamples,
            "seed": interval.seed,
            "mAP": {f"{tiou:.2f}": pair for tiou, pair in zip(interval.tious, ends, strict=True)},
            "average_mAP": {
                f"{low}:{high}": interval.average_interval(low, high).tolist() for low, high in protocol.averages
            },
        }
    return values


def _interval_rows(interval: Bootstrap, protocol: Protocol) -> np.ndarray:
    """(2, columns) lower and upper ends in the order of the table's mAP columns."""
    averages = [interval.average_interval(low, high) for low, high in protocol.averages]
    return np.column_stack([*interval.interval.T, *averages])
