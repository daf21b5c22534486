"""All public functions of the room, and the labels made by them, wherever JAX runs: same values as by themselves."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from casejax import labels, ot

N, K = 8, 3
SCORES = np.random.default_rng(0).normal(size=(N, K)).astype(np.float32)
TOLERANT = {"epsilon": 0.5, "num_iters": 50, "tolerance": 1e-4}

# From scores (N, K) to a tree of arrays; the argument is the only thing that varies.
JOBS = {
    "truncated": lambda s: ot.sinkhorn(s, epsilon=0.5),
    "tolerance": lambda s: ot.sinkhorn(s, **TOLERANT),
    "mask": lambda s: ot.sinkhorn(s, mask=s[:, 0] < 1, column_marginal=jnp.abs(s).mean(axis=0), **TOLERANT),
    "relaxed": lambda s: ot.sinkhorn(
        s, row_relaxation=0.5, column_relaxation=1.0, row_marginal=s[:, 1] ** 2, **TOLERANT
    ),
    "starts": lambda s: (
        ot.sinkhorn(s, column_init=jnp.abs(s).mean(axis=0), mass=1.0, **TOLERANT).plan,
        ot.sinkhorn_objective(ot.sinkhorn(s, **TOLERANT), s, epsilon=0.5),
        ot.sinkhorn_embeddings(s, jnp.eye(K, dtype=s.dtype), row_init=s[:, 0], epsilon=0.5),
    ),
    "far": lambda s: ot.sinkhorn(100 * s, log_prior=s),
    "priors": lambda s: (
        ot.gaussian_rank_prior(s[:, 0], jnp.abs(s).mean(axis=0), mask=s[:, 1] < 1),
        ot.published_rank(s[:, 0]),
        ot.ascending_rank(s[:, 0]),
        ot.foreground_marginal(s[:, 0] ** 2, mask=s[:, 1] < 1, floor=0.1),
        ot.equipartition(K, jnp.abs(s).mean()),
    ),
    "labels": lambda s: (
        labels.transport_labels(s),
        labels.model_labels(s, mask=s[:, 1] < 1),
        labels.harden(s),
        labels.prototypes(s**2, s),
        labels.foreground_background(s[:, 0], mask=s[:, 1] < 1),
    ),
    "gradient": jax.grad(lambda s: (ot.sinkhorn(s, **TOLERANT).plan ** 2).sum()),
    "unrolled": jax.grad(lambda s: (ot.sinkhorn(s, epsilon=0.5).plan ** 2).sum()),
}


def in_shard_map(job):
    def each(s):
        return jax.tree.map(lambda x: x[None], job(s[0]))

    mapped = jax.shard_map(each, mesh=mesh(AxisType.Auto), in_specs=P("d"), out_specs=P("d"))
    return jax.tree.map(lambda x: x[1], jax.jit(mapped)(np.stack([SCORES] * 8)))


def on_an_explicit_mesh(job):
    with jax.set_mesh(mesh(AxisType.Explicit)):
        return jax.jit(job)(jax.device_put(SCORES, NamedSharding(jax.sharding.get_mesh(), P("d", None))))


def mesh(kind):
    return jax.make_mesh((8,), ("d",), axis_types=(kind,))


def exported(job):
    (rows,) = export.symbolic_shape("n")
    program = export.export(jax.jit(lambda s: jax.tree.leaves(job(s))))(jax.ShapeDtypeStruct((rows, K), jnp.float32))
    return jax.tree.unflatten(jax.tree.structure(jax.eval_shape(job, SCORES)), program.call(SCORES))


def scanned(job):
    first = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(job, SCORES))
    return jax.jit(lambda s: jax.lax.scan(lambda _, s: (jax.checkpoint(job)(s), None), first, s)[0])(SCORES[None])


def with_equinox(job):
    return pytest.importorskip("equinox").filter_jit(job)(SCORES)


@contextlib.contextmanager
def strictly():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), jax.debug_nans(True):
        yield


def under_strict_settings(job):
    with strictly():
        return jax.jit(job)(jnp.asarray(SCORES))


def in_float64(job):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        found = jax.jit(job)(SCORES.astype(np.float64))
        assert all(x.dtype in (jnp.float64, jnp.int32, bool) for x in jax.tree.leaves(found))
        return jax.device_get(found)


PLACES = {
    "vmap": lambda job: jax.tree.map(lambda x: x[1], jax.jit(jax.vmap(job))(np.stack([-SCORES, SCORES]))),
    "shard_map": in_shard_map,
    "explicit mesh": on_an_explicit_mesh,
    "export": exported,
    "scan and remat": scanned,
    "nnx.jit": lambda job: nnx.jit(job)(SCORES),
    "equinox": with_equinox,
    "strict": under_strict_settings,
    "x64": in_float64,
}


def several(names):
    """Jobs as one."""
    return lambda s: {name: JOBS[name](s) for name in names}


@pytest.fixture(scope="module")
def central():
    """What the central jobs give by themselves."""
    return jax.device_get(jax.jit(several(CENTRAL))(SCORES))


@pytest.fixture(scope="module")
def alone():
    """What all jobs give by themselves."""
    return jax.device_get(jax.jit(several(JOBS))(SCORES))


CENTRAL = ("tolerance", "gradient")  # what the default suite compiles in every place; the slow tests walk all jobs
LIKE_JIT = ("nnx.jit", "equinox")  # they call `jax.jit`


@pytest.mark.parametrize("place", [each for each in PLACES if each not in LIKE_JIT])
def test_what_is_central_runs(place, central):
    got = PLACES[place](several(CENTRAL))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(central), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_all_of_it_runs(place, alone):
    got = PLACES[place](several(JOBS))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_a_symbolic_number_of_rows_is_any(rng):
    (rows,) = export.symbolic_shape("n")
    program = export.export(jax.jit(lambda s: ot.sinkhorn(s, **TOLERANT).plan))(
        jax.ShapeDtypeStruct((rows, K), jnp.float32)
    )
    for n in (1, 65):
        scores = rng.normal(size=(n, K)).astype(np.float32)
        np.testing.assert_allclose(program.call(scores), ot.sinkhorn(scores, **TOLERANT).plan, rtol=1e-4, atol=1e-6)
