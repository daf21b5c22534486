"""Warm starts, total mass, and the constant between the potentials of relaxed marginals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_relaxed import relaxed_oracle

from casejax import ot

TOLERANT = {"epsilon": 0.05, "num_iters": 500, "tolerance": 1e-4}


@jax.jit
def tolerant(scores, column_init=None, row_init=None):
    return ot.sinkhorn(scores, column_init=column_init, row_init=row_init, **TOLERANT)


@pytest.mark.parametrize("offset", [0.0, 10.0])  # within a plain kernel, and beyond
def test_a_training_loop_carries_the_column_potential(rng, offset):
    """Scores that change a little: the same plans, in half of the iterations and fewer."""
    scores = rng.normal(size=(96, 6)).astype(np.float32) * 0.3 + np.float32(offset) * (np.arange(6) == 2)
    scores = scores.astype(np.float32)
    carried, cold, warm = jnp.zeros(6), 0, 0
    for _ in range(8):
        scores = scores + 0.01 * rng.normal(size=scores.shape).astype(np.float32)
        a, b = tolerant(scores), tolerant(scores, carried)
        assert bool(a.converged)
        assert bool(b.converged)
        np.testing.assert_allclose(a.plan, b.plan, atol=2e-3)
        carried, cold, warm = b.column_potential, cold + int(a.iterations), warm + int(b.iterations)
    assert warm < cold / 2
    for start in ({"column_init": b.column_potential}, {"row_init": b.row_potential}):
        assert int(tolerant(scores, **start).iterations) == 1


def test_a_truncated_iteration_goes_on_where_another_stopped(rng):
    for scale in (1, 40):  # within a plain kernel, and beyond
        scores = (scale * rng.normal(size=(20, 4))).astype(np.float32)
        whole = ot.sinkhorn(scores, epsilon=0.5, num_iters=6)
        first = ot.sinkhorn(scores, epsilon=0.5, num_iters=2)
        for start in ({"row_init": first.row_potential}, {"column_init": first.column_potential}):
            got = ot.sinkhorn(scores, epsilon=0.5, num_iters=4, **start)
            np.testing.assert_allclose(got.plan, whole.plan, rtol=1e-4, atol=1e-6)


def test_any_start_will_do(rng):
    """Far off, -inf, and of what takes no part: the plan of a start of 0."""
    scores = rng.normal(size=(30, 4)).astype(np.float32)
    mask, columns = np.arange(30) < 25, np.float32([1, 0, 2, 3])
    options = {"mask": mask, "column_marginal": columns, "epsilon": 0.3, "num_iters": 400, "tolerance": 1e-6}
    want = ot.sinkhorn(scores, **options)
    starts = [{"column_init": np.float32(x)} for x in ([900, 0, -900, 3], [-np.inf] * 4, [0, -np.inf, 0, -np.inf])]
    starts.append({"row_init": np.where(mask, rng.normal(size=30) * 30, np.nan).astype(np.float32)})
    for start in starts:
        got = ot.sinkhorn(scores, **options, **start)
        assert bool(got.converged), start
        np.testing.assert_allclose(got.plan, want.plan, atol=1e-5)


def test_bad_starts_are_seen():
    scores = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match="row_init or column_init, not both"):
        ot.sinkhorn(scores, row_init=jnp.zeros(4), column_init=jnp.zeros(3))
    with pytest.raises(ValueError, match="column_init must be neither NaN nor"):
        ot.sinkhorn(scores, column_init=[0, np.nan, 0])
    with pytest.raises(ValueError, match=r"column_init must have shape \(3,\), got \(4,\)"):
        ot.sinkhorn(scores, column_init=[0.0] * 4)
    got = jax.jit(lambda x: ot.sinkhorn(scores, column_init=x))(jnp.float32([0, jnp.nan, 0]))
    assert np.isnan(got.plan).all()
    assert not got.converged


def test_mass_scales_both_marginals(rng):
    scores = rng.normal(size=(10, 3)).astype(np.float32)
    marginals = {"mask": np.arange(10) != 4, "row_marginal": rng.uniform(1, 2, 10), "column_marginal": [1, 2, 3]}
    for options in ({}, marginals):
        plain, one = ot.sinkhorn(scores, **options), ot.sinkhorn(scores, mass=1, **options)
        np.testing.assert_allclose(one.plan, plain.plan / plain.plan.sum(), rtol=1e-5)
        np.testing.assert_allclose(one.column_error, plain.column_error, rtol=1e-4)
        np.testing.assert_allclose(one.plan.sum(), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="with a relaxation, scale row_marginal and column_marginal"):
        ot.sinkhorn(scores, mass=1, row_relaxation=1.0)
    with pytest.raises(ValueError, match="mass must be positive"):
        ot.sinkhorn(scores, mass=0)


def test_agrees_with_ott(rng):
    """Sign and mass: minus our scores is their cost, their plan has a mass of 1."""
    pytest.importorskip("ott")
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    scores = jnp.asarray(rng.normal(size=(12, 4)), jnp.float32)
    solver = Sinkhorn(threshold=1e-6, max_iterations=2000)
    with jax.numpy_rank_promotion("allow"):
        want = solver(LinearProblem(Geometry(cost_matrix=-scores, epsilon=0.3))).matrix
    got = ot.sinkhorn(scores, epsilon=0.3, mass=1, num_iters=500, tolerance=1e-6)
    np.testing.assert_allclose(got.plan, want, atol=1e-5)


@pytest.mark.parametrize(("row", "column"), [(10.0, 10.0), (200.0, 200.0), (3.0, 300.0), (None, 100.0)])
@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_strong_penalties_take_tens_of_iterations(rng, row, column, ratio):
    """Updates alone would take some relaxation / epsilon times ten of them."""
    scores = rng.normal(size=(40, 5))
    rows, columns = rng.uniform(0.5, 1, 40), rng.uniform(0.5, 1, 5)
    columns *= ratio * rows.sum() / columns.sum()
    options = {"epsilon": 0.3, "row_relaxation": row, "column_relaxation": column}
    marginals = {"row_marginal": rows.astype(np.float32), "column_marginal": columns.astype(np.float32)}
    got = ot.sinkhorn(scores.astype(np.float32), **marginals, **options, num_iters=200, tolerance=3e-6 * ratio**2)
    assert bool(got.converged)
    assert int(got.iterations) < 60
    want = relaxed_oracle(scores, rows=rows, columns=columns, prior=np.ones((40, 5)), num_iters=15_000, **options)
    np.testing.assert_allclose(got.plan, want, rtol=1e-3, atol=2e-5)
