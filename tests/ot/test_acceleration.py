"""Anderson acceleration: the same plan in fewer iterations, and plain iterations where it would not help."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from casejax import ot
from casejax.ot.acceleration import MEMORY, Memory, remember

step = jax.jit(remember)  # else compiled operation by operation


def cosines(rng, n=400, k=8, d=6):
    rows, columns = rng.normal(size=(n, d)), rng.normal(size=(k, d))
    rows, columns = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, columns))
    return (rows @ columns.T).astype(np.float32)


def plain_iterations(scores, epsilon, tolerance, most=3000):
    """Iterations that the oracle needs without acceleration."""
    kernel = np.exp(scores.astype(np.float64) / epsilon)
    u = np.ones(len(scores))
    for done in range(1, most):
        v = len(scores) / scores.shape[1] / (u @ kernel)
        u = 1 / (kernel @ v)
        if np.abs(v * (u @ kernel) - len(scores) / scores.shape[1]).sum() / len(scores) <= tolerance:
            return done
    return most


@pytest.mark.parametrize("reach", [1.0, 60.0])  # a plain kernel, and a wide one
def test_the_converged_plan_comes_in_a_fraction_of_the_iterations(rng, reach):
    scores = cosines(rng)
    scores = scores + (reach * rng.uniform(-1, 1, (1, 8))).astype(np.float32) * (reach > 1)
    got = ot.sinkhorn(scores, epsilon=0.05, num_iters=1000, tolerance=3e-6)
    assert bool(got.converged)
    plain = plain_iterations(scores - scores.max(axis=0), 0.05, 3e-6)
    assert int(got.iterations) < plain / 2
    want, *_ = oracles.sinkhorn(scores, epsilon=0.05, num_iters=2000)
    np.testing.assert_allclose(got.plan, want, atol=2e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [2, 5])
def test_a_linear_map_is_solved_in_as_many_steps_as_it_has_dimensions(rng, size):
    symmetric = rng.normal(size=(size, size))
    matrix = symmetric @ symmetric.T
    matrix *= 0.95 / np.linalg.eigvalsh(matrix).max()
    offset = rng.normal(size=size)
    solution = np.linalg.solve(np.eye(size) - matrix, offset)
    none = jnp.zeros((MEMORY, 2, size))
    memory = Memory(none, none[0, 0], none[0, 0])
    x = np.zeros(size)
    for i in range(size + 2):
        residual = matrix @ x + offset - x
        memory = step(memory, jnp.asarray(residual), jnp.asarray(i > 0))
        x = x + residual + np.asarray(memory.correction)
    np.testing.assert_allclose(x, solution, rtol=1e-5)
    assert np.abs(np.linalg.matrix_power(matrix, size + 2) @ solution).max() > 1e-3  # plain steps are still far off


def test_what_was_no_use_is_forgotten(rng):
    pairs = jnp.asarray(rng.normal(size=(MEMORY, 2, 3)), jnp.float32)
    memory = Memory(pairs, pairs[0, 0], pairs[1, 0])
    residual = jnp.asarray([0.1, -0.2, 0.3])
    kept = step(memory, residual, jnp.asarray(True))
    assert np.asarray(kept.correction).any()
    lost = step(memory, residual, jnp.asarray(False))
    for leaf in (lost.correction, lost.pairs):
        assert not np.asarray(leaf).any()
    np.testing.assert_array_equal(lost.residual, residual)


def test_a_problem_without_a_solution_ends_and_says_so(rng):
    """Two columns that the same few rows alone may use: their marginals cannot be met."""
    scores = rng.uniform(-1, 1, (40, 4)).astype(np.float32)
    log_prior = np.zeros((40, 4), np.float32)
    log_prior[5:, :2] = -np.inf
    got = ot.sinkhorn(scores, log_prior=log_prior, num_iters=60, tolerance=1e-5)
    assert int(got.iterations) == 60
    assert not bool(got.converged)
    assert bool(jnp.isfinite(got.plan).all())
    np.testing.assert_allclose(got.plan.sum(axis=1), 1, rtol=1e-4)


def test_a_batch_stops_problem_by_problem(rng):
    scores = np.stack([np.float32(scale) * cosines(rng) for scale in (0.1, 1.0)])
    batch = jax.device_get(jax.vmap(lambda s: ot.sinkhorn(s, num_iters=1000, tolerance=1e-5))(scores))
    for b in range(2):
        alone = ot.sinkhorn(scores[b], epsilon=0.05, num_iters=1000, tolerance=1e-5)
        assert int(batch.iterations[b]) == int(alone.iterations)
        np.testing.assert_allclose(batch.plan[b], alone.plan, rtol=1e-4, atol=1e-7)
    assert int(batch.iterations[0]) < int(batch.iterations[1])
