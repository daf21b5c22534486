"""Devices and the placement of arrays on them."""

from __future__ import annotations

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from casejax.train.config import OptionError


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh with the one axis `data` over the first `num_devices` devices, or all.

    Raises:
      OptionError: more devices than there are, or fewer than one.
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise OptionError(
            f"--devices {count}: this machine has {len(devices)} {devices[0].platform} device(s); ask for at "
            "most that many (on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=N makes N)"
        )
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def over_videos(mesh: Mesh) -> NamedSharding:
    """The leading axis, videos, is split over the devices."""
    return NamedSharding(mesh, P("data"))


def check_batch(mesh: Mesh, batch_size: int) -> None:
    """Refuse a batch that the devices cannot share evenly.

    Raises:
      OptionError: naming both numbers and the remedy.
    """
    count = mesh.shape["data"]
    if batch_size % count:
        raise OptionError(
            f"a batch of {batch_size} videos does not divide over {count} devices; choose a --batch-size that "
            f"is a multiple of {count}, or fewer --devices"
        )
