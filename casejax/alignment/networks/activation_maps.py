"""Class-activation maps: where in an image an embedding comes from (Sec. 7 of the supplement of GTA)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Float


def class_activation(
    feature_map: Float[Array, "b t k h w c"], *, size: tuple[int, int], slot: int = -1
) -> Float[Array, "b t h2 w2"]:
    """Heat maps of the frames of a video, each in [0, 1].

    The mean over the channels, stretched to [0, 1] frame by frame, then enlarged bilinearly to the size of the
    image.

    Args:
      feature_map: (B, T, K, H, W, C) of the last convolution, `ConvEmbedder.feature_map`.
      size: height and width of the maps, those of the images.
      slot: which of the K context frames to show. The last is the frame itself; the published program shows the
        first, an older frame.

    Returns:
      (B, T, *size); 0 everywhere where the mean is the same everywhere.

    Raises:
      ValueError: a size below 1, or no such context frame.
    """
    num_context = feature_map.shape[2]
    if min(size) < 1:
        raise ValueError(f"size must be a height and a width of at least 1, got {size}")
    if not -num_context <= slot < num_context:
        raise ValueError(f"slot must be one of {num_context} context frames, got {slot}")
    mean = feature_map[:, :, slot].astype(jnp.float32).mean(axis=-1)
    low = mean.min(axis=(2, 3), keepdims=True)
    span = mean.max(axis=(2, 3), keepdims=True) - low
    # What round-off leaves of a constant map must not be blown up to the whole range.
    varies = span > 1e-6 * jnp.abs(low)
    stretched = jnp.where(varies, (mean - low) / jnp.where(varies, span, 1), 0)
    return jax.image.resize(stretched, (*mean.shape[:2], *size), method="bilinear")


def overlay(
    images: Float[Array, "*b h w 3"], heat: Float[Array, "*b h w"], *, opacity: float = 0.5
) -> Float[Array, "*b h w 3"]:
    """Images under a heat map: blue where it is 0, by way of cyan, green and yellow, to red where it is 1.

    Args:
      images: RGB in [0, 1].
      heat: in [0, 1], `class_activation` of the images.
      opacity: share of the heat map in the sum, in [0, 1].

    Raises:
      ValueError: an opacity out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}")
    distance = [jnp.abs(4 * heat - centre) for centre in (3, 2, 1)]  # of red, green and blue
    colours = jnp.clip(1.5 - jnp.stack(distance, axis=-1), 0, 1)
    return (1 - opacity) * images + opacity * colours
