"""Instances that a student is taught: what a batch sees of them, and which are kept."""

import jax.numpy as jnp
import numpy as np

from casejax.labels import Instances
from casejax.labels.instances import keep_instances


def test_a_batch_sees_what_lies_in_its_snippets():
    segments = jnp.asarray([[[2.0, 6.0], [8.0, 12.0], [20.0, 30.0], [0.0, 1.0]]])
    labels, weights = jnp.asarray([[0, 1, 2, 0]], jnp.int32), jnp.asarray([[0.5, 1.0, 1.0, 1.0]])
    mask = jnp.asarray([[True, True, True, False]])
    own = Instances(segments, labels, weights, mask, jnp.int32(1))
    seen = own.seen(jnp.asarray([0]), jnp.arange(5, 11)[None])
    np.testing.assert_array_equal(seen.mask[0], [True, True, False, False])
    np.testing.assert_array_equal(seen.segments[0, :2], [[0, 1], [3, 6]])
    np.testing.assert_array_equal(seen.weights[0, :2], [0, 1])  # a quarter of the first, three quarters of the second
    # behind the end of a video its last snippet is repeated
    end = own.seen(jnp.asarray([0]), jnp.minimum(jnp.arange(6, 16), 9)[None])
    np.testing.assert_array_equal(end.segments[0, 1], [2, 4])
    empty = Instances.empty(3, 2)
    assert empty.segments.shape == (3, 2, 2)
    assert not empty.mask.any()


def test_instances_are_kept_ignored_or_thrown_away_by_their_share_of_the_best():
    segment = np.array([[0.0, 10.0], [20.0, 24.0], [30.0, 40.0], [0.0, 5.0], [6.0, 8.0]])
    score, group = np.array([0.8, 0.5, 0.1, 0.02, -0.1]), np.array([4, 4, 4, 7, 9])
    spread = np.array([[1.0, 3.0], [0.0, 0.0], [0, 0], [0, 0], [0, 0]])
    weights, taken = keep_instances(segment, score, spread, group, keep=0.5, doubt=0.1, spread_weight=2.0)
    np.testing.assert_allclose(weights, [np.exp(-2 * 0.2), 0.5 / 0.8, 0, 1, 0])
    np.testing.assert_array_equal(taken, [True, True, True, True, False])
    nothing = keep_instances(np.empty((0, 2)), np.empty(0), np.empty((0, 2)), np.empty(0, int))
    assert not len(nothing.weights)
    assert not len(nothing.taken)
