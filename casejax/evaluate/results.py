"""Detections as the ActivityNet results file has them: {"results": {video: [label, score, segment]}}."""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from casejax.errors import DataError
from casejax.evaluate.detection import check_table, check_videos
from casejax.records import SegmentTable, match_names


def results_dict(table: SegmentTable, video_ids: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Detections in the ActivityNet results format, ready for `json.dump`.

    Args:
      table: detections in seconds; the rows of a video keep their order.
      video_ids: names of the videos that the table indexes; each gets a list, also an empty one.
      classes: names of the classes that the table indexes.

    Raises:
      DataError: a time or score is not finite, or a segment ends before it starts.

    Example:
      >>> from casejax import evaluate
      >>> from casejax.records import SegmentTable
      >>> found = SegmentTable.from_rows([0], [0], [[1, 3]], [0.5])
      >>> evaluate.results_dict(found, ["a"], ["Dive"])["results"]
      {'a': [{'label': 'Dive', 'score': 0.5, 'segment': [1.0, 3.0]}]}
    """
    table = check_table(table, "detections", len(classes))
    check_videos(table, "detections", len(video_ids))
    results: dict[str, list[dict[str, Any]]] = {video: [] for video in video_ids}
    columns = zip(*(column.tolist() for column in table), strict=True)
    for video, label, (start, end), score in columns:
        entry = {"label": classes[label], "score": score, "segment": [start, end]}
        results[video_ids[video]].append(entry)
    return {"version": "casejax", "results": results, "external_data": {}}


class ParsedResults(NamedTuple):
    """What a results file says of some videos and classes, and what it has besides."""

    table: SegmentTable  # detections in file order
    unknown_labels: Counter[str]  # entries with a label outside the classes, by label
    unknown_videos: Counter[str]  # entries of videos that were not asked for, by name
    absent_videos: tuple[str, ...]  # videos that were asked for and that the file does not name


def parse_results(results: Any, video_ids: Sequence[str], classes: Sequence[str]) -> ParsedResults:
    """Read what `results_dict` or another program wrote.

    A video of the file is one of `video_ids` if it has its name, or alone has its name after "v_" and an extension
    are taken off (`match_names`). A video with null for its list has no detections. Scores and times may be strings
    that spell numbers. Entries of other videos are counted, not read.

    Args:
      results: the decoded file.
      video_ids: videos to read, which the table will index.
      classes: classes to read, which the table will index.

    Raises:
      DataError: a file of another layout, or an entry that is incomplete, not finite, or whose segment ends before it
        starts; the message names the video and the place in its list, from zero. A segment of zero length passes:
        published files hold some, and they count as false positives.

    Example:
      >>> from casejax import evaluate
      >>> results = {"results": {"a": [{"label": "Dive", "segment": [1, 3], "score": 0.5}]}}
      >>> evaluate.parse_results(results, ["a"], ["Dive"]).table.segment
      array([[1., 3.]])
    """
    videos = results.get("results") if isinstance(results, Mapping) else None
    if not isinstance(videos, Mapping):
        raise DataError('no mapping under the key "results"; expected {"results": {video: [entries]}}')
    for name, entries in videos.items():
        if entries is not None and not isinstance(entries, list | tuple):
            raise DataError(
                f"results of video {name!r}: {reprlib.repr(entries)} is no list; write [entries], "
                "empty where nothing was detected"
            )
    video_index = match_names(videos, video_ids)
    class_index = {name: c for c, name in enumerate(classes)}
    unknown_labels: Counter[str] = Counter()
    unknown_videos: Counter[str] = Counter()
    rows = []
    for name, entries in videos.items():
        if name not in video_index:
            unknown_videos[name] += len(entries or ())
            continue
        for i, entry in enumerate(entries or ()):
            label, segment, score = _parse_entry(entry, f"results of video {name!r}, entry {i}")
            if label in class_index:
                rows.append((video_index[name], class_index[label], segment, score))
            else:
                unknown_labels[label] += 1
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    found = set(video_index.values())
    absent = tuple(name for v, name in enumerate(video_ids) if v not in found)
    return ParsedResults(SegmentTable.from_rows(*columns), unknown_labels, unknown_videos, absent)


def _parse_entry(entry: Any, where: str) -> tuple[str, tuple[float, float], float]:
    try:
        label, (start, end), score = entry["label"], map(_number, _pair(entry["segment"])), _number(entry["score"])
        if not isinstance(label, str):
            raise TypeError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f'{where}: {reprlib.repr(entry)} is not {{"label": name, "score": number, '
            '"segment": [start, end]}; fix what wrote it'
        ) from error
    _check(where, start, end, score)
    return label, (start, end), score


def _pair(segment: Any) -> list[Any]:
    if (not isinstance(segment, list | tuple) and np.ndim(segment) != 1) or len(segment) != 2:
        raise TypeError
    return list(segment)


def _number(value: Any) -> float:
    if isinstance(value, bool | np.bool_) or np.ndim(value):
        raise TypeError
    return float(value)


def _check(where: str, start: float, end: float, score: float) -> None:
    if not all(map(math.isfinite, (start, end, score))):
        raise DataError(
            f"{where}: segment [{start}, {end}] with score {score} must be finite; drop the entry or fix what wrote it"
        )
    if end < start:
        raise DataError(f"{where}: segment [{start}, {end}] ends before it starts; drop the entry or swap its times")
