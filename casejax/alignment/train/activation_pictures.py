"""Pictures of what an embedder looks at: frames, and below each its class-activation map. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax.alignment.data.frames import FrameVideo
from casejax.alignment.networks.activation_maps import class_activation, overlay
from casejax.alignment.train.image_trainer import ImageConfig, ImageState, read_context
from casejax.array_types import Real
from casejax.report.canvas import WIDTH, fold, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # matplotlib is loaded when something is drawn


def draw_activations(
    videos: Sequence[FrameVideo],
    graphdef: nnx.GraphDef[Any],
    state: ImageState,
    config: ImageConfig,
    folder: Path,
    *,
    num_frames: int = 6,
) -> None:
    """Write `folder`/ACTION.png for each video: evenly spaced frames and their maps.

    Args:
      videos: one of each action.
      graphdef: structure of the network, `start_image_network`.
      state: its trained state.
      config: what it was built with.
      folder: is made where it is missing.
      num_frames: frames a picture.

    Raises:
      ImportError: matplotlib is missing.
      DataError: a picture that cannot be read.
    """
    network = nnx.merge(graphdef, state.params, state.statistics).embedder

    @jax.jit
    def look(images: jax.Array) -> jax.Array:
        maps = network.embedder.feature_map(network.features(2 * images - 1))
        return overlay(images[:, :, -1], class_activation(maps, size=(config.size, config.size)))

    folder.mkdir(parents=True, exist_ok=True)
    for video in videos:
        frames = np.linspace(0, len(video) - 1, num_frames).round().astype(int)
        images = read_context(video, frames, config).astype(np.float32) / 255
        heat = np.asarray(look(jnp.asarray(images)[None]))[0]
        figure = activation_strip(f"{video.action}: {video.name}", frames.tolist(), images[:, -1], heat)
        save(figure, folder / f"{video.action}.png")


def activation_strip(
    title: str,
    frames: Sequence[int],
    images: Real[np.ndarray, "t h w 3"],
    overlays: Real[np.ndarray, "t h w 3"],
) -> Figure:
    """Frames in a row, and below each what the embedder looks at.

    Args:
      title: heading.
      frames: number of each frame.
      images: (T, H, W, 3) RGB in [0, 1].
      overlays: (T, H, W, 3) the same under their maps, `overlay`.

    Raises:
      ImportError: matplotlib is missing.
    """
    width = WIDTH / len(frames)
    height = 2 * width + 0.8
    figure = new_figure(height)
    figure.text(0.25 / WIDTH, 1 - 0.25 / height, fold(title, 80, 1), size=14, weight="bold", va="center")
    for column, frame in enumerate(frames):
        for row, picture in enumerate((images[column], overlays[column])):
            place = (column / len(frames), (1 - row) * width / height, 1 / len(frames), 0.96 * width / height)
            ax = figure.add_axes(place)
            ax.imshow(np.clip(picture, 0, 1), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.axis("off")
            if row == 0:
                ax.set_title(str(frame), size=9, pad=2)
    return figure
