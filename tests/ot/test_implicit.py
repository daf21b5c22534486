"""Derivatives of converged plans: against unrolling, finite differences, and where they must vanish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax import ot

N, K = 9, 4
MASK = np.array([True] * 3 + [False] + [True] * 5)
RELAXATIONS: list[dict[str, float]] = [{}, {"row": 0.7, "column": 0.4}]


def inputs(rng, spread=0.0):
    """Everything that sinkhorn has a derivative by, with a column without mass and rows far from each other."""
    columns = rng.uniform(0.5, 1, K)
    columns[1] = 0
    return {
        "scores": rng.normal(size=(N, K)) + spread * rng.choice([-1, 1], (N, 1)),
        "log_prior": rng.normal(size=(N, K)),
        "row_marginal": rng.uniform(0.5, 1, N),
        "column_marginal": columns,
        "epsilon": 0.4,
    }


def value(arrays, weights, relaxation, tolerance):
    """A number that depends on every entry of the plan, and on the potentials but for their common constant."""
    relaxations = {f"{side}_relaxation": x for side, x in relaxation.items()}
    keywords = {key: x for key, x in arrays.items() if key != "scores"}
    got = ot.sinkhorn(arrays["scores"], mask=MASK, num_iters=3000, tolerance=tolerance, **keywords, **relaxations)
    potentials = got.row_potential[MASK][:, None] + got.column_potential[np.array([0, 2, 3])][None, :]
    return (weights * got.plan).sum() + 0.1 * potentials.sum()


slopes = jax.jit(jax.value_and_grad(value, argnums=(0, 2)), static_argnums=3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=str)
def test_implicit_gradients_are_those_of_unrolling(rng, relaxation):
    weights = rng.normal(size=(N, K))
    for spread in (0.0, 30.0):  # within a plain kernel and beyond
        arrays = inputs(rng, spread)
        got, want = (slopes(arrays, weights, relaxation, tolerance) for tolerance in (1e-14, None))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
            assert np.abs(a).max() > 1e-3


@pytest.mark.usefixtures("x64")
def test_implicit_derivatives_are_those_of_finite_differences(rng):
    arrays, weights = inputs(rng), rng.normal(size=(N, K))
    positive = arrays["column_marginal"] > 0

    def of_inputs(scores, rows, columns, epsilon, relaxation):
        changed = arrays | {
            "scores": scores,
            "row_marginal": rows,
            "column_marginal": jnp.where(positive, columns, 0),
            "epsilon": epsilon,
        }
        return value(changed, weights, {"column": relaxation}, 1e-14)

    def along_of(arrays):
        return tuple(rng.normal(size=np.shape(x)) for x in arrays)

    def moved(arrays, along, step):
        return tuple(x + step * d for x, d in zip(arrays, along, strict=True))

    @jax.jit
    def first(at, along):
        """Value, its derivative along a direction, and its gradient."""
        return *jax.jvp(of_inputs, at, along), jax.grad(of_inputs, argnums=range(5))(*at)

    at, step = (arrays["scores"], arrays["row_marginal"], arrays["column_marginal"], 0.4, 0.5), 1e-6
    for along in (along_of(at), along_of(at)):
        _, forward, gradient = first(at, along)
        (above, *_), (below, *_) = (first(moved(at, along, e), along) for e in (step, -step))
        np.testing.assert_allclose(forward, (above - below) / (2 * step), rtol=1e-6)
        reverse = sum((np.asarray(g) * d).sum() for g, d in zip(gradient, along, strict=True))
        np.testing.assert_allclose(reverse, forward, rtol=1e-9)

    @jax.jit
    def second(scores, along):
        """Gradient, and its derivative along a direction: forward and reverse over forward and over reverse."""

        def of_scores(s):
            return value(arrays | {"scores": s}, weights, {}, 1e-14)

        def tangent(s):
            return jax.jvp(of_scores, (s,), (along,))[1]

        gradient, forward = jax.jvp(jax.grad(of_scores), (scores,), (along,))
        reverse = jax.grad(lambda s: (jax.grad(of_scores)(s) * along).sum())(scores)
        return gradient, forward, reverse, jax.grad(tangent)(scores), jax.jvp(tangent, (scores,), (along,))[1]

    (along,) = along_of(at[:1])
    _, forward, *others, twice = second(at[0], along)
    (above, *_), (below, *_) = (second(at[0] + e * along, along) for e in (step, -step))
    np.testing.assert_allclose(forward, (above - below) / (2 * step), rtol=1e-5, atol=1e-7)
    for other in others:
        np.testing.assert_allclose(other, forward, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(twice, (forward * along).sum(), rtol=1e-8)


def test_float32_and_batches(rng):
    scores, weights = rng.normal(size=(2, 3, N, K)).astype(np.float32)

    def loss(scores, tolerance):
        return (weights[0] * ot.sinkhorn(scores, epsilon=0.5, num_iters=100, tolerance=tolerance).plan).sum()

    got = jax.jit(jax.vmap(jax.grad(lambda s: loss(s, 1e-6))))(scores)
    want = jax.jit(jax.vmap(jax.grad(lambda s: loss(s, None))))(scores)
    np.testing.assert_allclose(got, want, atol=2e-5)
    # A plan with exact marginals knows nothing of constants added to rows and columns.
    np.testing.assert_allclose(got.sum(axis=1), 0, atol=2e-5)
    np.testing.assert_allclose(got.sum(axis=2), 0, atol=2e-5)


@pytest.mark.usefixtures("x64")  # the program of the exact marginals above
def test_what_takes_no_part_has_no_gradient(rng):
    arrays, weights = inputs(rng), rng.normal(size=(N, K))
    for name in ("scores", "log_prior"):
        arrays[name][~MASK], arrays[name][:, 1] = np.nan, np.nan
    got = jax.device_get(slopes(arrays, weights, {}, 1e-14)[1][0])
    assert all(np.isfinite(x).all() for x in got.values())
    for name in ("scores", "log_prior"):
        assert not got[name][~MASK].any()
        assert not got[name][:, 1].any()
        assert np.abs(got[name]).max() > 1e-3
    assert float(got["row_marginal"][3]) == 0
    assert abs(float(got["column_marginal"][1])) < 1e-6  # it scales the others, to which the plan is blind


@pytest.mark.usefixtures("x64")
def test_a_plan_in_two_blocks(rng):
    """Forbidden entries can split a plan; each half has a constant of its own, and the gradient that it has alone."""
    scores, weights = rng.normal(size=(2, 8, 4))
    forbidden = np.zeros((8, 4))
    forbidden[:4, :2], forbidden[4:, 2:] = -np.inf, -np.inf

    @jax.jit
    @jax.grad
    def gradient(scores, log_prior, mask, columns):
        """The other half takes no part where it is not there."""
        options = {"log_prior": log_prior, "mask": mask, "column_marginal": columns, "epsilon": 0.5}
        return (weights * ot.sinkhorn(scores, **options, num_iters=1000, tolerance=1e-13).plan).sum()

    got = np.asarray(gradient(scores, forbidden, np.ones(8, bool), np.ones(4)))
    alone = gradient(scores, np.zeros((8, 4)), np.arange(8) < 4, np.float64([0, 0, 1, 1]))
    np.testing.assert_allclose(got[:4, 2:], alone[:4, 2:], rtol=1e-9, atol=1e-11)
    assert not got[:4, :2].any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("relaxation", [{}, {"row_relaxation": 0.7, "column_relaxation": 0.4}, {"row_relaxation": 0.7}])
def test_fewer_rows_than_columns(rng, relaxation):
    """The equations of the rows are solved; potentials move as they do by those of the columns."""
    scores, rows, columns = rng.normal(size=(3, 7)), rng.uniform(0.5, 1, 3), rng.uniform(0.5, 1, 7)
    weights = rng.normal(size=(3, 7))

    def value(scores, rows, columns, tolerance):
        options = {"row_marginal": rows, "column_marginal": columns, "epsilon": 0.5, "num_iters": 2000}
        got = ot.sinkhorn(scores, **options, tolerance=tolerance, **relaxation)
        potentials = got.row_potential[:, None] + got.column_potential[None, :]
        return (weights * (got.plan + potentials)).sum()

    slope = jax.jit(jax.grad(value, argnums=(0, 1, 2)), static_argnums=3)
    for a, b in zip(slope(scores, rows, columns, 1e-14), slope(scores, rows, columns, None), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_mean_of_the_column_potential_stays(rng):
    for shape in ((3, 7), (7, 3)):
        scores, along = rng.normal(size=(2, *shape))
        options = {"epsilon": 0.5, "num_iters": 500, "tolerance": 1e-12}
        of_g = jax.jvp(lambda s, o=options: ot.sinkhorn(s, **o).column_potential, (scores,), (along,))[1]
        assert np.abs(of_g).max() > 1e-2
        assert abs(of_g.mean()) < 1e-9
