import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax.alignment.networks.activation_maps import class_activation, overlay


def bilinear(x, size):
    """Enlarge the last two axes; pixels are squares, and the outermost ones reach to the edge."""
    for axis, length in ((-2, size[0]), (-1, size[1])):
        x = np.moveaxis(x, axis, -1)
        places = (np.arange(length) + 0.5) * x.shape[-1] / length - 0.5
        places = np.clip(places, 0, x.shape[-1] - 1)
        low = np.floor(places).astype(int)
        high, part = np.minimum(low + 1, x.shape[-1] - 1), places - low
        x = np.moveaxis(x[..., low] * (1 - part) + x[..., high] * part, -1, axis)
    return x


@pytest.fixture(scope="module")
def feature_map():
    """(B, T, K, H, W, C), the second frame the same everywhere."""
    maps = np.random.default_rng(0).uniform(0, 3, (1, 3, 2, 3, 4, 5)).astype(np.float32)
    maps[:, 1] = maps[:, 1, :, :1, :1] + 100
    return maps


def test_maps_are_enlarged_means(feature_map):
    size = (9, 8)
    activation = jax.jit(lambda x, slot: class_activation(x, size=size, slot=slot), static_argnums=1)
    got = activation(jnp.asarray(feature_map), -1)
    mean = feature_map[:, :, 1].astype(np.float64).mean(-1)
    low, high = mean.min((2, 3), keepdims=True), mean.max((2, 3), keepdims=True)
    want = bilinear((mean - low) / (high - low + 1e-30), size)
    want[:, 1] = 0
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert not np.asarray(got)[:, 1].any()
    earlier = activation(jnp.asarray(feature_map), 0)
    swapped = activation(jnp.asarray(feature_map[:, :, ::-1]), -1)
    np.testing.assert_array_equal(earlier, swapped)
    assert np.abs(np.asarray(earlier) - got).max() > 0.1


def test_without_enlargement_every_frame_spans_the_range(feature_map):
    got = np.asarray(class_activation(jnp.asarray(feature_map), size=(3, 4)))[:, [0, 2]]
    np.testing.assert_array_equal(got.min((2, 3)), 0)
    np.testing.assert_allclose(got.max((2, 3)), 1, rtol=1e-6)


def test_overlay_runs_from_blue_to_red():
    images = jnp.full((1, 3, 3), 0.5)
    heat = jnp.asarray([[0.0, 0.5, 1.0]])
    got, plain = jax.jit(lambda x, h: (overlay(x, h, opacity=0.5), overlay(x, h, opacity=0.0)))(images, heat)
    want = [[0.25, 0.25, 0.5], [0.5, 0.75, 0.5], [0.5, 0.25, 0.25]]
    np.testing.assert_allclose(got[0], want, atol=1e-6)
    np.testing.assert_array_equal(plain, images)


def test_options_out_of_range_are_refused(feature_map):
    with pytest.raises(ValueError, match="one of 2 context frames, got 2"):
        class_activation(jnp.asarray(feature_map), size=(3, 4), slot=2)
    with pytest.raises(ValueError, match=r"got \(0, 4\)"):
        class_activation(jnp.asarray(feature_map), size=(0, 4))
    with pytest.raises(ValueError, match=r"opacity must lie in \[0, 1\], got 2"):
        overlay(jnp.zeros((1, 1, 3)), jnp.zeros((1, 1)), opacity=2.0)
