"""Training the embedder of pictures: one network for all actions, pictures read from files step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from casejax.alignment.data.frames import FrameVideo, load_frames
from casejax.alignment.data.image_augmentation import augment_images
from casejax.alignment.networks.embedders import ConvEmbedder, VideoEmbedder, l2_penalty
from casejax.alignment.networks.keras_weights import load_keras_resnet
from casejax.alignment.networks.resnet import ResNetV2, frozen, only_bn, train_all
from casejax.alignment.sampling import context_indices
from casejax.alignment.train.methods import Method
from casejax.alignment.train.trainer import Aligner, log_line, not_finite, resumed
from casejax.array_types import Array, Float, Int, Key, UInt8
from casejax.errors import DivergedError, Interrupted, OptionError
from casejax.runtime.checkpoint import Checkpoints
from casejax.runtime.interrupt import StopRequest
from casejax.runtime.lock import own_folder

TRAINED: dict[str, Callable[[Any], Any]] = {"frozen": frozen, "only-bn": only_bn, "all": train_all}
"""What of the backbone is trained, by the name of the option."""


@dataclass(frozen=True)
class ImageConfig:
    """How an embedder of pictures is built and trained; the defaults are those of GTA's published program.

    Attributes:
      steps: training steps; 0 measures the backbone alone.
      size: height and width of pictures, pixels.
      depths: blocks of each stack of the backbone.
      width: channels of its first convolution.
      hidden: width of the layers on top of it.
      dim: dimension of the embedding.
      num_context: frames the embedder sees at a time: the current one and earlier ones.
      context_stride: frames between them; before the start of a video its first frame is seen.
      trained: what of the backbone is trained, a key of `TRAINED`.
      learning_rate: of Adam.
      l2: weight of `l2_penalty`.
      dropout: rate before each fully connected layer.
      log_every: steps between checkpoints and lines of `metrics.jsonl`.
    """

    steps: int = 10_000
    size: int = 224
    depths: tuple[int, ...] = (3, 4, 3)
    width: int = 64
    hidden: int = 512
    dim: int = 128
    num_context: int = 2
    context_stride: int = 15
    trained: str = "only-bn"
    learning_rate: float = 1e-4
    l2: float = 1e-5
    dropout: float = 0.1
    log_every: int = 500

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
          OptionError: naming the option and what it may be.
        """
        if self.steps < 0:
            raise OptionError(f"--steps must be 0 or more, got {self.steps}")
        for name, least in (("size", 16), ("width", 1), ("hidden", 1), ("dim", 1), ("log_every", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}")
        if self.trained not in TRAINED:
            raise OptionError(f"--train {self.trained}: choose from {', '.join(TRAINED)}")
        if not 0 < self.learning_rate < math.inf:
            raise OptionError(f"--learning-rate must be above 0, got {self.learning_rate}")


SMALL = ImageConfig(
    steps=120,
    size=32,
    depths=(2, 1),
    width=8,
    hidden=32,
    dim=32,
    context_stride=5,
    trained="all",
    learning_rate=1e-3,
    dropout=0.0,
    log_every=40,
)
"""A network small enough for a laptop and invented pictures."""


class ImageState(NamedTuple):
    """State of one network.

    Attributes:
      step: int32 scalar, steps done.
      params: its parameters.
      statistics: moving statistics of its batch normalisations.
      opt_state: the optimizer's state.
      key: PRNG key, never changed: what step n draws is a function of (key, n).
    """

    step: Int[Array, ""]
    params: Any
    statistics: Any
    opt_state: Any
    key: Key[Array, ""]


def start_image_network(
    method: Method, config: ImageConfig, *, seed: int = 0, weights: Path | None = None
) -> tuple[nnx.GraphDef[Any], ImageState]:
    """The structure of a method's network and its first state.

    Args:
      method: decides on the norm of embeddings and on the head beside them.
      config: sizes.
      seed: of the initial parameters and of all draws.
      weights: file of Keras' weights for the backbone; default random ones.

    Raises:
      DataError: weights that cannot be read or do not fit.
    """
    rngs = nnx.Rngs(params=seed)
    backbone = ResNetV2(depths=config.depths, width=config.width, rngs=rngs)
    if weights is not None:
        load_keras_resnet(backbone, weights)
    embedder = ConvEmbedder(
        backbone.num_channels,
        conv_widths=(config.hidden, config.hidden),
        fc_widths=(config.hidden, config.hidden),
        embedding=config.dim,
        dropout=config.dropout,
        unit_norm=method.unit_norm,
        rngs=rngs,
    )
    video = VideoEmbedder(backbone, embedder, frozen=config.trained == "frozen")
    network = Aligner(video, None if method.head is None else method.head(config.dim, rngs=rngs))
    graphdef, params, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)
    opt_state = optax.adam(config.learning_rate).init(params)
    return graphdef, ImageState(jnp.int32(0), params, statistics, opt_state, jax.random.key(seed))


def train_image_network(
    videos: Sequence[FrameVideo],
    graphdef: nnx.GraphDef[Any],
    state: ImageState,
    method: Method,
    config: ImageConfig,
    out: Path,
    *,
    seed: int = 0,
    meta: dict[str, Any] | None = None,
    resume: bool = False,
) -> ImageState:
    """Train one network on all actions; each step takes videos of one of them.

    Args:
      videos: the videos to learn from, two or more of each action.
      graphdef: the network's structure, `start_image_network`.
      state: where it starts.
      method: what is learned.
      config: how; `config.steps` in all.
      out: folder for checkpoints and `metrics.jsonl`.
      seed: of which videos a step takes.
      meta: what is kept beside the state and must agree when a run is resumed.
      resume: go on from the checkpoint in `out`, if there is one.

    Returns:
      The state after the last step.

    Raises:
      DataError: a picture that cannot be read.
      CheckpointError: `out` holds a run and `resume` is off, or one of other options.
      Interrupted: SIGINT or SIGTERM came; the state was saved.
      DivergedError: the loss stopped being finite.
    """
    draw, advance = make_image_step(graphdef, method, config)
    actions = sorted({video.action for video in videos})
    members = {action: [video for video in videos if video.action == action] for action in actions}
    with own_folder(out), Checkpoints(out / "checkpoints", keep=1) as checkpoints, StopRequest() as stop:
        checkpoints.tidy()
        if checkpoints.latest is not None:
            state = resumed(checkpoints, state, meta or {}, resume=resume)
        losses, since = [], time.perf_counter()
        for step in range(int(state.step), config.steps):
            rng = np.random.default_rng([seed, step])
            several = members[actions[rng.integers(len(actions))]]
            # different videos, or as many as there are and then some of them again
            order = rng.permutation(len(several))
            batch = [several[order[b % len(several)]] for b in range(method.batch_size)]
            lengths = jnp.asarray([len(video) for video in batch], jnp.int32)
            frames = np.asarray(draw(state.key, state.step, lengths))
            images = np.stack([read_context(video, own, config) for video, own in zip(batch, frames, strict=True)])
            state, loss = advance(state, jnp.asarray(images), lengths)
            losses.append(loss)
            if (step + 1) % config.log_every and step + 1 < config.steps and not stop.signum:
                continue
            mean = float(np.mean(losses))
            if not math.isfinite(mean):
                raise DivergedError(f"the mean loss is {mean} by step {step + 1}; lower --learning-rate")
            if bad := not_finite(state):
                raise DivergedError(f"the {bad} are not finite by step {step + 1}; lower --learning-rate")
            log_line(out, step + 1, mean, time.perf_counter() - since)
            checkpoints.save(state, meta or {})
            if stop.signum:
                raise Interrupted(stop.signum, step + 1)
            losses, since = [], time.perf_counter()
    return state


def make_image_step(
    graphdef: nnx.GraphDef[Any], method: Method, config: ImageConfig
) -> tuple[Callable[..., Int[Array, "b t"]], Callable[..., tuple[ImageState, Float[Array, ""]]]]:
    """Compile a training step in two parts, between which the pictures are read.

    Returns:
      draw(key, step, lengths), the frames (B, T) that the step sees of B videos; and advance(state, images,
      lengths), the next state and the loss, for their pictures (B, T, K, H, W, 3), 0 to 255. `state` is donated.
    """
    optimizer, trained = optax.adam(config.learning_rate), TRAINED[config.trained]

    @jax.jit
    def draw(key: Array, step: Array, lengths: Array) -> Array:
        asked = []

        def listen(frames: Array) -> Array:
            asked.append(frames)
            return jnp.zeros((*frames.shape, config.dim))

        head = None if method.head is None else method.head(config.dim, rngs=nnx.Rngs(0))
        method.objective(listen, head, lengths, _keys(key, step)[0])
        return asked[0]

    @partial(jax.jit, donate_argnums=0)
    def advance(state: ImageState, images: Array, lengths: Array) -> tuple[ImageState, Array]:
        for_frames, for_looks, for_dropout = _keys(state.key, state.step)

        def loss_of(params: Any) -> tuple[Array, Any]:
            network = nnx.merge(graphdef, params, state.statistics, copy=True)

            def embed(frames: Array) -> Array:
                looks = augment_images(images.astype(jnp.float32) / 255, for_looks)
                return network.embedder(2 * looks - 1, for_dropout, batch_statistics=True)

            loss = method.objective(embed, network.head, lengths, for_frames)
            return loss + config.l2 * l2_penalty(params), nnx.state(network, nnx.BatchStat)

        (loss, statistics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        # Adam moves nothing that never had a gradient.
        grads = jax.tree.map(lambda g, moves: g if moves else jnp.zeros_like(g), grads, trained(grads))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return ImageState(state.step + 1, params, statistics, opt_state, state.key), loss

    return draw, advance


def over_frames(
    function: Callable[[Array], Array], video: FrameVideo, config: ImageConfig, *, chunk: int = 25
) -> np.ndarray:
    """What a function of pictures gives for every frame of a video.

    Args:
      function: of (1, N, K, H, W, 3) pictures, RGB in [-1, 1], to (1, N, ...); it sees one N alone.
      video: T frames.
      config: size and context.
      chunk: N; the last chunk is filled up with the last frame.

    Returns:
      (T, ...).
    """
    parts = []
    for low in range(0, len(video), chunk):
        frames = np.minimum(np.arange(low, low + chunk), len(video) - 1)
        images = jnp.asarray(read_context(video, frames, config)[None], jnp.float32) / 127.5 - 1
        parts.append(np.asarray(function(images))[0])
    return np.concatenate(parts)[: len(video)]


def read_context(
    video: FrameVideo, frames: Int[np.ndarray, " t"], config: ImageConfig
) -> UInt8[np.ndarray, "t k h w 3"]:
    """The pictures of some frames, each with its context."""
    context = np.asarray(
        context_indices(jnp.asarray(frames), num_context=config.num_context, stride=config.context_stride)
    )
    return load_frames(video, context, size=config.size)


def _keys(key: Array, step: Array) -> tuple[Array, Array, Array]:
    """Keys of a step's frames, of the changes of its pictures, and of its dropout."""
    for_frames, for_looks, for_dropout = jax.random.split(jax.random.fold_in(key, step), 3)
    return for_frames, for_looks, for_dropout
