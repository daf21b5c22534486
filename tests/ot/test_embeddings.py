"""Scores in parts and rows over devices: the plan of all scores on one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from casejax import ot

N, K, D = 136, 5, 3
OPTIONS: dict[str, dict] = {
    "truncated": {"epsilon": 0.5},
    "tolerance": {"epsilon": 0.5, "num_iters": 100, "tolerance": 1e-5},
    "far": {"epsilon": 0.01},
    "mass": {"epsilon": 0.5, "mass": 1.0},
}
RELAXED = {"epsilon": 0.5, "row_relaxation": 3.0, "column_relaxation": 2.0, "num_iters": 100, "tolerance": 1e-5}
OPTIONS |= {
    "relaxed": RELAXED,
    "relaxed rows": {"epsilon": 0.5, "row_relaxation": 3.0, "num_iters": 100, "tolerance": 1e-5},
    "relaxed columns, truncated": {"epsilon": 0.5, "column_relaxation": 2.0},
}


def problem(rng):
    embeddings, prototypes = rng.normal(size=(N, D)), rng.normal(size=(K, D))
    arrays = {"row_marginal": rng.uniform(0.5, 1, N), "column_marginal": rng.uniform(0.5, 1, K)}
    marginals = {name: x.astype(np.float32) for name, x in arrays.items()}
    return embeddings.astype(np.float32), prototypes.astype(np.float32), marginals, rng.random(N) < 0.9


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("rows_at_once", [50, 1000])
def test_parts_give_the_plan_of_all_scores(rng, kind, rows_at_once):
    embeddings, prototypes, marginals, mask = problem(rng)
    embeddings[~mask] = np.nan
    options = OPTIONS[kind] | marginals | {"mask": mask}
    scores = np.where(mask[:, None], embeddings, 0) @ prototypes.T
    want = ot.sinkhorn(scores, **options)
    got = ot.sinkhorn_embeddings(embeddings, prototypes, rows_at_once=rows_at_once, **options)
    plan = np.exp(
        np.asarray(got.row_potential)[:, None] + np.asarray(got.column_potential) + scores / options["epsilon"]
    )
    np.testing.assert_allclose(plan * mask[:, None], want.plan, rtol=2e-3, atol=1e-5)
    assert abs(int(got.iterations) - int(want.iterations)) <= 1
    assert bool(got.converged) == bool(want.converged) == ("tolerance" in options)
    np.testing.assert_allclose(got.column_error, want.column_error, rtol=1e-3, atol=1e-5)


def distances(prototypes, rows):
    return -((rows[:, None, :] - prototypes[None, :, :]) ** 2).sum(axis=2)


@pytest.mark.parametrize("kind", ["tolerance", "relaxed"])
def test_a_function_makes_the_scores_of_some_rows(rng, kind):
    embeddings, prototypes, marginals, mask = problem(rng)
    scores, options = distances(prototypes, embeddings), OPTIONS[kind] | marginals | {"mask": mask}
    scores[:, 2] = np.where(embeddings[:, 0] > 1, -np.inf, scores[:, 2])
    embeddings[~mask] = np.nan

    def score(prototypes, rows):
        allowed = (rows[:, :1] <= 1) | (jnp.arange(K) != 2)[None, :]
        return jnp.where(allowed, distances(prototypes, rows), -jnp.inf)

    forbidden = np.where(np.isinf(scores), -np.inf, 0).astype(np.float32)
    want = ot.sinkhorn(np.where(np.isinf(scores), 0, scores), log_prior=forbidden, **options)
    got = ot.sinkhorn_embeddings(embeddings, jax.tree_util.Partial(score, prototypes), rows_at_once=50, **options)
    plan = np.exp(
        np.asarray(got.row_potential)[:, None] + np.asarray(got.column_potential) + scores / options["epsilon"]
    )
    np.testing.assert_allclose(plan * mask[:, None], want.plan, rtol=2e-3, atol=1e-5)
    assert bool(got.converged)
    assert abs(int(got.iterations) - int(want.iterations)) <= 1


def test_one_function_of_other_arrays_is_compiled_once(rng):
    embeddings, prototypes, _, _ = problem(rng)
    traced = []

    def score(prototypes, rows):
        traced.append(rows.shape)
        return distances(prototypes, rows)

    def solve(prototypes):
        return ot.sinkhorn_embeddings(embeddings, jax.tree_util.Partial(score, prototypes), epsilon=0.5)

    solve(prototypes)
    whole = len([shape for shape in traced if shape[0] == N])
    got = solve(prototypes + 1)
    assert len([shape for shape in traced if shape[0] == N]) == whole > 0
    np.testing.assert_allclose(
        got.column_potential,
        ot.sinkhorn(distances(prototypes + 1, embeddings), epsilon=0.5).column_potential,
        rtol=1e-4,
        atol=1e-4,
    )


def test_broken_scores_of_a_function_are_seen(rng):
    embeddings, prototypes, _, _ = problem(rng)
    with pytest.raises(ValueError, match=r"scores of 2 rows must be numbers \(2, K\), got .*shape=\(2,\)"):
        ot.sinkhorn_embeddings(embeddings, lambda rows: rows[:, 0])
    with pytest.raises(ValueError, match="mass scales exact marginals"):
        ot.sinkhorn_embeddings(embeddings, prototypes, mass=1.0, row_relaxation=1.0)
    for wrong in (np.nan, np.inf):
        got = ot.sinkhorn_embeddings(embeddings, lambda rows, x=wrong: jnp.where(rows > 1, x, rows), epsilon=0.5)
        assert np.isnan(got.column_error)
        assert not got.converged


def test_bad_input_is_seen(rng):
    embeddings, prototypes, _, _ = problem(rng)
    with pytest.raises(ValueError, match="prototypes must have the 3 numbers of an embedding each, got 2"):
        ot.sinkhorn_embeddings(embeddings.tolist(), prototypes[:, :2].tolist())
    with pytest.raises(ValueError, match="embeddings must be neither NaN nor"):
        ot.sinkhorn_embeddings(embeddings * np.float32(np.nan), prototypes)
    got = jax.jit(lambda p: ot.sinkhorn_embeddings(embeddings, p))(prototypes * np.float32(np.inf))
    assert np.isnan(got.column_error)
    assert not got.converged


def sharded(function, *in_specs, out_specs):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs))


ROWS = ot.SinkhornOutput(P("d"), P("d"), *[P()] * 5)


@pytest.mark.parametrize("kind", ["tolerance", "far", "relaxed"])
def test_rows_over_devices_give_the_plan_of_one(rng, kind):
    """With the default checks of `shard_map`, which know that what belongs to columns is the same everywhere."""
    embeddings, prototypes, marginals, mask = problem(rng)
    scores, options = embeddings @ prototypes.T, OPTIONS.get(kind, RELAXED)
    rows, columns = marginals.values()
    weights = rng.normal(size=(N, K)).astype(np.float32)

    def solve(scores, rows, columns, mask, weights, axis_name=None):
        def loss(scores):
            given = {"row_marginal": rows, "column_marginal": columns, "mask": mask, "axis_name": axis_name} | options
            got = ot.sinkhorn(scores, **given)
            given = {k: v for k, v in given.items() if k not in ("num_iters", "tolerance")}
            return (got.plan * weights).sum(), (got, ot.sinkhorn_objective(got, scores, **given))

        (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(scores)
        return *found, gradient

    arrays = scores, rows, columns, mask, weights
    want = jax.jit(solve)(*arrays)
    got = sharded(
        lambda *x: solve(*x, axis_name="d"),
        *(P("d"), P("d"), P(), P("d"), P("d")),
        out_specs=(ROWS, ot.SinkhornObjective(*[P()] * 6), P("d")),
    )(*arrays)
    for name, a, b in zip(("output", "objective", "gradient"), got, want, strict=True):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4, err_msg=name)
    for made in (lambda p: p, lambda p: lambda rows: rows @ p.T):  # prototypes, and a function of scores
        parts = sharded(
            lambda e, p, a, b, m, made=made: ot.sinkhorn_embeddings(
                e, made(p), row_marginal=a, column_marginal=b, mask=m, rows_at_once=7, axis_name="d", **options
            ),
            *(P("d"), P(), P("d"), P(), P("d")),
            out_specs=ot.SinkhornPotentials(P("d"), *[P()] * 5),
        )(embeddings, prototypes, rows, columns, mask)
        np.testing.assert_allclose(parts.column_potential, want[0].column_potential, rtol=1e-3, atol=1e-3)


def test_broken_numbers_of_one_shard_are_seen_by_all():
    scores = np.zeros((N, K), np.float32)
    scores[-1, 0] = np.nan
    got = sharded(lambda s: ot.sinkhorn(s, axis_name="d"), P("d"), out_specs=ROWS)(scores)
    assert np.isnan(got.plan).all()
    assert not got.converged


def test_an_iteration_has_one_all_reduce_of_the_columns():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    solve = jax.shard_map(
        lambda s: ot.sinkhorn(s, num_iters=8, axis_name="d"), mesh=mesh, in_specs=P("d"), out_specs=ROWS
    )
    found = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            held = [x for value in equation.params.values() for x in (value if isinstance(value, tuple) else (value,))]
            if equation.primitive.name in ("scan", "while"):
                text = str(equation)
                found.append((len(re.findall(r"psum\w*\[", text)), len(re.findall(r"pmax\w*\[", text))))
            for each in held:
                if hasattr(each := getattr(each, "jaxpr", each), "eqns"):
                    walk(each)

    walk(jax.make_jaxpr(solve)(jnp.zeros((N, K))).jaxpr)
    assert [x for x in found if any(x)] == [(1, 0)]  # the last loop, which writes the plan, has none
