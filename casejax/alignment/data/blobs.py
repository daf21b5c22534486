"""An invented world of pictures: a blob that goes through the stations of an action, written as folders of frames."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from casejax.alignment.data.frames import PHASES

ACTIONS = ("zigzag", "circle")
# Where the blob stands when a phase begins and when the last one ends, as shares of width and height.
STATIONS = {
    "zigzag": np.array([(0.2, 0.2), (0.8, 0.35), (0.2, 0.6), (0.8, 0.8)]),
    "circle": np.array([(0.5, 0.2), (0.8, 0.5), (0.5, 0.8), (0.2, 0.5)]),
}


def write_blob_videos(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    train_videos: int = 5,
    test_videos: int = 3,
    shortest: int = 32,
    longest: int = 48,
    size: int = 32,
) -> None:
    """Write videos in the layout of `read_frame_videos`; the same options and seed give the same pictures.

    Every video takes time of its own for each phase, and has a colour, a background, a size of the blob and a place of
    its own. Needs Pillow.

    Args:
      folder: gains `train` and `test`.
      seed: of everything.
      train_videos: videos of each action to learn from.
      test_videos: videos of each action to measure on.
      shortest: frames of the shortest video.
      longest: frames of the longest video.
      size: height and width of a picture, pixels.

    Raises:
      ImportError: Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures are written by Pillow: pip install 'casejax[images]'") from error
    for a, action in enumerate(ACTIONS):
        for v in range(train_videos + test_videos):
            rng = np.random.default_rng([seed, a, v])
            pictures, phases = _film(STATIONS[action], int(rng.integers(shortest, longest + 1)), size, rng)
            video = Path(folder, "train" if v < train_videos else "test", action, f"{v:02d}")
            video.mkdir(parents=True, exist_ok=True)
            for t, picture in enumerate(pictures):
                Image.fromarray(picture).save(video / f"{t:04d}.png")
            (video / PHASES).write_text("".join(f"{phase}\n" for phase in phases))


def _film(stations: np.ndarray, num_frames: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (T, size, size, 3), uint8, and the phase of each."""
    durations = rng.dirichlet(np.full(len(stations) - 1, 4.0)) + 0.1
    ends = np.concatenate([[0], np.cumsum(durations)]) / durations.sum()
    clock = np.linspace(0, 1, num_frames)
    phases = np.clip(np.searchsorted(ends, clock, side="right") - 1, 0, len(stations) - 2)
    places = np.stack([np.interp(clock, ends, axis) for axis in stations.T], axis=1) + rng.normal(0, 0.03, 2)
    grid = (np.arange(size) + 0.5) / size
    away = (grid[None, None, :] - places[:, 0, None, None]) ** 2 + (grid[None, :, None] - places[:, 1, None, None]) ** 2
    blob = np.exp(-away / (2 * rng.uniform(0.07, 0.11) ** 2))[..., None]
    colour, ground = rng.uniform(0.6, 1, 3), rng.uniform(0, 0.3, 3)
    pictures = ground + blob * (colour - ground) + rng.normal(0, 0.02, (num_frames, size, size, 3))
    return (255 * np.clip(pictures, 0, 1)).astype(np.uint8), phases
