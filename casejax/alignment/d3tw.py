"""D3TW*: a video aligns better with the whole of another one than with what is left after portions were cut from it.

Chang et al., "D3TW: Discriminative Differentiable Dynamic Time Warping for Weakly Supervised Action Alignment and
Segmentation", CVPR 2019, aligns frames with transcripts of labels, some of which it drops for its negatives. The form
for two videos is the baseline of GTA (supplement, section 2), which leaves open the cost, the hinge and how much is cut
out; those are our choices.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from casejax.alignment.gta import contrastive_cost
from casejax.alignment.pairwise import real_pairs
from casejax.alignment.soft_min import Minimum, min_gamma
from casejax.alignment.warping import dtw_of_batch
from casejax.array_types import Array, Bool, Float
from casejax.arrays.arguments import takes

Cost = Callable[..., jax.Array]
"""A function (x, y, *, x_mask=None, y_mask=None) of (..., N, D) and (..., M, D) that gives (..., N, M) costs."""


@takes()
def d3tw_loss(
    x: Float[Array, "*b n d"],
    positive: Float[Array, "*b m d"],
    negative: Float[Array, "*b k d"],
    *,
    x_mask: Bool[Array, "*b n"] | None = None,
    positive_mask: Bool[Array, "*b m"] | None = None,
    negative_mask: Bool[Array, "*b k"] | None = None,
    margin: float | Float[Array, ""] = 1.0,
    minimum: Minimum = min_gamma,
    gamma: float | Float[Array, ""] = 0.1,
    cost: Cost = contrastive_cost,
) -> Float[Array, "*b"]:
    """Hinge on the accumulated costs: aligning with the positive is cheaper than with the negative, by a margin.

    Args:
      x: (..., N, D) embeddings of one video, of unit norm for the default cost.
      positive: (..., M, D) those of another video of the same action, sampled from the whole of it.
      negative: (..., K, D) those of the other video without some portions, `sampling.frames_without_portions`. K
        should be M, or the accumulated costs aren't comparable.
      x_mask: True for real frames, which come first; default all.
      positive_mask: the same of the positive.
      negative_mask: the same of the negative.
      margin: in units of the accumulated cost.
      minimum: relaxation of the minimum inside DTW.
      gamma: its smoothing, in units of the cost.
      cost: `gta.contrastive_cost`, with another temperature by `functools.partial`, or `pairwise.squared_distance`.

    Returns:
      (...) losses, 0 with zero gradient where the margin is kept or one of the three has no real frame.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> x = jnp.eye(4)
      >>> float(alignment.d3tw_loss(x, x, x[::-1])), round(float(alignment.d3tw_loss(x, x, x)), 3)
      (0.0, 1.0)
    """

    def accumulated(y: Array, y_mask: Array | None) -> Array:
        costs = cost(x, y, x_mask=x_mask, y_mask=y_mask)
        return dtw_of_batch(costs, x_mask=x_mask, y_mask=y_mask, minimum=minimum, gamma=gamma)

    loss = accumulated(positive, positive_mask) - accumulated(negative, negative_mask)
    loss = jax.nn.relu(loss + jnp.asarray(margin, loss.dtype))
    return jnp.where(real_pairs(x_mask, positive_mask) & real_pairs(x_mask, negative_mask), loss, 0)
