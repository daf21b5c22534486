"""What frozen frame embeddings know of phases: support vector machines and linear regression on top of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from casejax.array_types import Float, Int

FRACTIONS = (0.1, 0.5, 1.0)
"""Shares of the training videos whose labels are used in the published tables."""


class LabelledVideos(NamedTuple):
    """Frozen embeddings of some videos with the class of every frame.

    Attributes:
      embeddings: one (T, D) array a video.
      labels: one (T,) array of integers a video. In classification a frame with a negative label is left out.
    """

    embeddings: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]

    def take(self, index: Iterable[int]) -> LabelledVideos:
        """Some of the videos, in the order of `index`."""
        chosen = list(index)
        return LabelledVideos([self.embeddings[v] for v in chosen], [self.labels[v] for v in chosen])


class Scores(NamedTuple):
    """A score on the frames that were learned from, and on those of the test videos."""

    train: float
    test: float


class FewShot(NamedTuple):
    """Test accuracy with few labelled videos.

    Attributes:
      num_videos: labelled videos of an episode.
      mean: mean over the episodes.
      interval: half the width of the 95 % confidence interval of the mean, by Student's t.
      accuracies: (episodes,) the accuracies themselves.
    """

    num_videos: int
    mean: float
    interval: float
    accuracies: np.ndarray


def classify_frames(
    train: LabelledVideos, test: LabelledVideos, *, gamma: float | str = "scale", penalty: float = 1.0
) -> Scores:
    """Share of the frames whose class a support vector machine gets right, one against one, with a Gaussian kernel.

    Args:
      train: videos to learn from.
      test: videos to measure on.
      gamma: exp(-gamma |x - y|^2) is the kernel: a number; "scale", 1 / (D times the variance of all values), the
        default of scikit-learn since 0.22; or "auto", 1 / D, the default of the time of the published tables. With
        normalised embeddings of 128 these are about 1 and 1/128, so name it beside the result.
      penalty: the machine's C.

    Raises:
      ImportError: scikit-learn is missing.
      ValueError: videos and labels that do not fit, nothing labelled, values that are not finite, or options out of
        range.
    """
    (x, y), (x_test, y_test) = _frames(train, test)
    return _support_vector_accuracy(x, y, x_test, y_test, gamma, penalty)


def classify_frames_by_event(
    train: LabelledVideos,
    train_events: Sequence[Hashable],
    test: LabelledVideos,
    test_events: Sequence[Hashable],
    *,
    gamma: float | str = "scale",
    penalty: float = 1.0,
) -> dict[Hashable, Scores]:
    """`classify_frames` with a machine of its own for each event of FineGym, as GTA's supplement reports them.

    Args:
      train: videos to learn from.
      train_events: the event of each of them.
      test: videos to measure on.
      test_events: the event of each of them; one without a training video is a `ValueError`.
      gamma: as for `classify_frames`.
      penalty: as for `classify_frames`.

    Returns:
      Scores by event, in the order in which the test videos name them.
    """
    events = {"training": (train, train_events), "test": (test, test_events)}
    for name, (videos, of_videos) in events.items():
        if len(of_videos) != len(videos.embeddings):
            raise ValueError(f"got {len(of_videos)} events for {len(videos.embeddings)} {name} videos; need one each")
    scores = {}
    for event in dict.fromkeys(test_events):
        known, asked = ([v for v, e in enumerate(of) if e == event] for of in (train_events, test_events))
        if not known:
            raise ValueError(f"event {event!r} has test videos but no training video")
        scores[event] = classify_frames(train.take(known), test.take(asked), gamma=gamma, penalty=penalty)
    return scores


def phase_classification(
    train: LabelledVideos,
    test: LabelledVideos,
    *,
    fractions: Sequence[float] = FRACTIONS,
    gamma: float | str = "scale",
    penalty: float = 1.0,
) -> dict[float, Scores]:
    """`classify_frames` with the labels of a share of the training videos: the first ones, at least one.

    Args:
      train: videos to learn from.
      test: videos to measure on.
      fractions: shares of the training videos, in (0, 1].
      gamma: as for `classify_frames`.
      penalty: as for `classify_frames`.

    Returns:
      Scores by fraction.

    References:
      Dwibedi et al., "Temporal Cycle-Consistency Learning", CVPR 2019, section 5.
    """
    return {
        fraction: classify_frames(train.take(range(count)), test, gamma=gamma, penalty=penalty)
        for fraction, count in _counts(fractions, len(train.embeddings)).items()
    }


def few_shot_classification(
    train: LabelledVideos,
    test: LabelledVideos,
    *,
    num_videos: Sequence[int] = tuple(range(1, 11)),
    episodes: int = 50,
    seed: int = 42,
    gamma: float | str = "scale",
    penalty: float = 1.0,
) -> list[FewShot]:
    """`classify_frames` with a few labelled videos, drawn anew for every episode without replacement.

    Args:
      train: videos to draw from.
      test: videos to measure on.
      num_videos: how many videos are labelled, one result each.
      episodes: draws for each result; at least two, for an interval.
      seed: of the draws. Those of each number of videos are the same whatever other numbers are asked for.
      gamma: as for `classify_frames`.
      penalty: as for `classify_frames`.

    References:
      Dwibedi et al., "Temporal Cycle-Consistency Learning", CVPR 2019, section 5.
    """
    from scipy.special import stdtrit

    available = len(train.embeddings)
    if episodes < 2:
        raise ValueError(f"need episodes >= 2 for a confidence interval, got {episodes}")
    if not num_videos or not 1 <= min(num_videos) <= max(num_videos) <= available:
        raise ValueError(f"num_videos must be from 1 to the {available} training videos, got {list(num_videos)}")
    results = []
    for count in num_videos:
        rng = np.random.default_rng([seed, count])
        draws = [rng.choice(available, count, replace=False).tolist() for _ in range(episodes)]
        accuracies = np.asarray(
            [classify_frames(train.take(draw), test, gamma=gamma, penalty=penalty).test for draw in draws]
        )
        error = accuracies.std(ddof=1) / np.sqrt(episodes)
        half = float(stdtrit(episodes - 1, 0.975) * error)
        results.append(FewShot(count, float(accuracies.mean()), half, accuracies))
    return results


def progression_targets(labels: Int[np.ndarray, " t"], *, num_phases: int) -> Float[np.ndarray, "t events"]:
    """How far each frame is from the key events, the ends of all phases but the last, as a share of the video.

    The target of frame k is (k - t_c) / T, t_c being the last frame of phase c. A video that skips the phase has its
    event at the first frame of a later phase; one that ends before, at its last frame.

    Args:
      labels: a phase for every frame, 0 to num_phases - 1.
      num_phases: C, at least 2; there are C - 1 events.

    Raises:
      ValueError: no frame, a label out of range, or fewer than two phases.
    """
    labels = np.asarray(labels)
    if num_phases < 2:
        raise ValueError(f"need num_phases >= 2, got {num_phases}")
    if labels.ndim != 1 or not len(labels) or not 0 <= labels.min() <= labels.max() < num_phases:
        raise ValueError(
            f"labels must be phases from 0 to {num_phases - 1}, at least one; got {np.unique(labels)} in {labels.shape}"
        )
    events = []
    for phase in range(num_phases - 1):
        own, later = np.flatnonzero(labels == phase), np.flatnonzero(labels > phase)
        events.append(own[-1] if len(own) else later[0] if len(later) else len(labels) - 1)
    return (np.arange(len(labels))[:, None] - np.asarray(events)) / len(labels)


def phase_progression(
    train: LabelledVideos, test: LabelledVideos, *, num_phases: int, fractions: Sequence[float] = FRACTIONS
) -> dict[float, Scores]:
    """How much of `progression_targets` a linear function of the embedding explains.

    Args:
      train: videos to learn from, every frame labelled.
      test: videos to measure on, likewise.
      num_phases: number of phases.
      fractions: shares of the training videos, in (0, 1]; the first ones are taken, at least one.

    Returns:
      By fraction, the mean over the key events of R^2, which is at most 1 and has no lower bound.

    References:
      Dwibedi et al., "Temporal Cycle-Consistency Learning", CVPR 2019, section 5.
    """
    (x_all, _), (x_test, _) = _frames(train, test)
    targets, targets_test = (
        np.concatenate([progression_targets(np.asarray(labels), num_phases=num_phases) for labels in videos.labels])
        for videos in (train, test)
    )
    scores = {}
    for fraction, count in _counts(fractions, len(train.embeddings)).items():
        frames = sum(len(video) for video in train.embeddings[:count])
        x, y = x_all[:frames], targets[:frames]
        # Embeddings are float32: what is smaller than its rounding beside the largest direction is noise.
        rounding = max(x.shape) * float(np.finfo(np.float32).eps)
        weights = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(axis=0), rcond=rounding)[0]
        offset = y.mean(axis=0) - x.mean(axis=0) @ weights
        scores[fraction] = Scores(_r2(x @ weights + offset, y), _r2(x_test @ weights + offset, targets_test))
    return scores


def _counts(fractions: Sequence[float], num_videos: int) -> dict[float, int]:
    wrong = [fraction for fraction in fractions if not 0 < fraction <= 1]
    if wrong or not len(fractions) or not num_videos:
        raise ValueError(f"fractions must lie in (0, 1] of at least one video, got {list(fractions)} of {num_videos}")
    return {fraction: max(int(fraction * num_videos), 1) for fraction in fractions}


def _frames(train: LabelledVideos, test: LabelledVideos) -> list[tuple[np.ndarray, np.ndarray]]:
    """All labelled frames of both, float64, with their labels."""
    width = np.shape(train.embeddings[0])[-1:] if train.embeddings else ()
    found = []
    for name, (embeddings, labels) in (("train", train), ("test", test)):
        if not embeddings or len(embeddings) != len(labels):
            raise ValueError(f"{name} has {len(embeddings)} videos and labels for {len(labels)}; need as many, not 0")
        for v, (video, of_video) in enumerate(zip(embeddings, labels, strict=True)):
            if np.ndim(video) != 2 or np.shape(video)[1:] != width or np.shape(of_video) != np.shape(video)[:1]:
                raise ValueError(
                    f"{name} video {v} has embeddings of shape {np.shape(video)} and labels of shape "
                    f"{np.shape(of_video)}; need (T, D) and (T,), with the D of train video 0, {width}"
                )
            if not np.isfinite(video).all():
                raise ValueError(f"{name} video {v} holds embeddings that are not finite")
        x, y = np.concatenate(embeddings).astype(np.float64), np.concatenate(labels)
        if y.dtype.kind not in "iu" or not (y >= 0).any():
            raise ValueError(f"{name} needs integer labels, some of them not negative; got {y.dtype}, {np.unique(y)}")
        found.append((x[y >= 0], y[y >= 0]))
    return found


def _support_vector_accuracy(
    x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, gamma: float | str, penalty: float
) -> Scores:
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise ImportError("support vector machines need scikit-learn: pip install 'casejax[evaluate]'") from error
    if gamma not in ("scale", "auto") and not (isinstance(gamma, int | float) and 0 < gamma < np.inf):
        raise ValueError(f'gamma must be "scale", "auto" or a positive number, got {gamma!r}')
    if not 0 < penalty < np.inf:
        raise ValueError(f"penalty must be positive and finite, got {penalty}")
    if (y == y[0]).all():  # nothing to separate, which the machine refuses
        return Scores(1.0, float(np.mean(y_test == y[0])))
    machine = SVC(C=penalty, gamma=gamma, decision_function_shape="ovo").fit(x, y)
    return Scores(float(np.mean(machine.predict(x) == y)), float(np.mean(machine.predict(x_test) == y_test)))


def _r2(predicted: np.ndarray, target: np.ndarray) -> float:
    """Mean over the columns of R^2; one of constant targets counts 1 if predicted exactly, else 0."""
    left = ((target - predicted) ** 2).sum(axis=0)
    total = ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    constant = np.where(left == 0, 1.0, 0.0)
    return float(np.where(total > 0, 1 - left / np.where(total > 0, total, 1), constant).mean())
