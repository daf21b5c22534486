"""What the functions of tables here and in `evaluate` do with their arguments first: numbers in NumPy, or why not."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def takes(
    *names: str, whole: Sequence[str] = (), flags: Sequence[str] = (), nan: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a function of arrays of floats, of whole numbers and of what is True or False.

    Sequences and arrays of JAX become NumPy's, integers float64, half precision float32, scalars of NumPy those of
    Python. A NaN is refused unless `nan`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                if value is None:
                    continue
                if name in names:
                    bound.arguments[name] = as_floats(value, name, nan=nan)
                elif name in whole:
                    bound.arguments[name] = as_whole(value, name)
                elif name in flags:
                    bound.arguments[name] = as_flags(value, name)
                elif isinstance(value, np.generic):
                    bound.arguments[name] = value.item()
            return function(*bound.args, **bound.kwargs)

        return run

    return decorate


def as_floats(x: Any, name: str, *, nan: bool = False) -> np.ndarray:
    """The numbers in float32 where they are or have half of it, else in float64."""
    x = _as_array(x, name)
    if x.dtype not in (np.float32, np.float64):
        x = x.astype(np.float64 if x.dtype.kind in "biu" else np.float32)
    if not nan and x.size and np.isnan(x.min()):
        place = ", ".join(map(str, np.argwhere(np.isnan(x))[0]))
        raise ValueError(f"{name}[{place}] is NaN; drop what it belongs to")
    return x


def as_whole(x: Any, name: str) -> np.ndarray:
    """The numbers in int64, refused if they are not whole."""
    x = _as_array(x, name)
    if x.dtype.kind in "iu" or not x.size:
        return x.astype(np.int64)
    values = x.astype(np.float64)
    broken = ~(np.isfinite(values) & (values == np.floor(values)))
    if broken.any():
        place = np.argwhere(broken)[0]
        raise ValueError(f"{name}[{', '.join(map(str, place))}] is {values[tuple(place)]}, expected a whole number")
    return values.astype(np.int64)


def as_flags(x: Any, name: str) -> np.ndarray:
    """Booleans, from these or from 0 and 1."""
    x = _as_array(x, name)
    if x.dtype == bool:
        return x
    wrong = x[(x != 0) & (x != 1)]
    if wrong.size:
        raise ValueError(f"{name} must be boolean, got {wrong.flat[0]} in it; compare it with a threshold")
    return x == 1


def check_number(value: Any, name: str, allowed: str, good: Callable[[float], bool] = math.isfinite) -> None:
    """Refuse an option that is not as it must be."""
    if np.ndim(value) or not good(float(value)):
        raise ValueError(f"{name} must {allowed}, got {value}")


def _as_array(x: Any, name: str) -> np.ndarray:
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} is no array of numbers: {str(error).splitlines()[0]}") from error
    if x.dtype.kind in "cOSUMm":
        raise ValueError(f"{name} must hold real numbers, got {x.dtype}")
    return x
