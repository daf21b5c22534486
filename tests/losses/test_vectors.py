"""Directions and angles, and their gradients where vectors vanish or angles have a kink."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax import losses


def test_unit_vectors_are_safe_at_zero():
    x = np.array([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0], [1e15, 1e15]], np.float32)
    units, slope = jax.jit(lambda x: (losses.unit(x), jax.grad(lambda x: losses.unit(x)[:, 0].sum())(x)))(x)
    np.testing.assert_allclose(units, [[0.6, 0.8], [0, 0], [0, 0], [0.5**0.5] * 2], rtol=1e-6)
    assert np.isfinite(slope).all()
    assert not np.asarray(slope)[1].any()


def test_guarded_arccos():
    x = np.array([-1.5, -1, -0.7, 0, 0.3, 1, 1 + 1e-6], np.float32)
    value, slope = jax.device_get(jax.jit(jax.vmap(jax.value_and_grad(losses.guarded_arccos)))(x))
    np.testing.assert_allclose(value, np.arccos(np.clip(x, -1, 1)), rtol=1e-6)
    inside = np.abs(x) < 1
    np.testing.assert_allclose(slope[inside], -1 / np.sqrt(1 - x[inside].astype(float) ** 2), rtol=1e-6)
    np.testing.assert_allclose(slope[~inside], -1 / np.sqrt(np.finfo(np.float32).eps), rtol=1e-6)


def test_angular_distance(rng):
    features, rows = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    got = jax.jit(losses.angular_distance)(features, rows)
    units = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (features.astype(float), rows.astype(float))]
    np.testing.assert_allclose(got, np.arccos(units[0] @ units[1].T), rtol=1e-5)
    with pytest.raises(ValueError, match=r"centers must be \(C, D=4\), got \(5, 2\)"):
        losses.angular_distance(jnp.asarray(features), jnp.asarray(rows[:, :2]))
