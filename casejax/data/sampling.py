"""Which videos and which of their snippets a step sees: functions of (key, step) alone.

Computed with `jax.random`, so the same batch comes out on the host and inside a compiled step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key


class PackedSplit(NamedTuple):
    """The features and labels of V videos, end to end, as arrays a compiled step can sample from.

    Attributes:
      streams: (snippets of all videos, D_s) float32, one array a stream.
      offsets: (V,) int32, each video's first row.
      lengths: (V,) int32, each video's number of rows.
      labels: (V, C) float32, video-level labels, zeros and ones.
    """

    streams: tuple[Float[Array, "n _"], ...]
    offsets: Int[Array, " v"]
    lengths: Int[Array, " v"]
    labels: Float[Array, "v c"]


def batch_videos(key: Key[Array, ""], step: Int[Array, ""], *, num_videos: int, batch_size: int) -> Int[Array, " b"]:
    """The videos of one step: every epoch runs through a new order; an incomplete last batch is dropped.

    Args:
      key: the run's sampling key.
      step: 0-based step of the run; may be traced.
      num_videos: videos V in the split; at least `batch_size`.
      batch_size: videos B a step.

    Returns:
      (B,) distinct indices below V.

    Raises:
      ValueError: fewer videos than one batch takes.
    """
    steps_per_epoch = num_videos // batch_size
    if steps_per_epoch < 1:
        raise ValueError(f"{num_videos} videos do not fill one batch of {batch_size}")
    epoch, slot = step // steps_per_epoch, step % steps_per_epoch
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num_videos)
    return jax.lax.dynamic_slice_in_dim(order, slot * batch_size, batch_size)


def uniform_snippets(lengths: Int[Array, " b"], num_snippets: int) -> Int[Array, "b t"]:
    """Evenly spread snippet indices, floor(i * length / T); short videos repeat snippets.

    Args:
      lengths: (B,) snippets each video has, at least 1.
      num_snippets: T.

    Returns:
      (B, T) indices, ascending, below the video's length.
    """
    # whole and fractional strides apart, so that i * length need not fit 32 bits
    cell, rest = jnp.arange(num_snippets)[None, :], lengths % num_snippets
    return cell * (lengths // num_snippets)[:, None] + cell * rest[:, None] // num_snippets


def random_snippets(
    key: Key[Array, ""], lengths: Int[Array, " b"], num_snippets: int, *, with_end: bool = True
) -> Int[Array, "b t"]:
    """One random snippet of each of T equal cells of every video.

    As the published program draws them, a cell's end belongs to it, so neighbours may pick the same snippet.
    A video of exactly T snippets is taken whole, and one with fewer repeats some.

    Args:
      key: draws differ with it.
      lengths: (B,) snippets each video has, at least 1.
      num_snippets: T.
      with_end: whether a cell's end belongs to it; without, cells are disjoint.

    Returns:
      (B, T) indices, ascending, below the video's length.
    """
    first = uniform_snippets(lengths, num_snippets)
    last = jnp.concatenate([first[:, 1:] if with_end else first[:, 1:] - 1, lengths[:, None] - 1], axis=1)
    last = jnp.maximum(first, last)
    drawn = jax.random.randint(key, first.shape, first, last + 1)
    return jnp.where(lengths[:, None] == num_snippets, first, drawn).astype(first.dtype)


def gather(
    split: PackedSplit, videos: Int[Array, " b"], snippets: Int[Array, "b t"]
) -> tuple[Float[Array, "b t _"], ...]:
    """The features of given snippets of given videos, one (B, T, D_s) array a stream."""
    rows = split.offsets[videos][:, None] + snippets
    return tuple(stream[rows] for stream in split.streams)
