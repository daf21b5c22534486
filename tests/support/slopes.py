"""Gradients against finite differences, of compiled functions and with NumPy alone around them."""

import numpy as np


def assert_gradient(value_and_gradients, arrays, *, rtol=1e-6, step=1e-6):
    """The slope along a random direction is that of a central difference, in float64.

    `value_and_gradients(*arrays)` gives one or several values, whose sum is meant, and a gradient for each array.
    """
    rng = np.random.default_rng(0)
    arrays = [np.asarray(x, np.float64) for x in arrays]
    directions = [rng.normal(size=x.shape) for x in arrays]

    def value(sign):
        moved = [x + sign * step * d for x, d in zip(arrays, directions, strict=True)]
        return np.asarray(value_and_gradients(*moved)[0]).sum()

    _, gradients = value_and_gradients(*arrays)
    assert all(np.asarray(gradient).dtype == np.float64 for gradient in gradients)
    slope = sum((np.asarray(g) * d).sum() for g, d in zip(gradients, directions, strict=True))
    assert slope != 0
    np.testing.assert_allclose(slope, (value(1) - value(-1)) / (2 * step), rtol=rtol)
