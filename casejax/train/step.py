"""The training step: sampled, computed and applied on the device, many steps to one dispatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from casejax.data import sampling
from casejax.data.records import Split
from casejax.data.sampling import PackedSplit
from casejax.models import project_prototypes
from casejax.train import mesh as placement
from casejax.train.config import Config
from casejax.train.objective import case_objective
from casejax.train.state import TrainState, make_optimizer

Metrics = dict[str, jax.Array]
TrainSteps = Callable[[TrainState, PackedSplit, jax.Array], tuple[TrainState, Metrics]]


def pack(split: Split, classes: tuple[str, ...], mesh: Mesh) -> PackedSplit:
    """Put a split's features and video-level labels on every device of the mesh."""
    features = split.features
    everywhere = placement.replicated(mesh)
    return PackedSplit(
        streams=jax.device_put(features.streams, everywhere),
        offsets=jax.device_put(features.starts.astype("int32"), everywhere),
        lengths=jax.device_put(features.lengths.astype("int32"), everywhere),
        labels=jax.device_put(split.multi_hot(classes), everywhere),
    )


def one_step(
    state: TrainState, split: PackedSplit, *, graphdef: nnx.GraphDef[Any], config: Config, mesh: Mesh
) -> tuple[TrainState, Metrics]:
    """Sample a batch, compute its loss and gradient, update; a pure function of the state and the split.

    The batch is split over the mesh by video; self-labels couple it across devices, since the program is
    written for the global batch. Numeric options of `config` may be traced values.
    """
    method, train = config.method, config.train
    order_key, snippet_key = jax.random.split(state.key)
    num_videos = len(split.lengths)
    videos = sampling.batch_videos(order_key, state.step, num_videos=num_videos, batch_size=train.batch_size)
    lengths = split.lengths[videos]
    if method.sampling == "uniform":
        snippets = sampling.uniform_snippets(lengths, method.num_snippets)
    else:
        key = jax.random.fold_in(snippet_key, state.step)
        with_end = method.sampling == "random"
        snippets = sampling.random_snippets(key, lengths, method.num_snippets, with_end=with_end)
    batch = jax.lax.with_sharding_constraint(
        (sampling.gather(split, videos, snippets), split.labels[videos]), placement.over_videos(mesh)
    )
    features, labels = batch

    warmup_steps = method.warmup_epochs * (num_videos // train.batch_size)
    rest = jnp.clip(1 - (state.step + 1) / jnp.maximum(warmup_steps, 1e-9), 0, 1)
    method = replace(method, cas_weight=method.cas_weight + (1 - method.cas_weight) * rest)
    params = project_prototypes(state.params) if method.projected else state.params

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        outputs = nnx.merge(graphdef, params)(features)
        return case_objective(outputs, labels, state.cluster_labels, method)

    (_, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    optimizer = make_optimizer(train.learning_rate, train.weight_decay, decoupled=train.decoupled_decay)
    updates, opt_state = optimizer.update(grads, state.opt_state, params)
    new = state._replace(
        step=state.step + 1,
        params=optax.apply_updates(params, updates),
        opt_state=opt_state,
        cluster_labels=aux.cluster_labels,
    )
    return new, aux.metrics


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


def make_train_steps(graphdef: nnx.GraphDef[Any], config: Config, mesh: Mesh) -> TrainSteps:
    """Compile the function that runs n training steps.

    Step n is a function of the state alone, so any cut of a run into calls ends with the same bits.

    Returns:
      (state, split, n) -> the state n steps later (its input is donated) and the mean of every metric over
      those steps. `n` is traced: one compilation serves every n.
    """
    one = partial(one_step, graphdef=graphdef, config=config, mesh=mesh)
    everywhere = placement.replicated(mesh)
    return jax.jit(
        partial(steps, one=one), donate_argnums=0, in_shardings=everywhere, out_shardings=(everywhere, everywhere)
    )
