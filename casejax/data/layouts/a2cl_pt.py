"""Read, check and write the folder layout of A2CL-PT (Min and Corso, ECCV 2020).

    ROOT/feature_train.npy, feature_val.npy    a dictionary saved by `numpy.save`: {ID: (snippets, dim)}, the columns
                                               those of rgb, then those of flow
    ROOT/annotation.json                       {"database": {ID: {"subset": "train" or "val", "annotations",
                                               "duration"?}}, "list_classes", "miscellany", "set_ambiguous"?}

"val" is what is tested on. Videos are in the order of their ids. The pickles in the feature files are interpreted, not
executed (`data.pickles`). Every defect is a `DataError`; all but values that are not finite are found before
the features are copied into memory.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from casejax.data.layouts.annotations import first_three, parse_instance, parse_seconds, raise_first, read_json
from casejax.data.layouts.feature_files import MEMORY_SHARE
from casejax.data.pickles.numpy_files import read_object_array
from casejax.errors import DataError
from casejax.records import Dataset, Features, SegmentTable, Split, Video
from casejax.runtime.files import whole_folder

SUBSETS = {"train": "train", "test": "val"}
"""The split for each subset of the annotation file."""

FPS = 25.0  # of the published features


class A2CLPTData(NamedTuple):
    """A data set with what A2CL-PT's evaluation leaves out.

    Attributes:
      dataset: both splits.
      ambiguous: intervals of the test videos in which predictions do not count, seconds; `video` indexes the test
        videos, `label` is 0 and says nothing.
    """

    dataset: Dataset
    ambiguous: SegmentTable


def read_a2cl_pt(root: str | os.PathLike[str], *, streams: tuple[str, ...] = ("rgb", "flow")) -> A2CLPTData:
    """Read and check a data set in this layout, as the published program understands it.

    A test video without annotations is left out, whether it has features or not. An annotation of a training video
    needs no segment, it then stands for the whole video. An instance may pass the stated duration of its video; in
    the published file some do.

    Args:
      root: folder in the layout described at the top of this module.
      streams: names of the streams, among which the columns are divided evenly.

    Returns:
      Both splits, float32 features end to end, the classes in the order of the file, and the ambiguous intervals.

    Raises:
      DataError: anything in the folder that cannot be used.
    """
    root = Path(root)
    if not streams or len(set(streams)) < len(streams):
        raise DataError(f"streams must name each stream once, and at least one, got {streams}")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; pass the one that holds annotation.json and the features")
    path = root / "annotation.json"
    document = _object(read_json(path), f"{path}: no object")
    classes, snippet_seconds = _classes(document, path), _snippet_seconds(document, path)
    database = _object(document.get("database"), f'{path}: no "database"')
    subsets = _subsets(database, path)
    arrays = {split: _feature_arrays(root, split) for split in SUBSETS}
    for split in SUBSETS:
        _check_subsets(root, split, database, subsets, arrays[split])
    kept = {split: _kept(root, split, database, subsets, arrays[split]) for split in SUBSETS}
    dim = _common_dim(root, arrays, kept, streams)
    _check_memory(root, dim * sum(len(arrays[split][video]) for split, ids in kept.items() for video in ids))
    videos: dict[str, list[Video]] = {split: [] for split in SUBSETS}
    problems = []
    for split, ids in kept.items():
        for video in ids:
            extent = len(arrays[split][video]) * snippet_seconds
            try:
                where = f"{path}: video {video!r}"
                videos[split].append(_parse_video(video, database[video], classes, extent, split == "train", where))
            except DataError as error:
                problems.append(str(error))
    raise_first(problems)
    ambiguous = _ambiguous(document.get("set_ambiguous", {}), database, kept["test"], path)
    train, test = (
        Split(split, tuple(videos[split]), _features(_path(root, split), arrays[split], kept[split], dim, len(streams)))
        for split in SUBSETS
    )
    return A2CLPTData(Dataset(str(root), classes, streams, train, test, snippet_seconds), ambiguous)


def write_a2cl_pt(data: A2CLPTData, root: str | os.PathLike[str]) -> None:
    """Write a data set in the layout that `read_a2cl_pt` reads; `root` must not exist yet.

    Everything goes into a folder beside `root` that is renamed at the end, so `root` is either complete or absent.
    Features are stored as float32.

    Raises:
      DataError: `root` exists, ids are not unique, or a video has no features.
    """
    root, dataset = Path(root), data.dataset
    splits = {"train": dataset.train, "test": dataset.test}
    ids = Counter(video.id for split in splits.values() for video in split.videos)
    raise_first(
        f"{root}: the data set has {count} videos named {video!r}; rename all but one"
        for video, count in ids.items()
        if count > 1
    )
    raise_first(
        f"{root}: {name} video {video.id!r} has no features here; read the data set whole"
        for name, split in splits.items()
        for video, length in zip(split.videos, split.features.lengths, strict=True)
        if not length
    )
    with whole_folder(root) as partial:
        (partial / "annotation.json").write_text(json.dumps(_document(data)), encoding="utf-8")
        for name, split in splits.items():
            rows = {video.id: split.features.rows(v) for v, video in enumerate(split.videos)}
            arrays = {
                video: np.concatenate([stream[where] for stream in split.features.streams], axis=1, dtype=np.float32)
                for video, where in rows.items()
            }
            np.save(_path(partial, name), np.array(arrays, object), allow_pickle=True)


def _path(root: Path, split: str) -> Path:
    return root / f"feature_{SUBSETS[split]}.npy"


# The annotation file


def _object(value: Any, problem: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{problem}; take the annotation file of A2CL-PT, or write one like it")
    return value


def _classes(document: dict[str, Any], path: Path) -> tuple[str, ...]:
    listed = document.get("list_classes")
    if not isinstance(listed, list) or not listed or not all(isinstance(n, str) and n.strip() for n in listed):
        raise DataError(f'{path}: "list_classes" is no list of class names; write all classes there')
    twice = [name for name, count in Counter(listed).items() if count > 1]
    raise_first(f'{path}: "list_classes" has {name!r} more than once; keep one' for name in twice)
    return tuple(listed)


def _snippet_seconds(document: dict[str, Any], path: Path) -> float:
    said = _object(document.get("miscellany"), f'{path}: no "miscellany"')
    frames, rate = (parse_seconds(said.get(key), f"{path}: {key}") for key in ("len_feature_chunk", "fps_extracted"))
    if not (frames > 0 and rate > 0):
        raise DataError(f"{path}: {frames:g} frames a snippet at {rate:g} a second; write those of the extraction")
    return frames / rate


def _subsets(database: Mapping[str, Any], path: Path) -> dict[str, str]:
    """The split of every video."""
    split_of = {subset: split for split, subset in SUBSETS.items()}
    found, problems = {}, []
    for video, entry in database.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("annotations"), list):
            problems.append(f'{path}: video {video!r}: no "annotations" list; add one, empty where nothing happens')
        elif not isinstance(subset := entry.get("subset"), str) or subset not in split_of:
            problems.append(f"{path}: video {video!r}: subset {subset!r} is unknown; write one of {list(split_of)}")
        else:
            found[video] = split_of[subset]
    raise_first(problems)
    return found


def _parse_video(
    video: str, entry: dict[str, Any], classes: Sequence[str], extent: float, whole: bool, where: str
) -> Video:
    """One entry; where `whole`, an annotation without a segment is of the whole video: its duration, or `extent`."""
    duration = None if entry.get("duration") is None else parse_seconds(entry["duration"], f"{where}, duration")
    if duration is not None and duration <= 0:
        raise DataError(f"{where}: duration {duration} s is not positive; fix it or drop the duration")
    rows = []
    for number, instance in enumerate(entry["annotations"]):
        if whole and isinstance(instance, dict) and "segment" not in instance:
            instance = {**instance, "segment": [0.0, duration or extent]}
        row = parse_instance(instance, None, f"{where}, annotation {number} (counted from 0)")
        if row[0] not in classes:
            raise DataError(f'{where}: label {row[0]!r} is not in "list_classes"; add it there or fix the annotation')
        rows.append(row)
    segments = np.asarray([segment for _, segment in rows], np.float64).reshape(-1, 2)
    return Video(video, entry["subset"], segments, tuple(label for label, _ in rows), duration)


def _ambiguous(listed: Any, database: Mapping[str, Any], test: Sequence[str], path: Path) -> SegmentTable:
    problem = f'{path}: "set_ambiguous" is no object'
    index = {video: v for v, video in enumerate(test)}
    rows = []
    for video, intervals in _object(listed, problem).items():
        where = f'{path}: "set_ambiguous", video {video!r}'
        if video not in database:
            raise DataError(f'{where}: not in the "database"; add it there or remove its intervals')
        if not isinstance(intervals, list):
            raise DataError(f"{where}: no list of intervals; write [[start, end], ...] in seconds")
        for interval in intervals:
            _, segment = parse_instance({"label": "ambiguous", "segment": interval}, None, where)
            if video in index:  # of the videos that are left out, the published file has intervals too
                rows.append((index[video], segment))
    rows.sort(key=lambda row: row[0])
    return SegmentTable.from_rows([v for v, _ in rows], [0] * len(rows), [segment for _, segment in rows])


def _document(data: A2CLPTData) -> dict[str, Any]:
    """What `annotation.json` says of a data set."""
    dataset = data.dataset
    seconds = dataset.snippet_seconds
    frames, rate = float(round(seconds * FPS)), FPS
    if frames / rate != seconds:
        frames, rate = seconds, 1.0
    database = {}
    for subset, split in (("train", dataset.train), ("val", dataset.test)):
        for video in split.videos:
            annotations = [
                {"label": label, "segment": segment}
                for label, segment in zip(video.segment_labels, video.segments.tolist(), strict=True)
            ]
            stated = {} if video.duration is None else {"duration": float(video.duration)}
            database[video.id] = {"annotations": annotations, **stated, "subset": subset}
    ambiguous: dict[str, list[list[float]]] = {}
    for v, segment in zip(data.ambiguous.video.tolist(), data.ambiguous.segment.tolist(), strict=True):
        ambiguous.setdefault(dataset.test.videos[v].id, []).append(segment)
    return {
        "database": database,
        "list_classes": list(dataset.classes),
        "miscellany": {"fps_extracted": rate, "len_feature_chunk": frames},
        "set_ambiguous": ambiguous,
    }


# Features


def _feature_arrays(root: Path, split: str) -> dict[str, np.ndarray]:
    """The array of every video in a feature file, mapped and not yet read."""
    path = _path(root, split)
    found = read_object_array(path)
    arrays = found[()] if found.shape == () else None
    if not isinstance(arrays, dict) or not arrays:
        raise DataError(f"{path}: holds no dictionary of features; save {{ID: (snippets, dim) array}} with numpy.save")
    raise_first(problem for video, array in arrays.items() if (problem := _defect(video, array, path)))
    return arrays


def _defect(video: Any, array: Any, path: Path) -> str | None:
    where, again = f"{path}: video {video!r}", "extract the features of this video again"
    if not isinstance(video, str):
        return f"{where}: its id is no string; save it under its name"
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return f"{where}: {getattr(array, 'dtype', type(array).__name__)}, not an array of floats; {again}"
    if array.ndim != 2 or min(array.shape) < 1:
        return f"{where}: shape {array.shape}, not (snippets, dim) with at least one snippet; {again}"
    return None


def _check_subsets(
    root: Path, split: str, database: Mapping[str, Any], subsets: Mapping[str, str], arrays: Mapping[str, Any]
) -> None:
    """Refuse features of videos that are no part of their split."""
    path, annotation = _path(root, split), root / "annotation.json"
    unknown = sorted(set(arrays) - set(subsets))
    if unknown:
        raise DataError(f"{path}: features of {first_three(unknown)}, which {annotation} lacks; add or remove them")
    raise_first(
        f"{path}: features of {video!r}, whose subset in {annotation} is {database[video]['subset']!r}; "
        f"put them into {_path(root, subsets[video])} or fix the subset"
        for video in sorted(arrays)
        if subsets[video] != split
    )


def _kept(
    root: Path, split: str, database: Mapping[str, Any], subsets: Mapping[str, str], arrays: Mapping[str, Any]
) -> list[str]:
    """The annotated videos of a split, sorted; all of them must have features."""
    path, annotation = _path(root, split), root / "annotation.json"
    annotated = sorted(video for video, of in subsets.items() if of == split and database[video]["annotations"])
    if not annotated:
        raise DataError(f"{annotation}: annotates no video of subset {SUBSETS[split]!r}; annotate some")
    missing = [video for video in annotated if video not in arrays]
    if missing:
        raise DataError(
            f"{path}: no features of {first_three(missing)}, annotated in {annotation}; add them or remove the entry"
        )
    blank = sorted(set(arrays) - set(annotated))
    if split == "train" and blank:
        raise DataError(
            f"{annotation}: no annotation, hence no label to learn from, for {first_three(blank)}; "
            f"annotate it or take it out of {path}"
        )
    return annotated


def _common_dim(
    root: Path,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    kept: Mapping[str, Sequence[str]],
    streams: Sequence[str],
) -> int:
    dims = {(split, video): arrays[split][video].shape[1] for split, ids in kept.items() for video in ids}
    (usual, votes), *_ = Counter(dims.values()).most_common(1)
    raise_first(
        f"{_path(root, split)}: video {video!r} has dim {dim}, but {votes} of {len(dims)} videos have dim {usual}; "
        "extract all with one model"
        for (split, video), dim in dims.items()
        if dim != usual
    )
    if usual % len(streams):
        raise DataError(f"{root}: dim {usual} does not divide among the streams {streams}; name all streams it has")
    return usual


def _check_memory(root: Path, values: int) -> None:
    if not hasattr(os, "sysconf"):
        return
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * values > MEMORY_SHARE * present:
        raise DataError(
            f"{root}: its features take {4 * values / 1e9:.1f} GB as float32, this machine has {present / 1e9:.1f} GB "
            "of memory; use a machine with more, or write them in the published layout and pack them"
        )


def _features(path: Path, arrays: Mapping[str, np.ndarray], ids: Sequence[str], dim: int, streams: int) -> Features:
    """The features of some videos as float32, columns divided among the streams."""
    lengths = [len(arrays[video]) for video in ids]
    width = dim // streams
    features = Features.end_to_end(tuple(np.empty((sum(lengths), width), np.float32) for _ in range(streams)), lengths)
    problems = []
    for v, video in enumerate(ids):
        bad = 0
        for s, stream in enumerate(features.streams):
            rows = stream[features.rows(v)]
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows float32 is counted as infinite
                rows[...] = arrays[video][:, s * width : (s + 1) * width]
            bad += rows.size - int(np.isfinite(rows).sum())
        if bad:
            problems.append(
                f"{path}: video {video!r} has {bad} values that are NaN or infinite as float32, of "
                f"{arrays[video].size}; extract the features of this video again"
            )
    raise_first(problems)
    return features
