"""What every public function here does with its arguments first: arrays as its annotations say, or a sentence why not.

It also lets the function run on meshes with explicit axes, see `placement`.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from casejax.arrays.placement import on_any_mesh
from casejax.arrays.shapes import Wanted, check_shape, wanted

P = ParamSpec("P")
R = TypeVar("R")


def takes(*, nan: bool = False, half: bool = False, **where: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a function of arrays, whose annotations say what they hold and which sizes they share.

    Floats come from lists, integers and half precision in float32; whole numbers and masks from what is known to be
    whole, or 0 and 1. Scalars of NumPy become those of Python. What doesn't fit is refused, and so is a NaN that is
    known at the call and takes part: the mask of x, which is `x_mask` or else `mask`, shows what does if it has the
    first sizes of x.

    Args:
      nan: let NaN pass.
      half: leave half precision as it is.
      **where: for an array, the names, with spaces between, of boolean ones: what is False in all of them is not live.

    Example:
      >>> from casejax.arrays import takes
      >>> @takes()
      ... def first(x: 'Float[Array, "b t"]') -> 'Float[Array, " b"]':
      ...     return x[:, 0]
      >>> print(first([[1, 2], [3, 4]]))
      [1. 3.]
      >>> first([1, 2])
      Traceback (most recent call last):
          ...
      ValueError: x must be (B, T), got (2,)
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        arrays = wanted(signature)
        placed = on_any_mesh(function)

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            given, known = bound.arguments, dict[str, Any]()
            for name, value in given.items():
                if name not in arrays or value is None:
                    given[name] = _option(value, name)
                elif arrays[name].several:
                    given[name] = [_array(x, f"{name}[{i}]", arrays[name], half, known) for i, x in enumerate(value)]
                else:
                    given[name] = _array(value, name, arrays[name], half, known)
            if not nan:
                for name, value in given.items():
                    if name in arrays and arrays[name].kind == "Float" and value is not None:
                        live = _live(name, given, arrays, where.get(name, "").split())
                        for i, x in enumerate(value if arrays[name].several else [value]):
                            refuse_nan(x, f"{name}[{i}]" if arrays[name].several else name, live)
            return placed(*bound.args, **bound.kwargs)

        return run

    return decorate


def as_floats(x: Any, name: str) -> jax.Array:
    """The numbers in float32, or in float64 where they are.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax.arrays import as_floats
      >>> as_floats([1, 2], "x")
      Array([1., 2.], dtype=float32)
      >>> as_floats(jnp.ones(2, jnp.bfloat16), "x")
      Array([1., 1.], dtype=float32)
    """
    x = jnp.asarray(_real(x, name))
    return x if x.dtype in (jnp.float32, jnp.float64) else x.astype(jnp.float32)


def as_whole(x: Any, name: str) -> jax.Array | np.ndarray:
    """The numbers as integers, in NumPy where they are not an array of JAX.

    Example:
      >>> from casejax.arrays import as_whole
      >>> as_whole([1.0, 2.0], "labels")
      array([1, 2], dtype=int32)
      >>> as_whole([1.0, 2.5], "labels")
      Traceback (most recent call last):
          ...
      ValueError: labels[1] is 2.5, expected a whole number
    """
    x = _real(x, name)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x
    if isinstance(x, jax.core.Tracer):
        raise ValueError(f"{name} must hold whole numbers, got {x.dtype}")
    for place, value in np.ndenumerate(np.asarray(x, np.float64)):
        if not float(value).is_integer():
            raise ValueError(f"{_at(name, place)} is {value}, expected a whole number")
    return x.astype(jnp.int32)


def as_mask(x: Any, name: str) -> jax.Array:
    """The mask as booleans.

    Example:
      >>> from casejax.arrays import as_mask
      >>> as_mask([1, 1, 0], "mask")
      Array([ True,  True, False], dtype=bool)
      >>> as_mask([1, 1, 0.3], "mask")
      Traceback (most recent call last):
          ...
      ValueError: mask must be boolean, True for what is real, got 0.3 in it
    """
    x = _real(x, name)
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
    """Refuse an option that is known at the call and not as it must be.

    Example:
      >>> from casejax.arrays import check_number
      >>> check_number(0.1, "temperature", "be above 0", lambda x: x > 0)
      >>> check_number(-0.1, "temperature", "be above 0", lambda x: x > 0)
      Traceback (most recent call last):
          ...
      ValueError: temperature must be above 0, got -0.1
    """
    if isinstance(value, jax.core.Tracer):
        return
    if np.ndim(value) or not good(float(value)):
        raise ValueError(f"{name} must {allowed}, got {value}")


def check_index(x: Any, name: str, size: int, live: Any = None) -> None:
    """Refuse what is known to be no index of one of `size` things, where `live` (default everywhere) is True.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax.arrays import check_index
      >>> check_index(jnp.array([0, 19]), "labels", 20)
      >>> check_index(jnp.array([0, 20]), "labels", 20)
      Traceback (most recent call last):
          ...
      ValueError: labels[1] is 20, expected an index from 0 to 19
    """
    if not (on_host(x) and (live is None or on_host(live))):
        return
    wrong = (np.asarray(x) < 0) | (np.asarray(x) >= size)
    wrong = wrong if live is None else wrong & np.asarray(live)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(f"{_at(name, place)} is {x[place]}, expected an index from 0 to {size - 1}")


def refuse_nan(x: Any, name: str, live: Any = None) -> None:
    """Refuse a NaN that is known, where `live` (default everywhere), which has the first axes of x, is True.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax.arrays import refuse_nan
      >>> x = jnp.array([[1.0, 2.0], [3.0, jnp.nan]])
      >>> refuse_nan(x, "scores", jnp.array([True, False]))  # the second row is masked
      >>> refuse_nan(x, "scores")
      Traceback (most recent call last):
          ...
      ValueError: scores[1, 1] is NaN; mask or drop what it belongs to
    """
    if not on_host(x) or not (live is None or on_host(live)):
        return
    broken = np.isnan(x)
    if live is not None and broken.any():
        live = np.asarray(live)
        broken = broken & live.reshape(*live.shape, *(1,) * (broken.ndim - live.ndim))
    if broken.any():
        raise ValueError(f"{_at(name, np.argwhere(broken)[0].tolist())} is NaN; mask or drop what it belongs to")


def on_host(x: Any) -> bool:
    """Whether the numbers can be looked at without waiting for an accelerator."""
    if isinstance(x, jax.core.Tracer) or not isinstance(x, jax.Array):
        return not isinstance(x, jax.core.Tracer)
    return x.is_fully_addressable and all(device.platform == "cpu" for device in x.devices())


def _array(x: Any, name: str, want: Wanted, half: bool, known: dict[str, Any]) -> Any:
    """The argument as it shall be; a single number may be one of Python's."""
    if not want.sizes:
        x = _option(x, name)
        if want.kind == "Float" and isinstance(x, int | float):
            return x
    if want.kind == "Bool":
        x = as_mask(x, name)
    elif want.kind == "Int":
        x = as_whole(x, name)
        x = x if want.numpy else jnp.asarray(x)
    elif half and isinstance(x, jax.Array) and x.dtype in (jnp.float16, jnp.bfloat16):
        pass
    else:
        x = as_floats(x, name)
    check_shape(x.shape, name, want.sizes, known)
    return x


def _option(value: Any, name: str) -> Any:
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{name} must be a number, got {value}")
    return value


def _live(name: str, given: Mapping[str, Any], arrays: dict[str, Wanted], shown: list[str]) -> Any:
    """What of a float array takes part, None for all of it."""
    masks = [given[each] for each in shown]
    live = functools.reduce(operator.or_, masks) if masks else None
    mask = next((m for m in (f"{name}_mask", "mask") if m in arrays), None)
    if mask is None or given.get(mask) is None or not arrays[mask].leads(arrays[name]):
        return live
    mask = given[mask]
    return mask if live is None else live & mask.reshape(*mask.shape, *(1,) * (live.ndim - mask.ndim))


def _real(x: Any, name: str) -> jax.Array | np.ndarray:
    """An array of real numbers or booleans."""
    if not isinstance(x, jax.Array | np.ndarray):
        try:
            x = (jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x)) else np).asarray(x)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is no array of numbers: {str(error).splitlines()[0]}") from error
    if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool) or jnp.iscomplexobj(x):
        raise ValueError(f"{name} must hold real numbers, got {x.dtype}")
    return x


def _at(name: str, place: Sequence[int]) -> str:
    return f"{name}[{', '.join(map(str, place))}]" if len(place) else name
