"""The centers' own gradient descent, on or around the unit sphere, beside the network's optimizer."""

import re

import jax
import numpy as np
import optax
import pytest

from casejax.methods.a2cl_pt.optimizer import center_update, network_and_centers, renormalise


def normalised(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def after(optimizer, rows, gradient, steps=1):
    """Rows after one update, of a state that has seen so many steps along the same gradient."""
    state = optimizer.init(rows)
    for _ in range(steps):
        updates, state = optimizer.update(gradient, state, rows)
    return optax.apply_updates(rows, updates)


def test_golden_steps_of_the_centers(golden):
    arrays, notes = golden.arrays("a2cl_pt"), golden.notes("a2cl_pt")
    moved = [key for key in arrays if re.fullmatch(r"full/it\d+/centers\d_after", key)]
    assert moved
    step = jax.jit(lambda rate, rows, gradient: after(center_update(rate), rows, gradient))
    for key in moved:
        rate = re.search(r"lr=([\d.]+)", notes["arrays"][re.sub(r"centers\d", "centers1", key)]["meaning"])
        before = arrays[key.replace("after", "before")]
        gradient = arrays[key.replace("centers", "grad_centers").removesuffix("_after")]
        np.testing.assert_allclose(step(float(rate[1]), before, gradient), arrays[key], rtol=1e-6, atol=1e-7)


def test_normalising_before_or_after_the_step(rng):
    rows, gradient = rng.normal(size=(2, 2, 4, 3))
    rows[1, 2] = gradient[1, 2] = 0

    @jax.jit
    def moved(rows, gradient):
        # it is the last link of any chain, here of gradient descent with momentum
        chain = optax.chain(optax.trace(0.9), optax.scale(-0.1), renormalise(before=False))
        once = [after(center_update(0.1, before=before), rows, gradient) for before in (True, False)]
        return *once, after(chain, rows, gradient, steps=2)

    wanted = normalised(rows) - 0.1 * gradient, *(normalised(rows - rate * gradient) for rate in (0.1, 0.1 * 1.9))
    for got, want in zip(moved(np.float32(rows), np.float32(gradient)), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_one_optimizer_of_network_and_centers(rng):
    """Centers go by their name, wherever it stands; each stream has a rate of its own."""

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def drawn():
        return {"network": {"w": normal(3), "b": normal()}, "centers": {0: normal(2, 4, 3), 1: normal(2, 4, 3)}}

    params, gradient = drawn(), drawn()
    schedule = optax.linear_schedule(0.2, 0.0, 2)
    optimizer, adam = network_and_centers(optax.adam(1e-2), (0.1, schedule)), optax.adam(1e-2)
    alone = params["network"]
    state, alone_state = jax.jit(lambda: (optimizer.init(params), adam.init(alone)))()

    @jax.jit
    def both(gradient, params, state, alone, alone_state):
        updates, state = optimizer.update(gradient, state, params)
        alone_updates, alone_state = adam.update(gradient["network"], alone_state, alone)
        return optax.apply_updates(params, updates), state, optax.apply_updates(alone, alone_updates), alone_state

    for step in range(2):
        before = params["centers"]
        params, state, alone, alone_state = both(gradient, params, state, alone, alone_state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params["network"], alone)
        for s, rate in enumerate((0.1, [0.2, 0.1][step])):
            want = normalised(np.asarray(before[s])) - rate * gradient["centers"][s]
            np.testing.assert_allclose(params["centers"][s], want, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="learning rate of the centers of each stream, got none"):
        network_and_centers(optax.adam(1e-2), ())
