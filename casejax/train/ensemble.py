"""Many runs side by side: seeds and numeric options on an extra axis of one compiled program.

For tables and sweeps. Runs whose options differ only in numbers share one compilation and, on an accelerator,
one program (`vmap`); on a CPU, which a single run already fills, they take turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax.data.sampling import PackedSplit
from casejax.errors import DivergedError, OptionError
from casejax.methods.contract import THUMOS14
from casejax.records import Dataset
from casejax.run.config import Config
from casejax.run.state import TrainState, initial_state
from casejax.runtime import mesh as placement
from casejax.train.feed import pack
from casejax.train.step import Metrics, num_steps_per_epoch, one_step, steps


@dataclass(frozen=True)
class Member:
    """One trained run of an ensemble.

    Attributes:
      graphdef: the network's structure.
      state: the last state, on the host; `key` as raw key data.
      metrics: a dictionary a log step, with `step` and the mean of every metric since the one before.
    """

    graphdef: nnx.GraphDef[Any]
    state: TrainState
    metrics: tuple[dict[str, float], ...]


def training_part(config: Config) -> Config:
    """The options that training depends on: two runs equal in them are one run."""
    published = Config.of(config.method.name)
    inference = {each.name: each.value for each in published.options() if each.of_inference}
    return replace(config.changed(**inference), variant="official", dataset=THUMOS14)


def train_ensemble(
    dataset: Dataset,
    configs: Sequence[Config],
    *,
    side_by_side: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[list[int], Member]]:
    """Train every configuration on the train split, those of one shape in one program.

    Runs equal but for inference are trained once. Members come as soon as they are trained; nothing is written.

    Args:
      dataset: only features and video-level labels of its train split are used.
      configs: one for each run.
      side_by_side: runs on the vectorised axis at a time; default all on an accelerator, 1 on a CPU.
      on_progress: called with steps done and steps in all, over all members.

    Yields:
      Indices of the configurations that a member serves, and the member.

    Raises:
      OptionError: a configuration that no run can use.
      ValueError: `side_by_side` below 1.
      DivergedError: a loss that is not finite.

    Example:
      >>> from casejax import data, run, train
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> config = run.Config.of("asl", hidden=8, num_snippets=32, batch_size=6, epochs=1)
      >>> members = train.train_ensemble(world, [config, config.changed(seed=1), config.changed(nms_threshold=0.5)])
      >>> [(served, int(member.state.step)) for served, member in members]
      [([0, 2], 1), ([1], 1)]
    """
    if side_by_side is not None and side_by_side < 1:
        raise ValueError(f"side_by_side must be at least 1, got {side_by_side}")
    served: dict[Config, list[int]] = {}
    for index, config in enumerate(configs):
        config.check()
        if config.flat().get("pseudo_labels"):
            raise OptionError("pseudo_labels are made between steps, which an ensemble does not stop for; use run()")
        if config.method.learns_instances:
            raise OptionError(f"{config.method.name} is taught before it trains, each run by its own; use run()")
        served.setdefault(training_part(config), []).append(index)
    groups: dict[Config, list[Config]] = {}
    for config in served:
        groups.setdefault(_shape_of(config), []).append(config)
    total = sum(_num_steps(config, dataset) for config in served)
    done = 0

    def progress(steps: int) -> None:
        nonlocal done
        done += steps
        on_progress(done, total)

    split = pack(dataset.train, dataset.classes, placement.make_mesh(1))
    for shape, group in groups.items():
        width = side_by_side or (1 if jax.default_backend() == "cpu" else len(group))
        members = _train_group(dataset, split, shape, group, width, progress)
        yield from zip([served[config] for config in group], members, strict=True)


def _train_group(
    dataset: Dataset,
    split: PackedSplit,
    shape: Config,
    group: Sequence[Config],
    width: int,
    progress: Callable[[int], None],
) -> Iterator[Member]:
    """Train configurations of one shape, `width` at a time on the vectorised axis."""
    mesh = placement.make_mesh(1)
    graphdef, _ = initial_state(group[0], dataset.dims, len(dataset.classes))

    @partial(jax.jit, donate_argnums=0)
    def advance(
        state: TrainState, numbers: dict[str, jax.Array], split: PackedSplit, num_steps: jax.Array
    ) -> tuple[TrainState, Metrics]:
        def member(state: TrainState, own: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
            one = partial(one_step, graphdef=graphdef, config=shape.changed(**own), mesh=mesh)
            return steps(state, split, num_steps, one=one)

        return jax.vmap(member)(state, numbers)

    last = _num_steps(shape, dataset)
    for first in range(0, len(group), width):
        members = group[first : first + width]
        states = [initial_state(config, dataset.dims, len(dataset.classes))[1] for config in members]
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        state = jax.device_put(state, placement.replicated(mesh))  # as it comes back, so that one compilation serves
        numbers = {name: np.asarray([c.flat()[name] for c in members], np.float32) for name in shape.numeric}
        history: list[list[dict[str, float]]] = [[] for _ in members]
        step = 0
        while step < last:
            count = min(shape.training.log_every, last - step)
            state, metrics = advance(state, numbers, split, jnp.int32(count))
            step += count
            host = jax.device_get(metrics)
            for m, config in enumerate(members):
                line = {name: float(value[m]) for name, value in host.items()}
                if not math.isfinite(line["loss"]):
                    raise DivergedError(
                        f"the loss is {line['loss']} by step {step} with seed {config.training.seed} and learning rate "
                        f"{config.schedule.learning_rate}; lower --learning-rate"
                    )
                history[m].append({"step": step, **line})
            progress(count * len(members))
        host_state = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
        for m, lines in enumerate(history):
            yield Member(graphdef, jax.tree.map(lambda leaf, m=m: leaf[m], host_state), tuple(lines))


def _shape_of(config: Config) -> Config:
    """What decides the compiled program: the configuration without numbers, seed and names."""
    without_numbers = config.changed(**dict.fromkeys(config.numeric, 0.0), seed=0)
    return replace(without_numbers, variant="official", dataset=THUMOS14)


def _num_steps(config: Config, dataset: Dataset) -> int:
    return config.schedule.epochs * num_steps_per_epoch(len(dataset.train.videos), config)
