"""How sure a difference of two methods is that ran with the same seeds on the same videos."""

from __future__ import annotations

import math

import numpy as np

from casejax.array_types import Float
from casejax.localize.arguments import takes


@takes("differences")
def sign_test(differences: Float[np.ndarray, " n"]) -> float:
    """Two-sided p-value of the exact sign test: how likely signs at least as uneven are if either is a coin's toss.

    Args:
      differences: of the pairs; those that are 0 say nothing and are left out.

    Returns:
      In (0, 1]; 1 without a pair that differs. Five pairs of one sign give 1/16, six give 1/32.

    Raises:
      ValueError: NaN.

    References:
      Dixon and Mood, "The Statistical Sign Test", JASA 41, 1946.
    """
    ahead, behind = int((differences > 0).sum()), int((differences < 0).sum())
    pairs = ahead + behind
    tail = sum(math.comb(pairs, k) for k in range(min(ahead, behind) + 1))
    return min(1.0, 2 * tail / 2**pairs)


@takes("values")
def resample_seeds(values: Float[np.ndarray, "s r"], *, seed: int = 0) -> Float[np.ndarray, " r"]:
    """Means over seeds that are drawn anew, with replacement: a bootstrap over videos becomes one over both.

    With the columns of `Bootstrap.mean_ap` of S runs, or their differences in S pairs, the result varies as much as
    the mean over S other seeds on other videos would.

    Args:
      values: a row a seed, a column a resample of the videos, the same videos in all rows.
      seed: of the draws.

    Returns:
      For each resample the mean over the seeds that it drew.

    Raises:
      ValueError: no seed, or NaN.
    """
    count, resamples = values.shape
    if not count:
        raise ValueError("a mean over seeds needs at least one, got 0 rows")
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return (drawn * values.T).sum(axis=1) / count
