"""."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    pass


def unit(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Vectors of length 1 along the last axis; zero vectors stay zero, with a gradient of zero."""
    return x * inverse_norm(x)


def inverse_norm(x: Float[Array, "*n d"]) -> Float[Array, "*n 1"]:
    """One over the Euclidean norm along the last axis; 0 for vectors shorter than 1e-12."""
    squared = (x * x).sum(axis=-1, keepdims=True)
    long_enough = squared > 1e-24
    return jnp.where(long_enough, jax.lax.rsqrt(jnp.where(long_enough, squared, 1)), 0)


@jax.custom_jvp
def guarded_arccos(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Inverse cosine in radians: what rounding put beyond ±1 is read as ±1, and the slope stays finite.

    Values are exact everywhere. The slope -1 / sqrt(1 - x^2) is that of the last number before ±1 at the steepest.
    """
    return jnp.arccos(jnp.clip(x, -1, 1))


@guarded_arccos.defjvp
def _guarded_arccos_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    squared_sine = jnp.maximum((1 - x) * (1 + x), jnp.finfo(x.dtype).eps)
    return guarded_arccos(x), -dx * jax.lax.rsqrt(squared_sine)


def angular_distance(features: Float[Array, "*n d"], centers: Float[Array, "c _"]) -> Float[Array, "*n c"]:
    """Angle between every feature and every center, in radians, in [0, pi].

    A vector of zeros stands at right angles to everything and has a gradient of zero.

    Raises:
      ValueError: centers of another dimension than the features.
    """
    _check_dimensions(features, centers)
    return guarded_arccos(_cosines(features, centers))


def _angle(x: Array, y: Array) -> Array:
    return guarded_arccos((unit(x) * unit(y)).sum(axis=-1))


def _cosines(features: Array, centers: Array) -> Array:
    return jnp.einsum("...d,cd->...c", unit(features), unit(centers), precision="highest")


def _check_dimensions(features: Array, centers: Array) -> None:
    if features.shape[-1] != centers.shape[-1]:
        raise ValueError(
            f"centers must have the dimension of the features, got features {features.shape} and centers "
            f"{centers.shape}"
        )
