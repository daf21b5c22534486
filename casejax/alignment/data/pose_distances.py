"""Distances between the frames of pose tracks, and controls of alignment, that need no learning. Plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from casejax.array_types import Float, Int
from casejax.data.poses import OTHER_SIDE, Poses

MIN_SHARED_JOINTS = 3  # with fewer joints in common two poses are not compared

Transform = Callable[[Poses], Poses]


def clock_features(num_frames: int, *, limit: int = 15) -> Float[np.ndarray, "t 1"]:
    """What a context frame `limit` frames ago betrays of the time when it is clipped at the start: min(t, limit).

    Kendall's tau of this control is what an embedder with such a context is given for nothing.
    """
    return np.minimum(np.arange(num_frames, dtype=np.float32), np.float32(limit))[:, None]


def with_context(poses: Poses, *, frames: int = 15) -> Poses:
    """The pose `frames` earlier, clipped at the start of the video, beside that of the frame itself."""
    earlier = np.maximum(np.arange(len(poses.positions)) - frames, 0)
    return _beside(poses, poses.positions[earlier], poses.positions)


# The four transforms of a pose under which two videos may show the same movement.


def unchanged(poses: Poses) -> Poses:
    """The poses themselves."""
    return poses


def mirror(poses: Poses) -> Poses:
    """Left and right of the picture exchanged: a view from the back becomes one from the front."""
    return Poses(poses.positions * np.array((-1, 1), np.float32), poses.joints)


def swap_sides(poses: Poses) -> Poses:
    """Left and right of the body exchanged."""
    order = np.arange(len(poses.joints)).reshape(-1, len(OTHER_SIDE))[:, OTHER_SIDE].ravel()
    return Poses(poses.positions[:, order], poses.joints[order])


def mirror_and_swap(poses: Poses) -> Poses:
    """The video as a mirror shows it: a left-handed person becomes right-handed."""
    return swap_sides(mirror(poses))


NO_FLIP: tuple[Transform, ...] = (unchanged,)
FOUR_FLIPS: tuple[Transform, ...] = (unchanged, mirror_and_swap, mirror, swap_sides)


def pose_distance(query: Poses, other: Poses, *, flips: Sequence[Transform] = NO_FLIP) -> Float[np.ndarray, "n m"]:
    """Squared distance between the frames of two videos, the mean over the joints that both have.

    Of several flips of the query the one is taken whose frames lie closest to their nearest neighbours, on average;
    of equals, the first. Flips with fewer than three joints in common with the other video are infinitely far.

    Args:
      query: N frames, to which the flips are applied.
      other: M frames with as many joints.
      flips: transforms to choose from.

    Returns:
      Distances in squared units of the positions, float64.

    Raises:
      ValueError: different numbers of joints, no frame, or no flip.
    """
    if query.joints.shape != other.joints.shape:
        raise ValueError(f"the videos have {len(query.joints)} and {len(other.joints)} joints; use the same features")
    if not (len(query.positions) and len(other.positions) and flips):
        raise ValueError(
            f"need a frame of both videos and a flip, got {len(query.positions)} and {len(other.positions)} frames "
            f"and {len(flips)} flips"
        )
    rows, joints = _rows(query, flips)
    shared = joints @ other.joints.astype(np.float64)
    distance = np.maximum(rows @ _columns(other).T, 0) / np.maximum(shared, 1)[:, None, None]
    distance[shared < MIN_SHARED_JOINTS] = np.inf
    return distance[np.argmin(distance.min(axis=2).mean(axis=1))]


def pose_neighbours(videos: Sequence[Poses], *, flips: Sequence[Transform] = NO_FLIP) -> list[Int[np.ndarray, " _"]]:
    """Nearest neighbours by `pose_distance` for all ordered pairs of videos, as Kendall's tau needs them.

    The same as one call a pair and `nearest_neighbours`, many times faster.

    Args:
      videos: poses with the same joints, sampled as wanted.
      flips: transforms of the reference to choose from, pair by pair.

    Returns:
      For each pair of a reference and another video, reference by reference, the frame of the other video nearest
      to every frame of the reference; the first of several, and frame 0 for a pair that cannot be compared.

    Raises:
      ValueError: different numbers of joints, a video without frames, or no flip.
    """
    counts = [len(video.joints) for video in videos]
    lengths = np.asarray([len(video.positions) for video in videos], np.int64)
    if len(set(counts)) != 1 or not lengths.all() or not flips:
        raise ValueError(
            f"need videos of the same joints, a frame of each and a flip; got {sorted(set(counts))} joints, "
            f"{lengths.tolist()[:9]} frames and {len(flips)} flips"
        )
    columns = np.concatenate([_columns(video) for video in videos]).T
    joints_of_all = np.stack([video.joints for video in videos], axis=1).astype(np.float64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    neighbours = []
    for i, video in enumerate(videos):
        rows, joints = _rows(video, flips)
        total = np.maximum(rows @ columns, 0)
        shared = joints @ joints_of_all
        nearest = np.minimum.reduceat(total, starts, axis=2).mean(axis=1) / np.maximum(shared, 1)
        nearest[shared < MIN_SHARED_JOINTS] = np.inf
        best = np.argmin(nearest, axis=0)
        for j, flip in enumerate(best):
            if j != i and nearest[flip, j] < np.inf:
                neighbours.append(np.argmin(total[flip, :, starts[j] : ends[j]], axis=1))
            elif j != i:
                neighbours.append(np.zeros(len(video.positions), np.int64))
    return neighbours


# |x|^2 - 2 x y + |y|^2 summed over the joints that both have, as one matrix product, since positions of masked joints
# are 0: what the query gives is [|x|^2, mask of x, -2 x], and what the other video gives [mask of y, |y|^2, y].


def _rows(query: Poses, flips: Sequence[Transform]) -> tuple[np.ndarray, np.ndarray]:
    """For every flip the query's part, (F, N, 4 K), and its joints, (F, K)."""
    x, joints = (np.stack(parts).astype(np.float64) for parts in zip(*(flip(query) for flip in flips), strict=True))
    mask = np.repeat(joints[:, None], x.shape[1], axis=1)
    return np.concatenate([(x * x).sum(axis=-1), mask, -2 * _flat(x)], axis=-1), joints


def _columns(other: Poses) -> np.ndarray:
    """The other video's part, (M, 4 K)."""
    y = other.positions.astype(np.float64)
    mask = np.repeat(other.joints.astype(np.float64)[None], len(y), axis=0)
    return np.concatenate([mask, (y * y).sum(axis=-1), _flat(y)], axis=-1)


def _flat(positions: np.ndarray) -> np.ndarray:
    """(..., K, 2) to (..., 2 K)."""
    return positions.reshape(*positions.shape[:-2], -1)


def _beside(poses: Poses, *positions: np.ndarray) -> Poses:
    return Poses(np.concatenate(positions, axis=1), np.tile(poses.joints, len(positions)))
