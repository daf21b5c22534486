import jax
import numpy as np
import oracles

from casejax import ot
from casejax.labels import self_labels


def test_foreground_is_what_the_videos_classes_selected(rng):
    selected = rng.random((2, 6, 4)) < 0.4
    labels = np.array([[1, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    want = np.stack([selected[0, :, 0] | selected[0, :, 2], selected[1, :, 3]])
    np.testing.assert_array_equal(jax.jit(self_labels.foreground_labels)(selected, labels), want.astype(np.float32))


def test_the_mean_of_probabilities_is_handed_on_as_its_logarithm(rng):
    streams = list(rng.normal(size=(2, 5, 3)).astype(np.float32))
    mean = jax.jit(lambda streams: [self_labels.mean_probabilities(own) for own in (streams, streams[:1])])
    for got, own in zip(mean(streams), (streams, streams[:1]), strict=True):
        want = np.mean([oracles.softmax(np.float64(logits)) for logits in own], axis=0)
        np.testing.assert_allclose(np.exp(got), want, rtol=1e-5)


def test_transport_labels_are_the_plan_without_a_gradient(rng):
    logits = rng.normal(size=(30, 4)).astype(np.float32)
    columns = np.array([0.4, 0.3, 0.2, 0.1], np.float32)

    @jax.jit
    def solved(logits, columns):
        def total(logits):
            found = self_labels.transport_labels(logits, column_marginal=columns, epsilon=0.5)
            return (found.labels**2).sum(), found

        gradient, found = jax.grad(total, has_aux=True)(logits)
        return gradient, found, ot.sinkhorn(logits, column_marginal=columns, epsilon=0.5)

    gradient, got, want = jax.device_get(solved(logits, columns))
    plan, *_ = oracles.sinkhorn(logits, columns=columns, epsilon=0.5)
    np.testing.assert_allclose(got.labels, plan, rtol=1e-5)
    np.testing.assert_allclose([got.row_error, got.column_error], [want.row_error, want.column_error], rtol=1e-6)
    assert not gradient.any()


def test_labels_without_transport_collapse_where_those_with_it_do_not(rng):
    """Table 5: without the constraint most snippets can sit in one cluster; with it they cannot."""
    logits = (rng.normal(size=(60, 4)) * 0.1 + [3, 0, 0, 0]).astype(np.float32)

    @jax.jit
    def labelled(logits):
        free = self_labels.model_labels(logits)
        kept = self_labels.transport_labels(logits, num_iters=20)
        return free, kept, self_labels.harden(free.labels), self_labels.harden(0 * logits)

    free, kept, hard, nothing = labelled(logits)
    np.testing.assert_allclose(free.labels, oracles.softmax(logits), rtol=1e-5)
    assert float(free.column_error) > 1
    assert float(kept.column_error) < 0.05
    np.testing.assert_array_equal(hard, np.eye(4)[np.argmax(logits, 1)])
    assert not nothing.any()


def test_model_labels_ignore_masked_rows(rng):
    logits, mask = rng.normal(size=(10, 3)).astype(np.float32), np.arange(10) < 7
    logits[7:] = np.nan
    both = jax.jit(lambda x, mask: (self_labels.model_labels(x, mask=mask), self_labels.model_labels(x[:7])))
    got, want = jax.device_get(both(logits, mask))
    np.testing.assert_allclose(got.labels[:7], want.labels, rtol=1e-6)
    np.testing.assert_allclose(got.column_error, want.column_error, rtol=1e-5)
    assert not got.labels[7:].any()


def test_prototypes_are_weighted_means(rng):
    weights, embeddings = rng.random((20, 5)).astype(np.float32), rng.normal(size=(20, 8)).astype(np.float32)
    weights[:, 2] = 0
    got = jax.jit(self_labels.prototypes)(weights, embeddings)
    np.testing.assert_allclose(got, oracles.prototypes(weights, embeddings), rtol=1e-5, atol=1e-6)
    foreground, mask = (rng.random(20) < 0.3).astype(np.float32), rng.random(20) < 0.8
    both = jax.jit(lambda labels, mask: self_labels.foreground_background(labels, mask=mask))(foreground, mask)
    np.testing.assert_allclose(both, np.stack([foreground, 1 - foreground], 1) * mask[:, None])


def test_cluster_logits_are_scaled_cosines(rng):
    clusters, sides = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(2, 6)).astype(np.float32)
    norms = np.linalg.norm(clusters, axis=1)[:, None] * np.linalg.norm(sides, axis=1)[None]
    got = jax.jit(lambda clusters, sides: self_labels.cluster_logits(clusters, sides, temperature=7.0))(clusters, sides)
    np.testing.assert_allclose(got, 7 * clusters @ sides.T / norms, rtol=1e-5)
