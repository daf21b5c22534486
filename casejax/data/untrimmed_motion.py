"""Untrimmed videos of real human motion with weak labels: clips of Penn Action's annotated poses, joined end to end.

Every frame is a pose that a person really took; what is composed is the order of the clips. Ten actions are classes to
be found, five others are never labelled and look like them (jump_rope beside jumping_jacks). What a class is shown with
is correlated with it, as scenes are: background is a person of a class of the video holding the first or the last pose
of the action, the class's own look-alike, or any look-alike.

Stream "rgb" is posture, the joints in the frames of a snippet, "flow" is motion, their changes. A snippet is four
annotated frames and counts as 0.64 s, so that nothing needs another clock than that of the published features. Training
videos are made of clips of the data set's own training split, test videos of those of its test split.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from casejax.data.penn_action import PoseTrack, read_penn_action
from casejax.data.poses import pose_features
from casejax.errors import DataError
from casejax.records import SNIPPET_SECONDS, Dataset, Features, Split, Video

LOOK_ALIKES = MappingProxyType(
    {
        "baseball_pitch": "tennis_forehand",
        "baseball_swing": "tennis_forehand",
        "bowl": "strum_guitar",
        "clean_and_jerk": "bench_press",
        "golf_swing": "strum_guitar",
        "jumping_jacks": "jump_rope",
        "pullup": "situp",
        "pushup": "situp",
        "squat": "bench_press",
        "tennis_serve": "tennis_forehand",
    }
)
"""The classes, and beside each the action that fills much of its background."""

BACKGROUND = (0.3, 0.3, 0.4)
"""Chances that a clip of background is a held pose, the own look-alike of a class of the video, any look-alike."""

FRAMES = 4  # annotated frames a snippet
FARTHEST = 6.0  # torso lengths; joints beyond are mistakes of the annotation and are clipped
POSITIONS = 26  # how many of a frame's features are positions; the others say which joints there are
MOTION_SCALE = 4.0  # brings changes of positions to the size of positions
STILL = 0.25  # what is left of the motion of a person who holds a pose
HELD = (4, 20)  # snippets that a pose is held, the end excluded
CLIPS = (1, 4)  # clips of background between instances, the end excluded

T = TypeVar("T")
_Clip = tuple[np.ndarray, np.ndarray]  # posture and motion of the snippets of a clip


def make_untrimmed_motion(
    labels: str | os.PathLike[str] | Sequence[PoseTrack],
    *,
    seed: int = 0,
    train_videos: int = 200,
    test_videos: int = 120,
    look_alikes: Mapping[str, str] = LOOK_ALIKES,
    background: tuple[float, float, float] = BACKGROUND,
    last_instance: float = 0.3,
    second_class: float = 0.15,
) -> Dataset:
    """Compose a world of untrimmed videos: the same options and seed give the same data.

    Args:
      labels: Penn Action's root or its folder `labels`, or the tracks that `read_penn_action` reads there.
      seed: of everything.
      train_videos: videos to learn from; at least one.
      test_videos: videos to evaluate on; at least one.
      look_alikes: the actions that are classes, and beside each the one that fills much of its background and is no
        class.
      background: chances of a held pose, of the own look-alike, of any look-alike; their sum is 1.
      last_instance: a video has 1 + n instances, n geometric with this parameter: two at least, 1 + 1 / last_instance
        on average; in (0, 1].
      second_class: chance that a video draws a second class, which may be the first again; in [0, 1].

    Returns:
      Streams "rgb" (posture, 156 values: four frames of 13 joints and which of them there are) and "flow" (motion, 104
      values), in torso lengths; a video has a snippet every 0.64 s.

    Raises:
      DataError: as `read_penn_action`; an action without a clip in one of the splits, or a clip shorter than a snippet.
      ValueError: options outside their range.

    Example:
      >>> import numpy as np
      >>> from casejax import data
      >>> draw = np.random.default_rng(0)
      >>> def clip(action, train):
      ...     poses, seen, box = draw.normal(size=(90, 13, 2)), np.ones((90, 13), bool), np.ones((90, 4))
      ...     return data.PoseTrack(action, action, train, "front", poses, seen, box, (64, 64))
      >>> tracks = [clip(action, train) for action in ("bowl", "strum_guitar") for train in (True, False)]
      >>> alike = {"bowl": "strum_guitar"}
      >>> world = data.make_untrimmed_motion(tracks, train_videos=2, test_videos=1, look_alikes=alike)
      >>> world.classes, world.train.features.streams[0].shape[1]
      (('bowl',), 156)
    """
    _check(train_videos, test_videos, look_alikes, background, last_instance, second_class)
    if isinstance(labels, str | os.PathLike):
        where, tracks = str(labels), read_penn_action(labels)
    else:
        where, tracks = "the tracks", tuple(labels)
    rng = np.random.default_rng(seed)
    splits: list[Split] = []
    for name, count in (("train", train_videos), ("test", test_videos)):
        own = [track for track in tracks if track.train == (name == "train")]
        clips = _clips_of(own, {*look_alikes, *look_alikes.values()}, f"{where}: {name} split")
        composer = _Composer(clips, dict(look_alikes), background, last_instance, second_class, rng)
        videos, streams = zip(*(composer.video(f"penn_{name}_{v:04d}", name) for v in range(count)), strict=True)
        packed = tuple(np.concatenate(arrays) for arrays in zip(*streams, strict=True))
        splits.append(Split(name, videos, Features.end_to_end(packed, [len(posture) for posture, _ in streams])))
    train, test = splits
    source = f"untrimmed motion of Penn Action, seed {seed}"
    return Dataset(source, tuple(sorted(look_alikes)), ("rgb", "flow"), train, test)


@dataclass(frozen=True)
class _Composer:
    """What the videos of a split are made of, and by which chances."""

    clips: dict[str, list[_Clip]]
    look_alikes: dict[str, str]
    background: tuple[float, float, float]
    last_instance: float
    second_class: float
    rng: np.random.Generator

    def video(self, name: str, subset: str) -> tuple[Video, _Clip]:
        """One video and its features."""
        classes = sorted(self.look_alikes)
        present = [self._one_of(classes)]
        if self.rng.random() < self.second_class:
            present.append(self._one_of(classes))
        parts: list[_Clip] = []
        labels, segments, length = [], [], 0
        for _ in range(1 + int(self.rng.geometric(self.last_instance))):
            parts += self._background(present)
            label = self._one_of(present)
            parts.append(self._one_of(self.clips[label]))
            length = sum(len(posture) for posture, _ in parts)
            labels.append(label)
            segments.append((length - len(parts[-1][0]), length))
        parts += self._background(present)
        seconds = np.round(np.asarray(segments) * SNIPPET_SECONDS, 2)
        posture, motion = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Video(name, subset, seconds, tuple(labels)), (posture, motion)

    def _background(self, present: Sequence[str]) -> list[_Clip]:
        """What is shown between two instances."""
        shown = []
        held, own, _ = np.cumsum(self.background)
        for _ in range(int(self.rng.integers(*CLIPS))):
            action, kind = self._one_of(present), self.rng.random()
            if kind < held:
                shown.append(self._held(action, int(self.rng.integers(*HELD))))
            elif kind < own:
                shown.append(self._one_of(self.clips[self.look_alikes[action]]))
            else:
                others = sorted(set(self.look_alikes.values()))
                shown.append(self._one_of(self.clips[self._one_of(others)]))
        return shown

    def _held(self, action: str, length: int) -> _Clip:
        """A person who holds the first or the last pose of an action: its two snippets, played to and fro."""
        posture, motion = self._one_of(self.clips[action])
        ends = slice(0, 2) if self.rng.integers(2) else slice(-2, None)
        index = np.resize([0, 1, 1, 0], length) % len(posture[ends])
        return posture[ends][index], motion[ends][index] * np.float32(STILL)

    def _one_of(self, things: Sequence[T]) -> T:
        return things[int(self.rng.integers(len(things)))]


def _clips_of(tracks: Iterable[PoseTrack], actions: set[str], where: str) -> dict[str, list[_Clip]]:
    """The clips of every action that is wanted, in the order of the tracks."""
    clips: dict[str, list[_Clip]] = {action: [] for action in actions}
    for track in tracks:
        if track.action not in actions:
            continue
        if len(track) < FRAMES:
            raise DataError(
                f"{where}: video {track.name} has {len(track)} frames, a snippet takes {FRAMES}; remove its file"
            )
        clips[track.action].append(_snippets(track))
    if missing := sorted(action for action, found in clips.items() if not found):
        raise DataError(
            f"{where}: holds no video of {', '.join(missing)}, of which untrimmed videos are composed; pass the labels "
            "of all of Penn Action"
        )
    return clips


def _snippets(track: PoseTrack) -> _Clip:
    """(n, 4 * 39) postures of four frames each, and (n, 4 * 26) the changes of their positions."""
    frames = np.clip(pose_features(track), -FARTHEST, FARTHEST)
    count = len(frames) // FRAMES
    changes = np.diff(frames[:, :POSITIONS], axis=0, prepend=frames[:1, :POSITIONS]) * np.float32(MOTION_SCALE)
    posture, motion = (values[: count * FRAMES].reshape(count, -1) for values in (frames, changes))
    return posture, motion


def _check(
    train_videos: int,
    test_videos: int,
    look_alikes: Mapping[str, str],
    background: Sequence[float],
    last_instance: float,
    second_class: float,
) -> None:
    if min(train_videos, test_videos) < 1:
        raise ValueError(f"need a video of each split, got train_videos {train_videos} and test_videos {test_videos}")
    if not look_alikes or set(look_alikes) & set(look_alikes.values()):
        raise ValueError(f"look_alikes must name a class, and none that is a look-alike too, got {dict(look_alikes)}")
    if len(background) != 3 or min(background) < 0 or abs(sum(background) - 1) > 1e-6:
        raise ValueError(f"background must be three chances whose sum is 1, got {background}")
    if not 0 < last_instance <= 1:
        raise ValueError(f"last_instance must lie in (0, 1], got {last_instance}")
    if not 0 <= second_class <= 1:
        raise ValueError(f"second_class must lie in [0, 1], got {second_class}")
