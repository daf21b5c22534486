"""What lets one program run inside somebody's `jax.shard_map` and on meshes with explicit axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from casejax.array_types import Array

AxisName = str | tuple[str, ...] | None
"""The mapped axis, or axes, that rows are sharded over; None where all rows are here."""


def varying_together(sharded: Any, shared: Any = (), axis_name: AxisName = None) -> tuple[Any, Any]:
    """The arrays, varying over every mesh axis that one of them varies over, the shared ones not over `axis_name`.

    Outside `shard_map` they are the same ones.
    """
    axes = frozenset().union(*(_axes(x) for x in jax.tree.leaves((sharded, shared))))
    of_shared = axes - frozenset([axis_name] if isinstance(axis_name, str) else axis_name or ())
    return jax.tree.map(lambda x: _vary(x, axes), sharded), jax.tree.map(lambda x: _vary(x, of_shared), shared)


def varying_as(tree: Any, example: Array) -> Any:
    """The arrays, varying over the mesh axes that the example varies over, as what starts a loop must."""
    return jax.tree.map(lambda x: _vary(x, _axes(example)), tree)


def _axes(x: Array) -> frozenset[Any]:
    kind = jax.typeof(x)
    return kind.mat.varying if hasattr(kind, "mat") else kind.vma  # the name differs between versions of JAX


def _vary(x: Array, axes: frozenset[Any]) -> Array:
    missing = tuple(sorted(axes - _axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def total_over(axis_name: AxisName, tree: Any) -> Any:
    """Sums over all shards."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def greatest_over(axis_name: AxisName, tree: Any) -> Any:
    """The greatest numbers of all shards, without a derivative."""
    return tree if axis_name is None else jax.lax.pmax(jax.lax.stop_gradient(tree), axis_name)


def with_automatic_axes(function: Callable[..., Any], out_specs: Callable[[], Any], *args: Any) -> Any:
    """`function(*args)`, with explicit axes of the mesh in scope left to the compiler; results lie as `out_specs` say.

    Args:
      function: of arrays and None.
      out_specs: gives a tree like the result, of `PartitionSpec`s; called on such a mesh alone.
      args: what the function is called with.
    """
    if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
        return function(*args)
    return jax.sharding.auto_axes(function, out_sharding=out_specs())(*args)


def spec_of(x: Array, *dimensions: int) -> PartitionSpec:
    """How these dimensions of an array are laid over the explicit axes."""
    spec = tuple(jax.typeof(x).sharding.spec)
    return PartitionSpec(*(spec[d] if d < len(spec) else None for d in dimensions))
