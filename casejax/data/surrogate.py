"""Invented snippet features for real annotations, where the features themselves cannot be handed on.

Every snippet shows one thing. An instance runs through onset, core and offset; each is one of a few motions that
classes share, with something of the class's own, strong in the core. The rest of a video shows a few out of many
generic backgrounds, and for nearly half of the time the scene of a class that the video has. Flow sees motion better,
rgb sees scenes better. What is learned from such features says which choice matters where snippets look like these,
not what the published features would give.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from casejax.data.layouts.published import read_videos
from casejax.records import Dataset, Features, Split, Video

A_SECOND = 25 / 16  # snippets: one of 16 frames at 25 a second
MOTIONS, SCENES, GENERICS = 8, 12, 60
# how strongly each stream sees a kind of thing
STRENGTH = {
    "rgb": {"motion": 0.6, "scene": 1.1, "generic": 1.0},
    "flow": {"motion": 1.1, "scene": 0.5, "generic": 0.6},
}
OWN_SHARE = {"core": 1.0, "onset": 0.3, "offset": 0.3, "scene": 0.1}  # how much of it is the class's own
SCENE_TIME = 0.45  # share of the background that shows the scene of a class in the video
BACKGROUNDS = 5  # generic backgrounds a video
RUN_END = 0.12  # a background lasts 1 + n snippets, n geometric with this parameter
ONSET, OFFSET = (0.1, 0.4), (0.6, 0.95)  # where onset ends and offset begins, as a share of the instance
AFTER = (2.0, 20.0)  # seconds of a video after its last instance
NEIGHBOURS = np.array([0.15, 0.7, 0.15], np.float32)  # the receptive field of a snippet reaches into its neighbours


def make_surrogate_features(
    annotations: str | os.PathLike[str],
    *,
    seed: int = 0,
    dim: int = 128,
    noise: float = 0.8,
    own: float = 0.6,
    video_look: float = 0.1,
) -> Dataset:
    """Draw features for the videos of a folder in the published layout: the same options and seed give the same.

    Args:
      annotations: folder with `gt.json` and `split_train.txt`, `split_test.txt`, as published for THUMOS14; features in
        it are not looked at.
      seed: of everything.
      dim: feature dimension of each stream; that of I3D is 1024.
      noise: standard deviation of the noise of every feature value.
      own: strength of what is special to one class, relative to the motions that classes share.
      video_look: strength of what is special to one video.

    Returns:
      The annotated videos with streams "rgb" and "flow" of non-negative features, a snippet every 0.64 s, up to a few
      seconds after the last instance.

    Raises:
      DataError: annotations that cannot be used.
      ValueError: no dimension.

    Example:
      >>> from casejax import data
      >>> data.write_world("world", num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> data.make_surrogate_features("world", dim=4).train.features.streams[0].shape[1]
      4
    """
    if dim < 1:
        raise ValueError(f"dim must be 1 or more, got {dim}")
    videos, classes = read_videos(Path(annotations))
    rng = np.random.default_rng(seed)
    looks = _Looks.draw(classes, dim, own, rng)
    splits = []
    for name in ("train", "test"):
        streams: list[list[np.ndarray]] = [[] for _ in STRENGTH]
        for video in videos[name]:
            seconds = video.segments.max(initial=0.0) + rng.uniform(*AFTER)
            shown = looks.shown(video, int(np.ceil(seconds * A_SECOND)), rng)
            for parts, look in zip(streams, looks.by_stream, strict=True):
                parts.append(_render(look[shown], noise, video_look, rng))
        features = Features.end_to_end(tuple(map(np.concatenate, streams)), [len(part) for part in streams[0]])
        # the surrogate has a length of its own
        own_videos = tuple(replace(video, duration=None, frames=None) for video in videos[name])
        splits.append(Split(name, own_videos, features))
    train, test = splits
    return Dataset(f"surrogate features, seed {seed}, of {annotations}", classes, tuple(STRENGTH), train, test)


@dataclass(frozen=True)
class _Looks:
    """What can be seen, a row each: the cores of C classes, their onsets, offsets and scenes, then the generics.

    Attributes:
      classes: class names.
      by_stream: (4 C + generics, dim) appearance, one array a stream.
    """

    classes: tuple[str, ...]
    by_stream: tuple[np.ndarray, ...]

    @classmethod
    def draw(cls, classes: tuple[str, ...], dim: int, own: float, rng: np.random.Generator) -> _Looks:
        motions = np.stack([rng.choice(MOTIONS, 3, replace=False) for _ in classes])
        scenes = [int(rng.integers(SCENES)) for _ in classes]
        # what each row shows that others may share, and how much of it is its own
        rows = [
            *(("motion", int(m), OWN_SHARE[part]) for part, of in zip(OWN_SHARE, motions.T, strict=False) for m in of),
            *(("scene", s, OWN_SHARE["scene"]) for s in scenes),
            *(("generic", g, 0.0) for g in range(GENERICS)),
        ]
        by_stream = []
        for strength in STRENGTH.values():
            shared = {
                theme: strength[theme[0]] * rng.gamma(0.6, 1.0, dim) for theme in sorted({row[:2] for row in rows})
            }
            look = [shared[kind, n] + own * share * rng.gamma(0.6, 1.0, dim) for kind, n, share in rows]
            by_stream.append(np.asarray(look, np.float32))
        return cls(classes, tuple(by_stream))

    def shown(self, video: Video, snippets: int, rng: np.random.Generator) -> np.ndarray:
        """(snippets,) the row that each snippet of a video shows: backgrounds, and instances over them."""
        count = len(self.classes)
        out = self._background(sorted(self.classes.index(label) for label in video.labels), snippets, rng)
        for label, (start, end) in zip(video.segment_labels, video.segments, strict=True):
            first = max(int(np.floor(start * A_SECOND)), 0)
            last = min(max(int(np.ceil(end * A_SECOND)), first + 1), snippets)
            if first >= last:
                continue
            core, offset = (first + round((last - first) * rng.uniform(*share)) for share in (ONSET, OFFSET))
            offset = max(offset, core + 1)
            c = self.classes.index(label)
            out[first:core], out[core:offset], out[offset:last] = count + c, c, 2 * count + c
        return out

    def _background(self, present: Sequence[int], snippets: int, rng: np.random.Generator) -> np.ndarray:
        present = present or [int(rng.integers(len(self.classes)))]
        generics = rng.choice(GENERICS, BACKGROUNDS, replace=False)
        out, t = np.empty(snippets, np.int64), 0
        while t < snippets:
            run = 1 + int(rng.geometric(RUN_END))
            scene = rng.random() < SCENE_TIME
            row = 3 * len(self.classes) + present[int(rng.integers(len(present)))] if scene else rng.choice(generics)
            out[t : t + run] = row if scene else 4 * len(self.classes) + row
            t += run
        return out


def _render(clean: np.ndarray, noise: float, video_look: float, rng: np.random.Generator) -> np.ndarray:
    """Features of one video in one stream from what its snippets show, (snippets, dim) float32, rectified."""
    snippets, dim = clean.shape
    padded = np.pad(clean, ((1, 1), (0, 0)), mode="edge")
    clean = NEIGHBOURS[0] * padded[:-2] + NEIGHBOURS[1] * padded[1:-1] + NEIGHBOURS[2] * padded[2:]
    look = video_look * np.asarray(rng.gamma(0.6, 1.0, dim), np.float32)
    gain = rng.uniform(0.6, 1.4, (snippets, 1)).astype(np.float32)
    return np.maximum(gain * clean + look + rng.normal(0, noise, clean.shape).astype(np.float32), 0)
