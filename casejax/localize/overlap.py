"""How much two segments overlap, for NumPy arrays and for JAX arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from casejax import arrays
from casejax.array_types import Array, Float, Num
from casejax.localize.arguments import as_floats


def temporal_iou(
    a: Num[Array | np.ndarray, "*#n 2"] | Sequence[Any],
    b: Num[Array | np.ndarray, "*#n 2"] | Sequence[Any],
    *,
    extra: float | Float[Array | np.ndarray, ""] = 0.0,
) -> Float[Array | np.ndarray, "*n"]:
    """Temporal intersection over union of segments [start, end), broadcast; zero where the union is empty.

    Args:
      a: segments, start and end in any unit.
      b: segments in the same unit.
      extra: added to every length and to the intersection; 1 as in published programs, whose segments still contain
        their end.

    Returns:
      Overlaps in [0, 1], of half precision in float32: a NumPy array, or a JAX array where one of the two is.

    Raises:
      ValueError: shapes that don't fit, or a known NaN.

    Example:
      >>> from casejax.localize import temporal_iou
      >>> print(temporal_iou([0.0, 10.0], [[5.0, 15.0], [0.0, 10.0], [20.0, 30.0]]).round(3))
      [0.333 1.    0.   ]
    """
    return unchecked_iou(*_segments(a=a, b=b), extra=_checked(extra))


def unchecked_iou(a: Any, b: Any, *, extra: Any = 0.0) -> Any:
    """`temporal_iou` of arrays that are as they should be."""
    intersection, length_a, length_b = _lengths(a, b, extra)
    return _ratio(intersection, length_a + length_b - intersection)


def candidate_overlap(
    best: Num[Array | np.ndarray, "*#n 2"] | Sequence[Any],
    candidate: Num[Array | np.ndarray, "*#n 2"] | Sequence[Any],
    *,
    extra: float | Float[Array | np.ndarray, ""] = 0.0,
) -> Float[Array | np.ndarray, "*n"]:
    """The share of the candidate that the best proposal covers, as the program of Zhou et al. (CVPR 2023) has it.

    A short proposal inside a long one is covered as a whole, however low their tIoU is.

    Args:
      best: segments that cover.
      candidate: segments that are covered.
      extra: see `temporal_iou`.

    Example:
      >>> from casejax.localize import candidate_overlap
      >>> print(candidate_overlap([0.0, 10.0], [[5.0, 15.0], [4.0, 5.0], [20.0, 30.0]]))
      [0.5 1.  0. ]
    """
    intersection, _, length = _lengths(*_segments(best=best, candidate=candidate), _checked(extra))
    return _ratio(intersection, length)


def _lengths(a: Any, b: Any, extra: Any) -> tuple[Any, Any, Any]:
    """Length of the intersection, of `a` and of `b`."""
    xp = _namespace(a, b)
    intersection = xp.minimum(a[..., 1], b[..., 1]) - xp.maximum(a[..., 0], b[..., 0]) + extra
    return xp.maximum(intersection, 0), a[..., 1] - a[..., 0] + extra, b[..., 1] - b[..., 0] + extra


def _segments(**segments: Any) -> tuple[Any, Any]:
    """Two arrays of segments by their names, of lists, whole numbers and half precision too."""
    host = _namespace(*segments.values()) is np
    found = {name: (as_floats if host else arrays.as_floats)(x, name) for name, x in segments.items()}
    for name, x in found.items():
        arrays.refuse_nan(x, name)
        if x.shape[-1:] != (2,):
            raise ValueError(f"{name} must be (..., 2), a start and an end each, got {x.shape}")
    try:
        jnp.broadcast_shapes(*(x.shape for x in found.values()))
    except ValueError as error:
        shapes = " and ".join(f"{name} {x.shape}" for name, x in found.items())
        raise ValueError(f"segments must fit each other, got {shapes}") from error
    first, second = found.values()
    return first, second


def _checked(extra: Any) -> Any:
    if not isinstance(extra, jax.core.Tracer) and not np.all(np.asarray(extra) >= 0):
        raise ValueError(f"extra, added to every length, must be 0 or more, got {extra}")
    return extra


def _ratio(part: Any, whole: Any) -> Any:
    return part / _namespace(whole).where(whole > 0, whole, 1)


def _namespace(*arrays: Any) -> Any:
    return jnp if any(isinstance(x, jax.Array) for x in arrays) else np
