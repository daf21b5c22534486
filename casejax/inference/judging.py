"""Anybody's results file judged against anybody's annotation file, under a protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from casejax.data.layouts.ambiguous import read_ambiguous
from casejax.data.layouts.annotations import read_annotations, read_json, read_lines, read_split
from casejax.errors import DataError
from casejax.evaluate.bootstrap import Bootstrap, bootstrap_detections
from casejax.evaluate.detection import DetectionResult
from casejax.evaluate.protocols import Protocol, judge
from casejax.evaluate.results import ParsedResults, parse_results
from casejax.records import SNIPPET_SECONDS, SegmentTable, Video, match_names
from casejax.report import tables as report
from casejax.runtime.files import plain

TEST_SUBSETS = ("test", "testing", "val", "validation")
"""Words of annotation files for the videos to evaluate on; the first of them that has instances is taken."""


class Truth(NamedTuple):
    """What predictions are judged against."""

    source: str  # the file, and which of its videos
    videos: tuple[str, ...]
    classes: tuple[str, ...]
    instances: SegmentTable  # in seconds
    ambiguous: SegmentTable  # in seconds; labels say nothing
    other_labels: Counter[str]  # instances of other classes, which are left out, by label


class Judged(NamedTuple):
    """A results file under a protocol."""

    protocol: Protocol
    truth: Truth
    parsed: ParsedResults
    detection: DetectionResult
    interval: Bootstrap


def read_truth(
    path: Path,
    *,
    subset: str | None = None,
    split: Path | None = None,
    classes: Path | None = None,
    ambiguous: Path | None = None,
) -> Truth:
    """Read the videos of an annotation file that predictions are judged on.

    Args:
      path: annotation file, as `read_annotations` takes it.
      subset: the file's word for the videos; default the first of `TEST_SUBSETS` that has instances, or the only one
        there is.
      split: file with the ids of the videos, in place of a subset.
      classes: file with the names of the classes; default all of the annotation file, sorted.
      ambiguous: file of ambiguous intervals, as `read_ambiguous` takes it, beside those of the annotations.

    Raises:
      DataError: a file that cannot be used, no such subset, or a video of the split that is not annotated.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> from casejax import inference
      >>> entry = {"subset": "test", "annotations": [{"label": "Dive", "segment": [1, 3]}]}
      >>> _ = Path("gt.json").write_text(json.dumps({"database": {"a": entry}}))
      >>> inference.read_truth(Path("gt.json")).classes
      ('Dive',)
    """
    database = read_annotations(path)
    if split is None:
        word = _test_subset(path, database) if subset is None else subset
        chosen = [video for video in database.values() if video.subset.lower() == word.lower()]
        if not chosen:
            raise DataError(f"{path}: no video of subset {word!r}; it has {_subsets(database)}")
        source = f"subset {word!r} of {path}"
    else:
        ids, names = read_split(split), list(database)
        places = match_names(ids, names)
        missing = [video for video in ids if video not in places]
        if missing:
            raise DataError(
                f"{split}: {len(missing)} of {len(ids)} videos are not in {path} ({_first(missing)}); "
                "use the annotations of this split"
            )
        chosen, source = [database[names[places[video]]] for video in ids], f"videos of {split} in {path}"
    videos = tuple(video.id for video in chosen)
    known = (
        sorted({label for video in database.values() for label in video.segment_labels})
        if classes is None
        else list(dict.fromkeys(read_lines(classes)))
    )
    instances, unclear, other = _tables(chosen, known)
    if ambiguous is not None:
        intervals = read_ambiguous(ambiguous)
        places = match_names(intervals, videos)
        if not places:
            raise DataError(
                f"{ambiguous}: names no video of {source} ({_first(intervals)}); use the list of these videos"
            )
        rows = [(places[name], 0, segment) for name in places for segment in intervals[name].tolist()]
        unclear = SegmentTable.from_rows(*zip(*[*zip(*unclear[:3], strict=True), *rows], strict=True))
    return Truth(source, videos, tuple(known), instances, unclear, other)


def judge_file(
    path: Path,
    truth: Truth,
    protocol: Protocol,
    *,
    snippet_seconds: float = SNIPPET_SECONDS,
    num_resamples: int = 1000,
) -> Judged:
    """Judge a results file.

    Args:
      path: detections in the ActivityNet results format, in seconds.
      truth: what they are judged against.
      protocol: how.
      snippet_seconds: what a snippet covers, for protocols whose unit it is.
      num_resamples: of the bootstrap.

    Raises:
      DataError: a file that cannot be used, one that names no video or no class of the truth, or a truth without
        any instance under the protocol.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> from casejax import evaluate, inference
      >>> entry = {"subset": "test", "annotations": [{"label": "Dive", "segment": [1, 3]}]}
      >>> _ = Path("gt.json").write_text(json.dumps({"database": {"a": entry}}))
      >>> inference.write_results(Path("a.json"), {"a": [inference.Segment("Dive", 1.0, 3.0, 0.9)]}, ["Dive"])
      >>> truth = inference.read_truth(Path("gt.json"))
      >>> inference.judge_file(Path("a.json"), truth, evaluate.CASE, num_resamples=10).detection.ap[0].tolist()
      [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    document = read_json(path)
    try:
        parsed = parse_results(document, truth.videos, truth.classes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if parsed.unknown_videos and len(parsed.absent_videos) == len(truth.videos):
        raise DataError(
            f"{path}: none of its {len(parsed.unknown_videos)} videos ({_first(parsed.unknown_videos)}) is among the "
            f"{len(truth.videos)} of {truth.source} ({_first(truth.videos)}); judge it against its own annotations"
        )
    if parsed.unknown_labels and not len(parsed.table.score):
        raise DataError(
            f"{path}: none of its labels ({_first(parsed.unknown_labels)}) is among the {len(truth.classes)} classes "
            f"of {truth.source} ({_first(truth.classes)}); write the names of the annotations"
        )
    kept = np.array([protocol.keeps(video) for video in truth.videos], bool)
    if not kept[truth.instances.video].any():
        raise DataError(
            f"{truth.source}: protocol {protocol.name} keeps {kept.sum()} of {len(kept)} videos, with no instance "
            f"of the {len(truth.classes)} classes; choose annotated videos, or other classes"
        )
    protocol = replace(protocol, ground_truth=truth.source)
    options: dict[str, Any] = {"videos": truth.videos, "snippet_seconds": snippet_seconds, "ambiguous": truth.ambiguous}
    tables = (parsed.table, truth.instances, truth.classes)
    return Judged(
        protocol,
        truth,
        parsed,
        judge(*tables, protocol, **options),
        bootstrap_detections(*tables, protocol=protocol, num_resamples=num_resamples, **options),
    )


def print_judged(console: Console, judged: Judged) -> None:
    """Print the protocol, the mAP with its interval, the AP of every class, and what was left out.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> from rich.console import Console
      >>> from casejax import evaluate, inference
      >>> entry = {"subset": "test", "annotations": [{"label": "Dive", "segment": [1, 3]}]}
      >>> _ = Path("gt.json").write_text(json.dumps({"database": {"a": entry}}))
      >>> inference.write_results(Path("a.json"), {"a": [inference.Segment("Dive", 1.0, 3.0, 0.9)]}, ["Dive"])
      >>> truth = inference.read_truth(Path("gt.json"))
      >>> judged = inference.judge_file(Path("a.json"), truth, evaluate.CASE, num_resamples=10)
      >>> console = Console(width=160)
      >>> with console.capture() as said:
      ...     inference.print_judged(console, judged)
      >>> "100.0" in said.get()
      True
    """
    instances = int(judged.detection.num_ground_truth.sum())
    report.print_results(
        console,
        {"predictions": (judged.detection, None)},
        protocol=judged.protocol,
        num_videos=judged.interval.num_videos,
        num_instances=instances,
        selection="not stated",
        intervals={"predictions": judged.interval},
    )
    report.print_classes(console, judged.detection)
    for note in notes(judged):
        console.print(note, soft_wrap=True, highlight=False, markup=False)


def notes(judged: Judged) -> list[str]:
    """What of both files was judged and what was left out, and why, a sentence each.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> from casejax import evaluate, inference
      >>> entry = {"subset": "test", "annotations": [{"label": "Dive", "segment": [1, 3]}]}
      >>> _ = Path("gt.json").write_text(json.dumps({"database": {"a": entry}}))
      >>> inference.write_results(Path("a.json"), {"a": [inference.Segment("Dive", 1.0, 3.0, 0.9)]}, ["Dive"])
      >>> truth = inference.read_truth(Path("gt.json"))
      >>> judged = inference.judge_file(Path("a.json"), truth, evaluate.CASE, num_resamples=10)
      >>> inference.notes(judged)[0]
      "judged against subset 'test' of gt.json, 1 videos"
    """
    protocol, truth, parsed, _, interval = judged
    gone = [video for video in truth.videos if not protocol.keeps(video)]
    lines = [f"judged against {truth.source}, {len(truth.videos)} videos"]
    if gone:
        lines.append(f"left out by the protocol: {', '.join(gone)}")
    lines += protocol.caveats(num_videos=interval.num_videos, num_ambiguous=len(truth.ambiguous.score))
    entries = sum(parsed.unknown_videos.values())
    lines.append(
        f"names: {len(parsed.unknown_videos)} videos of the predictions are not annotated here and not judged "
        f"({entries} entries){_examples(parsed.unknown_videos)}; {len(parsed.absent_videos)} annotated videos are not "
        f"in the predictions{_examples(parsed.absent_videos)}"
    )
    for what, labels in (("predictions", parsed.unknown_labels), ("ground truth", truth.other_labels)):
        if labels:
            lines.append(
                f"left out of the {what}: {sum(labels.values())} entries of {len(labels)} labels that are no class"
                f"{_examples(labels)}"
            )
    return lines


def judged_summary(judged: Judged) -> dict[str, Any]:
    """All that `print_judged` prints, as plain values; fractions, null for what is not defined.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> from casejax import evaluate, inference
      >>> entry = {"subset": "test", "annotations": [{"label": "Dive", "segment": [1, 3]}]}
      >>> _ = Path("gt.json").write_text(json.dumps({"database": {"a": entry}}))
      >>> inference.write_results(Path("a.json"), {"a": [inference.Segment("Dive", 1.0, 3.0, 0.9)]}, ["Dive"])
      >>> truth = inference.read_truth(Path("gt.json"))
      >>> judged = inference.judge_file(Path("a.json"), truth, evaluate.CASE, num_resamples=10)
      >>> inference.judged_summary(judged)["num_instances"]
      1
    """
    protocol, truth, parsed, detection, interval = judged
    described = protocol.describe(interval.num_videos, int(detection.num_ground_truth.sum()))
    return plain(
        {
            "protocol": {"name": protocol.name, "description": described},
            "ground_truth": truth.source,
            "num_videos": interval.num_videos,
            "num_instances": int(detection.num_ground_truth.sum()),
            "num_predictions": int(detection.num_predictions.sum()),
            **report.summary(detection, None, protocol, interval),
            "classes": report.class_summary(detection),
            "unmatched": {
                "prediction_videos": dict(parsed.unknown_videos),
                "annotated_videos": list(parsed.absent_videos),
                "prediction_labels": dict(parsed.unknown_labels),
                "annotated_labels": dict(truth.other_labels),
            },
            "notes": notes(judged),
        }
    )


def _tables(videos: Sequence[Video], classes: Sequence[str]) -> tuple[SegmentTable, SegmentTable, Counter[str]]:
    """Instances of the classes, ambiguous intervals, and how many instances have another label."""
    index = {name: c for c, name in enumerate(classes)}
    instances: list[tuple[int, int, list[float]]] = []
    unclear: list[tuple[int, int, list[float]]] = []
    other: Counter[str] = Counter()
    for v, video in enumerate(videos):
        unclear += [(v, 0, segment) for segment in video.ambiguous.tolist()]
        for label, segment in zip(video.segment_labels, video.segments.tolist(), strict=True):
            if label in index:
                instances.append((v, index[label], segment))
            else:
                other[label] += 1
    tables = [
        SegmentTable.from_rows(*(zip(*rows, strict=True) if rows else ((), (), ()))) for rows in (instances, unclear)
    ]
    return tables[0], tables[1], other


def _test_subset(path: Path, database: Mapping[str, Video]) -> str:
    annotated = {video.subset.lower() for video in database.values() if len(video.segments)}
    words = [word for word in TEST_SUBSETS if word in annotated]
    if words:
        return words[0]
    if len({video.subset for video in database.values()}) == 1:
        return next(iter(database.values())).subset
    raise DataError(f"{path}: which videos to judge on? Name one of its subsets, {_subsets(database)}, or a split file")


def _subsets(database: Mapping[str, Video]) -> str:
    counts = Counter(video.subset for video in database.values())
    return ", ".join(f"{word!r} ({count} videos)" for word, count in sorted(counts.items())) or "none"


def _first(names: Iterable[str]) -> str:
    return "first: " + ", ".join(map(repr, list(names)[:3]))


def _examples(names: Iterable[str]) -> str:
    return f" ({_first(names)})" if list(names) else ""
