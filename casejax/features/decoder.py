"""Video files to frames at a wanted rate, by PyAV: pictures as a player shows them, whatever the container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from casejax.array_types import UInt8
from casejax.errors import DataError, OptionError
from casejax.runtime.reading import check_plain

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv")
"""Endings of files that are taken for videos where a folder is searched."""
LONGEST_GAP = 3600.0
"""Seconds without a picture after which time stamps are not believed."""
MISSING, MISSING_SHARE = 1.0, 0.02
"""Seconds, and share of a video, that may be missing at its end before it counts as cut off."""


class VideoInfo(NamedTuple):
    """What the header of a video says.

    Attributes:
      path: of the file.
      width: of a picture as it is shown, pixels.
      height: the same.
      fps: pictures a second, on the average.
      duration: seconds, where the header states it; `read_frames` counts for itself.
    """

    path: Path
    width: int
    height: int
    fps: float
    duration: float | None


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Look at a video without decoding more than its first picture.

    Raises:
      DataError: not a file, no video in it, or no picture that can be decoded.
      OptionError: PyAV is not installed.

    Example:
      >>> import numpy as np
      >>> from casejax import features
      >>> features.write_video("a.mp4", np.zeros((10, 32, 48, 3), np.uint8), fps=10)
      >>> about = features.probe("a.mp4")
      >>> about.width, about.height, about.fps, about.duration
      (48, 32, 10.0, 1.0)
    """
    path = Path(path)
    with _opened(path) as container:
        stream = container.streams.video[0]
        first = next(_decoded(path, container), None)
        if first is None:
            raise DataError(f"{path}: has no picture that can be decoded; is the file complete?")
        turned = _quarter_turns(first) % 2 == 1
        width, height = (first.height, first.width) if turned else (first.width, first.height)
        rate = stream.average_rate or stream.guessed_rate
        return VideoInfo(path, width, height, float(rate or 0), _stated_duration(container))


def read_frames(
    path: str | os.PathLike[str], *, fps: float, short_side: int, first: int = 0
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The pictures that a player shows at times 0, 1 / fps, 2 / fps, ... after that of the first one.

    A picture is shown from its time stamp to that of the next; so videos of any rate, and of a variable one, keep their
    time. Pictures are turned upright and scaled, with their shape, so that the shorter side has `short_side` pixels;
    one of another size, in a video that changes it, is scaled by itself. Pixels are taken for squares.

    Args:
      path: a video file; sound is ignored.
      fps: pictures a second to give.
      short_side: pixels.
      first: how many pictures to leave out at the start; the video is searched, not decoded, up to near there.

    Yields:
      RGB.

    Raises:
      DataError: not a video, a damaged one, or one without pictures; the message says after how many seconds.
      OptionError: fps, short_side or first out of range; PyAV is not installed.

    Example:
      >>> import numpy as np
      >>> from casejax import features
      >>> features.write_video("a.mp4", np.zeros((10, 32, 48, 3), np.uint8), fps=10)
      >>> [frame.shape for frame in features.read_frames("a.mp4", fps=2, short_side=16)]
      [(16, 24, 3), (16, 24, 3)]
    """
    if not (math.isfinite(fps) and fps > 0):
        raise OptionError(f"fps must be positive and finite, got {fps}")
    if short_side < 1:
        raise OptionError(f"short_side must be 1 pixel or more, got {short_side}")
    if first < 0:
        raise OptionError(f"first must be 0 or more, got {first}")
    path = Path(path)
    rate = Fraction(fps).limit_denominator(1_000_000)
    number = first
    shown: Any = None
    until = Fraction(0)
    for start, end, picture in _timed(path, first / rate):
        while shown is not None and number / rate < start:
            yield _scaled(shown, short_side)
            number += 1
        shown, until = picture, end
    while shown is not None and number / rate < until:
        yield _scaled(shown, short_side)
        number += 1


def sample_frames(
    path: str | os.PathLike[str], duration: float, count: int, *, short_side: int = 160
) -> list[UInt8[np.ndarray, "height width 3"]]:
    """Pictures from the middles of `count` equal parts of a video of `duration` seconds.

    Raises:
      DataError: as `read_frames`.

    Example:
      >>> import numpy as np
      >>> from casejax import features
      >>> features.write_video("a.mp4", np.zeros((10, 32, 48, 3), np.uint8), fps=10)
      >>> [frame.shape for frame in features.sample_frames("a.mp4", 1.0, 2, short_side=16)]
      [(16, 24, 3), (16, 24, 3)]
    """
    rate = count / duration
    found = list(read_frames(path, fps=2 * rate, short_side=short_side))
    return found[1::2][:count]


def count_frames(path: str | os.PathLike[str], *, fps: float) -> int:
    """How many pictures `read_frames` gives, without making them.

    Raises:
      DataError: as `read_frames`.

    Example:
      >>> import numpy as np
      >>> from casejax import features
      >>> features.write_video("a.mp4", np.zeros((10, 32, 48, 3), np.uint8), fps=10)
      >>> features.count_frames("a.mp4", fps=5)
      5
    """
    until = max(end for _, end, _ in _timed(Path(path), Fraction(0)))
    return math.ceil(until * Fraction(fps).limit_denominator(1_000_000))


def _timed(path: Path, after: Fraction) -> Iterator[tuple[Fraction, Fraction, Any]]:
    """Pictures with the seconds from and to which they are shown, at the latest from `after` on."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        pictures = _decoded(path, container)
        picture = next(pictures, None)
        if picture is None:
            raise DataError(f"{path}: has no picture that can be decoded; is the file complete?")
        zero = _stamp(picture, Fraction(0))
        usual = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
        if after > 0:
            container.seek(math.floor((after + zero) / stream.time_base), stream=stream, backward=True)
            pictures = _decoded(path, container)
            picture = next(pictures, None)
            if picture is None or picture.pts is None or _stamp(picture, zero) - zero > after:
                yield from _timed(path, Fraction(0))  # an index that leads too far
                return
        start = _stamp(picture, zero) - zero
        while picture is not None:
            following = next(pictures, None)
            lasts = Fraction(picture.duration or 0) * (picture.time_base or 0) or usual
            end = start + lasts if following is None else _stamp(following, zero + start + lasts) - zero
            if end - start > LONGEST_GAP:
                raise DataError(
                    f"{path}: no picture for {float(end - start):.0f} s after {float(start):.1f} s, so its time stamps "
                    "are damaged; write it anew, for example by `ffmpeg -i FILE -fps_mode cfr NEW.mp4`"
                )
            if end > start:  # of two at one time the later is shown
                yield start, end, picture
                start = end
            picture = following
        stated = _stated_duration(container)
        if stated is not None and start < stated - max(MISSING, stated * MISSING_SHARE):
            raise DataError(
                f"{path}: ends after {float(start):.1f} s, its header says {stated:.1f} s; fetch it again, or if "
                "that is all there is, write it anew by `ffmpeg -i FILE -c copy NEW.mkv`"
            )


def _stated_duration(container: Any) -> float | None:
    """Seconds of the pictures, where the header says so."""
    stream = container.streams.video[0]
    if stream.duration:
        return float(stream.duration * stream.time_base)
    parts = str(stream.metadata.get("DURATION", "")).split(":")  # as Matroska has it
    try:
        hours, minutes, seconds = map(float, parts)
        return 3600 * hours + 60 * minutes + seconds
    except ValueError:
        alone = len(container.streams) == 1 and container.duration
        return container.duration / 1e6 if alone else None


def _stamp(picture: Any, otherwise: Fraction) -> Fraction:
    return otherwise if picture.pts is None else picture.pts * picture.time_base


def _scaled(picture: Any, short_side: int) -> np.ndarray:
    """A decoded picture as RGB, scaled and upright."""
    scale = short_side / min(picture.width, picture.height)
    width, height = (max(short_side, round(side * scale)) for side in (picture.width, picture.height))
    pixels = picture.reformat(width, height, "rgb24", interpolation="BILINEAR").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, _quarter_turns(picture)))


def _quarter_turns(picture: Any) -> int:
    """Quarter turns, against the clock, that make a picture upright."""
    return round(picture.rotation / 90) % 4


def _opened(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise OptionError("reading videos needs PyAV: pip install 'casejax[video]'") from error
    check_plain(path, "video", missing="name a video")
    try:
        # a plain name such as rgb:1.mp4 would be a protocol; what a file refers to must not be fetched
        container = av.open(f"file:{os.path.abspath(path)}", options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DataError(f"{path}: is no video that can be read ({_first_line(error)})") from error
    if not container.streams.video:
        there = _kinds(container)
        container.close()
        raise DataError(f"{path}: has no video in it, only {there}; name a file with pictures")
    container.streams.video[0].thread_type = "AUTO"
    return container


def _decoded(path: Path, container: Any) -> Iterator[Any]:
    import av

    seen = 0.0
    try:
        for picture in container.decode(video=0):
            seen = picture.time if picture.time is not None else seen
            yield picture
    except (av.error.FFmpegError, ValueError) as error:
        raise DataError(
            f"{path}: is damaged after {seen:.1f} s ({_first_line(error)}); fetch it again, or cut it there, for "
            f"example by `ffmpeg -t {seen:.1f} -i FILE -c copy NEW.mp4`"
        ) from error


def _kinds(container: Any) -> str:
    return " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
