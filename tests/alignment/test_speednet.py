from itertools import pairwise

import jax
import numpy as np
import pytest
from slopes import assert_gradient

from casejax.alignment import speednet


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(3)
    mask = np.arange(5)[None] < np.array([[5], [3], [1]])
    return rng.normal(size=(3, 5, 2)).astype(np.float32), mask


def test_features_are_mean_and_mean_change(clips):
    embeddings, mask = clips
    got = np.asarray(jax.jit(speednet.clip_features)(embeddings, mask=mask))
    for b, length in enumerate(mask.sum(axis=1)):
        frames = np.asarray(embeddings[b, :length], np.float64)
        changes = [np.abs(after - before) for before, after in pairwise(frames)]
        want = [*frames.mean(axis=0), *(np.mean(changes, axis=0) if changes else np.zeros(2))]
        np.testing.assert_allclose(got[b], want, rtol=1e-5, atol=1e-6)
    one_by_one = jax.jit(jax.vmap(lambda x, mask: speednet.clip_features(x, mask=mask)))(embeddings, mask)
    np.testing.assert_allclose(one_by_one, got, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(speednet.clip_features)(embeddings[0]), got[0], rtol=1e-6)


def test_change_shows_the_speed():
    """Of a movement at constant speed, every other frame changes twice as much around the same mean."""
    movement = np.outer(np.arange(9), [1.0, -0.5]).astype(np.float32)
    features = jax.jit(speednet.clip_features)
    slow, fast = (np.asarray(features(x)) for x in (movement[2:7], movement[::2]))
    np.testing.assert_allclose(slow[:2], fast[:2])
    np.testing.assert_allclose(2 * slow[2:], fast[2:])


def test_padding_is_inert(clips):
    embeddings, mask = clips
    gradient = jax.jit(jax.grad(lambda x, mask: (speednet.clip_features(x, mask=mask) ** 2).sum()))
    got = gradient(embeddings, mask)
    np.testing.assert_array_equal(got, gradient(np.where(mask[:, :, None], embeddings, np.nan), mask))
    assert (np.asarray(got)[~mask] == 0).all()
    assert np.abs(np.asarray(got)[mask]).min() > 0


def test_loss_is_binary_cross_entropy(rng):
    logits, labels = rng.normal(size=6), np.array([0, 1, 0, 1, 1, 0])
    p = 1 / (1 + np.exp(-logits))
    loss = jax.jit(speednet.speednet_loss)
    got = loss(logits.astype(np.float32), labels)
    np.testing.assert_allclose(got, -np.log(np.where(labels == 1, p, 1 - p)), rtol=1e-5)
    certain = loss(np.float32([-1e4, 1e4, 1e4, 0, 0, 0]), np.array([0, 0, 1, 0, 0, 0]))
    np.testing.assert_array_equal(certain[:3], [0, 1e4, 0])


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_finite_differences(clips):
    embeddings, mask = clips

    def loss(embeddings, mask, labels):
        logits = speednet.clip_features(embeddings, mask=mask).sum(axis=1)
        return speednet.speednet_loss(logits, labels).sum()

    loss = jax.jit(jax.value_and_grad(loss, argnums=(0,)))
    assert_gradient(lambda x: loss(x, mask, np.array([0, 1, 1])), (embeddings,))
