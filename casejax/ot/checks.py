"""What arrays and options must be, one rule for all public functions here.

What can be converted without loss is: nested lists, NumPy scalars, masks of zeros and ones, integers. What cannot be
used is a `ValueError` that shows the value, where the value is known: under a transformation, and in the memory of an
accelerator, it is not. There the result says so: it is NaN.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from casejax.array_types import Array, Num

Scalar = float | np.number | Num[Array, ""] | Num[np.ndarray, ""]


FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def numbers(name: str, value: Any, shape: tuple[Any, ...] | None = None) -> Array:
    """The value as an array of real numbers: float32 or float64 as it is, other types in float32."""
    if isinstance(value, jax.Array) and value.dtype in FLOATS and shape in (None, value.shape):
        return value  # the usual case, by the shortest way
    if not isinstance(value, jax.Array | np.ndarray):
        try:
            value = np.asarray(value)
        except ValueError as error:  # lists of different lengths
            raise ValueError(f"{name} must be an array of numbers, got {value!r}") from error
    if not jnp.issubdtype(value.dtype, jnp.number) and value.dtype != bool:
        raise ValueError(f"{name} must be an array of numbers, got {value.dtype}")
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real, got {value.dtype}")
    if shape is not None and value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
    value = jnp.asarray(value)
    return value if value.dtype in FLOATS else value.astype(jnp.float32)


def boolean(name: str, value: Any, shape: tuple[Any, ...] | None = None) -> Array:
    """A mask; known zeros and ones of another type will do."""
    if not isinstance(value, jax.Array | np.ndarray):
        value = np.asarray(value)
    if shape is not None and value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
    if value.dtype == bool:
        return jnp.asarray(value)
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} must be boolean, got {value.dtype}; compare it, as in mask > 0")
    known = np.asarray(value)
    for number in known[(known != 0) & (known != 1)].flat:
        raise ValueError(f"{name} must be boolean, got {number} in {known.dtype}")
    return jnp.asarray(known == 1)


def positive(name: str, value: Any) -> Any:
    """A positive and finite option; a float where it is known."""
    if isinstance(value, jax.core.Tracer):
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.number):
            raise ValueError(f"{name} must be a single number, got {value.dtype} of shape {value.shape}")
        return value
    known = value if isinstance(value, int | float) else np.asarray(value)
    if isinstance(known, np.ndarray):
        if known.shape != () or not (jnp.issubdtype(known.dtype, jnp.number) and np.isreal(known)):
            raise ValueError(f"{name} must be a single number, got {value!r}")
        known = float(known)
    if isinstance(value, bool) or not 0 < known < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return float(known)


def count(name: str, value: Any) -> int:
    """A whole number of at least 1, which must be known."""
    try:
        found = 0 if isinstance(value, bool | np.bool_) else operator.index(value)
    except (TypeError, jax.errors.JAXTypeError):
        found = 0
    if found < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return found


def refuse(name: str, value: Array, *, least: float = -math.inf, live: Any = None) -> None:
    """Refuse known numbers that are NaN, +inf or below the least one, where they are live (default everywhere)."""
    if not (on_host(value) and (live is None or on_host(live))):
        return
    known = np.asarray(value)
    if known.max(initial=least) < math.inf and (least == -math.inf or known.min(initial=math.inf) >= least):
        return  # the greatest of numbers with a NaN is NaN
    wrong = ~((known >= least) & (known < math.inf))
    if live is not None:
        wrong &= np.broadcast_to(np.asarray(live), wrong.shape)
    for at in np.argwhere(wrong).tolist():
        wanted = "neither NaN nor +inf" if least == -math.inf else f"finite and at least {least:g}"
        raise ValueError(f"{name} must be {wanted}, got {known[tuple(at)]} at {at}; mask what is not real")


def on_host(value: Any) -> bool:
    """Whether the numbers of an array can be looked at without fetching them from elsewhere."""
    if isinstance(value, jax.core.Tracer | np.ndarray):
        return isinstance(value, np.ndarray)
    return value.is_fully_addressable and all(device.platform == "cpu" for device in value.devices())
