"""What the methods of alignment learn from a batch of videos of one action: which frames they draw, and their loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.alignment import sampling
from casejax.alignment.d3tw import d3tw_loss
from casejax.alignment.gta import gta_loss
from casejax.alignment.networks.heads import OrderHead, SpeedHead
from casejax.alignment.shuffle_and_learn import shuffle_and_learn_loss, triplet_features
from casejax.alignment.speednet import clip_features, speednet_loss
from casejax.alignment.tcc import tcc_loss
from casejax.alignment.tcn import tcn_npairs_loss
from casejax.array_types import Array, Float, Int, Key

# embeddings (B, T, D) of frames (B, T) of the videos of the batch
Embed = Callable[[Int[Array, "b t"]], Float[Array, "b t d"]]

NUM_FRAMES = 20
"""Frames T drawn from each video, for every method, as published for GTA and TCC."""


@dataclass(frozen=True)
class Method:
    """One way to learn an embedding.

    Attributes:
      objective: (embed, head, lengths, key) -> scalar loss of a batch of videos of the given lengths.
      unit_norm: whether embeddings are put on the unit sphere, as the method was published.
      learning_rate: of Adam; chosen for each method among the same values on held-out training videos.
      batch_size: videos a step, all of one action.
      head: makes the classifier that is trained along, from the embedding's dimension.
    """

    objective: Callable[..., Float[Array, ""]]
    unit_norm: bool
    learning_rate: float
    batch_size: int = 4
    head: Callable[..., nnx.Module] | None = None


def gta(embed: Embed, head: None, lengths: Int[Array, " b"], key: Key[Array, ""]) -> Array:
    """Global temporal alignment, with the options of the published program."""
    return gta_loss(embed(_frames(lengths, key))).mean()


def tcc(embed: Embed, head: None, lengths: Int[Array, " b"], key: Key[Array, ""]) -> Array:
    """Temporal cycle consistency: variance-aware regression of the time a cycle ends at."""
    frames = _frames(lengths, key)
    return tcc_loss(embed(frames), times=frames / lengths[:, None]).mean()


def d3tw(embed: Embed, head: None, lengths: Int[Array, " b"], key: Key[Array, ""]) -> Array:
    """D3TW*: the first video against every other one, whole and with portions cut out."""
    whole_key, cut_key = jax.random.split(key)
    cut = partial(sampling.frames_without_portions, num_frames=NUM_FRAMES)
    negative = jax.vmap(lambda n, k: cut(n, key=k))(lengths, jax.random.split(cut_key, len(lengths)))
    whole, negative = jnp.split(embed(jnp.concatenate([_frames(lengths, whole_key), negative], axis=1)), 2, axis=1)
    first = jnp.broadcast_to(whole[:1], whole[1:].shape)
    return d3tw_loss(first, whole[1:], negative[1:]).mean()


def tcn(embed: Embed, head: None, lengths: Int[Array, " b"], key: Key[Array, ""]) -> Array:
    """Time-contrastive pairs within each video."""
    keys = jax.random.split(key, len(lengths))
    pairs = jax.vmap(lambda n, k: sampling.tcn_pairs(n, NUM_FRAMES, k))(lengths, keys)
    earlier, later = jnp.split(embed(jnp.concatenate([pairs[..., 0], pairs[..., 1]], axis=1)), 2, axis=1)
    return tcn_npairs_loss(earlier, later).mean()


def shuffle_and_learn(embed: Embed, head: OrderHead, lengths: Int[Array, " b"], key: Key[Array, ""]) -> Array:
    """Order verification of triplets."""
    frame_key, triplet_key = jax.random.split(key)
    triplets = sampling.random_triplets(jnp.minimum(lengths, NUM_FRAMES), triplet_key)
    features = triplet_features(embed(_frames(lengths, frame_key)), triplets.videos, triplets.frames)
    return shuffle_and_learn_loss(head(features), triplets.labels).mean()


def speednet(embed: Embed, head: SpeedHead, lengths: Int[Array, " b"], key: Key[Array, ""]) -> Array:
    """Speed classification of a normal and a fast clip of every video."""
    keys = jax.random.split(key, len(lengths))
    clips = jax.vmap(lambda n, k: sampling.speed_clips(n, NUM_FRAMES, k))(lengths, keys)
    embeddings = embed(clips.frames.reshape(len(lengths), -1)).reshape(*clips.frames.shape, -1)
    labels = jnp.broadcast_to(jnp.array([0, 1]), clips.frames.shape[:2])
    return speednet_loss(head(clip_features(embeddings, mask=clips.mask)), labels).mean()


METHODS = {
    "speednet": Method(speednet, unit_norm=True, learning_rate=1e-4, head=SpeedHead),
    "sal": Method(shuffle_and_learn, unit_norm=False, learning_rate=3e-4, head=OrderHead),
    "tcn": Method(tcn, unit_norm=False, learning_rate=1e-3),
    "d3tw": Method(d3tw, unit_norm=True, learning_rate=3e-4),
    "tcc": Method(tcc, unit_norm=False, learning_rate=1e-3),
    "gta": Method(gta, unit_norm=True, learning_rate=3e-4),
}
"""The methods of the table, by name and in its order."""


def _frames(lengths: Array, key: Array) -> Array:
    keys = jax.random.split(key, len(lengths))
    return jax.vmap(lambda n, k: sampling.sample_frames(n, NUM_FRAMES, k))(lengths, keys)
