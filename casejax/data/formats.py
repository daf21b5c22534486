"""Read, check and write the folder layout in which snippet features are published.

    ROOT/gt.json                            {"database": {ID: {"subset", "annotations", "duration"?}}}
    ROOT/split_train.txt, split_test.txt    one video id a line
    ROOT/classes.txt                        optional: one class name a line, in the order wanted
    ROOT/features/SPLIT/STREAM/ID.npy       (snippets, dim), float16, float32 or float64

Every defect is a `DataError` raised here, before anything is trained on it. The header of every feature
file is checked before the first one is read in full. Pickles are never loaded.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from casejax.data.annotations import (
    check_id,
    first_three,
    raise_first,
    read_annotations,
    read_lines,
    read_split,
)
from casejax.data.records import SNIPPET_SECONDS, DataError, Dataset, Features, Split, Video

SPLITS = ("train", "test")
DURATION_MISMATCH = 0.2  # share of the stated duration by which the features may miss it unremarked


class DurationMismatchWarning(UserWarning):
    """Stated durations and feature lengths disagree, so predicted times may be wrong."""


def read_dataset(
    root: str | os.PathLike[str],
    *,
    streams: tuple[str, ...] = ("rgb", "flow"),
    snippet_seconds: float = SNIPPET_SECONDS,
) -> Dataset:
    """Read and check a whole data set.

    Args:
      root: folder in the layout described at the top of this module.
      streams: feature streams to read, in this order; one is enough.
      snippet_seconds: seconds one snippet covers.

    Returns:
      Both splits, features packed as float32. The classes are those of `classes.txt`, otherwise the sorted
      labels of the training videos.

    Raises:
      DataError: anything in the folder that cannot be used.
      ValueError: `streams` or `snippet_seconds` make no sense.

    Warns:
      DurationMismatchWarning: features cover more than 20 % more or less than a stated duration.
    """
    root = Path(root)
    if not (math.isfinite(snippet_seconds) and snippet_seconds > 0):
        raise ValueError(f"snippet_seconds must be positive and finite, got {snippet_seconds}")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; pass the one that holds gt.json, split files and features")
    ids = {split: read_split(root / f"split_{split}.txt") for split in SPLITS}
    _check_disjoint(ids, root)
    annotations = read_annotations(root / "gt.json")
    videos = {split: _annotated(root, split, ids[split], annotations) for split in SPLITS}
    classes = _classes(root, videos)
    surveys = _survey(root, ids, streams)  # both splits, before either is read
    train, test = (Split(split, videos[split], _load(surveys[split])) for split in SPLITS)
    _warn_of_durations((train, test), snippet_seconds)
    return Dataset(str(root), classes, streams, train, test, snippet_seconds)


def read_features(
    root: str | os.PathLike[str], split: str, videos: Sequence[str], streams: tuple[str, ...]
) -> Features:
    """Read the features of some videos of one split into packed float32 arrays.

    Args:
      root: folder in the layout described at the top of this module.
      split: folder below `features`, "train" or "test".
      videos: ids, in the order wanted.
      streams: feature streams, in the order wanted.

    Returns:
      One (snippets of all videos, dim) array a stream, and which rows each video has.

    Raises:
      DataError: no such split or stream, a file that cannot be used, or files that contradict each other.
      ValueError: `videos` or `streams` is empty, or a stream is named twice.
    """
    if not videos:
        raise ValueError("videos is empty; name at least one")
    return _load(_survey(Path(root), {split: videos}, streams)[split])


def load_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one feature file as a (snippets, dim) float32 array.

    Raises:
      DataError: not a complete `.npy` of finite floats with two axes and at least one snippet.
    """
    path = Path(path)
    out = np.empty(_read_header(path), np.float32)
    _fill(path, out)
    return out


def write_dataset(dataset: Dataset, root: str | os.PathLike[str]) -> None:
    """Write a data set in the layout that `read_dataset` reads; `root` must not exist yet.

    Everything goes into a folder beside `root` that is renamed at the end, so `root` is either complete
    or absent. Times are written as strings, as in the published file. `classes.txt` is written only if
    the training labels alone do not give the classes in their order.

    Raises:
      DataError: `root` exists, or the ids cannot be file names or are not unique.
    """
    root = Path(root).absolute()
    if root.exists():
        raise DataError(f"{root}: exists already; remove it or choose another folder")
    splits = {"train": dataset.train, "test": dataset.test}
    ids = {name: [video.id for video in split.videos] for name, split in splits.items()}
    for video, count in Counter(chain(*ids.values())).items():
        check_id(video, root)
        if count > 1:
            raise DataError(f"{root}: the data set has {count} videos named {video!r}; rename all but one")
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.with_name(f".{root.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        videos = [video for split in splits.values() for video in split.videos]
        document = {"database": {video.id: _entry(video) for video in videos}}
        (partial / "gt.json").write_text(json.dumps(document), encoding="utf-8")
        if list(dataset.classes) != _labels(dataset.train.videos):
            _write_lines(partial / "classes.txt", dataset.classes)
        for name, split in splits.items():
            _write_lines(partial / f"split_{name}.txt", ids[name])
            for stream, packed in zip(dataset.streams, split.features.streams, strict=True):
                folder = partial / "features" / name / stream
                folder.mkdir(parents=True)
                for v, video in enumerate(ids[name]):
                    np.save(folder / f"{video}.npy", packed[split.features.rows(v)], allow_pickle=False)
        os.rename(partial, root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _entry(video: Video) -> dict[str, Any]:
    annotations = [
        {"label": label, "segment": [repr(float(start)), repr(float(end))]}
        for label, (start, end) in zip(video.segment_labels, video.segments, strict=True)
    ]
    stated = {} if video.duration is None else {"duration": float(video.duration)}
    return {"subset": video.subset, **stated, "annotations": annotations}


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# What the files say of each other


def _check_disjoint(ids: Mapping[str, Sequence[str]], root: Path) -> None:
    train, test = (root / f"split_{split}.txt" for split in SPLITS)
    shared = sorted(set(ids["train"]) & set(ids["test"]))
    raise_first([f"{train} and {test} both list {video!r}; remove it from one of them" for video in shared])


def _annotated(root: Path, split: str, ids: Sequence[str], annotations: Mapping[str, Video]) -> tuple[Video, ...]:
    gt, listed = root / "gt.json", root / f"split_{split}.txt"
    absent = [video for video in ids if video not in annotations]
    if absent:
        raise DataError(f"{gt}: no entry for {first_three(absent)}; add it or take it out of {listed}")
    videos = tuple(annotations[video] for video in ids)
    if split == "train":
        blank = [video.id for video in videos if not video.labels]
        if blank:
            raise DataError(
                f"{gt}: no annotation, hence no label to learn from, for {first_three(blank)}; "
                f"annotate it or take it out of {listed}"
            )
    return videos


def _labels(videos: Iterable[Video]) -> list[str]:
    return sorted({label for video in videos for label in video.labels})


def _classes(root: Path, videos: Mapping[str, Sequence[Video]]) -> tuple[str, ...]:
    path = root / "classes.txt"
    listed = path.exists()
    classes = read_lines(path) if listed else _labels(videos["train"])
    if not classes:
        raise DataError(f"{path}: lists 0 classes; write one class name a line, or remove the file")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    raise_first([f"{path}: lists {name!r} more than once; keep one of the lines" for name in twice])
    reason = "which that file does not list" if listed else "which no training video has"
    raise_first(
        f"{root / 'gt.json'}: {split} video {video.id!r} has the label {label!r}, {reason}; "
        f"{'add it to' if listed else 'list all classes in'} {path} or fix the annotation"
        for split in SPLITS
        for video in videos[split]
        for label in video.labels
        if label not in classes
    )
    return tuple(classes)


def _warn_of_durations(splits: Iterable[Split], snippet_seconds: float) -> None:
    off = [
        video.id
        for split in splits
        for video, length in zip(split.videos, split.features.lengths, strict=True)
        if video.duration is not None
        and abs(length * snippet_seconds - video.duration) > DURATION_MISMATCH * video.duration
    ]
    if off:
        warnings.warn(
            f"features of {len(off)} videos miss the stated duration by more than {DURATION_MISMATCH:.0%} at "
            f"{snippet_seconds:g} s a snippet: {first_three(off)}; check snippet_seconds and the durations",
            DurationMismatchWarning,
            stacklevel=3,
        )


# Features


class _Survey(NamedTuple):
    """What the headers of one split say: `paths[stream][video]`, `dims[stream]`, lengths of the videos."""

    paths: list[list[Path]]
    dims: list[int]
    lengths: list[int]


def _survey(root: Path, splits: Mapping[str, Sequence[str]], streams: tuple[str, ...]) -> dict[str, _Survey]:
    """Check all that headers can tell, over all splits: dims have to agree across them."""
    if not streams or len(set(streams)) < len(streams):
        raise DataError(f"streams must name each stream once, and at least one, got {streams}")
    paths = {split: _feature_paths(root, split, ids, streams) for split, ids in splits.items()}
    files = [path for split in paths.values() for stream in split for path in stream]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise DataError(f"{first_three(missing)}: no such feature file; extract it or take the video out of its split")
    shapes: dict[Path, tuple[int, int]] = {}
    problems = []
    for path in files:
        try:
            shapes[path] = _read_header(path)
        except DataError as error:
            problems.append(str(error))
    raise_first(problems)
    dims = [
        _common_dim(stream, {path: shapes[path][1] for split in paths.values() for path in split[s]})
        for s, stream in enumerate(streams)
    ]
    surveys = {}
    for split, by_stream in paths.items():
        lengths = [[shapes[path][0] for path in stream] for stream in by_stream]
        for other in range(1, len(streams)):
            raise_first(
                f"{by_stream[0][v]} has {n} snippets, but {by_stream[other][v]} has {m}; crop the longer one "
                "or extract both again at the same rate"
                for v, (n, m) in enumerate(zip(lengths[0], lengths[other], strict=True))
                if n != m
            )
        surveys[split] = _Survey(by_stream, dims, lengths[0])
    return surveys


def _feature_paths(root: Path, split: str, ids: Sequence[str], streams: Sequence[str]) -> list[list[Path]]:
    folder = root / "features" / split
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder for split {split!r}; found: {_folders(folder.parent)}")
    for stream in streams:
        if not (folder / stream).is_dir():
            raise DataError(
                f"{folder / stream}: no such stream {stream!r}; ask for one that exists: {_folders(folder)}"
            )
    for video in ids:
        check_id(video, folder)
    return [[folder / stream / f"{video}.npy" for video in ids] for stream in streams]


def _folders(parent: Path) -> str:
    return ", ".join(sorted(p.name for p in parent.glob("*") if p.is_dir())) or "none"


def _read_header(path: Path) -> tuple[int, int]:
    """The (snippets, dim) a feature file promises, and has the bytes for."""
    again = "extract the features of this video again"
    try:
        with path.open("rb") as file:
            headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, _, dtype = headers[npy.read_magic(file)](file)
            present = os.fstat(file.fileno()).st_size - file.tell()
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error}); check that it exists") from error
    except Exception as error:  # a damaged header fails in NumPy in many ways
        raise DataError(f"{path}: not a .npy file ({error}); {again}") from error
    if dtype.hasobject:
        raise DataError(f"{path}: dtype {dtype} means a pickle, which is never loaded; save it as float32")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise DataError(f"{path}: dtype {dtype}, not float16, float32 or float64; save it as float32")
    if len(shape) != 2:
        raise DataError(f"{path}: shape {shape}, not (snippets, dim); reshape the array to two axes")
    if min(shape) < 1:
        raise DataError(f"{path}: shape {shape} holds no features; {again} or take it out of its split")
    promised = math.prod(shape) * dtype.itemsize
    if present != promised:
        raise DataError(f"{path}: {present} bytes of data where its header promises {promised}; {again}")
    return shape[0], shape[1]


def _common_dim(stream: str, dims: Mapping[Path, int]) -> int:
    (usual, votes), *_ = Counter(dims.values()).most_common(1)
    raise_first(
        f"{path}: dim {dim}, but {votes} of {len(dims)} {stream} files have dim {usual}; extract all with one model"
        for path, dim in dims.items()
        if dim != usual
    )
    return usual


def _load(survey: _Survey) -> Features:
    features = Features.end_to_end(
        tuple(np.empty((sum(survey.lengths), dim), np.float32) for dim in survey.dims), survey.lengths
    )
    for stream, paths in zip(features.streams, survey.paths, strict=True):
        for v, path in enumerate(paths):
            _fill(path, stream[features.rows(v)])
    return features


def _fill(path: Path, out: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows float32 is counted as infinite
        out[...] = np.load(path, allow_pickle=False)
    if not np.isfinite(out).all():
        nans, infinities = int(np.isnan(out).sum()), int(np.isinf(out).sum())
        raise DataError(
            f"{path}: {nans} NaN and {infinities} infinite values as float32, of {out.size}; "
            "extract the features of this video again"
        )
