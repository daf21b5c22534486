"""Frame features of videos of several actions, packed for a device to sample from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from casejax.array_types import Array, Float, Int
from casejax.errors import DataError


class VideoSet(NamedTuple):
    """Frame features of videos, packed end to end; the videos of an action stand next to each other.

    Attributes:
      frames: (N, F) features of all frames.
      starts: (V,) row of each video's first frame.
      lengths: (V,) frames of each video.
      firsts: (A,) the first video of each action.
      counts: (A,) videos of each action.
    """

    frames: Float[Array, "n f"]
    starts: Int[Array, " v"]
    lengths: Int[Array, " v"]
    firsts: Int[Array, " a"]
    counts: Int[Array, " a"]


def pack_videos(
    features: Sequence[Float[np.ndarray, "_ f"]], actions: Sequence[str]
) -> tuple[VideoSet, tuple[str, ...], Int[np.ndarray, "_"]]:
    """Pack videos action by action.

    Args:
      features: frame features of every video, one dimension for all.
      actions: the action of every video.

    Returns:
      The packed videos, the names of the actions in order, and which video stands at each place.

    Raises:
      DataError: no video, an empty one, values that are not finite, or an action with a single video.
    """
    if not features:
        raise DataError("there is no video to learn from; give videos of the training part")
    for video, array in enumerate(features):
        if not len(array):
            raise DataError(f"video {video} ({actions[video]}) has no frame; leave it out")
        if not np.isfinite(array).all():
            raise DataError(
                f"video {video} ({actions[video]}) has features that are not finite; repair or leave it out"
            )
    order = np.argsort(np.asarray(actions), kind="stable")
    names, first, count = np.unique(np.asarray(actions)[order], return_index=True, return_counts=True)
    for name, number in zip(names, count, strict=True):
        if number < 2:
            raise DataError(f"action {name} has a single training video; aligning takes two or more")
    lengths = np.array([len(features[v]) for v in order])
    videos = VideoSet(
        frames=jnp.asarray(np.concatenate([features[v] for v in order]), jnp.float32),
        starts=jnp.asarray(np.cumsum(lengths) - lengths, jnp.int32),
        lengths=jnp.asarray(lengths, jnp.int32),
        firsts=jnp.asarray(first, jnp.int32),
        counts=jnp.asarray(count, jnp.int32),
    )
    return videos, tuple(str(name) for name in names), order
