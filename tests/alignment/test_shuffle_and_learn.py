import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from slopes import assert_gradient

from casejax.alignment import shuffle_and_learn as sal


def published(golden):
    arrays = golden.arrays("gta/baselines")
    return {key.removeprefix("sal/"): array for key, array in arrays.items() if key.startswith("sal/")}


def test_published_draws_are_what_their_labels_say(golden):
    draws, notes = published(golden), golden.notes("gta/baselines")["results"]["sal"]
    shuffled = draws["labels"].argmax(axis=1) == 1
    assert shuffled.mean() == notes["label1_fraction"]
    frames = jnp.asarray(draws["indices"], jnp.int32)
    np.testing.assert_array_equal(sal.in_order(frames), ~shuffled)


def test_published_features_loss_and_gradient(golden):
    draws = published(golden)
    rows, labels = len(draws["indices"]), jnp.asarray(draws["labels"].argmax(axis=1), jnp.int32)
    videos = jnp.arange(rows, dtype=jnp.int32) % len(draws["E"])

    @jax.jit
    @jax.value_and_grad
    def loss(embeddings):
        x = sal.triplet_features(embeddings, videos, jnp.asarray(draws["indices"], jnp.int32))
        depth = sum(key.startswith("W") for key in draws) // 2
        for layer in range(depth):
            x = jnp.matmul(x, draws[f"W{2 * layer}"], precision="highest") + draws[f"W{2 * layer + 1}"][None]
            x = jax.nn.relu(x) if layer < depth - 1 else x
        return sal.shuffle_and_learn_loss(x, labels).mean()

    features = sal.triplet_features(jnp.asarray(draws["E"]), videos, jnp.asarray(draws["indices"], jnp.int32))
    np.testing.assert_array_equal(features, draws["concat"])
    got, gradient = loss(jnp.asarray(draws["E"]))
    np.testing.assert_allclose(got, draws["loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient, draws["grad"], rtol=0, atol=2e-6 * np.abs(draws["grad"]).max())
    np.testing.assert_allclose(
        sal.shuffle_and_learn_loss(jnp.asarray(draws["logits"]), labels),
        oracles.cross_entropy(draws["logits"].astype(float), draws["labels"]),
        rtol=1e-5,
    )


def test_order_of_three_frames():
    every = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    want = [tuple(frames) in {(0, 1, 2), (2, 1, 0)} for frames in every]
    np.testing.assert_array_equal(sal.in_order(jnp.asarray(every, jnp.int32)), want)


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_finite_differences(rng):
    loss = jax.jit(jax.value_and_grad(lambda x, y: sal.shuffle_and_learn_loss(x, y).sum(), argnums=(0,)))
    assert_gradient(lambda x: loss(x, np.array([0, 1, 1])), (rng.normal(size=(3, 2)),))
