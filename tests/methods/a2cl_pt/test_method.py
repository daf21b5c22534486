"""The method as the trainer has it: network with centers, loss, optimizer, and its scores."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from flax import nnx

from casejax.methods.a2cl_pt import METHOD
from casejax.methods.a2cl_pt.network import A2CLPTOwn
from casejax.methods.contract import Outputs, Step


@pytest.fixture(scope="module")
def batch():
    """Features, labels, mask: each class has a direction of its own, in half of a video's snippets."""
    rng = np.random.default_rng(3)
    labels = np.eye(3, dtype=np.float32)[np.arange(8) % 3]
    labels[0, 2] = 1
    mask = np.arange(10)[None] < rng.integers(6, 11, size=8)[:, None]
    acts = (rng.random((8, 10, 1)) < 0.5) * (labels @ rng.normal(size=(3, 5)))[:, None, :]
    return [(acts + 0.3 * rng.normal(size=(8, 10, 5))).astype(np.float32)], labels, mask


@pytest.fixture(scope="module")
def trainer():
    """A compiled step of network and centers, and where they start."""
    settings = replace(METHOD.settings, hidden=8, dropout=0.3, erase_divisor=5, multi_label_from=0.25, max_labels=2)

    def make():
        return METHOD.network((5,), 3, settings=settings, rngs=nnx.Rngs(0))

    graphdef, shapes = nnx.split(nnx.eval_shape(make), nnx.Param)
    optimizer = METHOD.optimizer(shapes, 1e-2, settings=settings, schedule=METHOD.schedule)

    @jax.jit
    def start():
        params = nnx.state(make(), nnx.Param)
        return params, optimizer.init(params)

    @jax.jit
    def step(state, features, labels, mask, done, center_weight):
        params, opt_state = state
        key = jax.random.fold_in(jax.random.key(0), done)

        def loss(params):
            network = nnx.merge(graphdef, params)
            outputs = network(features, key, mask=mask)
            own = replace(settings, center_weight=center_weight)
            found = METHOD.loss(outputs, labels, Step(network, done, total=40, key=key), settings=own, mask=mask)
            return found.value, found.terms

        (_, terms), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), terms, gradients

    return step, start()


def test_training_lowers_the_loss(batch, trainer):
    step, state = trainer
    losses = []
    for done in range(40):
        state, terms, _ = step(state, *batch, done, 1.0)
        losses.append([float(terms["loss_mil"]), float(terms["loss_center"])])
        assert int(terms["pairs"]) == (9 if done >= 9 else 7)  # the first step is 1
        assert int(terms["dropped_pairs"]) == 0
    assert (np.mean(losses[-3:], axis=0) < [0.75, 0.95] * np.mean(losses[10:13], axis=0)).all()


def test_what_stands_under_the_mask_is_inert(batch, trainer):
    step, state = trainer
    features, labels, mask = batch
    spoiled = [np.where(mask[:, :, None], x, np.nan) for x in features]
    clean, other = (step(state, x, labels, mask, 10, 1.0) for x in (features, spoiled))
    jax.tree.map(np.testing.assert_array_equal, clean, other)


def test_the_weight_of_the_center_losses_does_not_reach_the_centers(batch, trainer):
    step, state = trainer
    gradients = [jax.device_get(step(state, *batch, 10, weight)[2]) for weight in (0.0, 1.0, 2.0)]
    for a, b, c in zip(*(jax.tree.leaves(own["centers"]) for own in gradients), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(b, c)
        assert np.abs(a).max() > 0
    # That of the embedding is linear in it.
    without, with_one, with_two = (own["network"]["streams"][0]["second"]["kernel"][...] for own in gradients)
    assert np.abs(with_two - without).max() > 1e-3
    np.testing.assert_allclose(with_two - with_one, with_one - without, rtol=1e-3, atol=1e-6)


def test_scores_are_the_tcam_and_there_is_no_attention(rng):
    tcam, mask = rng.normal(size=(2, 9, 3)).astype(np.float32), np.arange(9)[None] < np.array([[9], [5]])
    outputs = Outputs((tcam,), (), own=A2CLPTOwn((tcam,), np.where(mask[:, :, None], tcam, np.float32(99))))
    settings = replace(METHOD.settings, divisor=2)
    score = jax.jit(lambda outputs: METHOD.score(outputs, (), settings=settings, mask=jnp.asarray(mask)))
    got = jax.device_get(score(outputs))
    for b, n in enumerate((9, 5)):
        pooled = np.sort(tcam[b, :n], axis=0)[-((n + 1) // 2) :].mean(axis=0)
        np.testing.assert_allclose(got.video[b], oracles.softmax(pooled), rtol=1e-5)
        np.testing.assert_array_equal(got.fused[b, :n], tcam[b, :n])
    assert got.attention is got.foreground is got.ranked is None
