"""Anderson acceleration of the logarithms of the column scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

MEMORY = 6
"""Past iterations that Anderson acceleration uses."""


class Memory(NamedTuple):
    """What the acceleration remembers of the points that it went through.

    Attributes:
      results: (M, K) differences of successive results of an iteration.
      residuals: (M, K) differences of successive residuals, result less argument.
      residual: (K,) the last residual.
      correction: (K,) what was added to the last result.
    """

    results: Float[Array, "m k"]
    residuals: Float[Array, "m k"]
    residual: Float[Array, " k"]
    correction: Float[Array, " k"]


def remember(memory: Memory, residual: Float[Array, " k"], useful: Bool[Array, ""]) -> Memory:
    """The memory with this residual added, and the correction that it gives; an empty one where it is not useful.

    Only differences are kept, so that large potentials lose no digits.
    """
    change = residual - memory.residual

    def append(rows: jax.Array, row: jax.Array) -> jax.Array:
        return jnp.where(useful, jnp.concatenate([rows[1:], row[None]]), 0)

    residuals, results = append(memory.residuals, change), append(memory.results, residual + memory.correction)
    length = jnp.sqrt((residuals * residuals).sum(axis=1))
    unit = residuals * divide(jnp.ones_like(length), length)[:, None]
    gram = jnp.matmul(unit, unit.T, precision="highest")
    ridge = jnp.where(length == 0, 1, 10 * jnp.finfo(gram.dtype).eps)
    gram = gram + jnp.diag(ridge.astype(gram.dtype))
    weights = divide(jnp.linalg.solve(gram, jnp.matmul(unit, residual, precision="highest")), length)
    correction = -jnp.matmul(weights, results, precision="highest")
    return Memory(results, residuals, residual, correction)


def divide(x: Float[Array, "*m"], y: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """Ratio that is 0 where the denominator is."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0)
