"""SpeedNet: tell clips of normal speed from clips that were sped up.

Benaim et al., "SpeedNet: Learning the Speediness in Videos", CVPR 2020. The clips are drawn by
`sampling.speed_clips`, the classifier is `casejax.alignment.networks.heads.SpeedHead`. The original network sees all
frames of a clip at once; as a baseline for embeddings of single frames `clip_features` sums a clip up, which is ours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float, Int
from casejax.arrays.arguments import check_index, takes


@takes()
def clip_features(
    embeddings: Float[Array, "*b t d"], *, mask: Bool[Array, "*b t"] | None = None
) -> Float[Array, "*b e"]:
    """A clip's mean embedding, and how much its embeddings change from frame to frame; the latter shows the speed.

    Args:
      embeddings: (..., T, D) of frames in the order of time.
      mask: True for real frames; default all. A change counts where both of its frames are real.

    Returns:
      (..., 2 D): temporal mean, then mean absolute difference of successive frames; 0 where there is no frame or
      no change to average.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> alignment.clip_features(jnp.array([[0.0], [2.0], [4.0]]))  # mean, then change a frame
      Array([2., 2.], dtype=float32)
    """
    shown = jnp.ones(embeddings.shape[:-1], bool) if mask is None else mask
    shown = shown[..., None]
    embeddings = jnp.where(shown, embeddings, 0)
    both = shown[..., 1:, :] & shown[..., :-1, :]
    change = jnp.where(both, jnp.abs(embeddings[..., 1:, :] - embeddings[..., :-1, :]), 0)
    count, changes = (jnp.maximum(x.sum(axis=-2), 1).astype(embeddings.dtype) for x in (shown, both))
    mean = embeddings.sum(axis=-2) / count
    return jnp.concatenate([mean, change.sum(axis=-2) / changes], axis=-1)


@takes()
def speednet_loss(logits: Float[Array, "*b"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Binary cross-entropy.

    Args:
      logits: (...) of being sped up.
      labels: (...) 1 for clips that were sped up, else 0.

    Returns:
      (...) losses, one a clip.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> alignment.speednet_loss(jnp.array([0.0, 4.0]), jnp.array([0, 1])).round(2)
      Array([0.69, 0.02], dtype=float32)
    """
    check_index(labels, "labels", 2)
    return jax.nn.softplus(jnp.where(labels == 1, -logits, logits))
