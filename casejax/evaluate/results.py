"""Detections as the ActivityNet results file has them: {"results": {video: [label, score, segment]}}."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from casejax.errors import DataError
from casejax.records import SegmentTable


def results_dict(table: SegmentTable, video_ids: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Detections in the ActivityNet results format, ready for `json.dump`.

    Args:
      table: detections in seconds; the rows of a video keep their order.
      video_ids: names of the videos that the table indexes; each gets a list, also an empty one.
      classes: names of the classes that the table indexes.

    Raises:
      DataError: a time or score is not finite, or a segment ends before it starts.
    """
    results: dict[str, list[dict[str, Any]]] = {video: [] for video in video_ids}
    columns = zip(*(column.tolist() for column in table), strict=True)
    for row, (video, label, (start, end), score) in enumerate(columns):
        _check(f"row {row} (video {video_ids[video]!r})", start, end, score)
        entry = {"label": classes[label], "score": score, "segment": [start, end]}
        results[video_ids[video]].append(entry)
    return {"version": "casejax", "results": results, "external_data": {}}


def parse_results(
    results: Mapping[str, Any], video_ids: Sequence[str], classes: Sequence[str]
) -> tuple[SegmentTable, Counter[str], Counter[str]]:
    """Read what `results_dict` or another program wrote.

    Args:
      results: the decoded file.
      video_ids: videos to read, which the table will index.
      classes: classes to read, which the table will index.

    Returns:
      The detections in file order; how many entries had a label outside `classes`, by label; and how
      many were of a video outside `video_ids`, by video.

    Raises:
      DataError: an entry that is incomplete, not finite, or whose segment ends before it starts; the
        message names the video and the place in its list, from zero. A segment of zero length passes:
        published files hold some, and they count as false positives.
    """
    videos = results.get("results")
    if not isinstance(videos, Mapping):
        raise DataError('no mapping under the key "results"; expected {"results": {video: [entries]}}')
    video_index = {name: v for v, name in enumerate(video_ids)}
    class_index = {name: c for c, name in enumerate(classes)}
    unknown_labels: Counter[str] = Counter()
    unknown_videos: Counter[str] = Counter()
    rows = []
    for name, entries in videos.items():
        if name not in video_index:
            unknown_videos[name] += len(entries)
            continue
        for i, entry in enumerate(entries):
            where = f"results of video {name!r}, entry {i}"
            try:
                label, score = entry["label"], float(entry["score"])
                start, end = (float(time) for time in entry["segment"])
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f'{where}: {entry!r} is not {{"label": name, "score": number, '
                    '"segment": [start, end]}; fix what wrote it'
                ) from error
            _check(where, start, end, score)
            if label in class_index:
                rows.append((video_index[name], class_index[label], (start, end), score))
            else:
                unknown_labels[label] += 1
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    return SegmentTable.from_rows(*columns), unknown_labels, unknown_videos


def _check(where: str, start: float, end: float, score: float) -> None:
    if not all(map(math.isfinite, (start, end, score))):
        raise DataError(
            f"{where}: segment [{start}, {end}] with score {score} must be finite; drop the entry or fix what wrote it"
        )
    if end < start:
        raise DataError(f"{where}: segment [{start}, {end}] ends before it starts; drop the entry or swap its times")
