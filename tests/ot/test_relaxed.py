"""Relaxed marginals: against a slow float64 iteration, POT, the functional itself, and the exact limit."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from test_solver import problem

from casejax import ot

SIDES = [(0.3, None), (None, 0.4), (0.3, 0.4)]


def relaxed_oracle(scores, *, rows, columns, prior, epsilon, row_relaxation, column_relaxation, num_iters):
    """Log-domain updates, each raised to relaxation / (relaxation + epsilon); the masses are taken as they are."""
    kernel = np.asarray(scores, np.float64) / epsilon + np.log(np.asarray(prior, np.float64))
    p, q = (1 if x is None else x / (x + epsilon) for x in (row_relaxation, column_relaxation))
    u = np.zeros(len(rows))
    for _ in range(num_iters):
        v = q * (np.log(np.asarray(columns, np.float64)) - oracles.log_sum_exp(kernel + u[:, None], 0))
        u = p * (np.log(np.asarray(rows, np.float64)) - oracles.log_sum_exp(kernel + v[None, :], 1))
    return np.exp(kernel + u[:, None] + v[None, :])


@pytest.mark.parametrize(("row_relaxation", "column_relaxation"), SIDES)
@pytest.mark.parametrize("reach", [1.0, 30.0])  # within a plain kernel and beyond
def test_agrees_with_the_oracle(rng, reach, row_relaxation, column_relaxation):
    epsilon = 0.2
    scores, prior, rows, columns = problem(rng, scale=reach * epsilon)
    keywords = {
        "epsilon": epsilon,
        "num_iters": 7,
        "row_relaxation": row_relaxation,
        "column_relaxation": column_relaxation,
    }
    got = ot.sinkhorn(scores, log_prior=jnp.log(prior), row_marginal=rows, column_marginal=columns, **keywords)
    want = relaxed_oracle(scores, rows=rows, columns=columns, prior=prior, **keywords)
    np.testing.assert_allclose(got.plan, want, rtol=1e-5, atol=1e-30)
    kernel = scores.astype(np.float64) / epsilon + np.log(prior) + np.asarray(got.row_potential, np.float64)[:, None]
    np.testing.assert_allclose(got.plan, np.exp(kernel + np.asarray(got.column_potential)), rtol=1e-4, atol=1e-20)


def test_far_scores_stay_finite_and_right_as_far_as_the_power_is(rng):
    scores, prior, rows, columns = problem(rng, scale=5e3 * 0.2)
    keywords = {"epsilon": 0.2, "num_iters": 4, "row_relaxation": 0.25, "column_relaxation": 3.0}
    got = ot.sinkhorn(scores, log_prior=jnp.log(prior), row_marginal=rows, column_marginal=columns, **keywords)
    want = relaxed_oracle(scores, rows=rows, columns=columns, prior=prior, **keywords)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in got.row_potential)
    u = np.log(np.maximum(want, 1e-300)) - np.log(np.maximum(np.asarray(got.plan, np.float64), 1e-300))
    seen = (want > 1e-25) & (want < 1e25)
    assert seen.any()
    assert np.abs(u[seen]).max() < 5e3 * 1e-6


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("row_relaxation", "column_relaxation"), SIDES)
def test_no_other_plan_has_a_greater_value(rng, row_relaxation, column_relaxation):
    """The functional of the docstring is stationary at the plan, along every direction that keeps exact marginals."""
    epsilon = 0.3
    scores, prior, rows, columns = (x.astype(np.float64) for x in problem(rng, 8, 4))
    columns *= 3  # masses that do not agree
    got = ot.sinkhorn(
        scores,
        log_prior=np.log(prior),
        row_marginal=rows,
        column_marginal=columns,
        epsilon=epsilon,
        row_relaxation=row_relaxation,
        column_relaxation=column_relaxation,
        num_iters=2000,
        tolerance=1e-13,
    )
    assert bool(got.converged)
    plan = np.asarray(got.plan)

    def divergence(x, y):
        return (x * np.log(x / y) - x + y).sum()

    def value(q):
        penalty = epsilon * divergence(q, prior)
        penalty += 0 if row_relaxation is None else row_relaxation * divergence(q.sum(1), rows)
        penalty += 0 if column_relaxation is None else column_relaxation * divergence(q.sum(0), columns)
        return (q * scores).sum() - penalty

    for _ in range(20):
        direction = rng.normal(size=plan.shape) * plan
        if row_relaxation is None:
            direction -= plan * direction.sum(1, keepdims=True) / plan.sum(1, keepdims=True)
        if column_relaxation is None:
            direction -= plan * direction.sum(0) / plan.sum(0)
        step = 1e-3
        up, here, down = (value(plan + t * direction) for t in (step, 0, -step))
        assert here > max(up, down)
        assert abs(up - down) < 1e-3 * (2 * here - up - down)
    if row_relaxation is None:
        np.testing.assert_allclose(plan.sum(1), rows, rtol=1e-12)
    if column_relaxation is None:
        np.testing.assert_allclose(plan.sum(0), columns, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_agrees_with_pot(rng):
    pot = pytest.importorskip("ot")
    scores, _, rows, columns = (x.astype(np.float64) for x in problem(rng))
    want = pot.unbalanced.sinkhorn_unbalanced(
        rows, columns, -scores, 0.3, (0.5, 0.8), c=np.ones(scores.shape), numItermax=5000, stopThr=1e-14
    )
    got = ot.sinkhorn(
        scores,
        row_marginal=rows,
        column_marginal=columns,
        epsilon=0.3,
        row_relaxation=0.5,
        column_relaxation=0.8,
        num_iters=5000,
        tolerance=1e-14,
    )
    np.testing.assert_allclose(got.plan, want, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_a_strong_penalty_is_an_exact_marginal_and_a_weak_one_is_none(rng):
    scores = rng.normal(size=(30, 5))
    columns = rng.uniform(0.5, 1, 5)
    columns *= 30 / columns.sum()
    keywords = {"column_marginal": columns, "epsilon": 0.5, "num_iters": 500}
    exact = ot.sinkhorn(scores, **keywords)
    np.testing.assert_allclose(ot.sinkhorn(scores, column_relaxation=1e7, **keywords).plan, exact.plan, rtol=1e-5)
    free = ot.sinkhorn(scores, column_relaxation=1e-9, **keywords).plan
    np.testing.assert_allclose(free, jax.nn.softmax(scores / 0.5), rtol=1e-6)
    middle = ot.sinkhorn(scores, column_relaxation=0.5, **keywords)
    misses = [np.abs(x.sum(0) - columns).sum() for x in (exact.plan, middle.plan, free)]
    assert misses[0] < 1e-9 < 1e-2 < misses[1] < misses[2]
    np.testing.assert_allclose(middle.plan.sum(1), 1, rtol=1e-12)
    assert bool(middle.converged)  # the error is that of the wish, not of the marginal


@pytest.mark.parametrize("name", ["row_relaxation", "column_relaxation"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_unusable_relaxations_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got {value}"):
        ot.sinkhorn(jnp.zeros((4, 3)), **{name: value})
