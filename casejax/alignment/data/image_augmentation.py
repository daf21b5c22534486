"""Random changes of pictures that leave the action what it is: mirrored, brighter or darker, more or less contrast."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Float, Key


def augment_images(
    images: Float[Array, "b t k h w 3"],
    key: Key[Array, ""],
    *,
    brightness: float = 32 / 255,
    contrast: tuple[float, float] = (0.5, 1.5),
) -> Float[Array, "b t k h w 3"]:
    """Change every video as a whole, as the published program of GTA does.

    Args:
      images: (B, T, K, H, W, 3) RGB in [0, 1].
      key: draws differ with it.
      brightness: greatest change of all values, to both sides.
      contrast: least and greatest factor of the distance to a picture's mean colour.

    Returns:
      Pictures in [0, 1], mirrored with probability one half. Brightness and contrast may come in either order: the
      result is the same.
    """
    flip_key, brightness_key, contrast_key = jax.random.split(key, 3)
    each = (len(images), 1, 1, 1, 1, 1)
    images = jnp.where(jax.random.bernoulli(flip_key, shape=each), images[..., ::-1, :], images)
    shift = jax.random.uniform(brightness_key, each, minval=-brightness, maxval=brightness)
    factor = jax.random.uniform(contrast_key, each, minval=contrast[0], maxval=contrast[1])
    mean = images.mean(axis=(-3, -2), keepdims=True)
    return jnp.clip(mean + factor * (images - mean) + shift, 0, 1)
