"""What each location of the pyramid should say: the class of the instance it is in, and how far its ends are.

A location of stride s belongs to an instance if it lies inside, within `radius * s` of the middle, and if the farther
end is in the regression range of its level (Tian et al., "FCOS", ICCV 2019, for pictures; Zhang et al., "ActionFormer",
ECCV 2022, Sec. 3.3, for time). Where several instances of a class claim a location, the shortest has it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from casejax.array_types import Array, Bool, Float, Int


class Locations(NamedTuple):
    """The N locations of a pyramid over T snippets, level after level; one that is not real parts two levels.

    Attributes:
      position: (N,) where it stands, snippets; snippet i covers [i, i + 1).
      stride: (N,) snippets from one location of its level to the next.
      level: (N,) its level, from 0.
      real: (N,) whether it is one.
    """

    position: np.ndarray
    stride: np.ndarray
    level: np.ndarray
    real: np.ndarray


def locations(num_snippets: int, levels: int) -> Locations:
    """The locations of a pyramid.

    Args:
      num_snippets: T, a multiple of 2^(levels - 1).
      levels: how many; level l has T / 2^l locations, in the middles of as many equal parts

    Raises:
      ValueError: a T that is no such multiple.
    """
    if levels < 1 or num_snippets < 1 or num_snippets % 2 ** (levels - 1):
        raise ValueError(f"{levels} levels need a multiple of {2 ** (levels - 1)} snippets, got {num_snippets}; pad")
    counts = [num_snippets // 2**level for level in range(levels)]
    level = np.repeat(np.arange(levels), [count + 1 for count in counts])
    index = np.concatenate([np.arange(count + 1) for count in counts])
    real = np.concatenate([np.arange(count + 1) < count for count in counts])
    stride = (2.0**level).astype(np.float32)
    return Locations(((index + 0.5) * stride).astype(np.float32), stride, level, real)


def length_of(count: int, levels: int) -> int:
    """T of a pyramid of so many locations, those between levels included: T (2 - 2^(1 - levels)) + levels."""
    return (count - levels) * 2 ** (levels - 1) // (2**levels - 1)


def ranges(level: np.ndarray, levels: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bounds [low, high) of the distance to the farther end, by level: 0, reach, 2 reach, ..., infinity."""
    low = np.where(level == 0, 0.0, reach * 2.0 ** (level - 1.0))
    high = np.where(level == levels - 1, np.inf, reach * 2.0**level)
    return low.astype(np.float32), high.astype(np.float32)


class Targets(NamedTuple):
    """Targets of N locations and C classes.

    Attributes:
      weights: (N, C) of the class at the location; 0 where there is no instance of it.
      offsets: (N, C, 2) distances to start and end, not below 0; 0 where there is no instance.
      ignored: (N, C) neither instance nor background: within an instance that is doubtful, or of weight 0.
    """

    weights: Float[Array, "n c"]
    offsets: Float[Array, "n c 2"]
    ignored: Bool[Array, "n c"]


def assign(
    places: Locations,
    segments: Float[Array, "m 2"],
    labels: Int[Array, " m"],
    weights: Float[Array, " m"],
    *,
    mask: Bool[Array, " m"],
    num_classes: int,
    levels: int,
    reach: float = 4.0,
    radius: float = 1.5,
) -> Targets:
    """Targets of the locations in one video.

    Args:
      places: the locations.
      segments: (M, 2) start and end of instances, snippets.
      labels: (M,) classes.
      weights: (M,) how much an instance counts; 0 for one that is doubtful.
      mask: (M,) True for real instances.
      num_classes: C.
      levels: of the pyramid.
      reach: snippets to the farther end up to which the first level regresses.
      radius: strides around the middle within which a location belongs to an instance.
    """
    segments = jnp.where(mask[:, None], segments, 0.0)
    position, stride = jnp.asarray(places.position)[None], jnp.asarray(places.stride)[None]
    to_start, to_end = position - segments[:, :1], segments[:, 1:] - position  # (M, N)
    inside = (to_start >= 0) & (to_end > 0) & mask[:, None]
    low, high = ranges(places.level, levels, reach)
    farther = jnp.maximum(to_start, to_end)
    # A location at the place of the middle is there for every instance of its level, however short.
    central = jnp.abs(to_start - to_end) / 2 <= radius * stride
    own = inside & central & (farther >= low[None]) & (farther < high[None]) & jnp.asarray(places.real)[None]
    doubtful = mask & (weights <= 0)

    count = len(labels)
    order = jnp.argsort(jnp.where(mask, segments[:, 1] - segments[:, 0], jnp.inf), stable=True)
    rank = jnp.zeros(count, jnp.int32).at[order].set(jnp.arange(count, dtype=jnp.int32))
    claims = jnp.where(own & ~doubtful[:, None], rank[:, None], count)
    best = jax.ops.segment_min(claims, labels, num_classes).T  # (N, C)
    found = best < count
    instance = order[jnp.minimum(best, count - 1)]
    place = jnp.arange(best.shape[0])[:, None]
    offsets = jnp.stack([to_start[instance, place], to_end[instance, place]], axis=2)
    unsure = jax.ops.segment_max((inside & doubtful[:, None]).astype(jnp.int32), labels, num_classes).T > 0
    return Targets(
        jnp.where(found, weights[instance], 0.0), jnp.where(found[:, :, None], offsets, 0.0), unsure & ~found
    )
