"""Which videos and which of their snippets a step sees: functions of (key, step) alone.

Computed with `jax.random`, so the same batch comes out on the host and inside a compiled step.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from casejax.array_types import Array, Bool, Float, Int, Key
from casejax.records import Batch, Features, videos_of_part


class PackedSplit(NamedTuple):
    """The features and labels of V videos, end to end, as arrays a compiled step can sample from.

    Attributes:
      streams: (snippets of all videos, D_s) float32 or bfloat16, one array a stream.
      offsets: (V,) int32, each video's first row.
      lengths: (V,) int32, each video's number of rows.
      labels: (V, C) float32, video-level labels, zeros and ones.
    """

    streams: tuple[Float[Array, "n _"], ...]
    offsets: Int[Array, " v"]
    lengths: Int[Array, " v"]
    labels: Float[Array, "v c"]


def steps_per_epoch(num_videos: int, batch_size: int, data_parts: int = 1) -> int:
    """Full batches in one pass over the videos.

    Raises:
      ValueError: fewer videos than one batch takes, or parts that do not divide the batch.
    """
    if data_parts < 1 or batch_size % data_parts:
        raise ValueError(f"a batch of {batch_size} videos cannot take an equal share of {data_parts} parts")
    steps = (num_videos // data_parts) // (batch_size // data_parts)
    if steps < 1:
        raise ValueError(f"{num_videos} videos do not fill one batch of {batch_size} from {data_parts} part(s)")
    return steps


def batch_videos(
    key: Key[Array, ""], step: Int[Array, ""], *, num_videos: int, batch_size: int, data_parts: int = 1
) -> Int[Array, " b"]:
    """The videos of one step: every epoch runs through a new order; an incomplete last batch is dropped.

    Args:
      key: the run's sampling key.
      step: 0-based step of the run; may be traced.
      num_videos: videos V in the split; at least `batch_size`.
      batch_size: videos B a step.
      data_parts: contiguous parts of the videos (`videos_of_part`), each of which fills an equal share of every
        batch, in order; a process that serves one part's share of the batch needs no other videos.

    Returns:
      (B,) distinct indices below V.

    Raises:
      ValueError: as `steps_per_epoch`.
    """
    steps = steps_per_epoch(num_videos, batch_size, data_parts)
    epoch, slot = step // steps, step % steps
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num_videos)
    if data_parts == 1:
        return jax.lax.dynamic_slice_in_dim(order, slot * batch_size, batch_size)
    parts = [videos_of_part(num_videos, p, data_parts) for p in range(data_parts)]
    last = jnp.asarray([part.stop for part in parts])
    dealt = order[jnp.argsort(jnp.searchsorted(last, order, side="right"), stable=True)]
    own = jnp.stack([dealt[part.start : part.start + num_videos // data_parts] for part in parts])
    share = batch_size // data_parts
    return jax.lax.dynamic_slice_in_dim(own, slot * share, share, axis=1).reshape(batch_size)


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


def random_crop(key: Key[Array, ""], lengths: Int[Array, " b"], num_snippets: int) -> Int[Array, "b t"]:
    """T consecutive snippets of every video, from a random one on; a shorter video repeats its last behind its end.

    Args:
      key: draws differ with it.
      lengths: (B,) snippets each video has, at least 1.
      num_snippets: T.

    Returns:
      (B, T) indices, ascending, below the video's length; `real_places` says which are no repetitions.
    """
    first = jax.random.randint(key, lengths.shape, 0, jnp.maximum(lengths - num_snippets, 0) + 1)
    places = first[:, None] + jnp.arange(num_snippets, dtype=lengths.dtype)[None, :]
    return jnp.minimum(places, lengths[:, None] - 1).astype(lengths.dtype)


def real_places(lengths: Int[Array, " b"], num_snippets: int) -> Bool[Array, "b t"]:
    """Which of T places of a crop are snippets of the video, (B, T); the others are padding."""
    return jnp.arange(num_snippets)[None, :] < lengths[:, None]


def similar_videos(key: Key[Array, ""], labels: Float[Array, "v c"], pairs: int) -> Int[Array, " n"]:
    """Pairs of videos that share a class: a random class each, of those with two videos or more, and two of its videos.

    Args:
      key: draws differ with it.
      labels: (V, C) zeros and ones; a class has two videos or more.
      pairs: how many.

    Returns:
      (2 pairs,) indices below V; videos 2n and 2n + 1 are a pair.
    """
    class_key, video_key = jax.random.split(key)
    eligible = labels.sum(axis=0) >= 2
    classes = jax.random.categorical(class_key, jnp.where(eligible, 0.0, -jnp.inf), shape=(pairs,))
    noise = jax.random.gumbel(video_key, (pairs, len(labels)))
    _, two = jax.lax.top_k(jnp.where(labels.T[classes] > 0, noise, -jnp.inf), 2)
    return two.reshape(-1)


def draw(
    key: Key[Array, ""],
    step: Int[Array, ""],
    lengths: Int[Array, " v"],
    *,
    num_snippets: int,
    batch_size: int,
    kind: str = "random",
    data_parts: int = 1,
    labels: Float[Array, "v c"] | None = None,
    similar_pairs: int = 0,
) -> tuple[Int[Array, " b"], Int[Array, "b t"]]:
    """The videos of one step, and which of their snippets.

    What is drawn for one video depends on its own length alone, so a process can draw its share of a batch
    without knowing the others' lengths.

    Args:
      key: the run's key.
      step: 0-based step of the run; may be traced.
      lengths: (V,) snippets each video has; at least 1 where it is drawn from.
      num_snippets: T.
      batch_size: B.
      kind: "random" or "stratified" (`random_snippets` with and without a cell's end), "uniform", or "crop".
      data_parts: as for `batch_videos`.
      labels: (V, C) zeros and ones, needed for `similar_pairs`.
      similar_pairs: the first places of the batch go to so many pairs of `similar_videos`.

    Returns:
      (B,) videos and (B, T) indices of their snippets.
    """
    order_key, snippet_key = jax.random.split(key)
    videos = batch_videos(order_key, step, num_videos=len(lengths), batch_size=batch_size, data_parts=data_parts)
    snippet_key = jax.random.fold_in(snippet_key, step)
    if similar_pairs and labels is not None:
        similar = similar_videos(jax.random.fold_in(snippet_key, 0), labels, similar_pairs)
        videos = videos.at[: 2 * similar_pairs].set(similar.astype(videos.dtype))
    own = lengths[videos]
    if kind == "uniform":
        return videos, uniform_snippets(own, num_snippets)
    if kind == "crop":
        return videos, random_crop(snippet_key, own, num_snippets)
    return videos, random_snippets(snippet_key, own, num_snippets, with_end=kind == "random")


def gather(
    split: PackedSplit, videos: Int[Array, " b"], snippets: Int[Array, "b t"], *, num_rows: int | None = None
) -> Batch:
    """The features of given snippets of given videos, and the videos' labels.

    Args:
      split: the features.
      videos: (B,).
      snippets: (B, T), ascending.
      num_rows: R, static. Snippets that a short video repeats are then gathered once, into R rows, and the batch says
        which row stands at which place. At least `distinct_rows(...).sum()`; what is left over repeats the last row.

    Returns:
      (B, T, D_s) features and (B, C) labels; with `num_rows`, (R, D_s) features and the (B, T) `rows`.
    """
    if num_rows is None:
        places = split.offsets[videos][:, None] + snippets
        return Batch(tuple(stream[places] for stream in split.streams), split.labels[videos])
    num_snippets = snippets.shape[1]
    lengths = split.lengths[videos]
    counts = distinct_rows(lengths, num_snippets)
    ends = jnp.cumsum(counts)
    starts, short = ends - counts, lengths < num_snippets
    rows = starts[:, None] + jnp.where(short[:, None], snippets, jnp.arange(num_snippets)[None, :])
    row = jnp.minimum(jnp.arange(num_rows, dtype=ends.dtype), ends[-1] - 1)
    video = jnp.searchsorted(ends, row, side="right")
    own = row - starts[video]
    places = split.offsets[videos][video] + jnp.where(short[video], own, snippets[video, own])
    return Batch(tuple(stream[places] for stream in split.streams), split.labels[videos], rows)


def distinct_rows(lengths: Int[Array, " b"], num_snippets: int) -> Int[Array, " b"]:
    """(B,) rows that T samples of each video need: T, or all rows of a shorter video, which repeats them."""
    return jnp.minimum(lengths, num_snippets)


def half_the_places(num_videos: int, num_snippets: int) -> int:
    """Half of the B T places of a batch, rounded up: the rows it is gathered into where that many are enough."""
    return -(-num_videos * num_snippets // 2)


def all_compact(lengths: np.ndarray, batch_size: int, num_snippets: int) -> bool | None:
    """Whether half of the places hold the distinct rows of every batch (True), of none (False), or of some (None).

    Args:
      lengths: (V,) snippets each video has.
      batch_size: B.
      num_snippets: T.
    """
    counts, half = np.sort(np.minimum(lengths, num_snippets)), half_the_places(batch_size, num_snippets)
    if counts[-batch_size:].sum() <= half:
        return True
    return False if counts[:batch_size].sum() > half else None


def gather_on_host(
    features: Features, videos: np.ndarray, snippets: np.ndarray, *, compact: bool
) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
    """What `gather` gives, from features on the host.

    Args:
      features: of the split.
      videos: (B,).
      snippets: (B, T), ascending.
      compact: gather the snippets that a short video repeats once, where half of the rows are then enough.

    Returns:
      Features (B, T, D_s), one array a stream, and None; or (R, D_s) and `rows` (B, T), as in `Batch`.
    """
    (num_videos, num_snippets), half = snippets.shape, half_the_places(*snippets.shape)
    lengths = features.lengths[videos]
    counts = np.minimum(lengths, num_snippets)
    compact = compact and counts.sum() <= half
    if not compact:
        counts = np.full(num_videos, num_snippets)
    ends = np.cumsum(counts)
    streams = []
    for stream in features.streams:
        out = _aligned((half if compact else snippets.size, stream.shape[1]), stream.dtype)
        for b, v in enumerate(videos):
            part, own = out[ends[b] - counts[b] : ends[b]], stream[features.rows(v)]
            if counts[b] == lengths[b] < num_snippets:
                part[:] = own
            else:
                np.take(own, snippets[b], axis=0, out=part)
        out[ends[-1] :] = out[ends[-1] - 1]
        streams.append(out)
    if not compact:
        return tuple(out.reshape(num_videos, num_snippets, -1) for out in streams), None
    short = (lengths < num_snippets)[:, None]
    rows = (ends - counts)[:, None] + np.where(short, snippets, np.arange(num_snippets)[None, :])
    return tuple(streams), rows.astype(np.int32)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An empty array where JAX for CPU wants one, so that it is used as it is and not copied."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first : first + size].view(dtype).reshape(shape)
