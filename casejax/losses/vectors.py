"""Directions and angles: unit vectors and inverse cosines whose gradients stay finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float
from casejax.arrays.arguments import takes


@takes()
def unit(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Vectors of length 1 along the last axis; zero vectors stay zero, with a gradient of zero.

    From a length of 1.8e19 on, whose square is beyond float32, a vector becomes 0 and its gradient means nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> print(np.asarray(losses.unit(jnp.array([[3.0, 4.0], [0.0, 0.0]]))).round(3))
      [[0.6 0.8]
       [0.  0. ]]
    """
    return x * inverse_norm(x)


@takes()
def norm(x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Euclidean norm along the last axis; 0, with a gradient of zero, for vectors shorter than 1e-12.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> print(losses.norm(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
      [5. 0.]
      >>> print(jax.grad(losses.norm)(jnp.zeros(2)))  # that of jnp.linalg.norm is NaN here
      [0. 0.]
    """
    squared, long_enough = _squared_norm(x)
    return jnp.where(long_enough, jnp.sqrt(squared), 0)[..., 0].astype(x.dtype)


@takes()
def inverse_norm(x: Float[Array, "*n d"]) -> Float[Array, "*n 1"]:
    """One over the Euclidean norm along the last axis; 0 for vectors shorter than 1e-12.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> print(np.asarray(losses.inverse_norm(jnp.array([[3.0, 4.0], [0.0, 0.0]]))).round(3))
      [[0.2]
       [0. ]]
    """
    squared, long_enough = _squared_norm(x)
    return jnp.where(long_enough, jax.lax.rsqrt(squared), 0).astype(x.dtype)


def _squared_norm(x: Float[Array, "*n d"]) -> tuple[Float[Array, "*n 1"], Bool[Array, "*n 1"]]:
    """The squared norm, or 1 where the vector is too short to have a direction, and whether it is long enough."""
    if x.dtype == jnp.float16:  # whose squares overflow from 256 on
        x = x.astype(jnp.float32)
    squared = (x * x).sum(axis=-1, keepdims=True)
    long_enough = ~(squared <= 1e-24)  # NaN stays NaN
    return jnp.where(long_enough, squared, 1), long_enough


@takes()
def guarded_arccos(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Inverse cosine in radians: numbers that rounding put beyond ±1 are read as ±1, and the slope stays finite.

    The values are exact. The slope -1 / sqrt(1 - x^2) is never steeper than at the last number before ±1.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> cosines = jnp.array([1.0000001, 0.0, -1.0])  # the first by rounding
      >>> print(np.asarray(jnp.degrees(losses.guarded_arccos(cosines))).round(2))
      [  0.  90. 180.]
    """
    return _guarded_arccos(x)


@jax.custom_jvp
def _guarded_arccos(x: Array) -> Array:
    return jnp.arccos(jnp.clip(x, -1, 1))


@_guarded_arccos.defjvp
def _guarded_arccos_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    squared_sine = jnp.maximum((1 - x) * (1 + x), jnp.finfo(x.dtype).eps)
    return _guarded_arccos(x), -dx * jax.lax.rsqrt(squared_sine)


@takes()
def angular_distance(features: Float[Array, "*n d"], centers: Float[Array, "c d"]) -> Float[Array, "*n c"]:
    """Angle between every feature and every center, in radians, in [0, pi].

    A vector of zeros stands at right angles to everything and has a gradient of zero.

    Raises:
      ValueError: centers of another dimension than the features.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> centers = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, -2.0]])
      >>> print(np.asarray(jnp.degrees(losses.angular_distance(jnp.array([[0.0, 3.0]]), centers))).round(2))
      [[ 90.  45. 180.]]
    """
    return guarded_arccos(_cosines(features, centers))


def _angle(x: Array, y: Array) -> Array:
    """Angle between vectors of two arrays, pair by pair."""
    return guarded_arccos((unit(x) * unit(y)).sum(axis=-1))


def _cosines(features: Array, centers: Array) -> Array:
    return jnp.einsum("...d,cd->...c", unit(features), unit(centers), precision="highest")
