"""Videos as folders of pictures, read one frame at a time. Needs Pillow: `pip install 'casejax[images]'`.

    DIR/train/ACTION/VIDEO/0001.png ...     videos to learn from
    DIR/test/ACTION/VIDEO/0001.jpg ...      videos to measure on
    DIR/.../VIDEO/phases.txt                optional: the phase of each frame, a whole number a line

Frames are in the order of the numbers in their names: 2.png stands before 10.png.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from casejax.alignment.data.finegym import EVENTS, EventVideo, reorganise, typical_order
from casejax.array_types import Int, UInt8
from casejax.errors import DataError, OptionError
from casejax.runtime.reading import brief, open_plain, read_text

SUFFIXES = (".png", ".jpg", ".jpeg")
PHASES = "phases.txt"
_LAYOUT = "the layout is DIR/train/ACTION/VIDEO/0001.png and DIR/test/ACTION/VIDEO/0001.png"


@dataclass(frozen=True, eq=False)
class FrameVideo:
    """One video whose frames lie in files.

    Attributes:
      name: of its folder.
      action: of the folder above.
      train: whether it is of the part to learn from.
      paths: the picture of each of T frames, in the order of time.
      phases: (T,) phase of each frame, 0 or more; None where there is no `phases.txt`.
    """

    name: str
    action: str
    train: bool
    paths: tuple[Path, ...]
    phases: Int[np.ndarray, " t"] | None = None

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.paths)


def read_frame_videos(folder: str | os.PathLike[str]) -> tuple[FrameVideo, ...]:
    """List the videos of a folder; pictures are opened by `load_frames`.

    Args:
      folder: holds `train` and `test`.

    Returns:
      The videos, those of the train part first, by action and name.

    Raises:
      DataError: a folder that is missing, a video without a picture, or phases that do not fit; the message names it.
    """
    folder = Path(folder)
    videos = []
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise DataError(f"{folder / part}: no such folder; {_LAYOUT}")
        for action in _folders(folder / part):
            videos += [_read_video(path, action.name, part == "train") for path in _folders(action)]
    if not videos:
        raise DataError(f"{folder}: holds no video; {_LAYOUT}")
    return tuple(videos)


def load_frames(video: FrameVideo, frames: Int[np.ndarray, "*b"], *, size: int) -> UInt8[np.ndarray, "*b size size 3"]:
    """Open some frames of a video, each once, and scale them to squares.

    Args:
      video: a video of T frames.
      frames: indices below T, in any shape and order, repeats allowed.
      size: height and width of the result, pixels.

    Returns:
      RGB, 0 to 255.

    Raises:
      DataError: a picture that cannot be read.
      ImportError: Pillow is missing.
    """
    needed, places = np.unique(frames, return_inverse=True)
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(lambda frame: _picture(video.paths[frame], size), needed))
    return np.stack(pictures)[places.reshape(np.shape(frames))]


def reorganise_videos(
    videos: Sequence[FrameVideo], events: Sequence[EventVideo], *, frames_per_second: float
) -> tuple[FrameVideo, ...]:
    """Put the sets of FineGym's event videos into one order, the typical one of the training videos.

    Args:
      videos: folders of frames named as the event videos are, "VIDEO_E_002407_002435".
      events: the annotations of these videos, `read_finegym_folder`.
      frames_per_second: of the folders of frames.

    Returns:
      Videos of the annotated frames alone, in the new order; the action is the name of the event and the phase of a
      frame is its element.

    Raises:
      DataError: no training video of an event, or a video without annotation or without an annotated frame.
      OptionError: a rate that is not positive.
    """
    if not 0 < frames_per_second < math.inf:
        raise OptionError(f"--fps must be above 0, got {frames_per_second}")
    by_name = {event.id: event for event in events}
    for video in videos:
        if video.name not in by_name:
            raise DataError(f"{video.paths[0].parent}: FineGym's lists have no {video.name}; leave the folder out")
    order = typical_order(by_name[video.name] for video in videos if video.train)
    found = []
    for video in videos:
        event = by_name[video.name]
        if event.event not in order:
            raise DataError(f"{video.paths[0].parent}: no training video of {EVENTS[event.event]}; add one")
        new = reorganise(event, order, frames_per_second=frames_per_second, num_frames=len(video))
        if not len(new.frames):
            raise DataError(f"{video.paths[0].parent}: none of its {len(video)} frames is annotated; check the rate")
        paths = tuple(video.paths[frame] for frame in new.frames)
        found.append(replace(video, action=EVENTS[event.event], paths=paths, phases=new.elements))
    return tuple(found)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_video(folder: Path, action: str, train: bool) -> FrameVideo:
    paths = sorted((path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES), key=_numbered)
    if not paths:
        raise DataError(f"{folder}: holds no picture; put the frames there as {', '.join(SUFFIXES)}")
    phases = _read_phases(folder / PHASES, len(paths)) if (folder / PHASES).exists() else None
    return FrameVideo(folder.name, action, train, tuple(paths), phases)


def _numbered(path: Path) -> list[tuple[int, str]]:
    """The parts of a name, numbers by their value."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)]


def _read_phases(path: Path, num_frames: int) -> np.ndarray:
    lines = read_text(path, missing="write a whole number a line").split()
    for number, line in enumerate(lines, 1):
        if not (line.isascii() and line.isdecimal() and len(line) < 10):
            raise DataError(f"{path}, line {number}: {line[:80]!r} is not a phase; write a whole number, 0 or more")
    if len(lines) != num_frames:
        raise DataError(f"{path}: has {len(lines)} phases for {num_frames} pictures; write one line for each")
    return np.array([int(line) for line in lines], np.int64)


def _picture(path: Path, size: int) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures are read by Pillow: pip install 'casejax[images]'") from error
    try:
        with open_plain(path, "picture") as file, Image.open(file, formats=("PNG", "JPEG")) as picture:
            return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except DataError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        raise DataError(f"{path}: not a readable PNG or JPEG ({brief(error)}); extract the frame again") from error
