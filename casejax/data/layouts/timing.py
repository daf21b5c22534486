"""What is known of the time of features: `features.json` beside them, an option, the layout, the convention.

{"stride": 4, "fps": 30, "frames": 16, "first_frame": 0}    a row every 4 frames, made from 16
{"snippet_seconds": 0.25}                                   a row every quarter of a second
{"rescaled": true}                                          rows that divide the duration of each video evenly
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from casejax.data.layouts.annotations import parse_seconds, read_json
from casejax.data.layouts.checks import first_three
from casejax.errors import DataError, OptionError
from casejax.records import Timing, Video

KEYS = ("snippet_seconds", "stride", "fps", "frames", "first_frame", "rescaled")
PROVENANCE = ("backbone", "weights", "pictures", "flow", "dtype")


def timing_of(
    *,
    snippet_seconds: float | None = None,
    stride: float | None = None,
    fps: float | None = None,
    frames: float | None = None,
    first_frame: float | None = None,
    rescaled: bool = False,
) -> Timing | None:
    """The timing that some of these state; None where none is given.

    Args:
      snippet_seconds: seconds from one row to the next, from the start of the video on.
      stride: frames from one row to the next.
      fps: frames a second.
      frames: frames a row is made from; default `stride`.
      first_frame: where the first row begins; default 0.
      rescaled: rows divide the duration of each video evenly.

    Raises:
      OptionError: a value that is not positive and finite, one that is missing, or two that exclude each other.

    Example:
      >>> from casejax import data
      >>> data.timing_of(stride=8, fps=30)
      Timing(frames=8, stride=8, fps=30, first_frame=0.0, rescaled=False)
    """
    given = {"snippet_seconds": snippet_seconds, "stride": stride, "fps": fps, "frames": frames}
    for name, value in given.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise OptionError(f"{name} must be positive and finite, got {value}")
    if first_frame is not None and not (math.isfinite(first_frame) and first_frame >= 0):
        raise OptionError(f"first_frame must be 0 or more, got {first_frame}")
    by_frames = any(value is not None for value in (stride, fps, frames, first_frame))
    if sum((snippet_seconds is not None, by_frames, rescaled)) > 1:
        raise OptionError("snippet_seconds, frames with stride and fps, and rescaled exclude each other; state one")
    if rescaled:
        return Timing(rescaled=True)
    if snippet_seconds is not None:
        return Timing.every(snippet_seconds)
    if not by_frames:
        return None
    if stride is None or fps is None:
        raise OptionError(f"rows counted in frames need both stride and fps, got {stride=} and {fps=}")
    return Timing(stride if frames is None else frames, stride, fps, first_frame or 0.0)


def read_timing(root: Path) -> Timing | None:
    """What `features.json` in a folder says; None where there is none.

    Raises:
      DataError: a file that states no timing, or one that cannot be.
    """
    path = root / "features.json"
    if not os.path.lexists(path):
        return None
    document = read_json(path)
    given = {key: document[key] for key in KEYS if key in document} if isinstance(document, dict) else {}
    values: dict[str, Any] = {
        key: value if isinstance(value, bool) else parse_seconds(value, f"{path}: {key}")
        for key, value in given.items()
    }
    try:
        timing = timing_of(**values)
    except (OptionError, TypeError) as error:
        raise DataError(f"{path}: {error}") from error
    if timing is None:
        raise DataError(f'{path}: states no timing; write {{"stride": 16, "fps": 25}} or {{"snippet_seconds": 0.64}}')
    return timing


def read_provenance(root: Path) -> dict[str, Any]:
    """What `features.json` in a folder says of the network and the pictures that made the features; {} without.

    Raises:
      DataError: a file that is no JSON.
    """
    path = root / "features.json"
    document = read_json(path) if os.path.lexists(path) else {}
    return {name: document[name] for name in PROVENANCE if name in document} if isinstance(document, dict) else {}


def settle_timing(
    root: Path, given: Timing | None, *, layout: tuple[Path, Timing] | None = None, default: Timing = Timing()
) -> Timing:
    """The timing of a data set: what all that is said of it agrees on.

    Args:
      root: folder with the features, and `features.json` where there is one.
      given: by option.
      layout: what a file of the layout says, with that file.
      default: what it is where nobody says; 16 frames at 25 a second, unless the layout has another convention.

    Raises:
      DataError: two of them contradict each other.
    """
    stated = read_timing(root)
    said = [(root / "features.json", stated)] if stated else []
    said += [layout] if layout else []
    for path, timing in said:
        if given is not None and not given.same(timing):
            raise DataError(
                f"{path}: states {timing.describe()}, but the option is {given.describe()}; leave out the option or "
                "correct the file"
            )
        if not said[0][1].same(timing):
            raise DataError(
                f"{path}: states {timing.describe()}, but {said[0][0]} {said[0][1].describe()}; correct one of them"
            )
    return given or (said[0][1] if said else default)


def check_durations(timing: Timing, videos: Iterable[Video], path: Path) -> None:
    """Refuse rescaled rows of videos whose duration is not stated; `path` is the file that could state it.

    Raises:
      DataError: naming the videos.
    """
    without = [video.id for video in videos if video.duration is None] if timing.rescaled else []
    if without:
        raise DataError(f"{path}: rescaled rows need the duration of {first_three(without)}; state it in seconds")
