"""How features reach the training step: kept on the devices and sampled there, or streamed a batch at a time.

Both train on the same batches, since what a step sees is a function of (seed, step) alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from casejax.data import sampling, store
from casejax.data.sampling import PackedSplit
from casejax.errors import DataError, OptionError
from casejax.records import Batch, Split
from casejax.run.config import Config
from casejax.run.state import TrainState
from casejax.runtime import distributed
from casejax.runtime import mesh as placement
from casejax.train.step import Metrics, draw, make_batch_step, make_train_steps, num_steps_per_epoch

DEVICE_SHARE = 0.5  # of a device's memory, that features kept there may take

Advance = Callable[[TrainState, int, int], tuple[TrainState, Metrics]]
"""(state, its step, n) -> the state n steps later and the mean of every metric over them; donates its input."""


def make_advance(
    split: Split, classes: tuple[str, ...], graphdef: nnx.GraphDef[Any], config: Config, mesh: Mesh
) -> AbstractContextManager[Advance]:
    """What advances the state on a split, by the option `feed`; a context manager, which ends its threads.

    Raises:
      OptionError: features that this process has only a part of are to stay on the device, or Grain, which
        streams, is missing.
    """
    kind = config.training.feed
    partial_split = bool((split.features.lengths == 0).any())
    if kind == "device" and partial_split:
        raise OptionError("--feed device needs all features in every process; leave out --feed, or --data-parts")
    if kind == "auto":  # all processes alike, or they would run different programs
        kind = "stream" if distributed.largest(int(partial_split or not _fits(split))) else "device"
    return (_on_device if kind == "device" else _streamed)(split, classes, graphdef, config, mesh)


def pack(split: Split, classes: tuple[str, ...], mesh: Mesh) -> PackedSplit:
    """Put a split's features and video-level labels on every device of the mesh."""
    features = split.features
    arrays = (
        features.streams,
        features.starts.astype(np.int32),
        features.lengths.astype(np.int32),
        split.multi_hot(classes),
    )
    return PackedSplit(*placement.place(arrays, placement.replicated(mesh)))


@contextmanager
def _on_device(
    split: Split, classes: tuple[str, ...], graphdef: nnx.GraphDef[Any], config: Config, mesh: Mesh
) -> Iterator[Advance]:
    packed = pack(split, classes, mesh)
    store.release(split.features)
    compact = (
        sampling.all_compact(split.features.lengths, config.schedule.batch_size, config.schedule.num_snippets)
        if config.may_be_compact
        else False
    )
    train_steps = make_train_steps(graphdef, config, mesh, compact=compact)
    yield lambda state, step, count: train_steps(state, packed, jnp.int32(count))


@contextmanager
def _streamed(
    split: Split, classes: tuple[str, ...], graphdef: nnx.GraphDef[Any], config: Config, mesh: Mesh
) -> Iterator[Advance]:
    per_epoch = num_steps_per_epoch(len(split.videos), config)
    batch_step = make_batch_step(graphdef, config, mesh, per_epoch)
    add = jax.jit(partial(jax.tree.map, jnp.add))
    read = make_reader(split, classes, config, mesh)
    batches: Iterator[Batch] | None = None

    with ExitStack() as stack:

        def advance(state: TrainState, step: int, count: int) -> tuple[TrainState, Metrics]:
            nonlocal batches
            if batches is None:
                batches = stack.enter_context(prefetched(read, step, config.schedule.epochs * per_epoch))
            batch = to_devices(next(batches), config.schedule.batch_size, mesh)
            state, sums = batch_step(state, batch)
            for _ in range(count - 1):
                # The next batch travels while a step runs; then that step is waited for, so that no more pile up.
                batch = to_devices(next(batches), config.schedule.batch_size, mesh)
                jax.block_until_ready(sums)
                state, metrics = batch_step(state, batch)
                sums = add(sums, metrics)
            return state, jax.tree.map(lambda s: s / count, sums)

        yield advance


def make_reader(split: Split, classes: tuple[str, ...], config: Config, mesh: Mesh) -> Callable[[int], Batch]:
    """A function of a step to this process's share of its batch, the videos of its devices, as NumPy arrays."""
    features, labels = split.features, split.multi_hot(classes)
    slots = own_slots(mesh, config.schedule.batch_size)
    compact = mesh.size == 1 and config.may_be_compact
    labelled = config.method.learns_instances or bool(config.flat().get("pseudo_labels"))
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.default_device(cpu):
        key = jax.random.key(config.training.seed)
        # Lengths of videos that other processes have are not known here, nor needed.
        lengths = jnp.asarray(np.maximum(features.lengths, 1), jnp.int32)
        sample = jax.jit(partial(draw, config=config))

    def read(step: int) -> Batch:
        with jax.default_device(cpu):
            videos, snippets = jax.device_get(sample(key, jnp.int32(step), lengths, labels))
        videos, snippets = videos[slots], snippets[slots]
        absent = [split.videos[v].id for v in videos if features.lengths[v] == 0]
        if absent:
            raise DataError(
                f"step {step} needs {absent[0]}, whose features this process has not read; its devices' share of a "
                "batch must be that of its parts: leave out --data-parts, or --model-devices"
            )
        streams: Any
        rows: Any
        streams, rows = sampling.gather_on_host(features, videos, snippets, compact=compact)
        store.release(features)
        mask = None
        if config.schedule.sampling == "crop":
            mask = np.arange(snippets.shape[1])[None] < features.lengths[videos][:, None]
        places = (videos, snippets) if labelled else (None, None)
        return Batch(streams, labels[videos], rows, mask, *places)

    return read


def own_slots(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The places in a batch that the devices of this process hold, ascending."""
    indices = placement.over_videos(mesh).addressable_devices_indices_map((batch_size,))
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in indices.values()]))


def to_devices(batch: Batch, batch_size: int, mesh: Mesh) -> Batch:
    """Put this process's share of a batch on its devices, as a part of the global batch."""
    sharding = placement.over_videos(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    first = own_slots(mesh, batch_size)[0]

    def put(own: np.ndarray) -> jax.Array:
        def rows(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            return own[start - first : stop - first]

        return jax.make_array_from_callback((batch_size, *own.shape[1:]), sharding, rows)

    return jax.tree.map(put, batch)


@contextmanager
def prefetched(read: Callable[[int], Batch], first: int, last: int) -> Iterator[Iterator[Batch]]:
    """`read` of every step from `first` to `last - 1`, one step ahead in a thread that ends with the context.

    Raises:
      OptionError: Grain is not installed.
    """
    try:
        import grain
    except ImportError as error:
        raise OptionError(
            "features are streamed by Grain, which is not installed: pip install 'casejax[stream]', or keep them on "
            "the device with --feed device"
        ) from error
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    batches = iter(grain.MapDataset.range(first, last).map(read).to_iter_dataset(options))
    try:
        yield batches
    finally:
        batches.close()


def _fits(split: Split) -> bool:
    """Whether every device can hold the features and leave room for the step."""
    needed = sum(stream.nbytes for stream in split.features.streams)
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return needed <= DEVICE_SHARE * stats["bytes_limit"]
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return needed * jax.local_device_count() <= DEVICE_SHARE * memory
    return True
