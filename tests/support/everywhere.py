"""Ways in which JAX runs a function of arrays; each returns what the plain call should give."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def floats(function, arrays):
    """The function as one of its arrays of floats, and these."""
    places = [i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.floating)]

    def run(*inner):
        given = list(arrays)
        for i, x in zip(places, inner, strict=True):
            given[i] = x
        return function(*given)

    return run, [arrays[i] for i in places]


def in_shard_map(function, arrays):
    """Each device has the whole problem."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    run = jax.shard_map(
        lambda *xs: jax.tree.map(lambda y: y[None], function(*(x[0] for x in xs))),
        mesh=mesh,
        in_specs=PartitionSpec("d"),
        out_specs=PartitionSpec("d"),
    )
    return jax.tree.map(lambda y: y[1], jax.jit(run)(*(jnp.stack([x, x]) for x in arrays)))


def on_an_explicit_mesh(function, arrays):
    """The first axis of every array over two devices where it is even."""
    mesh = jax.make_mesh((2,), ("e",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        axes = [["e" if size % 2 == 0 else None for size in x.shape[:1]] for x in arrays]
        spread = [
            jax.device_put(x, NamedSharding(mesh, PartitionSpec(*own))) for x, own in zip(arrays, axes, strict=True)
        ]
        return jax.tree.map(np.asarray, function(*spread))


def strict_types(function, arrays):
    with jax.numpy_dtype_promotion("strict"):
        return jax.jit(function)(*arrays)


def under_vmap(function, arrays):
    return jax.tree.map(lambda y: y[1], jax.vmap(function)(*(jnp.stack([x, x]) for x in arrays)))


def exported(function, arrays):
    return export.export(jax.jit(function))(*arrays).call(*arrays)


def under_scan(function, arrays):
    stacked = tuple(jnp.stack([x, x]) for x in arrays)
    step = jax.checkpoint(lambda xs: function(*xs))
    return jax.tree.map(lambda y: y[1], jax.lax.scan(lambda c, xs: (c, step(xs)), 0, stacked)[1])


def under_nnx(function, arrays):
    return nnx.jit(function)(*arrays)


def under_equinox(function, arrays):
    import equinox

    return equinox.filter_jit(function)(*arrays)


def with_nan_checks(function, arrays):
    with jax.debug_nans(True):
        return jax.jit(function)(*arrays)


def in_float64(function, arrays):
    with jax.enable_x64(True):
        return jax.jit(function)(
            *(x.astype(np.float64) if x.dtype == np.float32 else x for x in map(np.asarray, arrays))
        )


WAYS = {
    way.__name__: way
    for way in (
        in_shard_map,
        on_an_explicit_mesh,
        strict_types,
        under_vmap,
        exported,
        under_scan,
        under_nnx,
        under_equinox,
        with_nan_checks,
        in_float64,
    )
}


def assert_same(got, want):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want)


def value_and_slopes(function, arrays):
    """Values, and the slope of their weighted sum along the first array of floats, forward and in reverse."""
    run, inner = floats(function, arrays)

    def total(x):
        leaves = [y for y in jax.tree.leaves(run(x, *inner[1:])) if jnp.issubdtype(y.dtype, jnp.floating)]
        return sum((y.sum() for y in leaves), start=jnp.zeros(()))

    return jax.jvp(total, (inner[0],), (inner[0],))[1], jax.grad(total)(inner[0])
