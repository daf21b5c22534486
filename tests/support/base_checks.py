"""What the tests of all bases need: their networks in NumPy, layer by layer, and checks that every base must pass."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax.methods.contract import parameters_of

B, T, C = 4, 11, 3
DIMS = (5, 4)
LENGTHS = np.array([11, 8, 9, 10])
MASK = np.arange(T)[None] < LENGTHS[:, None]
LABELS = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1]], np.float32)


def count(make):
    """Parameters of a network that is never made."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(nnx.eval_shape(make), nnx.Param)))


def features(rng, dims=DIMS):
    return [rng.normal(size=(B, T, d)).astype(np.float32) for d in dims]


class Step:
    """A training step without its update, compiled once: a network, its objective, and the key of its dropout.

    Called with features it returns (loss, (terms, outputs)) and the gradients of parameters and of features.
    """

    def __init__(self, model, objective, key=None):
        graphdef, self.params = nnx.split(model, nnx.Param)

        def loss(params, x):
            outputs = nnx.merge(graphdef, params)(x, key, mask=jnp.asarray(MASK))
            value, terms = objective(outputs)
            return value, (terms, outputs)

        self.run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def __call__(self, x):
        return self.run(self.params, [jnp.asarray(a) for a in x])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def dense(layer, x):
    return x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...], np.float64)


def conv(layer, x):
    """Convolution of one video (T, D) with zeros beyond either end, tap by tap."""
    kernel = np.asarray(layer.kernel[...], np.float64)
    half = len(kernel) // 2
    out = np.zeros((len(x), kernel.shape[2])) + np.asarray(layer.bias[...], np.float64)
    for t in range(len(x)):
        for tap in range(len(kernel)):
            if 0 <= t + tap - half < len(x):
                out[t] += x[t + tap - half] @ kernel[tap]
    return out


def top_mean(column, divisor):
    """Mean of the greatest of a column, one in `divisor`, at least one."""
    return np.sort(column)[::-1][: max(len(column) // divisor, 1)].mean()


def cropped(array, b):
    return np.asarray(array, np.float64)[b, : LENGTHS[b]]


def assert_forward(outputs, want, b, **tolerance):
    """Every field of the outputs for video b, up to its length, is that of the network written out in NumPy."""
    for name, expected in want.items():
        got = getattr(outputs, name)
        for a, e in zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]:
            np.testing.assert_allclose(np.asarray(a)[b, : LENGTHS[b]], e, **(tolerance or {"rtol": 1e-4, "atol": 1e-5}))


def assert_padding_is_inert(step, x):
    """Bit-equal outputs, losses and gradients whatever stands in padding, and no gradient there."""
    (value, aux), (slopes, x_slopes) = clean = step(x)
    spoiled = step([np.where(MASK[..., None], a, np.nan) for a in x])
    jax.tree.map(np.testing.assert_array_equal, clean, spoiled)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, aux, slopes)))
    for slope in x_slopes:
        assert np.abs(np.where(MASK[..., None], 0, slope)).max() == 0
        assert np.abs(slope).max() > 0
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))
    np.testing.assert_allclose(sum(aux[0].values()), value, rtol=1e-5)


def assert_settings_are_defaults(settings, *functions):
    """Options of a function that go by the name of a setting have its value for their default."""
    shared = 0
    for function in functions:
        for name, parameter in parameters_of(function).items():
            if hasattr(settings, name):
                assert parameter.default == getattr(settings, name), (function, name)
                shared += 1
    assert shared > 0
