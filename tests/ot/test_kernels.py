"""The plain and the wide kernel: one answer where both are safe, the right choice between them, ragged batches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from test_solver import problem

from casejax import ot
from casejax.ot import iteration, kernels, solver


def both(monkeypatch, *args, **keywords):
    """The result by the plain kernel and by the wide one, whatever the scores."""
    results = []
    for narrow in (True, False):
        monkeypatch.setattr(iteration, "is_narrow", lambda *_, narrow=narrow: jnp.asarray(narrow))
        solver._solve.clear_cache()
        results.append(ot.sinkhorn(*args, **keywords))
    monkeypatch.undo()
    solver._solve.clear_cache()
    return results


def test_both_kernels_and_the_oracle_agree(rng, monkeypatch):
    scores, prior, rows, columns = problem(rng, 1031, 5)  # a prime number of rows, which is filled up
    keywords = {"log_prior": np.log(prior), "row_marginal": rows, "column_marginal": columns, "epsilon": 0.1}
    want, u, v = oracles.sinkhorn(scores, prior=prior, rows=rows, columns=columns, epsilon=0.1)
    for got in both(monkeypatch, scores, **keywords):
        assert got.plan.shape == scores.shape
        np.testing.assert_allclose(got.plan, want, rtol=3e-6, atol=1e-30)
        np.testing.assert_allclose(got.row_potential, u, atol=1e-5)
        np.testing.assert_allclose(got.column_potential, v, atol=1e-5)
    to_tolerance = both(monkeypatch, scores, **keywords, num_iters=500, tolerance=1e-5)
    assert int(to_tolerance[0].iterations) == int(to_tolerance[1].iterations) > 3
    np.testing.assert_allclose(to_tolerance[0].plan, to_tolerance[1].plan, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("num_iters", [3, 40])
def test_a_plain_kernel_holds_up_to_its_reach(rng, num_iters):
    """Scores at both ends of the range at random, in blocks, and with a few outliers, at masses far from each other."""
    n, k, reach, one = 300, 16, kernels.REACH, jnp.float32(1.0)
    blocks = np.where((np.arange(n)[:, None] < n // 3) == (np.arange(k)[None, :] < k // 3), 1.0, -1.0)
    outliers = np.ones((n, k))
    outliers[rng.integers(0, n, 9), rng.integers(0, k, 9)] = -1
    rows = np.float32(10.0) ** rng.uniform(-3, 2.9, n).astype(np.float32)
    columns = np.float32(10.0) ** rng.uniform(-2.9, 3, k).astype(np.float32)
    for signs in (rng.choice([-1.0, 1.0], (n, k)), blocks, -blocks, outliers, -outliers):
        scores = (reach * signs).astype(np.float32)
        assert bool(kernels.is_narrow(jnp.asarray(scores), None, jnp.asarray(rows), jnp.asarray(columns), one))
        got = ot.sinkhorn(scores, row_marginal=rows, column_marginal=columns, epsilon=1.0, num_iters=num_iters)
        want, *_ = oracles.sinkhorn(scores, rows=rows, columns=columns, epsilon=1.0, num_iters=num_iters)
        np.testing.assert_allclose(got.plan, want, rtol=1e-5, atol=1e-30)


def test_what_a_plain_kernel_cannot_hold_goes_the_other_way():
    scores, ones = jnp.zeros((8, 3)), (jnp.ones(8), jnp.ones(3))

    def narrow(scores=scores, log_prior=None, rows=ones[0], columns=ones[1], epsilon=1.0):
        return bool(kernels.is_narrow(scores, log_prior, rows, columns, jnp.float32(epsilon)))

    assert narrow()
    assert narrow(scores + 20)
    assert not narrow(scores + 20, epsilon=0.5)
    assert not narrow(scores + 20, log_prior=scores - 5)
    assert not narrow(scores.at[2, 1].set(-jnp.inf))
    assert not narrow(scores.at[2, 1].set(jnp.nan))
    assert not narrow(log_prior=scores.at[0, 0].set(-jnp.inf))
    assert narrow(rows=ones[0].at[3].set(0))
    assert not narrow(rows=ones[0].at[3].set(1e-7))
    assert not narrow(columns=1e9 * ones[1])


def test_a_batch_chooses_once_and_keeps_a_branch(rng):
    scores = jnp.asarray(rng.normal(size=(2, 3, 20, 4)).astype(np.float32))
    solve = jax.vmap(jax.vmap(lambda s: ot.sinkhorn(s, epsilon=0.1)))

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient_and_plan(scores):
        plan = solve(scores).plan
        return (plan**2).sum(), plan

    assert " cond[" in str(jax.make_jaxpr(solve)(scores))
    far = scores.at[1, 2].multiply(100)  # one problem too wide for a plain kernel
    gradients = []
    for batch in (scores, far):
        gradient, plan = jax.device_get(gradient_and_plan(batch))
        for b in range(2):
            want, *_ = oracles.sinkhorn(np.asarray(batch)[b, 2], epsilon=0.1)
            np.testing.assert_allclose(plan[b, 2], want, rtol=1e-5, atol=1e-30)
        gradients.append(gradient)
    np.testing.assert_allclose(gradients[1][0], gradients[0][0], rtol=1e-3, atol=1e-6)
    assert np.isfinite(gradients[1]).all()


@pytest.mark.parametrize("tolerance", [None, 1e-4])
def test_a_ragged_batch_is_its_problems_one_by_one(rng, tolerance):
    lengths = [5, 30, 5]
    mask = np.arange(30) < np.array(lengths)[:, None]
    num_iters = 3 if tolerance is None else 200

    def solve(scores, mask=None):
        return ot.sinkhorn(scores, mask=mask, epsilon=0.5, num_iters=num_iters, tolerance=tolerance)

    side_by_side = jax.jit(jax.vmap(solve))
    for scale in (1.0, 30.0):
        scores = (scale * rng.uniform(-1, 1, (3, 30, 4))).astype(np.float32)
        got = jax.device_get(side_by_side(np.where(mask[:, :, None], scores, np.nan).astype(np.float32), mask))
        for b, length in enumerate(lengths):
            want = jax.device_get(solve(scores[b, :length]))
            if scale == 30 and tolerance is not None:
                # Round-off decides which accelerated steps are kept: the same problem within the tolerance, and the
                # same bits of what is padded alike.
                np.testing.assert_allclose(got.plan[b, :length], want.plan, atol=20 * tolerance)
                want = jax.tree.map(lambda x, n=length: x[:n] if x.shape[:1] == (30,) else x, solve(scores[b], mask[b]))
            np.testing.assert_allclose(got.plan[b, :length], want.plan, rtol=1e-5, atol=1e-30)
            assert not got.plan[b, length:].any()
            assert int(got.iterations[b]) == int(want.iterations)
            np.testing.assert_allclose(got.column_error[b], want.column_error, rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(got.row_potential[b, :length], want.row_potential, atol=2e-5 * scale)


def test_the_plan_needs_no_second_array_of_its_size(rng):
    """A plain kernel becomes the plan in place; the wide one, compiled beside it, is not to stand in the way."""
    n, k = 4000, 16
    scores = jnp.asarray(rng.normal(size=(n, k)).astype(np.float32))

    def solve(scores):
        kernel = kernels.plain_kernel(scores, None, jnp.float32(1.0))
        v = kernel.scaling(jnp.full(k, n / k), kernel.column_sums(kernel.ones(jnp.ones(n, bool))), None)
        u = kernel.scaling(jnp.ones(n), kernel.row_sums(v), None)
        return kernel.plan(u, v, kernel.column_sums(u))

    memory = jax.jit(solve).lower(scores).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.3 * scores.nbytes


@pytest.mark.parametrize("num_rows", [1, 17, 1024, 12_000, 12_007, 200_000, 10_000_000])
def test_parts_of_a_sum_are_short(num_rows):
    size = kernels.rows_a_part(num_rows)
    assert 1 <= size <= 128
    assert num_rows % size == 0 or num_rows == 12_007


@pytest.mark.parametrize("num_columns", [1, 2])  # XLA has another program for a single column
def test_ten_million_ones(num_columns):
    ones = jnp.ones((10_000_000, num_columns))
    np.testing.assert_allclose(kernels._sum_rows(jnp.full(10_000_000, 1.1), ones), 1.1e7, rtol=1e-6)
