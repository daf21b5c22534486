"""The student's losses, one value a location, for the caller to weigh and to sum."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Float
from casejax.methods.contract import Number


def focal_loss(
    logits: Float[Array, "*n"], targets: Float[Array, "*n"], *, alpha: Number = 0.25, gamma: Number = 2.0
) -> Float[Array, "*n"]:
    """Sigmoid focal loss: -alpha_t (1 - p_t)^gamma log p_t (Lin et al., ICCV 2017, Eq. 5).

    Args:
      logits: of which the sigmoid is p.
      targets: zeros and ones: p_t is p for a one and 1 - p for a zero, alpha_t is alpha and 1 - alpha.
      alpha: weight of ones.
      gamma: how fast what is told apart already loses its say.
    """
    signed = jnp.where(targets > 0, logits, -logits)
    balance = jnp.where(targets > 0, alpha, 1 - alpha)
    # (1 - p_t)^gamma from its logarithm, so that no derivative of a power of 0 is asked for
    return -balance * jnp.exp(gamma * jax.nn.log_sigmoid(-signed)) * jax.nn.log_sigmoid(signed)


def diou_loss(offsets: Float[Array, "*n 2"], targets: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    """Distance-IoU loss of segments around one location: 1 - IoU + (distance of middles / length of the hull)^2.

    Zheng et al., "Distance-IoU Loss", AAAI 2020, Eqs. 5 to 7, in one dimension.

    Args:
      offsets: distances to start and end, not below 0.
      targets: the same of the true segment, whose length is above 0. Where it is 0, the loss is 0.
    """
    real = (targets > 0).any(axis=-1)
    targets = jnp.where(real[..., None], targets, 1.0)
    shared = jnp.minimum(offsets, targets).sum(axis=-1)
    hull = jnp.maximum(offsets, targets).sum(axis=-1)
    # Both segments contain the location, so that their hull is their union.
    apart = ((offsets - targets)[..., 1] - (offsets - targets)[..., 0]) / 2
    return jnp.where(real, 1 - shared / hull + (apart / hull) ** 2, 0.0)
