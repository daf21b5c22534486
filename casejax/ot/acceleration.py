"""Anderson acceleration of the logarithms of the column scaling."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from casejax.array_types import Array, Bool, Float

MEMORY = 6
"""Past iterations that Anderson acceleration uses."""


class Memory(NamedTuple):
    """What the acceleration remembers of the points that it went through.

    Attributes:
      pairs: (M, 2, K) differences of successive residuals (result less argument), of length 1, and the differences of
        successive results that belong to them.
      residual: (K,) the last residual.
      correction: (K,) what was added to the last result.
    """

    pairs: Float[Array, "m 2 k"]
    residual: Float[Array, " k"]
    correction: Float[Array, " k"]


def remember(memory: Memory, residual: Float[Array, " k"], useful: Bool[Array, ""]) -> Memory:
    """The memory with this residual added, and the correction that it gives; an empty one where it is not useful.

    Only differences are kept, so that large potentials lose no digits.
    """
    change = residual - memory.residual
    length = jnp.sqrt((change * change).sum())
    pair = jnp.stack([change, residual + memory.correction]) * divide(jnp.ones_like(length), length)
    pairs = jnp.where(useful, jnp.concatenate([memory.pairs[1:], pair[None]]), 0)
    unit, results = pairs[:, 0], pairs[:, 1]
    ridge = 10 * float(jnp.finfo(unit.dtype).eps)
    gram = jnp.matmul(unit, unit.T, precision="highest") + ridge * jnp.eye(len(unit), dtype=unit.dtype)
    weights = jnp.linalg.solve(gram, (unit * residual[None, :]).sum(axis=1))
    return Memory(pairs, residual, -jnp.matmul(weights, results, precision="highest"))


def divide(x: Float[Array, "*m"], y: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """Ratio that is 0 where the denominator is."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0)
