"""Training embedders on videos of the same action: many small networks side by side in one compiled program."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from casejax.alignment.data.video_set import VideoSet
from casejax.alignment.networks.embedders import SequenceEmbedder
from casejax.alignment.sampling import context_indices
from casejax.alignment.train.methods import Method
from casejax.array_types import Array, Float, Int, Key
from casejax.errors import CheckpointError, DivergedError, Interrupted, OptionError
from casejax.runtime import mesh as placement
from casejax.runtime.checkpoint import Checkpoints, State
from casejax.runtime.files import append_line
from casejax.runtime.interrupt import StopRequest
from casejax.runtime.lock import own_folder

ON_CPU = 3
"""Networks on the vectorised axis at a time on a single CPU: more of them fall out of its caches."""

Params = Any
S = TypeVar("S", bound=State)
Augment = Callable[["Float[Array, 'b t k f']", "Key[Array, '']"], "Float[Array, 'b t k f']"]


@dataclass(frozen=True)
class AlignConfig:
    """How an embedder is trained, whatever the method.

    Attributes:
      steps: training steps of each network.
      num_context: frames the embedder sees at a time: the current one and earlier ones.
      context_stride: frames between them; before the start of a video its first frame is seen.
      hidden: width of the embedder.
      dim: dimension of the embedding.
      learning_rate: of Adam; None for the method's own.
      log_every: steps between lines of `metrics.jsonl`.
    """

    steps: int = 600
    num_context: int = 6
    context_stride: int = 3
    hidden: int = 128
    dim: int = 128
    learning_rate: float | None = None
    log_every: int = 100

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
          OptionError: naming the option and what it may be.
        """
        for name in ("steps", "num_context", "context_stride", "hidden", "dim", "log_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise OptionError(f"--learning-rate must be above 0, got {self.learning_rate}")


class AlignState(NamedTuple):
    """State of M networks that are trained side by side.

    Attributes:
      step: int32 scalar, steps done.
      params: parameters, every leaf with a leading axis of M.
      opt_state: the optimizer's, likewise.
      actions: (M,) the action each network learns from; -1 for all in turns.
      key: (M,) PRNG keys, never changed: what step n draws is a function of (key, n).
    """

    step: Int[Array, ""]
    params: Params
    opt_state: Any
    actions: Int[Array, " m"]
    key: Key[Array, " m"]


class Aligner(nnx.Module):
    """An embedder and whatever head a method puts on its embeddings."""

    def __init__(self, embedder: nnx.Module, head: nnx.Module | None) -> None:
        self.embedder, self.head = embedder, head


def initial_state(
    method: Method, config: AlignConfig, num_features: int, actions: Sequence[int], seeds: Sequence[int]
) -> tuple[nnx.GraphDef[Any], AlignState]:
    """The structure of a method's network, and the state of one network for each entry of `actions` and `seeds`."""

    def network(seed: int) -> Aligner:
        rngs = nnx.Rngs(params=seed)
        width = config.hidden
        embedder = SequenceEmbedder(
            num_features,
            conv_widths=(width, width),
            fc_widths=(width, width),
            embedding=config.dim,
            unit_norm=method.unit_norm,
            rngs=rngs,
        )
        return Aligner(embedder, None if method.head is None else method.head(config.dim, rngs=rngs))

    graphdef = nnx.graphdef(network(0))
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.state(network(s), nnx.Param) for s in seeds))
    optimizer = _optimizer(method, config)
    return graphdef, AlignState(
        step=jnp.int32(0),
        params=params,
        opt_state=jax.vmap(optimizer.init)(params),
        actions=jnp.asarray(actions, jnp.int32),
        key=jax.vmap(jax.random.fold_in, (0, 0))(
            jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32)), jnp.asarray(actions, jnp.int32) + 1
        ),
    )


def _optimizer(method: Method, config: AlignConfig) -> optax.GradientTransformation:
    return optax.adam(method.learning_rate if config.learning_rate is None else config.learning_rate)


def objective(
    params: Params,
    videos: VideoSet,
    action: Int[Array, ""],
    key: Key[Array, ""],
    *,
    graphdef: nnx.GraphDef[Any],
    method: Method,
    config: AlignConfig,
    augment: Augment | None,
) -> Float[Array, ""]:
    """The loss of one network on one batch, drawn by `key`; a pure function."""
    for_action, for_videos, for_frames, for_looks = jax.random.split(key, 4)
    action = jnp.where(action < 0, jax.random.randint(for_action, (), 0, len(videos.counts)), action)
    # different videos, or as many as there are and then some of them again
    order = jax.random.uniform(for_videos, videos.lengths.shape)
    place = jnp.arange(len(videos.lengths)) - videos.firsts[action]
    inside = (place >= 0) & (place < videos.counts[action])
    order = jnp.argsort(jnp.where(inside, order, 2.0))
    chosen = order[jnp.arange(method.batch_size) % jnp.minimum(videos.counts[action], method.batch_size)]
    network = nnx.merge(graphdef, params)

    def embed(frames: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        context = context_indices(frames, num_context=config.num_context, stride=config.context_stride)
        features = videos.frames[videos.starts[chosen][:, None, None] + context]
        if augment is not None:
            features = augment(features, for_looks)
        return network.embedder(features)

    return method.objective(embed, network.head, videos.lengths[chosen], for_frames)


def make_train_steps(
    graphdef: nnx.GraphDef[Any],
    method: Method,
    config: AlignConfig,
    *,
    augment: Augment | None = None,
    alone: bool = True,
) -> Callable[[AlignState, VideoSet, Int[Array, ""]], tuple[AlignState, Float[Array, " m"]]]:
    """Compile the function that trains all networks of a state by n steps.

    Args:
      graphdef: the networks' structure.
      method: what they learn.
      config: how.
      augment: changes the features of every batch, (features, key) -> features.
      alone: whether a single device has all networks.

    Returns:
      (state, videos, n) -> the state n steps later (its input is donated) and each network's mean loss over them.
      Any cut of a run into calls ends with the same bits. `n` is traced.
    """
    loss_of = partial(objective, graphdef=graphdef, method=method, config=config, augment=augment)
    optimizer = _optimizer(method, config)

    def one_network(
        params: Params, opt_state: Any, action: Array, key: Array, videos: VideoSet, step: Array
    ) -> tuple[Params, Any, Array]:
        loss, grads = jax.value_and_grad(loss_of)(params, videos, action, jax.random.fold_in(key, step))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    @partial(jax.jit, donate_argnums=0)
    def run(state: AlignState, videos: VideoSet, num_steps: Array) -> tuple[AlignState, Array]:
        together = ON_CPU if jax.default_backend() == "cpu" and alone else len(state.actions)

        def body(_: Array, carry: tuple[AlignState, Array]) -> tuple[AlignState, Array]:
            state, total = carry
            networks = (state.params, state.opt_state, state.actions, state.key)
            one = partial(one_network, videos=videos, step=state.step)
            params, opt_state, losses = jax.lax.map(lambda own: one(*own), networks, batch_size=together)
            return state._replace(step=state.step + 1, params=params, opt_state=opt_state), total + losses

        state, total = jax.lax.fori_loop(0, num_steps, body, (state, jnp.zeros(state.actions.shape)))
        return state, total / num_steps

    return run


def train_embedders(
    videos: VideoSet,
    method: Method,
    config: AlignConfig,
    *,
    actions: Sequence[int],
    seeds: Sequence[int],
    augment: Augment | None = None,
    out: Path | None = None,
    meta: dict[str, Any] | None = None,
    resume: bool = False,
    devices: int | None = None,
) -> tuple[nnx.GraphDef[Any], AlignState]:
    """Train one network for every entry of `actions` and `seeds`, all in one program.

    Args:
      videos: the training videos, `pack_videos`.
      method: what is learned from them.
      config: how.
      actions: the action each network learns from, or -1 for all actions in turns.
      seeds: the seed of each network.
      augment: changes the features of every batch, (features, key) -> features.
      out: folder for checkpoints and `metrics.jsonl`; default nothing is written.
      meta: what is kept beside the state and must agree when a run is resumed.
      resume: go on from the checkpoint in `out`, if there is one.
      devices: spread the networks over this many devices, a divisor of their number; default as many as fit.

    Returns:
      The networks' structure and their state.

    Raises:
      OptionError: an option out of range.
      CheckpointError: `out` holds a run and `resume` is off, or one of other options.
      Interrupted: SIGINT or SIGTERM came; the state was saved.
      DivergedError: a loss stopped being finite.
    """
    config.check()
    mesh = make_networks_mesh(devices, len(seeds))
    graphdef, state = initial_state(method, config, videos.frames.shape[1], actions, seeds)
    state, videos = place(state, videos, mesh)
    advance = make_train_steps(graphdef, method, config, augment=augment, alone=mesh.size == 1)
    if out is None:
        return graphdef, _advance_to_the_end(advance, state, videos, config)
    with own_folder(out), Checkpoints(out / "checkpoints", keep=1) as checkpoints, StopRequest() as stop:
        checkpoints.tidy()
        if checkpoints.latest is not None:
            state = resumed(checkpoints, state, meta or {}, resume=resume)

        def log(state: AlignState, losses: np.ndarray, seconds: float) -> None:
            log_line(out, int(state.step), float(losses.mean()), seconds)
            if stop.signum:
                checkpoints.save(state, meta or {})
                raise Interrupted(stop.signum, int(state.step))

        state = _advance_to_the_end(advance, state, videos, config, log)
        checkpoints.save(state, meta or {})
    return graphdef, state


def make_networks_mesh(devices: int | None, num_networks: int) -> Mesh:
    """The devices that some networks are spread over: as many as divide their number, or those asked for.

    Raises:
      OptionError: a number that doesn't divide that of the networks, or more than there are.
    """
    if devices is None:
        devices = math.gcd(num_networks, jax.device_count())
    elif devices < 1 or num_networks % devices:
        raise OptionError(f"--devices {devices} does not divide {num_networks} networks; choose a divisor of it")
    return placement.make_mesh(devices)


def place(state: AlignState, videos: VideoSet, mesh: Mesh) -> tuple[AlignState, VideoSet]:
    """Every device gets its share of the networks, and all videos."""
    shares, whole = NamedSharding(mesh, P("data")), placement.replicated(mesh)
    shardings = jax.tree.map(lambda _: shares, state)._replace(step=whole)
    return placement.place(state, shardings), placement.place(videos, whole)


def resumed(checkpoints: Checkpoints, state: S, meta: Mapping[str, Any], *, resume: bool) -> S:
    """The state of the newest checkpoint, of the structure of `state`.

    Raises:
      CheckpointError: `resume` is off, or the checkpoint is of a run that `meta` does not describe.
    """
    if not resume:
        raise CheckpointError(
            f"{checkpoints.folder} holds a run at step {checkpoints.latest}; add --resume to go on with it, or name "
            "another --out"
        )
    found = checkpoints.meta()
    for name, value in meta.items():
        if found.get(name) != value:
            raise CheckpointError(
                f"{checkpoints.folder} is of another run: {name} is {found.get(name)}, now it is {value}; use the same "
                "options and data, or another --out"
            )
    return checkpoints.restore(state)


def log_line(out: Path, step: int, loss: float, seconds: float) -> None:
    """Append a line to `out`/metrics.jsonl."""
    append_line(out / "metrics.jsonl", json.dumps({"step": step, "loss": loss, "seconds": round(seconds, 3)}))


def _advance_to_the_end(
    advance: Callable[..., tuple[AlignState, Array]],
    state: AlignState,
    videos: VideoSet,
    config: AlignConfig,
    log: Callable[[AlignState, np.ndarray, float], None] = lambda state, losses, seconds: None,
) -> AlignState:
    while (step := int(state.step)) < config.steps:
        count = min(config.log_every - step % config.log_every, config.steps - step)
        since = time.perf_counter()
        state, device_losses = advance(state, videos, jnp.int32(count))
        losses = np.asarray(device_losses)
        if not np.isfinite(losses).all():
            bad = int(np.flatnonzero(~np.isfinite(losses))[0])
            raise DivergedError(
                f"the loss of network {bad} is {losses[bad]} by step {step + count}; lower --learning-rate"
            )
        if bad_state := not_finite(state):
            raise DivergedError(f"the {bad_state} are not finite by step {step + count}; lower --learning-rate")
        log(state, losses, time.perf_counter() - since)
    return state


def not_finite(state: Any) -> str:
    """Which part of a state, parameters or moments of the optimizer, is not finite; "" where all is."""
    parts = {"parameters": state.params, "moments of the optimizer": state.opt_state}
    finite = jax.device_get(_finite(parts))
    return " and ".join(name for name in parts if not finite[name])


@jax.jit
def _finite(parts: dict[str, Any]) -> dict[str, Array]:
    """Whether all numbers of each part are finite."""
    leaves = {
        name: [x for x in jax.tree.leaves(part) if jnp.issubdtype(x.dtype, jnp.inexact)] for name, part in parts.items()
    }
    return {name: jnp.all(jnp.asarray([jnp.isfinite(x).all() for x in own] or [True])) for name, own in leaves.items()}


def embed_videos(
    graphdef: nnx.GraphDef[Any],
    params: Params,
    features: Sequence[Float[np.ndarray, "_ f"]],
    config: AlignConfig,
    *,
    chunk: int = 4096,
) -> list[Float[np.ndarray, "_ d"]]:
    """Embeddings of every frame of some videos by one network.

    Args:
      graphdef: the network's structure.
      params: the parameters of one network.
      features: frame features of the videos.
      config: the options it was trained with.
      chunk: frames at a time; the last chunk is padded, so that one compilation serves.
    """
    lengths = np.array([len(array) for array in features])
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    within = jnp.asarray(np.arange(lengths.sum()) - starts)
    context = context_indices(within, num_context=config.num_context, stride=config.context_stride)
    context = np.asarray(context) + starts[:, None]
    frames = np.concatenate(features)
    embedded = []
    for low in range(0, len(context), chunk):
        rows = context[low : low + chunk]
        padded = np.concatenate([rows, np.zeros((chunk - len(rows), rows.shape[1]), rows.dtype)])
        embedded.append(np.asarray(_embed(graphdef, params, frames[padded]))[: len(rows)])
    return np.split(np.concatenate(embedded), np.cumsum(lengths)[:-1])


@partial(jax.jit, static_argnums=0)
def _embed(graphdef: nnx.GraphDef[Any], params: Params, context: Float[Array, "n k f"]) -> Float[Array, "n d"]:
    return nnx.merge(graphdef, params).embedder(context[None])[0]


def network_params(state: AlignState, index: int) -> Params:
    """The parameters of one of the networks."""
    return jax.tree.map(lambda leaf: leaf[index], state.params)
