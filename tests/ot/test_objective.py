"""The objective: against its definition, its own bound, POT, and finite differences of solved problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax import ot

MASK = np.arange(9) != 3
SOLVED = {"num_iters": 4000, "tolerance": 1e-13}
RELAXATIONS: list[dict] = [{}, {"row_relaxation": 0.7, "column_relaxation": 0.4}, {"column_relaxation": 0.4}]


def inputs(rng):
    columns = rng.uniform(0.5, 1, 4)
    columns[1] = 0
    prior = rng.normal(size=(9, 4))
    prior[0, 2] = -np.inf
    return {
        "scores": rng.normal(size=(9, 4)),
        "log_prior": prior,
        "row_marginal": rng.uniform(0.5, 1, 9),
        "column_marginal": columns,
        "epsilon": 0.4,
    }


def divergence(x, y):
    with np.errstate(divide="ignore", invalid="ignore"):
        return (np.where(x > 0, x * np.log(x / y), 0) - x + y).sum()


def by_definition(arrays, plan, row_relaxation=None, column_relaxation=None):
    rows, columns = np.where(MASK, arrays["row_marginal"], 0), arrays["column_marginal"]
    if row_relaxation is None and column_relaxation is None:
        columns = columns * rows.sum() / columns.sum()
    live = (rows > 0)[:, None] & (columns > 0)
    prior = np.where(live, np.exp(arrays["log_prior"]), 0)
    plans = [divergence(plan, prior), divergence(plan.sum(1), rows), divergence(plan.sum(0), columns)]
    score = (plan * arrays["scores"]).sum()
    strengths = arrays["epsilon"], row_relaxation or 0, column_relaxation or 0
    return score - np.dot(strengths, plans), [score, *plans]


def solved(arrays, relaxation, **options):
    scores, rest = arrays["scores"], {k: v for k, v in arrays.items() if k != "scores"}
    got = ot.sinkhorn(scores, mask=MASK, **rest, **relaxation, **(SOLVED | options))
    return got, ot.sinkhorn_objective(got, scores, mask=MASK, **rest, **relaxation)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=str)
def test_values_are_those_of_the_definition(rng, relaxation):
    arrays = inputs(rng)
    got, value = solved(arrays, relaxation)
    assert bool(got.converged)
    want, terms = by_definition(arrays, np.asarray(got.plan), **relaxation)
    np.testing.assert_allclose(value.primal, want, rtol=1e-12)
    np.testing.assert_allclose(value[2:], terms, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(value.dual, want, rtol=1e-10)
    _, early = solved(arrays, relaxation, num_iters=2)  # any potentials bound the value from above
    assert float(early.dual) > want + 1e-9
    if "row_relaxation" in relaxation:  # then any plan has a value, and none a greater one
        assert float(early.primal) < want - 1e-9


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("relaxation", RELAXATIONS[:2], ids=str)
def test_gradients_are_those_of_finite_differences(rng, relaxation):
    arrays = inputs(rng)
    names = ["scores", "row_marginal", "column_marginal", "epsilon"]
    at = [arrays[name] for name in names]

    def value(at):
        return solved(arrays | dict(zip(names, at, strict=True)), relaxation)[1]

    slopes = jax.jit(lambda at, along: jax.jvp(value, (at,), (along,)))
    gradients = jax.jit(lambda at: jax.jacrev(lambda at: value(at)[:2])(at))
    along, step = [rng.normal(size=np.shape(x)) for x in at], 1e-5
    along[2][1] = 0
    exact, slope = slopes(at, along)
    moved = [[x + e * d for x, d in zip(at, along, strict=True)] for e in (step, -step)]
    above, below = (slopes(x, along)[0] for x in moved)
    for name in exact._fields:
        difference = (getattr(above, name) - getattr(below, name)) / (2 * step)
        np.testing.assert_allclose(getattr(slope, name), difference, rtol=1e-6, atol=1e-9, err_msg=name)
    for field, gradient in enumerate(gradients(at)):
        np.testing.assert_allclose(sum((g * d).sum() for g, d in zip(gradient, along, strict=True)), slope[field])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_second_derivatives_go_through_the_result(rng):
    arrays = inputs(rng)
    names = ["scores", "row_marginal", "column_marginal", "epsilon"]
    at, step = [arrays[name] for name in names], 1e-5
    along = [rng.normal(size=np.shape(x)) for x in at]
    along[2][1] = 0
    gradient_of = jax.grad(lambda at: solved(arrays | dict(zip(names, at, strict=True)), {})[1].primal)
    plan, change = jax.jit(lambda at, along: jax.jvp(gradient_of, (at,), (along,)))(at, along)
    np.testing.assert_allclose(plan[0].sum(), at[1][MASK].sum(), rtol=1e-9)
    gradients = [jax.jit(gradient_of)([x + e * d for x, d in zip(at, along, strict=True)]) for e in (step, -step)]
    difference = [(a - b) / (2 * step) for a, b in zip(*gradients, strict=True)]
    change[2], difference[2] = (x[2][arrays["column_marginal"] > 0] for x in (change, difference))
    for a, b in zip(change, difference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_agrees_with_pot(rng):
    """Their entropic cost, which has no mass in its entropy, of a mass of 1."""
    pot = pytest.importorskip("ot")
    scores = rng.normal(size=(12, 4))
    plan, log = pot.bregman.sinkhorn(
        np.full(12, 1 / 12), np.full(4, 1 / 4), -scores, 0.3, stopThr=1e-12, numItermax=5000, log=True
    )
    got = ot.sinkhorn(scores, epsilon=0.3, mass=1, **SOLVED)
    value = ot.sinkhorn_objective(got, scores, epsilon=0.3, mass=1)
    np.testing.assert_allclose(value.score, (plan * scores).sum(), rtol=1e-9)
    entropy = (plan * np.log(plan)).sum()
    np.testing.assert_allclose(value.prior_divergence, entropy - 1 + 48, rtol=1e-9)
    assert "u" in log


def test_float32_far_scores_and_what_takes_no_part(rng):
    scores = (100 * rng.normal(size=(9, 4))).astype(np.float32)
    scores[3] = np.nan
    options = {"mask": MASK, "epsilon": 0.05}

    @jax.jit
    @jax.value_and_grad
    def value(scores):
        got = ot.sinkhorn(jax.lax.stop_gradient(scores), num_iters=300, tolerance=1e-4, **options)
        return ot.sinkhorn_objective(got, scores, **options).primal

    primal, gradient = value(scores)
    got = ot.sinkhorn(scores, num_iters=300, tolerance=1e-4, **options)
    np.testing.assert_allclose(gradient, got.plan, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(primal, (np.where(MASK[:, None], scores, 0) * got.plan).sum(), rtol=2e-2)
    with pytest.raises(ValueError, match=r"result.plan must have shape \(4, 9\)"):
        ot.sinkhorn_objective(got, jnp.zeros((4, 9)))
