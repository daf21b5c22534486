"""Annotation files in JSON, split files and lists of names, as several layouts have them."""

from __future__ import annotations

import json
import math
import os
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from casejax.data.layouts.checks import check_id, raise_first, repeated
from casejax.errors import DataError
from casejax.records import Video

DURATION_SLACK = 1e-3  # seconds an instance may end after the stated duration: rounding, not a mistake


def read_annotations(path: str | os.PathLike[str]) -> dict[str, Video]:
    """Read every video of an annotation file, by id.

    Times may be numbers or strings that spell numbers, in seconds.

    Raises:
      DataError: no such file, not JSON, no "database", or an entry that cannot be used.
    """
    path = Path(path)
    document = read_json(path)
    database = document.get("database") if isinstance(document, dict) else None
    if not isinstance(database, dict):
        raise DataError(f'{path}: no "database" object; put the videos into {{"database": {{ID: ...}}}}')
    videos, problems = {}, []
    for video, entry in database.items():
        try:
            videos[video] = parse_video(video, entry, f"{path}: video {video!r}")
        except DataError as error:
            problems.append(str(error))
    raise_first(problems)
    return videos


def read_split(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read the video ids of one split file, in the order of its lines.

    Blank lines, surrounding white space and CRLF line ends are accepted.

    Raises:
      DataError: no such file, no id in it, an id twice, or an id that is no plain file name.
    """
    path = Path(path)
    if not path.exists():
        there = ", ".join(sorted(p.name for p in path.parent.glob("split_*.txt"))) or "none"
        raise DataError(f"{path}: no such split file (found: {there}); write one video id a line into it")
    ids = read_lines(path)
    if not ids:
        raise DataError(f"{path}: lists 0 videos; write one video id a line into it")
    for video in ids:
        check_id(video, path)
    raise_first(f"{path}: lists {video!r} more than once; keep one of the lines" for video in repeated(ids))
    return tuple(ids)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, without the blank ones."""
    return [line.strip() for line in _read_text(path).splitlines() if line.strip()]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; put it there or pass another folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); save it as readable UTF-8") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file, whole numbers as floats.

    Raises:
      DataError: no JSON, or an object with a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # json would keep the last one and drop the others in silence
        raise_first(
            f"{path}: has the key {key!r} twice in one object; keep one" for key in repeated(k for k, _ in pairs)
        )
        return dict(pairs)

    try:
        return json.loads(_read_text(path), object_pairs_hook=unique, parse_int=float)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{path}: not JSON at {where} ({error.msg}); repair or download it again") from error
    except RecursionError as error:
        raise DataError(f"{path}: nested too deep to be annotations; download it again") from error


def parse_video(video: str, entry: Any, where: str, *, whole: float | None = None, bounded: bool = True) -> Video:
    """One entry of a "database"; `where` names it in errors.

    Args:
      video: its id.
      entry: {"subset", "annotations", "duration"?}.
      where: file and video.
      whole: seconds; an annotation without a segment then covers the video from 0 to its stated duration, or
        to this where none is stated. Default: such an annotation is refused.
      bounded: whether an instance that ends after the stated duration is refused.

    Raises:
      DataError: an entry that cannot be used.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("annotations"), list):
        raise DataError(f'{where}: no "annotations" list; add one, empty where nothing happens')
    duration = entry.get("duration")
    if duration is not None:
        duration = parse_seconds(duration, f"{where}, duration")
        if duration <= 0:
            raise DataError(f"{where}: duration {duration} s is not positive; fix it or drop the duration")
    rows = []
    for number, instance in enumerate(entry["annotations"]):
        if whole is not None and isinstance(instance, dict) and "segment" not in instance:
            instance = {**instance, "segment": [0.0, duration or whole]}
        own = f"{where}, annotation {number} (counted from 0)"
        rows.append(parse_instance(instance, duration if bounded else None, own))
    segments = np.asarray([segment for _, segment in rows], np.float64).reshape(-1, 2)
    return Video(video, str(entry.get("subset", "")), segments, tuple(label for label, _ in rows), duration)


def parse_instance(instance: Any, duration: float | None, where: str) -> tuple[str, tuple[float, float]]:
    """Label and segment, seconds, of one annotated instance; `where` names it in errors.

    Raises:
      DataError: no label, no pair of seconds, or a segment that is empty or lies outside of the video.
    """
    if not isinstance(instance, dict):
        raise DataError(f'{where}: {reprlib.repr(instance)} is no object; write {{"label", "segment"}}')
    label, segment = instance.get("label"), instance.get("segment")
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"{where}: label {reprlib.repr(label)} is no class name; write one as a string")
    if not isinstance(segment, list) or len(segment) != 2:
        raise DataError(f"{where}: segment {reprlib.repr(segment)} is no pair; write [start, end] in seconds")
    start, end = (parse_seconds(time, f"{where}, segment {reprlib.repr(segment)}") for time in segment)
    if start < 0:
        raise DataError(f"{where}: starts at {start} s, before the video; fix it or remove the annotation")
    if end <= start:
        raise DataError(f"{where}: ends at {end} s, not after its start at {start} s; fix it or remove the annotation")
    if duration is not None and end > duration + DURATION_SLACK:
        raise DataError(
            f"{where}: ends at {end} s, but the stated duration is {duration} s; fix it or drop the duration"
        )
    return label, (start, end)


def parse_seconds(value: Any, where: str) -> float:
    """A finite number from what stands for it in a file; `where` names it in errors.

    Raises:
      DataError: anything else.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: {reprlib.repr(value)} is no finite number; write seconds, such as 18.6")
    return number
