import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from casejax.alignment.networks.heads import OrderHead, SpeedHead


def test_order_head_with_the_published_weights(golden):
    arrays = golden.arrays("gta/baselines")
    weights = [arrays[f"sal/W{i}"] for i in range(sum(key.startswith("sal/W") for key in arrays))]
    widths = [kernel.shape[1] for kernel in weights[::2]]
    head = nnx.eval_shape(lambda: OrderHead(weights[0].shape[0] // 3, hidden=widths[:-1], rngs=nnx.Rngs(0)))
    for layer, kernel, bias in zip(head.layers, weights[::2], weights[1::2], strict=True):
        assert layer.kernel.shape == kernel.shape
        layer.kernel.set_value(jnp.asarray(kernel))
        layer.bias.set_value(jnp.asarray(bias))
    got = jax.jit(head)(jnp.asarray(arrays["sal/concat"]))
    np.testing.assert_allclose(got, arrays["sal/logits"], rtol=0, atol=1e-6 * np.abs(arrays["sal/logits"]).max())


def test_widths_of_the_order_head():
    head = nnx.eval_shape(lambda: OrderHead(128, rngs=nnx.Rngs(0)))
    shapes = sorted(x.shape for x in jax.tree.leaves(nnx.state(head, nnx.Param)))
    assert shapes == [(2,), (64,), (64, 2), (128,), (128, 64), (384, 128)]


def test_speed_head_is_linear(rng):
    head = SpeedHead(3, rngs=nnx.Rngs(1))
    features = jnp.asarray(rng.normal(size=(2, 4, 6)), jnp.float32)
    kernel, bias = (np.asarray(x[...], np.float64) for x in (head.linear.kernel, head.linear.bias))
    assert kernel.shape == (6, 1)
    np.testing.assert_allclose(head(features), (np.asarray(features) @ kernel)[..., 0] + bias, rtol=1e-4, atol=1e-6)


def test_bad_widths_are_refused():
    with pytest.raises(ValueError, match=r"dim=4 and hidden=\(8, 0\)"):
        OrderHead(4, hidden=(8, 0), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="dim must be 1 or more, got 0"):
        SpeedHead(0, rngs=nnx.Rngs(0))
