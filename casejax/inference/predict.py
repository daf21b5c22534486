"""A trained network on any videos, one at a time: features in, segments out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from casejax.data.layouts.checks import fill
from casejax.data.layouts.consistency import warn_of_times
from casejax.data.layouts.timing import timing_of
from casejax.errors import DataError, OptionError
from casejax.inference.evaluate import localize_split
from casejax.inference.hub import network_folder
from casejax.inference.predictions import Prediction, Segment
from casejax.inference.scoring import make_scorer, score_videos, score_whole_videos
from casejax.records import Dataset, Features, Split, Timing, Video
from casejax.run.config import Config
from casejax.run.folder import Restored, restore_run

SHORTEST, GROWTH = 512, 6
"""Whole videos are padded to 512, 3,072, 18,432 or 110,592 snippets, so that four compilations serve 100,000; longer
ones to six times as many, with one more."""


@dataclass(frozen=True)
class Localizer:
    """A trained network that finds segments in features of any videos.

    It computes one video at a time: on a CPU larger batches are no faster, and what it says of one video does not
    depend on others. Resampled inference compiles at most
    twice, for short videos and for others; inference on whole videos once for each size that they are padded to.

    Attributes:
      restored: the network, its options and what it was saved with.
    """

    restored: Restored

    def __post_init__(self) -> None:
        if self.config.flat().get("test_cluster_labels") == "train":
            raise OptionError(
                "test_cluster_labels train needs the training videos, which a prediction does not have; pass "
                "--test-cluster-labels last, or test_cluster_labels='last'"
            )

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **options: Any) -> Localizer:
        """The selected network of a run where a step was selected, else that of the last step.

        Args:
          folder: of a run, of a converted network or of an exported one; or OWNER/NAME of one on the Hugging Face hub,
            where `huggingface_hub` is installed.
          **options: of inference to change, by name, such as `class_threshold=0.1`.

        Raises:
          CheckpointError: no network in the folder, or one that cannot be read.
          OptionError: an option that does not exist, is not one of inference, or a value that cannot be used.
        """
        restored = restore_run(network_folder(os.fspath(folder)))
        config = restored.config.changed(**options)
        fixed = [each.name for each in config.options() if each.name in options and not each.of_inference]
        if fixed:
            own = ", ".join(each.name for each in config.options() if each.of_inference)
            raise OptionError(f"{fixed[0]} is decided by training; the options of inference are {own}")
        config.check()
        return cls(restored._replace(config=config))

    @property
    def config(self) -> Config:
        """The options of the run, those of inference as changed."""
        return self.restored.config

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that it finds."""
        return tuple(self.restored.meta["data"]["classes"])

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the feature streams that it reads."""
        return tuple(self.restored.meta["data"]["streams"])

    @property
    def dims(self) -> tuple[int, ...]:
        """Feature dimension of every stream."""
        return tuple(self.restored.meta["data"]["dims"])

    @property
    def timing(self) -> Timing:
        """Which time a row of features belongs to."""
        return self.restored.timing

    def __call__(
        self,
        features: Any,
        *,
        snippet_seconds: float | None = None,
        timing: Timing | None = None,
        duration: float | None = None,
        video: str = "video",
    ) -> Prediction:
        """Find the segments of one video.

        Args:
          features: (T, D) numbers that NumPy can read, D the dimension of all streams together, whose columns stand in
            the order of `streams`; or a tuple of (T, D_s) in that order; or a mapping of them by name.
          snippet_seconds: seconds from one row to the next, from the start of the video on; default as in training.
          timing: the same, with all that can be known of it.
          duration: of the video, seconds; needed where rows are rescaled, else it bounds the segments.
          video: its name.

        Raises:
          DataError: features of other streams or dimensions, without a row, or with values that are not finite; a
            duration that is missing or not positive.
          CheckpointError: rows stand for other times than those of training.
          OptionError: seconds that are not positive, or stated beside a timing.

        Warns:
          DataWarning: rows and duration that do not fit each other.
        """
        if timing is not None and snippet_seconds is not None:
            raise OptionError(f"state snippet_seconds or timing, not both; got {snippet_seconds} and {timing}")
        given = timing or timing_of(snippet_seconds=snippet_seconds)
        if given is not None:
            self.restored.check_timing(given, "this video")
        if duration is not None and not (math.isfinite(duration) and duration > 0):
            raise DataError(
                f"{video}: duration {duration} is no positive number of seconds; leave it out or correct it"
            )
        if duration is None and self.timing.rescaled:
            raise DataError(f"{video}: its rows divide the duration, which is not stated; state it in seconds")
        streams = self._streams(features, video)
        dataset = self._dataset([Video(video, "test", duration=duration)], streams, [len(streams[0])])
        warn_of_times(dataset)
        return self._predict(dataset)

    def check_times(self, lengths: Mapping[str, int], durations: Mapping[str, float]) -> None:
        """Say, before any work, what does not fit in many videos, once a kind; a call says it of its own video.

        Args:
          lengths: rows of each video, by its name.
          durations: of those of them whose duration is stated, seconds.

        Warns:
          DataWarning: rows and durations that do not fit each other; rows of equal number, as if they were rescaled.
        """
        videos = [Video(video, "test", duration=durations.get(video)) for video in lengths]
        none = tuple(np.empty((0, dim), np.float32) for dim in self.dims)
        warn_of_times(self._dataset(videos, none, list(lengths.values())))

    def _streams(self, features: Any, video: str) -> tuple[np.ndarray, ...]:
        """The features of one video, (T, D_s) float32 a stream."""
        if isinstance(features, Mapping):
            if set(features) != set(self.streams):
                raise DataError(
                    f"{video}: streams {', '.join(map(str, features)) or 'none'}, the network reads "
                    f"{', '.join(self.streams)}; give an array for each of these"
                )
            features = tuple(features[stream] for stream in self.streams)
        wants = " and ".join(f"{dim} of {stream}" for stream, dim in zip(self.streams, self.dims, strict=True))
        given = features if isinstance(features, tuple) else (features,)
        arrays = [_array(each, video) for each in given]
        if len(arrays) == 1 and len(self.dims) > 1 and arrays[0].shape[1] == sum(self.dims):
            arrays = np.split(arrays[0], np.cumsum(self.dims)[:-1], axis=1)
        shapes = [each.shape for each in arrays]
        if [dim for _, dim in shapes] != list(self.dims):
            raise DataError(
                f"{video}: features of shape {', '.join(map(str, shapes))}, the network reads columns {wants}; give "
                "features of the model that training had, (snippets, dim)"
            )
        if len({length for length, _ in shapes}) > 1:
            raise DataError(
                f"{video}: {' and '.join(str(length) for length, _ in shapes)} snippets of {', '.join(self.streams)}; "
                "crop the longer one, or extract both again at the same rate"
            )
        out = []
        for stream, values in zip(self.streams, arrays, strict=True):
            out.append(np.empty(values.shape, np.float32))
            fill(out[-1], values, f"{video}: stream {stream}")
        return tuple(out)

    def _dataset(self, videos: Sequence[Video], streams: tuple[np.ndarray, ...], lengths: Sequence[int]) -> Dataset:
        """Videos as the test split of a data set without training videos."""
        none = Features.end_to_end(tuple(stream[:0] for stream in streams), [])
        test = Split("test", tuple(videos), Features.end_to_end(streams, lengths))
        return Dataset("prediction", self.classes, self.streams, Split("train", (), none), test, self.timing)

    def _predict(self, dataset: Dataset) -> Prediction:
        graphdef, state, config = self.restored.graphdef, self.restored.state, self.config
        options, features, (video,) = config.localization, dataset.test.features, dataset.test.videos
        scorer = partial(make_scorer(graphdef, config), state.params, state.cluster_labels)
        if options.test_sampling == "whole":
            scores = score_whole_videos(scorer, features, batch_size=1, shortest=SHORTEST, growth=GROWTH)
        else:
            num_snippets = options.test_num_snippets or config.schedule.num_snippets
            scores = score_videos(
                scorer, features, num_snippets=num_snippets, batch_size=1, compact=config.may_be_compact
            )
        offset = dataset.timing.offset
        covered = float(features.lengths[0] * dataset.row_seconds(dataset.test)[0])
        duration = covered + offset if video.duration is None else video.duration
        found = localize_split(scores, dataset, options)
        best = found.take(np.argsort(-found.score, kind="stable"))
        times = np.clip(best.segment, 0, duration)
        segments = zip(best.label.tolist(), times.tolist(), best.score.tolist(), strict=True)
        edges = offset + np.linspace(0, covered, scores.fused.shape[1] + 1)
        return Prediction(
            video.id,
            duration,
            tuple(Segment(self.classes[c], start, end, score) for c, (start, end), score in segments if start < end),
            dict(zip(self.classes, scores.video[0].tolist(), strict=True)),
            scores,
            np.stack([edges[:-1], edges[1:]], axis=1),
        )


def _array(values: Any, video: str) -> np.ndarray:
    """A (T, D) array of numbers from what NumPy can read."""
    try:
        array = np.asarray(values)
        # bfloat16 is no number to NumPy
        array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    except ValueError as error:
        raise DataError(f"{video}: features are no array ({error}); give rows of one length") from error
    if array.dtype.kind not in "fiu":
        raise DataError(f"{video}: features of dtype {array.dtype}; give numbers, such as float32")
    if array.ndim != 2 or array.shape[0] < 1:
        raise DataError(f"{video}: features of shape {array.shape}; give (snippets, dim) with at least one snippet")
    return array
