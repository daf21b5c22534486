"""What every public function here does with its arguments first: floats, boolean masks, or a sentence why not.

It also lets the function run on meshes with explicit axes, see `placement`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from casejax.arrays.placement import on_any_mesh

P = ParamSpec("P")
R = TypeVar("R")


def takes(*names: str, nan: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a function of arrays of floats; the mask of x is found by its name, `x_mask` or else `mask`.

    Lists, integers and half precision become float32, scalars of NumPy those of Python. Masks may be anything that is
    True and False, or known to be 0 and 1. A NaN that is known at the call, where the mask is True, is refused unless
    `nan`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        masks = [name for name in signature.parameters if name == "mask" or name.endswith("_mask")]
        placed = on_any_mesh(function)

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            given = {name: _plain(value) for name, value in bound.arguments.items() if value is not None}
            given |= {name: as_mask(given[name], name) for name in masks if name in given}
            for name in names:
                if name in given:
                    given[name] = as_floats(given[name], name)
                    if not nan:
                        _refuse_nan(given[name], name, given.get(f"{name}_mask", given.get("mask")))
            bound.arguments.update(given)
            return placed(*bound.args, **bound.kwargs)

        return run

    return decorate


def as_floats(x: Any, name: str) -> jax.Array:
    """The numbers in float32, or in float64 where they are."""
    x = _as_array(x, name)
    if x.dtype in (jnp.float32, jnp.float64):
        return x
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must hold real numbers, got {x.dtype}")
    return x.astype(jnp.float32)


def as_mask(x: Any, name: str) -> jax.Array:
    """The mask as booleans."""
    x = x if isinstance(x, np.ndarray) else _as_array(x, name)
    if x.dtype == bool:
        return jnp.asarray(x)
    if isinstance(x, jax.core.Tracer):
        raise ValueError(f"{name} must be boolean, True for what is real, got {x.dtype}; compare it with 0.5, say")
    values = np.asarray(x)
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise ValueError(f"{name} must be boolean, True for what is real, got {wrong.flat[0]} in it")
    return jnp.asarray(values == 1)


def check_number(value: Any, name: str, allowed: str, good: Callable[[float], bool]) -> None:
    """Refuse an option that is known at the call and not as it must be."""
    if isinstance(value, jax.core.Tracer):
        return
    if np.ndim(value) or not good(float(value)):
        raise ValueError(f"{name} must {allowed}, got {value}")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _as_array(x: Any, name: str) -> jax.Array:
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is no array of numbers: {str(error).splitlines()[0]}") from error


def _refuse_nan(x: jax.Array, name: str, mask: jax.Array | None) -> None:
    if isinstance(x, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
        return
    broken = np.isnan(np.asarray(x))
    if broken.any() and mask is not None and mask.shape == x.shape[: mask.ndim]:
        broken &= np.asarray(mask).reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
    if broken.any() and (mask is None or mask.shape == x.shape[: mask.ndim]):
        place = ", ".join(map(str, np.argwhere(broken)[0]))
        raise ValueError(f"{name}[{place}] is NaN; mask what it belongs to")
