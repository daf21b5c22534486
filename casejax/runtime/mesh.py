"""Devices and the placement of arrays on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from casejax.errors import OptionError


def make_mesh(num_devices: int | None = None, model_devices: int = 1) -> Mesh:
    """A mesh of the axes `data` and `model` over the first `num_devices` devices, or all.

    Devices stand in the order of their processes, so each process serves a contiguous share of a batch.

    Args:
      num_devices: devices in all.
      model_devices: of these, how many share one copy of the network, split over its hidden dimension.

    Raises:
      OptionError: more devices than there are, fewer than one, some of another process left out, or a number
        that `model_devices` does not divide.

    Example:
      >>> from casejax import runtime
      >>> dict(runtime.make_mesh(1).shape)
      {'data': 1, 'model': 1}
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise OptionError(
            f"--devices {count}: there are {len(devices)} {devices[0].platform} device(s); ask for at "
            "most that many (on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=N makes N)"
        )
    if count < len(devices) and jax.process_count() > 1:
        raise OptionError(
            f"--devices {count}: a run of {jax.process_count()} processes takes all of their {len(devices)} devices; "
            "leave the option out, or start fewer processes"
        )
    if model_devices < 1 or count % model_devices:
        raise OptionError(
            f"--model-devices {model_devices} does not divide {count} devices; choose a divisor of {count}"
        )
    grid = np.array(devices[:count]).reshape(count // model_devices, model_devices)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array.

    Example:
      >>> from casejax import runtime
      >>> tuple(runtime.replicated(runtime.make_mesh(1)).spec)
      ()
    """
    return NamedSharding(mesh, P())


def over_videos(mesh: Mesh) -> NamedSharding:
    """The leading axis, videos, is split over the axis `data`.

    Example:
      >>> from casejax import runtime
      >>> tuple(runtime.over_videos(runtime.make_mesh(1)).spec)
      ('data',)
    """
    return NamedSharding(mesh, P("data"))


def state_shardings(state: Any, mesh: Mesh, split: Mapping[str, Mapping[str, tuple[str | None, ...]]]) -> Any:
    """The sharding of every leaf of a training state: all replicated, but for what is split over the axis `model`.

    Args:
      state: any tree.
      mesh: devices.
      split: by names of a layer and of a parameter on the way to a leaf, the mesh axis of each of its axes.

    Example:
      >>> import numpy as np
      >>> from casejax import runtime
      >>> state = {"encoder": {"kernel": np.zeros((4, 8)), "bias": np.zeros(8)}}
      >>> split = {"encoder": {"kernel": (None, "model")}}
      >>> tuple(runtime.state_shardings(state, runtime.make_mesh(1), split)["encoder"]["kernel"].spec)
      (None, 'model')
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = [getattr(entry, "key", None) for entry in path]
        for layer, parameters in split.items():
            for parameter, axes in parameters.items():
                if layer in names and parameter in names:
                    return NamedSharding(mesh, P(*axes))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, state)


def place(tree: Any, shardings: Any) -> Any:
    """Put host arrays, the same in every process, on the devices.

    Args:
      tree: arrays; PRNG keys too.
      shardings: one sharding for all, or a tree of them.

    Example:
      >>> import numpy as np
      >>> from casejax import runtime
      >>> placed = runtime.place({"x": np.ones(2)}, runtime.replicated(runtime.make_mesh(1)))
      >>> placed["x"].tolist()
      [1.0, 1.0]
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf), sharding))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(put, tree, shardings)


def local(tree: Any) -> Any:
    """Placed arrays as this process alone can use them; where there are several, each must call it.

    In a single process they stay as they are. Otherwise they become copies on the host.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import runtime
      >>> runtime.local({"x": jnp.arange(2)})
      {'x': Array([0, 1], dtype=int32)}
    """
    if jax.process_count() == 1:
        return tree
    mesh = jax.tree.leaves(tree)[0].sharding.mesh
    return jax.device_get(jax.jit(lambda t: t, out_shardings=replicated(mesh))(tree))


def check_placement(mesh: Mesh, *, batch_size: int, hidden: int, data_parts: int) -> None:
    """Refuse a batch or a network that the devices cannot share evenly.

    Raises:
      OptionError: naming both numbers and the remedy.

    Example:
      >>> from casejax import runtime
      >>> mesh = runtime.make_mesh(1)
      >>> runtime.check_placement(mesh, batch_size=16, hidden=64, data_parts=1)  # one device takes any
    """
    count, model = mesh.shape["data"], mesh.shape["model"]
    if batch_size % count:
        raise OptionError(
            f"a batch of {batch_size} videos does not divide over {count} devices; choose a --batch-size that "
            f"is a multiple of {count}, or fewer --devices"
        )
    if hidden % model:
        raise OptionError(
            f"--hidden {hidden} does not divide over {model} devices; choose a --model-devices that divides it"
        )
    if batch_size % data_parts:
        raise OptionError(
            f"--data-parts {data_parts} does not divide a batch of {batch_size} videos; choose a divisor of it"
        )
