"""The nouns that travel between the rooms: videos, features, splits, data sets, segments, batches, scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from casejax.array_types import Array, Bool, Float, Int

T = TypeVar("T")

SNIPPET_SECONDS = 16 / 25
"""Seconds one snippet covers: 16 frames at 25 frames a second, the convention of public I3D features."""
THRESHOLDS = tuple(np.arange(0.1, 1, 0.1).tolist())
"""Activation thresholds of the published program of CASE."""


class SegmentTable(NamedTuple):
    """Segments of many videos as parallel arrays: ground truth, proposals or detections.

    Rows refer to videos and classes by index into lists that the caller keeps. Ground truth has
    `score` all ones.
    """

    video: np.ndarray  # (n,) int64, index of the video
    label: np.ndarray  # (n,) int64, index of the class
    segment: np.ndarray  # (n, 2) float64, [start, end) in seconds
    score: np.ndarray  # (n,) float64

    @classmethod
    def from_rows(cls, video: object, label: object, segment: object, score: object = None) -> SegmentTable:
        """Build a table from anything array-like; an absent `score` becomes ones."""
        label_array = np.asarray(label, np.int64).reshape(-1)
        count = len(label_array)
        return cls(
            np.asarray(video, np.int64).reshape(count),
            label_array,
            np.asarray(segment, np.float64).reshape(count, 2),
            np.ones(count) if score is None else np.asarray(score, np.float64).reshape(count),
        )

    def take(self, index: np.ndarray | Sequence[int]) -> SegmentTable:
        """The rows that `index` (integers or booleans) selects, in its order."""
        return SegmentTable(*(column[index] for column in self))


def _no_segments() -> np.ndarray:
    return np.empty((0, 2))


@dataclass(frozen=True)
class Video:
    """One video and what is said of it.

    Attributes:
      id: name of the video, also the stem of its feature files.
      subset: the annotation file's word for its part of the data set.
      segments: (n, 2) float64, start and end of every annotated instance, seconds.
      segment_labels: n class names, one an instance.
      duration: length in seconds where it is stated.
      frames: length in frames where it is stated.
      stated_labels: video-level labels, where they are stated apart from instances; None: those of the instances.
      timed: whether `segments` are all instances of the video; without, it may have others, or when they are is not
        known, and no detection in it can be judged.
      ambiguous: (m, 2) float64, intervals, seconds, in which predictions do not count by a protocol with an ambiguous
        filter.
    """

    id: str
    subset: str
    segments: np.ndarray = field(default_factory=_no_segments)
    segment_labels: tuple[str, ...] = ()
    duration: float | None = None
    frames: float | None = None
    stated_labels: tuple[str, ...] | None = None
    timed: bool = True
    ambiguous: np.ndarray = field(default_factory=_no_segments)

    @property
    def labels(self) -> tuple[str, ...]:
        """The video-level labels, sorted."""
        return tuple(sorted(set(self.segment_labels if self.stated_labels is None else self.stated_labels)))


@dataclass(frozen=True)
class Timing:
    """Which time of its video a row of features belongs to; frames are counted at `fps`.

    Row i is made from `frames` frames from frame first_frame + i * stride on, and stands for the `stride` frames in
    their middle.

    Attributes:
      frames: frames a row is made from.
      stride: frames from one row to the next.
      fps: frames a second.
      first_frame: where the first row begins.
      rescaled: the rows of every video divide its duration evenly, whatever it is; the others then say nothing.
    """

    frames: float = 16.0
    stride: float = 16.0
    fps: float = 25.0
    first_frame: float = 0.0
    rescaled: bool = False

    @classmethod
    def every(cls, seconds: float) -> Timing:
        """Rows that stand for so many seconds each, from the start of the video on."""
        return cls(seconds, seconds, 1.0)

    @property
    def seconds(self) -> float:
        """Seconds from one row to the next; of rescaled rows, it depends on the video (`Dataset.row_seconds`)."""
        return self.stride / self.fps

    @property
    def offset(self) -> float:
        """Seconds from the start of the video to that of what the first row stands for."""
        return 0.0 if self.rescaled else (self.first_frame + (self.frames - self.stride) / 2) / self.fps

    def same(self, other: Timing) -> bool:
        """Whether rows stand for the same times as by another."""
        if self.rescaled or other.rescaled:
            return self.rescaled == other.rescaled
        return math.isclose(self.seconds, other.seconds, rel_tol=1e-6) and math.isclose(
            self.offset, other.offset, abs_tol=1e-6
        )

    def describe(self) -> str:
        """It in words, for messages."""
        if self.rescaled:
            return "rows that divide the duration of each video"
        begin = f" from {self.offset:.4g} s on" if self.offset else ""
        return f"a row every {self.seconds:.4g} s{begin}"


@dataclass(frozen=True)
class Features:
    """Snippet features of the videos of a split.

    Attributes:
      streams: one array a stream, (snippets, dim of the stream), float32 or bfloat16; in memory or mapped
        from a file of `casejax.data.store`.
      starts: (videos,) int64, the first row of each video.
      lengths: (videos,) int64, the rows of each video; 0 for a video whose features were left to another
        process.
    """

    streams: tuple[np.ndarray, ...]
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def end_to_end(cls, streams: tuple[np.ndarray, ...], lengths: ArrayLike) -> Features:
        """Features of videos that stand one after the other in the rows."""
        lengths = np.asarray(lengths, np.int64)
        return cls(streams, np.cumsum(lengths) - lengths, lengths)

    def rows(self, video: int | np.integer) -> slice:
        """The rows of one video."""
        return slice(int(self.starts[video]), int(self.starts[video] + self.lengths[video]))

    def take(self, videos: np.ndarray) -> Features:
        """The features of some of the videos, in their order; rows are shared, not copied."""
        return Features(self.streams, self.starts[videos], self.lengths[videos])


@dataclass(frozen=True)
class Split:
    """The videos of one split with their features, in the same order.

    Attributes:
      name: "train" or "test".
      videos: ids and annotations.
      features: snippet features.
    """

    name: str
    videos: tuple[Video, ...]
    features: Features

    @property
    def ambiguous(self) -> SegmentTable:
        """The ambiguous intervals of all videos; `video` indexes `videos`, `label` says nothing."""
        counts = [len(video.ambiguous) for video in self.videos]
        segments = np.concatenate([_no_segments(), *(video.ambiguous for video in self.videos)])
        return SegmentTable.from_rows(np.repeat(np.arange(len(counts)), counts), np.zeros(len(segments)), segments)

    @property
    def timed(self) -> np.ndarray:
        """(videos,) bool, those in which detections can be judged, since all their instances are annotated."""
        return np.asarray([video.timed for video in self.videos], bool)

    def multi_hot(self, classes: Sequence[str]) -> np.ndarray:
        """Video-level labels as (videos, classes) float32 of zeros and ones."""
        index = {name: c for c, name in enumerate(classes)}
        out = np.zeros((len(self.videos), len(classes)), np.float32)
        for v, video in enumerate(self.videos):
            out[v, [index[name] for name in video.labels]] = 1
        return out

    def ground_truth(self, classes: Sequence[str]) -> SegmentTable:
        """Every annotated instance of the split, in the order of `videos`."""
        index = {name: c for c, name in enumerate(classes)}
        rows = [(v, index[name]) for v, video in enumerate(self.videos) for name in video.segment_labels]
        segments = [_no_segments(), *(video.segments for video in self.videos)]
        columns = np.asarray(rows, np.int64).reshape(-1, 2)
        return SegmentTable.from_rows(columns[:, 0], columns[:, 1], np.concatenate(segments))


@dataclass(frozen=True)
class Dataset:
    """A data set ready for training and evaluation.

    Attributes:
      source: where it came from, for messages and reports.
      classes: class names; a class is referred to by its index here.
      streams: stream names, such as ("rgb", "flow").
      train: split to learn from; only its video-level labels are used.
      test: split to evaluate on; it may have no video, and videos that nothing is known of.
      timing: which time a row of features belongs to.
      provenance: what made the features, as `features.json` beside them says; empty where nothing does.
    """

    source: str
    classes: tuple[str, ...]
    streams: tuple[str, ...]
    train: Split
    test: Split
    timing: Timing = Timing()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def snippet_seconds(self) -> float:
        """Seconds one snippet covers, where that is the same in all videos."""
        return self.timing.seconds

    def row_seconds(self, split: Split) -> np.ndarray:
        """(videos,) float64, seconds that one row of features stands for in each video of a split."""
        if not self.timing.rescaled:
            return np.full(len(split.videos), self.timing.seconds)
        durations = np.asarray([video.duration for video in split.videos], np.float64)
        return durations / np.maximum(split.features.lengths, 1)

    @property
    def dims(self) -> tuple[int, ...]:
        """Feature dimension of every stream."""
        return tuple(stream.shape[1] for stream in self.train.features.streams)


def videos_of_part(num_videos: int, part: int, parts: int) -> range:
    """The videos of one of several contiguous parts of a split, whose sizes differ by one at most.

    Where one number of parts divides another, each of the larger parts is a row of the smaller ones, whole: part 0 of
    2 is parts 0 and 1 of 4.

    Args:
      num_videos: videos of the split.
      part: which part, from 0.
      parts: how many there are.
    """
    first, last = (-(-num_videos * p // parts) for p in (part, part + 1))
    return range(first, last)


class Batch(NamedTuple):
    """What one training step sees: B videos of T snippets.

    Attributes:
      streams: (B, T, D_s) features, one array a stream; (R, D_s) where there are `rows`.
      labels: (B, C) float32, video-level labels, zeros and ones.
      rows: (B, T) which of the R rows stands at each place; None where every place has its own features.
      mask: (B, T) True for real snippets, which come first; None where all are real.
      videos: (B,) which videos these are.
      snippets: (B, T) which of their snippets.
    """

    streams: tuple[Float[Array, "*n _"], ...]
    labels: Float[Array, "b c"]
    rows: Int[Array, "b t"] | None = None
    mask: Bool[Array, "b t"] | None = None
    videos: Int[Array, " b"] | None = None
    snippets: Int[Array, "b t"] | None = None


class Proposals(NamedTuple):
    """Segments that a method proposes itself, K of each of B videos, the best first; those of score 0 are filled up.

    Attributes:
      segments: (B, K, 2) start and end, snippets.
      labels: (B, K) classes.
      scores: (B, K) by which they rank, in [0, 1].
    """

    segments: Float[Array, "b k 2"]
    labels: Int[Array, "b k"]
    scores: Float[Array, "b k"]


class SnippetScores(NamedTuple):
    """What a method says of B videos of T snippets.

    Attributes:
      fused: (B, T, C) in which stretches above a threshold are proposals; of CASE the calibrated T-CAS.
      video: (B, C) class probabilities of the video, which select its classes.
      ranked: (B, T, C) of which the contrast of inside and outside ranks a proposal; None: `fused`.
      attention: (B, T) P^A; None without attention.
      transformed: (B, T) P^T, the foreground probability through the clusters; None without clusters.
      foreground: (B, T) P^M, which `fused` is made with; P^A without clusters, None without attention.
      proposals: segments, of a method that proposes them itself; None for those whose scores are thresholded.
    """

    fused: Float[Array, "b t c"]
    video: Float[Array, "b c"]
    ranked: Float[Array, "b t c"] | None = None
    attention: Float[Array, "b t"] | None = None
    transformed: Float[Array, "b t"] | None = None
    foreground: Float[Array, "b t"] | None = None
    proposals: Proposals | None = None


def option(
    default: T,
    help: str = "",
    *,
    within: str = "",
    flag: bool = True,
    inference: bool = False,
    when: Callable[[Any], bool] | None = None,
) -> T:
    """A dataclass field that somebody can set.

    Args:
      default: its value unless set.
      help: the sentence that explains it.
      within: the interval that a number must lie in, such as "[0, 1)"; default any.
      flag: whether it is a flag of the command line.
      inference: whether it is one of inference, which a trained network can change.
      when: of the options of its class, whether this one has any effect; default always.
    """
    metadata = {"help": help, "within": within, "flag": flag, "inference": inference, "when": when}
    return field(default=default, metadata=metadata)


def _suppresses(options: Localization) -> bool:
    return _fuses(options) and options.fusion == "none"


def _fuses(options: Localization) -> bool:
    return options.proposals != "positive"


def _by_threshold(options: Localization) -> bool:
    return options.proposals == "thresholds"


@dataclass(frozen=True)
class Localization:
    """How scores become segments. The defaults are those of the published program of CASE."""

    test_num_snippets: int | None = option(
        None,
        "snippets T sampled in inference; default num_snippets",
        within="[1, inf)",
        when=lambda o: o.test_sampling == "resampled",
    )
    test_sampling: Literal["resampled", "whole"] = option(
        "resampled", "test videos are resampled to T snippets, or keep as many as they have"
    )
    smooth_width: int = option(
        1, "snippets over which a video's scores are smoothed before they are localised, odd; 1: not", within="[1, inf)"
    )
    smooth_degree: int = option(
        0,
        "degree of the polynomial that smooths: 0 a moving average, from 1 a Savitzky-Golay filter",
        within="[0, inf)",
        when=lambda o: o.smooth_width > 1,
    )
    proposals: Literal["thresholds", "positive", "regressed"] = option(
        "thresholds",
        "stretches above each threshold; those of positive scores, ranked by their greatest and the class's "
        "confidence, without suppression (A2CL-PT); or segments that the method itself regresses (student)",
    )
    class_threshold: float = option(
        0.25, "video score from which a class is localised; if none has it, the best is", within="[0, 1]"
    )
    thresholds: tuple[float, ...] = option(THRESHOLDS, "activation thresholds, comma-separated", when=_by_threshold)
    scale: int = option(
        24, "upsampling of the T-CAS before thresholds are applied", within="[1, inf)", when=_by_threshold
    )
    outer_ratio: float = option(
        0.15,
        "width of the outer margins of a proposal, as a share of its length",
        within="[0, inf)",
        when=_by_threshold,
    )
    outer_power: float = option(1.0, "power of the length in that width", within="[0, inf)", when=_by_threshold)
    score_weight: float = option(0.2, "weight of the video score in a proposal's score", when=_by_threshold)
    nms: Literal["decay_once", "soft", "hard"] = option("decay_once", "non-maximum suppression", when=_suppresses)
    nms_threshold: float = option(
        0.4,
        "tIoU from which a proposal is suppressed",
        within="(0, inf)",
        when=lambda o: _suppresses(o) and o.nms != "soft",
    )
    nms_decay: float = option(
        0.35,
        "scale of the decay exp(-tIoU^2 / decay) of suppressed scores",
        within="(0, inf)",
        when=lambda o: _suppresses(o) and o.nms != "hard",
    )
    nms_plus_one: bool = option(True, "add one unit to lengths in the tIoU of NMS, as published", when=_suppresses)
    nms_unit: Literal["seconds", "snippets"] = option("seconds", "that unit", when=_suppresses)
    min_snippets: int = option(1, "shorter proposals are dropped", within="[1, inf)")
    fusion: Literal["none", "gaussian", "uniform", "exponential", "student_t"] = option(
        "none", "replace overlapping proposals by one, with this template, instead of NMS", when=_fuses
    )
    extrapolate: bool = option(
        True,
        "continue the last slope beyond the last snippet, as published; off: hold it",
        flag=False,
        when=_by_threshold,
    )
    drop_lone_first: bool = option(
        True, "drop a threshold whose only active position is the first, as published", when=_by_threshold
    )


EXTENSIONS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".mpg", ".mpeg", ".npy", ".npz")
"""What names of videos and of their feature files end with."""


def bare_name(name: str) -> str:
    """The name without a known extension, whatever its case, and without a leading "v_".

    Example:
      >>> from casejax import evaluate
      >>> evaluate.bare_name("v_a.MP4")
      'a'
    """
    for extension in EXTENSIONS:
        if name.lower().endswith(extension):
            name = name[: -len(extension)]
            break
    return name.removeprefix("v_")


def match_names(names: Iterable[str], videos: Sequence[str]) -> dict[str, int]:
    """Which video each name means: that of the same name, else that of the same bare name where this is unique.

    A name that several videos could have, or that shares its video with another name, is left out.

    Args:
      names: as a file has them.
      videos: names of the videos.

    Returns:
      By the names that mean one of the videos, its index.

    Example:
      >>> from casejax import evaluate
      >>> evaluate.match_names(["v_a.mp4", "b", "c"], ["a", "b"])
      {'b': 1, 'v_a.mp4': 0}
    """
    index = {name: v for v, name in enumerate(videos)}
    names = list(dict.fromkeys(names))
    matched = {name: index[name] for name in names if name in index}
    taken = set(matched.values())
    rest = {name: bare_name(name) for name in names if name not in matched}
    theirs = Counter(rest.values())
    bare: dict[str, list[int]] = {}
    for v, name in enumerate(videos):
        bare.setdefault(bare_name(name), []).append(v)
    for name, short in rest.items():
        places = bare.get(short, [])
        if theirs[short] == len(places) == 1 and places[0] not in taken:
            matched[name] = places[0]
    return matched
