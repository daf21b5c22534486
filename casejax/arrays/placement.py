"""What lets code of arrays run where its caller's arrays are spread over devices.

Inside `jax.shard_map` a scan's start must vary over the same mesh axes as what it meets on its way. Under a mesh with
explicit axes (`jax.set_mesh`) every operation must say where its result lies; within `on_any_mesh` the compiler decides
it, as on other meshes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

P = ParamSpec("P")
R = TypeVar("R")


def varying_as(x: Any, other: jax.Array) -> Any:
    """Arrays `x`, whose values are the same on all devices, counted as varying over the mesh axes of `other`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jax.sharding import PartitionSpec
      >>> from casejax.arrays import varying_as
      >>> mesh = jax.make_mesh((1,), ("videos",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> def total(x):  # of each part of the videos, by a scan whose start is the same everywhere
      ...     return jax.lax.scan(lambda so_far, x: (so_far + x, None), varying_as(jnp.zeros(()), x), x)[0][None]
      >>> spec = PartitionSpec("videos")
      >>> print(jax.jit(jax.shard_map(total, mesh=mesh, in_specs=spec, out_specs=spec))(jnp.arange(4.0)))
      [6.]
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return x
    some = (other == 0).any()  # of a choice between equals nothing is left but that it could differ
    return jax.tree.map(lambda x: jnp.where(some, x, x), x)


def on_any_mesh(function: Callable[P, R]) -> Callable[P, R]:
    """The function, also for arrays on a mesh with explicit axes; there its results lie on every device as a whole.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from casejax.arrays import on_any_mesh
      >>> mesh = jax.make_mesh((1,), ("videos",), axis_types=(jax.sharding.AxisType.Explicit,))
      >>> x = jax.device_put(jnp.array([3.0, 1.0, 2.0]), jax.NamedSharding(mesh, jax.P("videos")))
      >>> with jax.set_mesh(mesh):
      ...     print(on_any_mesh(jnp.sort)(x))
      [1. 2. 3.]
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or AxisType.Explicit not in mesh.axis_types:
            return function(*args, **kwargs)
        leaves, tree = jax.tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

        def of_arrays(*arrays: jax.Array) -> R:
            inside = list(leaves)
            for i, array in zip(places, arrays, strict=True):
                inside[i] = array
            args, kwargs = jax.tree.unflatten(tree, inside)
            return function(*args, **kwargs)

        return jax.sharding.auto_axes(of_arrays, out_sharding=PartitionSpec())(*(leaves[i] for i in places))

    return run
