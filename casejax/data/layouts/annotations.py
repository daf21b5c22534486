"""Annotation files in JSON, split files and lists of names, as several layouts have them."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from casejax.data.layouts.checks import Remarks, check_id, raise_first, repeated
from casejax.errors import DataError
from casejax.records import Video, match_names
from casejax.runtime import reading

DURATION_KEYS = ("duration", "duration_second", "duration_seconds")
FRAME_KEYS = ("frames", "frame", "duration_frame")
AMBIGUOUS = "ambiguous"  # the label of intervals in which it is not known whether there is an action


def read_annotations(
    path: str | os.PathLike[str], *, only: Iterable[str] | None = None, remarks: Remarks | None = None
) -> dict[str, Video]:
    """Read the videos of an annotation file, by id.

    Times may be numbers or strings that spell numbers, in seconds. An annotation without a segment says that the video
    contains its class, no more. Instances that end before they begin, or lie outside of their video, are treated as
    `checks.REMARKS` says.

    Args:
      path: JSON, {"database": {ID: entry}} or {ID: entry}.
      only: ids of the videos to read; entries of others are not looked at. `v_` before an id makes no difference.
        Default: all.
      remarks: gains what is odd and used all the same; default: it is warned of.

    Returns:
      The videos under their ids, or under those of `only` where these are given; there, videos may be missing.

    Raises:
      DataError: no such file, not JSON, no "database", or an entry that cannot be used.

    Warns:
      DataWarning: what is odd and used all the same, in one warning a kind, with counts.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> from casejax import data
      >>> entry = {"subset": "train", "annotations": [{"label": "Dive", "segment": [1, 3]}]}
      >>> _ = Path("gt.json").write_text(json.dumps({"database": {"a": entry}}))
      >>> data.read_annotations("gt.json")["a"].segments
      array([[1., 3.]])
    """
    path = Path(path)
    return parse_videos(parse_database(read_json(path), path), path, only=only, remarks=remarks)


def parse_videos(
    database: Mapping[str, Any], path: Path, *, only: Iterable[str] | None = None, remarks: Remarks | None = None
) -> dict[str, Video]:
    """`read_annotations` of entries that were read from `path`."""
    places = {video: video for video in database} if only is None else find_ids(only, database)
    own, videos, problems = Remarks() if remarks is None else remarks, {}, []
    for video, place in places.items():
        try:
            videos[video] = parse_video(video, database[place], f"{path}: video {place!r}", own)
        except DataError as error:
            problems.append(str(error))
    raise_first(problems)
    if remarks is None:
        own.warn(path)
    return videos


def parse_database(document: Any, path: Path) -> dict[str, Any]:
    """The entries of an annotation file by id, with or without "database" around them.

    Raises:
      DataError: there are none.
    """
    if isinstance(document, dict):
        database = document.get("database")
        if database is None and document and all(_is_entry(entry) for entry in document.values()):
            return document
        if isinstance(database, dict):
            return database
        if isinstance(document.get("results"), dict):
            raise DataError(f'{path}: no "database", but "results", so these are predictions; name the annotations')
    raise DataError(f'{path}: no "database" object; put the videos into {{"database": {{ID: ...}}}}')


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and any(key in entry for key in ("annotations", "labels", "label"))


def find_ids(wanted: Iterable[str], there: Iterable[str]) -> dict[str, str]:
    """The id in `there` of each wanted id that is among them, in their order; see `match_names`."""
    wanted, there = dict.fromkeys(wanted), list(dict.fromkeys(there))
    found = match_names(wanted, there)
    return {video: there[found[video]] for video in wanted if video in found}


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
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8; DataError where there is none."""
    return reading.read_text(path, missing="put it there or pass another folder")


def read_json(path: Path) -> Any:
    """The content of a JSON file, whole numbers as floats.

    Raises:
      DataError: no JSON, or an object with a key twice.
    """
    return reading.read_json(path, floats=True, missing="put it there or pass another folder")


def parse_video(video: str, entry: Any, where: str, remarks: Remarks) -> Video:
    """One entry of a "database".

    Args:
      video: its id.
      entry: {"subset", "annotations", "duration"?, "labels"?}; labels alone say what the video contains, labels beside
        annotations are the video-level labels whatever the annotations say.
      where: file and video, for errors.
      remarks: gains what is odd and used all the same.

    Raises:
      DataError: an entry that cannot be used.
    """
    entry = entry if isinstance(entry, dict) else {}
    listed, said = entry.get("annotations"), entry.get("labels", entry.get("label"))
    stated = None if said is None else said if isinstance(said, list) else [said]
    if stated is not None and not listed:
        listed, stated = [{"label": label} for label in stated], None
    if not isinstance(listed, list):
        raise DataError(f'{where}: no "annotations" list; add one, empty where nothing happens')
    duration = _length(entry, DURATION_KEYS, video, remarks)
    instances: list[tuple[str, tuple[float, float]]] = []
    ambiguous, apart, timeless = [], [], 0
    for number, instance in enumerate(listed):
        label, segment = parse_instance(instance, f"{where}, annotation {number} (counted from 0)")
        if segment is None:
            apart.append(label)
            timeless += 1
        elif (kind := parse_oddity(segment, duration)) == "empty":
            remarks.add(kind, f"{video} {list(segment)}")
            apart.append(label)
        elif label.strip().lower() == AMBIGUOUS:
            ambiguous.append(segment)
        else:
            instances.append((label, segment))
            if kind:
                remarks.add(kind, f"{video} {list(segment)}")
    if timeless and instances:
        remarks.add("whole label", video)
    labels = tuple(label for label, _ in instances)
    if stated is not None:
        apart = [parse_instance({"label": label}, f'{where}, "labels"')[0] for label in stated]
    elif apart := [label for label in apart if label.strip().lower() != AMBIGUOUS]:
        apart += labels
    return Video(
        video,
        str(entry.get("subset", "")),
        _pairs([segment for _, segment in instances]),
        labels,
        duration,
        _length(entry, FRAME_KEYS, video, remarks),
        tuple(sorted(set(apart))) if apart or stated is not None else None,
        not timeless,
        _pairs(ambiguous),
    )


def _pairs(segments: Sequence[tuple[float, float]]) -> np.ndarray:
    return np.asarray(segments, np.float64).reshape(-1, 2)


def _length(entry: Mapping[str, Any], keys: Sequence[str], video: str, remarks: Remarks) -> float | None:
    """A positive number that an entry has under one of several keys; what is none is remarked."""
    value = next((entry[key] for key in keys if entry.get(key) is not None), None)
    if value is None:
        return None
    try:
        number = parse_seconds(value, video)
    except DataError:
        number = 0.0
    if number <= 0:
        remarks.add("duration", f"{video} {reprlib.repr(value)}")
        return None
    return number


def parse_oddity(segment: tuple[float, float], duration: float | None) -> str | None:
    """The key of `REMARKS` that a segment falls under, None for an ordinary one."""
    start, end = segment
    if end <= start:
        return "empty"
    if start < 0:
        return "before the start"
    return "past the end" if duration is not None and end > duration + _rounding(duration) else None


def _rounding(duration: float) -> float:
    """Half of the last digit that a duration is stated with, and a millisecond at least."""
    exponent = Decimal(repr(duration)).normalize().as_tuple().exponent
    return max(0.5 * 10.0 ** min(int(exponent), 0) * (1 + 1e-6), 1e-3)


def parse_instance(instance: Any, where: str) -> tuple[str, tuple[float, float] | None]:
    """Label and segment, seconds, of one annotated instance; None where it has no segment. `where` names it in errors.

    Raises:
      DataError: no label, or a segment that is no pair of seconds.
    """
    if not isinstance(instance, dict):
        raise DataError(f'{where}: {reprlib.repr(instance)} is no object; write {{"label", "segment"}}')
    label, segment = instance.get("label"), instance.get("segment")
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"{where}: label {reprlib.repr(label)} is no class name; write one as a string")
    if segment is None or segment == []:
        return label, None
    return label, parse_segment(segment, where)


def parse_segment(segment: Any, where: str) -> tuple[float, float]:
    """A pair of finite seconds, in whatever order; `where` names it in errors.

    Raises:
      DataError: anything else.
    """
    if not isinstance(segment, list) or len(segment) != 2:
        raise DataError(f"{where}: segment {reprlib.repr(segment)} is no pair; write [start, end] in seconds")
    start, end = (parse_seconds(time, f"{where}, segment {reprlib.repr(segment)}") for time in segment)
    return start, end


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
