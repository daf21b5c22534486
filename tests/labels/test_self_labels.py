import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles

from casejax import losses, ot
from casejax.labels import self_labels


def test_foreground_is_what_the_videos_classes_selected(rng):
    selected = rng.random((2, 6, 4)) < 0.4
    labels = np.array([[1, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    want = np.stack([selected[0, :, 0] | selected[0, :, 2], selected[1, :, 3]])
    got = self_labels.foreground_labels(jnp.asarray(selected), jnp.asarray(labels))
    np.testing.assert_array_equal(got, want.astype(np.float32))


def test_fusing_streams(rng):
    streams = [jnp.asarray(rng.normal(size=(5, 3)).astype(np.float32)) for _ in range(2)]
    np.testing.assert_allclose(losses.stream_mean(streams), (streams[0] + streams[1]) / 2, rtol=1e-6)
    mean = sum(oracles.softmax(np.asarray(s, np.float64)) for s in streams) / 2
    np.testing.assert_allclose(np.exp(self_labels.mean_probabilities(streams)), mean, rtol=1e-5)
    np.testing.assert_allclose(losses.stream_mean(streams[:1]), streams[0])
    np.testing.assert_allclose(
        jax.nn.softmax(self_labels.mean_probabilities(streams[:1])), jax.nn.softmax(streams[0]), rtol=1e-6
    )


def test_transport_labels_are_the_plan_without_a_gradient(rng):
    logits = jnp.asarray(rng.normal(size=(30, 4)).astype(np.float32))
    columns = jnp.asarray([0.4, 0.3, 0.2, 0.1])
    got = self_labels.transport_labels(logits, column_marginal=columns, epsilon=0.5)
    plan, *_ = oracles.sinkhorn(logits, columns=columns, epsilon=0.5)
    np.testing.assert_allclose(got.labels, plan, rtol=1e-5)
    want = ot.sinkhorn(logits, column_marginal=columns, epsilon=0.5)
    chex.assert_trees_all_close((got.row_error, got.column_error), (want.row_error, want.column_error))
    gradient = jax.grad(lambda x: (self_labels.transport_labels(x).labels ** 2).sum())(logits)
    assert float(jnp.abs(gradient).max()) == 0


def test_labels_without_transport_collapse_where_those_with_it_do_not(rng):
    """Table 5: without the constraint most snippets can sit in one cluster; with it they cannot."""
    logits = jnp.asarray((rng.normal(size=(60, 4)) * 0.1 + [3, 0, 0, 0]).astype(np.float32))
    free = self_labels.model_labels(logits)
    np.testing.assert_allclose(free.labels, oracles.softmax(np.asarray(logits)), rtol=1e-5)
    kept = self_labels.transport_labels(logits, num_iters=20)
    assert float(free.column_error) > 1
    assert float(kept.column_error) < 0.05
    hard = self_labels.harden(free.labels)
    np.testing.assert_array_equal(hard, np.eye(4)[np.argmax(logits, 1)])
    assert float(self_labels.harden(jnp.zeros((2, 3))).sum()) == 0


def test_model_labels_ignore_masked_rows(rng):
    logits = rng.normal(size=(10, 3)).astype(np.float32)
    mask = np.arange(10) < 7
    logits[7:] = np.nan
    got = self_labels.model_labels(jnp.asarray(logits), mask=jnp.asarray(mask))
    want = self_labels.model_labels(jnp.asarray(logits[:7]))
    np.testing.assert_allclose(got.labels[:7], want.labels, rtol=1e-6)
    np.testing.assert_allclose(got.column_error, want.column_error, rtol=1e-5)
    assert float(got.labels[7:].sum()) == 0


def test_prototypes_are_weighted_means(rng):
    weights, embeddings = rng.random((20, 5)).astype(np.float32), rng.normal(size=(20, 8)).astype(np.float32)
    weights[:, 2] = 0
    got = self_labels.prototypes(jnp.asarray(weights), jnp.asarray(embeddings))
    np.testing.assert_allclose(got, oracles.prototypes(weights, embeddings), rtol=1e-5, atol=1e-6)
    foreground = (rng.random(20) < 0.3).astype(np.float32)
    mask = rng.random(20) < 0.8
    both = self_labels.foreground_background(jnp.asarray(foreground), mask=jnp.asarray(mask))
    np.testing.assert_allclose(both, np.stack([foreground, 1 - foreground], 1) * mask[:, None])


def test_cluster_logits_are_scaled_cosines(rng):
    clusters, sides = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(2, 6)).astype(np.float32)
    norms = np.linalg.norm(clusters, axis=1)[:, None] * np.linalg.norm(sides, axis=1)[None]
    got = self_labels.cluster_logits(jnp.asarray(clusters), jnp.asarray(sides), temperature=7.0)
    np.testing.assert_allclose(got, 7 * clusters @ sides.T / norms, rtol=1e-5)


def test_unit_vectors_are_safe_at_zero():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0], [1e15, 1e15]])
    np.testing.assert_allclose(losses.unit(x), [[0.6, 0.8], [0, 0], [0, 0], [0.5**0.5] * 2], rtol=1e-6)
    gradient = jax.grad(lambda x: losses.unit(x)[:, 0].sum())(x)
    assert bool(jnp.isfinite(gradient).all())
    assert float(jnp.abs(gradient[1]).max()) == 0


def test_entropy():
    np.testing.assert_allclose(losses.entropy(jnp.asarray([[0.25] * 4, [1.0, 0, 0, 0]])), [np.log(4), 0], rtol=1e-6)
