"""TCN: frames that are close in time lie close together, others of the same video apart.

Sermanet et al., "Time-Contrastive Networks: Self-Supervised Learning from Video", ICRA 2018.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from casejax.alignment.pairwise import inner_product, mean_of_real, without_padding
from casejax.array_types import Array, Bool, Float
from casejax.arrays.arguments import takes


@takes()
def tcn_npairs_loss(
    anchors: Float[Array, "*b t d"],
    positives: Float[Array, "*b t d"],
    *,
    mask: Bool[Array, "*b t"] | None = None,
    regularisation: float | Float[Array, ""] = 0.002,
) -> Float[Array, "*b"]:
    """Single-view loss: each anchor must pick its own positive among all positives of the video.

    The published form: logits are inner products without normalisation or temperature, and what keeps embeddings
    from growing is a penalty on their squared norms. Nothing prevents a negative from lying inside the window from
    which the positive was drawn.

    Args:
      anchors: (..., T, D) embeddings of the earlier frames of `sampling.tcn_pairs`, as published.
      positives: (..., T, D) those of the later frames.
      mask: True for real pairs; default all.
      regularisation: a quarter of it weighs the mean squared norm of the anchors plus that of the positives.

    Returns:
      (...) losses, one a video, means over its real pairs.

    References:
      Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NeurIPS 2016.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> round(float(alignment.tcn_npairs_loss(jnp.zeros((4, 2)), jnp.zeros((4, 2)))), 3)  # log 4: any of the four
      1.386
    """
    anchors, positives = without_padding(anchors, mask), without_padding(positives, mask)
    logits = inner_product(anchors, positives)
    if mask is not None:
        # the lowest finite logit: rows of a video without a real pair stay free of NaN
        logits = jnp.where(mask[..., None, :], logits, jnp.finfo(logits.dtype).min)
    hits = jnp.diagonal(jax.nn.log_softmax(logits), axis1=-2, axis2=-1)
    norms = (anchors**2).sum(axis=-1) + (positives**2).sum(axis=-1)
    return mean_of_real(jnp.asarray(0.25 * regularisation, norms.dtype) * norms - hits, mask)


@takes()
def tcn_triplet_loss(
    anchors: Float[Array, "*b d"],
    positives: Float[Array, "*b d"],
    negatives: Float[Array, "*b d"],
    *,
    margin: float | Float[Array, ""] = 0.2,
) -> Float[Array, "*b"]:
    """The original loss: a positive is nearer to the anchor than a negative, in squared distance, by a margin.

    With several cameras the positive is the anchor's moment seen by another one, and the negative another moment seen
    by the same. With one camera the positive is a frame close in time and the negative a frame outside a wider window.

    Args:
      anchors: (..., D) embeddings.
      positives: (..., D).
      negatives: (..., D).
      margin: in units of the squared distance.

    Returns:
      (...) losses, 0 with zero gradient where the margin is kept.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> anchor, near, far = jnp.zeros(2), jnp.array([0.1, 0.0]), jnp.array([0.3, 0.0])
      >>> round(float(alignment.tcn_triplet_loss(anchor, near, far, margin=0.2)), 2)  # 0.01 - 0.09 + 0.2
      0.12
    """
    near = ((anchors - positives) ** 2).sum(axis=-1)
    far = ((anchors - negatives) ** 2).sum(axis=-1)
    return jax.nn.relu(near - far + jnp.asarray(margin, near.dtype))
