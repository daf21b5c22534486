"""What the tests of all methods need: networks in NumPy, layer by layer, and checks that every method must pass."""

from dataclasses import replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from flax import nnx

from casejax.methods.contract import Step

B, T, C = 4, 11, 3
DIMS = (5, 4)
LENGTHS = np.array([11, 8, 9, 10])
MASK = np.arange(T)[None] < LENGTHS[:, None]
LABELS = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1]], np.float32)
FOREGROUND = np.random.default_rng(1).random((B, T)).astype(np.float32)
"""Foreground probabilities that are not a network's."""


def count(method):
    """Parameters of the network for THUMOS14, which is never made."""
    model = nnx.eval_shape(lambda: method.network((1024, 1024), 20, settings=method.settings, rngs=nnx.Rngs(0)))
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


class Small:
    """A method in small: a network of random parameters, and one compiled program of all that is asked of it.

    Args:
      method: one of the library's.
      seed: of parameters and features.
      step: what the loss is told; its key is that of dropout.
      inference: whether scores are asked for.
      **options: settings that are not the method's own.
    """

    def __init__(self, method, *, seed, step=Step(), inference=True, **options):
        self.method, self.step, self.settings = method, step, replace(method.settings, **options)
        self.inference = inference
        rng = np.random.default_rng(seed)
        self.x = [rng.normal(size=(B, T, d)).astype(np.float32) for d in DIMS]
        self.network = nnx.eval_shape(lambda: method.network(DIMS, C, settings=self.settings, rngs=nnx.Rngs(0)))
        self.graphdef, params = nnx.split(self.network, nnx.Param)
        self.params = jax.tree.map(lambda leaf: drawn(rng, leaf.shape), params)
        nnx.update(self.network, self.params)
        self._run = jax.jit(self._everything)

    def _everything(self, params, x):
        def loss(params, x):
            network = nnx.merge(self.graphdef, params)
            outputs = network(x, self.step.key, mask=jnp.asarray(MASK))
            found = self.loss(outputs, self.step._replace(network=network))
            return found.value, (found, outputs)

        trained = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)
        outputs = trained[0][1][1]
        if self.step.key is not None:
            outputs = nnx.merge(self.graphdef, params)(x, mask=jnp.asarray(MASK))
        scored = [self.scores(seen) for seen in (outputs, clustered(outputs))] if self.inference else []
        return trained, outputs, scored

    def loss(self, outputs, step=None):
        step = self.step if step is None else step
        return self.method.loss(outputs, jnp.asarray(LABELS), step, settings=self.settings, mask=jnp.asarray(MASK))

    def scores(self, outputs):
        return self.method.scores(outputs, settings=self.settings, mask=jnp.asarray(MASK))

    def run(self, x):
        return jax.tree.map(np.asarray, self._run(self.params, x))

    @cached_property
    def _clean(self):
        return self.run(self.x)

    @property
    def found(self):
        """The loss of a training step."""
        return self._clean[0][0][1][0]

    @property
    def noisy(self):
        """The outputs that it is of, with dropout."""
        return self._clean[0][0][1][1]

    @property
    def outputs(self):
        """Those without dropout."""
        return self._clean[1]

    @property
    def found_scores(self):
        """Scores of `outputs`, and with `FOREGROUND` in the place of attention; and what stood there."""
        return list(zip(self._clean[2], (np.mean(self.outputs.attention, axis=0), FOREGROUND), strict=True))

    def assert_forward(self, forward, **tolerance):
        """Outputs of each video are those of the network written out in NumPy, which is given its features."""
        assert self.network.embedding_dims == tuple(e.shape[2] for e in self.outputs.embedding)
        for b in range(B):
            want = forward(self.network, [cropped(a, b) for a in self.x])
            for name, expected in want.items():
                for got, e in zip(jax.tree.leaves(getattr(self.outputs, name)), expected, strict=True):
                    np.testing.assert_allclose(got[b, : LENGTHS[b]], e, **({"rtol": 1e-4, "atol": 1e-5} | tolerance))

    def assert_padding_is_inert(self):
        """Bit-equal outputs, scores, losses and gradients whatever stands in padding, and no gradient there."""
        clean = self._clean
        spoiled = self.run([np.where(MASK[..., None], a, np.nan) for a in self.x])
        jax.tree.map(np.testing.assert_array_equal, clean, spoiled)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
        slopes, x_slopes = clean[0][1]
        for slope in x_slopes:
            assert not np.asarray(slope)[~MASK].any()
            assert np.asarray(slope).any()
        assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(slopes))


def drawn(rng, shape):
    """Random parameters, biases too; signals keep their scale."""
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)


def clustered(outputs):
    """Outputs as inference sees them with clusters: `FOREGROUND` in the place of attention."""
    return outputs._replace(attention=(jnp.asarray(FOREGROUND),), cluster_logits=(jnp.zeros((B, T, 1)),))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def binary_cross_entropy(logits, targets):
    """Of the softmax probabilities of one video, mean over classes."""
    p = oracles.softmax(logits)
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()


def leaky(x, slope):
    return np.where(x > 0, x, slope * x)


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


def top_means(columns, divisor):
    return np.array([top_mean(column, divisor) for column in columns.T])


def co_activity(features, logits, pairs, margin):
    """Pair by pair and class by class; features and logits are lists of unpadded videos."""
    total, shared = 0.0, 0
    for i in range(0, 2 * pairs, 2):
        for c in np.flatnonzero(LABELS[i] * LABELS[i + 1]):
            high, low = [], []
            for feature, cas in zip(features[i : i + 2], logits[i : i + 2], strict=True):
                weight = oracles.softmax(cas[:, c])
                high.append(weight @ feature)
                low.append((1 - weight) / max(len(feature) - 1, 1) @ feature)
            near = 1 - cosine(*high)
            for far in (1 - cosine(high[0], low[1]), 1 - cosine(high[1], low[0])):
                total += 0.5 * max(near - far + margin, 0)
            shared += 1
    return total / max(shared, 1)


def cropped(array, b):
    return np.asarray(array, np.float64)[b, : LENGTHS[b]]


def assert_loss(found, want, rtol=2e-5):
    """The terms are those wanted, by name, and add up to the value."""
    assert found.terms.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(found.terms[name], value, rtol=rtol, err_msg=name)
    np.testing.assert_allclose(found.value, sum(want.values()), rtol=rtol / 2)


def assert_foreground(foreground, outputs, scores, divisor):
    """Q^A: of each video the snippets that score highest for one of its classes, the same for every embedding.

    Which of several that differ by round-off has the last place is left open: processors round differently.
    """
    assert len(foreground) == len(outputs.embedding)
    for labels in foreground:
        for b, n in enumerate(LENGTHS):
            own = scores(b)[:, LABELS[b] > 0]
            chosen = oracles.select_top_k(own[None], divisor)[0]
            last = np.where(chosen, own, np.inf).min(axis=0)
            level = np.isclose(own, last, rtol=1e-6, atol=0)
            clear = ~(level & (level.sum(axis=0) > 1)).any(axis=1)
            assert clear.any()
            np.testing.assert_array_equal(labels[b, :n][clear], chosen.any(axis=1)[clear])
            if own.shape[1] == 1:  # of several classes some may share a snippet
                assert labels[b, :n].sum() == chosen.sum()
            assert not labels[b, n:].any()


def assert_scores(got, want, **tolerance):
    """Of each video as `want` has it, (fused, video, ranked), which may be None; zeros in padding."""
    tolerance = tolerance or {"rtol": 1e-5}
    for b, n in enumerate(LENGTHS):
        fused, video, ranked = want(b)
        np.testing.assert_allclose(got.fused[b, :n], fused, **tolerance)
        np.testing.assert_allclose(got.video[b], video, **tolerance)
        if ranked is None:
            assert got.ranked is None
        else:
            np.testing.assert_allclose(got.ranked[b, :n], ranked, **tolerance)
    for array in (got.fused, got.ranked):
        assert array is None or not np.asarray(array)[~MASK].any()
