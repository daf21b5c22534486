"""Instances of training videos with start and end: what a student is taught, and how sure it is.

A teacher's proposals are fused; what is left is an instance, doubtful or background, by its score beside the best one
of its class in its video, and weighs the less the less its members agree on start and end.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from casejax.array_types import Array, Bool, Float, Int


class Instances(NamedTuple):
    """Up to M instances of each of V videos.

    Attributes:
      segments: (V, M, 2) start and end, snippets of the video.
      labels: (V, M) int32, classes.
      weights: (V, M) how much each counts; 0 for one that is doubtful, which is neither an instance nor background.
      mask: (V, M) True for real instances.
      made: int32, how often they have been made.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import labels
      >>> found = labels.Instances.empty(1, 2)._replace(
      ...     segments=jnp.array([[[2.0, 5.0], [8.0, 16.0]]]), weights=jnp.ones((1, 2)), mask=jnp.ones((1, 2), bool)
      ... )
      >>> seen = found.seen(jnp.array([0]), jnp.arange(0, 10)[None])  # of the second, a quarter is in the batch
      >>> print(seen.segments[0].tolist(), seen.weights[0])
      [[2.0, 5.0], [8.0, 10.0]] [1. 0.]
    """

    segments: Float[Array, "v m 2"]
    labels: Int[Array, "v m"]
    weights: Float[Array, "v m"]
    mask: Bool[Array, "v m"]
    made: Int[Array, ""]

    @classmethod
    def empty(cls, num_videos: int, most: int) -> Instances:
        """Room for `most` instances of each video, before any is made."""
        shape = num_videos, most
        return cls(
            jnp.zeros((*shape, 2)),
            jnp.zeros(shape, jnp.int32),
            jnp.zeros(shape),
            jnp.zeros(shape, bool),
            jnp.zeros((), jnp.int32),
        )

    def seen(self, videos: Int[Array, " b"], snippets: Int[Array, "b t"]) -> Instances:
        """Those of a batch, in its own T snippets, which follow each other; half of one outside makes it doubtful.

        Args:
          videos: (B,) which videos.
          snippets: (B, T) which of their snippets, consecutive up to the end of the video.
        """
        first, stop = snippets[:, 0][:, None], snippets[:, -1][:, None] + 1
        segments, weights, mask = self.segments[videos], self.weights[videos], self.mask[videos]
        whole = segments[..., 1] - segments[..., 0]
        cut = jnp.clip(segments, first[..., None], stop[..., None])
        left = cut[..., 1] - cut[..., 0]
        weights = jnp.where(left >= whole / 2, weights, 0.0)
        cut = jnp.where(mask[..., None], cut - first[..., None], 0.0)
        return Instances(cut, self.labels[videos], weights, mask & (left > 0), self.made)


class Kept(NamedTuple):
    """What became of fused instances.

    Attributes:
      weights: (n,) of each, in (0, 1]; 0 for one that is doubtful.
      taken: (n,) whether it takes part: kept or doubtful; the others are background.
    """

    weights: np.ndarray
    taken: np.ndarray


def keep_instances(
    segment: Float[np.ndarray, "n 2"],
    score: Float[np.ndarray, "n"],
    spread: Float[np.ndarray, "n 2"],
    group: Int[np.ndarray, "n"],
    *,
    keep: float = 0.5,
    doubt: float = 0.1,
    spread_weight: float = 2.0,
) -> Kept:
    """Which fused instances are taught, and with what weight.

    With r the score as a share of the best of its group, an instance is kept from r >= keep, ignored from r >= doubt,
    and background below. Its weight is r exp(-spread_weight u), with u the mean spread of start and end in lengths.

    Args:
      segment: start and end, any unit.
      score: their scores; a group whose best is not above 0 has no instance that is kept.
      spread: uncertainty of start and end, in that unit.
      group: one group a video and class.
      keep: share of the best score from which one is kept.
      doubt: share from which one is ignored.
      spread_weight: how fast uncertainty lowers the weight.
    """
    if not len(score):
        return Kept(np.empty(0), np.empty(0, bool))
    _, owner = np.unique(group, return_inverse=True)
    best = np.full(owner.max() + 1, -np.inf)
    np.maximum.at(best, owner, score)
    share = np.where(best[owner] > 0, score / np.where(best[owner] > 0, best[owner], 1), 0.0)
    length = np.maximum(segment[:, 1] - segment[:, 0], 1e-9)
    sure = np.exp(-spread_weight * spread.mean(axis=1) / length)
    weights = np.where(share >= keep, np.maximum(share * sure, 1e-3), 0.0)
    return Kept(weights, share >= doubt)
