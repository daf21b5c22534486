"""Which frames of a video a training step sees, for every method of alignment.

Functions of lengths and keys that may be traced, with outputs of fixed shape: int32 indices of frames, by which a
trainer gathers from a padded or packed array. They take one video, `jax.vmap` takes a batch, except where a method
couples its videos (`random_cycles`, `random_triplets`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from casejax.array_types import Array, Bool, Int, Key
from casejax.arrays.arguments import takes
from casejax.arrays.placement import varying_as


class Cycles(NamedTuple):
    """Walks through the videos of a batch that end where they began.

    Attributes:
      videos: (C, L + 1) the videos a walk visits; the last is the first.
      starts: (C,) the frame of the first video it starts from.
    """

    videos: Int[Array, "c l"]
    starts: Int[Array, " c"]


class Triplets(NamedTuple):
    """Three frames of one video each, in the order of time or shuffled.

    Attributes:
      videos: (R,) the video of every row.
      frames: (R, 3) its frames.
      labels: (R,) 0 for frames in order, forwards or backwards; 1 for shuffled ones.
    """

    videos: Int[Array, " r"]
    frames: Int[Array, "r 3"]
    labels: Int[Array, " r"]


class SpeedClips(NamedTuple):
    """Clips of one piece of video at several speeds, the normal one first.

    Attributes:
      frames: (S, T) ascending; after a clip's end its last frame again.
      mask: (S, T) True up to a clip's end.
    """

    frames: Int[Array, "s t"]
    mask: Bool[Array, "s t"]


@takes()
def sample_frames(
    length: Int[ArrayLike, ""], num_frames: int, key: Key[Array, ""], *, offset: int = 1
) -> Int[Array, " t"]:
    """Distinct random frames in the order of time: what GTA, TCC and D3TW* train on.

    A video with fewer than T frames from `offset` on gives frames 0 to T - 1, beyond its end the last one again.

    Args:
      length: frames of the video, 1 or more.
      num_frames: T.
      key: draws differ with it.
      offset: first frame that may be drawn. The published programs have 1, so never draw frame 0; 0 draws from all.

    Returns:
      (T,) ascending indices below `length`; every set of T of the frames is as likely as any other.

    Raises:
      ValueError: a number or known length below 1, or an offset below 0.

    Example:
      >>> import jax
      >>> from casejax import alignment
      >>> alignment.sample_frames(5, 5, jax.random.key(0), offset=0)
      Array([0, 1, 2, 3, 4], dtype=int32)
    """
    _check(length, num_frames)
    if offset < 0:
        raise ValueError(f"offset must be 0 or more, got {offset}")
    length = jnp.asarray(length, jnp.int32)
    available = length - offset
    short = jnp.minimum(jnp.arange(num_frames, dtype=jnp.int32), length - 1)
    return jnp.where(available >= num_frames, offset + _distinct(available, num_frames, key), short)


@takes()
def context_indices(frames: Int[Array, "*b"], *, num_context: int = 2, stride: int = 15) -> Int[Array, "*b k"]:
    """The frames an embedder looks at for each frame: earlier ones, oldest first, and last the frame itself.

    Args:
      frames: (...) indices.
      num_context: K, the frame itself included.
      stride: distance of two frames of a context.

    Returns:
      (..., K) indices; 0 where the context reaches back before the video.

    Raises:
      ValueError: a number or stride below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> alignment.context_indices(jnp.array([20, 40]), num_context=3, stride=15)
      Array([[ 0,  5, 20],
             [10, 25, 40]], dtype=int32)
    """
    if num_context < 1 or stride < 1:
        raise ValueError(f"num_context and stride must be 1 or more, got {num_context} and {stride}")
    back = stride * np.arange(num_context - 1, -1, -1, dtype=np.int32)
    return jnp.maximum(frames[..., None] - jnp.expand_dims(back, range(frames.ndim)), 0)


@takes()
def random_cycles(
    lengths: Int[ArrayLike, " b"], key: Key[Array, ""], *, num_cycles: int = 20, cycle_length: int = 2
) -> Cycles:
    """Walks through a batch for the stochastic form of TCC: for each a random order of videos and a random start.

    Args:
      lengths: (B,) real frames of each video, 1 or more; from them the start is drawn.
      key: draws differ with it.
      num_cycles: C.
      cycle_length: L, the distinct videos of a walk.

    Raises:
      ValueError: `cycle_length` below 2 or above the number of videos, or `num_cycles` below 1.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> cycles = alignment.random_cycles(jnp.array([9, 9]), jax.random.key(0), num_cycles=4)
      >>> cycles[0].shape, bool((cycles[0][:, 0] == cycles[0][:, -1]).all())
      ((4, 3), True)
    """
    lengths = jnp.asarray(lengths, jnp.int32)
    if not 2 <= cycle_length <= len(lengths):
        raise ValueError(
            f"cycle_length must lie between 2 and the {len(lengths)} videos of the batch, got {cycle_length}"
        )
    if num_cycles < 1:
        raise ValueError(f"num_cycles must be 1 or more, got {num_cycles}")
    order_key, start_key = jax.random.split(key)
    videos = jnp.tile(jnp.arange(len(lengths), dtype=jnp.int32), (num_cycles, 1))
    videos = jax.random.permutation(order_key, videos, axis=1, independent=True)[:, :cycle_length]
    starts = jax.random.randint(start_key, (num_cycles,), 0, lengths[videos[:, 0]], jnp.int32)
    return Cycles(jnp.concatenate([videos, videos[:, :1]], axis=1), starts)


@takes()
def tcn_pairs(
    length: Int[ArrayLike, ""], num_pairs: int, key: Key[Array, ""], *, window: int = 5, offset: int = 1
) -> Int[Array, "t 2"]:
    """Pairs of frames of one video for TCN's single-view loss: a random frame and one shortly before.

    Args:
      length: frames of the video, 1 or more.
      num_pairs: T.
      key: draws differ with it.
      window: the other frame is 1 to `window` frames earlier, or frame 0 where that would precede the video.
      offset: first frame that may be drawn as the later of a pair. With 0, or in a video shorter than
        T + `offset`, there may be a pair of frame 0 with itself.

    Returns:
      (T, 2) the earlier and the later frame; the later ones are `sample_frames`.

    Raises:
      ValueError: a window, number or known length below 1, or an offset below 0.

    Example:
      >>> import jax
      >>> from casejax import alignment
      >>> pairs = alignment.tcn_pairs(100, 8, jax.random.key(0), window=5)
      >>> pairs.shape, bool((pairs[:, 1] - pairs[:, 0] <= 5).all())
      ((8, 2), True)
    """
    if window < 1:
        raise ValueError(f"window must be 1 or more, got {window}")
    frame_key, back_key = jax.random.split(key)
    frames = sample_frames(length, num_pairs, frame_key, offset=offset)
    back = jax.random.randint(back_key, (num_pairs,), 1, window + 1, jnp.int32)
    return jnp.stack([jnp.maximum(frames - back, 0), frames], axis=1)


@takes()
def random_triplets(
    lengths: Int[ArrayLike, " b"],
    key: Key[Array, ""],
    *,
    per_video: int = 8,
    shuffled: float = 0.75,
    coin_per_row: bool = False,
) -> Triplets:
    """The triplets of Shuffle and Learn of a batch, row r from video r modulo B.

    Of five frames a < b < c < d < e the triplet in order is (b, c, d), and the shuffled one (b, a, d) or
    (b, e, d), whose middle frame lies outside of what encloses it. With probability one half the five are reversed
    beforehand.

    Args:
      lengths: (B,) frames to choose from, 5 or more. Published: the T frames that were sampled and embedded.
      key: draws differ with it.
      per_video: rows per video.
      shuffled: share of rows to shuffle; of R rows exactly floor(R * shuffled), at random places.
      coin_per_row: decide for every row whether it is reversed; published is one decision for the batch.

    Raises:
      ValueError: no video, fewer than 1 row each, a share outside [0, 1], or a known length below 5.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from casejax import alignment
      >>> triplets = alignment.random_triplets(jnp.array([20, 20]), jax.random.key(0), per_video=2)
      >>> triplets.frames.shape, int(triplets.labels.sum())  # three of four are shuffled
      ((4, 3), 3)
    """
    if per_video < 1 or not 0 <= shuffled <= 1:
        raise ValueError(f"per_video must be 1 or more and shuffled in [0, 1], got {per_video} and {shuffled}")
    if np.size(lengths) == 0:
        raise ValueError("no video to take triplets from, lengths is empty")
    if not isinstance(lengths, jax.core.Tracer) and np.min(lengths) < 5:
        raise ValueError(f"triplets take videos of 5 frames or more, got lengths {lengths}; leave short ones out")
    lengths = jnp.asarray(lengths, jnp.int32)
    rows = per_video * len(lengths)
    frame_key, reverse_key, middle_key, label_key = jax.random.split(key, 4)
    videos = jnp.arange(rows, dtype=jnp.int32) % len(lengths)
    five = jax.vmap(_distinct, (0, None, 0))(lengths[videos], 5, jax.random.split(frame_key, rows))
    reverse = jax.random.bernoulli(reverse_key, jnp.float32(0.5), shape=(rows if coin_per_row else 1, 1))
    a, b, c, d, e = jnp.where(reverse, five[:, ::-1], five).T
    outside = jnp.where(jax.random.bernoulli(middle_key, jnp.float32(0.5), shape=(rows,)), a, e)
    labels = jax.random.permutation(label_key, jnp.arange(rows) < int(shuffled * rows))
    frames = jnp.stack([b, jnp.where(labels, outside, c), d], axis=1)
    return Triplets(videos, frames, labels.astype(jnp.int32))


@takes()
def speed_clips(
    length: Int[ArrayLike, ""],
    num_frames: int,
    key: Key[Array, ""],
    *,
    normal: tuple[float, float] = (1.0, 1.2),
    fast: tuple[float, float] = (1.7, 2.2),
) -> SpeedClips:
    """One piece of a video at about normal and at about twice the speed, as SpeedNet is trained.

    From a random piece of 3 T frames (the whole video where it has fewer) frames are skipped independently
    with probability 1 - 1 / factor; the first T that are left are the clip. The factor is drawn for each clip. That
    both clips show the same piece, in one batch, keeps the content from giving the speed away.

    Args:
      length: frames of the video, 1 or more. A clip that runs out of frames ends early; below about 2.2 T frames that
        happens to the fast one only, so leave such videos out or respect the mask.
      num_frames: T.
      key: draws differ with it.
      normal: least and greatest factor of the normal speed.
      fast: the same of the higher speed.

    Returns:
      Two clips, normal and fast.

    Raises:
      ValueError: factors below 1 or not ascending, a number or a known length below 1.

    Example:
      >>> import jax
      >>> from casejax import alignment
      >>> clips = alignment.speed_clips(100, 8, jax.random.key(0))
      >>> clips.frames.shape
      (2, 8)
    """
    _check(length, num_frames)
    for low, high in (normal, fast):
        if not 1 <= low <= high:
            raise ValueError(f"speed factors must be 1 or more and ascend, got normal={normal} and fast={fast}")
    length, longest = jnp.asarray(length, jnp.int32), 3 * num_frames
    start_key, factor_key, keep_key = jax.random.split(key, 3)
    start = jax.random.randint(start_key, (), 0, jnp.maximum(length - longest, 0) + 1, jnp.int32)
    low, high = jnp.asarray([normal, fast], jnp.float32).T
    factor = jax.random.uniform(factor_key, (2,), jnp.float32, low, high)
    keep = jax.random.uniform(keep_key, (2, longest), jnp.float32) * factor[:, None] < 1
    kept_before = jnp.cumsum(keep & (start + jnp.arange(longest) < length)[None], axis=1)
    rank = jnp.arange(1, num_frames + 1)

    def clip(kept_before: Array) -> Array:
        """Where the first T frames that are kept stand, and the last of them again where there are fewer."""
        return jnp.searchsorted(kept_before, jnp.minimum(rank, kept_before[-1]))

    frames = (start + jax.vmap(clip)(kept_before)).astype(jnp.int32)
    return SpeedClips(frames, rank[None] <= kept_before[:, -1:])


@takes()
def regular_speed_clips(
    length: Int[ArrayLike, ""], num_frames: int, key: Key[Array, ""], *, steps: tuple[int, ...] = (1, 2)
) -> SpeedClips:
    """Clips of exact speeds from one random start: every frame, every other one. To test, or to train without skipping.

    Args:
      length: frames of the video, 1 or more. A clip that runs out of frames ends early.
      num_frames: T.
      key: draws differ with it.
      steps: S distances of frames.

    Returns:
      One clip for each step.

    Raises:
      ValueError: a step, a number or a known length below 1.

    Example:
      >>> import jax
      >>> from casejax import alignment
      >>> clips = alignment.regular_speed_clips(100, 4, jax.random.key(0), steps=(1, 2))
      >>> clips.frames - clips.frames[:, :1]
      Array([[0, 1, 2, 3],
             [0, 2, 4, 6]], dtype=int32)
    """
    _check(length, num_frames)
    if not steps or min(steps) < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    length = jnp.asarray(length, jnp.int32)
    span = (num_frames - 1) * max(steps) + 1
    start = jax.random.randint(key, (), 0, jnp.maximum(length - span, 0) + 1, jnp.int32)
    frames = start + np.outer(np.array(steps, np.int32), np.arange(num_frames, dtype=np.int32))
    mask = frames < length
    last = jnp.where(mask, frames, 0).max(axis=1, keepdims=True)
    return SpeedClips(jnp.where(mask, frames, last), mask)


@takes()
def frames_without_portions(
    length: Int[ArrayLike, ""],
    num_frames: int,
    key: Key[Array, ""],
    *,
    share: tuple[float, float] = (0.25, 0.5),
    offset: int = 1,
) -> Int[Array, " t"]:
    """Distinct random frames of a video from which one or two portions were cut: the negatives of D3TW*.

    One or two runs of frames are cut out, with the same chance, at random places, together a random share of the
    video. Where fewer than T frames are left, they are taken in order, and the last one again for the rest.

    Args:
      length: frames of the video, at least 2 from `offset` on.
      num_frames: T, as in the positive pair.
      key: draws differ with it.
      share: least and greatest share of the frames that is cut out, the two portions together.
      offset: first frame that may be drawn.

    Returns:
      (T,) ascending indices below `length`.

    Raises:
      ValueError: shares outside of (0, 1) or not ascending, a number below 1, an offset below 0, or a known length
        of which nothing could be left.

    Example:
      >>> import jax
      >>> from casejax import alignment
      >>> frames = alignment.frames_without_portions(40, 8, jax.random.key(0))
      >>> frames.shape, bool((frames[1:] > frames[:-1]).all())
      ((8,), True)
    """
    _check(length, num_frames)
    if not 0 < share[0] <= share[1] < 1:
        raise ValueError(f"shares must lie between 0 and 1 and ascend, got {share}")
    if offset < 0:
        raise ValueError(f"offset must be 0 or more, got {offset}")
    if not isinstance(length, jax.core.Tracer) and np.min(length) < offset + 2:
        raise ValueError(f"cutting portions takes {offset + 2} frames or more, got a video of {length}; leave it out")
    share_key, two_key, part_key, place_key, frame_key = jax.random.split(key, 5)
    available = jnp.asarray(length, jnp.int32) - offset
    cut = jnp.round(available.astype(jnp.float32) * jax.random.uniform(share_key, (), jnp.float32, *share))
    cut = jnp.clip(cut.astype(jnp.int32), 1, available - 1)
    left = available - cut
    # The remainder's frames are numbered 0 to left - 1; a portion stood before one of them or after the last. Of two
    # random places a lone portion takes either, so that all places are as likely.
    two, at_first = jax.random.bernoulli(two_key, jnp.float32(0.5), shape=(2,))
    part_of_two = jax.random.randint(part_key, (), 1, jnp.maximum(cut, 2), jnp.int32)
    first_cut = jnp.where(two & (cut > 1), part_of_two, jnp.where(at_first, cut, 0))
    places = _distinct(left + 1, 2, place_key)
    short = jnp.minimum(jnp.arange(num_frames, dtype=jnp.int32), left - 1)
    frames = jnp.where(left >= num_frames, _distinct(left, num_frames, frame_key), short)
    return (
        offset
        + frames
        + jnp.where(frames >= places[0], first_cut, 0)
        + jnp.where(frames >= places[1], cut - first_cut, 0)
    )


def _distinct(count: Array, num: int, key: Array) -> Array:
    """A random subset of `num` of the numbers below `count`, ascending, without memory of the size of `count`.

    Floyd's algorithm (Bentley and Floyd, "A Sample of Brilliance", Communications of the ACM 1987): the i-th step draws
    below count - num + i + 1, and takes the newly admitted number where the one drawn is taken already.
    """
    newest = jnp.maximum(count - num, 0) + jnp.arange(num, dtype=jnp.int32)
    drawn = jax.random.randint(key, (num,), 0, newest + 1, jnp.int32)

    def choose(chosen: Array, step: tuple[Array, Array, Array]) -> tuple[Array, None]:
        i, drawn, newest = step
        return chosen.at[i].set(jnp.where((chosen == drawn).any(), newest, drawn)), None

    chosen, _ = jax.lax.scan(choose, varying_as(jnp.full(num, -1, jnp.int32), drawn), (jnp.arange(num), drawn, newest))
    return jnp.sort(chosen)


def _check(length: ArrayLike, num_frames: int) -> None:
    if num_frames < 1:
        raise ValueError(f"the number of frames to draw must be 1 or more, got {num_frames}")
    if not isinstance(length, jax.core.Tracer) and np.min(length) < 1:
        raise ValueError(f"cannot draw from a video of {length} frames; leave it out")
