"""A small invented world of sports videos: annotations and snippet features, learnable from video labels.

An action instance runs through onset, core and offset. Each part shows a motion theme that several classes
share plus something of the class's own, strong in the core. A scene goes with every class: it fills a quarter
of the time outside the action and so tempts a classifier that only sees video labels. The rest of a video
shows a few out of many generic backgrounds. Flow sees motion better, rgb sees scenes better. Lengths,
counts and overlaps of the annotations follow those of THUMOS14; a second world looks the same and is annotated like
ActivityNet 1.3, where a few long instances of one class fill most of a video.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from casejax.data.layouts.published import write_dataset
from casejax.records import SNIPPET_SECONDS, Dataset, Features, Split, Video

NARROW, WIDE = "CliffDive", "Dive"  # every instance of the narrow class is one of the wide class too
OTHERS = (
    "BowShot",
    "BarrelRoll",
    "KiteLaunch",
    "HoopSpin",
    "StoneSkip",
    "LadderClimb",
    "OarStroke",
    "RopeSwing",
    "TorchToss",
    "FanWave",
    "NetCast",
    "WheelKick",
    "PanFlip",
    "DrumRoll",
    "StiltWalk",
    "LogSplit",
    "SledStart",
    "ScarfTwirl",
)

STREAMS = ("rgb", "flow")
THEMES, GENERICS = 6, 40
# how strongly each stream sees a kind of thing
STRENGTH = {
    "rgb": {"motion": 0.6, "scene": 1.1, "generic": 1.0},
    "flow": {"motion": 1.1, "scene": 0.5, "generic": 0.6},
}
OWN_SHARE = np.array([0.3, 1.0, 0.3])  # how much of onset, core and offset is the class's own
SCENE_IN_ACTION = 0.3  # how much of the scene shows during an instance
MEDIAN_INSTANCE, INSTANCE_SPREAD = 2.9, 0.81  # log-normal, seconds; the mean is 4.0
VIDEO_SPREAD = 0.7
MULTI_LABEL = 0.13  # share of videos with a second, unrelated class
CLASSES_A_SCENE = 4 / 3  # classes that share a scene, on average
SCENE_TIME = 0.25  # share of the background that shows the scene of a class in the video
ANY_SCENE_TIME = 0.08  # share that shows any scene

# as computed from the annotations of 9,649 training videos of ActivityNet 1.3
BEYOND_ONE = 0.22  # share of videos with more than one instance
MORE_INSTANCES = 2.7  # how many more these have, on average
SHARE = (1.3, 0.69)  # beta law of the share of action in a video
SHARE_POWER = {True: 0.87, False: 1.8}  # power of that share, of videos with one instance and with more
LENGTH = (1.25, 1.29)  # beta law of the length of a video, as a share of the longest
TWO_LABELS = 0.001  # share of videos with a second class


def make_world(
    *,
    seed: int = 0,
    num_classes: int = 8,
    dim: int = 64,
    train_videos: int = 80,
    test_videos: int = 60,
    shortest: int = 10,
    median: int = 170,
    longest: int = 2000,
    noise: float = 0.8,
    own: float = 0.7,
    video_look: float = 0.1,
) -> Dataset:
    """Draw a world: the same options and seed give the same data.

    The test split does not depend on `train_videos`, nor the annotations on `dim`, `noise`, `own` and
    `video_look`.

    Args:
      seed: seed of everything.
      num_classes: classes, the nested pair "CliffDive" and "Dive" included; at least 2.
      dim: feature dimension of each stream.
      train_videos: videos to learn from; at least three a class.
      test_videos: videos to evaluate on; at least three a class.
      shortest: snippets of the shortest video, of which each split has exactly one; at least 4.
      median: snippets of the median video.
      longest: snippets of the longest video, of which each split has exactly one.
      noise: standard deviation of the noise of every feature value.
      own: strength of what is special to one class, relative to the motions that classes share.
      video_look: strength of what is special to one video.

    Returns:
      Streams "rgb" and "flow" of non-negative features, annotations with times in tenths of a second.

    Raises:
      ValueError: too few classes, dimensions or videos, or lengths out of order.

    Example:
      >>> from casejax import data
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> world.classes, world.train.features.streams[0].shape[1], int(world.train.features.lengths.max())
      (('CliffDive', 'Dive'), 8, 40)
    """
    _check_sizes(num_classes, dim, train_videos, test_videos)
    if not 4 <= shortest < median < longest:
        raise ValueError(f"lengths must be 4 <= shortest < median < longest, got {shortest, median, longest}")
    extra = [f"Action{c:03d}" for c in range(num_classes - 2 - len(OTHERS))]
    classes = sorted([NARROW, WIDE, *OTHERS, *extra][:num_classes])
    look_rng, *split_rngs = np.random.default_rng(seed).spawn(3)
    frequency = look_rng.permutation(0.75 ** np.arange(num_classes))  # some classes are rarer than others
    looks = _Looks.draw(classes, dim, own, look_rng)
    splits = []
    for name, count, rng in zip(("train", "test"), (train_videos, test_videos), split_rngs, strict=True):
        annotation_rng, feature_rng = rng.spawn(2)
        lengths = _lengths(count, (shortest, median, longest), annotation_rng)
        labels = _video_labels(lengths, classes, frequency, annotation_rng)
        videos = tuple(
            _annotate(f"{name}_{v:04d}", name, n, present, annotation_rng)
            for v, (n, present) in enumerate(zip(lengths, labels, strict=True))
        )
        mixes = [looks.mix(video, n, feature_rng) for video, n in zip(videos, lengths, strict=True)]
        packed = tuple(
            np.concatenate([_render(mix, look, noise, video_look, feature_rng) for mix in mixes])
            for look in looks.by_stream
        )
        splits.append(Split(name, videos, Features.end_to_end(packed, lengths)))
    train, test = splits
    return Dataset(f"synthetic world, seed {seed}", tuple(classes), STREAMS, train, test)


def make_activitynet_world(
    *,
    seed: int = 0,
    num_classes: int = 200,
    dim: int = 64,
    train_videos: int = 1000,
    test_videos: int = 600,
    longest: int = 375,
    noise: float = 0.8,
    own: float = 0.7,
    video_look: float = 0.1,
) -> Dataset:
    """Draw a world that is annotated like ActivityNet 1.3: the same options and seed give the same data.

    A surrogate to try programs on, in the place of data that cannot be handed on; results on it say nothing of results
    on those. It has their 200 classes, of about equal frequency, videos of 118 s, 1.54 instances a video, of 49 s on
    average and 27 s in the median, 0.65 of a video inside them, in a quarter of the videos above 0.9, and one class in
    all but one video of a thousand. With 9,649 training and 4,728 test videos it has their sizes. No class is nested.

    Args:
      seed: seed of everything.
      num_classes: classes; at least 2.
      dim: feature dimension of each stream.
      train_videos: videos to learn from; at least three a class.
      test_videos: videos to evaluate on; at least three a class.
      longest: snippets that no video exceeds, at least 8; the mean is 0.49 of it, 184 by default.
      noise: standard deviation of the noise of every feature value.
      own: strength of what is special to one class, relative to the motions that classes share.
      video_look: strength of what is special to one video.

    Returns:
      Streams "rgb" and "flow" of non-negative features, annotations with times in tenths of a second. The splits depend
      on each other's size as little as in `make_world`, and annotations as little on features.

    Raises:
      ValueError: too few classes, dimensions, videos or snippets.

    Example:
      >>> from casejax import data
      >>> world = data.make_activitynet_world(num_classes=2, dim=8, train_videos=6, test_videos=6, longest=16)
      >>> len(world.train.videos), world.streams
      (6, ('rgb', 'flow'))
    """
    _check_sizes(num_classes, dim, train_videos, test_videos)
    if longest < 8:
        raise ValueError(f"longest must be 8 snippets or more, got {longest}")
    classes = [f"Activity{c:03d}" for c in range(num_classes)]
    look_rng, *split_rngs = np.random.default_rng(seed).spawn(3)
    frequency = look_rng.permutation(np.geomspace(1, 2, num_classes))
    looks = _Looks.draw(classes, dim, own, look_rng)
    splits = []
    for name, count, rng in zip(("train", "test"), (train_videos, test_videos), split_rngs, strict=True):
        annotation_rng, feature_rng = rng.spawn(2)
        lengths = np.maximum(np.rint(longest * annotation_rng.beta(*LENGTH, count)).astype(np.int64), 4)
        labels = [[classes[c]] for c in _first_classes(count, frequency, annotation_rng)]
        for v in annotation_rng.choice(count, round(TWO_LABELS * count), replace=False):
            others = [each for each in classes if each not in labels[v]]
            labels[v].append(others[annotation_rng.integers(len(others))])
        videos = tuple(
            _annotate_activity(f"{name}_{v:05d}", name, int(n), present, annotation_rng)
            for v, (n, present) in enumerate(zip(lengths, labels, strict=True))
        )
        features = Features.end_to_end(tuple(np.empty((lengths.sum(), dim), np.float32) for _ in STREAMS), lengths)
        for v, video in enumerate(videos):
            mix = looks.mix(video, int(lengths[v]), feature_rng)
            for stream, look in zip(features.streams, looks.by_stream, strict=True):
                stream[features.rows(v)] = _render(mix, look, noise, video_look, feature_rng)
        splits.append(Split(name, videos, features))
    train, test = splits
    return Dataset(f"synthetic world like ActivityNet, seed {seed}", tuple(classes), STREAMS, train, test)


def _check_sizes(num_classes: int, dim: int, train_videos: int, test_videos: int) -> None:
    if num_classes < 2 or dim < 1:
        raise ValueError(f"need num_classes >= 2 and dim >= 1, got {num_classes} and {dim}")
    if min(train_videos, test_videos) < 3 * num_classes:
        raise ValueError(
            f"{num_classes} classes need at least {3 * num_classes} videos a split, "
            f"got {train_videos} and {test_videos}"
        )


def write_world(root: str | os.PathLike[str], **options: Any) -> None:
    """Write a world in the published layout; `root` must not exist yet.

    Args:
      root: folder to create.
      **options: those of `make_world`.

    Raises:
      DataError: `root` exists.
      ValueError: see `make_world`.

    Example:
      >>> from casejax import data
      >>> data.write_world("world", num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> len(data.read_dataset("world").test.videos)
      6
    """
    write_dataset(make_world(**options), root)


# Annotations


def _lengths(count: int, bounds: tuple[int, int, int], rng: np.random.Generator) -> list[int]:
    """Snippets of each video: log-normal, with one video at either bound."""
    shortest, median, longest = bounds
    draws = median * np.exp(VIDEO_SPREAD * rng.standard_normal(count - 2))
    inner = np.clip(np.rint(draws).astype(np.int64), shortest + 1, longest - 1)
    return rng.permutation([shortest, longest, *inner]).tolist()


def _first_classes(count: int, frequency: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A class for each video; every class has three at least, and of the rest its share."""
    num_classes = len(frequency)
    rest = rng.choice(num_classes, count - 3 * num_classes, p=frequency / frequency.sum())
    return rng.permutation([*np.repeat(np.arange(num_classes), 3), *rest])


def _video_labels(
    lengths: list[int], classes: list[str], frequency: np.ndarray, rng: np.random.Generator
) -> list[list[str]]:
    """The classes each video is about; the wide class of a nested pair is added later."""
    count = len(lengths)
    labels = [[classes[c]] for c in _first_classes(count, frequency, rng)]
    # a second class goes to longer videos, which have room for two instances
    roomy = np.flatnonzero(np.asarray(lengths) >= np.median(lengths) / 2)
    for v in rng.choice(roomy, round(MULTI_LABEL * count), replace=False):
        related = {NARROW, WIDE} if labels[v][0] in (NARROW, WIDE) else set(labels[v])
        unrelated = [name for name in classes if name not in related]
        if unrelated:
            labels[v].append(unrelated[rng.integers(len(unrelated))])
    return labels


def _annotate(name: str, subset: str, snippets: int, present: list[str], rng: np.random.Generator) -> Video:
    """Instances one after the other with random gaps, until the video's share of action is reached."""
    duration = snippets * SNIPPET_SECONDS
    target = duration * min(rng.beta(1.8, 4.4), 0.75)
    lengths: list[float] = []
    while len(lengths) < len(present) or sum(lengths) < target:
        draw = MEDIAN_INSTANCE * np.exp(INSTANCE_SPREAD * rng.standard_normal())
        lengths.append(min(max(draw, 0.3), 0.5 * duration / len(present)))
    if len(lengths) > len(present) and sum(lengths) - target > target - sum(lengths[:-1]):
        lengths.pop()  # the sum is nearer to the target without the last one
    gaps = rng.dirichlet(np.full(len(lengths) + 1, 0.8)) * (duration - sum(lengths))
    starts = np.cumsum(gaps[:-1]) + np.cumsum([0, *lengths[:-1]])
    # every class present has an instance; who has the others is chance
    who = rng.permutation([*present, *rng.choice(present, len(lengths) - len(present))])
    segments, segment_labels = [], []
    for label, start, length in zip(who, starts, lengths, strict=True):
        segment = (int(10 * start) / 10, int(10 * (start + length)) / 10)
        for one in (NARROW, WIDE) if label == NARROW else (str(label),):
            segments.append(segment)
            segment_labels.append(one)
    return Video(name, subset, np.asarray(segments, np.float64), tuple(segment_labels))


def _annotate_activity(name: str, subset: str, snippets: int, present: list[str], rng: np.random.Generator) -> Video:
    """A few instances, of half a second at least, that fill a share of the video drawn beforehand."""
    duration = snippets * SNIPPET_SECONDS
    wanted = 1 + rng.geometric(1 / MORE_INSTANCES) if rng.random() < BEYOND_ONE else 1
    action = max(duration * rng.beta(*SHARE) ** SHARE_POWER[wanted == 1], 1.0 * len(present))
    count = min(max(wanted, len(present)), int(action))
    lengths = 0.5 + rng.dirichlet(np.full(count, 2.0)) * (action - 0.5 * count)
    gaps = rng.dirichlet(np.full(count + 1, 0.8)) * (duration - action)
    starts = np.cumsum(gaps[:-1]) + np.cumsum([0, *lengths[:-1]])
    who = rng.permutation([*present, *rng.choice(present, count - len(present))])
    segments = np.floor(10 * np.stack([starts, starts + lengths], axis=1)) / 10
    return Video(name, subset, segments, tuple(map(str, who)))


# Features


@dataclass(frozen=True)
class _Looks:
    """What can be seen in the world, a row each: the parts of every class, the scenes, the generics.

    Attributes:
      classes: class names; the parts of class c are the rows 3 c to 3 c + 2.
      scene_of: (classes,) row of the scene that goes with a class.
      by_stream: (rows, dim) appearance, one array a stream.
    """

    classes: list[str]
    scene_of: np.ndarray
    by_stream: tuple[np.ndarray, ...]

    @classmethod
    def draw(cls, classes: list[str], dim: int, own: float, rng: np.random.Generator) -> _Looks:
        count = len(classes)
        num_scenes = max(2, round(count / CLASSES_A_SCENE))
        scene_of = 3 * count + rng.permutation(count) % num_scenes
        themes = np.stack([rng.choice(THEMES, 3, replace=False) for _ in classes])
        by_stream = []
        for stream in STREAMS:
            strength = STRENGTH[stream]
            motions = strength["motion"] * rng.gamma(0.6, 1.0, (THEMES, dim))
            scenes = strength["scene"] * rng.gamma(0.6, 1.0, (num_scenes, dim))
            generics = strength["generic"] * rng.gamma(0.6, 1.0, (GENERICS, dim))
            special = own * strength["motion"] * OWN_SHARE[:, None] * rng.gamma(0.6, 1.0, (count, 3, dim))
            parts = motions[themes] + special
            if NARROW in classes:
                parts[classes.index(NARROW)] = parts[classes.index(WIDE)] + special[classes.index(NARROW)]
            by_stream.append(np.concatenate([parts.reshape(-1, dim), scenes, generics]).astype(np.float32))
        return cls(classes, scene_of, tuple(by_stream))

    def mix(self, video: Video, snippets: int, rng: np.random.Generator) -> np.ndarray:
        """How much of every row each snippet of the video shows, (snippets, rows) float32."""
        rows = len(self.by_stream[0])
        shown = np.zeros((snippets, rows), np.float32)
        covered = np.zeros(snippets, np.float32)
        drawn = set()
        for label, (start, end) in zip(video.segment_labels, video.segments, strict=True):
            if (start, end) in drawn:  # the wide class's copy of a narrow instance
                continue
            drawn.add((start, end))
            c = self.classes.index(label)
            cuts = start + (end - start) * np.array([0, rng.uniform(0.1, 0.4), rng.uniform(0.6, 0.95), 1])
            cuts /= SNIPPET_SECONDS
            first, last = int(cuts[0]), min(int(np.ceil(cuts[-1])), snippets)
            for part in range(3):
                # how much of every snippet lies within the part
                share: np.ndarray = np.diff(np.clip(np.arange(first, last + 1), cuts[part], cuts[part + 1]))
                shown[first:last, 3 * c + part] += share
                shown[first:last, self.scene_of[c]] += SCENE_IN_ACTION * share
                covered[first:last] += share
        background = self._background(video, snippets, rng)
        shown[np.arange(snippets), background] += np.maximum(1 - covered, 0)
        # the receptive field of a snippet reaches into its neighbours
        padded = np.pad(shown, ((1, 1), (0, 0)), mode="edge")
        return 0.15 * padded[:-2] + 0.7 * padded[1:-1] + 0.15 * padded[2:]

    def _background(self, video: Video, snippets: int, rng: np.random.Generator) -> np.ndarray:
        """Row of the background in each snippet: runs of a class's scene, any scene, or a generic."""
        rows = len(self.by_stream[0])
        scenes = [self.scene_of[self.classes.index(label)] for label in video.labels]
        generics = rng.choice(np.arange(rows - GENERICS, rows), 4, replace=False)
        out = np.empty(snippets, np.int64)
        t = 0
        while t < snippets:
            run = 1 + rng.geometric(0.12)
            kind = rng.random()
            pool = scenes if kind < SCENE_TIME else self.scene_of if kind < SCENE_TIME + ANY_SCENE_TIME else generics
            out[t : t + run] = pool[rng.integers(len(pool))]
            t += run
        return out


def _render(mix: np.ndarray, look: np.ndarray, noise: float, video_look: float, rng: np.random.Generator) -> np.ndarray:
    """Features of one video in one stream, (snippets, dim) float32, rectified like those of I3D."""
    snippets, dim = len(mix), look.shape[1]
    gain = rng.uniform(0.6, 1.4, (snippets, 1))
    own_look = video_look * rng.gamma(0.6, 1.0, dim)
    values = gain * (mix @ look) + own_look + noise * rng.standard_normal((snippets, dim))
    return np.maximum(values, 0).astype(np.float32)
