"""Smoothing of snippet scores over time, before they are thresholded.

What is published for ActivityNet smooths somewhere: W-TALC its scores in inference by a Savitzky-Golay filter (issues 1
and 15 of its program), CO2-Net and DELU logits and attention by a moving average inside the network, A2CL-PT and CoLA
class logits by a learned filter there.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from casejax.array_types import Float
from casejax.localize.arguments import takes


@takes("curves")
def smooth(curves: Float[np.ndarray, "*batch T"], *, width: int, degree: int = 0) -> Float[np.ndarray, "*batch T"]:
    """Each score replaced by the value, at its snippet, of the polynomial nearest to the scores around it.

    The window has `width` snippets, the snippet itself in its middle, and shrinks at either end to those that there
    are: nothing is assumed beyond a video. Degree 0 is a moving average, a higher one a Savitzky-Golay filter. A window
    with no more snippets than the polynomial has coefficients leaves the score as it is.

    Args:
      curves: scores of T snippets, all real, on the last axis.
      width: snippets of a window, odd; 1 leaves everything as it is.
      degree: of the polynomial, fitted by least squares.

    Returns:
      In the dtype of `curves`; summed in float64.

    Raises:
      ValueError: a width that is even or below 1, a negative degree, or a NaN score.

    References:
      Savitzky and Golay, "Smoothing and differentiation of data by simplified least squares procedures", 1964.

    Example:
      >>> from casejax.localize import smooth
      >>> print(smooth([0.0, 0.0, 3.0, 0.0, 0.0], width=3).round(3))
      [0. 1. 1. 1. 0.]
      >>> print(smooth([0.0, 1.0, 4.0, 9.0, 16.0], width=5, degree=2).round(3))  # a parabola stays one
      [ 0.  1.  4.  9. 16.]
    """
    if not (width >= 1 and width % 2 == 1 and degree >= 0 and degree % 1 == 0):
        raise ValueError(f"smooth needs an odd width and a degree of at least 0, got {width=} and {degree=}")
    width, degree = int(width), int(degree)
    length, half = curves.shape[-1], width // 2
    if width == 1 or length < 2:
        return curves
    weights = _weights(min(length, width), width, degree)
    if length > width:  # the full window in the middle, again and again
        weights = weights[np.r_[:half, np.full(length - 2 * half, half), half + 1 : width]]
    out = np.zeros(curves.shape)
    for tap in range(max(-half, 1 - length), min(half, length - 1) + 1):
        here, there = slice(max(-tap, 0), length - max(tap, 0)), slice(max(tap, 0), length + min(tap, 0))
        out[..., here] += weights[here, half + tap] * curves[..., there]
    return out.astype(curves.dtype)


@lru_cache(maxsize=64)
def _weights(length: int, width: int, degree: int) -> np.ndarray:
    """(length, width): by how much each neighbour of each snippet counts, 0 for one beyond an end."""
    offset = np.arange(width) - width // 2
    place = np.arange(length)[:, None] + offset
    real = (place >= 0) & (place < length)
    powers = (offset[:, None] / max(width // 2, 1)) ** np.arange(degree + 1)
    # The value at offset 0 is the first coefficient.
    return np.linalg.pinv(powers * real[:, :, None])[:, 0]
