"""Lists of the intervals in which it is ambiguous what happens."""

from __future__ import annotations

import os
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from casejax.data.layouts.annotations import parse_seconds, read_json, read_lines
from casejax.errors import DataError


def read_ambiguous(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read ambiguous intervals, seconds, (n, 2) float64 by video.

    Args:
      path: the text list of THUMOS14, a line "ID START END" an interval, whatever the white space between them; or,
        with the extension .json, {ID: [[START, END], ...]}, which may stand under "set_ambiguous" as in A2CL-PT's
        annotation.

    Raises:
      DataError: no such file, or a line or entry that is no interval.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        rows = _json_rows(path)
    else:
        rows = [(f"{path}: line {line!r}", line.split()) for line in read_lines(path)]
    found: dict[str, list[tuple[float, float]]] = {}
    for where, row in rows:
        if len(row) != 3:
            raise DataError(f"{where}: is no interval; write ID START END, in seconds")
        video, start, end = row[0], *(parse_seconds(time, where) for time in row[1:])
        if end < start:
            raise DataError(f"{where}: ends before it starts; swap its times or remove it")
        found.setdefault(video, []).append((start, end))
    return {video: np.array(intervals, np.float64) for video, intervals in found.items()}


def _json_rows(path: Path) -> list[tuple[str, list[Any]]]:
    document = read_json(path)
    videos = document.get("set_ambiguous", document) if isinstance(document, dict) else document
    if not isinstance(videos, dict):
        raise DataError(f"{path}: {reprlib.repr(videos)} is no object; write {{ID: [[START, END], ...]}}")
    rows = []
    for video, intervals in videos.items():
        where = f"{path}: video {video!r}"
        if not isinstance(intervals, list) or not all(isinstance(each, list) for each in intervals):
            raise DataError(f"{where}: {reprlib.repr(intervals)} is no list of pairs; write [[START, END], ...]")
        rows += [(f"{where}, interval {each}", [video, *each]) for each in intervals]
    return rows
