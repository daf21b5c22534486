"""FineGym's annotations, and its event videos with their sets in one order, which alignment needs.

    finegym_annotation_info_v1.1.json   {VIDEO: {"E_002407_002435": {"event": 1 to 4, "timestamps": [[start, end]],
                                        "segments": null or {"A_0003_0005": {"timestamps": [[start, end], ...]}}}}}
    gym99_train_element_v1.1.txt        VIDEO_E_002407_002435_A_0003_0005 ELEMENT, one clip a line
    gym99_categories.txt                Clabel: ELEMENT; set: SET; Glabel: ...; description, one element a line

Times are seconds: those of an event (a routine) from the start of the video, those of its clips (`segments`) from the
start of the event. A clip in several stages, as in vault, has a pair of times for each. An annotation of an event is
cut out as a video of its own, so an event video's frames count from the event's start.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from casejax.array_types import Int
from casejax.errors import DataError
from casejax.runtime.reading import read_json, read_text

EVENTS = {1: "vault", 2: "floor exercise", 3: "balance beam", 4: "uneven bars"}

_CLIP = re.compile(r"(.+)_(E_\d+_\d+)_(A_\d+_\d+)\s+(\d+)")
_CATEGORY = re.compile(r"Clabel:\s*(\d+)\s*;\s*set:\s*(\d+)\s*;")


@dataclass(frozen=True)
class Clip:
    """One annotated element: `start` to `end` in seconds from the start of its event video."""

    element: int
    set: int
    start: float
    end: float


@dataclass(frozen=True)
class EventVideo:
    """One routine of a gymnast.

    Attributes:
      id: name of the video and of the event in it, "VIDEO_E_002407_002435".
      event: its number, a key of `EVENTS`.
      duration: seconds.
      clips: the elements of the list that was read, in the order of their starts.
    """

    id: str
    event: int
    duration: float
    clips: tuple[Clip, ...]


class Reorganised(NamedTuple):
    """An event video with its sets in the prototype's order.

    Attributes:
      frames: (F,) which frame of the event video stands in each place: `features[frames]` is the video, and
        `labels[frames]` are framewise labels of any kind.
      elements: (F,) element of each frame.
      sets: (F,) set of each frame.
      clips: (C,) which of the event video's clips were joined, in this order.
    """

    frames: Int[np.ndarray, " f"]
    elements: Int[np.ndarray, " f"]
    sets: Int[np.ndarray, " f"]
    clips: Int[np.ndarray, " c"]


def read_finegym(
    annotations: str | os.PathLike[str], elements: str | os.PathLike[str], categories: str | os.PathLike[str]
) -> tuple[EventVideo, ...]:
    """Read the event videos that one of the element lists names.

    Args:
      annotations: the JSON file of all events.
      elements: list of the labelled clips of a split, of Gym99 or of Gym288.
      categories: the elements of the same of the two, with their sets.

    Returns:
      One record an event video with the clips of that list, in the order of their ids.

    Raises:
      DataError: a file is missing or cannot be parsed, or one names what another lacks; the message names it.
    """
    annotations, elements, categories = Path(annotations), Path(elements), Path(categories)
    sets = {int(match[1]): int(match[2]) for match in _matches(categories, _CATEGORY, "Clabel: N; set: N; ...")}
    events = read_json(annotations, dict, remedy="fetch the file again")
    clips: dict[tuple[str, str], list[Clip]] = defaultdict(list)
    for match in _matches(elements, _CLIP, "VIDEO_E_start_end_A_start_end ELEMENT"):
        video, event, clip, element = match[1], match[2], match[3], int(match[4])
        if element not in sets:
            raise DataError(
                f"{categories}: lacks element {element}, which {elements} has; take the files of one version"
            )
        start, end = _times(events, (video, event, "segments", clip), annotations)
        clips[video, event].append(Clip(element, sets[element], start, end))
    found = []
    for (video, event), members in sorted(clips.items()):
        start, end = _times(events, (video, event), annotations)
        number = events[video][event].get("event")
        if not isinstance(number, int) or number not in EVENTS:
            raise DataError(f"{annotations}: event of {video}, {event} is {number!r}, not one of {list(EVENTS)}")
        ordered = sorted(members, key=lambda clip: (clip.start, clip.end))
        found.append(EventVideo(f"{video}_{event}", number, end - start, tuple(ordered)))
    return tuple(found)


def read_finegym_folder(folder: str | os.PathLike[str], *, name: str = "gym99") -> tuple[EventVideo, ...]:
    """`read_finegym` of both parts, from a folder that holds the files as they were published.

    Args:
      folder: holds one file each of `finegym_annotation_info*.json`, NAME`_train_element*.txt`,
        NAME`_val_element*.txt` and NAME`_categories*.txt`.
      name: "gym99" or "gym288".

    Raises:
      DataError: a file that is not there, or there twice; or as `read_finegym`.
    """
    folder = Path(folder)
    forms = ("finegym_annotation_info*.json", *(f"{name}_{part}*" for part in ("train_el", "val_el", "categories")))
    paths = []
    for form in forms:
        found = sorted(folder.glob(form))
        if len(found) != 1:
            raise DataError(f"{folder}: holds {len(found)} files named {form}; put one of FineGym's there")
        paths += found
    annotations, train, test, categories = paths
    return read_finegym(annotations, train, categories) + read_finegym(annotations, test, categories)


def typical_order(videos: Iterable[EventVideo]) -> dict[int, tuple[int, ...]]:
    """For every event its sets by their mean place in the videos, 0 the first clip and 1 the last.

    GTA's supplement fixes one order of the sets of an event and does not say which. This one moves the least; take
    it from the training videos and use it for the test videos as well.
    """
    places: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for video in videos:
        for i, clip in enumerate(video.clips):
            places[video.event][clip.set].append(i / max(len(video.clips) - 1, 1))
    return {
        event: tuple(sorted(of_event, key=lambda name: (float(np.mean(of_event[name])), name)))
        for event, of_event in sorted(places.items())
    }


def reorganise(
    video: EventVideo,
    order: Mapping[int, Sequence[int]],
    *,
    frames_per_second: float,
    num_frames: int | None = None,
) -> Reorganised:
    """Join the clips of an event video, set after set in the prototype's order, in order of time within a set.

    Clips of sets that the prototype lacks are left out, as are frames between the clips; a set that the video lacks
    stays away.

    Args:
      video: an event video.
      order: prototype order of the sets of each event.
      frames_per_second: of the event video or of its features.
      num_frames: frames that there are; default those of the stated duration. Annotated frames beyond are dropped.

    Raises:
      ValueError: the prototype lacks the event or names a set twice, or a rate that is not positive.

    References:
      Hadji et al., "Representation Learning via Global Temporal Alignment and Cycle-Consistency", CVPR 2021,
      supplement, section 3.
    """
    if not 0 < frames_per_second < math.inf:
        raise ValueError(f"frames_per_second must be positive and finite, got {frames_per_second}")
    if video.event not in order:
        raise ValueError(f"order has no event {video.event}, that of {video.id}; it has {list(order)}")
    prototype = list(order[video.event])
    if len(set(prototype)) < len(prototype):
        raise ValueError(f"order names a set of event {video.event} twice: {prototype}")
    limit = math.ceil(video.duration * frames_per_second) if num_frames is None else num_frames
    rank = {name: place for place, name in enumerate(prototype)}
    kept = [i for i, clip in enumerate(video.clips) if clip.set in rank]
    kept.sort(key=lambda i: (rank[video.clips[i].set], video.clips[i].start))
    parts = [_frames_of(video.clips[i], frames_per_second, limit) for i in kept]
    owner = np.repeat(np.asarray(kept, np.int64), [len(part) for part in parts])
    elements = np.asarray([clip.element for clip in video.clips], np.int64)
    sets = np.asarray([clip.set for clip in video.clips], np.int64)
    frames = np.concatenate([np.empty(0, np.int64), *parts])
    return Reorganised(frames, elements[owner], sets[owner], np.asarray(kept, np.int64))


def _frames_of(clip: Clip, rate: float, limit: int) -> np.ndarray:
    """Frames whose time lies in [start, end), at least one."""
    first, end = (math.ceil(time * rate - 1e-6) for time in (clip.start, clip.end))  # 0.3 * 10 is 3
    return np.arange(first, min(max(end, first + 1), limit), dtype=np.int64)


def _times(events: Any, keys: Sequence[str], path: Path) -> tuple[float, float]:
    """First start and last end of what lies under `keys`."""
    entry, where = events, ", ".join(key for key in keys if key != "segments")
    for key in keys:
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    if entry is None:
        raise DataError(f"{path}: has no entry for {where}; take the files of one version")
    try:
        times = np.asarray(entry["timestamps"], np.float64).reshape(-1, 2)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: timestamps of {where} are not [[start, end], ...]; correct them") from error
    start, end = (float(times[0, 0]), float(times[-1, 1])) if len(times) else (math.nan, math.nan)
    if not 0 <= start < end < math.inf:
        raise DataError(f"{path}: timestamps of {where} run from {start} to {end}; correct them")
    return start, end


def _text(path: Path) -> str:
    return read_text(path, missing="pass FineGym's own file")


def _matches(path: Path, pattern: re.Pattern[str], form: str) -> list[re.Match[str]]:
    """The match of every line that is not blank."""
    found = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        match = pattern.match(line.strip())
        if match is None and line.strip():
            raise DataError(f"{path}, line {number}: {line[:80]!r} is not {form!r}")
        if match is not None:
            found.append(match)
    if not found:
        raise DataError(f"{path}: lists nothing; expected lines of the form {form!r}")
    return found
