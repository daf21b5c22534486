"""Random changes of pose features that leave the action what it is: mirrored, with sides exchanged, imprecise."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Float, Key
from casejax.data.poses import OTHER_SIDE

NUM_JOINTS = len(OTHER_SIDE)


def augment_poses(
    features: Float[Array, "b t k f"], key: Key[Array, ""], *, flip: bool = True, noise: float = 0.02
) -> Float[Array, "b t k f"]:
    """Mirror each video or not, exchange its left and right joints or not, and shake its joints.

    Mirroring alone turns a view from the front into one from behind; with the sides exchanged it turns a right-handed
    player into a left-handed one.

    Args:
      features: (B, T, K, 39) features of B videos, `poses.pose_features`: joint positions, then which of them count.
      key: draws differ with it; all frames of a video are flipped alike.
      flip: whether to mirror and exchange at all.
      noise: standard deviation of the shaking, in torso lengths.
    """
    batch = features.shape[0]
    positions = features[..., : 2 * NUM_JOINTS].reshape(*features.shape[:-1], NUM_JOINTS, 2)
    mask = features[..., 2 * NUM_JOINTS :]
    mirror_key, swap_key, noise_key = jax.random.split(key, 3)
    if flip:
        sign = jnp.where(jax.random.bernoulli(mirror_key, shape=(batch, 1, 1, 1)), -1.0, 1.0)
        positions = jnp.stack([positions[..., 0] * sign, positions[..., 1]], axis=-1)
        swap = jax.random.bernoulli(swap_key, shape=(batch, 1, 1, 1))
        positions = jnp.where(swap[..., None], positions[..., OTHER_SIDE, :], positions)
        mask = jnp.where(swap, mask[..., OTHER_SIDE], mask)
    shaken = positions + noise * jax.random.normal(noise_key, positions.shape)
    positions = jnp.where(mask[..., None] > 0, shaken, 0)
    return jnp.concatenate([positions.reshape(*features.shape[:-1], -1), mask], axis=-1)
