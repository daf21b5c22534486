"""The training step: computed and applied on the device, with its batch sampled there or handed to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from casejax.data import sampling
from casejax.data.sampling import PackedSplit
from casejax.labels import Instances, LabelHistory, label_target, label_weight
from casejax.labels.pseudo_labels import LABEL_EPOCHS
from casejax.methods import Step
from casejax.records import Batch
from casejax.run.config import Config
from casejax.run.state import TrainState
from casejax.runtime import mesh as placement

Metrics = dict[str, jax.Array]
TrainSteps = Callable[[TrainState, PackedSplit, jax.Array], tuple[TrainState, Metrics]]
BatchStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
_OF_LOSS = 0x10C  # sets the keys of losses apart from those of sampling


def draw(
    key: jax.Array, step: jax.Array, lengths: jax.Array, labels: jax.Array | None = None, *, config: Config
) -> tuple[jax.Array, jax.Array]:
    """The videos (B,) of a step and their snippets (B, T), by the options of a configuration."""
    schedule = config.schedule
    return sampling.draw(
        key,
        step,
        lengths,
        num_snippets=schedule.num_snippets,
        batch_size=schedule.batch_size,
        kind=schedule.sampling,
        data_parts=config.training.data_parts,
        labels=labels,
        similar_pairs=schedule.similar_pairs,
    )


def update(
    state: TrainState, batch: Batch, *, steps_per_epoch: int, graphdef: nnx.GraphDef[Any], config: Config, mesh: Mesh
) -> tuple[TrainState, Metrics]:
    """Compute the loss and gradient of a batch and update the state; a pure function.

    The batch is split over the mesh by video; self-labels couple it across devices, since the program is
    written for the global batch. Numeric options of `config` may be traced values.

    Example:
      >>> from functools import partial
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from casejax import run, runtime, train
      >>> from casejax.records import Batch
      >>> config = run.Config.of("asl", hidden=8, num_snippets=32, batch_size=6, epochs=1)
      >>> graphdef, state = run.initial_state(config, dims=(8, 8), num_classes=2)
      >>> batch = Batch((jnp.ones((6, 32, 8)), jnp.ones((6, 32, 8))), labels=jnp.ones((6, 2)))
      >>> given = {"steps_per_epoch": 1, "graphdef": graphdef, "config": config, "mesh": runtime.make_mesh(1)}
      >>> state, metrics = jax.jit(partial(train.update, **given))(state, batch)
      >>> int(state.step), bool(jnp.isfinite(metrics["loss"]))
      (1, True)
    """
    if batch.rows is None:
        batch = jax.lax.with_sharding_constraint(batch, placement.over_videos(mesh))
    method, settings, schedule = config.method, config.settings, config.schedule
    total = schedule.epochs * steps_per_epoch
    key = jax.random.fold_in(jax.random.fold_in(state.key, _OF_LOSS), state.step)
    rows = {} if batch.rows is None else {"rows": batch.rows}
    step = Step(
        done=state.step,
        steps_per_epoch=steps_per_epoch,
        total=total,
        key=key,
        pairs=schedule.similar_pairs,
        cluster_labels=state.cluster_labels,
        memory=state.memory,
        snippet_labels=_snippet_labels(state, batch, total),
        instances=_instances(state, batch),
    )
    params = method.prepare(state.params, settings)

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        network = nnx.merge(graphdef, params)
        outputs = network(batch.streams, key, mask=batch.mask, **rows)
        loss = method.loss(outputs, batch.labels, step._replace(network=network), settings=settings, mask=batch.mask)
        memory = method.remember(state.memory, outputs, batch.labels)
        return loss.value, jax.lax.stop_gradient((loss.cluster_labels, memory, {"loss": loss.value} | loss.terms))

    (_, (cluster_labels, memory, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    rate = schedule.learning_rate * method.rate(settings, step)
    optimizer = method.optimizer(params, rate, settings=settings, schedule=schedule)
    updates, opt_state = optimizer.update(grads, state.opt_state, params)
    new = state._replace(
        step=state.step + 1,
        params=optax.apply_updates(params, updates),
        opt_state=opt_state,
        cluster_labels=cluster_labels,
        memory=memory,
    )
    return _skipping(state, new, metrics) if config.training.on_nan == "skip" else (new, metrics)


def _skipping(old: TrainState, new: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
    """A step that ends in anything not finite changes nothing but the count of steps, and its metrics are zero."""
    checked = jax.tree.leaves((metrics["loss"], new.params, new.opt_state, new.cluster_labels, new.memory))
    fine = jnp.all(
        jnp.asarray([jnp.isfinite(leaf).all() for leaf in checked if jnp.issubdtype(leaf.dtype, jnp.inexact)])
    )
    parts = [(x.params, x.opt_state, x.cluster_labels, x.memory, x.labels) for x in (new, old)]
    params, opt_state, cluster_labels, memory, labels = jax.tree.map(lambda a, b: jnp.where(fine, a, b), *parts)
    zeroed = {name: jnp.where(fine, value, 0.0) for name, value in metrics.items()}
    kept = TrainState(new.step, params, opt_state, cluster_labels, new.key, memory, labels)
    return kept, zeroed | {"skipped": 1.0 - fine}


def _snippet_labels(state: TrainState, batch: Batch, total: int) -> jax.Array | None:
    """The labels of a batch from fused proposals, already weighted; None where there are none."""
    if not isinstance(state.labels, LabelHistory) or batch.videos is None or batch.snippets is None:
        return None
    labels, places = state.labels, (batch.videos[:, None], batch.snippets)
    own = LabelHistory(labels.newest[places], labels.previous[places], labels.made)
    # Published epochs are whole.
    epoch = jnp.floor(state.step / total * LABEL_EPOCHS).astype(jnp.int32)
    return label_weight(epoch) * label_target(own, epoch)


def _instances(state: TrainState, batch: Batch) -> Instances | None:
    """The instances of a batch, in its snippets; None where there are none."""
    if not isinstance(state.labels, Instances) or batch.videos is None or batch.snippets is None:
        return None
    return state.labels.seen(batch.videos, batch.snippets)


def one_step(
    state: TrainState,
    split: PackedSplit,
    *,
    graphdef: nnx.GraphDef[Any],
    config: Config,
    mesh: Mesh,
    compact: bool | None = False,
) -> tuple[TrainState, Metrics]:
    """Sample a batch and `update`; a pure function of the state and the split.

    With `compact`, snippets that short videos repeat are computed once, which must halve the batch; with None, they
    are wherever that does, as in nearly all batches of THUMOS14. It is for one device, and None is not for `jax.vmap`,
    which would compute both branches.
    """
    videos, snippets = draw(state.key, state.step, split.lengths, split.labels, config=config)
    epoch = num_steps_per_epoch(len(split.lengths), config)
    half = sampling.half_the_places(*snippets.shape)

    def on(num_rows: int | None, state: TrainState) -> tuple[TrainState, Metrics]:
        batch = sampling.gather(split, videos, snippets, num_rows=num_rows)
        if config.schedule.sampling == "crop":
            batch = batch._replace(mask=sampling.real_places(split.lengths[videos], snippets.shape[1]))
        if isinstance(state.labels, LabelHistory | Instances):
            batch = batch._replace(videos=videos, snippets=snippets)
        return update(state, batch, steps_per_epoch=epoch, graphdef=graphdef, config=config, mesh=mesh)

    if compact is not None:
        return on(half if compact else None, state)
    needed = sampling.distinct_rows(split.lengths[videos], snippets.shape[1]).sum()
    return jax.lax.cond(needed <= half, partial(on, half), partial(on, None), state)


def num_steps_per_epoch(num_videos: int, config: Config) -> int:
    """Full batches in one pass over the training videos."""
    return sampling.steps_per_epoch(num_videos, config.schedule.batch_size, config.training.data_parts)


def _placed(state: TrainState, metrics: Metrics, config: Config, mesh: Mesh) -> tuple[TrainState, Metrics]:
    state = jax.lax.with_sharding_constraint(state, placement.state_shardings(state, mesh, config.method.split))
    return state, jax.lax.with_sharding_constraint(metrics, placement.replicated(mesh))


def steps(
    state: TrainState, split: PackedSplit, num_steps: jax.Array, *, one: Callable[..., tuple[TrainState, Metrics]]
) -> tuple[TrainState, Metrics]:
    """The state `num_steps` steps later, and the mean of every metric over them."""
    shapes = jax.eval_shape(one, state, split)[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(_: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, sums = carry
        state, metrics = one(state, split)
        return state, jax.tree.map(jnp.add, sums, metrics)

    state, sums = jax.lax.fori_loop(0, num_steps, body, (state, zeros))
    return state, jax.tree.map(lambda s: s / num_steps, sums)


def make_train_steps(
    graphdef: nnx.GraphDef[Any], config: Config, mesh: Mesh, *, compact: bool | None = None
) -> TrainSteps:
    """Compile the function that runs n training steps.

    Step n is a function of the state alone, so any cut of a run into calls ends with the same bits.

    Args:
      graphdef: the network's structure.
      config: all options.
      mesh: devices.
      compact: as for `one_step`; on several devices, and of networks that see more than one snippet, no batch is.

    Returns:
      (state, split, n) -> the state n steps later (its input is donated) and the mean of every metric over
      those steps. `n` is traced: one compilation serves every n.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import data, run, runtime, train
      >>> from casejax.data import sampling
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> features = world.train.features
      >>> first, lengths = features.starts.astype("int32"), features.lengths.astype("int32")
      >>> split = sampling.PackedSplit(features.streams, first, lengths, world.train.multi_hot(world.classes))
      >>> config = run.Config.of("asl", hidden=8, num_snippets=32, batch_size=6, epochs=1)
      >>> graphdef, state = run.initial_state(config, dims=(8, 8), num_classes=2)
      >>> steps = train.make_train_steps(graphdef, config, runtime.make_mesh(1))
      >>> state, metrics = steps(state, split, jnp.int32(3))
      >>> int(state.step), bool(jnp.isfinite(metrics["loss"]))
      (3, True)
    """
    # On several devices, the rows of a batch would have to be shared out anew.
    if mesh.size > 1 or not config.may_be_compact:
        compact = False
    # The jit of its own lets asking for shapes and looping share a trace.
    one = jax.jit(partial(one_step, graphdef=graphdef, config=config, mesh=mesh, compact=compact))

    def run(state: TrainState, split: PackedSplit, num_steps: jax.Array) -> tuple[TrainState, Metrics]:
        return _placed(*steps(state, split, num_steps, one=one), config, mesh)

    return jax.jit(run, donate_argnums=0)


def make_batch_step(graphdef: nnx.GraphDef[Any], config: Config, mesh: Mesh, steps_per_epoch: int) -> BatchStep:
    """Compile one training step on a batch that comes from outside.

    Returns:
      (state, batch) -> the next state (its input is donated) and the metrics of the step.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import run, runtime, train
      >>> from casejax.records import Batch
      >>> config = run.Config.of("asl", hidden=8, num_snippets=32, batch_size=6, epochs=1)
      >>> graphdef, state = run.initial_state(config, dims=(8, 8), num_classes=2)
      >>> step = train.make_batch_step(graphdef, config, runtime.make_mesh(1), steps_per_epoch=1)
      >>> batch = Batch((jnp.ones((6, 32, 8)), jnp.ones((6, 32, 8))), labels=jnp.ones((6, 2)))
      >>> state, metrics = step(state, batch)
      >>> int(state.step), bool(jnp.isfinite(metrics["loss"]))
      (1, True)
    """

    @partial(jax.jit, donate_argnums=0)
    def run(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        one = update(state, batch, steps_per_epoch=steps_per_epoch, graphdef=graphdef, config=config, mesh=mesh)
        return _placed(*one, config, mesh)

    return run
