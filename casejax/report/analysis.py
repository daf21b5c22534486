"""What a report shows of a test split, in one file beside the results: to read it needs no data set and no network."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from casejax.errors import DataError
from casejax.records import SegmentTable
from casejax.runtime.files import write_bytes
from casejax.runtime.npy import read_npz

NAME = "analysis.npz"
"""Of the file, in the folder of a run or of an evaluation."""

FORMAT = 1
"""Of its arrays."""


@dataclass(frozen=True)
class Analysis:
    """Videos of a test split with what is annotated, scored and found in them; times in seconds.

    V videos of C classes have N snippets in all. What a method does not have is None.

    Attributes:
      classes: names.
      streams: names of the feature streams.
      videos: names.
      duration: (V,) seconds.
      covered: (V, 2) from when to when the snippets of a video stand evenly.
      timed: (V,) bool, whether all instances of the video are annotated.
      truth: annotated instances.
      found: detections.
      snippets: (V,) of each video.
      heading: what the curves are.
      curve_names: of the curves.
      curves: (N, curves) float16.
      top_classes: (V, top) int16, the annotated and then the likeliest classes of each video.
      class_scores: (N, top) float16, what is localised of these classes.
      cluster_foreground: (S, K) Q^C of foreground.
      cluster_size: (A, K) share of the snippets assigned to each cluster by each of A assignments P^S: one for all
        streams, or one each.
      cluster_truth: (A, K, C + 1) share of the snippets that is assigned to each cluster and annotated with each class,
        the last none.
      points: (S, M, 2) unit embeddings of some snippets on their two principal axes, a plane a stream.
      point_labels: (M,) int16, a class annotated there; -1: none.
      prototypes: (S, K, 2) means of the embeddings of each cluster, on the same axes.
      explained: (S,) share of the variance in the two axes.
    """

    classes: np.ndarray
    streams: np.ndarray
    videos: np.ndarray
    duration: np.ndarray
    covered: np.ndarray
    timed: np.ndarray
    truth: SegmentTable
    found: SegmentTable
    snippets: np.ndarray | None = None
    heading: str | None = None
    curve_names: np.ndarray | None = None
    curves: np.ndarray | None = None
    top_classes: np.ndarray | None = None
    class_scores: np.ndarray | None = None
    cluster_foreground: np.ndarray | None = None
    cluster_size: np.ndarray | None = None
    cluster_truth: np.ndarray | None = None
    points: np.ndarray | None = None
    point_labels: np.ndarray | None = None
    prototypes: np.ndarray | None = None
    explained: np.ndarray | None = None

    def rows(self, video: int) -> slice:
        """The rows of `curves` and `class_scores` that are of one video."""
        if self.snippets is None:
            return slice(0)
        end = int(np.sum(self.snippets[: video + 1]))
        return slice(end - int(self.snippets[video]), end)


def write_analysis(path: Path, analysis: Analysis) -> None:
    """Write the file, whole or not at all; arrays of numbers and of text, no pickle."""
    arrays: dict[str, Any] = {"format": np.array(FORMAT)}
    for field in fields(Analysis):
        value = getattr(analysis, field.name)
        if isinstance(value, SegmentTable):
            arrays |= {f"{field.name}.{name}": column for name, column in value._asdict().items()}
        elif value is not None:
            arrays[field.name] = np.asarray(value)
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_bytes(path, packed.getvalue())


def read_analysis(path: Path) -> Analysis:
    """Read the file that `write_analysis` wrote.

    Raises:
      DataError: no such file, or one that cannot be read.
    """
    again = "evaluate again (casejax eval)"
    arrays = read_npz(path, remedy=again, missing="casejax eval RUN --data DIR writes it")
    stated = arrays.pop("format", np.array(0))
    version = int(stated) if stated.shape == () and stated.dtype.kind in "iu" else 0
    if version != FORMAT:
        raise DataError(f"{path}: has format {version}, this casejax reads {FORMAT}; {again}")
    values: dict[str, Any] = {}
    for name in ("truth", "found"):
        columns = [arrays.pop(f"{name}.{column}") for column in SegmentTable._fields if f"{name}.{column}" in arrays]
        values[name] = SegmentTable(*columns) if len(columns) == len(SegmentTable._fields) else None
    known = {field.name for field in fields(Analysis)}
    values |= {name: str(array) if name == "heading" else array for name, array in arrays.items() if name in known}
    missing = [field.name for field in fields(Analysis)[:8] if values.get(field.name) is None]
    if missing:
        raise DataError(f"{path}: has no {missing[0]}; {again}")
    return Analysis(**values)
