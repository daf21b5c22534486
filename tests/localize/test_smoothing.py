"""Smoothing over time: moving averages and local polynomials against a fit of one window after the other."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import savgol_filter

from casejax.localize import smooth


def by_windows(curve, width, degree):
    """The mean of every window, or a polynomial fitted to it, cut at the ends of the curve."""
    out = []
    for t in range(len(curve)):
        around = np.arange(max(t - width // 2, 0), min(t + width // 2, len(curve) - 1) + 1)
        if degree == 0:
            out.append(curve[around].mean())
        elif len(around) <= degree + 1:
            out.append(curve[t])
        else:
            out.append(np.polyfit(around - t, curve[around], degree)[-1])
    return np.array(out)


@pytest.mark.parametrize("width", [3, 7, 13])
@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 12, 13, 14, 40])
def test_every_window_is_fitted(rng, length, width, degree):
    curves = rng.normal(size=(2, 3, length))
    got = smooth(curves, width=width, degree=degree)
    want = np.apply_along_axis(by_windows, 2, curves, width, degree)
    assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_full_windows_are_those_of_scipy(rng, degree):
    curve = rng.normal(size=60)
    got = smooth(curve, width=11, degree=degree)
    assert_allclose(got[5:-5], savgol_filter(curve, 11, degree)[5:-5], rtol=1e-9, atol=1e-12)


def test_a_polynomial_is_kept_and_a_constant_stays_in_range():
    t = np.arange(30.0)
    assert_allclose(smooth(1 + t - t**2, width=9, degree=2), 1 + t - t**2, rtol=1e-9, atol=1e-9)
    assert_allclose(smooth(np.full(8, 0.3, np.float32), width=5), 0.3, rtol=1e-6)


def test_a_window_wider_than_the_curve_reaches_both_ends(rng):
    curve = rng.random(6)
    assert_allclose(smooth(curve, width=99), curve.mean(), rtol=1e-12)


def test_type_and_width_of_one(rng):
    curves = rng.random((4, 9)).astype(np.float32)
    assert smooth(curves, width=3).dtype == np.float32
    assert_array_equal(smooth(curves, width=1), curves)
    assert_array_equal(smooth(curves, width=1, degree=3), curves)
    assert smooth(np.zeros((0, 9)), width=3).shape == (0, 9)


@pytest.mark.parametrize("options", [{"width": 4}, {"width": 0}, {"width": -3}, {"width": 3, "degree": -1}])
def test_impossible_windows_are_refused(options):
    with pytest.raises(ValueError, match=f"width={options['width']}"):
        smooth(np.zeros(5), **options)
