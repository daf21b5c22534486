"""Poses made comparable between videos, and features of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from casejax.array_types import Bool, Float, Int
from casejax.data.penn_action import JOINTS, PoseTrack

SHOULDERS, HIPS = (1, 2), (7, 8)
OTHER_SIDE = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11)
"""For every joint, the same one of the other side of the body."""

_TORSO_OF_DIAGONAL = 0.33  # a torso's length as a share of the bounding box's diagonal, where it cannot be measured
_SHORTEST_TORSO = 0.2  # as a share of that estimate; a shorter one is foreshortened beyond use


class Poses(NamedTuple):
    """Poses of a video, a row a frame, of K joints; features of several frames have several times 13."""

    positions: Float[np.ndarray, "t k 2"]  # 0 where the joint is masked
    joints: Bool[np.ndarray, " k"]  # True = a joint the video shows at some time

    def frames(self, index: slice | Int[np.ndarray, " _"]) -> Poses:
        """Some of the frames, in the order of `index`."""
        return Poses(self.positions[index], self.joints)


def normalise_pose(track: PoseTrack) -> Poses:
    """Poses relative to the hips, in units of the torso's length.

    A joint is followed in a straight line through the frames that do not show it, and stays where it was first or
    last seen outside of them; a joint that no frame shows is masked. The origin is the mean of the hips, in every
    frame, or the middle of the bounding box in a video without hips. The unit is the median, over the video, of the
    distance between the means of the visible shoulders and of the visible hips; where no frame shows both, or where it
    is below a fifth of the estimate that takes its place then, 0.33 of the median diagonal of the bounding box.

    Args:
      track: T frames of a video.

    Returns:
      T poses of 13 joints, float32.

    Example:
      >>> import numpy as np
      >>> from casejax import data
      >>> joints, seen, box = np.arange(26.0).reshape(1, 13, 2), np.ones((1, 13), bool), np.ones((1, 4))
      >>> track = data.PoseTrack("1", "bowl", True, "front", joints, seen, box, (64, 64))
      >>> poses = data.normalise_pose(track)
      >>> hips = poses.positions[0, 7:9]  # they are the origin
      >>> bool(np.abs(hips.mean(0)).max() < 1e-6)
      True
    """
    joints = np.asarray(track.visible.any(axis=0))
    positions = _interpolate(track.positions, track.visible)
    hips = [joint for joint in HIPS if joints[joint]]
    box = track.bbox.astype(np.float64).reshape(-1, 2, 2)
    centre = (positions[:, hips] if hips else box).mean(axis=1)
    scale = _TORSO_OF_DIAGONAL * float(np.median(np.linalg.norm(box[:, 1] - box[:, 0], axis=-1)))
    torso = _torso_lengths(positions, track.visible)
    if len(torso) and np.median(torso) >= _SHORTEST_TORSO * scale:
        scale = float(np.median(torso))
    positions = (positions - centre[:, None]) / (scale if scale > 0 else 1.0) * joints[:, None]
    return Poses(positions.astype(np.float32), joints)


def pose_features(track: PoseTrack) -> Float[np.ndarray, "t 39"]:
    """A vector a frame to learn from: 13 normalised joints as x, y, x, y, ... and then which joints there are.

    Masked joints are 0 in both parts. The units are torso lengths.

    Example:
      >>> import numpy as np
      >>> from casejax import data
      >>> joints, seen, box = np.arange(26.0).reshape(1, 13, 2), np.ones((1, 13), bool), np.ones((1, 4))
      >>> track = data.PoseTrack("1", "bowl", True, "front", joints, seen, box, (64, 64))
      >>> data.pose_features(track).shape
      (1, 39)
    """
    poses = normalise_pose(track)
    flat = poses.positions.reshape(len(track), -1)
    mask = np.broadcast_to(poses.joints.astype(np.float32), (len(track), len(JOINTS)))
    return np.concatenate([flat, mask], axis=1)


def raw_features(track: PoseTrack) -> Float[np.ndarray, "t 26"]:
    """Pixels over the size of the picture, visible or not: the crudest of controls."""
    return (track.positions / np.array(track.image_size, np.float32)).reshape(len(track), -1)


def _interpolate(positions: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Fill every joint linearly over time from the frames that show it, float64; 0 for a joint never shown."""
    time = np.arange(len(positions))
    filled = np.zeros(positions.shape)
    for joint in np.flatnonzero(visible.any(axis=0)):
        known = np.flatnonzero(visible[:, joint])
        for axis in range(2):
            filled[:, joint, axis] = np.interp(time, known, positions[known, joint, axis])
    return filled


def _torso_lengths(positions: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """From the mean of the visible shoulders to that of the visible hips, in the frames that show some of both."""
    ends = []
    for pair in (SHOULDERS, HIPS):
        weight = visible[:, pair].astype(np.float64)
        total = (positions[:, pair] * weight[:, :, None]).sum(axis=1)
        ends.append(total / np.maximum(weight.sum(axis=1), 1)[:, None])
    there = visible[:, SHOULDERS].any(axis=1) & visible[:, HIPS].any(axis=1)
    return np.linalg.norm(ends[0] - ends[1], axis=-1)[there]
