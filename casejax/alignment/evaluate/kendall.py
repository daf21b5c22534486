"""How well embeddings align videos: nearest neighbours in time order (Kendall's tau), and synchronised playback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from casejax.array_types import Float, Int, Real

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (n, d) and (m, d) to (n, m)
Match = Callable[[np.ndarray], np.ndarray]  # distances (n, m) to a column for every row, (n,)

MIN_SAMPLES = 3  # a shorter video is left out when the first frames are
_PADDING = 64  # frames; lengths are padded to multiples of it for JAX
_BLOCK = 2**20  # comparisons of two neighbours made at a time


class KendallTau(NamedTuple):
    """Kendall's tau over the ordered pairs of videos of one class.

    Attributes:
      tau: mean tau-b over the pairs that have one, in [-1, 1]; NaN if none has.
      tau_a: mean tau-a, which counts a tie against the embedding, as neither in order nor out of it; a pair
        whose neighbours all coincide counts 0.
      nan_rate: share of the pairs without a tau-b, because all neighbours coincide or there is one sample only.
      tie_rate: share, over all pairs, of the pairs of samples whose neighbours coincide.
      num_pairs: ordered pairs of videos.
      num_skipped: videos left out as too short.
      taus: (pairs,) tau-b of each, NaN included; reference by reference, then video by video.
    """

    tau: float
    tau_a: float
    nan_rate: float
    tie_rate: float
    num_pairs: int
    num_skipped: int
    taus: np.ndarray


def squared_euclidean(x: Real[np.ndarray, "n d"], y: Real[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """Squared Euclidean distances, float64; frames that are equal are equally far from every other, to the bit."""
    from scipy.spatial.distance import cdist

    return cdist(x, y, "sqeuclidean")


def cosine_distance(x: Real[np.ndarray, "n d"], y: Real[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """One minus the cosine, float64; 1 from a vector that is zero."""
    from scipy.spatial.distance import cdist

    return np.nan_to_num(cdist(x, y, "cosine"), nan=1.0)


def nearest_neighbours(distances: Real[np.ndarray, "n m"]) -> Int[np.ndarray, " n"]:
    """For every frame of the reference the nearest frame of the other video, the first of several."""
    return np.argmin(distances, axis=1)


def kendall_tau(
    embeddings: Sequence[Real[np.ndarray, "_ d"]],
    *,
    stride: int = 5,
    first_frame: int = 0,
    distance: Distance = squared_euclidean,
) -> KendallTau:
    """How often later frames have later nearest neighbours, over all ordered pairs of videos of a class.

    One frame in `stride` is sampled. tau-b leaves tied neighbours out of its count and has no value where all
    are tied, and the published protocol drops such pairs: an embedding that knows no more than the first few
    frames of every video may score high. So look at the rates of ties and of NaN beside it, and at `first_frame`.

    Args:
      embeddings: one (T, D) array a video.
      stride: frames from one sample to the next; 5 is published for Penn Action.
      first_frame: the first frame sampled: 0 is published; the number of frames that the embedder looks back (15
        in published ones) leaves out those whose context was clipped at the start of the video, and with them
        the videos of fewer than three samples.
      distance: distances between the rows of two arrays; it is given the frames of several videos at once.

    Returns:
      tau and what else is needed to judge it.

    Raises:
      ValueError: options that make no sense, fewer than two videos, arrays of different widths, or values or
        distances that are NaN.

    References:
      Dwibedi et al., "Temporal Cycle-Consistency Learning", CVPR 2019, section 5; tau-b as in SciPy's `kendalltau`.
    """
    if stride < 1 or first_frame < 0:
        raise ValueError(f"need stride >= 1 and first_frame >= 0, got {stride} and {first_frame}")
    videos = _checked(embeddings)
    samples = [video[first_frame::stride] for video in videos]
    kept = [sample for sample in samples if len(sample) >= (MIN_SAMPLES if first_frame else 1)]
    if len(kept) < 2:
        raise ValueError(
            f"{len(kept)} of {len(videos)} videos have samples enough from frame {first_frame} on in steps of "
            f"{stride}; two are needed: lower first_frame or stride"
        )
    ends = np.cumsum([len(sample) for sample in kept])
    everything = np.concatenate(kept)
    neighbours = []
    for i, sample in enumerate(kept):
        distances = distance(sample, everything)
        if distances.shape != (len(sample), len(everything)) or np.isnan(distances).any():
            raise ValueError(
                f"distance returned shape {distances.shape} with {np.isnan(distances).sum()} NaN where "
                f"{(len(sample), len(everything))} numbers are due"
            )
        for j, part in enumerate(np.split(distances, ends[:-1], axis=1)):
            if j != i:
                neighbours.append(nearest_neighbours(part))
    return tau_of_neighbours(neighbours)._replace(num_skipped=len(videos) - len(kept))


def tau_of_neighbours(neighbours: Sequence[Int[np.ndarray, " _"]]) -> KendallTau:
    """Kendall's tau from nearest neighbours, one array a pair of videos, for distances of any kind.

    tau-b of n_1, ..., n_m is sum over k < l of sign(n_l - n_k) / sqrt(n_0 * untied), where n_0 = m (m - 1) / 2 and
    `untied` of those pairs have different neighbours; tau-a divides by n_0.

    Args:
      neighbours: for each pair the frame, or sample, of the other video nearest to each one of the reference.

    Raises:
      ValueError: no pair, or one without a sample.
    """
    lengths = np.asarray([len(pair) for pair in neighbours])
    if not len(lengths) or not lengths.all():
        raise ValueError(f"need a pair of videos and a sample of each, got {lengths.tolist()} samples")
    order, ties = np.zeros((2, len(lengths)), np.int64)
    for length in np.unique(lengths):
        index = np.flatnonzero(lengths == length)
        for block in np.array_split(index, -(-len(index) * length**2 // _BLOCK)):
            order[block], ties[block] = _order_and_ties(np.stack([neighbours[i] for i in block]))
    total = lengths * (lengths - 1) // 2
    untied = total - ties
    taus, taus_a = np.full((2, len(lengths)), np.nan)
    np.divide(order, np.sqrt(total * untied), out=taus, where=untied > 0)
    np.divide(order, total, out=taus_a, where=total > 0)
    return KendallTau(
        tau=_mean(taus),
        tau_a=_mean(taus_a),
        nan_rate=float(np.isnan(taus).mean()),
        tie_rate=float(ties.sum() / total.sum()) if total.any() else float("nan"),
        num_pairs=len(lengths),
        num_skipped=0,
        taus=taus,
    )


def synchronise(
    reference: Real[np.ndarray, "n d"],
    other: Real[np.ndarray, "m d"],
    *,
    distance: Distance = squared_euclidean,
    match: Match = nearest_neighbours,
) -> Int[np.ndarray, " n"]:
    """Which frame of another video to show beside each frame of the reference.

    Args:
      reference: embeddings of N frames.
      other: embeddings of M frames.
      distance: distances between their rows.
      match: `nearest_neighbours`, each frame on its own, or `monotone_match`, which never plays backwards.

    Raises:
      ValueError: a video without frames, different widths, or NaN.
    """
    return match(distance(*_checked([reference, other])))


def monotone_match(distances: Real[np.ndarray, "n m"]) -> Int[np.ndarray, " n"]:
    """The frame of the other video for every one of the reference along the cheapest path of dynamic time warping.

    The path runs from the first frames of both videos to the last. Where it stays in a frame of the reference, the
    nearest of the frames it passes there is taken, the first of several.
    """
    chosen = np.full(len(distances), -1)
    for i, j in warping_path(distances):
        if chosen[i] < 0 or distances[i, j] < distances[i, chosen[i]]:
            chosen[i] = j
    return chosen


def warping_path(distances: Real[np.ndarray, "n m"]) -> Int[np.ndarray, "p 2"]:
    """The cheapest path of dynamic time warping, `casejax.alignment.warping.dtw_path`, as the frames (i, j) it visits.

    Raises:
      ValueError: no distance at all, or one that is not a finite number.
    """
    import jax.numpy as jnp  # here, as all else is NumPy

    from casejax.alignment.warping import dtw_path

    if not distances.size or not np.isfinite(distances).all():
        raise ValueError(
            f"need finite distances, at least one, got shape {distances.shape} and {np.sum(distances)} in all"
        )
    # Padded to few different shapes, each of which is compiled once.
    padded = np.zeros([-(-length // _PADDING) * _PADDING for length in distances.shape], np.float32)
    real = [np.arange(size) < length for size, length in zip(padded.shape, distances.shape, strict=True)]
    padded[: distances.shape[0], : distances.shape[1]] = distances
    path = dtw_path(jnp.asarray(padded), x_mask=jnp.asarray(real[0]), y_mask=jnp.asarray(real[1]))
    return np.asarray(path.cells)[np.asarray(path.mask)]


def _checked(embeddings: Sequence[np.ndarray]) -> list[np.ndarray]:
    videos = [np.asarray(video) for video in embeddings]
    if len(videos) < 2:
        raise ValueError(f"need at least two videos, got {len(videos)}")
    for v, video in enumerate(videos):
        if video.ndim != 2 or not video.size or video.shape[1] != videos[0].shape[1]:
            raise ValueError(
                f"video {v} has shape {video.shape}; every video needs (T, D), T >= 1, with the D of the first, "
                f"{videos[0].shape}"
            )
        if not np.isfinite(video).all():
            raise ValueError(f"video {v} holds values that are not finite, from frame {_first_bad(video)} on")
    return videos


def _first_bad(video: np.ndarray) -> int:
    return int(np.flatnonzero(~np.isfinite(video).all(axis=1))[0])


def _order_and_ties(neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For (pairs, m) neighbours: pairs k < l in order less those out of order, and those tied."""
    first, second = np.triu_indices(neighbours.shape[1], 1)
    difference = neighbours[:, second] - neighbours[:, first]
    return np.sign(difference).sum(axis=1), (difference == 0).sum(axis=1)


def _mean(taus: np.ndarray) -> float:
    there = taus[~np.isnan(taus)]
    return float(there.mean()) if len(there) else float("nan")
