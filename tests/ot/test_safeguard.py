"""The accelerated iteration on random problems of all kinds: never NaN, never falsely converged, never slower."""

import jax
import numpy as np
import pytest

from casejax import ot

MOST = 300


def problems(rng, count, n, k):
    """Scores, prior, marginals, mask and epsilon: ties, offsets, bands, masses from 1e-4 to 1, empty columns, bans."""
    epsilon = 1 / np.exp(rng.uniform(np.log(5), np.log(2000), count))
    kind = rng.integers(0, 4, count)[:, None, None]
    scores = rng.uniform(-1, 1, (count, n, k))
    bands = np.cos(3 * (np.linspace(0, 1, n)[:, None] - np.linspace(0, 1, k))) + scores / 20
    offsets = scores + rng.uniform(-1, 1, (count, n, 1))
    scores = np.select([kind == 1, kind == 2, kind == 3], [np.round(scores * 2) / 2, offsets, bands], scores)

    def masses(size):
        choice = rng.integers(0, 3, (count, 1))
        even, far = rng.uniform(0.2, 1, (count, size)), 10 ** rng.uniform(-4, 0, (count, size))
        drawn = np.select([choice == 1, choice == 2], [even, far], 1.0)
        if size > 2:
            drawn[:, 0] *= rng.random(count) < 0.8
        return drawn

    prior = np.where(rng.random((count, 1, 1)) < 0.3, rng.normal(size=(count, n, k)), 0)
    banned = (rng.random((count, n, k)) < 0.15) & (rng.random((count, 1, 1)) < 0.15)
    mask = (rng.random((count, n)) < 0.8) | (rng.random((count, 1)) < 0.7)
    mask[:, -1] = True
    arrays = scores, np.where(banned, -np.inf, prior), masses(n), masses(k)
    return *(x.astype(np.float32) for x in arrays), mask, epsilon.astype(np.float32)


def plain_iterations(scores, prior, rows, columns, mask, epsilon, tolerance):
    """Iterations in the log domain, in float64, until the column error holds; MOST + 1 where it never does."""
    rows, columns = (np.where(mask, rows, 0)).astype(float), columns.astype(float)
    columns *= rows.sum(axis=1, keepdims=True) / columns.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        kernel = scores.astype(float) / epsilon.astype(float)[:, None, None] + prior
        a, b = np.log(rows), np.log(columns)
        u = np.where(rows > 0, 0, -np.inf)
        needed = np.full(len(rows), MOST + 1)
        for done in range(1, MOST + 1):
            v = np.where(b > -np.inf, b - log_sum_exp(kernel + u[:, :, None], 1), -np.inf)
            v = np.where(v == np.inf, -np.inf, v)
            u = np.where(a > -np.inf, a - log_sum_exp(kernel + v[:, None, :], 2), -np.inf)
            u = np.where(u == np.inf, -np.inf, u)
            reached = np.exp(log_sum_exp(kernel + u[:, :, None], 1) + v)
            error = np.abs(np.where(np.isfinite(reached), reached, 0) - columns).sum(axis=1) / rows.sum(axis=1)
            needed = np.where((error <= tolerance) & (needed > MOST), done, needed)
    return needed


def log_sum_exp(x, axis):
    top = x.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    return np.squeeze(top, axis) + np.log(np.exp(x - top).sum(axis=axis))


@jax.jit
@jax.vmap
def solve(scores, prior, rows, columns, mask, epsilon, tolerance):
    marginals = {"row_marginal": rows, "column_marginal": columns, "mask": mask}
    return ot.sinkhorn(scores, log_prior=prior, **marginals, epsilon=epsilon, num_iters=MOST, tolerance=tolerance)


def check(rng, count, n, k, tolerance):
    arrays = problems(rng, count, n, k)
    got = jax.device_get(solve(*arrays, np.full(count, tolerance, np.float32)))
    assert np.isfinite(got.plan).all()
    _, _, rows, columns, mask, _ = arrays
    plan, rows = got.plan.astype(float), np.where(mask, rows, 0).astype(float)
    mass = rows.sum(axis=1)
    columns = columns / columns.sum(axis=1, keepdims=True) * mass[:, None]
    errors = [np.abs(plan.sum(axis=2) - rows).sum(axis=1) / mass, np.abs(plan.sum(axis=1) - columns).sum(axis=1) / mass]
    for error in errors:
        assert not (got.converged & (error > 1.05 * tolerance + 1e-6)).any()
    plain = plain_iterations(*arrays, 0.99 * tolerance)  # what round-off may ask for more
    solvable = plain <= MOST
    slow = solvable & (got.iterations > 1.2 * plain + 5)
    assert not slow.any(), (plain[slow], got.iterations[slow])
    assert solvable.mean() > 0.3
    return plain[solvable].sum(), got.iterations[solvable].sum()


def test_a_sample_of_all_problems(rng):
    plain, ours = check(rng, 300, 5, 3, 1e-4)
    assert ours < plain


COUNTS = {(1, 1): 3000, (2, 2): 3000, (3, 2): 3000, (16, 2): 3000, (1, 7): 3000, (5, 3): 3000, (16, 5): 3000}
COUNTS |= {(8, 8): 1500, (30, 12): 300, (64, 9): 100, (64, 64): 100}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "k"), COUNTS)
def test_all_problems(seed, n, k):
    for tolerance in (1e-3, 1e-4):
        check(np.random.default_rng(seed), COUNTS[n, k], n, k, tolerance)


def test_errors_are_shares_of_the_mass_that_moves(rng):
    """Relaxed rows give what the columns ask for, a millionth or a million times their own mass."""
    scores = rng.normal(size=(12, 4)).astype(np.float32)
    for mass in (1e-6, 1.0, 1e6):
        for num_iters in (2, 300):
            got = ot.sinkhorn(
                scores,
                column_marginal=np.full(4, mass, np.float32),
                row_relaxation=0.5,
                epsilon=0.3,
                num_iters=num_iters,
                tolerance=1e-4,
            )
            error = np.abs(np.asarray(got.plan).sum(axis=0) - mass).sum() / np.asarray(got.plan).sum()
            np.testing.assert_allclose(got.column_error, error, rtol=1e-2, atol=1e-6)
            assert bool(got.converged) == (num_iters == 300)
